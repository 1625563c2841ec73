//! Threads that are started where memory may be short.
//!
//! A thread maps a stack for its signals before its work begins, and ends the process if there is no room for it. So threads begin one
//! after the other, each where there is room for more than it takes.

use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use super::page::Pages;
use crate::sync::thread;

/// Bytes that must be free: 2 MiB for the thread's stack, and as much for that of its signals and for what others take meanwhile.
const ROOM: usize = 4 << 20;

/// How long threads that have ended are waited for.
const LEAVING: Duration = Duration::from_millis(500);

static STARTING: Mutex<()> = Mutex::new(());

/// Starts a thread; it has begun when this returns.
///
/// # Errors
/// `ENOMEM`, or the system's: there may be no further thread.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    start(|begun| {
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            begins(begun);
            work()
        })
    })
}

/// The same, of a scope.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<std::thread::ScopedJoinHandle<'scope, T>> {
    start(|begun| {
        std::thread::Builder::new().spawn_scoped(scope, move || {
            begins(begun);
            work()
        })
    })
}

/// Starts so many threads and ends them: for code that then starts as many itself, and cannot cope with one that it does not get.
///
/// # Errors
/// As [`spawn`].
pub fn check(count: usize) -> io::Result<()> {
    let before = known();
    let gate = Mutex::new(());
    std::thread::scope(|scope| {
        // They are there at once, and end when this returns.
        let _closed = gate.lock();
        (0..count).try_for_each(|_| spawn_scoped(scope, || drop(gate.lock())).map(drop))
    })?;
    // A thread that has ended counts for a moment longer.
    let began = Instant::now();
    while known() > before && began.elapsed() < LEAVING {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Threads of this process that the kernel knows of; 0 if it does not say.
fn known() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

fn start<H>(spawn: impl FnOnce(Sender<()>) -> io::Result<H>) -> io::Result<H> {
    let _one = STARTING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    drop(Pages::new(ROOM)?);
    let (begun, first) = channel();
    let started = spawn(begun)?;
    // The scheduler of the concurrency tests runs it later.
    if cfg!(not(feature = "shuttle")) {
        let _ = first.recv();
    }
    Ok(started)
}

fn begins(begun: Sender<()>) {
    // Nobody waits for it in the concurrency tests.
    let _ = begun.send(());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_begin_and_are_waited_for() {
        assert_eq!(
            spawn("test-thread", || thread::current().name().map(str::to_owned))
                .expect("started")
                .join()
                .expect("ends"),
            Some("test-thread".to_owned())
        );
        let number = 7;
        let seven =
            std::thread::scope(|scope| spawn_scoped(scope, || number).map(|thread| thread.join().expect("ends")));
        assert_eq!(seven.expect("started"), 7);
        check(20).expect("as many at once");
    }
}
