//! The audit log: what is recorded, and that tampering is found.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::*;
use crate::kms::audit::AuditFilter;

pub fn events(bench: &Bench, event: &str) -> Vec<Value> {
    let filter = AuditFilter { event: Some(event.to_owned()), ..Default::default() };
    bench.engine.audit().read(&filter).expect("read")
}

#[test]
fn allowed_and_denied_calls_are_recorded_without_secrets() {
    let bench = Bench::new();
    let key = bench.key();
    let arn = bench.describe(&key).expect("there").arn;
    let blob = bench.encrypt(&key, b"secret text").expect("encrypted");
    bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("disabled");
    bench.decrypt(&blob).expect_err("disabled");

    let encrypt = &events(&bench, "Encrypt")[0];
    assert_eq!(encrypt["userIdentity"]["arn"], "arn:aws:iam::000000000000:user/alice");
    assert_eq!(encrypt["requestParameters"]["encryptionContext"]["kmsfs:volume"], "v");
    assert_eq!(encrypt["requestParameters"]["encryptionAlgorithm"], "SYMMETRIC_DEFAULT");
    assert_eq!((&encrypt["readOnly"], &encrypt["responseElements"]), (&true.into(), &Value::Null));
    assert_eq!(encrypt["resources"][0]["ARN"], arn.as_str());
    assert_eq!(encrypt["additionalEventData"]["keyMaterialId"].as_str().map(str::len), Some(64));
    assert_eq!(encrypt["eventTime"], "2026-01-01T00:00:00Z");
    let decrypt = &events(&bench, "Decrypt")[0];
    assert_eq!(decrypt["errorCode"], "DisabledException");
    assert_eq!(decrypt["errorMessage"], format!("{arn} is disabled."));
    let create = &events(&bench, "CreateKey")[0];
    assert_eq!(create["responseElements"]["keyMetadata"]["arn"], arn.as_str());
    assert_eq!(create["readOnly"], false);
    assert_eq!(events(&bench, "DisableKey").len(), 1);
    assert_eq!(events(&bench, "UnlockStore")[0]["eventType"], "AwsServiceEvent");

    let all = bench.engine.audit().read(&AuditFilter::default()).expect("read");
    let text = format!("{all:?}");
    assert!(!text.contains("secret text") && !text.contains(&data_encoding::BASE64.encode(&blob)));
    let count = |filter: AuditFilter| bench.engine.audit().read(&filter).expect("read").len();
    assert_eq!(count(AuditFilter { errors_only: true, ..Default::default() }), 1);
    assert_eq!(count(AuditFilter { key: Some(key), event: Some("Decrypt".into()), ..Default::default() }), 1);
    assert_eq!(count(AuditFilter { principal: Some("nobody".into()), ..Default::default() }), 0);
    assert_eq!(count(AuditFilter { last: Some(2), ..Default::default() }), 2);
    assert_eq!(count(AuditFilter { after_seq: Some(2), ..Default::default() }), all.len() - 2);
    assert_eq!(count(AuditFilter { until: Some(Timestamp::from_secs(0)), ..Default::default() }), 0);
}

/// A log of some records, closed, with its only file.
fn log() -> (Bench, PathBuf) {
    let bench = Bench::new();
    let key = bench.key();
    for _ in 0..5 {
        bench.encrypt(&key, b"x").expect("encrypted");
    }
    bench.engine.audit().flush().expect("flushed");
    let file = bench.home().join("audit/000001.jsonl");
    (bench, file)
}

