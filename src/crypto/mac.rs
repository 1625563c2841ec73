//! HMAC (RFC 2104, FIPS 198-1) with the SHA-2 family.

use aws_lc_rs::hmac;

/// The hash function under HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacHash {
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl MacHash {
    const fn algorithm(self) -> hmac::Algorithm {
        match self {
            Self::Sha224 => hmac::HMAC_SHA224,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    /// Bytes of a whole MAC, and of a key as long as it.
    pub fn size(self) -> usize {
        self.algorithm().tag_len()
    }
}

/// A key for HMAC.
pub struct MacKey(hmac::Key);

impl MacKey {
    /// The key with these bytes.
    pub fn new(hash: MacHash, key: &[u8]) -> Self {
        Self(hmac::Key::new(hash.algorithm(), key))
    }

    /// The whole MAC of `message`.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        hmac::sign(&self.0, message).as_ref().to_vec()
    }

    /// Whether `mac` is the whole MAC of `message`, in constant time.
    pub fn verify(&self, message: &[u8], mac: &[u8]) -> bool {
        hmac::verify(&self.0, message, mac).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    #[test]
    fn vectors_of_rfc_4231() {
        // Test case 2.
        for (hash, mac) in [
            (MacHash::Sha224, "a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44"),
            (MacHash::Sha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (
                MacHash::Sha384,
                "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
            ),
            (
                MacHash::Sha512,
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a3\
                 4d4a6b4b636e070a38bce737",
            ),
        ] {
            let key = MacKey::new(hash, b"Jefe");
            let made = key.sign(b"what do ya want for nothing?");
            assert_eq!((HEXLOWER.encode(&made), made.len()), (mac.to_owned(), hash.size()));
            assert!(key.verify(b"what do ya want for nothing?", &made));
            assert!(!key.verify(b"what do ya want for nothing!", &made));
            assert!(!key.verify(b"what do ya want for nothing?", &made[..made.len() - 1]));
        }
    }
}
