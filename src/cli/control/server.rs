//! The mount's end of the control socket.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::Serialize;

use super::rewrap::{Served, rewrap};
use super::wire::{
    Answer, Counts, MAX_REQUEST, MountStatistics, MountStatus, OperationStatistics, Request, RewrapRequest,
    RewrapSummary, VerifySummary,
};
use super::{RunDir, SUFFIX, socket_name};
use crate::cli::exit::{CliError, CliResult, Exit};
use crate::cli::output::path_text;
use crate::keys::KeyService;
use crate::ops::impact::{Impact, impact};
use crate::ops::rewrap::RewrapOptions;
use crate::ops::verify::{ReadFile, VerifyOptions, verify_by};
use crate::ops::{Progress, Visit};
use crate::store::Backing;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, lock, thread};
use crate::sys::peer::peer_uid;
use crate::sys::threads;
use crate::types::{KeyArn, VolumeId};

/// A client must have sent its request by then.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// A client must take an answer by then, or it counts as gone.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How often a wait looks whether the mount ends.
const SLICE: Duration = Duration::from_millis(100);
/// Time between two progress lines.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// Connections at once; a status takes milliseconds, and there is one rewrap at a time.
const MAX_CONNECTIONS: usize = 16;
/// Threads of a job at most, as on the command line.
const MAX_THREADS: u16 = 256;

/// The control socket of this process; it is removed, and the job that it started is stopped, when this is dropped.
pub struct ControlSocket {
    dir: RunDir,
    name: String,
    stop: Arc<AtomicBool>,
    /// Closed to wake the thread that accepts.
    wake: Option<OwnedFd>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What a mount tells of itself.
struct Context<B: Backing> {
    served: Served<B>,
    volume: VolumeId,
    mountpoint: PathBuf,
    started: Instant,
    stop: Arc<AtomicBool>,
    connections: AtomicUsize,
    rewrapping: AtomicBool,
}

impl ControlSocket {
    /// Listens under the key manager's `home` for requests to the mount at `mountpoint`. Sockets that dead mounts left
    /// are removed.
    ///
    /// # Errors
    /// The system's error; the mount can do without.
    pub fn start<B: Backing>(home: &Path, served: Served<B>, mountpoint: &Path) -> io::Result<Self> {
        let dir = RunDir::make(home)?;
        remove_dead(&dir);
        let volume = served.volume.keys.volume().config.volume_id;
        let name = socket_name(&volume, std::process::id());
        let path = dir.short_path(&name);
        let listener = UnixListener::bind(&path)?;
        // Nobody else can enter the directory in the meantime.
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let (sleep, wake) = pipe_with(PipeFlags::CLOEXEC)?;
        let stop = Arc::new(AtomicBool::new(false));
        let context = Context {
            served,
            volume,
            mountpoint: mountpoint.to_owned(),
            started: Instant::now(),
            stop: Arc::clone(&stop),
            connections: AtomicUsize::new(0),
            rewrapping: AtomicBool::new(false),
        };
        let accept = move || context.accept(&listener, &sleep);
        let thread = threads::spawn("kmsfs-control", accept);
        let thread = thread.inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok(Self { dir, name, stop, wake: Some(wake), thread: Some(thread) })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.dir.short_path(&self.name));
        self.stop.store(true, Ordering::SeqCst);
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by its own thread.
            let _ = thread.join();
        }
    }
}

/// Removes sockets at which nobody listens.
fn remove_dead(dir: &RunDir) {
    for name in dir.sockets().unwrap_or_default() {
        debug_assert!(name.ends_with(SUFFIX));
        let path = dir.short_path(&name);
        if UnixStream::connect(&path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
            let _ = fs::remove_file(&path);
        }
    }
}

