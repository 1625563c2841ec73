//! Fetching ahead: bringing into memory what a walk over a tree will ask for next.
//!
//! A program that walks a tree waits for the disk at each step: for a directory, for the inodes in it, for the first bytes
//! of a file. Who has just asked for one directory or file in a parent will probably want others there, so these are read
//! meanwhile by threads of their own, and what they read is thrown away: it is then in the system's caches. Nothing is
//! kept here that could get old, nothing here can fail, and no access time moves.
//!
//! How far: for each one that was asked for at most [`FACTOR`] others of the same parent, so that work for nothing stays in
//! proportion to work that was asked for. And only as long as it helps: where nothing had to be waited for, because it was
//! in memory already, fetching pauses.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::tree::read_meta;
use super::{Backing, BackingFile, FileKind, RawEntry, Target};
use crate::format::dirid;
use crate::format::name::EntryKind;
use crate::sync::{Arc, Condvar, Mutex, lock};
use crate::sys::process::waits_of_this_thread;
use crate::sys::reserve;
use crate::sys::threads;

/// Entries fetched for one that was asked for.
const FACTOR: usize = 4;
/// Threads: the disk serves several requests at once.
const THREADS: usize = 2;
/// Parents watched at a time.
const WALKS: usize = 16;
/// Entries of one directory whose attributes are fetched at most.
const ENTRIES: usize = 512;
/// Inodes of ext4 in a block; those of xfs and btrfs lie as close. Who reads the attributes of one has read those of all.
const NEIGHBOURS: u64 = 16;
/// What is fetched of a file: its header and the first units.
const BYTES: u64 = 64 << 10;
/// So many in a row that were in memory already end it for [`PAUSE`].
const USELESS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(500);

/// What is fetched of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// A directory: its id, its listing, the attributes of what is in it.
    Directory,
    /// A regular file: its first bytes.
    File,
}

/// Fetches ahead until it is dropped.
pub struct Fetcher<B: Backing> {
    shared: Arc<Shared<B>>,
}

struct Shared<B: Backing> {
    backing: Arc<B>,
    walks: Mutex<Walks<B::Dir>>,
    /// There is something to fetch, or it is over.
    changed: Condvar,
}

/// What was asked for of late.
struct Walks<D> {
    /// The latest last.
    list: Vec<Walk<D>>,
    /// Of directories and of files: who goes through both at once may have the ones in memory and not the others.
    uses: [Use; 2],
    ended: bool,
}

/// Whether it is of use to fetch.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    /// Fetched in a row although they were in memory.
    useless: u32,
    paused_until: Option<Instant>,
}

/// One parent in which something was asked for.
struct Walk<D> {
    parent: u64,
    what: Ahead,
    dir: Arc<D>,
    /// Its entries that were neither asked for nor fetched yet, in the order of its listing; `None` before it is listed.
    coming: Option<VecDeque<String>>,
    /// Where the listing goes on; `None` behind its end.
    from: Option<u64>,
    /// The entry that was asked for last.
    last: String,
    /// How many may be fetched.
    allowed: usize,
}

/// What a thread does next.
enum Work<D> {
    List { parent: u64, what: Ahead, dir: Arc<D>, from: u64 },
    Fetch { what: Ahead, dir: Arc<D>, entry: String },
}

impl<D> Walks<D> {
    fn new() -> Self {
        Self { list: Vec::new(), uses: [Use::default(); 2], ended: false }
    }

    fn paused(&mut self, what: Ahead, now: Instant) -> bool {
        let of = &mut self.uses[what as usize];
        if of.paused_until.is_some_and(|until| until <= now) {
            // One try; if it helps, the next ones follow.
            *of = Use { useless: USELESS - 1, paused_until: None };
        }
        of.paused_until.is_some()
    }

    /// Notes that `entry` of `parent` was asked for.
    fn note(&mut self, what: Ahead, parent: u64, dir: &Arc<D>, entry: &str) {
        let at = self.list.iter().position(|walk| walk.parent == parent && walk.what == what);
        let mut walk = match at {
            Some(at) => self.list.remove(at),
            None => {
                if self.list.len() == WALKS {
                    self.list.remove(0);
                }
                let dir = Arc::clone(dir);
                Walk { parent, what, dir, coming: None, from: Some(0), last: String::new(), allowed: 0 }
            }
        };
        walk.allowed = (walk.allowed + FACTOR).min(ENTRIES);
        entry.clone_into(&mut walk.last);
        walk.go_on_behind_the_last();
        self.list.push(walk);
    }

