//! KFS1, the on-disk format: bytes <-> types. No I/O.
//!
//! The authority is `docs/FORMAT.md`; "FORMAT 5.2" in a comment is its section 5.2.

pub mod branch;
mod bytes;
pub mod context;
pub mod dirid;
pub mod header;
pub mod keys;
pub mod name;
mod outcome;
pub mod recipient;
pub mod record;
pub mod size;
pub mod slot;
pub mod symlink;
pub mod unit;
pub mod volume;
pub mod xattr;

pub use outcome::{Outcome, Severity};
