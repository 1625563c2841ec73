//! Forgetting epochs under which nothing is sealed any more.

use std::collections::{HashMap, HashSet};

use super::clock::Version;
use super::error::Error;
use super::table::Table;
use crate::format::unit::Epoch;

/// From how many epochs on it is worth reading the whole record to see which are in use: 45 days of writing without a pause.
pub(super) const MANY_EPOCHS: usize = 1 << 16;

impl Table {
    /// Forgets the epochs that no unit in the record has, if there are `many`, and twice as many as the last time left. Those
    /// stay under which units may be that are not in the record, because they were sealed before a crash. A unit under an
    /// epoch that is forgotten is `Stale`, as is any other that is not the recorded version.
    pub(super) fn trim_epochs(&mut self, epochs: &mut HashMap<Epoch, u32>, many: usize) -> Result<(), Error> {
        if epochs.len() < many || epochs.len() < 2 * self.epochs_left()? {
            return Ok(());
        }
        let unrecorded_from = self.unrecorded_from()?.epoch();
        let mut in_use = HashSet::new();
        self.each_version(|version| {
            in_use.insert(version.epoch());
        })?;
        let (kept, gone): (HashMap<_, _>, HashMap<_, _>) =
            epochs.drain().partition(|(_, number)| *number >= unrecorded_from || in_use.contains(number));
        *epochs = kept;
        self.remove_epochs(gone.into_values(), epochs.len())
    }

    /// The earliest moment from which on there may be units that are not in the record.
    fn unrecorded_from(&self) -> Result<Version, Error> {
        let mut earliest = self.settled()?;
        self.each_clock(|clock| earliest = earliest.min(clock))?;
        Ok(earliest)
    }
}
