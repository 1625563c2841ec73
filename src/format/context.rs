//! KMS encryption contexts (FORMAT 4.3). They appear in audit logs and hold ids only, never names or paths.

use crate::types::{BranchId, EncryptionContext, FileId, VolumeId};

fn base(volume: VolumeId) -> EncryptionContext {
    EncryptionContext::new().with("kmsfs:volume", volume.to_string()).with("kmsfs:fmt", "1")
}

/// Context of a file's data key.
pub fn context_file(volume: VolumeId, file: FileId) -> EncryptionContext {
    base(volume).with("kmsfs:file", file.to_string())
}

/// Context of a volume's root key.
pub fn context_vrk(volume: VolumeId) -> EncryptionContext {
    base(volume).with("kmsfs:purpose", "vrk")
}

/// Context of one version of a branch key.
pub fn context_branch(volume: VolumeId, branch: BranchId, version: u32) -> EncryptionContext {
    base(volume).with("kmsfs:branch", branch.to_string()).with("kmsfs:version", version.to_string())
}
