//! Rotation.

use super::operations;
use crate::kms::model::*;

operations! {
    EnableKeyRotation: Changes = enable_key_rotation(EnableKeyRotationRequest {
        key_id: required, rotation_period_in_days: optional,
    });
    DisableKeyRotation: Changes = disable_key_rotation(KeyIdRequest { key_id: required });
    GetKeyRotationStatus: Quick = get_key_rotation_status(KeyIdRequest { key_id: required });
    RotateKeyOnDemand: Changes = rotate_key_on_demand(KeyIdRequest { key_id: required });
    ListKeyRotations: Slow = list_key_rotations(ListKeyRotationsRequest {
        key_id: required, include_key_material: optional, limit: optional, marker: optional,
    });
}
