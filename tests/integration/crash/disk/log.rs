//! What btrfs leaves: its last commit, which is a prefix of all operations, and on it the log of what was flushed since.
//!
//! A flush of a file logs that file: its size, its attributes, and its names as they are then; of the directories
//! above it only those that the commit does not know. What else was made, renamed or removed meanwhile has not happened,
//! with these exceptions, all of them from `fs/btrfs/tree-log.c`: what had a name that is now the file's is
//! logged with it; a flush of a directory logs its entries, the new ones as empty files; an object that is in the log
//! and gets another name, or loses one, has that in the log from the next flush of anything on. A directory that
//! the commit knows under another name may be logged or not. Where the log would make a directory its own ancestor
//! btrfs commits instead, and so does this model.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kmsfs::env::SeededEntropy;
use kmsfs::store::{Made, Record, RenameMode, Replay};

use super::{Cut, Disk, Image, ROOT, draw};

/// By directory and name, what stands there.
pub(super) type Names = BTreeMap<(u64, String), u64>;

/// The filesystem after its log was replayed.
pub(super) struct Replayed {
    pub names: Names,
    commit: usize,
    /// By object that the log has: up to which record its attributes and names are in it.
    attributes: BTreeMap<u64, usize>,
    /// By file that was flushed: up to which record its size is in the log.
    sizes: HashMap<u64, usize>,
}

impl Replayed {
    /// Up to which record the size of a file survived that was made by record number `made`.
    pub fn size_of(&self, ino: u64, made: usize) -> usize {
        // Of what is only known to exist the log has no size.
        self.sizes.get(&ino).copied().unwrap_or(if made < self.commit { self.commit } else { 0 })
    }

    fn attributes_of(&self, ino: u64) -> usize {
        self.attributes.get(&ino).copied().unwrap_or(self.commit)
    }
}

struct Log<'a> {
    disk: &'a Disk,
    replayed: Replayed,
    entropy: SeededEntropy,
    /// What the flush at hand has logged already.
    seen: BTreeSet<u64>,
}

impl Disk {
    /// What there is after the replay. `seed` decides where btrfs may do this or that.
    pub(super) fn replayed(&self, cut: Cut, seed: u64) -> Replayed {
        let commit = cut.journal;
        let names = self.names[commit].clone();
        let replayed = Replayed { names, commit, attributes: BTreeMap::new(), sizes: HashMap::new() };
        let mut log = Log { disk: self, replayed, entropy: SeededEntropy::new(seed), seen: BTreeSet::new() };
        for number in commit..cut.done {
            match &self.records[number] {
                Record::Sync { ino, .. } => log.flush(*ino, number + 1),
                Record::SyncDir { dir } => log.flush(*dir, number + 1),
                _ => {}
            }
        }
        if log.replayed.names.keys().all(|(dir, _)| depth(&log.replayed.names, *dir).is_some()) {
            return log.replayed;
        }
        let names = self.names[cut.done].clone();
        Replayed { names, commit: cut.done, attributes: BTreeMap::new(), sizes: HashMap::new() }
    }

    /// Whether a cut leaves names that no prefix of all operations leaves.
    pub fn is_out_of_order(&self, cut: Cut) -> bool {
        let Some(seed) = cut.log else { return false };
        let replayed = self.replayed(cut, seed);
        !self.names[cut.journal..=cut.done].contains(&replayed.names)
    }

    /// The numbers of all objects that a cut leaves where users see them, once for each name.
    pub fn visible_after(&self, cut: Cut) -> Vec<u64> {
        let names = self.replayed(cut, cut.log.expect("a cut that leaves a log")).names;
        let hidden = |name: &str| {
            let is_side = name.starts_with("~L") && name.ends_with(".n");
            [".kmsfs", ".kmsfs.dir"].contains(&name) || name.starts_with("~T") || is_side
        };
        let mut hidden_dirs: BTreeSet<u64> = BTreeSet::new();
        let mut found = Vec::new();
        let mut sorted: Vec<_> = names.iter().collect();
        sorted.sort_by_key(|((dir, _), _)| depth(&names, *dir));
        for ((dir, name), ino) in sorted {
            if hidden_dirs.contains(dir) || hidden(name) {
                hidden_dirs.insert(*ino);
            } else {
                found.push(*ino);
            }
        }
        found.sort_unstable();
        found
    }

