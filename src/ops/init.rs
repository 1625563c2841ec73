//! Making a volume in an empty directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::config::{self, BACKUP, VOLUME, path_of};
use super::files::{META_DIR, MetaDir};
use super::freshness::record_path;
use super::lock::VolumeLock;
use super::open::commit_of;
use super::{VolumeError, lock};
use crate::crypto::aead::Backend;
use crate::env::{Clock, Entropy, random, random_nonzero};
use crate::format::context::context_vrk;
use crate::format::dirid;
use crate::format::keys::VolumeKeys;
use crate::format::name::NameForm;
use crate::format::recipient::Recipient;
use crate::format::size::Geometry;
use crate::format::volume::{DIR_META_FILE, FRESHNESS, PLAIN_NAMES, VolumeConfig};
use crate::freshness::Freshness;
use crate::keys::KeyService;
use crate::kms::registry::{Registry, VolumeRecord};
use crate::store::tree::make_meta;
use crate::store::{Backing, LocalDir};
use crate::sys::dirs::flush_names_to;
use crate::types::{DirId, KeyArn, VolumeId};

/// Shortest `NAME_MAX` that holds a side entry (47 characters, FORMAT 8.2) and a short name of 16 bytes.
const MIN_NAME_MAX: u64 = 60;
/// Directory that mkfs puts into the root of a filesystem; it is no content.
const LOST_AND_FOUND: &str = "lost+found";

/// What can be chosen for a new volume.
#[derive(Debug, Clone, Default)]
pub struct InitOptions {
    /// The KMS key: id, ARN or alias.
    pub key: String,
    /// A name for people.
    pub label: Option<String>,
    /// The key manager's home, if the volume is to have a freshness record there.
    pub record_in: Option<PathBuf>,
    /// How names stand on disk.
    pub names: NameForm,
    /// The library that runs the AEAD while the volume is made.
    pub aead: Backend,
}

/// A volume that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// Its id.
    pub volume_id: VolumeId,
    /// The KMS key of its files.
    pub key: KeyArn,
}

/// An id for a new volume. It is drawn first, since the volume's principal at the key manager carries it.
pub fn new_volume_id(entropy: &dyn Entropy) -> VolumeId {
    VolumeId::from_bytes(random_nonzero(entropy))
}

