//! Raises the bounds of sizes a moment after the flushes that vouch for them (ADR 16): the header says so by then, or when the file
//! is closed. A program that flushes a file mostly flushes its directory next, and that would have to wait for the header.

use std::io;
use std::time::Duration;

use super::Result;
use super::file::Content;
use crate::store::Backing;
use crate::sync::{Arc, Condvar, Mutex, Weak, lock, thread};
use crate::sys::threads;

/// Raises what is due after a while, in a thread of its own.
pub struct Raiser<B: Backing> {
    shared: Arc<Shared<B>>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Shared<B: Backing> {
    waiting: Mutex<Waiting<B>>,
    changed: Condvar,
}

struct Waiting<B: Backing> {
    /// Files of which a bound is due. Who closes one has raised it.
    files: Vec<Weak<Content<B>>>,
    ended: bool,
}

impl<B: Backing> Raiser<B> {
    /// Starts the thread, which raises each bound within `delay`.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub fn start(delay: Duration) -> io::Result<Self> {
        let waiting = Mutex::new(Waiting { files: Vec::new(), ended: false });
        let shared = Arc::new(Shared { waiting, changed: Condvar::new() });
        let raising = Arc::clone(&shared);
        let thread = threads::spawn("kmsfs-raise", move || raising.work(delay))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Makes what was written to a file durable; its bound follows.
    ///
    /// # Errors
    /// As [`Content::sync`], but for those of writing the header: the bound is then not raised, as the log says.
    pub fn sync(&self, content: &Arc<Content<B>>, data_only: bool) -> Result<()> {
        if content.flush(data_only)? {
            let mut waiting = lock(&self.shared.waiting);
            waiting.files.push(Arc::downgrade(content));
            // For any further one it will wake by itself.
            if waiting.files.len() == 1 {
                self.shared.changed.notify_one();
            }
        }
        Ok(())
    }

    /// Raises all bounds that are due.
    pub fn raise(&self) {
        self.shared.raise();
    }
}

impl<B: Backing> Drop for Raiser<B> {
    /// What is due still is left: who closes its files raises it.
    fn drop(&mut self) {
        lock(&self.shared.waiting).ended = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl<B: Backing> Shared<B> {
    fn work(&self, delay: Duration) {
        let mut waiting = lock(&self.waiting);
        while !waiting.ended {
            if waiting.files.is_empty() {
                waiting = self.changed.wait(waiting).unwrap_or_else(|poisoned| poisoned.into_inner());
                continue;
            }
            let paused = self.changed.wait_timeout_while(waiting, delay, |waiting| !waiting.ended);
            drop(paused.unwrap_or_else(|poisoned| poisoned.into_inner()));
            self.raise();
            waiting = lock(&self.waiting);
        }
    }

    fn raise(&self) {
        let files = std::mem::take(&mut lock(&self.waiting).files);
        for content in files.iter().filter_map(Weak::upgrade) {
            content.raise_due();
        }
    }
}
