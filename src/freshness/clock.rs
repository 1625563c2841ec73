//! Versions of units: the volume's epochs in the order in which they were begun.
//!
//! Without a record each open file draws epochs of its own. With one all files of a mount share an epoch and its counter
//! (FORMAT S6), so that the pairs (epoch, counter) of a volume are in one order in time. The record holds the number of
//! each epoch, durably before the first seal under it: a version that is not recorded can be told to be newer than
//! another one.

use std::collections::HashMap;
use std::time::Duration;

use crate::format::unit::{EPOCH_LIFE, Epoch, SEALS_PER_EPOCH};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, RwLock, read, write};

/// When a unit was sealed: number of its epoch, then its counter. Zero is a hole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Version(pub(super) u64);

impl Version {
    /// Of a unit that is not stored.
    pub(super) const HOLE: Self = Self(0);
    /// Of a unit whose row in the record is damaged: nobody knows it any more. No seal has it.
    pub(super) const LOST: Self = Self(u64::MAX - 1);
    /// Later than every version.
    pub(super) const NEVER: Self = Self(u64::MAX);

    fn new(number: u32, ctr: u32) -> Self {
        Self(u64::from(number) << 32 | u64::from(ctr))
    }

    /// The number of its epoch.
    pub(super) fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// A run of counters reserved under one epoch.
#[derive(Debug)]
pub struct Run {
    /// The epoch.
    pub epoch: Epoch,
    /// First counter of the run, from 1.
    pub first: u32,
}

struct Current {
    epoch: Epoch,
    number: u32,
    next: AtomicU64,
    born: Duration,
}

/// The epochs of a volume.
pub(super) struct EpochClock {
    current: RwLock<Option<Arc<Current>>>,
    numbers: RwLock<HashMap<Epoch, u32>>,
    highest: AtomicU64,
}

impl EpochClock {
    /// With the epochs that are recorded, and the highest number that any has had.
    pub(super) fn new(numbers: HashMap<Epoch, u32>, highest: u32) -> Self {
        let highest = AtomicU64::new(highest.into());
        Self { current: RwLock::new(None), numbers: RwLock::new(numbers), highest }
    }

    /// The latest version that may have been given out.
    pub(super) fn now(&self) -> Version {
        match &*read(&self.current) {
            Some(current) => Version(u64::from(current.number) << 32 | (current.next.load(Ordering::Acquire) - 1)),
            None => Version(self.highest.load(Ordering::Acquire) << 32 | u64::from(u32::MAX)),
        }
    }

    /// The version of an epoch and counter; `None` if the epoch is not recorded.
    pub(super) fn version(&self, epoch: &Epoch, ctr: u32) -> Option<Version> {
        if let Some(current) = &*read(&self.current)
            && current.epoch == *epoch
        {
            return Some(Version::new(current.number, ctr));
        }
        read(&self.numbers).get(epoch).map(|number| Version::new(*number, ctr))
    }

    /// Reserves `count` seals. `begin` draws an epoch and records it under the number that it is given, durably.
    pub(super) fn reserve<E>(
        &self,
        count: u32,
        now: Duration,
        begin: impl FnOnce(u32) -> Result<Epoch, E>,
    ) -> Result<Run, E> {
        debug_assert!(u64::from(count) <= SEALS_PER_EPOCH);
        if let Some(run) = read(&self.current).as_ref().and_then(|current| take(current, count, now)) {
            return Ok(run);
        }
        let mut current = write(&self.current);
        // Another thread may have begun an epoch meanwhile.
        if let Some(run) = current.as_ref().and_then(|current| take(current, count, now)) {
            return Ok(run);
        }
        let number = self.highest.load(Ordering::Acquire) as u32 + 1;
        let epoch = begin(number)?;
        write(&self.numbers).insert(epoch, number);
        self.highest.store(u64::from(number), Ordering::Release);
        let begun = Arc::new(Current { epoch, number, next: AtomicU64::new(1), born: now });
        *current = Some(Arc::clone(&begun));
        Ok(take(&begun, count, now).expect("a new epoch has room for 2^20 seals"))
    }

    /// Takes in an epoch that was found in a volume whose owner vouches for it.
    pub(super) fn adopt<E>(&self, epoch: &Epoch, record: impl FnOnce(u32) -> Result<(), E>) -> Result<(), E> {
        let mut current = write(&self.current);
        if read(&self.numbers).contains_key(epoch) {
            return Ok(());
        }
        let number = self.highest.load(Ordering::Acquire) as u32 + 1;
        record(number)?;
        write(&self.numbers).insert(*epoch, number);
        self.highest.store(u64::from(number), Ordering::Release);
        // What is sealed from now on is newer.
        *current = None;
        Ok(())
    }
}

fn take(current: &Arc<Current>, count: u32, now: Duration) -> Option<Run> {
    if now.saturating_sub(current.born) > EPOCH_LIFE {
        return None;
    }
    let first = current.next.fetch_add(u64::from(count), Ordering::AcqRel);
    if first + u64::from(count) - 1 > SEALS_PER_EPOCH {
        // The counters taken in vain stay unused: the epoch is over for everybody.
        return None;
    }
    Some(Run { epoch: current.epoch, first: u32::try_from(first).ok()? })
}
