//! Writes to the header: records and re-wraps. They are not user writes: modification time, setuid and setgid bits and
//! `security.capability` are put back (FORMAT 5.5). The caller holds the state lock for writing.

use rustix::io::Errno;

use super::file::Content;
use super::life::Life;
use super::state::{Body, DurableRecord, State};
use super::{Error, Result};
use crate::format::Outcome;
use crate::format::header::{STATIC_LEN, without_newest_slot};
use crate::format::record::{Record, valid_records};
use crate::format::size::unit_count;
use crate::keys::RewrapJob;
use crate::store::{Allocate, Backing, BackingFile, SetTime, Target, XattrMode};
use crate::sync::{Arc, read, write};

const CAPABILITY: &str = "security.capability";
/// Mode bits that a write by an unprivileged daemon clears.
const SET_ID: u32 = 0o6000;

/// What may be put right in a header that opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderState {
    /// Two wrapped keys: a rewrap did not finish.
    pub unfinished_rewrap: bool,
    /// One of two records is damaged; the other one counts, alone.
    pub record_lost: bool,
}

/// What [`Content::rewrap`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewrapped {
    /// The header holds a new wrapped key.
    Yes,
    /// Nothing to do: the file is empty, already current, or not under the source key.
    No,
}

impl<B: Backing> Content<B> {
    /// Writes the header as it is. What a flush that failed had of it may be lost, although it can be read; the units that are
    /// written again, by whoever was told of the failure, are of no use without it.
    pub(super) fn renew_header(&self) -> Result<()> {
        let state = write(&self.state);
        match &state.body {
            Body::Units { life, .. } => {
                let header = self.read_header()?;
                if header[..STATIC_LEN] != life.fixed {
                    return Err(Outcome::HeaderLost.into());
                }
                self.write_quietly(0, &header)
            }
            Body::Suspended { .. } => self.write_quietly(0, &self.read_header()?),
            Body::Empty | Body::NeverSynced | Body::Unusable(_) => Ok(()),
        }
    }

    /// Lowers the bound before the file is cut below it; durable when this returns.
    pub(super) fn lower_floor(&self, state: &mut State, size: u64) -> Result<()> {
        let Body::Units { life, record, durable, .. } = &mut state.body else { return Ok(()) };
        let wanted = Record { floor: record.floor.min(size), ..*record };
        durable.floor &= wanted.floor == record.floor;
        if durable.floor { Ok(()) } else { self.write_durably(life, record, durable, wanted) }
    }

    /// Notes that units below the bound may be holes, before the first of them is made; durable when this returns.
    pub(super) fn allow_holes(&self, state: &mut State, first_unit: u64) -> Result<()> {
        let Body::Units { life, record, durable, .. } = &mut state.body else { return Ok(()) };
        let is_above = first_unit >= unit_count(record.floor);
        let wanted = Record { has_holes: record.has_holes || !is_above, ..*record };
        durable.holes &= wanted.has_holes == record.has_holes;
        let enough = if is_above { durable.floor || record.has_holes && durable.holes } else { durable.holes };
        if enough { Ok(()) } else { self.write_durably(life, record, durable, wanted) }
    }

    /// Writes a record and flushes it. Also one that was written before: when a flush fails, the system takes what it had of the
    /// file for written, and a further flush would succeed without writing anything.
    fn write_durably(
        &self,
        life: &Life,
        record: &mut Record,
        durable: &mut DurableRecord,
        wanted: Record,
    ) -> Result<()> {
        let (next, bytes) = wanted.pair(&life.keys.record, life.file_id)?;
        self.write_quietly(self.volume.geometry.records_offset() as u64, &bytes)?;
        *record = next;
        self.noted(self.file().sync(true))?;
        *durable = DurableRecord::ALL;
        Ok(())
    }

