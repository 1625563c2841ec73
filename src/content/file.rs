//! The shared state of all handles of one file.

use std::collections::HashSet;

use rustix::io::Errno;

use super::life::Life;
use super::live::LiveIds;
use super::locks::UnitLocks;
use super::state::{Body, Due, DurableRecord, Gate, State};
use super::{Error, Result};
use crate::env::Entropy;
use crate::format::Outcome;
use crate::format::header::OpenedHeader;
use crate::format::size::Geometry;
use crate::freshness::{Freshness, InUse};
use crate::keys::DataKeys;
use crate::store::{Access, Backing, BackingFile, Stat};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, RwLock, RwLockReadGuard, lock, read, write};
use crate::types::FileId;

/// What every file of a volume is opened with.
pub struct Volume {
    /// Layout of files.
    pub geometry: Geometry,
    /// Source of epochs.
    pub entropy: Arc<dyn Entropy>,
    /// Headers in and out of data keys.
    pub keys: DataKeys,
    /// How often a unit that fails is read again: more than once only where a writer outside of this process may be at
    /// work (a read-only mount beside a writer, FORMAT S7).
    pub read_attempts: u32,
    /// The ids of the files that are open.
    pub(super) live: LiveIds<FileId>,
    /// Inode numbers, in the backing, of the files of which a flush failed.
    doubtful: Mutex<HashSet<u64>>,
    freshness: Option<Arc<Freshness>>,
}

impl Volume {
    /// What files of the volume of `keys` are opened with. For `read_attempts` see [`Self::read_attempts`].
    pub fn new(entropy: Arc<dyn Entropy>, keys: DataKeys, read_attempts: u32) -> Self {
        let geometry = keys.volume().config.geometry;
        Self {
            geometry,
            entropy,
            keys,
            read_attempts,
            live: LiveIds::default(),
            doubtful: Mutex::default(),
            freshness: None,
        }
    }

    /// The same with the volume's freshness record, if it has one.
    #[must_use]
    pub fn with_freshness(self, freshness: Option<Arc<Freshness>>) -> Self {
        Self { freshness, ..self }
    }

    /// The volume's freshness record.
    pub fn freshness(&self) -> Option<&Arc<Freshness>> {
        self.freshness.as_ref()
    }
}

/// One open encrypted file. Every method may be called from several threads at once.
pub struct Content<B: Backing> {
    pub(super) volume: Arc<Volume>,
    pub(super) backing: Arc<B>,
    file: RwLock<OpenFile<B>>,
    pub(super) state: RwLock<State>,
    pub(super) units: UnitLocks,
    /// Held while the bound of the size is raised.
    pub(super) due: Mutex<Option<Box<Due>>>,
    pub(super) record: Option<InUse>,
    /// Flushes and write-backs that failed since the file was opened; one more if any did before, in this mount.
    failures: AtomicU64,
    /// Whether its keys are at hand.
    pub(super) gate: Gate,
}

/// The right to change attributes of a file, see [`Content::hold_header`].
pub struct HeaderHeld<'a> {
    _state: RwLockReadGuard<'a, State>,
}

/// A file of up to so many stored bytes is fetched from the disk as it is opened: by one request with its header, while the
/// data key is unwrapped. Who opens a small file mostly reads it.
const FETCHED_WHOLE: u64 = 128 * 1024;

struct OpenFile<B: Backing> {
    file: Arc<B::File>,
    access: Access,
}

impl<B: Backing> Content<B> {
    /// The content of a file that was just created: 0 bytes, no header, no key.
    pub fn created(backing: Arc<B>, volume: Arc<Volume>, file: B::File) -> Self {
        Self::with_state(backing, volume, file, Access::ReadWrite, State::empty())
    }

    /// Opens the content of an existing file: reads and authenticates its header, which may ask the key manager, in the
    /// order of FORMAT S5.4. A file whose header is lost opens, so that it can be truncated; its reads fail.
    ///
    /// # Errors
    /// Any outcome of FORMAT S5.4, or the backing's error.
    pub fn open(backing: Arc<B>, volume: Arc<Volume>, file: B::File, access: Access) -> Result<Self> {
        let state = load(&volume, &file)?;
        let mut content = Self::with_state(backing, volume, file, access, state);
        content.failures = AtomicU64::new(u64::from(content.is_doubtful()?));
        Ok(content)
    }

    /// Takes in what somebody else has written to the file since it was opened: beside a writer outside of this process, a
    /// read-only mount finds another size, another end of what is durable, or another life of the file.
    ///
    /// # Errors
    /// As [`Self::open`]; what was known is then kept.
    pub fn reload(&self) -> Result<()> {
        let found = load(&self.volume, &*self.file())?;
        let mut state = write(&self.state);
        // Its keys come back by the way they went.
        if !matches!(state.body, Body::Suspended { .. }) {
            *state = found;
        }
        Ok(())
    }

