//! Nonces of units: an epoch and a counter that belongs to it (FORMAT S6).

use std::time::Duration;

use crate::crypto::aead::Aes256Gcm;
use crate::crypto::xaes::Xaes;
use crate::env::{Entropy, random_nonzero};
use crate::format::unit::{self, EPOCH_LIFE, SEALS_PER_EPOCH};
use crate::freshness::Run;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, RwLock, read, write};

/// One epoch with its sub-key cipher and its own counter: both are always taken together, so that an epoch never
/// meets another epoch's counter.
pub(super) struct Epoch {
    pub(super) bytes: [u8; 12],
    pub(super) cipher: Aes256Gcm,
    next: AtomicU64,
    born: Duration,
}

/// A run of counters reserved under one epoch.
pub(super) struct Reserved {
    pub(super) epoch: Arc<Epoch>,
    /// First counter of the run, from 1.
    pub(super) first: u32,
}

/// Hands out (epoch, counter) pairs, each at most once.
pub(super) struct Sealer {
    current: RwLock<Option<Arc<Epoch>>>,
}

impl Sealer {
    pub(super) fn new() -> Self {
        Self { current: RwLock::new(None) }
    }

    /// Reserves `count` seals (at most 2^20). `now` is the time since boot, suspension included.
    pub(super) fn reserve(&self, count: u32, xaes: &Xaes, entropy: &dyn Entropy, now: Duration) -> Reserved {
        debug_assert!(u64::from(count) <= SEALS_PER_EPOCH);
        if let Some(reserved) = read(&self.current).as_ref().and_then(|epoch| take(epoch, count, now)) {
            return reserved;
        }
        let mut current = write(&self.current);
        // Another thread may have begun an epoch meanwhile.
        if let Some(reserved) = current.as_ref().and_then(|epoch| take(epoch, count, now)) {
            return reserved;
        }
        let epoch = Arc::new(Epoch::begin(xaes, entropy, now));
        *current = Some(Arc::clone(&epoch));
        take(&epoch, count, now).expect("a new epoch has room for 2^20 seals")
    }

    /// The run that the volume's freshness record reserved: there the counters of all files are one.
    pub(super) fn under(&self, run: Run, xaes: &Xaes) -> Reserved {
        let known = read(&self.current).as_ref().filter(|epoch| epoch.bytes == run.epoch).map(Arc::clone);
        let epoch = known.unwrap_or_else(|| {
            let epoch = Arc::new(Epoch::with(run.epoch, xaes, Duration::ZERO));
            *write(&self.current) = Some(Arc::clone(&epoch));
            epoch
        });
        Reserved { epoch, first: run.first }
    }
}

impl Epoch {
    fn begin(xaes: &Xaes, entropy: &dyn Entropy, now: Duration) -> Self {
        Self::with(random_nonzero(entropy), xaes, now)
    }

    fn with(bytes: unit::Epoch, xaes: &Xaes, now: Duration) -> Self {
        Self { bytes, cipher: xaes.cipher(&bytes), next: AtomicU64::new(1), born: now }
    }
}

fn take(epoch: &Arc<Epoch>, count: u32, now: Duration) -> Option<Reserved> {
    if now.saturating_sub(epoch.born) > EPOCH_LIFE {
        return None;
    }
    let first = epoch.next.fetch_add(u64::from(count), Ordering::Relaxed);
    if first + u64::from(count) - 1 > SEALS_PER_EPOCH {
        // The counters taken in vain stay unused: the epoch is over for everybody.
        return None;
    }
    Some(Reserved { epoch: Arc::clone(epoch), first: u32::try_from(first).ok()? })
}

/// Time since boot, suspension included: an epoch must not survive a suspended or copied machine for long.
pub(super) fn boot_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::aead::Backend;
    use crate::crypto::secret::SecretKey;
    use crate::env::SystemEntropy;
    use std::collections::HashSet;

    fn xaes() -> Xaes {
        Xaes::new(Backend::default(), SecretKey::random(&SystemEntropy))
    }

    #[test]
    fn no_pair_is_handed_out_twice_by_many_threads() {
        let (sealer, xaes) = (Sealer::new(), xaes());
        let mut seen = HashSet::new();
        let runs: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..2000)
                            .map(|i| {
                                let n = 1 + i % 700;
                                let r = sealer.reserve(n, &xaes, &SystemEntropy, Duration::ZERO);
                                (r.epoch.bytes, r.first, n)
                            })
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            workers.into_iter().flat_map(|w| w.join().expect("no panic")).collect()
        });
        for (epoch, first, n) in runs {
            for ctr in first..first + n {
                assert!(u64::from(ctr) <= SEALS_PER_EPOCH);
                assert!(seen.insert((epoch, ctr)), "pair used twice");
            }
        }
        assert!(seen.iter().map(|(e, _)| e).collect::<HashSet<_>>().len() > 1, "the limit was reached");
    }

    #[test]
    fn an_epoch_ends_after_a_minute() {
        let (sealer, xaes) = (Sealer::new(), xaes());
        let at = |secs| sealer.reserve(1, &xaes, &SystemEntropy, Duration::from_secs(secs)).epoch.bytes;
        assert_eq!(at(0), at(60));
        assert_ne!(at(60), at(61));
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod shuttle_tests {
    use super::*;
    use crate::crypto::aead::Backend;
    use crate::crypto::secret::SecretKey;
    use crate::env::SystemEntropy;
    use crate::sync::{explore, thread};

    #[test]
    fn no_pair_is_handed_out_twice() {
        explore(5000, || {
            let shared = Arc::new((Sealer::new(), Xaes::new(Backend::default(), SecretKey::random(&SystemEntropy))));
            let threads: Vec<_> = (0..3_u32)
                .map(|thread| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || {
                        // Counts that end an epoch by number, times that end one by age.
                        let runs = [(1, 0), (400_000 + thread, 59), (3, 61), (500_000, 62)];
                        runs.map(|(count, secs)| {
                            let (sealer, xaes) = &*shared;
                            let run = sealer.reserve(count, xaes, &SystemEntropy, Duration::from_secs(secs));
                            (run.epoch.bytes, u64::from(run.first), u64::from(count))
                        })
                    })
                })
                .collect();
            let mut runs: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
            runs.sort_unstable();
            for (epoch, first, count) in &runs {
                assert!(*epoch != [0; 12] && *first >= 1 && first + count - 1 <= SEALS_PER_EPOCH);
            }
            for pair in runs.windows(2) {
                let ((epoch, first, count), (next_epoch, next, _)) = (pair[0], pair[1]);
                assert!(epoch != next_epoch || first + count <= next, "two runs overlap");
            }
        });
    }
}
