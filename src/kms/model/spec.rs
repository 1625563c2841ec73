//! What keys of each spec are made of and can be used with (KMS.md section 7).

use serde::Serialize;

use super::key::{EncryptionAlgorithm, KeySpec, KeyUsage};
use super::words::words;
use crate::crypto::asymmetric::{Curve, Hash, MlDsaSet, MlKemSet, Oaep, PairKind, RsaSize, Scheme};
use crate::crypto::mac::MacHash;

words!(
    /// A signing algorithm.
    SigningAlgorithm {
        /// RSASSA-PSS with SHA-256, salt as long as the hash.
        RsassaPssSha256 = "RSASSA_PSS_SHA_256",
        /// RSASSA-PSS with SHA-384.
        RsassaPssSha384 = "RSASSA_PSS_SHA_384",
        /// RSASSA-PSS with SHA-512.
        RsassaPssSha512 = "RSASSA_PSS_SHA_512",
        /// RSASSA-PKCS1-v1_5 with SHA-256.
        RsassaPkcs1V15Sha256 = "RSASSA_PKCS1_V1_5_SHA_256",
        /// RSASSA-PKCS1-v1_5 with SHA-384.
        RsassaPkcs1V15Sha384 = "RSASSA_PKCS1_V1_5_SHA_384",
        /// RSASSA-PKCS1-v1_5 with SHA-512.
        RsassaPkcs1V15Sha512 = "RSASSA_PKCS1_V1_5_SHA_512",
        /// ECDSA with SHA-256.
        EcdsaSha256 = "ECDSA_SHA_256",
        /// ECDSA with SHA-384.
        EcdsaSha384 = "ECDSA_SHA_384",
        /// ECDSA with SHA-512.
        EcdsaSha512 = "ECDSA_SHA_512",
        /// China Regions only; fits no key.
        Sm2dsa = "SM2DSA",
        /// ML-DSA.
        MlDsaShake256 = "ML_DSA_SHAKE_256",
        /// Ed25519, over messages only.
        Ed25519Sha512 = "ED25519_SHA_512",
        /// Ed25519ph, over digests only.
        Ed25519PhSha512 = "ED25519_PH_SHA_512",
    }
);
words!(
    /// A MAC algorithm.
    MacAlgorithm {
        /// HMAC with SHA-224.
        HmacSha224 = "HMAC_SHA_224",
        /// HMAC with SHA-256.
        HmacSha256 = "HMAC_SHA_256",
        /// HMAC with SHA-384.
        HmacSha384 = "HMAC_SHA_384",
        /// HMAC with SHA-512.
        HmacSha512 = "HMAC_SHA_512",
    }
);
words!(
    /// A key agreement algorithm.
    KeyAgreementAlgorithm {
        /// Elliptic curve Diffie-Hellman.
        Ecdh = "ECDH",
    }
);
words!(
    /// An encapsulation algorithm.
    EncapsulationAlgorithm {
        /// ML-KEM.
        MlKem = "ML_KEM",
    }
);
words!(
    /// What is given to be signed.
    MessageType {
        /// The message itself.
        Raw = "RAW",
        /// Its digest.
        Digest = "DIGEST",
        /// The 64-byte message representative of ML-DSA.
        ExternalMu = "EXTERNAL_MU",
    }
);
words!(
    /// The kind of a data key pair.
    DataKeyPairSpec {
        /// RSA, 2048 bits.
        Rsa2048 = "RSA_2048",
        /// RSA, 3072 bits.
        Rsa3072 = "RSA_3072",
        /// RSA, 4096 bits.
        Rsa4096 = "RSA_4096",
        /// NIST P-256.
        EccNistP256 = "ECC_NIST_P256",
        /// NIST P-384.
        EccNistP384 = "ECC_NIST_P384",
        /// NIST P-521.
        EccNistP521 = "ECC_NIST_P521",
        /// secp256k1.
        EccSecgP256k1 = "ECC_SECG_P256K1",
        /// China Regions only; always refused.
        Sm2 = "SM2",
        /// Ed25519.
        EccNistEdwards25519 = "ECC_NIST_EDWARDS25519",
        /// ML-KEM-512.
        MlKem512 = "ML_KEM_512",
        /// ML-KEM-768.
        MlKem768 = "ML_KEM_768",
        /// ML-KEM-1024.
        MlKem1024 = "ML_KEM_1024",
    }
);
words!(
    /// What a dry run leaves out.
    DryRunModifier {
        /// The ciphertext, which need not be given.
        IgnoreCiphertext = "IGNORE_CIPHERTEXT",
    }
);

