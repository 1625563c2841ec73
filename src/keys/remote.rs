//! A key manager behind AWS's wire protocol as a [`KeyService`]: `kmsfs serve` elsewhere, AWS KMS, or anything else that
//! speaks it. Synchronous, with a deadline for each call.

mod client;
mod credentials;

use std::borrow::Cow;
use std::path::Path;

use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

pub use client::EndpointError;
use client::{Client, Refusal};
pub use credentials::{CredentialsError, Source};

use crate::crypto::secret::SecretKey;
use crate::env::Clock;
use crate::keys::{GeneratedKey, KeyError, KeyService};
use crate::kms::blob;
use crate::sync::Arc;
use crate::types::{EncryptionContext, KeyArn, Region};

/// A remote key manager.
pub struct RemoteKms {
    client: Client,
    region: Region,
}

impl RemoteKms {
    /// The key manager at the URL `endpoint`. Keys without a Region in their name are those of `region`. Signs with the
    /// credentials of `source`, and reads them again when they are refused. Over HTTPS the endpoint must have a certificate
    /// of an authority in the PEM file `ca_bundle`; without one, of an authority that this computer trusts.
    ///
    /// # Errors
    /// The endpoint is no URL, or would carry data keys over a network in the clear; there are no credentials; no
    /// authorities.
    pub fn new(
        endpoint: &str,
        region: Region,
        source: Source,
        ca_bundle: Option<&Path>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EndpointError> {
        Ok(Self { client: Client::new(endpoint, source, ca_bundle, clock)?, region })
    }

    /// Executes any operation with a request in AWS's JSON; the answer's JSON, possibly empty.
    ///
    /// # Errors
    /// AWS's name and words of what the key manager answers, or that it is silent.
    pub fn execute(&self, operation: &str, request: &str) -> Result<Zeroizing<Vec<u8>>, RemoteError> {
        self.client.call(operation, &self.region, request).map_err(|refusal| match refusal {
            Refusal::Error { code, message } => RemoteError { code, message },
            Refusal::Silent(message) => RemoteError { code: RemoteError::SILENT.to_owned(), message },
        })
    }

    fn call(
        &self,
        operation: &'static str,
        key: &str,
        request: &serde_json::Value,
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        // The endpoint answers for the Region of the signature.
        let of_key = key.parse::<KeyArn>().ok().and_then(|arn| arn.region().parse().ok());
        let region: &Region = of_key.as_ref().unwrap_or(&self.region);
        self.client.call(operation, region, &request.to_string()).map_err(|refusal| key_error(refusal, key))
    }

    fn describe(&self, key: &str) -> Result<Metadata, KeyError> {
        let answer = self.call("DescribeKey", key, &json!({ "KeyId": key }))?;
        Ok(parse::<Described>(&answer)?.key_metadata)
    }
}

/// What a remote key manager refused.
#[derive(Debug, thiserror::Error)]
#[error("{}", if .message.is_empty() { .code } else { .message })]
pub struct RemoteError {
    /// AWS's name, or [`Self::SILENT`].
    pub code: String,
    /// Its words, possibly none.
    pub message: String,
}

impl RemoteError {
    /// The code of a key manager that gave no answer.
    pub const SILENT: &str = "KeyManagerSilent";
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Described {
    key_metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    arn: String,
    current_key_material_id: Option<String>,
}

/// Answer of `GenerateDataKey`, `Decrypt` and `ReEncrypt`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wrapped<'a> {
    #[serde(borrow)]
    plaintext: Option<Cow<'a, str>>,
    ciphertext_blob: Option<String>,
}

impl Wrapped<'_> {
    fn key(&self) -> Result<SecretKey<32>, KeyError> {
        let text = self.plaintext.as_deref().unwrap_or("");
        let bytes = Zeroizing::new(BASE64.decode(text.as_bytes()).unwrap_or_default());
        SecretKey::from_slice(&bytes).ok_or_else(|| KeyError::Failed("the answer holds no 256-bit key".into()))
    }

    fn blob(&self) -> Result<Vec<u8>, KeyError> {
        let text = self.ciphertext_blob.as_deref().unwrap_or("");
        let blob = BASE64.decode(text.as_bytes()).ok().filter(|blob| !blob.is_empty());
        blob.ok_or_else(|| KeyError::Failed("the answer holds no ciphertext".into()))
    }
}

fn parse<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T, KeyError> {
    // serde_json's text could repeat what the answer says.
    serde_json::from_slice(answer).map_err(|_| KeyError::Failed("the answer is not what AWS KMS answers".into()))
}

fn context_json(context: &EncryptionContext) -> serde_json::Value {
    context.pairs().map(|(name, value)| (name.to_owned(), value.into())).collect::<serde_json::Map<_, _>>().into()
}

