//! The queue in front of the log.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::event::{Event, EventKind, Rendered};
use super::log::Log;
use super::{AuditError, AuditFilter, AuditReport, verify};
use crate::env::Clock;
use crate::kms::store::Store;
use crate::sync::{Arc, Condvar, Mutex, lock};

/// Records wait at most this long.
const BATCH: Duration = Duration::from_millis(50);
/// More records than this wake the writer at once.
const BATCH_LEN: usize = 8192;
/// More records than this are not kept while the log cannot be written: they are counted.
const QUEUE_MAX: usize = 200_000;

#[derive(Default)]
struct Queue {
    events: Vec<Event>,
    dropped: u64,
    closing: bool,
}

/// The audit log of an engine.
pub struct AuditLog {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    log: Mutex<Log>,
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl AuditLog {
    pub(in crate::kms) fn open(store: Arc<Store>, clock: Arc<dyn Clock>) -> Result<Self, AuditError> {
        let dir: PathBuf = store.home().dir().join("audit");
        let log = Log::open(dir, &store.home().database())?;
        Ok(Self { store, clock, log: Mutex::new(log), queue: Mutex::default(), wake: Condvar::new() })
    }

    /// Queues an event; it is on disk 100 ms later at the latest.
    pub(in crate::kms) fn record(&self, event: Event) {
        let mut queue = lock(&self.queue);
        if queue.events.len() >= QUEUE_MAX {
            queue.dropped += 1;
            return;
        }
        queue.events.push(event);
        if queue.events.len() == 1 || queue.events.len() == BATCH_LEN {
            self.wake.notify_one();
        }
    }

    /// Waits for work: true when there are records to write, false when `idle` has passed or the engine closes.
    pub(in crate::kms) fn wait(&self, idle: Duration) -> bool {
        let queue = lock(&self.queue);
        let empty = |queue: &mut Queue| queue.events.is_empty() && !queue.closing;
        let (queue, timeout) = unpoison(self.wake.wait_timeout_while(queue, idle, empty));
        if timeout.timed_out() || queue.events.is_empty() {
            return false;
        }
        let filling = |queue: &mut Queue| queue.events.len() < BATCH_LEN && !queue.closing;
        drop(unpoison(self.wake.wait_timeout_while(queue, BATCH, filling)));
        true
    }

    /// Waits before another attempt to write, unless the engine closes.
    pub(in crate::kms) fn pause(&self, time: Duration) {
        let queue = lock(&self.queue);
        drop(unpoison(self.wake.wait_timeout_while(queue, time, |queue| !queue.closing)));
    }

    pub(in crate::kms) fn close(&self) {
        lock(&self.queue).closing = true;
        self.wake.notify_all();
    }

    pub(in crate::kms) fn is_closing(&self) -> bool {
        lock(&self.queue).closing
    }

    /// Everything recorded so far is on disk afterwards.
    ///
    /// # Errors
    /// When the log cannot be written; the records are kept for the next attempt, up to a bound, and counted beyond.
    pub fn flush(&self) -> Result<(), AuditError> {
        let mut log = lock(&self.log);
        let (events, dropped) = {
            let mut queue = lock(&self.queue);
            (std::mem::take(&mut queue.events), std::mem::take(&mut queue.dropped))
        };
        let now = self.clock.now();
        let mut rendered: Vec<Rendered> = Vec::with_capacity(events.len() + 1);
        rendered.extend(events.iter().map(|event| event.render(self.store.entropy())));
        if dropped > 0 {
            rendered.push(self.gap(dropped).render(self.store.entropy()));
        }
        let outcome = log.append(&rendered, now, self.store.audit_key());
        if outcome.is_err() {
            let mut queue = lock(&self.queue);
            let newer = std::mem::replace(&mut queue.events, events);
            queue.events.extend(newer);
            queue.dropped += dropped;
        }
        outcome
    }

    /// The record of records that were lost while the log could not be written.
    fn gap(&self, dropped: u64) -> Event {
        let home = self.store.home();
        Event {
            time: self.clock.now(),
            name: "AuditGap",
            kind: EventKind::Service(json!({ "lostRecords": dropped })),
            read_only: false,
            account: home.account().to_string(),
            region: home.region().to_string(),
            parameters: Value::Null,
            response: Value::Null,
            additional: Value::Null,
            error: None,
            resources: Vec::new(),
        }
    }

    /// The records that match, in order; what is queued is written first.
    pub fn read(&self, filter: &AuditFilter) -> Result<Vec<Value>, AuditError> {
        self.flush()?;
        let files = lock(&self.log).files()?;
        verify::read(&files, filter)
    }

    /// Proves the chain from the first record to the head in the database and names the first break. What is queued is
    /// written first.
    pub fn verify(&self) -> Result<AuditReport, AuditError> {
        match self.flush() {
            // A forged head is a finding, not a failure.
            Ok(()) | Err(AuditError::ForgedHead) => {}
            Err(error) => return Err(error),
        }
        let log = lock(&self.log);
        let _lock = log.lock()?;
        verify::verify(&log, self.store.audit_key())
    }

    #[cfg(test)]
    pub(in crate::kms) fn set_max_file(&self, bytes: u64) {
        lock(&self.log).set_max_file(bytes);
    }
}

fn unpoison<T>(outcome: Result<T, std::sync::PoisonError<T>>) -> T {
    outcome.unwrap_or_else(|poisoned| poisoned.into_inner())
}
