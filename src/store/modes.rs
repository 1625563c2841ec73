//! Files and directories that an unprivileged process may not use because of their mode, although they are its own
//! (FORMAT 8.6): the mode is changed for the moment, and an entry under `.kmsfs/intent` tells whoever opens the volume next
//! what it was, should this process not come back. Users see the mode that they set.

use std::collections::HashMap;
use std::ops::Deref;

use rustix::io::Errno;

use super::tree::each_entry;
use super::{Access, Backing, FileKind, Result, Stat, Target};
use crate::format::name::CONTROL_ENTRY;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Arc, OnceLock, RwLock, read, write};

/// To reach what is in a directory: bits of its mode.
pub const SEARCH: u32 = 0o100;
/// To list a directory.
pub const LIST: u32 = 0o500;
/// To change a directory, which is listed before the first change.
pub const CHANGE: u32 = 0o700;
/// To read and write a file.
pub const READ_WRITE: u32 = 0o600;

const INTENT: &str = "intent";
const INTENT_MODE: u32 = 0o600;

/// The modes that are other than their users see them, for the moment. There is one of these for whatever works on a tree
/// at a time.
pub struct Modes<B: Backing> {
    backing: Arc<B>,
    right: Right,
    /// By inode number in the backing. Lock order: behind everything but the backing's own locks. Held for reading while
    /// attributes are read, so that nobody sees a mode that is only there for the moment.
    widened: RwLock<HashMap<u64, Widened>>,
}

/// Whether this process may change modes.
enum Right {
    /// It need not, since modes do not stand in its way, or it may change nothing.
    No,
    Yes,
    /// It is asked for when it is needed first.
    Asked(OnceLock<bool>, Box<dyn Fn() -> bool + Send + Sync>),
}

impl Right {
    fn is_given(&self) -> bool {
        match self {
            Self::No => false,
            Self::Yes => true,
            Self::Asked(answer, ask) => *answer.get_or_init(ask),
        }
    }
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
pub struct Wide<B: Backing> {
    modes: Arc<Modes<B>>,
    ino: u64,
    held: Held<B>,
}

/// As [`Wide`], of an object that somebody else holds.
struct Lent<'a, B: Backing> {
    modes: &'a Modes<B>,
    ino: u64,
    target: Target<'a, B>,
}

/// What an object is reached by whatever becomes of its name.
pub enum Held<B: Backing> {
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

/// A directory that this process may use as long as this lives.
pub struct OpenDir<B: Backing> {
    dir: Arc<B::Dir>,
    _wide: Option<Wide<B>>,
}

impl<B: Backing> Deref for OpenDir<B> {
    type Target = B::Dir;

    fn deref(&self) -> &B::Dir {
        &self.dir
    }
}

impl<B: Backing> Modes<B> {
    /// `enabled`: only a process without privilege needs any of this, and only one that may write can do it.
    pub fn new(backing: Arc<B>, enabled: bool) -> Arc<Self> {
        Arc::new(Self { backing, right: if enabled { Right::Yes } else { Right::No }, widened: RwLock::default() })
    }

    /// For a process without privilege that may write only if `ask` says so, which is called once, when it is needed first.
    pub fn asking(backing: Arc<B>, ask: impl Fn() -> bool + Send + Sync + 'static) -> Arc<Self> {
        let right = Right::Asked(OnceLock::new(), Box::new(ask));
        Arc::new(Self { backing, right, widened: RwLock::default() })
    }

    /// Asks now whether this process may change modes.
    pub fn ask(&self) -> bool {
        self.right.is_given()
    }

    /// The tree.
    pub fn backing(&self) -> &Arc<B> {
        &self.backing
    }

    /// Whether modes stand in this process' way at all.
    pub fn matter(&self) -> bool {
        !matches!(self.right, Right::No)
    }

