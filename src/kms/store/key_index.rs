//! Keys by Region and key id, for the lookup in each call.

use super::packed::{PackedKeys, Place};
use super::records::{KeyEntry, key_row_id};
use super::shelves::Shelves;
use crate::kms::blob::KeyName;
use crate::sync::{Arc, OnceLock};
use crate::sys::prefetch::prefetch;

/// A map that is cheap to clone.
#[derive(Clone, Default)]
pub struct KeyIndex {
    slots: Shelves<Slot>,
    /// Where keys are that nobody has asked for yet.
    packed: Option<Arc<PackedKeys>>,
}

/// A key, or the place of its row.
#[derive(Clone)]
struct Slot {
    entry: OnceLock<Arc<KeyEntry>>,
    /// `Place::NOWHERE` if it was never packed.
    place: Place,
}

impl Slot {
    fn is(&self, packed: Option<&PackedKeys>, region: &str, name: &KeyName) -> bool {
        match self.entry.get() {
            Some(key) => {
                // The whole of what calls need of it, while its beginning is on the way.
                key.prefetch();
                key.is(region, name)
            }
            None => packed.is_some_and(|packed| packed.is(self.place, name)),
        }
    }

    fn read(&self, packed: Option<&PackedKeys>) -> Result<&Arc<KeyEntry>, String> {
        if let Some(key) = self.entry.get() {
            return Ok(key);
        }
        let key = packed.ok_or("a key has lost its row")?.entry(self.place)?;
        Ok(self.entry.get_or_init(|| key))
    }
}

impl KeyIndex {
    fn hash(&self, region: &str, name: &KeyName) -> u64 {
        self.slots.hash(&[name.bytes(), region.as_bytes()])
    }

    pub fn get(&self, region: &str, name: &KeyName) -> Option<&Arc<KeyEntry>> {
        let packed = self.packed.as_deref();
        let slot = self.slots.find(self.hash(region, name), |slot| slot.is(packed, region, name))?;
        // Its row was proven when it came here, and looked at: no program writes one of which the rest is not as it must be.
        let read = slot.read(packed).inspect_err(|what| tracing::error!(what, "a key cannot be read"));
        let found = read.ok()?;
        // Its texts and its material are elsewhere in memory, and every call needs them soon: by then they are near.
        let arn = found.arn.as_str().as_bytes();
        [arn.first(), arn.last()].into_iter().flatten().for_each(prefetch);
        found.current().into_iter().for_each(|material| prefetch(&**material));
        Some(found)
    }

    pub fn insert(&mut self, key: Arc<KeyEntry>) {
        let (arn, name) = (key.arn.clone(), key.name);
        self.put(arn.region(), &name, Slot { entry: OnceLock::from(key), place: Place::NOWHERE });
    }

    /// Inserts the key whose row is at `place`; it is read when somebody asks for it.
    pub fn insert_packed(&mut self, region: &str, name: &KeyName, place: Place) {
        self.put(region, name, Slot { entry: OnceLock::new(), place });
    }

    /// Where the rows are of the keys that were inserted packed.
    pub fn keep(&mut self, packed: PackedKeys) {
        self.packed = Some(Arc::new(packed));
    }

    fn put(&mut self, region: &str, name: &KeyName, slot: Slot) {
        let hash = self.hash(region, name);
        self.slots.put(hash, slot, |old| old.is(self.packed.as_deref(), region, name));
    }

    pub fn remove(&mut self, region: &str, name: &KeyName) {
        let hash = self.hash(region, name);
        self.slots.remove(hash, |slot| slot.is(self.packed.as_deref(), region, name));
    }

    /// The row ids of all keys, in no order.
    pub fn row_ids(&self) -> impl Iterator<Item = Arc<str>> {
        self.slots.iter().map(|slot| match (slot.entry.get(), &self.packed) {
            (Some(key), _) => key_row_id(&key.record.region, &key.record.key_id).into(),
            (None, Some(packed)) => packed.row_id(slot.place).into(),
            (None, None) => "".into(),
        })
    }

    /// All keys, in no order.
    pub fn all(&self) -> impl Iterator<Item = Result<&Arc<KeyEntry>, String>> {
        self.slots.iter().map(|slot| slot.read(self.packed.as_deref()))
    }

    /// The keys that have been read, in no order.
    pub fn read(&self) -> impl Iterator<Item = &Arc<KeyEntry>> {
        self.slots.iter().filter_map(|slot| slot.entry.get())
    }

    /// Reads every key, and lets go of the rows.
    pub fn unpack(&mut self) -> Result<(), String> {
        let keys: Vec<Arc<KeyEntry>> = self.all().map(|key| key.cloned()).collect::<Result<_, _>>()?;
        let mut unpacked = Self::default();
        keys.into_iter().for_each(|key| unpacked.insert(key));
        *self = unpacked;
        Ok(())
    }
}
