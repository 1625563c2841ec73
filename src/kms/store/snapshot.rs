//! What operations read: all rows as of one revision, in persistent maps. A change copies the paths to what it touches,
//! so its cost does not depend on the number of rows.

use std::ops::Bound::{self, Excluded, Included, Unbounded};

use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::identities::*;
use super::key_index::KeyIndex;
use super::key_stores::*;
use super::packed::{KeyOutline, Packing};
use super::records::*;
use super::rows::{Prover, Row, Table};
use crate::crypto::secret::SecretBytes;
use crate::kms::blob::KeyName;
use crate::kms::model::KeyManager;
use crate::sync::{Arc, OnceLock};
use crate::types::{AccountId, KeyArn, Region, Timestamp};

/// Rows in the order of their ids.
pub type Rows<R> = RedBlackTreeMapSync<Arc<str>, Arc<R>>;

/// The rows whose ids begin with `prefix`, behind the id `after`.
pub fn below<'r, R>(
    rows: &'r Rows<R>,
    prefix: &str,
    after: Option<&str>,
) -> impl Iterator<Item = (&'r Arc<str>, &'r Arc<R>)> + use<'r, R> {
    let prefix: Arc<str> = prefix.into();
    let rows = rows.range::<Arc<str>, _>((behind(&prefix, after), Unbounded));
    rows.take_while(move |(id, _)| id.starts_with(&*prefix))
}

/// Where the ids begin that begin with `prefix`, behind the id `after`.
fn behind(prefix: &Arc<str>, after: Option<&str>) -> Bound<Arc<str>> {
    let after = after.filter(|after| **after > **prefix);
    after.map_or_else(|| Included(prefix.clone()), |after| Excluded(after.into()))
}

/// The content of the rows of one table. Keys and their material are no such records: they form a [`KeyEntry`].
pub trait Record: Serialize + DeserializeOwned {
    /// Where they are kept.
    const TABLE: Table;

    /// Their place in a snapshot.
    fn rows(snapshot: &mut Snapshot) -> &mut Rows<Self>;

    /// Id of the row of `TABLE.parent()` that this one belongs to.
    fn parent(&self, _id: &str) -> Option<String> {
        None
    }

    /// What is sealed beside the record.
    fn secret(&self) -> Option<&[u8]> {
        None
    }

    /// Takes over the secret when the row is read; false if it is none of this record's.
    fn set_secret(&mut self, _secret: &[u8]) -> bool {
        false
    }

    /// Keeps indexes: the row `id` was `old` (absent: it is new) and is `new` (absent: it is deleted).
    fn index(_snapshot: &mut Snapshot, _id: &Arc<str>, _old: Option<&Self>, _new: Option<&Self>) {}
}

/// What time brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DueKind {
    /// Automatic rotation of a key.
    Rotation,
    /// The end of a key's waiting period.
    Deletion,
    /// The end of imported material of a key, by the latest time ever seen.
    Expiry,
    /// The same, by the clock as it stands.
    ExpiryByClock,
    /// The end of an import token, and of its wrapping key.
    TokenExpiry,
}

impl DueKind {
    const COUNT: usize = 5;
    const OF_KEYS: [Self; 4] = [Self::Rotation, Self::Deletion, Self::Expiry, Self::ExpiryByClock];

    fn of(self, key: &KeyEntry) -> Option<Timestamp> {
        match self {
            Self::Rotation => key.rotation_due(),
            Self::Deletion => key.deletion_due(),
            Self::Expiry => key.expiry_due(false),
            Self::ExpiryByClock => key.expiry_due(true),
            Self::TokenExpiry => None,
        }
    }
}

