//! The reference transport: requests as the crate `fuser` reads them, answered by the same [`Operations`].

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};

use super::admission::Need;
use super::connection::Device;
use super::mount;
use super::operations::{CONGESTION_THRESHOLD, MAX_BACKGROUND, MAX_WRITE, Operations, Served, Sized, Waited, Wanted};
use super::spec::MountSpec;
use super::tune::tune;
use super::writeback::{self, Job};
use crate::store::{Backing, FileKind, FileTime, SetTime};
use crate::sync::{Arc, Mutex, lock};
use crate::sys::reserve;
use crate::vfs::{Attr, Caller, DirEntry, Error, Result, SetAttr, Vfs};

/// Mounts and serves until somebody unmounts.
pub(super) fn serve<B: Backing>(
    vfs: Arc<Vfs<B>>,
    spec: &MountSpec,
    ready: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let connection = mount::mount(spec)?;
    let ours = Device::new(connection.try_clone().inspect_err(|_| mount::abandon(spec))?);
    serve_mount(vfs, spec, connection, ready).inspect_err(|_| {
        // Who served may have failed, and others have gone on until somebody unmounted: then something else may be mounted there.
        if ours.is_connected() {
            mount::abandon(spec);
        }
    })
}

fn serve_mount<B: Backing>(
    vfs: Arc<Vfs<B>>,
    spec: &MountSpec,
    connection: OwnedFd,
    ready: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let (sender, jobs) = writeback::queue();
    let adapter = Adapter::new(vfs, spec.read_only, sender);
    let acl = if spec.allow_other { SessionACL::All } else { SessionACL::Owner };
    let count = spec.serving_threads();
    let session = session(adapter, connection, acl, count)?;
    let notifier = session.notifier();
    writeback::start(jobs, move |ino| notifier.inval_inode(INodeNo(ino), 0, 0))?;
    tune(spec.mountpoint.clone(), spec.write_through);
    ready()?;
    session.run()
}

/// Serves the requests of a connection that somebody else has made, one after the other, until it ends; nobody is asked to write
/// anything back.
///
/// # Errors
/// A connection that ends before `INIT`, or fails.
pub fn serve_connection<B: Backing>(vfs: Arc<Vfs<B>>, connection: OwnedFd) -> io::Result<()> {
    let (sender, _no_jobs) = writeback::queue();
    session(Adapter::new(vfs, false, sender), connection, SessionACL::All, 1)?.run()
}

fn session<B: Backing>(
    adapter: Adapter<B>,
    connection: OwnedFd,
    acl: SessionACL,
    threads: usize,
) -> io::Result<Session<Adapter<B>>> {
    let mut config = Config::default();
    config.acl = acl;
    config.n_threads = Some(threads);
    Session::from_fd(adapter, connection, acl, config)
}

/// The filesystem as `fuser` calls it.
struct Adapter<B: Backing> {
    operations: Arc<Operations<B>>,
    postponed: Mutex<Sender<Job>>,
}

/// Runs one request. A panic ends the request, not the mount: the reply, dropped without an answer, tells the kernel
/// `EIO`, and the log has the rest.
fn guarded(operation: &'static str, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!(operation, "a request failed by a bug in kmsfs and was answered with EIO; please report it");
    }
}

fn errno(error: Error) -> Errno {
    Errno::from_i32(error.errno().raw_os_error())
}

fn caller(req: &Request, umask: u32) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), umask: umask & 0o777 }
}

fn empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn sized(reply: ReplyXattr, result: Result<Sized>) {
    match result {
        Ok(Sized::Size(size)) => reply.size(size),
        Ok(Sized::Value(value)) => reply.data(&value),
        Err(error) => reply.error(errno(error)),
    }
}

fn opened(reply: ReplyOpen, result: Result<(u64, u32)>) {
    match result {
        Ok((handle, flags)) => reply.opened(FileHandle(handle), FopenFlags::from_bits_truncate(flags)),
        Err(error) => reply.error(errno(error)),
    }
}

