//! What decides about one call: the facts that conditions look at, the policies and the grants.

use std::borrow::Cow;
use std::collections::HashMap;

use super::authorise::Access;
use crate::kms::model::{Caller, KeyManager, PrincipalKind};
use crate::kms::policy::{
    self, ADMINISTRATOR_ACCESS, Attributes, Candidate, Decision, GrantRequest, KeyPolicy, Kind, Policy, Question,
    Reason, Request, Step, Terms,
};
use crate::kms::store::{KeyEntry, Party, Snapshot, key_row_id};
use crate::sync::{Arc, OnceLock, RwLock, read, write};
use crate::types::Timestamp;

/// Operations on keys that are possible from another account (KMS.md section 3); all others never are, whatever the key
/// policy says.
const CROSS_ACCOUNT: [&str; 22] = [
    "CreateGrant",
    "Decapsulate",
    "Decrypt",
    "DeriveSharedSecret",
    "DescribeKey",
    "Encapsulate",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "GetKeyRotationStatus",
    "GetPublicKey",
    "ListGrants",
    "ReEncryptFrom",
    "ReEncryptTo",
    "RetireGrant",
    "RevokeGrant",
    "Sign",
    "Verify",
    "VerifyMac",
];
fn administrator_access() -> &'static Policy {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    POLICY.get_or_init(|| Policy::parse(ADMINISTRATOR_ACCESS.1, Kind::Identity).expect("a policy"))
}

/// The policies of keys that have none of their own, parsed once: by account for customer managed keys, by ARN for AWS
/// managed ones.
#[derive(Default)]
pub struct StandardPolicies(RwLock<HashMap<String, Arc<Policy>>>);

impl StandardPolicies {
    /// The policy that counts for `key`.
    pub fn of(&self, key: &KeyEntry) -> Arc<Policy> {
        if let Some(own) = key.policy() {
            return own.clone();
        }
        let name = match key.manager {
            KeyManager::Customer => key.account.as_str(),
            KeyManager::Aws => key.arn.as_str(),
        };
        if let Some(known) = read(&self.0).get(name) {
            return known.clone();
        }
        let parsed = Policy::parse(&standard_document(key), Kind::Key).expect("a policy");
        write(&self.0).entry(name.to_owned()).or_insert_with(|| Arc::new(parsed)).clone()
    }
}

/// The key policy as it was put, or the one that a key without has.
pub fn document(key: &KeyEntry) -> String {
    key.record.policy.clone().unwrap_or_else(|| standard_document(key))
}

fn standard_document(key: &KeyEntry) -> String {
    let record = &key.record;
    match &record.service {
        Some(service) => policy::managed_document(&record.account, &record.region, service),
        None => policy::default_document(&record.account),
    }
}

/// One request and everything that is known when it is judged.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    pub snapshot: &'a Snapshot,
    pub caller: &'a Caller,
    pub now: Timestamp,
    pub access: &'a Access<'a>,
    /// The key, if it is about one.
    pub key: Option<&'a KeyEntry>,
}

