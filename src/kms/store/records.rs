//! What the rows hold.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::crypto::secret::SecretBytes;
use crate::kms::model::{
    KeyManager, KeySpec, KeyState, KeyUsage, MultiRegionConfiguration, Origin, RotationType, Tag, nanos, opt_nanos,
};
use crate::sync::Arc;
use crate::types::{KeyArn, Timestamp};

/// The rotation setting of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    pub enabled: bool,
    pub period_days: u32,
    /// Due time of the next automatic rotation; kept while the key is disabled or pending deletion.
    #[serde(with = "opt_nanos")]
    pub next: Option<Timestamp>,
    /// On-demand rotations so far.
    pub on_demand: u32,
}

/// A KMS key without its material. At the end of its life only the tombstone's members keep their values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    pub region: String,
    pub account: String,
    pub key_id: String,
    #[serde(with = "nanos")]
    pub created: Timestamp,
    pub description: String,
    pub usage: KeyUsage,
    pub spec: KeySpec,
    pub origin: Origin,
    pub manager: KeyManager,
    /// The service of an AWS managed key.
    pub service: Option<String>,
    pub state: KeyState,
    #[serde(with = "opt_nanos")]
    pub deletion_date: Option<Timestamp>,
    pub pending_window_days: Option<u32>,
    pub multi_region: Option<MultiRegionConfiguration>,
    pub rotation: Rotation,
    pub current_material: Option<String>,
    pub tags: Vec<Tag>,
    /// When the key was destroyed: this record is its tombstone.
    #[serde(with = "opt_nanos")]
    pub destroyed: Option<Timestamp>,
}

/// One backing key of a KMS key; the material itself is sealed beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaterialRecord {
    /// 64 hex digits.
    pub material_id: String,
    /// Place in the key's history, from 0.
    pub generation: u32,
    #[serde(with = "nanos")]
    pub created: Timestamp,
    /// What made it current; absent for the first.
    pub rotation: Option<RotationType>,
}

/// An alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasRecord {
    pub region: String,
    pub account: String,
    /// With the prefix `alias/`.
    pub name: String,
    /// Bare id of its key.
    pub key_id: String,
    #[serde(with = "nanos")]
    pub created: Timestamp,
    #[serde(with = "nanos")]
    pub updated: Timestamp,
}

impl AliasRecord {
    pub fn arn(&self) -> String {
        format!("arn:aws:kms:{}:{}:{}", self.region, self.account, self.name)
    }
}

/// A volume (`kms::registry`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRow {
    /// Hex.
    pub vrk_commitment: String,
    pub keys: Vec<String>,
    pub config_seq: u64,
    /// The path's bytes, hex: paths need not be UTF-8.
    pub path: String,
}

/// What was observed of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockRecord {
    /// The latest time ever seen.
    #[serde(with = "nanos")]
    pub highest: Timestamp,
    /// The time seen last.
    #[serde(with = "nanos")]
    pub last: Timestamp,
    /// Since when a jump forward of more than a day waits for its confirmation.
    #[serde(with = "opt_nanos")]
    pub jumped: Option<Timestamp>,
}

/// Key material in memory: 32 bytes of a symmetric key, the bytes of an HMAC key, or a key pair as PKCS#8 DER.
pub struct Material {
    pub record: MaterialRecord,
    /// `record.material_id` as bytes.
    pub id: [u8; 32],
    secret: SecretBytes,
}

impl Material {
    /// `None` if the record's id is not 64 hex digits.
    pub fn new(record: MaterialRecord, secret: SecretBytes) -> Option<Self> {
        let id = HEXLOWER.decode(record.material_id.as_bytes()).ok()?.try_into().ok()?;
        Some(Self { record, id, secret })
    }

    /// What is sealed beside the record.
    pub fn secret(&self) -> &SecretBytes {
        &self.secret
    }
}

/// A key with its material, immutable: a change makes a new entry.
pub struct KeyEntry {
    pub record: KeyRecord,
    pub arn: KeyArn,
    /// By generation.
    pub materials: Vec<Arc<Material>>,
}

impl KeyEntry {
    pub fn current(&self) -> Option<&Arc<Material>> {
        let id = self.record.current_material.as_deref()?;
        self.materials.iter().rfind(|material| material.record.material_id == id)
    }

    pub fn is_tombstone(&self) -> bool {
        self.record.destroyed.is_some()
    }

    /// When the next automatic rotation is due; not while the key is disabled or pending deletion.
    pub fn rotation_due(&self) -> Option<Timestamp> {
        let rotates = self.record.state == KeyState::Enabled && self.record.rotation.enabled;
        self.record.rotation.next.filter(|_| rotates)
    }

    /// The end of the waiting period of a key pending deletion.
    pub fn deletion_due(&self) -> Option<Timestamp> {
        let waits = self.record.state == KeyState::PendingDeletion && !self.is_tombstone();
        self.record.deletion_date.filter(|_| waits)
    }
}

/// Row id of a key: unique, since key ids are unique in a Region.
pub fn key_row_id(region: &str, key_id: &str) -> String {
    format!("{region}/{key_id}")
}

/// Row id of an alias.
pub fn alias_row_id(region: &str, account: &str, name: &str) -> String {
    format!("{region}/{account}/{name}")
}

/// Row id of a piece of material.
pub fn material_row_id(key_row: &str, material_id: &str) -> String {
    format!("{key_row}/{material_id}")
}
