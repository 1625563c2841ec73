//! One object: its attributes and its content.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::super::{FileKind, FileTime, Result, SetTime, Stat, XattrMode};
use super::acl::{self, Acl};
use super::pages::Pages;
use crate::sync::{Mutex, RwLock, lock, read};

/// Links to one file, and subdirectories of one directory, as on ext4. A directory with more reports one link.
pub(super) const LINK_MAX: u64 = 65000;

/// Size that a directory reports: one block of ext4.
const DIRECTORY_SIZE: u64 = 4096;
/// A symlink shorter than this lies in its inode on ext4 and takes up no block.
const FAST_SYMLINK_MAX: usize = 60;

/// Seconds of the times that ext4 can store, 1901-12-13 to 2446-05-10; others are clamped.
const TIME_MIN: i64 = -0x8000_0000;
const TIME_MAX: i64 = 0x3_7fff_ffff;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

const CAPABILITY: &str = "security.capability";
const XATTR_NAME_MAX: usize = 255;
const XATTR_SIZE_MAX: usize = 65536;

/// An object. It lives while a name, an open file or a handle holds it.
///
/// Lock order: `pages`, then `meta`; the tree's lock before both.
pub(super) struct Inode {
    pub(super) ino: u64,
    pub(super) kind: FileKind,
    rdev: u64,
    /// Target of a symlink, else empty.
    pub(super) link: Vec<u8>,
    /// Content of a regular file, else empty.
    pub(super) pages: RwLock<Pages>,
    meta: Mutex<Meta>,
}

/// The changeable attributes.
#[derive(Clone)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) nlink: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) atime: FileTime,
    pub(super) mtime: FileTime,
    pub(super) ctime: FileTime,
    /// When it was made.
    pub(super) btime: FileTime,
    /// Made without a name, and may be given one.
    pub(super) linkable: bool,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
}

impl Meta {
    fn drop_capability(&mut self) {
        // Linux takes an empty one for none and leaves it.
        if self.xattrs.get(CAPABILITY).is_some_and(|value| !value.is_empty()) {
            self.xattrs.remove(CAPABILITY);
        }
    }
}

