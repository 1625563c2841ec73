//! One event and its line.

use aws_lc_rs::hmac;

use super::canonical::{self, Canonical};
use crate::env::{Entropy, random};
use crate::kms::KmsError;
use crate::kms::model::{Caller, PrincipalKind};
use crate::types::{KeyArn, Timestamp};

/// Who caused an event.
#[derive(Debug, Clone, Copy)]
pub enum EventKind<'a> {
    /// A call of the API.
    Call(&'a Caller),
    /// The key manager itself.
    Service {
        /// For `serviceEventDetails`.
        details: &'a Canonical,
        account: &'a str,
        region: &'a str,
    },
}

/// What is recorded of one call. Nothing in it is secret.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    pub time: Timestamp,
    pub name: &'static str,
    pub kind: EventKind<'a>,
    pub read_only: bool,
    /// Canonical JSON, as the two that follow; empty where there is nothing to say.
    pub parameters: &'a str,
    pub response: &'a str,
    pub additional: &'a str,
    pub error: Option<&'a KmsError>,
    pub resources: &'a [KeyArn],
}

/// An event of the key manager itself.
#[derive(Debug)]
pub struct ServiceEvent {
    pub time: Timestamp,
    pub name: &'static str,
    pub details: Canonical,
    pub account: String,
    pub region: String,
    pub key: Option<KeyArn>,
}

impl ServiceEvent {
    pub fn event(&self) -> Event<'_> {
        Event {
            time: self.time,
            name: self.name,
            kind: EventKind::Service { details: &self.details, account: &self.account, region: &self.region },
            read_only: false,
            parameters: "",
            response: "",
            additional: "",
            error: None,
            resources: self.key.as_slice(),
        }
    }

    /// Its canonical line, with new ids.
    pub fn render(&self, entropy: &dyn Entropy) -> Rendered {
        self.event().render(entropy)
    }
}

/// An event's line in two parts, between which the chain member goes: canonical JSON sorts `chain` after `awsRegion`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    pub event_id: String,
    /// `{` ... up to and without `"chain"`, with the trailing comma.
    pub head: String,
    /// From behind the comma after `"chain"` to `}`.
    pub tail: String,
}

/// The random bytes of an event's ids: of the event, and of the request if the transport made none.
#[derive(Debug, Clone, Copy)]
pub struct Ids(pub [u8; Self::LEN]);

impl Ids {
    pub const LEN: usize = 32;

    fn uuid(&self, at: usize, out: &mut String) {
        let random = self.0[at..at + 16].try_into().expect("half of 32");
        let id = uuid::Builder::from_random_bytes(random).into_uuid();
        out.push_str(id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()));
    }

    /// `eventID`.
    pub fn event(&self) -> String {
        let mut id = String::new();
        self.uuid(0, &mut id);
        id
    }

    /// `requestID`.
    pub fn request(&self, caller: &Caller) -> String {
        let mut id = String::new();
        match caller.request_id() {
            Some(given) => id.push_str(given),
            None => self.uuid(16, &mut id),
        }
        id
    }
}

/// The text of the second that was asked for last: consecutive events mostly have the same.
#[derive(Default)]
pub struct TimeText(Option<i64>, String);

impl TimeText {
    fn of(&mut self, time: Timestamp) -> &str {
        if self.0.replace(time.as_secs()) != Some(time.as_secs()) {
            self.1 = time.to_string();
        }
        &self.1
    }
}

/// Members of an object, in order.
struct Members<'a>(&'a mut String);

impl Members<'_> {
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

    /// Canonical JSON; nothing is `null`.
    fn json(&mut self, name: &str, json: &str) {
        self.raw(name, if json.is_empty() { "null" } else { json });
    }

    /// Canonical JSON, left out where there is nothing.
    fn present(&mut self, name: &str, json: &str) {
        if !json.is_empty() {
            self.raw(name, json);
        }
    }
}

impl<'a> Event<'a> {
    /// The event's canonical line, with new ids.
    pub fn render(&self, entropy: &dyn Entropy) -> Rendered {
        let ids = Ids(random(entropy));
        let mut rendered = Rendered { event_id: ids.event(), ..Rendered::default() };
        self.write(&ids, &mut TimeText::default(), &mut rendered);
        rendered
    }

