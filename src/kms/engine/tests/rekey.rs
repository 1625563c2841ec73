//! A new root key: what a copied root file with a stolen secret still opens, and a kill at every step.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::crash::{arm, die, own_copy};
use super::*;
use crate::kms::backup::{BackupError, check};
use crate::kms::crash;
use crate::kms::custody::{CustodyError, SlotKind};
use crate::kms::rekey::{Rekeyed, rekey};
use crate::kms::store::StoreError;

const START: i64 = 1_767_225_600;

/// A closed home with a key, an alias of it, and a ciphertext under it.
struct Closed {
    dir: TempDir,
    clock: Arc<ManualClock>,
    recovery: RecoveryKey,
    blob: Vec<u8>,
    backup: std::path::PathBuf,
}

impl Closed {
    fn new() -> Self {
        let bench = Bench::new();
        let key = bench.key();
        let alias = CreateAliasRequest { alias_name: "alias/a".into(), target_key_id: key.clone() };
        bench.engine.create_alias(&bench.alice, alias).expect("named");
        bench.engine.rotate_key_on_demand(&bench.alice, key.as_str().into()).expect("rotated");
        let blob = bench.encrypt(&key, b"x").expect("encrypted");
        let backup = bench.dir.path().join("backup.db");
        bench.engine.backup(&bench.alice, &backup).expect("made");
        let Bench { engine, dir, clock, recovery, .. } = bench;
        drop(engine);
        Self { dir, clock, recovery, blob, backup }
    }

    fn home(&self) -> std::path::PathBuf {
        self.dir.path().join("kms")
    }

    fn rekey(&self, unlock: &Unlock) -> Result<Rekeyed, StoreError> {
        let home = Home::unlock(&self.home(), unlock).expect("unlocked");
        rekey(&home, unlock, &*self.clock, &SystemEntropy, &|_| ())
    }

    fn open(&self, home: &Path, unlock: &Unlock) -> Result<Engine, OpenError> {
        Engine::open(home, unlock, self.clock.clone(), Arc::new(SystemEntropy))
    }
}

fn kinds(slots: &[crate::kms::custody::SlotInfo]) -> Vec<SlotKind> {
    slots.iter().map(|slot| slot.kind).collect()
}

#[test]
fn a_copied_root_file_opens_nothing_of_the_new_state() {
    let closed = Closed::new();
    let stolen = fs::read(closed.home().join("root.json")).expect("copied");
    let thief = Home::unlock(&closed.home(), &Unlock::KeyFile).expect("knows the root key");
    let done = closed.rekey(&passphrase("secret")).expect("done");
    assert_eq!(kinds(&done.kept), [SlotKind::Passphrase, SlotKind::KeyFile]);
    assert_eq!(kinds(&done.gone), [SlotKind::Recovery]);

    // Everything is there for who may have it.
    for unlock in [passphrase("secret"), Unlock::KeyFile] {
        let engine = closed.open(&closed.home(), &unlock).expect("opens");
        let alice = engine.local_caller("alice");
        assert_eq!(decrypt(&engine, &alice, &closed.blob).expect("decrypts"), b"x");
        encrypt(&engine, &alice, "alias/a", b"y").expect("goes on");
        engine.audit().flush().expect("written");
        assert_eq!(engine.audit().verify().expect("verified").first_break, None);
        let filter = crate::kms::audit::AuditFilter { event: Some("RotateRootKey".into()), ..Default::default() };
        assert_eq!(engine.audit().read(&filter).expect("read").len(), 1);
    }
    let gone = Unlock::Recovery(RecoveryKey::parse(&closed.recovery.to_text()).expect("readable"));
    let refused = closed.open(&closed.home(), &gone).map(drop).expect_err("its slot is gone");
    assert!(matches!(refused, OpenError::Custody(CustodyError::WrongSecret(SlotKind::Recovery))), "{refused}");
    let ended = check(&Home::unlock(&closed.home(), &Unlock::KeyFile).expect("unlocked"), &closed.backup);
    assert!(matches!(ended, Err(BackupError::Store(StoreError::EpochGone { .. }))), "{ended:?}");

    // The thief has the old root file, the secrets of all its slots, and the database of today.
    let refused = thief.read_root().map(drop).expect_err("another root key");
    assert!(refused.to_string().contains("without the root key"), "{refused}");
    let today: serde_json::Value =
        serde_json::from_slice(&fs::read(closed.home().join("root.json")).expect("read")).expect("JSON");
    let body = serde_json::from_value(today["body"].clone()).expect("a body");
    assert!(thief.domain_keys(&body, 2).is_none(), "the new domain key is not under the old root key");
    let copy = closed.dir.path().join("copy");
    assert!(Command::new("cp").arg("-a").arg(closed.home()).arg(&copy).status().expect("cp").success());
    fs::write(copy.join("root.json"), stolen).expect("written");
    for unlock in [passphrase("secret"), Unlock::KeyFile, gone] {
        let refused = closed.open(&copy, &unlock).map(drop).expect_err("of another epoch");
        assert!(matches!(refused, OpenError::Store(StoreError::EpochGone { epoch: 2, .. })), "{refused}");
        let home = Home::unlock(&copy, &unlock).expect("the old root file is sound");
        let accepted = Engine::start_accepting(home, closed.clock.clone(), Arc::new(SystemEntropy));
        assert!(accepted.is_err(), "nor can it be accepted");
    }
}

