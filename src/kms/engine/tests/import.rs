//! Imported key material: tokens, the same material again, expiry, rotation.

use super::deletion::{copy_database, restore_database};
use super::records::events;
use super::*;
use crate::kms::wrapping::tests::wrap;
use WrappingAlgorithm::*;

/// A user who imports.
pub struct Importer<'a> {
    engine: &'a Engine,
    caller: Caller,
}

impl<'a> Importer<'a> {
    pub fn new(bench: &'a Bench, caller: &Caller) -> Self {
        Self { engine: &bench.engine, caller: caller.clone() }
    }

    fn parameters(&self, key: &str) -> GetParametersForImportResponse {
        self.parameters_with(key, RsaesOaepSha256, WrappingKeySpec::Rsa2048).expect("parameters")
    }

    fn parameters_with(
        &self,
        key: &str,
        wrapping_algorithm: WrappingAlgorithm,
        wrapping_key_spec: WrappingKeySpec,
    ) -> Result<GetParametersForImportResponse, KmsError> {
        let request = GetParametersForImportRequest { key_id: key.to_owned(), wrapping_algorithm, wrapping_key_spec };
        self.engine.get_parameters_for_import(&self.caller, request)
    }

    /// Imports `material` for good, or as `edit` says.
    pub fn import(
        &self,
        key: &str,
        material: &[u8],
        edit: impl FnOnce(&mut ImportKeyMaterialRequest),
    ) -> Result<Option<String>, KmsError> {
        self.import_with(&self.parameters(key), key, material, edit)
    }

    fn import_with(
        &self,
        parameters: &GetParametersForImportResponse,
        key: &str,
        material: &[u8],
        edit: impl FnOnce(&mut ImportKeyMaterialRequest),
    ) -> Result<Option<String>, KmsError> {
        let mut request = ImportKeyMaterialRequest {
            key_id: key.to_owned(),
            import_token: parameters.import_token.clone(),
            encrypted_key_material: wrap(&parameters.public_key, RsaesOaepSha256, material),
            expiration_model: Some(ExpirationModel::KeyMaterialDoesNotExpire),
            ..Default::default()
        };
        edit(&mut request);
        self.engine.import_key_material(&self.caller, request).map(|answer| answer.key_material_id)
    }

    pub fn forget(&self, key: &str, material: Option<&String>) -> Result<KeyMaterialResponse, KmsError> {
        let request = DeleteImportedKeyMaterialRequest { key_id: key.to_owned(), key_material_id: material.cloned() };
        self.engine.delete_imported_key_material(&self.caller, request)
    }

    /// (material id, state, whether it is there) of every material.
    pub fn history(&self, key: &str) -> Vec<(String, KeyMaterialState, ImportState)> {
        let all = ListKeyRotationsRequest {
            key_id: key.to_owned(),
            include_key_material: Some(IncludeKeyMaterial::AllKeyMaterial),
            ..Default::default()
        };
        let listed = self.engine.list_key_rotations(&self.caller, all).expect("listed").rotations;
        let row = |row: RotationsListEntry| {
            (row.key_material_id, row.key_material_state.expect("asked for"), row.import_state.expect("imported"))
        };
        listed.into_iter().map(row).collect()
    }
}

impl Bench {
    fn external(&self) -> String {
        let request = CreateKeyRequest { origin: Some(Origin::External), ..Default::default() };
        self.engine.create_key(&self.alice, request).expect("created").key_metadata.key_id
    }

    fn state(&self, key: &str) -> KeyState {
        self.describe(key).expect("described").key_state
    }

    fn importer(&self) -> Importer<'_> {
        Importer::new(self, &self.alice)
    }
}

fn expiring(at: Timestamp) -> impl FnOnce(&mut ImportKeyMaterialRequest) {
    move |request| (request.expiration_model, request.valid_to) = (None, Some(at))
}

fn as_new(request: &mut ImportKeyMaterialRequest) {
    request.import_type = Some(ImportType::NewKeyMaterial);
}

fn code<T: std::fmt::Debug>(outcome: Result<T, KmsError>) -> &'static str {
    outcome.expect_err("refused").code()
}

