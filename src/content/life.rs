//! One life of a file: from its header to the next truncation to zero. Keys, nonces, and units in and out of them.

use super::error::Error;
use super::live::LiveId;
use super::sealer::{Epoch, Sealer, boot_time};
use crate::crypto::aead::Aes256Gcm;
use crate::env::Entropy;
use crate::format::Outcome;
use crate::format::header::STATIC_LEN;
use crate::format::keys::FileKeys;
use crate::format::record::Record;
use crate::format::size::{DATA, UNIT};
use crate::format::unit;
use crate::freshness::InUse;
use crate::sync::atomic::AtomicBool;
use crate::sync::{Arc, Mutex, lock};
use crate::types::{FileId, KeyArn};

/// Keys and nonce state of one life.
pub(super) struct Life {
    pub(super) file_id: FileId,
    pub(super) keys: FileKeys,
    /// The header up to its slots, which never changes during a life.
    pub(super) fixed: [u8; STATIC_LEN],
    /// The KMS key that opened it, or made it; `None` behind a branch key.
    key: Mutex<Option<KeyArn>>,
    /// Its id among those of the open files.
    pub(super) live: LiveId<FileId>,
    /// Whether the device was given the header before a stream of units.
    pub(super) header_is_out: AtomicBool,
    sealer: Sealer,
    /// The sub-key of the epoch that was read last: neighbouring units mostly share it.
    last_read: Mutex<Option<([u8; 12], Arc<Aes256Gcm>)>>,
}

/// Ciphers at hand while one request walks over its units.
pub(super) struct UnitReader<'a> {
    life: &'a Life,
    memo: Option<([u8; 12], Arc<Aes256Gcm>)>,
}

impl Life {
    /// The life that `header` begins, whose data key `key` wraps.
    pub(super) fn new(header: &[u8], live: LiveId<FileId>, keys: FileKeys, key: Option<KeyArn>) -> Self {
        let fixed = *header.first_chunk().expect("a header has a page at least");
        let (key, last_read) = (Mutex::new(key), Mutex::new(None));
        let (sealer, header_is_out) = (Sealer::new(), AtomicBool::new(false));
        Self { file_id: live.id(), keys, fixed, key, live, header_is_out, sealer, last_read }
    }

    /// The KMS key that wraps its data key.
    pub(super) fn key(&self) -> Option<KeyArn> {
        lock(&self.key).clone()
    }

    /// Notes that its data key was wrapped anew.
    pub(super) fn rewrapped(&self, key: Option<KeyArn>) {
        *lock(&self.key) = key;
    }

    pub(super) fn reader(&self) -> UnitReader<'_> {
        UnitReader { life: self, memo: lock(&self.last_read).clone() }
    }

    /// Seals the units `first..` that stand in `buf` with their plaintext at [16..4080].
    /// With a freshness record they get the volume's epoch, which can fail.
    pub(super) fn seal(
        &self,
        first: u64,
        buf: &mut [u8],
        entropy: &dyn Entropy,
        record: Option<&InUse>,
    ) -> Result<(), Error> {
        let count = (buf.len() / UNIT) as u32;
        let reserved = match record {
            None => self.sealer.reserve(count, &self.keys.content, entropy, boot_time()),
            Some(record) => self.sealer.under(record.reserve(count, entropy, boot_time())?, &self.keys.content),
        };
        let epoch: &Epoch = &reserved.epoch;
        let numbered = (first..).zip(reserved.first..);
        for ((number, ctr), bytes) in numbered.zip(buf.chunks_exact_mut(UNIT)) {
            let bytes = bytes.first_chunk_mut().expect("chunks of one unit");
            unit::seal(&epoch.cipher, &epoch.bytes, ctr, number, bytes);
        }
        Ok(())
    }
}

impl UnitReader<'_> {
    /// Opens the unit at `buf[src..src + 4096]` into `buf[..4064]`.
    pub(super) fn open(&mut self, number: u64, buf: &mut [u8], src: usize, rule: Record) -> Result<(), Error> {
        let fail = |outcome| Error::Unit { unit: number, outcome };
        let Some((epoch, _)) = unit::epoch_of(&buf[src..src + UNIT]) else {
            if !unit::is_zero_unit(&buf[src..src + UNIT]) {
                return Err(fail(Outcome::UnitAuth));
            }
            rule.check_zero_unit(number).map_err(fail)?;
            buf[..DATA].fill(0);
            return Ok(());
        };
        let cipher = match &self.memo {
            Some((known, cipher)) if *known == epoch => cipher,
            _ => &self.memo.insert((epoch, Arc::new(self.life.keys.content.cipher(&epoch)))).1,
        };
        unit::open_within(cipher, number, &mut buf[..src + UNIT], src).map_err(|_| fail(Outcome::UnitAuth))
    }
}

impl Drop for UnitReader<'_> {
    fn drop(&mut self) {
        if let Some(memo) = self.memo.take() {
            *lock(&self.life.last_read) = Some(memo);
        }
    }
}
