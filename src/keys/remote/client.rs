//! Signed requests of AWS JSON 1.1, tried again where that can help, within a deadline.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use ureq::Agent;
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use zeroize::Zeroizing;

use super::credentials::{Credentials, CredentialsError, Source};
use crate::crypto::sigv4::{ALGORITHM, Request, Scope, SigningKey, iso_basic};
use crate::env::Clock;
use crate::sync::{Arc, thread};
use crate::sys::process::ordinarily;
use crate::types::Region;

/// For a call with all its attempts: an application waits for it in a system call.
const DEADLINE: Duration = Duration::from_secs(10);
/// For reaching the endpoint.
const CONNECT: Duration = Duration::from_secs(3);
/// Attempts at most.
const ATTEMPTS: u32 = 6;
/// Wait before the second attempt; doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// Bytes of an answer at most.
const MAX_ANSWER: u64 = 256 * 1024;
const SERVICE: &str = "kms";

/// Why an endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Not a URL.
    #[error("'{0}' is not the URL of a key manager, such as https://kms.example.com or http://127.0.0.1:8480")]
    Url(String),
    /// Data keys would cross a network in the clear.
    #[error(
        "{0} is not encrypted and not on this computer: data keys would cross the network in the clear; use https://"
    )]
    Plaintext(String),
    /// Nobody could be believed to be the endpoint.
    #[error("cannot read certificates of authorities in {path}: {reason}")]
    Authorities {
        /// Where they were sought.
        path: PathBuf,
        /// Why they were not found.
        reason: pem::Error,
    },
    /// Nothing to sign with.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// Why a call gave nothing.
#[derive(Debug)]
pub enum Refusal {
    /// The key manager's own error.
    Error {
        /// AWS's name, `NotFoundException`.
        code: String,
        /// Its words, possibly none.
        message: String,
    },
    /// No answer in time.
    Silent(String),
}

/// Whether an error is about who signed.
pub fn concerns_credentials(code: &str) -> bool {
    matches!(
        code,
        "UnrecognizedClientException"
            | "InvalidSignatureException"
            | "IncompleteSignatureException"
            | "MissingAuthenticationTokenException"
            | "ExpiredTokenException"
            | "InvalidClientTokenId"
    )
}

/// An endpoint.
pub struct Client {
    agent: Agent,
    url: String,
    /// Value of the header `host`.
    authority: String,
    source: Source,
    credentials: ArcSwap<Credentials>,
    clock: Arc<dyn Clock>,
}

