//! Answers into the bytes that the kernel reads.

use std::io::{self, IoSlice};
use std::time::Duration;

use rustix::io::Errno;
use zerocopy::{Immutable, IntoBytes};

use super::abi::{
    AttrOut, CreateOut, Dirent, EntryOut, FileAttr, OpenOut, OutHeader, STATX_BASIC_STATS, STATX_BTIME, Statx,
    StatxOut, StatxTime,
};
use super::operations::MAX_WRITE;
use crate::content::room_for;
use crate::store::{FileKind, FileTime};
use crate::vfs::{Attr, DirEntry};

/// Where answers go: a device, or a test.
pub trait Sink {
    /// Hands over one whole answer, its header in front.
    ///
    /// # Errors
    /// What the kernel says; `ENOENT` if nobody waits for it any more.
    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()>;

    /// Memory of [`READ_ROOM`] bytes out of which the kernel takes an answer behind the first [`UNIT`] bytes, if there is
    /// such memory: what is read needs no copy then.
    fn room(&mut self) -> Option<&mut [u8]> {
        None
    }

    /// Hands over an answer whose first `len` bytes behind the header stand in [`Self::room`] already.
    ///
    /// # Errors
    /// As [`Self::send`].
    fn send_room(&mut self, _header: &[u8], _len: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// What the largest READ needs, see [`room_for`].
pub(super) const READ_ROOM: usize = room_for(MAX_WRITE as usize);

/// The answer to one request, given once.
pub(super) struct Reply<'a, S: Sink> {
    unique: u64,
    sink: &'a mut S,
    given: bool,
    /// Bytes behind the header.
    length: usize,
}

impl<'a, S: Sink> Reply<'a, S> {
    pub(super) fn new(unique: u64, sink: &'a mut S) -> Self {
        Self { unique, sink, given: false, length: 0 }
    }

    /// Whether there is an answer already.
    pub(super) fn is_given(&self) -> bool {
        self.given
    }

    /// Bytes behind the header of the answer that was given.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// This request has no answer, or one that comes later from elsewhere.
    pub(super) fn none(&mut self) {
        self.given = true;
    }

    pub(super) fn error(&mut self, errno: Errno) {
        self.send(-errno.raw_os_error(), &[]);
    }

    pub(super) fn ok(&mut self) {
        self.send(0, &[]);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.send(0, bytes);
    }

    /// See [`Sink::room`].
    pub(super) fn room(&mut self) -> Option<&mut [u8]> {
        self.sink.room()
    }

    /// Answers with what was put into [`Self::room`].
    pub(super) fn answer_from_room(&mut self, len: usize) {
        let header = self.begin(0, len);
        let sent = self.sink.send_room(header.as_bytes(), len);
        self.sent(sent);
    }

    pub(super) fn structure<T: IntoBytes + Immutable>(&mut self, value: &T) {
        self.send(0, value.as_bytes());
    }

    fn send(&mut self, error: i32, payload: &[u8]) {
        let header = self.begin(error, payload.len());
        let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(payload)];
        let parts = if payload.is_empty() { &parts[..1] } else { &parts[..] };
        let sent = self.sink.send(parts);
        self.sent(sent);
    }

    /// The header of the one answer.
    fn begin(&mut self, error: i32, length: usize) -> OutHeader {
        (self.given, self.length) = (true, length);
        OutHeader { len: (size_of::<OutHeader>() + length) as u32, error, unique: self.unique }
    }

    fn sent(&self, sent: io::Result<()>) {
        if let Err(failed) = sent {
            // ENOENT, ENODEV, ECONNABORTED: who asked is gone, or the mount is.
            tracing::debug!(unique = self.unique, "an answer did not reach the kernel: {failed}");
        }
    }
}

