//! `kmsfs umount`: ends a mount and waits until its daemon has finished its work.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::json;

use super::exit::{CliError, CliResult, Exit};
use super::mounts::{self, Holder, Mount};
use super::output::path_text;
use super::settings::Settings;
use crate::ops::lock::{self, LockOwner};

/// How long the daemon may take to write back and to release its lock.
const WAIT: Duration = Duration::from_secs(60);
/// How often an unmount is tried that is refused as busy: a desktop's indexer often lets go at once.
const TRIES: u32 = 5;

/// Unmount a volume and wait until its daemon has written everything
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// The mountpoint
    #[arg(value_name = "MNT")]
    mountpoint: PathBuf,
    /// Detach a mount that is in use: open files go on until they are closed
    #[arg(long)]
    lazy: bool,
}

/// Runs the command.
pub fn run(settings: &Settings, args: &UmountArgs) -> CliResult {
    let mount = find(&args.mountpoint)?;
    let daemon = daemon_of(&mount);
    detach(&mount, args.lazy)?;
    if !args.lazy {
        wait_for_end(&mount, daemon)?;
    }
    settings.out.result(
        &json!({"mountpoint": path_text(&mount.mountpoint), "source": path_text(&mount.source), "unmounted": true, "lazy": args.lazy}),
        String::new,
    );
    Ok(Exit::Ok)
}

fn find(path: &Path) -> CliResult<Mount> {
    // A mount whose daemon has died cannot be resolved by name; its parent can.
    let resolved = fs::canonicalize(path).or_else(|_| canonical_parent(path)).map_err(|e| not_mounted(path, &e))?;
    match mounts::at(&resolved) {
        Ok(Some(mount)) if mount.is_kmsfs() => Ok(mount),
        Ok(Some(mount)) => Err(CliError::new(
            Exit::Mountpoint,
            "NotAKmsfsMount",
            format_args!("{} is a mount of type {}, not of kmsfs", resolved.display(), mount.fs_type),
        )
        .hint(format_args!("kmsfs status lists the mounts of kmsfs; to end this one: umount {}", resolved.display()))),
        Ok(None) => Err(CliError::new(
            Exit::Mountpoint,
            "NotMounted",
            format_args!("nothing is mounted at {}", resolved.display()),
        )
        .hint("kmsfs status lists the mounts")),
        Err(e) => Err(CliError::io("/proc/self/mountinfo", "read", &e)),
    }
}

fn not_mounted(path: &Path, e: &io::Error) -> CliError {
    CliError::new(Exit::Mountpoint, "NotMounted", format_args!("cannot use {}: {e}", path.display()))
        .hint("kmsfs status lists the mounts")
}

fn canonical_parent(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent)?.join(name)),
        _ => Err(io::Error::from_raw_os_error(libc::ENOENT)),
    }
}

fn detach(mount: &Mount, lazy: bool) -> CliResult<()> {
    for attempt in 1..=TRIES {
        match unmount_at(&mount.mountpoint, lazy) {
            Ok(()) => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                if attempt < TRIES {
                    thread::sleep(Duration::from_millis(100));
                }
            }
            Err(e) => return Err(CliError::io(&mount.mountpoint, "unmount", &e)),
        }
    }
    Err(busy(mount))
}

fn busy(mount: &Mount) -> CliError {
    let holders = mounts::holders(mount);
    CliError::new(Exit::Busy, "Busy", format_args!("{} is in use {}", mount.mountpoint.display(), words(&holders)))
        .hint("close what is open there and try again, or detach it with --lazy")
}

/// `by bash (pid 17, working directory), ...`.
pub fn words(holders: &[Holder]) -> String {
    let list: Vec<String> = holders.iter().map(|h| format!("{} (pid {}, {})", h.command, h.pid, h.how)).collect();
    if list.is_empty() {
        return "by a process that this user may not look into, a mount on top of it, or a loop device".to_owned();
    }
    format!("by {}", list.join(", "))
}

/// Asks the kernel, or `fusermount3` for ordinary users, to end a mount.
pub fn unmount_at(mountpoint: &Path, lazy: bool) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() } | UnmountFlags::NOFOLLOW;
        return unmount(mountpoint, flags).map_err(io::Error::from);
    }
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let output = command.arg("--").arg(mountpoint).stdin(Stdio::null()).output().map_err(|e| {
        io::Error::new(e.kind(), format!("fusermount3, which unmounts for ordinary users, cannot be run: {e}"))
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    // fusermount3 says nothing but strerror's words.
    if text.to_lowercase().contains("busy") {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    Err(io::Error::other(text))
}

/// The lock of `mount`'s ciphertext directory as long as this mount's daemon holds it. A read-only mount has none.
fn lock_of(mount: &Mount) -> Option<LockOwner> {
    let owner = lock::owner(&mount.source).ok().flatten()?;
    let purpose = mounts::lock_purpose(&mount.mountpoint);
    (owner.host == lock::host_name() && owner.purpose == purpose).then_some(owner)
}

/// The process that serves `mount`, if it holds the lock; as a descriptor, so that its id cannot come to mean another.
fn daemon_of(mount: &Mount) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(lock_of(mount)?.pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Waits for the daemon's end: afterwards everything is on disk, the lock is free, and the next mount works.
fn wait_for_end(mount: &Mount, daemon: Option<OwnedFd>) -> CliResult<()> {
    let deadline = Instant::now() + WAIT;
    if let Some(daemon) = daemon {
        let timeout = Timespec { tv_sec: WAIT.as_secs() as i64, tv_nsec: 0 };
        while matches!(poll(&mut [PollFd::new(&daemon, PollFlags::IN)], Some(&timeout)), Err(Errno::INTR)) {}
    }
    while lock_of(mount).is_some() {
        if Instant::now() > deadline {
            let message = format!(
                "{} is unmounted, but its daemon has not ended within {} seconds",
                mount.mountpoint.display(),
                WAIT.as_secs()
            );
            return Err(CliError::new(Exit::Busy, "Busy", message)
                .hint("wait for it before the storage is taken away; it may still be writing"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
