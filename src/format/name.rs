//! Names of directory entries (FORMAT 8.2).

use std::fmt;

use super::Outcome;
use super::bytes::{b64, unb64};
use super::keys::VolumeKeys;
use crate::crypto::kdf::{ct_eq, mac32};
use crate::crypto::siv;
use crate::sync::Arc;
use crate::types::DirId;

/// Longest plaintext name, in bytes.
pub const MAX_NAME: usize = 255;
/// Longest name stored in the entry itself where the backing filesystem allows names of 255 bytes.
pub const DEFAULT_SHORT_MAX: usize = 175;
/// Longest name stored in the entry itself of a volume with plain names, where the backing allows it.
pub const PLAIN_SHORT_MAX: usize = MAX_NAME;
/// Directory of the volume's own files, in the root only.
pub const CONTROL_ENTRY: &str = ".kmsfs";
/// First characters of directories under construction or removal; random text follows.
pub const TEMPORARY_PREFIX: &str = "~T";
/// Longest text of a side entry, in characters.
pub const MAX_SIDE: usize = 363;

/// Longest encrypted name: a synthetic IV and 256 bytes.
pub(super) const MAX_BLOB: usize = siv::IV_LEN + 256;

const LONG_PREFIX: &[u8; 2] = b"~L";
const LONG_ENTRY_LEN: usize = 45;
const SIDE_SUFFIX: &[u8; 2] = b".n";
/// A name of one block and the IV. Only with plain names can so short a one need a side entry.
const MIN_SIDE: usize = 43;
/// What no plain name in an entry begins with, in any directory: kmsfs' own entries do.
const RESERVED_PREFIXES: [&[u8]; 3] = [CONTROL_ENTRY.as_bytes(), TEMPORARY_PREFIX.as_bytes(), LONG_PREFIX];
/// One byte of plaintext and the IV: shorter ones were never made.
const MIN_BLOB: usize = siv::IV_LEN + 1;

/// A name as it stands on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EncodedName {
    /// The entry holds the whole name.
    Short(String),
    /// The entry holds a MAC of the name; a side entry holds the name.
    Long {
        /// The entry.
        entry: String,
        /// What the side entry [`side_entry`]`(entry)` holds.
        side: String,
    },
}

impl EncodedName {
    /// The directory entry.
    pub fn entry(&self) -> &str {
        match self {
            Self::Short(entry) | Self::Long { entry, .. } => entry,
        }
    }

    /// The text of the side entry, if the name needs one.
    pub fn side(&self) -> Option<&str> {
        match self {
            Self::Short(_) => None,
            Self::Long { side, .. } => Some(side),
        }
    }
}

/// The side entry of a long entry.
pub fn side_entry(entry: &str) -> String {
    format!("{entry}.n")
}

/// What an entry of a backing directory is, from its name alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// `.kmsfs` in the root.
    Control,
    /// `.kmsfs.dir`, the directory's id.
    DirId,
    /// `~T...`, a directory under construction or removal.
    Temporary,
    /// `~L....n`, the name of a long entry.
    Side,
    /// `~L...`, an entry whose name stands in a side entry.
    Long,
    /// Everything else: an entry that holds its name, or a stray file.
    Short,
}

impl EntryKind {
    /// The kind of `entry`; `in_root` tells whether its directory is the volume's root.
    pub fn of(entry: &[u8], in_root: bool) -> Self {
        if in_root && entry == CONTROL_ENTRY.as_bytes() {
            Self::Control
        } else if entry == super::dirid::ENTRY.as_bytes() {
            Self::DirId
        } else if entry.starts_with(TEMPORARY_PREFIX.as_bytes()) {
            Self::Temporary
        } else if entry.starts_with(LONG_PREFIX) {
            if entry.ends_with(SIDE_SUFFIX) { Self::Side } else { Self::Long }
        } else {
            Self::Short
        }
    }

    /// Whether the entry can never be a user's.
    pub const fn is_hidden(self) -> bool {
        !matches!(self, Self::Long | Self::Short)
    }
}

/// Checks that a file can have this name.
///
/// # Errors
/// [`Outcome::NameInvalid`] if it is empty, `.`, `..` or contains `/` or NUL; [`Outcome::NameTooLong`].
pub fn check_name(name: &[u8]) -> Result<(), Outcome> {
    if !is_valid(name) {
        return Err(Outcome::NameInvalid);
    }
    if name.len() > MAX_NAME { Err(Outcome::NameTooLong) } else { Ok(()) }
}

fn is_valid(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|b| matches!(b, 0 | b'/'))
}