fn sought(reply: ReplyLseek, result: Result<u64>) {
    match result {
        Ok(at) => reply.offset(at.cast_signed()),
        Err(error) => reply.error(errno(error)),
    }
}

fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

fn system_time(time: FileTime) -> SystemTime {
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let second = if time.secs >= 0 { UNIX_EPOCH + whole } else { UNIX_EPOCH - whole };
    second + Duration::from_nanos(time.nanos.into())
}

/// A time as `fuser` 0.18 read it from the request: the nanoseconds of a time before the epoch it takes away instead of
/// adding them, so (-2 s, 0.5 s) arrives as -2.5 s. Seconds and nanoseconds are what the kernel sent either way.
fn file_time(time: SystemTime) -> FileTime {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => FileTime { secs: since.as_secs().cast_signed(), nanos: since.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            FileTime { secs: before.as_secs().cast_signed().wrapping_neg(), nanos: before.subsec_nanos() }
        }
    }
}

fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(file_time(time)),
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        kind: file_type(attr.kind),
        perm: attr.mode as u16,
        nlink: u32::try_from(attr.nlink).unwrap_or(u32::MAX),
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev as u32,
        ..blank(0, FileKind::Regular)
    }
}

/// Number and type only; number 0 is "there is no such entry, and you may remember that".
fn blank(ino: u64, kind: FileKind) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl<B: Backing> Adapter<B> {
    fn new(vfs: Arc<Vfs<B>>, read_only: bool, postponed: Sender<Job>) -> Self {
        Self { operations: Arc::new(Operations::new(vfs, read_only)), postponed: Mutex::new(postponed) }
    }

    fn vfs(&self) -> &Vfs<B> {
        &self.operations.vfs
    }

    fn entry(&self, reply: ReplyEntry, result: Result<Attr>) {
        match result {
            Ok(attr) => reply.entry(&self.operations.ttl, &file_attr(&attr), Generation(attr.generation)),
            Err(error) => reply.error(errno(error)),
        }
    }

    /// Serves a request, if it is to be served while memory is short.
    fn admitted<T>(&self, need: Need, serve: impl FnOnce(&Operations<B>) -> Result<T>) -> Result<T> {
        self.operations.admission.admit(need)?;
        serve(&self.operations)
    }

    /// Has a request served after write-back. A reply that is dropped tells the kernel `EIO`.
    fn postpone(&self, ino: u64, wanted: Wanted, answer: impl FnOnce(Result<Waited>) + Send + 'static) {
        let operations = Arc::clone(&self.operations);
        let serve = Box::new(move || answer(operations.after_writeback(ino, wanted)));
        if lock(&self.postponed).send(Job { ino, serve }).is_err() {
            tracing::error!(ino, "a request could not wait for write-back");
        }
    }

    fn attr(&self, reply: ReplyAttr, result: Result<Attr>) {
        match result {
            Ok(attr) => reply.attr(&self.operations.ttl, &file_attr(&attr)),
            Err(error) => reply.error(errno(error)),
        }
    }
}

