//! Policy variables: in a policy of version 2012-10-17 `${key}` stands for what the request says of the condition key
//! `key` (IAM user guide, "IAM policy elements: Variables and tags").

use super::Attributes;
use super::pattern::{Glyph, Pattern, glob};

/// The version of the policy language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 2008-10-17, and what names no version: `${...}` is taken literally.
    Of2008,
    /// 2012-10-17: there are variables.
    Of2012,
}

/// A pattern that may have variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pattern: Pattern,
    /// Empty if there is no variable in the pattern.
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// As the policy has it, wildcards included.
    Text(Box<str>),
    /// `${*}`, `${?}` and `${$}`: the character itself.
    Literal(char),
    /// A condition key in lower case, and what stands for it if the request has no such key.
    Key(Box<str>, Option<Box<str>>),
}

impl Template {
    pub fn new(pattern: Pattern, version: Version) -> Self {
        let parts = match version {
            Version::Of2012 if pattern.text().contains("${") => parts(pattern.text()),
            _ => Vec::new(),
        };
        Self { pattern, parts }
    }

    /// Whether `text` fits. A variable without value fits nothing.
    pub fn matches(&self, text: &str, request: &dyn Attributes) -> bool {
        if self.parts.is_empty() {
            return self.pattern.matches(text);
        }
        let Some(glyphs) = self.filled(request) else { return false };
        glob(glyphs.iter().copied(), text, self.pattern.ignores_case())
    }

    /// What is to be matched in this request. Wildcards in values are none: whoever chooses a value, as that of an
    /// encryption context, must not choose what the policy is about.
    fn filled(&self, request: &dyn Attributes) -> Option<Vec<Glyph>> {
        let mut glyphs = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => glyphs.extend(text.chars().map(|c| self.pattern.glyph(c))),
                Part::Literal(c) => glyphs.push(Glyph::Char(*c)),
                Part::Key(key, default) => match (&request.values(key)[..], default) {
                    ([value], _) => glyphs.extend(value.chars().map(Glyph::Char)),
                    // Only keys with one value can be variables.
                    (_, Some(default)) => glyphs.extend(default.chars().map(Glyph::Char)),
                    (_, None) => return None,
                },
            }
        }
        Some(glyphs)
    }
}

/// The parts of `text`; none if there is no variable in it.
fn parts(text: &str) -> Vec<Part> {
    let (mut parts, mut rest, mut plain) = (Vec::new(), text, String::new());
    while let Some(at) = rest.find("${") {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        match variable(rest) {
            Some((part, len)) => {
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain).into()));
                }
                parts.push(part);
                rest = &rest[len..];
            }
            // No variable: what it looks like.
            None => {
                plain.push_str("${");
                rest = &rest[2..];
            }
        }
    }
    plain.push_str(rest);
    if !parts.is_empty() && !plain.is_empty() {
        parts.push(Part::Text(plain.into()));
    }
    parts
}

/// The variable with which `text` begins, and its length.
fn variable(text: &str) -> Option<(Part, usize)> {
    let inside = text.strip_prefix("${")?;
    for special in ['*', '?', '$'] {
        if inside.strip_prefix(special).is_some_and(|rest| rest.starts_with('}')) {
            return Some((Part::Literal(special), 4));
        }
    }
    let end = inside.find(['}', ','])?;
    let key = inside[..end].trim();
    if key.is_empty() || key.contains(['$', '{', '*', '?', '\'']) {
        return None;
    }
    let (default, rest) = match inside[end..].strip_prefix(',') {
        None => (None, &inside[end..]),
        Some(rest) => {
            let (default, rest) = rest.trim_start().strip_prefix('\'')?.split_once('\'')?;
            (Some(default.into()), rest.trim_start())
        }
    };
    let rest = rest.strip_prefix('}')?;
    Some((Part::Key(key.to_lowercase().into(), default), text.len() - rest.len()))
}

