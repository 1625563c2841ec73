//! Opening a volume, in the order of FORMAT 4.2: nothing is asked of the key manager before the registry agrees.

use std::fs;
use std::path::{Path, PathBuf};

use super::VolumeError;
use super::config::{self, BACKUP, VOLUME, path_of};
use super::error::UnknownVolume;
use super::files::MetaDir;
use super::lock::VolumeLock;
use crate::crypto::aead::Backend;
use crate::format::Outcome;
use crate::format::keys::VolumeKeys;
use crate::format::volume::{OpenedVolume, RegistryRow, VolumeConfig, VolumeFile};
use crate::keys::KeyService;
use crate::kms::registry::{Registry, VolumeRecord};
use crate::types::{EncryptionContext, KeyArn, VolumeId};

/// What the user accepts.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions {
    /// A volume that the registry does not know is entered into it once its configuration is authenticated.
    pub trust_new_volume: bool,
    /// A configuration older than one seen before is accepted.
    pub accept_rollback: bool,
    /// The library that runs the AEAD.
    pub aead: Backend,
}

/// A volume on disk whose configuration is well-formed, and nothing more.
#[derive(Debug)]
pub struct FoundVolume {
    meta: MetaDir,
    pub(super) copy: Copy,
}

/// A well-formed configuration, in the volume or from elsewhere, to be authenticated.
#[derive(Debug)]
pub(super) struct Copy {
    /// The volume's directory.
    pub(super) root: PathBuf,
    /// Where in it the configuration stands, or is to stand.
    pub(super) name: &'static str,
    pub(super) file: VolumeFile,
}

impl FoundVolume {
    /// Finds the volume at `root` by its configuration.
    ///
    /// # Errors
    /// [`VolumeError::NotAVolume`], [`VolumeError::Refused`], [`VolumeError::TwoVolumes`], or the system's error.
    pub fn find(root: &Path) -> Result<Self, VolumeError> {
        let found = Self::find_by(root, VOLUME)?;
        config::check_same_volume(root, &found.meta)?;
        Ok(found)
    }

    /// Finds the volume at `root` by the copy of its configuration, to restore it.
    ///
    /// # Errors
    /// As [`Self::find`], except that the other copy is not looked at.
    pub fn find_by_backup(root: &Path) -> Result<Self, VolumeError> {
        Self::find_by(root, BACKUP)
    }

    fn find_by(root: &Path, name: &'static str) -> Result<Self, VolumeError> {
        let meta = config::open_meta(root)?;
        let file = config::read(root, &meta, name)?;
        Ok(Self { meta, copy: Copy { root: root.to_owned(), name, file } })
    }

    /// The id that the volume gives itself; the volume's principal at the key manager carries it.
    pub fn volume_id(&self) -> VolumeId {
        self.copy.file.config().volume_id
    }

    /// What the configuration says, unauthenticated.
    pub fn config(&self) -> &VolumeConfig {
        self.copy.file.config()
    }

    /// The commitment to the root key that the configuration carries, unauthenticated.
    pub fn commit(&self) -> [u8; 32] {
        self.copy.file.row_if_trusted().commit
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.copy.root
    }

    /// `.kmsfs`.
    pub fn meta(&self) -> &MetaDir {
        &self.meta
    }

    /// Takes the volume's lock for `purpose`.
    ///
    /// # Errors
    /// [`VolumeError::Busy`] with who holds it, or the system's error.
    pub fn lock(&self, purpose: &str) -> Result<VolumeLock, VolumeError> {
        VolumeLock::acquire_in(&self.meta, purpose).map_err(|e| VolumeError::lock(&self.copy.root, e))
    }

    /// Steps 2 to 6: registry, root key, MAC, allow-list; afterwards the registry knows the sequence number and where
    /// the volume lies.
    ///
    /// # Errors
    /// [`VolumeError::Unknown`], [`VolumeError::Rollback`], [`VolumeError::Refused`], key errors.
    pub fn open(
        self,
        service: &dyn KeyService,
        registry: &Registry,
        options: OpenOptions,
    ) -> Result<OpenedVolume, VolumeError> {
        self.copy.authenticate(service, registry, options)?.enter(registry)
    }
}

