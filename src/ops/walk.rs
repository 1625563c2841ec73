//! Walking a volume's whole tree with several threads: ciphertext and plaintext paths of everything, and what is wrong
//! with directories, names, symlinks and attributes on the way.

use rustix::io::Errno;

use super::finding::{Finding, Paths, Reason};
use super::progress::Progress;
use crate::format::Outcome;
use crate::format::dirid;
use crate::format::keys::VolumeKeys;
use crate::format::name::{EntryKind, MAX_SIDE, NameCodec, side_entry};
use crate::format::{symlink, xattr};
use crate::store::tree::{each_entry, read_meta};
use crate::store::{Backing, FileKind, Stat, Target};
use crate::sync::{Arc, Condvar, Mutex, lock, thread};
use crate::types::DirId;

/// Files that wait for a thread at most, before directories are left for later: it bounds memory.
const FILES_AHEAD: usize = 65_536;

/// What happens to each thing that a walk meets. Called from several threads at once.
pub trait Visitor<B: Backing>: Send + Sync {
    /// A regular file.
    fn file(&self, file: &Visit<'_, B>);
    /// A directory with a valid id, before its entries.
    fn directory(&self, paths: &Paths, id: DirId);
    /// Something is wrong.
    fn finding(&self, finding: Finding);
}

/// A regular file that was met.
pub struct Visit<'a, B: Backing> {
    /// The tree.
    pub backing: &'a Arc<B>,
    /// The directory it is in.
    pub dir: &'a B::Dir,
    /// Its name there.
    pub entry: &'a str,
    /// Where it lies.
    pub paths: &'a Paths,
    /// Its attributes.
    pub stat: &'a Stat,
}

/// Walks the tree of `backing` with `threads` threads. Stops early, without an error, when `progress` says so.
pub fn walk<B: Backing, V: Visitor<B>>(
    backing: &Arc<B>,
    names: &NameCodec,
    keys: &VolumeKeys,
    threads: usize,
    visitor: &V,
    progress: &dyn Progress,
) -> Result<(), Errno> {
    let root = Arc::new(backing.root()?);
    let queue = Queue::new(Job::Dir { parent: root, entry: None, paths: Paths::root() });
    let walker = Walker { backing, names, keys, visitor, progress, queue: &queue };
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| walker.run());
        }
    });
    Ok(())
}

enum Job<B: Backing> {
    /// A directory: an entry of `parent`, or `parent` itself.
    Dir {
        parent: Arc<B::Dir>,
        entry: Option<String>,
        paths: Paths,
    },
    File {
        dir: Arc<B::Dir>,
        entry: String,
        paths: Paths,
        stat: Stat,
    },
}

struct Queue<B: Backing> {
    state: Mutex<QueueState<B>>,
    changed: Condvar,
}

struct QueueState<B: Backing> {
    dirs: Vec<Job<B>>,
    files: Vec<Job<B>>,
    /// Jobs that a thread works on; they may bring new ones.
    active: usize,
}

