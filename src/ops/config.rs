//! The two copies of the volume configuration (FORMAT 4.1).

use std::io;
use std::path::{Path, PathBuf};

use super::VolumeError;
use super::files::{META_DIR, MetaDir};
use crate::format::Outcome;
use crate::format::keys::VolumeKeys;
use crate::format::volume::{MAX_LEN, VolumeConfig, VolumeFile};
use crate::store::Backing;

/// The configuration.
pub const VOLUME: &str = "volume";
/// Its copy.
pub const BACKUP: &str = "volume.bak";

/// The mark of a clean unmount.
const CLEAN: &str = "clean";

/// Path of a configuration file, for messages.
pub fn path_of(root: &Path, name: &str) -> PathBuf {
    root.join(META_DIR).join(name)
}

/// Opens `.kmsfs` of the volume at `root`.
///
/// # Errors
/// [`VolumeError::NotAVolume`], [`VolumeError::NoDirectory`], or the system's error.
pub fn open_meta(root: &Path) -> Result<MetaDir, VolumeError> {
    MetaDir::open(root).map_err(|e| match e.kind() {
        // The root itself exists: without `.kmsfs` it is somebody else's directory.
        io::ErrorKind::NotFound if root.is_dir() => VolumeError::NotAVolume(root.to_owned()),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory if !root.is_dir() => {
            VolumeError::NoDirectory { root: root.to_owned(), source: e }
        }
        _ => VolumeError::io(root, "open", e),
    })
}

/// Reads and parses one of the two files; nothing is authenticated yet (step 1 of FORMAT 4.2).
///
/// # Errors
/// [`VolumeError::Refused`] if it is missing or malformed.
pub fn read<B: Backing>(root: &Path, meta: &MetaDir<B>, name: &str) -> Result<VolumeFile, VolumeError> {
    match parse(meta, name) {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(outcome)) => {
            let other = if name == VOLUME { BACKUP } else { VOLUME };
            let other_copy_readable = matches!(parse(meta, other), Ok(Ok(_)));
            Err(VolumeError::Refused { path: path_of(root, name), outcome, other_copy_readable })
        }
        Err(e) => Err(VolumeError::io(path_of(root, name), "read", e)),
    }
}

/// Refuses two well-formed copies that name different volumes: which one belongs here is for the user to say, and
/// opening either would make the other look like damage. A copy that is damaged or missing says nothing.
///
/// # Errors
/// [`VolumeError::TwoVolumes`], or the system's error.
pub fn check_same_volume<B: Backing>(root: &Path, meta: &MetaDir<B>) -> Result<(), VolumeError> {
    let id = |name| match parse(meta, name) {
        Ok(parsed) => Ok(parsed.ok().map(|file| file.config().volume_id)),
        Err(e) => Err(VolumeError::io(path_of(root, name), "read", e)),
    };
    match (id(VOLUME)?, id(BACKUP)?) {
        (Some(volume), Some(copy)) if volume != copy => {
            Err(VolumeError::TwoVolumes { root: root.to_owned(), volume, copy })
        }
        _ => Ok(()),
    }
}

/// A missing file, or something else in its place, counts as a damaged one.
fn parse<B: Backing>(meta: &MetaDir<B>, name: &str) -> io::Result<Result<VolumeFile, Outcome>> {
    let damaged = |e: &io::Error| {
        matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::IsADirectory)
            || e.raw_os_error() == Some(libc::ELOOP)
    };
    match meta.read(name, MAX_LEN) {
        Ok(bytes) => Ok(VolumeFile::parse(&bytes)),
        Err(e) if damaged(&e) => Ok(Err(Outcome::VolumeAuth)),
        Err(e) => Err(e),
    }
}

/// Writes both copies of `config`, first the configuration, then its copy, each durable before the next step. The
/// caller holds the volume's lock and has raised `config_seq`.
///
/// # Errors
/// [`VolumeError::Refused`] if the configuration breaks a rule of the format; the system's error.
pub fn write<B: Backing>(
    root: &Path,
    meta: &MetaDir<B>,
    config: &VolumeConfig,
    keys: &VolumeKeys,
) -> Result<(), VolumeError> {
    let bytes = config.encode(keys).map_err(|outcome| VolumeError::Refused {
        path: path_of(root, VOLUME),
        outcome,
        other_copy_readable: true,
    })?;
    for name in [VOLUME, BACKUP] {
        meta.replace(name, &bytes).map_err(|e| VolumeError::io(path_of(root, name), "write", e))?;
    }
    Ok(())
}

/// Makes the copy equal to the configuration, if a crash between the two writes left it behind. The caller holds the
/// volume's lock and has authenticated the configuration.
///
/// # Errors
/// [`VolumeError::TwoVolumes`] if the copy is another volume's, which is no leftover of a crash; the system's error.
pub fn refresh_copy<B: Backing>(root: &Path, meta: &MetaDir<B>) -> Result<(), VolumeError> {
    check_same_volume(root, meta)?;
    let volume = meta.read(VOLUME, MAX_LEN).map_err(|e| VolumeError::io(path_of(root, VOLUME), "read", e))?;
    if meta.read(BACKUP, MAX_LEN).is_ok_and(|copy| copy == volume) {
        return Ok(());
    }
    tracing::warn!("the copy of the volume configuration was missing or different; it is renewed");
    meta.replace(BACKUP, &volume).map_err(|e| VolumeError::io(path_of(root, BACKUP), "write", e))
}

/// Removes the mark of a clean unmount (FORMAT 4.1). Whether it was there: a hint only.
///
/// # Errors
/// The system's error.
pub fn begin_writing(root: &Path, meta: &MetaDir) -> Result<bool, VolumeError> {
    meta.remove(CLEAN).map_err(|e| VolumeError::io(path_of(root, CLEAN), "remove", e))
}

/// Sets the mark of a clean unmount.
///
/// # Errors
/// The system's error.
pub fn end_writing(root: &Path, meta: &MetaDir) -> Result<(), VolumeError> {
    meta.replace(CLEAN, b"").map_err(|e| VolumeError::io(path_of(root, CLEAN), "write", e))
}
