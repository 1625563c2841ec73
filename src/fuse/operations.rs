//! What a request means to the filesystem: numbers and flags of the protocol into calls of [`crate::vfs`]. Every
//! transport uses it; what needs no translation, transports ask of [`Operations::vfs`] themselves.

use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use super::abi::fopen;
use super::admission::Admission;
use crate::store::{Backing, FileKind, RenameMode, XattrMode};
use crate::sync::Arc;
use crate::vfs::{Attr, Caller, FallocateMode, Opened, Result, SetAttr, Vfs};

/// How long the kernel may keep names and attributes of a volume that nobody else changes.
const EXCLUSIVE_TTL: Duration = Duration::from_secs(3600);
/// The same where another process may be writing.
const SHARED_TTL: Duration = Duration::from_secs(1);
/// Requests that the kernel may have under way in the background: readahead, asynchronous direct I/O, write-back.
pub(super) const MAX_BACKGROUND: u16 = 64;
/// From how many on it lets programs wait.
pub(super) const CONGESTION_THRESHOLD: u16 = 48;
/// Bytes of the largest WRITE, and of what a READ may ask for.
pub(super) const MAX_WRITE: u32 = 1 << 20;
/// Bytes of the largest READ that the kernel is to send: a window of readahead, or a program's large direct read, then is several,
/// which are served at once, and the first of them is there before the last is read. The numbers are in
/// docs/PERFORMANCE.md; WRITEs gain nothing.
pub(super) const MAX_READ: u32 = 256 << 10;
/// `FS_IOC_GETFLAGS` and `FS_IOC_SETFLAGS` of linux/fs.h: inode flags of chattr(1).
const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
/// `FS_IOC_FSGETXATTR`, with which the kernel reads the present flags before it sets some.
const GET_XFLAGS: u32 = 0x801c_581f;
/// Both flags of rename(2), which overlayfs may combine.
const WHITEOUT_NOREPLACE: u32 = libc::RENAME_WHITEOUT | libc::RENAME_NOREPLACE;
/// The attribute that makes a program privileged, and that every write to its file takes away.
const CAPABILITY: &[u8] = b"security.capability";
/// The attribute that holds SELinux's label.
const SELINUX: &[u8] = b"security.selinux";
/// There where the kernel has SELinux switched on.
const SELINUX_MOUNTED: &str = "/sys/fs/selinux/enforce";

/// The filesystem as transports see it.
pub(super) struct Operations<B: Backing> {
    /// The filesystem.
    pub(super) vfs: Arc<Vfs<B>>,
    /// Nothing may be changed, by this mount.
    pub(super) read_only: bool,
    /// How long the kernel may keep what it is told.
    pub(super) ttl: Duration,
    /// Which requests are served while memory is short.
    pub(super) admission: Admission,
    /// Whether the kernel labels files.
    labels: bool,
}

/// What is sought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whence {
    Data,
    Hole,
}

/// What a request that waits for write-back is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// `SEEK_DATA` or `SEEK_HOLE`.
    Seek { handle: u64, offset: u64, whence: Whence },
    /// `FS_IOC_SETFLAGS`.
    InodeFlags(u32),
    /// setxattr(2) of `security.capability`.
    Capability { value: Vec<u8>, mode: XattrMode },
    /// Nothing: a flush that failed with this, to be told when the kernel has dropped what it holds of the file.
    Failed(Errno),
}

/// What a request that waited for write-back comes to.
pub(super) enum Waited {
    /// Of [`Wanted::Seek`].
    Offset(u64),
    /// Of [`Wanted::InodeFlags`].
    FlagsSet,
    /// Of [`Wanted::Capability`].
    XattrSet,
}

/// What a request comes to.
pub(super) enum Served<T> {
    /// This.
    Now(T),
    /// It is to be served when the kernel has written back what it holds dirty of the file.
    AfterWriteback(Wanted),
}

/// A value whose size a caller may want to know first, or an attribute's size.
pub(super) enum Sized {
    /// So many bytes.
    Size(u32),
    /// These bytes.
    Value(Vec<u8>),
}

impl<B: Backing> Operations<B> {
    pub(super) fn new(vfs: Arc<Vfs<B>>, read_only: bool) -> Self {
        let ttl = if read_only { SHARED_TTL } else { EXCLUSIVE_TTL };
        Self { vfs, read_only, ttl, admission: Admission::new(), labels: Path::new(SELINUX_MOUNTED).exists() }
    }

    /// The entry of a name; `None` if there is none, which the kernel may remember.
    pub(super) fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Attr>> {
        match self.vfs.lookup(parent, name) {
            Err(error) if error.errno() == Errno::NOENT => Ok(None),
            other => other.map(Some),
        }
    }

    /// Changes attributes; `kill_set_id`: somebody cuts or gives away a file who may not keep its setuid and setgid bits.
    pub(super) fn setattr(&self, ino: u64, handle: Option<u64>, change: &SetAttr, kill_set_id: bool) -> Result<Attr> {
        let changed = self.vfs.setattr(ino, handle, change)?;
        if kill_set_id && self.vfs.kill_set_id(ino)? { self.vfs.getattr(ino) } else { Ok(changed) }
    }