/// Attributes as most answers have them.
fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.secs.cast_unsigned(),
        mtime: attr.mtime.secs.cast_unsigned(),
        ctime: attr.ctime.secs.cast_unsigned(),
        atimensec: attr.atime.nanos,
        mtimensec: attr.mtime.nanos,
        ctimensec: attr.ctime.nanos,
        mode: attr.mode | type_bits(attr.kind),
        nlink: u32::try_from(attr.nlink).unwrap_or(u32::MAX),
        uid: attr.uid,
        gid: attr.gid,
        // Linux packs device numbers of up to 20 bits of minor and 12 of major into 32.
        rdev: attr.rdev as u32,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// What stat(2) calls the preferred size of I/O.
const BLOCK_SIZE: u32 = 4096;

fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::Regular => libc::S_IFREG,
        FileKind::Directory => libc::S_IFDIR,
        FileKind::Symlink => libc::S_IFLNK,
        FileKind::Fifo => libc::S_IFIFO,
        FileKind::Socket => libc::S_IFSOCK,
        FileKind::CharDevice => libc::S_IFCHR,
        FileKind::BlockDevice => libc::S_IFBLK,
    }
}

pub(super) fn attributes(attr: &Attr, ttl: Duration) -> AttrOut {
    AttrOut {
        attr_valid: ttl.as_secs(),
        attr_valid_nsec: ttl.subsec_nanos(),
        attr: file_attr(attr),
        ..AttrOut::default()
    }
}

/// An entry.
pub(super) fn entry(attr: &Attr, ttl: Duration) -> EntryOut {
    EntryOut { nodeid: attr.ino, generation: attr.generation, attr: file_attr(attr), ..no_entry(ttl) }
}

/// "There is no such entry, and you may remember that": node 0.
pub(super) fn no_entry(ttl: Duration) -> EntryOut {
    EntryOut {
        entry_valid: ttl.as_secs(),
        attr_valid: ttl.as_secs(),
        entry_valid_nsec: ttl.subsec_nanos(),
        attr_valid_nsec: ttl.subsec_nanos(),
        ..EntryOut::default()
    }
}

pub(super) fn opened((fh, open_flags): (u64, u32)) -> OpenOut {
    OpenOut { fh, open_flags, padding: 0 }
}

pub(super) fn created(attr: &Attr, ttl: Duration, handle: (u64, u32)) -> CreateOut {
    CreateOut { entry: entry(attr, ttl), open: opened(handle) }
}

pub(super) fn statx(attr: &Attr, birth: Option<FileTime>, ttl: Duration) -> StatxOut {
    let time = |time: FileTime| StatxTime { secs: time.secs, nanos: time.nanos, reserved: 0 };
    let stat = Statx {
        mask: STATX_BASIC_STATS | if birth.is_some() { STATX_BTIME } else { 0 },
        blksize: BLOCK_SIZE,
        nlink: u32::try_from(attr.nlink).unwrap_or(u32::MAX),
        uid: attr.uid,
        gid: attr.gid,
        mode: (attr.mode | type_bits(attr.kind)) as u16,
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime),
        btime: time(birth.unwrap_or_default()),
        ctime: time(attr.ctime),
        mtime: time(attr.mtime),
        rdev_major: rustix::fs::major(attr.rdev),
        rdev_minor: rustix::fs::minor(attr.rdev),
        ..Statx::default()
    };
    StatxOut { attr_valid: ttl.as_secs(), attr_valid_nsec: ttl.subsec_nanos(), stat, ..StatxOut::default() }
}

/// Entries of a directory as `READDIR` and `READDIRPLUS` answer them, up to a size.
pub(super) struct Entries<'a> {
    bytes: &'a mut Vec<u8>,
    room: usize,
    /// With attributes, which the kernel may keep so long.
    plus: Option<Duration>,
}

impl<'a> Entries<'a> {
    /// Into `bytes`, whose content goes.
    pub(super) fn new(bytes: &'a mut Vec<u8>, room: u32, plus: Option<Duration>) -> Self {
        bytes.clear();
        Self { bytes, room: room as usize, plus }
    }

