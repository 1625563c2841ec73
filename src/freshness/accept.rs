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
    /// The record of the file whose present life has the id, or else, of an empty one with several names, that was seen as the
    /// inode `ino` ([`super::inode_mark`]). `None` if there is none, or only a damaged one.
    ///
    /// # Errors
    /// The table's.
    pub fn file_to_accept(
        self: &Arc<Self>,
        id: Option<FileId>,
        ino: Option<u64>,
    ) -> Result<Option<TrackedFile>, Error> {
        let found = match (id, ino) {
            (Some(id), _) => self.file_with(id),
            (None, Some(ino)) => {
                let object = lock(&self.table).file_at(ino, true).map(|found| found.map(|(object, _)| object));
                object.and_then(|object| object.map_or(Ok(None), |object| self.file(object)))
            }
            (None, None) => Ok(None),
        };
        sound(found)
    }

    /// The record of a file by its number; `None` if there is none, or only a damaged one.
    ///
    /// # Errors
    /// The table's.
    pub fn file_to_replace(self: &Arc<Self>, object: u64) -> Result<Option<TrackedFile>, Error> {
        sound(self.file(object))
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

fn sound(found: Result<Option<TrackedFile>, Error>) -> Result<Option<TrackedFile>, Error> {
    match found {
        Err(error) if error.is_damage() => Ok(None),
        other => other,
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
