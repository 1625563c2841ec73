//! One event and its line.

use aws_lc_rs::hmac;
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
    /// The key manager itself.
    Service {
        /// For `serviceEventDetails`.
        details: Value,
        account: String,
        region: String,
    },
}

/// What is recorded of one call. Nothing in it is secret.
#[derive(Debug, Clone)]
pub struct Event {
    pub time: Timestamp,
    pub name: &'static str,
    pub kind: EventKind,
    pub read_only: bool,
    pub parameters: Value,
    pub response: Value,
    pub additional: Value,
    pub error: Option<KmsError>,
    pub resources: Vec<KeyArn>,
}

/// An event's line in two parts, between which the chain member goes: canonical JSON sorts `chain` after `awsRegion`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    pub event_id: String,
    /// Empty for events that are no calls.
    pub request_id: String,
    /// `{` ... up to and without `"chain"`, with the trailing comma.
    pub head: String,
    /// From behind the comma after `"chain"` to `}`.
    pub tail: String,
}

/// The random bytes of an event's ids: of the event, and of the request if the transport made none.
pub const ID_BYTES: usize = 32;

fn uuid(random: [u8; 16], out: &mut String) {
    let id = uuid::Builder::from_random_bytes(random).into_uuid();
    out.push_str(id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()));
}

/// Members of an object, in order.
struct Members<'a>(&'a mut String);

impl Members<'_> {
    fn add(&mut self, name: &str, value: &Value) {
        self.name(name);
        canonical::write(value, self.0);
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        canonical::string(value, self.0);
    }

    fn raw(&mut self, name: &str, json: &str) {
        self.name(name);
        self.0.push_str(json);
    }

    /// A name of ours, which needs no escapes.
    fn name(&mut self, name: &str) {
        if !self.0.is_empty() && !self.0.ends_with('{') {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
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
        let mut rendered = Rendered::default();
        self.render_into(&random(entropy), &mut rendered);
        rendered
    }

    /// Writes the line over `out`, whose memory is used again.
    pub fn render_into(&self, ids: &[u8; ID_BYTES], out: &mut Rendered) {
        let Rendered { event_id, request_id, head, tail } = out;
        [&mut *event_id, &mut *request_id, &mut *head, &mut *tail].into_iter().for_each(String::clear);
        let (event_random, request_random) = ids.split_at(16);
        uuid(event_random.try_into().expect("half of 32"), event_id);
        head.push('{');
        let mut members = Members(head);
        members.present("additionalEventData", &self.additional);
        members.text("awsRegion", self.region());
        head.push(',');

        let mut members = Members(tail);
        if let Some(error) = &self.error {
            members.text("errorCode", error.code());
            members.text("errorMessage", &error.to_string());
        }
        members.raw("eventCategory", "\"Management\"");
        members.text("eventID", event_id);
        members.text("eventName", self.name);
        members.raw("eventSource", "\"kms.amazonaws.com\"");
        members.text("eventTime", &self.time.to_string());
        let (event_type, details) = match &self.kind {
            EventKind::Call(_) => ("\"AwsApiCall\"", &Value::Null),
            EventKind::Service { details, .. } => ("\"AwsServiceEvent\"", details),
        };
        members.raw("eventType", event_type);
        members.raw("eventVersion", "\"1.08\"");
        members.raw("managementEvent", "true");
        members.raw("readOnly", if self.read_only { "true" } else { "false" });
        members.text("recipientAccountId", self.account());
        if let EventKind::Call(caller) = &self.kind {
            match caller.request_id() {
                Some(id) => request_id.push_str(id),
                None => uuid(request_random.try_into().expect("half of 32"), request_id),
            }
            members.text("requestID", request_id);
        }
        members.add("requestParameters", &self.parameters);
        members.name("resources");
        members.0.push('[');
        for (at, arn) in self.resources.iter().enumerate() {
            members.0.push_str(if at == 0 { "{" } else { ",{" });
            members.text("ARN", arn.as_str());
            members.text("accountId", arn.account());
            members.raw("type", "\"AWS::KMS::Key\"}");
        }
        members.0.push(']');
        members.add("responseElements", &self.response);
        members.present("serviceEventDetails", details);
        match &self.kind {
            EventKind::Call(caller) => {
                members.text("sourceIPAddress", caller.source_ip());
                members.text("userAgent", caller.user_agent());
                members.raw("userIdentity", caller.identity(|| identity(caller)));
            }
            EventKind::Service { account, .. } => {
                members.text("sourceIPAddress", "AWS Internal");
                members.text("userAgent", "AWS Internal");
                members.add("userIdentity", &json!({ "accountId": account, "invokedBy": "AWS Internal" }));
            }
        }
        tail.push('}');
    }

    /// ARN of the principal that called.
    pub fn principal(&self) -> Option<&str> {
        match &self.kind {
            EventKind::Call(caller) => Some(caller.principal().arn()),
            EventKind::Service { .. } => None,
        }
    }

    fn account(&self) -> &str {
        match &self.kind {
            EventKind::Call(caller) => caller.account().as_str(),
            EventKind::Service { account, .. } => account,
        }
    }

    fn region(&self) -> &str {
        match &self.kind {
            EventKind::Call(caller) => caller.region().as_str(),
            EventKind::Service { region, .. } => region,
        }
    }
}

