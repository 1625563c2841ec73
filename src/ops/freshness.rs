//! A volume and its freshness record (ADR 12), without a mount.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::VolumeError;
use super::finding::{Finding, Paths};
use super::walk::{DirVisit, Visit};
use crate::content::{self, Content, Volume};
use crate::format::name::{EntryKind, NameCodec};
use crate::format::volume::OpenedVolume;
use crate::format::{Outcome, dirid};
use crate::freshness::{Freshness, InUse, Target, TrackedDir, TrackedFile, inode_mark};
use crate::store::tree::{each_entry, read_meta};
use crate::store::{self, Access, Backing, FileKind, LIST, Modes, OpenDir, Stat};
use crate::sync::Arc;
use crate::types::{DirId, VolumeId};

/// Where the record of a volume lies in the home of the key manager.
pub fn record_path(home: &Path, volume: &VolumeId) -> PathBuf {
    home.join("freshness").join(format!("{volume}.db"))
}

/// Opens the record of a volume that has one.
///
/// # Errors
/// [`VolumeError::NoRecord`], [`VolumeError::Record`].
pub fn open_record(home: &Path, opened: &OpenedVolume) -> Result<Option<Arc<Freshness>>, VolumeError> {
    if !opened.config.freshness() {
        return Ok(None);
    }
    let path = record_path(home, &opened.config.volume_id);
    if !path.exists() {
        return Err(VolumeError::NoRecord(path));
    }
    Ok(Some(Arc::new(Freshness::open(&path, &opened.keys, opened.config.volume_id)?)))
}

/// As [`open_record`], but begins a new record if there is none: then nothing of the volume is in it.
///
/// # Errors
/// [`VolumeError::Record`], or the backing's error.
pub fn open_or_begin_record<B: Backing>(
    home: &Path,
    opened: &OpenedVolume,
    backing: &B,
) -> Result<Option<Arc<Freshness>>, VolumeError> {
    match open_record(home, opened) {
        Err(VolumeError::NoRecord(path)) => {
            let id = backing.root().and_then(|root| dir_id(backing, opened, &root));
            let id = id.map_err(|e| VolumeError::io(&path, "find the root of the volume for", e))?;
            let id =
                id.map_err(|outcome| VolumeError::Refused { path: path.clone(), outcome, other_copy_readable: false })?;
            Ok(Some(Arc::new(Freshness::create(&path, &opened.keys, opened.config.volume_id, id)?)))
        }
        other => other,
    }
}

fn dir_id<B: Backing>(backing: &B, opened: &OpenedVolume, dir: &B::Dir) -> store::Result<Result<DirId, Outcome>> {
    let text = read_meta(backing, dir, dirid::ENTRY, dirid::TEXT_LEN)?;
    Ok(dirid::decode(&opened.keys, text.as_found()))
}

/// The entries of a directory that are a user's.
fn user_entries<B: Backing>(backing: &B, dir: &B::Dir, in_root: bool) -> store::Result<Vec<String>> {
    let mut names = Vec::new();
    each_entry(backing, dir, |raw| {
        let kind = EntryKind::of(&raw.name, in_root);
        if matches!(kind, EntryKind::Long | EntryKind::Short)
            && let Ok(name) = std::str::from_utf8(&raw.name)
        {
            names.push(name.to_owned());
        }
        Ok::<_, Errno>(true)
    })?;
    Ok(names)
}

