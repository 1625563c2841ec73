//! What must hold of a volume after a power cut.

use std::collections::{BTreeMap, BTreeSet};

use kmsfs::store::{Backing, Faulty, FileKind, Memory};
use rustix::io::Errno;

use super::disk::{Cut, Disk};
use super::repaired::findings;
use super::run::{Node, Run, Tree, Volume, parts, visible};
use crate::fixture::Fixture;
use crate::model::run::read_all;
use crate::model::subject::{Mounted, Subject};

/// What survived: the tree as it was found, and by file its bytes, or none of a file that was never flushed and whose
/// header is lost.
pub struct Survivors {
    pub tree: Tree,
    pub contents: BTreeMap<usize, Option<Vec<u8>>>,
}

/// Mounts the volume on the disk that a cut left, and checks that all of it is what the steps before the cut allow.
pub fn survivors(run: &Run, disk: &Disk, cut: Cut, image: Faulty<Memory>) -> Survivors {
    let mut volume = Mounted::new(run.volume.fixture.on(image));
    let tree = match cut.log {
        Some(_) => check_objects(run, disk, cut, &volume),
        None => check_tree(run, cut, &volume),
    };
    let mut contents = BTreeMap::new();
    for (path, node) in &tree {
        match node {
            Node::File(file) => {
                let content = check_file(run, cut, *file, &mut volume, path);
                contents.insert(*file, content);
            }
            Node::Symlink => assert_eq!(volume.read_link(&parts(path)).as_deref(), Ok(&b"target"[..]), "{path}"),
            Node::Directory => {}
        }
        let attributes = volume.list_xattrs(&parts(path)).expect("attributes can be listed");
        for name in attributes {
            volume.get_xattr(&parts(path), &name).unwrap_or_else(|e| panic!("attribute {name} of {path}: {e}"));
        }
    }
    Survivors { tree, contents }
}

/// Names are those at some step: of the one that the journal ends in, before or after it.
fn check_tree(run: &Run, cut: Cut, volume: &Volume) -> Tree {
    let last = run.ends.iter().rposition(|&end| end <= cut.journal).expect("the journal has the start");
    let mut allowed = vec![run.trees[last].clone()];
    if let (Some(next), Some(&end)) = (run.trees.get(last + 1), run.ends.get(last + 1))
        && end > cut.journal
        && cut.journal > run.ends[last]
    {
        allowed.push(next.clone());
        // A directory renamed over another can leave the empty one at the old name (FORMAT 8.1).
        let gone = run.trees[last].iter().filter(|(path, node)| **node == Node::Directory && !next.contains_key(*path));
        for (path, _) in gone {
            allowed.push(next.clone());
            allowed.last_mut().unwrap().insert(path.clone(), Node::Directory);
        }
        // Without an exchange the empty directory goes first.
        let is_empty = |path: &str| !run.trees[last].keys().any(|other| other.starts_with(&format!("{path}/")));
        for (path, node) in run.trees[last].iter().filter(|_| run.lacks_exchange) {
            if *node == Node::Directory && next.get(path) == Some(node) && is_empty(path) {
                allowed.push(run.trees[last].clone());
                allowed.last_mut().unwrap().remove(path);
            }
        }
    }
    let found = visible(volume);
    let fits = |tree: &&Tree| {
        let kind = |node: &Node| match node {
            Node::Directory => FileKind::Directory,
            Node::Symlink => FileKind::Symlink,
            Node::File(_) => FileKind::Regular,
        };
        tree.len() == found.len() && tree.iter().all(|(path, node)| found.get(path) == Some(&kind(node)))
    };
    // Which of two files stands at a name tells the content, once it is read.
    let mut fitting = allowed.iter().filter(fits);
    let first = fitting.next().unwrap_or_else(|| panic!("names: {found:?}\nallowed: {allowed:?}"));
    match fitting.find(|other| *other != first) {
        Some(other) if !is_of(run, cut, first, volume) => other.clone(),
        _ => first.clone(),
    }
}

