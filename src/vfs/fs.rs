//! The filesystem object: how inodes, names and directory handles come together.

use std::time::Duration;

use quick_cache::sync::Cache;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::Result;
use super::attr::{Attr, SET_ID};
use super::handle::{DirHandle, FileHandle, Handles};
use super::inode::{Inode, SET_ID_UNKNOWN};
use super::moves::Moves;
use super::rate_limit::RateLimit;
use super::table::{InodeTable, ROOT};
use crate::content::{LiveIds, Raiser, Volume};
use crate::format::keys::VolumeKeys;
use crate::format::name::{EncodedName, NameCodec};
use crate::format::{Outcome, symlink};
use crate::store::{
    Access, Ahead, Backing, BackingFile, Fetcher, FileKind, FileTime, Held, Modes, READ_WRITE, SEARCH, Stat, Target,
    Wide,
};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, lock, read, write};
use crate::types::DirId;

/// Directory handles kept open at most, if the process may have four times as many descriptors; any other is opened anew,
/// one component at a time.
const OPEN_DIRECTORIES: u64 = 2048;

/// How long after a flush the header says what it covered (ADR 16): time for a program to flush the directory too.
const RAISE_AFTER: Duration = Duration::from_millis(100);

/// Directory handles to keep open: most descriptors are there for files.
fn open_directories() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    OPEN_DIRECTORIES.min(limit / 4) as usize
}

/// How a volume is mounted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Nothing may be changed.
    pub read_only: bool,
    /// The process may give files to other users and open files whatever their mode (root).
    pub privileged: bool,
    /// Nothing is changed in files and directories that share their id with another one (FORMAT S12, `DuplicateId`).
    pub strict_ids: bool,
    /// What a walk over the tree will ask for next is fetched from the backing meanwhile.
    pub fetch_ahead: bool,
    /// How long after a flush the header of the file says what it covered; at once without, or when the file is closed.
    pub raise_after: Option<Duration>,
}

impl Options {
    /// Of a mount that programs work in, as fast as it can be.
    pub fn for_programs(privileged: bool) -> Self {
        Self { privileged, fetch_ahead: true, raise_after: Some(RAISE_AFTER), ..Self::default() }
    }
}

/// Who asks for an operation that creates something.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// File mode creation mask.
    pub umask: u32,
}

/// An open directory, and what widened its mode for the time of its use.
pub(super) type Entered<B> = (Arc<<B as Backing>::Dir>, Option<Wide<B>>);

/// A mounted volume: POSIX semantics over encrypted entries. Every method may be called from several threads.
pub struct Vfs<B: Backing> {
    pub(super) backing: Arc<B>,
    pub(super) volume: Arc<Volume>,
    pub(super) keys: Arc<VolumeKeys>,
    pub(super) names: NameCodec,
    pub(super) options: Options,
    /// Directory ids and side entries are made as regular files (FORMAT 8.1).
    pub(super) dir_meta_file: bool,
    pub(super) table: InodeTable<B>,
    /// Held by whatever locks two directories' entries: a rename orders them by number, the removal of a directory locks
    /// a parent before its child. Lock order: before any entries.
    pub(super) tree: Mutex<()>,
    /// The ids of the directories that are known. Those of open files are in `volume`.
    pub(super) live_dirs: LiveIds<DirId>,
    /// Which integrity events are written.
    pub(super) events: RateLimit,
    pub(super) files: Handles<FileHandle<B>>,
    pub(super) dirs: Handles<DirHandle<B>>,
    pub(super) moves: Moves<B>,
    pub(super) modes: Arc<Modes<B>>,
    /// Set when the mount is about to end under its users, see `ending`.
    pub(super) ending: AtomicBool,
    pub(super) raiser: Option<Raiser<B>>,
    fetcher: Option<Fetcher<B>>,
    root: Arc<B::Dir>,
    open_dirs: Cache<u64, Arc<B::Dir>>,
}

/// An entry of a directory in the backing.
pub(super) struct Located<B: Backing> {
    pub(super) parent: Arc<Inode<B>>,
    pub(super) dir: Arc<B::Dir>,
    pub(super) name: EncodedName,
    /// The daemon may use the directory as long as this lives.
    pub(super) _wide: Option<Wide<B>>,
}

