//! The jobs: what is timed, and how.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::Advice;
use zerocopy::IntoBytes;

use crate::sys::page::{PAGE, Page};

/// Bytes of a large request.
const LARGE: usize = 1 << 20;
/// Threads of the jobs with many requests at once.
const DEPTH: u64 = 16;
/// Bytes of a small file.
const SMALL: usize = 2000;
/// Small files of one directory.
const PER_DIRECTORY: u32 = 100;

/// How much of it is done.
pub(super) struct Work {
    /// Bytes of the large file, a multiple of [`LARGE`].
    pub(super) size: u64,
    /// Number of small files.
    pub(super) files: u32,
    /// Time of a job at random.
    pub(super) limit: Duration,
}

type Step<T> = fn(&Path, &Work) -> io::Result<T>;

/// A job.
pub(super) struct Job {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    /// It is about what is in no cache.
    pub(super) cold: bool,
    /// What has to be there, made in the directory if it is not. Not timed.
    pub(super) prepare: Step<()>,
    /// Does it; how much in a second.
    pub(super) run: Step<f64>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// All of them, in the order in which each leaves what the next ones need.
pub(super) const JOBS: [Job; 13] = [
    Job { name: "seq-write", unit: "MB/s", cold: false, prepare: nothing, run: |dir, work| seq_write(dir, work, 0) },
    Job { name: "seq-read", unit: "MB/s", cold: true, prepare: large_file, run: |dir, work| seq_read(dir, work, 0) },
    Job {
        name: "seq-write-direct",
        unit: "MB/s",
        cold: false,
        prepare: nothing,
        run: |dir, work| seq_write(dir, work, libc::O_DIRECT),
    },
    Job {
        name: "seq-read-direct",
        unit: "MB/s",
        cold: true,
        prepare: large_file,
        run: |dir, work| seq_read(dir, work, libc::O_DIRECT),
    },
    Job {
        name: "rand-read-d1",
        unit: "IOPS",
        cold: true,
        prepare: large_file,
        run: |dir, work| rand_read(dir, work, 1),
    },
    Job {
        name: "rand-read-d16",
        unit: "IOPS",
        cold: true,
        prepare: large_file,
        run: |dir, work| rand_read(dir, work, DEPTH),
    },
    Job {
        name: "rand-write-d1",
        unit: "IOPS",
        cold: false,
        prepare: large_file,
        run: |dir, work| rand_write(dir, work, 1),
    },
    Job {
        name: "rand-write-d16",
        unit: "IOPS",
        cold: false,
        prepare: large_file,
        run: |dir, work| rand_write(dir, work, DEPTH),
    },
    Job { name: "sync-write", unit: "writes/s", cold: false, prepare: large_file, run: sync_write },
    Job { name: "create", unit: "files/s", cold: false, prepare: no_small_files, run: create },
    Job { name: "find", unit: "files/s", cold: true, prepare: small_files, run: find },
    Job { name: "read-small", unit: "files/s", cold: true, prepare: small_files, run: read_small },
    Job { name: "unlink", unit: "files/s", cold: false, prepare: small_files, run: unlink },
];

/// The job of that name.
pub(super) fn named(name: &str) -> Result<&'static Job, String> {
    JOBS.iter().find(|job| job.name == name).ok_or_else(|| {
        let names: Vec<&str> = JOBS.iter().map(|job| job.name).collect();
        format!("no such job; there are {}", names.join(", "))
    })
}

/// Bytes that begin at a page, as O_DIRECT wants them, and that no filesystem takes for a hole.
fn buffer(len: usize) -> io::Result<Vec<Page>> {
    let mut pages = Page::zeroed(len)?;
    pages.as_mut_bytes().iter_mut().zip((1..=251_u8).cycle()).for_each(|(byte, value)| *byte = value);
    Ok(pages)
}

fn large(dir: &Path) -> PathBuf {
    dir.join("large")
}

fn per_second(amount: f64, since: Instant) -> f64 {
    amount / since.elapsed().as_secs_f64()
}

fn nothing(_: &Path, _: &Work) -> io::Result<()> {
    Ok(())
}

fn large_file(dir: &Path, work: &Work) -> io::Result<()> {
    match fs::metadata(large(dir)) {
        Ok(found) if found.len() == work.size => Ok(()),
        _ => seq_write(dir, work, 0).map(drop),
    }
}

fn seq_write(dir: &Path, work: &Work, flags: i32) -> io::Result<f64> {
    let pages = buffer(LARGE)?;
    let path = large(dir);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let begin = Instant::now();
    let file = OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(path)?;
    for at in (0..work.size).step_by(LARGE) {
        file.write_all_at(pages.as_bytes(), at)?;
    }
    file.sync_all()?;
    Ok(per_second(work.size as f64 / 1e6, begin))
}

fn seq_read(dir: &Path, work: &Work, flags: i32) -> io::Result<f64> {
    let mut pages = buffer(LARGE)?;
    let begin = Instant::now();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(large(dir))?;
    for at in (0..work.size).step_by(LARGE) {
        file.read_exact_at(pages.as_mut_bytes(), at)?;
    }
    Ok(per_second(work.size as f64 / 1e6, begin))
}

