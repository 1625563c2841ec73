//! Whether a grant allows a request (KMS.md section 8).

use super::decide::Refusal;
use super::principal::{Named, Reach};
use crate::kms::model::{GrantConstraints, GrantOperation, Principal};
use crate::types::EncryptionContext;

/// What a grant allows.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The operations.
    pub operations: &'a [GrantOperation],
    /// What requests for them must have.
    pub constraints: &'a GrantConstraints,
}

/// What a grant is asked for.
#[derive(Debug, Clone, Copy)]
pub struct GrantRequest<'a> {
    /// Without `kms:`.
    pub action: &'a str,
    /// The encryption context of the request.
    pub context: Option<&'a EncryptionContext>,
    /// The resource for which a service calls.
    pub source_arn: Option<&'a str>,
    /// The grant that would be created.
    pub child: Option<Terms<'a>>,
}

impl Terms<'_> {
    /// Why these terms do not allow `request`, if they do not.
    pub fn refusal(&self, request: &GrantRequest<'_>) -> Option<Refusal> {
        if !self.operations.iter().any(|operation| operation.as_str() == request.action) {
            return Some(Refusal::Operation);
        }
        if let Some(child) = &request.child {
            let operations = child.operations.iter().all(|operation| self.operations.contains(operation));
            return (!(operations && self.contains(child))).then_some(Refusal::Exceeded);
        }
        (!self.admits(request)).then_some(Refusal::Constraints)
    }

    fn admits(&self, request: &GrantRequest<'_>) -> bool {
        let GrantConstraints { encryption_context_subset, encryption_context_equals, source_arn } = self.constraints;
        if source_arn.as_deref().is_some_and(|wanted| request.source_arn != Some(wanted)) {
            return false;
        }
        // Operations without an encryption context are not constrained by it.
        if ["DescribeKey", "RetireGrant", "GetPublicKey"].contains(&request.action) {
            return true;
        }
        let none = EncryptionContext::new();
        let context = request.context.unwrap_or(&none);
        encryption_context_subset.as_ref().is_none_or(|wanted| includes(context, wanted))
            && encryption_context_equals.as_ref().is_none_or(|wanted| context == wanted)
    }

    /// Whether every request that `child` admits is admitted by these constraints.
    fn contains(&self, child: &Terms<'_>) -> bool {
        let (own, other) = (self.constraints, child.constraints);
        let source = own.source_arn.is_none() || own.source_arn == other.source_arn;
        let equals =
            own.encryption_context_equals.is_none() || own.encryption_context_equals == other.encryption_context_equals;
        let at_least = other.encryption_context_equals.as_ref().or(other.encryption_context_subset.as_ref());
        let subset = own
            .encryption_context_subset
            .as_ref()
            .is_none_or(|wanted| at_least.is_some_and(|context| includes(context, wanted)));
        source && equals && subset
    }
}

/// Whether `context` has all pairs of `wanted`.
fn includes(context: &EncryptionContext, wanted: &EncryptionContext) -> bool {
    wanted.pairs().all(|(name, value)| context.get(name) == Some(value))
}

/// Whether `arn` names a user, a role, a session or an account.
pub fn is_principal(arn: &str) -> bool {
    Named::aws(arn).is_some_and(|named| named != Named::Everyone)
}

/// How far a grant to `grantee` reaches `caller`.
pub fn reach(grantee: &str, caller: &Principal) -> Reach {
    Named::aws(grantee).map_or(Reach::None, |named| named.reach(caller))
}
