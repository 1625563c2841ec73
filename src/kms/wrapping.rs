//! Wrapping keys: RSA key pairs under which users send the material that they import (KMS.md section 12).

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use zeroize::Zeroizing;

use crate::crypto::secret::SecretBytes;
use crate::kms::model::{WrappingAlgorithm, WrappingKeySpec};

/// A new wrapping key pair: the private key as PKCS#8 DER, the public key as SubjectPublicKeyInfo DER. `None` for kinds
/// that are not made here.
pub fn generate(spec: WrappingKeySpec) -> Option<Result<(SecretBytes, Vec<u8>), Unspecified>> {
    let size = match spec {
        WrappingKeySpec::Rsa2048 => KeySize::Rsa2048,
        WrappingKeySpec::Rsa3072 => KeySize::Rsa3072,
        WrappingKeySpec::Rsa4096 => KeySize::Rsa4096,
        WrappingKeySpec::Sm2 => return None,
    };
    Some(key_pair(size))
}

fn key_pair(size: KeySize) -> Result<(SecretBytes, Vec<u8>), Unspecified> {
    let key = PrivateDecryptingKey::generate(size)?;
    // Wiped on drop.
    let private: Pkcs8V1Der<'static> = key.as_der()?;
    let public: PublicKeyX509Der<'static> = key.public_key().as_der()?;
    Ok((SecretBytes::from(private.as_ref()), public.as_ref().to_vec()))
}

/// Whether `algorithm` wraps the material first under an AES key of its own; `None` for algorithms that are refused.
pub fn is_hybrid(algorithm: WrappingAlgorithm) -> Option<bool> {
    oaep(algorithm).map(|(_, hybrid)| hybrid)
}

fn oaep(algorithm: WrappingAlgorithm) -> Option<(&'static OaepAlgorithm, bool)> {
    match algorithm {
        WrappingAlgorithm::RsaesOaepSha1 => Some((&OAEP_SHA1_MGF1SHA1, false)),
        WrappingAlgorithm::RsaesOaepSha256 => Some((&OAEP_SHA256_MGF1SHA256, false)),
        WrappingAlgorithm::RsaAesKeyWrapSha1 => Some((&OAEP_SHA1_MGF1SHA1, true)),
        WrappingAlgorithm::RsaAesKeyWrapSha256 => Some((&OAEP_SHA256_MGF1SHA256, true)),
        WrappingAlgorithm::RsaesPkcs1V15 | WrappingAlgorithm::Sm2pke => None,
    }
}

/// The material in `wrapped`; `None` if it was not wrapped by this algorithm under this key. `private` is PKCS#8 DER.
pub fn unwrap(private: &SecretBytes, algorithm: WrappingAlgorithm, wrapped: &[u8]) -> Option<SecretBytes> {
    let (oaep, hybrid) = oaep(algorithm)?;
    let key = OaepPrivateDecryptingKey::new(PrivateDecryptingKey::from_pkcs8(private.expose()).ok()?).ok()?;
    let (head, tail) = wrapped.split_at_checked(key.key_size_bytes())?;
    let mut out = Zeroizing::new(vec![0; key.min_output_size()]);
    let unwrapped = key.decrypt(oaep, head, &mut out, None).ok()?;
    if !hybrid {
        return tail.is_empty().then(|| SecretBytes::from(&*unwrapped));
    }
    // RFC 5649: the ciphertext is longer than the material by at least the eight bytes of its check value.
    let mut material = Zeroizing::new(vec![0; tail.len()]);
    let kek = AesKek::new(&AES_256, unwrapped).ok()?;
    let material = kek.unwrap_with_padding(tail, &mut material).ok()?;
    Some(SecretBytes::from(&*material))
}

#[cfg(test)]
pub mod tests {
    use aws_lc_rs::rsa::{OaepPublicEncryptingKey, PublicEncryptingKey};

    use super::*;

    /// What a user does before `ImportKeyMaterial`.
    pub fn wrap(public: &[u8], algorithm: WrappingAlgorithm, material: &[u8]) -> Vec<u8> {
        let (oaep, hybrid) = oaep(algorithm).expect("an algorithm that is allowed");
        let key =
            PublicEncryptingKey::from_der(public).and_then(|key| OaepPublicEncryptingKey::new(key).map_err(Into::into));
        let key = key.expect("a public key");
        let rsa = |plain: &[u8]| {
            let mut out = vec![0; key.ciphertext_size()];
            key.encrypt(oaep, plain, &mut out, None).expect("short enough").to_vec()
        };
        if !hybrid {
            return rsa(material);
        }
        let mut wrapped = vec![0; material.len() + 16];
        let kek = AesKek::new(&AES_256, &[9; 32]).expect("32 bytes");
        let wrapped = kek.wrap_with_padding(material, &mut wrapped).expect("wrapped");
        [&rsa(&[9; 32])[..], wrapped].concat()
    }

    #[test]
    fn each_algorithm_unwraps_its_own_only() {
        let (private, public) = generate(WrappingKeySpec::Rsa2048).expect("RSA").expect("generated");
        let (other, _) = generate(WrappingKeySpec::Rsa2048).expect("RSA").expect("generated");
        let all = WrappingAlgorithm::ALL.iter().copied().filter(|algorithm| is_hybrid(*algorithm).is_some());
        let all: Vec<WrappingAlgorithm> = all.collect();
        assert_eq!(all.len(), 4);
        for algorithm in &all {
            let wrapped = wrap(&public, *algorithm, &[5; 33]);
            for as_if in &all {
                let material = unwrap(&private, *as_if, &wrapped);
                let expected = (as_if == algorithm).then_some(&[5; 33][..]);
                assert_eq!(material.as_ref().map(SecretBytes::expose), expected, "{algorithm} as {as_if}");
            }
            assert!(unwrap(&other, *algorithm, &wrapped).is_none());
            for at in [0, wrapped.len() / 2, wrapped.len() - 1] {
                let mut bad = wrapped.clone();
                bad[at] ^= 1;
                assert!(unwrap(&private, *algorithm, &bad).is_none(), "byte {at}");
            }
            assert!(unwrap(&private, *algorithm, &wrapped[..wrapped.len() - 1]).is_none());
            assert!(unwrap(&private, *algorithm, &[]).is_none());
        }
        assert!(unwrap(&private, WrappingAlgorithm::RsaesPkcs1V15, &[0; 256]).is_none());
    }
}
