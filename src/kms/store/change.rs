//! One change of the store: a transaction over rows, the root file and the audit log's outbox.
//!
//! Order: the root file vouches for the old and the new state; the database commits; the root file vouches for the
//! new state only. A crash between any two steps leaves a state that the root file vouches for. The same protocol
//! carries a new epoch of the domain key (KMS.md section 11): both domain keys stand in the root file until the
//! database is durable, then the old one is gone.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rusqlite::{TransactionBehavior, params};

use super::records::*;
use super::rows::{self, Ledger, Prover, Row, Table};
use super::state::{self, Cache, Held, Inner};
use super::{Record, Snapshot, StoreError, clock, schema, whole};
use crate::crypto::secret::{SecretBytes, SecretKey};
use crate::env::Entropy;
use crate::kms::KmsError;
use crate::kms::audit::{self, Rendered};
use crate::kms::custody::{DomainKeys, Home, RootBody};
use crate::kms::{crash, seal};
use crate::sync::Arc;
use crate::sys::wal_file;
use crate::types::Timestamp;

enum Edit {
    Put { parent: Option<String>, record: String, sealed: Option<Vec<u8>> },
    Delete,
}

/// Edits of a snapshot that are committed together.
pub struct Change<'a> {
    snapshot: Arc<Snapshot>,
    domain: Arc<DomainKeys>,
    entropy: &'a dyn Entropy,
    edits: BTreeMap<(Table, String), Edit>,
    events: Vec<Rendered>,
    new_epoch: bool,
}

fn internal(what: String) -> KmsError {
    KmsError::Internal(what)
}

impl<'a> Change<'a> {
    pub(super) fn new(cache: &Cache, entropy: &'a dyn Entropy) -> Self {
        let (snapshot, domain) = (cache.snapshot.clone(), cache.domain.clone());
        Self { snapshot, domain, entropy, edits: BTreeMap::new(), events: Vec::new(), new_epoch: false }
    }

