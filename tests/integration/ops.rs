//! Volumes as a whole on the real key manager and a real directory: making, opening, verifying, rewrapping, repairing,
//! and every kind of damage.

mod damage;
pub mod host;
mod mended;
mod open;
mod plain_names;
pub mod recovery;
mod repair;
mod rewrap;
mod salvage;
mod verify;
