//! A state machine of what shares and lends: imported material, multi-Region keys, grants and policies, under a clock that
//! goes forward, jumps and goes back. The engine and a plain model must agree after every step.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::import::Importer;
use super::policies::{ACCOUNT, user};
use super::*;

const REGIONS: [&str; 3] = ["us-east-1", "eu-west-1", "ap-south-1"];
/// The material that is imported first, and another.
const MATERIALS: [[u8; 32]; 2] = [[1; 32], [2; 32]];

#[derive(Debug, Clone)]
enum Step {
    Import { material: usize, valid_days: Option<u32> },
    Forget,
    UseImported,
    Replicate(usize),
    Promote(usize),
    Schedule(usize),
    Cancel(usize),
    Rotate,
    Seal(usize),
    Open(usize, usize),
    Grant(bool),
    Revoke(usize),
    Policy(Policy),
    Borrow(bool),
    Advance(u32),
    Back(u64),
    Reopen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Default,
    NamesForEncrypt,
    DeniesEncrypt,
}

fn step() -> impl Strategy<Value = Step> {
    let region = || 0..REGIONS.len();
    prop_oneof![
        2 => (0..2_usize, proptest::option::of(1..=20_u32))
            .prop_map(|(material, valid_days)| Step::Import { material, valid_days }),
        1 => Just(Step::Forget),
        2 => Just(Step::UseImported),
        3 => region().prop_map(Step::Replicate),
        2 => region().prop_map(Step::Promote),
        1 => region().prop_map(Step::Schedule),
        1 => region().prop_map(Step::Cancel),
        2 => Just(Step::Rotate),
        2 => region().prop_map(Step::Seal),
        4 => (0..8_usize, region()).prop_map(|(blob, region)| Step::Open(blob, region)),
        2 => any::<bool>().prop_map(Step::Grant),
        1 => (0..3_usize).prop_map(Step::Revoke),
        2 => prop_oneof![Just(Policy::Default), Just(Policy::NamesForEncrypt), Just(Policy::DeniesEncrypt)]
            .prop_map(Step::Policy),
        4 => any::<bool>().prop_map(Step::Borrow),
        3 => (1..=20_u32).prop_map(Step::Advance),
        1 => (1..=72_u64).prop_map(Step::Back),
        1 => Just(Step::Reopen),
    ]
}

/// A multi-Region key in one Region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Local {
    Absent,
    Enabled,
    Disabled,
    Pending(Timestamp),
    Gone,
}

impl Local {
    fn refusal(self) -> Option<&'static str> {
        match self {
            Self::Enabled => None,
            Self::Disabled => Some("DisabledException"),
            Self::Pending(_) => Some("KMSInvalidStateException"),
            Self::Gone | Self::Absent => Some("NotFoundException"),
        }
    }

    fn is_there(self) -> bool {
        !matches!(self, Self::Absent | Self::Gone)
    }
}

struct Model {
    /// The material that was imported first, and until when it is there: `None`, for good.
    imported: Option<usize>,
    present: Option<Option<Timestamp>>,
    /// The latest time ever seen: material expires by it.
    latest: Timestamp,
    primary: usize,
    locals: [Local; REGIONS.len()],
    rotations: usize,
    blobs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Ids of grants, and whether they are for encryption; else for decryption.
    grants: BTreeMap<String, bool>,
    policy: Policy,
}

impl Model {
    fn pass(&mut self, now: Timestamp) {
        self.latest = self.latest.max(now);
        self.present = self.present.filter(|until| until.is_none_or(|until| self.latest < until));
        for local in &mut self.locals {
            if matches!(local, Local::Pending(end) if now >= *end) {
                *local = Local::Gone;
            }
        }
    }

    fn lends(&self, encrypt: bool) -> bool {
        let granted = self.grants.values().any(|of| *of == encrypt);
        match self.policy {
            Policy::DeniesEncrypt if encrypt => false,
            Policy::NamesForEncrypt if encrypt => true,
            _ => granted,
        }
    }
}

fn agree<T: std::fmt::Debug>(outcome: Result<T, KmsError>, expected: Option<&str>) -> Result<Option<T>, TestCaseError> {
    match (outcome, expected) {
        (Ok(answer), None) => Ok(Some(answer)),
        (Err(error), Some(code)) if error.code() == code => Ok(None),
        (outcome, expected) => Err(TestCaseError::fail(format!("{outcome:?} where the model has {expected:?}"))),
    }
}

fn document(policy: Policy, name: &str) -> String {
    let statement = |effect: &str, arn: &str, action: &str| serde_json::json!({"Effect": effect, "Principal": {"AWS": arn}, "Action": action, "Resource": "*"});
    let own = statement("Allow", &format!("arn:aws:iam::{ACCOUNT}:root"), "kms:*");
    let other = match policy {
        Policy::Default => None,
        Policy::NamesForEncrypt => Some(statement("Allow", name, "kms:Encrypt")),
        Policy::DeniesEncrypt => Some(statement("Deny", name, "kms:Encrypt")),
    };
    let statements: Vec<_> = [own].into_iter().chain(other).collect();
    serde_json::json!({"Version": "2012-10-17", "Statement": statements}).to_string()
}

