//! Walking and reading that only needs a [`Backing`], whatever the layer that asks.

use rustix::io::Errno;

use super::{Access, Backing, BackingFile, FileTime, RawEntry, RenameMode, Result, SetTime, Target};
use crate::format::dirid::Found;

/// The text of a directory id or side entry as it was found.
pub enum MetaText {
    /// There is nothing under the name.
    Nothing,
    /// The target of a symlink, or the content of a regular file.
    Text(Vec<u8>),
    /// A directory, fifo, socket or device.
    OtherType,
}

impl MetaText {
    /// As [`crate::format::dirid`] judges it.
    pub fn as_found(&self) -> Found<'_> {
        match self {
            Self::Nothing => Found::Nothing,
            Self::Text(text) => Found::Text(text),
            Self::OtherType => Found::OtherType,
        }
    }

    /// The text, if there is one.
    pub fn into_text(self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text),
            Self::Nothing | Self::OtherType => None,
        }
    }
}

/// Reads a directory id or side entry in either form (FORMAT 8.1). A text longer than `max` is cut after one more byte,
/// which makes it invalid. Errors: the backing's.
pub fn read_meta<B: Backing>(backing: &B, dir: &B::Dir, entry: &str, max: usize) -> Result<MetaText> {
    match backing.read_link(Target::Named(dir, entry)) {
        Ok(text) => return Ok(MetaText::Text(text)),
        Err(Errno::NOENT) => return Ok(MetaText::Nothing),
        Err(Errno::INVAL) => {}
        Err(other) => return Err(other),
    }
    match backing.open(dir, entry, Access::Read) {
        Ok(file) => {
            let mut text = vec![0; max + 1];
            let len = file.read_at(&mut text, 0)?;
            text.truncate(len);
            Ok(MetaText::Text(text))
        }
        Err(Errno::ISDIR | Errno::NXIO | Errno::LOOP) => Ok(MetaText::OtherType),
        Err(other) => Err(other),
    }
}

/// Makes a directory id or side entry, as a regular file or as a symlink (FORMAT 8.1).
///
/// All ids are of one length, and whole trees are made within one second: a regular file gets a modification time of its own, so
/// that programs which copy what changed in size or time (rsync) see that one has taken the place of another. Errors: the
/// backing's.
pub fn make_meta<B: Backing>(backing: &B, dir: &B::Dir, entry: &str, text: &str, as_file: bool) -> Result<()> {
    if !as_file {
        return backing.symlink(text.as_bytes(), dir, entry);
    }
    let file = backing.create(dir, entry, 0o600)?;
    file.write_at(text.as_bytes(), 0)?;
    backing.set_times(Target::File(&file), SetTime::Omit, SetTime::At(own_time(text)))?;
    file.sync(true)
}

/// Removes a file that is no user's; whether it was there. Errors: the backing's.
pub fn remove_own<B: Backing>(backing: &B, dir: &B::Dir, name: &str) -> Result<bool> {
    match backing.unlink(dir, name) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Replaces a file that is no user's: a temporary one, flushed, a rename, a flush of the directory. Until the rename has succeeded
/// the old one is as it was. Errors: the backing's.
pub fn replace<B: Backing>(backing: &B, dir: &B::Dir, name: &str, content: &[u8]) -> Result<()> {
    let temporary = format!("{name}.tmp");
    // What a crash left.
    remove_own(backing, dir, &temporary)?;
    let file = backing.create(dir, &temporary, 0o600)?;
    let written = file.write_at(content, 0).and_then(|()| file.sync(false));
    let renamed = written.and_then(|()| backing.rename(dir, &temporary, dir, name, RenameMode::Replace));
    if let Err(error) = renamed {
        // The first error is the one to report.
        let _ = backing.unlink(dir, &temporary);
        return Err(error);
    }
    backing.sync_dir(dir)
}

/// A time between 1970 and 2038 that follows from a text.
fn own_time(text: &str) -> FileTime {
    let folded = text.bytes().fold(0u32, |folded, byte| folded.wrapping_mul(31).wrapping_add(byte.into()));
    FileTime { secs: (folded >> 1).into(), nanos: 0 }
}

/// Walks over the entries of a directory, `.` and `..` left out, until `visit` answers false or fails. Errors: the
/// backing's and `visit`'s.
pub fn each_entry<B: Backing, E: From<Errno>>(
    backing: &B,
    dir: &B::Dir,
    mut visit: impl FnMut(&RawEntry) -> std::result::Result<bool, E>,
) -> std::result::Result<(), E> {
    let mut list = backing.list(dir)?;
    let (mut batch, mut position) = (Vec::new(), 0);
    loop {
        batch.clear();
        backing.read_list(&mut list, position, &mut batch)?;
        let Some(last) = batch.last() else { return Ok(()) };
        position = last.next;
        for raw in batch.iter().filter(|raw| raw.name != b"." && raw.name != b"..") {
            if !visit(raw)? {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::ManualClock;
    use crate::store::Memory;
    use crate::sync::Arc;
    use crate::types::Timestamp;

    /// rsync compares sizes and whole seconds: ids that are made in the same second have to differ in them.
    #[test]
    fn ids_made_in_one_second_have_different_times() {
        let backing = Memory::new(Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000))));
        let root = backing.root().expect("a root");
        let texts = ["kfs1:AAAAAAAAAAAAAAAAAAAAAA", "kfs1:AAAAAAAAAAAAAAAAAAAAAB", "kfs1:BAAAAAAAAAAAAAAAAAAAAA"];
        let mut times = texts.map(|text| {
            make_meta(&backing, &root, text, text, true).expect("made");
            let stat = backing.stat(Target::Named(&root, text)).expect("a stat");
            assert_eq!(stat.size, text.len() as u64);
            stat.mtime.secs
        });
        times.sort_unstable();
        assert!(times[0] >= 0 && times[0] < times[1] && times[1] < times[2] && times[2] < 1 << 31, "{times:?}");
    }
}
