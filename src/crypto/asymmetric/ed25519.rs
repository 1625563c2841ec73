//! Ed25519 (RFC 8032): pure by AWS-LC; prehashed, which its Rust interface lacks, by ed25519-dalek.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use ed25519_dalek::{Signature, SigningKey};
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

use super::PairError;
use super::signing::{Input, Scheme};
use crate::crypto::secret::SecretBytes;

/// PKCS#8 (RFC 8410) in front of the 32 bytes of the seed.
const HEADER: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

fn canonical_form(pair: &Ed25519KeyPair) -> Result<SecretBytes, PairError> {
    let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| PairError::Failed("encode an Ed25519 key"))?;
    Ok(SecretBytes::from(der.as_ref()))
}

pub fn generate() -> Result<SecretBytes, PairError> {
    canonical_form(&Ed25519KeyPair::generate().map_err(|_| PairError::Failed("make an Ed25519 key"))?)
}

pub fn canonical(pkcs8: &[u8]) -> Result<SecretBytes, PairError> {
    canonical_form(&Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| PairError::Rejected)?)
}

/// A private key for both forms of Ed25519.
pub struct Ed25519Key {
    pure: Ed25519KeyPair,
    prehashed: SigningKey,
}

impl Ed25519Key {
    pub fn new(pkcs8: &[u8]) -> Result<Self, PairError> {
        let pure = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| PairError::Rejected)?;
        let seed = pkcs8.strip_prefix(&HEADER).and_then(|seed| seed.try_into().ok());
        let seed: Zeroizing<[u8; 32]> = Zeroizing::new(seed.ok_or(PairError::Rejected)?);
        Ok(Self { pure, prehashed: SigningKey::from_bytes(&seed) })
    }

    pub fn public_key(&self) -> Result<Vec<u8>, PairError> {
        let der = self.pure.public_key().as_der().map_err(|_| PairError::Failed("encode an Ed25519 public key"))?;
        Ok(der.as_ref().to_vec())
    }

    pub fn sign(&self, scheme: Scheme, input: Input<'_>) -> Result<Vec<u8>, PairError> {
        match (scheme, input) {
            (Scheme::Ed25519, Input::Message(message)) => {
                let signed = self.pure.try_sign(message).map_err(|_| PairError::Failed("sign with an Ed25519 key"))?;
                Ok(signed.as_ref().to_vec())
            }
            (Scheme::Ed25519Ph, Input::Digest(digest)) => {
                let signed = self.prehashed.sign_prehashed(prehash(digest)?, None);
                Ok(signed.map_err(|_| PairError::Failed("sign with an Ed25519 key"))?.to_bytes().to_vec())
            }
            _ => Err(PairError::Unfit),
        }
    }

    pub fn verify(&self, scheme: Scheme, input: Input<'_>, signature: &[u8]) -> Result<bool, PairError> {
        match (scheme, input) {
            (Scheme::Ed25519, Input::Message(message)) => {
                Ok(UnparsedPublicKey::new(&ED25519, self.pure.public_key()).verify(message, signature).is_ok())
            }
            (Scheme::Ed25519Ph, Input::Digest(digest)) => {
                let hashed = prehash(digest)?;
                let Ok(signature) = Signature::from_slice(signature) else { return Ok(false) };
                Ok(self.prehashed.verifying_key().verify_prehashed_strict(hashed, None, &signature).is_ok())
            }
            _ => Err(PairError::Unfit),
        }
    }
}

/// The hash that Ed25519ph signs, of what the caller gives as digest (KMS.md section 7: it is hashed again).
fn prehash(digest: &[u8]) -> Result<Sha512, PairError> {
    if digest.len() != Sha512::output_size() {
        return Err(PairError::Unfit);
    }
    Ok(Sha512::new_with_prefix(digest))
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    #[test]
    fn prehashed_is_that_of_rfc_8032() {
        // Section 7.3; its message is shorter than what KMS takes as a digest, hence below `prehash`.
        let seed = "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42";
        let seed = HEXLOWER.decode(seed.as_bytes()).expect("hex");
        let key = Ed25519Key::new(&[&HEADER[..], &seed].concat()).expect("parsed");
        assert_eq!(key.prehashed.verifying_key().as_bytes(), key.pure.public_key().as_ref());
        let signature = key.prehashed.sign_prehashed(Sha512::new_with_prefix(b"abc"), None).expect("signed");
        assert_eq!(
            HEXLOWER.encode(&signature.to_bytes()),
            "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae4131f85042463c2a355a2003d062adf5aaa10b8c61e636\
             062aaad11c2a26083406"
        );
    }
}
