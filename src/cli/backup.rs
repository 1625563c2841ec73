//! `kmsfs kms backup|restore|verify`: copies of the key manager's database.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::exit::{CliResult, Exit};
use super::place;
use super::session::Session;
use super::settings::Settings;
use crate::env::{SystemEntropy, system_clock};
use crate::kms::store::Inspection;
use crate::sync::Arc;

/// `kms backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to write; it must not exist
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// `kms restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// A file that kms backup wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace the database that is there; it is kept beside the restored one
    #[arg(long)]
    replace: bool,
}

/// `kms verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A backup [default: the database in use]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Makes a backup.
pub fn backup(settings: &Settings, args: &BackupArgs) -> CliResult {
    let session = Session::open(settings)?;
    place::not_opened_by(&session.engine, &args.file)?;
    let made = session.engine.backup(&session.caller, &args.file)?;
    let file = args.file.display();
    settings.out.result(&to_json(&made, &args.file), || format!("Wrote {file}: {}.", words(&made)));
    settings.out.note(
        "It opens with this key manager's root.json and a passphrase, key file or recovery key only: keep copies of those \
         apart from it. It ends when a key is deleted at the end of its waiting period: make a new one then.",
    );
    Ok(Exit::Ok)
}

/// Restores a backup.
pub fn restore(settings: &Settings, args: &RestoreArgs) -> CliResult {
    let home = Session::unlock_without_database(settings)?;
    let restored =
        crate::kms::backup::restore(home, &args.file, args.replace, system_clock(), Arc::new(SystemEntropy))?;
    let mut value = to_json(&restored.inspection, &args.file);
    value["kept"] = json!(restored.kept);
    settings.out.result(&value, || format!("Restored {}.", words(&restored.inspection)));
    if let Some(kept) = &restored.kept {
        settings.out.note(format_args!("The database that was there is kept as {}.", kept.display()));
    }
    if !restored.inspection.current {
        settings.out.warning(
            "the backup is older than the last change: keys disabled, rotated or created since are as they were before; \
             check kmsfs key list",
        );
    }
    Ok(Exit::Ok)
}

/// Verifies the database or a backup.
pub fn verify(settings: &Settings, args: &VerifyArgs) -> CliResult {
    let (found, file) = match &args.file {
        Some(file) => (crate::kms::backup::check(&Session::unlock_without_database(settings)?, file)?, file.clone()),
        None => {
            let session = Session::open(settings)?;
            (session.engine.inspect()?, session.engine.home_dir().join("kms.db"))
        }
    };
    settings.out.result(&to_json(&found, &file), || format!("{} is sound: {}.", file.display(), words(&found)));
    if found.current {
        return Ok(Exit::Ok);
    }
    settings.out.note("It is not the state of the last change: restoring it undoes what was done since.");
    Ok(Exit::Findings)
}

fn to_json(inspection: &Inspection, file: &std::path::Path) -> Value {
    let Inspection { epoch, revision, keys, current } = inspection;
    json!({ "file": file, "epoch": epoch, "revision": revision, "keys": keys, "current": current })
}

fn words(inspection: &Inspection) -> String {
    let Inspection { epoch, revision, keys, .. } = inspection;
    format!("{keys} keys, change {revision}, epoch {epoch} of the domain key")
}