    /// Makes what is left of names and attributes, under the numbers that the objects had. Returns the regular files.
    pub(super) fn replay_log(&self, cut: Cut, replayed: &Replayed, replay: &mut Replay<Image>) -> Vec<u64> {
        let mut files = Vec::new();
        let mut places: BTreeMap<u64, Vec<&(u64, String)>> = BTreeMap::new();
        replayed.names.iter().for_each(|(place, ino)| places.entry(*ino).or_default().push(place));
        for record in &self.records[..cut.done] {
            let (what, mode, ino) = match record {
                Record::Make { what, mode, ino, .. } => (what.clone(), *mode, *ino),
                Record::MakeUnnamed { mode, ino, .. } => (REGULAR, *mode, *ino),
                _ => continue,
            };
            // Also of what is gone, so that the numbers are right.
            let name = aside(ino);
            if matches!(what, Made::Node { .. }) {
                files.extend(places.contains_key(&ino).then_some(ino));
            }
            let is_dir = what == Made::Directory;
            replay.apply(&Record::Make { dir: ROOT, name: name.clone(), what, mode, ino }).unwrap();
            if !places.contains_key(&ino) {
                let gone = if is_dir { Record::Rmdir { dir: ROOT, name } } else { Record::Unlink { dir: ROOT, name } };
                replay.apply(&gone).unwrap();
            }
        }
        for (ino, places) in &places {
            let name = aside(*ino);
            for (to_dir, to_name) in &places[1..] {
                let (dir, name, to_dir, to_name) = (ROOT, name.clone(), *to_dir, to_name.clone());
                replay.apply(&Record::Link { dir, name, to_dir, to_name }).unwrap();
            }
            let (to_dir, to_name) = places[0].clone();
            let mode = RenameMode::NoReplace;
            replay.apply(&Record::Rename { dir: ROOT, name, to_dir, to_name, mode }).unwrap();
        }
        for (number, record) in self.records[..cut.done].iter().enumerate() {
            let (Record::SetMode { ino, .. }
            | Record::SetOwner { ino, .. }
            | Record::SetTimes { ino, .. }
            | Record::SetXattr { ino, .. }
            | Record::RemoveXattr { ino, .. }
            | Record::SetInodeFlags { ino, .. }) = record
            else {
                continue;
            };
            if number < replayed.attributes_of(*ino) && (places.contains_key(ino) || *ino == ROOT) {
                replay.apply(record).unwrap();
            }
        }
        files
    }
}

const REGULAR: Made = Made::Node { kind: kmsfs::store::FileKind::Regular, rdev: 0 };

/// A name for an object until it gets its own.
fn aside(ino: u64) -> String {
    format!("#{ino}")
}

/// How far below the root a directory is, if it is.
fn depth(names: &Names, mut dir: u64) -> Option<usize> {
    for depth in 0..=names.len() {
        if dir == ROOT {
            return Some(depth);
        }
        dir = names.iter().find(|(_, ino)| **ino == dir)?.0.0;
    }
    None
}

impl Log<'_> {
    /// `now`: how many records were done with the flush.
    fn flush(&mut self, ino: u64, now: usize) {
        self.seen.clear();
        let logged: Vec<u64> = self.replayed.attributes.keys().copied().collect();
        self.log(ino, now);
        self.replayed.sizes.insert(ino, now);
        self.entries(ino, now).into_iter().for_each(|entry| self.log(entry, now));
        for ino in logged {
            self.log_names(ino, now);
        }
    }

    /// What stands in a directory, or stood there, and has other names now.
    fn entries(&self, dir: u64, now: usize) -> BTreeSet<u64> {
        let now = &self.disk.names[now];
        let of = |names: &Names| -> Vec<u64> {
            names.iter().filter(|((of, _), _)| *of == dir).map(|(_, ino)| *ino).collect()
        };
        let has_changed = |ino: &u64| places(now, *ino) != places(&self.replayed.names, *ino);
        of(now).into_iter().chain(of(&self.replayed.names)).filter(has_changed).collect()
    }

    fn log(&mut self, ino: u64, now: usize) {
        self.replayed.attributes.insert(ino, now);
        self.log_names(ino, now);
    }

    fn log_names(&mut self, ino: u64, now: usize) {
        if !self.seen.insert(ino) || ino == ROOT {
            return;
        }
        let disk = self.disk;
        let is_now = places(&disk.names[now], ino);
        self.replayed.names.retain(|_, other| *other != ino);
        if is_now.is_empty() {
            // Of a directory that is gone the entries went before it.
            let left: Vec<u64> =
                self.replayed.names.iter().filter(|((dir, _), _)| *dir == ino).map(|(_, child)| *child).collect();
            left.into_iter().for_each(|child| self.log(child, now));
        }
        for place in is_now {
            if let Some(other) = self.replayed.names.get(&place).copied() {
                self.log(other, now);
            }
            let above = places(&self.replayed.names, place.0);
            let is_known = place.0 == ROOT || !above.is_empty();
            let is_current = place.0 == ROOT || above == places(&disk.names[now], place.0);
            if !is_known || (!is_current && draw(&self.entropy, 2) == 0) {
                self.log(place.0, now);
            }
            self.replayed.names.insert(place, ino);
        }
    }
}

/// All names of an object.
fn places(names: &Names, ino: u64) -> Vec<(u64, String)> {
    names.iter().filter(|(_, other)| **other == ino).map(|(place, _)| place.clone()).collect()
}
