//! Several engines on one home, as several processes have them.

use std::process::{Child, Command};

use super::*;
use crate::kms::store::connect;
use crate::sync::thread;

#[test]
fn a_key_disabled_by_another_process_is_refused_at_the_next_call() {
    let bench = Bench::new();
    let other = bench.another().expect("opened");
    let key = bench.key();
    for _ in 0..20 {
        assert!(encrypt(&other, &bench.alice, &key, b"x").is_ok());
        bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("disabled");
        assert_eq!(encrypt(&other, &bench.alice, &key, b"x").expect_err("disabled").code(), "DisabledException");
        other.enable_key(&bench.alice, key.as_str().into()).expect("enabled");
        assert!(bench.encrypt(&key, b"x").is_ok());
    }
}

#[test]
fn a_new_epoch_reaches_the_other_process() {
    let bench = Bench::new();
    let other = bench.another().expect("opened");
    let (doomed, kept) = (bench.key(), bench.key());
    let blob = bench.encrypt(&doomed, b"x").expect("encrypted");
    bench.schedule(&doomed, 7).expect("scheduled");
    bench.days(8);
    bench.engine.maintain().expect("observed");
    bench.hours(2);
    bench.engine.maintain().expect("deleted");
    assert_eq!(decrypt(&other, &bench.alice, &blob).expect_err("gone").code(), "NotFoundException");
    assert!(encrypt(&other, &bench.alice, &kept, b"x").is_ok());
    other.disable_key(&bench.alice, kept.as_str().into()).expect("changes under the new epoch");
    assert_eq!(bench.encrypt(&kept, b"x").expect_err("disabled").code(), "DisabledException");
}

