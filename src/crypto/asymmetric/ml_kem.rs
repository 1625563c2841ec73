//! ML-KEM (FIPS 203).

use aws_lc_rs::kem::{self, ML_KEM_512, ML_KEM_768, ML_KEM_1024};
use zeroize::Zeroizing;

use super::{MlKemSet, PairError, der};
use crate::crypto::secret::SecretBytes;

impl MlKemSet {
    const fn algorithm(self) -> &'static kem::Algorithm {
        match self {
            Self::MlKem512 => &ML_KEM_512,
            Self::MlKem768 => &ML_KEM_768,
            Self::MlKem1024 => &ML_KEM_1024,
        }
    }

    /// The parameter k.
    const fn rank(self) -> usize {
        match self {
            Self::MlKem512 => 2,
            Self::MlKem768 => 3,
            Self::MlKem1024 => 4,
        }
    }

    /// Bytes of a decapsulation key: k polynomials, the encapsulation key, its hash, and a random value (FIPS 203,
    /// algorithm 16).
    const fn decapsulation_len(self) -> usize {
        768 * self.rank() + 96
    }

    /// Where the encapsulation key stands in the decapsulation key.
    fn encapsulation_range(self) -> std::ops::Range<usize> {
        384 * self.rank()..768 * self.rank() + 32
    }

    const fn ciphertext_len(self) -> usize {
        match self {
            Self::MlKem512 => 768,
            Self::MlKem768 => 1088,
            Self::MlKem1024 => 1568,
        }
    }

    /// `AlgorithmIdentifier` (RFC 9935): 2.16.840.1.101.3.4.4.(k - 1).
    fn identifier(self) -> Vec<u8> {
        const ARC: [u8; 8] = [0x60, 0x86, 0x48, 0x01, 0x65, 3, 4, 4];
        der(0x30, &[&der(0x06, &[&ARC, &[self.rank() as u8 - 1]])])
    }
}

/// PKCS#8 with the choice `expandedKey` (RFC 9935).
fn encode(set: MlKemSet, key: &[u8]) -> Zeroizing<Vec<u8>> {
    let inner = Zeroizing::new(der(0x04, &[key]));
    let outer = Zeroizing::new(der(0x04, &[&inner]));
    Zeroizing::new(der(0x30, &[&[2, 1, 0], &set.identifier(), &outer]))
}

/// The decapsulation key in `pkcs8`; only the canonical form has one.
fn decode(set: MlKemSet, pkcs8: &[u8]) -> Result<&[u8], PairError> {
    let at = pkcs8.len().checked_sub(set.decapsulation_len()).ok_or(PairError::Rejected)?;
    let key = &pkcs8[at..];
    if encode(set, key).as_slice() == pkcs8 { Ok(key) } else { Err(PairError::Rejected) }
}

pub fn generate(set: MlKemSet) -> Result<SecretBytes, PairError> {
    let failed = |_| PairError::Failed("make an ML-KEM key");
    let key = kem::DecapsulationKey::generate(set.algorithm()).map_err(failed)?.key_bytes().map_err(failed)?;
    Ok(SecretBytes::from(&encode(set, key.as_ref())[..]))
}

pub fn canonical(set: MlKemSet, pkcs8: &[u8]) -> Result<SecretBytes, PairError> {
    decode(set, pkcs8).map(|_| SecretBytes::from(pkcs8))
}

/// A private key for ML-KEM with its public key.
pub struct DecapsulationKey {
    set: MlKemSet,
    private: kem::DecapsulationKey,
    public: kem::EncapsulationKey,
    public_der: Vec<u8>,
}

impl DecapsulationKey {
    /// Parses a private key in canonical form.
    pub fn new(set: MlKemSet, pkcs8: &[u8]) -> Result<Self, PairError> {
        let bytes = decode(set, pkcs8)?;
        let private = kem::DecapsulationKey::new(set.algorithm(), bytes).map_err(|_| PairError::Rejected)?;
        let public_bytes = &bytes[set.encapsulation_range()];
        let public = kem::EncapsulationKey::new(set.algorithm(), public_bytes).map_err(|_| PairError::Rejected)?;
        let public_der = der(0x30, &[&set.identifier(), &der(0x03, &[&[0], public_bytes])]);
        Ok(Self { set, private, public, public_der })
    }

    /// The public key as SubjectPublicKeyInfo (RFC 9935).
    pub fn public_key(&self) -> &[u8] {
        &self.public_der
    }

    /// A new shared secret, and its ciphertext for this key.
    pub fn encapsulate(&self) -> Result<(Vec<u8>, SecretBytes), PairError> {
        let made = self.public.encapsulate().map_err(|_| PairError::Failed("encapsulate with an ML-KEM key"))?;
        Ok((made.0.as_ref().to_vec(), SecretBytes::from(made.1.as_ref())))
    }

    /// The shared secret of `ciphertext`; a changed ciphertext gives another secret (implicit rejection).
    ///
    /// # Errors
    /// [`PairError::Unfit`] if the length is wrong.
    pub fn decapsulate(&self, ciphertext: &[u8]) -> Result<SecretBytes, PairError> {
        if ciphertext.len() != self.set.ciphertext_len() {
            return Err(PairError::Unfit);
        }
        let secret = self.private.decapsulate(kem::Ciphertext::from(ciphertext));
        let secret = secret.map_err(|_| PairError::Failed("decapsulate with an ML-KEM key"))?;
        Ok(SecretBytes::from(secret.as_ref()))
    }
}
