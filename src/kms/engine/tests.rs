//! The engine from outside: through its operations, on real homes.

mod asymmetric;
mod backups;
mod catch_up;
mod conditions;
mod crash;
mod deletion;
mod failing_disk;
mod grants;
mod homes;
mod import;
mod keys;
mod model;
mod model_later;
mod multi_region;
mod permissions;
mod policies;
mod power_cut;
mod processes;
mod records;
mod rekey;
mod scale;
mod states;
mod symmetric;
mod usage;
mod variables;

use tempfile::TempDir;

use super::Engine;
pub use super::rules::rule;
use crate::env::{Clock, ManualClock, SystemEntropy};
use crate::kms::custody::{CHEAP, Home, NewHome, NewSlot, Passphrase, RecoveryKey, Unlock};
use crate::kms::model::*;
use crate::kms::{KmsError, OpenError};
use crate::sync::Arc;
use crate::types::{EncryptionContext, Timestamp};

/// A home with passphrase `secret`, an engine on it, and a clock that stands still.
pub struct Bench {
    pub engine: Engine,
    pub alice: Caller,
    pub clock: Arc<ManualClock>,
    pub recovery: RecoveryKey,
    /// Last, so that the engine has closed before its home goes.
    pub dir: TempDir,
}

pub fn passphrase(text: &str) -> Unlock {
    Unlock::Passphrase(text.into())
}

/// Memory if there is a file system in it: the tests make many durable changes.
pub fn directory() -> TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    made.expect("temporary directory")
}

impl Bench {
    pub fn new() -> Self {
        let dir = directory();
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_767_225_600)));
        let new = NewHome::with_slots(vec![NewSlot::Passphrase(Passphrase::from("secret"), CHEAP), NewSlot::KeyFile]);
        let (home, recovery) = Home::create(&dir.path().join("kms"), new, &*clock, &SystemEntropy).expect("created");
        let engine = Engine::start(home, clock.clone(), Arc::new(SystemEntropy)).expect("started");
        let alice = engine.local_caller("alice");
        Self { dir, clock, engine, alice, recovery }
    }

    pub fn home(&self) -> std::path::PathBuf {
        self.dir.path().join("kms")
    }

    /// Another engine on the same home, as another process would have it.
    pub fn another(&self) -> Result<Engine, OpenError> {
        Engine::open(&self.home(), &passphrase("secret"), self.clock.clone(), Arc::new(SystemEntropy))
    }

    pub fn days(&self, days: u32) {
        self.clock.set(self.clock.now().plus_days(days));
    }

    pub fn hours(&self, hours: u64) {
        self.clock.advance(std::time::Duration::from_secs(hours * 3600));
    }

    pub fn key(&self) -> String {
        self.engine.create_key(&self.alice, CreateKeyRequest::default()).expect("created").key_metadata.key_id
    }

    pub fn describe(&self, key_id: &str) -> Result<KeyMetadata, KmsError> {
        let request = DescribeKeyRequest { key_id: key_id.to_owned(), ..Default::default() };
        self.engine.describe_key(&self.alice, request).map(|answer| answer.key_metadata)
    }

    pub fn encrypt(&self, key_id: &str, plaintext: &[u8]) -> Result<Vec<u8>, KmsError> {
        encrypt(&self.engine, &self.alice, key_id, plaintext)
    }

    pub fn decrypt(&self, blob: &[u8]) -> Result<Vec<u8>, KmsError> {
        decrypt(&self.engine, &self.alice, blob)
    }

    pub fn schedule(&self, key_id: &str, days: u32) -> Result<ScheduleKeyDeletionResponse, KmsError> {
        let request = ScheduleKeyDeletionRequest { key_id: key_id.to_owned(), pending_window_in_days: Some(days) };
        self.engine.schedule_key_deletion(&self.alice, request)
    }

    /// The number of rotations in the history.
    pub fn rotations(&self, key_id: &str) -> Vec<RotationsListEntry> {
        let request = ListKeyRotationsRequest { key_id: key_id.to_owned(), ..Default::default() };
        self.engine.list_key_rotations(&self.alice, request).expect("listed").rotations
    }
}

pub fn context() -> EncryptionContext {
    EncryptionContext::new().with("kmsfs:volume", "v").with("kmsfs:file", "f")
}

pub fn encrypt(engine: &Engine, caller: &Caller, key_id: &str, plaintext: &[u8]) -> Result<Vec<u8>, KmsError> {
    let request = EncryptRequest {
        key_id: key_id.to_owned(),
        plaintext: plaintext.into(),
        encryption_context: context(),
        encryption_algorithm: None,
        grant_tokens: Vec::new(),
        dry_run: false,
    };
    engine.encrypt(caller, request).map(|answer| answer.ciphertext_blob)
}

pub fn decrypt(engine: &Engine, caller: &Caller, blob: &[u8]) -> Result<Vec<u8>, KmsError> {
    let request =
        DecryptRequest { ciphertext_blob: Some(blob.to_vec()), encryption_context: context(), ..Default::default() };
    engine.decrypt(caller, request).map(|answer| answer.plaintext.expose().to_vec())
}
