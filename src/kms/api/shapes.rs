//! What AWS's model says of single members, whatever the operation: lengths, bounds, patterns (API model of version
//! 2014-11-01). Requests are held against it while they are read, so that a request that breaks a constraint is refused
//! before anything is looked up for it.

use std::ops::RangeInclusive;

use crate::kms::engine::Constraints;

/// What a member has that bounds apply to.
pub enum Measure<'a> {
    /// Characters, which an error repeats.
    Text(&'a str),
    /// Bytes or characters of what an error does not repeat.
    Hidden(usize),
    /// Members of a list.
    Items(usize),
    /// A number.
    Number(u32),
}

/// Bounds by the member's path; `member` stands for each member of a list.
#[rustfmt::skip]
pub const BOUNDS: [(&str, RangeInclusive<u32>); 53] = [
    ("aliasName", 1..=256),
    ("ciphertextBlob", 1..=6144),
    ("cloudHsmClusterId", 19..=24),
    ("constraints.sourceArn", 20..=512),
    ("customKeyStoreId", 1..=64),
    ("customKeyStoreName", 1..=256),
    ("description", 0..=8192),
    ("destinationKeyId", 1..=2048),
    ("encryptedKeyMaterial", 1..=6144),
    ("grantId", 1..=128),
    ("grantToken", 1..=8192),
    ("grantTokens", 0..=10),
    ("grantTokens.member", 1..=8192),
    ("granteePrincipal", 1..=256),
    ("granteeServicePrincipal", 1..=128),
    ("importToken", 1..=6144),
    ("keyId", 1..=2048),
    ("keyMaterialDescription", 0..=256),
    ("keyMaterialId", 64..=64),
    ("keyStorePassword", 7..=32),
    ("limit", 1..=1000),
    ("mac", 1..=6144),
    ("marker", 1..=1024),
    ("message", 1..=4096),
    ("name", 1..=256),
    ("newCustomKeyStoreName", 1..=256),
    ("numberOfBytes", 1..=1024),
    ("pendingWindowInDays", 1..=365),
    ("plaintext", 1..=4096),
    ("policy", 1..=131_072),
    ("policyName", 1..=128),
    ("primaryRegion", 1..=32),
    ("publicKey", 1..=8192),
    ("replicaRegion", 1..=32),
    ("resourceOwners", 1..=2),
    ("retiringPrincipal", 1..=256),
    ("retiringServicePrincipal", 1..=128),
    ("rotationPeriodInDays", 90..=2560),
    ("sharedSecretCiphertextBlob", 1..=6144),
    ("signature", 1..=6144),
    ("sourceKeyId", 1..=2048),
    ("tagKeys.member", 1..=128),
    ("tags.member.tagKey", 1..=128),
    ("tags.member.tagValue", 0..=256),
    ("targetKeyId", 1..=2048),
    ("trustAnchorCertificate", 1..=5000),
    ("xksKeyId", 1..=128),
    ("xksProxyAuthenticationCredential.accessKeyId", 20..=30),
    ("xksProxyAuthenticationCredential.rawSecretAccessKey", 43..=64),
    ("xksProxyUriEndpoint", 10..=128),
    ("xksProxyUriPath", 10..=128),
    ("xksProxyVpcEndpointServiceName", 20..=64),
    ("xksProxyVpcEndpointServiceOwner", 12..=12),
];

/// A pattern as AWS's texts have it, and whether a text satisfies it.
type Pattern = (&'static str, fn(&str) -> bool);

fn pattern(name: &str) -> Option<Pattern> {
    Some(match name {
        "aliasName" | "name" => ("^[a-zA-Z0-9:/_-]+$", |text| only(text, ":/_-")),
        "cloudHsmClusterId" => ("cluster-[2-7a-zA-Z]{11,16}", |text| {
            let legal = |c: char| c.is_ascii_alphabetic() || ('2'..='7').contains(&c);
            text.strip_prefix("cluster-").is_some_and(|id| (11..=16).contains(&id.len()) && id.chars().all(legal))
        }),
        "constraints.sourceArn" => ("^arn:aws[a-z0-9-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]{12}:.+$", is_arn),
        "granteePrincipal" | "retiringPrincipal" => ("^[\\w+=,.@:/-]+$", |text| only(text, "_+=,.@:/-")),
        "granteeServicePrincipal" | "retiringServicePrincipal" => {
            ("^([A-Za-z0-9\\-]+)\\.([A-Za-z0-9\\-]+)(\\.[A-Za-z0-9\\-]+)+$", |text| {
                text.split('.').count() >= 3 && text.split('.').all(|label| !label.is_empty() && only(label, "-"))
            })
        }
        "keyMaterialDescription" => ("^[a-zA-Z0-9:/_\\s.-]+$", |text| only(text, ":/_ \t\n\r\u{b}\u{c}.-")),
        "keyMaterialId" => ("^[a-f0-9]+$", |text| text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))),
        "marker" => ("[\\u0020-\\u00FF]*", |text| text.chars().all(|c| (' '..='\u{ff}').contains(&c))),
        "policyName" => ("[\\w]+", |text| only(text, "_")),
        "primaryRegion" | "replicaRegion" => ("^([a-z]+-){2,3}\\d+$", |text| {
            let parts: Vec<&str> = text.split('-').collect();
            let (number, words) = parts.split_last().expect("one part at least");
            let are = |text: &str, legal: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(legal);
            matches!(words.len(), 2 | 3)
                && words.iter().all(|word| are(word, u8::is_ascii_lowercase))
                && are(number, u8::is_ascii_digit)
        }),
        _ => return None,
    })
}

