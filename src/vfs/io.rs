//! Open files: opening, reading, writing, syncing, closing.

use rustix::io::Errno;
use zeroize::Zeroizing;

use super::Result;
use super::fs::Vfs;
use super::handle::FileHandle;
use super::inode::Inode;
use crate::content::{Content, FallocateMode};
use crate::format::Outcome;
use crate::store::{Access, Ahead, Backing, FileKind};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, lock, read};

/// Bytes that a copy reads and writes at once, and that it copies before it answers.
const COPY_STEP: u64 = 1 << 20;
const COPY_AT_ONCE: u64 = 16 << 20;

/// A file that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Number of the handle, for the other calls.
    pub handle: u64,
    /// Writes through it should not wait in a cache: the file is empty, and the key that its first write needs cannot be
    /// used at present. The program is told by write(2) then, and not by a lost write-back.
    pub uncached: bool,
}

impl<B: Backing> Vfs<B> {
    /// Opens a regular file. This is where the key manager is asked: what is open goes on, a new open needs a usable key.
    ///
    /// # Errors
    /// `EROFS`, any outcome of opening a file (FORMAT S12), the backing's error, or `ESTALE` for an inode to be looked up anew.
    pub fn open(&self, ino: u64, writable: bool) -> Result<Opened> {
        if writable {
            self.check_writable()?;
        }
        let inode = self.inode(ino)?;
        check_regular(&inode)?;
        let content = self.acquire(&inode, writable)?;
        Ok(self.hand_out(&inode, content, writable))
    }

    /// Opens a regular file and empties it. That needs no key (FORMAT 5): neither the one of the old content, nor the
    /// volume's present one, which only a write needs.
    ///
    /// # Errors
    /// `EROFS`, `EISDIR`, `ENXIO`, or the backing's error.
    pub fn open_emptied(&self, ino: u64, writable: bool) -> Result<Opened> {
        self.check_writable()?;
        self.check_lasting()?;
        let inode = self.inode(ino)?;
        check_regular(&inode)?;
        let content = {
            let mut slot = lock(&inode.content);
            let content = match &slot.content {
                Some(_) if slot.immutable => return Err(Errno::PERM.into()),
                Some(content) => {
                    self.empty(&inode, content)?;
                    Arc::clone(content)
                }
                None => {
                    let (file, record) = self.empty_closed(&inode)?;
                    let content = Content::created(Arc::clone(&self.backing), Arc::clone(&self.volume), file);
                    Arc::new(content.tracked(record))
                }
            };
            slot.hold(content)
        };
        let uncached = writable && self.volume.keys.check_default().is_err();
        Ok(Opened { uncached, ..self.hand_out(&inode, content, writable) })
    }

    /// The shared content of an inode with one more user, opened if it is not.
    pub(super) fn acquire(&self, inode: &Arc<Inode<B>>, writable: bool) -> Result<Arc<Content<B>>> {
        if writable {
            self.check_lasting()?;
        }
        let mut slot = lock(&inode.content);
        if slot.content.is_none() && inode.pages_lost.swap(false, Ordering::AcqRel) {
            inode.generation.store(self.table.next_generation(), Ordering::Release);
            return Err(Errno::STALE.into());
        }
        let content = match &slot.content {
            Some(_) if writable && slot.immutable => return Err(Errno::PERM.into()),
            Some(content) => {
                // By a name that was not known when it was opened, it can be another file.
                self.record_of(inode, None)?;
                // To read the file anew asks for its key, too.
                let checked = if self.options.read_only { content.reload() } else { content.check_key() };
                self.report(inode, checked.and_then(|()| content.admit()))?;
                if writable && !content.is_writable() {
                    content.upgrade(self.open_backing(inode, Access::ReadWrite)?);
                }
                Arc::clone(content)
            }
            None => {
                let (file, access) = self.open_best(inode, writable)?;
                Arc::new(self.open_content(inode, file, access)?)
            }
        };
        if writable && content.size() == 0 {
            self.volume.keys.check_default()?;
        }
        Ok(slot.hold(content))
    }

    /// Opens the content of a file; the caller holds the inode's content slot.
    pub(super) fn open_content(&self, inode: &Arc<Inode<B>>, file: B::File, access: Access) -> Result<Content<B>> {
        let opening = inode.begin_opening();
        self.fetch_ahead(inode, Ahead::File);
        let opened = Content::open(Arc::clone(&self.backing), Arc::clone(&self.volume), file, access);
        drop(opening);
        let content = self.report(inode, opened)?;
        self.report_opened(inode, &content);
        self.track(inode, content)
    }

    /// Opens the backing file for writing where that is possible: a reader's file may be opened by a writer later, and
    /// records are written on a reader's fsync too.
    fn open_best(&self, inode: &Inode<B>, writable: bool) -> Result<(B::File, Access)> {
        if writable {
            return Ok((self.open_backing(inode, Access::ReadWrite)?, Access::ReadWrite));
        }
        if self.options.read_only {
            return Ok((self.open_backing(inode, Access::Read)?, Access::Read));
        }
        // A reader's file is not worth changing its mode for the moment, which would move its ctime.
        match self.open_plain(inode, Access::ReadWrite) {
            Ok(file) => return Ok((file, Access::ReadWrite)),
            Err(error) if matches!(error.errno(), Errno::ACCESS | Errno::PERM | Errno::ROFS) => {}
            Err(error) => return Err(error),
        }
        Ok((self.open_backing(inode, Access::Read)?, Access::Read))
    }

