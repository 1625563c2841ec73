//! What a ciphertext file tells without any key.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FileType, fstat};

use crate::format::Outcome;
use crate::format::branch::BranchBlob;
use crate::format::header::HeaderInfo;
use crate::format::recipient::{Recipient, Scheme};
use crate::format::size::Geometry;
use crate::types::{FileId, Timestamp, VolumeId};

/// What the header of a file says. Nothing in it is authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Bytes of the backing file.
    pub stored_size: u64,
    /// Plaintext bytes that follow from it; `None` if the size is not one that the format makes.
    pub plain_size: Option<u64>,
    /// `None` for an empty file, which has no header and no key.
    pub header: Option<HeaderFacts>,
}

/// The facts of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderFacts {
    /// The file's id.
    pub file_id: FileId,
    /// The volume it says it belongs to.
    pub volume_id: VolumeId,
    /// The algorithm of its units.
    pub aead_id: u8,
    /// Bytes of the header.
    pub header_len: usize,
    /// The valid slots, the one that counts first; two are a re-wrap that did not finish.
    pub slots: Vec<SlotFacts>,
}

/// A slot of wrapped keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotFacts {
    /// Counts re-wraps.
    pub generation: u64,
    /// The wrapped keys.
    pub recipients: Vec<RecipientFacts>,
}

/// One wrapped key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientFacts {
    /// `kms`, `branch`, `recovery`, or the number of a newer scheme.
    pub scheme: String,
    /// The key ARN, or the branch and its version.
    pub key: String,
    /// The key material that the wrapped key names.
    pub material_id: Option<String>,
    /// Bytes of the wrapped key.
    pub wrapped_len: usize,
    /// When it was made, as it says itself.
    pub created: Timestamp,
}

/// Why there is nothing to tell.
#[derive(Debug, thiserror::Error)]
pub enum InfoError {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is no file of a volume, or its header is damaged.
    #[error("{0}")]
    Format(#[from] Outcome),
    /// A directory, symlink or device has no header.
    #[error("it is not a regular file; only regular files have a header")]
    NotAFile,
}

/// Reads the header of the ciphertext file at `path`. `material_id` finds the material in a wrapped key.
///
/// # Errors
/// [`InfoError`].
pub fn file_info(path: &Path, material_id: &dyn Fn(&[u8]) -> Option<String>) -> Result<FileInfo, InfoError> {
    // Nothing but a regular file is opened for content: a FIFO would block, a device might act.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => return Err(InfoError::NotAFile),
        Err(e) => return Err(e.into()),
    };
    let stat = fstat(&file).map_err(io::Error::from)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(InfoError::NotAFile);
    }
    let stored_size = u64::try_from(stat.st_size).unwrap_or(0);
    Ok(header_info(stored_size, &front(file)?, material_id)?)
}

/// What the first bytes of a ciphertext file tell, as many as the longest header has.
pub(super) fn header_info(
    stored_size: u64,
    front: &[u8],
    material_id: &dyn Fn(&[u8]) -> Option<String>,
) -> Result<FileInfo, Outcome> {
    if stored_size == 0 {
        return Ok(FileInfo { stored_size, plain_size: Some(0), header: None });
    }
    let header = HeaderInfo::parse(front)?;
    let geometry = header.header.geometry();
    let slots = header.slots.iter().map(|slot| SlotFacts {
        generation: slot.generation,
        recipients: slot.recipients.iter().map(|r| recipient_facts(r, material_id)).collect(),
    });
    Ok(FileInfo {
        stored_size,
        plain_size: geometry.plain_size(stored_size).ok(),
        header: Some(HeaderFacts {
            file_id: header.header.file_id(),
            volume_id: header.header.volume_id(),
            aead_id: header.header.aead_id(),
            header_len: geometry.header_len(),
            slots: slots.collect(),
        }),
    })
}

/// As many bytes as the longest header has.
fn front(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(Geometry::P4.header_len() as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn recipient_facts(recipient: &Recipient, material_id: &dyn Fn(&[u8]) -> Option<String>) -> RecipientFacts {
    let (scheme, key) = match recipient.scheme {
        Scheme::Kms => ("kms".to_owned(), recipient.key_id.clone()),
        Scheme::Recovery => ("recovery".to_owned(), recipient.key_id.clone()),
        Scheme::Other(number) => (number.to_string(), recipient.key_id.clone()),
        Scheme::Branch => match BranchBlob::parse(recipient) {
            Ok(blob) => ("branch".to_owned(), format!("{} version {}", blob.branch_id(), blob.version())),
            Err(_) => ("branch".to_owned(), "malformed".to_owned()),
        },
    };
    RecipientFacts {
        material_id: if recipient.scheme == Scheme::Kms { material_id(&recipient.blob) } else { None },
        scheme,
        key,
        wrapped_len: recipient.blob.len(),
        created: Timestamp::from_secs(i64::try_from(recipient.unix_time).unwrap_or(i64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_objects_and_foreign_files() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| dir.path().join(name);
        let info = |name: &str| file_info(&at(name), &|_| None);
        std::fs::write(at("empty"), b"").expect("write");
        std::fs::write(at("text"), b"hello").expect("write");
        std::fs::write(at("zeros"), vec![0; 9000]).expect("write");
        std::os::unix::fs::symlink("text", at("link")).expect("symlink");
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("mkfifo");
        assert_eq!(info("empty").expect("empty").header, None);
        std::fs::write(at("page"), vec![b'x'; 5000]).expect("write");
        assert!(matches!(info("text"), Err(InfoError::Format(Outcome::NotKfs))));
        assert!(matches!(info("page"), Err(InfoError::Format(Outcome::NotKfs))));
        assert!(matches!(info("zeros"), Err(InfoError::Format(Outcome::HeaderLost))));
        for other in ["link", "fifo", "."] {
            assert!(matches!(info(other), Err(InfoError::NotAFile)), "{other}");
        }
        assert!(matches!(info("missing"), Err(InfoError::Io(_))));
    }
}
