//! Why the record could not be read or written.

use std::path::PathBuf;

use rustix::io::Errno;

/// Why an operation on the record failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database answered with an error.
    #[error(
        "the freshness record cannot be used: {0}; if it is damaged, put back a good one, or move it out of the directory freshness of the key manager's home and take the volume as it is with: kmsfs accept DIR"
    )]
    Sqlite(#[from] rusqlite::Error),
    /// A row, or the database as a whole, is not what this volume wrote.
    #[error(
        "the freshness record {0} is damaged or another volume's ({what}); put back a good one, or move it away ({0}*) and take the volume as it is with: kmsfs accept DIR",
        path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The file cannot be made.
    #[error("the freshness record {} cannot be created: {source}", path.display())]
    Create {
        /// The database.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// What it records could not be made durable.
    #[error(
        "what the freshness record would vouch for cannot be made durable: {0}; nothing that has changed is recorded until the volume is mounted anew"
    )]
    Sync(Errno),
}

impl Error {
    /// Whether it is the system, or the disk, that refuses, and nothing is wrong with the record.
    pub fn is_of_the_system(&self) -> bool {
        use rusqlite::ErrorCode::{CannotOpen, DatabaseBusy, DiskFull, OutOfMemory, ReadOnly, SystemIoFailure};
        match self {
            Self::Sqlite(error) => error.sqlite_error_code().is_some_and(|code| {
                matches!(code, CannotOpen | DatabaseBusy | DiskFull | OutOfMemory | ReadOnly | SystemIoFailure)
            }),
            Self::Damaged { .. } => false,
            Self::Create { .. } | Self::Sync(_) => true,
        }
    }

    /// The error number that an application sees whose request needs the record.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Sqlite(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) => Errno::NOSPC,
            Self::Sync(errno) => *errno,
            _ => Errno::IO,
        }
    }
}
