//! Random policies and requests: both evaluators agree.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map as Object, Value, json};

use super::naive::{self, Asked};
use super::*;

const ROOT: &str = "arn:aws:iam::111122223333:root";
const ALICE: &str = "arn:aws:iam::111122223333:user/alice";
const APP: &str = "arn:aws:iam::111122223333:role/team/app";
const BOB: &str = "arn:aws:iam::444455556666:user/bob";
const OTHER: &str = "arn:aws:iam::444455556666:root";
const ALIAS: &str = "arn:aws:kms:us-east-1:111122223333:alias/a:b";

/// One value, or a list of up to three.
fn some<T: serde::Serialize + Clone + std::fmt::Debug + 'static>(values: Vec<T>) -> impl Strategy<Value = Value> {
    prop_oneof![select(values.clone()).prop_map(|v| json!(v)), vec(select(values), 1..4).prop_map(|v| json!(v))]
}

fn principals() -> impl Strategy<Value = Value> {
    let names = vec!["*", ROOT, ALICE, APP, BOB, OTHER, "111122223333", "444455556666"];
    prop_oneof![1 => Just(json!("*")), 6 => some(names).prop_map(|names| json!({ "AWS": names }))]
}

fn actions() -> impl Strategy<Value = Value> {
    some(vec!["*", "kms:*", "kms:Encrypt", "KMS:en*", "kms:?ecrypt", "kms:ReEncrypt*", "s3:Encrypt", "kms:CreateGrant"])
}

fn resources() -> impl Strategy<Value = Value> {
    let some_keys = "arn:aws:kms:*:111122223333:key/*";
    some(vec![
        "*",
        KEY,
        some_keys,
        "arn:aws:kms:us-*:*:key/?234*",
        "arn:aws:kms:*:444455556666:key/*",
        ALIAS,
        "arn:aws:kms:*:*:${aws:PrincipalTag/kind}/*",
        "arn:aws:kms:*:*:${aws:PrincipalTag/kind, 'alias'}/*",
        "arn:aws:kms:*:${aws:PrincipalAccount}:key/*",
    ])
}

fn conditions() -> impl Strategy<Value = Value> {
    let texts = || {
        (
            select(vec!["", "ForAllValues:", "ForAnyValue:"]),
            select(vec![
                "StringEquals",
                "StringNotEquals",
                "StringLike",
                "StringNotLike",
                "StringEqualsIgnoreCase",
                "StringNotEqualsIgnoreCase",
            ]),
            select(vec!["", "IfExists"]),
            select(vec!["kms:ViaService", "kms:EncryptionContextKeys", "kms:EncryptionContext:fs", "kms:unknown"]),
            some(vec![
                "fs",
                "FS",
                "f*",
                "path",
                "?s",
                "vol-1",
                "vol-*",
                "",
                "${kms:EncryptionContext:fs}",
                "${aws:PrincipalTag/kind, 'fs'}",
                "${aws:PrincipalTag/kind}",
                "${KMS:EncryptionContextKeys}",
                "vol-${?}",
                "v${*}*",
                "${",
                "f${}",
            ]),
        )
            .prop_map(|(set, operator, suffix, key, values)| (format!("{set}{operator}{suffix}"), key, values))
    };
    let fixed = |operators: Vec<&'static str>, key: &'static str, values: Vec<Value>| {
        (select(operators), select(vec!["", "IfExists"]), some(values))
            .prop_map(move |(operator, suffix, values)| (format!("{operator}{suffix}"), key, values))
    };
    let one = prop_oneof![
        4 => texts(),
        1 => fixed(
            vec!["NumericEquals", "NumericNotEquals", "NumericLessThan", "NumericGreaterThanEquals"],
            "kms:RotationPeriodInDays",
            vec![json!(90), json!("365"), json!("100.5")],
        ),
        1 => fixed(
            vec!["DateEquals", "DateNotEquals", "DateLessThan"],
            "aws:CurrentTime",
            vec![json!("2026-01-01T00:00:00Z"), json!("2026-05-01T00:00:00Z")],
        ),
        1 => fixed(
            vec!["IpAddress", "NotIpAddress"],
            "aws:SourceIp",
            vec![json!("10.0.0.0/8"), json!("10.1.2.3"), json!("10.1.128.0/17"), json!("0.0.0.0/0")],
        ),
        1 => fixed(vec!["Bool"], "kms:MultiRegion", vec![json!(true), json!("false")]),
        1 => fixed(vec!["ArnLike", "ArnNotLike"], "aws:PrincipalArn", vec![
                json!(ALICE),
                json!("arn:aws:iam::*:role/*"),
                json!("arn:aws:iam::${aws:PrincipalAccount}:*"),
                json!("arn:aws:iam::*:user/${aws:PrincipalTag/kind, 'alice'}"),
            ]),
        1 => (select(vec!["kms:ViaService", "kms:unknown"]), some(vec!["true", "false"]))
            .prop_map(|(key, values)| ("Null".to_owned(), key, values)),
    ];
    vec(one, 0..3).prop_map(|all| {
        let mut operators = Object::new();
        for (operator, key, values) in all {
            let keys = operators.entry(operator).or_insert_with(|| json!({}));
            keys[key] = values;
        }
        Value::Object(operators)
    })
}

