//! A workload on a recorded volume, and what the volume held after each of its steps.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, mpsc};

use kmsfs::content::{Content, Rewrapped};
use kmsfs::keys::RewrapJob;
use kmsfs::ops::rewrap::rewrap_files_by;
use kmsfs::ops::{Finding, Reason, Silent, Visit};
use kmsfs::store::{Access, Allocate, Backing, Fault, Faulty, FileKind, Memory, OpClass, RawEntry, Record, RenameMode};
use rustix::io::Errno;

use crate::fixture::Fixture;
use crate::model::subject::{Mounted, Result, Subject};

pub type Volume = Mounted<Faulty<Memory>>;

/// A path with its parts between slashes.
pub type Path = &'static str;

/// What an application, or the administrator, does. Files stay open until the volume is mounted again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Create(Path),
    /// A file without a name. Until it gets it by [`Step::LinkUnnamed`], steps that name this path mean that file.
    CreateUnnamed(Path),
    LinkUnnamed(Path),
    /// So many bytes, none of them zero and not those of any other step.
    Write(Path, u64, usize),
    SetLen(Path, u64),
    Punch(Path, u64, u64),
    Zero(Path, u64, u64),
    Reserve(Path, u64, u64),
    Fsync(Path),
    /// An fsync, and a write like [`Step::Write`] that the flush misses: it is done before the fsync is.
    FsyncBeside(Path, u64, usize),
    Fdatasync(Path),
    /// Each file is flushed by itself, whether or not that succeeds.
    FsyncAll,
    /// The whole content of each file is written anew.
    WriteAgain,
    /// All files are closed; the volume stays mounted.
    CloseAll,
    FsyncDir(Path),
    Mkdir(Path),
    Rmdir(Path),
    Symlink(Path),
    Rename(Path, Path),
    Exchange(Path, Path),
    Link(Path, Path),
    Unlink(Path),
    SetXattr(Path),
    /// The one file is rewrapped while nothing is mounted.
    Rewrap(Path),
    /// All files are, within the mount.
    RewrapMounted,
    /// What has changed is settled in the freshness record.
    Settle,
    /// The process is killed and the volume mounted again; nothing is flushed.
    Remount,
    /// The next flush fails.
    FailNextSync,
    /// The next change of a file's size fails, on the backing.
    FailNextResize,
    /// From now on the backing cannot let two entries change places.
    LackExchange,
}

/// An object of the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    Directory,
    Symlink,
    /// Its number in [`Run::files`].
    File(usize),
}

pub type Tree = BTreeMap<String, Node>;

/// What a file held.
pub struct File {
    /// Its number on the backing, if it was made in the run.
    pub ino: Option<u64>,
    /// Each content with the number of steps done when it was complete.
    pub versions: Vec<(usize, Arc<Vec<u8>>)>,
    /// The bytes that each of them changed.
    pub changed: Vec<Range<usize>>,
    /// After how many steps the file was flushed, and which version that was.
    pub flushed: Vec<(usize, usize)>,
    /// The same of the flushes that failed: their caller knows that what was written before may be lost.
    pub lost: Vec<(usize, usize)>,
}

impl File {
    fn new(step: usize, ino: Option<u64>, content: Vec<u8>) -> Self {
        let whole = 0..content.len();
        let changed = Vec::from([whole]);
        Self { ino, versions: vec![(step, Arc::new(content))], changed, flushed: Vec::new(), lost: Vec::new() }
    }

    /// Notes how a flush ended, of which the caller knows.
    fn synced(&mut self, step: usize, version: usize, synced: Result<()>) -> Result<()> {
        if synced.is_ok() { &mut self.flushed } else { &mut self.lost }.push((step, version));
        synced
    }

    pub fn content(&self) -> &[u8] {
        &self.versions.last().expect("a file begins with a version").1
    }
}

/// A workload in progress. Step numbers count from 1; 0 is the volume at the start, all of it durable.
pub struct Run {
    pub volume: Volume,
    pub records: Vec<Record>,
    /// By step number, how many records were made when it was done.
    pub ends: Vec<usize>,
    /// By step number.
    pub trees: Vec<Tree>,
    pub files: Vec<File>,
    /// Whether a directory takes the place of another in two steps, with none at its name between them (FORMAT 8.1).
    pub lacks_exchange: bool,
    /// After so many steps bounds of sizes that are due are raised.
    raise_every: usize,
    open: HashMap<usize, usize>,
    unnamed: HashMap<Path, usize>,
}

