//! Ids in use, to notice copies that were made behind the mount's back.

use std::collections::HashMap;
use std::hash::Hash;

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, lock};

/// The ids of one kind, of files or of directories, that are in use by an inode. Two inodes with one id are a copy and its
/// original: what is bound to the id only can be exchanged between them unnoticed (FORMAT S12, `DuplicateId`).
pub struct LiveIds<K>(Ids<K>);

/// By id, who uses it, and how many [`LiveId`]s there are of it.
type Ids<K> = Arc<Mutex<HashMap<K, (Arc<Users>, usize)>>>;

/// Who uses an id: the first inode, and the last other one, 0 while there is none.
struct Users {
    first: u64,
    other: AtomicU64,
}

/// An id in use by an inode; given back when dropped.
pub struct LiveId<K: Copy + Eq + Hash> {
    ids: Ids<K>,
    id: K,
    ino: u64,
    users: Arc<Users>,
}

impl<K> Default for LiveIds<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Copy + Eq + Hash> LiveIds<K> {
    /// Notes that the inode with number `ino` uses `id`. An inode may do so any number of times.
    pub fn enter(&self, id: K, ino: u64) -> LiveId<K> {
        let mut ids = lock(&self.0);
        let new = || (Arc::new(Users { first: ino, other: AtomicU64::new(0) }), 0);
        let (users, count) = ids.entry(id).or_insert_with(new);
        *count += 1;
        if users.first != ino {
            users.other.store(ino, Ordering::Relaxed);
        }
        LiveId { ids: Arc::clone(&self.0), id, ino, users: Arc::clone(users) }
    }
}

impl<K: Copy + Eq + Hash> LiveId<K> {
    /// The id.
    pub fn id(&self) -> K {
        self.id
    }

    /// Another inode with the same id, if one was seen while this one was in use.
    pub fn duplicate(&self) -> Option<u64> {
        match self.users.other.load(Ordering::Relaxed) {
            0 => None,
            _ if self.users.first != self.ino => Some(self.users.first),
            other => Some(other),
        }
    }
}

impl<K: Copy + Eq + Hash> Drop for LiveId<K> {
    fn drop(&mut self) {
        let mut ids = lock(&self.ids);
        if let Some((_, count)) = ids.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                ids.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_inodes_learn_of_a_duplicate_and_none_of_itself() {
        let ids = LiveIds::default();
        let (one, again) = (ids.enter(7, 100), ids.enter(7, 100));
        assert_eq!((one.duplicate(), again.duplicate()), (None, None));
        let other = ids.enter(7, 200);
        assert_eq!((one.duplicate(), other.duplicate()), (Some(200), Some(100)));
        assert_eq!(ids.enter(8, 300).duplicate(), None);
        drop((one, again, other));
        assert_eq!(ids.enter(7, 200).duplicate(), None, "nobody uses it any more");
        assert!(lock(&ids.0).is_empty());
    }
}
