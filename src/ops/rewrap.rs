//! Moving every wrapped key of a volume to the current material of its key, or to another key (FORMAT 5.3).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use rustix::io::Errno;

use super::VolumeError;
use super::config;
use super::files::MetaDir;
use super::finding::Finding;
use super::progress::Progress;
use super::walk::{Visit, Visitor, Walk, walk};
use crate::content::{self, Content, Rewrapped, Volume};
use crate::env::Clock;
use crate::format::Outcome;
use crate::format::context::context_vrk;
use crate::format::recipient::{AllowList, Recipient};
use crate::format::volume::{DefaultWrap, OpenedVolume, VolumeConfig};
use crate::keys::{KeyError, KeyService, RewrapJob};
use crate::kms::registry::Registry;
use crate::store::{Access, Backing, Modes, SEARCH, Target};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, lock};
use crate::types::KeyArn;

/// What moves where.
#[derive(Debug, Clone, Default)]
pub struct RewrapOptions {
    /// Only what this key wraps; everything if `None`.
    pub from: Option<KeyArn>,
    /// To this key; `None`: to the current material of each one's own key.
    pub to: Option<KeyArn>,
    /// Threads.
    pub threads: usize,
}

/// What was done. Running it again does the rest: what is done already is skipped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RewrapReport {
    /// Headers with a new wrapped key.
    pub rewrapped: u64,
    /// Files with nothing to do: empty, current already, or not under the source key.
    pub unchanged: u64,
    /// Whether the volume's root key was wrapped anew.
    pub root_key: bool,
    /// Files that could not be moved; the old key is still needed for them.
    pub findings: Vec<Finding>,
    /// Inode numbers of rewrapped files with names outside of the volume, as in other generations of a backup, where nobody has the new
    /// key yet; none if the job was stopped.
    pub linked_elsewhere: BTreeSet<u64>,
    /// The job was stopped before its end.
    pub interrupted: bool,
}

/// Wraps the volume's root key anew and, for a move to another key, allows that key and makes it the one of new files.
/// The caller holds the volume's lock. Returns the volume as it is now, and whether anything changed.
///
/// # Errors
/// [`VolumeError::Refused`] for a volume that this version may only read; key errors, the system's errors; the volume then
/// opens as before.
pub fn rewrap_config<B: Backing>(
    root: &Path,
    meta: &MetaDir<B>,
    opened: OpenedVolume,
    service: &dyn KeyService,
    registry: &Registry,
    options: &RewrapOptions,
    clock: &dyn Clock,
) -> Result<(OpenedVolume, bool), VolumeError> {
    if opened.config.read_only() {
        let (path, outcome) = (config::path_of(root, config::VOLUME), Outcome::UnknownFeature);
        return Err(VolumeError::Refused { path, outcome, other_copy_readable: false });
    }
    let Some(new) = new_config(&opened.config, service, options, clock)? else { return Ok((opened, false)) };
    // Nothing is written that does not open: the new wrapped keys are the only way in.
    let context = context_vrk(new.volume_id);
    for recipient in &new.recipients {
        if let Ok(key) = recipient.key_id.parse::<KeyArn>() {
            service.decrypt(&key, &recipient.blob, &context)?;
        }
    }
    let mut keys = opened.allowed.keys().to_vec();
    if let Some(to) = &options.to {
        if !keys.contains(to) {
            keys.push(to.clone());
        }
        // Pinned first: a configuration that names a key unknown here would lock its owner out after a crash.
        let mut record =
            registry.get(&new.volume_id)?.ok_or_else(|| KeyError::Failed("the registry row is gone".into()))?;
        if !record.keys.contains(to) {
            record.keys.push(to.clone());
            registry.put(&record)?;
        }
    }
    config::write(root, meta, &new, &opened.keys)?;
    registry.raise_config_seq(&new.volume_id, new.config_seq)?;
    let allowed: AllowList = keys.into_iter().filter(|key| new.allowed_keys.contains(key)).collect();
    Ok((OpenedVolume { config: new, keys: opened.keys, allowed }, true))
}

