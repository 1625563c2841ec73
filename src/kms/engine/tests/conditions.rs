//! Condition keys that requests give values to: a statement that denies one value refuses exactly that value.

use serde_json::{Value, json};

use super::states::{Kind, done, execute, key};
use super::*;

/// One condition key: the operation and its request on a key of this kind, the operator, and a value that the request has
/// and one that it has not.
struct Row<'a> {
    kind: Kind,
    operation: &'static str,
    request: Value,
    operator: &'static str,
    condition: &'static str,
    has: &'a str,
    has_not: &'a str,
}

fn row<'a>(
    (kind, operation, request): (Kind, &'static str, Value),
    (operator, condition): (&'static str, &'static str),
    [has, has_not]: [&'a str; 2],
) -> Row<'a> {
    Row { kind, operation, request, operator, condition, has, has_not }
}

/// The default policy, and a denial of `operation` under a condition.
fn denying(bench: &Bench, operation: &str, condition: Value) -> String {
    let root = format!("arn:aws:iam::{}:root", bench.engine.account());
    json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Principal": { "AWS": root }, "Action": "kms:*", "Resource": "*" },
        { "Effect": "Deny", "Principal": "*", "Action": format!("kms:{operation}"), "Resource": "*", "Condition": condition },
    ]})
    .to_string()
}

