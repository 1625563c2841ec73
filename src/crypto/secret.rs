//! Keys in protected memory.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::env::Entropy;
use crate::sys::arena::{SLOT_LEN, Slot};

/// A key of `N` bytes (at most 64) in locked, undumpable memory, wiped on drop. It can be neither cloned nor
/// serialised, and `Debug` shows no byte of it.
pub struct SecretKey<const N: usize> {
    slot: Slot,
}

impl<const N: usize> SecretKey<N> {
    const FITS: () = assert!(N <= SLOT_LEN, "a slot holds 64 bytes");

    /// A key that `fill` writes in place, so that no copy of it is left on the stack.
    pub fn build(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let () = Self::FITS;
        let mut slot = Slot::new();
        let bytes = slot.bytes_mut().first_chunk_mut().expect("N <= 64 is checked above");
        fill(bytes);
        Self { slot }
    }

    /// A random key.
    pub fn random(entropy: &dyn Entropy) -> Self {
        Self::build(|out| entropy.fill(out))
    }

    /// A copy of `bytes`; `None` if their number is not `N`. The caller wipes the source.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; N] = bytes.try_into().ok()?;
        Some(Self::build(|out| out.copy_from_slice(bytes)))
    }

    /// The key's bytes.
    pub fn expose(&self) -> &[u8; N] {
        self.slot.bytes().first_chunk().expect("N <= 64 is checked in build()")
    }

    /// Whether both keys are equal, in constant time.
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }
}

impl<const N: usize> fmt::Debug for SecretKey<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey<{N}>(..)")
    }
}

/// Secret bytes whose number is known only at run time: up to 64 in locked memory, more on the heap; wiped on drop. Has
/// neither `Clone` nor `Serialize`, and `Debug` shows no byte.
pub struct SecretBytes(Bytes);

enum Bytes {
    Locked(SecretKey<SLOT_LEN>, usize),
    Heap(Zeroizing<Vec<u8>>),
}

impl SecretBytes {
    /// `len` bytes that `fill` writes in place.
    pub fn build<E>(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        if len <= SLOT_LEN {
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
            Ok(bytes) => bytes,
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

impl Default for SecretBytes {
    /// No bytes.
    fn default() -> Self {
        Self(Bytes::Heap(Zeroizing::default()))
    }
}

impl From<&[u8]> for SecretBytes {
    /// A copy; the caller wipes the source.
    fn from(bytes: &[u8]) -> Self {
        let copied: Result<Self, std::convert::Infallible> = Self::build(bytes.len(), |out| {
            out.copy_from_slice(bytes);
            Ok(())
        });
        match copied {
            Ok(copy) => copy,
        }
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({} bytes)", self.expose().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemEntropy;

    #[test]
    fn short_and_long_hold_their_bytes_and_hide_them() {
        for len in [0_usize, 1, 64, 65, 4096] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let secret = SecretBytes::from(&bytes[..]);
            assert_eq!(secret.expose(), bytes);
            assert_eq!(format!("{secret:?}"), format!("SecretBytes({len} bytes)"));
        }
    }

    #[test]
    fn debug_shows_nothing() {
        let key = SecretKey::<4>::from_slice(b"\x01\x02\x03\x04").expect("four bytes");
        assert_eq!(format!("{key:?}"), "SecretKey<4>(..)");
        assert_eq!(key.expose(), b"\x01\x02\x03\x04");
    }

    #[test]
    fn wrong_length_is_refused() {
        assert!(SecretKey::<32>::from_slice(&[0; 31]).is_none());
    }

    #[test]
    fn random_keys_differ() {
        let (a, b) = (SecretKey::<32>::random(&SystemEntropy), SecretKey::<32>::random(&SystemEntropy));
        assert!(!a.ct_eq(&b) && a.ct_eq(&a));
    }
}
