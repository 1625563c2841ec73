//! What an interrupted `verify` knows to be sound, so that the next run goes on behind it.
//!
//! A line per file that was read to its end, or to a point within it, without a finding. Damage is not noted: whatever was
//! wrong is looked at again. A file counts as the one that was read as long as inode number, size and change time are the same.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::store::{FileTime, Stat};
use crate::sync::{Mutex, lock};
use crate::types::{FileId, VolumeId};

/// Notes are written at least that often.
const INTERVAL: Duration = Duration::from_secs(1);

/// How far a file is known to be sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    size: u64,
    ctime: FileTime,
    /// Its id; `None` if it has none.
    pub file_id: Option<FileId>,
    /// The first unit that was not read; `None` if all were.
    pub next: Option<u64>,
}

/// The notes of one run and of those before it.
pub struct Resume {
    path: PathBuf,
    /// By inode number.
    known: HashMap<u64, Known>,
    notes: Mutex<Notes>,
}

struct Notes {
    out: BufWriter<Locked>,
    flushed: Instant,
}

/// A file with an exclusive lock. The lock belongs to what a child process, until it runs its own program, has open too: closing
/// would not end it there.
struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::debug!("a lock ends only when the file is closed: {error}");
        }
    }
}

impl Write for Locked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Resume {
    /// Opens the notes at `path`, which are begun if there are none.
    ///
    /// # Errors
    /// `InvalidInput` if they are another volume's or no notes at all, `WouldBlock` if another run writes them, or the
    /// system's error.
    pub fn open(path: &Path, volume: VolumeId) -> io::Result<Self> {
        let mut options = File::options();
        let file = options.read(true).append(true).create(true).mode(0o600).open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let file = Locked(file);
        let title = format!("kmsfs verify 1 {volume}");
        let mut known = HashMap::new();
        let mut lines = BufReader::new(&file.0).lines();
        let begun = match lines.next().transpose()? {
            None => false,
            Some(line) if line == title => true,
            Some(_) => {
                let what = "it holds no notes of a verify of this volume; name another file";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            }
        };
        for line in lines {
            // The last line of a run that was killed can be cut off; a cut number is not the file's.
            known.extend(parse(&line?));
        }
        let mut notes = Notes { out: BufWriter::new(file), flushed: Instant::now() };
        writeln!(notes.out, "{}", if begun { "" } else { &title })?;
        notes.out.flush()?;
        Ok(Self { path: path.to_owned(), known, notes: Mutex::new(notes) })
    }

    /// What an earlier run found out about the file with these attributes.
    pub fn known(&self, stat: &Stat) -> Option<Known> {
        let known = *self.known.get(&stat.ino)?;
        (known.size == stat.size && known.ctime == stat.ctime).then_some(known)
    }

    /// Notes that the file is sound up to unit `next`, or to its end.
    ///
    /// # Errors
    /// The system's error.
    pub fn note(&self, stat: &Stat, file_id: Option<FileId>, next: Option<u64>) -> io::Result<()> {
        let mut notes = lock(&self.notes);
        let id = file_id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        let next = next.map_or_else(|| "end".to_owned(), |unit| unit.to_string());
        let FileTime { secs, nanos } = stat.ctime;
        writeln!(notes.out, "{} {} {secs} {nanos} {id} {next} .", stat.ino, stat.size)?;
        if notes.flushed.elapsed() >= INTERVAL {
            notes.out.flush()?;
            notes.flushed = Instant::now();
        }
        Ok(())
    }

    /// Writes what is noted; after a complete run there is nothing to go on with, and the notes are removed.
    ///
    /// # Errors
    /// The system's error.
    pub fn end(&self, complete: bool) -> io::Result<()> {
        lock(&self.notes).out.flush()?;
        if complete { std::fs::remove_file(&self.path) } else { Ok(()) }
    }
}

fn parse(line: &str) -> Option<(u64, Known)> {
    let mut words = line.split(' ');
    let mut word = || words.next();
    let (ino, size) = (word()?.parse().ok()?, word()?.parse().ok()?);
    let ctime = FileTime { secs: word()?.parse().ok()?, nanos: word()?.parse().ok()? };
    let file_id = match word()? {
        "-" => None,
        id => Some(id.parse().ok()?),
    };
    let next = match word()? {
        "end" => None,
        unit => Some(unit.parse().ok()?),
    };
    (word()? == "." && word().is_none()).then_some((ino, Known { size, ctime, file_id, next }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FileKind;

    const VOLUME: VolumeId = VolumeId::from_bytes([7; 16]);

    fn stat(ino: u64, size: u64) -> Stat {
        let time = FileTime { secs: 1_700_000_000, nanos: 5 };
        let (mode, uid, gid, rdev, blocks, nlink) = (0o644, 0, 0, 0, 8, 1);
        let kind = FileKind::Regular;
        Stat { ino, kind, mode, nlink, uid, gid, rdev, size, blocks, atime: time, mtime: time, ctime: time }
    }

    #[test]
    fn a_lock_that_a_child_inherited_ends_with_the_run() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("notes");
        let notes = Resume::open(&path, VOLUME).expect("begun");
        let inherited = lock(&notes.notes).out.get_ref().0.try_clone().expect("as after a fork");
        drop(notes);
        Resume::open(&path, VOLUME).expect("nobody else writes them");
        drop(inherited);
    }

    #[test]
    fn notes_are_read_back_until_the_run_is_complete() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("notes");
        let id = FileId::from_bytes([3; 16]);
        let notes = Resume::open(&path, VOLUME).expect("begun");
        assert_eq!(Resume::open(&path, VOLUME).map(drop).expect_err("locked").kind(), io::ErrorKind::WouldBlock);
        notes.note(&stat(1, 100), Some(id), None).expect("noted");
        notes.note(&stat(2, 1 << 40), Some(id), Some(99)).expect("noted");
        notes.note(&stat(3, 0), None, None).expect("noted");
        notes.end(false).expect("written");
        drop(notes);
        // Killed within a line.
        let cut = std::fs::read_to_string(&path).expect("read") + "4 100 1700000000 5 - en";
        std::fs::write(&path, cut).expect("written");

        let notes = Resume::open(&path, VOLUME).expect("opened");
        let next = |ino, size| notes.known(&stat(ino, size)).map(|known| (known.file_id, known.next));
        assert_eq!(next(1, 100), Some((Some(id), None)));
        assert_eq!(next(1, 101), None, "it was changed since");
        assert_eq!(next(2, 1 << 40), Some((Some(id), Some(99))));
        assert_eq!(next(3, 0), Some((None, None)));
        assert_eq!(next(4, 100), None);
        notes.note(&stat(5, 9), None, None).expect("noted behind the cut line");
        notes.end(false).expect("written");
        drop(notes);
        let notes = Resume::open(&path, VOLUME).expect("opened");
        assert!(notes.known(&stat(5, 9)).is_some());
        notes.end(true).expect("removed");
        assert!(!path.exists());
    }

    #[test]
    fn other_files_are_not_written_to() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("notes");
        for content in ["letter\n", "kmsfs verify 1 00000000000000000000000000000000\n", "\n"] {
            std::fs::write(&path, content).expect("written");
            let refused = Resume::open(&path, VOLUME).map(drop).expect_err("refused");
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
            assert_eq!(std::fs::read_to_string(&path).expect("read"), content);
        }
    }
}