#[test]
fn a_token_lives_a_day_also_under_a_clock_that_went_back() {
    let bench = Bench::new();
    let key = bench.external();
    let start = bench.clock.now();
    bench.days(3);
    bench.engine.maintain().expect("observed");
    bench.clock.set(start);
    let parameters = bench.importer().parameters(&key);
    assert_eq!(parameters.parameters_valid_to, start.plus_days(4));
    bench.importer().import_with(&parameters, &key, &[1; 32], |_| {}).expect("imported");
    bench.days(4);
    assert_eq!(code(bench.importer().import_with(&parameters, &key, &[1; 32], |_| {})), "ExpiredImportTokenException");
}

#[test]
fn material_is_deleted_and_only_the_same_comes_back() {
    let bench = Bench::new();
    let key = bench.external();
    let metadata = bench.describe(&key).expect("described");
    assert_eq!(
        (metadata.key_state, metadata.enabled, metadata.origin),
        (KeyState::PendingImport, false, Origin::External)
    );
    assert_eq!((metadata.current_key_material_id, metadata.expiration_model), (None, None));
    let refused = bench.encrypt(&key, b"x").expect_err("no material");
    assert!(refused.to_string().ends_with(" is pending import."), "{refused}");
    assert_eq!(code(bench.engine.enable_key(&bench.alice, key.as_str().into())), "KMSInvalidStateException");

    let id = bench.importer().import(&key, &[1; 32], |_| {}).expect("imported").expect("symmetric");
    let metadata = bench.describe(&key).expect("described");
    assert_eq!(metadata.key_state, KeyState::Enabled);
    assert_eq!(metadata.current_key_material_id.as_ref(), Some(&id));
    assert_eq!(metadata.expiration_model, Some(ExpirationModel::KeyMaterialDoesNotExpire));
    let blob = bench.encrypt(&key, b"x").expect("encrypted");

    assert_eq!(bench.importer().forget(&key, None).expect("deleted").key_material_id.as_ref(), Some(&id));
    assert_eq!(bench.state(&key), KeyState::PendingImport);
    assert_eq!(bench.describe(&key).expect("described").expiration_model, None);
    assert_eq!(code(bench.decrypt(&blob)), "KMSInvalidStateException");
    assert!(bench.importer().forget(&key, None).is_ok(), "again, without effect");
    assert_eq!(code(bench.importer().import(&key, &[2; 32], |_| {})), "IncorrectKeyMaterialException");
    assert_eq!(bench.importer().import(&key, &[1; 32], |_| {}), Ok(Some(id)));
    assert_eq!(bench.decrypt(&blob), Ok(b"x".to_vec()));
}

#[test]
fn a_token_is_good_for_its_key_its_wrapping_key_and_a_day() {
    let bench = Bench::new();
    let (key, other) = (bench.external(), bench.external());
    let parameters = bench.importer().parameters(&key);
    assert_eq!(parameters.parameters_valid_to, bench.clock.now().plus_days(1));
    let with = |parameters: &GetParametersForImportResponse, key: &str, edit: fn(&mut ImportKeyMaterialRequest)| {
        bench.importer().import_with(parameters, key, &[1; 32], edit)
    };
    assert_eq!(code(with(&parameters, &other, |_| {})), "InvalidImportTokenException");
    for at in 0..parameters.import_token.len() {
        let mut forged = parameters.clone();
        forged.import_token[at] ^= 1;
        assert_eq!(code(with(&forged, &key, |_| {})), "InvalidImportTokenException", "byte {at}");
    }
    let crossed = GetParametersForImportResponse {
        public_key: bench.importer().parameters(&key).public_key,
        ..parameters.clone()
    };
    assert_eq!(code(with(&crossed, &key, |_| {})), "InvalidCiphertextException");
    assert_eq!(code(with(&parameters, &key, |r| r.encrypted_key_material[0] ^= 1)), "InvalidCiphertextException");
    assert_eq!(bench.state(&key), KeyState::PendingImport);

    // More than once, until the last moment.
    bench.hours(23);
    assert!(with(&parameters, &key, |_| {}).is_ok() && with(&parameters, &key, |_| {}).is_ok());
    assert_eq!(bench.engine.shared.store.current().expect("read").wrapping_keys.size(), 2);
    bench.hours(1);
    assert_eq!(code(with(&parameters, &key, |_| {})), "ExpiredImportTokenException");
    // Erased with it, and a clock that goes back does not revive the token.
    assert!(bench.engine.shared.store.current().expect("read").wrapping_keys.is_empty());
    bench.clock.set(Timestamp::from_secs(bench.clock.now().as_secs() - 7200));
    assert_eq!(code(with(&parameters, &key, |_| {})), "ExpiredImportTokenException");
    // A new end is judged by the clock as it stands.
    bench.importer().import(&key, &[1; 32], expiring(bench.clock.now().plus(HOUR))).expect("imported");
    assert_eq!(bench.state(&key), KeyState::Enabled);
}

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

