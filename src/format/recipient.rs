//! Recipient entries (FORMAT 5.1): wrapped keys and what they are wrapped with.

use super::Outcome;
use super::bytes::Reader;
use crate::types::KeyArn;

/// Most recipients in a slot, of a volume file, or of a branch key version.
pub const MAX_RECIPIENTS: usize = 8;
/// Longest key id, in bytes.
pub const MAX_KEY_ID: usize = KeyArn::MAX_LEN;
/// Longest wrapped key, in bytes.
pub const MAX_BLOB: usize = 6144;

const FIXED_LEN: usize = 16;

/// What a key is wrapped with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheme {
    /// A KMS key; the key id is its ARN.
    Kms,
    /// A branch key of the volume file (FORMAT 4.4).
    Branch,
    /// An RSA public key kept offline.
    Recovery,
    /// Made by a newer version; skipped.
    Other(u8),
}

impl Scheme {
    const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Kms,
            2 => Self::Branch,
            3 => Self::Recovery,
            other => Self::Other(other),
        }
    }

    const fn to_byte(self) -> u8 {
        match self {
            Self::Kms => 1,
            Self::Branch => 2,
            Self::Recovery => 3,
            Self::Other(byte) => byte,
        }
    }
}

/// One wrapped copy of a key. Nothing in it is authenticated: the key id is checked against an [`AllowList`], the
/// unwrapped key against a commitment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipient {
    /// What the key is wrapped with.
    pub scheme: Scheme,
    /// Zero in this version; an entry with other flags is skipped.
    pub flags: u8,
    /// The wrapping key's name: a key ARN for [`Scheme::Kms`], empty for [`Scheme::Branch`].
    pub key_id: String,
    /// The wrapped key.
    pub blob: Vec<u8>,
    /// When the entry was made, in seconds since 1970. For display only, not trusted.
    pub unix_time: u64,
}

impl Recipient {
    /// A key wrapped by KMS.
    pub fn kms(key: &KeyArn, blob: Vec<u8>, unix_time: u64) -> Self {
        Self { scheme: Scheme::Kms, flags: 0, key_id: key.as_str().to_owned(), blob, unix_time }
    }

    /// A data key wrapped by a branch key ([`super::branch::BranchKey::wrap`]).
    pub fn branch(blob: [u8; super::branch::BLOB_LEN], unix_time: u64) -> Self {
        Self { scheme: Scheme::Branch, flags: 0, key_id: String::new(), blob: blob.to_vec(), unix_time }
    }

    /// Bytes of the entry on disk.
    pub fn encoded_len(&self) -> usize {
        FIXED_LEN + self.key_id.len() + self.blob.len()
    }

    /// Appends the entry to `out`.
    ///
    /// # Errors
    /// [`Outcome::SlotOverflow`] if key id or blob are longer than the format allows, or the blob is empty.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Outcome> {
        if self.key_id.len() > MAX_KEY_ID || self.blob.is_empty() || self.blob.len() > MAX_BLOB {
            return Err(Outcome::SlotOverflow);
        }
        let len16 = |n: usize| u16::try_from(n).map_err(|_| Outcome::SlotOverflow);
        out.extend_from_slice(&[self.scheme.to_byte(), self.flags]);
        out.extend_from_slice(&len16(self.key_id.len())?.to_le_bytes());
        out.extend_from_slice(&len16(self.blob.len())?.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.unix_time.to_le_bytes());
        out.extend_from_slice(self.key_id.as_bytes());
        out.extend_from_slice(&self.blob);
        Ok(())
    }

    /// Parses an entry that fills `bytes`; `None` if it is malformed.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let entry = Self::decode(&mut reader)?;
        reader.is_empty().then_some(entry)
    }

    /// Takes one entry off the front of `reader`; `None` if it is malformed.
    pub(super) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let scheme = Scheme::from_byte(reader.u8()?);
        let flags = reader.u8()?;
        let key_len = usize::from(reader.u16()?);
        let blob_len = usize::from(reader.u16()?);
        let zero = reader.u16()?;
        let unix_time = reader.u64()?;
        if zero != 0 || key_len > MAX_KEY_ID || blob_len == 0 || blob_len > MAX_BLOB {
            return None;
        }
        let key_id = std::str::from_utf8(reader.take(key_len)?).ok()?.to_owned();
        let blob = reader.take(blob_len)?.to_vec();
        Some(Self { scheme, flags, key_id, blob, unix_time })
    }
}

/// KMS keys that may be asked to unwrap: a key name found in ciphertext is used only if it stands here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AllowList(Vec<KeyArn>);

impl AllowList {
    /// The listed key that `key_id` names.
    ///
    /// # Errors
    /// [`Outcome::KeyForbidden`] if there is none.
    pub fn find(&self, key_id: &str) -> Result<&KeyArn, Outcome> {
        self.0.iter().find(|key| key.as_str() == key_id).ok_or(Outcome::KeyForbidden)
    }

    /// The keys, in the order of the list.
    pub fn keys(&self) -> &[KeyArn] {
        &self.0
    }
}

impl FromIterator<KeyArn> for AllowList {
    fn from_iter<I: IntoIterator<Item = KeyArn>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some(scheme: u8, key_id: String, blob: Vec<u8>) -> Recipient {
        Recipient { scheme: Scheme::from_byte(scheme), flags: 0, key_id, blob, unix_time: 7 }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        for (key, blob) in [(513, 1), (1, 0), (1, 6145)] {
            let entry = some(1, "k".repeat(key), vec![1; blob]);
            assert_eq!(entry.encode(&mut Vec::new()), Err(Outcome::SlotOverflow));
        }
        some(1, "k".repeat(512), vec![1; 6144]).encode(&mut Vec::new()).expect("the largest entry");
    }

    proptest! {
        #[test]
        fn entries_round_trip(scheme: u8, key_id in "[ -~]{0,80}", blob in prop::collection::vec(any::<u8>(), 1..300)) {
            let entry = some(scheme, key_id, blob);
            let mut bytes = Vec::new();
            entry.encode(&mut bytes).expect("fits");
            prop_assert_eq!(bytes.len(), entry.encoded_len());
            prop_assert_eq!(Recipient::parse(&bytes), Some(entry));
            bytes.push(0);
            prop_assert_eq!(Recipient::parse(&bytes), None);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut reader = Reader(&bytes);
            while let Some(entry) = Recipient::decode(&mut reader) {
                prop_assert!(entry.encode(&mut Vec::new()).is_ok());
            }
        }
    }
}
