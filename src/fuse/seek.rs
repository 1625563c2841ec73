//! SEEK_DATA and SEEK_HOLE under the kernel's write-back cache.
//!
//! The kernel asks without having written its dirty pages, so an answer from the stored state could tell a copying
//! program that data is a hole. While a file has writers, its pages are therefore written back first, by an invalidation
//! notice: the kernel writes each dirty page out, through ordinary WRITE requests, before it drops it. The notice blocks
//! until the daemon has served them; so it comes from a thread of its own, which no request waits for but the seek itself
//! (FORMAT 7.1). Whatever is dirtied meanwhile races with the seek on any filesystem.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::operations::{Operations, Whence};
use crate::store::Backing;
use crate::sync::{Arc, thread};
use crate::vfs::Result;

/// A seek that waits for write-back.
pub(super) struct Job {
    pub(super) ino: u64,
    pub(super) handle: u64,
    pub(super) offset: u64,
    pub(super) whence: Whence,
    /// Gives the answer.
    pub(super) done: Box<dyn FnOnce(Result<u64>) + Send>,
}

/// A queue of seeks; the worker that empties it starts when there is a connection to send notices on.
pub(super) fn queue() -> (Sender<Job>, Receiver<Job>) {
    channel()
}

/// Starts the worker. `write_back` makes the kernel write back what it holds of an inode. The worker ends when the
/// queue's senders are gone.
pub(super) fn start<B: Backing>(
    operations: Arc<Operations<B>>,
    jobs: Receiver<Job>,
    write_back: impl Fn(u64) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new().name("kmsfs-seek".to_owned()).spawn(move || {
        for job in jobs {
            self::write_back(job.ino, &write_back);
            (job.done)(operations.seek(job.handle, job.offset, job.whence));
        }
    })?;
    Ok(())
}

/// Makes the kernel write back what it holds of an inode.
pub(super) fn write_back(ino: u64, invalidate: impl Fn(u64) -> io::Result<()>) {
    // ENOENT: the kernel holds no pages of it. EBUSY: a page was written back but stays in use.
    if let Err(error) = invalidate(ino) {
        tracing::debug!(ino, "write-back before a seek: {error}");
    }
}