    /// One user less of an inode's content; the last one drops it, and its keys with it. Whether it was the last one.
    pub(super) fn relinquish(&self, inode: &Inode<B>) -> bool {
        let mut slot = lock(&inode.content);
        slot.handles = slot.handles.saturating_sub(1);
        if let (0, Some(content)) = (slot.handles, &slot.content) {
            content.raise_due();
            if let Err(error) = content.note_closed() {
                tracing::warn!(ino = inode.number, "what a file is was not recorded when it was closed: {error}");
            }
        }
        let last = if slot.handles == 0 { slot.content.take() } else { None };
        slot.immutable &= last.is_none();
        drop(slot);
        last.is_some()
    }

    /// Makes `content` the inode's, which nobody else can have opened yet.
    pub(super) fn install(&self, inode: &Arc<Inode<B>>, content: Arc<Content<B>>, writable: bool) -> Opened {
        let content = lock(&inode.content).hold(content);
        self.hand_out(inode, content, writable)
    }

    fn hand_out(&self, inode: &Arc<Inode<B>>, content: Arc<Content<B>>, writable: bool) -> Opened {
        if writable {
            inode.writers.fetch_add(1, Ordering::AcqRel);
            self.learn_set_id(inode);
        }
        let failures_seen = AtomicU64::new(content.failures());
        let handle = FileHandle { inode: Arc::clone(inode), content, writable, failures_seen };
        Opened { handle: self.files.insert(handle), uncached: false }
    }

    pub(super) fn file(&self, handle: u64) -> Result<Arc<FileHandle<B>>> {
        self.files.get(handle).ok_or_else(|| Errno::BADF.into())
    }

    /// An open file, for a request that needs its content.
    fn admitted(&self, handle: u64) -> Result<Arc<FileHandle<B>>> {
        let file = self.file(handle)?;
        self.report_of(&file.inode, Some(&file.content), file.content.admit())?;
        Ok(file)
    }

    /// With strict ids, refuses a change of a file that shares its id with another open one: what is written could be
    /// exchanged with the other's unnoticed.
    pub(super) fn check_id(&self, content: &Content<B>) -> Result<()> {
        if self.options.strict_ids && content.duplicate().is_some() {
            return Err(Outcome::DuplicateId.into());
        }
        Ok(())
    }

    /// Hands up to `len` bytes from `offset` to `sink`.
    ///
    /// # Errors
    /// `EIO` for a range that touches a damaged unit, or the backing's error.
    pub fn read<R>(&self, handle: u64, offset: u64, len: usize, sink: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let file = self.admitted(handle)?;
        self.report_of(&file.inode, Some(&file.content), file.content.read(offset, len, sink))
    }

