//! Page-aligned I/O buffers, one set per thread, reused.
//!
//! Alignment matters for speed, not for correctness: on some CPUs a copy whose destination lies 1 to 31 bytes behind
//! its source's page offset is up to forty times slower.

use std::cell::RefCell;

use zerocopy::{FromZeros, IntoBytes};

use crate::format::size::UNIT;
use crate::sync::thread_local;
use crate::sys::page::Page;

/// Buffers above this size are given back when the request is done: only O_DIRECT requests of many MiB need them.
const KEEP_PAGES: usize = 320;

thread_local! {
    static BULK: RefCell<Vec<Page>> = const { RefCell::new(Vec::new()) };
    static EDGE: RefCell<Vec<Page>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with this thread's request buffer of `units` pages; its content is whatever was there before.
pub(super) fn with_bulk<R>(units: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
    BULK.with(|pages| with(&mut pages.borrow_mut(), units, work))
}

/// Calls `work` with this thread's buffer for one unit, which may be used while the request buffer is.
pub(super) fn with_edge<R>(work: impl FnOnce(&mut [u8; UNIT]) -> R) -> R {
    EDGE.with(|pages| with(&mut pages.borrow_mut(), 1, |bytes| work(bytes.first_chunk_mut().expect("one page"))))
}

fn with<R>(pages: &mut Vec<Page>, units: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
    if pages.len() < units {
        pages.resize(units, Page::new_zeroed());
    }
    let result = work(pages[..units].as_mut_bytes());
    if pages.len() > KEEP_PAGES {
        pages.truncate(KEEP_PAGES);
        pages.shrink_to_fit();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_independent() {
        with_bulk(3, |bulk| {
            assert_eq!((bulk.len(), bulk.as_ptr() as usize % UNIT), (3 * UNIT, 0));
            bulk.fill(1);
            with_edge(|edge| edge.fill(2));
            assert!(bulk.iter().all(|&b| b == 1));
        });
    }
}
