//! Reading and authenticating everything in a volume.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use rustix::io::Errno;

use super::config;
use super::finding::{Finding, Paths, Reason};
use super::freshness::{NamedFiles, check_names, record_of};
use super::progress::Progress;
use super::resume::{Known, Resume};
use super::walk::{DirVisit, Visit, Visitor, Walk, walk, was_replaced};
use crate::content::{self, Content, Piece, Volume};
use crate::format::Outcome;
use crate::format::name::CONTROL_ENTRY;
use crate::format::size::{UNIT, unit_count};
use crate::format::volume::MAX_LEN;
use crate::store::{Access, Backing, BackingFile, Modes, Target};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, lock, thread};
use crate::types::{DirId, FileId};

/// How often a file of a volume in use is read before what is wrong with it counts: a writer may have been at work.
const ATTEMPTS_IN_USE: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// How often within a large file it is noted how far it is sound.
const NOTE_UNITS: u64 = 1 << 18;

/// How to verify.
#[derive(Clone, Copy)]
pub struct VerifyOptions<'a> {
    /// Threads.
    pub threads: usize,
    /// Somebody has the volume mounted for writing.
    pub in_use: bool,
    /// What earlier runs found to be sound, and where this one notes it.
    pub resume: Option<&'a Resume>,
}

/// What was verified.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// Directories with a valid id.
    pub directories: u64,
    /// Regular files looked at, each inode once.
    pub files: u64,
    /// Stored bytes of them.
    pub bytes: u64,
    /// What is wrong, in the order of the ciphertext paths.
    pub findings: Vec<Finding>,
    /// The job was stopped before its end.
    pub interrupted: bool,
}

/// Verifies the whole tree of `modes`: directory ids, names, symlinks, attributes, headers and every unit. Each
/// finding is also handed to `found` when it is made.
///
/// # Errors
/// Only what keeps it from starting.
pub fn verify<B: Backing>(
    modes: &Arc<Modes<B>>,
    volume: &Arc<Volume>,
    options: VerifyOptions<'_>,
    progress: &dyn Progress,
    found: &(dyn Fn(&Finding) + Send + Sync),
) -> Result<VerifyReport, Errno> {
    let open = |file: &Visit<'_, B>, read: &mut ReadFile<'_, B>| {
        let opened = file.open(Access::Read)?;
        let content = Content::open(Arc::clone(file.modes.backing()), Arc::clone(volume), opened, Access::Read)?;
        let record = record_of(volume, file, &content)?;
        read(&content.checked(record)?)
    };
    verify_by(modes, volume, options, progress, found, &open)
}

/// What reads a file that was opened.
pub type ReadFile<'a, B> = dyn FnMut(&Content<B>) -> content::Result<()> + 'a;

/// As [`verify`]; `open` opens each regular file and hands it on. For a volume that this process has mounted, and whose
/// files it therefore has to open in one place.
///
/// # Errors
/// As [`verify`].
pub fn verify_by<B: Backing>(
    modes: &Arc<Modes<B>>,
    volume: &Arc<Volume>,
    options: VerifyOptions<'_>,
    progress: &dyn Progress,
    found: &(dyn Fn(&Finding) + Send + Sync),
    open: &OpenFile<'_, B>,
) -> Result<VerifyReport, Errno> {
    let opened = volume.keys.volume();
    let names = opened.names();
    let verifier = Verifier {
        open,
        volume,
        options,
        progress,
        found,
        inodes: Mutex::new(HashMap::new()),
        file_ids: Mutex::new(HashMap::new()),
        dir_ids: Mutex::new(HashMap::new()),
        named: Mutex::default(),
        directories: AtomicU64::new(0),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        findings: Mutex::new(Vec::new()),
    };
    let how = Walk { names: &names, keys: &opened.keys, threads: options.threads, lenient: None };
    walk(modes, how, &verifier, progress)?;
    if !options.in_use {
        // Whoever has it mounted for writing may be replacing it.
        check_copy(&**modes.backing())?.into_iter().for_each(|finding| verifier.add(finding));
    }
    verifier.check_record();
    let mut findings = std::mem::take(&mut *lock(&verifier.findings));
    findings.sort_by(|a, b| (&a.paths.ciphertext, a.unit).cmp(&(&b.paths.ciphertext, b.unit)));
    findings.dedup();
    Ok(VerifyReport {
        directories: verifier.directories.into_inner(),
        files: verifier.files.into_inner(),
        bytes: verifier.bytes.into_inner(),
        findings,
        interrupted: progress.is_cancelled(),
    })
}

