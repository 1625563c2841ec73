//! `kmsfs status`: what is mounted, and which keys are in trouble.

use clap::Args;
use serde_json::{Value, json};

use super::control::client;
use super::control::wire::MountStatus;
use super::exit::{CliError, CliResult, Exit};
use super::key::all_keys;
use super::mounts::{self, Life, Mount};
use super::output::{fields, path_text, table};
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
    let mounted: Vec<(Mount, Life)> = all
        .into_iter()
        .filter(Mount::is_kmsfs)
        .map(|mount| {
            let life = mounts::life(&mount.mountpoint);
            (mount, life)
        })
        .collect();
    let absent = matches!(Home::exists(&settings.home), Ok(false));
    let (session, silent) = match Session::open_quietly(settings).transpose() {
        // Mounts are shown whatever keeps the key manager from answering.
        Err(error) if matches!(error.exit, Exit::KmsUnavailable | Exit::AccessDenied) => (None, Some(error.message)),
        session => (session?, None),
    };
    let unusable = match &session {
        Some(session) => Some(unusable_keys(session)?),
        None => None,
    };
    let (word, state) = match (absent, &session, &silent) {
        (true, _, _) => ("not-initialised", "not initialised".to_owned()),
        (false, _, Some(why)) => ("unavailable", format!("gives no answer: {why}")),
        (false, None, None) => ("locked", "locked (status asks for no passphrase)".to_owned()),
        (false, Some(_), None) => ("unlocked", "unlocked".to_owned()),
    };
    let running = client::mounts(&settings.home);
    let value = json!({
        "kms_home": path_text(&settings.home),
        "key_manager": word,
        "key_manager_error": silent,
        "mounts": mounted.iter().map(|(mount, life)| mount_json(mount, *life, &running)).collect::<Vec<_>>(),
        "unusable_keys": unusable.as_ref().map(|keys| keys.iter().map(super::aws::to_json).collect::<Vec<_>>()),
    });
    settings.out.result(&value, || {
        let mut text = fields(&[("key manager", settings.home.display().to_string()), ("state", state.clone())]);
        text.push_str("\n\n");
        if mounted.is_empty() {
            text.push_str("No kmsfs mounts.");
        } else {
            let rows = mounted.iter().map(|(mount, life)| mount_row(mount, *life, &running));
            text.push_str(&table(&["MOUNTPOINT", "SOURCE", "MODE", "PID", "UP", "OPEN FILES", "JOB"], rows));
        }
        for (mount, life) in &mounted {
            let at = mount.mountpoint.display();
            match life {
                Life::Serving => {}
                Life::Silent => text.push_str(&format!(
                    "\n\nthe mount at {at} does not answer: its daemon is stopped, or waits for {}",
                    mount.source.display()
                )),
                Life::Dead => text.push_str(&format!(
                    "\n\nthe mount at {at} is dead: its daemon has ended; remove it with: kmsfs umount {at}"
                )),
            }
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
        let request = DescribeKeyRequest { key_id: key.key_id, ..Default::default() };
        // A key that was deleted since it was listed is in no trouble any more.
        let Ok(answer) = session.engine.describe_key(&session.caller, request) else { continue };
        if answer.key_metadata.key_state != KeyState::Enabled {
            unusable.push(answer.key_metadata);
        }
    }
    Ok(unusable)
}

/// What the process that serves a mount told of it; mounts of another key manager are not asked.
fn told<'a>(mount: &Mount, running: &'a [MountStatus]) -> Option<&'a MountStatus> {
    let (mountpoint, source) = (path_text(&mount.mountpoint), path_text(&mount.source));
    running.iter().find(|status| status.mountpoint == mountpoint && status.source == source)
}

fn daemon_pid(mount: &Mount, told: Option<&MountStatus>) -> Option<u32> {
    if let Some(status) = told {
        return Some(status.pid);
    }
    let owner = lock::owner(&mount.source).ok().flatten()?;
    let purpose = mounts::lock_purpose(&mount.mountpoint);
    (owner.host == lock::host_name() && owner.purpose == purpose).then_some(owner.pid)
}

fn mount_json(mount: &Mount, life: Life, running: &[MountStatus]) -> Value {
    let told = told(mount, running);
    json!({
        "mountpoint": path_text(&mount.mountpoint),
        "source": path_text(&mount.source),
        "read_only": mount.is_read_only(),
        "pid": daemon_pid(mount, told),
        "alive": life != Life::Dead,
        "answers": life == Life::Serving,
        "version": told.map(|s| &s.version),
        "volume_id": told.map(|s| &s.volume_id),
        "uptime_seconds": told.map(|s| s.uptime_seconds),
        "open_files": told.map(|s| s.open_files),
        "known_inodes": told.map(|s| s.known_inodes),
        "rewrapping": told.map(|s| s.rewrapping),
    })
}

fn mount_row(mount: &Mount, life: Life, running: &[MountStatus]) -> Vec<String> {
    let told = told(mount, running);
    let mode = match (life, mount.is_read_only()) {
        (Life::Dead, _) => "dead",
        (Life::Silent, _) => "silent",
        (Life::Serving, true) => "ro",
        (Life::Serving, false) => "rw",
    };
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let job = told.filter(|s| s.rewrapping).map(|_| "rewrap".to_owned());
    vec![
        mount.mountpoint.display().to_string(),
        mount.source.display().to_string(),
        mode.to_owned(),
        or_dash(daemon_pid(mount, told).map(|pid| pid.to_string())),
        or_dash(told.map(|s| uptime(s.uptime_seconds))),
        or_dash(told.map(|s| s.open_files.to_string())),
        or_dash(job),
    ]
}

/// A duration for people: its largest unit and the next.
fn uptime(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptimes_have_two_units() {
        let texts = [0, 59, 61, 3599, 3600, 90_061].map(uptime);
        assert_eq!(texts, ["0s", "59s", "1m1s", "59m59s", "1h0m", "1d1h"]);
    }
}
