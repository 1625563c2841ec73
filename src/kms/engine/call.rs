//! One call: runs it and records it.

use serde_json::Value;

use super::{Engine, Shared};
use crate::kms::KmsError;
use crate::kms::audit::{Canonical, Event, EventKind, ServiceEvent};
use crate::kms::model::{Caller, KeySpec};
use crate::kms::store::{Change, KeyEntry, Snapshot, alias_row_id, key_row_id};
use crate::sync::Arc;
use crate::types::{KeyArn, Timestamp};

/// A call on its way, with what its record will say.
pub struct Call<'a> {
    pub shared: &'a Shared,
    pub caller: &'a Caller,
    pub now: Timestamp,
    name: &'static str,
    read_only: bool,
    parameters: Canonical,
    pub response: Canonical,
    pub additional: Canonical,
    pub resources: Vec<KeyArn>,
    recorded: bool,
}

/// Whether an operation changes anything; decides how it is recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Cryptographic, describe, get and list operations.
    ReadOnly,
    /// Everything else.
    Changes,
}

impl Engine {
    /// Runs `work` and records it, successful or not.
    pub(super) fn call<T>(
        &self,
        caller: &Caller,
        (name, effect): (&'static str, Effect),
        parameters: impl Into<Canonical>,
        work: impl FnOnce(&mut Call<'_>) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        let (now, parameters) = (self.shared.clock.now(), parameters.into());
        if caller.is_metered()
            && let Some(quotas) = self.shared.requests.get()
        {
            let parameters = parameters.to_value();
            let spec = named_spec(&*self.shared.snapshot(now)?, caller, &parameters);
            if !quotas.admit(caller, name, &parameters, spec, now) {
                return Err(KmsError::Throttling);
            }
        }
        let mut call = Call {
            shared: &self.shared,
            caller,
            now,
            name,
            read_only: effect == Effect::ReadOnly,
            parameters,
            response: Canonical::default(),
            additional: Canonical::default(),
            resources: Vec::new(),
            recorded: false,
        };
        let outcome = work(&mut call);
        if !call.recorded {
            self.shared.audit.record_call(&call.event(outcome.as_ref().err()))?;
        }
        outcome
    }
}

/// The spec of the key that a request names: the quotas of its requests depend on it.
fn named_spec(snapshot: &Snapshot, caller: &Caller, parameters: &Value) -> Option<KeySpec> {
    let text = parameters["keyId"].as_str()?;
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let (region, own) = (caller.region().as_str(), caller.account().as_str());
    let (account, name) = match parts[..] {
        [_, _, _, _, account, name] => (account, name),
        _ => (own, text),
    };
    let key_id = match snapshot.aliases.get(&*alias_row_id(region, account, name)) {
        Some(alias) => &alias.key_id,
        None => name.strip_prefix("key/").unwrap_or(name),
    };
    snapshot.key(&key_row_id(region, key_id)).map(|key| key.record.spec)
}

impl Engine {
    /// Records a call that was refused before its parameters could be read, and gives the reason back.
    pub(in crate::kms) fn refuse(
        &self,
        caller: &Caller,
        name: &'static str,
        effect: Effect,
        error: KmsError,
    ) -> KmsError {
        let refused: Result<(), KmsError> = self.call(caller, (name, effect), Value::Null, |_| Err(error.clone()));
        refused.err().unwrap_or(error)
    }
}

impl Call<'_> {
    /// The state that counts for this call.
    pub fn snapshot(&self) -> Result<Arc<Snapshot>, KmsError> {
        self.shared.snapshot(self.now)
    }

    /// Commits `edit` together with the record of this call, durably.
    pub fn change<T>(
        &mut self,
        edit: impl FnOnce(&mut Self, &mut Change<'_>) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        let shared = self.shared;
        shared.audit.require_writable()?;
        // What is due happens first: a key whose time has come is not changed any more.
        self.snapshot()?;
        // If the commit fails, the record that the call leaves says so.
        let answer = shared.store.change(|change| {
            let answer = edit(self, change)?;
            change.record(self.event(None).render(&*shared.entropy));
            Ok(answer)
        });
        self.recorded = answer.is_ok();
        let answer = answer?;
        if let Err(error) = shared.audit.flush() {
            // The record is durable in the database's outbox.
            tracing::error!(%error, "the audit log could not be written; it is tried again");
        }
        Ok(answer)
    }

    /// Notes that the call concerns `key`.
    pub fn concerns(&mut self, key: &KeyEntry) {
        if !self.resources.contains(&key.arn) {
            self.resources.push(key.arn.clone());
        }
    }

    /// What is recorded of this call.
    fn event<'e>(&'e self, error: Option<&'e KmsError>) -> Event<'e> {
        Event {
            time: self.now,
            name: self.name,
            kind: EventKind::Call(self.caller),
            read_only: self.read_only,
            parameters: self.parameters.as_str(),
            response: if error.is_some() { "" } else { self.response.as_str() },
            additional: self.additional.as_str(),
            error,
            resources: &self.resources,
        }
    }
}

impl Shared {
    /// An event of the key manager itself.
    pub fn service_event(&self, name: &'static str, details: Value, key: Option<&KeyArn>) -> ServiceEvent {
        let home = self.store.home();
        ServiceEvent {
            time: self.clock.now(),
            name,
            details: details.into(),
            account: key.map_or(home.account().as_str(), |arn| arn.account()).to_owned(),
            region: key.map_or(home.region().as_str(), |arn| arn.region()).to_owned(),
            key: key.cloned(),
        }
    }
}
