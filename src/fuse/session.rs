//! Mounting and serving.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fuser::{Config, MountOption, Session, SessionACL};
use rustix::mount::UnmountFlags;

use super::adapter::Adapter;
use super::{direct, seek};
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
}

/// Mounts and serves until somebody unmounts. `ready` is called when the mount is usable.
///
/// # Errors
/// What keeps the mount from being made, or the end of the connection other than by an unmount.
pub fn serve<B: Backing>(vfs: Arc<Vfs<B>>, spec: &MountSpec, ready: impl FnOnce()) -> io::Result<()> {
    let (sender, jobs) = seek::queue();
    let adapter = Adapter::new(Arc::clone(&vfs), spec.read_only, sender);
    let config = config(spec);
    let session = if rustix::process::geteuid().is_root() {
        let device = direct::mount(spec)?;
        Session::from_fd(adapter, device, config.acl, config).inspect_err(|_| {
            // Nobody will serve it.
            let _ = rustix::mount::unmount(&spec.mountpoint, UnmountFlags::DETACH);
        })?
    } else {
        Session::new(adapter, &spec.mountpoint, &config)?
    };
    seek::start(vfs, jobs, session.notifier())?;
    raise_readahead(&spec.mountpoint)?;
    ready();
    session.run()
}

fn config(spec: &MountSpec) -> Config {
    let mut config = Config::default();
    config.acl = if spec.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(spec.threads.max(2));
    config.mount_options = vec![
        MountOption::FSName(spec.source.clone()),
        MountOption::Subtype("kmsfs".to_owned()),
        MountOption::DefaultPermissions,
        if spec.read_only { MountOption::RO } else { MountOption::RW },
        if spec.suid { MountOption::Suid } else { MountOption::NoSuid },
        if spec.dev { MountOption::Dev } else { MountOption::NoDev },
        if spec.exec { MountOption::Exec } else { MountOption::NoExec },
    ];
    config
}

/// Raises the kernel's readahead from 128 KiB to 1 MiB where that is allowed (root). Asking for the mount's device number
/// needs the mount to answer, so a thread does it.
fn raise_readahead(mountpoint: &Path) -> io::Result<()> {
    const READAHEAD_KIB: &str = "1024";
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let mountpoint = mountpoint.to_owned();
    thread::Builder::new().name("kmsfs-readahead".to_owned()).spawn(move || {
        let raised = std::fs::metadata(&mountpoint).and_then(|meta| {
            let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
            std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), READAHEAD_KIB)
        });
        if let Err(error) = raised {
            tracing::debug!("readahead stays at the kernel's default: {error}");
        }
    })?;
    Ok(())
}