    /// Replaces both records by ones with this floor and, once set, the mark of holes.
    pub(super) fn write_records(&self, life: &Life, record: &mut Record, floor: u64, has_holes: bool) -> Result<()> {
        if let Some((next, bytes)) = record.next_pair(&life.keys.record, life.file_id, floor, has_holes)? {
            self.write_records_bytes(&bytes)?;
            *record = next;
        }
        Ok(())
    }

    pub(super) fn write_records_bytes(&self, bytes: &[u8]) -> Result<()> {
        self.write_quietly(self.volume.geometry.records_offset() as u64, bytes)
    }

    /// Writes header bytes and puts back what a user would notice of it.
    fn write_quietly(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let file = self.file();
        let before = file.stat()?;
        let capability = match self.backing.get_xattr(Target::File(&*file), CAPABILITY) {
            Ok(value) => Some(value),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => None,
            Err(other) => return Err(other.into()),
        };
        file.write_at(bytes, offset)?;
        // The header counts from here on. A daemon that does not own the file cannot set its times back: that is no reason
        // to call the write failed.
        let target = Target::File(&*file);
        let times = self.backing.set_times(target, SetTime::Omit, SetTime::At(before.mtime));
        let mode = if before.mode & SET_ID != 0 { self.backing.set_mode(target, before.mode) } else { Ok(()) };
        let capability =
            capability.map_or(Ok(()), |value| self.backing.set_xattr(target, CAPABILITY, &value, XattrMode::Set));
        if let Err(error) = times.and(mode).and(capability) {
            tracing::debug!("attributes were not put back after a header write: {error}");
        }
        Ok(())
    }

    pub(super) fn read_header(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.volume.geometry.header_len()];
        self.file().read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Writes only the slots of a header, as one page-sized write would leave them.
    fn write_slots(&self, header: &[u8]) -> Result<()> {
        let slots = STATIC_LEN..self.volume.geometry.records_offset();
        self.write_quietly(slots.start as u64, &header[slots])?;
        self.noted(self.file().sync(true))
    }

    /// Wraps the data key anew as the job says. No content is read. At every moment one valid slot is on disk (FORMAT 5.3).
    ///
    /// # Errors
    /// Key outcomes, `SlotOverflow`, or the backing's error. The file opens under the old or the new key after any of
    /// them.
    pub fn rewrap(&self, job: &RewrapJob) -> Result<Rewrapped> {
        let mut state = write(&self.state);
        if let Body::Units { .. } = state.body {
            self.before_change()?;
        }
        match &state.body {
            Body::Empty | Body::NeverSynced => return Ok(Rewrapped::No),
            Body::Unusable(outcome) => return Err((*outcome).into()),
            Body::Suspended { .. } => return Err(Outcome::KeyUnavailable.into()),
            Body::Units { unfinished_rewrap: true, .. } => self.finish_found_rewrap(&mut state)?,
            Body::Units { .. } => {}
        }
        let header = self.read_header()?;
        let Some(with_new_slot) = self.volume.keys.rewrap(&header, job)? else { return Ok(Rewrapped::No) };
        // Also if it fails: then nobody knows which slots are on the disk.
        if let Body::Units { unfinished_rewrap, .. } = &mut state.body {
            *unfinished_rewrap = true;
        }
        self.write_slots(&with_new_slot)?;
        self.finish_rewrap(&mut state)?;
        Ok(Rewrapped::Yes)
    }

    /// What of the header is as an interruption or a small damage left it.
    ///
    /// # Errors
    /// The backing's.
    pub fn header_state(&self) -> Result<HeaderState> {
        let state = read(&self.state);
        let Body::Units { life, record, unfinished_rewrap, .. } = &state.body else {
            return Ok(HeaderState { unfinished_rewrap: false, record_lost: false });
        };
        let record_lost = record.seq > 1
            && valid_records(&life.keys.record, life.file_id, &self.read_header()?, self.volume.geometry) < 2;
        Ok(HeaderState { unfinished_rewrap: *unfinished_rewrap, record_lost })
    }

