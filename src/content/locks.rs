//! Locks on unit ranges of one file.
//!
//! Reads from the page cache of the backing are not atomic against writes to it, so a reader that saw half of a new
//! unit would report damage that is not there. Units are therefore locked, not by one lock each but by stripes: a
//! request of 1 MiB takes at most three of them.

use crate::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, read, write};

/// Units that share a stripe before the next one begins.
const UNITS_PER_STRIPE: u64 = 256;
const STRIPES: usize = 16;

/// Lock order: the file's size lock first, then stripes in ascending order.
pub(super) struct UnitLocks([RwLock<()>; STRIPES]);

/// What holds a range: a place for the guard of every stripe, since a list of those that are held would be a piece of
/// memory for each request.
type Held<G> = [Option<G>; STRIPES];

impl UnitLocks {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| RwLock::new(())))
    }

    /// Holds units `first..=last` against writers.
    pub(super) fn shared(&self, first: u64, last: u64) -> Held<RwLockReadGuard<'_, ()>> {
        let wanted = stripes(first, last);
        std::array::from_fn(|i| wanted(i).then(|| read(&self.0[i])))
    }

    /// Holds units `first..=last` against everybody.
    pub(super) fn exclusive(&self, first: u64, last: u64) -> Held<RwLockWriteGuard<'_, ()>> {
        let wanted = stripes(first, last);
        std::array::from_fn(|i| wanted(i).then(|| write(&self.0[i])))
    }
}

/// Which stripes a range has. They are taken in ascending order, the one order that excludes a deadlock.
fn stripes(first: u64, last: u64) -> impl Fn(usize) -> bool {
    let (low, high) = (first / UNITS_PER_STRIPE, last / UNITS_PER_STRIPE);
    let all = high - low >= STRIPES as u64 - 1;
    move |i| all || (low..=high).any(|block| block % STRIPES as u64 == i as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_are_complete() {
        let of = |a, b| (0..STRIPES).filter(|&i| stripes(a, b)(i)).collect::<Vec<_>>();
        assert_eq!(of(0, 255), [0]);
        assert_eq!(of(255, 256), [0, 1]);
        assert_eq!(of(15 * 256, 16 * 256), [0, 15]);
        assert_eq!(of(0, u64::MAX / 2).len(), STRIPES);
    }

    #[test]
    fn writers_exclude_readers_of_the_same_units_only() {
        let locks = UnitLocks::new();
        let held = locks.exclusive(0, 10);
        assert!(locks.0[0].try_read().is_err());
        assert!(locks.0[1].try_read().is_ok());
        drop(held);
        assert!(locks.0[0].try_read().is_ok());
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod shuttle_tests {
    use super::*;
    use crate::sync::atomic::{AtomicU64, Ordering};
    use crate::sync::{Arc, explore, thread};

    /// A file of units that are written in two steps, as a page cache does it.
    struct Units {
        locks: UnitLocks,
        halves: Vec<(AtomicU64, AtomicU64)>,
    }

    const COUNT: u64 = 17 * UNITS_PER_STRIPE;

    impl Units {
        /// One unit stands for each block of a stripe.
        fn block(&self, unit: u64) -> &(AtomicU64, AtomicU64) {
            &self.halves[(unit / UNITS_PER_STRIPE) as usize]
        }

        fn blocks(first: u64, last: u64) -> impl Iterator<Item = u64> {
            (first / UNITS_PER_STRIPE..=last / UNITS_PER_STRIPE).map(|block| block * UNITS_PER_STRIPE)
        }

        fn write(&self, first: u64, last: u64, value: u64) {
            let _held = self.locks.exclusive(first, last);
            for unit in Self::blocks(first, last) {
                self.block(unit).0.store(value, Ordering::Relaxed);
            }
            for unit in Self::blocks(first, last) {
                self.block(unit).1.store(value, Ordering::Relaxed);
            }
        }

        fn read(&self, first: u64, last: u64) {
            let _held = self.locks.shared(first, last);
            for unit in Self::blocks(first, last) {
                let (a, b) = self.block(unit);
                assert_eq!(a.load(Ordering::Relaxed), b.load(Ordering::Relaxed), "a unit is half written");
            }
        }
    }

    #[test]
    fn no_reader_sees_half_a_write_and_nobody_waits_for_ever() {
        explore(10_000, || {
            let units = Arc::new(Units {
                locks: UnitLocks::new(),
                halves: (0..=COUNT / UNITS_PER_STRIPE).map(|_| Default::default()).collect(),
            });
            let threads = [
                // The second range begins in the last stripe and ends in the first: in another order than the first.
                (0, UNITS_PER_STRIPE, 1),
                (15 * UNITS_PER_STRIPE, 16 * UNITS_PER_STRIPE, 2),
            ]
            .map(|(first, last, value)| {
                let units = Arc::clone(&units);
                thread::spawn(move || units.write(first, last, value))
            });
            units.read(16 * UNITS_PER_STRIPE - 1, 16 * UNITS_PER_STRIPE);
            units.read(0, UNITS_PER_STRIPE);
            for thread in threads {
                thread.join().expect("no panic");
            }
            units.read(0, COUNT);
        });
    }
}
