//! A daemon without privilege, and objects whose mode denies their owner what the daemon needs (FORMAT 8.6).

use std::sync::Arc;

use kmsfs::env::{ManualClock, SystemClock};
use kmsfs::store::{
    Backing, Fault, FaultPlan, Faulty, FileTime, LocalDir, Memory, MemoryOptions, OpClass, RenameMode, SetTime, Target,
    XattrMode,
};
use kmsfs::types::Timestamp;
use kmsfs::vfs::{Caller, Options, ROOT, SetAttr, Vfs};
use rustix::io::Errno;

use crate::fixture::{Fixture, ROOT_USER};

const USER: Caller = Caller { uid: 1000, gid: 1000, umask: 0o022 };

type Disk = Faulty<Memory>;

fn fixture() -> (Fixture<Disk>, FaultPlan) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
    let plan = FaultPlan::new();
    let options = MemoryOptions { owner: (USER.uid, USER.gid), ..MemoryOptions::default() };
    (Fixture::new(Faulty::new(Memory::with_options(clock.clone(), options), plan.clone()), clock), plan)
}

fn mount(fixture: &Fixture<Disk>) -> Vfs<Disk> {
    fixture.mount_with(Options::default())
}

fn chmod(vfs: &Vfs<Disk>, ino: u64, mode: u32) {
    vfs.setattr(ino, None, &SetAttr { mode: Some(mode), ..SetAttr::default() }).expect("chmod");
}

fn names(vfs: &Vfs<Disk>, ino: u64) -> Result<Vec<String>, kmsfs::vfs::Error> {
    let handle = vfs.open_dir(ino)?;
    let mut names = Vec::new();
    vfs.read_dir(handle, 0, true, |entry| {
        names.push(String::from_utf8(entry.name.clone()).expect("a test's name"));
        true
    })?;
    vfs.release_dir(handle);
    names.retain(|name| name != "." && name != "..");
    names.sort();
    Ok(names)
}

/// The mode of the only user's entry of the root, and how many intents there are.
fn on_disk(fixture: &Fixture<Disk>) -> (u32, usize) {
    let backing = fixture.backing.inner();
    let root = backing.root().expect("a root");
    let entries = |dir: &<Memory as Backing>::Dir| {
        let mut entries = Vec::new();
        backing.read_list(&mut backing.list(dir).expect("a list"), 0, &mut entries).expect("read");
        entries.into_iter().map(|entry| String::from_utf8(entry.name).expect("text")).collect::<Vec<_>>()
    };
    let only = entries(&root).into_iter().find(|name| !name.starts_with('.')).expect("an entry");
    let mode = backing.stat(Target::Named(&root, &only)).expect("there").mode;
    let control = backing.open_dir(&root, ".kmsfs").expect("there");
    let intents = backing.open_dir(&control, "intent").map_or(0, |dir| entries(&dir).len() - 2);
    (mode, intents)
}

