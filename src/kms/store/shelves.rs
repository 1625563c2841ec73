//! What is looked up by a hash, among any number of others.
//!
//! What a lookup costs among many is the places in memory that it touches and no cache holds. In a tree they are a dozen or
//! two, here one, however many there are: the slot of a table with open addressing. A change copies the one of many tables
//! that it lies in, so clones share all else.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::sync::Arc;

/// So many tables: few enough that their beginnings stay near, and so many that a copy of one is small.
const WIDTH: usize = 256;
/// Slots of a table that is not empty, at least.
const FEWEST: usize = 4;

/// Items with their hashes. Cheap to clone.
#[derive(Clone)]
pub struct Shelves<T> {
    hasher: RandomState,
    tables: Arc<[Arc<Table<T>>; WIDTH]>,
}

/// Open addressing with linear probing: an item stands in the slot of its hash, or in the next one that was free.
#[derive(Clone)]
struct Table<T> {
    /// None, or a power of two, of which a quarter is free.
    slots: Vec<Option<(u64, T)>>,
    used: usize,
}

impl<T> Default for Shelves<T> {
    fn default() -> Self {
        let empty = Arc::new(Table { slots: Vec::new(), used: 0 });
        Self { hasher: RandomState::new(), tables: Arc::new(std::array::from_fn(|_| empty.clone())) }
    }
}

impl<T> Table<T> {
    /// The slot `steps` behind the one of `hash`.
    fn slot(&self, hash: u64, steps: usize) -> usize {
        ((hash as usize / WIDTH).wrapping_add(steps)) & (self.slots.len() - 1)
    }

    /// Where the item stands; if it is not there, the free slot where it belongs.
    fn place(&self, hash: u64, is: impl Fn(&T) -> bool) -> Result<usize, usize> {
        let mut steps = 0;
        loop {
            let at = self.slot(hash, steps);
            match &self.slots[at] {
                None => return Err(at),
                Some((of, item)) if *of == hash && is(item) => return Ok(at),
                Some(_) => steps += 1,
            }
        }
    }

    fn grow(&mut self) {
        let len = (2 * self.slots.len()).max(FEWEST);
        let old = std::mem::take(&mut self.slots);
        self.slots.resize_with(len, || None);
        for (hash, item) in old.into_iter().flatten() {
            let (Ok(at) | Err(at)) = self.place(hash, |_| false);
            self.slots[at] = Some((hash, item));
        }
    }

    /// Empties the slot `hole`, and moves there what stands behind it only because it was taken.
    fn take(&mut self, mut hole: usize) -> Option<T> {
        let taken = self.slots[hole].take()?;
        self.used -= 1;
        let mut at = hole;
        loop {
            at = (at + 1) & (self.slots.len() - 1);
            let Some((hash, _)) = &self.slots[at] else { return Some(taken.1) };
            let from = |place: usize| at.wrapping_sub(place) & (self.slots.len() - 1);
            if from(self.slot(*hash, 0)) >= from(hole) {
                self.slots.swap(at, hole);
                hole = at;
            }
        }
    }
}

impl<T: Clone> Shelves<T> {
    /// The hash of some parts. Nobody outside can find two of the same.
    pub fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        parts.iter().for_each(|part| hasher.write(part));
        hasher.finish()
    }

    fn table(&self, hash: u64) -> &Table<T> {
        &self.tables[hash as usize % WIDTH]
    }

    fn table_mut(&mut self, hash: u64) -> &mut Table<T> {
        Arc::make_mut(&mut Arc::make_mut(&mut self.tables)[hash as usize % WIDTH])
    }

    /// The item with this hash that `is` the one.
    pub fn find(&self, hash: u64, is: impl Fn(&T) -> bool) -> Option<&T> {
        let table = self.table(hash);
        if table.used == 0 {
            return None;
        }
        table.slots[table.place(hash, is).ok()?].as_ref().map(|(_, item)| item)
    }

    /// All items, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.tables.iter().flat_map(|table| table.slots.iter().flatten()).map(|(_, item)| item)
    }

    /// Puts in an item, in the place of the one that `is` the same; answers that one.
    pub fn put(&mut self, hash: u64, item: T, is: impl Fn(&T) -> bool) -> Option<T> {
        let table = self.table_mut(hash);
        if table.used * 4 >= table.slots.len() * 3 {
            table.grow();
        }
        let (Ok(at) | Err(at)) = table.place(hash, is);
        let old = table.slots[at].replace((hash, item));
        table.used += usize::from(old.is_none());
        old.map(|(_, old)| old)
    }

    /// Takes out the item with this hash that `is` the one.
    pub fn remove(&mut self, hash: u64, is: impl Fn(&T) -> bool) -> Option<T> {
        self.find(hash, &is)?;
        let table = self.table_mut(hash);
        let at = table.place(hash, is).ok()?;
        table.take(at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Hashes that fall into few slots, the last ones of a table among them, so that they stand far from their own.
    #[test]
    fn what_is_put_and_removed_in_any_order_is_what_a_map_has() {
        let hash = |n: u64| (n % 7).wrapping_neg().wrapping_mul(WIDTH as u64) | (n % 2);
        let (mut shelves, mut map) = (Shelves::default(), HashMap::new());
        let mut random = 1_u64;
        for round in 0..20_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let n = (random >> 33) % 60;
            let is = |(own, _): &(u64, u64)| *own == n;
            let found = shelves.find(hash(n), is).copied();
            assert_eq!(found, map.get(&n).map(|value| (n, *value)), "round {round}");
            if random >> 63 == 0 {
                let old = shelves.put(hash(n), (n, round), is);
                assert_eq!(old.map(|(_, value)| value), map.insert(n, round));
            } else {
                let old = shelves.remove(hash(n), is);
                assert_eq!(old.map(|(_, value)| value), map.remove(&n));
            }
        }
        assert!((0..60).all(|n| shelves.find(hash(n), |(own, _)| *own == n).is_some() == map.contains_key(&n)));
    }

    #[test]
    fn clones_are_independent() {
        let mut shelves = Shelves::default();
        let put = |shelves: &mut Shelves<(u32, &'static str)>, n: u32, text| {
            let hash = shelves.hash(&[&n.to_be_bytes()]);
            shelves.put(hash, (n, text), |(own, _)| *own == n)
        };
        let get = |shelves: &Shelves<(u32, &'static str)>, n: u32| {
            shelves.find(shelves.hash(&[&n.to_be_bytes()]), |(own, _)| *own == n).map(|(_, text)| *text)
        };
        for n in 0..20_000 {
            assert_eq!(put(&mut shelves, n, "old"), None);
        }
        let mut other = shelves.clone();
        assert_eq!(put(&mut other, 7, "new"), Some((7, "old")));
        let hash = other.hash(&[&8_u32.to_be_bytes()]);
        assert_eq!(other.remove(hash, |(own, _)| *own == 8), Some((8, "old")));
        assert_eq!(other.remove(hash, |(own, _)| *own == 8), None);
        assert_eq!([get(&other, 7), get(&other, 8), get(&other, 9)], [Some("new"), None, Some("old")]);
        assert!((0..20_000).all(|n| get(&shelves, n) == Some("old")));
        assert_eq!(get(&shelves, 20_000), None);
    }
}
