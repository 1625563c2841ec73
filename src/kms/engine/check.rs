//! Constraints of members, in AWS's words (KMS.md section 5).

use std::fmt::Display;

use super::rules::{Rule, rule};
use crate::kms::KmsError;
use crate::kms::blob::context_len;
use crate::kms::model::{GrantConstraints, KeyStorePassword, Plaintext, Tag, Word};
use crate::types::{EncryptionContext, Timestamp};

/// Collects violations, so that one answer names them all. Members are named by their paths: names of fields, and below
/// them `1.member` for the first item of a list.
#[derive(Default)]
pub struct Constraints(Vec<String>);

/// Holds members of a request against the model: `members!(request: key_id, message)?`, or `members!(key_id, message)?`
/// for variables of these names.
macro_rules! members {
    ($request:ident: $($field:ident),+) => { members!(@ $($field = $request.$field),+) };
    ($($field:ident),+) => { members!(@ $($field = $field),+) };
    (@ $($field:ident = $value:expr),+) => {{
        let mut found = $crate::kms::engine::check::Constraints::default();
        $(found.hold(const { $crate::kms::engine::rules::rule(stringify!($field)) }, stringify!($field), &$value);)+
        found.done()
    }};
}
pub(super) use members;

/// What a member has that a rule applies to.
pub enum Measure<'a> {
    /// Nothing.
    Free,
    /// A number.
    Number(u32),
    /// Characters, which an error repeats.
    Text(&'a str),
    /// Bytes or characters of what an error does not repeat; items of a list.
    Length(usize),
}

/// A type that a member can have.
pub trait Bounded {
    /// What rules apply to.
    fn measure(&self) -> Measure<'_> {
        Measure::Free
    }

    /// Shows `each` the members inside, with their paths from here.
    fn inside(&self, _each: &mut dyn FnMut(&str, &dyn Bounded)) {}
}

impl Constraints {
    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A required member is not there.
    pub fn missing(&mut self, path: &str) {
        self.0.push(format!("Value null at '{}' failed to satisfy constraint: Member must not be null", camel(path)));
    }

    /// A word that the enumeration does not have.
    pub fn not_in(&mut self, path: &str, value: &str, words: &[&str]) {
        self.violated(Some(&value), path, format!("Member must satisfy enum value set: [{}]", words.join(", ")));
    }

    /// A number below every bound.
    pub fn too_small(&mut self, path: &str, value: &dyn Display, least: u32) {
        self.violated(Some(value), path, format!("Member must have value greater than or equal to {least}"));
    }

    /// Holds what stands at `path` against the model.
    pub fn member(&mut self, path: &str, value: &dyn Bounded) {
        // `tags.2.member.tag_key` is any `tags.member.tag_key`.
        let parts: Vec<&str> = path.split('.').filter(|part| !part.bytes().all(|c| c.is_ascii_digit())).collect();
        self.hold(rule(&parts.join(".")), path, value);
    }

    /// Holds what stands at `path` against `rule`, and what is inside against the model.
    pub fn hold(&mut self, rule: Option<Rule>, path: &str, value: &dyn Bounded) {
        if let Some(rule) = rule {
            self.apply(&rule, path, &value.measure());
        }
        value.inside(&mut |name, part| self.member(&format!("{path}.{name}"), part));
    }

    fn apply(&mut self, rule: &Rule, path: &str, measure: &Measure<'_>) {
        let (kind, size, value): (_, usize, Option<&dyn Display>) = match measure {
            Measure::Free => return,
            Measure::Number(number) => ("value", *number as usize, Some(number)),
            Measure::Length(len) => ("length", *len, None),
            // A policy may be long and is not repeated.
            Measure::Text(text) => ("length", text.chars().count(), (path != "policy").then_some(text)),
        };
        let (least, most) = (*rule.bounds.start(), *rule.bounds.end());
        if size > most as usize {
            self.violated(value, path, format!("Member must have {kind} less than or equal to {most}"));
        } else if size < least as usize {
            self.violated(value, path, format!("Member must have {kind} greater than or equal to {least}"));
        }
        if let (Some((pattern, fits)), Measure::Text(text)) = (rule.pattern, measure)
            && !text.is_empty()
            && !fits(text)
        {
            self.violated(value, path, format!("Member must satisfy regular expression pattern: {pattern}"));
        }
    }