    /// What to do next, for the parent that was asked for last.
    fn next(&mut self) -> Option<Work<D>> {
        for walk in self.list.iter_mut().rev().filter(|walk| walk.allowed > 0) {
            let (what, dir) = (walk.what, Arc::clone(&walk.dir));
            if let Some(entry) = walk.coming.as_mut().and_then(VecDeque::pop_front) {
                walk.allowed -= 1;
                return Some(Work::Fetch { what, dir, entry });
            }
            if let Some(from) = walk.from.take() {
                return Some(Work::List { parent: walk.parent, what, dir, from });
            }
        }
        None
    }

    /// Takes in more of a listing, which goes on at `from`.
    fn listed(&mut self, what: Ahead, parent: u64, entries: Vec<String>, from: Option<u64>) {
        if let Some(walk) = self.list.iter_mut().find(|walk| walk.parent == parent && walk.what == what) {
            walk.coming.get_or_insert_default().extend(entries);
            walk.from = from;
            walk.go_on_behind_the_last();
        }
    }

    /// Learns whether fetching an entry had to wait for the disk.
    fn fetched(&mut self, what: Ahead, helped: bool, now: Instant) {
        let of = &mut self.uses[what as usize];
        of.useless = if helped { 0 } else { of.useless + 1 };
        if of.useless >= USELESS {
            of.paused_until = Some(now + PAUSE);
            self.list.retain(|walk| walk.what != what);
        }
    }
}

impl<D> Walk<D> {
    /// Most programs go by the order of the listing: what they have not come to yet is behind what they asked for last.
    fn go_on_behind_the_last(&mut self) {
        if let Some(coming) = &mut self.coming
            && let Some(at) = coming.iter().position(|entry| *entry == self.last)
        {
            coming.rotate_left(at);
            coming.pop_front();
        }
    }
}

impl<B: Backing> Fetcher<B> {
    /// Starts the threads.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub fn start(backing: Arc<B>) -> io::Result<Self> {
        let shared = Shared { backing, walks: Mutex::new(Walks::new()), changed: Condvar::new() };
        let fetcher = Self { shared: Arc::new(shared) };
        for number in 0..THREADS {
            let shared = Arc::clone(&fetcher.shared);
            threads::spawn(&format!("kmsfs-ahead-{number}"), move || shared.work())?;
        }
        Ok(fetcher)
    }

    /// Notes that the entry of a directory is being read from the backing.
    ///
    /// `parent` is any number that names the directory, `dir` its handle.
    pub fn note(&self, what: Ahead, parent: u64, dir: &Arc<B::Dir>, entry: &str) {
        if reserve::of_this_process().is_short() {
            return;
        }
        let mut walks = lock(&self.shared.walks);
        if !walks.paused(what, Instant::now()) {
            walks.note(what, parent, dir, entry);
            drop(walks);
            self.shared.changed.notify_one();
        }
    }
}

impl<B: Backing> Drop for Fetcher<B> {
    /// Its threads end when they are done with what they read.
    fn drop(&mut self) {
        lock(&self.shared.walks).ended = true;
        self.shared.changed.notify_all();
    }
}

impl<B: Backing> Shared<B> {
    fn work(&self) {
        while let Some(work) = self.wait() {
            match work {
                // What cannot be read is left to who asks for it.
                Work::List { parent, what, dir, from } => {
                    let (entries, from) = self.list(what, &dir, from).unwrap_or_default();
                    lock(&self.walks).listed(what, parent, entries, from);
                }
                Work::Fetch { what, dir, entry } => {
                    let before = waits_of_this_thread();
                    let _ = match what {
                        Ahead::Directory => self.fetch_directory(&dir, &entry),
                        Ahead::File => self.fetch_file(&dir, &entry),
                    };
                    let helped = waits_of_this_thread() != before;
                    lock(&self.walks).fetched(what, helped, Instant::now());
                }
            }
        }
    }

