//! The connection to the kernel: requests out of it, answers and notices into it.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::abi::{
    EXPIRE_ONLY, InHeader, NOTIFY_INVAL_ENTRY, NOTIFY_INVAL_INODE, NotifyInvalEntry, NotifyInvalInode, OutHeader,
    WriteIn,
};
use super::operations::MAX_WRITE;
use super::reply::Sink;
use crate::sync::Arc;
use crate::sys::page::{PAGE, Pages};

/// What stands in front of a WRITE's data.
const WRITE_FRONT: usize = size_of::<InHeader>() + size_of::<WriteIn>();

/// Where a thread reads its requests to: so that the data of a WRITE, which follows 80 bytes of request, begins at a page.
pub(super) struct RequestBuffer(Pages);

impl RequestBuffer {
    pub(super) fn new() -> io::Result<Self> {
        Pages::new(PAGE + MAX_WRITE as usize).map(Self)
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.0.as_mut_bytes()[PAGE - WRITE_FRONT..]
    }
}

/// An open `/dev/fuse` that belongs to a mount.
#[derive(Clone)]
pub(super) struct Device(Arc<OwnedFd>);

impl Device {
    pub(super) fn new(connection: OwnedFd) -> Self {
        Self(Arc::new(connection))
    }

    /// Sends an answer.
    pub(super) fn answer(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        // The kernel takes an answer whole or not at all.
        rustix::io::retry_on_intr(|| rustix::io::writev(&*self.0, parts))?;
        Ok(())
    }

    /// The next request; `None` at the end of the mount.
    pub(super) fn read<'a>(&self, buffer: &'a mut RequestBuffer) -> io::Result<Option<&'a [u8]>> {
        loop {
            match rustix::io::read(&*self.0, buffer.bytes()) {
                Ok(len) => return Ok(Some(&buffer.bytes()[..len])),
                // ENOENT: who asked gave up while the request was on its way.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(None),
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// Whether there is a request that nobody has read.
    pub(super) fn has_more(&self) -> bool {
        self.state().is_ok_and(|state| state.contains(PollFlags::IN))
    }

    /// Whether the mount is still there.
    pub(super) fn is_connected(&self) -> bool {
        self.state().is_ok_and(|state| !state.contains(PollFlags::ERR))
    }

    /// What poll(2) tells at once: `ERR` of a connection that has ended.
    fn state(&self) -> rustix::io::Result<PollFlags> {
        let mut device = [PollFd::new(&*self.0, PollFlags::IN)];
        poll(&mut device, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(device[0].revents())
    }

    /// The open device, for commands on it.
    pub(super) fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.0)
    }

    /// Makes the kernel write back and drop what it has cached of a range of an inode; `len` 0 means up to the end. Blocks until
    /// the WRITEs of it are served.
    pub(super) fn invalidate(&self, ino: u64, offset: u64, len: u64) -> io::Result<()> {
        let signed = |number: u64| i64::try_from(number).map_err(io::Error::other);
        let notice = NotifyInvalInode { ino, off: signed(offset)?, len: signed(len)? };
        self.notify(NOTIFY_INVAL_INODE, &[notice.as_bytes()])
    }

    /// Makes the kernel look up a name anew before it uses it again. Blocks while the directory is in use.
    pub(super) fn expire(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        let notice = NotifyInvalEntry { parent, namelen: name.len() as u32, flags: EXPIRE_ONLY };
        self.notify(NOTIFY_INVAL_ENTRY, &[notice.as_bytes(), name, &[0]])
    }

    fn notify(&self, number: i32, parts: &[&[u8]]) -> io::Result<()> {
        let body: usize = parts.iter().map(|part| part.len()).sum();
        let header = OutHeader { len: (size_of::<OutHeader>() + body) as u32, error: number, unique: 0 };
        let all: Vec<_> = [header.as_bytes()].iter().chain(parts).map(|part| IoSlice::new(part)).collect();
        self.clone().send(&all)
    }
}

/// What the kernel has cached of a mount's files.
#[derive(Clone)]
pub struct PageCache(Option<Device>);

impl PageCache {
    pub(super) fn new(device: Option<Device>) -> Self {
        Self(device)
    }

    /// Makes the kernel write back and drop what it has cached of an inode. Blocks until the mount has served the writes.
    ///
    /// # Errors
    /// `ENOENT` if the kernel does not know the inode; `EBUSY` if a page stays; `Unsupported` by the reference transport.
    pub fn drop_pages(&self, ino: u64) -> io::Result<()> {
        self.0.as_ref().ok_or(io::ErrorKind::Unsupported)?.invalidate(ino, 0, 0)
    }
}

impl Sink for Device {
    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.answer(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_a_write_begins_at_a_page() {
        let mut buffer = RequestBuffer::new().expect("memory");
        let bytes = buffer.bytes();
        assert_eq!(bytes[WRITE_FRONT..].as_ptr() as usize % PAGE, 0);
        assert_eq!(bytes.len(), WRITE_FRONT + MAX_WRITE as usize);
    }
}
