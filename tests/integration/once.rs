//! What is shown only once: of what depends on it nothing is kept that nobody has seen.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn run(dir: &Path, args: &[&str], stdout: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kmsfs"));
    command.current_dir(dir).args(["--kms-home", "kms"]).args(args).env("KMSFS_CONFIG", "/dev/null");
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).output().expect("started")
}

/// Its exit status, and what it says for people.
fn told(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").expect("the device").into()
}

/// Kinds of the slots that open the key manager.
fn slots(dir: &Path) -> Vec<String> {
    let listed = run(dir, &["--json", "kms", "slots", "list"], Stdio::piped());
    let value: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let slots = value["slots"].as_array().expect("a list").iter();
    slots.map(|slot| slot["kind"].as_str().expect("text").to_owned()).collect()
}

fn volume() -> tempfile::TempDir {
    let dir = tempfile::TempDir::new().expect("temporary directory");
    assert_eq!(told(&run(dir.path(), &["init", "--keyfile", "volume"], Stdio::piped())).0, Some(0));
    dir
}

#[test]
fn a_bundle_whose_recovery_key_nobody_saw_does_not_stay() {
    let dir = volume();
    for args in [
        &["export-recovery", "volume", "--out", "bundle"][..],
        &["--json", "export-recovery", "volume", "--out", "bundle"],
    ] {
        let (status, words) = told(&run(dir.path(), args, full()));
        assert!(status == Some(1) && words.contains("nobody has seen the recovery key"), "{status:?} {words}");
        assert!(words.contains("No space left") && !dir.path().join("bundle").exists(), "{words}");
        let (status, words) = told(&run(dir.path(), args, Stdio::null()));
        assert!(status == Some(2) && words.contains("nobody would see it"), "{status:?} {words}");
        assert!(!dir.path().join("bundle").exists());
    }
    let (status, words) = told(&run(dir.path(), &["export-recovery", "volume", "--out", "bundle"], Stdio::piped()));
    assert!(status == Some(0) && dir.path().join("bundle").exists(), "{words}");
}

#[test]
fn a_recovery_slot_whose_key_nobody_saw_does_not_stay() {
    let dir = volume();
    let before = slots(dir.path());
    let (status, words) = told(&run(dir.path(), &["kms", "slots", "add", "recovery"], full()));
    assert!(status == Some(1) && words.contains("so its slot 3 is removed"), "{status:?} {words}");
    assert_eq!(slots(dir.path()), before);
    let (status, words) = told(&run(dir.path(), &["kms", "slots", "add", "recovery"], Stdio::null()));
    assert!(status == Some(2) && words.contains("nobody would see it"), "{status:?} {words}");
    let (status, words) = told(&run(dir.path(), &["kms", "rekey"], Stdio::null()));
    assert!(status == Some(2) && words.contains("nobody would see it"), "{status:?} {words}");
    assert_eq!(slots(dir.path()), before);
}

#[test]
fn a_key_manager_whose_recovery_key_nobody_saw_keeps_the_volume_that_was_made() {
    let dir = tempfile::TempDir::new().expect("temporary directory");
    let (status, words) = told(&run(dir.path(), &["init", "--keyfile", "volume"], full()));
    assert!(status == Some(1) && words.contains("kmsfs kms slots add recovery"), "{status:?} {words}");
    assert_eq!(slots(dir.path()), ["keyfile"]);
    assert_eq!(told(&run(dir.path(), &["verify", "volume"], Stdio::piped())).0, Some(0));
    let (status, words) = told(&run(dir.path(), &["kms", "slots", "add", "recovery"], Stdio::piped()));
    assert_eq!((status, slots(dir.path())), (Some(0), vec!["keyfile".to_owned(), "recovery".to_owned()]), "{words}");
}

#[test]
fn who_throws_the_first_recovery_key_away_is_told() {
    let dir = tempfile::TempDir::new().expect("temporary directory");
    let (status, words) = told(&run(dir.path(), &["init", "--keyfile", "volume"], Stdio::null()));
    assert!(status == Some(0) && words.contains("kmsfs kms slots remove 1"), "{status:?} {words}");
    assert_eq!(told(&run(dir.path(), &["verify", "volume"], Stdio::piped())).0, Some(0));
}

#[test]
fn an_access_key_whose_secret_nobody_saw_does_not_stay() {
    let dir = volume();
    let keys = || {
        let listed = run(dir.path(), &["--json", "iam", "list"], Stdio::piped());
        let value: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
        let identities = value["Identities"].as_array().expect("a list").clone();
        identities.iter().map(|one| one["AccessKeyIds"].as_array().expect("a list").len()).sum::<usize>()
    };
    for args in [
        &["iam", "create-access-key"][..],
        &["iam", "create-access-key", "--shell"],
        &["--json", "iam", "create-access-key"],
    ] {
        let (status, words) = told(&run(dir.path(), args, full()));
        assert!(status == Some(1) && words.contains("nobody has seen the secret of the access key, so"), "{words}");
        assert_eq!(keys(), 0, "{words}");
        let (status, words) = told(&run(dir.path(), args, Stdio::null()));
        assert!(status == Some(2) && words.contains("nobody would see it"), "{status:?} {words}");
        assert_eq!(keys(), 0);
    }
    assert_eq!(told(&run(dir.path(), &["iam", "create-access-key"], Stdio::piped())).0, Some(0));
    assert_eq!(keys(), 1);
}
