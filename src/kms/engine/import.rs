//! Imported key material: parameters, import, deletion and expiry (KMS.md section 12).

use std::time::Duration;

use data_encoding::HEXLOWER;
use serde_json::json;

use super::authorise::Access;
use super::call::{Call, Effect::*};
use super::check::members;
use super::lifecycle::{material_id, put};
use super::multi_region::{not_a_replica, synchronize};
use super::resolve::{Forms, not_pending_deletion};
use super::rotation::not_for_origin;
use super::{Engine, Shared};
use crate::crypto::secret::SecretBytes;
use crate::env::random;
use crate::kms::model::*;
use crate::kms::store::{
    Change, DueKind, Import, KeyEntry, KeyRecord, Material, MaterialRecord, Snapshot, Times, WrappingKey, key_row_id,
    wrapping_key_row_id,
};
use crate::kms::{KmsError, object, seal, wrapping};
use crate::sync::Arc;
use crate::types::{KeyArn, Timestamp};

/// How long an import token and its wrapping key live.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How far ahead material may expire.
const MAX_VALID_DAYS: u32 = 365;

impl Engine {
    /// `GetParametersForImport`: a wrapping key, made for this call, and the token that goes with it.
    pub fn get_parameters_for_import(
        &self,
        caller: &Caller,
        request: GetParametersForImportRequest,
    ) -> Result<GetParametersForImportResponse, KmsError> {
        const NAME: &str = "GetParametersForImport";
        let GetParametersForImportRequest { key_id, wrapping_algorithm, wrapping_key_spec } = request;
        let parameters = json!({
            "keyId": key_id, "wrappingAlgorithm": wrapping_algorithm, "wrappingKeySpec": wrapping_key_spec,
        });
        self.call(caller, (NAME, Changes), parameters, |call| {
            members!(key_id)?;
            let access = || {
                Access::to(NAME)
                    .with("kms:WrappingAlgorithm", wrapping_algorithm.as_str())
                    .with("kms:WrappingKeySpec", wrapping_key_spec.as_str())
            };
            let key = call.key(&*call.snapshot()?, &key_id, Forms::Key, access())?;
            importable(&key)?;
            check_wrapping(&key, wrapping_algorithm, wrapping_key_spec)?;
            // Making the key takes seconds: nobody waits for it but this caller.
            let made = wrapping::generate(wrapping_key_spec).ok_or_else(|| not_for(&key, wrapping_algorithm))?;
            let (private, public_key) =
                made.map_err(|_| KmsError::Internal("no wrapping key could be made".to_owned()))?;
            call.change(|call, change| {
                let key = call.key(change.snapshot(), &key_id, Forms::Key, access())?;
                importable(&key)?;
                // Tokens are judged by the latest time ever seen: with a clock behind it, one that counts from now would
                // be over before it is used.
                let valid_to = call.shared.latest(call.now).plus(TOKEN_LIFE);
                let token = Token { id: random(&*call.shared.entropy), valid_to };
                let wrapping_key = WrappingKey { algorithm: wrapping_algorithm, valid_to, private };
                change.put(&wrapping_key_row_id(&row_of(&key), &token.id_text()), wrapping_key);
                call.response = json!({ "keyId": key.arn.as_str(), "parametersValidTo": valid_to.to_string() }).into();
                Ok(GetParametersForImportResponse {
                    key_id: key.arn.clone(),
                    import_token: token.seal(call.shared, &key.arn),
                    public_key,
                    parameters_valid_to: valid_to,
                })
            })
        })
    }