#[test]
fn a_recovery_key_that_unlocks_stays() {
    let closed = Closed::new();
    fs::remove_file(closed.home().join("domain.key")).expect("removed");
    let unlock = || Unlock::Recovery(RecoveryKey::parse(&closed.recovery.to_text()).expect("readable"));
    let home = Home::unlock(&closed.home(), &unlock()).expect("unlocked");
    let done = rekey(&home, &unlock(), &*closed.clock, &SystemEntropy, &|_| panic!("no other is made")).expect("done");
    assert_eq!(kinds(&done.kept), [SlotKind::Recovery]);
    assert_eq!(kinds(&done.gone), [SlotKind::Passphrase, SlotKind::KeyFile]);
    drop(done);
    let engine = closed.open(&closed.home(), &unlock()).expect("opens");
    assert_eq!(decrypt(&engine, &engine.local_caller("alice"), &closed.blob).expect("decrypts"), b"x");
}

#[test]
fn nothing_else_may_use_the_home_meanwhile() {
    let closed = Closed::new();
    let before = fs::read(closed.home().join("root.json")).expect("read");
    let engine = closed.open(&closed.home(), &Unlock::KeyFile).expect("opens");
    let refused = closed.rekey(&passphrase("secret")).map(drop).expect_err("in use");
    assert!(matches!(refused, StoreError::InUse(_)), "{refused}");
    let alice = engine.local_caller("alice");
    encrypt(&engine, &alice, "alias/a", b"y").expect("goes on");
    drop(engine);
    assert_eq!(fs::read(closed.home().join("root.json")).expect("read"), before);
    closed.rekey(&passphrase("secret")).expect("nobody else now");
}

