//! Every backing operation of every step fails once: what was there stays intact, the error is the backing's own, and
//! everything works again afterwards.

use std::sync::Arc;

use kmsfs::env::ManualClock;
use kmsfs::store::{
    Access, Allocate, Backing, BackingFile, Fault, FaultPlan, Faulty, FileKind, FileTime, Memory, MemoryOptions,
    OpClass, RenameMode, XattrMode,
};
use kmsfs::types::Timestamp;
use rustix::io::Errno;

use crate::fixture::Fixture;
use crate::model::ops::{LONGEST, UNIT};
use crate::model::run::{Found, read_all, tree};
use crate::model::subject::{Mounted, Path, Result, Subject};

type Volume = Mounted<Faulty<Memory>>;
type Tree = std::collections::BTreeMap<String, Found>;

/// One thing that an application does.
struct Step {
    name: &'static str,
    run: fn(&mut Volume) -> Result<()>,
    /// The file whose content may be half old, half new after a failure; otherwise all of it is as it was.
    changes: Option<Path<'static>>,
}

const fn names(name: &'static str, run: fn(&mut Volume) -> Result<()>) -> Step {
    Step { name, run, changes: None }
}

const fn content(name: &'static str, run: fn(&mut Volume) -> Result<()>) -> Step {
    Step { name, run, changes: Some(&["old"]) }
}

const STEPS: &[Step] = &[
    names("create", |v| v.create(&["new"], 0o600).map(|()| v.close(v.open_files() - 1))),
    names("create with a long name", |v| v.create(&["d", LONGEST], 0o600).map(|()| v.close(v.open_files() - 1))),
    names("mkdir", |v| v.mkdir(&["new"], 0o755)),
    names("mkdir without rights", |v| v.mkdir(&["d", "new"], 0o050)),
    names("mkdir with a long name", |v| v.mkdir(&["d", LONGEST], 0o755)),
    names("mknod", |v| v.mknod(&["d", "new"], FileKind::Fifo, 0o600)),
    names("symlink", |v| v.symlink(&["d", "new"], b"somewhere")),
    names("symlink with a long name", |v| v.symlink(&["d", LONGEST], b"somewhere")),
    names("link", |v| v.link(&["old"], &["d", "new"])),
    names("link with a long name", |v| v.link(&["old"], &["d", LONGEST])),
    names("unlink", |v| v.unlink(&["old"])),
    names("unlink of a long name", |v| v.unlink(&[LONGEST])),
    names("rmdir", |v| v.rmdir(&["empty"])),
    names("rename", |v| v.rename(&["old"], &["d", "new"], RenameMode::NoReplace)),
    names("rename to a long name", |v| v.rename(&["old"], &["d", LONGEST], RenameMode::Replace)),
    names("rename from a long name", |v| v.rename(&[LONGEST], &["d", "new"], RenameMode::Replace)),
    names("rename over a file", |v| v.rename(&["old"], &["d", "file"], RenameMode::Replace)),
    names("rename over a long name", |v| v.rename(&["old"], &[LONGEST], RenameMode::Replace)),
    names("rename of a directory", |v| v.rename(&["d"], &["empty", "d"], RenameMode::Replace)),
    names(OVER_A_DIRECTORY, |v| v.rename(&["d"], &["empty"], RenameMode::Replace)),
    names("exchange", |v| v.rename(&["d"], &["old"], RenameMode::Exchange)),
    names("list", |v| v.list(&["d"]).map(drop)),
    names("read a link", |v| v.read_link(&["s"]).map(drop)),
    names("read", |v| read_all(v, &["old"], 3 * UNIT).map(drop)),
    names("seek", |v| with_file(v, |v, file| v.seek(file, 0).map(drop))),
    names("set the mode", |v| v.set_mode(&["old"], 0o640)),
    names("set the time", |v| v.set_mtime(&["old"], FileTime { secs: 9, nanos: 9 })),
    names("set an attribute", |v| v.set_xattr(&["old"], "user.new", b"value", XattrMode::Create)),
    names("change an attribute", |v| v.set_xattr(&["d"], "user.a", b"other", XattrMode::Replace)),
    names("remove an attribute", |v| v.remove_xattr(&["d"], "user.a")),
    names("fsync a directory", |v| v.fsync_dir(&["d"])),
    content("overwrite within a unit", |v| with_file(v, |v, file| v.write(file, 10, b"changed"))),
    content("overwrite across units", |v| with_file(v, |v, file| v.write(file, UNIT - 5, &[7; UNIT as usize + 10]))),
    content("overwrite whole units", |v| with_file(v, |v, file| v.write(file, 0, &[7; 2 * UNIT as usize]))),
    content("append", |v| with_file(v, |v, file| v.write(file, OLD_SIZE, &[7; 2 * UNIT as usize]))),
    content("write far behind the end", |v| with_file(v, |v, file| v.write(file, 9 * UNIT + 1, b"far"))),
    content("write and fsync", |v| {
        with_file(v, |v, file| v.write(file, OLD_SIZE - 1, &[7; 2 * UNIT as usize]).and_then(|()| v.fsync(file, false)))
    }),
    content("truncate within a unit", |v| with_file(v, |v, file| v.set_len(file, UNIT + 1))),
    content("truncate at a unit", |v| with_file(v, |v, file| v.set_len(file, UNIT))),
    content("truncate to nothing", |v| with_file(v, |v, file| v.set_len(file, 0))),
    content("grow", |v| with_file(v, |v, file| v.set_len(file, 7 * UNIT + 7))),
    content("punch", |v| with_file(v, |v, file| v.allocate(file, Allocate::PunchHole, 100, 2 * UNIT))),
    content("zero", |v| with_file(v, |v, file| v.allocate(file, Allocate::ZeroRange, 100, 2 * UNIT))),
    content("reserve", |v| with_file(v, |v, file| v.allocate(file, Allocate::KeepSize, 0, 9 * UNIT))),
    Step {
        name: "first write to an empty file",
        run: |v| with(v, &["none"], |v, file| v.write(file, UNIT + 1, &[7; 100])),
        changes: Some(&["none"]),
    },
    Step {
        name: "first size of an empty file",
        run: |v| with(v, &["none"], |v, file| v.set_len(file, UNIT + 1)),
        changes: Some(&["none"]),
    },
];

