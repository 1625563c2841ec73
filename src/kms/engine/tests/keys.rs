//! Lifecycle, aliases, tags, pages, states.

use super::*;
use crate::kms::quota::ResourceQuotas;
use crate::types::{AccountId, KeyArn};

#[test]
fn a_new_key_has_awss_metadata() {
    let bench = Bench::new();
    let request = CreateKeyRequest { description: "mine".into(), ..Default::default() };
    let metadata = bench.engine.create_key(&bench.alice, request).expect("created").key_metadata;
    assert_eq!(metadata.arn.as_str(), format!("arn:aws:kms:us-east-1:000000000000:key/{}", metadata.key_id));
    let json = serde_json::to_value(&metadata).expect("serialises");
    assert_eq!(json["AWSAccountId"], "000000000000");
    assert_eq!((&json["KeyState"], &json["KeyManager"]), (&"Enabled".into(), &"CUSTOMER".into()));
    assert_eq!((&json["Origin"], &json["CustomerMasterKeySpec"]), (&"AWS_KMS".into(), &"SYMMETRIC_DEFAULT".into()));
    assert_eq!(json["CreationDate"], 1_767_225_600.0);
    assert_eq!(json["CurrentKeyMaterialId"].as_str().map(str::len), Some(64));
    assert!(json.get("DeletionDate").is_none());
    assert_eq!(bench.describe(&metadata.key_id), Ok(metadata));
}

#[test]
fn kinds_that_are_not_built_are_refused() {
    let bench = Bench::new();
    let code = |request| bench.engine.create_key(&bench.alice, request).expect_err("refused").code();
    let usage = Some(KeyUsage::SignVerify);
    assert_eq!(code(CreateKeyRequest { key_usage: usage, ..Default::default() }), "ValidationException");
    let both = Some(KeySpec::SymmetricDefault);
    let request = CreateKeyRequest { key_spec: both, customer_master_key_spec: both, ..Default::default() };
    assert_eq!(code(request), "ValidationException");
    let origin = Some(Origin::AwsCloudHsm);
    assert_eq!(code(CreateKeyRequest { origin, ..Default::default() }), "ValidationException");
}

#[test]
fn four_forms_of_key_id() {
    let bench = Bench::new();
    let key = bench.key();
    let request = CreateAliasRequest { alias_name: "alias/a".into(), target_key_id: key.clone() };
    bench.engine.create_alias(&bench.alice, request).expect("created");
    let arn = bench.describe(&key).expect("there").arn;
    let alias_arn = "arn:aws:kms:us-east-1:000000000000:alias/a";
    for form in [key.as_str(), arn.as_str(), "alias/a", alias_arn] {
        assert_eq!(bench.describe(form).expect("found").arn, arn, "{form}");
        assert!(bench.encrypt(form, b"x").is_ok(), "{form}");
    }
    let text = |key_id: &str| {
        let error = bench.describe(key_id).expect_err("refused");
        (error.code(), error.to_string())
    };
    let not_found = "NotFoundException";
    assert_eq!(text("fake-key-id"), (not_found, "Invalid keyId 'fake-key-id'".into()));
    let absent = "00000000-0000-4000-8000-000000000000";
    let absent_arn = format!("arn:aws:kms:us-east-1:000000000000:key/{absent}");
    assert_eq!(text(absent), (not_found, format!("Key '{absent_arn}' does not exist")));
    assert_eq!(text(&absent_arn.replace("us-east-1", "eu-west-1")), (not_found, "Invalid arn eu-west-1".into()));
    assert_eq!(
        text("alias/none"),
        (not_found, "Alias arn:aws:kms:us-east-1:000000000000:alias/none is not found.".into())
    );
    assert_eq!(text("arn:aws:s3:::bucket").0, "InvalidArnException");
    assert_eq!(text("").0, "ValidationException");
    for alias in ["alias/a", alias_arn] {
        let error = bench.engine.disable_key(&bench.alice, alias.into()).expect_err("control operations take no alias");
        assert_eq!(error.code(), not_found);
    }
}

