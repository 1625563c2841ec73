//! Versions of a file: its header, its size and its units.

use super::clock::{Run, Version};
use super::error::Error;
use super::state::{Chunk, FileRecord, FileState, Freshness};
use super::table::{FileRow, FileUpdate, UNITS_PER_CHUNK};
use crate::crypto::kdf::mac16;
use crate::env::Entropy;
use crate::format::Outcome;
use crate::format::size::UNIT;
use crate::format::unit::{Epoch, epoch_of};
use crate::sync::{Arc, MutexGuard, lock};
use crate::types::FileId;

/// Chunks kept of an open file that have not changed: the versions of 1 GiB.
const MAX_CHUNKS: usize = 4096;

/// A file with its record.
#[derive(Clone)]
pub struct TrackedFile {
    fresh: Arc<Freshness>,
    record: Arc<FileRecord>,
}

/// What was found of a file.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The id of its life, if it has one.
    pub file_id: Option<FileId>,
    /// Plaintext size.
    pub size: u64,
    /// Its whole header; empty if the file is.
    pub header: &'a [u8],
    /// Sequence number of its record (FORMAT 5.2); 0 without one.
    pub seq: u64,
}

/// What a flush is going to make durable.
pub struct SyncPoint {
    update: FileUpdate,
    upto: u64,
}

/// A file that somebody has open or is changing: the versions of its units stay at hand.
pub struct InUse(TrackedFile);

impl std::ops::Deref for InUse {
    type Target = TrackedFile;

    fn deref(&self) -> &TrackedFile {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut state = lock(&self.0.record.state);
        state.users -= 1;
        if state.users == 0 {
            let persisted = state.persisted;
            state.chunks.retain(|_, chunk| chunk.changed > persisted);
        }
    }
}

impl Freshness {
    /// The record of a file by its number; `None` if there is none.
    ///
    /// # Errors
    /// The table's.
    pub fn file(self: &Arc<Self>, object: u64) -> Result<Option<TrackedFile>, Error> {
        Ok(self.record(object)?.map(|record| TrackedFile::new(Arc::clone(self), record)))
    }

    /// The record of the file whose present life has the id, and which is the inode `ino` ([`super::inode_mark`]) if there are several,
    /// or else the one with the number `object`; `None` if there is none.
    ///
    /// # Errors
    /// The table's.
    pub fn file_with(
        self: &Arc<Self>,
        id: FileId,
        ino: u64,
        object: Option<u64>,
    ) -> Result<Option<TrackedFile>, Error> {
        let found = self.records_with(id, ino, object)?.into_iter().next();
        Ok(found.map(|record| TrackedFile::new(Arc::clone(self), record)))
    }

    /// A record for a file that was just made, empty.
    pub fn new_file(self: &Arc<Self>) -> TrackedFile {
        let file = TrackedFile::new(Arc::clone(self), self.new_object(FileRow::EMPTY));
        lock(&file.record.state).change();
        file.will_settle();
        file
    }

    fn versions(&self, heads: impl Iterator<Item = Option<(Epoch, u32)>>) -> impl Iterator<Item = Option<Version>> {
        let mut memo: Option<(Epoch, Version)> = None;
        heads.map(move |head| {
            let Some((epoch, ctr)) = head else { return Some(Version::HOLE) };
            if let Some((known, first)) = memo
                && known == epoch
            {
                return Some(Version(first.0 | u64::from(ctr)));
            }
            let version = self.clock.version(&epoch, ctr)?;
            memo = Some((epoch, Version(version.0 & !u64::from(u32::MAX))));
            Some(version)
        })
    }
}

impl TrackedFile {
    pub(super) fn new(fresh: Arc<Freshness>, record: Arc<FileRecord>) -> Self {
        Self { fresh, record }
    }

    pub(super) fn fresh(&self) -> &Freshness {
        &self.fresh
    }

