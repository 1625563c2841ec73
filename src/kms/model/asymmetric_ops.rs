//! Requests and responses of the operations on key pairs and MAC keys.

use serde::Serialize;

use super::key::*;
use super::plaintext::Plaintext;
use super::serial;
use super::spec::*;
use crate::types::{EncryptionContext, KeyArn};

/// `GetPublicKey`.
#[derive(Debug, Clone, Default)]
pub struct GetPublicKeyRequest {
    /// Key id, key ARN, alias name or alias ARN.
    pub key_id: String,
    /// Up to 10 grant tokens.
    pub grant_tokens: Vec<String>,
}

/// Answer of `GetPublicKey`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetPublicKeyResponse {
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// SubjectPublicKeyInfo DER.
    #[serde(serialize_with = "serial::blob")]
    pub public_key: Vec<u8>,
    /// Old name of `key_spec`, same value.
    pub customer_master_key_spec: KeySpec,
    /// The kind of the pair.
    pub key_spec: KeySpec,
    /// What it may be used for.
    pub key_usage: KeyUsage,
    /// What it can be used with.
    #[serde(flatten)]
    pub algorithms: Algorithms,
}

/// `Sign`.
#[derive(Debug)]
pub struct SignRequest {
    /// Key id, key ARN, alias name or alias ARN.
    pub key_id: String,
    /// 1 to 4096 bytes.
    pub message: Vec<u8>,
    /// Default `RAW`.
    pub message_type: Option<MessageType>,
    /// One of the key's.
    pub signing_algorithm: SigningAlgorithm,
    /// Up to 10 grant tokens.
    pub grant_tokens: Vec<String>,
    /// Only check whether the call would succeed.
    pub dry_run: bool,
}

/// Answer of `Sign`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct SignResponse {
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// DER for ECDSA, else as the scheme defines it.
    #[serde(serialize_with = "serial::blob")]
    pub signature: Vec<u8>,
    /// As used.
    pub signing_algorithm: SigningAlgorithm,
}

/// `Verify`.
#[derive(Debug)]
pub struct VerifyRequest {
    /// Key id, key ARN, alias name or alias ARN.
    pub key_id: String,
    /// 1 to 4096 bytes.
    pub message: Vec<u8>,
    /// Default `RAW`.
    pub message_type: Option<MessageType>,
    /// 1 to 6144 bytes.
    pub signature: Vec<u8>,
    /// That of the signature.
    pub signing_algorithm: SigningAlgorithm,
    /// Up to 10 grant tokens.
    pub grant_tokens: Vec<String>,
    /// Only check whether the call would succeed.
    pub dry_run: bool,
}

/// Answer of `Verify`; a wrong signature is `KMSInvalidSignatureException`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct VerifyResponse {
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// Always true.
    pub signature_valid: bool,
    /// As used.
    pub signing_algorithm: SigningAlgorithm,
}

/// `GenerateMac`.
#[derive(Debug)]
pub struct GenerateMacRequest {
    /// Key id, key ARN, alias name or alias ARN.
    pub key_id: String,
    /// 1 to 4096 bytes.
    pub message: Vec<u8>,
    /// That of the key.
    pub mac_algorithm: MacAlgorithm,
    /// Up to 10 grant tokens.
    pub grant_tokens: Vec<String>,
    /// Only check whether the call would succeed.
    pub dry_run: bool,
}

/// Answer of `GenerateMac`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateMacResponse {
    /// The whole MAC.
    #[serde(serialize_with = "serial::blob")]
    pub mac: Vec<u8>,
    /// As used.
    pub mac_algorithm: MacAlgorithm,
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
}

/// `VerifyMac`.
#[derive(Debug)]
pub struct VerifyMacRequest {
    /// Key id, key ARN, alias name or alias ARN.
    pub key_id: String,
    /// 1 to 4096 bytes.
    pub message: Vec<u8>,
    /// That of the key.
    pub mac_algorithm: MacAlgorithm,
    /// 1 to 6144 bytes.
    pub mac: Vec<u8>,
    /// Up to 10 grant tokens.
    pub grant_tokens: Vec<String>,
    /// Only check whether the call would succeed.
    pub dry_run: bool,
}

/// Answer of `VerifyMac`; a wrong MAC is `KMSInvalidMacException`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct VerifyMacResponse {
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// Always true.
    pub mac_valid: bool,
    /// As used.
    pub mac_algorithm: MacAlgorithm,
}

