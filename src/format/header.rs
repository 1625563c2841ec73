//! File headers (FORMAT 5).

use super::Outcome;
use super::branch::BranchBlob;
use super::bytes::is_zero;
use super::keys::{FileKeys, VolumeKeys};
use super::recipient::{AllowList, Recipient, Scheme};
use super::record::{RECORD_LEN, Record, choose_record};
use super::size::Geometry;
use super::slot::{Place, Slot, build_slot, valid_slots};
use crate::crypto::kdf::{ct_eq, mac16};
use crate::crypto::secret::SecretKey;
use crate::types::{FileId, KeyArn, VolumeId};

/// First bytes of a file.
pub const MAGIC: [u8; 8] = *b"\x89KFS1\r\n\x1a";
/// Bytes that never change during the life of a file: the data-key cache's key.
pub const STATIC_LEN: usize = 96;
/// The algorithm of new files: XAES-256-GCM units.
pub const AEAD_XAES: u8 = 1;
/// Algorithms that this version implements, bit i for id i.
pub const IMPLEMENTED_AEADS: u16 = 1 << AEAD_XAES;

/// `header[0..48]`: what every key of the file is bound to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StaticHeader([u8; 48]);

impl StaticHeader {
    /// The header of a new file.
    pub fn new(volume: VolumeId, file: FileId, geometry: Geometry) -> Self {
        let mut bytes = [0; 48];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..14].copy_from_slice(&[1, 0, AEAD_XAES, 12, geometry.header_pages(), 0]);
        bytes[16..32].copy_from_slice(file.as_bytes());
        bytes[32..].copy_from_slice(volume.as_bytes());
        Self(bytes)
    }

    /// Reads the fields that can be judged without knowing the volume: steps 3 to 5 of FORMAT 5.4.
    ///
    /// # Errors
    /// [`Outcome::NotKfs`], [`Outcome::UnknownFeature`], [`Outcome::HeaderAuth`] for a zero file id.
    pub fn parse(bytes: &[u8]) -> Result<Self, Outcome> {
        let header = Self(*bytes.first_chunk().ok_or(Outcome::NotKfs)?);
        header.check_features()?;
        header.check_file_id()?;
        Ok(header)
    }

    fn check_features(&self) -> Result<(), Outcome> {
        if self.0[..8] != MAGIC {
            return Err(Outcome::NotKfs);
        }
        let [major, _minor, _aead, unit_log2, pages, flags, zero0, zero1] = self.fields();
        if major != 1 || unit_log2 != 12 || flags != 0 || zero0 != 0 || zero1 != 0 {
            return Err(Outcome::UnknownFeature);
        }
        Geometry::new(pages).map(|_| ())
    }

    fn check_file_id(&self) -> Result<(), Outcome> {
        if self.file_id().is_zero() { Err(Outcome::HeaderAuth) } else { Ok(()) }
    }

    fn fields(&self) -> [u8; 8] {
        *self.0[8..].first_chunk().expect("48 bytes")
    }

    /// The 48 bytes.
    pub const fn as_bytes(&self) -> &[u8; 48] {
        &self.0
    }

    /// The id of this life of the file.
    pub fn file_id(&self) -> FileId {
        FileId::from_bytes(*self.0[16..].first_chunk().expect("48 bytes"))
    }

    /// The volume the file belongs to.
    pub fn volume_id(&self) -> VolumeId {
        VolumeId::from_bytes(*self.0[32..].first_chunk().expect("48 bytes"))
    }

    /// The algorithm of the units.
    pub const fn aead_id(&self) -> u8 {
        self.0[10]
    }

    /// The number of header pages.
    pub fn geometry(&self) -> Geometry {
        Geometry::new(self.0[12]).expect("checked when parsed")
    }
}

/// What a volume demands of a header.
#[derive(Clone, Copy, Debug)]
pub struct HeaderPolicy<'a> {
    /// The volume's id.
    pub volume_id: VolumeId,
    /// The volume's geometry.
    pub geometry: Geometry,
    /// The volume's keys.
    pub keys: &'a VolumeKeys,
    /// The effective allow-list.
    pub allowed: &'a AllowList,
    /// Algorithms that the volume allows and this version implements, bit i for id i.
    pub aead_ids: u16,
}

impl HeaderPolicy<'_> {
    fn allows_aead(&self, id: u8) -> bool {
        1u16.checked_shl(u32::from(id)).is_some_and(|bit| self.aead_ids & bit != 0)
    }
}

/// A wrapped data key that passed every check that can be made without unwrapping it.
#[derive(Clone, Copy, Debug)]
pub enum WrappedKey<'a> {
    /// Wrapped by a KMS key of the allow-list, bound to [`super::context::context_file`].
    Kms {
        /// The key.
        key: &'a KeyArn,
        /// The ciphertext blob.
        blob: &'a [u8],
    },
    /// Wrapped by a branch key, which [`super::branch::BranchKey::unwrap`] opens.
    Branch(BranchBlob<'a>),
}

