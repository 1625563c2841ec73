//! What requests cost in instructions, counted by callgrind and not timed, from the kernel's bytes to the answer's. Each is
//! compared with what the bare cipher takes for one unit in the same process, and with the same request where there are ten
//! times as many entries, bytes or open files. Whoever makes a request costlier has to raise a number here.

use std::io::{self, IoSlice, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::{env, fs, ptr};

use kmsfs::crypto::aead::Backend;
use kmsfs::crypto::secret::SecretKey;
use kmsfs::env::ManualClock;
use kmsfs::format::header::StaticHeader;
use kmsfs::format::keys::FileKeys;
use kmsfs::format::size::{Geometry, UNIT};
use kmsfs::format::unit;
use kmsfs::fuse::{Dispatcher, Sink};
use kmsfs::store::Memory;
use kmsfs::types::{FileId, Timestamp, VolumeId};

use crate::fixture::Fixture;
use crate::transport::{frame, longs, words};

/// Set in the process that callgrind watches.
const WATCHED: &str = "KMSFS_TEST_INSTRUCTIONS";
/// Where to leave what callgrind found, for `callgrind_annotate --inclusive=yes FILE.N`: part 1 is the bare cipher, then follow
/// [`ALLOWED`] and [`PAIRS`].
const KEEP: &str = "KMSFS_TEST_CALLGRIND";
const MIB: u64 = 1 << 20;
/// Each cost is an average over this many.
const TIMES: u64 = 32;

/// Requests, and how many times the cipher's work on one unit each may take: for streams a twelfth more than it does, for what is
/// short a quarter, since tables with random seeds differ from run to run. Long copies and the wiping of stacks weigh much, since
/// callgrind counts one instruction for each byte of a string instruction.
const ALLOWED: [(&str, f64); 11] = [
    ("overwrite 4 KiB", 5.8),
    ("overwrite 1 MiB", 312.0),
    ("read 4 KiB", 2.9),
    ("read 1 MiB", 299.0),
    ("get attributes", 0.28),
    ("look up", 2.5),
    ("open", 0.28),
    ("create", 3.3),
    ("first write of 2 KiB", 19.5),
    ("release", 0.35),
    ("unlink", 2.95),
];

/// How many times the former the latter may take, which has ten times as much around it: the trees of the memory that stands
/// for the ciphertext directory grow a little.
const FLAT: f64 = 1.15;
const PAIRS: [(&str, &str); 4] = [
    ("among 100 names", "look up among 1,000 names"),
    ("among 100 names", "create among 1,000 names"),
    ("in 1 MiB", "read 4 KiB in 10 MiB"),
    ("beside 10 open files", "read 4 KiB beside 100 open files"),
];

/// What callgrind counts, one part of its output for each call.
#[unsafe(no_mangle)]
#[inline(never)]
fn kmsfs_test_counted(work: &mut dyn FnMut()) {
    work();
}

/// The beginning of each answer.
#[derive(Default)]
struct Answers(Vec<[u8; 160]>);

impl Sink for Answers {
    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut answer = [0; 160];
        let mut rest = &mut answer[..];
        for part in parts {
            let len = part.len().min(rest.len());
            rest[..len].copy_from_slice(&part[..len]);
            rest = &mut rest[len..];
        }
        self.0.push(answer);
        Ok(())
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

fn create(name: &str) -> Vec<u8> {
    frame(35, 1, 0, &[&words(&[2, 0o600, 0, 0]), name.as_bytes(), &[0]])
}

fn look_up(name: &str) -> Vec<u8> {
    frame(1, 1, 0, &[name.as_bytes(), &[0]])
}

fn release(file: File) -> Vec<u8> {
    frame(18, file.node, 0, &[&longs(&[file.handle]), &words(&[2, 0]), &longs(&[0])])
}

fn read(file: File, at: u64, len: u64) -> Vec<u8> {
    let request = [longs(&[file.handle, at]), words(&[len as u32, 0]), longs(&[0]), words(&[0, 0])];
    frame(15, file.node, 0, &[&request.concat()])
}

fn write(file: File, at: u64, len: u64) -> Vec<u8> {
    let request = [longs(&[file.handle, at]), words(&[len as u32, 0]), longs(&[0]), words(&[2, 0])];
    frame(16, file.node, 0, &[&request.concat(), &vec![7; len as usize]])
}

/// An open file.
#[derive(Clone, Copy)]
struct File {
    node: u64,
    handle: u64,
}

/// A mount without a kernel.
struct Mount(Dispatcher<Memory>);

impl Mount {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_700_000_000)));
        let fixture = Fixture::new(Memory::new(clock.clone()), clock);
        Self(Dispatcher::new(Arc::new(fixture.mount()), false))
    }

    fn serve(&self, requests: &[Vec<u8>], answers: &mut Answers) {
        let mut scratch = Vec::new();
        for request in requests {
            assert!(self.0.handle(request, &mut scratch, answers).is_none());
        }
    }

    /// Serves 2 * [`TIMES`] requests, of which the second half is counted: the first fills what is kept.
    fn count(&self, request: impl Fn(u64) -> Vec<u8>) -> Vec<File> {
        let requests: Vec<_> = (0..2 * TIMES).map(request).collect();
        let (first, second) = requests.split_at(TIMES as usize);
        let mut answers = Answers(Vec::with_capacity(requests.len()));
        self.serve(first, &mut answers);
        kmsfs_test_counted(&mut || self.serve(second, &mut answers));
        answers.files()
    }

    fn make(&self, name: &str) -> File {
        let mut answers = Answers::default();
        self.serve(&[create(name)], &mut answers);
        answers.files()[0]
    }

    fn fill(&self, file: File, mebibytes: u64) {
        let requests: Vec<_> = (0..mebibytes).map(|n| write(file, n * MIB, MIB)).collect();
        self.serve(&requests, &mut Answers::default());
    }
}

