//! Telling the kernel, unasked, that what it holds is not what is stored.
//!
//! Pages that could not be written back count as clean: the kernel goes on to show them, although nothing has them. And the
//! size that the file would have with them is the kernel's own as long as it knows the inode. So the pages are dropped at once,
//! and when nobody has the file open any more its names are looked up anew, which brings another generation of the inode and
//! with it the size that is stored.
//!
//! A notice waits for pages on their way and for the lock of a directory, and so for requests: it comes from a thread of its own.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::connection::Device;
use crate::sys::threads;

/// What the kernel is to let go of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// The pages that hold any of these bytes. Dirty ones are written back before.
    Pages { ino: u64, offset: u64, len: u64 },
    /// That it knows this name.
    Name { parent: u64, name: Vec<u8> },
}

/// A queue of notices; the thread that empties it starts when there is a connection to send them on.
pub(super) fn queue() -> (Sender<Notice>, Receiver<Notice>) {
    channel()
}

/// Starts the thread, which ends when the queue's senders are gone.
pub(super) fn start(notices: Receiver<Notice>, device: Device) -> io::Result<()> {
    threads::spawn("kmsfs-notices", move || {
        for notice in notices {
            let sent = match &notice {
                Notice::Pages { ino, offset, len } => device.invalidate(*ino, *offset, *len),
                Notice::Name { parent, name } => device.expire(*parent, name),
            };
            // ENOENT: the kernel does not hold it any more. EBUSY: somebody uses a page that was written back again.
            if let Err(error) = sent {
                tracing::debug!("a notice to the kernel: {error}");
            }
        }
    })?;
    Ok(())
}
