//! What was written below a directory and what of it was flushed, one after the other: enough to make what the disk may hold when the
//! power is cut at any moment.
//!
//! Of a SQLite file each sector of 512 bytes holds any version since the last flush of the file; so does one of another file, of which
//! the version at its last flush and the present one count. The names in a directory, those of directories too, are those of its last
//! flush or of any moment since, whatever others have: a flush of what has the name makes no name durable. What was written behind the place where a file was cut off is lost with the cut: it stands elsewhere.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::PAGE;
use crate::env::{Entropy, SeededEntropy, random};
use crate::sync::Arc;

const SECTOR: usize = 512;

/// By name, the number of what stands there.
type Names = BTreeMap<PathBuf, u64>;
type Bytes = Arc<Vec<u8>>;

/// What happened. Each is a moment at which the power can be cut.
pub(super) enum Event {
    /// SQLite wrote.
    Written { path: PathBuf, at: usize, bytes: Vec<u8> },
    /// SQLite cut a file off.
    Cut { path: PathBuf, len: usize },
    /// SQLite flushed a file: the pages that it had written, and its length.
    Flushed { path: PathBuf, pages: Vec<(usize, [u8; PAGE])>, len: usize },
    /// SQLite removed a file.
    Removed { path: PathBuf },
    /// What was found when somebody looked: the names by directory, and the files that are not SQLite's.
    Seen { names: BTreeMap<PathBuf, Names>, contents: BTreeMap<u64, Bytes> },
    /// A file that is not SQLite's was flushed, as it was seen last.
    FileFlushed { ino: u64 },
    /// The names in a directory were flushed, as they were seen last.
    DirFlushed { dir: PathBuf },
}

/// All that happened below a directory.
pub struct History {
    pub(super) root: PathBuf,
    pub(super) events: Vec<Event>,
}

/// Which of the versions the disk has.
#[derive(Debug)]
pub enum Left {
    /// Those of the last flush.
    Oldest,
    /// The last.
    Newest,
    /// Any, by this seed.
    Any(u64),
}

/// What is known at some moment.
#[derive(Default)]
struct Moment<'h> {
    databases: HashMap<&'h Path, Database<'h>>,
    /// What was removed, as it was flushed last.
    removed: HashMap<&'h Path, Vec<u8>>,
    contents: HashMap<u64, Content>,
    /// By directory, the names at its last flush, and each time that they were seen since.
    names: BTreeMap<&'h Path, Vec<&'h Names>>,
}

#[derive(Default)]
struct Database<'h> {
    flushed: Vec<u8>,
    since: Vec<&'h Event>,
}

struct Content {
    flushed: Bytes,
    seen: Bytes,
}

/// Whether a file is written by SQLite alone.
fn is_database(path: &Path) -> bool {
    let name = path.as_os_str().as_encoded_bytes();
    [&b".db"[..], b"-wal", b"-journal"].iter().any(|end| name.ends_with(end))
}

/// Looks at everything below `root`. An index of the log is no part of it: SQLite makes it anew.
pub(super) fn look(root: &Path) -> Event {
    let (mut names, mut contents) = (BTreeMap::<PathBuf, Names>::new(), BTreeMap::new());
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        let mut found = Names::new();
        for path in fs::read_dir(&dir).into_iter().flatten().map(|entry| entry.expect("an entry").path()) {
            // What is gone meanwhile was not seen.
            let Ok(meta) = path.symlink_metadata() else { continue };
            if meta.is_dir() {
                found.insert(path.clone(), meta.ino());
                waiting.push(path);
                continue;
            }
            if path.as_os_str().as_encoded_bytes().ends_with(b"-shm") {
                continue;
            }
            if !is_database(&path) {
                let Ok(bytes) = fs::read(&path) else { continue };
                contents.insert(meta.ino(), Arc::new(bytes));
            }
            found.insert(path, meta.ino());
        }
        names.insert(dir, found);
    }
    Event::Seen { names, contents }
}

impl History {
    /// How many moments there are.
    pub fn moments(&self) -> usize {
        self.events.len()
    }

    /// Makes in the empty directory `copy` what the disk holds when the power is cut after so many events.
    pub fn cut(&self, after: usize, left: &Left, copy: &Path) {
        let moment = self.moment(after);
        let pick = Pick::new(left);
        // A directory is there if the one above it has its name, which comes before it here.
        let mut there = HashSet::from([&*self.root]);
        for (dir, seen) in &moment.names {
            let place = copy.join(dir.strip_prefix(&self.root).expect("it is below"));
            if !there.contains(dir) {
                continue;
            }
            for (path, ino) in seen[pick.one_of(seen.len())] {
                if moment.names.contains_key(&**path) {
                    there.insert(path);
                    let inner = place.join(path.file_name().expect("a name"));
                    fs::DirBuilder::new().mode(0o700).create(inner).expect("made");
                    continue;
                }
                let bytes = match (moment.databases.get(&**path), moment.contents.get(ino)) {
                    (Some(database), _) => database.left(&pick),
                    (None, Some(content)) => content.left(&pick),
                    (None, None) => moment.removed.get(&**path).cloned().unwrap_or_default(),
                };
                let name = path.file_name().expect("a name");
                let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(place.join(name));
                std::io::Write::write_all(&mut file.expect("made"), &bytes).expect("written");
            }
        }
    }

