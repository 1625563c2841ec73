//! Verification of AWS Signature Version 4 (KMS.md section 4): who signed a request, or why nobody did.

use data_encoding::HEXLOWER;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName};
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};

use crate::crypto::sigv4::{ALGORITHM, Request, Scope, SigningKey, TERMINATOR, iso_basic, parse_iso_basic};
use crate::kms::KmsError;
use crate::kms::model::{Credentials, Principal};
use crate::sync::Arc;
use crate::types::{Region, Timestamp};

/// How far the clocks of both sides may be apart.
const SKEW_MINUTES: u32 = 5;
/// Signing keys kept: one per access key, day, Region and service.
const CACHED_KEYS: usize = 1024;

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
/// Headers that must be signed if they are there.
const MUST_BE_SIGNED: [&str; 3] = ["host", "x-amz-date", "x-amz-target"];

/// Why a request counts as nobody's. `Display` is AWS's text.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No signature.
    #[error("Missing Authentication Token")]
    Missing,
    /// The signature's form.
    #[error("{0}")]
    Incomplete(String),
    /// No such access key, or a session token that is not its.
    #[error("The security token included in the request is invalid.")]
    Unrecognized,
    /// Signed with another secret, for something else, or at another time.
    #[error("{0}")]
    Invalid(String),
    /// The key manager failed.
    #[error("{0}")]
    Failed(#[from] KmsError),
}

/// Who signed, and for which Region.
#[derive(Debug, PartialEq, Eq)]
pub struct Signer {
    /// The owner of the access key.
    pub principal: Principal,
    /// The access key.
    pub access_key_id: String,
    /// Of the credential scope.
    pub region: Region,
}

/// A request as it was received.
pub struct Received<'a> {
    /// `POST`.
    pub method: &'a str,
    /// Of the request line.
    pub path: &'a str,
    /// Of the request line, behind `?`.
    pub query: &'a str,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// The body.
    pub body: &'a [u8],
}

/// The parts of an `Authorization` header.
#[derive(Debug, PartialEq, Eq)]
pub struct Authorization<'a> {
    /// The access key id.
    pub access_key_id: &'a str,
    /// Day, Region, service of the credential scope.
    pub scope: [&'a str; 3],
    /// Names of the signed headers in lower case, sorted.
    pub signed_headers: Vec<&'a str>,
    /// 64 hexadecimal digits.
    pub signature: &'a str,
}

/// Verifies signatures, and remembers signing keys.
pub struct Verifier {
    keys: Cache<String, Arc<SigningKey>>,
}

impl Verifier {
    pub fn new() -> Self {
        Self { keys: Cache::new(CACHED_KEYS) }
    }

    /// The signer of `request` for `service`. `lookup` finds the credentials of an access key.
    ///
    /// # Errors
    /// Every reason for which the request is nobody's.
    pub fn verify(
        &self,
        request: &Received<'_>,
        service: &str,
        now: Timestamp,
        lookup: impl FnOnce(&str) -> Result<Option<Credentials>, KmsError>,
    ) -> Result<Signer, AuthError> {
        let header = request.headers.get(AUTHORIZATION).ok_or(AuthError::Missing)?;
        let header = header.to_str().map_err(|_| incomplete("The Authorization header is not ASCII."))?;
        let authorization = parse_authorization(header)?;
        let [date, region, scope_service] = authorization.scope;
        let time = signed_at(request.headers)?;
        let headers = signed_headers(request.headers, &authorization.signed_headers)?;
        let region_name: Region = region.parse().map_err(|_| invalid("The Region of the credential scope is none."))?;
        if scope_service != service {
            return Err(invalid(format!("Credential should be scoped to correct service: '{service}'. ")));
        }
        if !time.text.starts_with(date) || date.len() != 8 {
            return Err(invalid(format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{date}' \
                 != '{}', from '{}'.",
                &time.text[..8],
                time.text
            )));
        }
        time.check(now)?;
        let credentials = lookup(authorization.access_key_id)?.ok_or(AuthError::Unrecognized)?;
        // Access keys of the key manager are permanent: none has a session.
        if request.headers.contains_key(TOKEN) {
            return Err(AuthError::Unrecognized);
        }
        let scope = Scope { date, region, service };
        let canonical = Request {
            method: request.method,
            path: request.path,
            query: request.query,
            headers: &headers,
            payload: Sha256::digest(request.body).into(),
        };
        let key = self.signing_key(authorization.access_key_id, &credentials, &scope);
        if !key.verify(&canonical.string_to_sign(&time.text, &scope), authorization.signature) {
            return Err(invalid(
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
                 Access Key and signing method. Consult the service documentation for details.",
            ));
        }
        let access_key_id = authorization.access_key_id.to_owned();
        Ok(Signer { principal: credentials.principal, access_key_id, region: region_name })
    }

    fn signing_key(&self, access_key_id: &str, credentials: &Credentials, scope: &Scope<'_>) -> Arc<SigningKey> {
        let id = format!("{access_key_id}/{}", scope.text());
        if let Some(key) = self.keys.get(&id) {
            return key;
        }
        let key = Arc::new(SigningKey::derive(&credentials.secret_access_key, scope));
        self.keys.insert(id, Arc::clone(&key));
        key
    }
}

/// When a request was signed.
struct SignedAt {
    /// `20260501T093000Z`.
    text: String,
    at: Timestamp,
}

