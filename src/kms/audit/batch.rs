//! Events that wait for the log.

use super::event::{Event, EventKind};
use super::{Canonical, KmsError};
use crate::kms::model::Caller;
use crate::sys::prefetch::prefetch;
use crate::types::{KeyArn, Timestamp};

/// Events in their order, copied. What varies in length stands in buffers that all share and that are used again: a
/// piece of memory for each, which calling threads would get and the writing thread would give back, is what a queue
/// costs most.
#[derive(Default)]
pub struct Batch {
    entries: Vec<Entry>,
    text: String,
    resources: Vec<KeyArn>,
}

struct Entry {
    time: Timestamp,
    name: &'static str,
    cause: Cause,
    read_only: bool,
    error: Option<Box<KmsError>>,
    /// Where its texts begin; they follow each other.
    text_at: usize,
    parameters: u32,
    response: u32,
    additional: u32,
    resources_at: usize,
    resources: u32,
}

enum Cause {
    Call(Caller),
    Service(Box<Service>),
}

struct Service {
    details: Canonical,
    account: String,
    region: String,
}

/// So many resources ahead are made ready.
const AHEAD: usize = 4;

fn len(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("requests are bounded far below 4 GiB")
}

impl Batch {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn push(&mut self, event: &Event<'_>) {
        let cause = match event.kind {
            EventKind::Call(caller) => Cause::Call(caller.clone()),
            EventKind::Service { details, account, region } => Cause::Service(Box::new(Service {
                details: details.clone(),
                account: account.to_owned(),
                region: region.to_owned(),
            })),
        };
        self.entries.push(Entry {
            time: event.time,
            name: event.name,
            cause,
            read_only: event.read_only,
            error: event.error.map(|error| Box::new(error.clone())),
            text_at: self.text.len(),
            parameters: len(event.parameters.len()),
            response: len(event.response.len()),
            additional: len(event.additional.len()),
            resources_at: self.resources.len(),
            resources: len(event.resources.len()),
        });
        [event.parameters, event.response, event.additional].into_iter().for_each(|text| self.text.push_str(text));
        self.resources.extend_from_slice(event.resources);
    }

    /// The events from the one at `first` on.
    pub fn events(&self, first: usize) -> impl Iterator<Item = Event<'_>> {
        self.entries[first..].iter().map(|entry| {
            // What the next events are about stands somewhere in memory.
            let arn = self.resources.get(entry.resources_at + AHEAD).map_or(&[][..], |arn| arn.as_str().as_bytes());
            [arn.first(), arn.last()].into_iter().flatten().for_each(prefetch);
            let text = &self.text[entry.text_at..];
            let (parameters, text) = text.split_at(entry.parameters as usize);
            let (response, text) = text.split_at(entry.response as usize);
            let kind = match &entry.cause {
                Cause::Call(caller) => EventKind::Call(caller),
                Cause::Service(service) => {
                    let Service { details, account, region } = &**service;
                    EventKind::Service { details, account, region }
                }
            };
            Event {
                time: entry.time,
                name: entry.name,
                kind,
                read_only: entry.read_only,
                parameters,
                response,
                additional: &text[..entry.additional as usize],
                error: entry.error.as_deref(),
                resources: &self.resources[entry.resources_at..][..entry.resources as usize],
            }
        })
    }

    /// Forgets all events, and keeps the memory for others unless it is more than is mostly needed.
    pub fn clear(&mut self, usual_text: usize) {
        self.entries.clear();
        self.resources.clear();
        self.text.clear();
        if self.text.capacity() > usual_text {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEntropy;
    use crate::kms::audit::event::ServiceEvent;
    use crate::kms::model::Principal;

    #[test]
    fn events_come_out_as_they_went_in() {
        let caller = Caller::new(
            Principal::root(&"111122223333".parse().expect("account")),
            "us-east-1".parse().expect("Region"),
        );
        let arns: Vec<KeyArn> =
            ["a", "b"].map(|id| format!("arn:aws:kms:us-east-1:111122223333:key/{id}").parse().expect("ARN")).into();
        let error = KmsError::Disabled(arns[0].clone());
        let call = |parameters, response, additional, error, resources| Event {
            time: Timestamp::from_secs(7),
            name: "Decrypt",
            kind: EventKind::Call(&caller),
            read_only: true,
            parameters,
            response,
            additional,
            error,
            resources,
        };
        let service = ServiceEvent {
            time: Timestamp::from_secs(8),
            name: "RotateKey",
            details: serde_json::json!({ "k": 1 }).into(),
            account: "111122223333".into(),
            region: "us-east-1".into(),
            key: Some(arns[1].clone()),
        };
        let all = [
            call("{\"a\":1}", "", "{\"b\":2}", None, &arns[..]),
            service.event(),
            call("", "{\"c\":\"\u{e4}\"}", "", Some(&error), &[]),
        ];
        let mut batch = Batch::default();
        for round in 0..2 {
            all.iter().for_each(|event| batch.push(event));
            assert_eq!((batch.len(), batch.is_empty()), (3, false), "round {round}");
            let line = |event: &Event<'_>| event.render(&SeededEntropy::new(1));
            let wanted: Vec<_> = all.iter().map(line).collect();
            assert_eq!(batch.events(0).map(|event| line(&event)).collect::<Vec<_>>(), wanted);
            assert_eq!(batch.events(2).map(|event| line(&event)).collect::<Vec<_>>(), wanted[2..]);
            batch.clear(if round == 0 { usize::MAX } else { 0 });
            assert!(batch.is_empty() && batch.text.is_empty());
        }
        assert_eq!(batch.text.capacity(), 0);
    }
}
