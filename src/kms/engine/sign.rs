//! Signatures and public keys.

use super::Engine;
use super::authorise::Access;
use super::call::{Call, Effect::*};
use super::check::members;
use super::crypt::proceed;
use super::fit::{current, fits, mismatched, object};
use super::resolve::Forms;
use crate::crypto::asymmetric::{Input, PairError, Scheme, SigningKey};
use crate::kms::KmsError;
use crate::kms::audit::{Canonical, Member};
use crate::kms::model::*;
use crate::kms::object::KeyObject;
use crate::kms::store::KeyEntry;
use crate::sync::Arc;

impl Engine {
    /// `GetPublicKey`.
    pub fn get_public_key(
        &self,
        caller: &Caller,
        request: GetPublicKeyRequest,
    ) -> Result<GetPublicKeyResponse, KmsError> {
        let parameters = Canonical::object([("keyId", request.key_id.as_str().into())]);
        self.call(caller, ("GetPublicKey", ReadOnly), parameters, |call| {
            members!(request: key_id, grant_tokens)?;
            let access = Access::to("GetPublicKey").tokens(&request.grant_tokens);
            let key = call.key(&*call.snapshot()?, &request.key_id, Forms::Any, access)?;
            call.usable(&key)?;
            let (spec, usage) = (key.record.spec, key.record.usage);
            if !matches!(spec.material(), Some(MaterialKind::Pair(_))) {
                let text = format!("{} key spec is {spec} which is not valid for GetPublicKey.", key.arn);
                return Err(KmsError::UnsupportedOperation(text));
            }
            let public_key = object(&key, current(&key)?)?.public_key().ok_or_else(|| mismatched(&key))?.to_vec();
            Ok(GetPublicKeyResponse {
                key_id: key.arn.clone(),
                public_key,
                customer_master_key_spec: spec,
                key_spec: spec,
                key_usage: usage,
                algorithms: Algorithms::of(spec, usage),
            })
        })
    }

    /// `Sign`.
    pub fn sign(&self, caller: &Caller, request: SignRequest) -> Result<SignResponse, KmsError> {
        let message_type = request.message_type.unwrap_or(MessageType::Raw);
        let algorithm = request.signing_algorithm;
        let parameters = signing_parameters(&request.key_id, algorithm, message_type, request.dry_run);
        self.call(caller, ("Sign", ReadOnly), parameters, |call| {
            members!(request: key_id, message, grant_tokens)?;
            let wanted = Signed { operation: "Sign", algorithm, message_type, message: &request.message };
            let key = call.signing_key(&request.key_id, &request.grant_tokens, &wanted)?;
            let (scheme, input) = wanted.input()?;
            let signer = signer(&key)?;
            proceed(request.dry_run)?;
            let signature = signer.sign(scheme, input).map_err(failed)?;
            Ok(SignResponse { key_id: key.arn.clone(), signature, signing_algorithm: algorithm })
        })
    }

    /// `Verify`.
    pub fn verify(&self, caller: &Caller, request: VerifyRequest) -> Result<VerifyResponse, KmsError> {
        let message_type = request.message_type.unwrap_or(MessageType::Raw);
        let algorithm = request.signing_algorithm;
        let parameters = signing_parameters(&request.key_id, algorithm, message_type, request.dry_run);
        self.call(caller, ("Verify", ReadOnly), parameters, |call| {
            members!(request: key_id, message, signature, grant_tokens)?;
            let wanted = Signed { operation: "Verify", algorithm, message_type, message: &request.message };
            let key = call.signing_key(&request.key_id, &request.grant_tokens, &wanted)?;
            let (scheme, input) = wanted.input()?;
            if !signer(&key)?.verify(scheme, input, &request.signature).map_err(failed)? {
                return Err(KmsError::InvalidSignature);
            }
            proceed(request.dry_run)?;
            Ok(VerifyResponse { key_id: key.arn.clone(), signature_valid: true, signing_algorithm: algorithm })
        })
    }
}

/// What is signed or verified, and how.
struct Signed<'a> {
    operation: &'static str,
    algorithm: SigningAlgorithm,
    message_type: MessageType,
    message: &'a [u8],
}

impl<'a> Signed<'a> {
    /// The input of the scheme.
    fn input(&self) -> Result<(Scheme, Input<'a>), KmsError> {
        let algorithm = self.algorithm;
        let bad_type = || {
            let text = format!("MessageType {} is not valid for algorithm {algorithm}.", self.message_type);
            Err(KmsError::Validation(text))
        };
        let bad_len = || KmsError::Validation(format!("Digest is invalid length for algorithm {algorithm}."));
        let Some(scheme) = algorithm.scheme() else { return bad_type() };
        let input = match (self.message_type, scheme, scheme.digest_len()) {
            (MessageType::Raw, Scheme::Ed25519Ph, _) => return bad_type(),
            (MessageType::Raw, ..) => Input::Message(self.message),
            (MessageType::Digest, _, Some(len)) if len == self.message.len() => Input::Digest(self.message),
            (MessageType::Digest, _, Some(_)) => return Err(bad_len()),
            (MessageType::ExternalMu, Scheme::MlDsa, _) => Input::Mu(self.message.try_into().map_err(|_| bad_len())?),
            (MessageType::Digest | MessageType::ExternalMu, ..) => return bad_type(),
        };
        Ok((scheme, input))
    }
}

impl Call<'_> {
    /// The key to sign or verify with: authorised, usable, fitting.
    fn signing_key(
        &mut self,
        key_id: &str,
        grant_tokens: &[String],
        wanted: &Signed<'_>,
    ) -> Result<Arc<KeyEntry>, KmsError> {
        let access = Access::to(wanted.operation)
            .tokens(grant_tokens)
            .with("kms:SigningAlgorithm", wanted.algorithm.as_str())
            .with("kms:MessageType", wanted.message_type.as_str());
        let key = self.key(&*self.snapshot()?, key_id, Forms::Any, access)?;
        self.usable(&key)?;
        let legal = Algorithms::of(key.record.spec, KeyUsage::SignVerify).signing_algorithms;
        fits(&key, wanted.operation, KeyUsage::SignVerify, wanted.algorithm, legal)?;
        Ok(key)
    }
}

fn signer(key: &KeyEntry) -> Result<&SigningKey, KmsError> {
    match object(key, current(key)?)? {
        KeyObject::Signing(signer) => Ok(signer),
        _ => Err(mismatched(key)),
    }
}

fn signing_parameters(
    key_id: &str,
    algorithm: SigningAlgorithm,
    message_type: MessageType,
    dry_run: bool,
) -> Canonical {
    Canonical::object([
        ("dryRun", Member::flag(dry_run)),
        ("keyId", key_id.into()),
        ("messageType", message_type.as_str().into()),
        ("signingAlgorithm", algorithm.as_str().into()),
    ])
}

/// The library's failure; what the request could have wrong was checked before.
pub fn failed(error: PairError) -> KmsError {
    KmsError::Internal(error.to_string())
}
