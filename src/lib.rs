//! kmsfs: a transparent encrypting filesystem with an embedded AWS-KMS-compatible key manager.
//!
//! The modules form layers; each imports only lower ones (`tests/integration/architecture.rs` checks it):
//!
//! | level | module |
//! | --- | --- |
//! | 0 | [`types`], [`sync`], [`env`], [`sys`] |
//! | 1 | [`crypto`] |
//! | 2 | [`format`] |
//! | 3 | [`kms`], `store` |
//! | 4 | `keys`, `freshness` |
//! | 5 | `content` |
//! | 6 | `vfs`, [`ops`] |
//! | 7 | `fuse` |
//! | 8 | [`server`] |
//! | 9 | [`cli`] |
#![deny(unsafe_code, unused_must_use, clippy::undocumented_unsafe_blocks)]
#![warn(missing_docs)]

pub mod cli;
pub mod content;
pub mod crypto;
pub mod env;
pub mod format;
pub mod freshness;
pub mod fuse;
pub mod keys;
pub mod kms;
pub mod ops;
pub mod server;
pub mod store;
pub mod sync;
pub mod sys;
pub mod types;
pub mod vfs;