const OVER_A_DIRECTORY: &str = "rename over a directory";

const OLD_SIZE: u64 = 3 * UNIT + 17;

fn with(v: &mut Volume, path: Path<'_>, work: impl FnOnce(&mut Volume, usize) -> Result<()>) -> Result<()> {
    v.open(path, true)?;
    let file = v.open_files() - 1;
    let done = work(v, file);
    v.close(file);
    done
}

fn with_file(v: &mut Volume, work: impl FnOnce(&mut Volume, usize) -> Result<()>) -> Result<()> {
    with(v, &["old"], work)
}

/// A mounted volume with something of everything on it, all of it durable; mounted anew, so that nothing is cached.
fn prepared(ordered_metadata: bool) -> (Volume, FaultPlan) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
    let plan = FaultPlan::new();
    let options = MemoryOptions { ordered_metadata, ..MemoryOptions::default() };
    let backing = Faulty::new(Memory::with_options(clock.clone(), options), plan.clone());
    let mut v = Mounted::new(Fixture::new(backing, clock));
    v.mkdir(&["d"], 0o755).unwrap();
    v.mkdir(&["d", "inner"], 0o755).unwrap();
    v.mkdir(&["empty"], 0o755).unwrap();
    v.symlink(&["s"], b"target").unwrap();
    v.create(&["none"], 0o600).unwrap();
    v.set_xattr(&["d"], "user.a", b"1", XattrMode::Set).unwrap();
    for path in [&["old"][..], &["d", "file"], &[LONGEST]] {
        v.create(path, 0o600).unwrap();
        let file = v.open_files() - 1;
        let data: Vec<u8> = (0..OLD_SIZE).map(|at| (at % 251) as u8 + 1).collect();
        v.write(file, 0, &data).unwrap();
        v.fsync(file, false).unwrap();
    }
    v.remount();
    (v, plan)
}

/// The tree without the times of directories: a failed step may have begun something in them.
fn look(v: &mut Volume) -> Tree {
    let mut tree = tree(v);
    for object in tree.values_mut().filter(|object| object.plain.kind == FileKind::Directory) {
        object.plain.mtime = FileTime::default();
    }
    tree
}

