//! What somebody can do to a ciphertext directory with authentic parts of it, and that a freshness record tells.

mod damage;

use std::collections::BTreeMap;
use std::sync::Arc;

use kmsfs::env::ManualClock;
use kmsfs::format::Outcome;
use kmsfs::store::{
    Access, Backing, BackingFile, FaultPlan, Faulty, FileKind, Memory, MemoryOptions, RenameMode, Replay, Target,
};
use kmsfs::types::Timestamp;
use kmsfs::vfs::{Error, ROOT, Vfs};

use crate::crash::run::parts;
use crate::fixture::Fixture;
use crate::model::subject::{Mounted, Subject};

type Backed = Faulty<Memory>;
type Volume = Mounted<Backed>;

const UNIT: usize = 4096;
const DATA: usize = 4064;

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)))
}

/// What the files of the volume hold, by the version that they were written in.
fn content(path: &str, version: u8) -> Vec<u8> {
    path.bytes().cycle().map(|byte| byte ^ version).take(3 * DATA + 100).collect()
}

const FILES: [&str; 5] = ["a", "b", "d/x", "e/x", "e/sparse"];

/// A volume with files and directories in their first version, settled.
fn volume() -> Volume {
    let backing = Faulty::new(Memory::with_options(clock(), MemoryOptions::default()), FaultPlan::new());
    backing.start_recording();
    let mut volume = Mounted::new(Fixture::new(backing, clock()).with_record());
    for dir in ["d", "e"] {
        volume.mkdir(&parts(dir), 0o755).unwrap();
    }
    for path in FILES {
        write(&mut volume, path, 1);
    }
    volume.symlink(&["link"], b"first").unwrap();
    volume.vfs.settle().unwrap();
    volume
}

/// Writes a version of a file over the one before, without a flush.
fn write(volume: &mut Volume, path: &str, version: u8) {
    let path_parts = parts(path);
    match volume.open(&path_parts, true) {
        Ok(()) => {}
        Err(_) => volume.create(&path_parts, 0o644).unwrap(),
    }
    let file = volume.open_files() - 1;
    volume.write(file, 0, &content(path, version)).unwrap();
    if path == "e/sparse" {
        volume.allocate(file, kmsfs::store::Allocate::PunchHole, DATA as u64, DATA as u64).unwrap();
    }
    volume.close(file);
}

/// The inode number of a path, by lookups as the kernel makes them.
fn ino(vfs: &Vfs<Backed>, path: &str) -> Result<u64, Error> {
    parts(path).iter().try_fold(ROOT, |dir, name| Ok(vfs.lookup(dir, name.as_bytes())?.ino))
}

fn read(vfs: &Vfs<Backed>, path: &str) -> Result<Vec<u8>, Error> {
    let opened = vfs.open(ino(vfs, path)?, false)?;
    // Unit by unit, and all of them.
    let read = (0..4).try_fold(Vec::new(), |mut all, unit| {
        vfs.read(opened.handle, (unit * DATA) as u64, DATA, |bytes| all.extend_from_slice(bytes))?;
        Ok(all)
    });
    vfs.release(opened.handle);
    read
}

/// The ciphertext of the volume.
struct Raw(Backed);

impl Raw {
    fn dir(&self, vfs: &Vfs<Backed>, path: &str) -> <Backed as Backing>::Dir {
        let root = self.0.root().unwrap();
        if path.is_empty() { root } else { self.0.open_dir(&root, &self.entry(vfs, path).1).unwrap() }
    }

    /// The directory and the entry of a path.
    fn entry(&self, vfs: &Vfs<Backed>, path: &str) -> (<Backed as Backing>::Dir, String) {
        let (parent, _) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = self.dir(vfs, parent);
        let wanted = ino(vfs, path).unwrap();
        let mut entries = Vec::new();
        self.0.read_list(&mut self.0.list(&dir).unwrap(), 0, &mut entries).unwrap();
        let entry = entries.into_iter().find(|entry| entry.ino == wanted && entry.name != b".").unwrap();
        (dir, String::from_utf8(entry.name).unwrap())
    }

