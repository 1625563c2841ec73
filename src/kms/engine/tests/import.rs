//! Imported key material: tokens, the same material again, expiry, rotation.

use super::*;
use crate::kms::wrapping::tests::wrap;
use WrappingAlgorithm::*;

impl Bench {
    fn external(&self) -> String {
        let request = CreateKeyRequest { origin: Some(Origin::External), ..Default::default() };
        self.engine.create_key(&self.alice, request).expect("created").key_metadata.key_id
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
        self.engine.get_parameters_for_import(&self.alice, request)
    }

    /// Imports `material` for good, or as `edit` says.
    fn import(
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
        self.engine.import_key_material(&self.alice, request).map(|answer| answer.key_material_id)
    }

    fn forget(&self, key: &str, material: Option<&String>) -> Result<KeyMaterialResponse, KmsError> {
        let request = DeleteImportedKeyMaterialRequest { key_id: key.to_owned(), key_material_id: material.cloned() };
        self.engine.delete_imported_key_material(&self.alice, request)
    }

    fn state(&self, key: &str) -> KeyState {
        self.describe(key).expect("described").key_state
    }

    /// (material id, state, whether it is there) of every material.
    fn history(&self, key: &str) -> Vec<(String, KeyMaterialState, ImportState)> {
        let all = ListKeyRotationsRequest {
            key_id: key.to_owned(),
            include_key_material: Some(IncludeKeyMaterial::AllKeyMaterial),
            ..Default::default()
        };
        let listed = self.engine.list_key_rotations(&self.alice, all).expect("listed").rotations;
        let row = |row: RotationsListEntry| {
            (row.key_material_id, row.key_material_state.expect("asked for"), row.import_state.expect("imported"))
        };
        listed.into_iter().map(row).collect()
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

    let id = bench.import(&key, &[1; 32], |_| {}).expect("imported").expect("symmetric");
    let metadata = bench.describe(&key).expect("described");
    assert_eq!(metadata.key_state, KeyState::Enabled);
    assert_eq!(metadata.current_key_material_id.as_ref(), Some(&id));
    assert_eq!(metadata.expiration_model, Some(ExpirationModel::KeyMaterialDoesNotExpire));
    let blob = bench.encrypt(&key, b"x").expect("encrypted");

    assert_eq!(bench.forget(&key, None).expect("deleted").key_material_id.as_ref(), Some(&id));
    assert_eq!(bench.state(&key), KeyState::PendingImport);
    assert_eq!(bench.describe(&key).expect("described").expiration_model, None);
    assert_eq!(code(bench.decrypt(&blob)), "KMSInvalidStateException");
    assert!(bench.forget(&key, None).is_ok(), "again, without effect");
    assert_eq!(code(bench.import(&key, &[2; 32], |_| {})), "IncorrectKeyMaterialException");
    assert_eq!(code(bench.import(&key, &[2; 32], as_new)), "");
    assert_eq!(bench.import(&key, &[1; 32], |_| {}), Ok(Some(id)));
    assert_eq!(bench.decrypt(&blob), Ok(b"x".to_vec()));
}
