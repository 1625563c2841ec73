//! Members of requests that are rarely used, each against the reference (KMS.md sections 3 to 13).

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::{call, code};
use crate::kms::engine::tests::Bench;

fn made(bench: &Bench, request: &Value) -> String {
    let created = call(bench, "CreateKey", request).expect("created");
    created["KeyMetadata"]["Arn"].as_str().expect("an ARN").to_owned()
}

fn done(bench: &Bench, name: &str, request: &Value) -> Value {
    call(bench, name, request).unwrap_or_else(|error| panic!("{name} {request}: {error}"))
}

fn b64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

#[test]
fn ml_dsa_takes_messages_and_external_mu_only() {
    let bench = Bench::new();
    let key = made(&bench, &json!({ "KeySpec": "ML_DSA_44", "KeyUsage": "SIGN_VERIFY" }));
    let request = |kind: &str, len: usize| json!({ "KeyId": key, "Message": b64(&vec![7; len]), "MessageType": kind, "SigningAlgorithm": "ML_DSA_SHAKE_256" });
    let signed = done(&bench, "Sign", &request("EXTERNAL_MU", 64));
    let mut verify = request("EXTERNAL_MU", 64);
    verify["Signature"] = signed["Signature"].clone();
    assert_eq!(done(&bench, "Verify", &verify)["SignatureValid"], true);
    verify["MessageType"] = "RAW".into();
    assert_eq!(code(&bench, "Verify", &verify).0, "KMSInvalidSignatureException");
    for len in [1, 63, 65] {
        let (name, text) = code(&bench, "Sign", &request("EXTERNAL_MU", len));
        assert_eq!((name, &*text), ("ValidationException", "Digest is invalid length for algorithm ML_DSA_SHAKE_256."));
    }
    assert_eq!(code(&bench, "Sign", &request("DIGEST", 64)).0, "ValidationException");
    let ecc = made(&bench, &json!({ "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY" }));
    let mut other = request("EXTERNAL_MU", 64);
    (other["KeyId"], other["SigningAlgorithm"]) = (ecc.into(), "ECDSA_SHA_256".into());
    assert_eq!(code(&bench, "Sign", &other).0, "ValidationException");
}

#[test]
fn shared_secrets_dry_and_from_foreign_curves() {
    let bench = Bench::new();
    let pair = |spec: &str| made(&bench, &json!({ "KeySpec": spec, "KeyUsage": "KEY_AGREEMENT" }));
    let (own, peer, other) = (pair("ECC_NIST_P256"), pair("ECC_NIST_P256"), pair("ECC_NIST_P384"));
    let public = |key: &str| done(&bench, "GetPublicKey", &json!({ "KeyId": key }))["PublicKey"].clone();
    let request = |of: &str, dry: bool| json!({ "KeyId": own, "KeyAgreementAlgorithm": "ECDH", "PublicKey": public(of), "DryRun": dry });
    assert_eq!(code(&bench, "DeriveSharedSecret", &request(&peer, true)).0, "DryRunOperationException");
    assert_eq!(code(&bench, "DeriveSharedSecret", &request(&other, true)).0, "ValidationException");
    let answer = done(&bench, "DeriveSharedSecret", &request(&peer, false));
    assert_eq!((&answer["KeyOrigin"], &answer["KeyAgreementAlgorithm"]), (&json!("AWS_KMS"), &json!("ECDH")));
    let mut reversed = request(&own, false);
    reversed["KeyId"] = peer.into();
    assert_eq!(done(&bench, "DeriveSharedSecret", &reversed)["SharedSecret"], answer["SharedSecret"]);
    assert_eq!(
        code(&bench, "Sign", &json!({ "KeyId": own, "Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_256" })).0,
        "InvalidKeyUsageException"
    );
}