/// Makes a volume in the empty directory `root`, wraps its root key by `service`, and enters it into the registry.
/// A crash leaves either a volume or a directory in which this works again.
///
/// # Errors
/// [`VolumeError::AlreadyAVolume`], [`VolumeError::NotEmpty`], key errors, the system's errors.
pub fn init_volume(
    root: &Path,
    volume_id: VolumeId,
    service: &dyn KeyService,
    registry: &Registry,
    options: &InitOptions,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<NewVolume, VolumeError> {
    check_empty(root, options.names)?;
    let backing = LocalDir::open(root).map_err(|e| VolumeError::io(root, "open", e))?;
    let name_max = backing.stat_fs().map_err(|e| VolumeError::io(root, "query", e))?.name_max;
    if name_max < MIN_NAME_MAX {
        return Err(VolumeError::NamesTooShort { dir: root.to_owned(), name_max });
    }
    let key = service.resolve(&options.key)?;
    let generated = service.generate_data_key(&key, &context_vrk(volume_id))?;
    let keys = VolumeKeys::derive(options.aead, &generated.key, volume_id);
    let unix_time = clock.now().as_unix_time();
    let recipient = Recipient::kms(&key, generated.blob, unix_time);
    let mut config = VolumeConfig::new(volume_id, geometry_for(&recipient), key.clone(), recipient);
    config.short_max = short_max_for(options.names, name_max);
    config.label = options.label.clone();
    if options.names == NameForm::Plain {
        config.incompat |= PLAIN_NAMES;
    }
    if !backing.ordered_metadata() {
        config.ro_compat |= DIR_META_FILE;
    }
    if options.record_in.is_some() {
        config.ro_compat |= FRESHNESS;
    }

    let meta = match MetaDir::create(root) {
        Ok(meta) => meta,
        // Left over from an attempt that a crash ended; check_empty found no configuration in it.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => config::open_meta(root)?,
        Err(e) => return Err(VolumeError::io(root.join(META_DIR), "create", e)),
    };
    let _lock = VolumeLock::acquire_in(&meta, "init").map_err(|e: lock::LockError| VolumeError::lock(root, e))?;
    // Before the configuration: without the lock another process may have made the volume since.
    check_empty(root, options.names)?;
    let root_id = DirId::from_bytes(random(entropy));
    write_root_id(&backing, &config, &keys, root_id)
        .map_err(|e| VolumeError::io(root.join(dirid::ENTRY), "write", e))?;
    // The directory may have been made for this.
    flush_names_to(root).map_err(|e| VolumeError::io(root, "flush the name of", e))?;
    if let Some(home) = &options.record_in {
        Freshness::create(&record_path(home, &volume_id), &keys, volume_id, root_id)?;
    }
    registry.put(&VolumeRecord {
        volume: volume_id,
        vrk_commitment: commit_of(root, &config, &keys)?,
        keys: vec![key.clone()],
        config_seq: config.config_seq,
        path: fs::canonicalize(root).unwrap_or_else(|_| root.to_owned()),
    })?;
    config::write(root, &meta, &config, &keys)?;
    Ok(NewVolume { volume_id, key })
}

/// Whether `root` can become a volume with such names: it holds nothing but what an unfinished attempt left, and what no
/// name of the volume can be mistaken for.
///
/// # Errors
/// [`VolumeError::AlreadyAVolume`], [`VolumeError::NotEmpty`], or the system's error.
pub fn check_empty(root: &Path, names: NameForm) -> Result<(), VolumeError> {
    let entries = fs::read_dir(root).map_err(|e| VolumeError::io(root, "read", e))?;
    let mut unfinished = false;
    let mut foreign = None;
    for entry in entries {
        let name = entry.map_err(|e| VolumeError::io(root, "read", e))?.file_name();
        match name.to_str() {
            Some(META_DIR) => unfinished = true,
            Some(dirid::ENTRY) => {}
            Some(LOST_AND_FOUND) if names == NameForm::Encrypted => {}
            _ => foreign = foreign.or(Some(name)),
        }
    }
    if unfinished {
        let meta = config::open_meta(root)?;
        for name in [VOLUME, BACKUP] {
            if meta.exists(name).map_err(|e| VolumeError::io(path_of(root, name), "query", e))? {
                return Err(VolumeError::AlreadyAVolume(root.to_owned()));
            }
        }
    }
    match foreign {
        Some(name) => {
            let entry = name.to_string_lossy().into_owned();
            Err(VolumeError::NotEmpty { dir: root.to_owned(), entry })
        }
        None => Ok(()),
    }
}

/// One header page where a second wrapped key of this size still fits, else four.
fn geometry_for(recipient: &Recipient) -> Geometry {
    const SLOT_HEAD: usize = 24;
    if 2 * recipient.encoded_len() + SLOT_HEAD <= Geometry::P1.slot_len() { Geometry::P1 } else { Geometry::P4 }
}

/// The longest name that an entry of `name_max` bytes holds (FORMAT 8.2).
fn short_max_for(names: NameForm, name_max: u64) -> usize {
    let entry_len = |name: usize, cap: usize| match names {
        NameForm::Encrypted => ((16 + name.next_multiple_of(16).min(cap)) * 4).div_ceil(3),
        NameForm::Plain => name,
    };
    let fits = |max: &usize| (1..=*max).all(|name| entry_len(name, *max) as u64 <= name_max);
    (16..=names.short_max()).rev().find(fits).unwrap_or(16)
}

/// The root's directory id: made before the configuration (FORMAT 8.1).
fn write_root_id(
    backing: &LocalDir,
    config: &VolumeConfig,
    keys: &VolumeKeys,
    id: DirId,
) -> Result<(), rustix::io::Errno> {
    let root = backing.root()?;
    match backing.unlink(&root, dirid::ENTRY) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(e),
    }
    make_meta(backing, &root, dirid::ENTRY, &dirid::encode(keys, id), config.dir_meta_file())?;
    backing.sync_dir(&root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{ManualClock, SystemEntropy};
    use crate::keys::embedded::EmbeddedKms;
    use crate::kms::Engine;
    use crate::kms::custody::{Home, NewHome, NewSlot};
    use crate::sync::Arc;
    use crate::sys::failing_disk::{FailingDisk, Left};
    use crate::types::Timestamp;

    /// The key manager, the record and the volume are in directories that were made for them: none of these is forgotten.
    #[test]
    fn what_init_has_made_is_where_it_was_made_after_a_power_cut() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let disk = FailingDisk::below(dir.path());
        disk.record();
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
        let (home, root) = (dir.path().join("share/new/kms"), dir.path().join("data/new/volume"));
        let new = NewHome::with_slots(vec![NewSlot::KeyFile]);
        let (made, _) = Home::create(&home, new, &*clock, &SystemEntropy).expect("created");
        let engine = Engine::start(made, clock.clone(), Arc::new(SystemEntropy)).expect("started");
        fs::create_dir_all(&root).expect("made");
        let id = new_volume_id(&SystemEntropy);
        let options = InitOptions {
            key: "alias/aws/kmsfs".into(),
            label: None,
            record_in: Some(home),
            names: NameForm::Encrypted,
            aead: Backend::Ring,
        };
        let service = EmbeddedKms::new(engine.clone(), &id);
        init_volume(&root, id, &service, &engine.registry(), &options, &*clock, &SystemEntropy).expect("made");
        let copy = tempfile::tempdir().expect("temporary directory");
        let history = disk.history();
        history.cut(history.moments(), &Left::Oldest, copy.path());
        for path in ["share/new/kms/root.json", &format!("share/new/kms/freshness/{id}.db"), "data/new/volume"] {
            assert!(copy.path().join(path).exists(), "{path}");
        }
    }

    #[test]
    fn short_names_fit_the_backing() {
        for (names, lengths) in [(NameForm::Encrypted, [175, 91, 29]), (NameForm::Plain, [255, 143, 60])] {
            assert_eq!([255, 143, MIN_NAME_MAX].map(|name_max| short_max_for(names, name_max)), lengths);
        }
    }

    #[test]
    fn only_leftovers_count_as_empty() {
        let root = tempfile::tempdir().expect("temporary directory");
        let path = root.path();
        check_empty(path, NameForm::Plain).expect("empty");
        fs::create_dir(path.join("lost+found")).expect("mkdir");
        let shown = check_empty(path, NameForm::Plain);
        assert!(matches!(shown, Err(VolumeError::NotEmpty { entry, .. }) if entry == "lost+found"));
        fs::create_dir(path.join(META_DIR)).expect("mkdir");
        fs::write(path.join(".kmsfs/lock"), b"").expect("write");
        check_empty(path, NameForm::Encrypted).expect("an unfinished attempt");
        fs::write(path.join("mine"), b"").expect("write");
        assert!(
            matches!(check_empty(path, NameForm::Encrypted), Err(VolumeError::NotEmpty { entry, .. }) if entry == "mine")
        );
        fs::write(path.join(".kmsfs/volume.bak"), b"").expect("write");
        assert!(matches!(check_empty(path, NameForm::Encrypted), Err(VolumeError::AlreadyAVolume(_))));
    }
}
