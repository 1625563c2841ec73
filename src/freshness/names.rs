//! Where the record has a file: the names of it, and the way to a directory.

use std::collections::HashMap;

use rusqlite::params;

use super::error::Error;
use super::state::Freshness;
use super::table::{FileRow, Table, Target};
use crate::sync::lock;
use crate::types::{DirId, FileId};

/// A directory, and the name of an entry in it.
pub type Place = (DirId, String);

impl Freshness {
    /// The names that the settled record has of a file, each with its directory.
    ///
    /// # Errors
    /// The table's.
    pub fn names_of(&self, object: u64) -> Result<Vec<Place>, Error> {
        lock(&self.table).names_of(object)
    }

    /// Every directory of the settled record, with the one that it is in and its name there.
    ///
    /// # Errors
    /// The table's.
    pub fn places(&self) -> Result<HashMap<DirId, Place>, Error> {
        lock(&self.table).places()
    }

    /// Whether a file may have a name that the record does not know yet: a crash left a directory that nobody has looked at since.
    pub fn may_have_more_names(&self) -> bool {
        lock(&self.table).has_unvisited()
    }
}

impl Table {
    /// Damaged rows are passed over: what they name is not readable anyway.
    fn names_of(&self, object: u64) -> Result<Vec<Place>, Error> {
        let sql = "SELECT name, kind, target, mac, dir FROM entries WHERE kind = 1 AND target = ?1";
        let mut select = self.db.prepare_cached(sql)?;
        let mut rows = select.query(params![object.to_be_bytes()])?;
        let mut names = Vec::new();
        while let Some(row) = rows.next()? {
            names.extend(self.place(row)?.map(|(place, _)| place));
        }
        Ok(names)
    }

    fn places(&self) -> Result<HashMap<DirId, Place>, Error> {
        let mut select = self.db.prepare("SELECT name, kind, target, mac, dir FROM entries WHERE kind = 2")?;
        let mut rows = select.query([])?;
        let mut places = HashMap::new();
        while let Some(row) = rows.next()? {
            if let Some((place, Target::Dir(id))) = self.place(row)? {
                places.insert(id, place);
            }
        }
        Ok(places)
    }

    /// An entry; `None` if its row is damaged.
    fn place(&self, row: &rusqlite::Row<'_>) -> Result<Option<(Place, Target)>, Error> {
        let read = || {
            let dir = DirId::from_bytes(row.get(4)?);
            Ok(((dir, row.get(0)?), self.entry(dir, row)?))
        };
        match read() {
            Err(error) if Error::is_damage(&error) => Ok(None),
            found => found.map(Some),
        }
    }

    /// The files with an id: several if an older one was put beside it.
    pub(super) fn files_with(&self, id: FileId) -> Result<Vec<(u64, FileRow)>, Error> {
        let sql = "SELECT object, file_id, ino, row, mac FROM files WHERE file_id = ?1";
        let mut select = self.db.prepare_cached(sql)?;
        let mut rows = select.query(params![id.as_bytes()])?;
        let (mut found, mut damage) = (Vec::new(), None);
        while let Some(row) = rows.next()? {
            match self.read_file(Some(row)) {
                Err(error) if error.is_damage() => damage = Some(error),
                file => found.extend(file?),
            }
        }
        damage.filter(|_| found.is_empty()).map_or(Ok(found), Err)
    }
}
