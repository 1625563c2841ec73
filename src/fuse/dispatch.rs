//! Bytes in, bytes out: one request of the kernel becomes one call of the filesystem and one answer. Knows nothing of
//! devices, so that all of it is tested without a kernel.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Sender;
use std::time::Instant;

use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::abi::{
    FSYNC_FDATASYNC, GetxattrOut, InHeader, InitIn, IoctlOut, OPEN_KILL_SUIDGID, OffsetOut, SETXATTR_ACL_KILL_SGID,
    SetattrIn, StatfsOut, WRITE_CACHE, WRITE_KILL_SUIDGID, WriteOut, fattr,
};
use super::admission::Need;
use super::listings::Listings;
use super::negotiate::{Agreed, agree};
use super::notices::Notice;
use super::operations::{MAX_WRITE, Operations, Served, Sized, Waited, Wanted};
use super::reply::{self, Entries, Reply, Sink};
use super::request::{Malformed, Operation, Request, forgotten};
use super::statistics::Statistics;
use super::writeback::Pending;
use crate::store::{Backing, FileTime, SetTime};
use crate::sync::{Arc, OnceLock};
use crate::sys::reserve;
use crate::vfs::{Caller, DirEntry, Result, SetAttr, Vfs};

/// The handle of a directory that was not opened. [`Vfs`] gives none that number.
const UNOPENED: u64 = 0;

/// Answers requests.
pub struct Dispatcher<B: Backing> {
    pub(super) operations: Arc<Operations<B>>,
    agreed: OnceLock<Agreed>,
    listings: Listings,
    rings: bool,
    write_through: bool,
    statistics: Arc<Statistics>,
    /// Where what the kernel is to be told unasked goes.
    notices: Option<Sender<Notice>>,
}

impl<B: Backing> Dispatcher<B> {
    /// For a filesystem; `read_only` as it was mounted.
    pub fn new(vfs: Arc<Vfs<B>>, read_only: bool) -> Self {
        let operations = Arc::new(Operations::new(vfs, read_only));
        Self {
            operations,
            agreed: OnceLock::new(),
            listings: Listings::default(),
            rings: false,
            write_through: false,
            statistics: Arc::default(),
            notices: None,
        }
    }

    /// The same, which counts what it serves there.
    pub(super) fn counting(self, statistics: Arc<Statistics>) -> Self {
        Self { statistics, ..self }
    }

    /// The same, which tells the kernel unasked what it holds without its being stored.
    pub(super) fn noticing(self, notices: Sender<Notice>) -> Self {
        Self { notices: Some(notices), ..self }
    }

    /// The same, which agrees to requests that come through rings.
    pub(super) fn with_rings(self) -> Self {
        Self { rings: true, ..self }
    }

    /// The same, for a mount where every write(2) is to be served at once.
    pub(super) fn write_through(self, write_through: bool) -> Self {
        Self { write_through, ..self }
    }

    /// Serves one request and gives its answer, if it has one, to `sink`. `scratch` is memory for listings. A request
    /// that panics is answered with `EIO`, one that cannot be read with `EINVAL`.
    pub fn handle<S: Sink>(&self, request: &[u8], scratch: &mut Vec<u8>, sink: &mut S) -> Option<Pending> {
        self.handle_parsed(Request::parse(request), scratch, sink)
    }

    /// As [`Self::handle`], for a request that was read already.
    pub(super) fn handle_parsed<S: Sink>(
        &self,
        request: std::result::Result<Request<'_>, Malformed>,
        scratch: &mut Vec<u8>,
        sink: &mut S,
    ) -> Option<Pending> {
        let request = match request {
            Ok(request) => request,
            Err(Malformed { unique }) => {
                tracing::error!(unique, "a request of the kernel that cannot be read");
                if let Some(unique) = unique {
                    Reply::new(unique, sink).error(Errno::INVAL);
                }
                return None;
            }
        };
        let mut reply = Reply::new(request.header.unique, sink);
        let began = Instant::now();
        let served = catch_unwind(AssertUnwindSafe(|| {
            match self.admit(need(&request.operation)).and_then(|()| self.serve(&request, scratch, &mut reply)) {
                Err(error) if matches!(error.errno(), Errno::MFILE | Errno::NFILE) => {
                    // It has changed nothing, or what may be done again: once more, with all the descriptors that nobody needs.
                    self.close_idle();
                    self.serve(&request, scratch, &mut reply)
                }
                served => served,
            }
        }));
        let bytes = match &request.operation {
            Operation::Read(_) => reply.length() as u64,
            Operation::Write(_, data) => data.len() as u64,
            _ => 0,
        };
        let failed = !matches!(served, Ok(Ok(_)));
        self.statistics.count(request.header.opcode, began.elapsed(), failed, bytes);
        match served {
            Ok(Ok(pending)) => pending,
            Ok(Err(error)) => self.failed(&request, error.errno(), &mut reply),
            Err(_) => {
                tracing::error!(
                    opcode = request.header.opcode,
                    "a request failed by a bug in kmsfs and was answered with EIO; please report it"
                );
                if !reply.is_given() {
                    reply.error(Errno::IO);
                }
                None
            }
        }
    }

