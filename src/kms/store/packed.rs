//! Keys as their rows hold them, until somebody asks for one.
//!
//! A home may have very many keys, of which a process uses few. Opening it proves every row and looks at what the indexes need of
//! it; the rest, parsing it and opening its secrets, waits for the call that names the key. A secret that nobody uses does not leave
//! its seal.

use std::collections::HashMap;
use std::num::NonZeroU32;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::records::{KeyEntry, Rotation};
use super::rows::{Prover, Row, Table};
use super::snapshot::{Snapshot, does_not_open, insert, no_such_key, parse, read_material};
use crate::kms::blob::KeyName;
use crate::kms::custody::DomainKeys;
use crate::kms::model::{KeyManager, KeySpec, KeyState, KeyUsage, Origin, opt_nanos};
use crate::sync::Arc;
use crate::types::Timestamp;

/// What is looked at of each key when it is read.
#[derive(Deserialize)]
pub struct KeyOutline<'r> {
    pub region: &'r str,
    pub account: &'r str,
    pub key_id: &'r str,
    pub manager: KeyManager,
    usage: KeyUsage,
    spec: KeySpec,
    origin: Origin,
    state: KeyState,
    rotation: Rotation,
    multi_region: Option<IgnoredAny>,
    key_store: Option<IgnoredAny>,
    #[serde(with = "opt_nanos")]
    destroyed: Option<Timestamp>,
}

impl KeyOutline<'_> {
    /// Whether the rest can wait: all but the few that other keys, key stores or the time ask about. Words that this program does
    /// not know are told at once.
    fn can_wait(&self) -> bool {
        self.origin == Origin::AwsKms
            && self.spec.allows(self.usage)
            && matches!(self.state, KeyState::Enabled | KeyState::Disabled)
            && (self.multi_region.is_none() && self.key_store.is_none() && self.destroyed.is_none())
    }

    /// As [`KeyEntry::rotation_due`], of a key that can wait.
    pub fn rotation_due(&self) -> Option<Timestamp> {
        self.rotation.next.filter(|_| self.state == KeyState::Enabled && self.rotation.enabled)
    }
}

/// What is looked at of each piece of material.
#[derive(Deserialize)]
struct MaterialOutline<'r> {
    material_id: &'r str,
    import: Option<IgnoredAny>,
    token: Option<IgnoredAny>,
}

/// A row among the others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Place(NonZeroU32);

impl Place {
    /// That of no row.
    pub const NOWHERE: Self = Self(NonZeroU32::MAX);
}

/// Where a row stands in `PackedKeys::bytes`: its id, its record, what is sealed.
struct Packed {
    start: usize,
    id: u32,
    record: u32,
    sealed: u32,
    /// Material of the same key.
    next: Option<Place>,
}

/// The rows of keys and of their material, as of one epoch.
pub struct PackedKeys {
    domain: Arc<DomainKeys>,
    bytes: Vec<u8>,
    rows: Vec<Packed>,
}

impl PackedKeys {
    fn new(domain: Arc<DomainKeys>) -> Self {
        Self { domain, bytes: Vec::new(), rows: Vec::new() }
    }

    fn push(&mut self, row: &Row<'_>, next: Option<Place>) -> Result<Place, String> {
        let len = |part: &[u8]| u32::try_from(part.len()).map_err(|_| format!("row '{}' is too long", row.id));
        let sealed = row.sealed.as_deref().unwrap_or(&[]);
        let (id, record) = (row.id.as_bytes(), row.record.as_bytes());
        let start = self.bytes.len();
        self.rows.push(Packed { start, id: len(id)?, record: len(record)?, sealed: len(sealed)?, next });
        [id, record, sealed].into_iter().for_each(|part| self.bytes.extend_from_slice(part));
        let place = u32::try_from(self.rows.len()).ok().and_then(NonZeroU32::new).map(Place);
        place.filter(|place| *place != Place::NOWHERE).ok_or_else(|| "there are too many rows".to_owned())
    }

    fn packed(&self, Place(number): Place) -> &Packed {
        &self.rows[number.get() as usize - 1]
    }

