//! The lock files of the home: its processes hold them one after another, each for as long as a change or a batch of records takes.
//!
//! Who waits has patience, since disks can be slow. But a process that was stopped, or hangs, keeps what it holds: so a file says
//! who holds it, who waits says so after a while, and gives up in the end. The kernel keeps those who wait in a queue.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, lock};
use crate::sys::process::run_like_the_first_thread;
use crate::sys::threads;

/// How long somebody waits.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// Until the log says for whom.
    quiet: Duration,
    /// From then on, until it is an error.
    more: Duration,
}

impl Patience {
    /// Of who only looks (`briefly`), of who waited for the same file in vain before (`given_up`).
    fn of(briefly: bool, given_up: bool) -> Self {
        match (briefly, given_up) {
            (false, false) => USUAL,
            (true, true) => NONE,
            _ => BRIEF,
        }
    }
}

/// A batch of records takes milliseconds, on a disk with much to do seconds.
const USUAL: Patience = Patience { quiet: Duration::from_secs(10), more: Duration::from_secs(110) };
/// Of who only looks, and of who has waited in vain before.
const BRIEF: Patience = Patience { quiet: Duration::from_secs(2), more: Duration::ZERO };
/// Of who only looks, and has waited in vain before: a command comes to a file several times.
const NONE: Patience = Patience { quiet: Duration::ZERO, more: Duration::ZERO };
/// How often who has no thread to wait with tries again.
const TRY_EVERY: Duration = Duration::from_millis(2);

static BRIEFLY: AtomicBool = AtomicBool::new(false);
/// Files that somebody in this process has waited for in vain, and did not get since.
static GIVEN_UP: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// From now on this process waits for two seconds at most: it only looks at the home.
pub fn wait_briefly() {
    BRIEFLY.store(true, Ordering::Relaxed);
}

/// How long this process waits for another that is in the middle of a commit of the database.
pub(in crate::kms) fn patience_with_database() -> Duration {
    if waits_briefly() { BRIEF.quiet } else { USUAL.quiet }
}

/// Whether this process only looks.
pub(in crate::kms) fn waits_briefly() -> bool {
    BRIEFLY.load(Ordering::Relaxed)
}

/// As if somebody in this process had waited for the file in vain.
#[cfg(test)]
pub(in crate::kms) fn give_up(path: &Path) {
    lock(&GIVEN_UP).push(path.to_owned());
}

/// A file that this process holds; others get it when this is dropped, or the process ends.
#[derive(Debug)]
pub(in crate::kms) struct LockFile(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl LockFile {
    /// Waits until nobody else holds the file at `path`, which is made if absent.
    ///
    /// # Errors
    /// [`Held`] as `TimedOut`; those of the system.
    pub fn acquire(path: &Path) -> io::Result<Self> {
        let given_up = lock(&GIVEN_UP).iter().any(|other| other == path);
        let acquired = Self::acquire_within(path, Patience::of(waits_briefly(), given_up));
        let held = matches!(&acquired, Err(error) if is_held(error));
        if held != given_up {
            let mut all = lock(&GIVEN_UP);
            all.retain(|other| other != path);
            all.extend(held.then(|| path.to_owned()));
        }
        acquired
    }

    fn acquire_within(path: &Path, patience: Patience) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let file = match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => file,
            Err(rustix::io::Errno::WOULDBLOCK) => wait(path, file, patience)?,
            Err(other) => return Err(other.into()),
        };
        // Of one width, so that it replaces what another wrote. On a full disk nobody is told who holds it.
        if let Err(error) = file.write_all_at(format!("pid={:<10}\n", std::process::id()).as_bytes(), 0) {
            tracing::debug!("{}: {error}", path.display());
        }
        Ok(Self(file))
    }
}

/// Who waits for a file.
enum Waiter {
    /// A thread, which has a place in the kernel's queue; if nobody waits for it any more it lets go of the file at once.
    Thread(Receiver<io::Result<File>>),
    /// The caller, by trying again and again: the system gives no thread.
    Caller(Option<File>),
}

impl Waiter {
    fn of(file: File) -> io::Result<Self> {
        let (sender, answer) = channel();
        let second = file.try_clone();
        let thread = threads::spawn("kms-lock", move || {
            run_like_the_first_thread(None);
            let locked = rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive));
            let _ = sender.send(locked.map(|()| file).map_err(io::Error::from));
        });
        match thread {
            Ok(_) => Ok(Self::Thread(answer)),
            Err(error) => second.map(|file| Self::Caller(Some(file))).map_err(|_| error),
        }
    }

    /// The file, if it can be had within `time`.
    fn within(&mut self, time: Duration) -> Option<io::Result<File>> {
        match self {
            Self::Thread(answer) => match answer.recv_timeout(time) {
                Ok(locked) => Some(locked),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    Some(Err(io::Error::other("the thread that waited for a lock ended")))
                }
            },
            Self::Caller(file) => {
                let began = Instant::now();
                loop {
                    let locked = flock(file.as_ref()?, FlockOperation::NonBlockingLockExclusive);
                    match locked {
                        Ok(()) => return file.take().map(Ok),
                        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) if began.elapsed() < time => {
                            std::thread::sleep(TRY_EVERY);
                        }
                        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => return None,
                        Err(other) => return Some(Err(other.into())),
                    }
                }
            }
        }
    }
}

/// Waits for a file that somebody else holds.
fn wait(path: &Path, file: File, patience: Patience) -> io::Result<File> {
    if patience.quiet.is_zero() {
        return Err(Held::of(path, BRIEF.quiet));
    }
    let mut waiter = Waiter::of(file)?;
    if let Some(answered) = waiter.within(patience.quiet) {
        return answered;
    }
    if !patience.more.is_zero() {
        let holder = Holder::of(path);
        tracing::warn!(
            "waiting for {}, which {holder} has held for {} s{}",
            path.display(),
            patience.quiet.as_secs(),
            holder.advice()
        );
    }
    waiter.within(patience.more).unwrap_or_else(|| Err(Held::of(path, patience.quiet + patience.more)))
}

