//! Policy documents.

use crate::kms::json::Json;
use crate::kms::policy::Request;
use crate::kms::policy::condition::Condition;
use crate::kms::policy::pattern::{ArnPattern, Pattern};
use crate::kms::policy::principal::{Named, Reach};
use crate::kms::policy::variable::Version;

/// What a policy belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A key: every statement names principals.
    Key,
    /// A user or role: no statement names principals.
    Identity,
}

/// Why a document is no policy; AWS's text where it is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

/// A parsed document.
#[derive(Debug, PartialEq)]
pub struct Policy {
    /// Its statements in their order.
    pub statements: Vec<Statement>,
}

/// What a statement does when it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Permits.
    Allow,
    /// Forbids, whatever else permits.
    Deny,
}

impl Effect {
    /// The policy's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
        }
    }
}

/// One statement.
#[derive(Debug, PartialEq)]
pub struct Statement {
    /// Its name, if it has one.
    pub sid: Option<String>,
    /// What it does.
    pub effect: Effect,
    /// Absent in identity policies.
    principals: Option<List<Named>>,
    /// Absent: the statement has no effect.
    actions: Option<List<Action>>,
    /// Absent: the statement has no effect.
    resources: Option<List<ArnPattern>>,
    conditions: Vec<Condition>,
}

/// An element, or its opposite: `Action` and `NotAction`.
#[derive(Debug, PartialEq)]
struct List<T> {
    negated: bool,
    items: Vec<T>,
}

impl<T> List<T> {
    fn has(&self, matches: impl Fn(&T) -> bool) -> bool {
        self.items.iter().any(matches) != self.negated
    }
}

/// A name of actions.
#[derive(Debug, PartialEq)]
enum Action {
    /// `*`.
    All,
    /// `kms:...`; what follows the colon.
    Kms(Pattern),
    /// Of another service.
    Foreign,
}

/// How a statement relates to a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Relation<'p> {
    /// It applies; [`Reach::Account`]: by naming the caller's account.
    Applies(Reach),
    /// It is about other principals.
    OtherPrincipal,
    /// It is about other actions, or about none.
    OtherAction,
    /// It is about other resources, or about none.
    OtherResource,
    /// A condition does not hold.
    Condition(&'p Condition),
}

