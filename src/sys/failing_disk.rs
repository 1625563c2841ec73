//! A disk that fails for a while, for tests: what SQLite writes below a directory, and what of it a power cut would leave.
//!
//! As on Linux, pages whose write-back fails count as clean: they can be read, no further flush writes them, and each open file
//! is told once. Everything else is the file system's: SQLite's own VFS does the work, and is the default one for all other files.
//!
//! A disk can be recorded, for what it holds when the power is cut at some moment before. Other files than SQLite's are then a part of
//! it if whoever flushes them says so ([`flushed`]).

mod history;

pub use history::{History, Left};

use history::{Event, look};

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Mutex, MutexGuard, Once, OnceLock};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};

const PAGE: usize = 4096;

/// What SQLite makes below this directory from now on is on such a disk.
pub struct FailingDisk(PathBuf);

/// A file on the disk.
#[derive(Default)]
struct Media {
    /// What a power cut leaves.
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// Its name was flushed with it.
    has_name: bool,
    /// How often write-back has failed, and of how many of them somebody was told.
    failures: u64,
    told: u64,
}

/// An open file, and of how many failures it was told.
struct Handle {
    path: PathBuf,
    methods: &'static sqlite3_io_methods,
    told: u64,
}

#[derive(Default)]
struct Disks {
    /// Directories, and whether their disk fails now.
    dirs: HashMap<PathBuf, bool>,
    media: HashMap<PathBuf, Media>,
    handles: HashMap<usize, Handle>,
    histories: Vec<History>,
}

impl Disks {
    fn history(&mut self, path: &Path) -> Option<&mut History> {
        self.histories.iter_mut().find(|history| path.starts_with(&history.root))
    }

    /// Notes what happened to a file of SQLite, if its disk is recorded.
    fn note(&mut self, path: &Path, event: impl FnOnce(PathBuf) -> Event) {
        if let Some(history) = self.history(path) {
            history.events.push(event(path.to_owned()));
        }
    }

    /// Notes what is there now, if the disk is recorded.
    fn look(&mut self, path: &Path) {
        if let Some(history) = self.history(path) {
            history.events.push(look(&history.root));
        }
    }

    /// Notes that the names beside a file are flushed.
    fn flush_names(&mut self, path: &Path) {
        self.look(path);
        let dir = path.parent().expect("it is in a directory").to_owned();
        self.note(path, |_| Event::DirFlushed { dir });
    }
}

static DISKS: Mutex<Option<Disks>> = Mutex::new(None);
static SYSTEM: OnceLock<System> = OnceLock::new();
static REGISTERED: Once = Once::new();

/// SQLite's own VFS.
struct System(*mut sqlite3_vfs);

// SAFETY: the VFS is not changed any more, and may be used by all threads.
unsafe impl Send for System {}
// SAFETY: as above.
unsafe impl Sync for System {}

impl FailingDisk {
    /// The disk that `dir` is on.
    ///
    /// # Panics
    /// When there is no such directory.
    pub fn below(dir: &Path) -> Self {
        let dir = dir.canonicalize().expect("a directory");
        REGISTERED.call_once(register);
        disks().get_or_insert_default().dirs.insert(dir.clone(), false);
        Self(dir)
    }

    /// From now on it fails, or not any more.
    pub fn set_failing(&self, failing: bool) {
        disks().as_mut().expect("made").dirs.insert(self.0.clone(), failing);
    }

    /// From now on it is recorded, whatever is there already.
    pub fn record(&self) {
        disks().as_mut().expect("made").histories.push(History { root: self.0.clone(), events: Vec::new() });
    }

    /// How many moments there are in the record.
    pub fn moments(&self) -> usize {
        disks().as_mut().and_then(|disks| disks.history(&self.0)).map_or(0, |history| history.moments())
    }

    /// Ends the record.
    ///
    /// # Panics
    /// When none was begun.
    pub fn history(&self) -> History {
        let mut disks = disks();
        let histories = &mut disks.as_mut().expect("made").histories;
        let at = histories.iter().position(|history| history.root == self.0);
        histories.swap_remove(at.expect("it is recorded"))
    }

