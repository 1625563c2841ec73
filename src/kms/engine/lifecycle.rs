//! Creation, description, states and deletion of keys.

use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use super::Engine;
use super::aliases::create_managed;
use super::authorise::Access;
use super::call::{Call, Effect::*};
use super::check::{Constraints, members};
use super::evaluate::flag;
use super::import::state_after_cancellation;
use super::key_stores::NewInToken;
use super::maintain::rotate_if_due;
use super::multi_region::{alone, has_replicas};
use super::page::Pager;
use super::policies;
use super::resolve::{Forms, not_pending_deletion};
use super::rules::Rule;
use super::tags::{check_tags, permit_tags, with_tags};
use crate::crypto::asymmetric::PairKind;
use crate::crypto::secret::SecretBytes;
use crate::env::{Entropy, random};
use crate::kms::audit::Canonical;
use crate::kms::model::*;
use crate::kms::store::{
    Change, Import, KeyEntry, KeyRecord, Material, MaterialRecord, Rotation, Snapshot, key_row_id,
};
use crate::kms::{KmsError, object, seal};
use crate::sync::Arc;
use crate::types::Timestamp;

/// Days of the waiting period.
const WINDOW: std::ops::RangeInclusive<u32> = 7..=30;
/// Days between rotations of AWS managed keys, and the default for others.
pub const YEAR_DAYS: u32 = 365;

impl Engine {
    /// `CreateKey`.
    pub fn create_key(&self, caller: &Caller, request: CreateKeyRequest) -> Result<CreateKeyResponse, KmsError> {
        let spec = request.key_spec.or(request.customer_master_key_spec).unwrap_or(KeySpec::SymmetricDefault);
        let parameters = json!({
            "description": request.description, "keySpec": spec, "keyUsage": request.key_usage,
            "origin": request.origin.unwrap_or(Origin::AwsKms), "multiRegion": request.multi_region,
            "tags": request.tags, "customKeyStoreId": request.custom_key_store_id,
        });
        self.call(caller, ("CreateKey", Changes), parameters, |call| {
            members!(request: policy, description, custom_key_store_id, tags)?;
            check_kind(&request, spec)?;
            check_tags(&request.tags, &[])?;
            let policy = request.policy.as_deref().map(policies::check).transpose()?;
            let snapshot = call.snapshot()?;
            call.permit(&snapshot, creation(&request, spec), "*")?;
            permit_tags(call, &snapshot, call.caller.region().as_str(), &request.tags)?;
            let origin = request.origin.unwrap_or(Origin::AwsKms);
            // Making a key pair may take seconds, in which nobody but this caller waits.
            let secret = (origin == Origin::AwsKms).then(|| object::generate(spec, &*call.shared.entropy)).transpose();
            let secret = secret.map_err(|error| KmsError::Internal(format!("no {spec} key could be made: {error}")))?;
            let store = request.custom_key_store_id.as_deref();
            let in_token = store.map(|store| NewInToken::make(call, store)).transpose()?;
            let created = call.change(|call, change| {
                let (account, region) = (call.caller.account().as_str(), call.caller.region().as_str());
                check_quota(call, change.snapshot(), region, account)?;
                let template = KeyRecord {
                    description: request.description,
                    spec,
                    usage: request.key_usage.unwrap_or(KeyUsage::EncryptDecrypt),
                    origin,
                    multi_region: request.multi_region.then(|| alone(region, account, "")),
                    tags: request.tags,
                    policy: request.policy,
                    ..blank(call)
                };
                let key = match &in_token {
                    Some(made) => made.enter(call, change, template)?,
                    None => new_key(change, template, secret, call.now, &*call.shared.entropy)?,
                };
                call.concerns(&key);
                if let Some(policy) = policy.filter(|_| !request.bypass_policy_lockout_safety_check) {
                    policies::check_lockout(call, change.snapshot(), &key, &policy)?;
                }
                let key_metadata = metadata(&key);
                call.response = json!({ "keyMetadata": audited(&key_metadata) }).into();
                Ok(CreateKeyResponse { key_metadata })
            });
            if let (Err(_), Some(made)) = (&created, &in_token) {
                made.discard(call);
            }
            created
        })
    }

