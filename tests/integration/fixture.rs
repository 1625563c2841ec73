//! A volume in memory, ready to be mounted without a kernel.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kmsfs::content::Volume;
use kmsfs::crypto::aead::Backend;
use kmsfs::crypto::secret::SecretKey;
use kmsfs::env::{Clock, Entropy, SeededEntropy, random};
use kmsfs::format::dirid;
use kmsfs::format::keys::VolumeKeys;
use kmsfs::format::name::NameForm;
use kmsfs::format::recipient::Recipient;
use kmsfs::format::size::Geometry;
use kmsfs::format::volume::{OpenedVolume, PLAIN_NAMES, VolumeConfig};
use kmsfs::freshness::Freshness;
use kmsfs::keys::{DataKeys, GeneratedKey, KeyError, KeyService};
use kmsfs::store::{Backing, BackingFile};
use kmsfs::types::{AccountId, DirId, EncryptionContext, KeyArn, Region, VolumeId};
use kmsfs::vfs::{Caller, Options, Vfs};

/// Who asks in all tests.
pub const ROOT_USER: Caller = Caller { uid: 0, gid: 0, umask: 0o022 };

type Bound = ([u8; 32], EncryptionContext);

/// A key manager with one key, in memory.
pub struct OneKey {
    key: KeyArn,
    entropy: SeededEntropy,
    disabled: AtomicBool,
    /// Its state allows everything, a policy nothing.
    denied: AtomicBool,
    silent: AtomicBool,
    /// By blob, the data key and the context that it is bound to.
    wrapped: Mutex<HashMap<Vec<u8>, Bound>>,
}

impl OneKey {
    pub fn new() -> Self {
        let (region, account): (Region, AccountId) = ("eu-central-1".parse().unwrap(), "111122223333".parse().unwrap());
        let key = KeyArn::new(&region, &account, "1234abcd-12ab-34cd-56ef-1234567890ab");
        let [disabled, denied, silent] = std::array::from_fn(|_| AtomicBool::new(false));
        Self { key, entropy: SeededEntropy::new(7), disabled, denied, silent, wrapped: Mutex::default() }
    }

    fn usable(&self) -> Result<(), KeyError> {
        match () {
            () if self.silent.load(Ordering::SeqCst) => Err(KeyError::Unreachable("silence".into())),
            () if self.disabled.load(Ordering::SeqCst) => Err(KeyError::Disabled(self.key.clone())),
            () => Ok(()),
        }
    }

    fn permitted(&self) -> Result<(), KeyError> {
        self.usable()?;
        match self.denied.load(Ordering::SeqCst) {
            true => Err(KeyError::Denied { key: self.key.to_string(), reason: "a policy".into() }),
            false => Ok(()),
        }
    }

    fn wrap(&self, key: [u8; 32], context: &EncryptionContext) -> Vec<u8> {
        let blob = random::<96>(&self.entropy).to_vec();
        self.wrapped.lock().unwrap().insert(blob.clone(), (key, context.clone()));
        blob
    }

    fn unwrap(&self, blob: &[u8], context: &EncryptionContext) -> Result<[u8; 32], KeyError> {
        let wrapped = self.wrapped.lock().unwrap();
        let found = wrapped.get(blob).filter(|(_, bound)| bound == context);
        found.map(|(key, _)| *key).ok_or_else(|| KeyError::InvalidCiphertext(self.key.clone()))
    }
}

impl KeyService for OneKey {
    fn resolve(&self, _key: &str) -> Result<KeyArn, KeyError> {
        Ok(self.key.clone())
    }

    fn check(&self, _key: &KeyArn) -> Result<(), KeyError> {
        self.usable()
    }

    fn generate_data_key(&self, _key: &KeyArn, context: &EncryptionContext) -> Result<GeneratedKey, KeyError> {
        self.permitted()?;
        let bytes = random::<32>(&self.entropy);
        let key = SecretKey::from_slice(&bytes).unwrap();
        Ok(GeneratedKey { key, blob: self.wrap(bytes, context) })
    }

    fn decrypt(&self, _key: &KeyArn, blob: &[u8], context: &EncryptionContext) -> Result<SecretKey<32>, KeyError> {
        self.permitted()?;
        Ok(SecretKey::from_slice(&self.unwrap(blob, context)?).unwrap())
    }

