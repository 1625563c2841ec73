//! Names of a directory.

use std::collections::{HashMap, HashSet};

use super::error::Error;
use super::file::TrackedFile;
use super::state::{DirRecord, DirState, Freshness};
use super::table::{FileRow, Target};
use crate::format::Outcome;
use crate::sync::{Arc, Mutex, Weak, lock};
use crate::types::{DirId, FileId};

/// A directory with its record.
#[derive(Clone)]
pub struct TrackedDir {
    fresh: Arc<Freshness>,
    record: Arc<DirRecord>,
}

/// What was found under a name after a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FoundEntry {
    /// A regular file.
    File {
        /// Its id; `None` if it is empty.
        id: Option<FileId>,
        /// Its inode, as [`super::inode_mark`] gives it.
        ino: u64,
        /// Whether it has several names.
        shared: bool,
    },
    /// Something else.
    Other(Target),
}

/// A name that a crash left otherwise than it is recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reconciled {
    /// The entry.
    pub entry: String,
    /// Whether it was recorded, and is there.
    pub was: bool,
    /// Whether it is there.
    pub is: bool,
}

impl Freshness {
    /// The record of a directory.
    ///
    /// # Errors
    /// The table's.
    pub fn directory(self: &Arc<Self>, id: DirId) -> Result<TrackedDir, Error> {
        let fresh = Arc::clone(self);
        if let Some(record) = lock(&self.dirs).known.get(&id).and_then(Weak::upgrade) {
            return Ok(TrackedDir { fresh, record });
        }
        let (entries, mark) = {
            let table = lock(&self.table);
            let mut entries = table.entries(id)?;
            let mark = table.dir_mark(id).or_else(|error| {
                if !error.is_damage() {
                    return Err(error);
                }
                // Any of its names may have changed since, and nobody knows since when.
                tracing::error!("{error}");
                entries.by_name.values_mut().for_each(|target| *target = Target::Lost);
                entries.lossy = true;
                Ok(None)
            })?;
            (entries, mark)
        };
        let state = DirState {
            entries: entries.by_name,
            lossy: entries.lossy,
            changed: HashMap::new(),
            changes: 0,
            marked: mark.is_some(),
            lenient: mark,
            gone: false,
            in_doubt: false,
            listed: false,
        };
        let mut dirs = lock(&self.dirs);
        // Another thread may have been faster.
        let known = dirs.known.get(&id).and_then(Weak::upgrade);
        let record = known.unwrap_or_else(|| Arc::new(DirRecord { id, state: Mutex::new(state) }));
        dirs.known.insert(id, Arc::downgrade(&record));
        Ok(TrackedDir { fresh, record })
    }
}

impl TrackedDir {
    /// What stands under a name.
    pub fn expected(&self, entry: &str) -> Option<Target> {
        lock(&self.record.state).entries.get(entry).copied()
    }

    /// What is to be said of a name under which something else stands than [`Self::expected`]: that it was put there, unless the
    /// record may have lost what it had.
    pub fn misfit(&self, entry: &str) -> Outcome {
        let state = lock(&self.record.state);
        match state.entries.get(entry) {
            Some(Target::Lost) => Outcome::Unvouched,
            None if state.lossy => Outcome::Unvouched,
            _ => Outcome::Misplaced,
        }
    }

    /// Names that are recorded and not among `found`, each with what that is.
    pub fn missing(&self, found: &HashSet<String>) -> Vec<(String, Outcome)> {
        let state = lock(&self.record.state);
        let missing = state.entries.iter().filter(|(entry, _)| !found.contains(*entry));
        missing.map(|(entry, target)| (entry.clone(), target.absent())).collect()
    }

    /// Whether its listing is still to be compared with the record; `false` from the second time on.
    pub fn take_listing(&self) -> bool {
        !std::mem::replace(&mut lock(&self.record.state).listed, true)
    }

    /// To be called before a change: marks the directory.
    ///
    /// # Errors
    /// The table's; nothing may be changed then.
    pub fn before_change(&self) -> Result<(), Error> {
        let mut state = lock(&self.record.state);
        if !state.marked {
            lock(&self.fresh.table).mark_dir(self.record.id, self.fresh.settled())?;
            state.marked = true;
        }
        drop(state);
        self.will_settle();
        Ok(())
    }

    /// Notes what stands under a name now; the change has been made.
    pub fn set(&self, entry: &str, target: Option<Target>) {
        lock(&self.record.state).set(entry, target);
        self.will_settle();
    }

