//! Which files of a volume depend on a KMS key: their headers tell, without any key. What a header says of its wrapped
//! keys is not authenticated here; it is what opening the file would go by.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::info::{InfoError, file_info};
use super::progress::Progress;
use crate::format::name::EntryKind;
use crate::types::KeyArn;

/// Files of a volume by what they need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Impact {
    /// Files whose wrapped keys are all under the key: nobody reads them without it.
    pub only: u64,
    /// Plaintext bytes in them.
    pub only_bytes: u64,
    /// Files that have a wrapped key under another key too.
    pub also: u64,
    /// Files that do not need the key; empty files need none.
    pub others: u64,
    /// Files whose header cannot be read, and directories that cannot be listed.
    pub unreadable: u64,
    /// The scan was stopped before its end.
    pub interrupted: bool,
}

/// Reads the header of every file below `root`, a volume's directory, mounted or not. A file that is gone meanwhile does
/// not count.
///
/// # Errors
/// If `root` itself cannot be listed.
pub fn impact(root: &Path, key: &KeyArn, progress: &dyn Progress) -> io::Result<Impact> {
    let mut impact = Impact::default();
    let mut inodes = std::collections::HashSet::new();
    let mut pending: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        let top = dir == root;
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if top => return Err(error),
            Err(error) => {
                impact.unreadable += u64::from(error.kind() != io::ErrorKind::NotFound);
                continue;
            }
        };
        for entry in entries {
            if progress.is_cancelled() {
                impact.interrupted = true;
                return Ok(impact);
            }
            let Ok(entry) = entry else {
                impact.unreadable += 1;
                continue;
            };
            if EntryKind::of(entry.file_name().as_bytes(), top).is_hidden() {
                continue;
            }
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                pending.push(entry.path());
            } else if meta.is_file() {
                progress.found(1, meta.len());
                // A file with several names counts once.
                if meta.nlink() == 1 || inodes.insert(meta.ino()) {
                    impact.count(&entry.path(), key);
                }
                progress.done(1, meta.len());
            }
        }
    }
    Ok(impact)
}

impl Impact {
    fn count(&mut self, path: &Path, key: &KeyArn) {
        let info = match file_info(path, &|_| None) {
            Ok(info) => info,
            Err(InfoError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return,
            Err(_) => {
                self.unreadable += 1;
                return;
            }
        };
        let recipients = info.header.iter().filter_map(|header| header.slots.first()).flat_map(|slot| &slot.recipients);
        let (mut under, mut elsewhere) = (false, false);
        for recipient in recipients {
            let this = recipient.scheme == "kms" && recipient.key == key.as_str();
            (under, elsewhere) = (under || this, elsewhere || !this);
        }
        match (under, elsewhere) {
            (true, false) => {
                self.only += 1;
                self.only_bytes += info.plain_size.unwrap_or(0);
            }
            (true, true) => self.also += 1,
            (false, _) => self.others += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::progress::Silent;

    #[test]
    fn what_is_no_file_of_a_volume_is_not_taken_for_one() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let key: KeyArn = "arn:aws:kms:us-east-1:111122223333:key/k".parse().expect("ARN");
        fs::create_dir_all(dir.path().join(".kmsfs/inner")).expect("made");
        fs::write(dir.path().join(".kmsfs/volume"), b"config").expect("written");
        fs::write(dir.path().join("empty"), b"").expect("written");
        fs::write(dir.path().join("foreign"), b"no header").expect("written");
        fs::hard_link(dir.path().join("foreign"), dir.path().join("linked")).expect("linked");
        std::os::unix::fs::symlink("foreign", dir.path().join("symlink")).expect("linked");
        let found = impact(dir.path(), &key, &Silent).expect("scanned");
        assert_eq!(found, Impact { others: 1, unreadable: 1, ..Impact::default() });
        assert!(impact(&dir.path().join("nowhere"), &key, &Silent).is_err());
    }
}
