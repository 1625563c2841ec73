//! Interleavings of requests for names and files of one volume: the inode table, the slots of open contents, renames and
//! re-wraps. Each thread keeps the protocol of the kernel: what it looks up or makes it forgets, what it opens it releases.

use rustix::io::Errno;

use super::{Attr, Caller, Error, Options, ROOT, SetAttr, Vfs};
use crate::content::shuttle_tests::volume;
use crate::env::ManualClock;
use crate::format::dirid;
use crate::format::size::DATA;
use crate::keys::RewrapJob;
use crate::store::{Backing, Memory, RenameMode};
use crate::sync::{Arc, explore, thread};
use crate::types::{DirId, Timestamp};

const USER: Caller = Caller { uid: 0, gid: 0, umask: 0o022 };
const UNIT: u64 = DATA as u64;

/// What a request may answer that comes too late.
fn is_late(error: &Error) -> bool {
    matches!(error.errno(), Errno::NOENT | Errno::STALE | Errno::EXIST)
}

#[derive(Clone)]
struct Mount(Arc<Vfs<Memory>>, Arc<Memory>);

impl Mount {
    /// An empty volume with the directory `d`.
    fn new() -> Self {
        let backing = Arc::new(Memory::new(Arc::new(ManualClock::new(Timestamp::from_secs(1)))));
        let content = volume();
        let id = dirid::encode(&content.keys.volume().keys, DirId::from_bytes([9; 16]));
        let root = backing.root().expect("a root");
        backing.symlink(id.as_bytes(), &root, dirid::ENTRY).expect("its id");
        backing.mkdir(&root, ".kmsfs", 0o700).expect("made");
        let mount = Self::on(backing);
        let made = mount.0.mkdir(ROOT, b"d", 0o755, &USER).expect("mkdir");
        mount.0.forget(made.ino, 1);
        mount
    }

    fn on(backing: Arc<Memory>) -> Self {
        let options = Options { privileged: true, ..Options::default() };
        Self(Arc::new(Vfs::new(Arc::clone(&backing), volume(), options).expect("a mount")), backing)
    }

    fn create(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let (attr, opened) = self.0.create(ROOT, name.as_bytes(), 0o644, &USER)?;
        self.0.write(opened.handle, 0, content).expect("write");
        self.0.release(opened.handle);
        self.0.forget(attr.ino, 1);
        Ok(())
    }

    /// Looks a file up and hands it to `work`.
    fn with<R>(
        &self,
        dir: u64,
        name: &str,
        work: impl FnOnce(&Vfs<Memory>, Attr) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let attr = self.0.lookup(dir, name.as_bytes())?;
        let done = work(&self.0, attr);
        self.0.forget(attr.ino, 1);
        done
    }

    fn read(&self, dir: u64, name: &str) -> Result<Vec<u8>, Error> {
        self.with(dir, name, |vfs, attr| {
            let opened = vfs.open(attr.ino, false)?;
            let read = vfs.read(opened.handle, 0, 1 << 20, <[u8]>::to_vec);
            vfs.release(opened.handle);
            read
        })
    }

    /// The names in the root, without the directory.
    fn names(&self) -> Vec<String> {
        let handle = self.0.open_dir(ROOT).expect("opendir");
        let mut names = Vec::new();
        let emit = |entry: &super::DirEntry| {
            names.push(String::from_utf8(entry.name.clone()).expect("UTF-8"));
            true
        };
        self.0.read_dir(handle, 0, false, emit).expect("readdir");
        self.0.release_dir(handle);
        names.retain(|name| ![".", "..", "d"].contains(&name.as_str()));
        names
    }

    fn spawn(&self, work: impl FnOnce(&Self) + Send + 'static) -> thread::JoinHandle<()> {
        let mount = self.clone();
        thread::spawn(move || work(&mount))
    }

    /// Nothing is open and nothing referred to, and a new mount shows the same.
    fn check_end(&self) {
        assert_eq!((self.0.open_files(), self.0.known_inodes()), (0, 0));
        let again = Self::on(Arc::clone(&self.1));
        let mut names = self.names();
        names.sort();
        let mut found = again.names();
        found.sort();
        assert_eq!(found, names);
        for name in names {
            let now = self.read(ROOT, &name).expect("what is listed can be read");
            assert!(again.read(ROOT, &name).expect("by a new mount too") == now, "{name}");
        }
    }
}

#[test]
fn a_name_that_changes_hands_is_one_file_at_a_time() {
    explore(500, || {
        let mount = Mount::new();
        mount.create("a", &[1; DATA + 9]).expect("create");
        mount.create("b", &[2; 2 * DATA]).expect("create");
        let reader = mount.spawn(|mount| {
            for _ in 0..2 {
                match mount.read(ROOT, "a") {
                    Ok(seen) => assert!(
                        [vec![1; DATA + 9], vec![2; 2 * DATA], vec![3; 5], vec![]].contains(&seen),
                        "{} bytes",
                        seen.len()
                    ),
                    Err(error) => assert!(is_late(&error), "{error}"),
                }
            }
        });
        let mover = mount.spawn(|mount| {
            mount.0.rename(ROOT, b"b", ROOT, b"a", RenameMode::Replace).expect("b is there");
        });
        let remover = mount.spawn(|mount| {
            let removed = mount.with(ROOT, "a", |vfs, _| vfs.unlink(ROOT, b"a"));
            assert!(removed.as_ref().is_ok_and(|()| true) || removed.is_err_and(|error| is_late(&error)));
            let made = mount.create("a", &[3; 5]);
            assert!(made.as_ref().is_ok_and(|()| true) || made.is_err_and(|error| is_late(&error)));
        });
        for thread in [reader, mover, remover] {
            thread.join().expect("no panic");
        }
        assert_eq!(mount.names(), ["a"]);
        mount.check_end();
    });
}

