//! The threads that serve a connection.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::Sender;

use rustix::io::Errno;

use super::connection::{Device, PageCache, RequestBuffer};
use super::dispatch::{Dispatcher, PendingSeek};
use super::rings::Prepared;
use super::seek::{self, Job};
use crate::store::Backing;
use crate::sync::{Arc, Mutex, lock, thread};

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
    /// A server of a fresh mount; answers the kernel's first request, `INIT`. With `rings` requests come through rings, if
    /// all of them can be made and the kernel agrees.
    pub(super) fn start(
        dispatcher: Dispatcher<B>,
        connection: OwnedFd,
        rings: bool,
    ) -> io::Result<(Self, Option<Prepared<B>>)> {
        let device = Device::new(connection);
        let prepared = if rings { Prepared::make(&device).inspect_err(no_rings).ok() } else { None };
        let dispatcher = if prepared.is_some() { dispatcher.with_rings() } else { dispatcher };
        let (sender, jobs) = seek::queue();
        let server = Self { dispatcher: Arc::new(dispatcher), device, seeks: Arc::new(Mutex::new(sender)) };
        let mut buffer = RequestBuffer::new()?;
        let answered = server.serve_one(&mut buffer, &mut Vec::new())?;
        let agreed = server.dispatcher.agreed().filter(|_| answered);
        let agreed = agreed.ok_or_else(|| {
            io::Error::new(io::ErrorKind::Unsupported, "the kernel and kmsfs have no FUSE version in common")
        })?;
        let (operations, device) = (Arc::clone(&server.dispatcher.operations), server.device.clone());
        seek::start(operations, jobs, move |ino| device.invalidate(ino))?;
        Ok((server, prepared.filter(|_| agreed.has_rings())))
    }

    /// Serves with `threads` threads until the mount ends. `ready` is called when they serve. With rings these threads
    /// serve what the kernel does not send through rings, and all of it if it gives the rings up.
    pub(super) fn run(
        self,
        rings: Option<Prepared<B>>,
        threads: usize,
        ready: impl FnOnce(PageCache),
    ) -> io::Result<()> {
        let started: io::Result<Vec<_>> = (0..threads)
            .map(|number| {
                let server = self.clone();
                thread::Builder::new().name(format!("kmsfs-fuse-{number}")).spawn(move || server.serve())
            })
            .collect();
        let started = started?;
        let rings = rings.map(|rings| rings.start(Arc::clone(&self.dispatcher), self.device.clone()));
        ready(PageCache::new(Some(self.device.clone())));
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
            self.postpone(seek);
        }
        Ok(true)
    }

    fn postpone(&self, seek: PendingSeek) {
        let (mut device, unique) = (self.device.clone(), seek.unique);
        let done = Box::new(move |sought| Dispatcher::<B>::finish(unique, sought, &mut device));
        if let Err(unsent) = lock(&self.seeks).send(Job { seek, done }) {
            (unsent.0.done)(Err(Errno::IO.into()));
        }
    }
}

fn no_rings(error: &io::Error) {
    tracing::warn!("no requests through io_uring: {error}");
}