#[test]
fn other_accounts_learn_nothing() {
    let bench = Bench::new();
    let arn = bench.describe(&bench.key()).expect("there").arn;
    let mallory: AccountId = "999999999999".parse().expect("account");
    let mallory = Caller::new(Principal::user(&mallory, "mallory"), bench.engine.region().clone());
    let attempt = |key_id: String| {
        let refused = bench
            .engine
            .describe_key(&mallory, DescribeKeyRequest { key_id, ..Default::default() })
            .expect_err("refused");
        refused.to_string().replace(arn.key_id(), "ID").replace("00000000-0000-4000-8000-000000000000", "ID")
    };
    let absent = arn.as_str().replace(arn.key_id(), "00000000-0000-4000-8000-000000000000");
    let real = attempt(arn.to_string());
    assert_eq!(real, attempt(absent));
    assert!(real.starts_with("User: arn:aws:iam::999999999999:user/mallory is not authorized to perform: "), "{real}");
    let blob = bench.encrypt(arn.as_str(), b"x").expect("encrypted");
    assert_eq!(decrypt(&bench.engine, &mallory, &blob).expect_err("refused").code(), "AccessDeniedException");

    // Nor which aliases there are, and for which keys.
    let alias = CreateAliasRequest { alias_name: "alias/secret".into(), target_key_id: arn.to_string() };
    bench.engine.create_alias(&bench.alice, alias).expect("created");
    let alias = |name: &str| attempt(arn.as_str().replace(&format!("key/{}", arn.key_id()), &format!("alias/{name}")));
    assert_eq!(alias("secret"), alias("absent").replace("absent", "secret"));
    let listed = |key_id: &str| {
        let request = ListAliasesRequest { key_id: Some(key_id.to_owned()), ..Default::default() };
        bench.engine.list_aliases(&mallory, request).map(|found| found.aliases.len()).map_err(|error| error.code())
    };
    assert_eq!([listed(arn.as_str()), listed(&absent_of(&arn))], [Err("AccessDeniedException"); 2]);
    let with_token = |key_id: String| {
        let request = DescribeKeyRequest { key_id, grant_tokens: vec!["AAAA".into()] };
        bench.engine.describe_key(&mallory, request).map(drop).map_err(|error| error.code())
    };
    assert_eq!(with_token(arn.to_string()), with_token(absent_of(&arn)));
}

#[test]
fn arns_without_an_account_are_none() {
    let bench = Bench::new();
    let arn = bench.describe(&bench.key()).expect("there").arn;
    for account in ["", "1", "00000000000a", "0000000000000"] {
        for region in ["us-east-1", "eu-west-1"] {
            let text = arn.as_str().replace("us-east-1:000000000000", &format!("{region}:{account}"));
            assert_eq!(bench.describe(&text).expect_err("malformed").code(), "InvalidArnException", "{text}");
        }
    }
}

fn absent_of(arn: &KeyArn) -> String {
    arn.as_str().replace(arn.key_id(), "00000000-0000-4000-8000-000000000000")
}

#[test]
fn an_alias_that_is_moved_counts_at_its_new_key() {
    let bench = Bench::new();
    bench.engine.set_resource_quotas(ResourceQuotas {
        keys: 9,
        aliases_per_key: 1,
        grants_per_key: 1,
        on_demand_rotations: 1,
    });
    let [first, second] = [bench.key(), bench.key()];
    let alias = |name: &str, key: &str| {
        let request = CreateAliasRequest { alias_name: name.into(), target_key_id: key.into() };
        bench.engine.create_alias(&bench.alice, request).map_err(|error| error.code())
    };
    let moved = |name: &str, key: &str| {
        let request = UpdateAliasRequest { alias_name: name.into(), target_key_id: key.into() };
        bench.engine.update_alias(&bench.alice, request).map_err(|error| error.code())
    };
    assert_eq!((alias("alias/a", &first), alias("alias/b", &second)), (Ok(()), Ok(())));
    assert_eq!(moved("alias/a", &first), Ok(()));
    assert_eq!(moved("alias/a", &second), Err("LimitExceededException"));
}

