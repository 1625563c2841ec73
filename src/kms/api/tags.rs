//! Tags.

use super::operations;
use crate::kms::model::*;

operations! {
    TagResource: Changes = tag_resource(TagResourceRequest { key_id: required, tags: required });
    UntagResource: Changes = untag_resource(UntagResourceRequest { key_id: required, tag_keys: required });
    ListResourceTags: Quick = list_resource_tags(ListResourceTagsRequest {
        key_id: required, limit: optional, marker: optional,
    });
}