impl<B: Backing> Queue<B> {
    fn new(first: Job<B>) -> Self {
        let state = QueueState { dirs: vec![first], files: Vec::new(), active: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn push(&self, job: Job<B>) {
        let mut state = lock(&self.state);
        match job {
            dir @ Job::Dir { .. } => state.dirs.push(dir),
            file @ Job::File { .. } => state.files.push(file),
        }
        self.changed.notify_one();
    }

    /// The next job; `None` when none is left and none can come.
    fn next(&self) -> Option<Job<B>> {
        let mut state = lock(&self.state);
        loop {
            // Directories first: the total is known early, and the bar tells the truth.
            let dirs_first = state.files.len() < FILES_AHEAD;
            let job = if dirs_first { state.dirs.pop().or_else(|| state.files.pop()) } else { state.files.pop() };
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

struct Walker<'a, B: Backing, V: Visitor<B>> {
    backing: &'a Arc<B>,
    names: &'a NameCodec,
    keys: &'a VolumeKeys,
    visitor: &'a V,
    progress: &'a dyn Progress,
    queue: &'a Queue<B>,
}

/// One entry of a directory, with the text of its side entry.
struct Entry {
    name: String,
    kind: EntryKind,
    side: Option<Vec<u8>>,
}

impl<B: Backing, V: Visitor<B>> Walker<'_, B, V> {
    fn run(&self) {
        while let Some(job) = self.queue.next() {
            if !self.progress.is_cancelled() {
                match &job {
                    Job::Dir { parent, entry, paths } => self.directory(parent, entry.as_deref(), paths),
                    Job::File { dir, entry, paths, stat } => {
                        self.visitor.file(&Visit { backing: self.backing, dir, entry, paths, stat });
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
        if error != Errno::NOENT {
            self.report(paths, Reason::Os(error));
        }
    }

    fn directory(&self, parent: &Arc<B::Dir>, entry: Option<&str>, paths: &Paths) {
        let dir = match entry {
            None => Arc::clone(parent),
            Some(entry) => match self.backing.open_dir(parent, entry) {
                Ok(dir) => Arc::new(dir),
                Err(e) => return self.failed(paths, e),
            },
        };
        let entries = match self.entries(&dir, paths) {
            Ok(entries) => entries,
            Err(e) => return self.failed(paths, e),
        };
        let id = self.dir_id(&dir, &entries, paths);
        if let Some(id) = id {
            self.visitor.directory(paths, id);
        }
        for entry in &entries {
            if entry.kind.is_hidden() {
                continue;
            }
            let name = id.and_then(|id| self.names.decode(id, entry.name.as_bytes(), entry.side.as_deref()).ok());
            let child = paths.child(entry.name.as_bytes(), name.as_deref());
            if id.is_some() && name.is_none() {
                self.report(&child, Outcome::BadName);
            }
            self.entry(&dir, &entry.name, child);
        }
    }

    /// The entries of a directory, the texts of side entries read.
    fn entries(&self, dir: &B::Dir, paths: &Paths) -> Result<Vec<Entry>, Errno> {
        let mut entries = Vec::new();
        each_entry(&**self.backing, dir, |found| {
            let kind = EntryKind::of(&found.name, paths.ciphertext.is_empty());
            let Ok(name) = std::str::from_utf8(&found.name) else {
                // No name of the format has such bytes.
                self.report(paths, Outcome::BadName);
                return Ok(true);
            };
            let side = match kind {
                EntryKind::Long => read_meta(&**self.backing, dir, &side_entry(name), MAX_SIDE)?.into_text(),
                _ => None,
            };
            entries.push(Entry { name: name.to_owned(), kind, side });
            Ok::<_, Errno>(true)
        })?;
        Ok(entries)
    }

    /// The directory's id, if it is valid and its own.
    fn dir_id(&self, dir: &B::Dir, entries: &[Entry], paths: &Paths) -> Option<DirId> {
        let found = match read_meta(&**self.backing, dir, dirid::ENTRY, dirid::TEXT_LEN) {
            Ok(found) => found,
            Err(e) => {
                self.failed(paths, e);
                return None;
            }
        };
        let own = dirid::decode(self.keys, found.as_found()).and_then(|id| {
            let encrypted = entries.iter().filter(|e| !e.kind.is_hidden());
            dirid::check(self.names, id, encrypted.map(|e| (e.name.as_bytes(), e.side.as_deref())))?;
            Ok(id)
        });
        own.inspect_err(|outcome| self.report(paths, *outcome)).ok()
    }

    fn entry(&self, dir: &Arc<B::Dir>, entry: &str, paths: Paths) {
        let stat = match self.backing.stat(Target::Named(&**dir, entry)) {
            Ok(stat) => stat,
            Err(e) => return self.failed(&paths, e),
        };
        self.attributes(&**dir, entry, &paths, stat.kind);
        match stat.kind {
            FileKind::Directory => {
                self.queue.push(Job::Dir { parent: Arc::clone(dir), entry: Some(entry.to_owned()), paths });
            }
            FileKind::Regular => {
                self.progress.found(1, stat.size);
                self.queue.push(Job::File { dir: Arc::clone(dir), entry: entry.to_owned(), paths, stat });
            }
            FileKind::Symlink => match self.backing.read_link(dir, entry) {
                Ok(text) => {
                    if let Err(outcome) = symlink::decode(self.keys, &text) {
                        self.report(&paths, outcome);
                    }
                }
                Err(e) => self.failed(&paths, e),
            },
            _ => {}
        }
    }

    /// The encrypted attributes of an object (FORMAT 8.4).
    fn attributes(&self, dir: &B::Dir, entry: &str, paths: &Paths, kind: FileKind) {
        if kind == FileKind::Symlink {
            // Linux has no user attributes there.
            return;
        }
        let names = match self.backing.list_xattrs(Target::Named(dir, entry)) {
            Ok(names) => names,
            Err(Errno::OPNOTSUPP) => return,
            Err(e) => return self.failed(paths, e),
        };
        for disk in names.iter().filter(|name| name.starts_with(xattr::DISK_PREFIX)) {
            let value = match self.backing.get_xattr(Target::Named(dir, entry), disk) {
                Ok(value) => value,
                Err(Errno::NODATA) => continue,
                Err(e) => {
                    self.failed(paths, e);
                    continue;
                }
            };
            let decoded = if xattr::is_long(disk) {
                xattr::decode_long(self.keys, disk, &value).map(drop)
            } else {
                let name = xattr::decode_name(self.keys, disk.as_bytes());
                name.and_then(|name| xattr::decode_value(self.keys, &name, &value).map(drop))
            };
            if let Err(outcome) = decoded {
                self.report(paths, outcome);
            }
        }
    }
}