#[test]
fn a_commit_that_fails_leaves_everything_as_it_was() {
    let closed = Closed::new();
    let before = fs::read(closed.home().join("root.json")).expect("read");
    let home = Home::unlock(&closed.home(), &Unlock::KeyFile).expect("unlocked");
    let reader = rusqlite::Connection::open(closed.home().join("kms.db")).expect("opened");
    // Somebody who does not know the home's lock reads the database: it cannot be written then.
    let read = |_: &RecoveryKey| reader.execute_batch("BEGIN; SELECT * FROM meta").expect("reads");
    let failed = rekey(&home, &Unlock::KeyFile, &*closed.clock, &SystemEntropy, &read).map(drop);
    let failed = failed.expect_err("the database is locked");
    assert!(matches!(failed, StoreError::Sqlite(_)), "{failed:?}");
    drop(reader);
    assert_eq!(fs::read(closed.home().join("root.json")).expect("read"), before);
    let recovery = || Unlock::Recovery(RecoveryKey::parse(&closed.recovery.to_text()).expect("readable"));
    for unlock in [passphrase("secret"), Unlock::KeyFile, recovery()] {
        let engine = closed.open(&closed.home(), &unlock).expect("opens");
        assert_eq!(decrypt(&engine, &engine.local_caller("alice"), &closed.blob).expect("decrypts"), b"x");
    }
    closed.rekey(&recovery()).expect("nobody reads now");
}

/// Runs in a process of its own, which is killed at the point that the environment names.
#[test]
fn the_process_that_dies_rekeying() {
    let Some(dir) = own_copy() else { return };
    let clock = ManualClock::new(Timestamp::from_secs(START));
    let home = Home::unlock(&dir.join("kms"), &Unlock::KeyFile).expect("unlocked");
    arm();
    let announce = |key: &RecoveryKey| fs::write(dir.join("recovery"), key.to_text().as_bytes()).expect("written");
    rekey(&home, &Unlock::KeyFile, &clock, &SystemEntropy, &announce).expect("done");
    crash::arm(0);
    fs::write(dir.join("acknowledged"), b"").expect("written");
}

#[test]
fn a_home_survives_a_kill_at_every_step() {
    let closed = Closed::new();
    let old = fs::read(closed.home().join("root.json")).expect("read");
    let mut points = 0;
    for at in 1.. {
        let (dir, killed) = die("rekey::the_process_that_dies_rekeying", &closed.home(), at);
        let home = dir.path().join("kms");
        let done = dir.path().join("acknowledged").exists();
        assert_ne!(killed, done, "point {at}");
        // A recovery key that was shown opens it, that of before or the new one; never both.
        let announced = fs::read_to_string(dir.path().join("recovery")).ok();
        let shown = [Some(closed.recovery.to_text().to_string()), announced].into_iter().flatten();
        let opening = shown.filter(|text| {
            let key = RecoveryKey::parse(text).expect("readable");
            Home::unlock(&home, &Unlock::Recovery(key)).is_ok()
        });
        assert_eq!(opening.count(), 1, "point {at}");
        let engine = closed.open(&home, &Unlock::KeyFile).unwrap_or_else(|error| panic!("point {at}: {error}"));
        let alice = engine.local_caller("alice");
        assert_eq!(decrypt(&engine, &alice, &closed.blob).expect("decrypts"), b"x", "point {at}");
        encrypt(&engine, &alice, "alias/a", b"y").expect("goes on");
        assert_eq!(engine.audit().verify().expect("verified").first_break, None, "point {at}");
        drop(engine);
        let root: serde_json::Value =
            serde_json::from_slice(&fs::read(home.join("root.json")).expect("read")).expect("JSON");
        let list = |name: &str| root["body"][name].as_array().map(Vec::len);
        assert_eq!((list("states"), list("domains")), (Some(1), Some(1)), "point {at}");
        // Whatever was half done, it can be done again; then the old root file opens nothing.
        if killed {
            points = at;
            let again = Home::unlock(&home, &Unlock::KeyFile).expect("unlocked");
            rekey(&again, &Unlock::KeyFile, &*closed.clock, &SystemEntropy, &|_| ()).expect("done");
        }
        fs::write(home.join("root.json"), &old).expect("written");
        let refused = closed.open(&home, &Unlock::KeyFile).map(drop).expect_err("the old root key");
        assert!(matches!(refused, OpenError::Store(StoreError::EpochGone { .. })), "point {at}: {refused}");
        if !killed {
            break;
        }
    }
    assert!(points >= 9, "{points} points");
}
