//! Multi-Region keys: what replicas share with their primary, and what is their own.

use super::import::Importer;
use super::records::events;
use super::*;

const HERE: &str = "us-east-1";
const THERE: &str = "eu-west-1";
const BEYOND: &str = "ap-south-1";

impl Bench {
    fn at(&self, region: &str) -> Caller {
        Caller::local(self.alice.principal().clone(), region.parse().expect("a Region"))
    }

    fn primary(&self) -> String {
        self.primary_of(Origin::AwsKms)
    }

    fn primary_of(&self, origin: Origin) -> String {
        let request = CreateKeyRequest { multi_region: true, origin: Some(origin), ..Default::default() };
        self.engine.create_key(&self.alice, request).expect("created").key_metadata.key_id
    }

    fn replicate(&self, key: &str, to: &str) -> Result<ReplicateKeyResponse, KmsError> {
        let request =
            ReplicateKeyRequest { key_id: key.to_owned(), replica_region: to.to_owned(), ..Default::default() };
        self.engine.replicate_key(&self.alice, request)
    }

    fn move_primary(&self, key: &str, from: &str, to: &str) -> Result<(), KmsError> {
        let request = UpdatePrimaryRegionRequest { key_id: key.to_owned(), primary_region: to.to_owned() };
        self.engine.update_primary_region(&self.at(from), request)
    }

    fn described(&self, key: &str, region: &str) -> KeyMetadata {
        let request = DescribeKeyRequest { key_id: key.to_owned(), ..Default::default() };
        self.engine.describe_key(&self.at(region), request).expect("described").key_metadata
    }

    fn schedule_at(&self, region: &str, key: &str, days: u32) -> Result<ScheduleKeyDeletionResponse, KmsError> {
        let request = ScheduleKeyDeletionRequest { key_id: key.to_owned(), pending_window_in_days: Some(days) };
        self.engine.schedule_key_deletion(&self.at(region), request)
    }

    fn pass_days(&self, days: u32) {
        for _ in 0..days * 2 {
            self.hours(12);
            self.engine.maintain().expect("maintained");
        }
    }
}

/// (role, primary's Region, replicas' Regions)
fn set(metadata: &KeyMetadata) -> (MultiRegionKeyType, &str, Vec<&str>) {
    let set = metadata.multi_region_configuration.as_ref().expect("a multi-Region key");
    let replicas = set.replica_keys.iter().map(|key| key.region.as_str()).collect();
    (set.multi_region_key_type, &set.primary_key.region, replicas)
}

fn code<T: std::fmt::Debug>(outcome: Result<T, KmsError>) -> &'static str {
    outcome.expect_err("refused").code()
}

