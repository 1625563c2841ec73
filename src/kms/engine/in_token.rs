//! Use of material that lives in a token: logins, encryption, and the bound on the number of encryptions
//! (KMS.md section 14).

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use super::Shared;
use super::key_stores::fail;
use crate::kms::KmsError;
use crate::kms::blob::{self, Header};
use crate::kms::model::{ConnectionErrorCode, ConnectionState, KeyState};
use crate::kms::store::{
    KeyEntry, KeyStoreRecord, Material, MaterialRecord, Snapshot, TokenUse, key_row_id, key_store_row_id,
};
use crate::kms::token::{self, Token, TokenError};
use crate::sync::{Arc, Mutex, lock};
use crate::types::Timestamp;

/// Random IVs of 96 bits under one key (SP 800-38D section 8.3).
const MAX_ENCRYPTIONS: u64 = 1 << 32;
/// Encryptions that a process sets aside at once; what it does not use of them is lost.
const SHARE: u64 = 1 << 16;
/// Between two times that a module looks for its tokens anew because a key was used.
const RENEWAL: Duration = Duration::from_secs(10);

/// The tokens that this process is logged in to. Lock order: `shares`, the store's locks, `open`.
#[derive(Default)]
pub struct Tokens {
    /// By the row id of the key store; with the time of the connection that the login belongs to.
    open: Mutex<HashMap<String, (Timestamp, Arc<Token>)>>,
    /// Encryptions set aside and not yet done, by material id.
    shares: Mutex<HashMap<[u8; 32], u64>>,
    /// When a module last looked for its tokens anew because a key was used.
    renewed: Mutex<Option<Timestamp>>,
}

impl Tokens {
    /// Whether a module may look for its tokens anew: not at each call while a token is away.
    fn may_renew(&self, now: Timestamp) -> bool {
        let mut renewed = lock(&self.renewed);
        let recently = renewed.is_some_and(|last| now >= last && now.since(last) < RENEWAL);
        if !recently {
            *renewed = Some(now);
        }
        !recently
    }

    /// Somebody who connects a key store has put things right: the next login looks for tokens anew.
    pub fn expect_tokens(&self) {
        *lock(&self.renewed) = None;
    }

    /// Ends the login for a key store, if there is one.
    pub fn forget(&self, row_id: &str) {
        let gone = lock(&self.open).remove(row_id);
        if let Some((_, token)) = gone {
            token.log_out();
        }
    }

    /// Ends the logins that belong to connections of the past: other processes disconnect key stores too.
    pub fn prune(&self, snapshot: &Snapshot) {
        let current = |row_id: &str, since: Timestamp| {
            snapshot.key_stores.get(row_id).is_some_and(|store| store.connected == Some(since))
        };
        let gone: Vec<_> = lock(&self.open).extract_if(|row_id, (since, _)| !current(row_id, *since)).collect();
        for (_, (_, token)) in gone {
            token.log_out();
        }
    }
}

impl Shared {
    /// Logs in to the token of `store`, for the connection of the time `since`.
    pub fn log_in(
        &self,
        snapshot: &Snapshot,
        row_id: &str,
        store: &KeyStoreRecord,
        since: Timestamp,
    ) -> Result<Arc<Token>, TokenError> {
        let cluster = snapshot.clusters.get(&*store.cluster).ok_or_else(|| TokenError::Unavailable {
            code: ConnectionErrorCode::ClusterNotFound,
            why: format!("{} is not known", store.cluster),
        })?;
        let mut open = lock(&self.tokens.open);
        match open.get(row_id) {
            Some((of, token)) if *of == since => return Ok(token.clone()),
            _ => {}
        }
        let pin = store.password.expose();
        let renew = || self.tokens.may_renew(self.clock.now());
        let token = Arc::new(token::log_in(Path::new(&cluster.module), &cluster.token_label, pin, renew)?);
        open.insert(row_id.to_owned(), (since, token.clone()));
        Ok(token)
    }

    /// Runs `work` with the token of a connected store. A token that fails gets a second chance with a new login.
    fn try_token<T>(
        &self,
        snapshot: &Snapshot,
        row_id: &str,
        work: impl Fn(&Token) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        self.tokens.prune(snapshot);
        let disconnected = || TokenError::Unavailable {
            code: ConnectionErrorCode::InternalError,
            why: "its custom key store is not connected".to_owned(),
        };
        let store = snapshot.key_stores.get(row_id).ok_or_else(disconnected)?;
        let since = store.connected.filter(|_| store.state == ConnectionState::Connected).ok_or_else(disconnected)?;
        let attempt = || self.log_in(snapshot, row_id, store, since).and_then(|token| work(&token));
        match attempt() {
            Err(error @ TokenError::Unavailable { .. }) if !error.is_refusal() => {
                lock(&self.tokens.open).remove(row_id);
                attempt()
            }
            first => first,
        }
    }