#[test]
fn concurrent_changes_of_several_engines_all_count() {
    let bench = Bench::new();
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let (engine, alice) =
                (if n % 2 == 0 { bench.engine.clone() } else { bench.another().expect("opened") }, bench.alice.clone());
            thread::spawn(move || {
                for _ in 0..8 {
                    let key =
                        engine.create_key(&alice, CreateKeyRequest::default()).expect("created").key_metadata.key_id;
                    let blob = encrypt(&engine, &alice, &key, b"x").expect("encrypted");
                    assert_eq!(decrypt(&engine, &alice, &blob), Ok(b"x".to_vec()));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    let keys = bench.engine.list_keys(&bench.alice, ListKeysRequest::default()).expect("listed").keys;
    assert_eq!(keys.len(), 32);
    let report = bench.engine.audit().verify().expect("verified");
    assert_eq!(report.first_break, None);
    let created = crate::kms::audit::AuditFilter { event: Some("CreateKey".into()), ..Default::default() };
    assert_eq!(bench.engine.audit().read(&created).expect("read").len(), 32);
}

#[test]
fn the_registry_is_shared_and_never_goes_back() {
    use crate::kms::registry::VolumeRecord;
    use crate::types::VolumeId;
    use std::os::unix::ffi::OsStrExt;

    let bench = Bench::new();
    let other = bench.another().expect("opened").registry();
    let registry = bench.engine.registry();
    let volume = VolumeId::from_bytes([9; 16]);
    assert_eq!(registry.get(&volume), Ok(None));
    assert!(registry.raise_config_seq(&volume, 1).is_err());
    let arn = bench.describe(&bench.key()).expect("there").arn;
    let odd = std::path::PathBuf::from(std::ffi::OsStr::from_bytes(b"/srv/\xff"));
    let record = VolumeRecord { volume, vrk_commitment: [3; 32], keys: vec![arn], config_seq: 5, path: odd };
    registry.put(&record).expect("entered");
    assert_eq!(other.get(&volume), Ok(Some(record.clone())));
    assert_eq!(other.raise_config_seq(&volume, 7), Ok(7));
    assert_eq!(registry.raise_config_seq(&volume, 6), Ok(7));
    registry.put(&record).expect("entered again");
    registry.set_path(&volume, std::path::Path::new("/new")).expect("moved");
    let expected = VolumeRecord { config_seq: 7, path: "/new".into(), ..record };
    assert_eq!(other.list(), Ok(vec![expected]));
}

/// A process that was stopped while it wrote the log, which keeps all others from writing it.
#[test]
fn what_others_do_while_the_log_is_held_is_recorded_all_the_same() {
    use crate::kms::audit::AuditFilter;
    use crate::kms::lock_file::{self, LockFile};
    let bench = Bench::new();
    let (key, other) = (bench.key(), bench.another().expect("opened"));
    let path = bench.home().join("audit/lock");
    let held = LockFile::acquire(&path).expect("free");
    // Patience is not what this is about.
    lock_file::give_up(&path);
    bench.encrypt(&key, b"before").expect("cryptography goes on");
    let words = bench.engine.audit().flush().expect_err("held").to_string();
    assert!(words.contains(&format!("process {}", std::process::id())), "{words}");
    let refused = bench.engine.disable_key(&bench.alice, key.as_str().into()).expect_err("changes are refused");
    assert!(refused.to_string().contains("has held it"), "{refused}");
    assert_eq!(bench.describe(&key).expect("looked up").key_state, KeyState::Enabled);
    assert!(bench.another().is_err(), "who opens the home is told");
    // Nobody has told this one yet.
    other.create_key(&bench.alice, CreateKeyRequest::default()).expect("its record is durable in the database");
    // As at the end of a process: what it has queued is not lost.
    let Bench { engine, alice, dir, clock, recovery: _recovery } = bench;
    drop(engine);
    drop(other);
    drop(held);
    let engine =
        Engine::open(&dir.path().join("kms"), &passphrase("secret"), clock, Arc::new(SystemEntropy)).expect("opened");
    assert_eq!(engine.audit().verify().expect("verified").first_break, None);
    let count = |event: &str| {
        let filter = AuditFilter { event: Some(event.to_owned()), ..AuditFilter::default() };
        engine.audit().read(&filter).expect("read").len()
    };
    // The refused one is recorded too, and the opening that failed.
    let events = ["Encrypt", "DescribeKey", "DisableKey", "CreateKey", "UnlockStore"];
    assert_eq!(events.map(count), [1, 1, 1, 2, 4]);
    let last = engine.get_key_last_usage(&alice, key.as_str().into()).expect("looked up");
    let used = format!("{:?}", last.key_last_usage);
    assert_ne!(used, format!("{:?}", KeyLastUsageData::default()), "what waited in the database counts as a use");
}

const DATABASE: &str = "KMSFS_TEST_HELD_DATABASE";

/// A process that does not outlive its test.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stopped {
    /// One that is stopped in the middle of a commit of the database at `path`.
    fn in_a_commit(path: &std::path::Path) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("known"));
        command.args(["--exact", "kms::engine::tests::processes::the_process_that_is_stopped", "--test-threads=1"]);
        let child = command.env(DATABASE, path).stdout(std::process::Stdio::null()).spawn().expect("started");
        let stopped = Self(child);
        let stat = format!("/proc/{}/stat", stopped.0.id());
        while !std::fs::read_to_string(&stat)
            .expect("it lives")
            .rsplit_once(") ")
            .is_some_and(|(_, s)| s.starts_with('T'))
        {
            thread::sleep(std::time::Duration::from_millis(1));
        }
        stopped
    }
}

/// Runs in a process of its own.
#[test]
fn the_process_that_is_stopped() {
    let Some(path) = std::env::var_os(DATABASE) else { return };
    let database = connect(path.as_ref()).expect("opened");
    database.execute_batch("BEGIN IMMEDIATE").expect("begun");
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP)
        .expect("one may stop oneself");
    // Another thread may be the one to notice first.
    thread::sleep(std::time::Duration::from_secs(60));
    drop(database);
}

#[test]
fn who_waits_in_vain_for_a_commit_of_another_process_is_told_which() {
    let bench = Bench::new();
    let key = bench.key();
    let other = Stopped::in_a_commit(&bench.home().join("kms.db"));
    // Patience is not what this is about.
    bench.engine.shared.store.set_patience(std::time::Duration::ZERO);
    let told = |words: String| {
        let pid = other.0.id();
        assert!(words.contains("kms.db is locked: process") && words.contains(&format!("kill -CONT {pid}")), "{words}");
    };
    told(bench.engine.maintain().expect_err("locked").to_string());
    told(bench.engine.disable_key(&bench.alice, key.as_str().into()).expect_err("locked").to_string());
    drop(other);
    bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("it goes on when that one is gone");
}
