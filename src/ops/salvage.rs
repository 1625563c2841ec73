//! Writing everything of a volume that authenticates to another directory, around whatever is damaged.
//!
//! Nothing is written into the volume; at most a mode is changed for the moment. What is lost of a file is a hole in its copy, and listed.

mod out;

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::Errno;

use out::{Attributes, Out};

use super::finding::{Finding, Paths, Reason};
use super::names::LiveDirs;
use super::progress::Progress;
use super::walk::{DirVisit, Visit, Visitor, Walk, walk};
use crate::content::{self, Content, Piece, Volume};
use crate::format::Outcome;
use crate::format::size::{DATA, UNIT, unit_count, unit_start};
use crate::format::volume::OpenedVolume;
use crate::format::{symlink, xattr};
use crate::store::{Access, Backing, FileKind, Modes, Target};
use crate::sync::{Arc, Mutex, lock};

/// A range of a file that is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// Where it begins, in plaintext bytes.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// Why.
    pub reason: Reason,
}

/// A file of which something is lost or in doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incomplete {
    /// Where it lies in the volume.
    pub paths: Paths,
    /// Where its copy lies below the directory that was written to.
    pub out: Vec<u8>,
    /// Bytes of the copy, holes included.
    pub size: u64,
    /// What is lost.
    pub holes: Vec<Hole>,
    /// What is wrong with the file as a whole, although some or all of it could be read.
    pub doubts: Vec<Reason>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SalvageReport {
    /// Directories.
    pub directories: u64,
    /// Regular files, each inode once, the incomplete ones included.
    pub files: u64,
    /// Symlinks, fifos, sockets and devices.
    pub others: u64,
    /// Plaintext bytes that authenticated.
    pub bytes: u64,
    /// Plaintext bytes that are lost.
    pub lost: u64,
    /// The files with a loss or a doubt, by path.
    pub incomplete: Vec<Incomplete>,
    /// What else is wrong: names, directories, symlinks, attributes, and what could not be written.
    pub findings: Vec<Finding>,
    /// The job was stopped before its end.
    pub interrupted: bool,
}

/// Why nothing, or not all, was written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SalvageError {
    /// The directory to write to has something in it already.
    #[error("it is not empty; name a new or empty directory")]
    NotEmpty,
    /// The directory to write to.
    #[error("cannot write to it: {0}")]
    Out(Errno),
    /// The root of the volume.
    #[error("cannot read the volume: {0}")]
    Backing(Errno),
}

/// Writes what authenticates of the volume on `modes` to the directory `to`, which must be empty or missing.
///
/// # Errors
/// What keeps it from starting, and a full or read-only destination.
pub fn salvage<B: Backing>(
    modes: &Arc<Modes<B>>,
    volume: &Arc<Volume>,
    to: &Path,
    threads: usize,
    progress: &dyn Progress,
) -> Result<SalvageReport, SalvageError> {
    let out =
        Out::new(to).map_err(|e| if e == Errno::NOTEMPTY { SalvageError::NotEmpty } else { SalvageError::Out(e) })?;
    let opened = volume.keys.volume();
    let names = opened.names();
    let live = LiveDirs::of(modes, &names).map_err(SalvageError::Backing)?;
    let stopping = Stopping { inner: progress, full: Mutex::new(None) };
    let salvager = Salvager {
        out,
        volume,
        opened: &opened,
        progress: &stopping,
        links: Mutex::new(HashMap::new()),
        directories: Mutex::new(Vec::new()),
        report: Mutex::new(SalvageReport::default()),
    };
    let how = Walk { names: &names, keys: &opened.keys, threads, lenient: Some(&live) };
    walk(modes, how, &salvager, &stopping).map_err(SalvageError::Backing)?;
    salvager.finish_directories();
    if let Some(errno) = *lock(&stopping.full) {
        return Err(SalvageError::Out(errno));
    }
    let mut report = std::mem::take(&mut *lock(&salvager.report));
    report.incomplete.sort_by(|a, b| a.paths.ciphertext.cmp(&b.paths.ciphertext));
    report.findings.sort_by(|a, b| a.paths.ciphertext.cmp(&b.paths.ciphertext));
    report.interrupted = progress.is_cancelled();
    Ok(report)
}

/// Stops the job when nothing more can be written, too.
struct Stopping<'a> {
    inner: &'a dyn Progress,
    full: Mutex<Option<Errno>>,
}