pub fn parts(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
}

impl Run {
    /// Begins on a volume whose backing was recorded from its first operation on. `content` is what its files hold.
    pub fn begin(fixture: Fixture<Faulty<Memory>>, tree: Tree, content: Vec<Vec<u8>>) -> Self {
        let records = fixture.backing.stop_recording();
        fixture.backing.start_recording();
        let file = |content| File { flushed: vec![(0, 0)], ..File::new(0, None, content) };
        Self {
            volume: Mounted::new(fixture),
            ends: vec![records.len()],
            records,
            trees: vec![tree],
            files: content.into_iter().map(file).collect(),
            lacks_exchange: false,
            raise_every: 1,
            open: HashMap::new(),
            unnamed: HashMap::new(),
        }
    }

    /// The same, with bounds of sizes raised after each `steps` steps.
    #[must_use]
    pub fn raising_every(self, steps: usize) -> Self {
        Self { raise_every: steps, ..self }
    }

    pub fn base(&self) -> usize {
        self.ends[0]
    }

    pub fn tree(&self) -> &Tree {
        self.trees.last().expect("there is a tree at the start")
    }

    pub fn steps(mut self, steps: &[Step]) -> Self {
        for step in steps {
            // Whether it can be done is known at the end.
            let _ = self.step(*step);
        }
        self
    }

    /// A step that fails has no effect on names, and none on contents that anybody may rely on.
    pub fn step(&mut self, step: Step) -> Result<()> {
        let number = self.ends.len();
        let mut tree = self.tree().clone();
        let done = self.apply(number, step, &mut tree);
        if number.is_multiple_of(self.raise_every) {
            self.volume.vfs.raise_floors();
        }
        let log = self.volume.fixture.backing.stop_recording();
        self.volume.fixture.backing.start_recording();
        if done.is_ok() {
            let flushes = |record: &Record| matches!(record, Record::Sync { .. } | Record::SyncDir { .. });
            let must_flush =
                matches!(step, Step::Fsync(_) | Step::FsyncBeside(..) | Step::Fdatasync(_) | Step::FsyncDir(_));
            assert!(!must_flush || log.iter().any(flushes), "{step:?} reached the disk");
        } else {
            tree = self.tree().clone();
        }
        self.records.extend(log);
        self.ends.push(self.records.len());
        self.trees.push(tree);
        done
    }

