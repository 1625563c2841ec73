//! The KMS key and its attributes (KMS.md sections 6, 7 and 9).

use serde::{Deserialize, Serialize};

use super::serial;
use super::spec::Algorithms;
use super::words::words;
use crate::types::{KeyArn, Timestamp};

words!(
    /// The state of a KMS key.
    KeyState {
        /// Multi-Region transient.
        Creating = "Creating",
        /// Usable.
        Enabled = "Enabled",
        /// Not usable until it is enabled.
        Disabled = "Disabled",
        /// Not usable; its material is destroyed at the end of the waiting period.
        PendingDeletion = "PendingDeletion",
        /// Imported key that lacks any of its material.
        PendingImport = "PendingImport",
        /// Multi-Region primary that waits for the deletion of its replicas.
        PendingReplicaDeletion = "PendingReplicaDeletion",
        /// Its custom key store is not connected.
        Unavailable = "Unavailable",
        /// Multi-Region transient.
        Updating = "Updating",
    }
);
words!(
    /// What a key may be used for; exactly one.
    KeyUsage {
        /// Encryption and data keys.
        EncryptDecrypt = "ENCRYPT_DECRYPT",
        /// Signatures.
        SignVerify = "SIGN_VERIFY",
        /// Message authentication codes.
        GenerateVerifyMac = "GENERATE_VERIFY_MAC",
        /// Shared secrets by ECDH.
        KeyAgreement = "KEY_AGREEMENT",
        /// Shared secrets by ML-KEM.
        EncapsulateDecapsulate = "ENCAPSULATE_DECAPSULATE",
    }
);
words!(
    /// The kind of key material.
    KeySpec {
        /// AES-256.
        SymmetricDefault = "SYMMETRIC_DEFAULT",
        /// RSA, 2048 bits.
        Rsa2048 = "RSA_2048",
        /// RSA, 3072 bits.
        Rsa3072 = "RSA_3072",
        /// RSA, 4096 bits.
        Rsa4096 = "RSA_4096",
        /// NIST P-256.
        EccNistP256 = "ECC_NIST_P256",
        /// NIST P-384.
        EccNistP384 = "ECC_NIST_P384",
        /// NIST P-521.
        EccNistP521 = "ECC_NIST_P521",
        /// secp256k1.
        EccSecgP256k1 = "ECC_SECG_P256K1",
        /// Ed25519.
        EccNistEdwards25519 = "ECC_NIST_EDWARDS25519",
        /// HMAC with SHA-224.
        Hmac224 = "HMAC_224",
        /// HMAC with SHA-256.
        Hmac256 = "HMAC_256",
        /// HMAC with SHA-384.
        Hmac384 = "HMAC_384",
        /// HMAC with SHA-512.
        Hmac512 = "HMAC_512",
        /// ML-DSA-44.
        MlDsa44 = "ML_DSA_44",
        /// ML-DSA-65.
        MlDsa65 = "ML_DSA_65",
        /// ML-DSA-87.
        MlDsa87 = "ML_DSA_87",
        /// ML-KEM-512.
        MlKem512 = "ML_KEM_512",
        /// ML-KEM-768.
        MlKem768 = "ML_KEM_768",
        /// ML-KEM-1024.
        MlKem1024 = "ML_KEM_1024",
        /// China Regions only; always refused.
        Sm2 = "SM2",
    }
);
words!(
    /// Where key material comes from; never changes.
    Origin {
        /// Made by the key manager.
        AwsKms = "AWS_KMS",
        /// Imported by the user.
        External = "EXTERNAL",
        /// Lives in a PKCS#11 token.
        AwsCloudHsm = "AWS_CLOUDHSM",
        /// Lives behind an external key store proxy.
        ExternalKeyStore = "EXTERNAL_KEY_STORE",
    }
);
words!(
    /// Whether the user or a service manages a key.
    KeyManager {
        /// AWS managed: belongs to a service, cannot be changed by users.
        Aws = "AWS",
        /// Customer managed.
        Customer = "CUSTOMER",
    }
);
words!(
    /// An encryption algorithm.
    EncryptionAlgorithm {
        /// AES-256-GCM under a symmetric key.
        SymmetricDefault = "SYMMETRIC_DEFAULT",
        /// RSA-OAEP with SHA-1.
        RsaesOaepSha1 = "RSAES_OAEP_SHA_1",
        /// RSA-OAEP with SHA-256.
        RsaesOaepSha256 = "RSAES_OAEP_SHA_256",
    }
);
words!(
    /// Length of a data key by name.
    DataKeySpec {
        /// 16 bytes.
        Aes128 = "AES_128",
        /// 32 bytes.
        Aes256 = "AES_256",
    }
);
words!(
    /// What started a rotation.
    RotationType {
        /// The schedule.
        Automatic = "AUTOMATIC",
        /// `RotateKeyOnDemand`.
        OnDemand = "ON_DEMAND",
    }
);
words!(
    /// Place of key material in a key's history.
    KeyMaterialState {
        /// Encrypts.
        Current = "CURRENT",
        /// Only decrypts.
        NonCurrent = "NON_CURRENT",
        /// Imported, becomes current by `RotateKeyOnDemand`.
        PendingRotation = "PENDING_ROTATION",
        /// Imported into the primary, not yet into every replica.
        PendingMultiRegionImportAndRotation = "PENDING_MULTI_REGION_IMPORT_AND_ROTATION",
    }
);
words!(
    /// Which rows `ListKeyRotations` lists.
    IncludeKeyMaterial {
        /// Completed rotations, without the first material.
        RotationsOnly = "ROTATIONS_ONLY",
        /// Also the first material, and material that waits for a rotation.
        AllKeyMaterial = "ALL_KEY_MATERIAL",
    }
);
words!(
    /// Whose keys `ListKeys` lists.
    ResourceOwner {
        /// The caller's account.
        Own = "SELF",
        /// Other accounts that share keys through Resource Access Manager: none.
        OtherAccountsViaRam = "OTHER_ACCOUNTS_VIA_RAM",
    }
);
words!(
    /// Whether imported material expires.
    ExpirationModel {
        /// At `ValidTo`.
        KeyMaterialExpires = "KEY_MATERIAL_EXPIRES",
        /// Never.
        KeyMaterialDoesNotExpire = "KEY_MATERIAL_DOES_NOT_EXPIRE",
    }
);

