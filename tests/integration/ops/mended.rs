//! What `verify` finds comes to an end with a repair: it finds nothing any more, or what lies in `lost+found`, until that is removed.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kmsfs::env::{ManualClock, SystemClock};
use kmsfs::ops::repair::{Action, Plan, PlanOptions, apply, plan};
use kmsfs::ops::verify::{VerifyOptions, verify};
use kmsfs::ops::{Finding, Silent};
use kmsfs::store::{
    Access, Backing, BackingFile, Fault, FaultPlan, Faulty, FileKind, LocalDir, Memory, Modes, OpClass, RawEntry,
    XattrMode,
};
use kmsfs::types::Timestamp;
use kmsfs::vfs::{ROOT, SetAttr, Vfs};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::host::{Host, Mounted, ciphertext, codes, edit};
use crate::fixture::{Fixture, ROOT_USER};

const UNIT: usize = 4096;
const DATA: usize = 4064;
const HEADER: usize = 4096;

fn planned(host: &Host, root: &Path) -> Plan {
    let tree = Modes::new(LocalDir::open(root).expect("open").into(), false);
    plan(&tree, &host.files(root), PlanOptions { threads: 2, accept_single: false }, &Silent).expect("planned")
}

/// Does what is planned, all of it.
fn carry_out(host: &Host, root: &Path, plan: &Plan) {
    let tree = Modes::new(LocalDir::open(root).expect("open").into(), false);
    let applied = apply(&tree, &host.files(root), plan, &*host.clock).expect("applied");
    assert_eq!((applied.done, applied.failed, applied.flushed), (plan.repairs.len(), vec![], Ok(())));
}

/// Repairs until nothing is left to do, before which no run ends well: how much each run did.
fn repaired_in_runs(host: &Host, root: &Path) -> Vec<usize> {
    let mut runs = Vec::new();
    loop {
        let plan = planned(host, root);
        if plan.repairs.is_empty() {
            return runs;
        }
        assert!(!plan.ends_well(), "{plan:?}");
        carry_out(host, root, &plan);
        runs.push(plan.repairs.len());
    }
}

/// Repairs, and answers what was done as `code path`, sorted; behind it nothing is left to do.
fn repaired(host: &Host, root: &Path) -> Vec<String> {
    let plan = planned(host, root);
    carry_out(host, root, &plan);
    assert_eq!(planned(host, root).repairs, []);
    assert_eq!(plan.remaining, []);
    let path =
        |path: &Option<Vec<u8>>| path.as_deref().map_or("?".into(), |path| String::from_utf8_lossy(path).into_owned());
    let line =
        |repair: &kmsfs::ops::repair::Repair| format!("{} {}", repair.action.code(), path(&repair.paths.plaintext));
    let mut done: Vec<String> = plan.repairs.iter().map(line).collect();
    done.sort();
    done
}

fn log(root: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(root.join(".kmsfs/repairs")).expect("the log");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Leaves of a file nothing but its size, as a crash may.
fn lose_all_but_size(file: &Path) {
    let size = fs::metadata(file).expect("there").len();
    let file = File::options().write(true).open(file).expect("open");
    file.set_len(0).and_then(|()| file.set_len(size)).expect("cut and grown");
}

fn remove(mounted: &Mounted, dir: u64, name: &str) {
    mounted.0.unlink(dir, name.as_bytes()).expect("removed");
}

/// The one entry of `lost+found`.
fn put_aside(mounted: &Mounted) -> (u64, String) {
    let dir = mounted.0.lookup(ROOT, b"lost+found").expect("made").ino;
    let opened = mounted.0.open_dir(dir).expect("open");
    let mut names = Vec::new();
    let listed = mounted.0.read_dir(opened, 0, false, |entry| {
        names.push(String::from_utf8(entry.name.to_vec()).expect("text"));
        true
    });
    listed.expect("listed");
    mounted.0.release_dir(opened);
    names.retain(|name| name != "." && name != "..");
    assert_eq!(names.len(), 1, "{names:?}");
    (dir, names.remove(0))
}

/// The entry that has the text of a long one's name.
fn side_of(long: &Path) -> PathBuf {
    let entry = long.file_name().and_then(|name| name.to_str()).expect("ASCII");
    long.with_file_name(format!("{entry}.n"))
}

/// What all files of a volume hold on disk.
fn contents(root: &Path) -> Vec<Vec<u8>> {
    let (mut found, mut stack) = (Vec::new(), vec![root.to_owned()]);
    while let Some(at) = stack.pop() {
        for entry in fs::read_dir(&at).expect("listed").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                stack.push(entry)
            } else if let Ok(bytes) = fs::read(&entry) {
                found.push(bytes)
            }
        }
    }
    found
}

