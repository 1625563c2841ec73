//! What comes from outside the process: time and randomness. Both are injected, so that tests decide them.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use crate::types::Timestamp;

/// A wall clock.
pub trait Clock: Send + Sync {
    /// The present time.
    fn now(&self) -> Timestamp;
}

/// The operating system's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_nanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }
}

/// The clock of the process. With the feature `test-clock`, and only then, the environment variable
/// `KMSFS_FAKE_CLOCK` replaces it: seconds since the epoch, or the path of a file that holds them and is read again
/// at each call, so that a test drives a running process.
pub fn system_clock() -> crate::sync::Arc<dyn Clock> {
    #[cfg(feature = "test-clock")]
    if let Some(source) = std::env::var_os("KMSFS_FAKE_CLOCK") {
        return crate::sync::Arc::new(fake::FakeClock::new(source));
    }
    crate::sync::Arc::new(SystemClock)
}

#[cfg(feature = "test-clock")]
mod fake {
    use std::ffi::OsString;

    use super::{Clock, Timestamp};
    use crate::sync::atomic::{AtomicI64, Ordering};

    /// The clock that `KMSFS_FAKE_CLOCK` describes.
    pub struct FakeClock {
        source: OsString,
        last: AtomicI64,
    }

    impl FakeClock {
        pub fn new(source: OsString) -> Self {
            Self { source, last: AtomicI64::new(0) }
        }
    }

    impl Clock for FakeClock {
        /// The time of the variable or its file; while the file is being replaced, the time read last.
        fn now(&self) -> Timestamp {
            let text = self
                .source
                .to_str()
                .and_then(|text| text.parse::<i64>().ok())
                .or_else(|| std::fs::read_to_string(&self.source).ok().and_then(|text| text.trim().parse().ok()));
            match text {
                Some(secs) => self.last.store(secs, Ordering::SeqCst),
                None => assert!(self.last.load(Ordering::SeqCst) != 0, "KMSFS_FAKE_CLOCK holds no time"),
            }
            Timestamp::from_secs(self.last.load(Ordering::SeqCst))
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_file_is_read_again_at_each_call() {
            let dir = tempfile::tempdir().expect("temporary directory");
            let path = dir.path().join("now");
            std::fs::write(&path, "1000\n").expect("write");
            let clock = FakeClock::new(path.clone().into());
            assert_eq!(clock.now(), Timestamp::from_secs(1000));
            std::fs::write(&path, "2000").expect("write");
            assert_eq!(clock.now(), Timestamp::from_secs(2000));
            std::fs::write(&path, "").expect("write");
            assert_eq!(clock.now(), Timestamp::from_secs(2000));
            assert_eq!(FakeClock::new("77".into()).now(), Timestamp::from_secs(77));
        }
    }
}

/// A clock that stands still until it is told to move.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `start`.
    pub fn new(start: Timestamp) -> Self {
        Self(AtomicI64::new(start.as_nanos()))
    }

    /// Sets the time, backwards too.
    pub fn set(&self, to: Timestamp) {
        self.0.store(to.as_nanos(), Ordering::SeqCst);
    }

    /// Moves the time forward.
    pub fn advance(&self, by: std::time::Duration) {
        self.set(self.now().plus(by));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

/// A source of random bytes.
pub trait Entropy: Send + Sync {
    /// Fills `out`. There is no error to handle: without entropy no key can be made, so the process ends.
    fn fill(&self, out: &mut [u8]);
}

/// Draws an array from an entropy source.
pub fn random<const N: usize>(entropy: &dyn Entropy) -> [u8; N] {
    let mut out = [0; N];
    entropy.fill(&mut out);
    out
}

/// Draws an array that is not all zero, which no id and no epoch of the format may be.
pub fn random_nonzero<const N: usize>(entropy: &dyn Entropy) -> [u8; N] {
    loop {
        let out = random(entropy);
        if out != [0; N] {
            return out;
        }
    }
}

/// The operating system's generator (`getrandom(2)`).
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "this is the source of entropy")]
    fn fill(&self, out: &mut [u8]) {
        getrandom::fill(out).expect("getrandom(2) does not fail once the kernel's generator is seeded");
    }
}

/// Reproducible bytes for tests: SplitMix64. Never a source of keys.
#[derive(Debug)]
pub struct SeededEntropy(AtomicU64);

impl SeededEntropy {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, out: &mut [u8]) {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        for chunk in out.chunks_mut(8) {
            let mut z = self.0.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_clock_moves_only_when_told() {
        let clock = ManualClock::new(Timestamp::from_secs(10));
        assert_eq!(clock.now(), Timestamp::from_secs(10));
        clock.advance(std::time::Duration::from_secs(5));
        assert_eq!(clock.now(), Timestamp::from_secs(15));
    }

    #[test]
    fn zeros_are_drawn_again() {
        struct ZerosFirst(std::sync::atomic::AtomicU8);
        impl Entropy for ZerosFirst {
            fn fill(&self, out: &mut [u8]) {
                out.fill(self.0.fetch_add(1, Ordering::Relaxed));
            }
        }
        assert_eq!(random_nonzero::<4>(&ZerosFirst(Default::default())), [1; 4]);
    }

    #[test]
    fn seeded_entropy_is_reproducible_and_system_entropy_is_not() {
        let draw = |seed| random::<32>(&SeededEntropy::new(seed));
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_ne!(random::<32>(&SystemEntropy), random::<32>(&SystemEntropy));
    }
}
