//! Tables and connections.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::StoreError;
use super::rows::Table;
use crate::kms::custody::CustodyError;
use crate::kms::lock_file;
use crate::sys::wal_file;
use crate::types::Timestamp;

/// A table of rows (`rows::Table`); the parent column is `TEXT`, or `TEXT NOT NULL REFERENCES keys(id)` and the like.
macro_rules! table {
    ($name:literal, $parent:literal) => {
        concat!(
            "CREATE TABLE ",
            $name,
            "(id TEXT PRIMARY KEY, parent ",
            $parent,
            ", revision INTEGER NOT NULL, record TEXT NOT NULL, sealed BLOB, mac BLOB NOT NULL) STRICT;\n"
        )
    };
}

/// What refreshing reads a table by.
macro_rules! index {
    ($name:literal) => {
        concat!("CREATE INDEX ", $name, "_revision ON ", $name, "(revision);\n")
    };
}

/// What makes each version of the schema out of the one before. Only ever appended to: homes made by an earlier program
/// get the steps that they lack when they are opened. A new table of rows is the step `table!(name, parent)` with
/// `index!(name)`, as in `FIRST` and `REVISIONS`.
const STEPS: [&str; 8] = [
    FIRST,
    REVISIONS,
    concat!(table!("wrapping_keys", "TEXT NOT NULL REFERENCES keys(id)"), index!("wrapping_keys")),
    concat!(
        table!("grants", "TEXT NOT NULL REFERENCES keys(id)"),
        index!("grants"),
        table!("principals", "TEXT"),
        index!("principals"),
        table!("access_keys", "TEXT NOT NULL REFERENCES principals(id)"),
        index!("access_keys"),
    ),
    LAST_USAGE,
    KEY_STORES,
    // A record of a change that waits for the log is as good as one in it: only with a MAC. Those of earlier programs have
    // none.
    "ALTER TABLE audit_outbox ADD COLUMN mac BLOB;\n",
    // Written by the first change.
    "CREATE TABLE whole(one INTEGER PRIMARY KEY CHECK (one = 1), digest BLOB NOT NULL) STRICT;\n",
];

/// Version of the schema, in `PRAGMA user_version`.
const VERSION: usize = STEPS.len();