/// What the material of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaterialKind {
    /// 32 random bytes.
    Symmetric,
    /// As many random bytes as the MAC has.
    Mac(MacHash),
    /// A private key.
    Pair(PairKind),
}

/// The algorithms of a key, by its usage; lists that do not apply are empty and absent from answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Algorithms {
    /// For `ENCRYPT_DECRYPT` keys.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub encryption_algorithms: &'static [EncryptionAlgorithm],
    /// For `SIGN_VERIFY` keys.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub signing_algorithms: &'static [SigningAlgorithm],
    /// For `KEY_AGREEMENT` keys.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub key_agreement_algorithms: &'static [KeyAgreementAlgorithm],
    /// For `GENERATE_VERIFY_MAC` keys.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub mac_algorithms: &'static [MacAlgorithm],
    /// For `ENCAPSULATE_DECAPSULATE` keys.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub encapsulation_algorithms: &'static [EncapsulationAlgorithm],
}

impl Algorithms {
    /// Those of a key.
    pub fn of(spec: KeySpec, usage: KeyUsage) -> Self {
        let none = Self::default();
        match usage {
            KeyUsage::EncryptDecrypt => Self { encryption_algorithms: encryption(spec), ..none },
            KeyUsage::SignVerify => Self { signing_algorithms: signing(spec), ..none },
            KeyUsage::GenerateVerifyMac => Self { mac_algorithms: mac(spec), ..none },
            KeyUsage::KeyAgreement => Self { key_agreement_algorithms: agreement(spec), ..none },
            KeyUsage::EncapsulateDecapsulate => Self { encapsulation_algorithms: encapsulation(spec), ..none },
        }
    }
}

impl KeySpec {
    /// What the material is; `None` for `SM2`, which is never made.
    pub const fn material(self) -> Option<MaterialKind> {
        let pair = match self {
            Self::SymmetricDefault => return Some(MaterialKind::Symmetric),
            Self::Hmac224 => return Some(MaterialKind::Mac(MacHash::Sha224)),
            Self::Hmac256 => return Some(MaterialKind::Mac(MacHash::Sha256)),
            Self::Hmac384 => return Some(MaterialKind::Mac(MacHash::Sha384)),
            Self::Hmac512 => return Some(MaterialKind::Mac(MacHash::Sha512)),
            Self::Sm2 => return None,
            Self::Rsa2048 => PairKind::Rsa(RsaSize::Bits2048),
            Self::Rsa3072 => PairKind::Rsa(RsaSize::Bits3072),
            Self::Rsa4096 => PairKind::Rsa(RsaSize::Bits4096),
            Self::EccNistP256 => PairKind::Ec(Curve::P256),
            Self::EccNistP384 => PairKind::Ec(Curve::P384),
            Self::EccNistP521 => PairKind::Ec(Curve::P521),
            Self::EccSecgP256k1 => PairKind::Ec(Curve::Secp256k1),
            Self::EccNistEdwards25519 => PairKind::Ed25519,
            Self::MlDsa44 => PairKind::MlDsa(MlDsaSet::MlDsa44),
            Self::MlDsa65 => PairKind::MlDsa(MlDsaSet::MlDsa65),
            Self::MlDsa87 => PairKind::MlDsa(MlDsaSet::MlDsa87),
            Self::MlKem512 => PairKind::MlKem(MlKemSet::MlKem512),
            Self::MlKem768 => PairKind::MlKem(MlKemSet::MlKem768),
            Self::MlKem1024 => PairKind::MlKem(MlKemSet::MlKem1024),
        };
        Some(MaterialKind::Pair(pair))
    }