#[test]
fn each_condition_key_has_the_value_of_its_request() {
    use Kind::*;
    let bench = Bench::new();
    let peer = key(&bench, Agreement, KeyState::Enabled).expect("made");
    let public = done(&bench, "GetPublicKey", json!({ "KeyId": peer }))["PublicKey"].clone();
    let user = |name: &str| format!("arn:aws:iam::{}:user/{name}", bench.engine.account());
    let grant = || {
        json!({
            "GranteePrincipal": user("bob"), "RetiringPrincipal": user("rob"), "Operations": ["Decrypt"],
            "Constraints": { "EncryptionContextSubset": { "a": "b" } },
        })
    };
    let (ec2, rds) = ("ec2.us-east-1.amazonaws.com", "rds.us-east-1.amazonaws.com");
    let to_service = || {
        json!({
            "GranteeServicePrincipal": ec2, "RetiringServicePrincipal": rds, "Operations": ["Decrypt"],
            "Constraints": { "SourceArn": "arn:aws:ec2:us-east-1:111122223333:volume/v" },
        })
    };
    let sign = || json!({ "Message": data_encoding::BASE64.encode(&[1; 32]), "MessageType": "DIGEST", "SigningAlgorithm": "ECDSA_SHA_256" });
    let context = || json!({ "Plaintext": "AA==", "EncryptionContext": { "fs": "v", "file": "f" } });
    let token = "AA==";
    let import = |more: Value| {
        let mut request = json!({ "ImportToken": token, "EncryptedKeyMaterial": token });
        let members = more.as_object().expect("members").clone();
        request.as_object_mut().expect("members").extend(members);
        request
    };
    let parameters = || json!({ "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048" });
    let tags = || json!({ "Tags": [{ "TagKey": "team", "TagValue": "red" }] });
    let equals = |condition| ("StringEquals", condition);
    let any = |condition| ("ForAnyValue:StringEquals", condition);
    let (bob, rob, nobody) = ("arn:aws:iam::000000000000:user/bob", "arn:aws:iam::000000000000:user/rob", "nobody");
    let soon = (bench.clock.now().plus_days(9).as_nanos() / 1_000_000_000) as u64;
    let then = ["0", "25", "75"].map(|fraction| format!("{soon}.{fraction}"));
    let rows = [
        row((Signing, "Sign", sign()), equals("kms:SigningAlgorithm"), ["ECDSA_SHA_256", "ECDSA_SHA_512"]),
        row((Signing, "Sign", sign()), equals("kms:MessageType"), ["DIGEST", "RAW"]),
        row(
            (Mac, "GenerateMac", json!({ "Message": "AA==", "MacAlgorithm": "HMAC_SHA_256" })),
            equals("kms:MacAlgorithm"),
            ["HMAC_SHA_256", "HMAC_SHA_512"],
        ),
        row(
            (Agreement, "DeriveSharedSecret", json!({ "KeyAgreementAlgorithm": "ECDH", "PublicKey": public })),
            equals("kms:KeyAgreementAlgorithm"),
            ["ECDH", "DH"],
        ),
        row(
            (Symmetric, "Encrypt", context()),
            equals("kms:EncryptionAlgorithm"),
            ["SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_1"],
        ),
        row((Symmetric, "Encrypt", context()), equals("kms:EncryptionContext:fs"), ["v", "f"]),
        row((Symmetric, "Encrypt", context()), any("kms:EncryptionContextKeys"), ["file", "v"]),
        row(
            (Symmetric, "GenerateDataKeyPair", json!({ "KeyPairSpec": "ECC_NIST_P256" })),
            equals("kms:DataKeyPairSpec"),
            ["ECC_NIST_P256", "ECC_NIST_P384"],
        ),
        row((Symmetric, "CreateGrant", grant()), any("kms:GrantOperations"), ["Decrypt", "Encrypt"]),
        row((Symmetric, "CreateGrant", grant()), equals("kms:GranteePrincipal"), [bob, rob]),
        row((Symmetric, "CreateGrant", grant()), equals("kms:RetiringPrincipal"), [rob, bob]),
        row(
            (Symmetric, "CreateGrant", grant()),
            equals("kms:GrantConstraintType"),
            ["EncryptionContextSubset", "EncryptionContextEquals"],
        ),
        row((Symmetric, "CreateGrant", grant()), ("Bool", "kms:GrantIsForAWSResource"), ["false", "true"]),
        row((Symmetric, "CreateGrant", to_service()), equals("kms:GranteeServicePrincipal"), [ec2, rds]),
        row((Symmetric, "CreateGrant", to_service()), equals("kms:RetiringServicePrincipal"), [rds, ec2]),
        row(
            (Symmetric, "CreateGrant", to_service()),
            ("ArnLike", "kms:GrantConstraintSourceArn"),
            ["arn:aws:ec2:*:*:volume/*", "arn:aws:ec2:*:*:snapshot/*"],
        ),
        row((Symmetric, "CreateGrant", to_service()), ("Null", "kms:GranteePrincipal"), ["true", "false"]),
        row((Mac, "DescribeKey", json!({})), equals("kms:CustomerMasterKeySpec"), ["HMAC_256", "HMAC_512"]),
        row(
            (Mac, "DescribeKey", json!({})),
            equals("kms:CustomerMasterKeyUsage"),
            ["GENERATE_VERIFY_MAC", "SIGN_VERIFY"],
        ),
        row((Symmetric, "DescribeKey", json!({})), equals("aws:ResourceAccount"), ["000000000000", "111122223333"]),
        row((Symmetric, "DescribeKey", json!({})), ("Bool", "aws:ViaAWSService"), ["true", "false"]),
        row((Symmetric, "DescribeKey", json!({})), ("Bool", "aws:PrincipalIsAWSService"), ["false", "true"]),
        row((Mac, "DescribeKey", json!({})), equals("kms:KeySpec"), ["HMAC_256", "SYMMETRIC_DEFAULT"]),
        row((Mac, "DescribeKey", json!({})), equals("kms:KeyUsage"), ["GENERATE_VERIFY_MAC", "SIGN_VERIFY"]),
        row((Imported, "DescribeKey", json!({})), equals("kms:KeyOrigin"), ["EXTERNAL", "AWS_KMS"]),
        row((Primary, "DescribeKey", json!({})), ("Bool", "kms:MultiRegion"), ["true", "false"]),
        row((Primary, "DescribeKey", json!({})), equals("kms:MultiRegionKeyType"), ["PRIMARY", "REPLICA"]),
        row(
            (Primary, "UpdatePrimaryRegion", json!({ "PrimaryRegion": "eu-west-1" })),
            equals("kms:PrimaryRegion"),
            ["eu-west-1", "us-east-1"],
        ),
        row(
            (Primary, "ReplicateKey", json!({ "ReplicaRegion": "ap-south-1" })),
            equals("kms:ReplicaRegion"),
            ["ap-south-1", "eu-west-1"],
        ),
        row(
            (Imported, "ImportKeyMaterial", import(json!({ "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE" }))),
            equals("kms:ExpirationModel"),
            ["KEY_MATERIAL_DOES_NOT_EXPIRE", "KEY_MATERIAL_EXPIRES"],
        ),
        row(
            (Imported, "ImportKeyMaterial", import(json!({ "ValidTo": soon }))),
            ("Null", "kms:ExpirationModel"),
            ["true", "false"],
        ),
        row(
            (
                Imported,
                "ImportKeyMaterial",
                import(json!({ "ValidTo": soon, "ExpirationModel": "KEY_MATERIAL_EXPIRES" })),
            ),
            equals("kms:ExpirationModel"),
            ["KEY_MATERIAL_EXPIRES", "KEY_MATERIAL_DOES_NOT_EXPIRE"],
        ),
        row(
            (Imported, "ImportKeyMaterial", import(json!({ "ValidTo": soon }))),
            ("DateLessThan", "kms:ValidTo"),
            ["2999-01-01T00:00:00Z", "2000-01-01T00:00:00Z"],
        ),
        row(
            (Imported, "ImportKeyMaterial", import(json!({ "ValidTo": soon }))),
            ("NumericLessThanEquals", "kms:ValidTo"),
            [&then[0], "1546257599.0"],
        ),
        row(
            (Imported, "ImportKeyMaterial", import(json!({ "ValidTo": soon as f64 + 0.5 }))),
            ("NumericGreaterThan", "kms:ValidTo"),
            [&then[1], &then[2]],
        ),
        row(
            (Imported, "ImportKeyMaterial", import(json!({ "ValidTo": soon as f64 + 0.5 }))),
            ("DateGreaterThan", "kms:ValidTo"),
            [&then[1], &then[2]],
        ),
        row(
            (Imported, "GetParametersForImport", parameters()),
            equals("kms:WrappingAlgorithm"),
            ["RSAES_OAEP_SHA_256", "RSAES_OAEP_SHA_1"],
        ),
        row(
            (Imported, "GetParametersForImport", parameters()),
            equals("kms:WrappingKeySpec"),
            ["RSA_2048", "RSA_3072"],
        ),
        row(
            (Symmetric, "ScheduleKeyDeletion", json!({ "PendingWindowInDays": 8 })),
            ("NumericLessThan", "kms:ScheduleKeyDeletionPendingWindowInDays"),
            ["9", "8"],
        ),
        row(
            (Symmetric, "EnableKeyRotation", json!({ "RotationPeriodInDays": 100 })),
            ("NumericGreaterThan", "kms:RotationPeriodInDays"),
            ["99", "100"],
        ),
        row((Symmetric, "GetKeyPolicy", json!({})), equals("kms:PolicyName"), ["default", "other"]),
        row((Symmetric, "TagResource", tags()), equals("aws:RequestTag/team"), ["red", "blue"]),
        row((Symmetric, "TagResource", tags()), any("aws:TagKeys"), ["team", "red"]),
        row((Symmetric, "DescribeKey", json!({})), equals("aws:SourceArn"), ["arn:aws:x:::y", nobody]),
        row((Symmetric, "DescribeKey", json!({})), equals("kms:ViaService"), ["kmsfs.us-east-1.local", nobody]),
        row((Symmetric, "DescribeKey", json!({})), equals("kms:CallerAccount"), ["000000000000", "111122223333"]),
    ];
    let caller = bench.alice.clone().via_service("kmsfs.us-east-1.local").for_resource("arn:aws:x:::y");
    for Row { kind, operation, request, operator, condition, has, has_not } in rows {
        // A grant is for a resource of AWS if a service asks for it.
        let caller = if condition == "kms:GrantIsForAWSResource" { &bench.alice } else { &caller };
        for (value, denied) in [(has, true), (has_not, false)] {
            let id = key(&bench, kind, KeyState::Enabled).expect("made");
            let policy = denying(&bench, operation, json!({ operator: { condition: value } }));
            done(&bench, "PutKeyPolicy", json!({ "KeyId": id, "Policy": policy }));
            let mut request = request.clone();
            request["KeyId"] = id.into();
            let outcome =
                execute(&bench, caller, operation, &request).map_err(|error| (error.code(), error.to_string()));
            let found = matches!(&outcome, Err((code, _)) if *code == "AccessDeniedException");
            assert_eq!(found, denied, "{operation} where {condition} is {value}: {outcome:?}");
        }
    }
}

