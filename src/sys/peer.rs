//! Who is at the other end of a Unix socket (unix(7), `SO_PEERCRED`).

use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// The effective user id of the process that connected, or that listened, when it did so.
pub fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let size = size_of::<libc::ucred>() as libc::socklen_t;
    let mut len = size;
    // SAFETY: the kernel writes at most `len` bytes to `peer`, which is that large; both outlive the call.
    let done = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut len)
    };
    match done {
        0 if len == size => Ok(peer.uid),
        0 => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_pair_are_this_user() {
        let (one, other) = UnixStream::pair().expect("socket pair");
        let me = rustix::process::geteuid().as_raw();
        assert_eq!((peer_uid(&one).expect("peer"), peer_uid(&other).expect("peer")), (me, me));
    }
}