/// Compares the names of a directory that a walk met with the record. What a crash left in it is for the next mount to
/// take in.
pub(super) fn check_names<B: Backing>(
    volume: &Volume,
    fresh: &Arc<Freshness>,
    visit: &DirVisit<'_, B>,
    id: DirId,
    found: &mut dyn FnMut(Finding),
) -> content::Result<()> {
    let in_root = visit.paths.ciphertext.is_empty();
    if in_root && id != fresh.root() {
        found(Finding::new(visit.paths, Outcome::Misplaced.into()));
    }
    let record = fresh.directory(id)?;
    // Within a mount names go on changing.
    let _still = fresh.still();
    if record.is_lenient() {
        return Ok(());
    }
    let opened = volume.keys.volume();
    let names = opened.names();
    let mut tell = |entry: &str, outcome: Outcome| {
        let name = names.decode(id, entry.as_bytes(), None).ok();
        found(Finding::new(&visit.paths.child(entry.as_bytes(), name.as_deref()), outcome.into()));
    };
    let entries = user_entries(&**visit.modes.backing(), visit.dir, in_root)?;
    for entry in &entries {
        let stat = match visit.modes.stat(store::Target::Named(visit.dir, entry)) {
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        let is = fresh.target_of(visit.modes, &opened.keys, visit.dir, entry, stat.kind)?;
        let fits = record.expected(entry).is_some_and(|was| was.is_of(stat.kind) && is.is_none_or(|is| is == was));
        if !fits {
            tell(entry, Outcome::Misplaced);
        }
    }
    for entry in record.missing(&entries.into_iter().collect::<HashSet<_>>()) {
        tell(&entry, Outcome::Vanished);
    }
    Ok(())
}

/// The record that a file has to agree with; `None` if [`check_names`] tells what is wrong.
pub(super) fn record_of<B: Backing>(
    volume: &Volume,
    file: &Visit<'_, B>,
    content: &Content<B>,
) -> content::Result<Option<InUse>> {
    let Some(fresh) = volume.freshness() else { return Ok(None) };
    let Ok(id) = dir_id(&**file.modes.backing(), &volume.keys.volume(), file.dir)? else { return Ok(None) };
    let dir = fresh.directory(id)?;
    let record = match (dir.is_lenient(), dir.expected(file.entry), content.file_id()) {
        (false, Some(Target::File(object)), _) => fresh.file(object)?,
        (true, _, Some(id)) => fresh.file_with(id)?,
        _ => None,
    };
    Ok(record.map(|record| record.in_use()))
}

/// What was accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AcceptReport {
    /// Files, with all their units.
    pub files: u64,
    /// Directories with everything in them.
    pub directories: u64,
    /// Symlinks, fifos, sockets and devices.
    pub others: u64,
    /// Names that were recorded and are not there.
    pub removed: u64,
    /// What cannot be read, and so not be accepted.
    pub findings: Vec<Finding>,
}

/// Records what stands at `path`, the names of which are in plaintext, and everything below it, as what ought to be there:
/// the whole volume if `path` has no names.
///
/// # Errors
/// The backing's error, the record's, or the outcome for a directory on the way that has no valid id.
pub fn accept<B: Backing>(
    modes: &Arc<Modes<B>>,
    volume: &Arc<Volume>,
    fresh: &Arc<Freshness>,
    path: &[&[u8]],
) -> content::Result<AcceptReport> {
    let opened = volume.keys.volume();
    let names = opened.names();
    let backing = modes.backing();
    let mut job = Accepting { modes, volume, fresh, names, by_inode: HashMap::new(), report: AcceptReport::default() };
    // What is recorded has to be durable; nothing of it changes from here on.
    backing.sync_all()?;
    let mut dir = Arc::new(modes.root(LIST)?);
    let mut paths = Paths::root();
    let mut id = dir_id(&**backing, &opened, &dir)??;
    if id != fresh.root() {
        return Err(Outcome::Misplaced.into());
    }
    let mut waiting = Vec::new();
    match path.split_last() {
        None => waiting.push((dir, id, paths)),
        Some((last, above)) => {
            for name in above {
                let entry = job.names.encode(id, name)?;
                dir = Arc::new(modes.open_dir(&dir, entry.entry(), LIST)?);
                paths = paths.child(entry.entry().as_bytes(), Some(name));
                id = dir_id(&**backing, &opened, &dir)??;
            }
            let entry = job.names.encode(id, last)?;
            let record = fresh.directory(id)?;
            let below = job.entry(&dir, &record, entry.entry(), &paths.child(entry.entry().as_bytes(), Some(last)))?;
            waiting.extend(below);
        }
    }
    while let Some((dir, id, paths)) = waiting.pop() {
        waiting.extend(job.directory(&dir, id, &paths)?);
        fresh.settle(|| Ok(()))?;
    }
    fresh.settle(|| Ok(()))?;
    Ok(job.report)
}

