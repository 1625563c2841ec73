//! When the header of a file says how long it is at least: a moment after the flush that vouches for it (ADR 16).

use std::sync::Arc;
use std::time::{Duration, Instant};

use kmsfs::env::SystemClock;
use kmsfs::format::Outcome;
use kmsfs::format::size::Geometry;
use kmsfs::store::{Access, Backing, BackingFile, Fault, FaultPlan, Faulty, Memory, OpClass, Record};
use kmsfs::vfs::{FallocateMode, Opened, Options, ROOT, SetAttr, Vfs};
use rustix::io::Errno;

use crate::fixture::{Fixture, ROOT_USER};

const UNIT: usize = 4064;

type Recorded = Faulty<Memory>;

fn volume() -> Fixture<Recorded> {
    let clock = Arc::new(SystemClock);
    Fixture::new(Faulty::new(Memory::new(clock.clone()), FaultPlan::new()), clock)
}

/// A file of three units that was flushed.
fn flushed(vfs: &Vfs<Recorded>) -> Opened {
    let (_, opened) = vfs.create(ROOT, b"f", 0o644, &ROOT_USER).expect("created");
    vfs.write(opened.handle, 0, &[7; 3 * UNIT]).expect("written");
    vfs.fsync(opened.handle, false).expect("synced");
    opened
}

/// The size that another mount finds, or why the file does not open there, while all but one unit are cut off the stored file.
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
    vfs.write(opened.handle, 3 * UNIT as u64, &[8; UNIT]).expect("written");
    let writes = || fixture.backing.plan().count(&[OpClass::Write]);
    let before = writes();
    vfs.fsync(opened.handle, true).expect("synced");
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
fn a_floor_is_raised_before_a_file_is_cut_or_gets_a_hole() {
    for punch in [false, true] {
        let fixture = volume();
        let vfs = fixture.mount_raising_later();
        let opened = flushed(&vfs);
        let ino = vfs.lookup(ROOT, b"f").expect("there").ino;
        let cut = SetAttr { size: Some(2 * UNIT as u64), ..SetAttr::default() };
        match punch {
            true => vfs.fallocate(opened.handle, FallocateMode::PunchHole, 0, UNIT as u64).expect("punched"),
            false => drop(vfs.setattr(ino, Some(opened.handle), &cut).expect("cut")),
        }
        assert_eq!(cut_off(&fixture), NOTICED);
        vfs.release(opened.handle);
        assert_eq!(cut_off(&fixture), NOTICED);
    }
}

#[test]
fn a_floor_that_could_not_be_written_is_due_still() {
    let fixture = volume();
    let vfs = fixture.mount_raising_later();
    let opened = flushed(&vfs);
    fixture.backing.plan().inject(Fault::once(&[OpClass::Write], 0, Errno::IO));
    vfs.raise_floors();
    assert_eq!((fixture.backing.plan().injected(), cut_off(&fixture)), (1, UNNOTICED));
    vfs.release(opened.handle);
    assert_eq!(cut_off(&fixture), NOTICED);
}

#[test]
fn at_the_end_of_a_mount_floors_are_raised_and_from_then_on_by_the_flush() {
    let fixture = volume();
    let vfs = fixture.mount_raising_later();
    let opened = flushed(&vfs);
    vfs.end_raising();
    assert_eq!(cut_off(&fixture), NOTICED);
    let other = vfs.create(ROOT, b"g", 0o644, &ROOT_USER).expect("created").1;
    vfs.write(other.handle, 0, &[8; UNIT]).expect("written");
    let writes = || fixture.backing.plan().count(&[OpClass::Write]);
    let before = writes();
    vfs.fsync(other.handle, false).expect("synced");
    assert_eq!(writes() - before, 1, "its header");
    vfs.release(opened.handle);
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

#[test]
fn a_flush_that_began_before_a_cut_does_not_take_the_place_of_one_behind_it() {
    let fixture = volume();
    let vfs = Arc::new(fixture.mount_raising_later());
    let opened = flushed(&vfs);
    let (other, handle) = (Arc::clone(&vfs), opened.handle);
    vfs.write(handle, 3 * UNIT as u64, &[8; UNIT]).expect("written");
    fixture.backing.plan().beside_next_flush(move || {
        let ino = other.lookup(ROOT, b"f").expect("there").ino;
        let size = |size| SetAttr { size: Some(size), ..SetAttr::default() };
        // Below what the header says, so that there is something to raise.
        other.setattr(ino, Some(handle), &size(UNIT as u64 / 2)).expect("cut");
        other.write(handle, UNIT as u64 / 2, &[9; 2 * UNIT]).expect("written");
        other.fsync(handle, false).expect("synced");
    });
    vfs.fsync(handle, false).expect("synced");
    vfs.raise_floors();
    assert_eq!(cut_off(&fixture), NOTICED);
}
