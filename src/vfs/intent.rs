//! Files that their own, unprivileged daemon may not open because of their mode (FORMAT 8.6): the mode is changed for
//! the moment, and an entry under `.kmsfs/intent` tells the next mount what it was, should this one not come back.

use rustix::io::Errno;

use super::Result;
use super::fs::Vfs;
use crate::format::name::CONTROL_ENTRY;
use crate::store::{Access, Backing, FileKind, Target};
use crate::sync::Arc;

const INTENT: &str = "intent";
const OWNER_RW: u32 = 0o600;

impl<B: Backing> Vfs<B> {
    /// Opens a backing file by its entry, whatever its mode, if this process owns it.
    pub(super) fn open_entry(&self, dir: &B::Dir, entry: &str, access: Access) -> Result<B::File> {
        match self.backing.open(dir, entry, access) {
            Err(Errno::ACCESS) if !self.options.privileged && !self.options.read_only => {
                self.open_despite_mode(dir, entry, access)
            }
            other => Ok(other?),
        }
    }

    fn open_despite_mode(&self, dir: &B::Dir, entry: &str, access: Access) -> Result<B::File> {
        let stat = self.backing.stat(Target::Named(dir, entry))?;
        if stat.kind != FileKind::Regular || !self.is_owner(Target::Named(dir, entry))? {
            return Err(Errno::ACCESS.into());
        }
        let intents = self.intents()?;
        let intent = format!("{}.{:o}", stat.ino, stat.mode);
        match self.backing.create(&intents, &intent, OWNER_RW) {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(other) => return Err(other.into()),
        }
        if !self.backing.ordered_metadata() {
            self.backing.sync_dir(&intents)?;
        }
        let widened = self.backing.set_mode(Target::Named(dir, entry), stat.mode | OWNER_RW);
        let opened = widened.and_then(|()| self.backing.open(dir, entry, access));
        if widened.is_ok() {
            self.backing.set_mode(Target::Named(dir, entry), stat.mode)?;
        }
        self.backing.unlink(&intents, &intent)?;
        Ok(opened?)
    }

    fn intents(&self) -> Result<B::Dir> {
        let control = self.backing.open_dir(&self.backing.root()?, CONTROL_ENTRY)?;
        match self.backing.mkdir(&control, INTENT, 0o700) {
            Ok(()) | Err(Errno::EXIST) => Ok(self.backing.open_dir(&control, INTENT)?),
            Err(other) => Err(other.into()),
        }
    }

    /// Gives every file with an intent its mode back: a mount that was killed between the two changes left it readable
    /// by its owner. Walks over the tree only if there is an intent.
    ///
    /// # Errors
    /// The backing's error.
    pub fn recover_intents(&self) -> Result<()> {
        let control = match self.backing.open_dir(&self.backing.root()?, CONTROL_ENTRY) {
            Ok(control) => control,
            Err(Errno::NOENT) => return Ok(()),
            Err(other) => return Err(other.into()),
        };
        let intents = match self.backing.open_dir(&control, INTENT) {
            Ok(intents) => intents,
            Err(Errno::NOENT) => return Ok(()),
            Err(other) => return Err(other.into()),
        };
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
        let mut complete = true;
        // Directories that wait are named below their parents: only those on the way down are open.
        let mut waiting = Vec::new();
        let mut searched = self.restore_modes(&Arc::new(self.backing.root()?), &pending, &mut waiting);
        loop {
            if let Err(error) = searched {
                tracing::warn!("a directory cannot be searched for files whose mode has to be given back: {error}");
                complete = false;
            }
            let Some((parent, name)) = waiting.pop() else { break };
            let dir = self.backing.open_dir(&parent, &name).map(Arc::new).map_err(Into::into);
            searched = dir.and_then(|dir| self.restore_modes(&dir, &pending, &mut waiting));
        }
        if complete {
            for (ino, mode) in pending {
                self.backing.unlink(&intents, &format!("{ino}.{mode:o}"))?;
            }
        }
        Ok(())
    }

    fn restore_modes(
        &self,
        dir: &Arc<B::Dir>,
        pending: &[(u64, u32)],
        waiting: &mut Vec<(Arc<B::Dir>, String)>,
    ) -> Result<()> {
        self.each_entry(dir, |raw| {
            let Ok(name) = std::str::from_utf8(&raw.name) else { return Ok(true) };
            let stat = self.backing.stat(Target::Named(&**dir, name))?;
            if stat.kind == FileKind::Directory {
                waiting.push((Arc::clone(dir), name.to_owned()));
            } else if let Some((_, mode)) = pending.iter().find(|(ino, _)| *ino == stat.ino) {
                self.backing.set_mode(Target::Named(&**dir, name), *mode)?;
            }
            Ok(true)
        })
    }
}

fn parse(name: &str) -> Option<(u64, u32)> {
    let (ino, mode) = name.split_once('.')?;
    Some((ino.parse().ok()?, u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777)?))
}
