//! Whole volumes: damaged ciphertext, damaged freshness records, and power cuts.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use kmsfs::crypto::aead::Backend;
use kmsfs::env::ManualClock;
use kmsfs::format::keys::VolumeKeys;
use kmsfs::freshness::Freshness;
use kmsfs::ops::repair::{Plan, PlanOptions, Repair, apply, plan};
use kmsfs::ops::verify::{VerifyOptions, verify};
use kmsfs::ops::{Silent, resume};
use kmsfs::store::{Access, Backing, BackingFile, FileKind, Memory, Modes, RenameMode, Stat, Target};
use kmsfs::types::Timestamp;
use kmsfs::vfs::{Options, Vfs};

use super::edits::{self, edit};
use super::{VOLUME, root_key};
use crate::fixture::Fixture;
use crate::model::subject::{Mounted, Subject};

/// Plaintext bytes of a unit.
const UNIT: usize = 4064;
/// A name that is too long to stand in an entry.
const LONG: &str = "long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-\
                    long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-long-end";

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_secs(1_700_000_000)))
}

fn content(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at / 7 + seed) % 255) as u8 + 1).collect()
}

/// What the volume holds, by path.
fn contents() -> BTreeMap<String, Vec<u8>> {
    let of = [("a", 3 * UNIT + 9), ("b", 3 * UNIT + 9), ("empty", 0), ("sub/c", UNIT), ("sub/d", 100)];
    let mut contents: BTreeMap<String, Vec<u8>> =
        of.iter().enumerate().map(|(at, (path, len))| ((*path).to_owned(), content(at * 50, *len))).collect();
    contents.insert(format!("sub/{LONG}"), content(99, 5));
    contents
}

/// A volume of a few files, all of it durable, with a freshness record where `recorded`.
fn volume(recorded: bool) -> Fixture<Memory> {
    let fixture = Fixture::new(Memory::new(clock()), clock());
    let fixture = if recorded { fixture.with_record() } else { fixture };
    let mut mounted = Mounted::new(fixture);
    mounted.mkdir(&["sub"], 0o755).expect("mkdir");
    for (path, content) in contents() {
        mounted.create(&parts(&path), 0o644).expect("create");
        mounted.write(0, 0, &content).expect("write");
        mounted.fsync(0, false).expect("fsync");
        mounted.close(0);
    }
    mounted.symlink(&["link"], b"sub/c").expect("symlink");
    mounted.set_xattr(&["a"], "user.a", b"value", kmsfs::store::XattrMode::Set).expect("setxattr");
    mounted.vfs.settle().expect("settled");
    mounted.fixture
}

fn parts(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
}

/// An entry of the ciphertext.
struct Entry {
    dir: Vec<String>,
    name: String,
    kind: FileKind,
}

fn dir_of(backing: &Memory, path: &[String]) -> <Memory as Backing>::Dir {
    path.iter().fold(backing.root().expect("root"), |dir, name| backing.open_dir(&dir, name).expect("a directory"))
}

/// All entries in the order of their names.
fn entries(backing: &Memory) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut dirs = vec![Vec::new()];
    while let Some(path) = dirs.pop() {
        let dir = dir_of(backing, &path);
        let (mut list, mut names) = (backing.list(&dir).expect("list"), Vec::new());
        let mut from = 0;
        loop {
            let before = names.len();
            backing.read_list(&mut list, from, &mut names).expect("list");
            match names.last() {
                Some(last) if names.len() > before => from = last.next,
                _ => break,
            }
        }
        let mut names: Vec<String> = names.into_iter().filter_map(|entry| String::from_utf8(entry.name).ok()).collect();
        names.sort();
        for name in names.into_iter().filter(|name| name != "." && name != "..") {
            let kind = backing.stat(Target::Named(&dir, &name)).expect("stat").kind;
            if kind == FileKind::Directory {
                dirs.push([&path[..], std::slice::from_ref(&name)].concat());
            }
            found.push(Entry { dir: path.clone(), name, kind });
        }
    }
    found
}

