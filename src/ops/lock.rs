//! `.kmsfs/lock`: one writer per ciphertext directory (FORMAT 4.1); and beside a freshness record one user of it, as copies of a
//! volume have one record (ADR 12). Each lock is an OFD write lock; the file's content only tells a second one who the first is.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::files::MetaDir;
use crate::sync::thread;
use crate::sys::ofd;

const LOCK: &str = "lock";
/// More is no content of ours.
const CONTENT_LIMIT: u64 = 8192;
/// A killed process holds its lock until its threads and memory are gone, which takes milliseconds, on a busy machine more.
const PATIENCE: Duration = Duration::from_secs(10);
/// Until a process that was sent SIGKILL is seen to end.
const GRACE: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(5);
/// Flag of a process in `/proc/PID/stat`: it is ending (Linux `include/linux/sched.h`).
const PF_EXITING: u32 = 4;

/// Who holds a volume's lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockOwner {
    /// The host's name.
    pub host: String,
    /// The process id there; 0 if the file does not tell.
    pub pid: u32,
    /// What for: `mount /mnt/plain`, `rewrap`, ...
    pub purpose: String,
}

impl LockOwner {
    /// Whether it is a process of this host on its way out.
    fn is_ending(&self) -> bool {
        self.host == host_name() && is_ending(self.pid)
    }
}

fn is_ending(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program, in parentheses, may hold anything. Behind it: state, five numbers, flags.
    let mut fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
    let (state, flags) = (fields.next(), fields.nth(5).and_then(|flags| flags.parse::<u32>().ok()));
    matches!(state, Some("Z" | "X")) || flags.is_some_and(|flags| flags & PF_EXITING != 0)
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// `VolumeBusy`: somebody else holds it.
    #[error("the volume is in use by process {} on host {} ({})", .0.pid, .0.host, .0.purpose)]
    Busy(LockOwner),
    /// The lock file cannot be opened or locked.
    #[error("cannot lock the volume: {0}")]
    Io(#[from] io::Error),
}

/// The right to write anywhere in a ciphertext directory; ends when dropped, and with the process.
#[derive(Debug)]
pub struct VolumeLock {
    _file: File,
}

impl VolumeLock {
    /// Takes the lock of the volume at `root` for `purpose`. Waits for nobody but an owner that is ending.
    pub fn acquire(root: &Path, purpose: &str) -> Result<Self, LockError> {
        Self::acquire_in(&MetaDir::open(root)?, purpose)
    }

    /// Takes the lock in an open `.kmsfs` directory.
    pub fn acquire_in(meta: &MetaDir, purpose: &str) -> Result<Self, LockError> {
        Ok(Self { _file: hold(meta.open_or_create(LOCK)?, purpose)? })
    }
}

/// The right to write the freshness record of a volume, and to compare a mount with it; ends when dropped, and with the process.
#[derive(Debug)]
pub struct RecordLock {
    _file: File,
}

impl RecordLock {
    /// Takes the lock file `path`, which is made in a directory that exists, for `purpose`. Waits as [`VolumeLock::acquire`] does.
    pub fn acquire(path: &Path, purpose: &str) -> Result<Self, LockError> {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
        Ok(Self { _file: hold(file, purpose)? })
    }
}

/// Locks a file for `purpose`, and writes that into it.
fn hold(mut file: File, purpose: &str) -> Result<File, LockError> {
    let asked = Instant::now();
    while !ofd::try_lock_exclusive(&file)? {
        let owner = read_owner(&mut file)?;
        let patience = if owner.is_ending() { PATIENCE } else { GRACE };
        if asked.elapsed() >= patience {
            return Err(LockError::Busy(owner));
        }
        thread::sleep(PAUSE);
    }
    let content = format!("host={}\npid={}\npurpose={purpose}\n", host_name(), std::process::id());
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(content.as_bytes())?;
    Ok(file)
}

/// Who holds the lock of the volume at `root` now; `None` if nobody does.
pub fn owner(root: &Path) -> io::Result<Option<LockOwner>> {
    let mut file = match MetaDir::open(root)?.open_read(LOCK) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    if ofd::is_locked(&file)? { read_owner(&mut file).map(Some) } else { Ok(None) }
}

/// This host's name, as the lock shows it.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn read_owner(file: &mut File) -> io::Result<LockOwner> {
    let mut text = Vec::new();
    file.rewind()?;
    file.take(CONTENT_LIMIT).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or("unknown");
        value.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>()
    };
    Ok(LockOwner { host: field("host"), pid: field("pid").parse().unwrap_or(0), purpose: field("purpose") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let root = tempfile::tempdir().expect("temporary directory");
        MetaDir::create(root.path()).expect("create");
        assert_eq!(owner(root.path()).expect("query"), None);
        let first = VolumeLock::acquire(root.path(), "mount /mnt").expect("free");
        let expected = LockOwner { host: host_name(), pid: std::process::id(), purpose: "mount /mnt".into() };
        match VolumeLock::acquire(root.path(), "rewrap") {
            Err(LockError::Busy(owner)) => assert_eq!(owner, expected),
            other => panic!("{other:?}"),
        }
        assert_eq!(owner(root.path()).expect("query"), Some(expected));
        drop(first);
        assert_eq!(owner(root.path()).expect("query"), None);
        VolumeLock::acquire(root.path(), "rewrap").expect("free again");
    }

    #[test]
    fn a_process_that_has_ended_is_told_from_one_that_lives() {
        assert!(!is_ending(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().expect("a process");
        // It stays a zombie until somebody waits for it.
        let asked = Instant::now();
        while !is_ending(child.id()) && asked.elapsed() < PATIENCE {
            thread::sleep(PAUSE);
        }
        assert!(is_ending(child.id()));
        child.wait().expect("waited");
        assert!(!is_ending(child.id()), "there is no such process");
    }

    #[test]
    fn foreign_content_is_shown_without_control_characters() {
        let root = tempfile::tempdir().expect("temporary directory");
        MetaDir::create(root.path()).expect("create");
        let path = root.path().join(".kmsfs/lock");
        std::fs::write(&path, b"host=a\x1b[2Jb\npid=x\n").expect("write");
        let held = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("open");
        assert!(ofd::try_lock_exclusive(&held).expect("lock"));
        let owner = owner(root.path()).expect("query").expect("held");
        assert_eq!((owner.host.as_str(), owner.pid, owner.purpose.as_str()), ("a?[2Jb", 0, "unknown"));
    }
}
