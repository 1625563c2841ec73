//! What a call of the key manager costs once it is warm, counted and not timed: pieces of memory, random draws, looks at
//! the clock, and system calls, of which there are none. Whoever makes a call costlier has to raise a number here.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{io, mem, ptr};

use kmsfs::env::{Clock, Entropy, SystemClock, SystemEntropy};
use kmsfs::kms::Engine;
use kmsfs::kms::custody::{Home, NewHome, NewSlot};
use kmsfs::kms::model::*;
use kmsfs::types::{EncryptionContext, Timestamp};
use rustix::fs::{FlockOperation, flock};

/// The allocator of all integration tests: the system's, counting for each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Pieces of memory that this thread has asked for so far.
pub fn allocations() -> usize {
    ALLOCATIONS.with(Cell::get)
}

fn count() {
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
}

// SAFETY: everything is left to the system's allocator; the counter is plain memory of the thread and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(old, layout, new_size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(old, layout) }
    }
}

#[derive(Default)]
struct CountingClock(AtomicUsize);

impl Clock for CountingClock {
    fn now(&self) -> Timestamp {
        self.0.fetch_add(1, Ordering::SeqCst);
        SystemClock.now()
    }
}

/// Draws of the calling threads come from a store, so that they are no system calls here.
#[derive(Default)]
struct CountingEntropy(AtomicUsize);

impl Entropy for CountingEntropy {
    fn fill(&self, out: &mut [u8]) {
        let n = self.0.fetch_add(1, Ordering::SeqCst);
        if FORBIDDEN.with(Cell::get) {
            out.iter_mut().zip(n.to_le_bytes().iter().cycle()).for_each(|(out, byte)| *out = *byte);
        } else {
            SystemEntropy.fill(out);
        }
    }
}

thread_local! {
    static FORBIDDEN: Cell<bool> = const { Cell::new(false) };
}

/// From now on, system calls of this thread fail, but for those of locks, of the allocator and of a thread's end.
fn forbid_system_calls() -> io::Result<()> {
    const ALLOWED: [libc::c_long; 12] = [
        libc::SYS_futex,
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rseq,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let step = |code: u32, jt, k| libc::sock_filter { code: code as u16, jt, jf: 0, k };
    // The number of the call is the first word of what a filter sees.
    let mut filter = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    for (at, call) in ALLOWED.into_iter().enumerate() {
        let to_the_end = (ALLOWED.len() - at) as u8;
        filter.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, to_the_end, call as u32));
    }
    filter.push(step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32));
    filter.push(step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: plain system calls about this thread; the program lives until they return.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, ptr::from_ref(&program)) == 0
    };
    FORBIDDEN.with(|forbidden| forbidden.set(done));
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What calls cost, each on average.
#[derive(Debug)]
struct Cost {
    allocations: usize,
    /// From the source; most come from the stock.
    draws: usize,
    looks_at_the_clock: usize,
}

const CALLS: usize = 20;