/// Names survive object by object: all that the disk has are there, no others, and those that were flushed among them.
fn check_objects(run: &Run, disk: &Disk, cut: Cut, volume: &Volume) -> Tree {
    let number = |path: &str| {
        parts(path).iter().fold(kmsfs::vfs::ROOT, |dir, name| volume.vfs.lookup(dir, name.as_bytes()).unwrap().ino)
    };
    let found: Vec<_> = visible(volume).into_iter().map(|(path, kind)| (number(&path), path, kind)).collect();
    let mut numbers: Vec<u64> = found.iter().map(|(ino, ..)| *ino).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, disk.visible_after(cut), "{found:?}: all that is there can be reached, nothing else");
    let mut names: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    let mut tree = Tree::new();
    for (ino, path, kind) in &found {
        let node = match kind {
            FileKind::Directory => Node::Directory,
            FileKind::Symlink => Node::Symlink,
            _ => {
                let file = run.files.iter().rposition(|file| file.ino == Some(*ino)).expect("it was made");
                names.entry(file).or_default().insert(last(path));
                Node::File(file)
            }
        };
        tree.insert(path.clone(), node);
    }
    let begun = |step: usize| step == 0 || run.ends[step - 1] < cut.done || run.ends[step] <= cut.done;
    for number in 0..run.files.len() {
        let names_at = |step: usize| -> BTreeSet<&str> {
            let is_it = |(_, node): &(&String, &Node)| **node == Node::File(number);
            run.trees[step].iter().filter(is_it).map(|(path, _)| last(path)).collect()
        };
        let found = names.remove(&number).unwrap_or_default();
        let ever: BTreeSet<&str> = (0..run.trees.len()).filter(|step| begun(*step)).flat_map(names_at).collect();
        assert!(found.is_subset(&ever), "file {number} has the names {found:?} of {ever:?}");
        let flushed = run.files[number].flushed.iter().rev().find(|(step, _)| run.ends[*step] <= cut.done);
        let Some((flushed, _)) = flushed else { continue };
        let since: Vec<_> = (*flushed..run.trees.len()).filter(|step| begun(*step)).map(names_at).collect();
        let is_kept = since.iter().all(|names| !names.is_empty());
        let allowed: BTreeSet<&str> = since.into_iter().flatten().collect();
        assert!(!is_kept || !found.is_disjoint(&allowed), "file {number} was flushed as one of {allowed:?}: {found:?}");
    }
    tree
}

/// The name at the end of a path.
fn last(path: &str) -> &str {
    path.rsplit('/').next().expect("there is one")
}

/// Whether the files of a tree have sizes that they had.
fn is_of(run: &Run, cut: Cut, tree: &Tree, volume: &Volume) -> bool {
    tree.iter().all(|(path, node)| match node {
        Node::File(file) => {
            let size = volume.stat(&parts(path)).expect("what is listed has attributes").size;
            window(run, cut, *file).iter().any(|version| version.len() as u64 == size)
        }
        _ => true,
    })
}

/// The contents that a file had since it was flushed last.
fn window(run: &Run, cut: Cut, file: usize) -> Vec<&[u8]> {
    let file = &run.files[file];
    let done = |step: &usize| run.ends[*step] <= cut.done;
    let begun = |step: &usize| *step == 0 || run.ends[*step - 1] < cut.done || done(step);
    let from = file.flushed.iter().rev().find(|(step, _)| done(step)).map_or(0, |(_, version)| *version);
    file.versions[from..].iter().filter(|(step, _)| begun(step)).map(|(_, content)| content.as_slice()).collect()
}

/// Whether nothing of a file was flushed since it was empty: all of it may be lost, its header first.
pub fn may_be_lost(run: &Run, cut: Cut, file: usize) -> bool {
    window(run, cut, file).iter().any(|version| version.is_empty())
}

/// The same for one byte, where flushes failed: a later one that succeeds says nothing of what was written before those.
fn window_of_byte(run: &Run, cut: Cut, file: usize, at: usize) -> Vec<&[u8]> {
    let file = &run.files[file];
    let done = |step: &usize| run.ends[*step] <= cut.done;
    let begun = |step: &usize| *step == 0 || run.ends[*step - 1] < cut.done || done(step);
    let mut flushes: Vec<(usize, usize, bool)> =
        file.flushed.iter().map(|(step, version)| (*step, *version, true)).collect();
    flushes.extend(file.lost.iter().map(|(step, version)| (*step, *version, false)));
    flushes.sort_unstable();
    let (mut from, mut lost) = (0, None);
    for (_, version, succeeded) in flushes.into_iter().filter(|(step, ..)| done(step)) {
        let written_since = |lost: usize| file.changed[lost + 1..=version].iter().any(|range| range.contains(&at));
        if !succeeded {
            lost = Some(version);
        } else if lost.is_none_or(written_since) {
            (from, lost) = (version, None);
        }
    }
    file.versions[from..].iter().filter(|(step, _)| begun(step)).map(|(_, content)| content.as_slice()).collect()
}

