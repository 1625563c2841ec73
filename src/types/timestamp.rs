//! Wall-clock time.

use std::fmt;
use std::time::Duration;

/// A point in time: nanoseconds since 1970-01-01T00:00:00Z, without leap seconds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The point `nanos` nanoseconds after the epoch.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The point `secs` seconds after the epoch.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    /// Nanoseconds since the epoch.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// Whole seconds since the epoch as the format stores them: 0 before it.
    pub fn as_unix_time(self) -> u64 {
        u64::try_from(self.as_secs()).unwrap_or(0)
    }

    /// The point `d` later.
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// The point `n` days later.
    pub fn plus_days(self, n: u32) -> Self {
        self.plus(Duration::from_secs(u64::from(n) * 86_400))
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with seconds, as CloudTrail writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = time::OffsetDateTime::from_unix_timestamp(self.as_secs()).map_err(|_| fmt::Error)?;
        let text = at.format(&time::format_description::well_known::Rfc3339).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_and_text() {
        let t = Timestamp::from_secs(1_767_225_600);
        assert_eq!(t.to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(t.plus_days(7).since(t), Duration::from_secs(7 * 86_400));
        assert_eq!(t.since(t.plus_days(1)), Duration::ZERO);
        assert_eq!((t.as_unix_time(), Timestamp::from_secs(-1).as_unix_time()), (1_767_225_600, 0));
    }
}
