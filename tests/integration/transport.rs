//! The own FUSE transport without a kernel: bytes of requests in, bytes of answers out.

use std::io::{self, IoSlice};
use std::sync::Arc;

use kmsfs::env::ManualClock;
use kmsfs::fuse::{Dispatcher, Pending, Sink};
use kmsfs::store::{Fault, FaultPlan, Faulty, Memory, OpClass};
use kmsfs::sys::reserve::of_this_process;
use kmsfs::types::Timestamp;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::fixture::Fixture;

/// Numbers of linux/fuse.h.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const LINK: u32 = 13;
pub const OPEN: u32 = 14;
pub const READ: u32 = 15;
pub const WRITE: u32 = 16;
pub const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const MKDIR: u32 = 9;
const SETXATTR: u32 = 21;
const GETXATTR: u32 = 22;
pub const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const ACCESS: u32 = 34;
pub const CREATE: u32 = 35;
const INTERRUPT: u32 = 36;
const IOCTL: u32 = 39;
const BATCH_FORGET: u32 = 42;
const READDIRPLUS: u32 = 44;
const LSEEK: u32 = 46;
const TMPFILE: u32 = 51;
const STATX: u32 = 52;
const COPY_FILE_RANGE_64: u32 = 53;

/// Lengths of what stands in front of what the tests look at.
pub const OUT_HEADER: usize = 16;
pub const ENTRY: usize = 128;

/// A request as the kernel sends it.
pub fn frame(opcode: u32, node: u64, uid: u32, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let len = 40 + body.len() as u32;
    let words = [len, opcode, 7, 0, node as u32, (node >> 32) as u32, uid, uid, 1, 0];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend_from_slice(&body);
    bytes
}

pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_ne_bytes()).collect()
}

/// The requests of the fuzz corpus, by name: each a sequence that a mount could see.
pub fn sequences() -> Vec<(&'static str, Vec<u8>)> {
    let init = frame(INIT, 0, 0, &[&words(&[7, 45, 1 << 17, u32::MAX, u32::MAX]), &[0; 44]]);
    let create = frame(CREATE, 1, 0, &[&words(&[2, 0o644, 0o022, 0]), b"file\0"]);
    let write = frame(WRITE, 4, 0, &[&longs(&[1, 0]), &words(&[5, 0]), &longs(&[0]), &words(&[2, 0]), b"hello"]);
    let read = frame(READ, 4, 0, &[&longs(&[1, 0]), &words(&[4096, 0]), &longs(&[0]), &words(&[2, 0])]);
    let seek = frame(LSEEK, 4, 0, &[&longs(&[1, 0]), &words(&[3, 0])]);
    let release = frame(RELEASE, 4, 0, &[&longs(&[1]), &words(&[2, 0]), &longs(&[0])]);
    let set = frame(SETXATTR, 1, 0, &[&words(&[5, 0, 0, 0]), b"user.a\0", b"value"]);
    let get = frame(GETXATTR, 1, 0, &[&words(&[100, 0]), b"user.a\0"]);
    let opendir = frame(OPENDIR, 1, 0, &[&words(&[0, 0])]);
    let list =
        |code, handle| frame(code, 1, 0, &[&longs(&[handle, 0]), &words(&[4096, 0]), &longs(&[0]), &words(&[0, 0])]);
    let forget = frame(BATCH_FORGET, 0, 0, &[&words(&[1, 0]), &longs(&[4, 1])]);
    vec![
        ("file", [&init[..], &create, &write, &read, &seek, &release, &forget].concat()),
        ("attributes", [&init[..], &set, &get, &frame(GETATTR, 1, 0, &[&[0; 16]])].concat()),
        // Without INIT nothing was agreed on: directories are opened.
        ("listing", [&opendir[..], &list(READDIR, 1), &list(READDIRPLUS, 1)].concat()),
        ("unopened", [&init[..], &list(READDIR, 0), &list(READDIRPLUS, 0)].concat()),
    ]
}