    /// Answers a request that failed. What the kernel holds of the file then, and nothing has stored, it is to let go of: of an
    /// fsync that failed before it is answered.
    fn failed<S: Sink>(&self, request: &Request<'_>, errno: Errno, reply: &mut Reply<'_, S>) -> Option<Pending> {
        if reply.is_given() {
            return None;
        }
        match &request.operation {
            Operation::Fsync(_) => return Some(postponed(&request.header, Wanted::Failed(errno), reply)),
            Operation::Write(write, data) if write.write_flags & WRITE_CACHE != 0 => {
                self.notify(Notice::Pages { ino: request.header.nodeid, offset: write.offset, len: data.len() as u64 });
            }
            _ => {}
        }
        reply.error(errno);
        None
    }

    fn notify(&self, notice: Notice) {
        if let Some(notices) = &self.notices {
            // At the end of the mount nobody is left to be told.
            let _ = notices.send(notice);
        }
    }

    /// Closes a file. The size that the kernel has of one whose pages were lost is its own: when nobody has it open any more, its
    /// names are looked up anew.
    fn release(&self, handle: u64) {
        let Some(lossy) = self.operations.vfs.release(handle) else { return };
        for (parent, name) in self.operations.vfs.names_of(lossy) {
            self.notify(Notice::Name { parent, name });
        }
    }

    /// Serves a request that waited, and gives its answer: `EIO` if it panics.
    pub fn finish<S: Sink>(&self, pending: Pending, sink: &mut S) {
        let mut reply = Reply::new(pending.unique, sink);
        let served = || self.operations.after_writeback(pending.ino, pending.wanted);
        let served = catch_unwind(AssertUnwindSafe(served)).unwrap_or_else(|_| {
            tracing::error!("a request failed by a bug in kmsfs and was answered with EIO; please report it");
            Err(Errno::IO.into())
        });
        match served {
            Ok(Waited::Offset(offset)) => reply.structure(&OffsetOut { offset }),
            Ok(Waited::FlagsSet) => reply.structure(&IoctlOut::default()),
            Ok(Waited::XattrSet) => reply.ok(),
            Err(error) => reply.error(error.errno()),
        }
    }

    /// Whether a request is to be served, if need be after something was freed for it.
    fn admit(&self, need: Need) -> Result<()> {
        let admission = &self.operations.admission;
        admission.admit(need).or_else(|error| {
            if !admission.is_time_to_free() {
                return Err(error);
            }
            self.close_idle();
            reserve::trim();
            admission.admit(need)
        })
    }

    /// Closes what is open only to be faster.
    fn close_idle(&self) {
        self.listings.close_idle(&self.operations.vfs);
        self.operations.vfs.close_idle();
    }

