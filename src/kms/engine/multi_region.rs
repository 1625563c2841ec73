//! Multi-Region keys (KMS.md section 13): one primary, replicas in other Regions with the same id and material.
//!
//! All Regions live in one home. Every key of the set has rows of its own, and what they share is written to all of them
//! in the transaction that changes it: reading never leaves the Region, and `Creating` and `Updating` are never seen.

use std::iter::once;

use serde_json::json;

use super::authorise::Access;
use super::call::Effect::*;
use super::check::members;
use super::evaluate::{document, flag};
use super::lifecycle::{audited, blank, check_quota, metadata, put};
use super::policies;
use super::resolve::{Forms, does_not_exist};
use super::tags::{check_tags, permit_tags, with_tags};
use super::{Engine, Shared};
use crate::kms::KmsError;
use crate::kms::model::*;
use crate::kms::store::{Change, Import, KeyEntry, KeyRecord, Material, MaterialRecord, Snapshot, key_row_id};
use crate::sync::Arc;
use crate::types::{Region, Timestamp};

impl Engine {
    /// `ReplicateKey`: a replica of a primary in another Region, one per Region. It has the primary's material, unless
    /// that is imported: then it waits for the same material.
    pub fn replicate_key(
        &self,
        caller: &Caller,
        request: ReplicateKeyRequest,
    ) -> Result<ReplicateKeyResponse, KmsError> {
        let parameters = json!({
            "keyId": request.key_id, "replicaRegion": request.replica_region, "description": request.description,
            "tags": request.tags, "policy": request.policy,
            "bypassPolicyLockoutSafetyCheck": request.bypass_policy_lockout_safety_check,
        });
        self.call(caller, ("ReplicateKey", Changes), parameters, |call| {
            members!(request: key_id, replica_region, policy, description, tags)?;
            check_tags(&request.tags, &[])?;
            let policy = request.policy.as_deref().map(policies::check).transpose()?;
            let region = parse_region(&request.replica_region)?;
            if !is_neighbour(caller.region(), &region) {
                let text = format!("{region} is no Region that a key in {} can be replicated to.", caller.region());
                return Err(KmsError::Validation(text));
            }
            call.change(|call, change| {
                let access = Access::to("ReplicateKey").with("kms:ReplicaRegion", region.as_str());
                let primary = call.key(change.snapshot(), &request.key_id, Forms::Key, access)?;
                let (_, replicas) =
                    set_of(&primary).filter(|_| is_primary(&primary)).ok_or_else(|| not_primary(&primary))?;
                call.permit(change.snapshot(), creation(&request, &primary), "*")?;
                permit_tags(call, change.snapshot(), region.as_str(), &request.tags)?;
                call.usable(&primary)?;
                let row_id = key_row_id(region.as_str(), &primary.record.key_id);
                if change.snapshot().key(&row_id).is_some_and(|key| !key.is_tombstone()) {
                    let text = format!("{} already has a key in {region}.", primary.arn);
                    return Err(KmsError::AlreadyExists(text));
                }
                check_quota(call, change.snapshot(), region.as_str(), &primary.record.account)?;
                change.put_key(KeyRecord {
                    region: region.to_string(),
                    key_id: primary.record.key_id.clone(),
                    description: request.description.clone(),
                    tags: request.tags.clone(),
                    policy: request.policy.clone(),
                    usage: primary.record.usage,
                    spec: primary.record.spec,
                    origin: primary.record.origin,
                    multi_region: primary.record.multi_region.clone(),
                    ..blank(call)
                })?;
                let replicas: Vec<String> = replicas.into_iter().chain([region.to_string()]).collect();
                relate(change, &primary, &primary.record.region, &replicas)?;
                let replica = share(change, &primary, &present(change, &row_id))?.0;
                let replica = match replica.is_complete() {
                    true => replica,
                    false => put(change, &replica, |record| record.state = KeyState::PendingImport)?,
                };
                if let Some(policy) = policy.filter(|_| !request.bypass_policy_lockout_safety_check) {
                    policies::check_lockout(call, change.snapshot(), &replica, &policy)?;
                }
                let replica_key_metadata = metadata(&replica);
                let details = json!({ "keyId": replica.arn.as_str(), "primaryKeyId": primary.arn.as_str() });
                change.record(
                    call.shared.service_event("CreateKey", details, Some(&replica.arn)).render(&*call.shared.entropy),
                );
                call.response = json!({ "replicaKeyMetadata": audited(&replica_key_metadata) }).into();
                Ok(ReplicateKeyResponse {
                    replica_key_metadata,
                    replica_policy: document(&replica),
                    replica_tags: request.tags,
                })
            })
        })
    }

