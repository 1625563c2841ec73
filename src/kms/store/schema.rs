//! Tables and connections.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::StoreError;
use crate::kms::custody::CustodyError;

/// Version of the schema, in `PRAGMA user_version`.
pub const VERSION: i64 = 1;

/// How durable a connection's transactions are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Each commit survives a power cut.
    Full,
    /// A power cut may lose the last commits, never consistency. For the audit head, which the log itself restores.
    Normal,
}

const SCHEMA: &str = "
CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE keys(id TEXT PRIMARY KEY, parent TEXT, revision INTEGER NOT NULL, record TEXT NOT NULL, sealed BLOB,
                  mac BLOB NOT NULL) STRICT;
CREATE TABLE materials(id TEXT PRIMARY KEY, parent TEXT NOT NULL REFERENCES keys(id), revision INTEGER NOT NULL,
                  record TEXT NOT NULL, sealed BLOB, mac BLOB NOT NULL) STRICT;
CREATE TABLE wrapping_keys(id TEXT PRIMARY KEY, parent TEXT NOT NULL REFERENCES keys(id), revision INTEGER NOT NULL,
                  record TEXT NOT NULL, sealed BLOB, mac BLOB NOT NULL) STRICT;
CREATE TABLE aliases(id TEXT PRIMARY KEY, parent TEXT NOT NULL REFERENCES keys(id), revision INTEGER NOT NULL,
                  record TEXT NOT NULL, sealed BLOB, mac BLOB NOT NULL) STRICT;
CREATE TABLE volumes(id TEXT PRIMARY KEY, parent TEXT, revision INTEGER NOT NULL, record TEXT NOT NULL, sealed BLOB,
                  mac BLOB NOT NULL) STRICT;
CREATE TABLE secrets(id TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT;
CREATE TABLE clock(one INTEGER PRIMARY KEY CHECK (one = 1), record TEXT NOT NULL, mac BLOB NOT NULL) STRICT;
CREATE TABLE audit_head(one INTEGER PRIMARY KEY CHECK (one = 1), record TEXT NOT NULL, mac BLOB NOT NULL) STRICT;
CREATE TABLE audit_outbox(id INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL, head TEXT NOT NULL,
                  tail TEXT NOT NULL) STRICT;
";

/// Opens the database; never creates it.
pub fn connect(path: &Path, durability: Durability) -> Result<Connection, StoreError> {
    open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, durability)
}

/// Creates the database with empty tables, readable for its owner only: its directory is too, and a copy of the file
/// should not depend on that. SQLite gives its journals the same mode.
pub fn create(path: &Path) -> Result<Connection, StoreError> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    file.and_then(|file| file.set_permissions(Permissions::from_mode(0o600)))
        .map_err(|source| CustodyError::Io { path: path.to_owned(), source })?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = open(path, flags, Durability::Full)?;
    connection.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;"))?;
    Ok(connection)
}

fn open(path: &Path, flags: OpenFlags, durability: Durability) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    let synchronous = if durability == Durability::Full { "FULL" } else { "NORMAL" };
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    // Rows come from a file that others may have written: no function or trigger in the schema is trusted.
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Refuses a database that is damaged or of another version.
pub fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let damaged = |what: String| StoreError::Damaged { path: path.to_owned(), what };
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version != VERSION {
        return Err(damaged(format!("its schema has version {version}; this program knows version {VERSION} only")));
    }
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(damaged(verdict)) }
}

/// The connection of the audit log.
pub fn connect_audit(path: &Path) -> Result<Connection, StoreError> {
    connect(path, Durability::Normal)
}
