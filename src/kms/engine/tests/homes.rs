//! Custody through the engine: secrets, slots, damage.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::kms::custody::{CustodyError, SlotKind};
use crate::sys::failing_disk::{FailingDisk, Left};

fn open(bench: &Bench, unlock: &Unlock) -> Result<(), OpenError> {
    Engine::open(&bench.home(), unlock, bench.clock.clone(), Arc::new(SystemEntropy)).map(drop)
}

#[test]
fn every_slot_opens_and_a_wrong_secret_is_no_damage() {
    let bench = Bench::new();
    open(&bench, &passphrase("secret")).expect("passphrase");
    open(&bench, &Unlock::KeyFile).expect("key file");
    let text = bench.recovery.to_text();
    open(&bench, &Unlock::Recovery(RecoveryKey::parse(&text).expect("readable"))).expect("recovery key");
    let wrong = open(&bench, &passphrase("Secret")).expect_err("wrong");
    assert!(matches!(wrong, OpenError::Custody(CustodyError::WrongSecret(SlotKind::Passphrase))), "{wrong}");
    let other = Unlock::Recovery(RecoveryKey::parse(&Bench::new().recovery.to_text()).expect("readable"));
    let wrong = open(&bench, &other).expect_err("wrong");
    assert!(matches!(wrong, OpenError::Custody(CustodyError::WrongSecret(SlotKind::Recovery))), "{wrong}");
}

#[test]
fn nothing_there_is_said_so_and_nothing_is_overwritten() {
    let bench = Bench::new();
    let nowhere = bench.dir.path().join("nowhere");
    let missing = Home::unlock(&nowhere, &passphrase("secret")).map(drop).expect_err("nothing");
    assert!(matches!(missing, CustodyError::NotInitialised(_)), "{missing}");
    let new = || NewHome::with_slots(vec![NewSlot::Passphrase("new".into(), CHEAP)]);
    let again = Home::create(&bench.home(), new(), &*bench.clock, &SystemEntropy).map(drop);
    assert!(matches!(again, Err(CustodyError::Refused(_))));
    for lost in ["root.json", "kms.db"] {
        let kept = bench.dir.path().join("kept");
        fs::rename(bench.home().join(lost), &kept).expect("moved");
        let damaged = open(&bench, &passphrase("secret")).expect_err("half a home");
        assert!(matches!(damaged, OpenError::Custody(CustodyError::Damaged { .. })), "{damaged}");
        let again = Home::create(&bench.home(), new(), &*bench.clock, &SystemEntropy).map(drop);
        assert!(matches!(again, Err(CustodyError::Refused(_))), "{lost} must not be re-created");
        fs::rename(&kept, bench.home().join(lost)).expect("moved back");
    }
    open(&bench, &passphrase("secret")).expect("whole again");
}

#[test]
fn a_home_that_lost_its_root_file_and_its_database_is_not_taken_for_an_empty_one() {
    let bench = Bench::new();
    let Bench { engine, dir, clock, .. } = bench;
    drop(engine);
    let (home, kept) = (dir.path().join("kms"), dir.path().join("kept"));
    fs::create_dir(&kept).expect("made");
    let key_file = fs::read(home.join("domain.key")).expect("there");
    let to_and_fro = |from: &std::path::Path, to: &std::path::Path| {
        for file in ["root.json", "kms.db"] {
            fs::rename(from.join(file), to.join(file)).expect("moved");
        }
    };
    to_and_fro(&home, &kept);
    let create = || Home::create(&home, NewHome::with_slots(vec![NewSlot::KeyFile]), &*clock, &SystemEntropy).map(drop);
    let refused = create().expect_err("traces of a key manager");
    assert!(refused.to_string().contains("domain.key is left of a key manager"), "{refused}");
    fs::rename(home.join("domain.key"), kept.join("domain.key")).expect("moved");
    let refused = create().expect_err("the log is a trace too");
    assert!(refused.to_string().contains("000001.jsonl is left of a key manager"), "{refused}");
    fs::rename(kept.join("domain.key"), home.join("domain.key")).expect("moved");
    assert_eq!(fs::read(home.join("domain.key")).expect("there"), key_file);
    to_and_fro(&kept, &home);
    let engine = Engine::open(&home, &Unlock::KeyFile, clock.clone(), Arc::new(SystemEntropy)).expect("as it was");

    // Nor does a new slot take the place of a file that may open a copy.
    let alice = engine.local_caller("alice");
    let slot = engine.slots().expect("there").into_iter().find(|slot| slot.kind == SlotKind::KeyFile).expect("there");
    engine.remove_slot(&alice, slot.id).expect("removed");
    fs::write(home.join("domain.key"), &key_file).expect("of another time");
    let refused = engine.add_slot(&alice, NewSlot::KeyFile).map(drop).expect_err("it is there");
    assert!(refused.to_string().contains("belongs to no slot"), "{refused}");
    assert_eq!(fs::read(home.join("domain.key")).expect("there"), key_file);
}

