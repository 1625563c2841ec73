//! XAES-256-GCM (C2SP): AES-256-GCM with a nonce of 24 bytes, so that random nonces are safe for 2^80 messages.

use cmac::{Cmac, KeyInit, Mac};
use zeroize::{Zeroize, Zeroizing};

use super::AuthError;
use super::aead::{Aes256Gcm, Backend, TAG_LEN};
use super::secret::SecretKey;
use crate::sys::wipe::{Wiped, on_wiped_stack};

/// Bytes of a nonce: 12 that choose the sub-key, 12 for GCM.
pub const NONCE_LEN: usize = 24;

/// XAES-256-GCM under one key.
#[derive(Debug)]
pub struct Xaes {
    backend: Backend,
    key: SecretKey<32>,
}

impl Xaes {
    /// The cipher under `key`.
    pub fn new(backend: Backend, key: SecretKey<32>) -> Self {
        Self { backend, key }
    }

    /// The key.
    pub fn key(&self) -> &SecretKey<32> {
        &self.key
    }

    /// AES-256-GCM under the sub-key that the first half of a nonce selects (SP 800-108 with CMAC). It is used with
    /// the second half of the nonce; callers with many messages under one first half keep it.
    pub fn cipher(&self, epoch: &[u8; 12]) -> Aes256Gcm {
        on_wiped_stack(|| self.derive(epoch))
    }

    fn derive(&self, epoch: &[u8; 12]) -> Aes256Gcm {
        let mut mac = Wiped::new(Cmac::<aes::Aes256>::new(self.key.expose().into()));
        let mut subkey = Zeroizing::new([0; 32]);
        for (counter, half) in (1u8..).zip(subkey.chunks_mut(16)) {
            mac.update(&[0, counter, b'X', 0]);
            mac.update(epoch);
            let mut out = mac.finalize_reset().into_bytes();
            half.copy_from_slice(&out);
            out.as_mut_slice().zeroize();
        }
        Aes256Gcm::new(self.backend, &subkey)
    }

    /// Encrypts a message; the result is 16 bytes longer. A nonce serves one message only.
    pub fn seal(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let (epoch, nonce) = halves(nonce);
        // The room for the tag is there from the start: a later reallocation would leave plaintext behind.
        let mut out = Vec::with_capacity(plaintext.len() + TAG_LEN);
        out.extend_from_slice(plaintext);
        let tag = self.cipher(epoch).seal_in_place(nonce, aad, &mut out);
        out.extend_from_slice(&tag);
        out
    }

    /// Decrypts `ciphertext | tag`.
    ///
    /// # Errors
    /// [`AuthError`] if it was not made with this key, nonce and `aad`.
    pub fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, AuthError> {
        let (epoch, nonce) = halves(nonce);
        let mut out = Zeroizing::new(ciphertext.to_vec());
        self.cipher(epoch).open_within(nonce, aad, &mut out, 0)?;
        out.truncate(ciphertext.len() - TAG_LEN);
        Ok(out)
    }
}

fn halves(nonce: &[u8; NONCE_LEN]) -> (&[u8; 12], &[u8; 12]) {
    let (epoch, rest) = nonce.split_first_chunk().expect("24 bytes");
    (epoch, rest.first_chunk().expect("12 bytes are left"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_every_changed_byte() {
        let xaes = Xaes::new(Backend::Ring, SecretKey::from_slice(&[5; 32]).expect("32 bytes"));
        let sealed = xaes.seal(&[9; 24], b"aad", b"message");
        assert_eq!(**xaes.open(&[9; 24], b"aad", &sealed).expect("genuine"), *b"message");
        assert!(xaes.open(&[8; 24], b"aad", &sealed).is_err());
        assert!(xaes.open(&[9; 24], b"aae", &sealed).is_err());
        assert!(xaes.open(&[9; 24], b"aad", &sealed[..15]).is_err());
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 1;
            assert!(xaes.open(&[9; 24], b"aad", &bad).is_err());
        }
    }
}