    /// The directory was removed.
    pub fn removed(&self) {
        let mut state = lock(&self.record.state);
        state.gone = true;
        state.entries.clear();
        drop(state);
        self.will_settle();
    }

    /// Whether a crash left it with changes that are not recorded: [`Self::reconcile`] comes first then.
    pub fn is_lenient(&self) -> bool {
        lock(&self.record.state).lenient.is_some()
    }

    /// Takes what a crash left in the directory for true, and tells what that changed. Files that nothing is known of are
    /// admitted with units that are newer than the mark only.
    ///
    /// # Errors
    /// The table's.
    pub fn reconcile(&self, found: &HashMap<String, FoundEntry>) -> Result<Vec<Reconciled>, Error> {
        let mut state = lock(&self.record.state);
        let Some(mark) = state.lenient else { return Ok(Vec::new()) };
        let mut changes = Vec::new();
        let gone: Vec<_> = state.entries.keys().filter(|entry| !found.contains_key(*entry)).cloned().collect();
        for entry in gone {
            state.set(&entry, None);
            changes.push(Reconciled { entry, was: true, is: false });
        }
        for (entry, found) in found {
            let expected = state.entries.get(entry).copied();
            let target = match *found {
                FoundEntry::Other(target) => target,
                FoundEntry::File { id, ino, shared } => {
                    let counted_on = match expected {
                        Some(Target::File(object)) => Some(object),
                        _ => None,
                    };
                    let row = FileRow { file_id: id, ino, marked: true, clock: mark, ..FileRow::EMPTY };
                    match self.fresh.file_after_crash(counted_on, shared, row) {
                        Ok(object) => Target::File(object),
                        Err(error) if error.is_damage() => Target::Lost,
                        Err(other) => return Err(other),
                    }
                }
            };
            if expected != Some(target) {
                state.set(entry, Some(target));
                changes.push(Reconciled { entry: entry.clone(), was: expected.is_some(), is: true });
            }
        }
        state.lenient = None;
        drop(state);
        self.will_settle();
        Ok(changes)
    }

    pub(super) fn certain(&self) {
        let mut state = lock(&self.record.state);
        (state.lenient, state.lossy) = (None, false);
    }

    fn will_settle(&self) {
        lock(&self.fresh.dirs).changed.entry(self.record.id).or_insert_with(|| Arc::clone(&self.record));
    }
}

impl DirState {
    fn set(&mut self, entry: &str, target: Option<Target>) {
        self.changes += 1;
        self.changed.insert(entry.to_owned(), self.changes);
        match target {
            Some(target) => self.entries.insert(entry.to_owned(), target),
            None => self.entries.remove(entry),
        };
    }
}

impl Freshness {
    /// Which file a crash left under a name; `found` is what it is if nothing is known of it, `counted_on` what the name had; `shared`: it
    /// may have other names.
    fn file_after_crash(self: &Arc<Self>, counted_on: Option<u64>, shared: bool, found: FileRow) -> Result<u64, Error> {
        let (id, ino) = (found.file_id, found.ino);
        if let Some(id) = id
            && let Some(known) = self.records_with(id, ino, counted_on)?.into_iter().next()
        {
            return Ok(known.object);
        }
        // Empty, or emptied or written anew since it was marked: its check will tell. The inode tells it from a file that took its
        // name, and gives all of its names to one file.
        let marked = lock(&self.table).file_at(ino, id.is_none())?;
        if let Some((object, _)) = marked {
            return Ok(object);
        }
        // A restored file has another inode, and its other names in directories that no crash left have their object.
        if let Some(record) = counted_on.filter(|_| shared).map(|object| self.record(object)).transpose()?.flatten()
            && lock(&record.state).row.file_id == id
        {
            return Ok(record.object);
        }
        let adopted = lock(&self.files).adopted.get(&ino).map(|other_name| other_name.object);
        if let Some(object) = adopted {
            return Ok(object);
        }
        let record = self.new_object(found);
        let mut files = lock(&self.files);
        if shared {
            files.adopted.insert(ino, Arc::clone(&record));
        }
        files.by_id.extend(id.map(|id| (id, Arc::downgrade(&record))));
        drop(files);
        let file = TrackedFile::new(Arc::clone(self), record);
        file.will_settle();
        Ok(file.object())
    }
}
