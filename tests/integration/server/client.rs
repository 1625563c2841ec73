//! Requests byte by byte.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use kmsfs::crypto::sigv4::{Request, Scope, SigningKey, iso_basic};
use kmsfs::types::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Keys, NOW, Running};

/// An answer.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("an answer in JSON")
    }

    /// The name of the error.
    pub fn code(&self) -> String {
        self.json()["__type"].as_str().unwrap_or_default().to_owned()
    }

    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("text")
    }
}

/// A signed request; a test changes what it is about before it is sent.
pub struct Signed {
    pub access_key_id: String,
    pub secret: String,
    pub at: Timestamp,
    pub region: String,
    pub service: String,
    pub target: Option<String>,
    pub content_type: String,
    pub body: String,
    /// Names of signed headers, sorted.
    pub signs: Vec<&'static str>,
    /// Sent and, where named, signed.
    pub extra: Vec<(&'static str, String)>,
    /// Applied to what is sent after it was signed.
    pub forge: fn(String) -> String,
}

impl Signed {
    pub fn new(keys: &Keys, operation: &str, body: &Value) -> Self {
        let id = keys.access_key.access_key_id.clone();
        Self::by(id, keys.access_key.secret_access_key.to_string(), NOW, operation, body)
    }

    /// A request signed with this access key at this time.
    pub fn by(access_key_id: String, secret: String, at: Timestamp, operation: &str, body: &Value) -> Self {
        Self {
            access_key_id,
            secret,
            at,
            region: "us-east-1".into(),
            service: "kms".into(),
            target: Some(format!("TrentService.{operation}")),
            content_type: "application/x-amz-json-1.1".into(),
            body: body.to_string(),
            signs: vec!["host", "x-amz-date", "x-amz-target"],
            extra: Vec::new(),
            forge: |request| request,
        }
    }

    /// The request as it is sent to `host`.
    pub fn bytes(&self, host: &str) -> String {
        let time = iso_basic(self.at);
        let mut headers =
            vec![("content-type", self.content_type.clone()), ("host", host.to_owned()), ("x-amz-date", time.clone())];
        headers.extend(self.target.clone().map(|target| ("x-amz-target", target)));
        headers.extend(self.extra.clone());
        let signed: Vec<(&str, Vec<&[u8]>)> = self
            .signs
            .iter()
            .map(|name| {
                let values = headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_bytes());
                (*name, values.collect())
            })
            .collect();
        let payload = Sha256::digest(self.body.as_bytes()).into();
        let request = Request { method: "POST", path: "/", query: "", headers: &signed, payload };
        let scope = Scope { date: &time[..8], region: &self.region, service: &self.service };
        let signature = SigningKey::derive(&self.secret, &scope).sign(&request.string_to_sign(&time, &scope));
        let mut text = "POST / HTTP/1.1\r\n".to_owned();
        for (name, value) in &headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!(
            "authorization: AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={}, Signature={signature}\r\n",
            self.access_key_id,
            scope.text(),
            request.signed_headers()
        ));
        text.push_str(&format!("content-length: {}\r\n\r\n{}", self.body.len(), self.body));
        (self.forge)(text)
    }

    pub fn send(&self, server: &Running) -> Answer {
        send(server, self.bytes(&server.address.to_string()).as_bytes())
    }
}

/// Sends `request` on a connection of its own.
pub fn send(server: &Running, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(server.address).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    // A server that has refused may have closed.
    let _ = stream.write_all(request);
    answer(&mut stream)
}

/// Sends `request` to the Unix socket.
pub fn send_local(server: &Running, request: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(&server.socket).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    stream.write_all(request).expect("sent");
    answer(&mut stream)
}

/// Reads one answer.
pub fn answer(stream: &mut impl Read) -> Answer {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let head_len = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        let n = stream.read(&mut chunk).expect("an answer");
        assert!(n > 0, "the connection ended: {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&chunk[..n]);
    };
    let head = String::from_utf8(bytes[..head_len].to_vec()).expect("a head in ASCII");
    let length = |line: &str| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok();
    let len: usize = head.lines().find_map(length).unwrap_or(0);
    let mut body = bytes.split_off(head_len + 4);
    while body.len() < len {
        let n = stream.read(&mut chunk).expect("a body");
        assert!(n > 0, "the body ended early");
        body.extend_from_slice(&chunk[..n]);
    }
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head, body }
}
