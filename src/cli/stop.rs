//! The end of a mount by a signal, within a bound: [`GRACE`] for whoever uses it to let go, then [`STORE`] for what they
//! have written.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};

use super::exit::Exit;
use super::mounts::{self, Mount};
use super::umount::{unmount_at, words};
use crate::kms::Engine;
use crate::sync::{Arc, Mutex, lock};
use crate::sys::process::SignalSet;
use crate::sys::reserve;
use crate::sys::threads;

/// How long a mount that is in use stays after the first signal.
const GRACE: Duration = Duration::from_secs(10);
/// How long it may then take until everything is stored that was written and not synced.
const STORE: Duration = Duration::from_secs(10);
/// How long of that may pass until the kernel has handed over what it was about to.
const REQUESTS: Duration = Duration::from_secs(2);
/// How often an unmount is tried that is refused as busy.
const PAUSE: Duration = Duration::from_millis(200);

/// Held by who ends the process under the users of a mount, so that nobody else takes that for an unmount.
#[derive(Clone, Default)]
pub struct LastWord(Arc<Mutex<()>>);

impl LastWord {
    /// Returns unless the process is being ended, which from then on nobody else does.
    pub fn take(&self) {
        std::mem::forget(lock(&self.0));
    }
}

/// What ends a mount when a signal comes.
pub struct Stop {
    /// The signals.
    pub signals: SignalSet,
    /// The mountpoint.
    pub mountpoint: PathBuf,
    /// Whose audit log is written before the end.
    pub engine: Engine,
    /// Who ends the process.
    pub last: LastWord,
    /// The mount as it was made: another may take its place when it is detached.
    pub mount: Option<Mount>,
}

impl Stop {
    /// Waits for a signal and unmounts, as soon as nothing is in use. What still is after [`GRACE`] is stored and cut off:
    /// its users get errors, the process ends with [`Exit::Busy`]. A second signal cuts it off at once. `store` makes durable
    /// what programs have written, and answers in how many files that failed.
    pub fn on_signal(&self, store: impl FnOnce() -> usize + Send + 'static) {
        self.signals.wait();
        tracing::info!("unmounting on a signal");
        let place = self.mountpoint.display();
        let mut waited = Duration::ZERO;
        while waited <= GRACE {
            match self.unmount() {
                // The serving threads end, and the process with them.
                Ok(()) => break,
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
                Err(e) => {
                    tracing::error!("cannot unmount {place}: {e}");
                    break;
                }
            }
            if waited.is_zero() {
                let holders = self.mount.as_ref().map(mounts::holders).unwrap_or_default();
                let by = if self.is_covered() { "by another mount on it".to_owned() } else { words(&holders) };
                let grace = GRACE.as_secs();
                tracing::warn!("{place} is in use {by}; it ends in {grace} seconds at the latest");
            }
            if self.signals.wait_for(PAUSE).is_some() {
                self.end_at_once();
            }
            waited += PAUSE;
        }
        // Unmounted, the mount ends, unless it goes on elsewhere: detached before, under another name, in another namespace.
        if waited <= GRACE && self.signals.wait_for(GRACE).is_some() {
            self.end_at_once();
        }
        self.store_and_end(store);
    }

    /// Whether somebody has mounted another filesystem on this one.
    fn is_covered(&self) -> bool {
        let top = mounts::at(&self.mountpoint).ok().flatten();
        top.is_some_and(|top| self.mount.as_ref().is_some_and(|own| own.device != top.device))
    }