/// What was put aside is a finding until it is removed, and nothing is one then; its name.
fn end_what_was_put_aside(host: &Host, root: &Path, code: &str) -> String {
    let mounted = host.mount(root);
    let (aside, name) = put_aside(&mounted);
    assert_eq!(host.findings(root), [format!("{code} lost+found/{name}")]);
    remove(&mounted, aside, &name);
    assert_eq!(host.findings(root), Vec::<String>::new());
    name
}

#[test]
fn a_file_of_which_only_the_size_survived_is_a_file_of_zeros_for_good() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let size = 3 * DATA + 77;
    let file = ciphertext(root, mounted.write(ROOT, "file", &vec![7; size]));
    let linked = mounted.0.lookup(ROOT, b"file").expect("there").ino;
    let sub = mounted.mkdir(ROOT, "sub");
    mounted.0.link(linked, sub, b"second name").expect("linked");
    let stored = ciphertext(root, mounted.write(ROOT, "stored", &vec![7; DATA]));
    drop(mounted);
    lose_all_but_size(&file);
    // Some filesystems do not know holes.
    edit(&stored, |bytes| bytes.fill(0));
    let times = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000));
    File::options().write(true).open(&file).expect("open").set_times(times).expect("set");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o6751)).expect("changed");
    let before = fs::metadata(&file).expect("there");
    // The one with two names under either.
    let found = host.findings(root);
    assert!(found.len() == 2 && found.iter().all(|finding| finding.starts_with("NeverSynced")), "{found:?}");
    let zeros = vec![0; size];
    assert_eq!(host.mount(root).read("file").expect("zeros"), zeros);

    assert!(!planned(&host, root).ends_well(), "somebody may have punched them");
    let done = repaired(&host, root);
    assert!(planned(&host, root).ends_well());
    assert_eq!(done.len(), 2, "{done:?}");
    assert!(done.iter().all(|done| done.starts_with("WriteHeader")), "{done:?}");
    assert_eq!(host.findings(root), Vec::<String>::new());
    let after = fs::metadata(&file).expect("there");
    let kept = |meta: &fs::Metadata| (meta.ino(), meta.mode(), meta.nlink(), meta.len(), meta.mtime());
    assert_eq!(kept(&after), kept(&before));
    assert!(log(root).iter().any(|line| line["action"] == "WriteHeader" && line["size"] == size));
    let mounted = host.mount(root);
    assert_eq!(mounted.read("file").expect("as before"), zeros);
    assert_eq!(mounted.read("stored").expect("as before"), vec![0; DATA]);
    let opened = mounted.0.open(linked, true).expect("open");
    mounted.0.write(opened.handle, 10, b"written").expect("as any file");
    mounted.0.fsync(opened.handle, false).expect("flushed");
    mounted.0.release(opened.handle);
    assert_eq!(mounted.read("file").expect("read")[..20], *b"\0\0\0\0\0\0\0\0\0\0written\0\0\0");
    drop(mounted);
    // What a repair has flushed cannot be cut off unnoticed.
    edit(&stored, |bytes| bytes.truncate(HEADER + UNIT + 50));
    assert_eq!(host.findings(root), ["Truncated stored"]);
}

