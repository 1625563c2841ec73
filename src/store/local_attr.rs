//! Attributes of objects of a local directory: stat, mode, owner, times, extended attributes.
//!
//! Several of these calls have no `*at` form that refuses to follow a symlink. They go through `/proc/self/fd`: the
//! magic link of a descriptor leads to exactly the object it was opened for.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, IFlags, Mode, OFlags, StatxFlags, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::local::LocalDir;
use super::{FileKind, FileTime, Result, SetTime, Stat, Target, XattrMode};

/// Longest list of attribute names that Linux returns.
const XATTR_LIST_MAX: usize = 65536;
/// Longest attribute value that Linux takes.
const XATTR_SIZE_MAX: usize = 65536;

pub(super) fn kind_of(file_type: FileType) -> Option<FileKind> {
    match file_type {
        FileType::RegularFile => Some(FileKind::Regular),
        FileType::Directory => Some(FileKind::Directory),
        FileType::Symlink => Some(FileKind::Symlink),
        FileType::Fifo => Some(FileKind::Fifo),
        FileType::Socket => Some(FileKind::Socket),
        FileType::CharacterDevice => Some(FileKind::CharDevice),
        FileType::BlockDevice => Some(FileKind::BlockDevice),
        FileType::Unknown => None,
    }
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::Fifo,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharacterDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

pub(super) fn stat_at(dir: impl AsFd, name: &str) -> Result<Stat> {
    convert(&rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

pub(super) fn stat_fd(fd: impl AsFd) -> Result<Stat> {
    convert(&rustix::fs::fstat(fd)?)
}

fn convert(s: &rustix::fs::Stat) -> Result<Stat> {
    let time = |secs: i64, nanos: u64| FileTime { secs, nanos: nanos as u32 };
    Ok(Stat {
        ino: s.st_ino,
        kind: kind_of(FileType::from_raw_mode(s.st_mode)).ok_or(Errno::IO)?,
        mode: s.st_mode & 0o7777,
        nlink: s.st_nlink,
        uid: s.st_uid,
        gid: s.st_gid,
        rdev: s.st_rdev,
        size: u64::try_from(s.st_size).map_err(|_| Errno::IO)?,
        blocks: u64::try_from(s.st_blocks).map_err(|_| Errno::IO)?,
        atime: time(s.st_atime, s.st_atime_nsec),
        mtime: time(s.st_mtime, s.st_mtime_nsec),
        ctime: time(s.st_ctime, s.st_ctime_nsec),
    })
}

pub(super) fn birth_time(target: Target<'_, LocalDir>) -> Result<Option<FileTime>> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    let found = match target {
        Target::Named(dir, name) => rustix::fs::statx(&dir.0, name, flags, StatxFlags::BTIME),
        Target::Dir(handle) | Target::Node(handle) => rustix::fs::statx(&handle.0, c"", flags, StatxFlags::BTIME),
        Target::File(file) => rustix::fs::statx(&file.0, c"", flags, StatxFlags::BTIME),
    }?;
    let known = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    Ok(known.then_some(FileTime { secs: found.stx_btime.tv_sec, nanos: found.stx_btime.tv_nsec }))
}

pub(super) fn read_link(target: Target<'_, LocalDir>) -> Result<Vec<u8>> {
    let text = match target {
        Target::Named(dir, name) => rustix::fs::readlinkat(&dir.0, name, Vec::new()),
        // By an empty name the system says ENOENT of what is no symlink.
        Target::Node(handle) => rustix::fs::readlinkat(&handle.0, c"", Vec::new())
            .map_err(|e| if e == Errno::NOENT { Errno::INVAL } else { e }),
        Target::Dir(_) | Target::File(_) => Err(Errno::INVAL),
    };
    text.map(|text| text.into_bytes())
}

fn magic_link(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// A path that names the target for calls without an `*at` form; the last component is not to be followed when the
/// target is `Named`.
fn path_of(target: &Target<'_, LocalDir>) -> String {
    match target {
        Target::Named(dir, name) => format!("{}/{name}", magic_link(&dir.0)),
        Target::Dir(handle) | Target::Node(handle) => magic_link(&handle.0),
        Target::File(file) => magic_link(&file.0),
    }
}

pub(super) fn set_mode(target: Target<'_, LocalDir>, mode: u32) -> Result<()> {
    let mode = Mode::from_raw_mode(mode);
    match target {
        Target::Named(dir, name) => {
            // fchmodat follows symlinks: pin the object first.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&dir.0, name, flags, Mode::empty())?;
            if stat_fd(&fd)?.kind == FileKind::Symlink {
                return Err(Errno::OPNOTSUPP);
            }
            rustix::fs::chmod(magic_link(&fd), mode)
        }
        Target::Dir(handle) | Target::Node(handle) => rustix::fs::chmod(magic_link(&handle.0), mode),
        Target::File(file) => rustix::fs::fchmod(&file.0, mode),
    }
}

pub(super) fn set_owner(target: Target<'_, LocalDir>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    match target {
        Target::Named(dir, name) => rustix::fs::chownat(&dir.0, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        Target::Dir(handle) | Target::Node(handle) => {
            rustix::fs::chownat(&handle.0, c"", uid, gid, AtFlags::EMPTY_PATH)
        }
        Target::File(file) => rustix::fs::fchown(&file.0, uid, gid),
    }
}

pub(super) fn set_times(target: Target<'_, LocalDir>, atime: SetTime, mtime: SetTime) -> Result<()> {
    let time = |t: SetTime| match t {
        SetTime::Omit => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        SetTime::Now => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        SetTime::At(at) => at.into(),
    };
    let times = Timestamps { last_access: time(atime), last_modification: time(mtime) };
    match target {
        Target::Named(dir, name) => rustix::fs::utimensat(&dir.0, name, &times, AtFlags::SYMLINK_NOFOLLOW),
        Target::Dir(handle) | Target::Node(handle) => {
            rustix::fs::utimensat(rustix::fs::CWD, magic_link(&handle.0), &times, AtFlags::empty())
        }
        Target::File(file) => rustix::fs::futimens(&file.0, &times),
    }
}

pub(super) fn get_xattr(target: Target<'_, LocalDir>, name: &str) -> Result<Vec<u8>> {
    let path = path_of(&target);
    let mut value = vec![0; 256];
    loop {
        let read = match target {
            Target::Named(..) => rustix::fs::lgetxattr(&path, name, &mut value[..]),
            _ => rustix::fs::getxattr(&path, name, &mut value[..]),
        };
        match read {
            Ok(n) => {
                value.truncate(n);
                return Ok(value);
            }
            Err(Errno::RANGE) if value.len() < XATTR_SIZE_MAX => value.resize(XATTR_SIZE_MAX, 0),
            Err(e) => return Err(e),
        }
    }
}

pub(super) fn set_xattr(target: Target<'_, LocalDir>, name: &str, value: &[u8], mode: XattrMode) -> Result<()> {
    let path = path_of(&target);
    let flags = match mode {
        XattrMode::Set => XattrFlags::empty(),
        XattrMode::Create => XattrFlags::CREATE,
        XattrMode::Replace => XattrFlags::REPLACE,
    };
    match target {
        Target::Named(..) => rustix::fs::lsetxattr(&path, name, value, flags),
        _ => rustix::fs::setxattr(&path, name, value, flags),
    }
}

pub(super) fn list_xattrs(target: Target<'_, LocalDir>) -> Result<Vec<String>> {
    let path = path_of(&target);
    let mut names = vec![0; XATTR_LIST_MAX];
    let len = match target {
        Target::Named(..) => rustix::fs::llistxattr(&path, &mut names[..]),
        _ => rustix::fs::listxattr(&path, &mut names[..]),
    }?;
    let names = names[..len].split(|&b| b == 0).filter(|name| !name.is_empty());
    Ok(names.filter_map(|name| String::from_utf8(name.to_vec()).ok()).collect())
}

pub(super) fn remove_xattr(target: Target<'_, LocalDir>, name: &str) -> Result<()> {
    let path = path_of(&target);
    match target {
        Target::Named(..) => rustix::fs::lremovexattr(&path, name),
        _ => rustix::fs::removexattr(&path, name),
    }
}

pub(super) fn inode_flags(target: Target<'_, LocalDir>) -> Result<u32> {
    Ok(rustix::fs::ioctl_getflags(readable(target)?)?.bits())
}

pub(super) fn set_inode_flags(target: Target<'_, LocalDir>, flags: u32) -> Result<()> {
    rustix::fs::ioctl_setflags(readable(target)?, IFlags::from_bits_retain(flags))
}

/// A readable descriptor of a file or directory; other types have no inode flags, and opening them could block.
fn readable(target: Target<'_, LocalDir>) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let pinned = match target {
        Target::Named(dir, name) => {
            let pin = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&dir.0, name, pin, Mode::empty())?
        }
        Target::Dir(handle) | Target::Node(handle) => rustix::io::fcntl_dupfd_cloexec(&handle.0, 0)?,
        Target::File(file) => rustix::io::fcntl_dupfd_cloexec(&file.0, 0)?,
    };
    match stat_fd(&pinned)?.kind {
        FileKind::Regular | FileKind::Directory => rustix::fs::open(magic_link(&pinned), flags, Mode::empty()),
        _ => Err(Errno::NOTTY),
    }
}
