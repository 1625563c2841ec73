//! The inodes that the kernel or a handle refers to.

use std::collections::HashMap;

use super::inode::Inode;
use crate::store::{Backing, FileKind, FileTime};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, lock, read, write};

const SHARDS: u64 = 16;

/// The kernel's number of the root.
pub const ROOT: u64 = 1;

/// Inodes by their number. Lock order: a shard's lock is the innermost of all.
pub(super) struct InodeTable<B: Backing> {
    root: Arc<Inode<B>>,
    root_backing_number: u64,
    /// The one that was given last.
    generation: AtomicU32,
    shards: [Mutex<HashMap<u64, Arc<Inode<B>>>>; SHARDS as usize],
}

impl<B: Backing> InodeTable<B> {
    /// A table whose root has the given number in the backing.
    pub(super) fn new(root_backing_number: u64) -> Self {
        Self {
            root: Arc::new(Inode::new(ROOT, FileKind::Directory, None)),
            root_backing_number,
            generation: AtomicU32::new(0),
            shards: std::array::from_fn(|_| Mutex::new(HashMap::new())),
        }
    }

    /// The root's inode.
    pub(super) fn root(&self) -> &Arc<Inode<B>> {
        &self.root
    }

    /// The number under which the kernel knows the inode with this number in the backing: the same, so that numbers
    /// are stable across mounts, except that the root must be 1 and changes places with whatever is 1 there.
    pub(super) fn number_of(&self, backing_number: u64) -> u64 {
        match backing_number {
            n if n == self.root_backing_number => ROOT,
            ROOT => self.root_backing_number,
            n => n,
        }
    }

    /// A generation that no number had lately. The backing gives numbers again: who holds one of an object that is gone (a file
    /// handle of name_to_handle_at(2)) must not get another object by it.
    pub(super) fn next_generation(&self) -> u64 {
        // 32 bits, as the kernel keeps it.
        self.generation.fetch_add(1, Ordering::Relaxed).wrapping_add(1).into()
    }

    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Arc<Inode<B>>>> {
        lock(&self.shards[(number % SHARDS) as usize])
    }

    /// The inode with this number, if it is known.
    pub(super) fn get(&self, number: u64) -> Option<Arc<Inode<B>>> {
        if number == ROOT {
            return Some(Arc::clone(&self.root));
        }
        self.shard(number).get(&number).cloned()
    }

    /// The inode with this number, made if need be, with `lookups` references of the kernel added.
    pub(super) fn refer(&self, number: u64, kind: FileKind, lookups: u64) -> Arc<Inode<B>> {
        self.refer_born(number, kind, None, lookups)
    }

    /// As [`Self::refer`], of an object that was made at a time which is known of the inode too, if it is given.
    pub(super) fn refer_born(
        &self,
        number: u64,
        kind: FileKind,
        born: Option<FileTime>,
        lookups: u64,
    ) -> Arc<Inode<B>> {
        if number == ROOT {
            return Arc::clone(&self.root);
        }
        let mut shard = self.shard(number);
        let inode = match shard.get(&number) {
            Some(known) if known.kind == kind && known.born == born => Arc::clone(known),
            known => {
                let made = Arc::new(Inode::new(number, kind, born));
                made.generation.store(self.next_generation(), Ordering::Release);
                // Another object by the same number. What the kernel holds of the old one it drops, and counts on.
                if let Some(known) = known {
                    made.lookups.store(known.lookups.load(Ordering::Relaxed), Ordering::Relaxed);
                }
                shard.insert(number, Arc::clone(&made));
                made
            }
        };
        inode.lookups.fetch_add(lookups, Ordering::Relaxed);
        inode
    }

    /// Takes back `count` references of the kernel; the inode goes when none is left.
    pub(super) fn forget(&self, number: u64, count: u64) {
        if number == ROOT {
            return;
        }
        {
            let shard = self.shard(number);
            let Some(inode) = shard.get(&number) else { return };
            let left = inode.lookups.load(Ordering::Relaxed).saturating_sub(count);
            inode.lookups.store(left, Ordering::Relaxed);
        }
        self.drop_unused(number);
    }

    /// Drops an inode that neither the kernel nor anything here refers to, and then its parents of which the same is true.
    /// A directory stays as long as a child names it: were it looked up anew beside the one that the child knows, a later
    /// rename would reach only one of the two.
    fn drop_unused(&self, number: u64) {
        let mut candidates = vec![number];
        while let Some(number) = candidates.pop() {
            let gone = {
                let mut shard = self.shard(number);
                let unused = shard.get(&number).is_some_and(|inode| {
                    let named_by_children = inode.kind == FileKind::Directory
                        && !inode.dir.removed.load(Ordering::Relaxed)
                        && Arc::strong_count(inode) > 1;
                    inode.lookups.load(Ordering::Relaxed) == 0 && !named_by_children
                });
                if unused { shard.remove(&number) } else { None }
            };
            // Outside the lock: an inode's end can close descriptors.
            if let Some(inode) = gone {
                let parents = read(&inode.place).names.iter().map(|(parent, _)| parent.number).collect::<Vec<_>>();
                drop(inode);
                candidates.extend(parents.into_iter().filter(|&parent| parent != ROOT));
            }
        }
    }

    /// The regular files that are known.
    pub(super) fn regular(&self) -> Vec<Arc<Inode<B>>> {
        let of_shard = |shard: &Mutex<HashMap<u64, Arc<Inode<B>>>>| {
            lock(shard).values().filter(|inode| inode.kind == FileKind::Regular).cloned().collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(of_shard).collect()
    }

    /// The regular files that have no name: made without one, or removed while they were in use.
    pub(super) fn unnamed(&self) -> Vec<Arc<Inode<B>>> {
        // A place is not locked under a shard.
        self.regular().into_iter().filter(|inode| read(&inode.place).orphan.is_some()).collect()
    }

    /// How many inodes are known.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }
}

impl<B: Backing> Drop for InodeTable<B> {
    /// Inodes keep their parents. Were they left to end one by another, a deep tree would need as deep a stack.
    fn drop(&mut self) {
        for shard in &self.shards {
            for inode in lock(shard).values() {
                write(&inode.place).names.clear();
            }
        }
    }
}