    /// Puts what a power cut would leave of SQLite's files into `copy`, a copy of the directory.
    pub fn cut_power(&self, copy: &Path) {
        for (path, media) in &disks().as_ref().expect("made").media {
            if let Ok(inner) = path.strip_prefix(&self.0) {
                fs::write(copy.join(inner), &media.durable).expect("written");
            }
        }
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        let mut disks = disks();
        let disks = disks.as_mut().expect("made");
        disks.dirs.remove(&self.0);
        disks.histories.retain(|history| history.root != self.0);
        disks.media.retain(|path, _| !path.starts_with(&self.0));
    }
}

/// To be called when a file that is not SQLite's, or a directory, is flushed: what of it is seen now is on the disk.
pub fn flushed(path: &Path, ino: u64) {
    let mut disks = disks();
    let Some(disks) = disks.as_mut().filter(|disks| !disks.histories.is_empty()) else { return };
    disks.look(path);
    let dir = path.to_owned();
    disks.note(path, |_| if dir.is_dir() { Event::DirFlushed { dir } } else { Event::FileFlushed { ino } });
}

fn disks() -> MutexGuard<'static, Option<Disks>> {
    DISKS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn register() {
    // SAFETY: SQLite initialises itself and answers its default VFS, which stays; the copy lives forever.
    unsafe {
        ffi::sqlite3_initialize();
        let vfs = ffi::sqlite3_vfs_find(ptr::null());
        // From its registration on other threads use it.
        SYSTEM.get_or_init(|| System(vfs));
        let name = c"failing".as_ptr();
        let own = sqlite3_vfs { zName: name, pNext: ptr::null_mut(), xOpen: Some(open), xDelete: Some(delete), ..*vfs };
        assert_eq!(ffi::sqlite3_vfs_register(Box::leak(Box::new(own)), 1), ffi::SQLITE_OK);
    }
}

fn system() -> *mut sqlite3_vfs {
    SYSTEM.get().expect("it was found").0
}

/// # Safety
/// As SQLite's `xOpen`.
unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: the arguments are passed on; what was opened has methods of the system's VFS.
    let methods = unsafe {
        let code = (*system()).xOpen.expect("there")(system(), name, file, flags, out);
        if code != ffi::SQLITE_OK || name.is_null() {
            return code;
        }
        &*(*file).pMethods
    };
    // SAFETY: SQLite's names end with 0.
    let path = PathBuf::from(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
    let mut disks = disks();
    let Some(disks) = disks.as_mut().filter(|disks| disks.dirs.keys().any(|dir| path.starts_with(dir))) else {
        return ffi::SQLITE_OK;
    };
    // Who opens a file hears of a failure that nobody has heard of yet.
    if !disks.media.contains_key(&path) {
        disks.look(&path);
    }
    let told = disks.media.entry(path.clone()).or_default().told;
    disks.handles.insert(file.addr(), Handle { path, methods, told });
    let own = sqlite3_io_methods {
        xWrite: Some(write),
        xTruncate: Some(truncate),
        xSync: Some(sync),
        xClose: Some(close),
        ..*methods
    };
    // SAFETY: the methods live forever.
    unsafe { (*file).pMethods = Box::leak(Box::new(own)) };
    ffi::SQLITE_OK
}

/// # Safety
/// As SQLite's `xDelete`.
unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    // SAFETY: SQLite's names end with 0.
    let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
    // SAFETY: the arguments are passed on.
    let code = unsafe { (*system()).xDelete.expect("there")(system(), name, sync_dir) };
    if let Some(disks) = disks().as_mut() {
        disks.media.remove(path);
        disks.note(path, |path| Event::Removed { path });
        match sync_dir {
            0 => disks.look(path),
            _ => disks.flush_names(path),
        }
    }
    code
}

/// Runs `work` on what `file` is, and whether its disk fails now; the methods that do what is asked for.
fn with<T>(
    file: *mut sqlite3_file,
    work: impl FnOnce(&mut Media, &mut Handle, bool) -> T,
) -> (&'static sqlite3_io_methods, Option<T>) {
    let mut disks = disks();
    let Disks { dirs, media, handles, .. } = disks.as_mut().expect("made");
    let handle = handles.get_mut(&file.addr()).expect("it is open");
    let failing = dirs.iter().find(|(dir, _)| handle.path.starts_with(dir)).is_some_and(|(_, failing)| *failing);
    let done = media.get_mut(&handle.path).map(|media| work(media, handle, failing));
    (handle.methods, done)
}

