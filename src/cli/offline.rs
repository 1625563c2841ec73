//! A volume opened without mounting it, for the jobs over whole volumes.

use std::num::NonZero;
use std::path::Path;

use serde_json::{Value, json};

use super::daemon;
use super::exit::{CliError, CliResult};
use super::session::Session;
use super::settings::Settings;
use crate::content::Volume;
use crate::env::{SystemEntropy, system_clock};
use crate::format::volume::OpenedVolume;
use crate::freshness::Freshness;
use crate::keys::{DataKeys, KeyService};
use crate::ops::Finding;
use crate::ops::open::{FoundVolume, OpenOptions};
use crate::store::LocalDir;
use crate::sync::Arc;

/// What opens files of a volume.
pub struct Unlocked {
    /// The key manager.
    pub session: Session,
    /// The key manager as this volume's principal.
    pub service: Arc<dyn KeyService>,
    /// The volume's configuration and keys.
    pub opened: OpenedVolume,
}

/// Unlocks the key manager and authenticates the volume's configuration.
pub fn unlock(settings: &Settings, found: FoundVolume, options: OpenOptions) -> CliResult<Unlocked> {
    unlock_with(Session::open_for(settings, found.root())?, found, options)
}

/// As [`unlock`], with a key manager that is open already.
pub fn unlock_with(session: Session, found: FoundVolume, options: OpenOptions) -> CliResult<Unlocked> {
    let service = session.key_service(&found.volume_id())?;
    let opened = found.open(&*service, &session.engine.registry(), options)?;
    Ok(Unlocked { session, service, opened })
}

/// The data keys of an opened volume.
pub fn data_keys(service: Arc<dyn KeyService>, opened: OpenedVolume) -> DataKeys {
    DataKeys::new(service, opened, Arc::new(SystemEntropy), system_clock())
}

/// What files are opened with. `read_attempts`: more than one only where a writer outside of this process may be at
/// work. `record`: the freshness record, where the files have to agree with it.
pub fn files(keys: DataKeys, read_attempts: u32, record: Option<Arc<Freshness>>) -> Arc<Volume> {
    Arc::new(Volume::new(Arc::new(SystemEntropy), keys, read_attempts).with_freshness(record))
}

/// The ciphertext tree at `root`, for a process that may have as many descriptors as the system allows.
pub fn backing(root: &Path) -> CliResult<Arc<LocalDir>> {
    daemon::raise_nofile();
    LocalDir::open(root).map(Arc::new).map_err(|e| CliError::io(root, "open", &e.into()))
}

/// Threads for a job: one per processor, two at least, since half of the time is waiting.
pub fn threads(asked: Option<u16>) -> usize {
    asked.map_or_else(|| std::thread::available_parallelism().map_or(2, NonZero::get).max(2), usize::from)
}

/// A finding for scripts.
pub fn finding_json(finding: &Finding) -> Value {
    json!({
        "path": finding.paths.plaintext.as_deref().map(|p| String::from_utf8_lossy(p)),
        "ciphertext_path": String::from_utf8_lossy(&finding.paths.ciphertext),
        "unit": finding.unit,
        "units": finding.units,
        "outcome": finding.reason.code(),
        "reason": finding.reason.to_string(),
    })
}

/// A finding for people.
pub fn finding_words(finding: &Finding) -> String {
    let place = |path: &[u8]| match path {
        b"" => ".".to_owned(),
        path => String::from_utf8_lossy(path).escape_debug().to_string(),
    };
    let path = finding.paths.plaintext.as_deref().map_or_else(|| "(name unknown)".to_owned(), place);
    let unit = match (finding.unit, finding.units) {
        (None, _) => String::new(),
        (Some(unit), 0 | 1) => format!(" unit {unit}"),
        (Some(unit), units) => format!(" units {unit} to {}", unit + units - 1),
    };
    format!(
        "{}{unit}  {path}\n    ciphertext {}\n    {}",
        finding.reason.code(),
        place(&finding.paths.ciphertext),
        finding.reason
    )
}
