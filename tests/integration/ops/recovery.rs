//! The recovery bundle: what is in it, what opens it, and what it is refused for. The way through real mounts is in
//! `tests/suites/recovery.sh`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kmsfs::kms::bundle::{Bundle, BundleError, Made};
use kmsfs::kms::custody::{CustodyError, RecoveryKey};
use kmsfs::kms::model::{KeyIdRequest, KeyState, ScheduleKeyDeletionRequest};
use kmsfs::ops::VolumeError;
use kmsfs::ops::open::{FoundVolume, OpenOptions};
use kmsfs::ops::repair::put_config;
use kmsfs::types::{KeyArn, VolumeId};
use kmsfs::vfs::ROOT;
use serde_json::Value;
use tempfile::TempDir;

use super::host::Host;

/// Makes a bundle as the command does.
fn export(host: &Host, root: &Path, to: &Path) -> Result<Made, BundleError> {
    let opened = host.open(root, OpenOptions::default()).expect("open the volume");
    let configuration = fs::read(root.join(".kmsfs/volume")).expect("read");
    let (id, keys) = (opened.config.volume_id, opened.allowed.keys());
    host.engine.export_recovery(&host.caller, &id, keys, &configuration, to)
}

/// The smallest bundle that can be read, for the corpus of the fuzz target.
pub fn example() -> Vec<u8> {
    let mut bundle = serde_json::json!({
        "format": "kmsfs recovery bundle", "version": 1,
        "content": {
            "created": 1_767_225_600, "volume": "05050505050505050505050505050505", "keys": [absent_key()],
            "root": "{}", "database": "AAAA", "configuration": "AAECAw==",
        },
        "mac": "00",
    });
    bundle["sha256"] = checksum(&bundle["content"]).into();
    assert_eq!(bundle["content"]["volume"], VolumeId::from_bytes([5; 16]).to_string());
    serde_json::to_vec_pretty(&bundle).expect("JSON")
}

fn absent_key() -> &'static str {
    "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
}

/// Another computer, with nothing but the bundle and its recovery key.
fn recover(host: &Host, bundle: &Path, key: &RecoveryKey) -> Result<Host, BundleError> {
    let dir = TempDir::new().expect("temporary directory");
    let key = RecoveryKey::parse(&key.to_text()).expect("as it was printed");
    let (home, _) = Bundle::read(bundle)?.install(dir.path(), key)?;
    Ok(Host::start(home, host.clock.clone(), dir))
}

#[test]
fn a_volume_is_read_and_written_without_the_home_that_made_it() {
    let host = Host::new();
    let key = host.key("mine");
    host.key("not-of-this-volume");
    let (dir, out) = (TempDir::new().expect("temporary directory"), TempDir::new().expect("temporary directory"));
    let root = dir.path();
    host.init(root, "alias/mine").expect("init");
    host.mount(root).write(ROOT, "before the rotation", b"one");
    host.engine.rotate_key_on_demand(&host.caller, key.as_str().into()).expect("rotated");
    host.mount(root).write(ROOT, "after it", b"two");
    let bundle = out.path().join("bundle");
    let exported = export(&host, root, &bundle).expect("made");
    assert_eq!(fs::metadata(&bundle).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(out.path()).expect("read").count(), 1, "nothing else stays behind");
    assert_eq!(exported.keys.len(), 1);
    assert!(matches!(export(&host, root, &bundle), Err(BundleError::Exists(_))));
    let clock = host.clock.clone();
    drop(host);

    let wrong = RecoveryKey::parse(&{
        let other = Host::new();
        let spare = out.path().join("spare");
        let root = made(out.path().join("other"));
        other.init(&root, "alias/aws/kmsfs").expect("init");
        export(&other, &root, &spare).expect("made").recovery.to_text()
    });
    let elsewhere = TempDir::new().expect("temporary directory");
    let refused = Bundle::read(&bundle).expect("read").install(elsewhere.path(), wrong.expect("a key"));
    assert!(matches!(refused.map(drop), Err(BundleError::Custody(CustodyError::WrongSecret(_)))));
    assert!(
        !kmsfs::kms::custody::Home::exists(elsewhere.path()).expect("looked"),
        "no key manager is left by the attempt"
    );

    let dir = elsewhere;
    let (home, inspection) = Bundle::read(&bundle)
        .expect("read")
        .install(dir.path(), RecoveryKey::parse(&exported.recovery.to_text()).expect("as it was printed"))
        .expect("installed");
    assert_eq!((inspection.keys, inspection.current), (1, true), "the volume's key and no other");
    let other = Host::start(home, clock, dir);
    let mounted = other.mount(root);
    assert_eq!(mounted.read("before the rotation").expect("read"), b"one");
    assert_eq!(mounted.read("after it").expect("read"), b"two");
    mounted.write(ROOT, "new", b"three");
    drop(mounted);
    assert_eq!(other.findings(root), Vec::<String>::new());
    let row = other.engine.registry().list().expect("the registry");
    assert_eq!(row.len(), 1, "the volume is known, so that nothing has to be trusted anew");
}