fn statement(with_principal: bool) -> impl Strategy<Value = Value> {
    let parts = (any::<bool>(), principals(), actions(), resources(), option::weighted(0.6, conditions()));
    let negated = (prop::bool::weighted(0.2), prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    (parts, negated, prop::bool::weighted(0.05)).prop_map(move |(parts, negated, without_action)| {
        let (allow, principals, actions, resources, condition) = parts;
        let name = |not: bool, name: &str| if not { format!("Not{name}") } else { name.to_owned() };
        let mut all = Object::new();
        all.insert("Effect".into(), json!(if allow { "Allow" } else { "Deny" }));
        if with_principal {
            all.insert(name(negated.0, "Principal"), principals);
        }
        if !(with_principal && without_action) {
            all.insert(name(negated.1, "Action"), actions);
        }
        all.insert(name(negated.2, "Resource"), resources);
        condition.map(|condition| all.insert("Condition".into(), condition));
        Value::Object(all)
    })
}

fn document(with_principal: bool) -> impl Strategy<Value = Value> {
    let version = prop_oneof![3 => Just(json!("2012-10-17")), 1 => Just(json!("2008-10-17")), 1 => Just(Value::Null)];
    (version, vec(statement(with_principal), 0..4)).prop_map(|(version, all)| match version {
        Value::Null => json!({ "Statement": all }),
        version => json!({"Statement": all, "Version": version}),
    })
}

fn attributes() -> impl Strategy<Value = Map> {
    let value = |key: &'static str, values: Vec<&'static str>| {
        option::of(select(values)).prop_map(move |value| value.map(|value| (key, vec![value])))
    };
    let keys = vec(select(vec!["fs", "path", "Fs"]), 0..3).prop_map(|all| Some(("kms:encryptioncontextkeys", all)));
    let all = (
        value("kms:viaservice", vec!["fs", "ec2", "vol-1", "vol-?", "v*", "${"]),
        keys,
        value("kms:encryptioncontext:fs", vec!["vol-1", "vol-2", "VOL-1", "v*"]),
        value("kms:rotationperiodindays", vec!["90", "365", "x"]),
        value("aws:currenttime", vec!["2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z"]),
        value("aws:sourceip", vec!["10.1.2.3", "10.1.200.3", "192.0.2.1"]),
        value("kms:multiregion", vec!["true", "false"]),
        value("aws:principalarn", vec![ALICE, APP]),
        value("aws:principaltag/kind", vec!["key", "k*", "fs", "alice", "a:b"]),
        value("aws:principalaccount", vec!["111122223333", "*"]),
    );
    all.prop_map(|(a, b, c, d, e, f, g, h, i, j)| {
        let all = [a, b, c, d, e, f, g, h, i, j].into_iter().flatten();
        let owned = |values: Vec<&str>| values.into_iter().map(str::to_owned).collect::<Vec<_>>();
        Map(all.map(|(key, values)| (key.to_owned(), owned(values))).filter(|(_, values)| !values.is_empty()).collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn both_evaluators_agree(
        key in document(true),
        identity in vec(document(false), 0..3),
        who in select(vec![ROOT, ALICE, APP, BOB, OTHER]),
        action in select(vec!["Encrypt", "Decrypt", "ReEncryptFrom", "CreateGrant"]),
        resource in select(vec![KEY, ALIAS]),
        attributes in attributes(),
        grants in vec(any::<bool>(), 0..2),
        explains in any::<bool>(),
    ) {
        let asked = Asked { principal: who, action, resource, attributes: &attributes, owner: OWNER, explained: explains };
        let expected = naive::allowed(&asked, &key, &identity, &grants);

        let policy = Policy::parse(&key.to_string(), Kind::Key).expect("a policy");
        let parsed: Vec<Policy> =
            identity.iter().map(|text| Policy::parse(&text.to_string(), Kind::Identity).expect("a policy")).collect();
        let named: Vec<(&str, &Policy)> = parsed.iter().map(|policy| ("p", policy)).collect();
        let candidates = || {
            let reach = |names_caller: &bool| if *names_caller { Reach::Caller } else { Reach::Account };
            grants.iter().map(|grant| Candidate { id: "g".into(), reach: reach(grant), refusal: None }).collect()
        };
        let principal = principal(who);
        let request = Request { principal: &principal, action, resource, attributes: &attributes };
        let question = Question {
            request: &request,
            key: Some(KeyPolicy { owner: OWNER, policy: &policy, grants: &candidates }),
            identity: &named,
        };
        let mut steps = 0;
        let mut count = |_: &Step<'_>| steps += 1;
        let found = match decide(&question, explains.then_some(&mut count)) {
            Decision::Allowed { .. } => Ok(()),
            Decision::Denied(Reason::KeyPolicyDenies) => Err("deny resource"),
            Decision::Denied(Reason::IdentityPolicyDenies) => Err("deny identity"),
            Decision::Denied(Reason::NoKeyPolicy | Reason::ForeignManagement) => Err("no resource"),
            Decision::Denied(Reason::DeniesUnseen) => Err("deny unseen"),
            Decision::Denied(Reason::NoIdentityPolicy) => Err("no identity"),
        };
        prop_assert_eq!(found, expected);
        if explains {
            let statements: usize = parsed.iter().chain([&policy]).map(|policy| policy.statements.len()).sum();
            prop_assert!(steps >= statements, "every statement is explained");
        }
    }

    #[test]
    fn patterns_match_as_defined(pattern in "[ab*?\u{e4}]{0,8}", text in "[ab\u{e4}]{0,8}") {
        let found = crate::kms::policy::pattern::Pattern::new(&pattern).matches(&text);
        prop_assert_eq!(found, naive::glob(&pattern, &text));
    }

    #[test]
    fn no_document_makes_the_parser_fail(text in "\\PC{0,200}", document in document(true), cut in 0usize..400) {
        let _ = Policy::parse(&text, Kind::Key).map_err(|error| error.to_string());
        let document = document.to_string();
        let cut = document.char_indices().map(|(at, _)| at).take_while(|at| *at <= cut).last().unwrap_or(0);
        prop_assert!(cut == document.len() || Policy::parse(&document[..cut], Kind::Key).is_err());
    }
}
