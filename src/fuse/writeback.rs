//! Requests that are served when the kernel has written back what it holds dirty of a file.
//!
//! The kernel seeks holes, and sets inode flags and attributes, without having written its dirty pages: an answer from the stored
//! state could tell a copying program that data is a hole, the pages of a file that was made immutable could not be stored any
//! more, and storing them would take `security.capability` away. While a file has writers, its pages are therefore written back
//! first, by an invalidation notice: the kernel writes each dirty page out, through ordinary WRITE requests, before it drops it.
//! The notice blocks until the daemon has served them (before Linux 6.16: those of pages that were not on their way already); so
//! it comes from a thread of its own, which no request waits for but the one it serves (FORMAT 7.1). Whatever is dirtied
//! meanwhile races with the request on any filesystem.
//!
//! An fsync that failed is answered in the same way: what the kernel holds of the file may never have been stored, and who is told
//! of the failure is to read what is.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::operations::Wanted;
use crate::sys::threads;

/// A request that waits for write-back.
#[derive(Debug, PartialEq, Eq)]
pub struct Pending {
    pub(super) unique: u64,
    pub(super) ino: u64,
    pub(super) wanted: Wanted,
}

impl Pending {
    /// Whether it failed, and is only told when the kernel has dropped what it held.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.wanted, Wanted::Failed(_))
    }
}

/// What is to be done after write-back of an inode.
pub(super) struct Job {
    pub(super) ino: u64,
    /// Serves the request and gives its answer.
    pub(super) serve: Box<dyn FnOnce() + Send>,
}

/// A queue of jobs; the worker that empties it starts when there is a connection to send notices on.
pub(super) fn queue() -> (Sender<Job>, Receiver<Job>) {
    channel()
}

/// Starts the worker. `invalidate` makes the kernel write back what it holds of an inode. The worker ends when the
/// queue's senders are gone.
pub(super) fn start(
    jobs: Receiver<Job>,
    invalidate: impl Fn(u64) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    threads::spawn("kmsfs-writeback", move || {
        for job in jobs {
            write_back(job.ino, &invalidate);
            // Its answer is on its way, or dropped; others wait for this thread.
            if catch_unwind(AssertUnwindSafe(job.serve)).is_err() {
                tracing::error!(ino = job.ino, "a request that waited for write-back panicked");
            }
        }
    })?;
    Ok(())
}

/// Makes the kernel write back what it holds of an inode.
pub(super) fn write_back(ino: u64, invalidate: impl Fn(u64) -> io::Result<()>) {
    // ENOENT: the kernel holds no pages of it. EBUSY: a page was written back but stays in use.
    if let Err(error) = invalidate(ino) {
        tracing::debug!(ino, "write-back before a request: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_panics_does_not_end_those_behind_it() {
        let (sender, jobs) = queue();
        start(jobs, |_| Ok(())).expect("a worker");
        let (served, serves) = channel();
        let ends: [Box<dyn FnOnce() + Send>; 2] =
            [Box::new(|| panic!("on purpose")), Box::new(move || served.send(()).expect("awaited"))];
        for serve in ends {
            sender.send(Job { ino: 1, serve }).expect("the worker lives");
        }
        serves.recv().expect("the second one is served");
    }
}