impl ExpirationModel {
    /// Of material that is valid until `valid_to`.
    pub fn of(valid_to: Option<Timestamp>) -> Self {
        match valid_to {
            Some(_) => Self::KeyMaterialExpires,
            None => Self::KeyMaterialDoesNotExpire,
        }
    }
}

words!(
    /// Whether material is imported for the first time.
    ImportType {
        /// Material that the key has had before.
        ExistingKeyMaterial = "EXISTING_KEY_MATERIAL",
        /// Material that the key has never had.
        NewKeyMaterial = "NEW_KEY_MATERIAL",
    }
);
words!(
    /// Whether imported material is there at present.
    ImportState {
        /// It is.
        Imported = "IMPORTED",
        /// It was deleted, expired, or not yet imported into this Region.
        PendingImport = "PENDING_IMPORT",
    }
);
words!(
    /// How material is wrapped for its import.
    WrappingAlgorithm {
        /// Refused since 2023.
        RsaesPkcs1V15 = "RSAES_PKCS1_V1_5",
        /// RSA-OAEP with SHA-1 (and MGF1 with SHA-1).
        RsaesOaepSha1 = "RSAES_OAEP_SHA_1",
        /// RSA-OAEP with SHA-256 (and MGF1 with SHA-256).
        RsaesOaepSha256 = "RSAES_OAEP_SHA_256",
        /// An AES-256 key under RSA-OAEP with SHA-1, then the material under that key with RFC 5649.
        RsaAesKeyWrapSha1 = "RSA_AES_KEY_WRAP_SHA_1",
        /// An AES-256 key under RSA-OAEP with SHA-256, then the material under that key with RFC 5649.
        RsaAesKeyWrapSha256 = "RSA_AES_KEY_WRAP_SHA_256",
        /// China Regions only; always refused.
        Sm2pke = "SM2PKE",
    }
);
words!(
    /// The kind of a wrapping key.
    WrappingKeySpec {
        /// RSA, 2048 bits.
        Rsa2048 = "RSA_2048",
        /// RSA, 3072 bits.
        Rsa3072 = "RSA_3072",
        /// RSA, 4096 bits.
        Rsa4096 = "RSA_4096",
        /// China Regions only; always refused.
        Sm2 = "SM2",
    }
);
words!(
    /// What backs a custom key store.
    CustomKeyStoreType {
        /// A PKCS#11 token.
        AwsCloudHsm = "AWS_CLOUDHSM",
        /// An external key store proxy; refused.
        ExternalKeyStore = "EXTERNAL_KEY_STORE",
    }
);
words!(
    /// Whether the keys of a custom key store can be used. Connecting and disconnecting take no time here.
    ConnectionState {
        /// They can.
        Connected = "CONNECTED",
        /// Between `DISCONNECTED` and `CONNECTED`; never seen.
        Connecting = "CONNECTING",
        /// The last attempt to connect failed.
        Failed = "FAILED",
        /// They cannot.
        Disconnected = "DISCONNECTED",
        /// Between `CONNECTED` and `DISCONNECTED`; never seen.
        Disconnecting = "DISCONNECTING",
    }
);
words!(
    /// Why a custom key store could not be connected.
    ConnectionErrorCode {
        /// The password is not the token's user PIN.
        InvalidCredentials = "INVALID_CREDENTIALS",
        /// The module has no such token.
        ClusterNotFound = "CLUSTER_NOT_FOUND",
        /// The token does not answer.
        NetworkErrors = "NETWORK_ERRORS",
        /// The module cannot be loaded, or fails.
        InternalError = "INTERNAL_ERROR",
        /// The token's user PIN is locked.
        UserLockedOut = "USER_LOCKED_OUT",
        /// The token has no user PIN.
        UserNotFound = "USER_NOT_FOUND",
    }
);
words!(
    /// Role of a multi-Region key.
    MultiRegionKeyType {
        /// Carries the shared properties.
        Primary = "PRIMARY",
        /// Follows its primary.
        Replica = "REPLICA",
    }
);

