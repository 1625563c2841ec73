//! The last use of keys.

use super::operations;
use crate::kms::model::*;

operations! {
    GetKeyLastUsage: Slow = get_key_last_usage(KeyIdRequest { key_id: required });
}
