//! What is looked up by a hash, among any number of others.
//!
//! What a lookup costs among many is the places in memory that it touches and no cache holds. In a tree they are a dozen or
//! two, here three, however many there are: two arrays and a short list of hashes. A change copies what lies on its way,
//! one list and both arrays, so clones share all else.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::sync::Arc;

const WIDTH: usize = 64;

type List<T> = Vec<(u64, T)>;
type Shelf<T> = [Arc<List<T>>; WIDTH];

/// Items with their hashes. Cheap to clone.
#[derive(Clone)]
pub struct Shelves<T> {
    hasher: RandomState,
    shelves: Arc<[Arc<Shelf<T>>; WIDTH]>,
}

impl<T> Default for Shelves<T> {
    fn default() -> Self {
        let empty = Arc::new(List::new());
        let shelf: Arc<Shelf<T>> = Arc::new(std::array::from_fn(|_| empty.clone()));
        Self { hasher: RandomState::new(), shelves: Arc::new(std::array::from_fn(|_| shelf.clone())) }
    }
}

fn place(hash: u64) -> (usize, usize) {
    let hash = hash as usize;
    (hash % WIDTH, hash / WIDTH % WIDTH)
}

impl<T: Clone> Shelves<T> {
    /// The hash of some parts. Nobody outside can find two of the same.
    pub fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        parts.iter().for_each(|part| hasher.write(part));
        hasher.finish()
    }

    /// The item with this hash that `is` the one.
    pub fn find(&self, hash: u64, is: impl Fn(&T) -> bool) -> Option<&T> {
        let (shelf, list) = place(hash);
        self.shelves[shelf][list].iter().find(|(of, item)| *of == hash && is(item)).map(|(_, item)| item)
    }

    fn list(&mut self, hash: u64) -> &mut List<T> {
        let (shelf, list) = place(hash);
        let shelf = Arc::make_mut(&mut Arc::make_mut(&mut self.shelves)[shelf]);
        Arc::make_mut(&mut shelf[list])
    }

    /// Puts in an item, in the place of the one that `is` the same; answers that one.
    pub fn put(&mut self, hash: u64, item: T, is: impl Fn(&T) -> bool) -> Option<T> {
        let list = self.list(hash);
        match list.iter_mut().find(|(of, old)| *of == hash && is(old)) {
            Some((_, old)) => Some(std::mem::replace(old, item)),
            None => {
                list.push((hash, item));
                None
            }
        }
    }

    /// Takes out the item with this hash that `is` the one.
    pub fn remove(&mut self, hash: u64, is: impl Fn(&T) -> bool) -> Option<T> {
        self.find(hash, &is)?;
        let list = self.list(hash);
        let at = list.iter().position(|(of, item)| *of == hash && is(item))?;
        Some(list.swap_remove(at).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
