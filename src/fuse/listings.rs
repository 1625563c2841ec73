//! Listings of directories that the kernel did not open.
//!
//! A kernel that is told so (`FUSE_NO_OPENDIR_SUPPORT`) neither opens nor closes directories, which are two requests less
//! for each, and it caches what it listed. A listing then is a sequence of requests that each go on where one before
//! ended. Between two of them its handle waits here; when too many wait, the one that waits longest is closed, and its
//! listing goes on with a new handle.

use std::collections::VecDeque;

use crate::store::Backing;
use crate::sync::{Mutex, lock};
use crate::vfs::{DirEntry, Result, Vfs};

/// Handles that wait at most; each has a descriptor and a buffer.
const MAX_WAITING: usize = 64;

/// A listing between two requests.
struct Waiting {
    ino: u64,
    position: u64,
    handle: u64,
}

/// The listings that are under way.
#[derive(Default)]
pub(super) struct Listings(Mutex<VecDeque<Waiting>>);

impl Listings {
    /// Delivers the entries of a directory behind `offset` until `emit` answers false or the directory ends.
    ///
    /// # Errors
    /// As of [`Vfs::open_dir`] and [`Vfs::read_dir`].
    pub(super) fn read<B: Backing>(
        &self,
        vfs: &Vfs<B>,
        ino: u64,
        offset: u64,
        with_attr: bool,
        mut emit: impl FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        let handle = match self.take(ino, offset) {
            Some(handle) => handle,
            None => vfs.open_dir(ino)?,
        };
        let mut position = offset;
        let done = vfs.read_dir(handle, offset, with_attr, |entry| {
            let taken = emit(entry);
            if taken {
                position = entry.next;
            }
            taken
        });
        // Nothing more: this was the end.
        if done.is_err() || position == offset {
            vfs.release_dir(handle);
        } else if let Some(oldest) = self.keep(Waiting { ino, position, handle }) {
            vfs.release_dir(oldest.handle);
        }
        done
    }

    /// Closes the handles that wait; their listings go on with new ones.
    pub(super) fn close_idle<B: Backing>(&self, vfs: &Vfs<B>) {
        let waiting = std::mem::take(&mut *lock(&self.0));
        waiting.into_iter().for_each(|one| vfs.release_dir(one.handle));
    }

    fn take(&self, ino: u64, position: u64) -> Option<u64> {
        let mut waiting = lock(&self.0);
        let at = waiting.iter().rposition(|one| one.ino == ino && one.position == position)?;
        waiting.remove(at).map(|one| one.handle)
    }

    /// Keeps a listing; the one that has to go for it.
    fn keep(&self, listing: Waiting) -> Option<Waiting> {
        let mut waiting = lock(&self.0);
        waiting.push_back(listing);
        if waiting.len() > MAX_WAITING { waiting.pop_front() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_handles_wait_and_each_goes_on_where_it_was() {
        let listings = Listings::default();
        let waiting = |handle| Waiting { ino: 1, position: handle, handle };
        let closed: Vec<u64> = (0..66).filter_map(|n| listings.keep(waiting(n))).map(|one| one.handle).collect();
        assert_eq!(closed, [0, 1]);
        assert_eq!((listings.take(1, 1), listings.take(2, 5)), (None, None));
        assert_eq!((listings.take(1, 5), listings.take(1, 5)), (Some(5), None));
    }
}
