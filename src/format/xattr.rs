//! Extended attributes of the `user` namespace (FORMAT 8.4).

use zeroize::Zeroizing;

use super::Outcome;
use super::bytes::b64;
use super::keys::VolumeKeys;
use super::name::{MAX_BLOB, open_padded, seal_padded, unpad};
use crate::crypto::kdf::mac32;

/// First characters of every encrypted attribute's name on disk.
pub const DISK_PREFIX: &str = "user.kmsfs.";
/// Namespace of the attributes that are encrypted.
pub const NAMESPACE: &[u8] = b"user.";
/// Longest full name, in bytes.
pub const MAX_NAME: usize = 255;
/// Longest full name that is stored in the name on disk; a longer one stands beside the value.
pub const MAX_SHORT_NAME: usize = 167;
/// Longest value of an attribute with a short name, in bytes; the backing filesystem may allow less.
pub const MAX_VALUE: usize = 65496;
/// Bytes that the value of an attribute with a short name is longer on disk.
pub const VALUE_OVERHEAD: usize = 24 + 16;

/// Associated data of names. It has 15 bytes and a directory id 16, so the uses of `K_names` never meet.
const NAME_AD: &[u8; 15] = b"KFS1 xattr name";
/// First characters of a long attribute's name on disk: the sign is in no base64url text.
const LONG_PREFIX: &str = "user.kmsfs.~";
/// Begin of the associated data of values of long attributes; those of others begin with `user.`.
const LONG_AD: &[u8] = b"KFS1 long xattr";

fn is_valid(name: &[u8], lengths: std::ops::RangeInclusive<usize>) -> bool {
    name.starts_with(NAMESPACE) && lengths.contains(&name.len()) && !name.contains(&0)
}

const SHORT: std::ops::RangeInclusive<usize> = NAMESPACE.len() + 1..=MAX_SHORT_NAME;
const LONG: std::ops::RangeInclusive<usize> = MAX_SHORT_NAME + 1..=MAX_NAME;

/// The name on disk of the attribute with the full name `name` (`user.comment`). The same name always gives the same.
///
/// # Errors
/// [`Outcome::XattrNameRange`] if it is not in `user.`, has nothing behind it, or is longer than [`MAX_NAME`].
pub fn encode_name(keys: &VolumeKeys, name: &[u8]) -> Result<String, Outcome> {
    if is_valid(name, LONG) {
        return Ok(long_name(keys, name));
    }
    if !is_valid(name, SHORT) {
        return Err(Outcome::XattrNameRange);
    }
    let mut disk = String::with_capacity(255);
    disk.push_str(DISK_PREFIX);
    disk.push_str(&seal_padded(keys, NAME_AD, name, MAX_SHORT_NAME));
    Ok(disk)
}

fn long_name(keys: &VolumeKeys, name: &[u8]) -> String {
    format!("{LONG_PREFIX}{}", b64(&mac32(&keys.longname, &[NAME_AD, name])))
}

/// Whether the full name of the attribute with this name on disk stands beside its value: see [`decode_long`].
pub fn is_long(disk: &str) -> bool {
    disk.starts_with(LONG_PREFIX)
}

/// The full name of an attribute on disk that is not long.
///
/// # Errors
/// [`Outcome::BadName`] if it is not one that this volume made; it is then not listed.
pub fn decode_name(keys: &VolumeKeys, disk: &[u8]) -> Result<Vec<u8>, Outcome> {
    let mut buf = [0; MAX_BLOB];
    let name = disk
        .strip_prefix(DISK_PREFIX.as_bytes())
        .and_then(|text| open_padded(keys, NAME_AD, text, &mut buf))
        .and_then(|padded| unpad(padded, MAX_SHORT_NAME))
        .filter(|name| is_valid(name, SHORT));
    name.map(<[u8]>::to_vec).ok_or(Outcome::BadName)
}

/// Longest value of the attribute `name` (its full name), in bytes; the backing filesystem may allow less.
pub const fn max_value(name: &[u8]) -> usize {
    if name.len() > MAX_SHORT_NAME { MAX_VALUE - 1 - name.len() } else { MAX_VALUE }
}

/// The value on disk of the attribute `name` (its full name, one that [`encode_name`] takes); `nonce` is random.
pub fn encode_value(keys: &VolumeKeys, name: &[u8], value: &[u8], nonce: &[u8; 24]) -> Vec<u8> {
    let sealed = match u8::try_from(name.len()) {
        Ok(len) if LONG.contains(&name.len()) => {
            let text = Zeroizing::new([&[len][..], name, value].concat());
            keys.xattr.seal(nonce, &long_ad(&long_name(keys, name)), &text)
        }
        _ => keys.xattr.seal(nonce, name, value),
    };
    [&nonce[..], &sealed].concat()
}