#[test]
fn tampering_is_found_where_it_is() {
    let (bench, file) = log();
    let sound = fs::read_to_string(&file).expect("read");
    let lines: Vec<&str> = sound.lines().collect();
    let verify = |lines: &[&str]| {
        fs::write(&file, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).expect("written");
        bench.engine.audit().verify().expect("verified").first_break
    };
    assert_eq!(verify(&lines), None);
    let line_of = |broken: Option<crate::kms::audit::AuditBreak>| broken.map(|broken| broken.line);

    let changed = lines[2].replace("alice", "malory");
    let mut bad = lines.clone();
    bad[2] = &changed;
    assert_eq!(line_of(verify(&bad)), Some(3));
    let spaced = lines[2].replacen("{\"", "{ \"", 1);
    bad[2] = &spaced;
    assert_eq!(line_of(verify(&bad)), Some(3));
    let mut dropped = lines.clone();
    dropped.remove(3);
    assert_eq!(line_of(verify(&dropped)), Some(4));
    let mut swapped = lines.clone();
    swapped.swap(1, 2);
    assert_eq!(line_of(verify(&swapped)), Some(2));
    assert_eq!(line_of(verify(&lines[1..])), Some(1));
    let cut = verify(&lines[..lines.len() - 2]).expect("cut off");
    assert!(cut.reason.contains("the database knows record"), "{}", cut.reason);
    assert!(verify(&[]).is_some());
    assert_eq!(verify(&lines), None);
    fs::remove_file(&file).expect("removed");
    assert!(bench.engine.audit().verify().expect("verified").first_break.is_some());
}

#[test]
fn what_goes_on_after_tampering_does_not_cover_it() {
    let (bench, file) = log();
    let sound = fs::read_to_string(&file).expect("read");
    let lines: Vec<&str> = sound.lines().collect();
    fs::write(&file, format!("{}\n", lines[..3].join("\n"))).expect("cut off");
    bench.key();
    bench.engine.audit().flush().expect("the log goes on");
    let report = bench.engine.audit().verify().expect("verified");
    assert!(report.first_break.is_some());
    assert_eq!((report.records, report.files), (3, 2));
}

#[test]
fn a_torn_line_and_records_ahead_of_the_head_are_taken_care_of() {
    let (bench, file) = log();
    let database = rusqlite::Connection::open(bench.home().join("kms.db")).expect("opened");
    let head: (String, Vec<u8>) = database
        .query_row("SELECT record, mac FROM audit_head", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("a head");
    bench.key();
    bench.engine.audit().flush().expect("flushed");
    let count = bench.engine.audit().verify().expect("verified").records;
    // A crash after the append and before the head moved, and another in the middle of a line.
    database
        .execute("UPDATE audit_head SET record = ?1, mac = ?2", rusqlite::params![head.0, head.1])
        .expect("set back");
    let mut torn = fs::read(&file).expect("read");
    torn.extend_from_slice(b"{\"awsRegion\":\"us");
    fs::write(&file, torn).expect("written");
    bench.key();
    let report = bench.engine.audit().verify().expect("verified");
    assert_eq!((report.first_break, report.files), (None, 1));
    assert_eq!(report.records, count + 1);
    assert_eq!(events(&bench, "CreateKey").len(), 3);
}

#[test]
fn files_are_closed_by_size_and_by_day() {
    let bench = Bench::new();
    let key = bench.key();
    bench.engine.audit().set_max_file(4096);
    for _ in 0..12 {
        bench.encrypt(&key, b"x").expect("encrypted");
    }
    let report = bench.engine.audit().verify().expect("verified");
    assert!(report.files >= 3 && report.first_break.is_none(), "{report:?}");
    bench.engine.audit().set_max_file(u64::MAX);
    bench.days(1);
    bench.encrypt(&key, b"x").expect("encrypted");
    let next = bench.engine.audit().verify().expect("verified");
    assert_eq!((next.files, next.first_break), (report.files + 1, None));
    drop(bench.engine);
}

#[test]
fn a_log_that_cannot_be_written_keeps_its_records() {
    let (bench, file) = log();
    let before = bench.engine.audit().verify().expect("verified").records;
    let audit = bench.home().join("audit");
    let aside = bench.home().join("aside");
    fs::rename(&audit, &aside).expect("moved away");
    bench.describe("alias/none").expect_err("absent");
    let key = bench.key();
    assert!(bench.engine.audit().flush().is_err());
    assert!(bench.encrypt(&key, b"x").is_ok(), "cryptography goes on");
    fs::rename(&aside, &audit).expect("moved back");
    let report = bench.engine.audit().verify().expect("verified");
    assert_eq!((report.first_break, report.records), (None, before + 3));
    assert!(file.exists());
}
