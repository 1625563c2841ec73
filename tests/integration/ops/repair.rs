//! What `repair` plans and does, and what a power cut within it leaves.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use kmsfs::content::Volume;
use kmsfs::env::{ManualClock, SystemClock};
use kmsfs::format::Outcome;
use kmsfs::ops::repair::{Action, Applied, Plan, PlanOptions, apply, plan};
use kmsfs::ops::verify::{VerifyOptions, verify};
use kmsfs::ops::{Finding, Silent};
use kmsfs::store::{
    Access, Backing, BackingFile, Fault, FaultPlan, Faulty, FileKind, LocalDir, Memory, MemoryOptions, Modes, OpClass,
    Record, Target, XattrMode,
};
use kmsfs::types::Timestamp;
use kmsfs::vfs::{ROOT, Vfs};
use rustix::io::Errno;

use super::host::{Host, ciphertext, codes, edit, plant_id};
use crate::crash::disk::{Cut, Disk, Pages};
use crate::fixture::{Fixture, ROOT_USER};
use crate::model::ops::LONGEST;

const UNIT: usize = 4096;
const DATA: usize = 4064;
const HEADER: usize = 4096;

const OPTIONS: PlanOptions = PlanOptions { threads: 2, accept_single: false };

fn modes<B: Backing>(backing: B) -> Arc<Modes<B>> {
    Modes::new(Arc::new(backing), false)
}

fn plan_for(host: &Host, root: &Path, options: PlanOptions) -> (Arc<Modes<LocalDir>>, Arc<Volume>, Plan) {
    let (tree, volume) = (modes(LocalDir::open(root).expect("open")), host.files(root));
    let plan = plan(&tree, &volume, options, &Silent).expect("plan");
    (tree, volume, plan)
}

/// Applies what is planned; what cannot be done fails the test.
fn repair(host: &Host, root: &Path, options: PlanOptions) -> Plan {
    let (tree, volume, plan) = plan_for(host, root, options);
    let applied = apply(&tree, &volume, &plan, &SystemClock).expect("apply");
    assert_eq!(applied, Applied { done: plan.repairs.len(), failed: vec![], flushed: Ok(()) });
    plan
}

/// Planned actions as `action path`, sorted.
fn actions(plan: &Plan) -> Vec<String> {
    let line = |path: Option<&[u8]>, code: &str| format!("{code} {}", path.map_or("?".into(), String::from_utf8_lossy));
    let mut lines: Vec<String> =
        plan.repairs.iter().map(|r| line(r.paths.plaintext.as_deref(), r.action.code())).collect();
    lines.sort();
    lines
}

/// Every path below the ciphertext directory, with its content or target.
fn image(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).expect("read").map(|entry| entry.expect("entry").path()) {
            let meta = entry.symlink_metadata().expect("stat");
            let content = if meta.is_dir() {
                waiting.push(entry.clone());
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&entry).expect("a symlink").into_os_string().into_encoded_bytes()
            } else {
                fs::read(&entry).expect("read")
            };
            found.insert(entry.to_string_lossy().into_owned(), content);
        }
    }
    found
}

fn lose_id(dir: &Path) {
    fs::remove_file(dir.join(".kmsfs.dir")).expect("remove");
}