    fn apply(&mut self, number: usize, step: Step, tree: &mut Tree) -> Result<()> {
        match step {
            Step::Create(path) => {
                self.volume.create(&parts(path), 0o644)?;
                let file = self.add_file(number);
                tree.insert(path.into(), Node::File(file));
            }
            Step::CreateUnnamed(path) => {
                self.volume.create_unnamed(0o644)?;
                let file = self.add_file(number);
                self.unnamed.insert(path, file);
            }
            Step::LinkUnnamed(path) => {
                let file = *self.unnamed.get(path).ok_or(Errno::NOENT)?;
                self.volume.link_open(self.open[&file], &parts(path))?;
                self.unnamed.remove(path);
                tree.insert(path.into(), Node::File(file));
            }
            Step::Write(path, offset, len) => {
                let (file, handle) = self.file(path)?;
                let data = bytes(number, len);
                self.volume.write(handle, offset, &data)?;
                self.written(number, file, offset, &data);
            }
            Step::FsyncBeside(path, offset, len) => {
                let (file, handle) = self.file(path)?;
                let data = bytes(number, len);
                let version = self.files[file].versions.len() - 1;
                let (flushed, is_flushed) = mpsc::channel();
                let (written, is_written) = mpsc::channel();
                self.volume.fixture.backing.plan().beside_next_flush(move || {
                    flushed.send(()).expect("the writer waits");
                    is_written.recv().expect("the writer writes");
                });
                let volume = &self.volume;
                let (wrote, synced) = std::thread::scope(|scope| {
                    let synced = scope.spawn(move || volume.fsync(handle, false));
                    is_flushed.recv().expect("it flushes");
                    let wrote = volume.write(handle, offset, &data);
                    written.send(()).expect("the flush waits");
                    (wrote, synced.join().expect("no panic"))
                });
                let synced = self.files[file].synced(number, version, synced);
                wrote?;
                self.written(number, file, offset, &bytes(number, len));
                synced?;
            }
            Step::SetLen(path, len) => {
                let (file, handle) = self.file(path)?;
                let resized = self.volume.set_len(handle, len);
                self.noted_part(number, file, handle, resized)?;
                let (size, len) = (self.files[file].content().len(), len as usize);
                self.change(number, file, size.min(len)..size.max(len), |content| content.resize(len, 0));
            }
            Step::Punch(path, offset, len) => self.clear(number, path, Allocate::PunchHole, offset, len)?,
            Step::Zero(path, offset, len) => self.clear(number, path, Allocate::ZeroRange, offset, len)?,
            Step::Reserve(path, offset, len) => {
                let (_, handle) = self.file(path)?;
                self.volume.allocate(handle, Allocate::KeepSize, offset, len)?;
            }
            Step::Fsync(path) => self.sync(number, path, false)?,
            Step::Fdatasync(path) => self.sync(number, path, true)?,
            Step::FsyncAll => {
                for path in self.paths_of_files() {
                    // What comes of it is noted with the file.
                    let _ = self.sync(number, &path, false);
                }
            }
            Step::WriteAgain => {
                for path in self.paths_of_files() {
                    let (file, handle) = self.file(&path)?;
                    let content = self.files[file].content().to_vec();
                    self.volume.write(handle, 0, &content)?;
                    self.written(number, file, 0, &content);
                }
            }
            Step::CloseAll => {
                self.forget_failures(number);
                self.volume.known_when_closed();
                self.open.clear();
                self.unnamed.clear();
            }
            Step::FsyncDir(path) => self.volume.fsync_dir(&parts(path))?,
            Step::Mkdir(path) => {
                self.volume.mkdir(&parts(path), 0o755)?;
                tree.insert(path.into(), Node::Directory);
            }
            Step::Rmdir(path) => {
                self.volume.rmdir(&parts(path))?;
                tree.remove(path);
            }
            Step::Symlink(path) => {
                self.volume.symlink(&parts(path), b"target")?;
                tree.insert(path.into(), Node::Symlink);
            }
            Step::Rename(path, to) => {
                self.volume.rename(&parts(path), &parts(to), RenameMode::Replace)?;
                // Two names of one file stay both.
                if path != to && (tree[path] == Node::Directory || tree.get(to) != tree.get(path)) {
                    let moved = take(tree, path);
                    take(tree, to);
                    put(tree, to, moved);
                }
            }
            Step::Exchange(path, to) => {
                self.volume.rename(&parts(path), &parts(to), RenameMode::Exchange)?;
                if path != to {
                    let (first, second) = (take(tree, path), take(tree, to));
                    put(tree, to, first);
                    put(tree, path, second);
                }
            }
            Step::Link(path, to) => {
                self.volume.link(&parts(path), &parts(to))?;
                tree.insert(to.into(), tree[path].clone());
            }
            Step::Unlink(path) => {
                self.volume.unlink(&parts(path))?;
                tree.remove(path);
            }
            Step::SetXattr(path) => {
                let value = number.to_le_bytes();
                self.volume.set_xattr(&parts(path), "user.a", &value, kmsfs::store::XattrMode::Set)?;
            }
            Step::Rewrap(path) => self.rewrap(number, path)?,
            Step::RewrapMounted => {
                let rewrapped = self.rewrap_mounted();
                if rewrapped.is_err() {
                    // Of what nobody has open only the one who asked for it is told of a flush that fails.
                    let closed = |file: &(usize, &mut File)| !self.open.contains_key(&file.0);
                    for (_, file) in self.files.iter_mut().enumerate().filter(closed) {
                        file.lost.push((number, file.versions.len() - 1));
                    }
                }
                rewrapped?;
            }
            Step::Remount => self.remount(number),
            Step::Settle => {
                let flushes = || self.volume.fixture.backing.plan().count(&[OpClass::Sync]);
                let before = flushes();
                let settled = self.volume.vfs.settle().map_err(|e| e.errno());
                if flushes() > before {
                    // It flushes everything, if there is something to settle.
                    for file in &mut self.files {
                        // Behind a failure only an fsync vouches for what is written again.
                        if settled.is_err() || file.lost.is_empty() {
                            let _ = file.synced(number, file.versions.len() - 1, settled);
                        }
                    }
                }
                settled?;
            }
            Step::FailNextSync => {
                self.volume.fixture.backing.plan().inject(Fault::once(&[OpClass::Sync], 0, Errno::IO));
            }
            Step::FailNextResize => {
                self.volume.fixture.backing.plan().inject(Fault::once(&[OpClass::SetLen], 0, Errno::IO));
            }
            Step::LackExchange => {
                self.volume.fixture.backing.plan().inject(Fault::from(&[OpClass::Exchange], 0, Errno::INVAL));
                self.lacks_exchange = true;
            }
        }
        Ok(())
    }

