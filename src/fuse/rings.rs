//! Requests through io_uring (Linux 6.14): the kernel queues a request on the CPU that it comes from, and a thread that
//! waits on that CPU answers it and takes the next one by one system call, without waking another CPU.
//!
//! Each possible CPU has a queue; the kernel holds every request back until each queue has an entry. All entries of a queue
//! belong to its one thread, which serves what is short itself and gives everything else to a pool. What is short [`Habits`] knows from
//! the requests before: the first of a kind that turns out slow delays those behind it on its CPU. Threads with entries of their
//! own beside it would be no help: the kernel takes the entry that became free last, which soon is never the bound thread's.
//! Requests that have no answer (FORGET) still come through the device.

use std::fs;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SendError, Sender, channel};

use rustix::io::Errno;
use zerocopy::FromBytes;

use super::abi::{InHeader, OutHeader, opcode};
use super::connection::Device;
use super::deference::{self, Deference};
use super::dispatch::Dispatcher;
use super::habits::{Expected, Habits, Kind};
use super::mailbox::Mailbox;
use super::operations::MAX_WRITE;
use super::pool::{Pool, Scratch};
use super::reply::{READ_ROOM, Reply, Sink};
use super::request::Request;
use super::writeback::{Job, Pending};
use crate::format::size::UNIT;
use crate::store::Backing;
use crate::sync::{Arc, Mutex, lock, thread};
use crate::sys::fuse_ring::{self, Entry, PART, Ring};
use crate::sys::process::run_on;
use crate::sys::threads;

/// Where in an entry's memory the kernel puts what a request has behind its headers, and takes that of an answer.
const PAYLOAD: Range<usize> = UNIT..UNIT + MAX_WRITE as usize;
/// Requests of a queue that are under way at once; the kernel holds back what comes beyond them. Each may use as much memory as
/// the largest request has.
const ENTRIES: usize = 8;
/// Of them, those that are kept for other requests than those that wait for the kernel's own write-back: it comes through them.
const FOR_OTHERS: usize = 2;
/// Threads that serve what the queues' own threads do not: so many, or twice the CPUs where that is more.
const MOST_WORKERS: usize = 8;
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

/// The thread of each queue, with its ring, before the kernel is told that there are rings: it holds every request
/// back until each queue has an entry, so a queue that could have none would stop the mount for ever.
pub(super) struct Prepared<B: Backing>(Vec<First<B>>);

/// A thread that has made its ring, which is of use to no other thread, and waits for the word to serve. It ends if
/// there is none.
struct First<B: Backing> {
    go_on: Sender<Arc<Shared<B>>>,
    thread: thread::JoinHandle<()>,
}