/// A header that is written in part makes unreadable what reads as zeros.
#[test]
fn a_header_that_cannot_be_written_leaves_the_file_as_it_is() {
    let mut failed = 0;
    for (after, punches) in (0..4).flat_map(|after| [(after, true), (after, false)]) {
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
        let backing = Faulty::new(Memory::new(clock.clone()), FaultPlan::new());
        let fixture = Fixture::new(backing.clone(), clock);
        let vfs = fixture.mount();
        let (_, opened) = vfs.create(ROOT, b"file", 0o644, &ROOT_USER).expect("created");
        vfs.write(opened.handle, 0, &[7; 3 * DATA]).expect("written");
        vfs.release(opened.handle);
        drop(vfs);
        let (root, mut entries) = (backing.root().expect("root"), Vec::new());
        backing.read_list(&mut backing.list(&root).expect("list"), 0, &mut entries).expect("read");
        let is_it = |entry: &RawEntry| entry.kind == Some(FileKind::Regular) && !entry.name.starts_with(b".");
        let entry = String::from_utf8(entries.into_iter().find(is_it).expect("there").name).expect("ASCII");
        let file = backing.open(&root, &entry, Access::ReadWrite).expect("open");
        let size = file.stat().expect("stat").size;
        file.set_len(0).and_then(|()| file.set_len(size)).expect("all but its size is lost");

        let repair = || {
            let (tree, volume) = (Modes::new(Arc::new(backing.clone()), false), Arc::new(fixture.volume()));
            let plan =
                plan(&tree, &volume, PlanOptions { threads: 1, accept_single: false }, &Silent).expect("planned");
            apply(&tree, &volume, &plan, &SystemClock)
        };
        let full = Fault::once(&[OpClass::Write], after, Errno::NOSPC).with_partial_write(1000);
        backing.plan().inject(full);
        if !punches {
            backing.plan().inject(Fault::from(&[OpClass::Allocate], 0, Errno::OPNOTSUPP));
        }
        let is_done = repair().is_ok_and(|applied| applied.failed.is_empty());
        failed += usize::from(!is_done);
        backing.plan().heal();
        let read = |vfs: &Vfs<_>| {
            let opened = vfs.open(vfs.lookup(ROOT, b"file").expect("there").ino, false).expect("open");
            let read = vfs.read(opened.handle, 0, 1 << 20, <[u8]>::to_vec).expect("read");
            vfs.release(opened.handle);
            read
        };
        assert_eq!(read(&fixture.mount()), [0; 3 * DATA], "write {after}");
        // It may have failed at the record behind the flush only.
        let applied = repair().expect("repaired");
        assert!(applied.failed.is_empty() && applied.done <= usize::from(!is_done), "{applied:?}");
        assert_eq!(repair().map(|again| again.done), Ok(0));
        let (tree, volume) = (Modes::new(Arc::new(backing.clone()), false), Arc::new(fixture.volume()));
        let options = VerifyOptions { threads: 1, in_use: false, resume: None };
        assert_eq!(verify(&tree, &volume, options, &Silent, &|_| ()).expect("verified").findings, []);
        assert_eq!(read(&fixture.mount()), [0; 3 * DATA], "write {after}");
        assert_eq!(file.stat().expect("stat").size, size);
    }
    assert!(failed >= 4, "the log and the header, {failed}");
}

#[test]
fn a_size_that_no_file_can_have_is_mended_with_the_header() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let [border, short] = ["border", "short"].map(|name| ciphertext(root, mounted.write(ROOT, name, &[7; 2 * DATA])));
    drop(mounted);
    for (file, size) in [(&border, HEADER + UNIT), (&short, 100)] {
        edit(file, |bytes| *bytes = vec![0; size]);
    }
    assert_eq!(host.findings(root), ["BadSize border", "BadSize short"]);
    assert_eq!(repaired(&host, root), ["SetSize border", "SetSize short", "WriteHeader border"]);
    assert_eq!(host.findings(root), Vec::<String>::new());
    let mounted = host.mount(root);
    assert_eq!(mounted.read("border").expect("a unit"), [0; DATA]);
    assert_eq!(mounted.read("short").expect("empty"), b"");
}

