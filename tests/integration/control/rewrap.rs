//! Every file ends under the new key, whatever applications do meanwhile, and holds what they wrote.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use kmsfs::cli::control::rewrap::{Served, rewrap};
use kmsfs::cli::exit::Exit;
use kmsfs::ops::rewrap::{RewrapOptions, RewrapReport};
use kmsfs::ops::{Progress, Silent};
use kmsfs::store::{LocalDir, RenameMode};
use kmsfs::types::KeyArn;
use kmsfs::vfs::{ROOT, SetAttr, Vfs};

use super::{Mount, key_in, user};

fn to(served: &Served<LocalDir>, key: &KeyArn, threads: usize, progress: &dyn Progress) -> RewrapReport {
    let options = RewrapOptions { from: None, to: Some(key.clone()), threads };
    rewrap(served, &options, progress).expect("rewrap")
}

#[test]
fn new_files_are_under_the_new_key_at_once_and_the_old_key_is_not_needed() {
    let mount = Mount::new();
    let (one, empty) = (mount.file(ROOT, "one", b"1"), mount.file(ROOT, "empty", b""));
    let held = mount.vfs().open(one, true).expect("open").handle;
    let report = to(&mount.served, &mount.new, 2, &Silent);
    assert_eq!((report.rewrapped, report.unchanged, report.root_key, report.findings.len()), (1, 1, true, 0));
    mount.disable_old();
    mount.vfs().write(held, 1, b"+").expect("write");
    mount.vfs().release(held);
    let empty_handle = mount.vfs().open(empty, true).expect("open").handle;
    mount.vfs().write(empty_handle, 0, b"no longer empty").expect("write");
    mount.vfs().release(empty_handle);
    let fresh = mount.file(ROOT, "fresh", b"f");
    for ino in [one, empty, fresh] {
        assert_eq!(mount.key_of(ino), mount.new.as_str());
    }
    assert_eq!((mount.content(one), mount.content(fresh)), (b"1+".to_vec(), b"f".to_vec()));
    let again = to(&mount.served, &mount.new, 2, &Silent);
    assert_eq!((again.rewrapped, again.unchanged, again.root_key), (0, 3, false));
    // And so after the next mount.
    assert_eq!(mount.host.mount(mount.dir.path()).read("one").expect("read"), b"1+");
}

#[test]
fn a_directory_that_was_renamed_while_it_is_mounted_is_rewrapped_where_it_is() {
    let mount = Mount::new();
    let ino = mount.file(ROOT, "file", b"content");
    let (place, aside) = (mount.dir.path(), tempfile::TempDir::new().expect("temporary directory"));
    let moved = aside.path().join("volume");
    fs::rename(place, &moved).expect("renamed");
    // Another volume has its place now.
    fs::create_dir(place).expect("made");
    mount.host.init(place, "alias/old").expect("init");
    let other = fs::read(place.join(".kmsfs/volume")).expect("read");
    let report = to(&mount.served, &mount.new, 2, &Silent);
    assert_eq!((report.rewrapped, report.root_key, report.findings.len()), (1, true, 0));
    assert!(fs::read(place.join(".kmsfs/volume")).expect("read") == other, "the other volume is not touched");
    mount.disable_old();
    assert_eq!(key_in(&super::ciphertext(&moved, ino)).as_deref(), Some(mount.new.as_str()));
    assert_eq!(mount.host.mount(&moved).read("file").expect("read"), b"content");
}

/// Does something once, when the walk has read the first directory that holds a file and has met that file.
struct Once<F: Fn() + Send + Sync>(AtomicBool, F);

impl<F: Fn() + Send + Sync> Once<F> {
    fn new(f: F) -> Self {
        Self(AtomicBool::new(false), f)
    }
}

impl<F: Fn() + Send + Sync> Progress for Once<F> {
    fn found(&self, _files: u64, _bytes: u64) {
        if !self.0.swap(true, Ordering::SeqCst) {
            (self.1)();
        }
    }

