//! Who may do what. Every key has the default key policy: the owner's account, whose administrators its principals are.
//! AWS managed keys have the fixed policy of KMS.md section 9.

use std::borrow::Cow;

use super::call::Call;
use crate::kms::KmsError;
use crate::kms::model::{Caller, KeyManager};
use crate::kms::store::{KeyEntry, Snapshot};
use crate::types::EncryptionContext;

/// Operations that a service may do with its AWS managed key.
const FOR_SERVICE: [&str; 8] = [
    "Encrypt",
    "Decrypt",
    "ReEncryptFrom",
    "ReEncryptTo",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "CreateGrant",
    "DescribeKey",
];

/// What a call wants to do with a key, and what its request says that policies and grants look at.
#[derive(Debug, Clone)]
pub struct Access<'a> {
    /// The permission without `kms:`, for example `ReEncryptFrom`.
    pub action: &'a str,
    pub tokens: &'a [String],
    pub context: Option<&'a EncryptionContext>,
    /// Condition keys and their values; a key with several values stands here several times.
    pub attributes: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Access<'a> {
    pub fn to(action: &'a str) -> Self {
        Self { action, tokens: &[], context: None, attributes: Vec::new() }
    }

    /// The grant tokens of the request.
    pub fn tokens(self, tokens: &'a [String]) -> Self {
        Self { tokens, ..self }
    }

    /// The encryption context of the request.
    pub fn context(self, context: &'a EncryptionContext) -> Self {
        Self { context: Some(context), ..self }
    }

    /// A condition key that the request gives a value to, for example `kms:SigningAlgorithm`.
    pub fn with(mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) -> Self {
        self.attributes.push((key.into(), value.into()));
        self
    }
}

impl<'a> From<&'a str> for Access<'a> {
    fn from(action: &'a str) -> Self {
        Self::to(action)
    }
}

impl Call<'_> {
    /// Allows `access` to `key`, or refuses it. The call's record names the key either way.
    pub fn authorise(&mut self, _snapshot: &Snapshot, access: &Access<'_>, key: &KeyEntry) -> Result<(), KmsError> {
        let action = access.action;
        self.concerns(key);
        if self.caller.account().as_str() != key.record.account {
            return Err(denied(self.caller, action, key.arn.as_str()));
        }
        if key.record.manager == KeyManager::Customer {
            return Ok(());
        }
        let service = format!("{}.{}.local", key.record.service.as_deref().unwrap_or(""), key.record.region);
        let through_service = self.caller.service() == Some(&service) && FOR_SERVICE.contains(&action);
        let viewing = ["Describe", "Get", "List"].iter().any(|verb| action.starts_with(verb));
        if through_service || viewing { Ok(()) } else { Err(denied(self.caller, action, key.arn.as_str())) }
    }
}

/// The default key policy: the account, and by it the identity policies of its users and roles (KMS.md section 8).
pub fn default_policy(account: &str) -> String {
    format!(
        "{{\"Version\":\"2012-10-17\",\"Id\":\"key-default-1\",\"Statement\":[{{\"Sid\":\"Enable IAM User Permissions\",\
         \"Effect\":\"Allow\",\"Principal\":{{\"AWS\":\"arn:aws:iam::{account}:root\"}},\"Action\":\"kms:*\",\
         \"Resource\":\"*\"}}]}}"
    )
}

/// AWS's refusal; also for keys of other accounts that do not exist, so that existence does not leak.
pub fn denied(caller: &Caller, action: &str, resource: &str) -> KmsError {
    KmsError::AccessDenied(format!(
        "User: {} is not authorized to perform: kms:{action} on resource: {resource} because no resource-based policy \
         allows the kms:{action} action",
        caller.principal()
    ))
}