#[test]
fn a_header_with_less_than_a_unit_behind_it_is_put_aside() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let (_, opened) = mounted.0.create(ROOT, b"file", 0o644, &ROOT_USER).expect("created");
    mounted.0.write(opened.handle, 0, b"never flushed").expect("written");
    mounted.0.release(opened.handle);
    let file = ciphertext(root, mounted.0.lookup(ROOT, b"file").expect("there").ino);
    drop(mounted);
    edit(&file, |bytes| bytes.truncate(HEADER + UNIT - 1));
    assert_eq!(host.findings(root), ["BadSize file"]);
    assert_eq!(repaired(&host, root), ["PutAside file"]);
    end_what_was_put_aside(&host, root, "BadSize");
}

#[test]
fn an_attribute_that_nobody_can_read_goes_into_the_log() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let ino = mounted.write(ROOT, "file", b"content");
    mounted.0.link(ino, ROOT, b"second name").expect("linked");
    mounted.0.set_xattr(ino, b"user.kept", b"one", XattrMode::Set).expect("set");
    mounted.0.set_xattr(ino, b"user.lost", b"two", XattrMode::Set).expect("set");
    let file = ciphertext(root, ino);
    drop(mounted);
    let mut buffer = vec![0; 4096];
    let len = rustix::fs::listxattr(&file, &mut buffer[..]).expect("listed");
    let names = buffer[..len].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
    let names: Vec<&str> = names.map(|name| std::str::from_utf8(name).expect("ASCII")).collect();
    // Which of the two it is only the key tells.
    rustix::fs::setxattr(&file, names[0], b"forged", XattrFlags::empty()).expect("set");
    rustix::fs::setxattr(&file, "user.kmsfs.planted", b"value", XattrFlags::empty()).expect("set");
    let mut found: Vec<String> = host.findings(root);
    found.dedup_by_key(|finding| finding.split(' ').next().map(str::to_owned));
    assert_eq!(found.len(), 2, "BadName and XattrAuth: {found:?}");

    let done = repaired(&host, root);
    assert_eq!(done.iter().map(|done| done.split(' ').next()).collect::<Vec<_>>(), [Some("RemoveAttribute"); 2]);
    assert_eq!(host.findings(root), Vec::<String>::new());
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let mut kept: Vec<_> = log(root).into_iter().map(|line| line["was"].clone()).collect();
    kept.sort_by_key(|was| was["value"].to_string());
    assert_eq!(
        kept,
        [
            serde_json::json!({ "name": names[0], "value": hex(b"forged") }),
            serde_json::json!({ "name": "user.kmsfs.planted", "value": hex(b"value") }),
        ]
    );
    let mounted = host.mount(root);
    let ino = mounted.0.lookup(ROOT, b"file").expect("there").ino;
    assert_eq!(mounted.0.list_xattrs(ino, true).expect("listed").len(), 1, "the other one stays");
}

#[test]
fn a_symlink_that_nobody_can_read_is_put_aside_as_it_is() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    mounted.symlink(ROOT, "link", "target");
    let link = ciphertext(root, mounted.0.lookup(ROOT, b"link").expect("there").ino);
    drop(mounted);
    fs::remove_file(&link).expect("removed");
    std::os::unix::fs::symlink("forged", &link).expect("planted");
    assert_eq!(host.findings(root), ["SymlinkAuth link"]);
    assert_eq!(repaired(&host, root), ["PutAside link"]);
    let to = log(root).pop().expect("a line")["to"].as_str().expect("a path").to_owned();
    assert_eq!(fs::read_link(root.join(to)).expect("there"), Path::new("forged"));
    let name = end_what_was_put_aside(&host, root, "SymlinkAuth");
    assert!(name.ends_with(".link"), "{name}");
}

#[test]
fn what_a_hidden_name_hides_comes_to_light() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let parent = mounted.mkdir(ROOT, "parent");
    let hidden = mounted.mkdir(parent, "hidden");
    mounted.write(hidden, "inside", b"content");
    let hidden = ciphertext(root, hidden);
    drop(mounted);
    fs::rename(&hidden, hidden.with_file_name("~T0123456789")).expect("renamed below kmsfs");
    let plan = planned(&host, root);
    assert!(matches!(&plan.repairs[..], [one] if matches!(one.action, Action::PutAside { .. })), "{plan:?}");
    assert!(!plan.ends_well(), "what is in it was not looked at");
    repaired(&host, root);
    assert!(planned(&host, root).ends_well());
    let mounted = host.mount(root);
    let (aside, name) = put_aside(&mounted);
    let found = mounted.0.lookup(aside, name.as_bytes()).expect("there").ino;
    let inside = mounted.0.lookup(found, b"inside").expect("its names are bound to it, not to its place").ino;
    let opened = mounted.0.open(inside, false).expect("open");
    assert_eq!(mounted.0.read(opened.handle, 0, 100, <[u8]>::to_vec).expect("read"), b"content");
    mounted.0.release(opened.handle);
    mounted.0.rmdir(ROOT, b"parent").expect("nothing is left in it");
    assert_eq!(host.findings(root), Vec::<String>::new());
}

