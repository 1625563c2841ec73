//! Errors of the operations, with AWS's names and, word for word, AWS's texts (KMS.md section 5).

use crate::kms::audit::AuditError;
use crate::kms::custody::CustodyError;
use crate::kms::model::KeyState;
use crate::kms::store::StoreError;
use crate::types::KeyArn;

/// Why an operation was refused or failed. `Display` is AWS's message, possibly empty; [`KmsError::code`] its name.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum KmsError {
    /// The key is disabled.
    #[error("{0} is disabled.")]
    Disabled(KeyArn),
    /// The key's state does not allow the operation.
    #[error("{arn} is {}.", state_words(*.state))]
    InvalidState {
        /// The key.
        arn: KeyArn,
        /// Its state.
        state: KeyState,
    },
    /// `CancelKeyDeletion` of a key that is not pending deletion.
    #[error("{0} is not pending deletion")]
    NotPendingDeletion(KeyArn),
    /// No such key or alias.
    #[error("{0}")]
    NotFound(String),
    /// An ARN that is none, or one of another service.
    #[error("Invalid arn {0}")]
    InvalidArn(String),
    /// An alias of that name exists.
    #[error("{0}")]
    AlreadyExists(String),
    /// The alias name is not allowed.
    #[error("{0}")]
    InvalidAliasName(String),
    /// Wrong key, wrong encryption context or changed bytes. The text is empty on purpose.
    #[error("")]
    InvalidCiphertext,
    /// The signature is not one of this key over this message. The text is empty on purpose.
    #[error("")]
    InvalidSignature,
    /// The MAC is not that of this key over this message. The text is empty on purpose.
    #[error("")]
    InvalidMac,
    /// The ciphertext was not made by the key named.
    #[error("The key ID in the request does not identify a CMK that can perform this operation.")]
    IncorrectKey,
    /// The key is for something else.
    #[error("{0}")]
    InvalidKeyUsage(String),
    /// Not valid for this key, or not built.
    #[error("{0}")]
    UnsupportedOperation(String),
    /// A quota is used up.
    #[error("{0}")]
    LimitExceeded(String),
    /// A tag breaks a rule.
    #[error("{0}")]
    Tag(String),
    /// A parameter breaks a constraint.
    #[error("{0}")]
    Validation(String),
    /// The marker is not one that this operation gave out.
    #[error("The marker is not valid for this request.")]
    InvalidMarker,
    /// A grant token that the key manager did not make.
    #[error("The grant token is not valid.")]
    InvalidGrantToken,
    /// A grant id that is none.
    #[error("The grant id is not valid.")]
    InvalidGrantId,
    /// A policy document that is none, or that would lock its author out.
    #[error("{0}")]
    MalformedPolicyDocument(String),
    /// The caller may not do this.
    #[error("{0}")]
    AccessDenied(String),
    /// An automatic rotation is due within 20 minutes.
    #[error("{0}")]
    Conflict(String),
    /// The state of the key's material does not allow the operation.
    #[error("{0}")]
    MaterialState(String),
    /// Imported material is of the wrong kind, or not the material that it should be.
    #[error("{0}")]
    IncorrectKeyMaterial(String),
    /// The import token is none, or that of another key.
    #[error("The import token is not valid for this KMS key.")]
    InvalidImportToken,
    /// The import token has expired.
    #[error("The import token has expired; get a new one with GetParametersForImport.")]
    ExpiredImportToken,
    /// The token that holds the key does not do what it is asked; the call may be repeated.
    #[error("{arn} cannot be used at present: {why}")]
    KeyUnavailable {
        /// The key.
        arn: KeyArn,
        /// What the token reports.
        why: String,
    },
    /// A custom key store, or the cluster behind it, is not as the operation needs it.
    #[error("{text}")]
    KeyStore {
        /// Which of AWS's errors.
        fault: KeyStoreFault,
        /// What is wrong.
        text: String,
    },
    /// `DryRun` was set and nothing speaks against the call.
    #[error("The request would have succeeded, but the DryRun option is set.")]
    DryRun,
    /// The request is not JSON, or a member has the wrong type.
    #[error("{0}")]
    Serialization(String),
    /// The key manager has no operation of this name.
    #[error("There is no operation {0}.")]
    UnknownOperation(String),
    /// More calls per second than the quota allows.
    #[error("You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.")]
    Throttling,
    /// The key manager itself failed: its database, its files.
    #[error("{0}")]
    Internal(String),
    /// The system gives no thread; its error.
    #[error("cannot start a thread: {0}")]
    NoThread(String),
}

/// What is wrong with a custom key store or its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStoreFault {
    /// No such store.
    NotFound,
    /// Another store has this name.
    NameInUse,
    /// Its connection state does not allow the operation.
    InvalidState,
    /// It still has keys, perhaps pending deletion.
    HasKeys,
    /// Another store uses the cluster.
    ClusterInUse,
    /// No such cluster is known.
    ClusterNotFound,
    /// The cluster's token does not answer.
    ClusterNotActive,
    /// The cluster stands for another token.
    ClusterNotRelated,
    /// The certificate is not the one known for the cluster.
    IncorrectTrustAnchor,
}