    /// `DescribeKey`. Creates `alias/aws/<known service>` and its key on first use.
    pub fn describe_key(&self, caller: &Caller, request: DescribeKeyRequest) -> Result<DescribeKeyResponse, KmsError> {
        let parameters = Canonical::object([("keyId", request.key_id.as_str().into())]);
        self.call(caller, ("DescribeKey", ReadOnly), parameters, |call| {
            members!(request: key_id, grant_tokens)?;
            create_managed(call, &request.key_id, true)?;
            let access = Access::to("DescribeKey").tokens(&request.grant_tokens);
            let key = call.key(&*call.snapshot()?, &request.key_id, Forms::Any, access)?;
            Ok(DescribeKeyResponse { key_metadata: metadata(&key) })
        })
    }

    /// `ListKeys`: keys of the caller's account and Region, those pending deletion included.
    pub fn list_keys(&self, caller: &Caller, request: ListKeysRequest) -> Result<ListKeysResponse, KmsError> {
        self.call(caller, ("ListKeys", ReadOnly), json!({ "limit": request.limit }), |call| {
            members!(request: resource_owners, limit, marker)?;
            let wanted = request.resource_owners.is_none_or(|owners| owners.contains(&ResourceOwner::Own));
            let snapshot = call.snapshot()?;
            call.permit(&snapshot, "ListKeys", "*")?;
            let prefix = format!("{}/", caller.region());
            let own = |key: &KeyEntry| wanted && key.record.account == caller.account().as_str() && !key.is_tombstone();
            let entry = |key: &KeyEntry| KeyListEntry { key_id: key.record.key_id.clone(), key_arn: key.arn.clone() };
            let marker = request.marker.as_deref();
            let pager = Pager { operation: "ListKeys", filter: "", limit: request.limit, default: 100, marker };
            let page = pager.page_from(call, |after| {
                let keys = snapshot.keys_below(&prefix, after.as_deref()).filter(|(_, key)| own(key));
                keys.map(|(id, key)| (id.to_string(), entry(key)))
            })?;
            Ok(ListKeysResponse { keys: page.items, truncated: page.next.is_some(), next_marker: page.next })
        })
    }

    /// `EnableKey`. An automatic rotation that was due meanwhile runs at once.
    pub fn enable_key(&self, caller: &Caller, request: KeyIdRequest) -> Result<(), KmsError> {
        let (legal, parameters) = named(&request);
        self.edit_key(caller, "EnableKey", legal, parameters, &request.key_id, |call, change, key| {
            settled(key)?;
            let key = put(change, key, |record| record.state = KeyState::Enabled)?;
            rotate_if_due(call.shared, change, &key, call.now)
        })
    }

    /// `DisableKey`. Takes effect in every process at its next call.
    pub fn disable_key(&self, caller: &Caller, request: KeyIdRequest) -> Result<(), KmsError> {
        let (legal, parameters) = named(&request);
        self.edit_key(caller, "DisableKey", legal, parameters, &request.key_id, |_, change, key| {
            settled(key)?;
            put(change, key, |record| record.state = KeyState::Disabled).map(drop)
        })
    }

    /// `UpdateKeyDescription`.
    pub fn update_key_description(
        &self,
        caller: &Caller,
        request: UpdateKeyDescriptionRequest,
    ) -> Result<(), KmsError> {
        let UpdateKeyDescriptionRequest { key_id, description } = request;
        let parameters = json!({ "keyId": key_id, "description": description });
        let legal = members!(key_id, description);
        self.edit_key(caller, "UpdateKeyDescription", legal, parameters, &key_id, |_, change, key| {
            not_pending_deletion(key)?;
            put(change, key, |record| record.description = description).map(drop)
        })
    }

