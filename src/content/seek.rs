//! SEEK_DATA and SEEK_HOLE.
//!
//! The backing knows holes in whole units. Applications know them in pages of 4096 bytes, which units of 4064 bytes
//! straddle: a page of data beside a hole leaves zeros in the units at its edges. So the unit at either edge of a run of
//! data is read, and runs of zeros in it that fill pages are counted to the hole.

use super::Result;
use super::file::Content;
use super::life::Life;
use super::state::{Body, State};
use crate::format::record::Record;
use crate::format::size::{DATA, UNIT, locate, unit_count, unit_start};
use crate::store::{Backing, BackingFile};
use crate::sync::read;

/// Bytes of a page of the page cache, the unit in which applications meet holes.
const PAGE: u64 = 4096;

impl<B: Backing> Content<B> {
    /// Where data begins at or behind `offset`; `None` if only holes follow or `offset` is not within the file.
    ///
    /// # Errors
    /// What a read of the units at the edges gives.
    pub fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        let state = read(&self.state);
        if offset >= state.size || matches!(state.body, Body::Empty | Body::NeverSynced) {
            return Ok(None);
        }
        self.data_from(&state, offset)
    }

    /// Where a hole begins at or behind `offset`, the end of the file at the latest; `None` if `offset` is not within
    /// the file.
    ///
    /// # Errors
    /// As [`Self::seek_data`].
    pub fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        let state = read(&self.state);
        if offset >= state.size {
            return Ok(None);
        }
        if let Body::NeverSynced = state.body {
            return Ok(Some(offset));
        }
        let mut at = offset;
        loop {
            match self.data_from(&state, at)? {
                Some(data) if data == at => {}
                // `at` itself lies in a hole.
                _ => return Ok(Some(at)),
            }
            let (unit, _) = locate(at);
            let Some(end) = self.first_hole(&state, unit)? else { return Ok(Some(state.size)) };
            let (life, rule) = state.units()?;
            let (_, data_end) = self.data_within(&state, life, rule, end - 1)?;
            if data_end > at {
                return Ok(Some(data_end.min(state.size)));
            }
            at = unit_start(end);
        }
    }

    fn data_from(&self, state: &State, offset: u64) -> Result<Option<u64>> {
        let (life, rule) = state.units()?;
        let mut at = offset;
        while at < state.size {
            let Some(unit) = self.first_data(state, locate(at).0)? else { return Ok(None) };
            let (begin, end) = self.data_within(state, life, rule, unit)?;
            let found = begin.max(at);
            if found < end {
                return Ok(Some(found));
            }
            at = unit_start(unit + 1);
        }
        Ok(None)
    }

    /// The first unit from `unit` on that is stored.
    pub(super) fn first_data(&self, state: &State, unit: u64) -> Result<Option<u64>> {
        let base = self.volume.geometry.unit_offset(0);
        let found = self.file().seek_data(self.volume.geometry.unit_offset(unit))?;
        let number = found.map(|at| (at - base) / UNIT as u64);
        Ok(number.filter(|&n| n < unit_count(state.size)))
    }

    /// The first unit from `unit` on that is not stored; `None` if all are.
    fn first_hole(&self, state: &State, unit: u64) -> Result<Option<u64>> {
        let base = self.volume.geometry.unit_offset(0);
        let found = self.file().seek_hole(self.volume.geometry.unit_offset(unit))?;
        let number = found.map(|at| (at - base).div_ceil(UNIT as u64));
        Ok(number.filter(|&n| n < unit_count(state.size)))
    }

    /// The plaintext range that a stored unit holds data of: all of it between stored neighbours; beside a hole without
    /// the pages of zeros next to the hole.
    fn data_within(&self, state: &State, life: &Life, rule: Record, unit: u64) -> Result<(u64, u64)> {
        let start = unit_start(unit);
        let end = (start + DATA as u64).min(state.size);
        let hole_before = unit > 0 && self.first_data(state, unit - 1)? == Some(unit);
        let hole_behind = self.first_hole(state, unit)? == Some(unit + 1);
        if !hole_before && !hole_behind {
            return Ok((start, end));
        }
        let _held = self.units.shared(unit, unit);
        let used = (end - start) as usize;
        let edges = self.with_unit(life, rule, unit, |text| {
            let first = text[..used].iter().position(|&b| b != 0)?;
            let last = text[..used].iter().rposition(|&b| b != 0)?;
            Some((start + first as u64, start + last as u64))
        })?;
        // A unit of nothing but zeros beside a hole is as good as one.
        let Some((first, last)) = edges else { return Ok((end, end)) };
        let begin = if hole_before { (first / PAGE * PAGE).max(start) } else { start };
        let stop = if hole_behind { ((last / PAGE + 1) * PAGE).min(end) } else { end };
        Ok((begin, stop))
    }
}
