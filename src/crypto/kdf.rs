//! HKDF-SHA-256 (RFC 5869), HMAC-SHA-256 (RFC 2104) and comparison in constant time.

use hkdf::Hkdf;
use hmac::{HmacReset, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::secret::SecretKey;
use crate::sys::wipe::Wiped;

/// `Extract(salt, ikm)`: the pseudo-random key of HKDF.
pub fn extract(salt: &[u8], ikm: &[u8]) -> SecretKey<32> {
    let (mut prk, state) = Hkdf::<Sha256>::extract(Some(salt), ikm);
    drop(Wiped::new(state));
    SecretKey::build(|out| {
        out.copy_from_slice(&prk);
        prk.as_mut_slice().zeroize();
    })
}

/// `Expand(prk, info)` as a key; `info` is the concatenation of the parts.
pub fn expand<const N: usize>(prk: &SecretKey<32>, info: &[&[u8]]) -> SecretKey<N> {
    SecretKey::build(|out| expand_into(prk, info, out))
}

/// `Expand(prk, info)` as a value that is stored in the clear, such as a key commitment.
pub fn expand_public(prk: &SecretKey<32>, info: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    expand_into(prk, info, &mut out);
    out
}

fn expand_into(prk: &SecretKey<32>, info: &[&[u8]], out: &mut [u8]) {
    let state = Wiped::new(Hkdf::<Sha256>::from_prk(prk.expose()).expect("32 bytes are long enough"));
    state.expand_multi_info(info, out).expect("64 bytes are below HKDF's limit of 8160");
}

/// `MAC32(key, message)`: HMAC-SHA-256 of the concatenation of the parts.
pub fn mac32(key: &SecretKey<32>, message: &[&[u8]]) -> [u8; 32] {
    let mut state =
        Wiped::new(HmacReset::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes keys of every length"));
    for part in message {
        state.update(part);
    }
    state.finalize_reset().into_bytes().into()
}

/// `MAC16(key, message)`: the first 16 bytes of [`mac32`].
pub fn mac16(key: &SecretKey<32>, message: &[&[u8]]) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&mac32(key, message)[..16]);
    out
}

/// Whether two byte strings are equal, in a time that depends only on their lengths.
pub fn ct_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_concatenated() {
        let key = SecretKey::from_slice(&[3; 32]).expect("32 bytes");
        assert_eq!(mac32(&key, &[b"ab", b"", b"c"]), mac32(&key, &[b"abc"]));
        assert_eq!(expand_public(&key, &[b"ab", b"c"]), *expand::<32>(&key, &[b"abc"]).expose());
        assert_eq!(mac16(&key, &[b"abc"]), mac32(&key, &[b"abc"])[..16]);
    }

    #[test]
    fn known_answer_of_rfc_4231_case_2_padded_key() {
        // HMAC pads keys with zeros, so the key "Jefe" is the same as "Jefe" and 28 zero bytes.
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let mac = mac32(&SecretKey::from_slice(&key).expect("32 bytes"), &[b"what do ya want for nothing?"]);
        assert_eq!(
            data_encoding::HEXLOWER.encode(&mac),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn different_lengths_are_never_equal() {
        assert!(ct_eq(b"ab", b"ab") && !ct_eq(b"ab", b"a") && !ct_eq(b"ab", b"ac"));
    }
}
