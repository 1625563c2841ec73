//! When a key was last used.

use std::time::Duration;

use serde_json::json;

use super::authorise::Access;
use super::call::{Call, Effect::*};
use super::check::members;
use super::resolve::{Forms, find};
use super::{Engine, Shared};
use crate::kms::KmsError;
use crate::kms::model::*;
use crate::kms::store::KeyEntry;
use crate::types::Timestamp;

/// The condition key by which a policy keeps keys that are in use from being disabled or deleted: whole days since the last
/// use; of a key that was not used, since uses are noted, or since it was made if that is later.
pub const UNUSED_DAYS: &str = "kms:TrailingDaysWithoutKeyUsage";
/// The operations that have it.
const ENDINGS: [&str; 2] = ["DisableKey", "ScheduleKeyDeletion"];
const DAY: Duration = Duration::from_secs(24 * 3600);

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

impl Call<'_> {
    /// `access` with what [`UNUSED_DAYS`] says of the key that is named, if it is there.
    pub fn with_last_use<'a>(&self, access: Access<'a>, key_id: &str) -> Result<Access<'a>, KmsError> {
        if !ENDINGS.contains(&access.action) {
            return Ok(access);
        }
        let found = find(self.caller, &*self.snapshot()?, key_id, Forms::Key, access.action);
        Ok(match found {
            Ok(found) => self.shared.with_last_use(access, &found.key, self.now),
            // The call will find the same, and say it.
            Err(_) => access,
        })
    }
}

impl Shared {
    /// `access` to `key` with [`UNUSED_DAYS`], if its operation has that.
    pub fn with_last_use<'a>(&self, access: Access<'a>, key: &KeyEntry, now: Timestamp) -> Access<'a> {
        if !ENDINGS.contains(&access.action) {
            return access;
        }
        let days = match self.audit.last_usage(&key.arn) {
            Ok((usage, since)) => {
                let from = usage.map_or(since.max(key.record.created), |usage| usage.time);
                now.since(from).as_nanos() / DAY.as_nanos()
            }
            Err(error) => {
                // As if it was in use: a policy that protects such keys goes on doing it.
                tracing::error!(%error, key = %key.arn, "the last use of a key is not known");
                0
            }
        };
        access.with(UNUSED_DAYS, days.to_string())
    }
}
