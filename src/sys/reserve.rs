//! Memory held back for the time when the system gives no more.
//!
//! Nothing in Rust can go on without a small piece of memory that it asked for: the process ends. So a daemon holds address space that it
//! never touches: it takes no memory, but counts wherever memory is counted (`RLIMIT_DATA`, `RLIMIT_AS`, strict overcommit).
//! Where an allocation gets nothing, a part of it goes back to the system, and the allocation finds room there. Whoever serves
//! requests looks with [`Reserve::is_short`] whether that has happened, and refuses what would keep more memory until
//! [`Reserve::has_room`] again.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::c_void;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicPtr, Ordering};
use std::thread::LocalKey;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Bytes that go back to the system at once. glibc asks for as much where the heap cannot grow in place.
const PART: usize = 1 << 20;
const PARTS: usize = 16;
/// Bytes held back.
pub const RESERVE: usize = PART * PARTS;
/// With so many parts gone there is none to spare for requests that keep nothing, either.
const FEW: isize = PARTS as isize / 2;
/// Parts that are enough for a while.
const ENOUGH: usize = 4;
/// Bytes of what is asked for to learn how much memory there is: too little for a mapping of its own.
const BLOCK: usize = 64 << 10;

thread_local! {
    static CAN_FAIL: Cell<bool> = const { Cell::new(false) };
    static IS_URGENT: Cell<bool> = const { Cell::new(false) };
}

static OF_THIS_PROCESS: Reserve = Reserve::new();

/// That of this process, which holds nothing before [`Reserve::hold`].
pub fn of_this_process() -> &'static Reserve {
    &OF_THIS_PROCESS
}

/// Address space that is held back.
pub struct Reserve {
    parts: [AtomicPtr<c_void>; PARTS],
    /// Parts that went back to the system. Below zero for a moment, where one is regained before it is counted.
    gone: AtomicIsize,
    given_up: AtomicBool,
}

impl Default for Reserve {
    fn default() -> Self {
        Self::new()
    }
}

impl Reserve {
    /// One that holds nothing yet.
    pub const fn new() -> Self {
        Self {
            parts: [const { AtomicPtr::new(ptr::null_mut()) }; PARTS],
            gone: AtomicIsize::new(0),
            given_up: AtomicBool::new(false),
        }
    }

    /// Holds [`RESERVE`] bytes from now on. To be called once.
    ///
    /// # Errors
    /// `ENOMEM` if there is not as much; then nothing is held.
    pub fn hold(&self) -> io::Result<()> {
        self.gone.store(PARTS as isize, Ordering::Relaxed);
        if self.regain() {
            return Ok(());
        }
        while self.release() {}
        self.gone.store(0, Ordering::Relaxed);
        Err(io::Error::from_raw_os_error(libc::ENOMEM))
    }

    /// Whether a part of it went back to the system.
    pub fn is_short(&self) -> bool {
        self.gone.load(Ordering::Relaxed) > 0 && !self.given_up.load(Ordering::Relaxed)
    }

    /// Whether so little of it is left that nothing should be begun which needs memory even for a moment.
    pub fn is_nearly_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed) > FEW && !self.given_up.load(Ordering::Relaxed)
    }

    /// Whether there is memory again: what went back to the system can be held again, or this thread finds as much in what was
    /// freed and did not go back, or enough for a while.
    pub fn has_room(&self) -> bool {
        !self.is_short()
            || self.regain()
            || has_free(self.gone.load(Ordering::Relaxed).unsigned_abs().min(ENOUGH) * PART)
    }

    /// Gives all of it back to the system, for good: nothing is refused any more.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
        while self.release() {}
    }

    /// Gives a part back to the system; false if none is left.
    pub fn release(&self) -> bool {
        self.parts.iter().any(|part| {
            let at = part.swap(ptr::null_mut(), Ordering::AcqRel);
            // SAFETY: a mapping of `PART` bytes that `regain` made, which nobody uses, and which nobody else has taken out.
            let released = !at.is_null() && unsafe { munmap(at, PART) }.is_ok();
            if released {
                self.gone.fetch_add(1, Ordering::Relaxed);
            } else if !at.is_null()
                // It cannot be split off from what lies beside it: too many mappings.
                && part.compare_exchange(ptr::null_mut(), at, Ordering::AcqRel, Ordering::Relaxed).is_err()
            {
                // Another thread has regained it meanwhile, and counted it once too often.
                self.gone.fetch_add(1, Ordering::Relaxed);
            }
            released
        })
    }

    /// Holds again what went back; false if there is no room for all of it.
    fn regain(&self) -> bool {
        self.parts.iter().filter(|part| part.load(Ordering::Relaxed).is_null()).all(|part| {
            // SAFETY: a new mapping at an address that the kernel chooses.
            let mapped =
                unsafe { mmap_anonymous(ptr::null_mut(), PART, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
            let Ok(at) = mapped else { return false };
            match part.compare_exchange(ptr::null_mut(), at, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    self.gone.fetch_sub(1, Ordering::Relaxed);
                }
                // Another thread was first.
                Err(_) => {
                    // SAFETY: mapped above, and nobody else knows of it.
                    let _ = unsafe { munmap(at, PART) };
                }
            }
            true
        })
    }
}

