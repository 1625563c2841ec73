//! Cryptography: data keys, encryption, re-encryption, random bytes.

use serde_json::{Map, Value, json};

use super::Engine;
use super::aliases::create_managed;
use super::authorise::Access;
use super::call::{Call, Effect::*};
use super::check::Constraints;
use super::resolve::{Forms, does_not_exist, usable};
use crate::crypto::secret::SecretBytes;
use crate::kms::KmsError;
use crate::kms::blob::{self, Header};
use crate::kms::model::*;
use crate::kms::store::{KeyEntry, Material, key_row_id};
use crate::sync::Arc;
use crate::types::EncryptionContext;

const MAX_PLAINTEXT: usize = 4096;
const MAX_BLOB: usize = 6144;
const MAX_RANDOM: u32 = 1024;
const SYMMETRIC: &str = EncryptionAlgorithm::SymmetricDefault.as_str();

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
        let mut parameters = parameters(&[("keyId", &request.key_id)], request.dry_run);
        parameters.extend(context_member("encryptionContext", &request.encryption_context));
        parameters.extend(request.key_spec.map(|spec| ("keySpec".to_owned(), spec.as_str().into())));
        parameters.extend(request.number_of_bytes.map(|n| ("numberOfBytes".to_owned(), n.into())));
        self.call(caller, (name, ReadOnly), parameters.into(), |call| {
            Constraints::default()
                .key_id("keyId", &request.key_id)
                .number("numberOfBytes", request.number_of_bytes, 1..=MAX_RANDOM)
                .context("encryptionContext", &request.encryption_context)
                .done()?;
            let len = match (request.key_spec, request.number_of_bytes) {
                (Some(DataKeySpec::Aes128), None) => 16,
                (Some(DataKeySpec::Aes256), None) => 32,
                (None, Some(n)) => n as usize,
                _ => return Err(KmsError::Validation("Please specify either number of bytes or key spec.".into())),
            };
            let access = Access::to(name)
                .tokens(&request.grant_tokens)
                .context(&request.encryption_context)
                .with("kms:EncryptionAlgorithm", SYMMETRIC);
            let key = call.encryption_key(&request.key_id, access)?;
            let material = call.encrypting(&key, name, None)?;
            proceed(request.dry_run)?;
            let plaintext = Plaintext::random(len, &*call.shared.entropy);
            let ciphertext_blob = call.seal(&key, &material, &request.encryption_context, plaintext.expose())?;
            let key_material_id = material.record.material_id.clone();
            call.additional = json!({ "keyMaterialId": key_material_id });
            Ok(GenerateDataKeyResponse { ciphertext_blob, plaintext, key_id: key.arn.clone(), key_material_id })
        })
    }

    /// `Encrypt`.
    pub fn encrypt(&self, caller: &Caller, request: EncryptRequest) -> Result<EncryptResponse, KmsError> {
        let algorithm = request.encryption_algorithm.unwrap_or(EncryptionAlgorithm::SymmetricDefault);
        let named = [("keyId", request.key_id.as_str()), ("encryptionAlgorithm", algorithm.as_str())];
        let mut parameters = parameters(&named, request.dry_run);
        parameters.extend(context_member("encryptionContext", &request.encryption_context));
        self.call(caller, ("Encrypt", ReadOnly), parameters.into(), |call| {
            Constraints::default()
                .key_id("keyId", &request.key_id)
                .bytes("plaintext", request.plaintext.expose().len(), 1..=MAX_PLAINTEXT)
                .context("encryptionContext", &request.encryption_context)
                .done()?;
            let access = Access::to("Encrypt")
                .tokens(&request.grant_tokens)
                .context(&request.encryption_context)
                .with("kms:EncryptionAlgorithm", algorithm.as_str());
            let key = call.encryption_key(&request.key_id, access)?;
            let material = call.encrypting(&key, "Encrypt", request.encryption_algorithm)?;
            proceed(request.dry_run)?;
            let plaintext = request.plaintext.expose();
            let ciphertext_blob = call.seal(&key, &material, &request.encryption_context, plaintext)?;
            call.additional = json!({ "keyMaterialId": material.record.material_id });
            Ok(EncryptResponse { ciphertext_blob, key_id: key.arn.clone(), encryption_algorithm: algorithm })
        })
    }

    /// `Decrypt`. Without `key_id` the key is found from the blob, which proves itself by its tag.
    pub fn decrypt(&self, caller: &Caller, request: DecryptRequest) -> Result<DecryptResponse, KmsError> {
        let algorithm = request.encryption_algorithm.unwrap_or(EncryptionAlgorithm::SymmetricDefault);
        let mut parameters = parameters(&[("encryptionAlgorithm", algorithm.as_str())], request.dry_run);
        parameters.extend(request.key_id.as_ref().map(|id| ("keyId".to_owned(), id.as_str().into())));
        parameters.extend(context_member("encryptionContext", &request.encryption_context));
        self.call(caller, ("Decrypt", ReadOnly), parameters.into(), |call| {
            Constraints::default()
                .bytes("ciphertextBlob", request.ciphertext_blob.len(), 1..=MAX_BLOB)
                .context("encryptionContext", &request.encryption_context)
                .done()?;
            let ciphertext = Ciphertext {
                blob: &request.ciphertext_blob,
                context: &request.encryption_context,
                key_id: request.key_id.as_deref(),
                algorithm: request.encryption_algorithm,
            };
            let access = Access::to("Decrypt")
                .tokens(&request.grant_tokens)
                .context(&request.encryption_context)
                .with("kms:EncryptionAlgorithm", algorithm.as_str());
            let (key, material, plaintext) = call.open(&ciphertext, "Decrypt", access)?;
            proceed(request.dry_run)?;
            let key_material_id = material.record.material_id.clone();
            call.additional = json!({ "keyMaterialId": key_material_id });
            Ok(DecryptResponse { key_id: key.arn.clone(), plaintext, encryption_algorithm: algorithm, key_material_id })
        })
    }

    /// `ReEncrypt`: to another key, another encryption context, or the current material.
    pub fn re_encrypt(&self, caller: &Caller, request: ReEncryptRequest) -> Result<ReEncryptResponse, KmsError> {
        let from = request.source_encryption_algorithm.unwrap_or(EncryptionAlgorithm::SymmetricDefault);
        let to = request.destination_encryption_algorithm.unwrap_or(EncryptionAlgorithm::SymmetricDefault);
        let named = [
            ("destinationKeyId", request.destination_key_id.as_str()),
            ("sourceEncryptionAlgorithm", from.as_str()),
            ("destinationEncryptionAlgorithm", to.as_str()),
        ];
        let mut parameters = parameters(&named, request.dry_run);
        parameters.extend(request.source_key_id.as_ref().map(|id| ("sourceKeyId".to_owned(), id.as_str().into())));
        parameters.extend(context_member("sourceEncryptionContext", &request.source_encryption_context));
        parameters.extend(context_member("destinationEncryptionContext", &request.destination_encryption_context));
        self.call(caller, ("ReEncrypt", ReadOnly), parameters.into(), |call| {
            Constraints::default()
                .bytes("ciphertextBlob", request.ciphertext_blob.len(), 1..=MAX_BLOB)
                .key_id("destinationKeyId", &request.destination_key_id)
                .context("sourceEncryptionContext", &request.source_encryption_context)
                .context("destinationEncryptionContext", &request.destination_encryption_context)
                .done()?;
            create_managed(call, &request.destination_key_id, false)?;
            let ciphertext = Ciphertext {
                blob: &request.ciphertext_blob,
                context: &request.source_encryption_context,
                key_id: request.source_key_id.as_deref(),
                algorithm: request.source_encryption_algorithm,
            };
            let access = Access::to("ReEncryptFrom")
                .tokens(&request.grant_tokens)
                .context(&request.source_encryption_context)
                .with("kms:EncryptionAlgorithm", from.as_str());
            let (source, source_material, plaintext) = call.open(&ciphertext, "ReEncrypt", access)?;
            let access = Access::to("ReEncryptTo")
                .tokens(&request.grant_tokens)
                .context(&request.destination_encryption_context)
                .with("kms:EncryptionAlgorithm", to.as_str());
            let snapshot = call.snapshot()?;
            let key = call.key(&snapshot, &request.destination_key_id, Forms::Any, access)?;
            usable(&key)?;
            let material = call.encrypting(&key, "ReEncrypt", request.destination_encryption_algorithm)?;
            proceed(request.dry_run)?;
            let context = &request.destination_encryption_context;
            let ciphertext_blob = call.seal(&key, &material, context, plaintext.expose())?;
            let source_key_material_id = source_material.record.material_id.clone();
            let destination_key_material_id = material.record.material_id.clone();
            call.additional = json!({
                "sourceKeyMaterialId": source_key_material_id,
                "destinationKeyMaterialId": destination_key_material_id,
            });
            Ok(ReEncryptResponse {
                ciphertext_blob,
                source_key_id: source.arn.clone(),
                key_id: key.arn.clone(),
                source_encryption_algorithm: from,
                destination_encryption_algorithm: to,
                source_key_material_id,
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
            Constraints::default().number("numberOfBytes", request.number_of_bytes, 1..=MAX_RANDOM).done()?;
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

/// A blob with what the caller says of it.
struct Ciphertext<'a> {
    blob: &'a [u8],
    context: &'a EncryptionContext,
    key_id: Option<&'a str>,
    algorithm: Option<EncryptionAlgorithm>,
}

impl Call<'_> {
    /// The key to encrypt with, authorised and usable.
    fn encryption_key<'a>(&mut self, key_id: &'a str, access: Access<'a>) -> Result<Arc<KeyEntry>, KmsError> {
        create_managed(self, key_id, false)?;
        let snapshot = self.snapshot()?;
        let key = self.key(&snapshot, key_id, Forms::Any, access)?;
        usable(&key)?;
        Ok(key)
    }

    /// The material that encrypts for `key`.
    fn encrypting(
        &self,
        key: &KeyEntry,
        operation: &str,
        algorithm: Option<EncryptionAlgorithm>,
    ) -> Result<Arc<Material>, KmsError> {
        fits(key, operation, algorithm)?;
        let current = key.current().cloned();
        current.ok_or_else(|| KmsError::Internal(format!("{} has no current key material", key.arn)))
    }

    fn seal(
        &self,
        key: &KeyEntry,
        material: &Material,
        context: &EncryptionContext,
        plaintext: &[u8],
    ) -> Result<Vec<u8>, KmsError> {
        let header = Header::new(&key.record.key_id, material.id);
        let header = header.ok_or_else(|| KmsError::Internal(format!("{} has no valid key id", key.arn)))?;
        let context = blob::encode_context(context);
        if material.record.token.is_some() {
            let snapshot = self.snapshot()?;
            return self.shared.seal_in_token(&snapshot, key, material, (&header, &context, plaintext));
        }
        Ok(blob::seal(&header, secret(key, material)?, &context, plaintext, &*self.shared.entropy))
    }

    fn open(
        &mut self,
        ciphertext: &Ciphertext<'_>,
        operation: &str,
        access: Access<'_>,
    ) -> Result<(Arc<KeyEntry>, Arc<Material>, Plaintext), KmsError> {
        let snapshot = self.snapshot()?;
        let named = match ciphertext.key_id {
            Some(key_id) => {
                Constraints::default().key_id("keyId", key_id).done()?;
                Some(self.key(&snapshot, key_id, Forms::Any, access.clone())?)
            }
            None => None,
        };
        let header = Header::parse(ciphertext.blob);
        let found = header.and_then(|header| {
            snapshot.keys.get(&*key_row_id(self.caller.region().as_str(), &header.key_id_text())).cloned()
        });
        let (Some(header), Some(key)) = (header, found) else {
            return Err(invalid_after_work(ciphertext));
        };
        match named {
            Some(named) if named.arn != key.arn => return Err(KmsError::IncorrectKey),
            Some(_) => {}
            None => self.authorise(&snapshot, &access, &key)?,
        }
        if key.is_tombstone() {
            return Err(does_not_exist(key.arn.as_str()));
        }
        usable(&key)?;
        fits(&key, operation, ciphertext.algorithm)?;
        let Some(material) = key.materials.iter().find(|material| material.id == header.material_id).cloned() else {
            return Err(invalid_after_work(ciphertext));
        };
        let context = blob::encode_context(ciphertext.context);
        let plain = match material.record.token {
            Some(_) if header.in_token => {
                self.shared.open_in_token(&snapshot, &key, &material, (ciphertext.blob, &context))?
            }
            None if !header.in_token => {
                blob::open(ciphertext.blob, secret(&key, &material)?, &context).ok_or(KmsError::InvalidCiphertext)?
            }
            _ => return Err(KmsError::InvalidCiphertext),
        };
        Ok((key, material, Plaintext::from(&plain[..])))
    }
}

/// The material's bytes. Keys that lack some are `PendingImport` and were refused; one that waits for its rotation may
/// be missing.
fn secret<'a>(key: &KeyEntry, material: &'a Material) -> Result<&'a SecretBytes, KmsError> {
    let state = KeyState::PendingImport;
    material.secret().ok_or_else(|| KmsError::InvalidState { arn: key.arn.clone(), state })
}