/// The length to which a name of `len` bytes is padded: the next multiple of 16, but not beyond `cap`.
pub(super) fn padded_len(len: usize, cap: usize) -> usize {
    len.next_multiple_of(16).min(cap)
}

/// Takes the padding off; `None` unless it is the one that encryption puts on.
pub(super) fn unpad(padded: &[u8], cap: usize) -> Option<&[u8]> {
    let len = padded.iter().rposition(|b| *b != 0)? + 1;
    (padded_len(len, cap) == padded.len()).then_some(&padded[..len])
}

/// Pads and encrypts a name.
pub(super) fn seal_padded(keys: &VolumeKeys, ad: &[u8], name: &[u8], cap: usize) -> String {
    let mut buf = [0; MAX_BLOB];
    let len = siv::IV_LEN + padded_len(name.len(), cap);
    buf[siv::IV_LEN..siv::IV_LEN + name.len()].copy_from_slice(name);
    siv::seal_in_place(&keys.names, ad, &mut buf[..len]);
    b64(&buf[..len])
}

/// Decodes and decrypts what [`seal_padded`] made; the padded name.
pub(super) fn open_padded<'b>(
    keys: &VolumeKeys,
    ad: &[u8],
    text: &[u8],
    buf: &'b mut [u8; MAX_BLOB],
) -> Option<&'b [u8]> {
    let blob = unb64(text, buf)?;
    if blob.len() < MIN_BLOB {
        return None;
    }
    siv::open_in_place(&keys.names, ad, blob).ok().map(|text| &*text)
}

/// How a volume keeps the names that its entries hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum NameForm {
    /// Encrypted.
    #[default]
    Encrypted,
    /// As they are (incompat bit 0), all that can be: text that no entry of kmsfs' own begins like. The others are kept
    /// as long names are, encrypted.
    Plain,
}

impl NameForm {
    /// The longest name that an entry holds where the backing filesystem allows names of 255 bytes.
    pub const fn short_max(self) -> usize {
        match self {
            Self::Encrypted => DEFAULT_SHORT_MAX,
            Self::Plain => PLAIN_SHORT_MAX,
        }
    }

    /// Whether a volume's longest name stored in the entry itself may be this long.
    pub fn allows_short_max(self, short_max: usize) -> bool {
        (16..=self.short_max()).contains(&short_max)
    }
}

/// Translates the names of one volume to what stands on disk, and back.
#[derive(Clone)]
pub struct NameCodec {
    keys: Arc<VolumeKeys>,
    form: NameForm,
    short_max: usize,
}

impl NameCodec {
    /// The codec of a volume; `short_max` is its longest name stored in the entry itself.
    ///
    /// # Panics
    /// If `form` does not allow `short_max`, which the volume file's parser excludes.
    pub fn new(keys: Arc<VolumeKeys>, form: NameForm, short_max: usize) -> Self {
        assert!(form.allows_short_max(short_max), "short_max {short_max} is out of range");
        Self { keys, form, short_max }
    }

    /// The keys of the volume.
    pub fn keys(&self) -> &VolumeKeys {
        &self.keys
    }

    /// The entry of `name` in the directory `dir`. The same name always gives the same entry.
    ///
    /// # Errors
    /// As [`check_name`].
    pub fn encode(&self, dir: DirId, name: &[u8]) -> Result<EncodedName, Outcome> {
        check_name(name)?;
        if self.fits_entry(name) {
            return Ok(EncodedName::Short(match (self.form, std::str::from_utf8(name)) {
                (NameForm::Plain, Ok(text)) => text.to_owned(),
                _ => seal_padded(&self.keys, dir.as_bytes(), name, self.short_max),
            }));
        }
        Ok(EncodedName::Long {
            entry: self.long_entry(dir, name),
            side: seal_padded(&self.keys, dir.as_bytes(), name, 256),
        })
    }

    /// The name of `entry` in the directory `dir`; `side` is the text of its side entry, which a long entry needs.
    ///
    /// # Errors
    /// [`Outcome::BadName`] if it is no entry that [`Self::encode`] makes in this directory.
    pub fn decode(&self, dir: DirId, entry: &[u8], side: Option<&[u8]>) -> Result<Vec<u8>, Outcome> {
        let mut buf = [0; MAX_BLOB];
        let is_long = entry.starts_with(LONG_PREFIX);
        let name = match self.form {
            _ if is_long => self.decode_long(dir, entry, side, &mut buf),
            NameForm::Encrypted => open_padded(&self.keys, dir.as_bytes(), entry, &mut buf)
                .and_then(|padded| unpad(padded, self.short_max)),
            NameForm::Plain => Some(entry),
        };
        // One name has one entry.
        let name = name.filter(|name| is_valid(name) && self.fits_entry(name) != is_long);
        name.map(<[u8]>::to_vec).ok_or(Outcome::BadName)
    }