impl Copy {
    /// As [`FoundVolume::open`], but nothing is entered into the registry yet.
    ///
    /// # Errors
    /// As [`FoundVolume::open`].
    pub(super) fn authenticate(
        self,
        service: &dyn KeyService,
        registry: &Registry,
        options: OpenOptions,
    ) -> Result<Authenticated, VolumeError> {
        let id = self.file.config().volume_id;
        let known = registry.get(&id)?;
        let row = match &known {
            Some(record) => self.row_of(record, options)?,
            None if options.trust_new_volume => self.file.row_if_trusted(),
            None => return Err(self.unknown()),
        };
        let root = fs::canonicalize(&self.root).unwrap_or_else(|_| self.root.clone());
        let (path, file) = (path_of(&self.root, self.name), self.file);
        let mut key_error = None;
        let mut unwrap = |key: &KeyArn, blob: &[u8], context: &EncryptionContext| {
            service.decrypt(key, blob, context).map_err(|e| {
                let outcome = e.outcome();
                key_error = Some(e);
                outcome
            })
        };
        let opened = file.open(options.aead, Some(&row), &mut unwrap);
        let opened = match (opened, key_error) {
            (Ok(opened), _) => opened,
            // What the key manager said tells people more than the outcome; a forged blob is damage all the same.
            (Err(Outcome::KeyUnavailable | Outcome::KeyServiceTimeout), Some(e)) => return Err(e.into()),
            (Err(outcome), _) => return Err(VolumeError::Refused { path, outcome, other_copy_readable: true }),
        };
        Ok(Authenticated { opened, known, row, root })
    }

    fn row_of(&self, record: &VolumeRecord, options: OpenOptions) -> Result<RegistryRow, VolumeError> {
        let found = self.file.config().config_seq;
        let mut config_seq = record.config_seq;
        if found < config_seq {
            let path = path_of(&self.root, self.name);
            if !options.accept_rollback {
                return Err(VolumeError::Rollback { path, found, known: config_seq });
            }
            tracing::warn!(
                found,
                known = config_seq,
                "an older volume configuration is accepted as asked, from now on"
            );
            config_seq = found;
        }
        Ok(RegistryRow { commit: record.vrk_commitment, pinned: record.keys.iter().cloned().collect(), config_seq })
    }

    fn unknown(&self) -> VolumeError {
        let config = self.file.config();
        VolumeError::Unknown(Box::new(UnknownVolume {
            volume_id: config.volume_id,
            keys: config.allowed_keys.clone(),
            commit: self.file.row_if_trusted().commit,
            label: config.label.clone(),
        }))
    }
}

/// A volume whose configuration is authentic.
pub(super) struct Authenticated {
    pub(super) opened: OpenedVolume,
    /// What the registry had of it.
    known: Option<VolumeRecord>,
    /// What it was authenticated by.
    row: RegistryRow,
    root: PathBuf,
}

impl Authenticated {
    /// Whether the registry knows the volume as the one that lies here.
    pub(super) fn is_known_here(&self) -> bool {
        self.known.as_ref().is_some_and(|record| record.path == self.root)
    }

    /// Notes in the registry what was accepted: the sequence number, a lower one too, and where the volume lies.
    pub(super) fn enter(self, registry: &Registry) -> Result<OpenedVolume, VolumeError> {
        let Self { opened, known, row, root } = self;
        let config = &opened.config;
        match known {
            Some(record) => {
                if config.config_seq < record.config_seq {
                    registry.lower_config_seq(&config.volume_id, config.config_seq)?;
                } else {
                    registry.raise_config_seq(&config.volume_id, config.config_seq)?;
                }
                if record.path != root {
                    registry.set_path(&config.volume_id, &root)?;
                }
            }
            None => registry.put(&VolumeRecord {
                volume: config.volume_id,
                vrk_commitment: row.commit,
                keys: row.pinned.keys().to_vec(),
                config_seq: config.config_seq,
                path: root,
            })?,
        }
        Ok(opened)
    }
}

/// The commitment to the root key that the configuration carries.
pub(super) fn commit_of(root: &Path, config: &VolumeConfig, keys: &VolumeKeys) -> Result<[u8; 32], VolumeError> {
    let parsed = config.encode(keys).and_then(|bytes| VolumeFile::parse(&bytes));
    parsed.map(|file| file.row_if_trusted().commit).map_err(|outcome| VolumeError::Refused {
        path: path_of(root, VOLUME),
        outcome,
        other_copy_readable: false,
    })
}