    /// `ScheduleKeyDeletion`. At the end of the window the material is destroyed beyond what a copy of the database can
    /// bring back.
    pub fn schedule_key_deletion(
        &self,
        caller: &Caller,
        request: ScheduleKeyDeletionRequest,
    ) -> Result<ScheduleKeyDeletionResponse, KmsError> {
        let ScheduleKeyDeletionRequest { key_id, pending_window_in_days } = request;
        let parameters = json!({ "keyId": key_id, "pendingWindowInDays": pending_window_in_days });
        // The service's own bounds lie within the model's.
        let legal = members!(key_id, pending_window_in_days).and_then(|()| {
            let mut found = Constraints::default();
            found.hold(Some(Rule { bounds: WINDOW, pattern: None }), "pending_window_in_days", &pending_window_in_days);
            found.done()
        });
        let days = pending_window_in_days.unwrap_or(*WINDOW.end());
        let access =
            Access::to("ScheduleKeyDeletion").with("kms:ScheduleKeyDeletionPendingWindowInDays", days.to_string());
        self.edit_key_as(caller, ("ScheduleKeyDeletion", access), legal, parameters, &key_id, |call, change, key| {
            if key.record.state != KeyState::Unavailable {
                not_pending_deletion(key)?;
            }
            // A primary waits for its replicas; its own waiting period begins when the last of them is deleted.
            let (state, deletion_date) = match has_replicas(key) {
                true => (KeyState::PendingReplicaDeletion, None),
                false => (KeyState::PendingDeletion, Some(call.now.plus_days(days))),
            };
            let key = put(change, key, |record| {
                record.state = state;
                record.deletion_date = deletion_date;
                record.pending_window_days = Some(days);
            })?;
            call.response = json!({
                "keyId": key.arn.as_str(), "keyState": state, "pendingWindowInDays": days,
                "deletionDate": deletion_date.map(|date| date.to_string()),
            })
            .into();
            Ok(ScheduleKeyDeletionResponse {
                key_id: key.arn.clone(),
                deletion_date,
                key_state: state,
                pending_window_in_days: days,
            })
        })
    }

    /// `CancelKeyDeletion`. The key is `Disabled` afterwards, or `PendingImport` without its imported material.
    pub fn cancel_key_deletion(&self, caller: &Caller, request: KeyIdRequest) -> Result<KeyIdResponse, KmsError> {
        let (legal, parameters) = named(&request);
        self.edit_key(caller, "CancelKeyDeletion", legal, parameters, &request.key_id, |call, change, key| {
            if not_pending_deletion(key).is_ok() {
                return Err(KmsError::NotPendingDeletion(key.arn.clone()));
            }
            let key = put(change, key, |record| {
                record.state = state_after_cancellation(key);
                record.deletion_date = None;
                record.pending_window_days = None;
            })?;
            call.response = json!({ "keyId": key.arn.as_str() }).into();
            Ok(KeyIdResponse { key_id: key.arn.clone() })
        })
    }

    /// A control operation on one key, named by id or ARN, whose request is `legal` or is not: committed with its record.
    pub(super) fn edit_key<T>(
        &self,
        caller: &Caller,
        name: &'static str,
        legal: Result<(), KmsError>,
        parameters: Value,
        key_id: &str,
        edit: impl FnOnce(&mut Call<'_>, &mut Change<'_>, &KeyEntry) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        self.edit_key_as(caller, (name, name.into()), legal, parameters, key_id, edit)
    }

    /// As [`Self::edit_key`], with what policies look at besides the operation's name.
    pub(super) fn edit_key_as<'a, T>(
        &self,
        caller: &Caller,
        (name, access): (&'static str, Access<'a>),
        legal: Result<(), KmsError>,
        parameters: Value,
        key_id: &'a str,
        edit: impl FnOnce(&mut Call<'_>, &mut Change<'_>, &KeyEntry) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        self.call(caller, (name, Changes), parameters, |call| {
            legal?;
            // Before the change: looking at the last use writes the log.
            let access = call.with_last_use(access, key_id)?;
            call.change(|call, change| {
                let key = call.key(change.snapshot(), key_id, Forms::Key, access)?;
                edit(call, change, &key)
            })
        })
    }
}

/// Whether a request that names a key and nothing else is legal, and its parameters.
pub fn named(request: &KeyIdRequest) -> (Result<(), KmsError>, Value) {
    (members!(request: key_id), json!({ "keyId": request.key_id }))
}

/// Applies `edit` to `key` as it stands after the edits so far.
pub fn put(
    change: &mut Change<'_>,
    key: &KeyEntry,
    edit: impl FnOnce(&mut KeyRecord),
) -> Result<Arc<KeyEntry>, KmsError> {
    let present = change.snapshot().present_key(&key_row_id(&key.record.region, &key.record.key_id));
    let mut record = present.record.clone();
    edit(&mut record);
    // Idempotent operations leave the row as it is.
    if record == present.record { Ok(present) } else { change.put_key(record) }
}

/// Refuses a further key when the quota is used up.
pub fn check_quota(call: &Call<'_>, snapshot: &Snapshot, region: &str, account: &str) -> Result<(), KmsError> {
    let most = call.shared.resources().keys;
    if snapshot.count_customer_keys(region, account) < most {
        return Ok(());
    }
    let text = format!("The account has {most} KMS keys in this Region, which is its quota.");
    Err(KmsError::LimitExceeded(text))
}

