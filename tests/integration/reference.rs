//! The reference transport without a kernel: a socket is its connection.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use kmsfs::env::ManualClock;
use kmsfs::fuse::serve_reference;
use kmsfs::store::{Fault, FaultPlan, Faulty, Memory, OpClass};
use kmsfs::sys::reserve::of_this_process;
use kmsfs::types::Timestamp;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::fixture::Fixture;
use crate::transport::{
    CREATE, ENTRY, INIT, OPEN, OUT_HEADER, READ, RELEASE, WRITE, frame, give_back, is_alone, limit_memory, longs,
    run_alone, u32_at, u64_at, words,
};

/// `FUSE_WRITE_CACHE` of linux/fuse.h.
const WRITE_CACHE: u32 = 1;

/// A mount that was served its `INIT`. The thread that serves it ends with the connection.
struct Mount {
    plan: FaultPlan,
    kernel: OwnedFd,
}

impl Mount {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_700_000_000)));
        let plan = FaultPlan::new();
        let fixture = Fixture::new(Faulty::new(Memory::new(clock.clone()), plan.clone()), clock);
        let (kernel, daemon) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a connection");
        let vfs = Arc::new(fixture.mount());
        std::thread::spawn(move || serve_reference(vfs, daemon));
        let mount = Self { plan, kernel };
        mount.ask(INIT, 0, &[&words(&[7, 31, 1 << 17, 0])]).expect("agreed");
        mount
    }

    /// The answer to a request, without its header.
    fn ask(&self, opcode: u32, node: u64, parts: &[&[u8]]) -> Result<Vec<u8>, Errno> {
        let request = frame(opcode, node, 0, parts);
        assert_eq!(rustix::io::write(&self.kernel, &request), Ok(request.len()));
        let mut answer = [0; 4096];
        let len = rustix::io::read(&self.kernel, &mut answer).expect("an answer");
        let answer = &answer[..len];
        assert_eq!((u32_at(answer, 0) as usize, u64_at(answer, 8)), (len, 7));
        match u32_at(answer, 4).cast_signed() {
            0 => Ok(answer[OUT_HEADER..].to_vec()),
            error => Err(Errno::from_raw_os_error(-error)),
        }
    }

    /// Creates a file; its node and handle.
    fn create(&self, name: &[u8]) -> (u64, u64) {
        let made = self.ask(CREATE, 1, &[&words(&[2, 0o644, 0, 0]), name, &[0]]).expect("created");
        (u64_at(&made, 0), u64_at(&made, ENTRY))
    }

    fn write(&self, (node, handle): (u64, u64), data: &[u8], flags: u32) -> Result<Vec<u8>, Errno> {
        let size = data.len() as u32;
        self.ask(WRITE, node, &[&longs(&[handle, 0]), &words(&[size, flags]), &longs(&[0]), &words(&[2, 0]), data])
    }

    fn read(&self, (node, handle): (u64, u64)) -> Result<Vec<u8>, Errno> {
        self.ask(READ, node, &[&longs(&[handle, 0]), &words(&[100, 0]), &longs(&[0]), &words(&[0, 0])])
    }
}

const SHORT: &str = "reference::a_process_that_is_short_of_memory";

#[test]
fn without_memory_what_the_kernel_writes_back_is_stored() {
    run_alone(SHORT);
}

/// Runs in a process of its own, whose limit it lowers.
#[test]
fn a_process_that_is_short_of_memory() {
    if !is_alone(SHORT) {
        return;
    }
    let mount = Mount::new();
    let file = mount.create(b"f");
    mount.write(file, b"hello", 0).expect("written");
    of_this_process().hold().expect("memory");
    give_back(12);
    limit_memory(true);
    let passing = mount.write(file, b"lost!", 0);
    let written_back = mount.write(file, b"HELLO", WRITE_CACHE);
    limit_memory(false);
    assert_eq!(passing, Err(Errno::NOMEM));
    assert_eq!(written_back, Ok(words(&[5, 0])));
    assert_eq!(mount.read(file), Ok(b"HELLO".to_vec()));
}

#[test]
fn a_file_whose_pages_could_not_be_stored_is_looked_up_anew() {
    let mount = Mount::new();
    let file = mount.create(b"f");
    mount.write(file, b"hello", WRITE_CACHE).expect("written");
    mount.plan.inject(Fault::once(&[OpClass::Write], 0, Errno::NOSPC));
    assert_eq!(mount.write(file, b"HELLO", WRITE_CACHE), Err(Errno::NOSPC));
    mount.ask(RELEASE, file.0, &[&longs(&[file.1]), &words(&[2, 0]), &longs(&[0])]).expect("closed");
    let open = || mount.ask(OPEN, file.0, &[&words(&[0, 0])]).map(drop);
    assert_eq!(open(), Err(Errno::STALE), "the kernel is to ask for the size that is stored");
    assert_eq!(open(), Ok(()), "once");
}