/// A new directory.
fn made(path: PathBuf) -> PathBuf {
    fs::create_dir(&path).expect("mkdir");
    path
}

#[test]
fn keys_are_in_the_bundle_as_they_are() {
    let host = Host::new();
    let key = host.key("mine");
    let dir = TempDir::new().expect("temporary directory");
    let (root, out) = (made(dir.path().join("volume")), dir.path());
    host.init(&root, "alias/mine").expect("init");
    host.mount(&root).write(ROOT, "file", b"content");
    let opened = host.open(&root, OpenOptions::default()).expect("open");
    let (id, keys) = (opened.config.volume_id, opened.allowed.keys().to_vec());
    let make = |name: &str| host.engine.export_recovery(&host.caller, &id, &keys, b"", &out.join(name));
    host.engine.disable_key(&host.caller, key.as_str().into()).expect("disabled");
    let exported = make("disabled").expect("made");
    assert_eq!(exported.keys[0].state, KeyState::Disabled);
    let other = recover(&host, &out.join("disabled"), &exported.recovery).expect("recovered");
    let refused = other.open(&root, OpenOptions::default()).map(drop).expect_err("disabled there too");
    assert!(refused.to_string().contains("disabled"), "{refused}");
    other.engine.enable_key(&other.caller, key.as_str().into()).expect("its owner's decision");
    assert_eq!(other.mount(&root).read("file").expect("read"), b"content");

    let request = ScheduleKeyDeletionRequest { key_id: key.as_str().to_owned(), pending_window_in_days: Some(7) };
    host.engine.schedule_key_deletion(&host.caller, request).expect("scheduled");
    let pending = make("pending").expect("made");
    assert_eq!(pending.keys[0].state, KeyState::PendingDeletion);
    host.clock.advance(std::time::Duration::from_secs(8 * 86400));
    host.engine.maintain().expect("observed");
    host.clock.advance(std::time::Duration::from_secs(2 * 3600));
    host.engine.maintain().expect("deleted");
    assert!(
        matches!(make("deleted"), Err(BundleError::NoSuchKey(arn)) if arn == key),
        "what is gone is in no new bundle"
    );
    // A bundle of a key that was pending deletion ends with the key.
    let other = recover(&host, &out.join("pending"), &pending.recovery).expect("recovered");
    host.clock.advance(std::time::Duration::from_secs(2 * 3600));
    other.engine.maintain().expect("observed");
    host.clock.advance(std::time::Duration::from_secs(2 * 3600));
    other.engine.maintain().expect("deleted");
    let request: KeyIdRequest = key.as_str().into();
    other.engine.enable_key(&other.caller, request).expect_err("gone");
}

