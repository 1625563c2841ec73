//! The database's own proof that its rows belong together: the digest of its state, in itself.
//!
//! A row's MAC says that the key manager wrote it, not that it is still there, nor beside which others. The root file says
//! that of the present state alone; a backup has to say it of the one that it holds. So each change writes the digest of the
//! state to which it leads, a MAC under the domain key, with its rows.

use rusqlite::{Connection, OptionalExtension};

use super::StoreError;
use super::rows::Ledger;
use super::state::Cache;
use crate::kms::custody::{DomainKeys, Home, RootBody};
use crate::kms::seal;

/// Writes the digest of the state of `ledger` and `revision`, within its change.
pub fn write(to: &Connection, ledger: &Ledger, revision: u64, domain: &DomainKeys) -> rusqlite::Result<()> {
    to.prepare_cached("INSERT INTO whole(one, digest) VALUES (1, ?1) ON CONFLICT(one) DO UPDATE SET digest = ?1")?
        .execute([&ledger.digest(revision, domain)[..]])?;
    Ok(())
}

/// Refuses a database that is none of the states that a change led to: rows, the number of the change or the count of its
/// records were changed, taken out, or put in from another time. One of an epoch that an earlier program began may lack the
/// digest.
pub fn check(from: &Connection, home: &Home, body: &RootBody, cache: &Cache) -> Result<(), StoreError> {
    // The file may say that it has an earlier schema than its tables; what decides stands in the root file.
    let there = from.prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'whole'")?.exists([])?;
    let digest = match there {
        true => from.query_row("SELECT digest FROM whole", [], |row| row.get::<_, Vec<u8>>(0)).optional()?,
        false => None,
    };
    let genuine = match &digest {
        Some(digest) => seal::same(digest, &cache.ledger.digest(cache.revision, &cache.domain)),
        None => !body.domains.iter().any(|domain| domain.epoch == cache.domain.epoch && domain.whole),
    };
    if genuine {
        return Ok(());
    }
    let what = "its rows do not belong together: some were taken out or put in".to_owned();
    Err(StoreError::Damaged { path: home.database(), what })
}
