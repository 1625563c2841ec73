//! Corners of POSIX that were wrong once: what ext4 answers is expected.

use std::sync::Arc;

use kmsfs::env::ManualClock;
use kmsfs::store::{Fault, FaultPlan, Faulty, FileKind, Memory, MemoryOptions, OpClass, RenameMode};
use kmsfs::types::Timestamp;
use kmsfs::vfs::{Caller, FallocateMode, ROOT, Vfs};
use rustix::io::Errno;

use crate::fixture::{Fixture, ROOT_USER};

fn mount() -> (Vfs<Faulty<Memory>>, FaultPlan) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
    let plan = FaultPlan::new();
    (Fixture::new(Faulty::new(Memory::new(clock.clone()), plan.clone()), clock).mount(), plan)
}

#[test]
fn a_directory_that_is_gone_can_be_flushed() {
    let (vfs, _) = mount();
    let [removed, replaced, other] = [b"removed" as &[u8], b"replaced", b"other"]
        .map(|name| vfs.mkdir(ROOT, name, 0o755, &ROOT_USER).expect("made").ino);
    let handles = [removed, replaced, other].map(|ino| vfs.open_dir(ino).expect("opened"));
    vfs.rmdir(ROOT, b"removed").expect("removed");
    vfs.rename(ROOT, b"other", ROOT, b"replaced", RenameMode::Replace).expect("renamed");
    for handle in handles {
        vfs.fsync_dir(handle).expect("there is nothing that could get lost");
    }
}

#[test]
fn mknod_keeps_setuid_and_setgid_whoever_asks() {
    let (vfs, _) = mount();
    let user = Caller { uid: 1000, gid: 1000, umask: 0o022 };
    for (name, kind, mode) in [("f", FileKind::Regular, 0o6755), ("p", FileKind::Fifo, 0o4711)] {
        let made = vfs.mknod(ROOT, name.as_bytes(), kind, mode, 0, &user).expect("made");
        assert_eq!((made.mode & 0o7777, made.uid, made.gid), (mode, 1000, 1000), "{name}");
        assert_eq!(vfs.getattr(made.ino).expect("attributes"), made);
    }
    vfs.symlink(ROOT, b"s", b"target", &user).expect("a symlink has no mode");
}

/// The kernel goes on to hold pages that could not be stored, and the size with them, until it looks the file up anew.
#[test]
fn a_file_with_lost_pages_is_looked_up_anew_by_who_opens_it_next() {
    let (vfs, plan) = mount();
    let (attr, opened) = vfs.create(ROOT, b"f", 0o644, &ROOT_USER).expect("created");
    vfs.write_back(opened.handle, 0, b"old").expect("stored");
    plan.inject(Fault::once(&[OpClass::Write], 0, Errno::NOSPC));
    assert_eq!(vfs.write_back(opened.handle, 3, &[1; 20_000]).map_err(|e| e.errno()), Err(Errno::NOSPC));
    vfs.link(attr.ino, ROOT, b"second name").expect("linked");
    let second = vfs.open(attr.ino, true).expect("as long as somebody has it open, it is what it is");
    assert_eq!(vfs.release(opened.handle), None);
    assert_eq!(vfs.release(second.handle), Some(attr.ino), "the last one");
    let names = [b"f".to_vec(), b"second name".to_vec()].map(|name| (ROOT, name));
    assert_eq!(vfs.names_of(attr.ino), names);
    let anew = vfs.lookup(ROOT, b"f").expect("found");
    assert!(anew.size == 3 && anew.generation != attr.generation, "also for who does not open it");

    assert_eq!(vfs.open(attr.ino, true).map_err(|e| e.errno()), Err(Errno::STALE), "the kernel looks it up then");
    let anew = vfs.lookup(ROOT, b"f").expect("found");
    assert_eq!((anew.ino, anew.size), (attr.ino, 3));
    assert_ne!(anew.generation, attr.generation);
    let opened = vfs.open(attr.ino, true).expect("once is enough");
    vfs.read(opened.handle, 0, 100, |bytes| assert_eq!(bytes, b"old")).expect("read");
    vfs.release(opened.handle);
    let opened = vfs.open(attr.ino, true).expect("and again");
    assert_eq!(vfs.release(opened.handle), None, "nothing was lost since");
}

/// Databases preallocate their logs so: empty, beyond the end, and rely on it when the disk is full.
#[test]
fn what_is_reserved_for_an_empty_file_is_enough_for_its_first_write() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
    let options = MemoryOptions { capacity_pages: 1000, ..MemoryOptions::default() };
    let vfs = Fixture::new(Memory::with_options(clock.clone(), options), clock).mount();
    let create = |name: &[u8]| vfs.create(ROOT, name, 0o644, &ROOT_USER).expect("created").1.handle;
    let (log, filler) = (create(b"log"), create(b"filler"));
    vfs.fallocate(log, FallocateMode::KeepSize, 0, 1 << 20).expect("reserved");
    let mut offset = 0;
    while vfs.write(filler, offset, &[1; 4064]).is_ok() {
        offset += 4064;
        assert!(offset < 1000 * 4096, "the disk is never full");
    }
    vfs.write(log, 0, &[7; 1 << 20]).expect("there is room for it");
    vfs.fsync(log, false).expect("flushed");
}