#[test]
fn requests_that_break_a_rule_change_nothing() {
    let bench = Bench::new();
    let key = bench.external();
    let now = bench.clock.now();
    let parameters = bench.importer().parameters(&key);
    let refused = |material: &[u8], edit: &dyn Fn(&mut ImportKeyMaterialRequest)| {
        let refused = bench.importer().import_with(&parameters, &key, material, edit).expect_err("refused");
        (refused.code(), refused.to_string())
    };
    assert_eq!(
        refused(&[1; 32], &|r| r.expiration_model = None),
        ("ValidationException", "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES".to_owned())
    );
    let edits: [&dyn Fn(&mut ImportKeyMaterialRequest); 7] = [
        &|r| r.valid_to = Some(now.plus(HOUR)),
        &|r| (r.expiration_model, r.valid_to) = (None, Some(now)),
        &|r| (r.expiration_model, r.valid_to) = (None, Some(now.plus_days(366))),
        &|r| r.import_token.clear(),
        &|r| r.encrypted_key_material = vec![0; 6145],
        &|r| r.key_material_id = Some("X".repeat(64)),
        &|r| (r.import_type, r.key_material_id) = (Some(ImportType::NewKeyMaterial), Some("0".repeat(64))),
    ];
    for (at, edit) in edits.into_iter().enumerate() {
        assert_eq!(refused(&[1; 32], edit).0, "ValidationException", "edit {at}");
    }
    for len in [16, 31, 33, 64] {
        assert_eq!(refused(&vec![1; len], &|_| {}).0, "IncorrectKeyMaterialException");
    }
    let existing = |r: &mut ImportKeyMaterialRequest| r.import_type = Some(ImportType::ExistingKeyMaterial);
    assert_eq!(refused(&[1; 32], &existing).0, "IncorrectKeyMaterialException");
    assert_eq!((bench.state(&key), bench.importer().history(&key)), (KeyState::PendingImport, vec![]));

    for (algorithm, spec) in [
        (RsaesPkcs1V15, WrappingKeySpec::Rsa2048),
        (Sm2pke, WrappingKeySpec::Sm2),
        (RsaesOaepSha256, WrappingKeySpec::Sm2),
        (RsaAesKeyWrapSha256, WrappingKeySpec::Rsa2048),
    ] {
        assert_eq!(code(bench.importer().parameters_with(&key, algorithm, spec)), "UnsupportedOperationException");
    }
    let own = bench.key();
    assert_eq!(
        bench
            .importer()
            .parameters_with(&own, RsaesOaepSha256, WrappingKeySpec::Rsa2048)
            .expect_err("refused")
            .to_string(),
        format!(
            "{} origin is AWS_KMS which is not valid for this operation.",
            bench.describe(&own).expect("there").arn
        )
    );
    assert_eq!(code(bench.importer().forget(&own, None)), "UnsupportedOperationException");
    assert_eq!(code(bench.importer().forget(&key, Some(&"0".repeat(64)))), "NotFoundException");
    bench.schedule(&key, 7).expect("scheduled");
    assert_eq!(refused(&[1; 32], &|_| {}).0, "KMSInvalidStateException");
    assert_eq!(
        code(bench.importer().parameters_with(&key, RsaesOaepSha256, WrappingKeySpec::Rsa2048)),
        "KMSInvalidStateException"
    );
    // Without its material it is not Disabled afterwards.
    bench.engine.cancel_key_deletion(&bench.alice, key.as_str().into()).expect("cancelled");
    assert_eq!(bench.state(&key), KeyState::PendingImport);
}

