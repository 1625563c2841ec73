//! The places between the steps of a commit, where the crash tests kill the process. They do nothing outside of tests.

/// A place where the process may die without harm.
#[cfg(not(test))]
pub fn point() {}

#[cfg(test)]
pub use armed::{arm, point};

#[cfg(test)]
mod armed {
    use std::sync::atomic::{AtomicU64, Ordering};

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
}
