//! Finding out what to do.

use std::collections::{HashMap, HashSet};

use rustix::io::Errno;

use super::aside::aside;
use super::{Action, Plan, Repair};
use crate::content::{self, Content, Volume};
use crate::env::random_nonzero;
use crate::format::Outcome;
use crate::format::dirid;
use crate::format::name::{EntryKind, NameCodec, side_entry};
use crate::format::symlink;
use crate::ops::finding::{Finding, Paths, Reason};
use crate::ops::names::{Entry, Identity, LiveDirs};
use crate::ops::progress::Progress;
use crate::ops::verify::check_copy;
use crate::ops::walk::{DirVisit, Visit, Visitor, Walk, lost_name, walk};
use crate::store::{Access, Backing, FileKind, Modes, Stat, Target};
use crate::sync::{Arc, Mutex, lock};
use crate::types::DirId;

/// How to plan.
#[derive(Debug, Clone, Copy)]
pub struct PlanOptions {
    /// Threads.
    pub threads: usize,
    /// Take a directory id that only one name vouches for.
    pub accept_single: bool,
}

/// Looks at every directory, name and header of an unmounted volume, and says what a repair would do. Units are not read:
/// damage within them is for `verify` and `salvage`. Nothing is changed. The caller holds the volume's lock.
///
/// # Errors
/// Only what keeps it from starting.
pub fn plan<B: Backing>(
    modes: &Arc<Modes<B>>,
    volume: &Arc<Volume>,
    options: PlanOptions,
    progress: &dyn Progress,
) -> Result<Plan, Errno> {
    let opened = volume.keys.volume();
    let names = opened.names();
    let live = LiveDirs::of(modes, &names)?;
    let planner = Planner {
        volume,
        names: &names,
        options,
        progress,
        aside: Mutex::new(None),
        inodes: Mutex::new(HashSet::new()),
        attributes: Mutex::new(HashSet::new()),
        nameless: Mutex::new(HashMap::new()),
        plan: Mutex::new(Plan::default()),
    };
    if let Some(finding) = check_copy(&**modes.backing())? {
        planner.repair(&finding.paths, Action::CopyConfig);
    }
    let how = Walk { names: &names, keys: &opened.keys, threads: options.threads, lenient: Some(&live) };
    walk(modes, how, &planner, progress)?;
    let mut plan = std::mem::take(&mut *lock(&planner.plan));
    move_once(&mut plan.repairs);
    // Ids from above, so that what is in a directory is found; moves from below, so that the paths to the others stay. What is put
    // aside goes before others get a name anew: it may lie where they need their side entry.
    plan.repairs.sort_by_cached_key(|repair| {
        let depth = repair.paths.ciphertext.iter().filter(|b| **b == b'/').count() as i64;
        let moves = repair.action.moves();
        let renames = matches!(repair.action, Action::Rename { .. });
        (moves, if moves { -depth } else { depth }, renames, repair.paths.ciphertext.clone())
    });
    plan.remaining.sort_by(|a, b| a.paths.ciphertext.cmp(&b.paths.ciphertext));
    plan.single.sort_by(|a, b| a.0.ciphertext.cmp(&b.0.ciphertext));
    plan.interrupted = progress.is_cancelled();
    Ok(plan)
}

struct Planner<'a> {
    volume: &'a Arc<Volume>,
    names: &'a NameCodec,
    options: PlanOptions,
    progress: &'a dyn Progress,
    /// Name and ciphertext path of `lost+found`, whether or not it is there yet.
    aside: Mutex<Option<(String, Vec<u8>)>>,
    /// Files with several names whose header was looked at.
    inodes: Mutex<HashSet<u64>>,
    /// Attributes that cannot be read, by the inode and the name on the backing: a file with several names is met under each.
    attributes: Mutex<HashSet<(u64, String)>>,
    /// Ciphertext paths of entries whose names nothing tells, with whether each is put aside for that.
    nameless: Mutex<HashMap<Vec<u8>, bool>>,
    plan: Mutex<Plan>,
}

