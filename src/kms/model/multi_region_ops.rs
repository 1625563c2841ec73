//! Requests and responses of multi-Region keys (KMS.md section 13).

use serde::Serialize;

use super::key::{KeyMetadata, Tag};

/// `ReplicateKey`.
#[derive(Debug, Clone, Default)]
pub struct ReplicateKeyRequest {
    /// Key id or key ARN of the primary.
    pub key_id: String,
    /// Where the replica will be.
    pub replica_region: String,
    /// The replica's key policy; the default policy if absent.
    pub policy: Option<String>,
    /// Whether a policy that shuts the caller out is taken all the same.
    pub bypass_policy_lockout_safety_check: bool,
    /// The replica's own: 0 to 8192 characters.
    pub description: String,
    /// The replica's own: up to 50.
    pub tags: Vec<Tag>,
}

/// Answer of `ReplicateKey`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ReplicateKeyResponse {
    /// The replica.
    pub replica_key_metadata: KeyMetadata,
    /// Its key policy.
    pub replica_policy: String,
    /// Its tags.
    pub replica_tags: Vec<Tag>,
}

/// `UpdatePrimaryRegion`.
#[derive(Debug, Clone, Default)]
pub struct UpdatePrimaryRegionRequest {
    /// Key id or key ARN of the present primary.
    pub key_id: String,
    /// Where the replica is that becomes the primary.
    pub primary_region: String,
}
