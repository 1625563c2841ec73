//! From the library's errors to exit codes, stable words and hints.

use data_encoding::HEXLOWER;

use super::exit::{CliError, Exit, NO_THREAD, remedy};
use super::mounts;
use crate::format::Outcome;
use crate::keys::KeyError;
use crate::keys::remote::{EndpointError, RemoteError};
use crate::kms::audit::AuditError;
use crate::kms::backup::BackupError;
use crate::kms::custody::{CustodyError, SlotKind};
use crate::kms::model::KeyState;
use crate::kms::store::StoreError;
use crate::kms::{KmsError, OpenError};
use crate::ops::VolumeError;
use crate::types::KeyArn;

impl From<KmsError> for CliError {
    fn from(error: KmsError) -> Self {
        let (exit, hint) = match &error {
            KmsError::Disabled(arn) => (Exit::KeyUnusable, Some(enable(arn.key_id()))),
            KmsError::InvalidState { arn, state: KeyState::PendingDeletion } => {
                (Exit::KeyUnusable, Some(cancel_deletion(arn.key_id())))
            }
            KmsError::InvalidState { .. } | KmsError::NotPendingDeletion(_) | KmsError::MaterialState(_) => {
                (Exit::KeyUnusable, None)
            }
            KmsError::NotFound(_) => {
                (Exit::Failure, Some("kmsfs key list shows the keys and their aliases".to_owned()))
            }
            KmsError::AccessDenied(_) => (Exit::AccessDenied, None),
            KmsError::MalformedPolicyDocument(_) | KmsError::InvalidGrantToken | KmsError::InvalidGrantId => {
                (Exit::Usage, None)
            }
            KmsError::InvalidCiphertext
            | KmsError::InvalidSignature
            | KmsError::InvalidMac
            | KmsError::IncorrectKey => (Exit::Integrity, None),
            KmsError::Validation(_)
            | KmsError::InvalidArn(_)
            | KmsError::InvalidAliasName(_)
            | KmsError::Tag(_)
            | KmsError::Serialization(_)
            | KmsError::UnknownOperation(_)
            | KmsError::InvalidMarker => (Exit::Usage, None),
            KmsError::KeyUnavailable { .. } => {
                (Exit::KmsUnavailable, Some("kmsfs key-store describe shows the key store's connection".to_owned()))
            }
            KmsError::NoThread(_) => (Exit::KmsUnavailable, Some(NO_THREAD.to_owned())),
            KmsError::Internal(_) => (Exit::KmsUnavailable, Some("kmsfs doctor looks for the cause".to_owned())),
            KmsError::AlreadyExists(_)
            | KmsError::InvalidKeyUsage(_)
            | KmsError::UnsupportedOperation(_)
            | KmsError::LimitExceeded(_)
            | KmsError::Conflict(_)
            | KmsError::IncorrectKeyMaterial(_)
            | KmsError::KeyStore { .. }
            | KmsError::InvalidImportToken
            | KmsError::ExpiredImportToken
            | KmsError::Throttling
            | KmsError::DryRun => (Exit::Failure, None),
        };
        let message = match &error {
            KmsError::InvalidCiphertext => "the ciphertext is not valid for this key and context".to_owned(),
            KmsError::InvalidSignature => "the signature is not one of this key over this message".to_owned(),
            KmsError::InvalidMac => "the MAC is not that of this key over this message".to_owned(),
            error => error.to_string(),
        };
        Self { exit, code: error.code().to_owned(), message, hint }
    }
}

fn enable(key_id: &str) -> String {
    format!("enable it with: kmsfs key enable {key_id}")
}

fn cancel_deletion(key_id: &str) -> String {
    format!("cancel the deletion with: kmsfs key cancel-deletion {key_id}")
}

impl From<KeyError> for CliError {
    fn from(error: KeyError) -> Self {
        let (exit, code) = match &error {
            KeyError::Disabled(_) => (Exit::KeyUnusable, "DisabledException"),
            KeyError::PendingDeletion(_) => (Exit::KeyUnusable, "KMSInvalidStateException"),
            KeyError::NotFound(_) => (Exit::Failure, "NotFoundException"),
            KeyError::NotSymmetric(_) => (Exit::Failure, "InvalidKeyUsageException"),
            KeyError::Denied { .. } => (Exit::AccessDenied, "AccessDeniedException"),
            KeyError::InvalidCiphertext(_) => (Exit::Integrity, "InvalidCiphertextException"),
            KeyError::Unreachable(_) => (Exit::KmsUnavailable, "KeyUnavailableException"),
            KeyError::Failed(_) => (Exit::KmsUnavailable, "KMSInternalException"),
        };
        // The other texts of the joint carry their next step.
        let hint = match &error {
            KeyError::NotFound(_) => Some(
                "kmsfs key list shows the keys and aliases of this key manager. What is not among them was deleted, or is in \
                 another one: name that with --kms-home DIR (KMSFS_HOME), or --kms-endpoint URL and --region REGION (an ARN \
                 tells account and Region); a backup or a recovery bundle may hold a deleted key",
            ),
            KeyError::InvalidCiphertext(_) => Some("list what is damaged with: kmsfs verify DIR"),
            KeyError::Unreachable(_) | KeyError::Failed(_) => Some("kmsfs doctor looks for the cause"),
            _ => None,
        };
        Self { hint: hint.map(str::to_owned), ..Self::new(exit, code, error) }
    }
}

