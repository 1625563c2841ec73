//! What `verify --salvage` writes of a damaged volume.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use kmsfs::ops::Silent;
use kmsfs::ops::salvage::{SalvageError, SalvageReport, salvage};
use kmsfs::store::{Fault, FaultPlan, Faulty, FileTime, LocalDir, Modes, OpClass, SetTime, XattrMode};
use kmsfs::vfs::{ROOT, SetAttr};
use rustix::io::Errno;
use tempfile::TempDir;

use super::host::{Host, ciphertext, codes, edit, plant_id};

const UNIT: usize = 4096;
const DATA: usize = 4064;
const HEADER: usize = 4096;

pub fn run(host: &Host, root: &Path, out: &Path) -> SalvageReport {
    let backing = Arc::new(LocalDir::open(root).expect("open the directory"));
    salvage(&Modes::new(backing, false), &host.files(root), out, 2, &Silent).expect("salvage")
}

/// Each incomplete file as `path size: offset+len outcome, ... (outcomes of the whole)`.
fn losses(report: &SalvageReport) -> Vec<String> {
    let mut lines: Vec<String> = report
        .incomplete
        .iter()
        .map(|file| {
            let holes: Vec<String> =
                file.holes.iter().map(|hole| format!("{}+{} {}", hole.offset, hole.len, hole.reason.code())).collect();
            let doubts: Vec<String> = file.doubts.iter().map(|doubt| doubt.code()).collect();
            let path = String::from_utf8_lossy(&file.out);
            format!("{path} {}: {} ({})", file.size, holes.join(", "), doubts.join(", "))
        })
        .collect();
    lines.sort();
    lines
}

