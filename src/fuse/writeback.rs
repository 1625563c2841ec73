//! Requests that are served when the kernel has written back what it holds dirty of a file.
//!
//! The kernel seeks holes, and sets inode flags, without having written its dirty pages: an answer from the stored state could
//! tell a copying program that data is a hole, and the pages of a file that was made immutable could not be stored any
//! more. While a file has writers, its pages are therefore written back first, by an invalidation notice: the kernel writes
//! each dirty page out, through ordinary WRITE requests, before it drops it. The notice blocks until the daemon has served
//! them; so it comes from a thread of its own, which no request waits for but the one it serves (FORMAT 7.1). Whatever is
//! dirtied meanwhile races with the request on any filesystem.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::operations::Wanted;
use crate::sync::thread;

/// A request that waits for write-back.
#[derive(Debug, PartialEq, Eq)]
pub struct Pending {
    pub(super) unique: u64,
    pub(super) ino: u64,
    pub(super) wanted: Wanted,
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
    thread::Builder::new().name("kmsfs-writeback".to_owned()).spawn(move || {
        for job in jobs {
            write_back(job.ino, &invalidate);
            (job.serve)();
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
