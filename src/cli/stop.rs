//! The end of a mount by a signal, within a bound: [`GRACE`] for whoever uses it to let go, then [`WRITE_BACK`] for what
//! they have written.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::exit::Exit;
use super::mounts;
use super::umount::{unmount_at, words};
use crate::kms::audit::AuditLog;
use crate::sync::thread;
use crate::sys::process::SignalSet;

/// How long a mount that is in use stays after the first signal.
const GRACE: Duration = Duration::from_secs(10);
/// How long the kernel may then take to hand over what was written and not synced.
const WRITE_BACK: Duration = Duration::from_secs(10);
/// How often an unmount is tried that is refused as busy.
const PAUSE: Duration = Duration::from_millis(200);

/// Waits for a signal and unmounts, as soon as nothing is in use. What still is after [`GRACE`] is written back and
/// cut off: its users get errors, the process ends with [`Exit::Busy`]. A second signal cuts it off at once.
pub fn on_signal(signals: SignalSet, mountpoint: &Path, audit: &AuditLog) {
    signals.wait();
    tracing::info!("unmounting on a signal");
    let mut waited = Duration::ZERO;
    while waited <= GRACE {
        match unmount_at(mountpoint, false) {
            // The serving threads end, and the process with them.
            Ok(()) => break,
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
            Err(e) => {
                tracing::error!("cannot unmount {}: {e}", mountpoint.display());
                break;
            }
        }
        if waited.is_zero() {
            let mount = mounts::at(mountpoint).ok().flatten();
            let holders = mount.map(|m| mounts::holders(&m)).unwrap_or_default();
            let (place, grace) = (mountpoint.display(), GRACE.as_secs());
            tracing::warn!("{place} is in use {}; it ends in {grace} seconds at the latest", words(&holders));
        }
        if signals.wait_for(PAUSE).is_some() {
            end(
                mountpoint,
                audit,
                Exit::Failure,
                "ended by a second signal; files that were open may lack their last writes",
            );
        }
        waited += PAUSE;
    }
    if waited > GRACE {
        write_back(mountpoint);
        end(
            mountpoint,
            audit,
            Exit::Busy,
            "still in use: ended; what was written is stored, but for writes of this moment",
        );
    }
    signals.wait();
    end(mountpoint, audit, Exit::Failure, "ended by a second signal; files that were open may lack their last writes");
}

/// Lets the kernel write back what its page cache holds of the mount. In a thread: it waits for the mount's own threads.
fn write_back(mountpoint: &Path) {
    let mountpoint = mountpoint.to_owned();
    let (done, wait) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let synced = File::open(&mountpoint).and_then(|root| Ok(rustix::fs::syncfs(root)?));
        if let Err(e) = synced {
            tracing::error!("cannot write back: {e}");
        }
        let _ = done.send(());
    });
    if wait.recv_timeout(WRITE_BACK).is_err() {
        tracing::error!("not everything was written back within {} seconds", WRITE_BACK.as_secs());
    }
}

/// Ends the process without waiting for the users of the mount. The lock goes with it; the next mount sees that this one
/// did not end by an unmount, and finishes what was under way.
fn end(mountpoint: &Path, audit: &AuditLog, exit: Exit, why: &str) -> ! {
    // Or a dead mountpoint would stay behind.
    if let Err(e) = unmount_at(mountpoint, true) {
        tracing::debug!("cannot detach {}: {e}", mountpoint.display());
    }
    if let Err(e) = audit.flush() {
        tracing::error!("the audit log could not be written: {e}");
    }
    tracing::error!("{}: {why}", mountpoint.display());
    std::process::exit(i32::from(exit.code()));
}
