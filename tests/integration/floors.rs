//! When the header of a file says how long it is at least: a moment after the flush that vouches for it (ADR 16).

use std::sync::Arc;
use std::time::{Duration, Instant};

use kmsfs::env::SystemClock;
use kmsfs::format::Outcome;
use kmsfs::format::size::Geometry;
use kmsfs::store::{Access, Backing, BackingFile, FaultPlan, Faulty, Memory, OpClass, Record};
use kmsfs::vfs::{Opened, Options, ROOT, SetAttr, Vfs};

use crate::fixture::{Fixture, ROOT_USER};

const UNIT: usize = 4064;

type Recorded = Faulty<Memory>;

fn volume() -> Fixture<Recorded> {
    let clock = Arc::new(SystemClock);
    Fixture::new(Faulty::new(Memory::new(clock.clone()), FaultPlan::new()), clock)
}

/// A file of two units that was flushed.
fn flushed(vfs: &Vfs<Recorded>) -> Opened {
    let (_, opened) = vfs.create(ROOT, b"f", 0o644, &ROOT_USER).expect("created");
    vfs.write(opened.handle, 0, &[7; 2 * UNIT]).expect("written");
    vfs.fsync(opened.handle, false).expect("synced");
    opened
}

/// The size that another mount finds, or why the file does not open there, while one unit is cut off the stored file.
fn cut_off(fixture: &Fixture<Recorded>) -> Result<u64, Option<Outcome>> {
    let root = fixture.backing.root().expect("root");
    let mut list = fixture.backing.list(&root).expect("list");
    let mut all = Vec::new();
    fixture.backing.read_list(&mut list, 0, &mut all).expect("read");
    let entry = all.iter().find(|entry| !entry.name.starts_with(b".")).expect("one file");
    let entry = std::str::from_utf8(&entry.name).expect("ASCII");
    let stored = fixture.backing.open(&root, entry, Access::ReadWrite).expect("opened");
    let (len, one) = (stored.stat().expect("stat").size, Geometry::P1.stored_size(UNIT as u64).expect("in range"));
    let mut rest = vec![0; (len - one) as usize];
    stored.read_at(&mut rest, one).expect("read");
    stored.set_len(one).expect("cut");
    let vfs = fixture.mount();
    let found = vfs.lookup(ROOT, b"f").expect("there");
    let opened = vfs.open(found.ino, false).map(|_| found.size).map_err(|error| error.outcome());
    stored.set_len(len).expect("grown");
    stored.write_at(&rest, one).expect("put back");
    opened
}

const NOTICED: Result<u64, Option<Outcome>> = Err(Some(Outcome::Truncated));
const UNNOTICED: Result<u64, Option<Outcome>> = Ok(UNIT as u64);

#[test]
fn nothing_is_written_between_the_flush_of_a_file_and_that_of_its_directory() {
    let fixture = volume();
    let vfs = fixture.mount_raising_later();
    fixture.backing.start_recording();
    flushed(&vfs);
    let dir = vfs.open_dir(ROOT).expect("opened");
    vfs.fsync_dir(dir).expect("synced");
    let records = fixture.backing.stop_recording();
    let flush = records.iter().position(|record| matches!(record, Record::Sync { .. })).expect("the file's");
    assert!(matches!(records[flush + 1..], [Record::SyncDir { .. }]), "{:?}", &records[flush..]);
    assert_eq!(cut_off(&fixture), UNNOTICED);
    vfs.raise_floors();
    assert_eq!(cut_off(&fixture), NOTICED);
}

#[test]
fn a_floor_is_raised_before_a_file_is_closed() {
    let fixture = volume();
    let vfs = fixture.mount_raising_later();
    let opened = flushed(&vfs);
    assert_eq!(cut_off(&fixture), UNNOTICED);
    vfs.release(opened.handle);
    assert_eq!(cut_off(&fixture), NOTICED);
}

#[test]
fn a_floor_is_raised_by_itself_while_a_file_stays_open() {
    let fixture = volume();
    let raise_after = Some(Duration::from_millis(5));
    let vfs = fixture.mount_with(Options { privileged: true, raise_after, ..Options::default() });
    let opened = flushed(&vfs);
    let began = Instant::now();
    while cut_off(&fixture) == UNNOTICED {
        assert!(began.elapsed() < Duration::from_secs(30), "it is not raised");
        std::thread::sleep(Duration::from_millis(5));
    }
    // And once more: the thread waits for further ones.
    vfs.write(opened.handle, 2 * UNIT as u64, &[8; UNIT]).expect("written");
    vfs.fsync(opened.handle, true).expect("synced");
    let writes = || fixture.backing.plan().count(&[OpClass::Write]);
    let before = writes();
    while writes() == before {
        assert!(began.elapsed() < Duration::from_secs(30), "it is not raised again");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_mount_that_ends_in_use_raises_what_is_due() {
    let fixture = volume();
    let vfs = fixture.mount_raising_later();
    let opened = flushed(&vfs);
    // Who has it open reads only.
    let reader = vfs.open(vfs.lookup(ROOT, b"f").expect("there").ino, false).expect("opened");
    vfs.release(opened.handle);
    assert_eq!(cut_off(&fixture), UNNOTICED);
    vfs.store_all(&|_| Ok(()));
    assert_eq!(cut_off(&fixture), NOTICED);
    vfs.release(reader.handle);
}

#[test]
fn what_is_cut_before_its_floor_is_raised_has_none() {
    let fixture = volume();
    let vfs = fixture.mount_raising_later();
    let opened = flushed(&vfs);
    let ino = vfs.lookup(ROOT, b"f").expect("there").ino;
    let cut = SetAttr { size: Some(UNIT as u64), ..SetAttr::default() };
    vfs.setattr(ino, Some(opened.handle), &cut).expect("cut");
    vfs.raise_floors();
    assert_eq!(cut_off(&fixture), UNNOTICED);
    vfs.release(opened.handle);
    assert_eq!(cut_off(&fixture), UNNOTICED);
}

#[test]
fn the_larger_of_two_floors_is_raised() {
    let fixture = volume();
    let vfs = fixture.mount_raising_later();
    let (_, opened) = vfs.create(ROOT, b"f", 0o644, &ROOT_USER).expect("created");
    vfs.write(opened.handle, 0, &[7; UNIT]).expect("written");
    let vfs = Arc::new(vfs);
    let (other, handle) = (Arc::clone(&vfs), opened.handle);
    // While the first flush waits for the disk the file grows, and is flushed for that size.
    fixture.backing.plan().beside_next_flush(move || {
        other.write(handle, UNIT as u64, &[8; UNIT]).expect("written");
        other.fsync(handle, false).expect("synced");
    });
    vfs.fsync(opened.handle, false).expect("synced");
    vfs.raise_floors();
    assert_eq!(cut_off(&fixture), NOTICED);
}