/// A related multi-Region key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MultiRegionKey {
    /// Its ARN.
    pub arn: String,
    /// Its Region.
    pub region: String,
}

/// The primary and the replicas of a multi-Region key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MultiRegionConfiguration {
    /// Role of the key described.
    pub multi_region_key_type: MultiRegionKeyType,
    /// The primary.
    pub primary_key: MultiRegionKey,
    /// All replicas.
    pub replica_keys: Vec<MultiRegionKey>,
}

/// A tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Tag {
    /// 1 to 128 characters, unique on a key.
    pub tag_key: String,
    /// 0 to 256 characters.
    pub tag_value: String,
}

/// What `DescribeKey` answers. Members that do not apply to a key are absent.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyMetadata {
    /// The account that owns the key.
    #[serde(rename = "AWSAccountId")]
    pub aws_account_id: String,
    /// The bare key id.
    pub key_id: String,
    /// The key's ARN.
    #[serde(serialize_with = "serial::arn")]
    pub arn: KeyArn,
    /// When it was created.
    #[serde(serialize_with = "serial::time")]
    pub creation_date: Timestamp,
    /// Whether the state is `Enabled`.
    pub enabled: bool,
    /// The user's words, possibly empty.
    pub description: String,
    /// What it may be used for.
    pub key_usage: KeyUsage,
    /// Its state.
    pub key_state: KeyState,
    /// End of the waiting period; only in `PendingDeletion`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serial::opt_time")]
    pub deletion_date: Option<Timestamp>,
    /// Length of the waiting period; only in `PendingReplicaDeletion`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_deletion_window_in_days: Option<u32>,
    /// When imported material expires.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serial::opt_time")]
    pub valid_to: Option<Timestamp>,
    /// Whether imported material expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration_model: Option<ExpirationModel>,
    /// Where its material comes from.
    pub origin: Origin,
    /// Its custom key store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_key_store_id: Option<String>,
    /// The cluster behind its custom key store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud_hsm_cluster_id: Option<String>,
    /// Who manages it.
    pub key_manager: KeyManager,
    /// The kind of its material.
    pub key_spec: KeySpec,
    /// Old name of `KeySpec`, same value.
    pub customer_master_key_spec: KeySpec,
    /// What the key can be used with, by its usage.
    #[serde(flatten)]
    pub algorithms: Algorithms,
    /// Whether it is a multi-Region key.
    pub multi_region: bool,
    /// The related multi-Region keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multi_region_configuration: Option<MultiRegionConfiguration>,
    /// Id of the material that encrypts: 64 hex digits. Symmetric keys with material only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_key_material_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_unknown_ones_list_the_legal() {
        for spec in KeySpec::ALL {
            assert_eq!(spec.as_str().parse(), Ok(*spec));
            assert_eq!(serde_json::to_string(spec).expect("a string"), format!("\"{spec}\""));
        }
        let error = "AES_256_GCM".parse::<DataKeySpec>().expect_err("unknown");
        assert_eq!(error.to_string(), "'AES_256_GCM' is none of: AES_128, AES_256");
    }
}