impl Client {
    pub fn new(
        endpoint: &str,
        source: Source,
        ca_bundle: Option<&Path>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EndpointError> {
        let wrong = || EndpointError::Url(endpoint.to_owned());
        let uri: Uri = endpoint.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if is_loopback(authority.host()) => {}
            Some("http") => return Err(EndpointError::Plaintext(endpoint.to_owned())),
            _ => return Err(wrong()),
        }
        if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong());
        }
        let authorities = ca_bundle.map(authorities).transpose()?.unwrap_or(RootCerts::PlatformVerifier);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = TlsConfig::builder().root_certs(authorities).unversioned_rustls_crypto_provider(provider).build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .user_agent(concat!("kmsfs/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        let scheme = uri.scheme_str().unwrap_or("https");
        // Default ports are not in the header.
        let default = if scheme == "https" { ":443" } else { ":80" };
        let authority = authority.as_str();
        let host = authority.strip_suffix(default).unwrap_or(authority).to_owned();
        let credentials = ArcSwap::from_pointee(Credentials::load(&source)?);
        Ok(Self { agent, url: format!("{scheme}://{authority}/"), authority: host, source, credentials, clock })
    }

    /// Executes `operation` in `region`; the body of its answer.
    ///
    /// # Errors
    /// What the key manager answers, or that it does not.
    pub fn call(&self, operation: &str, region: &Region, request: &str) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let deadline = Instant::now() + DEADLINE;
        let mut wait = FIRST_WAIT;
        let mut renewed = false;
        let mut attempt = 1;
        loop {
            let refusal = match self.attempt(operation, region, request, deadline) {
                Ok(answer) => return Ok(answer),
                Err(refusal) => refusal,
            };
            match &refusal {
                Refusal::Error { code, .. } if concerns_credentials(code) && !renewed => {
                    // The file may hold newer ones than a mount read days ago.
                    let Ok(found) = Credentials::load(&self.source) else { return Err(refusal) };
                    self.credentials.store(Arc::new(found));
                    renewed = true;
                    continue;
                }
                Refusal::Error { code, .. } if !may_pass(code) => return Err(refusal),
                Refusal::Error { .. } | Refusal::Silent(_) => {}
            }
            if attempt == ATTEMPTS || Instant::now() + wait >= deadline {
                return Err(match refusal {
                    // Waiting longer is what would help.
                    Refusal::Error { code, message } => Refusal::Silent(format!("{code}: {message}")),
                    silent => silent,
                });
            }
            thread::sleep(wait);
            wait *= 2;
            attempt += 1;
        }
    }

    fn attempt(
        &self,
        operation: &str,
        region: &Region,
        body: &str,
        deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let silent = |error: ureq::Error| Refusal::Silent(format!("{}: {error}", self.url));
        let target = format!("TrentService.{operation}");
        let time = iso_basic(self.clock.now());
        let credentials = self.credentials.load();
        let mut headers: Vec<(&str, &str)> =
            vec![("content-type", "application/x-amz-json-1.1"), ("host", &self.authority), ("x-amz-date", &time)];
        if let Some(token) = &credentials.session_token {
            headers.push(("x-amz-security-token", token));
        }
        headers.push(("x-amz-target", &target));
        let authorization = authorization(&headers, body.as_bytes(), &time, region, &credentials);
        let mut request = self.agent.post(&self.url).header("authorization", &authorization);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let request = request.config().timeout_global(Some(left)).build();
        // It starts a thread to look the name up.
        let mut response = ordinarily(|| request.send(body.as_bytes())).map_err(silent)?;
        let status = response.status();
        let answer = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec().map_err(silent)?;
        let answer = Zeroizing::new(answer);
        if status.is_success() {
            return Ok(answer);
        }
        let named: Option<ErrorBody> = serde_json::from_slice(&answer).ok();
        Err(match named {
            Some(ErrorBody { code, message }) => {
                // `com.amazonaws.kms#NotFoundException` in some implementations.
                let code = code.rsplit('#').next().unwrap_or_default().to_owned();
                Refusal::Error { code, message: message.unwrap_or_default() }
            }
            None => Refusal::Silent(format!("{} answered {status}", self.url)),
        })
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(rename = "__type")]
    code: String,
    #[serde(alias = "Message")]
    message: Option<String>,
}

/// Whether the same call may succeed in a moment.
fn may_pass(code: &str) -> bool {
    matches!(
        code,
        "ThrottlingException"
            | "TooManyRequestsException"
            | "RequestLimitExceeded"
            | "KMSInternalException"
            | "InternalFailure"
            | "ServiceUnavailable"
            | "ServiceUnavailableException"
            | "KeyUnavailableException"
            | "DependencyTimeoutException"
    )
}

/// The certificates of `path`, and no others, say whom to believe.
fn authorities(path: &Path) -> Result<RootCerts, EndpointError> {
    let failed = |reason| EndpointError::Authorities { path: path.to_owned(), reason };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found = found.map_err(failed)?;
    if found.is_empty() {
        return Err(failed(pem::Error::NoItemsFound));
    }
    let owned: Vec<_> = found.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    Ok(RootCerts::new_with_certs(&owned))
}

fn is_loopback(host: &str) -> bool {
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    host == "localhost" || address.is_some_and(|address| address.is_loopback())
}

/// The `Authorization` header for `headers`, which are sorted.
fn authorization(
    headers: &[(&str, &str)],
    body: &[u8],
    time: &str,
    region: &Region,
    credentials: &Credentials,
) -> String {
    let headers: Vec<(&str, Vec<&[u8]>)> =
        headers.iter().map(|(name, value)| (*name, vec![value.as_bytes()])).collect();
    let payload = Sha256::digest(body).into();
    let request = Request { method: "POST", path: "/", query: "", headers: &headers, payload };
    let scope = Scope { date: time.get(..8).unwrap_or_default(), region: region.as_str(), service: SERVICE };
    let key = SigningKey::derive(&credentials.secret_access_key, &scope);
    let signature = key.sign(&request.string_to_sign(time, &scope));
    format!(
        "{ALGORITHM} Credential={}/{}, SignedHeaders={}, Signature={signature}",
        credentials.access_key_id,
        scope.text(),
        request.signed_headers()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_may_be_unencrypted() {
        for host in ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["kms.example.com", "10.0.0.1", "localhost.example.com", "[fe80::1]", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        assert!(may_pass("ThrottlingException") && may_pass("KMSInternalException"));
        assert!(!may_pass("AccessDeniedException") && !may_pass("DisabledException"));
        assert!(concerns_credentials("ExpiredTokenException") && !concerns_credentials("AccessDeniedException"));
    }
}
