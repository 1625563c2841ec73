//! Rotation: the schedule, rotation on demand, and the history (KMS.md section 10).

use std::time::Duration;

use serde_json::json;

use super::Engine;
use super::authorise::Access;
use super::call::Effect::*;
use super::check::members;
use super::lifecycle::{YEAR_DAYS, named, put};
use super::maintain::rotate;
use super::multi_region::{is_everywhere, not_a_replica, synchronize};
use super::page::Pager;
use super::resolve::Forms;
use crate::kms::KmsError;
use crate::kms::model::*;
use crate::kms::store::{Change, Import, KeyEntry, Material, Snapshot, key_row_id};
use crate::sync::Arc;
use crate::types::Timestamp;

/// An automatic rotation that is due this soon is in the way of one on demand.
const TOO_CLOSE: Duration = Duration::from_secs(20 * 60);

impl Engine {
    /// `EnableKeyRotation`: the first rotation comes one period from now; calling it again changes the period.
    pub fn enable_key_rotation(&self, caller: &Caller, request: EnableKeyRotationRequest) -> Result<(), KmsError> {
        let EnableKeyRotationRequest { key_id, rotation_period_in_days } = request;
        let parameters = json!({ "keyId": key_id, "rotationPeriodInDays": rotation_period_in_days });
        let legal = members!(key_id, rotation_period_in_days);
        let days = rotation_period_in_days.unwrap_or(YEAR_DAYS);
        let access = Access::to("EnableKeyRotation").with("kms:RotationPeriodInDays", days.to_string());
        self.edit_key_as(caller, ("EnableKeyRotation", access), legal, parameters, &key_id, |call, change, key| {
            rotates_automatically(key)?;
            not_a_replica(key)?;
            call.usable(key)?;
            put(change, key, |record| {
                let rotation = &mut record.rotation;
                if !rotation.enabled || rotation.period_days != days {
                    rotation.next = Some(call.now.plus_days(days));
                }
                (rotation.enabled, rotation.period_days) = (true, days);
            })?;
            synchronize(call.shared, change, key)
        })
    }

    /// `DisableKeyRotation`. All material stays.
    pub fn disable_key_rotation(&self, caller: &Caller, request: KeyIdRequest) -> Result<(), KmsError> {
        let (legal, parameters) = named(&request);
        self.edit_key(caller, "DisableKeyRotation", legal, parameters, &request.key_id, |call, change, key| {
            rotates_automatically(key)?;
            not_a_replica(key)?;
            call.usable(key)?;
            put(change, key, |record| {
                record.rotation.enabled = false;
                record.rotation.next = None;
            })?;
            synchronize(call.shared, change, key)
        })
    }

    /// `GetKeyRotationStatus`.
    pub fn get_key_rotation_status(
        &self,
        caller: &Caller,
        request: KeyIdRequest,
    ) -> Result<GetKeyRotationStatusResponse, KmsError> {
        let parameters = json!({ "keyId": request.key_id });
        self.call(caller, ("GetKeyRotationStatus", ReadOnly), parameters, |call| {
            members!(request: key_id)?;
            let key = call.key(&*call.snapshot()?, &request.key_id, Forms::Key, "GetKeyRotationStatus")?;
            rotatable(&key)?;
            let rotation = &key.record.rotation;
            let pending = matches!(key.record.state, KeyState::PendingDeletion | KeyState::PendingReplicaDeletion);
            let key_rotation_enabled = rotation.enabled && !pending;
            Ok(GetKeyRotationStatusResponse {
                key_id: key.arn.clone(),
                key_rotation_enabled,
                rotation_period_in_days: key_rotation_enabled.then_some(rotation.period_days),
                next_rotation_date: rotation.next.filter(|_| key_rotation_enabled),
                on_demand_rotation_start_date: None,
            })
        })
    }

    /// `RotateKeyOnDemand`: new material at once, at most 25 times per key; of an imported key, the material that was
    /// imported for it. The schedule stays as it is.
    pub fn rotate_key_on_demand(&self, caller: &Caller, request: KeyIdRequest) -> Result<KeyIdResponse, KmsError> {
        let (legal, parameters) = named(&request);
        self.edit_key(caller, "RotateKeyOnDemand", legal, parameters, &request.key_id, |call, change, key| {
            rotatable(key)?;
            not_a_replica(key)?;
            call.usable(key)?;
            if key.record.rotation.on_demand >= call.shared.resources().on_demand_rotations {
                return Err(KmsError::LimitExceeded(format!(
                    "The on-demand rotations limit has been reached for the given keyId. No more on-demand rotations \
                     can be performed for this key: {}",
                    key.arn
                )));
            }
            if key.rotation_due().is_some_and(|due| due < call.now.plus(TOO_CLOSE)) {
                return Err(KmsError::Conflict(format!("An automatic rotation of {} is about to begin.", key.arn)));
            }
            let key = match key.record.origin {
                Origin::External => rotate_to_imported(change, key, call.now)?,
                _ => rotate(call.shared, change, key, RotationType::OnDemand, call.now)?,
            };
            synchronize(call.shared, change, &key)?;
            call.response = json!({ "keyId": key.arn.as_str() }).into();
            Ok(KeyIdResponse { key_id: key.arn.clone() })
        })
    }

