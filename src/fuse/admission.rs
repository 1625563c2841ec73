//! Which requests are served while memory is short.
//!
//! The daemon then lives on its reserve ([`crate::sys::reserve`]). A request that would have it keep more memory than before is
//! refused before it has changed anything; what is open goes on, and everything that gives memory back does.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::sync::{Mutex, lock};
use crate::sys::reserve::{self, Reserve};
use crate::vfs::Result;

/// How long nothing more is freed for the sake of requests that are refused.
const FREED_FOR: Duration = Duration::from_secs(1);
/// How long nothing more is said of requests that are refused.
const SAID_FOR: Duration = Duration::from_secs(60);

/// What a request needs memory for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Next to nothing, and some are what memory is given back by.
    Little,
    /// Its own time.
    Passing,
    /// Something that stays: an inode, a handle.
    Lasting,
}

/// Admits requests.
pub(super) struct Admission {
    reserve: &'static Reserve,
    said: Mutex<Option<Instant>>,
    freed: Mutex<Option<Instant>>,
}

impl Admission {
    /// By the reserve of this process.
    pub(super) fn new() -> Self {
        Self { reserve: reserve::of_this_process(), said: Mutex::new(None), freed: Mutex::new(None) }
    }

    /// Whether a request is to be served.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn admit(&self, need: Need) -> Result<()> {
        if self.reserve.is_short() { self.admit_by_need(need) } else { Ok(()) }
    }

    #[cold]
    fn admit_by_need(&self, need: Need) -> Result<()> {
        let goes_on = || match need {
            Need::Little => true,
            Need::Passing => !self.reserve.is_nearly_gone(),
            Need::Lasting => false,
        };
        // Some of it may be whole again after a look.
        if goes_on() || self.reserve.has_room() || goes_on() {
            return Ok(());
        }
        if is_due(&self.said, SAID_FOR) {
            tracing::warn!(
                "no memory: requests that need more are refused until there is some (ulimit -d, ulimit -v, vm.overcommit_memory)"
            );
        }
        Err(Errno::NOMEM.into())
    }

    /// Whether, a request being refused, it is time to free what can be freed for it.
    pub(super) fn is_time_to_free(&self) -> bool {
        is_due(&self.freed, FREED_FOR)
    }
}

/// Whether something was not done for that long, and is done now.
fn is_due(last: &Mutex<Option<Instant>>, pause: Duration) -> bool {
    let mut last = lock(last);
    let due = last.is_none_or(|at| at.elapsed() > pause);
    if due {
        *last = Some(Instant::now());
    }
    due
}
