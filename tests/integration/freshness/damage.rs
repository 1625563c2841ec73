//! A damaged record costs what the damage is of, `verify` says that it is the record, and accepting it mends it.

use kmsfs::freshness::Freshness;
use kmsfs::ops::freshness::{AcceptReport, accept};
use kmsfs::ops::verify::{VerifyOptions, verify};
use kmsfs::ops::{Reason, Silent};
use kmsfs::store::Modes;
use rustix::io::Errno;

use super::*;

use Outcome::{DuplicateId, Unvouched};

/// Runs SQL on the record behind its back.
fn harm(on: &Attacked, sql: &str) {
    let record = on.volume.fixture.record.as_ref().expect("it has one");
    let db = rusqlite::Connection::open(record.path()).expect("it opens");
    assert!(db.execute(sql, []).expect("changed") > 0, "{sql}");
}

/// What the record has of the file at `path` is, in SQL, with this number.
fn object(on: &Attacked, path: &str) -> i64 {
    let record = on.volume.fixture.record.as_ref().expect("it has one");
    let db = rusqlite::Connection::open(record.path()).expect("it opens");
    let entry = on.raw.entry(&on.volume.vfs, path).1;
    let target: Vec<u8> =
        db.query_row("SELECT target FROM entries WHERE name = ?1", [entry], |row| row.get(0)).expect("a row");
    i64::from_be_bytes(target.try_into().expect("8 bytes"))
}

/// What `verify` of the unmounted volume finds, as outcome, path and unit.
fn findings(on: &Attacked) -> Vec<(Outcome, String, Option<u64>)> {
    let modes = Modes::new(Arc::new(on.volume.fixture.backing.clone()), false);
    let options = VerifyOptions { threads: 1, in_use: false, resume: None };
    let volume = Arc::new(on.volume.fixture.volume());
    let report = verify(&modes, &volume, options, &Silent, &|_| ()).expect("verify");
    let of = |finding: &kmsfs::ops::Finding| {
        let Reason::Format(outcome) = finding.reason else { panic!("{finding:?}") };
        let path = String::from_utf8(finding.paths.plaintext.clone().expect("a name")).expect("text");
        (outcome, path, finding.unit)
    };
    let mut found: Vec<_> = report.findings.iter().map(of).collect();
    found.sort_by(|a, b| (&a.1, a.2).cmp(&(&b.1, b.2)));
    found
}

fn accepted(on: &Attacked, path: &[&[u8]]) -> AcceptReport {
    let modes = Modes::new(Arc::new(on.volume.fixture.backing.clone()), false);
    let volume = Arc::new(on.volume.fixture.volume());
    let fresh: Arc<Freshness> = Arc::clone(volume.freshness().expect("it has one"));
    accept(&modes, &volume, &fresh, path).expect("accept")
}

fn of(outcome: Outcome, path: &str) -> (Outcome, String, Option<u64>) {
    (outcome, path.to_owned(), None)
}

#[test]
fn a_damaged_row_of_a_name_costs_the_name_and_is_mended_by_accepting_it() {
    let mut on = attacked();
    let entry = on.raw.entry(&on.volume.vfs, "a").1;
    harm(&on, &format!("UPDATE entries SET mac = zeroblob(16) WHERE name = '{entry}'"));
    on.volume.remount();
    expect(&on.volume.vfs, &[("a", Unvouched)]);
    // What has another name is as doubtful, and what takes its place is not.
    on.volume.rename(&["a"], &["d", "moved"], RenameMode::NoReplace).unwrap();
    write(&mut on.volume, "a", 2);
    on.volume.vfs.settle().unwrap();
    on.volume.remount();
    expect(&on.volume.vfs, &[]);
    assert_eq!(read(&on.volume.vfs, "d/moved").unwrap_err().outcome(), Some(Unvouched));
    assert_eq!(findings(&on), [of(Unvouched, "d/moved")]);
    assert_eq!(accepted(&on, &[b"d", b"moved"]).files, 1);
    on.volume.remount();
    expect(&on.volume.vfs, &[]);
    assert!(read(&on.volume.vfs, "d/moved").unwrap() == content("a", 2));
    assert_eq!(findings(&on), []);
    on.volume.unlink(&["d", "moved"]).unwrap();
}

#[test]
fn a_name_whose_row_is_damaged_is_not_taken_for_removed() {
    let mut on = attacked();
    let (dir, entry) = on.raw.entry(&on.volume.vfs, "a");
    harm(&on, &format!("UPDATE entries SET kind = 9 WHERE name = '{entry}'"));
    on.raw.0.unlink(&dir, &entry).unwrap();
    on.volume.remount();
    let error = ino(&on.volume.vfs, "a").unwrap_err();
    assert_eq!((error.outcome(), error.errno()), (Some(Unvouched), Errno::IO));
    assert_eq!(findings(&on), [of(Unvouched, "a")]);
    assert_eq!(accepted(&on, &[b"a"]).removed, 1);
    on.volume.remount();
    assert_eq!(ino(&on.volume.vfs, "a").unwrap_err().errno(), Errno::NOENT);
    assert_eq!(findings(&on), []);
}

