//! JSON as requests carry it: strict, without copies of what may be secret, and without duplicate names.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroize;

/// A JSON value that borrows its texts from the body wherever they stand there without escapes, as base64 does: the
/// owner of the body wipes it, nothing else has to be.
#[derive(Debug)]
pub enum Json<'a> {
    /// `null`, the same as an absent member.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number without fraction.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(Text<'a>),
    /// An array.
    List(Vec<Json<'a>>),
    /// An object, in the order of the body.
    Object(Vec<(Text<'a>, Json<'a>)>),
}

/// A text; an owned copy is wiped on drop.
#[derive(Debug)]
pub struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Drop for Text<'_> {
    fn drop(&mut self) {
        if let Cow::Owned(text) = &mut self.0 {
            text.zeroize();
        }
    }
}

impl<'a> Json<'a> {
    /// Parses one value and nothing behind it. Nesting is bounded by serde_json (128).
    pub fn parse(body: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }

    /// What Coral, AWS's protocol layer, calls the value in its texts.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "NULL_VALUE",
            Self::Bool(true) => "TRUE_VALUE",
            Self::Bool(false) => "FALSE_VALUE",
            Self::Integer(_) => "NUMBER_VALUE",
            Self::Float(_) => "DECIMAL_VALUE",
            Self::Text(_) => "STRING_VALUE",
            Self::List(_) => "START_ARRAY",
            Self::Object(_) => "START_OBJECT",
        }
    }
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(TextVisitor)
    }
}

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct JsonVisitor;
        impl<'de> Visitor<'de> for JsonVisitor {
            type Value = Json<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Json<'de>, E> {
                Ok(Json::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
                Ok(Json::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
                Ok(Json::Integer(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
                Ok(i64::try_from(value).map_or(Json::Float(value as f64), Json::Integer))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
                Ok(Json::Float(value))
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Json<'de>, E> {
                Ok(Json::Text(Text(Cow::Borrowed(text))))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Json<'de>, E> {
                Ok(Json::Text(Text(Cow::Owned(text.to_owned()))))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json<'de>, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Json::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json<'de>, A::Error> {
                let mut object: Vec<(Text<'de>, Json<'de>)> = Vec::new();
                while let Some(member) = members.next_entry()? {
                    object.push(member);
                }
                let mut names: Vec<&str> = object.iter().map(|(name, _)| name.as_str()).collect();
                names.sort_unstable();
                // One reader might take the first, another the last: an encryption context must mean one thing.
                if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                    return Err(A::Error::custom(format_args!("duplicate member {:?}", pair[0])));
                }
                Ok(Json::Object(object))
            }
        }
        from.deserialize_any(JsonVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_borrowed_and_duplicates_refused() {
        let body = br#"{"a":"QUJD","b":[1,-2,1.5,true,null,{"c":"\u00e4"}]}"#;
        let Ok(Json::Object(members)) = Json::parse(body) else { panic!("an object") };
        assert!(matches!(&members[0].1, Json::Text(Text(Cow::Borrowed("QUJD")))));
        let Json::List(list) = &members[1].1 else { panic!("a list") };
        let kinds: Vec<_> = list.iter().map(Json::kind).collect();
        let expected = ["NUMBER_VALUE", "NUMBER_VALUE", "DECIMAL_VALUE", "TRUE_VALUE", "NULL_VALUE", "START_OBJECT"];
        assert_eq!(kinds, expected);
        for refused in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"x":"1","\u0078":"2"}}"#,
            "{nope",
            "{} {}",
            "",
            "{\"a\":\"\u{1}\"}",
            &"[".repeat(200),
        ] {
            assert!(Json::parse(refused.as_bytes()).is_err(), "{refused}");
        }
    }
}
