//! A new root key, for when the secret of a slot was stolen.
//!
//! Whoever copied the root file and has a slot's secret knows the root key, and with it every domain key to come:
//! removing the slot changes nothing about that. A new root key does. What it cannot take back: what the thief could
//! open with a copy of the database that was made before.

use crate::env::{Clock, Entropy};
use crate::kms::audit::ServiceEvent;
use crate::kms::custody::{Home, RecoveryKey, SlotInfo, Unlock};
use crate::kms::store::{self, StoreError};

/// A home under its new root key.
pub struct Rekeyed {
    /// It, unlocked.
    pub home: Home,
    /// The slots that were there before and open it.
    pub kept: Vec<SlotInfo>,
    /// The slots whose secrets open nothing any more.
    pub gone: Vec<SlotInfo>,
}

/// Gives `home` a new root key and a new domain key, and seals everything anew. The slots that remain are those that
/// `unlock` and the key file open, and one of a new recovery key unless a recovery key unlocked. `announce` hears the
/// new one before anything changes, so that at no point the only recovery key is one that nobody knows; it opens the
/// home once this is done. Earlier backups of the database end.
///
/// # Errors
/// [`StoreError::InUse`] while another process uses the home. Nothing is changed then.
pub fn rekey(
    home: &Home,
    unlock: &Unlock,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    announce: &dyn Fn(&RecoveryKey),
) -> Result<Rekeyed, StoreError> {
    let now = clock.now();
    let event = ServiceEvent {
        time: now,
        name: "RotateRootKey",
        details: serde_json::json!({ "slot": home.unlocked_by().to_string() }).into(),
        account: home.account().to_string(),
        region: home.region().to_string(),
        key: None,
    };
    let before = Home::list_slots(home.dir())?;
    let renewed = store::rekey(home, unlock, &event.render(entropy), (now, entropy), announce)?;
    let now_there = Home::list_slots(home.dir())?;
    let (kept, gone) = before.into_iter().partition(|slot| now_there.iter().any(|there| there.id == slot.id));
    Ok(Rekeyed { home: renewed.home, kept, gone })
}