impl KeyStoreFault {
    const fn code(self) -> &'static str {
        match self {
            Self::NotFound => "CustomKeyStoreNotFoundException",
            Self::NameInUse => "CustomKeyStoreNameInUseException",
            Self::InvalidState => "CustomKeyStoreInvalidStateException",
            Self::HasKeys => "CustomKeyStoreHasCMKsException",
            Self::ClusterInUse => "CloudHsmClusterInUseException",
            Self::ClusterNotFound => "CloudHsmClusterNotFoundException",
            Self::ClusterNotActive => "CloudHsmClusterNotActiveException",
            Self::ClusterNotRelated => "CloudHsmClusterNotRelatedException",
            Self::IncorrectTrustAnchor => "IncorrectTrustAnchorException",
        }
    }
}

fn state_words(state: KeyState) -> &'static str {
    match state {
        KeyState::PendingDeletion => "pending deletion",
        KeyState::PendingImport => "pending import",
        KeyState::PendingReplicaDeletion => "pending replica deletion",
        KeyState::Unavailable => "unavailable",
        KeyState::Creating => "creating",
        KeyState::Updating => "updating",
        KeyState::Disabled => "disabled",
        KeyState::Enabled => "enabled",
    }
}

impl KmsError {
    /// AWS's name of the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Disabled(_) => "DisabledException",
            Self::InvalidState { .. } | Self::NotPendingDeletion(_) | Self::MaterialState(_) => {
                "KMSInvalidStateException"
            }
            Self::NotFound(_) => "NotFoundException",
            Self::InvalidArn(_) => "InvalidArnException",
            Self::AlreadyExists(_) => "AlreadyExistsException",
            Self::InvalidAliasName(_) => "InvalidAliasNameException",
            Self::InvalidCiphertext => "InvalidCiphertextException",
            Self::InvalidSignature => "KMSInvalidSignatureException",
            Self::InvalidMac => "KMSInvalidMacException",
            Self::IncorrectKey => "IncorrectKeyException",
            Self::InvalidKeyUsage(_) => "InvalidKeyUsageException",
            Self::UnsupportedOperation(_) => "UnsupportedOperationException",
            Self::LimitExceeded(_) => "LimitExceededException",
            Self::Tag(_) => "TagException",
            Self::Validation(_) => "ValidationException",
            Self::InvalidMarker => "InvalidMarkerException",
            Self::InvalidGrantToken => "InvalidGrantTokenException",
            Self::InvalidGrantId => "InvalidGrantIdException",
            Self::MalformedPolicyDocument(_) => "MalformedPolicyDocumentException",
            Self::AccessDenied(_) => "AccessDeniedException",
            Self::Conflict(_) => "ConflictException",
            Self::IncorrectKeyMaterial(_) => "IncorrectKeyMaterialException",
            Self::InvalidImportToken => "InvalidImportTokenException",
            Self::ExpiredImportToken => "ExpiredImportTokenException",
            Self::KeyUnavailable { .. } => "KeyUnavailableException",
            Self::KeyStore { fault, .. } => fault.code(),
            Self::DryRun => "DryRunOperationException",
            Self::Serialization(_) => "SerializationException",
            Self::UnknownOperation(_) => "UnknownOperationException",
            Self::Throttling => "ThrottlingException",
            Self::Internal(_) | Self::NoThread(_) => "KMSInternalException",
        }
    }
}

impl From<StoreError> for KmsError {
    fn from(error: StoreError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<CustodyError> for KmsError {
    fn from(error: CustodyError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<AuditError> for KmsError {
    fn from(error: AuditError) -> Self {
        Self::Internal(error.to_string())
    }
}

/// Why the key manager could not be opened. Nothing is ever re-created over what is there.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The root file or its slots.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The first maintenance after opening.
    #[error("{} ({})", .0, .0.code())]
    Kms(#[from] KmsError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_awss() {
        let arn: KeyArn = "arn:aws:kms:us-east-1:111122223333:key/k".parse().expect("valid");
        let state = |state| KmsError::InvalidState { arn: arn.clone(), state }.to_string();
        assert_eq!(state(KeyState::PendingDeletion), format!("{arn} is pending deletion."));
        assert_eq!(KmsError::Disabled(arn.clone()).to_string(), format!("{arn} is disabled."));
        assert_eq!(KmsError::NotPendingDeletion(arn.clone()).to_string(), format!("{arn} is not pending deletion"));
        assert_eq!(KmsError::InvalidCiphertext.to_string(), "");
        assert_eq!(KmsError::InvalidCiphertext.code(), "InvalidCiphertextException");
    }
}
