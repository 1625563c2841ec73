//! Newtypes that every layer speaks: ids, key names and time stamps.

mod arn;
mod context;
mod id;
mod timestamp;

pub use arn::{AccountId, KeyArn, ParseArnError, Region};
pub use context::EncryptionContext;
pub use id::{BranchId, DirId, FileId, ParseIdError, VolumeId};
pub use timestamp::Timestamp;
