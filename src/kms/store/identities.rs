//! Rows of identities: users and roles with their policies, and their access keys.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::crypto::secret::SecretKey;
use crate::kms::model::{Principal, nanos};
use crate::types::Timestamp;

/// Characters of a secret access key, as AWS's have.
pub const SECRET_LEN: usize = 40;

/// A user or role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalRecord {
    pub arn: String,
    #[serde(with = "nanos")]
    pub created: Timestamp,
    /// Identity policies by name, as they were put.
    pub policies: BTreeMap<String, String>,
}

/// A user or role in memory.
#[derive(Debug)]
pub struct PrincipalEntry {
    pub record: PrincipalRecord,
    pub principal: Principal,
}

impl PrincipalEntry {
    /// `None` if the record's ARN is none of a principal.
    pub fn new(record: PrincipalRecord) -> Option<Self> {
        let principal = record.arn.parse().ok()?;
        Some(Self { record, principal })
    }
}

/// An access key; its secret is sealed beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKeyRecord {
    pub access_key_id: String,
    /// ARN of the user or role that it belongs to.
    pub principal: String,
    #[serde(with = "nanos")]
    pub created: Timestamp,
}

/// An access key in memory.
#[derive(Debug)]
pub struct AccessKey {
    pub record: AccessKeyRecord,
    pub secret: SecretKey<SECRET_LEN>,
}
