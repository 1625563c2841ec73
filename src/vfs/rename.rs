//! Renaming. Content is bound to the file's id, not to its path, so it is one rename in the backing.

use rustix::io::Errno;

use super::Result;
use super::fs::{Located, Vfs};
use super::inode::Inode;
use crate::store::{Backing, CHANGE, FileKind, RenameMode, Stat};
use crate::sync::{Arc, RwLockWriteGuard, lock, write};

impl<B: Backing> Vfs<B> {
    /// Renames an entry.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST` where the target is to be kept, `ENOTEMPTY`, `EISDIR`, `ENOTDIR`, `EINVAL` for a directory into
    /// itself, or the backing's error.
    pub fn rename(&self, parent: u64, name: &[u8], to_parent: u64, to_name: &[u8], mode: RenameMode) -> Result<()> {
        let moving = self.moves.enter();
        let from_dir = self.changeable(parent)?;
        let to_dir = self.changeable(to_parent)?;
        let _change = self.begin_change(&[&from_dir, &to_dir])?;
        let _tree = lock(&self.tree);
        let _held = lock_both(&from_dir, &to_dir);
        let from = self.locate(&from_dir, name, CHANGE)?;
        let to = self.locate_new(&to_dir, to_name)?;
        let source = self.backing.stat(from.target())?;
        let target = match self.backing.stat(to.target()) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(other) => return Err(other.into()),
        };
        let exchanged = target.filter(|_| mode == RenameMode::Exchange);
        for stat in [Some(source), exchanged].iter().flatten() {
            moving.note(&self.table, self.table.number_of(stat.ino), stat.kind);
        }
        match (mode, target) {
            (_, Some(_)) if mode.keeps_target() => Err(Errno::EXIST.into()),
            (RenameMode::Exchange, None) => Err(Errno::NOENT.into()),
            // Two names of one file, or the name itself: nothing happens (rename(2)).
            (_, Some(target)) if target.ino == source.ino => return Ok(()),
            (RenameMode::Exchange, Some(target)) => self.exchange(&from, &source, &to, &target),
            (_, Some(target)) => self.replace(&from, &source, &to, &target, mode),
            (_, None) => self.move_to(&from, &source, &to, None, mode),
        }?;
        self.note_renamed(&from, &to, mode)
    }

    fn replace(
        &self,
        from: &Located<B>,
        source: &Stat,
        to: &Located<B>,
        target: &Stat,
        mode: RenameMode,
    ) -> Result<()> {
        match (source.kind == FileKind::Directory, target.kind == FileKind::Directory) {
            (true, false) => Err(Errno::NOTDIR.into()),
            (false, true) => Err(Errno::ISDIR.into()),
            (false, false) => self.move_to(from, source, to, Some(target), mode),
            // overlayfs, whose only use whiteouts are, never asks for it.
            (true, true) if mode.leaves_whiteout() => {
                drop(self.open_empty(to)?);
                Err(Errno::INVAL.into())
            }
            (true, true) => {
                // On disk no directory is ever empty, so a plain rename would refuse. Both keep their ids.
                let open = self.open_empty(to)?;
                // Both get another directory above them, so the daemon has to be allowed to change both.
                let exchanged = self.exchange(from, source, to, target);
                drop(open);
                match exchanged {
                    Ok(()) => self.remove_directory(from, target).inspect_err(|_| {
                        // What failed shall not have happened.
                        if let Err(error) = self.exchange(from, target, to, source) {
                            tracing::warn!("a failed rename of a directory took place, its old name is empty: {error}");
                        }
                    }),
                    // Not every filesystem can exchange two entries.
                    Err(error) if error.errno() == Errno::INVAL => self.replace_directory(from, source, to, target),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Moves a directory over an empty one in two steps. A crash between them leaves no entry at the new name, and the
    /// directory that moves at the old one (FORMAT 8.1).
    fn replace_directory(&self, from: &Located<B>, source: &Stat, to: &Located<B>, target: &Stat) -> Result<()> {
        let hidden = self.hide_directory(to, target)?;
        match self.move_to(from, source, to, None, RenameMode::Replace) {
            Ok(()) => {
                self.discard_directory(&to.dir, &hidden);
                Ok(())
            }
            Err(error) => {
                if let Err(second) = self.show_directory(to, target, &hidden) {
                    tracing::warn!(
                        "a failed rename of a directory removed the empty directory at its target: {second}"
                    );
                }
                Err(error)
            }
        }
    }

    /// Moves `from` to `to`, replacing what is there if it is no directory.
    fn move_to(
        &self,
        from: &Located<B>,
        source: &Stat,
        to: &Located<B>,
        target: Option<&Stat>,
        mode: RenameMode,
    ) -> Result<()> {
        self.make_side(to)?;
        let rename = || {
            let mode = match (mode, target) {
                _ if mode.leaves_whiteout() => mode,
                (_, Some(_)) => RenameMode::Replace,
                // The target was looked for under the directory's lock: whatever is there now is not the mount's.
                (_, None) => RenameMode::NoReplace,
            };
            self.backing.rename(&from.dir, from.entry(), &to.dir, to.entry(), mode)
        };
        let moved = self.known(source);
        // Two places, in no order of their numbers: no rename holds one beside this one (`self.tree`), and whoever else holds
        // a place waits only for those of directories above it. Neither of these is above the other: what is replaced here is no
        // directory.
        let mut place = moved.as_ref().map(|inode| write(&inode.place));
        let renamed = match target {
            Some(target) => self.detach(to, target, rename),
            None => self.undo_side(to, rename()),
        };
        renamed?;
        if let Some(place) = &mut place {
            place.remove(&from.parent, from.entry());
            place.add(&to.parent, to.entry());
        }
        drop(place);
        if !mode.leaves_whiteout() {
            self.remove_side(from);
        }
        Ok(())
    }

    /// Lets two entries change places; side entries stay, as both names do.
    fn exchange(&self, from: &Located<B>, source: &Stat, to: &Located<B>, target: &Stat) -> Result<()> {
        let (one, other) = (self.known(source), self.known(target));
        let (mut first, mut second) = lock_places(one.as_ref(), other.as_ref());
        self.backing.rename(&from.dir, from.entry(), &to.dir, to.entry(), RenameMode::Exchange)?;
        if let Some(place) = &mut first {
            place.remove(&from.parent, from.entry());
            place.add(&to.parent, to.entry());
        }
        if let Some(place) = &mut second {
            place.remove(&to.parent, to.entry());
            place.add(&from.parent, from.entry());
        }
        Ok(())
    }
}

type Entries<'a> = RwLockWriteGuard<'a, u64>;
type Place<'a, B> = Option<RwLockWriteGuard<'a, super::inode::Place<B>>>;

/// Locks the entries of two directories, which may be the same, in ascending order of their numbers.
fn lock_both<'a, B: Backing>(a: &'a Inode<B>, b: &'a Inode<B>) -> (Entries<'a>, Option<Entries<'a>>) {
    match a.number.cmp(&b.number) {
        std::cmp::Ordering::Equal => (a.dir.change(), None),
        std::cmp::Ordering::Less => {
            let first = a.dir.change();
            (first, Some(b.dir.change()))
        }
        std::cmp::Ordering::Greater => {
            let first = b.dir.change();
            (first, Some(a.dir.change()))
        }
    }
}

/// Locks the places of two different inodes in ascending order of their numbers.
fn lock_places<'a, B: Backing>(
    a: Option<&'a Arc<Inode<B>>>,
    b: Option<&'a Arc<Inode<B>>>,
) -> (Place<'a, B>, Place<'a, B>) {
    let swap = matches!((a, b), (Some(a), Some(b)) if a.number > b.number);
    if swap {
        let second = b.map(|inode| write(&inode.place));
        (a.map(|inode| write(&inode.place)), second)
    } else {
        let first = a.map(|inode| write(&inode.place));
        (first, b.map(|inode| write(&inode.place)))
    }
}
