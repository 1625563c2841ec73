//! Truncation in both directions.

use super::Result;
use super::file::Content;
use super::state::{Body, State};
use crate::format::Outcome;
use crate::format::size::{DATA, UNIT, unit_count, unit_start};
use crate::store::{Allocate, Backing, BackingFile};
use crate::sync::{Arc, write};

impl<B: Backing> Content<B> {
    /// Sets the plaintext size. To 0 it needs no key and works on damaged files too: it ends the file's life. What is
    /// new reads as zeros.
    ///
    /// # Errors
    /// `TooBig`, key outcomes when an empty file grows, [`super::Error::Unit`] if the new last unit is damaged, or the
    /// backing's error; the size is then what it was.
    pub fn truncate(&self, size: u64) -> Result<()> {
        self.before_change()?;
        if size > 0 && size < self.size() {
            self.raise_due();
        }
        let mut state = write(&self.state);
        if size == 0 {
            self.file().set_len(0)?;
            self.noted_empty();
            *state = State::empty();
            return Ok(());
        }
        let stored = self.volume.geometry.stored_size(size)?;
        match &state.body {
            Body::Empty => self.begin_life(&mut state, size, false, 0, &[]),
            Body::NeverSynced => {
                self.file().set_len(stored)?;
                state.size = size;
                Ok(())
            }
            Body::Unusable(outcome) => Err((*outcome).into()),
            Body::Suspended { .. } => Err(Outcome::KeyUnavailable.into()),
            // Also without a change: truncation moves the times.
            Body::Units { .. } if size == state.size => Ok(self.file().set_len(stored)?),
            Body::Units { .. } => {
                self.make_writable(&mut state)?;
                if size < state.size {
                    return self.shrink(&mut state, size);
                }
                state.gaps |= unit_count(size) > unit_count(state.size);
                self.grow(&mut state, size)
            }
        }
    }

    fn shrink(&self, state: &mut State, size: u64) -> Result<()> {
        let geometry = self.volume.geometry;
        let old_end = geometry.stored_size(state.size)?;
        self.before_holes(unit_count(size))?;
        self.lower_floor(state, size)?;
        let (life, rule) = state.units()?;
        let life = Arc::clone(life);
        let units = unit_count(size);
        let used = (size - unit_start(units - 1)) as usize;
        state.tail_clean = None;
        let failures = self.failures();
        state.cuts += 1;
        // From here on units can become holes below a size that stays what it is, if the cut fails.
        let gaps = std::mem::replace(&mut state.gaps, true);
        // How many units are left that are not holes.
        let mut kept = units;
        if used < DATA {
            if self.is_zero(&life, rule, units - 1, 0, used)? {
                // Nothing of what was written is left: a hole, or it would look like data beside the next that is written.
                kept = units - 1;
                self.before_holes(kept)?;
                self.allow_holes(state, kept)?;
            } else if failures > 0 || !self.is_zero(&life, rule, units - 1, used, DATA)? {
                self.reseal_tail(&life, rule, units - 1, used)?;
            }
        }
        let from = geometry.unit_offset(kept);
        let file = self.file();
        if let Err(error) = file.allocate(Allocate::PunchHole, from, old_end - from) {
            if error != rustix::io::Errno::OPNOTSUPP {
                return Err(error.into());
            }
            // Whole units: what is left of one would be taken for a damaged one if the cut does not happen.
            for at in (from..=geometry.unit_offset(units)).step_by(UNIT) {
                self.clear_trailing(at, UNIT)?;
            }
        }
        file.set_len(geometry.stored_size(size)?)?;
        self.noted_cut(kept)?;
        state.size = size;
        state.tail_clean = Some(failures);
        state.gaps = gaps || kept < units;
        Ok(())
    }
}
