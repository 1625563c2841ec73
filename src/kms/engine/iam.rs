//! Identities of the home: users, roles, their identity policies and access keys.
//!
//! Who can open the home may change them: these are no calls of the KMS API, and no policy is asked. Each change is
//! recorded, with who made it.

use std::collections::BTreeMap;

use data_encoding::{BASE32_NOPAD, BASE64};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::Engine;
use super::check::{Constraints, members};
use super::rules::{Pattern, Rule, only};
use super::tags::{add_tags, check_tags};
use crate::crypto::secret::SecretBytes;
use crate::env::{Entropy, random};
use crate::kms::KmsError;
use crate::kms::model::{Caller, Credentials, Identity, NewAccessKey, Principal, PrincipalKind, Tag};
use crate::kms::policy::{ADMINISTRATOR_ACCESS, Kind, Policy};
use crate::kms::store::{AccessKeyRecord, Change, PrincipalRecord};
use crate::sync::Arc;
use crate::types::AccountId;

/// Bytes of an identity policy (AWS: all inline policies of a role together).
const MAX_DOCUMENT: u32 = 10_240;
/// Name of an account's first user.
const ADMINISTRATOR: &str = "administrator";

impl Engine {
    /// What the signatures of `access_key_id` are checked with; `None` if there is no such access key.
    pub fn credentials(&self, access_key_id: &str) -> Result<Option<Credentials>, KmsError> {
        let snapshot = self.shared.store.current()?;
        let found = snapshot.access_keys.get(access_key_id).and_then(|key| {
            let principal = snapshot.principals.get(&*key.principal)?.arn.parse().ok()?;
            let secret = std::str::from_utf8(key.secret.expose()).ok()?;
            Some(Credentials { principal, secret_access_key: Zeroizing::new(secret.to_owned()) })
        });
        Ok(found)
    }

    /// The administrator of `account`, made if it is not there: the user `administrator`, who may do everything.
    pub fn administrator(&self, caller: &Caller, account: &AccountId) -> Result<Principal, KmsError> {
        let name = Principal::named(account, PrincipalKind::User, ADMINISTRATOR).expect("a legal name");
        if !self.shared.store.current()?.principals.contains_key(name.arn()) {
            self.create_identity(caller, &name, Some(ADMINISTRATOR_ACCESS))?;
        }
        Ok(name)
    }

    /// Makes a user or role, with one identity policy (name, document) or none.
    pub fn create_identity(
        &self,
        caller: &Caller,
        principal: &Principal,
        policy: Option<(&str, &str)>,
    ) -> Result<(), KmsError> {
        let event = match principal.kind() {
            PrincipalKind::User => "CreateUser",
            PrincipalKind::Role => "CreateRole",
            PrincipalKind::Root => return Err(KmsError::Validation("The root of an account is always there.".into())),
        };
        if let Some((name, document)) = policy {
            check_document(name, document)?;
        }
        self.edit_identities(caller, event, json!({ "arn": principal.arn() }), |change| {
            if change.snapshot().principals.contains_key(principal.arn()) {
                return Err(KmsError::AlreadyExists(format!("{principal} already exists.")));
            }
            let policies = policy.into_iter().map(|(name, document)| (name.to_owned(), document.to_owned())).collect();
            let record = PrincipalRecord::new(principal.arn().to_owned(), self.shared.clock.now(), policies);
            change.put(principal.arn(), record);
            Ok(())
        })
    }

    /// Deletes a user or role with its policies and access keys.
    pub fn delete_identity(&self, caller: &Caller, principal: &Principal) -> Result<(), KmsError> {
        let event = if principal.kind() == PrincipalKind::Role { "DeleteRole" } else { "DeleteUser" };
        self.edit_identities(caller, event, json!({ "arn": principal.arn() }), |change| {
            known(change, principal)?;
            let keys = change.snapshot().access_keys.iter().filter(|(_, key)| key.principal == principal.arn());
            let keys: Vec<Arc<str>> = keys.map(|(id, _)| id.clone()).collect();
            keys.iter().for_each(|id| change.delete::<AccessKeyRecord>(id));
            change.delete::<PrincipalRecord>(principal.arn());
            Ok(())
        })
    }

