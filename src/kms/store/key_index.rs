//! Keys by their row ids, for the lookup in each call.
//!
//! What a lookup costs among many keys is the places in memory that it touches and no cache holds. In a tree they are a
//! dozen or two, here four, however many keys there are: two arrays and a small hash table. A change copies what lies on
//! its way, one table and both arrays, so snapshots share all else.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use super::records::KeyEntry;
use crate::sync::Arc;

const WIDTH: usize = 64;

type Table = HashMap<Arc<str>, Arc<KeyEntry>>;
type Shelf = [Arc<Table>; WIDTH];

/// A map that is cheap to clone.
#[derive(Clone)]
pub struct KeyIndex {
    hasher: RandomState,
    shelves: Arc<[Arc<Shelf>; WIDTH]>,
}

impl Default for KeyIndex {
    fn default() -> Self {
        let empty = Arc::new(Table::new());
        let shelf: Arc<Shelf> = Arc::new(std::array::from_fn(|_| empty.clone()));
        Self { hasher: RandomState::new(), shelves: Arc::new(std::array::from_fn(|_| shelf.clone())) }
    }
}

impl KeyIndex {
    fn place(&self, id: &str) -> (usize, usize) {
        let hash = self.hasher.hash_one(id) as usize;
        (hash % WIDTH, hash / WIDTH % WIDTH)
    }

    pub fn get(&self, id: &str) -> Option<&Arc<KeyEntry>> {
        let (shelf, table) = self.place(id);
        self.shelves[shelf][table].get(id)
    }

    fn table(&mut self, id: &str) -> &mut Table {
        let (shelf, table) = self.place(id);
        let shelf = Arc::make_mut(&mut Arc::make_mut(&mut self.shelves)[shelf]);
        Arc::make_mut(&mut shelf[table])
    }

    pub fn insert(&mut self, id: Arc<str>, key: Arc<KeyEntry>) {
        self.table(&id).insert(id, key);
    }

    pub fn remove(&mut self, id: &str) {
        self.table(id).remove(id);
    }
}
