//! Key policies and identity policies through the engine.

use serde_json::json;

use super::*;
use crate::kms::policy;

pub const ACCOUNT: &str = "000000000000";
pub const OTHER: &str = "444455556666";
const ADMIN: &str = r#"{"Statement":{"Effect":"Allow","Action":"kms:*","Resource":"*"}}"#;

/// A user of `account` that exists, with this identity policy or none.
pub fn user(bench: &Bench, account: &str, name: &str, document: Option<&str>) -> Caller {
    let account = account.parse().expect("twelve digits");
    let principal = Principal::named(&account, PrincipalKind::User, name).expect("a name");
    let policy = document.map(|document| ("p", document));
    bench.engine.create_identity(&bench.alice, &principal, policy).expect("created");
    Caller::new(principal, bench.engine.region().clone())
}

/// A user who may do everything that the owners of keys allow.
pub fn administrator(bench: &Bench, account: &str, name: &str) -> Caller {
    user(bench, account, name, Some(ADMIN))
}

fn root_and(statements: &[serde_json::Value]) -> String {
    let root = format!("arn:aws:iam::{ACCOUNT}:root");
    let mut all = vec![json!({"Effect": "Allow", "Principal": {"AWS": root}, "Action": "kms:*", "Resource": "*"})];
    all.extend_from_slice(statements);
    json!({"Version": "2012-10-17", "Statement": all}).to_string()
}

fn put(bench: &Bench, key_id: &str, policy: &str) -> Result<(), KmsError> {
    let request = PutKeyPolicyRequest { key_id: key_id.into(), policy: policy.into(), ..Default::default() };
    bench.engine.put_key_policy(&bench.alice, request)
}

fn get(bench: &Bench, key_id: &str) -> String {
    let request = GetKeyPolicyRequest { key_id: key_id.into(), policy_name: None };
    bench.engine.get_key_policy(&bench.alice, request).expect("allowed").policy
}

/// The reason at the end of AWS's text.
pub fn reason(error: KmsError) -> String {
    assert_eq!(error.code(), "AccessDeniedException");
    let text = error.to_string();
    let at = text.find(" because ").or_else(|| text.find(" with ")).expect("a reason");
    text[at + 1..].to_owned()
}

fn a_store() -> CustomKeyStoreIdRequest {
    CustomKeyStoreIdRequest { custom_key_store_id: "cks-1234567890abcdef0".into() }
}

#[test]
fn a_new_key_has_the_default_policy() {
    let bench = Bench::new();
    let key = bench.key();
    assert_eq!(get(&bench, &key), policy::default_document(ACCOUNT));
    let request = ListKeyPoliciesRequest { key_id: key.clone(), ..Default::default() };
    let listed = bench.engine.list_key_policies(&bench.alice, request).expect("listed");
    assert_eq!((listed.policy_names, listed.truncated), (vec!["default".to_owned()], false));
    for name in ["other", "AWS_RAM"] {
        let request = GetKeyPolicyRequest { key_id: key.clone(), policy_name: Some(name.into()) };
        let error = bench.engine.get_key_policy(&bench.alice, request).expect_err("there is one policy");
        assert_eq!(error.code(), "NotFoundException");
    }
}

