//! Grants through the engine.

use serde_json::json;

use super::policies::{ACCOUNT, OTHER, administrator, reason, user};
use super::*;

fn grant(key_id: &str, grantee: &Caller, operations: &[GrantOperation]) -> CreateGrantRequest {
    CreateGrantRequest {
        key_id: key_id.to_owned(),
        grantee_principal: Some(grantee.principal().arn().to_owned()),
        operations: operations.to_vec(),
        ..Default::default()
    }
}

fn listed(bench: &Bench, key_id: &str) -> Vec<GrantListEntry> {
    let request = ListGrantsRequest { key_id: key_id.to_owned(), ..Default::default() };
    bench.engine.list_grants(&bench.alice, request).expect("listed").grants
}

fn subset(name: &str, value: &str) -> Option<GrantConstraints> {
    let context = EncryptionContext::new().with(name, value);
    Some(GrantConstraints { encryption_context_subset: Some(context), ..Default::default() })
}

fn retire(bench: &Bench, caller: &Caller, token: &str) -> Result<(), KmsError> {
    let request = RetireGrantRequest { grant_token: Some(token.to_owned()), ..Default::default() };
    bench.engine.retire_grant(caller, request)
}

#[test]
fn a_grant_permits_what_it_says_until_it_is_revoked() {
    let bench = Bench::new();
    let key = bench.key();
    let poor = user(&bench, ACCOUNT, "poor", None);
    let request = CreateGrantRequest {
        name: Some("n".into()),
        constraints: subset("kmsfs:volume", "v"),
        ..grant(&key, &poor, &[GrantOperation::Encrypt, GrantOperation::Decrypt])
    };
    let dry = CreateGrantRequest { dry_run: true, ..request.clone() };
    assert_eq!(bench.engine.create_grant(&bench.alice, dry).expect_err("dry").code(), "DryRunOperationException");
    assert!(listed(&bench, &key).is_empty());
    let made = bench.engine.create_grant(&bench.alice, request.clone()).expect("made");
    assert_eq!(made.grant_id.len(), 64);
    let again = bench.engine.create_grant(&bench.alice, request.clone()).expect("there");
    assert_eq!(again.grant_id, made.grant_id, "the same name and parameters");
    let other = CreateGrantRequest { constraints: None, ..request };
    let other = bench.engine.create_grant(&bench.alice, other).expect("made");
    assert_ne!(other.grant_id, made.grant_id, "the same name, other parameters");
    let unnamed = grant(&key, &poor, &[GrantOperation::Encrypt]);
    let ids = [(); 2].map(|()| bench.engine.create_grant(&bench.alice, unnamed.clone()).expect("made").grant_id);
    assert_ne!(ids[0], ids[1]);
    let entries = listed(&bench, &key);
    assert_eq!(entries.len(), 4);
    let entry = entries.iter().find(|entry| entry.grant_id == made.grant_id).expect("listed");
    assert_eq!((entry.name.as_str(), &entry.constraints), ("n", &subset("kmsfs:volume", "v")));
    assert_eq!(entry.issuing_account, format!("arn:aws:iam::{ACCOUNT}:root"));
    let json = serde_json::to_value(entry).expect("serialises");
    assert_eq!(json["Constraints"], json!({"EncryptionContextSubset": {"kmsfs:volume": "v"}}));

    let blob = encrypt(&bench.engine, &poor, &key, b"x").expect("granted");
    assert_eq!(decrypt(&bench.engine, &poor, &blob).expect("granted"), b"x");
    for id in [&made.grant_id, &other.grant_id, &ids[0], &ids[1]] {
        let request = RevokeGrantRequest { key_id: key.clone(), grant_id: id.clone(), dry_run: false };
        bench.engine.revoke_grant(&bench.alice, request.clone()).expect("revoked");
        let gone = bench.engine.revoke_grant(&bench.alice, request).expect_err("gone");
        assert_eq!(gone.code(), "NotFoundException");
    }
    assert!(listed(&bench, &key).is_empty());
    assert_eq!(decrypt(&bench.engine, &poor, &blob).expect_err("revoked").code(), "AccessDeniedException");
}

