//! `kmsfs key impact`: what would become unreadable without a key.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::audit::parse_stamp;
use super::aws::to_json;
use super::control::client::Connection;
use super::exit::{CliError, CliResult, Exit};
use super::offline;
use super::output::{bytes, table};
use super::progress::Shown;
use super::session::Session;
use super::settings::Settings;
use crate::kms::audit::{AuditFilter, AuditPosition};
use crate::kms::is_use;
use crate::kms::model::{DescribeKeyRequest, KeyIdRequest, KeyLastUsageData};
use crate::ops::impact::{Impact, impact};
use crate::ops::{Progress, lock, modes_without_lock};
use crate::types::{KeyArn, Timestamp, VolumeId};

/// `key impact`.
#[derive(Debug, Args)]
pub struct ImpactArgs {
    /// Key id, key ARN, alias/NAME or alias ARN
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Do not count files: only volumes, and the last use
    #[arg(long)]
    no_scan: bool,
}

/// The successful uses of a key that the audit log has.
#[derive(Default)]
struct Uses {
    users: BTreeMap<String, User>,
    /// Volumes in encryption contexts, with the time of the last.
    volumes: BTreeMap<VolumeId, String>,
    last: KeyLastUsageData,
}

/// Who used the key.
#[derive(Default)]
struct User {
    calls: u64,
    last: String,
}

impl Uses {
    /// Reads the log.
    fn of(session: &Session, key: &KeyArn) -> Result<Self, CliError> {
        let filter = AuditFilter { key: Some(key.as_str().to_owned()), ..AuditFilter::default() };
        let mut uses = Self::default();
        session.engine.audit().visit(&filter, &mut AuditPosition::default(), |record| {
            uses.note(&record);
            ControlFlow::Continue(())
        })?;
        Ok(uses)
    }

    fn note(&mut self, record: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        let (operation, time) = (text(&record["eventName"]), text(&record["eventTime"]));
        if !record["errorCode"].is_null() || !is_use(&operation) {
            return;
        }
        if let Some(principal) = record["userIdentity"]["arn"].as_str() {
            let user = self.users.entry(principal.to_owned()).or_default();
            user.calls += 1;
            user.last.clone_from(&time);
        }
        for context in ["encryptionContext", "sourceEncryptionContext", "destinationEncryptionContext"] {
            let volume = record["requestParameters"][context]["kmsfs:volume"].as_str();
            if let Some(volume) = volume.and_then(|volume| volume.parse().ok()) {
                self.volumes.insert(volume, time.clone());
            }
        }
        let timestamp = parse_stamp(&time);
        if timestamp >= self.last.timestamp {
            let (event, request) = (text(&record["eventID"]), text(&record["requestID"]));
            let (cloud_trail_event_id, kms_request_id) = (Some(event), Some(request));
            let operation = Some(operation);
            self.last = KeyLastUsageData { operation, timestamp, cloud_trail_event_id, kms_request_id };
        }
    }

    /// The last use: `noted` in the database, unless the log has a later one, whose note was lost in a crash or removed.
    fn last(&self, noted: KeyLastUsageData) -> KeyLastUsageData {
        // Records have whole seconds.
        let second = |usage: &KeyLastUsageData| usage.timestamp.map(Timestamp::as_secs);
        if second(&self.last) > second(&noted) { self.last.clone() } else { noted }
    }
}

/// Runs the command: exit 3 if something could not be looked at.
pub fn run(settings: &Settings, session: &Session, args: &ImpactArgs) -> CliResult {
    let request = DescribeKeyRequest { key_id: args.key.clone(), ..Default::default() };
    let metadata = session.engine.describe_key(&session.caller, request)?.key_metadata;
    let key = metadata.arn.clone();
    let usage = session.engine.get_key_last_usage(&session.caller, KeyIdRequest::from(key.as_str()))?;
    let uses = Uses::of(session, &key)?;
    let last = uses.last(usage.key_last_usage);
    let known = session.engine.registry().list()?;
    let is_known = |volume: &VolumeId| known.iter().any(|known| known.volume == *volume);
    let unknown: Vec<_> = uses.volumes.iter().filter(|(volume, _)| !is_known(volume)).collect();
    let progress = Shown::start(settings.out, "impact")?;
    let (mut volumes, mut complete) = (Vec::new(), unknown.is_empty());
    for volume in known.iter().filter(|volume| volume.keys.contains(&key)) {
        let scanned = match args.no_scan {
            true => Ok(None),
            false => scan(settings, &volume.volume, &volume.path, &key, &progress).map(Some),
        };
        complete &= scanned.is_ok() && scanned.as_ref().ok().and_then(Option::as_ref).is_none_or(is_complete);
        volumes.push((volume, scanned));
    }
    progress.finish();
    if volumes.iter().any(|(_, scanned)| matches!(scanned, Ok(Some(found)) if found.interrupted)) {
        return Err(progress.interrupted(&format!("kmsfs key impact {}", args.key)));
    }
    let value = json!({
        "KeyArn": key.as_str(),
        "KeyState": metadata.key_state,
        "DeletionDate": to_json(&metadata)["DeletionDate"],
        "LastUsage": to_json(&last),
        "Users": uses.users.iter().map(|(principal, user)| json!({
            "Principal": principal, "Calls": user.calls, "Last": user.last,
        })).collect::<Vec<_>>(),
        "Volumes": volumes.iter().map(|(volume, scanned)| json!({
            "Volume": volume.volume.to_string(),
            "Path": volume.path,
            "Files": scanned.as_ref().ok().and_then(Option::as_ref).map(files_json),
            "Error": scanned.as_ref().err().map(ToString::to_string),
        })).collect::<Vec<_>>(),
        "OtherVolumes": unknown.iter().map(|(volume, last)| json!({
            "Volume": volume.to_string(), "Last": last,
        })).collect::<Vec<_>>(),
        "Complete": complete,
    });
    settings.out.result(&value, || {
        let mut text = format!("{key} is {}.\n", metadata.key_state);
        match (&last.operation, last.timestamp) {
            (Some(operation), Some(at)) => text.push_str(&format!("Last used by {operation} on {at}.\n")),
            _ => text.push_str(&format!("Not used since {}.\n", usage.tracking_start_date)),
        }
        let rows = uses.users.iter().map(|(who, user)| vec![who.clone(), user.calls.to_string(), user.last.clone()]);
        text.push_str(&table(&["PRINCIPAL", "CALLS", "LAST"], rows));
        let rows = volumes.iter().map(|(volume, scanned)| {
            let files = match scanned {
                Ok(None) => "not counted".to_owned(),
                Ok(Some(found)) => words(found),
                Err(error) => format!("cannot be read: {error}"),
            };
            vec![volume.volume.to_string(), volume.path.display().to_string(), files]
        });
        let others = unknown.iter().map(|(volume, last)| {
            vec![
                volume.to_string(),
                "-".to_owned(),
                format!("unknown: not of this home, in the audit log until {last}"),
            ]
        });
        let rows = rows.chain(others);
        text + "\n" + &table(&["VOLUME", "DIRECTORY", "FILES THAT NEED THE KEY"], rows)
    });
    if volumes.iter().any(|(_, scanned)| matches!(scanned, Ok(Some(found)) if found.unreadable > 0))
        && !rustix::process::geteuid().is_root()
    {
        settings.out.note(
            "Files that their modes keep from this user are read by their owner, through the mount if there is one of this home, or by root.",
        );
    }
    settings.out.note(
        "Backups and copies hold the headers of their day; volumes of other homes are known from the audit log only.",
    );
    Ok(if complete { Exit::Ok } else { Exit::Findings })
}