/// # Safety
/// As SQLite's `xWrite`.
unsafe extern "C" fn write(file: *mut sqlite3_file, from: *const c_void, len: c_int, at: sqlite3_int64) -> c_int {
    let (methods, _) = with(file, |_, _, _| ());
    // SAFETY: the arguments are passed on.
    let code = unsafe { methods.xWrite.expect("there")(file, from, len, at) };
    let (first, end) = (at as usize / PAGE, (at as usize + len as usize).div_ceil(PAGE));
    let (_, path) = with(file, |media, handle, _| {
        media.dirty.extend(first..end);
        handle.path.clone()
    });
    if let (Some(path), Some(disks)) = (path, disks().as_mut()) {
        disks.note(&path, |path| {
            // SAFETY: SQLite gives that many bytes.
            let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), len as usize) }.to_vec();
            Event::Written { path, at: at as usize, bytes }
        });
    }
    code
}

/// # Safety
/// As SQLite's `xTruncate`.
unsafe extern "C" fn truncate(file: *mut sqlite3_file, len: sqlite3_int64) -> c_int {
    let (methods, done) = with(file, |media, handle, failing| {
        if !failing {
            media.durable.truncate(len as usize);
        }
        (failing, handle.path.clone())
    });
    match (done, disks().as_mut()) {
        (Some((true, _)), _) => return ffi::SQLITE_IOERR_TRUNCATE,
        (Some((false, path)), Some(disks)) => disks.note(&path, |path| Event::Cut { path, len: len as usize }),
        _ => {}
    }
    // SAFETY: the arguments are passed on.
    unsafe { methods.xTruncate.expect("there")(file, len) }
}

/// # Safety
/// As SQLite's `xSync`.
unsafe extern "C" fn sync(file: *mut sqlite3_file, _: c_int) -> c_int {
    let (_, synced) = with(file, |media, handle, failing| {
        let mut pages = Vec::new();
        for page in std::mem::take(&mut media.dirty) {
            if failing {
                media.failures += 1;
                continue;
            }
            let (mut bytes, at) = ([0; PAGE], page * PAGE);
            // SAFETY: the file is open, and the array as long as is said; what is behind the end becomes 0.
            let code = unsafe {
                let read = handle.methods.xRead.expect("there");
                read(file, bytes.as_mut_ptr().cast(), PAGE as c_int, at as sqlite3_int64)
            };
            assert!(matches!(code, ffi::SQLITE_OK | ffi::SQLITE_IOERR_SHORT_READ), "page {page}: {code}");
            let end = media.durable.len().max(at + PAGE);
            media.durable.resize(end, 0);
            media.durable[at..at + PAGE].copy_from_slice(&bytes);
            pages.push((page, bytes));
        }
        let mut len = 0;
        // SAFETY: the file is open.
        let code = unsafe { handle.methods.xFileSize.expect("there")(file, &mut len) };
        assert_eq!(code, ffi::SQLITE_OK);
        let is_new = handle.told < media.failures;
        (handle.told, media.told) = (media.failures, media.failures);
        let is_first = !std::mem::replace(&mut media.has_name, true);
        (is_new, is_first, handle.path.clone(), (pages, len as usize))
    });
    let Some((has_failed, is_first, path, (pages, len))) = synced else { return ffi::SQLITE_OK };
    if has_failed {
        return ffi::SQLITE_IOERR_FSYNC;
    }
    if let Some(disks) = disks().as_mut() {
        disks.note(&path, |path| Event::Flushed { path, pages, len });
        // What SQLite makes itself it flushes with its name.
        if is_first && path.extension().is_none_or(|extension| extension != "db") {
            disks.flush_names(&path);
        }
    }
    ffi::SQLITE_OK
}

/// # Safety
/// As SQLite's `xClose`.
unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let (methods, _) = with(file, |_, _, _| ());
    disks().as_mut().expect("made").handles.remove(&file.addr());
    // SAFETY: the argument is passed on.
    unsafe { methods.xClose.expect("there")(file) }
}