impl Facts<'_> {
    /// Decides by the key's policy, identity policies and grants.
    pub fn decide_on_key(&self, policy: &Policy, observe: Option<&mut dyn FnMut(&Step<'_>)>) -> Decision {
        let key = self.key.expect("asked about a key");
        let foreign = *self.caller.account() != key.account;
        if foreign && !CROSS_ACCOUNT.contains(&self.access.action) {
            return Decision::Denied(Reason::ForeignManagement);
        }
        let grants = || self.candidates(key);
        let key_policy = KeyPolicy { owner: key.account.as_str(), policy, grants: &grants };
        self.decide(key.arn.as_str(), Some(key_policy), observe)
    }

    /// Decides by identity policies alone.
    pub fn decide_by_identity(&self, resource: &str, observe: Option<&mut dyn FnMut(&Step<'_>)>) -> Decision {
        self.decide(resource, None, observe)
    }

    fn decide(
        &self,
        resource: &str,
        key: Option<KeyPolicy<'_>>,
        observe: Option<&mut dyn FnMut(&Step<'_>)>,
    ) -> Decision {
        let principal = self.caller.principal();
        let own: Vec<(&str, &Policy)>;
        let identity: &[(&str, &Policy)] = match self.snapshot.principals.get(principal.arn()) {
            Some(record) => {
                own = record.policies().collect();
                &own
            }
            None if self.caller.is_local() || principal.kind() == PrincipalKind::Root => {
                &[(ADMINISTRATOR_ACCESS.0, administrator_access())]
            }
            None => &[],
        };
        let request = Request { principal, action: self.access.action, resource, attributes: self };
        policy::decide(&Question { request: &request, key, identity }, observe)
    }

    /// The grants to the caller, to its account, or to the service that calls for it.
    fn candidates(&self, key: &KeyEntry) -> Vec<Candidate> {
        let caller = self.caller.principal();
        let key_row = key_row_id(&key.record.region, &key.record.key_id);
        let mut parties = vec![Party::Principal(format!("arn:aws:iam::{}:root", caller.account()))];
        if caller.kind() != PrincipalKind::Root {
            parties.push(Party::Principal(caller.arn().to_owned()));
        }
        parties.extend(self.caller.service().map(|service| Party::Service(service.to_owned())));
        let request = GrantRequest {
            action: self.access.action,
            context: self.access.context,
            source_arn: self.caller.source_arn(),
            child: self.access.child,
        };
        let mut all = Vec::new();
        for party in &parties {
            for grant in self.snapshot.grants_to(&key_row, party) {
                let none = Default::default();
                let constraints = grant.constraints.as_ref().unwrap_or(&none);
                let terms = Terms { operations: &grant.operations, constraints };
                let reach = match party {
                    Party::Principal(arn) => policy::reach(arn, caller),
                    Party::Service(_) => policy::Reach::Caller,
                };
                all.push(Candidate { id: grant.grant_id.clone(), reach, refusal: terms.refusal(&request) });
            }
        }
        all
    }

    fn of_key(&self, name: &str) -> Vec<Cow<'_, str>> {
        let Some(key) = self.key else { return Vec::new() };
        let record = &key.record;
        match name {
            "kms:keyspec" => one(record.spec.as_str()),
            "kms:keyusage" => one(record.usage.as_str()),
            "aws:resourceaccount" => one(key.account.as_str()),
            "kms:keyorigin" => one(record.origin.as_str()),
            "kms:multiregion" => one(flag(record.multi_region.is_some())),
            "kms:multiregionkeytype" => match &record.multi_region {
                Some(related) => one(related.multi_region_key_type.as_str()),
                None => Vec::new(),
            },
            "kms:resourcealiases" => {
                let key_row = key_row_id(&record.region, &record.key_id);
                let aliases = self.snapshot.aliases_of(&key_row);
                aliases.map(|id| self.snapshot.aliases[&**id].name.as_str().into()).collect()
            }
            _ => {
                let tag = name.strip_prefix("aws:resourcetag/");
                let tags = record.tags.iter().filter(|tag_| tag.is_some_and(|tag| tag_.tag_key.to_lowercase() == *tag));
                tags.map(|tag| tag.tag_value.as_str().into()).collect()
            }
        }
    }
}

impl Facts<'_> {
    /// The tag of the caller's user or role; `wanted` is its name in lower case.
    fn of_principal(&self, wanted: &str) -> Vec<Cow<'_, str>> {
        let record = self.snapshot.principals.get(self.caller.principal().arn());
        let tags = record.into_iter().flat_map(|record| &record.tags);
        tags.filter(|tag| tag.tag_key.to_lowercase() == wanted).map(|tag| tag.tag_value.as_str().into()).collect()
    }
}

fn one(value: &str) -> Vec<Cow<'_, str>> {
    vec![value.into()]
}

/// A boolean as conditions write it.
pub fn flag(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

impl Attributes for Facts<'_> {
    fn values(&self, key: &str) -> Vec<Cow<'_, str>> {
        // AWS's earlier names.
        let key = match key {
            "kms:customermasterkeyspec" => "kms:keyspec",
            "kms:customermasterkeyusage" => "kms:keyusage",
            key => key,
        };
        let of_request = self.access.attributes.iter().filter(|(name, _)| name.to_lowercase() == key);
        let of_request: Vec<Cow<'_, str>> = of_request.map(|(_, value)| Cow::Borrowed(&**value)).collect();
        if !of_request.is_empty() {
            return of_request;
        }
        let caller = self.caller;
        let context = || self.access.context.into_iter().flat_map(|context| context.pairs());
        if let Some(wanted) = key.strip_prefix("kms:encryptioncontext:") {
            return context()
                .filter(|(name, _)| name.to_lowercase() == wanted)
                .map(|(_, value)| value.into())
                .collect();
        }
        match key {
            "kms:encryptioncontextkeys" => context().map(|(name, _)| name.into()).collect(),
            "kms:calleraccount" | "aws:principalaccount" => one(caller.account().as_str()),
            "kms:viaservice" => caller.service().map(Cow::from).into_iter().collect(),
            "aws:viaawsservice" => one(flag(caller.service().is_some())),
            // Services call for principals here, never for themselves.
            "aws:principalisawsservice" => one(flag(false)),
            "kms:grantisforawsresource"
                if ["CreateGrant", "ListGrants", "RevokeGrant"].contains(&self.access.action) =>
            {
                one(flag(caller.service().is_some()))
            }
            "aws:principalarn" => one(caller.principal().arn()),
            "aws:principaltype" => one(match caller.principal().kind() {
                PrincipalKind::Root => "Account",
                PrincipalKind::User => "User",
                PrincipalKind::Role => "AssumedRole",
            }),
            "aws:userid" => one(caller.principal().id()),
            "aws:username" if caller.principal().kind() == PrincipalKind::User => one(caller.principal().name()),
            "aws:requestedregion" => one(caller.region().as_str()),
            "aws:sourceip" => one(caller.source_ip()),
            "aws:useragent" => one(caller.user_agent()),
            "aws:securetransport" => {
                caller.is_encrypted().map(|encrypted| flag(encrypted).into()).into_iter().collect()
            }
            "aws:sourcearn" => caller.source_arn().map(Cow::from).into_iter().collect(),
            "aws:currenttime" => vec![self.now.to_string().into()],
            "aws:epochtime" => vec![self.now.as_secs().to_string().into()],
            _ => match key.strip_prefix("aws:principaltag/") {
                Some(wanted) => self.of_principal(wanted),
                None => self.of_key(key),
            },
        }
    }
}