    /// `UpdatePrimaryRegion`: the primary and a replica change their roles.
    pub fn update_primary_region(&self, caller: &Caller, request: UpdatePrimaryRegionRequest) -> Result<(), KmsError> {
        const NAME: &str = "UpdatePrimaryRegion";
        let UpdatePrimaryRegionRequest { key_id, primary_region } = request;
        let parameters = json!({ "keyId": key_id, "primaryRegion": primary_region });
        self.call(caller, (NAME, Changes), parameters, |call| {
            members!(key_id, primary_region)?;
            let region = parse_region(&primary_region)?;
            call.change(|call, change| {
                let access = || Access::to(NAME).with("kms:PrimaryRegion", region.as_str());
                let old = call.key(change.snapshot(), &key_id, Forms::Key, access())?;
                let (primary, replicas) = set_of(&old).filter(|_| is_primary(&old)).ok_or_else(|| not_primary(&old))?;
                call.usable(&old)?;
                if region.as_str() == primary {
                    return Err(KmsError::Validation(format!("{region} is the primary Region already.")));
                }
                let row_id = key_row_id(region.as_str(), &old.record.key_id);
                let Some(new) = change.snapshot().key(&row_id).filter(|key| !key.is_tombstone()).cloned() else {
                    let arn = format!("arn:aws:kms:{region}:{}:key/{}", old.record.account, old.record.key_id);
                    return Err(does_not_exist(&arn));
                };
                call.authorise(change.snapshot(), &access(), &new)?;
                call.usable(&new)?;
                let others = replicas.into_iter().filter(|other| *other != region.as_str()).chain([primary]);
                relate(change, &old, region.as_str(), &others.collect::<Vec<_>>())?;
                for key in [&old, &new] {
                    record_synchronization(call.shared, change, key);
                }
                Ok(())
            })
        })
    }
}

/// What policies look at when a replica is created.
fn creation<'a>(request: &'a ReplicateKeyRequest, primary: &'a KeyEntry) -> Access<'a> {
    let access = Access::to("CreateKey")
        .with("aws:RequestedRegion", request.replica_region.as_str())
        .with("kms:KeySpec", primary.record.spec.as_str())
        .with("kms:KeyUsage", primary.record.usage.as_str())
        .with("kms:KeyOrigin", primary.record.origin.as_str())
        .with("kms:MultiRegion", flag(true))
        .with("kms:MultiRegionKeyType", MultiRegionKeyType::Replica.as_str())
        .with("kms:BypassPolicyLockoutSafetyCheck", flag(request.bypass_policy_lockout_safety_check));
    with_tags(access, &request.tags)
}

fn parse_region(text: &str) -> Result<Region, KmsError> {
    text.parse().map_err(|error| KmsError::Validation(format!("{error}")))
}

/// Whether `there` is named as AWS's Regions of the partition of `here` are; of any, if `here` is no name of AWS's.
fn is_neighbour(here: &Region, there: &Region) -> bool {
    let of = there.partition();
    of.is_some() && here.partition().is_none_or(|own| of == Some(own))
}

/// A new multi-Region primary's place among its replicas, of which there are none.
pub fn alone(region: &str, account: &str, key_id: &str) -> MultiRegionConfiguration {
    configuration(MultiRegionKeyType::Primary, region, &[], account, key_id)
}

fn configuration(
    role: MultiRegionKeyType,
    primary: &str,
    replicas: &[String],
    account: &str,
    key_id: &str,
) -> MultiRegionConfiguration {
    let named = |region: &str| MultiRegionKey {
        arn: format!("arn:aws:kms:{region}:{account}:key/{key_id}"),
        region: region.to_owned(),
    };
    MultiRegionConfiguration {
        multi_region_key_type: role,
        primary_key: named(primary),
        replica_keys: replicas.iter().map(|region| named(region)).collect(),
    }
}

/// The Regions of the primary and of the replicas.
fn set_of(key: &KeyEntry) -> Option<(String, Vec<String>)> {
    let set = key.record.multi_region.as_ref()?;
    Some((set.primary_key.region.clone(), set.replica_keys.iter().map(|key| key.region.clone()).collect()))
}

fn is_primary(key: &KeyEntry) -> bool {
    key.role() == Some(MultiRegionKeyType::Primary)
}

/// Refuses replicas, whose shared properties are those of their primary.
pub fn not_a_replica(key: &KeyEntry) -> Result<(), KmsError> {
    if key.is_replica() { Err(not_primary(key)) } else { Ok(()) }
}

fn not_primary(key: &KeyEntry) -> KmsError {
    KmsError::UnsupportedOperation(format!("{} is not a multi-region primary key.", key.arn))
}

/// Whether replicas stand in the way of the deletion of `key`.
pub fn has_replicas(key: &KeyEntry) -> bool {
    is_primary(key) && set_of(key).is_some_and(|(_, replicas)| !replicas.is_empty())
}

