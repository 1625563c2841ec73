//! Letting go of a file's keys while it is open, and getting them back (`key-state=strict`).

use std::sync::TryLockError;

use super::Result;
use super::file::{Content, load};
use super::state::{Body, Gate, Raise, State};
use crate::crypto::secret::SecretKey;
use crate::format::Outcome;
use crate::format::record::Record;
use crate::freshness::SyncPoint;
use crate::store::{Backing, BackingFile};
use crate::sync::{read, write};

/// What is still to be done for a file whose keys were let go of: its flush, which takes as long as the disk does, and the record of
/// it. The key of records opens no content.
pub struct Unflushed {
    key: SecretKey<32>,
    record: Record,
    raise: Option<Raise>,
    point: Option<SyncPoint>,
}

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
        self.drain_known(&read(&self.state))
    }

    /// As [`Self::drain_if_refused`]; `None` if somebody is changing the file, which may take as long as the disk does.
    pub fn try_drain_if_refused(&self) -> Option<bool> {
        match self.state.try_read() {
            Ok(state) => Some(self.drain_known(&state)),
            Err(TryLockError::Poisoned(poisoned)) => Some(self.drain_known(&poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn drain_known(&self, state: &State) -> bool {
        let refused = match &state.body {
            Body::Units { life, .. } => self.volume.keys.refuses(life.key().as_ref()),
            _ => false,
        };
        if refused {
            self.gate.set(Gate::DRAINING);
        }
        refused
    }

    /// Lets go of the keys, when whoever is reading or writing has finished. What was written is with the backing then; to make it
    /// durable is [`Self::flush_suspended`]'s. `None` if the file was emptied meanwhile.
    pub fn suspend(&self) -> Option<Unflushed> {
        let mut state = write(&self.state);
        let (raise, point) = (Raise::to_size_of(&state), self.begin_recorded_sync(&state));
        let Body::Units { life, record, .. } = &state.body else {
            self.gate.set(Gate::OPEN);
            return None;
        };
        let key = SecretKey::from_slice(life.keys.record.expose()).expect("a key has the length of a key");
        let (record, body) = (*record, Body::Suspended { file_id: life.file_id, seq: record.seq, key: life.key() });
        state.body = body;
        self.gate.set(Gate::SUSPENDED);
        Some(Unflushed { key, record, raise, point })
    }

    /// Makes durable what was written to a file before its keys were let go of, and records that. If it fails, the next fsync of each
    /// handle tells.
    ///
    /// # Errors
    /// The flush's.
    pub fn flush_suspended(&self, unflushed: Unflushed) -> Result<()> {
        let Unflushed { key, record, raise, point } = unflushed;
        let raise = self.with_holes(raise);
        self.sync(true)?;
        self.end_recorded_sync(point)?;
        let Some((raise, holes)) = raise else { return Ok(()) };
        {
            let mut state = write(&self.state);
            if self.failures() > 0 || !raise.holds_of(&state) {
                return Ok(());
            }
            // If the keys are back, the next flush sees to it.
            let Body::Suspended { file_id, seq, .. } = &mut state.body else { return Ok(()) };
            if *seq != record.seq {
                return Ok(());
            }
            self.before_change()?;
            let next = record.next_pair(&key, *file_id, raise.floor, record.has_holes || holes)?;
            let Some((next, bytes)) = next else { return Ok(()) };
            self.write_records_bytes(&bytes)?;
            *seq = next.seq;
        }
        self.noted(self.file().sync(true))
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