impl Inode {
    pub(super) fn new(ino: u64, kind: FileKind, rdev: u64, link: &[u8], pages: Pages, meta: Meta) -> Self {
        let rdev = if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) { rdev } else { 0 };
        Self { ino, kind, rdev, link: link.into(), pages: RwLock::new(pages), meta: Mutex::new(meta) }
    }

    pub(super) fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// A copy of the attributes.
    pub(super) fn meta(&self) -> Meta {
        lock(&self.meta).clone()
    }

    pub(super) fn nlink(&self) -> u64 {
        lock(&self.meta).nlink
    }

    /// Changes the number of links, which changes the attributes at `now`.
    pub(super) fn add_links(&self, by: i64, now: FileTime) {
        let mut meta = lock(&self.meta);
        meta.nlink = meta.nlink.saturating_add_signed(by);
        meta.ctime = now;
    }

    /// A file made without a name may be given one.
    pub(super) fn allow_first_link(&self) {
        lock(&self.meta).linkable = true;
    }

    /// Whether it may be given a name although it has none.
    pub(super) fn take_first_link(&self) -> bool {
        let mut meta = lock(&self.meta);
        std::mem::take(&mut meta.linkable) || meta.nlink > 0
    }

    /// A directory that lost its name has no link left.
    pub(super) fn clear_links(&self, now: FileTime) {
        let mut meta = lock(&self.meta);
        meta.nlink = 0;
        meta.ctime = now;
    }

    pub(super) fn changed(&self, now: FileTime) {
        lock(&self.meta).ctime = now;
    }

    /// A directory whose entries changed.
    pub(super) fn entries_changed(&self, now: FileTime) {
        let mut meta = lock(&self.meta);
        (meta.mtime, meta.ctime) = (now, now);
    }

    /// A file that was written: as in Linux the capability is gone, and without privilege setuid and setgid.
    pub(super) fn written(&self, privileged: bool, now: FileTime) {
        let mut meta = lock(&self.meta);
        meta.drop_capability();
        if !privileged {
            meta.mode = without_privilege(meta.mode);
        }
        (meta.mtime, meta.ctime) = (now, now);
    }

    /// A read moves the access time once after each change and once a day (mount option `relatime`).
    pub(super) fn accessed(&self, now: FileTime) {
        let mut meta = lock(&self.meta);
        if meta.atime <= meta.mtime || meta.atime <= meta.ctime || now.secs - meta.atime.secs >= 86_400 {
            meta.atime = now;
        }
    }

    pub(super) fn stat(&self) -> Stat {
        let (size, blocks) = match self.kind {
            FileKind::Regular => {
                let pages = read(&self.pages);
                (pages.size(), pages.blocks())
            }
            FileKind::Directory => (DIRECTORY_SIZE, DIRECTORY_SIZE / 512),
            FileKind::Symlink => (self.link.len() as u64, if self.link.len() < FAST_SYMLINK_MAX { 0 } else { 8 }),
            _ => (0, 0),
        };
        let meta = lock(&self.meta);
        Stat {
            ino: self.ino,
            kind: self.kind,
            mode: meta.mode,
            nlink: if self.is_dir() && meta.nlink >= LINK_MAX { 1 } else { meta.nlink },
            uid: meta.uid,
            gid: meta.gid,
            rdev: self.rdev,
            size,
            blocks,
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: meta.ctime,
        }
    }

    pub(super) fn set_mode(&self, mode: u32, now: FileTime) -> Result<()> {
        if self.kind == FileKind::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        let mut meta = lock(&self.meta);
        meta.mode = mode & 0o7777;
        meta.ctime = now;
        if let Some(mut acl) = meta.xattrs.get(acl::ACCESS).and_then(|value| Acl::parse(value).ok().flatten()) {
            acl.set_mode(mode);
            meta.xattrs.insert(acl::ACCESS.into(), acl.encode());
        }
        Ok(())
    }

    pub(super) fn set_owner(&self, uid: Option<u32>, gid: Option<u32>, now: FileTime) {
        let mut meta = lock(&self.meta);
        meta.uid = uid.unwrap_or(meta.uid);
        meta.gid = gid.unwrap_or(meta.gid);
        meta.ctime = now;
        if !self.is_dir() {
            // chown(2): even root loses the setuid bit, and the setgid bit of an executable.
            meta.mode = without_privilege(meta.mode);
            meta.drop_capability();
        }
    }

    pub(super) fn set_times(&self, atime: SetTime, mtime: SetTime, now: FileTime) -> Result<()> {
        let (atime, mtime) = (time(atime, now)?, time(mtime, now)?);
        let mut meta = lock(&self.meta);
        meta.atime = atime.unwrap_or(meta.atime);
        meta.mtime = mtime.unwrap_or(meta.mtime);
        meta.ctime = now;
        Ok(())
    }

    pub(super) fn get_xattr(&self, name: &str, privileged: bool) -> Result<Vec<u8>> {
        self.check_xattr(name, privileged, Errno::NODATA)?;
        let value = lock(&self.meta).xattrs.get(name).cloned().ok_or(Errno::NODATA)?;
        if name == CAPABILITY && !is_capability(&value) {
            // An empty value can be set but not read.
            return Err(Errno::INVAL);
        }
        Ok(value)
    }

    pub(super) fn set_xattr(
        &self,
        name: &str,
        value: &[u8],
        mode: XattrMode,
        privileged: bool,
        now: FileTime,
    ) -> Result<()> {
        if acl::is_acl(name) {
            return self.set_acl(name, value, now);
        }
        if name == CAPABILITY && !value.is_empty() && !is_capability(value) {
            return Err(Errno::INVAL);
        }
        self.check_xattr(name, privileged, Errno::PERM)?;
        let mut meta = lock(&self.meta);
        match mode {
            XattrMode::Create if meta.xattrs.contains_key(name) => return Err(Errno::EXIST),
            XattrMode::Replace if !meta.xattrs.contains_key(name) => return Err(Errno::NODATA),
            _ => {}
        }
        meta.xattrs.insert(name.into(), value.into());
        meta.ctime = now;
        Ok(())
    }

    pub(super) fn list_xattrs(&self, privileged: bool) -> Vec<String> {
        let meta = lock(&self.meta);
        meta.xattrs.keys().filter(|name| privileged || !name.starts_with("trusted.")).cloned().collect()
    }

    pub(super) fn remove_xattr(&self, name: &str, privileged: bool, now: FileTime) -> Result<()> {
        if acl::is_acl(name) {
            // Linux takes away an ACL that is not there without complaint.
            return self.set_acl(name, &[], now);
        }
        self.check_xattr(name, privileged, Errno::PERM)?;
        let mut meta = lock(&self.meta);
        meta.xattrs.remove(name).ok_or(Errno::NODATA)?;
        meta.ctime = now;
        Ok(())
    }

    /// Whether an attribute of this name may be on this object; `denied` says how a refusal is answered.
    fn check_xattr(&self, name: &str, privileged: bool, denied: Errno) -> Result<()> {
        if acl::is_acl(name) {
            return if self.kind == FileKind::Symlink { Err(Errno::OPNOTSUPP) } else { Ok(()) };
        }
        let (namespace, rest) = name.split_once('.').ok_or(Errno::OPNOTSUPP)?;
        match namespace {
            "trusted" if !privileged => return Err(denied),
            "user" if !matches!(self.kind, FileKind::Regular | FileKind::Directory) => return Err(denied),
            "user" | "trusted" | "security" => {}
            _ => return Err(Errno::OPNOTSUPP),
        }
        if rest.is_empty() { Err(Errno::INVAL) } else { Ok(()) }
    }

    /// Sets an ACL, or removes it when `value` is empty.
    fn set_acl(&self, name: &str, value: &[u8], now: FileTime) -> Result<()> {
        let acl = if value.is_empty() { None } else { Acl::parse(value)? };
        if self.kind == FileKind::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        if name == acl::DEFAULT && !self.is_dir() {
            return if acl.is_some() { Err(Errno::ACCESS) } else { Ok(()) };
        }
        acl.as_ref().map_or(Ok(()), Acl::check)?;
        let mut meta = lock(&self.meta);
        if name == acl::ACCESS
            && let Some(acl) = &acl
        {
            meta.mode = meta.mode & 0o7000 | acl.mode();
        }
        match acl {
            Some(acl) if name == acl::DEFAULT || !acl.is_minimal() => {
                meta.xattrs.insert(name.into(), acl.encode());
            }
            _ => {
                meta.xattrs.remove(name);
            }
        }
        meta.ctime = now;
        Ok(())
    }
}

