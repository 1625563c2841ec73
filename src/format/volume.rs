//! The volume file (FORMAT 4.2): configuration of a volume, and its check against the registry of this host.

mod tlv;

use super::Outcome;
use super::branch::{BranchKey, BranchVersion, KmsUnwrap};
use super::bytes::Reader;
use super::context::context_vrk;
use super::header::{HeaderPolicy, IMPLEMENTED_AEADS};
use super::keys::VolumeKeys;
use super::name::{NameCodec, NameForm};
use super::recipient::{AllowList, Recipient};
use super::size::Geometry;
use crate::crypto::aead::Backend;
use crate::crypto::kdf::{ct_eq, expand_public, mac32};
use crate::crypto::secret::SecretKey;
use crate::sync::Arc;
use crate::types::{BranchId, KeyArn, VolumeId};

/// First bytes of a volume file.
pub const MAGIC: [u8; 8] = *b"\x89KFSV\r\n\x1a";
/// Shortest volume file that is looked at, in bytes.
pub const MIN_LEN: usize = 136;
/// Longest volume file, in bytes.
pub const MAX_LEN: usize = 65536;
/// ro_compat bit: the key manager's home holds a freshness record, which every writer keeps in step (ADR 12).
pub const FRESHNESS: u64 = 1 << 0;
/// ro_compat bit: directory ids and side entries are regular files (FORMAT 8.1).
pub const DIR_META_FILE: u64 = 1 << 1;

/// incompat bit: names stand in entries as they are (FORMAT 8.2).
pub const PLAIN_NAMES: u64 = 1;

const KNOWN_INCOMPAT: u64 = PLAIN_NAMES;
const KNOWN_RO_COMPAT: u64 = DIR_META_FILE | FRESHNESS;
const FIXED_LEN: usize = 104;
const MAC_LEN: usize = 32;

/// How the data keys of new files are wrapped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DefaultWrap {
    /// Each by its own KMS call.
    Direct(KeyArn),
    /// By a branch key, locally.
    Branch {
        /// The branch.
        branch_id: BranchId,
        /// Its version for new files.
        version: u32,
    },
}

/// What a volume file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeConfig {
    /// Minor version, informational.
    pub minor: u8,
    /// The volume's id.
    pub volume_id: VolumeId,
    /// Features without which nobody may mount.
    pub incompat: u64,
    /// Features without which nobody may write.
    pub ro_compat: u64,
    /// Features that may be ignored.
    pub compat: u64,
    /// Layout of every file.
    pub geometry: Geometry,
    /// Longest name stored in the directory entry itself, 16 to [`NameForm::short_max`].
    pub short_max: usize,
    /// Allowed algorithms, bit i for id i.
    pub aead_allowed: u16,
    /// Counts changes of the file, from 1.
    pub config_seq: u64,
    /// KMS keys that the volume allows.
    pub allowed_keys: Vec<KeyArn>,
    /// The root key (VRK), wrapped: 1 to 8 entries of type KMS.
    pub recipients: Vec<Recipient>,
    /// How new files are wrapped.
    pub default_wrap: DefaultWrap,
    /// Branch keys.
    pub branches: Vec<BranchVersion>,
    /// A name for people, up to 255 bytes.
    pub label: Option<String>,
    /// TLVs of newer versions that may be ignored (type, value); they are preserved.
    pub other: Vec<(u16, Vec<u8>)>,
}

impl VolumeConfig {
    /// The first configuration of a new volume, with no feature bit set.
    pub fn new(volume_id: VolumeId, geometry: Geometry, key: KeyArn, wrapped_vrk: Recipient) -> Self {
        Self {
            minor: 0,
            volume_id,
            incompat: 0,
            ro_compat: 0,
            compat: 0,
            geometry,
            short_max: super::name::DEFAULT_SHORT_MAX,
            aead_allowed: IMPLEMENTED_AEADS,
            config_seq: 1,
            allowed_keys: vec![key.clone()],
            recipients: vec![wrapped_vrk],
            default_wrap: DefaultWrap::Direct(key),
            branches: Vec::new(),
            label: None,
            other: Vec::new(),
        }
    }

    /// How the names stand on disk.
    pub const fn name_form(&self) -> NameForm {
        name_form(self.incompat)
    }

    /// Whether directory ids and side entries are made as regular files.
    pub const fn dir_meta_file(&self) -> bool {
        self.ro_compat & DIR_META_FILE != 0
    }

