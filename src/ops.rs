//! Jobs over whole volumes: creating and opening one, verify, repair, rewrap.
//!
//! Nothing here prints: results are values, and long jobs tell a [`Progress`] how far they are.

pub mod config;
mod error;
pub mod files;
pub mod info;
pub mod init;
pub mod lock;
pub mod open;
mod progress;
pub mod repair;

pub use error::VolumeError;
pub use progress::{Progress, Silent};
