//! Typed access to the members of a request: wrong JSON types are `SerializationException`; missing members and words that
//! an enumeration does not have are `ValidationException`, all of them in one answer (KMS.md section 5).

use std::cell::RefCell;

use data_encoding::BASE64;
use zeroize::Zeroizing;

use crate::kms::KmsError;
use crate::kms::engine::{Constraints, camel};
use crate::kms::json::{Json, Text};
use crate::kms::model::{KeyStorePassword, Plaintext, Tag, Word};
use crate::types::{EncryptionContext, Timestamp};

/// The members of a request, or of an object within one, and what is wrong with those read so far.
pub struct Input<'a> {
    members: &'a [(Text<'a>, Json<'a>)],
    /// Where the object stands, for the texts: empty, or `tags.1.member.`.
    path: String,
    problems: &'a RefCell<Problems>,
}

/// What was found wrong while reading.
#[derive(Default)]
pub struct Problems {
    serialization: Option<String>,
    constraints: Constraints,
}

impl Problems {
    /// Refuses the request if anything was wrong, and says then what `more` finds. Types come before constraints.
    pub fn done(mut self, more: impl FnOnce(&mut Constraints)) -> Result<(), KmsError> {
        if let Some(text) = self.serialization {
            return Err(KmsError::Serialization(text));
        }
        if !self.constraints.is_empty() {
            more(&mut self.constraints);
        }
        self.constraints.done()
    }
}

/// A type that a member can have. `path` is the member's name in AWS's texts.
pub trait Member: Sized {
    /// The value, or `None` after telling `problems` what is wrong.
    fn read(json: &Json<'_>, path: &str, problems: &RefCell<Problems>) -> Option<Self>;
}

impl<'a> Input<'a> {
    pub fn new(members: &'a [(Text<'a>, Json<'a>)], problems: &'a RefCell<Problems>) -> Self {
        Self { members, path: String::new(), problems }
    }

    /// The member that `field` stands for; it must be there.
    pub fn required<T: Member>(&self, field: &str) -> Option<T> {
        match self.find(field) {
            Some(json) => T::read(json, &self.path_of(field), self.problems),
            None => {
                let path = self.path_of(field);
                self.problems.borrow_mut().constraints.missing(&path);
                None
            }
        }
    }

    /// The member that `field` stands for, or `None`. The outer `None` says that it was wrong.
    #[expect(clippy::option_option, reason = "the outer one is the outcome of reading")]
    pub fn optional<T: Member>(&self, field: &str) -> Option<Option<T>> {
        match self.find(field) {
            Some(json) => T::read(json, &self.path_of(field), self.problems).map(Some),
            None => Some(None),
        }
    }

    /// The member that `field` stands for, or its type's default.
    pub fn or_default<T: Member + Default>(&self, field: &str) -> Option<T> {
        self.optional(field).map(Option::unwrap_or_default)
    }

    fn find(&self, field: &str) -> Option<&'a Json<'a>> {
        let found = self.members.iter().find(|(name, _)| is_member(field, name.as_str()));
        found.map(|(_, json)| json).filter(|json| !matches!(json, Json::Null))
    }

