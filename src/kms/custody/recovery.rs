//! The recovery key: 256 bits, printed once, with a checksum against misreading.

use data_encoding::BASE32_NOPAD;
use zeroize::Zeroizing;

use super::{CustodyError, SlotKind};
use crate::crypto::secret::SecretKey;
use crate::env::Entropy;
use crate::kms::seal::sha256;

const KEY_LEN: usize = 32;
const CHECK_LEN: usize = 3;
const GROUP: usize = 7;

/// A recovery key. It opens the home as a passphrase does.
pub struct RecoveryKey(SecretKey<KEY_LEN>);

impl RecoveryKey {
    pub(super) fn random(entropy: &dyn Entropy) -> Self {
        Self(SecretKey::random(entropy))
    }

    pub(super) fn secret(&self) -> &[u8] {
        self.0.expose()
    }

    /// Eight groups of seven base32 characters (RFC 4648); the last three bytes are a checksum.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(self.0.expose().to_vec());
        bytes.extend_from_slice(&sha256(self.0.expose())[..CHECK_LEN]);
        let letters = Zeroizing::new(BASE32_NOPAD.encode(&bytes));
        let mut text = Zeroizing::new(String::with_capacity(64));
        for (at, letter) in letters.chars().enumerate() {
            if at > 0 && at % GROUP == 0 {
                text.push('-');
            }
            text.push(letter);
        }
        text
    }

    /// Reads the text back: case, spaces and hyphens do not matter, `0`, `1` and `8` are read as `O`, `I` and `B`.
    ///
    /// # Errors
    /// [`CustodyError::WrongSecret`] when length, alphabet or checksum do not fit: the key was misread.
    pub fn parse(text: &str) -> Result<Self, CustodyError> {
        let letters: Zeroizing<String> = Zeroizing::new(
            text.chars()
                .filter(|c| !c.is_whitespace() && *c != '-')
                .map(|c| match c.to_ascii_uppercase() {
                    '0' => 'O',
                    '1' => 'I',
                    '8' => 'B',
                    other => other,
                })
                .collect(),
        );
        let wrong = || CustodyError::WrongSecret(SlotKind::Recovery);
        let bytes = Zeroizing::new(BASE32_NOPAD.decode(letters.as_bytes()).map_err(|_| wrong())?);
        let (key, check) = bytes.split_at_checked(KEY_LEN).ok_or_else(wrong)?;
        if check != &sha256(key)[..CHECK_LEN] {
            return Err(wrong());
        }
        SecretKey::from_slice(key).map(Self).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEntropy;

    #[test]
    fn text_round_trip_is_tolerant_and_checksummed() {
        let key = RecoveryKey::random(&SeededEntropy::new(7));
        let text = key.to_text();
        assert_eq!(text.len(), 8 * GROUP + 7);
        let sloppy = text.to_lowercase().replace('-', " ").replace('o', "0");
        assert!(RecoveryKey::parse(&sloppy).expect("the same key").0.ct_eq(&key.0));
        for at in 0..text.len() {
            let mut bad = text.as_bytes().to_vec();
            if bad[at] == b'-' {
                continue;
            }
            bad[at] = if bad[at] == b'A' { b'C' } else { b'A' };
            assert!(RecoveryKey::parse(std::str::from_utf8(&bad).expect("ASCII")).is_err(), "letter {at}");
        }
        assert!(RecoveryKey::parse("").is_err());
    }
}
