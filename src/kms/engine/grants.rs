//! Grants.

use std::collections::BTreeSet;

use data_encoding::HEXLOWER;
use serde_json::json;

use super::Engine;
use super::authorise::{Access, denied, open_token, refusal, seal_token};
use super::call::{Call, Effect::*};
use super::check::members;
use super::evaluate::Facts;
use super::page::{Page, Pager};
use super::resolve::Forms;
use crate::env::random;
use crate::kms::KmsError;
use crate::kms::model::*;
use crate::kms::policy::{self, Decision, Reach, Reason, Terms};
use crate::kms::store::{GrantRecord, KeyEntry, Party, Snapshot, below, grant_row_id, key_row_id};
use crate::sync::Arc;
use crate::types::EncryptionContext;

/// Pairs of an encryption context in constraints, and characters of each value.
const MAX_PAIRS: usize = 8;
const MAX_VALUE: usize = 384;

impl Engine {
    /// `CreateGrant`. Effective at once, with its token and without.
    pub fn create_grant(&self, caller: &Caller, request: CreateGrantRequest) -> Result<CreateGrantResponse, KmsError> {
        let parameters = json!({
            "keyId": request.key_id, "granteePrincipal": request.grantee_principal,
            "retiringPrincipal": request.retiring_principal, "operations": request.operations,
            "constraints": request.constraints, "name": request.name,
            "granteeServicePrincipal": request.grantee_service_principal,
            "retiringServicePrincipal": request.retiring_service_principal,
        });
        self.call(caller, ("CreateGrant", Changes), parameters, |call| {
            let (grantee, retiring) = check(&request)?;
            let operations: Vec<GrantOperation> =
                request.operations.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
            let constraints = request.constraints.clone().filter(|constraints| *constraints != Default::default());
            let none = GrantConstraints::default();
            let terms = Terms { operations: &operations, constraints: constraints.as_ref().unwrap_or(&none) };
            let context = all_pairs(terms.constraints);
            call.change(|call, change| {
                let access = access(&request, terms, &context);
                let key = call.key(change.snapshot(), &request.key_id, Forms::Key, access)?;
                grantable(call, &key)?;
                fits(&key, &terms)?;
                let record = GrantRecord {
                    region: key.record.region.clone(),
                    key_id: key.record.key_id.clone(),
                    grant_id: HEXLOWER.encode(&random::<32>(&*call.shared.entropy)),
                    name: request.name.clone(),
                    created: call.now,
                    issuing_account: call.caller.account().to_string(),
                    grantee,
                    retiring,
                    operations: operations.clone(),
                    constraints: constraints.clone(),
                };
                let key_row = record.key_row();
                let same = |other: &&Arc<GrantRecord>| {
                    GrantRecord { grant_id: record.grant_id.clone(), created: record.created, ..(***other).clone() }
                        == record
                };
                let known =
                    request.name.as_ref().and_then(|name| change.snapshot().grants_named(&key_row, name).find(same));
                let grant_id = match known {
                    Some(known) => known.grant_id.clone(),
                    None => {
                        let present = below(&change.snapshot().grants, &format!("{key_row}/"), None).count();
                        let most = call.shared.resources().grants_per_key;
                        if present >= most {
                            let text = format!("The key {} has {most} grants, which is its quota.", key.arn);
                            return Err(KmsError::LimitExceeded(text));
                        }
                        let grant_id = record.grant_id.clone();
                        change.put(&record.row_id(), record);
                        grant_id
                    }
                };
                if request.dry_run {
                    return Err(KmsError::DryRun);
                }
                call.response = json!({ "grantId": grant_id, "keyId": key.arn.as_str() }).into();
                let grant_token = seal_token(call.shared, &grant_row_id(&key_row, &grant_id));
                Ok(CreateGrantResponse { grant_token, grant_id })
            })
        })
    }

