//! The recovery bundle of a volume: one file from which the volume can be read when its key manager's home is lost.
//!
//! It is a small home of its own, with the keys that the volume may use, their aliases, grants and principals, and the volume's
//! row of the registry, packed together with the volume's configuration. Its root key, domain key and recovery key are new: it
//! opens by its own recovery key only, and nothing of it opens the home that it was made from.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};

use crate::env::random;
use crate::kms::audit::AuditError;
use crate::kms::backup::{BackupError, backup};
use crate::kms::custody::{CustodyError, Home, NewHome, RecoveryKey, Unlock, root_path};
use crate::kms::model::{Caller, KeyState};
use crate::kms::store::{
    AliasRecord, Change, GrantRecord, PrincipalRecord, Snapshot, Store, below, inspect, key_row_id,
};
use crate::kms::store::{Inspection, StoreError, VolumeRow};
use crate::kms::{Engine, KmsError, seal};
use crate::sync::Arc;
use crate::types::{KeyArn, Timestamp, VolumeId};

const FORMAT: &str = "kmsfs recovery bundle";
const VERSION: u32 = 1;
/// The database of a few keys has a few hundred KiB; more than this is no bundle.
const MAX_LEN: u64 = 256 << 20;

/// Why a bundle was not made, or not used. What was there is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file that was to be written is there.
    #[error("{0} exists; a bundle never replaces a file: name another one")]
    Exists(PathBuf),
    /// A key that the volume may use is not, or no longer, in this key manager.
    #[error("the KMS key {0} is not in this key manager, so no bundle of this volume would be complete")]
    NoSuchKey(KeyArn),
    /// The material cannot leave its token.
    #[error("the material of the KMS key {0} is in a custom key store and cannot leave it")]
    InToken(KeyArn),
    /// The registry does not know the volume.
    #[error("the volume {0} is not in this key manager's registry")]
    NoSuchVolume(VolumeId),
    /// It is none, or damaged.
    #[error("{path} is not a recovery bundle that can be used: {what}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The database of the bundle.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The slots of the bundle.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// The present database.
    #[error(transparent)]
    Kms(#[from] KmsError),
    /// The copy of the database.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// No bundle leaves unrecorded.
    #[error("the export could not be recorded in the audit log: {0}")]
    Audit(#[from] AuditError),
    /// A system call failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> BundleError {
    move |source| BundleError::Io { path: path.to_owned(), source }
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Packed {
    format: String,
    version: u32,
    content: Content,
    /// Over the content, to tell damage from a wrong recovery key. Hex.
    sha256: String,
    /// Over `sha256`, by a key that the root key yields, so that nothing else of the bundle is looked at before it is
    /// authenticated. Hex.
    mac: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    /// Seconds since 1970.
    created: u64,
    volume: String,
    keys: Vec<String>,
    /// `root.json`.
    root: String,
    /// `kms.db`, base64.
    database: String,
    /// `.kmsfs/volume`, base64.
    configuration: String,
}

impl Content {
    fn digest(&self) -> [u8; 32] {
        let created = self.created.to_string();
        let mut parts = vec![created.as_bytes(), self.volume.as_bytes()];
        parts.extend([&self.root, &self.database, &self.configuration].map(|part| part.as_bytes()));
        parts.extend(self.keys.iter().map(|key| key.as_bytes()));
        seal::sha256(&seal::framed(&parts))
    }
}

/// A key in a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundledKey {
    /// The key.
    pub arn: KeyArn,
    /// Its state, which it has in the bundle too.
    pub state: KeyState,
    /// Whether all its material is there: imported material can be deleted or expired.
    pub complete: bool,
}

/// A bundle that was made.
pub struct Made {
    /// What opens it, to be shown once.
    pub recovery: RecoveryKey,
    /// The keys in it.
    pub keys: Vec<BundledKey>,
}

impl Engine {
    /// Those of `keys` that no bundle can hold, with why: their material is in a token, or they are not here.
    ///
    /// # Errors
    /// What keeps the database from being read.
    pub fn unexportable(&self, keys: &[KeyArn]) -> Result<Vec<(KeyArn, BundleError)>, BundleError> {
        let snapshot = self.present()?;
        Ok(keys.iter().filter_map(|arn| Some((arn.clone(), row_of(&snapshot, arn).err()?))).collect())
    }

    /// Whether any of `keys` is here.
    ///
    /// # Errors
    /// What keeps the database from being read.
    pub fn has_any(&self, keys: &[KeyArn]) -> Result<bool, BundleError> {
        let absent = self.unexportable(keys)?;
        Ok(absent.iter().filter(|(_, why)| matches!(why, BundleError::NoSuchKey(_))).count() < keys.len())
    }

    /// Writes the recovery bundle of `volume` to the new file `to`, of mode 0600: with `keys`, all that the volume may use, and
    /// `configuration`, its volume file.
    ///
    /// # Errors
    /// [`BundleError::Exists`] if `to` is there; [`BundleError::InToken`], [`BundleError::NoSuchKey`].
    pub fn export_recovery(
        &self,
        caller: &Caller,
        volume: &VolumeId,
        keys: &[KeyArn],
        configuration: &[u8],
        to: &Path,
    ) -> Result<Made, BundleError> {
        let snapshot = self.present()?;
        let mut rows = Vec::new();
        for arn in keys {
            rows.push(row_of(&snapshot, arn)?);
        }
        let id = volume.to_string();
        let registered = snapshot.volumes.get(&*id).ok_or(BundleError::NoSuchVolume(*volume))?;
        let mut out =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(|e| match e.kind() {
                std::io::ErrorKind::AlreadyExists => BundleError::Exists(to.to_owned()),
                _ => io(to)(e),
            })?;
        let written =
            self.pack(&snapshot, &rows, (&id, registered), keys, configuration).and_then(|(packed, recovery)| {
                self.record_export(caller, volume, keys)?;
                let text = serde_json::to_vec_pretty(&packed).expect("plain data serialises");
                out.write_all(&text).and_then(|()| out.sync_all()).map_err(io(to))?;
                let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
                File::open(parent).and_then(|dir| dir.sync_all()).map_err(io(parent))?;
                Ok(recovery)
            });
        if written.is_err()
            && let Err(error) = fs::remove_file(to)
        {
            tracing::warn!(%error, file = %to.display(), "an unfinished bundle could not be removed");
        }
        let recovery = written?;
        let bundled = rows.iter().filter_map(|row| snapshot.key(row)).map(|key| BundledKey {
            arn: key.arn.clone(),
            state: key.state(),
            complete: key.materials.iter().all(|material| material.secret().is_some()),
        });
        Ok(Made { recovery, keys: bundled.collect() })
    }

    /// Makes the small home, in a directory of this one, and takes it apart again.
    fn pack(
        &self,
        snapshot: &Snapshot,
        rows: &[String],
        volume: (&str, &Arc<VolumeRow>),
        keys: &[KeyArn],
        configuration: &[u8],
    ) -> Result<(Packed, RecoveryKey), BundleError> {
        let (clock, entropy) = (self.clock(), self.entropy());
        let small = self.home_dir().join(format!("bundle.{}", HEXLOWER.encode(&random::<8>(&*entropy))));
        let made = (|| {
            let new = NewHome { account: self.account().clone(), region: self.region().clone(), slots: Vec::new() };
            let (home, recovery) = Home::create(&small, new, &*clock, &*entropy)?;
            let store = Store::open(Arc::new(home), entropy, false)?;
            store.change(|change| copy(snapshot, rows, volume, change))?;
            let database = small.join("bundle.db");
            backup(store.home(), &database)?;
            let root = root_path(&small);
            let content = Content {
                created: clock.now().as_unix_time(),
                volume: volume.0.to_owned(),
                keys: keys.iter().map(KeyArn::to_string).collect(),
                root: fs::read_to_string(&root).map_err(io(&root))?,
                database: BASE64.encode(&fs::read(&database).map_err(io(&database))?),
                configuration: BASE64.encode(configuration),
            };
            let digest = content.digest();
            let (sha256, mac) = (HEXLOWER.encode(&digest), HEXLOWER.encode(&store.home().bundle_mac(&digest)));
            Ok((Packed { format: FORMAT.to_owned(), version: VERSION, content, sha256, mac }, recovery))
        })();
        if let Err(error) = fs::remove_dir_all(&small) {
            tracing::warn!(%error, dir = %small.display(), "the directory that the bundle was made in stays behind");
        }
        made
    }
}

/// Row of a key whose material can be copied.
fn row_of(snapshot: &Snapshot, arn: &KeyArn) -> Result<String, BundleError> {
    let row = key_row_id(arn.region(), arn.key_id());
    let key = snapshot.key(&row).filter(|key| key.arn == *arn && !key.is_tombstone());
    let key = key.ok_or_else(|| BundleError::NoSuchKey(arn.clone()))?;
    let in_token = key.record.key_store.is_some() || key.materials.iter().any(|m| m.record.token.is_some());
    if in_token { Err(BundleError::InToken(arn.clone())) } else { Ok(row) }
}

/// What the volume needs of the home.
fn copy(
    from: &Snapshot,
    rows: &[String],
    (volume, registered): (&str, &Arc<VolumeRow>),
    to: &mut Change<'_>,
) -> Result<(), KmsError> {
    for row in rows {
        let Some(key) = from.key(row) else { continue };
        to.put_key(key.record.clone())?;
        for material in &key.materials {
            to.put_material(row, material.with_record(material.record.clone()))?;
        }
        for alias in from.aliases_of(row) {
            if let Some(record) = from.aliases.get(alias) {
                to.put::<AliasRecord>(alias, (**record).clone());
            }
        }
        for (id, grant) in below(&from.grants, &format!("{row}/"), None) {
            to.put::<GrantRecord>(id, (**grant).clone());
        }
    }
    for (id, principal) in from.principals.iter() {
        // Their policies can be what lets the volume use its keys. Nobody's access key is in a bundle.
        let PrincipalRecord { arn, created, policies, .. } = &**principal;
        to.put(id, PrincipalRecord::new(arn.clone(), *created, policies.clone()));
    }
    to.put(volume, (**registered).clone());
    Ok(())
}

/// A recovery bundle that was read; nothing of it is opened yet.
pub struct Bundle {
    /// The volume.
    pub volume: VolumeId,
    /// When it was made.
    pub created: Timestamp,
    /// The volume's configuration as of then.
    pub configuration: Vec<u8>,
    root: Vec<u8>,
    database: Vec<u8>,
    digest: [u8; 32],
    mac: String,
}

impl Bundle {
    /// Reads the bundle at `path`.
    ///
    /// # Errors
    /// [`BundleError::Unusable`], or the system's error.
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let mut text = Vec::new();
        File::open(path).and_then(|file| file.take(MAX_LEN + 1).read_to_end(&mut text)).map_err(io(path))?;
        Self::parse(&text).map_err(|what| BundleError::Unusable { path: path.to_owned(), what })
    }

    /// Takes a bundle's bytes apart.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() as u64 > MAX_LEN {
            return Err("it is larger than a bundle can be".into());
        }
        let named: serde_json::Value = serde_json::from_slice(text).map_err(|_| "it is damaged, or none")?;
        if named["format"] != FORMAT {
            return Err("it is another file".into());
        }
        if named["version"] != VERSION {
            return Err("another version of kmsfs made it; use that one".into());
        }
        let packed: Packed = serde_json::from_value(named).map_err(|e| format!("it is damaged ({e})"))?;
        let content = packed.content;
        let digest = content.digest();
        if HEXLOWER.encode(&digest) != packed.sha256 {
            return Err("its checksum does not fit its content".into());
        }
        let decode = |text: &str| BASE64.decode(text.as_bytes()).map_err(|_| "it is damaged");
        Ok(Self {
            volume: content.volume.parse().map_err(|_| "it names no volume")?,
            created: Timestamp::from_secs(i64::try_from(content.created).map_err(|_| "its date is none")?),
            configuration: decode(&content.configuration)?,
            database: decode(&content.database)?,
            root: content.root.into_bytes(),
            digest,
            mac: packed.mac,
        })
    }

    /// Makes the home at `dir` of it, where there must be none. It opens by the bundle's recovery key.
    ///
    /// # Errors
    /// [`CustodyError::WrongSecret`], [`CustodyError::Refused`] if there is a key manager; nothing stays behind then.
    pub fn install(&self, dir: &Path, recovery: RecoveryKey) -> Result<(Home, Inspection), BundleError> {
        let mut inspection = None;
        let home = Home::install(dir, &self.root, &Unlock::Recovery(recovery), |home| {
            if !seal::same(HEXLOWER.encode(&home.bundle_mac(&self.digest)).as_bytes(), self.mac.as_bytes()) {
                let what = "the bundle was changed by somebody without its recovery key";
                return Err(CustodyError::Refused(what.into()));
            }
            home.place_database(&self.database)?;
            let found = inspect(home, &home.database());
            inspection = Some(found.map_err(|e| CustodyError::Refused(format!("the bundle is not sound: {e}")))?);
            Ok(())
        })?;
        Ok((home, inspection.expect("it was inspected before it was accepted")))
    }
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle").field("volume", &self.volume).field("created", &self.created).finish_non_exhaustive()
    }
}