#[test]
fn what_can_be_put_right_is_and_the_rest_is_put_aside() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let make = |name: &str, entries: &[&str]| {
        let ino = mounted.mkdir(ROOT, name);
        for entry in entries {
            mounted.write(ino, entry, entry.as_bytes());
        }
        ciphertext(root, ino)
    };
    let long = "l".repeat(200);
    let [without, wrong] = [make("without", &["one", "two", &long]), make("wrong", &["three", "four"])];
    let (single, donor, nothing) = (make("single", &["only"]), make("donor", &["given", "kept"]), make("nothing", &[]));
    let content = vec![7; 3 * DATA];
    let file = |name: &str| ciphertext(root, mounted.write(ROOT, name, &content));
    let [border, cut, forged, lost, records, half, units, moved, stray] =
        ["border", "cut", "forged", "lost", "records", "half", "units", "moved", "stray"].map(file);
    drop(mounted);
    lose_id(&without);
    plant_id(&donor, &wrong);
    lose_id(&single);
    lose_id(&nothing);
    edit(&border, |b| b.truncate(HEADER + 3 * UNIT));
    edit(&cut, |b| b.truncate(HEADER + UNIT + 50));
    edit(&forged, |b| b[50] ^= 1);
    edit(&lost, |b| b[..HEADER].fill(0));
    edit(&records, |b| b[HEADER - 1024..HEADER].fill(0));
    edit(&half, |b| b[HEADER - 512..HEADER].fill(0));
    edit(&units, |b| b[HEADER + 10] ^= 1);
    fs::rename(&moved, donor.join(moved.file_name().expect("a name"))).expect("rename");
    fs::rename(&stray, root.join("no-name-of-this-volume")).expect("rename");
    fs::create_dir(root.join("~T0123")).expect("mkdir");
    std::os::unix::fs::symlink("kfs1:something", root.join("~T0123/.kmsfs.dir")).expect("symlink");
    fs::write(root.join("~Lorphan.n"), b"something").expect("write");
    edit(&root.join(".kmsfs/volume.bak"), |b| b.truncate(10));

    let before = image(root);
    let (_, _, planned) = plan_for(&host, root, OPTIONS);
    assert_eq!(image(root), before, "a plan changes nothing");
    let expected = [
        "CopyConfig ?",
        "MirrorRecord half",
        "PutAside ?",
        "PutAside cut",
        "PutAside forged",
        "PutAside lost",
        "PutAside records",
        "RemoveLeftover ?",
        "RemoveLeftover ?",
        "Rename donor/moved",
        "SetSize border",
        "WriteDirId nothing",
        "WriteDirId without",
        "WriteDirId wrong",
    ];
    assert_eq!(actions(&planned), expected);
    assert_eq!(codes(&planned.remaining), ["NoDirId single"]);
    assert_eq!(planned.single.iter().map(|(_, name)| name.as_slice()).collect::<Vec<_>>(), [b"only"]);

    repair(&host, root, OPTIONS);
    let (_, _, again) = plan_for(&host, root, OPTIONS);
    assert_eq!(actions(&again), Vec::<String>::new(), "nothing is left to do");
    let accepting = PlanOptions { accept_single: true, ..OPTIONS };
    assert_eq!(actions(&repair(&host, root, accepting)), ["WriteDirId single"]);
    let mounted = host.mount(root);
    let names = ["border", "donor", "half", "lost+found", "nothing", "single", "units", "without", "wrong"];
    for name in names {
        mounted.0.lookup(ROOT, name.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    for (dir, name) in [("without", "one"), ("without", &long), ("wrong", "four"), ("single", "only")] {
        let dir = mounted.0.lookup(ROOT, dir.as_bytes()).expect("lookup").ino;
        mounted.0.lookup(dir, name.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let donor = mounted.0.lookup(ROOT, b"donor").expect("lookup").ino;
    mounted.0.lookup(donor, b"moved").expect("its name is the directory's now");
    assert_eq!(mounted.read("border").expect("read"), content);
    assert_eq!(mounted.read("half").expect("read"), content);
    // New names go into the directories as before.
    let without = mounted.0.lookup(ROOT, b"without").expect("lookup").ino;
    mounted.write(without, "new", b"new");
    let mut found: Vec<String> = codes(&host.verify(root).findings);
    found.iter_mut().for_each(|line| {
        if let Some((code, path)) = line.clone().split_once(" lost+found/") {
            *line = format!("{code} {}", path.split_once('.').map_or("", |(_, name)| name));
        }
    });
    found.sort();
    assert_eq!(
        found,
        ["HeaderAuth forged", "HeaderLost lost", "RecordAuth records", "Truncated cut", "UnitAuth units#0"],
        "only what cannot be put right, in lost+found"
    );
    let log = fs::read_to_string(root.join(".kmsfs/repairs")).expect("the log");
    assert_eq!(log.lines().filter(|line| line.contains("\"PutAside\"")).count(), 5, "{log}");
}

/// What is wrong with it in two ways moves once, and where its entry is the only copy of its name it stays.
#[test]
fn a_damaged_file_without_a_name_is_moved_once() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let donor = mounted.mkdir(ROOT, "donor");
    mounted.write(donor, "kept", b"kept");
    let lost = mounted.mkdir(ROOT, "lost");
    mounted.write(lost, "only", b"vouches alone for the id");
    let [stray, moved] = ["stray", "moved"].map(|name| ciphertext(root, mounted.write(ROOT, name, b"content")));
    let stays = ciphertext(root, mounted.write(lost, "stays", b"content"));
    let [donor, lost] = [donor, lost].map(|ino| ciphertext(root, ino));
    drop(mounted);
    for file in [&stray, &moved, &stays] {
        edit(file, |b| b[50] ^= 1);
    }
    fs::rename(&stray, root.join("no-name-of-this-volume")).expect("rename");
    fs::rename(&moved, donor.join(moved.file_name().expect("a name"))).expect("rename");
    fs::rename(&stays, lost.join("no-name-either")).expect("rename");
    lose_id(&lost);
    let (_, _, planned) = plan_for(&host, root, OPTIONS);
    assert_eq!(actions(&planned), ["PutAside ?", "PutAside donor/moved"]);
    let whys = planned.repairs.iter().map(|repair| match &repair.action {
        Action::PutAside { why, .. } => *why,
        other => panic!("{other:?}"),
    });
    assert!(whys.eq([Outcome::HeaderAuth; 2]), "damage counts for more than a name");
    assert_eq!(codes(&planned.remaining).iter().filter(|line| line.starts_with("HeaderAuth")).count(), 1);
    // Each is done, and nothing but what stays is left.
    repair(&host, root, OPTIONS);
    assert!(lost.join("no-name-either").exists());
    let (_, _, again) = plan_for(&host, root, OPTIONS);
    assert_eq!(actions(&again), Vec::<String>::new());
}

/// FORMAT 8.5: the name is known, though its place is taken.
#[test]
fn what_was_moved_to_where_its_name_is_taken_keeps_it_in_lost_and_found() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let long = "l".repeat(200);
    let names = ["f1", "f2", "f3", &long];
    let dirs = ["a", "b"].map(|name| mounted.mkdir(ROOT, name));
    let files = dirs.map(|dir| names.map(|name| mounted.write(dir, name, format!("{dir}/{name}").as_bytes())));
    mounted.mkdir(dirs[0], "sub");
    let [a, b] = dirs.map(|ino| ciphertext(root, ino));
    let moved = [files[0][1], files[0][3]].map(|ino| ciphertext(root, ino));
    drop(mounted);
    for from in &moved {
        let entry = from.file_name().and_then(|name| name.to_str()).expect("ASCII");
        fs::rename(from, b.join(entry)).expect("rename");
        let side = format!("{entry}.n");
        if a.join(&side).symlink_metadata().is_ok() {
            fs::rename(a.join(&side), b.join(&side)).expect("rename");
        }
    }
    // As salvage calls them, repair does.
    let out = tempfile::TempDir::new().expect("temporary directory");
    super::salvage::run(&host, root, out.path());
    let list = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).expect("read").map(|entry| entry.expect("entry").file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().expect("text")).collect();
        names.sort();
        names
    };
    let salvaged = list(&out.path().join("lost+found"));
    let planned = repair(&host, root, OPTIONS);
    assert_eq!(actions(&planned), ["PutAside ?", "PutAside ?"]);
    let mounted = host.mount(root);
    let aside = mounted.0.lookup(ROOT, b"lost+found").expect("made").ino;
    let mut endings = Vec::new();
    for name in &salvaged {
        let file = mounted.0.lookup(aside, name.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let opened = mounted.0.open(file.ino, false).expect("open");
        let content = mounted.0.read(opened.handle, 0, 1000, <[u8]>::to_vec).expect("read");
        mounted.0.release(opened.handle);
        let (id, ending) = name.split_once('.').expect("an id and a name");
        assert_eq!((id.len(), content), (32, format!("{}/{ending}", dirs[0]).into_bytes()), "{name}");
        endings.push(ending.to_owned());
    }
    endings.sort();
    assert_eq!(endings, ["f2", &long]);
    drop(mounted);
    assert!(planned.repairs.iter().all(|r| r.action.to_string().ends_with("where another entry has its name")));
    assert_eq!(host.findings(root), Vec::<String>::new());
}

