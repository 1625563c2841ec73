//! Policies: the documents of keys and identities, the terms of grants, and what follows from them (KMS.md section 8).
//!
//! Nothing here knows of a store. A [`Policy`] is parsed once; a [`Request`] says who wants to do what; [`decide`] says
//! whether it is allowed and why, and tells whoever wants to know ([`Step`]) how every statement was judged.

mod condition;
mod decide;
mod document;
mod grant;
mod pattern;
mod principal;
mod variable;

pub use decide::{Candidate, Decision, KeyPolicy, Outcome, Question, Reason, Refusal, Step, Subject, decide};
pub use document::{Effect, Kind, Policy, Relation, Statement};
pub use grant::{GrantRequest, Terms, is_principal, reach};
pub use principal::Reach;

use std::borrow::Cow;

use crate::kms::model::Principal;

/// Who wants to do what with which resource.
pub struct Request<'a> {
    /// Who.
    pub principal: &'a Principal,
    /// Without `kms:`.
    pub action: &'a str,
    /// An ARN, or `*` for operations that have no resource.
    pub resource: &'a str,
    /// What conditions and variables look at.
    pub attributes: &'a dyn Attributes,
}

/// What conditions look at.
pub trait Attributes {
    /// The values of a condition key, which is given in lower case; none if the request has no such key.
    fn values(&self, key: &str) -> Vec<Cow<'_, str>>;
}

/// AWS's identity policy of this name: everything that the owners of keys leave to identity policies.
pub const ADMINISTRATOR_ACCESS: (&str, &str) =
    ("AdministratorAccess", r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#);

/// The default key policy of an account, byte for byte AWS's.
pub fn default_document(account: &str) -> String {
    format!(
        "{{\"Version\":\"2012-10-17\",\"Id\":\"key-default-1\",\"Statement\":[{{\"Sid\":\"Enable IAM User \
         Permissions\",\"Effect\":\"Allow\",\"Principal\":{{\"AWS\":\"arn:aws:iam::{account}:root\"}},\
         \"Action\":\"kms:*\",\"Resource\":\"*\"}}]}}"
    )
}

/// The policy of the AWS managed key of `service`, for example `kmsfs` (KMS.md section 9).
pub fn managed_document(account: &str, region: &str, service: &str) -> String {
    let condition = |key: &str, value: &str| format!("\"kms:{key}\":\"{value}\"");
    let through = condition("ViaService", &format!("{service}.{region}.local"));
    format!(
        "{{\"Version\":\"2012-10-17\",\"Id\":\"auto-{service}-1\",\"Statement\":[{{\"Sid\":\"Allow access through \
         {service} for all principals in the account that are authorized to use {service}\",\"Effect\":\"Allow\",\
         \"Principal\":{{\"AWS\":\"*\"}},\"Action\":[\"kms:Encrypt\",\"kms:Decrypt\",\"kms:ReEncrypt*\",\
         \"kms:GenerateDataKey*\",\"kms:CreateGrant\",\"kms:DescribeKey\"],\"Resource\":\"*\",\"Condition\":\
         {{\"StringEquals\":{{{},{through}}}}}}},{{\"Sid\":\"Allow direct access to key metadata to the \
         account\",\"Effect\":\"Allow\",\"Principal\":{{\"AWS\":\"arn:aws:iam::{account}:root\"}},\"Action\":\
         [\"kms:Describe*\",\"kms:Get*\",\"kms:List*\",\"kms:RevokeGrant\"],\"Resource\":\"*\"}}]}}",
        condition("CallerAccount", account)
    )
}

#[cfg(test)]
mod tests;