/// The last answer, whole.
#[derive(Default)]
pub struct Answers(pub Vec<Vec<u8>>);

impl Sink for Answers {
    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.0.push(parts.iter().flat_map(|part| part.iter().copied()).collect());
        Ok(())
    }
}

/// A volume and what it is asked.
struct Mount {
    fixture: Fixture<Faulty<Memory>>,
    plan: FaultPlan,
    dispatcher: Dispatcher<Faulty<Memory>>,
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

impl Mount {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_700_000_000)));
        let plan = FaultPlan::new();
        let fixture = Fixture::new(Faulty::new(Memory::new(clock.clone()), plan.clone()), clock);
        let dispatcher = Dispatcher::new(Arc::new(fixture.mount()), false);
        Self { fixture, plan, dispatcher }
    }

    /// All answers to a request, and what is to be answered later.
    fn raw(&self, request: &[u8]) -> (Vec<Vec<u8>>, Option<Pending>) {
        let mut answers = Answers::default();
        let pending = self.dispatcher.handle(request, &mut Vec::new(), &mut answers);
        (answers.0, pending)
    }

    /// All answers to a request that waited.
    fn finish(&self, pending: Pending) -> Vec<Vec<u8>> {
        let mut answers = Answers::default();
        self.dispatcher.finish(pending, &mut answers);
        answers.0
    }

    /// The one answer to a request by `uid`, without its header.
    fn ask_as(&self, uid: u32, opcode: u32, node: u64, parts: &[&[u8]]) -> Result<Vec<u8>, Errno> {
        let (mut answers, pending) = self.raw(&frame(opcode, node, uid, parts));
        if let Some(pending) = pending {
            assert!(opcode == FSYNC && answers.is_empty(), "only a flush that failed is answered later");
            answers = self.finish(pending);
        }
        let [answer] = &answers[..] else { panic!("{} answers", answers.len()) };
        assert_eq!((u32_at(answer, 0) as usize, u64_at(answer, 8)), (answer.len(), 7));
        match u32_at(answer, 4).cast_signed() {
            0 => Ok(answer[OUT_HEADER..].to_vec()),
            error => Err(Errno::from_raw_os_error(-error)),
        }
    }

    fn ask(&self, opcode: u32, node: u64, parts: &[&[u8]]) -> Result<Vec<u8>, Errno> {
        self.ask_as(0, opcode, node, parts)
    }

    /// Creates a file; its node and handle.
    fn create(&self, name: &[u8], mode: u32) -> (u64, u64) {
        let made = self.ask(CREATE, 1, &[&words(&[2, mode, 0, 0]), name, &[0]]).unwrap();
        (u64_at(&made, 0), u64_at(&made, ENTRY))
    }

    fn write(&self, node: u64, handle: u64, data: &[u8], flags: u32) -> Result<Vec<u8>, Errno> {
        let size = data.len() as u32;
        self.ask(WRITE, node, &[&longs(&[handle, 0]), &words(&[size, flags]), &longs(&[0]), &words(&[2, 0]), data])
    }

    fn read(&self, node: u64, handle: u64) -> Result<Vec<u8>, Errno> {
        self.ask(READ, node, &[&longs(&[handle, 0]), &words(&[4096, 0]), &longs(&[0]), &words(&[0, 0])])
    }

    fn open(&self, node: u64, flags: i32, open_flags: u32) -> Result<(u64, u32), Errno> {
        let opened = self.ask(OPEN, node, &[&words(&[flags.cast_unsigned(), open_flags])])?;
        Ok((u64_at(&opened, 0), u32_at(&opened, 8)))
    }

    /// Size, mode and number of names.
    fn attributes(&self, node: u64) -> (u64, u32, u32) {
        let answer = self.ask(GETATTR, node, &[&[0; 16]]).unwrap();
        (u64_at(&answer, 24), u32_at(&answer, 76), u32_at(&answer, 80))
    }

    fn setattr(&self, node: u64, valid: u32, size: u64) -> Result<Vec<u8>, Errno> {
        self.ask(SETATTR, node, &[&words(&[valid, 0]), &longs(&[0, size, 0, 0, 0, 0]), &words(&[0; 8])])
    }
}

