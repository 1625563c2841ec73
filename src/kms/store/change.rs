//! One change of the store: a transaction over rows, the root file and the audit log's outbox.
//!
//! Order: the root file vouches for the old and the new state; the database commits; the root file vouches for the
//! new state only. A crash between any two steps leaves a state that the root file vouches for. The same protocol
//! carries a new epoch of the domain key (KMS.md section 11): both domain keys stand in the root file until the
//! database is durable, then the old one is gone.

use std::collections::BTreeMap;

use rusqlite::{TransactionBehavior, params};

use super::records::*;
use super::rows::{self, Row, Sum, Table};
use super::state::{self, Held, Inner, Snapshot};
use super::{StoreError, schema};
use crate::crypto::secret::{SecretBytes, SecretKey};
use crate::env::Entropy;
use crate::kms::KmsError;
use crate::kms::audit::{self, Rendered};
use crate::kms::custody::{DomainKeys, Home, RootBody};
use crate::kms::seal;
use crate::sync::Arc;
use crate::types::Timestamp;

enum Edit {
    Put { parent: Option<String>, record: String, secret: Option<Sealable> },
    Delete,
}

/// What is sealed beside a record.
enum Sealable {
    Material(Arc<Material>),
    WrappingKey(Arc<WrappingKey>),
}

impl Sealable {
    fn secret(&self) -> Option<&[u8]> {
        match self {
            Self::Material(material) => material.secret().map(SecretBytes::expose),
            Self::WrappingKey(key) => Some(key.private.expose()),
        }
    }
}

/// Edits of a snapshot that are committed together.
pub struct Change {
    snapshot: Arc<Snapshot>,
    edits: BTreeMap<(Table, String), Edit>,
    events: Vec<Rendered>,
    new_epoch: bool,
}

fn json(record: &impl serde::Serialize) -> String {
    serde_json::to_string(record).expect("plain data serialises")
}

fn internal(what: String) -> KmsError {
    KmsError::Internal(what)
}

