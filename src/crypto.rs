//! Cryptography: thin, typed wrappers around libraries. No I/O, no primitive of our own.

pub mod aead;
pub mod asymmetric;
pub mod kdf;
pub mod mac;
pub mod pool;
pub mod secret;
pub mod sigv4;
pub mod siv;
pub mod xaes;

/// A tag or a MAC is wrong: the bytes were not made by who holds the key, or were changed since.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("authentication failed: the data is not what was encrypted under this key")]
pub struct AuthError;
