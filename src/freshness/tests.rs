//! The record alone. What it notices of a volume is tested in `tests/integration/freshness.rs`, and that no crash is taken
//! for an attack in `tests/integration/crash.rs`.

mod damage;

use std::path::Path;
use std::time::Duration;

use super::state::key_of;
use super::table::Table;
use super::*;
use crate::crypto::aead::Backend;
use crate::crypto::secret::SecretKey;
use crate::env::SystemEntropy;
use crate::format::Outcome;
use crate::format::keys::VolumeKeys;
use crate::format::size::UNIT;
use crate::sync::Arc;
use crate::types::{DirId, FileId, VolumeId};

const VOLUME: VolumeId = VolumeId::from_bytes([5; 16]);
const ROOT: DirId = DirId::from_bytes([9; 16]);
const LIFE: FileId = FileId::from_bytes([1; 16]);

fn keys(vrk: u8) -> VolumeKeys {
    VolumeKeys::derive(Backend::default(), &SecretKey::from_slice(&[vrk; 32]).expect("32 bytes"), VOLUME)
}

fn open(path: &Path) -> Arc<Freshness> {
    Arc::new(Freshness::open(path, &keys(8), VOLUME).expect("it opens"))
}

fn begin() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("freshness").join("record.db");
    Freshness::create(&path, &keys(8), VOLUME, ROOT).expect("created");
    (dir, path)
}

/// So many units under the present epoch.
fn sealed(file: &TrackedFile, count: usize) -> Vec<u8> {
    let run = file.reserve(count as u32, &SystemEntropy, Duration::ZERO).expect("reserved");
    let unit = |ctr: u32| [&run.epoch[..], &ctr.to_le_bytes(), &[7; UNIT - 16]].concat();
    (run.first..).take(count).flat_map(unit).collect()
}

fn found(size: u64, header: &[u8]) -> Found<'_> {
    Found { file_id: Some(LIFE), size, header, seq: 1 }
}

/// A file of three units, written and closed; its number and its units.
fn file_of_three(fresh: &Arc<Freshness>) -> (u64, Vec<u8>) {
    let file = fresh.new_file();
    file.before_change().expect("marked");
    file.began(LIFE);
    let units = sealed(&file, 3);
    file.wrote(0, &units).expect("noted");
    file.closed(&found(9000, b"header"));
    let root = fresh.directory(ROOT).expect("its record");
    root.before_change().expect("marked");
    root.set("entry", Some(Target::File(file.object())));
    (file.object(), units)
}

fn stale(file: &TrackedFile, units: &[u8]) -> Option<u64> {
    let found = file.stale_unit(0, units.chunks_exact(UNIT)).expect("the record can be read");
    found.map(|(unit, outcome)| {
        assert_eq!(outcome, Outcome::Stale);
        unit
    })
}

#[test]
fn what_is_settled_has_to_be_exact() {
    let (_dir, path) = begin();
    let fresh = open(&path);
    let (object, units) = file_of_three(&fresh);
    fresh.settle(|| Ok(())).expect("settled");
    drop(fresh);

    let fresh = open(&path);
    assert_eq!(fresh.directory(ROOT).expect("its record").expected("entry"), Some(Target::File(object)));
    let file = fresh.file(object).expect("read").expect("there");
    assert_eq!(file.check(&found(9000, b"header")), Ok(()));
    assert_eq!(file.check(&found(9000, b"HEADER")), Err(Outcome::Stale));
    assert_eq!(file.check(&found(8000, b"header")), Err(Outcome::Stale));
    let other = Found { file_id: Some(FileId::from_bytes([2; 16])), ..found(9000, b"header") };
    assert_eq!(file.check(&other), Err(Outcome::Misplaced));
    assert_eq!(stale(&file, &units), None);
    let newer = sealed(&file, 3);
    assert_eq!(stale(&file, &[&units[..UNIT], &newer[UNIT..]].concat()), Some(1), "nobody said that it changed");
    assert_eq!(stale(&file, &[&units[..2 * UNIT], &[0; UNIT]].concat()), Some(2));
}

#[test]
fn what_is_marked_may_be_newer_and_not_older() {
    let (_dir, path) = begin();
    let fresh = open(&path);
    let (object, first) = file_of_three(&fresh);
    fresh.settle(|| Ok(())).expect("settled");
    let file = fresh.file(object).expect("read").expect("there");
    file.before_change().expect("marked");
    let second = sealed(&file, 3);
    file.wrote(0, &second).expect("noted");
    let point = file.begin_sync(3).expect("something to record");
    let third = sealed(&file, 3);
    file.wrote(0, &third).expect("noted");
    file.end_sync(point).expect("recorded");
    // The process ends here.
    drop((fresh, file));

    let fresh = open(&path);
    let file = fresh.file(object).expect("read").expect("there");
    assert_eq!(file.check(&Found { seq: 2, ..found(9500, b"new header") }), Err(Outcome::Stale), "an older record");
    assert_eq!(file.check(&Found { seq: 3, ..found(9500, b"new header") }), Ok(()));
    assert_eq!(stale(&file, &second), None, "what was flushed");
    assert_eq!(stale(&file, &first), Some(0), "older than what was flushed");
    assert_eq!(stale(&file, &[&second[..UNIT], &third[UNIT..]].concat()), None, "newer");
    assert_eq!(stale(&file, &second), Some(1), "newer was seen");
    assert_eq!(stale(&file, &[0; UNIT]), Some(0), "no hole was announced");
    file.before_holes(2).expect("recorded");
    assert_eq!(stale(&file, &[&second[..UNIT], &third[UNIT..2 * UNIT], &[0; UNIT]].concat()), None);
}

