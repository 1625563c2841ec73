//! Open-file-description locks (`fcntl(2)`, `F_OFD_*`): they belong to the open file, not to the process, so that
//! another thread's `close` of the same file does not drop them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Takes a write lock on the whole file without waiting. `false`: somebody else holds it. The lock ends with the
/// last descriptor of this open file.
pub fn try_lock_exclusive(file: &File) -> io::Result<bool> {
    let mut lock = whole_file(libc::F_WRLCK);
    // SAFETY: fcntl reads and writes the flock structure, which outlives the call.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) };
    match done {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            e if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            e => Err(e),
        },
    }
}

/// Whether a write lock could be taken now; nothing is locked. The file may be open read-only.
pub fn is_locked(file: &File) -> io::Result<bool> {
    let mut lock = whole_file(libc::F_WRLCK);
    // SAFETY: as above.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if done == 0 { Ok(lock.l_type != libc::F_UNLCK as libc::c_short) } else { Err(io::Error::last_os_error()) }
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        // The kernel demands zero here for OFD locks.
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    #[test]
    fn a_second_open_file_is_refused_until_the_first_closes() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("lock");
        let open = || OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let first = open().expect("open");
        let second = open().expect("open");
        assert!(try_lock_exclusive(&first).expect("lock"));
        assert!(is_locked(&second).expect("query"));
        assert!(!try_lock_exclusive(&second).expect("lock"));
        drop(first);
        assert!(!is_locked(&second).expect("query"));
        assert!(try_lock_exclusive(&second).expect("lock"));
    }
}