#[test]
fn init_agrees_and_an_old_kernel_is_refused() {
    let mount = Mount::new();
    let answer = mount.ask(INIT, 0, &[&words(&[7, 45, 1 << 17, u32::MAX, u32::MAX]), &[0; 44]]).unwrap();
    assert_eq!((answer.len(), u32_at(&answer, 0), u32_at(&answer, 4)), (64, 7, 45));
    assert_eq!((u32_at(&answer, 20), u32_at(&answer, 28) & 0xffff), (1 << 20, 256), "1 MiB requests");
    assert_eq!(mount.ask(INIT, 0, &[&words(&[7, 30, 0, 0])]), Err(Errno::PROTO));
}

#[test]
fn a_file_is_made_written_read_and_closed() {
    let mount = Mount::new();
    let (node, handle) = mount.create(b"file", 0o644);
    assert_eq!(mount.write(node, handle, b"hello", 0).unwrap(), words(&[5, 0]));
    assert_eq!(mount.read(node, handle).unwrap(), b"hello");
    assert_eq!(mount.attributes(node), (5, libc_regular() | 0o644, 1));
    let found = mount.ask(LOOKUP, 1, &[b"file\0"]).unwrap();
    assert_eq!((found.len(), u64_at(&found, 0), u64_at(&found, 16)), (ENTRY, node, 3600));
    let missing = mount.ask(LOOKUP, 1, &[b"none\0"]).unwrap();
    assert_eq!((u64_at(&missing, 0), u64_at(&missing, 16)), (0, 3600), "a name that is not there is remembered");
    let close = [&longs(&[handle])[..], &words(&[2, 0]), &longs(&[0])].concat();
    assert_eq!(mount.ask(RELEASE, node, &[&close]).unwrap(), b"");
    assert_eq!(mount.read(node, handle), Err(Errno::BADF));
}

fn libc_regular() -> u32 {
    0o100_000
}

#[test]
fn requests_without_an_answer_get_none() {
    let mount = Mount::new();
    let (node, _) = mount.create(b"file", 0o644);
    assert!(mount.raw(&frame(FORGET, node, 0, &[&longs(&[1])])).0.is_empty());
    assert!(mount.raw(&frame(BATCH_FORGET, 0, 0, &[&words(&[1, 0]), &longs(&[node, 1])])).0.is_empty());
}

#[test]
fn what_is_not_served_says_so_once_and_for_all() {
    let mount = Mount::new();
    for opcode in [INTERRUPT, ACCESS, 25, 4095, u32::MAX] {
        assert_eq!(mount.ask(opcode, 1, &[&[0; 16]]), Err(Errno::NOSYS), "{opcode}");
    }
}

#[test]
fn what_cannot_be_read_is_refused() {
    let mount = Mount::new();
    assert_eq!(mount.ask(LOOKUP, 1, &[b"no end"]), Err(Errno::INVAL));
    assert!(mount.raw(&[1; 39]).0.is_empty(), "there is nobody to answer");
    let mut longer = frame(GETATTR, 1, 0, &[&[0; 16]]);
    longer.push(0);
    assert_eq!(mount.raw(&longer).0[0][4..8], (-Errno::INVAL.raw_os_error()).to_ne_bytes());
}

#[test]
fn a_panic_is_answered_with_eio_and_the_mount_goes_on() {
    let mount = Mount::new();
    let (node, handle) = mount.create(b"file", 0o644);
    mount.write(node, handle, b"hello", 0).unwrap();
    mount.plan.inject(Fault::panic(&[OpClass::Read], 0));
    assert_eq!(mount.read(node, handle), Err(Errno::IO));
    assert_eq!(mount.plan.injected(), 1);
    assert_eq!(mount.read(node, handle).unwrap(), b"hello");
}

