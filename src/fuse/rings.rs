//! Requests through io_uring (Linux 6.14): the kernel queues a request on the CPU that it comes from, and a thread that
//! waits on that CPU answers it and takes the next one by one system call, mostly without waking another CPU.
//!
//! Each possible CPU has a queue; the kernel holds every request back until each queue has an entry. A thread has one entry
//! and serves one request at a time, so a queue has as many threads as requests are under way at once: another one is
//! started whenever the last idle one begins to work. Requests that have no answer (FORGET) still come through the device.

use std::fs;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use zerocopy::FromBytes;

use super::abi::{InHeader, OutHeader, opcode};
use super::connection::Device;
use super::dispatch::Dispatcher;
use super::operations::MAX_WRITE;
use super::reply::{READ_ROOM, Reply, Sink};
use super::request::Request;
use super::writeback::{Pending, write_back};
use crate::format::size::UNIT;
use crate::store::Backing;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, lock, thread};
use crate::sys::fuse_ring::{self, PART, RingEntry};

/// Where in an entry's memory the kernel puts what a request has behind its headers, and takes that of an answer.
const PAYLOAD: Range<usize> = UNIT..UNIT + MAX_WRITE as usize;
/// Threads of a queue, unless they wait for the kernel's own write-back. Each may use as much memory as the largest
/// request has.
const MAX_THREADS: usize = 8;
/// Each possible CPU needs a queue with a thread, of which a mount that was not asked for rings takes no more than this.
const MOST_QUEUES_UNASKED: u16 = 64;
const POSSIBLE_CPUS: &str = "/sys/devices/system/cpu/possible";
/// Whether the kernel offers rings.
const ENABLED: &str = "/sys/module/fuse/parameters/enable_uring";

/// Whether a mount made now could use rings: the kernel offers them, or this process may make it do so.
///
/// # Errors
/// Why not.
pub fn available() -> io::Result<()> {
    if !offered()? {
        fs::OpenOptions::new().write(true).open(ENABLED)?;
    }
    possible_cpus()?;
    fuse_ring::probe()
}

fn offered() -> io::Result<bool> {
    Ok(fs::read_to_string(ENABLED)?.trim() == "Y")
}

/// Whether a mount that was not asked for rings takes them: where the kernel offers them unasked and they cost little.
pub(super) fn are_expected() -> bool {
    offered().unwrap_or(false) && possible_cpus().is_ok_and(|count| count <= MOST_QUEUES_UNASKED)
}

/// The kernel offers rings to mounts that are made as long as this lives; a mount that agreed to them keeps them.
pub(super) struct Offer {
    /// The setting, if it was off before: open, since later there may be no descriptor left to turn it off again.
    setting: Option<fs::File>,
}

impl Offer {
    /// Lets the kernel offer rings, which only root may if it does not.
    ///
    /// # Errors
    /// Why a mount can have none.
    pub(super) fn make() -> io::Result<Self> {
        available()?;
        if offered()? {
            return Ok(Self { setting: None });
        }
        let setting = fs::OpenOptions::new().write(true).open(ENABLED)?;
        setting.write_all_at(b"Y", 0)?;
        Ok(Self { setting: Some(setting) })
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if let Some(setting) = &self.setting
            && let Err(error) = setting.write_all_at(b"N", 0)
        {
            tracing::warn!("{ENABLED} stays on: {error}");
        }
    }
}