#[test]
fn a_move_is_undone_by_moving_back() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let path = ciphertext(root, mounted.write(ROOT, "file", b"content"));
    drop(mounted);
    edit(&path, |b| b[50] ^= 1);
    repair(&host, root, OPTIONS);
    let log = fs::read_to_string(root.join(".kmsfs/repairs")).expect("the log");
    let line: serde_json::Value = serde_json::from_str(log.lines().last().expect("a line")).expect("JSON");
    let (from, to) = (line["ciphertext_path"].as_str().expect("text"), line["to"].as_str().expect("text"));
    assert!(!root.join(from).exists());
    fs::rename(root.join(to), root.join(from)).expect("moved back");
    edit(&path, |b| b[50] ^= 1);
    assert_eq!(host.mount(root).read("file").expect("as it was"), b"content");
    assert_eq!(host.findings(root), Vec::<String>::new());
}

#[test]
fn keys_that_may_not_be_used_are_no_damage() {
    let host = Host::new();
    let key = host.key("mine");
    let dir = host.volume();
    let root = dir.path();
    host.mount(root).write(ROOT, "file", b"content");
    let other = tempfile::TempDir::new().expect("temporary directory");
    host.init(other.path(), "alias/mine").expect("init");
    // Opened before the key is disabled: the files' keys are asked for anew.
    let (tree, volume) = (modes(LocalDir::open(other.path()).expect("open")), host.files(other.path()));
    host.mount(other.path()).write(ROOT, "file", b"content");
    host.engine.disable_key(&host.caller, key.as_str().into()).expect("disabled");
    let planned = plan(&tree, &volume, OPTIONS, &Silent).expect("plan");
    assert_eq!((actions(&planned), codes(&planned.remaining)), (vec![], vec!["KeyUnavailable file".to_owned()]));
}

