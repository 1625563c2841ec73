//! What the kernel keeps ahead and dirty of a mount.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::sys::threads;

/// Raises the kernel's readahead from 128 KiB to 1 MiB, and the share of memory that dirty pages of the mount may take,
/// where that is allowed (root). A mount that writes through has dirty pages of shared mappings only, and is to be rid of them at any
/// moment: it is given a bound in bytes instead (Linux 6.2). Asking for the mount's device number needs the mount to answer, so a
/// thread does it.
pub(super) fn tune(mountpoint: PathBuf, write_through: bool) {
    /// In KiB.
    const READAHEAD: (&str, &str) = ("read_ahead_kb", "1024");
    /// In percent of what all filesystems together may have dirty; FUSE mounts begin with 1.
    const DIRTY_SHARE: (&str, &str) = ("max_ratio", "20");
    const DIRTY_BYTES: (&str, &str) = ("max_bytes", "33554432");
    /// The bound is the mount's own also while others have little dirty. FUSE mounts begin with it, up to Linux 6.18 at least.
    const AT_ONCE: (&str, &str) = ("strict_limit", "1");
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let settings: &[_] = if write_through { &[READAHEAD, DIRTY_BYTES, AT_ONCE] } else { &[READAHEAD, DIRTY_SHARE] };
    let work = move || {
        for (name, value) in settings {
            if let Err(error) = set(&mountpoint, name, value) {
                tracing::debug!("{name} of the mount stays at the kernel's default: {error}");
            }
        }
    };
    if let Err(error) = threads::spawn("kmsfs-tune", work) {
        tracing::debug!("the mount stays at the kernel's defaults: {error}");
    }
}

fn set(mountpoint: &Path, name: &str, value: &str) -> io::Result<()> {
    let device = std::fs::metadata(mountpoint)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    std::fs::write(format!("/sys/class/bdi/{major}:{minor}/{name}"), value)
}
