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
    /// Which of its recipients opened; `None` if the data key came from a cache, which proves no recipient: such a
    /// header does not finish a re-wrap.
    pub recipient: Option<usize>,
    /// How many slots are valid; two are a re-wrap that did not finish ([`finish_rewrap`]).
    pub valid_slots: usize,
    /// Whether two slots have the same generation, which only tampering makes.
    pub slots_tied: bool,
    /// The newest record.
    pub record: Record,
    /// The KMS key that unwrapped the data key, if whoever did it noted that here.
    pub key: Option<KeyArn>,
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
    let (recipient, dek, keys) = open_slot(header, &fixed, &slots, policy, unwrap)?;
    opened(header, fixed, &slots, Some(recipient), dek, keys)
}

/// A header that has lost both its records, with this one in their place: to read around the damage. What a file without a
/// record holds beyond its units, and whether it was cut, nothing vouches for.
///
/// # Errors
/// As [`open_header`].
pub fn with_record(
    header: &[u8],
    policy: &HeaderPolicy<'_>,
    unwrap: &mut Unwrap<'_>,
    record: Record,
) -> Result<Vec<u8>, Outcome> {
    let fixed = check_static(header, policy)?;
    let slots = valid_slots(header, policy.geometry);
    let (_, _, keys) = open_slot(header, &fixed, &slots, policy, unwrap)?;
    let mut header = header.to_vec();
    let at = policy.geometry.records_offset() + record.place().record_offset();
    header[at..at + RECORD_LEN].copy_from_slice(&record.encode(&keys.record, fixed.file_id()));
    Ok(header)
}

/// The first recipient of the slot that counts which opens, with the data key and the file's keys.
fn open_slot(
    header: &[u8],
    fixed: &StaticHeader,
    slots: &[Slot],
    policy: &HeaderPolicy<'_>,
    unwrap: &mut Unwrap<'_>,
) -> Result<(usize, SecretKey<32>, FileKeys), Outcome> {
    let slot = slots.first().ok_or(Outcome::NoRecipient)?;
    let mut worst = Outcome::NoRecipient;
    for (i, entry) in slot.recipients.iter().enumerate() {
        match open_recipient(header, fixed, entry, policy, unwrap) {
            Ok((dek, keys)) => return Ok((i, dek, keys)),
            Err(outcome) => worst = worst.worse(outcome),
        }
    }
    Err(worst)
}

/// Opens a header with a data key that was unwrapped before (a cache): as [`open_header`], without asking anybody.
///
/// # Errors
/// As [`open_header`]; [`Outcome::HeaderAuth`] if `dek` is not this file's.
pub fn open_with_dek(header: &[u8], policy: &HeaderPolicy<'_>, dek: SecretKey<32>) -> Result<OpenedHeader, Outcome> {
    let fixed = check_static(header, policy)?;
    let slots = valid_slots(header, policy.geometry);
    if slots.is_empty() {
        return Err(Outcome::NoRecipient);
    }
    let keys = FileKeys::open(policy.keys.backend, &dek, &fixed, commit_of(header))?;
    opened(header, fixed, &slots, None, dek, keys)
}

/// A header without the slot that counts, if another one is valid: the older of two, for when the newer does not open.
pub fn without_newest_slot(header: &[u8], geometry: Geometry) -> Option<(Patch, Vec<u8>)> {
    let slots = valid_slots(header, geometry);
    let [newest, _] = &slots[..] else { return None };
    let patch = Patch { offset: newest.place.slot_offset(geometry), bytes: vec![0; geometry.slot_len()] };
    let mut header = header.to_vec();
    patch.apply(&mut header);
    Some((patch, header))
}

