//! Freshness of a volume (ADR 12): a record, kept away from the ciphertext, of which object stands under which name and of
//! which version each unit, header and size is. By it a swap, move, deletion or rollback of what lies in the ciphertext
//! directory is noticed, though every part of it is authentic.
//!
//! The record on disk is a settled state and the set of objects that have changed since: an object is marked, durably,
//! before its first change, and settled again when what it became is durable. After a crash whatever is marked may be
//! newer than its record, never older; everything else has to be exactly what the record says.
//!
//! Damage of the record costs what it is of, and is told from damage of the volume: a name, a file or 64 units are `Unvouched`
//! until somebody accepts them.
//!
//! Lock order: [`Freshness::begin_change`], a directory's or file's state, the sets of the known, the table.

mod accept;
mod clock;
mod directory;
mod error;
mod file;
mod found;
mod names;
#[cfg(test)]
mod power_cut;
mod scan;
mod settle;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod trim;

pub use clock::{Run, Version};
pub use directory::{FoundEntry, Reconciled, TrackedDir};
pub use error::Error;
pub use file::{Found, InUse, SyncPoint, TrackedFile};
pub use found::inode_mark;
pub use names::Place;
pub use scan::set_aside;
pub use state::{Changing, Freshness};
pub use table::{Target, UNITS_PER_CHUNK};
