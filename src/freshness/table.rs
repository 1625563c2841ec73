//! The record on disk: a SQLite database in which every transaction is durable and every row carries a MAC under a key of
//! the volume. Names in it are those of the ciphertext directory, which are encrypted.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};

use super::clock::Version;
use super::error::Error;
use crate::crypto::kdf::{ct_eq, mac16};
use crate::crypto::secret::SecretKey;
use crate::format::unit::Epoch;
use crate::sys::dirs::flush_names_to;
use crate::sys::wal_file;
use crate::types::{DirId, FileId, VolumeId};

/// Units whose versions stand in one row.
pub const UNITS_PER_CHUNK: u64 = 64;
/// More than there can be epochs: one a minute for four thousand years. A number above it is damaged.
const EPOCHS_EVER: u32 = 1 << 31;
/// Layout of the database.
const LAYOUT: u32 = 1;

const SCHEMA: &str = "
CREATE TABLE volume(one INTEGER PRIMARY KEY CHECK (one = 1), id BLOB NOT NULL, root BLOB NOT NULL, mac BLOB NOT NULL) STRICT;
CREATE TABLE settled(one INTEGER PRIMARY KEY CHECK (one = 1), clock INTEGER NOT NULL, mac BLOB NOT NULL) STRICT;
CREATE TABLE epochs(number INTEGER PRIMARY KEY, epoch BLOB NOT NULL, mac BLOB NOT NULL) STRICT;
CREATE TABLE entries(dir BLOB NOT NULL, name TEXT NOT NULL, kind INTEGER NOT NULL, target BLOB NOT NULL,
                     mac BLOB NOT NULL, PRIMARY KEY (dir, name)) STRICT, WITHOUT ROWID;
CREATE INDEX entries_target ON entries(target) WHERE kind = 1;
CREATE TABLE marks(dir BLOB PRIMARY KEY, clock INTEGER NOT NULL, mac BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE files(object INTEGER PRIMARY KEY, file_id BLOB, ino INTEGER NOT NULL, row BLOB NOT NULL,
                   mac BLOB NOT NULL) STRICT;
CREATE INDEX files_id ON files(file_id);
CREATE INDEX files_ino ON files(ino);
CREATE TABLE units(object INTEGER NOT NULL, chunk INTEGER NOT NULL, versions BLOB NOT NULL, mac BLOB NOT NULL,
                   PRIMARY KEY (object, chunk)) STRICT, WITHOUT ROWID;
";

/// What stands under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// A regular file, by the number that the record gives it: its id changes when it is emptied.
    File(u64),
    /// A directory.
    Dir(DirId),
    /// A symlink, by a digest of what is stored for it.
    Symlink([u8; 16]),
    /// A fifo, socket or device: nothing but its type.
    Other(u8),
    /// Something: what was recorded of it is damaged.
    Lost,
}

/// Versions of the units of one row.
pub(super) type Versions = [Version; UNITS_PER_CHUNK as usize];

/// What is recorded of a file beside its units.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FileRow {
    /// Its id; `None` while it is empty.
    pub(super) file_id: Option<FileId>,
    /// Its inode as it was seen last ([`super::inode_mark`]); 0: never. The names that a crash left of one file are found by it.
    pub(super) ino: u64,
    /// Plaintext size.
    pub(super) size: u64,
    /// Digest of the whole header; zero while the file is empty.
    pub(super) header: [u8; 16],
    /// Lower bound of its record's sequence number (FORMAT 5.2).
    pub(super) seq: u64,
    /// It may have changed since: size and header are not exact.
    pub(super) marked: bool,
    /// A unit that is not the recorded version may be newer than it, if it is newer than this, too.
    pub(super) clock: Version,
    /// No unit of the present life is later than this.
    pub(super) last: Version,
    /// Units from here on may be holes, whatever is recorded.
    pub(super) zero_from: u64,
}

