//! The control socket of a running mount: what other commands ask of it.
//!
//! Only the process that holds a volume's lock writes to it (FORMAT 4.1), so a job that changes files of a mounted volume
//! runs within the mount, on the same state of each file as applications use. The socket is
//! `$KMSFS_HOME/run/<volume id>.<pid>.sock`: the process id keeps apart the mounts that one volume may have (one for
//! writing, any number read-only, copies of its directory), and the volume's lock names the process to ask. It is for
//! the mount's own user and root.
//!
//! One request a connection: a line of JSON. Answers are lines of JSON: progress, if the request takes time, then one
//! result or error.

pub mod client;
pub mod rewrap;
pub mod server;
pub mod wire;

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::types::VolumeId;

const SUFFIX: &str = ".sock";

/// The directory of the sockets.
struct RunDir {
    fd: rustix::fd::OwnedFd,
    path: PathBuf,
}

impl RunDir {
    /// The directory under this home.
    fn open(home: &Path) -> io::Result<Self> {
        let path = home.join("run");
        let fd =
            openat(CWD, &path, OFlags::DIRECTORY | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd, path })
    }

    /// The same, made if it is missing, for its owner only.
    fn make(home: &Path) -> io::Result<Self> {
        let path = home.join("run");
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => fs::set_permissions(&path, Permissions::from_mode(0o700))?,
        }
        Self::open(home)
    }

    /// A path to an entry that fits into a socket address (108 bytes), however long the home's own path is.
    fn short_path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.fd.as_raw_fd()))
    }

    fn sockets(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            names.extend(name.to_str().filter(|name| name.ends_with(SUFFIX)).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }
}

fn socket_name(volume: &VolumeId, pid: u32) -> String {
    format!("{volume}.{pid}{SUFFIX}")
}
