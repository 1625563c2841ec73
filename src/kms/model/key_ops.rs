//! Requests and responses of the management operations. A request is built with `..Default::default()`: later
//! operations and options add members, they change none.

use serde::Serialize;

use super::key::*;
use super::serial;
use crate::types::{KeyArn, Timestamp};

/// `CreateKey`.
#[derive(Debug, Clone, Default)]
pub struct CreateKeyRequest {
    /// 0 to 8192 characters.
    pub description: String,
    /// Required for all keys but symmetric ones.
    pub key_usage: Option<KeyUsage>,
    /// Default `SYMMETRIC_DEFAULT`.
    pub key_spec: Option<KeySpec>,
    /// Old name of `key_spec`; not together with it.
    pub customer_master_key_spec: Option<KeySpec>,
    /// Default `AWS_KMS`.
    pub origin: Option<Origin>,
    /// A key policy; the default policy if absent.
    pub policy: Option<String>,
    /// Also take a policy that keeps the caller from changing it later.
    pub bypass_policy_lockout_safety_check: bool,
    /// Up to 50.
    pub tags: Vec<Tag>,
    /// Whether to make a multi-Region primary.
    pub multi_region: bool,
    /// Where the material will live; with origin `AWS_CLOUDHSM` only, and then required.
    pub custom_key_store_id: Option<String>,
}

/// Answer of `CreateKey`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateKeyResponse {
    /// The new key.
    pub key_metadata: KeyMetadata,
}

/// `DescribeKey`.
#[derive(Debug, Clone, Default)]
pub struct DescribeKeyRequest {
    /// Key id, key ARN, alias name or alias ARN.
    pub key_id: String,
    /// Up to 10 grant tokens.
    pub grant_tokens: Vec<String>,
}

/// Answer of `DescribeKey`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DescribeKeyResponse {
    /// The key.
    pub key_metadata: KeyMetadata,
}

/// `ListKeys`.
#[derive(Debug, Clone, Default)]
pub struct ListKeysRequest {
    /// Whose keys; none named is the account's own. Nobody shares keys by RAM here.
    pub resource_owners: Option<Vec<ResourceOwner>>,
    /// 1 to 1000, default 100.
    pub limit: Option<u32>,
    /// `next_marker` of the answer before.
    pub marker: Option<String>,
}

/// One row of `ListKeys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyListEntry {
    /// The bare key id.
    pub key_id: String,
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_arn: KeyArn,
}

/// Answer of `ListKeys`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListKeysResponse {
    /// Keys of the caller's account and Region.
    pub keys: Vec<KeyListEntry>,
    /// For the next call; only when truncated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// Whether more follow.
    pub truncated: bool,
}

/// `CreateAlias`.
#[derive(Debug, Clone, Default)]
pub struct CreateAliasRequest {
    /// `alias/` and 1 to 250 of `a-zA-Z0-9:/_-`.
    pub alias_name: String,
    /// Key id or key ARN.
    pub target_key_id: String,
}

/// `UpdateAlias`.
#[derive(Debug, Clone, Default)]
pub struct UpdateAliasRequest {
    /// An alias that exists.
    pub alias_name: String,
    /// Key id or key ARN.
    pub target_key_id: String,
}

/// `DeleteAlias`.
#[derive(Debug, Clone, Default)]
pub struct DeleteAliasRequest {
    /// The alias.
    pub alias_name: String,
}

/// `ListAliases`.
#[derive(Debug, Clone, Default)]
pub struct ListAliasesRequest {
    /// Only the aliases of this key: key id or key ARN.
    pub key_id: Option<String>,
    /// 1 to 1000, default 50.
    pub limit: Option<u32>,
    /// `next_marker` of the answer before.
    pub marker: Option<String>,
}

/// One row of `ListAliases`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AliasListEntry {
    /// `alias/...`.
    pub alias_name: String,
    /// `arn:aws:kms:<region>:<account>:alias/...`.
    pub alias_arn: String,
    /// The bare id of its key.
    pub target_key_id: String,
    /// When it was created.
    #[serde(serialize_with = "serial::time")]
    pub creation_date: Timestamp,
    /// When it was last pointed at another key.
    #[serde(serialize_with = "serial::time")]
    pub last_updated_date: Timestamp,
}

/// Answer of `ListAliases`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListAliasesResponse {
    /// Aliases of the caller's account and Region.
    pub aliases: Vec<AliasListEntry>,
    /// For the next call; only when truncated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// Whether more follow.
    pub truncated: bool,
}