fn read(backing: &Memory, entry: &Entry) -> Vec<u8> {
    let dir = dir_of(backing, &entry.dir);
    if entry.kind == FileKind::Symlink {
        return backing.read_link(Target::Named(&dir, &entry.name)).expect("readlink");
    }
    let file = backing.open(&dir, &entry.name, Access::Read).expect("open");
    let mut bytes = vec![0; file.stat().expect("stat").size as usize];
    file.read_at(&mut bytes, 0).expect("read");
    bytes
}

fn replace(backing: &Memory, entry: &Entry, bytes: &[u8]) {
    let dir = dir_of(backing, &entry.dir);
    if entry.kind == FileKind::Symlink {
        backing.unlink(&dir, &entry.name).expect("unlink");
        // A target holds no NUL and is neither empty nor longer than a page.
        let mut target: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).take(4095).collect();
        if target.is_empty() {
            target.push(b'x');
        }
        return backing.symlink(&target, &dir, &entry.name).expect("symlink");
    }
    let file = backing.open(&dir, &entry.name, Access::ReadWrite).expect("open");
    file.set_len(0).expect("truncate");
    file.write_at(bytes, 0).expect("write");
}

/// Changes what lies in the ciphertext directory: bytes, or entries.
fn tamper(backing: &Memory, choice: &[u8; edits::LEN]) {
    let entries = entries(backing);
    let at = |byte: u8| &entries[usize::from(byte) % entries.len()];
    let (one, other) = (at(choice[1]), at(choice[2]));
    let dirs = (dir_of(backing, &one.dir), dir_of(backing, &other.dir));
    match choice[0] {
        // What the system refuses (a directory within itself) changes nothing.
        0..=31 => drop(backing.rename(&dirs.0, &one.name, &dirs.1, &other.name, RenameMode::Exchange)),
        32..=39 => drop(backing.rename(&dirs.0, &one.name, &dirs.1, &format!("{}x", other.name), RenameMode::Replace)),
        40..=47 => drop(backing.link(&dirs.0, &one.name, &dirs.1, &format!("x{}", other.name))),
        48..=55 => drop(backing.unlink(&dirs.0, &one.name)),
        _ => {
            let leaves: Vec<&Entry> = entries.iter().filter(|entry| entry.kind != FileKind::Directory).collect();
            let mut files: Vec<Vec<u8>> = leaves.iter().map(|entry| read(backing, entry)).collect();
            let before = files.clone();
            edit(choice, &mut files);
            for (entry, (now, before)) in leaves.iter().zip(files.iter().zip(&before)) {
                if now != before {
                    replace(backing, entry, now);
                }
            }
        }
    }
}

/// Reads everything that a mounted volume shows. Each file that can be read must hold what `allowed` says of its path, at
/// its size where `exact`. Answers how much could not be read.
fn read_everything(volume: &mut Mounted<Memory>, exact: bool, allowed: impl Fn(&str) -> Vec<Vec<u8>>) -> usize {
    let mut unreadable = 0;
    let mut dirs = vec![String::new()];
    let mut seen = 0;
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = volume.list(&parts(&dir)) else {
            unreadable += 1;
            continue;
        };
        for (name, kind) in entries {
            // A directory that was moved into itself by other names would have no end.
            seen += 1;
            assert!(seen < 1000, "a tree of some twenty entries");
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let names = parts(&path);
            match kind {
                FileKind::Directory => dirs.push(path),
                FileKind::Symlink => unreadable += usize::from(volume.read_link(&names).is_err()),
                _ => unreadable += read_file(volume, &path, &allowed(&path), exact),
            }
        }
    }
    unreadable
}

/// How many of the file's units cannot be read.
fn read_file(volume: &mut Mounted<Memory>, path: &str, allowed: &[Vec<u8>], exact: bool) -> usize {
    let names = parts(path);
    let Ok(size) = volume.stat(&names).map(|stat| stat.size) else { return 1 };
    if volume.open(&names, false).is_err() {
        return 1;
    }
    let units: Vec<_> = (0..size.div_ceil(UNIT as u64))
        .map(|unit| (unit as usize * UNIT, volume.read(0, unit * UNIT as u64, UNIT)))
        .collect();
    volume.close(0);
    let is = |content: &Vec<u8>| {
        (!exact || size == content.len() as u64)
            && units.iter().all(|(at, found)| {
                let Ok(found) = found else { return true };
                let kept = content.get(*at..).unwrap_or_default();
                let kept = &kept[..kept.len().min(found.len())];
                // Behind the authenticated bound of the size there may be zeros (FORMAT 9).
                found[..kept.len()] == *kept && found[kept.len()..].iter().all(|byte| *byte == 0)
            })
    };
    assert!(allowed.iter().any(is), "{path} holds what was never written to it");
    units.iter().filter(|(_, found)| found.is_err()).count()
}

