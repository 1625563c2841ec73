//! The queue in front of the log.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::batch::Batch;
use super::event::{Event, Ids, Rendered, ServiceEvent, TimeText};
use super::log::Log;
use super::verify::{ACCEPTED, TAMPERING};
use super::{AuditBreak, AuditError, AuditFilter, AuditMode, AuditPosition, AuditReport, verify};
use crate::env::{Clock, random};
use crate::kms::KmsError;
use crate::kms::model::Caller;
use crate::kms::store::{Store, StoreError};
use crate::kms::usage::{LastUsage, Usages};
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::sync::{Arc, Condvar, Mutex, lock};
use crate::types::{KeyArn, Timestamp};

/// Records wait at most this long.
const BATCH: Duration = Duration::from_millis(50);
/// More records than this wake the writer at once: few enough that a cache still holds what they are written from.
const BATCH_LEN: usize = QUEUE_MAX / 64;
/// With more records than this, callers wait for the writer, unless the log cannot be written.
const QUEUE_FULL: usize = QUEUE_MAX / 2;
/// How long a caller waits for the writer.
const PATIENCE: Duration = Duration::from_secs(2);
/// More records than this are not kept while the log cannot be written: they are counted.
const QUEUE_MAX: usize = if cfg!(test) { 2048 } else { 65_536 };
/// Bytes of text that are kept for the next records.
const USUAL_TEXT: usize = 4 * 1024 * 1024;
/// Last uses are written this often, in nanoseconds.
const USAGE_PERIOD: i64 = 10_000_000_000;

#[derive(Default)]
struct Queue {
    events: Batch,
    /// An empty one, for its memory.
    spare: Batch,
    lost: u64,
    closing: bool,
}

/// The audit log of an engine.
pub struct AuditLog {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    log: Mutex<Log>,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// The queue has become shorter.
    room: Condvar,
    /// The last attempt to write failed.
    failing: AtomicBool,
    /// It failed since somebody changed the head of the chain.
    broken: AtomicBool,
    mode: AtomicU8,
    usages: Mutex<Usages>,
}

impl AuditLog {
    pub(in crate::kms) fn open(store: Arc<Store>, clock: Arc<dyn Clock>) -> Result<Self, AuditError> {
        let dir: PathBuf = store.home().dir().join("audit");
        let log = Log::open(dir, &store.home().database())?;
        Ok(Self {
            store,
            clock,
            log: Mutex::new(log),
            queue: Mutex::default(),
            wake: Condvar::new(),
            room: Condvar::new(),
            failing: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            mode: AtomicU8::new(AuditMode::Batched as u8),
            usages: Mutex::default(),
        })
    }

