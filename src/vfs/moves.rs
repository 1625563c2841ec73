//! Which files somebody misses who walks over the backing tree.
//!
//! A walk lists directories one after the other, so a file that moves from one that is not listed yet into one that is
//! listed already is never met, and neither is one that is open without a name, which it can be given later. Whoever must
//! meet every file watches the moves, and handles the moved and the nameless files afterwards.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::inode::Inode;
use super::table::InodeTable;
use crate::store::{Backing, FileKind};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, RwLock, RwLockReadGuard, lock, read, write};

/// The watch, if there is one. Every rename and link holds it for reading from its begin to its end, so that a watch
/// that has begun misses none, and one that has ended knows them all. Lock order: before everything else.
pub(super) struct Moves<B: Backing>(RwLock<Option<Watch<B>>>);

struct Watch<B: Backing> {
    /// Each with one reference in the table. Lock order: before a table shard.
    files: Mutex<HashMap<u64, Arc<Inode<B>>>>,
    directories: AtomicBool,
}

/// A rename or link that is under way.
pub(super) struct Moving<'a, B: Backing>(RwLockReadGuard<'a, Option<Watch<B>>>);

/// What a walk may have missed while somebody watched.
pub(super) struct Moved<B: Backing> {
    /// Regular files that moved, and those without a name at the end, each with one reference in the table.
    pub(super) files: Vec<Arc<Inode<B>>>,
    /// Whether a directory moved, and everything below it.
    pub(super) directories: bool,
}

impl<B: Backing> Moves<B> {
    pub(super) fn new() -> Self {
        Self(RwLock::new(None))
    }

    /// To be held while names change.
    pub(super) fn enter(&self) -> Moving<'_, B> {
        Moving(read(&self.0))
    }

    /// Begins to watch. `false`: somebody does already.
    pub(super) fn watch(&self) -> bool {
        let mut watch = write(&self.0);
        if watch.is_some() {
            return false;
        }
        *watch = Some(Watch { files: Mutex::new(HashMap::new()), directories: AtomicBool::new(false) });
        true
    }

    /// Ends the watch.
    pub(super) fn end(&self, table: &InodeTable<B>) -> Moved<B> {
        // Held to the end: no file gets its first name after the watch and before it is looked for among the nameless.
        let mut watch = write(&self.0);
        let Some(watch) = watch.take() else { return Moved { files: Vec::new(), directories: false } };
        let mut files = std::mem::take(&mut *lock(&watch.files));
        for inode in table.unnamed() {
            files.entry(inode.number).or_insert_with(|| table.refer(inode.number, FileKind::Regular, 1));
        }
        Moved { files: files.into_values().collect(), directories: watch.directories.load(Ordering::Relaxed) }
    }
}

impl<B: Backing> Moving<'_, B> {
    /// Notes an object, which exists and gets another name.
    pub(super) fn note(&self, table: &InodeTable<B>, number: u64, kind: FileKind) {
        let Some(watch) = &*self.0 else { return };
        match kind {
            FileKind::Directory => watch.directories.store(true, Ordering::Relaxed),
            FileKind::Regular => {
                if let Entry::Vacant(vacant) = lock(&watch.files).entry(number) {
                    vacant.insert(table.refer(number, FileKind::Regular, 1));
                }
            }
            _ => {}
        }
    }
}
