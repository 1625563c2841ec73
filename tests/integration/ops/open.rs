//! Making and opening volumes: the registry, both configurations, the lock.

use std::fs;
use std::time::Duration;

use kmsfs::crypto::aead::Backend;
use kmsfs::env::SystemEntropy;
use kmsfs::format::Outcome;
use kmsfs::format::name::NameForm;
use kmsfs::format::volume::{VolumeConfig, VolumeFile};
use kmsfs::keys::KeyError;
use kmsfs::kms::model::{KeyIdRequest, ScheduleKeyDeletionRequest};
use kmsfs::kms::registry::VolumeRecord;
use kmsfs::ops::VolumeError;
use kmsfs::ops::config;
use kmsfs::ops::freshness::{open_record, own_record, record_to_accept};
use kmsfs::ops::init::{InitOptions, init_volume, new_volume_id};
use kmsfs::ops::open::{FoundVolume, OpenOptions};
use kmsfs::ops::repair::{compare_config, restore_config};
use kmsfs::ops::rewrap::{RewrapOptions, rewrap_config};
use kmsfs::store::LocalDir;
use kmsfs::vfs::ROOT;
use rustix::io::Errno;
use tempfile::TempDir;

use super::host::{Host, edit};

fn refused(result: Result<kmsfs::format::volume::OpenedVolume, VolumeError>) -> Outcome {
    match result {
        Err(VolumeError::Refused { outcome, .. }) => outcome,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_volume_opens_and_a_second_init_is_refused() {
    let host = Host::new();
    let dir = host.volume();
    let opened = host.open(dir.path(), OpenOptions::default()).expect("open");
    assert_eq!(opened.config.label.as_deref(), Some("test"));
    assert_eq!(opened.config.config_seq, 1);
    let row = host.engine.registry().get(&opened.config.volume_id).expect("registry").expect("a row");
    assert_eq!(row.keys, opened.allowed.keys());
    assert_eq!(row.path, fs::canonicalize(dir.path()).expect("resolve"));
    assert!(matches!(host.init(dir.path(), "alias/aws/kmsfs"), Err(VolumeError::AlreadyAVolume(_))));
    assert_eq!(
        fs::read(dir.path().join(".kmsfs/volume")).expect("read"),
        fs::read(dir.path().join(".kmsfs/volume.bak")).expect("read")
    );
}

#[test]
fn an_unknown_key_or_a_full_directory_leaves_nothing_behind() {
    let host = Host::new();
    let dir = TempDir::new().expect("temporary directory");
    assert!(matches!(host.init(dir.path(), "alias/none"), Err(VolumeError::Key(KeyError::NotFound(_)))));
    assert_eq!(fs::read_dir(dir.path()).expect("read").count(), 0);
    fs::write(dir.path().join("mine"), b"").expect("write");
    assert!(matches!(host.init(dir.path(), "alias/aws/kmsfs"), Err(VolumeError::NotEmpty { .. })));
    assert_eq!(fs::read_dir(dir.path()).expect("read").count(), 1);
}

#[test]
fn an_unknown_volume_needs_trust_and_is_then_remembered() {
    let (host, other) = (Host::new(), Host::new());
    let dir = host.volume();
    match other.open(dir.path(), OpenOptions::default()) {
        Err(VolumeError::Unknown(volume)) => assert_eq!(volume.label.as_deref(), Some("test")),
        opened => panic!("{opened:?}"),
    }
    // Trust does not help who has not the key, and is not remembered then.
    let trust = OpenOptions { trust_new_volume: true, ..OpenOptions::default() };
    other.open(dir.path(), trust).expect_err("another key manager");
    assert!(matches!(other.open(dir.path(), OpenOptions::default()), Err(VolumeError::Unknown(_))));
}

#[test]
fn a_trusted_volume_opens_and_is_remembered() {
    let host = Host::new();
    let dir = host.volume();
    let first = host.open(dir.path(), OpenOptions::default()).expect("open");
    // The registry of a host that has the keys and has never seen the volume.
    let fresh = Host::new();
    let registry = fresh.engine.registry();
    let open = |options| {
        let found = FoundVolume::find(dir.path()).expect("found");
        let service = host.service(&found.volume_id());
        found.open(&*service, &registry, options)
    };
    assert!(matches!(open(OpenOptions::default()), Err(VolumeError::Unknown(_))));
    assert_eq!(registry.get(&first.config.volume_id).expect("registry"), None);
    let trusted = open(OpenOptions { trust_new_volume: true, ..OpenOptions::default() }).expect("trusted");
    assert_eq!(trusted.config.volume_id, first.config.volume_id);
    let (known, there) = (registry.get(&first.config.volume_id), host.engine.registry().get(&first.config.volume_id));
    assert_eq!(known.expect("registry"), there.expect("registry"));
    open(OpenOptions::default()).expect("known now");
}

#[test]
fn damage_of_the_configuration_stops_and_its_copy_restores_it() {
    let host = Host::new();
    let dir = host.volume();
    let volume = dir.path().join(".kmsfs/volume");
    let good = fs::read(&volume).expect("read");
    for at in [0, 9, 20, 70, 98, 110, good.len() - 1] {
        edit(&volume, |bytes| bytes[at] ^= 1);
        let bad = fs::read(&volume).expect("read");
        assert!(host.open(dir.path(), OpenOptions::default()).is_err(), "byte {at}");
        assert_eq!(fs::read(&volume).expect("read"), bad, "a bad file is never replaced by itself");
        fs::write(&volume, &good).expect("write");
    }
    fs::remove_file(&volume).expect("remove");
    assert_eq!(refused(host.open(dir.path(), OpenOptions::default())), Outcome::VolumeAuth);
    let ([first, second], same) = compare_config(dir.path()).expect("compare");
    assert!(first.says.is_err() && second.says.is_ok() && !same);

    let found = FoundVolume::find_by_backup(dir.path()).expect("the copy");
    let service = host.service(&found.volume_id());
    restore_config(found, &*service, &host.engine.registry(), OpenOptions::default()).expect("restore");
    assert_eq!(fs::read(&volume).expect("read"), good);
    host.open(dir.path(), OpenOptions::default()).expect("open");
    let ([first, second], same) = compare_config(dir.path()).expect("compare");
    assert!(first.says.is_ok() && first.says == second.says && same);
}

#[test]
fn a_damaged_copy_restores_nothing() {
    let host = Host::new();
    let dir = host.volume();
    let (volume, copy) = (dir.path().join(".kmsfs/volume"), dir.path().join(".kmsfs/volume.bak"));
    fs::write(&volume, b"damaged").expect("write");
    edit(&copy, |bytes| *bytes.last_mut().expect("not empty") ^= 1);
    let found = FoundVolume::find_by_backup(dir.path()).expect("well-formed");
    let service = host.service(&found.volume_id());
    let restored = restore_config(found, &*service, &host.engine.registry(), OpenOptions::default());
    assert!(matches!(restored, Err(VolumeError::Refused { outcome: Outcome::VolumeAuth, .. })), "{restored:?}");
    assert_eq!(fs::read(&volume).expect("read"), b"damaged");
}

#[test]
fn a_configuration_of_another_volume_stops_before_anything_is_opened() {
    let host = Host::new();
    let (dir, other) = (host.volume(), host.volume());
    let (volume, copy) = (dir.path().join(".kmsfs/volume"), dir.path().join(".kmsfs/volume.bak"));
    let (good, foreign) =
        (fs::read(&volume).expect("read"), fs::read(other.path().join(".kmsfs/volume")).expect("read"));
    let mine = FoundVolume::find(dir.path()).expect("found").volume_id();
    let theirs = FoundVolume::find(other.path()).expect("found").volume_id();
    fs::write(&volume, &foreign).expect("write");
    let two = |result: Result<(), VolumeError>| match result {
        Err(VolumeError::TwoVolumes { volume, copy, .. }) => assert_eq!((volume, copy), (theirs, mine)),
        result => panic!("{result:?}"),
    };
    two(FoundVolume::find(dir.path()).map(drop));
    // Not even a caller that opened the volume before the file was replaced loses the copy.
    two(config::refresh_copy(dir.path(), &config::open_meta(dir.path()).expect("open")));
    assert_eq!(fs::read(&copy).expect("read"), good);
    // Its registry entry still says where the other volume lies.
    let row = host.engine.registry().get(&theirs).expect("registry").expect("a row");
    assert_eq!(row.path, fs::canonicalize(other.path()).expect("resolve"));

    let found = FoundVolume::find_by_backup(dir.path()).expect("the copy");
    let service = host.service(&found.volume_id());
    restore_config(found, &*service, &host.engine.registry(), OpenOptions::default()).expect("restore");
    assert_eq!(fs::read(&volume).expect("read"), good);
    assert_eq!(fs::read(dir.path().join(".kmsfs/volume.damaged")).expect("read"), foreign);
    host.open(dir.path(), OpenOptions::default()).expect("open");
}

#[test]
fn a_damaged_copy_does_not_stop_a_mount_and_is_renewed() {
    let host = Host::new();
    let dir = host.volume();
    let copy = dir.path().join(".kmsfs/volume.bak");
    let good = fs::read(&copy).expect("read");
    fs::write(&copy, b"damaged").expect("write");
    host.open(dir.path(), OpenOptions::default()).expect("open");
    config::refresh_copy(dir.path(), &config::open_meta(dir.path()).expect("open")).expect("renewed");
    assert_eq!(fs::read(&copy).expect("read"), good);
}

#[test]
fn an_older_configuration_needs_consent() {
    let host = Host::new();
    let dir = host.volume();
    let id = FoundVolume::find(dir.path()).expect("found").volume_id();
    host.engine.registry().raise_config_seq(&id, 5).expect("raise");
    match host.open(dir.path(), OpenOptions::default()) {
        Err(VolumeError::Rollback { found: 1, known: 5, .. }) => {}
        other => panic!("{other:?}"),
    }
    let accept = OpenOptions { accept_rollback: true, ..OpenOptions::default() };
    host.open(dir.path(), accept).expect("accepted");
    assert_eq!(host.engine.registry().get(&id).expect("registry").expect("a row").config_seq, 1);
    host.open(dir.path(), OpenOptions::default()).expect("accepted once and for all");
}

#[test]
fn the_authentic_copy_of_another_volume_restores_nothing() {
    let host = Host::new();
    let (dir, other) = (host.volume(), host.volume());
    let (volume, copy) = (dir.path().join(".kmsfs/volume"), dir.path().join(".kmsfs/volume.bak"));
    let theirs = FoundVolume::find(other.path()).expect("found").volume_id();
    fs::write(&volume, b"damaged").expect("write");
    fs::copy(other.path().join(".kmsfs/volume.bak"), &copy).expect("copy");
    let restore = || {
        let found = FoundVolume::find_by_backup(dir.path()).expect("well-formed");
        let service = host.service(&found.volume_id());
        restore_config(found, &*service, &host.engine.registry(), OpenOptions::default())
    };
    match restore() {
        Err(VolumeError::ForeignCopy { copy, .. }) => assert_eq!(copy, theirs),
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read(&volume).expect("read"), b"damaged");
    let row = host.engine.registry().get(&theirs).expect("registry").expect("a row");
    assert_eq!(row.path, fs::canonicalize(other.path()).expect("resolve"), "its entry is untouched");
    // Without an id of the root there is nothing to compare with but the registry, which knows better.
    fs::remove_file(dir.path().join(".kmsfs.dir")).expect("remove");
    assert!(matches!(restore(), Err(VolumeError::ForeignCopy { .. })));
}

#[test]
fn a_disabled_key_is_no_damage() {
    let host = Host::new();
    let key = host.key("mine");
    let dir = TempDir::new().expect("temporary directory");
    host.init(dir.path(), "alias/mine").expect("init");
    host.engine.disable_key(&host.caller, KeyIdRequest::from(key.as_str())).expect("DisableKey");
    let result = host.open(dir.path(), OpenOptions::default());
    assert!(matches!(&result, Err(VolumeError::Key(KeyError::Disabled(arn))) if *arn == key), "{result:?}");
    host.engine.enable_key(&host.caller, KeyIdRequest::from(key.as_str())).expect("EnableKey");
    host.open(dir.path(), OpenOptions::default()).expect("open");
}

#[test]
fn a_missing_key_is_no_damage_either() {
    let host = Host::new();
    let key = host.key("mine");
    let dir = TempDir::new().expect("temporary directory");
    host.init(dir.path(), "alias/mine").expect("init");
    host.mount(dir.path()).write(ROOT, "file", b"content");
    let mounted = host.mount(dir.path());
    let request = ScheduleKeyDeletionRequest { key_id: key.as_str().to_owned(), pending_window_in_days: Some(7) };
    host.engine.schedule_key_deletion(&host.caller, request).expect("ScheduleKeyDeletion");
    // A mount that was made before: the file's key is asked for at its open.
    assert_eq!(mounted.read("file").expect_err("pending deletion").errno(), Errno::ACCESS);
    let result = host.open(dir.path(), OpenOptions::default());
    assert!(matches!(&result, Err(VolumeError::Key(KeyError::PendingDeletion(arn))) if *arn == key), "{result:?}");
    // A clock that jumps must agree with itself for an hour before a key is destroyed.
    for hours in [8 * 24, 2] {
        host.clock.advance(Duration::from_secs(hours * 3600));
        host.engine.maintain().expect("the window ends");
    }
    assert_eq!(mounted.read("file").expect_err("no such key").errno(), Errno::ACCESS);
    let result = host.open(dir.path(), OpenOptions::default());
    assert!(matches!(&result, Err(VolumeError::Key(KeyError::NotFound(_)))), "{result:?}");
    assert!(result.expect_err("no such key").to_string().contains(key.as_str()), "the message names the key");
}

/// FORMAT 4.2 and S12: an unknown incompat bit keeps everybody out, an unknown ro_compat bit every writer.
#[test]
fn unknown_features_are_refused_or_not_written_to() {
    let host = Host::new();
    let dir = host.volume();
    host.mount(dir.path()).write(ROOT, "file", b"content");
    let path = dir.path().join(".kmsfs/volume");
    let good = fs::read(&path).expect("read");
    for bit in 1..64 {
        edit(&path, |bytes| bytes[32 + bit / 8] |= 1 << (bit % 8));
        let error = FoundVolume::find(dir.path()).expect_err("a feature nobody knows");
        assert!(matches!(error, VolumeError::Refused { outcome: Outcome::UnknownFeature, .. }), "bit {bit}: {error}");
        fs::write(&path, &good).expect("write");
    }

    // A volume as a newer version would make it; the registry knows it as that.
    let opened = host.open(dir.path(), OpenOptions::default()).expect("open");
    let newer = VolumeConfig { ro_compat: opened.config.ro_compat | 1 << 40, config_seq: 2, ..opened.config.clone() };
    let bytes = newer.encode(&opened.keys).expect("legal");
    let commit = VolumeFile::parse(&bytes).expect("well-formed").row_if_trusted().commit;
    let registry = host.engine.registry();
    let row = registry.get(&newer.volume_id).expect("registry").expect("a row");
    registry.put(&VolumeRecord { vrk_commitment: commit, ..row }).expect("put");
    for name in ["volume", "volume.bak"] {
        fs::write(dir.path().join(".kmsfs").join(name), &bytes).expect("write");
    }
    let mounted = host.mount(dir.path());
    assert_eq!(mounted.read("file").expect("read"), b"content");
    let ino = mounted.0.lookup(ROOT, b"file").expect("lookup").ino;
    assert_eq!(mounted.0.open(ino, true).expect_err("only to be read").errno(), Errno::ROFS);
    assert_eq!(mounted.0.unlink(ROOT, b"file").expect_err("only to be read").errno(), Errno::ROFS);
    drop(mounted);
    assert_eq!(host.findings(dir.path()), [""; 0]);
    let opened = host.open(dir.path(), OpenOptions::default()).expect("open");
    let (service, meta) = (host.service(&newer.volume_id), config::open_meta(dir.path()).expect("meta"));
    let options = RewrapOptions { threads: 1, ..RewrapOptions::default() };
    host.key("other");
    let to = Some(service.resolve("alias/other").expect("a key"));
    for options in [options.clone(), RewrapOptions { to, ..options }] {
        let refused = rewrap_config(dir.path(), &meta, opened.clone(), &*service, &registry, &options, &*host.clock);
        assert!(matches!(refused, Err(VolumeError::Refused { outcome: Outcome::UnknownFeature, .. })), "{refused:?}");
    }
    assert_eq!(fs::read(&path).expect("read"), bytes);
}

#[test]
fn the_lock_names_its_owner() {
    let host = Host::new();
    let dir = host.volume();
    let found = FoundVolume::find(dir.path()).expect("found");
    let held = found.lock("mount /mnt/a").expect("free");
    match FoundVolume::find(dir.path()).expect("found").lock("rewrap") {
        Err(VolumeError::Busy(owner)) => {
            assert_eq!((owner.pid, owner.purpose.as_str()), (std::process::id(), "mount /mnt/a"));
        }
        other => panic!("{other:?}"),
    }
    drop(held);
    found.lock("rewrap").expect("free again");
}

#[test]
fn one_at_a_time_has_the_freshness_record_of_a_volume_and_its_copies() {
    let (host, home, root) = (Host::new(), TempDir::new().expect("a home"), TempDir::new().expect("a volume"));
    let id = new_volume_id(&SystemEntropy);
    let options = InitOptions {
        key: "alias/aws/kmsfs".to_owned(),
        label: None,
        record_in: Some(home.path().to_owned()),
        names: NameForm::Encrypted,
        aead: Backend::Ring,
    };
    let (service, registry) = (host.service(&id), host.engine.registry());
    init_volume(root.path(), id, &*service, &registry, &options, &*host.clock, &SystemEntropy).expect("init");
    let opened = host.open(root.path(), OpenOptions::default()).expect("opens");
    let held = own_record(home.path(), &opened, "mount /a of /volume").expect("free").expect("it has one");
    let busy = |result: Result<(), VolumeError>| match result {
        Err(VolumeError::RecordBusy(owner)) => {
            assert_eq!((owner.pid, owner.purpose.as_str()), (std::process::id(), "mount /a of /volume"));
        }
        other => panic!("{other:?}"),
    };
    busy(own_record(home.path(), &opened, "mount /b of /copy").map(drop));
    let backing = LocalDir::open(root.path()).expect("opens");
    for whole in [true, false] {
        busy(record_to_accept(home.path(), &opened, &backing, (whole, "accept /copy")).map(drop));
    }
    assert!(open_record(home.path(), &opened).expect("nobody is asked").is_some());
    drop(held);
    let own = own_record(home.path(), &opened, "mount /b of /copy").expect("free again");
    assert!(own.is_some());
    drop(own);
    assert!(!record_to_accept(home.path(), &opened, &backing, (true, "accept")).expect("free").expect("one").is_new);
}

#[test]
fn a_directory_of_somebody_else_is_no_volume() {
    let dir = TempDir::new().expect("temporary directory");
    assert!(matches!(FoundVolume::find(dir.path()), Err(VolumeError::NotAVolume(_))));
}