#[test]
fn macs_at_their_limits() {
    let bench = Bench::new();
    let key = made(&bench, &json!({ "KeySpec": "HMAC_224", "KeyUsage": "GENERATE_VERIFY_MAC" }));
    let request = |len: usize| json!({ "KeyId": key, "Message": b64(&vec![1; len]), "MacAlgorithm": "HMAC_SHA_224" });
    let mac = done(&bench, "GenerateMac", &request(4096))["Mac"].clone();
    assert_eq!(BASE64.decode(mac.as_str().expect("text").as_bytes()).expect("base64").len(), 28);
    for len in [0, 4097] {
        let (name, text) = code(&bench, "GenerateMac", &request(len));
        assert_eq!(name, "ValidationException");
        assert!(text.contains("Value at 'message' failed"), "{text}");
    }
    let mut verify = request(4096);
    verify["Mac"] = mac;
    assert_eq!(done(&bench, "VerifyMac", &verify)["MacValid"], true);
    verify["DryRun"] = true.into();
    assert_eq!(code(&bench, "VerifyMac", &verify).0, "DryRunOperationException");
    verify["Mac"] = b64(&[0; 27]).into();
    assert_eq!(code(&bench, "VerifyMac", &verify), ("KMSInvalidMacException", String::new()));
    let mut wrong = request(1);
    wrong["MacAlgorithm"] = "HMAC_SHA_256".into();
    let text = "Algorithm HMAC_SHA_256 is incompatible with key spec HMAC_224.".to_owned();
    assert_eq!(code(&bench, "GenerateMac", &wrong), ("InvalidKeyUsageException", text));
    assert_eq!(code(&bench, "GetPublicKey", &json!({ "KeyId": key })).0, "UnsupportedOperationException");
}

#[test]
fn replicas_have_their_own_policy_tags_and_description() {
    let bench = Bench::new();
    let primary = made(&bench, &json!({ "MultiRegion": true, "Description": "of the primary" }));
    let policy = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*",
        "Principal": {"AWS": "arn:aws:iam::000000000000:root"}}]})
    .to_string();
    let tags = json!([{ "TagKey": "a", "TagValue": "" }]);
    let request = json!({ "KeyId": primary, "ReplicaRegion": "eu-west-1", "Policy": policy, "Tags": tags,
        "Description": "of the replica" });
    let answer = done(&bench, "ReplicateKey", &request);
    assert_eq!((&answer["ReplicaPolicy"], &answer["ReplicaTags"]), (&json!(policy), &tags));
    let metadata = &answer["ReplicaKeyMetadata"];
    assert_eq!(metadata["Description"], "of the replica");
    assert_eq!(metadata["MultiRegionConfiguration"]["MultiRegionKeyType"], "REPLICA");
    assert_eq!(metadata["Arn"], primary.replace("us-east-1", "eu-west-1").as_str());
    assert_eq!(code(&bench, "ReplicateKey", &request).0, "AlreadyExistsException");
    let twice = json!([{ "TagKey": "a", "TagValue": "1" }, { "TagKey": "a", "TagValue": "2" }]);
    let request = |name: &str, value: Value| {
        let mut request = json!({ "KeyId": primary, "ReplicaRegion": "eu-west-2" });
        request[name] = value;
        request
    };
    assert_eq!(code(&bench, "ReplicateKey", &request("Tags", twice)).0, "TagException");
    let nobody = json!({"Statement": []}).to_string();
    let refused = code(&bench, "ReplicateKey", &request("Policy", json!(nobody)));
    assert_eq!(refused.0, "MalformedPolicyDocumentException");
    let single = made(&bench, &json!({}));
    let refused = code(&bench, "ReplicateKey", &json!({ "KeyId": single, "ReplicaRegion": "eu-west-1" }));
    assert_eq!(refused.0, "UnsupportedOperationException");

    // UpdatePrimaryRegion by the states of both.
    let update = |region: &str| json!({ "KeyId": primary, "PrimaryRegion": region });
    assert_eq!(code(&bench, "UpdatePrimaryRegion", &update("eu-west-2")).0, "NotFoundException");
    assert_eq!(code(&bench, "UpdatePrimaryRegion", &update("us-east-1")).0, "ValidationException");
    done(&bench, "DisableKey", &json!({ "KeyId": primary }));
    assert_eq!(code(&bench, "UpdatePrimaryRegion", &update("eu-west-1")).0, "DisabledException");
    done(&bench, "EnableKey", &json!({ "KeyId": primary }));
    assert_eq!(done(&bench, "UpdatePrimaryRegion", &update("eu-west-1")), Value::Null);
    let refused = code(&bench, "UpdatePrimaryRegion", &update("eu-west-1"));
    assert_eq!(refused, ("UnsupportedOperationException", format!("{primary} is not a multi-region primary key.")));
}