impl<B: Backing> Visitor<B> for Planner<'_> {
    fn directory(&self, dir: &DirVisit<'_, B>) {
        let id = self.directory_id(dir);
        if dir.paths.ciphertext.is_empty() {
            let found = id.and_then(|id| aside(dir.modes, dir.dir, self.names, id).ok());
            *lock(&self.aside) = found.map(|(name, encoded)| (name, encoded.entry().as_bytes().to_vec()));
        }
        for entry in dir.entries {
            let child = dir.paths.child(entry.raw.as_bytes(), entry.name.as_ref().map(|(name, _)| name.as_slice()));
            match (entry.kind, &entry.name, id) {
                (EntryKind::Temporary, ..) => self.hidden(dir, entry, child, true),
                (EntryKind::Side, ..) => match long_entry(entry, dir.entries) {
                    // With a long entry that comes back it vouches for an id that is lost.
                    None => self.hidden(dir, entry, child, id.is_some()),
                    // What is no side entry gives it no name: both are put aside, in one run.
                    Some(long) if long.name.is_none() && id.is_some() => self.hidden(dir, entry, child, false),
                    Some(_) => {}
                },
                (EntryKind::Control | EntryKind::DirId, ..) => {}
                (_, Some((name, under)), Some(id))
                    if *under != id && self.names.encode(id, name).is_ok_and(|new| new.entry() != entry.raw) =>
                {
                    self.repair(&child, Action::Rename { name: name.clone(), under: id });
                }
                (_, None, Some(_)) => {
                    let name = lost_name(dir.modes, dir.dir, &entry.raw, entry.displaced.as_deref());
                    lock(&self.nameless).insert(child.ciphertext.clone(), true);
                    self.put_aside(&child, (name, entry.displaced.is_some()), Outcome::BadName);
                }
                // In a directory whose id is not known: restored with it, the name comes back.
                (_, None, None) => drop(lock(&self.nameless).insert(child.ciphertext, false)),
                _ => {}
            }
        }
    }

    fn file(&self, file: &Visit<'_, B>) {
        if file.stat.size > 0 && !self.progress.is_cancelled() {
            self.header(file);
        }
        self.progress.done(1, file.stat.size);
    }

    fn other(&self, object: &Visit<'_, B>) {
        if object.stat.kind != FileKind::Symlink {
            return;
        }
        let target = Target::Named(object.dir, object.entry);
        // That it cannot be looked at the walk has told.
        if let Ok(text) = object.modes.backing().read_link(target)
            && let Err(why) = symlink::decode(&self.volume.keys.volume().keys, &text)
        {
            self.put_damaged_aside(object, why);
        }
    }

    fn attribute(&self, (paths, stat): (&Paths, &Stat), stored: &str, _outcome: Outcome) {
        if lock(&self.attributes).insert((stat.ino, stored.to_owned())) {
            self.repair(paths, Action::RemoveAttribute { stored: stored.to_owned() });
        }
    }

    fn finding(&self, finding: Finding) {
        // What is wrong with ids and names is judged with the directory, but for entries that no operation can name; what is wrong with
        // symlinks when they are met.
        let judged = matches!(
            finding.reason,
            Reason::Format(
                Outcome::NoDirId | Outcome::BadDirId | Outcome::WrongDirId | Outcome::BadName | Outcome::SymlinkAuth
            )
        ) && std::str::from_utf8(&finding.paths.ciphertext).is_ok();
        if !judged {
            self.remains(finding);
        }
    }
}