    /// Adds an entry; false if there is no room for it.
    pub(super) fn add(&mut self, entry: &DirEntry) -> bool {
        let front = if self.plus.is_some() { size_of::<EntryOut>() } else { 0 };
        // Records begin at multiples of 8.
        let len = (front + size_of::<Dirent>() + entry.name.len()).next_multiple_of(8);
        let end = self.bytes.len() + len;
        if end > self.room {
            return false;
        }
        if let Some(ttl) = self.plus {
            self.bytes.extend_from_slice(plus_entry(entry, ttl).as_bytes());
        }
        let dirent = Dirent {
            ino: entry.ino,
            off: entry.next,
            namelen: entry.name.len() as u32,
            kind: type_bits(entry.kind) >> 12,
        };
        self.bytes.extend_from_slice(dirent.as_bytes());
        self.bytes.extend_from_slice(&entry.name);
        self.bytes.resize(end, 0);
        true
    }
}

/// What stands in front of a name. `.`, `..`, and what cannot be read, have number and type only: node 0, for which the
/// kernel shows the name and asks for the rest when it needs it.
fn plus_entry(listed: &DirEntry, ttl: Duration) -> EntryOut {
    match &listed.attr {
        Some(attr) => entry(attr, ttl),
        None => EntryOut {
            attr: FileAttr { ino: listed.ino, mode: type_bits(listed.kind), ..FileAttr::default() },
            ..EntryOut::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Vec<u8>);

    impl Sink for Kept {
        fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
            parts.iter().for_each(|part| self.0.extend_from_slice(part));
            Ok(())
        }
    }

    #[test]
    fn answers_as_the_kernel_reads_them() {
        let mut kept = Kept::default();
        Reply::new(0x0102, &mut kept).error(Errno::NOENT);
        assert_eq!(kept.0, [16, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 2, 1, 0, 0, 0, 0, 0, 0]);
        kept.0.clear();
        Reply::new(1, &mut kept).bytes(b"abc");
        assert_eq!(kept.0, [&[19, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0][..], b"abc"].concat());
    }

    #[test]
    fn entries_are_aligned_and_end_before_the_room_does() {
        let listed = DirEntry { name: b"name".to_vec(), ino: 0x11, kind: FileKind::Directory, next: 0x22, attr: None };
        let mut bytes = vec![1];
        let mut entries = Entries::new(&mut bytes, 64, None);
        assert!(entries.add(&listed) && entries.add(&listed) && !entries.add(&listed));
        let one =
            [&[0x11, 0, 0, 0, 0, 0, 0, 0, 0x22, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0][..], b"name\0\0\0\0"]
                .concat();
        assert_eq!(bytes, [&one[..], &one].concat());
        let mut entries = Entries::new(&mut bytes, 160, Some(Duration::from_secs(1)));
        assert!(entries.add(&listed) && !entries.add(&listed));
        assert_eq!((bytes.len(), &bytes[..8], &bytes[128..]), (160, &[0; 8][..], &one[..]));
    }

    #[test]
    fn times_before_the_epoch_keep_their_nanoseconds() {
        let time = FileTime { secs: -2, nanos: 500_000_000 };
        let attr = Attr {
            ino: 5,
            generation: 0,
            size: 6,
            blocks: 7,
            atime: time,
            mtime: time,
            ctime: time,
            kind: FileKind::CharDevice,
            mode: 0o4755,
            nlink: u64::MAX,
            uid: 8,
            gid: 9,
            rdev: rustix::fs::makedev(259, 300),
        };
        let shown = attributes(&attr, Duration::from_millis(1500)).attr;
        assert_eq!((shown.mtime.cast_signed(), shown.mtimensec, shown.nlink), (-2, 500_000_000, u32::MAX));
        assert_eq!((shown.mode, shown.rdev), (libc::S_IFCHR | 0o4755, (300 & 0xff) | (259 << 8) | (1 << 20)));
        let whole = statx(&attr, Some(FileTime { secs: 3, nanos: 4 }), Duration::ZERO).stat;
        assert_eq!((whole.mask, whole.btime.secs, whole.btime.nanos), (0xfff, 3, 4));
        assert_eq!((whole.rdev_major, whole.rdev_minor), (259, 300));
        assert_eq!(statx(&attr, None, Duration::ZERO).stat.mask, 0x7ff);
    }
}