/// Whether each byte of the changed file is the old or the new one, its size one of both, and all else as before.
fn is_between(found: &Tree, before: &Tree, after: &Tree, changed: &str) -> bool {
    let (now, old, new) = (&found[changed].content, &before[changed].content, &after[changed].content);
    let byte = |content: &[u8], at: usize| content.get(at).copied().unwrap_or(0);
    let mixed = now.iter().enumerate().all(|(at, &b)| b == byte(old, at) || b == byte(new, at));
    let others = |tree: &Tree| tree.keys().filter(|path| *path != changed).cloned().collect::<Vec<_>>();
    let rest = others(before) == others(found) && others(before).iter().all(|path| before[path] == found[path]);
    mixed && (now.len() == old.len() || now.len() == new.len()) && rest
}

/// Removes everything, deepest first.
fn clear(v: &mut Volume) {
    let mut objects: Vec<(String, FileKind)> =
        tree(v).into_iter().map(|(path, found)| (path, found.plain.kind)).collect();
    objects.sort_by_key(|(path, _)| std::cmp::Reverse(path.matches('/').count()));
    for (path, kind) in objects {
        let parts: Vec<&str> = path.split('/').collect();
        let removed = if kind == FileKind::Directory { v.rmdir(&parts) } else { v.unlink(&parts) };
        assert_eq!(removed, Ok(()), "{path} can be removed");
    }
}

/// Injects the fault at each operation of each step in turn.
fn every_operation_fails_once(fault: impl Fn(u64) -> Fault) {
    for ordered_metadata in [true, false] {
        every_operation_fails(ordered_metadata, &fault);
    }
}

fn every_operation_fails(ordered_metadata: bool, fault: impl Fn(u64) -> Fault) {
    let mut injected = 0;
    for step in STEPS {
        let (mut v, _) = prepared(ordered_metadata);
        let before = look(&mut v);
        (step.run)(&mut v).unwrap_or_else(|e| panic!("{}: {e}", step.name));
        let after = look(&mut v);
        for number in 0.. {
            let (mut v, plan) = prepared(ordered_metadata);
            let fault = fault(number);
            plan.inject(fault);
            let done = (step.run)(&mut v);
            plan.heal();
            if plan.injected() == 0 {
                assert_eq!(done, Ok(()));
                break;
            }
            injected += 1;
            let context = format!("{}, operation {number}, {:?}", step.name, fault.errno);
            let found = look(&mut v);
            match done {
                Ok(()) => assert!(found == after, "{context}: it worked, but the tree is not as it should be"),
                Err(error) => {
                    assert_eq!(error, fault.errno, "{context}: the error is the backing's");
                    match step.changes {
                        // Both the second half of the rename and its undoing failed: nothing is lost, and the old
                        // name is left with the empty directory.
                        None if fault.lasting && step.name == OVER_A_DIRECTORY && found == half(&before, &after) => {
                            clear(&mut v);
                            continue;
                        }
                        // Descriptors can be made free, and then it is tried again: what was done must not be done twice.
                        None if matches!(error, Errno::MFILE | Errno::NFILE) => {
                            assert!(found == before, "{context}: {}", difference(&found, &before));
                        }
                        None => {
                            assert!(found == before || found == after, "{context}: {}", difference(&found, &before))
                        }
                        Some(path) => {
                            assert!(is_between(&found, &before, &after, path[0]), "{context}: old data is gone");
                        }
                    }
                    if found != after {
                        assert_eq!((step.run)(&mut v), Ok(()), "{context}: it works when it is tried again");
                        assert!(forget_times(look(&mut v)) == forget_times(after.clone()), "{context}: tried again");
                    }
                }
            }
            let last = look(&mut v);
            v.remount();
            assert!(look(&mut v) == last, "{context}: mounted again");
            clear(&mut v);
        }
    }
    assert!(injected >= 10, "only {injected} faults were injected");
}

/// A directory was renamed over another, which still stands at the old name.
fn half(before: &Tree, after: &Tree) -> Tree {
    let mut tree = after.clone();
    tree.insert("d".into(), before["empty"].clone());
    tree
}

fn forget_times(mut tree: Tree) -> Tree {
    tree.values_mut().for_each(|object| object.plain.mtime = FileTime::default());
    tree
}

fn difference(found: &Tree, before: &Tree) -> String {
    let paths: std::collections::BTreeSet<&String> = found.keys().chain(before.keys()).collect();
    let differ: Vec<&String> = paths.into_iter().filter(|path| found.get(*path) != before.get(*path)).collect();
    format!("these differ from what was there: {differ:?}")
}

#[test]
fn a_full_disk_harms_nothing() {
    every_operation_fails_once(|number| Fault::once(OpClass::NEED_SPACE, number, Errno::NOSPC));
}

