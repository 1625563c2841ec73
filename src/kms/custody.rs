//! Custody of the master keys: who can open the key manager (KMS.md section 19).
#![allow(missing_docs)]
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::env::{Clock, Entropy};
use crate::types::{AccountId, Region, Timestamp};

/// Why a home could not be created, unlocked or changed.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    /// No key manager there (exit code 10).
    #[error("there is no key manager at {0}; create one with: kmsfs init")]
    NotInitialised(PathBuf),
    /// The secret opens no slot (exit code 12).
    #[error("wrong {0}")]
    WrongSecret(&'static str),
    /// No slot of this kind.
    #[error("this key manager has no {0} slot")]
    NoSuchSlot(&'static str),
    /// Root file or database damaged (exit code 16).
    #[error("{path} is damaged: {what}")]
    Damaged { path: PathBuf, what: String },
    #[error("{0}")]
    Refused(String),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// A passphrase, wiped on drop. Empty ones are refused at creation of a slot.
pub struct Passphrase(Zeroizing<Vec<u8>>);
impl Passphrase {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}
/// The recovery key; `to_text` prints checksummed base32 groups, `parse` reads them back.
pub struct RecoveryKey;
impl RecoveryKey {
    pub fn parse(_text: &str) -> Result<Self, CustodyError> {
        unimplemented!()
    }
    pub fn to_text(&self) -> Zeroizing<String> {
        unimplemented!()
    }
}
/// What opens a home.
pub enum Unlock {
    Passphrase(Passphrase),
    Recovery(RecoveryKey),
    /// `domain.key` in the home.
    KeyFile,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argon2Params {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}
impl Argon2Params {
    /// 64 to 256 MiB, about a second on this computer.
    pub fn calibrated() -> Self {
        unimplemented!()
    }
}
pub enum NewSlot {
    Passphrase(Passphrase, Argon2Params),
    /// Makes `domain.key` (0600) in the home.
    KeyFile,
    /// Makes another recovery key.
    Recovery,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    Passphrase,
    KeyFile,
    Recovery,
}
#[derive(Debug, Clone)]
pub struct SlotInfo {
    pub id: u32,
    pub kind: SlotKind,
    pub created: Timestamp,
}
pub struct NewHome {
    pub account: AccountId,
    pub region: Region,
    /// A recovery slot is always added.
    pub slots: Vec<NewSlot>,
}
/// An unlocked home.
pub struct Home;
impl Home {
    /// Whether a key manager lives in `dir`.
    pub fn exists(_dir: &Path) -> Result<bool, CustodyError> {
        unimplemented!()
    }
    /// Whether `Unlock::KeyFile` can work.
    pub fn has_key_file(_dir: &Path) -> bool {
        unimplemented!()
    }
    /// Slots, without unlocking.
    pub fn list_slots(_dir: &Path) -> Result<Vec<SlotInfo>, CustodyError> {
        unimplemented!()
    }
    pub fn create(
        _dir: &Path,
        _new: NewHome,
        _clock: &dyn Clock,
        _entropy: &dyn Entropy,
    ) -> Result<(Self, RecoveryKey), CustodyError> {
        unimplemented!()
    }
    pub fn unlock(_dir: &Path, _unlock: &Unlock) -> Result<Self, CustodyError> {
        unimplemented!()
    }
}
