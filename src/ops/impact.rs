//! Which files of a volume depend on a KMS key: their headers tell, without any key. What a header says of its wrapped
//! keys is not authenticated here; it is what opening the file would go by.

use std::collections::HashSet;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::info::header_info;
use super::progress::Progress;
use super::walk::was_replaced;
use crate::format::name::EntryKind;
use crate::format::size::Geometry;
use crate::store::tree::each_entry;
use crate::store::{Access, Backing, BackingFile, FileKind, LIST, Modes, OpenDir, Result, Target};
use crate::sync::Arc;
use crate::types::KeyArn;

/// Files of a volume by what they need.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// Reads the header of every file of a volume, mounted or not. A file that is gone meanwhile does not count.
///
/// # Errors
/// If the root itself cannot be listed.
pub fn impact<B: Backing>(modes: &Arc<Modes<B>>, key: &KeyArn, progress: &dyn Progress) -> Result<Impact> {
    let mut scan = Scan { modes, key, progress, found: Impact::default(), inodes: HashSet::new(), waiting: Vec::new() };
    scan.directory(&Arc::new(modes.root(LIST)?), true)?;
    while let Some((parent, name)) = scan.waiting.pop() {
        let opened = modes.open_dir(&parent, &name, LIST);
        if let Err(error) = opened.and_then(|dir| scan.directory(&Arc::new(dir), false)) {
            scan.found.unreadable += u64::from(!was_replaced(error));
        }
        if progress.is_cancelled() {
            scan.found.interrupted = true;
            break;
        }
    }
    Ok(scan.found)
}

struct Scan<'a, B: Backing> {
    modes: &'a Arc<Modes<B>>,
    key: &'a KeyArn,
    progress: &'a dyn Progress,
    found: Impact,
    /// Files with several names that were counted.
    inodes: HashSet<u64>,
    /// Directories that wait are named below their parents: only those on the way down are open.
    waiting: Vec<(Arc<OpenDir<B>>, String)>,
}

impl<B: Backing> Scan<'_, B> {
    fn directory(&mut self, dir: &Arc<OpenDir<B>>, in_root: bool) -> Result<()> {
        each_entry(&**self.modes.backing(), dir, |raw| {
            if self.progress.is_cancelled() {
                return Ok(false);
            }
            if EntryKind::of(&raw.name, in_root).is_hidden() {
                return Ok(true);
            }
            // No name of the format has other bytes, and without a name nothing is opened.
            let Ok(name) = std::str::from_utf8(&raw.name) else { return Ok(true) };
            let Ok(stat) = self.modes.stat(Target::Named(&***dir, name)) else { return Ok(true) };
            match stat.kind {
                FileKind::Directory => self.waiting.push((Arc::clone(dir), name.to_owned())),
                FileKind::Regular => {
                    self.progress.found(1, stat.size);
                    // A file with several names counts once.
                    if stat.nlink == 1 || self.inodes.insert(stat.ino) {
                        self.file(dir, name);
                    }
                    self.progress.done(1, stat.size);
                }
                _ => {}
            }
            Ok::<_, Errno>(true)
        })
    }

    fn file(&mut self, dir: &B::Dir, name: &str) {
        let mut front = vec![0; Geometry::P4.header_len()];
        let opened = self.modes.open(dir, name, Access::Read);
        let read = opened.and_then(|file| Ok((file.read_at(&mut front, 0)?, file.stat()?.size)));
        let info = match read {
            Ok((len, size)) => header_info(size, &front[..len], &|_| None).ok(),
            Err(error) if was_replaced(error) => return,
            Err(_) => None,
        };
        let Some(info) = info else {
            self.found.unreadable += 1;
            return;
        };
        let recipients = info.header.iter().filter_map(|header| header.slots.first()).flat_map(|slot| &slot.recipients);
        let (mut under, mut elsewhere) = (false, false);
        for recipient in recipients {
            let this = recipient.scheme == "kms" && recipient.key == self.key.as_str();
            (under, elsewhere) = (under || this, elsewhere || !this);
        }
        match (under, elsewhere) {
            (true, false) => {
                self.found.only += 1;
                self.found.only_bytes += info.plain_size.unwrap_or(0);
            }
            (true, true) => self.found.also += 1,
            (false, _) => self.found.others += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::ops::progress::Silent;
    use crate::store::LocalDir;

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
        let modes = Modes::new(Arc::new(LocalDir::open(dir.path()).expect("opened")), false);
        let found = impact(&modes, &key, &Silent).expect("scanned");
        assert_eq!(found, Impact { others: 1, unreadable: 1, ..Impact::default() });
    }
}