impl<B: Backing> Context<B> {
    fn accept(&self, listener: &UnixListener, sleep: &OwnedFd) {
        std::thread::scope(|scope| {
            while !self.stop.load(Ordering::SeqCst) {
                let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(sleep, PollFlags::IN)];
                if poll(&mut fds, None).is_err() {
                    continue;
                }
                match listener.accept() {
                    Ok((stream, _)) => {
                        let number = self.connections.fetch_add(1, Ordering::SeqCst) + 1;
                        let serve = move |stream| {
                            self.connection(stream, number);
                            self.connections.fetch_sub(1, Ordering::SeqCst);
                        };
                        let second = stream.try_clone();
                        if let Err(e) = threads::spawn_scoped(scope, move || serve(stream)) {
                            tracing::debug!("no thread for a connection to the control socket: {e}");
                            // Here, then: what takes long needs a thread of its own besides, and says that it lacks.
                            match second {
                                Ok(stream) => serve(stream),
                                Err(_) => drop(self.connections.fetch_sub(1, Ordering::SeqCst)),
                            }
                        }
                    }
                    Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                    Err(e) => {
                        // Out of descriptors, perhaps: it passes.
                        tracing::warn!("the control socket does not accept: {e}");
                        std::thread::sleep(SLICE);
                    }
                }
            }
        });
    }

    /// `number`: of the connections that there are now.
    fn connection(&self, stream: UnixStream, number: usize) {
        let client = Client { stream: Mutex::new(stream) };
        let done = if number > MAX_CONNECTIONS {
            Err(CliError::new(Exit::Busy, "TooManyRequests", "the mount has too many requests at once"))
        } else {
            self.serve(&client)
        };
        if let Err(error) = done {
            tracing::debug!("a control request failed: {error}");
            client.send(&error.to_json());
        }
    }

    fn serve(&self, client: &Client) -> CliResult<()> {
        let failed = |e: io::Error| CliError::failure(format_args!("the control socket: {e}"));
        let reader = {
            let stream = lock(&client.stream);
            // What accept(2) gives does not inherit the listener's mode on Linux, but other systems differ.
            stream.set_nonblocking(false).map_err(failed)?;
            stream.set_write_timeout(Some(ANSWER_TIME)).map_err(failed)?;
            stream.set_read_timeout(Some(SLICE)).map_err(failed)?;
            let uid = peer_uid(&stream).map_err(failed)?;
            if uid != 0 && uid != rustix::process::geteuid().as_raw() {
                return Err(CliError::new(Exit::AccessDenied, "AccessDenied", "the mount belongs to another user"));
            }
            stream.try_clone().map_err(failed)?
        };
        let Some(line) = self.request(&reader)? else { return Ok(()) };
        let request = serde_json::from_slice(&line)
            .map_err(|e| CliError::usage(format_args!("not a request that this version knows: {e}")))?;
        let answer = match request {
            Request::Status {} => Answer::Status(self.status()),
            Request::Statistics {} => Answer::Statistics(self.statistics()),
            Request::Rewrap(request) => Answer::Rewrapped(self.rewrap(client, &reader, &request)?),
            Request::Verify { threads } => Answer::Verified(self.verify(client, &reader, threads)?),
            Request::Impact { key } => Answer::Impact(self.impact(client, &reader, &key)?),
        };
        client.send(&answer);
        Ok(())
    }

    /// The request's line; `None` if the client hung up without one.
    fn request(&self, mut stream: &UnixStream) -> CliResult<Option<Vec<u8>>> {
        let until = Instant::now() + REQUEST_TIME;
        let mut line = Vec::new();
        let mut chunk = [0; 1024];
        loop {
            match stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(n) => line.extend_from_slice(&chunk[..n]),
                Err(e) if is_pause(&e) => {}
                Err(_) => return Ok(None),
            }
            if let Some(end) = line.iter().position(|&b| b == b'\n') {
                line.truncate(end);
                return Ok(Some(line));
            }
            if line.len() >= MAX_REQUEST {
                return Err(CliError::usage(format_args!("a request has {MAX_REQUEST} bytes at most")));
            }
            if self.stop.load(Ordering::SeqCst) || Instant::now() >= until {
                return Err(CliError::usage(format_args!("no request within {} seconds", REQUEST_TIME.as_secs())));
            }
        }
    }

    fn status(&self) -> MountStatus {
        let vfs = &self.served.vfs;
        MountStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            volume_id: self.volume.to_string(),
            source: path_text(&self.served.root).into_owned(),
            mountpoint: path_text(&self.mountpoint).into_owned(),
            read_only: self.served.read_only,
            uptime_seconds: self.started.elapsed().as_secs(),
            open_files: vfs.open_files() as u64,
            known_inodes: vfs.known_inodes() as u64,
            rewrapping: self.rewrapping.load(Ordering::SeqCst),
        }
    }

    fn statistics(&self) -> MountStatistics {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let operations = self.served.statistics.operations().into_iter().map(|one| OperationStatistics {
            operation: one.name.to_owned(),
            count: one.count,
            errors: one.errors,
            bytes: one.bytes,
            total_us: micros(one.total),
            p50_us: micros(one.median),
            p90_us: micros(one.p90),
            p99_us: micros(one.p99),
            max_us: micros(one.longest),
        });
        let keys = self.served.volume.keys.counts();
        MountStatistics {
            uptime_seconds: self.started.elapsed().as_secs(),
            operations: operations.collect(),
            data_keys_reused: keys.reused,
            data_keys_unwrapped: keys.unwrapped,
            data_keys_made: keys.made,
            data_keys_failed: keys.failed,
        }
    }

    /// Does a job, and tells the client how far it is.
    ///
    /// # Errors
    /// Those of starting a thread.
    fn job<R>(&self, client: &Client, reader: &UnixStream, work: impl FnOnce(&Job<'_>) -> R) -> CliResult<R> {
        let job = Job::new(client, &self.stop);
        std::thread::scope(|scope| {
            threads::spawn_scoped(scope, || job.watch(reader)).map_err(|e| CliError::no_thread(&e))?;
            let done = work(&job);
            job.ended.store(true, Ordering::SeqCst);
            Ok(done)
        })
    }

    fn verify(&self, client: &Client, reader: &UnixStream, asked: u16) -> CliResult<VerifySummary> {
        let served = &self.served;
        let how = VerifyOptions { threads: threads(asked)?, in_use: true, resume: None };
        let open = |file: &Visit<'_, B>, read: &mut ReadFile<'_, B>| {
            served.vfs.inspect(file.dir, file.entry, |content| read(content))
        };
        tracing::info!(volume = %self.volume, "verify begins");
        let report = self
            .job(client, reader, |job| verify_by(served.vfs.modes(), &served.volume, how, job, &|_| {}, &open))?
            .map_err(|e| CliError::io(&served.root, "read", &e.into()))?;
        tracing::info!(volume = %self.volume, findings = report.findings.len(), "verify ended");
        Ok(VerifySummary::from(&report))
    }

    fn impact(&self, client: &Client, reader: &UnixStream, key: &str) -> CliResult<Impact> {
        let key: KeyArn = key.parse().map_err(|e| CliError::usage(format_args!("{key} is no key ARN: {e}")))?;
        let found = self.job(client, reader, |job| impact(self.served.vfs.modes(), &key, job))?;
        found.map_err(|e| CliError::io(&self.served.root, "read", &e.into()))
    }

    fn rewrap(&self, client: &Client, reader: &UnixStream, request: &RewrapRequest) -> CliResult<RewrapSummary> {
        let threads = threads(request.threads)?;
        let service = &*self.served.service;
        let options = RewrapOptions {
            from: resolve(service, request.from.as_deref())?,
            to: resolve(service, request.to.as_deref())?,
            threads,
        };
        if self.rewrapping.swap(true, Ordering::SeqCst) {
            return Err(super::rewrap::under_way());
        }
        tracing::info!(volume = %self.volume, "rewrap begins");
        let report = self.job(client, reader, |job| rewrap(&self.served, &options, job));
        self.rewrapping.store(false, Ordering::SeqCst);
        let report = report?.inspect_err(|e| tracing::warn!(volume = %self.volume, "rewrap failed: {e}"))?;
        let (rewrapped, left) = (report.rewrapped, report.findings.len());
        tracing::info!(volume = %self.volume, rewrapped, left, interrupted = report.interrupted, "rewrap ended");
        Ok(RewrapSummary::new(&report, &options))
    }
}

