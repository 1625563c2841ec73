//! Memory that begins at a page: what O_DIRECT wants, and what copies are fastest into.

use std::io;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// One page.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct Page([u8; PAGE]);

impl Page {
    /// Pages of zeros for `len` bytes. Untouched ones take no memory.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn zeroed(len: usize) -> io::Result<Vec<Self>> {
        Self::new_vec_zeroed(len.div_ceil(PAGE)).map_err(|_| io::ErrorKind::OutOfMemory.into())
    }
}