/// `userIdentity` of a caller, rendered.
fn identity(caller: &Caller) -> String {
    let principal = caller.principal();
    let kind = match principal.kind() {
        PrincipalKind::Root => "Root",
        PrincipalKind::User => "IAMUser",
        PrincipalKind::Role => "Role",
    };
    let mut identity = json!({
        "accountId": principal.account().as_str(),
        "arn": principal.arn(),
        "principalId": principal.id(),
        "type": kind,
    });
    if principal.kind() == PrincipalKind::User {
        identity["userName"] = principal.name().into();
    }
    if let Some(service) = caller.service() {
        identity["invokedBy"] = service.into();
    }
    let mut text = String::new();
    canonical::write(&identity, &mut text);
    text
}

/// What the MAC of a line covers: the line without it.
pub fn chained_parts<'t>(head: &'t str, prev: &'t str, seq: &'t str, tail: &'t str) -> [&'t str; 7] {
    [head, "\"chain\":{\"prev\":\"", prev, "\",\"seq\":", seq, "},", tail]
}

impl Rendered {
    /// The line without its MAC, in the parts that the MAC covers.
    pub fn mac(&self, seq: u64, prev: &str, key: &hmac::Key) -> [u8; 32] {
        let mut mac = hmac::Context::with_key(key);
        let seq = seq.to_string();
        let parts = chained_parts(&self.head, prev, &seq, &self.tail);
        parts.iter().for_each(|part| mac.update(part.as_bytes()));
        mac.sign().as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")
    }

    /// Appends the whole line, without line feed.
    pub fn line(&self, seq: u64, prev: &str, mac: &str, out: &mut String) {
        let chain = ["\"chain\":{\"mac\":\"", mac, "\",\"prev\":\"", prev, "\",\"seq\":", &seq.to_string(), "},"];
        out.push_str(&self.head);
        chain.iter().for_each(|part| out.push_str(part));
        out.push_str(&self.tail);
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
            (
                EventKind::Service {
                    details: json!({"keyId": "k"}),
                    account: "111122223333".into(),
                    region: "us-east-1".into(),
                },
                Value::Null,
                None,
            ),
        ] {
            let event = Event {
                time: Timestamp::from_secs(1_767_225_600),
                name: "Decrypt",
                kind,
                read_only: true,
                parameters: json!({"keyId": "k\"\u{1}", "encryptionContext": {"z": "1", "\u{e4}": "2"}}),
                response: Value::Null,
                additional,
                error,
                resources: vec![arn.clone(), arn.clone()],
            };
            let rendered = event.render(&SeededEntropy::new(1));
            let mut line = String::new();
            rendered.line(7, "00", "11", &mut line);
            let value: Value = serde_json::from_str(&line).expect("JSON");
            let mut canonical = String::new();
            canonical::write(&value, &mut canonical);
            assert_eq!(canonical, line);
            assert_eq!((&value["chain"]["seq"], &value["eventID"]), (&7.into(), &rendered.event_id.as_str().into()));
            // The MAC is over the canonical line without its own member.
            let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
            let unsigned = line.replace("\"mac\":\"11\",", "");
            assert_eq!(rendered.mac(7, "00", &key), hmac::sign(&key, unsigned.as_bytes()).as_ref());
        }
    }
}
