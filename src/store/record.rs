//! What was changed on a backing, operation by operation: enough to make the same changes elsewhere, in whole, in
//! part or in another order, as a crash might have left them.

use std::collections::HashMap;

use rustix::io::Errno;

use super::{Allocate, Backing, BackingFile, FileKind, RenameMode, Result, SetTime, Target, XattrMode};

/// One change that took place, or one flush. Objects are named by their inode number on the recorded backing, so that
/// a record says what changed even when a rename came between; a number may name a later object once all names and
/// handles of the earlier one are gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// A new object under a name.
    Make {
        /// Its directory.
        dir: u64,
        /// Its name.
        name: String,
        /// What it is.
        what: Made,
        /// Permission bits that it was made with.
        mode: u32,
        /// Its number.
        ino: u64,
    },
    /// A new regular file without a name.
    MakeUnnamed {
        /// The directory that it was made for.
        dir: u64,
        /// Permission bits that it was made with.
        mode: u32,
        /// Its number.
        ino: u64,
    },
    /// The first name of a file that was made without one.
    LinkNode {
        /// The file.
        ino: u64,
        /// Directory of the name.
        to_dir: u64,
        /// The name.
        to_name: String,
    },
    /// Inode flags that were set.
    SetInodeFlags {
        /// The object's number.
        ino: u64,
        /// All flags.
        flags: u32,
    },
    /// A further name.
    Link {
        /// Directory of a name that it has.
        dir: u64,
        /// That name.
        name: String,
        /// Directory of the new name.
        to_dir: u64,
        /// The new name.
        to_name: String,
    },
    /// A name that is gone.
    Unlink {
        /// Directory of the name.
        dir: u64,
        /// The name.
        name: String,
    },
    /// A directory that is gone.
    Rmdir {
        /// Directory of the name.
        dir: u64,
        /// The name.
        name: String,
    },
    /// A rename.
    Rename {
        /// Directory of the old name.
        dir: u64,
        /// The old name.
        name: String,
        /// Directory of the new name.
        to_dir: u64,
        /// The new name.
        to_name: String,
        /// What happened to the target.
        mode: RenameMode,
    },
    /// Bytes written; of a write that failed half way those that were.
    Write {
        /// The file.
        ino: u64,
        /// Where.
        offset: u64,
        /// What.
        data: Vec<u8>,
    },
    /// A size set.
    SetLen {
        /// The file.
        ino: u64,
        /// Bytes.
        len: u64,
    },
    /// A range (de)allocated.
    Allocate {
        /// The file.
        ino: u64,
        /// How.
        how: Allocate,
        /// Where.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Permission bits set.
    SetMode {
        /// The object.
        ino: u64,
        /// The bits.
        mode: u32,
    },
    /// Owner or group set.
    SetOwner {
        /// The object.
        ino: u64,
        /// Owner, if set.
        uid: Option<u32>,
        /// Group, if set.
        gid: Option<u32>,
    },
    /// Times set.
    SetTimes {
        /// The object.
        ino: u64,
        /// Access time.
        atime: SetTime,
        /// Modification time.
        mtime: SetTime,
    },
    /// An extended attribute set.
    SetXattr {
        /// The object.
        ino: u64,
        /// The attribute's name.
        name: String,
        /// Its value.
        value: Vec<u8>,
    },
    /// An extended attribute removed.
    RemoveXattr {
        /// The object.
        ino: u64,
        /// The attribute's name.
        name: String,
    },
    /// A file flushed: its earlier records are durable.
    Sync {
        /// The file.
        ino: u64,
        /// Whether its attributes were left out.
        data_only: bool,
    },
    /// A flush of a file that failed. What it was to write may be lost, and no later flush tries it again: Linux counts pages
    /// whose write-back failed as clean.
    FailedSync {
        /// The file.
        ino: u64,
    },
    /// The device was given a range of a file; nothing is durable by that.
    StartWriteback {
        /// The file.
        ino: u64,
        /// Where it begins.
        offset: u64,
        /// Bytes of it.
        len: u64,
    },
    /// A directory flushed.
    SyncDir {
        /// The directory.
        dir: u64,
    },
    /// Everything flushed.
    SyncAll,
    /// A flush of everything that failed: of each file what [`Record::FailedSync`] is of one.
    FailedSyncAll,
}

/// What a [`Record::Make`] made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Made {
    /// A directory.
    Directory,
    /// A symlink with this target.
    Symlink(Vec<u8>),
    /// A regular file, fifo, socket or device node.
    Node {
        /// Type.
        kind: FileKind,
        /// Device number.
        rdev: u64,
    },
}

/// Makes recorded changes on another backing.
pub struct Replay<B: Backing> {
    backing: B,
    dirs: HashMap<u64, B::Dir>,
    files: HashMap<u64, B::File>,
    nodes: HashMap<u64, B::Node>,
}

