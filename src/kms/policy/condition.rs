//! Conditions of statements.

use std::fmt;
use std::net::IpAddr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Attributes;
use super::pattern::{ArnPattern, Pattern};
use super::variable::{Template, Version};
use crate::kms::json::Json;

/// One operator applied to one condition key.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// As the policy has it, for example `ForAnyValue:StringLikeIfExists`.
    operator: String,
    /// As the policy has it.
    key: String,
    /// In lower case: case does not matter in names of condition keys.
    folded_key: String,
    quantifier: Quantifier,
    negated: bool,
    if_exists: bool,
    test: Test,
}

/// What becomes of several values in the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quantifier {
    /// No prefix.
    Plain,
    /// `ForAllValues:`.
    All,
    /// `ForAnyValue:`.
    Any,
}

/// The values of the policy, read as the operator wants them. One that fits is enough.
#[derive(Debug, Clone, PartialEq)]
enum Test {
    Text(Vec<Template>),
    /// `BinaryEquals`, which takes no variables.
    Binary(Vec<String>),
    Number(Order, Vec<f64>),
    /// Nanoseconds since the epoch.
    Date(Order, Vec<i128>),
    Bool(Vec<bool>),
    Address(Vec<Network>),
    Arn(Vec<ArnPattern>),
    /// Whether the key is absent.
    Null(Vec<bool>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Equals,
    LessThan,
    LessThanEquals,
    GreaterThan,
    GreaterThanEquals,
}

impl Order {
    /// `Equals`, `LessThan` and so on; negated is `NotEquals`.
    fn parse(name: &str) -> Option<(Self, bool)> {
        Some(match name {
            "Equals" => (Self::Equals, false),
            "NotEquals" => (Self::Equals, true),
            "LessThan" => (Self::LessThan, false),
            "LessThanEquals" => (Self::LessThanEquals, false),
            "GreaterThan" => (Self::GreaterThan, false),
            "GreaterThanEquals" => (Self::GreaterThanEquals, false),
            _ => return None,
        })
    }

