//! AWS's JSON forms of types that carry no serde of their own.

use data_encoding::BASE64;
use serde::Serializer;

use crate::types::{KeyArn, Timestamp};

/// Epoch seconds with fraction (KMS.md section 4).
pub fn time<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(epoch_seconds(*at))
}

/// As [`time`]; for members that are left out when absent.
pub fn opt_time<S: Serializer>(at: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => time(at, to),
        None => to.serialize_none(),
    }
}

fn epoch_seconds(at: Timestamp) -> f64 {
    // Milliseconds, as AWS answers; an f64 holds them exactly for the next 285,000 years.
    (at.as_nanos() / 1_000_000) as f64 / 1000.0
}

/// The ARN's text.
pub fn arn<S: Serializer>(arn: &KeyArn, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(arn.as_str())
}

/// Base64, as AWS JSON 1.1 carries blobs.
pub fn blob<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&BASE64.encode(bytes))
}

/// Time stamps in the key manager's own records: nanoseconds since the epoch.
pub mod nanos {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::types::Timestamp;

    pub fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(at.as_nanos())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(from).map(Timestamp::from_nanos)
    }
}

/// As [`nanos`], for members that may be absent.
pub mod opt_nanos {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::types::Timestamp;

    pub fn serialize<S: Serializer>(at: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
        at.map(Timestamp::as_nanos).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
        Ok(Option::<i64>::deserialize(from)?.map(Timestamp::from_nanos))
    }
}