impl<B: Backing> Located<B> {
    /// The entry's name in the backing.
    pub(super) fn entry(&self) -> &str {
        self.name.entry()
    }

    /// The object behind it.
    pub(super) fn target(&self) -> Target<'_, B> {
        Target::Named(&*self.dir, self.entry())
    }
}

impl<B: Backing> Vfs<B> {
    /// The volume whose tree begins at the root of `backing`. The root's directory id is checked. A volume with a feature
    /// that this version may only read is read-only, whatever `options` say (FORMAT 4.2).
    ///
    /// # Errors
    /// The backing's error, or the outcome for a root without a valid id.
    pub fn new(backing: Arc<B>, volume: Arc<Volume>, options: Options) -> Result<Self> {
        let opened = volume.keys.volume();
        let keys = Arc::clone(&opened.keys);
        let names = opened.names();
        let options = Options { read_only: options.read_only || opened.config.read_only(), ..options };
        let root = Arc::new(backing.root()?);
        let stat = backing.stat(Target::Dir(&*root))?;
        let dir_meta_file = opened.config.dir_meta_file() || !backing.ordered_metadata();
        let modes = Modes::new(Arc::clone(&backing), !options.privileged && !options.read_only);
        let fetcher = options.fetch_ahead.then(|| Fetcher::start(Arc::clone(&backing)));
        let fetcher = fetcher
            .and_then(|started| started.inspect_err(|error| tracing::warn!("nothing is fetched ahead: {error}")).ok());
        let raiser = options.raise_after.filter(|_| !options.read_only).map(Raiser::start).transpose();
        let raiser = raiser.unwrap_or_else(|error| {
            tracing::warn!("every flush waits for the header of its file: {error}");
            None
        });
        let vfs = Self {
            backing,
            volume,
            keys,
            names,
            options,
            dir_meta_file,
            table: InodeTable::new(stat.ino),
            tree: Mutex::new(()),
            live_dirs: LiveIds::default(),
            events: RateLimit::default(),
            files: Handles::new(),
            dirs: Handles::new(),
            moves: Moves::new(),
            modes,
            ending: AtomicBool::new(false),
            raiser,
            fetcher,
            root,
            open_dirs: Cache::new(open_directories()),
        };
        vfs.dir_id(vfs.table.root())?;
        Ok(vfs)
    }

    /// The modes that are other than their users see them, for whatever else this process does with the tree.
    pub fn modes(&self) -> &Arc<Modes<B>> {
        &self.modes
    }

    /// Gives objects the modes back that whoever had the volume before did not, see [`Modes::recover`].
    ///
    /// # Errors
    /// The backing's error.
    pub fn recover_intents(&self) -> Result<()> {
        Ok(self.modes.recover()?)
    }

    /// How many inodes are known at present.
    pub fn known_inodes(&self) -> usize {
        self.table.len()
    }

    /// Raises at once the bounds of sizes that are due, see [`Options::raise_after`].
    pub fn raise_floors(&self) {
        self.raiser.iter().for_each(Raiser::raise);
    }

    /// The same, and raises each further one with its flush: for the end of a mount, after which somebody else may have the volume.
    pub fn end_raising(&self) {
        self.raiser.iter().for_each(Raiser::end);
    }

    /// Closes what is open only to be at hand: for when there are no descriptors left.
    pub fn close_idle(&self) {
        self.open_dirs.clear();
    }

    /// The kernel drops `count` references to an inode.
    pub fn forget(&self, ino: u64, count: u64) {
        self.table.forget(ino, count);
    }

    pub(super) fn inode(&self, ino: u64) -> Result<Arc<Inode<B>>> {
        self.table.get(ino).ok_or_else(|| Errno::STALE.into())
    }

    pub(super) fn directory(&self, ino: u64) -> Result<Arc<Inode<B>>> {
        let inode = self.inode(ino)?;
        if inode.kind == FileKind::Directory { Ok(inode) } else { Err(Errno::NOTDIR.into()) }
    }