/// Everything that a mount shows: its path, what it is, and its number.
fn tree(vfs: &Vfs<Faulty<Memory>>) -> Vec<(String, FileKind, u64)> {
    let mut found = Vec::new();
    let mut waiting = vec![(ROOT, String::new())];
    while let Some((dir, path)) = waiting.pop() {
        let opened = vfs.open_dir(dir).expect("open");
        let mut entries = Vec::new();
        let listed = vfs.read_dir(opened, 0, false, |entry| {
            entries.push((entry.name.to_vec(), entry.kind));
            true
        });
        listed.expect("read");
        vfs.release_dir(opened);
        for (name, kind) in entries.iter().filter(|(name, _)| name != b"." && name != b"..") {
            let attr = vfs.lookup(dir, name).expect("it was listed");
            let path = format!("{path}/{}", String::from_utf8_lossy(name));
            if *kind == FileKind::Directory {
                waiting.push((attr.ino, path.clone()));
            }
            found.push((path, *kind, attr.ino));
        }
    }
    found
}

/// Every file that the volume has, by its content: the path under which a mount shows it.
fn contents(fixture: &Fixture<Faulty<Memory>>) -> BTreeMap<Vec<u8>, String> {
    let vfs = fixture.mount();
    let mut found = BTreeMap::new();
    for (path, kind, ino) in tree(&vfs) {
        if kind != FileKind::Directory
            && let Ok(file) = vfs.open(ino, false)
        {
            let content = vfs.read(file.handle, 0, 1 << 20, <[u8]>::to_vec).expect("read");
            found.insert(content, path);
        }
    }
    found
}

