//! Requests and responses of custom key stores (KMS.md section 14).

use serde::Serialize;

use super::key::*;
use super::serial;
use crate::crypto::secret::SecretBytes;
use crate::types::Timestamp;

/// A token's user PIN. `Debug` shows its length only.
#[derive(Debug)]
pub struct KeyStorePassword(SecretBytes);

impl KeyStorePassword {
    /// Its text.
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }
}

impl From<&str> for KeyStorePassword {
    /// A copy; the caller wipes the source.
    fn from(text: &str) -> Self {
        Self(text.as_bytes().into())
    }
}

/// `CreateCustomKeyStore`.
#[derive(Debug)]
pub struct CreateCustomKeyStoreRequest {
    /// 1 to 256 characters, unique in account and Region.
    pub custom_key_store_name: String,
    /// Default `AWS_CLOUDHSM`, the only type that is built.
    pub custom_key_store_type: Option<CustomKeyStoreType>,
    /// A cluster that stands for a PKCS#11 token.
    pub cloud_hsm_cluster_id: Option<String>,
    /// 1 to 5000 characters; the same for every store of a cluster.
    pub trust_anchor_certificate: Option<String>,
    /// The token's user PIN: 7 to 32 characters.
    pub key_store_password: Option<KeyStorePassword>,
}

/// Answer of `CreateCustomKeyStore`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateCustomKeyStoreResponse {
    /// `cks-` and 17 hex digits.
    pub custom_key_store_id: String,
}

/// `ConnectCustomKeyStore`, `DisconnectCustomKeyStore`, `DeleteCustomKeyStore`.
#[derive(Debug, Clone, Default)]
pub struct CustomKeyStoreIdRequest {
    /// The store.
    pub custom_key_store_id: String,
}

impl From<&str> for CustomKeyStoreIdRequest {
    fn from(id: &str) -> Self {
        Self { custom_key_store_id: id.to_owned() }
    }
}

/// `DescribeCustomKeyStores`.
#[derive(Debug, Clone, Default)]
pub struct DescribeCustomKeyStoresRequest {
    /// Only this store.
    pub custom_key_store_id: Option<String>,
    /// Only the store of this name; not together with the id.
    pub custom_key_store_name: Option<String>,
    /// 1 to 1000.
    pub limit: Option<u32>,
    /// `next_marker` of the answer before.
    pub marker: Option<String>,
}

/// One row of `DescribeCustomKeyStores`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CustomKeyStoresListEntry {
    /// Its id.
    pub custom_key_store_id: String,
    /// Its name.
    pub custom_key_store_name: String,
    /// The cluster that stands for its token.
    pub cloud_hsm_cluster_id: String,
    /// As given at its creation.
    pub trust_anchor_certificate: String,
    /// Whether its keys can be used.
    pub connection_state: ConnectionState,
    /// Why the last connection failed; only in `FAILED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_error_code: Option<ConnectionErrorCode>,
    /// When it was created.
    #[serde(serialize_with = "serial::time")]
    pub creation_date: Timestamp,
    /// Always `AWS_CLOUDHSM`.
    pub custom_key_store_type: CustomKeyStoreType,
}

/// Answer of `DescribeCustomKeyStores`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DescribeCustomKeyStoresResponse {
    /// By id.
    pub custom_key_stores: Vec<CustomKeyStoresListEntry>,
    /// For the next call; only when truncated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
    /// Whether more follow.
    pub truncated: bool,
}

/// `UpdateCustomKeyStore`.
#[derive(Debug, Default)]
pub struct UpdateCustomKeyStoreRequest {
    /// The store.
    pub custom_key_store_id: String,
    /// Another name.
    pub new_custom_key_store_name: Option<String>,
    /// What the token's user PIN is now; the token is not changed.
    pub key_store_password: Option<KeyStorePassword>,
    /// Another cluster that stands for the same token.
    pub cloud_hsm_cluster_id: Option<String>,
}

/// A PKCS#11 token that a cluster id stands for. Not part of AWS's API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ClusterEntry {
    /// `cluster-` and 11 to 16 of `2-7a-zA-Z`.
    pub cloud_hsm_cluster_id: String,
    /// Path of the PKCS#11 module.
    pub module: String,
    /// Label of the token.
    pub token_label: String,
}