/// The key with imported material, the multi-Region key, the key that is lent, and who borrows it.
struct Subjects {
    external: String,
    multi: String,
    lent: String,
    poor: Caller,
}

fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut bench = Bench::new();
    let make = |request| bench.engine.create_key(&bench.alice, request).expect("created").key_metadata.key_id;
    let subjects = Subjects {
        external: make(CreateKeyRequest { origin: Some(Origin::External), ..Default::default() }),
        multi: make(CreateKeyRequest { multi_region: true, ..Default::default() }),
        lent: make(CreateKeyRequest::default()),
        poor: user(&bench, ACCOUNT, "poor", None),
    };
    let lent_blob = bench.encrypt(&subjects.lent, b"lent").expect("encrypted");
    let mut model = Model {
        imported: None,
        present: None,
        latest: bench.clock.now(),
        primary: 0,
        locals: [Local::Enabled, Local::Absent, Local::Absent],
        rotations: 0,
        blobs: Vec::new(),
        grants: BTreeMap::new(),
        policy: Policy::Default,
    };
    for (number, step) in steps.into_iter().enumerate() {
        take(&mut bench, &subjects, &mut model, (number, step), &lent_blob)?;
        check(&bench, &subjects, &model)?;
    }
    prop_assert_eq!(bench.engine.audit().verify().expect("verified").first_break, None);
    Ok(())
}

fn take(
    bench: &mut Bench,
    subjects: &Subjects,
    model: &mut Model,
    (number, step): (usize, Step),
    lent_blob: &[u8],
) -> Result<(), TestCaseError> {
    let Subjects { external, multi, lent, poor } = subjects;
    let (engine, alice, now) = (bench.engine.clone(), bench.alice.clone(), bench.clock.now());
    let at = |region: usize| Caller::local(alice.principal().clone(), REGIONS[region].parse().expect("a Region"));
    match step {
        Step::Import { material, valid_days } => {
            let valid_to = valid_days.map(|days| model.latest.max(now).plus_days(days));
            let expected = model.imported.filter(|first| *first != material).map(|_| "IncorrectKeyMaterialException");
            let imported = Importer::new(bench, &alice).import(external, &MATERIALS[material], |request| {
                if valid_to.is_some() {
                    (request.expiration_model, request.valid_to) = (None, valid_to);
                }
            });
            if agree(imported, expected)?.is_some() {
                (model.imported, model.present) = (Some(material), Some(valid_to));
            }
        }
        Step::Forget => {
            agree(Importer::new(bench, &alice).forget(external, None), None)?;
            model.present = None;
        }
        Step::UseImported => {
            let expected = if model.present.is_some() { None } else { Some("KMSInvalidStateException") };
            agree(bench.encrypt(external, b"x"), expected)?;
        }
        Step::Replicate(region) => {
            let there = model.locals[region].is_there();
            let expected = model.locals[model.primary].refusal().or(there.then_some("AlreadyExistsException"));
            let replica_region = REGIONS[region].to_owned();
            let request = ReplicateKeyRequest { key_id: multi.clone(), replica_region, ..Default::default() };
            if agree(engine.replicate_key(&at(model.primary), request), expected)?.is_some() {
                model.locals[region] = Local::Enabled;
            }
        }
        Step::Promote(region) => {
            let same = (region == model.primary).then_some("ValidationException");
            let expected = model.locals[model.primary].refusal().or(same).or(model.locals[region].refusal());
            let request =
                UpdatePrimaryRegionRequest { key_id: multi.clone(), primary_region: REGIONS[region].to_owned() };
            if agree(engine.update_primary_region(&at(model.primary), request), expected)?.is_some() {
                model.primary = region;
            }
        }
        Step::Schedule(region) if region != model.primary => {
            let expected = model.locals[region].refusal().filter(|_| model.locals[region] != Local::Disabled);
            let request = ScheduleKeyDeletionRequest { key_id: multi.clone(), pending_window_in_days: Some(7) };
            if agree(engine.schedule_key_deletion(&at(region), request), expected)?.is_some() {
                model.locals[region] = Local::Pending(now.plus_days(7));
            }
        }
        Step::Cancel(region) if region != model.primary => {
            let expected = match model.locals[region] {
                Local::Pending(_) => None,
                Local::Absent | Local::Gone => Some("NotFoundException"),
                Local::Enabled | Local::Disabled => Some("KMSInvalidStateException"),
            };
            if agree(engine.cancel_key_deletion(&at(region), multi.as_str().into()), expected)?.is_some() {
                model.locals[region] = Local::Disabled;
            }
        }
        Step::Rotate => {
            let expected = model.locals[model.primary].refusal();
            let done = agree(engine.rotate_key_on_demand(&at(model.primary), multi.as_str().into()), expected)?;
            model.rotations += usize::from(done.is_some());
        }
        Step::Seal(region) => {
            let text = format!("text {number}").into_bytes();
            let sealed = encrypt(&engine, &at(region), multi, &text);
            model.blobs.extend(agree(sealed, model.locals[region].refusal())?.map(|blob| (blob, text)));
        }
        Step::Open(blob, region) if blob < model.blobs.len() => {
            let expected = match model.locals[region] {
                Local::Absent => Some("AccessDeniedException"),
                local => local.refusal(),
            };
            let (blob, text) = &model.blobs[blob];
            if let Some(plain) = agree(decrypt(&engine, &at(region), blob), expected)? {
                prop_assert_eq!(&plain, text);
            }
        }
        Step::Grant(for_encryption) => {
            let request = CreateGrantRequest {
                key_id: lent.clone(),
                grantee_principal: Some(poor.principal().arn().to_owned()),
                operations: vec![if for_encryption { GrantOperation::Encrypt } else { GrantOperation::Decrypt }],
                ..Default::default()
            };
            let made = engine.create_grant(&alice, request).expect("made");
            model.grants.insert(made.grant_id, for_encryption);
        }
        Step::Revoke(nth) => {
            let Some(grant_id) = model.grants.keys().nth(nth).cloned() else { return Ok(()) };
            model.grants.remove(&grant_id);
            let request = RevokeGrantRequest { key_id: lent.clone(), grant_id, ..Default::default() };
            engine.revoke_grant(&alice, request).expect("revoked");
        }
        Step::Policy(policy) => {
            let policy_document = document(policy, poor.principal().arn());
            let request = PutKeyPolicyRequest { key_id: lent.clone(), policy: policy_document, ..Default::default() };
            engine.put_key_policy(&alice, request).expect("put");
            model.policy = policy;
        }
        Step::Borrow(encrypting) => {
            let expected = if model.lends(encrypting) { None } else { Some("AccessDeniedException") };
            match encrypting {
                true => drop(agree(encrypt(&engine, poor, lent, b"x"), expected)?),
                false => drop(agree(decrypt(&engine, poor, lent_blob), expected)?),
            }
        }
        Step::Advance(days) => {
            bench.days(days);
            engine.maintain().expect("observed");
            // A jump counts when the clock has agreed with it for an hour.
            bench.hours(2);
            engine.maintain().expect("confirmed");
            model.pass(bench.clock.now());
        }
        Step::Back(hours) => {
            bench.clock.set(Timestamp::from_nanos(now.as_nanos() - hours as i64 * 3_600_000_000_000));
            engine.maintain().expect("observed");
        }
        Step::Reopen => {
            drop(engine);
            bench.engine = bench.another().expect("reopened");
        }
        _ => {}
    }
    Ok(())
}