impl Planner<'_> {
    fn repair(&self, paths: &Paths, action: Action) {
        lock(&self.plan).repairs.push(Repair { paths: paths.clone(), action });
    }

    fn remains(&self, finding: Finding) {
        lock(&self.plan).remaining.push(finding);
    }

    /// The id that the directory has or will have.
    fn directory_id<B: Backing>(&self, dir: &DirVisit<'_, B>) -> Option<DirId> {
        let was = match dir.identity.stored {
            Ok(id) => return Some(id),
            Err(was) => was,
        };
        let visible = || dir.entries.iter().filter(|entry| !entry.kind.is_hidden());
        let (id, votes) = match dir.identity {
            Identity { id: Some(id), votes, .. } if votes > 1 || self.options.accept_single => (id, votes),
            Identity { id: Some(_), .. } => {
                let name = visible().find_map(|entry| entry.name.as_ref()).map(|(name, _)| name.clone());
                lock(&self.plan).single.push((dir.paths.clone(), name.unwrap_or_default()));
                self.remains(Finding::new(dir.paths, was.into()));
                return None;
            }
            // Every name is known by another id, or there is none: a new id takes nothing away.
            Identity { id: None, any_blob, .. } if !any_blob || visible().all(|entry| entry.name.is_some()) => {
                (DirId::from_bytes(random_nonzero(&*self.volume.entropy)), 0)
            }
            Identity { id: None, .. } => {
                self.remains(Finding::new(dir.paths, was.into()));
                return None;
            }
        };
        match super::apply::is_no_text(dir.modes, dir.dir, dirid::ENTRY) {
            Ok(uncovers) => self.repair(dir.paths, Action::WriteDirId { id, votes, was, uncovers }),
            Err(e) => {
                self.remains(Finding::new(dir.paths, Reason::Os(e)));
                return None;
            }
        }
        Some(id)
    }

    /// What lies under a name of kmsfs' own: a leftover goes if nothing needs it (`unused`), what is none is put aside.
    fn hidden<B: Backing>(&self, dir: &DirVisit<'_, B>, entry: &Entry, paths: Paths, unused: bool) {
        match super::apply::is_leftover(dir.modes, dir.dir, &entry.raw) {
            Ok(true) if unused => self.repair(&paths, Action::RemoveLeftover),
            Ok(true) => {}
            // Its name hides it, and keeps the directory above it from being removed.
            Ok(false) => {
                let name = lost_name(dir.modes, dir.dir, &entry.raw, None);
                self.put_aside(&paths, (name, false), Outcome::BadName);
            }
            Err(e) => self.remains(Finding::new(&paths, Reason::Os(e))),
        }
    }

    /// Plans a move to `lost+found` under `name`, unless it lies there already. `displaced`: another entry has the name that it had.
    fn put_aside(&self, paths: &Paths, (name, displaced): (Vec<u8>, bool), why: Outcome) {
        let Some((into, aside)) = lock(&self.aside).clone() else {
            return self.remains(Finding::new(paths, why.into()));
        };
        let lies_there =
            paths.ciphertext.strip_prefix(aside.as_slice()).is_some_and(|rest| rest.first() == Some(&b'/'));
        if lies_there && why != Outcome::BadName {
            return self.remains(Finding::new(paths, why.into()));
        }
        self.repair(paths, Action::PutAside { into, name, why, displaced });
    }

    fn header<B: Backing>(&self, file: &Visit<'_, B>) {
        let first = file.stat.nlink == 1 || lock(&self.inodes).insert(file.stat.ino);
        let opened = match file.open(Access::Read) {
            Ok(opened) => opened,
            Err(e) => return self.remains(Finding::new(file.paths, Reason::Os(e))),
        };
        let content = Content::open_damaged(Arc::clone(file.modes.backing()), Arc::clone(self.volume), opened);
        let (content, flaws) = match content {
            Ok(content) => content,
            Err(e) => return self.remains(Finding::new(file.paths, e.into())),
        };
        match (&flaws[..], content.damage()) {
            ([], None) if first => match content.header_state() {
                Ok(state) => {
                    if state.unfinished_rewrap {
                        self.repair(file.paths, Action::FinishRewrap);
                    }
                    if state.record_lost {
                        self.repair(file.paths, Action::MirrorRecord);
                    }
                }
                Err(e) => self.remains(Finding::new(file.paths, content::Error::into(e))),
            },
            ([], None) => {}
            ([Outcome::BadSize], None) if content.size() > 0 => {
                if first {
                    self.size(file.paths, file.stat, content.size());
                }
            }
            ([Outcome::HeaderAuth], None) => {
                if first {
                    self.repair(file.paths, Action::OlderSlot);
                }
            }
            // A crash alone can make it.
            (flaws, Some(Outcome::NeverSynced)) if first => {
                let size = content.size();
                if flaws.contains(&Outcome::BadSize) {
                    self.size(file.paths, file.stat, size);
                }
                if size > 0 {
                    self.repair(file.paths, Action::WriteHeader { size });
                }
            }
            (_, Some(Outcome::NeverSynced)) => {}
            (flaws, damage) => {
                let unreadable =
                    flaws.iter().find(|f| matches!(f, Outcome::RecordAuth | Outcome::Truncated | Outcome::BadSize));
                match damage.or(unreadable.copied()) {
                    // Neither keys that may not be used now nor what a later version made are damage.
                    Some(
                        why @ (Outcome::KeyForbidden
                        | Outcome::KeyUnavailable
                        | Outcome::KeyServiceTimeout
                        | Outcome::UnknownFeature),
                    ) => self.remains(Finding::new(file.paths, why.into())),
                    Some(why) => self.put_damaged_aside(file, why),
                    None => flaws.iter().for_each(|f| self.remains(Finding::new(file.paths, (*f).into()))),
                }
            }
        }
    }

    /// Plans the move of what nobody can read.
    fn put_damaged_aside<B: Backing>(&self, object: &Visit<'_, B>, why: Outcome) {
        let nameless = lock(&self.nameless).get(&object.paths.ciphertext).copied();
        let path = object.paths.plaintext.as_deref().unwrap_or(&object.paths.ciphertext);
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        match nameless {
            None => {
                let name = lost_name(object.modes, object.dir, object.entry, Some(name));
                self.put_aside(object.paths, (name, false), why);
            }
            // The walk calls it as it is called there.
            Some(true) => {
                let paths = Paths { plaintext: None, ..object.paths.clone() };
                self.put_aside(&paths, (name.to_vec(), false), why);
            }
            // Its entry is the only copy of its name.
            Some(false) => self.remains(Finding::new(object.paths, why.into())),
        }
    }

    fn size(&self, paths: &Paths, stat: &Stat, size: u64) {
        match self.volume.geometry.stored_size(size) {
            Ok(to) => self.repair(paths, Action::SetSize { from: stat.size, to }),
            Err(outcome) => self.remains(Finding::new(paths, outcome.into())),
        }
    }
}

/// What is to be moved for two reasons moves once: damage of the file counts for more than its name, and is found later.
fn move_once(repairs: &mut Vec<Repair>) {
    let mut seen = HashSet::new();
    repairs.reverse();
    repairs.retain(|repair| !repair.action.moves() || seen.insert(repair.paths.ciphertext.clone()));
    repairs.reverse();
}

/// The entry of which the name should stand in this one.
fn long_entry<'e>(side: &Entry, entries: &'e [Entry]) -> Option<&'e Entry> {
    entries.iter().find(|entry| entry.kind == EntryKind::Long && side_entry(&entry.raw) == side.raw)
}