/// Every path below `root`, with what `ls -l` would say.
fn listing(root: &Path) -> Vec<(String, u32, u64, i64, u64)> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).expect("read").map(|entry| entry.expect("entry")) {
            let meta = entry.path().symlink_metadata().expect("stat");
            let path = entry.path().strip_prefix(root).expect("below").to_str().expect("text").to_owned();
            let size = if meta.is_dir() { 0 } else { meta.size() };
            found.push((path, meta.mode(), size, meta.mtime(), if meta.is_dir() { 0 } else { meta.nlink() }));
            if meta.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_sound_volume_is_copied_with_everything() {
    let host = Host::new();
    let dir = host.volume();
    let mounted = host.mount(dir.path());
    let sub = mounted.mkdir(ROOT, "sub");
    let deep = mounted.mkdir(sub, &"d".repeat(200));
    mounted.write(deep, &"n".repeat(255), b"in a long name");
    let content: Vec<u8> = (0..5 * DATA + 7).map(|i| (i % 251) as u8).collect();
    let big = mounted.write(ROOT, "big", &content);
    mounted.write(ROOT, "empty", b"");
    mounted.symlink(sub, "link", "../big");
    mounted.0.link(big, sub, b"second name").expect("link");
    mounted.0.set_xattr(big, b"user.comment", b"value", XattrMode::Set).expect("setxattr");
    let time = Some(SetTime::At(FileTime { secs: 1_000_000_000, nanos: 0 }));
    let change = SetAttr { mode: Some(0o640), atime: time, mtime: time, ..SetAttr::default() };
    mounted.0.setattr(big, None, &change).expect("setattr");
    let closed = SetAttr { mode: Some(0o500), atime: time, mtime: time, ..SetAttr::default() };
    mounted.0.setattr(deep, None, &closed).expect("setattr");
    mounted.0.setattr(sub, None, &SetAttr { atime: time, mtime: time, ..SetAttr::default() }).expect("setattr");
    drop(mounted);

    let before = listing(dir.path());
    let out = TempDir::new().expect("temporary directory");
    let report = run(&host, dir.path(), out.path());
    assert_eq!(listing(dir.path()), before, "nothing is written into the volume");
    assert_eq!((report.directories, report.files, report.others, report.lost), (3, 3, 1, 0));
    assert_eq!((losses(&report), codes(&report.findings)), (vec![], vec![]));
    let at = |path: &str| out.path().join(path);
    assert_eq!(fs::read(at("big")).expect("read"), content);
    assert_eq!(fs::read(at("sub/second name")).expect("read"), content);
    assert_eq!(fs::read_link(at("sub/link")).expect("a symlink"), Path::new("../big"));
    let inner = format!("sub/{}/{}", "d".repeat(200), "n".repeat(255));
    assert_eq!(fs::read(at(&inner)).expect("read"), b"in a long name");
    let big = fs::metadata(at("big")).expect("stat");
    assert_eq!((big.mode() & 0o7777, big.mtime(), big.nlink()), (0o640, 1_000_000_000, 2));
    for (path, mode) in [("sub", 0o755), (&inner[..204], 0o500)] {
        let meta = fs::metadata(at(path)).expect("stat");
        assert_eq!((meta.mode() & 0o7777, meta.mtime()), (mode, 1_000_000_000), "{path}");
    }
    let mut value = [0; 16];
    let len = rustix::fs::getxattr(at("big"), "user.comment", &mut value[..]).expect("getxattr");
    assert_eq!(&value[..len], b"value");
    let again = salvage(
        &Modes::new(Arc::new(LocalDir::open(dir.path()).expect("open")), false),
        &host.files(dir.path()),
        out.path(),
        1,
        &Silent,
    );
    assert_eq!(again, Err(SalvageError::NotEmpty));
    // So that it can be removed without privilege.
    rustix::fs::chmod(at(&inner[..204]), 0o700.into()).expect("chmod");
}

#[test]
fn every_damage_is_read_around_and_listed() {
    let host = Host::new();
    let (dir, other) = (host.volume(), host.volume());
    let mounted = host.mount(dir.path());
    let content: Vec<u8> = (0..4 * DATA).map(|i| (i / DATA) as u8 + 1).collect();
    let file = |name: &str| ciphertext(dir.path(), mounted.write(ROOT, name, &content));
    let [flipped, run_of, cut, border, size, records, slots, forged, lost, header_cut] =
        ["flipped", "run", "cut", "border", "size", "records", "slots", "forged", "lost", "stub"].map(file);
    let foreign = file("foreign");
    let taken = ciphertext(other.path(), host.mount(other.path()).write(ROOT, "f", &content));
    drop(mounted);
    edit(&flipped, |b| b[HEADER + 2 * UNIT + 100] ^= 1);
    edit(&run_of, |b| b[HEADER + UNIT..HEADER + 3 * UNIT].fill(7));
    edit(&cut, |b| b.truncate(HEADER + 2 * UNIT + 500));
    edit(&border, |b| b.truncate(HEADER + 4 * UNIT));
    edit(&size, |b| b.resize(HEADER + 5 * UNIT - 1, 0));
    edit(&records, |b| b[HEADER - 1024..HEADER].fill(0));
    edit(&slots, |b| b[96..HEADER - 1024].fill(0));
    edit(&forged, |b| b[50] ^= 1);
    edit(&lost, |b| b[..HEADER].fill(0));
    edit(&header_cut, |b| b.truncate(100));
    fs::write(&foreign, fs::read(taken).expect("read")).expect("write");

    let out = TempDir::new().expect("temporary directory");
    let report = run(&host, dir.path(), out.path());
    let full = 4 * DATA;
    let all = |outcome: &str, doubts: &str| format!("{full}: 0+{full} {outcome} ({doubts})");
    let expected = [
        format!("border {full}:  (BadSize)"),
        format!("cut {full}: 8128+8128 Truncated (Truncated)"),
        format!("flipped {full}: 8128+4064 UnitAuth ()"),
        format!("foreign {}", all("ForeignVolume", "")),
        format!("forged {}", all("HeaderAuth", "")),
        format!("lost {}", all("HeaderLost", "")),
        format!("records {full}:  (RecordAuth)"),
        format!("run {full}: 4064+8128 UnitAuth ()"),
        format!("size {full}:  (BadSize)"),
        format!("slots {}", all("NoRecipient", "")),
        "stub 0:  (BadSize)".to_owned(),
    ];
    assert_eq!(losses(&report), expected);
    let read = |name: &str| fs::read(out.path().join(name)).expect("read");
    for name in ["border", "size", "records"] {
        assert_eq!(read(name), content, "{name} is whole");
    }
    let holed = |from: usize, to: usize| [&content[..from], &vec![0; to - from], &content[to..]].concat();
    assert_eq!(read("flipped"), holed(2 * DATA, 3 * DATA));
    assert_eq!(read("run"), holed(DATA, 3 * DATA));
    assert_eq!(read("cut"), holed(2 * DATA, 4 * DATA));
    assert_eq!(read("slots"), holed(0, 4 * DATA));
    assert_eq!(report.lost as usize, 2 * DATA + DATA + 2 * DATA + 4 * full);
}

#[test]
fn names_come_back_from_each_other() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let long = "l".repeat(200);
    let make = |name: &str, entries: &[&str]| {
        let ino = mounted.mkdir(ROOT, name);
        for entry in entries {
            mounted.write(ino, entry, entry.as_bytes());
        }
        ciphertext(root, ino)
    };
    let without = make("without", &["one", "two", &long]);
    let wrong = make("wrong", &["three", "four"]);
    let single = make("single", &["only"]);
    let donor = make("donor", &["given", "kept"]);
    let nothing = make("nothing", &[]);
    let moved = ciphertext(root, mounted.write(ROOT, "moved", b"moved"));
    let stray = ciphertext(root, mounted.write(ROOT, "stray", b"stray"));
    drop(mounted);
    fs::remove_file(without.join(".kmsfs.dir")).expect("remove");
    plant_id(&donor, &wrong);
    fs::remove_file(single.join(".kmsfs.dir")).expect("remove");
    fs::remove_file(nothing.join(".kmsfs.dir")).expect("remove");
    // Moved below kmsfs: its name verifies under the root's id, which lives.
    fs::rename(&moved, donor.join(moved.file_name().expect("a name"))).expect("rename");
    fs::rename(&stray, root.join("no-name-of-this-volume")).expect("rename");

    let out = TempDir::new().expect("temporary directory");
    let report = run(&host, root, out.path());
    assert_eq!(losses(&report), Vec::<String>::new());
    let names: Vec<String> = listing(out.path()).into_iter().map(|(path, ..)| path).collect();
    let (found, named): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| name.starts_with("lost+found/"));
    let long = format!("without/{long}");
    let mut expected = vec![
        "donor",
        "donor/given",
        "donor/kept",
        "donor/moved",
        "lost+found",
        "nothing",
        "single",
        "single/only",
        "without",
        "without/one",
        "without/two",
        &long,
        "wrong",
        "wrong/four",
        "wrong/three",
    ];
    expected.sort_unstable();
    assert_eq!(named, expected);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(fs::read(out.path().join(found[0])).expect("read"), b"stray");
    assert_eq!(found[0].len(), "lost+found/".len() + 32, "the id of the file");
    let mut outcomes: Vec<String> = report.findings.iter().map(|finding| finding.reason.code()).collect();
    outcomes.sort();
    assert_eq!(outcomes, ["BadName", "BadName", "NoDirId", "NoDirId", "NoDirId", "WrongDirId"]);
}