    /// Whether the key manager's home holds a freshness record of the volume.
    pub const fn freshness(&self) -> bool {
        self.ro_compat & FRESHNESS != 0
    }

    /// Whether this version may only read the volume.
    pub const fn read_only(&self) -> bool {
        self.ro_compat & !KNOWN_RO_COMPAT != 0
    }

    /// The version `version` of branch `branch_id`.
    ///
    /// # Errors
    /// [`Outcome::KeyUnavailable`] if the volume file does not hold it.
    pub fn branch(&self, branch_id: BranchId, version: u32) -> Result<&BranchVersion, Outcome> {
        let found = self.branches.iter().find(|b| (b.branch_id, b.version) == (branch_id, version));
        found.ok_or(Outcome::KeyUnavailable)
    }

    /// The bytes of the volume file. A change of an existing volume adds 1 to `config_seq` first.
    ///
    /// # Errors
    /// [`Outcome::SlotOverflow`] if they would be longer than [`MAX_LEN`]; the outcome that a reader would give if
    /// the configuration breaks a rule of the format.
    pub fn encode(&self, keys: &VolumeKeys) -> Result<Vec<u8>, Outcome> {
        let tlvs = tlv::encode(self)?;
        let total = FIXED_LEN + tlvs.len() + MAC_LEN;
        let total32 = u32::try_from(total).ok().filter(|_| total <= MAX_LEN).ok_or(Outcome::SlotOverflow)?;
        let mut bytes = Vec::with_capacity(total);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[1, self.minor, 0, 0]);
        bytes.extend_from_slice(&total32.to_le_bytes());
        bytes.extend_from_slice(self.volume_id.as_bytes());
        for features in [self.incompat, self.ro_compat, self.compat] {
            bytes.extend_from_slice(&features.to_le_bytes());
        }
        bytes.extend_from_slice(&[12, self.geometry.header_pages(), 1, 1]);
        let short_max = u16::try_from(self.short_max).map_err(|_| Outcome::VolumeAuth)?;
        bytes.extend_from_slice(&short_max.to_le_bytes());
        bytes.extend_from_slice(&self.aead_allowed.to_le_bytes());
        let commit = vrk_commit(keys, &bytes);
        bytes.extend_from_slice(&commit);
        bytes.extend_from_slice(&self.config_seq.to_le_bytes());
        bytes.extend_from_slice(&tlvs);
        let mac = mac32(&keys.cfg, &[&bytes]);
        bytes.extend_from_slice(&mac);
        // What is written here replaces the only way into the volume, so it is read back first.
        VolumeFile::parse(&bytes)?;
        Ok(bytes)
    }
}

const fn name_form(incompat: u64) -> NameForm {
    if incompat & PLAIN_NAMES != 0 { NameForm::Plain } else { NameForm::Encrypted }
}

/// Commitment to the root key and to the fields [0..12) and [16..64), which never change.
fn vrk_commit(keys: &VolumeKeys, bytes: &[u8]) -> [u8; 32] {
    expand_public(&keys.prk, &[b"KFS1 vrk commit", &bytes[..12], &bytes[16..64]])
}

/// This host's row about a volume: the trust anchor (FORMAT 4.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegistryRow {
    /// The VRK commitment.
    pub commit: [u8; 32],
    /// KMS keys that this host accepts for the volume.
    pub pinned: AllowList,
    /// The highest `config_seq` seen.
    pub config_seq: u64,
}

/// A volume file that is well-formed. Nothing in it is authenticated yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeFile {
    bytes: Vec<u8>,
    commit: [u8; 32],
    config: VolumeConfig,
}

/// A volume whose file was authenticated.
#[derive(Clone, Debug)]
pub struct OpenedVolume {
    /// What the volume file says.
    pub config: VolumeConfig,
    /// The volume's keys.
    pub keys: Arc<VolumeKeys>,
    /// The effective allow-list: what the volume allows and this host pins.
    pub allowed: AllowList,
}

