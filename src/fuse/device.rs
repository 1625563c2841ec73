//! The threads that serve a connection.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::Sender;

use rustix::io::Errno;

use super::connection::{Device, PageCache, RequestBuffer};
use super::dispatch::Dispatcher;
use super::notices;
use super::reply::Reply;
use super::rings::Prepared;
use super::writeback::{self, Job, Pending};
use crate::store::Backing;
use crate::sync::{Arc, Mutex, lock};
use crate::sys::threads;

/// Serves a connection until it ends.
pub(super) struct Server<B: Backing> {
    dispatcher: Arc<Dispatcher<B>>,
    device: Device,
    postponed: Arc<Mutex<Sender<Job>>>,
}

/// The end of serving.
pub(super) struct Ended {
    pub(super) outcome: io::Result<()>,
    /// The kernel has ended the connection; else the mount is still there, and nobody serves it.
    pub(super) unmounted: bool,
}

impl<B: Backing> Clone for Server<B> {
    fn clone(&self) -> Self {
        let (dispatcher, postponed) = (Arc::clone(&self.dispatcher), Arc::clone(&self.postponed));
        Self { dispatcher, device: self.device.clone(), postponed }
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
        let (notices, noticed) = notices::queue();
        let dispatcher = dispatcher.noticing(notices);
        let (sender, jobs) = writeback::queue();
        let server = Self { dispatcher: Arc::new(dispatcher), device, postponed: Arc::new(Mutex::new(sender)) };
        let mut buffer = RequestBuffer::new()?;
        let answered = server.serve_one(&mut buffer, &mut Vec::new())?;
        let agreed = server.dispatcher.agreed().filter(|_| answered);
        let agreed = agreed.ok_or_else(|| {
            io::Error::new(io::ErrorKind::Unsupported, "the kernel and kmsfs have no FUSE version in common")
        })?;
        let device = server.device.clone();
        writeback::start(jobs, move |ino| device.invalidate(ino, 0, 0))?;
        notices::start(noticed, server.device.clone())?;
        Ok((server, prepared.filter(|_| agreed.has_rings())))
    }

    /// Serves with `threads` threads until the mount ends, or `ready` fails, which is called when they serve. With rings these threads
    /// serve what the kernel does not send through rings, and all of it if it gives the rings up.
    pub(super) fn run(
        self,
        rings: Option<Prepared<B>>,
        threads: usize,
        ready: impl FnOnce(PageCache) -> io::Result<()>,
    ) -> Ended {
        let start = |number| {
            let (server, mut buffer) = (self.clone(), RequestBuffer::new()?);
            threads::spawn(&format!("kmsfs-fuse-{number}"), move || server.serve(&mut buffer))
        };
        let started = match (0..threads).map(start).collect::<io::Result<Vec<_>>>() {
            Ok(started) => started,
            Err(error) => return Ended { outcome: Err(error), unmounted: false },
        };
        let rings = rings.map(|rings| rings.start(Arc::clone(&self.dispatcher), Arc::clone(&self.postponed)));
        if let Err(error) = ready(PageCache::new(Some(self.device.clone()))) {
            return Ended { outcome: Err(error), unmounted: false };
        }
        let mut ended = Ended { outcome: Ok(()), unmounted: false };
        for thread in started {
            let one = thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that serves requests panicked")));
            ended.unmounted |= one.is_ok();
            ended.outcome = ended.outcome.and(one);
        }
        if let Some(rings) = rings {
            rings.join();
        }
        ended
    }

    fn serve(&self, buffer: &mut RequestBuffer) -> io::Result<()> {
        let mut scratch = Vec::new();
        while self.serve_one(buffer, &mut scratch)? {}
        Ok(())
    }

    /// Serves one request; false at the end of the mount.
    fn serve_one(&self, buffer: &mut RequestBuffer, scratch: &mut Vec<u8>) -> io::Result<bool> {
        let Some(request) = self.device.read(buffer)? else { return Ok(false) };
        if let Some(pending) = self.dispatcher.handle(request, scratch, &mut self.device.clone()) {
            self.postpone(pending);
        }
        Ok(true)
    }

    fn postpone(&self, pending: Pending) {
        let (dispatcher, mut device, unique) = (Arc::clone(&self.dispatcher), self.device.clone(), pending.unique);
        let job = Job { ino: pending.ino, serve: Box::new(move || dispatcher.finish(pending, &mut device)) };
        if lock(&self.postponed).send(job).is_err() {
            Reply::new(unique, &mut self.device.clone()).error(Errno::IO);
        }
    }
}

fn no_rings(error: &io::Error) {
    tracing::warn!("no requests through io_uring: {error}");
}