/// A walk passes by what is hidden, so that its damage is found by the run behind the one that moves it; until then none ends well.
#[test]
fn damage_that_a_hidden_name_hides_comes_to_light() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let hidden = mounted.mkdir(ROOT, "hidden");
    let [file, inside, deeper] = [(ROOT, "file"), (hidden, "inside"), (mounted.mkdir(hidden, "below"), "deeper")]
        .map(|(parent, name)| ciphertext(root, mounted.write(parent, name, b"content")));
    let hidden = ciphertext(root, hidden);
    drop(mounted);
    [&file, &inside].into_iter().for_each(|path| edit(path, |bytes| bytes[..HEADER].fill(0)));
    fs::rename(&deeper, deeper.with_file_name("~T0123")).expect("renamed below kmsfs");
    fs::rename(&file, root.join("~T4567")).expect("renamed below kmsfs");
    fs::rename(&hidden, root.join("~T89ab")).expect("renamed below kmsfs");

    let runs = repaired_in_runs(&host, root);
    // Both that lie in the root; what is hidden within the directory, while its damaged file lies in lost+found already.
    assert_eq!(runs, [2, 1]);
    let plan = planned(&host, root);
    let stays =
        |findings: &[Finding]| codes(findings).into_iter().map(|found| found.starts_with("HeaderLost lost+found/"));
    assert!(!plan.ends_well() && stays(&plan.remaining).eq([true, true]), "{plan:?}");
    let found = host.verify(root).findings;
    assert!(stays(&found).eq([true, true]), "{found:?}");
}

/// A side entry stays where it is until its long entry moves: what took its place comes to light in the same run.
#[test]
fn what_took_the_place_of_a_side_entry_is_put_aside_with_the_long_entry() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let full = mounted.mkdir(ROOT, "full");
    mounted.write(full, "inside", b"inside");
    let full = ciphertext(root, full);
    let file = ciphertext(root, mounted.write(ROOT, "file", b"file"));
    let empty = ciphertext(root, mounted.mkdir(ROOT, "empty"));
    let long = ["a", "b", "c"].map(|letter| ciphertext(root, mounted.write(ROOT, &letter.repeat(200), b"long")));
    drop(mounted);
    for (long, instead) in long.iter().zip([&file, &full, &empty]) {
        let side = side_of(long);
        fs::remove_file(&side).expect("its side entry");
        fs::rename(instead, &side).expect("renamed below kmsfs");
    }
    let plan = planned(&host, root);
    assert!(!plan.ends_well(), "what lay there was not looked at");
    // The empty directory holds nothing of a user's.
    assert_eq!(repaired(&host, root), ["PutAside ?"; 5]);
    assert!(planned(&host, root).ends_well());
    assert_eq!(host.findings(root), Vec::<String>::new());
    let left = fs::read_dir(root).expect("listed").map(|entry| entry.expect("an entry").file_name());
    assert!(left.into_iter().all(|name| !name.as_encoded_bytes().starts_with(b"~L")), "nothing is left of them");
    let mounted = host.mount(root);
    let aside = mounted.0.lookup(ROOT, b"lost+found").expect("made").ino;
    let opened = mounted.0.open_dir(aside).expect("open");
    let mut found = Vec::new();
    let listed = mounted.0.read_dir(opened, 0, false, |entry| {
        found.push((entry.kind, entry.name.to_vec()));
        true
    });
    listed.expect("listed");
    mounted.0.release_dir(opened);
    let read = |dir, name: &[u8]| {
        let opened = mounted.0.open(mounted.0.lookup(dir, name).expect("there").ino, false).expect("open");
        let content = mounted.0.read(opened.handle, 0, 100, <[u8]>::to_vec).expect("read");
        mounted.0.release(opened.handle);
        content
    };
    let mut contents: Vec<Vec<u8>> = found
        .iter()
        .filter(|(_, name)| name != b"." && name != b"..")
        .map(|(kind, name)| match kind {
            FileKind::Directory => read(mounted.0.lookup(aside, name).expect("there").ino, b"inside"),
            _ => read(aside, name),
        })
        .collect();
    contents.sort();
    assert_eq!(contents, [&b"file"[..], b"inside", b"long", b"long", b"long"]);
}

