//! Integrity events: what of the stored bytes is not as it should be, in the log with its place in the ciphertext
//! directory (FORMAT S12).

use super::Result;
use super::fs::Vfs;
use super::inode::Inode;
use crate::content::{self, Content, Error};
use crate::format::{Outcome, Severity};
use crate::store::Backing;
use crate::sync::read;

/// Longest path shown, from its end: deeper ones are told apart by their inode number.
const SHOWN_PATH: usize = 4096;

/// One thing that was found.
#[derive(Clone, Copy)]
pub(super) struct Event<'a> {
    outcome: Outcome,
    /// Number of the unit of the file.
    unit: Option<u64>,
    /// The entry of the directory, where it is about one.
    entry: Option<&'a [u8]>,
    /// The other inode with the same id.
    other: Option<u64>,
}

impl<'a> Event<'a> {
    pub(super) fn new(outcome: Outcome) -> Self {
        Self { outcome, unit: None, entry: None, other: None }
    }

    /// About an entry of the directory.
    pub(super) fn of_entry(outcome: Outcome, entry: &'a [u8]) -> Self {
        Self { entry: Some(entry), ..Self::new(outcome) }
    }

    /// Two inodes with one id.
    pub(super) fn duplicate(other: u64) -> Self {
        Self { other: Some(other), ..Self::new(Outcome::DuplicateId) }
    }

    fn of_error(error: &Error) -> Option<Self> {
        let unit = if let Error::Unit { unit, .. } = error { Some(*unit) } else { None };
        Some(Self { unit, ..Self::new(error.outcome()?) })
    }
}

impl<B: Backing> Vfs<B> {
    /// Writes an event about an inode, unless it has had enough of them.
    pub(super) fn event(&self, inode: &Inode<B>, file: Option<&Content<B>>, event: Event<'_>) {
        let Event { outcome, unit, entry, other } = event;
        let Some(severity) = outcome.severity() else { return };
        if !self.events.admits(inode.number, self.volume.keys.clock().now()) {
            return;
        }
        let mut path = ciphertext_path(inode);
        if let Some(entry) = entry {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(entry);
        }
        let (cut, shown) = match path.len().checked_sub(SHOWN_PATH) {
            Some(from @ 1..) => ("...", &path[from..]),
            _ => ("", &path[..]),
        };
        let path = format!("{cut}{}", String::from_utf8_lossy(shown).escape_debug());
        let (ino, file) = (inode.number, file.and_then(Content::file_id).map(tracing::field::display));
        match severity {
            Severity::Damage => {
                tracing::error!(target: "kmsfs::integrity", path, ino, file, unit, other, ?outcome, "{outcome}")
            }
            Severity::Suspicion => {
                tracing::warn!(target: "kmsfs::integrity", path, ino, file, unit, other, ?outcome, "{outcome}")
            }
        }
    }

    /// Writes the event that goes with an integrity outcome of an inode; passes the result on.
    pub(super) fn report<T>(&self, inode: &Inode<B>, result: content::Result<T>) -> Result<T> {
        self.report_of(inode, None, result)
    }

    /// As [`Self::report`], of an open file.
    pub(super) fn report_of<T>(
        &self,
        inode: &Inode<B>,
        file: Option<&Content<B>>,
        result: content::Result<T>,
    ) -> Result<T> {
        if let Err(error) = &result
            && let Some(event) = Event::of_error(error)
        {
            self.event(inode, file, event);
        }
        result
    }

    /// Tells of what is wrong with a file that was just opened, although it could be.
    pub(super) fn report_opened(&self, inode: &Inode<B>, content: &Content<B>) {
        if let Some(outcome) = content.damage() {
            self.event(inode, Some(content), Event::new(outcome));
        }
        if let Some(other) = content.duplicate() {
            self.event(inode, Some(content), Event::duplicate(self.table.number_of(other)));
        }
    }
}

/// Where an inode lies in the ciphertext directory at present, relative to the root: by one of its names, empty if it has
/// none any more. The caller holds no inode's place.
pub(super) fn ciphertext_path<B: Backing>(inode: &Inode<B>) -> Vec<u8> {
    let above = |inode: &Inode<B>| read(&inode.place).names.first().cloned();
    let mut parts = Vec::new();
    let mut up = above(inode);
    while let Some((parent, entry)) = up {
        parts.push(entry.into_bytes());
        up = above(&parent);
    }
    parts.reverse();
    parts.join(&b'/')
}
