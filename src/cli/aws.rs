//! Answers of the key manager in the forms of the aws CLI.

use serde::Serialize;
use serde_json::Value;

use crate::types::Timestamp;

/// `answer` as JSON with AWS's member names, times in ISO 8601 as the aws CLI prints them.
pub fn to_json<T: Serialize>(answer: &T) -> Value {
    let mut value = serde_json::to_value(answer).expect("answers have string keys");
    write_dates(&mut value);
    value
}

/// `NAME` as AWS writes it, `alias/NAME`.
pub fn alias_name(alias: &str) -> String {
    if alias.starts_with("alias/") || alias.starts_with("arn:") { alias.to_owned() } else { format!("alias/{alias}") }
}

/// Turns epoch seconds into text in every member whose name says that it is a time.
fn write_dates(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                let is_time = name.ends_with("Date") || name == "ValidTo";
                match member.as_f64() {
                    Some(seconds) if is_time => *member = Value::String(iso(seconds)),
                    _ => write_dates(member),
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(write_dates),
        _ => {}
    }
}

fn iso(seconds: f64) -> String {
    Timestamp::from_secs(seconds.floor() as i64).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_prefix_of_an_alias_may_be_left_out() {
        assert_eq!(alias_name("a"), "alias/a");
        assert_eq!(alias_name("alias/a"), "alias/a");
        assert_eq!(alias_name("arn:aws:kms:r:1:alias/a"), "arn:aws:kms:r:1:alias/a");
    }

    #[test]
    fn only_times_become_text() {
        let mut value = json!({"Keys": [{"CreationDate": 1767225600.5, "Limit": 3}], "Update": 1.5, "ValidTo": 0.0});
        write_dates(&mut value);
        let expected = json!({
            "Keys": [{"CreationDate": "2026-01-01T00:00:00Z", "Limit": 3}],
            "Update": 1.5,
            "ValidTo": "1970-01-01T00:00:00Z",
        });
        assert_eq!(value, expected);
    }
}