impl FileRow {
    const LEN: usize = 8 + 16 + 8 + 1 + 8 + 8 + 8;

    /// Of an empty file, exact.
    pub(super) const EMPTY: Self = Self {
        file_id: None,
        ino: 0,
        size: 0,
        header: [0; 16],
        seq: 0,
        marked: false,
        clock: Version::NEVER,
        last: Version::HOLE,
        zero_from: u64::MAX,
    };

    /// Whether a unit that is not the `recorded` version may be a newer one.
    pub(super) fn admits(&self, unit: u64, version: Version, recorded: Version) -> bool {
        match version {
            Version::HOLE => unit >= self.zero_from,
            version => version > self.clock && version > recorded,
        }
    }

    fn encode(&self) -> [u8; Self::LEN] {
        let parts: [&[u8]; 7] = [
            &self.size.to_le_bytes(),
            &self.header,
            &self.seq.to_le_bytes(),
            &[u8::from(self.marked)],
            &self.clock.0.to_le_bytes(),
            &self.last.0.to_le_bytes(),
            &self.zero_from.to_le_bytes(),
        ];
        let mut row = [0; Self::LEN];
        row.copy_from_slice(&parts.concat());
        row
    }

    fn decode(file_id: Option<FileId>, ino: u64, row: &[u8]) -> Option<Self> {
        let row: &[u8; Self::LEN] = row.try_into().ok()?;
        let number = |at: usize| u64::from_le_bytes(row[at..at + 8].try_into().expect("8 bytes"));
        Some(Self {
            file_id,
            ino,
            size: number(0),
            header: row[8..24].try_into().expect("16 bytes"),
            seq: number(24),
            marked: row[32] != 0,
            clock: Version(number(33)),
            last: Version(number(41)),
            zero_from: number(49),
        })
    }
}

/// What a file becomes in the record.
pub(super) struct FileUpdate {
    pub(super) object: u64,
    pub(super) row: FileRow,
    /// Rows of units from this chunk on that are there already are void.
    pub(super) kept: u64,
    pub(super) chunks: Vec<(u64, Versions)>,
}

/// What a directory becomes in the record.
pub(super) struct DirUpdate {
    pub(super) dir: DirId,
    pub(super) entries: Vec<(String, Option<Target>)>,
    /// It was removed.
    pub(super) gone: bool,
    /// A crash left more in it than these, and nobody has looked: its mark stays.
    pub(super) lenient: bool,
}

/// What is recorded of the names of a directory.
#[derive(Default)]
pub(super) struct Entries {
    pub(super) by_name: HashMap<String, Target>,
    /// A row is damaged, so a name without one may have lost it.
    pub(super) lossy: bool,
}

/// The database.
pub(super) struct Table {
    pub(super) db: Connection,
    pub(super) path: PathBuf,
    key: SecretKey<32>,
    /// The number of an epoch is lost with its row.
    epochs_lost: Cell<bool>,
    /// Files that were marked or updated since a settling began: what it saw of them is old.
    pub(super) files_touched: HashSet<u64>,
    /// The same of directories.
    pub(super) dirs_touched: HashSet<DirId>,
    /// Directories that the last mount left marked and that were not settled since, or that are in doubt: a file may have a
    /// name there that nobody knows of yet.
    unvisited: HashSet<DirId>,
}

fn int(value: u64) -> i64 {
    value as i64
}

impl Table {
    /// Makes the database of a volume whose root directory has the id `root`.
    pub(super) fn create(path: &Path, key: SecretKey<32>, volume: VolumeId, root: DirId) -> Result<Self, Error> {
        let create = |source| Error::Create { path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(create)?;
        }
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(create)?;
        let table = Self::connect(path, key)?;
        table.db.execute_batch(&format!("BEGIN; {SCHEMA} PRAGMA user_version = {LAYOUT}; COMMIT;"))?;
        table.db.execute(
            "INSERT INTO volume VALUES (1, ?1, ?2, ?3)",
            params![volume.as_bytes(), root.as_bytes(), table.mac(b"volume", &[volume.as_bytes(), root.as_bytes()])],
        )?;
        // A commit in the journal does not make the file's own name durable, nor that of its directory, which may be as new.
        flush_names_to(path).map_err(create)?;
        Ok(table)
    }