#[test]
fn a_change_while_it_settles_leaves_a_mark() {
    // Of a file that is in the record already, and of one that is not.
    for known in [true, false] {
        let (_dir, path) = begin();
        let fresh = open(&path);
        let (object, units) = file_of_three(&fresh);
        let root = fresh.directory(ROOT).expect("its record");
        if known {
            fresh.settle(|| Ok(())).expect("settled");
            fresh.settle(|| panic!("there is nothing to settle")).expect("nothing to do");
            root.before_change().expect("marked");
        }
        let file = fresh.file(object).expect("read").expect("there");
        let mut newer = Vec::new();
        let change = || {
            file.before_change().expect("marked");
            newer = sealed(&file, 3);
            Ok(())
        };
        fresh.settle(change).expect("settled");
        assert!(!fresh.directory(ROOT).expect("its record").is_lenient());
        drop((fresh, file, root));

        let fresh = open(&path);
        let file = fresh.file(object).expect("read").expect("there");
        assert_eq!(file.check(&found(9100, b"new header")), Ok(()), "it may have changed");
        assert_eq!(stale(&file, &units), None);
        assert_eq!(stale(&file, &newer), None);
        assert!(!fresh.directory(ROOT).expect("its record").is_lenient(), "nothing changed in it");
    }
}

#[test]
fn epochs_are_forgotten_when_nothing_is_sealed_under_them() {
    /// Longer than an epoch lives.
    const LATER: u64 = 100;
    let (_dir, path) = begin();
    let trim = |many: usize| {
        let (mut table, _) = Table::open(&path, key_of(&keys(8)), VOLUME).expect("it opens");
        let (mut epochs, _) = table.epochs().expect("read");
        table.trim_epochs(&mut epochs, many).expect("trimmed");
        assert_eq!(table.epochs().expect("read").0, epochs);
        let mut numbers: Vec<_> = epochs.into_values().collect();
        numbers.sort_unstable();
        numbers
    };
    let fresh = open(&path);
    let (object, first) = file_of_three(&fresh);
    let file = fresh.file(object).expect("read").expect("there");
    let write = |file: &TrackedFile, unit: u64, at: u64| {
        let run = file.reserve(1, &SystemEntropy, Duration::from_secs(at * LATER)).expect("reserved");
        let bytes = [&run.epoch[..], &run.first.to_le_bytes(), &[7; UNIT - 16]].concat();
        file.before_change().expect("marked");
        file.wrote(unit, &bytes).expect("noted");
        bytes
    };
    let mut last = Vec::new();
    for at in 1..=8 {
        last = write(&file, 1, at);
    }
    file.closed(&found(9000, b"header"));
    fresh.settle(|| Ok(())).expect("settled");
    drop((file, fresh));
    assert_eq!(trim(10).len(), 9, "they are not many");
    assert_eq!(trim(9), [1, 9], "those of the units that are there");

    let fresh = open(&path);
    let file = fresh.file(object).expect("read").expect("there");
    let now = [&first[..UNIT], &last[..], &first[2 * UNIT..]].concat();
    assert_eq!((stale(&file, &now), stale(&file, &first)), (None, Some(1)));
    // Killed while the file is being written: none of its later epochs is recorded with a unit.
    let mut newest = Vec::new();
    for at in 20..30 {
        newest = write(&file, 2, at);
    }
    drop((file, fresh));
    assert_eq!(trim(1).len(), 12, "all that a crash may have left stays");
    let fresh = open(&path);
    let file = fresh.file(object).expect("read").expect("there");
    assert_eq!(file.check(&found(9000, b"header")), Ok(()));
    assert_eq!(stale(&file, &[&now[..2 * UNIT], &newest[..]].concat()), None);
    drop((file, fresh));
    assert_eq!(trim(1).len(), 12, "not twice as many as were left");
}

#[test]
fn nothing_is_settled_that_is_not_durable() {
    let (_dir, path) = begin();
    let fresh = open(&path);
    let (object, _) = file_of_three(&fresh);
    fresh.settle(|| Err(rustix::io::Errno::IO)).expect_err("the flush failed");
    drop(fresh);
    assert!(open(&path).file(object).expect("read").is_none());
}

