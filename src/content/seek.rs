//! SEEK_DATA and SEEK_HOLE.
//!
//! The backing knows holes in whole units. Applications, and filesystems under a page cache, know them in pages of 4096
//! bytes, and a page lies in two units of 4064: one that was written leaves parts of its neighbours stored, as zeros. So a
//! page is data if all its units are stored, or if one that is stored holds a byte of it that is not zero.
//!
//! Of a page that was never written both units can be stored only if both its neighbours were written. A hole of one page
//! between them passes for data then; every longer hole is found, to the page. To find that one too, all data would have
//! to be read.

use super::Result;
use super::file::Content;
use super::life::Life;
use super::state::{Body, State};
use crate::format::record::Record;
use crate::format::size::{DATA, UNIT, locate, unit_count, unit_start};
use crate::store::{Backing, BackingFile};
use crate::sync::{Arc, read};

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
        let units = state.units()?;
        let mut page = offset / PAGE;
        while page * PAGE < state.size {
            let Some(unit) = self.first_data(&state, locate(page * PAGE).0)? else { break };
            page = page.max(unit_start(unit) / PAGE);
            if self.is_data(&state, units, page)? {
                return Ok(Some((page * PAGE).max(offset)));
            }
            page += 1;
        }
        Ok(None)
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
        let units = state.units()?;
        let mut page = offset / PAGE;
        while page * PAGE < state.size {
            if !self.is_data(&state, units, page)? {
                return Ok(Some((page * PAGE).max(offset)));
            }
            let unit = self.first_hole(&state, locate(page * PAGE).0)?;
            // Where all units are stored, the last page is still to be looked at.
            page = (page + 1).max(unit.map_or(state.size - 1, unit_start) / PAGE);
        }
        Ok(Some(state.size))
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

    /// Whether a page that begins within the file is data.
    fn is_data(&self, state: &State, (life, rule): (&Arc<Life>, Record), page: u64) -> Result<bool> {
        let (begin, end) = (page * PAGE, ((page + 1) * PAGE).min(state.size));
        let (first, last) = (locate(begin).0, locate(end - 1).0);
        // What the end of the file leaves of a page can lie within a unit of the page before.
        let shared = first == last && unit_start(first) < begin;
        if !shared && self.first_hole(state, first)?.is_none_or(|hole| hole > last) {
            return Ok(true);
        }
        for unit in first..=last {
            if self.first_data(state, unit)? != Some(unit) {
                continue;
            }
            let start = unit_start(unit);
            let (from, to) = (begin.max(start) - start, end.min(start + DATA as u64) - start);
            let _held = self.units.shared(unit, unit);
            if !self.is_zero(life, rule, unit, from as usize, to as usize)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
