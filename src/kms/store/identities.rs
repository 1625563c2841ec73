//! Rows of identities and grants: users and roles with their policies, their access keys, grants on keys.

use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};

use serde::{Deserialize, Serialize};

use super::records::key_row_id;
use super::rows::Table;
use super::snapshot::{Record, Rows, Snapshot};
use crate::crypto::secret::SecretBytes;
use crate::kms::model::{GrantConstraints, GrantOperation, Tag, nanos};
use crate::kms::policy::{Kind, Policy};
use crate::sync::{Arc, OnceLock};
use crate::types::Timestamp;

/// A user or role. Its row id is its ARN.
#[derive(Serialize, Deserialize)]
pub struct PrincipalRecord {
    pub arn: String,
    #[serde(with = "nanos")]
    pub created: Timestamp,
    /// Identity policies by name, as they were put.
    pub policies: BTreeMap<String, String>,
    /// Sorted by name.
    #[serde(default)]
    pub tags: Vec<Tag>,
    #[serde(skip)]
    parsed: OnceLock<Vec<(String, Policy)>>,
}

impl PrincipalRecord {
    pub fn new(arn: String, created: Timestamp, policies: BTreeMap<String, String>) -> Self {
        Self { arn, created, policies, tags: Vec::new(), parsed: OnceLock::new() }
    }

    /// The same user or role, to be changed.
    pub fn draft(&self) -> Self {
        Self { tags: self.tags.clone(), ..Self::new(self.arn.clone(), self.created, self.policies.clone()) }
    }

    /// The policies, parsed once. They were parsed before they were stored, and the row's MAC vouches for them since.
    pub fn policies(&self) -> impl Iterator<Item = (&str, &Policy)> {
        let parsed = self.parsed.get_or_init(|| {
            let parse = |(name, document): (&String, &String)| {
                Some((name.clone(), Policy::parse(document, Kind::Identity).ok()?))
            };
            self.policies.iter().filter_map(parse).collect()
        });
        parsed.iter().map(|(name, policy)| (name.as_str(), policy))
    }
}

impl Record for PrincipalRecord {
    const TABLE: Table = Table::Principals;

    fn rows(snapshot: &mut Snapshot) -> &mut Rows<Self> {
        &mut snapshot.principals
    }
}

/// An access key. Its row id is its access key id.
#[derive(Serialize, Deserialize)]
pub struct AccessKeyRecord {
    /// ARN of the user or role that it belongs to.
    pub principal: String,
    #[serde(with = "nanos")]
    pub created: Timestamp,
    /// The secret access key, sealed beside the record.
    #[serde(skip)]
    pub secret: SecretBytes,
}

impl Record for AccessKeyRecord {
    const TABLE: Table = Table::AccessKeys;

    fn rows(snapshot: &mut Snapshot) -> &mut Rows<Self> {
        &mut snapshot.access_keys
    }

    fn parent(&self, _id: &str) -> Option<String> {
        Some(self.principal.clone())
    }

    fn secret(&self) -> Option<&[u8]> {
        Some(self.secret.expose())
    }

    fn set_secret(&mut self, secret: &[u8]) -> bool {
        self.secret = SecretBytes::from(secret);
        true
    }
}

/// A grant on a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRecord {
    pub region: String,
    /// Bare id of the key.
    pub key_id: String,
    /// 64 hex digits.
    pub grant_id: String,
    pub name: Option<String>,
    #[serde(with = "nanos")]
    pub created: Timestamp,
    pub issuing_account: String,
    pub grantee: Party,
    pub retiring: Option<Party>,
    pub operations: Vec<GrantOperation>,
    pub constraints: Option<GrantConstraints>,
}

/// Who has something from a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Party {
    /// ARN of a principal, or an account.
    Principal(String),
    /// A service.
    Service(String),
}

impl Party {
    /// The principal's ARN.
    pub fn principal(&self) -> Option<&str> {
        match self {
            Self::Principal(arn) => Some(arn),
            Self::Service(_) => None,
        }
    }

    /// The service's name.
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::Principal(_) => None,
            Self::Service(name) => Some(name),
        }
    }

    fn label(&self) -> String {
        match self {
            Self::Principal(arn) => arn.clone(),
            Self::Service(name) => format!("service {name}"),
        }
    }
}

impl GrantRecord {
    /// Row id of the key.
    pub fn key_row(&self) -> String {
        key_row_id(&self.region, &self.key_id)
    }

    /// Row id: listed by key.
    pub fn row_id(&self) -> String {
        grant_row_id(&self.key_row(), &self.grant_id)
    }

    /// What it is found by, besides its key and id.
    fn labels(&self) -> Vec<String> {
        let key = self.key_row();
        let mut labels = vec![to(&key, &self.grantee)];
        labels.extend(self.name.as_ref().map(|name| named(&key, name)));
        labels.extend(self.retiring.as_ref().map(retirable_by));
        labels
    }
}

/// Row id of a grant.
pub fn grant_row_id(key_row: &str, grant_id: &str) -> String {
    format!("{key_row}/{grant_id}")
}

fn to(key_row: &str, grantee: &Party) -> String {
    format!("to {key_row} {}", grantee.label())
}

fn named(key_row: &str, name: &str) -> String {
    format!("named {key_row} {name}")
}

fn retirable_by(party: &Party) -> String {
    format!("retirable by {}", party.label())
}

impl Record for GrantRecord {
    const TABLE: Table = Table::Grants;

    fn rows(snapshot: &mut Snapshot) -> &mut Rows<Self> {
        &mut snapshot.grants
    }

    fn parent(&self, _id: &str) -> Option<String> {
        Some(self.key_row())
    }

    fn index(snapshot: &mut Snapshot, id: &Arc<str>, old: Option<&Self>, new: Option<&Self>) {
        for label in old.into_iter().flat_map(Self::labels) {
            snapshot.grants_by.remove_mut(&(label.into(), id.clone()));
        }
        for label in new.into_iter().flat_map(Self::labels) {
            snapshot.grants_by.insert_mut((label.into(), id.clone()));
        }
    }
}

impl Snapshot {
    /// The grants of a key to exactly this grantee.
    pub fn grants_to(&self, key_row: &str, grantee: &Party) -> impl Iterator<Item = &Arc<GrantRecord>> {
        self.grants_labelled(to(key_row, grantee))
    }

    /// The grants of a key with this name.
    pub fn grants_named(&self, key_row: &str, name: &str) -> impl Iterator<Item = &Arc<GrantRecord>> {
        self.grants_labelled(named(key_row, name))
    }

    /// The grants that `party` may retire, by row id.
    pub fn grants_retirable_by(&self, party: &Party) -> impl Iterator<Item = &Arc<GrantRecord>> {
        self.grants_labelled(retirable_by(party))
    }

    fn grants_labelled(&self, label: String) -> impl Iterator<Item = &Arc<GrantRecord>> {
        let label: Arc<str> = label.into();
        let first: (Arc<str>, Arc<str>) = (label.clone(), "".into());
        let all = self.grants_by.range((Included(first), Unbounded));
        all.take_while(move |(other, _)| *other == label).filter_map(|(_, id)| self.grants.get(id))
    }
}