#[test]
fn a_replica_has_the_material_and_nothing_else_of_its_primary() {
    use MultiRegionKeyType::*;
    let bench = Bench::new();
    let key = bench.primary();
    assert!(key.starts_with("mrk-") && key.len() == 36, "{key}");
    let alone = bench.described(&key, HERE);
    assert_eq!((alone.multi_region, set(&alone)), (true, (Primary, HERE, vec![])));
    let tags = vec![Tag { tag_key: "a".into(), tag_value: "b".into() }];
    bench.engine.tag_resource(&bench.alice, TagResourceRequest { key_id: key.clone(), tags }).expect("tagged");

    bench.hours(1);
    let answer = bench.replicate(&key, THERE).expect("replicated");
    assert!(answer.replica_policy.contains("key-default-1") && answer.replica_tags.is_empty());
    let replica = bench.described(&key, THERE);
    assert_eq!(replica, answer.replica_key_metadata);
    assert_eq!(replica.arn.as_str(), format!("arn:aws:kms:{THERE}:000000000000:key/{key}"));
    assert_eq!((replica.creation_date, replica.key_state), (bench.clock.now(), KeyState::Enabled));
    assert_eq!(set(&replica), (Replica, HERE, vec![THERE]));
    assert_eq!(set(&bench.described(&key, HERE)), (Primary, HERE, vec![THERE]));
    bench.replicate(&key, BEYOND).expect("replicated");
    for region in [HERE, THERE, BEYOND] {
        assert_eq!(set(&bench.described(&key, region)).2, [BEYOND, THERE]);
    }

    let blob = bench.encrypt(&key, b"x").expect("encrypted");
    assert_eq!(decrypt(&bench.engine, &bench.at(THERE), &blob), Ok(b"x".to_vec()));
    let back = encrypt(&bench.engine, &bench.at(THERE), &key, b"y").expect("encrypted");
    assert_eq!(bench.decrypt(&back), Ok(b"y".to_vec()));
    // A single-Region key stays where it is.
    let single = bench.encrypt(&bench.key(), b"x").expect("encrypted");
    assert_eq!(code(decrypt(&bench.engine, &bench.at(THERE), &single)), "AccessDeniedException");

    bench.engine.disable_key(&bench.at(THERE), key.as_str().into()).expect("disabled");
    assert_eq!(code(decrypt(&bench.engine, &bench.at(THERE), &blob)), "DisabledException");
    assert_eq!(bench.described(&key, HERE).key_state, KeyState::Enabled);
    let tags = ListResourceTagsRequest { key_id: key.clone(), ..Default::default() };
    assert!(bench.engine.list_resource_tags(&bench.at(BEYOND), tags).expect("listed").tags.is_empty());

    let created = events(&bench, "CreateKey");
    assert!(created.iter().any(|event| event["awsRegion"] == THERE && event["eventType"] == "AwsServiceEvent"));
    assert_eq!(events(&bench, "ReplicateKey").len(), 2);
    assert_eq!(events(&bench, "ReplicateKey")[0]["awsRegion"], HERE);
}

#[test]
fn only_a_usable_primary_replicates_once_per_region() {
    let bench = Bench::new();
    let key = bench.primary();
    bench.replicate(&key, THERE).expect("replicated");
    assert_eq!(code(bench.replicate(&key, THERE)), "AlreadyExistsException");
    assert_eq!(code(bench.replicate(&key, HERE)), "AlreadyExistsException");
    bench.schedule_at(THERE, &key, 7).expect("scheduled");
    assert_eq!(code(bench.replicate(&key, THERE)), "AlreadyExistsException");
    let single = bench.key();
    let arn = bench.described(&single, HERE).arn;
    assert_eq!(
        bench.replicate(&single, THERE).expect_err("refused").to_string(),
        format!("{arn} is not a multi-region primary key.")
    );
    let request = ReplicateKeyRequest { key_id: key.clone(), replica_region: BEYOND.to_owned(), ..Default::default() };
    assert_eq!(code(bench.engine.replicate_key(&bench.at(THERE), request)), "UnsupportedOperationException");
    for region in ["", "x", "us-east-", "US-east-1", "us--1", "a-b-c-d-1"] {
        assert_eq!(code(bench.replicate(&key, region)), "ValidationException", "{region}");
    }
    bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("disabled");
    assert_eq!(code(bench.replicate(&key, BEYOND)), "DisabledException");
    let pending = bench.primary_of(Origin::External);
    assert_eq!(code(bench.replicate(&pending, BEYOND)), "KMSInvalidStateException");
}

