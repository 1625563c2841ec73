//! The joint between the filesystem and master keys.
//!
//! [`KeyService`] is the only place where a key manager plugs in: the [`embedded`] one, and [`remote`] ones
//! behind AWS's wire protocol.

mod data_keys;
pub mod embedded;
pub mod remote;
mod rewrap;
mod watch;

pub use data_keys::{CACHE_TIME, DataKeys, KeyCounts, NewHeader};
pub use rewrap::RewrapJob;
pub use watch::Verdicts;

use crate::crypto::secret::SecretKey;
use crate::format::Outcome;
use crate::types::{EncryptionContext, KeyArn};

/// Why a key manager did not do what was asked. None of these is ever reported as damage of a file.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum KeyError {
    /// The key exists and is disabled.
    #[error("the KMS key {0} is disabled; enable it with: kmsfs key enable {id}", id = .0.key_id())]
    Disabled(KeyArn),
    /// The key waits for its deletion.
    #[error(
        "the KMS key {0} is pending deletion; cancel the deletion and enable it with: \
         kmsfs key cancel-deletion {id} && kmsfs key enable {id}", id = .0.key_id()
    )]
    PendingDeletion(KeyArn),
    /// No such key, or it was deleted.
    #[error("the KMS key {0} does not exist (any more)")]
    NotFound(String),
    /// Policy denies the call.
    #[error("access to the KMS key {key} is denied: {reason}")]
    Denied {
        /// The key as it was named.
        key: String,
        /// The key manager's own words.
        reason: String,
    },
    /// The key is of another kind: a volume's keys are symmetric. With the key manager's own words.
    #[error("a volume needs a symmetric encryption key: {0}")]
    NotSymmetric(String),
    /// The key manager rejected the ciphertext: wrong key, wrong context, or changed bytes.
    #[error("the wrapped key is not a valid ciphertext of {0} for this file")]
    InvalidCiphertext(KeyArn),
    /// The key manager gave no answer in time.
    #[error("the key manager did not answer: {0}")]
    Unreachable(String),
    /// Anything else, with the key manager's code and text.
    #[error("the key manager failed: {0}")]
    Failed(String),
}

impl KeyError {
    /// The outcome of FORMAT S12 for a file whose key cannot be had.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Disabled(_)
            | Self::PendingDeletion(_)
            | Self::NotFound(_)
            | Self::Denied { .. }
            | Self::NotSymmetric(_) => Outcome::KeyUnavailable,
            Self::InvalidCiphertext(_) => Outcome::HeaderAuth,
            Self::Unreachable(_) | Self::Failed(_) => Outcome::KeyServiceTimeout,
        }
    }
}

/// A data key and the same key wrapped.
#[derive(Debug)]
pub struct GeneratedKey {
    /// The plaintext key.
    pub key: SecretKey<32>,
    /// The ciphertext blob to store, 1 to 6144 bytes.
    pub blob: Vec<u8>,
}

/// What the filesystem needs from a key manager. Calls may block; each has a deadline of the implementation's own.
pub trait KeyService: Send + Sync {
    /// The ARN behind a key id, key ARN, alias name or alias ARN. `alias/aws/kmsfs` is created on first use.
    fn resolve(&self, key: &str) -> Result<KeyArn, KeyError>;

    /// Whether `key` may be used now. Asked when a file is opened whose data key was unwrapped within the cache time, so
    /// it must cost next to nothing: the embedded key manager looks at the key's state, a remote one answers `Ok` without a
    /// call, and the cache time bounds how long a revoked key goes on there. A refusal only sends the caller to
    /// [`Self::decrypt`], whose answer counts.
    fn check(&self, key: &KeyArn) -> Result<(), KeyError>;

    /// A number that changes whenever the answer of [`Self::decrypt`] to the same question may have changed, other than by
    /// the key's state, which [`Self::check`] tells; `None` if that cannot be told without a call.
    fn revision(&self) -> Option<u64> {
        None
    }

    /// A new 256-bit data key, wrapped under the key's current material and bound to `context`.
    fn generate_data_key(&self, key: &KeyArn, context: &EncryptionContext) -> Result<GeneratedKey, KeyError>;

    /// Unwraps `blob`, which must be a ciphertext of `key` and `context`, to a 256-bit data key.
    fn decrypt(&self, key: &KeyArn, blob: &[u8], context: &EncryptionContext) -> Result<SecretKey<32>, KeyError>;

    /// Wraps what `blob` holds under the current material of `to`, without showing the plaintext.
    fn re_encrypt(
        &self,
        from: &KeyArn,
        blob: &[u8],
        to: &KeyArn,
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, KeyError>;

    /// The id of the key material (64 hex digits) that `blob` says it was wrapped with; `None` if it does not tell.
    /// Not authenticated: for display and for skipping what is already current.
    fn material_id(&self, blob: &[u8]) -> Option<String>;

    /// The id of the current material of `key`; `None` if the key manager does not tell.
    fn current_material_id(&self, key: &KeyArn) -> Result<Option<String>, KeyError>;
}
