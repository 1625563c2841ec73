//! The store in memory: an immutable snapshot for readers, checked against the database at each use.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

use arc_swap::ArcSwap;
use data_encoding::HEXLOWER;
use rusqlite::{Connection, TransactionBehavior};

use super::records::*;
use super::rows::{self, Row, Sum, Table};
use super::schema::{self, Durability};
use super::{Change, StoreError};
use crate::crypto::secret::{SecretBytes, SecretKey};
use crate::env::Entropy;
use crate::kms::custody::{DomainKeys, Home, HomeLock, RootBody, StateRecord};
use crate::kms::{KmsError, seal};
use crate::sync::{Arc, Mutex, OnceLock, lock};
use crate::types::{AccountId, KeyArn, Region, Timestamp};

/// Everything that operations read, as of one revision. Keys are in the order of their row ids.
#[derive(Default)]
pub struct Snapshot {
    pub keys: BTreeMap<Arc<str>, Arc<KeyEntry>>,
    pub wrapping_keys: BTreeMap<Arc<str>, Arc<WrappingKey>>,
    pub aliases: BTreeMap<Arc<str>, Arc<AliasRecord>>,
    pub volumes: BTreeMap<Arc<str>, Arc<VolumeRow>>,
    due: OnceLock<Due>,
}

/// When the first key needs attention, by its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub rotation: Option<Timestamp>,
    pub deletion: Option<Timestamp>,
    /// Of imported material and of wrapping keys.
    pub expiry: Option<Timestamp>,
}

impl Clone for Snapshot {
    /// For editing: what is computed from the content is left out.
    fn clone(&self) -> Self {
        let Self { keys, wrapping_keys, aliases, volumes, due: _ } = self;
        let (keys, wrapping_keys) = (keys.clone(), wrapping_keys.clone());
        Self { keys, wrapping_keys, aliases: aliases.clone(), volumes: volumes.clone(), due: OnceLock::new() }
    }
}

impl Snapshot {
    /// When the first rotation and the first deletion are due. Computed once; a snapshot that is shared never changes.
    pub fn due(&self) -> Due {
        let first = |kind: fn(&KeyEntry) -> Option<Timestamp>| self.keys.values().filter_map(|key| kind(key)).min();
        *self.due.get_or_init(|| {
            let wrapping_key = self.wrapping_keys.values().map(|key| key.record.valid_to).min();
            let expiry = first(KeyEntry::expiry_due).into_iter().chain(wrapping_key).min();
            Due { rotation: first(KeyEntry::rotation_due), deletion: first(KeyEntry::deletion_due), expiry }
        })
    }

    /// Inserts or replaces a key, which keeps its material.
    pub fn put_key(&mut self, row_id: &str, record: KeyRecord) -> Result<(), String> {
        let region: Region = record.region.parse().map_err(|_| format!("key '{row_id}' has no Region"))?;
        let account: AccountId = record.account.parse().map_err(|_| format!("key '{row_id}' has no account"))?;
        let arn = KeyArn::new(&region, &account, &record.key_id);
        let materials = self.keys.get(row_id).map(|entry| entry.materials.clone()).unwrap_or_default();
        self.keys.insert(row_id.into(), Arc::new(KeyEntry { record, arn, materials }));
        self.due = OnceLock::new();
        Ok(())
    }

    pub fn put_material(&mut self, key_row: &str, material: Arc<Material>) -> Result<(), String> {
        self.with_materials(key_row, |materials| {
            materials.retain(|old| old.record.material_id != material.record.material_id);
            materials.push(material);
            materials.sort_by_key(|material| material.record.generation);
        })
    }

    pub fn put_wrapping_key(&mut self, row_id: &str, key: Arc<WrappingKey>) {
        self.wrapping_keys.insert(row_id.into(), key);
        self.due = OnceLock::new();
    }

    pub fn remove_wrapping_key(&mut self, row_id: &str) {
        self.wrapping_keys.remove(row_id);
        self.due = OnceLock::new();
    }

    pub fn remove_material(&mut self, row_id: &str) -> Result<(), String> {
        let (key_row, id) = row_id.rsplit_once('/').ok_or_else(|| format!("material '{row_id}' names no key"))?;
        self.with_materials(key_row, |materials| materials.retain(|old| old.record.material_id != id))
    }

