//! Canonical JSON (RFC 8785) of the values that occur in the log: no fractions.

use serde_json::Value;

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
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
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
