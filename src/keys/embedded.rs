//! The embedded key manager as a [`KeyService`]: in process, the mount as the calling principal.

use crate::crypto::secret::SecretKey;
use crate::keys::{GeneratedKey, KeyError, KeyService};
use crate::kms::model::{
    Caller, DecryptRequest, DescribeKeyRequest, GenerateDataKeyRequest, KeyMetadata, KeyState, Principal,
    ReEncryptRequest,
};
use crate::kms::{Engine, KmsError, blob};
use crate::types::{EncryptionContext, KeyArn, VolumeId};

/// The key manager as one mount sees it.
pub struct EmbeddedKms {
    engine: Engine,
    caller: Caller,
}

impl EmbeddedKms {
    /// `engine` for the mount of `volume`: the principal is `arn:aws:iam::<account>:role/kmsfs/<volume>`, the calls
    /// come through `kmsfs.<region>.local`.
    pub fn new(engine: Engine, volume: &VolumeId) -> Self {
        let principal = Principal::mount(engine.account(), &volume.to_string());
        let service = format!("kmsfs.{}.local", engine.region());
        let caller = Caller::local(principal, engine.region().clone()).via_service(service);
        Self { engine, caller }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    fn describe(&self, key: &str) -> Result<KeyMetadata, KeyError> {
        let request = DescribeKeyRequest { key_id: key.to_owned(), ..Default::default() };
        let answer = self.engine.describe_key(&self.caller, request).map_err(|e| key_error(e, key))?;
        Ok(answer.key_metadata)
    }
}

/// What a refusal means to the filesystem. `key` is the key as it was named.
fn key_error(error: KmsError, key: &str) -> KeyError {
    let text = |error: &KmsError| format!("{}: {error}", error.code());
    match error {
        KmsError::Disabled(arn) => KeyError::Disabled(arn),
        KmsError::InvalidState { arn, state: KeyState::PendingDeletion | KeyState::PendingReplicaDeletion } => {
            KeyError::PendingDeletion(arn)
        }
        KmsError::KeyUnavailable { .. }
        | KmsError::InvalidState { state: KeyState::Unavailable | KeyState::Creating, .. } => {
            KeyError::Unreachable(text(&error))
        }
        KmsError::NotFound(_) | KmsError::InvalidArn(_) => KeyError::NotFound(key.to_owned()),
        KmsError::AccessDenied(reason) => KeyError::Denied { key: key.to_owned(), reason },
        KmsError::InvalidKeyUsage(reason) => KeyError::NotSymmetric(reason),
        KmsError::InvalidCiphertext | KmsError::IncorrectKey => match key.parse() {
            Ok(arn) => KeyError::InvalidCiphertext(arn),
            Err(_) => KeyError::Failed(text(&error)),
        },
        other => KeyError::Failed(text(&other)),
    }
}

impl KeyService for EmbeddedKms {
    fn resolve(&self, key: &str) -> Result<KeyArn, KeyError> {
        Ok(self.describe(key)?.arn)
    }

    fn check(&self, key: &KeyArn) -> Result<(), KeyError> {
        self.engine.usable(key).map_err(|error| key_error(error, key.as_str()))
    }

    fn revision(&self) -> Option<u64> {
        self.engine.revision().ok()
    }

    fn generate_data_key(&self, key: &KeyArn, context: &EncryptionContext) -> Result<GeneratedKey, KeyError> {
        let request = GenerateDataKeyRequest {
            key_id: key.as_str().to_owned(),
            encryption_context: context.clone(),
            number_of_bytes: Some(32),
            ..Default::default()
        };
        let answer = self.engine.generate_data_key(&self.caller, request).map_err(|e| key_error(e, key.as_str()))?;
        let key = data_key(answer.plaintext.expose(), key)?;
        Ok(GeneratedKey { key, blob: answer.ciphertext_blob })
    }

    fn decrypt(&self, key: &KeyArn, blob: &[u8], context: &EncryptionContext) -> Result<SecretKey<32>, KeyError> {
        let request = DecryptRequest {
            ciphertext_blob: Some(blob.to_vec()),
            encryption_context: context.clone(),
            key_id: Some(key.as_str().to_owned()),
            ..Default::default()
        };
        let answer = self.engine.decrypt(&self.caller, request).map_err(|e| key_error(e, key.as_str()))?;
        data_key(answer.plaintext.expose(), key)
    }