    pub(super) fn mknod(&self, parent: u64, name: &[u8], mode: u32, rdev: u32, caller: &Caller) -> Result<Attr> {
        let kind = kind_of_mode(mode).ok_or(Errno::INVAL)?;
        self.vfs.mknod(parent, name, kind, mode & 0o7777, rdev.into(), caller)
    }

    pub(super) fn rename(&self, parent: u64, name: &[u8], to: u64, to_name: &[u8], flags: u32) -> Result<()> {
        let mode = match flags {
            0 => RenameMode::Replace,
            libc::RENAME_NOREPLACE => RenameMode::NoReplace,
            libc::RENAME_EXCHANGE => RenameMode::Exchange,
            libc::RENAME_WHITEOUT => RenameMode::Whiteout,
            WHITEOUT_NOREPLACE => RenameMode::WhiteoutNoReplace,
            _ => return Err(Errno::INVAL.into()),
        };
        self.vfs.rename(parent, name, to, to_name, mode)
    }

    /// Opens a file, by open(2)'s flags; the handle and the flags of the answer.
    pub(super) fn open(&self, ino: u64, flags: u32, kill_set_id: bool) -> Result<(u64, u32)> {
        let flags = flags.cast_signed();
        let writable = flags & libc::O_ACCMODE != libc::O_RDONLY;
        if flags & libc::O_TRUNC == 0 {
            return Ok(self.opened(&self.vfs.open(ino, writable)?));
        }
        let opened = self.vfs.open_emptied(ino, writable)?;
        if kill_set_id && let Err(error) = self.vfs.kill_set_id(ino) {
            self.vfs.release(opened.handle);
            return Err(error);
        }
        Ok(self.opened(&opened))
    }

    /// Handle and flags of the answer for a file that was opened.
    pub(super) fn opened(&self, opened: &Opened) -> (u64, u32) {
        let flags = match (opened.uncached, self.read_only) {
            (true, _) => fopen::DIRECT_IO,
            // All changes pass this mount, so what the kernel holds stays true from open to open.
            (false, false) => fopen::KEEP_CACHE,
            (false, true) => 0,
        };
        (opened.handle, flags)
    }

    /// Opens a directory; the handle and the flags of the answer.
    pub(super) fn opendir(&self, ino: u64) -> Result<(u64, u32)> {
        let handle = self.vfs.open_dir(ino)?;
        Ok((handle, if self.read_only { 0 } else { fopen::KEEP_CACHE | fopen::CACHE_DIR }))
    }

    /// Writes all of `data`; `kill_set_id`: somebody writes who may not keep a file's setuid and setgid bits.
    pub(super) fn write(&self, ino: u64, handle: u64, offset: u64, data: &[u8], kill_set_id: bool) -> Result<u32> {
        self.vfs.write(handle, offset, data)?;
        if kill_set_id {
            self.vfs.kill_set_id(ino)?;
        }
        length(data)
    }

    /// Writes pages that the kernel held dirty.
    pub(super) fn write_back(&self, handle: u64, offset: u64, data: &[u8]) -> Result<u32> {
        self.vfs.write_back(handle, offset, data)?;
        length(data)
    }

    pub(super) fn fallocate(&self, handle: u64, mode: u32, offset: u64, len: u64) -> Result<()> {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: i32 = ZERO | KEEP;
        let mode = match mode.cast_signed() {
            0 => FallocateMode::Allocate,
            KEEP => FallocateMode::KeepSize,
            PUNCH => FallocateMode::PunchHole,
            ZERO => FallocateMode::ZeroRange { keep_size: false },
            ZERO_KEEP => FallocateMode::ZeroRange { keep_size: true },
            _ => return Err(Errno::OPNOTSUPP.into()),
        };
        self.vfs.fallocate(handle, mode, offset, len)
    }

    /// What a change by `uid` takes away of a file where the request does not say: everything but root's writes do.
    pub(super) fn changed_by(&self, uid: u32, ino: u64) -> Result<()> {
        if uid != 0 {
            self.vfs.kill_set_id(ino)?;
        }
        Ok(())
    }