impl From<EndpointError> for CliError {
    fn from(error: EndpointError) -> Self {
        match error {
            EndpointError::Credentials(_) => Self::new(Exit::AccessDenied, "NoCredentials", error),
            EndpointError::Authorities { .. } => {
                Self::usage(format_args!("AWS_CA_BUNDLE: {error}")).hint("it names a file with certificates in PEM")
            }
            EndpointError::Url(_) | EndpointError::Plaintext(_) => Self::usage(format_args!("--kms-endpoint: {error}")),
        }
    }
}

impl From<RemoteError> for CliError {
    fn from(error: RemoteError) -> Self {
        let exit = match error.code.as_str() {
            "DisabledException" | "KMSInvalidStateException" => Exit::KeyUnusable,
            "AccessDeniedException" => Exit::AccessDenied,
            "ValidationException" | "SerializationException" => Exit::Usage,
            RemoteError::SILENT => Exit::KmsUnavailable,
            _ => Exit::Failure,
        };
        Self::new(exit, &error.code, &error)
    }
}

impl From<CustodyError> for CliError {
    fn from(error: CustodyError) -> Self {
        let (exit, code, hint) = match &error {
            CustodyError::NotInitialised(_) => (
                Exit::NotInitialised,
                "NotInitialised",
                Some(
                    "create one with: kmsfs init; if there is one elsewhere, name its directory: --kms-home DIR or KMSFS_HOME",
                ),
            ),
            CustodyError::WrongSecret(kind) => (Exit::WrongPassphrase, "WrongPassphrase", Some(other_secret(*kind))),
            CustodyError::NoSuchSlot(_) => {
                (Exit::WrongPassphrase, "NoSuchSlot", Some("kmsfs kms slots list shows what opens this key manager"))
            }
            CustodyError::Damaged { .. } => {
                (Exit::Integrity, "Damaged", Some("restore the key manager's directory from a backup"))
            }
            CustodyError::Refused(_) => (Exit::Failure, "Refused", None),
            CustodyError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                (Exit::AccessDenied, "Io", Some(OTHERS_HOME))
            }
            CustodyError::Io { source, .. } => (Exit::KmsUnavailable, "Io", remedy(source)),
        };
        Self { hint: hint.map(str::to_owned), ..Self::new(exit, code, error) }
    }
}

/// The next step of a user who may not use the key manager's directory, or something in it.
pub const OTHERS_HOME: &str = "run the command as the user that it belongs to, who alone has to be able to read and write it (chmod 700 for the \
                               directory), or name another directory: --kms-home DIR or KMSFS_HOME";

/// What may open a key manager that this secret does not open.
const fn other_secret(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Passphrase => "the recovery key opens it as well: --recovery-key-file FILE",
        SlotKind::KeyFile => {
            "domain.key is that of another key manager: put this one's back from a backup, or give --passphrase-file FILE \
             or --recovery-key-file FILE"
        }
        SlotKind::Recovery => {
            "compare every group with the paper. A key manager's recovery key was printed when it was made, a bundle's by \
             the export-recovery that wrote this bundle; neither opens the other"
        }
    }
}

/// The next step of a command on the volume at `root` for which there is no key manager at `--kms-home`: a new one could
/// not open the volume.
pub fn lost_home(root: &std::path::Path, remote: bool) -> String {
    let elsewhere = "if it is elsewhere, name its directory: --kms-home DIR or KMSFS_HOME";
    if remote {
        return format!(
            "{elsewhere}; else make one, which remembers the volumes that this host trusts, with: kmsfs init --keyfile; and \
             add --trust-new-volume"
        );
    }
    format!(
        "{root} is a volume, which only the key manager that it was made with opens: {elsewhere}; if it is lost, put it back \
         from a backup (kmsfs kms restore FILE restores its database), or use a recovery bundle: kmsfs recover BUNDLE {root}",
        root = root.display()
    )
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Sqlite(_) | StoreError::Locked { .. } => {
                Self::new(Exit::KmsUnavailable, "StoreUnavailable", error)
            }
            StoreError::InUse(_) => Self::new(Exit::Busy, "Busy", error),
            StoreError::Custody(e) => e.into(),
            _ => Self::new(Exit::Integrity, "StoreDamaged", error),
        }
    }
}

