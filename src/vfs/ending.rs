//! The end of a mount that programs still use.

use std::io;

use super::fs::Vfs;
use crate::store::Backing;
use crate::sync::atomic::Ordering;

impl<B: Backing> Vfs<B> {
    /// Makes durable what programs have written to the files that are open for writing, and answers in how many files that
    /// failed. `drop_pages` makes the kernel write back and drop what it has cached of an inode. Attributes are refused
    /// from now on, and files opened for writing: the kernel, which drops attributes with the pages, asks for them before
    /// it takes a write(2), so that a program that goes on writing gets an error at once. Where the kernel has attributes all the same, after an
    /// answer that came meanwhile, the program learns it when it closes or syncs.
    pub fn store_all(&self, drop_pages: &dyn Fn(u64) -> io::Result<()>) -> usize {
        self.ending.store(true, Ordering::Release);
        let open = self.table.regular().into_iter().filter(|inode| inode.writers.load(Ordering::Acquire) > 0);
        let failed = open.filter(|inode| {
            let dropped = written_back(drop_pages(inode.number)).map_err(|error| error.to_string());
            // Also if not all has come: what has is worth keeping.
            let content = inode.open_content();
            let synced = content.map_or(Ok(()), |content| content.sync(false)).map_err(|error| error.to_string());
            let stored = dropped.and(synced);
            if let Err(error) = &stored {
                tracing::error!(ino = inode.number, "the last writes to a file are not stored: {error}");
            }
            stored.is_err()
        });
        let failed = failed.count();
        self.end_raising();
        failed
    }
}

/// Whether pages were written back that the kernel was to drop.
fn written_back(dropped: io::Result<()>) -> io::Result<()> {
    match dropped.as_ref().map_err(io::Error::kind) {
        // The kernel has no pages of it; or a page was written back, and stays because somebody uses it.
        Err(io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy) => Ok(()),
        _ => dropped,
    }
}
