mod corners;

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::kms::engine::camel;
use crate::kms::engine::tests::{Bench, rule};

/// Executes an operation; its answer as JSON, `null` if it is empty.
fn call(bench: &Bench, name: &str, request: &Value) -> Result<Value, KmsError> {
    let answer = bench.engine.execute(&bench.alice, name, request.to_string().as_bytes())?;
    match answer.as_bytes() {
        [] => Ok(Value::Null),
        json => Ok(serde_json::from_slice(json).expect("an answer is JSON")),
    }
}

fn code(bench: &Bench, name: &str, request: &Value) -> (&'static str, String) {
    let error = call(bench, name, request).expect_err("refused");
    (error.code(), error.to_string())
}

#[test]
fn rows_keep_to_the_model() {
    assert!(MODEL.is_sorted_by(|(a, _), (b, _)| a < b));
    let mut names: Vec<_> = TABLES.iter().copied().flatten().map(Operation::name).collect();
    for operation in TABLES.iter().copied().flatten() {
        let members = model_members(operation.name).unwrap_or_else(|| panic!("{} is none of AWS's", operation.name));
        for (field, presence) in operation.fields {
            let name = answer::pascal(field);
            let starred = members.contains(&&*format!("{name}*"));
            assert!(starred || members.contains(&&*name), "{}: {name} is none of AWS's members", operation.name);
            assert_eq!(*presence == Presence::required, starred, "{}: {name}", operation.name);
        }
    }
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "an operation stands in two rows");
}

#[test]
fn the_documented_coverage_is_the_built_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/KMS.md");
    let text = std::fs::read_to_string(&path).expect("docs/KMS.md");
    let (begin, end) = ("<!-- operations: begin -->\n", "<!-- operations: end -->");
    let start = text.find(begin).expect("begin of the table") + begin.len();
    let stop = text.find(end).expect("end of the table");
    if std::env::var_os("KMSFS_UPDATE_DOCS").is_some() {
        let renewed = format!("{}{}{}", &text[..start], coverage(), &text[stop..]);
        std::fs::write(&path, renewed).expect("written");
    } else {
        assert_eq!(text[start..stop], coverage(), "renew it: KMSFS_UPDATE_DOCS=1 cargo test --lib kms::api");
    }
}

#[test]
fn operations_take_and_give_awss_json() {
    let bench = Bench::new();
    let created =
        call(&bench, "CreateKey", &json!({ "Description": "d", "Unknown": 1, "Policy": null })).expect("created");
    let metadata = &created["KeyMetadata"];
    let (id, arn) = (metadata["KeyId"].as_str().expect("id"), metadata["Arn"].as_str().expect("ARN"));
    assert_eq!(metadata["Description"], "d");
    assert!(metadata["CreationDate"].is_number());
    let context = json!({ "volume": "v" });
    let made =
        call(&bench, "GenerateDataKey", &json!({ "KeyId": id, "KeySpec": "AES_256", "EncryptionContext": context }));
    let made = made.expect("generated");
    assert_eq!(made["KeyId"], arn);
    let opened =
        call(&bench, "Decrypt", &json!({ "CiphertextBlob": made["CiphertextBlob"], "EncryptionContext": context }));
    assert_eq!(opened.expect("decrypted")["Plaintext"], made["Plaintext"]);
    let encrypted = call(&bench, "Encrypt", &json!({ "KeyId": id, "Plaintext": "c2VjcmV0" })).expect("encrypted");
    let opened = call(&bench, "Decrypt", &json!({ "CiphertextBlob": encrypted["CiphertextBlob"] })).expect("decrypted");
    assert_eq!(opened["Plaintext"], "c2VjcmV0");
    assert_eq!(call(&bench, "DisableKey", &json!({ "KeyId": id })), Ok(Value::Null));
    assert!(call(&bench, "ListKeys", &json!({})).expect("listed")["Keys"].is_array());
    let shared = call(&bench, "ListKeys", &json!({ "ResourceOwners": ["OTHER_ACCOUNTS_VIA_RAM"] })).expect("listed");
    assert_eq!(shared["Keys"], json!([]));
    let own =
        call(&bench, "ListKeys", &json!({ "ResourceOwners": ["OTHER_ACCOUNTS_VIA_RAM", "SELF"] })).expect("listed");
    assert_eq!(own["Keys"][0]["KeyId"], id);
    let empty = bench.engine.execute(&bench.alice, "ListKeys", b"").expect("an empty body is an empty object");
    assert!(empty.as_bytes().starts_with(b"{\"Keys\":["));
}

