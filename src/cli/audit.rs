//! `kmsfs audit`: who did what with which key.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::exit::{CliError, CliResult, Exit};
use super::output::table;
use super::session::Session;
use super::settings::Settings;
use crate::env::system_clock;
use crate::kms::audit::{AuditFilter, AuditPosition};
use crate::types::Timestamp;

/// How often `tail` looks for new records.
const POLL: Duration = Duration::from_millis(500);
/// How many records `tail` starts with.
const TAIL: usize = 10;

/// Show and verify the audit log of the key manager
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Show the records
    Show(ShowArgs),
    /// Show the last records, and new ones as they are written
    Tail(FilterArgs),
    /// Prove that no record was changed, removed or added
    Verify,
    /// Accept that the log is broken and go on in a new file, whose first record says so
    Accept,
}

/// Which records.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Only calls that name a key with this text in its id, ARN or alias
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only calls of principals with this text in their ARN
    #[arg(long, value_name = "ARN")]
    principal: Option<String>,
    /// Only this operation, for example Decrypt
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// Only calls that were refused or failed
    #[arg(long)]
    errors: bool,
}

/// `audit show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// From this time on: 2026-05-01, 2026-05-01T09:00:00Z, or an age such as 15m, 6h, 7d
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only the last N records
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<usize>,
}

/// Runs one of the commands.
pub fn run(settings: &Settings, command: &AuditCommand) -> CliResult {
    let now = system_clock().now();
    let show = match command {
        AuditCommand::Show(args) => Some(AuditFilter {
            since: args.since.as_deref().map(|text| parse_time(text, now)).transpose()?,
            until: args.until.as_deref().map(|text| parse_time(text, now)).transpose()?,
            last: args.last,
            ..filter(&args.filter)
        }),
        _ => None,
    };
    let session = Session::open(settings)?;
    match (command, show) {
        (AuditCommand::Verify, _) => verify(settings, &session),
        (AuditCommand::Accept, _) => accept(settings, &session),
        (AuditCommand::Tail(args), _) => tail(settings, &session, filter(args)),
        (AuditCommand::Show(_), show) => {
            let (filter, audit) = (show.unwrap_or_default(), session.engine.audit());
            if settings.out.is_json() && filter.last.is_none() {
                // A log may be long: nothing of it is kept.
                audit.visit(&filter, &mut AuditPosition::default(), |record| {
                    settings.out.line(&record, String::new);
                    ControlFlow::Continue(())
                })?;
                return Ok(Exit::Ok);
            }
            let records = audit.read(&filter)?;
            if settings.out.is_json() {
                records.iter().for_each(|record| settings.out.line(record, String::new));
            } else {
                settings.out.result(&(), || table(&HEADERS, records.iter().map(row)));
            }
            Ok(Exit::Ok)
        }
    }
}

fn filter(args: &FilterArgs) -> AuditFilter {
    AuditFilter {
        key: args.key.clone(),
        principal: args.principal.clone(),
        event: args.event.clone(),
        errors_only: args.errors,
        ..AuditFilter::default()
    }
}

fn tail(settings: &Settings, session: &Session, filter: AuditFilter) -> CliResult {
    let audit = session.engine.audit();
    let line = |record: &Value| settings.out.line(record, || row(record).join("  "));
    let (mut position, mut last) = (AuditPosition::default(), VecDeque::new());
    audit.visit(&filter, &mut position, |record| {
        last.push_back(record);
        if last.len() > TAIL {
            last.pop_front();
        }
        ControlFlow::Continue(())
    })?;
    last.iter().for_each(line);
    loop {
        thread::sleep(POLL);
        audit.visit(&filter, &mut position, |record| {
            line(&record);
            ControlFlow::Continue(())
        })?;
    }
}

fn verify(settings: &Settings, session: &Session) -> CliResult {
    let report = session.engine.audit().verify()?;
    let (records, files) = (report.records, report.files);
    let broken = report.first_break.as_ref();
    let mut value = json!({
        "intact": broken.is_none(),
        "records": records,
        "files": files,
        "first_break": broken.map(|b| json!({"file": b.file, "line": b.line, "reason": b.reason})),
    });
    if let Some(reason) = &report.accepted {
        value["accepted"] = json!(reason);
    }
    match broken {
        None => {
            settings.out.result(&value, || match &report.accepted {
                None => format!("The audit log is intact: {records} records in {files} files."),
                Some(reason) => {
                    format!("The audit log is intact since a break was accepted ({reason}): {records} records.")
                }
            });
            Ok(Exit::Ok)
        }
        Some(b) => {
            if settings.out.is_json() {
                settings.out.result(&value, String::new);
            }
            let message = format!("the audit log is broken at {} line {}: {}", b.file.display(), b.line, b.reason);
            Err(CliError::new(Exit::Integrity, "AuditLogBroken", message).hint(
                "the records before that line are authentic; compare the rest with a backup. If the break is known and \
                     cannot be mended: kmsfs audit accept",
            ))
        }
    }
}

