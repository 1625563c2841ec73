//! Plaintext in answers and requests.

use std::fmt;

use crate::crypto::secret::SecretBytes;
use crate::env::Entropy;

/// Secret bytes of a request or an answer. Has neither `Clone` nor `Serialize`, so that they reach an output only where
/// somebody calls [`Plaintext::expose`].
pub struct Plaintext(SecretBytes);

impl Plaintext {
    /// `len` bytes that `fill` writes in place.
    pub fn build<E>(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        SecretBytes::build(len, fill).map(Self)
    }

    /// `len` random bytes.
    pub fn random(len: usize, entropy: &dyn Entropy) -> Self {
        Self(SecretBytes::random(len, entropy))
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }
}

impl From<&[u8]> for Plaintext {
    /// A copy; the caller wipes the source.
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<SecretBytes> for Plaintext {
    fn from(bytes: SecretBytes) -> Self {
        Self(bytes)
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
    fn debug_shows_the_length_only() {
        assert_eq!(format!("{:?}", Plaintext::from(&b"secret"[..])), "Plaintext(6 bytes)");
    }
}
