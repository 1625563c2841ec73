//! RSA (RFC 8017): signatures and OAEP.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPrivateDecryptingKey,
    OaepPublicEncryptingKey, PrivateDecryptingKey,
};
use aws_lc_rs::signature::{self, KeyPair, RsaEncoding, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm};
use zeroize::Zeroizing;

use super::signing::{Hash, Input, Scheme};
use super::{PairError, RsaSize};
use crate::crypto::secret::SecretBytes;

impl RsaSize {
    const fn bytes(self) -> usize {
        match self {
            Self::Bits2048 => 256,
            Self::Bits3072 => 384,
            Self::Bits4096 => 512,
        }
    }
}

fn canonical_form(pair: &RsaKeyPair) -> Result<SecretBytes, PairError> {
    let der = pair.as_der().map_err(|_| PairError::Failed("encode an RSA key"))?;
    Ok(SecretBytes::from(der.as_ref()))
}

pub fn generate(size: RsaSize) -> Result<SecretBytes, PairError> {
    let size = match size {
        RsaSize::Bits2048 => KeySize::Rsa2048,
        RsaSize::Bits3072 => KeySize::Rsa3072,
        RsaSize::Bits4096 => KeySize::Rsa4096,
    };
    canonical_form(&RsaKeyPair::generate(size).map_err(|_| PairError::Failed("make an RSA key"))?)
}

pub fn canonical(size: RsaSize, pkcs8: &[u8]) -> Result<SecretBytes, PairError> {
    canonical_form(&RsaKey::new(size, pkcs8)?.0)
}

/// A private key for signatures.
pub struct RsaKey(RsaKeyPair);

type Algorithms = (&'static dyn RsaEncoding, &'static dyn VerificationAlgorithm, Hash);

fn algorithms(scheme: Scheme) -> Result<Algorithms, PairError> {
    use signature::*;
    Ok(match scheme {
        Scheme::Pss(Hash::Sha256) => (&RSA_PSS_SHA256, &RSA_PSS_2048_8192_SHA256, Hash::Sha256),
        Scheme::Pss(Hash::Sha384) => (&RSA_PSS_SHA384, &RSA_PSS_2048_8192_SHA384, Hash::Sha384),
        Scheme::Pss(Hash::Sha512) => (&RSA_PSS_SHA512, &RSA_PSS_2048_8192_SHA512, Hash::Sha512),
        Scheme::Pkcs1(Hash::Sha256) => (&RSA_PKCS1_SHA256, &RSA_PKCS1_2048_8192_SHA256, Hash::Sha256),
        Scheme::Pkcs1(Hash::Sha384) => (&RSA_PKCS1_SHA384, &RSA_PKCS1_2048_8192_SHA384, Hash::Sha384),
        Scheme::Pkcs1(Hash::Sha512) => (&RSA_PKCS1_SHA512, &RSA_PKCS1_2048_8192_SHA512, Hash::Sha512),
        _ => return Err(PairError::Unfit),
    })
}

impl RsaKey {
    pub fn new(size: RsaSize, pkcs8: &[u8]) -> Result<Self, PairError> {
        let pair = RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| PairError::Rejected)?;
        let modulus = pair.public_key().modulus().big_endian_without_leading_zero().to_vec();
        let full = modulus.len() == size.bytes() && modulus[0] >= 0x80;
        if full { Ok(Self(pair)) } else { Err(PairError::Rejected) }
    }

    pub fn public_key(&self) -> Result<Vec<u8>, PairError> {
        let der = self.0.public_key().as_der().map_err(|_| PairError::Failed("encode an RSA public key"))?;
        Ok(der.as_ref().to_vec())
    }

    pub fn sign(&self, scheme: Scheme, input: Input<'_>) -> Result<Vec<u8>, PairError> {
        let (encoding, _, hash) = algorithms(scheme)?;
        let mut signature = vec![0; self.0.public_modulus_len()];
        let signed = match input {
            Input::Message(message) => self.0.sign(encoding, &SystemRandom::new(), message, &mut signature),
            Input::Digest(digest) => self.0.sign_digest(encoding, &hash.import(digest)?, &mut signature),
            Input::Mu(_) => return Err(PairError::Unfit),
        };
        signed.map_err(|_| PairError::Failed("sign with an RSA key"))?;
        Ok(signature)
    }

    pub fn verify(&self, scheme: Scheme, input: Input<'_>, signature: &[u8]) -> Result<bool, PairError> {
        let (_, algorithm, hash) = algorithms(scheme)?;
        let public = UnparsedPublicKey::new(algorithm, self.0.public_key());
        let verified = match input {
            Input::Message(message) => public.verify(message, signature),
            Input::Digest(digest) => public.verify_digest(&hash.import(digest)?, signature),
            Input::Mu(_) => return Err(PairError::Unfit),
        };
        Ok(verified.is_ok())
    }
}

/// The hash function of OAEP and of its mask generation; the label is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oaep {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

impl Oaep {
    fn algorithm(self) -> &'static OaepAlgorithm {
        match self {
            Self::Sha1 => &OAEP_SHA1_MGF1SHA1,
            Self::Sha256 => &OAEP_SHA256_MGF1SHA256,
        }
    }
}

/// A private key for RSA-OAEP with its public key.
pub struct DecryptionKey {
    private: OaepPrivateDecryptingKey,
    public: OaepPublicEncryptingKey,
    public_der: Vec<u8>,
}

impl DecryptionKey {
    /// Parses a private key in canonical form.
    pub fn new(size: RsaSize, pkcs8: &[u8]) -> Result<Self, PairError> {
        let private = PrivateDecryptingKey::from_pkcs8(pkcs8).map_err(|_| PairError::Rejected)?;
        if private.key_size_bits() != size.bytes() * 8 {
            return Err(PairError::Rejected);
        }
        let public = private.public_key();
        let der = public.as_der().map_err(|_| PairError::Failed("encode an RSA public key"))?;
        let public_der = der.as_ref().to_vec();
        let failed = |_| PairError::Failed("prepare an RSA key");
        let public = OaepPublicEncryptingKey::new(public).map_err(failed)?;
        let private = OaepPrivateDecryptingKey::new(private).map_err(failed)?;
        Ok(Self { private, public, public_der })
    }

    /// The public key as SubjectPublicKeyInfo.
    pub fn public_key(&self) -> &[u8] {
        &self.public_der
    }

    /// The longest plaintext in bytes.
    pub fn max_plaintext(&self, oaep: Oaep) -> usize {
        self.public.max_plaintext_size(oaep.algorithm())
    }

    /// Encrypts at most [`DecryptionKey::max_plaintext`] bytes.
    pub fn encrypt(&self, oaep: Oaep, plaintext: &[u8]) -> Result<Vec<u8>, PairError> {
        let mut out = vec![0; self.public.ciphertext_size()];
        let encrypted = self.public.encrypt(oaep.algorithm(), plaintext, &mut out, None);
        let len = encrypted.map_err(|_| PairError::Failed("encrypt with an RSA key"))?.len();
        out.truncate(len);
        Ok(out)
    }

    /// Decrypts; `None` for anything that was not encrypted for this key with `oaep`.
    pub fn decrypt(&self, oaep: Oaep, ciphertext: &[u8]) -> Option<SecretBytes> {
        let mut out = Zeroizing::new(vec![0; self.private.min_output_size()]);
        let plain = self.private.decrypt(oaep.algorithm(), ciphertext, &mut out, None).ok()?;
        Some(SecretBytes::from(&*plain))
    }
}
