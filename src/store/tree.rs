//! Walking and reading that only needs a [`Backing`], whatever the layer that asks.

use rustix::io::Errno;

use super::{Access, Backing, BackingFile, RawEntry, Result};
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
    match backing.read_link(dir, entry) {
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