    fn violated(&mut self, value: Option<&dyn Display>, path: &str, rule: String) {
        let value = value.map_or(String::new(), |value| format!(" '{value}'"));
        self.0.push(format!("Value{value} at '{}' failed to satisfy constraint: {rule}", camel(path)));
    }

    /// All violations as one error.
    pub fn done(self) -> Result<(), KmsError> {
        match self.0.len() {
            0 => Ok(()),
            1 => Err(KmsError::Validation(format!("1 validation error detected: {}", self.0[0]))),
            n => Err(KmsError::Validation(format!("{n} validation errors detected: {}", self.0.join("; ")))),
        }
    }
}

/// The path in AWS's texts: `tags.1.member.tagKey` for `tags.1.member.tag_key`.
pub fn camel(path: &str) -> String {
    let mut word_starts = false;
    let letter = |c: char| {
        let starts = std::mem::replace(&mut word_starts, c == '_');
        (c != '_').then_some(if starts { c.to_ascii_uppercase() } else { c })
    };
    path.chars().filter_map(letter).collect()
}

impl Bounded for u32 {
    fn measure(&self) -> Measure<'_> {
        Measure::Number(*self)
    }
}

impl Bounded for &str {
    fn measure(&self) -> Measure<'_> {
        Measure::Text(self)
    }
}

impl Bounded for String {
    fn measure(&self) -> Measure<'_> {
        Measure::Text(self)
    }
}

impl Bounded for &[u8] {
    fn measure(&self) -> Measure<'_> {
        Measure::Length(self.len())
    }
}

impl Bounded for Vec<u8> {
    fn measure(&self) -> Measure<'_> {
        Measure::Length(self.len())
    }
}

impl Bounded for Plaintext {
    fn measure(&self) -> Measure<'_> {
        Measure::Length(self.expose().len())
    }
}

impl Bounded for KeyStorePassword {
    fn measure(&self) -> Measure<'_> {
        let continues = |byte: &&u8| **byte & 0xC0 == 0x80;
        Measure::Length(self.expose().len() - self.expose().iter().filter(continues).count())
    }
}

impl Bounded for EncryptionContext {
    fn measure(&self) -> Measure<'_> {
        Measure::Length(context_len(self))
    }
}

impl Bounded for bool {}

impl Bounded for Timestamp {}

impl<T: Word> Bounded for T {}

impl<T: Bounded> Bounded for Option<T> {
    fn measure(&self) -> Measure<'_> {
        self.as_ref().map_or(Measure::Free, T::measure)
    }

    fn inside(&self, each: &mut dyn FnMut(&str, &dyn Bounded)) {
        if let Some(value) = self {
            value.inside(each);
        }
    }
}

impl<T: Bounded> Bounded for &[T] {
    fn measure(&self) -> Measure<'_> {
        Measure::Length(self.len())
    }

    fn inside(&self, each: &mut dyn FnMut(&str, &dyn Bounded)) {
        self.iter().enumerate().for_each(|(at, item)| each(&format!("{}.member", at + 1), item));
    }
}

impl<T: Bounded> Bounded for Vec<T> {
    fn measure(&self) -> Measure<'_> {
        Measure::Length(self.len())
    }

    fn inside(&self, each: &mut dyn FnMut(&str, &dyn Bounded)) {
        self.as_slice().inside(each);
    }
}

impl Bounded for Tag {
    fn inside(&self, each: &mut dyn FnMut(&str, &dyn Bounded)) {
        each("tag_key", &self.tag_key);
        each("tag_value", &self.tag_value);
    }
}

