//! Accepting what an owner put back makes that readable, and nothing else unreadable.

use super::damage::{accepted, findings, of};
use super::*;

use Outcome::{DuplicateId, Misplaced};

impl Attacked {
    /// The volume is unmounted, and mounted again.
    fn again(&mut self) {
        self.volume.vfs.settle().unwrap();
        self.volume.remount();
    }

    /// Puts another inode with these bytes where `path` is, as `cp --remove-destination` does.
    fn restore(&self, path: &str, bytes: &[u8]) {
        let (dir, entry) = self.raw.entry(&self.volume.vfs, path);
        self.raw.0.unlink(&dir, &entry).unwrap();
        self.put_new((&dir, &entry), bytes);
    }

    fn put_new(&self, (dir, entry): (&<Backed as Backing>::Dir, &str), bytes: &[u8]) {
        let file = self.raw.0.create(dir, entry, 0o600).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        file.write_at(bytes, 0).unwrap();
    }

    /// Every file is as it was written, by path, mounted and for `verify`, but for `findings`; and each of them is written
    /// independently of the others.
    fn holds(&mut self, files: &[(&str, Vec<u8>)], expected: &[(Outcome, String, Option<u64>)], text: &str) {
        for _ in 0..2 {
            self.volume.remount();
            for (path, content) in files {
                match read(&self.volume.vfs, path) {
                    Ok(found) => assert!(found == *content, "{text}: {path}"),
                    Err(error) => panic!("{text}: {path}: {:?}", error.outcome()),
                }
            }
            self.volume.vfs.settle().unwrap();
            assert_eq!(findings(self), expected, "{text}");
        }
    }

    /// Writes each of the files, and reads all after each.
    fn write_each(&mut self, paths: &[&str], together: &[&str]) {
        let mut now: Vec<_> = paths.iter().map(|path| read(&self.volume.vfs, path).unwrap()).collect();
        for (i, path) in paths.iter().enumerate() {
            write(&mut self.volume, path, 40 + i as u8);
            let written = content(path, 40 + i as u8);
            for (other, now) in paths.iter().zip(&mut now) {
                if other == path || together.contains(path) && together.contains(other) {
                    now.clone_from(&written);
                }
            }
            for kill in [false, true] {
                if !kill {
                    self.volume.vfs.settle().unwrap();
                }
                self.volume.remount();
                for (other, now) in paths.iter().zip(&now) {
                    match read(&self.volume.vfs, other) {
                        Ok(found) => assert!(found == *now, "{path} was written: {other}"),
                        Err(error) => panic!("{path} was written: {other}: {:?}", error.outcome()),
                    }
                }
                if kill {
                    write(&mut self.volume, path, 40 + i as u8);
                }
            }
        }
        self.again();
    }
}

fn parts_of(path: &str) -> Vec<&[u8]> {
    parts(path).into_iter().map(str::as_bytes).collect()
}

#[test]
fn a_restored_name_of_a_linked_file_leaves_the_other_names_theirs() {
    for (other, then) in [("linked", ""), ("linked", "linked"), ("e/linked", ""), ("e/linked", "a"), ("d/linked", "d")]
    {
        let mut on = attacked();
        on.volume.link(&["a"], &parts(other)).unwrap();
        on.again();
        // Another life of it: that of a file that is gone.
        let bytes = on.removed.1.clone();
        on.restore("a", &bytes);
        assert_eq!(findings(&on), [of(Misplaced, "a")]);
        let files = [("a", content("removed", 1)), (other, content("a", 2)), ("b", content("b", 2))];
        assert_eq!(accepted(&on, &[b"a"]).files, 1);
        on.holds(&files, &[], "one name");
        accepted(&on, &parts_of(then));
        on.holds(&files, &[], "then more");
        on.write_each(&["a", other, "b"], &[]);
        assert_eq!(findings(&on), []);
    }
}

#[test]
fn a_file_that_is_restored_beside_its_newer_one_leaves_it_as_it_is() {
    for (to, then) in [("moved", ""), ("e/moved", ""), ("d/moved", "d"), ("d/moved", "a")] {
        let mut on = attacked();
        let (dir, entry) = on.raw.entry(&on.volume.vfs, "a");
        on.volume.rename(&["a"], &parts(to), RenameMode::NoReplace).unwrap();
        on.again();
        on.put_new((&dir, &entry), &on.first["a"]);
        on.volume.remount();
        // Both carry the id of the file: that stays so until one is made again inside the mount, as `verify` says.
        let double = |on: &Attacked| {
            let found = findings(on);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].0, DuplicateId);
            found
        };
        assert_eq!(accepted(&on, &[b"a"]).files, 1);
        let expected = double(&on);
        let files = [("a", content("a", 1)), (to, content("a", 2)), ("b", content("b", 2))];
        on.holds(&files, &expected, "one name");
        accepted(&on, &parts_of(then));
        on.holds(&files, &expected, "then more");
        on.write_each(&["a", to, "b"], &[]);
        double(&on);
        on.volume.unlink(&["a"]).unwrap();
        on.again();
        assert_eq!(findings(&on), []);
    }
}

