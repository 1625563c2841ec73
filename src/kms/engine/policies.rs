//! Key policies.

use serde_json::json;

use super::Engine;
use super::authorise::Access;
use super::call::{Call, Effect::*};
use super::check::members;
use super::evaluate::{Facts, document, flag};
use super::lifecycle::put;
use super::page::Pager;
use super::resolve::Forms;
use crate::kms::KmsError;
use crate::kms::model::*;
use crate::kms::policy::{Decision, Kind, Policy};
use crate::kms::store::{KeyEntry, Snapshot};

/// Bytes of a key policy (KMS.md section 18).
const MAX_LEN: usize = 32_768;
/// The name of every key policy.
const NAME: &str = "default";

impl Engine {
    /// `GetKeyPolicy`: the document as it was put.
    pub fn get_key_policy(
        &self,
        caller: &Caller,
        request: GetKeyPolicyRequest,
    ) -> Result<GetKeyPolicyResponse, KmsError> {
        let GetKeyPolicyRequest { key_id, policy_name } = request;
        let parameters = json!({ "keyId": key_id, "policyName": policy_name });
        self.call(caller, ("GetKeyPolicy", ReadOnly), parameters, |call| {
            members!(key_id, policy_name)?;
            let access = Access::to("GetKeyPolicy").with("kms:PolicyName", policy_name.as_deref().unwrap_or(NAME));
            let key = call.key(&*call.snapshot()?, &key_id, Forms::Key, access)?;
            if policy_name.is_some_and(|name| name != NAME) {
                return Err(KmsError::NotFound("No such policy exists".into()));
            }
            let policy = document(&key);
            Ok(GetKeyPolicyResponse { policy, policy_name: NAME.into() })
        })
    }

    /// `PutKeyPolicy`.
    pub fn put_key_policy(&self, caller: &Caller, request: PutKeyPolicyRequest) -> Result<(), KmsError> {
        let PutKeyPolicyRequest { key_id, policy_name, policy, bypass_policy_lockout_safety_check: bypass } = request;
        let parameters = json!({
            "keyId": key_id, "policyName": policy_name, "policy": policy, "bypassPolicyLockoutSafetyCheck": bypass,
        });
        let legal = members!(key_id, policy_name, policy).and_then(|()| check_len(&policy));
        let access = Access::to("PutKeyPolicy")
            .with("kms:PolicyName", policy_name.as_deref().unwrap_or(NAME))
            .with("kms:BypassPolicyLockoutSafetyCheck", flag(bypass));
        self.edit_key_as(caller, ("PutKeyPolicy", access), legal, parameters, &key_id, |call, change, key| {
            match policy_name.as_deref() {
                None | Some(NAME) => {}
                Some("AWS_RAM") => {
                    let text = "The AWS_RAM policy can only be managed by the RAM service.";
                    return Err(KmsError::Validation(text.into()));
                }
                Some(_) => return Err(KmsError::Validation("The only valid policy name is default.".into())),
            }
            let parsed = check(&policy)?;
            if !bypass {
                check_lockout(call, change.snapshot(), key, &parsed)?;
            }
            put(change, key, |record| record.policy = Some(policy.clone())).map(drop)
        })
    }

    /// `ListKeyPolicies`: there is one.
    pub fn list_key_policies(
        &self,
        caller: &Caller,
        request: ListKeyPoliciesRequest,
    ) -> Result<ListKeyPoliciesResponse, KmsError> {
        let parameters = json!({ "keyId": request.key_id, "limit": request.limit });
        self.call(caller, ("ListKeyPolicies", ReadOnly), parameters, |call| {
            members!(request: key_id, limit, marker)?;
            let key = call.key(&*call.snapshot()?, &request.key_id, Forms::Key, "ListKeyPolicies")?;
            let marker = request.marker.as_deref();
            let (filter, limit) = (key.arn.as_str(), request.limit);
            let pager = Pager { operation: "ListKeyPolicies", filter, limit, default: 100, marker };
            let page = pager.page(call, std::iter::once((NAME.to_owned(), NAME.to_owned())))?;
            let truncated = page.next.is_some();
            Ok(ListKeyPoliciesResponse { policy_names: page.items, next_marker: page.next, truncated })
        })
    }
}

/// Refuses texts that are too long for policies, whatever they say.
fn check_len(document: &str) -> Result<(), KmsError> {
    if document.len() > MAX_LEN {
        let text = format!("The key policy has {} bytes; the limit is {MAX_LEN} bytes.", document.len());
        return Err(KmsError::LimitExceeded(text));
    }
    Ok(())
}

/// Reads a key policy.
pub fn check(document: &str) -> Result<Policy, KmsError> {
    check_len(document)?;
    Policy::parse(document, Kind::Key).map_err(|error| KmsError::MalformedPolicyDocument(error.to_string()))
}

/// Refuses a policy of `key` under which the caller could not change it again.
pub fn check_lockout(call: &Call<'_>, snapshot: &Snapshot, key: &KeyEntry, policy: &Policy) -> Result<(), KmsError> {
    let access = Access::to("PutKeyPolicy");
    let facts = Facts { snapshot, caller: call.caller, now: call.now, access: &access, key: Some(key) };
    match facts.decide_on_key(policy, None) {
        Decision::Allowed { .. } => Ok(()),
        Decision::Denied(_) => Err(KmsError::MalformedPolicyDocument(
            "The new key policy will not allow you to update the key policy in the future.".into(),
        )),
    }
}
