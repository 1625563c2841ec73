//! Branch keys (FORMAT 4.4): keys of the volume file, wrapped by KMS, that wrap data keys locally.

use super::Outcome;
use super::bytes::Reader;
use super::context::context_branch;
use super::header::StaticHeader;
use super::recipient::{AllowList, MAX_RECIPIENTS, Recipient, Scheme};
use crate::crypto::aead::Backend;
use crate::crypto::kdf::{ct_eq, expand, expand_public, extract};
use crate::crypto::secret::SecretKey;
use crate::crypto::xaes::Xaes;
use crate::types::{BranchId, EncryptionContext, KeyArn, VolumeId};

/// Bytes of a data key wrapped by a branch key.
pub const BLOB_LEN: usize = 92;

const HEAD_LEN: usize = 20;
const NONCE_END: usize = HEAD_LEN + 24;

/// Unwraps a KMS ciphertext of `key` and `context` to 32 bytes, for branch keys and volume root keys. It answers as
/// [`super::header::Unwrap`] does.
pub type KmsUnwrap<'a> = dyn FnMut(&KeyArn, &[u8], &EncryptionContext) -> Result<SecretKey<32>, Outcome> + 'a;

/// A data key wrapped by a branch key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BranchBlob<'a> {
    bytes: &'a [u8; BLOB_LEN],
}

impl<'a> BranchBlob<'a> {
    /// The blob of a recipient entry.
    ///
    /// # Errors
    /// [`Outcome::HeaderAuth`] if it has another length or the entry has a key id.
    pub fn parse(entry: &'a Recipient) -> Result<Self, Outcome> {
        match entry.blob.as_slice().try_into() {
            Ok(bytes) if entry.key_id.is_empty() => Ok(Self { bytes }),
            _ => Err(Outcome::HeaderAuth),
        }
    }

    /// Which branch key wrapped it.
    pub fn branch_id(&self) -> BranchId {
        BranchId::from_bytes(*self.bytes.first_chunk().expect("92 bytes"))
    }

    /// Which version of the branch key.
    pub fn version(&self) -> u32 {
        u32::from_le_bytes(*self.bytes[16..].first_chunk().expect("92 bytes"))
    }
}

/// One version of a branch key, opened.
#[derive(Debug)]
pub struct BranchKey {
    prk: SecretKey<32>,
    volume: VolumeId,
    head: [u8; HEAD_LEN],
    backend: Backend,
}

impl BranchKey {
    /// The version `version` of branch `branch`, whose key is `key`.
    pub fn derive(backend: Backend, volume: VolumeId, branch: BranchId, version: u32, key: &SecretKey<32>) -> Self {
        let mut head = [0; HEAD_LEN];
        head[..16].copy_from_slice(branch.as_bytes());
        head[16..].copy_from_slice(&version.to_le_bytes());
        let mut salt = [0; 16 + HEAD_LEN];
        salt[..16].copy_from_slice(volume.as_bytes());
        salt[16..].copy_from_slice(&head);
        Self { prk: extract(&salt, key.expose()), volume, head, backend }
    }

    /// `PRK_B`.
    pub fn prk(&self) -> &SecretKey<32> {
        &self.prk
    }

    /// The commitment that stands in the volume file.
    pub fn commit(&self) -> [u8; 32] {
        expand_public(&self.prk, &[b"KFS1 branch commit", self.volume.as_bytes(), &self.head])
    }

    fn cipher(&self, header: &StaticHeader) -> Xaes {
        let (volume, file) = (header.volume_id(), header.file_id());
        Xaes::new(self.backend, expand(&self.prk, &[b"KFS1 wrap", volume.as_bytes(), file.as_bytes()]))
    }

    fn aad(header: &StaticHeader, head: &[u8]) -> [u8; 48 + HEAD_LEN] {
        let mut aad = [0; 48 + HEAD_LEN];
        aad[..48].copy_from_slice(header.as_bytes());
        aad[48..].copy_from_slice(head);
        aad
    }

    /// Wraps a file's data key; `nonce` is random.
    pub fn wrap(&self, header: &StaticHeader, dek: &SecretKey<32>, nonce: &[u8; 24]) -> [u8; BLOB_LEN] {
        let sealed = self.cipher(header).seal(nonce, &Self::aad(header, &self.head), dek.expose());
        let mut blob = [0; BLOB_LEN];
        blob[..HEAD_LEN].copy_from_slice(&self.head);
        blob[HEAD_LEN..NONCE_END].copy_from_slice(nonce);
        blob[NONCE_END..].copy_from_slice(&sealed);
        blob
    }

    /// Unwraps a file's data key.
    ///
    /// # Errors
    /// [`Outcome::HeaderAuth`] if `blob` is not of this branch key and this file.
    pub fn unwrap(&self, header: &StaticHeader, blob: &BranchBlob<'_>) -> Result<SecretKey<32>, Outcome> {
        let (head, rest) = blob.bytes.split_at(HEAD_LEN);
        let (nonce, sealed) = rest.split_first_chunk().ok_or(Outcome::HeaderAuth)?;
        let dek = self.cipher(header).open(nonce, &Self::aad(header, head), sealed).map_err(|_| Outcome::HeaderAuth)?;
        SecretKey::from_slice(&dek).ok_or(Outcome::HeaderAuth)
    }
}