#[test]
fn material_expires_at_its_time() {
    let bench = Bench::new();
    let key = bench.external();
    let at = bench.clock.now().plus_days(2);
    bench.importer().import(&key, &[1; 32], expiring(at)).expect("imported");
    let metadata = bench.describe(&key).expect("described");
    assert_eq!((metadata.valid_to, metadata.expiration_model), (Some(at), Some(ExpirationModel::KeyMaterialExpires)));
    let blob = bench.encrypt(&key, b"x").expect("encrypted");
    bench.hours(47);
    assert!(bench.decrypt(&blob).is_ok());
    // Importing again is what changes the expiry.
    bench.importer().import(&key, &[1; 32], expiring(at.plus_days(300))).expect("imported again");
    bench.days(299);
    assert!(bench.decrypt(&blob).is_ok());
    bench.days(2);
    assert_eq!(code(bench.decrypt(&blob)), "KMSInvalidStateException");
    assert_eq!(bench.state(&key), KeyState::PendingImport);
    let expired = events(&bench, "DeleteExpiredKeyMaterial");
    assert_eq!(expired.len(), 1);
    assert_eq!(expired[0]["serviceEventDetails"]["keyId"], metadata.arn.as_str());
    bench.importer().import(&key, &[1; 32], |_| {}).expect("imported again");
    assert_eq!(bench.decrypt(&blob), Ok(b"x".to_vec()));
}

#[test]
fn a_key_ends_with_the_first_of_its_materials() {
    let bench = Bench::new();
    let key = bench.external();
    let now = bench.clock.now();
    let told = || {
        let metadata = bench.describe(&key).expect("described");
        (metadata.valid_to, metadata.expiration_model)
    };
    let expires = |days| (Some(now.plus_days(days)), Some(ExpirationModel::KeyMaterialExpires));
    let existing = |days| move |request: &mut ImportKeyMaterialRequest| expiring(now.plus_days(days))(request);
    bench.importer().import(&key, &[1; 32], |_| {}).expect("imported");
    assert_eq!(told(), (None, Some(ExpirationModel::KeyMaterialDoesNotExpire)));
    let waiting = |request: &mut ImportKeyMaterialRequest| {
        as_new(request);
        expiring(now.plus_days(10))(request);
    };
    bench.importer().import(&key, &[2; 32], waiting).expect("imported");
    assert_eq!(
        told(),
        (None, Some(ExpirationModel::KeyMaterialDoesNotExpire)),
        "what waits for its rotation does not count"
    );
    bench.engine.rotate_key_on_demand(&bench.alice, key.as_str().into()).expect("rotated");
    assert_eq!(told(), expires(10));
    bench.importer().import(&key, &[1; 32], existing(5)).expect("imported again");
    assert_eq!(told(), expires(5));
    bench.importer().import(&key, &[2; 32], |_| {}).expect("imported again");
    assert_eq!(told(), expires(5), "the key ends with either of them");
    bench.importer().import(&key, &[1; 32], |_| {}).expect("imported again");
    assert_eq!(told(), (None, Some(ExpirationModel::KeyMaterialDoesNotExpire)));
    bench.importer().import(&key, &[2; 32], existing(3)).expect("imported again");
    bench.days(4);
    assert_eq!(bench.state(&key), KeyState::PendingImport);
}

