//! Directories: names, listing positions and who is inside whom.

use std::collections::{BTreeMap, HashMap};

use rustix::io::Errno;

use super::super::{RawEntry, Result};
use super::inode::Inode;
use crate::sync::Arc;

/// Longest entry name in bytes.
pub(super) const NAME_MAX: usize = 255;

/// Entries that one listing call returns: small enough that tests with few entries need several calls.
const LIST_STEP: usize = 64;

/// Listing positions of `.` and `..`; entries come behind them.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

struct Entry {
    name: String,
    inode: Arc<Inode>,
}

struct Directory {
    parent: u64,
    /// By listing position. A position is never used twice, so one that was handed out stays right whatever happens
    /// to other entries.
    entries: BTreeMap<u64, Entry>,
    positions: HashMap<String, u64>,
    next_position: u64,
}

/// All directories that have a name, by inode number. One that was removed is not here, and every operation in it
/// gives `ENOENT`.
#[derive(Default)]
pub(super) struct Tree {
    directories: HashMap<u64, Directory>,
}

impl Tree {
    pub(super) fn add_directory(&mut self, ino: u64, parent: u64) {
        let directory =
            Directory { parent, entries: BTreeMap::new(), positions: HashMap::new(), next_position: DOT_DOT + 1 };
        self.directories.insert(ino, directory);
    }

    pub(super) fn remove_directory(&mut self, ino: u64) {
        self.directories.remove(&ino);
    }

    pub(super) fn set_parent(&mut self, ino: u64, parent: u64) {
        if let Some(directory) = self.directories.get_mut(&ino) {
            directory.parent = parent;
        }
    }

    pub(super) fn is_empty(&self, ino: u64) -> bool {
        self.directories.get(&ino).is_none_or(|directory| directory.entries.is_empty())
    }

    /// Whether `ino` is `ancestor` or lies in it, however deep.
    pub(super) fn is_within(&self, mut ino: u64, ancestor: u64) -> bool {
        loop {
            if ino == ancestor {
                return true;
            }
            match self.directories.get(&ino) {
                Some(directory) if directory.parent != ino => ino = directory.parent,
                _ => return false,
            }
        }
    }

    /// What a name stands for, if anything. Errors: `ENOENT` in a removed directory, `ENAMETOOLONG`, `EINVAL` for what
    /// is not an entry name at all.
    pub(super) fn lookup(&self, dir: u64, name: &str) -> Result<Option<&Arc<Inode>>> {
        if name.is_empty() {
            return Err(Errno::NOENT);
        }
        if name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(Errno::INVAL);
        }
        let directory = self.directories.get(&dir).ok_or(Errno::NOENT)?;
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        Ok(directory.positions.get(name).and_then(|at| directory.entries.get(at)).map(|entry| &entry.inode))
    }

    pub(super) fn find(&self, dir: u64, name: &str) -> Result<Arc<Inode>> {
        self.lookup(dir, name)?.cloned().ok_or(Errno::NOENT)
    }

    /// `EEXIST` if the name is taken.
    pub(super) fn require_free(&self, dir: u64, name: &str) -> Result<()> {
        if self.lookup(dir, name)?.is_some() { Err(Errno::EXIST) } else { Ok(()) }
    }

    /// Makes the name stand for the object. A replaced entry keeps its position.
    pub(super) fn insert(&mut self, dir: u64, name: &str, inode: Arc<Inode>) {
        let directory = self.directories.get_mut(&dir).expect("the caller looked the name up under the same lock");
        let position = *directory.positions.entry(name.to_owned()).or_insert_with(|| {
            directory.next_position += 1;
            directory.next_position - 1
        });
        directory.entries.insert(position, Entry { name: name.to_owned(), inode });
    }

    pub(super) fn remove(&mut self, dir: u64, name: &str) {
        let directory = self.directories.get_mut(&dir).expect("the caller looked the name up under the same lock");
        if let Some(position) = directory.positions.remove(name) {
            directory.entries.remove(&position);
        }
    }

    /// Appends the entries behind position `from`.
    pub(super) fn list(&self, dir: u64, from: u64, out: &mut Vec<RawEntry>) -> Result<()> {
        let directory = self.directories.get(&dir).ok_or(Errno::NOENT)?;
        let dots = [(DOT, ".", dir), (DOT_DOT, "..", directory.parent)];
        for (next, name, ino) in dots.into_iter().filter(|(at, ..)| *at > from) {
            let kind = Some(super::super::FileKind::Directory);
            out.push(RawEntry { name: name.into(), ino, kind, next });
        }
        for (&next, Entry { name, inode }) in directory.entries.range(from.saturating_add(1)..).take(LIST_STEP) {
            out.push(RawEntry { name: name.clone().into(), ino: inode.ino, kind: Some(inode.kind), next });
        }
        Ok(())
    }
}
