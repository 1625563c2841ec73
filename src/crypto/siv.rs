//! AES-256-SIV (RFC 5297) with one associated-data string: deterministic encryption of names.

use aes::Aes256;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt};
use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;

use super::AuthError;
use super::secret::SecretKey;
use crate::sys::wipe::{Wiped, on_wiped_stack};

/// Bytes that a SIV ciphertext is longer than its plaintext: the synthetic IV in front.
pub const IV_LEN: usize = 16;

type Block = [u8; 16];

/// Encrypts `buf[16..]` in place and puts the synthetic IV into `buf[..16]`.
///
/// The key is expanded at each call, which takes a fraction of a microsecond: the library's state cannot be shared
/// between threads, and so no expanded key outlives the call. The library moves it, and leaves copies on the stack, which is
/// therefore wiped.
///
/// # Panics
/// If `buf` has fewer than 16 bytes.
pub fn seal_in_place(key: &SecretKey<64>, ad: &[u8], buf: &mut [u8]) {
    let (iv, text) = buf.split_at_mut(IV_LEN);
    on_wiped_stack(|| {
        let mut siv = Wiped::new(Aes256Siv::new(key.expose().into()));
        let tag = siv.encrypt_inout_detached([ad], text.into()).expect("one associated-data string is allowed");
        iv.copy_from_slice(&tag);
    });
}

/// Decrypts `iv | ciphertext` in place; the plaintext is what comes back, `buf[16..]`.
///
/// # Errors
/// [`AuthError`] if `buf` was not made with this key and `ad`; `buf` holds no plaintext then.
pub fn open_in_place<'a>(key: &SecretKey<64>, ad: &[u8], buf: &'a mut [u8]) -> Result<&'a mut [u8], AuthError> {
    let (iv, text) = buf.split_first_chunk_mut::<IV_LEN>().ok_or(AuthError)?;
    on_wiped_stack(|| {
        let mut siv = Wiped::new(Aes256Siv::new(key.expose().into()));
        siv.decrypt_inout_detached([ad], (&mut *text).into(), &(*iv).into()).map_err(|_| AuthError)
    })?;
    Ok(text)
}

/// Finds the associated data, if it has 16 bytes, from a ciphertext alone: SIV decrypts without it, and S2V over
/// whole blocks can be run backwards by who has the key (FORMAT 8.5). `buf` is `iv | ciphertext` and holds the
/// plaintext in `buf[16..]` afterwards, which is **not authenticated** by this.
///
/// `None` if the plaintext is empty or no multiple of 16 bytes.
pub fn recover_ad(key: &SecretKey<64>, buf: &mut [u8]) -> Option<[u8; 16]> {
    on_wiped_stack(|| recover(key, buf))
}

fn recover(key: &SecretKey<64>, buf: &mut [u8]) -> Option<Block> {
    if buf.len() < 2 * IV_LEN || !buf.len().is_multiple_of(16) {
        return None;
    }
    let (iv, text) = buf.split_first_chunk_mut::<IV_LEN>()?;
    let (k1, k2) = key.expose().split_first_chunk::<32>()?;
    let k1 = Wiped::new(Aes256::new(k1.into()));
    let k2 = Wiped::new(Aes256::new_from_slice(k2).ok()?);

    let mut start = u128::from_be_bytes(*iv);
    start &= !((1 << 63) | (1 << 31));
    let (blocks, _) = text.as_chunks_mut::<16>();
    for (block, i) in blocks.iter_mut().zip(0u128..) {
        *block = xor(*block, encrypt(&k2, start.wrapping_add(i).to_be_bytes()));
    }

    let (last, rest) = blocks.split_last()?;
    let subkey = double(encrypt(&k1, [0; 16]));
    let chained = rest.iter().fold([0; 16], |state, block| encrypt(&k1, xor(state, *block)));
    let d = xor(xor(decrypt(&k1, *iv), chained), xor(subkey, *last));
    let cmac_of_zero = encrypt(&k1, subkey);
    let cmac_of_ad = xor(d, double(cmac_of_zero));
    Some(xor(decrypt(&k1, cmac_of_ad), subkey))
}

fn encrypt(key: &Aes256, block: Block) -> Block {
    let mut block = block.into();
    key.encrypt_block(&mut block);
    block.into()
}

fn decrypt(key: &Aes256, block: Block) -> Block {
    let mut block = block.into();
    key.decrypt_block(&mut block);
    block.into()
}

fn xor(a: Block, b: Block) -> Block {
    (u128::from_ne_bytes(a) ^ u128::from_ne_bytes(b)).to_ne_bytes()
}

/// Multiplication by x in GF(2^128), as in CMAC and S2V.
fn double(block: Block) -> Block {
    let n = u128::from_be_bytes(block);
    ((n << 1) ^ ((n >> 127) * 0x87)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SecretKey<64> {
        SecretKey::build(|out| (0u8..).zip(out).for_each(|(i, b)| *b = i.wrapping_mul(7)))
    }

    #[test]
    fn round_trip_and_determinism() {
        for len in [0, 1, 15, 16, 17, 64, 255] {
            let mut a = vec![0x61; 16 + len];
            seal_in_place(&key(), b"directory", &mut a);
            let mut b = vec![0x61; 16 + len];
            seal_in_place(&key(), b"directory", &mut b);
            assert_eq!(a, b);
            assert_eq!(open_in_place(&key(), b"directory", &mut b).expect("genuine"), vec![0x61; len]);
        }
    }

    #[test]
    fn other_data_or_changed_bytes_fail_and_leave_no_plaintext() {
        let mut a = vec![0x61; 48];
        seal_in_place(&key(), b"one", &mut a);
        let sealed = a.clone();
        assert_eq!(open_in_place(&key(), b"two", &mut a), Err(AuthError));
        assert!(!a.contains(&0x61) || a == sealed);
        for i in 0..sealed.len() {
            let mut b = sealed.clone();
            b[i] ^= 1;
            assert_eq!(open_in_place(&key(), b"one", &mut b), Err(AuthError));
        }
        assert_eq!(open_in_place(&key(), b"one", &mut [0; 15]), Err(AuthError));
    }

    #[test]
    fn associated_data_is_recovered() {
        for len in [16, 32, 256] {
            let mut a = vec![0x62; 16 + len];
            seal_in_place(&key(), b"0123456789abcdef", &mut a);
            assert_eq!(recover_ad(&key(), &mut a), Some(*b"0123456789abcdef"));
            assert_eq!(a[16..], vec![0x62; len]);
        }
        assert_eq!(recover_ad(&key(), &mut [0; 16]), None);
        assert_eq!(recover_ad(&key(), &mut [0; 40]), None);
    }
}
