//! Raises the bounds of sizes a moment after the flushes that vouch for them (ADR 16): the header says so by then, or when the file
//! is closed. A program that flushes a file mostly flushes its directory next, and that would have to wait for the header.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::Result;
use super::file::Content;
use crate::store::Backing;
use crate::sync::{Arc, Condvar, Mutex, Weak, lock, thread};
use crate::sys::threads;

/// Raises what is due after a while, in a thread of its own.
pub struct Raiser<B: Backing> {
    shared: Arc<Shared<B>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
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
    /// Starts the thread, which raises each bound within `delay`, or when nobody uses the file any more.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub fn start(delay: Duration) -> io::Result<Self> {
        let waiting = Mutex::new(Waiting { files: Vec::new(), ended: false });
        let shared = Arc::new(Shared { waiting, changed: Condvar::new() });
        let raising = Arc::clone(&shared);
        let thread = threads::spawn("kmsfs-raise", move || raising.work(delay))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Makes what was written to a file durable; its bound follows.
    ///
    /// # Errors
    /// As [`Content::sync`], but for those of writing the header: the bound is then not raised, as the log says.
    pub fn sync(&self, content: &Arc<Content<B>>, data_only: bool) -> Result<()> {
        if content.flush(data_only)? && !self.shared.put(content) {
            content.raise_due();
        }
        Ok(())
    }

    /// Raises all bounds that are due.
    pub fn raise(&self) {
        self.shared.take().into_iter().for_each(|content| content.raise_due());
    }

    /// Raises all bounds that are due, and from now on each one with its flush. When this returns, nothing is written any more.
    pub fn end(&self) {
        self.stop();
        self.raise();
    }

    fn stop(&self) {
        lock(&self.shared.waiting).ended = true;
        self.shared.changed.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl<B: Backing> Drop for Raiser<B> {
    /// What is due still is left: who closes its files raises it.
    fn drop(&mut self) {
        self.stop();
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
            let ended = paused.unwrap_or_else(|poisoned| poisoned.into_inner()).0.ended;
            if !ended {
                self.raise();
            }
            waiting = lock(&self.waiting);
        }
    }

    /// Raises what can be raised at once.
    fn raise(&self) {
        for content in self.take() {
            // What goes wrong with one file is no reason to leave all others.
            let raised = catch_unwind(AssertUnwindSafe(|| content.try_raise_due()));
            if let Ok(false) = raised
                && !self.put(&content)
            {
                content.raise_due();
            }
        }
    }

    /// Has the bound of a file raised; false if nobody will.
    fn put(&self, content: &Arc<Content<B>>) -> bool {
        let mut waiting = lock(&self.waiting);
        if waiting.ended {
            return false;
        }
        if waiting.files.iter().all(|file| file.as_ptr() != Arc::as_ptr(content)) {
            waiting.files.push(Arc::downgrade(content));
            // For any further one it will wake by itself.
            if waiting.files.len() == 1 {
                self.changed.notify_one();
            }
        }
        true
    }

    fn take(&self) -> Vec<Arc<Content<B>>> {
        let files = std::mem::take(&mut lock(&self.waiting).files);
        files.iter().filter_map(Weak::upgrade).collect()
    }
}
