//! Jobs over whole volumes: creating and opening one, verify, repair, rewrap.
//!
//! Nothing here prints: results are values, and long jobs tell a [`Progress`] how far they are.

pub mod files;
pub mod lock;
