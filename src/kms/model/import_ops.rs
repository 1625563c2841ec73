//! Requests and responses of imported key material (KMS.md section 12).

use serde::Serialize;

use super::key::*;
use super::serial;
use crate::types::{KeyArn, Timestamp};

/// `GetParametersForImport`.
#[derive(Debug, Clone)]
pub struct GetParametersForImportRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// How the material will be wrapped.
    pub wrapping_algorithm: WrappingAlgorithm,
    /// Kind of the wrapping key.
    pub wrapping_key_spec: WrappingKeySpec,
}

/// Answer of `GetParametersForImport`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetParametersForImportResponse {
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// To be given to `ImportKeyMaterial`, with material wrapped by this wrapping key only.
    #[serde(serialize_with = "serial::blob")]
    pub import_token: Vec<u8>,
    /// The wrapping key: DER SubjectPublicKeyInfo.
    #[serde(serialize_with = "serial::blob")]
    pub public_key: Vec<u8>,
    /// End of the token and of the wrapping key.
    #[serde(serialize_with = "serial::time")]
    pub parameters_valid_to: Timestamp,
}

/// `ImportKeyMaterial`.
#[derive(Debug, Clone, Default)]
pub struct ImportKeyMaterialRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// From `GetParametersForImport` for the same key; 1 to 6144 bytes.
    pub import_token: Vec<u8>,
    /// The material, wrapped with the public key that came with the token; 1 to 6144 bytes.
    pub encrypted_key_material: Vec<u8>,
    /// When the material expires: in the future, at most 365 days ahead.
    pub valid_to: Option<Timestamp>,
    /// Default `KEY_MATERIAL_EXPIRES`, which needs `valid_to`.
    pub expiration_model: Option<ExpirationModel>,
    /// Symmetric keys only. Default: new material at the first import, existing material afterwards.
    pub import_type: Option<ImportType>,
    /// 0 to 256 characters; symmetric keys only.
    pub key_material_description: Option<String>,
    /// Id of the material that is imported again.
    pub key_material_id: Option<String>,
}

/// `DeleteImportedKeyMaterial`.
#[derive(Debug, Clone, Default)]
pub struct DeleteImportedKeyMaterialRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// Default: the current material.
    pub key_material_id: Option<String>,
}

/// Answer of `ImportKeyMaterial` and `DeleteImportedKeyMaterial`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyMaterialResponse {
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// The material imported or deleted; symmetric keys only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_material_id: Option<String>,
}