    /// The state with the edits so far.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub fn put_key(&mut self, record: KeyRecord) -> Result<Arc<KeyEntry>, KmsError> {
        let id = key_row_id(&record.region, &record.key_id);
        self.edit(Table::Keys, &id, None, &record, None);
        Arc::make_mut(&mut self.snapshot).put_key(&id, record).map_err(internal)?;
        Ok(self.snapshot.present_key(&id))
    }

    pub fn put_material(&mut self, key_row: &str, material: Material) -> Result<(), KmsError> {
        let id = material_row_id(key_row, &material.record.material_id);
        let secret = material.secret().map(SecretBytes::expose);
        self.edit(Table::Materials, &id, Some(key_row.to_owned()), &material.record, secret);
        Arc::make_mut(&mut self.snapshot).put_material(key_row, Arc::new(material)).map_err(internal)
    }

    pub fn delete_material(&mut self, key_row: &str, material_id: &str) -> Result<(), KmsError> {
        let id = material_row_id(key_row, material_id);
        Arc::make_mut(&mut self.snapshot).remove_material(&id).map_err(internal)?;
        self.edits.insert((Table::Materials, id), Edit::Delete);
        Ok(())
    }

    /// Inserts or replaces the row `id`.
    pub fn put<R: Record>(&mut self, id: &str, record: R) {
        self.edit(R::TABLE, id, record.parent(id), &record, record.secret());
        Arc::make_mut(&mut self.snapshot).put(id, record);
    }

    /// Deletes the row `id`, if it is there.
    pub fn delete<R: Record>(&mut self, id: &str) {
        Arc::make_mut(&mut self.snapshot).remove::<R>(id);
        self.edits.insert((R::TABLE, id.to_owned()), Edit::Delete);
    }

    fn edit(
        &mut self,
        table: Table,
        id: &str,
        parent: Option<String>,
        record: &impl serde::Serialize,
        secret: Option<&[u8]>,
    ) {
        let sealed = secret.map(|secret| rows::seal(table, id, secret, &self.domain, self.entropy));
        let record = serde_json::to_string(record).expect("plain data serialises");
        self.edits.insert((table, id.to_owned()), Edit::Put { parent, record, sealed });
    }

    /// Records an event with the change: durable exactly if the change is.
    pub fn record(&mut self, event: Rendered) {
        self.events.push(event);
    }

    /// Commits under a new epoch of the domain key: older copies of the database lose everything this change deletes.
    pub fn new_epoch(&mut self) {
        self.new_epoch = true;
    }

    pub(super) fn commit(
        mut self,
        inner: &mut Inner,
        home: &Home,
        held: Held<'_>,
        audit_key: &SecretKey<32>,
    ) -> Result<(), StoreError> {
        if self.edits.is_empty() && self.events.is_empty() {
            return Ok(());
        }
        if self.new_epoch {
            // What this process has not read yet it could not open any more.
            let damaged = |what| StoreError::Damaged { path: home.database(), what };
            Arc::make_mut(&mut self.snapshot).unpack().map_err(damaged)?;
        }
        let Inner { connection, cache } = inner;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let revision = cache.revision + 1;
        let (mut ledger, prover) = (cache.ledger.clone(), Prover::new(&cache.domain));
        for event in &self.events {
            ledger.records = Some(audit::wait(event, audit_key, &tx)?);
        }
        // Parents are written before children, and deleted after them.
        for ((table, id), edit) in &self.edits {
            if let Edit::Put { parent, record, sealed } = edit {
                let parent = parent.as_deref().map(Cow::from);
                let (record, sealed) = (record.as_str().into(), sealed.as_deref().map(Cow::from));
                Row { id: id.as_str().into(), parent, revision, record, sealed }.write(*table, &prover, &tx)?;
                ledger.put(*table, id, revision, &prover);
            }
        }
        for ((table, id), edit) in self.edits.iter().rev() {
            if matches!(edit, Edit::Delete) && ledger.remove(*table, id, &prover) {
                rows::delete(*table, id, revision, &tx)?;
            }
        }
        rows::set_meta("revision", revision, &tx)?;
        crash::point();

        let mut body = home.read_root()?;
        let before = body.states.clone();
        let domain = if self.new_epoch {
            let next = body.domains.iter().map(|domain| domain.epoch).max().unwrap_or(0) + 1;
            home.push_domain(&mut body, next, self.entropy);
            let domain = home.domain_keys(&body, next).expect("made a line above");
            ledger = rewrap(&tx, home, &cache.domain, &domain, self.entropy)?;
            rows::set_meta("epoch", next, &tx)?;
            Some(Arc::new(domain))
        } else {
            None
        };
        let keys = domain.as_ref().unwrap_or(&cache.domain);
        whole::write(&tx, &ledger, revision, keys)?;
        let state = state::state_record(&ledger, revision, keys);
        body.states.push(state.clone());
        home.write_root(held, &body)?;
        crash::point();
        if let Err(error) = tx.commit() {
            // Else it may still take place: both states stay vouched for.
            if wal_file::drop_failed(connection, &home.database(), &error) {
                Home::settle(&mut body, before);
                home.write_root(held, &body)?;
            }
            return Err(error.into());
        }
        crash::point();
        cache.revision = revision;
        cache.ledger = ledger;
        cache.snapshot = self.snapshot;
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

/// Seals and authenticates every row anew under `to`; the ledger under `to`.
pub fn rewrap(
    tx: &rusqlite::Connection,
    home: &Home,
    from: &DomainKeys,
    to: &DomainKeys,
    entropy: &dyn Entropy,
) -> Result<Ledger, StoreError> {
    let damaged = |what: String| StoreError::Damaged { path: home.database(), what };
    let mut ledger = Ledger::default();
    ledger.records = rows::meta(rows::RECORDS, tx)?;
    let (old, new) = (Prover::new(from), Prover::new(to));
    for table in Table::ALL {
        let mut all = Vec::new();
        rows::visit(table, None, &old, tx, |row| {
            all.push(row.into_owned());
            Ok(())
        })?
        .map_err(damaged)?;
        for mut row in all {
            if row.sealed.is_some() {
                let plain = row.unseal(table, &old);
                let plain = plain.ok_or_else(|| damaged(format!("the secret of row '{}' does not open", row.id)))?;
                row.sealed = Some(rows::seal(table, &row.id, &plain, to, entropy).into());
            }
            row.write(table, &new, tx)?;
            ledger.put(table, &row.id, row.revision, &new);
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
    let clock = clock::read(tx, from).map_err(|_| damaged("its clock record cannot be read".into()))?;
    clock::write(tx, &clock, to)?;
    Ok(ledger)
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
    rows::set_meta(rows::FORGOTTEN, 0, &tx)?;
    rows::set_meta("usage_since", now.as_unix_time(), &tx)?;
    let audit_key = SecretKey::<32>::random(entropy);
    write_secret(&tx, "audit", audit_key.expose(), &keys, entropy)?;
    write_secret(&tx, "marker", SecretKey::<32>::random(entropy).expose(), &keys, entropy)?;
    clock::write(&tx, &ClockRecord { highest: now, last: now, jumped: None }, &keys)?;
    audit::write_first_head(&tx, &audit_key)?;
    let ledger = Ledger::default();
    whole::write(&tx, &ledger, 0, &keys)?;
    tx.commit()?;
    body.states = vec![state::state_record(&ledger, 0, &keys)];
    Ok(())
}
