//! Proof of a database file that is not in use: a backup.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{StoreError, schema, state, whole};
use crate::kms::audit::{self, AuditError};
use crate::kms::custody::Home;

/// What a database file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Epoch of the domain key that seals it.
    pub epoch: u64,
    /// Number of changes that led to it.
    pub revision: u64,
    /// Number of keys, AWS managed ones included, deleted ones not.
    pub keys: usize,
    /// Whether it is the state that the root file vouches for: that of the last change.
    pub current: bool,
}

/// Reads the whole file: its structure, the MAC of each row, that these are the rows of one state, each sealed secret, the
/// head of the audit log's chain.
///
/// # Errors
/// What is wrong with it; [`StoreError::EpochGone`] if its domain key was destroyed.
pub fn inspect(home: &Home, path: &Path) -> Result<Inspection, StoreError> {
    // Nobody writes it, and nothing is to appear beside it.
    let uri = format!("file:{}?immutable=1", encode(path));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri, flags)?;
    schema::distrust(&connection)?;
    schema::check_readable(&connection, path)?;
    let body = home.read_root_alone()?;
    let cache = state::load(&connection, home, &body, None).map_err(|error| error.at(path))?;
    whole::check(&connection, home, &body, &cache).map_err(|error| error.at(path))?;
    let audit_key = state::internal_key("audit", &connection, &cache.domain, path)?;
    audit::read_head(&connection, &audit_key).map_err(|error| match error {
        AuditError::Store(error) => error,
        error => StoreError::Damaged { path: path.to_owned(), what: error.to_string() },
    })?;
    let mut keys = 0;
    for key in cache.snapshot.all_keys() {
        let key = key.map_err(|what| StoreError::Damaged { path: path.to_owned(), what })?;
        keys += usize::from(!key.is_tombstone());
    }
    let current = body.states.contains(&cache.state());
    Ok(Inspection { epoch: cache.domain.epoch, revision: cache.revision, keys, current })
}

/// A path as part of an SQLite URI.
fn encode(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let bytes = path.as_os_str().as_bytes().iter();
    bytes.map(|byte| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
