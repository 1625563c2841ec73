//! Data keys of files: headers in and out of them, by way of the key manager and a cache.

use std::collections::HashMap;
use std::time::Duration;

use arc_swap::ArcSwap;
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};

use super::watch::{Verdicts, Watch};
use super::{KeyError, KeyService, RewrapJob};
use crate::crypto::secret::SecretKey;
use crate::env::{Clock, Entropy, random, random_nonzero};
use crate::format::Outcome;
use crate::format::branch::BranchKey;
use crate::format::context::context_file;
use crate::format::header::{self, OpenedHeader, STATIC_LEN, StaticHeader, WrappedKey};
use crate::format::keys::FileKeys;
use crate::format::recipient::{Recipient, Scheme};
use crate::format::record::Record;
use crate::format::slot::valid_slots;
use crate::format::volume::{DefaultWrap, OpenedVolume};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, lock};
use crate::types::{BranchId, EncryptionContext, FileId, KeyArn, Timestamp};

/// Data keys kept at most (FORMAT S10).
const CACHED_KEYS: usize = 4096;
/// How long an unwrapped data key serves further opens of its file, its KMS key being usable, if nothing else is said.
pub const CACHE_TIME: Duration = Duration::from_secs(300);
/// How long an opened branch key serves (FORMAT 4.4).
const BRANCH_CACHE_TIME: Duration = Duration::from_secs(300);
/// How long a key manager that did not answer is left alone for the same header.
const TIMEOUT_MEMORY: Duration = Duration::from_secs(1);
/// Blobs that a key manager may reject within a minute before headers are refused unasked: whoever writes the storage
/// can plant any blob, and each would cost a call.
const REJECTIONS_PER_MINUTE: u32 = 60;

/// A volume's headers and the keys behind them.
pub struct DataKeys {
    service: Arc<dyn KeyService>,
    volume: ArcSwap<OpenedVolume>,
    entropy: Arc<dyn Entropy>,
    clock: Arc<dyn Clock>,
    cache: Cache<[u8; STATIC_LEN], Arc<CachedKey>>,
    cache_time: Duration,
    branches: Mutex<HashMap<(BranchId, u32), CachedBranch>>,
    failures: Cache<[u8; 32], Failure>,
    rejections: Mutex<Rejections>,
    counts: Counters,
    /// For a mount that lets go of keys as soon as they may not be used.
    watch: Option<Watch>,
}

/// What was counted since the volume was opened, the reuse of data keys in memory above all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// Opens whose data key was in memory, and whose KMS key was usable.
    pub reused: u64,
    /// Data keys that the key manager, or an opened branch key, unwrapped.
    pub unwrapped: u64,
    /// Data keys that were made.
    pub made: u64,
    /// Times that a data key could not be had.
    pub failed: u64,
}

#[derive(Default)]
struct Counters {
    reused: AtomicU64,
    unwrapped: AtomicU64,
    made: AtomicU64,
    failed: AtomicU64,
}

struct CachedKey {
    dek: SecretKey<32>,
    /// The KMS key that unwrapped it; `None` behind a branch key.
    key: Option<KeyArn>,
    term: Term,
}

struct CachedBranch {
    branch: Arc<BranchKey>,
    term: Term,
}

/// A header that did not open: for good until its slots change, or for a moment.
#[derive(Clone, Copy)]
struct Failure {
    outcome: Outcome,
    term: Option<Term>,
}

#[derive(Default)]
struct Rejections {
    minute: Term,
    count: u32,
}

/// A stretch of time on a clock that somebody may set: back before its beginning it is over, where the moment of its end alone
/// would make it hours long.
#[derive(Clone, Copy, Default)]
struct Term {
    from: Timestamp,
    until: Timestamp,
}

impl Term {
    fn new(now: Timestamp, length: Duration) -> Self {
        Self { from: now, until: now.plus(length) }
    }

    fn runs(&self, now: Timestamp) -> bool {
        (self.from..self.until).contains(&now)
    }
}

/// A header for a file that is about to be stored.
pub struct NewHeader {
    /// The header's bytes.
    pub bytes: Vec<u8>,
    /// Its fixed part.
    pub header: StaticHeader,
    /// The file's keys.
    pub keys: FileKeys,
    /// The KMS key that wraps its data key; `None` behind a branch key.
    pub key: Option<KeyArn>,
    /// Its record.
    pub record: Record,
}

