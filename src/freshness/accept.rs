//! Taking what is there for true, because the owner says so.

use super::clock::Version;
use super::directory::TrackedDir;
use super::error::Error;
use super::file::{Found, TrackedFile};
use super::state::Freshness;
use super::table::Target;
use crate::format::unit::epoch_of;
use crate::sync::{Arc, lock};
use crate::types::FileId;

impl Freshness {
    /// The records that a file may have, the likeliest first, damaged ones left out: those of its present life, and of them that which was
    /// seen as this inode `ino` ([`super::inode_mark`]) before others, and that of its name (`expected`) before the rest; of an empty
    /// file with several names (`shared`) the one that was seen as the inode; and that of its name.
    ///
    /// # Errors
    /// The table's.
    pub fn files_to_accept(
        self: &Arc<Self>,
        (id, ino, shared): (Option<FileId>, u64, bool),
        expected: Option<u64>,
    ) -> Result<Vec<TrackedFile>, Error> {
        let mut found = Vec::new();
        if let Some(id) = id {
            found = sound(self.records_with(id, ino, expected))?.unwrap_or_default();
        } else if shared {
            let object = lock(&self.table).file_at(ino, true).map(|found| found.map(|(object, _)| object));
            found.extend(
                sound(object.and_then(|object| object.map_or(Ok(None), |object| self.record(object))))?.flatten(),
            );
        }
        found.extend(sound(expected.map_or(Ok(None), |object| self.record(object)))?.flatten());
        Ok(found.into_iter().map(|record| TrackedFile::new(Arc::clone(self), record)).collect())
    }

    /// Takes in the epoch of a unit that is accepted; it counts as older than everything that is sealed from now on.
    fn accept_epoch(&self, head: &[u8]) -> Result<(), Error> {
        let Some((epoch, ctr)) = epoch_of(head) else { return Ok(()) };
        if self.clock.version(&epoch, ctr).is_some() {
            return Ok(());
        }
        self.clock.adopt(&epoch, |number| lock(&self.table).add_epoch(number, &epoch))
    }
}

/// `None` of what is damaged.
fn sound<T>(found: Result<T, Error>) -> Result<Option<T>, Error> {
    match found {
        Err(error) if error.is_damage() => Ok(None),
        other => other.map(Some),
    }
}

impl TrackedDir {
    /// Records what stands under a name, or that nothing does. The change is in the table after the next settling.
    ///
    /// # Errors
    /// The table's.
    pub fn accept(&self, entry: &str, target: Option<Target>) -> Result<(), Error> {
        self.before_change()?;
        self.set(entry, target);
        Ok(())
    }
}

impl TrackedDir {
    /// All of the directory was accepted: nothing in it is uncertain any more.
    ///
    /// # Errors
    /// The table's.
    pub fn accepted(&self) -> Result<(), Error> {
        self.before_change()?;
        self.certain();
        Ok(())
    }
}

impl TrackedFile {
    /// Records the file as it is, without its units, of which [`Self::accept_unit`] is told afterwards.
    ///
    /// # Errors
    /// The table's.
    pub fn accept(&self, found: &Found<'_>) -> Result<(), Error> {
        self.before_change()?;
        self.emptied();
        if let Some(id) = found.file_id {
            self.began(id);
        }
        self.accepted(found);
        Ok(())
    }

    /// Whether its present life is that with the id; or both are empty.
    pub fn lives_as(&self, id: Option<FileId>) -> bool {
        self.state().row.file_id == id
    }

    /// Whether it was seen last as this inode ([`super::inode_mark`]).
    pub fn was_seen_at(&self, ino: u64) -> bool {
        self.state().row.ino == ino
    }

    /// Records a unit by its first 16 bytes.
    ///
    /// # Errors
    /// The table's.
    pub fn accept_unit(&self, unit: u64, head: &[u8]) -> Result<(), Error> {
        self.fresh().accept_epoch(head)?;
        self.set_unit(unit, head)
    }

    fn accepted(&self, found: &Found<'_>) {
        self.closed(found);
        let mut state = self.state();
        state.partial = false;
        state.row.clock = Version::NEVER;
        state.row.zero_from = u64::MAX;
    }
}