/// Refuses the states in which a key can be neither enabled nor disabled.
fn settled(key: &KeyEntry) -> Result<(), KmsError> {
    match key.record.state {
        KeyState::Enabled | KeyState::Disabled | KeyState::Unavailable => Ok(()),
        state => Err(KmsError::InvalidState { arn: key.arn.clone(), state }),
    }
}

/// What policies look at when a key is created.
fn creation(request: &CreateKeyRequest, spec: KeySpec) -> Access<'_> {
    let access = Access::to("CreateKey")
        .with("kms:KeySpec", spec.as_str())
        .with("kms:KeyUsage", request.key_usage.unwrap_or(KeyUsage::EncryptDecrypt).as_str())
        .with("kms:KeyOrigin", request.origin.unwrap_or(Origin::AwsKms).as_str())
        .with("kms:MultiRegion", flag(request.multi_region))
        .with_some("kms:MultiRegionKeyType", request.multi_region.then_some(MultiRegionKeyType::Primary.as_str()))
        .with("kms:BypassPolicyLockoutSafetyCheck", flag(request.bypass_policy_lockout_safety_check));
    with_tags(access, &request.tags)
}

fn check_kind(request: &CreateKeyRequest, spec: KeySpec) -> Result<(), KmsError> {
    let unsupported = |what: String| Err(KmsError::UnsupportedOperation(what));
    if request.key_spec.is_some() && request.customer_master_key_spec.is_some() {
        let text = "You cannot specify KeySpec and CustomerMasterKeySpec in the same request.";
        return Err(KmsError::Validation(text.into()));
    }
    match request.key_usage {
        _ if spec == KeySpec::Sm2 => return unsupported(format!("KeySpec {spec} is not supported in this Region.")),
        Some(usage) if !spec.allows(usage) => {
            return Err(KmsError::Validation(format!("KeyUsage {usage} is not compatible with KeySpec {spec}")));
        }
        None if spec != KeySpec::SymmetricDefault => {
            let text = "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.";
            return Err(KmsError::Validation(text.into()));
        }
        _ => {}
    }
    check_origin(request, spec)
}

/// Refuses origins that do not fit the rest of the request.
fn check_origin(request: &CreateKeyRequest, spec: KeySpec) -> Result<(), KmsError> {
    let origin = request.origin.unwrap_or(Origin::AwsKms);
    let unsupported = |what: String| Err(KmsError::UnsupportedOperation(what));
    match (origin, &request.custom_key_store_id) {
        (Origin::ExternalKeyStore, _) => unsupported(format!("kmsfs does not make keys of origin {origin}.")),
        (Origin::AwsCloudHsm, None) => {
            Err(KmsError::Validation(format!("CustomKeyStoreId is required for keys of origin {origin}.")))
        }
        (Origin::AwsCloudHsm, Some(_)) if spec != KeySpec::SymmetricDefault || request.multi_region => {
            unsupported("Custom key stores have symmetric single-Region keys only.".into())
        }
        (Origin::AwsKms | Origin::External, Some(_)) => {
            Err(KmsError::Validation(format!("CustomKeyStoreId is not valid for keys of origin {origin}.")))
        }
        (Origin::External, None)
            if matches!(spec.material(), Some(MaterialKind::Pair(PairKind::MlDsa(_) | PairKind::MlKem(_)))) =>
        {
            unsupported(format!("Key material for key spec {spec} cannot be imported."))
        }
        (Origin::AwsKms | Origin::External | Origin::AwsCloudHsm, _) => Ok(()),
    }
}

/// A symmetric customer managed key of the caller, without identity and material.
pub fn blank(call: &Call<'_>) -> KeyRecord {
    KeyRecord {
        region: call.caller.region().to_string(),
        account: call.caller.account().to_string(),
        key_id: String::new(),
        created: call.now,
        description: String::new(),
        usage: KeyUsage::EncryptDecrypt,
        spec: KeySpec::SymmetricDefault,
        origin: Origin::AwsKms,
        manager: KeyManager::Customer,
        service: None,
        state: KeyState::Enabled,
        deletion_date: None,
        pending_window_days: None,
        multi_region: None,
        rotation: Rotation { enabled: false, period_days: YEAR_DAYS, next: None, on_demand: 0 },
        current_material: None,
        tags: Vec::new(),
        key_store: None,
        policy: None,
        destroyed: None,
    }
}