    /// Gives a user or role an identity policy, or changes the one of this name.
    pub fn put_identity_policy(
        &self,
        caller: &Caller,
        principal: &Principal,
        name: &str,
        document: &str,
    ) -> Result<(), KmsError> {
        check_document(name, document)?;
        let event = if principal.kind() == PrincipalKind::Role { "PutRolePolicy" } else { "PutUserPolicy" };
        let details = json!({ "arn": principal.arn(), "policyName": name, "policyDocument": document });
        self.edit_identity(caller, event, details, principal, |record| {
            record.policies.insert(name.to_owned(), document.to_owned());
            Ok(())
        })
    }

    /// Takes an identity policy from a user or role.
    pub fn delete_identity_policy(&self, caller: &Caller, principal: &Principal, name: &str) -> Result<(), KmsError> {
        let event = if principal.kind() == PrincipalKind::Role { "DeleteRolePolicy" } else { "DeleteUserPolicy" };
        let details = json!({ "arn": principal.arn(), "policyName": name });
        self.edit_identity(caller, event, details, principal, |record| match record.policies.remove(name) {
            Some(_) => Ok(()),
            None => Err(KmsError::NotFound(format!("{principal} has no policy {name}."))),
        })
    }

    /// Gives a user or role tags (`aws:PrincipalTag/...` in conditions), or changes the values of those it has.
    pub fn tag_identity(&self, caller: &Caller, principal: &Principal, tags: &[Tag]) -> Result<(), KmsError> {
        let event = if principal.kind() == PrincipalKind::Role { "TagRole" } else { "TagUser" };
        let details = json!({ "arn": principal.arn(), "tags": tags });
        self.edit_identity(caller, event, details, principal, |record| {
            members!(tags)?;
            check_tags(tags, &record.tags)?;
            add_tags(&mut record.tags, tags);
            Ok(())
        })
    }

    /// Takes tags from a user or role; absent ones are no error.
    pub fn untag_identity(&self, caller: &Caller, principal: &Principal, names: &[String]) -> Result<(), KmsError> {
        let event = if principal.kind() == PrincipalKind::Role { "UntagRole" } else { "UntagUser" };
        let details = json!({ "arn": principal.arn(), "tagKeys": names });
        self.edit_identity(caller, event, details, principal, |record| {
            record.tags.retain(|tag| !names.contains(&tag.tag_key));
            Ok(())
        })
    }

    /// The identity policies of a user or role by name, as they were put.
    pub fn identity_policies(&self, principal: &Principal) -> Result<BTreeMap<String, String>, KmsError> {
        let snapshot = self.shared.store.current()?;
        let found = snapshot.principals.get(principal.arn());
        found.map(|record| record.policies.clone()).ok_or_else(|| unknown(principal))
    }

    fn edit_identity(
        &self,
        caller: &Caller,
        event: &'static str,
        details: Value,
        principal: &Principal,
        edit: impl FnOnce(&mut PrincipalRecord) -> Result<(), KmsError>,
    ) -> Result<(), KmsError> {
        self.edit_identities(caller, event, details, |change| {
            let mut record =
                change.snapshot().principals.get(principal.arn()).ok_or_else(|| unknown(principal))?.draft();
            edit(&mut record)?;
            change.put(principal.arn(), record);
            Ok(())
        })
    }

