//! Making a mount: by mount(2) for root, else through fusermount3(1).

use std::ffi::{CString, OsString};
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::operations::MAX_READ;
use super::spec::MountSpec;
use crate::sys::threads;

/// The type of a mount that root makes reads `fuse.kmsfs`, by which mount(8) and `/etc/fstab` find the mount helper;
/// fusermount3 makes the same of the subtype.
const TYPE: &str = "fuse.kmsfs";
const SUBTYPE: &str = "kmsfs";

/// Threads that serving needs besides those that read: for write-back, for what the kernel is told, for signals and for keys; and one
/// for a moment.
const BESIDE: usize = 5;

/// Mounts, and returns the descriptor of the FUSE connection. Not where the threads could not be had that are to serve it: to take the
/// mount away again then takes a process more.
pub(super) fn mount(spec: &MountSpec) -> io::Result<OwnedFd> {
    let direct = rustix::process::geteuid().is_root();
    threads::check(spec.serving_threads() + BESIDE + usize::from(!direct))?;
    if direct { mount_directly(spec) } else { mount_by_helper(spec) }
}

/// Takes a mount away that nobody will serve.
pub(super) fn abandon(spec: &MountSpec) {
    let done = if rustix::process::geteuid().is_root() {
        rustix::mount::unmount(&spec.mountpoint, UnmountFlags::DETACH).map_err(io::Error::from)
    } else {
        Command::new("fusermount3").args(["-u", "-q", "-z", "--"]).arg(&spec.mountpoint).status().map(drop)
    };
    match done {
        Ok(()) => tracing::warn!("the mount that failed was taken away again"),
        Err(error) => {
            tracing::error!("a mount that failed stays behind, and `kmsfs umount` takes it away: {error}");
        }
    }
}

fn mount_directly(spec: &MountSpec) -> io::Result<OwnedFd> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let root_mode = std::fs::metadata(&spec.mountpoint)?.mode() & libc::S_IFMT;
    let mut options = format!(
        "fd={},rootmode={root_mode:o},user_id={},group_id={},default_permissions,max_read={MAX_READ}",
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

/// fusermount3 opens the device, mounts, and sends the descriptor over a socket whose number stands in a variable: here
/// its standard input.
fn mount_by_helper(spec: &MountSpec) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut child = Command::new("fusermount3")
        .arg("-o")
        .arg(helper_options(spec))
        .arg("--")
        .arg(&spec.mountpoint)
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| {
            io::Error::new(e.kind(), format!("fusermount3, which mounts for ordinary users, cannot be run: {e}"))
        })?;
    let received = receive_descriptor(&ours);
    let mut words = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut words)?;
    }
    let status = child.wait()?;
    match received? {
        Some(device) if status.success() => Ok(device),
        _ if words.trim().is_empty() => Err(io::Error::other(format!("fusermount3: {status}"))),
        _ => Err(io::Error::other(words.trim().to_owned())),
    }
}

fn helper_options(spec: &MountSpec) -> OsString {
    let mut options = b"fsname=".to_vec();
    for &byte in spec.source.as_bytes() {
        // These would end the option.
        if matches!(byte, b',' | b'\\') {
            options.push(b'\\');
        }
        options.push(byte);
    }
    let mut add = |word: &str| {
        options.push(b',');
        options.extend_from_slice(word.as_bytes());
    };
    add(&format!("subtype={SUBTYPE}"));
    add("default_permissions");
    add(&format!("max_read={MAX_READ}"));
    add(if spec.read_only { "ro" } else { "rw" });
    add(if spec.suid { "suid" } else { "nosuid" });
    add(if spec.dev { "dev" } else { "nodev" });
    add(if spec.exec { "exec" } else { "noexec" });
    if spec.allow_other {
        add("allow_other");
    }
    OsString::from_vec(options)
}

/// A descriptor that the other side sends; `None` if it closes the socket without.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::io::retry_on_intr(|| {
        let mut parts = [IoSliceMut::new(&mut byte)];
        rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::IoSlice;
    use std::os::fd::AsFd;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

    #[test]
    fn a_descriptor_comes_through_a_socket_or_does_not() {
        let (ours, theirs) = UnixStream::pair().expect("socket pair");
        let file = tempfile::tempfile().expect("temporary file");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [file.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        rustix::net::sendmsg(&theirs, &[IoSlice::new(&[0])], &mut control, SendFlags::empty()).expect("sent");
        let received = receive_descriptor(&ours).expect("received").expect("a descriptor");
        let ino =
            |fd: &dyn AsRawFd| std::fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("open").ino();
        assert_eq!(ino(&received), ino(&file));
        drop(theirs);
        assert!(receive_descriptor(&ours).expect("closed").is_none());
    }

    #[test]
    fn the_helper_is_told_everything() {
        let spec = MountSpec {
            mountpoint: "/mnt".into(),
            source: OsString::from_vec(b"/a,b\\c\xff".to_vec()),
            read_only: true,
            allow_other: true,
            suid: false,
            dev: false,
            exec: true,
            write_through: false,
            threads: 2,
            transport: super::super::Transport::Dev,
        };
        let expected = b"fsname=/a\\,b\\\\c\xff,subtype=kmsfs,default_permissions,max_read=262144,\
            ro,nosuid,nodev,exec,allow_other";
        assert_eq!(helper_options(&spec).as_bytes(), expected);
    }
}
