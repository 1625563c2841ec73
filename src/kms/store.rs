//! The database.
/// Why the database could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite.
    #[error("the key manager's database: {0}")]
    Sqlite(#[from] rusqlite::Error),
}
