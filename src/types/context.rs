//! Encryption context of AWS KMS.

use std::collections::BTreeMap;

/// Non-secret name-value pairs that a wrapped key is bound to: decryption needs exactly the same set. Names and
/// values are compared byte by byte; the order of the pairs does not matter, an empty set and none are the same.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, serde::Deserialize)]
#[serde(from = "BTreeMap<String, String>")]
pub struct EncryptionContext(
    /// Sorted by the names: there are few, and they are read several times in each call.
    Vec<(String, String)>,
);

impl EncryptionContext {
    /// The empty context.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same context with one more pair.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        match self.0.binary_search_by(|(known, _)| known.cmp(&name)) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (name, value)),
        }
        self
    }

    /// The pairs, sorted by the bytes of the name.
    pub fn pairs(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(known, _)| known.as_str().cmp(name)).ok()?;
        Some(&self.0[at].1)
    }
}

impl From<BTreeMap<String, String>> for EncryptionContext {
    fn from(pairs: BTreeMap<String, String>) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl FromIterator<(String, String)> for EncryptionContext {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        BTreeMap::from_iter(pairs).into()
    }
}

impl serde::Serialize for EncryptionContext {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.pairs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_once_and_the_order_does_not_matter() {
        let one = EncryptionContext::new().with("b", "1").with("a", "2").with("b", "3").with("\u{e4}", "");
        let pairs: Vec<_> = one.pairs().collect();
        assert_eq!(pairs, [("a", "2"), ("b", "3"), ("\u{e4}", "")]);
        assert_eq!([one.get("b"), one.get("c")], [Some("3"), None]);
        let other = [("\u{e4}", ""), ("a", "0"), ("b", "3"), ("a", "2")];
        let other = other.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        assert_eq!(one, other);
        let json = serde_json::to_string(&one).expect("serialises");
        assert_eq!(json, "{\"a\":\"2\",\"b\":\"3\",\"\u{e4}\":\"\"}");
        assert_eq!(serde_json::from_str::<EncryptionContext>(&json).expect("reads"), one);
    }
}