    /// Attributes of an object as its users see them. Errors: the backing's.
    pub fn stat(&self, target: Target<'_, B>) -> Result<Stat> {
        if !self.matter() {
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
    /// what of the mode is then found to be there is noted in `known`. Errors: the backing's.
    pub fn widen(self: &Arc<Self>, held: Held<B>, need: u32, known: Option<&AtomicU32>) -> Result<Option<Wide<B>>> {
        let ino = self.add_bits(held.target(), need, known)?;
        Ok(ino.map(|ino| Wide { modes: Arc::clone(self), ino, held }))
    }

    /// Runs `work` on an object; if its mode denies that to its owner, once more with the mode changed for the moment so that it
    /// may be used as `need` says. Errors: those of `work`, and the backing's.
    pub fn despite_mode<T>(&self, target: Target<'_, B>, need: u32, work: impl Fn() -> Result<T>) -> Result<T> {
        match work() {
            Err(Errno::ACCESS) if self.matter() => {}
            other => return other,
        }
        let pinned;
        let target = match target {
            Target::Named(dir, entry) => {
                // The name may become another object's.
                pinned = self.backing.pin(dir, entry)?;
                Target::Node(&pinned)
            }
            other => other,
        };
        let _lent = self.add_bits(target, need, None)?.map(|ino| Lent { modes: self, ino, target });
        work()
    }

    /// Opens a regular file, whatever its mode if this process owns it. Errors: the backing's.
    pub fn open(&self, dir: &B::Dir, entry: &str, access: Access) -> Result<B::File> {
        self.despite_mode(Target::Named(dir, entry), READ_WRITE, || self.backing.open(dir, entry, access))
    }

    /// Value of an extended attribute, whatever the object's mode if this process owns it. Errors: the backing's.
    pub fn get_xattr(&self, target: Target<'_, B>, name: &str) -> Result<Vec<u8>> {
        self.despite_mode(target, READ_WRITE, || self.backing.get_xattr(target, name))
    }

    /// The root, to be used as `need` says. Errors: the backing's.
    pub fn root(self: &Arc<Self>, need: u32) -> Result<OpenDir<B>> {
        self.enter(self.backing.root()?, need)
    }

    /// Opens a directory, to be used as `need` says whatever its mode if this process owns it. Errors: the backing's.
    pub fn open_dir(self: &Arc<Self>, dir: &B::Dir, entry: &str, need: u32) -> Result<OpenDir<B>> {
        self.enter(self.backing.open_dir(dir, entry)?, need)
    }

    fn enter(self: &Arc<Self>, dir: B::Dir, need: u32) -> Result<OpenDir<B>> {
        let dir = Arc::new(dir);
        let wide = self.widen(Held::Dir(Arc::clone(&dir)), need, None)?;
        Ok(OpenDir { dir, _wide: wide })
    }

    /// Runs `change`, which changes the mode of an object for its users. What [`Self::widen`] noted is not known any more.
    /// Errors: those of `change`, and the backing's.
    pub fn change(
        &self,
        target: Target<'_, B>,
        known: Option<&AtomicU32>,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if !self.matter() {
            return change();
        }
        let mut all = write(&self.widened);
        if let Some(known) = known {
            known.store(0, Ordering::Release);
        }
        if all.is_empty() {
            return change();
        }
        let ino = self.backing.stat(target)?.ino;
        let Some(widened) = all.get_mut(&ino) else { return change() };
        // It is to start from what its users see.
        self.backing.set_mode(target, widened.mode)?;
        let changed = change();
        let mode = self.backing.stat(target)?.mode;
        let before = std::mem::replace(&mut widened.mode, mode);
        if before != mode {
            self.intend(ino, mode)?;
            self.done(ino, before)?;
        }
        self.backing.set_mode(target, mode | widened.bits)?;
        changed
    }

    /// Adds what an object's owner may not do; its inode number, if the bits are to be taken away again.
    fn add_bits(&self, target: Target<'_, B>, need: u32, known: Option<&AtomicU32>) -> Result<Option<u64>> {
        if !self.matter() {
            return Ok(None);
        }
        let mut all = write(&self.widened);
        let stat = self.backing.stat(target)?;
        if let Some(widened) = all.get_mut(&stat.ino) {
            widened.users += 1;
            return Ok(Some(stat.ino));
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
        if !self.right.is_given() {
            return Ok(None);
        }
        self.intend(stat.ino, stat.mode)?;
        if let Err(error) = self.backing.set_mode(target, stat.mode | bits) {
            self.done(stat.ino, stat.mode)?;
            return Err(error);
        }
        all.insert(stat.ino, Widened { mode: stat.mode, bits, users: 1 });
        Ok(Some(stat.ino))
    }

    /// Notes what the mode of an object is to be again, before it is changed.
    fn intend(&self, ino: u64, mode: u32) -> Result<()> {
        let intents = intents(&*self.backing, true)?.ok_or(Errno::NOENT)?;
        match self.backing.create(&intents, &name_of(ino, mode), INTENT_MODE) {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(other) => return Err(other),
        }
        if self.backing.ordered_metadata() { Ok(()) } else { self.backing.sync_dir(&intents) }
    }

    fn done(&self, ino: u64, mode: u32) -> Result<()> {
        match intents(&*self.backing, false)? {
            Some(intents) => self.backing.unlink(&intents, &name_of(ino, mode)),
            None => Ok(()),
        }
    }

    fn narrow(&self, ino: u64, target: Target<'_, B>) {
        if let Err(error) = self.take_bits(ino, target) {
            tracing::warn!(ino, "a mode is given back by the next mount only: {error}");
        }
    }

    fn take_bits(&self, ino: u64, target: Target<'_, B>) -> Result<()> {
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

    /// Whether somebody did not come back to give modes back. Errors: the backing's.
    pub fn has_intents(&self) -> Result<bool> {
        Ok(!self.pending()?.is_empty())
    }

    /// Gives every file and directory with an intent its mode back: a process that was killed between the two changes left it
    /// open for its owner. Walks over the tree only if there is an intent. Nobody else may work on the tree meanwhile. Errors:
    /// the backing's.
    pub fn recover(self: &Arc<Self>) -> Result<()> {
        let pending = self.pending()?;
        if pending.is_empty() {
            return Ok(());
        }
        tracing::info!(count = pending.len(), "giving files back the modes that were changed for the moment");
        let mut search = Search { pending, waiting: Vec::new(), directories: Vec::new() };
        let mut complete = true;
        // One that was never opened for its owner can be above one that was.
        let mut searched = self.root(LIST).and_then(|root| self.restore(&Arc::new(root), true, &mut search));
        loop {
            if let Err(error) = searched {
                tracing::warn!("a directory cannot be searched for files whose mode has to be given back: {error}");
                complete = false;
            }
            let Some((parent, name)) = search.waiting.pop() else { break };
            let dir = self.open_dir(&parent, &name, LIST);
            searched = dir.and_then(|dir| self.restore(&Arc::new(dir), false, &mut search));
        }
        for (dir, mode) in search.directories {
            self.backing.set_mode(Target::Dir(&dir), mode)?;
        }
        match intents(&*self.backing, false)? {
            Some(intents) if complete => search
                .pending
                .into_iter()
                .try_for_each(|(ino, mode)| gone(self.backing.unlink(&intents, &name_of(ino, mode)))),
            _ => Ok(()),
        }
    }

    /// Inode numbers and modes.
    fn pending(&self) -> Result<Vec<(u64, u32)>> {
        let mut pending = Vec::new();
        if let Some(intents) = intents(&*self.backing, false)? {
            each_entry(&*self.backing, &intents, |raw| {
                pending.extend(std::str::from_utf8(&raw.name).ok().and_then(parse));
                Ok::<_, Errno>(true)
            })?;
        }
        Ok(pending)
    }

    fn restore(&self, dir: &Arc<OpenDir<B>>, is_root: bool, search: &mut Search<B>) -> Result<()> {
        each_entry(&*self.backing, dir, |raw| {
            let Ok(name) = std::str::from_utf8(&raw.name) else { return Ok(true) };
            if is_root && name == CONTROL_ENTRY {
                return Ok(true);
            }
            let stat = self.backing.stat(Target::Named(&***dir, name))?;
            // In a copy of the tree the number is another object's. What is widened changes for its owner alone, so whatever this
            // takes for the noted object nobody else gains anything.
            let is_noted = |(ino, mode): &&(u64, u32)| *ino == stat.ino && (mode ^ stat.mode) & OF_OTHERS == 0;
            let intent = search.pending.iter().find(is_noted).map(|(_, mode)| *mode);
            match (stat.kind, intent) {
                (FileKind::Directory, intent) => {
                    if let Some(mode) = intent {
                        search.directories.push((self.backing.open_dir(dir, name)?, mode));
                    }
                    search.waiting.push((Arc::clone(dir), name.to_owned()));
                }
                (_, Some(mode)) => self.backing.set_mode(Target::Named(&***dir, name), mode)?,
                (_, None) => {}
            }
            Ok::<_, Errno>(true)
        })
    }
}

impl<B: Backing> Drop for Wide<B> {
    fn drop(&mut self) {
        self.modes.narrow(self.ino, self.held.target());
    }
}

impl<B: Backing> Drop for Lent<'_, B> {
    fn drop(&mut self) {
        self.modes.narrow(self.ino, self.target);
    }
}

/// What a mode gives to the group and to others.
const OF_OTHERS: u32 = 0o077;

/// A walk over the tree for the objects with an intent.
struct Search<B: Backing> {
    /// Inode number and mode.
    pending: Vec<(u64, u32)>,
    /// Directories that wait are named below their parents: only those on the way down are open.
    waiting: Vec<(Arc<OpenDir<B>>, String)>,
    /// Directories among the objects: their modes would stand in the way of the walk.
    directories: Vec<(B::Dir, u32)>,
}

/// A directory whose mode was not changed yet had its own change for the walk, and that intent went with it.
fn gone(removed: Result<()>) -> Result<()> {
    match removed {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn name_of(ino: u64, mode: u32) -> String {
    format!("{ino}.{mode:o}")
}

fn parse(name: &str) -> Option<(u64, u32)> {
    let (ino, mode) = name.split_once('.')?;
    Some((ino.parse().ok()?, u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777)?))
}

/// The directory of intents, made if need be.
fn intents<B: Backing>(backing: &B, make: bool) -> Result<Option<B::Dir>> {
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