#[test]
fn states_allow_what_the_table_says() {
    let bench = Bench::new();
    let key = bench.key();
    let arn = bench.describe(&key).expect("there").arn;
    let blob = bench.encrypt(&key, b"x").expect("encrypted");
    let request = || KeyIdRequest::from(key.as_str());
    let not_pending = bench.engine.cancel_key_deletion(&bench.alice, request());
    assert_eq!(not_pending, Err(KmsError::NotPendingDeletion(arn.clone())));

    for _ in 0..2 {
        bench.engine.disable_key(&bench.alice, request()).expect("idempotent");
    }
    let disabled = || KmsError::Disabled(arn.clone());
    assert_eq!(bench.encrypt(&key, b"x"), Err(disabled()));
    assert_eq!(bench.decrypt(&blob), Err(disabled()));
    assert_eq!(bench.engine.rotate_key_on_demand(&bench.alice, request()), Err(disabled()));
    let enable = EnableKeyRotationRequest { key_id: key.clone(), ..Default::default() };
    assert_eq!(bench.engine.enable_key_rotation(&bench.alice, enable), Err(disabled()));
    assert!(!bench.describe(&key).expect("there").enabled);

    let answer = bench.schedule(&key, 7).expect("scheduled");
    assert_eq!(answer.deletion_date, Some(bench.clock.now().plus_days(7)));
    let pending = || KmsError::InvalidState { arn: arn.clone(), state: KeyState::PendingDeletion };
    assert_eq!(bench.encrypt(&key, b"x"), Err(pending()));
    assert_eq!(bench.decrypt(&blob), Err(pending()));
    assert_eq!(bench.schedule(&key, 7).map(drop), Err(pending()));
    assert_eq!(bench.engine.enable_key(&bench.alice, request()), Err(pending()));
    assert_eq!(bench.engine.disable_key(&bench.alice, request()), Err(pending()));
    let alias = CreateAliasRequest { alias_name: "alias/late".into(), target_key_id: key.clone() };
    assert_eq!(bench.engine.create_alias(&bench.alice, alias), Err(pending()));
    assert_eq!(bench.describe(&key).expect("there").deletion_date, answer.deletion_date);

    bench.engine.cancel_key_deletion(&bench.alice, request()).expect("cancelled");
    let metadata = bench.describe(&key).expect("there");
    assert_eq!((metadata.key_state, metadata.deletion_date), (KeyState::Disabled, None));
    bench.engine.enable_key(&bench.alice, request()).expect("enabled");
    assert_eq!(bench.decrypt(&blob), Ok(b"x".to_vec()));
}

#[test]
fn windows_and_periods_are_bounded() {
    let bench = Bench::new();
    let key = bench.key();
    for days in [0, 6, 31] {
        assert_eq!(bench.schedule(&key, days).expect_err("out of bounds").code(), "ValidationException");
    }
    for days in [0, 89, 2561] {
        let request = EnableKeyRotationRequest { key_id: key.clone(), rotation_period_in_days: Some(days) };
        let refused = bench.engine.enable_key_rotation(&bench.alice, request).expect_err("out of bounds");
        assert_eq!(refused.code(), "ValidationException");
    }
    let request = ScheduleKeyDeletionRequest { key_id: key, pending_window_in_days: None };
    let answer = bench.engine.schedule_key_deletion(&bench.alice, request).expect("scheduled");
    assert_eq!(answer.pending_window_in_days, 30);
}

