//! Identities as the command line and the endpoint see them.

use serde::Serialize;
use zeroize::Zeroizing;

use super::{Principal, Tag, serial};
use crate::types::Timestamp;

/// A user or role of the home.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Identity {
    /// `arn:aws:iam::<account>:user/<name>` or `...:role/<name>`.
    pub arn: String,
    /// When it was made.
    #[serde(serialize_with = "serial::time")]
    pub create_date: Timestamp,
    /// Names of its identity policies.
    pub policy_names: Vec<String>,
    /// Ids of its access keys.
    pub access_key_ids: Vec<String>,
    /// Its tags.
    pub tags: Vec<Tag>,
}

/// An access key as it is shown once.
#[derive(Debug)]
pub struct NewAccessKey {
    /// `AKIA` and 16 characters.
    pub access_key_id: String,
    /// 40 characters.
    pub secret_access_key: Zeroizing<String>,
    /// Whom it authenticates.
    pub principal: Principal,
}

/// What a signature is checked with, and who signed if it is right.
pub struct Credentials {
    /// The user or role.
    pub principal: Principal,
    /// The secret access key, 40 characters.
    pub secret_access_key: Zeroizing<String>,
}
