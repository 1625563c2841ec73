//! The stand-in for a KMS that the vectors are made with: XAES-256-GCM under a fixed key per ARN, with the JSON of
//! the encryption context as associated data.

use std::collections::BTreeMap;

use kmsfs::crypto::aead::Backend;
use kmsfs::crypto::secret::SecretKey;
use kmsfs::crypto::xaes::Xaes;
use kmsfs::format::Outcome;
use kmsfs::types::{EncryptionContext, KeyArn};
use serde_json::Value;

use super::{Vectors, secret, strings, unhex};

pub struct ToyKms {
    keys: BTreeMap<String, Vec<u8>>,
    backend: Backend,
    disabled: Vec<String>,
    silent: Vec<String>,
    forced: Option<Vec<u8>>,
    pub calls: u64,
}

impl ToyKms {
    /// The KMS in the state that `spec` describes (`kms_disabled`, `kms_silent`, `kms_returns`).
    pub fn new(all: &Vectors, backend: Backend, spec: &Value) -> Self {
        let keys = all.values["toy_kms_keys"].as_object().expect("an object");
        Self {
            keys: keys.iter().map(|(arn, key)| (arn.clone(), unhex(key))).collect(),
            backend,
            disabled: strings(&spec["kms_disabled"]),
            silent: strings(&spec["kms_silent"]),
            forced: spec.get("kms_returns").map(unhex),
            calls: 0,
        }
    }

    pub fn decrypt(
        &mut self,
        key: &KeyArn,
        blob: &[u8],
        context: &EncryptionContext,
    ) -> Result<SecretKey<32>, Outcome> {
        self.calls += 1;
        let named = |list: &[String]| list.iter().any(|arn| arn == key.as_str());
        if named(&self.silent) {
            return Err(Outcome::KeyServiceTimeout);
        }
        let key = self.keys.get(key.as_str()).filter(|_| !named(&self.disabled)).ok_or(Outcome::KeyUnavailable)?;
        if let Some(forced) = &self.forced {
            return SecretKey::from_slice(forced).ok_or(Outcome::HeaderAuth);
        }
        let pairs: BTreeMap<&str, &str> = context.pairs().collect();
        let aad = serde_json::to_vec(&pairs).expect("strings");
        let (nonce, sealed) =
            blob.strip_prefix(b"TOY1").and_then(<[u8]>::split_first_chunk).ok_or(Outcome::HeaderAuth)?;
        let plain = Xaes::new(self.backend, secret(key)).open(nonce, &aad, sealed).map_err(|_| Outcome::HeaderAuth)?;
        SecretKey::from_slice(&plain).ok_or(Outcome::HeaderAuth)
    }
}
