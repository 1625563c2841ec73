//! A new root key: every secret of the database sealed anew under a domain key that only the new root key unwraps.

use rusqlite::TransactionBehavior;

use super::change::rewrap;
use super::{StoreError, rows, schema, state, whole};
use crate::env::Entropy;
use crate::kms::audit::{self, Rendered};
use crate::kms::crash;
use crate::kms::custody::{Home, RecoveryKey, Renewed, Unlock};
use crate::sys::wal_file;
use crate::types::Timestamp;

/// Gives `home` a new root key, and its database a new epoch under it. The slots that remain are those that `unlock`
/// and the key file open, with their secrets; all others go. A recovery key that is new is told to `announce` before
/// anything changes: from then on a recovery key that somebody knows opens the home, the old one or this one.
///
/// One root file, the first under the new root key, vouches for the database before and after its commit: a crash
/// leaves the old state under the old root key, the old state under the new one, or the new state.
///
/// # Errors
/// [`StoreError::InUse`] if another process has the database open: it knows the old root key only.
pub fn rekey(
    home: &Home,
    unlock: &Unlock,
    event: &Rendered,
    (now, entropy): (Timestamp, &dyn Entropy),
    announce: &dyn Fn(&RecoveryKey),
) -> Result<Renewed, StoreError> {
    let path = home.database();
    let held = home.lock()?;
    let mut connection = schema::connect(&path)?;
    schema::upgrade(&connection, &path)?;
    schema::claim(&connection, &path)?;
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let body = home.read_root()?;
    let cache = state::load(&tx, home, &body, None)?;
    let before = cache.state();
    if !body.states.contains(&before) {
        return Err(state::not_current(path, &body, &before));
    }
    let mut renewed = home.renew(&body, cache.domain.epoch, unlock, (now, entropy))?;
    let epoch = body.domains.iter().map(|domain| domain.epoch).max().unwrap_or(0) + 1;
    renewed.home.push_domain(&mut renewed.body, epoch, entropy);
    let domain = renewed.home.domain_keys(&renewed.body, epoch).expect("made a line above");
    let mut ledger = rewrap(&tx, home, &cache.domain, &domain, entropy)?;
    let revision = cache.revision + 1;
    rows::set_meta("epoch", epoch, &tx)?;
    rows::set_meta("revision", revision, &tx)?;
    let audit_key = state::internal_key("audit", &tx, &domain, &path)?;
    ledger.records = Some(audit::wait(event, &audit_key, &tx)?);
    whole::write(&tx, &ledger, revision, &domain)?;
    crash::point();
    let after = state::state_record(&ledger, revision, &domain);
    renewed.body.states = vec![before.clone(), after.clone()];
    if let Some(key) = &renewed.recovery {
        announce(key);
    }
    renewed.home.write_root(&held, &renewed.body)?;
    crash::point();
    if let Err(error) = tx.commit() {
        // Other users of the home, or a full disk. If nothing has changed, and cannot change by it, the slots stay as they were too.
        if wal_file::drop_failed(&connection, &path, &error)
            && state::load(&connection, home, &body, None).is_ok_and(|cache| cache.state() == before)
        {
            home.write_root(&held, &body)?;
        }
        return Err(error.into());
    }
    crash::point();
    Home::settle(&mut renewed.body, vec![after]);
    renewed.home.write_root(&held, &renewed.body)?;
    Ok(renewed)
}
