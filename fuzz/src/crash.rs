//! The crash test's steps, its disk, and what must hold after a power cut.

#![allow(dead_code, reason = "they serve the integration tests too")]

#[path = "../../tests/integration/crash/check.rs"]
mod check;
#[path = "../../tests/integration/crash/disk.rs"]
pub mod disk;
#[path = "../../tests/integration/crash/random.rs"]
pub mod random;
#[path = "../../tests/integration/crash/repaired.rs"]
mod repaired;
#[path = "../../tests/integration/crash/run.rs"]
pub mod run;
