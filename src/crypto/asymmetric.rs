//! Key pairs: typed wrappers around AWS-LC, and around two crates for what its Rust interface lacks (ADR 9).
//!
//! A private key travels as PKCS#8 (RFC 5208) in one canonical form per kind, so that equal keys are equal bytes:
//! RSA and ECC as AWS-LC writes them, Ed25519 (RFC 8410) and ML-DSA (RFC 9881) as their seeds, ML-KEM (RFC 9935) as the
//! expanded key, since AWS-LC's Rust interface does not give its seed. A public key is a SubjectPublicKeyInfo (RFC 5280).
//! Randomness comes from AWS-LC's own generator, not from `env::Entropy`.

mod ec;
mod ed25519;
mod ml_dsa;
mod ml_kem;
mod rsa;
mod signing;

pub use ec::AgreementKey;
pub use ml_kem::DecapsulationKey;
pub use rsa::{DecryptionKey, Oaep};
pub use signing::{Hash, Input, Scheme, SigningKey};

use super::secret::SecretBytes;

/// RSA modulus lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RsaSize {
    /// 2048 bits.
    Bits2048,
    /// 3072 bits.
    Bits3072,
    /// 4096 bits.
    Bits4096,
}

/// Curves of Weierstrass form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
    /// secp256k1.
    Secp256k1,
}

/// Parameter sets of ML-DSA (FIPS 204).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlDsaSet {
    /// ML-DSA-44.
    MlDsa44,
    /// ML-DSA-65.
    MlDsa65,
    /// ML-DSA-87.
    MlDsa87,
}

/// Parameter sets of ML-KEM (FIPS 203).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlKemSet {
    /// ML-KEM-512.
    MlKem512,
    /// ML-KEM-768.
    MlKem768,
    /// ML-KEM-1024.
    MlKem1024,
}

/// A kind of key pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairKind {
    /// RSA (RFC 8017).
    Rsa(RsaSize),
    /// ECDSA and ECDH on a Weierstrass curve.
    Ec(Curve),
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// ML-DSA.
    MlDsa(MlDsaSet),
    /// ML-KEM.
    MlKem(MlKemSet),
}

/// Why something could not be done with a key pair.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum PairError {
    /// The bytes are no acceptable key of the kind, or private and public part do not belong together.
    #[error("these bytes are not an acceptable key of this kind")]
    Rejected,
    /// Scheme or input does not fit the key.
    #[error("the algorithm or its input does not fit the key")]
    Unfit,
    /// The library failed.
    #[error("the cryptographic library failed to {0}")]
    Failed(&'static str),
}

impl PairKind {
    /// A new private key in canonical form, whose two parts are known to belong together.
    pub fn generate(self) -> Result<SecretBytes, PairError> {
        let pkcs8 = match self {
            Self::Rsa(size) => rsa::generate(size),
            Self::Ec(curve) => ec::generate(curve),
            Self::Ed25519 => ed25519::generate(),
            Self::MlDsa(set) => ml_dsa::generate(set),
            Self::MlKem(set) => ml_kem::generate(set),
        }?;
        self.check_pair(pkcs8.expose())?;
        Ok(pkcs8)
    }

    /// The canonical form of a private key that comes from outside; it is checked.
    ///
    /// # Errors
    /// [`PairError::Rejected`], also for ML-DSA keys without their seed and for ML-KEM keys that are only a seed.
    pub fn canonical(self, pkcs8: &[u8]) -> Result<SecretBytes, PairError> {
        let canonical = match self {
            Self::Rsa(size) => rsa::canonical(size, pkcs8),
            Self::Ec(curve) => ec::canonical(curve, pkcs8),
            Self::Ed25519 => ed25519::canonical(pkcs8),
            Self::MlDsa(set) => ml_dsa::canonical(set, pkcs8),
            Self::MlKem(set) => ml_kem::canonical(set, pkcs8),
        }?;
        self.check_pair(canonical.expose())?;
        Ok(canonical)
    }

    /// The public key of a private key in canonical form.
    pub fn public_key(self, pkcs8: &[u8]) -> Result<Vec<u8>, PairError> {
        match self {
            Self::MlKem(set) => DecapsulationKey::new(set, pkcs8).map(|key| key.public_key().to_vec()),
            _ => SigningKey::new(self, pkcs8).map(|key| key.public_key().to_vec()),
        }
    }

    /// Uses the private key and undoes it with the public one (pairwise consistency, FIPS 140-3 IG 10.3.A).
    fn check_pair(self, pkcs8: &[u8]) -> Result<(), PairError> {
        const MESSAGE: &[u8] = b"pairwise consistency";
        let fits = match self {
            Self::MlKem(set) => {
                let key = DecapsulationKey::new(set, pkcs8)?;
                let (ciphertext, secret) = key.encapsulate()?;
                key.decapsulate(&ciphertext)?.expose() == secret.expose()
            }
            _ => {
                let key = SigningKey::new(self, pkcs8)?;
                let scheme = key.first_scheme();
                let signature = key.sign(scheme, Input::Message(MESSAGE))?;
                key.verify(scheme, Input::Message(MESSAGE), &signature)?
            }
        };
        if fits { Ok(()) } else { Err(PairError::Rejected) }
    }
}

/// A DER element: tag, length, content.
fn der(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let len: usize = content.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    match u16::try_from(len).expect("keys are shorter than 64 KiB") {
        short @ 0..=0x7f => out.push(short as u8),
        byte @ 0x80..=0xff => out.extend([0x81, byte as u8]),
        word => {
            out.push(0x82);
            out.extend(word.to_be_bytes());
        }
    }
    out.reserve_exact(len);
    content.iter().for_each(|part| out.extend_from_slice(part));
    out
}

#[cfg(test)]
mod tests;
