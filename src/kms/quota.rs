//! Quotas: how much there may be (resources), and how much may be asked for per second (requests), with AWS's numbers
//! (KMS.md section 18).

use std::collections::HashMap;

use serde_json::Value;

use crate::kms::model::{Caller, KeySpec};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, lock};
use crate::types::Timestamp;

/// How much there may be. Beyond it operations answer `LimitExceededException`; what is there goes on working.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceQuotas {
    /// Customer managed keys per account and Region; those disabled or pending deletion count.
    pub keys: usize,
    /// Aliases per key.
    pub aliases_per_key: usize,
    /// Grants per key.
    pub grants_per_key: usize,
    /// Rotations on demand per key.
    pub on_demand_rotations: u32,
}

impl ResourceQuotas {
    /// AWS's present quotas.
    pub const AWS: Self = Self { keys: 100_000, aliases_per_key: 50, grants_per_key: 50_000, on_demand_rotations: 25 };
    /// AWS's quota of earlier years: 1,000 keys.
    pub const CLASSIC: Self = Self { keys: 1000, ..Self::AWS };
}

impl std::str::FromStr for ResourceQuotas {
    type Err = String;

    /// The `quota-profile` of this name.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "aws" => Ok(Self::AWS),
            "classic" => Ok(Self::CLASSIC),
            _ => Err(format!("'{text}' is none of aws, classic")),
        }
    }
}

/// Operations that share a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Share {
    Symmetric,
    Rsa,
    Ecc,
    /// Of one operation, or of one operation with one kind of key pair.
    Own(&'static str),
}

/// Requests per second, as token buckets with a burst of one second, per account and Region.
#[derive(Default)]
pub struct RequestQuotas {
    buckets: Mutex<HashMap<(String, String, Share), Bucket>>,
    throttled: AtomicU64,
}

struct Bucket {
    tokens: f64,
    filled: Timestamp,
}

impl Bucket {
    fn take(&mut self, cost: f64, rate: f64, now: Timestamp) -> bool {
        let burst = rate.max(cost);
        self.tokens = (self.tokens + rate * now.since(self.filled).as_secs_f64()).min(burst);
        self.filled = now;
        let enough = self.tokens >= cost;
        self.tokens -= if enough { cost } else { 0.0 };
        enough
    }
}