type OpenFile<'a, B> = dyn Fn(&Visit<'_, B>, &mut ReadFile<'_, B>) -> content::Result<()> + Send + Sync + 'a;

struct Verifier<'a, B: Backing> {
    open: &'a OpenFile<'a, B>,
    volume: &'a Arc<Volume>,
    options: VerifyOptions<'a>,
    progress: &'a dyn Progress,
    found: &'a (dyn Fn(&Finding) + Send + Sync),
    /// Inodes with several names that were verified under the first.
    inodes: Mutex<HashMap<u64, ()>>,
    /// By id, the inode that has it.
    file_ids: Mutex<HashMap<FileId, u64>>,
    dir_ids: Mutex<HashMap<DirId, u64>>,
    named: Mutex<NamedFiles>,
    directories: AtomicU64,
    files: AtomicU64,
    bytes: AtomicU64,
    findings: Mutex<Vec<Finding>>,
}

impl<B: Backing> Visitor<B> for Verifier<'_, B> {
    fn file(&self, file: &Visit<'_, B>) {
        let again = file.stat.nlink > 1 && lock(&self.inodes).insert(file.stat.ino, ()).is_some();
        if again {
            self.further_name(file);
            self.progress.done(1, file.stat.size);
            return;
        }
        let attempts = if self.options.in_use { ATTEMPTS_IN_USE } else { 1 };
        let mut done = 0;
        for attempt in 1..=attempts {
            let mut findings = Vec::new();
            let result = self.read_all(file, &mut findings, &mut done);
            match result {
                Err(content::Error::Os(error)) if was_replaced(error) => findings.clear(),
                Err(error) => findings.push(Finding::new(file.paths, error.into())),
                Ok(()) => {}
            }
            if findings.is_empty() || attempt == attempts || self.progress.is_cancelled() {
                for finding in findings {
                    self.add(finding);
                }
                break;
            }
            thread::sleep(PAUSE);
        }
        // The header, the trailing area and holes count as read.
        self.progress.done(1, file.stat.size.saturating_sub(done));
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(file.stat.size, Ordering::Relaxed);
    }

    fn directory(&self, dir: &DirVisit<'_, B>) {
        if let Ok(id) = dir.identity.stored {
            self.directories.fetch_add(1, Ordering::Relaxed);
            match dir.modes.stat(Target::Dir(dir.dir)) {
                Ok(stat) => self.once(&self.dir_ids, id, stat.ino, dir.paths),
                Err(error) => self.add(Finding::new(dir.paths, Reason::Os(error))),
            }
            if let Some(fresh) = self.volume.freshness()
                && let Err(error) =
                    check_names(self.volume, fresh, dir, id, (&self.named, self.opens_each()), &mut |f| self.add(f))
            {
                self.add(Finding::new(dir.paths, error.into()));
            }
        }
    }

    fn finding(&self, finding: Finding) {
        self.add(finding);
    }
}

