//! AES-256-GCM (SP 800-38D) from three libraries with identical bytes.

use std::fmt;
use std::str::FromStr;

use aes_gcm::KeyInit;
use aes_gcm::aead::AeadInOut;

use super::AuthError;
use crate::sys::wipe::Wiped;

/// Bytes of a GCM tag.
pub const TAG_LEN: usize = 16;
/// Bytes of a GCM nonce.
pub const NONCE_LEN: usize = 12;

/// Which library runs AES-256-GCM. Their output is the same, byte for byte; they differ in speed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Backend {
    /// `ring`: the fastest on CPUs with AES-NI or VAES.
    Ring,
    /// `aws-lc-rs`: AWS's library, which has a FIPS-validated build. The fastest on CPUs with VAES and AVX-512.
    AwsLc,
    /// `aes-gcm` of the RustCrypto project: pure Rust, on every platform.
    RustCrypto,
    /// No library and no encryption: bytes stay as they are, and every tag is zero. Only `kmsfs bench` makes such volumes, to
    /// show what encryption costs, and removes them. No option names it.
    NoCipher,
}

impl Backend {
    /// Every library.
    pub const ALL: [Self; 3] = [Self::Ring, Self::AwsLc, Self::RustCrypto];

    /// The name as options spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::AwsLc => "aws-lc",
            Self::RustCrypto => "rustcrypto",
            Self::NoCipher => "none",
        }
    }
}

/// The fastest on this CPU, by what was measured (`kmsfs speed`, docs/PERFORMANCE.md).
impl Default for Backend {
    fn default() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("vpclmulqdq")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
        {
            return Self::AwsLc;
        }
        Self::Ring
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no backend.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("'{0}' is no AES-GCM library; choose one of: ring, aws-lc, rustcrypto")]
pub struct ParseBackendError(String);

impl FromStr for Backend {
    type Err = ParseBackendError;

    fn from_str(text: &str) -> Result<Self, ParseBackendError> {
        Self::ALL.into_iter().find(|b| b.name() == text).ok_or_else(|| ParseBackendError(text.to_owned()))
    }
}

/// AES-256-GCM under one key. The expanded key stays in one place on the heap and is wiped on drop.
pub struct Aes256Gcm(Inner);

enum Inner {
    Ring(Box<Wiped<ring::aead::LessSafeKey>>),
    AwsLc(Box<Wiped<aws_lc_rs::aead::LessSafeKey>>),
    RustCrypto(Box<Wiped<aes_gcm::Aes256Gcm>>),
    NoCipher,
}

impl Aes256Gcm {
    /// The cipher under `key`, which the caller wipes.
    pub fn new(backend: Backend, key: &[u8; 32]) -> Self {
        Self(match backend {
            Backend::Ring => {
                let key = ring::aead::UnboundKey::new(&ring::aead::AES_256_GCM, key).expect("the key has 32 bytes");
                Inner::Ring(Box::new(Wiped::new(ring::aead::LessSafeKey::new(key))))
            }
            Backend::AwsLc => {
                // AWS-LC keeps the expanded key on its own heap, which OPENSSL_free wipes before it gives memory back.
                use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
                let key = UnboundKey::new(&AES_256_GCM, key).expect("the key has 32 bytes");
                Inner::AwsLc(Box::new(Wiped::new(LessSafeKey::new(key))))
            }
            Backend::RustCrypto => Inner::RustCrypto(Box::new(Wiped::new(aes_gcm::Aes256Gcm::new(key.into())))),
            Backend::NoCipher => Inner::NoCipher,
        })
    }