    /// `ImportKeyMaterial`: the first material, the same material again, or new material for a rotation.
    pub fn import_key_material(
        &self,
        caller: &Caller,
        request: ImportKeyMaterialRequest,
    ) -> Result<KeyMaterialResponse, KmsError> {
        let model = request.expiration_model.unwrap_or(ExpirationModel::KeyMaterialExpires);
        let parameters = json!({
            "keyId": request.key_id, "expirationModel": model, "validTo": request.valid_to.map(|at| at.to_string()),
            "importType": request.import_type, "keyMaterialId": request.key_material_id,
            "keyMaterialDescription": request.key_material_description,
        });
        self.call(caller, ("ImportKeyMaterial", Changes), parameters, |call| {
            members!(request: key_id, import_token, encrypted_key_material, key_material_description, key_material_id)?;
            let valid_to = expiry(model, request.valid_to, call.now)?;
            // What has expired by the latest time ever seen stays so. But a clock that was far ahead once must not keep
            // material from expiring ever after, or make it do so the moment it is there: a new end that the clock has still
            // to reach, and had seemed to have passed, is judged by the clock as it stands.
            let by_clock = valid_to.is_some_and(|at| at <= call.shared.latest(call.now));
            call.change(|call, change| {
                // Not its default: AWS's documentation asks by Null whether the request has it.
                let access = Access::to("ImportKeyMaterial")
                    .with_some("kms:ExpirationModel", request.expiration_model.map(ExpirationModel::as_str))
                    .with_some("kms:ValidTo", valid_to.map(unix_time));
                let key = call.key(change.snapshot(), &request.key_id, Forms::Key, access)?;
                importable(&key)?;
                let kind = import_type(&key, &request)?;
                let secret = unwrap(call, change.snapshot(), &key, &request)?;
                let secret = fitting(&key, secret)?;
                let id = HEXLOWER.encode(&material_id(&key.record.key_id, &secret));
                let record = match kind {
                    ImportType::ExistingKeyMaterial => existing(&key, &id, &request)?,
                    ImportType::NewKeyMaterial => new(&key, &id, call.now)?,
                };
                let description = match (&request.key_material_description, &record.import) {
                    (Some(text), _) => Some(text.clone()),
                    (None, before) => before.as_ref().and_then(|before| before.description.clone()),
                };
                let record = MaterialRecord { import: Some(Import { valid_to, description, by_clock }), ..record };
                change.put_material(&row_of(&key), Material::new(record, Some(secret)).expect("the id is hex"))?;
                settle(change, &key, |record| {
                    record.current_material.get_or_insert_with(|| id.clone());
                })?;
                synchronize(call.shared, change, &key)?;
                answer(call, &key, Some(id))
            })
        })
    }

    /// `DeleteImportedKeyMaterial`: beyond what a copy of the database can bring back. The key is then `PendingImport`.
    pub fn delete_imported_key_material(
        &self,
        caller: &Caller,
        request: DeleteImportedKeyMaterialRequest,
    ) -> Result<KeyMaterialResponse, KmsError> {
        const NAME: &str = "DeleteImportedKeyMaterial";
        let DeleteImportedKeyMaterialRequest { key_id, key_material_id } = request;
        let parameters = json!({ "keyId": key_id, "keyMaterialId": key_material_id });
        let legal = members!(key_id, key_material_id);
        self.edit_key(caller, NAME, legal, parameters, &key_id, |call, change, key| {
            external(key)?;
            let Some(id) = key_material_id.or_else(|| key.record.current_material.clone()) else {
                return answer(call, key, None);
            };
            let Some(material) = key.materials.iter().find(|material| material.record.material_id == id) else {
                return Err(KmsError::NotFound(format!("Key material {id} of {} does not exist", key.arn)));
            };
            if remove(call.shared, change, key, material)? {
                shred(call.shared, change);
            }
            answer(call, key, Some(id))
        })
    }
}