#[test]
fn after_a_clock_that_was_far_ahead_material_can_expire_again() {
    let bench = Bench::new();
    let (key, kept) = (bench.external(), bench.external());
    let start = bench.clock.now();
    bench.importer().import(&key, &[1; 32], expiring(start.plus_days(300))).expect("imported");
    bench.importer().import(&kept, &[2; 32], |_| {}).expect("imported");
    let blob = bench.encrypt(&key, b"x").expect("encrypted");
    bench.days(400);
    bench.engine.maintain().expect("observed");
    bench.clock.set(start);
    assert_eq!(bench.state(&key), KeyState::PendingImport, "what has expired stays so");
    for (material, id) in [([1; 32], &key), ([2; 32], &kept)] {
        bench.importer().import(id, &material, expiring(start.plus_days(2))).expect("imported again");
        assert_eq!(bench.state(id), KeyState::Enabled);
        assert_eq!(bench.describe(id).expect("described").valid_to, Some(start.plus_days(2)));
    }
    assert_eq!(code(bench.importer().import(&key, &[1; 32], expiring(start))), "ValidationException");
    assert_eq!(code(bench.importer().import(&key, &[1; 32], expiring(start.plus_days(366)))), "ValidationException");
    // Nothing is due: no change is made of it at each call.
    let revision = bench.engine.revision().expect("read");
    bench.hours(1);
    bench.engine.maintain().expect("maintained");
    assert_eq!(bench.decrypt(&blob), Ok(b"x".to_vec()));
    assert_eq!(bench.engine.revision().expect("read"), revision);
    let again = bench.another().expect("opened");
    assert_eq!(decrypt(&again, &bench.alice, &blob), Ok(b"x".to_vec()), "in other processes too");
    drop(again);
    bench.days(2);
    assert_eq!(code(bench.decrypt(&blob)), "KMSInvalidStateException");
    let expired = |id: &str| bench.state(id) == KeyState::PendingImport;
    assert!(expired(&key) && expired(&kept));
    bench.clock.set(start);
    assert!(expired(&key) && expired(&kept), "destroyed: a clock that goes back does not revive it");
}

#[test]
fn what_expired_while_nothing_ran_is_gone_before_anything_else() {
    let Bench { dir, clock, engine, alice, recovery } = Bench::new();
    let bench = Bench { dir, clock, engine: engine.clone(), alice, recovery };
    let key = bench.external();
    bench.importer().import(&key, &[1; 32], expiring(bench.clock.now().plus_days(3))).expect("imported");
    let Bench { dir, clock, engine: last, alice, recovery } = bench;
    drop((engine, last));
    clock.set(clock.now().plus_days(40));
    let engine = Engine::open(&dir.path().join("kms"), &passphrase("secret"), clock.clone(), Arc::new(SystemEntropy));
    let bench = Bench { dir, clock, engine: engine.expect("opened"), alice, recovery };
    let snapshot = bench.engine.shared.store.current().expect("read");
    let entry = snapshot.all_keys().next().expect("one key").expect("readable").clone();
    assert_eq!(entry.record.state, KeyState::PendingImport);
    assert!(entry.materials[0].secret().is_none() && snapshot.wrapping_keys.is_empty());
    assert_eq!(bench.state(&key), KeyState::PendingImport);
}

/// What ends imported material.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Deleted,
    /// One of two pieces, by its id; the other stays.
    DeletedBeforeRotation,
    Expired,
    WithItsKey,
}

