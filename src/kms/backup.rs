//! Backup of the database while it is in use, restoration, and proof of either (KMS.md section 19).
//!
//! A backup is one SQLite file with the sealed rows. It holds neither the root file nor a secret, and belongs to the epoch
//! of the domain key in which it was made: when a key is deleted, the next epoch begins, and earlier backups end.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};

use crate::env::{Clock, Entropy};
use crate::kms::custody::{CustodyError, Home};
use crate::kms::store::{Inspection, StoreError, inspect};
use crate::kms::{Engine, OpenError};
use crate::sync::Arc;

/// Pages copied at once; other processes work in between.
const STEP: i32 = 1024;
const PAUSE: Duration = Duration::from_millis(1);

/// Why a backup was not made, or not restored. What was there is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file that was to be written is there.
    #[error("{0} exists; a backup never replaces a file: name another one")]
    Exists(PathBuf),
    /// A database is there, and its replacement was not asked for.
    #[error(
        "there is a database at {0}; restoring undoes everything since the backup was made: keys created or rotated since \
         are lost with all that was encrypted under them. If that is what you want: kmsfs kms restore --replace FILE"
    )]
    Present(PathBuf),
    /// Other processes have the database open.
    #[error("the database {0} is in use: unmount all volumes of this key manager and stop kmsfs serve first")]
    InUse(PathBuf),
    /// The database, or the copy, is not sound.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The root file.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// The restored database could not be opened.
    #[error(transparent)]
    Open(#[from] Box<OpenError>),
    /// A system call failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> BackupError {
    move |source| BackupError::Io { path: path.to_owned(), source }
}

impl From<rusqlite::Error> for BackupError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// What a restoration did.
#[derive(Debug)]
pub struct Restored {
    /// The restored database.
    pub inspection: Inspection,
    /// Where the database that was there before is kept.
    pub kept: Option<PathBuf>,
}

/// Copies the database of `home` to the new file `to`, of mode 0600, while others use it, and proves the copy.
///
/// # Errors
/// [`BackupError::Exists`] if `to` is there. A failed copy is removed.
pub fn backup(home: &Home, to: &Path) -> Result<Inspection, BackupError> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => BackupError::Exists(to.to_owned()),
        _ => io(to)(error),
    })?;
    let copied = copy(&home.database(), to).map_err(|error| of_target(error, &home.database(), to));
    let copied = copied.and_then(|()| Ok(inspect(home, to)?));
    if copied.is_err()
        && let Err(error) = fs::remove_file(to)
    {
        tracing::warn!(%error, file = %to.display(), "an unfinished backup could not be removed");
    }
    copied
}

/// Proves a backup.
pub fn check(home: &Home, file: &Path) -> Result<Inspection, BackupError> {
    File::open(file).map_err(io(file))?;
    Ok(inspect(home, file)?)
}

fn copy(from: &Path, to: &Path) -> Result<(), BackupError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags)?;
    source.busy_timeout(Duration::from_secs(10))?;
    let mut target = Connection::open_with_flags(to, flags)?;
    Backup::new(&source, &mut target)?.run_to_completion(STEP, PAUSE, None)?;
    // One file: without it the copy would want journals beside it.
    target.pragma_update(None, "journal_mode", "DELETE")?;
    drop(target);
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(to).and_then(|file| file.sync_all()).map_err(io(to))?;
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(io(parent))
}

/// What the system says of a copy that SQLite could not write: that tells neither which of the two files it is about, nor of a quota.
fn of_target(error: BackupError, from: &Path, to: &Path) -> BackupError {
    use rusqlite::ErrorCode::{DiskFull, SystemIoFailure};
    let BackupError::Store(StoreError::Sqlite(cause)) = &error else { return error };
    let Some(code @ (DiskFull | SystemIoFailure)) = cause.sqlite_error_code() else { return error };
    match fill(to, fs::metadata(from).map_or(0, |found| found.len())) {
        Err(refusal) => io(to)(refusal),
        Ok(()) if code == DiskFull => io(to)(rustix::io::Errno::NOSPC.into()),
        Ok(()) => error,
    }
}

/// Writes `len` bytes to a file that is of no use any more.
fn fill(path: &Path, len: u64) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    std::io::copy(&mut std::io::repeat(0).take(len), &mut file)?;
    file.sync_all()
}

/// Puts the backup `from` in the place of the database of `home`, and accepts it. The database that is there, sound or
/// not, is kept beside it; it is replaced only with `replace`.
///
/// # Errors
/// [`StoreError::EpochGone`] for a backup from before a deletion of a key: its domain key was destroyed.
pub fn restore(
    home: Home,
    from: &Path,
    replace: bool,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
) -> Result<Restored, BackupError> {
    let database = home.database();
    let present = database.exists();
    if present && !replace {
        return Err(BackupError::Present(database));
    }
    check(&home, from)?;
    let incoming = with_suffix(&database, ".restoring");
    let lock = home.lock()?;
    let placed: Result<Restored, BackupError> = (|| {
        fs::copy(from, &incoming).map_err(io(&incoming))?;
        let inspection = inspect(&home, &incoming)?;
        File::open(&incoming).and_then(|file| file.sync_all()).map_err(io(&incoming))?;
        let kept = set_aside(&database, &*clock)?;
        fs::rename(&incoming, &database).map_err(io(&database))?;
        File::open(home.dir()).and_then(|dir| dir.sync_all()).map_err(io(home.dir()))?;
        Ok(Restored { inspection, kept: present.then_some(kept) })
    })();
    drop(lock);
    if placed.is_err() && incoming.exists() {
        fs::remove_file(&incoming).map_err(io(&incoming))?;
    }
    let restored = placed?;
    Engine::start_accepting(home, clock, entropy).map_err(Box::new)?;
    Ok(restored)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Moves the database, with its journals, to a name that no file has; journals that are left of a database that is gone
/// too: SQLite would take them for those of the next one.
fn set_aside(database: &Path, clock: &dyn Clock) -> Result<PathBuf, BackupError> {
    // Leaving the write-ahead mode needs a database that nobody else has open; a damaged one fails otherwise.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let claim = || Connection::open_with_flags(database, flags)?.pragma_update(None, "journal_mode", "DELETE");
    let alone = if database.exists() { claim() } else { Ok(()) };
    if let Err(rusqlite::Error::SqliteFailure(error, _)) = &alone
        && matches!(error.code, rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
    {
        return Err(BackupError::InUse(database.to_owned()));
    }
    let at = clock.now().as_secs();
    let kept = (0..).map(|n| with_suffix(database, &format!(".replaced-{at}-{n}"))).find(|path| !path.exists());
    let kept = kept.expect("the names are without end");
    for journal in ["-wal", "-shm", ""] {
        let from = with_suffix(database, journal);
        if from.exists() {
            fs::rename(&from, with_suffix(&kept, journal)).map_err(io(&from))?;
        }
    }
    Ok(kept)
}
