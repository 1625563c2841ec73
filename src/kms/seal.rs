//! Sealing of secrets and the keyed digests of the key manager: thin wrappers around AWS-LC.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hkdf, hmac};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::crypto::secret::SecretKey;
use crate::env::{Entropy, random};

const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// HMAC-SHA-256 over `parts`, one after the other.
pub fn mac(key: &SecretKey<32>, parts: &[&[u8]]) -> [u8; 32] {
    mac_under(key.expose(), parts)
}

/// As [`mac`], under a key of any length.
pub fn mac_under(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    context.sign().as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
}

/// An HMAC-SHA-256 key that is ready for many MACs. Its state is in ordinary memory, wiped by the library when it is
/// dropped: for the time of one task.
pub struct MacKey(hmac::Key);

impl MacKey {
    pub fn new(key: &SecretKey<32>) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.expose()))
    }

    /// The MAC of [`framed`] `parts`.
    pub fn framed(&self, parts: &[&[u8]]) -> [u8; 32] {
        // In one piece: many small ones cost more than copying them.
        hmac::sign(&self.0, &framed(parts)).as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
    }
}

/// Whether two digests are equal, in constant time.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// HKDF-SHA-256 (RFC 5869) to a 256-bit key.
pub fn derive(secret: &[u8], salt: &[u8], info: &str) -> SecretKey<32> {
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    SecretKey::build(|out| {
        let info = [info.as_bytes()];
        let okm = prk.expand(&info, hkdf::HKDF_SHA256).expect("one block is a legal length");
        okm.fill(out).expect("the length is that of HKDF-SHA-256");
    })
}

/// Byte strings with their lengths, so that no two lists have the same encoding.
pub fn framed(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
    for part in parts {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// AES-256-GCM-SIV (RFC 8452): nonce, ciphertext, tag. A random nonce is harmless here even if it repeats.
pub fn seal(key: &SecretKey<32>, aad: &[u8], plain: &[u8], entropy: &dyn Entropy) -> Vec<u8> {
    let nonce: [u8; NONCE_LEN] = random(entropy);
    let mut work = Zeroizing::new(Vec::with_capacity(plain.len() + TAG_LEN));
    work.extend_from_slice(plain);
    let tag = siv(key)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut work)
        .expect("secrets are far below the length bound of GCM-SIV");
    [&nonce[..], &work, tag.as_ref()].concat()
}

/// Opens what [`seal`] made; `None` if the key, the AAD or the bytes are not those of then.
pub fn open(key: &SecretKey<32>, aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    Opener::new(key).open(aad, sealed)
}

/// A key that is ready to open much. Like [`MacKey`] for the time of one task.
pub struct Opener(LessSafeKey);

impl Opener {
    pub fn new(key: &SecretKey<32>) -> Self {
        Self(siv(key))
    }

    /// As [`open`].
    pub fn open(&self, aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut work = Zeroizing::new(rest.to_vec());
        let len = self.0.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), &mut work).ok()?.len();
        work.truncate(len);
        Some(work)
    }
}

fn siv(key: &SecretKey<32>) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, key.expose()).expect("the key has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEntropy;

    #[test]
    fn only_the_same_key_and_aad_open() {
        let entropy = SeededEntropy::new(1);
        let (key, other) = (SecretKey::random(&entropy), SecretKey::random(&entropy));
        let sealed = seal(&key, b"aad", b"secret", &entropy);
        assert_eq!(open(&key, b"aad", &sealed).as_deref().map(Vec::as_slice), Some(&b"secret"[..]));
        assert!(open(&other, b"aad", &sealed).is_none());
        assert!(open(&key, b"aae", &sealed).is_none());
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(open(&key, b"aad", &bad).is_none(), "byte {at}");
        }
        assert!(open(&key, b"aad", &sealed[..11]).is_none());
    }

    #[test]
    fn derived_keys_are_hkdf() {
        // Extract and expand written out with HMAC.

        let key = derive(&[0x0b; 22], &[1; 8], "foo");
        let prk = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[1; 8]), &[0x0b; 22]);
        let okm = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, prk.as_ref()), b"foo\x01");
        assert_eq!(key.expose(), okm.as_ref());
    }

    #[test]
    fn framing_is_injective() {
        assert_ne!(framed(&[b"ab", b"c"]), framed(&[b"a", b"bc"]));
        let key = SecretKey::random(&SeededEntropy::new(2));
        assert_eq!(MacKey::new(&key).framed(&[b"ab", b"c"]), mac(&key, &[&framed(&[b"ab", b"c"])]));
    }
}
