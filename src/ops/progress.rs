//! How a long job tells how far it is, and learns that it should stop.

/// Told by the job's threads; every method may be called from several at once.
pub trait Progress: Send + Sync {
    /// So many more files, and bytes in them, were found to work on.
    fn found(&self, files: u64, bytes: u64);
    /// So many more are done.
    fn done(&self, files: u64, bytes: u64);
    /// Whether the job should stop at the next point where it can be resumed.
    fn is_cancelled(&self) -> bool;
}

/// Tells nobody and never stops.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn found(&self, _files: u64, _bytes: u64) {}

    fn done(&self, _files: u64, _bytes: u64) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}
