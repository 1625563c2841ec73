//! Serving a caller on its own CPU: a thread of `/dev/fuse` goes where the caller is, and defers to it there
//! ([`super::deference`]), so that a request wakes no other CPU.

use std::fs;

use rustix::process::getpid;
use rustix::thread::{CpuSet, sched_getaffinity};

use super::deference::{self, Deference};
use crate::sys::process::{run_like_the_first_thread, run_on};

/// Turns between two looks where caller and thread are on one CPU: a look takes as long as a request, and somebody watches the thread.
const TURNS_TOGETHER: u32 = 64;
/// The same where the caller seems to have been moved, which the scheduler does several hundred times a second.
const TURNS_APART: u32 = 6;
/// It seems so after so many requests in a row that were not there at once.
const APART: u32 = 3;

/// Where the calling thread runs.
pub(super) struct Follower {
    deference: Deference,
    /// The CPU it is bound to.
    at: Option<usize>,
    /// Requests in a row that it had to sleep for.
    slept: u32,
}

impl Follower {
    /// Of a thread that runs wherever the first one may.
    pub(super) fn new(deference: Deference) -> Self {
        Self { deference, at: None, slept: 0 }
    }

    /// The thread is about to serve a request of `caller`, a thread's number as the kernel sends it, as the only one; it `slept` until it came.
    pub(super) fn turn(&mut self, caller: u32, slept: bool) {
        self.slept = if slept { self.slept.saturating_add(1) } else { 0 };
        // On one CPU the caller takes it from the thread as soon as it is answered, and the next request is there when the thread comes back.
        let turns = match self.at {
            None => deference::TURNS,
            Some(_) if self.slept >= APART => TURNS_APART,
            Some(_) => TURNS_TOGETHER,
        };
        // A caller that is gone or cannot be seen says nothing.
        if !self.deference.is_time_to_look(turns) {
            return;
        }
        if !self.deference.has_a_cpu_to_spare() {
            self.end();
        } else if let Some(cpu) = cpu_of(caller) {
            if self.go_to(cpu) { self.deference.defer(true) } else { self.end() }
        }
    }

    /// The thread serves with others again.
    pub(super) fn end(&mut self) {
        self.deference.end();
        if self.at.take().is_some() {
            run_like_the_first_thread(None);
        }
    }

    fn go_to(&mut self, cpu: usize) -> bool {
        if self.at == Some(cpu) {
            return true;
        }
        // Only where this process may be: the caller may run elsewhere.
        if !sched_getaffinity(Some(getpid())).is_ok_and(|home| cpu < CpuSet::MAX_CPU && home.is_set(cpu)) {
            return false;
        }
        let bound = run_on(cpu).is_ok();
        if bound {
            self.at = Some(cpu);
        }
        bound
    }
}

/// The CPU on which a thread ran last; none if it cannot be seen.
fn cpu_of(thread: u32) -> Option<usize> {
    if thread == 0 {
        return None; // Of the kernel, or of somewhere else.
    }
    processor(&fs::read_to_string(format!("/proc/{thread}/stat")).ok()?)
}

/// The field `processor` of a text as `/proc/PID/stat` has it (proc(5)): the 39th. The second one is a name in parentheses, which may
/// have any character in it.
fn processor(stat: &str) -> Option<usize> {
    stat.rsplit_once(") ")?.1.split(' ').nth(39 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use rustix::thread::sched_setaffinity;

    use super::*;
    use crate::sync::thread;

    #[test]
    fn the_cpu_of_a_thread() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 5 1 1 1 0 0 0 0 0 0 0 0 0 0 0 0 17 3 0 0";
        assert_eq!(processor(stat), Some(3));
        assert_eq!(["", "7 (a) S 1", "7 a S"].map(processor), [None; 3]);
        assert_eq!([0, u32::MAX].map(cpu_of), [None; 2]);
    }

    #[test]
    fn a_thread_goes_where_its_caller_is_and_home_again() {
        let everywhere = sched_getaffinity(None).expect("a set");
        let last = (0..CpuSet::MAX_CPU).rfind(|&cpu| everywhere.is_set(cpu)).expect("a CPU");
        let mut only_there = CpuSet::new();
        only_there.set(last);
        let me = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        sched_setaffinity(None, &only_there).expect("bound");
        assert_eq!(cpu_of(me), Some(last));
        sched_setaffinity(None, &everywhere).expect("bound");
        thread::spawn(move || {
            let mut follower = Follower::new(Deference::new(false, 1));
            assert!(follower.go_to(last));
            assert_eq!(sched_getaffinity(None).expect("a set"), only_there);
            assert!(!follower.go_to(CpuSet::MAX_CPU), "no CPU");
            follower.end();
            assert_eq!(sched_getaffinity(None).expect("a set"), everywhere);
        })
        .join()
        .expect("it ends");
    }
}