impl<B: Backing> Replay<B> {
    /// Begins on an empty backing; `root` is the inode number of the recorded root.
    pub fn new(backing: B, root: u64) -> Result<Self> {
        let dirs = HashMap::from([(root, backing.root()?)]);
        Ok(Self { backing, dirs, files: HashMap::new(), nodes: HashMap::new() })
    }

    /// Makes one change. Errors: the backing's; `ESTALE` if the record names an object that no earlier one made.
    pub fn apply(&mut self, record: &Record) -> Result<()> {
        let b = &self.backing;
        match record {
            Record::Make { dir, name, what, mode, ino } => self.make(*dir, name, what, *mode, *ino),
            Record::MakeUnnamed { dir, mode, ino } => {
                let (file, node) = b.create_unnamed(self.dir(*dir)?, *mode)?;
                self.files.insert(*ino, file);
                self.nodes.insert(*ino, node);
                Ok(())
            }
            Record::LinkNode { ino, to_dir, to_name } => {
                b.link_node(self.nodes.get(ino).ok_or(Errno::STALE)?, self.dir(*to_dir)?, to_name)
            }
            Record::Link { dir, name, to_dir, to_name } => b.link(self.dir(*dir)?, name, self.dir(*to_dir)?, to_name),
            Record::Unlink { dir, name } => b.unlink(self.dir(*dir)?, name),
            Record::Rmdir { dir, name } => b.rmdir(self.dir(*dir)?, name),
            Record::Rename { dir, name, to_dir, to_name, mode } => {
                b.rename(self.dir(*dir)?, name, self.dir(*to_dir)?, to_name, *mode)
            }
            Record::Write { ino, offset, data } => self.file(*ino)?.write_at(data, *offset),
            Record::SetLen { ino, len } => self.file(*ino)?.set_len(*len),
            Record::Allocate { ino, how, offset, len } => self.file(*ino)?.allocate(*how, *offset, *len),
            Record::SetMode { ino, mode } => b.set_mode(self.target(*ino)?, *mode),
            Record::SetOwner { ino, uid, gid } => b.set_owner(self.target(*ino)?, *uid, *gid),
            Record::SetTimes { ino, atime, mtime } => b.set_times(self.target(*ino)?, *atime, *mtime),
            Record::SetXattr { ino, name, value } => b.set_xattr(self.target(*ino)?, name, value, XattrMode::Set),
            Record::RemoveXattr { ino, name } => b.remove_xattr(self.target(*ino)?, name),
            Record::SetInodeFlags { ino, flags } => b.set_inode_flags(self.target(*ino)?, *flags),
            Record::Sync { ino, data_only } => self.file(*ino)?.sync(*data_only),
            // What is lost by it is for whoever makes the disk of a crash to decide.
            Record::FailedSync { .. } | Record::FailedSyncAll => Ok(()),
            Record::StartWriteback { ino, offset, len } => {
                self.file(*ino)?.start_writeback(*offset, *len);
                Ok(())
            }
            Record::SyncDir { dir } => b.sync_dir(self.dir(*dir)?),
            Record::SyncAll => b.sync_all(),
        }
    }

    fn make(&mut self, dir: u64, name: &str, what: &Made, mode: u32, ino: u64) -> Result<()> {
        let parent = self.dirs.get(&dir).ok_or(Errno::STALE)?;
        // The number may have named an object that is gone.
        self.files.remove(&ino);
        self.nodes.remove(&ino);
        match what {
            Made::Directory => {
                self.backing.mkdir(parent, name, mode)?;
                let made = self.backing.open_dir(parent, name)?;
                self.dirs.insert(ino, made);
            }
            Made::Symlink(target) => {
                self.backing.symlink(target, parent, name)?;
                self.nodes.insert(ino, self.backing.pin(parent, name)?);
            }
            Made::Node { kind: FileKind::Regular, .. } => {
                // Opened while it is being made, a file can be written whatever its mode is.
                self.files.insert(ino, self.backing.create(parent, name, mode)?);
            }
            Made::Node { kind, rdev } => {
                self.backing.mknod(parent, name, *kind, mode, *rdev)?;
                self.nodes.insert(ino, self.backing.pin(parent, name)?);
            }
        }
        Ok(())
    }

    fn dir(&self, ino: u64) -> Result<&B::Dir> {
        self.dirs.get(&ino).ok_or(Errno::STALE)
    }

    fn file(&self, ino: u64) -> Result<&B::File> {
        self.files.get(&ino).ok_or(Errno::STALE)
    }

    fn target(&self, ino: u64) -> Result<Target<'_, B>> {
        let file = self.files.get(&ino).map(Target::File);
        let node = || self.nodes.get(&ino).map(Target::Node);
        let dir = || self.dirs.get(&ino).map(Target::Dir);
        file.or_else(node).or_else(dir).ok_or(Errno::STALE)
    }
}
