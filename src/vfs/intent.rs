//! Giving back the modes that an interrupted mount had changed for the moment (FORMAT 8.6).

use super::Result;
use super::fs::Vfs;
use super::modes::{Held, LIST, intents};
use crate::format::name::CONTROL_ENTRY;
use crate::store::{Backing, FileKind, Target};
use crate::sync::Arc;

/// A walk over the backing tree for the objects with an intent.
struct Search<B: Backing> {
    /// Inode number and mode.
    pending: Vec<(u64, u32)>,
    /// Directories that wait are named below their parents: only those on the way down are open.
    waiting: Vec<(Arc<B::Dir>, String)>,
    /// Directories among the objects: their modes would stand in the way of the walk.
    directories: Vec<(Arc<B::Dir>, u32)>,
}

impl<B: Backing> Vfs<B> {
    /// Gives every file and directory with an intent its mode back: a mount that was killed between the two changes left it
    /// open for its owner. Walks over the tree only if there is an intent.
    ///
    /// # Errors
    /// The backing's error.
    pub fn recover_intents(&self) -> Result<()> {
        let Some(intents) = intents(&*self.backing, false)? else { return Ok(()) };
        let mut pending = Vec::new();
        self.each_entry(&intents, |raw| {
            if let Some(intent) = std::str::from_utf8(&raw.name).ok().and_then(parse) {
                pending.push(intent);
            }
            Ok(true)
        })?;
        if pending.is_empty() {
            return Ok(());
        }
        tracing::info!(count = pending.len(), "giving files back the modes that an interrupted mount changed");
        let mut search = Search { pending, waiting: Vec::new(), directories: Vec::new() };
        let mut complete = true;
        let mut searched = self.restore_modes(Arc::new(self.backing.root()?), true, &mut search);
        loop {
            if let Err(error) = searched {
                tracing::warn!("a directory cannot be searched for files whose mode has to be given back: {error}");
                complete = false;
            }
            let Some((parent, name)) = search.waiting.pop() else { break };
            let dir = self.backing.open_dir(&parent, &name).map(Arc::new).map_err(Into::into);
            searched = dir.and_then(|dir| self.restore_modes(dir, false, &mut search));
        }
        for (dir, mode) in search.directories {
            self.backing.set_mode(Target::Dir(&*dir), mode)?;
        }
        if complete {
            for (ino, mode) in search.pending {
                self.backing.unlink(&intents, &format!("{ino}.{mode:o}"))?;
            }
        }
        Ok(())
    }

    fn restore_modes(&self, dir: Arc<B::Dir>, is_root: bool, search: &mut Search<B>) -> Result<()> {
        // One that was never opened for its owner can be above one that was.
        let _wide = self.modes.widen(Held::Dir(Arc::clone(&dir)), LIST, None)?;
        self.each_entry(&dir, |raw| {
            let Ok(name) = std::str::from_utf8(&raw.name) else { return Ok(true) };
            if is_root && name == CONTROL_ENTRY {
                return Ok(true);
            }
            let stat = self.backing.stat(Target::Named(&*dir, name))?;
            let intent = search.pending.iter().find(|(ino, _)| *ino == stat.ino).map(|(_, mode)| *mode);
            match (stat.kind, intent) {
                (FileKind::Directory, intent) => {
                    if let Some(mode) = intent {
                        search.directories.push((Arc::new(self.backing.open_dir(&dir, name)?), mode));
                    }
                    search.waiting.push((Arc::clone(&dir), name.to_owned()));
                }
                (_, Some(mode)) => self.backing.set_mode(Target::Named(&*dir, name), mode)?,
                (_, None) => {}
            }
            Ok(true)
        })
    }
}

fn parse(name: &str) -> Option<(u64, u32)> {
    let (ino, mode) = name.split_once('.')?;
    Some((ino.parse().ok()?, u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777)?))
}
