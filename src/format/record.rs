//! Records (FORMAT 5.2): the authenticated lower bound of a file's size, in two sectors of the header.

use super::Outcome;
use super::bytes::is_zero;
use super::size::{Geometry, unit_count};
use super::slot::Place;
use crate::crypto::kdf::{ct_eq, mac16};
use crate::crypto::secret::SecretKey;
use crate::types::FileId;

/// Bytes of one record slot, a disk sector.
pub const SECTOR_LEN: usize = 512;
/// Bytes of both record slots, the end of the header.
pub const RECORDS_LEN: usize = 2 * SECTOR_LEN;
/// Used bytes of a record slot.
pub const RECORD_LEN: usize = 64;

const MAGIC: &[u8; 4] = b"KFR1";
const MAC_AT: usize = 48;
const HAS_HOLES: u32 = 1;

/// What a file's newest record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Counts records; odd in slot A, even in slot B.
    pub seq: u64,
    /// The plaintext size that was durable when the record was written; a shorter file was cut.
    pub floor: u64,
    /// Whether zero units below the floor are legal. Sticky for the life of the file.
    pub has_holes: bool,
}

impl Record {
    /// The first record of a new header: nothing is durable yet.
    pub const fn first(has_holes: bool) -> Self {
        Self { seq: 1, floor: 0, has_holes }
    }

    /// Which slot a record with this sequence number stands in.
    pub const fn place(&self) -> Place {
        if self.seq % 2 == 1 { Place::A } else { Place::B }
    }

    /// The 64 bytes of the record.
    pub fn encode(&self, key: &SecretKey<32>, file: FileId) -> [u8; RECORD_LEN] {
        encode(key, file, self.seq, self.floor, if self.has_holes { HAS_HOLES } else { 0 })
    }

    /// Checks the plaintext size of a file against the floor.
    ///
    /// # Errors
    /// [`Outcome::Truncated`].
    pub const fn check_size(&self, size: u64) -> Result<(), Outcome> {
        if size < self.floor { Err(Outcome::Truncated) } else { Ok(()) }
    }

    /// Whether unit `u` may be a hole; if not, a zero unit is [`Outcome::UnitZero`].
    ///
    /// # Errors
    /// [`Outcome::UnitZero`].
    pub const fn check_zero_unit(&self, u: u64) -> Result<(), Outcome> {
        if self.has_holes || u >= unit_count(self.floor) { Ok(()) } else { Err(Outcome::UnitZero) }
    }

    /// The record that follows this one, written to **both** slots at once: `None` if nothing would change, else the
    /// new state and the 1024 bytes that go to [`Geometry::records_offset`] in one write. A tear between the two
    /// sectors leaves one new or one old valid record; removing either afterwards brings back no older floor.
    ///
    /// # Errors
    /// [`Outcome::SlotOverflow`] at the end of the sequence numbers, which only who holds the data key can reach.
    pub fn next_pair(
        &self,
        key: &SecretKey<32>,
        file: FileId,
        floor: u64,
        has_holes: bool,
    ) -> Result<Option<(Self, [u8; RECORDS_LEN])>, Outcome> {
        let has_holes = has_holes || self.has_holes;
        if (floor, has_holes) == (self.floor, self.has_holes) {
            return Ok(None);
        }
        Self { floor, has_holes, ..*self }.pair(key, file).map(Some)
    }

    /// As [`Self::next_pair`], also where nothing changes but that both slots hold it.
    ///
    /// # Errors
    /// As for [`Self::next_pair`].
    pub fn pair(&self, key: &SecretKey<32>, file: FileId) -> Result<(Self, [u8; RECORDS_LEN]), Outcome> {
        let Self { floor, has_holes, .. } = *self;
        let last = self.seq.checked_add(2).ok_or(Outcome::SlotOverflow)?;
        let mut bytes = [0; RECORDS_LEN];
        for seq in [last - 1, last] {
            let record = Self { seq, floor, has_holes };
            let start = record.place().record_offset();
            bytes[start..start + RECORD_LEN].copy_from_slice(&record.encode(key, file));
        }
        Ok((Self { seq: last, floor, has_holes }, bytes))
    }

    /// The record that follows this one, for one slot only: its offset within the record slots and its bytes.
    /// Legal to read, but weaker than [`Self::next_pair`]: the older floor stays in the other slot.
    ///
    /// # Errors
    /// As for [`Self::next_pair`].
    pub fn next_single(
        &self,
        key: &SecretKey<32>,
        file: FileId,
        floor: u64,
        has_holes: bool,
    ) -> Result<Option<(usize, [u8; RECORD_LEN])>, Outcome> {
        let has_holes = has_holes || self.has_holes;
        if (floor, has_holes) == (self.floor, self.has_holes) {
            return Ok(None);
        }
        let seq = self.seq.checked_add(1).ok_or(Outcome::SlotOverflow)?;
        let record = Self { seq, floor, has_holes };
        Ok(Some((record.place().record_offset(), record.encode(key, file))))
    }
}

impl Place {
    /// Offset of the record slot at this place within the 1024 bytes of both.
    pub const fn record_offset(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => SECTOR_LEN,
        }
    }
}

fn encode(key: &SecretKey<32>, file: FileId, seq: u64, floor: u64, flags: u32) -> [u8; RECORD_LEN] {
    let mut record = [0; RECORD_LEN];
    record[..4].copy_from_slice(MAGIC);
    record[4..8].copy_from_slice(&flags.to_le_bytes());
    record[8..16].copy_from_slice(&seq.to_le_bytes());
    record[16..24].copy_from_slice(&floor.to_le_bytes());
    let mac = mac16(key, &[file.as_bytes(), &record[..MAC_AT]]);
    record[MAC_AT..].copy_from_slice(&mac);
    record
}