    /// Opens the database of a volume; the id of its root directory.
    pub(super) fn open(path: &Path, key: SecretKey<32>, volume: VolumeId) -> Result<(Self, DirId), Error> {
        let mut table = Self::connect(path, key)?;
        let layout: u32 = table.db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if layout != LAYOUT {
            return Err(table.damaged("its layout is not one that this kmsfs knows"));
        }
        let row = table.db.query_row("SELECT id, root, mac FROM volume", [], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, [u8; 16]>(1)?, row.get::<_, Vec<u8>>(2)?))
        });
        let (id, root, mac) = row.optional()?.ok_or_else(|| table.damaged("it names no volume"))?;
        table.check(b"volume", &[&id, &root], &mac)?;
        if id != volume.as_bytes() {
            return Err(table.damaged("it is another volume's"));
        }
        table.unvisited = table.marked_dirs()?;
        Ok((table, DirId::from_bytes(root)))
    }

    fn marked_dirs(&self) -> Result<HashSet<DirId>, Error> {
        let mut select = self.db.prepare("SELECT dir FROM marks")?;
        let dirs = select.query_map([], |row| row.get::<_, [u8; 16]>(0))?;
        Ok(dirs.map(|dir| dir.map(DirId::from_bytes)).collect::<Result<_, _>>()?)
    }

    fn connect(path: &Path, key: SecretKey<32>) -> Result<Self, Error> {
        let is_in_use = wal_file::is_in_use(path);
        let db = Connection::open(path)?;
        db.busy_timeout(std::time::Duration::from_secs(10))?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.pragma_update(None, "trusted_schema", "OFF")?;
        if !is_in_use {
            wal_file::keep(&db, path)?;
        }
        db.set_prepared_statement_cache_capacity(32);
        Ok(Self::reading(db, path.to_owned(), key))
    }

    /// On a database that somebody has opened, and that is not changed through it.
    pub(super) fn reading(db: Connection, path: PathBuf, key: SecretKey<32>) -> Self {
        Self {
            db,
            path,
            key,
            epochs_lost: Cell::new(false),
            files_touched: HashSet::new(),
            dirs_touched: HashSet::new(),
            unvisited: HashSet::new(),
        }
    }

    pub(super) fn damaged(&self, what: &'static str) -> Error {
        Error::Damaged { path: self.path.clone(), what }
    }

    /// The MAC of a row: its parts, each with its length.
    fn mac(&self, table: &[u8], parts: &[&[u8]]) -> [u8; 16] {
        let mut message = Vec::with_capacity(1024);
        for part in std::iter::once(&table).chain(parts) {
            message.extend_from_slice(&(part.len() as u64).to_le_bytes());
            message.extend_from_slice(part);
        }
        mac16(&self.key, &[&message])
    }

    pub(super) fn check(&self, table: &[u8], parts: &[&[u8]], mac: &[u8]) -> Result<(), Error> {
        if ct_eq(mac, &self.mac(table, parts)) { Ok(()) } else { Err(self.damaged("a row has a wrong MAC")) }
    }

    /// All epochs with their numbers, but for those whose rows are damaged; and the highest number that any may have had.
    pub(super) fn epochs(&self) -> Result<(HashMap<Epoch, u32>, u32), Error> {
        let mut statement = self.db.prepare("SELECT number, epoch, mac FROM epochs")?;
        let mut rows = statement.query([])?;
        let (mut epochs, mut highest) = (HashMap::new(), 0);
        while let Some(row) = rows.next()? {
            match self.epoch(row) {
                Ok((number, epoch)) => {
                    highest = highest.max(number);
                    epochs.insert(epoch, number);
                }
                Err(error) if error.is_damage() => {
                    tracing::error!("{error}");
                    self.epochs_lost.set(true);
                    highest = highest.max(possible(row.get(0).unwrap_or(0)));
                }
                Err(other) => return Err(other),
            }
        }
        if self.epochs_lost.get() {
            // A number is never given twice, whatever the damage made of one.
            let mut seen = |version: Version| highest = highest.max(possible(version.epoch()));
            self.each_file(|file| {
                seen(file.clock);
                seen(file.last);
            })?;
            self.settled().map(seen)?;
        }
        Ok((epochs, highest))
    }

    pub(super) fn epoch(&self, row: &rusqlite::Row<'_>) -> Result<(u32, Epoch), Error> {
        let (number, epoch, mac): (u32, Epoch, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        self.check(b"epoch", &[&number.to_le_bytes(), &epoch], &mac)?;
        Ok((number, epoch))
    }

    /// Whether an epoch that is not known may have lost its row by damage.
    pub(super) fn epochs_lost(&self) -> bool {
        self.epochs_lost.get()
    }

    /// Records an epoch.
    pub(super) fn add_epoch(&self, number: u32, epoch: &Epoch) -> Result<(), Error> {
        let mac = self.mac(b"epoch", &[&number.to_le_bytes(), epoch]);
        let mut insert = self.db.prepare_cached("INSERT INTO epochs(number, epoch, mac) VALUES (?1, ?2, ?3)")?;
        insert.execute(params![number, epoch, mac])?;
        Ok(())
    }

    /// How many epochs there were when some were forgotten last; 0 if that was never.
    pub(super) fn epochs_left(&self) -> Result<usize, Error> {
        self.db.execute_batch("CREATE TABLE IF NOT EXISTS trimmed(one INTEGER PRIMARY KEY CHECK (one = 1), epochs_left INTEGER NOT NULL) STRICT")?;
        let left: i64 = self.db.query_row("SELECT coalesce(max(epochs_left), 0) FROM trimmed", [], |row| row.get(0))?;
        Ok(left as usize)
    }

    /// Forgets epochs; `left` stay.
    pub(super) fn remove_epochs(&mut self, mut numbers: impl Iterator<Item = u32>, left: usize) -> Result<(), Error> {
        self.within(|table| {
            let mut delete = table.db.prepare("DELETE FROM epochs WHERE number = ?1")?;
            numbers.try_for_each(|number| delete.execute(params![number]).map(drop))?;
            table.db.execute(
                "INSERT OR REPLACE INTO trimmed(one, epochs_left) VALUES (1, ?1)",
                params![int(left as u64)],
            )?;
            Ok(())
        })
    }

    /// Hands each recorded version of a unit to `take`.
    pub(super) fn each_version(&self, mut take: impl FnMut(Version)) -> Result<(), Error> {
        let mut select = self.db.prepare("SELECT versions FROM units")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            decode_versions(row.get_ref(0)?.as_blob().unwrap_or_default()).for_each(&mut take);
        }
        Ok(())
    }

    /// Hands each file to `take`, but for those whose rows are damaged: nothing of them is accepted, whatever their units.
    fn each_file(&self, mut take: impl FnMut(&FileRow)) -> Result<(), Error> {
        let mut select = self.db.prepare("SELECT object, file_id, ino, row, mac FROM files")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            match self.read_file(Some(row)) {
                Ok(file) => file.iter().for_each(|(_, file)| take(file)),
                Err(error) if error.is_damage() => tracing::error!("{error}"),
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Hands the clock of each file and directory to `take`: units newer than it may not be recorded.
    pub(super) fn each_clock(&self, mut take: impl FnMut(Version)) -> Result<(), Error> {
        self.each_file(|file| take(file.clock))?;
        let mut select = self.db.prepare("SELECT clock FROM marks")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            take(Version(row.get::<_, i64>(0)? as u64));
        }
        Ok(())
    }

    /// What is recorded under the names of a directory.
    pub(super) fn entries(&self, dir: DirId) -> Result<Entries, Error> {
        let mut select = self.db.prepare_cached("SELECT name, kind, target, mac FROM entries WHERE dir = ?1")?;
        let mut rows = select.query(params![dir.as_bytes()])?;
        let mut entries = Entries::default();
        while let Some(row) = rows.next()? {
            let name = row.get_ref(0)?.as_bytes().ok().and_then(|name| std::str::from_utf8(name).ok());
            let target = match self.entry(dir, row) {
                Ok(target) => target,
                Err(error) if error.is_damage() => {
                    tracing::error!("{error}");
                    entries.lossy = true;
                    Target::Lost
                }
                Err(other) => return Err(other),
            };
            entries.by_name.extend(name.map(|name| (name.to_owned(), target)));
        }
        Ok(entries)
    }

    pub(super) fn entry(&self, dir: DirId, row: &rusqlite::Row<'_>) -> Result<Target, Error> {
        let (name, kind): (String, u8) = (row.get(0)?, row.get(1)?);
        let (target, mac): (Vec<u8>, Vec<u8>) = (row.get(2)?, row.get(3)?);
        self.check(b"entry", &[dir.as_bytes(), name.as_bytes(), &[kind], &target], &mac)?;
        decode_target(kind, &target).ok_or_else(|| self.damaged("an entry of no known kind"))
    }

    /// The clock of a directory's mark, if it has one: a file that has no row was sealed later.
    pub(super) fn dir_mark(&self, dir: DirId) -> Result<Option<Version>, Error> {
        let mut select = self.db.prepare_cached("SELECT clock, mac FROM marks WHERE dir = ?1")?;
        let row =
            select.query_row(params![dir.as_bytes()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)));
        let Some((clock, mac)) = row.optional()? else { return Ok(None) };
        self.check(b"mark", &[dir.as_bytes(), &clock.to_le_bytes()], &mac)?;
        Ok(Some(Version(clock as u64)))
    }

    /// Whatever is in no row was sealed later than this; never, if the row that says when is damaged.
    pub(super) fn settled(&self) -> Result<Version, Error> {
        self.read_settled().or_else(|error| {
            if !error.is_damage() {
                return Err(error);
            }
            tracing::error!("{error}");
            Ok(Version::NEVER)
        })
    }

    fn read_settled(&self) -> Result<Version, Error> {
        let row = self.db.query_row("SELECT clock, mac FROM settled", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
        });
        let Some((clock, mac)) = row.optional()? else { return Ok(Version::HOLE) };
        self.check(b"settled", &[&clock.to_le_bytes()], &mac)?;
        Ok(Version(clock as u64))
    }

    fn set_settled(&self, clock: Version) -> Result<(), Error> {
        let mac = self.mac(b"settled", &[&int(clock.0).to_le_bytes()]);
        let mut insert =
            self.db.prepare_cached("INSERT OR REPLACE INTO settled(one, clock, mac) VALUES (1, ?1, ?2)")?;
        insert.execute(params![int(clock.0), mac])?;
        Ok(())
    }

    /// Whether any directory is marked.
    pub(super) fn any_dir_marked(&self) -> Result<bool, Error> {
        Ok(self.db.query_row("SELECT EXISTS (SELECT 1 FROM marks)", [], |row| row.get(0))?)
    }

    /// Marks a directory; an earlier mark stays.
    pub(super) fn mark_dir(&mut self, dir: DirId, clock: Version) -> Result<(), Error> {
        let mac = self.mac(b"mark", &[dir.as_bytes(), &int(clock.0).to_le_bytes()]);
        let mut insert = self.db.prepare_cached("INSERT OR IGNORE INTO marks(dir, clock, mac) VALUES (?1, ?2, ?3)")?;
        insert.execute(params![dir.as_bytes(), int(clock.0), mac])?;
        self.dirs_touched.insert(dir);
        Ok(())
    }

    /// Whether a file may have a name that nobody knows of yet.
    pub(super) fn has_unvisited(&self) -> bool {
        !self.unvisited.is_empty()
    }

    /// Notes that a directory is not settled any more: a file that has a name there keeps its row, whatever others it loses.
    pub(super) fn doubt_dir(&mut self, dir: DirId) {
        self.unvisited.insert(dir);
    }

    /// What is recorded of a file.
    pub(super) fn file(&self, object: u64) -> Result<Option<FileRow>, Error> {
        let mut select =
            self.db.prepare_cached("SELECT object, file_id, ino, row, mac FROM files WHERE object = ?1")?;
        let found = self.read_file(select.query(params![int(object)])?.next()?)?;
        Ok(found.map(|(_, row)| row))
    }

    /// Whether a file has a row, damaged or not.
    fn has_file(&self, object: u64) -> Result<bool, Error> {
        Ok(self.db.prepare_cached("SELECT 1 FROM files WHERE object = ?1")?.exists(params![int(object)])?)
    }

    /// The file that was seen as this inode last, if it may be another life by now, or, asked for an empty one, is.
    pub(super) fn file_at(&self, ino: u64, empty: bool) -> Result<Option<(u64, FileRow)>, Error> {
        let mut select = self.db.prepare_cached("SELECT object, file_id, ino, row, mac FROM files WHERE ino = ?1")?;
        let mut rows = select.query(params![int(ino)])?;
        while let Some(row) = rows.next()? {
            if let Some(found) =
                self.read_file(Some(row))?.filter(|(_, row)| row.marked || empty && row.file_id.is_none())
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    pub(super) fn read_file(&self, row: Option<&rusqlite::Row<'_>>) -> Result<Option<(u64, FileRow)>, Error> {
        let Some(row) = row else { return Ok(None) };
        let (object, id, ino): (i64, Option<[u8; 16]>, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (bytes, mac): (Vec<u8>, Vec<u8>) = (row.get(3)?, row.get(4)?);
        let file_id = id.map(FileId::from_bytes);
        self.check(b"file", &[&object.to_le_bytes(), id_bytes(&file_id), &ino.to_le_bytes(), &bytes], &mac)?;
        let row = FileRow::decode(file_id, ino as u64, &bytes)
            .ok_or_else(|| self.damaged("a file's row has a wrong length"))?;
        Ok(Some((object as u64, row)))
    }

    /// Versions of the units of one chunk; all holes if nothing is recorded, all lost if what is recorded is damaged.
    pub(super) fn units(&self, object: u64, chunk: u64) -> Result<Versions, Error> {
        self.read_units(object, chunk).or_else(|error| {
            if !error.is_damage() {
                return Err(error);
            }
            tracing::error!("{error}");
            Ok([Version::LOST; UNITS_PER_CHUNK as usize])
        })
    }

    fn read_units(&self, object: u64, chunk: u64) -> Result<Versions, Error> {
        let mut select = self.db.prepare_cached("SELECT versions, mac FROM units WHERE object = ?1 AND chunk = ?2")?;
        let row = select.query_row(params![int(object), int(chunk)], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?))
        });
        let mut versions = [Version::HOLE; UNITS_PER_CHUNK as usize];
        let Some((bytes, mac)) = row.optional()? else { return Ok(versions) };
        self.check(b"units", &[&object.to_le_bytes(), &chunk.to_le_bytes(), &bytes], &mac)?;
        versions.iter_mut().zip(decode_versions(&bytes)).for_each(|(version, found)| *version = found);
        Ok(versions)
    }

    /// The highest number that a file has.
    pub(super) fn highest_object(&self) -> Result<u64, Error> {
        Ok(self.db.query_row("SELECT coalesce(max(object), 0) FROM files", [], |row| row.get::<_, i64>(0))? as u64)
    }

    /// Removes files without a name: those that were removed while they were open.
    pub(super) fn remove_nameless(&self) -> Result<(), Error> {
        const NAMELESS: &str = "NOT EXISTS (SELECT 1 FROM entries WHERE kind = 1 AND target = \
                                CAST(unhex(printf('%016x', files.object)) AS BLOB))";
        self.db.execute_batch(&format!(
            "BEGIN; DELETE FROM units WHERE object IN (SELECT object FROM files WHERE {NAMELESS}); \
             DELETE FROM files WHERE {NAMELESS}; COMMIT;"
        ))?;
        Ok(())
    }

    /// Writes one file, durably.
    pub(super) fn put_file(&mut self, update: &FileUpdate) -> Result<(), Error> {
        self.within(|table| table.write_file(update))?;
        self.files_touched.insert(update.object);
        Ok(())
    }

    /// Writes what was settled, durably, but for what has changed since `clock`.
    pub(super) fn settle(&mut self, dirs: &[DirUpdate], files: &[FileUpdate], clock: Version) -> Result<(), Error> {
        let mut unvisited = self.unvisited.clone();
        unvisited.retain(|id| dirs.iter().all(|update| update.dir != *id || update.lenient));
        self.within(|table| {
            for file in files {
                if !table.files_touched.contains(&file.object) {
                    table.write_file(file)?;
                } else if !table.has_file(file.object)? {
                    // Its name is recorded with it, so it needs a row: one that allows for what has changed.
                    let clock = file.row.clock.min(clock);
                    let row = FileRow { marked: true, clock, zero_from: 0, ..file.row.clone() };
                    let chunks = file.chunks.clone();
                    table.write_file(&FileUpdate { object: file.object, row, kept: file.kept, chunks })?;
                }
            }
            let mut removed = Vec::new();
            for dir in dirs {
                table.write_dir(dir, &mut removed)?;
            }
            // Else the next mount without marks does it.
            if unvisited.is_empty() {
                removed.into_iter().try_for_each(|object| table.remove_unless_named(object))?;
            }
            table.set_settled(clock)
        })?;
        self.unvisited = unvisited;
        Ok(())
    }

    fn within(&mut self, work: impl FnOnce(&Self) -> Result<(), Error>) -> Result<(), Error> {
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        let done = work(self).and_then(|()| Ok(self.db.execute_batch("COMMIT")?));
        if done.is_err() {
            // The first error is the one to report.
            let _ = self.db.execute_batch("ROLLBACK");
        }
        done
    }

    fn write_file(&self, update: &FileUpdate) -> Result<(), Error> {
        let FileUpdate { object, row, kept, chunks } = update;
        let bytes = row.encode();
        let mac = self.mac(b"file", &[&object.to_le_bytes(), id_bytes(&row.file_id), &row.ino.to_le_bytes(), &bytes]);
        self.db
            .prepare_cached("INSERT OR REPLACE INTO files(object, file_id, ino, row, mac) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![int(*object), row.file_id.as_ref().map(FileId::as_bytes), int(row.ino), bytes, mac])?;
        if *kept != u64::MAX {
            self.remove_units(*object, *kept)?;
        }
        let mut insert = self
            .db
            .prepare_cached("INSERT OR REPLACE INTO units(object, chunk, versions, mac) VALUES (?1, ?2, ?3, ?4)")?;
        for (chunk, versions) in chunks {
            let used = versions.iter().rposition(|version| *version != Version::HOLE).map_or(0, |last| last + 1);
            let bytes: Vec<u8> = versions[..used].iter().flat_map(|version| version.0.to_le_bytes()).collect();
            let mac = self.mac(b"units", &[&object.to_le_bytes(), &chunk.to_le_bytes(), &bytes]);
            insert.execute(params![int(*object), int(*chunk), bytes, mac])?;
        }
        Ok(())
    }

    fn remove_units(&self, object: u64, from: u64) -> Result<(), Error> {
        let mut delete = self.db.prepare_cached("DELETE FROM units WHERE object = ?1 AND chunk >= ?2")?;
        delete.execute(params![int(object), int(from)])?;
        Ok(())
    }

    fn write_dir(&self, update: &DirUpdate, removed: &mut Vec<u64>) -> Result<(), Error> {
        let DirUpdate { dir, entries, gone, lenient } = update;
        let mut delete =
            self.db.prepare_cached("DELETE FROM entries WHERE dir = ?1 AND name = ?2 RETURNING kind, target")?;
        let mut insert =
            self.db.prepare_cached("INSERT INTO entries(dir, name, kind, target, mac) VALUES (?1, ?2, ?3, ?4, ?5)")?;
        for (name, target) in entries {
            let mut old = delete.query(params![dir.as_bytes(), name])?;
            // What a damaged row had loses its own with the next mount, as anything without a name.
            if let Some(row) = old.next()?
                && let (Ok(kind), Ok(target)) = (row.get(0), row.get::<_, Vec<u8>>(1))
                && let Some(Target::File(object)) = decode_target(kind, &target)
            {
                removed.push(object);
            }
            drop(old);
            let Some(target) = target else { continue };
            let (kind, bytes) = encode_target(target);
            let mac = self.mac(b"entry", &[dir.as_bytes(), name.as_bytes(), &[kind], &bytes]);
            insert.execute(params![dir.as_bytes(), name, kind, bytes, mac])?;
        }
        if *gone {
            self.db.prepare_cached("DELETE FROM entries WHERE dir = ?1")?.execute(params![dir.as_bytes()])?;
        }
        if *gone || !lenient && !self.dirs_touched.contains(dir) {
            self.db.prepare_cached("DELETE FROM marks WHERE dir = ?1")?.execute(params![dir.as_bytes()])?;
        }
        Ok(())
    }

    fn remove_unless_named(&self, object: u64) -> Result<(), Error> {
        let (_, target) = encode_target(&Target::File(object));
        let mut select = self.db.prepare_cached("SELECT 1 FROM entries WHERE kind = 1 AND target = ?1")?;
        if select.exists(params![target])? {
            return Ok(());
        }
        self.db.prepare_cached("DELETE FROM files WHERE object = ?1")?.execute(params![int(object)])?;
        self.remove_units(object, 0)
    }
}

