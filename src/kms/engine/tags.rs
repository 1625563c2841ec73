//! Tags.

use serde_json::json;

use super::Engine;
use super::authorise::Access;
use super::call::{Call, Effect::*};
use super::check::members;
use super::lifecycle::put;
use super::page::Pager;
use super::resolve::{Forms, not_pending_deletion};
use crate::kms::KmsError;
use crate::kms::model::*;
use crate::kms::store::Snapshot;

const MAX_TAGS: usize = 50;

impl Engine {
    /// `TagResource`: adds tags, or replaces the values of those that are there.
    pub fn tag_resource(&self, caller: &Caller, request: TagResourceRequest) -> Result<(), KmsError> {
        let TagResourceRequest { key_id, tags } = request;
        let parameters = json!({ "keyId": key_id, "tags": tags });
        let legal = members!(key_id, tags);
        let access = tagging("TagResource", &tags);
        self.edit_key_as(caller, ("TagResource", access), legal, parameters, &key_id, |_, change, key| {
            not_pending_deletion(key)?;
            check_tags(&tags, &key.record.tags)?;
            put(change, key, |record| add_tags(&mut record.tags, &tags)).map(drop)
        })
    }

    /// `UntagResource`: removes tags; absent ones are no error.
    pub fn untag_resource(&self, caller: &Caller, request: UntagResourceRequest) -> Result<(), KmsError> {
        let UntagResourceRequest { key_id, tag_keys } = request;
        let parameters = json!({ "keyId": key_id, "tagKeys": tag_keys });
        let legal = members!(key_id, tag_keys);
        let keys = tag_keys.iter().map(String::as_str);
        let access = keys.fold(Access::to("UntagResource"), |access, key| access.with("aws:TagKeys", key));
        self.edit_key_as(caller, ("UntagResource", access), legal, parameters, &key_id, |_, change, key| {
            not_pending_deletion(key)?;
            put(change, key, |record| record.tags.retain(|tag| !tag_keys.contains(&tag.tag_key))).map(drop)
        })
    }

    /// `ListResourceTags`.
    pub fn list_resource_tags(
        &self,
        caller: &Caller,
        request: ListResourceTagsRequest,
    ) -> Result<ListResourceTagsResponse, KmsError> {
        let parameters = json!({ "keyId": request.key_id, "limit": request.limit });
        self.call(caller, ("ListResourceTags", ReadOnly), parameters, |call| {
            members!(request: key_id, limit, marker)?;
            let key = call.key(&*call.snapshot()?, &request.key_id, Forms::Key, "ListResourceTags")?;
            let mut tags = key.record.tags.clone();
            tags.sort_by(|a, b| a.tag_key.cmp(&b.tag_key));
            let pager = Pager {
                operation: "ListResourceTags",
                filter: key.arn.as_str(),
                limit: request.limit,
                default: 50,
                marker: request.marker.as_deref(),
            };
            let page = pager.page(call, tags.into_iter().map(|tag| (tag.tag_key.clone(), tag)))?;
            Ok(ListResourceTagsResponse { tags: page.items, truncated: page.next.is_some(), next_marker: page.next })
        })
    }
}

/// An operation that adds tags.
pub fn tagging<'a>(action: &'a str, tags: &'a [Tag]) -> Access<'a> {
    with_tags(Access::to(action), tags)
}

/// Allows the tags of a key that is about to be made in `region`.
pub fn permit_tags(call: &Call<'_>, snapshot: &Snapshot, region: &str, tags: &[Tag]) -> Result<(), KmsError> {
    if tags.is_empty() {
        return Ok(());
    }
    let new_key = format!("arn:aws:kms:{region}:{}:key/*", call.caller.account());
    call.permit(snapshot, tagging("TagResource", tags), &new_key)
}

/// What policies look at in requests with tags.
pub fn with_tags<'a>(access: Access<'a>, tags: &'a [Tag]) -> Access<'a> {
    tags.iter().fold(access, |access, tag| {
        let access = access.with("aws:TagKeys", tag.tag_key.as_str());
        access.with(format!("aws:RequestTag/{}", tag.tag_key), tag.tag_value.as_str())
    })
}

/// Adds tags, or replaces the values of those that are there; sorts them.
pub fn add_tags(present: &mut Vec<Tag>, added: &[Tag]) {
    for tag in added {
        match present.iter_mut().find(|old| old.tag_key == tag.tag_key) {
            Some(old) => old.clone_from(tag),
            None => present.push(tag.clone()),
        }
    }
    present.sort_by(|a, b| a.tag_key.cmp(&b.tag_key));
}

/// The rules for tags that are added to `present` (KMS.md sections 4 and 5).
pub fn check_tags(added: &[Tag], present: &[Tag]) -> Result<(), KmsError> {
    let refuse = |text: &str| Err(KmsError::Tag(text.to_owned()));
    if added.iter().any(|tag| tag.tag_key.starts_with("aws:")) {
        return refuse("Tags beginning with aws: are reserved");
    }
    let repeated = |(at, tag): (usize, &Tag)| added[..at].iter().any(|other| other.tag_key == tag.tag_key);
    if added.iter().enumerate().any(repeated) {
        return refuse("Duplicate tag keys");
    }
    let new = added.iter().filter(|tag| !present.iter().any(|old| old.tag_key == tag.tag_key)).count();
    if present.len() + new > MAX_TAGS { refuse("Too many tags") } else { Ok(()) }
}
