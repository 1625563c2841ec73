//! Principals as policies name them.

use crate::kms::model::{Principal, PrincipalKind};
use crate::types::AccountId;

/// One principal of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// `*`.
    Everyone,
    /// An account: its root, and by delegation its users and roles.
    Account(AccountId),
    /// One user or role, by ARN.
    One(Box<str>),
    /// A service or an identity provider: nobody who calls here.
    Other,
}

/// How far a name reaches a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Somebody else is named.
    None,
    /// The caller's account is named.
    Account,
    /// The caller is named, or everyone.
    Caller,
}

impl Named {
    /// A value of `"AWS"`; `None` if it is none.
    pub fn aws(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Everyone);
        }
        if let Ok(account) = text.parse::<AccountId>() {
            return Some(Self::Account(account));
        }
        // Wildcards within ARNs are not allowed here, and would look as if they worked.
        if text.contains(['*', '?']) {
            return None;
        }
        if let Ok(principal) = text.parse::<Principal>() {
            return Some(match principal.kind() {
                PrincipalKind::Root => Self::Account(principal.account().clone()),
                _ => Self::One(text.into()),
            });
        }
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let ["arn", "aws", "sts", "", account, session] = parts[..] else { return None };
        let session = session.strip_prefix("assumed-role/").or_else(|| session.strip_prefix("federated-user/"))?;
        (account.parse::<AccountId>().is_ok() && !session.is_empty()).then(|| Self::One(text.into()))
    }

    /// A value under `kind`; `None` if it is none.
    pub fn parse(kind: &str, text: &str) -> Option<Self> {
        match kind {
            "AWS" => Self::aws(text),
            "Service" => (text.contains('.') && !text.contains(['*', ' '])).then_some(Self::Other),
            "Federated" => (!text.is_empty()).then_some(Self::Other),
            _ => None,
        }
    }

    pub fn reach(&self, caller: &Principal) -> Reach {
        match self {
            Self::Everyone => Reach::Caller,
            Self::One(arn) if **arn == *caller.arn() => Reach::Caller,
            Self::Account(account) if account == caller.account() => match caller.kind() {
                PrincipalKind::Root => Reach::Caller,
                _ => Reach::Account,
            },
            _ => Reach::None,
        }
    }
}