    pub(super) fn state(&self) -> MutexGuard<'_, FileState> {
        lock(&self.record.state)
    }

    /// Notes one unit by its first 16 bytes.
    pub(super) fn set_unit(&self, unit: u64, head: &[u8]) -> Result<(), Error> {
        let version = epoch_of(head).and_then(|(epoch, ctr)| self.fresh.clock.version(&epoch, ctr));
        let mut state = self.state();
        let version = version.unwrap_or(Version::HOLE);
        state.row.last = state.row.last.max(version);
        self.put(&mut state, unit, version)
    }

    /// Its number in the record.
    pub fn object(&self) -> u64 {
        self.record.object
    }

    /// Whether both are the same file's.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.record, &other.record)
    }

    /// Notes the inode it was seen as, as [`super::inode_mark`] gives it.
    pub fn seen_at(&self, ino: u64) {
        self.state().row.ino = ino;
    }

    /// Keeps the versions of its units at hand.
    pub fn in_use(&self) -> InUse {
        lock(&self.record.state).users += 1;
        InUse(self.clone())
    }

    /// Reserves seals, as [`Freshness::reserve`] does.
    ///
    /// # Errors
    /// As there.
    pub fn reserve(&self, count: u32, entropy: &dyn Entropy, now: std::time::Duration) -> Result<Run, Error> {
        self.fresh.reserve(count, entropy, now)
    }

    /// Compares a file that is being opened with its record.
    ///
    /// # Errors
    /// `Misplaced` for another file or another life of it, `Stale` for another version of its header or size.
    pub fn check(&self, found: &Found<'_>) -> Result<(), Outcome> {
        let header = self.digest(found.header);
        let mut state = lock(&self.record.state);
        if !state.lenient {
            let is_exact = state.row.size == found.size && state.row.header == header;
            return match () {
                () if is_exact && state.row.file_id == found.file_id => Ok(()),
                () if state.may_be_left(found) => {
                    (state.row.size, state.row.header, state.row.seq) = (found.size, header, found.seq);
                    Ok(())
                }
                () if state.row.file_id != found.file_id => Err(Outcome::Misplaced),
                () => Err(Outcome::Stale),
            };
        }
        match found.file_id {
            Some(id) if state.row.file_id == Some(id) => {
                if found.seq < state.row.seq {
                    return Err(Outcome::Stale);
                }
            }
            id => {
                // Emptied, or emptied and written anew: whatever is in it has to be newer than what was before.
                state.row.file_id = id;
                state.row.clock = state.row.clock.max(state.row.last);
                state.begin();
            }
        }
        (state.row.size, state.row.header, state.row.seq) = (found.size, header, found.seq);
        (state.lenient, state.partial, state.exact) = (false, true, true);
        state.change();
        drop(state);
        self.will_settle();
        Ok(())
    }

    /// Checks the versions of the units `first..` by their first 16 bytes; the first that is not what is recorded, and what it is:
    /// `Stale`, or `Unvouched` if the record has lost its version.
    ///
    /// # Errors
    /// The table's.
    pub fn stale_unit<'a>(
        &self,
        first: u64,
        heads: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Option<(u64, Outcome)>, Error> {
        let mut state = lock(&self.record.state);
        for (unit, version) in (first..).zip(self.fresh.versions(heads.map(epoch_of))) {
            let recorded = self.chunk(&mut state, unit)?.versions[(unit % UNITS_PER_CHUNK) as usize];
            if version == Some(recorded) {
                continue;
            }
            let Some(version) = version.filter(|_| recorded != Version::LOST) else {
                let lost = recorded == Version::LOST || lock(&self.fresh.table).epochs_lost();
                return Ok(Some((unit, if lost { Outcome::Unvouched } else { Outcome::Stale })));
            };
            if !state.row.admits(unit, version, recorded) && !self.may_be_left(&state, unit, version)? {
                return Ok(Some((unit, Outcome::Stale)));
            }
            self.put(&mut state, unit, version)?;
        }
        Ok(None)
    }

    /// Whether a failed flush may have left this version of a unit: the one that the table has, or a newer one.
    fn may_be_left(&self, state: &FileState, unit: u64, version: Version) -> Result<bool, Error> {
        if !state.in_doubt {
            return Ok(false);
        }
        let stored = lock(&self.fresh.table).units(self.record.object, unit / UNITS_PER_CHUNK)?;
        let stored = stored[(unit % UNITS_PER_CHUNK) as usize];
        Ok(version == stored || state.kept_row().admits(unit, version, stored))
    }

    /// Notes that a flush failed: what was written since the table was told last may be lost, although it can be read. Until
    /// the file is emptied nothing more is recorded of it, and what is recorded may be found as well as what was written.
    pub fn flush_failed(&self) {
        lock(&self.record.state).doubt(self.fresh.clock.now());
        self.will_settle();
    }

    /// To be called before the first byte of the file changes: marks it.
    ///
    /// # Errors
    /// The table's; nothing may be changed then.
    pub fn before_change(&self) -> Result<(), Error> {
        let mut state = lock(&self.record.state);
        state.exact = false;
        if state.announced {
            return Ok(());
        }
        if state.row.clock == Version::NEVER {
            state.row.clock = self.fresh.clock.now();
        }
        let clock = state.row.clock;
        match &state.durable {
            Some(durable) if !durable.marked => {
                let (ino, clock) = (state.row.ino, durable.clock.min(clock));
                let row = FileRow { marked: true, clock, ino, ..durable.clone() };
                self.write(&mut state, row)?;
            }
            _ => drop(lock(&self.fresh.table).files_touched.insert(self.record.object)),
        }
        state.announced = true;
        drop(state);
        self.will_settle();
        Ok(())
    }

    /// To be called before the file, whose inode is `ino` ([`super::inode_mark`]), gets one more name.
    ///
    /// # Errors
    /// The table's.
    pub fn before_link(&self, ino: u64) -> Result<(), Error> {
        let mut state = lock(&self.record.state);
        state.row.ino = ino;
        match &state.durable {
            Some(durable) if durable.ino != ino => {
                let row = FileRow { ino, ..durable.clone() };
                self.write(&mut state, row)
            }
            _ => Ok(()),
        }
    }

    /// To be called before units from `first` on may become holes, by a cut or otherwise.
    ///
    /// # Errors
    /// The table's; nothing may be changed then.
    pub fn before_holes(&self, first: u64) -> Result<(), Error> {
        let mut state = lock(&self.record.state);
        state.row.zero_from = state.row.zero_from.min(first);
        match &state.durable {
            Some(durable) if durable.zero_from > first => {
                let row = FileRow { zero_from: first, ..durable.clone() };
                self.write(&mut state, row)
            }
            _ => Ok(()),
        }
    }

    /// Writes the row of a file that has one, without its units.
    fn write(&self, state: &mut FileState, row: FileRow) -> Result<(), Error> {
        let update = FileUpdate { object: self.record.object, row, kept: u64::MAX, chunks: Vec::new() };
        lock(&self.fresh.table).put_file(&update)?;
        state.durable = Some(update.row);
        Ok(())
    }

    /// Notes the units `first..` that were written, as they stand in `units`.
    ///
    /// # Errors
    /// The table's.
    pub fn wrote(&self, first: u64, units: &[u8]) -> Result<(), Error> {
        let mut state = lock(&self.record.state);
        let heads = units.chunks_exact(UNIT).map(epoch_of);
        for (unit, version) in (first..).zip(self.fresh.versions(heads)) {
            // What was sealed under an epoch that is not recorded is found out when it is read.
            let version = version.unwrap_or(Version::HOLE);
            state.row.last = state.row.last.max(version);
            self.put(&mut state, unit, version)?;
        }
        Ok(())
    }

    /// Notes that a write may or may not have taken place.
    pub fn uncertain(&self) {
        lock(&self.record.state).partial = true;
    }

    /// Notes that the units `from..to` are holes now.
    ///
    /// # Errors
    /// The table's.
    pub fn cleared(&self, from: u64, to: u64) -> Result<(), Error> {
        let mut state = lock(&self.record.state);
        for unit in from..to {
            self.put(&mut state, unit, Version::HOLE)?;
        }
        Ok(())
    }

    /// Notes that nothing is left from unit `from` on.
    ///
    /// # Errors
    /// The table's.
    pub fn cut(&self, from: u64) -> Result<(), Error> {
        let kept = from.div_ceil(UNITS_PER_CHUNK);
        self.cleared(from, kept * UNITS_PER_CHUNK)?;
        let mut state = lock(&self.record.state);
        state.chunks.retain(|chunk, _| *chunk < kept);
        state.kept = state.kept.min(kept);
        state.cut = state.change();
        Ok(())
    }

    /// Notes that a new life began.
    pub fn began(&self, id: FileId) {
        let mut state = lock(&self.record.state);
        state.row.file_id = Some(id);
        state.begin();
        drop(state);
        lock(&self.fresh.files).by_id.insert(id, Arc::downgrade(&self.record));
    }

    /// Notes that the file was emptied.
    pub fn emptied(&self) {
        let mut state = lock(&self.record.state);
        state.begin();
        state.row = FileRow {
            ino: state.row.ino,
            clock: state.row.clock,
            last: state.row.last,
            zero_from: state.row.zero_from,
            ..FileRow::EMPTY
        };
        (state.exact, state.lenient, state.in_doubt) = (true, false, false);
        drop(state);
        self.will_settle();
    }

    /// Whether [`Self::closed`] has to be told what the file is when it is closed.
    pub fn wants_closing(&self) -> bool {
        !lock(&self.record.state).exact
    }

    /// Notes what the file is when its last user closes it.
    pub fn closed(&self, found: &Found<'_>) {
        let header = self.digest(found.header);
        let mut state = lock(&self.record.state);
        let row = FileRow { file_id: found.file_id, size: found.size, header, seq: found.seq, ..state.row.clone() };
        state.row = row;
        state.exact = true;
        state.change();
    }

    /// What a flush that begins now is going to make durable; `None` if the record has all of it. `seq` is the sequence
    /// number of the file's record at present.
    pub fn begin_sync(&self, seq: u64) -> Option<SyncPoint> {
        let mut state = lock(&self.record.state);
        if state.changes == state.persisted || state.in_doubt {
            return None;
        }
        state.row.seq = state.row.seq.max(seq);
        // Only settling takes a mark away: it knows who changes the file meanwhile.
        if state.row.clock == Version::NEVER {
            state.row.clock = self.fresh.clock.now();
        }
        let (update, upto) = state.update(self.record.object, true);
        Some(SyncPoint { update, upto })
    }

    /// Records what a flush made durable. From now on nothing older is accepted.
    ///
    /// # Errors
    /// The table's.
    pub fn end_sync(&self, point: SyncPoint) -> Result<(), Error> {
        let mut state = lock(&self.record.state);
        // Another flush, which began later, may have ended earlier.
        // Or it failed, and told so to somebody else.
        if state.persisted >= point.upto || state.in_doubt {
            return Ok(());
        }
        lock(&self.fresh.table).put_file(&point.update)?;
        state.written(&point.update, point.upto);
        Ok(())
    }

    fn digest(&self, header: &[u8]) -> [u8; 16] {
        if header.is_empty() { [0; 16] } else { mac16(&self.fresh.key, &[b"header", header]) }
    }

    fn put(&self, state: &mut FileState, unit: u64, version: Version) -> Result<(), Error> {
        let changed = state.change();
        let chunk = self.chunk(state, unit)?;
        chunk.versions[(unit % UNITS_PER_CHUNK) as usize] = version;
        chunk.changed = changed;
        Ok(())
    }

    fn chunk<'s>(&self, state: &'s mut FileState, unit: u64) -> Result<&'s mut Chunk, Error> {
        let number = unit / UNITS_PER_CHUNK;
        if !state.chunks.contains_key(&number) {
            if state.chunks.len() >= MAX_CHUNKS {
                let persisted = state.persisted;
                state.chunks.retain(|_, chunk| chunk.changed > persisted);
            }
            let versions = match &state.durable {
                Some(_) if number < state.kept => lock(&self.fresh.table).units(self.record.object, number)?,
                _ => [Version::HOLE; UNITS_PER_CHUNK as usize],
            };
            state.chunks.insert(number, Chunk { versions: Box::new(versions), changed: 0 });
        }
        Ok(state.chunks.get_mut(&number).expect("it was just put there"))
    }

    pub(super) fn will_settle(&self) {
        let mut files = lock(&self.fresh.files);
        files.changed.entry(self.record.object).or_insert_with(|| Arc::clone(&self.record));
    }
}

impl FileState {
    /// Whether a failed flush may have left the file so: with an older header of the same life, or none of one that the table
    /// does not have.
    fn may_be_left(&self, found: &Found<'_>) -> bool {
        let kept = self.kept_row();
        self.in_doubt
            && match found.file_id {
                Some(_) => found.file_id == self.row.file_id && found.seq >= kept.seq,
                None => kept.file_id.is_none() || kept.file_id != self.row.file_id,
            }
    }

    /// Everything that is recorded of units is of an earlier life.
    fn begin(&mut self) {
        self.chunks.clear();
        self.row.seq = 0;
        self.kept = 0;
        self.cut = self.change();
    }
}