    fn bytes(&self, vfs: &Vfs<Backed>, path: &str) -> Vec<u8> {
        let (dir, entry) = self.entry(vfs, path);
        let file = self.0.open(&dir, &entry, Access::Read).unwrap();
        let mut bytes = vec![0; file.stat().unwrap().size as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn put(&self, vfs: &Vfs<Backed>, path: &str, bytes: &[u8]) {
        let (dir, entry) = self.entry(vfs, path);
        let file = self.0.open(&dir, &entry, Access::ReadWrite).unwrap();
        file.set_len(0).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        file.write_at(bytes, 0).unwrap();
    }

    fn rename(&self, vfs: &Vfs<Backed>, from: &str, to: &str, mode: RenameMode) {
        let ((dir, entry), (to_dir, to_entry)) = (self.entry(vfs, from), self.entry(vfs, to));
        self.0.rename(&dir, &entry, &to_dir, &to_entry, mode).unwrap();
    }
}

/// Two versions of the volume, settled; what the first was on disk; and the second mounted.
struct Attacked {
    volume: Volume,
    raw: Raw,
    first: BTreeMap<&'static str, Vec<u8>>,
    first_link: Vec<u8>,
    /// The entry of a file that is gone, and what it was.
    removed: (String, Vec<u8>),
}

fn attacked() -> Attacked {
    let mut volume = volume();
    let raw = Raw(volume.fixture.backing.clone());
    write(&mut volume, "removed", 1);
    let first = FILES.map(|path| (path, raw.bytes(&volume.vfs, path))).into_iter().collect();
    let removed = (raw.entry(&volume.vfs, "removed").1, raw.bytes(&volume.vfs, "removed"));
    let (root, link) = raw.entry(&volume.vfs, "link");
    let first_link = raw.0.read_link(Target::Named(&root, &link)).unwrap();
    volume.vfs.settle().unwrap();
    for path in FILES {
        write(&mut volume, path, 2);
    }
    volume.unlink(&["link"]).unwrap();
    volume.symlink(&["link"], b"second").unwrap();
    volume.unlink(&["removed"]).unwrap();
    volume.vfs.settle().unwrap();
    Attacked { volume, raw, first, first_link, removed }
}

/// Everything as it was written last, but for what is listed.
fn expect(vfs: &Vfs<Backed>, harmed: &[(&str, Outcome)]) {
    for path in FILES {
        let expected = harmed.iter().find(|(harmed, _)| *harmed == path).map(|(_, outcome)| *outcome);
        match (read(vfs, path), expected) {
            (Err(error), Some(outcome)) => {
                assert_eq!(error.outcome(), Some(outcome), "{path}");
                assert_eq!(error.errno(), rustix::io::Errno::IO, "{path}");
            }
            (Ok(bytes), None) => {
                let mut expected = content(path, 2);
                if path == "e/sparse" {
                    expected[DATA..2 * DATA].fill(0);
                }
                assert!(bytes == expected, "{path}");
            }
            (read, expected) => panic!("{path}: {:?}, expected {expected:?}", read.map(|bytes| bytes.len())),
        }
    }
    let link = ino(vfs, "link").and_then(|ino| vfs.read_link(ino));
    match harmed.iter().find(|(path, _)| *path == "link") {
        Some((_, outcome)) => assert_eq!(link.unwrap_err().outcome(), Some(*outcome)),
        None => assert_eq!(link.unwrap(), b"second"),
    }
    for dir in ["", "d", "e"] {
        let listing = ino(vfs, dir).and_then(|ino| vfs.open_dir(ino));
        let expected = harmed.iter().any(|(path, _)| *path == dir);
        assert_eq!(listing.is_err(), expected, "/{dir}: {listing:?}");
        listing.into_iter().for_each(|handle| vfs.release_dir(handle));
    }
}

fn attack(_name: &str, harmed: &[(&str, Outcome)], attack: impl FnOnce(&Attacked)) {
    let mut attacked = attacked();
    expect(&attacked.volume.vfs, &[]);
    attacked.volume.remount();
    expect(&attacked.volume.vfs, &[]);
    attack(&attacked);
    attacked.volume.remount();
    expect(&attacked.volume.vfs, harmed);
    // It does not become true by having been looked at.
    attacked.volume.vfs.settle().unwrap();
    attacked.volume.remount();
    expect(&attacked.volume.vfs, harmed);
}

use Outcome::{Misplaced, Stale, Vanished};

#[test]
fn names_that_changed_behind_the_record_are_noticed() {
    attack("two files swapped", &[("a", Misplaced), ("b", Misplaced)], |on| {
        on.raw.rename(&on.volume.vfs, "a", "b", RenameMode::Exchange);
    });
    let both = [("d", Misplaced), ("d/x", Misplaced), ("e", Misplaced), ("e/x", Misplaced), ("e/sparse", Misplaced)];
    attack("two directories swapped", &both, |on| {
        on.raw.rename(&on.volume.vfs, "d", "e", RenameMode::Exchange);
    });
    attack("a file removed", &[("a", Vanished)], |on| {
        let (dir, entry) = on.raw.entry(&on.volume.vfs, "a");
        on.raw.0.unlink(&dir, &entry).unwrap();
    });
    attack("a directory removed", &[("d", Vanished), ("d/x", Vanished)], |on| {
        let (dir, entry) = on.raw.entry(&on.volume.vfs, "d");
        on.raw.0.rename(&dir, &entry, &dir, "gone", RenameMode::NoReplace).unwrap();
    });
    attack("a file moved over another", &[("a", Vanished), ("b", Misplaced)], |on| {
        on.raw.rename(&on.volume.vfs, "a", "b", RenameMode::Replace);
    });
    attack("a copy in another's place", &[("b", Misplaced)], |on| {
        on.raw.put(&on.volume.vfs, "b", &on.raw.bytes(&on.volume.vfs, "a"));
    });
    attack("an older symlink", &[("link", Misplaced)], |on| {
        let (dir, entry) = on.raw.entry(&on.volume.vfs, "link");
        on.raw.0.unlink(&dir, &entry).unwrap();
        on.raw.0.symlink(&on.first_link, &dir, &entry).unwrap();
    });
}

#[test]
fn older_versions_of_files_are_noticed() {
    attack("a whole file", &[("a", Stale)], |on| on.raw.put(&on.volume.vfs, "a", &on.first["a"]));
    attack("one unit", &[("a", Stale)], |on| {
        let mut bytes = on.raw.bytes(&on.volume.vfs, "a");
        bytes[2 * UNIT..3 * UNIT].copy_from_slice(&on.first["a"][2 * UNIT..3 * UNIT]);
        on.raw.put(&on.volume.vfs, "a", &bytes);
    });
    attack("a file of one unit less", &[("a", Stale)], |on| {
        let bytes = on.raw.bytes(&on.volume.vfs, "a");
        on.raw.put(&on.volume.vfs, "a", &bytes[..4 * UNIT + DATA]);
    });
    attack("a file made longer", &[("a", Stale)], |on| {
        let mut bytes = on.raw.bytes(&on.volume.vfs, "a");
        bytes.resize(bytes.len() + 2 * UNIT, 0);
        on.raw.put(&on.volume.vfs, "a", &bytes);
    });
    attack("an emptied file", &[("a", Misplaced)], |on| on.raw.put(&on.volume.vfs, "a", &[]));
    attack("a zeroed unit where holes may be", &[("e/sparse", Stale)], |on| {
        let mut bytes = on.raw.bytes(&on.volume.vfs, "e/sparse");
        bytes[3 * UNIT..4 * UNIT].fill(0);
        on.raw.put(&on.volume.vfs, "e/sparse", &bytes);
    });
    attack("an older unit where a hole is", &[("e/sparse", Stale)], |on| {
        let mut bytes = on.raw.bytes(&on.volume.vfs, "e/sparse");
        bytes[3 * UNIT..4 * UNIT].copy_from_slice(&on.first["e/sparse"][3 * UNIT..4 * UNIT]);
        on.raw.put(&on.volume.vfs, "e/sparse", &bytes);
    });
    attack("records of before the last flush", &[("a", Stale)], |on| {
        let mut bytes = on.raw.bytes(&on.volume.vfs, "a");
        // Another generation of the slots than the recorded one, well-formed or not.
        bytes[200] ^= 1;
        on.raw.put(&on.volume.vfs, "a", &bytes);
        bytes[200] ^= 1;
        bytes[3072 + 100] ^= 1;
        on.raw.put(&on.volume.vfs, "a", &bytes);
    });
}

#[test]
fn what_was_removed_cannot_be_put_back() {
    let mut on = attacked();
    let root = on.raw.0.root().unwrap();
    on.raw.0.mknod(&root, &on.removed.0, FileKind::Regular, 0o644, 0).unwrap();
    on.raw.0.open(&root, &on.removed.0, Access::ReadWrite).unwrap().write_at(&on.removed.1, 0).unwrap();
    on.volume.remount();
    expect(&on.volume.vfs, &[]);
    let vfs = &on.volume.vfs;
    assert_eq!(read(vfs, "removed").unwrap_err().outcome(), Some(Misplaced));
    // It can be removed for good.
    vfs.unlink(ROOT, b"removed").unwrap();
    assert_eq!(ino(vfs, "removed").unwrap_err().errno(), rustix::io::Errno::NOENT);
    vfs.settle().unwrap();
    on.volume.remount();
    expect(&on.volume.vfs, &[]);
}

#[test]
fn an_older_volume_is_noticed_wherever_it_differs() {
    let mut volume = volume();
    let records = volume.fixture.backing.stop_recording();
    for path in ["a", "d/x"] {
        write(&mut volume, path, 2);
    }
    volume.create(&["d", "new"], 0o644).unwrap();
    volume.vfs.settle().unwrap();
    let older = Faulty::new(Memory::with_options(clock(), MemoryOptions::default()), FaultPlan::new());
    let mut replay = Replay::new(older.clone(), 2).unwrap();
    records.iter().for_each(|record| replay.apply(record).unwrap());
    let older = Mounted::new(volume.fixture.on(older));
    for path in ["a", "d/x"] {
        assert_eq!(read(&older.vfs, path).unwrap_err().outcome(), Some(Stale), "{path}");
    }
    assert_eq!(ino(&older.vfs, "d/new").unwrap_err().outcome(), Some(Vanished));
    for path in ["b", "e/x"] {
        assert!(read(&older.vfs, path).unwrap() == content(path, 1), "{path} is the same in both");
    }
}

#[test]
fn what_fsync_reported_durable_cannot_be_rolled_back_after_a_crash() {
    let mut on = attacked();
    let volume = &mut on.volume;
    // Flushed, but never settled, in a directory that was being changed: the worst place.
    volume.create(&["new"], 0o644).unwrap();
    let file = volume.open_files() - 1;
    let save = |volume: &mut Volume, version| {
        volume.write(file, 0, &content("new", version)).unwrap();
        volume.fsync(file, false).unwrap();
        on.raw.bytes(&volume.vfs, "new")
    };
    let third = save(volume, 3);
    let fourth = save(volume, 4);
    // The process is killed here.
    volume.remount();
    assert!(read(&volume.vfs, "new").unwrap() == content("new", 4));
    on.raw.put(&volume.vfs, "new", &third);
    volume.remount();
    let error = read(&volume.vfs, "new").unwrap_err();
    assert_eq!(error.outcome(), Some(Stale));
    let mut mixed = fourth.clone();
    mixed[2 * UNIT..3 * UNIT].copy_from_slice(&third[2 * UNIT..3 * UNIT]);
    on.raw.put(&volume.vfs, "new", &mixed);
    volume.remount();
    assert_eq!(read(&volume.vfs, "new").unwrap_err().outcome(), Some(Stale));
    on.raw.put(&volume.vfs, "new", &fourth);
    volume.remount();
    assert!(read(&volume.vfs, "new").unwrap() == content("new", 4), "the newest is the newest");
    expect(&volume.vfs, &[]);
}

/// The flush has nothing to write, but something to record: it must not take back that the file is about to change.
#[test]
fn what_is_written_behind_a_flush_of_an_unchanged_file_is_no_attack_after_a_kill() {
    for (path, flushed) in [("a", false), ("a", true), ("new", false), ("new", true), ("empty", false), ("empty", true)]
    {
        let mut on = attacked();
        let volume = &mut on.volume;
        match path {
            "empty" => volume.mknod(&[path], FileKind::Regular, 0o644).unwrap(),
            _ => write(volume, path, 3),
        }
        volume.open(&[path], true).unwrap();
        let file = volume.open_files() - 1;
        volume.fsync(file, false).unwrap();
        volume.write(file, 0, &content(path, 4)).unwrap();
        if flushed {
            volume.fsync(file, false).unwrap();
        }
        volume.write(file, 0, &content(path, 5)).unwrap();
        // The process is killed here.
        volume.remount();
        assert!(read(&volume.vfs, path).expect("no attack") == content(path, 5), "{path}, {flushed}");
        volume.vfs.settle().unwrap();
        volume.remount();
        assert!(read(&volume.vfs, path).expect("no attack") == content(path, 5), "{path}, {flushed}, settled");
    }
}

#[test]
fn a_new_file_that_was_moved_before_the_process_was_killed_is_new() {
    let mut on = attacked();
    for (path, to) in [("d/new", "e/new"), ("d/other", "moved")] {
        write(&mut on.volume, path, 5);
        on.volume.rename(&parts(path), &parts(to), RenameMode::NoReplace).unwrap();
    }
    on.volume.link(&["moved"], &["e", "linked"]).unwrap();
    on.volume.create(&["empty"], 0o644).unwrap();
    on.volume.vfs.settle().unwrap();
    on.volume.link(&["empty"], &["e", "empty"]).unwrap();
    on.volume.create(&["nothing"], 0o644).unwrap();
    on.volume.link(&["nothing"], &["e", "nothing"]).unwrap();
    for _ in 0..2 {
        // Killed, and killed again before anything was settled.
        on.volume.remount();
        expect(&on.volume.vfs, &[]);
        assert!(read(&on.volume.vfs, "e/new").unwrap() == content("d/new", 5));
        for linked in ["moved", "e/linked"] {
            assert!(read(&on.volume.vfs, linked).unwrap() == content("d/other", 5));
        }
        for empty in ["empty", "e/empty", "nothing", "e/nothing"] {
            assert_eq!(read(&on.volume.vfs, empty).unwrap(), b"");
        }
        on.volume.rename(&["e", "new"], &["d", "new"], RenameMode::NoReplace).unwrap();
        on.volume.rename(&["d", "new"], &["e", "new"], RenameMode::NoReplace).unwrap();
    }
}

#[test]
fn names_of_an_empty_file_that_was_never_open_stay_one_files() {
    let mut on = attacked();
    for dir in ["d", "e"] {
        // Made by mknod(2), so that nobody knows its inode number when it is recorded.
        on.volume.mknod(&[dir, "made"], FileKind::Regular, 0o644).unwrap();
    }
    on.volume.vfs.settle().unwrap();
    on.volume.link(&["d", "made"], &["e", "linked"]).unwrap();
    on.volume.link(&["e", "made"], &["linked"]).unwrap();
    on.volume.remount();
    expect(&on.volume.vfs, &[]);
    for path in ["e/linked", "linked", "d/made", "e/made"] {
        assert_eq!(read(&on.volume.vfs, path).unwrap(), b"", "{path}");
    }
    for path in ["linked", "e/linked"] {
        write(&mut on.volume, path, 3);
    }
    assert!(read(&on.volume.vfs, "d/made").unwrap() == content("e/linked", 3));
    assert!(read(&on.volume.vfs, "e/made").unwrap() == content("linked", 3));
}

#[test]
fn names_of_a_file_that_was_written_anew_before_a_kill_stay_one_files() {
    for first in ["a", "e/linked"] {
        let mut on = attacked();
        on.volume.link(&["a"], &["e", "linked"]).unwrap();
        on.volume.open(&["a"], true).unwrap();
        let file = on.volume.open_files() - 1;
        on.volume.set_len(file, 0).unwrap();
        on.volume.write(file, 0, &content("a", 9)).unwrap();
        on.volume.remount();
        let second = if first == "a" { "e/linked" } else { "a" };
        for path in [first, second, first] {
            assert!(read(&on.volume.vfs, path).unwrap() == content("a", 9), "{path}");
        }
        on.volume.vfs.settle().unwrap();
        on.volume.remount();
        for path in [second, first] {
            assert!(read(&on.volume.vfs, path).unwrap() == content("a", 9), "{path}");
        }
    }
}

#[test]
fn files_that_took_the_names_of_others_before_a_kill_are_told_apart() {
    let mut on = attacked();
    // All of them are being written, so any of them may have become another life.
    for path in ["a", "b"] {
        write(&mut on.volume, path, 2);
    }
    on.volume.rename(&["a"], &["moved"], RenameMode::NoReplace).unwrap();
    write(&mut on.volume, "a", 7);
    on.volume.link(&["moved"], &["temporary"]).unwrap();
    on.volume.rename(&["temporary"], &["b"], RenameMode::Replace).unwrap();
    on.volume.open(&["moved"], true).unwrap();
    let file = on.volume.open_files() - 1;
    on.volume.set_len(file, 0).unwrap();
    on.volume.write(file, 0, &content("moved", 8)).unwrap();
    for settle in [false, true] {
        if settle {
            on.volume.vfs.settle().unwrap();
        }
        on.volume.remount();
        assert!(read(&on.volume.vfs, "a").unwrap() == content("a", 7));
        for path in ["b", "moved"] {
            assert!(read(&on.volume.vfs, path).unwrap() == content("moved", 8), "{path}");
        }
    }
}

#[test]
fn an_empty_file_that_took_the_name_of_another_before_a_kill_is_told_apart() {
    let mut on = attacked();
    on.volume.create(&["empty"], 0o644).unwrap();
    on.volume.vfs.settle().unwrap();
    on.volume.rename(&["empty"], &["moved"], RenameMode::NoReplace).unwrap();
    on.volume.create(&["empty"], 0o644).unwrap();
    on.volume.remount();
    for path in ["empty", "moved"] {
        write(&mut on.volume, path, 3);
    }
    for path in ["empty", "moved"] {
        assert!(read(&on.volume.vfs, path).unwrap() == content(path, 3), "{path}");
    }
}

#[test]
fn after_a_crash_a_removed_file_cannot_be_put_where_names_were_changing() {
    let mut on = attacked();
    // Marks the root.
    on.volume.mkdir(&["more"], 0o755).unwrap();
    on.volume.remount();
    let root = on.raw.0.root().unwrap();
    on.raw.0.mknod(&root, &on.removed.0, FileKind::Regular, 0o644, 0).unwrap();
    on.raw.0.open(&root, &on.removed.0, Access::ReadWrite).unwrap().write_at(&on.removed.1, 0).unwrap();
    on.volume.remount();
    assert_eq!(read(&on.volume.vfs, "removed").unwrap_err().outcome(), Some(Stale), "its units are old");
    expect(&on.volume.vfs, &[]);
}

#[test]
fn while_it_is_mounted_an_older_unit_is_noticed_too() {
    let on = attacked();
    let vfs = &on.volume.vfs;
    let mut bytes = on.raw.bytes(vfs, "b");
    bytes[UNIT..2 * UNIT].copy_from_slice(&on.first["b"][UNIT..2 * UNIT]);
    let opened = vfs.open(ino(vfs, "b").unwrap(), true).unwrap();
    on.raw.put(vfs, "b", &bytes);
    let read = |at: usize| vfs.read(opened.handle, at as u64, 10, <[u8]>::to_vec);
    assert_eq!(read(0).unwrap_err().outcome(), Some(Stale));
    assert!(read(DATA).unwrap() == content("b", 2)[DATA..DATA + 10]);
    // What is written anew is new.
    vfs.write(opened.handle, 0, &content("b", 7)[..DATA]).unwrap();
    assert!(read(0).unwrap() == content("b", 7)[..10]);
    let (dir, entry) = on.raw.entry(vfs, "b");
    assert_eq!(on.raw.0.stat(Target::Named(&dir, &entry)).unwrap().size as usize, bytes.len());
}

#[test]
fn a_file_that_was_moved_before_a_kill_is_there_though_its_old_directory_is_settled_first() {
    let mut volume = volume();
    volume.rename(&["a"], &["d", "a"], RenameMode::Replace).unwrap();
    volume.remount();
    assert_eq!(read(&volume.vfs, "b").unwrap(), content("b", 1));
    volume.vfs.settle().unwrap();
    assert_eq!(read(&volume.vfs, "d/a").unwrap(), content("a", 1));
    volume.vfs.settle().unwrap();
    volume.remount();
    assert_eq!(read(&volume.vfs, "d/a").unwrap(), content("a", 1));
}

#[test]
fn a_cut_that_leaves_nothing_but_zeros_of_a_unit_is_no_attack() {
    let mut volume = volume();
    volume.create(&["cut"], 0o600).unwrap();
    volume.write(0, DATA as u64 + 2000, &[7; 100]).unwrap();
    volume.fsync(0, false).unwrap();
    volume.set_len(0, DATA as u64 + 1000).unwrap();
    assert_eq!(volume.read(0, DATA as u64, DATA), Ok(vec![0; 1000]));
    volume.write(0, DATA as u64 + 1500, &[8; 10]).unwrap();
    volume.set_len(0, DATA as u64 + 1200).unwrap();
    // Once as a mount that ends leaves it, once as a killed one does.
    for settled in [false, true] {
        if settled {
            volume.vfs.settle().unwrap();
        }
        volume.remount();
        volume.open(&["cut"], false).unwrap();
        assert_eq!(volume.read(0, DATA as u64, DATA), Ok(vec![0; 1200]));
    }
}

#[test]
fn renames_and_links_are_followed() {
    let mut on = attacked();
    let volume = &mut on.volume;
    for path in ["d/x", "b"] {
        volume.open(&parts(path), true).unwrap();
    }
    volume.rename(&["a"], &["d", "a"], RenameMode::NoReplace).unwrap();
    volume.rename(&["d", "a"], &["a"], RenameMode::NoReplace).unwrap();
    volume.rename(&["a"], &["b"], RenameMode::Exchange).unwrap();
    volume.rename(&["b"], &["a"], RenameMode::Exchange).unwrap();
    volume.link(&["a"], &["e", "linked"]).unwrap();
    volume.mkdir(&["f"], 0o755).unwrap();
    volume.rename(&["f"], &["g"], RenameMode::Replace).unwrap();
    volume.rename(&["e"], &["g"], RenameMode::Replace).unwrap();
    volume.rename(&["g"], &["e"], RenameMode::NoReplace).unwrap();
    expect(&volume.vfs, &[]);
    for settle in [true, false] {
        if settle {
            volume.vfs.settle().unwrap();
        }
        volume.remount();
        expect(&volume.vfs, &[]);
        assert!(read(&volume.vfs, "e/linked").unwrap() == content("a", 2));
        volume.unlink(&["e", "linked"]).unwrap();
        volume.link(&["a"], &["e", "linked"]).unwrap();
    }
}
