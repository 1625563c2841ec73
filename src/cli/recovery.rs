//! `kmsfs export-recovery` and `kmsfs recover`: a volume without its key manager's home.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::exit::{CliError, CliResult, Exit};
use super::impact::scan;
use super::offline::{self, Unlocked};
use super::output::{path_text, somebody_sees};
use super::passphrase;
use super::place;
use super::session::Session;
use super::settings::Settings;
use crate::format::volume::{DefaultWrap, MAX_LEN, VolumeConfig};
use crate::kms::bundle::{Bundle, BundleError};
use crate::kms::custody::{CustodyError, Home, NewSlot, RecoveryKey, SlotKind};
use crate::kms::model::KeyState;
use crate::ops::config::{VOLUME, path_of};
use crate::ops::open::{FoundVolume, OpenOptions};
use crate::ops::repair::put_config;
use crate::ops::{Silent, VolumeError};
use crate::types::KeyArn;

/// Write a file from which the volume can be read when the key manager's home is lost
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The directory of the volume, mounted or not
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The file to write; it must not exist
    #[arg(long, value_name = "BUNDLE")]
    out: PathBuf,
}

/// Make a new key manager of a file that export-recovery wrote
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// The file
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// The directory of the volume, to prove that it opens; a configuration that is lost is put back
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Let a key file in the new key manager's directory open it: no protection against somebody who has the disk
    #[arg(long)]
    keyfile: bool,
}

/// Makes a bundle.
pub fn export(settings: &Settings, args: &ExportArgs) -> CliResult {
    if let Some(endpoint) = &settings.kms_endpoint {
        return Err(CliError::usage(format_args!(
            "a recovery bundle holds keys of the local key manager; those of this volume are at {endpoint}"
        ))
        .hint("back up that key manager, or move the volume to a local key first, without --kms-endpoint: kmsfs rewrap DIR --to KEY"));
    }
    somebody_sees("the recovery key of the bundle")?;
    let found = FoundVolume::find(&args.dir)?;
    place::not_locked_with(&found, ("--out", &args.out))?;
    let configuration =
        found.meta().read(VOLUME, MAX_LEN).map_err(|e| CliError::io(path_of(&args.dir, VOLUME), "read", &e))?;
    let Unlocked { session, opened, .. } = offline::unlock(settings, found, OpenOptions::default())?;
    let keys = exportable(settings, &args.dir, &session, &opened.config, opened.allowed.keys())?;
    let volume = opened.config.volume_id;
    let made = session.engine.export_recovery(&session.caller, &volume, &keys, &configuration, &args.out)?;
    let recovery = made.recovery.to_text();
    let value = json!({
        "file": path_text(&args.out),
        "volume_id": volume.to_string(),
        "recovery_key": *recovery,
        "keys": made.keys.iter().map(|key| json!({
            "key_arn": key.arn.as_str(), "state": key.state, "complete": key.complete,
        })).collect::<Vec<_>>(),
    });
    let shown = settings.out.result_once(&value, || {
        format!(
            "Wrote {}: {} keys of volume {volume}.\n\nRecovery key of this bundle (shown only now; print it and keep it apart from the bundle):\n\n    {}",
            args.out.display(),
            made.keys.len(),
            *recovery
        )
    });
    shown.map_err(|error| unseen(error, &args.out))?;
    for key in &made.keys {
        if key.state != KeyState::Enabled {
            settings.out.warning(format_args!("{} is {} in the bundle too", key.arn, key.state));
        }
        if !key.complete {
            settings.out.warning(format_args!("imported material of {} is missing, here and in the bundle", key.arn));
        }
    }
    settings.out.warning(
        "whoever has the bundle and its recovery key reads the volume, also when its KMS keys are disabled or deleted later: \
         destroy it then. What is written after a rotation or a rewrap to another key needs a new bundle",
    );
    Ok(Exit::Ok)
}

/// Removes a bundle whose recovery key could not be shown: nothing opens it.
fn unseen(error: CliError, bundle: &Path) -> CliError {
    let done = match std::fs::remove_file(bundle) {
        Ok(()) => format!("so {} is removed", bundle.display()),
        Err(e) => format!("and {} cannot be removed: {e}", bundle.display()),
    };
    CliError::failure(format_args!("{}: nobody has seen the recovery key of the bundle, {done}", error.message))
        .hint("run the same command again where its output can be written")
}

/// The keys that go into the bundle. One that cannot is left out if nothing of the volume needs it.
fn exportable(
    settings: &Settings,
    dir: &Path,
    session: &Session,
    config: &VolumeConfig,
    allowed: &[KeyArn],
) -> CliResult<Vec<KeyArn>> {
    let mut keys = allowed.to_vec();
    for (arn, why) in session.engine.unexportable(allowed)? {
        let wraps_config = config.recipients.iter().any(|recipient| recipient.key_id == arn.as_str());
        let is_default = matches!(&config.default_wrap, DefaultWrap::Direct(key) if *key == arn);
        let found = scan(settings, &config.volume_id, dir, &arn, &Silent)?;
        if wraps_config || is_default || found.only + found.unreadable > 0 {
            return Err(CliError::from(why).hint(format_args!(
                "{} files need it. Move them to a key whose material is in this key manager: kmsfs rewrap {} --from {arn} --to KEY",
                found.only,
                dir.display()
            )));
        }
        keys.retain(|key| *key != arn);
    }
    Ok(keys)
}

