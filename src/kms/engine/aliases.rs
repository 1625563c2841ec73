//! Aliases, and the AWS managed keys behind `alias/aws/...` (KMS.md section 9).

use serde_json::json;

use super::Engine;
use super::authorise::{Access, denied};
use super::call::{Call, Effect::*};
use super::check::members;
use super::lifecycle::{YEAR_DAYS, blank, new_key};
use super::page::Pager;
use super::resolve::{Forms, does_not_exist, find, not_pending_deletion};
use crate::kms::model::*;
use crate::kms::store::{AliasRecord, KeyEntry, KeyRecord, Rotation, Snapshot, alias_row_id, below, key_row_id};
use crate::kms::{KmsError, object};
use crate::sync::Arc;

const PREFIX: &str = "alias/";
/// Of the aliases of AWS managed keys.
const RESERVED: &str = "alias/aws/";
/// Services that have AWS managed keys.
const SERVICES: [&str; 2] = ["kmsfs", "ebs"];

impl Engine {
    /// `CreateAlias`.
    pub fn create_alias(&self, caller: &Caller, request: CreateAliasRequest) -> Result<(), KmsError> {
        let CreateAliasRequest { alias_name, target_key_id } = request;
        let parameters = json!({ "aliasName": alias_name, "targetKeyId": target_key_id });
        self.call(caller, ("CreateAlias", Changes), parameters, |call| {
            members!(alias_name, target_key_id)?;
            check_new(&alias_name)?;
            call.change(|call, change| {
                call.permit(change.snapshot(), "CreateAlias", &alias_arn(call, &alias_name))?;
                let key = call.key(change.snapshot(), &target_key_id, Forms::Key, "CreateAlias")?;
                not_pending_deletion(&key)?;
                let alias = AliasRecord {
                    region: key.record.region.clone(),
                    account: key.record.account.clone(),
                    name: alias_name,
                    key_id: key.record.key_id.clone(),
                    created: call.now,
                    updated: call.now,
                };
                let row_id = alias.row_id();
                if change.snapshot().aliases.contains_key(&*row_id) {
                    return Err(KmsError::AlreadyExists(format!(
                        "An alias with the name {} already exists",
                        alias.arn()
                    )));
                }
                one_more(call, change.snapshot(), &key)?;
                change.put(&row_id, alias);
                Ok(())
            })
        })
    }

    /// `UpdateAlias`: points an existing alias at another key of the same kind and usage.
    pub fn update_alias(&self, caller: &Caller, request: UpdateAliasRequest) -> Result<(), KmsError> {
        let UpdateAliasRequest { alias_name, target_key_id } = request;
        let parameters = json!({ "aliasName": alias_name, "targetKeyId": target_key_id });
        self.call(caller, ("UpdateAlias", Changes), parameters, |call| {
            members!(alias_name, target_key_id)?;
            check_prefix(&alias_name)?;
            call.change(|call, change| {
                call.permit(change.snapshot(), "UpdateAlias", &alias_arn(call, &alias_name))?;
                let row_id = alias_row_id(caller.region().as_str(), caller.account().as_str(), &alias_name);
                let alias =
                    change.snapshot().aliases.get(&*row_id).cloned().ok_or_else(|| not_found(call, &alias_name))?;
                let old = change.snapshot().key(&key_row_id(&alias.region, &alias.key_id)).cloned();
                if let Some(old) = &old {
                    call.authorise(change.snapshot(), &Access::to("UpdateAlias"), old)?;
                }
                let key = call.key(change.snapshot(), &target_key_id, Forms::Key, "UpdateAlias")?;
                not_pending_deletion(&key)?;
                let kind = |record: &KeyRecord| (record.spec == KeySpec::SymmetricDefault, record.usage);
                if old.is_some_and(|old| kind(&old.record) != kind(&key.record)) {
                    let text = "The current and the new target of the alias must be of the same type and key usage.";
                    return Err(KmsError::Validation(text.into()));
                }
                if alias.key_id != key.record.key_id {
                    one_more(call, change.snapshot(), &key)?;
                }
                let key_id = key.record.key_id.clone();
                change.put(&row_id, AliasRecord { key_id, updated: call.now, ..(*alias).clone() });
                Ok(())
            })
        })
    }

    /// `DeleteAlias`.
    pub fn delete_alias(&self, caller: &Caller, request: DeleteAliasRequest) -> Result<(), KmsError> {
        let DeleteAliasRequest { alias_name } = request;
        self.call(caller, ("DeleteAlias", Changes), json!({ "aliasName": alias_name }), |call| {
            members!(alias_name)?;
            check_prefix(&alias_name)?;
            call.change(|call, change| {
                call.permit(change.snapshot(), "DeleteAlias", &alias_arn(call, &alias_name))?;
                let row_id = alias_row_id(caller.region().as_str(), caller.account().as_str(), &alias_name);
                let alias =
                    change.snapshot().aliases.get(&*row_id).cloned().ok_or_else(|| not_found(call, &alias_name))?;
                if let Some(key) = change.snapshot().key(&key_row_id(&alias.region, &alias.key_id)).cloned() {
                    call.authorise(change.snapshot(), &Access::to("DeleteAlias"), &key)?;
                }
                change.delete::<AliasRecord>(&row_id);
                Ok(())
            })
        })
    }