#[test]
fn ended_material_does_not_come_back_with_an_older_database() {
    for end in [End::Deleted, End::DeletedBeforeRotation, End::Expired, End::WithItsKey] {
        let bench = Bench::new();
        let (key, other) = (bench.external(), bench.key());
        let soon = bench.clock.now().plus(HOUR);
        let edit = |r: &mut ImportKeyMaterialRequest| {
            if end == End::Expired {
                expiring(soon)(r);
            }
        };
        let first = bench.importer().import(&key, &[0x5a; 32], edit).expect("imported");
        let blob = bench.encrypt(&key, b"secret").expect("encrypted");
        let kept = bench.encrypt(&other, b"kept").expect("encrypted");
        if end == End::DeletedBeforeRotation {
            bench.importer().import(&key, &[0xa5; 32], as_new).expect("imported");
            bench.engine.rotate_key_on_demand(&bench.alice, key.as_str().into()).expect("rotated");
        }
        let copy = bench.dir.path().join("copy");
        copy_database(&bench, &copy);
        match end {
            End::Deleted => drop(bench.importer().forget(&key, None).expect("deleted")),
            End::DeletedBeforeRotation => drop(bench.importer().forget(&key, first.as_ref()).expect("deleted")),
            End::Expired => {
                bench.hours(1);
                bench.engine.maintain().expect("maintained");
            }
            End::WithItsKey => {
                bench.schedule(&key, 7).expect("scheduled");
                bench.days(8);
                bench.engine.maintain().expect("observed");
                bench.hours(2);
                bench.engine.maintain().expect("ended");
            }
        }
        let expected = if end == End::WithItsKey { "NotFoundException" } else { "KMSInvalidStateException" };
        assert_eq!(code(bench.decrypt(&blob)), expected);
        assert_eq!(bench.decrypt(&kept), Ok(b"kept".to_vec()), "what is left is under the new domain key");
        let (home, Bench { dir: _dir, engine, .. }) = (bench.home(), bench);
        drop(engine);
        let current = home.with_file_name("current");
        std::fs::copy(home.join("kms.db"), &current).expect("copied");
        restore_database(&home, &copy);
        // Neither the present root file with its passphrase nor accepting the old state opens it.
        let clock = || Arc::new(ManualClock::new(Timestamp::from_secs(0)));
        let refused = Engine::open(&home, &passphrase("secret"), clock(), Arc::new(SystemEntropy)).err();
        assert!(refused.expect("refused").to_string().contains("was destroyed"));
        let restored = Home::unlock(&home, &passphrase("secret")).expect("unlocked");
        let refused = Engine::start_accepting(restored, clock(), Arc::new(SystemEntropy)).err().expect("refused");
        assert!(refused.to_string().contains("was destroyed"), "{refused}");
        // It is the copy that is refused, not the home.
        restore_database(&home, &current);
        let engine = Engine::open(&home, &passphrase("secret"), clock(), Arc::new(SystemEntropy)).expect("opened");
        assert_eq!(decrypt(&engine, &engine.local_caller("alice"), &kept), Ok(b"kept".to_vec()));
    }
}

#[test]
fn rotation_to_imported_material() {
    let bench = Bench::new();
    let key = bench.external();
    let rotate = || bench.engine.rotate_key_on_demand(&bench.alice, key.as_str().into());
    let arn = bench.describe(&key).expect("described").arn;
    let first = bench.importer().import(&key, &[1; 32], |_| {}).expect("imported").expect("symmetric");
    let old = bench.encrypt(&key, b"old").expect("encrypted");
    assert_eq!(
        rotate().expect_err("nothing to rotate to").to_string(),
        format!("No available key material pending rotation for the key: {arn}.")
    );
    assert_eq!(code(bench.importer().import(&key, &[1; 32], as_new)), "IncorrectKeyMaterialException");
    let describe = |r: &mut ImportKeyMaterialRequest| r.key_material_description = Some("of 2026".into());
    let second =
        bench.importer().import(&key, &[2; 32], |r| (as_new(r), describe(r)).0).expect("imported").expect("symmetric");
    use ImportState::*;
    use KeyMaterialState::*;
    assert_eq!(
        bench.importer().history(&key),
        [(first.clone(), Current, Imported), (second.clone(), PendingRotation, Imported)]
    );
    assert!(bench.rotations(&key).is_empty());
    let third = {
        let refused = bench.importer().import(&key, &[3; 32], as_new).expect_err("one at a time");
        assert_eq!(refused.code(), "KMSInvalidStateException");
        let text = refused.to_string();
        assert!(text.contains(&format!("because another key material (id: {second}) is pending rotation.")), "{text}");
        text
    };
    assert!(third.starts_with("New key material (id: "));
    // Material that waits just goes, and may come again.
    bench.importer().forget(&key, Some(&second)).expect("deleted");
    assert_eq!((bench.state(&key), bench.importer().history(&key).len()), (KeyState::Enabled, 1));
    assert_eq!(bench.importer().import(&key, &[2; 32], |r| (as_new(r), describe(r)).0), Ok(Some(second.clone())));

    bench.days(1);
    rotate().expect("rotated");
    assert_eq!(
        bench.importer().history(&key),
        [(first.clone(), NonCurrent, Imported), (second.clone(), Current, Imported)]
    );
    let rotations = bench.rotations(&key);
    assert_eq!(rotations.len(), 1);
    assert_eq!(
        (rotations[0].rotation_date, rotations[0].rotation_type),
        (Some(bench.clock.now()), Some(RotationType::OnDemand))
    );
    assert_eq!(bench.describe(&key).expect("described").current_key_material_id, Some(second.clone()));
    let new = bench.encrypt(&key, b"new").expect("encrypted");
    assert_eq!(crate::kms::blob::material_id(&new), Some(second.clone()));
    assert_eq!(bench.decrypt(&old), Ok(b"old".to_vec()));

    // Any of them missing makes the key unusable; each comes back by its bytes.
    bench.importer().forget(&key, Some(&first)).expect("deleted");
    assert_eq!(bench.importer().history(&key)[0].2, PendingImport);
    assert_eq!((bench.state(&key), code(bench.decrypt(&new))), (KeyState::PendingImport, "KMSInvalidStateException"));
    bench.importer().forget(&key, None).expect("deleted");
    let named = |r: &mut ImportKeyMaterialRequest| r.key_material_id = Some(second.clone());
    assert_eq!(code(bench.importer().import(&key, &[1; 32], named)), "IncorrectKeyMaterialException");
    bench.importer().import(&key, &[1; 32], |_| {}).expect("imported again");
    assert_eq!(bench.state(&key), KeyState::PendingImport);
    bench.importer().import(&key, &[2; 32], |r| r.key_material_id = Some(second.clone())).expect("imported again");
    assert_eq!((bench.decrypt(&old), bench.decrypt(&new)), (Ok(b"old".to_vec()), Ok(b"new".to_vec())));

    // Never by itself.
    for refused in [
        bench
            .engine
            .enable_key_rotation(&bench.alice, EnableKeyRotationRequest { key_id: key.clone(), ..Default::default() }),
        bench.engine.disable_key_rotation(&bench.alice, key.as_str().into()),
    ] {
        assert_eq!(
            refused.expect_err("refused").to_string(),
            format!("{arn} origin is EXTERNAL which is not valid for this operation.")
        );
    }
    let status = bench.engine.get_key_rotation_status(&bench.alice, key.as_str().into()).expect("status");
    assert!(!status.key_rotation_enabled);
}