    /// `ListGrants`: the grants of a key.
    pub fn list_grants(&self, caller: &Caller, request: ListGrantsRequest) -> Result<ListGrantsResponse, KmsError> {
        let parameters = json!({
            "keyId": request.key_id, "grantId": request.grant_id, "granteePrincipal": request.grantee_principal,
            "granteeServicePrincipal": request.grantee_service_principal, "limit": request.limit,
        });
        self.call(caller, ("ListGrants", ReadOnly), parameters, |call| {
            members!(request: key_id, grant_id, grantee_principal, grantee_service_principal, limit, marker)?;
            if let Some(id) = &request.grant_id {
                check_grant_id(id)?;
            }
            let snapshot = call.snapshot()?;
            let key = call.key(&snapshot, &request.key_id, Forms::Key, "ListGrants")?;
            let wanted = |grant: &GrantRecord| {
                let is = |wanted: &Option<String>, found: Option<&str>| wanted.is_none() || wanted.as_deref() == found;
                is(&request.grant_id, Some(&grant.grant_id))
                    && is(&request.grantee_principal, grant.grantee.principal())
                    && is(&request.grantee_service_principal, grant.grantee.service())
            };
            let filter = format!(
                "{} {:?} {:?} {:?}",
                key.arn, request.grant_id, request.grantee_principal, request.grantee_service_principal
            );
            let pager = Pager {
                operation: "ListGrants",
                filter: &filter,
                limit: request.limit,
                default: 50,
                marker: request.marker.as_deref(),
            };
            let prefix = format!("{}/", key_row_id(&key.record.region, &key.record.key_id));
            let page = pager.page_from(call, |after| {
                let all = below(&snapshot.grants, &prefix, after.as_deref());
                all.filter(|(_, grant)| wanted(grant)).map(|(id, grant)| (id.to_string(), entry(&key, grant)))
            })?;
            Ok(answer(page))
        })
    }

    /// `ListRetirableGrants`: the grants of the Region that a principal of the caller's account, or a service, may
    /// retire. They may be on keys of other accounts.
    pub fn list_retirable_grants(
        &self,
        caller: &Caller,
        request: ListRetirableGrantsRequest,
    ) -> Result<ListGrantsResponse, KmsError> {
        const NAME: &str = "ListRetirableGrants";
        let parameters = json!({
            "retiringPrincipal": request.retiring_principal,
            "retiringServicePrincipal": request.retiring_service_principal, "limit": request.limit,
        });
        self.call(caller, (NAME, ReadOnly), parameters, |call| {
            members!(request: retiring_principal, retiring_service_principal, limit, marker)?;
            let party = party("RetiringPrincipal", &request.retiring_principal, &request.retiring_service_principal)?;
            let party = party.ok_or_else(|| one_of("RetiringPrincipal"))?;
            let snapshot = call.snapshot()?;
            call.permit(&snapshot, NAME, "*")?;
            if party.principal().is_some_and(|arn| arn.split(':').nth(4) != Some(caller.account().as_str())) {
                return Err(refusal(caller, NAME, "*", Reason::NoIdentityPolicy));
            }
            let filter = format!("{party:?}");
            let pager = Pager {
                operation: NAME,
                filter: &filter,
                limit: request.limit,
                default: 50,
                marker: request.marker.as_deref(),
            };
            let here = snapshot.grants_retirable_by(&party).filter(|grant| grant.region == caller.region().as_str());
            let entries = here.filter_map(|grant| {
                let key = snapshot.key(&grant.key_row())?;
                Some((grant.row_id(), entry(key, grant)))
            });
            Ok(answer(pager.page(call, entries)?))
        })
    }

