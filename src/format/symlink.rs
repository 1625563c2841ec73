//! Symlink targets (FORMAT 8.3).

use data_encoding::BASE64URL_NOPAD;

use super::Outcome;
use super::bytes::b64;
use super::keys::VolumeKeys;

/// Longest target, in bytes.
pub const MAX_TARGET: usize = 3031;
/// Longest target on disk, in characters.
pub const MAX_TEXT: usize = 4095;

const AAD: &[u8] = b"KFS1 symlink";
const OVERHEAD: usize = 24 + 16;

/// The text that the backing symlink points to; `nonce` is random.
///
/// # Errors
/// [`Outcome::NameTooLong`] if the target is empty, longer than [`MAX_TARGET`] or contains NUL.
pub fn encode(keys: &VolumeKeys, target: &[u8], nonce: &[u8; 24]) -> Result<String, Outcome> {
    if !(1..=MAX_TARGET).contains(&target.len()) || target.contains(&0) {
        return Err(Outcome::NameTooLong);
    }
    let mut raw = Vec::with_capacity(OVERHEAD + target.len());
    raw.extend_from_slice(nonce);
    raw.extend_from_slice(&keys.symlink.seal(nonce, AAD, target));
    Ok(b64(&raw))
}

/// The target behind the text of a backing symlink.
///
/// # Errors
/// [`Outcome::SymlinkAuth`] if it is not one that this volume made.
pub fn decode(keys: &VolumeKeys, text: &[u8]) -> Result<Vec<u8>, Outcome> {
    if text.len() > MAX_TEXT {
        return Err(Outcome::SymlinkAuth);
    }
    let raw = BASE64URL_NOPAD.decode(text).map_err(|_| Outcome::SymlinkAuth)?;
    match raw.split_first_chunk() {
        Some((nonce, sealed)) if raw.len() > OVERHEAD => {
            let target = keys.symlink.open(nonce, AAD, sealed).map_err(|_| Outcome::SymlinkAuth)?;
            Ok(target.to_vec())
        }
        _ => Err(Outcome::SymlinkAuth),
    }
}

/// The size that getattr shows for a backing symlink of `chars` characters: the target's length.
pub const fn shown_size(chars: u64) -> u64 {
    // In halves of the product, so that a hostile length cannot overflow.
    (chars / 4 * 3 + chars % 4 * 3 / 4).saturating_sub(OVERHEAD as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::keys::testing::volume_keys;
    use super::*;

    #[test]
    fn sizes_follow_from_the_text_alone() {
        let keys = volume_keys();
        for len in [1, 2, 3, 4, 100, MAX_TARGET] {
            let text = encode(&keys, &vec![b't'; len], &[1; 24]).expect("fits");
            assert_eq!(shown_size(text.len() as u64), len as u64);
            assert!(text.len() <= MAX_TEXT);
        }
        for bad in [&b""[..], b"a\0b"] {
            assert_eq!(encode(&keys, bad, &[1; 24]), Err(Outcome::NameTooLong));
        }
        assert_eq!((shown_size(0), shown_size(10)), (0, 0));
        shown_size(u64::MAX);
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics(raw in prop::collection::vec(any::<u8>(), 0..200), text in "[A-Za-z0-9_-]{0,200}") {
            let keys = volume_keys();
            prop_assert_eq!(decode(&keys, &raw), Err(Outcome::SymlinkAuth));
            prop_assert_eq!(decode(&keys, text.as_bytes()), Err(Outcome::SymlinkAuth));
        }
    }
}