    /// Sets an attribute.
    pub(super) fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], flags: u32) -> Result<Served<()>> {
        let mode = match flags.cast_signed() {
            0 => XattrMode::Set,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return Err(Errno::INVAL.into()),
        };
        // Whatever is written removes it, also what was written before and is on its way.
        if name == CAPABILITY && self.vfs.is_open_for_writing(ino)? {
            return Ok(Served::AfterWriteback(Wanted::Capability { value: value.to_owned(), mode }));
        }
        self.vfs.set_xattr(ino, name, value, mode).map(Served::Now)
    }

    /// An attribute. `ls -l` asks for SELinux's label of each file, until it hears that there are none here: where the kernel
    /// knows of no labels, that is what it is told.
    pub(super) fn getxattr(&self, ino: u64, name: &[u8], size: u32) -> Result<Sized> {
        match self.vfs.get_xattr(ino, name) {
            Err(error) if error.errno() == Errno::NODATA && name == SELINUX && !self.labels => {
                Err(Errno::OPNOTSUPP.into())
            }
            other => sized(other?, size),
        }
    }

    /// Names, each with a NUL behind it.
    pub(super) fn listxattr(&self, ino: u64, uid: u32, size: u32) -> Result<Sized> {
        let names = self.vfs.list_xattrs(ino, uid == 0)?;
        sized(names.iter().flat_map(|name| name.iter().chain(&[0])).copied().collect(), size)
    }

    /// Answers the ioctls of inode flags.
    pub(super) fn ioctl(&self, ino: u64, command: u32, data: &[u8], room: u32) -> Result<Served<Vec<u8>>> {
        let answer = match command {
            GET_FLAGS => self.vfs.inode_flags(ino)?.to_ne_bytes().to_vec(),
            GET_XFLAGS => fsxattr(self.vfs.inode_flags(ino)?).to_vec(),
            SET_FLAGS => {
                let flags = u32::from_ne_bytes(*data.first_chunk().ok_or(Errno::INVAL)?);
                if self.vfs.is_open_for_writing(ino)? {
                    return Ok(Served::AfterWriteback(Wanted::InodeFlags(flags)));
                }
                self.vfs.set_inode_flags(ino, flags)?;
                Vec::new()
            }
            _ => return Err(Errno::NOTTY.into()),
        };
        if answer.len() > room as usize { Err(Errno::INVAL.into()) } else { Ok(Served::Now(answer)) }
    }

    /// `SEEK_DATA` and `SEEK_HOLE`.
    pub(super) fn lseek(&self, handle: u64, offset: i64, whence: u32) -> Result<Served<u64>> {
        let whence = match whence.cast_signed() {
            libc::SEEK_DATA => Whence::Data,
            libc::SEEK_HOLE => Whence::Hole,
            _ => return Err(Errno::INVAL.into()),
        };
        let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        if self.vfs.has_writers(handle)? {
            return Ok(Served::AfterWriteback(Wanted::Seek { handle, offset, whence }));
        }
        self.seek(handle, offset, whence).map(Served::Now)
    }

    /// Serves what waited for write-back.
    pub(super) fn after_writeback(&self, ino: u64, wanted: Wanted) -> Result<Waited> {
        match wanted {
            Wanted::Seek { handle, offset, whence } => self.seek(handle, offset, whence).map(Waited::Offset),
            Wanted::Failed(errno) => Err(errno.into()),
            Wanted::InodeFlags(flags) => self.vfs.set_inode_flags(ino, flags).map(|()| Waited::FlagsSet),
            Wanted::Capability { value, mode } => {
                self.vfs.set_xattr(ino, CAPABILITY, &value, mode).map(|()| Waited::XattrSet)
            }
        }
    }

    /// As [`Self::lseek`], when nothing is dirty.
    fn seek(&self, handle: u64, offset: u64, whence: Whence) -> Result<u64> {
        match whence {
            Whence::Data => self.vfs.seek_data(handle, offset),
            Whence::Hole => self.vfs.seek_hole(handle, offset),
        }
    }
}

fn length(data: &[u8]) -> Result<u32> {
    u32::try_from(data.len()).map_err(|_| Errno::FBIG.into())
}

fn sized(value: Vec<u8>, room: u32) -> Result<Sized> {
    match u32::try_from(value.len()) {
        Ok(len) if room == 0 => Ok(Sized::Size(len)),
        Ok(len) if len <= room => Ok(Sized::Value(value)),
        _ => Err(Errno::RANGE.into()),
    }
}

/// Inode flags as `struct fsxattr` of linux/fs.h tells them: 28 bytes that begin with `fsx_xflags`.
fn fsxattr(flags: u32) -> [u8; 28] {
    // (FS_*_FL, FS_XFLAG_*)
    const PAIRS: [(u32, u32); 5] = [(0x10, 0x8), (0x20, 0x10), (0x8, 0x20), (0x80, 0x40), (0x40, 0x80)];
    let xflags = PAIRS.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |all, (_, xflag)| all | xflag);
    let mut bytes = [0; 28];
    bytes[..4].copy_from_slice(&u32::to_ne_bytes(xflags));
    bytes
}

/// The type in a mode as mknod(2) takes it; none means a regular file.
fn kind_of_mode(mode: u32) -> Option<FileKind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(FileKind::Regular),
        libc::S_IFIFO => Some(FileKind::Fifo),
        libc::S_IFSOCK => Some(FileKind::Socket),
        libc::S_IFCHR => Some(FileKind::CharDevice),
        libc::S_IFBLK => Some(FileKind::BlockDevice),
        _ => None,
    }
}
