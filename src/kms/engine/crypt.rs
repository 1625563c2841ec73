//! Cryptography: data keys, encryption, re-encryption, random bytes.

use serde_json::json;

use super::Engine;
use super::aliases::create_managed;
use super::authorise::Access;
use super::call::{Call, Effect::*};
use super::check::{Constraints, members};
use super::cipher::{Ciphertext, Use, symmetric_id};
use super::evaluate::flag;
use super::resolve::{Forms, find};
use crate::kms::KmsError;
use crate::kms::audit::{Canonical, Member};
use crate::kms::blob::{Header, KeyName};
use crate::kms::model::*;
use crate::kms::store::Snapshot;

const SYMMETRIC: EncryptionAlgorithm = EncryptionAlgorithm::SymmetricDefault;

impl Engine {
    /// `GenerateDataKey`.
    pub fn generate_data_key(
        &self,
        caller: &Caller,
        request: GenerateDataKeyRequest,
    ) -> Result<GenerateDataKeyResponse, KmsError> {
        self.data_key(caller, "GenerateDataKey", &request)
    }

    /// `GenerateDataKeyWithoutPlaintext`.
    pub fn generate_data_key_without_plaintext(
        &self,
        caller: &Caller,
        request: GenerateDataKeyRequest,
    ) -> Result<GenerateDataKeyWithoutPlaintextResponse, KmsError> {
        let answer = self.data_key(caller, "GenerateDataKeyWithoutPlaintext", &request)?;
        let GenerateDataKeyResponse { ciphertext_blob, key_id, key_material_id, plaintext: _ } = answer;
        Ok(GenerateDataKeyWithoutPlaintextResponse { ciphertext_blob, key_id, key_material_id })
    }

    fn data_key(
        &self,
        caller: &Caller,
        name: &'static str,
        request: &GenerateDataKeyRequest,
    ) -> Result<GenerateDataKeyResponse, KmsError> {
        let parameters = Canonical::object([
            ("dryRun", Member::flag(request.dry_run)),
            ("encryptionContext", Member::context(&request.encryption_context)),
            ("keyId", request.key_id.as_str().into()),
            ("keySpec", request.key_spec.map(DataKeySpec::as_str).into()),
            ("numberOfBytes", request.number_of_bytes.into()),
        ]);
        self.call(caller, (name, ReadOnly), parameters, |call| {
            members!(request: key_id, number_of_bytes, encryption_context, grant_tokens)?;
            let len = match (request.key_spec, request.number_of_bytes) {
                (Some(DataKeySpec::Aes128), None) => 16,
                (Some(DataKeySpec::Aes256), None) => 32,
                (None, Some(n)) => n as usize,
                _ => return Err(KmsError::Validation("Please specify either number of bytes or key spec.".into())),
            };
            let access = Access::to(name)
                .tokens(&request.grant_tokens)
                .context(&request.encryption_context)
                .with("kms:EncryptionAlgorithm", SYMMETRIC.as_str());
            let key = call.encryption_key(&request.key_id, access)?;
            let using = Use { operation: name, algorithm: SYMMETRIC, context: &request.encryption_context };
            let material = call.encrypting(&key, &using, len)?;
            proceed(request.dry_run)?;
            let plaintext = Plaintext::random(len, &*call.shared.entropy);
            let ciphertext_blob = call.seal(&key, material, &using, plaintext.expose())?;
            let key_material_id = material.id_text();
            call.additional = Canonical::object([("keyMaterialId", key_material_id.as_str().into())]);
            Ok(GenerateDataKeyResponse { ciphertext_blob, plaintext, key_id: key.arn.clone(), key_material_id })
        })
    }

    /// `Encrypt`.
    pub fn encrypt(&self, caller: &Caller, request: EncryptRequest) -> Result<EncryptResponse, KmsError> {
        let algorithm = request.encryption_algorithm.unwrap_or(SYMMETRIC);
        let parameters = Canonical::object([
            ("dryRun", Member::flag(request.dry_run)),
            ("encryptionAlgorithm", algorithm.as_str().into()),
            ("encryptionContext", Member::context(&request.encryption_context)),
            ("keyId", request.key_id.as_str().into()),
        ]);
        self.call(caller, ("Encrypt", ReadOnly), parameters, |call| {
            members!(request: key_id, plaintext, encryption_context, grant_tokens)?;
            let access = Access::to("Encrypt")
                .tokens(&request.grant_tokens)
                .context(&request.encryption_context)
                .with("kms:EncryptionAlgorithm", algorithm.as_str());
            let key = call.encryption_key(&request.key_id, access)?;
            let plaintext = request.plaintext.expose();
            let using = Use { operation: "Encrypt", algorithm, context: &request.encryption_context };
            let material = call.encrypting(&key, &using, plaintext.len())?;
            proceed(request.dry_run)?;
            let ciphertext_blob = call.seal(&key, material, &using, plaintext)?;
            call.additional = Canonical::object([("keyMaterialId", symmetric_id(&key, material).as_deref().into())]);
            Ok(EncryptResponse { ciphertext_blob, key_id: key.arn.clone(), encryption_algorithm: algorithm })
        })
    }

