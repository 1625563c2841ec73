//! A computer with a key manager, and volumes on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kmsfs::content;
use kmsfs::crypto::aead::Backend;
use kmsfs::env::{ManualClock, SystemEntropy};
use kmsfs::format::name::NameForm;
use kmsfs::format::volume::OpenedVolume;
use kmsfs::freshness::Freshness;
use kmsfs::keys::embedded::EmbeddedKms;
use kmsfs::keys::{DataKeys, KeyService};
use kmsfs::kms::Engine;
use kmsfs::kms::custody::{Home, NewHome, NewSlot};
use kmsfs::kms::model::{Caller, CreateAliasRequest, CreateKeyRequest};
use kmsfs::ops::init::{InitOptions, NewVolume, init_volume, new_volume_id};
use kmsfs::ops::open::{FoundVolume, OpenOptions};
use kmsfs::ops::verify::{VerifyOptions, VerifyReport, verify};
use kmsfs::ops::{Finding, Silent, VolumeError};
use kmsfs::store::{LocalDir, Modes};
use kmsfs::types::{KeyArn, Timestamp, VolumeId};
use kmsfs::vfs::{Caller as User, Options, ROOT, Vfs};
use tempfile::TempDir;

/// A key manager in a directory of its own.
pub struct Host {
    pub engine: Engine,
    pub caller: Caller,
    pub clock: Arc<ManualClock>,
    _home: TempDir,
}

impl Host {
    pub fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_767_225_600)));
        let dir = TempDir::new().expect("temporary directory");
        let new = NewHome {
            account: "111122223333".parse().expect("twelve digits"),
            region: "eu-central-1".parse().expect("a Region"),
            slots: vec![NewSlot::KeyFile],
        };
        let (home, _) = Home::create(dir.path(), new, &*clock, &SystemEntropy).expect("create the home");
        Self::start(home, clock, dir)
    }

    /// On a key manager that is there; `keep` is what must live as long as it.
    pub fn start(home: Home, clock: Arc<ManualClock>, keep: TempDir) -> Self {
        let engine = Engine::start(home, clock.clone(), Arc::new(SystemEntropy)).expect("start");
        let caller = engine.local_caller("tester");
        Self { engine, caller, clock, _home: keep }
    }

    /// A customer managed key, with `alias/<name>`.
    pub fn key(&self, name: &str) -> KeyArn {
        let answer = self.engine.create_key(&self.caller, CreateKeyRequest::default()).expect("CreateKey");
        let arn = answer.key_metadata.arn;
        let request =
            CreateAliasRequest { alias_name: format!("alias/{name}"), target_key_id: arn.as_str().to_owned() };
        self.engine.create_alias(&self.caller, request).expect("CreateAlias");
        arn
    }

    /// The key manager as the principal of a volume.
    pub fn service(&self, volume: &VolumeId) -> Arc<dyn KeyService> {
        Arc::new(EmbeddedKms::new(self.engine.clone(), volume))
    }

    pub fn init(&self, root: &Path, key: &str) -> Result<NewVolume, VolumeError> {
        self.init_with_names(root, key, NameForm::Encrypted)
    }

    pub fn init_with_names(&self, root: &Path, key: &str, names: NameForm) -> Result<NewVolume, VolumeError> {
        let id = new_volume_id(&SystemEntropy);
        let label = Some("test".to_owned());
        let options = InitOptions { key: key.to_owned(), label, record_in: None, names, aead: Backend::Ring };
        init_volume(root, id, &*self.service(&id), &self.engine.registry(), &options, &*self.clock, &SystemEntropy)
    }

    /// A new volume under `alias/aws/kmsfs` in a directory of its own.
    pub fn volume(&self) -> TempDir {
        let dir = TempDir::new().expect("temporary directory");
        self.init(dir.path(), "alias/aws/kmsfs").expect("init");
        dir
    }

    pub fn open(&self, root: &Path, options: OpenOptions) -> Result<OpenedVolume, VolumeError> {
        let found = FoundVolume::find(root)?;
        let service = self.service(&found.volume_id());
        found.open(&*service, &self.engine.registry(), options)
    }

    pub fn files(&self, root: &Path) -> Arc<content::Volume> {
        let opened = self.open(root, OpenOptions::default()).expect("open the volume");
        self.files_of(opened)
    }

    pub fn files_of(&self, opened: OpenedVolume) -> Arc<content::Volume> {
        self.files_recorded(opened, None)
    }

    /// What files are opened with that have to agree with a freshness record.
    pub fn files_recorded(&self, opened: OpenedVolume, record: Option<Arc<Freshness>>) -> Arc<content::Volume> {
        let service = self.service(&opened.config.volume_id);
        let entropy = Arc::new(SystemEntropy);
        let keys = DataKeys::new(service, opened, entropy.clone(), self.clock.clone());
        Arc::new(content::Volume::new(entropy, keys, 1).with_freshness(record))
    }

    /// The volume as a mount would serve it.
    pub fn mount(&self, root: &Path) -> Mounted {
        self.mount_as(root, false)
    }

    pub fn mount_as(&self, root: &Path, read_only: bool) -> Mounted {
        self.mount_files(root, self.files(root), read_only)
    }

    pub fn mount_files(&self, root: &Path, files: Arc<content::Volume>, read_only: bool) -> Mounted {
        let backing = Arc::new(LocalDir::open(root).expect("open the directory"));
        let privileged = rustix::process::geteuid().is_root();
        let options = Options { read_only, privileged, ..Options::default() };
        Mounted(Vfs::new(backing, files, options).expect("mount"))
    }

    pub fn verify(&self, root: &Path) -> VerifyReport {
        self.verify_files(root, &self.files(root))
    }

    pub fn verify_files(&self, root: &Path, files: &Arc<content::Volume>) -> VerifyReport {
        let backing = Arc::new(LocalDir::open(root).expect("open the directory"));
        let options = VerifyOptions { threads: 2, in_use: false, resume: None };
        verify(&Modes::new(backing, false), files, options, &Silent, &|_| ()).expect("verify")
    }

    /// What `verify` finds, see [`codes`].
    pub fn findings(&self, root: &Path) -> Vec<String> {
        codes(&self.verify(root).findings)
    }
}

