//! Jobs on files of a mounted volume, while applications use them: new wrapped keys, and a look at everything.
//!
//! All users of a file share one state of it, this job included: a header that was read before an application
//! truncated the file, and written after it, would leave a file that nobody can open.

use rustix::io::Errno;

use super::Result;
use super::events::ciphertext_path;
use super::fs::Vfs;
use super::inode::Inode;
use super::moves::Moved;
use crate::content::{Content, Rewrapped};
use crate::keys::RewrapJob;
use crate::store::{Access, Backing, BackingFile, FileKind, Target};
use crate::sync::{Arc, lock};

/// Notes which files move while a walk over the backing tree is under way.
pub struct MoveWatch<'a, B: Backing> {
    vfs: &'a Vfs<B>,
    ended: bool,
}

/// The files that moved during a watch, and those without a name at its end, kept so that they can be reached by what they
/// are instead of by a name.
pub struct MovedFiles<'a, B: Backing> {
    vfs: &'a Vfs<B>,
    moved: Moved<B>,
}

/// One of them.
pub struct MovedFile<'a, B: Backing> {
    vfs: &'a Vfs<B>,
    inode: &'a Arc<Inode<B>>,
}

impl<B: Backing> Vfs<B> {
    /// Wraps the data key of the regular file at an entry of the backing anew, as [`Content::rewrap`] does.
    ///
    /// # Errors
    /// `ENOENT` if there is no regular file (any more); `EROFS`; what [`Content::rewrap`] answers.
    pub fn rewrap(&self, dir: &B::Dir, entry: &str, job: &RewrapJob) -> Result<Rewrapped> {
        self.check_writable()?;
        self.with_entry(dir, entry, |inode, open| self.rewrap_inode(inode, || open(Access::ReadWrite), job))
    }

    /// Hands the regular file at an entry of the backing to `work`, as its users have it: whoever writes to it at the same time
    /// is seen before or after a write, and it is compared with the freshness record, if there is one.
    ///
    /// # Errors
    /// `ENOENT` if there is no regular file (any more); what opening it answers; what `work` does.
    pub fn inspect<R>(&self, dir: &B::Dir, entry: &str, work: impl FnOnce(&Content<B>) -> Result<R>) -> Result<R> {
        self.with_entry(dir, entry, |inode, open| {
            let content = {
                let mut slot = lock(&inode.content);
                let content = match &slot.content {
                    Some(content) => Arc::clone(content),
                    None => Arc::new(self.open_content(inode, open(Access::Read)?, Access::Read)?),
                };
                slot.hold(content)
            };
            let done = work(&content);
            self.relinquish(inode);
            done
        })
    }

    /// Hands the inode of the regular file at an entry, and what opens it, to `work`.
    fn with_entry<R>(
        &self,
        dir: &B::Dir,
        entry: &str,
        work: impl FnOnce(&Arc<Inode<B>>, &dyn Fn(Access) -> Result<B::File>) -> Result<R>,
    ) -> Result<R> {
        // Held until the end: as long as it is, the inode number belongs to this object.
        let node = self.backing.pin(dir, entry)?;
        let stat = self.backing.stat(Target::Node(&node))?;
        if stat.kind != FileKind::Regular {
            return Err(Errno::NOENT.into());
        }
        let inode = self.table.refer(self.table.number_of(stat.ino), FileKind::Regular, 1);
        let open = |access| {
            let file = self.modes.open(dir, entry, access)?;
            // Another file may have taken the name since.
            if file.stat()?.ino == stat.ino { Ok(file) } else { Err(Errno::NOENT.into()) }
        };
        let done = work(&inode, &open);
        self.table.forget(inode.number, 1);
        done
    }

    fn rewrap_inode(
        &self,
        inode: &Arc<Inode<B>>,
        open: impl FnOnce() -> Result<B::File>,
        job: &RewrapJob,
    ) -> Result<Rewrapped> {
        let content = {
            let mut slot = lock(&inode.content);
            let content = match &slot.content {
                Some(content) => {
                    if !content.is_writable() {
                        content.upgrade(open()?);
                    }
                    Arc::clone(content)
                }
                None => {
                    let file = open()?;
                    if file.stat()?.size == 0 {
                        return Ok(Rewrapped::No);
                    }
                    Arc::new(self.open_content(inode, file, Access::ReadWrite)?)
                }
            };
            slot.hold(content)
        };
        let done = content.rewrap(job);
        self.relinquish(inode);
        self.report(inode, done)
    }

    /// Begins to note which files get another name; `None` while another such watch lasts.
    pub fn watch_moves(&self) -> Option<MoveWatch<'_, B>> {
        self.moves.watch().then_some(MoveWatch { vfs: self, ended: false })
    }

    /// How many handles of regular files are open at present.
    pub fn open_files(&self) -> usize {
        self.files.len()
    }
}

impl<'a, B: Backing> MoveWatch<'a, B> {
    /// Ends the watch.
    pub fn end(mut self) -> MovedFiles<'a, B> {
        self.ended = true;
        MovedFiles { vfs: self.vfs, moved: self.vfs.moves.end(&self.vfs.table) }
    }
}

impl<B: Backing> Drop for MoveWatch<'_, B> {
    fn drop(&mut self) {
        if !self.ended {
            drop(MovedFiles { vfs: self.vfs, moved: self.vfs.moves.end(&self.vfs.table) });
        }
    }
}

impl<B: Backing> MovedFiles<'_, B> {
    /// Whether a directory moved: a walk may then have missed everything below it, which is not listed here.
    pub fn has_directories(&self) -> bool {
        self.moved.directories
    }

    /// The regular files.
    pub fn iter(&self) -> impl Iterator<Item = MovedFile<'_, B>> {
        self.moved.files.iter().map(|inode| MovedFile { vfs: self.vfs, inode })
    }
}

impl<B: Backing> Drop for MovedFiles<'_, B> {
    fn drop(&mut self) {
        for inode in &self.moved.files {
            self.vfs.table.forget(inode.number, 1);
        }
    }
}

impl<B: Backing> MovedFile<'_, B> {
    /// As [`Vfs::rewrap`].
    ///
    /// # Errors
    /// As [`Vfs::rewrap`].
    pub fn rewrap(&self, job: &RewrapJob) -> Result<Rewrapped> {
        let open = || match self.vfs.open_backing(self.inode, Access::ReadWrite) {
            // A file that moved and has no name any more was removed since.
            Err(error) if error.errno() == Errno::STALE => Err(Errno::NOENT.into()),
            other => other,
        };
        self.vfs.rewrap_inode(self.inode, open, job)
    }

    /// Its inode number on the backing.
    pub fn backing_number(&self) -> u64 {
        // The same way back.
        self.vfs.table.number_of(self.inode.number)
    }

    /// Where it lies in the ciphertext directory at present, relative to the root; empty if it has no name any more.
    pub fn ciphertext_path(&self) -> Vec<u8> {
        ciphertext_path(self.inode)
    }
}
