//! Data key pairs.

use super::Engine;
use super::authorise::Access;
use super::call::Effect::*;
use super::check::members;
use super::cipher::Use;
use super::crypt::proceed;
use super::sign::failed;
use crate::kms::KmsError;
use crate::kms::audit::{Canonical, Member};
use crate::kms::model::*;

impl Engine {
    /// `GenerateDataKeyPair`. RSA takes seconds.
    pub fn generate_data_key_pair(
        &self,
        caller: &Caller,
        request: GenerateDataKeyPairRequest,
    ) -> Result<GenerateDataKeyPairResponse, KmsError> {
        self.data_key_pair(caller, "GenerateDataKeyPair", &request)
    }

    /// `GenerateDataKeyPairWithoutPlaintext`.
    pub fn generate_data_key_pair_without_plaintext(
        &self,
        caller: &Caller,
        request: GenerateDataKeyPairRequest,
    ) -> Result<GenerateDataKeyPairWithoutPlaintextResponse, KmsError> {
        let answer = self.data_key_pair(caller, "GenerateDataKeyPairWithoutPlaintext", &request)?;
        let GenerateDataKeyPairResponse {
            private_key_ciphertext_blob,
            private_key_plaintext: _,
            public_key,
            key_id,
            key_pair_spec,
            key_material_id,
        } = answer;
        Ok(GenerateDataKeyPairWithoutPlaintextResponse {
            private_key_ciphertext_blob,
            public_key,
            key_id,
            key_pair_spec,
            key_material_id,
        })
    }

    fn data_key_pair(
        &self,
        caller: &Caller,
        name: &'static str,
        request: &GenerateDataKeyPairRequest,
    ) -> Result<GenerateDataKeyPairResponse, KmsError> {
        let spec = request.key_pair_spec;
        let parameters = Canonical::object([
            ("dryRun", Member::flag(request.dry_run)),
            ("encryptionContext", Member::context(&request.encryption_context)),
            ("keyId", request.key_id.as_str().into()),
            ("keyPairSpec", spec.as_str().into()),
        ]);
        self.call(caller, (name, ReadOnly), parameters, |call| {
            members!(request: key_id, encryption_context, grant_tokens)?;
            let algorithm = EncryptionAlgorithm::SymmetricDefault;
            let access = Access::to(name)
                .tokens(&request.grant_tokens)
                .context(&request.encryption_context)
                .with("kms:EncryptionAlgorithm", algorithm.as_str())
                .with("kms:DataKeyPairSpec", spec.as_str());
            let key = call.encryption_key(&request.key_id, access)?;
            let using = Use { operation: name, algorithm, context: &request.encryption_context };
            let material = call.encrypting(&key, &using, 0)?;
            if key.record.key_store.is_some() {
                let text = format!("{name} is not supported for KMS keys in custom key stores.");
                return Err(KmsError::UnsupportedOperation(text));
            }
            let unsupported = || format!("KeyPairSpec {spec} is not supported in this Region.");
            let pair = spec.pair().ok_or_else(|| KmsError::UnsupportedOperation(unsupported()))?;
            proceed(request.dry_run)?;
            let private = pair.generate().map_err(failed)?;
            let public_key = pair.public_key(private.expose()).map_err(failed)?;
            let private_key_ciphertext_blob = call.seal(&key, material, &using, private.expose())?;
            let key_material_id = material.record.material_id.clone();
            call.additional = Canonical::object([("keyMaterialId", key_material_id.as_str().into())]);
            Ok(GenerateDataKeyPairResponse {
                private_key_ciphertext_blob,
                private_key_plaintext: private.into(),
                public_key,
                key_id: key.arn.clone(),
                key_pair_spec: spec,
                key_material_id,
            })
        })
    }
}