    /// As [`Self::try_token`]; a login that is refused fails the store.
    pub fn with_token<T>(
        &self,
        snapshot: &Snapshot,
        row_id: &str,
        work: impl Fn(&Token) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let outcome = self.try_token(snapshot, row_id, work);
        if let Err(error) = &outcome
            && error.is_refusal()
        {
            self.give_up(row_id, error);
        }
        outcome
    }

    fn give_up(&self, row_id: &str, error: &TokenError) {
        let failed = self.store.change(|change| match change.snapshot().key_stores.get(row_id).cloned() {
            Some(store) if store.state == ConnectionState::Connected => fail(change, row_id, &store, error),
            _ => Ok(()),
        });
        if let Err(error) = failed {
            tracing::error!(%error, "a custom key store whose login is refused could not be marked");
        }
    }

    /// Encrypts in the token; answers a blob of suite 2.
    pub fn seal_in_token(
        &self,
        snapshot: &Snapshot,
        key: &KeyEntry,
        material: &Material,
        (header, context, plaintext): (&Header, &[u8], &[u8]),
    ) -> Result<Vec<u8>, KmsError> {
        self.count_encryption(key, material)?;
        blob::seal_in_token(header, context, &*self.entropy, |iv, aad| {
            self.with_token(snapshot, &store_row(key)?, |token| token.encrypt(&material.id, iv, aad, plaintext))
                .map_err(|error| unavailable(key, error))
        })
    }

    /// Decrypts a blob of suite 2 in the token.
    pub fn open_in_token(
        &self,
        snapshot: &Snapshot,
        key: &KeyEntry,
        material: &Material,
        (blob, context): (&[u8], &[u8]),
    ) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let row_id = store_row(key)?;
        let opened = blob::open_in_token(blob, context, |iv, aad, sealed| {
            self.with_token(snapshot, &row_id, |token| token.decrypt(&material.id, iv, aad, sealed))
        });
        opened.ok_or(KmsError::InvalidCiphertext)?.map_err(|error| match error {
            TokenError::Refused => KmsError::InvalidCiphertext,
            error => unavailable(key, error),
        })
    }

    /// Destroys the material of `key`, which ends, as far as the token can be reached; what came of it.
    pub fn destroy_in_token(&self, snapshot: &Snapshot, key: &KeyEntry) -> Option<String> {
        let row_id = store_row(key).ok()?;
        let destroy = |token: &Token| key.materials.iter().try_for_each(|material| token.destroy(&material.id));
        Some(match self.try_token(snapshot, &row_id, destroy) {
            Ok(()) => "destroyed".to_owned(),
            Err(error) => format!("not destroyed: {error}"),
        })
    }

    /// Takes one encryption from this process's share, and a new share when it is used up.
    fn count_encryption(&self, key: &KeyEntry, material: &Material) -> Result<(), KmsError> {
        let mut shares = lock(&self.tokens.shares);
        let left = shares.entry(material.id).or_insert(0);
        if *left == 0 {
            let key_row = key_row_id(&key.record.region, &key.record.key_id);
            self.store.change(|change| {
                let present = change.snapshot().key(&key_row).cloned();
                let present = present.and_then(|key| key.materials.iter().find(|own| own.id == material.id).cloned());
                let present =
                    present.ok_or_else(|| KmsError::Internal(format!("{} has lost its material", key.arn)))?;
                let used = present.record.token.as_ref().map_or(0, |token| token.encryptions);
                if used + SHARE > MAX_ENCRYPTIONS {
                    return Err(KmsError::LimitExceeded(format!(
                        "{} has made as many ciphertexts as one key in a token may; create another key.",
                        key.arn
                    )));
                }
                let token = Some(TokenUse { encryptions: used + SHARE });
                change.put_material(&key_row, present.with_record(MaterialRecord { token, ..present.record.clone() }))
            })?;
            *left = SHARE;
        }
        *left -= 1;
        Ok(())
    }
}

/// Whether another attempt could lock the token's PIN.
fn store_row(key: &KeyEntry) -> Result<String, KmsError> {
    let record = &key.record;
    let link = record.key_store.as_ref();
    let link = link.ok_or_else(|| KmsError::Internal(format!("{} has no custom key store", key.arn)))?;
    Ok(key_store_row_id(&record.region, &record.account, &link.id))
}

fn unavailable(key: &KeyEntry, error: TokenError) -> KmsError {
    match error {
        TokenError::Refused => KmsError::InvalidState { arn: key.arn.clone(), state: KeyState::Unavailable },
        TokenError::Unavailable { why, .. } => KmsError::KeyUnavailable { arn: key.arn.clone(), why },
    }
}
