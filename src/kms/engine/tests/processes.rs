//! Several engines on one home, as several processes have them.

use super::*;
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