#[test]
fn what_is_wrong_with_a_request_is_said_as_aws_says_it() {
    let bench = Bench::new();
    let bad = |body: &[u8]| bench.engine.execute(&bench.alice, "ListKeys", body).expect_err("refused").code();
    for body in [&b"{nope"[..], b"[]", b"1", b"{} x", b"\xff", br#"{"Limit":1,"Limit":2}"#] {
        assert_eq!(bad(body), "SerializationException");
    }
    assert_eq!(code(&bench, "NoSuchThing", &json!({})).0, "UnknownOperationException");
    assert_eq!(code(&bench, "describekey", &json!({})).0, "UnknownOperationException");
    let (name, text) = code(&bench, "Encrypt", &json!({}));
    assert_eq!(name, "ValidationException");
    assert_eq!(
        text,
        "2 validation errors detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null; \
         Value null at 'plaintext' failed to satisfy constraint: Member must not be null"
    );
    assert_eq!(code(&bench, "GenerateRandom", &json!({ "NumberOfBytes": "x" })).0, "SerializationException");
    assert_eq!(code(&bench, "GenerateRandom", &json!({ "NumberOfBytes": 1025 })).0, "ValidationException");
    assert_eq!(code(&bench, "Decrypt", &json!({ "CiphertextBlob": "!!!" })).0, "SerializationException");
    assert_eq!(code(&bench, "Decrypt", &json!({})).0, "ValidationException");
    // Plaintext must not come where ciphertext for an enclave is expected.
    let recipient = json!({ "NumberOfBytes": 1, "Recipient": { "AttestationDocument": "AA==" } });
    assert_eq!(code(&bench, "GenerateRandom", &recipient).0, "ValidationException");
}

/// A value that a required member may have.
fn sample(member: &str) -> Value {
    match member {
        "AliasName" => json!("alias/a"),
        "EncapsulationAlgorithm" => json!("ML_KEM"),
        "KeyAgreementAlgorithm" => json!("ECDH"),
        "KeyPairSpec" => json!("ECC_NIST_P256"),
        "MacAlgorithm" => json!("HMAC_SHA_256"),
        "Operations" => json!(["Decrypt"]),
        "PrimaryRegion" | "ReplicaRegion" => json!("us-east-2"),
        "SigningAlgorithm" => json!("ECDSA_SHA_256"),
        "TagKeys" => json!(["a"]),
        "Tags" => json!([]),
        "WrappingAlgorithm" => json!("RSAES_OAEP_SHA_256"),
        "WrappingKeySpec" => json!("RSA_2048"),
        // Base64, too.
        _ => json!("AAAA"),
    }
}