impl Answers {
    /// What was created, if these are answers to that; none of them is an error.
    fn files(&self) -> Vec<File> {
        let file = |answer: &[u8; 160]| {
            assert_eq!(answer[4..8], [0; 4], "an error");
            File { node: u64_at(answer, 16), handle: u64_at(answer, 16 + 128) }
        };
        self.0.iter().map(file).collect()
    }
}

/// What callgrind watches: the bare cipher, then everything in the order of [`ALLOWED`] and of [`PAIRS`].
fn work() {
    let header = StaticHeader::new(VolumeId::from_bytes([5; 16]), FileId::from_bytes([4; 16]), Geometry::P1);
    let key = SecretKey::from_slice(&[8; 32]).expect("32 bytes");
    let cipher = FileKeys::derive(Backend::default(), &key, &header).unit_cipher(&[7; 12]);
    let mut units = vec![[0x5a; UNIT]; TIMES as usize];
    let mut seal = || (1..).zip(&mut units).for_each(|(n, buf)| unit::seal(&cipher, &[7; 12], n, u64::from(n), buf));
    seal();
    kmsfs_test_counted(&mut seal);

    let mount = Mount::new();
    let large = mount.make("large");
    mount.fill(large, 4);
    mount.count(|n| write(large, n * 4096, 4096));
    mount.count(|n| write(large, n % 3 * MIB, MIB));
    mount.count(|n| read(large, n * 4096, 4096));
    mount.count(|n| read(large, n % 3 * MIB, MIB));
    mount.count(|_| frame(3, large.node, 0, &[&[0; 16]]));
    mount.count(|_| look_up("large"));
    mount.count(|_| frame(14, large.node, 0, &[&words(&[2, 0])]));
    let made = mount.count(|n| create(&format!("file{n}")));
    mount.count(|n| write(made[n as usize], 0, 2048));
    mount.count(|n| release(made[n as usize]));
    mount.count(|n| frame(10, 1, 0, &[format!("file{n}\0").as_bytes()]));

    let sizes = [100, 1000].map(|names| {
        let mount = Mount::new();
        (0..names).for_each(|n| mount.serve(&[release(mount.make(&format!("name{n}")))], &mut Answers::default()));
        mount
    });
    sizes.iter().for_each(|mount| drop(mount.count(|n| look_up(&format!("name{n}")))));
    sizes.iter().for_each(|mount| drop(mount.count(|n| create(&format!("new{n}")))));
    for mebibytes in [1, 10] {
        let mount = Mount::new();
        let file = mount.make("file");
        mount.fill(file, mebibytes);
        mount.count(|n| read(file, n * 4096, 4096));
    }
    for others in [10, 100] {
        let mount = Mount::new();
        for n in 0..others {
            mount.make(&format!("other{n}"));
        }
        let file = mount.make("file");
        mount.fill(file, 1);
        mount.count(|n| read(file, n * 4096, 4096));
    }
}

