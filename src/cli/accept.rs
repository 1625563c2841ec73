//! `kmsfs accept`: what was restored is what ought to be there.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::exit::{CliError, CliResult, Exit};
use super::offline::{self, Unlocked, finding_json, finding_words};
use super::output::path_text;
use super::settings::Settings;
use crate::ops::freshness::{AcceptReport, accept, record_to_accept};
use crate::ops::open::{FoundVolume, OpenOptions};
use crate::ops::{VolumeError, modes_with_lock};
use crate::sync::Arc;

/// Take what is in a volume with a freshness record for what ought to be there, after an intended restore
#[derive(Debug, Args)]
pub struct AcceptArgs {
    /// The directory of the volume; it must not be mounted
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Files and directories as they are named in the mount, relative to it, each with everything below it [default: the
    /// whole volume]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// Runs the command: exit 3 if something cannot be read, and so not be accepted.
pub fn run(settings: &Settings, args: &AcceptArgs) -> CliResult {
    let found = FoundVolume::find(&args.dir)?;
    if !found.config().freshness() {
        return Err(CliError::usage(format_args!("{} has no freshness record", args.dir.display()))
            .hint("a volume gets one when it is made: kmsfs init --freshness"));
    }
    let lock = found.lock("accept")?;
    let Unlocked { session, service, opened } = offline::unlock(settings, found, OpenOptions::default())?;
    let backing = offline::backing(&args.dir)?;
    let record = record_to_accept(&settings.home, &opened, &*backing, args.paths.is_empty());
    let record = record.map_err(|e| not_alone(e, args))?.expect("the volume has one");
    if let Some(kept) = &record.damaged {
        settings.out.warning(format_args!(
            "the freshness record was damaged: it is kept as {}, and a new one is begun from what is in the volume now",
            kept.display()
        ));
    }
    let fresh = record.fresh;
    let id = opened.config.volume_id;
    let volume = offline::files(offline::data_keys(service, opened), 1, Some(Arc::clone(&fresh)));
    let modes = modes_with_lock(backing).map_err(|e| CliError::io(&args.dir, "read", &e.into()))?;
    let mut total = AcceptReport::default();
    let whole = [PathBuf::new()];
    for path in if args.paths.is_empty() { &whole[..] } else { &args.paths } {
        let report = accept(&modes, &volume, &fresh, &names(path)).map_err(|e| failed(path, &e))?;
        total.files += report.files;
        total.directories += report.directories;
        total.others += report.others;
        total.removed += report.removed;
        total.findings.extend(report.findings);
    }
    let paths: Vec<String> = args.paths.iter().map(|path| path_text(path).into_owned()).collect();
    session.engine.note_decision(
        "AcceptVolumeContent",
        json!({
            "volumeId": id.to_string(), "wholeVolume": paths.is_empty(), "files": total.files, "removed": total.removed,
            "newRecord": record.is_new,
        }),
    );
    session.engine.audit().flush()?;
    drop(lock);
    let value = json!({
        "directory": path_text(&args.dir),
        "paths": paths,
        "files": total.files,
        "directories": total.directories,
        "others": total.others,
        "removed": total.removed,
        "new_record": record.is_new,
        "damaged_record": record.damaged.as_deref().map(path_text),
        "findings": total.findings.iter().map(finding_json).collect::<Vec<_>>(),
    });
    settings.out.result(&value, || {
        let mut text: String = total.findings.iter().map(|finding| finding_words(finding) + "\n").collect();
        let AcceptReport { files, directories, others, removed, .. } = total;
        text.push_str(&format!(
            "Accepted {files} files, {directories} directories, {others} other objects, and that {removed} names are gone."
        ));
        text
    });
    Ok(if total.findings.is_empty() { Exit::Ok } else { Exit::Findings })
}

/// A path cannot be accepted without a record of the rest.
fn not_alone(error: VolumeError, args: &AcceptArgs) -> CliError {
    let whole = args.dir.display();
    match error {
        VolumeError::NoRecord(_) | VolumeError::Record(_) if !args.paths.is_empty() => {
            let error = CliError::from(error);
            error.hint(format_args!(
                "put it back, or take the whole volume as it is, with a new record: kmsfs accept {whole}"
            ))
        }
        other => other.into(),
    }
}

/// The names of a path, a leading slash or `.` left out.
fn names(path: &Path) -> Vec<&[u8]> {
    path.components()
        .filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(name.as_bytes()),
            std::path::Component::ParentDir => Some(&b".."[..]),
            _ => None,
        })
        .collect()
}

fn failed(path: &Path, error: &crate::content::Error) -> CliError {
    CliError::failure(format_args!("'{}' cannot be accepted: {error}", path.display()))
}