#[test]
fn a_warm_call_makes_no_system_call_and_allocates_little() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("kms");
    let new = NewHome::with_slots(vec![NewSlot::KeyFile]);
    let (home, _) = Home::create(&path, new, &SystemClock, &SystemEntropy).expect("a home");
    let (clock, entropy) = (Arc::new(CountingClock::default()), Arc::new(CountingEntropy::default()));
    let engine = Engine::start(home, clock.clone(), entropy.clone()).expect("opened");
    let caller = engine.local_caller("alice").via_service("kmsfs.us-east-1.local");
    let arn = engine.create_key(&caller, CreateKeyRequest::default()).expect("created").key_metadata.arn.to_string();
    let context = || EncryptionContext::new().with("kmsfs:volume", "0f1e2d3c").with("kmsfs:fmt", "1");
    let data_key = || GenerateDataKeyRequest {
        key_id: arn.clone(),
        encryption_context: context(),
        number_of_bytes: Some(32),
        ..Default::default()
    };
    let blob = engine.generate_data_key(&caller, data_key()).expect("generated").ciphertext_blob;
    let decrypt =
        || DecryptRequest { ciphertext_blob: Some(blob.clone()), encryption_context: context(), ..Default::default() };
    let describe = || DescribeKeyRequest { key_id: arn.clone(), ..Default::default() };

    // The log's thread waits for this lock, so that it commits nothing meanwhile: after a commit, of whomever, the next
    // call reads what has changed.
    engine.audit().flush().expect("flushed");
    let lock = File::options().write(true).open(path.join("audit/lock")).expect("there");
    flock(&lock, FlockOperation::LockExclusive).expect("locked");

    let cost_of = |requests: Vec<Box<dyn FnOnce() + '_>>| {
        let now = || Cost {
            allocations: allocations(),
            draws: entropy.0.load(Ordering::SeqCst),
            looks_at_the_clock: clock.0.load(Ordering::SeqCst),
        };
        let (before, calls) = (now(), requests.len());
        requests.into_iter().for_each(|call| call());
        let after = now();
        Cost {
            allocations: (after.allocations - before.allocations).div_ceil(calls),
            draws: (after.draws - before.draws).div_ceil(calls),
            looks_at_the_clock: (after.looks_at_the_clock - before.looks_at_the_clock).div_ceil(calls),
        }
    };
    let measure = || {
        // Requests are the caller's affair: they are made before; answers are kept until after.
        fn calls<'c, R: 'c>(
            requests: impl Iterator<Item = R>,
            call: impl Fn(R) + Copy + 'c,
        ) -> Vec<Box<dyn FnOnce() + 'c>> {
            requests.map(|request| Box::new(move || call(request)) as Box<dyn FnOnce()>).collect()
        }
        let generated = calls((0..CALLS).map(|_| data_key()), |request| {
            mem::forget(engine.generate_data_key(&caller, request).expect("generated"));
        });
        let decrypted = calls((0..CALLS).map(|_| decrypt()), |request| {
            mem::forget(engine.decrypt(&caller, request).expect("decrypted"));
        });
        let described = calls((0..CALLS).map(|_| describe()), |request| {
            mem::forget(engine.describe_key(&caller, request).expect("described"));
        });
        [cost_of(generated), cost_of(decrypted), cost_of(described)]
    };
    // The first calls fill what is kept: buffers of the queue, parsed policies, cipher tables.
    measure();
    measure();
    let costs = std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            measure();
            if let Err(error) = forbid_system_calls() {
                let text = format!("system calls are not watched here: {error}\n");
                io::Write::write_all(&mut io::stderr(), text.as_bytes()).expect("standard error");
            }
            measure()
        });
        inside.join().expect("no system call was missed")
    });
    flock(&lock, FlockOperation::Unlock).expect("unlocked");
    let most = |allocations, draws| Cost { allocations, draws, looks_at_the_clock: 1 };
    let operations = ["GenerateDataKey", "Decrypt", "DescribeKey"];
    for ((operation, cost), most) in operations.into_iter().zip(costs).zip([most(11, 1), most(9, 0), most(7, 0)]) {
        let within = cost.allocations <= most.allocations
            && cost.draws <= most.draws
            && cost.looks_at_the_clock <= most.looks_at_the_clock;
        assert!(within, "{operation}: {cost:?} where {most:?} is allowed");
    }
    let report = engine.audit().verify().expect("verified");
    assert_eq!(report.first_break, None);
}

/// The header that a call looks at is memory shared with other processes: a real one changes the key here.
#[test]
fn a_key_disabled_by_another_process_is_refused_at_the_next_call() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("kms");
    let new = NewHome::with_slots(vec![NewSlot::KeyFile]);
    let (home, _) = Home::create(&path, new, &SystemClock, &SystemEntropy).expect("a home");
    let engine = Engine::start(home, Arc::new(SystemClock), Arc::new(SystemEntropy)).expect("opened");
    let caller = engine.local_caller("alice");
    let key = engine.create_key(&caller, CreateKeyRequest::default()).expect("created").key_metadata.key_id;
    let data_key = || {
        let request = GenerateDataKeyRequest { key_id: key.clone(), number_of_bytes: Some(32), ..Default::default() };
        engine.generate_data_key(&caller, request).map(drop).map_err(|error| error.code())
    };
    let other = |word: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kmsfs"));
        let output = command.arg("--kms-home").arg(&path).args(["key", word, &key]).output().expect("started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    for _ in 0..3 {
        assert_eq!(data_key(), Ok(()));
        other("disable");
        assert_eq!(data_key(), Err("DisabledException"));
        other("enable");
    }
    assert_eq!(data_key(), Ok(()));
}
