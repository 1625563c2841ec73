//! Key material as objects: making it, checking it, and using it without parsing it at each call.

use crate::crypto::asymmetric::{AgreementKey, DecapsulationKey, DecryptionKey, PairError, PairKind, SigningKey};
use crate::crypto::mac::MacKey;
use crate::crypto::secret::SecretBytes;
use crate::env::Entropy;
use crate::kms::model::{KeySpec, KeyUsage, MaterialKind};

/// Bytes of the material of symmetric keys.
const SYMMETRIC_LEN: usize = 32;

/// A key of one usage, parsed. Symmetric keys have none: each message has a key of its own (`blob`).
pub enum KeyObject {
    Mac(Box<MacKey>),
    Signing(SigningKey),
    Decryption(DecryptionKey),
    Agreement(AgreementKey),
    Decapsulation(DecapsulationKey),
}

impl KeyObject {
    /// The object of a key with this material.
    pub fn parse(spec: KeySpec, usage: KeyUsage, secret: &SecretBytes) -> Result<Self, PairError> {
        let bytes = secret.expose();
        match (usage, spec.material()) {
            (KeyUsage::GenerateVerifyMac, Some(MaterialKind::Mac(hash))) => {
                Ok(Self::Mac(Box::new(MacKey::new(hash, bytes))))
            }
            (KeyUsage::SignVerify, Some(MaterialKind::Pair(kind))) => SigningKey::new(kind, bytes).map(Self::Signing),
            (KeyUsage::EncryptDecrypt, Some(MaterialKind::Pair(PairKind::Rsa(size)))) => {
                DecryptionKey::new(size, bytes).map(Self::Decryption)
            }
            (KeyUsage::KeyAgreement, Some(MaterialKind::Pair(PairKind::Ec(curve)))) => {
                AgreementKey::new(curve, bytes).map(Self::Agreement)
            }
            (KeyUsage::EncapsulateDecapsulate, Some(MaterialKind::Pair(PairKind::MlKem(set)))) => {
                DecapsulationKey::new(set, bytes).map(Self::Decapsulation)
            }
            _ => Err(PairError::Unfit),
        }
    }

    /// The public key as SubjectPublicKeyInfo; MAC keys have none.
    pub fn public_key(&self) -> Option<&[u8]> {
        match self {
            Self::Mac(_) => None,
            Self::Signing(key) => Some(key.public_key()),
            Self::Decryption(key) => Some(key.public_key()),
            Self::Agreement(key) => Some(key.public_key()),
            Self::Decapsulation(key) => Some(key.public_key()),
        }
    }
}

/// New material. RSA takes seconds: make it before the store is locked.
pub fn generate(spec: KeySpec, entropy: &dyn Entropy) -> Result<SecretBytes, PairError> {
    match spec.material().ok_or(PairError::Unfit)? {
        MaterialKind::Symmetric => Ok(symmetric(entropy)),
        MaterialKind::Mac(hash) => Ok(SecretBytes::random(hash.size(), entropy)),
        MaterialKind::Pair(kind) => kind.generate(),
    }
}

/// New material of a symmetric key.
pub fn symmetric(entropy: &dyn Entropy) -> SecretBytes {
    SecretBytes::random(SYMMETRIC_LEN, entropy)
}

/// Material that comes from outside, checked and in the form in which it is kept: equal keys are equal bytes.
pub fn import(spec: KeySpec, material: SecretBytes) -> Result<SecretBytes, PairError> {
    let len = match spec.material().ok_or(PairError::Unfit)? {
        MaterialKind::Symmetric => SYMMETRIC_LEN,
        MaterialKind::Mac(hash) => hash.size(),
        MaterialKind::Pair(kind) => return kind.canonical(material.expose()),
    };
    if material.expose().len() == len { Ok(material) } else { Err(PairError::Rejected) }
}
