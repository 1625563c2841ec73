//! The audit log.
#![allow(missing_docs)]
use std::path::PathBuf;

use serde_json::Value;

use crate::kms::KmsError;
use crate::types::Timestamp;

/// Which records to show; all that are given must match.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Part of a key ARN or of the key as the caller named it.
    pub key: Option<String>,
    /// Part of the principal's ARN.
    pub principal: Option<String>,
    /// Event name.
    pub event: Option<String>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Only denied or failed calls.
    pub errors_only: bool,
    /// Only records with a greater `chain.seq` (for following).
    pub after_seq: Option<u64>,
    /// Only the last so many.
    pub last: Option<usize>,
}
/// Outcome of `verify`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    pub records: u64,
    pub files: usize,
    pub first_break: Option<AuditBreak>,
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditBreak {
    pub file: PathBuf,
    /// From 1.
    pub line: u64,
    pub reason: String,
}
/// From `Engine::audit()`.
pub struct AuditLog;
impl AuditLog {
    /// Records in order, flushed before.
    pub fn read(&self, _filter: &AuditFilter) -> Result<Vec<Value>, KmsError> {
        unimplemented!()
    }
    pub fn verify(&self) -> Result<AuditReport, KmsError> {
        unimplemented!()
    }
    /// Everything recorded so far is on disk afterwards.
    pub fn flush(&self) -> Result<(), KmsError> {
        unimplemented!()
    }
}