    /// Whether the file has another size than it had when it was opened.
    pub(super) fn size_was_changed(&self) -> bool {
        self.file().stat().is_ok_and(|stat| self.volume.geometry.lenient_plain_size(stat.size) != self.size())
    }

    /// Opens the content of a file to read around its damage, whatever that is, and tells what it found to be wrong with the
    /// whole. What does not open at all has a size, and every read of it fails.
    ///
    /// # Errors
    /// The backing's.
    pub fn open_damaged(backing: Arc<B>, volume: Arc<Volume>, file: B::File) -> Result<(Self, Vec<Outcome>)> {
        let (state, flaws) = load_damaged(&volume, &file)?;
        Ok((Self::with_state(backing, volume, file, Access::Read, state), flaws))
    }

    fn with_state(backing: Arc<B>, volume: Arc<Volume>, file: B::File, access: Access, state: State) -> Self {
        Self {
            volume,
            backing,
            file: RwLock::new(OpenFile { file: Arc::new(file), access }),
            state: RwLock::new(state),
            units: UnitLocks::new(),
            due: Mutex::new(None),
            record: None,
            failures: AtomicU64::new(0),
            gate: Gate::default(),
        }
    }

    /// Plaintext size in bytes.
    pub fn size(&self) -> u64 {
        read(&self.state).size
    }

    /// The id of the present life; `None` while the file is empty or unusable.
    pub fn file_id(&self) -> Option<FileId> {
        match &read(&self.state).body {
            Body::Units { life, .. } => Some(life.file_id),
            Body::Suspended { file_id, .. } => Some(*file_id),
            _ => None,
        }
    }

    /// The inode number in the backing. Errors: the backing's.
    pub fn stored_number(&self) -> Result<u64> {
        Ok(self.file().stat()?.ino)
    }

    /// The inode number, in the backing, of another open file with the same id: one of the two is a copy.
    pub fn duplicate(&self) -> Option<u64> {
        match &read(&self.state).body {
            Body::Units { life, .. } => life.live.duplicate(),
            _ => None,
        }
    }

    /// What is wrong with the whole file, although it could be opened: `NeverSynced` or `HeaderLost`.
    pub fn damage(&self) -> Option<Outcome> {
        match &read(&self.state).body {
            Body::NeverSynced => Some(Outcome::NeverSynced),
            Body::Unusable(outcome) => Some(*outcome),
            Body::Units { .. } | Body::Suspended { .. } | Body::Empty => None,
        }
    }

    /// Whether writes can go through: the backing file is open for writing.
    pub fn is_writable(&self) -> bool {
        read(&self.file).access == Access::ReadWrite
    }

    /// Replaces a backing file open for reading only by one open for writing.
    pub fn upgrade(&self, file: B::File) {
        *write(&self.file) = OpenFile { file: Arc::new(file), access: Access::ReadWrite };
    }

    /// Asks the key manager again whether this file's key may be used: a new open of a file that is open already is a
    /// cold open too, as far as its key's state is concerned.
    ///
    /// # Errors
    /// `KeyUnavailable`, `KeyForbidden` or `KeyServiceTimeout`.
    pub fn check_key(&self) -> Result<()> {
        // Held while the header is read: a record or slot that is being written would look damaged.
        let state = read(&self.state);
        match &state.body {
            Body::Units { life, .. } if self.volume.keys.may_reopen(&life.fixed) => return Ok(()),
            Body::Units { .. } | Body::Suspended { .. } => {}
            Body::Empty | Body::NeverSynced | Body::Unusable(_) => return Ok(()),
        }
        let mut header = vec![0; self.volume.geometry.header_len()];
        self.file().read_at(&mut header, 0)?;
        Ok(self.volume.keys.check(&header)?)
    }

    /// Keeps the header as it is while a user changes attributes: a header write in that moment would put back those it
    /// saw before (FORMAT 5.5).
    pub fn hold_header(&self) -> HeaderHeld<'_> {
        HeaderHeld { _state: read(&self.state) }
    }

    /// How many flushes have failed so far. The system reports a lost write once per descriptor, and all handles of the file
    /// share one: who wants to know on another handle compares this number.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }

    /// Counts a failed flush; passes the result on. Who opens the file anew in this mount knows of it too: what is lost can still
    /// be read, from memory, and no further flush tells.
    pub(super) fn noted<T>(&self, result: crate::store::Result<T>) -> Result<T> {
        if result.is_err() {
            self.failures.fetch_add(1, Ordering::AcqRel);
            self.record.iter().for_each(|record| record.flush_failed());
            // The system goes on to show what it had of the units, whether or not the disk has it. The header it may keep: it is
            // written again before the next flush, as what is stored later is of no use without.
            self.file().forget(self.volume.geometry.header_len() as u64, 0);
            // What cannot even be looked at is doubted by who has it open; that error is not the one to report.
            if let Ok(number) = self.stored_number() {
                lock(&self.volume.doubtful).insert(number);
            }
        }
        Ok(result?)
    }

    fn is_doubtful(&self) -> Result<bool> {
        let doubtful = lock(&self.volume.doubtful);
        Ok(!doubtful.is_empty() && doubtful.contains(&self.stored_number()?))
    }

    /// Attributes of the backing file.
    ///
    /// # Errors
    /// The backing's error.
    pub fn stat(&self) -> crate::store::Result<Stat> {
        self.file().stat()
    }

    pub(super) fn file(&self) -> Arc<B::File> {
        Arc::clone(&read(&self.file).file)
    }
}