    fn done(&self, _files: u64, _bytes: u64) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}

fn mv(vfs: &Vfs<LocalDir>, from: u64, name: &str, to: u64, to_name: &str) {
    vfs.rename(from, name.as_bytes(), to, to_name.as_bytes(), RenameMode::Replace).expect("rename");
}

#[test]
fn files_that_move_into_a_directory_that_was_listed_already_are_not_missed() {
    let mount = Mount::new();
    let dirs = [mount.mkdir("a"), mount.mkdir("b")];
    let files = dirs.map(|dir| mount.file(dir, "file", b"content"));
    // Whichever directory is listed first, the other one's file ends in it.
    let swap = Once::new(|| {
        mv(mount.vfs(), dirs[0], "file", dirs[1], "from a");
        mv(mount.vfs(), dirs[1], "file", dirs[0], "from b");
    });
    let report = to(&mount.served, &mount.new, 1, &swap);
    assert_eq!((report.rewrapped, report.findings.len()), (2, 0));
    for ino in files {
        assert_eq!(mount.key_of(ino), mount.new.as_str());
    }
}

#[test]
fn a_second_name_that_replaces_the_first_is_not_missed() {
    let mount = Mount::new();
    let dirs = [mount.mkdir("a"), mount.mkdir("b")];
    let files = dirs.map(|dir| mount.file(dir, "file", b"content"));
    let swap = Once::new(|| {
        for (i, from) in dirs.iter().enumerate() {
            mount.vfs().link(files[i], dirs[1 - i], b"second name").expect("link");
            mount.vfs().unlink(*from, b"file").expect("unlink");
        }
    });
    let report = to(&mount.served, &mount.new, 1, &swap);
    assert_eq!((report.rewrapped, report.findings.len()), (2, 0));
    for ino in files {
        assert_eq!(mount.key_of(ino), mount.new.as_str());
    }
}

/// A file made with `O_TMPFILE`, open; its inode number and handle.
fn unnamed(mount: &Mount, content: &[u8]) -> (u64, u64) {
    let (attr, opened) = mount.vfs().tmpfile(ROOT, 0o600, &user()).expect("a file without a name");
    mount.vfs().write(opened.handle, 0, content).expect("write");
    (attr.ino, opened.handle)
}

#[test]
fn a_file_that_gets_its_name_after_the_job_is_under_the_new_key() {
    let mount = Mount::new();
    mount.file(ROOT, "named", b"content");
    let (file, handle) = unnamed(&mount, b"nameless");
    let (empty, empty_handle) = unnamed(&mount, b"");
    let report = to(&mount.served, &mount.new, 1, &Silent);
    assert_eq!((report.rewrapped, report.findings.len()), (2, 0));
    mount.vfs().write(empty_handle, 0, b"written later").expect("write");
    for (ino, name, handle) in [(file, b"file", handle), (empty, b"late", empty_handle)] {
        mount.vfs().link(ino, ROOT, name).expect("link");
        mount.vfs().release(handle);
        mount.vfs().forget(ino, 1);
        assert_eq!(mount.key_of(ino), mount.new.as_str());
    }
    mount.disable_old();
    assert_eq!(mount.content(file), b"nameless");
    assert_eq!(mount.content(empty), b"written later");
}

#[test]
fn a_file_that_gets_its_name_during_the_job_is_not_missed() {
    let mount = Mount::new();
    mount.file(ROOT, "named", b"content");
    let (file, handle) = unnamed(&mount, b"nameless");
    let link = Once::new(|| {
        mount.vfs().link(file, ROOT, b"file").expect("link");
    });
    assert_eq!(to(&mount.served, &mount.new, 1, &link).rewrapped, 2);
    mount.vfs().release(handle);
    assert_eq!(mount.key_of(file), mount.new.as_str());
    // What has no name any more is of no concern once it is closed.
    let (_, gone) = unnamed(&mount, b"gone");
    mount.vfs().release(gone);
    assert_eq!(to(&mount.served, &mount.old, 1, &Silent).findings, []);
}