/// Findings as `outcome plaintext-path[#unit[+units]]` with `?` for an unknown name, sorted.
pub fn codes(findings: &[Finding]) -> Vec<String> {
    let code = |f: &Finding| {
        let path = f.paths.plaintext.as_deref().map_or("?".into(), String::from_utf8_lossy);
        let unit = match (f.unit, f.units) {
            (None, _) => String::new(),
            (Some(unit), 1) => format!("#{unit}"),
            (Some(unit), units) => format!("#{unit}+{units}"),
        };
        format!("{} {path}{unit}", f.reason.code())
    };
    let mut lines: Vec<String> = findings.iter().map(code).collect();
    lines.sort();
    lines
}

/// A volume as a mount serves it.
pub struct Mounted(pub Vfs<LocalDir>);

impl Mounted {
    fn user() -> User {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        User { uid, gid, umask: 0o022 }
    }

    pub fn mkdir(&self, parent: u64, name: &str) -> u64 {
        self.0.mkdir(parent, name.as_bytes(), 0o755, &Self::user()).expect("mkdir").ino
    }

    pub fn symlink(&self, parent: u64, name: &str, target: &str) {
        self.0.symlink(parent, name.as_bytes(), target.as_bytes(), &Self::user()).expect("symlink");
    }

    /// A file of `content`, synced; its inode number.
    pub fn write(&self, parent: u64, name: &str, content: &[u8]) -> u64 {
        let (attr, opened) = self.0.create(parent, name.as_bytes(), 0o644, &Self::user()).expect("create");
        self.0.write(opened.handle, 0, content).expect("write");
        self.0.fsync(opened.handle, false).expect("fsync");
        self.0.release(opened.handle);
        attr.ino
    }

    pub fn read(&self, name: &str) -> Result<Vec<u8>, kmsfs::vfs::Error> {
        let ino = self.0.lookup(ROOT, name.as_bytes())?.ino;
        let opened = self.0.open(ino, false)?;
        let read = self.0.read(opened.handle, 0, 1 << 24, <[u8]>::to_vec);
        self.0.release(opened.handle);
        read
    }
}

/// The ciphertext file with this inode number, which the mount passes through.
pub fn ciphertext(root: &Path, ino: u64) -> PathBuf {
    find(root, ino).expect("the ciphertext file is in the tree")
}

fn find(dir: &Path, ino: u64) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    std::fs::read_dir(dir).expect("read").flatten().find_map(|entry| {
        let meta = entry.metadata().expect("stat");
        if meta.ino() == ino {
            Some(entry.path())
        } else if meta.is_dir() {
            find(&entry.path(), ino)
        } else {
            None
        }
    })
}

/// Changes bytes of a file in place.
pub fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("read");
    change(&mut bytes);
    std::fs::write(path, bytes).expect("write");
}

/// Gives a directory, in place of its own id, that of another one, in either form (FORMAT 8.1).
pub fn plant_id(donor: &Path, victim: &Path) {
    let id = donor.join(".kmsfs.dir");
    let id = std::fs::read_link(&id).unwrap_or_else(|_| std::fs::read_to_string(&id).expect("an id").into());
    std::fs::remove_file(victim.join(".kmsfs.dir")).expect("remove");
    std::os::unix::fs::symlink(id, victim.join(".kmsfs.dir")).expect("symlink");
}