    /// Encrypts `data` in place and returns the tag. A nonce serves one message only.
    ///
    /// # Panics
    /// If `data` is longer than GCM's 2^36 - 32 bytes.
    pub fn seal_in_place(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], data: &mut [u8]) -> [u8; TAG_LEN] {
        const FITS: &str = "a message of GCM's legal length is always sealed";
        let mut out = [0; TAG_LEN];
        match &self.0 {
            Inner::Ring(key) => {
                let nonce = ring::aead::Nonce::assume_unique_for_key(*nonce);
                let tag = key.seal_in_place_separate_tag(nonce, ring::aead::Aad::from(aad), data).expect(FITS);
                out.copy_from_slice(tag.as_ref());
            }
            Inner::AwsLc(key) => {
                let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key(*nonce);
                let tag = key.seal_in_place_separate_tag(nonce, aws_lc_rs::aead::Aad::from(aad), data).expect(FITS);
                out.copy_from_slice(tag.as_ref());
            }
            Inner::RustCrypto(key) => {
                out = key.encrypt_inout_detached(nonce.into(), aad, data.into()).expect(FITS).into();
            }
            Inner::NoCipher => {}
        }
        out
    }

    /// Decrypts the ciphertext and tag that stand at `buf[src..]`; the plaintext goes to
    /// `buf[..buf.len() - src - 16]`, so that a header in front of the ciphertext costs no copy. What stands behind
    /// the plaintext afterwards is unspecified.
    ///
    /// # Errors
    /// [`AuthError`] if the tag is wrong or there is no room for one; no plaintext is left in `buf` then, whose
    /// bytes are unspecified.
    pub fn open_within(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buf: &mut [u8],
        src: usize,
    ) -> Result<(), AuthError> {
        let Some(len) = buf.len().checked_sub(src).and_then(|n| n.checked_sub(TAG_LEN)) else {
            return Err(AuthError);
        };
        let opened = match &self.0 {
            Inner::Ring(key) => {
                let nonce = ring::aead::Nonce::assume_unique_for_key(*nonce);
                key.open_within(nonce, ring::aead::Aad::from(aad), buf, src..).is_ok()
            }
            Inner::AwsLc(key) => {
                let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key(*nonce);
                key.open_within(nonce, aws_lc_rs::aead::Aad::from(aad), buf, src..).is_ok()
            }
            Inner::RustCrypto(key) => {
                let mut tag = [0; TAG_LEN];
                tag.copy_from_slice(&buf[src + len..]);
                buf.copy_within(src..src + len, 0);
                key.decrypt_inout_detached(nonce.into(), aad, (&mut buf[..len]).into(), &tag.into()).is_ok()
            }
            Inner::NoCipher => {
                buf.copy_within(src..src + len, 0);
                true
            }
        };
        if opened {
            return Ok(());
        }
        // Each library promises it; this is the hot path's cold end, so it costs nothing not to depend on that.
        buf[..len].fill(0);
        Err(AuthError)
    }
}

impl fmt::Debug for Aes256Gcm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Aes256Gcm(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for backend in Backend::ALL {
            assert_eq!(backend.to_string().parse(), Ok(backend));
        }
        assert!("openssl".parse::<Backend>().is_err());
    }

    #[test]
    fn every_backend_opens_what_every_backend_sealed_at_every_shift() {
        for sealer in Backend::ALL {
            for opener in Backend::ALL {
                for src in [0, 1, 16, 31] {
                    let mut buf = vec![0x55; src];
                    let mut data = *b"a unit of a file, not a multiple of a block";
                    let tag = Aes256Gcm::new(sealer, &[7; 32]).seal_in_place(&[1; 12], b"aad", &mut data);
                    buf.extend_from_slice(&data);
                    buf.extend_from_slice(&tag);
                    Aes256Gcm::new(opener, &[7; 32]).open_within(&[1; 12], b"aad", &mut buf, src).expect("genuine");
                    assert_eq!(&buf[..data.len()], b"a unit of a file, not a multiple of a block");
                }
            }
        }
    }

    #[test]
    fn a_wrong_tag_leaves_no_plaintext() {
        for backend in Backend::ALL {
            let cipher = Aes256Gcm::new(backend, &[7; 32]);
            let mut buf = [0x41; 16 + 64 + 16];
            let tag = cipher.seal_in_place(&[1; 12], b"", &mut buf[16..80]);
            buf[80..].copy_from_slice(&tag);
            buf[95] ^= 1;
            assert_eq!(cipher.open_within(&[1; 12], b"", &mut buf, 16), Err(AuthError));
            assert!(buf[..64].iter().all(|b| *b == 0), "{backend}");
            assert!(!buf.windows(8).any(|w| w == [0x41; 8]), "{backend}");
        }
    }

    #[test]
    fn too_short_for_a_tag() {
        for backend in Backend::ALL {
            let cipher = Aes256Gcm::new(backend, &[7; 32]);
            assert_eq!(cipher.open_within(&[1; 12], b"", &mut [0; 15], 0), Err(AuthError));
            assert_eq!(cipher.open_within(&[1; 12], b"", &mut [0; 20], 21), Err(AuthError));
        }
    }
}
