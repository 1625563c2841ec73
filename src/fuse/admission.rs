//! Which requests are served while memory is short.
//!
//! The daemon then lives on its reserve ([`crate::sys::reserve`]). A request that would have it keep more memory than before is
//! refused before it has changed anything; what is open goes on, and everything that gives memory back does.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::sync::{Mutex, lock};
use crate::sys::reserve::{self, Reserve};
use crate::vfs::Result;

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
}

impl Admission {
    /// By the reserve of this process.
    pub(super) fn new() -> Self {
        Self { reserve: reserve::of_this_process(), said: Mutex::new(None) }
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
        let goes_on = match need {
            Need::Little => true,
            Need::Passing => !self.reserve.is_nearly_gone(),
            Need::Lasting => false,
        };
        if goes_on || self.reserve.has_room() {
            return Ok(());
        }
        let mut said = lock(&self.said);
        if said.is_none_or(|at| at.elapsed() > SAID_FOR) {
            *said = Some(Instant::now());
            tracing::warn!(
                "no memory: requests that need more are refused until there is some (ulimit -d, ulimit -v, vm.overcommit_memory)"
            );
        }
        Err(Errno::NOMEM.into())
    }
}
