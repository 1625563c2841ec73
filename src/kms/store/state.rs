//! The store in memory: an immutable snapshot for readers, checked against the database at each use.

use std::path::{Path, PathBuf};

use arc_swap::ArcSwap;
use data_encoding::HEXLOWER;
use rusqlite::{Connection, TransactionBehavior};

use super::packed::Packing;
use super::records::ClockRecord;
use super::rows::{self, Ledger, Prover, Table};
use super::schema;
use super::{Change, Snapshot, StoreError, clock, whole};
use crate::crypto::secret::SecretKey;
use crate::env::Entropy;
use crate::kms::custody::{DomainKeys, Home, HomeLock, RootBody, StateRecord};
use crate::kms::{KmsError, seal};
use crate::sync::{Arc, Mutex, lock};
use crate::sys::threads;
use crate::sys::wal_index::{WalHeader, WalIndex};

/// The snapshot with what is needed to bring it up to date and to prove it. Cheap to clone.
#[derive(Clone)]
pub struct Cache {
    pub domain: Arc<DomainKeys>,
    pub revision: u64,
    pub ledger: Ledger,
    pub snapshot: Arc<Snapshot>,
}

pub struct Inner {
    pub connection: Connection,
    pub cache: Cache,
}

/// What readers get.
struct Published {
    /// The WAL index's header when the snapshot was read or before, so that a commit since then shows; absent if it was
    /// being written.
    header: Option<WalHeader>,
    snapshot: Arc<Snapshot>,
}

/// The open store. Lock order: `refreshing`, then the home's file lock, then `inner`.
pub struct Store {
    home: Arc<Home>,
    entropy: Arc<dyn Entropy>,
    index: WalIndex,
    /// One thread brings the snapshot up to date, the others wait for it.
    refreshing: Mutex<()>,
    inner: Mutex<Inner>,
    /// Written with `inner` locked.
    published: ArcSwap<Published>,
    audit_key: SecretKey<32>,
    marker_key: SecretKey<32>,
}

impl Store {
    /// Opens the database of `home` and finishes what a crash interrupted. With `accept`, a database that is not the
    /// one written last is accepted as it stands.
    pub fn open(home: Arc<Home>, entropy: Arc<dyn Entropy>, accept: bool) -> Result<Self, StoreError> {
        let path = home.database();
        Self::try_open(home, entropy, accept).map_err(|error| error.with_holder(&path))
    }

    fn try_open(home: Arc<Home>, entropy: Arc<dyn Entropy>, accept: bool) -> Result<Self, StoreError> {
        let path = home.database();
        let file_lock = home.lock()?;
        let mut connection = schema::connect(&path)?;
        schema::upgrade(&connection, &path)?;
        schema::check_objects(&connection, &path)?;
        let behavior = if accept { TransactionBehavior::Immediate } else { TransactionBehavior::Deferred };
        let tx = connection.transaction_with_behavior(behavior)?;
        let mut body = home.read_root()?;
        // Both read all of the database.
        let (structure, cache) = std::thread::scope(|scope| {
            let check = || schema::check_structure(&path);
            // Without a thread for it, one after the other.
            let structure = threads::spawn_scoped(scope, check);
            let cache = load(&tx, &home, &body, None);
            let structure = structure.map_or_else(
                |_| check(),
                |thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            );
            (structure, cache)
        });
        structure?;
        let mut cache = cache?;
        let secret = |name: &str| internal_key(name, &tx, &cache.domain, &path);
        let (audit_key, marker_key) = (secret("audit")?, secret("marker")?);
        if !body.states.contains(&cache.state()) {
            if !accept {
                return Err(not_current(path, &body, &cache.state()));
            }
            whole::check(&tx, &home, &body, &cache)?;
            // No number that the changes had which are undone by this comes again: the digest is over numbers, and would not
            // tell a row of such a change from one of a later change.
            let known = body.states.iter().map(|state| state.revision);
            cache.revision = known.fold(cache.revision, u64::max).saturating_add(1);
            rows::set_meta("revision", cache.revision, &tx)?;
            whole::write(&tx, &cache.ledger, cache.revision, &cache.domain)?;
        }
        let state = cache.state();
        // If the root file cannot be written now, what is in the database can be accepted again.
        tx.commit()?;
        if body.states != [state.clone()] || body.domains.len() != 1 {
            Home::settle(&mut body, vec![state]);
            match home.write_root(&file_lock, &body) {
                Err(error) if !accept => {
                    tracing::warn!(%error, "the root file could not be settled; it is tried again")
                }
                written => written?,
            }
        }
        if let Err(fault) = clock::read(&connection, &cache.domain) {
            return Err(fault.at(path));
        }
        drop(file_lock);
        let index = WalIndex::of(schema::connect(&path)?)?;
        let published = ArcSwap::from_pointee(Published { header: None, snapshot: cache.snapshot.clone() });
        let store = Self {
            index,
            refreshing: Mutex::new(()),
            inner: Mutex::new(Inner { connection, cache }),
            home,
            entropy,
            published,
            audit_key,
            marker_key,
        };
        store.current()?;
        Ok(store)
    }