    /// `ListKeyRotations`, oldest first.
    pub fn list_key_rotations(
        &self,
        caller: &Caller,
        request: ListKeyRotationsRequest,
    ) -> Result<ListKeyRotationsResponse, KmsError> {
        let include = request.include_key_material.unwrap_or(IncludeKeyMaterial::RotationsOnly);
        let parameters = json!({ "keyId": request.key_id, "includeKeyMaterial": include, "limit": request.limit });
        self.call(caller, ("ListKeyRotations", ReadOnly), parameters, |call| {
            members!(request: key_id, limit, marker)?;
            let snapshot = call.snapshot()?;
            let key = call.key(&snapshot, &request.key_id, Forms::Key, "ListKeyRotations")?;
            rotatable(&key)?;
            let all = include == IncludeKeyMaterial::AllKeyMaterial;
            let listed = key.materials.iter().filter(|material| all || material.record.rotation.is_some());
            let entries = listed
                .map(|material| (format!("{:010}", material.record.generation), entry(&snapshot, &key, material, all)));
            let pager = Pager {
                operation: "ListKeyRotations",
                filter: &format!("{} {include}", key.arn),
                limit: request.limit,
                default: 100,
                marker: request.marker.as_deref(),
            };
            let page = pager.page(call, entries)?;
            Ok(ListKeyRotationsResponse {
                rotations: page.items,
                truncated: page.next.is_some(),
                next_marker: page.next,
            })
        })
    }
}

fn entry(snapshot: &Snapshot, key: &KeyEntry, material: &Material, with_state: bool) -> RotationsListEntry {
    let record = &material.record;
    let pending = key.pending_rotation().is_some_and(|pending| pending.id == material.id);
    let current = key.record.current_material.as_ref() == Some(&record.material_id);
    let state = match (current, pending) {
        (true, _) => KeyMaterialState::Current,
        (false, true) if is_everywhere(snapshot, key, material) => KeyMaterialState::PendingRotation,
        (false, true) => KeyMaterialState::PendingMultiRegionImportAndRotation,
        (false, false) => KeyMaterialState::NonCurrent,
    };
    let import = record.import.as_ref().filter(|_| with_state);
    let present = import.filter(|_| material.secret().is_some());
    RotationsListEntry {
        key_id: key.arn.clone(),
        key_material_id: record.material_id.clone(),
        key_material_description: import.and_then(|import| import.description.clone()),
        import_state: import
            .map(|_| if present.is_some() { ImportState::Imported } else { ImportState::PendingImport }),
        key_material_state: with_state.then_some(state),
        expiration_model: present.map(Import::expiration_model),
        valid_to: present.and_then(|import| import.valid_to),
        rotation_date: record.rotation.map(|_| record.created),
        rotation_type: record.rotation,
    }
}

/// Makes the material that was imported for it current, once it is there in every Region.
fn rotate_to_imported(change: &mut Change<'_>, key: &KeyEntry, now: Timestamp) -> Result<Arc<KeyEntry>, KmsError> {
    let pending = key.pending_rotation().filter(|pending| is_everywhere(change.snapshot(), key, pending));
    let Some(pending) = pending else {
        return Err(KmsError::MaterialState(format!(
            "No available key material pending rotation for the key: {}.",
            key.arn
        )));
    };
    let mut record = pending.record.clone();
    (record.rotation, record.created) = (Some(RotationType::OnDemand), now);
    change.put_material(&key_row_id(&key.record.region, &key.record.key_id), pending.with_record(record))?;
    put(change, key, |record| {
        record.current_material = Some(pending.record.material_id.clone());
        record.rotation.on_demand += 1;
    })
}

/// Refuses keys that have no rotation.
fn rotatable(key: &KeyEntry) -> Result<(), KmsError> {
    let record = &key.record;
    if record.spec != KeySpec::SymmetricDefault {
        let text = format!("{} key spec is {} which is not valid for this operation.", key.arn, record.spec);
        return Err(KmsError::UnsupportedOperation(text));
    }
    match record.origin {
        Origin::AwsKms | Origin::External => Ok(()),
        Origin::AwsCloudHsm | Origin::ExternalKeyStore => Err(not_for_origin(key)),
    }
}

/// Refuses keys that rotate on demand only, or not at all.
fn rotates_automatically(key: &KeyEntry) -> Result<(), KmsError> {
    rotatable(key)?;
    if key.record.origin == Origin::AwsKms { Ok(()) } else { Err(not_for_origin(key)) }
}

pub fn not_for_origin(key: &KeyEntry) -> KmsError {
    let origin = key.record.origin;
    KmsError::UnsupportedOperation(format!("{} origin is {origin} which is not valid for this operation.", key.arn))
}
