//! Which operation which state of a key allows: the table of KMS.md section 6, row by row.

use serde_json::{Value, json};

use super::import::Importer;
use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Symmetric,
    Mac,
    Signing,
    Agreement,
    Kem,
    /// Symmetric, its material imported.
    Imported,
    /// Symmetric, multi-Region, with a replica.
    Primary,
}

const STATES: [KeyState; 5] = [
    KeyState::Enabled,
    KeyState::Disabled,
    KeyState::PendingImport,
    KeyState::PendingDeletion,
    KeyState::PendingReplicaDeletion,
];

/// Executes an operation; its answer as JSON, `null` if it is empty.
pub fn execute(bench: &Bench, caller: &Caller, name: &str, request: &Value) -> Result<Value, KmsError> {
    let answer = bench.engine.execute(caller, name, request.to_string().as_bytes())?;
    match answer.as_bytes() {
        [] => Ok(Value::Null),
        json => Ok(serde_json::from_slice(json).expect("an answer is JSON")),
    }
}

pub fn done(bench: &Bench, name: &str, request: Value) -> Value {
    let answer = execute(bench, &bench.alice, name, &request);
    answer.unwrap_or_else(|error| panic!("{name} {request}: {} {error}", error.code()))
}

/// The id of a new key in `state`; `None` if there is none of this kind.
pub fn key(bench: &Bench, kind: Kind, state: KeyState) -> Option<String> {
    let mut new = match kind {
        Kind::Symmetric => json!({}),
        Kind::Mac => json!({ "KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC" }),
        Kind::Signing => json!({ "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY" }),
        Kind::Agreement => json!({ "KeySpec": "ECC_NIST_P256", "KeyUsage": "KEY_AGREEMENT" }),
        Kind::Kem => json!({ "KeySpec": "ML_KEM_512", "KeyUsage": "ENCAPSULATE_DECAPSULATE" }),
        Kind::Imported => json!({ "Origin": "EXTERNAL" }),
        Kind::Primary => json!({ "MultiRegion": true }),
    };
    match state {
        KeyState::PendingImport if kind == Kind::Kem => return None,
        KeyState::PendingImport => new["Origin"] = "EXTERNAL".into(),
        // A primary with a replica is never pending deletion.
        KeyState::PendingDeletion if kind == Kind::Primary => new = json!({ "MultiRegion": true }),
        KeyState::PendingReplicaDeletion => new["MultiRegion"] = true.into(),
        _ => {}
    }
    let id = done(bench, "CreateKey", new)["KeyMetadata"]["KeyId"].as_str().expect("an id").to_owned();
    let imports = kind == Kind::Imported || kind == Kind::Primary && state == KeyState::PendingImport;
    if imports {
        Importer::new(bench, &bench.alice).import(&id, &[7; 32], |_| {}).expect("imported");
    }
    let replicated = kind == Kind::Primary && state != KeyState::PendingDeletion;
    if replicated || state == KeyState::PendingReplicaDeletion {
        done(bench, "ReplicateKey", json!({ "KeyId": id, "ReplicaRegion": "eu-west-1" }));
    }
    match state {
        KeyState::Disabled => drop(done(bench, "DisableKey", json!({ "KeyId": id }))),
        KeyState::PendingImport if imports => drop(done(bench, "DeleteImportedKeyMaterial", json!({ "KeyId": id }))),
        KeyState::PendingDeletion | KeyState::PendingReplicaDeletion => {
            drop(done(bench, "ScheduleKeyDeletion", json!({ "KeyId": id, "PendingWindowInDays": 7 })));
        }
        _ => {}
    }
    assert_eq!(bench.describe(&id).expect("there").key_state, state, "{kind:?}");
    Some(id)
}

