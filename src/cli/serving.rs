//! Serving a mount: from the opened volume to the end of the daemon.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::fs::Mode;
use serde_json::json;

use super::control::rewrap::Served;
use super::control::server::ControlSocket;
use super::daemon::{self, Readiness, notify_systemd};
use super::exit::{CliError, CliResult, Exit, thread_remedy};
use super::mount_options::MountOptions;
use super::mounts;
use super::offline::{self, Unlocked};
use super::output::path_text;
use super::session::Session;
use super::settings::Settings;
use super::stop::{LastWord, Stop};
use crate::fuse::{MountSpec, PageCache, Statistics, Transport, serve};
use crate::kms::Engine;
use crate::ops::config;
use crate::ops::freshness::{OwnRecord, own_record};
use crate::ops::lock::VolumeLock;
use crate::ops::open::{FoundVolume, OpenOptions};
use crate::store::LocalDir;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Condvar, Mutex, lock, thread};
use crate::sys::process::SignalSet;
use crate::sys::reserve;
use crate::sys::threads;
use crate::vfs::{Options, Vfs};

/// How long names and versions may have changed before they are settled in the freshness record (ADR 12).
const SETTLE_EVERY: Duration = Duration::from_secs(30);
/// How often a mount with `key-state=strict` asks whether its keys may still be used: the key manager in this process, which
/// is free, and one elsewhere, where it is a call for each key.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_ELSEWHERE_EVERY: Duration = Duration::from_secs(3);
/// How often data keys that nobody asked for within the cache time are wiped.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Reads of a unit before it counts as damaged: a read-only mount may stand beside a writer (FORMAT 7).
const READ_ATTEMPTS_BESIDE_A_WRITER: u32 = 3;

/// A mount that is about to be made.
pub struct Serving<'a> {
    /// The settings.
    pub settings: &'a Settings,
    /// The mountpoint, without symbolic links.
    pub mountpoint: PathBuf,
    /// The mount options.
    pub options: MountOptions,
    /// Requests handled at once.
    pub threads: usize,
    /// Who waits for the mount to be usable.
    pub ready: Readiness,
    /// The log of a daemon.
    pub log: Option<File>,
    /// The signals that end the mount.
    pub signals: SignalSet,
}

