//! The end of a key: what is gone, what stays, and what copies can bring back.

use std::fs;

use super::*;
use crate::kms::store::StoreError;

/// Deletes `key` and waits for the end of its window.
fn delete(bench: &Bench, key: &str) {
    bench.schedule(key, 7).expect("scheduled");
    bench.days(8);
    bench.engine.maintain().expect("observed");
    bench.hours(2);
    bench.engine.maintain().expect("deleted");
}

pub fn copy_database(bench: &Bench, to: &std::path::Path) {
    let source = rusqlite::Connection::open(bench.home().join("kms.db")).expect("opened");
    let mut target = rusqlite::Connection::open(to).expect("opened");
    let backup = rusqlite::backup::Backup::new(&source, &mut target).expect("backup");
    backup.run_to_completion(100, std::time::Duration::ZERO, None).expect("copied");
}

pub fn restore_database(home: &std::path::Path, from: &std::path::Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(home.join(format!("kms.db{suffix}")));
    }
    fs::copy(from, home.join("kms.db")).expect("restored");
}

#[test]
fn a_deleted_key_leaves_a_tombstone_and_others_live_on() {
    let bench = Bench::new();
    let (doomed, other) = (bench.key(), bench.key());
    let arn = bench.describe(&doomed).expect("there").arn;
    let request = CreateAliasRequest { alias_name: "alias/doomed".into(), target_key_id: doomed.clone() };
    bench.engine.create_alias(&bench.alice, request).expect("created");
    let lost = bench.encrypt(&doomed, b"lost").expect("encrypted");
    let kept = bench.encrypt(&other, b"kept").expect("encrypted");
    delete(&bench, &doomed);

    let gone = format!("Key '{arn}' does not exist");
    assert_eq!(bench.describe(&doomed), Err(KmsError::NotFound(gone.clone())));
    assert_eq!(bench.decrypt(&lost), Err(KmsError::NotFound(gone)));
    assert_eq!(bench.describe("alias/doomed").expect_err("gone").code(), "NotFoundException");
    let request = ExplainRequest { key_id: Some(doomed.clone()), action: "Decrypt".into(), ..Default::default() };
    assert_eq!(bench.engine.explain(&bench.alice, &request).expect_err("gone").code(), "NotFoundException");
    let late = bench.engine.cancel_key_deletion(&bench.alice, doomed.as_str().into()).expect_err("too late");
    assert_eq!(late.code(), "NotFoundException");
    let keys = bench.engine.list_keys(&bench.alice, ListKeysRequest::default()).expect("listed").keys;
    assert_eq!(keys.iter().map(|key| key.key_id.as_str()).collect::<Vec<_>>(), [other.as_str()]);
    assert_eq!(bench.decrypt(&kept), Ok(b"kept".to_vec()));
    let again = bench.another().expect("the new epoch opens");
    assert_eq!(decrypt(&again, &bench.alice, &kept), Ok(b"kept".to_vec()));
    assert!(bench.engine.audit().verify().expect("verified").first_break.is_none());
}

#[test]
fn the_sealed_material_is_gone_from_the_files() {
    let bench = Bench::new();
    let doomed = bench.key();
    let database = rusqlite::Connection::open(bench.home().join("kms.db")).expect("opened");
    let sealed: Vec<u8> = database.query_row("SELECT sealed FROM materials", [], |row| row.get(0)).expect("one");
    drop(database);
    let found = || {
        ["kms.db", "kms.db-wal"].iter().any(|name| {
            let bytes = fs::read(bench.home().join(name)).unwrap_or_default();
            bytes.windows(sealed.len()).any(|window| window == sealed)
        })
    };
    assert!(found());
    delete(&bench, &doomed);
    assert!(!found());
}

#[test]
fn an_older_database_yields_nothing_after_a_deletion() {
    let bench = Bench::new();
    let doomed = bench.key();
    let lost = bench.encrypt(&doomed, b"lost").expect("encrypted");
    let copy = bench.dir.path().join("copy.db");
    copy_database(&bench, &copy);
    delete(&bench, &doomed);
    let Bench { dir, clock, engine, .. } = bench;
    drop(engine);
    let home = dir.path().join("kms");
    restore_database(&home, &copy);
    let opened = Engine::open(&home, &passphrase("secret"), clock.clone(), Arc::new(SystemEntropy));
    assert!(matches!(opened.map(drop), Err(OpenError::Store(StoreError::EpochGone { epoch: 1, .. }))));
    // Not even for somebody who accepts the old state: the domain key of that epoch is nowhere.
    let home = Home::unlock(&home, &passphrase("secret")).expect("unlocked");
    let accepted = Engine::start_accepting(home, clock, Arc::new(SystemEntropy));
    assert!(matches!(accepted.map(drop), Err(OpenError::Store(StoreError::EpochGone { .. }))));
    assert!(!lost.is_empty());
}