#[test]
fn bypassing_the_lockout_check_can_be_denied() {
    let bench = Bench::new();
    let key = bench.key();
    let policy = denying(&bench, "PutKeyPolicy", json!({ "Bool": { "kms:BypassPolicyLockoutSafetyCheck": "true" } }));
    let put = |bypass| {
        let request = json!({ "KeyId": key, "Policy": policy, "BypassPolicyLockoutSafetyCheck": bypass });
        execute(&bench, &bench.alice, "PutKeyPolicy", &request).map_err(|error| error.code())
    };
    assert_eq!(put(true), Ok(Value::Null), "nothing denies it yet");
    assert_eq!(put(true), Err("AccessDeniedException"));
    assert_eq!(put(false), Ok(Value::Null));
}

/// Puts a policy on `key` that denies `operations` where the key was used within ten days.
fn protect_while_in_use(bench: &Bench, key: &str) {
    let condition = json!({ "NumericLessThan": { "kms:TrailingDaysWithoutKeyUsage": "10" } });
    let mut policy: Value = serde_json::from_str(&denying(bench, "DisableKey", condition)).expect("JSON");
    policy["Statement"][1]["Action"] = json!(["kms:DisableKey", "kms:ScheduleKeyDeletion"]);
    done(bench, "PutKeyPolicy", json!({ "KeyId": key, "Policy": policy.to_string() }));
}

