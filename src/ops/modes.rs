//! What a job over a volume that this process has not mounted does about modes that deny their owner what the job needs
//! (FORMAT 8.6). As with a mount, only who holds the volume's lock changes modes for the moment.

use std::path::Path;

use super::lock::VolumeLock;
use crate::store::{Backing, Modes, Result};
use crate::sync::{Arc, Mutex, lock};

/// For a job whose caller holds the volume's lock. What somebody else did not give back is given back first.
///
/// # Errors
/// The backing's.
pub fn modes_with_lock<B: Backing>(backing: Arc<B>) -> Result<Arc<Modes<B>>> {
    let enabled = !is_privileged(&*backing);
    let modes = Modes::new(backing, enabled);
    modes.recover()?;
    Ok(modes)
}

/// For a job for `purpose` that only reads the volume at `root`. The lock is taken when something has to be changed for the moment,
/// and held until the job ends; if it cannot be had, or nothing may be written, only what the modes allow is read.
pub fn modes_without_lock<B: Backing>(backing: Arc<B>, root: &Path, purpose: &'static str) -> Arc<Modes<B>> {
    let (tree, root, held) = (Arc::clone(&backing), root.to_owned(), Mutex::new(None));
    let take = move || {
        let taken = VolumeLock::acquire(&root, purpose).map_err(|e| e.to_string());
        let taken = taken.and_then(|lock| modes_with_lock(Arc::clone(&tree)).map_err(|e| e.to_string()).map(|_| lock));
        match taken {
            Ok(taken) => {
                *lock(&held) = Some(taken);
                true
            }
            Err(error) => {
                tracing::info!("modes stay as they are, and with them what cannot be read because of them: {error}");
                false
            }
        }
    };
    let left = Modes::new(Arc::clone(&backing), false).has_intents().unwrap_or(false);
    match is_privileged(&*backing) {
        true => {
            if left {
                take();
            }
            Modes::new(backing, false)
        }
        false => {
            let modes = Modes::asking(backing, take);
            if left {
                modes.ask();
            }
            modes
        }
    }
}

/// Whether modes do not stand in this process' way.
fn is_privileged<B: Backing>(backing: &B) -> bool {
    backing.user() == 0
}
