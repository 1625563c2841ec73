//! The store under many keys and several processes: what is read again, and that nothing is missed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::*;
use crate::kms::backup::{BackupError, check};
use crate::kms::store::StoreError;

fn sql(bench: &Bench, text: &str) {
    let database = rusqlite::Connection::open(bench.home().join("kms.db")).expect("opened");
    database.execute_batch(text).expect(text);
}

fn alias(engine: &Engine, caller: &Caller, name: &str, key: &str) {
    let request = CreateAliasRequest { alias_name: format!("alias/{name}"), target_key_id: key.to_owned() };
    engine.create_alias(caller, request).expect("created");
}

fn delete_alias(engine: &Engine, caller: &Caller, name: &str) {
    engine.delete_alias(caller, DeleteAliasRequest { alias_name: format!("alias/{name}") }).expect("deleted");
}

fn aliases(engine: &Engine, caller: &Caller) -> Vec<String> {
    let listed = engine.list_aliases(caller, ListAliasesRequest::default()).expect("listed");
    listed.aliases.into_iter().map(|alias| alias.alias_name).collect()
}

#[test]
fn deletions_by_another_process_are_seen() {
    let bench = Bench::new();
    let other = bench.another().expect("opened");
    let key = bench.key();
    for name in ["a", "b", "c"] {
        alias(&bench.engine, &bench.alice, name, &key);
    }
    assert_eq!(aliases(&other, &bench.alice), ["alias/a", "alias/b", "alias/c"]);
    delete_alias(&bench.engine, &bench.alice, "a");
    delete_alias(&bench.engine, &bench.alice, "b");
    alias(&bench.engine, &bench.alice, "b", &key);
    assert_eq!(aliases(&other, &bench.alice), ["alias/b", "alias/c"]);
    delete_alias(&other, &bench.alice, "b");
    assert_eq!(aliases(&bench.engine, &bench.alice), ["alias/c"]);
}

/// The log of deletions is a help, not a source of truth: without it, or with lies in it, the digest tells.
#[test]
fn a_log_of_deletions_that_is_wrong_does_no_harm() {
    for harm in [
        "DELETE FROM deletions",
        "UPDATE deletions SET id = 'us-east-1/000000000000/alias/kept'",
        "UPDATE deletions SET place = 'unknown'",
        "UPDATE meta SET value = 1000000 WHERE name = 'deletions_forgotten'",
        "DELETE FROM meta WHERE name = 'deletions_forgotten'",
    ] {
        let bench = Bench::new();
        let other = bench.another().expect("opened");
        let key = bench.key();
        alias(&bench.engine, &bench.alice, "gone", &key);
        alias(&bench.engine, &bench.alice, "kept", &key);
        assert_eq!(aliases(&other, &bench.alice).len(), 2);
        delete_alias(&bench.engine, &bench.alice, "gone");
        sql(&bench, harm);
        assert_eq!(aliases(&other, &bench.alice), ["alias/kept"], "{harm}");
    }
}

#[test]
fn the_log_of_deletions_forgets() {
    let bench = Bench::new();
    let other = bench.another().expect("opened");
    let key = bench.key();
    alias(&bench.engine, &bench.alice, "first", &key);
    assert_eq!(aliases(&other, &bench.alice).len(), 1);
    delete_alias(&bench.engine, &bench.alice, "first");
    // As if many changes had been made since: an honest jump of the revision needs its digest, so the note is aged.
    sql(
        &bench,
        "UPDATE deletions SET revision = -5000; UPDATE meta SET value = -4000 WHERE name = 'deletions_forgotten'",
    );
    alias(&bench.engine, &bench.alice, "second", &key);
    delete_alias(&bench.engine, &bench.alice, "second");
    assert_eq!(aliases(&other, &bench.alice), Vec::<String>::new());
}

#[test]
fn indexes_follow_their_rows() {
    let bench = Bench::new();
    let other = bench.another().expect("opened");
    let (one, two) = (bench.key(), bench.key());
    alias(&bench.engine, &bench.alice, "moving", &one);
    let of = |engine: &Engine, key: &str| {
        let request = ListAliasesRequest { key_id: Some(key.to_owned()), ..Default::default() };
        engine.list_aliases(&bench.alice, request).expect("listed").aliases.len()
    };
    assert_eq!([of(&other, &one), of(&other, &two)], [1, 0]);
    let request = UpdateAliasRequest { alias_name: "alias/moving".into(), target_key_id: two.clone() };
    bench.engine.update_alias(&bench.alice, request).expect("moved");
    assert_eq!([of(&other, &one), of(&other, &two)], [0, 1]);
    let count = |engine: &Engine| {
        engine.shared.store.current().expect("current").count_customer_keys("us-east-1", "000000000000")
    };
    assert_eq!([count(&bench.engine), count(&other)], [2, 2]);
    bench.describe("alias/aws/kmsfs").expect("made by the way");
    bench.schedule(&one, 7).expect("scheduled");
    assert_eq!([count(&bench.engine), count(&other)], [2, 2]);
    bench.days(8);
    bench.engine.maintain().expect("observed");
    bench.hours(2);
    bench.engine.maintain().expect("deleted");
    assert_eq!([count(&bench.engine), count(&other)], [1, 1]);
    assert_eq!(count(&bench.another().expect("read anew")), 1);
}