    fn text(&self, from: usize, len: u32) -> &str {
        std::str::from_utf8(&self.bytes[from..][..len as usize]).expect("it was text when it came here")
    }

    /// The row at `place`, without what only its proof needed.
    fn row(&self, place: Place) -> Row<'_> {
        let packed = self.packed(place);
        let record = packed.start + packed.id as usize;
        let sealed = record + packed.record as usize;
        let sealed = &self.bytes[sealed..][..packed.sealed as usize];
        Row {
            id: self.row_id(place).into(),
            parent: None,
            revision: 0,
            record: self.text(record, packed.record).into(),
            sealed: (!sealed.is_empty()).then(|| sealed.into()),
        }
    }

    /// Row id of the key at `place`.
    pub fn row_id(&self, place: Place) -> &str {
        let packed = self.packed(place);
        self.text(packed.start, packed.id)
    }

    /// Whether the key at `place` has this id; it is no multi-Region key.
    pub fn is(&self, place: Place, name: &KeyName) -> bool {
        let key_id = self.row_id(place).split_once('/').map_or("", |(_, key_id)| key_id);
        KeyName::parse(key_id).as_ref() == Some(name)
    }

    /// The key at `place` with its material.
    pub fn entry(&self, place: Place) -> Result<Arc<KeyEntry>, String> {
        let prover = Prover::new(&self.domain);
        let (row, mut materials) = (self.row(place), Vec::new());
        let mut next = self.packed(place).next;
        while let Some(place) = next {
            insert(&mut materials, Arc::new(read_material(&self.row(place), &prover)?));
            next = self.packed(place).next;
        }
        Snapshot::entry(&row.id, parse(Table::Keys, &row)?, materials).map(Arc::new)
    }
}

/// The material of a key that is still to come.
struct Unclaimed {
    first: Place,
    can_wait: bool,
}

/// Packs rows while they are read: material before the keys.
pub struct Packing {
    pub packed: PackedKeys,
    unclaimed: HashMap<Box<str>, Unclaimed>,
}

impl Packing {
    pub fn new(domain: Arc<DomainKeys>) -> Self {
        Self { packed: PackedKeys::new(domain), unclaimed: HashMap::new() }
    }

    pub fn add_material(&mut self, row: &Row<'_>) -> Result<(), String> {
        let outline: MaterialOutline<'_> = parse(Table::Materials, row)?;
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if outline.material_id.len() != 64 || !outline.material_id.bytes().all(is_hex) {
            return Err(format!("the material '{}' has no id", row.id));
        }
        let can_wait = outline.import.is_none() && outline.token.is_none();
        let key_row = row.parent.as_deref().ok_or_else(|| does_not_open(Table::Materials, row))?;
        if can_wait && row.sealed.is_none() {
            return Err(does_not_open(Table::Materials, row));
        }
        match self.unclaimed.get_mut(key_row) {
            Some(others) => {
                others.first = self.packed.push(row, Some(others.first))?;
                others.can_wait &= can_wait;
            }
            None => {
                let first = self.packed.push(row, None)?;
                self.unclaimed.insert(key_row.into(), Unclaimed { first, can_wait });
            }
        }
        Ok(())
    }

    /// Takes in a key; answers its place, and whether the rest of it can wait.
    pub fn add_key(&mut self, row: &Row<'_>, outline: &KeyOutline<'_>) -> Result<(Place, bool), String> {
        let claimed = self.unclaimed.remove(&*row.id);
        let can_wait = outline.can_wait() && claimed.as_ref().is_none_or(|claimed| claimed.can_wait);
        Ok((self.packed.push(row, claimed.map(|claimed| claimed.first))?, can_wait))
    }

    /// Refuses material without a key.
    pub fn finish(self) -> Result<PackedKeys, String> {
        let Self { mut packed, unclaimed } = self;
        if let Some(key_row) = unclaimed.into_keys().next() {
            return Err(no_such_key(&key_row));
        }
        packed.bytes.shrink_to_fit();
        packed.rows.shrink_to_fit();
        Ok(packed)
    }
}