/// The other keys of the set.
fn relatives(snapshot: &Snapshot, key: &KeyEntry) -> Vec<Arc<KeyEntry>> {
    let (primary, replicas) = set_of(key).unzip();
    let regions = primary.into_iter().chain(replicas.into_iter().flatten());
    let others = regions.filter(|region| *region != key.record.region);
    others.filter_map(|region| snapshot.key(&key_row_id(&region, &key.record.key_id)).cloned()).collect()
}

/// Whether the imported material is there in every Region.
pub fn is_everywhere(snapshot: &Snapshot, key: &KeyEntry, material: &Material) -> bool {
    let has = |key: &KeyEntry| key.materials.iter().any(|own| own.id == material.id && own.secret().is_some());
    has(key) && relatives(snapshot, key).iter().all(|other| has(other))
}

fn present(change: &Change<'_>, row_id: &str) -> Arc<KeyEntry> {
    change.snapshot().present_key(row_id)
}

/// Tells every key of the set that `primary` and `replicas` are its Regions.
fn relate(change: &mut Change<'_>, of: &KeyEntry, primary: &str, replicas: &[String]) -> Result<(), KmsError> {
    let (account, key_id) = (&of.record.account, &of.record.key_id);
    let mut replicas = replicas.to_vec();
    replicas.sort();
    for region in once(primary).chain(replicas.iter().map(String::as_str)) {
        let role = if region == primary { MultiRegionKeyType::Primary } else { MultiRegionKeyType::Replica };
        let key = present(change, &key_row_id(region, key_id));
        let set = configuration(role, primary, &replicas, account, key_id);
        put(change, &key, |record| record.multi_region = Some(set))?;
    }
    Ok(())
}

/// Gives the replicas of a primary the properties that they share with it. Nothing for other keys.
pub fn synchronize(shared: &Shared, change: &mut Change<'_>, key: &KeyEntry) -> Result<(), KmsError> {
    let primary = present(change, &key_row_id(&key.record.region, &key.record.key_id));
    if !is_primary(&primary) {
        return Ok(());
    }
    for replica in relatives(change.snapshot(), &primary) {
        if share(change, &primary, &replica)?.1 {
            record_synchronization(shared, change, &replica);
        }
    }
    Ok(())
}

/// Gives `replica` the material and rotation of `primary`; of imported material only the record. Answers the replica, and
/// whether anything changed.
fn share(
    change: &mut Change<'_>,
    primary: &KeyEntry,
    replica: &Arc<KeyEntry>,
) -> Result<(Arc<KeyEntry>, bool), KmsError> {
    let row_id = key_row_id(&replica.record.region, &replica.record.key_id);
    let mut changed = false;
    for own in &replica.materials {
        if !primary.materials.iter().any(|material| material.id == own.id) {
            change.delete_material(&row_id, &own.record.material_id)?;
            changed = true;
        }
    }
    for material in &primary.materials {
        let own = replica.materials.iter().find(|own| own.id == material.id);
        let imported =
            material.record.import.as_ref().map(|_| Import { valid_to: None, description: None, by_clock: false });
        let import = own.map_or(imported, |own| own.record.import.clone());
        let record = MaterialRecord { import, ..material.record.clone() };
        let copy = match own {
            Some(own) if own.record == record => continue,
            Some(own) => own.with_record(record),
            None if record.import.is_some() => Material::new(record, None).expect("a record of material has its id"),
            None => material.with_record(record),
        };
        change.put_material(&row_id, copy)?;
        changed = true;
    }
    let after = put(change, replica, |record| {
        record.rotation = primary.record.rotation.clone();
        record.current_material = primary.record.current_material.clone();
    })?;
    changed |= after.record != replica.record;
    Ok((after, changed))
}

fn record_synchronization(shared: &Shared, change: &mut Change<'_>, key: &KeyEntry) {
    let event = shared.service_event("SynchronizeMultiRegionKey", json!({ "keyId": key.arn.as_str() }), Some(&key.arn));
    change.record(event.render(&*shared.entropy));
}

/// After the end of `replica`: the others forget it, and a primary that waited for the last one begins its own waiting
/// period.
pub fn leave(change: &mut Change<'_>, replica: &KeyEntry, now: Timestamp) -> Result<(), KmsError> {
    // As it stands now: another replica may have ended in the same change.
    let replica = &*present(change, &key_row_id(&replica.record.region, &replica.record.key_id));
    let Some((primary, replicas)) = set_of(replica).filter(|_| replica.is_replica()) else { return Ok(()) };
    let rest: Vec<String> = replicas.into_iter().filter(|region| *region != replica.record.region).collect();
    relate(change, replica, &primary, &rest)?;
    let primary = present(change, &key_row_id(&primary, &replica.record.key_id));
    if primary.record.state == KeyState::PendingReplicaDeletion && rest.is_empty() {
        put(change, &primary, |record| {
            record.state = KeyState::PendingDeletion;
            record.deletion_date = record.pending_window_days.map(|days| now.plus_days(days));
        })?;
    }
    Ok(())
}