/// Makes a key manager of a bundle.
pub fn recover(settings: &Settings, args: &RecoverArgs) -> CliResult {
    let bundle = Bundle::read(&args.bundle).map_err(|e| {
        CliError::from(e)
            .hint("name the file that kmsfs export-recovery wrote, or another copy of it; nothing was changed")
    })?;
    let intact = match args.dir.as_deref().map(FoundVolume::find) {
        Some(Ok(found)) if found.volume_id() != bundle.volume => {
            return Err(CliError::usage(format_args!(
                "{} is volume {}, and the bundle is of volume {}",
                found.root().display(),
                found.volume_id(),
                bundle.volume
            ))
            .hint("name the directory of the bundle's volume, or a bundle that export-recovery made of this one"));
        }
        // Half of it is there, and may be newer than the bundle: only what is lost altogether is replaced.
        Some(Err(error @ VolumeError::Refused { other_copy_readable: true, .. })) => return Err(error.into()),
        Some(Err(VolumeError::NotAVolume(_) | VolumeError::Refused { .. })) => false,
        Some(Err(other)) => return Err(other.into()),
        Some(Ok(_)) | None => true,
    };
    let (home, _) = bundle.install(&settings.home, recovery_key(settings)?).map_err(|e| match e {
        // A home that a failed installation began is not there any more.
        BundleError::Custody(e) if Home::exists(&settings.home).unwrap_or(false) => {
            CliError::from(e).hint(format_args!(
                "make the new one in another directory: kmsfs --kms-home NEW recover {}",
                args.bundle.display()
            ))
        }
        e => e.into(),
    })?;
    let session = Session::start(settings, home)?;
    if args.keyfile {
        session.engine.add_slot(&session.caller, NewSlot::KeyFile)?;
    }
    if let Some(dir) = &args.dir {
        let (service, registry) = (session.key_service(&bundle.volume)?, session.engine.registry());
        let opened = if intact {
            FoundVolume::find(dir).and_then(|found| found.open(&*service, &registry, OpenOptions::default()).map(drop))
        } else {
            put_config(dir, &bundle.configuration, &*service, &registry)
        };
        opened.inspect_err(|_| {
            settings.out.note(format_args!("The key manager at {} is made.", settings.home.display()));
        })?;
    }
    let value = json!({
        "kms_home": path_text(&settings.home),
        "volume_id": bundle.volume.to_string(),
        "bundle_created": bundle.created.as_unix_time(),
        "directory": args.dir.as_deref().map(path_text),
        "configuration_restored": !intact,
    });
    settings.out.result(&value, || {
        let home = settings.home.display();
        let mut text = format!("The key manager at {home} holds the keys of volume {} now.", bundle.volume);
        if !intact {
            text.push_str("\nThe volume's configuration is back, as it was when the bundle was made.");
        }
        text
    });
    if !args.keyfile {
        settings.out.note(
            "It opens by the bundle's recovery key (--recovery-key-file FILE). For a passphrase: kmsfs kms slots add passphrase",
        );
    }
    Ok(Exit::Ok)
}

fn recovery_key(settings: &Settings) -> CliResult<RecoveryKey> {
    let text = match &settings.unlock.recovery_key_file {
        Some(file) => passphrase::from_file(file)?,
        None if passphrase::can_ask() => passphrase::ask("Recovery key of the bundle")?,
        None => {
            return Err(CliError::usage("a bundle opens by its recovery key, and there is no terminal to ask for it")
                .hint("give --recovery-key-file FILE"));
        }
    };
    let text = std::str::from_utf8(&text).map_err(|_| CustodyError::WrongSecret(SlotKind::Recovery))?;
    Ok(RecoveryKey::parse(text)?)
}

impl From<BundleError> for CliError {
    fn from(error: BundleError) -> Self {
        match error {
            BundleError::Store(e) => e.into(),
            BundleError::Custody(e) => e.into(),
            BundleError::Kms(e) => e.into(),
            BundleError::Backup(e) => e.into(),
            BundleError::Audit(_) => Self::new(Exit::Failure, "AuditLog", error),
            BundleError::Exists(_) => Self::new(Exit::Failure, "Exists", error),
            BundleError::NoSuchKey(_) | BundleError::NoSuchVolume(_) => {
                Self::new(Exit::Failure, "NotFoundException", error)
            }
            BundleError::InToken(_) => Self::new(Exit::Failure, "InToken", error),
            BundleError::Unusable { .. } => Self::new(Exit::Integrity, "Damaged", error),
            BundleError::Io { ref path, ref source } => Self::io(path, "use", source),
        }
    }
}
