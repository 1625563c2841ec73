//! Walking a volume's whole tree with several threads: ciphertext and plaintext paths of everything, and what is wrong
//! with directories, names, symlinks and attributes on the way.

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::finding::{Finding, Paths, Reason};
use super::names::{Entry, Identity, LiveDirs, entries, read_leniently, read_strictly, stored_id};
use super::progress::Progress;
use crate::format::Outcome;
use crate::format::header::StaticHeader;
use crate::format::keys::VolumeKeys;
use crate::format::name::NameCodec;
use crate::format::{symlink, xattr};
use crate::store::{self, Access, Backing, BackingFile, FileKind, LIST, Modes, OpenDir, Stat, Target};
use crate::sync::{Arc, Condvar, Mutex, lock};
use crate::sys::threads;

/// Where what has no name any more is shown, and moved to by `repair`.
pub const LOST_AND_FOUND: &str = "lost+found";

/// Longest name.
const NAME_MAX: usize = 255;

/// Files that wait for a thread at most, before directories are left for later: it bounds memory.
const FILES_AHEAD: usize = 65_536;

/// Directories whose files wait, at most, if the process may have eight times as many descriptors: each is kept open.
const DIRECTORIES_AHEAD: u64 = 4096;

/// What happens to each thing that a walk meets. Called from several threads at once.
pub trait Visitor<B: Backing>: Send + Sync {
    /// A regular file.
    fn file(&self, file: &Visit<'_, B>);
    /// A directory, before its entries.
    fn directory(&self, _dir: &DirVisit<'_, B>) {}
    /// Anything else: a symlink, fifo, socket or device.
    fn other(&self, _object: &Visit<'_, B>) {}
    /// An encrypted attribute of an object, of which `stored` is the name on the backing, that does not decode.
    fn attribute(&self, object: (&Paths, &Stat), _stored: &str, outcome: Outcome) {
        self.finding(Finding::new(object.0, outcome.into()));
    }
    /// Something is wrong.
    fn finding(&self, finding: Finding);
}

/// A regular file, or something that is no directory, that was met.
pub struct Visit<'a, B: Backing> {
    /// The tree, and what of it is used despite its mode.
    pub modes: &'a Arc<Modes<B>>,
    /// The directory it is in.
    pub dir: &'a B::Dir,
    /// Its name there.
    pub entry: &'a str,
    /// Where it lies.
    pub paths: &'a Paths,
    /// Its attributes.
    pub stat: &'a Stat,
}

impl<B: Backing> Visit<'_, B> {
    /// Opens it, whatever its mode if this process owns it.
    ///
    /// # Errors
    /// The backing's.
    pub fn open(&self, access: Access) -> store::Result<B::File> {
        self.modes.open(self.dir, self.entry, access)
    }
}

/// A directory that was met.
pub struct DirVisit<'a, B: Backing> {
    /// The tree, and what of it is used despite its mode.
    pub modes: &'a Arc<Modes<B>>,
    /// The directory.
    pub dir: &'a B::Dir,
    /// Where it lies.
    pub paths: &'a Paths,
    /// Its id.
    pub identity: Identity,
    /// What is in it, kmsfs' own entries included.
    pub entries: &'a [Entry],
}

/// How a walk goes.
#[derive(Clone, Copy)]
pub struct Walk<'a> {
    /// The volume's names.
    pub names: &'a NameCodec,
    /// The volume's keys.
    pub keys: &'a VolumeKeys,
    /// Threads.
    pub threads: usize,
    /// Names are read as far as anything vouches for them; what has none lies in `lost+found`. Without it only what is as it
    /// should be has a plaintext path.
    pub lenient: Option<&'a LiveDirs>,
}

/// Walks the tree of `modes`. Stops early, without an error, when `progress` says so.
pub fn walk<B: Backing, V: Visitor<B>>(
    modes: &Arc<Modes<B>>,
    how: Walk<'_>,
    visitor: &V,
    progress: &dyn Progress,
) -> Result<(), Errno> {
    let root = Arc::new(modes.root(LIST)?);
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let directories = DIRECTORIES_AHEAD.min(descriptors / 8).max(1) as usize;
    let queue = Queue::new(Job::Dir { parent: root, entry: None, paths: Paths::root() }, directories);
    let walker = Walker { modes, how, visitor, progress, queue: &queue };
    std::thread::scope(|scope| {
        // This thread is one of them. With fewer than there should be it takes longer.
        for _ in 1..how.threads {
            if let Err(error) = threads::spawn_scoped(scope, || walker.run()) {
                tracing::warn!("no further thread for the walk: {error}");
                break;
            }
        }
        walker.run();
    });
    Ok(())
}

enum Job<B: Backing> {
    /// A directory: an entry of `parent`, or `parent` itself.
    Dir {
        parent: Arc<OpenDir<B>>,
        entry: Option<String>,
        paths: Paths,
    },
    File {
        dir: Arc<OpenDir<B>>,
        entry: String,
        paths: Paths,
        stat: Stat,
    },
}