/// Calls the operation on a new key of this kind in each state, and compares with the row: `ok`, AWS's letters of the table
/// (D, I, P, N, X), another error code that comes after the state was judged, or `-` for a cell that is none.
fn row(bench: &Bench, name: &str, kind: Kind, request: impl Fn(&str) -> Value, expected: [&str; STATES.len()]) {
    for (state, expected) in STATES.into_iter().zip(expected) {
        let Some(id) = (expected != "-").then(|| key(bench, kind, state)).flatten() else { continue };
        let arn = bench.describe(&id).expect("there").arn;
        let (code, text) = match expected {
            "D" => ("DisabledException", format!("{arn} is disabled.")),
            "I" => ("KMSInvalidStateException", format!("{arn} is pending import.")),
            "P" if state == KeyState::PendingReplicaDeletion => {
                ("KMSInvalidStateException", format!("{arn} is pending replica deletion."))
            }
            "P" => ("KMSInvalidStateException", format!("{arn} is pending deletion.")),
            "N" => ("KMSInvalidStateException", format!("{arn} is not pending deletion")),
            "X" => ("UnsupportedOperationException", String::new()),
            code => (code, String::new()),
        };
        let outcome = execute(bench, &bench.alice, name, &request(&id));
        let found = outcome.as_ref().map_or_else(|error| (error.code(), error.to_string()), |_| ("ok", String::new()));
        assert_eq!(found.0, code, "{name} of a key that is {state}: {}", found.1);
        assert!(text.is_empty() || found.1 == text, "{name} of a key that is {state}: {}", found.1);
    }
}

/// The request names the key and nothing else.
fn bare(id: &str) -> Value {
    json!({ "KeyId": id })
}

/// The request names the key, and more.
fn with(more: Value) -> impl Fn(&str) -> Value {
    move |id| {
        let mut request = more.clone();
        request["KeyId"] = id.into();
        request
    }
}

#[test]
fn uses_of_keys() {
    use Kind::*;
    let bench = Bench::new();
    let row = |name, kind, request: &dyn Fn(&str) -> Value, enabled| {
        row(&bench, name, kind, request, [enabled, "D", "I", "P", "P"]);
    };
    let aes = || with(json!({ "KeySpec": "AES_256" }));
    row("Encrypt", Symmetric, &with(json!({ "Plaintext": "AA==" })), "ok");
    row("Decrypt", Symmetric, &with(json!({ "CiphertextBlob": "AA==" })), "InvalidCiphertextException");
    row("GenerateDataKey", Symmetric, &aes(), "ok");
    row("GenerateDataKeyWithoutPlaintext", Symmetric, &aes(), "ok");
    let pair = || with(json!({ "KeyPairSpec": "ECC_NIST_P256" }));
    row("GenerateDataKeyPair", Symmetric, &pair(), "ok");
    row("GenerateDataKeyPairWithoutPlaintext", Symmetric, &pair(), "ok");
    let good = bench.key();
    let blob = done(&bench, "Encrypt", json!({ "KeyId": good, "Plaintext": "AA==" }))["CiphertextBlob"].clone();
    let to = |id: &str| json!({ "CiphertextBlob": blob, "DestinationKeyId": id });
    row("ReEncrypt", Symmetric, &to, "ok");
    let from = |id: &str| json!({ "CiphertextBlob": "AA==", "SourceKeyId": id, "DestinationKeyId": good });
    row("ReEncrypt", Symmetric, &from, "InvalidCiphertextException");

    let mac = json!({ "Message": "AA==", "MacAlgorithm": "HMAC_SHA_256" });
    row("GenerateMac", Mac, &with(mac), "ok");
    let mac = json!({ "Message": "AA==", "MacAlgorithm": "HMAC_SHA_256", "Mac": "AA==" });
    row("VerifyMac", Mac, &with(mac), "KMSInvalidMacException");
    let sign = json!({ "Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_256" });
    row("Sign", Signing, &with(sign), "ok");
    let verify = json!({ "Message": "AA==", "SigningAlgorithm": "ECDSA_SHA_256", "Signature": "AA==" });
    row("Verify", Signing, &with(verify), "KMSInvalidSignatureException");
    row("GetPublicKey", Signing, &bare, "ok");
    let peer = key(&bench, Agreement, KeyState::Enabled).expect("made");
    let public = done(&bench, "GetPublicKey", bare(&peer))["PublicKey"].clone();
    let agree = json!({ "KeyAgreementAlgorithm": "ECDH", "PublicKey": public });
    row("DeriveSharedSecret", Agreement, &with(agree), "ok");
    row("Encapsulate", Kem, &with(json!({ "EncapsulationAlgorithm": "ML_KEM" })), "ok");
    let sealed = data_encoding::BASE64.encode(&[1; 768]);
    let open = json!({ "EncapsulationAlgorithm": "ML_KEM", "SharedSecretCiphertextBlob": sealed });
    row("Decapsulate", Kem, &with(open), "ok");
    let grantee = format!("arn:aws:iam::{}:user/bob", bench.engine.account());
    row("CreateGrant", Symmetric, &with(json!({ "GranteePrincipal": grantee, "Operations": ["Decrypt"] })), "ok");
}

