//! Writing and growing.

use super::buffer::{with_bulk, with_edge};
use super::file::Content;
use super::life::Life;
use super::state::{Body, DurableRecord, State};
use super::{Error, Result};
use crate::format::Outcome;
use crate::format::record::Record;
use crate::format::size::{DATA, UNIT, locate, unit_count, unit_start};
use crate::format::unit::TEXT;
use crate::store::{Allocate, Backing, BackingFile};
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, read, write};

/// A write of so many stored bytes belongs to a stream: the device is given them at once, so that it works while the next
/// are sealed, and a flush at the end waits for little.
const STREAMED: usize = 512 * 1024;

impl<B: Backing> Content<B> {
    /// Writes `data` at `offset`; the file grows if need be. Whole units are written without being read. On an error
    /// nothing but bytes of `offset..offset + data.len()` may have changed, and the size is what it was.
    ///
    /// # Errors
    /// `TooBig` beyond the format's limit, [`Error::Unit`] if a unit that has to be changed is damaged, key outcomes for
    /// the first write to an empty file, or the backing's error.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(data.len() as u64).filter(|&end| end <= self.volume.geometry.max_size());
        let end = end.ok_or(Outcome::TooBig)?;
        self.before_change()?;
        {
            let state = read(&self.state);
            if end <= state.size && matches!(state.body, Body::Units { unfinished_rewrap: false, .. }) {
                let (life, rule) = state.units()?;
                let _held = self.units.exclusive(locate(offset).0, locate(end - 1).0);
                return self.put(life, rule, state.size, offset, data);
            }
        }
        let mut state = write(&self.state);
        self.make_writable(&mut state)?;
        if end > state.size {
            return self.append(&mut state, offset, data, end);
        }
        let (life, rule) = state.units()?;
        self.put(life, rule, state.size, offset, data)
    }

    /// Brings a file with a body into the state in which units may be written: finishes an interrupted re-wrap, gives a
    /// file whose header never reached the disk a new one.
    pub(super) fn make_writable(&self, state: &mut State) -> Result<()> {
        match &state.body {
            Body::Units { unfinished_rewrap: true, .. } => self.finish_found_rewrap(state),
            Body::NeverSynced => {
                let size = state.size;
                self.begin_life(state, size, true, 0, &[])
            }
            Body::Suspended { .. } => Err(Outcome::KeyUnavailable.into()),
            _ => Ok(()),
        }
    }

    fn append(&self, state: &mut State, offset: u64, data: &[u8], end: u64) -> Result<()> {
        if let Body::Empty = state.body {
            return self.begin_life(state, end, false, offset, data);
        }
        let old_size = state.size;
        // Units between the old end and the write are holes. Until it is done, and if what it did cannot be undone, so is
        // all that is new.
        let gaps = state.gaps || locate(offset).0 > unit_count(old_size);
        let failures = self.failures();
        state.gaps = true;
        self.grow(state, end)?;
        let (life, rule) = state.units()?;
        let written = self.put(&Arc::clone(life), rule, old_size, offset, data);
        if let Err(error) = written {
            state.tail_clean = None;
            // The old size is the largest that is fully written.
            self.file().set_len(self.volume.geometry.stored_size(old_size)?)?;
            state.size = old_size;
            return Err(error);
        }
        state.gaps = gaps;
        state.tail_clean = Some(failures);
        Ok(())
    }

    /// Makes a file with units longer; what is new reads as zeros.
    pub(super) fn grow(&self, state: &mut State, size: u64) -> Result<()> {
        self.clean_tail(state)?;
        self.file().set_len(self.volume.geometry.stored_size(size)?)?;
        state.size = size;
        Ok(())
    }

    /// Gives an empty file its header and `size` bytes, of which `data` are written at `offset`. Size first, then one
    /// write from offset 0, header and first units together (FORMAT S7).
    pub(super) fn begin_life(
        &self,
        state: &mut State,
        size: u64,
        has_holes: bool,
        offset: u64,
        data: &[u8],
    ) -> Result<()> {
        let geometry = self.volume.geometry;
        let stored = geometry.stored_size(size)?;
        let failures = self.failures();
        let new = self.volume.keys.new_header(has_holes)?;
        let file = self.file();
        let found = file.stat()?;
        let live = self.volume.live.enter(new.header.file_id(), found.ino);
        let life = Life::new(&new.bytes, live, new.keys, new.key);
        let rule = new.record;
        self.noted_life(life.file_id);
        // A size that survived a crash alone, or an earlier beginning that failed, gives way only now that there is a key for
        // the new header.
        let survived = if let Body::NeverSynced = state.body { Some(geometry.stored_size(state.size)?) } else { None };
        let emptied = if found.size > 0 { file.set_len(0) } else { Ok(()) };
        let sized = emptied.and_then(|()| file.set_len(stored));
        let written = sized.map_err(Error::from).and_then(|()| {
            let (first, _) = locate(offset);
            if data.is_empty() || first > 0 {
                file.write_at(&new.bytes, 0)?;
                return self.put(&life, rule, 0, offset, data);
            }
            let (last, _) = locate(offset + data.len() as u64 - 1);
            let header_pages = geometry.header_len() / UNIT;
            with_bulk(header_pages + last as usize + 1, |buf| {
                let (header, units) = buf.split_at_mut(geometry.header_len());
                header.copy_from_slice(&new.bytes);
                self.fill(&life, rule, 0, offset, data, units)?;
                life.seal(0, units, &*self.volume.entropy, self.record.as_ref())?;
                let written = file.write_at(buf, 0);
                self.noted_units(0, &buf[geometry.header_len()..], written)
            })
        });
        if let Err(error) = written {
            self.noted_empty();
            file.set_len(0)?;
            survived.map_or(Ok(()), |stored| file.set_len(stored))?;
            return Err(error);
        }
        let (first, last) = (locate(offset).0, unit_count(offset + data.len() as u64));
        *state = State {
            size,
            body: Body::Units {
                life: Arc::new(life),
                record: new.record,
                durable: DurableRecord::ALL,
                unfinished_rewrap: false,
            },
            tail_clean: Some(failures),
            cuts: state.cuts,
            gaps: data.is_empty() || first > 0 || last < unit_count(size),
        };
        Ok(())
    }

    /// Seals and writes the units that `data` touches; `size` is the size up to which units hold data. The caller holds
    /// the units.
    pub(super) fn put(&self, life: &Life, rule: Record, size: u64, offset: u64, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let (first, _) = locate(offset);
        let (last, _) = locate(offset + data.len() as u64 - 1);
        with_bulk((last - first + 1) as usize, |buf| {
            self.fill(life, rule, size, offset, data, buf)?;
            life.seal(first, buf, &*self.volume.entropy, self.record.as_ref())?;
            let at = self.volume.geometry.unit_offset(first);
            if first < unit_count(size) {
                // A page that is on its way to the disk must not change under the device's hands (FORMAT S1).
                self.noted(self.file().wait_for_writeback(at, buf.len() as u64))?;
            }
            self.noted_units(first, buf, self.file().write_at(buf, at))?;
            if buf.len() >= STREAMED {
                // Not the edges, which neighbouring writes change and would have to wait for.
                self.send_out(life, at + UNIT as u64, (buf.len() - 2 * UNIT) as u64)?;
            }
            Ok(())
        })
    }

    /// Has the device begin with a part of a stream. The header is there first: after a power cut units without it are lost,
    /// and the system, left alone, writes it with them.
    fn send_out(&self, life: &Life, at: u64, len: u64) -> Result<()> {
        let file = self.file();
        if !life.header_is_out.load(Ordering::Relaxed) {
            let header = self.volume.geometry.header_len() as u64;
            file.start_writeback(0, header);
            self.noted(file.wait_for_writeback(0, header))?;
            life.header_is_out.store(true, Ordering::Relaxed);
        }
        file.start_writeback(at, len);
        Ok(())
    }

    /// Lays out the plaintext of the touched units at the places where it is sealed. Old bytes are read only for the
    /// two edges, and only if the unit holds some that stay.
    fn fill(&self, life: &Life, rule: Record, size: u64, offset: u64, data: &[u8], buf: &mut [u8]) -> Result<()> {
        let first = locate(offset).0;
        let end = offset + data.len() as u64;
        for (number, unit) in (first..).zip(buf.chunks_exact_mut(UNIT)) {
            let start = unit_start(number);
            let from = offset.max(start) - start;
            let to = end.min(start + DATA as u64) - start;
            let valid = size.saturating_sub(start).min(DATA as u64);
            let (from, to, valid) = (from as usize, to as usize, valid as usize);
            let text = &mut unit[TEXT];
            if valid > 0 && (from > 0 || to < valid) {
                self.with_unit(life, rule, number, |old| {
                    text[..valid].copy_from_slice(&old[..valid]);
                    text[valid..].fill(0);
                })?;
            } else {
                text[..from].fill(0);
                text[to..].fill(0);
            }
            let at = (start + from as u64 - offset) as usize;
            text[from..to].copy_from_slice(&data[at..at + (to - from)]);
        }
        Ok(())
    }

    /// Makes sure that nothing but zeros lies behind the end, in the tail unit and in the trailing area: a crash between
    /// re-seal and truncate leaves stale bytes there, in either order (FORMAT S7 a, b).
    pub(super) fn clean_tail(&self, state: &mut State) -> Result<()> {
        let failures = self.failures();
        if state.tail_clean == Some(failures) {
            return Ok(());
        }
        let (life, rule) = state.units()?;
        let units = unit_count(state.size);
        let used = (state.size - unit_start(units - 1)) as usize;
        // After a flush that failed the disk may have something else than can be read.
        let unsure = failures > 0;
        if used < DATA && (unsure || !self.is_zero(life, rule, units - 1, used, DATA)?) {
            self.reseal_tail(life, rule, units - 1, used)?;
            // Else the new size could reach the disk without the zeros, and show what an earlier crash left here.
            self.noted(self.file().sync(true))?;
        }
        let file = self.file();
        let at = self.volume.geometry.unit_offset(units);
        let stale = with_edge(|buf| {
            let got = file.read_at(&mut buf[..used], at)?;
            Ok::<_, Error>(buf[..got].iter().any(|&b| b != 0))
        })?;
        if stale || unsure {
            self.clear_trailing(at, used)?;
        }
        state.tail_clean = Some(failures);
        Ok(())
    }

    /// Whether the plaintext bytes `from..to` of a unit are zeros.
    pub(super) fn is_zero(&self, life: &Life, rule: Record, number: u64, from: usize, to: usize) -> Result<bool> {
        self.with_unit(life, rule, number, |text| text[from..to].iter().all(|&b| b == 0))
    }

    /// Writes unit `number` again with zeros behind its first `used` bytes.
    pub(super) fn reseal_tail(&self, life: &Life, rule: Record, number: u64, used: usize) -> Result<()> {
        let start = unit_start(number);
        let text = self.with_unit(life, rule, number, |text| text[..used].to_vec()).map(zeroize::Zeroizing::new)?;
        self.put(life, rule, start + used as u64, start, &text)
    }

    /// Clears the block of the trailing area, durably if it takes a write.
    pub(super) fn clear_trailing(&self, at: u64, used: usize) -> Result<()> {
        let file = self.file();
        match file.allocate(Allocate::PunchHole, at, UNIT as u64) {
            Err(rustix::io::Errno::OPNOTSUPP) => {
                file.write_at(&[0; UNIT][..used], at)?;
                self.noted(file.sync(true))
            }
            other => Ok(other?),
        }
    }
}
