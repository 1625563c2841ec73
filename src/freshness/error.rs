//! Why the record could not be read or written.

use std::path::PathBuf;

use rustix::io::Errno;

/// Why an operation on the record failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database answered with an error.
    #[error(
        "the freshness record cannot be used: {0}; if it is damaged, put back a good one, or take the whole volume as it is, with a new record, the damaged one kept beside it: kmsfs accept DIR"
    )]
    Sqlite(#[from] rusqlite::Error),
    /// A row, or the database as a whole, is not what this volume wrote.
    #[error(
        "the freshness record {} is damaged or another volume's ({what}); put back a good one, or take the whole volume as it is, with a new record, the damaged one kept beside it: kmsfs accept DIR",
        path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A damaged one could not be moved out of the way.
    #[error("the damaged freshness record {} cannot be moved aside: {source}", path.display())]
    Aside {
        /// The database.
        path: PathBuf,
        /// The system's error; `ResourceBusy` if another process uses it.
        source: std::io::Error,
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
    /// Whether the record itself is damaged, in a row or as a whole, so that nothing can be said of what it is of.
    pub fn is_damage(&self) -> bool {
        use rusqlite::Error as Sql;
        match self {
            Self::Damaged { .. } => true,
            // What a damaged page gives: not what was ever written there.
            Self::Sqlite(
                Sql::FromSqlConversionFailure(..)
                | Sql::IntegralValueOutOfRange(..)
                | Sql::InvalidColumnType(..)
                | Sql::Utf8Error(..),
            ) => true,
            Self::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
            ),
            Self::Aside { .. } | Self::Create { .. } | Self::Sync(_) => false,
        }
    }

    /// Whether it is the system, or the disk, that refuses, and nothing is wrong with the record.
    pub fn is_of_the_system(&self) -> bool {
        use rusqlite::ErrorCode::{CannotOpen, DatabaseBusy, DiskFull, OutOfMemory, ReadOnly, SystemIoFailure};
        match self {
            Self::Sqlite(error) => error.sqlite_error_code().is_some_and(|code| {
                matches!(code, CannotOpen | DatabaseBusy | DiskFull | OutOfMemory | ReadOnly | SystemIoFailure)
            }),
            Self::Damaged { .. } => false,
            Self::Aside { .. } | Self::Create { .. } | Self::Sync(_) => true,
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
