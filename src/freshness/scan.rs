//! Reading the whole record, to find what of it is damaged; and moving a damaged one out of the way.

use std::io::{Error as IoError, ErrorKind};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, Row};

use super::error::Error;
use super::state::Freshness;
use super::table::Table;
use crate::crypto::secret::SecretKey;
use crate::sync::lock;
use crate::sys::wal_file;
use crate::types::DirId;

/// Damaged records that are kept of one volume.
const KEPT: u32 = 10_000;

impl Freshness {
    /// How much of the record is damaged: rows, and what SQLite finds wrong with the database as such. Reads all of it, beside
    /// whoever uses it.
    ///
    /// # Errors
    /// SQLite's, if it cannot be read at all.
    pub fn damage(&self) -> Result<u64, Error> {
        let path = lock(&self.table).path.clone();
        let db =
            Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        let key = SecretKey::build(|bytes: &mut [u8; 32]| bytes.copy_from_slice(self.key.expose()));
        Table::reading(db, path, key).damage()
    }
}

impl Table {
    fn damage(&self) -> Result<u64, Error> {
        let mut found = 0;
        // A page that cannot be read ends a table, and counts once.
        let mut count = |sql: &str, read: &dyn Fn(&Row<'_>) -> Result<(), Error>| {
            let each = || {
                let mut select = self.db.prepare(sql)?;
                let mut rows = select.query([])?;
                let mut damaged = 0;
                while let Some(row) = rows.next()? {
                    match read(row) {
                        Err(error) if error.is_damage() => damaged += 1,
                        other => other?,
                    }
                }
                Ok::<_, Error>(damaged)
            };
            match each() {
                Err(error) if error.is_damage() => found += 1,
                damaged => found += damaged?,
            }
            Ok::<_, Error>(())
        };
        count("SELECT number, epoch, mac FROM epochs", &|row| self.epoch(row).map(drop))?;
        count("SELECT name, kind, target, mac, dir FROM entries", &|row| {
            self.entry(DirId::from_bytes(row.get(4)?), row).map(drop)
        })?;
        count("SELECT object, file_id, ino, row, mac FROM files", &|row| self.read_file(Some(row)).map(drop))?;
        count("SELECT dir, clock, mac FROM marks", &|row| {
            let (dir, clock, mac): ([u8; 16], i64, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            self.check(b"mark", &[&dir, &clock.to_le_bytes()], &mac)
        })?;
        count("SELECT object, chunk, versions, mac FROM units", &|row| {
            let (object, chunk): (i64, i64) = (row.get(0)?, row.get(1)?);
            let (bytes, mac): (Vec<u8>, Vec<u8>) = (row.get(2)?, row.get(3)?);
            self.check(b"units", &[&object.to_le_bytes(), &chunk.to_le_bytes(), &bytes], &mac)
        })?;
        count("SELECT clock, mac FROM settled", &|row| {
            let (clock, mac): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
            self.check(b"settled", &[&clock.to_le_bytes()], &mac)
        })?;
        count("PRAGMA integrity_check(1)", &|row| match row.get::<_, String>(0)?.as_str() {
            "ok" => Ok(()),
            _ => Err(self.damaged("SQLite finds fault with it")),
        })?;
        Ok(found)
    }
}

/// Moves the record at `path` out of the way, with its journal; where it is kept. Nothing is removed.
///
/// # Errors
/// [`Error::Aside`], also if somebody uses it.
pub fn set_aside(path: &Path) -> Result<PathBuf, Error> {
    let aside = |source: IoError| Error::Aside { path: path.to_owned(), source };
    let with = |path: &Path, suffix: &str| {
        let mut path = path.as_os_str().to_owned();
        path.push(suffix);
        PathBuf::from(path)
    };
    if wal_file::is_in_use(path) {
        return Err(aside(ErrorKind::ResourceBusy.into()));
    }
    let named =
        |number: u32| with(path, &if number == 1 { ".damaged".to_owned() } else { format!(".damaged.{number}") });
    let free = |kept: &PathBuf| ["", "-wal", "-shm"].iter().all(|suffix| !with(kept, suffix).exists());
    let kept = (1..KEPT).map(named).find(free).ok_or_else(|| aside(ErrorKind::AlreadyExists.into()))?;
    // The journal first: one that was left behind would count as the next record's.
    for suffix in ["-wal", "-shm", ""] {
        match std::fs::rename(with(path, suffix), with(&kept, suffix)) {
            Err(error) if error.kind() == ErrorKind::NotFound && !suffix.is_empty() => {}
            other => other.map_err(aside)?,
        }
    }
    if let Some(parent) = path.parent() {
        std::fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(aside)?;
    }
    Ok(kept)
}
