//! `key-state=strict`: what is under a key that may not be used any more is let go of, and comes back with the key.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kmsfs::env::ManualClock;
use kmsfs::keys::CACHE_TIME;
use kmsfs::store::{Memory, MemoryOptions};
use kmsfs::types::Timestamp;
use kmsfs::vfs::{FallocateMode, ROOT, SetAttr, Vfs};
use rustix::io::Errno;

use crate::fixture::{Fixture, ROOT_USER};

const DATA: &[u8] = b"what was written before";

fn fixture() -> Fixture<Memory> {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_767_225_600)));
    Fixture::new(Memory::with_options(clock.clone(), MemoryOptions::default()), clock)
}

/// An open file with content, and its inode number.
fn written(vfs: &Vfs<Memory>, name: &str) -> (u64, u64) {
    let (attr, opened) = vfs.create(ROOT, name.as_bytes(), 0o600, &ROOT_USER).expect("create");
    vfs.write(opened.handle, 0, DATA).expect("write");
    (attr.ino, opened.handle)
}

/// One look at the keys, with nothing dirty in a kernel; the inodes whose pages were dropped.
fn look(vfs: &Vfs<Memory>) -> Vec<u64> {
    let dropped = RefCell::new(Vec::new());
    vfs.enforce_keys(&|ino| {
        dropped.borrow_mut().push(ino);
        Ok(())
    });
    let mut dropped = dropped.into_inner();
    dropped.sort_unstable();
    dropped
}

fn read(vfs: &Vfs<Memory>, handle: u64) -> Result<Vec<u8>, Errno> {
    vfs.read(handle, 0, 4096, <[u8]>::to_vec).map_err(|error| error.errno())
}

type Switch = fn(&Fixture<Memory>, bool);

/// The ways in which a key becomes unusable.
const WAYS: [(&str, Switch); 2] =
    [("disabled", |fixture, off| fixture.set_key_enabled(!off)), ("denied by a policy", Fixture::set_key_denied)];

#[test]
fn open_files_are_closed_to_programs_until_the_key_is_back() {
    for (way, set) in WAYS {
        let fixture = fixture();
        let vfs = fixture.mount_strict();
        let (ino, handle) = written(&vfs, "file");
        let (closed, other) = written(&vfs, "closed");
        vfs.release(other);
        assert_eq!(look(&vfs), [0; 0], "{way}: the key is usable");

        set(&fixture, true);
        assert_eq!(read(&vfs, handle).as_deref(), Ok(DATA), "{way}: until the next look");
        let mut both = [ino, closed];
        both.sort_unstable();
        assert_eq!(look(&vfs), both, "{way}: also of a file that nobody has open the kernel may have pages");
        let grow = SetAttr { size: Some(9000), ..SetAttr::default() };
        assert_eq!(read(&vfs, handle), Err(Errno::ACCESS), "{way}");
        let refused = [
            vfs.read_within(handle, 0, 100, &mut vec![0; kmsfs::content::room_for(100)]).map(drop).err(),
            vfs.write(handle, 0, b"new").err(),
            vfs.fallocate(handle, FallocateMode::PunchHole, 0, 10).err(),
            vfs.seek_data(handle, 0).map(drop).err(),
            vfs.setattr(ino, Some(handle), &grow).map(drop).err(),
            vfs.setattr(ino, None, &grow).map(drop).err(),
            vfs.open(ino, false).map(drop).err(),
            vfs.copy_range(handle, 0, handle, 5000, 10).map(drop).err(),
        ];
        assert!(refused.iter().all(|e| e.map(kmsfs::vfs::Error::errno) == Some(Errno::ACCESS)), "{way}: {refused:?}");
        vfs.fsync(handle, false).expect("what was written is durable already");
        assert_eq!(vfs.getattr(ino).expect("attributes need no file's key").size, DATA.len() as u64);
        assert_eq!(look(&vfs), [0; 0], "{way}: nothing is left to let go of");

        set(&fixture, false);
        look(&vfs);
        assert_eq!(read(&vfs, handle).as_deref(), Ok(DATA), "{way}: the same handle");
        vfs.write(handle, 0, b"WHAT").expect("write");
        assert_eq!(read(&vfs, handle).expect("read")[..8], *b"WHAT was");
        vfs.release(handle);
        assert_eq!(vfs.open_files(), 0);
    }
}