    pub fn home(&self) -> &Arc<Home> {
        &self.home
    }

    pub fn entropy(&self) -> &dyn Entropy {
        &*self.entropy
    }

    pub fn audit_key(&self) -> &SecretKey<32> {
        &self.audit_key
    }

    pub fn marker_key(&self) -> &SecretKey<32> {
        &self.marker_key
    }

    /// The present state: that of the last commit of any process. While nobody commits this takes no lock and no system
    /// call.
    pub fn current(&self) -> Result<Arc<Snapshot>, StoreError> {
        if let Some(snapshot) = self.unchanged() {
            return Ok(snapshot);
        }
        let _refreshing = lock(&self.refreshing);
        match self.unchanged() {
            Some(snapshot) => Ok(snapshot),
            None => self.refresh(),
        }
    }

    /// Number of changes that led to the present state.
    pub fn revision(&self) -> Result<u64, StoreError> {
        self.current()?;
        Ok(lock(&self.inner).cache.revision)
    }

    /// The published snapshot, if nobody has committed since it was read.
    fn unchanged(&self) -> Option<Arc<Snapshot>> {
        let published = self.published.load();
        let now = self.index.header();
        (now.is_some() && now == published.header).then(|| published.snapshot.clone())
    }

    fn refresh(&self) -> Result<Arc<Snapshot>, StoreError> {
        // Before anything is read: whoever commits from here on changes the header, and the next call reads again.
        let header = self.index.header();
        {
            let mut inner = lock(&self.inner);
            if inner.refresh(&self.home)? == Freshness::Proven {
                return Ok(self.publish(&inner, header));
            }
        }
        // Another process may have been between its commit and the root file, or two changes ahead of what was read:
        // with its lock held, database and root file stand still.
        let _file_lock = self.home.lock()?;
        let mut inner = lock(&self.inner);
        match inner.refresh(&self.home)? {
            Freshness::Proven => Ok(self.publish(&inner, header)),
            Freshness::Unproven(error) => Err(*error),
        }
    }

    fn publish(&self, inner: &Inner, header: Option<WalHeader>) -> Arc<Snapshot> {
        let snapshot = inner.cache.snapshot.clone();
        self.published.store(Arc::new(Published { header, snapshot: snapshot.clone() }));
        snapshot
    }

    /// Runs `edit` on the present state and commits what it changed, or nothing. Durable on return.
    pub fn change<T>(&self, edit: impl FnOnce(&mut Change) -> Result<T, KmsError>) -> Result<T, KmsError> {
        let file_lock = self.home.lock()?;
        let mut inner = lock(&self.inner);
        if let Freshness::Unproven(error) = inner.refresh(&self.home)? {
            return Err((*error).into());
        }
        let mut change = Change::new(&inner.cache, &*self.entropy);
        let answer = edit(&mut change)?;
        let done = change.commit(&mut inner, &self.home, &file_lock, &self.audit_key);
        done.map_err(|error| error.with_holder(&self.home.database()))?;
        let header = self.published.load().header;
        self.publish(&inner, header);
        Ok(answer)
    }

    /// How long a change waits for another process that is in the middle of a commit.
    #[cfg(test)]
    pub fn set_patience(&self, time: std::time::Duration) {
        lock(&self.inner).connection.busy_timeout(time).expect("set");
    }

    /// Reads the clock record and writes what `observe` makes of it. A full disk is no error: the observation then
    /// counts for this call only.
    pub fn observe_clock(&self, observe: impl Fn(ClockRecord) -> ClockRecord) -> Result<ClockRecord, StoreError> {
        loop {
            let mut inner = lock(&self.inner);
            let Inner { connection, cache } = &mut *inner;
            let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
            let tx = begun.map_err(|error| StoreError::from(error).with_holder(&self.home.database()))?;
            if rows::meta("epoch", &tx)? != Some(cache.domain.epoch) {
                drop(tx);
                drop(inner);
                self.refresh()?;
                continue;
            }
            let before = clock::read(&tx, &cache.domain).map_err(|what| what.at(self.home.database()))?;
            let after = observe(before);
            if after != before {
                let written = clock::write(&tx, &after, &cache.domain).and_then(|()| tx.commit());
                if let Err(error) = written {
                    tracing::warn!(%error, "the observation of the clock could not be kept");
                }
            }
            return Ok(after);
        }
    }
}

/// A key of the key manager's own, by name.
pub fn internal_key(
    name: &str,
    from: &Connection,
    domain: &DomainKeys,
    path: &Path,
) -> Result<SecretKey<32>, StoreError> {
    let sealed: Vec<u8> = from.query_row("SELECT sealed FROM secrets WHERE id = ?1", [name], |row| row.get(0))?;
    let plain = seal::open(&domain.seal, &rows::column_aad("secrets", name, domain.epoch), &sealed);
    let damaged = || StoreError::Damaged { path: path.to_owned(), what: "an internal key does not open".to_owned() };
    plain.and_then(|plain| SecretKey::from_slice(&plain)).ok_or_else(damaged)
}

