//! Directories as the tree of a volume: very deep ones, and one over another on a backing that cannot exchange entries.

use std::sync::Arc;

use kmsfs::env::ManualClock;
use kmsfs::store::{Backing, Fault, FaultPlan, Faulty, FileKind, Memory, OpClass, RenameMode};
use kmsfs::types::Timestamp;
use kmsfs::vfs::{ROOT, Vfs};
use rustix::io::Errno;

use crate::fixture::{Fixture, ROOT_USER};

const DEPTH: u64 = 10_000;
/// More than the directory handles that a mount keeps open.
const OTHERS: u64 = 2_500;
/// What a stack has for each level: too little for any call, let alone for one that calls itself.
const STACK_PER_LEVEL: usize = 28;

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)))
}

fn names<B: Backing>(vfs: &Vfs<B>, ino: u64) -> Vec<String> {
    let handle = vfs.open_dir(ino).expect("opened");
    let mut names = Vec::new();
    vfs.read_dir(handle, 0, false, |entry| {
        names.push(String::from_utf8(entry.name.clone()).expect("a test's name"));
        true
    })
    .expect("listed");
    vfs.release_dir(handle);
    names.retain(|name| name != "." && name != "..");
    names.sort();
    names
}

#[test]
fn a_tree_is_as_deep_as_anybody_likes() {
    let work = || {
        let clock = clock();
        let vfs = Fixture::new(Memory::new(clock.clone()), clock).mount();
        let mut deepest = ROOT;
        for _ in 0..DEPTH {
            deepest = vfs.mkdir(deepest, b"d", 0o755, &ROOT_USER).expect("made").ino;
        }
        // The handles on the way down are closed for those of other directories.
        for number in 0..OTHERS {
            let other = vfs.mkdir(ROOT, number.to_string().as_bytes(), 0o755, &ROOT_USER).expect("made").ino;
            vfs.release_dir(vfs.open_dir(other).expect("opened"));
        }
        let (_, opened) = vfs.create(deepest, b"f", 0o644, &ROOT_USER).expect("created");
        vfs.release(opened.handle);
        assert_eq!(names(&vfs, deepest), ["f"]);
        drop(vfs);
    };
    let stack = STACK_PER_LEVEL * DEPTH as usize;
    let thread = std::thread::Builder::new().stack_size(stack).spawn(work).expect("a thread");
    thread.join().expect("no panic");
}

/// A directory that moves over an empty one, on a backing without an exchange.
struct Replacing {
    plan: FaultPlan,
    vfs: Vfs<Faulty<Memory>>,
    /// The empty directory.
    target: u64,
}

fn replacing() -> Replacing {
    let (clock, plan) = (clock(), FaultPlan::new());
    let vfs = Fixture::new(Faulty::new(Memory::new(clock.clone()), plan.clone()), clock).mount();
    let source = vfs.mkdir(ROOT, b"source", 0o755, &ROOT_USER).expect("made").ino;
    let (_, opened) = vfs.create(source, b"f", 0o644, &ROOT_USER).expect("created");
    vfs.release(opened.handle);
    let target = vfs.mkdir(ROOT, b"target", 0o755, &ROOT_USER).expect("made").ino;
    plan.inject(Fault::from(&[OpClass::Exchange], 0, Errno::INVAL));
    Replacing { plan, vfs, target }
}

#[test]
fn a_directory_replaces_an_empty_one_without_an_exchange() {
    let Replacing { vfs, target, .. } = replacing();
    vfs.rename(ROOT, b"source", ROOT, b"target", RenameMode::Replace).expect("replaced");
    assert_eq!(names(&vfs, ROOT), ["target"]);
    let moved = vfs.lookup(ROOT, b"target").expect("there").ino;
    assert_eq!(names(&vfs, moved), ["f"]);
    let late = vfs.create(target, b"late", 0o644, &ROOT_USER).map(drop).expect_err("it was removed");
    assert_eq!(late.errno(), Errno::NOENT);
}