    /// Whether keys of this spec can have `usage`.
    pub fn allows(self, usage: KeyUsage) -> bool {
        Algorithms::of(self, usage) != Algorithms::default()
    }
}

impl DataKeyPairSpec {
    /// The kind of the pair; `None` for `SM2`, which is never made.
    pub const fn pair(self) -> Option<PairKind> {
        Some(match self {
            Self::Rsa2048 => PairKind::Rsa(RsaSize::Bits2048),
            Self::Rsa3072 => PairKind::Rsa(RsaSize::Bits3072),
            Self::Rsa4096 => PairKind::Rsa(RsaSize::Bits4096),
            Self::EccNistP256 => PairKind::Ec(Curve::P256),
            Self::EccNistP384 => PairKind::Ec(Curve::P384),
            Self::EccNistP521 => PairKind::Ec(Curve::P521),
            Self::EccSecgP256k1 => PairKind::Ec(Curve::Secp256k1),
            Self::Sm2 => return None,
            Self::EccNistEdwards25519 => PairKind::Ed25519,
            Self::MlKem512 => PairKind::MlKem(MlKemSet::MlKem512),
            Self::MlKem768 => PairKind::MlKem(MlKemSet::MlKem768),
            Self::MlKem1024 => PairKind::MlKem(MlKemSet::MlKem1024),
        })
    }
}

impl SigningAlgorithm {
    /// The signature scheme; `None` for `SM2DSA`.
    pub const fn scheme(self) -> Option<Scheme> {
        Some(match self {
            Self::RsassaPssSha256 => Scheme::Pss(Hash::Sha256),
            Self::RsassaPssSha384 => Scheme::Pss(Hash::Sha384),
            Self::RsassaPssSha512 => Scheme::Pss(Hash::Sha512),
            Self::RsassaPkcs1V15Sha256 => Scheme::Pkcs1(Hash::Sha256),
            Self::RsassaPkcs1V15Sha384 => Scheme::Pkcs1(Hash::Sha384),
            Self::RsassaPkcs1V15Sha512 => Scheme::Pkcs1(Hash::Sha512),
            Self::EcdsaSha256 => Scheme::Ecdsa(Hash::Sha256),
            Self::EcdsaSha384 => Scheme::Ecdsa(Hash::Sha384),
            Self::EcdsaSha512 => Scheme::Ecdsa(Hash::Sha512),
            Self::Sm2dsa => return None,
            Self::MlDsaShake256 => Scheme::MlDsa,
            Self::Ed25519Sha512 => Scheme::Ed25519,
            Self::Ed25519PhSha512 => Scheme::Ed25519Ph,
        })
    }
}

impl EncryptionAlgorithm {
    /// The hash function of RSA-OAEP; `None` for the symmetric algorithm.
    pub const fn oaep(self) -> Option<Oaep> {
        match self {
            Self::SymmetricDefault => None,
            Self::RsaesOaepSha1 => Some(Oaep::Sha1),
            Self::RsaesOaepSha256 => Some(Oaep::Sha256),
        }
    }
}

fn encryption(spec: KeySpec) -> &'static [EncryptionAlgorithm] {
    match spec.material() {
        Some(MaterialKind::Symmetric) => &[EncryptionAlgorithm::SymmetricDefault],
        Some(MaterialKind::Pair(PairKind::Rsa(_))) => {
            &[EncryptionAlgorithm::RsaesOaepSha1, EncryptionAlgorithm::RsaesOaepSha256]
        }
        _ => &[],
    }
}