impl Change {
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot, edits: BTreeMap::new(), events: Vec::new(), new_epoch: false }
    }

    /// The state with the edits so far.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub fn put_key(&mut self, record: KeyRecord) -> Result<Arc<KeyEntry>, KmsError> {
        let id = key_row_id(&record.region, &record.key_id);
        let put = Edit::Put { parent: None, record: json(&record), secret: None };
        Arc::make_mut(&mut self.snapshot).put_key(&id, record).map_err(internal)?;
        let entry = self.snapshot.keys[&*id].clone();
        self.edits.insert((Table::Keys, id), put);
        Ok(entry)
    }

    pub fn put_material(&mut self, key_row: &str, material: Material) -> Result<(), KmsError> {
        let (id, material) = (material_row_id(key_row, &material.record.material_id), Arc::new(material));
        let (parent, record) = (Some(key_row.to_owned()), json(&material.record));
        let secret = Some(Sealable::Material(material.clone()));
        self.edits.insert((Table::Materials, id), Edit::Put { parent, record, secret });
        Arc::make_mut(&mut self.snapshot).put_material(key_row, material).map_err(internal)
    }

    pub fn delete_material(&mut self, key_row: &str, material_id: &str) -> Result<(), KmsError> {
        let id = material_row_id(key_row, material_id);
        Arc::make_mut(&mut self.snapshot).remove_material(&id).map_err(internal)?;
        self.edits.insert((Table::Materials, id), Edit::Delete);
        Ok(())
    }

    pub fn put_wrapping_key(&mut self, key_row: &str, token_id: &str, key: WrappingKey) {
        let (id, key) = (wrapping_key_row_id(key_row, token_id), Arc::new(key));
        let (parent, record) = (Some(key_row.to_owned()), json(&key.record));
        let secret = Some(Sealable::WrappingKey(key.clone()));
        Arc::make_mut(&mut self.snapshot).put_wrapping_key(&id, key);
        self.edits.insert((Table::WrappingKeys, id), Edit::Put { parent, record, secret });
    }

    pub fn delete_wrapping_key(&mut self, row_id: &str) {
        Arc::make_mut(&mut self.snapshot).remove_wrapping_key(row_id);
        self.edits.insert((Table::WrappingKeys, row_id.to_owned()), Edit::Delete);
    }

    pub fn put_alias(&mut self, record: AliasRecord) {
        let id = alias_row_id(&record.region, &record.account, &record.name);
        let parent = Some(key_row_id(&record.region, &record.key_id));
        self.edits.insert((Table::Aliases, id.clone()), Edit::Put { parent, record: json(&record), secret: None });
        Arc::make_mut(&mut self.snapshot).aliases.insert(id.into(), Arc::new(record));
    }

    pub fn delete_alias(&mut self, row_id: &str) {
        Arc::make_mut(&mut self.snapshot).aliases.remove(row_id);
        self.edits.insert((Table::Aliases, row_id.to_owned()), Edit::Delete);
    }

    pub fn put_volume(&mut self, id: &str, row: VolumeRow) {
        self.edits
            .insert((Table::Volumes, id.to_owned()), Edit::Put { parent: None, record: json(&row), secret: None });
        Arc::make_mut(&mut self.snapshot).volumes.insert(id.into(), Arc::new(row));
    }

    /// Records an event with the change: durable exactly if the change is.
    pub fn record(&mut self, event: Rendered) {
        self.events.push(event);
    }

    /// Commits under a new epoch of the domain key: older copies of the database lose everything this change deletes.
    pub fn new_epoch(&mut self) {
        self.new_epoch = true;
    }

    pub fn commit(
        self,
        inner: &mut Inner,
        home: &Home,
        held: Held<'_>,
        entropy: &dyn Entropy,
    ) -> Result<(), StoreError> {
        let Inner { connection, cache } = inner;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for event in &self.events {
            tx.prepare_cached("INSERT INTO audit_outbox(event_id, head, tail) VALUES (?1, ?2, ?3)")?
                .execute(params![event.event_id, event.head, event.tail])?;
        }
        if self.edits.is_empty() {
            return Ok(tx.commit()?);
        }
        let revision = cache.revision + 1;
        let mut sum = cache.sum;
        // Parents are written before children, and deleted after them.
        for ((table, id), edit) in &self.edits {
            if let Some(old) = cache.revisions.get(&(*table, id.clone())) {
                sum.remove(*table, id, *old, &cache.domain);
            }
            if let Edit::Put { parent, record, secret } = edit {
                let (parent, record) = (parent.clone(), record.clone());
                let mut row = Row { id: id.clone(), parent, revision, record, sealed: None };
                if let Some(secret) = secret.as_ref().and_then(Sealable::secret) {
                    row.seal(*table, secret, &cache.domain, entropy);
                }
                row.write(*table, &cache.domain, &tx)?;
                sum.add(*table, id, revision, &cache.domain);
            }
        }
        for ((table, id), _) in self.edits.iter().rev().filter(|(_, edit)| matches!(edit, Edit::Delete)) {
            rows::delete(*table, id, &tx)?;
        }
        rows::set_meta("revision", revision, &tx)?;

        let mut body = home.read_root()?;
        let before = body.states.clone();
        let domain = if self.new_epoch {
            let next = body.domains.iter().map(|domain| domain.epoch).max().unwrap_or(0) + 1;
            home.push_domain(&mut body, next, entropy);
            let domain = home.domain_keys(&body, next).expect("made a line above");
            sum = rewrap(&tx, home, &cache.domain, &domain, entropy)?;
            rows::set_meta("epoch", next, &tx)?;
            Some(domain)
        } else {
            None
        };
        let state = state::state_record(&sum, revision, domain.as_ref().unwrap_or(&cache.domain));
        body.states.push(state.clone());
        home.write_root(held, &body)?;
        if let Err(error) = tx.commit() {
            Home::settle(&mut body, before);
            home.write_root(held, &body)?;
            return Err(error.into());
        }
        cache.revision = revision;
        cache.sum = sum;
        cache.snapshot = self.snapshot;
        for ((table, id), edit) in self.edits {
            match edit {
                Edit::Put { .. } => drop(cache.revisions.insert((table, id), revision)),
                Edit::Delete => drop(cache.revisions.remove(&(table, id))),
            }
        }
        let fresh_epoch = domain.is_some();
        if let Some(domain) = domain {
            cache.domain = domain;
        }
        Home::settle(&mut body, vec![state]);
        // The change is done and both states are vouched for; the next change or opening settles it too.
        if let Err(error) = home.write_root(held, &body) {
            tracing::warn!(%error, "the root file could not be settled after a change of the key manager");
        }
        if fresh_epoch {
            let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
            if busy != 0 {
                tracing::warn!("the write-ahead log still holds pages of the old epoch: another process is reading");
            }
        }
        Ok(())
    }
}

