//! The record in memory.

use std::collections::HashMap;
use std::path::Path;

use super::clock::{EpochClock, Run, Version};
use super::error::Error;
use super::table::{FileRow, FileUpdate, Table, Target, Versions};
use super::trim::MANY_EPOCHS;
use crate::crypto::kdf::expand;
use crate::crypto::secret::SecretKey;
use crate::env::{Entropy, random_nonzero};
use crate::format::keys::VolumeKeys;
use crate::format::unit::Epoch;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak, lock, read, write};
use crate::types::{DirId, FileId, VolumeId};

/// The freshness record of a volume.
pub struct Freshness {
    pub(super) table: Mutex<Table>,
    pub(super) clock: EpochClock,
    pub(super) key: SecretKey<32>,
    root: DirId,
    next_object: AtomicU64,
    pub(super) files: Mutex<Files>,
    pub(super) dirs: Mutex<Dirs>,
    /// Held for reading by whatever changes names, so that what is settled of them is all of an operation or nothing.
    pub(super) names: RwLock<()>,
    /// One settling at a time.
    pub(super) settling: Mutex<()>,
    /// The clock of the last settling: what the table does not have was sealed later.
    pub(super) settled: AtomicU64,
}

/// Files that somebody uses, and those that have to be settled.
#[derive(Default)]
pub(super) struct Files {
    pub(super) known: HashMap<u64, Weak<FileRecord>>,
    /// By the id of their present life, as far as it is not the table's.
    pub(super) by_id: HashMap<FileId, Weak<FileRecord>>,
    pub(super) changed: HashMap<u64, Arc<FileRecord>>,
    /// Files with several names that a crash left and no record has, by inode number.
    pub(super) adopted: HashMap<u64, Arc<FileRecord>>,
}

/// Directories that somebody uses, and those that have to be settled.
#[derive(Default)]
pub(super) struct Dirs {
    pub(super) known: HashMap<DirId, Weak<DirRecord>>,
    pub(super) changed: HashMap<DirId, Arc<DirRecord>>,
}

/// What is known of a file.
pub(super) struct FileRecord {
    pub(super) object: u64,
    pub(super) state: Mutex<FileState>,
}

pub(super) struct FileState {
    /// What the file is, as far as it is known: exact if [`Self::exact`].
    pub(super) row: FileRow,
    /// What the table has; `None`: no row yet.
    pub(super) durable: Option<FileRow>,
    /// The table was told, since a settling began, that it may change.
    pub(super) announced: bool,
    /// Size and header in the row are those of the file: nobody has changed it since they were taken.
    pub(super) exact: bool,
    /// Marked by a mount that did not end: what is found counts, if it is not older than the row.
    pub(super) lenient: bool,
    /// Not every unit newer than the clock is in the record: the clock stays when the file is settled.
    pub(super) partial: bool,
    /// A flush failed: what was written since the table was told may be lost, although it can be read, and no further flush
    /// tells. Until the file is emptied the table keeps what it has.
    pub(super) in_doubt: bool,
    /// Rows of units in the table from this chunk on are of what was cut off, or of an earlier life.
    pub(super) kept: u64,
    /// The change that made them so.
    pub(super) cut: u64,
    /// Chunks at hand.
    pub(super) chunks: HashMap<u64, Chunk>,
    /// Who has it open or is changing it.
    pub(super) users: u32,
    /// Counts changes.
    pub(super) changes: u64,
    /// The last change that is in the table.
    pub(super) persisted: u64,
}

#[derive(Clone)]
pub(super) struct Chunk {
    pub(super) versions: Box<Versions>,
    /// The last change of it.
    pub(super) changed: u64,
}

/// What is known of a directory.
pub(super) struct DirRecord {
    pub(super) id: DirId,
    pub(super) state: Mutex<DirState>,
}

pub(super) struct DirState {
    pub(super) entries: HashMap<String, Target>,
    /// Names that the table does not have as they are, with the number of their last change.
    pub(super) changed: HashMap<String, u64>,
    pub(super) changes: u64,
    /// The table knows that it may have changed.
    pub(super) marked: bool,
    /// Marked by a mount that did not end: what is found counts. A file that is in no record was sealed later than this.
    pub(super) lenient: Option<Version>,
    /// Rows of it in the table are damaged: a name without one may have had one.
    pub(super) lossy: bool,
    /// It was removed.
    pub(super) gone: bool,
    /// A flush of everything failed while it was changed: the table keeps what it has, and the mark.
    pub(super) in_doubt: bool,
    /// Its listing was compared with the record.
    pub(super) listed: bool,
}

