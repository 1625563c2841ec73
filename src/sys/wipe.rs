//! Expanded keys of libraries that do not wipe them themselves.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};

/// A value whose own bytes are overwritten with zeros when it is dropped, after its destructor has run.
///
/// For cipher contexts, which hold the expanded key inline (FORMAT 3.2). What a value keeps on the heap is not
/// reached. Moving it leaves the old bytes behind, so a long-lived one belongs in a `Box` at once.
pub struct Wiped<T>(ManuallyDrop<T>);

impl<T> Wiped<T> {
    /// Takes charge of `value`.
    pub fn new(value: T) -> Self {
        Self(ManuallyDrop::new(value))
    }
}

impl<T> Deref for Wiped<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Wiped<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for Wiped<T> {
    fn drop(&mut self) {
        // SAFETY: the value is dropped here and nowhere else, and nothing can reach it afterwards: `ManuallyDrop`
        // has no destructor that would look at the overwritten bytes.
        unsafe {
            ManuallyDrop::drop(&mut self.0);
            zeroize::zeroize_flat_type(&raw mut self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::mem::MaybeUninit;

    use super::*;

    struct Counts<'a>(&'a Cell<u32>, [u8; 40]);

    impl Drop for Counts<'_> {
        fn drop(&mut self) {
            assert_eq!(self.1, [0xaa; 40], "the destructor sees the value before it is wiped");
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn the_destructor_runs_once_and_the_bytes_are_zero_afterwards() {
        let drops = Cell::new(0);
        let mut place = MaybeUninit::new(Wiped::new(Counts(&drops, [0xaa; 40])));
        // SAFETY: the place is initialised, and every byte of it is written by the wipe, so that it can be read.
        let left = unsafe {
            place.assume_init_drop();
            std::slice::from_raw_parts(place.as_ptr().cast::<u8>(), size_of::<Wiped<Counts<'_>>>())
        };
        assert!(left.iter().all(|b| *b == 0));
        assert_eq!(drops.get(), 1);
    }
}
