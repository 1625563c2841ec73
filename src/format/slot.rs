//! Recipient slots (FORMAT 5.1): two places for the wrapped copies of a file's data key, so that a re-wrap never
//! overwrites the only one.

use super::Outcome;
use super::bytes::{Reader, is_zero};
use super::recipient::{MAX_RECIPIENTS, Recipient};
use super::size::Geometry;

/// Highest generation a slot can have.
pub const MAX_GENERATION: u64 = 1 << 63;

const MAGIC: &[u8; 4] = b"KFR0";
const FIXED_LEN: usize = 24;
const SLOT_A: usize = 96;

/// One of the two places.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// The first.
    A,
    /// The second.
    B,
}

impl Place {
    /// The other place.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Offset of the recipient slot at this place in the header.
    pub const fn slot_offset(self, geometry: Geometry) -> usize {
        match self {
            Self::A => SLOT_A,
            Self::B => SLOT_A + geometry.slot_len(),
        }
    }
}

/// A valid recipient slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Where it stands.
    pub place: Place,
    /// Counts re-wraps; the larger one counts. 1 to 2^63.
    pub generation: u64,
    /// 1 to 8 wrapped copies of the data key.
    pub recipients: Vec<Recipient>,
}

/// The bytes of a slot.
///
/// # Errors
/// [`Outcome::SlotOverflow`] if there is no recipient, more than eight, more than fit, or the generation is not in
/// 1..=2^63.
pub fn build_slot(generation: u64, recipients: &[Recipient], geometry: Geometry) -> Result<Vec<u8>, Outcome> {
    let count = u8::try_from(recipients.len()).map_err(|_| Outcome::SlotOverflow)?;
    if !(1..=MAX_RECIPIENTS).contains(&recipients.len()) || !(1..=MAX_GENERATION).contains(&generation) {
        return Err(Outcome::SlotOverflow);
    }
    let len = geometry.slot_len();
    let mut slot = Vec::with_capacity(len);
    slot.extend_from_slice(MAGIC);
    slot.extend_from_slice(&[0; 4]);
    slot.extend_from_slice(&generation.to_le_bytes());
    slot.push(count);
    slot.extend_from_slice(&[0; 7]);
    for recipient in recipients {
        recipient.encode(&mut slot)?;
    }
    if slot.len() > len {
        return Err(Outcome::SlotOverflow);
    }
    slot.resize(len, 0);
    let crc = crc32c::crc32c(&slot[8..]);
    slot[4..8].copy_from_slice(&crc.to_le_bytes());
    Ok(slot)
}

/// Parses the bytes of the slot at `place`; `None` if it is not valid (empty, torn, malformed).
pub fn parse_slot(place: Place, slot: &[u8]) -> Option<Slot> {
    let mut reader = Reader(slot);
    if reader.array()? != *MAGIC || reader.u32()? != crc32c::crc32c(reader.0) {
        return None;
    }
    let generation = reader.u64()?;
    let count = reader.u8()?;
    let zero: [u8; 7] = reader.array()?;
    debug_assert_eq!(slot.len() - reader.0.len(), FIXED_LEN);
    if !(1..=MAX_GENERATION).contains(&generation)
        || !(1..=MAX_RECIPIENTS).contains(&usize::from(count))
        || zero != [0; 7]
    {
        return None;
    }
    let recipients = (0..count).map(|_| Recipient::decode(&mut reader)).collect::<Option<Vec<_>>>()?;
    is_zero(reader.0).then_some(Slot { place, generation, recipients })
}

/// The valid slots of a header, the one that counts first: the larger generation, place A on a tie (which only
/// tampering makes). Two are a re-wrap that did not finish.
pub fn valid_slots(header: &[u8], geometry: Geometry) -> Vec<Slot> {
    let parse = |place: Place| {
        let start = place.slot_offset(geometry);
        parse_slot(place, header.get(start..start + geometry.slot_len())?)
    };
    let mut slots: Vec<Slot> = [Place::A, Place::B].into_iter().filter_map(parse).collect();
    slots.sort_by_key(|slot| std::cmp::Reverse(slot.generation));
    slots
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::recipient::Scheme;

    fn recipient(len: usize) -> Recipient {
        Recipient { scheme: Scheme::Kms, flags: 0, key_id: "k".into(), blob: vec![9; len], unix_time: 0 }
    }

    #[test]
    fn counts_and_generations_out_of_range_are_refused() {
        let one = [recipient(1)];
        for generation in [0, MAX_GENERATION + 1, u64::MAX] {
            assert_eq!(build_slot(generation, &one, Geometry::P1), Err(Outcome::SlotOverflow));
        }
        assert_eq!(build_slot(1, &[], Geometry::P1), Err(Outcome::SlotOverflow));
        assert_eq!(build_slot(1, &vec![recipient(1); 9], Geometry::P1), Err(Outcome::SlotOverflow));
        assert_eq!(build_slot(1, &vec![recipient(1); 300], Geometry::P1), Err(Outcome::SlotOverflow));
        build_slot(MAX_GENERATION, &one, Geometry::P1).expect("the last generation");
    }

    #[test]
    fn one_changed_bit_makes_a_slot_invalid() {
        let slot = build_slot(5, &[recipient(40), recipient(90)], Geometry::P1).expect("fits");
        assert_eq!(parse_slot(Place::B, &slot).expect("valid").generation, 5);
        for bit in 0..slot.len() * 8 {
            let mut bad = slot.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse_slot(Place::B, &bad), None, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn hostile_slots_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), generation: u64, count in 0u8..12) {
            parse_slot(Place::A, &bytes);
            // The same with a right CRC, as an attacker writes it.
            if bytes.len() >= 24 {
                bytes[..4].copy_from_slice(MAGIC);
                bytes[8..16].copy_from_slice(&generation.to_le_bytes());
                bytes[16..24].copy_from_slice(&[count, 0, 0, 0, 0, 0, 0, 0]);
                let crc = crc32c::crc32c(&bytes[8..]);
                bytes[4..8].copy_from_slice(&crc.to_le_bytes());
                if let Some(slot) = parse_slot(Place::A, &bytes) {
                    prop_assert!((1..=MAX_GENERATION).contains(&slot.generation));
                    prop_assert_eq!(slot.recipients.len(), usize::from(count));
                }
            }
            valid_slots(&bytes, Geometry::P1);
        }
    }
}