#[test]
fn a_listing_has_what_fits_and_goes_on_behind_it() {
    let mount = Mount::new();
    for name in [b"one", b"two", b"six"] {
        mount.create(name, 0o600);
    }
    let opened = u64_at(&mount.ask(OPENDIR, 1, &[&words(&[0, 0])]).unwrap(), 0);
    for (opcode, front, handle) in [(READDIR, 0, opened), (READDIRPLUS, ENTRY, opened), (READDIRPLUS, ENTRY, 0)] {
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let room = 2 * (front as u32 + 32);
            let request = [&longs(&[handle, offset])[..], &words(&[room, 0]), &longs(&[0]), &words(&[0, 0])].concat();
            let mut rest = &mount.ask(opcode, 1, &[&request]).unwrap()[..];
            assert!(rest.len() <= room as usize);
            if rest.is_empty() {
                break;
            }
            while !rest.is_empty() {
                let len = u32_at(rest, front + 16) as usize;
                offset = u64_at(rest, front + 8);
                names.push(rest[front + 24..front + 24 + len].to_vec());
                rest = &rest[(front + 24 + len).next_multiple_of(8)..];
            }
        }
        names.sort();
        assert_eq!(names, [&b"."[..], b"..", b"one", b"six", b"two"]);
    }
}

#[test]
fn directories_are_listed_and_synced_unopened_where_the_kernel_can() {
    let mount = Mount::new();
    mount.ask(INIT, 0, &[&words(&[7, 45, 1 << 17, 1 << 24, 0]), &[0; 44]]).unwrap();
    assert_eq!(mount.ask(OPENDIR, 1, &[&words(&[0, 0])]), Err(Errno::NOSYS));
    mount.ask(30, 1, &[&longs(&[0]), &words(&[0, 0])]).expect("fsyncdir");
    let list = |offset: u64| {
        let request = [&longs(&[0, offset])[..], &words(&[64, 0]), &longs(&[0]), &words(&[0, 0])].concat();
        mount.ask(READDIR, 1, &[&request]).unwrap()
    };
    // `.` and `..`; then nothing, until something is made: what another listing read before is not what is there now.
    let first = list(0);
    let end = u64_at(&first, 32 + 8);
    assert!(list(end).is_empty());
    list(0);
    mount.create(b"new", 0o600);
    assert_eq!(list(end)[24..27], *b"new");
}

#[test]
fn a_file_without_a_name_gets_one_and_is_the_same() {
    let mount = Mount::new();
    let made = mount.ask(TMPFILE, 1, &[&words(&[2, 0o640, 0o022, 0]), b"/\0"]).unwrap();
    let (node, handle) = (u64_at(&made, 0), u64_at(&made, ENTRY));
    mount.write(node, handle, b"hello", 0).unwrap();
    assert_eq!(mount.attributes(node), (5, libc_regular() | 0o640, 0));
    let long_name = [&[b'n'; 255][..], &[0]].concat();
    let linked = mount.ask(LINK, 1, &[&longs(&[node]), &long_name]).unwrap();
    assert_eq!(u64_at(&linked, 0), node);
    assert_eq!(mount.attributes(node).2, 1);
    // Beside the mount's own state: what lies in the backing is a whole file.
    let again = Dispatcher::new(Arc::new(mount.fixture.mount()), false);
    let other =
        Mount { fixture: mount.fixture.on(mount.fixture.backing.clone()), plan: FaultPlan::new(), dispatcher: again };
    let found = u64_at(&other.ask(LOOKUP, 1, &[&long_name]).unwrap(), 0);
    let (opened, _) = other.open(found, 0, 0).unwrap();
    assert_eq!(other.read(found, opened).unwrap(), b"hello");
}

