//! Requests of `fuser` into calls of the filesystem.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::Sender;
use std::time::Duration;

use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

use super::convert::{errno, file_attr, file_type, kind_of_mode, no_entry, set_time};
use super::seek::{self, Job, Whence};
use crate::store::{Backing, RenameMode, XattrMode};
use crate::sync::{Arc, Mutex, lock};
use crate::vfs::{Attr, Caller, FallocateMode, Result, SetAttr, Vfs};

/// How long the kernel may keep names and attributes of a volume that nobody else changes.
const EXCLUSIVE_TTL: Duration = Duration::from_secs(3600);
/// The same where another process may be writing.
const SHARED_TTL: Duration = Duration::from_secs(1);
/// Requests that the kernel may have under way in the background: readahead, asynchronous direct I/O, write-back.
const MAX_BACKGROUND: u16 = 64;
const CONGESTION_THRESHOLD: u16 = 48;
/// `FS_IOC_GETFLAGS` and `FS_IOC_SETFLAGS` of linux/fs.h: inode flags of chattr(1).
const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
/// `FS_IOC_FSGETXATTR`, with which the kernel reads the present flags before it sets some.
const GET_XFLAGS: u32 = 0x801c_581f;
/// Inode numbers are not used again while the kernel knows them, so one generation is enough.
const GENERATION: Generation = Generation(0);

/// The filesystem as `fuser` calls it.
pub(super) struct Adapter<B: Backing> {
    vfs: Arc<Vfs<B>>,
    read_only: bool,
    ttl: Duration,
    seeks: Mutex<Sender<Job>>,
}

impl<B: Backing> Adapter<B> {
    pub(super) fn new(vfs: Arc<Vfs<B>>, read_only: bool, seeks: Sender<Job>) -> Self {
        let ttl = if read_only { SHARED_TTL } else { EXCLUSIVE_TTL };
        Self { vfs, read_only, ttl, seeks: Mutex::new(seeks) }
    }

    fn open_flags(&self) -> FopenFlags {
        // All changes pass this mount, so what the kernel holds stays true from open to open.
        if self.read_only { FopenFlags::empty() } else { FopenFlags::FOPEN_KEEP_CACHE }
    }

    fn entry(&self, reply: ReplyEntry, result: Result<Attr>) {
        match result {
            Ok(attr) => reply.entry(&self.ttl, &file_attr(&attr), GENERATION),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn attr(&self, reply: ReplyAttr, result: Result<Attr>) {
        match result {
            Ok(attr) => reply.attr(&self.ttl, &file_attr(&attr)),
            Err(error) => reply.error(errno(error)),
        }
    }
}

fn empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn sized(reply: ReplyXattr, size: u32, value: &[u8]) {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
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

fn caller(req: &Request, umask: u32) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), umask: umask & 0o777 }
}

/// Runs one request. A panic ends the request, not the mount: the reply, dropped without an answer, tells the kernel
/// `EIO`, and the log has the rest.
fn guarded(operation: &'static str, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!(operation, "a request failed by a bug in kmsfs and was answered with EIO; please report it");
    }
}

