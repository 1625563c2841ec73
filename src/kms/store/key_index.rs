//! Keys by Region and key id, for the lookup in each call.

use super::records::KeyEntry;
use super::shelves::Shelves;
use crate::kms::blob::KeyName;
use crate::sync::Arc;
use crate::sys::prefetch::prefetch;

/// A map that is cheap to clone.
#[derive(Clone, Default)]
pub struct KeyIndex(Shelves<Arc<KeyEntry>>);

impl KeyIndex {
    fn hash(&self, region: &str, name: &KeyName) -> u64 {
        self.0.hash(&[name.bytes(), region.as_bytes()])
    }

    pub fn get(&self, region: &str, name: &KeyName) -> Option<&Arc<KeyEntry>> {
        let found = self.0.find(self.hash(region, name), |key| {
            // The whole of what calls need of it, while its beginning is on the way.
            key.prefetch();
            key.is(region, name)
        })?;
        // Its texts and its material are elsewhere in memory, and every call needs them soon: by then they are near.
        let arn = found.arn.as_str().as_bytes();
        [arn.first(), arn.last()].into_iter().flatten().for_each(prefetch);
        found.current().into_iter().for_each(|material| prefetch(&**material));
        Some(found)
    }

    pub fn insert(&mut self, key: Arc<KeyEntry>) {
        let (arn, name) = (key.arn.clone(), key.name);
        let hash = self.hash(arn.region(), &name);
        self.0.put(hash, key, |old| old.is(arn.region(), &name));
    }

    pub fn remove(&mut self, region: &str, name: &KeyName) {
        let hash = self.hash(region, name);
        self.0.remove(hash, |key| key.is(region, name));
    }
}