#[test]
fn a_bundle_that_was_changed_is_refused() {
    let host = Host::new();
    let dir = TempDir::new().expect("temporary directory");
    let root = made(dir.path().join("volume"));
    host.init(&root, "alias/aws/kmsfs").expect("init");
    let bundle = dir.path().join("bundle");
    let exported = export(&host, &root, &bundle).expect("made");
    let sound: Value = serde_json::from_slice(&fs::read(&bundle).expect("read")).expect("JSON");
    let try_with = |changed: &Value| {
        fs::write(&bundle, changed.to_string()).expect("written");
        recover(&host, &bundle, &exported.recovery).map(drop)
    };
    for name in ["format", "version", "sha256", "mac"] {
        let mut changed = sound.clone();
        changed[name] = spoilt(&sound[name]);
        assert!(try_with(&changed).is_err(), "{name} was changed");
    }
    for name in ["created", "volume", "keys", "root", "database", "configuration"] {
        let mut changed = sound.clone();
        changed["content"][name] = spoilt(&sound["content"][name]);
        assert!(matches!(try_with(&changed), Err(BundleError::Unusable { .. })), "{name} was changed");
        // Somebody who knows how: the checksum is right, but it takes the recovery key to authenticate it.
        changed["sha256"] = checksum(&changed["content"]).into();
        assert!(try_with(&changed).is_err(), "{name} was changed, with its checksum");
    }
    assert_eq!(sound["sha256"], checksum(&sound["content"]));
    let mut forged = sound.clone();
    forged["content"]["configuration"] = "AAAA".into();
    forged["sha256"] = checksum(&forged["content"]).into();
    let refused = try_with(&forged).expect_err("not authentic").to_string();
    assert!(refused.contains("without its recovery key"), "{refused}");

    let text = sound.to_string();
    for cut in [0, 1, text.len() / 2, text.len() - 1] {
        fs::write(&bundle, &text[..cut]).expect("cut");
        assert!(matches!(Bundle::read(&bundle), Err(BundleError::Unusable { .. })), "cut at {cut}");
    }
    try_with(&sound).expect("sound");
}

/// Another value of the same type.
fn spoilt(value: &Value) -> Value {
    match value {
        Value::String(text) => format!("{text}AAAA").into(),
        Value::Array(list) => list[1..].to_vec().into(),
        _ => 2.into(),
    }
}

/// As docs/KMS.md has it.
fn checksum(content: &Value) -> String {
    use sha2::{Digest, Sha256};
    let text = |name: &str| content[name].as_str().expect("text").to_owned();
    let mut parts = vec![content["created"].to_string()];
    parts.extend(["volume", "root", "database", "configuration"].map(text));
    parts.extend(content["keys"].as_array().expect("a list").iter().map(|key| key.as_str().expect("text").to_owned()));
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    data_encoding::HEXLOWER.encode(&hash.finalize())
}

#[test]
fn a_lost_configuration_comes_back_into_its_own_tree_only() {
    let host = Host::new();
    let dir = TempDir::new().expect("temporary directory");
    let (root, other, bare) =
        (made(dir.path().join("volume")), made(dir.path().join("other")), made(dir.path().join("bare")));
    host.init(&root, "alias/aws/kmsfs").expect("init");
    host.init(&other, "alias/aws/kmsfs").expect("init");
    host.mount(&root).write(ROOT, "file", b"content");
    let configuration = fs::read(root.join(".kmsfs/volume")).expect("read");
    let service = host.service(&FoundVolume::find(&root).expect("a volume").volume_id());
    let put = |root: &Path, bytes: &[u8]| put_config(root, bytes, &*service, &host.engine.registry());
    for root in [&root, &other] {
        fs::remove_dir_all(root.join(".kmsfs")).expect("lost");
    }
    for foreign in [&other, &bare] {
        assert!(matches!(put(foreign, &configuration), Err(VolumeError::ForeignTree { .. })));
        assert!(!foreign.join(".kmsfs").exists(), "nothing was written");
    }
    let mut changed = configuration.clone();
    *changed.last_mut().expect("not empty") ^= 1;
    assert!(matches!(put(&root, &changed), Err(VolumeError::Refused { .. })));
    put(&root, &configuration).expect("its own");
    assert_eq!(host.mount(&root).read("file").expect("read"), b"content");
}

#[test]
fn keys_that_no_bundle_can_hold_are_named() {
    let host = Host::new();
    let known = host.key("mine");
    let stranger: KeyArn = absent_key().parse().expect("an ARN");
    let found = host.engine.unexportable(&[known, stranger.clone()]).expect("looked up");
    assert!(matches!(&found[..], [(arn, BundleError::NoSuchKey(_))] if *arn == stranger));
}
