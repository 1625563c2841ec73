//! The last use of a key.

use serde::Serialize;

use super::serial;
use crate::kms::usage::LastUsage;
use crate::types::{KeyArn, Timestamp};

/// Answer of `GetKeyLastUsage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetKeyLastUsageResponse {
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub key_id: KeyArn,
    /// Empty if the key has not been used since uses are noted.
    pub key_last_usage: KeyLastUsageData,
    /// Since when uses are noted, or the key exists, whichever is later.
    #[serde(serialize_with = "serial::time")]
    pub tracking_start_date: Timestamp,
    /// When the key was created.
    #[serde(serialize_with = "serial::time")]
    pub key_creation_date: Timestamp,
}

/// The last successful cryptographic operation with a key; all members are absent if there was none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyLastUsageData {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serial::opt_time")]
    pub timestamp: Option<Timestamp>,
    /// `eventID` of its audit record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud_trail_event_id: Option<String>,
    /// Id of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms_request_id: Option<String>,
}

impl From<LastUsage> for KeyLastUsageData {
    fn from(usage: LastUsage) -> Self {
        Self {
            operation: Some(usage.operation),
            timestamp: Some(usage.time),
            cloud_trail_event_id: Some(usage.event_id),
            kms_request_id: Some(usage.request_id),
        }
    }
}