    fn path_of(&self, field: &str) -> String {
        format!("{}{}", self.path, camel(field))
    }
}

/// Whether AWS's member `name` is that of `field`: `KeyId` is that of `key_id`.
pub fn is_member(field: &str, name: &str) -> bool {
    let mut word_starts = true;
    let mut name = name.bytes();
    for byte in field.bytes() {
        if byte == b'_' {
            word_starts = true;
            continue;
        }
        let expected = if word_starts { byte.to_ascii_uppercase() } else { byte };
        word_starts = false;
        if name.next() != Some(expected) {
            return false;
        }
    }
    name.next().is_none()
}

fn wrong_type<T>(json: &Json<'_>, wanted: &str, path: &str, problems: &RefCell<Problems>) -> Option<T> {
    let text = || format!("{} can not be converted to {wanted} at '{path}'", json.kind());
    problems.borrow_mut().serialization.get_or_insert_with(text);
    None
}

impl Member for String {
    fn read(json: &Json<'_>, path: &str, problems: &RefCell<Problems>) -> Option<Self> {
        match json {
            Json::Text(text) => Some(text.as_str().to_owned()),
            other => wrong_type(other, "a String", path, problems),
        }
    }
}

impl Member for bool {
    fn read(json: &Json<'_>, path: &str, problems: &RefCell<Problems>) -> Option<Self> {
        match json {
            Json::Bool(value) => Some(*value),
            other => wrong_type(other, "a Boolean", path, problems),
        }
    }
}

impl Member for u32 {
    fn read(json: &Json<'_>, path: &str, problems: &RefCell<Problems>) -> Option<Self> {
        match json {
            Json::Integer(value) => match i32::try_from(*value) {
                Ok(value) => match Self::try_from(value) {
                    Ok(value) => Some(value),
                    Err(_) => {
                        // The operations' own bounds start at 1 or above.
                        problems.borrow_mut().constraints.too_small(path, &value, 1);
                        None
                    }
                },
                Err(_) => wrong_type(json, "an Integer", path, problems),
            },
            other => wrong_type(other, "an Integer", path, problems),
        }
    }
}

impl Member for Timestamp {
    fn read(json: &Json<'_>, path: &str, problems: &RefCell<Problems>) -> Option<Self> {
        match json {
            Json::Integer(secs) => Some(Self::from_secs(*secs)),
            // Nanoseconds up to the year 2262; later ones saturate, and the operations refuse them.
            Json::Float(secs) => Some(Self::from_nanos((secs * 1e9) as i64)),
            other => wrong_type(other, "a Timestamp", path, problems),
        }
    }
}

impl Member for Zeroizing<Vec<u8>> {
    fn read(json: &Json<'_>, path: &str, problems: &RefCell<Problems>) -> Option<Self> {
        let Json::Text(text) = json else { return wrong_type(json, "a Blob", path, problems) };
        match BASE64.decode(text.as_str().as_bytes()).map(Zeroizing::new) {
            Ok(bytes) => Some(bytes),
            Err(_) => {
                let text = || format!("The value at '{path}' is not valid base64");
                problems.borrow_mut().serialization.get_or_insert_with(text);
                None
            }
        }
    }
}

impl Member for Vec<u8> {
    fn read(json: &Json<'_>, path: &str, problems: &RefCell<Problems>) -> Option<Self> {
        Zeroizing::<Vec<u8>>::read(json, path, problems).map(|mut bytes| std::mem::take(&mut *bytes))
    }
}

impl Member for Plaintext {
    fn read(json: &Json<'_>, path: &str, problems: &RefCell<Problems>) -> Option<Self> {
        Zeroizing::<Vec<u8>>::read(json, path, problems).map(|bytes| Self::from(&bytes[..]))
    }
}

impl Member for KeyStorePassword {
    fn read(json: &Json<'_>, path: &str, problems: &RefCell<Problems>) -> Option<Self> {
        match json {
            Json::Text(text) => Some(text.as_str().into()),
            other => wrong_type(other, "a String", path, problems),
        }
    }
}

impl Member for EncryptionContext {
    fn read(json: &Json<'_>, path: &str, problems: &RefCell<Problems>) -> Option<Self> {
        let Json::Object(members) = json else { return wrong_type(json, "a Map", path, problems) };
        let pair = |(name, value): &(Text<'_>, Json<'_>)| {
            Some((name.as_str().to_owned(), String::read(value, &format!("{path}.{}", name.as_str()), problems)?))
        };
        members.iter().map(pair).collect()
    }
}

impl<T: Member> Member for Vec<T> {
    fn read(json: &Json<'_>, path: &str, problems: &RefCell<Problems>) -> Option<Self> {
        let Json::List(items) = json else { return wrong_type(json, "a List", path, problems) };
        let item = |(at, item): (usize, &Json<'_>)| T::read(item, &format!("{path}.{}.member", at + 1), problems);
        items.iter().enumerate().map(item).collect()
    }
}

impl<T: Word> Member for T {
    fn read(json: &Json<'_>, path: &str, problems: &RefCell<Problems>) -> Option<Self> {
        let Json::Text(text) = json else { return wrong_type(json, "a String", path, problems) };
        let found = Self::all().iter().copied().find(|word| word.word() == text.as_str());
        found.or_else(|| {
            let words: Vec<&str> = Self::all().iter().map(|word| word.word()).collect();
            problems.borrow_mut().constraints.not_in(path, text.as_str(), &words);
            None
        })
    }
}

/// A member that is an object: reads its members with `read`, whose [`Input`] names them by their full path.
pub fn object<T>(
    json: &Json<'_>,
    path: &str,
    problems: &RefCell<Problems>,
    read: impl FnOnce(&Input<'_>) -> Option<T>,
) -> Option<T> {
    let Json::Object(members) = json else { return wrong_type(json, "a Structure", path, problems) };
    read(&Input { members, path: format!("{path}."), problems })
}

impl Member for Tag {
    fn read(json: &Json<'_>, path: &str, problems: &RefCell<Problems>) -> Option<Self> {
        object(json, path, problems, |input| {
            let (tag_key, tag_value) = (input.required("tag_key"), input.required("tag_value"));
            Some(Self { tag_key: tag_key?, tag_value: tag_value? })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::model::KeySpec;

    fn read<T: Member>(body: &str) -> Result<T, KmsError> {
        let problems = RefCell::default();
        let json = Json::parse(body.as_bytes()).expect("JSON");
        let value = T::read(&json, "member", &problems);
        value.ok_or_else(|| problems.into_inner().done(|_| ()).expect_err("a reason"))
    }

    #[test]
    fn names() {
        assert!(is_member("key_id", "KeyId") && is_member("xks_proxy_uri_path", "XksProxyUriPath"));
        for other in ["keyId", "KeyI", "KeyIdd", "Key_Id", "KEYID", ""] {
            assert!(!is_member("key_id", other), "{other}");
        }
    }

    #[test]
    fn types_are_strict() {
        assert_eq!(read::<u32>("1024"), Ok(1024));
        assert_eq!(read::<Vec<u8>>("\"AAEC\"").expect("base64"), [0, 1, 2]);
        assert_eq!(read::<Vec<u8>>(r#""\/\/8=""#).expect("base64 with escapes"), [255, 255]);
        assert_eq!(read::<Timestamp>("1.5"), Ok(Timestamp::from_nanos(1_500_000_000)));
        assert_eq!(read::<Vec<String>>("[\"a\"]"), Ok(vec!["a".to_owned()]));
        let serialization = |error: KmsError| assert_eq!(error.code(), "SerializationException", "{error}");
        for wrong in ["\"1\"", "1.0", "4294967296", "true", "[1]"] {
            serialization(read::<u32>(wrong).expect_err("no integer"));
        }
        serialization(read::<String>("1").expect_err("no text"));
        serialization(read::<Vec<u8>>("\"AAE\"").expect_err("no base64"));
        serialization(read::<EncryptionContext>(r#"{"a":1}"#).expect_err("no text"));
        serialization(read::<bool>("\"true\"").expect_err("no boolean"));
        serialization(read::<Vec<Tag>>("[1]").expect_err("no structure"));
    }

    #[test]
    fn violations_are_counted() {
        let text = |error: KmsError| (error.code(), error.to_string());
        assert_eq!(
            text(read::<Vec<Tag>>(r#"[{"TagKey":"a","TagValue":"b"},{}]"#).expect_err("missing")),
            (
                "ValidationException",
                "2 validation errors detected: Value null at 'member.2.member.tagKey' failed to satisfy constraint: \
                 Member must not be null; Value null at 'member.2.member.tagValue' failed to satisfy constraint: \
                 Member must not be null"
                    .to_owned()
            )
        );
        let (code, message) = text(read::<KeySpec>("\"AES_999\"").expect_err("unknown"));
        assert_eq!(code, "ValidationException");
        assert!(
            message.starts_with(
                "1 validation error detected: Value 'AES_999' at 'member' failed to satisfy constraint: Member must \
                 satisfy enum value set: [SYMMETRIC_DEFAULT, RSA_2048, "
            ),
            "{message}"
        );
        assert_eq!(read::<u32>("-5").expect_err("negative").code(), "ValidationException");
    }
}