/// Deletes the imported material and the wrapping keys whose time is over.
pub fn expire(shared: &Shared, change: &mut Change<'_>, times: Times) -> Result<(), KmsError> {
    let snapshot = change.snapshot().clone();
    let Times { now, latest } = times;
    for row_id in snapshot.due(DueKind::TokenExpiry, latest) {
        change.delete::<WrappingKey>(row_id);
    }
    let mut shredded = false;
    let (by_latest, by_clock) = (DueKind::Expiry, DueKind::ExpiryByClock);
    for key in snapshot.due_keys(by_latest, latest).chain(snapshot.due_keys(by_clock, now)) {
        for material in key.materials.iter().filter(|material| material.is_over(times)) {
            // As the last removal left it: with its state. A key with material of both kinds comes twice.
            let key = change.snapshot().present_key(&row_of(key));
            if !key.materials.iter().any(|present| present.id == material.id && present.is_over(times)) {
                continue;
            }
            shredded |= remove(shared, change, &key, material)?;
            let details = json!({ "keyId": key.arn.as_str(), "keyMaterialId": material.record.material_id });
            let event = shared.service_event("DeleteExpiredKeyMaterial", details, Some(&key.arn));
            change.record(event.render(&*shared.entropy));
        }
    }
    if shredded {
        shred(shared, change);
    }
    Ok(())
}

/// The state of a key after its waiting period was cancelled.
pub fn state_after_cancellation(key: &KeyEntry) -> KeyState {
    let lacks_material = key.record.origin == Origin::External && !key.is_complete();
    if lacks_material { KeyState::PendingImport } else { KeyState::Disabled }
}

/// Deletes `material`, if it is there; its record stays, so that it can be imported again, and only it. Material that
/// waits for its rotation goes with its record. Whether something secret was deleted.
fn remove(
    shared: &Shared,
    change: &mut Change<'_>,
    key: &KeyEntry,
    material: &Arc<Material>,
) -> Result<bool, KmsError> {
    if material.secret().is_none() {
        return Ok(false);
    }
    let pending = key.pending_rotation().is_some_and(|pending| Arc::ptr_eq(pending, material));
    if pending && !key.is_replica() {
        change.delete_material(&row_of(key), &material.record.material_id)?;
        synchronize(shared, change, key)?;
        return Ok(true);
    }
    let description = material.record.import.as_ref().and_then(|import| import.description.clone());
    let record = MaterialRecord {
        import: Some(Import { valid_to: None, description, by_clock: false }),
        ..material.record.clone()
    };
    change.put_material(&row_of(key), Material::new(record, None).expect("the id is hex"))?;
    settle(change, key, |_| {})?;
    Ok(true)
}

/// Older copies of the database lose what this change deletes (KMS.md section 11).
fn shred(shared: &Shared, change: &mut Change<'_>) {
    change.new_epoch();
    let event = shared.service_event("RotateDomainKey", json!({ "deletedMaterial": true }), None);
    change.record(event.render(&*shared.entropy));
}

/// Writes `key` back with `edit` applied and the state that its material gives it: enabled only with all of it.
fn settle(change: &mut Change<'_>, key: &KeyEntry, edit: impl FnOnce(&mut KeyRecord)) -> Result<(), KmsError> {
    let key = put(change, key, edit)?;
    let state = match (key.record.state, key.is_complete()) {
        (KeyState::PendingImport, true) => KeyState::Enabled,
        (KeyState::Enabled | KeyState::Disabled, false) => KeyState::PendingImport,
        (state, _) => state,
    };
    put(change, &key, |record| record.state = state).map(drop)
}

fn answer(call: &mut Call<'_>, key: &KeyEntry, id: Option<String>) -> Result<KeyMaterialResponse, KmsError> {
    let key_material_id = id.filter(|_| key.record.spec == KeySpec::SymmetricDefault);
    call.response = json!({ "keyId": key.arn.as_str(), "keyMaterialId": key_material_id }).into();
    Ok(KeyMaterialResponse { key_id: key.arn.clone(), key_material_id })
}

fn row_of(key: &KeyEntry) -> String {
    key_row_id(&key.record.region, &key.record.key_id)
}

/// Refuses keys whose material is not imported.
fn external(key: &KeyEntry) -> Result<(), KmsError> {
    if key.record.origin == Origin::External { Ok(()) } else { Err(not_for_origin(key)) }
}

/// Refuses keys that take no material, or not now.
fn importable(key: &KeyEntry) -> Result<(), KmsError> {
    external(key)?;
    not_pending_deletion(key)
}