    /// Whether an entry is bound to the id of its directory: all but plain ones.
    pub fn is_bound(&self, entry: &[u8]) -> bool {
        self.form == NameForm::Encrypted || entry.starts_with(LONG_PREFIX)
    }

    /// Whether an entry itself holds `name`; if not, its side entry does.
    fn fits_entry(&self, name: &[u8]) -> bool {
        let can_stand = || {
            std::str::from_utf8(name).is_ok() && !RESERVED_PREFIXES.iter().any(|reserved| name.starts_with(reserved))
        };
        name.len() <= self.short_max && (self.form == NameForm::Encrypted || can_stand())
    }

    /// The SIV blob of an entry, of at least one block; `None` if it holds none.
    pub(super) fn siv_blob<'b>(
        &self,
        entry: &[u8],
        side: Option<&[u8]>,
        buf: &'b mut [u8; MAX_BLOB],
    ) -> Option<&'b mut [u8]> {
        if !self.is_bound(entry) {
            return None;
        }
        let text = if entry.starts_with(LONG_PREFIX) { side? } else { entry };
        unb64(text, buf).filter(|blob| blob.len() >= 2 * siv::IV_LEN)
    }

    fn decode_long<'b>(
        &self,
        dir: DirId,
        entry: &[u8],
        side: Option<&[u8]>,
        buf: &'b mut [u8; MAX_BLOB],
    ) -> Option<&'b [u8]> {
        let side = side.filter(|side| (MIN_SIDE..=MAX_SIDE).contains(&side.len()))?;
        let name = unpad(open_padded(&self.keys, dir.as_bytes(), side, buf)?, 256)?;
        let fits = name.len() <= MAX_NAME && ct_eq(self.long_entry(dir, name).as_bytes(), entry);
        fits.then_some(name)
    }

    fn long_entry(&self, dir: DirId, name: &[u8]) -> String {
        let mut entry = String::with_capacity(LONG_ENTRY_LEN);
        entry.push_str("~L");
        entry.push_str(&b64(&mac32(&self.keys.longname, &[dir.as_bytes(), name])));
        entry
    }
}