#[test]
fn looking_at_keys() {
    let bench = Bench::new();
    let policy = crate::kms::policy::default_document(bench.engine.account().as_str());
    for (name, more) in [
        ("DescribeKey", json!({})),
        ("GetKeyPolicy", json!({})),
        ("PutKeyPolicy", json!({ "Policy": policy })),
        ("ListKeyPolicies", json!({})),
        ("ListAliases", json!({})),
        ("ListResourceTags", json!({})),
        ("GetKeyLastUsage", json!({})),
        ("ListGrants", json!({})),
        ("GetKeyRotationStatus", json!({})),
        ("ListKeyRotations", json!({})),
    ] {
        row(&bench, name, Kind::Symmetric, with(more), ["ok"; 5]);
    }
    for state in STATES {
        let id = key(&bench, Kind::Symmetric, state).expect("made");
        if state != KeyState::Enabled {
            let status = done(&bench, "GetKeyRotationStatus", bare(&id));
            assert_eq!(status["KeyRotationEnabled"], false, "{state}");
        }
    }
}

#[test]
fn grants_and_aliases_go_in_every_state() {
    let bench = Bench::new();
    let grantee = format!("arn:aws:iam::{}:user/bob", bench.engine.account());
    for (at, state) in STATES.into_iter().enumerate().filter(|(_, state)| *state != KeyState::PendingImport) {
        let multi = state == KeyState::PendingReplicaDeletion;
        let id = done(&bench, "CreateKey", json!({ "MultiRegion": multi }))["KeyMetadata"]["KeyId"].clone();
        let grant = json!({ "KeyId": id, "GranteePrincipal": grantee, "Operations": ["Decrypt"] });
        let [revoked, retired] = [(); 2].map(|()| done(&bench, "CreateGrant", grant.clone()));
        let alias = format!("alias/of-{at}");
        for name in [&alias, &format!("{alias}-moved")] {
            done(&bench, "CreateAlias", json!({ "AliasName": name, "TargetKeyId": id }));
        }
        match state {
            KeyState::Disabled => drop(done(&bench, "DisableKey", json!({ "KeyId": id }))),
            KeyState::PendingDeletion => drop(done(&bench, "ScheduleKeyDeletion", json!({ "KeyId": id }))),
            KeyState::PendingReplicaDeletion => {
                done(&bench, "ReplicateKey", json!({ "KeyId": id, "ReplicaRegion": "eu-west-1" }));
                done(&bench, "ScheduleKeyDeletion", json!({ "KeyId": id }));
            }
            _ => {}
        }
        done(&bench, "RevokeGrant", json!({ "KeyId": id, "GrantId": revoked["GrantId"] }));
        done(&bench, "RetireGrant", json!({ "GrantToken": retired["GrantToken"] }));
        done(&bench, "UpdateAlias", json!({ "AliasName": format!("{alias}-moved"), "TargetKeyId": bench.key() }));
        done(&bench, "DeleteAlias", json!({ "AliasName": alias }));
    }
}

