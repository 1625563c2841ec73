//! Canonical JSON (RFC 8785) of the values that occur in the log: no fractions.

use serde_json::Value;

use crate::types::EncryptionContext;

/// Canonical JSON as text; empty where there is nothing to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Canonical(String);

/// The value of one member, borrowed.
#[derive(Debug, Clone, Copy)]
pub enum Member<'a> {
    /// Left out.
    Absent,
    Text(&'a str),
    Number(u32),
    True,
    Context(&'a EncryptionContext),
}

impl Canonical {
    /// An object with these members, which come in any order; nothing if all are absent.
    pub fn object<const N: usize>(mut members: [(&str, Member<'_>); N]) -> Self {
        members.sort_unstable_by_key(|(name, _)| *name);
        let mut out = String::with_capacity(384);
        for (name, member) in members {
            if matches!(member, Member::Absent) {
                continue;
            }
            out.push(if out.is_empty() { '{' } else { ',' });
            string(name, &mut out);
            out.push(':');
            member.write(&mut out);
        }
        if !out.is_empty() {
            out.push('}');
        }
        Self(out)
    }

    /// The text; empty if there is nothing to say.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same to look into.
    pub fn to_value(&self) -> Value {
        match self.0.as_str() {
            "" => Value::Null,
            json => serde_json::from_str(json).expect("it was written as JSON"),
        }
    }
}

impl From<Value> for Canonical {
    fn from(value: Value) -> Self {
        let mut out = String::new();
        if !value.is_null() {
            write(&value, &mut out);
        }
        Self(out)
    }
}

impl<'a> Member<'a> {
    /// The encryption context, left out when empty.
    pub fn context(context: &'a EncryptionContext) -> Self {
        if context.pairs().len() == 0 { Self::Absent } else { Self::Context(context) }
    }

    /// `true`, or left out.
    pub fn flag(value: bool) -> Self {
        if value { Self::True } else { Self::Absent }
    }

    fn write(self, out: &mut String) {
        match self {
            Self::Absent => out.push_str("null"),
            Self::Text(text) => string(text, out),
            Self::Number(number) => out.push_str(&number.to_string()),
            Self::True => out.push_str("true"),
            Self::Context(context) => write_context(context, out),
        }
    }
}

impl<'a> From<&'a str> for Member<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a, T: Into<Self>> From<Option<T>> for Member<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Absent, Into::into)
    }
}

impl From<u32> for Member<'_> {
    fn from(number: u32) -> Self {
        Self::Number(number)
    }
}

fn write_context(context: &EncryptionContext, out: &mut String) {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    let sorted = context.pairs().all(|(name, _)| name.is_ascii());
    if !sorted {
        pairs.extend(context.pairs());
        pairs.sort_unstable_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    }
    out.push('{');
    let mut first = true;
    let mut member = |(name, value): (&str, &str)| {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        string(name, out);
        out.push(':');
        string(value, out);
    };
    match sorted {
        true => context.pairs().for_each(&mut member),
        false => pairs.into_iter().for_each(&mut member),
    }
    out.push('}');
}

/// Appends `value`: members sorted by UTF-16 code units, no white space.
pub fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            // The order of UTF-16 code units is that of the bytes as long as both are ASCII.
            members.sort_unstable_by(|(a, _), (b, _)| match a.is_ascii() && b.is_ascii() {
                true => a.cmp(b),
                false => a.encode_utf16().cmp(b.encode_utf16()),
            });
            out.push('{');
            for (at, (name, value)) in members.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                string(name, out);
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::String(text) => string(text, out),
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(value) => out.push_str(&value.to_string()),
    }
}

/// Appends a JSON string; serde_json escapes exactly what RFC 8785 demands.
pub fn string(text: &str, out: &mut String) {
    // Without a way out of the loop it is done many bytes at a time.
    let special = text.bytes().fold(false, |found, byte| found | (byte < 0x20) | (byte == b'"') | (byte == b'\\'));
    if !special {
        out.reserve(text.len() + 2);
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::to_string(text).expect("a string serialises"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_what_their_values_would_be() {
        let context: EncryptionContext = [("z", "\"1\n"), ("\u{fb33}", "2"), ("\u{1f600}", "3"), ("\\", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect();
        let value = serde_json::json!({
            "keyId": "k\u{1}", "dryRun": true, "n": 7,
            "encryptionContext": context.pairs().map(|(n, v)| (n.to_owned(), v.into())).collect::<serde_json::Map<_, _>>(),
        });
        let object = Canonical::object([
            ("n", 7.into()),
            ("keyId", "k\u{1}".into()),
            ("absent", None::<&str>.into()),
            ("dryRun", Member::flag(true)),
            ("encryptionContext", Member::context(&context)),
        ]);
        assert_eq!(object, value.clone().into());
        assert_eq!(object.to_value(), value);
        let nothing = Canonical::object([("a", Member::flag(false)), ("b", Member::context(&Default::default()))]);
        assert_eq!((nothing.as_str(), nothing.to_value()), ("", Value::Null));
        assert_eq!(nothing, Value::Null.into());
    }

    #[test]
    fn members_are_sorted_by_utf16() {
        // RFC 8785 section 3.2.3, strings only.
        let value: Value = serde_json::from_str(
            "{\"\\u20ac\":\"Euro\",\"\\r\":\"CR\",\"\\ufb33\":\"Dalet\",\"1\":\"One\",\"\\ud83d\\ude00\":\"Smile\",\
             \"\\u0080\":\"Control\",\"\\u00f6\":\"o\"}",
        )
        .expect("valid JSON");
        let mut out = String::new();
        write(&value, &mut out);
        let order: Vec<usize> = ["CR", "One", "Control", "\"o\"", "Euro", "Smile", "Dalet"]
            .map(|word| out.find(word).expect("there"))
            .into();
        assert!(order.is_sorted(), "{out}");
        assert!(out.starts_with("{\"\\r\":\"CR\",\"1\":"), "{out}");
    }
}
