//! SEEK_DATA and SEEK_HOLE under the kernel's write-back cache.
//!
//! The kernel asks without having written its dirty pages, so an answer from the stored state could tell a copying
//! program that data is a hole. While a file has writers, its pages are therefore written back first, by an invalidation
//! notice: the kernel writes each dirty page out, through ordinary WRITE requests, before it drops it. The notice blocks
//! until the daemon has served them; so it comes from a thread of its own, which no request waits for but the seek itself
//! (FORMAT 7.1). Whatever is dirtied meanwhile races with the seek on any filesystem.

use std::sync::mpsc::{Receiver, Sender, channel};

use fuser::{INodeNo, Notifier, ReplyLseek};

use super::convert::errno;
use crate::store::Backing;
use crate::sync::{Arc, thread};
use crate::vfs::{Result, Vfs};

/// A seek that waits for write-back.
pub(super) struct Job {
    pub(super) ino: INodeNo,
    pub(super) handle: u64,
    pub(super) offset: u64,
    pub(super) whence: Whence,
    pub(super) reply: ReplyLseek,
}

/// What is sought.
#[derive(Clone, Copy)]
pub(super) enum Whence {
    Data,
    Hole,
}

/// A queue of seeks; the worker that empties it starts when the session has a notifier.
pub(super) fn queue() -> (Sender<Job>, Receiver<Job>) {
    channel()
}

/// Starts the worker. It ends when the filesystem, and the queue's sender with it, is gone.
pub(super) fn start<B: Backing>(vfs: Arc<Vfs<B>>, jobs: Receiver<Job>, notifier: Notifier) -> std::io::Result<()> {
    thread::Builder::new().name("kmsfs-seek".to_owned()).spawn(move || {
        for job in jobs {
            // ENOENT: the kernel holds no pages of it. EBUSY: a page was written back but stays in use.
            if let Err(error) = notifier.inval_inode(job.ino, 0, 0) {
                tracing::debug!(ino = job.ino.0, "write-back before a seek: {error}");
            }
            answer(job.reply, seek(&vfs, job.handle, job.offset, job.whence));
        }
    })?;
    Ok(())
}

pub(super) fn seek<B: Backing>(vfs: &Vfs<B>, handle: u64, offset: u64, whence: Whence) -> Result<u64> {
    match whence {
        Whence::Data => vfs.seek_data(handle, offset),
        Whence::Hole => vfs.seek_hole(handle, offset),
    }
}

pub(super) fn answer(reply: ReplyLseek, result: Result<u64>) {
    match result {
        Ok(at) => reply.offset(at.cast_signed()),
        Err(error) => reply.error(errno(error)),
    }
}