/// All rows as of one revision. Cheap to clone.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// By a hash: each use of a key looks it up, which must not depend on the number of keys.
    keys: KeyIndex,
    /// Their row ids in order, once somebody has asked for that.
    keys_in_order: OnceLock<RedBlackTreeSetSync<Arc<str>>>,
    pub aliases: Rows<AliasRecord>,
    pub volumes: Rows<VolumeRow>,
    pub wrapping_keys: Rows<WrappingKey>,
    pub key_stores: Rows<KeyStoreRecord>,
    pub clusters: Rows<ClusterRecord>,
    pub grants: Rows<GrantRecord>,
    pub principals: Rows<PrincipalRecord>,
    pub access_keys: Rows<AccessKeyRecord>,
    /// What grants are found by, with their row ids.
    pub(super) grants_by: RedBlackTreeSetSync<(Arc<str>, Arc<str>)>,
    /// Per kind: due times with row ids.
    due: [RedBlackTreeSetSync<(Timestamp, Arc<str>)>; DueKind::COUNT],
    /// Row ids of keys with the row ids of their aliases.
    aliases_of: RedBlackTreeSetSync<(Arc<str>, Arc<str>)>,
    /// Region, account, and the number of customer managed keys there, those pending deletion included.
    customer_keys: Vec<(String, String, usize)>,
}

impl Snapshot {
    /// The key with this id in the Region.
    pub fn find_key(&self, region: &str, name: &KeyName) -> Option<&Arc<KeyEntry>> {
        self.keys.get(region, name)
    }

    /// The key of this row id.
    pub fn key(&self, row_id: &str) -> Option<&Arc<KeyEntry>> {
        let (region, key_id) = row_id.split_once('/')?;
        self.find_key(region, &KeyName::parse(key_id)?)
    }

    /// The key of this row id, which is there.
    ///
    /// # Panics
    /// If it is not.
    pub fn present_key(&self, row_id: &str) -> Arc<KeyEntry> {
        self.key(row_id).expect("a key that was found a moment ago").clone()
    }