#[test]
fn constraints_bind_the_encryption_context() {
    let bench = Bench::new();
    let key = bench.key();
    let poor = user(&bench, ACCOUNT, "poor", None);
    let equals = |context| GrantConstraints { encryption_context_equals: Some(context), ..Default::default() };
    let cases = [
        (subset("kmsfs:file", "f"), true),
        (subset("kmsfs:file", "g"), false),
        (subset("KMSFS:file", "f"), false),
        (Some(equals(context())), true),
        (Some(equals(EncryptionContext::new().with("kmsfs:file", "f"))), false),
        (
            Some(GrantConstraints {
                source_arn: Some("arn:aws:ec2:us-east-1:000000000000:x".into()),
                ..Default::default()
            }),
            false,
        ),
    ];
    for (constraints, allowed) in cases {
        let operations = [GrantOperation::Encrypt, GrantOperation::DescribeKey];
        let request = CreateGrantRequest { constraints: constraints.clone(), ..grant(&key, &poor, &operations) };
        let made = bench.engine.create_grant(&bench.alice, request).expect("made");
        assert_eq!(encrypt(&bench.engine, &poor, &key, b"x").is_ok(), allowed, "{constraints:?}");
        let describe = DescribeKeyRequest { key_id: key.clone(), ..Default::default() };
        let by_source = constraints.is_some_and(|constraints| constraints.source_arn.is_some());
        assert_eq!(bench.engine.describe_key(&poor, describe).is_ok(), !by_source, "no context to constrain");
        let request = RevokeGrantRequest { key_id: key.clone(), grant_id: made.grant_id, dry_run: false };
        bench.engine.revoke_grant(&bench.alice, request).expect("revoked");
    }
}

#[test]
fn a_grantee_passes_on_no_more_than_it_has() {
    let bench = Bench::new();
    let key = bench.key();
    let (poor, friend) = (user(&bench, ACCOUNT, "poor", None), user(&bench, ACCOUNT, "friend", None));
    let request = CreateGrantRequest {
        constraints: subset("kmsfs:volume", "v"),
        ..grant(&key, &poor, &[GrantOperation::Encrypt, GrantOperation::CreateGrant])
    };
    bench.engine.create_grant(&bench.alice, request).expect("made");
    let pass = |operations: &[GrantOperation], constraints| {
        let request = CreateGrantRequest { constraints, ..grant(&key, &friend, operations) };
        bench.engine.create_grant(&poor, request).map(drop).map_err(|error| error.code())
    };
    let denied = Err("AccessDeniedException");
    assert_eq!(pass(&[GrantOperation::Decrypt], subset("kmsfs:volume", "v")), denied);
    assert_eq!(pass(&[GrantOperation::Encrypt], None), denied);
    assert_eq!(pass(&[GrantOperation::Encrypt], subset("kmsfs:volume", "w")), denied);
    assert_eq!(pass(&[GrantOperation::Encrypt], subset("kmsfs:volume", "v")), Ok(()));
    let exactly = GrantConstraints { encryption_context_equals: Some(context()), ..Default::default() };
    assert_eq!(pass(&[GrantOperation::Encrypt], Some(exactly)), Ok(()));
    assert!(encrypt(&bench.engine, &friend, &key, b"x").is_ok());
}

