//! One call: runs it and records it.

use serde_json::Value;

use super::{Engine, Shared};
use crate::kms::KmsError;
use crate::kms::audit::{Event, EventKind};
use crate::kms::model::Caller;
use crate::kms::store::{Change, KeyEntry, Snapshot};
use crate::sync::Arc;
use crate::types::{KeyArn, Timestamp};

/// A call on its way, with what its record will say.
pub struct Call<'a> {
    pub shared: &'a Shared,
    pub caller: &'a Caller,
    pub now: Timestamp,
    name: &'static str,
    read_only: bool,
    parameters: Value,
    pub response: Value,
    pub additional: Value,
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
        parameters: Value,
        work: impl FnOnce(&mut Call<'_>) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        let mut call = Call {
            shared: &self.shared,
            caller,
            now: self.shared.clock.now(),
            name,
            read_only: effect == Effect::ReadOnly,
            parameters,
            response: Value::Null,
            additional: Value::Null,
            resources: Vec::new(),
            recorded: false,
        };
        let outcome = work(&mut call);
        if !call.recorded {
            let event = call.into_event(outcome.as_ref().err().cloned());
            self.shared.audit.record(event);
        }
        outcome
    }
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
        // What is due happens first: a key whose time has come is not changed any more.
        self.snapshot()?;
        let shared = self.shared;
        let answer = shared.store.change(|change| {
            let answer = edit(self, change)?;
            change.record(self.event(None).render(&*shared.entropy));
            Ok(answer)
        })?;
        self.recorded = true;
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

    fn event(&self, error: Option<KmsError>) -> Event {
        Event {
            time: self.now,
            name: self.name,
            kind: EventKind::Call(self.caller.clone()),
            read_only: self.read_only,
            account: self.caller.account().to_string(),
            region: self.caller.region().to_string(),
            parameters: self.parameters.clone(),
            response: self.response.clone(),
            additional: self.additional.clone(),
            error,
            resources: self.resources.clone(),
        }
    }

    fn into_event(self, error: Option<KmsError>) -> Event {
        Event {
            time: self.now,
            name: self.name,
            kind: EventKind::Call(self.caller.clone()),
            read_only: self.read_only,
            account: self.caller.account().to_string(),
            region: self.caller.region().to_string(),
            parameters: self.parameters,
            response: if error.is_some() { Value::Null } else { self.response },
            additional: self.additional,
            error,
            resources: self.resources,
        }
    }
}

impl Shared {
    /// An event of the key manager itself.
    pub fn service_event(&self, name: &'static str, details: Value, key: Option<&KeyArn>) -> Event {
        let home = self.store.home();
        Event {
            time: self.clock.now(),
            name,
            kind: EventKind::Service(details),
            read_only: false,
            account: key.map_or(home.account().as_str(), |arn| arn.account()).to_owned(),
            region: key.map_or(home.region().as_str(), |arn| arn.region()).to_owned(),
            parameters: Value::Null,
            response: Value::Null,
            additional: Value::Null,
            error: None,
            resources: key.cloned().into_iter().collect(),
        }
    }
}
