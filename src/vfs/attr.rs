//! Attributes of an inode as applications see them.

use crate::store::{FileKind, FileTime, SetTime, Stat};

/// Setuid and setgid in a mode.
pub(super) const SET_UID: u32 = 0o4000;
pub(super) const SET_GID: u32 = 0o2000;
pub(super) const SET_ID: u32 = SET_UID | SET_GID;

/// Attributes as stat(2) shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number, stable across mounts.
    pub ino: u64,
    /// Distinguishes what the kernel holds of the inode from what it held before it had to drop it.
    pub generation: u64,
    /// Plaintext size in bytes.
    pub size: u64,
    /// 512-byte blocks of the ciphertext.
    pub blocks: u64,
    /// Last access.
    pub atime: FileTime,
    /// Last change of the content.
    pub mtime: FileTime,
    /// Last change of the attributes.
    pub ctime: FileTime,
    /// Type.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Number of names.
    pub nlink: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u64,
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits with setuid, setgid and sticky.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Plaintext size in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the content.
    pub mtime: Option<SetTime>,
}

impl Attr {
    pub(super) fn new((ino, generation): (u64, u64), size: u64, nlink: u64, stat: &Stat) -> Self {
        Self {
            ino,
            generation,
            size,
            blocks: stat.blocks,
            atime: stat.atime,
            mtime: stat.mtime,
            ctime: stat.ctime,
            kind: stat.kind,
            mode: stat.mode,
            nlink,
            uid: stat.uid,
            gid: stat.gid,
            rdev: stat.rdev,
        }
    }
}