impl Progress for Stopping<'_> {
    fn found(&self, files: u64, bytes: u64) {
        self.inner.found(files, bytes);
    }

    fn done(&self, files: u64, bytes: u64) {
        self.inner.done(files, bytes);
    }

    fn is_cancelled(&self) -> bool {
        self.inner.is_cancelled() || lock(&self.full).is_some()
    }
}

struct Salvager<'a> {
    out: Out,
    volume: &'a Arc<Volume>,
    opened: &'a OpenedVolume,
    progress: &'a Stopping<'a>,
    /// By inode number, where the copy of a file with several names lies.
    links: Mutex<HashMap<u64, Vec<u8>>>,
    /// With the attributes that they get at the end.
    directories: Mutex<Vec<(Vec<u8>, Attributes)>>,
    report: Mutex<SalvageReport>,
}

/// In a lenient walk everything has a path.
fn out_path(paths: &Paths) -> &[u8] {
    paths.plaintext.as_deref().unwrap_or(&paths.ciphertext)
}

impl<B: Backing> Visitor<B> for Salvager<'_> {
    fn directory(&self, dir: &DirVisit<'_, B>) {
        let path = out_path(dir.paths);
        self.make_lost_and_found(dir.paths);
        if self.wrote(dir.paths, self.out.mkdir(path)).is_none() {
            return;
        }
        lock(&self.report).directories += 1;
        match dir.modes.stat(Target::Dir(dir.dir)) {
            Ok(stat) => {
                let xattrs = self.xattrs(dir.modes, Target::Dir(dir.dir));
                lock(&self.directories).push((path.to_vec(), Attributes { stat, xattrs }));
            }
            Err(e) => self.finding_of(dir.paths, Reason::Os(e)),
        }
    }

    fn file(&self, file: &Visit<'_, B>) {
        let mut done = 0;
        self.copy(file, &mut done);
        self.progress.done(1, file.stat.size.saturating_sub(done));
    }

    fn other(&self, object: &Visit<'_, B>) {
        self.make_lost_and_found(object.paths);
        let path = out_path(object.paths);
        let made = if object.stat.kind == FileKind::Symlink {
            let target = object.modes.backing().read_link(Target::Named(object.dir, object.entry)).ok();
            // A forged target is a finding of the walk already.
            let Some(target) = target.and_then(|text| symlink::decode(&self.opened.keys, &text).ok()) else { return };
            self.out.symlink(path, &target)
        } else {
            self.out.mknod(path, object.stat)
        };
        let Some(place) = self.wrote(object.paths, made) else { return };
        let xattrs = self.xattrs(object.modes, Target::Named(object.dir, object.entry));
        let attributes = Attributes { stat: *object.stat, xattrs };
        self.wrote(object.paths, attributes.set_at(&place));
        lock(&self.report).others += 1;
    }

    fn finding(&self, finding: Finding) {
        lock(&self.report).findings.push(finding);
    }
}

