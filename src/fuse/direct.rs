//! Mounting by mount(2), for root: the type then reads `fuse.kmsfs`, by which mount(8) and `/etc/fstab` find the mount
//! helper. Without privilege fusermount3 does it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;

use super::session::MountSpec;

const TYPE: &str = "fuse.kmsfs";

/// Mounts, and returns the descriptor of the FUSE connection.
pub(super) fn mount(spec: &MountSpec) -> io::Result<OwnedFd> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let root_mode = std::fs::metadata(&spec.mountpoint).map(|meta| {
        use std::os::unix::fs::MetadataExt;
        meta.mode() & libc::S_IFMT
    })?;
    let mut options = format!(
        "fd={},rootmode={root_mode:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if spec.allow_other {
        options.push_str(",allow_other");
    }
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, spec.read_only);
    flags.set(MountFlags::NOSUID, !spec.suid);
    flags.set(MountFlags::NODEV, !spec.dev);
    flags.set(MountFlags::NOEXEC, !spec.exec);
    let options = CString::new(options).map_err(io::Error::other)?;
    rustix::mount::mount(&*spec.source, &spec.mountpoint, TYPE, flags, &*options)?;
    Ok(device)
}
