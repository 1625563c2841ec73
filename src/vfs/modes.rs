//! Files and directories that their own, unprivileged daemon may not use because of their mode (FORMAT 8.6): the mode is
//! changed for the moment, and an entry under `.kmsfs/intent` tells the next mount what it was, should this one not come
//! back. Users see the mode that they set.

use std::collections::HashMap;

use rustix::io::Errno;

use crate::format::name::CONTROL_ENTRY;
use crate::store::{Backing, FileKind, Result, Stat, Target};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Arc, RwLock, read, write};

/// To reach what is in a directory: bits of its mode.
pub(super) const SEARCH: u32 = 0o100;
/// To list a directory.
pub(super) const LIST: u32 = 0o500;
/// To change a directory, which is listed before the first change.
pub(super) const CHANGE: u32 = 0o700;
/// To read and write a file.
pub(super) const READ_WRITE: u32 = 0o600;

const INTENT: &str = "intent";
const INTENT_MODE: u32 = 0o600;

/// The modes that are other than their users see them, for the moment.
pub(super) struct Modes<B: Backing> {
    backing: Arc<B>,
    /// Only a daemon without privilege needs any of this, and only one that may write can do it.
    enabled: bool,
    /// By inode number in the backing. Lock order: behind everything but the backing's own locks. Held for reading while
    /// attributes are read, so that nobody sees a mode that is only there for the moment.
    widened: RwLock<HashMap<u64, Widened>>,
}

struct Widened {
    /// As users see it.
    mode: u32,
    /// What is added to it.
    bits: u32,
    /// How many need it so.
    users: u32,
}

/// As long as it lives, its owner may use an object.
pub(super) struct Wide<B: Backing> {
    modes: Arc<Modes<B>>,
    ino: u64,
    held: Held<B>,
}

/// What an object is reached by whatever becomes of its name.
pub(super) enum Held<B: Backing> {
    /// A directory.
    Dir(Arc<B::Dir>),
    /// A file.
    Node(B::Node),
}

impl<B: Backing> Held<B> {
    fn target(&self) -> Target<'_, B> {
        match self {
            Self::Dir(dir) => Target::Dir(&**dir),
            Self::Node(node) => Target::Node(node),
        }
    }
}

impl<B: Backing> Modes<B> {
    pub(super) fn new(backing: Arc<B>, enabled: bool) -> Arc<Self> {
        Arc::new(Self { backing, enabled, widened: RwLock::default() })
    }

    /// Whether modes stand in this daemon's way at all.
    pub(super) fn matter(&self) -> bool {
        self.enabled
    }

    /// Attributes of an object as its users see them.
    pub(super) fn stat(&self, target: Target<'_, B>) -> Result<Stat> {
        if !self.enabled {
            return self.backing.stat(target);
        }
        let widened = read(&self.widened);
        let mut stat = self.backing.stat(target)?;
        if let Some(widened) = widened.get(&stat.ino) {
            stat.mode = widened.mode;
        }
        Ok(stat)
    }

    /// Lets this process use an object that it owns in the ways that `need` names. `None` if it may do so already, or never;
    /// what of the mode is then found to be there is noted in `known`.
    pub(super) fn widen(
        self: &Arc<Self>,
        held: Held<B>,
        need: u32,
        known: Option<&AtomicU32>,
    ) -> Result<Option<Wide<B>>> {
        if !self.enabled {
            return Ok(None);
        }
        let mut all = write(&self.widened);
        let stat = self.backing.stat(held.target())?;
        if let Some(widened) = all.get_mut(&stat.ino) {
            widened.users += 1;
            return Ok(Some(Wide { modes: Arc::clone(self), ino: stat.ino, held }));
        }
        let bits = match stat.kind {
            FileKind::Directory => CHANGE,
            FileKind::Regular => READ_WRITE,
            _ => return Ok(None),
        };
        let foreign = stat.uid != self.backing.user();
        if foreign || stat.mode & need == need {
            if let Some(known) = known {
                known.store(if foreign { bits } else { stat.mode & bits }, Ordering::Release);
            }
            return Ok(None);
        }
        self.intend(stat.ino, stat.mode)?;
        if let Err(error) = self.backing.set_mode(held.target(), stat.mode | bits) {
            self.done(stat.ino, stat.mode)?;
            return Err(error);
        }
        all.insert(stat.ino, Widened { mode: stat.mode, bits, users: 1 });
        Ok(Some(Wide { modes: Arc::clone(self), ino: stat.ino, held }))
    }

    /// Runs `change`, which changes the mode of an object for its users. What [`Self::widen`] noted is not known any more.
    pub(super) fn change(
        &self,
        target: Target<'_, B>,
        known: Option<&AtomicU32>,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if !self.enabled {
            return change();
        }
        let mut all = write(&self.widened);
        if let Some(known) = known {
            known.store(0, Ordering::Release);
        }
        change()?;
        let stat = self.backing.stat(target)?;
        let Some(widened) = all.get_mut(&stat.ino) else { return Ok(()) };
        let before = std::mem::replace(&mut widened.mode, stat.mode);
        if before != stat.mode {
            self.intend(stat.ino, stat.mode)?;
            self.done(stat.ino, before)?;
        }
        self.backing.set_mode(target, stat.mode | widened.bits)
    }

    /// Notes what the mode of an object is to be again, before it is changed.
    fn intend(&self, ino: u64, mode: u32) -> Result<()> {
        let intents = intents(&*self.backing, true)?.ok_or(Errno::NOENT)?;
        match self.backing.create(&intents, &format!("{ino}.{mode:o}"), INTENT_MODE) {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(other) => return Err(other),
        }
        if self.backing.ordered_metadata() { Ok(()) } else { self.backing.sync_dir(&intents) }
    }

    fn done(&self, ino: u64, mode: u32) -> Result<()> {
        match intents(&*self.backing, false)? {
            Some(intents) => self.backing.unlink(&intents, &format!("{ino}.{mode:o}")),
            None => Ok(()),
        }
    }

    fn narrow(&self, ino: u64, target: Target<'_, B>) -> Result<()> {
        let mut all = write(&self.widened);
        let Some(widened) = all.get_mut(&ino) else { return Ok(()) };
        widened.users -= 1;
        if widened.users > 0 {
            return Ok(());
        }
        let mode = widened.mode;
        // Where that fails, its users go on to see their mode.
        self.backing.set_mode(target, mode)?;
        all.remove(&ino);
        self.done(ino, mode)
    }
}

impl<B: Backing> Drop for Wide<B> {
    fn drop(&mut self) {
        if let Err(error) = self.modes.narrow(self.ino, self.held.target()) {
            tracing::warn!(ino = self.ino, "a mode is given back by the next mount only: {error}");
        }
    }
}

/// The directory of intents, made if need be.
pub(super) fn intents<B: Backing>(backing: &B, make: bool) -> Result<Option<B::Dir>> {
    let present = |opened| match opened {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT) => Ok(None),
        Err(other) => Err(other),
    };
    let Some(control) = present(backing.open_dir(&backing.root()?, CONTROL_ENTRY))? else { return Ok(None) };
    if make {
        match backing.mkdir(&control, INTENT, 0o700) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(other) => return Err(other),
        }
    }
    present(backing.open_dir(&control, INTENT))
}
