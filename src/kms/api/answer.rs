//! The answer of an operation as JSON.

use std::fmt;

use data_encoding::BASE64;
use serde::Serialize;
use zeroize::Zeroizing;

use super::input::is_member;
use crate::kms::KmsError;
use crate::kms::engine::camel;
use crate::kms::model::Plaintext;

/// The body of an answer; empty for operations without output. Wiped on drop: it may hold plaintext.
pub struct Answer(Zeroizing<Vec<u8>>);

impl Answer {
    /// `response` as JSON. Plaintext is not in it: [`Self::reveal`] adds it.
    pub fn new(response: &impl Serialize) -> Result<Self, KmsError> {
        let failed = |error| KmsError::Internal(format!("the answer cannot be written as JSON: {error}"));
        let json = serde_json::to_vec(response).map_err(failed)?;
        Ok(Self(Zeroizing::new(if json == b"null" { Vec::new() } else { json })))
    }

    /// Adds `plaintext` in base64 as the member that the field `field` stands for.
    #[must_use]
    pub fn reveal(self, field: &str, plaintext: &Plaintext) -> Self {
        let name = pascal(field);
        let encoded = BASE64.encode_len(plaintext.expose().len());
        // One buffer that is large enough from the start, so that no copy is left behind by growing.
        let mut json = Zeroizing::new(Vec::with_capacity(self.0.len() + name.len() + encoded + 8));
        json.extend_from_slice(self.0.strip_suffix(b"}").unwrap_or(b"{"));
        if json.len() > 1 {
            json.push(b',');
        }
        json.extend_from_slice(format!("\"{name}\":\"").as_bytes());
        let start = json.len();
        json.resize(start + encoded, 0);
        BASE64.encode_mut(plaintext.expose(), &mut json[start..]);
        json.extend_from_slice(b"\"}");
        Self(json)
    }

    /// The JSON, or nothing.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({} bytes)", self.0.len())
    }
}

/// AWS's name of a field: `key_id` is `KeyId`.
pub fn pascal(field: &str) -> String {
    let mut name = camel(field);
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    debug_assert!(is_member(field, &name));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Response {
        key_id: &'static str,
    }

    #[derive(Serialize)]
    struct Nothing {}

    #[test]
    fn plaintext_is_added_in_base64() {
        let secret = Plaintext::from(&b"secret"[..]);
        let answer = Answer::new(&Response { key_id: "k" }).expect("written");
        assert_eq!(answer.as_bytes(), br#"{"KeyId":"k"}"#);
        let answer = answer.reveal("private_key_plaintext", &secret);
        assert_eq!(answer.as_bytes(), br#"{"KeyId":"k","PrivateKeyPlaintext":"c2VjcmV0"}"#);
        assert_eq!(
            Answer::new(&Nothing {}).expect("written").reveal("plaintext", &secret).as_bytes(),
            br#"{"Plaintext":"c2VjcmV0"}"#
        );
        assert_eq!(Answer::new(&()).expect("written").as_bytes(), b"");
    }
}