#[test]
fn who_may_retire() {
    let bench = Bench::new();
    let key = bench.key();
    let arn = bench.describe(&key).expect("there").arn.to_string();
    let names = ["grantee", "retiring", "stranger"];
    let [grantee, retiring, stranger] = names.map(|name| user(&bench, ACCOUNT, name, None));
    let foreign = administrator(&bench, OTHER, "foreign");
    let make = |operations: &[GrantOperation]| {
        let retiring_principal = Some(retiring.principal().arn().to_owned());
        let request = CreateGrantRequest { retiring_principal, ..grant(&key, &grantee, operations) };
        bench.engine.create_grant(&bench.alice, request).expect("made")
    };
    let plain = make(&[GrantOperation::Encrypt]);
    for caller in [&grantee, &stranger, &foreign] {
        let error = retire(&bench, caller, &plain.grant_token).expect_err("not theirs");
        assert_eq!(error.code(), "AccessDeniedException", "{caller:?}");
    }
    let retirable = |caller: &Caller, principal: &Caller| {
        let retiring_principal = Some(principal.principal().arn().to_owned());
        let request = ListRetirableGrantsRequest { retiring_principal, ..Default::default() };
        bench.engine.list_retirable_grants(caller, request)
    };
    let found = retirable(&bench.alice, &retiring).expect("listed").grants;
    assert_eq!(found.iter().map(|grant| grant.grant_id.as_str()).collect::<Vec<_>>(), [plain.grant_id.as_str()]);
    assert_eq!(retirable(&foreign, &retiring).expect_err("another account's").code(), "AccessDeniedException");
    // Explanations say the same.
    let explain = |caller: &Caller| {
        let request = ExplainRequest { key_id: Some(arn.clone()), action: "RetireGrant".into(), ..Default::default() };
        let explained = bench.engine.explain(caller, &request).expect("explained");
        assert_eq!(explained.steps.iter().filter(|step| step.source.starts_with("grant ")).count(), 1);
        (explained.allowed, explained.reason)
    };
    let id = &plain.grant_id;
    assert_eq!(explain(&retiring), (true, format!("allowed by grant {id}")));
    assert_eq!(explain(&foreign), (false, "denied: no grant of the key is the caller's to retire".to_owned()));
    let of_account = "denied because no identity-based policy allows the kms:RetireGrant action".to_owned();
    for caller in [&grantee, &stranger] {
        assert_eq!(explain(caller), (false, of_account.clone()));
    }
    assert_eq!(explain(&bench.alice), (true, "allowed by policy".to_owned()));
    retire(&bench, &retiring, &plain.grant_token).expect("the retiring principal");
    assert_eq!(retire(&bench, &retiring, &plain.grant_token).expect_err("gone").code(), "NotFoundException");

    let with_permission = make(&[GrantOperation::Encrypt, GrantOperation::RetireGrant]);
    let dry = RetireGrantRequest {
        grant_token: Some(with_permission.grant_token.clone()),
        dry_run: true,
        ..Default::default()
    };
    assert_eq!(bench.engine.retire_grant(&grantee, dry).expect_err("dry").code(), "DryRunOperationException");
    retire(&bench, &grantee, &with_permission.grant_token).expect("a grantee that may");

    let by_id = make(&[GrantOperation::Encrypt]);
    let request = |grant_id: &str| RetireGrantRequest {
        key_id: Some(arn.clone()),
        grant_id: Some(grant_id.to_owned()),
        ..Default::default()
    };
    for id in [by_id.grant_id.as_str(), &"0".repeat(64)] {
        let error = bench.engine.retire_grant(&foreign, request(id)).expect_err("not theirs");
        assert_eq!(error.code(), "AccessDeniedException", "another account learns nothing");
    }
    bench.engine.retire_grant(&bench.alice, request(&by_id.grant_id)).expect("the issuing account");
    assert_eq!(
        bench.engine.retire_grant(&bench.alice, request("x")).expect_err("no id").code(),
        "InvalidGrantIdException"
    );
    let both = RetireGrantRequest { grant_token: Some("t".into()), ..request(&by_id.grant_id) };
    assert_eq!(bench.engine.retire_grant(&bench.alice, both).expect_err("both forms").code(), "ValidationException");
}

#[test]
fn tokens_are_authentic_and_at_most_ten() {
    let bench = Bench::new();
    let key = bench.key();
    let made = bench.engine.create_grant(&bench.alice, grant(&key, &bench.alice, &[GrantOperation::Encrypt]));
    let token = made.expect("made").grant_token;
    let with = |grant_tokens: Vec<String>| {
        let request = GenerateDataKeyRequest {
            key_id: key.clone(),
            number_of_bytes: Some(32),
            grant_tokens,
            ..Default::default()
        };
        bench.engine.generate_data_key(&bench.alice, request).map(drop).map_err(|error| error.code())
    };
    assert_eq!(with(vec![token.clone()]), Ok(()));
    assert_eq!(with(vec![token.clone(); 10]), Ok(()));
    assert_eq!(with(vec![token.clone(); 11]), Err("ValidationException"));
    assert_eq!(with(vec![token.clone(), "bm90LWEtdG9rZW4=".into()]), Err("InvalidGrantTokenException"));
    retire(&bench, &bench.alice, &token).expect("retired");
    assert_eq!(with(vec![token]), Ok(()), "the token of a grant that is gone does nothing");
}

