//! The audit log: one JSON line per call, in CloudTrail's shape, chained by hashes and authenticated (KMS.md section
//! 17).
//!
//! Changes put their record into the database's outbox within their own transaction, so that a record exists exactly
//! if the change does; cryptographic calls and refusals are queued in memory and appended by a background thread. One
//! lock file serialises the appending of all processes. While a process that was stopped or hangs holds it, the records of the others
//! go into the outbox, and who waited for it fails. The head of the chain stands in the database, so that cutting
//! off the log's end is noticed.

mod batch;
mod canonical;
mod event;
mod log;
mod outbox;
mod recorder;
mod verify;

use std::path::{Path, PathBuf};

pub(in crate::kms) use canonical::{Canonical, Member};
pub(in crate::kms) use event::{Event, EventKind, Ids, Rendered, ServiceEvent};
pub(in crate::kms) use log::{read_head, write_first_head};
pub(in crate::kms) use outbox::wait;
pub use recorder::AuditLog;

use crate::kms::store::StoreError;
use crate::kms::{KmsError, lock_file};
use crate::types::{KeyArn, Timestamp};

/// Why the audit log could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file of the log.
    #[error("audit log {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The head of the chain in the database was not written by this key manager.
    #[error("the head of the audit chain in the database has a wrong MAC; see: kmsfs audit verify")]
    ForgedHead,
    /// The head of the chain in the database is gone.
    #[error("the head of the audit chain is missing in the database; see: kmsfs audit verify")]
    MissingHead,
    /// The note of a key's last use was not written by this key manager.
    #[error("the note of the last use of {0} in the database has a wrong MAC; see: kmsfs audit show --key")]
    ForgedUsage(KeyArn),
}

impl AuditError {
    /// Whether somebody changed the head of the chain: a finding, which a later attempt does not heal.
    fn is_broken_head(&self) -> bool {
        matches!(self, Self::ForgedHead | Self::MissingHead)
    }

    /// The same with who holds the database, if that is what is wrong.
    fn with_holder(self, database: &Path) -> Self {
        match self {
            Self::Store(error) => Self::Store(error.with_holder(database)),
            other => other,
        }
    }

    /// Whether another process holds the log, for longer than anything takes.
    pub(in crate::kms) fn is_held(&self) -> bool {
        matches!(self, Self::Io { source, .. } if lock_file::is_held(source))
    }
}

impl From<rusqlite::Error> for AuditError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Which records to show; all that are given must match.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Part of a key's ARN, or of the key as the caller named it.
    pub key: Option<String>,
    /// Part of the principal's ARN.
    pub principal: Option<String>,
    /// The event's name, for example `Decrypt`.
    pub event: Option<String>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// Only calls that were refused or failed.
    pub errors_only: bool,
    /// Only the last so many of those that match.
    pub last: Option<usize>,
}

/// How far a reader has come in the log.
#[derive(Debug, Clone, Default)]
pub struct AuditPosition {
    file: Option<PathBuf>,
    offset: u64,
}

/// When a cryptographic call is answered with regard to its record. Changes are always durable, record included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuditMode {
    /// Its record follows within 100 ms; it is answered also while the log cannot be written.
    #[default]
    Batched,
    /// Its record follows within 100 ms; it is refused while the log cannot be written.
    Required,
    /// Its record is durable before the answer.
    Durable,
}

impl AuditMode {
    const ALL: [(&'static str, Self); 3] =
        [("batched", Self::Batched), ("required", Self::Required), ("durable", Self::Durable)];
}

impl std::str::FromStr for AuditMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, mode)| mode).ok_or_else(|| format!("'{text}' is none of batched, required, durable"))
    }
}

/// Outcome of [`AuditLog::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// Records that were proven, from the first or from the last break that was accepted.
    pub records: u64,
    /// Files of the log.
    pub files: usize,
    /// The first place where the chain does not hold.
    pub first_break: Option<AuditBreak>,
    /// Why the chain did not hold, where that was accepted; what is proven begins behind it.
    pub accepted: Option<String>,
}

/// Where and why the chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditBreak {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// What is wrong.
    pub reason: String,
}
