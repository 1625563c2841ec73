//! Jobs over whole volumes: creating and opening one, verify, repair, rewrap.
//!
//! Nothing here prints: results are values, and long jobs tell a [`Progress`] how far they are.

pub mod config;
mod error;
pub mod files;
mod finding;
pub mod freshness;
pub mod impact;
pub mod info;
pub mod init;
pub mod lock;
mod modes;
mod names;
pub mod open;
mod progress;
pub mod repair;
pub mod resume;
pub mod rewrap;
pub mod salvage;
pub mod verify;
mod walk;

pub use error::VolumeError;
pub use finding::{Finding, Paths, Reason};
pub use modes::{modes_with_lock, modes_without_lock};
pub use progress::{Progress, Silent};
pub use walk::{LOST_AND_FOUND, Visit};