#[test]
fn rotation_is_shared_and_set_on_the_primary() {
    let bench = Bench::new();
    let key = bench.primary();
    bench.replicate(&key, THERE).expect("replicated");
    let there = bench.at(THERE);
    let enable = EnableKeyRotationRequest { key_id: key.clone(), rotation_period_in_days: Some(90) };
    bench.engine.enable_key_rotation(&bench.alice, enable.clone()).expect("enabled");
    let status = |caller: &Caller| {
        let status = bench.engine.get_key_rotation_status(caller, key.as_str().into()).expect("status");
        (status.key_rotation_enabled, status.rotation_period_in_days, status.next_rotation_date)
    };
    assert_eq!(status(&there), status(&bench.alice));
    assert_eq!(status(&there).1, Some(90));
    assert_eq!(events(&bench, "SynchronizeMultiRegionKey").len(), 1);
    let arn = bench.described(&key, THERE).arn;
    for refused in [
        bench.engine.enable_key_rotation(&there, enable).map(drop),
        bench.engine.disable_key_rotation(&there, key.as_str().into()),
        bench.engine.rotate_key_on_demand(&there, key.as_str().into()).map(drop),
    ] {
        assert_eq!(refused.expect_err("refused").to_string(), format!("{arn} is not a multi-region primary key."));
    }

    let old = bench.encrypt(&key, b"old").expect("encrypted");
    bench.days(90);
    let current = bench.described(&key, HERE).current_key_material_id;
    assert_eq!(bench.described(&key, THERE).current_key_material_id, current);
    bench.engine.rotate_key_on_demand(&bench.alice, key.as_str().into()).expect("rotated");
    let newer = bench.described(&key, THERE).current_key_material_id;
    assert!(newer != current && newer == bench.described(&key, HERE).current_key_material_id);
    let history = |caller: &Caller| {
        let request = ListKeyRotationsRequest { key_id: key.clone(), ..Default::default() };
        let listed = bench.engine.list_key_rotations(caller, request).expect("listed").rotations;
        listed.into_iter().map(|row| (row.key_material_id, row.rotation_type, row.rotation_date)).collect::<Vec<_>>()
    };
    assert_eq!(history(&there).len(), 2);
    assert_eq!(history(&there), history(&bench.alice));
    assert_eq!(decrypt(&bench.engine, &there, &old), Ok(b"old".to_vec()));
    // A replica that comes later gets everything.
    bench.replicate(&key, BEYOND).expect("replicated");
    assert_eq!(decrypt(&bench.engine, &bench.at(BEYOND), &old), Ok(b"old".to_vec()));
    assert_eq!(history(&bench.at(BEYOND)), history(&bench.alice));
    bench.engine.disable_key_rotation(&bench.alice, key.as_str().into()).expect("disabled");
    assert!(!status(&there).0);
}

#[test]
fn a_primary_waits_for_its_replicas() {
    let bench = Bench::new();
    let key = bench.primary();
    bench.replicate(&key, THERE).expect("replicated");
    bench.replicate(&key, BEYOND).expect("replicated");
    let blob = bench.encrypt(&key, b"x").expect("encrypted");
    let answer = bench.schedule(&key, 10).expect("scheduled");
    assert_eq!((answer.key_state, answer.deletion_date), (KeyState::PendingReplicaDeletion, None));
    let waiting = bench.described(&key, HERE);
    assert_eq!((waiting.deletion_date, waiting.pending_deletion_window_in_days), (None, Some(10)));
    let refused = bench.decrypt(&blob).expect_err("pending");
    assert!(refused.to_string().ends_with(" is pending replica deletion."), "{refused}");
    assert!(decrypt(&bench.engine, &bench.at(THERE), &blob).is_ok());

    bench.schedule_at(THERE, &key, 7).expect("scheduled");
    bench.schedule_at(BEYOND, &key, 7).expect("scheduled");
    bench.engine.cancel_key_deletion(&bench.at(BEYOND), key.as_str().into()).expect("cancelled");
    bench.pass_days(8);
    let waiting = bench.described(&key, HERE);
    assert_eq!((waiting.key_state, set(&waiting).2), (KeyState::PendingReplicaDeletion, vec![BEYOND]));
    bench.schedule_at(BEYOND, &key, 7).expect("scheduled");
    bench.pass_days(7);
    let waiting = bench.described(&key, HERE);
    assert_eq!((waiting.key_state, set(&waiting).2), (KeyState::PendingDeletion, vec![]));
    let end = waiting.deletion_date.expect("its own waiting period");
    assert!(end > bench.clock.now().plus_days(9) && end <= bench.clock.now().plus_days(10));

    // Cancelled, it may have a replica there again.
    bench.engine.cancel_key_deletion(&bench.alice, key.as_str().into()).expect("cancelled");
    bench.engine.enable_key(&bench.alice, key.as_str().into()).expect("enabled");
    bench.replicate(&key, THERE).expect("replicated");
    assert_eq!(decrypt(&bench.engine, &bench.at(THERE), &blob), Ok(b"x".to_vec()));
    bench.schedule_at(THERE, &key, 7).expect("scheduled");
    bench.schedule(&key, 7).expect("scheduled");
    bench.pass_days(15);
    let gone = DescribeKeyRequest { key_id: key, ..Default::default() };
    assert_eq!(code(bench.engine.describe_key(&bench.alice, gone)), "NotFoundException");
}

