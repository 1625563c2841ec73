//! The engine: executes the operations of [`model`](super::model).
//!
//! Each operation checks in AWS's order: constraints, key, authorisation, state, usage, then the work (KMS.md section
//! 4). Reads and cryptography work on an immutable snapshot; every call first makes sure that no process has changed
//! the database since. Every call is recorded, whether it is allowed or not.

mod agree;
mod aliases;
mod authorise;
mod call;
mod check;
mod cipher;
mod crypt;
mod evaluate;
mod explain;
mod fit;
mod grants;
mod iam;
mod import;
mod in_token;
mod key_stores;
mod lifecycle;
mod mac;
mod maintain;
mod multi_region;
mod page;
mod pairs;
mod policies;
mod resolve;
mod rotation;
mod rules;
mod sign;
mod tags;
mod usage;

pub(in crate::kms) use call::Effect;
pub(in crate::kms) use check::{Constraints, camel};

use std::path::Path;
use std::time::Duration;

use evaluate::StandardPolicies;
use in_token::Tokens;

use crate::crypto::pool::EntropyPool;
use crate::env::{Clock, Entropy};
use crate::kms::audit::{AuditError, AuditLog, Event};
use crate::kms::backup::{BackupError, backup};
use crate::kms::custody::{CustodyError, Home, NewSlot, RecoveryKey, SlotInfo, Unlock};
use crate::kms::model::{Caller, Principal};
use crate::kms::quota::{RequestQuotas, ResourceQuotas};
use crate::kms::registry::Registry;
use crate::kms::store::Inspection;
use crate::kms::store::{DueKind, Snapshot, Store, Times};
use crate::kms::{KmsError, OpenError, lock_file};
use crate::sync::atomic::{AtomicI64, Ordering};
use crate::sync::{Arc, Mutex, OnceLock, lock, thread};
use crate::sys::threads;
use crate::types::{AccountId, KeyArn, Region, Timestamp, VolumeId};

/// How often an idle engine looks for due work and for changes of other processes.
const IDLE: Duration = Duration::from_secs(30);

/// The key manager, opened. Cheap to clone and share; the last clone flushes the audit log. A process that forks opens
/// it afterwards: a background thread belongs to it.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    /// Stops the background thread when the last engine goes.
    _worker: Arc<Worker>,
}

/// What operations work on.
struct Shared {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    audit: AuditLog,
    /// Policies of keys that have none of their own.
    standard: StandardPolicies,
    tokens: Tokens,
    /// Deletions wait until then (KMS.md section 16), in nanoseconds.
    held_until: AtomicI64,
    /// The latest time ever seen: what expires is judged by it, in nanoseconds.
    latest: AtomicI64,
    /// After a failed maintenance, the next attempt.
    retry_at: AtomicI64,
    resources: Mutex<ResourceQuotas>,
    /// Absent: callers are not limited.
    requests: OnceLock<RequestQuotas>,
}

