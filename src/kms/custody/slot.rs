//! Slots: each wraps the root key under one secret.

use std::fmt;
use std::time::Instant;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{CustodyError, RecoveryKey};
use crate::crypto::secret::SecretKey;
use crate::env::{Entropy, random};
use crate::kms::model::nanos;
use crate::kms::seal;
use crate::types::Timestamp;

const SALT_LEN: usize = 16;

/// A passphrase, wiped on drop.
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// The passphrase with these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

/// The kinds of slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotKind {
    /// Argon2id of a passphrase.
    Passphrase,
    /// A random secret in `domain.key`.
    KeyFile,
    /// A random secret printed once.
    Recovery,
}

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passphrase => "passphrase",
            Self::KeyFile => "key file",
            Self::Recovery => "recovery key",
        })
    }
}

/// Cost of Argon2id (RFC 9106). Stored in the slot, bounded when read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Argon2Params {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Argon2Params {
    /// The least that is used outside tests: 64 MiB, three passes.
    pub const MINIMUM: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 };
    /// More is refused on reading: a changed root file must not exhaust the computer.
    const BOUND: Self = Self { memory_kib: 2 * 1024 * 1024, passes: 64, lanes: 16 };

    /// 64 to 256 MiB, as much as takes about a second on this computer and leaves three quarters of its free memory.
    pub fn calibrated() -> Self {
        let probe = Passphrase::new(b"calibration".to_vec());
        let start = Instant::now();
        if Self::MINIMUM.derive(&probe, &[0; SALT_LEN]).is_err() {
            return Self::MINIMUM;
        }
        let per_minimum = start.elapsed().as_millis().max(1);
        let by_time = u32::try_from(1000 / per_minimum).unwrap_or(1);
        let by_memory = available_kib().map_or(1, |free| free / 4 / u64::from(Self::MINIMUM.memory_kib));
        let factor = by_time.min(u32::try_from(by_memory).unwrap_or(1)).clamp(1, 4);
        Self { memory_kib: Self::MINIMUM.memory_kib * factor, ..Self::MINIMUM }
    }

    fn within_bounds(self) -> bool {
        let Self { memory_kib, passes, lanes } = Self::BOUND;
        self.memory_kib <= memory_kib && self.passes <= passes && self.lanes <= lanes
    }

    fn derive(self, passphrase: &Passphrase, salt: &[u8]) -> Result<SecretKey<32>, String> {
        if !self.within_bounds() {
            return Err(format!("Argon2 parameters out of bounds: {self:?}"));
        }
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).map_err(|e| e.to_string())?;
        let mut blocks = vec![Block::default(); params.block_count()];
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut outcome = Ok(());
        let key = SecretKey::build(|out| {
            outcome = argon2.hash_password_into_with_memory(&passphrase.0, salt, out, &mut blocks[..]);
        });
        blocks.iter_mut().for_each(Zeroize::zeroize);
        outcome.map(|()| key).map_err(|e| e.to_string())
    }
}

/// Memory that can be had without swapping, in KiB.
fn available_kib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?.split_whitespace().next()?.parse().ok()
}

/// A slot to make.
pub enum NewSlot {
    /// For a passphrase, at this cost.
    Passphrase(Passphrase, Argon2Params),
    /// With a new `domain.key` (0600) in the home. Convenient for unattended mounts, and no protection against
    /// somebody who has the disk.
    KeyFile,
    /// With a new recovery key.
    Recovery,
}

/// What is shown of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// Number, never reused in this home.
    pub id: u32,
    /// Kind.
    pub kind: SlotKind,
    /// When it was made.
    pub created: Timestamp,
    /// Cost of a passphrase slot.
    pub argon2: Option<Argon2Params>,
}

/// A slot as it stands in the root file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotRecord {
    pub id: u32,
    pub kind: SlotKind,
    #[serde(with = "nanos")]
    pub created: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub argon2: Option<Argon2Params>,
    /// Salt, hex.
    pub salt: String,
    /// The sealed root key, hex.
    pub wrapped: String,
}