/// A volume whose ciphertext was changed: nothing that was never written is read, what `verify` finds nothing wrong with
/// can be read, and a repair needs no second one. With a freshness record, what can be read is where it was.
///
/// The first byte says whether there is a record; every eight others are a change.
pub fn damage(data: &[u8]) -> bool {
    let Some((first, changes)) = data.split_first() else { return false };
    let recorded = first % 2 == 1;
    let volume = volume(recorded);
    changes.as_chunks().0.iter().take(6).for_each(|choice| tamper(&volume.backing, choice));
    let backing = Arc::new(volume.backing.clone());
    let options = VerifyOptions { threads: 1, in_use: true, resume: None };
    let modes = Modes::new(backing.clone(), false);
    let report = verify(&modes, &Arc::new(volume.volume()), options, &Silent, &|_| ()).expect("a root");
    let mountable = Vfs::new(backing.clone(), Arc::new(volume.volume()), Options::default()).is_ok();
    assert!(mountable || !report.findings.is_empty());
    if mountable {
        let known = contents();
        let allowed = |path: &str| match known.get(path) {
            Some(content) if recorded => vec![content.clone()],
            None if recorded => Vec::new(),
            _ => known.values().cloned().collect(),
        };
        let mut mounted = Mounted::new(volume.on(volume.backing.clone()));
        let unreadable = read_everything(&mut mounted, recorded, allowed);
        assert!(unreadable == 0 || !report.findings.is_empty(), "verify found nothing");
    }
    if !recorded {
        repair_all(&volume, !report.findings.is_empty());
    }
    report.findings.is_empty()
}

/// Repairs a volume, `damaged` if `verify` says so: only what a name hid, at which a run does not look, is left for the next one.
fn repair_all(volume: &Fixture<Memory>, damaged: bool) {
    let (modes, files) = (Modes::new(Arc::new(volume.backing.clone()), false), Arc::new(volume.volume()));
    let options = PlanOptions { threads: 1, accept_single: false };
    let mut before = Plan::default();
    // Each looks one directory deeper, and there are not more.
    for _ in 0..10 {
        // Without `.kmsfs` there is no volume to be repaired or mounted, and no command would come here.
        let Ok(planned) = plan(&modes, &files, options, &Silent) else {
            assert!(damaged);
            return;
        };
        if planned.repairs.is_empty() {
            return;
        }
        let hid = before.repairs.is_empty() || before.repairs.iter().any(Repair::uncovers);
        assert!(hid, "{:?} is left after {:?}", planned.repairs, before.repairs);
        let Ok(applied) = apply(&modes, &files, &planned, &*clock()) else {
            assert!(!entries(&volume.backing).iter().any(|entry| entry.dir.is_empty() && entry.name == ".kmsfs"));
            return;
        };
        if !applied.failed.is_empty() {
            return;
        }
        before = planned;
    }
    panic!("no end of repairs: {:?}", before.repairs);
}

thread_local! {
    /// A sound volume, and its freshness record as a file.
    static RECORDED: (Fixture<Memory>, Vec<u8>) = {
        let mut volume = volume(true);
        let record = volume.record.take().expect("it was just made");
        // Whoever closes a database last writes its journal into it.
        let bytes = std::fs::read(record.path()).expect("a record");
        (volume, bytes)
    };
}