#[test]
fn a_key_that_was_used_lately_can_be_kept_from_being_disabled_or_deleted() {
    let bench = Bench::new();
    let code = |operation: &str, key: &str| {
        execute(&bench, &bench.alice, operation, &json!({ "KeyId": key })).map(drop).map_err(|error| error.code())
    };
    bench.days(50);
    let (used, idle) = (bench.key(), bench.key());
    for key in [&used, &idle] {
        protect_while_in_use(&bench, key);
        // A key that was never used counts from its creation.
        assert_eq!(code("DisableKey", key), Err("AccessDeniedException"));
        assert_eq!(code("ScheduleKeyDeletion", key), Err("AccessDeniedException"));
    }
    bench.days(9);
    bench.encrypt(&used, b"x").expect("used");
    bench.days(1);
    assert_eq!(code("DisableKey", &used), Err("AccessDeniedException"));
    assert_eq!(code("DisableKey", &idle), Ok(()));
    // Whole days: rounded down.
    bench.days(8);
    bench.hours(23);
    assert_eq!(code("ScheduleKeyDeletion", &used), Err("AccessDeniedException"));
    bench.hours(1);
    let request = ExplainRequest { key_id: Some(used.clone()), action: "DisableKey".into(), ..Default::default() };
    assert!(bench.engine.explain(&bench.alice, &request).expect("explained").allowed);
    assert_eq!(code("ScheduleKeyDeletion", &used), Ok(()));
}

#[test]
fn retiring_a_grant_can_be_denied_by_its_constraints() {
    let bench = Bench::new();
    let root = format!("arn:aws:iam::{}:root", bench.engine.account());
    for (operator, condition, value) in [
        ("StringEquals", "kms:GrantConstraintType", "EncryptionContextSubset"),
        ("StringEquals", "kms:EncryptionContext:a", "b"),
        ("ForAnyValue:StringEquals", "kms:EncryptionContextKeys", "a"),
    ] {
        let key = bench.key();
        let made = |context: Value| {
            let request = json!({ "KeyId": key, "GranteePrincipal": root, "Operations": ["Decrypt"],
                "Constraints": { "EncryptionContextSubset": context } });
            done(&bench, "CreateGrant", request)["GrantId"].clone()
        };
        let (free, other, bound) = (
            done(&bench, "CreateGrant", json!({ "KeyId": key, "GranteePrincipal": root, "Operations": ["Decrypt"] })),
            made(json!({ "c": "d" })),
            made(json!({ "a": "b" })),
        );
        let policy = denying(&bench, "RetireGrant", json!({ operator: { condition: value } }));
        done(&bench, "PutKeyPolicy", json!({ "KeyId": key, "Policy": policy }));
        let arn = bench.describe(&key).expect("there").arn;
        let retire = |grant: &Value| {
            let request = json!({ "KeyId": arn.as_str(), "GrantId": grant });
            execute(&bench, &bench.alice, "RetireGrant", &request).map(drop).map_err(|error| error.code())
        };
        assert_eq!(retire(&bound), Err("AccessDeniedException"), "{condition}");
        assert_eq!(retire(&free["GrantId"]), Ok(()), "{condition}");
        if condition != "kms:GrantConstraintType" {
            assert_eq!(retire(&other), Ok(()), "{condition}");
        }
    }
}