impl Statement {
    /// How it relates to `request`.
    pub fn relation(&self, request: &Request<'_>) -> Relation<'_> {
        let reach = match &self.principals {
            None => Reach::Caller,
            Some(list) if list.negated => {
                // To be exempt takes one's own name, not that of the account.
                let named = list.items.iter().any(|name| name.reach(request.principal) == Reach::Caller);
                if named { Reach::None } else { Reach::Caller }
            }
            Some(list) => list.items.iter().map(|name| name.reach(request.principal)).max().unwrap_or(Reach::None),
        };
        if reach == Reach::None {
            return Relation::OtherPrincipal;
        }
        let action = |action: &Action| match action {
            Action::All => true,
            Action::Kms(pattern) => pattern.matches(request.action),
            Action::Foreign => false,
        };
        if !self.actions.as_ref().is_some_and(|list| list.has(action)) {
            return Relation::OtherAction;
        }
        if !self
            .resources
            .as_ref()
            .is_some_and(|list| list.has(|pattern| pattern.matches(request.resource, request.attributes)))
        {
            return Relation::OtherResource;
        }
        match self.conditions.iter().find(|condition| !condition.holds(request.attributes)) {
            Some(condition) => Relation::Condition(condition),
            None => Relation::Applies(reach),
        }
    }
}

impl Policy {
    /// Reads `document`.
    pub fn parse(document: &str, kind: Kind) -> Result<Self, Malformed> {
        let json =
            Json::parse(document.as_bytes()).map_err(|_| Malformed("This policy contains invalid Json".into()))?;
        let Json::Object(members) = &json else { return Err(syntax("a policy is an object")) };
        let version = match members.iter().find(|(name, _)| name.as_str() == "Version") {
            Some((_, Json::Text(text))) if text.as_str() == "2012-10-17" => Version::Of2012,
            _ => Version::Of2008,
        };
        let statement = |json| statement(json, kind, version);
        let mut statements = None;
        for (name, value) in members {
            match (name.as_str(), value) {
                ("Version", Json::Text(version)) if ["2012-10-17", "2008-10-17"].contains(&version.as_str()) => {}
                ("Version", _) => return Err(syntax("Version is 2012-10-17 or 2008-10-17")),
                ("Id", Json::Text(_)) => {}
                ("Id", _) => return Err(syntax("Id is a text")),
                ("Statement", Json::List(items)) => {
                    statements = Some(items.iter().map(statement).collect::<Result<_, _>>()?);
                }
                ("Statement", one) => statements = Some(vec![statement(one)?]),
                (other, _) => return Err(syntax(format_args!("a policy has no element {other}"))),
            }
        }
        statements.map(|statements| Self { statements }).ok_or_else(|| syntax("Statement is missing"))
    }
}

fn syntax(what: impl std::fmt::Display) -> Malformed {
    Malformed(format!("Syntax errors in policy. ({what})"))
}

fn statement(json: &Json<'_>, kind: Kind, version: Version) -> Result<Statement, Malformed> {
    let Json::Object(members) = json else { return Err(syntax("a statement is an object")) };
    let (mut sid, mut effect, mut conditions) = (None, None, Vec::new());
    let (mut principals, mut actions, mut resources) = (None, None, None);
    for (name, value) in members {
        let name = name.as_str();
        let negated = name.starts_with("Not");
        match (name, value) {
            ("Sid", Json::Text(text)) => sid = Some(text.as_str().to_owned()),
            ("Sid", _) => return Err(syntax("Sid is a text")),
            ("Effect", Json::Text(text)) if text.as_str() == "Allow" => effect = Some(Effect::Allow),
            ("Effect", Json::Text(text)) if text.as_str() == "Deny" => effect = Some(Effect::Deny),
            ("Effect", _) => return Err(syntax("Effect is Allow or Deny")),
            ("Principal" | "NotPrincipal", value) => once(&mut principals, name, negated, named(value)?)?,
            ("Action" | "NotAction", value) => {
                let items = texts(value, name)?.into_iter().map(action).collect::<Result<_, _>>()?;
                once(&mut actions, name, negated, items)?;
            }
            ("Resource" | "NotResource", value) => {
                let items = texts(value, name)?.into_iter().map(|text| ArnPattern::resource(text, version)).collect();
                once(&mut resources, name, negated, items)?;
            }
            ("Condition", value) => conditions = Condition::parse(value, version).map_err(syntax)?,
            (other, _) => return Err(syntax(format_args!("a statement has no element {other}"))),
        }
    }
    match kind {
        Kind::Key if principals.is_none() => return Err(Malformed("Missing required field Principal".into())),
        Kind::Identity if principals.is_some() => {
            return Err(Malformed("Policy document should not specify a principal.".into()));
        }
        Kind::Identity if actions.is_none() => return Err(Malformed("Policy statement must contain actions.".into())),
        Kind::Identity if resources.is_none() => {
            return Err(Malformed("Policy statement must contain resources.".into()));
        }
        _ => {}
    }
    let effect = effect.ok_or_else(|| syntax("Effect is missing"))?;
    Ok(Statement { sid, effect, principals, actions, resources, conditions })
}

/// Takes over an element, unless the statement has its opposite already.
fn once<T>(slot: &mut Option<List<T>>, name: &str, negated: bool, items: Vec<T>) -> Result<(), Malformed> {
    match slot.replace(List { negated, items }) {
        None => Ok(()),
        Some(_) => {
            let name = name.trim_start_matches("Not");
            Err(syntax(format_args!("a statement has {name} or Not{name}, not both")))
        }
    }
}

/// A text or a list of texts.
fn texts<'j>(json: &'j Json<'_>, name: &str) -> Result<Vec<&'j str>, Malformed> {
    let text = |json: &'j Json<'_>| match json {
        Json::Text(text) => Ok(text.as_str()),
        _ => Err(syntax(format_args!("{name} is a text or a list of texts"))),
    };
    match json {
        Json::List(items) => items.iter().map(text).collect(),
        one => Ok(vec![text(one)?]),
    }
}

fn action(text: &str) -> Result<Action, Malformed> {
    match text.split_once(':') {
        _ if text == "*" => Ok(Action::All),
        Some((vendor, name)) if vendor.eq_ignore_ascii_case("kms") && !name.is_empty() => {
            Ok(Action::Kms(Pattern::ignoring_case(name)))
        }
        Some((vendor, name)) if !vendor.is_empty() && !vendor.contains(['*', '?']) && !name.is_empty() => {
            Ok(Action::Foreign)
        }
        _ => Err(Malformed(format!(
            "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc. ({text})"
        ))),
    }
}

fn named(json: &Json<'_>) -> Result<Vec<Named>, Malformed> {
    let invalid = || Malformed("Policy contains a statement with one or more invalid principals.".into());
    let members = match json {
        Json::Text(text) if text.as_str() == "*" => return Ok(vec![Named::Everyone]),
        Json::Object(members) if !members.is_empty() => members,
        _ => return Err(invalid()),
    };
    let mut all = Vec::new();
    for (kind, value) in members {
        for text in texts(value, "Principal")? {
            all.push(Named::parse(kind.as_str(), text).ok_or_else(invalid)?);
        }
    }
    if all.is_empty() { Err(invalid()) } else { Ok(all) }
}