/// The number of CPUs that there can be, present or not: of queues.
fn possible_cpus() -> io::Result<u16> {
    let text = fs::read_to_string(POSSIBLE_CPUS)?;
    last_cpu(text.trim()).and_then(|last| last.checked_add(1)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The last CPU of a list like `0-3,8-11`.
fn last_cpu(list: &str) -> Option<u16> {
    list.rsplit([',', '-']).next()?.parse().ok()
}

/// The first thread of each queue, with its entry, before the kernel is told that there are rings: it holds every request
/// back until each queue has an entry, so a queue that could have none would stop the mount for ever.
pub(super) struct Prepared<B: Backing>(Vec<First<B>>);

/// A thread that has made its entry, which is of use to no other thread, and waits for the word to serve. It ends if
/// there is none.
struct First<B: Backing> {
    go_on: Sender<Arc<Shared<B>>>,
    thread: thread::JoinHandle<()>,
}

impl<B: Backing> Prepared<B> {
    /// Starts a thread for each possible CPU, and waits until all have made their entries.
    ///
    /// # Errors
    /// Why one of them has none: too many threads or descriptors, no memory.
    pub(super) fn make(device: &Device) -> io::Result<Self> {
        let (made, all) = channel();
        let firsts = (0..possible_cpus()?)
            .map(|number| {
                let (go_on, word) = channel::<Arc<Shared<B>>>();
                let (made, device) = (made.clone(), device.clone());
                let thread = spawn(number, move || {
                    run_on(number, &only(number));
                    let entry = match new_entry(&device, number) {
                        Ok(entry) => entry,
                        Err(error) => return drop(made.send(Err(error))),
                    };
                    let _ = made.send(Ok(()));
                    drop(made);
                    if let Ok(shared) = word.recv() {
                        let seat = Seat::take(&shared.queues[usize::from(number)]);
                        shared.serve(number, seat, entry);
                    }
                })?;
                Ok(First { go_on, thread })
            })
            .collect::<io::Result<Vec<_>>>()?;
        drop(made);
        // Until every thread has told: one that panics tells nothing.
        let told = all.into_iter().collect::<io::Result<Vec<()>>>()?;
        if told.len() == firsts.len() { Ok(Self(firsts)) } else { Err(io::Error::other("a thread ended at once")) }
    }

    /// Lets the threads serve. Where that fails, the kernel sends everything through the device.
    pub(super) fn start(self, dispatcher: Arc<Dispatcher<B>>, device: Device) -> Rings<B> {
        let queues = self.0.iter().map(|_| Arc::default()).collect();
        let everywhere = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        let shared = Arc::new(Shared { dispatcher, device, queues, everywhere, threads: Mutex::default() });
        for First { go_on, thread } in self.0 {
            // The thread waits for it.
            let _ = go_on.send(Arc::clone(&shared));
            lock(&shared.threads).push(thread);
        }
        Rings(shared)
    }
}

/// The threads of a mount's queues.
pub(super) struct Rings<B: Backing>(Arc<Shared<B>>);

struct Shared<B: Backing> {
    dispatcher: Arc<Dispatcher<B>>,
    device: Device,
    queues: Vec<Arc<Queue>>,
    /// Where this process may run.
    everywhere: CpuSet,
    /// All threads that were started.
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

/// The threads of a queue.
#[derive(Default)]
struct Queue {
    /// Those that make their entry.
    starting: AtomicUsize,
    /// Those that wait for a request, or are about to.
    idle: AtomicUsize,
    /// Those that serve one.
    busy: AtomicUsize,
}

/// A thread of a queue, counted as what it does at present until it ends.
struct Seat {
    queue: Arc<Queue>,
    at: fn(&Queue) -> &AtomicUsize,
}

impl Seat {
    fn take(queue: &Arc<Queue>) -> Self {
        queue.starting.fetch_add(1, Ordering::AcqRel);
        Self { queue: Arc::clone(queue), at: |queue| &queue.starting }
    }

    /// Counts the thread elsewhere.
    fn change(&mut self, to: fn(&Queue) -> &AtomicUsize) {
        to(&self.queue).fetch_add(1, Ordering::AcqRel);
        (self.at)(&self.queue).fetch_sub(1, Ordering::AcqRel);
        self.at = to;
    }

    fn wait(&mut self) {
        self.change(|queue| &queue.idle);
    }

    fn begin(&mut self) {
        self.change(|queue| &queue.busy);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        (self.at)(&self.queue).fetch_sub(1, Ordering::AcqRel);
    }
}

impl Queue {
    /// Whether another thread should be started: none waits for the next request, and there are not too many.
    fn lacks_one(&self) -> bool {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Acquire);
        count(&self.idle) + count(&self.starting) == 0 && count(&self.busy) < MAX_THREADS
    }
}

impl<B: Backing> Rings<B> {
    /// Waits for the end of all threads; the connection has ended.
    pub(super) fn join(self) {
        loop {
            let Some(thread) = lock(&self.0.threads).pop() else { return };
            // A panic there was reported by its own thread.
            let _ = thread.join();
        }
    }
}

impl<B: Backing> Shared<B> {
    /// Starts another thread for a queue. What it answers receives one word when the thread is about to wait, or is closed if
    /// it never will.
    fn add_thread(self: &Arc<Self>, number: u16) -> Receiver<()> {
        let seat = Seat::take(&self.queues[usize::from(number)]);
        let (ready, wait) = channel();
        let shared = Arc::clone(self);
        let started = spawn(number, move || {
            // A thread begins with the CPUs of the one that started it, which may be the queue's own alone.
            run_on(number, &shared.everywhere);
            match new_entry(&shared.device, number) {
                Ok(entry) => {
                    let mut seat = seat;
                    seat.wait();
                    let _ = ready.send(());
                    shared.serve(number, seat, entry);
                }
                Err(error) => tracing::error!(queue = number, "no further ring: {error}"),
            }
        });
        match started {
            Ok(thread) => lock(&self.threads).push(thread),
            Err(error) => tracing::error!(queue = number, "no thread for requests through a ring: {error}"),
        }
        wait
    }

    /// Serves requests until the connection ends.
    fn serve(self: &Arc<Self>, number: u16, mut seat: Seat, mut entry: RingEntry) {
        let (mut scratch, mut names) = (Vec::new(), Vec::new());
        let mut answer = 0;
        loop {
            seat.wait();
            match entry.next(answer) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return tracing::error!(queue = number, "requests through a ring end: {error}"),
            }
            seat.begin();
            if seat.queue.lacks_one() {
                self.add_thread(number);
            }
            answer = self.answer(number, &mut entry, &mut scratch, &mut names);
        }
    }

    /// Answers the request in an entry; the length of what follows the answer's header.
    fn answer(
        self: &Arc<Self>,
        queue: u16,
        entry: &mut RingEntry,
        scratch: &mut Vec<u8>,
        copied: &mut Vec<u8>,
    ) -> usize {
        let (header, structure, payload) = entry.request();
        let is_write = InHeader::read_from_prefix(header).is_ok_and(|(header, _)| header.opcode == opcode::WRITE);
        if is_write {
            // The data stays where it is; the answer, which is short, waits elsewhere until it is not needed.
            copied.clear();
            let request = Request::parse_parts(header, structure, payload);
            let mut sink = Aside { header: [0; PART], payload: copied };
            self.dispatcher.handle_parsed(request, scratch, &mut sink);
            let Aside { header, .. } = sink;
            let (front, memory) = entry.answer();
            *front = header;
            return put(&mut memory[PAYLOAD], copied);
        }
        // The other way round: names and attributes are short, and an answer may be long.
        let (header, structure) = (*header, *structure);
        copied.clear();
        copied.extend_from_slice(payload);
        let request = Request::parse_parts(&header, &structure, copied);
        let (front, memory) = entry.answer();
        let mut sink = InPlace { header: front, memory, len: 0 };
        if let Some(pending) = self.dispatcher.handle_parsed(request, scratch, &mut sink) {
            self.finish(queue, pending, &mut sink);
        }
        sink.len
    }

    /// Serves a request after write-back. The requests of that may come to this queue: another thread is there for them, or
    /// the request fails.
    fn finish(self: &Arc<Self>, queue: u16, pending: Pending, sink: &mut InPlace<'_>) {
        let one_waits = self.queues[usize::from(queue)].idle.load(Ordering::Acquire) > 0;
        if one_waits || self.add_thread(queue).recv().is_ok() {
            write_back(pending.ino, |ino| self.device.invalidate(ino, 0, 0));
        } else if !pending.has_failed() {
            return Reply::new(pending.unique, sink).error(Errno::NOMEM);
        }
        self.dispatcher.finish(pending, sink);
    }
}

fn spawn(queue: u16, work: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(format!("kmsfs-ring-{queue}")).spawn(work)
}

fn new_entry(device: &Device, queue: u16) -> io::Result<RingEntry> {
    RingEntry::new(device.descriptor(), queue, READ_ROOM, PAYLOAD)
}

/// Lets this thread run on these CPUs.
fn run_on(queue: u16, cpus: &CpuSet) {
    if let Err(error) = sched_setaffinity(None, cpus) {
        // A CPU that is not there, or not for this process: the thread runs where it began.
        tracing::debug!(queue, "the CPUs of a ring's thread cannot be set: {error}");
    }
}

/// One CPU: where the requests of its queue come from, so that no other CPU is woken for one.
fn only(cpu: u16) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(usize::from(cpu));
    set
}

