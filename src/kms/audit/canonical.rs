//! Canonical JSON (RFC 8785) of the values that occur in the log: no fractions.

use serde_json::Value;

/// Appends `value`: members sorted by UTF-16 code units, no white space.
pub fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
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
        Value::Null | Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
    }
}

/// Appends a JSON string; serde_json escapes exactly what RFC 8785 demands.
pub fn string(text: &str, out: &mut String) {
    out.push_str(&serde_json::to_string(text).expect("a string serialises"));
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
