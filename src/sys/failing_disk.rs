//! A disk that fails for a while, for tests: what SQLite writes below a directory, and what of it a power cut would leave.
//!
//! As on Linux, pages whose write-back fails count as clean: they can be read, no further flush writes them, and each open file
//! is told once. Everything else is the file system's: SQLite's own VFS does the work, and is the default one for all other files.

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
        disks.media.retain(|path, _| !path.starts_with(&self.0));
    }
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
    if let Some(disks) = disks().as_mut() {
        disks.media.remove(path);
    }
    // SAFETY: the arguments are passed on.
    unsafe { (*system()).xDelete.expect("there")(system(), name, sync_dir) }
}

/// Runs `work` on what `file` is, and whether its disk fails now; the methods that do what is asked for.
fn with<T>(
    file: *mut sqlite3_file,
    work: impl FnOnce(&mut Media, &mut Handle, bool) -> T,
) -> (&'static sqlite3_io_methods, Option<T>) {
    let mut disks = disks();
    let Disks { dirs, media, handles } = disks.as_mut().expect("made");
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
    with(file, |media, _, _| media.dirty.extend(first..end));
    code
}

/// # Safety
/// As SQLite's `xTruncate`.
unsafe extern "C" fn truncate(file: *mut sqlite3_file, len: sqlite3_int64) -> c_int {
    let (methods, fails) = with(file, |media, _, failing| {
        if !failing {
            media.durable.truncate(len as usize);
        }
        failing
    });
    if fails == Some(true) {
        return ffi::SQLITE_IOERR_TRUNCATE;
    }
    // SAFETY: the arguments are passed on.
    unsafe { methods.xTruncate.expect("there")(file, len) }
}

/// # Safety
/// As SQLite's `xSync`.
unsafe extern "C" fn sync(file: *mut sqlite3_file, _: c_int) -> c_int {
    let (_, failed) = with(file, |media, handle, failing| {
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
        }
        let is_new = handle.told < media.failures;
        (handle.told, media.told) = (media.failures, media.failures);
        is_new
    });
    if failed == Some(true) { ffi::SQLITE_IOERR_FSYNC } else { ffi::SQLITE_OK }
}

/// # Safety
/// As SQLite's `xClose`.
unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let (methods, _) = with(file, |_, _, _| ());
    disks().as_mut().expect("made").handles.remove(&file.addr());
    // SAFETY: the argument is passed on.
    unsafe { methods.xClose.expect("there")(file) }
}