/// The ciphertext name in the root of what has this inode number.
fn entry_of(backing: &Faulty<Memory>, ino: u64) -> String {
    let mut all = Vec::new();
    let root = backing.root().expect("root");
    backing.read_list(&mut backing.list(&root).expect("list"), 0, &mut all).expect("read");
    let found = all.into_iter().find(|entry| entry.ino == ino).expect("it is there");
    String::from_utf8(found.name).expect("ASCII")
}

fn repaired(fixture: &Fixture<Faulty<Memory>>) -> Plan {
    let (tree, volume) = (modes(fixture.backing.clone()), Arc::new(fixture.volume()));
    let planned = plan(&tree, &volume, OPTIONS, &Silent).expect("plan");
    let applied = apply(&tree, &volume, &planned, &SystemClock).expect("apply");
    assert_eq!((applied.failed, applied.flushed), (vec![], Ok(())));
    planned
}

#[test]
fn where_lost_and_found_is_a_users_file_another_directory_takes_what_is_put_aside() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
    let backing = Faulty::new(Memory::new(clock.clone()), FaultPlan::new());
    let fixture = Fixture::new(backing.clone(), clock);
    let vfs = fixture.mount();
    let (_, opened) = vfs.create(ROOT, b"lost+found", 0o644, &ROOT_USER).expect("create");
    vfs.write(opened.handle, 0, b"a user's").expect("write");
    vfs.release(opened.handle);
    let (forged, opened) = vfs.create(ROOT, b"forged", 0o644, &ROOT_USER).expect("create");
    vfs.write(opened.handle, 0, b"lost").expect("write");
    vfs.release(opened.handle);
    drop(vfs);
    let root = backing.root().expect("root");
    let file = backing.open(&root, &entry_of(&backing, forged.ino), Access::ReadWrite).expect("open");
    file.write_at(&[0xff; 4], 50).expect("forged");
    for name in ["stray", "another"] {
        backing.create(&root, name, 0o600).expect("a name that is none");
        let planned = repaired(&fixture);
        assert!(
            planned.repairs.iter().all(|r| r.action.to_string().starts_with("move to lost+found.2/")),
            "{planned:?}"
        );
    }
    assert_eq!(repaired(&fixture).repairs, [], "a further run has nothing to do");
    let vfs = fixture.mount();
    let dir = vfs.lookup(ROOT, b"lost+found.2").expect("made").ino;
    let opened = vfs.open_dir(dir).expect("open");
    let mut found = 0;
    vfs.read_dir(opened, 0, false, |entry| {
        found += usize::from(entry.kind == FileKind::Regular);
        true
    })
    .expect("read");
    assert_eq!(found, 3);
    let user = vfs.lookup(ROOT, b"lost+found").expect("still there").ino;
    let file = vfs.open(user, false).expect("open");
    assert_eq!(vfs.read(file.handle, 0, 100, <[u8]>::to_vec).expect("read"), b"a user's");
    vfs.release(file.handle);
    vfs.unlink(ROOT, b"lost+found").expect("unlink");
    drop(vfs);
    assert_eq!(repaired(&fixture).repairs, [], "what was put aside stays there");
}

#[test]
fn every_flush_that_fails_within_a_repair_is_told() {
    let mut last_failed = false;
    for after in 0.. {
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
        let faults = FaultPlan::new();
        let backing = Faulty::new(Memory::new(clock.clone()), faults.clone());
        let fixture = Fixture::new(backing.clone(), clock);
        drop(fixture.mount());
        backing.create(&backing.root().expect("root"), "stray", 0o600).expect("a name that is none");
        let (tree, volume) = (modes(backing), Arc::new(fixture.volume()));
        let planned = plan(&tree, &volume, OPTIONS, &Silent).expect("plan");
        assert_eq!(planned.repairs.len(), 1);
        faults.inject(Fault::once(&[OpClass::Sync], after, Errno::IO));
        let applied = apply(&tree, &volume, &planned, &SystemClock);
        if faults.injected() == 0 {
            assert!(after > 1 && last_failed, "the flush at the end is the last of {after}");
            return;
        }
        last_failed = matches!(&applied, Ok(applied) if applied.done == 1 && applied.flushed == Err(Errno::IO));
        let told = applied.is_err() || last_failed || applied.is_ok_and(|applied| applied.failed.len() == 1);
        assert!(told, "flush {after}");
    }
}

