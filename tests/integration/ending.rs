//! The end of a mount that programs still use: what they have written is stored, and more is refused.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use kmsfs::env::ManualClock;
use kmsfs::store::{Fault, FaultPlan, Faulty, Memory, OpClass};
use kmsfs::types::Timestamp;
use kmsfs::vfs::{ROOT, Vfs};
use rustix::io::Errno;

use crate::fixture::{Fixture, ROOT_USER};

type Backing = Faulty<Memory>;

fn mounted() -> (Fixture<Backing>, FaultPlan) {
    let (clock, plan) = (Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000))), FaultPlan::new());
    (Fixture::new(Faulty::new(Memory::new(clock.clone()), plan.clone()), clock), plan)
}

/// A file that is open for writing: its inode's number and its handle.
fn open_file(vfs: &Vfs<Backing>, name: &str) -> (u64, u64) {
    let (attr, opened) = vfs.create(ROOT, name.as_bytes(), 0o600, &ROOT_USER).expect("created");
    vfs.write(opened.handle, 0, b"old").expect("written");
    (attr.ino, opened.handle)
}

#[test]
fn what_the_kernel_holds_of_files_that_are_open_for_writing_is_stored() {
    let (fixture, plan) = mounted();
    let vfs = fixture.mount();
    let (written, handle) = open_file(&vfs, "open for writing");
    let (read, closed) = open_file(&vfs, "open for reading");
    vfs.release(closed);
    let reader = vfs.open(read, false).expect("opened").handle;
    let asked = RefCell::new(Vec::new());
    let syncs = plan.count(&[OpClass::Sync]);
    let failed = vfs.store_all(&|ino| {
        assert_eq!(vfs.getattr(ino).map_err(|e| e.errno()), Err(Errno::SHUTDOWN), "or a write(2) would go on");
        asked.borrow_mut().push(ino);
        vfs.write_back(handle, 0, b"new").map_err(|error| io::Error::from(error.errno()))
    });
    assert_eq!((failed, asked.into_inner()), (0, vec![written]));
    assert!(plan.count(&[OpClass::Sync]) > syncs, "it is durable");
    assert_eq!(vfs.read(handle, 0, 9, <[u8]>::to_vec).expect("read"), b"new");
    assert_eq!(vfs.read(reader, 0, 9, <[u8]>::to_vec).expect("read"), b"old");
    // Nobody would store what a new writer writes.
    let refused =
        [vfs.open(read, true), vfs.open_emptied(read, true)].map(|opened| opened.map(drop).map_err(|e| e.errno()));
    assert_eq!(refused, [Err(Errno::SHUTDOWN); 2]);
}

#[test]
fn what_has_come_of_a_file_is_durable_although_the_rest_has_not() {
    let (fixture, plan) = mounted();
    let vfs = fixture.mount();
    open_file(&vfs, "one");
    let syncs = plan.count(&[OpClass::Sync]);
    assert_eq!(vfs.store_all(&|_| Err(Errno::NOSPC.into())), 1);
    assert!(plan.count(&[OpClass::Sync]) > syncs);
}

#[test]
fn what_is_not_stored_is_told() {
    let (fixture, plan) = mounted();
    let vfs = fixture.mount();
    open_file(&vfs, "one");
    open_file(&vfs, "two");
    let refuse = |errno: Errno| vfs.store_all(&|_| Err(errno.into()));
    assert_eq!(refuse(Errno::NOENT), 0, "the kernel has nothing of it");
    assert_eq!(refuse(Errno::BUSY), 0, "written back, and in use");
    assert_eq!(refuse(Errno::NOSPC), 2);
    plan.inject(Fault::once(&[OpClass::Sync], 0, Errno::IO));
    assert_eq!(refuse(Errno::NOENT), 1);
}