/// The value of the attribute `name` (its full name).
///
/// # Errors
/// [`Outcome::XattrAuth`] if it is not a value that this volume made for this name.
pub fn decode_value(keys: &VolumeKeys, name: &[u8], data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Outcome> {
    if LONG.contains(&name.len()) {
        let (found, value) = decode_long(keys, &long_name(keys, name), data)?;
        return if found == name { Ok(value) } else { Err(Outcome::XattrAuth) };
    }
    let (nonce, sealed) = data.split_first_chunk().ok_or(Outcome::XattrAuth)?;
    keys.xattr.open(nonce, name, sealed).map_err(|_| Outcome::XattrAuth)
}

/// Full name and value of the long attribute with this name on disk.
///
/// # Errors
/// [`Outcome::XattrAuth`] if it is not one that this volume made.
pub fn decode_long(keys: &VolumeKeys, disk: &str, data: &[u8]) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), Outcome> {
    let (nonce, sealed) = data.split_first_chunk().ok_or(Outcome::XattrAuth)?;
    let text = keys.xattr.open(nonce, &long_ad(disk), sealed).map_err(|_| Outcome::XattrAuth)?;
    let (len, rest) = text.split_first().ok_or(Outcome::XattrAuth)?;
    let (name, value) = rest.split_at_checked(usize::from(*len)).ok_or(Outcome::XattrAuth)?;
    if !is_valid(name, LONG) || long_name(keys, name) != disk {
        return Err(Outcome::XattrAuth);
    }
    Ok((name.to_vec(), Zeroizing::new(value.to_vec())))
}

fn long_ad(disk: &str) -> Vec<u8> {
    [LONG_AD, disk.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::keys::testing::volume_keys;
    use super::*;

    #[test]
    fn names_that_cannot_be_stored() {
        let keys = volume_keys();
        for name in [&b"user."[..], b"user", b"", b"security.x", b"user.a\0b", &[b"user.", &[b'n'; 251][..]].concat()] {
            assert_eq!(encode_name(&keys, name), Err(Outcome::XattrNameRange));
        }
    }

    #[test]
    fn a_long_name_is_bound_to_its_value() {
        let keys = volume_keys();
        let [one, other] = [b'a', b'b'].map(|c| [b"user.", &[c; 200][..]].concat());
        let data = encode_value(&keys, &one, b"value", &[5; 24]);
        let disk = encode_name(&keys, &one).expect("fits");
        assert_eq!(decode_value(&keys, &other, &data), Err(Outcome::XattrAuth));
        assert_eq!(decode_long(&keys, &encode_name(&keys, &other).expect("fits"), &data), Err(Outcome::XattrAuth));
        assert_eq!(decode_name(&keys, disk.as_bytes()), Err(Outcome::BadName));
        // A user's attribute that is named as the long one is on disk holds what nobody takes for the long one's value.
        let forged = [&[205][..], &one, b"forged"].concat();
        let planted = encode_value(&keys, disk.as_bytes(), &forged, &[6; 24]);
        assert_eq!(decode_long(&keys, &disk, &planted), Err(Outcome::XattrAuth));
        // What is sealed as it should be, but is none.
        for text in [&b""[..], &[200], &[205], &[&[6][..], b"user.a"].concat(), &[&[205][..], &other].concat()] {
            let sealed = keys.xattr.seal(&[7; 24], &long_ad(&disk), text);
            assert_eq!(decode_long(&keys, &disk, &[&[7; 24][..], &sealed].concat()), Err(Outcome::XattrAuth));
        }
    }

    proptest! {
        #[test]
        fn names_and_values_round_trip(name in "user\\.[ -~]{1,250}", value in prop::collection::vec(any::<u8>(), 0..300)) {
            let keys = volume_keys();
            let disk = encode_name(&keys, name.as_bytes()).expect("fits");
            prop_assert!(disk.len() <= 255);
            let data = encode_value(&keys, name.as_bytes(), &value, &[5; 24]);
            prop_assert_eq!(data.len() - value.len(), 65536 - max_value(name.as_bytes()));
            if is_long(&disk) {
                let (found, decoded) = decode_long(&keys, &disk, &data).expect("genuine");
                prop_assert_eq!((found, &decoded[..]), (name.clone().into_bytes(), &value[..]));
            } else {
                prop_assert_eq!(decode_name(&keys, disk.as_bytes()), Ok(name.clone().into_bytes()));
                prop_assert_eq!(data.len(), value.len() + VALUE_OVERHEAD);
            }
            prop_assert_eq!(&**decode_value(&keys, name.as_bytes(), &data).expect("genuine"), &value[..]);
        }

        #[test]
        fn hostile_bytes_never_panic(raw in prop::collection::vec(any::<u8>(), 0..400), tail in "[A-Za-z0-9_-]{0,400}") {
            let keys = volume_keys();
            prop_assert_eq!(decode_name(&keys, &raw), Err(Outcome::BadName));
            prop_assert_eq!(decode_name(&keys, format!("{DISK_PREFIX}{tail}").as_bytes()), Err(Outcome::BadName));
            prop_assert!(decode_value(&keys, b"user.a", &raw).is_err());
            prop_assert!(decode_value(&keys, &[b"user.", &[b'n'; 200][..]].concat(), &raw).is_err());
            let long = format!("{LONG_PREFIX}{tail}");
            prop_assert!(decode_long(&keys, &long, &raw).is_err());
        }
    }
}
