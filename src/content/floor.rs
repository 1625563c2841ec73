//! The authenticated lower bound of the size (FORMAT 5.2): what a flush vouches for, and when the header says so.

use std::ops::Range;
use std::sync::TryLockError;

use super::Result;
use super::file::Content;
use super::state::{Body, Due, Raise, State};
use crate::store::{Backing, BackingFile};
use crate::sync::{lock, read, write};

impl<B: Backing> Content<B> {
    /// Makes what was written durable, and raises the bound to what the flush covered.
    ///
    /// # Errors
    /// The backing's error; the bound is then not raised.
    pub fn sync(&self, data_only: bool) -> Result<()> {
        self.flush(data_only)?;
        self.raise_floor()
    }

    /// Makes what was written durable. The bound is left to [`Self::raise_due`]: whether it is due.
    ///
    /// # Errors
    /// The backing's error.
    pub(super) fn flush(&self, data_only: bool) -> Result<bool> {
        if self.failures() > 0 && self.is_writable() {
            self.renew_header()?;
        }
        let (point, raise) = {
            let state = read(&self.state);
            if let Body::Suspended { .. } = state.body {
                // Its flush may still be under way. If that fails, who asks learns of it by `failures`.
                self.noted(self.file().sync(data_only))?;
                return Ok(false);
            }
            (self.begin_recorded_sync(&state), Raise::to_size_of(&state))
        };
        let raise = self.with_holes(raise);
        self.noted(self.file().sync(data_only))?;
        self.end_recorded_sync(point)?;
        let Some((raise, holes)) = raise else { return Ok(false) };
        if !holes && !raise.unsure.is_empty() {
            let mut state = write(&self.state);
            // Need not be looked for again, also before the record says so.
            if raise.holds_of(&state) && raise.floor == state.size {
                state.gaps = false;
            }
        }
        let mut due = lock(&self.due);
        let state = read(&self.state);
        // Of two flushes the one that began first may end last.
        let is_known = |due: &Due| due.raise.floor >= raise.floor && due.raise.holds_of(&state);
        if !raise.holds_of(&state) || due.as_deref().is_some_and(is_known) {
            return Ok(false);
        }
        *due = Some(Box::new(Due { raise, holes }));
        Ok(true)
    }

    /// Raises the bound in the header to what the last flush covered, if that is still so. When this returns, nobody else is about
    /// to write what was due: the header may be read, or left to who opens the file next.
    ///
    /// # Errors
    /// The backing's error; the bound is then due still.
    fn raise_floor(&self) -> Result<()> {
        self.settle(&mut lock(&self.due), &mut write(&self.state))
    }

    fn settle(&self, due: &mut Option<Box<Due>>, state: &mut State) -> Result<()> {
        let Some(Due { raise, holes }) = due.as_deref() else { return Ok(()) };
        self.raise_to(state, raise, *holes)?;
        *due = None;
        Ok(())
    }

    fn raise_to(&self, state: &mut State, raise: &Raise, holes: bool) -> Result<()> {
        // After a failure nobody can tell what reached the disk, not even when a later flush succeeds.
        if self.failures() > 0 || !raise.holds_of(state) {
            return Ok(());
        }
        self.before_change()?;
        let Body::Units { life, record, durable, .. } = &mut state.body else { return Ok(()) };
        if raise.floor <= record.floor {
            return Ok(());
        }
        let has_holes = record.has_holes || holes;
        durable.holes &= has_holes == record.has_holes;
        self.write_records(life, record, raise.floor, has_holes)
    }

    /// Raises the bound, if it is due, where nobody waits for it. To be called before the file is cut or gets holes, and by its last user:
    /// whoever opens it next reads the header.
    pub fn raise_due(&self) {
        told(self.raise_floor());
    }

    /// As [`Self::raise_due`]; false if somebody is using the file, which may take as long as a disk or a key manager does.
    pub(super) fn try_raise_due(&self) -> bool {
        let mut due = lock(&self.due);
        let mut state = match self.state.try_write() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        told(self.settle(&mut due, &mut state));
        true
    }

    /// What a flush can vouch for, and whether there are holes in it. To be asked before the flush, and under no lock: a hole that is
    /// filled meanwhile, as the kernel fills those of a mapped file, may miss the flush. Where the units cannot be looked at, the
    /// bound stays.
    pub(super) fn with_holes(&self, raise: Option<Raise>) -> Option<(Raise, bool)> {
        let raise = raise.filter(|_| self.is_writable() && self.failures() == 0)?;
        let holes = self.any_hole(raise.unsure.clone()).ok()?;
        Some((raise, holes))
    }

    /// Whether one of these units is a hole: only holes begin with zeros, as an epoch never does. The units are looked at one by one, because SEEK_HOLE does not tell: ext4 reports reserved, unwritten space as data once it was
    /// read, other filesystems report no holes at all.
    fn any_hole(&self, units: Range<u64>) -> Result<bool> {
        let file = self.file();
        for unit in units {
            let mut epoch = [0; 12];
            file.read_at(&mut epoch, self.volume.geometry.unit_offset(unit))?;
            if epoch == [0; 12] {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn told(raised: Result<()>) {
    if let Err(error) = raised {
        tracing::warn!("how long a file is at least was not recorded after its flush: {error}");
    }
}
