//! Requests and responses of the cryptographic operations. `Plaintext` is never serialised by derive: whoever
//! writes an answer out adds it knowingly.

use serde::Serialize;

use super::key::*;
use super::plaintext::Plaintext;
use super::serial;
use super::spec::DryRunModifier;
use crate::types::{EncryptionContext, KeyArn};

/// `GenerateDataKey` and `GenerateDataKeyWithoutPlaintext`.
#[derive(Debug, Clone, Default)]
pub struct GenerateDataKeyRequest {
    /// Key id, key ARN, alias name or alias ARN.
    pub key_id: String,
    /// Bound to the wrapped key.
    pub encryption_context: EncryptionContext,
    /// Exactly one of this and `number_of_bytes`.
    pub key_spec: Option<DataKeySpec>,
    /// 1 to 1024.
    pub number_of_bytes: Option<u32>,
    /// Up to 10 grant tokens.
    pub grant_tokens: Vec<String>,
    /// Only check whether the call would succeed.
    pub dry_run: bool,
}

/// Answer of `GenerateDataKey`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateDataKeyResponse {
    /// The wrapped data key.
    #[serde(serialize_with = "serial::blob")]
    pub ciphertext_blob: Vec<u8>,
    /// The data key.
    #[serde(skip)]
    pub plaintext: Plaintext,
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// The material that wrapped it.
    pub key_material_id: String,
}

/// Answer of `GenerateDataKeyWithoutPlaintext`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GenerateDataKeyWithoutPlaintextResponse {
    /// The wrapped data key.
    #[serde(serialize_with = "serial::blob")]
    pub ciphertext_blob: Vec<u8>,
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// The material that wrapped it.
    pub key_material_id: String,
}

/// `Encrypt`.
#[derive(Debug)]
pub struct EncryptRequest {
    /// Key id, key ARN, alias name or alias ARN.
    pub key_id: String,
    /// 1 to 4096 bytes.
    pub plaintext: Plaintext,
    /// Bound to the ciphertext; symmetric keys only.
    pub encryption_context: EncryptionContext,
    /// Default `SYMMETRIC_DEFAULT`.
    pub encryption_algorithm: Option<EncryptionAlgorithm>,
    /// Up to 10 grant tokens.
    pub grant_tokens: Vec<String>,
    /// Only check whether the call would succeed.
    pub dry_run: bool,
}

/// Answer of `Encrypt`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct EncryptResponse {
    /// The ciphertext.
    #[serde(serialize_with = "serial::blob")]
    pub ciphertext_blob: Vec<u8>,
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// As used.
    pub encryption_algorithm: EncryptionAlgorithm,
}

/// `Decrypt`.
#[derive(Debug, Clone, Default)]
pub struct DecryptRequest {
    /// 1 to 6144 bytes; only a dry run may be without it.
    pub ciphertext_blob: Option<Vec<u8>>,
    /// Exactly that of the encryption.
    pub encryption_context: EncryptionContext,
    /// If given, the blob must be a ciphertext of this key. Asymmetric keys must be named.
    pub key_id: Option<String>,
    /// Default `SYMMETRIC_DEFAULT`.
    pub encryption_algorithm: Option<EncryptionAlgorithm>,
    /// Up to 10 grant tokens.
    pub grant_tokens: Vec<String>,
    /// Only check whether the call would succeed.
    pub dry_run: bool,
    /// What the dry run leaves out.
    pub dry_run_modifiers: Vec<DryRunModifier>,
}

/// Answer of `Decrypt`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DecryptResponse {
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// What was encrypted.
    #[serde(skip)]
    pub plaintext: Plaintext,
    /// As used.
    pub encryption_algorithm: EncryptionAlgorithm,
    /// The material that the blob was made with; symmetric keys only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_material_id: Option<String>,
}

/// `ReEncrypt`.
#[derive(Debug, Clone, Default)]
pub struct ReEncryptRequest {
    /// 1 to 6144 bytes; only a dry run may be without it.
    pub ciphertext_blob: Option<Vec<u8>>,
    /// Exactly that of the encryption.
    pub source_encryption_context: EncryptionContext,
    /// If given, the blob must be a ciphertext of this key. Asymmetric keys must be named.
    pub source_key_id: Option<String>,
    /// Key id, key ARN, alias name or alias ARN.
    pub destination_key_id: String,
    /// Bound to the new ciphertext.
    pub destination_encryption_context: EncryptionContext,
    /// Default `SYMMETRIC_DEFAULT`.
    pub source_encryption_algorithm: Option<EncryptionAlgorithm>,
    /// Default `SYMMETRIC_DEFAULT`.
    pub destination_encryption_algorithm: Option<EncryptionAlgorithm>,
    /// Up to 10 grant tokens.
    pub grant_tokens: Vec<String>,
    /// Only check whether the call would succeed.
    pub dry_run: bool,
    /// What the dry run leaves out.
    pub dry_run_modifiers: Vec<DryRunModifier>,
}

/// Answer of `ReEncrypt`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ReEncryptResponse {
    /// The new ciphertext.
    #[serde(serialize_with = "serial::blob")]
    pub ciphertext_blob: Vec<u8>,
    /// ARN of the key it was under.
    #[serde(serialize_with = "serial::arn")]
    pub source_key_id: KeyArn,
    /// ARN of the key it is under.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// As used.
    pub source_encryption_algorithm: EncryptionAlgorithm,
    /// As used.
    pub destination_encryption_algorithm: EncryptionAlgorithm,
    /// The material it was under; symmetric keys only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_key_material_id: Option<String>,
    /// The material it is under; symmetric keys only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_key_material_id: Option<String>,
}

/// `GenerateRandom`.
#[derive(Debug, Clone, Default)]
pub struct GenerateRandomRequest {
    /// 1 to 1024, required.
    pub number_of_bytes: Option<u32>,
    /// The custom key store whose token makes them.
    pub custom_key_store_id: Option<String>,
}

/// Answer of `GenerateRandom`.
#[derive(Debug, Serialize)]
pub struct GenerateRandomResponse {
    /// The bytes.
    #[serde(skip)]
    pub plaintext: Plaintext,
}