impl OpenedVolume {
    /// What the volume demands of file headers.
    pub fn header_policy(&self) -> HeaderPolicy<'_> {
        HeaderPolicy {
            volume_id: self.config.volume_id,
            geometry: self.config.geometry,
            keys: &self.keys,
            allowed: &self.allowed,
            aead_ids: self.config.aead_allowed & IMPLEMENTED_AEADS,
        }
    }

    /// What translates the volume's names.
    pub fn names(&self) -> NameCodec {
        NameCodec::new(Arc::clone(&self.keys), self.config.name_form(), self.config.short_max)
    }

    /// Opens one version of a branch key: for reading a file that it wraps. The caller keeps it for its cache time.
    ///
    /// # Errors
    /// [`Outcome::KeyUnavailable`] if the volume file does not hold it; else as [`BranchVersion::open`].
    pub fn open_branch(
        &self,
        branch_id: BranchId,
        version: u32,
        unwrap: &mut KmsUnwrap<'_>,
    ) -> Result<BranchKey, Outcome> {
        let branch = self.config.branch(branch_id, version)?;
        branch.open(self.keys.backend, self.config.volume_id, &self.allowed, unwrap)
    }

    /// Opens the branch key that wraps new files; `None` if they are wrapped by KMS directly.
    ///
    /// # Errors
    /// [`Outcome::KeyUnavailable`], whatever the reason: the file cannot be made, and nothing is damaged (FORMAT 4.4).
    pub fn open_default_branch(&self, unwrap: &mut KmsUnwrap<'_>) -> Result<Option<BranchKey>, Outcome> {
        match self.config.default_wrap {
            DefaultWrap::Direct(_) => Ok(None),
            DefaultWrap::Branch { branch_id, version } => {
                let opened = self.open_branch(branch_id, version, unwrap);
                opened.map(Some).map_err(|_| Outcome::KeyUnavailable)
            }
        }
    }
}

impl VolumeFile {
    /// Step 1 of FORMAT 4.2: length, magic, features, syntax.
    ///
    /// # Errors
    /// [`Outcome::VolumeAuth`], [`Outcome::NotKfs`], [`Outcome::UnknownFeature`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Outcome> {
        if !(MIN_LEN..=MAX_LEN).contains(&bytes.len()) {
            return Err(Outcome::VolumeAuth);
        }
        let (fixed, rest) = bytes.split_at(FIXED_LEN);
        let tlvs = &rest[..rest.len() - MAC_LEN];
        let mut reader = Reader(fixed);
        let fixed = Fixed::read(&mut reader).ok_or(Outcome::VolumeAuth)?;
        fixed.check(bytes.len())?;
        let geometry = Geometry::new(fixed.pages)?;
        let parts = tlv::decode(tlvs)?;
        let config = VolumeConfig {
            minor: fixed.minor,
            volume_id: fixed.volume_id,
            incompat: fixed.features[0],
            ro_compat: fixed.features[1],
            compat: fixed.features[2],
            geometry,
            short_max: usize::from(fixed.short_max),
            aead_allowed: fixed.aead_allowed,
            config_seq: fixed.config_seq,
            allowed_keys: parts.allowed_keys,
            recipients: parts.recipients,
            default_wrap: parts.default_wrap,
            branches: parts.branches,
            label: parts.label,
            other: parts.other,
        };
        Ok(Self { bytes: bytes.to_vec(), commit: fixed.commit, config })
    }

    /// What the file says, unauthenticated: for showing it to the user before it is trusted.
    pub fn config(&self) -> &VolumeConfig {
        &self.config
    }

    /// The row that trusts what the file says: for a new volume, and for `--trust-new-volume`.
    pub fn row_if_trusted(&self) -> RegistryRow {
        let pinned = self.config.allowed_keys.iter().cloned().collect();
        RegistryRow { commit: self.commit, pinned, config_seq: self.config.config_seq }
    }

    /// Steps 2 to 6 of FORMAT 4.2. `row` is the registry's row of [`VolumeConfig::volume_id`]; `unwrap` is called
    /// only after the registry was checked, and only with pinned keys. After success the caller raises the
    /// registry's `config_seq`.
    ///
    /// # Errors
    /// [`Outcome::VolumeUnknown`], [`Outcome::VolumeAuth`], [`Outcome::VolumeRollback`], [`Outcome::KeyForbidden`],
    /// or the worst outcome of the recipients.
    pub fn open(
        self,
        backend: Backend,
        row: Option<&RegistryRow>,
        unwrap: &mut KmsUnwrap<'_>,
    ) -> Result<OpenedVolume, Outcome> {
        let row = row.ok_or(Outcome::VolumeUnknown)?;
        if !ct_eq(&self.commit, &row.commit) {
            return Err(Outcome::VolumeAuth);
        }
        if self.config.config_seq < row.config_seq {
            return Err(Outcome::VolumeRollback);
        }
        let keys = self.open_vrk(backend, &row.pinned, unwrap)?;
        let (body, mac) = self.bytes.split_at(self.bytes.len() - MAC_LEN);
        if !ct_eq(&mac32(&keys.cfg, &[body]), mac) {
            return Err(Outcome::VolumeAuth);
        }
        let pinned = |key: &&KeyArn| row.pinned.keys().contains(key);
        let allowed: AllowList = self.config.allowed_keys.iter().filter(pinned).cloned().collect();
        if let DefaultWrap::Direct(key) = &self.config.default_wrap {
            allowed.find(key.as_str())?;
        }
        Ok(OpenedVolume { config: self.config, keys: Arc::new(keys), allowed })
    }

    fn open_vrk(
        &self,
        backend: Backend,
        pinned: &AllowList,
        unwrap: &mut KmsUnwrap<'_>,
    ) -> Result<VolumeKeys, Outcome> {
        let context = context_vrk(self.config.volume_id);
        let mut worst = Outcome::NoRecipient;
        for entry in &self.config.recipients {
            let opened = if entry.flags == 0 {
                pinned.find(&entry.key_id).and_then(|key| unwrap(key, &entry.blob, &context))
            } else {
                Err(Outcome::NoRecipient)
            };
            match opened.and_then(|vrk| self.check_vrk(backend, &vrk)) {
                Ok(keys) => return Ok(keys),
                Err(outcome) => worst = worst.worse(outcome),
            }
        }
        Err(if worst == Outcome::HeaderAuth { Outcome::VolumeAuth } else { worst })
    }

    fn check_vrk(&self, backend: Backend, vrk: &SecretKey<32>) -> Result<VolumeKeys, Outcome> {
        let keys = VolumeKeys::derive(backend, vrk, self.config.volume_id);
        if ct_eq(&vrk_commit(&keys, &self.bytes), &self.commit) { Ok(keys) } else { Err(Outcome::HeaderAuth) }
    }
}

