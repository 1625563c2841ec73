//! From policies and grants to a decision: AWS's evaluation logic (KMS.md section 8).

use super::Request;
use super::document::{Effect, Policy, Relation, Statement};
use super::principal::Reach;

/// Everything that decides about one request.
pub struct Question<'a> {
    /// Who wants to do what.
    pub request: &'a Request<'a>,
    /// Absent for operations that only identity policies govern: `CreateKey`, `ListKeys`.
    pub key: Option<KeyPolicy<'a>>,
    /// The caller's identity policies by name.
    pub identity: &'a [(&'a str, &'a Policy)],
}

/// What the owner of a key says about it.
pub struct KeyPolicy<'a> {
    /// Its account.
    pub owner: &'a str,
    /// Its key policy.
    pub policy: &'a Policy,
    /// The grants of the key to the caller or to its account. Asked for only when they matter.
    pub grants: &'a dyn Fn() -> Vec<Candidate>,
}

/// A grant to the caller or to its account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Grant id.
    pub id: String,
    /// Whether the grant names the caller or its account.
    pub reach: Reach,
    /// Why it does not allow the request.
    pub refusal: Option<Refusal>,
}

/// Why a grant does not allow a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is for other operations.
    Operation,
    /// Its constraints are not met.
    Constraints,
    /// The grant that the request would create goes beyond it.
    Exceeded,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Allowed; by this grant, if only a grant allows it.
    Allowed {
        /// The grant's id.
        grant: Option<String>,
    },
    /// Denied.
    Denied(Reason),
}

/// Why a request is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A statement of the key policy denies it.
    KeyPolicyDenies,
    /// A statement of an identity policy denies it.
    IdentityPolicyDenies,
    /// A statement denies it to a caller of another account, whom nothing that the key's owner said lets in: that
    /// the key is there is not told.
    DeniesUnseen,
    /// Neither the key policy nor a grant allows it.
    NoKeyPolicy,
    /// The operation is never possible from another account.
    ForeignManagement,
    /// The key's owner leaves it to the caller's account, where no identity policy allows it.
    NoIdentityPolicy,
}

impl Reason {
    /// Whether a statement denies it, so that nothing can allow it.
    pub fn is_explicit(self) -> bool {
        matches!(self, Self::KeyPolicyDenies | Self::IdentityPolicyDenies | Self::DeniesUnseen)
    }

    /// How AWS ends its text, `action` with `kms:`.
    pub fn text(self, action: &str) -> String {
        match self {
            Self::KeyPolicyDenies => "with an explicit deny in a resource-based policy".into(),
            Self::IdentityPolicyDenies => "with an explicit deny in an identity-based policy".into(),
            Self::NoKeyPolicy | Self::ForeignManagement | Self::DeniesUnseen => {
                format!("because no resource-based policy allows the {action} action")
            }
            Self::NoIdentityPolicy => format!("because no identity-based policy allows the {action} action"),
        }
    }
}

/// How one statement or grant was judged.
#[derive(Debug)]
pub struct Step<'a> {
    /// What was judged.
    pub subject: Subject<'a>,
    /// What came of it.
    pub outcome: Outcome<'a>,
}

/// What was judged.
#[derive(Debug)]
pub enum Subject<'a> {
    /// A statement of the key policy, by its place from 1.
    KeyPolicy(usize, &'a Statement),
    /// A statement of an identity policy.
    IdentityPolicy(&'a str, usize, &'a Statement),
    /// A grant.
    Grant(&'a Candidate),
}

/// What came of it.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// How the statement relates to the request.
    Statement(Relation<'a>),
    /// Why the grant does not allow the request, or that it does.
    Grant(Option<Refusal>),
}

/// What the statements of one policy, or of several, say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Verdict {
    denies: bool,
    /// The widest reach of a statement that allows.
    allows: Reach,
}

impl Verdict {
    const SILENT: Self = Self { denies: false, allows: Reach::None };

    fn add(&mut self, effect: Effect, relation: &Relation<'_>) {
        match (effect, relation) {
            (Effect::Deny, Relation::Applies(_)) => self.denies = true,
            (Effect::Allow, Relation::Applies(reach)) => self.allows = self.allows.max(*reach),
            _ => {}
        }
    }
}

/// Decides `question`. `observe` hears of every statement, and of every grant that could matter, in the order in which
/// they are judged.
pub fn decide(question: &Question<'_>, observe: Option<&mut dyn FnMut(&Step<'_>)>) -> Decision {
    let explains = observe.is_some();
    let mut quiet = |_: &Step<'_>| {};
    let observe = observe.unwrap_or(&mut quiet);
    let request = question.request;

    let mut owner = Verdict::SILENT;
    for (at, statement) in question.key.iter().flat_map(|key| &key.policy.statements).enumerate() {
        let relation = statement.relation(request);
        owner.add(statement.effect, &relation);
        observe(&Step { subject: Subject::KeyPolicy(at + 1, statement), outcome: Outcome::Statement(relation) });
    }
    let mut identity = Verdict::SILENT;
    for (name, policy) in question.identity {
        for (at, statement) in policy.statements.iter().enumerate() {
            let relation = statement.relation(request);
            identity.add(statement.effect, &relation);
            let subject = Subject::IdentityPolicy(name, at + 1, statement);
            observe(&Step { subject, outcome: Outcome::Statement(relation) });
        }
    }
    let allowed_by_identity = identity.allows != Reach::None;
    let denied = |reason| Decision::Denied(reason);
    let of_owner = |key: &KeyPolicy<'_>| request.principal.account().as_str() == key.owner;
    if owner.denies || identity.denies {
        let reason = if owner.denies { Reason::KeyPolicyDenies } else { Reason::IdentityPolicyDenies };
        let lets_in =
            |key: &KeyPolicy<'_>| owner.allows != Reach::None || (key.grants)().iter().any(|one| one.refusal.is_none());
        let is_seen = |key: &KeyPolicy<'_>| explains || of_owner(key) || lets_in(key);
        return denied(if question.key.as_ref().is_none_or(is_seen) { reason } else { Reason::DeniesUnseen });
    }
    let Some(key) = &question.key else {
        return if allowed_by_identity { Decision::Allowed { grant: None } } else { denied(Reason::NoIdentityPolicy) };
    };
    // In its own account a caller whom the owner names needs nothing else; otherwise its account must agree.
    let same_account = of_owner(key);
    let suffices = |reach: Reach| match reach {
        Reach::None => false,
        Reach::Account => allowed_by_identity,
        Reach::Caller => same_account || allowed_by_identity,
    };
    let allowed_by_policy = suffices(owner.allows);
    if allowed_by_policy && !explains {
        return Decision::Allowed { grant: None };
    }
    let grants = (key.grants)();
    let mut granted = Reach::None;
    let mut by_grant = None;
    for candidate in &grants {
        observe(&Step { subject: Subject::Grant(candidate), outcome: Outcome::Grant(candidate.refusal) });
        if candidate.refusal.is_none() {
            granted = granted.max(candidate.reach);
            if by_grant.is_none() && suffices(candidate.reach) {
                by_grant = Some(candidate.id.clone());
            }
        }
    }
    match by_grant {
        _ if allowed_by_policy => Decision::Allowed { grant: None },
        Some(id) => Decision::Allowed { grant: Some(id) },
        None if owner.allows.max(granted) == Reach::None => denied(Reason::NoKeyPolicy),
        None => denied(Reason::NoIdentityPolicy),
    }
}
