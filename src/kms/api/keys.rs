//! Keys: creation, description, states, deletion.

use super::operations;
use crate::kms::model::*;

operations! {
    CreateKey: Changes = create_key(CreateKeyRequest {
        description: or_default, key_usage: optional, key_spec: optional, customer_master_key_spec: optional,
        origin: optional, policy: optional, bypass_policy_lockout_safety_check: or_default, tags: or_default,
        multi_region: or_default, custom_key_store_id: optional,
    });
    DescribeKey: Quick = describe_key(DescribeKeyRequest { key_id: required, grant_tokens: or_default });
    ListKeys: Slow = list_keys(ListKeysRequest {
        resource_owners: optional, limit: optional, marker: optional,
    });
    UpdateKeyDescription: Changes = update_key_description(UpdateKeyDescriptionRequest {
        key_id: required, description: required,
    });
    EnableKey: Changes = enable_key(KeyIdRequest { key_id: required });
    DisableKey: Changes = disable_key(KeyIdRequest { key_id: required });
    ScheduleKeyDeletion: Changes = schedule_key_deletion(ScheduleKeyDeletionRequest {
        key_id: required, pending_window_in_days: optional,
    });
    CancelKeyDeletion: Changes = cancel_key_deletion(KeyIdRequest { key_id: required });
}