    fn moment(&self, after: usize) -> Moment<'_> {
        static NOTHING: Names = Names::new();
        let mut moment = Moment::default();
        for event in &self.events[..after] {
            match event {
                Event::Written { path, .. } | Event::Cut { path, .. } => {
                    moment.databases.entry(path).or_default().since.push(event);
                }
                Event::Flushed { path, pages, len } => moment.databases.entry(path).or_default().flush(pages, *len),
                Event::Removed { path } => {
                    let gone = moment.databases.remove(&**path).unwrap_or_default();
                    moment.removed.insert(path, gone.flushed);
                }
                Event::Seen { names, contents } => {
                    for (dir, found) in names {
                        moment.names.entry(dir).or_insert_with(|| vec![&NOTHING]).push(found);
                    }
                    for (ino, bytes) in contents {
                        let content = moment.contents.entry(*ino);
                        let new = || Content { flushed: Bytes::default(), seen: Bytes::default() };
                        content.or_insert_with(new).seen = bytes.clone();
                    }
                }
                Event::FileFlushed { ino } => {
                    if let Some(content) = moment.contents.get_mut(ino) {
                        content.flushed = content.seen.clone();
                    }
                }
                Event::DirFlushed { dir } => {
                    if let Some(seen) = moment.names.get_mut(&**dir) {
                        seen.drain(..seen.len() - 1);
                    }
                }
            }
        }
        moment
    }
}

impl Database<'_> {
    fn flush(&mut self, pages: &[(usize, [u8; PAGE])], len: usize) {
        for event in self.since.drain(..) {
            if let Event::Cut { len, .. } = event {
                self.flushed.truncate(*len);
            }
        }
        for (page, bytes) in pages {
            let end = self.flushed.len().max((page + 1) * PAGE);
            self.flushed.resize(end, 0);
            self.flushed[page * PAGE..(page + 1) * PAGE].copy_from_slice(bytes);
        }
        self.flushed.resize(len, 0);
    }

    fn left(&self, pick: &Pick) -> Vec<u8> {
        let (mut bytes, mut end) = (self.flushed.clone(), usize::MAX);
        for event in &self.since {
            match event {
                Event::Cut { len, .. } if pick.takes() => bytes.truncate(*len),
                Event::Cut { len, .. } => end = end.min(*len),
                Event::Written { at, bytes: written, .. } => {
                    for (from, to) in sectors(*at, (at + written.len()).min(end)) {
                        if pick.takes() {
                            bytes.resize(bytes.len().max(to), 0);
                            bytes[from..to].copy_from_slice(&written[from - at..to - at]);
                        }
                    }
                }
                _ => {}
            }
        }
        bytes
    }
}

impl Content {
    fn left(&self, pick: &Pick) -> Vec<u8> {
        let (flushed, seen) = (&self.flushed, &self.seen);
        if flushed == seen || seen.len() < flushed.len() {
            return if pick.takes() { seen.to_vec() } else { flushed.to_vec() };
        }
        let mut bytes = flushed.to_vec();
        bytes.resize(flushed.len() + pick.one_of(seen.len() - flushed.len() + 1), 0);
        for (from, to) in sectors(0, bytes.len()) {
            if pick.takes() {
                bytes[from..to].copy_from_slice(&seen[from..to]);
            }
        }
        bytes
    }
}

/// The parts of a range that lie in one sector each.
fn sectors(from: usize, to: usize) -> impl Iterator<Item = (usize, usize)> {
    let first = from / SECTOR;
    (first..to.div_ceil(SECTOR).max(first))
        .map(move |sector| (from.max(sector * SECTOR), to.min((sector + 1) * SECTOR)))
}

/// Draws as [`Left`] says.
enum Pick {
    First,
    Last,
    Any(SeededEntropy),
}

impl Pick {
    fn new(left: &Left) -> Self {
        match left {
            Left::Oldest => Self::First,
            Left::Newest => Self::Last,
            Left::Any(seed) => Self::Any(SeededEntropy::new(*seed)),
        }
    }

    fn one_of(&self, count: usize) -> usize {
        let number = |entropy: &dyn Entropy| u64::from_le_bytes(random(entropy)) as usize;
        match self {
            Self::First => 0,
            Self::Last => count - 1,
            Self::Any(entropy) => number(entropy) % count,
        }
    }

    /// Whether what was written is on the disk.
    fn takes(&self) -> bool {
        self.one_of(2) == 1
    }
}