/// Puts an answer into the entry itself.
struct InPlace<'a> {
    header: &'a mut [u8; PART],
    memory: &'a mut [u8],
    len: usize,
}

impl Sink for InPlace<'_> {
    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let [header, rest @ ..] = parts else { return Err(io::ErrorKind::InvalidInput.into()) };
        self.header[..size_of::<OutHeader>()].copy_from_slice(header);
        let payload = &mut self.memory[PAYLOAD];
        self.len = rest.iter().fold(0, |at, part| at + put(&mut payload[at..], part));
        Ok(())
    }

    fn room(&mut self) -> Option<&mut [u8]> {
        Some(self.memory)
    }

    fn send_room(&mut self, header: &[u8], len: usize) -> io::Result<()> {
        self.header[..size_of::<OutHeader>()].copy_from_slice(header);
        self.len = len;
        Ok(())
    }
}

/// Keeps an answer aside.
struct Aside<'a> {
    header: [u8; PART],
    payload: &'a mut Vec<u8>,
}

impl Sink for Aside<'_> {
    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let [header, rest @ ..] = parts else { return Err(io::ErrorKind::InvalidInput.into()) };
        self.header[..size_of::<OutHeader>()].copy_from_slice(header);
        rest.iter().for_each(|part| self.payload.extend_from_slice(part));
        Ok(())
    }
}