/// A directory's id is written where something of a user's took its place, and that moves to `lost+found`.
#[test]
fn what_took_the_place_of_an_id_is_not_overwritten() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let file = ciphertext(root, mounted.write(ROOT, "file", b"file"));
    let sub = mounted.mkdir(ROOT, "sub");
    mounted.write(sub, "inside", b"inside");
    let (content, instead) = (fs::read(&file).expect("read"), ciphertext(root, sub));
    let dirs = ["one", "two"].map(|name| {
        let ino = mounted.mkdir(ROOT, name);
        mounted.write(ino, "a", b"a");
        mounted.write(ino, "b", b"b");
        ciphertext(root, ino)
    });
    drop(mounted);
    for (dir, instead) in dirs.iter().zip([&file, &instead]) {
        fs::remove_file(dir.join(".kmsfs.dir")).expect("its id");
        fs::rename(instead, dir.join(".kmsfs.dir")).expect("renamed below kmsfs");
    }
    // The ids, then what took their places.
    assert_eq!(repaired_in_runs(&host, root), [2, 2]);
    assert!(planned(&host, root).ends_well());
    assert_eq!(host.findings(root), Vec::<String>::new());
    let mounted = host.mount(root);
    for (dir, name) in [("one", "a"), ("two", "b")] {
        let dir = mounted.0.lookup(ROOT, dir.as_bytes()).expect("there").ino;
        mounted.0.lookup(dir, name.as_bytes()).expect("its names verify");
    }
    let moved: Vec<_> =
        log(root).into_iter().filter(|line| line["action"] == "PutAside").map(|line| line["to"].clone()).collect();
    let mut moved: Vec<_> = moved.iter().map(|to| root.join(to.as_str().expect("a path"))).collect();
    moved.sort_by_key(|path| path.is_dir());
    assert_eq!(fs::read(&moved[0]).expect("the file"), content);
    assert_eq!(fs::metadata(&moved[1]).expect("the directory").ino(), sub);
}

/// It may be all that is left of a name, or of a symlink that took the place of the side entry.
#[test]
fn the_text_by_which_a_long_entry_has_no_name_is_kept_in_the_log() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    mounted.write(ROOT, "other", b"proves the id of the root");
    let [damaged, replaced] =
        ["a", "b"].map(|letter| ciphertext(root, mounted.write(ROOT, &letter.repeat(200), b"content")));
    mounted.symlink(ROOT, "link", "target");
    let link = ciphertext(root, mounted.0.lookup(ROOT, b"link").expect("there").ino);
    drop(mounted);
    let target = fs::read_link(&link).expect("a symlink");
    fs::rename(&link, side_of(&replaced)).expect("renamed below kmsfs");
    fs::remove_file(side_of(&damaged)).expect("its side entry");
    fs::write(side_of(&damaged), "damaged").expect("written");
    // What is lost in two ways moves once, for the other reason.
    edit(&damaged, |bytes| bytes[50] ^= 1);
    assert_eq!(repaired(&host, root), ["PutAside ?"; 2]);
    let mut kept: Vec<String> = log(root).iter().filter_map(|line| Some(line["side"].as_str()?.to_owned())).collect();
    kept.sort();
    let mut expected = [target.to_str().expect("ASCII"), "damaged"];
    expected.sort_unstable();
    assert_eq!(kept, expected);
}