/// Looks at a volume wherever it is. What modes deny its own user, only the mount may open while it is mounted.
pub(super) fn scan(
    settings: &Settings,
    volume: &VolumeId,
    root: &Path,
    key: &KeyArn,
    progress: &dyn Progress,
) -> Result<Impact, CliError> {
    let owner = if rustix::process::geteuid().is_root() { None } else { lock::owner(root).ok().flatten() };
    if let Some(mount) = owner.and_then(|owner| Connection::to_owner(&settings.home, volume, &owner)) {
        return mount.impact(key, progress);
    }
    let modes = modes_without_lock(offline::backing(root)?, root, "key impact");
    impact(&modes, key, progress).map_err(|e| CliError::io(root, "read", &e.into()))
}

fn is_complete(found: &Impact) -> bool {
    found.unreadable == 0 && !found.interrupted
}

fn files_json(found: &Impact) -> Value {
    json!({
        "Only": found.only, "OnlyBytes": found.only_bytes, "Also": found.also, "Others": found.others,
        "Unreadable": found.unreadable,
    })
}

fn words(found: &Impact) -> String {
    let mut text = format!("{} ({})", found.only, bytes(found.only_bytes));
    if found.also > 0 {
        text.push_str(&format!(", {} more under another key too", found.also));
    }
    if found.unreadable > 0 {
        text.push_str(&format!(", {} unreadable", found.unreadable));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_read_from_records() {
        let volume = "00112233445566778899aabbccddeeff";
        let record = |name: &str, time: &str, more: Value| {
            let mut record = json!({
                "eventName": name, "eventTime": time, "eventID": format!("id of {name}"), "requestID": "r",
                "userIdentity": { "arn": "arn:aws:iam::111122223333:user/alice" },
            });
            record.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            record
        };
        let context = |name: &str, volume: &str| json!({ "requestParameters": { name: { "kmsfs:volume": volume } } });
        let mut uses = Uses::default();
        uses.note(&record("Sign", "2026-05-01T09:00:03Z", json!({})));
        uses.note(&record("Decrypt", "2026-05-01T09:00:02Z", context("encryptionContext", "no volume's id")));
        uses.note(&record("ReEncrypt", "2026-05-01T09:00:01Z", context("sourceEncryptionContext", volume)));
        uses.note(&record("DescribeKey", "2026-05-01T09:00:09Z", json!({})));
        uses.note(&record("Decrypt", "2026-05-01T09:00:09Z", json!({ "errorCode": "DisabledException" })));
        assert_eq!(uses.users.values().map(|user| user.calls).collect::<Vec<_>>(), [3]);
        let volumes: Vec<_> = uses.volumes.iter().map(|(id, last)| (id.to_string(), last.as_str())).collect();
        assert_eq!(volumes, [(volume.to_owned(), "2026-05-01T09:00:01Z")]);
        // The note in the database may be gone, or be the same use with the fraction of its second.
        assert_eq!(uses.last(KeyLastUsageData::default()).cloud_trail_event_id.as_deref(), Some("id of Sign"));
        let at = parse_stamp("2026-05-01T09:00:03Z").expect("a time");
        let noted = |timestamp| KeyLastUsageData { timestamp: Some(timestamp), ..Default::default() };
        let same = noted(at.plus(std::time::Duration::from_millis(500)));
        assert_eq!(uses.last(same.clone()), same);
        assert_eq!(uses.last(noted(Timestamp::from_secs(at.as_secs() - 1))).operation.as_deref(), Some("Sign"));
    }
}