#[test]
fn a_full_disk_half_way_through_a_write_harms_nothing() {
    // A disk is full at the edge of a page, never within.
    for pages in [1, 2] {
        let partial = |fault: Fault| fault.with_partial_write(pages * 4096);
        every_operation_fails_once(|number| partial(Fault::once(&[OpClass::Write], number, Errno::NOSPC)));
    }
}

#[test]
fn an_exhausted_quota_harms_nothing() {
    every_operation_fails_once(|number| Fault::once(OpClass::NEED_SPACE, number, Errno::DQUOT));
}

#[test]
fn an_input_output_error_harms_nothing() {
    every_operation_fails_once(|number| Fault::once(OpClass::ALL, number, Errno::IO));
}

#[test]
fn a_lack_of_memory_harms_nothing() {
    every_operation_fails_once(|number| Fault::once(OpClass::ALL, number, Errno::NOMEM));
}

#[test]
fn a_lack_of_descriptors_harms_nothing() {
    for errno in [Errno::MFILE, Errno::NFILE] {
        every_operation_fails_once(|number| Fault::once(OpClass::NEED_DESCRIPTORS, number, errno));
    }
}

#[test]
fn a_lasting_lack_of_descriptors_harms_nothing() {
    every_operation_fails_once(|number| Fault::from(OpClass::NEED_DESCRIPTORS, number, Errno::MFILE));
}

#[test]
fn a_disk_that_stays_full_harms_nothing() {
    every_operation_fails_once(|number| Fault::from(OpClass::NEED_SPACE, number, Errno::NOSPC));
}

#[test]
fn a_disk_that_stays_full_lets_things_be_read_and_removed() {
    let (mut v, plan) = prepared(true);
    let before = look(&mut v);
    plan.inject(Fault::from(&[OpClass::Make, OpClass::Write, OpClass::Allocate, OpClass::SetXattr], 0, Errno::NOSPC));
    assert_eq!(v.create(&["new"], 0o600), Err(Errno::NOSPC));
    assert_eq!(v.mkdir(&["new"], 0o700), Err(Errno::NOSPC));
    assert_eq!(with_file(&mut v, |v, file| v.write(file, 0, b"x")), Err(Errno::NOSPC));
    assert!(look(&mut v) == before);
    assert_eq!(with_file(&mut v, |v, file| v.set_len(file, 0)), Ok(()));
    clear(&mut v);
    assert!(look(&mut v).is_empty());
}

/// A volume with one file, whose header says how long it is at least; that is flushed too.
fn with_one_file() -> (Volume, FaultPlan) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
    let plan = FaultPlan::new();
    let mut v = Mounted::new(Fixture::new(Faulty::new(Memory::new(clock.clone()), plan.clone()), clock));
    v.create(&["f"], 0o600).unwrap();
    v.write(0, 0, &[7; OLD_SIZE as usize]).unwrap();
    v.fsync(0, false).unwrap();
    v.vfs.raise_floors();
    v.fsync(0, false).unwrap();
    (v, plan)
}

/// The first page of the only file as the backing has it; or what it had is put back, as if the page cache had let go of it.
fn header(v: &Volume, put_back: Option<&[u8]>) -> Vec<u8> {
    let backing = &v.fixture.backing;
    let (root, mut names) = (backing.root().unwrap(), Vec::new());
    backing.read_list(&mut backing.list(&root).unwrap(), 0, &mut names).unwrap();
    let mut names = names.into_iter().map(|entry| String::from_utf8(entry.name).unwrap());
    let only = names.find(|name| name.len() == 43).expect("the file");
    let file = backing.open(&root, &only, Access::ReadWrite).unwrap();
    put_back.inspect(|page| file.write_at(page, 0).unwrap());
    let mut page = vec![0; 4096];
    file.read_at(&mut page, 0).unwrap();
    page
}

#[test]
fn a_record_whose_flush_failed_is_written_again() {
    type Op = fn(&mut Volume) -> Result<()>;
    let ops: [(Op, u64); 2] = [(|v| v.set_len(0, 99), 99), (|v| v.allocate(0, Allocate::PunchHole, 0, UNIT), OLD_SIZE)];
    for (op, size) in ops {
        let (mut v, plan) = with_one_file();
        let before = header(&v, None);
        plan.inject(Fault::once(&[OpClass::Sync], 0, Errno::IO));
        assert_eq!(op(&mut v), Err(Errno::IO));
        // Linux counts pages whose flush failed as clean: the next one succeeds without them.
        header(&v, Some(&before));
        op(&mut v).expect("it works when it is tried again");
        v.remount();
        let found = read_all(&mut v, &["f"], size).expect("the record on the disk is the one that was waited for");
        assert_eq!(found.len() as u64, size);
    }
}