struct Worker {
    shared: Arc<Shared>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Engine {
    /// Unlocks the home at `dir` and opens its database; finishes what a crash interrupted and does what is due.
    pub fn open(
        dir: &Path,
        unlock: &Unlock,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, OpenError> {
        Self::start(Home::unlock(dir, unlock)?, clock, entropy)
    }

    /// Opens the database of an unlocked home.
    pub fn start(home: Home, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Result<Self, OpenError> {
        Self::with_store(home, clock, entropy, false)
    }

    /// As [`Engine::start`], for a database that is not the one written last (a restored backup): accepts it as it
    /// stands. What was done since is undone thereby: keys disabled or policies changed meanwhile are as before.
    pub fn start_accepting(home: Home, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Result<Self, OpenError> {
        Self::with_store(home, clock, entropy, true)
    }

    fn with_store(
        home: Home,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        accept: bool,
    ) -> Result<Self, OpenError> {
        let entropy: Arc<dyn Entropy> = Arc::new(EntropyPool::new(entropy));
        let slot = home.unlocked_by().to_string();
        let store = Arc::new(Store::open(Arc::new(home), entropy.clone(), accept)?);
        let audit = AuditLog::open(store.clone(), clock.clone())?;
        let never = || AtomicI64::new(i64::MIN);
        let (held_until, latest, retry_at) = (never(), never(), never());
        let shared = Arc::new(Shared {
            store,
            clock,
            entropy,
            audit,
            tokens: Tokens::default(),
            standard: StandardPolicies::default(),
            held_until,
            latest,
            retry_at,
            resources: Mutex::new(ResourceQuotas::AWS),
            requests: OnceLock::new(),
        });
        let details = serde_json::json!({ "slot": slot, "acceptedDatabase": accept });
        shared.audit.record(&shared.service_event("UnlockStore", details, None).event());
        // A full disk must not keep anybody from the data: what is due is tried again, and until then keys whose window
        // has ended stay unusable.
        if let Err(error) = shared.maintain(shared.clock.now()) {
            tracing::error!(%error, "maintenance of the key manager failed; it is tried again");
        }
        match shared.audit.flush() {
            // The record waits in the database. Who only looks at the home need not wait for the log.
            Err(error) if error.is_held() && !lock_file::waits_briefly() => return Err(error.into()),
            Err(error) => tracing::error!(%error, "the audit log could not be written; it is tried again"),
            Ok(()) => {}
        }
        let background = shared.clone();
        let thread =
            threads::spawn("kms", move || background.work()).map_err(|error| KmsError::NoThread(error.to_string()))?;
        let worker = Arc::new(Worker { shared: shared.clone(), thread: Mutex::new(Some(thread)) });
        Ok(Self { shared, _worker: worker })
    }

    /// Account of callers that name none.
    pub fn account(&self) -> &AccountId {
        self.shared.store.home().account()
    }

    /// Region of callers that name none.
    pub fn region(&self) -> &Region {
        self.shared.store.home().region()
    }

    /// The directory of the home.
    pub fn home_dir(&self) -> &Path {
        self.shared.store.home().dir()
    }

    /// The operating-system user `user` as caller, in the home's account and Region.
    pub fn local_caller(&self, user: &str) -> Caller {
        Caller::local(Principal::user(self.account(), user), self.region().clone())
    }

    /// How much there may be, from now on; AWS's quotas if nothing is said.
    pub fn set_resource_quotas(&self, quotas: ResourceQuotas) {
        *lock(&self.shared.resources) = quotas;
    }

    /// Number of customer managed keys in the home's account and Region.
    pub fn customer_keys(&self) -> Result<usize, KmsError> {
        let snapshot = self.shared.snapshot(self.shared.clock.now())?;
        Ok(snapshot.count_customer_keys(self.region().as_str(), self.account().as_str()))
    }

    /// From now on metered callers ([`Caller::metered`]) are limited to AWS's numbers of requests per second.
    pub fn limit_requests(&self) -> &RequestQuotas {
        self.shared.requests.get_or_init(RequestQuotas::default)
    }

    /// The audit log.
    pub fn audit(&self) -> &AuditLog {
        &self.shared.audit
    }

    /// Records in the audit log what the owner of a volume decided about it, beside the calls of the API.
    pub fn note_decision(&self, name: &'static str, details: serde_json::Value) {
        self.shared.audit.record(&self.shared.service_event(name, details, None).event());
    }

    /// The volume registry.
    pub fn registry(&self) -> Registry {
        Registry::new(self.shared.store.clone())
    }

    /// Copies the database to the new file `to` while it is in use ([`backup`](crate::kms::backup)).
    pub fn backup(&self, caller: &Caller, to: &Path) -> Result<Inspection, BackupError> {
        let made = backup(self.shared.store.home(), to)?;
        let details = serde_json::json!({
            "revision": made.revision, "epoch": made.epoch, "principal": caller.principal().arn(),
        });
        self.shared.audit.record(&self.shared.service_event("BackupStore", details, None).event());
        Ok(made)
    }

    /// The clock that everything here is timed by.
    pub(in crate::kms) fn clock(&self) -> Arc<dyn Clock> {
        self.shared.clock.clone()
    }

    /// The source of random bytes.
    pub(in crate::kms) fn entropy(&self) -> Arc<dyn Entropy> {
        self.shared.entropy.clone()
    }

    /// The state that counts now.
    pub(in crate::kms) fn present(&self) -> Result<Arc<Snapshot>, KmsError> {
        self.shared.snapshot(self.shared.clock.now())
    }

    /// Records, durably, that the keys of a volume leave this home in a bundle.
    pub(in crate::kms) fn record_export(
        &self,
        caller: &Caller,
        volume: &VolumeId,
        keys: &[KeyArn],
    ) -> Result<(), AuditError> {
        let details = serde_json::json!({ "volume": volume.to_string(), "principal": caller.principal().arn() });
        let event = self.shared.service_event("ExportRecovery", details, None);
        self.shared.audit.record(&Event { resources: keys, ..event.event() });
        self.shared.audit.flush()
    }

    /// Proves the whole database, which may be in use: a copy of it is read.
    pub fn inspect(&self) -> Result<Inspection, BackupError> {
        let copy = self.home_dir().join(format!("kms.db.verify-{}", std::process::id()));
        let found = backup(self.shared.store.home(), &copy)?;
        std::fs::remove_file(&copy).map_err(|source| BackupError::Io { path: copy, source })?;
        Ok(found)
    }

    /// The slots that unlock this home.
    pub fn slots(&self) -> Result<Vec<SlotInfo>, CustodyError> {
        Home::list_slots(self.home_dir())
    }

    /// Adds a slot; answers the recovery key if it is one.
    pub fn add_slot(&self, caller: &Caller, slot: NewSlot) -> Result<(SlotInfo, Option<RecoveryKey>), CustodyError> {
        let now = self.shared.clock.now();
        let added = self.shared.store.home().add_slot(slot, now, &*self.shared.entropy)?;
        self.shared.slot_changed(caller, "added", &added.0);
        Ok(added)
    }

    /// Removes a slot. The last one stays.
    pub fn remove_slot(&self, caller: &Caller, id: u32) -> Result<(), CustodyError> {
        let removed = self.shared.store.home().remove_slot(id)?;
        self.shared.slot_changed(caller, "removed", &removed);
        Ok(())
    }

    /// Does the rotations and deletions that are due. Also happens by itself: at opening, at each use of a key, and
    /// every half minute.
    pub fn maintain(&self) -> Result<(), KmsError> {
        self.shared.maintain(self.shared.clock.now())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.audit.close();
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("the key manager's background thread panicked");
        }
        if let Err(error) = self.shared.audit.finish() {
            tracing::error!(%error, "the audit log could not be written");
        }
    }
}

impl Shared {
    fn resources(&self) -> ResourceQuotas {
        *lock(&self.resources)
    }

    /// The background thread: writes the audit log in batches, looks for due work when idle.
    fn work(&self) {
        while !self.audit.is_closing() {
            if self.audit.wait(IDLE) {
                if let Err(error) = self.audit.flush() {
                    tracing::error!(%error, "the audit log could not be written; it is tried again");
                    self.audit.pause(Duration::from_secs(1));
                }
            } else if !self.audit.is_closing() {
                if let Err(error) = self.maintain(self.clock.now()) {
                    tracing::error!(%error, "maintenance of the key manager failed; it is tried again");
                }
                if let Ok(snapshot) = self.store.current() {
                    self.tokens.prune(&snapshot);
                }
            }
        }
    }

    /// The state that counts for a call at `now`: of the last commit of any process, with what is due done.
    fn snapshot(&self, now: Timestamp) -> Result<Arc<Snapshot>, KmsError> {
        let snapshot = self.store.current()?;
        if !self.is_due(&snapshot, now) {
            return Ok(snapshot);
        }
        if let Err(error) = self.maintain(now) {
            // A rotation that cannot be done is no reason to refuse the use of the key.
            tracing::error!(%error, "maintenance of the key manager failed; it is tried again in a minute");
            self.retry_at.store(now.plus(Duration::from_secs(60)).as_nanos(), Ordering::Relaxed);
        }
        Ok(self.store.current()?)
    }

    fn is_due(&self, snapshot: &Snapshot, now: Timestamp) -> bool {
        let due = |kind, now| snapshot.first_due(kind).is_some_and(|at| now >= at);
        let after = |at: &AtomicI64| now.as_nanos() >= at.load(Ordering::Relaxed);
        let rotation = due(DueKind::Rotation, now);
        let deletion = due(DueKind::Deletion, now) && after(&self.held_until);
        let Times { latest, .. } = self.times(now);
        let expiry =
            due(DueKind::Expiry, latest) || due(DueKind::ExpiryByClock, now) || due(DueKind::TokenExpiry, latest);
        (rotation || deletion || expiry) && after(&self.retry_at)
    }

    /// What material and tokens are judged by at `now`.
    fn times(&self, now: Timestamp) -> Times {
        Times { now, latest: self.latest(now) }
    }

    /// The later of `now` and the latest time ever seen: expiry of material and of tokens does not go back with the
    /// clock (KMS.md section 16).
    fn latest(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_nanos(self.latest.fetch_max(now.as_nanos(), Ordering::Relaxed)).max(now)
    }

    fn slot_changed(&self, caller: &Caller, what: &str, slot: &SlotInfo) {
        let details = serde_json::json!({
            "slot": slot.id, "slotKind": slot.kind.to_string(), "change": what, "principal": caller.principal().arn(),
        });
        self.audit.record(&self.service_event("ChangeSlot", details, None).event());
        if let Err(error) = self.audit.flush() {
            tracing::error!(%error, "the audit log could not be written; it is tried again");
        }
    }
}

#[cfg(test)]
pub(in crate::kms) mod tests;
