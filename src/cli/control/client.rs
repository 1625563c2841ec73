//! The other end of the control socket: asking a running mount.

use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::wire::{Answer, Counts, MountStatistics, MountStatus, Request, RewrapRequest, RewrapSummary, VerifySummary};
use super::{RunDir, socket_name};
use crate::cli::exit::{CliError, CliResult, Exit};
use crate::ops::Progress;
use crate::ops::impact::Impact;
use crate::ops::lock::{LockOwner, host_name};
use crate::types::{KeyArn, VolumeId};

/// How often a wait looks whether the user wants to stop.
const SLICE: Duration = Duration::from_millis(100);
/// How long a mount may take to tell its status; a stopped process must not keep `status` waiting.
const STATUS_TIME: Duration = Duration::from_secs(2);

/// A connection to a running mount.
pub struct Connection(UnixStream);

impl Connection {
    /// Connects to the mount that holds a volume's lock; `None` if it is none of this host, or does not answer under
    /// this home.
    pub fn to_owner(home: &Path, volume: &VolumeId, owner: &LockOwner) -> Option<Self> {
        if owner.host != host_name() {
            return None;
        }
        Self::open(&RunDir::open(home).ok()?, &socket_name(volume, owner.pid)).ok()
    }

    fn open(dir: &RunDir, name: &str) -> io::Result<Self> {
        let stream = UnixStream::connect(dir.short_path(name))?;
        stream.set_read_timeout(Some(SLICE))?;
        stream.set_write_timeout(Some(STATUS_TIME))?;
        Ok(Self(stream))
    }

    fn send(&self, request: &Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(request).expect("requests have string keys");
        line.push(b'\n');
        (&self.0).write_all(&line)
    }

    /// Lets the mount do a rewrap, and shows how far it is. When `progress` is cancelled the mount is told to stop, and
    /// the summary of what it did follows.
    ///
    /// # Errors
    /// The mount's own; a failure if it ends without an answer.
    pub fn rewrap(self, request: RewrapRequest, progress: &dyn Progress) -> CliResult<RewrapSummary> {
        match self.job(&Request::Rewrap(request), progress)? {
            Answer::Rewrapped(summary) => Ok(summary),
            _ => Err(lost(&io::ErrorKind::InvalidData.into())),
        }
    }

    /// Lets the mount verify its volume, as [`Self::rewrap`] does.
    ///
    /// # Errors
    /// As there.
    pub fn verify(self, threads: u16, progress: &dyn Progress) -> CliResult<VerifySummary> {
        match self.job(&Request::Verify { threads }, progress)? {
            Answer::Verified(summary) => Ok(summary),
            _ => Err(lost(&io::ErrorKind::InvalidData.into())),
        }
    }

    /// Lets the mount count the files that depend on a key, as [`Self::rewrap`] does.
    ///
    /// # Errors
    /// As there.
    pub fn impact(self, key: &KeyArn, progress: &dyn Progress) -> CliResult<Impact> {
        match self.job(&Request::Impact { key: key.to_string() }, progress)? {
            Answer::Impact(found) => Ok(found),
            _ => Err(lost(&io::ErrorKind::InvalidData.into())),
        }
    }

    /// The answer to a request that takes time.
    fn job(self, request: &Request, progress: &dyn Progress) -> CliResult<Answer> {
        self.send(request).map_err(|e| lost(&e))?;
        let mut lines = Lines::new(&self.0);
        let (mut shown, mut stopped) = (Counts::default(), false);
        loop {
            if progress.is_cancelled() && !stopped {
                stopped = true;
                // The mount sees the end of the stream; its answers still come.
                self.0.shutdown(Shutdown::Write).map_err(|e| lost(&e))?;
            }
            match lines.next().map_err(|e| lost(&e))? {
                Line::Pause => {}
                Line::Answer(Answer::Progress(now)) => {
                    let more = now.since(&shown);
                    progress.found(more.total_files, more.total_bytes);
                    progress.done(more.files, more.bytes);
                    shown = now;
                }
                Line::Answer(answer) => return Ok(answer),
                Line::Error(error) => return Err(error),
                Line::End => return Err(lost(&io::ErrorKind::UnexpectedEof.into())),
            }
        }
    }

    fn status(&self) -> Option<MountStatus> {
        match self.ask(&Request::Status {})? {
            Answer::Status(status) => Some(status),
            _ => None,
        }
    }

    fn statistics(&self) -> Option<MountStatistics> {
        match self.ask(&Request::Statistics {})? {
            Answer::Statistics(statistics) => Some(statistics),
            _ => None,
        }
    }

    /// The answer to a request that takes no time.
    fn ask(&self, request: &Request) -> Option<Answer> {
        self.send(request).ok()?;
        let until = Instant::now() + STATUS_TIME;
        let mut lines = Lines::new(&self.0);
        while Instant::now() < until {
            match lines.next().ok()? {
                Line::Pause => {}
                Line::Answer(answer) => return Some(answer),
                _ => return None,
            }
        }
        None
    }
}

/// What every mount of this home that answers tells of itself.
pub fn mounts(home: &Path) -> Vec<MountStatus> {
    let Ok(dir) = RunDir::open(home) else { return Vec::new() };
    let names = dir.sockets().unwrap_or_default();
    names.iter().filter_map(|name| Connection::open(&dir, name).ok()?.status()).collect()
}

/// What the mount at `mountpoint` of `source`, both as [`path_text`](crate::cli::output::path_text) has them, counted;
/// `None` if none of this home's mounts that answer is that.
pub fn statistics(home: &Path, mountpoint: &str, source: &str) -> Option<MountStatistics> {
    let dir = RunDir::open(home).ok()?;
    let names = dir.sockets().ok()?;
    let of = |name: &String| {
        let status = Connection::open(&dir, name).ok()?.status()?;
        let found = status.mountpoint == mountpoint && status.source == source;
        // One request a connection.
        if found { Connection::open(&dir, name).ok()?.statistics() } else { None }
    };
    names.iter().find_map(of)
}

fn lost(e: &io::Error) -> CliError {
    CliError::new(Exit::Failure, "MountLost", format_args!("the mount gave no answer: {e}"))
        .hint("what was done stays done; run the same command again")
}

/// The lines of an answer, with pauses between them.
struct Lines<'a> {
    reader: BufReader<&'a UnixStream>,
    line: Vec<u8>,
}

enum Line {
    Answer(Answer),
    Error(CliError),
    /// Nothing came for a while.
    Pause,
    End,
}

impl<'a> Lines<'a> {
    fn new(stream: &'a UnixStream) -> Self {
        Self { reader: BufReader::new(stream), line: Vec::new() }
    }

    fn next(&mut self) -> io::Result<Line> {
        match self.reader.read_until(b'\n', &mut self.line) {
            // What came of a line so far is kept for the next call.
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(Line::Pause),
            Err(e) => Err(e),
            Ok(_) if self.line.last() != Some(&b'\n') => Ok(Line::End),
            Ok(_) => {
                let value: Value = serde_json::from_slice(&self.line)?;
                self.line.clear();
                match CliError::from_json(&value) {
                    Some(error) => Ok(Line::Error(error)),
                    None => Ok(Line::Answer(serde_json::from_value(value)?)),
                }
            }
        }
    }
}