/// Every path in the volume.
fn paths(fixture: &Fixture<Faulty<Memory>>) -> Vec<String> {
    let mut found: Vec<String> = tree(&fixture.mount()).into_iter().map(|(path, ..)| path).collect();
    found.sort();
    found
}

/// The log of btrfs has the end of a side entry that somebody flushed from the next flush of anything on, and that of an entry only
/// when it or its directory is flushed.
#[test]
fn a_power_cut_within_a_repair_takes_no_long_name_beside_others_that_flush() {
    let clock = || Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
    let options = MemoryOptions { ordered_metadata: false, ..MemoryOptions::default() };
    let backing = Faulty::new(Memory::with_options(clock(), options), FaultPlan::new());
    backing.start_recording();
    let fixture = Fixture::new(backing.clone(), clock());
    let vfs = fixture.mount();
    let write = |name: &str| {
        let (attr, opened) = vfs.create(ROOT, name.as_bytes(), 0o644, &ROOT_USER).expect("create");
        vfs.write(opened.handle, 0, name.as_bytes()).expect("write");
        vfs.fsync(opened.handle, false).expect("fsync");
        vfs.release(opened.handle);
        attr.ino
    };
    let [moved, forged] = ["m", "f"].map(|letter| write(&letter.repeat(200)));
    let neighbour = write("neighbour");
    let target = vfs.mkdir(ROOT, b"d", 0o755, &ROOT_USER).expect("mkdir").ino;
    vfs.mkdir(target, b"a name that proves its id", 0o755, &ROOT_USER).expect("mkdir");
    let root = backing.root().expect("root");
    let [moved, forged, target] = [moved, forged, target].map(|ino| entry_of(&backing, ino));
    let target = backing.open_dir(&root, &target).expect("d");
    for entry in [moved.clone(), format!("{moved}.n")] {
        backing.rename(&root, &entry, &target, &entry, kmsfs::store::RenameMode::Replace).expect("rename");
    }
    let file = backing.open(&root, &forged, Access::ReadWrite).expect("open");
    file.write_at(&[0xff; 4], 50).expect("forged");
    drop(vfs);
    backing.sync_all().expect("sync");
    let base = backing.stop_recording();
    backing.start_recording();
    for (dir, entry) in [(&target, &moved), (&root, &forged)] {
        let side = backing.open(dir, &format!("{entry}.n"), Access::ReadWrite).expect("its name");
        side.sync(true).expect("flushed");
    }
    let mut codes = actions(&repaired(&fixture));
    codes.iter_mut().for_each(|action| action.truncate(action.find(' ').expect("a path")));
    assert_eq!(codes, ["PutAside", "Rename"]);
    let whole = paths(&fixture);
    let mut records = base.clone();
    for record in backing.stop_recording() {
        records.extend([record, Record::Sync { ino: neighbour, data_only: false }]);
    }
    let disk = Disk::new(records.clone(), base.len());
    let mut states = 0;
    for done in base.len()..=records.len() {
        for seed in 0..4 {
            let cut = Cut { done, journal: disk.committed(done), log: Some(seed) };
            states += 1;
            let after = fixture.on(disk.image(cut, &Pages::Newest, clock(), false));
            repaired(&after);
            assert_eq!(paths(&after), whole, "cut at {done}: {:?}", records[..done].last_chunk::<2>());
        }
    }
    assert!(states > 200, "{states} states");
}