#[test]
fn a_cut_that_fails_half_way_leaves_everything_readable() {
    for class in [OpClass::SetLen, OpClass::Allocate, OpClass::Write, OpClass::Sync] {
        for size in [UNIT + 5, 2 * UNIT, 9] {
            let (mut v, plan) = with_one_file();
            let on: &'static [OpClass] = Box::leak(Box::new([class]));
            plan.inject(Fault::once(on, 0, Errno::IO));
            let cut = v.set_len(0, size);
            assert!(cut.is_err() || plan.injected() == 0);
            plan.heal();
            for _ in 0..2 {
                let found = v.stat(&["f"]).unwrap().size;
                v.open(&["f"], true).unwrap();
                let handle = v.open_files() - 1;
                v.fsync(handle, false).ok();
                let content = read_all(&mut v, &["f"], found).unwrap_or_else(|e| panic!("{class:?} to {size}: {e}"));
                let kept = size.min(found) as usize;
                assert!(content[..kept].iter().all(|&b| b == 7), "{class:?} to {size}: what was not cut off is there");
                v.remount();
            }
        }
    }
}

/// A write that fails, and whose undoing fails too.
fn fail_twice(plan: &FaultPlan, partial: usize) {
    plan.inject(Fault::once(&[OpClass::Write], 0, Errno::NOSPC).with_partial_write(partial));
    plan.inject(Fault::once(&[OpClass::SetLen], 1, Errno::IO));
}

#[test]
fn an_append_that_cannot_be_undone_leaves_zeros() {
    let (mut v, plan) = prepared(true);
    v.create(&["f"], 0o600).unwrap();
    v.write(0, 0, &[7; 100]).unwrap();
    v.fsync(0, false).unwrap();
    fail_twice(&plan, 0);
    v.write(0, 100, &[8; 3 * UNIT as usize]).unwrap_err();
    plan.heal();
    for _ in 0..2 {
        let size = v.stat(&["f"]).unwrap().size;
        let found = read_all(&mut v, &["f"], size).expect("what was not written reads as zeros");
        assert!(found[..100] == [7; 100] && found[100..].iter().all(|&byte| byte == 0));
        v.open(&["f"], true).unwrap();
        let last = v.open_files() - 1;
        v.fsync(last, false).unwrap();
        v.remount();
    }
}

#[test]
fn a_life_that_began_badly_leaves_nothing_to_the_next() {
    let (mut v, plan) = prepared(true);
    v.create(&["f"], 0o600).unwrap();
    fail_twice(&plan, 3 * 4096);
    v.write(0, 0, &[7; 2 * UNIT as usize]).unwrap_err();
    plan.heal();
    v.write(0, 5 * UNIT, b"second").unwrap();
    v.fsync(0, false).unwrap();
    v.remount();
    let found = read_all(&mut v, &["f"], 5 * UNIT + 6).unwrap();
    assert!(found[..5 * UNIT as usize].iter().all(|&byte| byte == 0) && found.ends_with(b"second"));
}

#[test]
fn a_flush_that_fails_while_a_file_grows_is_told_by_its_next_fsync() {
    let (mut v, plan) = with_one_file();
    v.set_len(0, 99).unwrap();
    let fail = || plan.inject(Fault::once(&[OpClass::Sync], 0, Errno::IO));
    fail();
    assert_eq!(v.fsync(0, false), Err(Errno::IO));
    assert_eq!(v.fsync(0, false), Ok(()));
    // The zeros behind the end may be lost, so they are written again and flushed before the file grows; what that flush loses
    // includes this.
    v.write(0, 0, b"lost").unwrap();
    // Behind the wait for what is on its way to the disk already.
    plan.inject(Fault::once(&[OpClass::Sync], 1, Errno::IO));
    assert_eq!(v.set_len(0, 2 * UNIT), Err(Errno::IO));
    assert_eq!(v.fsync(0, false), Err(Errno::IO), "what was written before is lost, and nobody was told yet");
    assert_eq!(v.fsync(0, false), Ok(()));
    v.remount();
}