#[test]
fn identity_policies_count_where_the_key_policy_delegates() {
    let bench = Bench::new();
    let key = bench.key();
    let nobody = user(&bench, ACCOUNT, "nobody", None);
    let encrypt_only =
        r#"{"Statement":[{"Effect":"Allow","Action":"kms:Encrypt","Resource":"arn:aws:kms:*:000000000000:key/*"}]}"#;
    let writer = user(&bench, ACCOUNT, "writer", Some(encrypt_only));
    let error = encrypt(&bench.engine, &nobody, &key, b"x").expect_err("no policy");
    let arn = bench.describe(&key).expect("there").arn;
    assert_eq!(
        error.to_string(),
        format!(
            "User: arn:aws:iam::{ACCOUNT}:user/nobody is not authorized to perform: kms:Encrypt on resource: {arn} \
             because no identity-based policy allows the kms:Encrypt action"
        )
    );
    let blob = encrypt(&bench.engine, &writer, &key, b"x").expect("allowed");
    let error = decrypt(&bench.engine, &writer, &blob).expect_err("encrypts only");
    assert_eq!(reason(error), "because no identity-based policy allows the kms:Decrypt action");
    for error in [
        bench.engine.create_key(&nobody, CreateKeyRequest::default()).map(drop).expect_err("no policy"),
        bench.engine.list_keys(&nobody, ListKeysRequest::default()).map(drop).expect_err("no policy"),
        bench.engine.list_aliases(&nobody, ListAliasesRequest::default()).map(drop).expect_err("no policy"),
        bench
            .engine
            .generate_random(&nobody, GenerateRandomRequest { number_of_bytes: Some(1), ..Default::default() })
            .map(drop)
            .expect_err("no"),
        bench
            .engine
            .describe_custom_key_stores(&nobody, DescribeCustomKeyStoresRequest::default())
            .map(drop)
            .expect_err("no policy"),
        bench.engine.connect_custom_key_store(&nobody, a_store()).expect_err("no policy"),
        bench.engine.disconnect_custom_key_store(&nobody, a_store()).expect_err("no policy"),
        bench.engine.delete_custom_key_store(&nobody, a_store()).expect_err("no policy"),
    ] {
        assert!(reason(error).starts_with("because no identity-based policy allows the kms:"));
    }
    // A policy that names the user makes the identity policy unnecessary.
    let named = json!({"Effect": "Allow", "Principal": {"AWS": nobody.principal().arn()}, "Action": "kms:Decrypt",
        "Resource": "*"});
    put(&bench, &key, &root_and(&[named])).expect("put");
    assert_eq!(decrypt(&bench.engine, &nobody, &blob).expect("named"), b"x");
}

#[test]
fn a_denial_wins_and_is_recorded() {
    let bench = Bench::new();
    let key = bench.key();
    let blob = bench.encrypt(&key, b"x").expect("allowed");
    let deny = json!({"Effect": "Deny", "Principal": "*", "NotAction": ["kms:Encrypt", "kms:PutKeyPolicy"],
        "Resource": "*"});
    put(&bench, &key, &root_and(&[deny])).expect("put");
    assert!(bench.encrypt(&key, b"x").is_ok());
    let error = bench.decrypt(&blob).expect_err("denied");
    assert_eq!(reason(error), "with an explicit deny in a resource-based policy");
    bench.engine.audit().flush().expect("written");
    let filter = crate::kms::audit::AuditFilter { errors_only: true, ..Default::default() };
    let records = bench.engine.audit().read(&filter).expect("read");
    let last = records.last().expect("recorded");
    assert_eq!(
        (last["eventName"].as_str(), last["errorCode"].as_str()),
        (Some("Decrypt"), Some("AccessDeniedException"))
    );
    let denied = user(
        &bench,
        ACCOUNT,
        "denied",
        Some(
            r#"{"Statement":[{"Effect":"Allow","Action":"*","Resource":"*"},
            {"Effect":"Deny","Action":"kms:Encrypt","Resource":"*"}]}"#,
        ),
    );
    let error = encrypt(&bench.engine, &denied, &bench.key(), b"x").expect_err("denied");
    assert_eq!(reason(error), "with an explicit deny in an identity-based policy");
}

