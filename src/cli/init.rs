//! `kmsfs init`: a new volume, and on first use the key manager.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::exit::{CliError, CliResult, Exit};
use super::output::path_text;
use super::session::{CreateFlags, Session, created_json, created_words};
use super::settings::Settings;
use super::slots::show_first_recovery;
use crate::env::{SystemEntropy, system_clock};
use crate::format::name::NameForm;
use crate::kms::custody::RecoveryKey;
use crate::ops::init::{InitOptions, NewVolume, check_empty, init_volume, new_volume_id};

/// The key of volumes that were given none.
pub const DEFAULT_KEY: &str = "alias/aws/kmsfs";

/// Make an empty directory a volume; the first use also creates the key manager
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The directory for the ciphertext, created if missing; without it only the key manager is created
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    volume: VolumeFlags,
    #[command(flatten)]
    create: CreateFlags,
}

/// How a new volume is made.
#[derive(Debug, Args, Default, Clone)]
pub struct VolumeFlags {
    /// KMS key of the volume's files: key id, key ARN, alias/NAME or alias ARN [default: alias/aws/kmsfs]
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// A name for people, up to 255 bytes
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
    /// Keep a record of names and versions in the key manager's directory, by which files and directories that are
    /// swapped, removed or rolled back in DIR are noticed (new volume only)
    #[arg(long)]
    pub freshness: bool,
    /// Keep the names of files as they are, so that the ciphertext can be told apart without a key; contents, symlink
    /// targets and attributes are encrypted as always
    #[arg(long)]
    pub plain_names: bool,
}

impl VolumeFlags {
    /// How names stand on disk.
    pub fn names(&self) -> NameForm {
        if self.plain_names { NameForm::Plain } else { NameForm::Encrypted }
    }
}

/// Runs the command.
pub fn run(settings: &Settings, args: &InitArgs) -> CliResult {
    let VolumeFlags { key, label, freshness, plain_names } = &args.volume;
    if args.dir.is_none() && (key.is_some() || label.is_some() || *freshness || *plain_names) {
        return Err(CliError::usage(
            "--key, --label, --freshness and --plain-names are for a volume; name its directory",
        ));
    }
    let Some(dir) = &args.dir else { return init(settings, args) };
    let made = missing(dir);
    fs::create_dir_all(dir)
        .map_err(|e| CliError::io(dir, "create", &e))
        // Before the key manager is created or asked: a refusal should leave nothing behind.
        .and_then(|()| Ok(check_empty(dir, args.volume.names())?))
        .and_then(|()| init(settings, args))
        .inspect_err(|_| {
            for dir in made {
                // What is not empty stays: it is not only this command's any more.
                let _ = fs::remove_dir(dir);
            }
        })
}

/// `dir` and those of its parents that do not exist, the innermost first.
fn missing(dir: &Path) -> Vec<PathBuf> {
    let absent = |path: &&Path| !path.as_os_str().is_empty() && fs::symlink_metadata(path).is_err();
    dir.ancestors().take_while(absent).map(Path::to_owned).collect()
}

fn init(settings: &Settings, args: &InitArgs) -> CliResult {
    let (session, recovery) = Session::open_or_create(settings, &args.create)?;
    if args.dir.is_none() && recovery.is_none() {
        let message = format!("there is a key manager at {} already", settings.home.display());
        return Err(CliError::failure(message).hint("kmsfs init DIR makes a volume"));
    }
    let is_new = recovery.is_some();
    let created = recovery.map(|key| Created::new(settings, &key, args.create.keyfile));
    let mut value = created.as_ref().map_or_else(|| json!({}), |c| c.json.clone());
    let mut words = created.map_or_else(String::new, |c| c.words);
    if let Some(dir) = &args.dir {
        let volume = make_volume(&session, &settings.home, dir, &args.volume).inspect_err(|_| {
            // The recovery key is shown only once: also when what follows it fails.
            if is_new && let Err(unseen) = show_first_recovery(settings, &session, &value, words.clone()) {
                settings.out.error(&unseen);
            }
        })?;
        add_volume(&mut value, dir, &volume);
        if !words.is_empty() {
            words.push_str("\n\n");
        }
        words.push_str(&volume_words(dir, &volume, args.volume.names()));
    }
    match is_new {
        true => show_first_recovery(settings, &session, &value, words)?,
        false => settings.out.result(&value, || words),
    }
    Ok(Exit::Ok)
}

/// What is said once of a key manager that was just made.
pub struct Created {
    /// For scripts.
    pub json: Value,
    /// For people.
    pub words: String,
}

impl Created {
    /// The words for the recovery key.
    pub fn new(settings: &Settings, recovery: &RecoveryKey, keyfile: bool) -> Self {
        let text = recovery.to_text();
        Self {
            json: created_json(&settings.home, &text, keyfile),
            words: created_words(&settings.home, &text, keyfile),
        }
    }
}

/// Makes the volume.
pub fn make_volume(session: &Session, home: &Path, dir: &Path, flags: &VolumeFlags) -> CliResult<NewVolume> {
    let id = new_volume_id(&SystemEntropy);
    let options = InitOptions {
        key: flags.key.clone().unwrap_or_else(|| DEFAULT_KEY.to_owned()),
        label: flags.label.clone(),
        record_in: flags.freshness.then(|| home.to_owned()),
        names: flags.names(),
        ..InitOptions::default()
    };
    let service = session.key_service(&id)?;
    let registry = session.engine.registry();
    Ok(init_volume(dir, id, &*service, &registry, &options, &*system_clock(), &SystemEntropy)?)
}

fn add_volume(value: &mut Value, dir: &Path, volume: &NewVolume) {
    value["directory"] = json!(path_text(dir));
    value["volume_id"] = json!(volume.volume_id.to_string());
    value["key_arn"] = json!(volume.key.as_str());
}

fn volume_words(dir: &Path, volume: &NewVolume, names: NameForm) -> String {
    let dir = dir.display();
    let readable = match names {
        NameForm::Encrypted => String::new(),
        NameForm::Plain => {
            format!("The names of its files are not encrypted: whoever sees {dir} can read them.\n")
        }
    };
    format!(
        "Created volume {} in {dir},\nits files' keys wrapped by {}.\n{readable}Mount it with: kmsfs mount {dir} MOUNTPOINT",
        volume.volume_id, volume.key
    )
}
