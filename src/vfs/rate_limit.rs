//! How many integrity events of an inode get into the log.

use std::collections::HashMap;
use std::time::Duration;

use crate::sync::{Mutex, lock};
use crate::types::Timestamp;

/// Events of one inode within [`WINDOW`]; further ones are counted only.
const PER_WINDOW: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Inodes with a count of their own at a time; further ones share one.
const MAX_INODES: usize = 1024;
/// The number that further inodes share; no inode has it.
const OTHERS: u64 = 0;
/// Keeps a damaged big file from flooding the log.
#[derive(Default)]
pub(super) struct RateLimit(Mutex<Windows>);

#[derive(Default)]
struct Windows {
    by_inode: HashMap<u64, Window>,
    looked_through: Timestamp,
}

struct Window {
    since: Timestamp,
    events: u32,
    suppressed: u64,
}

impl RateLimit {
    /// Whether an event of this inode may be written now. Tells of those that were not, once their window is over.
    pub(super) fn admits(&self, ino: u64, now: Timestamp) -> bool {
        let mut windows = lock(&self.0);
        if now.since(windows.looked_through) >= WINDOW {
            windows.looked_through = now;
            windows.by_inode.retain(|ino, window| {
                let over = now.since(window.since) >= WINDOW;
                if over {
                    window.tell(*ino);
                }
                !over
            });
        }
        let known = windows.by_inode.len() < MAX_INODES || windows.by_inode.contains_key(&ino);
        let key = if known { ino } else { OTHERS };
        let window = windows.by_inode.entry(key).or_insert(Window { since: now, events: 0, suppressed: 0 });
        if now.since(window.since) >= WINDOW {
            window.tell(key);
            *window = Window { since: now, events: 0, suppressed: 0 };
        }
        let admitted = window.events < PER_WINDOW;
        if admitted {
            window.events += 1;
        } else {
            window.suppressed += 1;
        }
        admitted
    }
}

impl Window {
    fn tell(&self, ino: u64) {
        let Self { suppressed, .. } = *self;
        if suppressed > 0 && ino == OTHERS {
            tracing::warn!(target: "kmsfs::integrity", suppressed, "{suppressed} further events of other inodes suppressed");
        } else if suppressed > 0 {
            tracing::warn!(target: "kmsfs::integrity", ino, suppressed, "{suppressed} further events of this inode suppressed");
        }
    }
}

impl Drop for RateLimit {
    fn drop(&mut self) {
        for (ino, window) in &lock(&self.0).by_inode {
            window.tell(*ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_gets_its_share_and_no_more() {
        let limit = RateLimit::default();
        let at = |secs| Timestamp::from_secs(1_000_i64 + secs);
        let admitted = |ino, secs| (0..100).filter(|_| limit.admits(ino, at(secs))).count() as u32;
        assert_eq!((admitted(7, 0), admitted(8, 1), admitted(7, 59)), (PER_WINDOW, PER_WINDOW, 0));
        assert_eq!(lock(&limit.0).by_inode[&7].suppressed, 190);
        assert_eq!((admitted(8, 60), admitted(7, 60)), (0, PER_WINDOW), "each one has its own minute");
    }

    #[test]
    fn no_number_of_damaged_files_takes_all_memory_or_all_of_the_log() {
        let limit = RateLimit::default();
        let now = Timestamp::from_secs(1_000);
        let admitted = (1..10_000).filter(|ino| limit.admits(*ino, now)).count();
        assert_eq!(admitted, MAX_INODES + PER_WINDOW as usize);
        assert_eq!(lock(&limit.0).by_inode.len(), MAX_INODES + 1);
    }
}