/// `InvalidCiphertextException`, after as much work as for a blob whose tag is wrong.
fn invalid_after_work(ciphertext: &Ciphertext<'_>) -> KmsError {
    let nobody = SecretBytes::from(&[0; 32][..]);
    let opened = blob::open(ciphertext.blob, &nobody, &blob::encode_context(ciphertext.context));
    // A blob under a key of zeros is no ciphertext of ours either.
    drop(std::hint::black_box(opened));
    KmsError::InvalidCiphertext
}

/// Refuses keys and algorithms that do not fit the operation.
fn fits(key: &KeyEntry, operation: &str, algorithm: Option<EncryptionAlgorithm>) -> Result<(), KmsError> {
    let record = &key.record;
    if record.usage != KeyUsage::EncryptDecrypt {
        let text = format!("{} key usage is {} which is not valid for {operation}.", key.arn, record.usage);
        return Err(KmsError::InvalidKeyUsage(text));
    }
    match algorithm {
        Some(algorithm) if algorithm != EncryptionAlgorithm::SymmetricDefault => Err(KmsError::InvalidKeyUsage(
            format!("Algorithm {algorithm} is incompatible with key spec {}.", record.spec),
        )),
        _ => Ok(()),
    }
}

fn proceed(dry_run: bool) -> Result<(), KmsError> {
    if dry_run { Err(KmsError::DryRun) } else { Ok(()) }
}

fn parameters(named: &[(&str, &str)], dry_run: bool) -> Map<String, Value> {
    let mut members: Map<String, Value> =
        named.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
    if dry_run {
        members.insert("dryRun".into(), true.into());
    }
    members
}

/// The encryption context for the record, absent when empty.
fn context_member(name: &str, context: &EncryptionContext) -> Option<(String, Value)> {
    let pairs: Map<String, Value> = context.pairs().map(|(name, value)| (name.to_owned(), value.into())).collect();
    (!pairs.is_empty()).then(|| (name.to_owned(), pairs.into()))
}
