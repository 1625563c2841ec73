//! A queue of FUSE over io_uring (linux/fuse.h since 7.42, Documentation/filesystems/fuse/fuse-io-uring.rst): entries, which are
//! memory into which the kernel puts a request and from which it takes the answer, and the ring whose commands hand
//! the memory over. What the bytes mean, callers know.

use std::io;
use std::marker::PhantomData;
use std::mem;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use io_uring::opcode::{PollAdd, UringCmd80};
use io_uring::{IoUring, cqueue, squeue, types::Fd};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::page::{PAGE, Pages};

/// `FUSE_IO_URING_CMD_REGISTER`: here is memory for a first request.
const REGISTER: u32 = 1;
/// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`: there is an answer; the memory is free for a next request.
const COMMIT_AND_FETCH: u32 = 2;
/// Bytes of the kernel's and of the operation's own header.
pub const PART: usize = 128;
/// Commands that a ring takes by one system call; more take more.
const COMMANDS: u32 = 16;
/// What the completion of the alarm's poll is known by; an entry's by its number.
const ALARM: u64 = u64::MAX;
/// How long a thread waits when the kernel lacks memory.
const SHORTAGE: Duration = Duration::from_millis(1);

/// `struct fuse_uring_req_header`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Header {
    /// A request's `fuse_in_header`; an answer's `fuse_out_header`.
    in_out: [u8; PART],
    /// The request's first argument, if that is a structure.
    operation: [u8; PART],
    flags: u64,
    /// What the kernel knows the request by when its answer is committed.
    commit_id: u64,
    payload_len: u32,
    padding: u32,
    reserved: u64,
    rest: [u8; PAGE - 2 * PART - 32],
}

/// `struct fuse_uring_cmd_req`, at the front of a command's 80 bytes.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Command {
    flags: u64,
    commit_id: u64,
    queue: u16,
    padding: [u8; 6],
}

/// `struct iovec`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Vector {
    address: u64,
    len: u64,
}

/// Memory of a request and its answer. Whoever has it may read and write it; the kernel has those that the ring keeps.
pub struct Entry {
    number: usize,
    header: Box<Header>,
    pages: Pages,
    /// What of the pages is the kernel's.
    payload: Range<usize>,
    /// Of header and payload, for `REGISTER`; until then the kernel knows nothing of the entry.
    vectors: Option<Box<[Vector; 2]>>,
}

impl Entry {
    /// The request's header, its first argument, and what follows that.
    pub fn request(&self) -> (&[u8; PART], &[u8; PART], &[u8]) {
        let payload = &self.pages.as_bytes()[self.payload.clone()];
        let len = (self.header.payload_len as usize).min(payload.len());
        (&self.header.in_out, &self.header.operation, &payload[..len])
    }

    /// Where the answer's header belongs, and the memory with the place for the rest of it. The request is not needed any
    /// more.
    pub fn answer(&mut self) -> (&mut [u8; PART], &mut [u8]) {
        (&mut self.header.in_out, self.pages.as_mut_bytes())
    }
}

/// The ring of a queue. It belongs to the thread that made it: the kernel takes commands of no other. Its entries may be
/// anybody's between a request and the answer.
pub struct Ring {
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    /// By number, the entries that the kernel has.
    with_kernel: Vec<Option<Entry>>,
    device: Arc<OwnedFd>,
    queue: u16,
    /// Readable when the thread that waits is to wake up.
    alarm: Arc<OwnedFd>,
    alarm_is_set: bool,
    of_this_thread: PhantomData<*const ()>,
}

fn ring() -> io::Result<IoUring<squeue::Entry128, cqueue::Entry>> {
    // With these the kernel does an entry's work in the thread that waits for it, without an interrupt.
    IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(COMMANDS)
}

/// Whether this process may have rings of the kind that queues need (kernel, `io_uring_disabled`, seccomp).
///
/// # Errors
/// What the kernel says.
pub fn probe() -> io::Result<()> {
    ring().map(drop)
}

impl Ring {
    /// A ring for a queue of the connection `device`. A wait ends when `alarm` is readable, too.
    ///
    /// # Errors
    /// The system's: too many rings, no memory.
    pub fn new(device: Arc<OwnedFd>, queue: u16, alarm: Arc<OwnedFd>) -> io::Result<Self> {
        let (ring, with_kernel, of_this_thread) = (ring()?, Vec::new(), PhantomData);
        Ok(Self { ring, with_kernel, device, queue, alarm, alarm_is_set: false, of_this_thread })
    }

    /// A further entry, of which the kernel learns when it is handed over for the first time. `payload` is the place for what a
    /// request or an answer has behind its headers, in memory of `size` bytes.
    ///
    /// # Errors
    /// No memory.
    pub fn entry(&mut self, size: usize, payload: Range<usize>) -> io::Result<Entry> {
        let mut header = Header::new_box_zeroed().map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut pages = Pages::new(size)?;
        let vector = |bytes: &mut [u8]| Vector { address: bytes.as_mut_ptr() as u64, len: bytes.len() as u64 };
        let place = pages.as_mut_bytes().get_mut(payload.clone()).ok_or(io::ErrorKind::InvalidInput)?;
        let vectors = Some(Box::new([vector(header.as_mut_bytes()), vector(place)]));
        self.with_kernel.push(None);
        Ok(Entry { number: self.with_kernel.len() - 1, header, pages, payload, vectors })
    }

    /// How many entries the kernel has.
    pub fn with_kernel(&self) -> usize {
        self.with_kernel.iter().flatten().count()
    }