    /// Reads up to `len` bytes from `offset` into `room` behind its first unit, and answers how many; `room` has
    /// [`crate::content::room_for`] bytes, and what stands around the data afterwards means nothing.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_within(&self, handle: u64, offset: u64, len: usize, room: &mut [u8]) -> Result<usize> {
        let file = self.admitted(handle)?;
        self.report_of(&file.inode, Some(&file.content), file.content.read_within(offset, len, room))
    }

    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// `EBADF` for a handle that is not for writing, `EFBIG`, `ENOSPC`, `EIO`, key outcomes for the first write to an
    /// empty file.
    pub fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Result<()> {
        self.store(&*self.admitted(handle)?, offset, data)
    }

    /// As [`Self::write`], for pages that the kernel has held dirty: also of a file whose key is about to be let go of. If they
    /// cannot be stored, the next opening answers `ESTALE` once, see [`Inode::pages_lost`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_back(&self, handle: u64, offset: u64, data: &[u8]) -> Result<()> {
        let file = self.file(handle)?;
        let stored = self.store(&file, offset, data);
        match &stored {
            Ok(()) => self.keep_set_id(&file.inode),
            Err(_) => file.inode.pages_lost.store(true, Ordering::Release),
        }
        stored
    }

    fn store(&self, file: &FileHandle<B>, offset: u64, data: &[u8]) -> Result<()> {
        if !file.writable {
            return Err(Errno::BADF.into());
        }
        self.check_id(&file.content)?;
        self.report_of(&file.inode, Some(&file.content), file.content.write(offset, data))
    }

    /// Copies up to `len` bytes from one file to another, as copy_file_range(2) does: less if the source ends before or a
    /// request would take too long. Answers how many. What the kernel holds dirty must have been written before.
    ///
    /// # Errors
    /// As [`Self::read`] and [`Self::write`], if nothing was copied.
    pub fn copy_range(&self, from: u64, from_offset: u64, to: u64, to_offset: u64, len: u64) -> Result<u64> {
        let len = len.min(COPY_AT_ONCE);
        let mut copied = 0;
        let mut bytes = Zeroizing::new(Vec::new());
        while copied < len {
            let part = (len - copied).min(COPY_STEP) as usize;
            let (read_at, write_at) = (from_offset.checked_add(copied), to_offset.checked_add(copied));
            let (read_at, write_at) = read_at.zip(write_at).ok_or(Errno::OVERFLOW)?;
            bytes.clear();
            let step = self
                .read(from, read_at, part, |read| bytes.extend_from_slice(read))
                .and_then(|()| self.write(to, write_at, &bytes));
            match step {
                Err(error) if copied == 0 => return Err(error),
                Ok(()) if !bytes.is_empty() => copied += bytes.len() as u64,
                _ => break,
            }
        }
        Ok(copied)
    }

    /// Makes what was written through any handle of the file durable.
    ///
    /// # Errors
    /// The backing's error: the data may then not be durable.
    pub fn fsync(&self, handle: u64, data_only: bool) -> Result<()> {
        let file = self.file(handle)?;
        if self.options.read_only {
            return Ok(());
        }
        let synced = match &self.raiser {
            Some(raiser) => raiser.sync(&file.content, data_only),
            None => file.content.sync(data_only),
        };
        let synced = self.report_of(&file.inode, Some(&file.content), synced);
        // A loss that another handle's flush was told of is a loss to this one too, once.
        let failures = file.content.failures();
        let missed = file.failures_seen.swap(failures, Ordering::AcqRel) < failures;
        if missed && synced.is_ok() { Err(Errno::IO.into()) } else { synced }
    }

    /// Changes the allocation of a range.
    ///
    /// # Errors
    /// As [`Content::fallocate`]; `EBADF` for a handle that is not for writing.
    pub fn fallocate(&self, handle: u64, mode: FallocateMode, offset: u64, len: u64) -> Result<()> {
        let file = self.admitted(handle)?;
        if !file.writable {
            return Err(Errno::BADF.into());
        }
        self.check_id(&file.content)?;
        self.report_of(&file.inode, Some(&file.content), file.content.fallocate(mode, offset, len))
    }

    /// Where data begins at or behind `offset`. What the kernel holds dirty must have been written before.
    ///
    /// # Errors
    /// `ENXIO` if only holes follow.
    pub fn seek_data(&self, handle: u64, offset: u64) -> Result<u64> {
        let file = self.admitted(handle)?;
        self.report_of(&file.inode, Some(&file.content), file.content.seek_data(offset))?
            .ok_or_else(|| Errno::NXIO.into())
    }

    /// Where a hole begins at or behind `offset`, the end of the file at the latest. As [`Self::seek_data`].
    ///
    /// # Errors
    /// `ENXIO` behind the end.
    pub fn seek_hole(&self, handle: u64, offset: u64) -> Result<u64> {
        let file = self.admitted(handle)?;
        self.report_of(&file.inode, Some(&file.content), file.content.seek_hole(offset))?
            .ok_or_else(|| Errno::NXIO.into())
    }

    /// Whether any handle of the file is open for writing, so that the kernel may hold dirty pages of it.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn has_writers(&self, handle: u64) -> Result<bool> {
        Ok(self.file(handle)?.inode.writers.load(Ordering::Acquire) > 0)
    }

    /// The same by the inode, of whatever type.
    ///
    /// # Errors
    /// `ESTALE`.
    pub fn is_open_for_writing(&self, ino: u64) -> Result<bool> {
        Ok(self.inode(ino)?.writers.load(Ordering::Acquire) > 0)
    }

    /// Closes a handle. Answers the inode if it was the last one of a file of which the kernel has lost pages: it is to be looked up
    /// anew by each of its names ([`Self::names_of`]), and has another generation then.
    pub fn release(&self, handle: u64) -> Option<u64> {
        let file = self.files.remove(handle)?;
        if file.writable {
            file.inode.writers.fetch_sub(1, Ordering::AcqRel);
        }
        if !self.relinquish(&file.inode) || !file.inode.pages_lost.load(Ordering::Acquire) {
            return None;
        }
        file.inode.generation.store(self.table.next_generation(), Ordering::Release);
        Some(file.inode.number)
    }

    /// The names by which an inode is known: directory and name of each.
    pub fn names_of(&self, ino: u64) -> Vec<(u64, Vec<u8>)> {
        let Ok(inode) = self.inode(ino) else { return Vec::new() };
        let known = read(&inode.place).names.clone();
        let name = |(parent, entry): (Arc<Inode<B>>, String)| {
            let (name, _) = self.decode(&parent, entry.as_bytes()).ok()??;
            Some((parent.number, name))
        };
        known.into_iter().filter_map(name).collect()
    }
}

fn check_regular<B: Backing>(inode: &Inode<B>) -> Result<()> {
    match inode.kind {
        FileKind::Regular => Ok(()),
        FileKind::Directory => Err(Errno::ISDIR.into()),
        _ => Err(Errno::NXIO.into()),
    }
}
