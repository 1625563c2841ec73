//! Attributes of an inode as applications see them.

use super::fs::Vfs;
use super::inode::Inode;
use super::table::ROOT;
use crate::format::symlink;
use crate::store::{Backing, FileKind, FileTime, SetTime, Stat};
use crate::sync::lock;

/// Attributes as stat(2) shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number, stable across mounts.
    pub ino: u64,
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
    pub(super) fn new(ino: u64, size: u64, nlink: u64, stat: &Stat) -> Self {
        Self {
            ino,
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

impl<B: Backing> Vfs<B> {
    /// Plaintext size: from the open content where there is one, else by arithmetic on the stored size. Never an error:
    /// a damaged file must stay listable.
    pub(super) fn plain_size(&self, inode: &Inode<B>, stat: &Stat) -> u64 {
        match stat.kind {
            FileKind::Regular => {
                let open = lock(&inode.content).content.as_ref().map(|content| content.size());
                open.unwrap_or_else(|| self.volume.geometry.lenient_plain_size(stat.size))
            }
            FileKind::Symlink => symlink::shown_size(stat.size),
            _ => stat.size,
        }
    }

    /// Names of an inode. The root's backing directory counts `.kmsfs`, which nobody sees.
    pub(super) fn plain_nlink(&self, inode: &Inode<B>, stat: &Stat) -> u64 {
        if inode.number == ROOT && stat.nlink > 2 { stat.nlink - 1 } else { stat.nlink }
    }
}
