//! Requests and responses of key policies and grants (KMS.md section 8).

use serde::{Deserialize, Serialize};

use super::serial;
use super::words::words;
use crate::types::{EncryptionContext, KeyArn, Timestamp};

words!(
    /// An operation that a grant can allow.
    GrantOperation {
        /// `Decrypt`.
        Decrypt = "Decrypt",
        /// `Encrypt`.
        Encrypt = "Encrypt",
        /// `GenerateDataKey`.
        GenerateDataKey = "GenerateDataKey",
        /// `GenerateDataKeyWithoutPlaintext`.
        GenerateDataKeyWithoutPlaintext = "GenerateDataKeyWithoutPlaintext",
        /// `ReEncrypt`, of ciphertext under the key.
        ReEncryptFrom = "ReEncryptFrom",
        /// `ReEncrypt`, to the key.
        ReEncryptTo = "ReEncryptTo",
        /// `Sign`.
        Sign = "Sign",
        /// `Verify`.
        Verify = "Verify",
        /// `GetPublicKey`.
        GetPublicKey = "GetPublicKey",
        /// `CreateGrant`, of grants that allow no more.
        CreateGrant = "CreateGrant",
        /// `RetireGrant`, by the grantee.
        RetireGrant = "RetireGrant",
        /// `DescribeKey`.
        DescribeKey = "DescribeKey",
        /// `GenerateDataKeyPair`.
        GenerateDataKeyPair = "GenerateDataKeyPair",
        /// `GenerateDataKeyPairWithoutPlaintext`.
        GenerateDataKeyPairWithoutPlaintext = "GenerateDataKeyPairWithoutPlaintext",
        /// `GenerateMac`.
        GenerateMac = "GenerateMac",
        /// `VerifyMac`.
        VerifyMac = "VerifyMac",
        /// `DeriveSharedSecret`.
        DeriveSharedSecret = "DeriveSharedSecret",
        /// `Encapsulate`.
        Encapsulate = "Encapsulate",
        /// `Decapsulate`.
        Decapsulate = "Decapsulate",
    }
);

/// What requests under a grant must be like.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GrantConstraints {
    /// The encryption context has these pairs, possibly more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption_context_subset: Option<EncryptionContext>,
    /// The encryption context is exactly this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption_context_equals: Option<EncryptionContext>,
    /// A service calls for this resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_arn: Option<String>,
}

/// `CreateGrant`.
#[derive(Debug, Clone, Default)]
pub struct CreateGrantRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// ARN of who may use the grant; this or `grantee_service_principal`.
    pub grantee_principal: Option<String>,
    /// ARN of who may retire the grant.
    pub retiring_principal: Option<String>,
    /// What it allows.
    pub operations: Vec<GrantOperation>,
    /// What requests must be like.
    pub constraints: Option<GrantConstraints>,
    /// Up to 10 grant tokens.
    pub grant_tokens: Vec<String>,
    /// With a name, an identical request answers the grant that is there.
    pub name: Option<String>,
    /// Only check whether the call would succeed.
    pub dry_run: bool,
    /// A service that may use the grant.
    pub grantee_service_principal: Option<String>,
    /// A service that may retire the grant.
    pub retiring_service_principal: Option<String>,
}

/// Answer of `CreateGrant`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateGrantResponse {
    /// Names the grant to operations that are not to wait for it, and to `RetireGrant`.
    pub grant_token: String,
    /// 64 hex digits.
    pub grant_id: String,
}

/// `ListGrants`.
#[derive(Debug, Clone, Default)]
pub struct ListGrantsRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// Only this grant.
    pub grant_id: Option<String>,
    /// Only grants to this principal.
    pub grantee_principal: Option<String>,
    /// Only grants to this service.
    pub grantee_service_principal: Option<String>,
    /// 1 to 100, default 50.
    pub limit: Option<u32>,
    /// `next_marker` of the answer before.
    pub marker: Option<String>,
}

/// `ListRetirableGrants`.
#[derive(Debug, Clone, Default)]
pub struct ListRetirableGrantsRequest {
    /// A principal of the caller's account.
    pub retiring_principal: Option<String>,
    /// A service.
    pub retiring_service_principal: Option<String>,
    /// 1 to 100, default 50.
    pub limit: Option<u32>,
    /// `next_marker` of the answer before.
    pub marker: Option<String>,
}

/// One grant in a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GrantListEntry {
    /// ARN of the key.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// 64 hex digits.
    pub grant_id: String,
    /// The name that it was created with; empty without one, as AWS answers.
    pub name: String,
    /// When it was created.
    #[serde(serialize_with = "serial::time")]
    pub creation_date: Timestamp,
    /// Who may use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grantee_principal: Option<String>,
    /// Who may retire it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retiring_principal: Option<String>,
    /// The service that may use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grantee_service_principal: Option<String>,
    /// The service that may retire it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retiring_service_principal: Option<String>,
    /// The account that created it.
    pub issuing_account: String,
    /// What it allows.
    pub operations: Vec<GrantOperation>,
    /// What requests must be like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constraints: Option<GrantConstraints>,
}

/// Answer of `ListGrants` and `ListRetirableGrants`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListGrantsResponse {
    /// The grants.
    pub grants: Vec<GrantListEntry>,
    /// For the next call; only when truncated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// Whether more follow.
    pub truncated: bool,
}

/// `RetireGrant`: by token, or by key ARN and grant id.
#[derive(Debug, Clone, Default)]
pub struct RetireGrantRequest {
    /// Token of the grant.
    pub grant_token: Option<String>,
    /// Key ARN.
    pub key_id: Option<String>,
    /// 64 hex digits.
    pub grant_id: Option<String>,
    /// Only check whether the call would succeed.
    pub dry_run: bool,
}

/// `RevokeGrant`.
#[derive(Debug, Clone, Default)]
pub struct RevokeGrantRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// 64 hex digits.
    pub grant_id: String,
    /// Only check whether the call would succeed.
    pub dry_run: bool,
}

/// `GetKeyPolicy`.
#[derive(Debug, Clone, Default)]
pub struct GetKeyPolicyRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// `default`, the only one.
    pub policy_name: Option<String>,
}

/// Answer of `GetKeyPolicy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetKeyPolicyResponse {
    /// The document as it was put.
    pub policy: String,
    /// `default`.
    pub policy_name: String,
}

/// `PutKeyPolicy`.
#[derive(Debug, Clone, Default)]
pub struct PutKeyPolicyRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// `default`, the only one.
    pub policy_name: Option<String>,
    /// Up to 32,768 bytes.
    pub policy: String,
    /// Also take a policy that keeps the caller from changing it later.
    pub bypass_policy_lockout_safety_check: bool,
}

/// `ListKeyPolicies`.
#[derive(Debug, Clone, Default)]
pub struct ListKeyPoliciesRequest {
    /// Key id or key ARN.
    pub key_id: String,
    /// 1 to 1000, default 100.
    pub limit: Option<u32>,
    /// `next_marker` of the answer before.
    pub marker: Option<String>,
}

/// Answer of `ListKeyPolicies`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListKeyPoliciesResponse {
    /// `default`.
    pub policy_names: Vec<String>,
    /// For the next call; only when truncated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// Whether more follow.
    pub truncated: bool,
}