/// Sequence number, floor and flags of a valid record.
fn decode(key: &SecretKey<32>, file: FileId, place: Place, record: &[u8; RECORD_LEN]) -> Option<(u64, u64, u32)> {
    let (body, mac) = record.split_at(MAC_AT);
    if body[..4] != *MAGIC || !ct_eq(&mac16(key, &[file.as_bytes(), body]), mac) || !is_zero(&body[24..]) {
        return None;
    }
    let flags = u32::from_le_bytes(*body[4..].first_chunk()?);
    let seq = u64::from_le_bytes(*body[8..].first_chunk()?);
    let floor = u64::from_le_bytes(*body[16..].first_chunk()?);
    let right_place = Record { seq, floor, has_holes: false }.place() == place;
    (seq != 0 && right_place).then_some((seq, floor, flags))
}

/// How many of a header's records are valid.
pub fn valid_records(key: &SecretKey<32>, file: FileId, header: &[u8], geometry: Geometry) -> usize {
    let is_valid = |place: &Place| {
        let bytes = header.get(geometry.records_offset() + place.record_offset()..).and_then(<[u8]>::first_chunk);
        bytes.is_some_and(|bytes| decode(key, file, *place, bytes).is_some())
    };
    [Place::A, Place::B].iter().filter(|place| is_valid(place)).count()
}

/// The newest valid record of a header.
///
/// # Errors
/// [`Outcome::RecordAuth`] if none is valid; [`Outcome::UnknownFeature`] if the newest has an unknown flag.
pub fn choose_record(key: &SecretKey<32>, file: FileId, header: &[u8], geometry: Geometry) -> Result<Record, Outcome> {
    let parse = |place: Place| {
        let bytes = header.get(geometry.records_offset() + place.record_offset()..)?;
        decode(key, file, place, bytes.first_chunk()?)
    };
    let newest = [Place::A, Place::B].into_iter().filter_map(parse).max_by_key(|(seq, ..)| *seq);
    let (seq, floor, flags) = newest.ok_or(Outcome::RecordAuth)?;
    if flags & !HAS_HOLES != 0 {
        return Err(Outcome::UnknownFeature);
    }
    Ok(Record { seq, floor, has_holes: flags & HAS_HOLES != 0 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: FileId = FileId::from_bytes([3; 16]);

    fn key() -> SecretKey<32> {
        SecretKey::from_slice(&[4; 32]).expect("32 bytes")
    }

    fn header(records: &[u8; RECORDS_LEN]) -> Vec<u8> {
        let mut header = vec![0; Geometry::P1.header_len()];
        header[Geometry::P1.records_offset()..].copy_from_slice(records);
        header
    }

    fn read(records: &[u8; RECORDS_LEN]) -> Result<Record, Outcome> {
        choose_record(&key(), FILE, &header(records), Geometry::P1)
    }

    fn pair(from: Record, floor: u64) -> (Record, [u8; RECORDS_LEN]) {
        from.next_pair(&key(), FILE, floor, false).expect("seq").expect("a change")
    }

    #[test]
    fn either_record_of_a_pair_carries_the_new_floor() {
        let (first, old) = pair(Record::first(false), 100);
        let (second, new) = pair(first, 200);
        assert_eq!((first.seq, second.seq), (3, 5));
        assert_eq!(read(&new), Ok(second));
        for place in [Place::A, Place::B] {
            let mut one_gone = new;
            one_gone[place.record_offset()..][..SECTOR_LEN].fill(0);
            assert_eq!(read(&one_gone).expect("the other counts").floor, 200);
            // A tear between the sectors: one is new, the other as before.
            let mut torn = old;
            torn[place.record_offset()..][..SECTOR_LEN].copy_from_slice(&new[place.record_offset()..][..SECTOR_LEN]);
            assert_eq!(read(&torn).expect("torn").floor, 200);
        }
    }

    #[test]
    fn a_torn_sector_leaves_the_old_or_the_new_floor() {
        let (first, old) = pair(Record::first(false), 100);
        let (_, new) = pair(first, 200);
        for cut in 0..=RECORDS_LEN {
            let mut torn = old;
            torn[..cut].copy_from_slice(&new[..cut]);
            let floor = read(&torn).expect("one record is valid").floor;
            assert!(floor == 100 || floor == 200, "cut at {cut}");
        }
    }

    #[test]
    fn holes_are_sticky_and_no_change_is_no_write() {
        let holes = Record { seq: 9, floor: 50, has_holes: true };
        let (next, _) = holes.next_pair(&key(), FILE, 10, false).expect("seq").expect("a change");
        assert!(next.has_holes);
        assert_eq!(holes.next_pair(&key(), FILE, 50, false), Ok(None));
        let last = Record { seq: u64::MAX - 1, ..holes };
        assert_eq!(last.next_pair(&key(), FILE, 1, false), Err(Outcome::SlotOverflow));
    }

    #[test]
    fn floor_decides_on_holes_and_sizes() {
        let record = Record { seq: 1, floor: 4065, has_holes: false };
        assert_eq!(record.check_zero_unit(1), Err(Outcome::UnitZero));
        assert_eq!(record.check_zero_unit(2), Ok(()));
        assert_eq!(Record { has_holes: true, ..record }.check_zero_unit(0), Ok(()));
        assert_eq!((record.check_size(4064), record.check_size(4065)), (Err(Outcome::Truncated), Ok(())));
    }

    proptest! {
        #[test]
        fn hostile_records_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            let outcome = choose_record(&key(), FILE, &bytes, Geometry::P1).expect_err("no MAC fits");
            prop_assert_eq!(outcome, Outcome::RecordAuth);
        }
    }
}