fn not_for(key: &KeyEntry, algorithm: WrappingAlgorithm) -> KmsError {
    let spec = key.record.spec;
    KmsError::UnsupportedOperation(format!("Wrapping algorithm {algorithm} is not valid for key spec {spec}."))
}

/// Refuses what the material of `key` cannot be wrapped with.
fn check_wrapping(key: &KeyEntry, algorithm: WrappingAlgorithm, with: WrappingKeySpec) -> Result<(), KmsError> {
    use KeySpec::*;
    let hybrid = wrapping::is_hybrid(algorithm).ok_or_else(|| not_for(key, algorithm))?;
    let fits = match key.record.spec {
        Rsa2048 | Rsa3072 | Rsa4096 => hybrid,
        // Its PKCS#8 form is longer than OAEP under this key takes.
        EccNistP521 => hybrid || with != WrappingKeySpec::Rsa2048,
        EccNistP256 | EccNistP384 | EccSecgP256k1 | EccNistEdwards25519 => true,
        _ => !hybrid,
    };
    if fits { Ok(()) } else { Err(not_for(key, algorithm)) }
}

/// When the material will expire, by the caller's words.
fn expiry(model: ExpirationModel, valid_to: Option<Timestamp>, now: Timestamp) -> Result<Option<Timestamp>, KmsError> {
    let refuse = |text: &str| Err(KmsError::Validation(text.to_owned()));
    match (model, valid_to) {
        (ExpirationModel::KeyMaterialExpires, None) => {
            refuse("A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES")
        }
        (ExpirationModel::KeyMaterialExpires, Some(at)) if at <= now => {
            refuse("The validTo date must be in the future")
        }
        (ExpirationModel::KeyMaterialExpires, Some(at)) if at > now.plus_days(MAX_VALID_DAYS) => {
            refuse("The validTo date must be at most 365 days ahead")
        }
        (ExpirationModel::KeyMaterialDoesNotExpire, Some(_)) => {
            refuse("A validTo date must not be set if the ExpirationModel is KEY_MATERIAL_DOES_NOT_EXPIRE")
        }
        (_, valid_to) => Ok(valid_to),
    }
}

/// As policies compare it, by date and by number: AWS writes `1546257599.0`.
fn unix_time(at: Timestamp) -> String {
    let fraction = format!("{:09}", at.as_nanos().rem_euclid(1_000_000_000));
    let digits = fraction.trim_end_matches('0');
    format!("{}.{}", at.as_secs(), if digits.is_empty() { "0" } else { digits })
}

/// What kind of import the request asks for.
fn import_type(key: &KeyEntry, request: &ImportKeyMaterialRequest) -> Result<ImportType, KmsError> {
    let refuse = |text: &str| Err(KmsError::Validation(text.to_owned()));
    let named = request.import_type.is_some() || request.key_material_description.is_some();
    if key.record.spec != KeySpec::SymmetricDefault && (named || request.key_material_id.is_some()) {
        return refuse(
            "ImportType, KeyMaterialId and KeyMaterialDescription are valid for symmetric encryption keys only.",
        );
    }
    let first = key.materials.is_empty();
    let default = if first { ImportType::NewKeyMaterial } else { ImportType::ExistingKeyMaterial };
    match request.import_type.unwrap_or(default) {
        ImportType::NewKeyMaterial if request.key_material_id.is_some() => {
            refuse("KeyMaterialId cannot be specified when ImportType is NEW_KEY_MATERIAL.")
        }
        kind => Ok(kind),
    }
}

/// The material in the request, if its token belongs to `key` and has not expired.
fn unwrap(
    call: &Call<'_>,
    snapshot: &Snapshot,
    key: &KeyEntry,
    request: &ImportKeyMaterialRequest,
) -> Result<SecretBytes, KmsError> {
    let token = Token::open(call.shared, &key.arn, &request.import_token).ok_or(KmsError::InvalidImportToken)?;
    let wrapping_key = snapshot.wrapping_keys.get(&*wrapping_key_row_id(&row_of(key), &token.id_text()));
    let Some(wrapping_key) = wrapping_key.filter(|_| call.shared.latest(call.now) < token.valid_to) else {
        return Err(KmsError::ExpiredImportToken);
    };
    let wrapped = &request.encrypted_key_material;
    let secret = wrapping::unwrap(&wrapping_key.private, wrapping_key.algorithm, wrapped);
    secret.ok_or(KmsError::InvalidCiphertext)
}

