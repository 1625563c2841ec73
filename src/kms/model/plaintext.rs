//! Plaintext in answers and requests.

use std::fmt;

use zeroize::Zeroizing;

use crate::crypto::secret::SecretKey;
use crate::env::Entropy;

/// Secret bytes: up to 64 in locked memory, more on the heap; wiped on drop. Has neither `Clone` nor `Serialize`, so
/// that it reaches an output only where somebody calls [`Plaintext::expose`].
pub struct Plaintext(Bytes);

enum Bytes {
    Locked(SecretKey<64>, usize),
    Heap(Zeroizing<Vec<u8>>),
}

impl Plaintext {
    const LOCKED_MAX: usize = 64;

    /// `len` bytes that `fill` writes in place.
    pub fn build<E>(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        if len <= Self::LOCKED_MAX {
            let mut outcome = Ok(());
            let key = SecretKey::build(|out| outcome = fill(&mut out[..len]));
            outcome.map(|()| Self(Bytes::Locked(key, len)))
        } else {
            let mut bytes = Zeroizing::new(vec![0; len]);
            fill(&mut bytes).map(|()| Self(Bytes::Heap(bytes)))
        }
    }

    /// `len` random bytes.
    pub fn random(len: usize, entropy: &dyn Entropy) -> Self {
        let filled: Result<Self, std::convert::Infallible> = Self::build(len, |out| {
            entropy.fill(out);
            Ok(())
        });
        match filled {
            Ok(plaintext) => plaintext,
        }
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        match &self.0 {
            Bytes::Locked(key, len) => &key.expose()[..*len],
            Bytes::Heap(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Plaintext {
    /// A copy; the caller wipes the source.
    fn from(bytes: &[u8]) -> Self {
        let copied: Result<Self, std::convert::Infallible> = Self::build(bytes.len(), |out| {
            out.copy_from_slice(bytes);
            Ok(())
        });
        match copied {
            Ok(plaintext) => plaintext,
        }
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plaintext({} bytes)", self.expose().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_hold_their_bytes_and_hide_them() {
        for len in [0_usize, 1, 64, 65, 4096] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let plaintext = Plaintext::from(&bytes[..]);
            assert_eq!(plaintext.expose(), bytes);
            assert_eq!(format!("{plaintext:?}"), format!("Plaintext({len} bytes)"));
        }
    }
}