    fn holds<T: PartialOrd>(self, found: &T, wanted: &T) -> bool {
        match self {
            Self::Equals => found == wanted,
            Self::LessThan => found < wanted,
            Self::LessThanEquals => found <= wanted,
            Self::GreaterThan => found > wanted,
            Self::GreaterThanEquals => found >= wanted,
        }
    }
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address.parse::<IpAddr>().ok()?, Some(prefix.parse::<u32>().ok()?)),
            None => (text.parse().ok()?, None),
        };
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(bits);
        (prefix <= bits).then_some(Self { address, prefix })
    }

    fn contains(&self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, bits: u32| match bits - self.prefix {
            128 => true,
            host_bits => a >> host_bits == b >> host_bits,
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

/// A date of ISO 8601 as IAM takes them, or seconds since the epoch; in nanoseconds since the epoch.
fn date(text: &str) -> Option<i128> {
    // Four digits are a year.
    if text.len() != 4
        && let Some(nanos) = unix_time(text)
    {
        return Some(nanos);
    }
    let full = match text.len() {
        4 => format!("{text}-01-01T00:00:00Z"),
        7 => format!("{text}-01T00:00:00Z"),
        10 => format!("{text}T00:00:00Z"),
        17 if text.ends_with('Z') => format!("{}:00Z", text.trim_end_matches('Z')),
        _ => text.to_owned(),
    };
    OffsetDateTime::parse(&full, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp_nanos)
}

/// Seconds since the epoch, possibly with a fraction (`1546257599.0`), in nanoseconds; what is below them is left out.
fn unix_time(text: &str) -> Option<i128> {
    let (secs, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: i128 = format!("{fraction:0<9}")[..9].parse().ok()?;
    let whole = i128::from(secs.parse::<i64>().ok()?) * 1_000_000_000;
    Some(if secs.starts_with('-') { whole - nanos } else { whole + nanos })
}

/// A number; a date of ISO 8601 counts as its seconds since the epoch, so that both families of operators know a time.
fn number(text: &str) -> Option<f64> {
    text.parse().ok().or_else(|| Some(date(text)? as f64 / 1e9))
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

impl Condition {
    /// The conditions of a `Condition` element; the error says what is wrong with it.
    pub fn parse(json: &Json<'_>, version: Version) -> Result<Vec<Self>, String> {
        let Json::Object(operators) = json else { return Err("Condition is an object".into()) };
        let mut all = Vec::new();
        for (operator, keys) in operators {
            let operator = operator.as_str();
            let Json::Object(keys) = keys else { return Err(format!("the operator {operator} takes an object")) };
            for (key, values) in keys {
                all.push(Self::new(operator, key.as_str(), values, version)?);
            }
        }
        Ok(all)
    }

    fn new(operator: &str, key: &str, values: &Json<'_>, version: Version) -> Result<Self, String> {
        let texts = match values {
            Json::List(items) => items.iter().map(value).collect::<Option<Vec<_>>>(),
            one => value(one).map(|text| vec![text]),
        };
        let texts = texts.ok_or_else(|| format!("the values of {key} are texts, numbers or booleans"))?;
        let (quantifier, rest) = match operator.split_once(':') {
            Some(("ForAllValues", rest)) => (Quantifier::All, rest),
            Some(("ForAnyValue", rest)) => (Quantifier::Any, rest),
            _ => (Quantifier::Plain, operator),
        };
        let (base, if_exists) = match rest.strip_suffix("IfExists") {
            Some(base) => (base, true),
            None => (rest, false),
        };
        let unknown = || format!("there is no condition operator {operator}");
        let (test, negated) = Test::parse(base, &texts, version).ok_or_else(unknown)?;
        let test = test.map_err(|text| format!("'{text}' is no value for {operator}"))?;
        if matches!(test, Test::Null(_)) && (if_exists || quantifier != Quantifier::Plain) {
            return Err(unknown());
        }
        Ok(Self {
            operator: operator.to_owned(),
            key: key.to_owned(),
            folded_key: key.to_lowercase(),
            quantifier,
            negated,
            if_exists,
            test,
        })
    }

    pub fn holds(&self, request: &dyn Attributes) -> bool {
        let found = request.values(&self.folded_key);
        if let Test::Null(wanted) = &self.test {
            return wanted.contains(&found.is_empty());
        }
        let fits = |value: &std::borrow::Cow<'_, str>| self.test.fits(value, request) != self.negated;
        match self.quantifier {
            Quantifier::All => found.iter().all(fits),
            Quantifier::Any if found.is_empty() => self.if_exists,
            Quantifier::Any => found.iter().any(fits),
            Quantifier::Plain if found.is_empty() => self.if_exists || self.negated,
            Quantifier::Plain if self.negated => found.iter().all(fits),
            Quantifier::Plain => found.iter().any(fits),
        }
    }
}

/// A value of a condition as text.
fn value(json: &Json<'_>) -> Option<String> {
    match json {
        Json::Text(text) => Some(text.as_str().to_owned()),
        Json::Bool(value) => Some(value.to_string()),
        Json::Integer(value) => Some(value.to_string()),
        Json::Float(value) => Some(value.to_string()),
        Json::Null | Json::List(_) | Json::Object(_) => None,
    }
}

impl Test {
    /// The operator `name` with its values, and whether it is a negated one; `None` if there is no such operator, `Err`
    /// with the first value that it does not take.
    fn parse(name: &str, values: &[String], version: Version) -> Option<(Result<Self, String>, bool)> {
        fn all<T>(values: &[String], parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
            values.iter().map(|text| parse(text).ok_or_else(|| text.clone())).collect()
        }
        let text = |new: fn(&str) -> Pattern| {
            Ok(Self::Text(values.iter().map(|text| Template::new(new(text), version)).collect()))
        };
        let arns = || Ok(Self::Arn(values.iter().map(|text| ArnPattern::new(text, version)).collect()));
        let networks = || all(values, Network::parse).map(Self::Address);
        if let Some((order, negated)) = name.strip_prefix("Numeric").and_then(Order::parse) {
            return Some((all(values, |text| text.parse().ok()).map(|values| Self::Number(order, values)), negated));
        }
        if let Some((order, negated)) = name.strip_prefix("Date").and_then(Order::parse) {
            return Some((all(values, date).map(|values| Self::Date(order, values)), negated));
        }
        Some(match name {
            "StringEquals" => (text(Pattern::literal), false),
            "StringNotEquals" => (text(Pattern::literal), true),
            "StringEqualsIgnoreCase" => (text(Pattern::literal_ignoring_case), false),
            "StringNotEqualsIgnoreCase" => (text(Pattern::literal_ignoring_case), true),
            "StringLike" => (text(Pattern::new), false),
            "StringNotLike" => (text(Pattern::new), true),
            "BinaryEquals" => (Ok(Self::Binary(values.to_vec())), false),
            "ArnEquals" | "ArnLike" => (arns(), false),
            "ArnNotEquals" | "ArnNotLike" => (arns(), true),
            "IpAddress" => (networks(), false),
            "NotIpAddress" => (networks(), true),
            "Bool" => (all(values, boolean).map(Self::Bool), false),
            "Null" => (all(values, boolean).map(Self::Null), false),
            _ => return None,
        })
    }

    /// Whether a value of the request fits one of the policy.
    fn fits(&self, value: &str, request: &dyn Attributes) -> bool {
        match self {
            Self::Text(wanted) => wanted.iter().any(|pattern| pattern.matches(value, request)),
            Self::Binary(wanted) => wanted.iter().any(|wanted| wanted == value),
            Self::Arn(wanted) => wanted.iter().any(|pattern| pattern.matches(value, request)),
            Self::Number(order, wanted) => {
                number(value).is_some_and(|found| wanted.iter().any(|wanted| order.holds(&found, wanted)))
            }
            Self::Date(order, wanted) => {
                date(value).is_some_and(|found| wanted.iter().any(|wanted| order.holds(&found, wanted)))
            }
            Self::Bool(wanted) => boolean(value).is_some_and(|found| wanted.contains(&found)),
            Self::Address(wanted) => {
                value.parse().is_ok_and(|found| wanted.iter().any(|network| network.contains(found)))
            }
            Self::Null(_) => false,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.operator, self.key)
    }
}