    /// Serves one request. An error is still to be answered; without one an answer was given, unless there is none.
    fn serve<S: Sink>(
        &self,
        request: &Request<'_>,
        scratch: &mut Vec<u8>,
        reply: &mut Reply<'_, S>,
    ) -> Result<Option<Pending>> {
        let operations = &*self.operations;
        let vfs = &*operations.vfs;
        let (ttl, header) = (operations.ttl, &request.header);
        let node = header.nodeid;
        match &request.operation {
            Operation::Lookup(name) => {
                let found = operations.lookup(node, name)?;
                reply.structure(&found.map_or_else(|| reply::no_entry(ttl), |attr| reply::entry(&attr, ttl)));
            }
            Operation::Forget(forget) => {
                reply.none();
                vfs.forget(node, forget.nlookup);
            }
            Operation::BatchForget(entries) => {
                reply.none();
                forgotten(entries).for_each(|one| vfs.forget(one.nodeid, one.nlookup));
            }
            Operation::Getattr => reply.structure(&reply::attributes(&vfs.getattr(node)?, ttl)),
            Operation::Statx => {
                let (attr, birth) = (vfs.getattr(node)?, vfs.birth_time(node)?);
                reply.structure(&reply::statx(&attr, birth, ttl));
            }
            Operation::Setattr(change) => {
                let handle = (change.valid & fattr::FH != 0).then_some(change.fh);
                let kill = change.valid & fattr::KILL_SUIDGID != 0;
                let attr = operations.setattr(node, handle, &set_attr(change), kill)?;
                reply.structure(&reply::attributes(&attr, ttl));
            }
            Operation::Readlink => reply.bytes(&vfs.read_link(node)?),
            Operation::Symlink { name, target } => {
                reply.structure(&reply::entry(&vfs.symlink(node, name, target, &caller(header, 0))?, ttl));
            }
            Operation::Mknod(made, name) => {
                let attr = operations.mknod(node, name, made.mode, made.rdev, &caller(header, made.umask))?;
                reply.structure(&reply::entry(&attr, ttl));
            }
            Operation::Mkdir(made, name) => {
                let attr = vfs.mkdir(node, name, made.mode & 0o7777, &caller(header, made.umask))?;
                reply.structure(&reply::entry(&attr, ttl));
            }
            Operation::Unlink(name) => done(reply, vfs.unlink(node, name))?,
            Operation::Rmdir(name) => done(reply, vfs.rmdir(node, name))?,
            Operation::Rename { new_dir, flags, name, new_name } => {
                done(reply, operations.rename(node, name, *new_dir, new_name, *flags))?;
            }
            Operation::Link(link, name) => {
                reply.structure(&reply::entry(&vfs.link(link.oldnodeid, node, name)?, ttl));
            }
            Operation::Open(open) => {
                let kill = open.open_flags & OPEN_KILL_SUIDGID != 0;
                reply.structure(&reply::opened(operations.open(node, open.flags, kill)?));
            }
            Operation::Create(made, name) => {
                let (attr, opened) = vfs.create(node, name, made.mode & 0o7777, &caller(header, made.umask))?;
                reply.structure(&reply::created(&attr, ttl, operations.opened(&opened)));
            }
            Operation::Tmpfile(made) => {
                let (attr, opened) = vfs.tmpfile(node, made.mode & 0o7777, &caller(header, made.umask))?;
                reply.structure(&reply::created(&attr, ttl, operations.opened(&opened)));
            }
            Operation::Read(read) => {
                let size = read.size.min(MAX_WRITE) as usize;
                match reply.room() {
                    Some(room) => {
                        let len = vfs.read_within(read.fh, read.offset, size, room)?;
                        reply.answer_from_room(len);
                    }
                    None => vfs.read(read.fh, read.offset, size, |bytes| reply.bytes(bytes))?,
                }
            }
            Operation::Write(write, data) => {
                let kill = write.write_flags & WRITE_KILL_SUIDGID != 0;
                let size = match write.write_flags & WRITE_CACHE != 0 {
                    // The kernel does not try again.
                    true => reserve::urgently(|| operations.write_back(write.fh, write.offset, data))?,
                    false => operations.write(node, write.fh, write.offset, data, kill)?,
                };
                reply.structure(&WriteOut { size, padding: 0 });
            }
            Operation::Release(release) => {
                self.release(release.fh);
                reply.ok();
            }
            Operation::Fsync(sync) => done(reply, vfs.fsync(sync.fh, sync.fsync_flags & FSYNC_FDATASYNC != 0))?,
            // From now on the kernel lists directories without opening them.
            Operation::Opendir if self.lists_unopened() => reply.error(Errno::NOSYS),
            Operation::Opendir => reply.structure(&reply::opened(operations.opendir(node)?)),
            Operation::Readdir { request, plus } => {
                let mut entries = Entries::new(scratch, request.size, plus.then_some(ttl));
                let add = |entry: &DirEntry| entries.add(entry);
                match request.fh {
                    UNOPENED => self.listings.read(vfs, node, request.offset, *plus, add)?,
                    handle => vfs.read_dir(handle, request.offset, *plus, add)?,
                }
                reply.bytes(scratch);
            }
            Operation::Releasedir(release) => {
                vfs.release_dir(release.fh);
                reply.ok();
            }
            Operation::Fsyncdir(sync) if sync.fh != UNOPENED => done(reply, vfs.fsync_dir(sync.fh))?,
            Operation::Fsyncdir(_) => {
                let handle = vfs.open_dir(node)?;
                let synced = vfs.fsync_dir(handle);
                vfs.release_dir(handle);
                done(reply, synced)?;
            }
            Operation::Statfs => reply.structure(&statfs(&vfs.stat_fs()?)),
            Operation::Setxattr(set, name, value) => {
                let kill = set.setxattr_flags & SETXATTR_ACL_KILL_SGID != 0;
                if let Served::AfterWriteback(wanted) = operations.setxattr(node, name, value, set.flags)? {
                    return Ok(Some(postponed(header, wanted, reply)));
                }
                // An error here is not one of a request that has changed nothing and may be served once more.
                match if kill { vfs.kill_set_gid(node).map(drop) } else { Ok(()) } {
                    Ok(()) => reply.ok(),
                    Err(error) => reply.error(error.errno()),
                }
            }
            Operation::Getxattr(get, name) => sized(reply, operations.getxattr(node, name, get.size)?),
            Operation::Listxattr(get) => sized(reply, operations.listxattr(node, header.uid, get.size)?),
            Operation::Removexattr(name) => done(reply, vfs.remove_xattr(node, name))?,
            Operation::Fallocate(f) => {
                operations.fallocate(f.fh, f.mode, f.offset, f.length)?;
                done(reply, operations.changed_by(header.uid, node))?;
            }
            Operation::Ioctl(ioctl, data) => match operations.ioctl(node, ioctl.cmd, data, ioctl.out_size)? {
                Served::Now(answer) => reply.bytes(&[IoctlOut::default().as_bytes(), &answer].concat()),
                Served::AfterWriteback(wanted) => return Ok(Some(postponed(header, wanted, reply))),
            },
            Operation::Lseek(seek) => match operations.lseek(seek.fh, seek.offset.cast_signed(), seek.whence)? {
                Served::Now(offset) => reply.structure(&OffsetOut { offset }),
                Served::AfterWriteback(wanted) => return Ok(Some(postponed(header, wanted, reply))),
            },
            Operation::CopyFileRange { request: c, wide } => {
                let copied = vfs.copy_range(c.fh_in, c.off_in, c.fh_out, c.off_out, c.len)?;
                operations.changed_by(header.uid, c.nodeid_out)?;
                match wide {
                    true => reply.structure(&OffsetOut { offset: copied }),
                    false => reply.structure(&WriteOut { size: copied as u32, padding: 0 }),
                }
            }
            Operation::Init(kernel) => self.init(kernel, reply)?,
            Operation::Destroy => reply.ok(),
            // INTERRUPT among them: the kernel then sends no further one. Requests are short, or wait for a disk.
            // FLUSH too: nothing is held back per handle. The kernel writes its dirty pages before it asks, and after
            // this answer it does not ask again.
            Operation::Unknown => reply.error(Errno::NOSYS),
        }
        Ok(None)
    }

