//! One inode as the mount knows it: its names in the backing, and what is open of it.

use crate::content::{Content, LiveId};
use crate::freshness::{TrackedDir, TrackedFile};
use crate::store::{Backing, FileKind, FileTime};
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, OnceLock, RwLock, RwLockWriteGuard, lock, write};
use crate::types::DirId;

/// It is not known whether a file has any of these bits.
pub(super) const SET_ID_UNKNOWN: u32 = u32::MAX;

/// An inode known to the kernel or to an open handle.
///
/// No descriptor is held for it: it is reached through a directory handle and one of its names. Only when its last
/// known name goes while somebody still refers to it, a handle without a name is kept ([`Place::orphan`]), which also
/// keeps the backing from giving the inode number to another object.
pub(super) struct Inode<B: Backing> {
    /// Number towards the kernel, see `table::number_of`.
    pub(super) number: u64,
    pub(super) kind: FileKind,
    /// When it was made, where somebody else may give its number to another object: in a read-only mount, by a backing that knows.
    pub(super) born: Option<FileTime>,
    /// Told to the kernel with the number: what it holds under another generation it drops when it looks up the inode anew.
    pub(super) generation: AtomicU64,
    /// Dirty pages of the kernel could not be stored. It goes on with the size that the file would have, whatever it
    /// is told: so when nobody has the file open any more, the generation changes, and `ESTALE` has the kernel look it up anew.
    pub(super) pages_lost: AtomicBool,
    /// Which of setuid and setgid its users see, to a daemon without privilege, which takes them away when it writes; a file that
    /// nobody opened for writing yet has [`SET_ID_UNKNOWN`]. Changed only while [`crate::store::Modes::change`] runs.
    pub(super) set_id: AtomicU32,
    /// References of the kernel (FUSE lookup count). Changed only under the table's shard lock.
    pub(super) lookups: AtomicU64,
    /// Handles open for writing: while there are some, the kernel may hold dirty pages.
    pub(super) writers: AtomicU32,
    /// Lock order: after the directory locks. Held for reading while an operation uses one of the names.
    pub(super) place: RwLock<Place<B>>,
    /// What is open of a regular file. Lock order: after `place`.
    pub(super) content: Mutex<OpenContent<B>>,
    /// Set while a file that nobody has open is being opened, which can wait for the key manager: who wants its attributes need
    /// not. Changed under the lock of `content`.
    opening: AtomicBool,
    /// What is known of a directory.
    pub(super) dir: Directory,
    /// The freshness record of a regular file, once it is known.
    pub(super) record: OnceLock<TrackedFile>,
}

/// Where an inode is found in the backing.
pub(super) struct Place<B: Backing> {
    /// Known names: (directory, encrypted entry name). The root has none.
    pub(super) names: Vec<(Arc<Inode<B>>, String)>,
    /// A handle that outlives the names.
    pub(super) orphan: Option<B::Node>,
}

/// The shared state of all handles of one regular file.
pub(super) struct OpenContent<B: Backing> {
    pub(super) content: Option<Arc<Content<B>>>,
    pub(super) handles: u32,
    /// It became immutable while it was open: what it is open by would still let writers in.
    pub(super) immutable: bool,
}

impl<B: Backing> OpenContent<B> {
    /// Counts one more handle of the file, whose content this is; `Vfs::relinquish` gives it back.
    pub(super) fn hold(&mut self, content: Arc<Content<B>>) -> Arc<Content<B>> {
        self.content = Some(Arc::clone(&content));
        self.handles += 1;
        content
    }
}

/// State of a directory inode.
pub(super) struct Directory {
    /// Its id, once read and verified.
    pub(super) id: OnceLock<LiveId<DirId>>,
    /// Whether a name in it has been found to verify under its id, or this mount made it (FORMAT 8.1).
    pub(super) id_proven: AtomicBool,
    /// Changes of the namespace hold it for writing, lookups for reading. Lock order: before any inode's `place`; two
    /// directories in ascending order of their numbers. It counts how often it was held for writing.
    pub(super) entries: RwLock<u64>,
    /// Whether it has a default ACL; `None` while unknown.
    pub(super) default_acl: Mutex<Option<bool>>,
    /// Which of its owner's rights its mode is known to have, to a daemon without privilege.
    pub(super) rights: AtomicU32,
    /// Set when it was removed: nothing can be made in it any more.
    pub(super) removed: AtomicBool,
    /// Its freshness record, once it is known.
    pub(super) record: OnceLock<TrackedDir>,
}

impl Directory {
    /// Holds the entries for a change of them.
    pub(super) fn change(&self) -> RwLockWriteGuard<'_, u64> {
        let mut changes = write(&self.entries);
        *changes += 1;
        changes
    }
}

impl<B: Backing> Inode<B> {
    pub(super) fn new(number: u64, kind: FileKind, born: Option<FileTime>) -> Self {
        Self {
            number,
            kind,
            born,
            generation: AtomicU64::new(0),
            pages_lost: AtomicBool::new(false),
            set_id: AtomicU32::new(SET_ID_UNKNOWN),
            lookups: AtomicU64::new(0),
            writers: AtomicU32::new(0),
            place: RwLock::new(Place { names: Vec::new(), orphan: None }),
            content: Mutex::new(OpenContent { content: None, handles: 0, immutable: false }),
            opening: AtomicBool::new(false),
            dir: Directory {
                id: OnceLock::new(),
                id_proven: AtomicBool::new(false),
                entries: RwLock::new(0),
                default_acl: Mutex::new(None),
                rights: AtomicU32::new(0),
                removed: AtomicBool::new(false),
                record: OnceLock::new(),
            },
            record: OnceLock::new(),
        }
    }
}

impl<B: Backing> Inode<B> {
    /// The caller, who holds the content slot, opens a file that nobody has open, until the answer is dropped.
    pub(super) fn begin_opening(&self) -> Opening<'_> {
        self.opening.store(true, Ordering::Release);
        Opening(&self.opening)
    }

    /// What is open of a regular file.
    pub(super) fn open_content(&self) -> Option<Arc<Content<B>>> {
        lock(&self.content).content.clone()
    }

    /// The plaintext size as the open content has it; `None` if the file is not open, or only about to be.
    pub(super) fn open_size(&self) -> Option<u64> {
        if self.opening.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.content).content.as_ref().map(|content| content.size())
    }
}

/// A file is being opened.
pub(super) struct Opening<'a>(&'a AtomicBool);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<B: Backing> Place<B> {
    /// Notes a name.
    pub(super) fn add(&mut self, dir: &Arc<Inode<B>>, entry: &str) {
        if !self.names.iter().any(|(d, e)| d.number == dir.number && e == entry) {
            self.names.push((Arc::clone(dir), entry.to_owned()));
        }
    }

    /// Forgets a name.
    pub(super) fn remove(&mut self, dir: &Inode<B>, entry: &str) {
        self.names.retain(|(d, e)| d.number != dir.number || e != entry);
    }
}