#[test]
fn a_rolled_back_database_is_refused_and_can_be_accepted() {
    let bench = Bench::new();
    let key = bench.key();
    let copy = bench.dir.path().join("copy.db");
    copy_database(&bench, &copy);
    bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("disabled");
    let Bench { dir, clock, engine, alice, .. } = bench;
    drop(engine);
    let path = dir.path().join("kms");
    restore_database(&path, &copy);
    let opened = Engine::open(&path, &passphrase("secret"), clock.clone(), Arc::new(SystemEntropy));
    let error = opened.map(drop).expect_err("refused");
    assert!(matches!(&error, OpenError::Store(StoreError::NotCurrent { .. })), "{error}");
    assert!(error.to_string().contains("accept it with: kmsfs doctor --accept-database"), "{error}");
    let home = Home::unlock(&path, &passphrase("secret")).expect("unlocked");
    let engine = Engine::start_accepting(home, clock.clone(), Arc::new(SystemEntropy)).expect("accepted");
    assert!(encrypt(&engine, &alice, &key, b"x").is_ok());
    drop(engine);
    Engine::open(&path, &passphrase("secret"), clock, Arc::new(SystemEntropy)).expect("the accepted state counts");
}

#[test]
fn one_old_row_put_back_is_noticed() {
    let bench = Bench::new();
    let key = bench.key();
    let database = rusqlite::Connection::open(bench.home().join("kms.db")).expect("opened");
    let row = "SELECT revision, record, mac FROM keys";
    let old: (i64, String, Vec<u8>) =
        database.query_row(row, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("one key");
    bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("disabled");
    database
        .execute("UPDATE keys SET revision = ?1, record = ?2, mac = ?3", rusqlite::params![old.0, old.1, old.2])
        .expect("put back");
    let error = bench.another().map(drop).expect_err("refused");
    assert!(matches!(error, OpenError::Store(StoreError::NotCurrent { .. })), "{error}");
    database.execute("UPDATE keys SET record = replace(record, 'Disabled', 'Enabled')", []).expect("edited");
    database.execute("UPDATE keys SET record = replace(record, 'Enabled', 'Disabled')", []).expect("edited");
    let error = bench.another().map(drop).expect_err("refused");
    assert!(matches!(error, OpenError::Store(StoreError::Damaged { .. })), "{error}");
}

#[test]
fn an_interrupted_change_of_epoch_is_finished_at_opening() {
    let bench = Bench::new();
    let (doomed, other) = (bench.key(), bench.key());
    let kept = bench.encrypt(&other, b"kept").expect("encrypted");
    let copy = bench.dir.path().join("copy.db");
    copy_database(&bench, &copy);
    let root = bench.home().join("root.json");
    let before: serde_json::Value = serde_json::from_slice(&fs::read(&root).expect("read")).expect("JSON");
    delete(&bench, &doomed);
    let after: serde_json::Value = serde_json::from_slice(&fs::read(&root).expect("read")).expect("JSON");
    assert_eq!(after["body"]["domains"].as_array().map(Vec::len), Some(1));
    assert_eq!((&before["body"]["domains"][0]["epoch"], &after["body"]["domains"][0]["epoch"]), (&1.into(), &2.into()));

    // As after a crash between the first root file and the commit: both epochs, the old database.
    let home = Home::unlock(&bench.home(), &passphrase("secret")).expect("unlocked");
    let mut body = home.read_root().expect("read");
    for (list, value) in [("domains", 0), ("states", 0)] {
        let old = before["body"][list][value].clone();
        match list {
            "domains" => body.domains.insert(0, serde_json::from_value(old).expect("a domain")),
            _ => body.states.insert(0, serde_json::from_value(old).expect("a state")),
        }
    }
    let Bench { dir, clock, engine, alice, .. } = bench;
    drop(engine);
    home.write_root(&home.lock().expect("locked"), &body).expect("written");
    restore_database(&dir.path().join("kms"), &copy);
    // Opening is the second observation of a believable clock: the deletion, pending in neither copy, is not repeated.
    let engine = Engine::start(home, clock, Arc::new(SystemEntropy)).expect("opened");
    assert_eq!(decrypt(&engine, &alice, &kept), Ok(b"kept".to_vec()));
    let settled: serde_json::Value = serde_json::from_slice(&fs::read(&root).expect("read")).expect("JSON");
    assert_eq!(settled["body"]["domains"].as_array().map(Vec::len), Some(1));
    assert_eq!(settled["body"]["domains"][0]["epoch"], 1);
}
