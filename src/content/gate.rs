//! Letting go of a file's keys while it is open, and getting them back (`key-state=strict`).

use super::Result;
use super::file::{Content, load};
use super::state::{Body, Gate, State};
use crate::format::Outcome;
use crate::store::{Backing, BackingFile};
use crate::sync::{read, write};

impl<B: Backing> Content<B> {
    /// To be called before a request of a program is served that needs the file's content: gets the keys back if they were let
    /// go of and may be used again.
    ///
    /// # Errors
    /// `KeyUnavailable` while the KMS key may not be used; what opening the file answers.
    pub fn admit(&self) -> Result<()> {
        if self.gate.is(Gate::OPEN) {
            return Ok(());
        }
        if self.gate.is(Gate::DRAINING) {
            return Err(Outcome::KeyUnavailable.into());
        }
        self.resume()
    }

    /// Whether the KMS key of the file is one that may not be used any more. Requests of programs are refused then
    /// ([`Self::admit`]); what the kernel still has to write back is not, until [`Self::suspend`].
    pub fn drain_if_refused(&self) -> bool {
        let refused = match &read(&self.state).body {
            Body::Units { life, .. } => self.volume.keys.refuses(life.key().as_ref()),
            _ => false,
        };
        if refused {
            self.gate.set(Gate::DRAINING);
        }
        refused
    }

    /// Makes what was written durable, and lets go of the keys whether or not that succeeds: a failed flush is told by the next
    /// fsync of each handle.
    ///
    /// # Errors
    /// The flush's.
    pub fn suspend(&self) -> Result<()> {
        let flushed = self.sync(true);
        // Whoever is reading or writing has finished, maybe behind the flush.
        let mut state = write(&self.state);
        let flushed = flushed.and(self.noted(self.file().sync(true)));
        if let Body::Units { life, record, .. } = &state.body {
            state.body = Body::Suspended { file_id: life.file_id, seq: record.seq, key: life.key() };
            self.gate.set(Gate::SUSPENDED);
        } else {
            // It was emptied meanwhile.
            self.gate.set(Gate::OPEN);
        }
        flushed
    }

    fn resume(&self) -> Result<()> {
        let mut state = write(&self.state);
        if let Body::Suspended { file_id, seq, key } = &state.body {
            if self.volume.keys.refuses(key.as_ref()) {
                return Err(Outcome::KeyUnavailable.into());
            }
            let found = load(&self.volume, &*self.file())?;
            // Nobody but this mount writes it, so it is what it was.
            match &found.body {
                Body::Units { life, record, .. } if life.file_id == *file_id && record.seq >= *seq => {}
                _ => return Err(Outcome::HeaderAuth.into()),
            }
            *state = State { cuts: state.cuts, ..found };
        }
        self.gate.set(Gate::OPEN);
        Ok(())
    }
}
