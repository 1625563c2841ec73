//! Extended attributes of the `user` namespace (FORMAT 8.4).

use zeroize::Zeroizing;

use super::Outcome;
use super::keys::VolumeKeys;
use super::name::{MAX_BLOB, open_padded, seal_padded, unpad};

/// First characters of every encrypted attribute's name on disk.
pub const DISK_PREFIX: &str = "user.kmsfs.";
/// Namespace of the attributes that are encrypted.
pub const NAMESPACE: &[u8] = b"user.";
/// Longest full name, in bytes.
pub const MAX_NAME: usize = 167;
/// Longest value, in bytes; the backing filesystem may allow less.
pub const MAX_VALUE: usize = 65496;
/// Bytes that a value is longer on disk.
pub const VALUE_OVERHEAD: usize = 24 + 16;

/// Associated data of names. It has 15 bytes and a directory id 16, so the uses of `K_names` never meet.
const NAME_AD: &[u8; 15] = b"KFS1 xattr name";

fn is_valid(name: &[u8]) -> bool {
    name.starts_with(NAMESPACE) && name.len() > NAMESPACE.len() && name.len() <= MAX_NAME && !name.contains(&0)
}

/// The name on disk of the attribute with the full name `name` (`user.comment`). The same name always gives the same.
///
/// # Errors
/// [`Outcome::XattrNameRange`] if it is not in `user.`, has nothing behind it, or is longer than [`MAX_NAME`].
pub fn encode_name(keys: &VolumeKeys, name: &[u8]) -> Result<String, Outcome> {
    if !is_valid(name) {
        return Err(Outcome::XattrNameRange);
    }
    let mut disk = String::with_capacity(255);
    disk.push_str(DISK_PREFIX);
    disk.push_str(&seal_padded(keys, NAME_AD, name, MAX_NAME));
    Ok(disk)
}

/// The full name of an attribute on disk.
///
/// # Errors
/// [`Outcome::BadName`] if it is not one that this volume made; it is then not listed.
pub fn decode_name(keys: &VolumeKeys, disk: &[u8]) -> Result<Vec<u8>, Outcome> {
    let mut buf = [0; MAX_BLOB];
    let name = disk
        .strip_prefix(DISK_PREFIX.as_bytes())
        .and_then(|text| open_padded(keys, NAME_AD, text, &mut buf))
        .and_then(|padded| unpad(padded, MAX_NAME))
        .filter(|name| is_valid(name));
    name.map(<[u8]>::to_vec).ok_or(Outcome::BadName)
}

/// The value on disk of the attribute `name` (its full name); `nonce` is random. It is [`VALUE_OVERHEAD`] longer.
pub fn encode_value(keys: &VolumeKeys, name: &[u8], value: &[u8], nonce: &[u8; 24]) -> Vec<u8> {
    let mut data = Vec::with_capacity(VALUE_OVERHEAD + value.len());
    data.extend_from_slice(nonce);
    data.extend_from_slice(&keys.xattr.seal(nonce, name, value));
    data
}

/// The value of the attribute `name` (its full name).
///
/// # Errors
/// [`Outcome::XattrAuth`] if it is not a value that this volume made for this name.
pub fn decode_value(keys: &VolumeKeys, name: &[u8], data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Outcome> {
    let (nonce, sealed) = data.split_first_chunk().ok_or(Outcome::XattrAuth)?;
    keys.xattr.open(nonce, name, sealed).map_err(|_| Outcome::XattrAuth)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::keys::testing::volume_keys;
    use super::*;

    #[test]
    fn names_that_cannot_be_stored() {
        let keys = volume_keys();
        for name in [&b"user."[..], b"user", b"", b"security.x", b"user.a\0b"] {
            assert_eq!(encode_name(&keys, name), Err(Outcome::XattrNameRange));
        }
    }

    proptest! {
        #[test]
        fn names_and_values_round_trip(name in "user\\.[ -~]{1,162}", value in prop::collection::vec(any::<u8>(), 0..300)) {
            let keys = volume_keys();
            let disk = encode_name(&keys, name.as_bytes()).expect("fits");
            prop_assert!(disk.len() <= 255);
            prop_assert_eq!(decode_name(&keys, disk.as_bytes()), Ok(name.clone().into_bytes()));
            let data = encode_value(&keys, name.as_bytes(), &value, &[5; 24]);
            prop_assert_eq!(data.len(), value.len() + VALUE_OVERHEAD);
            prop_assert_eq!(&**decode_value(&keys, name.as_bytes(), &data).expect("genuine"), &value[..]);
        }

        #[test]
        fn hostile_bytes_never_panic(raw in prop::collection::vec(any::<u8>(), 0..400), tail in "[A-Za-z0-9_-]{0,400}") {
            let keys = volume_keys();
            prop_assert_eq!(decode_name(&keys, &raw), Err(Outcome::BadName));
            prop_assert_eq!(decode_name(&keys, format!("{DISK_PREFIX}{tail}").as_bytes()), Err(Outcome::BadName));
            prop_assert!(decode_value(&keys, b"user.a", &raw).is_err());
        }
    }
}