/// Unwraps a data key. It answers with an outcome of FORMAT 5.1: [`Outcome::KeyUnavailable`],
/// [`Outcome::KeyServiceTimeout`], [`Outcome::HeaderAuth`] (invalid ciphertext, a key of another length), or, for the
/// entries of a branch key, [`Outcome::KeyForbidden`].
pub type Unwrap<'a> = dyn FnMut(&StaticHeader, WrappedKey<'_>) -> Result<SecretKey<32>, Outcome> + 'a;

/// A header that was opened.
#[derive(Debug)]
pub struct OpenedHeader {
    /// `header[0..48]`.
    pub header: StaticHeader,
    /// The file's keys.
    pub keys: FileKeys,
    /// The data key, for wrapping it anew. Drop it when that is not wanted.
    pub dek: SecretKey<32>,
    /// Where the slot stands that counted.
    pub place: Place,
    /// Its generation.
    pub generation: u64,
    /// Which of its recipients opened.
    pub recipient: usize,
    /// How many slots are valid; two are a re-wrap that did not finish ([`finish_rewrap`]).
    pub valid_slots: usize,
    /// Whether two slots have the same generation, which only tampering makes.
    pub slots_tied: bool,
    /// The newest record.
    pub record: Record,
}

/// Steps 2 to 7 of FORMAT 5.4: everything that is checked before the slots, ending with the volume MAC. After it, a
/// data key may be taken from a cache by `header[..STATIC_LEN]`.
///
/// # Errors
/// The first check that fails: [`Outcome::BadSize`] if `header` has not the volume's header length, then
/// [`Outcome::HeaderLost`], [`Outcome::NotKfs`], [`Outcome::UnknownFeature`], [`Outcome::HeaderAuth`],
/// [`Outcome::ForeignVolume`].
pub fn check_static(header: &[u8], policy: &HeaderPolicy<'_>) -> Result<StaticHeader, Outcome> {
    if header.len() != policy.geometry.header_len() {
        return Err(Outcome::BadSize);
    }
    if is_zero(header) {
        return Err(Outcome::HeaderLost);
    }
    let fixed = StaticHeader(*header.first_chunk().ok_or(Outcome::BadSize)?);
    fixed.check_features()?;
    if !policy.allows_aead(fixed.aead_id()) || fixed.geometry() != policy.geometry {
        return Err(Outcome::UnknownFeature);
    }
    fixed.check_file_id()?;
    if fixed.volume_id() != policy.volume_id {
        return Err(Outcome::ForeignVolume);
    }
    if !ct_eq(&mac16(&policy.keys.inject, &[&header[..80]]), &header[80..96]) {
        return Err(Outcome::HeaderAuth);
    }
    Ok(fixed)
}

/// Opens a header in the normative order of FORMAT 5.4. `unwrap` is called only for recipients whose key is in the
/// allow-list, after the volume MAC; the size is then checked with [`Record::check_size`].
///
/// # Errors
/// The outcome of the first check that fails; if no recipient opens, the worst of theirs.
pub fn open_header(header: &[u8], policy: &HeaderPolicy<'_>, unwrap: &mut Unwrap<'_>) -> Result<OpenedHeader, Outcome> {
    let fixed = check_static(header, policy)?;
    let slots = valid_slots(header, policy.geometry);
    let slot = slots.first().ok_or(Outcome::NoRecipient)?;
    let mut worst = Outcome::NoRecipient;
    for (recipient, entry) in slot.recipients.iter().enumerate() {
        match open_recipient(header, &fixed, entry, policy, unwrap) {
            Ok((dek, keys)) => {
                let record = choose_record(&keys.record, fixed.file_id(), header, policy.geometry)?;
                return Ok(OpenedHeader {
                    header: fixed,
                    keys,
                    dek,
                    place: slot.place,
                    generation: slot.generation,
                    recipient,
                    valid_slots: slots.len(),
                    slots_tied: slots.get(1).is_some_and(|other| other.generation == slot.generation),
                    record,
                });
            }
            Err(outcome) => worst = worst.worse(outcome),
        }
    }
    Err(worst)
}

/// Opens a header with a data key that was unwrapped before (a cache): as [`open_header`] without recipients.
/// `place`, `generation` and `recipient` tell of the slot that counts, the first recipient.
///
/// # Errors
/// As [`open_header`]; [`Outcome::HeaderAuth`] if `dek` is not this file's.
pub fn open_with_dek(header: &[u8], policy: &HeaderPolicy<'_>, dek: SecretKey<32>) -> Result<OpenedHeader, Outcome> {
    let fixed = check_static(header, policy)?;
    let slots = valid_slots(header, policy.geometry);
    let slot = slots.first().ok_or(Outcome::NoRecipient)?;
    let keys = FileKeys::open(policy.keys.backend, &dek, &fixed, commit_of(header))?;
    let record = choose_record(&keys.record, fixed.file_id(), header, policy.geometry)?;
    Ok(OpenedHeader {
        header: fixed,
        keys,
        dek,
        place: slot.place,
        generation: slot.generation,
        recipient: 0,
        valid_slots: slots.len(),
        slots_tied: slots.get(1).is_some_and(|other| other.generation == slot.generation),
        record,
    })
}

