//! From the caller's words to the key: the four forms of a key id (KMS.md section 4).

use super::Shared;
use super::authorise::{Access, check_tokens, denied};
use super::call::Call;
use crate::kms::blob::KeyName;
use crate::kms::model::{Caller, KeyState};
use crate::kms::store::{KeyEntry, Snapshot, alias_row_id};
use crate::kms::{Engine, KmsError};
use crate::sync::Arc;
use crate::types::{AccountId, KeyArn, Timestamp};

/// Which forms an operation takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Forms {
    /// Key id and key ARN: control operations.
    Key,
    /// Also alias name and alias ARN.
    Any,
}

/// What is named, in Region and account.
enum Named<'a> {
    Key(&'a str),
    Alias(&'a str),
}

impl Engine {
    /// Whether the key's present state allows its use: for callers that hold a data key which it unwrapped for them a
    /// moment ago. Not a call: nothing is unwrapped, so nothing is recorded. A refusal is to be followed by the call
    /// itself, which is recorded.
    ///
    /// # Errors
    /// `DisabledException`, `KMSInvalidStateException`, or `NotFoundException` for a key that is gone.
    pub fn usable(&self, key: &KeyArn) -> Result<(), KmsError> {
        let now = self.shared.clock.now();
        let snapshot = self.shared.snapshot(now)?;
        match KeyName::parse(key.key_id()).and_then(|name| snapshot.find_key(key.region(), &name)) {
            Some(found) if found.arn == *key && !found.is_tombstone() => self.shared.usable(found, now),
            _ => Err(does_not_exist(key.as_str())),
        }
    }
}

impl Engine {
    /// A number that changes with every change of keys, policies, grants and principals, by any process.
    ///
    /// # Errors
    /// What keeps the database from being read.
    pub fn revision(&self) -> Result<u64, KmsError> {
        Ok(self.shared.store.revision()?)
    }
}

/// A key as it was named.
pub struct Found<'a> {
    pub key: Arc<KeyEntry>,
    /// The alias in the request.
    pub alias: Option<&'a str>,
}

impl Call<'_> {
    /// The key that `text` names, authorised for `access`.
    pub fn key<'a>(
        &mut self,
        snapshot: &Snapshot,
        text: &'a str,
        forms: Forms,
        access: impl Into<Access<'a>>,
    ) -> Result<Arc<KeyEntry>, KmsError> {
        let mut access = access.into();
        // Before the key is looked for: whether a key of another account is there must not show.
        check_tokens(self.shared, access.tokens)?;
        let Found { key, alias } = find(self.caller, snapshot, text, forms, access.action)?;
        if let Some(alias) = alias {
            access = access.with("kms:RequestAlias", alias);
        }
        self.authorise_checked(snapshot, &access, &key).map_err(|error| match error {
            // Nor which key an alias of another account is for.
            KmsError::AccessDenied(_) if alias.is_some() && key.account != *self.caller.account() => {
                denied(self.caller, access.action, text)
            }
            error => error,
        })?;
        if key.is_tombstone() {
            return Err(does_not_exist(key.arn.as_str()));
        }
        Ok(key)
    }
}

/// The key that `text` names, possibly a tombstone; nothing is authorised.
pub fn find<'a>(
    caller: &Caller,
    snapshot: &Snapshot,
    text: &'a str,
    forms: Forms,
    action: &str,
) -> Result<Found<'a>, KmsError> {
    let own_account = caller.account().as_str();
    let (account, named) = match text.strip_prefix("arn:") {
        Some(rest) => parse_arn(caller, text, rest)?,
        None => (own_account, name(text)),
    };
    let region = caller.region().as_str();
    let foreign = account != own_account;
    let alias = if let Named::Alias(alias) = named { Some(alias) } else { None };
    let key_id = match named {
        Named::Alias(_) if forms == Forms::Key => return Err(invalid_key_id(text)),
        Named::Key(id) => id,
        Named::Alias(alias) => match snapshot.aliases.get(&*alias_row_id(region, account, alias)) {
            Some(found) => &found.key_id,
            None => {
                let arn = format!("arn:aws:kms:{region}:{account}:{alias}");
                return Err(match foreign {
                    true => denied(caller, action, &arn),
                    false => KmsError::NotFound(format!("Alias {arn} is not found.")),
                });
            }
        },
    };
    let name = KeyName::parse(key_id).ok_or_else(|| invalid_key_id(text))?;
    let found = snapshot.find_key(region, &name).filter(|key| key.account.as_str() == account);
    let Some(key) = found else {
        let arn = format!("arn:aws:kms:{region}:{account}:key/{key_id}");
        return Err(if foreign { denied(caller, action, &arn) } else { does_not_exist(&arn) });
    };
    Ok(Found { key: key.clone(), alias })
}

fn parse_arn<'t>(caller: &Caller, text: &'t str, rest: &'t str) -> Result<(&'t str, Named<'t>), KmsError> {
    let mut parts = rest.splitn(5, ':');
    let mut next = || parts.next();
    let [Some("aws"), Some("kms"), Some(region), Some(account), Some(resource)] = std::array::from_fn(|_| next())
    else {
        return Err(KmsError::InvalidArn(text.to_owned()));
    };
    if account.parse::<AccountId>().is_err() {
        return Err(KmsError::InvalidArn(text.to_owned()));
    }
    if region != caller.region().as_str() {
        return Err(KmsError::NotFound(format!("Invalid arn {region}")));
    }
    match resource.strip_prefix("key/") {
        Some(id) => Ok((account, Named::Key(id))),
        None if resource.starts_with("alias/") => Ok((account, Named::Alias(resource))),
        None => Err(KmsError::InvalidArn(text.to_owned())),
    }
}

fn name(text: &str) -> Named<'_> {
    if text.starts_with("alias/") { Named::Alias(text) } else { Named::Key(text) }
}

fn invalid_key_id(text: &str) -> KmsError {
    KmsError::NotFound(format!("Invalid keyId '{text}'"))
}

/// The ARN of a key of the caller's account and Region.
pub fn own_arn(caller: &Caller, key_id: &str) -> String {
    format!("arn:aws:kms:{}:{}:key/{key_id}", caller.region(), caller.account())
}

pub fn does_not_exist(arn: &str) -> KmsError {
    KmsError::NotFound(format!("Key '{arn}' does not exist"))
}

impl Call<'_> {
    /// Refuses keys whose state does not allow their use.
    pub fn usable(&self, key: &KeyEntry) -> Result<(), KmsError> {
        self.shared.usable(key, self.now)
    }
}

impl Shared {
    /// Refuses keys whose state at `now` does not allow their use. Material past its end counts as gone, whether or not
    /// the disk has room for the change that deletes it.
    fn usable(&self, key: &KeyEntry, now: Timestamp) -> Result<(), KmsError> {
        match key.state() {
            KeyState::Enabled | KeyState::Updating if key.is_lapsed(|| self.times(now)) => {
                Err(KmsError::InvalidState { arn: key.arn.clone(), state: KeyState::PendingImport })
            }
            KeyState::Enabled | KeyState::Updating => Ok(()),
            KeyState::Disabled => Err(KmsError::Disabled(key.arn.clone())),
            state => Err(KmsError::InvalidState { arn: key.arn.clone(), state }),
        }
    }
}

/// Refuses keys that are pending deletion.
pub fn not_pending_deletion(key: &KeyEntry) -> Result<(), KmsError> {
    match key.record.state {
        state @ (KeyState::PendingDeletion | KeyState::PendingReplicaDeletion) => {
            Err(KmsError::InvalidState { arn: key.arn.clone(), state })
        }
        _ => Ok(()),
    }
}
