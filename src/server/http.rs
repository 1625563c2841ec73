//! One HTTP request: whose it is, which service it is for, and its answer.

use std::convert::Infallible;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use zeroize::Zeroizing;

use super::exchange::{Answered, Incomplete, Peer, Shared, error, json, plain, with_type};
use super::protocol::{self, Failure};
use super::sigv4::{AuthError, Received};
use super::sts;
use crate::kms::model::{Caller, Principal};
use crate::kms::{Engine, KmsError};
use crate::sync::Arc;
use crate::types::Region;

/// Header fields of a request at most.
const MAX_HEADERS: usize = 64;
/// Bytes of a request's head at most.
const MAX_HEAD: usize = 32 * 1024;
/// Which operation of KMS a request is for.
const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
/// The request's id in the answer.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

/// Answers one request, whatever it is.
pub async fn answer(shared: Arc<Shared>, peer: Peer, request: Request<Incoming>) -> Result<Answered, Infallible> {
    let id = uuid::Uuid::new_v4().to_string();
    let within = tokio::time::timeout(shared.limits.request_time, route(&shared, &peer, request, &id));
    let mut answered = match within.await {
        Ok(answered) => answered,
        Err(_) => error(StatusCode::REQUEST_TIMEOUT, "RequestTimeoutException", "The request took too long."),
    };
    if let Ok(value) = HeaderValue::from_str(&id) {
        answered.headers_mut().insert(REQUEST_ID, value);
    }
    Ok(answered)
}

async fn route(shared: &Arc<Shared>, peer: &Peer, request: Request<Incoming>, id: &str) -> Answered {
    let (head, body) = request.into_parts();
    if head_len(&head) > MAX_HEAD || head.headers.len() > MAX_HEADERS {
        let text = format!("The head of a request can have at most {MAX_HEAD} bytes and {MAX_HEADERS} fields.");
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return error(status, "RequestHeaderFieldsTooLargeException", &text);
    }
    match (&head.method, head.uri.path()) {
        (&Method::GET, "/healthz") => return health(shared),
        (&Method::GET, "/metrics") if peer.is_local() => return metrics(shared),
        (&Method::GET | &Method::POST, "/") => {}
        _ => {
            let text = "There is nothing here; the API is POST /.";
            return error(StatusCode::NOT_FOUND, "UnknownOperationException", text);
        }
    }
    let body = match read(body, &head.headers, shared.limits.body).await {
        Ok(body) => body,
        Err(answered) => return *answered,
    };
    let received = Received {
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query().unwrap_or(""),
        headers: &head.headers,
        body: &body,
    };
    let request = Incomplete { received, id };
    match head.headers.get(TARGET) {
        Some(target) if head.method == Method::POST => kms(shared, peer, &request, target).await,
        _ if sts::is_query(&request.received) => sts::answer(shared, peer, &request),
        _ => Failure::unknown_operation("").answer(),
    }
}

/// Bytes of a request's head as it was sent, but for optional white space.
fn head_len(head: &Parts) -> usize {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    head.method.as_str().len() + target + "  HTTP/1.1\r\n\r\n".len() + fields.sum::<usize>()
}

/// The body in memory that is wiped: it may hold plaintext.
async fn read(body: Incoming, headers: &HeaderMap, limit: usize) -> Result<Zeroizing<Vec<u8>>, Box<Answered>> {
    let too_large = || {
        let text = format!("The body of a request can have at most {limit} bytes.");
        Box::new(error(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLargeException", &text))
    };
    let announced: Option<u64> = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    let expected = usize::try_from(announced.unwrap_or(0)).unwrap_or(usize::MAX);
    if expected > limit || body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut body = body;
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected));
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            let text = "The body ended early.";
            return Err(Box::new(error(StatusCode::BAD_REQUEST, "SerializationException", text)));
        };
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes)
}

/// An operation of KMS.
async fn kms(shared: &Arc<Shared>, peer: &Peer, request: &Incomplete<'_>, target: &HeaderValue) -> Answered {
    let started = Instant::now();
    let target = target.to_str().unwrap_or("");
    let name = target.strip_prefix(protocol::TARGET_PREFIX).unwrap_or("");
    let (operation, outcome) = protocol::execute(shared, peer, request, name).await;
    let code = outcome.as_ref().map_or_else(Failure::code, |_| "ok");
    shared.metrics.request(operation, code, started.elapsed());
    match outcome {
        Ok(body) => json(StatusCode::OK, body),
        Err(failure) => failure.answer(),
    }
}

impl Shared {
    /// The caller of `request` for `service`: who signed, or who is at the socket.
    pub fn caller(&self, peer: &Peer, request: &Incomplete<'_>, service: &str) -> Result<Caller, AuthError> {
        let caller = match peer {
            Peer::Unix(caller) => in_scope(caller.clone(), request.received.headers),
            Peer::Tcp(network) => {
                let lookup = |access_key_id: &str| self.engine.credentials(access_key_id);
                let signer = self.verifier.verify(&request.received, service, self.clock.now(), lookup)?;
                network.guest.stay();
                let caller = Caller::new(signer.principal, signer.region).signed_by(signer.access_key_id).metered();
                caller.over_network(network.encrypted)
            }
        };
        let agent = request.received.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
        Ok(caller.from_address(peer.address(), agent).with_request_id(request.id))
    }
}

/// `caller` in the Region that a signature names: at the socket it need not be right, but SDKs say there which Region they
/// mean.
fn in_scope(caller: Caller, headers: &HeaderMap) -> Caller {
    let header = headers.get(hyper::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let authorization = header.and_then(|header| super::sigv4::parse_authorization(header).ok());
    let region: Option<Region> = authorization.and_then(|authorization| authorization.scope[1].parse().ok());
    match region {
        Some(region) => caller.in_region(region),
        None => caller,
    }
}

/// The metrics, for whoever is on this computer.
fn metrics(shared: &Shared) -> Answered {
    match shared.metrics.text() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            with_type(StatusCode::OK, kind, Bytes::from(text))
        }
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n")
        }
    }
}

fn health(shared: &Shared) -> Answered {
    match shared.engine.credentials("") {
        Ok(_) => plain(StatusCode::OK, "ok\n"),
        Err(error) => {
            tracing::error!(%error, "the key manager is not usable");
            plain(StatusCode::SERVICE_UNAVAILABLE, "the key manager is not usable; the log says why\n")
        }
    }
}

/// The principal of the local user `uid`, who needs no signature. Who runs the server, and root, could open the key manager
/// themselves; others may do what the identity policies of their user say.
pub fn local_caller(engine: &Engine, uid: u32) -> Caller {
    let principal = Principal::user(engine.account(), &crate::sys::user::name_of(uid));
    if uid == 0 || uid == rustix::process::geteuid().as_raw() {
        Caller::local(principal, engine.region().clone())
    } else {
        Caller::new(principal, engine.region().clone())
    }
}

impl From<KmsError> for Failure {
    fn from(error: KmsError) -> Self {
        Self::of(&error)
    }
}