/// What Linux checks before it looks for the object.
pub(super) fn check_xattr_sizes(name: &str, value: &[u8]) -> Result<()> {
    match () {
        () if name.contains('\0') => Err(Errno::INVAL),
        () if name.is_empty() || name.len() > XATTR_NAME_MAX => Err(Errno::RANGE),
        () if value.len() > XATTR_SIZE_MAX => Err(Errno::TOOBIG),
        () => Ok(()),
    }
}

fn without_privilege(mode: u32) -> u32 {
    if mode & GROUP_EXECUTE != 0 { mode & !(SETUID | SETGID) } else { mode & !SETUID }
}

fn time(set: SetTime, now: FileTime) -> Result<Option<FileTime>> {
    match set {
        SetTime::Omit => Ok(None),
        SetTime::Now => Ok(Some(now)),
        SetTime::At(at) if at.nanos >= 1_000_000_000 => Err(Errno::INVAL),
        SetTime::At(at) if at.secs <= TIME_MIN || at.secs >= TIME_MAX => {
            Ok(Some(FileTime { secs: at.secs.clamp(TIME_MIN, TIME_MAX), nanos: 0 }))
        }
        SetTime::At(at) => Ok(Some(at)),
    }
}

/// Whether the value has the form of `struct vfs_cap_data` (revision 2) or `vfs_ns_cap_data` (revision 3).
fn is_capability(value: &[u8]) -> bool {
    let revision = value.first_chunk().map(|magic| u32::from_le_bytes(*magic) & 0xff00_0000);
    matches!((revision, value.len()), (Some(0x0200_0000), 20) | (Some(0x0300_0000), 24))
}