struct Queue<B: Backing> {
    state: Mutex<QueueState<B>>,
    changed: Condvar,
    /// Directories whose files wait, at most.
    directories: usize,
}

/// The files of a directory that wait.
struct Waiting<B: Backing> {
    dir: Arc<OpenDir<B>>,
    files: Vec<Job<B>>,
}

struct QueueState<B: Backing> {
    dirs: Vec<Job<B>>,
    /// By directory, none of which is empty.
    files: Vec<Waiting<B>>,
    files_waiting: usize,
    /// Jobs that a thread works on; they may bring new ones.
    active: usize,
}

impl<B: Backing> Queue<B> {
    fn new(first: Job<B>, directories: usize) -> Self {
        let state = QueueState { dirs: vec![first], files: Vec::new(), files_waiting: 0, active: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new(), directories }
    }

    fn push(&self, job: Job<B>) {
        let mut state = lock(&self.state);
        match &job {
            Job::Dir { .. } => state.dirs.push(job),
            Job::File { dir, .. } => {
                state.files_waiting += 1;
                // It is one of the last: those that are being listed.
                match state.files.iter_mut().rev().find(|waiting| Arc::ptr_eq(&waiting.dir, dir)) {
                    Some(waiting) => waiting.files.push(job),
                    None => {
                        let dir = Arc::clone(dir);
                        state.files.push(Waiting { dir, files: vec![job] });
                    }
                }
            }
        }
        self.changed.notify_one();
    }

    /// The next job; `None` when none is left and none can come.
    fn next(&self) -> Option<Job<B>> {
        let mut state = lock(&self.state);
        loop {
            // Directories first: the total is known early, and the bar tells the truth.
            let dirs_first = state.files_waiting < FILES_AHEAD && state.files.len() < self.directories;
            let dir = if dirs_first { state.dirs.pop() } else { None };
            let job = dir.or_else(|| state.next_file());
            if job.is_some() {
                state.active += 1;
                return job;
            }
            if state.active == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn done(&self) {
        let mut state = lock(&self.state);
        state.active -= 1;
        if state.active == 0 {
            self.changed.notify_all();
        }
    }
}

impl<B: Backing> QueueState<B> {
    fn next_file(&mut self) -> Option<Job<B>> {
        let files = &mut self.files.last_mut()?.files;
        let file = files.pop();
        self.files_waiting -= 1;
        if files.is_empty() {
            self.files.pop();
        }
        file
    }
}

struct Walker<'a, B: Backing, V: Visitor<B>> {
    modes: &'a Arc<Modes<B>>,
    how: Walk<'a>,
    visitor: &'a V,
    progress: &'a dyn Progress,
    queue: &'a Queue<B>,
}

impl<B: Backing, V: Visitor<B>> Walker<'_, B, V> {
    fn run(&self) {
        while let Some(job) = self.queue.next() {
            if !self.progress.is_cancelled() {
                match &job {
                    Job::Dir { parent, entry, paths } => self.directory(parent, entry.as_deref(), paths),
                    Job::File { dir, entry, paths, stat } => {
                        self.visitor.file(&Visit { modes: self.modes, dir, entry, paths, stat });
                    }
                }
            }
            self.queue.done();
        }
    }

    fn report(&self, paths: &Paths, reason: impl Into<Reason>) {
        self.visitor.finding(Finding::new(paths, reason.into()));
    }

    /// Reports `error`, unless it says that the thing is gone: on a mounted volume that is no damage.
    fn failed(&self, paths: &Paths, error: Errno) {
        if !was_replaced(error) {
            self.report(paths, Reason::Os(error));
        }
    }

    fn directory(&self, parent: &Arc<OpenDir<B>>, entry: Option<&str>, paths: &Paths) {
        let dir = match entry {
            None => Arc::clone(parent),
            Some(entry) => match self.modes.open_dir(parent, entry, LIST) {
                Ok(dir) => Arc::new(dir),
                Err(e) => return self.failed(paths, e),
            },
        };
        let in_root = paths.ciphertext.is_empty();
        let read = entries(&**self.modes.backing(), &dir, in_root, |raw| {
            self.report(&paths.child(raw, None), Outcome::BadName)
        });
        let read = read.and_then(|entries| {
            let stored = stored_id(&**self.modes.backing(), &dir, self.how.names, &entries)?;
            Ok((entries, stored))
        });
        let (mut entries, stored) = match read {
            Ok(read) => read,
            Err(e) => return self.failed(paths, e),
        };
        if let Err(outcome) = stored {
            self.report(paths, outcome);
        }
        let Walk { names, lenient, .. } = self.how;
        let identity = match lenient {
            None => read_strictly(names, stored, &mut entries),
            Some(live) => read_leniently(names, stored, &mut entries, live),
        };
        self.visitor.directory(&DirVisit { modes: self.modes, dir: &dir, paths, identity, entries: &entries });
        for entry in entries.iter().filter(|entry| !entry.kind.is_hidden()) {
            let name = entry.name.as_ref().map(|(name, _)| name.as_slice());
            let mut child = paths.child(entry.raw.as_bytes(), name);
            if name.is_none() && lenient.is_some() {
                let lost = lost_name(self.modes, &dir, &entry.raw, entry.displaced.as_deref());
                child.plaintext = Some([LOST_AND_FOUND.as_bytes(), b"/", &lost].concat());
            }
            if stored.is_ok_and(|own| entry.name.as_ref().is_none_or(|(_, id)| *id != own)) {
                self.report(&child, Outcome::BadName);
            }
            self.entry(&dir, &entry.raw, child);
        }
    }

