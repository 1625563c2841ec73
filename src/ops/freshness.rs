//! A volume and its freshness record (ADR 12), without a mount.

mod places;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::VolumeError;
use super::finding::{Finding, Paths};
use super::lock::{LockError, RecordLock};
use super::walk::{DirVisit, Visit};
use crate::content::{self, Content, Volume};
use crate::format::name::{EntryKind, NameCodec};
use crate::format::volume::OpenedVolume;
use crate::format::{Outcome, dirid};
use crate::freshness::{Freshness, InUse, Place, Target, TrackedDir, TrackedFile, inode_mark, set_aside};
use crate::store::tree::{each_entry, read_meta};
use crate::store::{self, Access, Backing, FileKind, LIST, Modes, OpenDir, Stat};
use crate::sync::{Arc, Mutex, lock};
use crate::types::{DirId, VolumeId};
use places::{Places, Stands};

/// Where the record of a volume lies in the home of the key manager.
pub fn record_path(home: &Path, volume: &VolumeId) -> PathBuf {
    home.join("freshness").join(format!("{volume}.db"))
}

/// A record that nobody else writes.
pub struct OwnRecord {
    /// It.
    pub fresh: Arc<Freshness>,
    /// To be held as long as it is used.
    pub lock: RecordLock,
}

/// Opens the record of a volume that has one, to compare with it beside whoever writes it.
///
/// # Errors
/// [`VolumeError::NoRecord`], [`VolumeError::Record`].
pub fn open_record(home: &Path, opened: &OpenedVolume) -> Result<Option<Arc<Freshness>>, VolumeError> {
    let Some(path) = present_record(home, opened)? else { return Ok(None) };
    Ok(Some(Arc::new(Freshness::open_beside(&path, &opened.keys, opened.config.volume_id)?)))
}

/// Opens the record of a volume that has one, for `purpose`, which is what a second one is told.
///
/// # Errors
/// As [`open_record`]; and [`VolumeError::RecordBusy`], also if it is a copy of the volume that another process has.
pub fn own_record(home: &Path, opened: &OpenedVolume, purpose: &str) -> Result<Option<OwnRecord>, VolumeError> {
    let Some(path) = present_record(home, opened)? else { return Ok(None) };
    let lock = lock_record(&path, purpose)?;
    let fresh = Arc::new(Freshness::open(&path, &opened.keys, opened.config.volume_id)?);
    Ok(Some(OwnRecord { fresh, lock }))
}

fn present_record(home: &Path, opened: &OpenedVolume) -> Result<Option<PathBuf>, VolumeError> {
    if !opened.config.freshness() {
        return Ok(None);
    }
    let path = record_path(home, &opened.config.volume_id);
    if path.exists() { Ok(Some(path)) } else { Err(VolumeError::NoRecord(path)) }
}

/// Beside the record and not on it: SQLite has its own locks there, and a new record may take its place.
fn lock_record(record: &Path, purpose: &str) -> Result<RecordLock, VolumeError> {
    let path = record.with_extension("lock");
    RecordLock::acquire(&path, purpose).map_err(|error| match error {
        LockError::Busy(owner) => VolumeError::RecordBusy(owner),
        LockError::Io(error) => VolumeError::io(path, "lock", error),
    })
}

/// A record in which the content of a volume is to be accepted.
pub struct RecordToAccept {
    /// It.
    pub fresh: Arc<Freshness>,
    /// To be held as long as it is used.
    pub lock: RecordLock,
    /// It was begun for that: nothing of the volume is in it.
    pub is_new: bool,
    /// Where the damaged one is kept that it takes the place of.
    pub damaged: Option<PathBuf>,
}

/// Opens the record of a volume that has one, to accept what is there, for `purpose`. If the `whole` volume is, then one that is
/// missing is begun, and one that is damaged in any part is set aside and begun anew, since nothing of it is needed.
///
/// # Errors
/// [`VolumeError::NoRecord`] and, for a damaged one, [`VolumeError::Record`] if it is not for the whole volume;
/// [`VolumeError::RecordBusy`] as [`own_record`]; or the backing's error.
pub fn record_to_accept<B: Backing>(
    home: &Path,
    opened: &OpenedVolume,
    backing: &B,
    (whole, purpose): (bool, &str),
) -> Result<Option<RecordToAccept>, VolumeError> {
    let path = match present_record(home, opened) {
        Ok(None) => return Ok(None),
        Ok(Some(path)) => path,
        Err(VolumeError::NoRecord(path)) if whole => path,
        Err(other) => return Err(other),
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|e| VolumeError::io(parent, "create", e))?;
    }
    let lock = lock_record(&path, purpose)?;
    let damaged = path.exists();
    if damaged {
        match Freshness::open(&path, &opened.keys, opened.config.volume_id) {
            Ok(fresh) if !whole || fresh.damage()? == 0 => {
                return Ok(Some(RecordToAccept { fresh: Arc::new(fresh), lock, is_new: false, damaged: None }));
            }
            Err(error) if !whole || !error.is_damage() => return Err(error.into()),
            _ => {}
        }
    }
    // Without it a new record would be nobody's.
    let id = backing.root().and_then(|root| dir_id(backing, opened, &root));
    let id = id.map_err(|e| VolumeError::io(&path, "find the root of the volume for", e))?;
    let id = id.map_err(|outcome| VolumeError::Refused { path: path.clone(), outcome, other_copy_readable: false })?;
    let damaged = if damaged { Some(set_aside(&path)?) } else { None };
    let fresh = Arc::new(Freshness::create(&path, &opened.keys, opened.config.volume_id, id)?);
    Ok(Some(RecordToAccept { fresh, lock, is_new: true, damaged }))
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

