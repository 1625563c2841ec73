//! Random 128-bit ids of KFS1.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;

/// The text is not 32 lower-case hex digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an id is 32 lower-case hex digits")]
pub struct ParseIdError;

macro_rules! id16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The id with these 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes as they stand on disk.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// Whether every byte is zero, which no valid id is.
            pub fn is_zero(&self) -> bool {
                self.0 == [0; 16]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| ParseIdError)?;
                bytes.try_into().map(Self).map_err(|_| ParseIdError)
            }
        }
    };
}

id16!(
    /// Identity of a volume, random, never all zero (FORMAT 4.2).
    VolumeId
);
id16!(
    /// Identity of one life of a file, random, never all zero, never reused (FORMAT 5).
    FileId
);
id16!(
    /// Identity of a directory, random, never all zero (FORMAT 8.1).
    DirId
);
id16!(
    /// Identity of a branch key (FORMAT 4.4).
    BranchId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip() {
        let id = FileId::from_bytes(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn bad_text_is_refused() {
        for text in ["", "00", "0G000000000000000000000000000000", "AA000000000000000000000000000000"] {
            assert_eq!(text.parse::<FileId>(), Err(ParseIdError), "{text}");
        }
    }
}
