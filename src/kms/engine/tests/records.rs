//! The audit log: what is recorded, and that tampering is found.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::*;
use crate::kms::audit::AuditFilter;
use crate::kms::crash;

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
fn records_of_changes_that_were_forged_or_removed_before_they_came_into_the_log_are_told() {
    let bench = Bench::new();
    let key = bench.key();
    let database = rusqlite::Connection::open(bench.home().join("kms.db")).expect("opened");
    let reason = || {
        let report = bench.engine.audit().verify().expect("verified");
        report.first_break.map_or(String::new(), |broken| broken.reason)
    };
    let shown = |event: &str| {
        let filter = AuditFilter { event: Some(event.into()), ..Default::default() };
        bench.engine.audit().read(&filter).expect("read")
    };
    // What waits for a log that cannot be written comes into it.
    bench.engine.audit().set_full(true);
    bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("done");
    bench.engine.audit().set_full(false);
    assert_eq!((reason().as_str(), shown("DisableKey").len()), ("", 1));

    // Half of a real record, with another number, and one in its place.
    let real = fs::read_to_string(bench.home().join("audit/000001.jsonl")).expect("read");
    let line = real.lines().find(|line| line.contains("DisableKey")).expect("there").replace("alice", "malory");
    let (head, rest) = line.split_once("\"chain\"").expect("chained");
    let tail = rest.split_once("},").expect("chained").1;
    let forge = "INSERT INTO audit_outbox(event_id, head, tail, mac) VALUES ('e', ?1, ?2, ?3)";
    database.execute(forge, rusqlite::params![head, tail, None::<Vec<u8>>]).expect("forged");
    database.execute(forge, rusqlite::params![head, tail, Some(vec![7_u8; 32])]).expect("forged");
    assert!(reason().contains("forged (2) or removed (0)"), "{}", reason());
    assert_eq!(shown("DisableKey").len(), 1);
    assert_eq!(shown("AuditTampering")[0]["serviceEventDetails"]["forgedRecords"], 2);

    bench.engine.audit().set_full(true);
    bench.engine.enable_key(&bench.alice, key.as_str().into()).expect("done");
    assert_eq!(database.execute("DELETE FROM audit_outbox", []).expect("removed"), 1);
    bench.engine.audit().set_full(false);
    bench.engine.audit().flush().expect("flushed");
    assert_eq!(shown("AuditTampering")[1]["serviceEventDetails"]["missingRecords"], 1);

    // Nor does it help to set the count back: the state of the database is another one then.
    bench.engine.audit().set_full(true);
    bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("done");
    database.execute("DELETE FROM audit_outbox", []).expect("removed");
    database.execute("UPDATE meta SET value = value - 1 WHERE name = 'records'", []).expect("set back");
    let refused = bench.another().map(drop).expect_err("not the state of the last change");
    assert!(refused.to_string().contains("not the one that was last written"), "{refused}");
}

#[test]
fn nothing_in_the_schema_of_the_database_acts() {
    let bench = Bench::new();
    let key = bench.key();
    let database = rusqlite::Connection::open(bench.home().join("kms.db")).expect("opened");
    let suppress = "CREATE TRIGGER t AFTER INSERT ON audit_outbox BEGIN DELETE FROM audit_outbox; END";
    database.execute_batch(suppress).expect("made");
    bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("done");
    let filter = AuditFilter { event: Some("DisableKey".into()), ..Default::default() };
    assert_eq!(bench.engine.audit().read(&filter).expect("read").len(), 1);
    assert_eq!(bench.engine.audit().verify().expect("verified").first_break, None);
    for what in ["trigger 't'", "view 'v'"] {
        let refused = bench.another().map(drop).expect_err("no key manager made it").to_string();
        assert!(refused.contains(what), "{refused}");
        let backup = bench.engine.backup(&bench.alice, &bench.dir.path().join("backup")).expect_err("nor in a backup");
        assert!(backup.to_string().contains(what), "{backup}");
        database.execute_batch("DROP TRIGGER IF EXISTS t; CREATE VIEW IF NOT EXISTS v AS SELECT 1").expect("changed");
    }
}

