//! `key-state=strict`: what is under a key that may not be used any more is let go of, and comes back with the key.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kmsfs::env::ManualClock;
use kmsfs::keys::CACHE_TIME;
use kmsfs::store::{Access, Backing, BackingFile, Fault, FaultPlan, Faulty, FileKind, Memory, MemoryOptions, OpClass};
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
    let unflushed = vfs.enforce_keys(&|ino| {
        dropped.borrow_mut().push(ino);
        Ok(())
    });
    vfs.flush(unflushed);
    let mut dropped = dropped.into_inner();
    dropped.sort_unstable();
    dropped
}

fn read(vfs: &Vfs<Memory>, handle: u64) -> Result<Vec<u8>, Errno> {
    vfs.read(handle, 0, 4096, <[u8]>::to_vec).map_err(|error| error.errno())
}

/// What is stored of the one file of a volume, and its size.
fn only_file(backing: &Memory) -> (<Memory as Backing>::File, u64) {
    let root = backing.root().expect("a root");
    let mut entries = Vec::new();
    backing.read_list(&mut backing.list(&root).expect("a list"), 0, &mut entries).expect("listed");
    let names = entries.iter().filter(|entry| !entry.name.starts_with(b".") && entry.kind == Some(FileKind::Regular));
    let [entry] = names.collect::<Vec<_>>()[..] else { panic!("one file") };
    let name = std::str::from_utf8(&entry.name).expect("ASCII");
    let file = backing.open(&root, name, Access::ReadWrite).expect("open");
    let len = file.stat().expect("stat").size;
    (file, len)
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
    let unflushed = vfs.enforce_keys(&|_| {
        assert_eq!(read(&vfs, handle), Err(Errno::ACCESS), "programs are refused from here on");
        vfs.write_back(handle, 0, b"dirty").map_err(|e| io::Error::from(e.errno()))
    });
    vfs.flush(unflushed);
    assert_eq!(vfs.write_back(handle, 0, b"later").map_err(|e| e.errno()), Err(Errno::ACCESS));
    let (_, late) = (fixture.set_key_enabled(true), look(&vfs));
    assert_eq!(late, [0; 0]);
    assert_eq!(read(&vfs, handle).expect("read")[..5], *b"dirty");
}

#[test]
fn all_files_are_refused_before_the_first_is_written_back() {
    let fixture = fixture();
    let vfs = fixture.mount_strict();
    let handles: Vec<u64> = (0..20).map(|n| written(&vfs, &format!("file{n}")).1).collect();
    fixture.set_key_enabled(false);
    let unflushed = vfs.enforce_keys(&|_| {
        assert!(handles.iter().all(|handle| read(&vfs, *handle) == Err(Errno::ACCESS)));
        Ok(())
    });
    assert!(!unflushed.is_empty());
    vfs.flush(unflushed);
}

/// The flush of a large file takes long: whoever opens the file meanwhile shares what is flushed, also if it has been closed.
#[test]
fn a_file_that_is_emptied_beside_its_flush_is_whole() {
    let fixture = fixture();
    let vfs = fixture.mount_strict();
    let (ino, handle) = written(&vfs, "file");
    fixture.set_key_enabled(false);
    let unflushed = vfs.enforce_keys(&|_| Ok(()));
    vfs.release(handle);
    fixture.set_key_enabled(true);
    vfs.flush(vfs.enforce_keys(&|_| Ok(())));
    let anew = vfs.open_emptied(ino, true).expect("emptied").handle;
    vfs.write(anew, 0, b"another life").expect("written");
    vfs.fsync(anew, false).expect("flushed");
    vfs.flush(unflushed);
    vfs.release(anew);
    drop(vfs);
    let vfs = fixture.mount();
    let ino = vfs.lookup(ROOT, b"file").expect("there").ino;
    let handle = vfs.open(ino, false).expect("opened").handle;
    assert_eq!(read(&vfs, handle).as_deref(), Ok(&b"another life"[..]));
}

#[test]
fn keys_go_before_the_flush_and_its_failure_is_told() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_767_225_600)));
    let plan = FaultPlan::new();
    let memory = Memory::with_options(clock.clone(), MemoryOptions::default());
    let fixture = Fixture::new(Faulty::new(memory, plan.clone()), clock);
    let vfs = fixture.mount_strict();
    let open = |name: &[u8]| {
        let (_, opened) = vfs.create(ROOT, name, 0o600, &ROOT_USER).expect("create");
        vfs.write(opened.handle, 0, DATA).expect("write");
        opened.handle
    };
    let read = |handle| vfs.read(handle, 0, 4096, <[u8]>::to_vec).map_err(|error| error.errno());
    let (one, two) = (open(b"one"), open(b"two"));
    fixture.set_key_enabled(false);
    plan.inject(Fault::from(&[OpClass::Sync], 0, Errno::IO));
    let unflushed = vfs.enforce_keys(&|_| Ok(()));
    assert_eq!((read(one), read(two)), (Err(Errno::ACCESS), Err(Errno::ACCESS)), "whatever the disk does");
    vfs.flush(unflushed);
    plan.heal();
    for handle in [one, two] {
        assert_eq!(vfs.fsync(handle, false).map_err(|e| e.errno()), Err(Errno::IO));
        vfs.fsync(handle, false).expect("told once");
    }
    fixture.set_key_enabled(true);
    vfs.flush(vfs.enforce_keys(&|_| Ok(())));
    assert_eq!((read(one).as_deref(), read(two).as_deref()), (Ok(DATA), Ok(DATA)));
}

/// What a flush vouches for is recorded in the header also of a file whose keys are gone.
#[test]
fn a_file_that_was_let_go_of_cannot_be_cut() {
    let fixture = fixture();
    let vfs = fixture.mount_strict();
    let (_, handle) = written(&vfs, "file");
    fixture.set_key_enabled(false);
    look(&vfs);
    vfs.release(handle);
    drop(vfs);
    fixture.set_key_enabled(true);
    let vfs = fixture.mount();
    let (file, len) = only_file(&fixture.backing);
    file.set_len(len - 1).expect("cut");
    let ino = vfs.lookup(ROOT, b"file").expect("there").ino;
    assert_eq!(vfs.open(ino, false).map_err(|e| e.errno()), Err(Errno::IO));
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