/// Instructions of each call of [`kmsfs_test_counted`] in turn; why not, if they cannot be counted here.
fn counted() -> Result<Vec<f64>, String> {
    if cfg!(debug_assertions) || cfg!(not(target_arch = "x86_64")) {
        return Err("the numbers are those of an optimised build for x86-64".to_owned());
    }
    let dir = tempfile::tempdir().expect("directory");
    let out = env::var_os(KEEP).map_or_else(|| dir.path().join("out"), PathBuf::from);
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--toggle-collect=kmsfs_test_counted", "--dump-after=kmsfs_test_counted"]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display())).arg(env::current_exe().expect("this binary"));
    valgrind.args(["--exact", "instructions::requests_take_few_instructions"]).env(WATCHED, "1");
    // SAFETY: `without_vdso` makes system calls only.
    unsafe { valgrind.pre_exec(without_vdso) };
    let done = valgrind.output().map_err(|error| format!("valgrind cannot be started: {error}"))?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let part = |number: usize| total(&PathBuf::from(format!("{}.{number}", out.display())));
    Ok((1..).map_while(part).collect())
}

/// Has the kernel refuse `prctl(PR_GET_AUXV)`, which rustix asks for the vDSO: valgrind has unmapped that, and says so in
/// /proc/self/auxv, where rustix looks next, but not there.
fn without_vdso() -> io::Result<()> {
    const PR_GET_AUXV: u32 = 0x4155_5856;
    let step = |code: u32, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let unless = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    // The number of the call is the first word of what a filter sees, its first argument the fifth and the sixth.
    let mut filter = [
        step(load, 0, 0),
        step(unless, 3, libc::SYS_prctl as u32),
        step(load, 0, 16),
        step(unless, 1, PR_GET_AUXV),
        step(answer, 0, libc::SECCOMP_RET_ERRNO | libc::EINVAL as u32),
        step(answer, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: plain system calls about this thread; the program lives until they return.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, ptr::from_ref(&program)) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The total of one part of callgrind's output, if there is that part.
fn total(path: &Path) -> Option<f64> {
    let text = fs::read_to_string(path).ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Some(total.expect("a total").parse().expect("a number"))
}

#[test]
fn requests_take_few_instructions() {
    if env::var_os(WATCHED).is_some() {
        return work();
    }
    let counts = match counted() {
        Ok(counts) => counts,
        Err(reason) => {
            writeln!(io::stderr(), "skipped: instructions of requests: {reason}").expect("standard error");
            return;
        }
    };
    assert_eq!(counts.len(), 1 + ALLOWED.len() + 2 * PAIRS.len());
    let (requests, pairs) = counts[1..].split_at(ALLOWED.len());
    let mut found = Vec::new();
    for ((what, allowed), count) in ALLOWED.iter().zip(requests) {
        let times = count / counts[0];
        if times > *allowed {
            found
                .push(format!("{what}: {times:.2} times the bare cipher's work on a unit, where {allowed} is allowed"));
        }
    }
    for (what, pair) in PAIRS.iter().zip(pairs.chunks(2)) {
        let times = pair[1] / pair[0];
        if times > FLAT {
            found.push(format!("{}: {times:.2} times what it is {}, where {FLAT} is allowed", what.1, what.0));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
