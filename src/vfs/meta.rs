//! Directory ids and side entries: what has to be there before an entry can be read (FORMAT 8.1, 8.2).

use rustix::io::Errno;

use super::Result;
use super::events::Event;
use super::fs::{Located, Vfs};
use super::inode::Inode;
use super::table::ROOT;
use crate::env::random;
use crate::format::Outcome;
use crate::format::dirid;
use crate::format::name::{EntryKind, MAX_SIDE, TEMPORARY_PREFIX, side_entry};
use crate::store::tree::{self, MetaText};
use crate::store::{Access, Ahead, Backing, BackingFile, RawEntry, RenameMode, SEARCH};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::types::DirId;

impl<B: Backing> Vfs<B> {
    /// The id of a directory, read once.
    pub(super) fn dir_id(&self, inode: &Arc<Inode<B>>) -> Result<DirId> {
        if let Some(id) = inode.dir.id.get() {
            return Ok(id.id());
        }
        let (dir, _wide) = self.enter(inode, SEARCH)?;
        self.fetch_ahead(inode, Ahead::Directory);
        let text = self.read_meta(&dir, dirid::ENTRY, dirid::TEXT_LEN)?;
        let id = self.report(inode, dirid::decode(&self.keys, text.as_found()).map_err(Into::into))?;
        if inode.number == ROOT {
            self.check_root(id)?
        } else {
            self.check_dir(inode, id)?
        }
        let live = inode.dir.id.get_or_init(|| self.live_dirs.enter(id, inode.number));
        if let Some(other) = live.duplicate() {
            self.event(inode, None, Event::duplicate(other));
        }
        Ok(id)
    }

    /// Makes a directory id or side entry in the form that this backing keeps in order.
    pub(super) fn make_meta(&self, dir: &B::Dir, entry: &str, text: &str) -> Result<()> {
        Ok(tree::make_meta(&*self.backing, dir, entry, text, self.dir_meta_file)?)
    }

    /// Makes sure that a long entry which is about to appear has its side entry. One that is there and verifies is
    /// kept; anything else at its name is replaced.
    pub(super) fn make_side(&self, located: &Located<B>) -> Result<()> {
        let Some(text) = located.name.side() else { return Ok(()) };
        let side = side_entry(located.entry());
        match self.make_meta(&located.dir, &side, text) {
            Err(error) if error.errno() == Errno::EXIST => {}
            other => return other,
        }
        if let MetaText::Text(found) = self.read_meta(&located.dir, &side, MAX_SIDE)?
            && found == text.as_bytes()
        {
            return self.keep_meta(&located.dir, &side, text);
        }
        let temporary = self.temporary_name();
        self.make_meta(&located.dir, &temporary, text)?;
        Ok(self.backing.rename(&located.dir, &temporary, &located.dir, &side, RenameMode::Replace)?)
    }

    /// Makes a side entry durable that is there already: whoever made it may have been killed before it was flushed, or have
    /// seen that fail, and then only what is written again is flushed.
    fn keep_meta(&self, dir: &B::Dir, side: &str, text: &str) -> Result<()> {
        if !self.dir_meta_file {
            return Ok(());
        }
        match self.backing.open(dir, side, Access::ReadWrite) {
            Ok(file) => {
                file.write_at(text.as_bytes(), 0)?;
                Ok(file.sync(true)?)
            }
            // A symlink, of a volume that was copied here: it cannot be flushed by itself.
            Err(Errno::LOOP) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }

    /// Removes the side entry of a long entry that is gone. It is only tidiness: an orphan harms nobody, so an error
    /// does not fail the operation that is done already.
    ///
    /// Where metadata has no order the entry's end has to be durable first: the log of btrfs has the end of a side entry that was
    /// flushed a moment before, and not that of an entry whose file nobody flushed, so this one would be there without a name.
    pub(super) fn remove_side(&self, located: &Located<B>) {
        if located.name.side().is_none() {
            return;
        }
        let kept = if self.dir_meta_file { self.backing.sync_dir(&located.dir) } else { Ok(()) };
        if let Err(error) = kept.and_then(|()| self.backing.unlink(&located.dir, &side_entry(located.entry()))) {
            tracing::debug!("a side entry stays behind: {error}");
        }
    }

    /// A name that nobody sees, for something under construction or removal.
    pub(super) fn temporary_name(&self) -> String {
        let random: [u8; 16] = random(&*self.volume.entropy);
        format!("{TEMPORARY_PREFIX}{}", data_encoding::HEXLOWER.encode(&random))
    }

    /// Checks, before the first change in a directory in which no name was found yet that verifies, that its id is its
    /// own: names of two ids must never be mixed (FORMAT 8.1, `WrongDirId`).
    pub(super) fn prove_id(&self, inode: &Arc<Inode<B>>) -> Result<()> {
        if inode.dir.id_proven.load(Ordering::Relaxed) {
            return Ok(());
        }
        let id = self.dir_id(inode)?;
        let dir = self.dir(inode)?;
        let mut names_seen = false;
        self.each_entry(&dir, |raw| {
            let Ok(entry) = std::str::from_utf8(&raw.name) else { return Ok(true) };
            let side = match EntryKind::of(&raw.name, false) {
                EntryKind::Long => self.read_meta(&dir, &side_entry(entry), MAX_SIDE)?.into_text(),
                EntryKind::Short => None,
                _ => return Ok(true),
            };
            match dirid::verifies(&self.names, id, &raw.name, side.as_deref()) {
                Some(true) => {
                    inode.dir.id_proven.store(true, Ordering::Relaxed);
                    return Ok(false);
                }
                Some(false) => names_seen = true,
                None => {}
            }
            Ok(true)
        })?;
        if inode.dir.id_proven.load(Ordering::Relaxed) {
            return Ok(());
        }
        if names_seen {
            return self.report(inode, Err(Outcome::WrongDirId.into()));
        }
        inode.dir.id_proven.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Reads a directory id or side entry, see [`tree::read_meta`].
    pub(super) fn read_meta(&self, dir: &B::Dir, entry: &str, max: usize) -> Result<MetaText> {
        Ok(tree::read_meta(&*self.backing, dir, entry, max)?)
    }

    /// Walks over the entries of a backing directory, see [`tree::each_entry`].
    pub(super) fn each_entry(&self, dir: &B::Dir, visit: impl FnMut(&RawEntry) -> Result<bool>) -> Result<()> {
        tree::each_entry(&*self.backing, dir, visit)
    }
}
