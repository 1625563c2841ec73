//! The places between the steps of a commit, where the crash tests kill the process, and flushes that tests fail and look at.
//! Outside of tests the places do nothing, and flushes are those of the system.

/// A place where the process may die without harm.
#[cfg(not(test))]
pub fn point() {}

/// Makes a file durable, or the names in a directory; with `data_only` a file without its times.
#[cfg(not(test))]
pub fn flush(file: &std::fs::File, data_only: bool) -> std::io::Result<()> {
    if data_only { file.sync_data() } else { file.sync_all() }
}

#[cfg(test)]
pub use armed::{arm, fail_flush_of, flush, flushed, point};

#[cfg(test)]
mod armed {
    use std::cell::RefCell;
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU64, Ordering};

    use crate::sync::thread_local;

    /// How many points are passed until the process dies; 0: it does not.
    static LEFT: AtomicU64 = AtomicU64::new(0);

    /// The process dies at the `n`-th point from now.
    pub fn arm(n: u64) {
        LEFT.store(n, Ordering::SeqCst);
    }

    pub fn point() {
        let passed = LEFT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if passed == Ok(1) {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).expect("one may kill oneself");
        }
    }

    thread_local! {
        /// What this thread flushed, and what it is to fail to flush.
        static FLUSHED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
        static FAILING: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
    }

    pub fn flush(file: &File, data_only: bool) -> io::Result<()> {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        // As of sync's thread_local, which in the tests of concurrency is not std's.
        let fails = FAILING.with(|failing| {
            let mut failing = failing.borrow_mut();
            let at = failing.iter().position(|other| *other == path);
            at.map(|at| failing.swap_remove(at)).is_some()
        });
        if fails {
            return Err(rustix::io::Errno::IO.into());
        }
        crate::sys::failing_disk::flushed(&path, file.metadata()?.ino());
        FLUSHED.with(|flushed| flushed.borrow_mut().push(path));
        if data_only { file.sync_data() } else { file.sync_all() }
    }

    /// The next flush of `path` by this thread fails.
    pub fn fail_flush_of(path: &Path) {
        let path = path.canonicalize().expect("it is there");
        FAILING.with(|failing| failing.borrow_mut().push(path));
    }

    /// What this thread has flushed since this was asked last.
    pub fn flushed() -> Vec<PathBuf> {
        FLUSHED.with(RefCell::take)
    }
}