/// One version of a branch key as it stands in the volume file: TLV 4.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BranchVersion {
    /// The branch.
    pub branch_id: BranchId,
    /// Its version, from 1.
    pub version: u32,
    /// Commitment to the key.
    pub commit: [u8; 32],
    /// The key, wrapped: 1 to 8 entries of type KMS.
    pub entries: Vec<Recipient>,
}

impl BranchVersion {
    /// Parses the value of the TLV.
    ///
    /// # Errors
    /// [`Outcome::VolumeAuth`] if it is malformed.
    pub fn parse(value: &[u8]) -> Result<Self, Outcome> {
        Self::decode(value).ok_or(Outcome::VolumeAuth)
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let mut reader = Reader(value);
        let branch_id = BranchId::from_bytes(reader.array()?);
        let version = reader.u32()?;
        let commit = reader.array()?;
        let mut entries = Vec::new();
        while !reader.is_empty() {
            let entry = Recipient::decode(&mut reader)?;
            if entry.scheme != Scheme::Kms || entries.len() == MAX_RECIPIENTS {
                return None;
            }
            entries.push(entry);
        }
        (version != 0 && !entries.is_empty()).then_some(Self { branch_id, version, commit, entries })
    }

    /// The value of the TLV.
    ///
    /// # Errors
    /// [`Outcome::SlotOverflow`] if an entry is longer than the format allows.
    pub fn encode(&self) -> Result<Vec<u8>, Outcome> {
        let mut value = Vec::new();
        value.extend_from_slice(self.branch_id.as_bytes());
        value.extend_from_slice(&self.version.to_le_bytes());
        value.extend_from_slice(&self.commit);
        for entry in &self.entries {
            entry.encode(&mut value)?;
        }
        Ok(value)
    }

    /// Opens the key: entries in order, the allow-list, then KMS, then the commitment.
    ///
    /// # Errors
    /// The worst outcome of the entries (FORMAT 5.1).
    pub fn open(
        &self,
        backend: Backend,
        volume: VolumeId,
        allowed: &AllowList,
        unwrap: &mut KmsUnwrap<'_>,
    ) -> Result<BranchKey, Outcome> {
        let context = context_branch(volume, self.branch_id, self.version);
        let mut open_entry = |entry: &Recipient| {
            if entry.flags != 0 {
                return Err(Outcome::NoRecipient);
            }
            let key = unwrap(allowed.find(&entry.key_id)?, &entry.blob, &context)?;
            let branch = BranchKey::derive(backend, volume, self.branch_id, self.version, &key);
            if ct_eq(&branch.commit(), &self.commit) { Ok(branch) } else { Err(Outcome::HeaderAuth) }
        };
        let mut worst = Outcome::NoRecipient;
        for entry in &self.entries {
            match open_entry(entry) {
                Ok(branch) => return Ok(branch),
                Err(outcome) => worst = worst.worse(outcome),
            }
        }
        Err(worst)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::size::Geometry;
    use crate::types::FileId;

    const VOLUME: VolumeId = VolumeId::from_bytes([1; 16]);

    fn branch(version: u32) -> BranchKey {
        let key = SecretKey::from_slice(&[2; 32]).expect("32 bytes");
        BranchKey::derive(Backend::Ring, VOLUME, BranchId::from_bytes([3; 16]), version, &key)
    }

    #[test]
    fn a_wrapped_key_belongs_to_one_file_and_one_version() {
        let header = StaticHeader::new(VOLUME, FileId::from_bytes([4; 16]), Geometry::P1);
        let other = StaticHeader::new(VOLUME, FileId::from_bytes([5; 16]), Geometry::P1);
        let dek = SecretKey::from_slice(&[6; 32]).expect("32 bytes");
        let entry = Recipient::branch(branch(1).wrap(&header, &dek, &[7; 24]), 0);
        let blob = BranchBlob::parse(&entry).expect("well-formed");
        assert_eq!((blob.branch_id(), blob.version()), (BranchId::from_bytes([3; 16]), 1));
        assert!(branch(1).unwrap(&header, &blob).expect("genuine").ct_eq(&dek));
        assert_eq!(branch(1).unwrap(&other, &blob).expect_err("other file"), Outcome::HeaderAuth);
        assert_eq!(branch(2).unwrap(&header, &blob).expect_err("other version"), Outcome::HeaderAuth);
    }

    #[test]
    fn a_branch_entry_has_no_key_id_and_one_length() {
        let good = Recipient::branch([0; BLOB_LEN], 0);
        assert!(BranchBlob::parse(&good).is_ok());
        assert!(BranchBlob::parse(&Recipient { key_id: "k".into(), ..good.clone() }).is_err());
        assert!(BranchBlob::parse(&Recipient { blob: vec![0; 91], ..good }).is_err());
    }

    proptest! {
        #[test]
        fn hostile_values_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(version) = BranchVersion::parse(&bytes) {
                prop_assert_eq!(version.encode(), Ok(bytes));
            }
        }
    }
}