#[test]
fn requests_are_checked() {
    let bench = Bench::new();
    let key = bench.key();
    let base = grant(&key, &bench.alice, &[GrantOperation::Encrypt]);
    let code =
        |request: CreateGrantRequest| bench.engine.create_grant(&bench.alice, request).expect_err("refused").code();
    let validation = "ValidationException";
    assert_eq!(code(CreateGrantRequest { operations: vec![], ..base.clone() }), validation);
    assert_eq!(code(CreateGrantRequest { operations: vec![GrantOperation::Sign], ..base.clone() }), validation);
    assert_eq!(code(CreateGrantRequest { grantee_principal: None, ..base.clone() }), validation);
    assert_eq!(code(CreateGrantRequest { name: Some("a b".into()), ..base.clone() }), validation);
    let service = Some("ebs.amazonaws.com".to_owned());
    assert_eq!(code(CreateGrantRequest { grantee_service_principal: service.clone(), ..base.clone() }), validation);
    let for_service =
        CreateGrantRequest { grantee_principal: None, grantee_service_principal: service.clone(), ..base.clone() };
    assert_eq!(code(for_service.clone()), validation, "needs a source and somebody who retires");
    let invalid = Some("arn:aws:iam::000000000000:group/a".to_owned());
    assert_eq!(code(CreateGrantRequest { grantee_principal: invalid, ..base.clone() }), "InvalidArnException");
    let many = (0..9).map(|i| (i.to_string(), "v".to_owned())).collect::<EncryptionContext>();
    let constraints = Some(GrantConstraints { encryption_context_subset: Some(many), ..Default::default() });
    assert_eq!(code(CreateGrantRequest { constraints, ..base.clone() }), validation);
    assert_eq!(code(CreateGrantRequest { constraints: subset("n", &"v".repeat(385)), ..base.clone() }), validation);
    bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("disabled");
    assert_eq!(code(base), "DisabledException");
    bench.engine.enable_key(&bench.alice, key.as_str().into()).expect("enabled");

    let source = Some(GrantConstraints {
        source_arn: Some("arn:aws:ec2:us-east-1:000000000000:x".into()),
        ..Default::default()
    });
    let request =
        CreateGrantRequest { constraints: source, retiring_service_principal: service.clone(), ..for_service };
    bench.engine.create_grant(&bench.alice, request).expect("made");
    let poor = user(&bench, ACCOUNT, "poor", None);
    let through = poor.clone().via_service("ebs.amazonaws.com");
    assert!(
        encrypt(&bench.engine, &through.clone().for_resource("arn:aws:ec2:us-east-1:000000000000:x"), &key, b"x")
            .is_ok()
    );
    assert!(encrypt(&bench.engine, &through, &key, b"x").is_err());
    assert!(encrypt(&bench.engine, &poor.for_resource("arn:aws:ec2:us-east-1:000000000000:x"), &key, b"x").is_err());
}

#[test]
fn grants_reach_other_accounts_and_their_users() {
    let bench = Bench::new();
    let key = bench.key();
    let arn = bench.describe(&key).expect("there").arn.to_string();
    let bob = administrator(&bench, OTHER, "bob");
    let poor = user(&bench, OTHER, "poor", None);
    let request = CreateGrantRequest {
        grantee_principal: Some(format!("arn:aws:iam::{OTHER}:root")),
        ..grant(&key, &bob, &[GrantOperation::Encrypt])
    };
    let made = bench.engine.create_grant(&bench.alice, request).expect("made");
    assert!(encrypt(&bench.engine, &bob, &arn, b"x").is_ok());
    assert_eq!(
        reason(encrypt(&bench.engine, &poor, &arn, b"x").expect_err("no identity policy")),
        "because no identity-based policy allows the kms:Encrypt action"
    );
    let request = RevokeGrantRequest { key_id: key, grant_id: made.grant_id, dry_run: false };
    bench.engine.revoke_grant(&bench.alice, request).expect("revoked");
    assert!(encrypt(&bench.engine, &bob, &arn, b"x").is_err());
}

#[test]
fn lists_come_in_pages_and_grants_end_with_their_key() {
    let bench = Bench::new();
    let key = bench.key();
    let base = grant(&key, &bench.alice, &[GrantOperation::Encrypt]);
    let mut made: Vec<String> =
        (0..7).map(|_| bench.engine.create_grant(&bench.alice, base.clone()).expect("made").grant_id).collect();
    let (mut found, mut marker) = (Vec::new(), None);
    loop {
        let request = ListGrantsRequest { key_id: key.clone(), limit: Some(3), marker, ..Default::default() };
        let page = bench.engine.list_grants(&bench.alice, request).expect("listed");
        found.extend(page.grants.into_iter().map(|grant| grant.grant_id));
        marker = page.next_marker;
        if !page.truncated {
            break;
        }
    }
    made.sort();
    assert_eq!(found, made);
    let request = ListGrantsRequest { key_id: key.clone(), grant_id: Some(made[3].clone()), ..Default::default() };
    let one = bench.engine.list_grants(&bench.alice, request).expect("listed").grants;
    assert_eq!((one.len(), &one[0].grant_id), (1, &made[3]));
    // Another process has them too, and a deleted key takes them along.
    let another = bench.another().expect("opened");
    let request = ListGrantsRequest { key_id: key.clone(), ..Default::default() };
    assert_eq!(another.list_grants(&bench.alice, request).expect("listed").grants.len(), 7);
    bench.schedule(&key, 7).expect("scheduled");
    for _ in 0..8 {
        bench.hours(23);
        bench.engine.maintain().expect("maintained");
    }
    let snapshot = bench.engine.shared.store.current().expect("read");
    assert_eq!(snapshot.grants.iter().count(), 0);
}