fn commit_of(header: &[u8]) -> &[u8; 32] {
    header[48..].first_chunk().expect("the header's length is checked")
}

fn open_recipient(
    header: &[u8],
    fixed: &StaticHeader,
    entry: &Recipient,
    policy: &HeaderPolicy<'_>,
    unwrap: &mut Unwrap<'_>,
) -> Result<(SecretKey<32>, FileKeys), Outcome> {
    if entry.flags != 0 {
        return Err(Outcome::NoRecipient);
    }
    let wrapped = match entry.scheme {
        Scheme::Kms => WrappedKey::Kms { key: policy.allowed.find(&entry.key_id)?, blob: &entry.blob },
        Scheme::Branch => WrappedKey::Branch(BranchBlob::parse(entry)?),
        Scheme::Recovery | Scheme::Other(_) => return Err(Outcome::NoRecipient),
    };
    let dek = unwrap(fixed, wrapped)?;
    let keys = FileKeys::open(policy.keys.backend, &dek, fixed, commit_of(header))?;
    Ok((dek, keys))
}

/// The bytes of a new file's header: slot A with generation 1, the first record with floor 0.
///
/// # Errors
/// [`Outcome::SlotOverflow`] if the recipients do not fit.
pub fn build_header(
    fixed: &StaticHeader,
    keys: &FileKeys,
    volume: &VolumeKeys,
    recipients: &[Recipient],
    has_holes: bool,
) -> Result<Vec<u8>, Outcome> {
    let geometry = fixed.geometry();
    let mut header = vec![0; geometry.header_len()];
    header[..48].copy_from_slice(fixed.as_bytes());
    header[48..80].copy_from_slice(keys.commit());
    let mac = mac16(&volume.inject, &[&header[..80]]);
    header[80..96].copy_from_slice(&mac);
    Patch { offset: Place::A.slot_offset(geometry), bytes: build_slot(1, recipients, geometry)? }.apply(&mut header);
    let record = Record::first(has_holes).encode(&keys.record, fixed.file_id());
    header[geometry.records_offset()..][..RECORD_LEN].copy_from_slice(&record);
    Ok(header)
}

/// New bytes for a part of a header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Patch {
    /// Where they go.
    pub offset: usize,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Patch {
    /// Puts the bytes into a copy of the header.
    ///
    /// # Panics
    /// If the header is shorter than the geometry the patch was made for.
    pub fn apply(&self, header: &mut [u8]) {
        header[self.offset..self.offset + self.bytes.len()].copy_from_slice(&self.bytes);
    }
}

/// Step 2 of a re-wrap (FORMAT 5.3): the new recipients, with the next generation, for the place that does not
/// count. Afterwards: fdatasync, [`open_header`] on the result, [`finish_rewrap`], fdatasync.
///
/// # Errors
/// [`Outcome::NoRecipient`] if no slot is valid; [`Outcome::SlotOverflow`] if the recipients do not fit or the
/// generations are used up.
pub fn begin_rewrap(header: &[u8], recipients: &[Recipient], geometry: Geometry) -> Result<Patch, Outcome> {
    let slots = valid_slots(header, geometry);
    let active = slots.first().ok_or(Outcome::NoRecipient)?;
    let generation = active.generation.checked_add(1).ok_or(Outcome::SlotOverflow)?;
    let bytes = build_slot(generation, recipients, geometry)?;
    Ok(Patch { offset: active.place.other().slot_offset(geometry), bytes })
}

/// Step 5 of a re-wrap (FORMAT 5.3): zeros for the slot that no longer counts. `opened` is the proof that the new one
/// opens; without it the old slot stays. `None` if it is zero already.
pub fn finish_rewrap(header: &[u8], opened: &OpenedHeader) -> Option<Patch> {
    let geometry = opened.header.geometry();
    let offset = opened.place.other().slot_offset(geometry);
    let bytes = vec![0; geometry.slot_len()];
    (header.get(offset..offset + bytes.len()) != Some(&bytes[..])).then_some(Patch { offset, bytes })
}

/// What a header tells without any key. Nothing of it is authenticated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderInfo {
    /// `header[0..48]`.
    pub header: StaticHeader,
    /// The valid slots, the one that counts first. A header scan looks at all of them: a key is unused only if no
    /// valid slot of any file names it.
    pub slots: Vec<Slot>,
}

impl HeaderInfo {
    /// Reads the front of a file, which must hold the whole header.
    ///
    /// # Errors
    /// [`Outcome::BadSize`] if it is shorter than the header, [`Outcome::HeaderLost`] if the header is all zero; else
    /// as [`StaticHeader::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Outcome> {
        let first_page = bytes.get(..Geometry::P1.header_len()).ok_or(Outcome::BadSize)?;
        if is_zero(first_page) {
            return Err(Outcome::HeaderLost);
        }
        let header = StaticHeader::parse(bytes)?;
        let geometry = header.geometry();
        let bytes = bytes.get(..geometry.header_len()).ok_or(Outcome::BadSize)?;
        Ok(Self { header, slots: valid_slots(bytes, geometry) })
    }
}
