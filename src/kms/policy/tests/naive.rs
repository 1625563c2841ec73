//! A second evaluator, as slow and as literal as can be: it reads the JSON anew for every question, and follows AWS's
//! description of the evaluation step by step. It shares no code with the first.

use serde_json::Value;

use super::Map;

pub struct Asked<'a> {
    pub principal: &'a str,
    pub action: &'a str,
    pub resource: &'a str,
    pub attributes: &'a Map,
    pub owner: &'a str,
    /// Asked by somebody who may know everything.
    pub explained: bool,
}

/// `Ok` or the part of AWS's text that says why not. `grants`: for each grant that fits, whether it names the caller.
pub fn allowed(asked: &Asked<'_>, key: &Value, identity: &[Value], grants: &[bool]) -> Result<(), &'static str> {
    let account = asked.principal.split(':').nth(4).expect("an ARN");
    let is_root = asked.principal.ends_with(":root");
    let own = account == asked.owner;
    let any_key = |effect: &str, who: &dyn Fn(&str) -> bool| {
        statements(key).iter().any(|s| s["Effect"] == effect && who(named(s, asked)) && applies(key, s, asked))
    };
    let lets_in = any_key("Allow", &|who| who != "nobody") || !grants.is_empty();
    let deny = |reason| if own || lets_in || asked.explained { reason } else { "deny unseen" };
    if any_key("Deny", &|who| who != "nobody") {
        return Err(deny("deny resource"));
    }
    let any_identity = |effect: &str| {
        let of = |policy: &Value| statements(policy).iter().any(|s| s["Effect"] == effect && applies(policy, s, asked));
        identity.iter().any(of)
    };
    if any_identity("Deny") {
        return Err(deny("deny identity"));
    }
    let iam = any_identity("Allow");
    let allows = |wanted: &str| any_key("Allow", &|who| who == wanted);
    let direct = allows("caller") || is_root && allows("account") || grants.iter().any(|names_caller| *names_caller);
    let delegated = allows("account") || grants.iter().any(|names_caller| !names_caller);
    if own && direct {
        return Ok(());
    }
    if (direct || delegated) && iam {
        return Ok(());
    }
    Err(if direct || delegated { "no identity" } else { "no resource" })
}

fn statements(policy: &Value) -> Vec<&Value> {
    match &policy["Statement"] {
        Value::Array(list) => list.iter().collect(),
        one => vec![one],
    }
}

fn list(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(list).collect(),
        Value::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    }
}

fn names(value: &Value) -> Vec<String> {
    if value == "*" { vec!["*".into()] } else { list(&value["AWS"]) }
}

