//! Page-aligned I/O buffers, one set per thread, reused.
//!
//! Alignment matters for speed, not for correctness: on some CPUs a copy whose destination lies 1 to 31 bytes behind
//! its source's page offset is up to forty times slower.

use std::cell::RefCell;

use rustix::io::Errno;
use zerocopy::{FromZeros, IntoBytes};

use super::Result;
use crate::format::size::UNIT;
use crate::sync::thread_local;
use crate::sys::page::Page;
use crate::sys::reserve::what_can_fail;

/// Buffers above this size are given back when the request is done: only O_DIRECT requests of many MiB need them.
const KEEP_PAGES: usize = 320;

thread_local! {
    static BULK: RefCell<Vec<Page>> = const { RefCell::new(Vec::new()) };
    static EDGE: RefCell<Vec<Page>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with this thread's request buffer of `units` pages; its content is whatever was there before.
///
/// # Errors
/// `ENOMEM`, or what `work` returns.
pub(super) fn with_bulk<R>(units: usize, work: impl FnOnce(&mut [u8]) -> Result<R>) -> Result<R> {
    BULK.with(|pages| with(&mut pages.borrow_mut(), units, work))
}

/// Calls `work` with this thread's buffer for one unit, which may be used while the request buffer is.
///
/// # Errors
/// As [`with_bulk`].
pub(super) fn with_edge<R>(work: impl FnOnce(&mut [u8; UNIT]) -> Result<R>) -> Result<R> {
    EDGE.with(|pages| with(&mut pages.borrow_mut(), 1, |bytes| work(bytes.first_chunk_mut().expect("one page"))))
}

fn with<R>(pages: &mut Vec<Page>, units: usize, work: impl FnOnce(&mut [u8]) -> Result<R>) -> Result<R> {
    if let Some(more) = units.checked_sub(pages.len()) {
        // The one large allocation of a request: without memory the request fails.
        what_can_fail(|| pages.try_reserve_exact(more)).map_err(|_| Errno::NOMEM)?;
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
            with_edge(|edge| {
                edge.fill(2);
                Ok(())
            })?;
            assert!(bulk.iter().all(|&b| b == 1));
            Ok(())
        })
        .expect("memory");
    }

    #[test]
    fn what_does_not_fit_into_memory_is_an_error_of_the_request() {
        for units in [usize::MAX, 1 << 40] {
            let asked: Result<()> = with_bulk(units, |_| unreachable!("there is no such memory"));
            assert_eq!(asked.expect_err("no such memory").errno(), Errno::NOMEM);
        }
        with_bulk(1, |_| Ok(())).expect("and the next one has some");
    }
}
