//! What the rows hold.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::crypto::asymmetric::PairError;
use crate::crypto::secret::SecretBytes;
use crate::kms::blob::KeyName;
use crate::kms::model::{
    ExpirationModel, KeyManager, KeySpec, KeyState, KeyUsage, MultiRegionConfiguration, MultiRegionKeyType, Origin,
    RotationType, Tag, WrappingAlgorithm, nanos, opt_nanos,
};
use crate::kms::object::KeyObject;
use crate::kms::policy::{Kind, Policy};
use crate::sync::{Arc, OnceLock};
use crate::sys::prefetch::prefetch;
use crate::types::{AccountId, KeyArn, Timestamp};

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
    /// Only for keys in a custom key store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_store: Option<KeyStoreLink>,
    /// The key policy as it was put; absent: the default policy, or the fixed one of an AWS managed key.
    #[serde(default)]
    pub policy: Option<String>,
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
    /// When it became current, or was imported.
    #[serde(with = "nanos")]
    pub created: Timestamp,
    /// What made it current; absent for the first, and for material that waits for a rotation.
    pub rotation: Option<RotationType>,
    /// Only for imported material, whether it is there at present or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<Import>,
    /// Only for material in a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenUse>,
}

/// Use of material in a token (KMS.md section 14).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// Encryptions that processes have set aside for themselves so far: their IVs are random, so their number is
    /// bounded.
    pub encryptions: u64,
}

/// The custom key store of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStoreLink {
    pub id: String,
    pub cluster: String,
    /// Whether the store is not connected.
    pub unavailable: bool,
}

/// What is known of imported material (KMS.md section 12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// When it expires; never if absent.
    #[serde(with = "opt_nanos")]
    pub valid_to: Option<Timestamp>,
    /// The user's words.
    pub description: Option<String>,
    /// It expires by the clock as it stands: when it was imported the clock was behind the latest time ever seen, by which it
    /// would have been over at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_clock: bool,
}

/// What decides whether imported material is past its end.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// As the clock stands.
    pub now: Timestamp,
    /// The latest time ever seen.
    pub latest: Timestamp,
}

impl Import {
    pub fn expiration_model(&self) -> ExpirationModel {
        ExpirationModel::of(self.valid_to)
    }
}

/// A wrapping key of an outstanding import token.
#[derive(Serialize, Deserialize)]
pub struct WrappingKey {
    /// How material comes wrapped.
    pub algorithm: WrappingAlgorithm,
    /// End of the token.
    #[serde(with = "nanos")]
    pub valid_to: Timestamp,
    /// PKCS#8 DER, sealed beside the record.
    #[serde(skip)]
    pub private: SecretBytes,
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
    pub fn row_id(&self) -> String {
        alias_row_id(&self.region, &self.account, &self.name)
    }

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
///
/// Among many keys what a call costs is the cache lines that it touches: what every call needs comes first.
#[repr(C)]
pub struct Material {
    /// `record.material_id` as bytes.
    pub id: [u8; 32],
    /// Shared by the keys of a multi-Region key, and by the records that follow each other.
    held: Option<Arc<Held>>,
    /// Whether it lives in a token.
    pub in_token: bool,
    pub record: MaterialRecord,
}

#[repr(C)]
struct Held {
    secret: SecretBytes,
    /// Parsed at the first use: parsing an RSA key checks it, which takes milliseconds.
    object: OnceLock<KeyObject>,
}

impl Material {
    /// `None` if the record's id is not 64 hex digits.
    pub fn new(record: MaterialRecord, secret: Option<SecretBytes>) -> Option<Self> {
        let id = HEXLOWER.decode(record.material_id.as_bytes()).ok()?.try_into().ok()?;
        let held = secret.map(|secret| Arc::new(Held { secret, object: OnceLock::new() }));
        Some(Self { id, held, in_token: record.token.is_some(), record })
    }

    /// The same material with another record of it.
    pub fn with_record(&self, record: MaterialRecord) -> Self {
        debug_assert_eq!(record.material_id, self.record.material_id);
        Self { id: self.id, held: self.held.clone(), in_token: record.token.is_some(), record }
    }

    /// Brings what it holds near: it is used soon.
    pub fn prefetch(&self) {
        self.held.iter().for_each(|held| prefetch(&**held));
    }

    /// `record.material_id`, made anew: the record's is elsewhere in memory.
    pub fn id_text(&self) -> String {
        HEXLOWER.encode(&self.id)
    }

    /// When it expires, if it is there and does, and whether by the clock as it stands.
    fn expiry(&self) -> Option<(Timestamp, bool)> {
        let import = self.held.as_ref().and(self.record.import.as_ref())?;
        Some((import.valid_to?, import.by_clock))
    }

    /// Whether it is there and past its end.
    pub fn is_over(&self, times: Times) -> bool {
        self.expiry().is_some_and(|(end, by_clock)| end <= if by_clock { times.now } else { times.latest })
    }

    /// What is sealed beside the record; absent while imported material is deleted, expired, or not yet imported.
    pub fn secret(&self) -> Option<&SecretBytes> {
        self.held.as_deref().map(|held| &held.secret)
    }

