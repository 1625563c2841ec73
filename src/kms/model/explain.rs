//! Why a request would be allowed or denied.

use serde::Serialize;

use crate::types::EncryptionContext;

/// A request to explain; nothing is done and nothing is recorded.
#[derive(Debug, Clone, Default)]
pub struct ExplainRequest {
    /// Key id, key ARN, alias name or alias ARN; absent for operations that are about no key.
    pub key_id: Option<String>,
    /// The permission, with `kms:` or without: `Decrypt`, `ReEncryptFrom`.
    pub action: String,
    /// The encryption context that the request would have.
    pub encryption_context: EncryptionContext,
    /// Other condition keys that the request would give values to.
    pub conditions: Vec<(String, String)>,
}

/// The decision about a request and how it came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Explanation {
    /// Whether policies and grants allow it; to retire grants, whether they allow it for one of the key's. The key's state
    /// and other conditions are not looked at.
    pub allowed: bool,
    /// Who asks.
    pub principal: String,
    /// `kms:...`.
    pub action: String,
    /// ARN of the key, or `*`.
    pub resource: String,
    /// What decided, in words.
    pub reason: String,
    /// Every statement and grant that was judged, in order.
    pub steps: Vec<ExplainedStep>,
}

/// One statement or grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExplainedStep {
    /// `key policy`, `identity policy NAME` or `grant ID`.
    pub source: String,
    /// Place of the statement in its policy, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement: Option<usize>,
    /// The statement's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// `Allow` or `Deny`.
    pub effect: &'static str,
    /// Whether it applies to the request.
    pub applies: bool,
    /// Why, or how.
    pub outcome: String,
}