/// Whether an error says that somebody else holds a lock file.
pub(in crate::kms) fn is_held(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Held>())
}

/// Somebody else holds a lock file for longer than anything takes.
#[derive(Debug, thiserror::Error)]
#[error("{holder} has held it for more than {} s{}", .waited.as_secs(), .holder.advice())]
pub struct Held {
    holder: Holder,
    waited: Duration,
}

impl Held {
    fn of(path: &Path, waited: Duration) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, Self { holder: Holder::of(path), waited })
    }

    /// Of what `pid` holds, if that is known, and somebody has waited for as long as the database is waited for.
    pub(in crate::kms) fn by(pid: Option<u32>, path: &Path) -> Self {
        Self { holder: Holder::by(pid, path), waited: patience_with_database() }
    }
}

/// Who holds a file, as far as the file and the system tell.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    path: PathBuf,
    pid: Option<u32>,
    /// Its program's name.
    name: Option<String>,
    /// It was stopped, by a signal or a debugger.
    stopped: bool,
}

impl Holder {
    fn of(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        Self::by(text.trim_end().strip_prefix("pid=").and_then(|pid| pid.trim_end().parse().ok()), path)
    }

    fn by(pid: Option<u32>, path: &Path) -> Self {
        let stat = pid.and_then(|pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok());
        // `123 (name) T ...`, where the name may hold anything.
        let found = stat.as_deref().and_then(|stat| stat.split_once('(')?.1.rsplit_once(") "));
        let path = path.to_owned();
        let Some((name, fields)) = found else { return Self { path, pid: None, name: None, stopped: false } };
        Self { path, pid, name: Some(name.to_owned()), stopped: fields.starts_with(['T', 't']) }
    }

    /// What to do about it.
    fn advice(&self) -> String {
        match (self.pid, self.stopped) {
            (Some(pid), true) => format!(": it is stopped; continue it with: kill -CONT {pid}"),
            (Some(pid), false) => {
                format!(": if it hangs, end it with: kill -KILL {pid} (nothing that was acknowledged is lost)")
            }
            (None, _) => format!(": list who has it open with: fuser -v {}", self.path.display()),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.name) {
            (Some(pid), Some(name)) => write!(f, "process {pid} ({name})"),
            _ => f.write_str("another process"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::thread;

    const SHORT: Patience = Patience { quiet: Duration::from_millis(20), more: Duration::from_millis(20) };

    #[test]
    fn who_waits_in_vain_is_told_for_whom() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("lock");
        // A longer content of another time.
        std::fs::write(&path, "pid=4294967295\n").expect("written");
        let held = LockFile::acquire_within(&path, SHORT).expect("free");
        let error = LockFile::acquire_within(&path, SHORT).expect_err("held");
        assert!(is_held(&error) && error.kind() == io::ErrorKind::TimedOut, "{error}");
        let (text, own) = (error.to_string(), std::process::id());
        assert!(text.starts_with(&format!("process {own} (")) && text.contains(&format!("kill -KILL {own}")), "{text}");
        drop(held);
        LockFile::acquire_within(&path, SHORT).expect("free again");
    }

    #[test]
    fn who_only_looks_waits_once() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("lock");
        let _held = LockFile::acquire_within(&path, SHORT).expect("free");
        let began = Instant::now();
        let error = LockFile::acquire_within(&path, Patience::of(true, true)).expect_err("held");
        assert!(began.elapsed() < BRIEF.quiet / 2, "it waited again: {:?}", began.elapsed());
        assert!(is_held(&error) && error.to_string().contains("more than 2 s"), "{error}");
        assert_eq!(Patience::of(true, false).quiet, BRIEF.quiet);
        assert_eq!(Patience::of(false, true).quiet, BRIEF.quiet);
    }

    #[test]
    fn who_gets_no_thread_to_wait_with_tries_until_it_is_free() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("lock");
        let held = LockFile::acquire(&path).expect("free");
        let mut waiter = Waiter::Caller(Some(File::open(&path).expect("there")));
        assert!(waiter.within(Duration::from_millis(20)).is_none(), "somebody has it");
        let release = thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            drop(held);
        });
        let got = waiter.within(Duration::from_secs(20)).expect("free").expect("locked");
        release.join().expect("no panic");
        assert!(LockFile::acquire_within(&path, SHORT).is_err(), "it is held");
        drop(got);
        LockFile::acquire_within(&path, SHORT).expect("free again");
    }

    #[test]
    fn who_waits_gets_it_when_it_is_free() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("lock");
        let held = LockFile::acquire(&path).expect("free");
        let waiting = {
            let path = path.clone();
            std::thread::spawn(move || LockFile::acquire(&path).map(drop))
        };
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        drop(held);
        waiting.join().expect("no panic").expect("free");
    }

    #[test]
    fn a_stopped_process_is_named_with_what_continues_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("lock");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a process");
        let pid = child.id();
        std::fs::write(&path, format!("pid={pid:<10}\n")).expect("written");
        let raw = rustix::process::Pid::from_raw(pid.cast_signed()).expect("not 0");
        rustix::process::kill_process(raw, rustix::process::Signal::STOP).expect("stopped");
        while !Holder::of(&path).stopped {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(Holder::of(&path).advice().ends_with(&format!("kill -CONT {pid}")));
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert_eq!(Holder::of(&path).to_string(), "another process");
    }
}