impl<B: Backing> Filesystem for Adapter<B> {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA;
        if !self.operations.read_only {
            wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
        }
        if let Err(missing) = config.add_capabilities(wanted) {
            tracing::warn!(?missing, "the kernel lacks FUSE capabilities; going on without them");
            let _ = config.add_capabilities(wanted & !missing);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = config.set_congestion_threshold(CONGESTION_THRESHOLD);
        let _ = config.set_max_write(MAX_WRITE);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guarded("lookup", || {
            match self.admitted(Need::Lasting, |operations| operations.lookup(parent.0, name.as_bytes())) {
                Ok(None) => reply.entry(&self.operations.ttl, &blank(0, FileKind::Regular), Generation(0)),
                Ok(Some(attr)) => self.entry(reply, Ok(attr)),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, count: u64) {
        guarded("forget", || self.vfs().forget(ino.0, count));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        guarded("getattr", || self.attr(reply, self.vfs().getattr(ino.0)));
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
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        guarded("setattr", || {
            let change = SetAttr { mode, uid, gid, size, atime: atime.map(set_time), mtime: mtime.map(set_time) };
            self.attr(reply, self.operations.setattr(ino.0, fh.map(|fh| fh.0), &change, false));
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        guarded("readlink", || match self.vfs().read_link(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        guarded("mknod", || {
            let caller = caller(req, umask);
            let mknod = |operations: &Operations<B>| operations.mknod(parent.0, name.as_bytes(), mode, rdev, &caller);
            self.entry(reply, self.admitted(Need::Lasting, mknod));
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        guarded("mkdir", || {
            let caller = caller(req, umask);
            let mkdir =
                |operations: &Operations<B>| operations.vfs.mkdir(parent.0, name.as_bytes(), mode & 0o7777, &caller);
            self.entry(reply, self.admitted(Need::Lasting, mkdir));
        });
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded("unlink", || empty(reply, self.vfs().unlink(parent.0, name.as_bytes())));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded("rmdir", || empty(reply, self.vfs().rmdir(parent.0, name.as_bytes())));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        guarded("symlink", || {
            let target = target.as_os_str().as_bytes();
            let symlink =
                |operations: &Operations<B>| operations.vfs.symlink(parent.0, name.as_bytes(), target, &caller(req, 0));
            self.entry(reply, self.admitted(Need::Lasting, symlink));
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
            let (name, new_name) = (name.as_bytes(), newname.as_bytes());
            empty(reply, self.operations.rename(parent.0, name, newparent.0, new_name, flags.bits()));
        });
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        guarded("link", || {
            let link = |operations: &Operations<B>| operations.vfs.link(ino.0, newparent.0, newname.as_bytes());
            self.entry(reply, self.admitted(Need::Lasting, link));
        });
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        // This crate does not ask to empty files while they are opened, so the kernel leaves O_TRUNC out.
        guarded("open", || {
            let open = |operations: &Operations<B>| operations.open(ino.0, flags.0.cast_unsigned(), false);
            opened(reply, self.admitted(Need::Lasting, open));
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
        let create = |operations: &Operations<B>| {
            operations.vfs.create(parent.0, name.as_bytes(), mode & 0o7777, &caller(req, umask))
        };
        guarded("create", || match self.admitted(Need::Lasting, create) {
            Ok((attr, opened)) => {
                let (handle, flags) = self.operations.opened(&opened);
                let flags = FopenFlags::from_bits_truncate(flags);
                reply.created(
                    &self.operations.ttl,
                    &file_attr(&attr),
                    Generation(attr.generation),
                    FileHandle(handle),
                    flags,
                );
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
            let done = self.admitted(Need::Passing, |operations| {
                operations.vfs.read(fh.0, offset, size as usize, |bytes| {
                    if let Some(reply) = reply.take() {
                        reply.data(bytes);
                    }
                })
            });
            if let (Err(error), Some(reply)) = (done, reply) {
                reply.error(errno(error));
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = |operations: &Operations<B>| operations.write(ino.0, fh.0, offset, data, false);
        // The kernel writes back what was acknowledged long ago, and does not try again.
        let write_back = |operations: &Operations<B>| reserve::urgently(|| operations.write_back(fh.0, offset, data));
        guarded("write", || {
            let written = match write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
                true => self.admitted(Need::Little, write_back),
                false => self.admitted(Need::Passing, write),
            };
            match written {
                Ok(size) => reply.written(size),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
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
            self.vfs().release(fh.0);
            reply.ok();
        });
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        guarded("fsync", || empty(reply, self.vfs().fsync(fh.0, datasync)));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        guarded("opendir", || opened(reply, self.admitted(Need::Lasting, |operations| operations.opendir(ino.0))));
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        guarded("readdir", || {
            let add = |entry: &DirEntry| {
                let name = OsStr::from_bytes(&entry.name);
                !reply.add(INodeNo(entry.ino), entry.next, file_type(entry.kind), name)
            };
            let done = self.admitted(Need::Lasting, |operations| operations.vfs.read_dir(fh.0, offset, false, add));
            match done {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn readdirplus(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        guarded("readdirplus", || {
            let add = |entry: &DirEntry| {
                let name = OsStr::from_bytes(&entry.name);
                let (ttl, attr, generation) = match &entry.attr {
                    Some(attr) => (self.operations.ttl, file_attr(attr), attr.generation),
                    None => (Duration::ZERO, blank(entry.ino, entry.kind), 0),
                };
                // Node 0 without attributes: the kernel shows the name and asks for the rest when it needs it.
                let node = if entry.attr.is_some() { attr.ino } else { INodeNo(0) };
                !reply.add(node, entry.next, name, &ttl, &attr, Generation(generation))
            };
            let done = self.admitted(Need::Lasting, |operations| operations.vfs.read_dir(fh.0, offset, true, add));
            match done {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        guarded("releasedir", || {
            self.vfs().release_dir(fh.0);
            reply.ok();
        });
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        guarded("fsyncdir", || empty(reply, self.vfs().fsync_dir(fh.0)));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        guarded("statfs", || match self.vfs().stat_fs() {
            Ok(s) => {
                let (bsize, name_max, frsize) = (s.bsize as u32, s.name_max as u32, s.frsize as u32);
                reply.statfs(s.blocks, s.bfree, s.bavail, s.files, s.ffree, bsize, name_max, frsize);
            }
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
        guarded("setxattr", || match self.operations.setxattr(ino.0, name.as_bytes(), value, flags.cast_unsigned()) {
            Ok(Served::Now(())) => reply.ok(),
            Ok(Served::AfterWriteback(wanted)) => {
                self.postpone(ino.0, wanted, |served| empty(reply, served.map(drop)));
            }
            Err(error) => reply.error(errno(error)),
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        guarded("getxattr", || sized(reply, self.operations.getxattr(ino.0, name.as_bytes(), size)));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        guarded("listxattr", || sized(reply, self.operations.listxattr(ino.0, req.uid(), size)));
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded("removexattr", || empty(reply, self.vfs().remove_xattr(ino.0, name.as_bytes())));
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
        guarded("fallocate", || {
            empty(reply, self.operations.fallocate(fh.0, mode.cast_unsigned(), offset, length));
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
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        guarded("ioctl", || match self.operations.ioctl(ino.0, cmd, in_data, out_size) {
            Ok(Served::Now(answer)) => reply.ioctl(0, &answer),
            Ok(Served::AfterWriteback(wanted)) => self.postpone(ino.0, wanted, move |served| match served {
                Ok(_) => reply.ioctl(0, &[]),
                Err(error) => reply.error(errno(error)),
            }),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        guarded("lseek", || match self.operations.lseek(fh.0, offset, whence.cast_unsigned()) {
            Ok(Served::Now(at)) => sought(reply, Ok(at)),
            Ok(Served::AfterWriteback(wanted)) => self.postpone(ino.0, wanted, |served| match served {
                Ok(Waited::Offset(at)) => sought(reply, Ok(at)),
                Ok(_) => {}
                Err(error) => sought(reply, Err(error)),
            }),
            Err(error) => sought(reply, Err(error)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `fuser`'s own reading of a request, see [`file_time`].
    fn as_fuser_reads(secs: i64, nanos: u32) -> SystemTime {
        if secs >= 0 {
            UNIX_EPOCH + Duration::new(secs.unsigned_abs(), nanos)
        } else {
            UNIX_EPOCH - Duration::new(secs.unsigned_abs(), nanos)
        }
    }

    #[test]
    fn times_that_are_set_keep_their_nanoseconds_on_both_sides_of_the_epoch() {
        for (secs, nanos) in [(0, 0), (5, 999_999_999), (-1, 0), (-2, 500_000_000), (-100, 1), (i64::MIN, 0)] {
            assert_eq!(file_time(as_fuser_reads(secs, nanos)), FileTime { secs, nanos });
        }
    }

    #[test]
    fn times_that_are_shown_keep_their_nanoseconds() {
        let shown = system_time(FileTime { secs: -2, nanos: 500_000_000 });
        assert_eq!(UNIX_EPOCH.duration_since(shown).expect("before"), Duration::from_millis(1500));
    }
}
