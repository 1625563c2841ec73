//! AWS Signature Version 4: what is signed, and with which key (AWS General Reference, "Create a signed AWS API
//! request"). Shared by who signs requests and who verifies them.

use std::fmt::Write;

use data_encoding::HEXLOWER;
use hmac::{HmacReset, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::kdf::{ct_eq, mac32};
use super::secret::SecretKey;
use crate::sys::wipe::Wiped;
use crate::types::Timestamp;

/// The only algorithm.
pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// Last part of every credential scope.
pub const TERMINATOR: &str = "aws4_request";

/// `20260501T093000Z`, the form of `x-amz-date`.
pub fn iso_basic(at: Timestamp) -> String {
    // 2026-05-01T09:30:00Z without its marks.
    at.to_string().replace(['-', ':'], "")
}

/// The time that [`iso_basic`] wrote.
pub fn parse_iso_basic(text: &str) -> Option<Timestamp> {
    let format = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    let parsed = time::PrimitiveDateTime::parse(text, format).ok()?;
    Some(Timestamp::from_secs(parsed.assume_utc().unix_timestamp()))
}

/// A request as it is signed.
pub struct Request<'a> {
    /// `POST`.
    pub method: &'a str,
    /// The path as it stands in the request line.
    pub path: &'a str,
    /// What follows `?` in the request line.
    pub query: &'a str,
    /// Names in lower case, sorted, each once; the values as sent, those of one name in their order.
    pub headers: &'a [(&'a str, Vec<&'a [u8]>)],
    /// SHA-256 of the body.
    pub payload: [u8; 32],
}

/// Where and when a signature counts.
pub struct Scope<'a> {
    /// `20260501`.
    pub date: &'a str,
    /// `us-east-1`.
    pub region: &'a str,
    /// `kms`.
    pub service: &'a str,
}

impl Scope<'_> {
    /// `20260501/us-east-1/kms/aws4_request`.
    pub fn text(&self) -> String {
        format!("{}/{}/{}/{TERMINATOR}", self.date, self.region, self.service)
    }
}

impl Request<'_> {
    /// The canonical request.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(self.method.as_bytes());
        out.push(b'\n');
        canonical_path(self.path, &mut out);
        out.push(b'\n');
        canonical_query(self.query, &mut out);
        out.push(b'\n');
        for (name, values) in self.headers {
            out.extend_from_slice(name.as_bytes());
            out.push(b':');
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                trimmed(value, &mut out);
            }
            out.push(b'\n');
        }
        out.push(b'\n');
        out.extend_from_slice(self.signed_headers().as_bytes());
        out.push(b'\n');
        out.extend_from_slice(HEXLOWER.encode(&self.payload).as_bytes());
        out
    }

    /// The names of the signed headers, `;` between them.
    pub fn signed_headers(&self) -> String {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| *name).collect();
        names.join(";")
    }

    /// What the signing key signs. `time` is the value of `x-amz-date`, `20260501T093000Z`.
    pub fn string_to_sign(&self, time: &str, scope: &Scope<'_>) -> String {
        let mut text = String::with_capacity(160);
        let hash = HEXLOWER.encode(&Sha256::digest(self.canonical()));
        let written = write!(text, "{ALGORITHM}\n{time}\n{}\n{hash}", scope.text());
        debug_assert!(written.is_ok(), "a String takes everything");
        text
    }
}

/// The path without empty and dot segments, each segment percent-encoded once more. (Only S3 leaves paths as they are.)
fn canonical_path(path: &str, out: &mut Vec<u8>) {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    for segment in &segments {
        out.push(b'/');
        percent_encode(segment.bytes(), out);
    }
    let ends_open = ["/", "/.", "/.."].iter().any(|end| path.ends_with(end));
    if segments.is_empty() || ends_open {
        out.push(b'/');
    }
}

/// The parameters decoded, encoded in the one strict way, and sorted.
fn canonical_query(query: &str, out: &mut Vec<u8>) {
    let canonical = |text: &str| {
        let mut encoded = Vec::with_capacity(text.len());
        percent_encode(percent_decode(text), &mut encoded);
        encoded
    };
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (canonical(name), canonical(value)))
        .collect();
    pairs.sort();
    for (at, (name, value)) in pairs.iter().enumerate() {
        if at > 0 {
            out.push(b'&');
        }
        out.extend_from_slice(name);
        out.push(b'=');
        out.extend_from_slice(value);
    }
}

fn percent_encode(bytes: impl IntoIterator<Item = u8>, out: &mut Vec<u8>) {
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            let hex = |nibble: u8| b"0123456789ABCDEF"[usize::from(nibble)];
            out.extend_from_slice(&[b'%', hex(byte >> 4), hex(byte & 15)]);
        }
    }
}

/// The bytes that percent-encoded `text` stands for; what is no escape stands for itself.
pub fn percent_decode(text: &str) -> Vec<u8> {
    let nibble = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], nibble(bytes.get(at + 1)), nibble(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, _, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// The value without spaces at its ends, and one space for several within.
fn trimmed(value: &[u8], out: &mut Vec<u8>) {
    let words = value.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    for (at, word) in words.enumerate() {
        if at > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word);
    }
}

/// The key that signs for one access key, day, Region and service.
pub struct SigningKey(SecretKey<32>);

impl SigningKey {
    /// Derives it from the secret access key.
    pub fn derive(secret_access_key: &str, scope: &Scope<'_>) -> Self {
        let secret = Zeroizing::new([b"AWS4", secret_access_key.as_bytes()].concat());
        let mut state =
            Wiped::new(HmacReset::<Sha256>::new_from_slice(&secret).expect("HMAC takes keys of every length"));
        state.update(scope.date.as_bytes());
        let mut key = SecretKey::build(|out| out.copy_from_slice(&state.finalize_reset().into_bytes()));
        for part in [scope.region, scope.service, TERMINATOR] {
            key = SecretKey::build(|out| *out = mac32(&key, &[part.as_bytes()]));
        }
        Self(key)
    }

    /// The signature in hexadecimal digits.
    pub fn sign(&self, string_to_sign: &str) -> String {
        HEXLOWER.encode(&mac32(&self.0, &[string_to_sign.as_bytes()]))
    }

    /// Whether `signature` is that of `string_to_sign`; takes the same time wherever it differs.
    pub fn verify(&self, string_to_sign: &str, signature: &str) -> bool {
        ct_eq(self.sign(string_to_sign).as_bytes(), signature.as_bytes())
    }
}

#[cfg(test)]
mod tests;