    fn re_encrypt(
        &self,
        from: &KeyArn,
        blob: &[u8],
        to: &KeyArn,
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, KeyError> {
        let request = ReEncryptRequest {
            ciphertext_blob: Some(blob.to_vec()),
            source_encryption_context: context.clone(),
            source_key_id: Some(from.as_str().to_owned()),
            destination_key_id: to.as_str().to_owned(),
            destination_encryption_context: context.clone(),
            ..Default::default()
        };
        let answer = self.engine.re_encrypt(&self.caller, request).map_err(|error| {
            // The key manager's text names the key at fault; without a name it is about the ciphertext.
            let at_fault = if error.to_string().contains(to.as_str()) { to } else { from };
            key_error(error, at_fault.as_str())
        })?;
        Ok(answer.ciphertext_blob)
    }

    fn material_id(&self, blob: &[u8]) -> Option<String> {
        blob::material_id(blob)
    }

    fn current_material_id(&self, key: &KeyArn) -> Result<Option<String>, KeyError> {
        Ok(self.describe(key.as_str())?.current_key_material_id)
    }
}

/// The 256-bit key in `plaintext`; what has another length was wrapped by somebody else for something else.
fn data_key(plaintext: &[u8], key: &KeyArn) -> Result<SecretKey<32>, KeyError> {
    SecretKey::from_slice(plaintext).ok_or_else(|| KeyError::InvalidCiphertext(key.clone()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::env::{SystemClock, SystemEntropy};
    use crate::kms::custody::{Home, NewHome, NewSlot};
    use crate::kms::model::{CreateKeyRequest, ScheduleKeyDeletionRequest};

    #[test]
    fn the_filesystem_sees_its_own_errors() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let new = NewHome::with_slots(vec![NewSlot::KeyFile]);
        let (home, _) = Home::create(&dir.path().join("kms"), new, &SystemClock, &SystemEntropy).expect("created");
        let engine = Engine::start(home, Arc::new(SystemClock), Arc::new(SystemEntropy)).expect("started");
        let alice = engine.local_caller("alice");
        let kms = EmbeddedKms::new(engine.clone(), &VolumeId::from_bytes([1; 16]));
        let context = EncryptionContext::new().with("a", "b");

        let arn = kms.resolve("alias/aws/kmsfs").expect("created on first use");
        let made = kms.generate_data_key(&arn, &context).expect("generated");
        assert!(kms.decrypt(&arn, &made.blob, &context).expect("decrypts").ct_eq(&made.key));
        assert_eq!(kms.material_id(&made.blob), kms.current_material_id(&arn).expect("known"));
        let wrong = kms.decrypt(&arn, &made.blob, &EncryptionContext::new()).expect_err("wrong context");
        assert_eq!(wrong, KeyError::InvalidCiphertext(arn.clone()));

        let own = engine.create_key(&alice, CreateKeyRequest::default()).expect("created").key_metadata.arn;
        let moved = kms.re_encrypt(&arn, &made.blob, &own, &context).expect("re-encrypted");
        assert!(kms.decrypt(&own, &moved, &context).expect("decrypts").ct_eq(&made.key));
        assert_eq!(kms.check(&own), Ok(()));
        engine.disable_key(&alice, own.as_str().into()).expect("disabled");
        assert_eq!(kms.check(&own), Err(KeyError::Disabled(own.clone())));
        assert_eq!(kms.decrypt(&own, &moved, &context).expect_err("disabled"), KeyError::Disabled(own.clone()));
        let request = ScheduleKeyDeletionRequest { key_id: own.to_string(), pending_window_in_days: Some(7) };
        engine.schedule_key_deletion(&alice, request).expect("scheduled");
        let refused = kms.generate_data_key(&own, &context).expect_err("pending");
        assert_eq!(refused, KeyError::PendingDeletion(own));
        assert_eq!(kms.resolve("alias/none"), Err(KeyError::NotFound("alias/none".into())));
        let foreign = "arn:aws:kms:us-east-1:999999999999:key/00000000-0000-4000-8000-000000000000";
        assert!(matches!(kms.resolve(foreign), Err(KeyError::Denied { .. })));
    }
}