#[test]
fn linked_files_that_were_restored_one_by_one_are_files_of_their_own_when_they_are_accepted() {
    for (empty, order) in [
        (true, ["d/one", "e/two"]),
        (true, ["e/two", "d/one"]),
        (true, ["", ""]),
        (false, ["", ""]),
        (false, ["e/two", "d/one"]),
    ] {
        let mut on = attacked();
        on.volume.create(&["d", "one"], 0o644).unwrap();
        on.volume.close(on.volume.open_files() - 1);
        if !empty {
            write(&mut on.volume, "d/one", 1);
        }
        on.volume.link(&["d", "one"], &["e", "two"]).unwrap();
        on.again();
        let bytes = on.raw.bytes(&on.volume.vfs, "e/two");
        on.restore("e/two", &bytes);
        let before = findings(&on);
        assert_eq!(before.len(), 1, "it is told: {before:?}");
        assert_eq!(before[0].0, if empty { Misplaced } else { DuplicateId });
        for path in order {
            accepted(&on, &parts_of(path));
            on.volume.remount();
            expect(&on.volume.vfs, &[]);
        }
        let plain = if empty { Vec::new() } else { content("d/one", 1) };
        let expected = if empty { Vec::new() } else { before };
        on.holds(&[("d/one", plain.clone()), ("e/two", plain)], &expected, "accepted");
        on.write_each(&["d/one", "e/two", "a"], &[]);
    }
}

#[test]
fn one_name_of_a_restored_file_with_several_is_accepted_with_the_others() {
    for (empty, path) in
        [(true, "d/one"), (false, "d/one"), (true, "e/two"), (false, "e/two"), (false, "e"), (false, "a")]
    {
        let mut on = attacked();
        on.volume.create(&["d", "one"], 0o644).unwrap();
        on.volume.close(on.volume.open_files() - 1);
        if !empty {
            write(&mut on.volume, "d/one", 1);
        }
        on.volume.link(&["d", "one"], &["e", "two"]).unwrap();
        on.volume.link(&["d", "one"], &["three"]).unwrap();
        on.again();
        // Two names as one inode, and the third as another.
        let bytes = on.raw.bytes(&on.volume.vfs, "d/one");
        let ((dir, one), (to, two)) = (on.raw.entry(&on.volume.vfs, "d/one"), on.raw.entry(&on.volume.vfs, "e/two"));
        on.raw.0.unlink(&dir, &one).unwrap();
        on.raw.0.unlink(&to, &two).unwrap();
        on.put_new((&dir, &one), &bytes);
        on.raw.0.link(&dir, &one, &to, &two).unwrap();
        if path == "a" {
            // Another file's name that was given to it.
            let (root, a) = on.raw.entry(&on.volume.vfs, "a");
            on.raw.0.unlink(&root, &a).unwrap();
            on.raw.0.link(&dir, &one, &root, &a).unwrap();
        }
        accepted(&on, &parts_of(path));
        let plain = if empty { Vec::new() } else { content("d/one", 1) };
        let mut paths = vec!["d/one", "e/two", "three"];
        paths.extend((path == "a").then_some("a"));
        let files: Vec<_> = paths.iter().map(|path| (*path, plain.clone())).collect();
        on.volume.remount();
        let expected = findings(&on);
        assert!(expected.iter().all(|found| found.0 == DuplicateId), "{expected:?}");
        on.holds(&files, &expected, "accepted");
        on.write_each(&paths, &["d/one", "e/two", "a"]);
    }
}

#[test]
fn a_path_that_is_accepted_after_a_kill_takes_nothing_from_the_names_that_the_record_does_not_have() {
    let mut on = attacked();
    on.volume.rename(&["a"], &["e", "moved"], RenameMode::NoReplace).unwrap();
    write(&mut on.volume, "new", 3);
    write(&mut on.volume, "e/new", 3);
    let (dir, entry) = on.raw.entry(&on.volume.vfs, "b");
    on.volume.rename(&["b"], &["d", "moved"], RenameMode::NoReplace).unwrap();
    // The process is killed here; the file is put back, as another one.
    let bytes = on.removed.1.clone();
    on.put_new((&dir, &entry), &bytes);
    assert_eq!(accepted(&on, &[b"b"]).files, 1);
    for _ in 0..2 {
        on.volume.remount();
        for (path, expected) in [
            ("b", content("removed", 1)),
            ("e/moved", content("a", 2)),
            ("d/moved", content("b", 2)),
            ("new", content("new", 3)),
            ("e/new", content("e/new", 3)),
        ] {
            match read(&on.volume.vfs, path) {
                Ok(found) => assert!(found == expected, "{path}"),
                Err(error) => panic!("{path}: {:?}", error.outcome()),
            }
        }
        on.volume.vfs.settle().unwrap();
    }
    on.volume.remount();
    assert_eq!(findings(&on), []);
}

#[test]
fn what_was_never_there_cannot_be_accepted() {
    let mut on = attacked();
    for path in ["typo", "d/typo", "typo/x", "a/x"] {
        let error = super::damage::accept_at(&on, &parts_of(path)).unwrap_err();
        let kmsfs::content::Error::Os(errno) = error else { panic!("{path}: {error}") };
        assert!([rustix::io::Errno::NOENT, rustix::io::Errno::NOTDIR].contains(&errno), "{path}: {errno}");
    }
    let (dir, entry) = on.raw.entry(&on.volume.vfs, "a");
    on.raw.0.unlink(&dir, &entry).unwrap();
    assert_eq!(accepted(&on, &[b"a"]).removed, 1);
    on.volume.remount();
    assert_eq!(findings(&on), []);
}