    fn remount(&mut self, number: usize) {
        self.forget_failures(number);
        self.open.clear();
        self.unnamed.clear();
        self.volume.remount();
    }

    /// Whoever knew of a flush that failed is gone, and so is what an fsync would have told of it.
    fn forget_failures(&mut self, number: usize) {
        if self.volume.fixture.backing.plan().injected() > 0 {
            for file in &mut self.files {
                file.lost.push((number, file.versions.len() - 1));
            }
        }
    }

    fn paths_of_files(&self) -> Vec<String> {
        let files = self.tree().iter().filter(|(_, node)| matches!(node, Node::File(_)));
        files.map(|(path, _)| path.clone()).collect()
    }

    /// Notes the file that was opened last as a new one.
    fn add_file(&mut self, number: usize) -> usize {
        let file = self.files.len();
        let handle = self.volume.open_files() - 1;
        self.open.insert(file, handle);
        let ino = Some(self.volume.file_id(handle));
        self.files.push(File::new(number, ino, Vec::new()));
        file
    }

    /// A file by path, and its handle.
    fn file(&mut self, path: &str) -> Result<(usize, usize)> {
        let file = match (self.unnamed.get(path), self.tree().get(path)) {
            (Some(file), _) | (None, Some(Node::File(file))) => *file,
            _ => return Err(Errno::NOENT),
        };
        if let Some(handle) = self.open.get(&file) {
            return Ok((file, *handle));
        }
        self.volume.open(&parts(path), true)?;
        let handle = self.volume.open_files() - 1;
        self.open.insert(file, handle);
        Ok((file, handle))
    }

    fn written(&mut self, number: usize, file: usize, offset: u64, data: &[u8]) {
        let end = offset as usize + data.len();
        let size = self.files[file].content().len();
        self.change(number, file, size.min(offset as usize)..end, |content| {
            content.resize(size.max(end), 0);
            content[offset as usize..end].copy_from_slice(data);
        });
    }

    fn change(&mut self, number: usize, file: usize, changed: Range<usize>, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.files[file].content().to_vec();
        change(&mut content);
        self.files[file].versions.push((number, Arc::new(content)));
        self.files[file].changed.push(changed);
    }

    fn clear(&mut self, number: usize, path: &str, how: Allocate, offset: u64, len: u64) -> Result<()> {
        let (file, handle) = self.file(path)?;
        let cleared = self.volume.allocate(handle, how, offset, len);
        self.noted_part(number, file, handle, cleared)?;
        self.change(number, file, offset as usize..(offset + len) as usize, |content| {
            let end = content.len().min((offset + len) as usize);
            if (offset as usize) < end {
                content[offset as usize..end].fill(0);
            }
        });
        Ok(())
    }

    /// What fails to make zeros may have made some; passes the result on.
    fn noted_part(&mut self, number: usize, file: usize, handle: usize, done: Result<()>) -> Result<()> {
        if done.is_err() {
            let now = self.volume.read(handle, 0, self.files[file].content().len()).unwrap_or_default();
            let before = self.files[file].content();
            let differs = |at: &usize| now.get(*at).is_some_and(|byte| *byte != before[*at]);
            let mut differing = (0..before.len()).filter(differs);
            if let Some(first) = differing.next() {
                let last = differing.next_back().unwrap_or(first);
                self.change(number, file, first..last + 1, |content| content.copy_from_slice(&now));
            }
        }
        done
    }

