//! The locks of every layer: std's, or shuttle's when its scheduler explores the interleavings.
//!
//! A poisoned lock means that a request panicked while it held it. The request was answered with `EIO`; the
//! state behind the lock is kept consistent by writing to disk first and to memory last, so the lock stays usable.

#[cfg(not(feature = "shuttle"))]
pub use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak, atomic,
};
#[cfg(not(feature = "shuttle"))]
pub use std::{thread, thread_local};

#[cfg(feature = "shuttle")]
pub use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak, atomic};
#[cfg(feature = "shuttle")]
pub use shuttle::{thread, thread_local};
#[cfg(feature = "shuttle")]
pub use std::sync::OnceLock;

/// Locks a mutex, poisoned or not.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Locks for reading, poisoned or not.
pub fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Locks for writing, poisoned or not.
pub fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Runs a test under many interleavings of its threads: random ones, and ones in which few switches do the harm; others in each run,
/// and `KMSFS_TEST_INTERLEAVINGS` times as many. What fails tells its schedule.
#[cfg(all(test, feature = "shuttle"))]
pub(crate) fn explore(interleavings: usize, test: impl Fn() + Clone + Send + Sync + 'static) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    let times = std::env::var("KMSFS_TEST_INTERLEAVINGS").map_or(1, |times| times.parse().expect("a number"));
    let interleavings = interleavings * times;
    let mut config = shuttle::Config::new();
    // The default is too small for the ciphers of a debug build.
    config.stack_size = 1 << 20;
    shuttle::Runner::new(RandomScheduler::new(interleavings), config.clone()).run(test.clone());
    shuttle::Runner::new(PctScheduler::new(3, interleavings), config).run(test);
}