#[test]
fn a_replacement_that_fails_in_its_second_step_did_not_happen() {
    let Replacing { plan, vfs, target } = replacing();
    plan.inject(Fault::once(&[OpClass::Rename], 1, Errno::IO));
    let failed = vfs.rename(ROOT, b"source", ROOT, b"target", RenameMode::Replace).expect_err("the disk failed");
    assert_eq!(failed.errno(), Errno::IO);
    assert_eq!(names(&vfs, ROOT), ["source", "target"]);
    assert_eq!(vfs.lookup(ROOT, b"target").expect("there").ino, target);
    let (attr, opened) = vfs.create(target, b"f", 0o644, &ROOT_USER).expect("it can be used again");
    vfs.release(opened.handle);
    assert_eq!(attr.kind, FileKind::Regular);
    let full = vfs.rename(ROOT, b"source", ROOT, b"target", RenameMode::Replace).expect_err("not empty any more");
    assert_eq!(full.errno(), Errno::NOTEMPTY);
}

/// Entries that were delivered with attributes count as lookups, so they must reach the kernel.
#[test]
fn an_error_in_the_middle_of_a_listing_waits_for_the_next_request() {
    let plan = FaultPlan::new();
    let clock = clock();
    let fixture = Fixture::new(Faulty::new(Memory::new(clock.clone()), plan.clone()), clock);
    let vfs = fixture.mount();
    // Each of these names stands in an entry of its own, which a listing reads.
    for first in ["a", "b", "c"] {
        let (attr, opened) = vfs.create(ROOT, first.repeat(250).as_bytes(), 0o600, &ROOT_USER).expect("created");
        vfs.release(opened.handle);
        vfs.forget(attr.ino, 1);
    }
    let (known, handle) = (vfs.known_inodes(), vfs.open_dir(ROOT).expect("opened"));
    let mut listed = Vec::new();
    let go_on = |listed: &mut Vec<kmsfs::vfs::DirEntry>| {
        let from = listed.last().map_or(0, |last| last.next);
        let read = vfs.read_dir(handle, from, true, |entry| {
            listed.push(entry.clone());
            true
        });
        read.map_err(|error| error.errno())
    };
    plan.inject(Fault::from(&[OpClass::Read], 1, Errno::IO));
    assert_eq!(go_on(&mut listed), Ok(()));
    let counted = |listed: &[kmsfs::vfs::DirEntry]| listed.iter().filter_map(|entry| entry.attr).collect::<Vec<_>>();
    assert_eq!(counted(&listed).len(), 1, "what came before the error");
    assert_eq!(vfs.known_inodes(), known + 1);
    let so_far = listed.len();
    assert_eq!((go_on(&mut listed), listed.len()), (Err(Errno::IO), so_far));
    plan.heal();
    assert_eq!(go_on(&mut listed), Ok(()));
    assert_eq!(counted(&listed).len(), 3);
    counted(&listed).iter().for_each(|attr| vfs.forget(attr.ino, 1));
    assert_eq!(vfs.known_inodes(), known, "nothing counts that was not delivered");
}

/// As overlayfs answers for a directory of a lower layer: it can be emptied and removed, but not moved.
#[test]
fn a_directory_that_cannot_be_moved_is_removed_where_it_is() {
    let (clock, plan) = (clock(), FaultPlan::new());
    let vfs = Fixture::new(Faulty::new(Memory::new(clock.clone()), plan.clone()), clock).mount();
    let long = "n".repeat(250);
    for name in ["short", &long] {
        let dir = vfs.mkdir(ROOT, name.as_bytes(), 0o755, &ROOT_USER).expect("made").ino;
        let (_, opened) = vfs.create(dir, b"f", 0o644, &ROOT_USER).expect("created");
        vfs.release(opened.handle);
        plan.inject(Fault::from(&[OpClass::Rename], 0, Errno::XDEV));
        let full = vfs.rmdir(ROOT, name.as_bytes()).expect_err("not empty");
        assert_eq!(full.errno(), Errno::NOTEMPTY);
        vfs.unlink(dir, b"f").expect("emptied");
        vfs.rmdir(ROOT, name.as_bytes()).expect("removed");
        let late = vfs.create(dir, b"late", 0o644, &ROOT_USER).map(drop).expect_err("it was removed");
        assert_eq!(late.errno(), Errno::NOENT);
        plan.heal();
    }
    assert_eq!(names(&vfs, ROOT), [""; 0]);
}
