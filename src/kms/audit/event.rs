//! One event and its line.

use serde_json::{Value, json};

use super::canonical;
use crate::env::{Entropy, random};
use crate::kms::KmsError;
use crate::kms::model::{Caller, PrincipalKind};
use crate::types::{KeyArn, Timestamp};

/// Who caused an event.
#[derive(Debug, Clone)]
pub enum EventKind {
    /// A call of the API.
    Call(Caller),
    /// The key manager itself; the details are for `serviceEventDetails`.
    Service(Value),
}

/// What is recorded of one call. Nothing in it is secret.
#[derive(Debug, Clone)]
pub struct Event {
    pub time: Timestamp,
    pub name: &'static str,
    pub kind: EventKind,
    pub read_only: bool,
    pub account: String,
    pub region: String,
    pub parameters: Value,
    pub response: Value,
    pub additional: Value,
    pub error: Option<KmsError>,
    pub resources: Vec<KeyArn>,
}

/// An event's line in two parts, between which the chain member goes: canonical JSON sorts `chain` after `awsRegion`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub event_id: String,
    /// `{` ... up to and without `"chain"`, with the trailing comma.
    pub head: String,
    /// From behind the comma after `"chain"` to `}`.
    pub tail: String,
}

/// A random UUID.
pub fn uuid(entropy: &dyn Entropy) -> String {
    uuid::Builder::from_random_bytes(random(entropy)).into_uuid().hyphenated().to_string()
}

struct Members(String);

impl Members {
    fn add(&mut self, name: &str, value: &Value) {
        self.name(name);
        canonical::write(value, &mut self.0);
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        canonical::string(value, &mut self.0);
    }

    fn name(&mut self, name: &str) {
        if !self.0.is_empty() && !self.0.ends_with('{') {
            self.0.push(',');
        }
        canonical::string(name, &mut self.0);
        self.0.push(':');
    }

    fn present(&mut self, name: &str, value: &Value) {
        if !value.is_null() {
            self.add(name, value);
        }
    }
}

impl Event {
    /// The event's canonical line, with new ids.
    pub fn render(&self, entropy: &dyn Entropy) -> Rendered {
        let event_id = uuid(entropy);
        let mut head = Members("{".to_owned());
        head.present("additionalEventData", &self.additional);
        head.text("awsRegion", &self.region);
        head.0.push(',');

        let mut tail = Members(String::with_capacity(1024));
        if let Some(error) = &self.error {
            tail.text("errorCode", error.code());
            tail.text("errorMessage", &error.to_string());
        }
        tail.text("eventCategory", "Management");
        tail.text("eventID", &event_id);
        tail.text("eventName", self.name);
        tail.text("eventSource", "kms.amazonaws.com");
        tail.text("eventTime", &self.time.to_string());
        let (event_type, details) = match &self.kind {
            EventKind::Call(_) => ("AwsApiCall", &Value::Null),
            EventKind::Service(details) => ("AwsServiceEvent", details),
        };
        tail.text("eventType", event_type);
        tail.text("eventVersion", "1.08");
        tail.add("managementEvent", &Value::Bool(true));
        tail.add("readOnly", &Value::Bool(self.read_only));
        tail.text("recipientAccountId", &self.account);
        match &self.kind {
            EventKind::Call(caller) if caller.request_id().is_some() => {
                tail.text("requestID", caller.request_id().unwrap_or_default());
            }
            EventKind::Call(_) => tail.text("requestID", &uuid(entropy)),
            EventKind::Service(_) => {}
        }
        tail.add("requestParameters", &self.parameters);
        let resources = self
            .resources
            .iter()
            .map(|arn| json!({ "ARN": arn.as_str(), "accountId": arn.account(), "type": "AWS::KMS::Key" }));
        tail.add("resources", &Value::Array(resources.collect()));
        tail.add("responseElements", &self.response);
        tail.present("serviceEventDetails", details);
        match &self.kind {
            EventKind::Call(caller) => {
                tail.text("sourceIPAddress", caller.source_ip());
                tail.text("userAgent", caller.user_agent());
                tail.add("userIdentity", &identity(caller));
            }
            EventKind::Service(_) => {
                tail.text("sourceIPAddress", "AWS Internal");
                tail.text("userAgent", "AWS Internal");
                tail.add("userIdentity", &json!({ "accountId": self.account, "invokedBy": "AWS Internal" }));
            }
        }
        tail.0.push('}');
        Rendered { event_id, head: head.0, tail: tail.0 }
    }
}

fn identity(caller: &Caller) -> Value {
    let principal = caller.principal();
    let kind = match principal.kind() {
        PrincipalKind::Root => "Root",
        PrincipalKind::User => "IAMUser",
        PrincipalKind::Role => "Role",
    };
    let mut identity = json!({
        "accountId": principal.account().as_str(),
        "arn": principal.arn(),
        "principalId": principal.name(),
        "type": kind,
    });
    if principal.kind() == PrincipalKind::User {
        identity["userName"] = principal.name().into();
    }
    if let Some(service) = caller.service() {
        identity["invokedBy"] = service.into();
    }
    identity
}

impl Rendered {
    /// The line without its MAC: what the MAC covers.
    pub fn unsigned(&self, seq: u64, prev: &str) -> String {
        format!("{}\"chain\":{{\"prev\":\"{prev}\",\"seq\":{seq}}},{}", self.head, self.tail)
    }

    /// The whole line, without line feed.
    pub fn line(&self, seq: u64, prev: &str, mac: &str) -> String {
        format!("{}\"chain\":{{\"mac\":\"{mac}\",\"prev\":\"{prev}\",\"seq\":{seq}}},{}", self.head, self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEntropy;
    use crate::kms::model::Principal;

    #[test]
    fn lines_are_canonical_json() {
        let account = "111122223333".parse().expect("account");
        let region: crate::types::Region = "us-east-1".parse().expect("Region");
        let caller = Caller::new(Principal::user(&account, "alice"), region.clone()).via_service("kmsfs.local");
        let arn: KeyArn = "arn:aws:kms:us-east-1:111122223333:key/k".parse().expect("ARN");
        for (kind, additional, error) in [
            (EventKind::Call(caller.clone()), json!({"keyMaterialId": "ab"}), Some(KmsError::Disabled(arn.clone()))),
            (EventKind::Call(caller), Value::Null, None),
            (EventKind::Service(json!({"keyId": "k"})), Value::Null, None),
        ] {
            let event = Event {
                time: Timestamp::from_secs(1_767_225_600),
                name: "Decrypt",
                kind,
                read_only: true,
                account: "111122223333".into(),
                region: "us-east-1".into(),
                parameters: json!({"keyId": "k\"\u{1}", "encryptionContext": {"z": "1", "\u{e4}": "2"}}),
                response: Value::Null,
                additional,
                error,
                resources: vec![arn.clone()],
            };
            let rendered = event.render(&SeededEntropy::new(1));
            for line in [rendered.unsigned(7, "00"), rendered.line(7, "00", "11")] {
                let value: Value = serde_json::from_str(&line).expect("JSON");
                let mut canonical = String::new();
                canonical::write(&value, &mut canonical);
                assert_eq!(canonical, line);
                assert_eq!(value["chain"]["seq"], 7);
                assert_eq!(value["eventID"], rendered.event_id);
            }
        }
    }
}