/// Whether what was read is the state that the root file vouches for.
#[derive(Debug)]
pub enum Freshness {
    Proven,
    Unproven(Box<StoreError>),
}

impl PartialEq for Freshness {
    fn eq(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Proven, Self::Proven))
    }
}

impl Inner {
    /// Brings the cache up to date with the database and proves it with the root file.
    fn refresh(&mut self, home: &Home) -> Result<Freshness, StoreError> {
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
        let epoch = rows::meta("epoch", &tx)?;
        let revision = rows::meta("revision", &tx)?;
        if (epoch, revision) == (Some(self.cache.domain.epoch), Some(self.cache.revision)) {
            return Ok(Freshness::Proven);
        }
        let body = home.read_root()?;
        let mut failure = None;
        for incremental in [true, false] {
            match load(&tx, home, &body, incremental.then_some(&self.cache)) {
                Ok(cache) if body.states.contains(&cache.state()) => {
                    drop(tx);
                    self.cache = cache;
                    return Ok(Freshness::Proven);
                }
                Ok(cache) => failure = Some(not_current(home.database(), &body, &cache.state())),
                Err(error) => failure = Some(error),
            }
        }
        Ok(Freshness::Unproven(Box::new(failure.expect("both attempts failed"))))
    }
}

impl Cache {
    /// The state as the root file records it.
    pub fn state(&self) -> StateRecord {
        state_record(&self.ledger, self.revision, &self.domain)
    }
}

pub fn state_record(ledger: &Ledger, revision: u64, domain: &DomainKeys) -> StateRecord {
    let digest = HEXLOWER.encode(&ledger.digest(revision, domain));
    StateRecord { epoch: domain.epoch, revision, digest }
}

pub fn not_current(path: PathBuf, body: &RootBody, state: &StateRecord) -> StoreError {
    let known: Vec<String> = body.states.iter().map(|state| state.revision.to_string()).collect();
    let what = match body.states.iter().any(|known| known.revision == state.revision) {
        true => format!("its rows are not those of revision {}", state.revision),
        false => format!("it has revision {}, the root file knows revision {}", state.revision, known.join(" and ")),
    };
    StoreError::NotCurrent { path, what }
}

/// Reads the database, or what changed in it since `base`.
pub fn load(from: &Connection, home: &Home, body: &RootBody, base: Option<&Cache>) -> Result<Cache, StoreError> {
    let path = home.database();
    let damaged = |what: String| StoreError::Damaged { path: path.clone(), what };
    let number = |name| -> Result<u64, StoreError> {
        rows::meta(name, from)?.ok_or_else(|| damaged(format!("it has no {name}")))
    };
    let (epoch, revision) = (number("epoch")?, number("revision")?);
    let base = base.filter(|base| base.domain.epoch == epoch && base.revision < revision);
    let deleted = base.map(|base| rows::deleted_since(base.revision, from)).transpose()?.flatten();
    let base = base.zip(deleted);
    let above = base.as_ref().map(|(base, _)| base.revision);
    let mut cache = match base {
        None => {
            let domain =
                home.domain_keys(body, epoch).ok_or_else(|| StoreError::EpochGone { path: path.clone(), epoch })?;
            Cache { domain: Arc::new(domain), revision, ledger: Ledger::default(), snapshot: Arc::default() }
        }
        Some((base, deleted)) => {
            let mut cache = Cache { revision, ..base.clone() };
            let (snapshot, prover) = (Arc::make_mut(&mut cache.snapshot), Prover::new(&cache.domain));
            for (table, id) in deleted {
                if cache.ledger.remove(table, &id, &prover) {
                    snapshot.apply(table, &id, None, &prover).map_err(damaged)?;
                }
            }
            cache
        }
    };
    let Cache { domain, ledger, snapshot, .. } = &mut cache;
    ledger.records = rows::meta(rows::RECORDS, from)?;
    let (snapshot, prover) = (Arc::make_mut(snapshot), Prover::new(domain));
    let mut packing = above.is_none().then(|| Packing::new(domain.clone()));
    let mut tables = Table::ALL;
    if packing.is_some() {
        // Material before the keys.
        tables.swap(0, 1);
    }
    for table in tables {
        if !schema::has(from, table)? {
            continue;
        }
        rows::visit(table, above, &prover, from, |row| {
            let was_there = ledger.put(table, &row.id, row.revision, &prover);
            match (table, &mut packing) {
                (_, Some(_)) if was_there => Err(format!("row '{}' of table {} is there twice", row.id, table.name())),
                (Table::Materials, Some(packing)) => packing.add_material(&row),
                (Table::Keys, Some(packing)) => snapshot.read_key(&row, packing),
                _ => snapshot.apply(table, &row.id, Some(&row), &prover),
            }
        })?
        .map_err(damaged)?;
    }
    if let Some(packing) = packing {
        snapshot.keep(packing).map_err(damaged)?;
    }
    Ok(cache)
}

/// Everybody who changes rows holds the home's lock; the type says so.
pub type Held<'a> = &'a HomeLock;