/// A change of names that is under way.
pub struct Changing<'a>(#[expect(dead_code, reason = "held")] RwLockReadGuard<'a, ()>);

/// No change of names is under way.
pub struct Still<'a>(#[expect(dead_code, reason = "held")] RwLockWriteGuard<'a, ()>);

pub(super) fn key_of(keys: &VolumeKeys) -> SecretKey<32> {
    expand(&keys.prk, &[b"KFS1 freshness"])
}

impl Freshness {
    /// Makes the record of a new, empty volume whose root directory has the id `root`.
    ///
    /// # Errors
    /// [`Error::Create`], also if there is one already.
    pub fn create(path: &Path, keys: &VolumeKeys, volume: VolumeId, root: DirId) -> Result<Self, Error> {
        let table = Table::create(path, key_of(keys), volume, root)?;
        Ok(Self::with(table, key_of(keys), root, EpochClock::new(HashMap::new(), 0), (0, Version::HOLE)))
    }

    /// Opens the record of a volume.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is another volume's or was changed by others.
    pub fn open(path: &Path, keys: &VolumeKeys, volume: VolumeId) -> Result<Self, Error> {
        let (mut table, root) = Table::open(path, key_of(keys), volume)?;
        // What a crash left without a name can be wanted by a directory that is not settled.
        if !table.any_dir_marked()? {
            table.remove_nameless()?;
        }
        let (mut epochs, highest) = table.epochs()?;
        table.trim_epochs(&mut epochs, MANY_EPOCHS)?;
        Self::with_table(table, keys, root, (epochs, highest))
    }

    /// Opens the record of a volume, which somebody else may be writing, to compare with it: nothing is forgotten.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_beside(path: &Path, keys: &VolumeKeys, volume: VolumeId) -> Result<Self, Error> {
        let (table, root) = Table::open(path, key_of(keys), volume)?;
        let epochs = table.epochs()?;
        Self::with_table(table, keys, root, epochs)
    }

    fn with_table(
        table: Table,
        keys: &VolumeKeys,
        root: DirId,
        (epochs, highest): (HashMap<Epoch, u32>, u32),
    ) -> Result<Self, Error> {
        let clock = EpochClock::new(epochs, highest);
        // What was sealed before is not known to be newer than anything, if it is not known when that was.
        let last = (table.highest_object()?, table.settled()?.min(clock.now()));
        Ok(Self::with(table, key_of(keys), root, clock, last))
    }

    fn with(
        table: Table,
        key: SecretKey<32>,
        root: DirId,
        clock: EpochClock,
        (highest_object, settled): (u64, Version),
    ) -> Self {
        Self {
            table: Mutex::new(table),
            clock,
            key,
            root,
            next_object: AtomicU64::new(highest_object + 1),
            files: Mutex::default(),
            dirs: Mutex::default(),
            names: RwLock::new(()),
            settling: Mutex::new(()),
            settled: AtomicU64::new(settled.0),
        }
    }

    /// The id of the volume's root directory.
    pub fn root(&self) -> DirId {
        self.root
    }

    /// Reserves `count` seals (at most 2^20) under the volume's present epoch; `now` is the time since boot.
    ///
    /// # Errors
    /// The table's, when a new epoch has to be recorded.
    pub fn reserve(&self, count: u32, entropy: &dyn Entropy, now: std::time::Duration) -> Result<Run, Error> {
        self.clock.reserve(count, now, |number| {
            let epoch = random_nonzero(entropy);
            lock(&self.table).add_epoch(number, &epoch)?;
            Ok(epoch)
        })
    }

    /// To be held while names change, from before the first change in the backing until all are noted.
    pub fn begin_change(&self) -> Changing<'_> {
        Changing(read(&self.names))
    }

    /// While this is held no name changes, and the record has all that have.
    pub fn still(&self) -> Still<'_> {
        Still(write(&self.names))
    }

    /// The digest by which the record knows a symlink.
    pub fn symlink_target(&self, text: &[u8]) -> Target {
        Target::Symlink(crate::crypto::kdf::mac16(&self.key, &[b"symlink", text]))
    }

    /// Whatever the table does not have was sealed later than this.
    pub(super) fn settled(&self) -> Version {
        Version(self.settled.load(Ordering::Acquire))
    }

    pub(super) fn new_object(&self, row: FileRow) -> Arc<FileRecord> {
        let object = self.next_object.fetch_add(1, Ordering::Relaxed);
        let record = Arc::new(FileRecord { object, state: Mutex::new(FileState::new(row, false)) });
        lock(&self.files).known.insert(object, Arc::downgrade(&record));
        record
    }

    /// The record of a file by its number.
    pub(super) fn record(&self, object: u64) -> Result<Option<Arc<FileRecord>>, Error> {
        if let Some(known) = lock(&self.files).known.get(&object).and_then(Weak::upgrade) {
            return Ok(Some(known));
        }
        let row = lock(&self.table).file(object)?;
        Ok(row.map(|row| self.enter(object, row)))
    }

    /// The records of the files whose present life has an id. Of several, which an older file gives that was put back beside its newer
    /// one, first that which was seen as the inode `ino` ([`super::inode_mark`]), then the one with the number `object`.
    pub(super) fn records_with(
        &self,
        id: FileId,
        ino: u64,
        object: Option<u64>,
    ) -> Result<Vec<Arc<FileRecord>>, Error> {
        let mut found: Vec<_> = lock(&self.files).by_id.get(&id).and_then(Weak::upgrade).into_iter().collect();
        let stored = match lock(&self.table).files_with(id) {
            Err(error) if error.is_damage() && !found.is_empty() => Vec::new(),
            stored => stored?,
        };
        for (object, row) in stored {
            if found.iter().all(|record| record.object != object) {
                found.push(self.enter(object, row));
            }
        }
        // It may have begun another life since that was written.
        found.retain(|record| lock(&record.state).row.file_id == Some(id));
        let fits = |record: &Arc<FileRecord>| (lock(&record.state).row.ino == ino, Some(record.object) == object);
        found.sort_by_cached_key(|record| std::cmp::Reverse(fits(record)));
        Ok(found)
    }

    fn enter(&self, object: u64, row: FileRow) -> Arc<FileRecord> {
        let mut files = lock(&self.files);
        if let Some(known) = files.known.get(&object).and_then(Weak::upgrade) {
            return known;
        }
        let record = Arc::new(FileRecord { object, state: Mutex::new(FileState::new(row, true)) });
        files.known.insert(object, Arc::downgrade(&record));
        record
    }
}

