//! The engine: executes the operations.
#![allow(missing_docs)]
use std::path::Path;

use crate::env::{Clock, Entropy};
use crate::kms::audit::AuditLog;
use crate::kms::custody::{CustodyError, Home, NewSlot, RecoveryKey, SlotInfo, Unlock};
use crate::kms::model::*;
use crate::kms::registry::Registry;
use crate::kms::{KmsError, OpenError};
use crate::sync::Arc;
use crate::types::{AccountId, Region};

/// The key manager, opened. Cheap to clone and share.
#[derive(Clone)]
pub struct Engine;

impl Engine {
    /// Unlocks the home at `dir` and opens its database.
    pub fn open(
        _dir: &Path,
        _unlock: &Unlock,
        _clock: Arc<dyn Clock>,
        _entropy: Arc<dyn Entropy>,
    ) -> Result<Self, OpenError> {
        unimplemented!()
    }
    /// Opens the database of an unlocked home.
    pub fn start(_home: Home, _clock: Arc<dyn Clock>, _entropy: Arc<dyn Entropy>) -> Result<Self, OpenError> {
        unimplemented!()
    }
    /// As `start`, for a database that is older or newer than the root file says (restored backup): accepts it.
    pub fn start_accepting(_home: Home, _clock: Arc<dyn Clock>, _entropy: Arc<dyn Entropy>) -> Result<Self, OpenError> {
        unimplemented!()
    }
    pub fn account(&self) -> &AccountId {
        unimplemented!()
    }
    pub fn region(&self) -> &Region {
        unimplemented!()
    }
    /// The operating-system user as caller, in the home's account and Region.
    pub fn local_caller(&self, _user: &str) -> Caller {
        unimplemented!()
    }
    pub fn audit(&self) -> &AuditLog {
        unimplemented!()
    }
    pub fn registry(&self) -> Registry {
        unimplemented!()
    }
    pub fn slots(&self) -> Result<Vec<SlotInfo>, CustodyError> {
        unimplemented!()
    }
    pub fn add_slot(&self, _caller: &Caller, _slot: NewSlot) -> Result<(SlotInfo, Option<RecoveryKey>), CustodyError> {
        unimplemented!()
    }
    pub fn remove_slot(&self, _caller: &Caller, _id: u32) -> Result<(), CustodyError> {
        unimplemented!()
    }
    /// Due rotations and deletions; also runs by itself at open, at each use and every half minute.
    pub fn maintain(&self) -> Result<(), KmsError> {
        unimplemented!()
    }
    pub fn create_key(&self, _caller: &Caller, _request: CreateKeyRequest) -> Result<CreateKeyResponse, KmsError> {
        unimplemented!()
    }
    pub fn describe_key(
        &self,
        _caller: &Caller,
        _request: DescribeKeyRequest,
    ) -> Result<DescribeKeyResponse, KmsError> {
        unimplemented!()
    }
    pub fn list_keys(&self, _caller: &Caller, _request: ListKeysRequest) -> Result<ListKeysResponse, KmsError> {
        unimplemented!()
    }
    pub fn create_alias(&self, _caller: &Caller, _request: CreateAliasRequest) -> Result<(), KmsError> {
        unimplemented!()
    }
    pub fn update_alias(&self, _caller: &Caller, _request: UpdateAliasRequest) -> Result<(), KmsError> {
        unimplemented!()
    }
    pub fn delete_alias(&self, _caller: &Caller, _request: DeleteAliasRequest) -> Result<(), KmsError> {
        unimplemented!()
    }
    pub fn list_aliases(
        &self,
        _caller: &Caller,
        _request: ListAliasesRequest,
    ) -> Result<ListAliasesResponse, KmsError> {
        unimplemented!()
    }
    pub fn enable_key(&self, _caller: &Caller, _request: KeyIdRequest) -> Result<(), KmsError> {
        unimplemented!()
    }
    pub fn disable_key(&self, _caller: &Caller, _request: KeyIdRequest) -> Result<(), KmsError> {
        unimplemented!()
    }
    pub fn schedule_key_deletion(
        &self,
        _caller: &Caller,
        _request: ScheduleKeyDeletionRequest,
    ) -> Result<ScheduleKeyDeletionResponse, KmsError> {
        unimplemented!()
    }
    pub fn cancel_key_deletion(&self, _caller: &Caller, _request: KeyIdRequest) -> Result<KeyIdResponse, KmsError> {
        unimplemented!()
    }
    pub fn enable_key_rotation(&self, _caller: &Caller, _request: EnableKeyRotationRequest) -> Result<(), KmsError> {
        unimplemented!()
    }
    pub fn disable_key_rotation(&self, _caller: &Caller, _request: KeyIdRequest) -> Result<(), KmsError> {
        unimplemented!()
    }
    pub fn get_key_rotation_status(
        &self,
        _caller: &Caller,
        _request: KeyIdRequest,
    ) -> Result<GetKeyRotationStatusResponse, KmsError> {
        unimplemented!()
    }
    pub fn rotate_key_on_demand(&self, _caller: &Caller, _request: KeyIdRequest) -> Result<KeyIdResponse, KmsError> {
        unimplemented!()
    }
    pub fn list_key_rotations(
        &self,
        _caller: &Caller,
        _request: ListKeyRotationsRequest,
    ) -> Result<ListKeyRotationsResponse, KmsError> {
        unimplemented!()
    }
    pub fn tag_resource(&self, _caller: &Caller, _request: TagResourceRequest) -> Result<(), KmsError> {
        unimplemented!()
    }
    pub fn untag_resource(&self, _caller: &Caller, _request: UntagResourceRequest) -> Result<(), KmsError> {
        unimplemented!()
    }
    pub fn list_resource_tags(
        &self,
        _caller: &Caller,
        _request: ListResourceTagsRequest,
    ) -> Result<ListResourceTagsResponse, KmsError> {
        unimplemented!()
    }
    pub fn update_key_description(
        &self,
        _caller: &Caller,
        _request: UpdateKeyDescriptionRequest,
    ) -> Result<(), KmsError> {
        unimplemented!()
    }
    pub fn generate_data_key(
        &self,
        _caller: &Caller,
        _request: GenerateDataKeyRequest,
    ) -> Result<GenerateDataKeyResponse, KmsError> {
        unimplemented!()
    }
    pub fn generate_data_key_without_plaintext(
        &self,
        _caller: &Caller,
        _request: GenerateDataKeyRequest,
    ) -> Result<GenerateDataKeyWithoutPlaintextResponse, KmsError> {
        unimplemented!()
    }
    pub fn encrypt(&self, _caller: &Caller, _request: EncryptRequest) -> Result<EncryptResponse, KmsError> {
        unimplemented!()
    }
    pub fn decrypt(&self, _caller: &Caller, _request: DecryptRequest) -> Result<DecryptResponse, KmsError> {
        unimplemented!()
    }
    pub fn re_encrypt(&self, _caller: &Caller, _request: ReEncryptRequest) -> Result<ReEncryptResponse, KmsError> {
        unimplemented!()
    }
    pub fn generate_random(
        &self,
        _caller: &Caller,
        _request: GenerateRandomRequest,
    ) -> Result<GenerateRandomResponse, KmsError> {
        unimplemented!()
    }
}