/// A directory whose entries are still to be accepted.
type Waiting<B> = (Arc<OpenDir<B>>, DirId, Paths);

struct Accepting<'a, B: Backing> {
    modes: &'a Arc<Modes<B>>,
    volume: &'a Arc<Volume>,
    fresh: &'a Arc<Freshness>,
    names: NameCodec,
    /// Files with several names.
    by_inode: HashMap<u64, TrackedFile>,
    report: AcceptReport,
}

impl<B: Backing> Accepting<'_, B> {
    fn directory(&mut self, dir: &Arc<OpenDir<B>>, id: DirId, paths: &Paths) -> content::Result<Vec<Waiting<B>>> {
        let record = self.fresh.directory(id)?;
        let entries = user_entries(&**self.modes.backing(), dir, paths.ciphertext.is_empty())?;
        let mut waiting = Vec::new();
        for entry in &entries {
            let name = self.names.decode(id, entry.as_bytes(), None).ok();
            waiting.extend(self.entry(dir, &record, entry, &paths.child(entry.as_bytes(), name.as_deref()))?);
        }
        for entry in record.missing(&entries.into_iter().collect()) {
            record.accept(&entry, None)?;
            self.report.removed += 1;
        }
        record.accepted()?;
        self.report.directories += 1;
        Ok(waiting)
    }

    /// Accepts one entry; a directory is left to the caller.
    fn entry(
        &mut self,
        dir: &Arc<OpenDir<B>>,
        record: &TrackedDir,
        entry: &str,
        paths: &Paths,
    ) -> content::Result<Option<Waiting<B>>> {
        let stat = match self.modes.stat(store::Target::Named(&***dir, entry)) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                record.accept(entry, None)?;
                self.report.removed += 1;
                return Ok(None);
            }
            Err(other) => return Err(other.into()),
        };
        if stat.kind == FileKind::Regular {
            match self.file(dir, record, entry, &stat) {
                Ok(()) => self.report.files += 1,
                Err(error) => self.report.findings.push(Finding::new(paths, error.into())),
            }
            return Ok(None);
        }
        let keys = &self.volume.keys.volume().keys;
        let Some(target) = self.fresh.target_of(self.modes, keys, dir, entry, stat.kind)? else {
            self.report.findings.push(Finding::new(paths, Outcome::BadDirId.into()));
            return Ok(None);
        };
        record.accept(entry, Some(target))?;
        Ok(match target {
            Target::Dir(id) => Some((Arc::new(self.modes.open_dir(dir, entry, LIST)?), id, paths.clone())),
            _ => {
                self.report.others += 1;
                None
            }
        })
    }

    fn file(&mut self, dir: &Arc<OpenDir<B>>, record: &TrackedDir, entry: &str, stat: &Stat) -> content::Result<()> {
        let file = self.modes.open(dir, entry, Access::Read)?;
        let mark = inode_mark(&**self.modes.backing(), store::Target::File(&file), stat.ino)?;
        let content = Content::open(Arc::clone(self.modes.backing()), Arc::clone(self.volume), file, Access::Read)?;
        if let Some(known) = self.by_inode.get(&stat.ino) {
            return Ok(record.accept(entry, Some(Target::File(known.object())))?);
        }
        // The record of this very file, wherever it stood, else what was under the name.
        let moved = content.file_id().map(|id| self.fresh.file_with(id)).transpose()?.flatten();
        let tracked = match (moved, record.expected(entry)) {
            (Some(moved), _) => moved,
            (None, Some(Target::File(object))) => self.fresh.file(object)?.unwrap_or_else(|| self.fresh.new_file()),
            (None, _) => self.fresh.new_file(),
        };
        tracked.seen_at(mark);
        content.accept_into(&tracked)?;
        record.accept(entry, Some(Target::File(tracked.object())))?;
        if stat.nlink > 1 {
            self.by_inode.insert(stat.ino, tracked);
        }
        Ok(())
    }
}