/// Has the allocator give back to the system what it holds free.
pub fn trim() {
    // SAFETY: it touches what is free, only.
    unsafe { libc::malloc_trim(0) };
}

/// Whether this thread could allocate so many bytes in small blocks.
fn has_free(bytes: usize) -> bool {
    let layout = Layout::from_size_align(BLOCK, align_of::<*mut u8>()).expect("constants");
    let mut last: *mut u8 = ptr::null_mut();
    let mut found = 0;
    while found < bytes {
        // SAFETY: the layout is not empty.
        let block = unsafe { System.alloc(layout) };
        if block.is_null() {
            break;
        }
        // SAFETY: the block has room for a pointer, and is aligned for it.
        unsafe { block.cast::<*mut u8>().write(last) };
        last = block;
        found += BLOCK;
    }
    while !last.is_null() {
        // SAFETY: each block holds the one before it, which ends with the first; all have this layout.
        unsafe {
            let before = last.cast::<*mut u8>().read();
            System.dealloc(last, layout);
            last = before;
        }
    }
    found >= bytes
}

/// Allocates by `work` what can fail: the last half of the reserve is not for it, unless it is urgent.
pub fn what_can_fail<R>(work: impl FnOnce() -> R) -> R {
    let _marked = Marked::by(&CAN_FAIL);
    work()
}

/// Does `work`, whose failure would lose data: all of the reserve is for it.
pub fn urgently<R>(work: impl FnOnce() -> R) -> R {
    let _marked = Marked::by(&IS_URGENT);
    work()
}