    /// Puts right what [`Self::header_state`] tells; durable when this returns.
    ///
    /// # Errors
    /// Key outcomes, or the backing's error.
    pub fn mend_header(&self) -> Result<()> {
        let found = self.header_state()?;
        let mut state = write(&self.state);
        if found.unfinished_rewrap {
            self.finish_found_rewrap(&mut state)?;
        }
        if let Body::Units { life, record, .. } = &mut state.body
            && found.record_lost
        {
            let (next, bytes) = record.pair(&life.keys.record, life.file_id)?;
            self.write_quietly(self.volume.geometry.records_offset() as u64, &bytes)?;
            *record = next;
            self.noted(self.file().sync(true))?;
        }
        Ok(())
    }

    /// Gives a file of which only the size survived ([`Outcome::NeverSynced`]) a header, under which it is what it reads as
    /// already: zeros. Durable when this returns, and until then the file is as it was or as it will be: nothing but the header is
    /// written, since all else is zero.
    ///
    /// # Errors
    /// Key outcomes, or the backing's error; the file is then what it was.
    pub fn give_header(&self) -> Result<()> {
        let mut state = write(&self.state);
        let Body::NeverSynced = state.body else { return Ok(()) };
        let new = self.volume.keys.new_header(true)?;
        let file = self.file();
        let live = self.volume.live.enter(new.header.file_id(), file.stat()?.ino);
        if let Err(error) = self.write_quietly(0, &new.bytes) {
            // A part of it would make the file unreadable.
            self.clear_header(new.bytes.len(), self.volume.geometry.stored_size(state.size)?)?;
            return Err(error);
        }
        state.body = Body::Units {
            life: Arc::new(Life::new(&new.bytes, live, new.keys, new.key)),
            record: new.record,
            durable: DurableRecord::ALL,
            unfinished_rewrap: false,
        };
        drop(state);
        self.sync(true)
    }

    /// Takes away what was written of a header in a file of `stored` bytes that holds nothing else.
    fn clear_header(&self, header: usize, stored: u64) -> Result<()> {
        let file = self.file();
        match file.allocate(Allocate::PunchHole, 0, header as u64) {
            Err(Errno::OPNOTSUPP) => Ok(file.set_len(0).and_then(|()| file.set_len(stored))?),
            cleared => Ok(cleared?),
        }
    }

    /// Overwrites the newer of two valid slots with zeros, after the older one was found to open and the newer one was told
    /// to `note`. For a file opened by [`Self::open_damaged`], where it is the newer that does not open.
    ///
    /// # Errors
    /// What keeps the older one from opening, or the backing's error; nothing is changed then.
    pub fn drop_newest_slot(&self, note: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        let header = self.read_header()?;
        let Some((patch, older)) = without_newest_slot(&header, self.volume.geometry) else { return Ok(()) };
        self.volume.keys.open_header(&older).map_err(Error::from)?;
        note(&header[patch.offset..patch.offset + patch.bytes.len()])?;
        self.write_slots(&older)
    }

    /// Finishes a re-wrap that was found unfinished. Nobody knows whether the newer slot was flushed: it could be in memory
    /// only, left there by a process that was killed. In a header of several pages the zeros for the older one can be on
    /// the disk before it, and a power cut would leave none.
    pub(super) fn finish_found_rewrap(&self, state: &mut State) -> Result<()> {
        // Written again, since after a flush that failed a further one need not do anything.
        self.write_slots(&self.read_header()?)?;
        self.finish_rewrap(state)
    }

    /// Verifies the newer of two valid slots, which is on the disk, and only then overwrites the other with zeros.
    fn finish_rewrap(&self, state: &mut State) -> Result<()> {
        let header = self.read_header()?;
        let finished = self.volume.keys.finish_rewrap(&header).map_err(Error::from)?;
        self.write_slots(&finished)?;
        if let Body::Units { life, unfinished_rewrap, .. } = &mut state.body {
            *unfinished_rewrap = false;
            life.rewrapped(self.volume.keys.key_of(&life.fixed));
        }
        Ok(())
    }
}
