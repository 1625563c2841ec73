//! Policy variables and the keys of conditions that say who calls, through the engine.

use serde_json::{Value, json};

use super::policies::{ACCOUNT, reason, user};
use super::*;

/// An identity policy of one statement that allows `kms:Encrypt`, and `elements` on top.
fn allowing(version: &str, elements: Value) -> String {
    let mut statement = json!({"Effect": "Allow", "Action": "kms:Encrypt", "Resource": "*"});
    for (name, value) in elements.as_object().expect("an object") {
        statement[name] = value.clone();
    }
    json!({"Version": version, "Statement": statement}).to_string()
}

fn tag(bench: &Bench, caller: &Caller, tags: &[(&str, &str)]) {
    let tags: Vec<Tag> =
        tags.iter().map(|(key, value)| Tag { tag_key: (*key).into(), tag_value: (*value).into() }).collect();
    bench.engine.tag_identity(&bench.alice, caller.principal(), &tags).expect("tagged");
}

fn tagged_key(bench: &Bench, owner: &str) -> String {
    let tags = vec![Tag { tag_key: "owner".into(), tag_value: owner.into() }];
    let request = CreateKeyRequest { tags, ..Default::default() };
    bench.engine.create_key(&bench.alice, request).expect("created").key_metadata.key_id
}

#[test]
fn everybody_uses_the_keys_that_are_tagged_with_their_name() {
    let bench = Bench::new();
    let own = json!({"Condition": {"StringEquals": {"aws:ResourceTag/owner": "${aws:username}"}}});
    let ann = user(&bench, ACCOUNT, "team/ann", Some(&allowing("2012-10-17", own.clone())));
    let ben = user(&bench, ACCOUNT, "ben", Some(&allowing("2012-10-17", own.clone())));
    let old = user(&bench, ACCOUNT, "old", Some(&allowing("2008-10-17", own.clone())));
    let (of_ann, of_ben) = (tagged_key(&bench, "ann"), tagged_key(&bench, "ben"));
    encrypt(&bench.engine, &ann, &of_ann, b"x").expect("hers");
    encrypt(&bench.engine, &ben, &of_ben, b"x").expect("his");
    let error = encrypt(&bench.engine, &ann, &of_ben, b"x").expect_err("his");
    assert_eq!(reason(error), "because no identity-based policy allows the kms:Encrypt action");
    encrypt(&bench.engine, &ben, &of_ann, b"x").expect_err("hers");
    // In the old version of the language it is a text like any other.
    encrypt(&bench.engine, &old, &tagged_key(&bench, "old"), b"x").expect_err("not replaced");
    encrypt(&bench.engine, &old, &tagged_key(&bench, "${aws:username}"), b"x").expect("literally so");
    // A role has no user name.
    let principal = Principal::named(&ACCOUNT.parse().expect("digits"), PrincipalKind::Role, "ann").expect("a name");
    let policy = allowing("2012-10-17", own);
    bench.engine.create_identity(&bench.alice, &principal, Some(("p", &policy))).expect("created");
    let role = Caller::new(principal, bench.engine.region().clone());
    encrypt(&bench.engine, &role, &of_ann, b"x").expect_err("no user");
}

