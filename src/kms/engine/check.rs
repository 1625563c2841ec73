//! Constraints of parameters, in AWS's words (KMS.md section 5).

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::kms::KmsError;
use crate::kms::blob::context_len;
use crate::types::EncryptionContext;

/// Collects violations, so that one answer names them all.
#[derive(Default)]
pub struct Constraints(Vec<String>);

/// What reading a request finds.
impl Constraints {
    /// A required member is not there.
    pub fn missing(&mut self, member: &str) {
        self.0.push(format!("Value null at '{member}' failed to satisfy constraint: Member must not be null"));
    }

    /// A word that the enumeration does not have.
    pub fn not_in(&mut self, member: &str, value: &str, words: &[&str]) {
        let rule = format!("Member must satisfy enum value set: [{}]", words.join(", "));
        self.violated(Some(&value), member, rule);
    }

    /// A number below every bound.
    pub fn too_small(&mut self, member: &str, value: &dyn Display, least: u32) {
        self.violated(Some(value), member, format!("Member must have value greater than or equal to {least}"));
    }
}

impl Constraints {
    fn violated(&mut self, value: Option<&dyn Display>, member: &str, rule: impl Display) {
        let value = value.map_or(String::new(), |value| format!(" '{value}'"));
        self.0.push(format!("Value{value} at '{member}' failed to satisfy constraint: {rule}"));
    }

    /// A number within bounds.
    pub fn number(mut self, member: &str, value: Option<u32>, bounds: RangeInclusive<u32>) -> Self {
        if let Some(value) = value {
            if value > *bounds.end() {
                let rule = format!("Member must have value less than or equal to {}", bounds.end());
                self.violated(Some(&value), member, rule);
            } else if value < *bounds.start() {
                let rule = format!("Member must have value greater than or equal to {}", bounds.start());
                self.violated(Some(&value), member, rule);
            }
        }
        self
    }

    /// A text whose length in characters is within bounds.
    pub fn text(mut self, member: &str, value: &str, bounds: RangeInclusive<usize>) -> Self {
        self.length(Some(&value), member, value.chars().count(), bounds);
        self
    }

    /// A list whose number of members is within bounds.
    pub fn list(self, member: &str, len: usize, bounds: RangeInclusive<usize>) -> Self {
        self.bytes(member, len, bounds)
    }

    /// A text that must satisfy `pattern`, and does or does not; its value is not repeated.
    pub fn pattern(mut self, member: &str, satisfied: bool, pattern: &str) -> Self {
        if !satisfied {
            let rule = format!("Member must satisfy regular expression pattern: {pattern}");
            self.violated(None, member, rule);
        }
        self
    }

    /// A text that does not satisfy `pattern`.
    pub fn mismatch(mut self, member: &str, value: &str, pattern: &str) -> Self {
        self.violated(Some(&value), member, format!("Member must satisfy regular expression pattern: {pattern}"));
        self
    }

    /// Bytes whose number is within bounds; their value is not repeated.
    pub fn bytes(mut self, member: &str, len: usize, bounds: RangeInclusive<usize>) -> Self {
        self.length(None, member, len, bounds);
        self
    }

    fn length(&mut self, value: Option<&dyn Display>, member: &str, len: usize, bounds: RangeInclusive<usize>) {
        if len > *bounds.end() {
            let rule = format!("Member must have length less than or equal to {}", bounds.end());
            self.violated(value, member, rule);
        } else if len < *bounds.start() {
            let rule = format!("Member must have length greater than or equal to {}", bounds.start());
            self.violated(value, member, rule);
        }
    }

    /// A key id in any form.
    pub fn key_id(self, member: &str, value: &str) -> Self {
        self.text(member, value, 1..=2048)
    }

    /// An alias name's length and characters.
    pub fn alias_name(self, member: &str, value: &str) -> Self {
        let mut checked = self.text(member, value, 1..=256);
        let legal = |c: char| c.is_ascii_alphanumeric() || ":/_-".contains(c);
        if !value.chars().all(legal) {
            let rule = "Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$";
            checked.violated(Some(&value), member, rule);
        }
        checked
    }

    /// A Region name.
    pub fn region(mut self, member: &str, value: &str) -> Self {
        self = self.text(member, value, 1..=32);
        let mut parts = value.split('-');
        let number = parts.next_back().unwrap_or("");
        let words = parts.map(|word| !word.is_empty() && word.bytes().all(|c| c.is_ascii_lowercase()));
        let words: Vec<bool> = words.collect();
        let digits = !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit());
        if !(digits && matches!(words.len(), 2 | 3) && words.into_iter().all(|word| word)) {
            let rule = "Member must satisfy regular expression pattern: ^([a-z]+-){2,3}\\d+$";
            self.violated(Some(&value), member, rule);
        }
        self
    }

    /// A key material id.
    pub fn material_id(mut self, member: &str, value: Option<&str>) -> Self {
        if let Some(value) = value {
            self = self.text(member, value, 64..=64);
            if !value.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')) {
                self.violated(Some(&value), member, "Member must satisfy regular expression pattern: ^[a-f0-9]+$");
            }
        }
        self
    }

    /// The limit of a page.
    pub fn limit(self, value: Option<u32>, most: u32) -> Self {
        self.number("limit", value, 1..=most)
    }

    /// An encryption context within 8192 bytes of its canonical encoding.
    pub fn context(mut self, member: &str, context: &EncryptionContext) -> Self {
        if context_len(context) > 8192 {
            self.violated(None, member, "Member must have length less than or equal to 8192");
        }
        self
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_awss() {
        let one = Constraints::default().number("numberOfBytes", Some(1025), 1..=1024).done();
        assert_eq!(
            one.expect_err("too large").to_string(),
            "1 validation error detected: Value '1025' at 'numberOfBytes' failed to satisfy constraint: Member must \
             have value less than or equal to 1024"
        );
        let two = Constraints::default().bytes("plaintext", 4097, 1..=4096).key_id("keyId", "").done();
        assert_eq!(
            two.expect_err("both wrong").to_string(),
            "2 validation errors detected: Value at 'plaintext' failed to satisfy constraint: Member must have length \
             less than or equal to 4096; Value '' at 'keyId' failed to satisfy constraint: Member must have length \
             greater than or equal to 1"
        );
        assert_eq!(Constraints::default().alias_name("aliasName", "alias/a_B-9:/").done(), Ok(()));
        assert!(Constraints::default().alias_name("aliasName", "alias/\u{e4}").done().is_err());
    }
}