impl Salvager<'_> {
    fn finding_of(&self, paths: &Paths, reason: Reason) {
        lock(&self.report).findings.push(Finding::new(paths, reason));
    }

    /// What has no name lies in a directory that the volume need not have.
    fn make_lost_and_found(&self, paths: &Paths) {
        let above = super::walk::LOST_AND_FOUND.as_bytes();
        if out_path(paths).strip_prefix(above).is_some_and(|rest| rest.starts_with(b"/")) {
            self.wrote(paths, self.out.mkdir(above));
        }
    }

    /// What was made; an error of the destination is a finding, or the end of the job.
    fn wrote<T>(&self, paths: &Paths, made: Result<T, Errno>) -> Option<T> {
        match made {
            Ok(made) => Some(made),
            Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::ROFS)) => {
                *lock(&self.progress.full) = Some(e);
                None
            }
            Err(e) => {
                self.finding_of(paths, Reason::Os(e));
                None
            }
        }
    }

    fn copy<B: Backing>(&self, file: &Visit<'_, B>, done: &mut u64) {
        self.make_lost_and_found(file.paths);
        let path = out_path(file.paths);
        let (target, place) = {
            let mut links = lock(&self.links);
            if let Some(first) = links.get(&file.stat.ino) {
                self.wrote(file.paths, self.out.link(first, path));
                return;
            }
            let Some(made) = self.wrote(file.paths, self.out.create(path)) else { return };
            if file.stat.nlink > 1 {
                links.insert(file.stat.ino, made.1.path.clone());
            }
            made
        };
        let mut found =
            Incomplete { paths: file.paths.clone(), out: place.path, size: 0, holes: Vec::new(), doubts: Vec::new() };
        let mut bytes = 0;
        let written = match self.open(file) {
            Ok((content, doubts)) => {
                found.size = content.size();
                found.doubts = doubts.into_iter().map(Reason::Format).collect();
                found.doubts.extend(content.damage().filter(|o| *o == Outcome::NeverSynced).map(Reason::Format));
                self.copy_content(file, &content, &target, &mut found, (&mut bytes, done))
            }
            Err(reason) => {
                found.size = self.volume.geometry.lenient_plain_size(file.stat.size);
                lose(&mut found, 0, u64::MAX, reason);
                Ok(())
            }
        };
        let finished = written.and_then(|()| {
            rustix::fs::ftruncate(&target, found.size)?;
            let xattrs = self.xattrs(file.modes, Target::Named(file.dir, file.entry));
            Attributes { stat: *file.stat, xattrs }.set_on(&target)
        });
        self.wrote(file.paths, finished);
        let mut report = lock(&self.report);
        report.files += 1;
        report.bytes += bytes;
        report.lost += found.holes.iter().map(|hole| hole.len).sum::<u64>();
        if !found.holes.is_empty() || !found.doubts.is_empty() {
            report.incomplete.push(found);
        }
    }

    fn open<B: Backing>(&self, file: &Visit<'_, B>) -> Result<(Content<B>, Vec<Outcome>), Reason> {
        let opened = file.open(Access::Read).map_err(Reason::Os)?;
        Ok(Content::open_damaged(Arc::clone(file.modes.backing()), Arc::clone(self.volume), opened)?)
    }

    /// Errors are those of the destination.
    fn copy_content<B: Backing>(
        &self,
        file: &Visit<'_, B>,
        content: &Content<B>,
        target: &std::fs::File,
        found: &mut Incomplete,
        (bytes, done): (&mut u64, &mut u64),
    ) -> Result<(), Errno> {
        let mut written = Ok(());
        let scanned = content.scan(0, |piece| {
            let units = match piece {
                Piece::Data { offset, bytes: data } => {
                    written =
                        target.write_all_at(data, offset).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO));
                    *bytes += data.len() as u64;
                    unit_count(data.len() as u64)
                }
                Piece::Hole { len, .. } => {
                    *bytes += len;
                    unit_count(len)
                }
                Piece::Damaged { unit, error } => {
                    lose(found, unit_start(unit), DATA as u64, error.into());
                    1
                }
            };
            let more = (units * UNIT as u64).min(file.stat.size.saturating_sub(*done));
            *done += more;
            self.progress.done(0, more);
            written.is_ok() && !self.progress.is_cancelled()
        });
        if let Err(error) = scanned {
            lose(found, 0, u64::MAX, content::Error::into(error));
        }
        written
    }

    /// The extended attributes in plaintext, as far as they authenticate; what does not is a finding of the walk.
    fn xattrs<B: Backing>(&self, modes: &Modes<B>, target: Target<'_, B>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let keys = &self.opened.keys;
        let mut found = Vec::new();
        for disk in modes.backing().list_xattrs(target).unwrap_or_default() {
            let Ok(value) = modes.get_xattr(target, &disk) else { continue };
            if !disk.starts_with("user.") {
                found.push((disk.into_bytes(), value));
            } else if xattr::is_long(&disk) {
                found.extend(xattr::decode_long(keys, &disk, &value).ok().map(|(name, value)| (name, value.to_vec())));
            } else if let Ok(name) = xattr::decode_name(keys, disk.as_bytes())
                && let Ok(value) = xattr::decode_value(keys, &name, &value)
            {
                found.push((name, value.to_vec()));
            }
        }
        found
    }

    /// What lies deeper first: setting a mode can close a directory, and its times are those of its last change.
    fn finish_directories(&self) {
        let mut directories = std::mem::take(&mut *lock(&self.directories));
        directories.sort_by_key(|(path, _)| {
            std::cmp::Reverse(path.iter().filter(|b| **b == b'/').count() + usize::from(!path.is_empty()))
        });
        for (path, attributes) in directories {
            let paths = Paths { ciphertext: Vec::new(), plaintext: Some(path.clone()) };
            self.wrote(&paths, self.out.finish_dir(&path, &attributes));
        }
    }
}

/// Notes a loss of at most `len` bytes, as one with what was lost before it for the same reason.
fn lose(found: &mut Incomplete, offset: u64, len: u64, reason: Reason) {
    let len = len.min(found.size - offset);
    match found.holes.last_mut() {
        Some(last) if last.reason == reason && last.offset + last.len == offset => last.len += len,
        _ if len > 0 => found.holes.push(Hole { offset, len, reason }),
        _ => {}
    }
}