#[test]
fn key_pairs_and_mac_keys_are_imported() {
    let bench = Bench::new();
    let create = |spec, usage| {
        let request = CreateKeyRequest {
            origin: Some(Origin::External),
            key_spec: Some(spec),
            key_usage: Some(usage),
            ..Default::default()
        };
        bench.engine.create_key(&bench.alice, request).expect("created").key_metadata.key_id
    };
    let importer = bench.importer();
    let import = |key: &str, algorithm, wrapping_key, material: &[u8]| {
        let parameters = importer.parameters_with(key, algorithm, wrapping_key)?;
        let request = ImportKeyMaterialRequest {
            key_id: key.to_owned(),
            import_token: parameters.import_token,
            encrypted_key_material: wrap(&parameters.public_key, algorithm, material),
            expiration_model: Some(ExpirationModel::KeyMaterialDoesNotExpire),
            ..Default::default()
        };
        bench.engine.import_key_material(&bench.alice, request)
    };

    let mac = create(KeySpec::Hmac384, KeyUsage::GenerateVerifyMac);
    assert_eq!(code(import(&mac, RsaesOaepSha1, WrappingKeySpec::Rsa2048, &[7; 32])), "IncorrectKeyMaterialException");
    let answer = import(&mac, RsaesOaepSha1, WrappingKeySpec::Rsa2048, &[7; 48]).expect("imported");
    assert_eq!(answer.key_material_id, None, "only symmetric keys tell it");
    assert_eq!(bench.state(&mac), KeyState::Enabled);
    assert_eq!(code(importer.import(&mac, &[7; 48], as_new)), "ValidationException");
    assert_eq!(code(importer.import(&mac, &[8; 48], |_| {})), "IncorrectKeyMaterialException");
    bench.importer().forget(&mac, None).expect("deleted");
    assert_eq!(bench.state(&mac), KeyState::PendingImport);
    importer.import(&mac, &[7; 48], |_| {}).expect("imported again");
    assert_eq!(
        code(bench.engine.rotate_key_on_demand(&bench.alice, mac.as_str().into())),
        "UnsupportedOperationException"
    );

    let rsa = create(KeySpec::Rsa2048, KeyUsage::SignVerify);
    let pair = |spec| crate::kms::object::generate(spec, &SystemEntropy).expect("made");
    let material = pair(KeySpec::Rsa2048);
    let oaep = importer.parameters_with(&rsa, RsaesOaepSha256, WrappingKeySpec::Rsa4096);
    assert_eq!(code(oaep), "UnsupportedOperationException");
    let hybrid = RsaAesKeyWrapSha256;
    let p256 = pair(KeySpec::EccNistP256);
    assert_eq!(code(import(&rsa, hybrid, WrappingKeySpec::Rsa3072, p256.expose())), "IncorrectKeyMaterialException");
    import(&rsa, hybrid, WrappingKeySpec::Rsa3072, material.expose()).expect("imported");
    assert_eq!(bench.state(&rsa), KeyState::Enabled);

    let ecc = create(KeySpec::EccNistP256, KeyUsage::SignVerify);
    import(&ecc, RsaesOaepSha256, WrappingKeySpec::Rsa2048, p256.expose()).expect("imported");
    importer.forget(&ecc, None).expect("deleted");
    let other = pair(KeySpec::EccNistP256);
    assert_eq!(
        code(import(&ecc, RsaesOaepSha256, WrappingKeySpec::Rsa2048, other.expose())),
        "IncorrectKeyMaterialException"
    );
    import(&ecc, hybrid, WrappingKeySpec::Rsa2048, p256.expose()).expect("imported again");
    assert_eq!(bench.state(&ecc), KeyState::Enabled);
    let p521 = create(KeySpec::EccNistP521, KeyUsage::SignVerify);
    assert_eq!(
        code(importer.parameters_with(&p521, RsaesOaepSha256, WrappingKeySpec::Rsa2048)),
        "UnsupportedOperationException"
    );
    let ml_dsa = CreateKeyRequest {
        origin: Some(Origin::External),
        key_spec: Some(KeySpec::MlDsa44),
        key_usage: Some(KeyUsage::SignVerify),
        ..Default::default()
    };
    assert_eq!(code(bench.engine.create_key(&bench.alice, ml_dsa)), "UnsupportedOperationException");
}