/// A mark on the calling thread, which is taken away when this is dropped.
struct Marked(&'static LocalKey<Cell<bool>>, bool);

impl Marked {
    fn by(mark: &'static LocalKey<Cell<bool>>) -> Self {
        Self(mark, mark.replace(true))
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

/// An allocator that draws on a reserve where there is nothing else.
pub struct Reserving<A = System> {
    inner: A,
    reserve: &'static Reserve,
}

impl Reserving {
    /// The system's, with the reserve of this process.
    pub const fn new() -> Self {
        Self { inner: System, reserve: &OF_THIS_PROCESS }
    }
}

impl Default for Reserving {
    fn default() -> Self {
        Self::new()
    }
}

impl<A> Reserving<A> {
    /// What `allocate` gives, with the reserve if it gives nothing without. Allocates nothing itself.
    fn with_reserve(&self, size: usize, allocate: impl Fn() -> *mut u8) -> *mut u8 {
        loop {
            let given = allocate();
            if !given.is_null() || !self.makes_room(size) {
                return given;
            }
        }
    }

    #[cold]
    fn makes_room(&self, size: usize) -> bool {
        let spares = CAN_FAIL.get() && !IS_URGENT.get() && self.reserve.gone.load(Ordering::Relaxed) >= FEW;
        size <= RESERVE && !spares && self.reserve.release()
    }
}

// SAFETY: everything is left to the inner allocator, which is asked again where it gave nothing.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Reserving<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        self.with_reserve(layout.size(), || unsafe { self.inner.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        self.with_reserve(layout.size(), || unsafe { self.inner.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promise; without success the old block stays as it is.
        self.with_reserve(new_size, || unsafe { self.inner.realloc(old, layout, new_size) })
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.inner.dealloc(old, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> &'static Reserve {
        let reserve: &'static Reserve = Box::leak(Box::new(Reserve::new()));
        reserve.hold().expect("memory");
        reserve
    }

    /// Gives nothing as long as a reserve holds more than some parts.
    struct Full {
        reserve: &'static Reserve,
        needs: isize,
    }

    impl Full {
        fn is_full(&self) -> bool {
            self.reserve.gone.load(Ordering::Relaxed) < self.needs
        }
    }

    // SAFETY: everything that is given comes from the system's allocator.
    unsafe impl GlobalAlloc for Full {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller's promise.
            if self.is_full() { ptr::null_mut() } else { unsafe { System.alloc(layout) } }
        }

        unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
            // SAFETY: the caller's promise.
            unsafe { System.dealloc(old, layout) }
        }
    }

    #[test]
    fn an_allocation_that_gets_nothing_draws_on_the_reserve() {
        let reserve = held();
        let allocator = Reserving { inner: Full { reserve, needs: 3 }, reserve };
        let layout = Layout::new::<[u64; 4]>();
        // SAFETY: the layout is not empty; what was given is used as it was asked for, and given back.
        unsafe {
            let at = allocator.alloc(layout);
            assert!(!at.is_null() && reserve.is_short() && !reserve.is_nearly_gone());
            assert_eq!(reserve.gone.load(Ordering::Relaxed), 3);
            at.write(7);
            let at = allocator.realloc(at, layout, 64);
            assert_eq!(at.read(), 7);
            allocator.dealloc(at, Layout::new::<[u64; 8]>());
        }
        assert!(reserve.has_room() && !reserve.is_short());
    }

    #[test]
    fn what_can_fail_leaves_half_of_it_if_it_is_not_urgent() {
        let reserve = held();
        let allocator = Reserving { inner: Full { reserve, needs: PARTS as isize }, reserve };
        let much = |bytes| Layout::array::<u8>(bytes).expect("less than all");
        // SAFETY: the layouts are not empty; what was given is given back.
        unsafe {
            assert!(allocator.alloc_zeroed(much(RESERVE + 1)).is_null());
            assert!(!reserve.is_short());
            assert!(what_can_fail(|| allocator.alloc(much(PART))).is_null());
            assert!(reserve.gone.load(Ordering::Relaxed) == FEW && !reserve.is_nearly_gone());
            let at = urgently(|| what_can_fail(|| allocator.alloc(much(PART))));
            assert!(!at.is_null() && reserve.is_nearly_gone());
            allocator.dealloc(at, much(PART));
        }
        assert!(!CAN_FAIL.get() && !IS_URGENT.get());
    }

    #[test]
    fn what_is_given_up_is_not_held_again() {
        let reserve = held();
        reserve.give_up();
        assert!(!reserve.is_short() && !reserve.is_nearly_gone() && reserve.has_room() && !reserve.release());
        assert!(reserve.parts.iter().all(|part| part.load(Ordering::Relaxed).is_null()));
    }

    #[test]
    fn it_ends() {
        let reserve = held();
        let allocator = Reserving { inner: Full { reserve, needs: PARTS as isize + 1 }, reserve };
        // SAFETY: the layout is not empty; nothing is given.
        assert!(unsafe { allocator.alloc(Layout::new::<u64>()) }.is_null());
        assert!(reserve.is_nearly_gone() && !reserve.release());
        let nothing = Reserve::new();
        assert!(!nothing.release() && !nothing.is_short());
    }

    #[test]
    fn what_is_held_counts_and_takes_no_memory() {
        let reserve = held();
        let resident = reserve.parts.iter().filter(|part| {
            let mut pages = [0_u8; PART / super::super::page::PAGE];
            // SAFETY: a byte for each page of the mapping.
            let rc = unsafe { libc::mincore(part.load(Ordering::Relaxed), PART, pages.as_mut_ptr()) };
            rc != 0 || pages.iter().any(|page| page & 1 != 0)
        });
        assert_eq!(resident.count(), 0);
        assert!(has_free(RESERVE));
    }

    #[test]
    fn parts_that_are_released_and_regained_by_many_threads_are_counted() {
        let reserve = held();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..500).for_each(|_| assert!(reserve.release() && reserve.has_room())));
            }
        });
        assert!(reserve.has_room() && !reserve.is_short());
        assert_eq!(reserve.gone.load(Ordering::Relaxed), 0);
    }
}
