//! Aliases.

use super::operations;
use crate::kms::model::*;

operations! {
    CreateAlias: Changes = create_alias(CreateAliasRequest { alias_name: required, target_key_id: required });
    UpdateAlias: Changes = update_alias(UpdateAliasRequest { alias_name: required, target_key_id: required });
    DeleteAlias: Changes = delete_alias(DeleteAliasRequest { alias_name: required });
    ListAliases: Slow = list_aliases(ListAliasesRequest { key_id: optional, limit: optional, marker: optional });
}