/// Seals and authenticates every row anew under `to`; the digest's sum under `to`.
fn rewrap(
    tx: &rusqlite::Connection,
    home: &Home,
    from: &DomainKeys,
    to: &DomainKeys,
    entropy: &dyn Entropy,
) -> Result<Sum, StoreError> {
    let damaged = |what: String| StoreError::Damaged { path: home.database(), what };
    let mut sum = Sum::default();
    for table in Table::ALL {
        for mut row in rows::read(table, None, from, tx)?.map_err(damaged)? {
            if row.sealed.is_some() {
                let plain = row.unseal(table, from);
                let plain = plain.ok_or_else(|| damaged(format!("the secret of row '{}' does not open", row.id)))?;
                row.seal(table, &plain, to, entropy);
            }
            row.write(table, to, tx)?;
            sum.add(table, &row.id, row.revision, to);
        }
    }
    let secrets: Vec<(String, Vec<u8>)> = tx
        .prepare("SELECT id, sealed FROM secrets")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (id, sealed) in secrets {
        let plain = seal::open(&from.seal, &rows::column_aad("secrets", &id, from.epoch), &sealed);
        let plain = plain.ok_or_else(|| damaged(format!("the internal key '{id}' does not open")))?;
        write_secret(tx, &id, &plain, to, entropy)?;
    }
    let clock = state::read_clock(tx, from).map_err(|_| damaged("its clock record cannot be read".into()))?;
    state::write_clock(tx, &clock, to)?;
    Ok(sum)
}

fn write_secret(
    to: &rusqlite::Connection,
    id: &str,
    plain: &[u8],
    keys: &DomainKeys,
    entropy: &dyn Entropy,
) -> rusqlite::Result<()> {
    let sealed = seal::seal(&keys.seal, &rows::column_aad("secrets", id, keys.epoch), plain, entropy);
    to.prepare_cached("INSERT INTO secrets(id, sealed) VALUES (?1, ?2) ON CONFLICT(id) DO UPDATE SET sealed = ?2")?
        .execute(params![id, sealed])?;
    Ok(())
}

/// Creates the database of a new home, and enters its first state into `body`.
pub fn create(home: &Home, body: &mut RootBody, now: Timestamp, entropy: &dyn Entropy) -> Result<(), StoreError> {
    let epoch = body.domains.first().map_or(0, |domain| domain.epoch);
    let keys = home.domain_keys(body, epoch).expect("a new home has a domain key");
    let mut connection = schema::create(&home.database())?;
    let tx = connection.transaction()?;
    rows::set_meta("epoch", epoch, &tx)?;
    rows::set_meta("revision", 0, &tx)?;
    let audit_key = SecretKey::<32>::random(entropy);
    write_secret(&tx, "audit", audit_key.expose(), &keys, entropy)?;
    write_secret(&tx, "marker", SecretKey::<32>::random(entropy).expose(), &keys, entropy)?;
    state::write_clock(&tx, &ClockRecord { highest: now, last: now, jumped: None }, &keys)?;
    audit::write_first_head(&tx, &audit_key)?;
    tx.commit()?;
    body.states = vec![state::state_record(&Sum::default(), 0, &keys)];
    Ok(())
}
