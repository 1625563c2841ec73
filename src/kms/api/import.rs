//! Imported key material.

use super::operations;
use crate::kms::model::*;

operations! {
    GetParametersForImport: Changes = get_parameters_for_import(GetParametersForImportRequest {
        key_id: required, wrapping_algorithm: required, wrapping_key_spec: required,
    });
    ImportKeyMaterial: Changes = import_key_material(ImportKeyMaterialRequest {
        key_id: required, import_token: required, encrypted_key_material: required, valid_to: optional,
        expiration_model: optional, import_type: optional, key_material_description: optional,
        key_material_id: optional,
    });
    DeleteImportedKeyMaterial: Changes = delete_imported_key_material(DeleteImportedKeyMaterialRequest {
        key_id: required, key_material_id: optional,
    });
}