    /// `Decrypt`. Without `key_id` the key is found from the blob, which proves itself by its tag; the bare ciphertext of
    /// an asymmetric key names none.
    pub fn decrypt(&self, caller: &Caller, request: DecryptRequest) -> Result<DecryptResponse, KmsError> {
        let algorithm = request.encryption_algorithm.unwrap_or(SYMMETRIC);
        let parameters = Canonical::object([
            ("dryRun", Member::flag(request.dry_run)),
            ("encryptionAlgorithm", algorithm.as_str().into()),
            ("encryptionContext", Member::context(&request.encryption_context)),
            ("keyId", request.key_id.as_deref().into()),
        ]);
        self.call(caller, ("Decrypt", ReadOnly), parameters, |call| {
            members!(request: ciphertext_blob, encryption_context, grant_tokens, key_id)?;
            let blob = blob(&request.ciphertext_blob, &request.dry_run_modifiers, request.dry_run, &request.key_id)?;
            let using = Use { operation: "Decrypt", algorithm, context: &request.encryption_context };
            let ciphertext = Ciphertext { blob, key_id: request.key_id.as_deref(), using: &using };
            let access = Access::to("Decrypt")
                .tokens(&request.grant_tokens)
                .context(&request.encryption_context)
                .with("kms:EncryptionAlgorithm", algorithm.as_str());
            let opened = call.open(&ciphertext, access)?;
            proceed(request.dry_run)?;
            let opened = opened.ok_or(KmsError::DryRun)?;
            call.additional = Canonical::object([("keyMaterialId", opened.material_id.as_deref().into())]);
            Ok(DecryptResponse {
                key_id: opened.key.arn.clone(),
                plaintext: opened.plaintext,
                encryption_algorithm: algorithm,
                key_material_id: opened.material_id,
            })
        })
    }

    /// `ReEncrypt`: to another key, another encryption context, or the current material.
    pub fn re_encrypt(&self, caller: &Caller, request: ReEncryptRequest) -> Result<ReEncryptResponse, KmsError> {
        let from = request.source_encryption_algorithm.unwrap_or(SYMMETRIC);
        let to = request.destination_encryption_algorithm.unwrap_or(SYMMETRIC);
        let parameters = Canonical::object([
            ("destinationEncryptionAlgorithm", to.as_str().into()),
            ("destinationEncryptionContext", Member::context(&request.destination_encryption_context)),
            ("destinationKeyId", request.destination_key_id.as_str().into()),
            ("dryRun", Member::flag(request.dry_run)),
            ("sourceEncryptionAlgorithm", from.as_str().into()),
            ("sourceEncryptionContext", Member::context(&request.source_encryption_context)),
            ("sourceKeyId", request.source_key_id.as_deref().into()),
        ]);
        self.call(caller, ("ReEncrypt", ReadOnly), parameters, |call| {
            members!(request: ciphertext_blob, source_encryption_context, source_key_id, destination_key_id,
                destination_encryption_context, grant_tokens)?;
            let (modifiers, source) = (&request.dry_run_modifiers, &request.source_key_id);
            let blob = blob(&request.ciphertext_blob, modifiers, request.dry_run, source)?;
            create_managed(call, &request.destination_key_id, false)?;
            let using = Use { operation: "ReEncrypt", algorithm: from, context: &request.source_encryption_context };
            let ciphertext = Ciphertext { blob, key_id: request.source_key_id.as_deref(), using: &using };
            let same_key = flag(is_same_key(call, &*call.snapshot()?, &request));
            let access = Access::to("ReEncryptFrom")
                .tokens(&request.grant_tokens)
                .context(&request.source_encryption_context)
                .with("kms:ReEncryptOnSameKey", same_key)
                .with("kms:EncryptionAlgorithm", from.as_str());
            let opened = call.open(&ciphertext, access)?;
            let access = Access::to("ReEncryptTo")
                .tokens(&request.grant_tokens)
                .context(&request.destination_encryption_context)
                .with("kms:ReEncryptOnSameKey", same_key)
                .with("kms:EncryptionAlgorithm", to.as_str());
            let snapshot = call.snapshot()?;
            let key = call.key(&snapshot, &request.destination_key_id, Forms::Any, access)?;
            call.usable(&key)?;
            let using = Use { operation: "ReEncrypt", algorithm: to, context: &request.destination_encryption_context };
            let len = opened.as_ref().map_or(0, |opened| opened.plaintext.expose().len());
            let material = call.encrypting(&key, &using, len)?;
            proceed(request.dry_run)?;
            let opened = opened.ok_or(KmsError::DryRun)?;
            let ciphertext_blob = call.seal(&key, material, &using, opened.plaintext.expose())?;
            let destination_key_material_id = symmetric_id(&key, material);
            call.additional = Canonical::object([
                ("sourceKeyMaterialId", opened.material_id.as_deref().into()),
                ("destinationKeyMaterialId", destination_key_material_id.as_deref().into()),
            ]);
            Ok(ReEncryptResponse {
                ciphertext_blob,
                source_key_id: opened.key.arn.clone(),
                key_id: key.arn.clone(),
                source_encryption_algorithm: from,
                destination_encryption_algorithm: to,
                source_key_material_id: opened.material_id,
                destination_key_material_id,
            })
        })
    }