    /// `RetireGrant`: by its retiring principal, by its grantee if it allows that, or by the account that issued it.
    pub fn retire_grant(&self, caller: &Caller, request: RetireGrantRequest) -> Result<(), KmsError> {
        const NAME: &str = "RetireGrant";
        let parameters = json!({ "keyId": request.key_id, "grantId": request.grant_id });
        self.call(caller, (NAME, Changes), parameters, |call| {
            let RetireGrantRequest { grant_token, key_id, grant_id, dry_run } = request;
            members!(grant_token, key_id, grant_id)?;
            let row_id = match (grant_token, key_id, grant_id) {
                (Some(token), None, None) => open_token(call.shared, &token).ok_or(KmsError::InvalidGrantToken)?,
                (None, Some(key_id), Some(grant_id)) => {
                    check_grant_id(&grant_id)?;
                    let arn: crate::types::KeyArn = key_id.parse().map_err(|_| KmsError::InvalidArn(key_id.clone()))?;
                    if arn.region() != caller.region().as_str() {
                        return Err(KmsError::NotFound(format!("Invalid arn {}", arn.region())));
                    }
                    let row_id = grant_row_id(&key_row_id(arn.region(), arn.key_id()), &grant_id);
                    let snapshot = call.snapshot()?;
                    let there = snapshot.grants.get(&*row_id).and_then(|grant| snapshot.key(&grant.key_row()));
                    if arn.account() != caller.account().as_str() && there.is_none_or(|key| key.arn != arn) {
                        return Err(denied(caller, NAME, arn.as_str()));
                    }
                    row_id
                }
                _ => {
                    let text = "Specify either a grant token, or a key ARN and a grant id.";
                    return Err(KmsError::Validation(text.into()));
                }
            };
            call.change(|call, change| {
                let found = change.snapshot().grants.get(&*row_id).cloned();
                let found = found.and_then(|grant| Some((change.snapshot().key(&grant.key_row())?.clone(), grant)));
                let (key, grant) = found.ok_or_else(|| no_grant(&row_id))?;
                authorise_retirement(call, change.snapshot(), &key, &grant)?;
                if dry_run {
                    return Err(KmsError::DryRun);
                }
                call.response = json!({ "keyId": key.arn.as_str(), "grantId": grant.grant_id }).into();
                change.delete::<GrantRecord>(&row_id);
                Ok(())
            })
        })
    }

    /// `RevokeGrant`. Takes effect in every process at its next call.
    pub fn revoke_grant(&self, caller: &Caller, request: RevokeGrantRequest) -> Result<(), KmsError> {
        let RevokeGrantRequest { key_id, grant_id, dry_run } = request;
        let parameters = json!({ "keyId": key_id, "grantId": grant_id });
        let legal = members!(key_id, grant_id).and_then(|()| check_grant_id(&grant_id));
        self.edit_key(caller, "RevokeGrant", legal, parameters, &key_id, |call, change, key| {
            let row_id = grant_row_id(&key_row_id(&key.record.region, &key.record.key_id), &grant_id);
            if !change.snapshot().grants.contains_key(&*row_id) {
                return Err(no_grant(&row_id));
            }
            if dry_run {
                return Err(KmsError::DryRun);
            }
            call.response = json!({ "keyId": key.arn.as_str(), "grantId": grant_id }).into();
            change.delete::<GrantRecord>(&row_id);
            Ok(())
        })
    }
}

fn no_grant(row_id: &str) -> KmsError {
    let grant_id = row_id.rsplit('/').next().unwrap_or(row_id);
    KmsError::NotFound(format!("Grant ID {grant_id} not found"))
}

fn check_grant_id(id: &str) -> Result<(), KmsError> {
    match HEXLOWER.decode(id.as_bytes()) {
        Ok(bytes) if bytes.len() == 32 => Ok(()),
        _ => Err(KmsError::InvalidGrantId),
    }
}

fn one_of(member: &str) -> KmsError {
    let service = member.replace("Principal", "ServicePrincipal");
    KmsError::Validation(format!("Specify either {member} or {service}."))
}

/// The principal or the service that a request names.
fn party(member: &str, principal: &Option<String>, service: &Option<String>) -> Result<Option<Party>, KmsError> {
    match (principal, service) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(one_of(member)),
        (Some(arn), None) if arn.starts_with("arn:") && policy::is_principal(arn) => {
            Ok(Some(Party::Principal(arn.clone())))
        }
        (Some(arn), None) => Err(KmsError::InvalidArn(arn.clone())),
        (None, Some(name)) if name.contains('.') && name.len() <= 256 => Ok(Some(Party::Service(name.clone()))),
        (None, Some(name)) => Err(KmsError::Validation(format!("{name} is not the name of a service."))),
    }
}