#[test]
fn retirable_grants_come_in_pages() {
    let bench = Bench::new();
    let key = made(&bench, &json!({}));
    let (alice, bob) = ("arn:aws:iam::000000000000:user/alice", "arn:aws:iam::000000000000:user/bob");
    for retiring in [alice, alice, bob, alice] {
        let request = json!({ "KeyId": key, "GranteePrincipal": bob, "RetiringPrincipal": retiring,
            "Operations": ["Decrypt", "Decrypt", "RetireGrant"] });
        done(&bench, "CreateGrant", &request);
    }
    let mut ids = Vec::new();
    let mut request = json!({ "RetiringPrincipal": alice, "Limit": 2 });
    loop {
        let page = done(&bench, "ListRetirableGrants", &request);
        for grant in page["Grants"].as_array().expect("a list") {
            assert_eq!((&grant["KeyId"], &grant["RetiringPrincipal"]), (&json!(key), &json!(alice)));
            assert_eq!(grant["Operations"], json!(["Decrypt", "RetireGrant"]), "named twice, granted once");
            ids.push(grant["GrantId"].clone());
        }
        if page["Truncated"] == false {
            assert_eq!(page.get("NextMarker"), None);
            break;
        }
        request["Marker"] = page["NextMarker"].clone();
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
    // A marker is of its filter, and of its operation.
    let marker =
        done(&bench, "ListRetirableGrants", &json!({ "RetiringPrincipal": alice, "Limit": 1 }))["NextMarker"].clone();
    let other = json!({ "RetiringPrincipal": bob, "Marker": marker });
    assert_eq!(code(&bench, "ListRetirableGrants", &other).0, "InvalidMarkerException");
    assert_eq!(code(&bench, "ListGrants", &json!({ "KeyId": key, "Marker": marker })).0, "InvalidMarkerException");
    let listed = |request: Value| done(&bench, "ListGrants", &request)["Grants"].as_array().map(Vec::len);
    assert_eq!(listed(json!({ "KeyId": key, "GrantId": ids[0] })), Some(1));
    assert_eq!(listed(json!({ "KeyId": key, "GranteePrincipal": alice })), Some(0));
    assert_eq!(listed(json!({ "KeyId": key, "GranteePrincipal": bob, "Limit": 1000 })), Some(4));
    assert_eq!(code(&bench, "ListGrants", &json!({ "KeyId": key, "GrantId": "x" })).0, "InvalidGrantIdException");
    for bad in [json!({}), json!({ "RetiringPrincipal": alice, "RetiringServicePrincipal": "a.b.c" })] {
        assert_eq!(code(&bench, "ListRetirableGrants", &bad).0, "ValidationException");
    }
    let both = json!({ "KeyId": key, "GrantId": ids[0], "GrantToken": "AAAA" });
    assert_eq!(code(&bench, "RetireGrant", &both).0, "ValidationException");
    let dry = json!({ "KeyId": key, "GrantId": ids[0], "DryRun": true });
    assert_eq!(code(&bench, "RetireGrant", &dry).0, "DryRunOperationException");
    assert_eq!(code(&bench, "RevokeGrant", &dry).0, "DryRunOperationException");
    assert_eq!(listed(json!({ "KeyId": key })), Some(4));
}

#[test]
fn constraints_of_grants_at_their_limits() {
    let bench = Bench::new();
    let key = made(&bench, &json!({}));
    let grant = |constraints: Value| {
        let request = json!({ "KeyId": key, "GranteePrincipal": "arn:aws:iam::000000000000:user/bob",
            "Operations": ["Decrypt"], "Constraints": constraints });
        call(&bench, "CreateGrant", &request).map(drop).map_err(|error| error.code())
    };
    let pairs = |n: usize, len: usize| -> Value {
        (0..n).map(|at| (format!("k{at}"), Value::from("v".repeat(len)))).collect::<serde_json::Map<_, _>>().into()
    };
    for name in ["EncryptionContextSubset", "EncryptionContextEquals"] {
        assert_eq!(grant(json!({ name: pairs(8, 384) })), Ok(()));
        assert_eq!(grant(json!({ name: pairs(9, 1) })), Err("ValidationException"));
        assert_eq!(grant(json!({ name: pairs(1, 385) })), Err("ValidationException"));
    }
    assert_eq!(grant(json!({ "SourceArn": "arn:aws:ec2:us-east-1:000000000000:volume/v" })), Ok(()));
    assert_eq!(grant(json!({ "SourceArn": "a volume" })), Err("ValidationException"));
    let signing = made(&bench, &json!({ "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY" }));
    let request = |operation: &str, constraints: Value| {
        json!({ "KeyId": signing, "GranteePrincipal": "arn:aws:iam::000000000000:user/bob", "Operations": [operation],
            "Constraints": constraints })
    };
    let subset = json!({ "EncryptionContextSubset": { "a": "b" } });
    assert_eq!(code(&bench, "CreateGrant", &request("Sign", subset)).0, "ValidationException");
    assert_eq!(code(&bench, "CreateGrant", &request("Decrypt", json!({}))).0, "ValidationException");
}

#[test]
fn wrapping_keys_fit_what_they_wrap() {
    let bench = Bench::new();
    let key =
        |spec: &str, usage: &str| made(&bench, &json!({ "Origin": "EXTERNAL", "KeySpec": spec, "KeyUsage": usage }));
    let parameters = |key: &str, algorithm: &str, spec: &str| {
        let request = json!({ "KeyId": key, "WrappingAlgorithm": algorithm, "WrappingKeySpec": spec });
        call(&bench, "GetParametersForImport", &request).map(drop).map_err(|error| error.code())
    };
    let (symmetric, mac) = (key("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"), key("HMAC_512", "GENERATE_VERIFY_MAC"));
    let (rsa, p521) = (key("RSA_2048", "SIGN_VERIFY"), key("ECC_NIST_P521", "SIGN_VERIFY"));
    const UNFIT: Result<(), &str> = Err("UnsupportedOperationException");
    for (key, algorithm, expected) in [
        (&symmetric, "RSAES_OAEP_SHA_1", Ok(())),
        (&symmetric, "RSA_AES_KEY_WRAP_SHA_256", UNFIT),
        (&symmetric, "RSAES_PKCS1_V1_5", UNFIT),
        (&mac, "RSAES_OAEP_SHA_256", Ok(())),
        (&mac, "RSA_AES_KEY_WRAP_SHA_1", UNFIT),
        (&rsa, "RSAES_OAEP_SHA_256", UNFIT),
        (&rsa, "RSA_AES_KEY_WRAP_SHA_1", Ok(())),
        (&p521, "RSAES_OAEP_SHA_256", UNFIT),
        (&p521, "RSA_AES_KEY_WRAP_SHA_256", Ok(())),
    ] {
        assert_eq!(parameters(key, algorithm, "RSA_2048"), expected, "{key} {algorithm}");
    }
    let own = made(&bench, &json!({}));
    let refused = code(
        &bench,
        "GetParametersForImport",
        &json!({ "KeyId": own, "WrappingAlgorithm": "RSAES_OAEP_SHA_1",
        "WrappingKeySpec": "RSA_2048" }),
    );
    assert_eq!(
        refused,
        ("UnsupportedOperationException", format!("{own} origin is AWS_KMS which is not valid for this operation."))
    );
    let sm2 = json!({ "KeyId": symmetric, "WrappingAlgorithm": "SM2PKE", "WrappingKeySpec": "SM2" });
    assert_ne!(code(&bench, "GetParametersForImport", &sm2).0, "KMSInternalException");
}

#[test]
fn encryption_contexts_at_their_limit() {
    let bench = Bench::new();
    let key = made(&bench, &json!({}));
    // 4 bytes for the number of pairs, 4 for each length, 1 for the name.
    let context = |len: usize| json!({ "n": "v".repeat(len - 4 - 8 - 1) });
    let request = |len: usize| json!({ "KeyId": key, "Plaintext": "AA==", "EncryptionContext": context(len) });
    let blob = done(&bench, "Encrypt", &request(8192))["CiphertextBlob"].clone();
    let decrypt = |len: usize| json!({ "CiphertextBlob": blob, "EncryptionContext": context(len) });
    assert_eq!(done(&bench, "Decrypt", &decrypt(8192))["Plaintext"], "AA==");
    assert_eq!(code(&bench, "Decrypt", &decrypt(8191)), ("InvalidCiphertextException", String::new()));
    for (name, request) in [("Encrypt", request(8193)), ("Decrypt", decrypt(8193))] {
        let (name, text) = code(&bench, name, &request);
        assert_eq!(name, "ValidationException");
        assert!(text.contains("'encryptionContext'"), "{text}");
    }
    let twice = br#"{"KeyId":"x","Plaintext":"AA==","EncryptionContext":{"a":"1","a":"2"}}"#;
    let refused = bench.engine.execute(&bench.alice, "Encrypt", twice).expect_err("a member named twice");
    assert_eq!(refused.code(), "SerializationException");
    // Empty and absent are the same.
    let empty = json!({ "KeyId": key, "Plaintext": "AA==", "EncryptionContext": {} });
    let blob = done(&bench, "Encrypt", &empty)["CiphertextBlob"].clone();
    assert_eq!(done(&bench, "Decrypt", &json!({ "CiphertextBlob": blob }))["Plaintext"], "AA==");
    let rsa = made(&bench, &json!({ "KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT" }));
    let request = json!({ "KeyId": rsa, "Plaintext": "AA==", "EncryptionAlgorithm": "RSAES_OAEP_SHA_1",
        "EncryptionContext": { "a": "b" } });
    assert_eq!(code(&bench, "Encrypt", &request).0, "ValidationException");
}

#[test]
fn dry_runs_without_ciphertext_need_the_key() {
    let bench = Bench::new();
    let key = made(&bench, &json!({}));
    let with = |name: &str, members: Value| {
        let mut request = json!({ "DryRunModifiers": ["IGNORE_CIPHERTEXT"] });
        members.as_object().expect("an object").iter().for_each(|(name, value)| request[name] = value.clone());
        code(&bench, name, &request).0
    };
    assert_eq!(with("Decrypt", json!({ "KeyId": key, "DryRun": true })), "DryRunOperationException");
    assert_eq!(with("Decrypt", json!({ "DryRun": true })), "ValidationException");
    assert_eq!(with("Decrypt", json!({ "KeyId": key })), "ValidationException");
    let both = json!({ "SourceKeyId": key, "DestinationKeyId": key, "DryRun": true });
    assert_eq!(with("ReEncrypt", both), "DryRunOperationException");
    assert_eq!(with("ReEncrypt", json!({ "DestinationKeyId": key, "DryRun": true })), "ValidationException");
    done(&bench, "DisableKey", &json!({ "KeyId": key }));
    assert_eq!(with("Decrypt", json!({ "KeyId": key, "DryRun": true })), "DisabledException");
    // None of it is a use of the key.
    let usage = done(&bench, "GetKeyLastUsage", &json!({ "KeyId": key }));
    assert!(usage["KeyLastUsage"].get("Operation").is_none(), "{usage}");
}

#[test]
fn pairs_random_bytes_and_lists() {
    let bench = Bench::new();
    let key = made(&bench, &json!({}));
    let pair = |spec: &str, dry: bool| json!({ "KeyId": key, "KeyPairSpec": spec, "DryRun": dry });
    for name in ["GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext"] {
        assert_eq!(code(&bench, name, &pair("ECC_NIST_P256", true)).0, "DryRunOperationException");
        assert_eq!(code(&bench, name, &pair("SM2", true)).0, "UnsupportedOperationException");
        assert_eq!(code(&bench, name, &pair("SYMMETRIC_DEFAULT", true)).0, "ValidationException");
    }
    let quiet = done(&bench, "GenerateDataKeyPairWithoutPlaintext", &pair("ECC_NIST_EDWARDS25519", false));
    assert!(quiet.get("PrivateKeyPlaintext").is_none() && quiet["PublicKey"].is_string());
    let opened = done(&bench, "Decrypt", &json!({ "CiphertextBlob": quiet["PrivateKeyCiphertextBlob"] }));
    assert!(opened["Plaintext"].is_string());
    let absent = json!({ "NumberOfBytes": 1, "CustomKeyStoreId": "cks-1234567890abcdef0" });
    assert_eq!(code(&bench, "GenerateRandom", &absent).0, "CustomKeyStoreNotFoundException");
    assert_eq!(
        code(&bench, "GenerateRandom", &json!({})),
        ("ValidationException", "NumberOfBytes is required.".into())
    );
    let both = json!({ "KeyId": key, "KeySpec": "AES_256", "NumberOfBytes": 32 });
    assert_eq!(code(&bench, "GenerateDataKey", &both).0, "ValidationException");
    let both = json!({ "CustomKeyStoreId": "cks-1", "CustomKeyStoreName": "n" });
    assert_eq!(code(&bench, "DescribeCustomKeyStores", &both).0, "ValidationException");
    let absent = code(&bench, "DescribeCustomKeyStores", &json!({ "CustomKeyStoreName": "n" }));
    assert_eq!(absent.0, "CustomKeyStoreNotFoundException");
    assert_eq!(code(&bench, "ListKeys", &json!({ "ResourceOwners": [] })).0, "ValidationException");
    assert_eq!(code(&bench, "GetKeyPolicy", &json!({ "KeyId": key, "PolicyName": "AWS_RAM" })).0, "NotFoundException");
    let ram = json!({ "KeyId": key, "PolicyName": "AWS_RAM", "Policy": "{}" });
    let text = "The AWS_RAM policy can only be managed by the RAM service.".to_owned();
    assert_eq!(code(&bench, "PutKeyPolicy", &ram), ("ValidationException", text));

    // The markers of a key's lists are the key's.
    let other = made(&bench, &json!({}));
    let tags: Vec<Value> = (0..3).map(|n| json!({ "TagKey": format!("t{n}"), "TagValue": "" })).collect();
    done(&bench, "TagResource", &json!({ "KeyId": key, "Tags": tags }));
    done(&bench, "UntagResource", &json!({ "KeyId": key, "TagKeys": ["t1", "absent"] }));
    let page = done(&bench, "ListResourceTags", &json!({ "KeyId": key, "Limit": 1 }));
    assert_eq!((&page["Tags"][0]["TagKey"], &page["Truncated"]), (&json!("t0"), &json!(true)));
    let next = json!({ "KeyId": key, "Marker": page["NextMarker"] });
    assert_eq!(done(&bench, "ListResourceTags", &next)["Tags"], json!([{ "TagKey": "t2", "TagValue": "" }]));
    let wrong = json!({ "KeyId": other, "Marker": page["NextMarker"] });
    assert_eq!(code(&bench, "ListResourceTags", &wrong).0, "InvalidMarkerException");
    let reserved = json!({ "KeyId": key, "Tags": [{ "TagKey": "aws:x", "TagValue": "" }] });
    let text = "Tags beginning with aws: are reserved".to_owned();
    assert_eq!(code(&bench, "TagResource", &reserved), ("TagException", text));
    // Control operations take no alias.
    done(&bench, "CreateAlias", &json!({ "AliasName": "alias/a", "TargetKeyId": key }));
    for name in ["DisableKey", "ListGrants", "GetKeyRotationStatus", "ListResourceTags", "ListAliases"] {
        assert_eq!(code(&bench, name, &json!({ "KeyId": "alias/a" })).0, "NotFoundException", "{name}");
    }
}