/// Enters a key made from `template`, with a new id and its first material; without it, it is `PendingImport`.
pub fn new_key(
    change: &mut Change<'_>,
    template: KeyRecord,
    secret: Option<SecretBytes>,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<Arc<KeyEntry>, KmsError> {
    let (key_id, multi_region) = match template.multi_region {
        None => (uuid::Builder::from_random_bytes(random(entropy)).into_uuid().hyphenated().to_string(), None),
        Some(_) => {
            let key_id = format!("mrk-{}", HEXLOWER.encode(&random::<16>(entropy)));
            let set = alone(&template.region, &template.account, &key_id);
            (key_id, Some(set))
        }
    };
    let template = KeyRecord { multi_region, ..template };
    let row_id = key_row_id(&template.region, &key_id);
    let Some(secret) = secret else {
        return change.put_key(KeyRecord { key_id, state: KeyState::PendingImport, ..template });
    };
    let material = material(&key_id, secret, 0, None, now);
    let current_material = Some(material.record.material_id.clone());
    change.put_key(KeyRecord { key_id, current_material, ..template })?;
    change.put_material(&row_id, material)?;
    Ok(change.snapshot().present_key(&row_id))
}

/// Material with its id, ready to be entered.
pub fn material(
    key_id: &str,
    secret: SecretBytes,
    generation: u32,
    rotation: Option<RotationType>,
    now: Timestamp,
) -> Material {
    let material_id = HEXLOWER.encode(&material_id(key_id, &secret));
    let record = MaterialRecord { material_id, generation, created: now, rotation, import: None, token: None };
    Material::new(record, Some(secret)).expect("the id is hex")
}

/// SHA-256(key id || HMAC-SHA-256(material, "kmsfs material id v1")), the key id as text (KMS.md section 10).
pub fn material_id(key_id: &str, secret: &SecretBytes) -> [u8; 32] {
    let inner = seal::mac_under(secret.expose(), &[b"kmsfs material id v1"]);
    seal::sha256(&[key_id.as_bytes(), &inner].concat())
}

/// What `DescribeKey` answers for `key`.
pub fn metadata(key: &KeyEntry) -> KeyMetadata {
    let record = &key.record;
    let symmetric = record.spec == KeySpec::SymmetricDefault;
    let pending = record.state == KeyState::PendingDeletion;
    let waiting = record.state == KeyState::PendingReplicaDeletion;
    // All of them: the key ends with the first. What waits for its rotation is not part of it yet.
    let there = key.used().filter(|material| material.secret().is_some());
    let imports: Vec<&Import> = there.filter_map(|material| material.record.import.as_ref()).collect();
    let valid_to = imports.iter().filter_map(|import| import.valid_to).min();
    KeyMetadata {
        aws_account_id: record.account.clone(),
        key_id: record.key_id.clone(),
        arn: key.arn.clone(),
        creation_date: record.created,
        enabled: key.state() == KeyState::Enabled,
        description: record.description.clone(),
        key_usage: record.usage,
        key_state: key.state(),
        deletion_date: record.deletion_date.filter(|_| pending),
        pending_deletion_window_in_days: record.pending_window_days.filter(|_| waiting),
        valid_to,
        expiration_model: (!imports.is_empty()).then_some(ExpirationModel::of(valid_to)),
        origin: record.origin,
        custom_key_store_id: record.key_store.as_ref().map(|link| link.id.clone()),
        cloud_hsm_cluster_id: record.key_store.as_ref().map(|link| link.cluster.clone()),
        key_manager: record.manager,
        key_spec: record.spec,
        customer_master_key_spec: record.spec,
        algorithms: Algorithms::of(record.spec, record.usage),
        multi_region: record.multi_region.is_some(),
        multi_region_configuration: record.multi_region.clone(),
        current_key_material_id: record.current_material.clone().filter(|_| symmetric && record.key_store.is_none()),
    }
}

/// Key metadata for the audit log: lower camel case as CloudTrail writes it, times as text.
pub fn audited(metadata: &KeyMetadata) -> Value {
    json!({
        "aWSAccountId": metadata.aws_account_id, "arn": metadata.arn.as_str(), "keyId": metadata.key_id,
        "creationDate": metadata.creation_date.to_string(), "description": metadata.description,
        "enabled": metadata.enabled, "keyManager": metadata.key_manager, "keySpec": metadata.key_spec,
        "keyState": metadata.key_state, "keyUsage": metadata.key_usage, "origin": metadata.origin,
        "multiRegion": metadata.multi_region, "currentKeyMaterialId": metadata.current_key_material_id,
    })
}
