//! The evaluator against cases of AWS's documentation, and against a second, naive evaluator that works on the JSON.

mod naive;
mod random;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::kms::policy::decide::Refusal;

const KEY: &str = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const OWNER: &str = "111122223333";

/// Condition keys in lower case with their values.
#[derive(Debug, Clone, Default)]
pub struct Map(pub BTreeMap<String, Vec<String>>);

impl Attributes for Map {
    fn values(&self, key: &str) -> Vec<Cow<'_, str>> {
        self.0.get(key).into_iter().flatten().map(|value| value.as_str().into()).collect()
    }
}

fn map(pairs: &[(&str, &[&str])]) -> Map {
    let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    Map(pairs.iter().map(|(key, list)| (key.to_lowercase(), values(list))).collect())
}

fn principal(arn: &str) -> Principal {
    arn.parse().expect("an ARN")
}

fn alice() -> Principal {
    principal("arn:aws:iam::111122223333:user/alice")
}

/// A key policy of one statement that allows everybody everything, with `element` on top.
fn everyone(elements: Value) -> Policy {
    let mut statement = json!({"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"});
    for (name, value) in elements.as_object().expect("an object") {
        statement[name] = value.clone();
    }
    let document = json!({"Version": "2012-10-17", "Statement": statement}).to_string();
    Policy::parse(&document, Kind::Key).expect("a policy")
}

fn holds(condition: Value, attributes: &Map) -> bool {
    let policy = everyone(json!({"Condition": condition}));
    let alice = alice();
    let request = Request { principal: &alice, action: "Encrypt", resource: KEY, attributes };
    matches!(policy.statements[0].relation(&request), Relation::Applies(_))
}

fn judge(key: &str, identity: &[&str], principal: &Principal, grants: Vec<Candidate>) -> Decision {
    let policy = Policy::parse(key, Kind::Key).expect("a key policy");
    let identity: Vec<Policy> =
        identity.iter().map(|text| Policy::parse(text, Kind::Identity).expect("a policy")).collect();
    let identity: Vec<(&str, &Policy)> = identity.iter().map(|policy| ("p", policy)).collect();
    let request = Request { principal, action: "Encrypt", resource: KEY, attributes: &Map::default() };
    let grants = || grants.clone();
    let key = Some(KeyPolicy { owner: OWNER, policy: &policy, grants: &grants });
    decide(&Question { request: &request, key, identity: &identity }, None)
}

const ADMIN: &str = r#"{"Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}"#;
const ALLOWED: Decision = Decision::Allowed { grant: None };

#[test]
fn the_default_policy_delegates_to_the_account() {
    let default = default_document(OWNER);
    let root = principal("arn:aws:iam::111122223333:root");
    let stranger = principal("arn:aws:iam::444455556666:user/bob");
    assert_eq!(judge(&default, &[], &root, vec![]), ALLOWED);
    assert_eq!(judge(&default, &[ADMIN], &alice(), vec![]), ALLOWED);
    assert_eq!(judge(&default, &[], &alice(), vec![]), Decision::Denied(Reason::NoIdentityPolicy));
    assert_eq!(judge(&default, &[ADMIN], &stranger, vec![]), Decision::Denied(Reason::NoKeyPolicy));
}

#[test]
fn a_named_user_needs_nothing_else_and_root_has_no_right_of_its_own() {
    let named = r#"{"Statement":[{"Effect":"Allow","Principal":{"AWS":["arn:aws:iam::111122223333:user/alice",
        "arn:aws:iam::444455556666:user/bob"]},"Action":"kms:Encrypt","Resource":"*"}]}"#;
    let root = principal("arn:aws:iam::111122223333:root");
    let bob = principal("arn:aws:iam::444455556666:user/bob");
    assert_eq!(judge(named, &[], &alice(), vec![]), ALLOWED);
    assert_eq!(judge(named, &[ADMIN], &root, vec![]), Decision::Denied(Reason::NoKeyPolicy));
    // Across accounts both sides must agree.
    assert_eq!(judge(named, &[], &bob, vec![]), Decision::Denied(Reason::NoIdentityPolicy));
    assert_eq!(judge(named, &[ADMIN], &bob, vec![]), ALLOWED);
}

#[test]
fn an_explicit_deny_wins_wherever_it_stands() {
    let default = default_document(OWNER);
    let deny = r#"{"Statement":{"Effect":"Deny","Action":"kms:En*","Resource":"*"}}"#;
    assert_eq!(judge(&default, &[ADMIN, deny], &alice(), vec![]), Decision::Denied(Reason::IdentityPolicyDenies));
    let deny = r#"{"Statement":[{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"},
        {"Effect":"Deny","Principal":{"AWS":"111122223333"},"NotAction":"kms:PutKeyPolicy","Resource":"*"}]}"#;
    let grant = Candidate { id: "g".into(), reach: Reach::Caller, refusal: None };
    assert_eq!(judge(deny, &[ADMIN], &alice(), vec![grant]), Decision::Denied(Reason::KeyPolicyDenies));
}

