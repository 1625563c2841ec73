//! An open regular file of the filesystem in memory.

use rustix::io::Errno;

use super::super::{Allocate, BackingFile, Result, Stat};
use super::Shared;
use super::inode::Inode;
use super::pages::MAX_SIZE;
use crate::sync::{Arc, read, write};

/// Open regular file of a [`Memory`](super::Memory).
pub struct MemoryFile {
    pub(super) shared: Arc<Shared>,
    pub(super) inode: Arc<Inode>,
    pub(super) writable: bool,
}

impl MemoryFile {
    fn written(&self) {
        self.inode.written(self.shared.privileged(), self.shared.now());
    }
}

impl BackingFile for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        check_range(offset, buf.len() as u64)?;
        let done = read(&self.inode.pages).read(buf, offset);
        self.inode.accessed(self.shared.now());
        Ok(done)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        check_range(offset, 0)?;
        if !self.writable {
            return Err(Errno::BADF);
        }
        check_range(offset, buf.len() as u64)?;
        if offset >= MAX_SIZE {
            return Err(Errno::FBIG);
        }
        let mut pages = write(&self.inode.pages);
        let done = pages.write(buf, offset);
        self.written();
        done
    }

    fn set_len(&self, len: u64) -> Result<()> {
        if !self.writable || i64::try_from(len).is_err() {
            return Err(Errno::INVAL);
        }
        let mut pages = write(&self.inode.pages);
        pages.set_size(len)?;
        self.written();
        Ok(())
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn wait_for_writeback(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn start_writeback(&self, _: u64, _: u64) {}

    fn allocate(&self, how: Allocate, offset: u64, len: u64) -> Result<()> {
        if i64::try_from(offset).is_err() || i64::try_from(len).is_err() || len == 0 {
            return Err(Errno::INVAL);
        }
        if !self.writable {
            return Err(Errno::BADF);
        }
        let end = offset.checked_add(len).filter(|&end| end <= MAX_SIZE).ok_or(Errno::FBIG)?;
        let mut pages = write(&self.inode.pages);
        match how {
            Allocate::KeepSize => pages.reserve(offset, end)?,
            Allocate::PunchHole => pages.punch(offset, end),
            Allocate::ZeroRange => pages.zero(offset, end)?,
        }
        self.written();
        Ok(())
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        Ok(read(&self.inode.pages).seek_data(offset))
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        Ok(read(&self.inode.pages).seek_hole(offset))
    }

    fn stat(&self) -> Result<Stat> {
        Ok(self.inode.stat())
    }

    fn fetch(&self, _: u64) {}

    fn read_ahead(&self) {}

    fn forget(&self, _offset: u64, _len: u64) {}
}

/// pread(2) and pwrite(2) take positions up to 2^63 - 1.
fn check_range(offset: u64, len: u64) -> Result<()> {
    match offset.checked_add(len) {
        Some(end) if i64::try_from(end).is_ok() => Ok(()),
        _ => Err(Errno::INVAL),
    }
}