    /// Whether the kernel may leave directories unopened, which makes it cache what it lists: not where somebody else
    /// may be writing.
    fn lists_unopened(&self) -> bool {
        !self.operations.read_only && self.agreed().is_some_and(|agreed| agreed.needs_no_opendir())
    }

    fn init<S: Sink>(&self, kernel: &InitIn, reply: &mut Reply<'_, S>) -> Result<()> {
        let write_back = !self.operations.read_only && !self.write_through;
        let (agreed, answer) = agree(kernel, write_back, self.rings).inspect_err(|_| {
            tracing::error!(
                "the kernel speaks FUSE {}.{}; kmsfs needs 7.31 (Linux 5.4) or newer",
                kernel.major,
                kernel.minor
            );
        })?;
        tracing::debug!(minor = agreed.minor, flags = format_args!("{:#x}", agreed.flags), "FUSE connection");
        self.agreed.get_or_init(|| agreed);
        reply.structure(&answer);
        Ok(())
    }

    /// What was agreed on, once `INIT` was answered.
    pub(super) fn agreed(&self) -> Option<Agreed> {
        self.agreed.get().copied()
    }
}

/// What the kernel sets when it writes back a file's times.
const WRITTEN_BACK: u32 = fattr::MTIME | fattr::CTIME | fattr::FH;

