//! The root file: slots, wrapped domain keys, and which states of the database are valid.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::CustodyError;
use super::slot::SlotRecord;
use crate::crypto::secret::SecretKey;
use crate::kms::{crash, seal};

pub const NAME: &str = "root.json";
const VERSION: u32 = 1;
/// A root file is a few KiB; more is not read.
const MAX_LEN: u64 = 1 << 20;

/// The domain key of one epoch, wrapped.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainRecord {
    pub epoch: u64,
    /// Sealed under the root key, hex.
    pub wrapped: String,
    /// Each database of this epoch has the digest of its state in itself (`store::whole`); false: an earlier program began it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
}

/// A state of the database that is valid: the keyed digest over its rows' revisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateRecord {
    pub epoch: u64,
    pub revision: u64,
    /// Hex.
    pub digest: String,
}

/// The content of the root file. Two states, or two domain keys, stand in it only while a change of the database is
/// being committed: before it, so that either outcome is valid, and until the next root file says which.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootBody {
    pub version: u32,
    pub home_id: String,
    pub account: String,
    pub region: String,
    pub next_slot: u32,
    pub slots: Vec<SlotRecord>,
    pub domains: Vec<DomainRecord>,
    pub states: Vec<StateRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RootFile {
    body: RootBody,
    /// Keyed by the root key: changes are noticed once it is unlocked.
    mac: String,
    /// Unkeyed: tells damage from a wrong secret before it is unlocked.
    sha256: String,
}

impl RootBody {
    pub const VERSION: u32 = VERSION;

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data serialises")
    }
}

/// Path of the root file.
pub fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// The root file with its MAC still to be checked by [`check`].
pub struct Loaded {
    pub body: RootBody,
    mac: String,
}

/// Reads the root file and checks its checksum.
pub fn load(dir: &Path) -> Result<Loaded, CustodyError> {
    let path = path(dir);
    let damaged = |what: &str| CustodyError::Damaged { path: path.clone(), what: what.to_owned() };
    let text = match fs::metadata(&path) {
        Ok(meta) if meta.len() > MAX_LEN => return Err(damaged("it is larger than a root file can be")),
        Ok(_) => fs::read(&path).map_err(|source| CustodyError::Io { path: path.clone(), source })?,
        Err(source) => return Err(CustodyError::Io { path: path.clone(), source }),
    };
    let file: RootFile = serde_json::from_slice(&text).map_err(|e| damaged(&format!("it cannot be read ({e})")))?;
    if HEXLOWER.encode(&seal::sha256(&file.body.bytes())) != file.sha256 {
        return Err(damaged("its checksum does not fit its content"));
    }
    if file.body.version != VERSION {
        return Err(CustodyError::Refused(format!(
            "{} has version {}; this program knows version {VERSION} only",
            path.display(),
            file.body.version
        )));
    }
    Ok(Loaded { body: file.body, mac: file.mac })
}

/// The content, if it was written by somebody who had the root key.
pub fn check(loaded: Loaded, mac_key: &SecretKey<32>, dir: &Path) -> Result<RootBody, CustodyError> {
    let expected = HEXLOWER.encode(&seal::mac(mac_key, &[&loaded.body.bytes()]));
    if seal::same(expected.as_bytes(), loaded.mac.as_bytes()) {
        Ok(loaded.body)
    } else {
        let what = "it was changed by somebody without the root key".to_owned();
        Err(CustodyError::Damaged { path: path(dir), what })
    }
}

/// Replaces the root file: a temporary file, fsync, rename, fsync of the directory.
pub fn store(dir: &Path, body: &RootBody, mac_key: &SecretKey<32>) -> Result<(), CustodyError> {
    let bytes = body.bytes();
    let file = RootFile {
        body: body.clone(),
        mac: HEXLOWER.encode(&seal::mac(mac_key, &[&bytes])),
        sha256: HEXLOWER.encode(&seal::sha256(&bytes)),
    };
    let mut text = serde_json::to_vec_pretty(&file).expect("plain data serialises");
    text.push(b'\n');
    replace(dir, NAME, &text)
}

/// Writes `name` in `dir` atomically and durably, mode 0600.
pub fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), CustodyError> {
    let temporary = dir.join(format!("{name}.new"));
    let io = |source| CustodyError::Io { path: temporary.clone(), source };
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    crash::point();
    crash::flush(&file, false).map_err(io)?;
    crash::point();
    fs::rename(&temporary, dir.join(name)).map_err(io)?;
    crash::point();
    sync_dir(dir)
}

/// Makes the directory's entries durable.
pub fn sync_dir(dir: &Path) -> Result<(), CustodyError> {
    File::open(dir)
        .and_then(|dir| crash::flush(&dir, false))
        .map_err(|source| CustodyError::Io { path: dir.to_owned(), source })
}