#[test]
fn two_things_under_one_name_are_both_written_and_none_is_followed() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let away = TempDir::new().expect("temporary directory");
    let mounted = host.mount(root);
    let [one, two] = ["one", "two"].map(|name| mounted.mkdir(ROOT, name));
    mounted.symlink(one, "trap", away.path().to_str().expect("text"));
    let trap = mounted.mkdir(two, "trap");
    mounted.write(trap, "file", b"content");
    let (one, trap) = (ciphertext(root, one), ciphertext(root, trap));
    drop(mounted);
    // The directory gets a place beside the symlink of the same name.
    fs::rename(&trap, one.join(trap.file_name().expect("a name"))).expect("rename");
    let out = TempDir::new().expect("temporary directory");
    run(&host, root, out.path());
    assert_eq!(listing(away.path()), []);
    assert_eq!(fs::read_link(out.path().join("one/trap")).expect("a symlink"), away.path());
    let found = listing(&out.path().join("lost+found"));
    assert!(found.iter().any(|(path, ..)| path.ends_with("/file")), "{found:?}");
}

#[test]
fn a_failing_disk_costs_what_it_fails() {
    let host = Host::new();
    let dir = host.volume();
    let mounted = host.mount(dir.path());
    mounted.write(ROOT, "file", &vec![7; 300 * DATA]);
    drop(mounted);
    let plan = FaultPlan::new();
    let backing = Arc::new(Faulty::new(LocalDir::open(dir.path()).expect("open"), plan.clone()));
    let first = TempDir::new().expect("temporary directory");
    salvage(&Modes::new(backing, false), &host.files(dir.path()), first.path(), 1, &Silent).expect("salvage");
    let reads = plan.count(&[OpClass::Read]);
    for at in 0..reads {
        let plan = FaultPlan::new();
        let backing = Arc::new(Faulty::new(LocalDir::open(dir.path()).expect("open"), plan.clone()));
        plan.inject(Fault::from(&[OpClass::Read], at, Errno::IO));
        let out = TempDir::new().expect("temporary directory");
        let report =
            salvage(&Modes::new(backing, false), &host.files(dir.path()), out.path(), 1, &Silent).expect("salvage");
        assert!(!report.findings.is_empty() || !report.incomplete.is_empty(), "read {at} failed and nothing is said");
    }
}