#[test]
fn a_power_cut_within_a_repair_leaves_something_to_repair() {
    let clock = || Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
    for ordered_metadata in [true, false] {
        let options = MemoryOptions { ordered_metadata, ..MemoryOptions::default() };
        let backing = Faulty::new(Memory::with_options(clock(), options), FaultPlan::new());
        backing.start_recording();
        let fixture = Fixture::new(backing.clone(), clock());
        let vfs = fixture.mount();
        let mut number = 0;
        let mut write = |dir: u64, name: &str| {
            number += 1;
            let (attr, opened) = vfs.create(dir, name.as_bytes(), 0o644, &ROOT_USER).expect("create");
            vfs.write(opened.handle, 0, format!("content {number}").as_bytes()).expect("write");
            vfs.fsync(opened.handle, false).expect("fsync");
            vfs.release(opened.handle);
            attr.ino
        };
        let dir = vfs.mkdir(ROOT, b"d", 0o755, &ROOT_USER).expect("mkdir").ino;
        let empty = vfs.mkdir(ROOT, b"e", 0o755, &ROOT_USER).expect("mkdir").ino;
        for name in ["one", "two", LONGEST] {
            write(dir, name);
        }
        let [border, moved, stray, forged, size] =
            ["border", "moved", "stray", "forged", "size"].map(|name| write(ROOT, name));
        let root = backing.root().expect("root");
        let entry_of = |ino: u64| entry_of(&backing, ino);
        let (d, e) = (entry_of(dir), entry_of(empty));
        let (inner, target) = (backing.open_dir(&root, &d).expect("d"), backing.open_dir(&root, &e).expect("e"));
        backing.unlink(&inner, ".kmsfs.dir").expect("lost");
        let file = backing.open(&root, &entry_of(border), Access::ReadWrite).expect("open");
        file.set_len((HEADER + UNIT) as u64).expect("cut");
        let file = backing.open(&root, &entry_of(forged), Access::ReadWrite).expect("open");
        file.write_at(&[0xff; 4], 50).expect("forged");
        let file = backing.open(&root, &entry_of(size), Access::ReadWrite).expect("open");
        let stored = file.stat().expect("stat").size;
        file.set_len(0).and_then(|()| file.set_len(stored)).expect("all but its size is lost");
        backing.set_xattr(Target::Dir(&inner), "user.kmsfs.planted", b"value", XattrMode::Create).expect("planted");
        let rename = |from: &str, to: &_, name: &str| {
            backing.rename(&root, from, to, name, kmsfs::store::RenameMode::Replace).expect("rename");
        };
        rename(&entry_of(moved), &target, &entry_of(moved));
        rename(&entry_of(stray), &root, "stray");
        backing.sync_all().expect("sync");
        drop(vfs);

        let base = backing.stop_recording();
        backing.start_recording();
        let planned = repaired(&fixture);
        assert_eq!(planned.repairs.len(), 8, "{:?}", actions(&planned));
        let whole = contents(&fixture);
        let mut records = base.clone();
        records.extend(backing.stop_recording());
        let disk = Disk::new(records.clone(), base.len());
        let mut states = 0;
        for done in base.len()..=records.len() {
            for (journal, pages) in [
                (disk.durable(done), Pages::Oldest),
                (disk.durable(done), Pages::Newest),
                (done, Pages::Oldest),
                (done, Pages::Newest),
                (disk.durable(done), Pages::any(done as u64)),
                (done, Pages::any(done as u64)),
            ] {
                let image = disk.image(Cut { done, journal, log: None }, &pages, clock(), ordered_metadata);
                let after = fixture.on(image);
                repaired(&after);
                let left = plan(&modes(after.backing.clone()), &Arc::new(after.volume()), OPTIONS, &Silent);
                assert_eq!(actions(&left.expect("plan")), Vec::<String>::new(), "cut at {done}");
                assert_eq!(contents(&after), whole, "cut at {done}");
                states += 1;
            }
        }
        assert!(states > 100, "{states} states");
        let (tree, volume) = (modes(fixture.backing.clone()), Arc::new(fixture.volume()));
        let options = VerifyOptions { threads: 1, in_use: false, resume: None };
        let report = verify(&tree, &volume, options, &Silent, &|_: &Finding| ()).expect("verify");
        assert_eq!(report.findings.len(), 1, "the forged file: {:?}", codes(&report.findings));
        assert!(planned.repairs.iter().any(|r| matches!(r.action, Action::WriteDirId { votes: 3, .. })));
    }
}