#[test]
fn grants_permit_what_policies_do_not() {
    let nothing = r#"{"Statement":[]}"#;
    let grant = |reach, refusal| vec![Candidate { id: "g".into(), reach, refusal }];
    let by_grant = Decision::Allowed { grant: Some("g".into()) };
    let bob = principal("arn:aws:iam::444455556666:user/bob");
    assert_eq!(judge(nothing, &[], &alice(), grant(Reach::Caller, None)), by_grant);
    assert_eq!(judge(nothing, &[ADMIN], &alice(), grant(Reach::Account, None)), by_grant);
    assert_eq!(judge(nothing, &[], &alice(), grant(Reach::Account, None)), Decision::Denied(Reason::NoIdentityPolicy));
    let refused = grant(Reach::Caller, Some(Refusal::Constraints));
    assert_eq!(judge(nothing, &[ADMIN], &alice(), refused), Decision::Denied(Reason::NoKeyPolicy));
    assert_eq!(judge(nothing, &[], &bob, grant(Reach::Caller, None)), Decision::Denied(Reason::NoIdentityPolicy));
    assert_eq!(judge(nothing, &[ADMIN], &bob, grant(Reach::Caller, None)), by_grant);
}

#[test]
fn not_principal_exempts_by_ones_own_name() {
    assert!(Policy::parse(r#"{"Statement":{"Effect":"Allow","Principal":null}}"#, Kind::Key).is_err());
    let text = |names: Value| {
        json!({"Statement": {"Effect": "Deny", "NotPrincipal": names, "Action": "*", "Resource": "*"}}).to_string()
    };
    let applies = |names: Value, principal: &Principal| {
        let policy = Policy::parse(&text(names), Kind::Key).expect("a policy");
        let request = Request { principal, action: "Encrypt", resource: KEY, attributes: &Map::default() };
        matches!(policy.statements[0].relation(&request), Relation::Applies(_))
    };
    let account = json!({"AWS": "arn:aws:iam::111122223333:root"});
    assert!(!applies(json!({"AWS": "arn:aws:iam::111122223333:user/alice"}), &alice()));
    assert!(applies(account.clone(), &alice()));
    assert!(!applies(account, &principal("arn:aws:iam::111122223333:root")));
    assert!(!applies(json!("*"), &alice()));
}

#[test]
fn operators() {
    let request = map(&[
        ("kms:ViaService", &["ec2.us-east-1.amazonaws.com"]),
        ("kms:EncryptionContextKeys", &["fs", "path"]),
        ("kms:ScheduleKeyDeletionPendingWindowInDays", &["7"]),
        ("kms:MultiRegion", &["false"]),
        ("aws:SourceIp", &["10.1.2.3"]),
        ("aws:CurrentTime", &["2026-05-01T09:26:53Z"]),
        ("kms:ValidTo", &["1546257599.5"]),
        ("aws:PrincipalArn", &["arn:aws:iam::111122223333:role/team/app"]),
    ]);
    let yes = [
        json!({"StringEquals": {"KMS:viaservice": "ec2.us-east-1.amazonaws.com"}}),
        json!({"StringLike": {"kms:ViaService": ["s3.*", "ec2.*.amazonaws.com"]}}),
        json!({"StringEqualsIgnoreCase": {"kms:ViaService": "EC2.us-east-1.amazonaws.com"}}),
        json!({"StringNotEquals": {"kms:CallerAccount": "1"}}),
        json!({"StringNotLike": {"kms:ViaService": "s3.*"}}),
        json!({"StringEqualsIfExists": {"kms:CallerAccount": "1"}}),
        json!({"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["fs", "path", "x"]}}),
        json!({"ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "fs"}}),
        json!({"ForAllValues:StringEquals": {"aws:TagKeys": "a"}}),
        json!({"ForAllValues:StringNotEquals": {"kms:EncryptionContextKeys": ["a", "b"]}}),
        json!({"ForAnyValue:StringNotEquals": {"kms:EncryptionContextKeys": ["fs"]}}),
        json!({"NumericLessThan": {"kms:ScheduleKeyDeletionPendingWindowInDays": "14"}}),
        json!({"NumericGreaterThanEquals": {"kms:ScheduleKeyDeletionPendingWindowInDays": [30, 7]}}),
        json!({"NumericNotEquals": {"kms:ScheduleKeyDeletionPendingWindowInDays": 8}}),
        json!({"Bool": {"kms:MultiRegion": false}}),
        json!({"Null": {"kms:CallerAccount": "true", "kms:ViaService": false}}),
        json!({"IpAddress": {"aws:SourceIp": ["192.0.2.0/24", "10.0.0.0/8"]}}),
        json!({"NotIpAddress": {"aws:SourceIp": "10.1.2.4"}}),
        json!({"IpAddress": {"aws:SourceIp": "0.0.0.0/0"}}),
        json!({"DateLessThan": {"aws:CurrentTime": "2026-05-01T09:27:00Z"}}),
        json!({"DateGreaterThan": {"aws:CurrentTime": "2026-05-01"}}),
        json!({"DateGreaterThan": {"aws:CurrentTime": "1777627612"}}),
        json!({"DateGreaterThan": {"aws:CurrentTime": 1777627612.75}}),
        json!({"NumericLessThan": {"aws:CurrentTime": 1777627614}}),
        json!({"NumericEquals": {"kms:ValidTo": "1546257599.50"}}),
        json!({"DateEquals": {"kms:ValidTo": "2018-12-31T11:59:59.5Z"}}),
        json!({"DateLessThan": {"kms:ValidTo": "1546257599.500000001"}}),
        json!({"DateNotEquals": {"kms:ValidTo": "1546257599"}}),
        json!({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/team/*"}}),
        json!({"ArnNotEquals": {"aws:PrincipalArn": "arn:aws:iam::*:user/*"}}),
        json!({}),
    ];
    for condition in yes {
        assert!(holds(condition.clone(), &request), "{condition}");
    }
    let no = [
        json!({"StringEquals": {"kms:ViaService": "ec2.*"}}),
        json!({"StringEquals": {"kms:CallerAccount": "1"}}),
        json!({"StringNotEquals": {"kms:ViaService": ["a", "ec2.us-east-1.amazonaws.com"]}}),
        json!({"StringLike": {"kms:ViaService": "EC2*"}}),
        json!({"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["fs"]}}),
        json!({"ForAnyValue:StringEquals": {"aws:TagKeys": "a"}}),
        json!({"ForAnyValue:StringNotEquals": {"kms:EncryptionContextKeys": ["fs", "path"]}}),
        json!({"NumericLessThan": {"kms:ScheduleKeyDeletionPendingWindowInDays": "7"}}),
        json!({"NumericEquals": {"kms:ViaService": "7"}}),
        json!({"Bool": {"kms:MultiRegion": "true"}}),
        json!({"Null": {"kms:ViaService": "true"}}),
        json!({"IpAddress": {"aws:SourceIp": "10.1.2.128/25"}}),
        json!({"IpAddress": {"aws:SourceIp": "::/0"}}),
        json!({"NotIpAddress": {"aws:SourceIp": "10.1.2.3/32"}}),
        json!({"DateEquals": {"aws:CurrentTime": "2026-05-01T09:26:54Z"}}),
        json!({"NumericGreaterThan": {"aws:CurrentTime": 1777627614}}),
        json!({"NumericGreaterThan": {"kms:ValidTo": "1546257599.5"}}),
        json!({"DateLessThan": {"kms:ValidTo": "1546257599.499999999"}}),
        json!({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/*"}}),
        json!({"StringEquals": {"kms:ViaService": []}}),
        json!({"Bool": {"kms:MultiRegion": "false"}, "StringEquals": {"kms:ViaService": "x"}}),
    ];
    for condition in no {
        assert!(!holds(condition.clone(), &request), "{condition}");
    }
}

#[test]
fn documents_are_read_strictly() {
    let refused = [
        ("{not json", "This policy contains invalid Json"),
        ("[]", "Syntax errors in policy. (a policy is an object)"),
        ("{}", "Syntax errors in policy. (Statement is missing)"),
        (r#"{"Statement":[],"Statement":[]}"#, "This policy contains invalid Json"),
        (
            r#"{"Version":"2020-01-01","Statement":[]}"#,
            "Syntax errors in policy. (Version is 2012-10-17 or 2008-10-17)",
        ),
        (r#"{"Statement":[{"Effect":"Maybe"}]}"#, "Syntax errors in policy. (Effect is Allow or Deny)"),
        (r#"{"Statement":[{"Effect":"Allow"}]}"#, "Missing required field Principal"),
        (r#"{"Statement":[{"Principal":"*"}]}"#, "Syntax errors in policy. (Effect is missing)"),
        (r#"{"Statement":[{"Effect":"Allow","Principal":"*","Extra":1}]}"#, "a statement has no element Extra"),
        (r#"{"Statement":[{"Effect":"Allow","Principal":"*","NotPrincipal":"*"}]}"#, "not both"),
        (r#"{"Statement":[{"Effect":"Allow","Principal":"*","Action":"Encrypt"}]}"#, "prefaced by a vendor"),
        (r#"{"Statement":[{"Effect":"Allow","Principal":"*","Action":{"a":1}}]}"#, "Action is a text or a list"),
        (r#"{"Statement":[{"Effect":"Allow","Principal":"*","Condition":{"Equals":{"a":"b"}}}]}"#, "operator Equals"),
        (r#"{"Statement":[{"Effect":"Allow","Principal":"*","Condition":{"NumericEquals":{"a":"b"}}}]}"#, "'b' is no"),
        (
            r#"{"Statement":[{"Effect":"Allow","Principal":"*","Condition":{"IpAddress":{"a":"10.0.0.0/33"}}}]}"#,
            "no value",
        ),
    ];
    for (document, text) in refused {
        let error = Policy::parse(document, Kind::Key).expect_err(document).to_string();
        assert!(error.contains(text), "{document}: {error}");
    }
    let bad_principals = [
        "\"alice\"",
        "{}",
        "[]",
        "{\"AWS\":[]}",
        "{\"AWS\":\"alice\"}",
        "{\"AWS\":\"arn:aws:iam::111122223333:user/*\"}",
        "{\"AWS\":\"arn:aws:iam::1:root\"}",
        "{\"CanonicalUser\":\"x\"}",
        "{\"Service\":\"*\"}",
    ];
    for principals in bad_principals {
        let document = format!("{{\"Statement\":[{{\"Effect\":\"Allow\",\"Principal\":{principals}}}]}}");
        let error = Policy::parse(&document, Kind::Key).expect_err(&document);
        assert_eq!(error.to_string(), "Policy contains a statement with one or more invalid principals.", "{document}");
    }
    let taken = [
        r#"{"Statement":[]}"#,
        r#"{"Id":"i","Statement":{"Sid":"s","Effect":"Deny","Principal":{"AWS":"111122223333"}}}"#,
        r#"{"Statement":[{"Effect":"Allow","Principal":{"Service":["ebs.amazonaws.com"],"AWS":"*"},"Action":"s3:x"}]}"#,
        r#"{"Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:sts::111122223333:assumed-role/a/b"}}]}"#,
    ];
    for document in taken {
        assert!(Policy::parse(document, Kind::Key).is_ok(), "{document}");
    }
    let identity = |text: &str| Policy::parse(text, Kind::Identity).map(drop).map_err(|error| error.to_string());
    assert_eq!(identity(ADMIN), Ok(()));
    let refused = [
        r#"{"Statement":{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}}"#,
        r#"{"Statement":{"Effect":"Allow","Resource":"*"}}"#,
        r#"{"Statement":{"Effect":"Allow","Action":"*"}}"#,
    ];
    for document in refused {
        assert!(identity(document).is_err(), "{document}");
    }
}

#[test]
fn a_statement_without_action_or_resource_has_no_effect() {
    for missing in ["Action", "Resource"] {
        let mut statement = json!({"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"});
        statement.as_object_mut().expect("an object").remove(missing);
        let document = json!({ "Statement": statement }).to_string();
        assert_eq!(judge(&document, &[ADMIN], &alice(), vec![]), Decision::Denied(Reason::NoKeyPolicy), "{missing}");
    }
}

#[test]
fn the_policy_of_aws_managed_keys_is_for_their_service() {
    let document = managed_document(OWNER, "us-east-1", "ebs");
    let policy = Policy::parse(&document, Kind::Key).expect("a policy");
    let alice = alice();
    let decide = |action: &str, attributes: &Map, identity: &[(&str, &Policy)]| {
        let request = Request { principal: &alice, action, resource: KEY, attributes };
        let grants = Vec::new;
        let key = Some(KeyPolicy { owner: OWNER, policy: &policy, grants: &grants });
        super::decide(&Question { request: &request, key, identity }, None)
    };
    let through = map(&[("kms:ViaService", &["ebs.us-east-1.local"]), ("kms:CallerAccount", &[OWNER])]);
    let direct = map(&[("kms:CallerAccount", &[OWNER])]);
    let admin = Policy::parse(ADMIN, Kind::Identity).expect("a policy");
    for action in ["Encrypt", "ReEncryptFrom", "GenerateDataKeyWithoutPlaintext", "CreateGrant", "DescribeKey"] {
        assert_eq!(decide(action, &through, &[]), ALLOWED, "{action}");
    }
    for action in ["DescribeKey", "GetKeyPolicy", "ListGrants", "RevokeGrant"] {
        assert_eq!(decide(action, &direct, &[("a", &admin)]), ALLOWED, "{action}");
    }
    for action in ["Encrypt", "DisableKey", "PutKeyPolicy", "ScheduleKeyDeletion", "TagResource"] {
        let expected = Decision::Denied(Reason::NoKeyPolicy);
        assert_eq!(decide(action, &direct, &[("a", &admin)]), expected, "{action}");
    }
}