#[test]
fn a_file_whose_last_name_went_gets_no_other() {
    let mount = Mount::new();
    let (node, _) = mount.create(b"file", 0o600);
    mount.ask(10, 1, &[b"file\0"]).unwrap();
    assert_eq!(mount.ask(LINK, 1, &[&longs(&[node]), b"again\0"]), Err(Errno::NOENT));
}

#[test]
fn statx_has_the_time_of_birth() {
    let mount = Mount::new();
    let answer = mount.ask(STATX, 1, &[&[0; 24]]).unwrap();
    // Mask, and seconds of the birth time, within `struct fuse_statx`.
    assert_eq!((answer.len(), u32_at(&answer, 32)), (288, 0xfff));
    assert_eq!(u64_at(&answer, 32 + 80), 1_700_000_000);
}

#[test]
fn opening_can_empty_a_file_whose_key_cannot_be_used() {
    let mount = Mount::new();
    let (node, handle) = mount.create(b"file", 0o600);
    mount.write(node, handle, b"hello", 0).unwrap();
    mount.ask(RELEASE, node, &[&longs(&[handle]), &words(&[2, 0]), &longs(&[0])]).unwrap();
    let cold = Mount { dispatcher: Dispatcher::new(Arc::new(mount.fixture.mount()), false), ..mount };
    let node = u64_at(&cold.ask(LOOKUP, 1, &[b"file\0"]).unwrap(), 0);
    cold.fixture.set_key_enabled(false);
    assert_eq!(cold.open(node, libc::O_WRONLY, 0), Err(Errno::ACCESS));
    assert_eq!(cold.attributes(node).0, 5);
    let (handle, flags) = cold.open(node, libc::O_WRONLY | libc::O_TRUNC, 0).unwrap();
    assert_eq!((cold.attributes(node).0, flags & 1), (0, 1), "direct I/O, so that writing fails at once");
    assert_eq!(cold.write(node, handle, b"new", 0), Err(Errno::ACCESS));
    cold.fixture.set_key_enabled(true);
    assert_eq!(cold.write(node, handle, b"new", 0).unwrap(), words(&[3, 0]));
    let (_, flags) = cold.open(node, libc::O_WRONLY | libc::O_TRUNC, 0).unwrap();
    assert_eq!(flags & 1, 0);
}

#[test]
fn setuid_and_setgid_go_exactly_when_the_kernel_says_so() {
    const KILL_ON_WRITE: u32 = 1 << 2;
    const KILL_ON_OPEN: u32 = 1;
    const SIZE: u32 = 1 << 3;
    const KILL: u32 = 1 << 11;
    let mount = Mount::new();
    let set = |mode: u32| {
        let (node, handle) = mount.create(format!("f{mode:o}{}", mount.plan.count(OpClass::ALL)).as_bytes(), 0o600);
        let change = [&words(&[1, 0])[..], &longs(&[0; 6]), &words(&[0, 0, 0, mode, 0, 0, 0, 0])].concat();
        mount.ask(SETATTR, node, &[&change]).unwrap();
        (node, handle)
    };
    let mode = |node| mount.attributes(node).1 & 0o7777;
    let (node, handle) = set(0o6755);
    mount.write(node, handle, b"x", 0).unwrap();
    mount.setattr(node, SIZE, 5).unwrap();
    mount.open(node, libc::O_RDWR | libc::O_TRUNC, 0).unwrap();
    assert_eq!(mode(node), 0o6755, "by somebody who may keep them");
    mount.write(node, handle, b"x", KILL_ON_WRITE).unwrap();
    assert_eq!(mode(node), 0o755);
    let (node, _) = set(0o6755);
    let answer = mount.setattr(node, SIZE | KILL, 5).unwrap();
    assert_eq!((mode(node), u32_at(&answer, 76) & 0o7777), (0o755, 0o755));
    let (node, _) = set(0o6755);
    mount.open(node, libc::O_RDWR | libc::O_TRUNC, KILL_ON_OPEN).unwrap();
    assert_eq!(mode(node), 0o755);
    let (node, handle) = set(0o6745);
    mount.write(node, handle, b"x", KILL_ON_WRITE).unwrap();
    assert_eq!(mode(node), 0o2745, "setgid without group execution is no right");
    let (node, _) = set(0o2745);
    let acl = [2, 0, 0, 0].iter().copied().chain(acl_entries()).collect::<Vec<u8>>();
    let size = acl.len() as u32;
    let name = b"system.posix_acl_access\0";
    mount.ask(SETXATTR, node, &[&words(&[size, 0, 0, 0]), name, &acl]).unwrap();
    assert_eq!(mode(node), 0o2745);
    mount.ask(SETXATTR, node, &[&words(&[size, 0, 1, 0]), name, &acl]).unwrap();
    assert_eq!(mode(node), 0o745);
    let dir = u64_at(&mount.ask(MKDIR, 1, &[&words(&[0o2745, 0]), b"dir\0"]).unwrap(), 0);
    mount.ask(SETXATTR, dir, &[&words(&[size, 0, 1, 0]), name, &acl]).unwrap();
    assert_eq!(mode(dir), 0o745, "of a directory too");
}