/// The material in the form in which it is kept, if it is of the kind that `key` needs.
fn fitting(key: &KeyEntry, secret: SecretBytes) -> Result<SecretBytes, KmsError> {
    let spec = key.record.spec;
    object::import(spec, secret).map_err(|_| {
        KmsError::IncorrectKeyMaterial(format!("The key material is not that of a key with key spec {spec}."))
    })
}

/// The record of material that is imported again.
fn existing(key: &KeyEntry, id: &str, request: &ImportKeyMaterialRequest) -> Result<MaterialRecord, KmsError> {
    let known = key.materials.iter().find(|material| material.record.material_id == id);
    let named = request.key_material_id.as_deref().is_none_or(|named| named == id);
    known.filter(|_| named).map(|known| known.record.clone()).ok_or_else(|| {
        KmsError::IncorrectKeyMaterial(format!(
            "The key material is not the same as the key material that was imported into {} before.",
            key.arn
        ))
    })
}

/// The record of material that is new to `key`: its first, or one that waits for a rotation.
fn new(key: &KeyEntry, id: &str, now: Timestamp) -> Result<MaterialRecord, KmsError> {
    if key.materials.iter().any(|material| material.record.material_id == id) {
        let text = format!("The key material was imported into {} before; it is not new.", key.arn);
        return Err(KmsError::IncorrectKeyMaterial(text));
    }
    not_a_replica(key)?;
    if let Some(pending) = key.pending_rotation() {
        return Err(KmsError::MaterialState(format!(
            "New key material (id: {id}) cannot be imported into KMS key {}, because another key material (id: {}) is \
             pending rotation.",
            key.record.key_id, pending.record.material_id
        )));
    }
    let generation = key.materials.last().map_or(0, |material| material.record.generation + 1);
    Ok(MaterialRecord {
        material_id: id.to_owned(),
        generation,
        created: now,
        rotation: None,
        import: None,
        token: None,
    })
}

/// An import token: opaque, authenticated, bound to its key. Outlives its wrapping key, so that an expired one is told
/// from a forged one.
///
/// `1 || valid_to (i64 BE, nanoseconds) || id (16) || MAC (32)`
struct Token {
    id: [u8; 16],
    valid_to: Timestamp,
}

impl Token {
    const VERSION: u8 = 1;

    fn id_text(&self) -> String {
        HEXLOWER.encode(&self.id)
    }

    fn body(&self) -> Vec<u8> {
        [&[Self::VERSION][..], &self.valid_to.as_nanos().to_be_bytes(), &self.id].concat()
    }

    fn mac(shared: &Shared, key: &KeyArn, body: &[u8]) -> [u8; 32] {
        let fields = [b"kmsfs import token v1", key.as_str().as_bytes(), body];
        seal::mac(shared.store.marker_key(), &[&seal::framed(&fields)])
    }

    fn seal(&self, shared: &Shared, key: &KeyArn) -> Vec<u8> {
        let body = self.body();
        let mac = Self::mac(shared, key, &body);
        [&body[..], &mac].concat()
    }

    fn open(shared: &Shared, key: &KeyArn, token: &[u8]) -> Option<Self> {
        let (body, mac) = token.split_last_chunk::<32>()?;
        if !seal::same(mac, &Self::mac(shared, key, body)) {
            return None;
        }
        let (version, rest) = body.split_first()?;
        let (valid_to, id) = rest.split_first_chunk::<8>()?;
        let valid_to = Timestamp::from_nanos(i64::from_be_bytes(*valid_to));
        (*version == Self::VERSION).then_some(Self { id: id.try_into().ok()?, valid_to })
    }
}