/// A name is encrypted anew where something of a user's lies under the name of its side entry, alone or with a long entry.
#[test]
fn what_lies_where_a_renamed_entry_needs_its_side_entry_is_not_overwritten() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let [from, to] = ["from", "to"].map(|name| mounted.mkdir(ROOT, name));
    mounted.write(from, "stays", b"stays");
    mounted.write(to, "stays", b"stays");
    let names: Vec<String> = (0..8).map(|number| number.to_string().repeat(200)).collect();
    let mut kept = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let users = ciphertext(root, mounted.write(ROOT, &format!("user's {number}"), name.as_bytes()));
        kept.push(fs::read(&users).expect("read"));
        let moved = ciphertext(root, mounted.write(from, name, name.as_bytes()));
        let taken = ciphertext(root, mounted.write(to, name, b"in its place"));
        if number % 2 == 0 {
            remove(&mounted, to, name);
        }
        let into = taken.parent().expect("a directory");
        for path in [side_of(&moved), moved] {
            fs::rename(&path, into.join(path.file_name().expect("a name"))).expect("renamed below kmsfs");
        }
        fs::rename(users, side_of(&taken)).expect("renamed below kmsfs");
    }
    drop(mounted);
    // What is moved, what lay in its side entry's place, and the long entry that has no name for that.
    assert_eq!(repaired_in_runs(&host, root), [8 + 8 + 4]);
    assert_eq!(host.findings(root), Vec::<String>::new());
    let there = contents(root);
    assert!(kept.iter().all(|bytes| there.contains(bytes)), "a user's file is lost");
    let mounted = host.mount(root);
    let to = mounted.0.lookup(ROOT, b"to").expect("there").ino;
    for name in names {
        mounted.0.lookup(to, name.as_bytes()).expect("it has its name");
    }
}

/// It may be a symlink of a user's, or something small that somebody put there.
#[test]
fn the_text_of_what_is_removed_is_kept_in_the_log() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let hidden = mounted.mkdir(ROOT, "hidden");
    let links = [(ROOT, "one"), (ROOT, "two"), (hidden, "three")].map(|(parent, name)| {
        mounted.symlink(parent, name, &format!("target of {name}"));
        ciphertext(root, mounted.0.lookup(parent, name.as_bytes()).expect("there").ino)
    });
    let hidden = ciphertext(root, hidden);
    drop(mounted);
    let text = |link: &Path| fs::read_link(link).expect("a symlink").to_str().expect("ASCII").to_owned();
    let mut expected: Vec<_> = links.iter().map(|link| serde_json::json!(text(link))).collect();
    fs::rename(&links[0], root.join("~Lone.n")).expect("renamed below kmsfs");
    fs::rename(&links[1], root.join("~Ttwo")).expect("renamed below kmsfs");
    fs::rename(&links[2], hidden.join("~Tthree")).expect("renamed below kmsfs");
    expected.push(serde_json::json!(
        fs::read_to_string(hidden.join(".kmsfs.dir"))
            .or_else(|_| {
                fs::read_link(hidden.join(".kmsfs.dir")).map(|target| target.to_str().expect("ASCII").to_owned())
            })
            .expect("an id")
    ));
    fs::rename(&hidden, root.join("~Thidden")).expect("renamed below kmsfs");
    fs::write(root.join("~Tnote"), "a note").expect("written");
    fs::write(root.join("~Tbytes"), b"\xff\x00").expect("written");
    fs::write(root.join("~Tnothing"), b"").expect("written");
    expected.extend([serde_json::json!("a note"), serde_json::json!({ "hex": "ff00" })]);
    assert_eq!(repaired(&host, root), ["RemoveLeftover ?"; 6]);
    assert_eq!(host.findings(root), Vec::<String>::new());
    let mut kept: Vec<_> = log(root).into_iter().map(|line| line["was"].clone()).collect();
    kept.sort_by_key(ToString::to_string);
    expected.sort_by_key(ToString::to_string);
    assert_eq!(kept, expected);
}

