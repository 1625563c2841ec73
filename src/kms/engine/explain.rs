//! `policy explain`: the decision about a request, statement by statement.

use super::Engine;
use super::authorise::Access;
use super::evaluate::Facts;
use super::grants::retirement;
use super::resolve::{Forms, does_not_exist, find};
use super::usage::UNUSED_DAYS;
use crate::kms::KmsError;
use crate::kms::model::{Caller, ExplainRequest, ExplainedStep, Explanation, PrincipalKind};
use crate::kms::policy::{Decision, Outcome, Reach, Reason, Refusal, Relation, Step, Subject};
use crate::kms::store::{KeyEntry, below, key_row_id};

impl Engine {
    /// Whether policies and grants allow `caller` what `request` says, and why. For who can open the home.
    ///
    /// # Errors
    /// `NotFoundException` for a key that is not there; for one that was deleted, if nothing denies the request before.
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
        if let Some(key) = key
            && !access.attributes.iter().any(|(name, _)| name.eq_ignore_ascii_case(UNUSED_DAYS))
        {
            access = self.shared.with_last_use(access, key, now);
        }
        let facts = Facts { snapshot: &snapshot, caller, now, access: &access, key };
        let mut steps = Vec::new();
        let (resource, decision) = match key {
            Some(key) if action == "RetireGrant" => (key.arn.to_string(), self.retirements(&facts, key, &mut steps)),
            Some(key) => {
                let mut observe = |step: &Step<'_>| steps.push(explained(step));
                (key.arn.to_string(), facts.decide_on_key(&self.shared.standard.of(key), Some(&mut observe)))
            }
            None => {
                let mut observe = |step: &Step<'_>| steps.push(explained(step));
                ("*".to_owned(), facts.decide_by_identity("*", Some(&mut observe)))
            }
        };
        let allowed = matches!(decision, Decision::Allowed { .. });
        if let Some(key) = key.filter(|key| allowed && key.is_tombstone()) {
            return Err(does_not_exist(key.arn.as_str()));
        }
        let principal = caller.principal();
        let action = format!("kms:{action}");
        let mut reason = match &decision {
            Decision::Allowed { grant: Some(id) } => format!("allowed by grant {id}"),
            Decision::Allowed { grant: None } => "allowed by policy".to_owned(),
            Decision::Denied(Reason::ForeignManagement) => {
                "denied: this operation is never possible from another account".to_owned()
            }
            Decision::Denied(Reason::NoKeyPolicy) if action == "kms:RetireGrant" => {
                "denied: no grant of the key is the caller's to retire".to_owned()
            }
            Decision::Denied(reason) => format!("denied {}", reason.text(&action)),
        };
        let is_made = snapshot.principals.contains_key(principal.arn());
        if !is_made && !caller.is_local() && principal.kind() != PrincipalKind::Root {
            reason.push_str("; there is no such user or role, so that it has no identity policies");
        }
        Ok(Explanation { allowed, principal: principal.to_string(), action, resource, reason, steps })
    }

    /// Whether the caller may retire one of the key's grants. A statement may deny that; allowing it is the affair of
    /// the grants.
    fn retirements(&self, facts: &Facts<'_>, key: &KeyEntry, steps: &mut Vec<ExplainedStep>) -> Decision {
        let mut observe = |step: &Step<'_>| {
            if !matches!(step.subject, Subject::Grant(_)) {
                steps.push(explained(step));
            }
        };
        let by_policy = facts.decide_on_key(&self.shared.standard.of(key), Some(&mut observe));
        if let Decision::Denied(reason) = by_policy
            && reason.is_explicit()
        {
            return by_policy;
        }
        let mut decision = Decision::Denied(Reason::NoKeyPolicy);
        let prefix = format!("{}/", key_row_id(&key.record.region, &key.record.key_id));
        for (_, grant) in below(&facts.snapshot.grants, &prefix, None) {
            let of_grant = retirement(facts, key, grant);
            let applies = matches!(of_grant, Decision::Allowed { .. });
            let outcome = match of_grant {
                Decision::Allowed { .. } => "the caller may retire it",
                Decision::Denied(Reason::NoIdentityPolicy) => {
                    "the caller's account may retire it, if an identity policy allows it"
                }
                Decision::Denied(_) => "is for others to retire",
            };
            steps.push(ExplainedStep {
                source: format!("grant {}", grant.grant_id),
                statement: None,
                sid: None,
                effect: "Allow",
                applies,
                outcome: outcome.to_owned(),
            });
            let nearer = of_grant == Decision::Denied(Reason::NoIdentityPolicy);
            if matches!(decision, Decision::Denied(_)) && (applies || nearer) {
                decision = of_grant;
            }
        }
        decision
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
