//! Key policies and grants.

use std::cell::RefCell;

use super::input::{Member, Problems, object};
use super::operations;
use crate::kms::json::Json;
use crate::kms::model::*;

operations! {
    GetKeyPolicy: Quick = get_key_policy(GetKeyPolicyRequest { key_id: required, policy_name: optional });
    PutKeyPolicy: Changes = put_key_policy(PutKeyPolicyRequest {
        key_id: required, policy_name: optional, policy: required, bypass_policy_lockout_safety_check: or_default,
    });
    ListKeyPolicies: Quick = list_key_policies(ListKeyPoliciesRequest {
        key_id: required, limit: optional, marker: optional,
    });
    CreateGrant: Changes = create_grant(CreateGrantRequest {
        key_id: required, grantee_principal: optional, retiring_principal: optional, operations: required,
        constraints: optional, grant_tokens: or_default, name: optional, dry_run: or_default,
        grantee_service_principal: optional, retiring_service_principal: optional,
    });
    ListGrants: Slow = list_grants(ListGrantsRequest {
        key_id: required, grant_id: optional, grantee_principal: optional, grantee_service_principal: optional,
        limit: optional, marker: optional,
    });
    ListRetirableGrants: Slow = list_retirable_grants(ListRetirableGrantsRequest {
        retiring_principal: optional, retiring_service_principal: optional, limit: optional, marker: optional,
    });
    RetireGrant: Changes = retire_grant(RetireGrantRequest {
        grant_token: optional, key_id: optional, grant_id: optional, dry_run: or_default,
    });
    RevokeGrant: Changes = revoke_grant(RevokeGrantRequest {
        key_id: required, grant_id: required, dry_run: or_default,
    });
}

impl Member for GrantConstraints {
    fn read(json: &Json<'_>, path: &str, problems: &RefCell<Problems>) -> Option<Self> {
        object(json, path, problems, |input| {
            let subset = input.optional("encryption_context_subset");
            let equals = input.optional("encryption_context_equals");
            let source_arn = input.optional("source_arn");
            let (encryption_context_subset, encryption_context_equals) = (subset?, equals?);
            Some(Self { encryption_context_subset, encryption_context_equals, source_arn: source_arn? })
        })
    }
}