/// What took the place of a directory's id may be longer than one.
#[test]
fn the_text_that_an_id_overwrites_is_kept_whole() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let parent = mounted.mkdir(ROOT, "parent");
    for name in ["a", "b"] {
        mounted.write(parent, name, b"content");
    }
    let parent = ciphertext(root, parent);
    drop(mounted);
    let text = "text ".repeat(60);
    fs::remove_file(parent.join(".kmsfs.dir")).expect("its id");
    fs::write(parent.join(".kmsfs.dir"), &text).expect("written");
    assert_eq!(repaired(&host, root), ["WriteDirId parent"]);
    assert_eq!(log(root).pop().expect("a line")["was"], text);
}

/// The text of a side entry without its long one is half of what vouches for a lost id: the other half may come back.
#[test]
fn a_side_entry_stays_while_the_id_of_its_directory_is_not_known() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let parent = mounted.mkdir(ROOT, "parent");
    let [one, two] = ["a", "b"].map(|name| ciphertext(root, mounted.write(parent, &name.repeat(200), name.as_bytes())));
    drop(mounted);
    fs::remove_file(one.with_file_name(".kmsfs.dir")).expect("its id");
    let elsewhere = root.join(".kmsfs/elsewhere");
    fs::rename(&two, &elsewhere).expect("lost");
    let plan = planned(&host, root);
    assert_eq!((plan.repairs.len(), plan.single.len()), (0, 1), "{plan:?}");
    fs::rename(&elsewhere, &two).expect("restored");
    assert_eq!(repaired(&host, root), ["WriteDirId parent"]);
    let mounted = host.mount(root);
    let parent = mounted.0.lookup(ROOT, b"parent").expect("there").ino;
    for name in ["a", "b"] {
        mounted.0.lookup(parent, name.repeat(200).as_bytes()).expect("it has its name");
    }
    remove(&mounted, parent, &"a".repeat(200));
    drop(mounted);
    // Where the id is known it tells nothing.
    fs::remove_file(&two).expect("lost");
    assert_eq!(repaired(&host, root), ["RemoveLeftover ?"]);
    assert!(side_of(&two).symlink_metadata().is_err());
}

/// Entries of kmsfs' own are small: what has such a name and is larger is somebody's only copy.
#[test]
fn what_lies_under_a_name_of_kmsfs_own_is_not_removed() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let hidden = mounted.mkdir(ROOT, "hidden");
    let content = [7; 9000];
    let [file, inside] = [(ROOT, "file"), (hidden, "inside")]
        .map(|(parent, name)| ciphertext(root, mounted.write(parent, name, &content)));
    let hidden = ciphertext(root, hidden);
    drop(mounted);
    let kept = [&file, &inside].map(|path| fs::read(path).expect("read"));
    fs::rename(&inside, inside.with_file_name("~Linside.n")).expect("renamed below kmsfs");
    fs::rename(&file, root.join("~Lfile.n")).expect("renamed below kmsfs");
    fs::rename(&hidden, root.join("~T0123")).expect("renamed below kmsfs");

    assert!(!repaired_in_runs(&host, root).is_empty());
    let found = contents(root);
    assert!(kept.iter().all(|bytes| found.contains(bytes)));
}

/// The units of a file without a header are of no use to anybody, unless somebody has a copy of the header.
#[test]
fn what_is_put_aside_comes_back_with_its_header() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let file = ciphertext(root, mounted.write(ROOT, "file", b"content"));
    drop(mounted);
    let header = fs::read(&file).expect("read")[..HEADER].to_vec();
    edit(&file, |bytes| bytes[..HEADER].fill(0));
    assert_eq!(host.findings(root), ["HeaderLost file"]);
    assert_eq!(repaired(&host, root), ["PutAside file"]);
    let line = log(root).pop().expect("a line");
    let moved = root.join(line["to"].as_str().expect("a path"));
    edit(&moved, |bytes| bytes[..HEADER].copy_from_slice(&header));
    assert_eq!(host.findings(root), Vec::<String>::new());
    let mounted = host.mount(root);
    let (aside, name) = put_aside(&mounted);
    let ino = mounted.0.lookup(aside, name.as_bytes()).expect("there").ino;
    mounted.0.setattr(ino, None, &SetAttr { size: Some(0), ..Default::default() }).expect("an end too");
    assert_eq!(host.findings(root), Vec::<String>::new());
}