#[test]
fn lists_go_on_where_they_were() {
    let bench = Bench::new();
    let mut keys: Vec<String> = (0..7).map(|_| bench.key()).collect();
    keys.sort();
    for key in &keys {
        alias(&bench.engine, &bench.alice, key, key);
    }
    let (mut listed, mut marker) = (Vec::new(), None);
    loop {
        let request = ListKeysRequest { limit: Some(2), marker: marker.take(), ..Default::default() };
        let page = bench.engine.list_keys(&bench.alice, request).expect("listed");
        listed.extend(page.keys.into_iter().map(|key| key.key_id));
        assert_eq!(page.truncated, page.next_marker.is_some());
        match page.next_marker {
            Some(next) => marker = Some(next),
            None => break,
        }
    }
    assert_eq!(listed, keys);
    let first = ListAliasesRequest { limit: Some(4), ..Default::default() };
    let page = bench.engine.list_aliases(&bench.alice, first).expect("listed");
    let rest = ListAliasesRequest { marker: page.next_marker, ..Default::default() };
    let rest = bench.engine.list_aliases(&bench.alice, rest).expect("listed");
    let names: Vec<_> = page.aliases.iter().chain(&rest.aliases).map(|alias| alias.target_key_id.clone()).collect();
    assert_eq!(names, keys);
}

/// A home that the first version made, opened by this one: schema version 1, in the museum.
fn old_home() -> (TempDir, std::path::PathBuf, Value) {
    let museum = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/museum/home-v1");
    let dir = directory();
    let home = dir.path().join("kms");
    for folder in ["", "audit"] {
        fs::create_dir_all(home.join(folder)).expect("made");
        fs::set_permissions(home.join(folder), fs::Permissions::from_mode(0o700)).expect("private");
        for entry in fs::read_dir(museum.join(folder)).expect("listed") {
            let entry = entry.expect("entry");
            if entry.file_type().expect("type").is_file() {
                fs::copy(entry.path(), home.join(folder).join(entry.file_name())).expect("copied");
            }
        }
    }
    let expected = fs::read(home.join("expected.json")).expect("read");
    (dir, home, serde_json::from_slice(&expected).expect("JSON"))
}

#[test]
fn a_home_made_before_opens() {
    let (_dir, path, expected) = old_home();
    let text = |name: &str| expected[name].as_str().expect(name).to_owned();
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(expected["now"].as_i64().expect("seconds"))));
    let unlock = Unlock::Recovery(RecoveryKey::parse(&text("recovery")).expect("readable"));
    let open = || Engine::open(&path, &unlock, clock.clone(), Arc::new(SystemEntropy)).expect("opened");
    let engine = open();
    let alice = engine.local_caller("alice");
    for (blob, plain) in [("blob", "sealed by version 1"), ("newer", "after the rotation")] {
        let blob = data_encoding::BASE64.decode(text(blob).as_bytes()).expect("base64");
        assert_eq!(decrypt(&engine, &alice, &blob), Ok(plain.as_bytes().to_vec()));
    }
    let code = |key: &str| encrypt(&engine, &alice, &text(key), b"x").map_err(|error| error.code()).err();
    assert_eq!(
        [code("first"), code("second"), code("doomed")],
        [None, Some("DisabledException"), Some("NotFoundException")]
    );
    assert_eq!(aliases(&engine, &alice), ["alias/aws/kmsfs", "alias/old"]);
    let volumes = engine.registry().list().expect("listed");
    assert_eq!((volumes.len(), volumes[0].config_seq), (1, 5));
    // Its backups are as good as ever: the program that made it did not write which rows belong together; the first change does.
    let backup = |name: &str| {
        engine.backup(&alice, &path.join(name)).expect("made");
        rusqlite::Connection::open(path.join(name)).expect("opened")
    };
    let count = |of: &rusqlite::Connection| of.query_row("SELECT count(*) FROM whole", [], |row| row.get::<_, u32>(0));
    assert_eq!(count(&backup("before")), Ok(0));
    // It goes on as any other: changes, another process, the audit chain from its first record.
    let other = open();
    delete_alias(&engine, &alice, "old");
    let after = backup("after");
    assert_eq!(count(&after), Ok(1));
    after.execute("UPDATE meta SET value = value + 1 WHERE name = 'revision'", []).expect("forged");
    let home = Home::unlock(&path, &unlock).expect("unlocked");
    let checked = |name: &str| check(&home, &path.join(name)).map(|found| found.current);
    assert!(matches!(checked("before"), Ok(false)));
    assert!(matches!(checked("after"), Err(BackupError::Store(StoreError::Damaged { .. }))));
    assert_eq!(aliases(&other, &alice), ["alias/aws/kmsfs"]);
    let report = engine.audit().verify().expect("verified");
    assert_eq!((report.first_break, report.files), (None, 2));
    drop((engine, other));
    open();
}