/// A freshness record that was changed: it is refused, or what it lets read is what was written.
pub fn freshness(data: &[u8]) -> bool {
    RECORDED.with(|(volume, record)| {
        let dir = super::temporary();
        let path = dir.path().join("record");
        let mut files = [record.clone()];
        data.as_chunks().0.iter().take(8).for_each(|choice| edit(choice, &mut files));
        std::fs::write(&path, &files[0]).expect("written");
        let keys = VolumeKeys::derive(Backend::default(), &root_key(), VOLUME);
        let Ok(record) = Freshness::open(&path, &keys, VOLUME) else { return false };
        let content = volume.volume().with_freshness(Some(Arc::new(record)));
        let Ok(vfs) = Vfs::new(Arc::new(volume.backing.clone()), Arc::new(content), Options::default()) else {
            return false;
        };
        let mut mounted = Mounted::new(volume.on(volume.backing.clone()));
        mounted.vfs = vfs;
        let known = contents();
        read_everything(&mut mounted, true, |path| vec![known[path].clone()]) == 0
    })
}

/// The notes of an interrupted verify.
pub fn verify_notes(data: &[u8]) -> bool {
    let dir = super::temporary();
    let path = dir.path().join("notes");
    std::fs::write(&path, data).expect("written");
    let open = || resume::Resume::open(&path, VOLUME);
    let Ok(notes) = open() else {
        assert_eq!(std::fs::read(&path).expect("read"), data, "other files are not written to");
        return false;
    };
    let stat = Stat { ino: 1, size: 100, ..some_stat() };
    notes.note(&stat, None, Some(7)).expect("noted");
    notes.end(false).expect("written");
    drop(notes);
    let known = open().expect("what was opened once").known(&stat).expect("it was just noted");
    assert_eq!((known.file_id, known.next), (None, Some(7)));
    true
}

fn some_stat() -> Stat {
    let memory = Memory::new(clock());
    memory.stat(Target::Dir(&memory.root().expect("root"))).expect("stat")
}

/// Steps that are shown when what they led to is wrong.
struct Shown<'a>(&'a [crate::crash::run::Step]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // With the panic there is nothing else to fail.
            let _ = writeln!(std::io::stderr(), "the steps were {:?}", self.0);
        }
    }
}

/// Steps on a volume, and power cuts behind them. Eight bytes are a step of the crash test's generator or, if the last of
/// them is small, a cut: when, how much of the journal the disk has, and which pages.
pub fn crash(data: &[u8]) -> bool {
    use crate::crash::disk::{Cut, Pages};
    use crate::crash::random::{cut_and_check, disk_of, new_recorded_volume, new_volume, step};
    use crate::crash::run::Step;
    use proptest::strategy::{Just, Strategy};
    let Some((first, rest)) = data.split_first() else { return false };
    let (recorded, ordered) = (first % 4 == 0, first & 4 == 0);
    let (choices, _) = rest.as_chunks::<8>();
    let (cuts, steps): (Vec<&[u8; 8]>, Vec<&[u8; 8]>) = choices.iter().partition(|choice| choice[7] < 32);
    let step =
        if recorded { proptest::prop_oneof![12 => step(), 1 => Just(Step::Settle)].boxed() } else { step().boxed() };
    let steps: Vec<Step> = steps.iter().take(30).map(|choice| super::choose(&step, &choice[..])).collect();
    let _shown = Shown(&steps);
    let mut begin = vec![Step::Create("a"), Step::Write("a", 0, 5000), Step::Fsync("a"), Step::Mkdir("d")];
    if recorded {
        begin.push(Step::Settle);
    }
    let run = if recorded { new_recorded_volume(ordered) } else { new_volume(ordered) }.steps(&begin).steps(&steps);
    let disk = disk_of(&run);
    let end = [255, 255, 128, 0, 1, 0, 0, 0];
    for cut in cuts.into_iter().take(8).chain([&end]) {
        let [done, _, journal, _, ..] = *cut;
        let part = |byte: u8, of: usize| usize::from(byte) * of / 255;
        let done = run.base() + part(done, run.records.len() - run.base());
        let seed = u64::from_le_bytes(*cut);
        // Where metadata is in no order only what was flushed may be logged, and nothing else.
        let log = (!ordered && cut[5] % 2 == 0).then_some(seed);
        let least = if log.is_some() { disk.committed(done) } else { disk.durable(done) };
        let cut = Cut { done, journal: least + part(journal, done - least), log };
        cut_and_check(&run, &disk, cut, &Pages::any(seed), ordered);
    }
    !steps.is_empty()
}