impl FileState {
    pub(super) fn new(row: FileRow, stored: bool) -> Self {
        Self {
            announced: false,
            exact: !row.marked,
            lenient: row.marked,
            partial: row.clock != Version::NEVER,
            in_doubt: false,
            durable: stored.then(|| row.clone()),
            row,
            kept: u64::MAX,
            cut: 0,
            chunks: HashMap::new(),
            users: 0,
            changes: 0,
            persisted: 0,
        }
    }

    pub(super) fn change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    /// Notes that a flush failed; `now` is not older than any unit of the file.
    pub(super) fn doubt(&mut self, now: Version) {
        self.in_doubt = true;
        if self.row.clock == Version::NEVER {
            self.row.clock = now;
        }
    }

    /// What the table has, or, as the file needs a row beside its name, is to have, of a file that is in doubt.
    pub(super) fn kept_row(&self) -> FileRow {
        let FileRow { ino, clock, .. } = self.row;
        self.durable.clone().unwrap_or(FileRow { ino, clock, marked: true, ..FileRow::EMPTY })
    }

    /// What the table is to have, and the last change in it: only lower bounds of a file that is being changed, or that may be by
    /// the time the table has it (`changing`).
    pub(super) fn update(&self, object: u64, changing: bool) -> (FileUpdate, u64) {
        if self.in_doubt {
            let kept = FileUpdate { object, row: self.kept_row(), kept: u64::MAX, chunks: Vec::new() };
            return (kept, self.persisted);
        }
        let marked = changing || !self.exact || self.lenient;
        let mut row = FileRow { marked, ..self.row.clone() };
        if !marked && !self.partial {
            row.clock = Version::NEVER;
            row.zero_from = u64::MAX;
        }
        let changed = self.chunks.iter().filter(|(_, chunk)| chunk.changed > self.persisted);
        let chunks = changed.map(|(number, chunk)| (*number, *chunk.versions)).collect();
        (FileUpdate { object, row, kept: self.kept, chunks }, self.changes)
    }

    /// Notes that the table has `update`, which was taken at the change `upto`.
    pub(super) fn written(&mut self, update: &FileUpdate, upto: u64) {
        self.durable = Some(update.row.clone());
        self.persisted = self.persisted.max(upto);
        if self.cut <= upto {
            self.kept = u64::MAX;
        }
        if self.changes == upto && !update.row.marked {
            self.row = update.row.clone();
        }
    }
}

impl Files {
    /// Forgets what nobody uses.
    pub(super) fn tidy(&mut self) {
        self.known.retain(|_, record| record.strong_count() > 0);
        self.by_id.retain(|_, record| record.strong_count() > 0);
    }
}