    /// Decides when cryptographic calls are answered.
    pub fn set_mode(&self, mode: AuditMode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// Queues an event; it is on disk 100 ms later at the latest.
    pub(in crate::kms) fn record(&self, event: &Event<'_>) {
        let mut queue = lock(&self.queue);
        if queue.events.len() >= QUEUE_FULL && !self.failing.load(Ordering::Relaxed) {
            self.wake.notify_one();
            let full = |queue: &mut Queue| {
                queue.events.len() >= QUEUE_FULL && !queue.closing && !self.failing.load(Ordering::Relaxed)
            };
            queue = unpoison(self.room.wait_timeout_while(queue, PATIENCE, full)).0;
        }
        if queue.events.len() >= QUEUE_MAX {
            queue.lost += 1;
            return;
        }
        queue.events.push(event);
        if queue.events.len() == 1 || queue.events.len() == BATCH_LEN {
            self.wake.notify_one();
        }
    }

    /// Queues the record of a call that changes nothing, and refuses its answer if the mode demands it; in all modes while
    /// the head of the chain is forged or gone, where no record would ever come into the log.
    pub(in crate::kms) fn record_call(&self, event: &Event<'_>) -> Result<(), KmsError> {
        self.record(event);
        let mode = self.mode.load(Ordering::Relaxed);
        let failing = mode == AuditMode::Required as u8 && self.failing.load(Ordering::Relaxed)
            || self.broken.load(Ordering::Relaxed);
        if failing || mode == AuditMode::Durable as u8 { self.flush().map_err(refusal) } else { Ok(()) }
    }

    /// Refuses changes while the log cannot be written (KMS.md section 17): their records would pile up.
    pub(in crate::kms) fn require_writable(&self) -> Result<(), KmsError> {
        if self.failing.load(Ordering::Relaxed) { self.flush().map_err(refusal) } else { Ok(()) }
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
        self.room.notify_all();
    }

    pub(in crate::kms) fn is_closing(&self) -> bool {
        lock(&self.queue).closing
    }

    /// Everything recorded so far is on disk afterwards.
    ///
    /// # Errors
    /// When the log cannot be written; the records are kept for the next attempt, up to a bound, and counted beyond. While another
    /// process holds the log they are kept in the database.
    pub fn flush(&self) -> Result<(), AuditError> {
        let mut log = lock(&self.log);
        let (mut events, lost) = {
            let mut queue = lock(&self.queue);
            let empty = std::mem::take(&mut queue.spare);
            (std::mem::replace(&mut queue.events, empty), std::mem::take(&mut queue.lost))
        };
        self.room.notify_all();
        let calls = events.len();
        if lost > 0 {
            // Records that were lost while the log could not be written.
            events.push(&self.own("AuditGap", json!({ "lostRecords": lost })).event());
        }
        let mut usages = lock(&self.usages);
        let secrets = (self.store.audit_key(), self.store.entropy());
        let (written, outcome) = log.append(
            &events,
            self.clock.now(),
            secrets,
            |forged, missing| self.tampering(forged, missing),
            |event, ids| usages.note(event, ids),
        );
        let outcome = outcome.map_err(|error| self.with_holder(error));
        self.failing.store(outcome.is_err(), Ordering::Relaxed);
        self.broken.store(outcome.as_ref().is_err_and(AuditError::is_broken_head), Ordering::Relaxed);
        let set_aside = outcome.as_ref().is_err_and(AuditError::is_held) && self.set_aside(&events, &mut usages);
        let mut queue = lock(&self.queue);
        if outcome.is_err() && !set_aside {
            if written <= calls {
                queue.lost += lost;
            }
            // What is not written goes before what has come since.
            let newer = std::mem::take(&mut queue.events);
            events
                .events(written.min(calls))
                .take(calls.saturating_sub(written))
                .for_each(|event| queue.events.push(&event));
            newer.events(0).for_each(|event| queue.events.push(&event));
            self.room.notify_all();
            return outcome;
        }
        events.clear(USUAL_TEXT);
        queue.spare = events;
        drop(queue);
        if set_aside {
            return outcome;
        }
        let now = self.clock.now();
        if usages.is_due(now, USAGE_PERIOD) {
            let saved = usages.save(log.connection(), self.store.audit_key(), now);
            saved.map_err(|error| self.with_holder(error))?;
        }
        Ok(())
    }

    fn with_holder(&self, error: AuditError) -> AuditError {
        error.with_holder(&self.store.home().database())
    }

    /// Has events wait in the database for whoever writes the log next, as the records of changes do. Whether that was possible.
    fn set_aside(&self, events: &Batch, usages: &mut Usages) -> bool {
        let entropy = self.store.entropy();
        let mut time = TimeText::default();
        let done = self.store.change(|change| {
            for event in events.events(0) {
                let ids = Ids(random(entropy));
                let mut rendered = Rendered { event_id: ids.event(), ..Rendered::default() };
                event.write(&ids, &mut time, &mut rendered);
                change.record(rendered);
                usages.note(&event, &ids);
            }
            Ok(())
        });
        done.inspect_err(|error| tracing::error!(%error, "records could not be set aside")).is_ok()
    }

    /// As [`Self::flush`], before the log is read. One that cannot be written, as on a full disk, can be read all the
    /// same: without the records that are queued.
    fn flush_to_read(&self) -> Result<(), AuditError> {
        match self.flush() {
            Err(
                error @ (AuditError::Io { .. } | AuditError::Store(StoreError::Sqlite(_) | StoreError::Locked { .. })),
            ) => {
                tracing::warn!(%error, "the audit log cannot be written; it is read as it stands on the disk");
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Writes what is not written yet, last uses included: the engine closes.
    pub(in crate::kms) fn finish(&self) -> Result<(), AuditError> {
        let written = self.flush();
        let mut log = lock(&self.log);
        let saved = lock(&self.usages).save(log.connection(), self.store.audit_key(), self.clock.now());
        written.and(saved.map_err(|error| self.with_holder(error)))
    }

    /// The last successful cryptographic use of a key, in this process or as others have written it; and since when uses
    /// are noted.
    pub(in crate::kms) fn last_usage(&self, key: &KeyArn) -> Result<(Option<LastUsage>, Timestamp), AuditError> {
        self.flush_to_read()?;
        let mut log = lock(&self.log);
        lock(&self.usages).last(key, log.connection(), self.store.audit_key())
    }

    fn tampering(&self, forged: u64, missing: u64) -> ServiceEvent {
        self.own(TAMPERING, json!({ "forgedRecords": forged, "missingRecords": missing }))
    }

    /// What the log says of itself.
    fn own(&self, name: &'static str, details: Value) -> ServiceEvent {
        let home = self.store.home();
        ServiceEvent {
            time: self.clock.now(),
            name,
            details: details.into(),
            account: home.account().to_string(),
            region: home.region().to_string(),
            key: None,
        }
    }

    /// The records that match, in order; what is queued is written first, if the log can be written. All at once:
    /// `filter.last` bounds them.
    pub fn read(&self, filter: &AuditFilter) -> Result<Vec<Value>, AuditError> {
        let mut found = VecDeque::new();
        self.visit(filter, &mut AuditPosition::default(), |record| {
            found.push_back(record);
            if filter.last.is_some_and(|last| found.len() > last) {
                found.pop_front();
            }
            ControlFlow::Continue(())
        })?;
        Ok(found.into())
    }

    /// Visits the records behind `position` that match, in order, and moves it: for long logs, and for following one.
    /// What is queued is written first, if the log can be written. `filter.last` is the visitor's affair.
    pub fn visit(
        &self,
        filter: &AuditFilter,
        position: &mut AuditPosition,
        visit: impl FnMut(Value) -> ControlFlow<()>,
    ) -> Result<(), AuditError> {
        self.flush_to_read()?;
        let files = lock(&self.log).files()?;
        verify::visit(&files, filter, position, visit)
    }

    /// Proves the chain from the first record to the head in the database and names the first break. What is queued is
    /// written first, if the log can be written.
    pub fn verify(&self) -> Result<AuditReport, AuditError> {
        match self.flush_to_read() {
            Err(error) if !error.is_broken_head() => return Err(error),
            // Such a head is a finding, not a failure.
            _ => {}
        }
        let log = lock(&self.log);
        let _lock = log.lock()?;
        verify::verify(&log, self.store.audit_key())
    }

    /// Goes on behind a break of the chain, in a new file whose first record says what was accepted, and by whom: after files
    /// were lost, or the head in the database. Answers the break; `None` if there is none.
    ///
    /// # Errors
    /// When the log cannot be read or written.
    pub fn accept(&self, caller: &Caller) -> Result<Option<AuditBreak>, AuditError> {
        self.verify()?;
        let secrets = (self.store.audit_key(), self.store.entropy());
        let found = lock(&self.log).accept(
            self.clock.now(),
            secrets,
            |forged, missing| self.tampering(forged, missing),
            |found, digest| {
                let details = json!({
                    "reason": found.reason, "file": found.file.file_name().map(|name| name.to_string_lossy()),
                    "line": found.line, "digest": digest, "principal": caller.principal().arn(),
                });
                self.own(ACCEPTED, details)
            },
        )?;
        self.flush()?;
        Ok(found)
    }

    #[cfg(test)]
    pub(in crate::kms) fn set_max_file(&self, bytes: u64) {
        lock(&self.log).set_max_file(bytes);
    }

    #[cfg(test)]
    pub(in crate::kms) fn set_full(&self, full: bool) {
        lock(&self.log).set_full(full);
    }
}

fn refusal(error: AuditError) -> KmsError {
    KmsError::Internal(format!("The audit log cannot be written, and without its record the call is refused: {error}"))
}

fn unpoison<T>(outcome: Result<T, std::sync::PoisonError<T>>) -> T {
    outcome.unwrap_or_else(|poisoned| poisoned.into_inner())
}
