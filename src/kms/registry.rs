//! The volume registry: the trust anchor of every mount.
#![allow(missing_docs)]
use std::path::{Path, PathBuf};

use crate::kms::KmsError;
use crate::types::{KeyArn, VolumeId};

/// What is known of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRecord {
    pub volume: VolumeId,
    /// Commitment of the volume root key.
    pub vrk_commitment: [u8; 32],
    /// Keys the volume may use.
    pub keys: Vec<KeyArn>,
    /// Highest sequence number of a volume config ever accepted.
    pub config_seq: u64,
    /// Where it was last seen.
    pub path: PathBuf,
}

/// The registry of a home; from `Engine::registry()`.
pub struct Registry;
impl Registry {
    pub fn get(&self, _volume: &VolumeId) -> Result<Option<VolumeRecord>, KmsError> {
        unimplemented!()
    }
    /// Adds or replaces; never lowers `config_seq`.
    pub fn put(&self, _record: &VolumeRecord) -> Result<(), KmsError> {
        unimplemented!()
    }
    pub fn list(&self) -> Result<Vec<VolumeRecord>, KmsError> {
        unimplemented!()
    }
    /// Raises to at least `seq`; answers the value that counts now.
    pub fn raise_config_seq(&self, _volume: &VolumeId, _seq: u64) -> Result<u64, KmsError> {
        unimplemented!()
    }
    pub fn set_path(&self, _volume: &VolumeId, _path: &Path) -> Result<(), KmsError> {
        unimplemented!()
    }
}