/// A secret that belongs to a slot.
pub enum SlotSecret<'a> {
    Passphrase(&'a Passphrase, Argon2Params),
    KeyFile(&'a [u8]),
    Recovery(&'a RecoveryKey),
}

impl SlotRecord {
    /// Wraps `root` for `secret`.
    pub fn wrap(
        (id, created): (u32, Timestamp),
        home_id: &str,
        secret: &SlotSecret<'_>,
        root: &SecretKey<32>,
        entropy: &dyn Entropy,
    ) -> Result<Self, CustodyError> {
        let salt: [u8; SALT_LEN] = random(entropy);
        let (kind, argon2) = match secret {
            SlotSecret::Passphrase(passphrase, _) if passphrase.0.is_empty() => {
                return Err(CustodyError::Refused("an empty passphrase protects nothing".into()));
            }
            SlotSecret::Passphrase(_, params) => (SlotKind::Passphrase, Some(*params)),
            SlotSecret::KeyFile(_) => (SlotKind::KeyFile, None),
            SlotSecret::Recovery(_) => (SlotKind::Recovery, None),
        };
        let kek = kek(secret, &salt).map_err(CustodyError::Refused)?;
        let wrapped = seal::seal(&kek, &slot_aad(home_id, id, kind), root.expose(), entropy);
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        Ok(Self { id, kind, created, argon2, salt: hex(&salt), wrapped: hex(&wrapped) })
    }

    /// Unwraps the root key; `Ok(None)` when the secret is not this slot's, an error text when the slot is unusable.
    pub fn unwrap(&self, home_id: &str, secret: &SlotSecret<'_>) -> Result<Option<SecretKey<32>>, String> {
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|e| e.to_string());
        let (salt, wrapped) = (hex(&self.salt)?, hex(&self.wrapped)?);
        let kek = match (secret, self.argon2) {
            (SlotSecret::Passphrase(passphrase, _), Some(stored)) => stored.derive(passphrase, &salt)?,
            (SlotSecret::Passphrase(..), None) => return Err("a passphrase slot without Argon2 parameters".into()),
            _ => kek(secret, &salt)?,
        };
        let root = seal::open(&kek, &slot_aad(home_id, self.id, self.kind), &wrapped);
        Ok(root.and_then(|bytes| SecretKey::from_slice(&bytes)))
    }

    pub fn info(&self) -> SlotInfo {
        SlotInfo { id: self.id, kind: self.kind, created: self.created, argon2: self.argon2 }
    }
}

fn kek(secret: &SlotSecret<'_>, salt: &[u8]) -> Result<SecretKey<32>, String> {
    match secret {
        SlotSecret::Passphrase(passphrase, params) => params.derive(passphrase, salt),
        SlotSecret::KeyFile(bytes) => Ok(seal::derive(bytes, salt, "kmsfs key file slot v1")),
        SlotSecret::Recovery(key) => Ok(seal::derive(key.secret(), salt, "kmsfs recovery slot v1")),
    }
}

fn slot_aad(home_id: &str, id: u32, kind: SlotKind) -> Vec<u8> {
    seal::framed(&[b"kmsfs slot v1", home_id.as_bytes(), &id.to_be_bytes(), kind.to_string().as_bytes()])
}

#[cfg(test)]
pub(in crate::kms) const CHEAP: Argon2Params = Argon2Params { memory_kib: 64, passes: 1, lanes: 1 };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEntropy;

    #[test]
    fn only_the_right_passphrase_unwraps() {
        let entropy = SeededEntropy::new(3);
        let root = SecretKey::random(&entropy);
        let right = Passphrase::new(b"right".to_vec());
        let secret = SlotSecret::Passphrase(&right, CHEAP);
        let slot = SlotRecord::wrap((1, Timestamp::default()), "home", &secret, &root, &entropy).expect("wrapped");
        assert!(slot.unwrap("home", &secret).expect("usable").expect("right").ct_eq(&root));
        assert!(slot.unwrap("other home", &secret).expect("usable").is_none());
        let wrong = Passphrase::new(b"wrong".to_vec());
        assert!(slot.unwrap("home", &SlotSecret::Passphrase(&wrong, CHEAP)).expect("usable").is_none());
    }

    #[test]
    fn parameters_are_bounded_on_reading() {
        let mut huge = CHEAP;
        huge.memory_kib = u32::MAX;
        assert!(huge.derive(&Passphrase::new(b"x".to_vec()), &[0; 16]).is_err());
        let calibrated = Argon2Params::calibrated();
        assert!(calibrated.memory_kib >= 64 * 1024 && calibrated.passes >= 3);
    }

    #[test]
    fn an_empty_passphrase_is_refused() {
        let entropy = SeededEntropy::new(3);
        let empty = Passphrase::new(Vec::new());
        let secret = SlotSecret::Passphrase(&empty, CHEAP);
        let root = SecretKey::random(&entropy);
        assert!(SlotRecord::wrap((1, Timestamp::default()), "home", &secret, &root, &entropy).is_err());
    }
}