#[test]
fn a_request_that_lacks_a_descriptor_is_served_once_more_and_done_once() {
    let mount = Mount::new();
    let lack = |on, after| mount.plan.inject(Fault::once(on, after, Errno::MFILE));
    // The last step of a mkdir: the directory has its name already.
    lack(&[OpClass::SetAttr], 0);
    mount.ask(MKDIR, 1, &[&words(&[0o050, 0]), b"d\0"]).expect("made once");
    assert_eq!(mount.plan.injected(), 1);
    assert_eq!(mount.ask(MKDIR, 1, &[&words(&[0o050, 0]), b"d\0"]), Err(Errno::EXIST));
    lack(&[OpClass::Make], 0);
    let (node, _) = mount.create(b"f", 0o2745);
    // An attribute that is there already when the mode is found to be one that cannot be changed.
    let acl = [2, 0, 0, 0].iter().copied().chain(acl_entries()).collect::<Vec<u8>>();
    let create = words(&[acl.len() as u32, libc::XATTR_CREATE.cast_unsigned(), 1, 0]);
    lack(&[OpClass::SetAttr], 0);
    let set = mount.ask(SETXATTR, node, &[&create, b"system.posix_acl_access\0", &acl]);
    assert_eq!(set, Err(Errno::MFILE), "not what the second try would find");
}

const SHORT_OF_MEMORY: &str = "KMSFS_TEST_SHORT_OF_MEMORY";

#[test]
fn without_memory_what_would_keep_some_is_refused_and_has_changed_nothing() {
    run_alone("transport::a_process_that_is_short_of_memory");
}

