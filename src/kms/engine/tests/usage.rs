//! Last uses, and quotas.

use super::*;
use crate::kms::quota::ResourceQuotas;

fn last(engine: &Engine, caller: &Caller, key: &str) -> GetKeyLastUsageResponse {
    engine.get_key_last_usage(caller, key.into()).expect("answered")
}

#[test]
fn the_last_use_is_told_and_survives_an_orderly_end() {
    let mut bench = Bench::new();
    let (key, idle) = (bench.key(), bench.key());
    let never = last(&bench.engine, &bench.alice, &key);
    assert_eq!(never.key_last_usage, KeyLastUsageData::default());
    assert_eq!(never.key_creation_date, never.tracking_start_date);
    let blob = bench.encrypt(&key, b"x").expect("encrypted");
    bench.hours(1);
    bench.decrypt(&blob).expect("decrypted");
    let other = bench.another().expect("opened");
    bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("disabled");
    bench.hours(1);
    bench.decrypt(&blob).expect_err("a refused call is no use");
    bench.describe(&key).expect("a description is none either");
    let told = last(&bench.engine, &bench.alice, &key);
    let usage = told.key_last_usage.clone();
    assert_eq!(usage.operation.as_deref(), Some("Decrypt"));
    assert_eq!(usage.timestamp, Some(told.key_creation_date.plus(std::time::Duration::from_secs(3600))));
    let filter = crate::kms::audit::AuditFilter { event: Some("Decrypt".into()), ..Default::default() };
    let record = &bench.engine.audit().read(&filter).expect("read")[0];
    assert_eq!(record["eventID"].as_str(), usage.cloud_trail_event_id.as_deref());
    assert_eq!(record["requestID"].as_str(), usage.kms_request_id.as_deref());

    // The last engine on the home to close must not lose it, nor one that knows less overwrite it.
    bench.engine = other;
    assert_eq!(last(&bench.engine, &bench.alice, &key), told);
    bench.engine = bench.another().expect("reopened");
    assert_eq!(last(&bench.engine, &bench.alice, &key), told);
    assert_eq!(last(&bench.engine, &bench.alice, &idle).key_last_usage, KeyLastUsageData::default());
}

#[test]
fn re_encryption_uses_both_keys() {
    let bench = Bench::new();
    let (from, to) = (bench.key(), bench.key());
    let blob = bench.encrypt(&from, b"x").expect("encrypted");
    let request = ReEncryptRequest {
        ciphertext_blob: Some(blob),
        source_encryption_context: context(),
        destination_key_id: to.clone(),
        destination_encryption_context: context(),
        ..Default::default()
    };
    bench.engine.re_encrypt(&bench.alice, request).expect("re-encrypted");
    for key in [from, to] {
        let usage = last(&bench.engine, &bench.alice, &key).key_last_usage;
        assert_eq!(usage.operation.as_deref(), Some("ReEncrypt"));
    }
}

#[test]
fn a_forged_note_is_refused() {
    let bench = Bench::new();
    let key = bench.key();
    bench.encrypt(&key, b"x").expect("encrypted");
    let Bench { engine, alice, clock, dir, .. } = bench;
    drop(engine);
    let path = dir.path().join("kms");
    let database = rusqlite::Connection::open(path.join("kms.db")).expect("opened");
    let changed = database.execute("UPDATE usage SET record = replace(record, 'Encrypt', 'Decrypt')", []);
    assert_eq!(changed, Ok(1));
    let engine = Engine::open(&path, &passphrase("secret"), clock, Arc::new(SystemEntropy)).expect("opened");
    let refused = engine.get_key_last_usage(&alice, key.as_str().into()).expect_err("forged");
    assert!(refused.to_string().contains("wrong MAC"), "{refused}");
}

#[test]
fn resource_quotas_can_be_set() {
    let bench = Bench::new();
    let quotas = ResourceQuotas { keys: 2, aliases_per_key: 1, grants_per_key: 1, on_demand_rotations: 1 };
    bench.engine.set_resource_quotas(quotas);
    let (key, _) = (bench.key(), bench.key());
    let third = bench.engine.create_key(&bench.alice, CreateKeyRequest::default()).expect_err("too many");
    assert_eq!(third.code(), "LimitExceededException");
    assert!(third.to_string().contains("has 2 KMS keys"), "{third}");
    let alias = |name: &str| {
        let request = CreateAliasRequest { alias_name: format!("alias/{name}"), target_key_id: key.clone() };
        bench.engine.create_alias(&bench.alice, request).map_err(|error| error.code())
    };
    assert_eq!([alias("a"), alias("b")], [Ok(()), Err("LimitExceededException")]);
    let grant = |operation| {
        let request = CreateGrantRequest {
            key_id: key.clone(),
            grantee_principal: Some(bench.alice.principal().arn().to_owned()),
            operations: vec![operation],
            ..Default::default()
        };
        bench.engine.create_grant(&bench.alice, request).map(drop).map_err(|error| error.code())
    };
    assert_eq!(
        [grant(GrantOperation::Encrypt), grant(GrantOperation::Decrypt)],
        [Ok(()), Err("LimitExceededException")]
    );
    let rotate = || bench.engine.rotate_key_on_demand(&bench.alice, key.as_str().into()).map(drop);
    rotate().expect("the first");
    assert_eq!(rotate().expect_err("the second").code(), "LimitExceededException");
    // What is there goes on working, and AWS managed keys do not count.
    bench.encrypt(&key, b"x").expect("encrypted");
    bench.describe("alias/aws/kmsfs").expect("made");
}

#[test]
fn only_metered_callers_are_throttled() {
    let bench = Bench::new();
    let key = bench.key();
    let metered = bench.alice.clone().metered();
    let rotation = |caller: &Caller| {
        let request = EnableKeyRotationRequest { key_id: key.clone(), rotation_period_in_days: None };
        (0..40).filter(|_| bench.engine.enable_key_rotation(caller, request.clone()).is_ok()).count()
    };
    assert_eq!(rotation(&metered), 40, "nothing is limited unless it is switched on");
    let quotas = bench.engine.limit_requests();
    assert_eq!((rotation(&bench.alice), rotation(&metered)), (40, 15));
    let request = EnableKeyRotationRequest { key_id: key.clone(), rotation_period_in_days: None };
    let refused = bench.engine.enable_key_rotation(&metered, request).expect_err("throttled");
    assert_eq!(refused.code(), "ThrottlingException");
    assert_eq!(quotas.throttled(), 26);
    let filter = crate::kms::audit::AuditFilter { event: Some("EnableKeyRotation".into()), ..Default::default() };
    assert_eq!(bench.engine.audit().read(&filter).expect("read").len(), 95, "throttled calls are not recorded");
    bench.hours(1);
    assert_eq!(rotation(&metered), 15);
}
