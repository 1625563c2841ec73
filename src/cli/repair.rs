//! `kmsfs repair`: puts back what is lost from what is still there.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::exit::{CliError, CliResult, Exit};
use super::output::{path_text, table};
use super::session::Session;
use super::settings::Settings;
use crate::ops::open::{FoundVolume, OpenOptions};
use crate::ops::repair::{ConfigCopy, compare_config, restore_config};

/// Compare the two copies of a volume's configuration, and restore the first from the second
#[derive(Debug, Args)]
pub struct RepairArgs {
    /// The directory of the volume; it must not be mounted
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Replace .kmsfs/volume by .kmsfs/volume.bak, if that one is authentic; the replaced one is kept
    #[arg(long)]
    restore_config: bool,
    /// Accept a copy that is older than the configuration this host has seen
    #[arg(long, requires = "restore_config")]
    accept_rollback: bool,
    /// Accept a volume that this host has never seen
    #[arg(long, requires = "restore_config")]
    trust_new_volume: bool,
}

/// Runs the command.
pub fn run(settings: &Settings, args: &RepairArgs) -> CliResult {
    if args.restore_config { restore(settings, args) } else { compare(settings, args) }
}

fn restore(settings: &Settings, args: &RepairArgs) -> CliResult {
    let found = FoundVolume::find_by_backup(&args.dir)?;
    let session = Session::open(settings)?;
    let service = session.key_service(&found.volume_id())?;
    let options = OpenOptions {
        trust_new_volume: args.trust_new_volume,
        accept_rollback: args.accept_rollback,
        ..OpenOptions::default()
    };
    restore_config(found, &*service, &session.engine.registry(), options)?;
    settings.out.result(&json!({"directory": path_text(&args.dir), "restored": ".kmsfs/volume"}), || {
        "The configuration is restored from its copy; the replaced one is .kmsfs/volume.damaged.".to_owned()
    });
    Ok(Exit::Ok)
}

/// Shows both copies; exit 3 if they are not the same or one is damaged.
fn compare(settings: &Settings, args: &RepairArgs) -> CliResult {
    let (copies, identical) = compare_config(&args.dir)?;
    let same = identical && copies[0].says.is_ok();
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
    settings.out.result(&json!({"directory": path_text(&args.dir), "same": same, "copies": values}), || {
        table(&["FILE", "VOLUME", "NUMBER", "KEYS"], copies.iter().map(row))
    });
    if same {
        settings.out.note("Both copies are the same. Whether they are authentic shows at the next mount or verify.");
        return Ok(Exit::Ok);
    }
    match (&copies[0].says, &copies[1].says) {
        (Err(_), Err(_)) => {
            Err(CliError::new(Exit::Integrity, "VolumeAuth", "both copies of the configuration are damaged").hint(
                "restore .kmsfs from a backup; without it names, symlinks and attributes are lost, contents are not",
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
