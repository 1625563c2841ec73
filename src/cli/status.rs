//! `kmsfs status`: what is mounted, and which keys are in trouble.

use clap::Args;
use serde_json::{Value, json};

use super::exit::{CliError, CliResult, Exit};
use super::key::all_keys;
use super::mounts::{self, Mount};
use super::output::{fields, table};
use super::session::Session;
use super::settings::Settings;
use crate::kms::custody::Home;
use crate::kms::model::{DescribeKeyRequest, KeyMetadata, KeyState};
use crate::ops::lock;

/// Show the mounts, the key manager, and keys that are disabled or pending deletion
#[derive(Debug, Args)]
pub struct StatusArgs {}

/// Runs the command.
pub fn run(settings: &Settings) -> CliResult {
    let all = mounts::all().map_err(|e| CliError::io("/proc/self/mountinfo", "read", &e))?;
    let mounted: Vec<Mount> = all.into_iter().filter(Mount::is_kmsfs).collect();
    let exists = Home::exists(&settings.home);
    let session = Session::open_quietly(settings).transpose()?;
    let unusable = match &session {
        Some(session) => Some(unusable_keys(session)?),
        None => None,
    };
    let state = match (exists, &session) {
        (false, _) => "not initialised",
        (true, None) => "locked (status asks for no passphrase)",
        (true, Some(_)) => "unlocked",
    };
    let value = json!({
        "kms_home": settings.home,
        "key_manager": if !exists { "not-initialised" } else if session.is_some() { "unlocked" } else { "locked" },
        "mounts": mounted.iter().map(mount_json).collect::<Vec<_>>(),
        "unusable_keys": unusable.as_ref().map(|keys| keys.iter().map(super::aws::to_json).collect::<Vec<_>>()),
    });
    settings.out.result(&value, || {
        let mut text = fields(&[("key manager", settings.home.display().to_string()), ("state", state.to_owned())]);
        text.push_str("\n\n");
        if mounted.is_empty() {
            text.push_str("No kmsfs mounts.");
        } else {
            text.push_str(&table(&["MOUNTPOINT", "SOURCE", "MODE", "PID"], mounted.iter().map(mount_row)));
        }
        for key in unusable.iter().flatten() {
            text.push_str(&format!("\n\nkey {} is {}", key.arn, key.key_state));
            if let Some(date) = key.deletion_date {
                text.push_str(&format!(" and will be deleted on {date}"));
            }
        }
        text
    });
    Ok(Exit::Ok)
}

fn unusable_keys(session: &Session) -> CliResult<Vec<KeyMetadata>> {
    let mut unusable = Vec::new();
    for key in all_keys(session)? {
        let request = DescribeKeyRequest { key_id: key.key_id };
        // A key that was deleted since it was listed is in no trouble any more.
        let Ok(answer) = session.engine.describe_key(&session.caller, request) else { continue };
        if answer.key_metadata.key_state != KeyState::Enabled {
            unusable.push(answer.key_metadata);
        }
    }
    Ok(unusable)
}

fn daemon_pid(mount: &Mount) -> Option<u32> {
    let owner = lock::owner(&mount.source).ok().flatten()?;
    let purpose = super::mount::lock_purpose(&mount.mountpoint);
    (owner.host == lock::host_name() && owner.purpose == purpose).then_some(owner.pid)
}

fn mount_json(mount: &Mount) -> Value {
    json!({
        "mountpoint": mount.mountpoint,
        "source": mount.source,
        "read_only": mount.is_read_only(),
        "pid": daemon_pid(mount),
        "alive": !mounts::is_dead_mount(&mount.mountpoint),
    })
}

fn mount_row(mount: &Mount) -> Vec<String> {
    let mode = match (mounts::is_dead_mount(&mount.mountpoint), mount.is_read_only()) {
        (true, _) => "dead",
        (false, true) => "ro",
        (false, false) => "rw",
    };
    let pid = daemon_pid(mount).map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    vec![mount.mountpoint.display().to_string(), mount.source.display().to_string(), mode.to_owned(), pid]
}
