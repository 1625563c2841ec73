//! `kmsfs key impact`: what would become unreadable without a key.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use clap::Args;
use serde_json::{Value, json};

use super::aws::to_json;
use super::exit::{CliError, CliResult, Exit};
use super::output::{bytes, table};
use super::progress::Shown;
use super::session::Session;
use super::settings::Settings;
use crate::kms::audit::{AuditFilter, AuditPosition};
use crate::kms::model::{DescribeKeyRequest, KeyIdRequest};
use crate::ops::impact::{Impact, impact};
use crate::types::KeyArn;

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

/// Who used the key, from the audit log.
#[derive(Default)]
struct User {
    calls: u64,
    last: String,
}

/// Runs the command: exit 3 if something could not be looked at.
pub fn run(settings: &Settings, session: &Session, args: &ImpactArgs) -> CliResult {
    let request = DescribeKeyRequest { key_id: args.key.clone(), ..Default::default() };
    let metadata = session.engine.describe_key(&session.caller, request)?.key_metadata;
    let key = metadata.arn.clone();
    let usage = session.engine.get_key_last_usage(&session.caller, KeyIdRequest::from(key.as_str()))?;
    let users = users(session, &key)?;
    let progress = Shown::start(settings.out, "impact")?;
    let (mut volumes, mut complete) = (Vec::new(), true);
    for volume in session.engine.registry().list()?.into_iter().filter(|volume| volume.keys.contains(&key)) {
        let scanned = match args.no_scan {
            true => Ok(None),
            false => impact(&volume.path, &key, &progress).map(Some),
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
        "LastUsage": to_json(&usage.key_last_usage),
        "Users": users.iter().map(|(principal, user)| json!({
            "Principal": principal, "Calls": user.calls, "Last": user.last,
        })).collect::<Vec<_>>(),
        "Volumes": volumes.iter().map(|(volume, scanned)| json!({
            "Volume": volume.volume.to_string(),
            "Path": volume.path,
            "Files": scanned.as_ref().ok().and_then(Option::as_ref).map(files_json),
            "Error": scanned.as_ref().err().map(ToString::to_string),
        })).collect::<Vec<_>>(),
        "Complete": complete,
    });
    settings.out.result(&value, || {
        let mut text = format!("{key} is {}.\n", metadata.key_state);
        match (&usage.key_last_usage.operation, usage.key_last_usage.timestamp) {
            (Some(operation), Some(at)) => text.push_str(&format!("Last used by {operation} on {at}.\n")),
            _ => text.push_str(&format!("Not used since {}.\n", usage.tracking_start_date)),
        }
        let rows = users.iter().map(|(who, user)| vec![who.clone(), user.calls.to_string(), user.last.clone()]);
        text.push_str(&table(&["PRINCIPAL", "CALLS", "LAST"], rows));
        let rows = volumes.iter().map(|(volume, scanned)| {
            let files = match scanned {
                Ok(None) => "not counted".to_owned(),
                Ok(Some(found)) => words(found),
                Err(error) => format!("cannot be read: {error}"),
            };
            vec![volume.volume.to_string(), volume.path.display().to_string(), files]
        });
        text + "\n" + &table(&["VOLUME", "DIRECTORY", "FILES THAT NEED THE KEY"], rows)
    });
    settings.out.note("Backups and copies hold the headers of their day; volumes of other homes are not known here.");
    Ok(if complete { Exit::Ok } else { Exit::Findings })
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

/// Who called successfully with the key, by the audit log.
fn users(session: &Session, key: &KeyArn) -> Result<BTreeMap<String, User>, CliError> {
    let filter = AuditFilter { key: Some(key.as_str().to_owned()), ..AuditFilter::default() };
    let mut users: BTreeMap<String, User> = BTreeMap::new();
    session.engine.audit().visit(&filter, &mut AuditPosition::default(), |record| {
        // Material is named by cryptographic operations only.
        let used = record["errorCode"].is_null() && !record["additionalEventData"].is_null();
        if let Some(principal) = record["userIdentity"]["arn"].as_str().filter(|_| used) {
            let user = users.entry(principal.to_owned()).or_default();
            user.calls += 1;
            user.last = record["eventTime"].as_str().unwrap_or("").to_owned();
        }
        ControlFlow::Continue(())
    })?;
    Ok(users)
}
