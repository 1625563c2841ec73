//! Requests through io_uring (Linux 6.14): the kernel queues a request on the CPU that it comes from, and a thread that
//! waits on that CPU answers it and takes the next one by one system call, mostly without waking another CPU.
//!
//! Each possible CPU has a queue; the kernel holds every request back until each queue has an entry. A thread has one entry
//! and serves one request at a time, so a queue has as many threads as requests are under way at once: another one is
//! started whenever the last idle one begins to work. Requests that have no answer (FORGET) still come through the device.

use std::fs;
use std::io::{self, IoSlice};
use std::ops::Range;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use zerocopy::FromBytes;

use super::abi::{InHeader, OutHeader, opcode};
use super::connection::Device;
use super::dispatch::Dispatcher;
use super::operations::MAX_WRITE;
use super::reply::{READ_ROOM, Sink};
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
    /// It did not before.
    turned_on: bool,
}

impl Offer {
    /// Lets the kernel offer rings, which only root may if it does not.
    ///
    /// # Errors
    /// Why a mount can have none.
    pub(super) fn make() -> io::Result<Self> {
        available()?;
        let turned_on = !offered()?;
        if turned_on {
            fs::write(ENABLED, "Y")?;
        }
        Ok(Self { turned_on })
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if self.turned_on
            && let Err(error) = fs::write(ENABLED, "N")
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

/// The threads of a mount's queues.
pub(super) struct Rings<B: Backing>(Arc<Shared<B>>);

struct Shared<B: Backing> {
    dispatcher: Arc<Dispatcher<B>>,
    device: Device,
    queues: Vec<Queue>,
    /// Where this process may run.
    everywhere: CpuSet,
    /// All threads that were started.
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

#[derive(Default)]
struct Queue {
    /// Threads that wait for a request, or are about to.
    idle: AtomicUsize,
    /// Threads that there are.
    threads: AtomicUsize,
}

impl<B: Backing> Rings<B> {
    /// Starts a thread for each queue. Where that fails, the kernel sends everything through the device.
    pub(super) fn start(dispatcher: Arc<Dispatcher<B>>, device: Device) -> Self {
        let count = possible_cpus().unwrap_or_default();
        let queues = (0..count).map(|_| Queue::default()).collect();
        let everywhere = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        let shared = Arc::new(Shared { dispatcher, device, queues, everywhere, threads: Mutex::default() });
        for queue in 0..count {
            shared.add_thread(queue);
        }
        Self(shared)
    }

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
    fn add_thread(self: &Arc<Self>, number: u16) {
        let queue = &self.queues[usize::from(number)];
        let first = queue.threads.fetch_add(1, Ordering::AcqRel) == 0;
        queue.idle.fetch_add(1, Ordering::AcqRel);
        let shared = Arc::clone(self);
        let started = thread::Builder::new().name(format!("kmsfs-ring-{number}")).spawn(move || {
            // A thread begins with the CPUs of the one that started it, which may be the queue's own alone.
            let cpus = if first { only(number) } else { shared.everywhere };
            if let Err(error) = sched_setaffinity(None, &cpus) {
                // A CPU that is not there, or not for this process: the thread runs where it began.
                tracing::debug!(queue = number, "the CPUs of a ring's thread cannot be set: {error}");
            }
            if let Err(error) = shared.serve(number) {
                tracing::error!(queue = number, "requests through a ring end: {error}");
            }
            shared.queues[usize::from(number)].threads.fetch_sub(1, Ordering::AcqRel);
        });
        match started {
            Ok(thread) => lock(&self.threads).push(thread),
            Err(error) => {
                queue.idle.fetch_sub(1, Ordering::AcqRel);
                queue.threads.fetch_sub(1, Ordering::AcqRel);
                tracing::error!(queue = number, "no thread for requests through a ring: {error}");
            }
        }
    }

    fn serve(self: &Arc<Self>, number: u16) -> io::Result<()> {
        let queue = &self.queues[usize::from(number)];
        let mut entry = RingEntry::new(self.device.descriptor(), number, READ_ROOM, PAYLOAD)?;
        let (mut scratch, mut names) = (Vec::new(), Vec::new());
        let mut answer = 0;
        while entry.next(answer)? {
            let was_last = queue.idle.fetch_sub(1, Ordering::AcqRel) == 1;
            if was_last && queue.threads.load(Ordering::Acquire) < MAX_THREADS {
                self.add_thread(number);
            }
            answer = self.answer(number, &mut entry, &mut scratch, &mut names);
            queue.idle.fetch_add(1, Ordering::AcqRel);
        }
        queue.idle.fetch_sub(1, Ordering::AcqRel);
        Ok(())
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
            self.finish(queue, &pending, &mut sink);
        }
        sink.len
    }

    /// Serves a request after write-back. The requests of that may come to this queue: another thread is there for them.
    fn finish(self: &Arc<Self>, queue: u16, pending: &Pending, sink: &mut InPlace<'_>) {
        if self.queues[usize::from(queue)].idle.load(Ordering::Acquire) == 0 {
            self.add_thread(queue);
        }
        write_back(pending.ino, |ino| self.device.invalidate(ino));
        self.dispatcher.finish(pending, sink);
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
}
