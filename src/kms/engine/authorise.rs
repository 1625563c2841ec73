//! Who may do what. Every key has the default key policy: the owner's account, whose administrators its principals are.
//! AWS managed keys have the fixed policy of KMS.md section 9.

use super::call::Call;
use crate::kms::KmsError;
use crate::kms::model::{Caller, KeyManager};
use crate::kms::store::KeyEntry;

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

impl Call<'_> {
    /// Allows `action` on `key`, or refuses it. The call's record names the key either way.
    pub fn authorise(&mut self, action: &str, key: &KeyEntry) -> Result<(), KmsError> {
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

/// AWS's refusal; also for keys of other accounts that do not exist, so that existence does not leak.
pub fn denied(caller: &Caller, action: &str, resource: &str) -> KmsError {
    KmsError::AccessDenied(format!(
        "User: {} is not authorized to perform: kms:{action} on resource: {resource} because no resource-based policy \
         allows the kms:{action} action",
        caller.principal()
    ))
}