    /// The directory as a place for changes.
    pub(super) fn changeable(&self, ino: u64) -> Result<Arc<Inode<B>>> {
        self.check_writable()?;
        let inode = self.directory(ino)?;
        if inode.dir.removed.load(Ordering::Acquire) {
            return Err(Errno::NOENT.into());
        }
        if self.options.strict_ids {
            self.dir_id(&inode)?;
            if inode.dir.id.get().is_some_and(|id| id.duplicate().is_some()) {
                return Err(Outcome::DuplicateId.into());
            }
        }
        Ok(inode)
    }

    /// Refuses attributes and new writers when the mount is about to end.
    pub(super) fn check_lasting(&self) -> Result<()> {
        if self.ending.load(Ordering::Acquire) { Err(Errno::SHUTDOWN.into()) } else { Ok(()) }
    }

    pub(super) fn check_writable(&self) -> Result<()> {
        if self.options.read_only { Err(Errno::ROFS.into()) } else { Ok(()) }
    }

    /// A handle to a directory, from the cache or opened by way of its parents.
    ///
    /// However deep the directory lies: the way up is walked first, without locks, then the way down. A directory that
    /// moves meanwhile takes its handle with it, so only its own name has to be checked when it is opened.
    pub(super) fn dir(&self, inode: &Arc<Inode<B>>) -> Result<Arc<B::Dir>> {
        let mut way = Vec::new();
        'again: loop {
            way.clear();
            let mut at = Arc::clone(inode);
            let mut handle = loop {
                if let Some(known) = self.known_dir(&at) {
                    break known;
                }
                let parent = Arc::clone(&read(&at.place).names.first().ok_or(Errno::NOENT)?.0);
                way.push(std::mem::replace(&mut at, parent));
            };
            while let Some(child) = way.pop() {
                match self.open_child(&at, &handle, &child)? {
                    Some(opened) => (at, handle) = (child, opened),
                    // It was moved since the way was looked up.
                    None => continue 'again,
                }
            }
            return Ok(handle);
        }
    }

    /// A handle to a directory, which the daemon may use as `need` says, whatever the directory's mode (FORMAT 8.6), as long
    /// as the second value lives.
    pub(super) fn enter(&self, inode: &Arc<Inode<B>>, need: u32) -> Result<Entered<B>> {
        let handle = self.dir(inode)?;
        let wide = self.widen_dir(inode, &handle, need)?;
        Ok((handle, wide))
    }

    fn widen_dir(&self, inode: &Inode<B>, handle: &Arc<B::Dir>, need: u32) -> Result<Option<Wide<B>>> {
        if !self.modes.matter() || inode.dir.rights.load(Ordering::Acquire) & need == need {
            return Ok(None);
        }
        Ok(self.modes.widen(Held::Dir(Arc::clone(handle)), need, Some(&inode.dir.rights))?)
    }

    fn known_dir(&self, inode: &Inode<B>) -> Option<Arc<B::Dir>> {
        if inode.number == ROOT { Some(Arc::clone(&self.root)) } else { self.open_dirs.get(&inode.number) }
    }

    /// Opens a directory in its parent; `None` if that is its parent no more.
    fn open_child(&self, parent: &Inode<B>, handle: &Arc<B::Dir>, child: &Inode<B>) -> Result<Option<Arc<B::Dir>>> {
        let place = read(&child.place);
        let Some((_, entry)) = place.names.first().filter(|(dir, _)| dir.number == parent.number) else {
            return Ok(None);
        };
        let _wide = self.widen_dir(parent, handle, SEARCH)?;
        let opened = Arc::new(self.backing.open_dir(handle, entry)?);
        if self.table.number_of(self.backing.stat(Target::Dir(&*opened))?.ino) != child.number {
            // Somebody put another directory there behind the mount's back.
            return Err(Errno::STALE.into());
        }
        self.open_dirs.insert(child.number, Arc::clone(&opened));
        Ok(Some(opened))
    }

    /// Has the neighbours of a directory or file fetched that is being read for the first time.
    pub(super) fn fetch_ahead(&self, inode: &Inode<B>, what: Ahead) {
        let Some(fetcher) = &self.fetcher else { return };
        let Some((parent, entry)) = read(&inode.place).names.first().cloned() else { return };
        if let Some(dir) = self.known_dir(&parent) {
            fetcher.note(what, parent.number, &dir, &entry);
        }
    }

    /// A directory that was removed: its handle must not serve an inode that gets the same number.
    pub(super) fn close_dir(&self, inode: &Inode<B>) {
        self.open_dirs.remove(&inode.number);
    }

    /// Runs `work` on the object in the backing, by one of its names, which cannot change meanwhile, or without.
    pub(super) fn with_target<R>(
        &self,
        inode: &Inode<B>,
        work: impl FnOnce(Target<'_, B>) -> crate::store::Result<R>,
    ) -> Result<R> {
        if inode.number == ROOT {
            return Ok(work(Target::Dir(&*self.root))?);
        }
        let place = read(&inode.place);
        if let Some((parent, entry)) = place.names.first() {
            let (dir, _wide) = self.enter(parent, SEARCH)?;
            return Ok(work(Target::Named(&*dir, entry))?);
        }
        match &place.orphan {
            Some(node) => Ok(work(Target::Node(node))?),
            None => Err(Errno::STALE.into()),
        }
    }

    /// As [`Self::with_target`], to change attributes: of an open file no header is written meanwhile, which would put back
    /// what it saw before (FORMAT 5.5).
    pub(super) fn change_target<R>(
        &self,
        inode: &Inode<B>,
        change: impl FnOnce(Target<'_, B>) -> crate::store::Result<R>,
    ) -> Result<R> {
        if inode.kind != FileKind::Regular {
            return self.with_target(inode, change);
        }
        // Held to the end: the file cannot be opened meanwhile.
        let slot = lock(&inode.content);
        self.with_target(inode, |target| {
            let _held = slot.content.as_ref().map(|content| content.hold_header());
            change(target)
        })
    }

    /// Opens the backing file of a regular inode, whatever its mode if this process owns it.
    pub(super) fn open_backing(&self, inode: &Inode<B>, access: Access) -> Result<B::File> {
        let nameless = |node: &B::Node| {
            self.modes.despite_mode(Target::Node(node), READ_WRITE, || self.backing.open_node(node, access))
        };
        self.open_by(inode, |dir, entry| self.modes.open(dir, entry, access), nameless)
    }

    /// Changes the mode of an object.
    pub(super) fn change_mode(
        &self,
        inode: &Inode<B>,
        change: impl FnOnce(Target<'_, B>) -> crate::store::Result<()>,
    ) -> Result<()> {
        let known = Some(&inode.dir.rights);
        self.change_target(inode, |target| {
            self.modes.change(target, known, || {
                change(target)?;
                if self.modes.matter() && inode.kind == FileKind::Regular {
                    inode.set_id.store(self.backing.stat(target)?.mode & SET_ID, Ordering::Release);
                }
                Ok(())
            })
        })
    }

    /// Finds out whether a file has setuid or setgid, which a daemon without privilege takes away when it writes.
    pub(super) fn learn_set_id(&self, inode: &Inode<B>) {
        if self.modes.matter()
            && inode.set_id.load(Ordering::Acquire) == SET_ID_UNKNOWN
            && let Err(error) = self.change_mode(inode, |_| Ok(()))
        {
            tracing::debug!(ino = inode.number, "whether a file is setuid or setgid is not known: {error}");
        }
    }

    /// Puts setuid and setgid back that went with pages which the kernel had held dirty. When they were written to, it took away
    /// what had to go; what is there by now was set since.
    pub(super) fn keep_set_id(&self, inode: &Inode<B>) {
        if matches!(inode.set_id.load(Ordering::Acquire), 0 | SET_ID_UNKNOWN) {
            return;
        }
        let kept = self.change_target(inode, |target| {
            self.modes.change(target, None, || {
                let bits = inode.set_id.load(Ordering::Acquire);
                let mode = self.backing.stat(target)?.mode;
                if mode & bits == bits { Ok(()) } else { self.backing.set_mode(target, mode | bits) }
            })
        });
        if let Err(error) = kept {
            tracing::warn!(ino = inode.number, "setuid or setgid was lost when pages were stored: {error}");
        }
    }

    /// Opens the backing file of a regular inode if its mode allows it.
    pub(super) fn open_plain(&self, inode: &Inode<B>, access: Access) -> Result<B::File> {
        let nameless = |node: &B::Node| self.backing.open_node(node, access);
        self.open_by(inode, |dir, entry| self.backing.open(dir, entry, access), nameless)
    }

    fn open_by(
        &self,
        inode: &Inode<B>,
        open: impl FnOnce(&B::Dir, &str) -> crate::store::Result<B::File>,
        nameless: impl FnOnce(&B::Node) -> crate::store::Result<B::File>,
    ) -> Result<B::File> {
        let place = read(&inode.place);
        if let Some((parent, entry)) = place.names.first() {
            let (dir, _wide) = self.enter(parent, SEARCH)?;
            let file = open(&dir, entry)?;
            let same = self.is_same(inode, &file.stat()?) && self.born(Target::File(&file)) == inode.born;
            return if same { Ok(file) } else { Err(Errno::STALE.into()) };
        }
        match &place.orphan {
            Some(node) => Ok(nameless(node)?),
            None => Err(Errno::STALE.into()),
        }
    }

    pub(super) fn stat(&self, inode: &Inode<B>) -> Result<Stat> {
        let found = self
            .with_target(inode, |target| self.modes.stat(target))
            .and_then(|stat| if self.is_same(inode, &stat) { Ok(stat) } else { Err(Errno::STALE.into()) });
        match (found, inode.open_content()) {
            // Who has it open still has it when somebody else gave its name away.
            (Err(_), Some(content)) if self.options.read_only => Ok(content.stat()?),
            (found, _) => found,
        }
    }

    /// Whether what was found is still the inode: beside a read-only mount somebody else may give names and numbers to
    /// other objects. The kernel answers `ESTALE` with a new lookup.
    fn is_same(&self, inode: &Inode<B>, stat: &Stat) -> bool {
        self.table.number_of(stat.ino) == inode.number && stat.kind == inode.kind
    }

    /// Attributes as the kernel gets them.
    pub(super) fn attr_of(&self, inode: &Inode<B>, stat: &Stat) -> Attr {
        let id = (inode.number, inode.generation.load(Ordering::Acquire));
        Attr::new(id, self.plain_size(inode, stat), self.plain_nlink(inode, stat), stat)
    }

    /// Plaintext size: from the open content where there is one, else by arithmetic on the stored size, which in a read-only
    /// mount somebody else may have changed. Never an error: a damaged file must stay listable.
    fn plain_size(&self, inode: &Inode<B>, stat: &Stat) -> u64 {
        match stat.kind {
            FileKind::Regular => {
                let open = if self.options.read_only { None } else { inode.open_size() };
                open.unwrap_or_else(|| self.volume.geometry.lenient_plain_size(stat.size))
            }
            FileKind::Symlink => symlink::shown_size(stat.size),
            _ => stat.size,
        }
    }

    /// Names of an inode. The root's backing directory counts `.kmsfs`, which nobody sees.
    fn plain_nlink(&self, inode: &Inode<B>, stat: &Stat) -> u64 {
        if inode.number == ROOT && stat.nlink > 2 { stat.nlink - 1 } else { stat.nlink }
    }

    /// Where a plaintext name of a directory stands in the backing, for what `need` says. The caller holds the
    /// directory's entries.
    pub(super) fn locate(&self, parent: &Arc<Inode<B>>, name: &[u8], need: u32) -> Result<Located<B>> {
        let (dir, wide) = self.enter(parent, need)?;
        let id = self.dir_id(parent)?;
        let name = self.names.encode(id, name)?;
        Ok(Located { parent: Arc::clone(parent), dir, name, _wide: wide })
    }

    /// When an object was made, in a read-only mount: beside it somebody else may give its number to another.
    fn born(&self, target: Target<'_, B>) -> Option<FileTime> {
        if self.options.read_only { self.backing.birth_time(target).ok().flatten() } else { None }
    }

    /// The inode behind an entry that was just seen or made, with one more reference of the kernel.
    pub(super) fn refer(&self, located: &Located<B>, stat: &Stat) -> Arc<Inode<B>> {
        let number = self.table.number_of(stat.ino);
        let inode = self.table.refer_born(number, stat.kind, self.born(located.target()), 1);
        let mut place = write(&inode.place);
        if self.options.read_only {
            // A number that another directory had, maybe.
            if place.names.is_empty() {
                self.close_dir(&inode);
            }
            // Only what was just seen is known to be true.
            place.names.clear();
        }
        place.add(&located.parent, located.entry());
        drop(place);
        inode
    }
}