#[test]
fn an_unfinished_creation_is_begun_anew() {
    let bench = Bench::new();
    let dir = bench.dir.path().join("second");
    fs::create_dir(&dir).expect("made");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("private");
    for name in ["creating", "kms.db"] {
        fs::write(dir.join(name), b"").expect("written");
    }
    assert!(!Home::exists(&dir).expect("looked"));
    let new = NewHome::with_slots(vec![NewSlot::Passphrase("new".into(), CHEAP)]);
    Home::create(&dir, new, &*bench.clock, &SystemEntropy).expect("created");
    assert!(Home::exists(&dir).expect("looked"));
    Home::unlock(&dir, &passphrase("new")).expect("unlocked");
}

#[test]
fn damage_is_told_from_a_wrong_secret() {
    let bench = Bench::new();
    let root = bench.home().join("root.json");
    let sound = fs::read(&root).expect("read");
    let text = String::from_utf8(sound.clone()).expect("JSON");
    let at = text.find("\"wrapped\": \"").expect("a slot") + 20;
    let mut flipped = sound.clone();
    flipped[at] = if flipped[at] == b'0' { b'1' } else { b'0' };
    for bad in [flipped, sound[..sound.len() / 2].to_vec(), Vec::new(), vec![0; 4096]] {
        fs::write(&root, bad).expect("written");
        let damaged = open(&bench, &passphrase("secret")).expect_err("damaged");
        assert!(matches!(damaged, OpenError::Custody(CustodyError::Damaged { .. })), "{damaged}");
    }
    fs::write(&root, &sound).expect("written");
    open(&bench, &passphrase("secret")).expect("whole again");

    let database = bench.home().join("kms.db");
    let Bench { dir, clock, engine, .. } = bench;
    drop(engine);
    let sound = fs::read(&database).expect("read");
    let opened = |bytes: &[u8]| {
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(dir.path().join("kms").join(format!("kms.db{suffix}")));
        }
        fs::write(&database, bytes).expect("written");
        Engine::open(&dir.path().join("kms"), &passphrase("secret"), clock.clone(), Arc::new(SystemEntropy)).map(drop)
    };
    for at in (0..sound.len()).step_by(4096) {
        let mut bad = sound.clone();
        bad[at..at + 64].fill(0xff);
        assert!(matches!(opened(&bad), Err(OpenError::Store(_) | OpenError::Audit(_))), "page at {at}");
    }
    assert!(opened(&sound[..sound.len() / 2]).is_err());
    assert!(opened(b"").is_err());
    opened(&sound).expect("whole again");
}

#[test]
fn a_root_file_written_without_the_root_key_is_refused() {
    let bench = Bench::new();
    let root = bench.home().join("root.json");
    let mut file: serde_json::Value = serde_json::from_slice(&fs::read(&root).expect("read")).expect("JSON");
    file["body"]["account"] = "111111111111".into();
    // As an attacker would: with the unkeyed checksum made right.
    let body = serde_json::to_vec(&file["body"]).expect("JSON");
    file["sha256"] = data_encoding::HEXLOWER.encode(&crate::kms::seal::sha256(&body)).into();
    fs::write(&root, serde_json::to_vec(&file).expect("JSON")).expect("written");
    let error = open(&bench, &passphrase("secret")).expect_err("forged");
    assert!(error.to_string().contains("changed by somebody without the root key"), "{error}");
}