/// Every page of the large file once, in an order without a pattern, shared among `threads` threads, until time is up.
fn at_random(
    file: &File,
    work: &Work,
    threads: u64,
    one: impl Fn(&File, &mut [u8], u64) -> io::Result<()> + Sync,
) -> io::Result<u64> {
    let pages = work.size / PAGE as u64;
    // A step that has no factor in common with the number visits each page before it comes back.
    let step = (pages * 5 / 8..).find(|step| gcd(*step, pages) == 1).unwrap_or(1);
    let end = Instant::now() + work.limit;
    let walk = |first: u64| {
        let mut page = buffer(PAGE)?;
        let mut done = 0;
        for turn in (first..pages).step_by(threads as usize) {
            if Instant::now() >= end {
                break;
            }
            one(file, page.as_mut_bytes(), turn * step % pages * PAGE as u64)?;
            done += 1;
        }
        io::Result::Ok(done)
    };
    thread::scope(|scope| {
        let walks: Vec<_> = (0..threads).map(|first| scope.spawn(move || walk(first))).collect();
        let panicked = |_| Err(io::Error::other("a thread panicked"));
        walks.into_iter().map(|walk| walk.join().unwrap_or_else(panicked)).sum()
    })
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn rand_read(dir: &Path, work: &Work, threads: u64) -> io::Result<f64> {
    let file = File::open(large(dir))?;
    rustix::fs::fadvise(&file, 0, None, Advice::Random)?;
    let begin = Instant::now();
    let done = at_random(&file, work, threads, |file, page, at| file.read_exact_at(page, at))?;
    Ok(per_second(done as f64, begin))
}

fn rand_write(dir: &Path, work: &Work, threads: u64) -> io::Result<f64> {
    let file = OpenOptions::new().write(true).open(large(dir))?;
    let begin = Instant::now();
    let done = at_random(&file, work, threads, |file, page, at| file.write_all_at(page, at))?;
    file.sync_all()?;
    Ok(per_second(done as f64, begin))
}

fn sync_write(dir: &Path, work: &Work) -> io::Result<f64> {
    let file = OpenOptions::new().write(true).open(large(dir))?;
    let begin = Instant::now();
    let done = at_random(&file, work, 1, |file, page, at| {
        file.write_all_at(page, at)?;
        file.sync_data()
    })?;
    Ok(per_second(done as f64, begin))
}

fn small(dir: &Path) -> PathBuf {
    dir.join("small")
}

fn small_file(dir: &Path, number: u32) -> PathBuf {
    small(dir).join(format!("{:03}", number / PER_DIRECTORY)).join(format!("file-{number}.txt"))
}

fn no_small_files(dir: &Path, _: &Work) -> io::Result<()> {
    match fs::remove_dir_all(small(dir)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn small_files(dir: &Path, work: &Work) -> io::Result<()> {
    if small(dir).exists() {
        return Ok(());
    }
    create(dir, work).map(drop)
}

fn create(dir: &Path, work: &Work) -> io::Result<f64> {
    let pages = buffer(PAGE)?;
    let begin = Instant::now();
    for number in 0..work.files {
        let path = small_file(dir, number);
        if let (0, Some(parent)) = (number % PER_DIRECTORY, path.parent()) {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, &pages.as_bytes()[..SMALL])?;
    }
    Ok(per_second(work.files.into(), begin))
}

fn find(dir: &Path, work: &Work) -> io::Result<f64> {
    let begin = Instant::now();
    let mut found = 0;
    for directory in fs::read_dir(small(dir))? {
        for file in fs::read_dir(directory?.path())? {
            found += u32::from(file?.metadata()?.len() == SMALL as u64);
        }
    }
    all(found, work)?;
    Ok(per_second(found.into(), begin))
}

fn read_small(dir: &Path, work: &Work) -> io::Result<f64> {
    let begin = Instant::now();
    let mut found = 0;
    for number in 0..work.files {
        found += u32::from(fs::read(small_file(dir, number))?.len() == SMALL);
    }
    all(found, work)?;
    Ok(per_second(found.into(), begin))
}

fn unlink(dir: &Path, work: &Work) -> io::Result<f64> {
    let begin = Instant::now();
    fs::remove_dir_all(small(dir))?;
    Ok(per_second(work.files.into(), begin))
}

/// A filesystem that loses files is not fast.
fn all(found: u32, work: &Work) -> io::Result<()> {
    if found == work.files {
        return Ok(());
    }
    Err(io::Error::other(format!("{found} of {} small files have their bytes", work.files)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::sync::{Mutex, lock};

    #[test]
    fn every_job_runs_in_a_directory() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let work = Work { size: 2 << 20, files: 150, limit: Duration::from_secs(20) };
        for job in &JOBS {
            (job.prepare)(dir.path(), &work).expect(job.name);
            assert!((job.run)(dir.path(), &work).expect(job.name) > 0.0, "{}", job.name);
        }
        assert!(!small(dir.path()).exists());
    }

    #[test]
    fn at_random_visits_every_page_once() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let work = Work { size: 3 << 20, files: 0, limit: Duration::from_secs(20) };
        large_file(dir.path(), &work).expect("write");
        let file = File::open(large(dir.path())).expect("open");
        for threads in [1, DEPTH] {
            let seen = Mutex::new(BTreeSet::new());
            let done = at_random(&file, &work, threads, |_, _, at| {
                assert!(lock(&seen).insert(at));
                Ok(())
            });
            assert_eq!(done.expect("no error"), 768);
            assert_eq!(seen.into_inner().expect("no panic").len(), 768);
        }
    }

    #[test]
    fn a_lost_file_is_an_error() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let work = Work { size: 0, files: 3, limit: Duration::ZERO };
        create(dir.path(), &work).expect("create");
        fs::remove_file(small_file(dir.path(), 1)).expect("remove");
        let error = find(dir.path(), &work).expect_err("two files");
        assert_eq!(error.to_string(), "2 of 3 small files have their bytes");
    }
}