const FIRST: &str = concat!(
    table!("keys", "TEXT"),
    table!("materials", "TEXT NOT NULL REFERENCES keys(id)"),
    table!("aliases", "TEXT NOT NULL REFERENCES keys(id)"),
    table!("volumes", "TEXT"),
    "
CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE secrets(id TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT;
CREATE TABLE clock(one INTEGER PRIMARY KEY CHECK (one = 1), record TEXT NOT NULL, mac BLOB NOT NULL) STRICT;
CREATE TABLE audit_head(one INTEGER PRIMARY KEY CHECK (one = 1), record TEXT NOT NULL, mac BLOB NOT NULL) STRICT;
CREATE TABLE audit_outbox(id INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL, head TEXT NOT NULL,
                  tail TEXT NOT NULL) STRICT;
"
);

/// Refreshing reads what is newer than the snapshot: by revision, and the deletions.
const REVISIONS: &str = concat!(
    index!("keys"),
    index!("materials"),
    index!("aliases"),
    index!("volumes"),
    "
CREATE TABLE deletions(revision INTEGER NOT NULL, place TEXT NOT NULL, id TEXT NOT NULL,
                  PRIMARY KEY (revision, place, id)) STRICT, WITHOUT ROWID;
INSERT INTO meta(name, value) SELECT 'deletions_forgotten', value FROM meta WHERE name = 'revision';
"
);

/// Last uses of keys (`kms::usage`), which are no rows: a change of them is no change of the key manager's state.
const LAST_USAGE: &str = "
CREATE TABLE usage(id TEXT PRIMARY KEY, at INTEGER NOT NULL, record TEXT NOT NULL, mac BLOB NOT NULL) STRICT;
INSERT INTO meta(name, value) VALUES ('usage_since', unixepoch());
";

const KEY_STORES: &str =
    concat!(table!("key_stores", "TEXT"), index!("key_stores"), table!("clusters", "TEXT"), index!("clusters"));

/// Opens the database; never creates it, not in a file that lost its content either: SQLite would begin a new one there.
pub fn connect(path: &Path) -> Result<Connection, StoreError> {
    let len = std::fs::metadata(path).map_err(|source| CustodyError::Io { path: path.to_owned(), source })?.len();
    if len == 0 {
        return Err(StoreError::Damaged { path: path.to_owned(), what: "it is empty".into() });
    }
    open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

/// Creates the database with empty tables, readable for its owner only: its directory is too, and a copy of the file
/// should not depend on that. SQLite gives its journals the same mode.
pub fn create(path: &Path) -> Result<Connection, StoreError> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    file.and_then(|file| file.set_permissions(Permissions::from_mode(0o600)))
        .map_err(|source| CustodyError::Io { path: path.to_owned(), source })?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let connection = open(path, flags)?;
    take_steps(&connection, 0)?;
    Ok(connection)
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn take_steps(connection: &Connection, from: usize) -> rusqlite::Result<()> {
    let steps = STEPS[from..].concat();
    connection.execute_batch(&format!("BEGIN IMMEDIATE; {steps} PRAGMA user_version = {VERSION}; COMMIT;"))
}

/// Brings the schema of an earlier program up to date; the caller holds the home's lock. The rows stay as they are, and
/// so does what the root file says of them.
pub fn upgrade(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let damaged = |what: String| StoreError::Damaged { path: path.to_owned(), what };
    match usize::try_from(version(connection)?) {
        Ok(VERSION) => Ok(()),
        Ok(known @ 1..VERSION) => Ok(take_steps(connection, known)?),
        Ok(newer) if newer > VERSION => {
            Err(StoreError::Newer { path: path.to_owned(), version: newer, known: VERSION })
        }
        _ => Err(damaged("it has no schema".into())),
    }
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let is_in_use = wal_file::is_in_use(path);
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(lock_file::patience_with_database())?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Also what need not survive a power cut, as last uses and the audit head, which the log itself restores: it stands in the
    // same log, and were its flush to fail with that of a later change, it would stay there in front of further changes.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    distrust(&connection)?;
    if !is_in_use {
        wal_file::keep(&connection, path)?;
    }
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Rows come from a file that others may have written: nothing in its schema runs, and no statement changes the schema's own
/// table.
pub fn distrust(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    Ok(())
}

/// Refuses a schema with what this program never puts there: it would act on rows, or stand for a table.
pub fn check_objects(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let mut statement =
        connection.prepare("SELECT type, name FROM sqlite_schema WHERE type NOT IN ('table', 'index')")?;
    let mut rows = statement.query([])?;
    match rows.next()? {
        None => Ok(()),
        Some(row) => {
            let what = format!(
                "it has a {} '{}', which no key manager made",
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?
            );
            Err(StoreError::Damaged { path: path.to_owned(), what })
        }
    }
}

/// Refuses a database that others have open, and keeps them out until it is opened anew: leaving the write-ahead mode
/// needs one that nobody else has open.
pub fn claim(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
    connection.busy_timeout(Duration::ZERO)?;
    match connection.pragma_update(None, "journal_mode", "DELETE") {
        Err(rusqlite::Error::SqliteFailure(error, _)) if matches!(error.code, DatabaseBusy | DatabaseLocked) => {
            Err(StoreError::InUse(path.to_owned()))
        }
        done => Ok(done?),
    }
}

/// Refuses a file that is no database of this program or an earlier one, or whose structure is damaged.
pub fn check_readable(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let damaged = |what: String| StoreError::Damaged { path: path.to_owned(), what };
    let found = version(connection).map_err(|error| damaged(error.to_string()))?;
    match usize::try_from(found) {
        Ok(1..=VERSION) => {}
        Ok(newer) if newer > VERSION => {
            return Err(StoreError::Newer { path: path.to_owned(), version: newer, known: VERSION });
        }
        _ => return Err(damaged("it is not a database of a key manager".into())),
    }
    let verdict: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { check_objects(connection, path) } else { Err(damaged(verdict)) }
}

/// Whether the database has `table`: one of an earlier program may not.
pub fn has(connection: &Connection, table: Table) -> rusqlite::Result<bool> {
    if version(connection)? == VERSION as i64 {
        return Ok(true);
    }
    let mut statement = connection.prepare_cached("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1")?;
    statement.exists([table.name()])
}

/// Refuses a database whose structure is damaged. Reads all of it, by a connection of its own: for another thread.
pub fn check_structure(path: &Path) -> Result<(), StoreError> {
    let verdict: String = connect(path)?.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(StoreError::Damaged { path: path.to_owned(), what: verdict }) }
}

/// Since when last uses are noted.
pub fn usage_since(from: &Connection) -> rusqlite::Result<Timestamp> {
    let seconds = from.query_row("SELECT value FROM meta WHERE name = 'usage_since'", [], |row| row.get(0))?;
    Ok(Timestamp::from_secs(seconds))
}
