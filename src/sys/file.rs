//! System calls on files that rustix does not offer.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Waits for writeback of the range's pages that is under way (`sync_file_range` with `SYNC_FILE_RANGE_WAIT_BEFORE`);
/// starts none. On filesystems without it nothing is done.
pub fn wait_for_writeback(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<(), Errno> {
    sync_file_range(fd, offset, len, libc::SYNC_FILE_RANGE_WAIT_BEFORE)
}

/// Starts writeback of the range's dirty pages (`SYNC_FILE_RANGE_WRITE`) and does not wait for it. Nothing is durable by that.
pub fn start_writeback(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<(), Errno> {
    sync_file_range(fd, offset, len, libc::SYNC_FILE_RANGE_WRITE)
}

fn sync_file_range(fd: BorrowedFd<'_>, offset: u64, len: u64, flags: libc::c_uint) -> Result<(), Errno> {
    let (offset, len) = (offset as libc::off64_t, len as libc::off64_t);
    // SAFETY: a plain system call on a borrowed descriptor, without pointers.
    let result = unsafe { libc::sync_file_range(fd.as_raw_fd(), offset, len, flags) };
    if result == 0 {
        return Ok(());
    }
    match Errno::from_io_error(&std::io::Error::last_os_error()) {
        Some(Errno::NOSYS | Errno::SPIPE | Errno::INVAL) => Ok(()),
        Some(errno) => Err(errno),
        None => Err(Errno::IO),
    }
}
