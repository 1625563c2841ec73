//! The key store: one SQLite database, used by several processes at once (KMS.md section 19).
//!
//! Rows are JSON records with a MAC; secrets stand beside them, sealed by the domain key of the present epoch. Every
//! change gives its rows a new revision, and a keyed digest over all (table, id, revision) stands in the root file:
//! an old, once valid row that is put back is noticed. There is one implementation, hence no trait: SQLite in a
//! temporary directory is what tests need too, because they exercise several processes' worth of connections.

mod change;
mod clock;
mod identities;
mod inspect;
mod key_index;
mod key_stores;
mod packed;
mod records;
mod rekey;
mod rows;
mod schema;
mod shelves;
mod snapshot;
mod state;
mod whole;

use std::path::{Path, PathBuf};

pub(in crate::kms) use change::{Change, create};
pub(in crate::kms) use identities::*;
pub use inspect::Inspection;
pub(in crate::kms) use inspect::inspect;
pub(in crate::kms) use key_stores::*;
pub(in crate::kms) use records::*;
pub(in crate::kms) use rekey::rekey;
pub(in crate::kms) use rows::{RECORDS, meta, set_meta};
pub(in crate::kms) use schema::{connect, usage_since};
pub(in crate::kms) use snapshot::{DueKind, Record, Snapshot, below};
pub(in crate::kms) use state::Store;

use crate::kms::custody::CustodyError;
use crate::kms::lock_file::Held;
use crate::sys::wal_file;

/// Why the database could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite.
    #[error("the key manager's database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// Another process is in the middle of a change, for longer than any takes (exit code 14).
    #[error("the key manager's database {path} is locked: {held}")]
    Locked {
        /// The database.
        path: PathBuf,
        /// By whom, and what to do about it.
        held: Held,
    },
    /// A row or secret is not what this key manager wrote (exit code 16).
    #[error("the key manager's database {path} is damaged or was changed from outside: {what}")]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A newer program has changed the schema of the database.
    #[error(
        "the key manager's database {path} has version {version} of the schema; this program knows versions up to \
         {known}: use the newer program that made it"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        version: usize,
        /// The latest version that this program knows.
        known: usize,
    },
    /// The database is older or newer than the root file (exit code 16).
    #[error(
        "the key manager's database {path} is not the one that was last written ({what}); if you restored a backup on \
         purpose, accept it with: kmsfs doctor --accept-database"
    )]
    NotCurrent {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The database belongs to an epoch whose domain key was destroyed.
    #[error(
        "the key manager's database {path} belongs to epoch {epoch} of the domain key, which was destroyed when a key \
         was deleted, or by kmsfs kms rekey; restore a newer backup, or root.json as it was last"
    )]
    EpochGone {
        /// The database.
        path: PathBuf,
        /// Its epoch.
        epoch: u64,
    },
    /// Other processes have the database open.
    #[error("the database {0} is in use: unmount all volumes of this key manager and stop kmsfs serve first")]
    InUse(PathBuf),
    /// The root file.
    #[error(transparent)]
    Custody(#[from] CustodyError),
}

impl StoreError {
    /// The same with who holds the database, if that is what is wrong.
    pub(in crate::kms) fn with_holder(self, database: &Path) -> Self {
        use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
        match self {
            Self::Sqlite(error) if matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked)) => {
                Self::Locked { path: database.to_owned(), held: Held::by(wal_file::changer(database), database) }
            }
            other => other,
        }
    }

    /// The same of another file: a copy.
    fn at(mut self, file: &Path) -> Self {
        match &mut self {
            Self::Damaged { path, .. }
            | Self::Newer { path, .. }
            | Self::NotCurrent { path, .. }
            | Self::InUse(path)
            | Self::Locked { path, .. }
            | Self::EpochGone { path, .. } => *path = file.to_owned(),
            Self::Sqlite(_) | Self::Custody(_) => {}
        }
        self
    }
}