fn check(bench: &Bench, subjects: &Subjects, model: &Model) -> Result<(), TestCaseError> {
    let imported = if model.present.is_some() { KeyState::Enabled } else { KeyState::PendingImport };
    prop_assert_eq!(bench.describe(&subjects.external).expect("there").key_state, imported);
    let there = |(region, local): (&'static str, Local)| local.is_there().then_some(region);
    let regions: Vec<&str> = REGIONS.into_iter().zip(model.locals).filter_map(there).collect();
    for (region, local) in REGIONS.into_iter().zip(model.locals).filter(|(_, local)| local.is_there()) {
        let caller = Caller::local(bench.alice.principal().clone(), region.parse().expect("a Region"));
        let request = DescribeKeyRequest { key_id: subjects.multi.clone(), ..Default::default() };
        let metadata = bench.engine.describe_key(&caller, request).expect("there").key_metadata;
        let expected = match local {
            Local::Enabled => KeyState::Enabled,
            Local::Disabled => KeyState::Disabled,
            _ => KeyState::PendingDeletion,
        };
        prop_assert_eq!(metadata.key_state, expected);
        let set = metadata.multi_region_configuration.expect("multi-Region");
        prop_assert_eq!(set.primary_key.region.as_str(), REGIONS[model.primary]);
        let mut all: Vec<&str> = set.replica_keys.iter().map(|key| key.region.as_str()).collect();
        all.push(REGIONS[model.primary]);
        all.sort_by_key(|region| REGIONS.iter().position(|known| known == region));
        prop_assert_eq!(&all, &regions);
        let request = ListKeyRotationsRequest { key_id: subjects.multi.clone(), ..Default::default() };
        let listed = bench.engine.list_key_rotations(&caller, request).expect("listed").rotations;
        prop_assert_eq!(listed.len(), model.rotations);
    }
    let request = ListGrantsRequest { key_id: subjects.lent.clone(), ..Default::default() };
    let grants = bench.engine.list_grants(&bench.alice, request).expect("listed").grants;
    prop_assert_eq!(grants.len(), model.grants.len());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn the_engine_agrees_with_the_model_of_what_shares_and_lends(steps in proptest::collection::vec(step(), 1..40)) {
        run(steps)?;
    }
}
