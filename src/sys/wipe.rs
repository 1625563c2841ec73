//! Expanded keys of libraries that do not wipe them themselves.

use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::{Deref, DerefMut};
use std::sync::atomic;

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
            wipe(&raw mut self.0);
        }
    }
}

/// Overwrites the bytes at `place` with zeros. The writes are volatile, as nothing reads them again.
///
/// # Safety
/// `place` must be valid for writes of a `T`, and the value there must not be used afterwards.
unsafe fn wipe<T>(place: *mut T) {
    let len = size_of::<T>();
    // Words where the alignment allows it: names are encrypted with a fresh context of about 1 KiB each, and byte
    // by byte its wiping would cost as much as the encryption. A size is a multiple of its alignment.
    if align_of::<T>() >= align_of::<u64>() {
        for i in 0..len / size_of::<u64>() {
            // SAFETY: the word lies within the value and is aligned.
            unsafe { place.cast::<u64>().add(i).write_volatile(0) };
        }
    } else {
        for i in 0..len {
            // SAFETY: the byte lies within the value.
            unsafe { place.cast::<u8>().add(i).write_volatile(0) };
        }
    }
    atomic::compiler_fence(atomic::Ordering::SeqCst);
}

/// Stack that [`on_wiped_stack`] overwrites.
const STACK: usize = 16 * 1024;

/// Runs `work`, then overwrites with zeros the stack that it may have used.
///
/// For work that makes an expanded key: libraries return one by value, and each move of it leaves a copy behind, with the
/// key itself at its front. What `work` returns must not hold any of it inline. Deeper calls than 16 KiB are not reached.
#[inline(never)]
pub fn on_wiped_stack<T>(work: impl FnOnce() -> T) -> T {
    let done = apart(work);
    wipe_stack();
    done
}

/// A frame of its own, below that of [`on_wiped_stack`].
#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Its frame lies where that of [`apart`] was.
#[inline(never)]
fn wipe_stack() {
    let mut stack = MaybeUninit::<[u8; STACK]>::uninit();
    // SAFETY: as many bytes as the array has, which nobody reads.
    unsafe { libc::explicit_bzero(stack.as_mut_ptr().cast(), STACK) };
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

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

    #[inline(never)]
    fn leaves_bytes(byte: u8) -> usize {
        let bytes = std::hint::black_box([byte; 4000]);
        std::hint::black_box(&bytes).as_ptr().addr()
    }

    #[inline(never)]
    fn finds_bytes(byte: u8) -> usize {
        let stack = MaybeUninit::<[u8; 8192]>::uninit();
        let from = std::hint::black_box(&stack).as_ptr().cast::<u8>();
        // SAFETY: within the array. What stands there is whatever earlier calls left, which is the question; volatile, so that
        // the compiler does not conclude anything from it.
        (0..8192).filter(|at| unsafe { from.add(*at).read_volatile() } == byte).count()
    }

    #[test]
    fn nothing_of_the_work_stays_on_the_stack() {
        assert!(leaves_bytes(0xa7) > 0);
        assert!(finds_bytes(0xa7) > 3000, "the search finds what is left");
        assert!(on_wiped_stack(|| leaves_bytes(0xa9)) > 0);
        // Not none: there are return addresses, too.
        assert!(finds_bytes(0xa9) < 16);
    }

    #[test]
    fn a_value_of_bytes_is_wiped_to_the_last() {
        let mut place = MaybeUninit::new(Wiped::new([0xaau8; 37]));
        // SAFETY: as above.
        let left = unsafe {
            place.assume_init_drop();
            *place.as_ptr().cast::<[u8; 37]>()
        };
        assert_eq!(left, [0; 37]);
    }
}
