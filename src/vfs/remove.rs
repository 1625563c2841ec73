//! Removing entries.

use rustix::io::Errno;

use super::Result;
use super::fs::{Located, Vfs};
use super::inode::Inode;
use crate::format::dirid;
use crate::format::name::{EntryKind, MAX_SIDE};
use crate::store::{Backing, CHANGE, FileKind, Held, RawEntry, RenameMode, Stat, Target, Wide};
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, lock, write};

/// Leftovers within leftovers: kmsfs makes two levels at most, and whoever writes the storage could make any number.
const LEFTOVER_DEPTH: u32 = 8;

impl<B: Backing> Vfs<B> {
    /// Removes a name that is not a directory's. What is open of the file stays usable. Needs no key.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, or the backing's error.
    pub fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        let parent = self.changeable(parent)?;
        let _change = self.begin_change(&[&parent])?;
        let _held = parent.dir.change();
        let located = self.locate(&parent, name, CHANGE)?;
        let stat = self.backing.stat(located.target())?;
        if stat.kind == FileKind::Directory {
            return Err(Errno::ISDIR.into());
        }
        self.detach(&located, &stat, || self.backing.unlink(&located.dir, located.entry()))?;
        self.remove_side(&located);
        self.note_removed(&located)
    }

    /// Removes an empty directory: first out of sight, then its id, so that nobody ever sees it without one.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY` (also if it holds only entries that do not decode), or the backing's error.
    pub fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()> {
        let parent = self.changeable(parent)?;
        let _change = self.begin_change(&[&parent])?;
        let _tree = lock(&self.tree);
        let _held = parent.dir.change();
        let located = self.locate(&parent, name, CHANGE)?;
        let stat = self.backing.stat(located.target())?;
        if stat.kind != FileKind::Directory {
            return Err(Errno::NOTDIR.into());
        }
        self.remove_directory(&located, &stat)?;
        self.note_removed(&located)
    }

    /// Removes the empty directory at `located`. The caller holds the tree and the entries of the directory's parent.
    pub(super) fn remove_directory(&self, located: &Located<B>, stat: &Stat) -> Result<()> {
        match self.hide_directory(located, stat) {
            Ok(hidden) => {
                self.remove_side(located);
                self.discard_directory(&located.dir, &hidden);
                Ok(())
            }
            // overlayfs moves no directory of a lower layer.
            Err(error) if error.errno() == Errno::XDEV => {
                self.remove_in_place(located, stat)?;
                self.remove_side(located);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Removes the empty directory at `located` where it is: until its last step it is there, but for its id.
    fn remove_in_place(&self, located: &Located<B>, stat: &Stat) -> Result<()> {
        self.take_out_of_sight(located, stat, || {
            self.try_discard(&located.dir, located.entry(), LEFTOVER_DEPTH).map_err(|error| error.errno())
        })
    }

    /// Gives the empty directory at `located` a name that nobody sees, which is returned: for its users it is removed.
    /// The caller holds what [`Self::remove_directory`] asks for.
    pub(super) fn hide_directory(&self, located: &Located<B>, stat: &Stat) -> Result<String> {
        let temporary = self.temporary_name();
        let (dir, entry) = (&located.dir, located.entry());
        self.take_out_of_sight(located, stat, || {
            self.backing.rename(dir, entry, dir, &temporary, RenameMode::NoReplace)
        })?;
        Ok(temporary)
    }

    /// Runs `remove`, after which the directory at `located` is not there any more for its users, if it is empty.
    fn take_out_of_sight(
        &self,
        located: &Located<B>,
        stat: &Stat,
        remove: impl FnOnce() -> crate::store::Result<()>,
    ) -> Result<()> {
        let known = self.known(stat);
        let _children = known.as_ref().map(|inode| inode.dir.change());
        let _open = self.open_empty(located)?;
        self.detach(located, stat, remove)?;
        if let Some(inode) = &known {
            inode.dir.removed.store(true, Ordering::Release);
            self.close_dir(inode);
        }
        Ok(())
    }

    /// Checks that a directory is empty. The daemon may use it as long as what this returns lives.
    pub(super) fn open_empty(&self, located: &Located<B>) -> Result<Option<Wide<B>>> {
        let dir = Arc::new(self.backing.open_dir(&located.dir, located.entry())?);
        let wide = self.modes.widen(Held::Dir(Arc::clone(&dir)), CHANGE, None)?;
        self.check_empty(&dir)?;
        Ok(wide)
    }

    /// Takes back what [`Self::hide_directory`] did.
    pub(super) fn show_directory(&self, located: &Located<B>, stat: &Stat, hidden: &str) -> Result<()> {
        self.make_side(located)?;
        self.backing.rename(&located.dir, hidden, &located.dir, located.entry(), RenameMode::NoReplace)?;
        self.keep_published(&located.dir)?;
        if let Some(inode) = self.known(stat) {
            let mut place = write(&inode.place);
            place.add(&located.parent, located.entry());
            place.orphan = None;
            inode.dir.removed.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Runs `remove`, which takes one name of an object away, and keeps the mount's view of the object in step. If it was
    /// the last known name and somebody refers to the object, a handle without a name is kept.
    pub(super) fn detach(
        &self,
        located: &Located<B>,
        stat: &Stat,
        remove: impl FnOnce() -> crate::store::Result<()>,
    ) -> Result<()> {
        let Some(inode) = self.known(stat) else { return Ok(remove()?) };
        let mut place = write(&inode.place);
        let others =
            place.names.iter().any(|(dir, entry)| dir.number != located.parent.number || entry != located.entry());
        let orphan = if others { None } else { Some(self.backing.pin(&located.dir, located.entry())?) };
        remove()?;
        place.remove(&located.parent, located.entry());
        if orphan.is_some() {
            place.orphan = orphan;
        }
        Ok(())
    }

    /// Removes a directory that nobody sees any more, as far as nothing but its id, side entries and further leftovers is
    /// in it. What cannot be removed stays for the next mount that meets it.
    pub(super) fn discard_directory(&self, dir: &B::Dir, temporary: &str) {
        if let Err(error) = self.try_discard(dir, temporary, LEFTOVER_DEPTH) {
            tracing::warn!("a removed directory stays behind under a hidden name: {error}");
        }
    }

    fn try_discard(&self, dir: &B::Dir, temporary: &str, depth: u32) -> Result<()> {
        let inner = Arc::new(self.backing.open_dir(dir, temporary)?);
        let _wide = self.modes.widen(Held::Dir(Arc::clone(&inner)), CHANGE, None)?;
        // Before anything is taken away: its id and side entries are all that makes a user's directory readable.
        self.check_empty_within(&inner, depth)?;
        let mut leftovers = Vec::new();
        self.each_entry(&inner, |raw| {
            let kind = EntryKind::of(&raw.name, false);
            if matches!(kind, EntryKind::DirId | EntryKind::Side | EntryKind::Temporary)
                && let Ok(name) = std::str::from_utf8(&raw.name)
            {
                leftovers.push((kind, name.to_owned()));
            }
            Ok(true)
        })?;
        for (kind, name) in leftovers.iter().filter(|(kind, _)| *kind != EntryKind::DirId) {
            match self.backing.unlink(&inner, name) {
                Err(Errno::ISDIR) if *kind == EntryKind::Temporary => {
                    self.try_discard(&inner, name, depth.saturating_sub(1))?
                }
                other => other?,
            }
        }
        // The id last: as long as anything else is left, the directory can be told from others.
        if leftovers.iter().any(|(kind, _)| *kind == EntryKind::DirId) {
            self.backing.unlink(&inner, dirid::ENTRY)?;
        }
        Ok(self.backing.rmdir(dir, temporary)?)
    }

    /// Whether a backing directory holds nothing that a user could miss: its id, side entries without their entry, and
    /// leftovers under names that nobody sees of which the same is true. An entry that does not decode counts: it may be
    /// the only copy of something.
    pub(super) fn check_empty(&self, dir: &B::Dir) -> Result<()> {
        self.check_empty_within(dir, LEFTOVER_DEPTH)
    }

    fn check_empty_within(&self, dir: &B::Dir, depth: u32) -> Result<()> {
        let mut nested = Vec::new();
        self.each_entry(dir, |raw| {
            match EntryKind::of(&raw.name, false) {
                EntryKind::DirId | EntryKind::Side => {}
                EntryKind::Temporary => nested.push(String::from_utf8(raw.name.clone()).map_err(|_| Errno::NOTEMPTY)?),
                EntryKind::Control | EntryKind::Long | EntryKind::Short => return Err(Errno::NOTEMPTY.into()),
            }
            Ok(true)
        })?;
        for name in nested {
            match self.backing.open_dir(dir, &name) {
                Ok(_) if depth == 0 => return Err(Errno::NOTEMPTY.into()),
                Ok(inner) => self.check_empty_within(&inner, depth - 1)?,
                Err(Errno::NOTDIR | Errno::LOOP) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Ok(())
    }

    /// Removes something under a hidden name that a crash left behind. The caller holds the entries of `parent`, and
    /// whatever this mount has under way there holds them for writing: what is met now belongs to nobody. A directory with
    /// anything but an id and side entries in it stays, with an event.
    pub(super) fn clear_leftover(&self, parent: &Arc<Inode<B>>, raw: &RawEntry) {
        if self.options.read_only {
            return;
        }
        let cleared = self.dir(parent).and_then(|dir| {
            let name = std::str::from_utf8(&raw.name).map_err(|_| Errno::INVAL)?;
            let stat = self.backing.stat(Target::Named(&*dir, name))?;
            match stat.kind {
                FileKind::Directory => self.try_discard(&dir, name, LEFTOVER_DEPTH),
                FileKind::Symlink => Ok(self.backing.unlink(&dir, name)?),
                FileKind::Regular if stat.size <= MAX_SIDE as u64 => Ok(self.backing.unlink(&dir, name)?),
                _ => Err(Errno::NOTEMPTY.into()),
            }
        });
        match cleared {
            Ok(()) => tracing::info!(ino = parent.number, "removed what an interrupted operation left behind"),
            // Another listing was faster.
            Err(error) if error.errno() == Errno::NOENT => {}
            Err(error) => tracing::warn!(target: "kmsfs::integrity", ino = parent.number,
                entry = %String::from_utf8_lossy(&raw.name), "an unfinished operation's leftover stays: {error}"),
        }
    }

    /// The inode at a name, if the kernel knows it.
    pub(super) fn known(&self, stat: &Stat) -> Option<Arc<Inode<B>>> {
        self.table.get(self.table.number_of(stat.ino))
    }
}