impl From<BackupError> for CliError {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Store(e) => e.into(),
            BackupError::Custody(e) => e.into(),
            BackupError::Open(e) => (*e).into(),
            BackupError::Exists(_) | BackupError::Present(_) => Self::new(Exit::Failure, "Exists", error),
            BackupError::InUse(_) => Self::new(Exit::Busy, "Busy", error),
            BackupError::Io { ref source, .. } => {
                let exit = match source.kind() {
                    std::io::ErrorKind::PermissionDenied => Exit::AccessDenied,
                    _ => Exit::Failure,
                };
                Self { hint: remedy(source).map(str::to_owned), ..Self::new(exit, "Io", &error) }
            }
        }
    }
}

impl From<AuditError> for CliError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::ForgedHead | AuditError::MissingHead | AuditError::ForgedUsage(_) => {
                Self::new(Exit::Integrity, "AuditLogBroken", error)
            }
            AuditError::Io { ref source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Self::new(Exit::AccessDenied, "Io", error)
            }
            AuditError::Io { ref source, .. } => {
                let hint = remedy(source).map(str::to_owned);
                Self { hint, ..Self::new(Exit::KmsUnavailable, "Io", error) }
            }
            AuditError::Store(e) => e.into(),
        }
    }
}

impl From<OpenError> for CliError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Custody(e) => e.into(),
            OpenError::Kms(e) => e.into(),
            OpenError::Audit(e) => e.into(),
            OpenError::Store(e) => e.into(),
        }
    }
}

impl From<VolumeError> for CliError {
    fn from(error: VolumeError) -> Self {
        let message = error.to_string();
        let new = |exit, code: &str| Self::new(exit, code, &message);
        match error {
            VolumeError::NotAVolume(dir) => match kmsfs_mount_of(&dir) {
                Some(mount) => CliError::new(
                    Exit::NotInitialised,
                    "NotInitialised",
                    format_args!(
                        "{} is inside the mount {}, where files are seen decrypted; it is not the volume's directory",
                        dir.display(),
                        mount.mountpoint.display()
                    ),
                )
                .hint(format_args!("name the volume's directory: {}", mount.source.display())),
                None => new(Exit::NotInitialised, "NotInitialised")
                    .hint(format_args!("make one with: kmsfs init {}", dir.display())),
            },
            VolumeError::NoDirectory { root, .. } => new(Exit::NotInitialised, "NotInitialised").hint(format_args!(
                "check the path, and whether its disk is mounted; make a new volume with: kmsfs init {}",
                root.display()
            )),
            VolumeError::AlreadyAVolume(dir) => new(Exit::Failure, "AlreadyAVolume")
                .hint(format_args!("mount it with: kmsfs mount {} MOUNTPOINT", dir.display())),
            VolumeError::NotEmpty { .. } => new(Exit::Failure, "NotEmpty")
                .hint("make the volume in an empty directory, mount it, and copy the files into the mount"),
            VolumeError::NamesTooShort { .. } => new(Exit::Failure, "NamesTooShort").hint("use ext4, xfs or btrfs"),
            VolumeError::Refused { outcome, path, other_copy_readable } => {
                refused(new, outcome, &path, other_copy_readable)
            }
            VolumeError::TwoVolumes { root, .. } => {
                let root = root.display();
                new(Exit::Integrity, "TwoVolumes").hint(format_args!(
                    "compare the two files with: kmsfs repair {root}; if volume.bak is the right one: \
                     kmsfs repair {root} --restore-config; if not, copy .kmsfs/volume over volume.bak"
                ))
            }
            VolumeError::ForeignTree { .. } => {
                new(Exit::Integrity, "ForeignVolume").hint("name the directory that holds this volume's ciphertext")
            }
            VolumeError::ForeignCopy { .. } => new(Exit::Integrity, "ForeignVolume")
                .hint("restore .kmsfs/volume from a backup of this directory; nothing was changed"),
            VolumeError::Unknown(volume) => {
                let keys: Vec<&str> = volume.keys.iter().map(KeyArn::as_str).collect();
                let hint = format!(
                    "if it was made with another key manager, name that one: --kms-home DIR or KMSFS_HOME; if that one is lost, \
                     put it back from a backup (kmsfs kms restore) or use a recovery bundle (kmsfs recover BUNDLE DIR). The volume \
                     says of itself: keys {}, root key {}. If that is what you expect, trust it with --trust-new-volume",
                    keys.join(" "),
                    HEXLOWER.encode(&volume.commit)
                );
                new(Exit::Integrity, "VolumeUnknown").hint(hint)
            }
            VolumeError::Rollback { .. } => new(Exit::Integrity, "VolumeRollback")
                .hint("restore the newer configuration; if you put the older one there yourself: --accept-rollback"),
            VolumeError::Key(e) => e.into(),
            VolumeError::Registry(e) => e.into(),
            VolumeError::NoRecord(_) => new(Exit::Integrity, "NoFreshnessRecord").hint(
                "put it back, use the key manager that the volume was made with, or take what is there for true with: \
                 kmsfs accept DIR",
            ),
            VolumeError::Record(error) => {
                let exit = if error.is_of_the_system() { Exit::KmsUnavailable } else { Exit::Integrity };
                new(exit, "FreshnessRecord")
            }
            VolumeError::NeedsMount(dir) => new(Exit::Failure, "NeedsMount")
                .hint(format_args!("mount it, then run the same command: kmsfs mount {} MOUNTPOINT", dir.display())),
            VolumeError::Busy(_) => new(Exit::Busy, "VolumeBusy")
                .hint("unmount it there first; kmsfs status lists the mounts of this host"),
            VolumeError::RecordBusy(_) => new(Exit::Busy, "RecordBusy").hint(
                "wait for it, or unmount that copy first (kmsfs status lists the mounts of this host); what is in this one can be read \
                 meanwhile with: kmsfs verify DIR --salvage OUT",
            ),
            VolumeError::Io { path, what, source } => Self::io(path, what, &source),
        }
    }
}

