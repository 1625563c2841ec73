//! Custom key stores.

use super::operations;
use crate::kms::model::*;

operations! {
    CreateCustomKeyStore: Changes = create_custom_key_store(CreateCustomKeyStoreRequest {
        custom_key_store_name: required, custom_key_store_type: optional, cloud_hsm_cluster_id: optional,
        trust_anchor_certificate: optional, key_store_password: optional,
    });
    ConnectCustomKeyStore: Changes = connect_custom_key_store(CustomKeyStoreIdRequest {
        custom_key_store_id: required,
    });
    DisconnectCustomKeyStore: Changes = disconnect_custom_key_store(CustomKeyStoreIdRequest {
        custom_key_store_id: required,
    });
    DescribeCustomKeyStores: Slow = describe_custom_key_stores(DescribeCustomKeyStoresRequest {
        custom_key_store_id: optional, custom_key_store_name: optional, limit: optional, marker: optional,
    });
    UpdateCustomKeyStore: Changes = update_custom_key_store(UpdateCustomKeyStoreRequest {
        custom_key_store_id: required, new_custom_key_store_name: optional, key_store_password: optional,
        cloud_hsm_cluster_id: optional,
    });
    DeleteCustomKeyStore: Changes = delete_custom_key_store(CustomKeyStoreIdRequest {
        custom_key_store_id: required,
    });
}