fn id_bytes(id: &Option<FileId>) -> &[u8] {
    id.as_ref().map_or(&[], |id| id.as_bytes())
}

/// The number of an epoch, unless damage made it of one.
fn possible(number: u32) -> u32 {
    if number < EPOCHS_EVER { number } else { 0 }
}

fn decode_versions(bytes: &[u8]) -> impl Iterator<Item = Version> {
    bytes.chunks_exact(8).map(|bytes| Version(u64::from_le_bytes(bytes.try_into().expect("8 bytes"))))
}

fn encode_target(target: &Target) -> (u8, Vec<u8>) {
    match target {
        Target::File(object) => (1, object.to_be_bytes().to_vec()),
        Target::Dir(id) => (2, id.as_bytes().to_vec()),
        Target::Symlink(digest) => (3, digest.to_vec()),
        Target::Other(kind) => (4, vec![*kind]),
        Target::Lost => (5, Vec::new()),
    }
}

fn decode_target(kind: u8, bytes: &[u8]) -> Option<Target> {
    Some(match kind {
        1 => Target::File(u64::from_be_bytes(bytes.try_into().ok()?)),
        2 => Target::Dir(DirId::from_bytes(bytes.try_into().ok()?)),
        3 => Target::Symlink(bytes.try_into().ok()?),
        4 => Target::Other(*bytes.first()?),
        5 => Target::Lost,
        _ => return None,
    })
}
