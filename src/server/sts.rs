//! `sts:GetCallerIdentity`, the one operation of STS: whose credentials these are. Query protocol, XML answers.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;

use super::exchange::{Answered, Incomplete, Peer, Shared, with_type};
use super::sigv4::{AuthError, Received};
use crate::crypto::sigv4::percent_decode;
use crate::kms::model::Caller;

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// Whether a request is of the query protocol: parameters in the body of a form, or in the request line.
pub fn is_query(request: &Received<'_>) -> bool {
    let content_type = request.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    content_type.starts_with("application/x-www-form-urlencoded") || !request.query.is_empty()
}

/// Answers a request of the query protocol.
pub fn answer(shared: &Shared, peer: &Peer, request: &Incomplete<'_>) -> Answered {
    let caller = match shared.caller(peer, request, "sts") {
        Ok(caller) => caller,
        Err(error) => return refusal(&error, request.id),
    };
    let form = std::str::from_utf8(request.received.body).unwrap_or("");
    let action = parameter(form, "Action").or_else(|| parameter(request.received.query, "Action"));
    match action.as_deref() {
        Some("GetCallerIdentity") => identity(&caller, request.id),
        _ => error(StatusCode::BAD_REQUEST, "InvalidAction", "The only action is GetCallerIdentity.", request.id),
    }
}

fn parameter(form: &str, name: &str) -> Option<String> {
    let value = form.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    String::from_utf8(percent_decode(&value.replace('+', " "))).ok()
}

fn identity(caller: &Caller, id: &str) -> Answered {
    let (arn, account) = (escaped(caller.principal().arn()), caller.account());
    let user = escaped(caller.principal().name());
    xml(
        StatusCode::OK,
        format!(
            "<GetCallerIdentityResponse xmlns=\"{NAMESPACE}\"><GetCallerIdentityResult><Arn>{arn}</Arn>\
             <UserId>{user}</UserId><Account>{account}</Account></GetCallerIdentityResult><ResponseMetadata>\
             <RequestId>{id}</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
        ),
    )
}

fn refusal(refused: &AuthError, id: &str) -> Answered {
    let code = match refused {
        AuthError::Missing => "MissingAuthenticationToken",
        AuthError::Incomplete(_) => "IncompleteSignature",
        AuthError::Unrecognized => "InvalidClientTokenId",
        AuthError::Invalid(_) => "SignatureDoesNotMatch",
        AuthError::Failed(reason) => {
            tracing::error!(error = %reason, "an operation failed");
            let text = "The key manager failed; its log says why.";
            return error(StatusCode::INTERNAL_SERVER_ERROR, "InternalFailure", text, id);
        }
    };
    error(StatusCode::FORBIDDEN, code, &refused.to_string(), id)
}

fn error(status: StatusCode, code: &str, message: &str, id: &str) -> Answered {
    let kind = if status.is_server_error() { "Receiver" } else { "Sender" };
    let message = escaped(message);
    xml(
        status,
        format!(
            "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>{kind}</Type><Code>{code}</Code>\
             <Message>{message}</Message></Error><RequestId>{id}</RequestId></ErrorResponse>"
        ),
    )
}

fn xml(status: StatusCode, body: String) -> Answered {
    with_type(status, "text/xml", Bytes::from(body))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_forms() {
        let form = "Version=2011-06-15&Action=GetCaller%49dentity&a=b+c";
        assert_eq!(parameter(form, "Action").as_deref(), Some("GetCallerIdentity"));
        assert_eq!(parameter(form, "a").as_deref(), Some("b c"));
        assert_eq!(parameter(form, "Act"), None);
        assert_eq!(escaped("<a&b>"), "&lt;a&amp;b&gt;");
    }
}
