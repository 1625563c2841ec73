//! Operations that need more than one permission, or that identity policies alone govern: allowed by exactly what AWS says,
//! and denied without it.

use serde_json::{Value, json};

use super::policies::{ACCOUNT, OTHER, reason, user};
use super::*;

/// An identity policy with these statements.
fn policy(statements: &[Value]) -> String {
    json!({"Version": "2012-10-17", "Statement": statements}).to_string()
}

fn allow(actions: &[&str]) -> Value {
    json!({"Effect": "Allow", "Action": actions, "Resource": "*"})
}

fn deny(actions: &[&str]) -> Value {
    json!({"Effect": "Deny", "Action": actions, "Resource": "*"})
}

type Operation = fn(&Engine, &Caller) -> Result<(), KmsError>;

const STORE: &str = "cks-1234567890abcdef0";

fn store() -> CustomKeyStoreIdRequest {
    CustomKeyStoreIdRequest { custom_key_store_id: STORE.into() }
}

/// The operations on custom key stores, and what an allowed caller is told where there are none.
const KEY_STORES: [(&str, Operation, &str); 6] = [
    (
        "CreateCustomKeyStore",
        |engine, caller| {
            let request = CreateCustomKeyStoreRequest {
                custom_key_store_name: "store".into(),
                custom_key_store_type: None,
                cloud_hsm_cluster_id: Some("cluster-aaaaaaaaaaa".into()),
                trust_anchor_certificate: Some("certificate".into()),
                key_store_password: Some("7654321".into()),
            };
            engine.create_custom_key_store(caller, request).map(drop)
        },
        "CloudHsmClusterNotFoundException",
    ),
    (
        "ConnectCustomKeyStore",
        |engine, caller| engine.connect_custom_key_store(caller, store()),
        "CustomKeyStoreNotFoundException",
    ),
    (
        "DisconnectCustomKeyStore",
        |engine, caller| engine.disconnect_custom_key_store(caller, store()),
        "CustomKeyStoreNotFoundException",
    ),
    (
        "UpdateCustomKeyStore",
        |engine, caller| {
            let request = UpdateCustomKeyStoreRequest {
                custom_key_store_id: STORE.into(),
                new_custom_key_store_name: Some("other".into()),
                ..Default::default()
            };
            engine.update_custom_key_store(caller, request)
        },
        "CustomKeyStoreNotFoundException",
    ),
    (
        "DeleteCustomKeyStore",
        |engine, caller| engine.delete_custom_key_store(caller, store()),
        "CustomKeyStoreNotFoundException",
    ),
    (
        "DescribeCustomKeyStores",
        |engine, caller| {
            let request =
                DescribeCustomKeyStoresRequest { custom_key_store_id: Some(STORE.into()), ..Default::default() };
            engine.describe_custom_key_stores(caller, request).map(drop)
        },
        "CustomKeyStoreNotFoundException",
    ),
];

#[test]
fn identity_policies_alone_govern_custom_key_stores() {
    let bench = Bench::new();
    let none = user(&bench, ACCOUNT, "none", None);
    for (at, (name, operation, code)) in KEY_STORES.into_iter().enumerate() {
        let action = format!("kms:{name}");
        let others = json!({"Effect": "Allow", "NotAction": action, "Resource": "*"});
        let key_only = json!({"Effect": "Allow", "Action": action, "Resource": "arn:aws:kms:*:*:key/*"});
        let made = |kind: &str, statements: &[Value]| {
            user(&bench, ACCOUNT, &format!("{kind}-{at}"), Some(&policy(statements)))
        };
        let error = operation(&bench.engine, &made("only", &[allow(&[&action])])).expect_err("there are none");
        assert_eq!(error.code(), code, "{name}");
        let error = operation(&bench.engine, &none).expect_err("no policy");
        assert_eq!(
            error.to_string(),
            format!(
                "User: arn:aws:iam::{ACCOUNT}:user/none is not authorized to perform: {action} on resource: * because no \
                 identity-based policy allows the {action} action"
            )
        );
        let wrong = operation(&bench.engine, &made("others", &[others])).expect_err("all but this one");
        assert_eq!(reason(wrong), format!("because no identity-based policy allows the {action} action"));
        // These operations have no resource: one that names keys does not reach them.
        let wrong = operation(&bench.engine, &made("keys", &[key_only])).expect_err("keys only");
        assert_eq!(reason(wrong), format!("because no identity-based policy allows the {action} action"));
        let denied = operation(&bench.engine, &made("denied", &[allow(&["*"]), deny(&[&action])])).expect_err("denied");
        assert_eq!(reason(denied), "with an explicit deny in an identity-based policy", "{name}");
    }
}

