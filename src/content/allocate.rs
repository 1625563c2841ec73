//! fallocate(2): reserving space, making holes and zeros.

use rustix::io::Errno;

use super::Result;
use super::file::Content;
use super::life::Life;
use super::state::{Body, State};
use crate::format::Outcome;
use crate::format::size::{DATA, locate, unit_count, unit_start};
use crate::store::{Allocate, Backing, BackingFile};
use crate::sync::{Arc, write};

/// The modes of fallocate(2) that an encrypted file can do. Moving data (collapse, insert) it cannot: every unit is
/// bound to its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FallocateMode {
    /// Reserve space for the range; grow the file if it ends before the range does.
    Allocate,
    /// Reserve space for the range, also behind the end.
    KeepSize,
    /// Make the range a hole, the size stays.
    PunchHole,
    /// Make the range zeros and keep its space.
    ZeroRange {
        /// Whether the size stays when the range ends behind it.
        keep_size: bool,
    },
}

impl<B: Backing> Content<B> {
    /// Changes the allocation of `offset..offset + len` (`len` above 0).
    ///
    /// # Errors
    /// `TooBig`, key outcomes when an empty file grows, [`super::Error::Unit`] if an edge lies in a damaged unit, or
    /// the backing's error.
    pub fn fallocate(&self, mode: FallocateMode, offset: u64, len: u64) -> Result<()> {
        let end = offset.checked_add(len).filter(|&end| end <= self.volume.geometry.max_size());
        let end = end.ok_or(Outcome::TooBig)?;
        self.before_change()?;
        if matches!(mode, FallocateMode::PunchHole | FallocateMode::ZeroRange { .. }) {
            self.raise_due();
        }
        let mut state = write(&self.state);
        if let Body::Unusable(outcome) = state.body {
            return Err(outcome.into());
        }
        if let Body::Suspended { .. } = state.body {
            return Err(Outcome::KeyUnavailable.into());
        }
        match mode {
            FallocateMode::KeepSize => self.reserve(&state, offset, end),
            FallocateMode::Allocate => {
                // Space first: when it runs out, nothing has changed.
                self.reserve(&state, offset, end)?;
                self.grow_to(&mut state, end)
            }
            FallocateMode::PunchHole => self.clear(&mut state, offset, end, Allocate::PunchHole),
            FallocateMode::ZeroRange { keep_size } => {
                if !keep_size {
                    self.reserve(&state, offset, end)?;
                    self.grow_to(&mut state, end)?;
                }
                self.clear(&mut state, offset, end, Allocate::ZeroRange)
            }
        }
    }

    /// Reserves the blocks of the units that the range touches; of an empty file those of the header too, which comes with the first
    /// byte.
    fn reserve(&self, state: &State, offset: u64, end: u64) -> Result<()> {
        let geometry = self.volume.geometry;
        let from = if let Body::Empty = state.body { 0 } else { geometry.unit_offset(locate(offset).0) };
        let to = geometry.unit_offset(unit_count(end));
        Ok(self.file().allocate(Allocate::KeepSize, from, to - from)?)
    }

    fn grow_to(&self, state: &mut State, end: u64) -> Result<()> {
        if end <= state.size {
            return Ok(());
        }
        if let Body::Empty = state.body {
            return self.begin_life(state, end, false, 0, &[]);
        }
        self.make_writable(state)?;
        state.gaps |= unit_count(end) > unit_count(state.size);
        self.grow(state, end)
    }

    /// Makes the part of the range that lies within the file read as zeros: whole units by the backing, edges by
    /// sealing them anew.
    fn clear(&self, state: &mut State, offset: u64, end: u64, how: Allocate) -> Result<()> {
        let end = end.min(state.size);
        if offset >= end || matches!(state.body, Body::Empty | Body::NeverSynced) {
            return Ok(());
        }
        self.make_writable(state)?;
        let (first, last) = (locate(offset).0, locate(end - 1).0);
        let first_whole = first + u64::from(!self.is_cleared(state, first, offset, end)?);
        let end_whole = last + u64::from(self.is_cleared(state, last, offset, end)?);
        if first_whole < end_whole {
            self.before_holes(first_whole)?;
            self.allow_holes(state, first_whole)?;
            state.gaps = true;
            state.cuts += 1;
        }
        let (life, _) = state.units()?;
        let life = Arc::clone(life);
        if first_whole >= end_whole {
            // The range lies in one unit, or in two neighbours of which neither is covered.
            let middle = unit_start(first_whole).clamp(offset, end);
            self.zero_part(state, &life, offset, middle)?;
            return self.zero_part(state, &life, middle, end);
        }
        self.zero_part(state, &life, offset, unit_start(first_whole))?;
        self.zero_part(state, &life, unit_start(end_whole).min(end), end)?;
        let geometry = self.volume.geometry;
        let from = geometry.unit_offset(first_whole);
        let len = geometry.unit_offset(end_whole) - from;
        let file = self.file();
        match file.allocate(how, from, len) {
            Err(Errno::OPNOTSUPP) if how == Allocate::ZeroRange => {
                self.seal_zeros(state, &life, first_whole, end_whole)
            }
            other => {
                other?;
                self.noted_holes(first_whole, end_whole)
            }
        }
    }

    /// Whether the range leaves nothing but zeros of a unit at one of its ends: then the whole unit goes, and holes that
    /// are punched piece by piece are those that one punch makes.
    fn is_cleared(&self, state: &State, unit: u64, offset: u64, end: u64) -> Result<bool> {
        let start = unit_start(unit);
        let valid = (state.size - start).min(DATA as u64) as usize;
        let from = offset.saturating_sub(start) as usize;
        let to = ((end - start) as usize).min(valid);
        if from == 0 && to == valid {
            return Ok(true);
        }
        let (life, rule) = state.units()?;
        self.with_unit(life, rule, unit, |text| {
            [&text[..from], &text[to..valid]].iter().all(|rest| rest.iter().all(|&b| b == 0))
        })
    }

    fn zero_part(&self, state: &State, life: &Life, from: u64, to: u64) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        let (_, rule) = state.units()?;
        let len = (to - from) as usize;
        let (number, at) = locate(from);
        if self.failures() == 0 && self.is_zero(life, rule, number, at, at + len)? {
            // A hole stays one. After a flush that failed the disk may have something else than can be read.
            return Ok(());
        }
        self.put(life, rule, state.size, from, &[0; DATA][..len])
    }

    /// Zeros for backings that cannot make them.
    fn seal_zeros(&self, state: &State, life: &Life, first: u64, end: u64) -> Result<()> {
        const BATCH: u64 = 64;
        let zeros = vec![0; BATCH as usize * DATA];
        let (_, rule) = state.units()?;
        let mut next = first;
        while next < end {
            let from = unit_start(next);
            let to = unit_start((next + BATCH).min(end)).min(state.size);
            self.put(life, rule, state.size, from, &zeros[..(to - from) as usize])?;
            next += BATCH;
        }
        Ok(())
    }
}
