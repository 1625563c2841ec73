//! `policy explain`: the decision about a request, statement by statement.

use super::Engine;
use super::authorise::Access;
use super::evaluate::Facts;
use super::resolve::{Forms, find};
use crate::kms::KmsError;
use crate::kms::model::{Caller, ExplainRequest, ExplainedStep, Explanation};
use crate::kms::policy::{self, Decision, Outcome, Reach, Refusal, Relation, Step, Subject};

impl Engine {
    /// Whether policies and grants allow `caller` what `request` says, and why. For who can open the home.
    pub fn explain(&self, caller: &Caller, request: &ExplainRequest) -> Result<Explanation, KmsError> {
        let action = request.action.strip_prefix("kms:").unwrap_or(&request.action);
        let mut access = Access::to(action).context(&request.encryption_context);
        for (key, value) in &request.conditions {
            access = access.with(key.as_str(), value.as_str());
        }
        let now = self.shared.clock.now();
        let snapshot = self.shared.snapshot(now)?;
        let found = match &request.key_id {
            Some(key_id) => Some(find(caller, &snapshot, key_id, Forms::Any, action)?),
            None => None,
        };
        if let Some(alias) = found.as_ref().and_then(|found| found.alias) {
            access = access.with("kms:RequestAlias", alias);
        }
        let key = found.as_ref().map(|found| &*found.key);
        let facts = Facts { snapshot: &snapshot, caller, now, access: &access, key };
        let mut steps = Vec::new();
        let mut observe = |step: &Step<'_>| steps.push(explained(step));
        let (resource, decision) = match key {
            Some(key) => (key.arn.to_string(), facts.decide_on_key(&self.shared.standard.of(key), Some(&mut observe))),
            None => ("*".to_owned(), facts.decide_by_identity("*", Some(&mut observe))),
        };
        let principal = caller.principal().to_string();
        let action = format!("kms:{action}");
        let reason = match &decision {
            Decision::Allowed { grant: Some(id) } => format!("allowed by grant {id}"),
            Decision::Allowed { grant: None } => "allowed by policy".to_owned(),
            Decision::Denied(policy::Reason::ForeignManagement) => {
                "denied: this operation is never possible from another account".to_owned()
            }
            Decision::Denied(reason) => format!("denied {}", reason.text(&action)),
        };
        let allowed = matches!(decision, Decision::Allowed { .. });
        Ok(Explanation { allowed, principal, action, resource, reason, steps })
    }
}

fn explained(step: &Step<'_>) -> ExplainedStep {
    let (source, statement, sid, effect) = match step.subject {
        Subject::KeyPolicy(at, statement) => {
            ("key policy".to_owned(), Some(at), statement.sid.clone(), statement.effect.as_str())
        }
        Subject::IdentityPolicy(name, at, statement) => {
            (format!("identity policy {name}"), Some(at), statement.sid.clone(), statement.effect.as_str())
        }
        Subject::Grant(candidate) => (format!("grant {}", candidate.id), None, None, "Allow"),
    };
    let (applies, outcome) = match &step.outcome {
        Outcome::Statement(Relation::Applies(Reach::Account)) => {
            (true, "applies: it leaves the decision to the account's identity policies".to_owned())
        }
        Outcome::Statement(Relation::Applies(_)) => (true, "applies".to_owned()),
        Outcome::Statement(Relation::OtherPrincipal) => (false, "is about other principals".to_owned()),
        Outcome::Statement(Relation::OtherAction) => (false, "is about other actions".to_owned()),
        Outcome::Statement(Relation::OtherResource) => (false, "is about other resources".to_owned()),
        Outcome::Statement(Relation::Condition(condition)) => {
            (false, format!("its condition {condition} does not hold"))
        }
        Outcome::Grant(None) => (true, "applies".to_owned()),
        Outcome::Grant(Some(Refusal::Operation)) => (false, "is for other operations".to_owned()),
        Outcome::Grant(Some(Refusal::Constraints)) => (false, "its constraints are not met".to_owned()),
        Outcome::Grant(Some(Refusal::Exceeded)) => (false, "the new grant would go beyond it".to_owned()),
    };
    ExplainedStep { source, statement, sid, effect, applies, outcome }
}
