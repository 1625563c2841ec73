//! The header of SQLite's WAL index: whether any process has committed, told without a system call.
//!
//! The index is memory that all connections to a database share (file `-shm`). Its first 48 bytes change with every
//! commit, and SQLite itself decides by them whether what it has cached still counts (`walIndexTryHdr`; format:
//! <https://www.sqlite.org/walformat.html>, section 2.1). They stand there twice. A writer writes the second copy, then
//! the first, with a barrier between; a reader that finds both the same in the opposite order has seen no half of either.
//!
//! The memory is reached through SQLite's own mapping of it. To open the file here as well would be wrong: closing it
//! again drops all POSIX locks that SQLite holds on it for this process.

use std::ffi::c_int;
use std::ptr::{self, NonNull};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use rusqlite::{Connection, ffi};

/// Words of one copy of the header.
const WORDS: usize = 12;
/// Version of the format, the same since SQLite 3.7.0, in the first word.
const FORMAT: u32 = 3_007_000;
/// What SQLite maps at once, as `xShmMap` wants it.
const REGION: c_int = 32 * 1024;

/// The header at one time. Equal headers: nobody has committed between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalHeader([u32; WORDS]);

/// The WAL index of a database.
pub struct WalIndex {
    copies: NonNull<[[AtomicU32; WORDS]; 2]>,
    /// Keeps the memory mapped; it is not used any more.
    _connection: Mutex<Connection>,
}

// SAFETY: the memory is shared with other processes anyway and accessed by atomic loads only; it stays mapped as long as
// the connection is open, whichever thread closes it.
unsafe impl Send for WalIndex {}
// SAFETY: as above.
unsafe impl Sync for WalIndex {}

impl WalIndex {
    /// The WAL index that `connection` uses, which must be to a database in WAL mode.
    ///
    /// # Errors
    /// SQLite's, and `SQLITE_PROTOCOL` if there is no index of the known format.
    pub fn of(connection: Connection) -> rusqlite::Result<Self> {
        let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
        if mode != "wal" {
            return Err(failure(ffi::SQLITE_PROTOCOL));
        }
        // The first read transaction opens the index.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
        let region = first_region(&connection)?;
        let index = Self { copies: region.cast(), _connection: Mutex::new(connection) };
        // SAFETY: the region holds the header, and is mapped as long as `index` lives.
        let format = unsafe { index.copies.as_ref() }[0][0].load(Ordering::Relaxed);
        if format == FORMAT { Ok(index) } else { Err(failure(ffi::SQLITE_PROTOCOL)) }
    }

    /// The present header; `None` while somebody is writing it.
    pub fn header(&self) -> Option<WalHeader> {
        // SAFETY: as in `of`.
        let [first, second] = unsafe { self.copies.as_ref() };
        let read = |copy: &[AtomicU32; WORDS]| std::array::from_fn(|at| copy[at].load(Ordering::Relaxed));
        let header = WalHeader(read(first));
        fence(Ordering::Acquire);
        (header.0 == read(second)).then_some(header)
    }
}

fn failure(code: c_int) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some("the WAL index cannot be read".into()))
}

/// The beginning of the index, as it is mapped already.
fn first_region(connection: &Connection) -> rusqlite::Result<NonNull<u8>> {
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    // SAFETY: the handle is open; this file control writes the pointer to the main database's file, which belongs to the
    // connection.
    let code = unsafe {
        let file = (&raw mut file).cast();
        ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), ffi::SQLITE_FCNTL_FILE_POINTER, file)
    };
    if code != ffi::SQLITE_OK || file.is_null() {
        return Err(failure(code));
    }
    let mut region = ptr::null_mut();
    // SAFETY: `file` is open and its methods are set; nobody else uses the connection. Version 2 of the methods has
    // `xShmMap`. The region is mapped already, so that only its address is answered.
    let code = unsafe {
        let methods = (*file).pMethods.as_ref().filter(|methods| methods.iVersion >= 2);
        let map = methods.and_then(|methods| methods.xShmMap).ok_or_else(|| failure(ffi::SQLITE_PROTOCOL))?;
        map(file, 0, REGION, 0, &raw mut region)
    };
    match NonNull::new(region.cast::<u8>()) {
        Some(region) if code == ffi::SQLITE_OK => Ok(region),
        _ => Err(failure(if code == ffi::SQLITE_OK { ffi::SQLITE_PROTOCOL } else { code })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_changes_with_each_commit_of_any_connection_and_only_then() {
        let dir = tempfile::tempdir().expect("directory");
        let open = || {
            let connection = Connection::open(dir.path().join("db")).expect("opened");
            connection.pragma_update(None, "journal_mode", "WAL").expect("WAL");
            connection
        };
        let writer = open();
        writer.execute_batch("CREATE TABLE t(n INTEGER)").expect("created");
        let index = WalIndex::of(open()).expect("an index");
        let mut seen = vec![index.header().expect("nobody writes")];
        for n in 0..50 {
            writer.execute("INSERT INTO t VALUES (?1)", [n]).expect("inserted");
            let now = index.header().expect("nobody writes");
            assert!(!seen.contains(&now), "commit {n}");
            seen.push(now);
            writer.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).expect("read");
            writer.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (-1); ROLLBACK;").expect("rolled back");
            assert_eq!(index.header(), Some(now));
            // The next commit begins the log anew.
            if n % 10 == 9 {
                writer.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get::<_, i64>(0)).expect("checkpoint");
            }
        }
    }

    #[test]
    fn a_database_without_wal_has_none() {
        let dir = tempfile::tempdir().expect("directory");
        let connection = Connection::open(dir.path().join("db")).expect("opened");
        connection.execute_batch("CREATE TABLE t(n INTEGER)").expect("created");
        assert!(WalIndex::of(connection).is_err());
    }
}
