//! Whether a key is one for the operation: its usage, its spec, its material.

use std::fmt::Display;

use crate::kms::KmsError;
use crate::kms::model::{KeyState, KeyUsage};
use crate::kms::object::KeyObject;
use crate::kms::store::{KeyEntry, Material};
use crate::sync::Arc;

/// Refuses keys of another usage than `usage`, and algorithms that are none of `legal`, the key's.
pub fn fits<A: Display + PartialEq>(
    key: &KeyEntry,
    operation: &str,
    usage: KeyUsage,
    algorithm: A,
    legal: &[A],
) -> Result<(), KmsError> {
    if key.usage != usage {
        let text = format!("{} key usage is {} which is not valid for {operation}.", key.arn, key.usage);
        return Err(KmsError::InvalidKeyUsage(text));
    }
    if !legal.contains(&algorithm) {
        let text = format!("Algorithm {algorithm} is incompatible with key spec {}.", key.spec);
        return Err(KmsError::InvalidKeyUsage(text));
    }
    Ok(())
}

/// The material that a key works with now.
pub fn current(key: &KeyEntry) -> Result<&Arc<Material>, KmsError> {
    key.current().ok_or_else(|| KmsError::Internal(format!("{} has no current key material", key.arn)))
}

/// The error for material that is not there. Keys that lack some are `PendingImport` and were refused; one that waits
/// for its rotation may be missing.
pub fn missing(key: &KeyEntry) -> KmsError {
    KmsError::InvalidState { arn: key.arn.clone(), state: KeyState::PendingImport }
}

/// `material` of `key`, parsed.
pub fn object<'a>(key: &KeyEntry, material: &'a Material) -> Result<&'a KeyObject, KmsError> {
    let object = material.object(key.record.spec, key.record.usage).ok_or_else(|| missing(key))?;
    object.map_err(|error| KmsError::Internal(format!("the material of {} cannot be used: {error}", key.arn)))
}

/// A key whose material is of another kind than its spec says: only a damaged store has one.
pub fn mismatched(key: &KeyEntry) -> KmsError {
    KmsError::Internal(format!("the material of {} is not that of its key spec", key.arn))
}