    /// The keys whose row ids begin with `prefix`, behind the id `after`, in order.
    pub fn keys_below<'s>(
        &'s self,
        prefix: &str,
        after: Option<&str>,
    ) -> impl Iterator<Item = (&'s Arc<str>, &'s Arc<KeyEntry>)> + use<'s> {
        let prefix: Arc<str> = prefix.into();
        let order = self.keys_in_order.get_or_init(|| {
            let mut ids: Vec<Arc<str>> = self.keys.row_ids().collect();
            ids.sort_unstable();
            ids.into_iter().collect()
        });
        let ids = order.range::<Arc<str>, _>((behind(&prefix, after), Unbounded));
        let ids = ids.take_while(move |id| id.starts_with(&*prefix));
        ids.filter_map(|id| Some((id, self.key(id)?)))
    }

    /// All keys, in no order. `Err` says what is wrong with one.
    pub fn all_keys(&self) -> impl Iterator<Item = Result<&Arc<KeyEntry>, String>> {
        self.keys.all()
    }

    /// The keys in custom key stores, in no order.
    pub fn keys_in_stores(&self) -> impl Iterator<Item = &Arc<KeyEntry>> {
        // None of them waits to be read (`KeyOutline::can_wait`).
        self.keys.read().filter(|key| key.record.key_store.is_some())
    }

    /// How many keys have been asked for.
    #[cfg(test)]
    pub fn keys_read(&self) -> usize {
        self.keys.read().count()
    }

    /// Reads what nobody has asked for yet: it is sealed by the domain key of an epoch that ends.
    pub fn unpack(&mut self) -> Result<(), String> {
        self.keys.unpack()
    }

    /// When the first is due.
    pub fn first_due(&self, kind: DueKind) -> Option<Timestamp> {
        self.due[kind as usize].first().map(|(at, _)| *at)
    }

    /// Row ids of what is due at `now`.
    pub fn due(&self, kind: DueKind, now: Timestamp) -> impl Iterator<Item = &Arc<str>> {
        self.due[kind as usize].iter().take_while(move |(at, _)| *at <= now).map(|(_, id)| id)
    }

    /// The keys that are due at `now`.
    pub fn due_keys(&self, kind: DueKind, now: Timestamp) -> impl Iterator<Item = &Arc<KeyEntry>> {
        self.due(kind, now).filter_map(|id| self.key(id))
    }

    fn set_due(&mut self, kind: DueKind, id: &Arc<str>, old: Option<Timestamp>, new: Option<Timestamp>) {
        if old != new {
            let due = &mut self.due[kind as usize];
            old.map(|at| due.remove_mut(&(at, id.clone())));
            new.into_iter().for_each(|at| due.insert_mut((at, id.clone())));
        }
    }

    /// Customer managed keys of the account in the Region.
    pub fn count_customer_keys(&self, region: &str, account: &str) -> usize {
        let mut all = self.customer_keys.iter();
        all.find(|(of, by, _)| of == region && by == account).map_or(0, |(_, _, count)| *count)
    }

    /// Row ids of the aliases of a key.
    pub fn aliases_of(&self, key_row: &str) -> impl Iterator<Item = &Arc<str>> {
        let first: (Arc<str>, Arc<str>) = (key_row.into(), "".into());
        let key_row = first.0.clone();
        let all = self.aliases_of.range((Included(first), Unbounded));
        all.take_while(move |(key, _)| *key == key_row).map(|(_, alias)| alias)
    }

    /// Inserts or replaces a key, which keeps its material.
    pub fn put_key(&mut self, row_id: &str, record: KeyRecord) -> Result<(), String> {
        let materials = self.key(row_id).map(|entry| entry.materials.clone()).unwrap_or_default();
        self.set_key(row_id, record, materials)
    }

    /// Takes over a key when everything is read, material first; most of it is left to whoever asks for it.
    pub fn read_key(&mut self, row: &Row<'_>, packing: &mut Packing) -> Result<(), String> {
        let outline: KeyOutline<'_> = parse(Table::Keys, row)?;
        let (place, can_wait) = packing.add_key(row, &outline)?;
        if !can_wait {
            self.replace_key((&*row.id).into(), Some(packing.packed.entry(place)?));
            return Ok(());
        }
        let name = KeyName::parse(outline.key_id).ok_or_else(|| format!("key '{}' has no key id", row.id))?;
        if *row.id != key_row_id(outline.region, outline.key_id) {
            return Err(format!("row '{}' of table keys has another key's record", row.id));
        }
        if outline.manager == KeyManager::Customer {
            self.count_customer_key(outline.region, outline.account, true);
        }
        if let Some(at) = outline.rotation_due() {
            self.set_due(DueKind::Rotation, &(&*row.id).into(), None, Some(at));
        }
        self.keys.insert_packed(outline.region, &name, place);
        Ok(())
    }

    /// Everything was read.
    pub fn keep(&mut self, packing: Packing) -> Result<(), String> {
        self.keys.keep(packing.finish()?);
        Ok(())
    }

    fn set_key(&mut self, row_id: &str, record: KeyRecord, materials: Vec<Arc<Material>>) -> Result<(), String> {
        let key = Self::entry(row_id, record, materials)?;
        self.replace_key(row_id.into(), Some(Arc::new(key)));
        Ok(())
    }

    pub(super) fn entry(row_id: &str, record: KeyRecord, materials: Vec<Arc<Material>>) -> Result<KeyEntry, String> {
        let region: Region = record.region.parse().map_err(|_| format!("key '{row_id}' has no Region"))?;
        let account: AccountId = record.account.parse().map_err(|_| format!("key '{row_id}' has no account"))?;
        let name = KeyName::parse(&record.key_id).ok_or_else(|| format!("key '{row_id}' has no key id"))?;
        let arn = KeyArn::new(&region, &account, &record.key_id);
        Ok(KeyEntry::new(record, (arn, account, name), materials))
    }

    pub fn put_material(&mut self, key_row: &str, material: Arc<Material>) -> Result<(), String> {
        self.with_materials(key_row, |materials| insert(materials, material))
    }

    pub fn remove_material(&mut self, row_id: &str) -> Result<(), String> {
        let (key_row, id) = row_id.rsplit_once('/').ok_or_else(|| format!("material '{row_id}' names no key"))?;
        self.with_materials(key_row, |materials| materials.retain(|old| old.record.material_id != id))
    }

    fn with_materials(&mut self, key_row: &str, edit: impl FnOnce(&mut Vec<Arc<Material>>)) -> Result<(), String> {
        let old = self.key(key_row).ok_or_else(|| no_such_key(key_row))?;
        let mut materials = old.materials.clone();
        edit(&mut materials);
        let names = (old.arn.clone(), old.account.clone(), old.name);
        let entry = KeyEntry::new(old.record.clone(), names, materials);
        self.replace_key(key_row.into(), Some(Arc::new(entry)));
        Ok(())
    }

    fn replace_key(&mut self, id: Arc<str>, new: Option<Arc<KeyEntry>>) {
        let old = self.key(&id).cloned();
        for kind in DueKind::OF_KEYS {
            let at = |key: Option<&KeyEntry>| key.and_then(|key| kind.of(key));
            self.set_due(kind, &id, at(old.as_deref()), at(new.as_deref()));
        }
        let counted = [old.as_deref(), new.as_deref()]
            .map(|key| key.is_some_and(|key| key.record.manager == KeyManager::Customer && !key.is_tombstone()));
        if counted[0] != counted[1]
            && let Some(record) = new.as_deref().or(old.as_deref()).map(|key| &key.record)
        {
            self.count_customer_key(&record.region, &record.account, counted[1]);
        }
        match new {
            Some(new) => {
                if let Some(order) = self.keys_in_order.get_mut() {
                    order.insert_mut(id);
                }
                self.keys.insert(new);
            }
            None => {
                if let Some(order) = self.keys_in_order.get_mut() {
                    order.remove_mut(&id);
                }
                if let Some(key) = old {
                    self.keys.remove(key.arn.region(), &key.name);
                }
            }
        }
    }

    /// One customer managed key more, or fewer.
    fn count_customer_key(&mut self, region: &str, account: &str, more: bool) {
        let is_here = |(of, by, _): &&mut (String, String, usize)| of == region && by == account;
        match self.customer_keys.iter_mut().find(is_here) {
            Some((_, _, count)) if more => *count += 1,
            Some((_, _, count)) => *count -= 1,
            None => self.customer_keys.push((region.to_owned(), account.to_owned(), 1)),
        }
    }

    /// Inserts or replaces a row.
    pub fn put<R: Record>(&mut self, id: &str, record: R) {
        let (id, new): (Arc<str>, _) = (id.into(), Arc::new(record));
        let rows = R::rows(self);
        let old = rows.get(&id).cloned();
        rows.insert_mut(id.clone(), new.clone());
        R::index(self, &id, old.as_deref(), Some(&new));
    }

    /// Removes a row, if it is there.
    pub fn remove<R: Record>(&mut self, id: &str) {
        let rows = R::rows(self);
        if let Some(old) = rows.get(id).cloned() {
            rows.remove_mut(id);
            R::index(self, &id.into(), Some(&old), None);
        }
    }

    /// Takes over a row as it stands in the database, or its absence. `Err` says what is wrong with it.
    pub fn apply(&mut self, table: Table, id: &str, row: Option<&Row<'_>>, prover: &Prover) -> Result<(), String> {
        match (table, row) {
            (Table::Keys, Some(row)) => self.put_key(id, parse(table, row)?),
            (Table::Keys, None) => {
                self.replace_key(id.into(), None);
                Ok(())
            }
            (Table::Materials, Some(row)) => {
                let key_row = row.parent.as_deref().ok_or_else(|| does_not_open(table, row))?;
                self.put_material(key_row, Arc::new(read_material(row, prover)?))
            }
            (Table::Materials, None) => self.remove_material(id),
            (Table::Aliases, row) => self.apply_record::<AliasRecord>(id, row, prover),
            (Table::Volumes, row) => self.apply_record::<VolumeRow>(id, row, prover),
            (Table::WrappingKeys, row) => self.apply_record::<WrappingKey>(id, row, prover),
            (Table::Grants, row) => self.apply_record::<GrantRecord>(id, row, prover),
            (Table::Principals, row) => self.apply_record::<PrincipalRecord>(id, row, prover),
            (Table::AccessKeys, row) => self.apply_record::<AccessKeyRecord>(id, row, prover),
            (Table::KeyStores, row) => self.apply_record::<KeyStoreRecord>(id, row, prover),
            (Table::Clusters, row) => self.apply_record::<ClusterRecord>(id, row, prover),
        }
    }

    fn apply_record<R: Record>(&mut self, id: &str, row: Option<&Row<'_>>, prover: &Prover) -> Result<(), String> {
        let Some(row) = row else {
            self.remove::<R>(id);
            return Ok(());
        };
        let mut record: R = parse(R::TABLE, row)?;
        if row.sealed.is_some() && !row.unseal(R::TABLE, prover).is_some_and(|secret| record.set_secret(&secret)) {
            return Err(does_not_open(R::TABLE, row));
        }
        self.put(id, record);
        Ok(())
    }
}