    fn entry(&self, dir: &Arc<OpenDir<B>>, entry: &str, paths: Paths) {
        let stat = match self.modes.stat(Target::Named(&***dir, entry)) {
            Ok(stat) => stat,
            Err(e) => return self.failed(&paths, e),
        };
        self.attributes(dir, entry, &paths, &stat);
        match stat.kind {
            FileKind::Directory => {
                self.queue.push(Job::Dir { parent: Arc::clone(dir), entry: Some(entry.to_owned()), paths });
            }
            FileKind::Regular => {
                self.progress.found(1, stat.size);
                self.queue.push(Job::File { dir: Arc::clone(dir), entry: entry.to_owned(), paths, stat });
            }
            FileKind::Symlink => {
                match self.modes.backing().read_link(Target::Named(&***dir, entry)) {
                    Ok(text) => {
                        if let Err(outcome) = symlink::decode(self.how.keys, &text) {
                            self.report(&paths, outcome);
                        }
                    }
                    Err(e) => return self.failed(&paths, e),
                }
                self.visitor.other(&Visit { modes: self.modes, dir, entry, paths: &paths, stat: &stat });
            }
            _ => self.visitor.other(&Visit { modes: self.modes, dir, entry, paths: &paths, stat: &stat }),
        }
    }

    /// The encrypted attributes of an object (FORMAT 8.4).
    fn attributes(&self, dir: &B::Dir, entry: &str, paths: &Paths, stat: &Stat) {
        if stat.kind == FileKind::Symlink {
            // Linux has no user attributes there.
            return;
        }
        let names = match self.modes.backing().list_xattrs(Target::Named(dir, entry)) {
            Ok(names) => names,
            Err(Errno::OPNOTSUPP) => return,
            Err(e) => return self.failed(paths, e),
        };
        for disk in names.iter().filter(|name| name.starts_with(xattr::DISK_PREFIX)) {
            let value = match self.modes.get_xattr(Target::Named(dir, entry), disk) {
                Ok(value) => value,
                Err(Errno::NODATA) => continue,
                Err(e) => {
                    self.failed(paths, e);
                    continue;
                }
            };
            let decoded = if xattr::is_long(disk) {
                xattr::decode_long(self.how.keys, disk, &value).map(drop)
            } else {
                let name = xattr::decode_name(self.how.keys, disk.as_bytes());
                name.and_then(|name| xattr::decode_value(self.how.keys, &name, &value).map(drop))
            };
            if let Err(outcome) = decoded {
                self.visitor.attribute((paths, stat), disk, outcome);
            }
        }
    }
}

/// Whether an error of opening what was listed under a name says that it is there no more, or something of another type in its
/// place.
pub(super) fn was_replaced(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NXIO)
}

/// What an entry is called in `lost+found` (FORMAT 8.5): its file id, else its inode number, and behind it its `name`, if that is known
/// and there is room for it.
pub fn lost_name<B: Backing>(modes: &Modes<B>, dir: &B::Dir, entry: &str, name: Option<&[u8]>) -> Vec<u8> {
    let id = lost_id(modes, dir, entry);
    match name {
        Some(name) if id.len() + 1 + name.len() <= NAME_MAX => [id.as_bytes(), b".", name].concat(),
        _ => id.into_bytes(),
    }
}

fn lost_id<B: Backing>(modes: &Modes<B>, dir: &B::Dir, entry: &str) -> String {
    let header = modes.open(dir, entry, Access::Read).ok().and_then(|file| {
        let mut header = [0; 48];
        let read = file.read_at(&mut header, 0).is_ok_and(|len| len == header.len());
        StaticHeader::parse(&header).ok().filter(|_| read)
    });
    match (header, modes.stat(Target::Named(dir, entry))) {
        (Some(header), _) => header.file_id().to_string(),
        (None, Ok(stat)) => format!("{:016x}", stat.ino),
        (None, Err(_)) => entry.to_owned(),
    }
}