    fn with_materials(&mut self, key_row: &str, edit: impl FnOnce(&mut Vec<Arc<Material>>)) -> Result<(), String> {
        let slot =
            self.keys.get_mut(key_row).ok_or_else(|| format!("material of a key '{key_row}' that is not there"))?;
        let mut materials = slot.materials.clone();
        edit(&mut materials);
        *slot = Arc::new(KeyEntry { record: slot.record.clone(), arn: slot.arn.clone(), materials });
        self.due = OnceLock::new();
        Ok(())
    }
}

/// The snapshot with what is needed to bring it up to date and to prove it.
pub struct Cache {
    pub domain: DomainKeys,
    pub revision: u64,
    pub revisions: HashMap<(Table, String), u64>,
    pub sum: Sum,
    pub snapshot: Arc<Snapshot>,
}

pub struct Inner {
    pub connection: Connection,
    pub cache: Cache,
}

struct Watcher {
    connection: Connection,
    seen: i64,
}

/// The open store. Lock order: `watcher`, then the home's file lock, then `inner`.
pub struct Store {
    home: Arc<Home>,
    entropy: Arc<dyn Entropy>,
    watcher: Mutex<Watcher>,
    inner: Mutex<Inner>,
    snapshot: ArcSwap<Snapshot>,
    audit_key: SecretKey<32>,
    marker_key: SecretKey<32>,
}