impl Serving<'_> {
    /// Opens the volume, mounts it, and serves until it is unmounted.
    /// `volume_lock` is held until everything is written.
    pub fn run(
        self,
        session: Session,
        found: FoundVolume,
        volume_lock: Option<VolumeLock>,
        accepted: OpenOptions,
    ) -> CliResult {
        let root = found.root().to_owned();
        let mut read_only = self.options.read_only;
        // Before anything that is larger the longer it serves.
        reserve::of_this_process().hold().map_err(|e| self.unserved(&e))?;
        let Unlocked { session, service, opened } = offline::unlock_with(session, found, accepted)?;
        if opened.config.read_only() && !read_only {
            self.settings.out.warning("the volume uses a feature that this version may only read: mounting read-only");
            read_only = true;
        }
        daemon::raise_fsize();
        let meta = Arc::new(config::open_meta(&root)?);
        let volume_id = opened.config.volume_id;
        let attempts = if read_only { READ_ATTEMPTS_BESIDE_A_WRITER } else { 1 };
        let purpose = format!("{} of {}", mounts::lock_purpose(&self.mountpoint), root.display());
        let (record, record_lock) = match own_record(&self.settings.home, &opened, &purpose)? {
            Some(OwnRecord { fresh, lock }) => (Some(fresh), Some(lock)),
            None => (None, None),
        };
        let settles = record.is_some() && !read_only;
        let keys = offline::data_keys(Arc::clone(&service), opened);
        let keys = if self.options.strict_keys { keys.watching() } else { keys };
        let keys = keys.remembering_for(self.options.key_cache);
        let volume = offline::files(keys, attempts, record);
        let swept = Arc::clone(&volume);
        let sweep = move || {
            swept.keys.sweep();
        };
        let sweeper = Every::start(SWEEP_EVERY, sweep).map_err(|e| self.unserved(&e))?;
        let strict_ids = self.options.strict_ids;
        let privileged = rustix::process::geteuid().is_root();
        let mut options = Options { read_only, strict_ids, ..Options::for_programs(privileged) };
        if self.options.strict_keys || self.options.transport == Transport::Fuser {
            // There the kernel shows the times that it is told, and would show those of a header that is being written.
            options.raise_after = None;
        }
        let backing = offline::backing(&root)?;
        let vfs = Vfs::new(backing, Arc::clone(&volume), options).map_err(|e| refused(&root, &e))?;
        let vfs = Arc::new(vfs);
        if !read_only {
            config::refresh_copy(&root, &meta)?;
            if !config::begin_writing(&root, &meta)? {
                tracing::info!("first mount, or the last one did not end by an unmount");
            }
            vfs.recover_intents().map_err(|e| refused(&root, &e))?;
        }
        // The kernel applies the caller's mask; this process must not add its own.
        rustix::process::umask(Mode::empty());
        tracing::info!(volume = %volume_id, read_only, "mounting {} at {}", root.display(), self.mountpoint.display());
        let registry = session.engine.registry();
        let statistics = Arc::new(Statistics::default());
        let (shared, counts) = (Arc::clone(&vfs), Arc::clone(&statistics));
        let served = Served {
            vfs: shared,
            volume,
            service,
            registry,
            root: root.clone(),
            meta: Arc::clone(&meta),
            read_only,
            statistics: counts,
        };
        let control = ControlSocket::start(&self.settings.home, served, &self.mountpoint)
            .inspect_err(|e| tracing::warn!("no control socket, so rewrap needs an unmount: {e}"));
        let settled = Arc::clone(&vfs);
        let settler = settles.then(|| Every::start(SETTLE_EVERY, move || settle(&settled)));
        let settler = settler.transpose().map_err(|e| self.unserved(&e))?;
        let served = self.serve(Arc::clone(&vfs), &root, read_only, statistics, session.engine.clone());
        drop((settler, sweeper));
        // A job ends before the volume counts as cleanly unmounted, and before its lock is free.
        drop(control);
        vfs.end_raising();
        if let Err(error) = vfs.settle() {
            tracing::error!("the freshness record was not settled, the next mount takes in what has changed: {error}");
        }
        if served.is_ok() && !read_only {
            config::end_writing(&root, &meta)?;
        }
        session.engine.audit().flush()?;
        tracing::info!(volume = %volume_id, "unmounted {}", root.display());
        drop((record_lock, volume_lock));
        served
    }

    fn unserved(&self, error: &io::Error) -> CliError {
        not_mounted(&self.mountpoint, error, self.options.allow_other)
    }

    fn look_every(&self) -> Duration {
        if self.settings.kms_endpoint.is_some() { LOOK_ELSEWHERE_EVERY } else { LOOK_EVERY }
    }

    fn serve(
        self,
        vfs: Arc<Vfs<LocalDir>>,
        root: &Path,
        read_only: bool,
        statistics: Arc<Statistics>,
        engine: Engine,
    ) -> CliResult {
        let spec = MountSpec {
            mountpoint: self.mountpoint.clone(),
            source: root.into(),
            read_only,
            allow_other: self.options.allow_other,
            suid: self.options.suid,
            dev: self.options.dev,
            exec: self.options.exec,
            write_through: self.options.strict_keys,
            threads: self.threads,
            transport: self.options.transport,
        };
        let mounted = Arc::new(AtomicBool::new(false));
        let look_every = self.options.strict_keys.then_some(self.look_every());
        let (out, signals, mountpoint) = (self.settings.out, self.signals, self.mountpoint.clone());
        let (mut ready, log) = (self.ready, self.log);
        let flag = Arc::clone(&mounted);
        let (warden, watched) = (Arc::new(Mutex::new(None)), Arc::clone(&vfs));
        let started = Arc::clone(&warden);
        let last = LastWord::default();
        let ended = last.clone();
        let served = serve(vfs, &spec, statistics, move |pages| {
            let (stored, cache) = (Arc::clone(&watched), pages.clone());
            let store = move || {
                let failed = stored.store_all(&|ino| cache.drop_pages(ino));
                // The process ends without an unmount, and this is the last time that names and versions can be recorded.
                settle(&stored);
                failed
            };
            if let Some(time) = look_every {
                *lock(&started) = Some(Warden::start(time, watched, pages)?);
            }
            let waiting = mountpoint.clone();
            threads::spawn("kmsfs-signals", move || {
                let mount = mounts::at(&waiting).ok().flatten();
                Stop { signals, mountpoint: waiting, engine, last, mount }.on_signal(store);
            })?;
            flag.store(true, Ordering::SeqCst);
            let value =
                json!({"message_type": "mounted", "source": path_text(root), "mountpoint": path_text(&mountpoint)});
            out.note(format_args!("Mounted {} at {}.", root.display(), mountpoint.display()));
            if out.is_json() {
                out.line(&value, String::new);
            }
            if let Err(e) = ready.announce(log) {
                tracing::error!("cannot leave the terminal: {e}");
            }
            Ok(())
        });
        ended.take();
        lock(&warden).take();
        notify_systemd("STOPPING=1");
        match served {
            Ok(()) => Ok(Exit::Ok),
            Err(e) if mounted.load(Ordering::SeqCst) => Err(CliError::failure(format_args!("the mount ended: {e}"))),
            Err(e) => Err(not_mounted(&self.mountpoint, &e, self.options.allow_other)),
        }
    }
}

