//! Reading a whole file once, around its damage.

use super::Result;
use super::buffer::with_bulk;
use super::error::Error;
use super::file::Content;
use super::state::Body;
use crate::format::size::{DATA, UNIT, unit_count, unit_start};
use crate::store::{Backing, BackingFile};
use crate::sync::read;

/// Units read at once.
const BATCH: u64 = 256;
/// How many units lie behind the reader before the cache lets go of them.
const BEHIND: u64 = 16 * BATCH;

/// A part of a file, as [`Content::scan`] meets it.
#[derive(Debug)]
pub enum Piece<'a> {
    /// Authentic plaintext.
    Data {
        /// Where it begins.
        offset: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// Zeros that take no space.
    Hole {
        /// Where they begin.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// A unit that cannot be read, or is not what was written.
    Damaged {
        /// Its number.
        unit: u64,
        /// What is wrong with it.
        error: Error,
    },
}

impl<B: Backing> Content<B> {
    /// Reads and authenticates the file from unit `from` on and hands it to `piece`, front to back without gaps, until that
    /// answers false. Goes on after damage. What was read does not stay in the cache of the backing.
    ///
    /// # Errors
    /// Only what keeps it from going on: what the file was opened with.
    pub fn scan(&self, from: u64, mut piece: impl FnMut(Piece<'_>) -> bool) -> Result<()> {
        let file = self.file();
        file.read_ahead();
        let done = self.scan_on(&file, from, &mut piece);
        file.forget(0, 0);
        done
    }

    fn scan_on(&self, file: &B::File, from: u64, piece: &mut dyn FnMut(Piece<'_>) -> bool) -> Result<()> {
        let (mut next, mut forgotten) = (from, from);
        loop {
            let state = read(&self.state);
            let end = unit_count(state.size);
            if next >= end {
                return Ok(());
            }
            let len_of = |units: u64| (units * DATA as u64).min(state.size - unit_start(next));
            if let Body::NeverSynced = state.body {
                piece(Piece::Hole { offset: unit_start(next), len: len_of(end - next) });
                return Ok(());
            }
            let (life, rule) = state.units()?;
            // If this unit may be a hole, so may all behind it: what the backing says is none needs no reading. Where it
            // cannot tell, the units are read.
            if rule.check_zero_unit(next).is_ok()
                && let Ok(data) = self.first_data(&state, next)
                && data.unwrap_or(end) > next
            {
                let mut units = data.unwrap_or(end) - next;
                match self.stale_hole(next, units)? {
                    None => {}
                    Some((unit, _)) if unit > next => units = unit - next,
                    Some((unit, outcome)) => {
                        if !piece(Piece::Damaged { unit, error: Error::Unit { unit, outcome } }) {
                            return Ok(());
                        }
                        next += 1;
                        continue;
                    }
                }
                if !piece(Piece::Hole { offset: unit_start(next), len: len_of(units) }) {
                    return Ok(());
                }
                next += units;
                continue;
            }
            let units = BATCH.min(end - next);
            let _held = self.units.shared(next, next + units - 1);
            let whole = with_bulk(units as usize, |buf| {
                self.open_units(life, rule, next, buf)?;
                Ok::<_, Error>(piece(Piece::Data { offset: unit_start(next), bytes: &buf[..len_of(units) as usize] }))
            });
            let go_on = match whole {
                Ok(go_on) => go_on,
                Err(_) => (next..next + units).all(|unit| {
                    let offset = unit_start(unit);
                    let len = (state.size - offset).min(DATA as u64) as usize;
                    let one =
                        self.with_unit(life, rule, unit, |bytes| piece(Piece::Data { offset, bytes: &bytes[..len] }));
                    one.unwrap_or_else(|error| piece(Piece::Damaged { unit, error }))
                }),
            };
            if !go_on {
                return Ok(());
            }
            next += units;
            if next - forgotten >= BEHIND {
                file.forget(self.volume.geometry.unit_offset(forgotten), (next - forgotten) * UNIT as u64);
                forgotten = next;
            }
        }
    }
}