impl fmt::Debug for NameCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameCodec")
            .field("form", &self.form)
            .field("short_max", &self.short_max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::keys::testing::volume_keys;
    use super::*;

    const DIR: DirId = DirId::from_bytes([9; 16]);

    fn codec(short_max: usize) -> NameCodec {
        NameCodec::new(Arc::new(volume_keys()), NameForm::Encrypted, short_max)
    }

    fn plain(short_max: usize) -> NameCodec {
        NameCodec::new(Arc::new(volume_keys()), NameForm::Plain, short_max)
    }

    #[test]
    fn plain_names_stand_as_they_are_unless_they_could_not() {
        let longest = [b'n'; MAX_NAME];
        for name in [&b"a"[..], b"README.md", b".kms", "Gr\u{fc}\u{df}e".as_bytes(), b"~", b"~x", b"a~L", &longest] {
            assert_eq!(plain(255).encode(DIR, name), Ok(EncodedName::Short(String::from_utf8(name.to_vec()).unwrap())));
            assert_eq!(plain(255).decode(DIR, name, None), Ok(name.to_vec()));
        }
        for name in [&b".kmsfs"[..], b".kmsfs.dir", b".kmsfsx", b"~T", b"~L", b"~Lorem.n", b"\xff"] {
            let encoded = plain(255).encode(DIR, name).expect("valid");
            assert!(encoded.entry().starts_with("~L"), "{encoded:?}");
            let side = encoded.side().map(str::as_bytes);
            assert_eq!(plain(255).decode(DIR, encoded.entry().as_bytes(), side), Ok(name.to_vec()));
            assert_eq!(plain(255).decode(DIR, name, None), Err(Outcome::BadName), "a second entry of the name");
        }
        assert!(plain(143).encode(DIR, &[b'n'; 143]).expect("valid").side().is_none());
        assert!(plain(143).encode(DIR, &[b'n'; 144]).expect("valid").side().is_some());
        assert_eq!(plain(143).decode(DIR, &[b'n'; 144], None), Err(Outcome::BadName));
    }

    #[test]
    fn a_plain_name_in_the_long_form_is_refused() {
        let codec = plain(255);
        let side = seal_padded(&codec.keys, DIR.as_bytes(), b"README", 256);
        let decoded = codec.decode(DIR, codec.long_entry(DIR, b"README").as_bytes(), Some(side.as_bytes()));
        assert_eq!(decoded, Err(Outcome::BadName));
    }

    #[test]
    fn kinds_of_entries() {
        let kind = |entry: &str| EntryKind::of(entry.as_bytes(), false);
        assert_eq!(EntryKind::of(b".kmsfs", true), EntryKind::Control);
        assert_eq!(kind(".kmsfs"), EntryKind::Short);
        assert_eq!(kind(".kmsfs.dir"), EntryKind::DirId);
        assert_eq!(kind("~Tabc"), EntryKind::Temporary);
        assert_eq!(kind("~Labc"), EntryKind::Long);
        assert_eq!(kind(&side_entry("~Labc")), EntryKind::Side);
        assert_eq!(kind("abc"), EntryKind::Short);
        assert!(kind("~Tx").is_hidden() && kind("~Lx.n").is_hidden() && !kind("~Lx").is_hidden());
    }

    #[test]
    fn no_encoded_name_is_a_hidden_entry() {
        let codec = codec(175);
        for name in [".kmsfs", ".kmsfs.dir", "~T", "~Tabc", "~Lx.n", "~L.n"] {
            let encoded = plain(255).encode(DIR, name.as_bytes()).expect("valid");
            assert!(!EntryKind::of(encoded.entry().as_bytes(), true).is_hidden());
        }
        for len in 1..=MAX_NAME {
            let encoded = codec.encode(DIR, &vec![b'n'; len]).expect("valid");
            assert!(!EntryKind::of(encoded.entry().as_bytes(), true).is_hidden());
            assert!(encoded.entry().len() <= 255);
            assert_eq!(encoded.side().is_some(), len > 175);
            assert!(encoded.side().is_none_or(|side| (MIN_SIDE..=MAX_SIDE).contains(&side.len())));
        }
    }

    #[test]
    fn a_short_name_in_the_long_form_is_refused() {
        // Everything verifies, but no writer makes it: one name would have two entries.
        let codec = codec(175);
        for (len, long) in [(175, false), (176, true)] {
            let name = vec![b'n'; len];
            let side = seal_padded(&codec.keys, DIR.as_bytes(), &name, 256);
            let decoded = codec.decode(DIR, codec.long_entry(DIR, &name).as_bytes(), Some(side.as_bytes()));
            assert_eq!(decoded, if long { Ok(name) } else { Err(Outcome::BadName) });
        }
    }

    /// `bound`: no other directory takes the entry.
    fn round_trip(codec: &NameCodec, name: &[u8], bound: bool) -> Result<(), TestCaseError> {
        match codec.encode(DIR, name) {
            Ok(encoded) => {
                let (entry, side) = (encoded.entry().as_bytes(), encoded.side().map(str::as_bytes));
                prop_assert!(entry.len() <= MAX_NAME && !EntryKind::of(entry, true).is_hidden());
                prop_assert_eq!(codec.decode(DIR, entry, side), Ok(name.to_vec()));
                if bound || side.is_some() {
                    let other = DirId::from_bytes([8; 16]);
                    prop_assert_eq!(codec.decode(other, entry, side), Err(Outcome::BadName));
                }
            }
            Err(outcome) => prop_assert_eq!(Err(outcome), check_name(name)),
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn names_round_trip(name in prop::collection::vec(any::<u8>(), 0..300), short_max in 16usize..=175) {
            round_trip(&codec(short_max), &name, true)?;
            round_trip(&plain(short_max), &name, false)?;
        }

        #[test]
        fn plain_names_round_trip(name in "(~L|~T|[.]kmsfs)?[^/]{0,80}", short_max in 16usize..=255) {
            round_trip(&plain(short_max), name.as_bytes(), false)?;
        }

        #[test]
        fn hostile_entries_never_panic(raw in prop::collection::vec(any::<u8>(), 0..400), text in "(~L)?[A-Za-z0-9_-]{0,400}") {
            let codec = codec(175);
            for entry in [&raw[..], text.as_bytes()] {
                EntryKind::of(entry, true);
                for side in [None, Some(&raw[..]), Some(text.as_bytes())] {
                    prop_assert_eq!(codec.decode(DIR, entry, side), Err(Outcome::BadName));
                    // A plain name is nobody's word for anything, but it is a name.
                    let plain = plain(255).decode(DIR, entry, side);
                    prop_assert!(plain.is_err() || plain == Ok(entry.to_vec()));
                }
            }
        }
    }
}