/// Copies `bytes` to the front of `to`, which has room for every answer; how many.
fn put(to: &mut [u8], bytes: &[u8]) -> usize {
    let len = bytes.len().min(to.len());
    to[..len].copy_from_slice(&bytes[..len]);
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_possible_cpu() {
        let last = ["0", "0-3", "0-3,8-11", "0,2", "", "0-"].map(last_cpu);
        assert_eq!(last, [Some(0), Some(3), Some(11), Some(2), None, None]);
    }

    #[test]
    fn a_thread_that_ends_counts_no_more() {
        let queue = Arc::<Queue>::default();
        let counts = || [&queue.starting, &queue.idle, &queue.busy].map(|counter| counter.load(Ordering::Acquire));
        assert!(queue.lacks_one());
        type GoOn = fn(&mut Seat);
        let ends: [(GoOn, [usize; 3]); 3] = [(|_| {}, [1, 0, 0]), (Seat::wait, [0, 1, 0]), (Seat::begin, [0, 0, 1])];
        for (goes_on, counted) in ends {
            let mut seat = Seat::take(&queue);
            goes_on(&mut seat);
            assert_eq!((counts(), queue.lacks_one()), (counted, counted[2] == 1));
            drop(seat);
            assert_eq!(counts(), [0, 0, 0]);
        }
    }
}