/// Runs a test of this binary in a process of its own, which [`is_alone`].
pub fn run_alone(test: &str) {
    let mut child = std::process::Command::new(std::env::current_exe().expect("known"));
    let child = child
        .args(["--exact", test, "--test-threads=1"])
        .env(SHORT_OF_MEMORY, test)
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("started");
    let said = String::from_utf8_lossy(&child.stdout);
    // A test that has another name by now would not be run, which is no failure.
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

/// Whether this process was started for the sake of a test.
pub fn is_alone(test: &str) -> bool {
    std::env::var_os(SHORT_OF_MEMORY).is_some_and(|named| named == test)
}

/// Has so many parts of the reserve go back to the system.
pub fn give_back(parts: usize) {
    let reserve = of_this_process();
    assert!((0..parts).all(|_| reserve.release()) && reserve.is_short());
}

/// Leaves this process less than the reserve needs to regain any part of it, or takes that limit away.
pub fn limit_memory(some: bool) {
    let status = std::fs::read_to_string("/proc/self/status").expect("read");
    let data = status.lines().find_map(|line| line.strip_prefix("VmData:")).expect("there");
    let bytes = data.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024 + (768 << 10);
    let current = some.then_some(bytes);
    setrlimit(Resource::Data, Rlimit { current, maximum: None }).expect("set");
}

/// Runs in a process of its own, whose limit it lowers.
#[test]
fn a_process_that_is_short_of_memory() {
    if !is_alone("transport::a_process_that_is_short_of_memory") {
        return;
    }
    let mount = Mount::new();
    let (node, handle) = mount.create(b"f", 0o644);
    mount.write(node, handle, b"hello", 0).expect("written");
    mount.read(node, handle).expect("read");
    // A reference for the FORGET below.
    mount.ask(LOOKUP, 1, &[b"f\0"]).expect("found");
    let reserve = of_this_process();
    reserve.hold().expect("memory");
    let keeping = || {
        [
            mount.ask(LOOKUP, 1, &[b"f\0"]),
            mount.ask(CREATE, 1, &[&words(&[2, 0o644, 0, 0]), b"g\0"]),
            mount.ask(TMPFILE, 1, &[&words(&[2, 0o644, 0, 0])]),
            mount.ask(MKDIR, 1, &[&words(&[0o755, 0]), b"d\0"]),
            mount.ask(LINK, 1, &[&longs(&[node]), b"l\0"]),
            mount.ask(OPEN, node, &[&words(&[0, 0])]),
            mount.ask(OPENDIR, 1, &[&words(&[0, 0])]),
            mount.ask(READDIR, 1, &[&longs(&[0, 0]), &words(&[4096, 0]), &longs(&[0]), &words(&[0, 0])]),
        ]
    };
    let flush = || mount.ask(FSYNC, node, &[&longs(&[handle]), &words(&[0, 0])]);

    give_back(4);
    limit_memory(true);
    let refused = keeping();
    // What is open goes on.
    let (written, read) = (mount.write(node, handle, b"HELLO", 0), mount.read(node, handle));
    let flushed = flush();
    give_back(8);
    limit_memory(true);
    let hardly = [keeping()[1].clone(), mount.read(node, handle), mount.write(node, handle, b"lost!", 0)];
    let flushed_again = flush();
    let forgotten = mount.raw(&frame(FORGET, node, 0, &[&longs(&[1])])).0.len();
    let attributes = mount.ask(GETATTR, node, &[&[0; 16]]);
    limit_memory(false);

    assert_eq!(refused, [const { Err(Errno::NOMEM) }; 8]);
    assert_eq!((written, read), (Ok(words(&[5, 0])), Ok(b"HELLO".to_vec())));
    assert_eq!(hardly, [const { Err(Errno::NOMEM) }; 3]);
    assert!(
        flushed.is_ok() && flushed_again.is_ok() && attributes.is_ok(),
        "{flushed:?} {flushed_again:?} {attributes:?}"
    );
    assert_eq!(forgotten, 0);
    // With memory everything works: each was not done before.
    let served = keeping();
    assert!(served.iter().all(Result::is_ok), "{served:?}");
    assert!(!reserve.is_short());
    assert_eq!(mount.read(node, handle), Ok(b"HELLO".to_vec()));
}

/// Owner rwx, group r, others rx: the entries of an ACL as the kernel passes them.
fn acl_entries() -> impl Iterator<Item = u8> {
    [(1_u16, 7_u16), (4, 4), (32, 5)]
        .into_iter()
        .flat_map(|(tag, perm)| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &u32::MAX.to_le_bytes()].concat())
}

