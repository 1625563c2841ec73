//! Directory ids (FORMAT 8.1): the text that `.kmsfs.dir` holds, and their recovery (8.5).

use super::Outcome;
use super::bytes::{b64, unb64};
use super::keys::VolumeKeys;
use super::name::NameCodec;
use crate::crypto::kdf::{ct_eq, mac16};
use crate::crypto::siv;
use crate::types::DirId;

/// Name of the entry that holds the id of its directory.
pub const ENTRY: &str = ".kmsfs.dir";
/// Characters of the text.
pub const TEXT_LEN: usize = 48;

const PREFIX: &[u8; 5] = b"kfs1:";

/// What was found at [`ENTRY`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found<'a> {
    /// Nothing.
    Nothing,
    /// A symlink with this target, or a regular file with this content (read up to [`TEXT_LEN`] plus one byte).
    Text(&'a [u8]),
    /// A directory, FIFO, socket or device.
    OtherType,
}

/// The text of a directory id.
pub fn encode(keys: &VolumeKeys, dir: DirId) -> String {
    let mut raw = [0; 32];
    raw[..16].copy_from_slice(dir.as_bytes());
    raw[16..].copy_from_slice(&mac16(&keys.dir, &[PREFIX, dir.as_bytes()]));
    let mut text = String::with_capacity(TEXT_LEN);
    text.push_str("kfs1:");
    text.push_str(&b64(&raw));
    text
}

/// The directory id that was found.
///
/// # Errors
/// [`Outcome::NoDirId`] if nothing is there, [`Outcome::BadDirId`] if it is malformed, forged or another volume's.
pub fn decode(keys: &VolumeKeys, found: Found<'_>) -> Result<DirId, Outcome> {
    match found {
        Found::Nothing => Err(Outcome::NoDirId),
        Found::OtherType => Err(Outcome::BadDirId),
        Found::Text(text) => decode_text(keys, text).ok_or(Outcome::BadDirId),
    }
}

fn decode_text(keys: &VolumeKeys, text: &[u8]) -> Option<DirId> {
    let mut raw = [0; 32];
    if unb64(text.strip_prefix(PREFIX)?, &mut raw)?.len() != raw.len() {
        return None;
    }
    let (id, mac) = raw.split_first_chunk()?;
    let dir = DirId::from_bytes(*id);
    (!dir.is_zero() && ct_eq(&mac16(&keys.dir, &[PREFIX, id]), mac)).then_some(dir)
}

/// Counts the entries of a directory that verify under `dir`. An entry is a name on disk and, for a long one, the
/// text of its side entry.
///
/// # Errors
/// [`Outcome::WrongDirId`] if there are encrypted names and none of them verifies: the id is another directory's.
pub fn check<'a>(
    names: &NameCodec,
    dir: DirId,
    entries: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> Result<usize, Outcome> {
    let (mut good, mut blobs) = (0, 0);
    for (entry, side) in entries {
        if let Some(verifies) = verifies(names, dir, entry, side) {
            blobs += 1;
            good += usize::from(verifies);
        }
    }
    if good == 0 && blobs > 0 { Err(Outcome::WrongDirId) } else { Ok(good) }
}

/// Whether one entry verifies under `dir`; `None` if it holds no encrypted name (a plain one, a stray file, a long entry
/// without its side entry). One that does proves that the id is this directory's.
pub fn verifies(names: &NameCodec, dir: DirId, entry: &[u8], side: Option<&[u8]>) -> Option<bool> {
    let mut buf = [0; super::name::MAX_BLOB];
    let blob = names.siv_blob(entry, side, &mut buf)?;
    Some(siv::open_in_place(&names.keys().names, dir.as_bytes(), blob).is_ok())
}

/// The directory id under which one entry was encrypted, and its padded name (FORMAT 8.5). Neither is authenticated:
/// a single entry always fits the id taken from it, so at least two must agree.
///
/// # Errors
/// [`Outcome::BadName`] if the entry holds no encrypted name of whole blocks.
pub fn recover(names: &NameCodec, entry: &[u8], side: Option<&[u8]>) -> Result<(DirId, Vec<u8>), Outcome> {
    let mut buf = [0; super::name::MAX_BLOB];
    let blob = names.siv_blob(entry, side, &mut buf).ok_or(Outcome::BadName)?;
    let id = siv::recover_ad(&names.keys().names, blob).ok_or(Outcome::BadName)?;
    Ok((DirId::from_bytes(id), blob[siv::IV_LEN..].to_vec()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::keys::testing::volume_keys;
    use super::super::name::NameForm;
    use super::*;
    use crate::sync::Arc;

    #[test]
    fn text_round_trip() {
        let (keys, dir) = (volume_keys(), DirId::from_bytes([7; 16]));
        let text = encode(&keys, dir);
        assert_eq!(text.len(), TEXT_LEN);
        assert_eq!(decode(&keys, Found::Text(text.as_bytes())), Ok(dir));
        assert_eq!(decode(&keys, Found::OtherType), Err(Outcome::BadDirId));
        assert_eq!(decode(&keys, Found::Nothing), Err(Outcome::NoDirId));
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics(text in prop::collection::vec(any::<u8>(), 0..100), tail in "[A-Za-z0-9_-]{43}") {
            let keys = volume_keys();
            prop_assert_eq!(decode(&keys, Found::Text(&text)), Err(Outcome::BadDirId));
            let text = format!("kfs1:{tail}");
            prop_assert_eq!(decode(&keys, Found::Text(text.as_bytes())), Err(Outcome::BadDirId));
        }

        #[test]
        fn hostile_entries_never_panic(entry in prop::collection::vec(any::<u8>(), 0..300), side in "~?L?[A-Za-z0-9_-]{0,400}") {
            for form in [NameForm::Encrypted, NameForm::Plain] {
                let names = NameCodec::new(Arc::new(volume_keys()), form, form.short_max());
                let _ = recover(&names, &entry, Some(side.as_bytes()));
                let _ = recover(&names, side.as_bytes(), None);
                prop_assert!(verifies(&names, DirId::from_bytes([7; 16]), side.as_bytes(), None) != Some(true));
            }
        }
    }
}
