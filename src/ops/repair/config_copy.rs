//! Putting back what is lost, from what is still there.

use std::path::Path;

use rustix::io::Errno;

use crate::format::dirid;
use crate::format::volume::{MAX_LEN, VolumeFile};
use crate::keys::KeyService;
use crate::kms::registry::Registry;
use crate::ops::VolumeError;
use crate::ops::config::{self, BACKUP, VOLUME, path_of};
use crate::ops::files::MetaDir;
use crate::ops::lock::VolumeLock;
use crate::ops::open::{Authenticated, Copy, FoundVolume, OpenOptions};
use crate::store::tree::read_meta;
use crate::store::{Backing, LocalDir};
use crate::types::VolumeId;

/// Name under which a replaced configuration is kept.
pub const REPLACED: &str = "volume.damaged";

/// What the two copies of the configuration look like, for the user to compare. Nothing is authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigCopy {
    /// `volume` or `volume.bak`.
    pub name: &'static str,
    /// What it says, or why it is not accepted.
    pub says: Result<ConfigSummary, String>,
}

/// The telling fields of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSummary {
    /// The volume's id.
    pub volume_id: VolumeId,
    /// Its sequence number.
    pub config_seq: u64,
    /// The allowed keys.
    pub keys: Vec<String>,
}

/// Both copies, and whether they are the same byte for byte.
///
/// # Errors
/// [`VolumeError::NotAVolume`], or the system's error.
pub fn compare_config(root: &Path) -> Result<([ConfigCopy; 2], bool), VolumeError> {
    let meta = config::open_meta(root)?;
    let look = |name| {
        let says = config::read(root, &meta, name).map_err(|e| e.to_string()).map(|file| {
            let config = file.config();
            ConfigSummary {
                volume_id: config.volume_id,
                config_seq: config.config_seq,
                keys: config.allowed_keys.iter().map(ToString::to_string).collect(),
            }
        });
        ConfigCopy { name, says }
    };
    let bytes = |name| meta.read(name, MAX_LEN).ok();
    let same = bytes(VOLUME).is_some() && bytes(VOLUME) == bytes(BACKUP);
    Ok(([look(VOLUME), look(BACKUP)], same))
}

/// Replaces the configuration by its copy, after the copy was authenticated as at a mount and found to belong to this
/// tree: a host knows many volumes, and each one's copy is authentic. What is replaced is kept
/// as `.kmsfs/volume.damaged`.
///
/// # Errors
/// As [`FoundVolume::open`] for the copy; [`VolumeError::ForeignCopy`]; [`VolumeError::Busy`] while the volume is mounted.
pub fn restore_config(
    found: FoundVolume,
    service: &dyn KeyService,
    registry: &Registry,
    options: OpenOptions,
) -> Result<(), VolumeError> {
    let root = found.root().to_owned();
    let _lock = found.lock("repair")?;
    let meta = config::open_meta(&root)?;
    let good = meta.read(BACKUP, MAX_LEN).map_err(|e| VolumeError::io(path_of(&root, BACKUP), "read", e))?;
    let authentic = found.copy.authenticate(service, registry, options)?;
    if !is_of_tree(&root, &authentic)? {
        return Err(VolumeError::ForeignCopy { root, copy: authentic.opened.config.volume_id });
    }
    replace(&root, &meta, &good)?;
    authentic.enter(registry).map(drop)
}

/// Puts `configuration`, which was kept elsewhere, in the place of one that is lost with its copy, after it was authenticated
/// and found to belong to the tree at `root`. What is replaced is kept as [`restore_config`] does.
///
/// # Errors
/// As [`restore_config`].
pub fn put_config(
    root: &Path,
    configuration: &[u8],
    service: &dyn KeyService,
    registry: &Registry,
) -> Result<(), VolumeError> {
    let path = path_of(root, VOLUME);
    let file = VolumeFile::parse(configuration).map_err(|outcome| VolumeError::Refused {
        path: path.clone(),
        outcome,
        other_copy_readable: false,
    })?;
    let copy = Copy { root: root.to_owned(), name: VOLUME, file };
    let authentic = copy.authenticate(service, registry, OpenOptions::default())?;
    if !is_of_tree(root, &authentic)? {
        return Err(VolumeError::ForeignTree { root: root.to_owned(), volume: authentic.opened.config.volume_id });
    }
    let meta = match config::open_meta(root) {
        Err(VolumeError::NotAVolume(_)) => MetaDir::create(root).map_err(|e| VolumeError::io(root, "write", e))?,
        opened => opened?,
    };
    let _lock = VolumeLock::acquire_in(&meta, "recover").map_err(|e| VolumeError::lock(root, e))?;
    replace(root, &meta, configuration)?;
    authentic.enter(registry).map(drop)
}

/// Replaces the configuration and keeps the old one. What cannot even be read holds nothing to keep.
fn replace(root: &Path, meta: &MetaDir, good: &[u8]) -> Result<(), VolumeError> {
    if let Ok(bad) = meta.read(VOLUME, MAX_LEN) {
        meta.replace(REPLACED, &bad).map_err(|e| VolumeError::io(path_of(root, REPLACED), "write", e))?;
    }
    meta.replace(VOLUME, good).map_err(|e| VolumeError::io(path_of(root, VOLUME), "write", e))
}

/// Whether the tree at `root` is the volume's: the id of its root directory carries a MAC by the volume's keys. Where that
/// id is lost too, the registry's word counts.
fn is_of_tree(root: &Path, authentic: &Authenticated) -> Result<bool, VolumeError> {
    let unreadable = |e: Errno| VolumeError::io(root.join(dirid::ENTRY), "read", e);
    let backing = LocalDir::open(root).map_err(|e| VolumeError::io(root, "open", e))?;
    let dir = backing.root().map_err(|e| VolumeError::io(root, "open", e))?;
    let found = read_meta(&backing, &dir, dirid::ENTRY, dirid::TEXT_LEN).map_err(unreadable)?;
    Ok(dirid::decode(&authentic.opened.keys, found.as_found()).is_ok() || authentic.is_known_here())
}
