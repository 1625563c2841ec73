//! What a mount is to be.

use std::ffi::OsString;
use std::path::PathBuf;

/// Where and how a volume is mounted.
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// The mount point, an empty directory.
    pub mountpoint: PathBuf,
    /// What mount(8) shows as the source.
    pub source: OsString,
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
    /// The kernel passes every write on at once, instead of keeping it for a while.
    pub write_through: bool,
    /// Threads that serve requests, at least 2.
    pub threads: usize,
    /// How requests travel.
    pub transport: Transport,
}

impl MountSpec {
    /// Threads that serve requests.
    pub(super) fn serving_threads(&self) -> usize {
        self.threads.max(2)
    }
}

/// How requests and answers travel between the kernel and the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// [`Self::Uring`] where the kernel offers it unasked, else [`Self::Dev`].
    #[default]
    Auto,
    /// By read(2) and writev(2) on `/dev/fuse`.
    Dev,
    /// Through io_uring (Linux 6.14), which root's mounts make the kernel offer while they are made; else [`Self::Dev`],
    /// with a warning.
    Uring,
    /// By the crate `fuser`: the reference that the own transport is compared with. It knows less of the protocol: no
    /// files without a name, no birth time, no emptying while a file is opened, more requests per write.
    Fuser,
}