    /// Makes an access key of a user or role. The secret is shown now and never again.
    pub fn create_access_key(&self, caller: &Caller, principal: &Principal) -> Result<NewAccessKey, KmsError> {
        let entropy = &*self.shared.entropy;
        let access_key_id = format!("AKIA{}", BASE32_NOPAD.encode(&random::<10>(entropy)));
        let secret_access_key = Zeroizing::new(BASE64.encode(&*random_secret(entropy)));
        let details = json!({ "arn": principal.arn(), "accessKeyId": access_key_id });
        self.edit_identities(caller, "CreateAccessKey", details, |change| {
            known(change, principal)?;
            let (principal, created) = (principal.arn().to_owned(), self.shared.clock.now());
            let secret = SecretBytes::from(secret_access_key.as_bytes());
            change.put(&access_key_id, AccessKeyRecord { principal, created, secret });
            Ok(())
        })?;
        Ok(NewAccessKey { access_key_id, secret_access_key, principal: principal.clone() })
    }

    /// Deletes an access key.
    pub fn delete_access_key(&self, caller: &Caller, access_key_id: &str) -> Result<(), KmsError> {
        let details = json!({ "accessKeyId": access_key_id });
        self.edit_identities(caller, "DeleteAccessKey", details, |change| {
            if !change.snapshot().access_keys.contains_key(access_key_id) {
                return Err(KmsError::NotFound(format!("There is no access key {access_key_id}.")));
            }
            change.delete::<AccessKeyRecord>(access_key_id);
            Ok(())
        })
    }

    /// All users and roles, by ARN.
    pub fn identities(&self) -> Result<Vec<Identity>, KmsError> {
        let snapshot = self.shared.store.current()?;
        let identity = |record: &PrincipalRecord| {
            let keys = snapshot.access_keys.iter().filter(|(_, key)| key.principal == record.arn);
            Identity {
                arn: record.arn.clone(),
                create_date: record.created,
                policy_names: record.policies.keys().cloned().collect(),
                access_key_ids: keys.map(|(id, _)| id.to_string()).collect(),
                tags: record.tags.clone(),
            }
        };
        Ok(snapshot.principals.values().map(|record| identity(record)).collect())
    }

    /// Commits `edit` with its record.
    fn edit_identities(
        &self,
        caller: &Caller,
        event: &'static str,
        mut details: Value,
        edit: impl FnOnce(&mut Change<'_>) -> Result<(), KmsError>,
    ) -> Result<(), KmsError> {
        details["principal"] = caller.principal().arn().into();
        let shared = &self.shared;
        shared.store.change(|change| {
            edit(change)?;
            change.record(shared.service_event(event, details, None).render(&*shared.entropy));
            Ok(())
        })?;
        if let Err(error) = shared.audit.flush() {
            tracing::error!(%error, "the audit log could not be written; it is tried again");
        }
        Ok(())
    }
}

fn random_secret(entropy: &dyn Entropy) -> Zeroizing<[u8; 30]> {
    let mut bytes = Zeroizing::new([0; 30]);
    entropy.fill(&mut *bytes);
    bytes
}

fn known(change: &Change<'_>, principal: &Principal) -> Result<(), KmsError> {
    if change.snapshot().principals.contains_key(principal.arn()) { Ok(()) } else { Err(unknown(principal)) }
}

fn unknown(principal: &Principal) -> KmsError {
    KmsError::NotFound(format!("There is no user or role {principal}."))
}

/// Refuses what is no identity policy.
fn check_document(name: &str, document: &str) -> Result<(), KmsError> {
    let mut found = Constraints::default();
    let pattern: Pattern = ("[\\w+=,.@-]+", |text| only(text, "+=,.@_-"));
    found.hold(Some(Rule { bounds: 1..=128, pattern: Some(pattern) }), "policy_name", &name);
    found.hold(Some(Rule { bounds: 1..=MAX_DOCUMENT, pattern: None }), "policy_document", &document.as_bytes());
    found.done()?;
    Policy::parse(document, Kind::Identity)
        .map(drop)
        .map_err(|error| KmsError::MalformedPolicyDocument(error.to_string()))
}