#[test]
fn two_replicas_that_end_together_leave_no_trace_of_each_other() {
    let bench = Bench::new();
    let key = bench.primary();
    for region in [THERE, BEYOND] {
        bench.replicate(&key, region).expect("replicated");
        bench.schedule_at(region, &key, 7).expect("scheduled");
    }
    bench.pass_days(8);
    assert!(set(&bench.described(&key, HERE)).2.is_empty());
    let gone = DescribeKeyRequest { key_id: key, ..Default::default() };
    for region in [THERE, BEYOND] {
        assert_eq!(code(bench.engine.describe_key(&bench.at(region), gone.clone())), "NotFoundException");
    }
}

#[test]
fn roles_are_exchanged() {
    use MultiRegionKeyType::*;
    let bench = Bench::new();
    let key = bench.primary();
    bench.replicate(&key, THERE).expect("replicated");
    let enable = EnableKeyRotationRequest { key_id: key.clone(), rotation_period_in_days: Some(90) };
    bench.engine.enable_key_rotation(&bench.alice, enable).expect("enabled");
    assert_eq!(code(bench.move_primary(&key, HERE, BEYOND)), "NotFoundException");
    assert_eq!(code(bench.move_primary(&key, HERE, HERE)), "ValidationException");
    assert_eq!(code(bench.move_primary(&key, THERE, HERE)), "UnsupportedOperationException");
    bench.engine.disable_key(&bench.at(THERE), key.as_str().into()).expect("disabled");
    assert_eq!(code(bench.move_primary(&key, HERE, THERE)), "DisabledException");
    bench.engine.enable_key(&bench.at(THERE), key.as_str().into()).expect("enabled");

    bench.move_primary(&key, HERE, THERE).expect("moved");
    assert_eq!(set(&bench.described(&key, HERE)), (Replica, THERE, vec![HERE]));
    assert_eq!(set(&bench.described(&key, THERE)), (Primary, THERE, vec![HERE]));
    assert_eq!(events(&bench, "SynchronizeMultiRegionKey").len(), 3);
    // The schedule went with the role.
    let before = bench.described(&key, HERE).current_key_material_id;
    bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("disabled");
    bench.days(90);
    let after = bench.described(&key, HERE).current_key_material_id;
    assert!(after != before && after == bench.described(&key, THERE).current_key_material_id);
    assert_eq!(events(&bench, "RotateKey").len(), 1);
    assert_eq!(events(&bench, "RotateKey")[0]["awsRegion"], THERE);
    assert_eq!(bench.schedule_at(HERE, &key, 7).expect("scheduled").key_state, KeyState::PendingDeletion);
}

