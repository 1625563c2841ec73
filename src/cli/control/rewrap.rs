//! `rewrap` within a mount.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::cli::exit::{CliError, CliResult, Exit};
use crate::content::{self, Rewrapped, Volume};
use crate::env::system_clock;
use crate::fuse::Statistics;
use crate::keys::{KeyService, RewrapJob};
use crate::kms::registry::Registry;
use crate::ops::files::MetaDir;
use crate::ops::rewrap::{RewrapOptions, RewrapReport, rewrap_config, rewrap_files_by};
use crate::ops::{Finding, Paths, Progress, Visit};
use crate::store::Backing;
use crate::sync::Arc;
use crate::vfs::{MovedFiles, Vfs};

/// Walks over the tree at most, if directories are renamed during each.
const MAX_PASSES: u32 = 10;

/// A volume that this process serves.
pub struct Served<B: Backing> {
    /// The filesystem.
    pub vfs: Arc<Vfs<B>>,
    /// What its files are opened with.
    pub volume: Arc<Volume>,
    /// The key manager as the volume's principal.
    pub service: Arc<dyn KeyService>,
    /// This host's volume registry.
    pub registry: Registry,
    /// The ciphertext directory, as it was called when it was mounted: for messages only, as another volume may be there by now.
    pub root: PathBuf,
    /// Its configuration, whatever the directory is called.
    pub meta: Arc<MetaDir>,
    /// Nothing may be changed, and the volume's lock is not held.
    pub read_only: bool,
    /// What it counts of its requests.
    pub statistics: Arc<Statistics>,
}

/// Wraps every data key of a served volume anew. The changed configuration is in force at once, before the first file, so
/// that files that are made meanwhile need no second look.
///
/// # Errors
/// [`Exit::Busy`] while another rewrap lasts, or if directories are moved faster than the tree can be walked; key
/// errors, the system's errors. What was done stays done.
pub fn rewrap<B: Backing>(
    served: &Served<B>,
    options: &RewrapOptions,
    progress: &dyn Progress,
) -> CliResult<RewrapReport> {
    if served.read_only {
        return Err(CliError::new(Exit::Busy, "VolumeReadOnly", "the mount is read-only")
            .hint("unmount it, or ask the read-write mount"));
    }
    let keys = &served.volume.keys;
    // Before the configuration changes: two jobs at once would each write it.
    let mut watch = served.vfs.watch_moves().ok_or_else(under_way)?;
    let before = (*keys.volume()).clone();
    let (service, registry) = (&*served.service, &served.registry);
    let (opened, root_key) =
        rewrap_config(&served.root, &served.meta, before, service, registry, options, &*system_clock())?;
    if root_key {
        keys.replace_volume(opened);
    }
    let job = RewrapJob::new(options.from.clone(), options.to.clone());
    let one = |file: &Visit<'_, B>| served.vfs.rewrap(file.dir, file.entry, &job);
    let (mut rewrapped, mut linked_elsewhere) = (0, BTreeSet::new());
    for _ in 0..MAX_PASSES {
        let volume = keys.volume();
        let mut report = rewrap_files_by(served.vfs.modes(), &volume, options.threads, progress, &one)
            .map_err(|e| CliError::io(&served.root, "read", &e.into()))?;
        let moved = watch.end();
        rewrap_moved(&moved, &job, progress, &mut report);
        // Of a file that moved not every name may have been met.
        let moved_files: Vec<u64> = moved.iter().map(|file| file.backing_number()).collect();
        linked_elsewhere.extend(report.linked_elsewhere.iter().filter(|ino| !moved_files.contains(ino)));
        // What an earlier pass moved, this one found to need nothing.
        report.unchanged = report.unchanged.saturating_sub(rewrapped);
        rewrapped += report.rewrapped;
        report.interrupted = progress.is_cancelled();
        if report.interrupted || !moved.has_directories() {
            return Ok(RewrapReport { rewrapped, root_key, linked_elsewhere, ..report });
        }
        tracing::info!("directories were renamed during the rewrap: walking over the tree once more");
        watch = served.vfs.watch_moves().ok_or_else(under_way)?;
    }
    Err(CliError::new(
        Exit::Busy,
        "VolumeBusy",
        format_args!("directories were renamed during each of {MAX_PASSES} walks over the volume; files may be left"),
    )
    .hint("run it again when fewer directories are renamed"))
}

pub(super) fn under_way() -> CliError {
    CliError::new(Exit::Busy, "RewrapUnderWay", "a rewrap of this volume is under way already")
        .hint("wait for its end, or stop it with Ctrl-C where it was started")
}

/// The files that got another name during a walk, or have none: it may have missed them.
fn rewrap_moved<B: Backing>(
    moved: &MovedFiles<'_, B>,
    job: &RewrapJob,
    progress: &dyn Progress,
    report: &mut RewrapReport,
) {
    for file in moved.iter() {
        if progress.is_cancelled() {
            return;
        }
        match file.rewrap(job) {
            Ok(Rewrapped::Yes) => report.rewrapped += 1,
            // Most of them were met by the walk and are counted already.
            Ok(Rewrapped::No) | Err(content::Error::Os(Errno::NOENT)) => {}
            Err(error) => {
                let paths = Paths { ciphertext: file.ciphertext_path(), plaintext: None };
                if !report.findings.iter().any(|f| f.paths.ciphertext == paths.ciphertext) {
                    report.findings.push(Finding::new(&paths, error.into()));
                }
            }
        }
    }
}