/// Whether `text` is of letters, digits and the characters of `others`.
fn only(text: &str, others: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

fn is_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let ["arn", partition, service, region, account, resource] = parts[..] else { return false };
    let word = |text: &str| text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
    let is_account = account.len() == 12 && account.bytes().all(|c| c.is_ascii_digit());
    let names = partition.strip_prefix("aws").is_some_and(word) && !service.is_empty() && word(service) && word(region);
    names && is_account && !resource.is_empty()
}

/// Holds what stands at `path` against the model.
pub fn check(found: Constraints, path: &str, value: &Measure<'_>) -> Constraints {
    // `tags.2.member.tagKey` is any `tags.member.tagKey`.
    let mut name = String::new();
    let name = match path.contains('.') {
        false => path,
        true => {
            for part in path.split('.').filter(|part| !part.bytes().all(|c| c.is_ascii_digit())) {
                name.push_str(if name.is_empty() { "" } else { "." });
                name.push_str(part);
            }
            &name
        }
    };
    let Ok(at) = BOUNDS.binary_search_by(|(other, _)| (*other).cmp(name)) else { return found };
    let bounds = &BOUNDS[at].1;
    let lengths = *bounds.start() as usize..=*bounds.end() as usize;
    match *value {
        Measure::Number(number) => found.number(path, Some(number), bounds.clone()),
        Measure::Hidden(len) => found.bytes(path, len, lengths),
        Measure::Items(len) => found.list(path, len, lengths),
        // A policy may be long and is not repeated.
        Measure::Text(text) if name == "policy" => found.bytes(path, text.chars().count(), lengths),
        Measure::Text(text) => {
            let found = found.text(path, text, lengths);
            match pattern(name) {
                Some((pattern, fits)) if !text.is_empty() && !fits(text) => found.mismatch(path, text, pattern),
                _ => found,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(path: &str, value: &Measure<'_>) -> String {
        check(Constraints::default(), path, value).done().err().map_or(String::new(), |error| error.to_string())
    }

    #[test]
    fn the_table_is_sorted_and_found_by_path() {
        assert!(BOUNDS.is_sorted_by(|(a, _), (b, _)| a < b));
        let long = "x".repeat(129);
        for path in ["tagKeys.3.member", "tags.12.member.tagKey", "policyName"] {
            let text = violations(path, &Measure::Text(&long));
            assert!(
                text.contains(&format!("at '{path}' failed")) && text.contains("less than or equal to 128"),
                "{text}"
            );
        }
        // Names of an encryption context are the caller's own.
        for path in ["encryptionContext.policy", "encryptionContext.1.keyId", "encryptionContext.tags.member.tagKey"] {
            assert_eq!(violations(path, &Measure::Text("")), "");
        }
        assert!(!violations("keyStorePassword", &Measure::Hidden(6)).contains("Value '"));
        assert_eq!(violations("pendingWindowInDays", &Measure::Number(365)), "");
        assert!(violations("grantTokens", &Measure::Items(11)).contains("less than or equal to 10"));
    }

    #[test]
    fn patterns() {
        let legal = [
            ("aliasName", "alias/a_B-9:/"),
            ("cloudHsmClusterId", "cluster-2a34b5cdefg"),
            ("constraints.sourceArn", "arn:aws:ec2:us-east-1:111122223333:volume/v"),
            ("constraints.sourceArn", "arn:aws-cn:s3::111122223333:b"),
            ("granteePrincipal", "arn:aws:iam::111122223333:user/a+b=c,d.e@f-g_h"),
            ("granteeServicePrincipal", "kmsfs.us-east-1.local"),
            ("keyMaterialDescription", "of 2026: a/b_c.d-e"),
            ("primaryRegion", "us-gov-east-1"),
            ("policyName", "AWS_RAM"),
            ("marker", " \u{ff}"),
        ];
        for (path, text) in legal {
            assert_eq!(violations(path, &Measure::Text(text)), "", "{path}");
        }
        let illegal = [
            ("name", "a b"),
            ("cloudHsmClusterId", "cluster-11111111111"),
            ("constraints.sourceArn", "arn:aws:ec2:us-east-1:1111222233:volume/v"),
            ("constraints.sourceArn", "arn:gcp:ec2:us-east-1:111122223333:volume/v"),
            ("retiringPrincipal", "a b"),
            ("retiringServicePrincipal", "ec2.com"),
            ("retiringServicePrincipal", "ec2..amazonaws.com"),
            ("keyMaterialDescription", "a\u{e4}"),
            ("replicaRegion", "us-1"),
            ("replicaRegion", "US-east-1"),
            ("policyName", "a-b"),
            ("marker", "\u{100}"),
        ];
        for (path, text) in illegal {
            let found = violations(path, &Measure::Text(text));
            assert!(found.contains("regular expression pattern"), "{path}: {found}");
        }
    }
}