/// The configuration with new wrapped root keys; `None` if it stays as it is.
fn new_config(
    old: &VolumeConfig,
    service: &dyn KeyService,
    options: &RewrapOptions,
    clock: &dyn Clock,
) -> Result<Option<VolumeConfig>, VolumeError> {
    let mut new = old.clone();
    let mut changed = false;
    let selected = |key: &str| options.from.as_ref().is_none_or(|from| from.as_str() == key);
    let context = context_vrk(old.volume_id);
    for recipient in new.recipients.iter_mut().filter(|r| selected(&r.key_id)) {
        // The configuration is authentic: what stands in it is an ARN.
        let Ok(from) = recipient.key_id.parse::<KeyArn>() else { continue };
        let to = options.to.as_ref().unwrap_or(&from);
        let current = service.current_material_id(to)?;
        if *to == from && current.is_some() && current == service.material_id(&recipient.blob) {
            continue;
        }
        let blob = service.re_encrypt(&from, &recipient.blob, to, &context)?;
        *recipient = Recipient::kms(to, blob, clock.now().as_unix_time());
        changed = true;
    }
    if let Some(to) = &options.to {
        if !new.allowed_keys.contains(to) {
            new.allowed_keys.push(to.clone());
            changed = true;
        }
        if let DefaultWrap::Direct(key) = &mut new.default_wrap
            && key != to
            && selected(key.as_str())
        {
            *key = to.clone();
            changed = true;
        }
    }
    if !changed {
        return Ok(None);
    }
    new.config_seq += 1;
    Ok(Some(new))
}

/// Wraps the data key of one file anew. `ENOENT`: the file is gone meanwhile, which is no finding.
pub type RewrapFile<'a, B> = dyn Fn(&Visit<'_, B>) -> content::Result<Rewrapped> + Sync + Send + 'a;

/// Wraps the data key of every file of an unmounted volume anew. The caller holds the volume's lock and has called
/// [`rewrap_config`].
///
/// # Errors
/// Only what keeps it from starting.
pub fn rewrap_files<B: Backing>(
    modes: &Arc<Modes<B>>,
    volume: &Arc<Volume>,
    options: &RewrapOptions,
    progress: &dyn Progress,
) -> Result<RewrapReport, Errno> {
    let job = RewrapJob::new(options.from.clone(), options.to.clone());
    let rewrap = |file: &Visit<'_, B>| {
        if file.stat.size == 0 {
            return Ok(Rewrapped::No);
        }
        let opened = file.open(Access::ReadWrite)?;
        let content = Content::open(Arc::clone(file.modes.backing()), Arc::clone(volume), opened, Access::ReadWrite)?;
        content.rewrap(&job)
    };
    rewrap_files_by(modes, &volume.keys.volume(), options.threads, progress, &rewrap)
}

/// As [`rewrap_files`], with what is done to each file; for a mounted volume, whose files only the mount may change.
///
/// # Errors
/// Only what keeps it from starting.
pub fn rewrap_files_by<B: Backing>(
    modes: &Arc<Modes<B>>,
    opened: &OpenedVolume,
    threads: usize,
    progress: &dyn Progress,
    rewrap: &RewrapFile<'_, B>,
) -> Result<RewrapReport, Errno> {
    let names = opened.names();
    let rewrapper = Rewrapper {
        rewrap,
        progress,
        inodes: Mutex::new(HashSet::new()),
        turns: std::array::from_fn(|_| Mutex::new(())),
        linked: Mutex::default(),
        rewrapped: AtomicU64::new(0),
        unchanged: AtomicU64::new(0),
        findings: Mutex::new(Vec::new()),
    };
    let how = Walk { names: &names, keys: &opened.keys, threads, lenient: None };
    walk(modes, how, &rewrapper, progress)?;
    let mut findings = std::mem::take(&mut *lock(&rewrapper.findings));
    findings.sort_by(|a, b| a.paths.ciphertext.cmp(&b.paths.ciphertext));
    Ok(RewrapReport {
        rewrapped: rewrapper.rewrapped.into_inner(),
        unchanged: rewrapper.unchanged.into_inner(),
        root_key: false,
        findings,
        linked_elsewhere: match progress.is_cancelled() {
            true => BTreeSet::new(),
            false => lock(&rewrapper.linked)
                .iter()
                .filter(|(ino, linked)| linked.rewrapped && linked.names_now(modes, **ino) > Some(linked.met))
                .map(|(ino, _)| *ino)
                .collect(),
        },
        interrupted: progress.is_cancelled(),
    })
}

