//! Cryptography: thin, typed wrappers around libraries. No I/O, no primitive of our own.

pub mod secret;
