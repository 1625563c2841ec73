//! What is known of a file's content while it is open.

use std::ops::Range;

use super::error::Error;
use super::life::Life;
use crate::format::Outcome;
use crate::format::record::Record;
use crate::format::size::unit_count;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::types::{FileId, KeyArn};

/// Everything under the state lock.
pub(super) struct State {
    /// Plaintext size in bytes.
    pub(super) size: u64,
    pub(super) body: Body,
    /// How many flushes had failed when the bytes behind the end, in the tail unit and in the trailing area, were found or made
    /// zero. A crash can leave old bytes there, so a file that was opened is not clean until somebody looked (FORMAT S7), and
    /// a flush that failed may have lost the zeros.
    pub(super) tail_clean: Option<u64>,
    /// Counts cuts and holes that were made. A flush vouches for the size it began with only if there was none meanwhile:
    /// what was cut and grew back is not durable, though the size is as large as before.
    pub(super) cuts: u64,
    /// Whether a unit above the floor may be a hole. False only if this mount wrote all of them.
    pub(super) gaps: bool,
}

/// What the file consists of.
pub(super) enum Body {
    /// Nothing: 0 bytes, no header, no key.
    Empty,
    /// Header and units.
    Units {
        life: Arc<Life>,
        record: Record,
        /// What of the record the disk has for certain.
        durable: DurableRecord,
        /// Two valid recipient slots: a re-wrap that did not finish.
        unfinished_rewrap: bool,
    },
    /// A size without a single byte on disk: reads as zeros (FORMAT 5.4).
    NeverSynced,
    /// Cannot be read or written, only be truncated to 0.
    Unusable(Outcome),
    /// Header and units, whose keys were let go of: everything is on disk, and is read from there when they are back.
    Suspended {
        file_id: FileId,
        /// Sequence number of the record.
        seq: u64,
        /// The KMS key that has to be usable again.
        key: Option<KeyArn>,
    },
}

/// How far the record on disk may lag behind the one in memory. Raising the floor needs no flush, so the disk may have an
/// older record: that is harmless for what it vouches for, but whoever cuts the file or makes a hole relies on the newer
/// one. After a flush that failed, or in a file opened after its writer was killed, that cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DurableRecord {
    /// The floor on disk is not above the one in memory.
    pub(super) floor: bool,
    /// If the record marks holes, the one on disk does too.
    pub(super) holes: bool,
}

impl DurableRecord {
    /// Nothing is lacking: the record is new with its header, or was just flushed.
    pub(super) const ALL: Self = Self { floor: true, holes: true };

    /// Of a file that is opened: only a floor that was being lowered is below the size it was lowered for.
    pub(super) fn found(record: &Record, size: u64) -> Self {
        Self { floor: record.floor >= size, holes: !record.has_holes }
    }
}

/// What a flush that is about to begin will vouch for.
pub(super) struct Raise {
    file_id: FileId,
    /// The size that it covers.
    pub(super) floor: u64,
    /// [`State::cuts`] at that time.
    cuts: u64,
    /// Units of which one may be a hole without a record that says so.
    pub(super) unsure: Range<u64>,
}

/// A bound that is durable and that the header does not have yet.
pub(super) struct Due {
    pub(super) raise: Raise,
    /// Whether a unit below it is a hole.
    pub(super) holes: bool,
}

impl Raise {
    /// `None` if the bound is as high already.
    pub(super) fn to_size_of(state: &State) -> Option<Self> {
        let Body::Units { life, record, .. } = &state.body else { return None };
        let unsure = match state.gaps && !record.has_holes {
            true => unit_count(record.floor)..unit_count(state.size),
            false => 0..0,
        };
        (state.size > record.floor).then_some(Self {
            file_id: life.file_id,
            floor: state.size,
            cuts: state.cuts,
            unsure,
        })
    }

    /// Whether the file is still the one that it was made for, and no unit of it was cut off or made a hole since.
    pub(super) fn holds_of(&self, state: &State) -> bool {
        let file_id = match &state.body {
            Body::Units { life, .. } => Some(life.file_id),
            Body::Suspended { file_id, .. } => Some(*file_id),
            Body::Empty | Body::NeverSynced | Body::Unusable(_) => None,
        };
        state.cuts == self.cuts && file_id == Some(self.file_id)
    }
}

impl State {
    pub(super) fn empty() -> Self {
        Self { size: 0, body: Body::Empty, tail_clean: None, cuts: 0, gaps: false }
    }

    /// Life and record of a file that has units.
    pub(super) fn units(&self) -> Result<(&Arc<Life>, Record), Error> {
        match &self.body {
            Body::Units { life, record, .. } => Ok((life, *record)),
            Body::Unusable(outcome) => Err((*outcome).into()),
            Body::Suspended { .. } => Err(Outcome::KeyUnavailable.into()),
            Body::Empty | Body::NeverSynced => unreachable!("callers handle files without units first"),
        }
    }
}

/// Whether the keys of an open file are at hand, and so who may pass.
#[derive(Default)]
pub(super) struct Gate(AtomicU8);

impl Gate {
    /// Everybody.
    pub(super) const OPEN: u8 = 0;
    /// Only what the kernel writes back.
    pub(super) const DRAINING: u8 = 1;
    /// Nobody, before the keys are back.
    pub(super) const SUSPENDED: u8 = 2;

    pub(super) fn is(&self, state: u8) -> bool {
        self.0.load(Ordering::Acquire) == state
    }

    pub(super) fn set(&self, state: u8) {
        self.0.store(state, Ordering::Release);
    }
}