#[test]
fn a_range_is_copied_without_passing_the_kernel() {
    let mount = Mount::new();
    let (from, from_handle) = mount.create(b"from", 0o600);
    let (to, to_handle) = mount.create(b"to", 0o600);
    mount.write(from, from_handle, b"hello, world", 0).unwrap();
    let copy = |len| mount.ask(COPY_FILE_RANGE_64, from, &[&longs(&[from_handle, 7, to, to_handle, 2, len, 0])]);
    assert_eq!(copy(3).unwrap(), longs(&[3]));
    assert_eq!(copy(u64::MAX).unwrap(), longs(&[5]), "as far as the source goes");
    assert_eq!(mount.read(to, to_handle).unwrap(), b"\0\0world");
    assert_eq!(mount.ask(COPY_FILE_RANGE_64, from, &[&longs(&[99, 0, to, to_handle, 0, 1, 0])]), Err(Errno::BADF));
}

#[test]
fn a_seek_in_a_file_with_writers_waits_for_write_back() {
    let mount = Mount::new();
    let (node, handle) = mount.create(b"file", 0o600);
    mount.write(node, handle, b"hello", 0).unwrap();
    let seek = |handle| frame(LSEEK, node, 0, &[&longs(&[handle, 0]), &words(&[3, 0])]);
    for expected in [-libc::EIO, 0] {
        let (answers, pending) = mount.raw(&seek(handle));
        assert!(answers.is_empty());
        if expected != 0 {
            mount.plan.inject(Fault::panic(&[OpClass::Stat], 0));
        }
        let answers = mount.finish(pending.expect("it waits"));
        assert_eq!(
            (answers.len(), u32_at(&answers[0], 4).cast_signed()),
            (1, expected),
            "one that panics, then a good one"
        );
    }
    mount.ask(RELEASE, node, &[&longs(&[handle]), &words(&[2, 0]), &longs(&[0])]).unwrap();
    let (reader, _) = mount.open(node, libc::O_RDONLY, 0).unwrap();
    let (answers, pending) = mount.raw(&seek(reader));
    assert!(pending.is_none());
    assert_eq!(answers[0][OUT_HEADER..], longs(&[0]));
    assert_eq!(mount.ask(FSYNC, node, &[&longs(&[reader]), &words(&[0, 0])]).unwrap(), b"");
}

#[test]
fn a_flush_that_failed_is_told_when_the_kernel_has_dropped_its_pages() {
    let mount = Mount::new();
    let (node, handle) = mount.create(b"file", 0o600);
    mount.write(node, handle, b"hello", 0).unwrap();
    let flush = frame(FSYNC, node, 0, &[&longs(&[handle]), &words(&[0, 0])]);
    mount.plan.inject(Fault::once(&[OpClass::Sync], 0, Errno::NOSPC));
    let (answers, pending) = mount.raw(&flush);
    assert!(answers.is_empty(), "who is told would go on reading what is not stored");
    let told = mount.finish(pending.expect("it waits"));
    assert_eq!((told.len(), u32_at(&told[0], 4).cast_signed()), (1, -libc::ENOSPC));
    let (answers, pending) = mount.raw(&flush);
    assert_eq!((pending, u32_at(&answers[0], 4)), (None, 0), "told once");
}

#[test]
fn inode_flags_of_a_file_with_writers_wait_for_write_back() {
    const SET_FLAGS: u32 = 0x4008_6602;
    let mount = Mount::new();
    let (node, handle) = mount.create(b"file", 0o600);
    let set = |handle| {
        frame(IOCTL, node, 0, &[&longs(&[handle]), &words(&[0, SET_FLAGS]), &longs(&[0]), &words(&[4, 4, 16])])
    };
    let (answers, pending) = mount.raw(&set(handle));
    assert!(answers.is_empty() && pending.is_some());
    mount.ask(RELEASE, node, &[&longs(&[handle]), &words(&[2, 0]), &longs(&[0])]).unwrap();
    let (reader, _) = mount.open(node, libc::O_RDONLY, 0).unwrap();
    let (answers, pending) = mount.raw(&set(reader));
    assert!(pending.is_none());
    assert_eq!(u32_at(&answers[0], 4), (-libc::ENOTTY).cast_unsigned(), "memory has none");
}
