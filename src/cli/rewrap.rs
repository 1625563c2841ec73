//! `kmsfs rewrap`: new wrapped keys, no data read.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::control::client::Connection;
use super::control::wire::{RewrapRequest, RewrapSummary};
use super::exit::{CliError, CliResult, Exit};
use super::offline::{self, Unlocked};
use super::output::path_text;
use super::progress::Shown;
use super::settings::Settings;
use crate::env::system_clock;
use crate::keys::KeyService;
use crate::ops::lock::{LockOwner, host_name};
use crate::ops::open::{FoundVolume, OpenOptions};
use crate::ops::rewrap::{RewrapOptions, rewrap_config, rewrap_files};
use crate::ops::{VolumeError, config, modes_with_lock};
use crate::types::KeyArn;

/// Wrap the data key of every file anew: under the current material of its KMS key, or under another key
#[derive(Debug, Args)]
pub struct RewrapArgs {
    /// The directory of the volume; if it is mounted, the mount does the work
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Only files wrapped by this key: key id, key ARN, alias/NAME or alias ARN
    #[arg(long, value_name = "KEY")]
    from: Option<String>,
    /// Move to this key, which also becomes the key of new files
    #[arg(long, value_name = "KEY")]
    to: Option<String>,
    /// Threads [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// DIR is a backup, whose configuration is older than that of the volume
    #[arg(long)]
    accept_rollback: bool,
}

/// Runs the command: exit 3 if a file could not be moved.
pub fn run(settings: &Settings, args: &RewrapArgs) -> CliResult {
    let progress = Shown::start(settings.out, "rewrap")?;
    let found = FoundVolume::find(&args.dir)?;
    let summary = match found.lock("rewrap") {
        Ok(_lock) => unmounted(settings, args, found, &progress)?,
        // Only the mount may write to its volume, so it does the work.
        Err(VolumeError::Busy(owner)) => mounted(settings, args, &found, owner, &progress)?,
        Err(other) => return Err(other.into()),
    };
    progress.finish();
    if summary.linked_elsewhere > 0 {
        settings.out.warning(format_args!(
            "{} files have names outside of {} as well, as generations of rsync --link-dest have them: whatever volumes those are in \
             cannot open these files until they are rewrapped to the same key",
            summary.linked_elsewhere,
            args.dir.display()
        ));
    }
    show(settings, &args.dir, &summary);
    if summary.interrupted {
        return Err(progress.interrupted(&again(args)));
    }
    Ok(if summary.findings.is_empty() { Exit::Ok } else { Exit::Findings })
}

/// The caller holds the volume's lock.
fn unmounted(settings: &Settings, args: &RewrapArgs, found: FoundVolume, progress: &Shown) -> CliResult<RewrapSummary> {
    if found.config().freshness() {
        return Err(VolumeError::NeedsMount(args.dir.clone()).into());
    }
    let accepted = OpenOptions { accept_rollback: args.accept_rollback, ..OpenOptions::default() };
    let Unlocked { session, service, opened } = offline::unlock(settings, found, accepted)?;
    let options = RewrapOptions {
        from: resolve(&*service, args.from.as_deref())?,
        to: resolve(&*service, args.to.as_deref())?,
        threads: offline::threads(args.threads),
    };
    let meta = config::open_meta(&args.dir)?;
    let registry = session.engine.registry();
    let (opened, root_key) = rewrap_config(&args.dir, &meta, opened, &*service, &registry, &options, &*system_clock())?;
    let volume = offline::files(offline::data_keys(service, opened), 1, None);
    let read = |e: rustix::io::Errno| CliError::io(&args.dir, "read", &e.into());
    let modes = modes_with_lock(offline::backing(&args.dir)?).map_err(read)?;
    let mut report = rewrap_files(&modes, &volume, &options, progress).map_err(read)?;
    report.root_key = root_key;
    Ok(RewrapSummary::new(&report, &options))
}

/// Asks the mount that holds the lock. Its key manager is open already, so no passphrase is needed.
fn mounted(
    settings: &Settings,
    args: &RewrapArgs,
    found: &FoundVolume,
    owner: LockOwner,
    progress: &Shown,
) -> CliResult<RewrapSummary> {
    let Some(connection) = Connection::to_owner(&settings.home, &found.volume_id(), &owner) else {
        let local_mount = owner.host == host_name() && owner.purpose.starts_with("mount ");
        let error = CliError::from(VolumeError::Busy(owner));
        return Err(match local_mount {
            true => error.hint(format_args!(
                "the mount does not answer under {}: name its key manager's directory with --kms-home, or unmount it",
                settings.home.display()
            )),
            false => error,
        });
    };
    let request = RewrapRequest {
        from: args.from.clone(),
        to: args.to.clone(),
        threads: u16::try_from(offline::threads(args.threads)).unwrap_or(u16::MAX).min(256),
    };
    connection.rewrap(request, progress)
}

fn resolve(service: &dyn KeyService, key: Option<&str>) -> CliResult<Option<KeyArn>> {
    Ok(key.map(|key| service.resolve(key)).transpose()?)
}

/// The command that goes on where this one stopped.
fn again(args: &RewrapArgs) -> String {
    let mut text = format!("kmsfs rewrap {}", args.dir.display());
    for (flag, value) in [("--from", &args.from), ("--to", &args.to)] {
        if let Some(value) = value {
            text.push_str(&format!(" {flag} {value}"));
        }
    }
    text
}

fn show(settings: &Settings, dir: &Path, summary: &RewrapSummary) {
    let complete = !summary.interrupted && summary.findings.is_empty();
    let value = json!({
        "directory": path_text(dir),
        "from": summary.from,
        "to": summary.to,
        "complete": complete,
        "rewrapped": summary.rewrapped,
        "unchanged": summary.unchanged,
        "root_key_rewrapped": summary.root_key,
        "findings": summary.findings.iter().map(|f| &f.json).collect::<Vec<_>>(),
    });
    settings.out.result(&value, || {
        let mut text: String = summary.findings.iter().map(|f| f.words.clone() + "\n").collect();
        text.push_str(&format!(
            "{} files rewrapped, {} needed nothing, {} could not be moved.",
            summary.rewrapped,
            summary.unchanged,
            summary.findings.len()
        ));
        text
    });
    if complete {
        settings.out.note("Copies of the old wrapped keys may survive in snapshots, backups and flash memory.");
        if summary.rewrapped > 0 {
            // A header write puts the modification time back (FORMAT 5.5).
            settings
                .out
                .note("Size and time of the files are as before: let rsync copy them once with --ignore-times.");
        }
    } else {
        settings.out.note("The old key is still needed. Running the same command again goes on with the rest.");
    }
}
