//! The embedded key manager: AWS KMS's semantics in process.
//!
//! [`custody`] keeps the root key and the domain keys, [`store`] the sealed rows, [`engine`] executes the
//! operations of [`model`], [`api`] reads and writes them as AWS's JSON, [`audit`] records every call, [`registry`] remembers the volumes. Nothing here knows of
//! files; `docs/KMS.md` says what is built and how it is stored.

pub mod api;
pub mod audit;
pub mod backup;
pub mod blob;
pub mod bundle;
mod crash;
pub mod custody;
pub mod engine;
mod error;
mod json;
pub mod lock_file;
pub mod model;
mod object;
pub mod policy;
pub mod quota;
pub mod registry;
pub mod rekey;
mod seal;
pub mod store;
mod token;
mod usage;
mod wrapping;

pub use engine::Engine;
pub use error::{KeyStoreFault, KmsError, OpenError};
pub use usage::is_use;
