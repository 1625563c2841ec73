//! AWS names: accounts, Regions and KMS key ARNs.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The text is not what its type demands.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{text}' is not {expected}")]
pub struct ParseArnError {
    text: String,
    expected: &'static str,
}

/// An AWS account: twelve decimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId([u8; 12]);

impl AccountId {
    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("digits are ASCII")
    }
}

impl FromStr for AccountId {
    type Err = ParseArnError;

    fn from_str(text: &str) -> Result<Self, ParseArnError> {
        match text.as_bytes().try_into() {
            Ok(digits) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(Self(digits)),
            _ => Err(ParseArnError { text: text.to_owned(), expected: "an account id of twelve digits" }),
        }
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A Region, for example `us-east-1`: lower-case letters, digits and hyphens, 1 to 32 of them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Region(String);

impl Region {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The partition of AWS whose Regions are named like this one (`aws`, `aws-cn`, ...); absent if none are. The patterns are
    /// those of the endpoint rules that AWS's SDKs carry.
    pub fn partition(&self) -> Option<&'static str> {
        const BEGINNINGS: [(&str, &str); 16] = [
            ("us-gov-", "aws-us-gov"),
            ("us-iso-", "aws-iso"),
            ("us-isob-", "aws-iso-b"),
            ("us-isof-", "aws-iso-f"),
            ("eu-isoe-", "aws-iso-e"),
            ("eusc-de-", "aws-eusc"),
            ("cn-", "aws-cn"),
            ("af-", "aws"),
            ("ap-", "aws"),
            ("ca-", "aws"),
            ("eu-", "aws"),
            ("il-", "aws"),
            ("me-", "aws"),
            ("mx-", "aws"),
            ("sa-", "aws"),
            ("us-", "aws"),
        ];
        let (rest, partition) =
            BEGINNINGS.iter().find_map(|(prefix, partition)| Some((self.0.strip_prefix(prefix)?, *partition)))?;
        let (place, number) = rest.split_once('-')?;
        let named = !place.is_empty() && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        named.then_some(partition)
    }
}

impl FromStr for Region {
    type Err = ParseArnError;

    fn from_str(text: &str) -> Result<Self, ParseArnError> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=32).contains(&text.len()) && text.bytes().all(legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseArnError { text: text.to_owned(), expected: "a Region name such as us-east-1" })
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The ARN of a KMS key, `arn:aws:kms:<region>:<account>:key/<key id>`, at most 512 bytes. Never an alias. Cheap to
/// clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyArn(Arc<str>);

impl KeyArn {
    /// Longest ARN that a header holds (FORMAT 5.1).
    pub const MAX_LEN: usize = 512;

    /// The ARN of key `key_id`.
    pub fn new(region: &Region, account: &AccountId, key_id: &str) -> Self {
        Self(format!("arn:aws:kms:{region}:{account}:key/{key_id}").into())
    }

    /// The whole ARN.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part behind `key/`.
    pub fn key_id(&self) -> &str {
        self.0.rsplit_once(':').and_then(|(_, key)| key.strip_prefix("key/")).unwrap_or("")
    }

    /// The Region part.
    pub fn region(&self) -> &str {
        self.0.split(':').nth(3).unwrap_or("")
    }

    /// The account part.
    pub fn account(&self) -> &str {
        // It is always as long: what is before the last colon need not be read.
        self.0.rsplit_once(':').and_then(|(before, _)| before.get(before.len() - 12..)).unwrap_or("")
    }
}

impl FromStr for KeyArn {
    type Err = ParseArnError;

    fn from_str(text: &str) -> Result<Self, ParseArnError> {
        let parts: Vec<&str> = text.split(':').collect();
        let well_formed = text.len() <= Self::MAX_LEN
            && matches!(parts.as_slice(), ["arn", partition, "kms", region, account, key]
                if !partition.is_empty()
                    && region.parse::<Region>().is_ok()
                    && account.parse::<AccountId>().is_ok()
                    && key.strip_prefix("key/").is_some_and(|id| !id.is_empty()))
            && text.is_ascii();
        if well_formed {
            Ok(Self(text.into()))
        } else {
            Err(ParseArnError { text: text.to_owned(), expected: "the ARN of a KMS key" })
        }
    }
}

impl fmt::Display for KeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_of_partitions() {
        for (name, partition) in [
            ("us-east-1", Some("aws")),
            ("ap-southeast-7", Some("aws")),
            ("mx-central-1", Some("aws")),
            ("us-gov-west-1", Some("aws-us-gov")),
            ("cn-north-1", Some("aws-cn")),
            ("us-isob-east-1", Some("aws-iso-b")),
            ("eusc-de-east-1", Some("aws-eusc")),
            ("xx-nowhere-9", None),
            ("mars", None),
            ("us-east", None),
            ("us-east-1a", None),
            ("us-gov-1", None),
            ("cn--1", None),
        ] {
            assert_eq!(name.parse::<Region>().expect("a Region").partition(), partition, "{name}");
        }
    }

    #[test]
    fn parts_of_an_arn() {
        let arn: KeyArn = "arn:aws:kms:eu-central-1:111122223333:key/mrk-1".parse().expect("valid");
        assert_eq!((arn.region(), arn.account(), arn.key_id()), ("eu-central-1", "111122223333", "mrk-1"));
    }

    #[test]
    fn aliases_and_other_services_are_refused() {
        for text in [
            "",
            "alias/a",
            "arn:aws:kms:us-east-1:111122223333:alias/a",
            "arn:aws:s3:us-east-1:111122223333:key/a",
            "arn:aws:kms:us-east-1:1111:key/a",
            "arn:aws:kms:us-east-1:111122223333:key/",
        ] {
            assert!(text.parse::<KeyArn>().is_err(), "{text}");
        }
    }
}
