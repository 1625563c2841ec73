//! Finding and describing what is there.

use super::Result;
use super::attr::Attr;
use super::fs::Vfs;
use super::table::ROOT;
use crate::format::symlink;
use crate::store::{Backing, FileKind, FileTime, FsStat, SEARCH};
use crate::sync::atomic::Ordering;
use crate::sync::read;
use rustix::io::Errno;

impl<B: Backing> Vfs<B> {
    /// The entry `name` of a directory; counts one reference, to be given back by [`Self::forget`].
    ///
    /// # Errors
    /// `ENOENT`, `ENAMETOOLONG`, the outcome for a directory without a valid id, or the backing's error.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr> {
        let parent = self.directory(parent)?;
        let _held = read(&parent.dir.entries);
        let located = self.locate(&parent, name, SEARCH)?;
        let stat = self.check_found(&located, self.modes.stat(located.target()))?;
        if self.names.is_bound(located.entry().as_bytes()) {
            parent.dir.id_proven.store(true, Ordering::Relaxed);
        }
        let inode = self.refer(&located, &stat);
        Ok(self.attr_of(&inode, &stat))
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// `ESTALE` for an inode that is not known, `ESHUTDOWN` after [`Self::store_all`], or the backing's error.
    pub fn getattr(&self, ino: u64) -> Result<Attr> {
        self.check_lasting()?;
        let inode = self.inode(ino)?;
        let stat = self.stat(&inode)?;
        Ok(self.attr_of(&inode, &stat))
    }

    /// When an inode was made, where the backing knows it.
    ///
    /// # Errors
    /// As [`Self::getattr`].
    pub fn birth_time(&self, ino: u64) -> Result<Option<FileTime>> {
        let inode = self.inode(ino)?;
        self.with_target(&inode, |target| self.backing.birth_time(target))
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// `EINVAL` if it is none, `SymlinkAuth` if it was forged, or the backing's error.
    pub fn read_link(&self, ino: u64) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        if inode.kind != FileKind::Symlink {
            return Err(Errno::INVAL.into());
        }
        let text = self.with_target(&inode, |target| self.backing.read_link(target))?;
        self.check_symlink(&inode, &text)?;
        self.report(&inode, symlink::decode(&self.keys, &text).map_err(Into::into))
    }

    /// Capacity; names have up to 255 bytes whatever the backing offers.
    ///
    /// # Errors
    /// The backing's error.
    pub fn stat_fs(&self) -> Result<FsStat> {
        Ok(FsStat { name_max: 255, ..self.backing.stat_fs()? })
    }

    /// The number of a directory's parent; the root is its own.
    pub(super) fn parent_of(&self, inode: &super::inode::Inode<B>) -> u64 {
        read(&inode.place).names.first().map_or(ROOT, |(parent, _)| parent.number)
    }
}