#[test]
fn a_directory_without_rights_is_as_useful_as_its_users_may_find_it() {
    for mode in [0, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600] {
        let (fixture, _) = fixture();
        let vfs = mount(&fixture);
        let dir = vfs.mkdir(ROOT, b"d", 0o755, &USER).expect("made").ino;
        let long = [b'x'; 200];
        let (file, opened) = vfs.create(dir, &long, 0o644, &USER).expect("created");
        vfs.write(opened.handle, 0, b"content").expect("written");
        chmod(&vfs, dir, mode);
        // Without what this mount remembers.
        drop(vfs);
        let vfs = mount(&fixture);
        assert_eq!(vfs.lookup(ROOT, b"d").expect("found").ino, dir);
        // What of this a user may do is for the kernel to say; the daemon can do all of it.
        assert_eq!(names(&vfs, dir).expect("listed"), [String::from_utf8_lossy(&long)], "{mode:o}");
        assert_eq!(vfs.lookup(dir, &long).expect("found").ino, file.ino);
        let opened = vfs.open(file.ino, true).expect("opened");
        assert_eq!(vfs.read(opened.handle, 0, 99, <[u8]>::to_vec).expect("read"), b"content");
        assert_eq!(
            vfs.getattr(file.ino).expect("attributes").size,
            7,
            "of an open file, whatever became of its directory"
        );
        let time = SetTime::At(FileTime { secs: 5, nanos: 0 });
        vfs.setattr(file.ino, None, &SetAttr { mtime: Some(time), ..SetAttr::default() }).expect("its times");
        vfs.set_xattr(file.ino, b"user.a", b"b", XattrMode::Set).expect("its attributes");
        vfs.rename(dir, &long, dir, b"short", RenameMode::Replace).expect("renamed");
        vfs.symlink(dir, b"link", b"target", &USER).expect("a symlink");
        let link = vfs.lookup(dir, b"link").expect("found").ino;
        assert_eq!(vfs.read_link(link).expect("read"), b"target");
        let inner = vfs.mkdir(dir, b"inner", 0o755, &USER).expect("a directory").ino;
        let (deep, _) = vfs.create(inner, b"deep", 0o644, &USER).expect("created");
        let handle = vfs.open_dir(dir).expect("opened");
        vfs.fsync_dir(handle).expect("synced");
        assert_eq!(vfs.getattr(dir).expect("attributes").mode, mode, "users see their mode");
        assert_eq!(on_disk(&fixture), (mode, 0), "and it is there");
        chmod(&vfs, inner, 0);
        drop(vfs);
        let vfs = mount(&fixture);
        let dir = vfs.lookup(ROOT, b"d").expect("found").ino;
        let inner = vfs.lookup(dir, b"inner").expect("found").ino;
        assert_eq!(vfs.lookup(inner, b"deep").expect("through two of them").ino, deep.ino);
        vfs.unlink(inner, b"deep").expect("removed");
        vfs.rmdir(dir, b"inner").expect("removed, although it cannot be listed");
        assert_eq!(names(&vfs, dir).expect("listed"), ["link", "short"]);
        assert_eq!(on_disk(&fixture), (mode, 0));
    }
}

#[test]
fn a_directory_that_is_made_without_rights_is_whole() {
    let (fixture, _) = fixture();
    let vfs = mount(&fixture);
    let dir = vfs.mkdir(ROOT, b"d", 0, &USER).expect("made").ino;
    assert_eq!(on_disk(&fixture), (0, 0));
    assert_eq!(names(&vfs, dir).expect("listed"), [""; 0]);
}

#[test]
fn a_mode_set_while_it_is_another_for_the_moment_stays() {
    let (fixture, _) = fixture();
    let vfs = mount(&fixture);
    let dir = vfs.mkdir(ROOT, b"d", 0o755, &USER).expect("made").ino;
    vfs.create(dir, b"f", 0o644, &USER).expect("created");
    chmod(&vfs, dir, 0);
    let handle = vfs.open_dir(dir).expect("opened");
    let mut seen = Vec::new();
    vfs.read_dir(handle, 0, false, |entry| {
        if entry.name == b"f" {
            seen.push(vfs.getattr(dir).expect("attributes").mode);
            chmod(&vfs, dir, 0o500);
            seen.push(vfs.getattr(dir).expect("attributes").mode);
        }
        true
    })
    .expect("listed");
    assert_eq!(seen, [0, 0o500]);
    assert_eq!(on_disk(&fixture), (0o500, 0));
}