fn replicate(bench: &Bench, caller: &Caller, key: &str, to: &str, tagged: bool) -> Result<(), KmsError> {
    let tags = Vec::from_iter(tagged.then(|| Tag { tag_key: "a".into(), tag_value: "b".into() }));
    let request = ReplicateKeyRequest { key_id: key.into(), replica_region: to.into(), tags, ..Default::default() };
    bench.engine.replicate_key(caller, request).map(drop)
}

#[test]
fn a_replica_takes_permission_on_the_primary_and_to_create_keys_in_its_region() {
    let bench = Bench::new();
    let request = CreateKeyRequest { multi_region: true, ..Default::default() };
    let primary = bench.engine.create_key(&bench.alice, request).expect("created").key_metadata;
    let key = primary.arn.as_str();
    let mut made = 0;
    let mut with = |statements: &[Value]| {
        made += 1;
        user(&bench, ACCOUNT, &format!("u{made}"), Some(&policy(statements)))
    };
    let on_primary = json!({"Effect": "Allow", "Action": "kms:ReplicateKey", "Resource": key});
    let create = |region: &str| {
        json!({"Effect": "Allow", "Action": "kms:CreateKey", "Resource": "*",
               "Condition": {"StringEquals": {"aws:RequestedRegion": region}}})
    };
    let no = |action: &str| format!("because no identity-based policy allows the kms:{action} action");

    let caller = with(&[create("eu-west-1")]);
    let error = replicate(&bench, &caller, key, "eu-west-1", false).expect_err("nothing on the primary");
    assert!(error.to_string().contains(&format!("kms:ReplicateKey on resource: {key} ")), "{error}");
    assert_eq!(reason(error), no("ReplicateKey"));

    let caller = with(std::slice::from_ref(&on_primary));
    assert_eq!(reason(replicate(&bench, &caller, key, "eu-west-1", false).expect_err("no")), no("CreateKey"));
    // Keys may be created in the Region of the primary: that is not where the replica is.
    let caller = with(&[on_primary.clone(), create("us-east-1")]);
    assert_eq!(reason(replicate(&bench, &caller, key, "eu-west-1", false).expect_err("no")), no("CreateKey"));
    let caller = with(&[allow(&["*"]), deny(&["kms:CreateKey"])]);
    let error = replicate(&bench, &caller, key, "eu-west-1", false).expect_err("denied");
    assert_eq!(reason(error), "with an explicit deny in an identity-based policy");
    let caller = with(&[allow(&["*"]), deny(&["kms:ReplicateKey"])]);
    let error = replicate(&bench, &caller, key, "eu-west-1", false).expect_err("denied");
    assert_eq!(reason(error), "with an explicit deny in an identity-based policy");
    // Only to some Regions.
    let there = json!({"Effect": "Allow", "Action": "kms:ReplicateKey", "Resource": key,
                       "Condition": {"StringEquals": {"kms:ReplicaRegion": "eu-central-1"}}});
    let caller = with(&[there.clone(), allow(&["kms:CreateKey"])]);
    assert_eq!(reason(replicate(&bench, &caller, key, "eu-west-1", false).expect_err("no")), no("ReplicateKey"));
    replicate(&bench, &caller, key, "eu-central-1", false).expect("there");

    let caller = with(&[on_primary.clone(), create("eu-west-1")]);
    // Tags are a permission of their own.
    assert_eq!(reason(replicate(&bench, &caller, key, "eu-west-1", true).expect_err("no")), no("TagResource"));
    replicate(&bench, &caller, key, "eu-west-1", false).expect("both permissions");
    let caller = with(&[on_primary, create("ap-south-1"), allow(&["kms:TagResource"])]);
    replicate(&bench, &caller, key, "ap-south-1", true).expect("all three");

    // Nobody replicates a key of another account, whatever policies say.
    let stranger = user(&bench, OTHER, "stranger", Some(&policy(&[allow(&["*"])])));
    let open = json!([{"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}]);
    let request = PutKeyPolicyRequest {
        key_id: key.into(),
        policy: json!({"Version": "2012-10-17", "Statement": open}).to_string(),
        ..Default::default()
    };
    bench.engine.put_key_policy(&bench.alice, request).expect("put");
    let error = replicate(&bench, &stranger, key, "us-west-2", false).expect_err("another account");
    assert_eq!(error.code(), "AccessDeniedException");
    // Each refusal left nothing behind.
    let metadata = bench.describe(key).expect("there");
    let related = metadata.multi_region_configuration.expect("a multi-Region key");
    let mut regions: Vec<String> = related.replica_keys.into_iter().map(|key| key.region).collect();
    regions.sort();
    assert_eq!(regions, ["ap-south-1", "eu-central-1", "eu-west-1"]);
}