impl RequestQuotas {
    /// Takes what a call costs from its bucket; false if the bucket does not hold that much. `spec` is that of the key
    /// named in the request, as far as it is known.
    pub(in crate::kms) fn admit(
        &self,
        caller: &Caller,
        operation: &'static str,
        parameters: &Value,
        spec: Option<KeySpec>,
        now: Timestamp,
    ) -> bool {
        let region = caller.region().as_str();
        let (share, rate) = share(operation, parameters, spec, region);
        let place = (caller.account().to_string(), region.to_owned(), share);
        let mut buckets = lock(&self.buckets);
        let bucket = buckets.entry(place).or_insert(Bucket { tokens: f64::INFINITY, filled: now });
        let admitted = bucket.take(cost(operation, parameters), rate, now);
        if !admitted {
            self.throttled.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// Calls refused so far; they are in no audit log.
    pub fn throttled(&self) -> u64 {
        self.throttled.load(Ordering::Relaxed)
    }
}

/// `ReEncrypt` between accounts counts in both.
fn cost(operation: &str, parameters: &Value) -> f64 {
    let account = |member: &str| parameters[member].as_str().and_then(|text| text.split(':').nth(4));
    match (operation, account("sourceKeyId"), account("destinationKeyId")) {
        ("ReEncrypt", Some(source), Some(destination)) if source != destination => 2.0,
        _ => 1.0,
    }
}

/// The bucket of an operation and its rate: AWS's defaults of 2023.
fn share(operation: &'static str, parameters: &Value, spec: Option<KeySpec>, region: &str) -> (Share, f64) {
    let spec = spec.map_or("", KeySpec::as_str);
    let asymmetric = match spec {
        _ if spec.starts_with("RSA_") => Some((Share::Rsa, 500.0)),
        _ if spec.starts_with("ECC_") || spec == "SM2" => Some((Share::Ecc, 300.0)),
        _ => None,
    };
    let symmetric = match region {
        "us-east-1" | "us-west-2" | "eu-west-1" => 50_000.0,
        "us-east-2" | "ap-southeast-1" | "ap-southeast-2" | "ap-northeast-1" | "eu-central-1" | "eu-west-2" => 10_000.0,
        _ => 5500.0,
    };
    match operation {
        "GenerateDataKeyPair" | "GenerateDataKeyPairWithoutPlaintext" => {
            let pair = parameters["keyPairSpec"].as_str().unwrap_or("");
            PAIRS.into_iter().find(|(name, _)| *name == pair).map_or((Share::Own("pair"), 0.1), own)
        }
        "DescribeKey" | "GetPublicKey" | "ListResourceTags" => own((operation, 2000.0)),
        "GetKeyPolicy" | "GetKeyRotationStatus" => own((operation, 1000.0)),
        "ListKeys" | "ListAliases" => own((operation, 500.0)),
        "ListGrants" | "ListKeyPolicies" | "ListRetirableGrants" => own((operation, 100.0)),
        "CreateGrant" => own((operation, 50.0)),
        "RetireGrant" | "RevokeGrant" => own((operation, 30.0)),
        "DeleteAlias" | "EnableKeyRotation" | "PutKeyPolicy" | "ScheduleKeyDeletion" => own((operation, 15.0)),
        "TagResource" => own((operation, 10.0)),
        "GetParametersForImport" => own((operation, 0.25)),
        "Encrypt" | "Decrypt" | "ReEncrypt" | "Sign" | "Verify" | "DeriveSharedSecret" | "Encapsulate"
        | "Decapsulate" => asymmetric.unwrap_or((Share::Symmetric, symmetric)),
        "GenerateDataKey" | "GenerateDataKeyWithoutPlaintext" | "GenerateMac" | "VerifyMac" | "GenerateRandom" => {
            (Share::Symmetric, symmetric)
        }
        _ => own((operation, 5.0)),
    }
}

fn own((name, rate): (&'static str, f64)) -> (Share, f64) {
    (Share::Own(name), rate)
}

const PAIRS: [(&str, f64); 8] = [
    ("ECC_NIST_P256", 25.0),
    ("ECC_SECG_P256K1", 25.0),
    ("ECC_NIST_P384", 10.0),
    ("ECC_NIST_P521", 5.0),
    ("ECC_NIST_EDWARDS25519", 25.0),
    ("RSA_2048", 1.0),
    ("RSA_3072", 0.5),
    ("RSA_4096", 0.1),
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::kms::model::Principal;

    fn caller(account: &str, region: &str) -> Caller {
        let account = account.parse().expect("account");
        Caller::new(Principal::user(&account, "alice"), region.parse().expect("Region"))
    }

    /// How many of many calls at once are admitted.
    fn burst(quotas: &RequestQuotas, caller: &Caller, operation: &'static str, now: Timestamp) -> usize {
        (0..60_000).filter(|_| quotas.admit(caller, operation, &Value::Null, None, now)).count()
    }

    #[test]
    fn a_burst_is_one_second_and_fills_again() {
        let quotas = RequestQuotas::default();
        let (alice, now) = (caller("111122223333", "us-east-1"), Timestamp::from_secs(1000));
        assert_eq!(burst(&quotas, &alice, "ListKeys", now), 500);
        assert_eq!(quotas.throttled(), 59_500);
        assert_eq!(burst(&quotas, &alice, "ListKeys", now.plus(Duration::from_millis(100))), 50);
        assert_eq!(burst(&quotas, &alice, "ListKeys", now.plus(Duration::from_secs(3600))), 500);
        // A clock that goes back fills nothing and breaks nothing.
        assert_eq!(burst(&quotas, &alice, "ListKeys", now), 0);
        assert_eq!(burst(&quotas, &alice, "ListKeys", now.plus(Duration::from_secs(1))), 500);
    }

    #[test]
    fn symmetric_operations_share_a_bucket_per_account_and_region() {
        let quotas = RequestQuotas::default();
        let now = Timestamp::from_secs(1000);
        let alice = caller("111122223333", "eu-north-1");
        assert_eq!(burst(&quotas, &alice, "Encrypt", now), 5500);
        assert_eq!(burst(&quotas, &alice, "GenerateDataKey", now), 0);
        assert_eq!(burst(&quotas, &alice, "DescribeKey", now), 2000);
        assert_eq!(burst(&quotas, &caller("444455556666", "eu-north-1"), "Decrypt", now), 5500);
        assert_eq!(burst(&quotas, &caller("111122223333", "us-east-2"), "Decrypt", now), 10_000);
        assert_eq!(burst(&quotas, &caller("111122223333", "us-east-1"), "Decrypt", now), 50_000);
    }

    #[test]
    fn slow_operations_have_one_token_at_least() {
        let quotas = RequestQuotas::default();
        let (alice, now) = (caller("111122223333", "us-east-1"), Timestamp::from_secs(1000));
        assert_eq!(burst(&quotas, &alice, "GetParametersForImport", now), 1);
        assert_eq!(burst(&quotas, &alice, "GetParametersForImport", now.plus(Duration::from_secs(3))), 0);
        assert_eq!(burst(&quotas, &alice, "GetParametersForImport", now.plus(Duration::from_secs(4))), 1);
        let pair = |spec: &str| {
            let parameters = json!({ "keyPairSpec": spec });
            (0..100).filter(|_| quotas.admit(&alice, "GenerateDataKeyPair", &parameters, None, now)).count()
        };
        assert_eq!([pair("ECC_NIST_P256"), pair("RSA_2048"), pair("RSA_4096")], [25, 1, 1]);
    }

    #[test]
    fn kinds_of_keys_have_their_own_buckets() {
        let null = Value::Null;
        let of = |operation, spec| share(operation, &null, spec, "us-east-1");
        assert_eq!(of("Sign", Some(KeySpec::Rsa2048)), (Share::Rsa, 500.0));
        assert_eq!(of("Decrypt", Some(KeySpec::Rsa2048)), (Share::Rsa, 500.0));
        assert_eq!(of("Verify", Some(KeySpec::EccNistP256)), (Share::Ecc, 300.0));
        assert_eq!(of("Decrypt", None), (Share::Symmetric, 50_000.0));
        assert_eq!(of("CreateKey", None), (Share::Own("CreateKey"), 5.0));
        let arn = |account: &str| format!("arn:aws:kms:us-east-1:{account}:key/k");
        let between = |a: &str, b: &str| json!({ "sourceKeyId": arn(a), "destinationKeyId": arn(b) });
        assert_eq!(cost("ReEncrypt", &between("1", "2")), 2.0);
        assert_eq!(cost("ReEncrypt", &between("1", "1")), 1.0);
    }

    #[test]
    fn profiles() {
        assert_eq!("classic".parse::<ResourceQuotas>().map(|quotas| quotas.keys), Ok(1000));
        assert_eq!("aws".parse(), Ok(ResourceQuotas::AWS));
        assert!("generous".parse::<ResourceQuotas>().is_err());
    }
}