impl<B: Backing> Verifier<'_, B> {
    fn add(&self, finding: Finding) {
        (self.found)(&finding);
        lock(&self.findings).push(finding);
    }

    /// Whether files are compared with the freshness record under each of their names. A mount has them open under others.
    fn opens_each(&self) -> bool {
        !self.options.in_use
    }

    /// The content was read under another name; this one may be another file's by the freshness record.
    fn further_name(&self, file: &Visit<'_, B>) {
        if self.volume.freshness().is_none() || !self.opens_each() {
            return;
        }
        let opened = (self.open)(file, &mut |_| Ok(()));
        if let Err(content::Error::Format(outcome @ (Outcome::Misplaced | Outcome::Unvouched))) = opened {
            self.add(Finding::new(file.paths, outcome.into()));
        }
    }

    /// Damage of the freshness record that concerns nothing that was met is one finding, of the whole volume.
    fn check_record(&self) {
        let Some(fresh) = self.volume.freshness().filter(|_| !self.progress.is_cancelled()) else { return };
        let unvouched = Reason::Format(Outcome::Unvouched);
        let told = lock(&self.findings).iter().any(|finding| finding.reason == unvouched);
        match fresh.damage() {
            Ok(0) => {}
            Ok(rows) => {
                tracing::warn!(rows, "the freshness record is damaged");
                if !told {
                    self.add(Finding::new(&Paths::root(), unvouched));
                }
            }
            Err(error) => self.add(Finding::new(&Paths::root(), content::Error::from(error).into())),
        }
    }

    /// An id that two live objects carry was copied below kmsfs. One that was renamed meanwhile, or is read once more, is still one.
    fn once<K: Hash + Eq>(&self, seen: &Mutex<HashMap<K, u64>>, id: K, ino: u64, paths: &Paths) {
        let before = lock(seen).insert(id, ino);
        if before.is_some_and(|before| before != ino) {
            self.add(Finding::new(paths, Reason::Format(Outcome::DuplicateId)));
        }
    }

    fn read_all(&self, file: &Visit<'_, B>, findings: &mut Vec<Finding>, done: &mut u64) -> content::Result<()> {
        let known = self.options.resume.and_then(|resume| resume.known(file.stat));
        if let Some(id) = known.and_then(|known| known.file_id) {
            self.once(&self.file_ids, id, file.stat.ino, file.paths);
        }
        let from = match known {
            Some(Known { next: None, .. }) => return Ok(()),
            Some(Known { next: Some(next), .. }) => next,
            None => 0,
        };
        (self.open)(file, &mut |content| self.read_from(from, known.is_none(), file, content, findings, done))
    }

    /// Reads a file from unit `from` on; `is_new`: nothing of it was read by an earlier run.
    fn read_from(
        &self,
        from: u64,
        is_new: bool,
        file: &Visit<'_, B>,
        content: &Content<B>,
        findings: &mut Vec<Finding>,
        done: &mut u64,
    ) -> content::Result<()> {
        let file_id = content.file_id();
        if let Some(id) = file_id.filter(|_| is_new) {
            self.once(&self.file_ids, id, content.stored_number()?, file.paths);
        }
        if content.damage() == Some(Outcome::NeverSynced) {
            // It has a size but no header: only its size survived a crash.
            findings.push(Finding::new(file.paths, Outcome::NeverSynced.into()));
        }
        self.note_progress(done, from * UNIT as u64, file);
        let (mut next, mut noted) = (from, from);
        content.scan(from, |piece| {
            let units = match piece {
                Piece::Data { bytes, .. } => unit_count(bytes.len() as u64),
                Piece::Hole { len, .. } => unit_count(len),
                Piece::Damaged { unit, error } => {
                    let reason = error.into();
                    if !findings.last_mut().is_some_and(|last: &mut Finding| last.extend(unit, reason)) {
                        findings.push(Finding::at_unit(file.paths, unit, reason));
                    }
                    1
                }
            };
            next += units;
            self.note_progress(done, units * UNIT as u64, file);
            let stop = self.progress.is_cancelled();
            if (stop || next - noted >= NOTE_UNITS) && findings.is_empty() {
                self.note(file, file_id, Some(next));
                noted = next;
            }
            !stop
        })?;
        if findings.is_empty() && !self.progress.is_cancelled() {
            self.note(file, file_id, None);
        }
        Ok(())
    }

    fn note_progress(&self, done: &mut u64, bytes: u64, file: &Visit<'_, B>) {
        let bytes = bytes.min(file.stat.size.saturating_sub(*done));
        *done += bytes;
        self.progress.done(0, bytes);
    }

    fn note(&self, file: &Visit<'_, B>, file_id: Option<FileId>, next: Option<u64>) {
        if let Some(resume) = self.options.resume
            && let Err(error) = resume.note(file.stat, file_id, next)
        {
            tracing::warn!("how far the volume is verified cannot be noted: {error}");
        }
    }
}

/// The copy of the configuration has to be the configuration.
pub(super) fn check_copy<B: Backing>(backing: &B) -> Result<Option<Finding>, Errno> {
    let control = match backing.open_dir(&backing.root()?, CONTROL_ENTRY) {
        Ok(control) => control,
        Err(Errno::NOENT) => return Ok(None),
        Err(other) => return Err(other),
    };
    let read = |name| {
        let mut bytes = vec![0; MAX_LEN + 1];
        let len = backing.open(&control, name, Access::Read)?.read_at(&mut bytes, 0)?;
        bytes.truncate(len);
        Ok(bytes)
    };
    let Ok(first) = read(config::VOLUME) else { return Ok(None) };
    let paths = Paths { ciphertext: format!("{CONTROL_ENTRY}/{}", config::BACKUP).into(), plaintext: None };
    Ok(match read(config::BACKUP) {
        Ok(copy) if copy == first => None,
        Ok(_) | Err(Errno::NOENT) => Some(Finding::new(&paths, Outcome::VolumeAuth.into())),
        Err(error) => Some(Finding::new(&paths, Reason::Os(error))),
    })
}
