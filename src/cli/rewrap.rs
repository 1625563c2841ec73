//! `kmsfs rewrap`: new wrapped keys, no data read.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::exit::{CliError, CliResult, Exit};
use super::offline::{self, Unlocked, finding_json, finding_words};
use super::progress::Shown;
use super::settings::Settings;
use crate::env::system_clock;
use crate::keys::KeyService;
use crate::ops::open::{FoundVolume, OpenOptions};
use crate::ops::rewrap::{RewrapOptions, RewrapReport, rewrap_config, rewrap_files};
use crate::ops::{Progress, config};
use crate::types::KeyArn;

/// Wrap the data key of every file anew: under the current material of its KMS key, or under another key
#[derive(Debug, Args)]
pub struct RewrapArgs {
    /// The directory of the volume; it must not be mounted
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
}

/// Runs the command: exit 3 if a file could not be moved.
pub fn run(settings: &Settings, args: &RewrapArgs) -> CliResult {
    let progress = Shown::start(settings.out, "rewrap")?;
    let found = FoundVolume::find(&args.dir)?;
    let _lock = found.lock("rewrap")?;
    let Unlocked { session, service, opened } = offline::unlock(settings, found, OpenOptions::default())?;
    let options = RewrapOptions {
        from: resolve(&*service, args.from.as_deref())?,
        to: resolve(&*service, args.to.as_deref())?,
        threads: offline::threads(args.threads),
    };
    let meta = config::open_meta(&args.dir)?;
    let registry = session.engine.registry();
    let (opened, root_key) = rewrap_config(&args.dir, &meta, opened, &*service, &registry, &options, &*system_clock())?;
    let volume = offline::files(service, opened, 1);
    let mut report = rewrap_files(&offline::backing(&args.dir)?, &volume, &options, &progress)
        .map_err(|e| CliError::io(&args.dir, "read", &e.into()))?;
    report.root_key = root_key;
    progress.finish();
    show(settings, &args.dir, &options, &report);
    if progress.is_cancelled() {
        return Err(progress.interrupted(&again(args)));
    }
    Ok(if report.findings.is_empty() { Exit::Ok } else { Exit::Findings })
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

fn show(settings: &Settings, dir: &Path, options: &RewrapOptions, report: &RewrapReport) {
    let value = json!({
        "directory": dir,
        "from": options.from.as_ref().map(KeyArn::as_str),
        "to": options.to.as_ref().map(KeyArn::as_str),
        "complete": !report.interrupted && report.findings.is_empty(),
        "rewrapped": report.rewrapped,
        "unchanged": report.unchanged,
        "root_key_rewrapped": report.root_key,
        "findings": report.findings.iter().map(finding_json).collect::<Vec<_>>(),
    });
    settings.out.result(&value, || {
        let mut text: String = report.findings.iter().map(|f| finding_words(f) + "\n").collect();
        text.push_str(&format!(
            "{} files rewrapped, {} needed nothing, {} could not be moved.",
            report.rewrapped,
            report.unchanged,
            report.findings.len()
        ));
        text
    });
    if report.findings.is_empty() && !report.interrupted {
        settings.out.note("Copies of the old wrapped keys may survive in snapshots, backups and flash memory.");
    } else {
        settings.out.note("The old key is still needed. Running the same command again goes on with the rest.");
    }
}
