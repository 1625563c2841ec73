//! Shared secrets: by key agreement (ECDH) and by encapsulation (ML-KEM).

use super::Engine;
use super::authorise::Access;
use super::call::{Call, Effect::*};
use super::check::members;
use super::crypt::proceed;
use super::fit::{current, fits, mismatched, object};
use super::resolve::Forms;
use super::sign::failed;
use crate::crypto::asymmetric::{DecapsulationKey, PairError};
use crate::kms::KmsError;
use crate::kms::audit::{Canonical, Member};
use crate::kms::model::*;
use crate::kms::object::KeyObject;
use crate::kms::store::KeyEntry;
use crate::sync::Arc;

impl Engine {
    /// `DeriveSharedSecret`.
    pub fn derive_shared_secret(
        &self,
        caller: &Caller,
        request: DeriveSharedSecretRequest,
    ) -> Result<DeriveSharedSecretResponse, KmsError> {
        const NAME: &str = "DeriveSharedSecret";
        let algorithm = request.key_agreement_algorithm;
        let parameters = Canonical::object([
            ("dryRun", Member::flag(request.dry_run)),
            ("keyId", request.key_id.as_str().into()),
            ("keyAgreementAlgorithm", algorithm.as_str().into()),
        ]);
        self.call(caller, (NAME, ReadOnly), parameters, |call| {
            members!(request: key_id, public_key, grant_tokens)?;
            let access =
                Access::to(NAME).tokens(&request.grant_tokens).with("kms:KeyAgreementAlgorithm", algorithm.as_str());
            let key = call.key(&*call.snapshot()?, &request.key_id, Forms::Any, access)?;
            call.usable(&key)?;
            let legal = Algorithms::of(key.record.spec, KeyUsage::KeyAgreement).key_agreement_algorithms;
            fits(&key, NAME, KeyUsage::KeyAgreement, algorithm, legal)?;
            let KeyObject::Agreement(own) = object(&key, current(&key)?)? else { return Err(mismatched(&key)) };
            let secret = own.agree(&request.public_key).map_err(|error| match error {
                PairError::Rejected => KmsError::Validation(format!(
                    "PublicKey is not a DER-encoded X.509 SubjectPublicKeyInfo of a key with key spec {}.",
                    key.record.spec
                )),
                error => failed(error),
            })?;
            proceed(request.dry_run)?;
            Ok(DeriveSharedSecretResponse {
                key_id: key.arn.clone(),
                shared_secret: secret.into(),
                key_agreement_algorithm: algorithm,
                key_origin: key.record.origin,
            })
        })
    }

    /// `Encapsulate`.
    pub fn encapsulate(&self, caller: &Caller, request: EncapsulateRequest) -> Result<EncapsulateResponse, KmsError> {
        const NAME: &str = "Encapsulate";
        let algorithm = request.encapsulation_algorithm;
        let parameters = Canonical::object([
            ("dryRun", Member::flag(request.dry_run)),
            ("keyId", request.key_id.as_str().into()),
            ("encapsulationAlgorithm", algorithm.as_str().into()),
        ]);
        self.call(caller, (NAME, ReadOnly), parameters, |call| {
            members!(request: key_id, grant_tokens)?;
            let key = call.kem_key(&request.key_id, &request.grant_tokens, NAME, algorithm)?;
            let kem = kem(&key)?;
            proceed(request.dry_run)?;
            let (shared_secret_ciphertext_blob, secret) = kem.encapsulate().map_err(failed)?;
            Ok(EncapsulateResponse {
                key_id: key.arn.clone(),
                shared_secret: secret.into(),
                shared_secret_ciphertext_blob,
                encapsulation_algorithm: algorithm,
            })
        })
    }

    /// `Decapsulate`.
    pub fn decapsulate(&self, caller: &Caller, request: DecapsulateRequest) -> Result<DecapsulateResponse, KmsError> {
        const NAME: &str = "Decapsulate";
        let algorithm = request.encapsulation_algorithm;
        let parameters = Canonical::object([
            ("dryRun", Member::flag(request.dry_run)),
            ("keyId", request.key_id.as_str().into()),
            ("encapsulationAlgorithm", algorithm.as_str().into()),
        ]);
        self.call(caller, (NAME, ReadOnly), parameters, |call| {
            let ciphertext = &request.shared_secret_ciphertext_blob;
            members!(request: key_id, shared_secret_ciphertext_blob, grant_tokens)?;
            let key = call.kem_key(&request.key_id, &request.grant_tokens, NAME, algorithm)?;
            let secret = kem(&key)?.decapsulate(ciphertext).map_err(|error| match error {
                PairError::Unfit => KmsError::InvalidCiphertext,
                error => failed(error),
            })?;
            proceed(request.dry_run)?;
            Ok(DecapsulateResponse {
                key_id: key.arn.clone(),
                shared_secret: secret.into(),
                encapsulation_algorithm: algorithm,
            })
        })
    }
}

impl Call<'_> {
    /// The key to encapsulate or decapsulate with: authorised, usable, fitting.
    fn kem_key(
        &mut self,
        key_id: &str,
        grant_tokens: &[String],
        operation: &'static str,
        algorithm: EncapsulationAlgorithm,
    ) -> Result<Arc<KeyEntry>, KmsError> {
        let access = Access::to(operation).tokens(grant_tokens);
        let key = self.key(&*self.snapshot()?, key_id, Forms::Any, access)?;
        self.usable(&key)?;
        let legal = Algorithms::of(key.record.spec, KeyUsage::EncapsulateDecapsulate).encapsulation_algorithms;
        fits(&key, operation, KeyUsage::EncapsulateDecapsulate, algorithm, legal)?;
        Ok(key)
    }
}

fn kem(key: &KeyEntry) -> Result<&DecapsulationKey, KmsError> {
    match object(key, current(key)?)? {
        KeyObject::Decapsulation(kem) => Ok(kem),
        _ => Err(mismatched(key)),
    }
}