    /// The next piece of work; `None` at the end.
    fn wait(&self) -> Option<Work<B::Dir>> {
        let mut walks = lock(&self.walks);
        while !walks.ended {
            if let Some(work) = walks.next() {
                return Some(work);
            }
            walks = self.changed.wait(walks).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        None
    }

    /// The next entries of a directory that can be fetched, and where its listing goes on.
    fn list(&self, what: Ahead, dir: &B::Dir, from: u64) -> super::Result<(Vec<String>, Option<u64>)> {
        let kind = match what {
            Ahead::Directory => FileKind::Directory,
            Ahead::File => FileKind::Regular,
        };
        let mut batch = Vec::new();
        self.backing.read_list(&mut self.backing.list_unnoticed(dir)?, from, &mut batch)?;
        let from = batch.last().map(|last| last.next);
        let wanted = |raw: &RawEntry| {
            raw.kind == Some(kind)
                && !matches!(&*raw.name, b"." | b"..")
                && !EntryKind::of(&raw.name, false).is_hidden()
        };
        let names = batch.into_iter().filter(wanted).filter_map(|raw| String::from_utf8(raw.name).ok());
        Ok((names.collect(), from))
    }

    fn fetch_directory(&self, parent: &B::Dir, entry: &str) -> super::Result<()> {
        let dir = self.backing.open_dir(parent, entry)?;
        read_meta(&*self.backing, &dir, dirid::ENTRY, dirid::TEXT_LEN)?;
        let mut batch = Vec::new();
        self.backing.read_list(&mut self.backing.list_unnoticed(&dir)?, 0, &mut batch)?;
        for name in one_of_neighbours(&batch) {
            self.backing.stat(Target::Named(&dir, name))?;
        }
        Ok(())
    }

    fn fetch_file(&self, parent: &B::Dir, entry: &str) -> super::Result<()> {
        let file = self.backing.open_unnoticed(parent, entry)?;
        file.fetch(BYTES);
        // Hints do not wait: this tells whether there was something to wait for.
        file.read_at(&mut [0; 512], 0)?;
        Ok(())
    }
}

/// Of entries whose inodes probably lie in one block of the disk, one each, in the order of their inodes.
fn one_of_neighbours(entries: &[RawEntry]) -> impl Iterator<Item = &str> {
    let block = |raw: &RawEntry| raw.ino / NEIGHBOURS;
    let mut entries: Vec<&RawEntry> = entries.iter().take(ENTRIES).collect();
    entries.sort_unstable_by_key(|raw| block(raw));
    entries.dedup_by_key(|raw| block(raw));
    entries.into_iter().filter_map(|raw| std::str::from_utf8(&raw.name).ok())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::store::LocalDir;
    use crate::sync::thread;

    fn names(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|i| format!("n{i:03}")).collect()
    }

    /// Notes `entry` of parent 7, then takes all work there is; a listing of `all` is delivered at once.
    fn ask(walks: &mut Walks<()>, entry: &str, all: &[String]) -> Vec<String> {
        walks.note(Ahead::File, 7, &Arc::new(()), entry);
        let mut fetched = Vec::new();
        while let Some(work) = walks.next() {
            match work {
                Work::List { parent, what, from, .. } => {
                    assert_eq!((parent, what), (7, Ahead::File));
                    let from = from as usize;
                    let to = (from + 10).min(all.len());
                    walks.listed(what, parent, all[from..to].to_vec(), (to > from).then_some(to as u64));
                }
                Work::Fetch { entry, .. } => fetched.push(entry),
            }
        }
        fetched
    }

    #[test]
    fn who_goes_by_the_listing_finds_everything_but_the_first_fetched() {
        let (mut walks, all) = (Walks::new(), names(0..100));
        let mut fetched = Vec::new();
        let mut cold = 0;
        for entry in &all {
            cold += usize::from(!fetched.contains(entry));
            fetched.extend(ask(&mut walks, entry, &all));
        }
        assert_eq!(cold, 1);
        assert_eq!(fetched.len(), 99, "and each once");
    }

    #[test]
    fn never_more_than_four_for_one_are_fetched() {
        let (mut walks, all) = (Walks::new(), names(0..1000));
        let asked = [500, 3, 999, 42, 41, 40, 700, 1, 0, 998];
        let mut fetched = 0;
        for (i, at) in asked.into_iter().enumerate() {
            fetched += ask(&mut walks, &all[at], &all).len();
            assert!(fetched <= (i + 1) * FACTOR);
        }
        assert_eq!(fetched, asked.len() * FACTOR);
    }

