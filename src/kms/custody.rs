//! Custody of the master keys: who can open the key manager (KMS.md section 19).
//!
//! A slot's secret unwraps the root key, the root key unwraps the domain key of the present epoch, and the domain key
//! seals every secret column of the database. Slots and domain key stand in the root file (`root.json`), which is
//! replaced atomically and never part of a database backup.

mod home;
mod recovery;
mod root_file;
mod slot;

use std::path::PathBuf;

pub(in crate::kms) use home::{DomainKeys, HomeLock, Renewed};
pub use home::{Home, NewHome};
pub use recovery::RecoveryKey;
pub(in crate::kms) use root_file::{RootBody, StateRecord, path as root_path};
#[cfg(test)]
pub(in crate::kms) use slot::CHEAP;
pub use slot::{Argon2Params, NewSlot, Passphrase, SlotInfo, SlotKind};

/// What opens a home.
pub enum Unlock {
    /// The passphrase of a passphrase slot.
    Passphrase(Passphrase),
    /// The recovery key.
    Recovery(RecoveryKey),
    /// `domain.key` in the home.
    KeyFile,
}

/// Why a home could not be created, unlocked or changed.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    /// No key manager there (exit code 10).
    #[error("there is no key manager at {0}")]
    NotInitialised(PathBuf),
    /// The secret opens no slot (exit code 12). The root file itself is undamaged.
    #[error("wrong {0}")]
    WrongSecret(SlotKind),
    /// No slot of this kind.
    #[error("this key manager has no {0} slot")]
    NoSuchSlot(SlotKind),
    /// A file of the home is damaged or missing (exit code 16). Nothing is re-created over it.
    #[error("{path} is damaged: {what}; restore it from a backup, nothing was changed")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The request breaks a rule.
    #[error("{0}")]
    Refused(String),
    /// A system call failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}