/// Does something now and then, until it is dropped.
struct Every {
    ended: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Every {
    /// Does `work` every `time`, in a thread of its own.
    ///
    /// # Errors
    /// Those of starting a thread.
    fn start(time: Duration, work: impl Fn() + Send + 'static) -> io::Result<Self> {
        let ended = Arc::new((Mutex::new(false), Condvar::new()));
        let shared = Arc::clone(&ended);
        let thread = threads::spawn("kmsfs-every", move || {
            let (flag, wake) = &*shared;
            let mut ended = lock(flag);
            while !*ended {
                let waited = wake.wait_timeout(ended, time).unwrap_or_else(|poisoned| poisoned.into_inner());
                ended = waited.0;
                if !*ended && waited.1.timed_out() {
                    drop(ended);
                    work();
                    ended = lock(flag);
                }
            }
        })?;
        Ok(Self { ended, thread: Some(thread) })
    }
}

impl Drop for Every {
    fn drop(&mut self) {
        *lock(&self.ended.0) = true;
        self.ended.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Looks after the keys of a mount with `key-state=strict`, until it is dropped.
struct Warden {
    looking: Option<Every>,
    flushing: Option<thread::JoinHandle<()>>,
}

impl Warden {
    /// Looks every `time`. What was written to files whose keys are gone is flushed by a thread of its own: a slow disk delays
    /// neither the next look nor the next key.
    ///
    /// # Errors
    /// Those of starting a thread.
    fn start(time: Duration, vfs: Arc<Vfs<LocalDir>>, pages: PageCache) -> io::Result<Self> {
        let (sender, closed) = channel();
        let flushed = Arc::clone(&vfs);
        let flush = move || closed.into_iter().for_each(|files| flushed.flush(files));
        let flushing = threads::spawn("kmsfs-flush", flush)?;
        let looking = Every::start(time, move || {
            let unflushed = vfs.enforce_keys(&|ino| pages.drop_pages(ino));
            if !unflushed.is_empty() {
                // It is received as long as this thread lives.
                let _ = sender.send(unflushed);
            }
        })?;
        Ok(Self { looking: Some(looking), flushing: Some(flushing) })
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        // With it the queue ends.
        drop(self.looking.take());
        if let Some(thread) = self.flushing.take() {
            let _ = thread.join();
        }
    }
}

/// Settles the freshness record.
fn settle(vfs: &Vfs<LocalDir>) {
    if let Err(error) = vfs.settle() {
        tracing::error!("the freshness record cannot be settled: {error}");
    }
}

/// What a volume that opened is not served for: damage, or what the system refuses.
fn refused(root: &Path, error: &crate::vfs::Error) -> CliError {
    match error {
        crate::vfs::Error::Os(errno) => CliError::io(root, "serve the volume at", &io::Error::from(*errno)),
        _ => CliError::new(Exit::Integrity, "VolumeDamaged", format_args!("{}: {error}", root.display()))
            .hint(format_args!("list what is damaged with: kmsfs verify {}", root.display())),
    }
}

fn not_mounted(mountpoint: &Path, e: &io::Error, allow_other: bool) -> CliError {
    let error =
        CliError::new(Exit::Mountpoint, "MountFailed", format_args!("cannot mount at {}: {e}", mountpoint.display()));
    if let Some(next) = thread_remedy(e) {
        return error.hint(next);
    }
    if allow_other && !rustix::process::geteuid().is_root() {
        return error.hint("for -o allow_other /etc/fuse.conf must have the line user_allow_other");
    }
    error.hint("kmsfs doctor looks for the cause")
}