fn named(statement: &Value, asked: &Asked<'_>) -> &'static str {
    let account = asked.principal.split(':').nth(4).expect("an ARN");
    let root = format!("arn:aws:iam::{account}:root");
    let is_root = asked.principal == root;
    if let Some(exempt) = statement.get("NotPrincipal") {
        let hit = names(exempt).iter().any(|n| n == "*" || n == asked.principal || is_root && n == account);
        return if hit { "nobody" } else { "caller" };
    }
    let names = names(&statement["Principal"]);
    if names.iter().any(|n| n == "*" || n == asked.principal || is_root && n == account) {
        "caller"
    } else if names.iter().any(|n| *n == root || n == account) {
        "account"
    } else {
        "nobody"
    }
}

fn applies(policy: &Value, statement: &Value, asked: &Asked<'_>) -> bool {
    let filled = |text: &str| if policy["Version"] == "2012-10-17" { fill(text, asked) } else { Some(text.into()) };
    let action = format!("kms:{}", asked.action).to_lowercase();
    let about = |element: &str, matches: &dyn Fn(&str) -> bool| {
        if let Some(value) = statement.get(element) {
            list(value).iter().any(|text| matches(text))
        } else if let Some(value) = statement.get(format!("Not{element}").as_str()) {
            !list(value).iter().any(|text| matches(text))
        } else {
            false
        }
    };
    about("Action", &|text| glob(&text.to_lowercase(), &action))
        && about("Resource", &|text| {
            // Variables count in the sixth part only.
            let mut parts: Vec<String> = text.splitn(6, ':').map(str::to_owned).collect();
            if parts.len() == 6 {
                let Some(last) = filled(&parts[5]) else { return false };
                parts[5] = last;
            }
            text == "*" || arn(&parts.join(":"), asked.resource)
        })
        && match &statement["Condition"] {
            Value::Object(operators) => operators.iter().all(|(operator, keys)| {
                keys.as_object().expect("an object").iter().all(|(key, values)| {
                    let found = asked.attributes.0.get(&key.to_lowercase()).cloned().unwrap_or_default();
                    let values = list(values);
                    let takes_variables = operator.contains("String") || operator.contains("Arn");
                    let values = match takes_variables {
                        true => values.iter().filter_map(|value| filled(value)).collect(),
                        false => values,
                    };
                    condition(operator, &values, &found)
                })
            }),
            _ => true,
        }
}

fn condition(operator: &str, wanted: &[String], found: &[String]) -> bool {
    if let Some(rest) = operator.strip_suffix("IfExists") {
        // An absent key satisfies it; ForAllValues is satisfied by absence anyway.
        return found.is_empty() || condition(rest, wanted, found);
    }
    if let Some(rest) = operator.strip_prefix("ForAllValues:") {
        return found.iter().all(|value| condition(rest, wanted, std::slice::from_ref(value)));
    }
    if let Some(rest) = operator.strip_prefix("ForAnyValue:") {
        return found.iter().any(|value| condition(rest, wanted, std::slice::from_ref(value)));
    }
    if operator == "Null" {
        return wanted.iter().any(|value| (value == "true") == found.is_empty());
    }
    // Not X is the opposite of X, and so holds for an absent key.
    match operator {
        "StringNotEquals" => return !condition("StringEquals", wanted, found),
        "StringNotLike" => return !condition("StringLike", wanted, found),
        "StringNotEqualsIgnoreCase" => return !condition("StringEqualsIgnoreCase", wanted, found),
        "NumericNotEquals" => return !condition("NumericEquals", wanted, found),
        "NotIpAddress" => return !condition("IpAddress", wanted, found),
        "ArnNotLike" => return !condition("ArnLike", wanted, found),
        "DateNotEquals" => return !condition("DateEquals", wanted, found),
        _ => {}
    }
    let number = |text: &str| text.parse::<f64>().ok();
    let compare =
        |test: fn(&f64, &f64) -> bool, a: &str, b: &str| number(a).zip(number(b)).is_some_and(|(a, b)| test(&a, &b));
    found.iter().any(|have| {
        wanted.iter().any(|want| match operator {
            "StringEquals" => *have == plain(want),
            "StringEqualsIgnoreCase" => have.to_lowercase() == plain(want).to_lowercase(),
            "StringLike" => glob(want, have),
            "NumericEquals" => compare(|a, b| a == b, have, want),
            "NumericLessThan" => compare(|a, b| a < b, have, want),
            "NumericGreaterThanEquals" => compare(|a, b| a >= b, have, want),
            // The dates here all have the same form and so sort like texts.
            "DateEquals" => have == want,
            "DateLessThan" => have < want,
            "Bool" => have == want,
            "ArnLike" => arn(want, have),
            "IpAddress" => in_network(want, have),
            other => panic!("{other} is not one of the operators drawn"),
        })
    })
}

/// Characters that stand for `*`, `?` and `:` where they come from a variable, and so mean nothing but themselves.
const QUOTED: [(char, char); 3] = [('*', '\u{e000}'), ('?', '\u{e001}'), (':', '\u{e002}')];

/// `text` with its variables replaced; `None` if one has no value.
fn fill(text: &str, asked: &Asked<'_>) -> Option<String> {
    let Some((before, after)) = text.split_once("${") else { return Some(text.to_owned()) };
    let Some((inside, rest)) = after.split_once('}').filter(|(inside, _)| !inside.is_empty()) else {
        return Some(format!("{before}${{{}", fill(after, asked)?));
    };
    let value = match inside {
        "*" | "?" | "$" => inside.to_owned(),
        _ => {
            let (key, default) = inside.split_once(", ").unwrap_or((inside, ""));
            let found = asked.attributes.0.get(&key.to_lowercase()).filter(|values| values.len() == 1);
            let default = default.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
            found.map(|values| values[0].clone()).or(default.map(str::to_owned))?
        }
    };
    let quoted = QUOTED.iter().fold(value, |value, (c, stand_in)| value.replace(*c, &stand_in.to_string()));
    Some(format!("{before}{quoted}{}", fill(rest, asked)?))
}

/// Without stand-ins.
fn plain(text: &str) -> String {
    QUOTED.iter().fold(text.to_owned(), |text, (c, stand_in)| text.replace(*stand_in, &c.to_string()))
}

fn in_network(network: &str, address: &str) -> bool {
    let bits = |text: &str| -> String {
        text.split('.').map(|part| format!("{:08b}", part.parse::<u8>().expect("a byte"))).collect()
    };
    let (base, length) = network.split_once('/').unwrap_or((network, "32"));
    let length: usize = length.parse().expect("a number");
    bits(base)[..length] == bits(address)[..length]
}

/// Part by part, the sixth with all that follows.
fn arn(pattern: &str, text: &str) -> bool {
    let (patterns, parts): (Vec<&str>, Vec<&str>) = (pattern.splitn(6, ':').collect(), text.splitn(6, ':').collect());
    patterns.len() == parts.len() && patterns.iter().zip(&parts).all(|(pattern, part)| glob(pattern, part))
}

/// By its definition: exponential, and obviously right.
pub fn glob(pattern: &str, text: &str) -> bool {
    let mut rest = pattern.chars();
    match (rest.next(), text.chars().next()) {
        (None, None) => true,
        (Some('*'), found) => {
            glob(rest.as_str(), text) || found.is_some_and(|found| glob(pattern, &text[found.len_utf8()..]))
        }
        (Some('?'), Some(found)) => glob(rest.as_str(), &text[found.len_utf8()..]),
        (Some(wanted), Some(found)) => {
            plain(&wanted.to_string()) == found.to_string() && glob(rest.as_str(), &text[found.len_utf8()..])
        }
        _ => false,
    }
}