    /// Hands an entry to the kernel for its next request, with the answer to the last one, if there was one: its header in
    /// [`Entry::answer`]'s first part and `payload` bytes at their place in the second. The kernel takes it at the next
    /// [`Self::submit`] or [`Self::wait`].
    ///
    /// # Errors
    /// The answer is too long, or the kernel takes no commands. The entry is lost.
    pub fn hand_over(&mut self, mut entry: Entry, payload: usize) -> io::Result<()> {
        entry.header.payload_len = u32::try_from(payload).map_err(|_| io::ErrorKind::InvalidInput)?;
        let vectors = entry.vectors.take();
        let command = match &vectors {
            Some(vectors) => self.register(vectors),
            None => self.command(COMMIT_AND_FETCH, entry.header.commit_id, None),
        };
        let command = command.user_data(entry.number as u64);
        // Until the kernel has read them.
        entry.vectors = vectors;
        // It holds nothing that moves.
        self.push(command)?;
        let place = entry.number;
        self.with_kernel[place] = Some(entry);
        Ok(())
    }

    /// Makes the kernel take what was handed over.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn submit(&mut self) -> io::Result<()> {
        match self.ring.submit() {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes the kernel take what was handed over, and waits for a request, the alarm, or the end of the connection. Puts
    /// entries with requests into `ready`; in place of an entry that the kernel does not take, why. What it does not give
    /// back at the end of the connection is dropped.
    ///
    /// # Errors
    /// What the kernel says. The ring is of no use then.
    pub fn wait(&mut self, ready: &mut Vec<io::Result<Entry>>) -> io::Result<()> {
        if !self.alarm_is_set {
            let poll = PollAdd::new(Fd(self.alarm.as_raw_fd()), libc::POLLIN as u32).build().user_data(ALARM);
            self.push(poll.into())?;
            self.alarm_is_set = true;
        }
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => break,
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    // Too little memory at the moment, or completions to be taken first.
                    io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy => {
                        if !self.ring.completion().is_empty() {
                            break;
                        }
                        thread::sleep(SHORTAGE);
                    }
                    _ => return Err(error),
                },
            }
        }
        while let Some(completed) = self.ring.completion().next() {
            if completed.user_data() == ALARM {
                self.alarm_is_set = false;
                continue;
            }
            let place = self.with_kernel.get_mut(completed.user_data() as usize);
            let Some(mut entry) = place.and_then(Option::take) else { continue };
            entry.vectors = None;
            match -completed.result() {
                0 => ready.push(Ok(entry)),
                libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED | libc::ENODEV => {}
                error => ready.push(Err(io::Error::from_raw_os_error(error))),
            }
        }
        Ok(())
    }

    fn push(&mut self, command: squeue::Entry128) -> io::Result<()> {
        while self.ring.submission().is_full() {
            self.submit()?;
        }
        // SAFETY: what the command points to lives until its completion was seen: nothing is submitted before the entry is in
        // `with_kernel`, whose entries `drop` keeps.
        unsafe { self.ring.submission().push(&command) }.map_err(io::Error::other)
    }

    fn register(&self, vectors: &[Vector; 2]) -> squeue::Entry128 {
        let mut command = self.command(REGISTER, 0, Some(vectors.as_ptr() as u64));
        /// Where `struct io_uring_sqe` has `len`, here the number of vectors, for which the library has no setter.
        const LEN_AT: usize = 24;
        // SAFETY: a command is 128 plain bytes of which these four are an integer, and aligned.
        unsafe { (&raw mut command).cast::<u8>().add(LEN_AT).cast::<u32>().write(vectors.len() as u32) };
        command
    }

    fn command(&self, number: u32, commit_id: u64, address: Option<u64>) -> squeue::Entry128 {
        let command = Command { flags: 0, commit_id, queue: self.queue, padding: [0; 6] };
        let mut bytes = [0; 80];
        bytes[..size_of::<Command>()].copy_from_slice(command.as_bytes());
        let device: RawFd = self.device.as_raw_fd();
        UringCmd80::new(Fd(device), number).cmd(bytes).addr(address).build()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Commands are under way that nobody waits for: the kernel may still write there.
        self.with_kernel.drain(..).for_each(mem::forget);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn ring_of_a_file() -> Option<(Ring, Arc<OwnedFd>)> {
        probe().ok()?; // Else there are no rings here.
        let alarm = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor"));
        let file = tempfile::tempfile().expect("a file");
        Some((Ring::new(Arc::new(file.into()), 0, Arc::clone(&alarm)).expect("a ring"), alarm))
    }

    #[test]
    fn structures_have_the_sizes_of_the_kernel() {
        assert_eq!((size_of::<Command>(), size_of::<Header>(), size_of::<squeue::Entry128>()), (24, PAGE, 128));
        assert_eq!((size_of::<Vector>(), std::mem::offset_of!(Header, payload_len)), (16, 2 * PART + 16));
    }

    #[test]
    fn what_is_no_connection_is_refused() {
        let Some((mut ring, _)) = ring_of_a_file() else { return };
        let entry = ring.entry(1 << 20, 0..1 << 20).expect("memory");
        ring.hand_over(entry, 0).expect("a command");
        let mut ready = Vec::new();
        ring.wait(&mut ready).expect("a completion");
        assert!(matches!(&ready[..], [Err(_)]));
        assert_eq!(ring.with_kernel(), 0);
    }

    #[test]
    fn the_alarm_ends_a_wait_each_time() {
        let Some((mut ring, alarm)) = ring_of_a_file() else { return };
        let mut rung = std::fs::File::from(alarm.try_clone().expect("a descriptor"));
        let mut ready = Vec::new();
        for _ in 0..3 {
            rung.write_all(&1_u64.to_ne_bytes()).expect("rung");
            ring.wait(&mut ready).expect("a completion");
            rustix::io::read(&*alarm, &mut [0; 8]).expect("the count");
        }
        assert!(ready.is_empty());
    }
}
