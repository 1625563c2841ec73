//! One call: runs it and records it.

use serde_json::Value;

use super::{Engine, Shared};
use crate::kms::KmsError;
use crate::kms::audit::{Event, EventKind};
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
        let now = self.shared.clock.now();
        if caller.is_metered()
            && let Some(quotas) = self.shared.requests.get()
        {
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
            response: Value::Null,
            additional: Value::Null,
            resources: Vec::new(),
            recorded: false,
        };
        let outcome = work(&mut call);
        if !call.recorded {
            let event = call.event(outcome.as_ref().err().cloned());
            self.shared.audit.record_call(event)?;
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
    snapshot.keys.get(&*key_row_id(region, key_id)).map(|key| key.record.spec)
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
        let mut unrecorded = None;
        let answer = shared.store.change(|change| {
            let answer = edit(self, change)?;
            let event = self.event(None);
            change.record(event.render(&*shared.entropy));
            unrecorded = Some(event);
            Ok(answer)
        });
        match (&answer, unrecorded) {
            (Ok(_), _) => self.recorded = true,
            // The commit failed: the record says so, of the same call.
            (Err(_), Some(event)) => {
                let Event { parameters, additional, resources, .. } = event;
                (self.parameters, self.additional, self.resources) = (parameters, additional, resources);
            }
            (Err(_), None) => {}
        }
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

    /// The record of this call, once: it takes what was noted of it.
    fn event(&mut self, error: Option<KmsError>) -> Event {
        let response = std::mem::take(&mut self.response);
        Event {
            time: self.now,
            name: self.name,
            kind: EventKind::Call(self.caller.clone()),
            read_only: self.read_only,
            parameters: std::mem::take(&mut self.parameters),
            response: if error.is_some() { Value::Null } else { response },
            additional: std::mem::take(&mut self.additional),
            error,
            resources: std::mem::take(&mut self.resources),
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
            kind: EventKind::Service {
                details,
                account: key.map_or(home.account().as_str(), |arn| arn.account()).to_owned(),
                region: key.map_or(home.region().as_str(), |arn| arn.region()).to_owned(),
            },
            read_only: false,
            parameters: Value::Null,
            response: Value::Null,
            additional: Value::Null,
            error: None,
            resources: key.cloned().into_iter().collect(),
        }
    }
}
