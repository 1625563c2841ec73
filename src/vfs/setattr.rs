//! Changing attributes.

use rustix::fs::IFlags;
use rustix::io::Errno;

use super::Result;
use super::attr::{Attr, SET_GID, SET_UID, SetAttr};
use super::fs::Vfs;
use super::inode::{Inode, SET_ID_UNKNOWN};
use crate::content::Content;
use crate::freshness::InUse;
use crate::store::{Access, Backing, BackingFile, FileKind, SetTime};
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, lock};

const GROUP_EXECUTE: u32 = 0o010;

impl<B: Backing> Vfs<B> {
    /// Changes attributes. `handle` is the open file that asks, if one does.
    ///
    /// # Errors
    /// `EROFS`, the backing's error, or for the size what [`crate::content::Content::truncate`] answers.
    pub fn setattr(&self, ino: u64, handle: Option<u64>, change: &SetAttr) -> Result<Attr> {
        self.check_writable()?;
        let inode = self.inode(ino)?;
        if let Some(size) = change.size {
            self.truncate(&inode, handle, size)?;
        }
        if change.uid.is_some() || change.gid.is_some() {
            self.change_mode(&inode, |target| self.backing.set_owner(target, change.uid, change.gid))?;
        }
        if let Some(mode) = change.mode {
            self.change_mode(&inode, |target| self.backing.set_mode(target, mode & 0o7777))?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let (atime, mtime) = (change.atime.unwrap_or(SetTime::Omit), change.mtime.unwrap_or(SetTime::Omit));
            match self.change_target(&inode, |target| self.backing.set_times(target, atime, mtime)) {
                // Nobody but the kernel sets times by a handle: those of writes that are stored already, when it closes the
                // file. By now it may be immutable; the backing has the time at which it stored them.
                Err(error) if error.errno() == Errno::PERM && handle.is_some() => {}
                other => other?,
            }
        }
        let stat = self.stat(&inode)?;
        Ok(self.attr_of(&inode, &stat))
    }

    fn truncate(&self, inode: &Arc<Inode<B>>, handle: Option<u64>, size: u64) -> Result<()> {
        match inode.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::ISDIR.into()),
            _ => return Err(Errno::INVAL.into()),
        }
        if let Some(file) = handle.and_then(|number| self.files.get(number)) {
            self.check_id(&file.content)?;
            let admitted = if size == 0 { Ok(()) } else { file.content.admit() };
            return self.report_of(inode, Some(&file.content), admitted.and_then(|()| file.content.truncate(size)));
        }
        if size == 0 {
            let slot = lock(&inode.content);
            return match &slot.content {
                Some(_) if slot.immutable => Err(Errno::PERM.into()),
                Some(content) => self.empty(inode, content),
                None => self.empty_closed(inode).map(drop),
            };
        }
        let content = self.acquire(inode, true)?;
        let done = self.check_id(&content).and_then(|()| content.truncate(size));
        self.relinquish(inode);
        self.report(inode, done)
    }

    /// Empties an open file. That needs no key, so it works on damaged and shredded files too.
    pub(super) fn empty(&self, inode: &Inode<B>, content: &Content<B>) -> Result<()> {
        if !content.is_writable() {
            content.upgrade(self.open_backing(inode, Access::ReadWrite)?);
        }
        self.report(inode, content.truncate(0))
    }

    /// Empties a file that is not open; the backing file. The caller holds the inode's content slot.
    pub(super) fn empty_closed(&self, inode: &Arc<Inode<B>>) -> Result<(B::File, Option<InUse>)> {
        let record = self.record_of(inode, None)?;
        let file = self.open_backing(inode, Access::ReadWrite)?;
        if let Some(record) = &record {
            record.before_change()?;
        }
        file.set_len(0)?;
        if let Some(record) = &record {
            record.emptied();
        }
        Ok((file, record))
    }

    /// Takes setuid away, and setgid where it stands for the group that programs run with: what Linux does when somebody
    /// without privilege writes to, cuts, or gives away a file. Answers whether there was something to take.
    ///
    /// # Errors
    /// The backing's error.
    pub fn kill_set_id(&self, ino: u64) -> Result<bool> {
        let bits = |mode| if mode & GROUP_EXECUTE == 0 { SET_UID } else { SET_UID | SET_GID };
        self.drop_mode_bits(ino, |inode, mode| if inode.kind == FileKind::Regular { bits(mode) } else { 0 })
    }

    /// Takes setgid away: what Linux does when somebody outside of the group of a file or directory sets its ACL.
    ///
    /// # Errors
    /// The backing's error.
    pub fn kill_set_gid(&self, ino: u64) -> Result<bool> {
        self.drop_mode_bits(ino, |_, _| SET_GID)
    }

    fn drop_mode_bits(&self, ino: u64, bits: impl FnOnce(&Inode<B>, u32) -> u32) -> Result<bool> {
        let inode = self.inode(ino)?;
        let mode = self.stat(&inode)?.mode;
        let bits = bits(&inode, mode);
        let left = mode & !bits;
        // A write can have taken them already: nothing puts them back from here on.
        let seen = inode.set_id.load(Ordering::Acquire);
        if left != mode || (seen != SET_ID_UNKNOWN && seen & bits != 0) {
            self.change_mode(&inode, |target| self.backing.set_mode(target, left))?;
        }
        Ok(left != mode)
    }

    /// Inode flags as chattr(1) sets them.
    ///
    /// # Errors
    /// `ENOTTY` or `EOPNOTSUPP` where the backing has none.
    pub fn inode_flags(&self, ino: u64) -> Result<u32> {
        let inode = self.inode(ino)?;
        self.with_target(&inode, |target| self.backing.inode_flags(target))
    }

    /// Sets inode flags. What the kernel holds dirty must have been written before: a file that becomes immutable takes no
    /// more writes, whoever has it open. It is flushed first, so that a later fsync has nothing to record in its header.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for flags that would break the ciphertext: append-only (units are rewritten in place), case folding
    /// (entry names are case-sensitive); `EROFS`; the backing's error.
    pub fn set_inode_flags(&self, ino: u64, flags: u32) -> Result<()> {
        /// `FS_CASEFOLD_FL` of linux/fs.h.
        const CASEFOLD: u32 = 0x4000_0000;
        const REFUSED: u32 = IFlags::APPEND.bits() | CASEFOLD;
        self.check_writable()?;
        let inode = self.inode(ino)?;
        let known = self.with_target(&inode, |target| self.backing.inode_flags(target))?;
        if flags & !known & REFUSED != 0 {
            return Err(Errno::OPNOTSUPP.into());
        }
        if flags & !known & IFlags::IMMUTABLE.bits() != 0
            && let Some(content) = inode.open_content()
        {
            self.report_of(&inode, Some(&content), content.sync(false))?;
        }
        self.change_target(&inode, |target| self.backing.set_inode_flags(target, flags))?;
        let mut slot = lock(&inode.content);
        slot.immutable = slot.content.is_some() && flags & IFlags::IMMUTABLE.bits() != 0;
        Ok(())
    }
}
