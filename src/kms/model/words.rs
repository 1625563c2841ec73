//! Enumerations of AWS's words.

/// An enumeration of AWS's words.
pub trait Word: Copy + 'static {
    /// Every value.
    fn all() -> &'static [Self];

    /// AWS's word for it.
    fn word(self) -> &'static str;
}

/// The text is none of an enumeration's words.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{text}' is none of: {legal}")]
pub struct UnknownWord {
    text: String,
    legal: String,
}

impl UnknownWord {
    pub(super) fn new<T: Word>(text: &str) -> Self {
        let legal: Vec<_> = T::all().iter().map(|word| word.word()).collect();
        Self { text: text.to_owned(), legal: legal.join(", ") }
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
        )]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// AWS's word for it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl super::Word for $name {
            fn all() -> &'static [Self] {
                Self::ALL
            }

            fn word(self) -> &'static str {
                self.as_str()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = super::UnknownWord;

            fn from_str(text: &str) -> Result<Self, super::UnknownWord> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text).ok_or_else(|| super::UnknownWord::new::<Self>(text))
            }
        }
    };
}

pub(super) use words;
