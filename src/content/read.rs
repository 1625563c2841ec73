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

impl<B: Backing> Content<B> {
    /// Hands the plaintext bytes `offset..offset + len`, as far as the file reaches, to `sink`, and returns its result.
    /// They are decrypted where they stay: nothing is copied and nothing allocated.
    ///
    /// # Errors
    /// [`Error::Unit`] for a unit that does not authenticate, the backing's error, or what the file was opened with.
    pub fn read<R>(&self, offset: u64, len: usize, sink: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let state = read(&self.state);
        let len = state.size.saturating_sub(offset).min(len as u64) as usize;
        if len == 0 {
            return Ok(sink(&[]));
        }
        if let Body::NeverSynced = state.body {
            return Ok(with_bulk(len.div_ceil(UNIT), |buf| {
                buf.fill(0);
                sink(&buf[..len])
            }));
        }
        let (life, rule) = state.units()?;
        let (first, start) = locate(offset);
        let (last, _) = locate(offset + len as u64 - 1);
        let held = self.units.shared(first, last);
        with_bulk((last - first + 1) as usize, |buf| {
            self.open_units(life, rule, first, buf)?;
            drop(held);
            Ok(sink(&buf[start..start + len]))
        })
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