fn accept(settings: &Settings, session: &Session) -> CliResult {
    let found = session.engine.audit().accept(&session.caller)?;
    let value = json!({
        "accepted": found.as_ref().map(|b| json!({"file": b.file, "line": b.line, "reason": b.reason})),
    });
    settings.out.result(&value, || match &found {
        None => "The audit log is intact: there is nothing to accept.".to_owned(),
        Some(b) => format!("Accepted: {} line {}: {}.", b.file.display(), b.line, b.reason),
    });
    Ok(Exit::Ok)
}

const HEADERS: [&str; 6] = ["TIME", "EVENT", "PRINCIPAL", "KEY", "CONTEXT", "OUTCOME"];

/// A record as people read it.
fn row(record: &Value) -> Vec<String> {
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    let last_part = |arn: &str| arn.rsplit(":").next().unwrap_or("").to_owned();
    let principal = match record["userIdentity"]["arn"].as_str() {
        Some(arn) => last_part(arn),
        None => text(&record["userIdentity"]["invokedBy"]),
    };
    let mut keys: Vec<String> = record["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|r| r["ARN"].as_str().map(|arn| last_part(arn).trim_start_matches("key/").to_owned()))
        .collect();
    if keys.is_empty() {
        keys.push(text(&record["requestParameters"]["keyId"]));
    }
    let context = match record["requestParameters"]["encryptionContext"].as_object() {
        Some(pairs) => pairs
            .iter()
            .filter(|(name, _)| name.as_str() != "kmsfs:fmt")
            .map(|(name, value)| format!("{}={}", name.trim_start_matches("kmsfs:"), short(value)))
            .collect::<Vec<_>>()
            .join(" "),
        None => String::new(),
    };
    let outcome = record["errorCode"].as_str().unwrap_or("ok").to_owned();
    vec![text(&record["eventTime"]), text(&record["eventName"]), principal, keys.join(" -> "), context, outcome]
}

/// The first eight characters of an id: enough to tell two apart at a glance; `--json` has all.
fn short(value: &Value) -> String {
    value.as_str().unwrap_or("").chars().take(8).collect()
}

/// A date, a time stamp of RFC 3339, or an age.
pub fn parse_time(text: &str, now: Timestamp) -> CliResult<Timestamp> {
    if let Some(age) = parse_age(text) {
        return Ok(Timestamp::from_nanos(now.as_nanos().saturating_sub(age)));
    }
    let full = if text.len() == "2026-05-01".len() { format!("{text}T00:00:00Z") } else { text.to_owned() };
    parse_stamp(&full).ok_or_else(|| {
        CliError::usage(format_args!("'{text}' is not a time"))
            .hint("write 2026-05-01, 2026-05-01T09:00:00Z, or an age such as 15m, 6h, 7d")
    })
}

/// A time stamp of RFC 3339, as records have it.
pub fn parse_stamp(text: &str) -> Option<Timestamp> {
    use time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::parse(text, &Rfc3339).ok().map(|at| Timestamp::from_secs(at.unix_timestamp()))
}

/// Nanoseconds of `15m`, `6h`, `7d`, `30s`.
fn parse_age(text: &str) -> Option<i64> {
    let seconds = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let count: i64 = text[..text.len() - 1].parse().ok().filter(|n| *n >= 0)?;
    count.checked_mul(seconds)?.checked_mul(1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ages() {
        let now = Timestamp::from_secs(1_767_225_600);
        let at = |text: &str| parse_time(text, now).map(Timestamp::as_secs).ok();
        assert_eq!(at("2026-01-01"), Some(1_767_225_600));
        assert_eq!(at("2026-01-01T01:00:00+01:00"), Some(1_767_225_600));
        assert_eq!(at("2h"), Some(1_767_225_600 - 7200));
        assert_eq!(at("1d"), Some(1_767_225_600 - 86_400));
        for bad in ["", "yesterday", "-1h", "2026-13-01", "h", "99999999999999999999d"] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_record_for_people() {
        let record = json!({
            "eventTime": "2026-05-01T09:26:53Z", "eventName": "Decrypt",
            "userIdentity": {"arn": "arn:aws:iam::111122223333:role/kmsfs/ab"},
            "requestParameters": {"encryptionContext": {"kmsfs:fmt": "1", "kmsfs:file": "0123456789abcdef"}},
            "resources": [{"ARN": "arn:aws:kms:us-east-1:111122223333:key/k-1"}],
            "errorCode": "DisabledException",
        });
        let expected =
            ["2026-05-01T09:26:53Z", "Decrypt", "role/kmsfs/ab", "k-1", "file=01234567", "DisabledException"];
        assert_eq!(row(&record), expected);
    }
}
