//! Memory that begins at a page: what O_DIRECT wants, and what copies are fastest into.

use std::ffi::c_void;
use std::io;
use std::ptr::{self, NonNull};
use std::slice;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// One page.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct Page([u8; PAGE]);

impl Page {
    /// Pages of zeros for `len` bytes.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn zeroed(len: usize) -> io::Result<Vec<Self>> {
        Self::new_vec_zeroed(len.div_ceil(PAGE)).map_err(|_| io::ErrorKind::OutOfMemory.into())
    }
}

/// Bytes of zeros that begin at a page, of which those never touched take no memory.
pub struct Pages {
    at: NonNull<c_void>,
    len: usize,
}

// SAFETY: the mapping is this value's own.
unsafe impl Send for Pages {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for Pages {}

impl Pages {
    /// `len` bytes.
    ///
    /// # Errors
    /// The system's: no memory; `len` is 0.
    pub fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses.
        let at =
            unsafe { mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }?;
        Ok(Self { at: NonNull::new(at).ok_or(io::ErrorKind::OutOfMemory)?, len })
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: the mapping has `len` readable bytes as long as this lives, and nobody writes to them meanwhile.
        unsafe { slice::from_raw_parts(self.at.as_ptr().cast(), self.len) }
    }

    /// The bytes.
    pub fn as_mut_bytes(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has them.
        unsafe { slice::from_raw_parts_mut(self.at.as_ptr().cast(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: what was mapped, and nothing refers to it any more.
        let unmapped = unsafe { munmap(self.at.as_ptr(), self.len) };
        debug_assert!(unmapped.is_ok(), "a mapping of this value's own");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untouched_pages_take_no_memory() {
        let mut pages = Pages::new(64 * PAGE).expect("memory");
        pages.as_mut_bytes()[5 * PAGE] = 1;
        assert_eq!(pages.as_bytes().iter().filter(|&&byte| byte != 0).count(), 1);
        let mut fresh = Pages::new(64 * PAGE).expect("memory");
        fresh.as_mut_bytes()[5 * PAGE] = 1;
        let mut resident = [0_u8; 64];
        // SAFETY: a byte for each page of the mapping.
        let rc = unsafe { libc::mincore(fresh.at.as_ptr(), fresh.len, resident.as_mut_ptr()) };
        assert_eq!((rc, resident.iter().map(|page| usize::from(page & 1)).sum::<usize>()), (0, 1));
        assert!(Pages::new(0).is_err());
    }
}
