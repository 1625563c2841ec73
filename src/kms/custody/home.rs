//! The home: a directory with the root file, the database and the audit log.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use zeroize::Zeroizing;

use super::root_file::{self, DomainRecord, RootBody, StateRecord};
use super::slot::{SlotRecord, SlotSecret};
use super::{CustodyError, NewSlot, Passphrase, RecoveryKey, SlotInfo, SlotKind, Unlock};
use crate::crypto::secret::SecretKey;
use crate::env::{Clock, Entropy, random};
use crate::kms::lock_file::LockFile;
use crate::kms::seal;
use crate::sys::dirs::flush_names_to;
use crate::types::{AccountId, Region, Timestamp};

const KEY_FILE: &str = "domain.key";
const KEY_FILE_LEN: usize = 32;
const LOCK_FILE: &str = "home.lock";
/// Stands in a home whose creation was not finished; nothing was ever kept in such a home.
const UNFINISHED: &str = "creating";
const DATABASE: &str = "kms.db";

/// A home to create.
pub struct NewHome {
    /// Account of callers that name none.
    pub account: AccountId,
    /// Region of callers that name none.
    pub region: Region,
    /// The slots; a recovery slot is always added.
    pub slots: Vec<NewSlot>,
}

impl NewHome {
    /// Account `000000000000`, Region `us-east-1`.
    pub fn with_slots(slots: Vec<NewSlot>) -> Self {
        let account = "000000000000".parse().expect("twelve digits");
        Self { account, region: "us-east-1".parse().expect("a Region"), slots }
    }
}

/// The keys that follow from the domain key of one epoch.
pub struct DomainKeys {
    pub epoch: u64,
    /// Seals secret columns.
    pub seal: SecretKey<32>,
    /// Authenticates rows.
    pub row: SecretKey<32>,
    /// Keys the digest over all rows' revisions.
    pub digest: SecretKey<32>,
}

/// A home under a new root key, and the root file that goes with it.
pub struct Renewed {
    pub home: Home,
    pub body: RootBody,
    /// That of the recovery slot, if it is new.
    pub recovery: Option<RecoveryKey>,
}