    /// `GenerateRandom`.
    pub fn generate_random(
        &self,
        caller: &Caller,
        request: GenerateRandomRequest,
    ) -> Result<GenerateRandomResponse, KmsError> {
        let parameters = json!({
            "numberOfBytes": request.number_of_bytes, "customKeyStoreId": request.custom_key_store_id,
        });
        self.call(caller, ("GenerateRandom", ReadOnly), parameters, |call| {
            members!(request: number_of_bytes, custom_key_store_id)?;
            call.permit(&*call.snapshot()?, "GenerateRandom", "*")?;
            let len = request.number_of_bytes;
            let len = len.ok_or_else(|| KmsError::Validation("NumberOfBytes is required.".into()))?;
            let plaintext = match &request.custom_key_store_id {
                Some(id) => call.random_from_token(id, len as usize)?,
                None => Plaintext::random(len as usize, &*call.shared.entropy),
            };
            Ok(GenerateRandomResponse { plaintext })
        })
    }
}

/// The ciphertext, unless a dry run leaves it out; it then needs the key's name.
fn blob<'r>(
    blob: &'r Option<Vec<u8>>,
    modifiers: &[DryRunModifier],
    dry_run: bool,
    key_id: &Option<String>,
) -> Result<Option<&'r [u8]>, KmsError> {
    if !modifiers.contains(&DryRunModifier::IgnoreCiphertext) {
        let mut found = Constraints::default();
        if blob.is_none() {
            found.missing("ciphertext_blob");
        }
        return found.done().map(|()| blob.as_deref());
    }
    match key_id {
        _ if !dry_run => Err(KmsError::Validation("DryRunModifiers can be used in a dry run only.".into())),
        None => Err(KmsError::Validation("IGNORE_CIPHERTEXT needs the id of the key to decrypt with.".into())),
        Some(_) => Ok(None),
    }
}

/// Whether a re-encryption stays under its key, as far as the request tells; what it names wrongly is refused later.
fn is_same_key(call: &Call<'_>, snapshot: &Snapshot, request: &ReEncryptRequest) -> bool {
    let id_of = |text: &str| {
        let found = find(call.caller, snapshot, text, Forms::Any, "ReEncryptTo").ok();
        found.map(|found| found.key.record.key_id.clone())
    };
    let source = match &request.source_key_id {
        // A plain id may be of any account, if the ciphertext names it too.
        Some(text) if KeyName::parse(text).is_some() => Some(text.clone()),
        Some(text) => id_of(text),
        None => {
            let header = request.ciphertext_blob.as_deref().and_then(Header::parse);
            header.map(|header| header.key_id_text().to_string())
        }
    };
    source.is_some() && source == id_of(&request.destination_key_id)
}

/// Ends a dry run, when everything has been checked.
pub fn proceed(dry_run: bool) -> Result<(), KmsError> {
    if dry_run { Err(KmsError::DryRun) } else { Ok(()) }
}
