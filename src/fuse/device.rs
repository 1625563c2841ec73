//! The connection to the kernel, and the threads that serve it.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender};

use rustix::io::Errno;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::abi::{InHeader, NOTIFY_INVAL_INODE, NotifyInvalInode, OutHeader, WriteIn};
use super::dispatch::{Dispatcher, PendingSeek};
use super::operations::MAX_WRITE;
use super::reply::Sink;
use super::rings::Rings;
use super::seek::{self, Job};
use crate::store::Backing;
use crate::sync::{Arc, Mutex, lock, thread};

const PAGE: usize = 4096;
/// What stands in front of a WRITE's data.
const WRITE_FRONT: usize = size_of::<InHeader>() + size_of::<WriteIn>();

/// One page.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// Where a thread reads its requests to: so that the data of a WRITE, which follows 80 bytes of request, begins at a page.
struct RequestBuffer(Vec<Page>);

impl RequestBuffer {
    fn new() -> io::Result<Self> {
        let pages = 1 + MAX_WRITE as usize / PAGE;
        // Untouched pages take no memory.
        Ok(Self(Page::new_vec_zeroed(pages).map_err(|_| io::ErrorKind::OutOfMemory)?))
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

    /// The next request; `None` at the end of the mount.
    fn read<'a>(&self, buffer: &'a mut RequestBuffer) -> io::Result<Option<&'a [u8]>> {
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

    /// The open device, for commands on it.
    pub(super) fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.0)
    }

    /// Makes the kernel write back and drop what it has cached of an inode. Blocks until the WRITEs of it are served.
    pub(super) fn invalidate(&self, ino: u64) -> io::Result<()> {
        let len = (size_of::<OutHeader>() + size_of::<NotifyInvalInode>()) as u32;
        let header = OutHeader { len, error: NOTIFY_INVAL_INODE, unique: 0 };
        let notice = NotifyInvalInode { ino, off: 0, len: 0 };
        self.clone().send(&[IoSlice::new(header.as_bytes()), IoSlice::new(notice.as_bytes())])
    }
}

impl Sink for Device {
    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        // The kernel takes an answer whole or not at all.
        rustix::io::retry_on_intr(|| rustix::io::writev(&*self.0, parts))?;
        Ok(())
    }
}

/// Serves a connection until it ends.
pub(super) struct Server<B: Backing> {
    dispatcher: Arc<Dispatcher<B>>,
    device: Device,
    seeks: Arc<Mutex<Sender<Job>>>,
}

impl<B: Backing> Clone for Server<B> {
    fn clone(&self) -> Self {
        let (dispatcher, seeks) = (Arc::clone(&self.dispatcher), Arc::clone(&self.seeks));
        Self { dispatcher, device: self.device.clone(), seeks }
    }
}

impl<B: Backing> Server<B> {
    /// A server of a fresh mount; answers the kernel's first request, `INIT`.
    pub(super) fn start(dispatcher: Dispatcher<B>, connection: OwnedFd) -> io::Result<Self> {
        let (sender, jobs) = seek::queue();
        let server = Self {
            dispatcher: Arc::new(dispatcher),
            device: Device::new(connection),
            seeks: Arc::new(Mutex::new(sender)),
        };
        let mut buffer = RequestBuffer::new()?;
        if !server.serve_one(&mut buffer, &mut Vec::new())? || server.dispatcher.agreed().is_none() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the kernel and kmsfs have no FUSE version in common",
            ));
        }
        server.start_seeks(jobs)?;
        Ok(server)
    }

    fn start_seeks(&self, jobs: Receiver<Job>) -> io::Result<()> {
        let device = self.device.clone();
        seek::start(Arc::clone(&self.dispatcher.operations), jobs, move |ino| device.invalidate(ino))
    }

    /// Serves with `threads` threads until the mount ends. `ready` is called when they serve. With rings these threads
    /// serve what the kernel does not send through rings, and all of it if it gives the rings up.
    pub(super) fn run(self, threads: usize, ready: impl FnOnce()) -> io::Result<()> {
        let started: io::Result<Vec<_>> = (0..threads)
            .map(|number| {
                let server = self.clone();
                thread::Builder::new().name(format!("kmsfs-fuse-{number}")).spawn(move || server.serve())
            })
            .collect();
        let started = started?;
        let rings = self.dispatcher.agreed().is_some_and(|agreed| agreed.has_rings());
        let rings = rings.then(|| Rings::start(Arc::clone(&self.dispatcher), self.device.clone()));
        ready();
        let mut ended = Ok(());
        for thread in started {
            let one = thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that serves requests panicked")));
            ended = ended.and(one);
        }
        if let Some(rings) = rings {
            rings.join();
        }
        ended
    }

    fn serve(&self) -> io::Result<()> {
        let (mut buffer, mut scratch) = (RequestBuffer::new()?, Vec::new());
        while self.serve_one(&mut buffer, &mut scratch)? {}
        Ok(())
    }

    /// Serves one request; false at the end of the mount.
    fn serve_one(&self, buffer: &mut RequestBuffer, scratch: &mut Vec<u8>) -> io::Result<bool> {
        let Some(request) = self.device.read(buffer)? else { return Ok(false) };
        if let Some(seek) = self.dispatcher.handle(request, scratch, &mut self.device.clone()) {
            self.postpone(&seek);
        }
        Ok(true)
    }

    fn postpone(&self, seek: &PendingSeek) {
        let (mut device, unique) = (self.device.clone(), seek.unique);
        let done = Box::new(move |sought| Dispatcher::<B>::finish(unique, sought, &mut device));
        let job = Job { ino: seek.ino, handle: seek.handle, offset: seek.offset, whence: seek.whence, done };
        if let Err(unsent) = lock(&self.seeks).send(job) {
            (unsent.0.done)(Err(Errno::IO.into()));
        }
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
