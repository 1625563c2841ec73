//! `kmsfs repair`: puts back what is lost from what is still there.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::exit::{CliError, CliResult, Exit};
use super::offline::{self, Unlocked, finding_json, finding_words};
use super::output::{path_text, table};
use super::progress::Shown;
use super::session::Session;
use super::settings::Settings;
use crate::env::system_clock;
use crate::ops::open::{FoundVolume, OpenOptions};
use crate::ops::repair::{Applied, ConfigCopy, Plan, PlanOptions, Repair, apply, compare_config, plan, restore_config};
use crate::ops::{Finding, LOST_AND_FOUND, modes_with_lock};

/// Show what can be put right in a volume, and put it right with --apply
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// The directory of the volume; it must not be mounted
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Do what would be done; what cannot be read or has no name moves to lost+found in the volume
    #[arg(long, conflicts_with = "restore_config")]
    apply: bool,
    /// Take a lost directory id that only one name vouches for
    #[arg(long, conflicts_with = "restore_config")]
    accept_single: bool,
    /// Threads [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Replace .kmsfs/volume by .kmsfs/volume.bak, if that one is authentic; the replaced one is kept
    #[arg(long)]
    restore_config: bool,
    /// Accept a configuration that is older than one this host has seen
    #[arg(long)]
    accept_rollback: bool,
    /// Accept a volume that this host has never seen
    #[arg(long)]
    trust_new_volume: bool,
}

impl RepairArgs {
    fn open_options(&self) -> OpenOptions {
        OpenOptions {
            trust_new_volume: self.trust_new_volume,
            accept_rollback: self.accept_rollback,
            ..OpenOptions::default()
        }
    }
}

/// Runs the command: exit 3 if anything is, or stays, damaged.
pub fn run(settings: &Settings, args: &RepairArgs) -> CliResult {
    if args.restore_config {
        return restore(settings, args);
    }
    let progress = Shown::start(settings.out, "repair")?;
    let (copies, same) = compare_config(&args.dir)?;
    let found = FoundVolume::find(&args.dir).map_err(CliError::from);
    let unlocked = found.and_then(|found| {
        let lock = found.lock("repair")?;
        Ok((lock, offline::unlock(settings, found, args.open_options())?))
    });
    let (_lock, Unlocked { service, opened, session }) = match unlocked {
        // Without a configuration nothing can be looked at; the other copy may be the right one.
        Err(e) if !same && e.exit == Exit::Integrity && e.code != "VolumeUnknown" => {
            return compare(settings, args, &copies);
        }
        other => other?,
    };
    let recorded = opened.config.freshness();
    let volume = offline::files(offline::data_keys(service, opened), 1, None);
    let options = PlanOptions { threads: offline::threads(args.threads), accept_single: args.accept_single };
    let read = |e: rustix::io::Errno| CliError::io(&args.dir, "read", &e.into());
    let modes = modes_with_lock(offline::backing(&args.dir)?).map_err(read)?;
    let plan = plan(&modes, &volume, options, &progress).map_err(read)?;
    if plan.interrupted {
        progress.finish();
        return Err(progress.interrupted(&again(args)));
    }
    let applied = match args.apply {
        true => Some(
            apply(&modes, &volume, &plan, &*system_clock())
                .map_err(|e| CliError::io(args.dir.join(".kmsfs/repairs"), "write", &e.into()))?,
        ),
        false => None,
    };
    progress.finish();
    drop(session);
    if recorded && applied.as_ref().is_some_and(|applied| applied.done > 0) {
        settings.out.warning(format_args!(
            "the volume's freshness record does not know of these repairs and will report them; when they are what you want: \
             kmsfs accept {}",
            args.dir.display()
        ));
    }
    show(settings, args, &plan, applied.as_ref());
    if let Some(Applied { flushed: Err(error), .. }) = applied {
        return Err(CliError::io(&args.dir, "flush what was repaired in", &error.into()).hint(format_args!(
            "a power cut can undo the repairs; when the disk below works, mount its filesystem anew and run: kmsfs repair {}",
            args.dir.display()
        )));
    }
    let sound = match &applied {
        None => plan.repairs.is_empty() && plan.remaining.is_empty(),
        Some(applied) => applied.failed.is_empty() && plan.ends_well(),
    };
    Ok(if sound { Exit::Ok } else { Exit::Findings })
}

/// The command that goes on where this one stopped.
fn again(args: &RepairArgs) -> String {
    let mut text = format!("kmsfs repair {}", args.dir.display());
    for (flag, given) in [("--apply", args.apply), ("--accept-single", args.accept_single)] {
        if given {
            text.push_str(&format!(" {flag}"));
        }
    }
    text
}