/// What a request for a grant must be like, whatever key it is about; grantee and retiring principal.
fn check(request: &CreateGrantRequest) -> Result<(Party, Option<Party>), KmsError> {
    members!(request: key_id, grantee_principal, retiring_principal, operations, constraints, grant_tokens, name,
        grantee_service_principal, retiring_service_principal)?;
    let grantee = party("GranteePrincipal", &request.grantee_principal, &request.grantee_service_principal)?;
    let grantee = grantee.ok_or_else(|| one_of("GranteePrincipal"))?;
    let retiring = party("RetiringPrincipal", &request.retiring_principal, &request.retiring_service_principal)?;
    let refuse = |text: &str| Err(KmsError::Validation(text.to_owned()));
    let none = GrantConstraints::default();
    let constraints = request.constraints.as_ref().unwrap_or(&none);
    if grantee.service().is_some() && (constraints.source_arn.is_none() || retiring.is_none()) {
        return refuse("A grant to a service principal needs a SourceArn constraint and a retiring principal.");
    }
    for context in
        [&constraints.encryption_context_equals, &constraints.encryption_context_subset].into_iter().flatten()
    {
        if context.pairs().len() > MAX_PAIRS {
            return refuse("A grant constraint can have at most 8 encryption context pairs.");
        }
        if context.pairs().any(|(_, value)| value.chars().count() > MAX_VALUE) {
            return refuse("A value in a grant constraint can have at most 384 characters.");
        }
    }
    Ok((grantee, retiring))
}

fn all_pairs(constraints: &GrantConstraints) -> EncryptionContext {
    let both = [&constraints.encryption_context_subset, &constraints.encryption_context_equals];
    let pairs = both.into_iter().flatten().flat_map(EncryptionContext::pairs);
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn access<'a>(request: &'a CreateGrantRequest, terms: Terms<'a>, context: &'a EncryptionContext) -> Access<'a> {
    let constraints = terms.constraints;
    let mut access = Access::to("CreateGrant")
        .tokens(&request.grant_tokens)
        .context(context)
        .creating(terms)
        .with_some("kms:GranteePrincipal", request.grantee_principal.as_deref())
        .with_some("kms:RetiringPrincipal", request.retiring_principal.as_deref())
        .with_some("kms:GranteeServicePrincipal", request.grantee_service_principal.as_deref())
        .with_some("kms:RetiringServicePrincipal", request.retiring_service_principal.as_deref())
        .with_some("kms:GrantConstraintSourceArn", constraints.source_arn.as_deref());
    access = with_constraint_types(access, constraints);
    for operation in terms.operations {
        access = access.with("kms:GrantOperations", operation.as_str());
    }
    access
}

/// AWS names the constraints by encryption context only.
fn with_constraint_types<'a>(access: Access<'a>, constraints: &GrantConstraints) -> Access<'a> {
    let equals = constraints.encryption_context_equals.as_ref().map(|_| "EncryptionContextEquals");
    let subset = constraints.encryption_context_subset.as_ref().map(|_| "EncryptionContextSubset");
    access.with_some("kms:GrantConstraintType", equals).with_some("kms:GrantConstraintType", subset)
}

/// Refuses keys in a state in which they get no new grants.
fn grantable(call: &Call<'_>, key: &KeyEntry) -> Result<(), KmsError> {
    if key.state() == KeyState::Unavailable { Ok(()) } else { call.usable(key) }
}

/// Refuses what the key cannot do.
fn fits(key: &KeyEntry, terms: &Terms<'_>) -> Result<(), KmsError> {
    use GrantOperation::*;
    let record = &key.record;
    let symmetric = record.spec == KeySpec::SymmetricDefault;
    for operation in terms.operations {
        let fits = match operation {
            CreateGrant | RetireGrant | DescribeKey => true,
            Encrypt | Decrypt | ReEncryptFrom | ReEncryptTo => record.usage == KeyUsage::EncryptDecrypt,
            GenerateDataKey
            | GenerateDataKeyWithoutPlaintext
            | GenerateDataKeyPair
            | GenerateDataKeyPairWithoutPlaintext => symmetric,
            Sign | Verify => record.usage == KeyUsage::SignVerify,
            GenerateMac | VerifyMac => record.usage == KeyUsage::GenerateVerifyMac,
            DeriveSharedSecret => record.usage == KeyUsage::KeyAgreement,
            Encapsulate | Decapsulate => record.usage == KeyUsage::EncapsulateDecapsulate,
            GetPublicKey => !symmetric && record.usage != KeyUsage::GenerateVerifyMac,
        };
        if !fits {
            let (spec, usage) = (record.spec, record.usage);
            let text =
                format!("Operation {operation} is not valid for a key with key spec {spec} and key usage {usage}.");
            return Err(KmsError::Validation(text));
        }
    }
    let by_context =
        terms.constraints.encryption_context_equals.is_some() || terms.constraints.encryption_context_subset.is_some();
    if by_context && !symmetric {
        let text = "Encryption context constraints are valid for symmetric encryption keys only.";
        return Err(KmsError::Validation(text.into()));
    }
    Ok(())
}