    fn unmount(&self) -> io::Result<()> {
        if self.is_covered() {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        unmount_at(&self.mountpoint, false)
    }

    fn end_at_once(&self) -> ! {
        self.end(Exit::Failure, "ended by a second signal; files that were open may lack their last writes")
    }

    fn store_and_end(&self, store: impl FnOnce() -> usize + Send + 'static) -> ! {
        let why = match self.within_bound(store) {
            Ok(0) => "still in use: ended; what was written until then is stored".to_owned(),
            Ok(failed) => format!("still in use: ended; {failed} open files lack their last writes"),
            Err(late) => format!("still in use: ended; files that were open may lack their last writes: {late}"),
        };
        self.end(Exit::Busy, &why)
    }

    /// Stores what was written. In a thread: it waits for the mount's own threads.
    fn within_bound(&self, store: impl FnOnce() -> usize + Send + 'static) -> Result<usize, String> {
        let mountpoint = self.mountpoint.clone();
        let (done, wait) = channel();
        let connection = self.connection();
        let work = move || {
            let _ = done.send(stored(&mountpoint, &connection, store));
        };
        // Nothing is held back for later any more.
        reserve::of_this_process().give_up();
        threads::spawn("kmsfs-store", work).map_err(|e| e.to_string())?;
        let deadline = Instant::now() + STORE;
        loop {
            match wait.recv_timeout(PAUSE) {
                Ok(stored) => return stored.map_err(|e| e.to_string()),
                Err(RecvTimeoutError::Disconnected) => return Err("storing them failed".to_owned()),
                Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                    return Err(format!("storing them took more than {} seconds", STORE.as_secs()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.signals.wait_for(Duration::ZERO).is_some() {
                self.end_at_once();
            }
        }
    }

    /// Number of the mount's device; empty if it is not known.
    fn device(&self) -> &str {
        self.mount.as_ref().map_or("", |mount| &mount.device)
    }

    /// Where the kernel shows the connection of the mount, and takes orders for it.
    fn connection(&self) -> PathBuf {
        Path::new("/sys/fs/fuse/connections").join(self.device().rsplit(':').next().unwrap_or_default())
    }

    /// Takes the mount away and ends its connection. A thread that waits for the kernel, which waits for this process, could
    /// not be ended otherwise, and would keep the connection from ending with it.
    fn cut_off(&self) -> io::Result<()> {
        let there = mounts::at(&self.mountpoint).ok().flatten().is_some_and(|mount| mount.device == self.device());
        let flags = UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        if there && rustix::process::geteuid().is_root() && unmount(&self.mountpoint, flags).is_ok() {
            return Ok(());
        }
        let detached = if there { unmount_at(&self.mountpoint, true) } else { Ok(()) };
        // Belongs to the user who has mounted it.
        fs::write(self.connection().join("abort"), "1").and(detached)
    }

    /// Ends the process without waiting for the users of the mount. The lock goes with it; the next mount sees that this one
    /// did not end by an unmount, and finishes what was under way.
    fn end(&self, exit: Exit, why: &str) -> ! {
        let _last = lock(&self.last.0);
        if let Err(e) = self.engine.audit().flush() {
            tracing::error!("the audit log could not be written: {e}");
        }
        tracing::error!("{}: {why}", self.mountpoint.display());
        // Or a dead mountpoint would stay behind.
        if let Err(e) = self.cut_off() {
            tracing::debug!("cannot detach {}: {e}", self.mountpoint.display());
        }
        std::process::exit(i32::from(exit.code()));
    }
}

/// Stores what was written, and answers in how many files that failed. What keeps one of them from being written back keeps none of
/// the others from it.
fn stored(mountpoint: &Path, connection: &Path, store: impl FnOnce() -> usize) -> io::Result<usize> {
    let root = File::open(mountpoint);
    let sync = || match &root {
        Ok(root) => Ok(rustix::fs::syncfs(root)?),
        Err(e) => Err(io::Error::from(e.kind())),
    };
    // On a FUSE mount this only begins to write back, which is why it is not enough; but it does so in large requests.
    let begun = sync();
    wait_for_requests(connection);
    let failed = store();
    // Nothing is left to do, but this tells of what has failed since the root was opened.
    match begun.and_then(|()| sync()) {
        Err(e) if failed == 0 => Err(e),
        _ => Ok(failed),
    }
}

/// Waits until no request is under way, [`REQUESTS`] at most, as programs go on. Before Linux 6.16 the kernel takes a page for written as soon as
/// its request is queued, and does not wait for that when it drops the page.
fn wait_for_requests(connection: &Path) {
    let deadline = Instant::now() + REQUESTS;
    let none = || fs::read_to_string(connection.join("waiting")).is_ok_and(|count| count.trim() == "0");
    while connection.exists() && !none() && Instant::now() < deadline {
        std::thread::sleep(PAUSE / 10);
    }
}
