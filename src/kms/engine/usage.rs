//! When a key was last used.

use serde_json::json;

use super::Engine;
use super::call::Effect::*;
use super::check::members;
use super::resolve::Forms;
use crate::kms::KmsError;
use crate::kms::model::*;

impl Engine {
    /// `GetKeyLastUsage`: the last successful cryptographic operation with the key. Uses in other processes appear some
    /// seconds later.
    pub fn get_key_last_usage(
        &self,
        caller: &Caller,
        request: KeyIdRequest,
    ) -> Result<GetKeyLastUsageResponse, KmsError> {
        self.call(caller, ("GetKeyLastUsage", ReadOnly), json!({ "keyId": request.key_id }), |call| {
            members!(request: key_id)?;
            let key = call.key(&*call.snapshot()?, &request.key_id, Forms::Key, "GetKeyLastUsage")?;
            let (usage, since) = call.shared.audit.last_usage(&key.arn)?;
            let created = key.record.created;
            Ok(GetKeyLastUsageResponse {
                key_id: key.arn.clone(),
                key_last_usage: usage.map(KeyLastUsageData::from).unwrap_or_default(),
                tracking_start_date: since.max(created),
                key_creation_date: created,
            })
        })
    }
}
