//! Listing directories.

use std::collections::VecDeque;

use super::Result;
use super::attr::Attr;
use super::events::Event;
use super::fs::{Located, Vfs};
use super::handle::{DirHandle, DirStream};
use super::inode::Inode;
use super::table::ROOT;
use crate::format::Outcome;
use crate::format::name::{EncodedName, EntryKind, MAX_SIDE, side_entry};
use crate::store::{Backing, FileKind, LIST, RawEntry, SEARCH, Target};
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Mutex, lock, read};
use rustix::io::Errno;

/// One entry of a directory as applications see it.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// Plaintext name.
    pub name: Vec<u8>,
    /// Inode number.
    pub ino: u64,
    /// Type.
    pub kind: FileKind,
    /// Where to go on behind this entry.
    pub next: u64,
    /// Attributes, where they were asked for; never for `.` and `..`.
    pub attr: Option<Attr>,
}

impl<B: Backing> Vfs<B> {
    /// Opens a directory for listing; the handle's number.
    ///
    /// # Errors
    /// `ENOTDIR`, the outcome for a directory without a valid id, or the backing's error.
    pub fn open_dir(&self, ino: u64) -> Result<u64> {
        let inode = self.directory(ino)?;
        self.dir_id(&inode)?;
        self.check_listing(&inode)?;
        let stream = DirStream { list: None, pending: VecDeque::new(), position: 0, changes: 0 };
        Ok(self.dirs.insert(DirHandle { inode, stream: Mutex::new(stream) }))
    }

    /// Delivers the entries behind `offset` to `emit` until it answers false (it is full) or the directory ends. With
    /// `with_attr` each entry, `.` and `..` excepted, counts one reference to its inode, as a lookup does. Entries that
    /// do not decode are left out, with an event.
    ///
    /// # Errors
    /// `EBADF` or the backing's error, if nothing was delivered: what was counts, and the next call meets the error again.
    pub fn read_dir(
        &self,
        handle: u64,
        offset: u64,
        with_attr: bool,
        mut emit: impl FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        let mut delivered = false;
        let read = self.read_on(handle, offset, with_attr, |entry| {
            let taken = emit(entry);
            delivered |= taken;
            taken
        });
        if delivered { Ok(()) } else { read }
    }

    /// As [`Self::read_dir`], but an error does not wait for the next call.
    fn read_on(
        &self,
        handle: u64,
        offset: u64,
        with_attr: bool,
        mut emit: impl FnMut(&DirEntry) -> bool,
    ) -> Result<()> {
        let dir = self.dirs.get(handle).ok_or(Errno::BADF)?;
        let changes = read(&dir.inode.dir.entries);
        // Listing alone asks for nothing more, but side entries are read, and attributes.
        let _wide = self.enter(&dir.inode, SEARCH).ok();
        let mut stream = lock(&dir.stream);
        if stream.position != offset || stream.changes != *changes {
            stream.pending.clear();
            (stream.position, stream.changes) = (offset, *changes);
        }
        loop {
            if stream.pending.is_empty() {
                let mut batch = Vec::new();
                let from = stream.position;
                let list = match &mut stream.list {
                    Some(list) => list,
                    none => {
                        let (handle, _wide) = self.enter(&dir.inode, LIST)?;
                        none.insert(self.backing.list(&handle)?)
                    }
                };
                self.backing.read_list(list, from, &mut batch)?;
                if batch.is_empty() {
                    return Ok(());
                }
                stream.pending.extend(batch);
            }
            while let Some(raw) = stream.pending.front() {
                if !self.deliver(&dir.inode, raw, with_attr, &mut emit)? {
                    return Ok(());
                }
                stream.position = raw.next;
                stream.pending.pop_front();
            }
        }
    }

    /// Closes a directory handle.
    pub fn release_dir(&self, handle: u64) {
        self.dirs.remove(handle);
    }

