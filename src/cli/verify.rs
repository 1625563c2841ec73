//! `kmsfs verify`: reads and authenticates everything.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::control::client::Connection;
use super::control::wire::VerifySummary;
use super::exit::{CliError, CliResult, Exit};
use super::offline::{self, Unlocked, finding_words};
use super::output::{bytes, path_text};
use super::place;
use super::progress::Shown;
use super::salvage;
use super::settings::Settings;
use crate::ops::freshness::open_record;
use crate::ops::open::{FoundVolume, OpenOptions};
use crate::ops::resume::Resume;
use crate::ops::verify::{VerifyOptions, verify};
use crate::ops::{lock, modes_without_lock};
use crate::types::VolumeId;

/// Read and authenticate every file, name and attribute of a volume, and list what is damaged
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The directory of the volume, mounted or not
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Threads [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Note in FILE what is found to be sound, and go on there after an interruption; FILE goes when all is done
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Write everything that authenticates to the empty directory OUT, in plaintext, around whatever is damaged
    #[arg(long, value_name = "OUT", conflicts_with = "resume")]
    salvage: Option<PathBuf>,
    /// Accept a volume that this host has never seen
    #[arg(long)]
    trust_new_volume: bool,
    /// Accept a configuration that is older than one this host has seen
    #[arg(long)]
    accept_rollback: bool,
}

/// Runs the command: exit 3 if anything is wrong.
pub fn run(settings: &Settings, args: &VerifyArgs) -> CliResult {
    let progress = Shown::start(settings.out, "verify")?;
    let found = FoundVolume::find(&args.dir)?;
    for (option, out, name) in [
        ("--salvage", &args.salvage, "name a directory elsewhere"),
        ("--resume", &args.resume, "name a file elsewhere"),
    ] {
        out.as_deref().map_or(Ok(()), |out| place::outside_of(&args.dir, (option, out), name))?;
    }
    let owner = lock::owner(&args.dir).map_err(|e| CliError::io(&args.dir, "query the lock of", &e))?;
    let in_use = owner.is_some();
    let options = OpenOptions {
        trust_new_volume: args.trust_new_volume,
        accept_rollback: args.accept_rollback,
        ..OpenOptions::default()
    };
    let Unlocked { service, opened, session } = offline::unlock(settings, found, options)?;
    if in_use {
        settings.out.note("The volume is in use: what changes meanwhile is read again before it counts as damaged.");
    }
    let threads = offline::threads(args.threads);
    let has_record = opened.config.freshness();
    // Of a mounted volume only the mount knows what is recent, and only it may read what its modes deny this user.
    if (has_record || !rustix::process::geteuid().is_root()) && args.salvage.is_none() && args.resume.is_none() {
        let mount = owner.and_then(|o| Connection::to_owner(&settings.home, &opened.config.volume_id, &o));
        if let Some(mount) = mount {
            let report = mount.verify(threads.min(256) as u16, &progress)?;
            progress.finish();
            if !settings.out.is_json() {
                report.findings.iter().for_each(|finding| progress.print(&finding.words));
            }
            drop(session);
            return end(settings, args, &report, has_record.then_some(true), &progress);
        }
    }
    // Salvage takes whatever authenticates.
    let record = match in_use || args.salvage.is_some() {
        true => None,
        false => open_record(&settings.home, &opened)?,
    };
    let compared = has_record.then_some(record.is_some());
    if in_use && has_record {
        settings.out.note(
            "Its freshness record is in use too, and nothing is compared with it here: that does the mount, if it is of the same home, for a verify without --resume and --salvage.",
        );
    }
    let volume = offline::files(offline::data_keys(service, opened), if in_use { 3 } else { 1 }, record);
    if let Some(out) = &args.salvage {
        return salvage::run(settings, (&args.dir, out), &volume, threads, &progress);
    }
    let notes = args.resume.as_deref().map(|path| notes(path, volume.keys.volume().config.volume_id)).transpose()?;
    let how = VerifyOptions { threads, in_use, resume: notes.as_ref() };
    let out = settings.out;
    let tell = |finding: &crate::ops::Finding| {
        if !out.is_json() {
            progress.print(&finding_words(finding));
        }
    };
    let modes = modes_without_lock(offline::backing(&args.dir)?, &args.dir, "verify");
    let report =
        verify(&modes, &volume, how, &progress, &tell).map_err(|e| CliError::io(&args.dir, "read", &e.into()))?;
    progress.finish();
    drop(session);
    if let (Some(notes), Some(path)) = (&notes, &args.resume) {
        notes.end(!report.interrupted).map_err(|e| CliError::io(path, "write", &e))?;
    }
    end(settings, args, &VerifySummary::from(&report), compared, &progress)
}

/// Shows what was found. `compared`: with the freshness record, if the volume has one.
fn end(
    settings: &Settings,
    args: &VerifyArgs,
    report: &VerifySummary,
    compared: Option<bool>,
    progress: &Shown,
) -> CliResult {
    show(settings, args, report, compared);
    if report.interrupted {
        let dir = args.dir.display();
        return Err(progress.interrupted(&match &args.resume {
            Some(path) => format!("kmsfs verify {dir} --resume {}", path.display()),
            None => format!("kmsfs verify {dir} (from the beginning; with --resume FILE it could go on)"),
        }));
    }
    Ok(if report.findings.is_empty() { Exit::Ok } else { Exit::Findings })
}

fn notes(path: &Path, volume: VolumeId) -> CliResult<Resume> {
    Resume::open(path, volume).map_err(|e| match e.kind() {
        ErrorKind::InvalidInput => CliError::usage(format_args!("--resume {}: {e}", path.display())),
        ErrorKind::WouldBlock => {
            CliError::new(Exit::Busy, "Busy", format_args!("another verify writes to {}", path.display()))
        }
        _ => CliError::io(path, "open", &e),
    })
}

/// `compared`: with the freshness record, if the volume has one.
fn show(settings: &Settings, args: &VerifyArgs, report: &VerifySummary, compared: Option<bool>) {
    let value = json!({
        "directory": path_text(&args.dir),
        "complete": !report.interrupted,
        "directories": report.directories,
        "files": report.files,
        "bytes": report.bytes,
        "compared_with_freshness_record": compared,
        "findings": report.findings.iter().map(|finding| &finding.json).collect::<Vec<_>>(),
    });
    settings.out.result(&value, || {
        let found = match report.findings.len() {
            0 => "nothing is wrong".to_owned(),
            1 => "1 finding".to_owned(),
            n => format!("{n} findings"),
        };
        let (files, directories) = (report.files, report.directories);
        format!("Verified {files} files ({}) in {directories} directories: {found}.", bytes(report.bytes))
    });
}