#[test]
fn slots_come_and_go_but_never_all() {
    let bench = Bench::new();
    let engine = &bench.engine;
    let kinds = || engine.slots().expect("listed").iter().map(|slot| slot.kind).collect::<Vec<_>>();
    assert_eq!(kinds(), [SlotKind::Recovery, SlotKind::Passphrase, SlotKind::KeyFile]);
    let (added, _) = engine.add_slot(&bench.alice, NewSlot::Passphrase("second".into(), CHEAP)).expect("added");
    open(&bench, &passphrase("second")).expect("opens");
    for slot in engine.slots().expect("listed").iter().filter(|slot| slot.id != added.id) {
        engine.remove_slot(&bench.alice, slot.id).expect("removed");
    }
    assert!(!Home::has_key_file(&bench.home()));
    assert!(engine.remove_slot(&bench.alice, added.id).is_err(), "the last slot stays");
    let gone = open(&bench, &Unlock::KeyFile).expect_err("no key file");
    assert!(matches!(gone, OpenError::Custody(CustodyError::NoSuchSlot(SlotKind::KeyFile))));
    assert!(open(&bench, &passphrase("secret")).is_err());
    let (_, recovery) = engine.add_slot(&bench.alice, NewSlot::Recovery).expect("added");
    open(&bench, &Unlock::Recovery(recovery.expect("a new recovery key"))).expect("opens");
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let bench = Bench::new();
    let path = bench.home().join("domain.key");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
    let refused = open(&bench, &Unlock::KeyFile).expect_err("readable by others");
    assert!(refused.to_string().contains("chmod 600"), "{refused}");
}

#[test]
fn the_database_is_readable_for_its_owner_only() {
    let bench = Bench::new();
    bench.key();
    for name in ["kms.db", "kms.db-wal", "kms.db-shm"] {
        let mode = fs::metadata(bench.home().join(name)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn no_secret_stands_in_the_home_in_the_clear() {
    let bench = Bench::new();
    let key = bench.key();
    let snapshot = bench.engine.shared.store.current().expect("current");
    let material = snapshot.all_keys().next().expect("a key").expect("readable").materials[0].clone();
    bench.encrypt(&key, b"a plaintext to look for").expect("encrypted");
    bench.engine.audit().flush().expect("flushed");
    for entry in
        fs::read_dir(bench.home()).expect("listed").chain(fs::read_dir(bench.home().join("audit")).expect("listed"))
    {
        let path = entry.expect("entry").path();
        if !path.is_file() {
            continue;
        }
        let bytes = fs::read(&path).expect("read");
        for secret in [material.secret().expect("there").expose(), b"a plaintext to look for", b"secret\n"] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{}", path.display());
        }
    }
}

#[test]
fn what_cannot_be_looked_at_is_not_taken_for_absent() {
    let dir = directory();
    let home = dir.path().join("kms");
    // Nobody can enter it, root included.
    std::os::unix::fs::symlink(&home, &home).expect("linked");
    let unseen = Home::exists(&home).expect_err("it leads to itself");
    assert!(matches!(&unseen, CustodyError::Io { path, .. } if *path == home), "{unseen}");
    let refused = Home::unlock(&home, &Unlock::KeyFile).map(drop).expect_err("not seen");
    assert!(matches!(refused, CustodyError::Io { .. }), "{refused}");
    // In what is no directory there is none.
    fs::write(dir.path().join("file"), "").expect("written");
    assert!(!Home::exists(&dir.path().join("file/kms")).expect("looked"));
}

#[test]
fn a_key_file_that_was_removed_does_not_come_back_with_a_power_cut() {
    let dir = directory();
    let disk = FailingDisk::below(dir.path());
    disk.record();
    let home = dir.path().join("kms");
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(0)));
    let new = NewHome::with_slots(vec![NewSlot::KeyFile]);
    let (made, _) = Home::create(&home, new, &*clock, &SystemEntropy).expect("created");
    let engine = Engine::start(made, clock, Arc::new(SystemEntropy)).expect("started");
    let slots = engine.slots().expect("there");
    let slot = slots.iter().find(|slot| slot.kind == SlotKind::KeyFile).expect("a key file");
    let before = disk.moments();
    engine.remove_slot(&engine.local_caller("alice"), slot.id).expect("removed");
    let after = disk.moments();
    let history = disk.history();
    for (moment, is_there) in [(before, true), (after, false)] {
        let copy = directory();
        history.cut(moment, &Left::Oldest, copy.path());
        assert_eq!(copy.path().join("kms/domain.key").exists(), is_there, "moment {moment} of {after}");
    }
}