    fn re_encrypt(
        &self,
        _from: &KeyArn,
        blob: &[u8],
        _to: &KeyArn,
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, KeyError> {
        Ok(self.wrap(self.unwrap(blob, context)?, context))
    }

    fn material_id(&self, _blob: &[u8]) -> Option<String> {
        None
    }

    fn current_material_id(&self, _key: &KeyArn) -> Result<Option<String>, KeyError> {
        Ok(None)
    }
}

/// A volume on a backing. It can be mounted again and again, as after an unmount.
pub struct Fixture<B: Backing + Clone> {
    pub backing: B,
    service: Arc<OneKey>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    volume_id: VolumeId,
    names: NameForm,
    /// The longest name that an entry holds.
    short_max: usize,
    /// Layout of its files.
    pub geometry: Geometry,
    /// The volume's freshness record, if it has one.
    pub record: Option<Arc<RecordHome>>,
}

/// The bytes of a database and of its journal.
type RecordImage = [Arc<Vec<u8>>; 2];

/// Where a freshness record lies, and what it was at each change of the backing.
pub struct RecordHome {
    dir: tempfile::TempDir,
    images: Mutex<Vec<RecordImage>>,
    chosen: Mutex<Option<RecordImage>>,
}

impl RecordHome {
    fn new() -> Self {
        let memory = std::path::Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self { dir: dir.unwrap(), images: Mutex::default(), chosen: Mutex::default() }
    }

    /// The database.
    pub fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("record")
    }

    /// What the database is now.
    pub fn image(&self) -> RecordImage {
        ["", "-wal"].map(|suffix| {
            let path = format!("{}{suffix}", self.path().display());
            Arc::new(std::fs::read(path).unwrap_or_default())
        })
    }

    /// Keeps what the database is now.
    pub fn keep(&self) {
        let image = self.image();
        let mut images = self.images.lock().unwrap();
        // Most changes of the backing are none of the record.
        let shared = images.last().map_or(image.clone(), |last| {
            [0, 1].map(|i| if last[i] == image[i] { last[i].clone() } else { image[i].clone() })
        });
        images.push(shared);
    }

    /// From now on [`Fixture::on`] takes the record as it was when so many changes had been kept.
    pub fn choose(&self, kept: usize) {
        let images = self.images.lock().unwrap();
        *self.chosen.lock().unwrap() = Some(images[kept.clamp(1, images.len()) - 1].clone());
    }

    /// The chosen record, else the present one, at a place of its own.
    fn copy(&self) -> Self {
        let copy = Self::new();
        let image = self.chosen.lock().unwrap().clone().unwrap_or_else(|| self.image());
        for (suffix, bytes) in ["", "-wal"].into_iter().zip(image) {
            std::fs::write(format!("{}{suffix}", copy.path().display()), &**bytes).unwrap();
        }
        copy
    }
}

impl<B: Backing + Clone> Fixture<B> {
    /// The same with a freshness record. Nothing is in the volume yet.
    #[must_use]
    pub fn with_record(mut self) -> Self {
        let home = RecordHome::new();
        Freshness::create(&home.path(), &self.keys(), self.volume_id, DirId::from_bytes([9; 16])).unwrap();
        self.record = Some(Arc::new(home));
        self
    }

    /// The same with headers of four pages. Nothing is in the volume yet.
    #[must_use]
    pub fn with_long_headers(self) -> Self {
        Self { geometry: Geometry::P4, ..self }
    }

    /// The same where an entry holds names of so many bytes at most. Nothing is in the volume yet.
    #[must_use]
    pub fn with_short_names(self, short_max: usize) -> Self {
        Self { short_max, ..self }
    }

    /// Makes an empty volume.
    pub fn new(backing: B, clock: Arc<dyn Clock>) -> Self {
        Self::with_names(backing, clock, NameForm::Encrypted)
    }