/// A request that names a key and nothing else: `EnableKey`, `DisableKey`, `CancelKeyDeletion`,
/// `DisableKeyRotation`, `GetKeyRotationStatus`, `RotateKeyOnDemand`.
#[derive(Debug, Clone, Default)]
pub struct KeyIdRequest {
    /// Key id or key ARN.
    pub key_id: String,
}

impl From<&str> for KeyIdRequest {
    fn from(key_id: &str) -> Self {
        Self { key_id: key_id.to_owned() }
    }
}

/// An answer that names a key and nothing else: `CancelKeyDeletion`, `RotateKeyOnDemand`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyIdResponse {
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
}

/// `ScheduleKeyDeletion`.
#[derive(Debug, Clone, Default)]
pub struct ScheduleKeyDeletionRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// 7 to 30, default 30.
    pub pending_window_in_days: Option<u32>,
}

/// Answer of `ScheduleKeyDeletion`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ScheduleKeyDeletionResponse {
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// When the material is destroyed.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serial::opt_time")]
    pub deletion_date: Option<Timestamp>,
    /// `PendingDeletion`.
    pub key_state: KeyState,
    /// The window as it counts.
    pub pending_window_in_days: u32,
}

/// `EnableKeyRotation`.
#[derive(Debug, Clone, Default)]
pub struct EnableKeyRotationRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// 90 to 2560, default 365.
    pub rotation_period_in_days: Option<u32>,
}

/// Answer of `GetKeyRotationStatus`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetKeyRotationStatusResponse {
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// Whether the key rotates by itself.
    pub key_rotation_enabled: bool,
    /// Days between rotations; only when enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation_period_in_days: Option<u32>,
    /// The next automatic rotation; only when enabled.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serial::opt_time")]
    pub next_rotation_date: Option<Timestamp>,
    /// While an on-demand rotation runs; rotations here are instantaneous, so always absent.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serial::opt_time")]
    pub on_demand_rotation_start_date: Option<Timestamp>,
}

/// `ListKeyRotations`.
#[derive(Debug, Clone, Default)]
pub struct ListKeyRotationsRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// Default `ROTATIONS_ONLY`.
    pub include_key_material: Option<IncludeKeyMaterial>,
    /// 1 to 1000, default 100.
    pub limit: Option<u32>,
    /// `next_marker` of the answer before.
    pub marker: Option<String>,
}

/// One row of `ListKeyRotations`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RotationsListEntry {
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// The material that became current: 64 hex digits.
    pub key_material_id: String,
    /// Of imported material; only with `ALL_KEY_MATERIAL`, as the four that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_material_description: Option<String>,
    /// Whether imported material is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import_state: Option<ImportState>,
    /// Place in the key's history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_material_state: Option<KeyMaterialState>,
    /// Whether imported material that is there expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration_model: Option<ExpirationModel>,
    /// When imported material expires.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serial::opt_time")]
    pub valid_to: Option<Timestamp>,
    /// When it became current; absent for the first material.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serial::opt_time")]
    pub rotation_date: Option<Timestamp>,
    /// What started the rotation; absent for the first material.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation_type: Option<RotationType>,
}

/// Answer of `ListKeyRotations`, newest last.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListKeyRotationsResponse {
    /// The history.
    pub rotations: Vec<RotationsListEntry>,
    /// For the next call; only when truncated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// Whether more follow.
    pub truncated: bool,
}

/// `TagResource`.
#[derive(Debug, Clone, Default)]
pub struct TagResourceRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// Added, or replaced where the tag key exists.
    pub tags: Vec<Tag>,
}

/// `UntagResource`.
#[derive(Debug, Clone, Default)]
pub struct UntagResourceRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// Tags that are not there are no error.
    pub tag_keys: Vec<String>,
}

/// `ListResourceTags`.
#[derive(Debug, Clone, Default)]
pub struct ListResourceTagsRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// 1 to 50, default 50.
    pub limit: Option<u32>,
    /// `next_marker` of the answer before.
    pub marker: Option<String>,
}

/// Answer of `ListResourceTags`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListResourceTagsResponse {
    /// The tags.
    pub tags: Vec<Tag>,
    /// For the next call; only when truncated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// Whether more follow.
    pub truncated: bool,
}

/// `UpdateKeyDescription`.
#[derive(Debug, Clone, Default)]
pub struct UpdateKeyDescriptionRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// 0 to 8192 characters.
    pub description: String,
}