    /// `ListAliases`: those of the caller's account and Region, or of one key.
    pub fn list_aliases(&self, caller: &Caller, request: ListAliasesRequest) -> Result<ListAliasesResponse, KmsError> {
        let parameters = json!({ "keyId": request.key_id, "limit": request.limit });
        self.call(caller, ("ListAliases", ReadOnly), parameters, |call| {
            members!(request: key_id, limit, marker)?;
            let snapshot = call.snapshot()?;
            call.permit(&snapshot, "ListAliases", "*")?;
            let pager = Pager {
                operation: "ListAliases",
                filter: request.key_id.as_deref().unwrap_or(""),
                limit: request.limit,
                default: 50,
                marker: request.marker.as_deref(),
            };
            let named = |id: &Arc<str>| (id.to_string(), entry(&snapshot.aliases[&**id]));
            let page = match &request.key_id {
                Some(key_id) => {
                    let key = find(caller, &snapshot, key_id, Forms::Key, "ListAliases")?.key;
                    // No key policy can open this to other accounts.
                    if key.account != *caller.account() {
                        return Err(denied(caller, "ListAliases", key.arn.as_str()));
                    }
                    if key.is_tombstone() {
                        return Err(does_not_exist(key.arn.as_str()));
                    }
                    call.concerns(&key);
                    let key_row = key_row_id(&key.record.region, &key.record.key_id);
                    pager.page(call, snapshot.aliases_of(&key_row).map(named))?
                }
                None => {
                    let own = format!("{}/{}/", caller.region(), caller.account());
                    let behind = |after: Option<String>| below(&snapshot.aliases, &own, after.as_deref());
                    pager.page_from(call, |after| behind(after).map(|(id, _)| named(id)))?
                }
            };
            Ok(ListAliasesResponse { aliases: page.items, truncated: page.next.is_some(), next_marker: page.next })
        })
    }
}

/// Refuses an alias more than the quota of a key.
fn one_more(call: &Call<'_>, snapshot: &Snapshot, key: &KeyEntry) -> Result<(), KmsError> {
    let most = call.shared.resources().aliases_per_key;
    if snapshot.aliases_of(&key_row_id(&key.record.region, &key.record.key_id)).count() < most {
        return Ok(());
    }
    Err(KmsError::LimitExceeded(format!("The key {} has {most} aliases, which is its quota.", key.arn)))
}

fn entry(alias: &AliasRecord) -> AliasListEntry {
    AliasListEntry {
        alias_name: alias.name.clone(),
        alias_arn: alias.arn(),
        target_key_id: alias.key_id.clone(),
        creation_date: alias.created,
        last_updated_date: alias.updated,
    }
}

fn alias_arn(call: &Call<'_>, name: &str) -> String {
    format!("arn:aws:kms:{}:{}:{name}", call.caller.region(), call.caller.account())
}

fn not_found(call: &Call<'_>, name: &str) -> KmsError {
    KmsError::NotFound(format!("Alias {} is not found.", alias_arn(call, name)))
}

/// Refuses names that no alias can have.
fn check_prefix(name: &str) -> Result<(), KmsError> {
    if name.starts_with(PREFIX) {
        return Ok(());
    }
    Err(KmsError::Validation(
        "Alias must start with the prefix \"alias/\". Please see \
         https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
            .into(),
    ))
}

/// Refuses names that no new alias can have. What changes an alias that is there needs no such check: the policies of
/// AWS managed keys protect theirs.
fn check_new(name: &str) -> Result<(), KmsError> {
    check_prefix(name)?;
    if name.starts_with(RESERVED) || name == PREFIX {
        return Err(KmsError::InvalidAliasName(format!("The alias name {name} is reserved or empty.")));
    }
    Ok(())
}

/// Creates the AWS managed key that `key_id` names by its alias, if it is the first use: by anybody who describes it, or
/// by its service.
pub fn create_managed(call: &mut Call<'_>, key_id: &str, describing: bool) -> Result<(), KmsError> {
    if !key_id.contains(RESERVED) {
        return Ok(());
    }
    let (region, account) = (call.caller.region().to_string(), call.caller.account().to_string());
    let name = key_id.strip_prefix(&format!("arn:aws:kms:{region}:{account}:")).unwrap_or(key_id);
    let Some(service) = name.strip_prefix(RESERVED).filter(|service| SERVICES.contains(service)) else {
        return Ok(());
    };
    let through_service = call.caller.service() == Some(&format!("{service}.{region}.local"));
    let row_id = alias_row_id(&region, &account, name);
    let snapshot = call.snapshot()?;
    if !(describing || through_service) || snapshot.aliases.contains_key(&*row_id) {
        return Ok(());
    }
    if !through_service {
        // Only who could describe the key makes it; its policy leaves that to identity policies.
        call.permit(&snapshot, "DescribeKey", &format!("arn:aws:kms:{region}:{account}:key/*"))?;
    }
    let shared = call.shared;
    shared.store.change(|change| {
        if change.snapshot().aliases.contains_key(&*row_id) {
            return Ok(());
        }
        let next = Some(call.now.plus_days(YEAR_DAYS));
        let secret = object::symmetric(&*shared.entropy);
        let template = KeyRecord {
            description: format!("Default key that protects the data of {service} when no other key is given"),
            manager: KeyManager::Aws,
            service: Some(service.to_owned()),
            rotation: Rotation { enabled: true, period_days: YEAR_DAYS, next, on_demand: 0 },
            ..blank(call)
        };
        let key = new_key(change, template, Some(secret), call.now, &*shared.entropy)?;
        let (key_id, name) = (key.record.key_id.clone(), name.to_owned());
        let alias = AliasRecord { region, account, name, key_id, created: call.now, updated: call.now };
        change.put(&row_id, alias);
        let details = json!({ "keyId": key.arn.as_str(), "service": service });
        change.record(shared.service_event("CreateKey", details, Some(&key.arn)).render(&*shared.entropy));
        Ok(())
    })
}
