//! How far a long job is: a bar on a terminal, JSON lines otherwise; and Ctrl-C, which ends a job at a safe point.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::exit::{CliError, CliResult, Exit};
use super::output::{Output, write_stderr, write_stdout};
use super::terminal;
use crate::ops::Progress;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, lock};
use crate::sys::process::SignalSet;
use crate::sys::threads;

/// Time between two JSON lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Shows a job's progress on stderr.
pub struct Shown {
    job: &'static str,
    bar: Option<ProgressBar>,
    json: bool,
    cancelled: Arc<AtomicBool>,
    files: AtomicU64,
    bytes: AtomicU64,
    total_files: AtomicU64,
    total_bytes: AtomicU64,
    started: Instant,
    last_line: Mutex<Instant>,
}

impl Shown {
    /// Starts showing `job`, and takes SIGINT and SIGTERM as the wish to stop at the next safe point; a second one
    /// ends the process at once. Call it before other threads exist.
    pub fn start(out: Output, job: &'static str) -> CliResult<Self> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let signals = SignalSet::block(&[libc::SIGINT, libc::SIGTERM])
            .map_err(|e| CliError::failure(format_args!("cannot handle signals: {e}")))?;
        let flag = Arc::clone(&cancelled);
        let stop = move || {
            // What ends the process while it asks at the terminal is for whoever asks.
            let _ = SignalSet::block(&[libc::SIGHUP, libc::SIGQUIT]);
            terminal::end_if_asked(signals.wait());
            flag.store(true, Ordering::SeqCst);
            signals.wait();
            std::process::exit(i32::from(Exit::Interrupted.code()));
        };
        threads::spawn("kmsfs-signals", stop).map_err(|e| CliError::no_thread(&e))?;
        let terminal = !out.is_json() && std::io::stderr().is_terminal();
        let bar = terminal.then(|| {
            let style =
                ProgressStyle::with_template("{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left");
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(job)
        });
        let now = Instant::now();
        Ok(Self {
            job,
            bar,
            json: !terminal,
            cancelled,
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            total_files: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            started: now,
            last_line: Mutex::new(now),
        })
    }

    /// Prints a line of data above the bar.
    pub fn print(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| write_stdout(text)),
            None => write_stdout(text),
        }
    }

    /// Removes the bar; the report follows.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// The error of a job that was stopped, with what resumes it.
    pub fn interrupted(&self, resume: &str) -> CliError {
        CliError::new(Exit::Interrupted, "Interrupted", format_args!("{} was stopped before its end", self.job))
            .hint(format_args!("resume with: {resume}"))
    }

    fn line(&self) {
        let mut last = lock(&self.last_line);
        if last.elapsed() < INTERVAL {
            return;
        }
        *last = Instant::now();
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let (bytes, total) = (load(&self.bytes), load(&self.total_bytes));
        let elapsed = self.started.elapsed().as_secs_f64();
        let rate = bytes as f64 / elapsed.max(0.001);
        let left = (total > bytes && rate > 0.0).then(|| ((total - bytes) as f64 / rate).ceil());
        let line = json!({
            "message_type": "progress",
            "job": self.job,
            "files": load(&self.files),
            "total_files": load(&self.total_files),
            "bytes": bytes,
            "total_bytes": total,
            "bytes_per_second": rate.round(),
            "seconds_left": left,
        });
        write_stderr(&line.to_string());
    }
}

impl Progress for Shown {
    fn found(&self, files: u64, bytes: u64) {
        self.total_files.fetch_add(files, Ordering::Relaxed);
        let total = self.total_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    fn done(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
        let done = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.json {
            self.line();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }
}