/// `DeriveSharedSecret`.
#[derive(Debug)]
pub struct DeriveSharedSecretRequest {
    /// Key id, key ARN, alias name or alias ARN.
    pub key_id: String,
    /// `ECDH`.
    pub key_agreement_algorithm: KeyAgreementAlgorithm,
    /// The peer's SubjectPublicKeyInfo DER, on the same curve.
    pub public_key: Vec<u8>,
    /// Up to 10 grant tokens.
    pub grant_tokens: Vec<String>,
    /// Only check whether the call would succeed.
    pub dry_run: bool,
}

/// Answer of `DeriveSharedSecret`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeriveSharedSecretResponse {
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// The x coordinate of the shared point: raw, to be fed to a key derivation function.
    #[serde(skip)]
    pub shared_secret: Plaintext,
    /// As used.
    pub key_agreement_algorithm: KeyAgreementAlgorithm,
    /// Where the key's material comes from.
    pub key_origin: Origin,
}

/// `Encapsulate`.
#[derive(Debug)]
pub struct EncapsulateRequest {
    /// Key id, key ARN, alias name or alias ARN.
    pub key_id: String,
    /// `ML_KEM`.
    pub encapsulation_algorithm: EncapsulationAlgorithm,
    /// Up to 10 grant tokens.
    pub grant_tokens: Vec<String>,
    /// Only check whether the call would succeed.
    pub dry_run: bool,
}

/// Answer of `Encapsulate`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct EncapsulateResponse {
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// 32 bytes.
    #[serde(skip)]
    pub shared_secret: Plaintext,
    /// For `Decapsulate`.
    #[serde(serialize_with = "serial::blob")]
    pub shared_secret_ciphertext_blob: Vec<u8>,
    /// As used.
    pub encapsulation_algorithm: EncapsulationAlgorithm,
}

/// `Decapsulate`.
#[derive(Debug)]
pub struct DecapsulateRequest {
    /// Key id, key ARN, alias name or alias ARN.
    pub key_id: String,
    /// As `Encapsulate` or the holder of the public key made it.
    pub shared_secret_ciphertext_blob: Vec<u8>,
    /// `ML_KEM`.
    pub encapsulation_algorithm: EncapsulationAlgorithm,
    /// Up to 10 grant tokens.
    pub grant_tokens: Vec<String>,
    /// Only check whether the call would succeed.
    pub dry_run: bool,
}

/// Answer of `Decapsulate`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DecapsulateResponse {
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// 32 bytes; another secret if the ciphertext was changed.
    #[serde(skip)]
    pub shared_secret: Plaintext,
    /// As used.
    pub encapsulation_algorithm: EncapsulationAlgorithm,
}

/// `GenerateDataKeyPair` and `GenerateDataKeyPairWithoutPlaintext`.
#[derive(Debug)]
pub struct GenerateDataKeyPairRequest {
    /// A symmetric key: key id, key ARN, alias name or alias ARN.
    pub key_id: String,
    /// Bound to the encrypted private key.
    pub encryption_context: EncryptionContext,
    /// The kind of the pair.
    pub key_pair_spec: DataKeyPairSpec,
    /// Up to 10 grant tokens.
    pub grant_tokens: Vec<String>,
    /// Only check whether the call would succeed.
    pub dry_run: bool,
}

/// Answer of `GenerateDataKeyPair`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateDataKeyPairResponse {
    /// The private key, encrypted.
    #[serde(serialize_with = "serial::blob")]
    pub private_key_ciphertext_blob: Vec<u8>,
    /// The private key as PKCS#8 DER.
    #[serde(skip)]
    pub private_key_plaintext: Plaintext,
    /// SubjectPublicKeyInfo DER.
    #[serde(serialize_with = "serial::blob")]
    pub public_key: Vec<u8>,
    /// The ARN of the key that encrypted it.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// As asked for.
    pub key_pair_spec: DataKeyPairSpec,
    /// The material that encrypted it.
    pub key_material_id: String,
}

/// Answer of `GenerateDataKeyPairWithoutPlaintext`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateDataKeyPairWithoutPlaintextResponse {
    /// The private key, encrypted.
    #[serde(serialize_with = "serial::blob")]
    pub private_key_ciphertext_blob: Vec<u8>,
    /// SubjectPublicKeyInfo DER.
    #[serde(serialize_with = "serial::blob")]
    pub public_key: Vec<u8>,
    /// The ARN of the key that encrypted it.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// As asked for.
    pub key_pair_spec: DataKeyPairSpec,
    /// The material that encrypted it.
    pub key_material_id: String,
}