#[test]
fn constraints_of_the_model_come_before_the_key() {
    let bench = Bench::new();
    let absent = "00000000-0000-4000-8000-000000000000";
    let mut checked = 0;
    for operation in TABLES.iter().copied().flatten() {
        let required = operation.fields.iter().filter(|(_, presence)| *presence == Presence::required);
        let required = required.map(|(field, _)| answer::pascal(field));
        // Reading finds nothing wrong with the first of these: its refusal is that of a call within the process, too.
        let whole = json!(required.map(|name| (name.clone(), sample(&name))).collect::<serde_json::Map<_, _>>());
        for (field, _) in operation.fields {
            let Some(rule) = rule(field) else { continue };
            let (member, name) = (answer::pascal(field), camel(field));
            let (least, most) = (*rule.bounds.start() as usize, *rule.bounds.end() as usize);
            let sizes = [least.checked_sub(1), most.checked_add(1).filter(|size| *size < 1 << 20)];
            for size in sizes.into_iter().flatten() {
                // As text, as base64, as a number, as a list, as a map: one of them is the member's type.
                let item = if *field == "resource_owners" { "SELF" } else { "A" };
                let values = [
                    json!("A".repeat(size)),
                    json!("A".repeat(size.div_ceil(3) * 4)),
                    json!(size),
                    json!(vec![item; size.min(99)]),
                    json!({ "a": "A".repeat(size) }),
                ];
                let refused = |request: &Value| {
                    values.iter().any(|value| {
                        let mut request = request.clone();
                        request[&member] = value.clone();
                        let (code, text) = code(&bench, operation.name, &request);
                        let rule = format!("at '{name}' failed to satisfy constraint: Member must have ");
                        code == "ValidationException" && text.contains(&rule)
                    })
                };
                assert!(refused(&whole), "{}: {member} of {size}", operation.name);
                assert!(refused(&json!({ "KeyId": absent })), "{}: {member} of {size} alone", operation.name);
                checked += 1;
            }
        }
    }
    assert!(checked > 200, "{checked} bounds");

    // And those of members inside members, and of the service on top of the model.
    let (tag, key) = (json!({ "TagKey": "k", "TagValue": "x".repeat(257) }), json!({ "TagKey": "", "TagValue": "" }));
    for (name, request, expected) in [
        ("TagResource", json!({ "KeyId": absent, "Tags": [tag, key] }), "2 validation errors detected: "),
        (
            "ReplicateKey",
            json!({ "KeyId": absent, "ReplicaRegion": "us-east-2", "Tags": [tag] }),
            "'tags.1.member.tagV",
        ),
        (
            "UntagResource",
            json!({ "KeyId": absent, "TagKeys": ["a", "x".repeat(129)] }),
            "at 'tagKeys.2.member' failed",
        ),
        ("DescribeKey", json!({ "KeyId": absent, "GrantTokens": [""] }), "at 'grantTokens.1.member' failed"),
        ("EnableKeyRotation", json!({ "KeyId": "", "RotationPeriodInDays": 89 }), "2 validation errors detected: "),
        ("ScheduleKeyDeletion", json!({ "KeyId": absent, "PendingWindowInDays": 6 }), "'6' at 'pendingWindowInDays'"),
        ("PutKeyPolicy", json!({ "KeyId": absent, "Policy": "{\u{100}}" }), "at 'policy' failed"),
    ] {
        let (code, text) = code(&bench, name, &request);
        assert_eq!(code, "ValidationException", "{name}: {text}");
        assert!(text.contains(expected), "{name}: {text}");
    }
}

#[test]
fn operations_that_are_not_built_say_so() {
    let bench = Bench::new();
    for (name, operation) in Operation::all() {
        let found = bench.engine.execute(&bench.alice, name, b"{\"KeyId\":5}").err().map(|error| error.code());
        match operation {
            None => assert_eq!(found, Some("UnsupportedOperationException"), "{name}"),
            Some(_) => assert_ne!(found, Some("UnsupportedOperationException"), "{name}"),
        }
    }
}

#[test]
fn external_key_stores_are_unsupported_however_they_are_named() {
    let bench = Bench::new();
    let store = |members: Value| {
        let mut request = json!({ "CustomKeyStoreName": "n", "CustomKeyStoreType": "EXTERNAL_KEY_STORE" });
        members.as_object().expect("an object").iter().for_each(|(name, value)| request[name] = value.clone());
        request
    };
    let all = json!({ "XksProxyUriEndpoint": "https://example.org", "XksProxyUriPath": "/kms/xks/v1",
        "XksProxyConnectivity": "PUBLIC_ENDPOINT", "XksProxyAuthenticationCredential": {} });
    for (name, request) in [
        ("CreateCustomKeyStore", store(json!({}))),
        ("CreateCustomKeyStore", store(all)),
        ("CreateKey", json!({ "Origin": "EXTERNAL_KEY_STORE" })),
        ("CreateKey", json!({ "Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": "cks-1", "XksKeyId": "k" })),
        ("UpdateCustomKeyStore", json!({ "CustomKeyStoreId": "cks-1", "XksProxyUriPath": "/kms/xks/v1" })),
    ] {
        let expected = "UnsupportedOperationException";
        assert_eq!(code(&bench, name, &request).0, expected, "{name} {request}");
    }
}

#[test]
fn refused_requests_are_recorded() {
    let bench = Bench::new();
    code(&bench, "DisableKey", &json!({ "KeyId": 1 }));
    bench.engine.audit().flush().expect("written");
    let log = std::fs::read_to_string(bench.home().join("audit/000001.jsonl")).expect("the log");
    let last: Value = serde_json::from_str(log.lines().last().expect("a record")).expect("JSON");
    assert_eq!((&last["eventName"], &last["errorCode"]), (&json!("DisableKey"), &json!("SerializationException")));
}