#[test]
fn changes_of_keys() {
    use Kind::*;
    let bench = Bench::new();
    let named = |prefix: &'static str| move |id: &str| json!({ "AliasName": format!("alias/{prefix}-{id}"), "TargetKeyId": id });
    row(&bench, "CreateAlias", Symmetric, named("new"), ["ok", "ok", "ok", "P", "P"]);
    let target = bench.key();
    let moved = |id: &str| {
        let name = format!("alias/moved-{id}");
        done(&bench, "CreateAlias", json!({ "AliasName": name, "TargetKeyId": target }));
        json!({ "AliasName": name, "TargetKeyId": id })
    };
    row(&bench, "UpdateAlias", Symmetric, moved, ["ok", "ok", "ok", "P", "P"]);
    row(&bench, "EnableKey", Symmetric, bare, ["ok", "ok", "I", "P", "P"]);
    row(&bench, "DisableKey", Symmetric, bare, ["ok", "ok", "I", "P", "P"]);
    for name in ["EnableKeyRotation", "DisableKeyRotation"] {
        row(&bench, name, Symmetric, bare, ["ok", "D", "X", "P", "P"]);
        row(&bench, name, Mac, bare, ["X", "-", "X", "-", "-"]);
    }
    row(&bench, "RotateKeyOnDemand", Symmetric, bare, ["ok", "D", "I", "P", "P"]);
    row(&bench, "RotateKeyOnDemand", Signing, bare, ["X", "-", "-", "-", "-"]);
    row(&bench, "ScheduleKeyDeletion", Symmetric, bare, ["ok", "ok", "ok", "P", "P"]);
    row(&bench, "CancelKeyDeletion", Symmetric, bare, ["N", "N", "N", "ok", "ok"]);
    row(
        &bench,
        "TagResource",
        Symmetric,
        with(json!({ "Tags": [{ "TagKey": "a", "TagValue": "b" }] })),
        ["ok", "ok", "ok", "P", "P"],
    );
    row(&bench, "UntagResource", Symmetric, with(json!({ "TagKeys": ["a"] })), ["ok", "ok", "ok", "P", "P"]);
    row(&bench, "UpdateKeyDescription", Symmetric, with(json!({ "Description": "d" })), ["ok", "ok", "ok", "P", "P"]);
    let replica = with(json!({ "ReplicaRegion": "ap-south-1" }));
    row(&bench, "ReplicateKey", Primary, replica, ["ok", "D", "I", "P", "P"]);
    let primary = with(json!({ "PrimaryRegion": "eu-west-1" }));
    row(&bench, "UpdatePrimaryRegion", Primary, primary, ["ok", "D", "I", "-", "P"]);
}

#[test]
fn import_of_material() {
    use Kind::*;
    let bench = Bench::new();
    let parameters = || with(json!({ "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048" }));
    row(&bench, "GetParametersForImport", Imported, parameters(), ["ok", "ok", "ok", "P", "-"]);
    row(&bench, "GetParametersForImport", Symmetric, parameters(), ["X", "X", "-", "-", "-"]);
    let bad = "InvalidImportTokenException";
    let import = || {
        let material = json!({ "ImportToken": "AA==", "EncryptedKeyMaterial": "AA==" });
        move |id: &str| {
            let mut request = material.clone();
            (request["KeyId"], request["ExpirationModel"]) = (id.into(), "KEY_MATERIAL_DOES_NOT_EXPIRE".into());
            request
        }
    };
    row(&bench, "ImportKeyMaterial", Imported, import(), [bad, bad, bad, "P", "-"]);
    row(&bench, "ImportKeyMaterial", Symmetric, import(), ["X", "X", "-", "-", "-"]);
    row(&bench, "DeleteImportedKeyMaterial", Imported, bare, ["ok", "ok", "ok", "ok", "-"]);
    row(&bench, "DeleteImportedKeyMaterial", Symmetric, bare, ["X", "X", "-", "-", "-"]);
    // What becomes of the state.
    for (state, then) in STATES.into_iter().take(4).zip([KeyState::PendingImport; 3]) {
        let id = key(&bench, Imported, state).expect("made");
        done(&bench, "DeleteImportedKeyMaterial", bare(&id));
        assert_eq!(bench.describe(&id).expect("there").key_state, then);
    }
    let id = key(&bench, Imported, KeyState::PendingDeletion).expect("made");
    done(&bench, "DeleteImportedKeyMaterial", bare(&id));
    assert_eq!(bench.describe(&id).expect("there").key_state, KeyState::PendingDeletion);
    // A key that was cancelled without its material waits for it; with it, it is disabled.
    done(&bench, "CancelKeyDeletion", bare(&id));
    assert_eq!(bench.describe(&id).expect("there").key_state, KeyState::PendingImport);
    let id = key(&bench, Imported, KeyState::PendingDeletion).expect("made");
    done(&bench, "CancelKeyDeletion", bare(&id));
    assert_eq!(bench.describe(&id).expect("there").key_state, KeyState::Disabled);
}