/// Excludes other changes of this home, in this process and others, until it is dropped.
pub struct HomeLock(#[expect(dead_code, reason = "dropping it releases the lock")] LockFile);

/// An unlocked home.
pub struct Home {
    dir: PathBuf,
    home_id: String,
    account: AccountId,
    region: Region,
    root: SecretKey<32>,
    mac_key: SecretKey<32>,
    wrap_key: SecretKey<32>,
    /// Which kind of slot opened it.
    unlocked_by: SlotKind,
}

impl Home {
    /// Whether a key manager lives in `dir`, even a damaged one.
    ///
    /// # Errors
    /// [`CustodyError::Io`] if that cannot be seen, which does not mean that there is none.
    pub fn exists(dir: &Path) -> Result<bool, CustodyError> {
        let is_there = |path: PathBuf| match path.try_exists() {
            // In what is no directory there is nothing.
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(false),
            found => found.map_err(|source| CustodyError::Io { path: dir.to_owned(), source }),
        };
        Ok(!is_there(dir.join(UNFINISHED))? && (is_there(root_file::path(dir))? || is_there(dir.join(DATABASE))?))
    }

    /// Whether [`Unlock::KeyFile`] can work.
    pub fn has_key_file(dir: &Path) -> bool {
        dir.join(KEY_FILE).exists()
    }

    /// The slots, without unlocking.
    pub fn list_slots(dir: &Path) -> Result<Vec<SlotInfo>, CustodyError> {
        Ok(load(dir)?.body.slots.iter().map(SlotRecord::info).collect())
    }

    /// Creates a home in `dir`, which is made (mode 0700) if absent. The recovery key is returned once and kept nowhere.
    ///
    /// # Errors
    /// [`CustodyError::Refused`] if a key manager is there: it is never overwritten.
    pub fn create(
        dir: &Path,
        new: NewHome,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<(Self, RecoveryKey), CustodyError> {
        let lock = begin(dir)?;

        let root = SecretKey::random(entropy);
        let home_id = HEXLOWER.encode(&random::<16>(entropy));
        let home = Self::assemble(dir, root, home_id.clone(), (new.account, new.region), SlotKind::Recovery);
        let mut body = RootBody {
            version: RootBody::VERSION,
            home_id,
            account: home.account.to_string(),
            region: home.region.to_string(),
            next_slot: 1,
            slots: Vec::new(),
            domains: Vec::new(),
            states: Vec::new(),
        };
        home.push_domain(&mut body, 1, entropy);
        let mut recovery = home.push_slot(&mut body, NewSlot::Recovery, clock.now(), entropy)?;
        for slot in new.slots {
            recovery = home.push_slot(&mut body, slot, clock.now(), entropy)?.or(recovery);
        }
        crate::kms::store::create(&home, &mut body, clock.now(), entropy)
            .map_err(|error| CustodyError::Refused(format!("cannot create the database: {error}")))?;
        home.write_root(&lock, &body)?;
        end(dir)?;
        Ok((home, recovery.expect("a recovery slot was made")))
    }

    /// Makes a home in `dir` of the root file of another one, once `unlock` opens it and `fill` has placed its database.
    ///
    /// # Errors
    /// [`CustodyError::Refused`] if a key manager is there; [`CustodyError::WrongSecret`]. No key manager is there then.
    pub(in crate::kms) fn install(
        dir: &Path,
        root: &[u8],
        unlock: &Unlock,
        fill: impl FnOnce(&Self) -> Result<(), CustodyError>,
    ) -> Result<Self, CustodyError> {
        let _lock = begin(dir)?;
        root_file::replace(dir, root_file::NAME, root)?;
        let home = Self::unlock_without_database(dir, unlock).and_then(|home| fill(&home).map(|()| home));
        if home.is_err() {
            remove_unfinished(dir)?;
        }
        end(dir)?;
        home
    }

    /// Writes the database of a home that has none yet.
    pub(in crate::kms) fn place_database(&self, bytes: &[u8]) -> Result<(), CustodyError> {
        root_file::replace(&self.dir, DATABASE, bytes)
    }

    /// The MAC of a recovery bundle whose root file is this home's.
    pub(in crate::kms) fn bundle_mac(&self, digest: &[u8; 32]) -> [u8; 32] {
        let key = seal::derive(self.root.expose(), self.home_id.as_bytes(), "kmsfs bundle mac v1");
        seal::mac(&key, &[digest])
    }

    /// Unlocks the home at `dir`.
    ///
    /// # Errors
    /// [`CustodyError::WrongSecret`] when the root file is sound and no slot opens; [`CustodyError::Damaged`] when it
    /// is not sound.
    pub fn unlock(dir: &Path, unlock: &Unlock) -> Result<Self, CustodyError> {
        Self::open(dir, load(dir)?, unlock)
    }

    /// As [`Home::unlock`], whether or not there is a database: to restore one.
    pub fn unlock_without_database(dir: &Path, unlock: &Unlock) -> Result<Self, CustodyError> {
        if !root_file::path(dir).exists() {
            // What `load` says of it.
            load(dir)?;
        }
        Self::open(dir, root_file::load(dir)?, unlock)
    }

    fn open(dir: &Path, loaded: root_file::Loaded, unlock: &Unlock) -> Result<Self, CustodyError> {
        let file_secret;
        let (kind, secret) = match unlock {
            Unlock::Passphrase(passphrase) => {
                (SlotKind::Passphrase, SlotSecret::Passphrase(passphrase, super::Argon2Params::MINIMUM))
            }
            Unlock::Recovery(key) => (SlotKind::Recovery, SlotSecret::Recovery(key)),
            Unlock::KeyFile => {
                file_secret = read_key_file(dir)?;
                (SlotKind::KeyFile, SlotSecret::KeyFile(&file_secret))
            }
        };
        let body = &loaded.body;
        if !body.slots.iter().any(|slot| slot.kind == kind) {
            return Err(CustodyError::NoSuchSlot(kind));
        }
        let mut root = None;
        for slot in body.slots.iter().filter(|slot| slot.kind == kind) {
            let unwrapped = slot.unwrap(&body.home_id, &secret);
            root = unwrapped.map_err(|what| CustodyError::Damaged { path: root_file::path(dir), what })?;
            if root.is_some() {
                break;
            }
        }
        let root = root.ok_or(CustodyError::WrongSecret(kind))?;
        let damaged = |what: String| CustodyError::Damaged { path: root_file::path(dir), what };
        let account = body.account.parse().map_err(|e: crate::types::ParseArnError| damaged(e.to_string()))?;
        let region = body.region.parse().map_err(|e: crate::types::ParseArnError| damaged(e.to_string()))?;
        let home = Self::assemble(dir, root, body.home_id.clone(), (account, region), kind);
        root_file::check(loaded, &home.mac_key, dir)?;
        Ok(home)
    }

    fn assemble(
        dir: &Path,
        root: SecretKey<32>,
        home_id: String,
        (account, region): (AccountId, Region),
        unlocked_by: SlotKind,
    ) -> Self {
        let derive = |info| seal::derive(root.expose(), home_id.as_bytes(), info);
        let (mac_key, wrap_key) = (derive("kmsfs root file mac v1"), derive("kmsfs domain wrap v1"));
        Self { dir: dir.to_owned(), home_id, account, region, root, mac_key, wrap_key, unlocked_by }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Account of callers that name none.
    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// Region of callers that name none.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The kind of slot that opened this home; the recovery slot right after its creation.
    pub fn unlocked_by(&self) -> SlotKind {
        self.unlocked_by
    }

    pub(in crate::kms) fn database(&self) -> PathBuf {
        self.dir.join(DATABASE)
    }

    pub(in crate::kms) fn lock(&self) -> Result<HomeLock, CustodyError> {
        lock_dir(&self.dir)
    }

    pub(in crate::kms) fn read_root(&self) -> Result<RootBody, CustodyError> {
        root_file::check(load(&self.dir)?, &self.mac_key, &self.dir)
    }

    /// As [`Home::read_root`], whether or not there is a database.
    pub(in crate::kms) fn read_root_alone(&self) -> Result<RootBody, CustodyError> {
        root_file::check(root_file::load(&self.dir)?, &self.mac_key, &self.dir)
    }

    pub(in crate::kms) fn write_root(&self, _lock: &HomeLock, body: &RootBody) -> Result<(), CustodyError> {
        root_file::store(&self.dir, body, &self.mac_key)
    }

    /// Adds a new domain key to `body`.
    pub(in crate::kms) fn push_domain(&self, body: &mut RootBody, epoch: u64, entropy: &dyn Entropy) {
        let key = SecretKey::<32>::random(entropy);
        body.domains.push(DomainRecord { epoch, wrapped: self.wrap_domain(epoch, key.expose(), entropy), whole: true });
    }

    fn wrap_domain(&self, epoch: u64, key: &[u8], entropy: &dyn Entropy) -> String {
        HEXLOWER.encode(&seal::seal(&self.wrap_key, &self.domain_aad(epoch), key, entropy))
    }

    fn unwrap_domain(&self, record: &DomainRecord) -> Option<Zeroizing<Vec<u8>>> {
        let wrapped = HEXLOWER.decode(record.wrapped.as_bytes()).ok()?;
        seal::open(&self.wrap_key, &self.domain_aad(record.epoch), &wrapped)
    }

    /// The keys of `epoch`; `None` if the root file has no domain key of that epoch (any more).
    pub(in crate::kms) fn domain_keys(&self, body: &RootBody, epoch: u64) -> Option<DomainKeys> {
        let record = body.domains.iter().find(|domain| domain.epoch == epoch)?;
        let key = self.unwrap_domain(record)?;
        let derive = |info| seal::derive(&key, self.home_id.as_bytes(), info);
        let (seal, row, digest) = (derive("kmsfs column v1"), derive("kmsfs row mac v1"), derive("kmsfs digest v1"));
        Some(DomainKeys { epoch, seal, row, digest })
    }

    fn domain_aad(&self, epoch: u64) -> Vec<u8> {
        seal::framed(&[b"kmsfs domain key v1", self.home_id.as_bytes(), &epoch.to_be_bytes()])
    }

    /// This home under a new root key, with the domain key of `epoch`, the slots that `unlock` and the key file open, and a
    /// new recovery slot if there is none among them. Nothing is written.
    pub(in crate::kms) fn renew(
        &self,
        body: &RootBody,
        epoch: u64,
        unlock: &Unlock,
        (now, entropy): (Timestamp, &dyn Entropy),
    ) -> Result<Renewed, CustodyError> {
        let root = SecretKey::random(entropy);
        let place = (self.account.clone(), self.region.clone());
        let home = Self::assemble(&self.dir, root, self.home_id.clone(), place, self.unlocked_by);
        let mut renewed = RootBody { slots: Vec::new(), domains: Vec::new(), states: Vec::new(), ..body.clone() };
        let key_file = if Self::has_key_file(&self.dir) { read_key_file(&self.dir).ok() } else { None };
        for slot in &body.slots {
            let secret = match (slot.kind, unlock, &key_file) {
                (SlotKind::Passphrase, Unlock::Passphrase(passphrase), _) => {
                    SlotSecret::Passphrase(passphrase, slot.argon2.unwrap_or(super::Argon2Params::MINIMUM))
                }
                (SlotKind::Recovery, Unlock::Recovery(key), _) => SlotSecret::Recovery(key),
                (SlotKind::KeyFile, _, Some(secret)) => SlotSecret::KeyFile(secret),
                _ => continue,
            };
            let damaged = |what| CustodyError::Damaged { path: root_file::path(&self.dir), what };
            if slot.unwrap(&self.home_id, &secret).map_err(damaged)?.is_some_and(|found| found.ct_eq(&self.root)) {
                let place = (slot.id, slot.created);
                renewed.slots.push(SlotRecord::wrap(place, &self.home_id, &secret, &home.root, entropy)?);
            }
        }
        if renewed.slots.is_empty() {
            return Err(CustodyError::WrongSecret(self.unlocked_by));
        }
        let old = body.domains.iter().find(|domain| domain.epoch == epoch).expect("the epoch that was just read");
        let key = self.unwrap_domain(old).expect("its domain key was just used");
        renewed.domains.push(DomainRecord { wrapped: home.wrap_domain(epoch, &key, entropy), ..old.clone() });
        let recovery = match renewed.slots.iter().any(|slot| slot.kind == SlotKind::Recovery) {
            true => None,
            false => home.push_slot(&mut renewed, NewSlot::Recovery, now, entropy)?,
        };
        Ok(Renewed { home, body: renewed, recovery })
    }

    /// Declares that exactly `states` are valid, and drops the domain keys of all other epochs.
    pub(in crate::kms) fn settle(body: &mut RootBody, states: Vec<StateRecord>) {
        body.domains.retain(|domain| states.iter().any(|state| state.epoch == domain.epoch));
        body.states = states;
    }

    /// Adds a slot; the new recovery key if it is one.
    pub(in crate::kms) fn add_slot(
        &self,
        slot: NewSlot,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<(SlotInfo, Option<RecoveryKey>), CustodyError> {
        let lock = self.lock()?;
        let mut body = self.read_root()?;
        let recovery = self.push_slot(&mut body, slot, now, entropy)?;
        self.write_root(&lock, &body)?;
        Ok((body.slots.last().expect("just added").info(), recovery))
    }

    /// Removes slot `id`, and the key file with its slot. The last slot stays.
    pub(in crate::kms) fn remove_slot(&self, id: u32) -> Result<SlotInfo, CustodyError> {
        let lock = self.lock()?;
        let mut body = self.read_root()?;
        let at = body.slots.iter().position(|slot| slot.id == id);
        let at = at.ok_or_else(|| CustodyError::Refused(format!("there is no slot {id}")))?;
        if body.slots.len() == 1 {
            return Err(CustodyError::Refused("the last slot cannot be removed: nothing could unlock the keys".into()));
        }
        let removed = body.slots.remove(at).info();
        self.write_root(&lock, &body)?;
        if removed.kind == SlotKind::KeyFile {
            let path = self.dir.join(KEY_FILE);
            fs::remove_file(&path).map_err(|source| CustodyError::Io { path, source })?;
            // A power cut would bring back a secret that was said to be gone.
            root_file::sync_dir(&self.dir)?;
        }
        Ok(removed)
    }

    fn push_slot(
        &self,
        body: &mut RootBody,
        slot: NewSlot,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Option<RecoveryKey>, CustodyError> {
        let place = (body.next_slot, now);
        let wrap = |secret: &SlotSecret<'_>| SlotRecord::wrap(place, &self.home_id, secret, &self.root, entropy);
        let (record, recovery) = match slot {
            NewSlot::Passphrase(passphrase, cost) => (wrap(&SlotSecret::Passphrase(&passphrase, cost))?, None),
            NewSlot::Recovery => {
                let key = RecoveryKey::random(entropy);
                (wrap(&SlotSecret::Recovery(&key))?, Some(key))
            }
            NewSlot::KeyFile => {
                if body.slots.iter().any(|slot| slot.kind == SlotKind::KeyFile) {
                    return Err(CustodyError::Refused("there is a key-file slot already; remove it first".into()));
                }
                let path = self.dir.join(KEY_FILE);
                if path.exists() {
                    let text = format!("{} is there and belongs to no slot; move it away", path.display());
                    return Err(CustodyError::Refused(text));
                }
                let secret = SecretKey::<KEY_FILE_LEN>::random(entropy);
                let text = Zeroizing::new(format!("{}\n", BASE32_NOPAD.encode(secret.expose())));
                root_file::replace(&self.dir, KEY_FILE, text.as_bytes())?;
                (wrap(&SlotSecret::KeyFile(secret.expose()))?, None)
            }
        };
        body.next_slot += 1;
        body.slots.push(record);
        Ok(recovery)
    }
}

fn load(dir: &Path) -> Result<root_file::Loaded, CustodyError> {
    if !Home::exists(dir)? {
        return Err(CustodyError::NotInitialised(dir.to_owned()));
    }
    let path = root_file::path(dir);
    if !path.exists() {
        return Err(CustodyError::Damaged { path, what: "it is missing, and the database is there".into() });
    }
    if !dir.join(DATABASE).exists() {
        let what = "it is missing, and the root file is there".to_owned();
        return Err(CustodyError::Damaged { path: dir.join(DATABASE), what });
    }
    root_file::load(dir)
}

fn read_key_file(dir: &Path) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
    let path = dir.join(KEY_FILE);
    let meta = match fs::metadata(&path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(CustodyError::NoSuchSlot(SlotKind::KeyFile));
        }
        Err(source) => return Err(CustodyError::Io { path, source }),
    };
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(CustodyError::Refused(format!(
            "{0} can be read by others; after making sure that nobody did: chmod 600 {0}",
            path.display()
        )));
    }
    let text = Zeroizing::new(fs::read(&path).map_err(|source| CustodyError::Io { path, source })?);
    let bytes = BASE32_NOPAD.decode(text.trim_ascii()).unwrap_or_default();
    if bytes.len() == KEY_FILE_LEN {
        Ok(Zeroizing::new(bytes))
    } else {
        Err(CustodyError::WrongSecret(SlotKind::KeyFile))
    }
}

fn make_dir(dir: &Path) -> Result<(), CustodyError> {
    let io = |source| CustodyError::Io { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
    // A directory that was there may serve other purposes too: only an empty one is made private without asking.
    if fs::read_dir(dir).map_err(io)?.next().is_none() {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(io)?;
    }
    if fs::metadata(dir).map_err(io)?.permissions().mode() & 0o077 != 0 {
        let dir = dir.display();
        return Err(CustodyError::Refused(format!("{dir} can be entered by others; for the keys: chmod 700 {dir}")));
    }
    flush_names_to(dir).map_err(io)
}

/// Begins to make a home in `dir`, which is made if absent; until [`end`] what is in it is unfinished.
fn begin(dir: &Path) -> Result<HomeLock, CustodyError> {
    make_dir(dir)?;
    let lock = lock_dir(dir)?;
    if Home::exists(dir)? {
        return Err(CustodyError::Refused(format!("{} already holds a key manager", dir.display())));
    }
    if !dir.join(UNFINISHED).exists()
        && let Some(trace) = trace(dir)?
    {
        return Err(CustodyError::Refused(format!(
            "{} is left of a key manager whose root.json and kms.db are gone: put them back, or move the rest of {} away",
            trace.display(),
            dir.display()
        )));
    }
    remove_unfinished(dir)?;
    root_file::replace(dir, UNFINISHED, b"")?;
    Ok(lock)
}

/// What only a key manager that was finished once leaves: a new one would overwrite the key file, which opens the old one.
fn trace(dir: &Path) -> Result<Option<PathBuf>, CustodyError> {
    let (key_file, log) = (dir.join(KEY_FILE), dir.join("audit"));
    if key_file.exists() {
        return Ok(Some(key_file));
    }
    let files = match fs::read_dir(&log) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        files => files.and_then(|files| files.map(|file| Ok(file?.path())).collect::<Result<Vec<_>, _>>()),
    };
    let files = files.map_err(|source| CustodyError::Io { path: log, source })?;
    Ok(files.into_iter().find(|file| file.extension().is_some_and(|extension| extension == "jsonl")))
}

fn end(dir: &Path) -> Result<(), CustodyError> {
    let unfinished = dir.join(UNFINISHED);
    fs::remove_file(&unfinished).map_err(|source| CustodyError::Io { path: unfinished, source })?;
    root_file::sync_dir(dir)
}

fn lock_dir(dir: &Path) -> Result<HomeLock, CustodyError> {
    let path = dir.join(LOCK_FILE);
    LockFile::acquire(&path).map(HomeLock).map_err(|source| CustodyError::Io { path, source })
}

fn remove_unfinished(dir: &Path) -> Result<(), CustodyError> {
    for name in [DATABASE, "kms.db-wal", "kms.db-shm", "root.json", "root.json.new", KEY_FILE] {
        let path = dir.join(name);
        if dir.join(UNFINISHED).exists() && path.exists() {
            fs::remove_file(&path).map_err(|source| CustodyError::Io { path, source })?;
        }
    }
    Ok(())
}

impl From<&str> for Passphrase {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes().to_vec())
    }
}