impl Bounded for GrantConstraints {
    fn inside(&self, each: &mut dyn FnMut(&str, &dyn Bounded)) {
        each("source_arn", &self.source_arn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(path: &str, value: &dyn Bounded) -> String {
        let mut found = Constraints::default();
        found.member(path, value);
        found.done().err().map_or(String::new(), |error| error.to_string())
    }

    #[test]
    fn texts_are_awss() {
        assert_eq!(
            violations("number_of_bytes", &1025),
            "1 validation error detected: Value '1025' at 'numberOfBytes' failed to satisfy constraint: Member must \
             have value less than or equal to 1024"
        );
        let (plaintext, key_id) = (vec![0_u8; 4097], String::new());
        let two = members!(plaintext, key_id);
        assert_eq!(
            two.expect_err("both wrong").to_string(),
            "2 validation errors detected: Value at 'plaintext' failed to satisfy constraint: Member must have length \
             less than or equal to 4096; Value '' at 'keyId' failed to satisfy constraint: Member must have length \
             greater than or equal to 1"
        );
        assert!(!violations("key_store_password", &KeyStorePassword::from("secret")).contains("secret"));
        assert_eq!(violations("key_store_password", &KeyStorePassword::from("\u{e4}".repeat(32).as_str())), "");
        assert!(!violations("policy", &"{\u{100}}").contains('{'));
    }

    #[test]
    fn members_inside_members_are_named_by_their_paths() {
        let tag = |key: &str| Tag { tag_key: key.into(), tag_value: "x".repeat(257) };
        let text = violations("tags", &vec![tag("a"), tag("")]);
        assert!(text.starts_with("3 validation errors detected: ") && text.contains(" '' at 'tags.2.member.tagKey' "));
        assert!(violations("grant_tokens", &vec![String::new(); 11]).starts_with("12 validation errors detected: "));
        let constraints = GrantConstraints { source_arn: Some("arn".into()), ..Default::default() };
        assert!(violations("constraints", &Some(constraints)).starts_with("2 validation errors detected: "));
        // Names of an encryption context are the caller's own.
        let context: EncryptionContext =
            ["key_id", "policy"].map(|name| (name.to_owned(), String::new())).into_iter().collect();
        assert_eq!(violations("encryption_context", &context), "");
    }

    #[test]
    fn patterns() {
        let legal = [
            ("alias_name", "alias/a_B-9:/"),
            ("cloud_hsm_cluster_id", "cluster-2a34b5cdefg"),
            ("constraints.source_arn", "arn:aws:ec2:us-east-1:111122223333:volume/v"),
            ("constraints.source_arn", "arn:aws-cn:s3::111122223333:b"),
            ("grantee_principal", "arn:aws:iam::111122223333:user/a+b=c,d.e@f-g_h"),
            ("grantee_service_principal", "kmsfs.us-east-1.local"),
            ("key_material_description", "of 2026: a/b_c.d-e"),
            ("primary_region", "us-gov-east-1"),
            ("policy", "{\n\t\u{ff}}"),
            ("policy_name", "AWS_RAM"),
            ("marker", " \u{ff}"),
        ];
        for (path, text) in legal {
            assert_eq!(violations(path, &text), "", "{path}");
        }
        let illegal = [
            ("alias_name", "alias/\u{e4}"),
            ("name", "a b"),
            ("cloud_hsm_cluster_id", "cluster-11111111111"),
            ("constraints.source_arn", "arn:aws:ec2:us-east-1:1111222233:volume/v"),
            ("constraints.source_arn", "arn:gcp:ec2:us-east-1:111122223333:volume/v"),
            ("retiring_principal", "a b"),
            ("retiring_service_principal", "ec2.com"),
            ("retiring_service_principal", "ec2..amazonaws.com"),
            ("key_material_description", "a\u{e4}"),
            ("replica_region", "us-1"),
            ("replica_region", "US-east-1"),
            ("policy", "\u{100}"),
            ("policy_name", "a-b"),
            ("marker", "\u{100}"),
        ];
        for (path, text) in illegal {
            let found = violations(path, &text);
            assert!(found.contains("regular expression pattern"), "{path}: {found}");
        }
    }
}
