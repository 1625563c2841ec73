//! Units (FORMAT 6): 4064 plaintext bytes in 4096 bytes on disk.

use std::time::Duration;

use super::Outcome;
use super::bytes::is_zero;
use super::size::{DATA, UNIT};
use crate::crypto::aead::Aes256Gcm;

/// Where the plaintext of a unit stands while it is sealed in place, and its ciphertext afterwards.
pub const TEXT: std::ops::Range<usize> = 16..16 + DATA;

/// Random bytes at the front of a unit that select the XAES sub-key.
pub type Epoch = [u8; 12];

/// Seals under one epoch by rule (S6); the format's own limit is 2^32 - 1.
pub const SEALS_PER_EPOCH: u64 = 1 << 20;

/// Life of an epoch by rule (S6). Short, because a clone of the machine's memory would repeat its nonces.
pub const EPOCH_LIFE: Duration = Duration::from_secs(60);

const AAD_LEN: usize = 16;

fn aad(u: u64) -> [u8; AAD_LEN] {
    let mut aad = [0; AAD_LEN];
    aad[..8].copy_from_slice(&u.to_le_bytes());
    aad[8..12].copy_from_slice(&12u32.to_le_bytes());
    aad[12..].copy_from_slice(b"KFU1");
    aad
}

/// The second half of the unit's XAES nonce, `LE64(u) | LE32(ctr)`.
fn nonce(u: u64, ctr: [u8; 4]) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&u.to_le_bytes());
    nonce[8..].copy_from_slice(&ctr);
    nonce
}

/// Seals unit `u` in place: the plaintext, padded with zeros, stands at `unit[16..4080]`. `cipher` is the sub-key
/// cipher of `epoch`; a pair (`epoch`, `ctr`) serves one seal only.
///
/// # Panics
/// If `epoch` is all zero or `ctr` is 0, which no reader would accept.
pub fn seal(cipher: &Aes256Gcm, epoch: &Epoch, ctr: u32, u: u64, unit: &mut [u8; UNIT]) {
    assert!(*epoch != [0; 12] && ctr != 0, "an epoch is random and a counter starts at 1");
    let ctr = ctr.to_le_bytes();
    unit[..12].copy_from_slice(epoch);
    unit[12..16].copy_from_slice(&ctr);
    let tag = cipher.seal_in_place(&nonce(u, ctr), &aad(u), &mut unit[TEXT]);
    unit[TEXT.end..].copy_from_slice(&tag);
}

/// Opens unit `u`, which stands at `buf[src..src + 4096]`, into `buf[..4064]`; what stands between there and the
/// unit's end afterwards is unspecified, the rest of `buf` is not touched. `cipher` is the sub-key cipher of the
/// unit's own epoch ([`epoch_of`]). The caller handles zero units ([`is_zero_unit`]) before.
///
/// # Errors
/// [`Outcome::UnitAuth`]; no plaintext is left in `buf` then.
///
/// # Panics
/// If `buf` is shorter than `src + 4096`.
pub fn open_within(cipher: &Aes256Gcm, u: u64, buf: &mut [u8], src: usize) -> Result<(), Outcome> {
    let buf = &mut buf[..src + UNIT];
    let (_, ctr) = epoch_of(&buf[src..]).ok_or(Outcome::UnitAuth)?;
    cipher.open_within(&nonce(u, ctr.to_le_bytes()), &aad(u), buf, src + TEXT.start).map_err(|_| Outcome::UnitAuth)
}

/// Epoch and counter of a unit; `None` if either is zero, which is [`Outcome::UnitAuth`] unless the whole unit is
/// zero, or if `unit` has fewer than 16 bytes.
pub fn epoch_of(unit: &[u8]) -> Option<(Epoch, u32)> {
    let (epoch, rest) = unit.split_first_chunk::<12>()?;
    let ctr = u32::from_le_bytes(*rest.first_chunk()?);
    (*epoch != [0; 12] && ctr != 0).then_some((*epoch, ctr))
}

/// Whether all bytes are zero: a hole, or [`Outcome::UnitZero`] where none may be ([`super::record::Record`] tells).
pub fn is_zero_unit(unit: &[u8]) -> bool {
    is_zero(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::aead::Backend;

    #[test]
    fn every_shift_of_a_reply_buffer() {
        for backend in Backend::ALL {
            let cipher = Aes256Gcm::new(backend, &[1; 32]);
            let mut unit = [0x42; UNIT];
            seal(&cipher, &[7; 12], 1, 9, &mut unit);
            for src in [0, 1, 16, 4064] {
                let mut buf = vec![0; src + UNIT + 8];
                buf[src..src + UNIT].copy_from_slice(&unit);
                assert_eq!(open_within(&cipher, 9, &mut buf, src), Ok(()));
                assert!(buf[..DATA].iter().all(|b| *b == 0x42));
                assert_eq!(buf[src + UNIT..], [0; 8]);
            }
            let mut buf = unit;
            assert_eq!(open_within(&cipher, 8, &mut buf, 0), Err(Outcome::UnitAuth));
            assert!(!buf.windows(4).any(|w| w == [0x42; 4]));
        }
    }

    #[test]
    fn zero_epoch_or_counter_is_none() {
        let mut unit = [1; 16];
        assert!(epoch_of(&unit).is_some() && epoch_of(&unit[..15]).is_none());
        unit[12..].fill(0);
        assert!(epoch_of(&unit).is_none());
        unit = [1; 16];
        unit[..12].fill(0);
        assert!(epoch_of(&unit).is_none());
    }
}