#[test]
fn a_damaged_row_of_a_file_or_of_units_costs_these() {
    let mut on = attacked();
    let (a, b) = (object(&on, "a"), object(&on, "b"));
    harm(&on, &format!("UPDATE files SET mac = zeroblob(16) WHERE object = {a}"));
    harm(&on, &format!("UPDATE units SET mac = zeroblob(16) WHERE object = {b}"));
    on.volume.remount();
    expect(&on.volume.vfs, &[("a", Unvouched), ("b", Unvouched)]);
    // Of `b` all units stand in the row: one finding, from the first on.
    assert_eq!(findings(&on), [of(Unvouched, "a"), (Unvouched, "b".to_owned(), Some(0))]);
    // What is written anew is known.
    write(&mut on.volume, "b", 2);
    assert!(read(&on.volume.vfs, "b").unwrap() == content("b", 2));
    on.volume.vfs.settle().unwrap();
    on.volume.remount();
    expect(&on.volume.vfs, &[("a", Unvouched)]);
    accepted(&on, &[b"a"]);
    on.volume.remount();
    expect(&on.volume.vfs, &[]);
    assert_eq!(findings(&on), []);
}

#[test]
fn a_file_without_a_row_is_not_taken_for_sound() {
    let mut on = attacked();
    harm(&on, &format!("DELETE FROM files WHERE object = {}", object(&on, "a")));
    on.volume.remount();
    expect(&on.volume.vfs, &[("a", Unvouched)]);
    assert_eq!(findings(&on), [of(Unvouched, "a")]);
}

#[test]
fn damage_that_concerns_nothing_is_told_too() {
    let mut on = attacked();
    harm(&on, "INSERT INTO entries VALUES (zeroblob(16), 'lost', 3, zeroblob(16), zeroblob(16))");
    on.volume.remount();
    expect(&on.volume.vfs, &[]);
    assert_eq!(findings(&on), [of(Unvouched, "")]);
}

/// A name that is another file's by the record becomes one more of this file's: `ln -f a b` in the ciphertext directory.
#[test]
fn verify_finds_names_of_one_file_that_are_two_in_the_record() {
    for empty in [false, true] {
        let mut on = attacked();
        if empty {
            for name in ["x", "y"] {
                on.volume.create(&[name], 0o644).unwrap();
            }
            on.volume.vfs.settle().unwrap();
            on.volume.remount();
        }
        let (from, to) = if empty { ("x", "y") } else { ("a", "b") };
        let ((dir, entry), (_, other)) = (on.raw.entry(&on.volume.vfs, from), on.raw.entry(&on.volume.vfs, to));
        on.raw.0.unlink(&dir, &other).unwrap();
        on.raw.0.link(&dir, &entry, &dir, &other).unwrap();
        on.volume.remount();
        // Of empty files nothing tells which is which.
        let both = [of(Misplaced, from), of(Misplaced, to)];
        assert_eq!(findings(&on), if empty { &both[..] } else { &both[1..] });
        assert_eq!(accepted(&on, &[to.as_bytes()]).files, 1);
        on.volume.remount();
        assert_eq!(findings(&on), [], "empty: {empty}");
        assert_eq!(read(&on.volume.vfs, from).unwrap(), read(&on.volume.vfs, to).unwrap());
    }
}

/// A name of a file with several becomes a copy: `cp a tmp; mv tmp b` in the ciphertext directory.
#[test]
fn verify_finds_files_that_are_one_in_the_record() {
    for empty in [false, true] {
        let mut on = attacked();
        if empty {
            on.volume.create(&["x"], 0o644).unwrap();
        }
        let from = if empty { "x" } else { "a" };
        on.volume.link(&[from], &["e", "linked"]).unwrap();
        on.volume.vfs.settle().unwrap();
        on.volume.remount();
        assert_eq!(findings(&on), [], "names of one file");
        let (bytes, (dir, entry)) = (on.raw.bytes(&on.volume.vfs, from), on.raw.entry(&on.volume.vfs, "e/linked"));
        on.raw.0.unlink(&dir, &entry).unwrap();
        on.raw.0.create(&dir, &entry, 0o644).unwrap().write_at(&bytes, 0).unwrap();
        on.volume.remount();
        let found: Vec<_> = findings(&on).into_iter().filter(|(outcome, ..)| *outcome != DuplicateId).collect();
        assert_eq!(found.len(), usize::from(empty), "{found:?}");
        assert!(found.iter().all(|(outcome, path, _)| *outcome == Misplaced && (path == from || path == "e/linked")));
        accepted(&on, &[]);
        on.volume.remount();
        let found: Vec<_> = findings(&on).into_iter().filter(|(outcome, ..)| *outcome != DuplicateId).collect();
        assert_eq!(found, [], "empty: {empty}");
        if empty {
            // Each is a file of its own now.
            write(&mut on.volume, from, 3);
            write(&mut on.volume, "e/linked", 4);
            for (path, version) in [(from, 3), ("e/linked", 4)] {
                assert!(read(&on.volume.vfs, path).unwrap() == content(path, version));
            }
        }
    }
}
