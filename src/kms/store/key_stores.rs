//! Rows of custom key stores and of the clusters, that is PKCS#11 tokens, behind them.

use serde::{Deserialize, Serialize};

use super::rows::Table;
use super::snapshot::{Record, Rows, Snapshot};
use crate::crypto::secret::SecretBytes;
use crate::kms::model::{ConnectionErrorCode, ConnectionState, nanos, opt_nanos};
use crate::types::Timestamp;

/// A custom key store. Its row id is [`key_store_row_id`].
#[derive(Serialize, Deserialize)]
pub struct KeyStoreRecord {
    pub region: String,
    pub account: String,
    pub id: String,
    pub name: String,
    pub cluster: String,
    pub trust_anchor: String,
    #[serde(with = "nanos")]
    pub created: Timestamp,
    pub state: ConnectionState,
    pub error: Option<ConnectionErrorCode>,
    /// Since when it is connected: tells logins of an earlier connection from those of this one.
    #[serde(with = "opt_nanos")]
    pub connected: Option<Timestamp>,
    /// The token's user PIN, sealed beside the record.
    #[serde(skip)]
    pub password: SecretBytes,
}

impl KeyStoreRecord {
    /// This record with `edit` applied. The password is copied within locked memory.
    pub fn edited(&self, edit: impl FnOnce(&mut Self)) -> Self {
        let mut record = Self {
            region: self.region.clone(),
            account: self.account.clone(),
            id: self.id.clone(),
            name: self.name.clone(),
            cluster: self.cluster.clone(),
            trust_anchor: self.trust_anchor.clone(),
            created: self.created,
            state: self.state,
            error: self.error,
            connected: self.connected,
            password: SecretBytes::from(self.password.expose()),
        };
        edit(&mut record);
        record
    }
}

impl Record for KeyStoreRecord {
    const TABLE: Table = Table::KeyStores;

    fn rows(snapshot: &mut Snapshot) -> &mut Rows<Self> {
        &mut snapshot.key_stores
    }

    fn secret(&self) -> Option<&[u8]> {
        Some(self.password.expose())
    }

    fn set_secret(&mut self, secret: &[u8]) -> bool {
        self.password = secret.into();
        true
    }
}

/// A cluster id and the token that it stands for. Its row id is the cluster id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Path of the PKCS#11 module.
    pub module: String,
    pub token_label: String,
    /// That of the first store: the later ones must name the same.
    pub trust_anchor: Option<String>,
}

impl Record for ClusterRecord {
    const TABLE: Table = Table::Clusters;

    fn rows(snapshot: &mut Snapshot) -> &mut Rows<Self> {
        &mut snapshot.clusters
    }
}

/// Row id of a custom key store.
pub fn key_store_row_id(region: &str, account: &str, id: &str) -> String {
    format!("{region}/{account}/{id}")
}
