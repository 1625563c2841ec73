//! Weierstrass curves: ECDSA (FIPS 186-5) and ECDH (SP 800-56A).

use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, ECDH_P521, ParsedPublicKey, ParsedPublicKeyFormat};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256K1_SHA256_ASN1, ECDSA_P256K1_SHA256_ASN1_SIGNING,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, EcdsaVerificationAlgorithm, KeyPair, UnparsedPublicKey,
};

use super::signing::{Hash, Input, Scheme};
use super::{Curve, PairError};
use crate::crypto::secret::SecretBytes;

type Algorithms = (&'static EcdsaSigningAlgorithm, &'static EcdsaVerificationAlgorithm);

impl Curve {
    /// Each curve has one hash function, of its own strength.
    const fn hash(self) -> Hash {
        match self {
            Self::P256 | Self::Secp256k1 => Hash::Sha256,
            Self::P384 => Hash::Sha384,
            Self::P521 => Hash::Sha512,
        }
    }

    const fn ecdsa(self) -> Algorithms {
        match self {
            Self::P256 => (&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P256_SHA256_ASN1),
            Self::P384 => (&ECDSA_P384_SHA384_ASN1_SIGNING, &ECDSA_P384_SHA384_ASN1),
            Self::P521 => (&ECDSA_P521_SHA512_ASN1_SIGNING, &ECDSA_P521_SHA512_ASN1),
            Self::Secp256k1 => (&ECDSA_P256K1_SHA256_ASN1_SIGNING, &ECDSA_P256K1_SHA256_ASN1),
        }
    }

    fn ecdh(self) -> Result<&'static agreement::Algorithm, PairError> {
        match self {
            Self::P256 => Ok(&ECDH_P256),
            Self::P384 => Ok(&ECDH_P384),
            Self::P521 => Ok(&ECDH_P521),
            Self::Secp256k1 => Err(PairError::Unfit),
        }
    }
}

fn canonical_form(pair: &EcdsaKeyPair) -> Result<SecretBytes, PairError> {
    let der = pair.to_pkcs8v1().map_err(|_| PairError::Failed("encode an ECC key"))?;
    Ok(SecretBytes::from(der.as_ref()))
}

pub fn generate(curve: Curve) -> Result<SecretBytes, PairError> {
    canonical_form(&EcdsaKeyPair::generate(curve.ecdsa().0).map_err(|_| PairError::Failed("make an ECC key"))?)
}

pub fn canonical(curve: Curve, pkcs8: &[u8]) -> Result<SecretBytes, PairError> {
    canonical_form(&EcKey::new(curve, pkcs8)?.pair)
}

/// A private key for ECDSA.
pub struct EcKey {
    pair: EcdsaKeyPair,
    curve: Curve,
}

impl EcKey {
    pub fn new(curve: Curve, pkcs8: &[u8]) -> Result<Self, PairError> {
        let pair = EcdsaKeyPair::from_pkcs8(curve.ecdsa().0, pkcs8).map_err(|_| PairError::Rejected)?;
        Ok(Self { pair, curve })
    }

    pub fn public_key(&self) -> Result<Vec<u8>, PairError> {
        let der = self.pair.public_key().as_der().map_err(|_| PairError::Failed("encode an ECC public key"))?;
        Ok(der.as_ref().to_vec())
    }

    pub fn hash(&self) -> Hash {
        self.curve.hash()
    }

    fn check(&self, scheme: Scheme) -> Result<(), PairError> {
        if scheme == Scheme::Ecdsa(self.hash()) { Ok(()) } else { Err(PairError::Unfit) }
    }

    pub fn sign(&self, scheme: Scheme, input: Input<'_>) -> Result<Vec<u8>, PairError> {
        self.check(scheme)?;
        let signed = match input {
            Input::Message(message) => self.pair.sign(&SystemRandom::new(), message),
            Input::Digest(digest) => self.pair.sign_digest(&self.hash().import(digest)?),
            Input::Mu(_) => return Err(PairError::Unfit),
        };
        signed.map(|signature| signature.as_ref().to_vec()).map_err(|_| PairError::Failed("sign with an ECC key"))
    }

    pub fn verify(&self, scheme: Scheme, input: Input<'_>, signature: &[u8]) -> Result<bool, PairError> {
        self.check(scheme)?;
        let public = UnparsedPublicKey::new(self.curve.ecdsa().1, self.pair.public_key());
        let verified = match input {
            Input::Message(message) => public.verify(message, signature),
            Input::Digest(digest) => public.verify_digest(&self.hash().import(digest)?, signature),
            Input::Mu(_) => return Err(PairError::Unfit),
        };
        Ok(verified.is_ok())
    }
}

/// A private key for ECDH on a NIST curve, with its public key.
pub struct AgreementKey {
    key: agreement::PrivateKey,
    algorithm: &'static agreement::Algorithm,
    public_der: Vec<u8>,
}

impl AgreementKey {
    /// Parses a private key in canonical form.
    pub fn new(curve: Curve, pkcs8: &[u8]) -> Result<Self, PairError> {
        let algorithm = curve.ecdh()?;
        let key = agreement::PrivateKey::from_private_key_der(algorithm, pkcs8).map_err(|_| PairError::Rejected)?;
        let failed = |_| PairError::Failed("encode an ECC public key");
        let der = key.compute_public_key().map_err(failed)?.as_der().map_err(failed)?;
        let public_der = der.as_ref().to_vec();
        Ok(Self { key, algorithm, public_der })
    }

    /// The public key as SubjectPublicKeyInfo.
    pub fn public_key(&self) -> &[u8] {
        &self.public_der
    }

    /// The x coordinate of the shared point, in the length of the field.
    ///
    /// # Errors
    /// [`PairError::Rejected`] if `peer` is no SubjectPublicKeyInfo of a point on the same curve.
    pub fn agree(&self, peer: &[u8]) -> Result<SecretBytes, PairError> {
        let peer = agreement::UnparsedPublicKey::new(self.algorithm, peer);
        let peer = ParsedPublicKey::try_from(peer).map_err(|_| PairError::Rejected)?;
        if peer.format() != ParsedPublicKeyFormat::X509 {
            return Err(PairError::Rejected);
        }
        agreement::agree(&self.key, peer, PairError::Failed("agree on a secret"), |secret| Ok(secret.into()))
    }
}
