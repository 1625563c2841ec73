//! The threads that serve a connection.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::connection::{Device, PageCache, RequestBuffer};
use super::deference::{self, Deference};
use super::dispatch::Dispatcher;
use super::follow::Follower;
use super::habits::{Expected, Habits, Kind};
use super::notices;
use super::readers::{Place, Readers, Taken};
use super::reply::{Reply, Sink};
use super::rings::Prepared;
use super::writeback::{self, Job, Pending};
use crate::store::Backing;
use crate::sync::{Arc, Mutex, lock};
use crate::sys::threads;

/// What reading a request takes less than if it was there already.
const SLEEP: Duration = Duration::from_micros(5);

/// Serves a connection until it ends.
pub(super) struct Server<B: Backing> {
    dispatcher: Arc<Dispatcher<B>>,
    device: Device,
    postponed: Arc<Mutex<Sender<Job>>>,
    habits: Arc<Habits>,
}

/// The end of serving.
pub(super) struct Ended {
    pub(super) outcome: io::Result<()>,
    /// The kernel has ended the connection; else the mount is still there, and nobody serves it.
    pub(super) unmounted: bool,
}

/// What a thread that reads has.
struct Reader {
    place: Place,
    follower: Follower,
    /// For listings.
    scratch: Vec<u8>,
}

/// Where the answer to a request goes.
struct Answer<'a> {
    device: &'a Device,
    taken: &'a Taken<'a>,
}

impl Sink for Answer<'_> {
    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.taken.answered(|| self.device.has_more());
        self.device.answer(parts)
    }
}

impl<B: Backing> Clone for Server<B> {
    fn clone(&self) -> Self {
        let (dispatcher, postponed) = (Arc::clone(&self.dispatcher), Arc::clone(&self.postponed));
        Self { dispatcher, device: self.device.clone(), postponed, habits: Arc::clone(&self.habits) }
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
        let postponed = Arc::new(Mutex::new(sender));
        let server = Self { dispatcher: Arc::new(dispatcher), device, postponed, habits: Arc::default() };
        let mut buffer = RequestBuffer::new()?;
        let first = server.device.read(&mut buffer)?;
        let answered =
            first.map(|request| server.answer(request, &mut Vec::new(), &mut server.device.clone())).is_some();
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
        // Through rings nearly nothing comes here.
        let may_follow = rings.is_none() && deference::is_possible();
        let readers = Arc::new(Readers::new(threads, may_follow));
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let start = |number| {
            let (server, mut buffer, readers) = (self.clone(), RequestBuffer::new()?, Arc::clone(&readers));
            threads::spawn(&format!("kmsfs-fuse-{number}"), move || {
                let follower = Follower::new(Deference::new(may_follow, cpus));
                server.serve(&mut buffer, &readers, follower)
            })
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

    /// Serves requests until the end of the mount.
    fn serve(&self, buffer: &mut RequestBuffer, readers: &Readers, follower: Follower) -> io::Result<()> {
        let mut reader = Reader { place: Place::default(), follower, scratch: Vec::new() };
        while readers.enter(&mut reader.place, || self.device.has_more()) {
            let served = catch_unwind(AssertUnwindSafe(|| self.serve_all(buffer, readers, &mut reader)));
            served.unwrap_or_else(|panic| {
                // Its place is for those that are left.
                readers.leave(&mut reader.place);
                resume_unwind(panic)
            })?;
        }
        Ok(())
    }

    /// Serves requests as long as the thread may read.
    fn serve_all(&self, buffer: &mut RequestBuffer, readers: &Readers, reader: &mut Reader) -> io::Result<()> {
        while self.serve_one(buffer, readers, reader)? {}
        Ok(())
    }

    /// Serves one request; whether the thread may read the next one.
    fn serve_one(&self, buffer: &mut RequestBuffer, readers: &Readers, reader: &mut Reader) -> io::Result<bool> {
        let Reader { place, follower, scratch } = reader;
        let began = Instant::now();
        let request = match self.device.read(buffer) {
            Ok(Some(request)) => request,
            Ok(None) => {
                readers.end();
                return Ok(false);
            }
            Err(error) => {
                readers.leave(place);
                return Err(error);
            }
        };
        if !readers.adapt() {
            self.answer(request, scratch, &mut self.device.clone());
            return Ok(true);
        }
        let slept = began.elapsed() >= SLEEP;
        let kind = Kind::of_bytes(request);
        let expected = self.habits.expect(&kind);
        let taken = readers.take(place, &kind, expected, || self.device.has_more());
        if readers.may_defer(place) {
            // Before the answer: the caller is where it asked, and does not count as running.
            follower.turn(kind.caller, slept);
        } else {
            follower.end();
        }
        // To ask what a request waited for takes as long as some requests do.
        let mut answer = Answer { device: &self.device, taken: &taken };
        if expected == Expected::Short && !place.is_time_to_ask() {
            self.answer(request, scratch, &mut answer);
        } else {
            self.habits.observe(&kind, || self.answer(request, scratch, &mut answer));
        }
        let left = taken.left;
        drop(taken);
        let goes_on = !left && readers.stay(place);
        if !place.is_only() {
            follower.end();
        }
        Ok(goes_on)
    }

    fn answer(&self, request: &[u8], scratch: &mut Vec<u8>, sink: &mut impl Sink) {
        if let Some(pending) = self.dispatcher.handle(request, scratch, sink) {
            self.postpone(pending);
        }
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