impl DataKeys {
    /// Data keys of an opened volume.
    pub fn new(
        service: Arc<dyn KeyService>,
        volume: OpenedVolume,
        entropy: Arc<dyn Entropy>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            service,
            volume: ArcSwap::from_pointee(volume),
            entropy,
            clock,
            cache: Cache::new(CACHED_KEYS),
            cache_time: CACHE_TIME,
            branches: Mutex::new(HashMap::new()),
            failures: Cache::new(CACHED_KEYS),
            rejections: Mutex::new(Rejections::default()),
            counts: Counters::default(),
            watch: None,
        }
    }

    /// The same, which notes each KMS key that is used, for [`Self::look`].
    #[must_use]
    pub fn watching(self) -> Self {
        Self { watch: Some(Watch::default()), ..self }
    }

    /// The same, which remembers unwrapped data keys for `time` instead of [`CACHE_TIME`].
    #[must_use]
    pub fn remembering_for(self, time: Duration) -> Self {
        Self { cache_time: time, ..self }
    }

    /// Wipes what was unwrapped longer ago than the cache time, which nobody else would until it is asked for again. How many
    /// data keys that were.
    pub fn sweep(&self) -> usize {
        let now = self.clock.now();
        let before = self.cache.len();
        self.cache.retain(|_, cached| cached.term.runs(now));
        lock(&self.branches).retain(|_, cached| cached.term.runs(now));
        before.saturating_sub(self.cache.len())
    }

    /// Asks the key manager whether the KMS keys in use may still be used, and forgets the data keys of those that may not;
    /// what changed since the last time. Nothing without [`Self::watching`].
    pub fn look(&self) -> Verdicts {
        let Some(watch) = &self.watch else { return Verdicts::default() };
        let verdicts = watch.look(&*self.service);
        if !verdicts.refused.is_empty() {
            let refused = |key: &KeyArn| verdicts.refused.iter().any(|(other, _)| other == key);
            // What stands behind a branch key is unwrapped again: the branch's own key may be among them.
            self.cache.retain(|_, cached| cached.key.as_ref().is_some_and(|key| !refused(key)));
            lock(&self.branches).clear();
        }
        verdicts
    }

    /// Whether what `key` opened is to be let go of: it was refused at the last look. Of what a branch key opened (`None`),
    /// whether any key was.
    pub fn refuses(&self, key: Option<&KeyArn>) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.refuses(key))
    }

    /// The KMS key that opened the header which begins with these bytes last, as far as is remembered.
    pub fn key_of(&self, fixed: &[u8; STATIC_LEN]) -> Option<KeyArn> {
        self.cache.get(fixed)?.key.clone()
    }

    fn note(&self, key: &KeyArn, blob: &[u8], context: &EncryptionContext) {
        if let Some(watch) = &self.watch {
            watch.note(key, blob, context);
        }
    }

    /// What was counted so far.
    pub fn counts(&self) -> KeyCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { reused, unwrapped, made, failed } = &self.counts;
        KeyCounts { reused: load(reused), unwrapped: load(unwrapped), made: load(made), failed: load(failed) }
    }

    /// The volume as it was opened, or last replaced.
    pub fn volume(&self) -> Arc<OpenedVolume> {
        self.volume.load_full()
    }

    /// The clock that cache times are measured by.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Puts a changed configuration of the same volume in force: another default key, a longer allow-list.
    pub fn replace_volume(&self, volume: OpenedVolume) {
        self.volume.store(Arc::new(volume));
    }

    /// Opens a header in the order of FORMAT S5.4. The data key comes from memory if it was unwrapped within the cache time
    /// and its KMS key may still be used.
    ///
    /// # Errors
    /// Any outcome of FORMAT S5.4 up to the records. What the key manager refused is in the log with the key's name.
    pub fn open_header(&self, bytes: &[u8]) -> Result<OpenedHeader, Outcome> {
        let volume = self.volume();
        let policy = volume.header_policy();
        header::check_static(bytes, &policy)?;
        if let Some((dek, key)) = self.cached(bytes) {
            return header::open_with_dek(bytes, &policy, dek).map(|opened| OpenedHeader { key, ..opened });
        }
        self.unwrap_header(bytes, &volume)
    }

    /// A copy of the data key behind a header, if it was unwrapped within the cache time and may be used, and the KMS key that
    /// did it.
    fn cached(&self, bytes: &[u8]) -> Option<(SecretKey<32>, Option<KeyArn>)> {
        let cached = self.usable(bytes.first_chunk()?)?;
        Some((SecretKey::from_slice(cached.dek.expose())?, cached.key.clone()))
    }

    fn usable(&self, id: &[u8; STATIC_LEN]) -> Option<Arc<CachedKey>> {
        let cached = self.cache.get(id)?;
        let usable =
            !self.refuses(cached.key.as_ref()) && cached.key.as_ref().is_none_or(|key| self.service.check(key).is_ok());
        if !cached.term.runs(self.clock.now()) || !usable {
            self.cache.remove(id);
            return None;
        }
        self.counts.reused.fetch_add(1, Ordering::Relaxed);
        Some(cached)
    }

    /// Whether the file behind a header that begins with these bytes may be opened once more by what is in memory: its data
    /// key was unwrapped within the cache time, and its KMS key may be used now (ADR 4). If not, [`Self::check`] decides.
    pub fn may_reopen(&self, fixed: &[u8; STATIC_LEN]) -> bool {
        self.usable(fixed).is_some()
    }

    fn remember(&self, bytes: &[u8], dek: &SecretKey<32>, key: Option<KeyArn>) {
        if let (Some(id), Some(dek)) = (bytes.first_chunk::<STATIC_LEN>(), SecretKey::from_slice(dek.expose())) {
            let term = Term::new(self.clock.now(), self.cache_time);
            self.cache.insert(*id, Arc::new(CachedKey { dek, key, term }));
        }
    }

    /// Opens a header by the key manager.
    fn unwrap_header(&self, bytes: &[u8], volume: &OpenedVolume) -> Result<OpenedHeader, Outcome> {
        let policy = volume.header_policy();
        // With the fixed part: the same slots behind another header are another file's matter.
        let slots: [u8; 32] = Sha256::digest(&bytes[..policy.geometry.records_offset()]).into();
        let now = self.clock.now();
        if let Some(failure) = self.failures.get(&slots) {
            if failure.term.is_none_or(|term| term.runs(now)) {
                return Err(failure.outcome);
            }
            self.failures.remove(&slots);
        }
        if !self.may_ask(now) {
            tracing::warn!("too many headers with forged wrapped keys: this one is refused without asking the KMS");
            return Err(Outcome::KeyServiceTimeout);
        }
        let mut used = None;
        let mut result = header::open_header(bytes, &policy, &mut |fixed, wrapped| {
            used = match wrapped {
                WrappedKey::Kms { key, .. } => Some(key.clone()),
                WrappedKey::Branch(_) => None,
            };
            self.unwrap(volume, fixed, wrapped)
        });
        match &mut result {
            Ok(opened) => {
                self.counts.unwrapped.fetch_add(1, Ordering::Relaxed);
                self.remember(bytes, &opened.dek, used.clone());
                opened.key = used;
            }
            Err(outcome @ Outcome::HeaderAuth) => {
                self.rejected(now);
                self.failures.insert(slots, Failure { outcome: *outcome, term: None });
            }
            Err(outcome @ Outcome::KeyServiceTimeout) => {
                self.failures.insert(slots, Failure { outcome: *outcome, term: Some(Term::new(now, TIMEOUT_MEMORY)) });
            }
            Err(_) => {}
        }
        result
    }

    fn unwrap(
        &self,
        volume: &OpenedVolume,
        fixed: &StaticHeader,
        wrapped: WrappedKey<'_>,
    ) -> Result<SecretKey<32>, Outcome> {
        match wrapped {
            WrappedKey::Kms { key, blob } => {
                let context = context_file(fixed.volume_id(), fixed.file_id());
                let dek = self.service.decrypt(key, blob, &context);
                let dek = dek.map_err(|error| self.failed(error, fixed.file_id()))?;
                self.note(key, blob, &context);
                Ok(dek)
            }
            WrappedKey::Branch(blob) => self.branch(volume, blob.branch_id(), blob.version())?.unwrap(fixed, &blob),
        }
    }

    /// Opens a header to read around its damage: by the older of two slots where the newer one does not open, and without a
    /// record, which then vouches for nothing. Also returned is what is wrong with it.
    ///
    /// # Errors
    /// As [`Self::open_header`], where nothing opens it.
    pub fn open_damaged(&self, bytes: &[u8]) -> Result<(OpenedHeader, Option<Outcome>), Outcome> {
        let outcome = match self.open_header(bytes) {
            Ok(opened) => return Ok((opened, None)),
            Err(outcome) => outcome,
        };
        let volume = self.volume();
        let policy = volume.header_policy();
        let other = match outcome {
            Outcome::RecordAuth => {
                let record = Record::first(true);
                header::with_record(bytes, &policy, &mut |fixed, key| self.unwrap(&volume, fixed, key), record).ok()
            }
            _ => header::without_newest_slot(bytes, policy.geometry).map(|(_, header)| header),
        };
        match other {
            // Each step leaves less to try, so this ends.
            Some(other) => self.open_damaged(&other).map(|(opened, _)| (opened, Some(outcome))),
            None => Err(outcome),
        }
    }

    /// Whether the file behind a header may be opened once more: its data key is unwrapped again, unless that was done
    /// within the cache time.
    ///
    /// # Errors
    /// As [`Self::open_header`].
    pub fn check(&self, bytes: &[u8]) -> Result<(), Outcome> {
        let volume = self.volume();
        header::check_static(bytes, &volume.header_policy())?;
        match self.cached(bytes) {
            Some(_) => Ok(()),
            None => self.unwrap_header(bytes, &volume).map(drop),
        }
    }

    /// Whether a file that is empty may get its first byte now: a new data key could be had. Asked when it is created or
    /// opened for writing, since with the kernel's write-back cache the first write itself comes too late to be refused.
    ///
    /// # Errors
    /// `KeyUnavailable`, `KeyServiceTimeout`.
    pub fn check_default(&self) -> Result<(), Outcome> {
        match &self.volume().config.default_wrap {
            DefaultWrap::Direct(key) => self.service.check(key).map_err(|error| {
                tracing::warn!("a new file cannot be written: {error}");
                error.outcome()
            }),
            DefaultWrap::Branch { .. } => Ok(()),
        }
    }

    /// A header for a new life of a file: new file id, new data key under the volume's default wrap.
    ///
    /// # Errors
    /// `KeyUnavailable`, `KeyForbidden`, `KeyServiceTimeout`, `SlotOverflow`.
    pub fn new_header(&self, has_holes: bool) -> Result<NewHeader, Outcome> {
        let volume = self.volume();
        let file_id = FileId::from_bytes(random_nonzero(&*self.entropy));
        let config = &volume.config;
        let fixed = StaticHeader::new(config.volume_id, file_id, config.geometry);
        let time = self.clock.now().as_unix_time();
        let (dek, recipient) = match &config.default_wrap {
            DefaultWrap::Direct(key) => {
                let context = context_file(config.volume_id, file_id);
                let new = self.service.generate_data_key(key, &context).map_err(|e| self.failed(e, file_id))?;
                self.note(key, &new.blob, &context);
                (new.key, Recipient::kms(key, new.blob, time))
            }
            DefaultWrap::Branch { branch_id, version } => {
                let branch = self.branch(&volume, *branch_id, *version).map_err(|_| Outcome::KeyUnavailable)?;
                let dek = SecretKey::random(&*self.entropy);
                let blob = branch.wrap(&fixed, &dek, &random(&*self.entropy));
                (dek, Recipient::branch(blob, time))
            }
        };
        let keys = FileKeys::derive(volume.keys.backend, &dek, &fixed);
        let key: Option<KeyArn> = recipient.key_id.parse().ok();
        let bytes = header::build_header(&fixed, &keys, &volume.keys, &[recipient], has_holes)?;
        self.remember(&bytes, &dek, key.clone());
        self.counts.made.fetch_add(1, Ordering::Relaxed);
        Ok(NewHeader { bytes, header: fixed, keys, key, record: Record::first(has_holes) })
    }

    /// The header with a new slot beside the present one, its KMS recipients wrapped anew as the job says; `None` if there
    /// is nothing to do.
    ///
    /// # Errors
    /// `KeyForbidden` if the job's target is not in the allow-list, key outcomes, `SlotOverflow`, `NoRecipient`.
    pub fn rewrap(&self, bytes: &[u8], job: &RewrapJob) -> Result<Option<Vec<u8>>, Outcome> {
        let volume = self.volume();
        let fixed = header::check_static(bytes, &volume.header_policy())?;
        let geometry = volume.config.geometry;
        let slots = valid_slots(bytes, geometry);
        let active = slots.first().ok_or(Outcome::NoRecipient)?;
        let context = context_file(fixed.volume_id(), fixed.file_id());
        let time = self.clock.now().as_unix_time();
        let mut changed = false;
        let mut recipients = Vec::with_capacity(active.recipients.len());
        for old in &active.recipients {
            let selected = old.scheme == Scheme::Kms && job.from.as_ref().is_none_or(|key| key.as_str() == old.key_id);
            let new =
                if selected { self.rewrap_one(&volume, old, job, &context, time, fixed.file_id())? } else { None };
            changed |= new.is_some();
            recipients.push(new.unwrap_or_else(|| old.clone()));
        }
        if !changed {
            return Ok(None);
        }
        // From here on the new slot's key decides.
        if let Some(id) = bytes.first_chunk::<STATIC_LEN>() {
            self.cache.remove(id);
        }
        let mut with_new_slot = bytes.to_vec();
        header::begin_rewrap(bytes, &recipients, geometry)?.apply(&mut with_new_slot);
        Ok(Some(with_new_slot))
    }

    fn rewrap_one(
        &self,
        volume: &OpenedVolume,
        old: &Recipient,
        job: &RewrapJob,
        context: &EncryptionContext,
        time: u64,
        file: FileId,
    ) -> Result<Option<Recipient>, Outcome> {
        let source = volume.allowed.find(&old.key_id)?;
        let target = match &job.to {
            Some(key) => volume.allowed.find(key.as_str())?,
            None => source,
        };
        if source == target {
            let current = job.current(&*self.service, target).map_err(|e| self.failed(e, file))?;
            if current.is_some() && current == self.service.material_id(&old.blob) {
                return Ok(None);
            }
        }
        let blob = self.service.re_encrypt(source, &old.blob, target, context).map_err(|e| self.failed(e, file))?;
        job.wrapped_with(target, self.service.material_id(&blob));
        Ok(Some(Recipient::kms(target, blob, time)))
    }

    /// The header without the older of two valid slots, once the newer one has been unwrapped by the key manager and
    /// its commitment checked; unchanged if only one is valid.
    ///
    /// # Errors
    /// What keeps the newer slot from opening; nothing may be erased then.
    pub fn finish_rewrap(&self, bytes: &[u8]) -> Result<Vec<u8>, Outcome> {
        let opened = self.unwrap_header(bytes, &self.volume())?;
        let mut finished = bytes.to_vec();
        if let Some(patch) = header::finish_rewrap(bytes, &opened) {
            patch.apply(&mut finished);
        }
        Ok(finished)
    }

    /// An opened branch key version, from memory for the cache time.
    fn branch(&self, volume: &OpenedVolume, id: BranchId, version: u32) -> Result<Arc<BranchKey>, Outcome> {
        let now = self.clock.now();
        if let Some(cached) = lock(&self.branches).get(&(id, version))
            && cached.term.runs(now)
        {
            return Ok(Arc::clone(&cached.branch));
        }
        let config = &volume.config;
        let entry = config.branch(id, version)?;
        let branch =
            entry.open(volume.keys.backend, config.volume_id, &volume.allowed, &mut |key, blob, context| {
                let opened = self.service.decrypt(key, blob, context).map_err(|error| {
                    tracing::warn!(branch = %id, version, "a branch key does not open: {error}");
                    error.outcome()
                })?;
                self.note(key, blob, context);
                Ok(opened)
            })?;
        let branch = Arc::new(branch);
        let cached = CachedBranch { branch: Arc::clone(&branch), term: Term::new(now, BRANCH_CACHE_TIME) };
        lock(&self.branches).insert((id, version), cached);
        Ok(branch)
    }

    fn failed(&self, error: KeyError, file: FileId) -> Outcome {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%file, "a file does not open: {error}");
        error.outcome()
    }

    fn may_ask(&self, now: Timestamp) -> bool {
        let rejections = lock(&self.rejections);
        rejections.count < REJECTIONS_PER_MINUTE || !rejections.minute.runs(now)
    }

    fn rejected(&self, now: Timestamp) {
        let mut rejections = lock(&self.rejections);
        if !rejections.minute.runs(now) {
            *rejections = Rejections { minute: Term::new(now, Duration::from_secs(60)), count: 0 };
        }
        rejections.count += 1;
    }
}
