//! Signatures: one type over the four families.

use aws_lc_rs::digest;

use super::ec::EcKey;
use super::ed25519::Ed25519Key;
use super::ml_dsa::MlDsaKey;
use super::rsa::RsaKey;
use super::{PairError, PairKind};

/// A signature scheme with its hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// RSASSA-PSS (RFC 8017), salt as long as the hash.
    Pss(Hash),
    /// RSASSA-PKCS1-v1_5 (RFC 8017).
    Pkcs1(Hash),
    /// ECDSA (FIPS 186-5), signature in DER.
    Ecdsa(Hash),
    /// Ed25519 (RFC 8032), over messages.
    Ed25519,
    /// Ed25519ph (RFC 8032) with an empty context, over the SHA-512 of what is given.
    Ed25519Ph,
    /// ML-DSA with an empty context (FIPS 204), hedged.
    MlDsa,
}

/// Hash functions of signature schemes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    pub(super) fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    /// `bytes` as a digest; refused if its length is wrong.
    pub(super) fn import(self, bytes: &[u8]) -> Result<digest::Digest, PairError> {
        digest::Digest::import_less_safe(bytes, self.algorithm()).map_err(|_| PairError::Unfit)
    }
}

impl Scheme {
    /// Bytes of a digest that the scheme takes instead of a message; `None` if it takes none.
    pub fn digest_len(self) -> Option<usize> {
        match self {
            Self::Pss(hash) | Self::Pkcs1(hash) | Self::Ecdsa(hash) => Some(hash.algorithm().output_len()),
            Self::Ed25519Ph => Some(digest::SHA512.output_len()),
            Self::Ed25519 | Self::MlDsa => None,
        }
    }
}

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// A message, to be hashed by the scheme.
    Message(&'a [u8]),
    /// The digest of a message.
    Digest(&'a [u8]),
    /// The message representative of ML-DSA (FIPS 204, section 6.2).
    Mu(&'a [u8; 64]),
}

/// A private key for signatures with its public key.
pub struct SigningKey {
    family: Family,
    public: Vec<u8>,
}

enum Family {
    Rsa(RsaKey),
    Ec(EcKey),
    Ed25519(Box<Ed25519Key>),
    MlDsa(MlDsaKey),
}

impl SigningKey {
    /// Parses a private key in canonical form.
    pub fn new(kind: PairKind, pkcs8: &[u8]) -> Result<Self, PairError> {
        let (family, public) = match kind {
            PairKind::Rsa(size) => {
                let key = RsaKey::new(size, pkcs8)?;
                let public = key.public_key()?;
                (Family::Rsa(key), public)
            }
            PairKind::Ec(curve) => {
                let key = EcKey::new(curve, pkcs8)?;
                let public = key.public_key()?;
                (Family::Ec(key), public)
            }
            PairKind::Ed25519 => {
                let key = Ed25519Key::new(pkcs8)?;
                let public = key.public_key()?;
                (Family::Ed25519(Box::new(key)), public)
            }
            PairKind::MlDsa(set) => {
                let key = MlDsaKey::new(set, pkcs8)?;
                let public = key.public_key()?;
                (Family::MlDsa(key), public)
            }
            PairKind::MlKem(_) => return Err(PairError::Unfit),
        };
        Ok(Self { family, public })
    }

    /// The public key as SubjectPublicKeyInfo.
    pub fn public_key(&self) -> &[u8] {
        &self.public
    }

    /// The signature.
    ///
    /// # Errors
    /// [`PairError::Unfit`] if scheme, kind of input or length of a digest do not fit.
    pub fn sign(&self, scheme: Scheme, input: Input<'_>) -> Result<Vec<u8>, PairError> {
        match &self.family {
            Family::Rsa(key) => key.sign(scheme, input),
            Family::Ec(key) => key.sign(scheme, input),
            Family::Ed25519(key) => key.sign(scheme, input),
            Family::MlDsa(key) => key.sign(scheme, input),
        }
    }

    /// Whether `signature` is one of this key.
    ///
    /// # Errors
    /// As [`SigningKey::sign`].
    pub fn verify(&self, scheme: Scheme, input: Input<'_>, signature: &[u8]) -> Result<bool, PairError> {
        match &self.family {
            Family::Rsa(key) => key.verify(scheme, input, signature),
            Family::Ec(key) => key.verify(scheme, input, signature),
            Family::Ed25519(key) => key.verify(scheme, input, signature),
            Family::MlDsa(key) => key.verify(scheme, input, signature),
        }
    }

    /// A scheme of this key that takes messages.
    pub(super) fn first_scheme(&self) -> Scheme {
        match &self.family {
            Family::Rsa(_) => Scheme::Pkcs1(Hash::Sha256),
            Family::Ec(key) => Scheme::Ecdsa(key.hash()),
            Family::Ed25519(_) => Scheme::Ed25519,
            Family::MlDsa(_) => Scheme::MlDsa,
        }
    }
}