/// What a file is. A writer outside of this process may be cutting or growing it: size and header are then read again before they
/// count as damaged (FORMAT S7).
pub(super) fn load<F: BackingFile>(volume: &Volume, file: &F) -> Result<State> {
    let mut attempt = 1;
    loop {
        match load_once(volume, file) {
            Err(error) if error.errno() == Errno::IO && attempt < volume.read_attempts => attempt += 1,
            loaded => return loaded,
        }
    }
}

fn load_once<F: BackingFile>(volume: &Volume, file: &F) -> Result<State> {
    let stat = file.stat()?;
    if stat.size == 0 {
        return Ok(State::empty());
    }
    let size = volume.geometry.plain_size(stat.size).map_err(Error::from)?;
    if stat.size <= FETCHED_WHOLE {
        file.fetch(stat.size);
    }
    let mut header = vec![0; volume.geometry.header_len()];
    if file.read_at(&mut header, 0)? < header.len() {
        return Err(Outcome::BadSize.into());
    }
    if let Some(lost) = without_header(&header, size, file, stat.size)? {
        return Ok(lost);
    }
    let opened = volume.keys.open_header(&header)?;
    opened.record.check_size(size)?;
    Ok(with_units(volume, &header, size, stat.ino, opened))
}

fn load_damaged<F: BackingFile>(volume: &Volume, file: &F) -> Result<(State, Vec<Outcome>)> {
    let stat = file.stat()?;
    if stat.size == 0 {
        return Ok((State::empty(), Vec::new()));
    }
    let mut flaws = Vec::new();
    let mut size = volume.geometry.plain_size(stat.size).unwrap_or_else(|outcome| {
        flaws.push(outcome);
        volume.geometry.size_of_units(stat.size)
    });
    let mut header = vec![0; volume.geometry.header_len()];
    // What a cut took away of it is zero.
    file.read_at(&mut header, 0)?;
    if let Some(lost) = without_header(&header, size, file, stat.size)? {
        return Ok((lost, flaws));
    }
    match volume.keys.open_damaged(&header) {
        Ok((opened, flaw)) => {
            flaws.extend(flaw);
            if let Err(outcome) = opened.record.check_size(size) {
                // Where it was cut, units are missing.
                flaws.push(outcome);
                size = opened.record.floor;
            }
            Ok((with_units(volume, &header, size, stat.ino, opened), flaws))
        }
        Err(outcome) => {
            let body = Body::Unusable(outcome);
            Ok((State { size, body, tail_clean: None, cuts: 0, gaps: true }, flaws))
        }
    }
}

/// A file whose header is all zero.
fn without_header<F: BackingFile>(header: &[u8], size: u64, file: &F, stored: u64) -> Result<Option<State>> {
    if header.iter().any(|&b| b != 0) {
        return Ok(None);
    }
    let zeros = reads_as_zeros(file, stored)?;
    let body = if zeros { Body::NeverSynced } else { Body::Unusable(Outcome::HeaderLost) };
    Ok(Some(State { size, body, tail_clean: None, cuts: 0, gaps: true }))
}

fn with_units(volume: &Volume, header: &[u8], size: u64, ino: u64, opened: OpenedHeader) -> State {
    let body = Body::Units {
        life: Arc::new(Life::new(header, volume.live.enter(opened.header.file_id(), ino), opened.keys, opened.key)),
        durable: DurableRecord::found(&opened.record, size),
        record: opened.record,
        unfinished_rewrap: opened.valid_slots > 1,
    };
    State { size, body, tail_clean: None, cuts: 0, gaps: true }
}

/// Whether a file holds nothing but zeros. Holes are skipped; that the backing calls a range data proves nothing, since
/// ext4 does so for reserved space that somebody has read.
fn reads_as_zeros<F: BackingFile>(file: &F, len: u64) -> Result<bool> {
    let mut buf = vec![0; 1 << 16];
    let mut at = 0;
    while let Some(data) = file.seek_data(at)? {
        let got = file.read_at(&mut buf, data)?;
        if buf[..got].iter().any(|&b| b != 0) {
            return Ok(false);
        }
        at = data + got as u64;
        if got == 0 || at >= len {
            break;
        }
    }
    Ok(true)
}
