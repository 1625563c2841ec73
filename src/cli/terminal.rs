//! The terminal stays as it was when whoever asks at it is ended.

use std::fs::File;
use std::time::Duration;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, lock};
use crate::sys::process::{SignalMask, SignalSet, end_by};
use crate::sys::threads;

/// What ends a process that asks for a passphrase.
const ENDING: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
/// How long after an answer nobody looks whether there is one.
const LOOK: Duration = Duration::from_millis(50);
/// The terminal at which somebody is being asked, and as it was before.
static ASKED: Mutex<Option<(File, Termios)>> = Mutex::new(None);

/// Runs `ask`, which hides what is typed. If a signal ends the process meanwhile, what is typed in the shell can be seen again.
pub fn kept<T>(ask: impl FnOnce() -> T) -> T {
    let Some(found) = File::open("/dev/tty").ok().and_then(|tty| tcgetattr(&tty).ok().map(|was| (tty, was))) else {
        return ask();
    };
    // Dropped last: what came for this thread itself, as Ctrl-C does, ends it when the terminal is in order again.
    let Ok(_mask) = SignalMask::of_this_thread() else { return ask() };
    let Ok(signals) = SignalSet::block(&ENDING) else { return ask() };
    *lock(&ASKED) = Some(found);
    let answered = AtomicBool::new(false);
    let answer = std::thread::scope(|scope| {
        let watch = || {
            while !answered.load(Ordering::Acquire) {
                if let Some(signal) = signals.wait_for(LOOK) {
                    end_if_asked(signal);
                }
            }
        };
        // Without the thread a signal ends the process when the answer is there.
        let _ = threads::spawn_scoped(scope, watch);
        let answer = ask();
        answered.store(true, Ordering::Release);
        answer
    });
    *lock(&ASKED) = None;
    answer
}

/// Ends the process as `signal` does, with the terminal as it was, if somebody is being asked: nothing was begun yet.
pub fn end_if_asked(signal: i32) {
    if let Some((tty, was)) = &*lock(&ASKED) {
        let _ = tcsetattr(tty, OptionalActions::Now, was);
        end_by(signal);
    }
}