#[test]
fn a_schema_from_the_future_is_refused() {
    let bench = Bench::new();
    sql(&bench, "PRAGMA user_version = 1000");
    let error = bench.another().map(drop).expect_err("refused");
    assert!(matches!(error, OpenError::Store(StoreError::Newer { version: 1000, .. })), "{error}");
    sql(&bench, "PRAGMA user_version = 0");
    let error = bench.another().map(drop).expect_err("refused");
    assert!(matches!(error, OpenError::Store(StoreError::Damaged { .. })), "{error}");
}

/// What is read of a key when a home is opened is its proof; the rest waits until somebody asks.
#[test]
fn keys_wait_until_they_are_asked_for() {
    let bench = Bench::new();
    let mut keys: Vec<String> = (0..9).map(|_| bench.key()).collect();
    let blobs: Vec<Vec<u8>> = keys.iter().map(|key| bench.encrypt(key, key.as_bytes()).expect("encrypted")).collect();
    bench.engine.disable_key(&bench.alice, keys[1].as_str().into()).expect("disabled");
    let enable = EnableKeyRotationRequest { key_id: keys[2].clone(), rotation_period_in_days: Some(90) };
    bench.engine.enable_key_rotation(&bench.alice, enable).expect("enabled");
    let other = bench.another().expect("opened");
    let read = || other.shared.store.current().expect("current").keys_read();
    assert_eq!(read(), 0);
    assert_eq!(decrypt(&other, &bench.alice, &blobs[0]), Ok(keys[0].clone().into_bytes()));
    assert_eq!(read(), 1);
    let refused = decrypt(&other, &bench.alice, &blobs[1]).expect_err("disabled");
    assert_eq!((refused.code(), read()), ("DisabledException", 2));
    // Changes by others, and by time, find keys that nobody has asked for here.
    bench.engine.disable_key(&bench.alice, keys[3].as_str().into()).expect("disabled");
    assert_eq!(decrypt(&other, &bench.alice, &blobs[3]).expect_err("disabled").code(), "DisabledException");
    bench.engine.enable_key(&bench.alice, keys[3].as_str().into()).expect("enabled");
    bench.days(100);
    other.maintain().expect("rotated");
    assert_eq!(bench.rotations(&keys[2]).len(), 1);
    assert_eq!(decrypt(&other, &bench.alice, &blobs[2]), Ok(keys[2].clone().into_bytes()));
    keys.sort();
    let listed = other.list_keys(&bench.alice, ListKeysRequest::default()).expect("listed");
    assert_eq!(listed.keys.iter().map(|key| key.key_id.clone()).collect::<Vec<_>>(), keys);
    // And what is made afterwards stands in the order too.
    keys.push(bench.key());
    keys.sort();
    let listed = other.list_keys(&bench.alice, ListKeysRequest::default()).expect("listed");
    assert_eq!(listed.keys.into_iter().map(|key| key.key_id).collect::<Vec<_>>(), keys);
}

/// A new epoch ends the domain key under which the rows of keys that nobody has asked for are sealed.
#[test]
fn keys_that_waited_outlive_an_epoch() {
    let bench = Bench::new();
    let (doomed, key) = (bench.key(), bench.key());
    let blob = bench.encrypt(&key, b"x").expect("encrypted");
    bench.schedule(&doomed, 7).expect("scheduled");
    let other = bench.another().expect("opened");
    bench.days(8);
    other.maintain().expect("observed");
    bench.hours(2);
    other.maintain().expect("deleted");
    assert_eq!(other.shared.store.current().expect("current").keys_read(), 2, "also the tombstone");
    assert_eq!(decrypt(&other, &bench.alice, &blob), Ok(b"x".to_vec()));
    assert_eq!(decrypt(&bench.engine, &bench.alice, &blob), Ok(b"x".to_vec()));
    drop(other);
    assert_eq!(decrypt(&bench.another().expect("opened"), &bench.alice, &blob), Ok(b"x".to_vec()));
}

/// A table without its primary key could hold an old row beside the present one.
#[test]
fn a_row_that_is_there_twice_is_refused() {
    let bench = Bench::new();
    let key = bench.key();
    sql(&bench, "CREATE TABLE old AS SELECT * FROM keys");
    bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("disabled");
    sql(
        &bench,
        "PRAGMA foreign_keys = OFF; CREATE TABLE both AS SELECT * FROM old UNION ALL SELECT * FROM keys;
         DROP TABLE keys; ALTER TABLE both RENAME TO keys; DROP TABLE old;",
    );
    let error = bench.another().map(drop).expect_err("refused");
    assert!(error.to_string().contains("is there twice"), "{error}");
}