    /// Makes the entries of a directory durable.
    ///
    /// # Errors
    /// `EBADF` or the backing's error.
    pub fn fsync_dir(&self, handle: u64) -> Result<()> {
        let dir = self.dirs.get(handle).ok_or(Errno::BADF)?;
        if self.options.read_only {
            return Ok(());
        }
        if dir.inode.dir.removed.load(Ordering::Acquire) {
            // There is nothing left that could get lost.
            return Ok(());
        }
        let (handle, _wide) = self.enter(&dir.inode, LIST)?;
        Ok(self.backing.sync_dir(&handle)?)
    }

    /// Delivers one entry if it is a user's; false when `emit` is full.
    fn deliver(
        &self,
        parent: &Arc<Inode<B>>,
        raw: &RawEntry,
        with_attr: bool,
        emit: &mut impl FnMut(&DirEntry) -> bool,
    ) -> Result<bool> {
        let directory =
            |ino| DirEntry { name: raw.name.clone(), ino, kind: FileKind::Directory, next: raw.next, attr: None };
        match &raw.name[..] {
            b"." => return Ok(emit(&directory(parent.number))),
            b".." => return Ok(emit(&directory(self.parent_of(parent)))),
            _ => {}
        }
        match EntryKind::of(&raw.name, parent.number == ROOT) {
            EntryKind::Temporary => self.clear_leftover(parent, raw),
            kind if kind.is_hidden() => {}
            _ => return self.deliver_user(parent, raw, with_attr, emit),
        }
        Ok(true)
    }

    /// Delivers an entry that is a user's; false when `emit` is full.
    fn deliver_user(
        &self,
        parent: &Arc<Inode<B>>,
        raw: &RawEntry,
        with_attr: bool,
        emit: &mut impl FnMut(&DirEntry) -> bool,
    ) -> Result<bool> {
        let entry = |name, ino, kind, attr| DirEntry { name, ino, kind, next: raw.next, attr };
        let Some((name, disk)) = self.decode(parent, &raw.name)? else { return Ok(true) };
        let dir = self.dir(parent)?;
        if !with_attr && let Some(kind) = raw.kind {
            return Ok(emit(&entry(name, self.table.number_of(raw.ino), kind, None)));
        }
        let stat = match self.modes.stat(Target::Named(&*dir, &disk)) {
            Ok(stat) => stat,
            // Removed since it was listed.
            Err(Errno::NOENT) => return Ok(true),
            // Its name is all that can be told of it, and no reason to hide the others.
            Err(error) => {
                tracing::warn!(ino = parent.number, "an entry's attributes cannot be read: {error}");
                let kind = raw.kind.unwrap_or(FileKind::Regular);
                return Ok(emit(&entry(name, self.table.number_of(raw.ino), kind, None)));
            }
        };
        let number = self.table.number_of(stat.ino);
        if !with_attr {
            return Ok(emit(&entry(name, number, stat.kind, None)));
        }
        let located = Located { parent: Arc::clone(parent), dir, name: EncodedName::Short(disk), _wide: None };
        let inode = self.refer(&located, &stat);
        let taken = emit(&entry(name, number, stat.kind, Some(self.attr_of(&inode, &stat))));
        if !taken {
            self.forget(number, 1);
        }
        Ok(taken)
    }

    /// The plaintext name of an entry and the entry as text; `None`, with an event, if it does not decode.
    pub(super) fn decode(&self, parent: &Arc<Inode<B>>, raw: &[u8]) -> Result<Option<(Vec<u8>, String)>> {
        let id = self.dir_id(parent)?;
        let text = std::str::from_utf8(raw).ok();
        let side = match text {
            Some(entry) if EntryKind::of(raw, false) == EntryKind::Long => {
                self.read_meta(&*self.dir(parent)?, &side_entry(entry), MAX_SIDE)?.into_text()
            }
            _ => None,
        };
        match (text, self.names.decode(id, raw, side.as_deref())) {
            (Some(entry), Ok(name)) => {
                if self.names.is_bound(raw) {
                    parent.dir.id_proven.store(true, Ordering::Relaxed);
                }
                Ok(Some((name, entry.to_owned())))
            }
            _ => {
                self.event(parent, None, Event::of_entry(Outcome::BadName, raw));
                Ok(None)
            }
        }
    }
}