/// What a refusal means to the filesystem. `key` is the key as it was named.
fn key_error(refusal: Refusal, key: &str) -> KeyError {
    let (code, message) = match refusal {
        Refusal::Silent(reason) => return KeyError::Unreachable(reason),
        Refusal::Error { code, message } => (code, message),
    };
    let text = if message.is_empty() { code.clone() } else { format!("{code}: {message}") };
    let Ok(arn) = key.parse::<KeyArn>() else {
        return match code.as_str() {
            "NotFoundException" | "InvalidArnException" => KeyError::NotFound(key.to_owned()),
            _ if is_denial(&code) => KeyError::Denied { key: key.to_owned(), reason: text },
            _ => KeyError::Failed(text),
        };
    };
    match code.as_str() {
        "DisabledException" => KeyError::Disabled(arn),
        // AWS's only other state texts that concern a key in use speak of imports and key stores, which may come back.
        "KMSInvalidStateException" if message.contains("pending") && message.contains("deletion") => {
            KeyError::PendingDeletion(arn)
        }
        "KMSInvalidStateException" | "KeyUnavailableException" | "DependencyTimeoutException" => {
            KeyError::Unreachable(text)
        }
        "NotFoundException" | "InvalidArnException" => KeyError::NotFound(key.to_owned()),
        "InvalidCiphertextException" | "IncorrectKeyException" => KeyError::InvalidCiphertext(arn),
        _ if is_denial(&code) => KeyError::Denied { key: key.to_owned(), reason: text },
        _ => KeyError::Failed(text),
    }
}

/// Whether the caller, not the request, is what was refused.
fn is_denial(code: &str) -> bool {
    code == "AccessDeniedException" || client::concerns_credentials(code)
}

impl KeyService for RemoteKms {
    fn resolve(&self, key: &str) -> Result<KeyArn, KeyError> {
        let arn = self.describe(key)?.arn;
        arn.parse().map_err(|_| KeyError::Failed(format!("'{arn}' is not the ARN of a KMS key")))
    }

    fn check(&self, _key: &KeyArn) -> Result<(), KeyError> {
        Ok(())
    }

    fn generate_data_key(&self, key: &KeyArn, context: &EncryptionContext) -> Result<GeneratedKey, KeyError> {
        let request =
            json!({ "KeyId": key.as_str(), "KeySpec": "AES_256", "EncryptionContext": context_json(context) });
        let answer = self.call("GenerateDataKey", key.as_str(), &request)?;
        let wrapped: Wrapped<'_> = parse(&answer)?;
        Ok(GeneratedKey { key: wrapped.key()?, blob: wrapped.blob()? })
    }

    fn decrypt(&self, key: &KeyArn, blob: &[u8], context: &EncryptionContext) -> Result<SecretKey<32>, KeyError> {
        let request = json!({
            "KeyId": key.as_str(),
            "CiphertextBlob": BASE64.encode(blob),
            "EncryptionContext": context_json(context),
        });
        let answer = self.call("Decrypt", key.as_str(), &request)?;
        // What has another length was wrapped by somebody else for something else.
        parse::<Wrapped<'_>>(&answer)?.key().map_err(|_| KeyError::InvalidCiphertext(key.clone()))
    }

    fn re_encrypt(
        &self,
        from: &KeyArn,
        blob: &[u8],
        to: &KeyArn,
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, KeyError> {
        let request = json!({
            "CiphertextBlob": BASE64.encode(blob),
            "SourceKeyId": from.as_str(),
            "SourceEncryptionContext": context_json(context),
            "DestinationKeyId": to.as_str(),
            "DestinationEncryptionContext": context_json(context),
        });
        let region = to.region().parse().unwrap_or_else(|_| self.region.clone());
        let answer = self.client.call("ReEncrypt", &region, &request.to_string()).map_err(|refusal| {
            // The key manager's text names the key at fault; without a name it is about the ciphertext.
            let names_to = matches!(&refusal, Refusal::Error { message, .. } if message.contains(to.as_str()));
            key_error(refusal, if names_to { to } else { from }.as_str())
        })?;
        parse::<Wrapped<'_>>(&answer)?.blob()
    }

    fn material_id(&self, blob: &[u8]) -> Option<String> {
        blob::material_id(blob)
    }

    fn current_material_id(&self, key: &KeyArn) -> Result<Option<String>, KeyError> {
        Ok(self.describe(key.as_str())?.current_key_material_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_a_meaning() {
        let key = "arn:aws:kms:us-east-1:111122223333:key/k-1";
        let arn: KeyArn = key.parse().expect("valid");
        let error =
            |code: &str, message: &str| key_error(Refusal::Error { code: code.into(), message: message.into() }, key);
        assert_eq!(error("DisabledException", ""), KeyError::Disabled(arn.clone()));
        let pending = error("KMSInvalidStateException", "arn is pending deletion.");
        assert_eq!(pending, KeyError::PendingDeletion(arn.clone()));
        let import = error("KMSInvalidStateException", "arn is pending import.");
        assert!(matches!(import, KeyError::Unreachable(_)));
        assert_eq!(error("InvalidCiphertextException", ""), KeyError::InvalidCiphertext(arn));
        assert_eq!(error("NotFoundException", "x"), KeyError::NotFound(key.into()));
        for code in ["AccessDeniedException", "UnrecognizedClientException", "InvalidSignatureException"] {
            assert!(matches!(error(code, "m"), KeyError::Denied { .. }), "{code}");
        }
        assert!(matches!(error("ValidationException", "m"), KeyError::Failed(_)));
        assert!(matches!(key_error(Refusal::Silent("s".into()), key), KeyError::Unreachable(_)));
        let alias = key_error(Refusal::Error { code: "NotFoundException".into(), message: String::new() }, "alias/a");
        assert_eq!(alias, KeyError::NotFound("alias/a".into()));
    }
}