#[test]
fn what_conditions_see() {
    let bench = Bench::new();
    let key = bench.key();
    bench
        .engine
        .create_alias(&bench.alice, CreateAliasRequest { alias_name: "alias/a".into(), target_key_id: key.clone() })
        .expect("named");
    let tags = vec![Tag { tag_key: "Team".into(), tag_value: "blue".into() }];
    bench.engine.tag_resource(&bench.alice, TagResourceRequest { key_id: key.clone(), tags }).expect("tagged");
    let try_with = |condition: serde_json::Value, key_id: &str| {
        let allow = json!({"Statement": {"Effect": "Allow", "Action": "kms:Encrypt", "Resource": "*",
            "Condition": condition}});
        let name = uuid::Uuid::new_v4().to_string();
        let caller = user(&bench, ACCOUNT, &name, Some(&allow.to_string()));
        let caller = caller.via_service("ec2.us-east-1.local").from_address("10.1.2.3", "test");
        encrypt(&bench.engine, &caller, key_id, b"x").is_ok()
    };
    let met = [
        json!({"StringEquals": {"kms:EncryptionContext:KMSFS:volume": "v"}}),
        json!({"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["kmsfs:volume", "kmsfs:file"]}}),
        json!({"StringEquals": {"kms:ViaService": "ec2.us-east-1.local", "kms:CallerAccount": ACCOUNT}}),
        json!({"StringEquals": {"kms:EncryptionAlgorithm": "SYMMETRIC_DEFAULT", "kms:KeySpec": "SYMMETRIC_DEFAULT"}}),
        json!({"StringEquals": {"kms:KeyUsage": "ENCRYPT_DECRYPT", "kms:KeyOrigin": "AWS_KMS"}}),
        json!({"ForAnyValue:StringLike": {"kms:ResourceAliases": "alias/*"}}),
        json!({"StringEquals": {"aws:ResourceTag/team": "blue"}, "Bool": {"kms:MultiRegion": "false"}}),
        json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}, "Null": {"kms:RequestAlias": "true"}}),
        json!({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/*"}}),
        json!({"StringEquals": {"aws:UserAgent": "test"}, "Null": {"aws:SecureTransport": "true"}}),
        json!({"DateGreaterThan": {"aws:CurrentTime": "2025-12-31"}, "DateLessThan": {"aws:CurrentTime": "2026-01-02"}}),
    ];
    for condition in met {
        assert!(try_with(condition.clone(), &key), "{condition}");
    }
    assert!(try_with(json!({"StringEquals": {"kms:RequestAlias": "alias/a"}}), "alias/a"));
    assert!(!try_with(json!({"StringEquals": {"kms:RequestAlias": "alias/a"}}), &key));
    assert!(!try_with(json!({"StringEquals": {"kms:ViaService": "s3.us-east-1.local"}}), &key));

    // Operations on an alias do not name a key by it.
    let by_alias = json!({"Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*",
        "Condition": {"StringEquals": {"kms:RequestAlias": "alias/a"}}}});
    let caller = user(&bench, ACCOUNT, "by-alias", Some(&by_alias.to_string()));
    assert!(encrypt(&bench.engine, &caller, "alias/a", b"x").is_ok());
    let deleted = bench.engine.delete_alias(&caller, DeleteAliasRequest { alias_name: "alias/a".into() });
    assert_eq!(deleted.expect_err("denied").code(), "AccessDeniedException");
}

#[test]
fn a_policy_cannot_lock_its_author_out_by_accident() {
    let bench = Bench::new();
    let key = bench.key();
    let locks_out = r#"{"Statement":[{"Effect":"Allow","Principal":{"AWS":"000000000000"},"Action":"kms:Decrypt",
        "Resource":"*"}]}"#;
    let error = put(&bench, &key, locks_out).expect_err("locked out");
    assert_eq!(error.code(), "MalformedPolicyDocumentException");
    assert_eq!(error.to_string(), "The new key policy will not allow you to update the key policy in the future.");
    assert_eq!(get(&bench, &key), policy::default_document(ACCOUNT), "nothing changed");
    let policy = Some(locks_out.to_owned());
    let request = CreateKeyRequest { policy: policy.clone(), ..Default::default() };
    let error = bench.engine.create_key(&bench.alice, request).expect_err("locked out");
    assert_eq!(error.code(), "MalformedPolicyDocumentException");
    let request = CreateKeyRequest { policy, bypass_policy_lockout_safety_check: true, ..Default::default() };
    let made = bench.engine.create_key(&bench.alice, request).expect("on purpose").key_metadata.key_id;
    let error = put(&bench, &made, &root_and(&[])).expect_err("locked out");
    assert_eq!(reason(error), "because no resource-based policy allows the kms:PutKeyPolicy action");
}

#[test]
fn documents_have_limits() {
    let bench = Bench::new();
    let key = bench.key();
    let code = |policy: &str| put(&bench, &key, policy).expect_err("refused").code();
    assert_eq!(code("{not json"), "MalformedPolicyDocumentException");
    assert_eq!(code(""), "ValidationException");
    assert_eq!(code("{\"Id\":\"\u{100}\"}"), "ValidationException");
    let long = |len: usize| {
        let text = root_and(&[]);
        text.replacen('{', &format!("{{{}", " ".repeat(len - text.len())), 1)
    };
    assert_eq!(code(&long(32_769)), "LimitExceededException");
    assert_eq!(code(&long(131_073)), "ValidationException");
    let fits = long(32_768);
    put(&bench, &key, &fits).expect("fits");
    assert_eq!(get(&bench, &key), fits, "as it was put");
    // Another process sees it at once, and it survives.
    let another = bench.another().expect("opened");
    let request = GetKeyPolicyRequest { key_id: key, policy_name: Some("default".into()) };
    assert_eq!(another.get_key_policy(&bench.alice, request).expect("allowed").policy, fits);
}

#[test]
fn another_account_needs_both_sides_and_never_manages() {
    let bench = Bench::new();
    let key = bench.key();
    let arn = bench.describe(&key).expect("there").arn.to_string();
    let bob = administrator(&bench, OTHER, "bob");
    let poor = user(&bench, OTHER, "poor", None);
    let resource = "because no resource-based policy allows the kms:Encrypt action";
    assert_eq!(reason(encrypt(&bench.engine, &bob, &arn, b"x").expect_err("not allowed")), resource);
    let absent = arn.replace(&key, "00000000-0000-4000-8000-000000000000");
    assert_eq!(reason(encrypt(&bench.engine, &bob, &absent, b"x").expect_err("not there")), resource);
    let allow = json!({"Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{OTHER}:root")},
        "Action": "kms:*", "Resource": "*"});
    put(&bench, &key, &root_and(&[allow])).expect("put");
    let blob = encrypt(&bench.engine, &bob, &arn, b"x").expect("both agree");
    assert_eq!(decrypt(&bench.engine, &bob, &blob).expect("both agree"), b"x");
    assert_eq!(
        reason(encrypt(&bench.engine, &poor, &arn, b"x").expect_err("no identity policy")),
        "because no identity-based policy allows the kms:Encrypt action"
    );
    assert_eq!(
        encrypt(&bench.engine, &bob, &key, b"x").expect_err("a plain id is of one's own account").code(),
        "NotFoundException"
    );
    let refused = bench.engine.disable_key(&bob, arn.as_str().into()).expect_err("management");
    assert_eq!(reason(refused), "because no resource-based policy allows the kms:DisableKey action");
}

#[test]
fn a_blob_does_not_tell_whether_another_account_has_its_key() {
    let bench = Bench::new();
    let (own, gone) = (bench.key(), bench.key());
    let stranger = administrator(&bench, OTHER, "stranger");
    let theirs = bench.engine.create_key(&stranger, CreateKeyRequest::default()).expect("created").key_metadata;
    let of_theirs = encrypt(&bench.engine, &stranger, &theirs.key_id, b"x").expect("encrypted");
    let mut of_nobody = bench.encrypt(&gone, b"x").expect("encrypted");
    of_nobody[3] ^= 1;
    for blob in [of_theirs, of_nobody] {
        let request = DecryptRequest { ciphertext_blob: Some(blob), key_id: Some(own.clone()), ..Default::default() };
        let error = bench.engine.decrypt(&bench.alice, request).expect_err("of another key");
        assert_eq!(error, KmsError::IncorrectKey);
    }
}

#[test]
fn a_forged_blob_does_not_tell_which_keys_exist() {
    let bench = Bench::new();
    let stranger = administrator(&bench, OTHER, "stranger");
    let (key, gone) = (bench.key(), bench.key());
    let real = bench.encrypt(&key, b"x").expect("encrypted");
    let of_gone = bench.encrypt(&gone, b"x").expect("encrypted");
    bench.schedule(&gone, 7).expect("scheduled");
    bench.days(7);
    bench.engine.maintain().expect("observed");
    bench.hours(2);
    assert_eq!(bench.describe(&gone).expect_err("deleted").code(), "NotFoundException");
    let mut of_nobody = real.clone();
    of_nobody[5] ^= 1;
    let forged: Vec<u8> = real.iter().enumerate().map(|(at, byte)| if at < 19 { *byte } else { 0xa5 }).collect();
    let ask = |caller: &Caller, blob: &[u8]| {
        let request = DecryptRequest { ciphertext_blob: Some(blob.to_vec()), ..Default::default() };
        let decrypted = bench.engine.decrypt(caller, request).map(drop).expect_err("not theirs");
        let request = ReEncryptRequest {
            ciphertext_blob: Some(blob.to_vec()),
            destination_key_id: key.clone(),
            ..Default::default()
        };
        let re_encrypted = bench.engine.re_encrypt(caller, request).map(drop).expect_err("not theirs");
        assert_eq!(re_encrypted.to_string().replace("kms:ReEncryptFrom", "kms:Decrypt"), decrypted.to_string());
        decrypted
    };
    let bad_token = |blob: &[u8]| {
        let grant_tokens = vec!["AAAA".to_owned()];
        let request = DecryptRequest { ciphertext_blob: Some(blob.to_vec()), grant_tokens, ..Default::default() };
        bench.engine.decrypt(&stranger, request).map(drop)
    };
    for blob in [&real, &forged, &of_nobody, &of_gone] {
        assert_eq!(bad_token(blob), Err(KmsError::InvalidGrantToken));
    }
    let text = "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are \
         not allowed to access.";
    for blob in [&real, &forged, &of_nobody, &of_gone] {
        assert_eq!(ask(&stranger, blob), KmsError::AccessDenied(text.into()));
    }
    // Where the owner lets the account in, its users are told what they lack.
    let helper = user(&bench, OTHER, "helper", None);
    let allow = json!({"Effect": "Allow", "Principal": {"AWS": OTHER}, "Action": "kms:*", "Resource": "*"});
    put(&bench, &key, &root_and(&[allow])).expect("put");
    for (blob, lacks) in [(&real, true), (&forged, true), (&of_nobody, false), (&of_gone, false)] {
        let refused = ask(&helper, blob);
        assert_eq!(refused.code(), "AccessDeniedException");
        assert_eq!(refused.to_string().contains("no identity-based policy allows"), lacks, "{refused}");
    }
    assert_eq!(ask(&stranger, &forged), KmsError::InvalidCiphertext, "who may use the key learns what is wrong");
    // In one's own account the words say where to look.
    let own = user(&bench, ACCOUNT, "own", None);
    let denied = ask(&own, &real).to_string();
    assert!(denied.contains("not authorized to perform: kms:Decrypt"), "{denied}");
    assert_eq!(ask(&own, &of_nobody), KmsError::AccessDenied(text.into()));
    // What is no ciphertext of the key manager names no key at all.
    assert_eq!(ask(&stranger, b"x"), KmsError::InvalidCiphertext);
}

#[test]
fn a_plain_id_in_a_ciphertext_is_of_any_account() {
    let bench = Bench::new();
    let (key, other) = (bench.key(), bench.key());
    let arn = bench.describe(&key).expect("there").arn;
    let blob = bench.encrypt(&key, b"x").expect("encrypted");
    let bob = administrator(&bench, OTHER, "bob");
    let decrypt = |key_id: &str, blob: &[u8]| {
        let request = DecryptRequest {
            ciphertext_blob: Some(blob.to_vec()),
            encryption_context: context(),
            key_id: Some(key_id.to_owned()),
            ..Default::default()
        };
        bench.engine.decrypt(&bob, request).map(|answer| answer.key_id).map_err(|error| error.code())
    };
    assert_eq!(decrypt(&key, &blob), Err("NotFoundException"), "as for a plain id that no key has");
    let mut forged = blob.clone();
    forged[5] ^= 1;
    let name = crate::kms::blob::Header::parse(&forged).expect("a header").key();
    let of_nobody = uuid::Uuid::from_bytes(*name.bytes()).to_string();
    assert_eq!(decrypt(&of_nobody, &forged), Err("NotFoundException"));
    let allow = json!({"Effect": "Allow", "Principal": {"AWS": OTHER}, "Action": ["kms:Decrypt", "kms:ReEncrypt*"],
        "Resource": "*"});
    put(&bench, &key, &root_and(&[allow])).expect("put");
    assert_eq!(decrypt(&key, &blob), Ok(arn.clone()));
    assert_eq!(decrypt(arn.as_str(), &blob), Ok(arn.clone()));
    // Only the id that the ciphertext has, and of ciphertext only.
    assert_eq!(decrypt(&other, &blob), Err("NotFoundException"));
    let own = bench.engine.create_key(&bob, CreateKeyRequest::default()).expect("created").key_metadata.key_id;
    assert_eq!(decrypt(&own, &blob), Err("IncorrectKeyException"));
    let describe = DescribeKeyRequest { key_id: key.clone(), ..Default::default() };
    assert_eq!(bench.engine.describe_key(&bob, describe).expect_err("foreign").code(), "NotFoundException");
    let re_encrypt = |to: &str| {
        let request = ReEncryptRequest {
            ciphertext_blob: Some(blob.clone()),
            source_key_id: Some(key.clone()),
            source_encryption_context: context(),
            destination_key_id: to.to_owned(),
            ..Default::default()
        };
        bench.engine.re_encrypt(&bob, request).map(|answer| answer.source_key_id).map_err(|error| error.code())
    };
    assert_eq!(re_encrypt(&own), Ok(arn.clone()));
    let stay = json!({"Effect": "Deny", "Principal": "*", "Action": "kms:ReEncrypt*", "Resource": "*",
        "Condition": {"Bool": {"kms:ReEncryptOnSameKey": "false"}}});
    let allow = json!({"Effect": "Allow", "Principal": {"AWS": OTHER}, "Action": "kms:ReEncrypt*", "Resource": "*"});
    put(&bench, &key, &root_and(&[allow, stay])).expect("put");
    assert_eq!(re_encrypt(&own), Err("AccessDeniedException"));
    assert_eq!(re_encrypt(arn.as_str()), Ok(arn), "it is the same key, by whichever name");
}

#[test]
fn a_deny_of_ones_own_does_not_tell_whether_a_foreign_key_is_there() {
    let bench = Bench::new();
    let (key, shared) = (bench.key(), bench.key());
    let [arn, shared] = [key, shared].map(|key| bench.describe(&key).expect("there").arn);
    let deny = json!({"Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"},
        {"Effect": "Deny", "Action": "kms:Describe*", "Resource": "*"}]});
    let bob = user(&bench, OTHER, "bob", Some(&deny.to_string()));
    let refusal = |arn: &str| {
        let request = DescribeKeyRequest { key_id: arn.to_owned(), ..Default::default() };
        reason(bench.engine.describe_key(&bob, request).expect_err("denied"))
    };
    let absent = arn.as_str().replace(arn.key_id(), "00000000-0000-4000-8000-000000000000");
    let unknown = "because no resource-based policy allows the kms:DescribeKey action";
    assert_eq!([refusal(arn.as_str()), refusal(&absent)], [unknown, unknown]);
    // Nor does a statement of its owner against everybody.
    let nobody = json!({"Effect": "Deny", "Principal": {"AWS": OTHER}, "Action": "kms:*", "Resource": "*"});
    put(&bench, arn.as_str(), &root_and(&[nobody])).expect("put");
    assert_eq!(refusal(arn.as_str()), unknown);
    // Who was let in knows the key, and is told.
    let allow = json!({"Effect": "Allow", "Principal": {"AWS": OTHER}, "Action": "kms:*", "Resource": "*"});
    put(&bench, shared.as_str(), &root_and(&[allow])).expect("put");
    assert_eq!(refusal(shared.as_str()), "with an explicit deny in an identity-based policy");
}

#[test]
fn aws_managed_keys_keep_their_policy() {
    let bench = Bench::new();
    let poor = user(&bench, ACCOUNT, "poor", None);
    let describe = |caller: &Caller| {
        let request = DescribeKeyRequest { key_id: "alias/aws/ebs".into(), ..Default::default() };
        bench.engine.describe_key(caller, request).map(|answer| answer.key_metadata.key_id)
    };
    assert_eq!(describe(&poor).expect_err("no policy").code(), "AccessDeniedException");
    let listed = bench.engine.list_keys(&bench.alice, ListKeysRequest::default()).expect("listed").keys;
    assert!(listed.is_empty(), "a refused call creates nothing");
    let key = describe(&bench.alice).expect("made");
    let document = get(&bench, &key);
    assert!(document.contains("\"kms:ViaService\":\"ebs.us-east-1.local\""), "{document}");
    let error = put(&bench, &key, &document).expect_err("fixed");
    assert_eq!(reason(error), "because no resource-based policy allows the kms:PutKeyPolicy action");
    assert_eq!(bench.encrypt(&key, b"x").expect_err("only through its service").code(), "AccessDeniedException");
    let through = poor.clone().via_service("ebs.us-east-1.local");
    assert!(encrypt(&bench.engine, &through, &key, b"x").is_ok());
}

#[test]
fn re_encryption_takes_two_permissions() {
    let bench = Bench::new();
    let (from, to) = (bench.key(), bench.key());
    let deny = json!({"Effect": "Deny", "Principal": "*", "Action": "kms:ReEncryptTo", "Resource": "*"});
    put(&bench, &to, &root_and(&[deny])).expect("put");
    let re_encrypt = |blob: Vec<u8>, to: &str| {
        let request = ReEncryptRequest {
            ciphertext_blob: Some(blob),
            source_encryption_context: context(),
            destination_key_id: to.to_owned(),
            ..Default::default()
        };
        bench.engine.re_encrypt(&bench.alice, request).map(|answer| answer.ciphertext_blob)
    };
    let blob = bench.encrypt(&from, b"x").expect("encrypted");
    let error = re_encrypt(blob.clone(), &to).expect_err("denied");
    assert_eq!(reason(error), "with an explicit deny in a resource-based policy");
    assert!(re_encrypt(blob.clone(), &from).is_ok());
    let elsewhere = json!({"Effect": "Deny", "Principal": "*", "Action": "kms:ReEncrypt*", "Resource": "*",
        "Condition": {"Bool": {"kms:ReEncryptOnSameKey": "false"}}});
    put(&bench, &from, &root_and(&[elsewhere])).expect("put");
    assert!(re_encrypt(blob.clone(), &from).is_ok());
    assert_eq!(re_encrypt(blob, &bench.key()).expect_err("leaves the key").code(), "AccessDeniedException");
}

#[test]
fn local_callers_are_administrators_until_an_identity_of_their_name_exists() {
    let bench = Bench::new();
    let key = bench.key();
    let mount = Caller::local(Principal::mount(bench.engine.account(), "v"), bench.engine.region().clone());
    assert!(encrypt(&bench.engine, &mount, &key, b"x").is_ok());
    let nobody = Caller::new(mount.principal().clone(), bench.engine.region().clone());
    assert_eq!(encrypt(&bench.engine, &nobody, &key, b"x").expect_err("no such role").code(), "AccessDeniedException");
    bench.engine.create_identity(&bench.alice, mount.principal(), None).expect("created");
    assert_eq!(encrypt(&bench.engine, &mount, &key, b"x").expect_err("no policy").code(), "AccessDeniedException");
    bench.engine.put_identity_policy(&bench.alice, mount.principal(), "p", ADMIN).expect("put");
    assert!(encrypt(&bench.engine, &mount, &key, b"x").is_ok());
}

#[test]
fn access_keys_authenticate_who_they_were_made_for() {
    let bench = Bench::new();
    let account = OTHER.parse().expect("twelve digits");
    let administrator = bench.engine.administrator(&bench.alice, &account).expect("made");
    assert_eq!(bench.engine.administrator(&bench.alice, &account).expect("there"), administrator);
    let made = bench.engine.create_access_key(&bench.alice, &administrator).expect("made");
    assert!(made.access_key_id.starts_with("AKIA") && made.access_key_id.len() == 20);
    assert_eq!(made.secret_access_key.len(), 40);
    // Another process knows it, also after a new start.
    let another = bench.another().expect("opened");
    let found = another.credentials(&made.access_key_id).expect("read").expect("known");
    assert_eq!(found.principal, administrator);
    assert_eq!(*found.secret_access_key, *made.secret_access_key);
    assert!(another.credentials("AKIANOBODY").expect("read").is_none());
    let identities = bench.engine.identities().expect("read");
    assert_eq!(identities[0].access_key_ids, std::slice::from_ref(&made.access_key_id));
    bench.engine.delete_identity(&bench.alice, &administrator).expect("deleted");
    assert!(another.credentials(&made.access_key_id).expect("read").is_none());
    assert_eq!(
        bench.engine.delete_access_key(&bench.alice, &made.access_key_id).expect_err("gone").code(),
        "NotFoundException"
    );
}

#[test]
fn explanations_name_every_statement() {
    let bench = Bench::new();
    let key = bench.key();
    let deny = json!({"Sid": "Not in the past", "Effect": "Deny", "Principal": "*", "Action": "kms:Encrypt",
        "Resource": "*", "Condition": {"DateLessThan": {"aws:CurrentTime": "2026-01-01"}}});
    put(&bench, &key, &root_and(&[deny])).expect("put");
    let poor = user(&bench, ACCOUNT, "poor", None);
    let request = ExplainRequest { key_id: Some(key), action: "kms:Encrypt".into(), ..Default::default() };
    let explained = bench.engine.explain(&bench.alice, &request).expect("explained");
    assert!(explained.allowed && explained.reason == "allowed by policy");
    let outcomes: Vec<_> = explained.steps.iter().map(|step| (step.source.as_str(), step.outcome.as_str())).collect();
    assert_eq!(
        outcomes,
        [
            ("key policy", "applies: it leaves the decision to the account's identity policies"),
            ("key policy", "its condition DateLessThan aws:CurrentTime does not hold"),
            ("identity policy AdministratorAccess", "applies"),
        ]
    );
    let explained = bench.engine.explain(&poor, &request).expect("explained");
    assert!(!explained.allowed);
    assert_eq!(explained.reason, "denied because no identity-based policy allows the kms:Encrypt action");
}

#[test]
fn explanations_tell_callers_that_nobody_made() {
    let bench = Bench::new();
    let key = bench.key();
    let request = ExplainRequest { key_id: Some(key.clone()), action: "Encrypt".into(), ..Default::default() };
    let at = |principal| Caller::new(principal, bench.engine.region().clone());
    let nobody = at(Principal::user(bench.engine.account(), "nobody"));
    let explained = bench.engine.explain(&nobody, &request).expect("explained");
    let refused = reason(encrypt(&bench.engine, &nobody, &key, b"x").expect_err("no policies"));
    let unmade = "there is no such user or role, so that it has no identity policies";
    assert_eq!((explained.allowed, explained.reason), (false, format!("denied {refused}; {unmade}")));
    let allow = json!({"Effect": "Allow", "Principal": {"AWS": nobody.principal().arn()}, "Action": "kms:Encrypt",
        "Resource": "*"});
    put(&bench, &key, &root_and(&[allow])).expect("put");
    encrypt(&bench.engine, &nobody, &key, b"x").expect("the key policy names it");
    let explained = bench.engine.explain(&nobody, &request).expect("explained");
    assert_eq!((explained.allowed, explained.reason), (true, format!("allowed by policy; {unmade}")));
    for known in [&at(Principal::root(bench.engine.account())), &bench.alice] {
        assert_eq!(bench.engine.explain(known, &request).expect("explained").reason, "allowed by policy");
    }
}