/// The first 104 bytes.
struct Fixed {
    magic: [u8; 8],
    major: u8,
    minor: u8,
    zero: u16,
    total: u32,
    volume_id: VolumeId,
    features: [u64; 3],
    unit_log2: u8,
    pages: u8,
    aead: u8,
    name_mode: u8,
    short_max: u16,
    aead_allowed: u16,
    commit: [u8; 32],
    config_seq: u64,
}

impl Fixed {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            magic: reader.array()?,
            major: reader.u8()?,
            minor: reader.u8()?,
            zero: reader.u16()?,
            total: reader.u32()?,
            volume_id: VolumeId::from_bytes(reader.array()?),
            features: [reader.u64()?, reader.u64()?, reader.u64()?],
            unit_log2: reader.u8()?,
            pages: reader.u8()?,
            aead: reader.u8()?,
            name_mode: reader.u8()?,
            short_max: reader.u16()?,
            aead_allowed: reader.u16()?,
            commit: reader.array()?,
            config_seq: reader.u64()?,
        })
    }

    fn check(&self, len: usize) -> Result<(), Outcome> {
        if self.magic != MAGIC {
            return Err(Outcome::NotKfs);
        }
        if self.major != 1 {
            return Err(Outcome::UnknownFeature);
        }
        if u32::try_from(len) != Ok(self.total) || self.zero != 0 {
            return Err(Outcome::VolumeAuth);
        }
        let known = self.features[0] & !KNOWN_INCOMPAT == 0
            && (self.unit_log2, self.aead, self.name_mode) == (12, 1, 1)
            && Geometry::new(self.pages).is_ok()
            && self.aead_allowed & (1 << self.aead) != 0;
        if !known {
            return Err(Outcome::UnknownFeature);
        }
        let legal = name_form(self.features[0]).allows_short_max(self.short_max.into())
            && !self.volume_id.is_zero()
            && self.config_seq != 0;
        if legal { Ok(()) } else { Err(Outcome::VolumeAuth) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::keys::testing::volume_keys;
    use super::*;

    fn key(n: u8) -> KeyArn {
        format!("arn:aws:kms:eu-central-1:111122223333:key/{n}").parse().expect("an ARN")
    }

    /// The volume that `volume_keys` belongs to; the blob of its recipient is the root key itself.
    fn config() -> VolumeConfig {
        let vrk = Recipient::kms(&key(1), vec![0x80; 32], 5);
        VolumeConfig::new(VolumeId::from_bytes([0x60; 16]), Geometry::P4, key(1), vrk)
    }

    fn open(bytes: &[u8], row: Option<&RegistryRow>) -> Result<OpenedVolume, Outcome> {
        let mut unwrap = |_: &KeyArn, blob: &[u8], _: &_| SecretKey::from_slice(blob).ok_or(Outcome::HeaderAuth);
        VolumeFile::parse(bytes)?.open(Backend::Ring, row, &mut unwrap)
    }

    #[test]
    fn a_configuration_survives_the_disk() {
        let branch = BranchVersion {
            branch_id: BranchId::from_bytes([1; 16]),
            version: 2,
            commit: [3; 32],
            entries: vec![Recipient::kms(&key(2), vec![4], 6)],
        };
        let full = VolumeConfig {
            ro_compat: DIR_META_FILE | 1 << 7,
            short_max: 143,
            allowed_keys: vec![key(1), key(2)],
            default_wrap: DefaultWrap::Branch { branch_id: branch.branch_id, version: 2 },
            branches: vec![branch],
            label: Some("demo".into()),
            other: vec![(0x8123, b"later".to_vec())],
            ..config()
        };
        let plain = VolumeConfig { incompat: PLAIN_NAMES, short_max: 255, ..config() };
        for config in [config(), full, plain] {
            let bytes = config.encode(&volume_keys()).expect("legal");
            let file = VolumeFile::parse(&bytes).expect("well-formed");
            assert_eq!(*file.config(), config);
            let row = file.row_if_trusted();
            let opened = open(&bytes, Some(&row)).expect("genuine");
            assert_eq!(opened.config, config);
            assert_eq!(opened.allowed.keys(), config.allowed_keys);
        }
    }

    #[test]
    fn configurations_that_no_reader_takes_are_not_written() {
        let keys = volume_keys();
        let encode = |config: VolumeConfig| config.encode(&keys);
        assert_eq!(encode(VolumeConfig { short_max: 15, ..config() }), Err(Outcome::VolumeAuth));
        assert_eq!(encode(VolumeConfig { short_max: 176, ..config() }), Err(Outcome::VolumeAuth));
        let plain = VolumeConfig { incompat: PLAIN_NAMES, short_max: 256, ..config() };
        assert_eq!(encode(plain), Err(Outcome::VolumeAuth));
        for bit in 1..64 {
            assert_eq!(encode(VolumeConfig { incompat: 1 << bit, ..config() }), Err(Outcome::UnknownFeature));
        }
        assert_eq!(encode(VolumeConfig { config_seq: 0, ..config() }), Err(Outcome::VolumeAuth));
        assert_eq!(encode(VolumeConfig { recipients: vec![], ..config() }), Err(Outcome::VolumeAuth));
        let many = vec![(0x8001, vec![0; 1000]); 70];
        assert_eq!(encode(VolumeConfig { other: many, ..config() }), Err(Outcome::SlotOverflow));
        assert_eq!(encode(VolumeConfig { other: vec![(5, vec![])], ..config() }), Err(Outcome::UnknownFeature));
        let label = Some("x".repeat(256));
        assert_eq!(encode(VolumeConfig { label, ..config() }), Err(Outcome::SlotOverflow));
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let bytes = config().encode(&volume_keys()).expect("legal");
        let row = VolumeFile::parse(&bytes).expect("well-formed").row_if_trusted();
        open(&bytes, Some(&row)).expect("genuine");
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&bad, Some(&row)).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn hostile_files_never_panic(
            tlvs in prop::collection::vec(any::<u8>(), 0..300),
            at in 12usize..104,
            value: u8,
        ) {
            let mut bytes = config().encode(&volume_keys()).expect("legal")[..FIXED_LEN].to_vec();
            bytes[at] = value;
            bytes.extend_from_slice(&tlvs);
            bytes.extend_from_slice(&[0; MAC_LEN]);
            let total = u32::try_from(bytes.len()).expect("short");
            bytes[12..16].copy_from_slice(&total.to_le_bytes());
            prop_assert!(VolumeFile::parse(&bytes).is_err());
            prop_assert!(VolumeFile::parse(&tlvs).is_err());
        }

        #[test]
        fn cut_and_changed_files_never_panic(at in 0usize..400, value: u8, cut in 0usize..400) {
            let mut bytes = config().encode(&volume_keys()).expect("legal");
            let at = at % bytes.len();
            bytes[at] = value;
            let cut = cut % (bytes.len() - FIXED_LEN - MAC_LEN);
            bytes.drain(FIXED_LEN..FIXED_LEN + cut);
            let _ = VolumeFile::parse(&bytes);
        }
    }
}