impl Store {
    /// Opens the database of `home` and finishes what a crash interrupted. With `accept`, a database that is not the
    /// one written last is accepted as it stands.
    pub fn open(home: Arc<Home>, entropy: Arc<dyn Entropy>, accept: bool) -> Result<Self, StoreError> {
        let path = home.database();
        let damaged = |what: &str| StoreError::Damaged { path: path.clone(), what: what.to_owned() };
        let file_lock = home.lock()?;
        let mut connection = schema::connect(&path, Durability::Full)?;
        schema::check(&connection, &path)?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
        let mut body = home.read_root()?;
        let cache = load(&tx, &home, &body, None)?;
        let secret = |name: &str| {
            let sealed: Vec<u8> = tx.query_row("SELECT sealed FROM secrets WHERE id = ?1", [name], |row| row.get(0))?;
            let aad = rows::column_aad("secrets", name, cache.domain.epoch);
            let plain = seal::open(&cache.domain.seal, &aad, &sealed);
            plain
                .and_then(|plain| SecretKey::from_slice(&plain))
                .ok_or_else(|| damaged("an internal key does not open"))
        };
        let (audit_key, marker_key) = (secret("audit")?, secret("marker")?);
        let state = cache.state();
        if !accept && !body.states.contains(&state) {
            return Err(not_current(path, &body, &state));
        }
        if body.states != [state.clone()] || body.domains.len() != 1 {
            Home::settle(&mut body, vec![state]);
            match home.write_root(&file_lock, &body) {
                Err(error) if !accept => {
                    tracing::warn!(%error, "the root file could not be settled; it is tried again")
                }
                written => written?,
            }
        }
        if let Err(fault) = read_clock(&tx, &cache.domain) {
            return Err(fault.at(path));
        }
        drop(tx);
        drop(file_lock);
        let watcher = schema::connect(&path, Durability::Normal)?;
        let snapshot = ArcSwap::new(cache.snapshot.clone());
        let store = Self {
            watcher: Mutex::new(Watcher { connection: watcher, seen: -1 }),
            inner: Mutex::new(Inner { connection, cache }),
            home,
            entropy,
            snapshot,
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

    /// The present state: that of the last commit of any process.
    pub fn current(&self) -> Result<Arc<Snapshot>, StoreError> {
        let mut watcher = lock(&self.watcher);
        let version = data_version(&watcher.connection)?;
        if version != watcher.seen {
            self.refresh()?;
            watcher.seen = version;
        }
        drop(watcher);
        Ok(self.snapshot.load_full())
    }

    fn refresh(&self) -> Result<(), StoreError> {
        if lock(&self.inner).refresh(&self.home)? == Freshness::Proven {
            self.publish();
            return Ok(());
        }
        // Another process may have been between its commit and the root file, or two changes ahead of what was read:
        // with its lock held, database and root file stand still.
        let _file_lock = self.home.lock()?;
        match lock(&self.inner).refresh(&self.home)? {
            Freshness::Proven => {
                self.publish();
                Ok(())
            }
            Freshness::Unproven(error) => Err(*error),
        }
    }

    fn publish(&self) {
        let inner = lock(&self.inner);
        self.snapshot.store(inner.cache.snapshot.clone());
    }

    /// Runs `edit` on the present state and commits what it changed, or nothing. Durable on return.
    pub fn change<T>(&self, edit: impl FnOnce(&mut Change) -> Result<T, KmsError>) -> Result<T, KmsError> {
        let file_lock = self.home.lock()?;
        let mut inner = lock(&self.inner);
        if let Freshness::Unproven(error) = inner.refresh(&self.home)? {
            return Err((*error).into());
        }
        let mut change = Change::new(inner.cache.snapshot.clone());
        let answer = edit(&mut change)?;
        change.commit(&mut inner, &self.home, &file_lock, &*self.entropy)?;
        self.snapshot.store(inner.cache.snapshot.clone());
        Ok(answer)
    }

    /// Reads the clock record and writes what `observe` makes of it. A full disk is no error: the observation then
    /// counts for this call only.
    pub fn observe_clock(&self, observe: impl Fn(ClockRecord) -> ClockRecord) -> Result<ClockRecord, StoreError> {
        loop {
            let mut inner = lock(&self.inner);
            let Inner { connection, cache } = &mut *inner;
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if rows::meta("epoch", &tx)? != Some(cache.domain.epoch) {
                drop(tx);
                drop(inner);
                self.refresh()?;
                continue;
            }
            let before = read_clock(&tx, &cache.domain).map_err(|what| what.at(self.home.database()))?;
            let after = observe(before);
            if after != before {
                let written = write_clock(&tx, &after, &cache.domain).and_then(|()| tx.commit());
                if let Err(error) = written {
                    tracing::warn!(%error, "the observation of the clock could not be kept");
                }
            }
            return Ok(after);
        }
    }
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
        state_record(&self.sum, self.revision, &self.domain)
    }
}

pub fn state_record(sum: &Sum, revision: u64, domain: &DomainKeys) -> StateRecord {
    let digest = HEXLOWER.encode(&sum.finish(revision, domain));
    StateRecord { epoch: domain.epoch, revision, digest }
}

fn not_current(path: PathBuf, body: &RootBody, state: &StateRecord) -> StoreError {
    let known: Vec<String> = body.states.iter().map(|state| state.revision.to_string()).collect();
    let what = match body.states.iter().any(|known| known.revision == state.revision) {
        true => format!("its rows are not those of revision {}", state.revision),
        false => format!("it has revision {}, the root file knows revision {}", state.revision, known.join(" and ")),
    };
    StoreError::NotCurrent { path, what }
}

/// Reads the database, or what changed in it since `base`.
fn load(from: &Connection, home: &Home, body: &RootBody, base: Option<&Cache>) -> Result<Cache, StoreError> {
    let path = home.database();
    let damaged = |what: String| StoreError::Damaged { path: path.clone(), what };
    let number = |name| -> Result<u64, StoreError> {
        rows::meta(name, from)?.ok_or_else(|| damaged(format!("it has no {name}")))
    };
    let (epoch, revision) = (number("epoch")?, number("revision")?);
    let domain = home.domain_keys(body, epoch).ok_or_else(|| StoreError::EpochGone { path: path.clone(), epoch })?;
    let base = base.filter(|base| base.domain.epoch == epoch && base.revision < revision);
    let mut cache = match base {
        None => Cache { domain, revision, revisions: HashMap::new(), sum: Sum::default(), snapshot: Arc::default() },
        Some(base) => Cache {
            domain,
            revision,
            revisions: base.revisions.clone(),
            sum: base.sum,
            snapshot: base.snapshot.clone(),
        },
    };
    let snapshot = Arc::make_mut(&mut cache.snapshot);
    for table in Table::ALL.into_iter().rev() {
        let present: HashSet<String> = rows::revisions(table, from)?.into_iter().map(|(id, _)| id).collect();
        let gone: Vec<String> = cache
            .revisions
            .keys()
            .filter(|(of, id)| *of == table && !present.contains(id))
            .map(|(_, id)| id.clone())
            .collect();
        for id in gone {
            match table {
                Table::Keys => drop(snapshot.keys.remove(&*id)),
                Table::Materials => snapshot.remove_material(&id).map_err(damaged)?,
                Table::WrappingKeys => snapshot.remove_wrapping_key(&id),
                Table::Aliases => drop(snapshot.aliases.remove(&*id)),
                Table::Volumes => drop(snapshot.volumes.remove(&*id)),
            }
            let revision = cache.revisions.remove(&(table, id.clone())).expect("listed above");
            cache.sum.remove(table, &id, revision, &cache.domain);
        }
    }
    for table in Table::ALL {
        for row in rows::read(table, base.map(|base| base.revision), &cache.domain, from)?.map_err(damaged)? {
            insert(snapshot, table, &row, &cache.domain).map_err(damaged)?;
            if let Some(old) = cache.revisions.insert((table, row.id.clone()), row.revision) {
                cache.sum.remove(table, &row.id, old, &cache.domain);
            }
            cache.sum.add(table, &row.id, row.revision, &cache.domain);
        }
    }
    Ok(cache)
}

fn insert(to: &mut Snapshot, table: Table, row: &Row, domain: &DomainKeys) -> Result<(), String> {
    fn parse<T: serde::de::DeserializeOwned>(table: Table, row: &Row) -> Result<T, String> {
        serde_json::from_str(&row.record)
            .map_err(|error| format!("row '{}' of table {} cannot be read: {error}", row.id, table.name()))
    }
    match table {
        Table::Keys => to.put_key(&row.id, parse(table, row)?)?,
        Table::Aliases => drop(to.aliases.insert(row.id.as_str().into(), Arc::new(parse(table, row)?))),
        Table::WrappingKeys => {
            let plain =
                row.unseal(table, domain).ok_or_else(|| format!("the wrapping key '{}' does not open", row.id))?;
            let key = WrappingKey { record: parse(table, row)?, private: SecretBytes::from(&plain[..]) };
            to.put_wrapping_key(&row.id, Arc::new(key));
        }
        Table::Volumes => drop(to.volumes.insert(row.id.as_str().into(), Arc::new(parse(table, row)?))),
        Table::Materials => {
            let record: MaterialRecord = parse(table, row)?;
            let unusable = || format!("the material '{}' does not open", row.id);
            let secret = match &row.sealed {
                Some(_) => Some(SecretBytes::from(&row.unseal(table, domain).ok_or_else(unusable)?[..])),
                None if record.import.is_some() => None,
                None => return Err(unusable()),
            };
            let material = Material::new(record, secret);
            let material = material.ok_or_else(|| format!("the material '{}' has no id", row.id))?;
            let key_row = row.parent.as_deref().ok_or_else(unusable)?;
            to.put_material(key_row, Arc::new(material))?;
        }
    }
    Ok(())
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}

/// Why the clock record could not be read.
pub enum ClockFault {
    Sqlite(rusqlite::Error),
    Forged,
}

impl ClockFault {
    fn at(self, path: PathBuf) -> StoreError {
        match self {
            Self::Sqlite(error) => error.into(),
            Self::Forged => StoreError::Damaged { path, what: "its clock record has a wrong MAC".into() },
        }
    }
}

fn clock_mac(record: &str, domain: &DomainKeys) -> [u8; 32] {
    seal::mac(&domain.row, &[b"kmsfs clock v1", record.as_bytes()])
}

pub fn read_clock(from: &Connection, domain: &DomainKeys) -> Result<ClockRecord, ClockFault> {
    let row = from.query_row("SELECT record, mac FROM clock", [], |row| Ok((row.get(0)?, row.get(1)?)));
    let (record, mac): (String, Vec<u8>) = row.map_err(ClockFault::Sqlite)?;
    if !seal::same(&mac, &clock_mac(&record, domain)) {
        return Err(ClockFault::Forged);
    }
    serde_json::from_str(&record).map_err(|_| ClockFault::Forged)
}

pub fn write_clock(to: &Connection, clock: &ClockRecord, domain: &DomainKeys) -> rusqlite::Result<()> {
    let record = serde_json::to_string(clock).expect("plain data serialises");
    let mac = clock_mac(&record, domain);
    to.prepare_cached(
        "INSERT INTO clock(one, record, mac) VALUES (1, ?1, ?2) ON CONFLICT(one) DO UPDATE SET record = ?1, mac = ?2",
    )?
    .execute(rusqlite::params![record, &mac[..]])?;
    Ok(())
}

/// Everybody who changes rows holds the home's lock; the type says so.
pub type Held<'a> = &'a HomeLock;