/// More than there are threads.
const TURNS: usize = 64;

struct Rewrapper<'a, B: Backing> {
    rewrap: &'a RewrapFile<'a, B>,
    progress: &'a dyn Progress,
    /// Inodes with several names that were handled under one of them.
    inodes: Mutex<HashSet<u64>>,
    /// Held while one of those is handled: threads can meet two names of it at once. By the number of the inode.
    turns: [Mutex<()>; TURNS],
    /// What was met of each inode with several names.
    linked: Mutex<HashMap<u64, Linked>>,
    rewrapped: AtomicU64,
    unchanged: AtomicU64,
    findings: Mutex<Vec<Finding>>,
}

/// An inode with several names.
#[derive(Default)]
struct Linked {
    /// How many of them.
    met: u64,
    /// Where the last of them lies.
    path: Vec<u8>,
    rewrapped: bool,
}

impl Linked {
    /// How many names it has now, if it is still where it was met: on a mounted volume names come and go meanwhile.
    fn names_now<B: Backing>(&self, modes: &Arc<Modes<B>>, ino: u64) -> Option<u64> {
        let path = std::str::from_utf8(&self.path).ok()?;
        let (above, entry) = path.rsplit_once('/').unwrap_or(("", path));
        let mut dir = modes.root(SEARCH).ok()?;
        for part in above.split('/').filter(|part| !part.is_empty()) {
            dir = modes.open_dir(&dir, part, SEARCH).ok()?;
        }
        let stat = modes.stat(Target::Named(&*dir, entry)).ok()?;
        (stat.ino == ino).then_some(stat.nlink)
    }
}

impl<B: Backing> Visitor<B> for Rewrapper<'_, B> {
    fn file(&self, file: &Visit<'_, B>) {
        let linked = file.stat.nlink > 1;
        let _turn = linked.then(|| lock(&self.turns[file.stat.ino as usize % TURNS]));
        let mut rewrapped = false;
        if !linked || !lock(&self.inodes).contains(&file.stat.ino) {
            let done = (self.rewrap)(file);
            // A name that is gone does not count: another name of the file is then the one to handle it under.
            let gone = done == Err(content::Error::Os(Errno::NOENT));
            let first = !gone && (!linked || lock(&self.inodes).insert(file.stat.ino));
            match done {
                Ok(Rewrapped::Yes) => {
                    rewrapped = true;
                    self.rewrapped.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Rewrapped::No) if first => {
                    self.unchanged.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) if first => lock(&self.findings).push(Finding::new(file.paths, error.into())),
                _ => {}
            }
        }
        if linked {
            let mut inodes = lock(&self.linked);
            let linked = inodes.entry(file.stat.ino).or_default();
            linked.met += 1;
            linked.path.clone_from(&file.paths.ciphertext);
            linked.rewrapped |= rewrapped;
        }
        self.progress.done(1, file.stat.size);
    }

    fn finding(&self, finding: Finding) {
        // A directory that cannot be read hides files whose keys are still the old ones. What is wrong with names,
        // symlinks and attributes does not concern a file's key: `verify` tells of it.
        if matches!(finding.reason, super::finding::Reason::Os(_)) {
            lock(&self.findings).push(finding);
        }
    }
}