#[test]
fn what_a_failed_flush_lost_may_be_found_and_nothing_older() {
    let (_dir, path) = begin();
    let fresh = open(&path);
    let (object, first) = file_of_three(&fresh);
    let file = fresh.file(object).expect("read").expect("there");
    file.before_change().expect("marked");
    let second = sealed(&file, 3);
    file.wrote(0, &second).expect("noted");
    fresh.settle(|| Ok(())).expect("settled");
    file.before_change().expect("marked");
    let third = sealed(&file, 3);
    file.wrote(0, &third).expect("noted");
    let point = file.begin_sync(3).expect("something to record");
    file.flush_failed();
    file.end_sync(point).expect("nothing is recorded: the failure was told to another");
    // As when the page cache lets go of what was not stored.
    let mixed = [&second[..UNIT], &third[UNIT..]].concat();
    assert_eq!(stale(&file, &mixed), None, "what was lost is found while it is mounted");
    assert_eq!(stale(&file, &first), Some(0), "it is older than what was flushed");
    assert_eq!(file.check(&Found { seq: 1, ..found(9500, b"the header before") }), Ok(()));
    file.wrote(0, &third).expect("noted");
    file.closed(&found(9500, b"new header"));
    assert!(file.begin_sync(3).is_none());
    fresh.settle(|| Ok(())).expect("settled, but for the file");
    drop((fresh, file));

    let fresh = open(&path);
    let file = fresh.file(object).expect("read").expect("there");
    assert_eq!(file.check(&found(9500, b"the header before")), Ok(()));
    assert_eq!(stale(&file, &second), None, "lost");
    assert_eq!(stale(&file, &third), None, "not lost");
    assert_eq!(stale(&file, &first), Some(0));
}

#[test]
fn a_file_that_is_emptied_is_in_doubt_no_more() {
    let (_dir, path) = begin();
    let fresh = open(&path);
    let (object, first) = file_of_three(&fresh);
    let file = fresh.file(object).expect("read").expect("there");
    file.flush_failed();
    file.before_change().expect("marked");
    file.emptied();
    file.began(LIFE);
    let second = sealed(&file, 3);
    file.wrote(0, &second).expect("noted");
    file.closed(&found(9000, b"header"));
    fresh.settle(|| Ok(())).expect("settled");
    drop((fresh, file));

    let fresh = open(&path);
    let file = fresh.file(object).expect("read").expect("there");
    assert_eq!(file.check(&found(9000, b"HEADER")), Err(Outcome::Stale));
    assert_eq!((stale(&file, &second), stale(&file, &first)), (None, Some(0)));
}

#[test]
fn what_a_failed_flush_of_everything_concerned_is_settled_by_no_later_one() {
    let (_dir, path) = begin();
    let fresh = open(&path);
    let root = fresh.directory(ROOT).expect("its record");
    let (old, _) = file_of_three(&fresh);
    fresh.settle(|| Ok(())).expect("settled");
    // A directory into which the file is moved, behind a failed flush of what stands in it.
    let below = fresh.directory(DirId::from_bytes([3; 16])).expect("its record");
    below.before_change().expect("marked");
    let lost = fresh.new_file();
    below.set("lost", Some(Target::File(lost.object())));
    fresh.settle(|| Err(rustix::io::Errno::IO)).expect_err("the flush failed");
    let (new, _) = file_of_three(&fresh);
    below.before_change().expect("marked");
    below.set("moved", Some(Target::File(old)));
    fresh.settle(|| Ok(())).expect("settled");
    fresh.settle(|| panic!("there is nothing to settle")).expect("nothing to do");
    drop((fresh, root, below));

    let fresh = open(&path);
    let (root, below) = (fresh.directory(ROOT), fresh.directory(DirId::from_bytes([3; 16])));
    let (root, below) = (root.expect("its record"), below.expect("its record"));
    assert!(!root.is_lenient() && root.expected("entry") == Some(Target::File(new)), "it had not changed then");
    assert!(below.is_lenient() && below.expected("lost").is_none() && below.expected("moved").is_none());
    assert!(fresh.file(old).expect("read").is_some(), "a name of it may be there");
}

#[test]
fn a_record_that_was_changed_or_is_anothers_is_refused() {
    let (_dir, path) = begin();
    let fresh = open(&path);
    let (object, _) = file_of_three(&fresh);
    fresh.settle(|| Ok(())).expect("settled");
    drop(fresh);
    assert!(matches!(Freshness::open(&path, &keys(9), VOLUME), Err(Error::Damaged { .. })), "another root key");
    let other = VolumeId::from_bytes([6; 16]);
    assert!(matches!(Freshness::open(&path, &keys(8), other), Err(Error::Damaged { .. })), "another volume");
    assert!(Freshness::create(&path, &keys(8), VOLUME, ROOT).is_err(), "never begun anew");
    let db = rusqlite::Connection::open(&path).expect("opens");
    db.execute("UPDATE files SET file_id = zeroblob(16)", []).expect("changed");
    drop(db);
    assert!(matches!(open(&path).file(object), Err(Error::Damaged { .. })), "a row was changed");
}
