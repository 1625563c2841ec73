//! The only unsafe code: system calls and memory that no safe library offers.
#![allow(unsafe_code)]

pub mod arena;
pub mod dirs;
#[cfg(test)]
pub mod failing_disk;
pub mod file;
pub mod fuse_ring;
pub mod ofd;
pub mod page;
pub mod peer;
pub mod prefetch;
pub mod process;
pub mod reserve;
pub mod threads;
pub mod user;
pub mod wal_file;
pub mod wal_index;
pub mod wipe;