#[test]
fn tags_of_the_caller_say_which_resources() {
    let bench = Bench::new();
    let (one, two) = (bench.key(), bench.key());
    let resource = "arn:aws:kms:*:*:key/${aws:PrincipalTag/key, 'none'}";
    let ann = user(&bench, ACCOUNT, "ann", Some(&allowing("2012-10-17", json!({"Resource": resource}))));
    encrypt(&bench.engine, &ann, &one, b"x").expect_err("no tag yet");
    tag(&bench, &ann, &[("Key", &one), ("cost", "7")]);
    encrypt(&bench.engine, &ann, &one, b"x").expect("tagged with its id");
    encrypt(&bench.engine, &ann, &two, b"x").expect_err("the other");
    tag(&bench, &ann, &[("Key", &two)]);
    encrypt(&bench.engine, &ann, &two, b"x").expect("now this one");
    // A wildcard in a tag is none: who may set tags must not become an administrator.
    tag(&bench, &ann, &[("Key", "*")]);
    encrypt(&bench.engine, &ann, &one, b"x").expect_err("no wildcard");
    tag(&bench, &ann, &[("Key", &one)]);
    let policies = bench.engine.identities().expect("listed");
    let found = policies.iter().find(|one| one.arn == ann.principal().arn()).expect("listed");
    assert_eq!(found.tags.iter().map(|tag| &*tag.tag_key).collect::<Vec<_>>(), ["Key", "cost"]);
    bench.engine.untag_identity(&bench.alice, ann.principal(), &["Key".into(), "absent".into()]).expect("untagged");
    encrypt(&bench.engine, &ann, &one, b"x").expect_err("no tag any more");
    // Policies and tags do not take one another along.
    bench
        .engine
        .put_identity_policy(&bench.alice, ann.principal(), "q", &allowing("2012-10-17", json!({})))
        .expect("put");
    assert_eq!(bench.engine.identity_policies(ann.principal()).expect("there").len(), 2);
    let reopened = bench.another().expect("opened").identities().expect("listed");
    let found = reopened.iter().find(|one| one.arn == ann.principal().arn()).expect("listed");
    assert_eq!((found.tags.len(), found.policy_names.len()), (1, 2));
    let too_many: Vec<Tag> = (0..50).map(|at| Tag { tag_key: at.to_string(), tag_value: String::new() }).collect();
    let error = bench.engine.tag_identity(&bench.alice, ann.principal(), &too_many).expect_err("51");
    assert_eq!(error.code(), "TagException");
}

#[test]
fn keys_that_say_who_calls_and_when() {
    let bench = Bench::new();
    let key = bench.key();
    let region = bench.engine.region().clone();
    let account: crate::types::AccountId = ACCOUNT.parse().expect("digits");
    let may = |caller: &Caller, condition: Value| {
        let statement = json!([
            {"Effect": "Allow", "Principal": {"AWS": caller.principal().arn()}, "Action": "kms:*", "Resource": "*",
             "Condition": condition},
            {"Effect": "Allow", "Principal": {"AWS": bench.alice.principal().arn()}, "Action": "kms:*", "Resource": "*"},
        ]);
        let policy = json!({"Version": "2012-10-17", "Statement": statement}).to_string();
        let request = PutKeyPolicyRequest { key_id: key.clone(), policy, ..Default::default() };
        bench.engine.put_key_policy(&bench.alice, request).expect("put");
        encrypt(&bench.engine, caller, &key, b"x").is_ok()
    };
    let ann = user(&bench, ACCOUNT, "ann", None).from_address("10.1.2.3", "agent");
    let root = Caller::new(Principal::root(&account), region.clone());
    let mount = Caller::new(Principal::mount(&account, "0a1b"), region.clone());
    let equals = |key: &str, value: &str| json!({"StringEquals": {key: value}});
    for (caller, key, value) in [
        (&ann, "aws:username", "ann"),
        (&ann, "aws:userid", "ann"),
        (&root, "aws:userid", ACCOUNT),
        (&mount, "aws:userid", "0a1b"),
        (&ann, "aws:PrincipalType", "User"),
        (&root, "aws:PrincipalType", "Account"),
        (&mount, "aws:PrincipalType", "AssumedRole"),
        (&ann, "aws:RequestedRegion", "us-east-1"),
        (&ann, "aws:PrincipalAccount", "${kms:CallerAccount}"),
        (&ann, "aws:SourceIp", "10.${*, 'x'}1.2.3"),
        (&ann, "aws:CurrentTime", "${aws:CurrentTime}"),
        (&ann, "aws:EpochTime", "1767225600"),
    ] {
        let found = may(caller, equals(key, value));
        // `${*, 'x'}` is no variable.
        assert_eq!(found, !value.contains("${*,"), "{key} {value}");
    }
    assert!(may(&ann, json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}, "Null": {"aws:username": "false"}})));
    assert!(may(&mount, json!({"Null": {"aws:username": "true"}})));
    assert!(may(&ann, json!({"StringLike": {"aws:SourceIp": "10.${aws:PrincipalTag/net, '1'}.*"}})));
    assert!(may(&ann, json!({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::${aws:PrincipalAccount}:user/*"}})));
    assert!(!may(&ann, json!({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::${aws:PrincipalTag/none}:user/*"}})));
    assert!(may(&ann, json!({"StringNotEquals": {"aws:username": "${aws:PrincipalTag/none}"}})));
}