impl<B: Backing> Prepared<B> {
    /// Starts a thread for each possible CPU, and waits until all have made their rings.
    ///
    /// # Errors
    /// Why one of them has none: too many threads or descriptors, no memory.
    pub(super) fn make(device: &Device) -> io::Result<Self> {
        let (made, all) = channel();
        // Asked here: the threads themselves are bound to a CPU, and may fail at nothing once the kernel counts on them.
        let (may_defer, cpus) = (deference::is_possible(), std::thread::available_parallelism().map_or(1, usize::from));
        let firsts = (0..possible_cpus()?)
            .map(|number| {
                let queue = Arc::new(Queue { number, mailbox: Mailbox::new()? });
                let (go_on, word) = channel::<Arc<Shared<B>>>();
                let (made, device) = (made.clone(), device.clone());
                let name = format!("kmsfs-ring-{number}");
                let thread = threads::spawn(&name, move || {
                    // Where the requests of its queue come from, so that no other CPU is woken for one.
                    if let Err(error) = run_on(usize::from(number)) {
                        // A CPU that is not there, or not for this process: the thread runs where it began.
                        tracing::debug!(number, "the CPU of a ring's thread cannot be set: {error}");
                    }
                    let places = match Places::make(&device, &queue) {
                        Ok(places) => places,
                        Err(error) => return drop(made.send(Err(error))),
                    };
                    let _ = made.send(Ok(()));
                    drop(made);
                    if let Ok(shared) = word.recv() {
                        let deference = Deference::new(may_defer, cpus);
                        Server { shared, queue, places, scratch: Scratch::default(), deference }.serve();
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

    /// Lets the threads serve. Where that fails, the kernel sends everything through the device. What must wait for the
    /// kernel's write-back goes to `postponed`.
    pub(super) fn start(self, dispatcher: Arc<Dispatcher<B>>, postponed: Arc<Mutex<Sender<Job>>>) -> Rings<B> {
        let habits = Arc::new(Habits::default());
        let (serving, learning) = (Arc::clone(&dispatcher), Arc::clone(&habits));
        let pool = Pool::new(MOST_WORKERS.max(2 * self.0.len()), move |task: Task, scratch: &mut Scratch| {
            for mut entry in task.entries {
                let outcome = serve_entry(&serving, &learning, &mut entry, scratch);
                task.queue.mailbox.post(Served { entry, outcome });
            }
        });
        let shared = Arc::new(Shared { dispatcher, habits, postponed, pool });
        let start = |First { go_on, thread }: First<B>| {
            // The thread waits for it.
            let _ = go_on.send(Arc::clone(&shared));
            thread
        };
        let threads = self.0.into_iter().map(start).collect();
        Rings { shared, threads }
    }
}

/// The threads of a mount's queues.
pub(super) struct Rings<B: Backing> {
    shared: Arc<Shared<B>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl<B: Backing> Rings<B> {
    /// Waits for the end of all threads; the connection has ended.
    pub(super) fn join(self) {
        for thread in self.threads {
            // A panic there was reported by its own thread.
            let _ = thread.join();
        }
        if let Some(shared) = Arc::into_inner(self.shared) {
            shared.pool.join();
        }
    }
}

struct Shared<B: Backing> {
    dispatcher: Arc<Dispatcher<B>>,
    habits: Arc<Habits>,
    postponed: Arc<Mutex<Sender<Job>>>,
    pool: Pool<Task>,
}

struct Queue {
    number: u16,
    /// Entries that others have served.
    mailbox: Mailbox<Served>,
}

/// Requests for somebody else than the queue's own thread, one after the other.
struct Task {
    queue: Arc<Queue>,
    entries: Vec<Entry>,
}

/// A request that was served.
struct Served {
    entry: Entry,
    outcome: Outcome,
}

enum Outcome {
    /// The answer stands in the entry, with so many bytes behind its header.
    Answered(usize),
    /// It waits for the kernel's write-back.
    Waits(Pending),
    /// It has waited for that, and is answered as above.
    Waited(usize),
}

/// The ring of a queue and where its entries are.
struct Places {
    ring: Ring,
    /// Entries in all.
    entries: usize,
    /// Entries that others have.
    away: usize,
    /// Of them, those that wait for write-back.
    waiting: usize,
}

impl Places {
    fn make(device: &Device, queue: &Queue) -> io::Result<Self> {
        let ring = Ring::new(device.descriptor(), queue.number, queue.mailbox.alarm())?;
        let mut places = Self { ring, entries: 0, away: 0, waiting: 0 };
        for _ in 0..ENTRIES {
            places.add()?;
        }
        Ok(places)
    }

    /// Makes a further entry, for the kernel to take when the ring is used next.
    fn add(&mut self) -> io::Result<()> {
        let entry = self.ring.entry(READ_ROOM, PAYLOAD)?;
        self.ring.hand_over(entry, 0)?;
        self.entries += 1;
        Ok(())
    }
}

/// What the thread of a queue has.
struct Server<B: Backing> {
    shared: Arc<Shared<B>>,
    queue: Arc<Queue>,
    places: Places,
    scratch: Scratch,
    deference: Deference,
}

impl<B: Backing> Server<B> {
    /// Serves requests until the connection ends.
    fn serve(mut self) {
        let (mut served, mut ready) = (Vec::new(), Vec::new());
        while self.places.ring.with_kernel() + self.places.away > 0 {
            self.queue.mailbox.collect(&mut served);
            if served.is_empty() {
                let waited = self.places.ring.wait(&mut ready);
                self.queue.mailbox.woken();
                if let Err(error) = waited {
                    return tracing::error!(queue = self.queue.number, "requests through a ring end: {error}");
                }
            }
            for Served { entry, outcome } in served.drain(..) {
                self.places.away -= 1;
                self.answer(entry, outcome);
            }
            self.take(&mut ready);
            if self.places.away == 0 {
                self.deference.turn();
            }
        }
    }

    /// Serves requests, or has them served: what is not short; of much data, all that is not alone; of several pieces of little data,
    /// every other one, together.
    fn take(&mut self, ready: &mut Vec<io::Result<Entry>>) {
        let (mut own, mut half, mut pieces) = (Vec::new(), Vec::new(), 0);
        let alone = ready.len() == 1 && self.places.away == 0;
        for entry in ready.drain(..) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.places.entries -= 1;
                    tracing::error!(queue = self.queue.number, "the kernel does not take an entry of a ring: {error}");
                    continue;
                }
            };
            let kind = kind(&entry);
            pieces += usize::from(kind.is_data());
            match self.shared.habits.expect(&kind) == Expected::Short && (alone || !kind.is_much()) {
                false => own.extend(self.give(vec![entry])),
                true if kind.is_data() && pieces % 2 == 0 => half.push(entry),
                true => own.push(entry),
            }
        }
        if !half.is_empty() {
            own.extend(self.give(half));
        }
        let mut left = own.len();
        for mut entry in own {
            let outcome = serve_entry(&self.shared.dispatcher, &self.shared.habits, &mut entry, &mut self.scratch);
            self.answer(entry, outcome);
            left -= 1;
            // An answer does not wait for the next one.
            if left > 0
                && let Err(error) = self.places.ring.submit()
            {
                tracing::debug!(queue = self.queue.number, "an answer has to wait: {error}");
            }
        }
    }

    /// Gives requests to a thread of the pool, or back.
    fn give(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        self.deference.end();
        let count = entries.len();
        match self.shared.pool.give(Task { queue: Arc::clone(&self.queue), entries }) {
            Ok(()) => {
                self.places.away += count;
                Vec::new()
            }
            Err(Task { entries, .. }) => entries,
        }
    }

    /// Has a served request answered.
    fn answer(&mut self, entry: Entry, outcome: Outcome) {
        let len = match outcome {
            Outcome::Answered(len) => len,
            Outcome::Waited(len) => {
                self.places.waiting -= 1;
                len
            }
            Outcome::Waits(pending) => return self.postpone(entry, pending),
        };
        if let Err(error) = self.places.ring.hand_over(entry, len) {
            self.places.entries -= 1;
            tracing::error!(queue = self.queue.number, "an answer did not reach the kernel: {error}");
        }
    }

    /// Has a request wait for write-back, whose requests may come to this queue: entries are there for them, or the request
    /// fails.
    fn postpone(&mut self, mut entry: Entry, pending: Pending) {
        let lacks_some = self.places.entries - self.places.waiting <= FOR_OTHERS;
        if lacks_some && let Err(error) = self.places.add() {
            tracing::error!(queue = self.queue.number, "no further entry: {error}");
            let mut sink = InPlace::of(&mut entry);
            if pending.has_failed() {
                self.shared.dispatcher.finish(pending, &mut sink);
            } else {
                Reply::new(pending.unique, &mut sink).error(Errno::NOMEM);
            }
            let len = sink.len;
            return self.answer(entry, Outcome::Answered(len));
        }
        self.deference.end();
        self.places.away += 1;
        self.places.waiting += 1;
        let (queue, dispatcher) = (Arc::clone(&self.queue), Arc::clone(&self.shared.dispatcher));
        let ino = pending.ino;
        let serve = move || {
            let mut sink = InPlace::of(&mut entry);
            dispatcher.finish(pending, &mut sink);
            let outcome = Outcome::Waited(sink.len);
            queue.mailbox.post(Served { entry, outcome });
        };
        let sent = lock(&self.shared.postponed).send(Job { ino, serve: Box::new(serve) });
        if let Err(SendError(job)) = sent {
            // At the end of the connection: whoever waits is to get an answer.
            (job.serve)();
        }
    }
}

fn kind(entry: &Entry) -> Kind {
    let (header, structure, _) = entry.request();
    Kind::of(header, structure)
}

/// Serves the request in an entry, and puts the answer there.
fn serve_entry<B: Backing>(
    dispatcher: &Dispatcher<B>,
    habits: &Habits,
    entry: &mut Entry,
    scratch: &mut Scratch,
) -> Outcome {
    let kind = kind(entry);
    let unique = InHeader::read_from_prefix(entry.request().0).map_or(0, |(header, _)| header.unique);
    let served = || answer(dispatcher, entry, kind.opcode == opcode::WRITE, scratch);
    // An entry that got lost would be missed for ever.
    habits.observe(&kind, || catch_unwind(AssertUnwindSafe(served))).unwrap_or_else(|_| {
        tracing::error!("a request failed by a bug in kmsfs and was answered with EIO; please report it");
        let mut sink = InPlace::of(entry);
        Reply::new(unique, &mut sink).error(Errno::IO);
        Outcome::Answered(sink.len)
    })
}

fn answer<B: Backing>(
    dispatcher: &Dispatcher<B>,
    entry: &mut Entry,
    is_write: bool,
    Scratch { names, copied }: &mut Scratch,
) -> Outcome {
    let (header, structure, payload) = entry.request();
    copied.clear();
    if is_write {
        // The data stays where it is; the answer, which is short, waits elsewhere until it is not needed.
        let request = Request::parse_parts(header, structure, payload);
        let mut sink = Aside { header: [0; PART], payload: copied };
        dispatcher.handle_parsed(request, names, &mut sink);
        let Aside { header, .. } = sink;
        let (front, memory) = entry.answer();
        *front = header;
        return Outcome::Answered(put(&mut memory[PAYLOAD], copied));
    }
    // The other way round: names and attributes are short, and an answer may be long.
    let (header, structure) = (*header, *structure);
    copied.extend_from_slice(payload);
    let request = Request::parse_parts(&header, &structure, copied);
    let mut sink = InPlace::of(entry);
    match dispatcher.handle_parsed(request, names, &mut sink) {
        Some(pending) => Outcome::Waits(pending),
        None => Outcome::Answered(sink.len),
    }
}

/// Puts an answer into the entry itself.
struct InPlace<'a> {
    header: &'a mut [u8; PART],
    memory: &'a mut [u8],
    len: usize,
}

impl<'a> InPlace<'a> {
    fn of(entry: &'a mut Entry) -> Self {
        let (header, memory) = entry.answer();
        Self { header, memory, len: 0 }
    }
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
