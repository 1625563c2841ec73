//! Why an operation on a file's content failed.

use rustix::io::Errno;

use crate::format::Outcome;
use crate::freshness;

/// An error with its error number for the caller.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The backing filesystem refused.
    #[error("the backing filesystem answered: {0}")]
    Os(#[from] Errno),
    /// The stored bytes, or the key manager, do not let the file be opened (FORMAT S12).
    #[error("{0}")]
    Format(Outcome),
    /// One unit is not what was written.
    #[error("unit {unit}: {outcome}")]
    Unit {
        /// Number of the unit, from 0.
        unit: u64,
        /// What is wrong with it.
        outcome: Outcome,
    },
}

impl Error {
    /// The error number that an application sees.
    pub fn errno(self) -> Errno {
        match self {
            Self::Os(errno) => errno,
            Self::Format(outcome) | Self::Unit { outcome, .. } => outcome.errno().unwrap_or(Errno::IO),
        }
    }

    /// The outcome of FORMAT S12, if it is one.
    pub fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Os(_) => None,
            Self::Format(outcome) | Self::Unit { outcome, .. } => Some(outcome),
        }
    }
}

impl From<freshness::Error> for Error {
    /// What is wrong with the record goes to the log; applications see an error number. Damage of the record is none of the backing.
    fn from(error: freshness::Error) -> Self {
        tracing::error!("{error}");
        if error.is_damage() { Self::Format(Outcome::Unvouched) } else { Self::Os(error.errno()) }
    }
}

impl From<Outcome> for Error {
    fn from(outcome: Outcome) -> Self {
        Self::Format(outcome)
    }
}
