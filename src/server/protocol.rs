//! AWS JSON 1.1 for KMS (KMS.md section 4): from the target and the body to the answer, and errors as AWS writes them.

use bytes::Bytes;
use hyper::StatusCode;

use super::exchange::{Answered, Incomplete, Peer, Shared, error};
use super::sigv4::AuthError;
use crate::kms::KmsError;
use crate::kms::api::{Answer, Kind, Operation};
use crate::kms::model::Caller;
use crate::sync::Arc;

/// Before the operation's name in `X-Amz-Target`.
pub const TARGET_PREFIX: &str = "TrentService.";
/// The service of credential scopes.
pub const SERVICE: &str = "kms";
/// Operations that AWS KMS does not have, in the metrics.
const UNKNOWN: &str = "unknown";

/// A refused request.
pub struct Failure {
    code: &'static str,
    message: String,
}

impl Failure {
    /// As the key manager refused it.
    pub fn of(error: &KmsError) -> Self {
        let code = error.code();
        if matches!(error, KmsError::Internal(_)) {
            // Paths and the database's words are for the log.
            tracing::error!(%error, "an operation failed");
            return Self { code, message: "The key manager failed; its log says why.".into() };
        }
        Self { code, message: error.to_string() }
    }

    /// No operation of KMS.
    pub fn unknown_operation(name: &str) -> Self {
        Self::of(&KmsError::UnknownOperation(name.to_owned()))
    }

    fn auth(error: &AuthError) -> Self {
        let code = match error {
            AuthError::Missing => "MissingAuthenticationTokenException",
            AuthError::Incomplete(_) => "IncompleteSignatureException",
            AuthError::Unrecognized => "UnrecognizedClientException",
            AuthError::Invalid(_) => "InvalidSignatureException",
            AuthError::Failed(error) => return Self::of(error),
        };
        Self { code, message: error.to_string() }
    }

    /// AWS's name.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// 500 for what is the key manager's fault, 400 for everything else.
    pub fn answer(&self) -> Answered {
        let status = match self.code {
            "KMSInternalException" | "KeyUnavailableException" | "DependencyTimeoutException" => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            _ => StatusCode::BAD_REQUEST,
        };
        error(status, self.code, &self.message)
    }
}

/// Authenticates the caller and executes the operation `name`. Also answers the name for the metrics, which has few
/// values whatever is asked.
pub async fn execute(
    shared: &Arc<Shared>,
    peer: &Peer,
    request: &Incomplete<'_>,
    name: &str,
) -> (&'static str, Result<Bytes, Failure>) {
    // Nothing of a request is believed, or its body parsed, before it is known whose it is.
    let caller = match shared.caller(peer, request, SERVICE) {
        Ok(caller) => caller,
        Err(error) => return (UNKNOWN, Err(Failure::auth(&error))),
    };
    match Operation::find(name) {
        Err(error) => (UNKNOWN, Err(Failure::of(&error))),
        Ok(operation) => {
            let outcome = run(shared, caller, operation, request.received.body).await;
            (operation.name(), outcome.map(Bytes::from_owner).map_err(|error| Failure::of(&error)))
        }
    }
}

/// Executes an operation: here if it takes microseconds, on a thread of its own if it may wait for the disk.
async fn run(
    shared: &Arc<Shared>,
    caller: Caller,
    operation: &'static Operation,
    body: &[u8],
) -> Result<Answer, KmsError> {
    if operation.kind() == Kind::Quick {
        return shared.engine.run(&caller, operation, body);
    }
    let (engine, body) = (shared.engine.clone(), zeroize::Zeroizing::new(body.to_vec()));
    let done = tokio::task::spawn_blocking(move || engine.run(&caller, operation, &body)).await;
    done.unwrap_or_else(|_| Err(KmsError::Internal(format!("{} panicked", operation.name()))))
}