/// The last steps, once the data key is proven.
fn opened(
    header: &[u8],
    fixed: StaticHeader,
    slots: &[Slot],
    recipient: Option<usize>,
    dek: SecretKey<32>,
    keys: FileKeys,
) -> Result<OpenedHeader, Outcome> {
    let slot = slots.first().ok_or(Outcome::NoRecipient)?;
    let record = choose_record(&keys.record, fixed.file_id(), header, fixed.geometry())?;
    Ok(OpenedHeader {
        header: fixed,
        keys,
        dek,
        place: slot.place,
        generation: slot.generation,
        recipient,
        valid_slots: slots.len(),
        slots_tied: slots.get(1).is_some_and(|other| other.generation == slot.generation),
        record,
        key: None,
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

/// Step 5 of a re-wrap (FORMAT 5.3): zeros for the slot that no longer counts. `opened` is the proof that a recipient
/// of the new one opens; without it ([`open_with_dek`]) the old slot stays. `None` if there is nothing to do.
pub fn finish_rewrap(header: &[u8], opened: &OpenedHeader) -> Option<Patch> {
    opened.recipient?;
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
    /// [`Outcome::BadSize`] if it is the beginning of a header, [`Outcome::HeaderLost`] if the header is all zero; else as
    /// [`StaticHeader::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Outcome> {
        match bytes.get(..Geometry::P1.header_len()) {
            None if bytes.starts_with(&MAGIC) => return Err(Outcome::BadSize),
            // Too short, and nothing says that it was ever a file of a volume.
            None => return Err(Outcome::NotKfs),
            Some(first_page) if is_zero(first_page) => return Err(Outcome::HeaderLost),
            Some(_) => {}
        }
        let header = StaticHeader::parse(bytes)?;
        let geometry = header.geometry();
        let bytes = bytes.get(..geometry.header_len()).ok_or(Outcome::BadSize)?;
        Ok(Self { header, slots: valid_slots(bytes, geometry) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::keys::testing::volume_keys;
    use super::super::record::RECORDS_LEN;
    use super::*;
    use crate::crypto::aead::Backend;

    const VOLUME: VolumeId = VolumeId::from_bytes([0x60; 16]);
    const FILE: FileId = FileId::from_bytes([0x40; 16]);

    struct Fixture {
        keys: VolumeKeys,
        allowed: AllowList,
        geometry: Geometry,
    }

    impl Fixture {
        fn new(geometry: Geometry) -> Self {
            Self { keys: volume_keys(), allowed: [key(1), key(2)].into_iter().collect(), geometry }
        }

        fn policy(&self) -> HeaderPolicy<'_> {
            HeaderPolicy {
                volume_id: VOLUME,
                geometry: self.geometry,
                keys: &self.keys,
                allowed: &self.allowed,
                aead_ids: IMPLEMENTED_AEADS,
            }
        }

        /// A header whose data key is wrapped by being written down.
        fn header(&self, recipients: &[Recipient]) -> Vec<u8> {
            let fixed = StaticHeader::new(VOLUME, FILE, self.geometry);
            let keys = FileKeys::derive(Backend::Ring, &dek(), &fixed);
            build_header(&fixed, &keys, &self.keys, recipients, false).expect("fits")
        }

        fn open(&self, header: &[u8]) -> Result<OpenedHeader, Outcome> {
            open_header(header, &self.policy(), &mut |_, wrapped| match wrapped {
                WrappedKey::Kms { blob, .. } => SecretKey::from_slice(blob).ok_or(Outcome::HeaderAuth),
                WrappedKey::Branch(_) => Err(Outcome::KeyUnavailable),
            })
        }
    }

    fn key(n: u8) -> KeyArn {
        format!("arn:aws:kms:eu-central-1:111122223333:key/{n}").parse().expect("an ARN")
    }

    fn dek() -> SecretKey<32> {
        SecretKey::from_slice(&[0x21; 32]).expect("32 bytes")
    }

    fn good(n: u8) -> Recipient {
        Recipient::kms(&key(n), dek().expose().to_vec(), 1)
    }

    #[test]
    fn a_new_header_opens() {
        for geometry in [Geometry::P1, Geometry::P4] {
            let fixture = Fixture::new(geometry);
            let header = fixture.header(&[good(1)]);
            let opened = fixture.open(&header).expect("genuine");
            assert_eq!((opened.place, opened.generation, opened.valid_slots), (Place::A, 1, 1));
            assert_eq!((opened.recipient, opened.record), (Some(0), Record::first(false)));
            assert!(opened.dek.ct_eq(&dek()));
            let info = HeaderInfo::parse(&[&header[..], &[1; 100]].concat()).expect("well-formed");
            assert_eq!((info.header, info.slots[0].recipients.clone()), (opened.header, vec![good(1)]));
            for cut in [8, 4095, header.len() - 1] {
                assert_eq!(HeaderInfo::parse(&header[..cut]), Err(Outcome::BadSize), "{cut} bytes");
            }
            for foreign in [&b"K"[..], b"hello", &[0; 100], &[1; 5000]] {
                assert_eq!(HeaderInfo::parse(foreign), Err(Outcome::NotKfs));
            }
            assert_eq!(HeaderInfo::parse(&vec![0; header.len()]), Err(Outcome::HeaderLost));
        }
    }

    #[test]
    fn nobody_is_asked_before_the_volume_mac_and_the_allow_list() {
        let fixture = Fixture::new(Geometry::P1);
        let mut forged = fixture.header(&[good(1)]);
        forged[80] ^= 1;
        let forbidden = fixture.header(&[good(3)]);
        for (header, expected) in [(forged, Outcome::HeaderAuth), (forbidden, Outcome::KeyForbidden)] {
            let asked = open_header(&header, &fixture.policy(), &mut |_, _| panic!("asked"));
            assert_eq!(asked.expect_err("refused"), expected);
        }
    }

    #[test]
    fn a_rewrap_is_finished_only_by_who_opened_the_new_slot() {
        let fixture = Fixture::new(Geometry::P1);
        let mut header = fixture.header(&[good(1)]);
        begin_rewrap(&header, &[good(2)], Geometry::P1).expect("fits").apply(&mut header);
        let cached = open_with_dek(&header, &fixture.policy(), dek()).expect("genuine");
        assert_eq!((cached.valid_slots, cached.recipient), (2, None));
        assert_eq!(finish_rewrap(&header, &cached), None);
        let opened = fixture.open(&header).expect("genuine");
        finish_rewrap(&header, &opened).expect("the old slot").apply(&mut header);
        let slots = HeaderInfo::parse(&header).expect("well-formed").slots;
        assert_eq!((slots.len(), slots[0].place, slots[0].generation), (1, Place::B, 2));
        assert_eq!(slots[0].recipients, [good(2)]);
    }

    #[test]
    fn a_cached_key_must_be_the_files() {
        let fixture = Fixture::new(Geometry::P1);
        let other = SecretKey::from_slice(&[0x22; 32]).expect("32 bytes");
        let opened = open_with_dek(&fixture.header(&[good(1)]), &fixture.policy(), other);
        assert_eq!(opened.expect_err("another key"), Outcome::HeaderAuth);
    }

    #[test]
    fn both_slots_with_one_generation_are_reported() {
        let fixture = Fixture::new(Geometry::P1);
        let mut header = fixture.header(&[good(1)]);
        let slot = header[Place::A.slot_offset(Geometry::P1)..][..Geometry::P1.slot_len()].to_vec();
        Patch { offset: Place::B.slot_offset(Geometry::P1), bytes: slot }.apply(&mut header);
        let opened = fixture.open(&header).expect("genuine");
        assert!(opened.slots_tied && opened.place == Place::A);
    }

    #[test]
    fn a_pair_of_records_goes_into_the_header() {
        let fixture = Fixture::new(Geometry::P4);
        let mut header = fixture.header(&[good(1)]);
        let opened = fixture.open(&header).expect("genuine");
        let next = opened.record.next_pair(&opened.keys.record, FILE, 77, true).expect("seq");
        let (record, bytes): (Record, [u8; RECORDS_LEN]) = next.expect("a change");
        Patch { offset: Geometry::P4.records_offset(), bytes: bytes.to_vec() }.apply(&mut header);
        assert_eq!(fixture.open(&header).expect("genuine").record, record);
    }

    proptest! {
        #[test]
        fn hostile_headers_never_panic(
            len in prop::sample::select(vec![0usize, 47, 4095, 4096, 4097, 16384]),
            bytes in prop::collection::vec(any::<u8>(), 200),
            right_magic: bool,
        ) {
            let mut header: Vec<u8> = bytes.iter().copied().cycle().take(len).collect();
            if right_magic && len > 16 {
                header[..16].copy_from_slice(&StaticHeader::new(VOLUME, FILE, Geometry::P1).as_bytes()[..16]);
            }
            let _ = HeaderInfo::parse(&header);
            let _ = begin_rewrap(&header, &[good(1)], Geometry::P4);
            prop_assert!(Fixture::new(Geometry::P1).open(&header).is_err());
        }

        #[test]
        fn a_changed_byte_of_a_header_never_panics(at in 0usize..4096, value: u8) {
            let fixture = Fixture::new(Geometry::P1);
            let header = fixture.header(&[good(1), good(2)]);
            let mut bad = header.clone();
            bad[at] = value;
            // Slot B and the ends of the record sectors are not in use.
            let in_use = at < Place::B.slot_offset(Geometry::P1) || (3072..3136).contains(&at);
            prop_assert_eq!(fixture.open(&bad).is_err(), bad != header && in_use);
        }
    }
}
