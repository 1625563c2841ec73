//! SEEK_DATA and SEEK_HOLE under the kernel's write-back cache.
//!
//! The kernel asks without having written its dirty pages, so an answer from the stored state could tell a copying
//! program that data is a hole. While a file has writers, its pages are therefore written back first, by an invalidation
//! notice: the kernel writes each dirty page out, through ordinary WRITE requests, before it drops it. The notice blocks
//! until the daemon has served them; so it comes from a thread of its own, which no request waits for but the seek itself
//! (FORMAT 7.1). Whatever is dirtied meanwhile races with the seek on any filesystem.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::io::Errno;

use super::dispatch::PendingSeek;
use super::operations::Operations;
use crate::store::Backing;
use crate::sync::{Arc, thread};
use crate::vfs::Result;

/// A seek that waits for write-back.
pub(super) struct Job {
    pub(super) seek: PendingSeek,
    /// Gives the answer.
    pub(super) done: Box<dyn FnOnce(Result<u64>) + Send>,
}

/// A queue of seeks; the worker that empties it starts when there is a connection to send notices on.
pub(super) fn queue() -> (Sender<Job>, Receiver<Job>) {
    channel()
}

/// Starts the worker, which makes the kernel write back by `invalidate`. It ends when the queue's senders are gone.
pub(super) fn start<B: Backing>(
    operations: Arc<Operations<B>>,
    jobs: Receiver<Job>,
    invalidate: impl Fn(u64) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    work(jobs, move |seek| after_write_back(seek, &operations, &invalidate))
}

fn work(jobs: Receiver<Job>, answer: impl Fn(&PendingSeek) -> Result<u64> + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("kmsfs-seek".to_owned()).spawn(move || {
        for Job { seek, done } in jobs {
            done(guarded(|| answer(&seek)));
        }
    })?;
    Ok(())
}

/// Seeks when the kernel has written back what it holds of the file, which `invalidate` makes it do. A seek that panics
/// gets `EIO`.
pub(super) fn answer<B: Backing>(
    seek: &PendingSeek,
    operations: &Operations<B>,
    invalidate: impl FnOnce(u64) -> io::Result<()>,
) -> Result<u64> {
    guarded(|| after_write_back(seek, operations, invalidate))
}

fn after_write_back<B: Backing>(
    seek: &PendingSeek,
    operations: &Operations<B>,
    invalidate: impl FnOnce(u64) -> io::Result<()>,
) -> Result<u64> {
    // ENOENT: the kernel holds no pages of it. EBUSY: a page was written back but stays in use.
    if let Err(error) = invalidate(seek.ino) {
        tracing::debug!(ino = seek.ino, "write-back before a seek: {error}");
    }
    operations.seek(seek.handle, seek.offset, seek.whence)
}

/// A panic must not leave the seek without an answer, nor end the thread that answers seeks.
fn guarded(seek: impl FnOnce() -> Result<u64>) -> Result<u64> {
    catch_unwind(AssertUnwindSafe(seek)).unwrap_or_else(|_| {
        tracing::error!("a seek failed by a bug in kmsfs and was answered with EIO; please report it");
        Err(Errno::IO.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::operations::Whence;

    #[test]
    fn a_seek_that_panics_is_answered_and_so_is_the_next_one() {
        let (sender, jobs) = queue();
        work(jobs, |seek| if seek.offset == 0 { panic!("on purpose") } else { Ok(seek.offset) }).expect("a worker");
        for (offset, expected) in [(0, Err(Errno::IO)), (7, Ok(7))] {
            let (answered, answer) = channel();
            let done = Box::new(move |sought: Result<u64>| answered.send(sought).expect("awaited"));
            let seek = PendingSeek { unique: 1, ino: 2, handle: 3, offset, whence: Whence::Data };
            sender.send(Job { seek, done }).expect("the worker lives");
            assert_eq!(answer.recv().expect("an answer").map_err(|error| error.errno()), expected);
        }
    }
}
