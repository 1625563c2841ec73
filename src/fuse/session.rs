//! Mounting and serving.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::device::Server;
use super::dispatch::Dispatcher;
use super::{mount, reference};
use crate::store::Backing;
use crate::sync::{Arc, thread};
use crate::vfs::Vfs;

/// Where and how a volume is mounted.
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// The mount point, an empty directory.
    pub mountpoint: PathBuf,
    /// What mount(8) shows as the source.
    pub source: String,
    /// Nothing may be changed.
    pub read_only: bool,
    /// Other users may use the mount; what they may do there, the kernel decides by mode and owner.
    pub allow_other: bool,
    /// Honour setuid and setgid bits.
    pub suid: bool,
    /// Honour device nodes.
    pub dev: bool,
    /// Allow programs to be executed.
    pub exec: bool,
    /// Threads that serve requests, at least 2.
    pub threads: usize,
    /// How requests travel.
    pub transport: Transport,
}

/// How requests and answers travel between the kernel and the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// The best there is: [`Self::Dev`].
    #[default]
    Auto,
    /// By read(2) and writev(2) on `/dev/fuse`.
    Dev,
    /// By the crate `fuser`: the reference that the own transport is compared with. It knows less of the protocol: no
    /// files without a name, no birth time, no emptying while a file is opened, more requests per write.
    Fuser,
}

/// Mounts and serves until somebody unmounts. `ready` is called when the mount is usable.
///
/// # Errors
/// What keeps the mount from being made, or the end of the connection other than by an unmount.
pub fn serve<B: Backing>(vfs: Arc<Vfs<B>>, spec: &MountSpec, ready: impl FnOnce()) -> io::Result<()> {
    if spec.transport == Transport::Fuser {
        return reference::serve(vfs, spec, ready);
    }
    let connection = mount::mount(spec)?;
    let server = Server::start(Dispatcher::new(vfs, spec.read_only), connection);
    let server = server.inspect_err(|_| mount::abandon(spec))?;
    let tuned = spec.mountpoint.clone();
    server.run(spec.threads.max(2), || {
        tune(tuned);
        ready();
    })
}

/// Raises the kernel's readahead from 128 KiB to 1 MiB, and the share of memory that dirty pages of the mount may take,
/// where that is allowed (root). Asking for the mount's device number needs the mount to answer, so a thread does it.
pub(super) fn tune(mountpoint: PathBuf) {
    /// In KiB.
    const READAHEAD: (&str, &str) = ("read_ahead_kb", "1024");
    /// In percent of what all filesystems together may have dirty; FUSE mounts begin with 1.
    const DIRTY_SHARE: (&str, &str) = ("max_ratio", "20");
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let work = move || {
        for (name, value) in [READAHEAD, DIRTY_SHARE] {
            if let Err(error) = set(&mountpoint, name, value) {
                tracing::debug!("{name} of the mount stays at the kernel's default: {error}");
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("kmsfs-tune".to_owned()).spawn(work) {
        tracing::debug!("the mount stays at the kernel's defaults: {error}");
    }
}

fn set(mountpoint: &Path, name: &str, value: &str) -> io::Result<()> {
    let device = std::fs::metadata(mountpoint)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    std::fs::write(format!("/sys/class/bdi/{major}:{minor}/{name}"), value)
}
