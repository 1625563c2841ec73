//! Size arithmetic (FORMAT 7): plaintext sizes, backing file sizes, places of units.

use super::Outcome;

/// Bytes of a unit on disk.
pub const UNIT: usize = 4096;
/// Plaintext bytes of a unit.
pub const DATA: usize = 4064;

const UNIT_U64: u64 = UNIT as u64;
const DATA_U64: u64 = DATA as u64;

/// How a volume's files are laid out: the number of header pages, from which every offset follows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Geometry {
    header_pages: u8,
}

impl Geometry {
    /// One header page, the default.
    pub const P1: Self = Self { header_pages: 1 };
    /// Four header pages, for large wrapped keys.
    pub const P4: Self = Self { header_pages: 4 };

    /// The geometry with `pages` header pages.
    ///
    /// # Errors
    /// [`Outcome::UnknownFeature`] unless `pages` is 1 or 4.
    pub const fn new(pages: u8) -> Result<Self, Outcome> {
        match pages {
            1 => Ok(Self::P1),
            4 => Ok(Self::P4),
            _ => Err(Outcome::UnknownFeature),
        }
    }

    /// The number of header pages P, 1 or 4.
    pub const fn header_pages(self) -> u8 {
        self.header_pages
    }

    /// Bytes of a header; also the offset of unit 0.
    pub const fn header_len(self) -> usize {
        self.header_pages as usize * UNIT
    }

    /// Bytes of a recipient slot.
    pub const fn slot_len(self) -> usize {
        (self.header_len() - 1120) / 2
    }

    /// Offset of the 1024 bytes of both record slots.
    pub const fn records_offset(self) -> usize {
        self.header_len() - 1024
    }

    /// The largest plaintext size.
    pub const fn max_size(self) -> u64 {
        DATA_U64 * ((1 << 51) - self.header_pages as u64 - 1)
    }

    /// Size of the backing file that holds `n` plaintext bytes.
    ///
    /// # Errors
    /// [`Outcome::TooBig`] beyond [`Self::max_size`].
    pub const fn stored_size(self, n: u64) -> Result<u64, Outcome> {
        if n > self.max_size() {
            return Err(Outcome::TooBig);
        }
        if n == 0 {
            return Ok(0);
        }
        let units = unit_count(n);
        Ok(self.header_len() as u64 + UNIT_U64 * units + (n - DATA_U64 * (units - 1)))
    }

    /// Plaintext size of a backing file of `stored` bytes.
    ///
    /// # Errors
    /// [`Outcome::BadSize`] if no plaintext size is stored as that many bytes.
    pub const fn plain_size(self, stored: u64) -> Result<u64, Outcome> {
        if stored == 0 {
            return Ok(0);
        }
        // Beyond 2^63 no file can be; this keeps the result within `max_size`.
        if stored <= self.header_len() as u64 || stored > i64::MAX as u64 {
            return Err(Outcome::BadSize);
        }
        let (units, rest) = self.split(stored);
        if units == 0 || rest == 0 || rest > DATA_U64 {
            return Err(Outcome::BadSize);
        }
        Ok(DATA_U64 * (units - 1) + rest)
    }

    /// The size that getattr shows for a backing file of `stored` bytes: never an error, as a damaged file must
    /// stay listable.
    pub const fn lenient_plain_size(self, stored: u64) -> u64 {
        if stored <= self.header_len() as u64 {
            return 0;
        }
        let (units, rest) = self.split(stored);
        if units == 0 {
            return 0;
        }
        DATA_U64 * (units - 1) + if rest < DATA_U64 { rest } else { DATA_U64 }
    }

    /// What the whole units of a backing file of `stored` bytes can hold at most: a size that loses nothing of them, for a file
    /// whose own size is malformed. 0 if there are none.
    pub const fn size_of_units(self, stored: u64) -> u64 {
        if stored <= self.header_len() as u64 {
            return 0;
        }
        let (units, _) = self.split(stored);
        DATA_U64 * units
    }

    const fn split(self, stored: u64) -> (u64, u64) {
        let body = stored - self.header_len() as u64;
        (body / UNIT_U64, body % UNIT_U64)
    }

    /// Offset of unit `u` in the backing file.
    ///
    /// # Panics
    /// If `u` lies beyond 2^52; the last unit of the largest file is below 2^51.
    pub const fn unit_offset(self, u: u64) -> u64 {
        self.header_len() as u64 + UNIT_U64 * u
    }
}

/// How many units hold `n` plaintext bytes.
pub const fn unit_count(n: u64) -> u64 {
    n.div_ceil(DATA_U64)
}

/// The unit that holds plaintext byte `offset`, and the place of the byte in it.
pub const fn locate(offset: u64) -> (u64, usize) {
    (offset / DATA_U64, (offset % DATA_U64) as usize)
}

/// The plaintext offset at which unit `u` begins.
pub const fn unit_start(u: u64) -> u64 {
    DATA_U64 * u
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_largest_file_ends_below_the_kernels_limit() {
        for geometry in [Geometry::P1, Geometry::P4] {
            let stored = geometry.stored_size(geometry.max_size()).expect("the largest size");
            assert_eq!(stored, (1 << 63) - 32);
            assert_eq!(geometry.plain_size(stored), Ok(geometry.max_size()));
            assert_eq!(geometry.stored_size(geometry.max_size() + 1), Err(Outcome::TooBig));
            assert_eq!(geometry.plain_size(u64::MAX), Err(Outcome::BadSize));
        }
    }

    #[test]
    fn only_one_and_four_pages() {
        for pages in 0..=255 {
            assert_eq!(Geometry::new(pages).is_ok(), pages == 1 || pages == 4);
        }
    }

    proptest! {
        #[test]
        fn sizes_round_trip(n in 0..=Geometry::P4.max_size(), p4: bool) {
            let geometry = if p4 { Geometry::P4 } else { Geometry::P1 };
            let stored = geometry.stored_size(n).expect("in range");
            prop_assert_eq!(geometry.plain_size(stored), Ok(n));
            prop_assert_eq!(geometry.lenient_plain_size(stored), n);
            let (u, within) = locate(n);
            prop_assert_eq!(unit_start(u) + within as u64, n);
        }

        #[test]
        fn every_stored_size_has_an_answer(stored: u64, p4: bool) {
            let geometry = if p4 { Geometry::P4 } else { Geometry::P1 };
            let shown = geometry.lenient_plain_size(stored);
            if let Ok(n) = geometry.plain_size(stored) {
                prop_assert_eq!(n, shown);
                prop_assert_eq!(geometry.stored_size(n), Ok(stored));
            }
        }
    }
}