#[test]
fn directories_that_move_are_walked_again() {
    let mount = Mount::new();
    let dirs = [mount.mkdir("a"), mount.mkdir("b")];
    let files = dirs.map(|dir| {
        mount.file(dir, "file", b"content");
        let inner = mount.vfs().mkdir(dir, b"inner", 0o755, &user()).expect("mkdir").ino;
        mount.file(inner, "inner file", b"content")
    });
    let swap = Once::new(|| {
        mv(mount.vfs(), dirs[0], "inner", dirs[1], "inner of a");
        mv(mount.vfs(), dirs[1], "inner", dirs[0], "inner of b");
    });
    let report = to(&mount.served, &mount.new, 1, &swap);
    assert_eq!((report.rewrapped, report.unchanged, report.findings.len()), (4, 0, 0));
    for ino in files {
        assert_eq!(mount.key_of(ino), mount.new.as_str());
    }
}

#[test]
fn a_moved_file_that_cannot_be_rewrapped_is_a_finding() {
    let mount = Mount::new();
    let dirs = [mount.mkdir("a"), mount.mkdir("b")];
    let files = dirs.map(|dir| mount.file(dir, "file", b"content"));
    for ino in files {
        super::super::ops::host::edit(&super::ciphertext(mount.dir.path(), ino), |bytes| bytes[60] ^= 1);
    }
    let swap = Once::new(|| {
        mv(mount.vfs(), dirs[0], "file", dirs[1], "from a");
        mv(mount.vfs(), dirs[1], "file", dirs[0], "from b");
    });
    let report = to(&mount.served, &mount.new, 1, &swap);
    let mut found: Vec<_> = report.findings.iter().map(|f| f.reason.code()).collect();
    found.dedup();
    assert_eq!((report.rewrapped, found), (0, vec!["HeaderAuth".to_owned()]));
    assert!(report.findings.len() >= 2, "{:?}", report.findings);
}

#[test]
fn one_rewrap_at_a_time_and_none_of_a_read_only_mount() {
    let mount = Mount::new();
    mount.file(ROOT, "file", b"content");
    let second = Once::new(|| {
        let error = rewrap(&mount.served, &RewrapOptions::default(), &Silent).expect_err("one is under way");
        assert_eq!((error.exit, error.code.as_str()), (Exit::Busy, "RewrapUnderWay"));
    });
    assert_eq!(to(&mount.served, &mount.new, 1, &second).rewrapped, 1);
    let mut read_only = super::serve(&mount.host, mount.dir.path());
    read_only.read_only = true;
    let error = rewrap(&read_only, &RewrapOptions::default(), &Silent).expect_err("read-only");
    assert_eq!(error.exit, Exit::Busy);
}

#[test]
fn files_with_names_outside_of_the_volume_are_counted() {
    let mount = Mount::new();
    let dirs = [mount.mkdir("a"), mount.mkdir("b")];
    let named_twice = dirs.map(|dir| mount.file(dir, "file", b"content"));
    for (ino, other) in named_twice.into_iter().zip([dirs[1], dirs[0]]) {
        mount.vfs().link(ino, other, b"second name").expect("link");
    }
    let elsewhere = mount.file(mount.mkdir("c"), "file", b"content");
    let generation = tempfile::TempDir::new().expect("temporary directory");
    fs::hard_link(super::ciphertext(mount.dir.path(), elsewhere), generation.path().join("shared")).expect("link");
    // A name that is removed, a file that moves, and a directory, so that there is a second walk.
    let changes = Once::new(|| {
        mount.vfs().unlink(dirs[0], b"second name").expect("unlink");
        mv(mount.vfs(), dirs[1], "second name", ROOT, "moved");
        mv(mount.vfs(), ROOT, "a", dirs[1], "a");
    });
    let report = to(&mount.served, &mount.new, 1, &changes);
    assert_eq!((report.rewrapped, report.findings.len()), (3, 0));
    assert_eq!(report.linked_elsewhere.into_iter().collect::<Vec<_>>(), [elsewhere]);
    let again = to(&mount.served, &mount.new, 1, &Silent);
    assert!(again.linked_elsewhere.is_empty(), "what is not rewrapped changes nothing elsewhere");
}

