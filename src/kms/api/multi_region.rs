//! Multi-Region keys.

use super::operations;
use crate::kms::model::*;

operations! {
    ReplicateKey: Changes = replicate_key(ReplicateKeyRequest {
        key_id: required, replica_region: required, policy: optional, bypass_policy_lockout_safety_check: or_default,
        description: or_default, tags: or_default,
    });
    UpdatePrimaryRegion: Changes = update_primary_region(UpdatePrimaryRegionRequest {
        key_id: required, primary_region: required,
    });
}
