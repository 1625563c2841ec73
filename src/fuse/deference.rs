//! Letting a caller stay where it is.
//!
//! A caller and the thread that serves it take turns: one of them always waits for the other. On one CPU that costs a switch
//! of tasks each time; on two, an interrupt that wakes the other CPU, which takes far longer than most requests, most of all on a
//! virtual machine. Requests come to the thread on their own CPU, but when it answers, the scheduler moves the caller to
//! any CPU that is idle, since the thread is still running where the caller was. A CPU whose only task is of the class
//! SCHED_IDLE counts as idle itself, and the caller stays.
//!
//! A thread of that class gets next to nothing where anybody else wants its CPU. So it is in it only as long as it serves one
//! request after the other itself, and the machine has a CPU to spare: as looked up every so many turns.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::sys::process::{is_in_ordinary_class, run_in_idle_class, was_made_ordinary};
use crate::sys::threads;

/// Turns between two looks at the machine.
pub(super) const TURNS: u32 = 16;
const LOAD: &str = "/proc/loadavg";

/// Whether the calling thread is in the idle class, and should be.
pub(super) struct Deference {
    /// Where the number of running tasks is to be read; none if this process may not leave the idle class again.
    load: Option<File>,
    cpus: usize,
    defers: bool,
    turns: u32,
}

impl Deference {
    /// Of a thread in the ordinary class, which shares `cpus` CPUs with everybody else; `possible`: [`is_possible`].
    pub(super) fn new(possible: bool, cpus: usize) -> Self {
        let load = possible.then(|| File::open(Path::new(LOAD)).ok()).flatten();
        Self { load, cpus, defers: false, turns: 0 }
    }

    /// The thread has served requests by itself.
    pub(super) fn turn(&mut self) {
        if self.is_time_to_look(TURNS) {
            let defers = self.has_a_cpu_to_spare();
            self.defer(defers);
        }
    }

    /// Counts a turn; whether so many have gone by since the last look at the machine.
    pub(super) fn is_time_to_look(&mut self, turns: u32) -> bool {
        self.turns += 1;
        let time = self.turns >= turns;
        if time {
            self.turns = 0;
        }
        time
    }

    /// Whether there is a CPU for somebody else, and the thread may come back.
    pub(super) fn has_a_cpu_to_spare(&self) -> bool {
        let Some(load) = &self.load else { return false };
        let mut text = [0; 128];
        let len = load.read_at(&mut text, 0).unwrap_or(0);
        let running = std::str::from_utf8(&text[..len]).ok().and_then(running);
        running.is_some_and(|running| running < self.cpus)
    }

    /// Others work for it, or are about to.
    pub(super) fn end(&mut self) {
        self.turns = 0;
        self.defer(false);
    }

    /// Puts the thread into the idle class, or back.
    pub(super) fn defer(&mut self, defers: bool) {
        if was_made_ordinary() {
            self.defers = false;
        }
        if self.defers == defers {
            return;
        }
        self.defers = defers;
        if let Err(error) = run_in_idle_class(None, defers) {
            tracing::warn!("a thread that serves requests cannot change its scheduling class: {error}");
            self.load = None;
        }
    }
}

/// Tasks that run or could run, of the text of `/proc/loadavg` (proc(5)).
fn running(text: &str) -> Option<usize> {
    text.split(' ').nth(3)?.split_once('/')?.0.parse().ok()
}

/// Whether a thread of this process may leave the idle class again (sched(7): `RLIMIT_NICE`, `CAP_SYS_NICE`), for the one it is in now. A
/// thread tries it; not where somebody chose another class for this process.
pub(super) fn is_possible() -> bool {
    let attempt = || run_in_idle_class(None, true).and_then(|()| run_in_idle_class(None, false)).is_ok();
    is_in_ordinary_class() && threads::spawn("kmsfs-try", attempt).is_ok_and(|attempt| attempt.join().unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_running_tasks() {
        assert_eq!(running("0.20 0.18 0.12 1/80 11206\n"), Some(1));
        assert_eq!(["", "0.20", "0.20 0.18 0.12 x/80 11206", "0.20 0.18 0.12 1"].map(running), [None; 4]);
    }

    #[test]
    fn a_thread_defers_where_a_cpu_is_to_spare_and_only_there() {
        let load = tempfile::NamedTempFile::new().expect("a file");
        let says = |text: &str| std::fs::write(load.path(), text).expect("written");
        if !is_possible() {
            return; // Nobody may come back here.
        }
        let mut deference = Deference::new(true, 2);
        deference.load = Some(load.reopen().expect("opened"));
        let mut after = |text: &str| {
            says(text);
            (0..TURNS).for_each(|_| deference.turn());
            (deference.defers, crate::sys::process::is_in_idle_class(None))
        };
        assert_eq!(after("0 0 0 2/80 1"), (false, false));
        assert_eq!(after("0 0 0 1/80 1"), (true, true));
        assert_eq!(after("0 0 0 2/80 1"), (false, false));
        assert_eq!(after("0 0 0 1/80 1"), (true, true));
        assert_eq!(after("?"), (false, false));
        assert_eq!(after("0 0 0 1/80 1"), (true, true));
        deference.end();
        assert!(!crate::sys::process::is_in_idle_class(None));
    }
}
