//! Counts what a thread copies from memory to memory: `memcpy` and `memmove` of the test binary, which everything linked
//! into it calls, stand here. Copies of a known small size are instructions of the caller and are not seen.

#[cfg(target_env = "gnu")]
mod counting {
    use std::cell::Cell;
    use std::ffi::c_void;
    use std::hint::black_box;

    thread_local! {
        pub static COPIED: Cell<usize> = const { Cell::new(0) };
    }

    unsafe extern "C" {
        /// `memmove` by another name: under its own it would call itself. `room` is the size of what `to` points to.
        fn __memmove_chk(to: *mut c_void, from: *const c_void, len: usize, room: usize) -> *mut c_void;
    }

    fn copy(to: *mut c_void, from: *const c_void, len: usize) -> *mut c_void {
        COPIED.with(|copied| copied.set(copied.get().wrapping_add(len)));
        // SAFETY: the promises of the caller's caller. The compiler does not see the room, so it makes no memmove of this.
        unsafe { __memmove_chk(to, from, len, black_box(usize::MAX)) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut c_void, from: *const c_void, len: usize) -> *mut c_void {
        copy(to, from, len)
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut c_void, from: *const c_void, len: usize) -> *mut c_void {
        copy(to, from, len)
    }
}

/// Bytes that this thread has copied so far; always 0 where the C library is another than glibc.
pub fn copied() -> usize {
    #[cfg(target_env = "gnu")]
    return counting::COPIED.with(std::cell::Cell::get);
    #[cfg(not(target_env = "gnu"))]
    return 0;
}

#[test]
#[cfg(target_env = "gnu")]
fn copies_are_counted() {
    let (from, mut to) = (vec![7_u8; 10_000], vec![0_u8; 10_000]);
    let before = copied();
    to.copy_from_slice(std::hint::black_box(&from));
    assert_eq!(copied() - before, 10_000);
    std::hint::black_box(&mut to).copy_within(1.., 0);
    assert_eq!(copied() - before, 19_999);
}
