//! What AWS's model says of single members, whatever the operation: lengths, bounds, patterns (API model of version
//! 2014-11-01). Every request is held against it before anything is looked up for it, whether it came by the wire or
//! from this process ([`members`](super::check::members)).

use std::ops::RangeInclusive;

/// What a member must be like.
pub struct Rule {
    /// Least and greatest number; or number of characters, bytes or items.
    pub bounds: RangeInclusive<u32>,
    pub pattern: Option<Pattern>,
}

/// A pattern as AWS's texts have it, and whether a text satisfies it.
pub type Pattern = (&'static str, fn(&str) -> bool);

/// The rule for the member that stands at `path`: its name as of a field, below the names of what it stands in; `member`
/// stands for each item of a list.
#[rustfmt::skip]
pub const fn rule(path: &str) -> Option<Rule> {
    let (bounds, pattern): (_, Option<Pattern>) = match path.as_bytes() {
        b"alias_name" | b"name" => (1..=256, Some(("^[a-zA-Z0-9:/_-]+$", |text| only(text, ":/_-")))),
        b"ciphertext_blob" | b"encrypted_key_material" | b"import_token" | b"mac" | b"shared_secret_ciphertext_blob"
            | b"signature" => (1..=6144, None),
        b"cloud_hsm_cluster_id" => (19..=24, Some(("cluster-[2-7a-zA-Z]{11,16}", is_cluster_id))),
        b"constraints.source_arn" =>
            (20..=512, Some(("^arn:aws[a-z0-9-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]{12}:.+$", is_arn))),
        b"custom_key_store_id" => (1..=64, None),
        b"custom_key_store_name" | b"new_custom_key_store_name" => (1..=256, None),
        // An encryption context counts as long as its canonical encoding.
        b"description" | b"encryption_context" | b"source_encryption_context" | b"destination_encryption_context" =>
            (0..=8192, None),
        b"grant_id" | b"tag_keys.member" | b"tags.member.tag_key" => (1..=128, None),
        b"grant_token" | b"grant_tokens.member" | b"public_key" => (1..=8192, None),
        b"grant_tokens" => (0..=10, None),
        b"grantee_principal" | b"retiring_principal" =>
            (1..=256, Some(("^[\\w+=,.@:/-]+$", |text| only(text, "_+=,.@:/-")))),
        b"grantee_service_principal" | b"retiring_service_principal" =>
            (1..=128, Some(("^([A-Za-z0-9\\-]+)\\.([A-Za-z0-9\\-]+)(\\.[A-Za-z0-9\\-]+)+$", is_service))),
        b"key_id" | b"source_key_id" | b"destination_key_id" | b"target_key_id" => (1..=2048, None),
        b"key_material_description" =>
            (0..=256, Some(("^[a-zA-Z0-9:/_\\s.-]+$", |text| only(text, ":/_ \t\n\r\u{b}\u{c}.-")))),
        b"key_material_id" =>
            (64..=64, Some(("^[a-f0-9]+$", |text| text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))))),
        b"key_store_password" => (7..=32, None),
        b"limit" => (1..=1000, None),
        b"marker" =>
            (1..=1024, Some(("[\\u0020-\\u00FF]*", |text| text.chars().all(|c| matches!(c, ' '..='\u{ff}'))))),
        b"message" | b"plaintext" => (1..=4096, None),
        b"number_of_bytes" => (1..=1024, None),
        b"operations" => (1..=u32::MAX, None),
        b"pending_window_in_days" => (1..=365, None),
        b"policy" => (1..=131_072, Some(("[\\u0009\\u000A\\u000D\\u0020-\\u00FF]+", |text| {
            text.chars().all(|c| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{ff}'))
        }))),
        b"policy_name" => (1..=128, Some(("[\\w]+", |text| only(text, "_")))),
        b"primary_region" | b"replica_region" => (1..=32, Some(("^([a-z]+-){2,3}\\d+$", is_region))),
        b"resource_owners" => (1..=2, None),
        b"rotation_period_in_days" => (90..=2560, None),
        b"tags.member.tag_value" => (0..=256, None),
        b"trust_anchor_certificate" => (1..=5000, None),
        _ => return None,
    };
    Some(Rule { bounds, pattern })
}

/// Whether `text` is of letters, digits and the characters of `others`.
pub fn only(text: &str, others: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

fn is_cluster_id(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphabetic() || ('2'..='7').contains(&c);
    text.strip_prefix("cluster-").is_some_and(|id| (11..=16).contains(&id.len()) && id.chars().all(legal))
}

fn is_service(text: &str) -> bool {
    text.split('.').count() >= 3 && text.split('.').all(|label| !label.is_empty() && only(label, "-"))
}

fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let (number, words) = parts.split_last().expect("one part at least");
    let are = |text: &str, legal: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(legal);
    matches!(words.len(), 2 | 3)
        && words.iter().all(|word| are(word, u8::is_ascii_lowercase))
        && are(number, u8::is_ascii_digit)
}

fn is_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let ["arn", partition, service, region, account, resource] = parts[..] else { return false };
    let word = |text: &str| text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
    let is_account = account.len() == 12 && account.bytes().all(|c| c.is_ascii_digit());
    let names = partition.strip_prefix("aws").is_some_and(word) && !service.is_empty() && word(service) && word(region);
    names && is_account && !resource.is_empty()
}
