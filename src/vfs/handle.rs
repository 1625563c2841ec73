//! Open files and directories.

use std::collections::HashMap;

use super::inode::Inode;
use crate::content::Content;
use crate::store::{Backing, RawEntry};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, RwLock, read, write};

/// An open file.
pub(super) struct FileHandle<B: Backing> {
    pub(super) inode: Arc<Inode<B>>,
    pub(super) content: Arc<Content<B>>,
    pub(super) writable: bool,
    /// Failed flushes of the file that this handle's user knows of, or that happened before it was opened.
    pub(super) failures_seen: AtomicU64,
}

/// An open directory.
pub(super) struct DirHandle<B: Backing> {
    pub(super) inode: Arc<Inode<B>>,
    pub(super) stream: Mutex<DirStream<B>>,
}

/// A directory's entries as far as they were read.
pub(super) struct DirStream<B: Backing> {
    /// Opened by the first read: listings that the kernel has cached need none.
    pub(super) list: Option<B::List>,
    /// Entries read and not yet delivered, with the position of the first of them.
    pub(super) pending: std::collections::VecDeque<RawEntry>,
    pub(super) position: u64,
    /// Changes that the directory had seen when they were read: entries of an older state are not delivered.
    pub(super) changes: u64,
}

/// Handles by number. Numbers are never used again during a mount.
pub(super) struct Handles<T> {
    next: AtomicU64,
    shards: [RwLock<HashMap<u64, Arc<T>>>; 16],
}

impl<T> Handles<T> {
    pub(super) fn new() -> Self {
        Self { next: AtomicU64::new(1), shards: std::array::from_fn(|_| RwLock::new(HashMap::new())) }
    }

    pub(super) fn insert(&self, handle: T) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        write(self.shard(number)).insert(number, Arc::new(handle));
        number
    }

    pub(super) fn get(&self, number: u64) -> Option<Arc<T>> {
        read(self.shard(number)).get(&number).cloned()
    }

    pub(super) fn remove(&self, number: u64) -> Option<Arc<T>> {
        write(self.shard(number)).remove(&number)
    }

    /// How many handles there are.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| read(shard).len()).sum()
    }

    fn shard(&self, number: u64) -> &RwLock<HashMap<u64, Arc<T>>> {
        &self.shards[(number % 16) as usize]
    }
}
