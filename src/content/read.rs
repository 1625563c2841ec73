//! Reading.

use super::buffer::{with_bulk, with_edge};
use super::file::Content;
use super::life::Life;
use super::state::Body;
use super::{Error, Result};
use crate::format::Outcome;
use crate::format::record::Record;
use crate::format::size::{DATA, UNIT, locate};
use crate::store::{Backing, BackingFile};
use crate::sync::read;

/// Bytes of memory that reading `len` bytes takes: they stand in it from [`UNIT`] on.
pub const fn room_for(len: usize) -> usize {
    // One unit in front and one behind, of which the first and the last byte that is wanted may need all but one byte each.
    (len.div_ceil(DATA) + 2) * UNIT
}

impl<B: Backing> Content<B> {
    /// Hands the plaintext bytes `offset..offset + len`, as far as the file reaches, to `sink`, and returns its result.
    /// They are decrypted where they stay: nothing is copied and nothing allocated.
    ///
    /// # Errors
    /// [`Error::Unit`] for a unit that does not authenticate, the backing's error, or what the file was opened with.
    pub fn read<R>(&self, offset: u64, len: usize, sink: impl FnOnce(&[u8]) -> R) -> Result<R> {
        with_bulk(room_for(len) / UNIT, |room| {
            let len = self.read_within(offset, len, room)?;
            Ok(sink(&room[UNIT..UNIT + len]))
        })
    }

    /// Reads the plaintext bytes `offset..offset + len`, as far as the file reaches, into `room[UNIT..]`; answers how many.
    /// The rest of `room`, which has [`room_for`] bytes, is for the ciphertext: it is decrypted so that the plaintext comes to
    /// stand there.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_within(&self, offset: u64, len: usize, room: &mut [u8]) -> Result<usize> {
        if self.volume.read_attempts == 1 {
            return self.read_known(offset, len, room);
        }
        // Beside a writer outside of this process.
        if self.size_was_changed() {
            self.reload_or_keep();
        }
        match self.read_known(offset, len, room) {
            Err(Error::Unit { .. }) => {
                self.reload_or_keep();
                self.read_known(offset, len, room)
            }
            other => other,
        }
    }

    /// As [`Self::read_within`], by what is known of the file.
    fn read_known(&self, offset: u64, len: usize, room: &mut [u8]) -> Result<usize> {
        let state = read(&self.state);
        let len = state.size.saturating_sub(offset).min(len as u64) as usize;
        if len == 0 {
            return Ok(0);
        }
        if let Body::NeverSynced = state.body {
            room[UNIT..UNIT + len].fill(0);
            return Ok(len);
        }
        let (life, rule) = state.units()?;
        let (first, start) = locate(offset);
        let (last, _) = locate(offset + len as u64 - 1);
        let _held = self.units.shared(first, last);
        // Bytes of the first unit before `start` stand before room[UNIT].
        let units = &mut room[UNIT - start..][..(last - first + 1) as usize * UNIT];
        self.open_units(life, rule, first, units)?;
        Ok(len)
    }

    /// What is open goes on by what was known of it, if what is stored now cannot be opened, or not with the keys at hand.
    fn reload_or_keep(&self) {
        if let Err(error) = self.reload() {
            tracing::debug!("a file that changed cannot be opened anew: {error}");
        }
    }

    /// Reads the units `first..` that fill `buf` and leaves their plaintext in one piece at its front.
    pub(super) fn open_units(&self, life: &Life, rule: Record, first: u64, buf: &mut [u8]) -> Result<()> {
        let file = self.file();
        let mut attempt = 1;
        loop {
            let done = self.load_units(&*file, first, buf).and_then(|()| {
                let heads = self.heads(buf);
                let mut reader = life.reader();
                (0..buf.len() / UNIT).try_for_each(|k| {
                    let unit = &mut buf[DATA * k..UNIT * (k + 1)];
                    reader.open(first + k as u64, unit, (UNIT - DATA) * k, rule)
                })?;
                self.check_versions(first, &heads)
            });
            match done {
                Err(Error::Unit { .. }) if attempt < self.volume.read_attempts => attempt += 1,
                other => return other,
            }
        }
    }

    fn load_units(&self, file: &B::File, first: u64, buf: &mut [u8]) -> Result<()> {
        let got = file.read_at(buf, self.volume.geometry.unit_offset(first))?;
        if got < buf.len() {
            return Err(Error::Unit { unit: first + (got / UNIT) as u64, outcome: Outcome::Truncated });
        }
        Ok(())
    }

    /// Hands the 4064 plaintext bytes of one unit to `work`; the buffer is the thread's own for single units.
    pub(super) fn with_unit<R>(
        &self,
        life: &Life,
        rule: Record,
        unit: u64,
        work: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R> {
        with_edge(|buf| {
            self.open_units(life, rule, unit, buf)?;
            Ok(work(&mut buf[..DATA]))
        })
    }
}