fn show(settings: &Settings, args: &RepairArgs, plan: &Plan, applied: Option<&Applied>) {
    let failed = applied.map_or(&[][..], |applied| &applied.failed);
    let value = json!({
        "directory": path_text(&args.dir),
        "applied": applied.map(|applied| applied.done),
        "repairs": plan.repairs.iter().map(repair_json).collect::<Vec<_>>(),
        "failed": failed.iter().map(finding_json).collect::<Vec<_>>(),
        "remaining": plan.remaining.iter().map(finding_json).collect::<Vec<_>>(),
        "single": plan.single.iter().map(|(paths, name)| json!({
            "path": paths.plaintext.as_deref().map(String::from_utf8_lossy),
            "ciphertext_path": String::from_utf8_lossy(&paths.ciphertext),
            "name": String::from_utf8_lossy(name),
        })).collect::<Vec<_>>(),
    });
    settings.out.result(&value, || {
        let mut text: String = plan.repairs.iter().map(repair_words).collect();
        for (what, findings) in [("failed", failed), ("remains", &plan.remaining)] {
            text.extend(findings.iter().map(|finding| format!("{what}: {}\n", finding_words(finding))));
        }
        for (paths, name) in &plan.single {
            text.push_str(&format!(
                "{}: only one name, {}, vouches for the id of this directory; --accept-single takes it\n",
                place(&paths.ciphertext),
                place(name)
            ));
        }
        let (repairs, remaining) = (plan.repairs.len(), plan.remaining.len());
        text + &match applied {
            None if repairs == 0 && remaining == 0 => "Nothing is to be repaired.".to_owned(),
            None => format!("{repairs} repairs can be made, {remaining} findings stay."),
            Some(applied) => format!("{} of {repairs} repairs made, {remaining} findings stay.", applied.done),
        }
    });
    if applied.is_none() && !plan.repairs.is_empty() {
        settings.out.note(format_args!("Nothing was changed. To do it: kmsfs repair {} --apply", args.dir.display()));
    }
    if applied.is_some_and(|applied| applied.done > 0) {
        settings.out.note("What was moved or replaced is noted in .kmsfs/repairs.");
    }
    if applied.is_some() && plan.repairs.iter().any(Repair::uncovers) {
        settings.out.note(format_args!("What a hidden name hid has not been looked at. Run it again: {}", again(args)));
    }
    if plan.repairs.iter().any(Repair::writes_header) {
        settings.out.note(
            "What a file held of which nothing is left but its size comes back from a backup only, if anything was flushed to it.",
        );
    }
    if plan.repairs.iter().any(Repair::puts_damage_aside) || plan.remaining.iter().any(is_aside) {
        settings.out.note(
            "What lies in lost+found and cannot be read stays a finding until it is removed, or its header is put back from a backup.",
        );
    }
    settings.out.note("Contents were not read: kmsfs verify does that.");
}

fn is_aside(finding: &Finding) -> bool {
    finding.paths.plaintext.as_deref().is_some_and(|path| path.starts_with(LOST_AND_FOUND.as_bytes()))
}

fn place(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { String::from_utf8_lossy(path).escape_debug().to_string() }
}

fn repair_json(repair: &Repair) -> serde_json::Value {
    json!({
        "path": repair.paths.plaintext.as_deref().map(String::from_utf8_lossy),
        "ciphertext_path": String::from_utf8_lossy(&repair.paths.ciphertext),
        "action": repair.action.code(),
        "what": repair.action.to_string(),
    })
}

fn repair_words(repair: &Repair) -> String {
    let path = repair.paths.plaintext.as_deref().map_or_else(|| "(name unknown)".to_owned(), place);
    let ciphertext = place(&repair.paths.ciphertext);
    format!("{}  {path}\n    ciphertext {ciphertext}\n    {}\n", repair.action.code(), repair.action)
}

fn restore(settings: &Settings, args: &RepairArgs) -> CliResult {
    let found = FoundVolume::find_by_backup(&args.dir)?;
    let session = Session::open_for(settings, found.root())?;
    let service = session.key_service(&found.volume_id())?;
    restore_config(found, &*service, &session.engine.registry(), args.open_options())?;
    settings.out.result(&json!({"directory": path_text(&args.dir), "restored": ".kmsfs/volume"}), || {
        "The configuration is restored from its copy; the replaced one is .kmsfs/volume.damaged.".to_owned()
    });
    Ok(Exit::Ok)
}

/// Shows both copies, of which the first is not accepted.
fn compare(settings: &Settings, args: &RepairArgs, copies: &[ConfigCopy; 2]) -> CliResult {
    let values: Vec<_> = copies
        .iter()
        .map(|copy| match &copy.says {
            Ok(c) => json!({
                "name": copy.name, "well_formed": true, "volume_id": c.volume_id.to_string(),
                "config_seq": c.config_seq, "allowed_keys": c.keys,
            }),
            Err(reason) => json!({"name": copy.name, "well_formed": false, "reason": reason}),
        })
        .collect();
    settings.out.result(&json!({"directory": path_text(&args.dir), "copies": values}), || {
        table(&["FILE", "VOLUME", "NUMBER", "KEYS"], copies.iter().map(row))
    });
    match (&copies[0].says, &copies[1].says) {
        (Err(_), Err(_)) => {
            Err(CliError::new(Exit::Integrity, "VolumeAuth", "both copies of the configuration are damaged").hint(
                format_args!(
                    "restore .kmsfs from a backup, or put the configuration back from a recovery bundle, into a new key \
                     manager: kmsfs --kms-home NEW recover BUNDLE {}; without it names, symlinks and attributes are lost, \
                     contents are not",
                    args.dir.display()
                ),
            ))
        }
        _ => {
            settings.out.note(format_args!(
                "They differ. If the second is the right one: kmsfs repair {} --restore-config",
                args.dir.display()
            ));
            Ok(Exit::Findings)
        }
    }
}

fn row(copy: &ConfigCopy) -> Vec<String> {
    match &copy.says {
        Ok(c) => vec![copy.name.to_owned(), c.volume_id.to_string(), c.config_seq.to_string(), c.keys.join(" ")],
        Err(reason) => vec![copy.name.to_owned(), reason.clone(), "-".to_owned(), "-".to_owned()],
    }
}