/// The kmsfs mount that `dir` is in. A mount table that cannot be read costs a better hint, nothing else.
fn kmsfs_mount_of(dir: &std::path::Path) -> Option<mounts::Mount> {
    mounts::containing(&std::fs::canonicalize(dir).ok()?).ok()?
}

/// A configuration that was not accepted: never replaced by itself, the user compares and restores.
fn refused(
    new: impl Fn(Exit, &str) -> CliError,
    outcome: Outcome,
    path: &std::path::Path,
    other_copy_readable: bool,
) -> CliError {
    let exit = match outcome {
        Outcome::KeyForbidden | Outcome::KeyUnavailable => Exit::AccessDenied,
        Outcome::KeyServiceTimeout => Exit::KmsUnavailable,
        Outcome::UnknownFeature => Exit::Failure,
        _ => Exit::Integrity,
    };
    let error = new(exit, &format!("{outcome:?}"));
    if exit != Exit::Integrity {
        return error;
    }
    let root = path.parent().and_then(std::path::Path::parent).unwrap_or(path).display();
    if other_copy_readable {
        error.hint(format_args!(
            "compare the two copies with: kmsfs repair {root}; restore the second with: kmsfs repair {root} --restore-config"
        ))
    } else {
        error.hint(format_args!(
            "compare the two copies with: kmsfs repair {root}; restore {root}/.kmsfs/volume from a backup of this directory, or \
             put it back from a recovery bundle, into a new key manager: kmsfs --kms-home NEW recover BUNDLE {root}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::custody::SlotKind;

    #[test]
    fn key_states_have_their_exit_code_and_next_step() {
        let arn: crate::types::KeyArn = "arn:aws:kms:us-east-1:111122223333:key/k-1".parse().expect("valid");
        let e = CliError::from(KmsError::Disabled(arn.clone()));
        assert_eq!((e.exit, e.code.as_str()), (Exit::KeyUnusable, "DisabledException"));
        assert_eq!(e.hint.as_deref(), Some("enable it with: kmsfs key enable k-1"));
        let e = CliError::from(KmsError::InvalidState { arn: arn.clone(), state: KeyState::PendingDeletion });
        assert!(e.hint.expect("hint").contains("cancel-deletion k-1"));
        assert_eq!(CliError::from(KeyError::Disabled(arn)).exit, Exit::KeyUnusable);
        assert_eq!(CliError::from(KeyError::Unreachable("x".into())).exit, Exit::KmsUnavailable);
        assert_eq!(CliError::from(KmsError::InvalidCiphertext).exit, Exit::Integrity);
    }

    #[test]
    fn a_wrong_passphrase_is_exit_12() {
        assert_eq!(CliError::from(CustodyError::WrongSecret(SlotKind::Passphrase)).exit, Exit::WrongPassphrase);
        assert_eq!(CliError::from(CustodyError::NotInitialised("/x".into())).exit, Exit::NotInitialised);
    }
}