/// Splits at up to five colons, not at those within variables.
pub fn split_arn(text: &str, version: Version) -> Vec<&str> {
    let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
    while parts.len() < 5 {
        let Some(found) = text[at..].find([':', '$']) else { break };
        at += found;
        match variable(&text[at..]) {
            Some((_, len)) if version == Version::Of2012 => at += len,
            _ => {
                if text[at..].starts_with(':') {
                    parts.push(&text[start..at]);
                    start = at + 1;
                }
                at += 1;
            }
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    struct Request;

    impl Attributes for Request {
        fn values(&self, key: &str) -> Vec<Cow<'_, str>> {
            match key {
                "aws:username" => vec!["alice".into()],
                "kms:encryptioncontext:dir" => vec!["a*".into()],
                "kms:encryptioncontextkeys" => vec!["a".into(), "b".into()],
                _ => Vec::new(),
            }
        }
    }

    fn matches(pattern: &str, text: &str) -> bool {
        Template::new(Pattern::new(pattern), Version::Of2012).matches(text, &Request)
    }

    #[test]
    fn variables_stand_for_values_of_the_request() {
        for (pattern, text) in [
            ("${aws:username}", "alice"),
            ("${AWS:UserName}", "alice"),
            ("a/${aws:username}/*", "a/alice/b"),
            ("${aws:username}${aws:username}", "alicealice"),
            ("${aws:PrincipalTag/team, 'company-wide'}", "company-wide"),
            ("${aws:PrincipalTag/team,'a}b'}", "a}b"),
            ("${aws:username, 'nobody'}", "alice"),
            ("${aws:PrincipalTag/team, ''}x", "x"),
            ("${kms:EncryptionContextKeys, 'many'}", "many"),
            ("${*}", "*"),
            ("${?}${$}{a}", "?${a}"),
            ("a${*}*", "a*bc"),
            ("?${aws:username}", "xalice"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("${aws:username}", "${aws:username}"),
            ("${aws:username}", "Alice"),
            ("${aws:userid}", ""),
            ("*${aws:userid}*", "anything"),
            ("${kms:EncryptionContextKeys}", "a"),
            ("${*}", "x"),
            ("${?}", "x"),
            // A wildcard in a value is none.
            ("${kms:EncryptionContext:dir}", "ab"),
            ("${aws:PrincipalTag/team, '*'}", "anything"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_no_variable_is_text() {
        for text in
            ["${", "${}", "$", "${aws:username", "${a,b}", "${a, 'b}", "${a, 'b' c}", "$${", "${${}", "$aws:username"]
        {
            assert!(matches(text, text), "{text}");
        }
        assert!(matches("${x${aws:username}", "${xalice"));
        let old = Template::new(Pattern::new("${aws:username}"), Version::Of2008);
        assert!(old.matches("${aws:username}", &Request) && !old.matches("alice", &Request));
        // In the old version wildcards in what looks like a variable are wildcards.
        assert!(Template::new(Pattern::new("${*}"), Version::Of2008).matches("${a}", &Request));
    }

    #[test]
    fn arns_are_not_split_within_variables() {
        let text = "arn:aws:iam::${aws:PrincipalAccount}:role/${aws:PrincipalTag/a, 'b:c'}:d";
        let parts = split_arn(text, Version::Of2012);
        assert_eq!(parts, ["arn", "aws", "iam", "", "${aws:PrincipalAccount}", "role/${aws:PrincipalTag/a, 'b:c'}:d"]);
        assert_eq!(split_arn("a:${b:c}:d", Version::Of2008), ["a", "${b", "c}", "d"]);
        assert_eq!(split_arn("a:$:${:b", Version::Of2012), ["a", "$", "${", "b"]);
        assert_eq!(split_arn("", Version::Of2012), [""]);
        assert_eq!(split_arn("a:b:c:d:e:f:g", Version::Of2012), ["a", "b", "c", "d", "e", "f:g"]);
    }
}
