//! Slots of 64 bytes in locked, undumpable memory for keys (FORMAT 3.2).
//!
//! Memory comes in chunks of 64 KiB between two guard pages: from `memfd_secret(2)` where the kernel has it (the
//! pages are then absent from the kernel's own map), else anonymous memory with `mlock(2)`, `MADV_DONTDUMP` and
//! `MADV_WIPEONFORK`. Chunks are never given back, so a slot's address is valid for the life of the process.

use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard};

use super::reserve;

/// Bytes of one slot: the longest key of the format (AES-256-SIV).
pub const SLOT_LEN: usize = 64;

const CHUNK_LEN: usize = 64 * 1024;
const GUARD_LEN: usize = 4096;

static ARENA: Mutex<Arena> = Mutex::new(Arena { free: Vec::new(), chunks: 0, unlocked_chunks: 0 });

struct Arena {
    free: Vec<Address>,
    chunks: usize,
    unlocked_chunks: usize,
}

struct Address(NonNull<u8>);

// SAFETY: an address stands for exclusive ownership of its 64 bytes, which no thread is tied to.
unsafe impl Send for Address {}

/// How the arena's memory is protected, for `kmsfs doctor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaState {
    /// Bytes reserved so far.
    pub bytes: usize,
    /// Bytes of them that could not be locked into memory (`RLIMIT_MEMLOCK` too low) and might be swapped out.
    pub unlocked_bytes: usize,
}

/// The arena's present state.
pub fn state() -> ArenaState {
    let arena = lock();
    ArenaState { bytes: arena.chunks * CHUNK_LEN, unlocked_bytes: arena.unlocked_chunks * CHUNK_LEN }
}

fn lock() -> MutexGuard<'static, Arena> {
    ARENA.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// 64 bytes of protected memory, zero when handed out, wiped when dropped.
pub struct Slot(Address);

// SAFETY: shared access only reads.
unsafe impl Sync for Slot {}

impl Slot {
    /// A slot of zeros.
    ///
    /// # Panics
    /// When the kernel has no memory left: without memory for a key nothing can go on.
    pub fn new() -> Self {
        let mut arena = lock();
        if arena.free.is_empty() {
            arena.grow();
        }
        Self(arena.free.pop().expect("grow() adds slots"))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; SLOT_LEN] {
        // SAFETY: the slot owns 64 initialised bytes of a chunk that is never unmapped.
        unsafe { self.0.0.cast::<[u8; SLOT_LEN]>().as_ref() }
    }

    /// The bytes, to fill them.
    pub fn bytes_mut(&mut self) -> &mut [u8; SLOT_LEN] {
        // SAFETY: as in `bytes`, and `&mut self` makes the access exclusive.
        unsafe { self.0.0.cast::<[u8; SLOT_LEN]>().as_mut() }
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let bytes = self.bytes_mut();
        // SAFETY: exclusive access to as many bytes. Unlike `zeroize`, which writes byte by byte, this is one call that the
        // compiler does not leave out either.
        unsafe { libc::explicit_bzero(bytes.as_mut_ptr().cast(), bytes.len()) };
        lock().free.push(Address(self.0.0));
    }
}

impl Arena {
    fn grow(&mut self) {
        let (base, locked) = map_chunk();
        self.chunks += 1;
        self.unlocked_chunks += usize::from(!locked);
        for offset in (0..CHUNK_LEN).step_by(SLOT_LEN) {
            // SAFETY: offset lies within the chunk just mapped.
            self.free.push(Address(unsafe { base.add(offset) }));
        }
    }
}

/// A new chunk and whether it is locked into memory.
fn map_chunk() -> (NonNull<u8>, bool) {
    let total = CHUNK_LEN + 2 * GUARD_LEN;
    // SAFETY: a fresh private mapping without access; nothing else refers to it.
    let reserve = with_reserve(|| unsafe {
        libc::mmap(ptr::null_mut(), total, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    });
    // SAFETY: within the reservation.
    let base = unsafe { reserve.cast::<u8>().add(GUARD_LEN) };
    let locked = map_secret(base) || map_locked(base);
    (NonNull::new(base).expect("mmap succeeded"), locked)
}

/// What `map` maps, if need be where the reserve was.
///
/// # Panics
/// If there is nothing.
fn with_reserve(map: impl Fn() -> *mut libc::c_void) -> *mut libc::c_void {
    loop {
        let mapped = map();
        if mapped != libc::MAP_FAILED {
            return mapped;
        }
        assert!(reserve::of_this_process().release(), "out of memory for keys");
    }
}

/// Puts `memfd_secret` pages at `base`; false if the kernel refuses.
fn map_secret(base: *mut u8) -> bool {
    // SAFETY: plain system calls; MAP_FIXED replaces only our own reservation, and only on success.
    unsafe {
        let fd = libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) as libc::c_int;
        if fd < 0 {
            return false;
        }
        let ok = libc::ftruncate(fd, CHUNK_LEN as libc::off_t) == 0
            && libc::mmap(
                base.cast(),
                CHUNK_LEN,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
                fd,
                0,
            ) != libc::MAP_FAILED;
        libc::close(fd);
        if ok {
            // A forked child must not see the keys; the mapping is shared, so WIPEONFORK does not apply.
            libc::madvise(base.cast(), CHUNK_LEN, libc::MADV_DONTFORK);
        }
        ok
    }
}

/// Makes the reservation at `base` ordinary memory; true if it could be locked.
fn map_locked(base: *mut u8) -> bool {
    // SAFETY: the range is our own reservation.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        with_reserve(|| libc::mmap(base.cast(), CHUNK_LEN, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0));
        libc::madvise(base.cast(), CHUNK_LEN, libc::MADV_DONTDUMP);
        libc::madvise(base.cast(), CHUNK_LEN, libc::MADV_WIPEONFORK);
        libc::mlock(base.cast(), CHUNK_LEN) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_slot_is_wiped_before_it_is_reused() {
        let mut seen = Vec::new();
        for _ in 0..2000 {
            let mut slot = Slot::new();
            assert_eq!(slot.bytes(), &[0; SLOT_LEN]);
            slot.bytes_mut().fill(0xaa);
            seen.push(slot);
        }
        drop(seen);
        assert_eq!(Slot::new().bytes(), &[0; SLOT_LEN]);
        assert!(state().bytes >= 2 * CHUNK_LEN);
    }
}
