//! Pages: markers are opaque, authenticated, and bound to operation, caller's account and Region, and filter.

use data_encoding::BASE64URL_NOPAD;

use super::call::Call;
use crate::kms::KmsError;
use crate::kms::seal;

/// One page of a list.
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<String>,
}

/// Where a list is in its order: items are listed by a name that never changes, and the marker holds the last one
/// listed, so that an item that exists throughout is neither skipped nor repeated.
pub struct Pager<'a> {
    pub operation: &'static str,
    pub filter: &'a str,
    pub limit: Option<u32>,
    pub default: u32,
    pub marker: Option<&'a str>,
}

impl Pager<'_> {
    /// The page of `items`, which come in the order of their names: for lists that are short.
    pub fn page<T>(&self, call: &Call<'_>, items: impl Iterator<Item = (String, T)>) -> Result<Page<T>, KmsError> {
        self.page_from(call, |after| {
            items.skip_while(move |(name, _)| after.as_ref().is_some_and(|after| name <= after))
        })
    }

    /// The page of the items that `items` finds behind the name given to it.
    pub fn page_from<T, I: Iterator<Item = (String, T)>>(
        &self,
        call: &Call<'_>,
        items: impl FnOnce(Option<String>) -> I,
    ) -> Result<Page<T>, KmsError> {
        let after = self.marker.map(|marker| self.open(call, marker)).transpose()?;
        let limit = self.limit.unwrap_or(self.default) as usize;
        let mut rest = items(after);
        let mut page = Page { items: Vec::new(), next: None };
        let mut last = None;
        for (name, item) in rest.by_ref().take(limit) {
            page.items.push(item);
            last = Some(name);
        }
        if rest.next().is_some() {
            page.next = last.map(|last| self.seal(call, &last));
        }
        Ok(page)
    }

    fn scope(&self, call: &Call<'_>) -> Vec<u8> {
        let (account, region) = (call.caller.account().as_str(), call.caller.region().as_str());
        seal::framed(&[
            b"kmsfs marker v1",
            self.operation.as_bytes(),
            account.as_bytes(),
            region.as_bytes(),
            self.filter.as_bytes(),
        ])
    }

    fn seal(&self, call: &Call<'_>, last: &str) -> String {
        let store = &call.shared.store;
        BASE64URL_NOPAD.encode(&seal::seal(store.marker_key(), &self.scope(call), last.as_bytes(), store.entropy()))
    }

    fn open(&self, call: &Call<'_>, marker: &str) -> Result<String, KmsError> {
        let sealed = BASE64URL_NOPAD.decode(marker.as_bytes()).map_err(|_| KmsError::InvalidMarker)?;
        let plain = seal::open(call.shared.store.marker_key(), &self.scope(call), &sealed);
        plain.and_then(|plain| String::from_utf8(plain.to_vec()).ok()).ok_or(KmsError::InvalidMarker)
    }
}
