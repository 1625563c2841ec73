//! A file of a volume with a freshness record (ADR 12). Without one, every function here does nothing.

use super::file::Content;
use super::state::{Body, State};
use super::{Error, Result};
use crate::format::Outcome;
use crate::format::size::unit_count;
use crate::freshness::{Found, InUse, SyncPoint, TrackedFile};
use crate::store::{Backing, BackingFile};
use crate::sync::read;
use crate::types::FileId;

/// Bytes at the front of a unit that tell its version.
const HEAD: usize = 16;

impl<B: Backing> Content<B> {
    /// A file that was just made, with its record.
    #[must_use]
    pub fn tracked(mut self, record: Option<InUse>) -> Self {
        self.record = record;
        self
    }

    /// A file that was opened, compared with its record.
    ///
    /// # Errors
    /// `Misplaced`, `Stale`, or the backing's error.
    pub fn checked(self, record: Option<InUse>) -> Result<Self> {
        if let Some(record) = &record {
            let state = read(&self.state);
            // Of a file that nobody can read there is nothing to compare.
            if !matches!(state.body, Body::Unusable(_)) {
                self.with_found(&state, |found| record.check(found))??;
            }
        }
        Ok(self.tracked(record))
    }

    /// Its record.
    pub fn record(&self) -> Option<&InUse> {
        self.record.as_ref()
    }

    /// Tells the record what the file is; to be called by its last user.
    ///
    /// # Errors
    /// The backing's error: the record then knows lower bounds only.
    pub fn note_closed(&self) -> Result<()> {
        let Some(record) = self.record.as_ref().filter(|record| record.wants_closing()) else { return Ok(()) };
        let state = read(&self.state);
        if let Body::Unusable(_) = state.body {
            return Ok(());
        }
        self.with_found(&state, |found| record.closed(found))
    }

    fn with_found<R>(&self, state: &State, work: impl FnOnce(&Found<'_>) -> R) -> Result<R> {
        let header = if state.size == 0 { Vec::new() } else { self.read_header()? };
        let (file_id, seq) = match &state.body {
            Body::Units { life, record, .. } => (Some(life.file_id), record.seq),
            Body::Suspended { file_id, seq, .. } => (Some(*file_id), *seq),
            Body::Empty | Body::NeverSynced | Body::Unusable(_) => (None, 0),
        };
        Ok(work(&Found { file_id, size: state.size, header: &header, seq }))
    }

    /// To be called before the first byte changes.
    pub(super) fn before_change(&self) -> Result<()> {
        Ok(self.record.as_ref().map_or(Ok(()), |record| record.before_change())?)
    }

    /// To be called before units from `first` on may become holes.
    pub(super) fn before_holes(&self, first: u64) -> Result<()> {
        Ok(self.record.as_ref().map_or(Ok(()), |record| record.before_holes(first))?)
    }

    /// Notes how the write of the units `first..` ended.
    pub(super) fn noted_units(&self, first: u64, units: &[u8], written: crate::store::Result<()>) -> Result<()> {
        if let Some(record) = &self.record {
            match written {
                Ok(()) => record.wrote(first, units)?,
                Err(_) => record.uncertain(),
            }
        }
        Ok(written?)
    }

    /// Notes that the units `from..to` are holes.
    pub(super) fn noted_holes(&self, from: u64, to: u64) -> Result<()> {
        Ok(self.record.as_ref().map_or(Ok(()), |record| record.cleared(from, to))?)
    }

    /// Notes that nothing is left from unit `from` on.
    pub(super) fn noted_cut(&self, from: u64) -> Result<()> {
        Ok(self.record.as_ref().map_or(Ok(()), |record| record.cut(from))?)
    }

    /// Notes that a life begins.
    pub(super) fn noted_life(&self, id: FileId) {
        if let Some(record) = &self.record {
            record.began(id);
        }
    }

    /// Notes that the file is empty.
    pub(super) fn noted_empty(&self) {
        if let Some(record) = &self.record {
            record.emptied();
        }
    }

    /// What tells the versions of units that stand in `buf`; nothing if nobody asks.
    pub(super) fn heads(&self, buf: &[u8]) -> Vec<[u8; HEAD]> {
        let units = if self.record.is_some() { buf } else { &[] };
        units.chunks_exact(crate::format::size::UNIT).filter_map(|unit| unit.first_chunk().copied()).collect()
    }

    /// Checks the versions of units that have been authenticated.
    pub(super) fn check_versions(&self, first: u64, heads: &[[u8; HEAD]]) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        match record.stale_unit(first, heads.iter().map(|head| &head[..]))? {
            Some((unit, outcome)) => Err(Error::Unit { unit, outcome }),
            None => Ok(()),
        }
    }

    /// The first of the units `first..first + units`, which are holes, that the record does not have as one, and what it is.
    pub(super) fn stale_hole(&self, first: u64, units: u64) -> Result<Option<(u64, Outcome)>> {
        const HOLE: &[u8] = &[0; HEAD];
        let Some(record) = &self.record else { return Ok(None) };
        Ok(record.stale_unit(first, std::iter::repeat_n(HOLE, usize::try_from(units).unwrap_or(usize::MAX)))?)
    }

    /// Records the file as it is: its owner says that it ought to be so.
    ///
    /// # Errors
    /// The backing's error or the record's.
    pub fn accept_into(&self, record: &TrackedFile) -> Result<()> {
        let state = read(&self.state);
        if let Body::Unusable(outcome) = state.body {
            return Err(outcome.into());
        }
        self.with_found(&state, |found| record.accept(found))??;
        let mut next = 0;
        while let (Body::Units { .. }, Some(unit)) = (&state.body, self.first_data(&state, next)?) {
            let mut head = [0; HEAD];
            self.file().read_at(&mut head, self.volume.geometry.unit_offset(unit))?;
            record.accept_unit(unit, &head)?;
            next = unit + 1;
            if next >= unit_count(state.size) {
                break;
            }
        }
        Ok(())
    }

    /// What a flush that begins now is going to make durable.
    pub(super) fn begin_recorded_sync(&self, state: &State) -> Option<SyncPoint> {
        let seq = if let Body::Units { record, .. } = &state.body { record.seq } else { 0 };
        self.record.as_ref()?.begin_sync(seq)
    }

    /// Records what a flush made durable.
    pub(super) fn end_recorded_sync(&self, point: Option<SyncPoint>) -> Result<()> {
        match (&self.record, point) {
            (Some(record), Some(point)) => Ok(record.end_sync(point)?),
            _ => Ok(()),
        }
    }
}