impl SignedAt {
    fn check(&self, now: Timestamp) -> Result<(), AuthError> {
        let skew = std::time::Duration::from_secs(u64::from(SKEW_MINUTES) * 60);
        let text = &self.text;
        if now.since(self.at) > skew {
            let earliest = Timestamp::from_nanos(now.as_nanos() - i64::try_from(skew.as_nanos()).unwrap_or(0));
            return Err(invalid(format!(
                "Signature expired: {text} is now earlier than {} ({} - {SKEW_MINUTES} min.)",
                iso_basic(earliest),
                iso_basic(now)
            )));
        }
        if self.at.since(now) > skew {
            return Err(invalid(format!(
                "Signature not yet current: {text} is still later than {} ({} + {SKEW_MINUTES} min.)",
                iso_basic(now.plus(skew)),
                iso_basic(now)
            )));
        }
        Ok(())
    }
}

/// `x-amz-date`.
fn signed_at(headers: &HeaderMap) -> Result<SignedAt, AuthError> {
    let text = headers.get(DATE).and_then(|value| value.to_str().ok()).map(str::trim);
    let text = text.ok_or_else(|| incomplete("Authorization header requires existence of a 'X-Amz-Date' header."))?;
    let at = parse_iso_basic(text);
    let at = at.ok_or_else(|| incomplete(format!("Date must be in ISO-8601 'basic format'. Got '{text}'.")))?;
    Ok(SignedAt { text: text.to_owned(), at })
}

/// A header's name and its values, as often as it was sent.
type Values<'a> = (&'a str, Vec<&'a [u8]>);

/// The values of the signed headers.
fn signed_headers<'a>(headers: &'a HeaderMap, names: &[&'a str]) -> Result<Vec<Values<'a>>, AuthError> {
    for must in MUST_BE_SIGNED {
        if headers.contains_key(must) && !names.contains(&must) {
            let text = format!("'{must}' must be a 'SignedHeader' in the AWS Authorization.");
            return Err(invalid(text));
        }
    }
    if !names.contains(&"host") {
        return Err(invalid("'Host' must be a 'SignedHeader' in the AWS Authorization."));
    }
    let values = |name: &&'a str| {
        let values: Vec<&[u8]> = headers.get_all(*name).iter().map(hyper::header::HeaderValue::as_bytes).collect();
        match values.is_empty() {
            true => Err(invalid(format!("The signed header '{name}' is not in the request."))),
            false => Ok((*name, values)),
        }
    };
    names.iter().map(values).collect()
}

/// Takes an `Authorization` header apart.
///
/// # Errors
/// [`AuthError::Incomplete`] if a part is missing or not well-formed, [`AuthError::Missing`] for another scheme.
pub fn parse_authorization(header: &str) -> Result<Authorization<'_>, AuthError> {
    let Some((algorithm, rest)) = header.trim().split_once([' ', '\t']) else {
        return Err(incomplete("Authorization header requires an algorithm and its parameters."));
    };
    if !algorithm.starts_with("AWS4-") {
        return Err(AuthError::Missing);
    }
    if algorithm != ALGORITHM {
        return Err(incomplete(format!("Unsupported AWS 'algorithm': '{algorithm}'.")));
    }
    let (mut credential, mut signed, mut signature) = (None, None, None);
    for parameter in rest.split(',').map(str::trim).filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or_else(|| {
            incomplete(format!("'{parameter}' is not a valid key=value pair in Authorization header."))
        })?;
        let slot = match name {
            "Credential" => &mut credential,
            "SignedHeaders" => &mut signed,
            "Signature" => &mut signature,
            _ => return Err(incomplete(format!("'{name}' is not a parameter of the Authorization header."))),
        };
        if slot.replace(value).is_some() {
            return Err(incomplete(format!("Authorization header has '{name}' twice.")));
        }
    }
    let required = |value: Option<_>, name: &str| {
        value.ok_or_else(|| incomplete(format!("Authorization header requires '{name}' parameter.")))
    };
    let credential: &str = required(credential, "Credential")?;
    let signed: &str = required(signed, "SignedHeaders")?;
    let signature: &str = required(signature, "Signature")?;
    let parts: Vec<&str> = credential.split('/').collect();
    let [access_key_id, date, region, service, terminator] = parts[..] else {
        return Err(incomplete(
            "Credential must have exactly 5 slash-delimited elements, e.g. \
                               keyid/date/region/service/term.",
        ));
    };
    if terminator != TERMINATOR {
        let text = format!("Credential should be scoped with a valid terminator: '{TERMINATOR}', not '{terminator}'.");
        return Err(invalid(text));
    }
    let signed_headers: Vec<&str> = signed.split(';').collect();
    let legal = |name: &&str| !name.is_empty() && HeaderName::from_bytes(name.as_bytes()).is_ok_and(|n| n == **name);
    if !signed_headers.iter().all(legal) || !signed_headers.is_sorted_by(|a, b| a < b) {
        return Err(incomplete("SignedHeaders must be names in lower case, sorted, each once."));
    }
    if HEXLOWER.decode(signature.as_bytes()).map(|bytes| bytes.len()) != Ok(32) {
        return Err(incomplete("Signature must be 64 hexadecimal digits in lower case."));
    }
    Ok(Authorization { access_key_id, scope: [date, region, service], signed_headers, signature })
}

fn incomplete(text: impl Into<String>) -> AuthError {
    AuthError::Incomplete(text.into())
}

fn invalid(text: impl Into<String>) -> AuthError {
    AuthError::Invalid(text.into())
}