/// Every byte is one that the file had there since it was flushed, the size too.
fn check_file(run: &Run, cut: Cut, file: usize, volume: &mut Volume, path: &str) -> Option<Vec<u8>> {
    let window = window(run, cut, file);
    let size = volume.stat(&parts(path)).expect("what is listed has attributes").size;
    let sizes: BTreeSet<u64> = window.iter().map(|version| version.len() as u64).collect();
    assert!(sizes.contains(&size), "{path}: size {size}, not one of {sizes:?}");
    match read_all(volume, &parts(path), size) {
        Ok(content) => {
            assert_eq!(content.len() as u64, size, "{path}");
            let is_whole = run.files[file].lost.is_empty();
            for (at, byte) in content.iter().enumerate() {
                let of_byte;
                let window = match is_whole {
                    true => &window,
                    false => {
                        of_byte = window_of_byte(run, cut, file, at);
                        &of_byte
                    }
                };
                let byte_of = |version: &&[u8]| version.get(at).copied().unwrap_or(0);
                assert!(
                    window.iter().any(|version| byte_of(version) == *byte),
                    "{path}, byte {at}: {byte}, not one of {:?}",
                    window.iter().map(byte_of).collect::<BTreeSet<_>>(),
                );
            }
            Some(content)
        }
        Err(error) => {
            // Only what was never flushed since the file was empty can have lost its header.
            assert!(may_be_lost(run, cut, file), "{path}: {error} for flushed content");
            assert_eq!(error, Errno::IO, "{path}");
            None
        }
    }
}

/// The volume is as good as any: files grow without old bytes coming back, are written, flushed and read after
/// another mount, and everything can be removed. `is_verified`: before that `verify` has nothing to say.
pub fn is_sound(fixture: Fixture<Faulty<Memory>>, survivors: &Survivors, is_verified: bool) {
    const MORE: u64 = 5000;
    let backing = fixture.backing.clone();
    let mut volume = Mounted::new(fixture);
    let mut expected = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (path, node) in &survivors.tree {
        let Node::File(file) = node else { continue };
        if !seen.insert(*file) {
            continue;
        }
        let names = parts(path);
        let mut content = match &survivors.contents[file] {
            Some(content) => content.clone(),
            None => {
                // A lost file can be emptied and used again.
                let empty = kmsfs::vfs::SetAttr { size: Some(0), ..Default::default() };
                let attr = names.iter().fold(kmsfs::vfs::ROOT, |dir, name| {
                    volume.vfs.lookup(dir, name.as_bytes()).expect("it was listed").ino
                });
                volume.vfs.setattr(attr, None, &empty).expect("a lost file can be emptied");
                Vec::new()
            }
        };
        volume.open(&names, true).unwrap_or_else(|e| panic!("{path} can be opened: {e}"));
        let handle = volume.open_files() - 1;
        let size = content.len() as u64;
        volume.set_len(handle, size + MORE).unwrap_or_else(|e| panic!("{path} can grow: {e}"));
        content.resize((size + MORE) as usize, 0);
        let found = volume.read(handle, 0, content.len()).unwrap_or_else(|e| panic!("{path}, grown: {e}"));
        assert!(found == content, "{path}: what is new after the crash reads as zeros");
        volume.write(handle, size / 2, b"written after the crash").unwrap_or_else(|e| panic!("{path}: {e}"));
        let at = (size / 2) as usize;
        content[at..at + 23].copy_from_slice(b"written after the crash");
        volume.fsync(handle, false).unwrap();
        expected.insert(path.clone(), content);
    }
    volume.remount();
    for (path, content) in &expected {
        let found = read_all(&mut volume, &parts(path), content.len() as u64);
        assert!(found.as_ref() == Ok(content), "{path}: mounted again");
    }
    if is_verified {
        volume.vfs.settle().expect("settled");
        assert_eq!(findings(&volume.fixture), [], "all of it was written and flushed");
    }
    remove_all(&mut volume);
    volume.remount();
    assert_eq!(visible(&volume), BTreeMap::new());
    let root = backing.root().unwrap();
    let mut names = Vec::new();
    backing.read_list(&mut backing.list(&root).unwrap(), 0, &mut names).unwrap();
    for entry in names {
        let name = String::from_utf8(entry.name).unwrap();
        let hidden = [".", "..", ".kmsfs", ".kmsfs.dir"].contains(&name.as_str())
            || name.starts_with("~T")
            || (name.starts_with("~L") && name.ends_with(".n"));
        assert!(hidden, "{name} is left in the backing");
    }
}

fn remove_all(volume: &mut Volume) {
    let mut objects: Vec<(String, FileKind)> = visible(volume).into_iter().collect();
    objects.sort_by_key(|(path, _)| std::cmp::Reverse(path.matches('/').count()));
    for (path, kind) in objects {
        let names = parts(&path);
        let removed = if kind == FileKind::Directory { volume.rmdir(&names) } else { volume.unlink(&names) };
        assert_eq!(removed, Ok(()), "{path} can be removed");
    }
}