#[test]
fn aliases_move_and_are_unique() {
    let bench = Bench::new();
    let (one, two) = (bench.key(), bench.key());
    let create = |name: &str, key: &str| {
        let request = CreateAliasRequest { alias_name: name.into(), target_key_id: key.into() };
        bench.engine.create_alias(&bench.alice, request)
    };
    create("alias/a", &one).expect("created");
    assert_eq!(create("alias/a", &two).expect_err("there").code(), "AlreadyExistsException");
    let long = format!("alias/{}", "x".repeat(251));
    for (name, code) in [
        ("noprefix", "ValidationException"),
        ("alias/", "InvalidAliasNameException"),
        ("alias/bad name", "ValidationException"),
        ("alias/aws/mine", "InvalidAliasNameException"),
        (&long, "ValidationException"),
    ] {
        assert_eq!(create(name, &one).expect_err("bad name").code(), code, "{name}");
    }
    let update = |name: &str, key: &str| {
        let request = UpdateAliasRequest { alias_name: name.into(), target_key_id: key.into() };
        bench.engine.update_alias(&bench.alice, request)
    };
    let old = bench.encrypt("alias/a", b"old").expect("encrypted");
    update("alias/a", &two).expect("moved");
    assert_eq!(bench.describe("alias/a").expect("there").key_id, two);
    assert_eq!(bench.decrypt(&old), Ok(b"old".to_vec()));
    assert_eq!(update("alias/none", &two).expect_err("absent").code(), "NotFoundException");
    let list = |key_id| {
        let request = ListAliasesRequest { key_id, ..Default::default() };
        bench.engine.list_aliases(&bench.alice, request).expect("listed").aliases
    };
    assert_eq!(list(Some(one)).len(), 0);
    assert_eq!(list(Some(two.clone()))[0].alias_name, "alias/a");
    bench.engine.delete_alias(&bench.alice, DeleteAliasRequest { alias_name: "alias/a".into() }).expect("deleted");
    assert_eq!(bench.describe("alias/a").expect_err("gone").code(), "NotFoundException");
    for n in 0..50 {
        create(&format!("alias/n{n}"), &two).expect("within the quota");
    }
    assert_eq!(create("alias/n50", &two).expect_err("quota").code(), "LimitExceededException");
}

#[test]
fn the_key_of_the_service_makes_itself_and_cannot_be_changed() {
    let bench = Bench::new();
    let engine = &bench.engine;
    assert_eq!(bench.encrypt("alias/aws/kmsfs", b"x").expect_err("not the service").code(), "NotFoundException");
    let mount = Caller::local(Principal::mount(engine.account(), "v"), engine.region().clone())
        .via_service("kmsfs.us-east-1.local");
    let blob = encrypt(engine, &mount, "alias/aws/kmsfs", b"x").expect("created on first use");
    let metadata = bench.describe("alias/aws/kmsfs").expect("viewable");
    assert_eq!(metadata.key_manager, KeyManager::Aws);
    assert_eq!(decrypt(engine, &mount, &blob), Ok(b"x".to_vec()));

    let denied = "AccessDeniedException";
    assert_eq!(bench.decrypt(&blob).expect_err("only through the service").code(), denied);
    let id = || KeyIdRequest::from(metadata.key_id.as_str());
    let alice = &bench.alice;
    assert_eq!(engine.disable_key(alice, id()).expect_err("managed").code(), denied);
    assert_eq!(engine.disable_key(&mount, id()).expect_err("managed").code(), denied);
    assert_eq!(engine.disable_key_rotation(alice, id()).expect_err("managed").code(), denied);
    assert_eq!(engine.rotate_key_on_demand(alice, id()).expect_err("managed").code(), denied);
    assert_eq!(bench.schedule(&metadata.key_id, 7).expect_err("managed").code(), denied);
    let tag = Tag { tag_key: "k".into(), tag_value: "v".into() };
    let request = TagResourceRequest { key_id: metadata.key_id.clone(), tags: vec![tag] };
    assert_eq!(engine.tag_resource(alice, request).expect_err("managed").code(), denied);
    let request = CreateAliasRequest { alias_name: "alias/x".into(), target_key_id: metadata.key_id.clone() };
    assert_eq!(engine.create_alias(alice, request).expect_err("managed").code(), denied);
    // Only CreateAlias knows InvalidAliasNameException.
    let other = bench.key();
    let update = |name: &str| {
        let request = UpdateAliasRequest { alias_name: name.into(), target_key_id: other.clone() };
        engine.update_alias(alice, request).expect_err("managed").code()
    };
    let delete = |name: &str| {
        engine.delete_alias(alice, DeleteAliasRequest { alias_name: name.into() }).expect_err("managed").code()
    };
    let absent = "NotFoundException";
    for (name, code) in [("alias/aws/kmsfs", denied), ("alias/aws/ebs", absent), ("alias/", absent)] {
        assert_eq!((update(name), delete(name)), (code, code), "{name}");
    }

    let status = engine.get_key_rotation_status(alice, id()).expect("viewable");
    assert!(status.key_rotation_enabled);
    bench.days(365);
    assert_eq!(decrypt(engine, &mount, &blob), Ok(b"x".to_vec()));
    assert_eq!(bench.rotations(&metadata.key_id).len(), 1);
}