    /// Writes the two parts of the line over those of `out`, whose memory is used again.
    pub fn write(&self, ids: &Ids, time: &mut TimeText, out: &mut Rendered) {
        let Rendered { head, tail, .. } = out;
        head.clear();
        tail.clear();
        head.push('{');
        let mut members = Members(head);
        members.present("additionalEventData", self.additional);
        members.text("awsRegion", self.region());
        head.push(',');

        let mut members = Members(tail);
        if let Some(error) = self.error {
            members.text("errorCode", error.code());
            members.text("errorMessage", &error.to_string());
        }
        members.raw("eventCategory", "\"Management\",\"eventID\":\"");
        ids.uuid(0, members.0);
        members.0.push_str("\",\"eventName\":\"");
        members.0.push_str(self.name);
        members.0.push_str("\",\"eventSource\":\"kms.amazonaws.com\",\"eventTime\":\"");
        members.0.push_str(time.of(self.time));
        members.0.push_str(match self.kind {
            EventKind::Call(_) => "\",\"eventType\":\"AwsApiCall\"",
            EventKind::Service { .. } => "\",\"eventType\":\"AwsServiceEvent\"",
        });
        members.0.push_str(",\"eventVersion\":\"1.08\",\"managementEvent\":true");
        members.raw("readOnly", if self.read_only { "true" } else { "false" });
        members.text("recipientAccountId", self.account());
        if let EventKind::Call(caller) = self.kind {
            match caller.request_id() {
                Some(id) => members.text("requestID", id),
                None => {
                    members.raw("requestID", "\"");
                    ids.uuid(16, members.0);
                    members.0.push('"');
                }
            }
        }
        members.json("requestParameters", self.parameters);
        members.raw("resources", "[");
        for (at, arn) in self.resources.iter().enumerate() {
            members.0.push_str(if at == 0 { "{" } else { ",{" });
            members.text("ARN", arn.as_str());
            members.text("accountId", arn.account());
            members.raw("type", "\"AWS::KMS::Key\"}");
        }
        members.0.push(']');
        members.json("responseElements", self.response);
        match self.kind {
            EventKind::Call(caller) => {
                members.0.push(',');
                members.0.push_str(caller.identity(|| origin(caller)));
            }
            EventKind::Service { details, account, .. } => {
                members.present("serviceEventDetails", details.as_str());
                members.text("sourceIPAddress", "AWS Internal");
                members.text("userAgent", "AWS Internal");
                members.raw("userIdentity", "{");
                members.text("accountId", account);
                members.text("invokedBy", "AWS Internal");
                members.0.push('}');
            }
        }
        tail.push('}');
    }

    /// Who called.
    pub fn caller(&self) -> Option<&'a Caller> {
        match self.kind {
            EventKind::Call(caller) => Some(caller),
            EventKind::Service { .. } => None,
        }
    }

    fn account(&self) -> &'a str {
        match self.kind {
            EventKind::Call(caller) => caller.account().as_str(),
            EventKind::Service { account, .. } => account,
        }
    }

    fn region(&self) -> &'a str {
        match self.kind {
            EventKind::Call(caller) => caller.region().as_str(),
            EventKind::Service { region, .. } => region,
        }
    }
}

/// The members that tell of the caller: `sourceIPAddress`, `userAgent` and `userIdentity`.
fn origin(caller: &Caller) -> String {
    let principal = caller.principal();
    let kind = match principal.kind() {
        PrincipalKind::Root => "Root",
        PrincipalKind::User => "IAMUser",
        PrincipalKind::Role => "Role",
    };
    let user = (principal.kind() == PrincipalKind::User).then(|| principal.name());
    let identity = Canonical::object([
        ("accessKeyId", caller.access_key_id().into()),
        ("accountId", principal.account().as_str().into()),
        ("arn", principal.arn().into()),
        ("invokedBy", caller.service().into()),
        ("principalId", principal.id().into()),
        ("type", kind.into()),
        ("userName", user.into()),
    ]);
    let mut text = String::new();
    let mut members = Members(&mut text);
    members.text("sourceIPAddress", caller.source_ip());
    members.text("userAgent", caller.user_agent());
    members.json("userIdentity", identity.as_str());
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
    use serde_json::{Value, json};

    use super::*;
    use crate::env::SeededEntropy;
    use crate::kms::model::Principal;

    #[test]
    fn lines_are_canonical_json() {
        let account = "111122223333".parse().expect("account");
        let region: crate::types::Region = "us-east-1".parse().expect("Region");
        let caller = Caller::new(Principal::user(&account, "alice"), region.clone()).via_service("kmsfs.local");
        let arn: KeyArn = "arn:aws:kms:us-east-1:111122223333:key/k".parse().expect("ARN");
        let (disabled, details) = (KmsError::Disabled(arn.clone()), json!({"keyId": "k"}).into());
        let parameters: Canonical = json!({"keyId": "k\"\u{1}", "encryptionContext": {"z": "1", "\u{e4}": "2"}}).into();
        let service = EventKind::Service { details: &details, account: "111122223333", region: "us-east-1" };
        for (kind, additional, error) in [
            (EventKind::Call(&caller), json!({"keyMaterialId": "ab"}), Some(&disabled)),
            (EventKind::Call(&caller), Value::Null, None),
            (service, Value::Null, None),
        ] {
            let additional = Canonical::from(additional);
            let event = Event {
                time: Timestamp::from_secs(1_767_225_600),
                name: "Decrypt",
                kind,
                read_only: true,
                parameters: parameters.as_str(),
                response: "",
                additional: additional.as_str(),
                error,
                resources: &[arn.clone(), arn.clone()],
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
