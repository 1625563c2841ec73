//! Where ciphertext lives.
//!
//! [`Backing`] is the one gate to it: every operation names an object by a directory handle and one entry name, never
//! by a path, and nothing is followed. Implementations: [`LocalDir`], a directory of a Linux filesystem, and
//! [`Memory`], a filesystem in memory for tests, both of which [`Faulty`] can wrap to inject errors.

mod ahead;
mod faulty;
mod local;
mod local_attr;
mod local_order;
mod memory;
mod modes;
mod record;
pub mod tree;

pub use ahead::{Ahead, Fetcher};
pub use faulty::{Fault, FaultPlan, Faulty, OpClass};
pub use local::LocalDir;
pub use memory::{Memory, MemoryFile, MemoryOptions};
pub use modes::{CHANGE, Held, LIST, Modes, OpenDir, READ_WRITE, SEARCH, Wide};
pub use record::{Made, Record, Replay};

use rustix::io::Errno;

/// What a backing operation answers: the value or the system's error number.
pub type Result<T> = std::result::Result<T, Errno>;

/// The type of a directory entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// Seconds and nanoseconds since the epoch; nanoseconds are below 10^9.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct FileTime {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// Attributes of an object as the backing has them: `size` is that of the ciphertext.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Inode number, unique on the backing filesystem while the object lives.
    pub ino: u64,
    /// Type.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: `mode & 0o7777`.
    pub mode: u32,
    /// Number of names.
    pub nlink: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, as Linux packs it.
    pub rdev: u64,
    /// Bytes; of a symlink the length of its target.
    pub size: u64,
    /// 512-byte blocks in use.
    pub blocks: u64,
    /// Last access.
    pub atime: FileTime,
    /// Last change of the content.
    pub mtime: FileTime,
    /// Last change of the attributes.
    pub ctime: FileTime,
}

/// Capacity of the backing filesystem, in the units of statvfs(3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FsStat {
    /// Fragment size in bytes, the unit of the block counts.
    pub frsize: u64,
    /// Preferred I/O size in bytes.
    pub bsize: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Blocks free to unprivileged users.
    pub bavail: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Longest entry name in bytes.
    pub name_max: u64,
}

/// Access asked for when a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read only.
    Read,
    /// Read and write: even a write-only user needs it, since units are read before they are changed.
    ReadWrite,
}

/// What happens to an existing target of a rename.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    /// It is replaced.
    Replace,
    /// The rename fails with `EEXIST`.
    NoReplace,
    /// Both entries change places.
    Exchange,
    /// It is replaced, and the source's name becomes a whiteout, a character device 0:0, in the same step (overlayfs).
    Whiteout,
    /// As [`Self::Whiteout`], but the rename fails with `EEXIST`.
    WhiteoutNoReplace,
}

impl RenameMode {
    /// Whether an existing target makes the rename fail.
    pub fn keeps_target(self) -> bool {
        matches!(self, Self::NoReplace | Self::WhiteoutNoReplace)
    }

    /// Whether a whiteout takes the source's name.
    pub fn leaves_whiteout(self) -> bool {
        matches!(self, Self::Whiteout | Self::WhiteoutNoReplace)
    }
}

/// How a range of a file is (de)allocated, as in fallocate(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocate {
    /// Reserve space, the size stays.
    KeepSize,
    /// Make a hole, the size stays.
    PunchHole,
    /// Make zeros and keep the space, the size stays.
    ZeroRange,
}

/// How an extended attribute is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XattrMode {
    /// Create or replace.
    Set,
    /// `EEXIST` if it is there.
    Create,
    /// `ENODATA` if it is not there.
    Replace,
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// Leave it.
    Omit,
    /// The backing's present time.
    Now,
    /// This time.
    At(FileTime),
}

/// One entry of a directory as the backing lists it, `.` and `..` included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawEntry {
    /// Name, any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// Inode number.
    pub ino: u64,
    /// Type, where the backing knows it without a further call.
    pub kind: Option<FileKind>,
    /// Where to go on reading behind this entry; opaque, never zero.
    pub next: u64,
}

