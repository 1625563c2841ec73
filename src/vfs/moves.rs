//! Which files got another name while somebody walks over the backing tree.
//!
//! A walk lists directories one after the other, so a file that moves from one that is not listed yet into one that is
//! listed already is never met. Whoever must meet every file watches the moves and handles the moved files afterwards.

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

/// What moved while somebody watched.
pub(super) struct Moved<B: Backing> {
    /// Regular files, each with one reference in the table.
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
    pub(super) fn end(&self) -> Moved<B> {
        let watch = write(&self.0).take();
        watch.map_or_else(
            || Moved { files: Vec::new(), directories: false },
            |watch| Moved {
                files: std::mem::take(&mut *lock(&watch.files)).into_values().collect(),
                directories: watch.directories.load(Ordering::Relaxed),
            },
        )
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