const FILES: u64 = 12;
const ROUNDS: u64 = 40;

/// What file `i` holds after its writer's last round.
fn expected(i: u64) -> Vec<u8> {
    let mut content = vec![0; 10_000];
    content[5000..5008].copy_from_slice(&(i * 1000 + ROUNDS - 1).to_le_bytes());
    content[9000..9004].copy_from_slice(b"tail");
    content
}

/// Ends one life of a file and begins the next, over and over: empty, grown, written, cut, synced, renamed.
fn write_rounds(mount: &Mount, dirs: [u64; 2], i: u64) {
    let vfs = mount.vfs();
    let name = format!("file {i}");
    let ino = vfs.lookup(dirs[0], name.as_bytes()).expect("lookup").ino;
    for round in 0..ROUNDS {
        let truncate = |handle, size| {
            vfs.setattr(ino, handle, &SetAttr { size: Some(size), ..SetAttr::default() }).expect("truncate");
        };
        let opened = vfs.open(ino, true).expect("open").handle;
        truncate(Some(opened), 0);
        vfs.write(opened, 5000, &(i * 1000 + round).to_le_bytes()).expect("write");
        vfs.write(opened, 20_000, b"cut off").expect("write");
        vfs.fsync(opened, false).expect("fsync");
        vfs.release(opened);
        truncate(None, 10_000);
        let opened = vfs.open(ino, true).expect("open").handle;
        vfs.write(opened, 9000, b"tail").expect("write");
        let here = (round % 2) as usize;
        mv(vfs, dirs[here], &name, dirs[1 - here], &name);
        vfs.release(opened);
    }
    vfs.forget(ino, 1);
}

#[test]
fn writers_truncations_renames_and_rewraps_share_one_state() {
    let mount = Mount::new();
    let dirs = [mount.mkdir("a"), mount.mkdir("b")];
    for i in 0..FILES {
        mount.file(dirs[0], &format!("file {i}"), &vec![1; 30_000]);
    }
    let known = mount.vfs().known_inodes();
    let (running, jobs) = (AtomicBool::new(true), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while running.load(Ordering::SeqCst) {
                for key in [&mount.new, &mount.old] {
                    assert_eq!(to(&mount.served, key, 2, &Silent).findings, []);
                    jobs.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let writers: Vec<_> = (0..FILES)
            .map(|i| {
                let mount = &mount;
                scope.spawn(move || write_rounds(mount, dirs, i))
            })
            .collect();
        for writer in writers {
            // The job must end in any case, or the scope would wait for it forever.
            let done = writer.join();
            if done.is_err() {
                running.store(false, Ordering::SeqCst);
            }
            done.expect("the writer's calls succeed");
        }
        running.store(false, Ordering::SeqCst);
    });
    assert!(jobs.load(Ordering::SeqCst) >= 2);
    assert_eq!(mount.vfs().known_inodes(), known, "jobs leave no references");
    assert_eq!(to(&mount.served, &mount.new, 2, &Silent).findings, []);
    mount.disable_old();
    // An even number of rounds: every file is where it began.
    for i in 0..FILES {
        let attr = mount.vfs().lookup(dirs[0], format!("file {i}").as_bytes()).expect("lookup");
        assert!(mount.content(attr.ino) == expected(i), "file {i}");
        assert_eq!(key_in(&super::ciphertext(mount.dir.path(), attr.ino)).as_deref(), Some(mount.new.as_str()));
    }
    assert_eq!(mount.vfs().open_files(), 0);
    assert_eq!(mount.host.findings(mount.dir.path()), [""; 0]);
}