/// The files that the record has under the names that a walk met: each of them is to be one inode, and each inode one of them.
/// Of an empty file nothing else tells.
#[derive(Default)]
pub(super) struct NamedFiles {
    /// By inode with several names, the file and, until it was told of, the name that it was met under first.
    by_inode: HashMap<u64, (u64, Option<Paths>)>,
    /// By file, the number of the inode.
    by_file: HashMap<u64, u64>,
}

impl NamedFiles {
    /// Names of which one at least is wrong: nobody can tell which.
    fn meet(&mut self, stat: &Stat, mark: u64, file: u64, paths: &Paths) -> Vec<Paths> {
        let mut wrong = Vec::new();
        if stat.nlink > 1 {
            let (before, first) = self.by_inode.entry(mark).or_insert_with(|| (file, Some(paths.clone())));
            if *before != file {
                wrong.extend(first.take());
                wrong.push(paths.clone());
            }
        }
        if stat.size == 0 && *self.by_file.entry(file).or_insert(stat.ino) != stat.ino && wrong.is_empty() {
            wrong.push(paths.clone());
        }
        wrong
    }
}

/// Compares the names of a directory that a walk met with the record. What a crash left in it is for the next mount to
/// take in. `opens_each`: the caller opens a file with content under each of its names.
pub(super) fn check_names<B: Backing>(
    volume: &Volume,
    fresh: &Arc<Freshness>,
    visit: &DirVisit<'_, B>,
    id: DirId,
    (files, opens_each): (&Mutex<NamedFiles>, bool),
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
    let paths_of = |entry: &str| {
        let name = names.decode(id, entry.as_bytes(), None).ok();
        visit.paths.child(entry.as_bytes(), name.as_deref())
    };
    let mut tell = |paths: &Paths, outcome: Outcome| found(Finding::new(paths, outcome.into()));
    let entries = user_entries(&**visit.modes.backing(), visit.dir, in_root)?;
    for entry in &entries {
        let target = store::Target::Named(visit.dir, entry);
        let stat = match visit.modes.stat(target) {
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        let is = fresh.target_of(visit.modes, &opened.keys, visit.dir, entry, stat.kind)?;
        match record.expected(entry) {
            Some(Target::File(_)) if stat.kind == FileKind::Regular && stat.size > 0 && opens_each => {}
            Some(Target::File(file)) if stat.kind == FileKind::Regular => {
                let mark = if stat.nlink > 1 { inode_mark(&**visit.modes.backing(), target, stat.ino)? } else { 0 };
                let wrong = lock(files).meet(&stat, mark, file, &paths_of(entry));
                wrong.iter().for_each(|paths| tell(paths, Outcome::Misplaced));
            }
            Some(was) if was.is_of(stat.kind) && is.is_none_or(|is| is == was) => {}
            _ => tell(&paths_of(entry), record.misfit(entry)),
        }
    }
    for (entry, outcome) in record.missing(&entries.into_iter().collect::<HashSet<_>>()) {
        tell(&paths_of(&entry), outcome);
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
        (false, Some(Target::File(object)), _) => match fresh.file(object)? {
            // Whatever has a name in the record is in it.
            None => return Err(Outcome::Unvouched.into()),
            found => found,
        },
        (true, expected, Some(id)) => {
            let object = if let Some(Target::File(object)) = expected { Some(object) } else { None };
            let named = store::Target::Named(file.dir, file.entry);
            fresh.file_with(id, inode_mark(&**file.modes.backing(), named, file.stat.ino)?, object)?
        }
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
/// the whole volume if `path` has no names. No file that is not there, or not another name of what is, becomes unreadable by it.
///
/// # Errors
/// The backing's error, `ENOENT` too for a name that the record does not have either; the record's; or the outcome for a directory on
/// the way that has no valid id.
pub fn accept<B: Backing>(
    modes: &Arc<Modes<B>>,
    volume: &Arc<Volume>,
    fresh: &Arc<Freshness>,
    path: &[&[u8]],
) -> content::Result<AcceptReport> {
    let opened = volume.keys.volume();
    let names = opened.names();
    let backing = modes.backing();
    let mut job = Accepting {
        modes,
        volume,
        fresh,
        names,
        whole: path.is_empty(),
        unknown_names: fresh.may_have_more_names(),
        places: Places::new(modes, fresh, (*opened).clone()),
        by_inode: HashMap::new(),
        inodes: HashMap::new(),
        report: AcceptReport::default(),
    };
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
            let at = (&dir, id);
            let below = job.entry(at, &record, entry.entry(), &paths.child(entry.entry().as_bytes(), Some(last)))?;
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
    /// Everything in the volume is accepted.
    whole: bool,
    /// There may be names that the record does not have.
    unknown_names: bool,
    places: Places<'a, B>,
    /// Files with several names.
    by_inode: HashMap<u64, TrackedFile>,
    /// By file of the record, the inode that it was accepted as.
    inodes: HashMap<u64, u64>,
    report: AcceptReport,
}

impl<B: Backing> Accepting<'_, B> {
    fn directory(&mut self, dir: &Arc<OpenDir<B>>, id: DirId, paths: &Paths) -> content::Result<Vec<Waiting<B>>> {
        let record = self.fresh.directory(id)?;
        let entries = user_entries(&**self.modes.backing(), dir, paths.ciphertext.is_empty())?;
        let mut waiting = Vec::new();
        for entry in &entries {
            let name = self.names.decode(id, entry.as_bytes(), None).ok();
            waiting.extend(self.entry((dir, id), &record, entry, &paths.child(entry.as_bytes(), name.as_deref()))?);
        }
        for (entry, _) in record.missing(&entries.into_iter().collect()) {
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
        (dir, id): (&Arc<OpenDir<B>>, DirId),
        record: &TrackedDir,
        entry: &str,
        paths: &Paths,
    ) -> content::Result<Option<Waiting<B>>> {
        let stat = match self.modes.stat(store::Target::Named(&***dir, entry)) {
            Ok(stat) => stat,
            // Nor was it ever there, as far as anybody knows.
            Err(Errno::NOENT) if record.expected(entry).is_none() && record.misfit(entry) == Outcome::Misplaced => {
                return Err(Errno::NOENT.into());
            }
            Err(Errno::NOENT) => {
                record.accept(entry, None)?;
                self.report.removed += 1;
                return Ok(None);
            }
            Err(other) => return Err(other.into()),
        };
        if stat.kind == FileKind::Regular {
            match self.file((dir, id), record, entry, &stat) {
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

    fn file(
        &mut self,
        (dir, id): (&Arc<OpenDir<B>>, DirId),
        record: &TrackedDir,
        entry: &str,
        stat: &Stat,
    ) -> content::Result<()> {
        let file = self.modes.open(dir, entry, Access::Read)?;
        let mark = inode_mark(&**self.modes.backing(), store::Target::File(&file), stat.ino)?;
        let content = Content::open(Arc::clone(self.modes.backing()), Arc::clone(self.volume), file, Access::Read)?;
        if let Some(known) = self.by_inode.get(&stat.ino) {
            return Ok(record.accept(entry, Some(Target::File(known.object())))?);
        }
        // The record of this very file, wherever it stood, else what was under the name; but never one for two inodes.
        let expected = if let Some(Target::File(object)) = record.expected(entry) { Some(object) } else { None };
        let shared = stat.nlink > 1;
        let mut tracked = None;
        let mut names_of_it = Vec::new();
        for known in self.fresh.files_to_accept((content.file_id(), mark, shared), expected)? {
            match self.other_names(&known, stat.ino, mark, (id, entry, record))? {
                None => {
                    tracked = Some(known);
                    break;
                }
                Some(same) if known.lives_as(content.file_id()) => names_of_it.extend(same),
                Some(_) => {}
            }
        }
        let tracked = tracked.unwrap_or_else(|| self.fresh.new_file());
        self.inodes.insert(tracked.object(), stat.ino);
        tracked.seen_at(mark);
        content.accept_into(&tracked)?;
        let target = Some(Target::File(tracked.object()));
        record.accept(entry, target)?;
        // What is the same inode by its other names has to be one file by them.
        for (dir, name) in names_of_it {
            self.fresh.directory(dir)?.accept(&name, target)?;
        }
        if shared {
            self.by_inode.insert(stat.ino, tracked);
        }
        Ok(())
    }

    /// `None` if the record of a file may become that of the inode `ino`, as no other file has it. Else the names of it, other than
    /// the entry `at` in a directory, under which the inode stands: others have it too.
    fn other_names(
        &mut self,
        known: &TrackedFile,
        ino: u64,
        mark: u64,
        (at, entry, record): (DirId, &str, &TrackedDir),
    ) -> content::Result<Option<Vec<Place>>> {
        let object = known.object();
        // What of it was accepted before counts, settled or not; and a name that nobody knows may be any file's.
        let mut is_free = self.inodes.get(&object).is_none_or(|given| *given == ino)
            && (self.whole || !self.unknown_names || known.was_seen_at(mark));
        let mut same = Vec::new();
        for (dir, name) in self.fresh.names_of(object)? {
            if dir == at && (name == entry || record.expected(&name) != Some(Target::File(object))) {
                continue;
            }
            match self.places.stands(dir, &name, mark)? {
                Stands::This => same.push((dir, name)),
                Stands::Other => is_free = false,
                Stands::Nothing => {}
            }
        }
        Ok(if is_free { None } else { Some(same) })
    }
}