/// What a request needs memory for.
fn need(operation: &Operation<'_>) -> Need {
    match operation {
        // The kernel writes back what was acknowledged long ago.
        Operation::Write(write, _) if write.write_flags & WRITE_CACHE != 0 => Need::Little,
        Operation::Setattr(set) if set.valid & !WRITTEN_BACK == 0 => Need::Little,
        Operation::Lookup(_)
        | Operation::Symlink { .. }
        | Operation::Mknod(..)
        | Operation::Mkdir(..)
        | Operation::Link(..)
        | Operation::Open(_)
        | Operation::Create(..)
        | Operation::Tmpfile(_)
        | Operation::Opendir
        | Operation::Readdir { .. } => Need::Lasting,
        Operation::Statx
        | Operation::Setattr(_)
        | Operation::Readlink
        | Operation::Rename { .. }
        | Operation::Read(_)
        | Operation::Write(..)
        | Operation::Setxattr(..)
        | Operation::Getxattr(..)
        | Operation::Listxattr(_)
        | Operation::Removexattr(_)
        | Operation::Fallocate(_)
        | Operation::Ioctl(..)
        | Operation::Lseek(_)
        | Operation::CopyFileRange { .. } => Need::Passing,
        Operation::Forget(_)
        | Operation::BatchForget(_)
        | Operation::Getattr
        | Operation::Unlink(_)
        | Operation::Rmdir(_)
        | Operation::Release(_)
        | Operation::Fsync(_)
        | Operation::Releasedir(_)
        | Operation::Fsyncdir(_)
        | Operation::Statfs
        | Operation::Init(_)
        | Operation::Destroy
        | Operation::Unknown => Need::Little,
    }
}

fn postponed<S: Sink>(header: &InHeader, wanted: Wanted, reply: &mut Reply<'_, S>) -> Pending {
    reply.none();
    Pending { unique: header.unique, ino: header.nodeid, wanted }
}

fn done<S: Sink>(reply: &mut Reply<'_, S>, result: Result<()>) -> Result<()> {
    result.map(|()| reply.ok())
}

fn sized<S: Sink>(reply: &mut Reply<'_, S>, value: Sized) {
    match value {
        Sized::Size(size) => reply.structure(&GetxattrOut { size, padding: 0 }),
        Sized::Value(value) => reply.bytes(&value),
    }
}

fn caller(header: &InHeader, umask: u32) -> Caller {
    Caller { uid: header.uid, gid: header.gid, umask: umask & 0o777 }
}

fn set_attr(change: &SetattrIn) -> SetAttr {
    let has = |bit| change.valid & bit != 0;
    let time = |bit, now, secs: u64, nanos| {
        let at = FileTime { secs: secs.cast_signed(), nanos };
        has(bit).then_some(if has(now) { SetTime::Now } else { SetTime::At(at) })
    };
    SetAttr {
        mode: has(fattr::MODE).then_some(change.mode),
        uid: has(fattr::UID).then_some(change.uid),
        gid: has(fattr::GID).then_some(change.gid),
        size: has(fattr::SIZE).then_some(change.size),
        atime: time(fattr::ATIME, fattr::ATIME_NOW, change.atime, change.atimensec),
        mtime: time(fattr::MTIME, fattr::MTIME_NOW, change.mtime, change.mtimensec),
    }
}

fn statfs(s: &crate::store::FsStat) -> StatfsOut {
    StatfsOut {
        blocks: s.blocks,
        bfree: s.bfree,
        bavail: s.bavail,
        files: s.files,
        ffree: s.ffree,
        bsize: s.bsize as u32,
        namelen: s.name_max as u32,
        frsize: s.frsize as u32,
        ..StatfsOut::default()
    }
}
