//! Little-endian fields and base64url text.

use data_encoding::BASE64URL_NOPAD;

/// Takes fields off the front of a byte string; `None` when it is too short.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether every byte is zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Whole words first: this runs over every unit that is read.
    let (words, rest) = bytes.as_chunks::<32>();
    words.iter().all(|w| *w == [0; 32]) && rest.iter().all(|b| *b == 0)
}

/// The base64url text of `bytes`, without padding.
pub(super) fn b64(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

/// Decodes base64url text into the front of `buf`; `None` unless it is canonical (FORMAT 2) and fits.
pub(super) fn unb64<'b>(text: &[u8], buf: &'b mut [u8]) -> Option<&'b mut [u8]> {
    let len = BASE64URL_NOPAD.decode_len(text.len()).ok()?;
    let buf = buf.get_mut(..len)?;
    let len = BASE64URL_NOPAD.decode_mut(text, buf).ok()?;
    Some(&mut buf[..len])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_base64() {
        let mut buf = [0; 4];
        assert_eq!(unb64(b"AQ", &mut buf), Some(&mut [1u8][..]));
        for bad in [&b"AQ=="[..], b"AR", b"A", b"A+", b"A/", b"AQ\n", b" AQ", b"AAAAAAA"] {
            assert!(unb64(bad, &mut buf).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn zero_detection_sees_every_byte() {
        let mut unit = [0; 100];
        assert!(is_zero(&unit) && is_zero(&[]));
        for i in 0..unit.len() {
            unit[i] = 1;
            assert!(!is_zero(&unit));
            unit[i] = 0;
        }
    }
}