    /// Makes an empty volume whose names stand on disk in this form.
    pub fn with_names(backing: B, clock: Arc<dyn Clock>, names: NameForm) -> Self {
        let fixture = Self {
            backing,
            service: Arc::new(OneKey::new()),
            clock,
            entropy: Arc::new(SeededEntropy::new(3)),
            volume_id: VolumeId::from_bytes([5; 16]),
            record: None,
            names,
            short_max: names.short_max(),
            geometry: Geometry::P1,
        };
        let root = fixture.backing.root().unwrap();
        let id = dirid::encode(&fixture.keys(), DirId::from_bytes([9; 16]));
        if fixture.backing.ordered_metadata() {
            fixture.backing.symlink(id.as_bytes(), &root, dirid::ENTRY).unwrap();
        } else {
            fixture.backing.create(&root, dirid::ENTRY, 0o600).unwrap().write_at(id.as_bytes(), 0).unwrap();
        }
        fixture.backing.mkdir(&root, ".kmsfs", 0o700).unwrap();
        fixture
    }

    /// The same volume on another backing, which holds what a crash or a copy left of it.
    pub fn on<C: Backing + Clone>(&self, backing: C) -> Fixture<C> {
        Fixture {
            backing,
            service: self.service.clone(),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            volume_id: self.volume_id,
            names: self.names,
            short_max: self.short_max,
            geometry: self.geometry,
            record: self.record.as_ref().map(|home| Arc::new(home.copy())),
        }
    }

    /// The same volume on the same backing, as one that keeps no record sees it.
    #[must_use]
    pub fn without_record(&self) -> Self {
        Self { record: None, ..self.on(self.backing.clone()) }
    }

    /// Enables or disables the one key.
    pub fn set_key_enabled(&self, enabled: bool) {
        self.service.disabled.store(!enabled, Ordering::SeqCst);
    }

    /// Mounts the volume, with an empty cache of data keys.
    pub fn mount(&self) -> Vfs<B> {
        self.mount_with(Options { privileged: true, ..Options::default() })
    }

    /// As [`Self::mount`], where bounds of sizes are raised when a file is closed, or when asked to.
    pub fn mount_raising_later(&self) -> Vfs<B> {
        let raise_after = Some(Duration::from_secs(3600));
        self.mount_with(Options { privileged: true, raise_after, ..Options::default() })
    }

    /// As [`Self::mount`], with other options.
    pub fn mount_with(&self, options: Options) -> Vfs<B> {
        Vfs::new(Arc::new(self.backing.clone()), Arc::new(self.volume()), options).unwrap()
    }

    /// As [`Self::mount`], with `key-state=strict`.
    pub fn mount_strict(&self) -> Vfs<B> {
        let options = Options { privileged: true, ..Options::default() };
        let volume = self.volume_with(DataKeys::watching);
        Vfs::new(Arc::new(self.backing.clone()), Arc::new(volume), options).unwrap()
    }

    /// Lets a policy deny the one key's use, whose state stays as it is.
    pub fn set_key_denied(&self, denied: bool) {
        self.service.denied.store(denied, Ordering::SeqCst);
    }

    /// Makes the key manager fail to answer, or answer again.
    pub fn set_key_service_silent(&self, silent: bool) {
        self.service.silent.store(silent, Ordering::SeqCst);
    }

    /// What files of the volume are opened with.
    pub fn volume(&self) -> Volume {
        self.volume_with(|keys| keys)
    }

    /// Its configuration, and the keys that follow from its root key.
    pub fn opened(&self) -> OpenedVolume {
        let key = self.service.key.clone();
        let wrapped = Recipient::kms(&key, vec![1; 96], 0);
        let mut config = VolumeConfig::new(self.volume_id, self.geometry, key.clone(), wrapped);
        config.short_max = self.short_max;
        if self.names == NameForm::Plain {
            config.incompat |= PLAIN_NAMES;
        }
        let allowed = [key].into_iter().collect();
        OpenedVolume { config, keys: Arc::new(self.keys()), allowed }
    }

    fn volume_with(&self, change: impl FnOnce(DataKeys) -> DataKeys) -> Volume {
        let (service, opened) = (self.service.clone(), self.opened());
        let keys = change(DataKeys::new(service, opened, self.entropy.clone(), self.clock.clone()));
        let open = |home: &Arc<RecordHome>| Freshness::open(&home.path(), &self.keys(), self.volume_id).unwrap();
        Volume::new(self.entropy.clone(), keys, 1).with_freshness(self.record.as_ref().map(open).map(Arc::new))
    }

    fn keys(&self) -> VolumeKeys {
        VolumeKeys::derive(Backend::default(), &SecretKey::from_slice(&[8; 32]).unwrap(), self.volume_id)
    }
}