    fn sync(&mut self, number: usize, path: &str, data_only: bool) -> Result<()> {
        let (file, handle) = self.file(path)?;
        let version = self.files[file].versions.len() - 1;
        let synced = self.volume.fsync(handle, data_only);
        self.files[file].synced(number, version, synced)
    }

    /// What `kmsfs rewrap` does with one file, which stands alone in the root: nothing is mounted meanwhile.
    fn rewrap(&mut self, number: usize, path: &str) -> Result<()> {
        self.remount(number);
        assert!(!path.contains('/'));
        let fixture = &self.volume.fixture;
        let (root, mut entries) = (fixture.backing.root()?, Vec::new());
        fixture.backing.read_list(&mut fixture.backing.list(&root)?, 0, &mut entries)?;
        let is_file = |entry: &RawEntry| {
            entry.kind == Some(FileKind::Regular) && !entry.name.starts_with(b"~") && !entry.name.starts_with(b".kmsfs")
        };
        entries.retain(is_file);
        let [only] = &entries[..] else { panic!("only one file is there: {}", entries.len()) };
        let name = std::str::from_utf8(&only.name).expect("text");
        let file = fixture.backing.open(&root, name, Access::ReadWrite)?;
        let (backing, volume) = (Arc::new(fixture.backing.clone()), Arc::new(fixture.volume()));
        let content = Content::open(backing, volume, file, Access::ReadWrite).map_err(|e| e.errno())?;
        let rewrapped = content.rewrap(&RewrapJob::default()).map_err(|e| e.errno())?;
        assert_eq!(rewrapped, Rewrapped::Yes);
        Ok(())
    }

    /// What `kmsfs rewrap` does with a volume that is mounted (`cli::control::rewrap`).
    fn rewrap_mounted(&self) -> Result<()> {
        let (vfs, job) = (&self.volume.vfs, RewrapJob::default());
        let watch = vfs.watch_moves().expect("no other job");
        let opened = self.volume.fixture.opened();
        let one = |file: &Visit<'_, _>| vfs.rewrap(file.dir, file.entry, &job);
        let report = rewrap_files_by(vfs.modes(), &opened, 1, &Silent, &one)?;
        for file in watch.end().iter() {
            match file.rewrap(&job) {
                Ok(_) | Err(kmsfs::content::Error::Os(Errno::NOENT)) => {}
                Err(error) => return Err(error.errno()),
            }
        }
        // A file of which nothing but its size was left has no key.
        let is_failure = |finding: &Finding| matches!(finding.reason, Reason::Os(_));
        if report.findings.iter().any(is_failure) { Err(Errno::IO) } else { Ok(()) }
    }
}

/// What a step writes.
fn bytes(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| ((number * 37 + at / 509) % 255) as u8 + 1).collect()
}

/// Takes an object and all below it out of a tree; paths relative to it.
fn take(tree: &mut Tree, path: &str) -> Vec<(String, Node)> {
    let below = format!("{path}/");
    let paths: Vec<String> = tree.keys().filter(|p| *p == path || p.starts_with(&below)).cloned().collect();
    paths.into_iter().map(|p| (p[path.len()..].to_owned(), tree.remove(&p).expect("it was just seen"))).collect()
}

fn put(tree: &mut Tree, path: &str, objects: Vec<(String, Node)>) {
    for (below, node) in objects {
        tree.insert(format!("{path}{below}"), node);
    }
}

/// Everything that a mounted volume shows, with types only.
pub fn visible(volume: &Volume) -> BTreeMap<String, FileKind> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![String::new()];
    while let Some(dir) = dirs.pop() {
        let entries = volume.list(&parts(&dir)).unwrap_or_else(|e| panic!("/{dir} can be listed: {e}"));
        for (name, kind) in entries {
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            if kind == FileKind::Directory {
                dirs.push(path.clone());
            }
            found.insert(path, kind);
        }
    }
    found
}
