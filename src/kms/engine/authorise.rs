//! Who may do what: AWS's answers to what [`policy`](crate::kms::policy) decides.

use std::borrow::Cow;

use data_encoding::BASE64;

use super::Shared;
use super::call::Call;
use super::evaluate::Facts;
use crate::kms::model::Caller;
use crate::kms::policy::{Decision, Reason, Terms};
use crate::kms::store::{KeyEntry, Snapshot};
use crate::kms::{KmsError, seal};
use crate::types::EncryptionContext;

/// What a call wants to do, and what its request says that policies and grants look at.
#[derive(Debug, Clone)]
pub struct Access<'a> {
    /// The permission without `kms:`, for example `ReEncryptFrom`.
    pub action: &'a str,
    pub tokens: &'a [String],
    pub context: Option<&'a EncryptionContext>,
    /// The grant that would be created.
    pub child: Option<Terms<'a>>,
    /// Condition keys and their values; a key with several values stands here several times.
    pub attributes: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Access<'a> {
    pub fn to(action: &'a str) -> Self {
        Self { action, tokens: &[], context: None, child: None, attributes: Vec::new() }
    }

    /// The grant tokens of the request.
    pub fn tokens(self, tokens: &'a [String]) -> Self {
        Self { tokens, ..self }
    }

    /// The encryption context of the request.
    pub fn context(self, context: &'a EncryptionContext) -> Self {
        Self { context: Some(context), ..self }
    }

    /// The grant that the request would create.
    pub fn creating(self, child: Terms<'a>) -> Self {
        Self { child: Some(child), ..self }
    }

    /// A condition key that the request gives a value to, for example `kms:SigningAlgorithm`.
    pub fn with(mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) -> Self {
        self.attributes.push((key.into(), value.into()));
        self
    }

    /// As [`Self::with`], for what the request may leave out.
    pub fn with_some(self, key: &'a str, value: Option<impl Into<Cow<'a, str>>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }
}

impl<'a> From<&'a str> for Access<'a> {
    fn from(action: &'a str) -> Self {
        Self::to(action)
    }
}

impl Call<'_> {
    /// Allows `access` to `key`, or refuses it. The call's record names the key either way.
    pub fn authorise(&mut self, snapshot: &Snapshot, access: &Access<'_>, key: &KeyEntry) -> Result<(), KmsError> {
        self.concerns(key);
        check_tokens(self.shared, access.tokens)?;
        self.decide(snapshot, access, key)
    }

    /// As [`Self::authorise`], for grant tokens that were checked before the key was looked for.
    pub fn authorise_checked(
        &mut self,
        snapshot: &Snapshot,
        access: &Access<'_>,
        key: &KeyEntry,
    ) -> Result<(), KmsError> {
        self.concerns(key);
        self.decide(snapshot, access, key)
    }

    fn decide(&self, snapshot: &Snapshot, access: &Access<'_>, key: &KeyEntry) -> Result<(), KmsError> {
        let facts = Facts { snapshot, caller: self.caller, now: self.now, access, key: Some(key) };
        let policy = self.shared.standard.of(key);
        self.answer(facts.decide_on_key(&policy, None), access.action, key.arn.as_str())
    }

    /// Allows what only identity policies govern: `access` to `resource`, an ARN or `*`.
    pub fn permit<'a>(
        &self,
        snapshot: &Snapshot,
        access: impl Into<Access<'a>>,
        resource: &str,
    ) -> Result<(), KmsError> {
        let access = access.into();
        let facts = Facts { snapshot, caller: self.caller, now: self.now, access: &access, key: None };
        self.answer(facts.decide_by_identity(resource, None), access.action, resource)
    }

    pub fn answer(&self, decision: Decision, action: &str, resource: &str) -> Result<(), KmsError> {
        match decision {
            Decision::Allowed { .. } => Ok(()),
            Decision::Denied(reason) => Err(refusal(self.caller, action, resource, reason)),
        }
    }
}

/// AWS's refusal.
pub fn refusal(caller: &Caller, action: &str, resource: &str, reason: Reason) -> KmsError {
    let action = format!("kms:{action}");
    let reason = reason.text(&action);
    let principal = caller.principal();
    KmsError::AccessDenied(format!(
        "User: {principal} is not authorized to perform: {action} on resource: {resource} {reason}"
    ))
}

/// The refusal for keys of other accounts, whether they exist or not.
pub fn denied(caller: &Caller, action: &str, resource: &str) -> KmsError {
    refusal(caller, action, resource, Reason::NoKeyPolicy)
}

/// Refuses grant tokens that the key manager did not make. Those of grants that are gone are ignored: a grant works
/// without its token, and a token does nothing without its grant.
pub fn check_tokens(shared: &Shared, tokens: &[String]) -> Result<(), KmsError> {
    if tokens.is_empty() {
        return Ok(());
    }
    match tokens.iter().all(|token| open_token(shared, token).is_some()) {
        true => Ok(()),
        false => Err(KmsError::InvalidGrantToken),
    }
}

const TOKEN_SCOPE: &[u8] = b"kmsfs grant token v1";

/// A token of the grant with this row id. No secret: whoever has it needs the grant as well.
pub fn seal_token(shared: &Shared, grant_row: &str) -> String {
    let store = &shared.store;
    BASE64.encode(&seal::seal(store.marker_key(), TOKEN_SCOPE, grant_row.as_bytes(), store.entropy()))
}

/// The row id of the grant that a token was made for.
pub fn open_token(shared: &Shared, token: &str) -> Option<String> {
    let sealed = BASE64.decode(token.as_bytes()).ok()?;
    let plain = seal::open(shared.store.marker_key(), TOKEN_SCOPE, &sealed)?;
    String::from_utf8(plain.to_vec()).ok()
}