    /// The secret, parsed for a key of this spec and usage; absent as the secret is.
    pub fn object(&self, spec: KeySpec, usage: KeyUsage) -> Option<Result<&KeyObject, PairError>> {
        let held = self.held.as_deref()?;
        Some(match held.object.get() {
            Some(object) => Ok(object),
            None => KeyObject::parse(spec, usage, &held.secret).map(|parsed| held.object.get_or_init(|| parsed)),
        })
    }
}

/// A key with its material, immutable: a change makes a new entry. What every call needs comes first, as in
/// [`Material`]: some of it is a copy of what the record says.
#[repr(C)]
pub struct KeyEntry {
    pub arn: KeyArn,
    pub account: AccountId,
    state: KeyState,
    is_tombstone: bool,
    /// Whether material that it ever encrypted with expires.
    expires: bool,
    pub spec: KeySpec,
    pub usage: KeyUsage,
    pub manager: KeyManager,
    /// `record.key_id` as ciphertext has it.
    pub name: KeyName,
    /// The one that `record.current_material` names.
    current: Option<Arc<Material>>,
    /// What became of `record.policy` when it was first asked for.
    policy: OnceLock<Option<Arc<Policy>>>,
    /// By generation.
    pub materials: Vec<Arc<Material>>,
    pub record: KeyRecord,
}

impl KeyEntry {
    /// An entry of what belongs together.
    pub(super) fn new(
        record: KeyRecord,
        (arn, account, name): (KeyArn, AccountId, KeyName),
        materials: Vec<Arc<Material>>,
    ) -> Self {
        let is_current =
            |material: &&Arc<Material>| Some(&material.record.material_id) == record.current_material.as_ref();
        let current = materials.iter().rfind(is_current).cloned();
        let unavailable = record.key_store.as_ref().is_some_and(|link| link.unavailable);
        let state = match record.state {
            KeyState::Enabled | KeyState::Disabled if unavailable => KeyState::Unavailable,
            state => state,
        };
        let mut entry = Self {
            arn,
            account,
            state,
            is_tombstone: record.destroyed.is_some(),
            expires: false,
            spec: record.spec,
            usage: record.usage,
            manager: record.manager,
            name,
            current,
            policy: OnceLock::new(),
            materials,
            record,
        };
        let expires = entry.used().any(|material| material.expiry().is_some());
        entry.expires = expires;
        entry
    }

    /// Brings the end of what every call needs near; looking at the entry brings its beginning.
    pub(super) fn prefetch(&self) {
        prefetch(&self.policy);
    }

    /// The material that encrypts and decrypts: the current, and what was before it.
    pub fn used(&self) -> impl Iterator<Item = &Arc<Material>> {
        let until = self.current().map(|current| current.record.generation);
        self.materials.iter().filter(move |material| Some(material.record.generation) <= until)
    }

    /// Whether material that it ever encrypted with is past its end. The times are asked for only where some ends.
    pub fn is_lapsed(&self, times: impl FnOnce() -> Times) -> bool {
        self.expires && {
            let times = times();
            self.used().any(|material| material.is_over(times))
        }
    }

    /// Whether it is the key with this id in this Region. A key that is not multi-Region is alone with its id.
    pub fn is(&self, region: &str, name: &KeyName) -> bool {
        self.name == *name && (!name.is_multi_region() || self.arn.region() == region)
    }

    /// The material with this id.
    pub fn material(&self, id: &[u8; 32]) -> Option<&Arc<Material>> {
        let current = self.current.as_ref().filter(|current| current.id == *id);
        current.or_else(|| self.materials.iter().find(|material| material.id == *id))
    }

    /// The key's own policy, if it has one; parsed once. It was parsed before it was stored, and the row's MAC vouches for
    /// it since.
    pub fn policy(&self) -> Option<&Arc<Policy>> {
        let parse = |document: &String| Some(Arc::new(Policy::parse(document, Kind::Key).ok()?));
        self.policy.get_or_init(|| self.record.policy.as_ref().and_then(parse)).as_ref()
    }

    pub fn current(&self) -> Option<&Arc<Material>> {
        self.current.as_ref()
    }

    /// Imported material that becomes current by `RotateKeyOnDemand`.
    pub fn pending_rotation(&self) -> Option<&Arc<Material>> {
        let current = self.current()?;
        self.materials.last().filter(|last| last.record.generation > current.record.generation)
    }

    /// Whether the material that encrypts and decrypts is all there: if not, an imported key is `PendingImport`.
    pub fn is_complete(&self) -> bool {
        self.current().is_some() && self.used().all(|material| material.secret().is_some())
    }

    /// When the first of its imported materials expires that do so by the clock as it stands, or of those that do not.
    pub fn expiry_due(&self, by_clock: bool) -> Option<Timestamp> {
        let all = self.materials.iter().filter_map(|material| material.expiry());
        all.filter(|(_, by)| *by == by_clock).map(|(end, _)| end).min()
    }

    /// Its role, if it is a multi-Region key.
    pub fn role(&self) -> Option<MultiRegionKeyType> {
        self.record.multi_region.as_ref().map(|set| set.multi_region_key_type)
    }

    pub fn is_replica(&self) -> bool {
        self.role() == Some(MultiRegionKeyType::Replica)
    }

    /// Its state as everybody sees it. The state in the record is the one that the user set; it counts again when the
    /// key store is connected.
    pub fn state(&self) -> KeyState {
        self.state
    }

    pub fn is_tombstone(&self) -> bool {
        self.is_tombstone
    }

    /// When the next automatic rotation is due; not while the key is disabled or pending deletion. A replica rotates
    /// with its primary.
    pub fn rotation_due(&self) -> Option<Timestamp> {
        let rotates = self.record.state == KeyState::Enabled && self.record.rotation.enabled && !self.is_replica();
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

/// Row id of a wrapping key.
pub fn wrapping_key_row_id(key_row: &str, token_id: &str) -> String {
    format!("{key_row}/{token_id}")
}

/// Row id of a piece of material.
pub fn material_row_id(key_row: &str, material_id: &str) -> String {
    format!("{key_row}/{material_id}")
}