impl<B: Backing> Filesystem for Adapter<B> {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let mut wanted = InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA;
        if !self.read_only {
            wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
        }
        if let Err(missing) = config.add_capabilities(wanted) {
            tracing::warn!(?missing, "the kernel lacks FUSE capabilities; going on without them");
            let _ = config.add_capabilities(wanted & !missing);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_congestion_threshold(CONGESTION_THRESHOLD);
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guarded("lookup", || match self.vfs.lookup(parent.0, name.as_bytes()) {
            Err(error) if error.errno() == rustix::io::Errno::NOENT => reply.entry(&self.ttl, &no_entry(), GENERATION),
            result => self.entry(reply, result),
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, count: u64) {
        guarded("forget", || self.vfs.forget(ino.0, count));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        guarded("getattr", || self.attr(reply, self.vfs.getattr(ino.0)));
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        guarded("setattr", || {
            let change = SetAttr { mode, uid, gid, size, atime: atime.map(set_time), mtime: mtime.map(set_time) };
            self.attr(reply, self.vfs.setattr(ino.0, fh.map(|fh| fh.0), &change));
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        guarded("readlink", || match self.vfs.read_link(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        guarded("mknod", || {
            let Some(kind) = kind_of_mode(mode) else { return reply.error(Errno::EINVAL) };
            let caller = caller(req, umask);
            let made = self.vfs.mknod(parent.0, name.as_bytes(), kind, mode & 0o7777, rdev.into(), &caller);
            self.entry(reply, made);
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        guarded("mkdir", || {
            self.entry(reply, self.vfs.mkdir(parent.0, name.as_bytes(), mode & 0o7777, &caller(req, umask)));
        });
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded("unlink", || empty(reply, self.vfs.unlink(parent.0, name.as_bytes())));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded("rmdir", || empty(reply, self.vfs.rmdir(parent.0, name.as_bytes())));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        guarded("symlink", || {
            let target = target.as_os_str().as_bytes();
            self.entry(reply, self.vfs.symlink(parent.0, name.as_bytes(), target, &caller(req, 0)));
        });
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        guarded("rename", || {
            let mode = match flags {
                f if f.is_empty() => RenameMode::Replace,
                f if f == RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
                f if f == RenameFlags::RENAME_EXCHANGE => RenameMode::Exchange,
                f if f == RenameFlags::RENAME_WHITEOUT => RenameMode::Whiteout,
                _ => return reply.error(Errno::EINVAL),
            };
            empty(reply, self.vfs.rename(parent.0, name.as_bytes(), newparent.0, newname.as_bytes(), mode));
        });
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        guarded("link", || self.entry(reply, self.vfs.link(ino.0, newparent.0, newname.as_bytes())));
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        guarded("open", || {
            let writable = flags.acc_mode() != OpenAccMode::O_RDONLY;
            match self.vfs.open(ino.0, writable) {
                Ok(opened) => reply.opened(FileHandle(opened.handle), self.open_flags()),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        guarded("create", || match self.vfs.create(parent.0, name.as_bytes(), mode & 0o7777, &caller(req, umask)) {
            Ok((attr, opened)) => {
                let handle = FileHandle(opened.handle);
                reply.created(&self.ttl, &file_attr(&attr), GENERATION, handle, self.open_flags());
            }
            Err(error) => reply.error(errno(error)),
        });
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        guarded("read", || {
            // The reply goes into the closure by way of an option: only one of the two uses happens.
            let mut reply = Some(reply);
            let done = self.vfs.read(fh.0, offset, size as usize, |bytes| {
                if let Some(reply) = reply.take() {
                    reply.data(bytes);
                }
            });
            if let (Err(error), Some(reply)) = (done, reply) {
                reply.error(errno(error));
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        guarded("write", || match self.vfs.write(fh.0, offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        // Nothing is held back per handle. The kernel writes its dirty pages before it asks, and after this answer it
        // does not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        guarded("release", || {
            self.vfs.release(fh.0);
            reply.ok();
        });
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        guarded("fsync", || empty(reply, self.vfs.fsync(fh.0, datasync)));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        guarded("opendir", || match self.vfs.open_dir(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        guarded("readdir", || {
            let done = self.vfs.read_dir(fh.0, offset, false, |entry| {
                let name = OsStr::from_bytes(&entry.name);
                !reply.add(INodeNo(entry.ino), entry.next, file_type(entry.kind), name)
            });
            match done {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn readdirplus(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        guarded("readdirplus", || {
            let done = self.vfs.read_dir(fh.0, offset, true, |entry| {
                let name = OsStr::from_bytes(&entry.name);
                let (ttl, attr) = match &entry.attr {
                    Some(attr) => (self.ttl, file_attr(attr)),
                    // `.`, `..`, and what cannot be read: number and type only.
                    None => {
                        let attr =
                            fuser::FileAttr { ino: INodeNo(entry.ino), kind: file_type(entry.kind), ..no_entry() };
                        (Duration::ZERO, attr)
                    }
                };
                // Node 0 without attributes: the kernel shows the name and asks for the rest when it needs it.
                let node = if entry.attr.is_some() { attr.ino } else { INodeNo(0) };
                !reply.add(node, entry.next, name, &ttl, &attr, GENERATION)
            });
            match done {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        guarded("releasedir", || {
            self.vfs.release_dir(fh.0);
            reply.ok();
        });
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        guarded("fsyncdir", || empty(reply, self.vfs.fsync_dir(fh.0)));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        guarded("statfs", || match self.vfs.stat_fs() {
            Ok(s) => reply.statfs(
                s.blocks,
                s.bfree,
                s.bavail,
                s.files,
                s.ffree,
                s.bsize as u32,
                s.name_max as u32,
                s.frsize as u32,
            ),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        guarded("setxattr", || {
            let mode = match flags {
                0 => XattrMode::Set,
                libc::XATTR_CREATE => XattrMode::Create,
                libc::XATTR_REPLACE => XattrMode::Replace,
                _ => return reply.error(Errno::EINVAL),
            };
            empty(reply, self.vfs.set_xattr(ino.0, name.as_bytes(), value, mode));
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        guarded("getxattr", || match self.vfs.get_xattr(ino.0, name.as_bytes()) {
            Ok(value) => sized(reply, size, &value),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        guarded("listxattr", || match self.vfs.list_xattrs(ino.0, req.uid() == 0) {
            Ok(names) => {
                let list: Vec<u8> = names.iter().flat_map(|name| name.iter().chain(&[0])).copied().collect();
                sized(reply, size, &list);
            }
            Err(error) => reply.error(errno(error)),
        });
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded("removexattr", || empty(reply, self.vfs.remove_xattr(ino.0, name.as_bytes())));
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: i32 = ZERO | KEEP;
        guarded("fallocate", || {
            let mode = match mode {
                0 => FallocateMode::Allocate,
                KEEP => FallocateMode::KeepSize,
                PUNCH => FallocateMode::PunchHole,
                ZERO => FallocateMode::ZeroRange { keep_size: false },
                ZERO_KEEP => FallocateMode::ZeroRange { keep_size: true },
                _ => return reply.error(Errno::EOPNOTSUPP),
            };
            empty(reply, self.vfs.fallocate(fh.0, mode, offset, length));
        });
    }

    fn ioctl(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        guarded("ioctl", || match cmd {
            GET_FLAGS => match self.vfs.inode_flags(ino.0) {
                Ok(flags) => reply.ioctl(0, &flags.to_ne_bytes()),
                Err(error) => reply.error(errno(error)),
            },
            GET_XFLAGS => match self.vfs.inode_flags(ino.0) {
                Ok(flags) => reply.ioctl(0, &fsxattr(flags)),
                Err(error) => reply.error(errno(error)),
            },
            SET_FLAGS => {
                let Some(flags) = in_data.first_chunk() else { return reply.error(Errno::EINVAL) };
                match self.vfs.set_inode_flags(ino.0, u32::from_ne_bytes(*flags)) {
                    Ok(()) => reply.ioctl(0, &[]),
                    Err(error) => reply.error(errno(error)),
                }
            }
            _ => reply.error(Errno::ENOTTY),
        });
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        guarded("lseek", || {
            let whence = match whence {
                libc::SEEK_DATA => Whence::Data,
                libc::SEEK_HOLE => Whence::Hole,
                _ => return reply.error(Errno::EINVAL),
            };
            let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
            match self.vfs.has_writers(fh.0) {
                Ok(false) => seek::answer(reply, seek::seek(&self.vfs, fh.0, offset, whence)),
                Ok(true) => {
                    let job = Job { ino, handle: fh.0, offset, whence, reply };
                    if let Err(unsent) = lock(&self.seeks).send(job) {
                        unsent.0.reply.error(Errno::EIO);
                    }
                }
                Err(error) => reply.error(errno(error)),
            }
        });
    }
}
