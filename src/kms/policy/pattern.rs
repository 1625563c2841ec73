//! Texts with wildcards.

use super::Attributes;
use super::variable::{Template, Version, split_arn};

/// What a character of a pattern stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Glyph {
    /// Any characters.
    Any,
    /// One character.
    One,
    /// Itself.
    Char(char),
}

/// `*` stands for any characters, `?` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    /// Most have none, and are compared faster.
    has_wildcards: bool,
    ignore_case: bool,
}

impl Pattern {
    pub fn new(text: &str) -> Self {
        Self { text: text.into(), has_wildcards: text.contains(['*', '?']), ignore_case: false }
    }

    /// As [`Self::new`]; the case of ASCII letters does not matter.
    pub fn ignoring_case(text: &str) -> Self {
        Self { ignore_case: true, ..Self::new(text) }
    }

    /// The text itself: wildcards in it are none.
    pub fn literal(text: &str) -> Self {
        Self { has_wildcards: false, ..Self::new(text) }
    }

    /// As [`Self::literal`]; the case of ASCII letters does not matter.
    pub fn literal_ignoring_case(text: &str) -> Self {
        Self { has_wildcards: false, ..Self::ignoring_case(text) }
    }

    pub fn matches(&self, text: &str) -> bool {
        match (self.has_wildcards, self.ignore_case) {
            (false, false) => *self.text == *text,
            (false, true) => self.text.eq_ignore_ascii_case(text),
            (true, _) => &*self.text == "*" || glob(self.text.chars().map(|c| self.glyph(c)), text, self.ignore_case),
        }
    }

    /// As the policy has it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the case of ASCII letters does not matter.
    pub fn ignores_case(&self) -> bool {
        self.ignore_case
    }

    /// What a character of the text stands for.
    pub fn glyph(&self, c: char) -> Glyph {
        match c {
            '*' if self.has_wildcards => Glyph::Any,
            '?' if self.has_wildcards => Glyph::One,
            _ => Glyph::Char(c),
        }
    }
}

/// Greedy with one point to return to: the last star. Linear for all but hostile patterns, never exponential.
pub fn glob(mut pattern: impl Iterator<Item = Glyph> + Clone, text: &str, ignore_case: bool) -> bool {
    let same = |a: char, b: char| a == b || ignore_case && a.eq_ignore_ascii_case(&b);
    let mut text = text.chars();
    // What follows the last star, and the text that the star has not taken yet.
    let mut retry = None;
    loop {
        let before = text.clone();
        match (pattern.next(), text.next()) {
            (Some(Glyph::Any), _) => {
                text = before;
                retry = Some((pattern.clone(), text.clone()));
                continue;
            }
            (None, None) => return true,
            (Some(Glyph::One), Some(_)) => continue,
            (Some(Glyph::Char(wanted)), Some(found)) if same(wanted, found) => continue,
            _ => {}
        }
        let Some((after_star, rest)) = &mut retry else { return false };
        if rest.next().is_none() {
            return false;
        }
        (pattern, text) = (after_star.clone(), rest.clone());
    }
}

/// A pattern of an ARN: its six parts between colons are compared one by one, so that a wildcard does not reach across
/// a colon. In a pattern of fewer parts the last one is compared with all that is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArnPattern(Vec<Template>);

impl ArnPattern {
    /// The value of an ARN operator.
    pub fn new(text: &str, version: Version) -> Self {
        let parts = split_arn(text, version).into_iter();
        Self(parts.map(|part| Template::new(Pattern::new(part), version)).collect())
    }

    /// A resource: variables stand only after the fifth colon.
    pub fn resource(text: &str, version: Version) -> Self {
        let of_part = |at| if at < 5 { Version::Of2008 } else { version };
        let parts = text.splitn(6, ':').enumerate();
        Self(parts.map(|(at, part)| Template::new(Pattern::new(part), of_part(at))).collect())
    }

    pub fn matches(&self, arn: &str, request: &dyn Attributes) -> bool {
        let mut parts = arn.splitn(self.0.len(), ':');
        self.0.iter().all(|pattern| parts.next().is_some_and(|part| pattern.matches(part, request)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        let matching = [
            ("", ""),
            ("*", ""),
            ("*", "x"),
            ("?", "\u{e4}"),
            ("a*c", "abbc"),
            ("a*c", "ac"),
            ("*b*b*", "abcb"),
            ("En*", "Encrypt"),
            ("??c", "abc"),
            ("a**", "a"),
            ("*aab", "aaaab"),
            ("*\u{e4}?", "x\u{e4}\u{f6}"),
        ];
        for (pattern, text) in matching {
            assert!(Pattern::new(pattern).matches(text), "{pattern} {text}");
        }
        let other = [
            ("", "x"),
            ("?", ""),
            ("?", "ab"),
            ("a*c", "abcd"),
            ("*b*b*", "abc"),
            ("En*", "encrypt"),
            ("a", "A"),
            ("*aab", "aaaba"),
            ("a?", "a"),
        ];
        for (pattern, text) in other {
            assert!(!Pattern::new(pattern).matches(text), "{pattern} {text}");
        }
        assert!(Pattern::ignoring_case("eN*").matches("Encrypt") && Pattern::ignoring_case("sign").matches("Sign"));
    }

    #[test]
    fn wildcards_of_arns_stay_within_their_part() {
        struct Nothing;
        impl Attributes for Nothing {
            fn values(&self, _key: &str) -> Vec<std::borrow::Cow<'_, str>> {
                Vec::new()
            }
        }
        let arn = |pattern: &str, text: &str| {
            let matches = ArnPattern::new(pattern, Version::Of2012).matches(text, &Nothing);
            assert_eq!(ArnPattern::resource(pattern, Version::Of2008).matches(text, &Nothing), matches);
            matches
        };
        let key = "arn:aws:kms:us-east-1:111122223333:key/1234";
        for text in ["*", "arn:aws:kms:*", "arn:aws:kms:*:111122223333:key/*", "arn:*:kms:*:*:*/1234", key] {
            assert!(arn(text, key), "{text}");
        }
        for text in ["arn:aws:kms:*:key/1234", "arn:aws:kms:us-east-1:1*:alias/*", "key/1234", "arn:aws:kms"] {
            assert!(!arn(text, key), "{text}");
        }
        // An alias name may have colons: they belong to its part.
        let alias = "arn:aws:kms:us-east-1:999999999999:alias/a:111122223333:key/x";
        assert!(!arn("arn:aws:kms:*:111122223333:key/*", alias));
        assert!(arn("arn:aws:kms:*:*:alias/*", alias));
    }
}