#[test]
fn tags_follow_their_rules() {
    let bench = Bench::new();
    let key = bench.key();
    let tag = |key: &str, value: &str| Tag { tag_key: key.into(), tag_value: value.into() };
    let add =
        |tags: Vec<Tag>| bench.engine.tag_resource(&bench.alice, TagResourceRequest { key_id: key.clone(), tags });
    add(vec![tag("b", "1"), tag("a", "2")]).expect("tagged");
    add(vec![tag("b", "3")]).expect("replaced");
    assert_eq!(add(vec![tag("x", ""), tag("x", "")]), Err(KmsError::Tag("Duplicate tag keys".into())));
    assert_eq!(add(vec![tag("aws:x", "")]), Err(KmsError::Tag("Tags beginning with aws: are reserved".into())));
    assert_eq!(add(vec![tag("", "")]).expect_err("empty").code(), "ValidationException");
    let many = (0..49).map(|n| tag(&format!("k{n}"), "")).collect();
    assert_eq!(add(many), Err(KmsError::Tag("Too many tags".into())));
    let list = || {
        let request = ListResourceTagsRequest { key_id: key.clone(), ..Default::default() };
        bench.engine.list_resource_tags(&bench.alice, request).expect("listed").tags
    };
    assert_eq!(list(), [tag("a", "2"), tag("b", "3")]);
    let request = UntagResourceRequest { key_id: key.clone(), tag_keys: vec!["a".into(), "absent".into()] };
    bench.engine.untag_resource(&bench.alice, request).expect("untagged");
    assert_eq!(list(), [tag("b", "3")]);
}

#[test]
fn pages_neither_skip_nor_repeat_and_markers_are_bound() {
    let bench = Bench::new();
    let mut keys: Vec<String> = (0..7).map(|_| bench.key()).collect();
    keys.sort();
    let page = |marker| {
        let request = ListKeysRequest { limit: Some(3), marker, ..Default::default() };
        bench.engine.list_keys(&bench.alice, request)
    };
    let first = page(None).expect("listed");
    assert!(first.truncated && first.keys.len() == 3);
    let late: Vec<String> = (0..3).map(|_| bench.key()).collect();
    let (mut seen, mut marker) = (first.keys.clone(), first.next_marker.clone());
    while marker.is_some() {
        let next = page(marker).expect("listed");
        assert_eq!(next.truncated, next.next_marker.is_some());
        seen.extend(next.keys);
        marker = next.next_marker;
    }
    let old: Vec<String> = seen.into_iter().map(|key| key.key_id).filter(|id| !late.contains(id)).collect();
    assert_eq!(old, keys);

    let marker = first.next_marker.expect("truncated");
    assert_eq!(page(Some("forged".into())).map(drop), Err(KmsError::InvalidMarker));
    let other = ListAliasesRequest { marker: Some(marker), ..Default::default() };
    assert_eq!(bench.engine.list_aliases(&bench.alice, other).map(drop), Err(KmsError::InvalidMarker));
    assert_eq!(
        bench
            .engine
            .list_keys(&bench.alice, ListKeysRequest { limit: Some(0), ..Default::default() })
            .map(drop)
            .expect_err("too small")
            .code(),
        "ValidationException"
    );
}

#[test]
fn descriptions_change() {
    let bench = Bench::new();
    let key_id = bench.key();
    let update = |description: String| {
        let request = UpdateKeyDescriptionRequest { key_id: key_id.clone(), description };
        bench.engine.update_key_description(&bench.alice, request)
    };
    update("new".into()).expect("updated");
    assert_eq!(bench.describe(&key_id).expect("there").description, "new");
    assert_eq!(update("x".repeat(8193)).expect_err("too long").code(), "ValidationException");
}