/// Refuses who may not retire `grant`. Key policies cannot permit it, but they can deny it.
fn authorise_retirement(
    call: &mut Call<'_>,
    snapshot: &Snapshot,
    key: &KeyEntry,
    grant: &GrantRecord,
) -> Result<(), KmsError> {
    call.concerns(key);
    // The request says nothing but which grant: conditions look at its constraints.
    let none = GrantConstraints::default();
    let constraints = grant.constraints.as_ref().unwrap_or(&none);
    let context = all_pairs(constraints);
    let access = with_constraint_types(Access::to("RetireGrant").context(&context), constraints);
    let facts = Facts { snapshot, caller: call.caller, now: call.now, access: &access, key: Some(key) };
    let decision = match facts.decide_on_key(&call.shared.standard.of(key), None) {
        Decision::Denied(reason) if reason.is_explicit() => Decision::Denied(reason),
        _ => retirement(&facts, key, grant),
    };
    call.answer(decision, "RetireGrant", key.arn.as_str())
}

/// Whether the caller may retire `grant` of `key`, if no statement denies it; within the issuing account, identity
/// policies permit it.
pub fn retirement(facts: &Facts<'_>, key: &KeyEntry, grant: &GrantRecord) -> Decision {
    let caller = facts.caller;
    let reach_of = |party: &Party| match party {
        Party::Principal(arn) => policy::reach(arn, caller.principal()),
        Party::Service(name) if caller.service() == Some(name) => Reach::Caller,
        Party::Service(_) => Reach::None,
    };
    let by_grantee = grant.operations.contains(&GrantOperation::RetireGrant).then_some(&grant.grantee);
    let issuer = Party::Principal(format!("arn:aws:iam::{}:root", grant.issuing_account));
    let parties = [grant.retiring.as_ref(), by_grantee, Some(&issuer)];
    match parties.into_iter().flatten().map(reach_of).max().unwrap_or(Reach::None) {
        Reach::Caller => Decision::Allowed { grant: Some(grant.grant_id.clone()) },
        Reach::Account => facts.decide_by_identity(key.arn.as_str(), None),
        Reach::None => Decision::Denied(Reason::NoKeyPolicy),
    }
}

fn entry(key: &KeyEntry, grant: &GrantRecord) -> GrantListEntry {
    let name = |party: Option<&Party>, of: fn(&Party) -> Option<&str>| party.and_then(of).map(str::to_owned);
    GrantListEntry {
        key_id: key.arn.clone(),
        grant_id: grant.grant_id.clone(),
        name: grant.name.clone().unwrap_or_default(),
        creation_date: grant.created,
        grantee_principal: name(Some(&grant.grantee), Party::principal),
        retiring_principal: name(grant.retiring.as_ref(), Party::principal),
        grantee_service_principal: name(Some(&grant.grantee), Party::service),
        retiring_service_principal: name(grant.retiring.as_ref(), Party::service),
        issuing_account: format!("arn:aws:iam::{}:root", grant.issuing_account),
        operations: grant.operations.clone(),
        constraints: grant.constraints.clone(),
    }
}

fn answer(page: Page<GrantListEntry>) -> ListGrantsResponse {
    ListGrantsResponse { truncated: page.next.is_some(), next_marker: page.next, grants: page.items }
}
