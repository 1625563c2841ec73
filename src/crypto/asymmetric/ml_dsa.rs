//! ML-DSA (FIPS 204): by AWS-LC; over an external mu, which its Rust interface lacks, by ml-dsa.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{
    KeyPair, ML_DSA_44, ML_DSA_44_SIGNING, ML_DSA_65, ML_DSA_65_SIGNING, ML_DSA_87, ML_DSA_87_SIGNING, PqdsaKeyPair,
    PqdsaSigningAlgorithm, PqdsaVerificationAlgorithm, UnparsedPublicKey,
};
use getrandom::SysRng;
use ml_dsa::{MlDsa44, MlDsa65, MlDsa87, MlDsaParams, Signature, SigningKey};
use zeroize::Zeroizing;

use super::signing::{Input, Scheme};
use super::{MlDsaSet, PairError};
use crate::crypto::secret::SecretBytes;
use crate::sync::OnceLock;

/// Length of the seed, which stands at the end of the canonical form.
const SEED_LEN: usize = 32;
/// The canonical form (RFC 9881, the choice `seed`): 22 bytes and the seed.
const PKCS8_LEN: usize = 54;

impl MlDsaSet {
    const fn algorithms(self) -> (&'static PqdsaSigningAlgorithm, &'static PqdsaVerificationAlgorithm) {
        match self {
            Self::MlDsa44 => (&ML_DSA_44_SIGNING, &ML_DSA_44),
            Self::MlDsa65 => (&ML_DSA_65_SIGNING, &ML_DSA_65),
            Self::MlDsa87 => (&ML_DSA_87_SIGNING, &ML_DSA_87),
        }
    }
}

fn canonical_form(pair: &PqdsaKeyPair) -> Result<SecretBytes, PairError> {
    // A key that was imported without its seed cannot be written as one.
    let der = pair.to_pkcs8v1().map_err(|_| PairError::Rejected)?;
    Ok(SecretBytes::from(der.as_ref()))
}

pub fn generate(set: MlDsaSet) -> Result<SecretBytes, PairError> {
    canonical_form(&PqdsaKeyPair::generate(set.algorithms().0).map_err(|_| PairError::Failed("make an ML-DSA key"))?)
}

pub fn canonical(set: MlDsaSet, pkcs8: &[u8]) -> Result<SecretBytes, PairError> {
    canonical_form(&PqdsaKeyPair::from_pkcs8(set.algorithms().0, pkcs8).map_err(|_| PairError::Rejected)?)
}

/// A private key for ML-DSA.
pub struct MlDsaKey {
    pair: PqdsaKeyPair,
    set: MlDsaSet,
    seed: SecretBytes,
    /// Expanded when it is needed first.
    by_mu: OnceLock<ByMu>,
}

/// The key as ml-dsa has it; tens of kilobytes.
enum ByMu {
    MlDsa44(Box<SigningKey<MlDsa44>>),
    MlDsa65(Box<SigningKey<MlDsa65>>),
    MlDsa87(Box<SigningKey<MlDsa87>>),
}

impl MlDsaKey {
    pub fn new(set: MlDsaSet, pkcs8: &[u8]) -> Result<Self, PairError> {
        let pair = PqdsaKeyPair::from_pkcs8(set.algorithms().0, pkcs8).map_err(|_| PairError::Rejected)?;
        if pkcs8.len() != PKCS8_LEN {
            return Err(PairError::Rejected);
        }
        let seed = SecretBytes::from(&pkcs8[PKCS8_LEN - SEED_LEN..]);
        Ok(Self { pair, set, seed, by_mu: OnceLock::new() })
    }

    pub fn public_key(&self) -> Result<Vec<u8>, PairError> {
        let der = self.pair.public_key().as_der().map_err(|_| PairError::Failed("encode an ML-DSA public key"))?;
        Ok(der.as_ref().to_vec())
    }

    fn by_mu(&self) -> &ByMu {
        self.by_mu.get_or_init(|| {
            let seed = Zeroizing::new(ml_dsa::Seed::try_from(self.seed.expose()).expect("32 bytes"));
            match self.set {
                MlDsaSet::MlDsa44 => ByMu::MlDsa44(Box::new(SigningKey::from_seed(&seed))),
                MlDsaSet::MlDsa65 => ByMu::MlDsa65(Box::new(SigningKey::from_seed(&seed))),
                MlDsaSet::MlDsa87 => ByMu::MlDsa87(Box::new(SigningKey::from_seed(&seed))),
            }
        })
    }

    pub fn sign(&self, scheme: Scheme, input: Input<'_>) -> Result<Vec<u8>, PairError> {
        let failed = PairError::Failed("sign with an ML-DSA key");
        match (scheme, input) {
            (Scheme::MlDsa, Input::Message(message)) => {
                let mut signature = vec![0; self.set.algorithms().0.signature_len()];
                let len = self.pair.sign(message, &mut signature).map_err(|_| failed)?;
                signature.truncate(len);
                Ok(signature)
            }
            (Scheme::MlDsa, Input::Mu(mu)) => match self.by_mu() {
                ByMu::MlDsa44(key) => sign_mu(key, mu),
                ByMu::MlDsa65(key) => sign_mu(key, mu),
                ByMu::MlDsa87(key) => sign_mu(key, mu),
            }
            .ok_or(failed),
            _ => Err(PairError::Unfit),
        }
    }

    pub fn verify(&self, scheme: Scheme, input: Input<'_>, signature: &[u8]) -> Result<bool, PairError> {
        match (scheme, input) {
            (Scheme::MlDsa, Input::Message(message)) => {
                let public = UnparsedPublicKey::new(self.set.algorithms().1, self.pair.public_key());
                Ok(public.verify(message, signature).is_ok())
            }
            (Scheme::MlDsa, Input::Mu(mu)) => Ok(match self.by_mu() {
                ByMu::MlDsa44(key) => verify_mu(key, mu, signature),
                ByMu::MlDsa65(key) => verify_mu(key, mu, signature),
                ByMu::MlDsa87(key) => verify_mu(key, mu, signature),
            }),
            _ => Err(PairError::Unfit),
        }
    }
}

fn sign_mu<P: MlDsaParams>(key: &SigningKey<P>, mu: &[u8; 64]) -> Option<Vec<u8>> {
    let signature = key.expanded_key().sign_mu_randomized(&(*mu).into(), &mut SysRng).ok()?;
    Some(signature.encode().to_vec())
}

fn verify_mu<P: MlDsaParams>(key: &SigningKey<P>, mu: &[u8; 64], signature: &[u8]) -> bool {
    use ml_dsa::signature::Keypair;
    let signature = Signature::<P>::try_from(signature);
    signature.is_ok_and(|signature| key.verifying_key().verify_mu(&(*mu).into(), &signature))
}