#[test]
fn a_removed_file_lives_until_it_is_closed() {
    explore(500, || {
        let mount = Mount::new();
        mount.create("a", &[1; 100]).expect("create");
        let users = [2_u8, 3].map(|byte| {
            mount.spawn(move |mount| {
                let used = mount.with(ROOT, "a", |vfs, attr| {
                    let opened = vfs.open(attr.ino, true)?;
                    vfs.write(opened.handle, u64::from(byte) * UNIT, &[byte; 50]).expect("what is open can be written");
                    let seen = vfs.read(opened.handle, u64::from(byte) * UNIT, 50, <[u8]>::to_vec);
                    assert_eq!(seen.expect("and read"), [byte; 50]);
                    assert!(vfs.getattr(attr.ino).expect("its attributes are there").size > u64::from(byte) * UNIT);
                    vfs.fsync(opened.handle, false).expect("and flushed");
                    vfs.release(opened.handle);
                    Ok(())
                });
                assert!(used.as_ref().is_ok_and(|()| true) || used.is_err_and(|error| is_late(&error)));
            })
        });
        let remover = mount.spawn(|mount| {
            mount.with(ROOT, "a", |vfs, _| vfs.unlink(ROOT, b"a")).expect("it is there");
        });
        for thread in users.into_iter().chain([remover]) {
            thread.join().expect("no panic");
        }
        assert!(mount.names().is_empty());
        mount.check_end();
    });
}

#[test]
fn rewraps_writes_cuts_and_renames_of_a_file_leave_it_whole() {
    explore(500, || {
        let mount = Mount::new();
        mount.create("a", &[1; DATA + 50]).expect("create");
        let root = mount.1.root().expect("a root");
        let mut listed = Vec::new();
        mount.1.read_list(&mut mount.1.list(&root).expect("list"), 0, &mut listed).expect("list");
        let names = listed.into_iter().map(|entry| String::from_utf8(entry.name).expect("UTF-8"));
        let entries: Vec<String> = names.filter(|name| name.len() == 43 && !name.starts_with('~')).collect();
        let rewrapper = mount.spawn(move |mount| {
            let root = mount.1.root().expect("a root");
            for entry in &entries {
                match mount.0.rewrap(&root, entry, &RewrapJob::default()) {
                    Ok(_) => {}
                    // The directory, or a file that has moved.
                    Err(error) => assert!(is_late(&error), "{error}"),
                }
            }
        });
        let writer = mount.spawn(|mount| {
            let written = mount.with(ROOT, "a", |vfs, attr| {
                let opened = vfs.open(attr.ino, true)?;
                vfs.write(opened.handle, UNIT - 5, &[2; 100]).expect("write");
                vfs.fsync(opened.handle, true).expect("fsync");
                vfs.release(opened.handle);
                Ok(())
            });
            assert!(written.as_ref().is_ok_and(|()| true) || written.is_err_and(|error| is_late(&error)));
        });
        let cutter = mount.spawn(|mount| {
            let size = SetAttr { size: Some(20), ..SetAttr::default() };
            let cut = mount.with(ROOT, "a", |vfs, attr| vfs.setattr(attr.ino, None, &size));
            assert!(cut.as_ref().is_ok_and(|_| true) || cut.is_err_and(|error| is_late(&error)));
        });
        mount.0.rename(ROOT, b"a", ROOT, b"c", RenameMode::NoReplace).expect("a is there");
        for thread in [rewrapper, writer, cutter] {
            thread.join().expect("no panic");
        }
        let left = mount.read(ROOT, "c").expect("it can be read");
        let written = left.len() as u64 == UNIT + 95;
        assert!([20, UNIT + 50, UNIT + 95].contains(&(left.len() as u64)), "size {}", left.len());
        assert!(left[..20] == [1; 20] && left.iter().all(|byte| *byte <= 2));
        assert!(!written || left[UNIT as usize - 5..] == [2; 100]);
        mount.check_end();
    });
}

#[test]
fn renames_that_cross_each_other_end() {
    explore(500, || {
        let mount = Mount::new();
        for name in ["a", "b"] {
            mount.create(name, name.as_bytes()).expect("create");
        }
        let dir = mount.0.lookup(ROOT, b"d").expect("there").ino;
        mount.0.rename(ROOT, b"b", dir, b"b", RenameMode::NoReplace).expect("b is there");
        mount.create("b", b"c").expect("create");
        let late_or_done = |done: Result<(), Error>| {
            // A directory may stand at a name, or have left it.
            let is_other = |error: &Error| is_late(error) || matches!(error.errno(), Errno::ISDIR | Errno::NOTDIR);
            assert!(done.as_ref().map_or_else(is_other, |()| true), "{done:?}");
        };
        let renames =
            [("a", "b", RenameMode::Replace), ("b", "a", RenameMode::Replace), ("d", "b", RenameMode::Exchange)];
        let threads = renames.map(|(from, to, mode)| {
            mount.spawn(move |mount| {
                late_or_done(mount.0.rename(ROOT, from.as_bytes(), ROOT, to.as_bytes(), mode));
            })
        });
        // Holds the place of a file, and then that of the directory above it.
        let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        late_or_done(mount.with(dir, "b", |vfs, attr| vfs.setattr(attr.ino, None, &mode).map(drop)));
        for thread in threads {
            thread.join().expect("no panic");
        }
        mount.0.forget(dir, 1);
    });
}