#[test]
fn imported_material_is_imported_in_every_region() {
    use KeyMaterialState::*;
    let bench = Bench::new();
    let key = bench.primary_of(Origin::External);
    let (here, there) = (Importer::new(&bench, &bench.alice), Importer::new(&bench, &bench.at(THERE)));
    let first = here.import(&key, &[1; 32], |_| {}).expect("imported").expect("symmetric");
    let replica = bench.replicate(&key, THERE).expect("replicated").replica_key_metadata;
    assert_eq!(replica.key_state, KeyState::PendingImport);
    let blob = bench.encrypt(&key, b"x").expect("encrypted");
    assert_eq!(code(there.import(&key, &[2; 32], |_| {})), "IncorrectKeyMaterialException");
    assert_eq!(there.import(&key, &[1; 32], |_| {}), Ok(Some(first.clone())));
    assert_eq!(decrypt(&bench.engine, &bench.at(THERE), &blob), Ok(b"x".to_vec()));

    // What is deleted in one Region stays in the other.
    here.forget(&key, None).expect("deleted");
    assert_eq!(bench.described(&key, HERE).key_state, KeyState::PendingImport);
    assert!(decrypt(&bench.engine, &bench.at(THERE), &blob).is_ok());
    here.import(&key, &[1; 32], |_| {}).expect("imported again");

    // New material: first the primary, then everywhere, then the rotation.
    let new = |request: &mut ImportKeyMaterialRequest| request.import_type = Some(ImportType::NewKeyMaterial);
    assert_eq!(code(there.import(&key, &[2; 32], new)), "UnsupportedOperationException");
    let second = here.import(&key, &[2; 32], new).expect("imported").expect("symmetric");
    let states = |importer: &Importer<'_>| importer.history(&key).into_iter().map(|row| row.1).collect::<Vec<_>>();
    for importer in [&here, &there] {
        assert_eq!(states(importer), [Current, PendingMultiRegionImportAndRotation]);
    }
    assert_eq!(there.history(&key)[1].2, ImportState::PendingImport);
    assert_eq!(bench.described(&key, THERE).key_state, KeyState::Enabled);
    let rotate = || bench.engine.rotate_key_on_demand(&bench.alice, key.as_str().into());
    assert_eq!(code(rotate()), "KMSInvalidStateException");
    there.import(&key, &[2; 32], |_| {}).expect("imported");
    for importer in [&here, &there] {
        assert_eq!(states(importer), [Current, PendingRotation]);
    }
    rotate().expect("rotated");
    for region in [HERE, THERE] {
        assert_eq!(bench.described(&key, region).current_key_material_id.as_ref(), Some(&second));
    }
    let new_blob = encrypt(&bench.engine, &bench.at(THERE), &key, b"y").expect("encrypted");
    assert_eq!((bench.decrypt(&new_blob), bench.decrypt(&blob)), (Ok(b"y".to_vec()), Ok(b"x".to_vec())));

    // Material that waits goes everywhere when the primary drops it, and only locally when a replica does.
    let third = here.import(&key, &[3; 32], new).expect("imported").expect("symmetric");
    there.import(&key, &[3; 32], |_| {}).expect("imported");
    there.forget(&key, Some(&third)).expect("deleted");
    assert_eq!(states(&here), [NonCurrent, Current, PendingMultiRegionImportAndRotation]);
    here.forget(&key, Some(&third)).expect("deleted");
    assert_eq!((states(&here), states(&there)), (vec![NonCurrent, Current], vec![NonCurrent, Current]));
}

#[test]
fn replicas_are_in_regions_of_the_same_partition() {
    let bench = Bench::new();
    let key = bench.primary();
    for region in ["xx-nowhere-9", "mars", "cn-north-1", "us-gov-west-1"] {
        assert_eq!(code(bench.replicate(&key, region)), "ValidationException", "{region}");
    }
    assert_eq!(set(&bench.described(&key, HERE)).2, Vec::<String>::new());
    let china = bench.at("cn-north-1");
    let request = CreateKeyRequest { multi_region: true, ..Default::default() };
    let key = bench.engine.create_key(&china, request).expect("created").key_metadata.key_id;
    let to = |region: &str| {
        let request = ReplicateKeyRequest { key_id: key.clone(), replica_region: region.into(), ..Default::default() };
        bench.engine.replicate_key(&china, request)
    };
    assert_eq!(code(to(HERE)), "ValidationException");
    to("cn-northwest-1").expect("replicated");
}