#[test]
fn what_the_kernel_has_dirty_is_written_before_the_key_goes() {
    let fixture = fixture();
    let vfs = fixture.mount_strict();
    let (_, handle) = written(&vfs, "mapped");
    fixture.set_key_enabled(false);
    vfs.enforce_keys(&|_| {
        assert_eq!(read(&vfs, handle), Err(Errno::ACCESS), "programs are refused from here on");
        vfs.write_back(handle, 0, b"dirty").map_err(|e| io::Error::from(e.errno()))
    });
    assert_eq!(vfs.write_back(handle, 0, b"later").map_err(|e| e.errno()), Err(Errno::ACCESS));
    let (_, late) = (fixture.set_key_enabled(true), look(&vfs));
    assert_eq!(late, [0; 0]);
    assert_eq!(read(&vfs, handle).expect("read")[..5], *b"dirty");
}

#[test]
fn emptying_needs_no_key_and_ends_the_refusal() {
    let fixture = fixture();
    let vfs = fixture.mount_strict();
    let (ino, handle) = written(&vfs, "file");
    fixture.set_key_enabled(false);
    look(&vfs);
    vfs.setattr(ino, Some(handle), &SetAttr { size: Some(0), ..SetAttr::default() }).expect("needs no key");
    assert_eq!(read(&vfs, handle).as_deref(), Ok(&[][..]));
    assert_eq!(vfs.write(handle, 0, b"new").map_err(|e| e.errno()), Err(Errno::ACCESS), "but a new life does");
    fixture.set_key_enabled(true);
    look(&vfs);
    vfs.write(handle, 0, b"new").expect("write");
    assert_eq!(read(&vfs, handle).as_deref(), Ok(&b"new"[..]));
}

#[test]
fn a_silent_key_manager_takes_nothing_away() {
    let fixture = fixture();
    let vfs = fixture.mount_strict();
    let (_, handle) = written(&vfs, "file");
    fixture.set_key_service_silent(true);
    assert_eq!(look(&vfs), [0; 0]);
    assert_eq!(read(&vfs, handle).as_deref(), Ok(DATA));
    fixture.set_key_service_silent(false);
    fixture.set_key_enabled(false);
    look(&vfs);
    fixture.set_key_service_silent(true);
    look(&vfs);
    assert_eq!(read(&vfs, handle), Err(Errno::ACCESS), "nor does it give anything back");
}

#[test]
fn without_it_what_is_open_goes_on() {
    let fixture = fixture();
    let vfs = fixture.mount();
    let (_, handle) = written(&vfs, "file");
    fixture.set_key_enabled(false);
    assert_eq!(look(&vfs), [0; 0]);
    assert_eq!(read(&vfs, handle).as_deref(), Ok(DATA));
}

#[test]
fn data_keys_of_closed_files_are_wiped_when_their_time_is_over() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_767_225_600)));
    let fixture = Fixture::new(Memory::with_options(clock.clone(), MemoryOptions::default()), clock.clone());
    let volume = fixture.volume();
    assert_eq!(volume.keys.sweep(), 0);
    volume.keys.new_header(false).expect("a key");
    clock.advance(CACHE_TIME - Duration::from_secs(1));
    assert_eq!(volume.keys.sweep(), 0, "not yet");
    clock.advance(Duration::from_secs(1));
    assert_eq!(volume.keys.sweep(), 1);
    // A clock that is set back does not make it longer.
    volume.keys.new_header(false).expect("a key");
    clock.set(Timestamp::from_secs(1_767_225_600 - 3600));
    assert_eq!(volume.keys.sweep(), 1);
}