/// How many threads a client wants.
fn threads(asked: u16) -> CliResult<usize> {
    match (1..=MAX_THREADS).contains(&asked) {
        true => Ok(usize::from(asked)),
        false => Err(CliError::usage(format_args!("a job has 1 to {MAX_THREADS} threads"))),
    }
}

fn resolve(service: &dyn KeyService, key: Option<&str>) -> CliResult<Option<KeyArn>> {
    Ok(key.map(|key| service.resolve(key)).transpose()?)
}

fn is_pause(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

struct Client {
    /// Held while a line is written.
    stream: Mutex<UnixStream>,
}

impl Client {
    /// Sends one line; whether it arrived.
    fn send(&self, answer: &impl Serialize) -> bool {
        let mut line = serde_json::to_vec(answer).expect("answers have string keys");
        line.push(b'\n');
        lock(&self.stream).write_all(&line).is_ok()
    }
}

/// A job as its client sees it.
struct Job<'a> {
    client: &'a Client,
    stop: &'a AtomicBool,
    gone: AtomicBool,
    ended: AtomicBool,
    files: AtomicU64,
    bytes: AtomicU64,
    total_files: AtomicU64,
    total_bytes: AtomicU64,
}

impl<'a> Job<'a> {
    fn new(client: &'a Client, stop: &'a AtomicBool) -> Self {
        Self {
            client,
            stop,
            gone: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            total_files: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
        }
    }

    /// Tells the client how far the job is, and notes when the client goes, or closes its side to stop the job.
    fn watch(&self, mut stream: &UnixStream) {
        let mut last = Instant::now();
        let mut ignored = [0; 256];
        while !self.ended.load(Ordering::SeqCst) && !self.gone.load(Ordering::SeqCst) {
            match stream.read(&mut ignored) {
                // What comes after the request means nothing; a client that floods is held back by the pause.
                Ok(n) if n > 0 => std::thread::sleep(SLICE),
                Err(e) if is_pause(&e) => {}
                _ => self.gone.store(true, Ordering::SeqCst),
            }
            if last.elapsed() >= PROGRESS_INTERVAL {
                last = Instant::now();
                if !self.client.send(&Answer::Progress(self.counts())) {
                    self.gone.store(true, Ordering::SeqCst);
                }
            }
        }
    }

    fn counts(&self) -> Counts {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Counts {
            files: load(&self.files),
            total_files: load(&self.total_files),
            bytes: load(&self.bytes),
            total_bytes: load(&self.total_bytes),
        }
    }
}

impl Progress for Job<'_> {
    fn found(&self, files: u64, bytes: u64) {
        self.total_files.fetch_add(files, Ordering::Relaxed);
        self.total_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn done(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.gone.load(Ordering::SeqCst) || self.stop.load(Ordering::SeqCst)
    }
}