#[test]
fn material_past_its_end_is_refused_also_where_nothing_can_be_written() {
    let bench = Bench::new();
    let importer = Importer::new(&bench, &bench.alice);
    let key = bench.external();
    let until = bench.clock.now().plus_days(2);
    let expires = |request: &mut ImportKeyMaterialRequest| {
        (request.expiration_model, request.valid_to) = (None, Some(until));
    };
    importer.import(&key, &[1; 32], expires).expect("imported");
    let blob = bench.encrypt(&key, b"x").expect("encrypted");
    bench.days(1);
    bench.decrypt(&blob).expect("still there");
    // No root file can be written, so no change can be made.
    let obstacle = bench.home().join("root.json.new");
    std::fs::create_dir(&obstacle).expect("made");
    bench.days(1);
    for _ in 0..2 {
        assert_eq!(bench.decrypt(&blob).expect_err("expired").code(), "KMSInvalidStateException");
        let refused = bench.encrypt(&key, b"x").expect_err("expired");
        assert!(refused.to_string().ends_with(" is pending import."), "{refused}");
        let arn = bench.describe(&key).expect("there").arn;
        assert!(bench.engine.usable(&arn).is_err());
    }
    assert!(events(&bench, "DeleteExpiredKeyMaterial").is_empty());
    std::fs::remove_dir(&obstacle).expect("removed");
    bench.clock.advance(std::time::Duration::from_secs(61));
    bench.decrypt(&blob).expect_err("gone");
    assert_eq!(bench.describe(&key).expect("there").key_state, KeyState::PendingImport);
    assert_eq!(events(&bench, "DeleteExpiredKeyMaterial").len(), 1);
    importer.import(&key, &[1; 32], |_| {}).expect("the same material");
    bench.decrypt(&blob).expect("there again");
}
