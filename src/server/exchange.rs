//! What the parts of the server hand one another: what requests share, who asks, and answers.

use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use super::Limits;
use super::guests::Guest;
use super::metrics::Metrics;
use super::sigv4::{Received, Verifier};
use crate::env::Clock;
use crate::kms::Engine;
use crate::kms::model::Caller;
use crate::sync::Arc;

/// The answer to a request.
pub type Answered = Response<Full<Bytes>>;

/// What all requests share.
pub struct Shared {
    pub engine: Engine,
    pub clock: Arc<dyn Clock>,
    pub verifier: Verifier,
    pub metrics: Metrics,
    pub limits: Limits,
}

/// Who is at the other end of a connection.
#[derive(Clone)]
pub enum Peer {
    /// Whoever signs.
    Tcp(Arc<Network>),
    /// A local user, known from the system.
    Unix(Caller),
}

/// A connection over the network.
pub struct Network {
    pub address: IpAddr,
    /// Whether it is TLS.
    pub encrypted: bool,
    pub guest: Guest,
}

impl Peer {
    /// Whether it is on this computer.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(network) => network.address.is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Its address, as the audit log has it.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(network) => network.address.to_canonical().to_string(),
            Self::Unix(_) => "127.0.0.1".to_owned(),
        }
    }
}

/// A request with its body, and the id that its record and its answer carry.
pub struct Incomplete<'a> {
    pub received: Received<'a>,
    pub id: &'a str,
}

/// An answer in plain text.
pub fn plain(status: StatusCode, text: &str) -> Answered {
    with_type(status, "text/plain; charset=utf-8", Bytes::copy_from_slice(text.as_bytes()))
}

/// An answer of KMS.
pub fn json(status: StatusCode, body: Bytes) -> Answered {
    with_type(status, "application/x-amz-json-1.1", body)
}

/// A refusal as AWS's SDKs read it.
pub fn error(status: StatusCode, code: &str, message: &str) -> Answered {
    json(status, Bytes::from(serde_json::json!({ "__type": code, "message": message }).to_string()))
}

/// An answer of some type.
pub fn with_type(status: StatusCode, content_type: &'static str, body: Bytes) -> Answered {
    let mut answered = Response::new(Full::new(body));
    *answered.status_mut() = status;
    answered.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answered
}