#[test]
fn a_use_that_succeeded_before_a_change_stands_before_it() {
    let bench = Bench::new();
    let key = bench.key();
    bench.engine.audit().flush().expect("flushed");
    bench.encrypt(&key, b"x").expect("encrypted");
    bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("disabled");
    bench.encrypt(&key, b"x").expect_err("disabled");
    let all = bench.engine.audit().read(&AuditFilter::default()).expect("read");
    let names: Vec<&str> = all.iter().rev().take(3).rev().filter_map(|record| record["eventName"].as_str()).collect();
    assert_eq!(names, ["Encrypt", "DisableKey", "Encrypt"]);
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

/// Leaves what a crash does that comes after the append, before its flush and before the head moved; how many records are there.
fn records_ahead_of_the_head(bench: &Bench) -> u64 {
    let database = rusqlite::Connection::open(bench.home().join("kms.db")).expect("opened");
    let head: (String, Vec<u8>) = database
        .query_row("SELECT record, mac FROM audit_head", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("a head");
    bench.key();
    bench.engine.audit().flush().expect("flushed");
    let count = bench.engine.audit().verify().expect("verified").records;
    database
        .execute("UPDATE audit_head SET record = ?1, mac = ?2", rusqlite::params![head.0, head.1])
        .expect("set back");
    count
}

#[test]
fn a_torn_line_and_records_ahead_of_the_head_are_taken_care_of() {
    let (bench, file) = log();
    let count = records_ahead_of_the_head(&bench);
    // Another crash in the middle of a line.
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
fn what_a_power_cut_leaves_of_records_that_were_not_flushed_is_no_break() {
    let (bench, file) = log();
    bench.key();
    bench.engine.audit().flush().expect("flushed");
    let count = bench.engine.audit().verify().expect("verified").records;
    // A sector is missing in the middle: there are zeros, and parts of lines behind them.
    let mut left = fs::read(&file).expect("read");
    left.extend_from_slice(&[&b"{\"awsRegion\":\"us"[..], &[0; 512], b"\"}\n{\"awsRegion\":\"us-east-1\"}\n"].concat());
    fs::write(&file, left).expect("written");
    bench.key();
    let report = bench.engine.audit().verify().expect("verified");
    assert_eq!((report.first_break, report.files, report.records), (None, 1, count + 1));
}

#[test]
fn a_file_of_the_log_is_not_relied_on_before_its_name_is_durable() {
    let bench = Bench::new();
    let key = bench.key();
    let log = bench.home().join("audit");
    let audit = bench.engine.audit();
    audit.flush().expect("flushed");
    // A process that was killed when it had made the file, before it wrote to it.
    fs::write(log.join("000002.jsonl"), b"").expect("written");
    audit.set_max_file(1);
    crash::flushed();
    bench.describe(&key).expect("there");
    audit.flush().expect("flushed");
    let flushed = crash::flushed();
    assert!(flushed.contains(&log), "the name of the file that was found");
    assert!(flushed.contains(&bench.home()), "the name of the log, which may be as new");
    crash::fail_flush_of(&log);
    bench.describe(&key).expect("there");
    audit.flush().expect_err("the flush of the directory failed");
    audit.set_max_file(u64::MAX);
    crash::flushed();
    bench.describe(&key).expect("there");
    audit.flush().expect("flushed");
    assert!(crash::flushed().contains(&log), "the name of the file that the failure left");
    assert_eq!(audit.verify().expect("verified").first_break, None);
}

#[test]
fn records_ahead_of_the_head_are_durable_before_it_moves() {
    let (bench, file) = log();
    let count = records_ahead_of_the_head(&bench);
    bench.engine.audit().set_max_file(1);
    crash::flushed();
    bench.key();
    bench.engine.audit().flush().expect("flushed");
    assert!(crash::flushed().contains(&file), "it is not the file that the next records are in");
    let report = bench.engine.audit().verify().expect("verified");
    assert_eq!((report.first_break, report.files, report.records), (None, 2, count + 1));
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
    let key = bench.key();
    bench.describe("alias/none").expect_err("absent");
    assert!(bench.engine.audit().flush().is_err());
    assert!(bench.encrypt(&key, b"x").is_ok(), "cryptography goes on");
    fs::rename(&aside, &audit).expect("moved back");
    let report = bench.engine.audit().verify().expect("verified");
    assert_eq!((report.first_break, report.records), (None, before + 3));
    assert!(file.exists());
}

/// A log over several files, closed, with its files.
fn long_log() -> (Bench, Vec<PathBuf>) {
    let bench = Bench::new();
    let key = bench.key();
    bench.engine.audit().set_max_file(4096);
    for _ in 0..16 {
        bench.encrypt(&key, b"x").expect("encrypted");
    }
    bench.engine.audit().flush().expect("flushed");
    let mut files: Vec<PathBuf> = fs::read_dir(bench.home().join("audit"))
        .expect("listed")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    files.sort();
    assert!(files.len() >= 4, "{files:?}");
    (bench, files)
}

#[test]
fn tampering_is_found_over_several_files() {
    let (bench, files) = long_log();
    let verify = || bench.engine.audit().verify().expect("verified");
    let records = verify().records;
    let lines = |file: &PathBuf| -> Vec<String> {
        fs::read_to_string(file).expect("read").lines().map(str::to_owned).collect()
    };
    let write = |file: &PathBuf, lines: &[String]| {
        fs::write(file, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).expect("written");
    };
    let broken = |what: &str, file: &PathBuf, line: u64| {
        let report = verify();
        let found = report.first_break.map(|broken| (broken.file, broken.line));
        assert_eq!(found, Some((file.clone(), line)), "{what}");
    };
    let middle = &files[1];
    let sound = lines(middle);

    let mut bad = sound.clone();
    bad[0] = bad[0].replace("alice", "malory");
    write(middle, &bad);
    broken("changed", middle, 1);
    write(middle, &sound[1..]);
    broken("the first of a file dropped", middle, 1);
    write(middle, &sound[..sound.len() - 1]);
    broken("the last of a file dropped", &files[2], 1);
    let mut bad = sound.clone();
    bad.swap(0, 1);
    write(middle, &bad);
    broken("swapped", middle, 1);
    write(middle, &[]);
    broken("emptied", &files[2], 1);
    write(middle, &sound);
    assert_eq!((verify().first_break, verify().records), (None, records));

    let aside = bench.dir.path().join("aside");
    fs::rename(middle, &aside).expect("moved");
    broken("a file gone", &files[2], 1);
    fs::rename(&files[2], middle).expect("moved");
    broken("a file in the place of another", middle, 1);
    fs::rename(middle, &files[2]).expect("moved back");
    fs::rename(&aside, middle).expect("moved back");

    let last = files.last().expect("several");
    let end = lines(last);
    write(last, &end[..end.len() - 1]);
    let cut = verify().first_break.expect("the end cut off");
    assert!(cut.reason.contains("the database knows record"), "{}", cut.reason);
    let torn = fs::read(last).expect("read");
    fs::write(last, &torn[..torn.len() - 7]).expect("written");
    assert!(verify().first_break.is_some());
}

#[test]
fn a_reader_goes_on_where_it_was() {
    let (bench, files) = long_log();
    let (mut position, mut seen) = (crate::kms::audit::AuditPosition::default(), 0);
    let mut look = |bench: &Bench| {
        let before = seen;
        let visit = bench.engine.audit().visit(&AuditFilter::default(), &mut position, |record| {
            seen += 1;
            assert_eq!(record["chain"]["seq"], seen);
            std::ops::ControlFlow::Continue(())
        });
        visit.expect("visited");
        seen - before
    };
    assert!(look(&bench) > files.len() as u64);
    assert_eq!(look(&bench), 0);
    let key = bench.key();
    for _ in 0..8 {
        bench.encrypt(&key, b"x").expect("encrypted");
    }
    assert_eq!(look(&bench), 9);
    assert_eq!(look(&bench), 0);
}

#[test]
fn on_a_full_disk_cryptography_goes_on_and_the_gap_is_recorded() {
    let bench = Bench::new();
    let key = bench.key();
    bench.engine.audit().flush().expect("flushed");
    let before = bench.engine.audit().verify().expect("verified").records;
    bench.engine.audit().set_full(true);
    bench.encrypt(&key, b"x").expect("cryptography goes on");
    bench.engine.audit().flush().expect_err("full");
    const CALLS: u64 = 3000;
    for _ in 1..CALLS {
        bench.encrypt(&key, b"x").expect("cryptography goes on");
    }
    let refused = bench.engine.disable_key(&bench.alice, key.as_str().into()).expect_err("changes are refused");
    assert!(refused.to_string().contains("audit log cannot be written"), "{refused}");
    assert_eq!(bench.describe(&key).expect("there").key_state, KeyState::Enabled);
    bench.engine.audit().set_full(false);
    bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("there is room again");
    let gaps = events(&bench, "AuditGap");
    assert_eq!(gaps.len(), 1);
    let lost = gaps[0]["serviceEventDetails"]["lostRecords"].as_u64().expect("a number");
    let report = bench.engine.audit().verify().expect("verified");
    assert_eq!(report.first_break, None);
    // Kept or counted: the encryptions, the refusal and the description; and the gap, and what came after.
    assert_eq!(report.records + lost, before + CALLS + 2 + 2);
    assert!(lost > 0 && events(&bench, "Encrypt").len() as u64 + lost >= CALLS);
}

#[test]
fn a_log_that_is_required_holds_the_answers_back() {
    use crate::kms::audit::AuditMode;
    let bench = Bench::new();
    let key = bench.key();
    bench.engine.audit().set_mode("required".parse().expect("a mode"));
    bench.encrypt(&key, b"x").expect("written");
    bench.engine.audit().set_full(true);
    bench.engine.audit().flush().expect_err("full");
    let refused = bench.encrypt(&key, b"x").expect_err("no record, no answer");
    assert_eq!(refused.code(), "KMSInternalException");
    bench.engine.audit().set_full(false);
    bench.encrypt(&key, b"x").expect("there is room again");
    assert_eq!(events(&bench, "Encrypt").len(), 3, "the refused call is recorded too");

    bench.engine.audit().set_mode(AuditMode::Durable);
    bench.encrypt(&key, b"x").expect("written");
    let text = fs::read_to_string(bench.home().join("audit/000001.jsonl")).expect("read");
    assert_eq!(text.matches("\"eventName\":\"Encrypt\"").count(), 4, "it is there before the answer");
    assert!("sometimes".parse::<AuditMode>().is_err());
}

#[test]
fn a_log_that_cannot_be_written_can_be_read_and_verified() {
    let (bench, file) = log();
    let before = bench.engine.audit().verify().expect("verified").records;
    bench.engine.audit().set_full(true);
    bench.describe("alias/none").expect_err("absent");
    let report = bench.engine.audit().verify().expect("verified");
    assert_eq!((report.first_break, report.records), (None, before));
    assert_eq!((events(&bench, "Encrypt").len(), events(&bench, "DescribeKey").len()), (5, 0));
    bench.engine.audit().set_full(false);
    assert_eq!(events(&bench, "DescribeKey").len(), 1, "there is room again");

    // There was room for the record, and none for the head in the database.
    let database = rusqlite::Connection::open(bench.home().join("kms.db")).expect("opened");
    let full = "CREATE TRIGGER full BEFORE UPDATE ON audit_head BEGIN SELECT RAISE(ABORT, 'full'); END";
    database.execute_batch(full).expect("made");
    bench.describe("alias/none").expect_err("absent");
    let report = bench.engine.audit().verify().expect("verified");
    assert_eq!((report.first_break, report.records), (None, before + 2));
    assert_eq!(events(&bench, "DescribeKey").len(), 2);
    let sound = fs::read_to_string(&file).expect("read");
    fs::write(&file, sound.replacen("alias/none", "alias/nine", 1)).expect("written");
    assert!(bench.engine.audit().verify().expect("verified").first_break.is_some());
    fs::write(&file, sound).expect("written");
    database.execute_batch("DROP TRIGGER full").expect("dropped");
    let report = bench.engine.audit().verify().expect("verified");
    assert_eq!((report.first_break, report.records), (None, before + 2));
}

#[test]
fn a_head_that_is_gone_or_forged_is_a_finding_and_holds_every_call_back() {
    for tamper in ["DELETE FROM audit_head", "UPDATE audit_head SET mac = zeroblob(32)"] {
        let bench = Bench::new();
        let key = bench.key();
        let blob = bench.encrypt(&key, b"x").expect("encrypted");
        bench.engine.audit().flush().expect("flushed");
        let before = bench.engine.audit().verify().expect("verified").records;
        bench.engine.inspect().expect("sound");
        let database = rusqlite::Connection::open(bench.home().join("kms.db")).expect("opened");
        assert_eq!(database.execute(tamper, []).expect("changed"), 1);

        let report = bench.engine.audit().verify().expect("verified");
        let reason = report.first_break.expect("a finding").reason;
        assert!(reason.starts_with("the head of the chain in the database"), "{reason}");
        assert_eq!(report.records, before);
        let error = bench.engine.inspect().expect_err("a database without its head");
        assert!(error.to_string().contains("the head of the audit chain"), "{error}");
        // No record would come into the log, so that there is no answer: here, and in a process that opens the home.
        let other = bench.another().expect("it opens: it must be looked at");
        for engine in [&bench.engine, &other] {
            let alice = &bench.alice;
            let encrypted = encrypt(engine, alice, &key, b"x").expect_err("no record, no answer");
            assert_eq!(encrypted.code(), "KMSInternalException");
            assert!(encrypted.to_string().contains("the head of the audit chain"), "{encrypted}");
            assert_eq!(decrypt(engine, alice, &blob).expect_err("no answer").code(), "KMSInternalException");
            let request = DescribeKeyRequest { key_id: key.clone(), ..Default::default() };
            assert_eq!(engine.describe_key(alice, request).expect_err("no answer").code(), "KMSInternalException");
            let disabled = engine.disable_key(alice, key.as_str().into()).expect_err("no answer");
            assert_eq!(disabled.code(), "KMSInternalException");
        }
    }
}

#[test]
fn a_break_can_be_accepted_and_the_log_says_so() {
    let ways: [fn(&Bench); 3] = [
        // A home that was restored without its log.
        |bench| {
            fs::remove_dir_all(bench.home().join("audit"))
                .and_then(|()| fs::create_dir(bench.home().join("audit")))
                .expect("removed")
        },
        |bench| {
            let file = bench.home().join("audit/000001.jsonl");
            let text = fs::read_to_string(&file).expect("read");
            fs::write(&file, text.replacen("alice", "malory", 1)).expect("written");
        },
        |bench| {
            let database = rusqlite::Connection::open(bench.home().join("kms.db")).expect("opened");
            database.execute("DELETE FROM audit_head", []).expect("removed");
        },
    ];
    for (at, way) in ways.into_iter().enumerate() {
        let (bench, _) = log();
        let audit = bench.engine.audit();
        assert_eq!(audit.accept(&bench.alice).expect("looked at"), None, "nothing to accept");
        way(&bench);
        bench.describe("alias/none").expect_err("absent");
        let broken = audit.verify().expect("verified").first_break.expect("a break");
        if at == 0 {
            assert!(broken.reason.contains("are missing: their files are gone"), "{}", broken.reason);
        }
        assert_eq!(audit.accept(&bench.alice).expect("accepted").as_ref(), Some(&broken), "way {at}");
        let report = audit.verify().expect("verified");
        assert_eq!((report.first_break, report.accepted.as_ref()), (None, Some(&broken.reason)), "way {at}");
        let record = &events(&bench, "AuditBreakAccepted")[0];
        assert_eq!(record["serviceEventDetails"]["reason"], broken.reason.as_str());
        assert_eq!(record["serviceEventDetails"]["principal"], bench.alice.principal().arn());
        // It goes on: new records are in the chain, changes are found, before the acceptance too.
        let key = bench.key();
        bench.encrypt(&key, b"x").expect("encrypted");
        assert_eq!(audit.verify().expect("verified").first_break, None);
        assert_eq!(bench.another().expect("opened").audit().verify().expect("verified").first_break, None);
        let mut files: Vec<PathBuf> = fs::read_dir(bench.home().join("audit"))
            .expect("listed")
            .map(|entry| entry.expect("listed").path())
            .collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
        files.sort();
        assert!(files.len() > 1, "way {at}: {files:?}");
        for file in &files {
            let sound = fs::read_to_string(file).expect("read");
            fs::write(file, sound.replacen("eventTime", "eventTame", 1)).expect("written");
            assert!(audit.verify().expect("verified").first_break.is_some(), "way {at}: {}", file.display());
            fs::write(file, &sound).expect("written");
            fs::remove_file(file).expect("removed");
            assert!(audit.verify().expect("verified").first_break.is_some(), "way {at}: {}", file.display());
            fs::write(file, &sound).expect("written");
        }
        assert_eq!(audit.verify().expect("verified").first_break, None, "way {at}");
    }
}