fn signing(spec: KeySpec) -> &'static [SigningAlgorithm] {
    use SigningAlgorithm::*;
    let Some(MaterialKind::Pair(pair)) = spec.material() else { return &[] };
    match pair {
        PairKind::Rsa(_) => &[
            RsassaPkcs1V15Sha256,
            RsassaPkcs1V15Sha384,
            RsassaPkcs1V15Sha512,
            RsassaPssSha256,
            RsassaPssSha384,
            RsassaPssSha512,
        ],
        PairKind::Ec(Curve::P256 | Curve::Secp256k1) => &[EcdsaSha256],
        PairKind::Ec(Curve::P384) => &[EcdsaSha384],
        PairKind::Ec(Curve::P521) => &[EcdsaSha512],
        PairKind::Ed25519 => &[Ed25519PhSha512, Ed25519Sha512],
        PairKind::MlDsa(_) => &[MlDsaShake256],
        PairKind::MlKem(_) => &[],
    }
}

fn mac(spec: KeySpec) -> &'static [MacAlgorithm] {
    match spec.material() {
        Some(MaterialKind::Mac(MacHash::Sha224)) => &[MacAlgorithm::HmacSha224],
        Some(MaterialKind::Mac(MacHash::Sha256)) => &[MacAlgorithm::HmacSha256],
        Some(MaterialKind::Mac(MacHash::Sha384)) => &[MacAlgorithm::HmacSha384],
        Some(MaterialKind::Mac(MacHash::Sha512)) => &[MacAlgorithm::HmacSha512],
        _ => &[],
    }
}

fn agreement(spec: KeySpec) -> &'static [KeyAgreementAlgorithm] {
    match spec.material() {
        Some(MaterialKind::Pair(PairKind::Ec(Curve::P256 | Curve::P384 | Curve::P521))) => {
            &[KeyAgreementAlgorithm::Ecdh]
        }
        _ => &[],
    }
}

fn encapsulation(spec: KeySpec) -> &'static [EncapsulationAlgorithm] {
    match spec.material() {
        Some(MaterialKind::Pair(PairKind::MlKem(_))) => &[EncapsulationAlgorithm::MlKem],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usages_are_those_of_the_table() {
        let usages = |spec: KeySpec| -> Vec<&str> {
            KeyUsage::ALL.iter().filter(|usage| spec.allows(**usage)).map(|usage| usage.as_str()).collect()
        };
        for spec in KeySpec::ALL {
            let expected: &[&str] = match spec.as_str() {
                "SYMMETRIC_DEFAULT" => &["ENCRYPT_DECRYPT"],
                "RSA_2048" | "RSA_3072" | "RSA_4096" => &["ENCRYPT_DECRYPT", "SIGN_VERIFY"],
                "ECC_NIST_P256" | "ECC_NIST_P384" | "ECC_NIST_P521" => &["SIGN_VERIFY", "KEY_AGREEMENT"],
                "ECC_SECG_P256K1" | "ECC_NIST_EDWARDS25519" | "ML_DSA_44" | "ML_DSA_65" | "ML_DSA_87" => {
                    &["SIGN_VERIFY"]
                }
                "ML_KEM_512" | "ML_KEM_768" | "ML_KEM_1024" => &["ENCAPSULATE_DECAPSULATE"],
                "HMAC_224" | "HMAC_256" | "HMAC_384" | "HMAC_512" => &["GENERATE_VERIFY_MAC"],
                _ => &[],
            };
            assert_eq!(usages(*spec), expected, "{spec}");
        }
    }

    #[test]
    fn lists_that_do_not_apply_are_absent() {
        let json = serde_json::to_value(Algorithms::of(KeySpec::EccNistP256, KeyUsage::KeyAgreement)).expect("JSON");
        assert_eq!(json, serde_json::json!({ "KeyAgreementAlgorithms": ["ECDH"] }));
    }

    #[test]
    fn pair_specs_are_key_specs() {
        for spec in DataKeyPairSpec::ALL {
            let key: KeySpec = spec.as_str().parse().expect("a key spec too");
            assert_eq!(key.material(), spec.pair().map(MaterialKind::Pair));
        }
    }
}
