//! Why a volume was not created, opened or repaired.

use std::io;
use std::path::{Path, PathBuf};

use super::lock::{LockError, LockOwner};
use crate::format::Outcome;
use crate::keys::KeyError;
use crate::kms::KmsError;
use crate::types::{KeyArn, VolumeId};

/// Why a volume was not created, opened or repaired. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// There is no volume.
    #[error("{0} is not a kmsfs volume: it has no .kmsfs directory")]
    NotAVolume(PathBuf),
    /// There is no directory of this name.
    #[error("{root} cannot be the directory of a volume: {source}")]
    NoDirectory {
        /// What was named.
        root: PathBuf,
        /// The system's error: it does not exist, or it is something else.
        source: io::Error,
    },
    /// There is a volume already.
    #[error("{0} is a kmsfs volume already")]
    AlreadyAVolume(PathBuf),
    /// A new volume needs an empty directory.
    #[error("{dir} is not empty (it holds '{entry}'), and a volume is made only in an empty directory")]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// The first entry found.
        entry: String,
    },
    /// The backing filesystem's names are too short for the format.
    #[error("the filesystem of {dir} allows names of {name_max} bytes only; kmsfs needs at least 60")]
    NamesTooShort {
        /// The directory.
        dir: PathBuf,
        /// Its longest name in bytes.
        name_max: u64,
    },
    /// A configuration file was not accepted (FORMAT 4.2).
    #[error("{path}: {outcome}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        outcome: Outcome,
        /// Whether the other copy is well-formed.
        other_copy_readable: bool,
    },
    /// The two copies of the configuration name different volumes: one of them was copied from elsewhere.
    #[error(
        "{root}/.kmsfs/volume says that this is volume {volume}, and its copy volume.bak that it is volume {copy}: \
         one of the two files belongs to another volume"
    )]
    TwoVolumes {
        /// The directory.
        root: PathBuf,
        /// The id in `volume`.
        volume: VolumeId,
        /// The id in `volume.bak`.
        copy: VolumeId,
    },
    /// The copy of the configuration is authentic, but another volume's than the tree.
    #[error(
        "{root}/.kmsfs/volume.bak is the configuration of volume {copy}, and the files of {root} are not of that volume"
    )]
    ForeignCopy {
        /// The directory.
        root: PathBuf,
        /// The id in `volume.bak`.
        copy: VolumeId,
    },
    /// A configuration from elsewhere does not belong to this tree.
    #[error("the files of {root} are not of volume {volume}, and nothing was written there")]
    ForeignTree {
        /// The directory.
        root: PathBuf,
        /// The volume that the configuration is of.
        volume: VolumeId,
    },
    /// The volume is not in this host's registry (`VolumeUnknown`).
    #[error("the volume {} is not known on this host", .0.volume_id)]
    Unknown(Box<UnknownVolume>),
    /// The configuration is older than one that this host has seen (`VolumeRollback`).
    #[error(
        "{path} has sequence number {found}, but this host has seen {known}: it is an older configuration, which may \
         name keys or settings that were removed since"
    )]
    Rollback {
        /// The file.
        path: PathBuf,
        /// Its sequence number.
        found: u64,
        /// The highest one seen.
        known: u64,
    },
    /// The volume's root key could not be unwrapped; none of this is damage.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The volume has a freshness record, and this host does not.
    #[error("the volume's freshness record is not on this host: there is no {}", .0.display())]
    NoRecord(PathBuf),
    /// The freshness record could not be read or written.
    #[error(transparent)]
    Record(#[from] crate::freshness::Error),
    /// Somebody else uses the freshness record, with this volume or a copy of it.
    #[error(
        "the freshness record of the volume is in use by process {} on host {} ({}): a home has one record of a volume, \
         whatever copies of it there are",
        .0.pid, .0.host, .0.purpose
    )]
    RecordBusy(LockOwner),
    /// Only a mount of the volume keeps its freshness record in step.
    #[error("{0} has a freshness record, which only a mount keeps in step with its files")]
    NeedsMount(PathBuf),
    /// The registry could not be read or written.
    #[error("the volume registry: {0}")]
    Registry(#[from] KmsError),
    /// Somebody else holds the volume (`VolumeBusy`).
    #[error("the volume is in use by process {} on host {} ({})", .0.pid, .0.host, .0.purpose)]
    Busy(LockOwner),
    /// A file of the volume cannot be read or written.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// What an unknown volume says of itself, unauthenticated: for the user to compare before trusting it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVolume {
    /// Its id.
    pub volume_id: VolumeId,
    /// The KMS keys that it allows.
    pub keys: Vec<KeyArn>,
    /// Its commitment to the root key.
    pub commit: [u8; 32],
    /// Its name for people.
    pub label: Option<String>,
}

impl VolumeError {
    pub(super) fn io(path: impl AsRef<Path>, what: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Io { path: path.as_ref().to_owned(), what, source: source.into() }
    }

    pub(super) fn lock(root: &Path, error: LockError) -> Self {
        match error {
            LockError::Busy(owner) => Self::Busy(owner),
            LockError::Io(e) => Self::io(root.join(".kmsfs/lock"), "lock", e),
        }
    }
}