/// An object whose attributes are read or changed.
pub enum Target<'a, B: Backing> {
    /// An entry of a directory; a symlink is not followed.
    Named(&'a B::Dir, &'a str),
    /// The directory itself.
    Dir(&'a B::Dir),
    /// An object held without a name.
    Node(&'a B::Node),
    /// An open file.
    File(&'a B::File),
}

impl<B: Backing> Clone for Target<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backing> Copy for Target<'_, B> {}

/// A tree of ciphertext. Names are single entry names without `/`. Every error is the system's own.
pub trait Backing: Send + Sync + Sized + 'static {
    /// Handle to a directory; stays valid when the directory is renamed or removed.
    type Dir: Send + Sync + 'static;
    /// Open regular file.
    type File: BackingFile;
    /// Handle to any object that outlives its names.
    type Node: Send + Sync + 'static;
    /// Position-independent listing of one directory.
    type List: Send + 'static;

    /// The root of the tree.
    fn root(&self) -> Result<Self::Dir>;
    /// Capacity and limits.
    fn stat_fs(&self) -> Result<FsStat>;
    /// Whether a crash keeps metadata operations in order, so that an earlier one is never lost while a later one
    /// survives (FORMAT 8.1): ext4 with a journal, xfs, tmpfs.
    fn ordered_metadata(&self) -> bool;
    /// The user that this process acts as here: whose objects it may change the modes of.
    fn user(&self) -> u32;
    /// Flushes the whole filesystem, and tells of what could not be written since the last time. As good as syncfs(2), which on
    /// some filesystems does nothing (ADR 12): for records of what is there, never for an answer to fsync.
    fn sync_all(&self) -> Result<()>;

    /// Opens a directory.
    fn open_dir(&self, dir: &Self::Dir, name: &str) -> Result<Self::Dir>;
    /// Opens a regular file; `EISDIR`, `ELOOP` or `ENXIO` for anything else.
    fn open(&self, dir: &Self::Dir, name: &str, access: Access) -> Result<Self::File>;
    /// Creates a regular file, open for reading and writing; `EEXIST` if the name is taken.
    fn create(&self, dir: &Self::Dir, name: &str, mode: u32) -> Result<Self::File>;
    /// Creates a regular file without a name, open for reading and writing, and a handle to it; it goes with the last of
    /// the two, or in a crash, unless [`Self::link_node`] gives it a name. `EOPNOTSUPP` where that cannot be.
    fn create_unnamed(&self, dir: &Self::Dir, mode: u32) -> Result<(Self::File, Self::Node)>;
    /// A handle to the object behind a name, whatever its type.
    fn pin(&self, dir: &Self::Dir, name: &str) -> Result<Self::Node>;

    /// Opens the regular file behind a handle without a name.
    fn open_node(&self, node: &Self::Node, access: Access) -> Result<Self::File>;

    /// Starts a listing.
    fn list(&self, dir: &Self::Dir) -> Result<Self::List>;
    /// As [`Self::list`], but the access time stays: for a listing that no user asked for. `EPERM` where only its owner may.
    fn list_unnoticed(&self, dir: &Self::Dir) -> Result<Self::List> {
        self.list(dir)
    }
    /// Opens an existing regular file for reading so that its access time stays: for what no user asked for. `EPERM` where only
    /// its owner may.
    fn open_unnoticed(&self, dir: &Self::Dir, name: &str) -> Result<Self::File> {
        self.open(dir, name, Access::Read)
    }
    /// Appends the entries behind position `from` (0 at the start) to `out`, as many as one call of the system
    /// gives; none at the end.
    fn read_list(&self, list: &mut Self::List, from: u64, out: &mut Vec<RawEntry>) -> Result<()>;

    /// Makes a directory.
    fn mkdir(&self, dir: &Self::Dir, name: &str, mode: u32) -> Result<()>;
    /// Makes a fifo, socket, device node or regular file.
    fn mknod(&self, dir: &Self::Dir, name: &str, kind: FileKind, mode: u32, rdev: u64) -> Result<()>;
    /// Makes a symlink that holds `target`.
    fn symlink(&self, target: &[u8], dir: &Self::Dir, name: &str) -> Result<()>;
    /// The content of a symlink; `EINVAL` for anything else.
    fn read_link(&self, target: Target<'_, Self>) -> Result<Vec<u8>>;
    /// Gives the object at `(dir, name)` a second name.
    fn link(&self, dir: &Self::Dir, name: &str, to_dir: &Self::Dir, to_name: &str) -> Result<()>;
    /// Gives a file made by [`Self::create_unnamed`] its first name; `ENOENT` for any other without a name.
    fn link_node(&self, node: &Self::Node, to_dir: &Self::Dir, to_name: &str) -> Result<()>;
    /// Removes a name that is not a directory's.
    fn unlink(&self, dir: &Self::Dir, name: &str) -> Result<()>;
    /// Removes an empty directory.
    fn rmdir(&self, dir: &Self::Dir, name: &str) -> Result<()>;
    /// Renames.
    fn rename(&self, dir: &Self::Dir, name: &str, to_dir: &Self::Dir, to_name: &str, mode: RenameMode) -> Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: &Self::Dir) -> Result<()>;

    /// Attributes.
    fn stat(&self, target: Target<'_, Self>) -> Result<Stat>;
    /// When the object was made, where that is known.
    fn birth_time(&self, target: Target<'_, Self>) -> Result<Option<FileTime>>;
    /// Sets the permission bits, with setuid, setgid and sticky.
    fn set_mode(&self, target: Target<'_, Self>, mode: u32) -> Result<()>;
    /// Sets owner and group where given.
    fn set_owner(&self, target: Target<'_, Self>, uid: Option<u32>, gid: Option<u32>) -> Result<()>;
    /// Sets access and modification time.
    fn set_times(&self, target: Target<'_, Self>, atime: SetTime, mtime: SetTime) -> Result<()>;
    /// Value of an extended attribute; `ENODATA` if there is none.
    fn get_xattr(&self, target: Target<'_, Self>, name: &str) -> Result<Vec<u8>>;
    /// Sets an extended attribute.
    fn set_xattr(&self, target: Target<'_, Self>, name: &str, value: &[u8], mode: XattrMode) -> Result<()>;
    /// Inode flags as chattr(1) sets them; `ENOTTY` or `EOPNOTSUPP` where there are none.
    fn inode_flags(&self, target: Target<'_, Self>) -> Result<u32>;
    /// Sets the inode flags.
    fn set_inode_flags(&self, target: Target<'_, Self>, flags: u32) -> Result<()>;
    /// Names of all extended attributes.
    fn list_xattrs(&self, target: Target<'_, Self>) -> Result<Vec<String>>;
    /// Removes an extended attribute; `ENODATA` if there is none.
    fn remove_xattr(&self, target: Target<'_, Self>, name: &str) -> Result<()>;
}

/// An open regular file. All methods may be called from several threads at once.
pub trait BackingFile: Send + Sync + 'static {
    /// Reads at `offset` until `buf` is full or the file ends; the number of bytes read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize>;
    /// Writes all of `buf` at `offset`.
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()>;
    /// Sets the size, up or down.
    fn set_len(&self, len: u64) -> Result<()>;
    /// Makes the content (and, unless `data_only`, the attributes) durable.
    fn sync(&self, data_only: bool) -> Result<()>;
    /// Waits until pages of the range that are on their way to the device have arrived there. Writing to such a page
    /// could leave a mixture of both versions after a power cut (FORMAT S1).
    fn wait_for_writeback(&self, offset: u64, len: u64) -> Result<()>;
    /// Has what was written to the range brought to the device meanwhile. A hint: it makes nothing durable, and an error of
    /// the device is reported by [`Self::sync`].
    fn start_writeback(&self, offset: u64, len: u64);
    /// Changes the allocation of a range.
    fn allocate(&self, how: Allocate, offset: u64, len: u64) -> Result<()>;
    /// Where data begins at or behind `offset`; `None` if there is none up to the end.
    fn seek_data(&self, offset: u64) -> Result<Option<u64>>;
    /// Where a hole begins at or behind `offset`, the end of the file at the latest; `None` if `offset` is behind it.
    fn seek_hole(&self, offset: u64) -> Result<Option<u64>>;
    /// Attributes.
    fn stat(&self) -> Result<Stat>;
    /// Has what memory lacks of the first `len` bytes fetched meanwhile. A hint.
    fn fetch(&self, len: u64);
    /// Tells that the file is read from its front to its back. A hint.
    fn read_ahead(&self);
    /// Tells that what memory holds of a range is not needed again; `len` 0 means up to the end. A hint, so that a job that
    /// reads everything once does not drive what others work with out of memory.
    fn forget(&self, offset: u64, len: u64);
}
