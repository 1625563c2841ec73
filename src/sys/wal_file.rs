//! SQLite's write-ahead log (file `-wal`) after a flush that failed. Linux counts pages whose write-back failed as clean, so they can
//! be read, no further flush writes them, and they are gone after a power cut. SQLite does not allow for that:
//!
//! - Who opens a database first takes from the log whatever can be read, with it commits that failed, and appends to it. A power
//!   cut then ends the log at the first lost page: what was committed behind it is gone, although its flush succeeded.
//! - What is taken back in memory when a commit fails still stands in the file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

/// How long a connection waits for others.
const PATIENCE: Duration = Duration::from_secs(10);

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Whether some connection has the database open, which wrote its log again when it was opened: SQLite holds a lock on its index
/// then. Where locks of others cannot be seen the answer is no.
pub fn is_in_use(database: &Path) -> bool {
    let Some(number) = number_in_locks(&beside(database, "-shm")) else { return false };
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().any(|line| line.split_ascii_whitespace().any(|field| field == number))
}

/// The other process that keeps everybody from changing the database, as one in the middle of a commit does. Where locks of others
/// cannot be seen there is none.
pub fn changer(database: &Path) -> Option<u32> {
    let files: Vec<String> =
        ["-shm", ""].into_iter().filter_map(|suffix| number_in_locks(&beside(database, suffix))).collect();
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let holders = locks.lines().filter_map(writer).filter(|(_, file)| files.iter().any(|known| known == file));
    // 0: one of another PID namespace.
    holders.map(|(pid, _)| pid).find(|pid| ![0, std::process::id()].contains(pid))
}

/// A file as `/proc/locks` calls it.
fn number_in_locks(path: &Path) -> Option<String> {
    let found = fs::metadata(path).ok()?;
    let (major, minor) = (rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
    Some(format!("{major:02x}:{minor:02x}:{}", found.ino()))
}

/// Who has locked which file for writing: `1: POSIX  ADVISORY  WRITE 123 fe:00:456 120 120`. Who waits for a lock has an arrow in front.
fn writer(line: &str) -> Option<(u32, &str)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    match fields[..] {
        [_, "POSIX", _, "WRITE", pid, file, ..] => Some((pid.parse().ok()?, file)),
        _ => None,
    }
}

/// Writes the log of a database that was just opened, and that nobody else uses, again and flushes it: what is taken from it is
/// then durable. If that cannot be done the connection can only read.
///
/// # Errors
/// SQLite's, but for those of what is taken for a log that cannot be written.
pub fn keep(connection: &Connection, database: &Path) -> rusqlite::Result<()> {
    let log = beside(database, "-wal");
    if !fs::metadata(&log).is_ok_and(|found| found.len() > 0) {
        return Ok(());
    }
    connection.busy_timeout(Duration::ZERO)?;
    // Nobody appends to it meanwhile.
    let begun = connection.execute_batch("BEGIN IMMEDIATE");
    connection.busy_timeout(PATIENCE)?;
    let kept = match begun {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => return Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(()) => {
            let kept = write_again(&log).map_err(|error| error.to_string());
            connection.execute_batch("ROLLBACK")?;
            kept
        }
    };
    if let Err(error) = kept {
        tracing::error!("{} cannot be written, so nothing can be changed: {error}", log.display());
        connection.pragma_update(None, "query_only", true)?;
    }
    Ok(())
}

fn write_again(log: &Path) -> io::Result<()> {
    let text = fs::read(log)?;
    let file = OpenOptions::new().write(true).open(log)?;
    file.write_all_at(&text, 0)?;
    file.sync_all()
}

/// Takes from the log, for good, what a commit that failed left there. Whether it is gone: if not, the commit may still take place.
pub fn drop_failed(connection: &Connection, database: &Path, error: &rusqlite::Error) -> bool {
    if error.sqlite_error_code() != Some(ErrorCode::SystemIoFailure) {
        // It failed before its last page was written.
        return true;
    }
    let emptied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    let is_empty = emptied.is_ok_and(|busy| busy == 0);
    is_empty && File::open(beside(database, "-wal")).and_then(|log| log.sync_all()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Connection {
        let connection = Connection::open(path).expect("opened");
        connection.pragma_update(None, "journal_mode", "WAL").expect("set");
        connection.execute_batch("CREATE TABLE IF NOT EXISTS t(n INTEGER)").expect("made");
        connection
    }

    #[test]
    fn locks_for_writing_are_told_from_others() {
        let lines = [
            "1: POSIX  ADVISORY  WRITE 123 fe:00:456 120 120",
            "2: POSIX  ADVISORY  READ 124 fe:00:456 128 128",
            "2: -> POSIX  ADVISORY  WRITE 125 fe:00:456 120 120",
            "3: FLOCK  ADVISORY  WRITE 126 fe:00:456 0 EOF",
        ];
        assert_eq!(lines.map(writer), [Some((123, "fe:00:456")), None, None, None]);
    }

    #[test]
    fn the_log_is_written_again_if_nobody_has_it_open() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("db");
        let first = open(&path);
        assert!(is_in_use(&path));
        first.execute_batch("INSERT INTO t VALUES (1)").expect("inserted");
        // As a killed process leaves it.
        let copy = dir.path().join("copy");
        for suffix in ["", "-wal"] {
            fs::copy(beside(&path, suffix), beside(&copy, suffix)).expect("copied");
        }
        drop(first);
        assert!(!is_in_use(&path) && !is_in_use(&copy));
        let log = beside(&copy, "-wal");
        let (text, written) = (fs::read(&log).expect("read"), || fs::metadata(&log).expect("there").modified().ok());
        let second = open(&copy);
        let before = written();
        std::thread::sleep(Duration::from_millis(20));
        keep(&second, &copy).expect("kept");
        assert!(written() != before && fs::read(&log).expect("read") == text);
        second.execute_batch("INSERT INTO t VALUES (2)").expect("it can be changed");
        let flush = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
        assert!(
            drop_failed(&second, &copy, &rusqlite::Error::SqliteFailure(flush, None))
                && fs::metadata(&log).expect("there").len() == 0
        );
        let count: i64 = second.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("read");
        assert_eq!(count, 2);
    }

    #[test]
    fn a_log_that_cannot_be_written_again_is_only_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("db");
        let connection = open(&path);
        fs::rename(beside(&path, "-wal"), dir.path().join("aside")).expect("moved away");
        // Neither can a directory.
        std::os::unix::fs::symlink(dir.path(), beside(&path, "-wal")).expect("linked");
        keep(&connection, &path).expect("it can be read");
        connection.execute_batch("INSERT INTO t VALUES (1)").expect_err("nothing can be changed");
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).expect("read");
    }
}