#[test]
fn a_killed_daemon_leaves_a_directory_to_the_next_mount() {
    let (fixture, plan) = fixture();
    let vfs = mount(&fixture);
    let dir = vfs.mkdir(ROOT, b"d", 0o755, &USER).expect("made").ino;
    let inner = vfs.mkdir(dir, b"inner", 0o755, &USER).expect("made").ino;
    vfs.create(inner, b"f", 0o400, &USER).expect("created");
    chmod(&vfs, inner, 0);
    chmod(&vfs, dir, 0o100);
    // Nothing is given back any more, as if the process were gone.
    plan.inject(Fault::from(&[OpClass::SetAttr], 1, Errno::IO));
    assert_eq!(names(&vfs, inner).expect("listed"), ["f"]);
    assert_eq!(vfs.getattr(inner).expect("attributes").mode, 0, "users see their mode");
    drop(vfs);
    plan.heal();
    assert_eq!(on_disk(&fixture), (0o100, 1));
    let vfs = mount(&fixture);
    vfs.recover_intents().expect("recovered");
    assert_eq!(on_disk(&fixture), (0o100, 0));
    let dir = vfs.lookup(ROOT, b"d").expect("found").ino;
    assert_eq!(vfs.lookup(dir, b"inner").expect("found").mode, 0);
}

#[test]
fn a_directory_that_cannot_be_changed_is_used_as_it_is() {
    let (fixture, plan) = fixture();
    let vfs = mount(&fixture);
    let dir = vfs.mkdir(ROOT, b"d", 0o755, &USER).expect("made").ino;
    let (file, _) = vfs.create(dir, b"f", 0o644, &USER).expect("created");
    chmod(&vfs, dir, 0o555);
    drop(vfs);
    let changes = plan.count(OpClass::CHANGES);
    let vfs = mount(&fixture);
    let dir = vfs.lookup(ROOT, b"d").expect("found").ino;
    assert_eq!(names(&vfs, dir).expect("listed"), ["f"]);
    vfs.open(vfs.lookup(dir, b"f").expect("found").ino, true).expect("opened");
    vfs.getattr(file.ino).expect("attributes");
    assert_eq!(plan.count(OpClass::CHANGES), changes, "nothing was in the way");
}

#[test]
fn two_readers_of_a_file_without_rights_leave_its_mode() {
    let (fixture, _) = fixture();
    let vfs = mount(&fixture);
    let (file, opened) = vfs.create(ROOT, b"f", 0o200, &USER).expect("created");
    vfs.write(opened.handle, 0, b"content").expect("written");
    vfs.release(opened.handle);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let opened = vfs.open(file.ino, false).expect("opened");
                    assert_eq!(vfs.getattr(file.ino).expect("attributes").mode, 0o200);
                    vfs.release(opened.handle);
                }
            });
        }
    });
    assert_eq!(on_disk(&fixture), (0o200, 0));
}

/// Where the filesystem below leaves it to its own caller to check for immutable files, as tmpfs, xfs and btrfs do for what is open.
#[test]
fn an_immutable_file_that_is_open_is_not_emptied() {
    const IMMUTABLE: u32 = 0x10;
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
    let backing = Faulty::new(LocalDir::open(dir.path()).expect("opened"), FaultPlan::new());
    let vfs = Fixture::new(backing, Arc::new(SystemClock)).mount();
    let (attr, opened) = vfs.create(ROOT, b"f", 0o600, &ROOT_USER).expect("created");
    vfs.write(opened.handle, 0, b"precious").expect("written");
    match vfs.set_inode_flags(attr.ino, IMMUTABLE).map_err(|e| e.errno()) {
        // No root, or a tmpfs without flags.
        Err(Errno::PERM | Errno::NOTTY | Errno::OPNOTSUPP) => return,
        set => set.expect("set"),
    }
    let emptied = vfs.open_emptied(attr.ino, true).map(drop).map_err(|e| e.errno());
    let cut = vfs.setattr(attr.ino, None, &SetAttr { size: Some(0), ..SetAttr::default() });
    let content = vfs.read(opened.handle, 0, 99, <[u8]>::to_vec).expect("read");
    vfs.set_inode_flags(attr.ino, 0).expect("cleared, so that it can be removed");
    assert_eq!((emptied, cut.map(drop).map_err(|e| e.errno())), (Err(Errno::PERM), Err(Errno::PERM)));
    assert_eq!(content, b"precious");
}