/// Puts `material` in its place by generation, and out the one that has its id.
pub(super) fn insert(materials: &mut Vec<Arc<Material>>, material: Arc<Material>) {
    materials.retain(|old| old.record.material_id != material.record.material_id);
    materials.push(material);
    materials.sort_by_key(|material| material.record.generation);
}

pub(super) fn no_such_key(key_row: &str) -> String {
    format!("material of a key '{key_row}' that is not there")
}

pub(super) fn parse<'r, T: Deserialize<'r>>(table: Table, row: &'r Row<'_>) -> Result<T, String> {
    serde_json::from_str(&row.record)
        .map_err(|error| format!("row '{}' of table {} cannot be read: {error}", row.id, table.name()))
}

pub(super) fn does_not_open(table: Table, row: &Row<'_>) -> String {
    format!("the secret of row '{}' of table {} does not open", row.id, table.name())
}

/// A piece of material.
pub(super) fn read_material(row: &Row<'_>, prover: &Prover) -> Result<Material, String> {
    let unusable = || does_not_open(Table::Materials, row);
    let record: MaterialRecord = parse(Table::Materials, row)?;
    let secret = match &row.sealed {
        Some(_) => Some(SecretBytes::from(&row.unseal(Table::Materials, prover).ok_or_else(unusable)?[..])),
        None if record.import.is_some() || record.token.is_some() => None,
        None => return Err(unusable()),
    };
    Material::new(record, secret).ok_or_else(|| format!("the material '{}' has no id", row.id))
}

