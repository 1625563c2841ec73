//! Message authentication codes.

use super::Engine;
use super::authorise::Access;
use super::call::{Call, Effect::*};
use super::check::members;
use super::crypt::proceed;
use super::fit::{current, fits, mismatched, object};
use super::resolve::Forms;
use crate::crypto::mac::MacKey;
use crate::kms::KmsError;
use crate::kms::audit::{Canonical, Member};
use crate::kms::model::*;
use crate::kms::object::KeyObject;
use crate::kms::store::KeyEntry;
use crate::sync::Arc;

impl Engine {
    /// `GenerateMac`.
    pub fn generate_mac(&self, caller: &Caller, request: GenerateMacRequest) -> Result<GenerateMacResponse, KmsError> {
        let algorithm = request.mac_algorithm;
        let parameters = Canonical::object([
            ("dryRun", Member::flag(request.dry_run)),
            ("keyId", request.key_id.as_str().into()),
            ("macAlgorithm", algorithm.as_str().into()),
        ]);
        self.call(caller, ("GenerateMac", ReadOnly), parameters, |call| {
            members!(request: key_id, message, grant_tokens)?;
            let key = call.mac_key(&request.key_id, &request.grant_tokens, "GenerateMac", algorithm)?;
            let material = mac(&key)?;
            proceed(request.dry_run)?;
            let mac = material.sign(&request.message);
            Ok(GenerateMacResponse { mac, mac_algorithm: algorithm, key_id: key.arn.clone() })
        })
    }

    /// `VerifyMac`.
    pub fn verify_mac(&self, caller: &Caller, request: VerifyMacRequest) -> Result<VerifyMacResponse, KmsError> {
        let algorithm = request.mac_algorithm;
        let parameters = Canonical::object([
            ("dryRun", Member::flag(request.dry_run)),
            ("keyId", request.key_id.as_str().into()),
            ("macAlgorithm", algorithm.as_str().into()),
        ]);
        self.call(caller, ("VerifyMac", ReadOnly), parameters, |call| {
            members!(request: key_id, message, mac, grant_tokens)?;
            let key = call.mac_key(&request.key_id, &request.grant_tokens, "VerifyMac", algorithm)?;
            if !mac(&key)?.verify(&request.message, &request.mac) {
                return Err(KmsError::InvalidMac);
            }
            proceed(request.dry_run)?;
            Ok(VerifyMacResponse { key_id: key.arn.clone(), mac_valid: true, mac_algorithm: algorithm })
        })
    }
}

impl Call<'_> {
    /// The key to authenticate with: authorised, usable, fitting.
    fn mac_key(
        &mut self,
        key_id: &str,
        grant_tokens: &[String],
        operation: &'static str,
        algorithm: MacAlgorithm,
    ) -> Result<Arc<KeyEntry>, KmsError> {
        let access = Access::to(operation).tokens(grant_tokens).with("kms:MacAlgorithm", algorithm.as_str());
        let key = self.key(&*self.snapshot()?, key_id, Forms::Any, access)?;
        self.usable(&key)?;
        let legal = Algorithms::of(key.record.spec, KeyUsage::GenerateVerifyMac).mac_algorithms;
        fits(&key, operation, KeyUsage::GenerateVerifyMac, algorithm, legal)?;
        Ok(key)
    }
}

fn mac(key: &KeyEntry) -> Result<&MacKey, KmsError> {
    match object(key, current(key)?)? {
        KeyObject::Mac(mac) => Ok(mac),
        _ => Err(mismatched(key)),
    }
}
