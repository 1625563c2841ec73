//! One entry of a queue of FUSE over io_uring (linux/fuse.h since 7.42, Documentation/filesystems/fuse/fuse-io-uring.rst):
//! memory into which the kernel puts a request and from which it takes the answer, and the ring whose commands hand the
//! memory over. What the bytes mean, callers know.

use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use io_uring::{IoUring, cqueue, opcode::UringCmd80, squeue, types::Fd};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::page::{PAGE, Page};

/// `FUSE_IO_URING_CMD_REGISTER`: here is memory for a first request.
const REGISTER: u32 = 1;
/// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`: there is an answer; the memory is free for a next request.
const COMMIT_AND_FETCH: u32 = 2;
/// Bytes of the kernel's and of the operation's own header.
pub const PART: usize = 128;

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

/// The memory of an entry. The kernel uses it from the submission of a command to its completion.
struct Memory {
    header: Box<Header>,
    pages: Vec<Page>,
    /// What of the pages is the kernel's.
    payload: Range<usize>,
    /// Of header and payload, for `REGISTER`.
    vectors: [libc::iovec; 2],
}

/// An entry. It belongs to the thread that made it: the kernel takes commands of no other.
pub struct RingEntry {
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    memory: ManuallyDrop<Memory>,
    device: Arc<OwnedFd>,
    queue: u16,
    state: State,
    of_this_thread: PhantomData<*const ()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was submitted yet.
    New,
    /// The kernel has the memory.
    Waiting,
    /// A request is there.
    Requested,
}

fn ring() -> io::Result<IoUring<squeue::Entry128, cqueue::Entry>> {
    // With these the kernel does an entry's work in the thread that waits for it, without an interrupt.
    IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(1)
}

/// Whether this process may have rings of the kind that entries need (kernel, `io_uring_disabled`, seccomp).
///
/// # Errors
/// What the kernel says.
pub fn probe() -> io::Result<()> {
    ring().map(drop)
}

impl RingEntry {
    /// An entry for the connection `device`, to be registered at a queue by the first [`Self::next`]. `payload` is the
    /// place for what a request or an answer has behind its headers, in memory of `size` bytes.
    ///
    /// # Errors
    /// The system's: too many rings, no memory.
    pub fn new(device: Arc<OwnedFd>, queue: u16, size: usize, payload: Range<usize>) -> io::Result<Self> {
        let mut header = Header::new_box_zeroed().map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut pages = Page::zeroed(size)?;
        let vector = |bytes: &mut [u8]| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let place = pages.as_mut_slice().as_mut_bytes().get_mut(payload.clone()).ok_or(io::ErrorKind::InvalidInput)?;
        let vectors = [vector(header.as_mut_bytes()), vector(place)];
        let memory = ManuallyDrop::new(Memory { header, pages, payload, vectors });
        Ok(Self { ring: ring()?, memory, device, queue, state: State::New, of_this_thread: PhantomData })
    }

    /// Hands the answer to the last request over, its header in [`Self::answer`]'s first part and `payload` bytes at
    /// their place in the second, and waits for the next request; false at the end of the connection.
    ///
    /// # Errors
    /// What the kernel says. The entry is of no use then.
    pub fn next(&mut self, payload: usize) -> io::Result<bool> {
        self.memory.header.payload_len = u32::try_from(payload).map_err(|_| io::ErrorKind::InvalidInput)?;
        let entry = match self.state {
            State::New => self.register(),
            State::Requested => self.commit(),
            State::Waiting => return Err(io::ErrorKind::InvalidInput.into()),
        };
        // SAFETY: what the command points to lives until its completion was seen: `drop` keeps it otherwise.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        self.state = State::Waiting;
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            let Some(completed) = self.ring.completion().next() else { continue };
            self.state = State::Requested;
            return match -completed.result() {
                0 => Ok(true),
                libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED | libc::ENODEV => Ok(false),
                error => Err(io::Error::from_raw_os_error(error)),
            };
        }
    }

    /// The request's header, its first argument, and what follows that.
    pub fn request(&self) -> (&[u8; PART], &[u8; PART], &[u8]) {
        let header = &*self.memory.header;
        let payload = &self.memory.pages.as_slice().as_bytes()[self.memory.payload.clone()];
        let len = (header.payload_len as usize).min(payload.len());
        (&header.in_out, &header.operation, &payload[..len])
    }

    /// Where the answer's header belongs, and the memory with the place for the rest of it. The request is not needed any
    /// more.
    pub fn answer(&mut self) -> (&mut [u8; PART], &mut [u8]) {
        let memory = &mut *self.memory;
        (&mut memory.header.in_out, memory.pages.as_mut_slice().as_mut_bytes())
    }

    fn register(&self) -> squeue::Entry128 {
        let command = Command { flags: 0, commit_id: 0, queue: self.queue, padding: [0; 6] };
        let mut entry = self.command(REGISTER, &command, Some(self.memory.vectors.as_ptr() as u64));
        /// Where `struct io_uring_sqe` has `len`, here the number of vectors, for which the library has no setter.
        const LEN_AT: usize = 24;
        // SAFETY: an entry is 128 plain bytes of which these four are an integer, and aligned.
        unsafe { (&raw mut entry).cast::<u8>().add(LEN_AT).cast::<u32>().write(self.memory.vectors.len() as u32) };
        entry
    }

    fn commit(&self) -> squeue::Entry128 {
        let commit_id = self.memory.header.commit_id;
        let command = Command { flags: 0, commit_id, queue: self.queue, padding: [0; 6] };
        self.command(COMMIT_AND_FETCH, &command, None)
    }

    fn command(&self, number: u32, command: &Command, address: Option<u64>) -> squeue::Entry128 {
        let mut bytes = [0; 80];
        bytes[..size_of::<Command>()].copy_from_slice(command.as_bytes());
        let device: RawFd = self.device.as_raw_fd();
        UringCmd80::new(Fd(device), number).cmd(bytes).addr(address).build()
    }
}

impl Drop for RingEntry {
    fn drop(&mut self) {
        if self.state == State::Waiting {
            // A command is under way that nobody waits for: the kernel may still write there.
            return;
        }
        // SAFETY: no command is under way, and nothing uses the memory after this.
        unsafe { ManuallyDrop::drop(&mut self.memory) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_kernel() {
        assert_eq!((size_of::<Command>(), size_of::<Header>(), size_of::<squeue::Entry128>()), (24, PAGE, 128));
        assert_eq!(std::mem::offset_of!(Header, payload_len), 2 * PART + 16);
    }

    #[test]
    fn what_is_no_connection_is_refused() {
        if probe().is_err() {
            return; // No rings here.
        }
        let file = tempfile::tempfile().expect("a file");
        let mut entry = RingEntry::new(Arc::new(file.into()), 0, 1 << 20, 0..1 << 20).expect("a ring");
        assert!(entry.next(0).is_err());
    }
}
