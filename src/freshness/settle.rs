//! Settling: what has changed becomes the record, once it is durable.

use rustix::io::Errno;

use super::clock::Version;
use super::error::Error;
use super::state::{DirRecord, FileRecord, Freshness};
use super::table::{DirUpdate, FileUpdate};
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, lock, write};

struct Snapshot {
    dirs: Vec<(Arc<DirRecord>, DirUpdate, u64)>,
    files: Vec<(Arc<FileRecord>, FileUpdate, u64)>,
    /// The files among them that have changed since the last one.
    changed: Vec<Arc<FileRecord>>,
    /// Whatever is sealed later is not in it.
    clock: Version,
}

impl Freshness {
    /// Settles everything that has changed: `sync` makes it durable, then the record has it and no mark of it is left,
    /// but for what is in use. Changes that are made meanwhile wait for the next time.
    ///
    /// # Errors
    /// [`Error::Sync`] or the table's. Then the marks stay; if it was `sync`, for good: nobody knows what of the changes it lost,
    /// and the next one succeeds without.
    pub fn settle(&self, sync: impl FnOnce() -> Result<(), Errno>) -> Result<(), Error> {
        let _one = lock(&self.settling);
        let Some(snapshot) = self.snapshot() else { return Ok(()) };
        if let Err(error) = sync() {
            self.doubt(&snapshot);
            return Err(Error::Sync(error));
        }
        let mut dirs = Vec::with_capacity(snapshot.dirs.len());
        let mut files = Vec::with_capacity(snapshot.files.len());
        let (mut dir_records, mut file_records) = (Vec::new(), Vec::new());
        for (record, update, upto) in snapshot.dirs {
            dirs.push(update);
            dir_records.push((record, upto));
        }
        for (record, update, upto) in snapshot.files {
            files.push(update);
            file_records.push((record, upto));
        }
        let touched = {
            let mut table = lock(&self.table);
            table.settle(&dirs, &files, snapshot.clock)?;
            self.settled.store(snapshot.clock.0, Ordering::Release);
            table.files_touched.clone()
        };
        for ((record, upto), update) in file_records.into_iter().zip(&files) {
            let mut state = lock(&record.state);
            if !touched.contains(&record.object) {
                state.written(update, upto);
            }
            let settled = state.changes == state.persisted && state.exact && !state.lenient && !state.in_doubt;
            // The lock of the state is held: who changes it from now on puts it back.
            if settled {
                lock(&self.files).changed.remove(&record.object);
            }
        }
        for (record, upto) in dir_records {
            let mut state = lock(&record.state);
            state.changed.retain(|_, changed| *changed > upto);
            if state.changed.is_empty() && !state.marked {
                lock(&self.dirs).changed.remove(&record.id);
            }
        }
        lock(&self.files).tidy();
        lock(&self.dirs).known.retain(|_, record| record.strong_count() > 0);
        Ok(())
    }

    fn doubt(&self, snapshot: &Snapshot) {
        for record in &snapshot.changed {
            lock(&record.state).doubt(snapshot.clock);
        }
        for (record, ..) in &snapshot.dirs {
            let mut state = lock(&record.state);
            (state.in_doubt, state.marked) = (true, true);
            lock(&self.table).doubt_dir(record.id);
        }
    }

    fn snapshot(&self) -> Option<Snapshot> {
        let _names = write(&self.names);
        {
            let mut table = lock(&self.table);
            table.files_touched.clear();
            table.dirs_touched.clear();
        }
        let clock = self.clock.now();
        let changed: Vec<_> = lock(&self.dirs).changed.values().cloned().collect();
        let dirs: Vec<_> = changed
            .into_iter()
            .filter(|record| !lock(&record.state).in_doubt)
            .map(|record| {
                let mut state = lock(&record.state);
                state.marked = state.lenient.is_some();
                let entries =
                    state.changed.keys().map(|entry| (entry.clone(), state.entries.get(entry).copied())).collect();
                let update = DirUpdate { dir: record.id, entries, gone: state.gone, lenient: state.lenient.is_some() };
                let upto = state.changes;
                drop(state);
                (record, update, upto)
            })
            .collect();
        let records: Vec<_> = lock(&self.files).changed.values().cloned().collect();
        let mut changed = Vec::new();
        let files: Vec<_> = records
            .into_iter()
            .filter(|record| {
                let state = lock(&record.state);
                !state.in_doubt || state.durable.is_none()
            })
            .map(|record| {
                let mut state = lock(&record.state);
                if state.announced || state.changes > state.persisted {
                    changed.push(Arc::clone(&record));
                }
                state.announced = false;
                let (update, upto) = state.update(record.object, false);
                drop(state);
                (record, update, upto)
            })
            .collect();
        (!dirs.is_empty() || !files.is_empty()).then_some(Snapshot { dirs, files, changed, clock })
    }
}
