//! The volume registry: what makes a volume the one that was there before (the trust anchor of every mount).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;

use crate::kms::KmsError;
use crate::kms::store::{Store, VolumeRow};
use crate::sync::Arc;
use crate::types::{KeyArn, VolumeId};

/// What is known of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRecord {
    /// Its id.
    pub volume: VolumeId,
    /// Commitment of its root key (FORMAT 4).
    pub vrk_commitment: [u8; 32],
    /// The KMS keys that it may use.
    pub keys: Vec<KeyArn>,
    /// Highest sequence number of its config that was accepted: an older config is a rollback.
    pub config_seq: u64,
    /// Where it was last seen.
    pub path: PathBuf,
}

/// The registry of a home.
pub struct Registry {
    store: Arc<Store>,
}

impl Registry {
    pub(in crate::kms) fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// The record of a volume.
    pub fn get(&self, volume: &VolumeId) -> Result<Option<VolumeRecord>, KmsError> {
        let snapshot = self.store.current()?;
        snapshot.volumes.get(&*volume.to_string()).map(|row| record(volume, row)).transpose()
    }

    /// All volumes, by id.
    pub fn list(&self) -> Result<Vec<VolumeRecord>, KmsError> {
        let parse = |(id, row): (&Arc<str>, &Arc<VolumeRow>)| {
            let volume = id.parse().map_err(|_| damaged(id))?;
            record(&volume, row)
        };
        self.store.current()?.volumes.iter().map(parse).collect()
    }

    /// Enters or replaces a record; `config_seq` is never lowered.
    pub fn put(&self, record: &VolumeRecord) -> Result<(), KmsError> {
        self.store.change(|change| {
            let id = record.volume.to_string();
            let known = change.snapshot().volumes.get(&*id).map_or(0, |row| row.config_seq);
            let row = VolumeRow {
                vrk_commitment: HEXLOWER.encode(&record.vrk_commitment),
                keys: record.keys.iter().map(KeyArn::to_string).collect(),
                config_seq: record.config_seq.max(known),
                path: path_text(&record.path),
            };
            change.put(&id, row);
            Ok(())
        })
    }

    /// Raises `config_seq` to at least `seq`, durably; answers the number that counts now.
    pub fn raise_config_seq(&self, volume: &VolumeId, seq: u64) -> Result<u64, KmsError> {
        self.edit(volume, |row| {
            row.config_seq = row.config_seq.max(seq);
            row.config_seq
        })
    }

    /// Sets `config_seq` to `seq`, durably, although a higher one was seen: the owner accepted an older config.
    pub fn lower_config_seq(&self, volume: &VolumeId, seq: u64) -> Result<(), KmsError> {
        self.edit(volume, |row| row.config_seq = seq)
    }

    /// Notes where the volume was seen.
    pub fn set_path(&self, volume: &VolumeId, path: &Path) -> Result<(), KmsError> {
        self.edit(volume, |row| row.path = path_text(path))
    }

    fn edit<T>(&self, volume: &VolumeId, edit: impl FnOnce(&mut VolumeRow) -> T) -> Result<T, KmsError> {
        let id = volume.to_string();
        self.store.change(|change| {
            let known = change.snapshot().volumes.get(&*id).cloned();
            let known = known.ok_or_else(|| KmsError::NotFound(format!("Volume {id} is not registered")))?;
            let mut row = (*known).clone();
            let answer = edit(&mut row);
            if row != *known {
                change.put(&id, row);
            }
            Ok(answer)
        })
    }
}

fn path_text(path: &Path) -> String {
    HEXLOWER.encode(path.as_os_str().as_bytes())
}

fn damaged(id: &str) -> KmsError {
    KmsError::Internal(format!("the registry's record of volume {id} cannot be read"))
}

fn record(volume: &VolumeId, row: &VolumeRow) -> Result<VolumeRecord, KmsError> {
    let unreadable = || damaged(&volume.to_string());
    let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).map_err(|_| unreadable());
    Ok(VolumeRecord {
        volume: *volume,
        vrk_commitment: hex(&row.vrk_commitment)?.try_into().map_err(|_| unreadable())?,
        keys: row.keys.iter().map(|arn| arn.parse().map_err(|_| unreadable())).collect::<Result<_, _>>()?,
        config_seq: row.config_seq,
        path: PathBuf::from(OsStr::from_bytes(&hex(&row.path)?)),
    })
}