    #[test]
    fn it_pauses_where_everything_is_in_memory_and_tries_again_later() {
        let (mut walks, all) = (Walks::new(), names(0..100));
        let start = Instant::now();
        ask(&mut walks, &all[0], &all);
        let file = Ahead::File;
        (0..USELESS - 1).for_each(|_| walks.fetched(file, false, start));
        walks.fetched(file, true, start);
        (0..USELESS - 1).for_each(|_| walks.fetched(file, false, start));
        assert!(!walks.paused(file, start), "one of them helped");
        walks.fetched(file, false, start);
        assert!(walks.paused(file, start) && walks.next().is_none());
        assert!(!walks.paused(Ahead::Directory, start), "of files only");
        assert!(walks.paused(file, start + PAUSE / 2));
        assert!(!walks.paused(file, start + PAUSE));
        walks.fetched(file, false, start + PAUSE);
        assert!(walks.paused(file, start + PAUSE), "one try was enough");
    }

    #[test]
    fn of_inodes_that_lie_together_one_is_fetched() {
        let entry = |(ino, name): (u64, &[u8])| RawEntry { name: name.into(), ino, kind: None, next: 0 };
        let entries: [(u64, &[u8]); 6] = [(50, b"a"), (17, b"b"), (63, b"c"), (32, b"d"), (16, b"e"), (90, b"\xff")];
        let entries = entries.map(entry);
        let fetched: Vec<_> = one_of_neighbours(&entries).collect();
        assert!(matches!(fetched[..], ["b" | "e", "d", "a" | "c"]), "{fetched:?}");
    }

    #[test]
    fn parents_asked_for_long_ago_are_forgotten() {
        let mut walks = Walks::new();
        for parent in 0..100 {
            walks.note(Ahead::Directory, parent, &Arc::new(()), "entry");
        }
        assert_eq!(walks.list.iter().map(|walk| walk.parent).collect::<Vec<_>>(), (84..100).collect::<Vec<_>>());
    }

    /// A tree of the host whose access times are old enough to move with the next access.
    #[test]
    fn fetching_moves_no_access_time_and_gets_over_what_cannot_be_read() {
        let root = tempfile::tempdir().expect("a directory");
        let at = |path: &str| root.path().join(path);
        for path in ["d", "d/sub", "empty"] {
            fs::create_dir(at(path)).expect("a directory");
        }
        fs::write(at("d/.kmsfs.dir"), [0; 48]).expect("an id");
        fs::write(at("d/file"), vec![1; 10_000]).expect("a file");
        let old = fs::FileTimes::new().set_accessed(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
        let all = ["d/file", "d/sub", "d", "empty", ""];
        for path in all {
            fs::File::open(at(path)).and_then(|file| file.set_times(old)).expect("an old access");
        }
        let times = || all.map(|path| fs::metadata(at(path)).map(|stat| stat.atime()).expect("a stat"));
        let before = times();

        let backing = LocalDir::open(root.path()).expect("a backing");
        let dir = backing.root().expect("its root");
        let shared = Shared { backing: Arc::new(backing), walks: Mutex::new(Walks::new()), changed: Condvar::new() };
        let listed = |what| shared.list(what, &dir, 0).expect("a listing").0;
        assert_eq!(listed(Ahead::File), Vec::<String>::new());
        let mut directories = listed(Ahead::Directory);
        directories.sort();
        assert_eq!(directories, ["d", "empty"]);
        shared.fetch_directory(&dir, "d").expect("read");
        shared.fetch_directory(&dir, "empty").expect("a directory without an id is none of its business");
        assert_eq!(shared.fetch_directory(&dir, "nothing"), Err(rustix::io::Errno::NOENT));
        let sub = shared.backing.open_dir(&dir, "d").expect("a directory");
        assert_eq!(shared.list(Ahead::File, &sub, 0).expect("a listing").0, ["file"], "its id is not among them");
        shared.fetch_file(&sub, "file").expect("read");
        assert_eq!(times(), before);
    }

    /// Threads are there, do what was noted, and end.
    #[test]
    fn a_fetcher_works_off_what_was_noted_and_ends() {
        let root = tempfile::tempdir().expect("a directory");
        for i in 0..20 {
            fs::write(root.path().join(format!("f{i}")), vec![1; 5000]).expect("a file");
        }
        let backing = Arc::new(LocalDir::open(root.path()).expect("a backing"));
        let dir = Arc::new(backing.root().expect("its root"));
        let fetcher = Fetcher::start(Arc::clone(&backing)).expect("threads");
        fetcher.note(Ahead::File, 1, &dir, "f0");
        let walk = || lock(&fetcher.shared.walks).list.first().map(|walk| walk.allowed);
        while walk().is_some_and(|allowed| allowed > 0) {
            thread::sleep(Duration::from_millis(1));
        }
        drop(fetcher);
        drop(dir);
        while Arc::strong_count(&backing) > 1 {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
