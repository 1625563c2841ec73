//! A key manager without keys, for the mount without encryption.

use crate::crypto::secret::SecretKey;
use crate::keys::{GeneratedKey, KeyError, KeyService};
use crate::types::{EncryptionContext, KeyArn};

/// Every key is zero, and every blob is as long as one of the embedded key manager.
pub(super) struct NoKeys {
    key: KeyArn,
}

/// Bytes of a blob.
const BLOB: usize = 152;

impl NoKeys {
    pub(super) fn new() -> Self {
        let arn = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000000";
        Self { key: arn.parse().expect("an ARN") }
    }

    fn zero() -> SecretKey<32> {
        SecretKey::from_slice(&[0; 32]).expect("32 bytes")
    }
}

impl KeyService for NoKeys {
    fn resolve(&self, _: &str) -> Result<KeyArn, KeyError> {
        Ok(self.key.clone())
    }

    fn check(&self, _: &KeyArn) -> Result<(), KeyError> {
        Ok(())
    }

    fn generate_data_key(&self, _: &KeyArn, _: &EncryptionContext) -> Result<GeneratedKey, KeyError> {
        Ok(GeneratedKey { key: Self::zero(), blob: vec![0; BLOB] })
    }

    fn decrypt(&self, _: &KeyArn, _: &[u8], _: &EncryptionContext) -> Result<SecretKey<32>, KeyError> {
        Ok(Self::zero())
    }

    fn re_encrypt(&self, _: &KeyArn, blob: &[u8], _: &KeyArn, _: &EncryptionContext) -> Result<Vec<u8>, KeyError> {
        Ok(blob.to_vec())
    }

    fn material_id(&self, _: &[u8]) -> Option<String> {
        None
    }

    fn current_material_id(&self, _: &KeyArn) -> Result<Option<String>, KeyError> {
        Ok(None)
    }
}