impl Record for AliasRecord {
    const TABLE: Table = Table::Aliases;

    fn rows(snapshot: &mut Snapshot) -> &mut Rows<Self> {
        &mut snapshot.aliases
    }

    fn parent(&self, _id: &str) -> Option<String> {
        Some(key_row_id(&self.region, &self.key_id))
    }

    fn index(snapshot: &mut Snapshot, id: &Arc<str>, old: Option<&Self>, new: Option<&Self>) {
        let entry = |alias: &Self| (Arc::from(key_row_id(&alias.region, &alias.key_id)), id.clone());
        old.map(|old| snapshot.aliases_of.remove_mut(&entry(old)));
        new.into_iter().for_each(|new| snapshot.aliases_of.insert_mut(entry(new)));
    }
}

impl Record for VolumeRow {
    const TABLE: Table = Table::Volumes;

    fn rows(snapshot: &mut Snapshot) -> &mut Rows<Self> {
        &mut snapshot.volumes
    }
}

impl Record for WrappingKey {
    const TABLE: Table = Table::WrappingKeys;

    fn rows(snapshot: &mut Snapshot) -> &mut Rows<Self> {
        &mut snapshot.wrapping_keys
    }

    fn parent(&self, id: &str) -> Option<String> {
        id.rsplit_once('/').map(|(key_row, _)| key_row.to_owned())
    }

    fn secret(&self) -> Option<&[u8]> {
        Some(self.private.expose())
    }

    fn set_secret(&mut self, secret: &[u8]) -> bool {
        self.private = SecretBytes::from(secret);
        true
    }

    fn index(snapshot: &mut Snapshot, id: &Arc<str>, old: Option<&Self>, new: Option<&Self>) {
        let at = |key: Option<&Self>| key.map(|key| key.valid_to);
        snapshot.set_due(DueKind::TokenExpiry, id, at(old), at(new));
    }
}
