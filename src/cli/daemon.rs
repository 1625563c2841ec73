//! Running a mount in the background.
//!
//! `mount --daemon` starts the same program again, with a pipe. The child does everything in the foreground, prompts
//! included, until the mount is usable; then it leaves the terminal and writes one byte into the pipe, and the parent
//! returns. A child that fails has told people why on the terminal and ends, and the parent passes its exit code on.
//! A process with threads never forks (it would lose them, and keys would be copied).

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::HEXLOWER;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use sha2::{Digest, Sha256};

use super::exit::{CliError, CliResult, Exit};
use crate::sys::process::{file_size_limit, inherited_fd, make_room_for_descriptors, raise, raise_file_size_limit};

/// The variable that gives the child its end of the pipe.
const READY_FD: &str = "KMSFS_READY_FD";
/// Descriptors that a process which serves has room for from the beginning, 8 bytes of the kernel's memory each: the directories that a
/// mount keeps open, and some thousand files.
const DESCRIPTORS: RawFd = 8192;

/// Starts the child and waits until it is ready or has ended. Returns the exit code of the command.
/// `args` is the command line as it was understood.
pub fn spawn_and_wait(args: &[OsString]) -> CliResult {
    let failed =
        |what: &str, e: std::io::Error| CliError::failure(format_args!("cannot start the daemon: {what}: {e}"));
    let (reader, writer) = pipe_with(PipeFlags::empty()).map_err(|e| failed("pipe", e.into()))?;
    fcntl_setfd(&reader, FdFlags::CLOEXEC).map_err(|e| failed("pipe", e.into()))?;
    let program = env::current_exe().map_err(|e| failed("its program file", e))?;
    let (name, args) = args.split_first().ok_or_else(|| CliError::failure("the command line is empty"))?;
    let mut child = Command::new(program)
        .arg0(name)
        .args(args)
        .env(READY_FD, writer.as_raw_fd().to_string())
        .spawn()
        .map_err(|e| failed("exec", e))?;
    drop(writer);
    let mut word = [0; 1];
    if matches!(File::from(reader).read(&mut word), Ok(1)) {
        return Ok(Exit::Ok);
    }
    let status = child.wait().map_err(|e| failed("wait", e))?;
    // The child has said on stderr what went wrong.
    let code = status.code().and_then(|code| Exit::ALL.into_iter().find(|exit| i32::from(exit.code()) == code));
    match code {
        Some(Exit::Ok) | None => {
            Err(CliError::failure(format_args!("the daemon ended before the mount was usable: {status}")))
        }
        Some(exit) => Ok(exit),
    }
}

/// The child's side of the pipe.
pub struct Readiness(Option<OwnedFd>);

impl Readiness {
    /// Takes over the descriptor that the parent left; `None` in a process that no such parent started.
    pub fn of_child() -> CliResult<Option<Self>> {
        let Some(text) = env::var_os(READY_FD) else { return Ok(None) };
        let fd: Option<RawFd> = text.to_str().and_then(|t| t.parse().ok());
        let fd = fd.ok_or_else(|| CliError::usage(format_args!("{READY_FD} is not the number of a descriptor")))?;
        match inherited_fd(fd) {
            Ok(fd) => Ok(Some(Self(Some(fd)))),
            Err(e) => Err(CliError::usage(format_args!("{READY_FD}: {e}"))),
        }
    }

    /// Of a mount in the foreground, for which nobody waits.
    pub fn foreground() -> Self {
        Self(None)
    }

    /// Whether this process becomes a daemon.
    pub fn is_daemon(&self) -> bool {
        self.0.is_some()
    }

    /// Tells whoever waits that the mount is usable: the parent, which then returns, and systemd. A daemon leaves
    /// the terminal first; from then on stderr is `log`.
    pub fn announce(&mut self, log: Option<File>) -> std::io::Result<()> {
        if let Some(parent) = self.0.take() {
            let left = leave_terminal(log);
            // A parent that was killed does not make the mount useless; one that hears nothing waits for ever.
            let _ = File::from(parent).write_all(b"r");
            left?;
        }
        notify_systemd("READY=1");
        Ok(())
    }
}

fn leave_terminal(log: Option<File>) -> std::io::Result<()> {
    // Fails only for the leader of a process group, which then has no terminal to leave.
    let _ = rustix::process::setsid();
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(log.as_ref().unwrap_or(&null))?;
    Ok(())
}

/// Sends a state to systemd, if it started this process with `Type=notify` (sd_notify(3)).
pub fn notify_systemd(state: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|a| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &a));
    if let Err(e) = sent {
        tracing::warn!("cannot tell systemd {state}: {e}");
    }
}

/// Opens the log file of a daemon for appending, readable for its owner only.
pub fn open_log(path: &Path) -> CliResult<File> {
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| CliError::io(dir, "create the log directory", &e))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| CliError::io(path, "open the log file", &e))
}

/// The log file of the mount at `mountpoint` below the KMS home: the mountpoint with its slashes as hyphens. No two mountpoints have
/// the same: hyphens, percent signs and what is not printable are written as in URLs, and of a path that is too long for a name there
/// is a hash and its end.
pub fn default_log(home: &Path, mountpoint: &Path) -> PathBuf {
    /// Bytes of the path in the name: with what stands around it and the name of a file that is rotated, below 255.
    const LONGEST: usize = 200;
    const END: usize = 100;
    let path = mountpoint.as_os_str().as_bytes();
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let mut name = String::new();
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '/' => name.push('-'),
                '-' | '%' => name.push_str(&format!("%{:02X}", u32::from(c))),
                c if c.is_control() => {
                    c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| name.push_str(&format!("%{byte:02X}")));
                }
                c => name.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| name.push_str(&format!("%{byte:02X}")));
    }
    if name.len() > LONGEST {
        let hash = HEXLOWER.encode(&Sha256::digest(path)[..16]);
        let end = name.ceil_char_boundary(name.len() - END);
        // No encoding begins like this.
        name = format!("%{hash}-{}", &name[end..]);
    }
    home.join("log").join(format!("mount-{name}.log"))
}

/// Keeps keys out of core dumps and away from other processes of the user.
pub fn harden() {
    if let Err(e) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!("cannot make the process undumpable: {e}");
    }
    if let Err(e) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!("cannot forbid core dumps: {e}");
    }
}

/// Raises the number of descriptors to what the system allows: every open file of a mount needs one.
pub fn raise_nofile() {
    if let Err(e) = raise(Resource::Nofile) {
        tracing::warn!("cannot raise the number of open files: {e}");
    }
}

/// As [`raise_nofile`], for a process that has no other threads yet and will have many files open: nothing it does later waits for the
/// table of descriptors to grow.
pub fn prepare_descriptors() {
    raise_nofile();
    if let Err(e) = make_room_for_descriptors(DESCRIPTORS) {
        tracing::warn!("the table of open files stays small: {e}");
    }
}

/// Raises the size of files to what the system allows, beyond which writes are refused.
pub fn raise_fsize() {
    if let Err(e) = raise_file_size_limit() {
        tracing::warn!("cannot raise the size of files: {e}");
    }
    match file_size_limit() {
        u64::MAX => {}
        limit => tracing::warn!("no file can grow beyond {limit} bytes in the ciphertext directory (ulimit -f)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_files_are_named_after_the_mountpoint() {
        let path = default_log(Path::new("/h"), Path::new("/mnt/a/b"));
        assert_eq!(path, Path::new("/h/log/mount-mnt-a-b.log"));
    }

    #[test]
    fn every_mountpoint_has_a_log_of_its_own() {
        use std::ffi::OsStr;
        let deep = |last: u8| [&b"/"[..], &b"d/".repeat(2000), &[last]].concat();
        let long = |last: u8| [b"/mnt/", "\u{e4}".repeat(120).as_bytes(), &[last]].concat();
        let mut mountpoints: Vec<Vec<u8>> =
            ["/", "/a/b", "/a-b", "/a%2Db", "/a/-b", "/a-/b", "/a\nb", "/a b", "/ a", "/a%0Ab"].map(Into::into).into();
        mountpoints.extend([b"/\xff".to_vec(), b"/%FF".to_vec(), deep(b'x'), deep(b'y'), long(b'x'), long(b'y')]);
        let name = |bytes: &Vec<u8>| default_log(Path::new("/h"), Path::new(OsStr::from_bytes(bytes)));
        let logs: std::collections::HashSet<PathBuf> = mountpoints.iter().map(name).collect();
        assert_eq!(logs.len(), mountpoints.len(), "{logs:?}");
        for log in logs {
            assert_eq!(log.parent(), Some(Path::new("/h/log")));
            assert!(log.file_name().expect("a name").len() < 240, "{log:?}");
        }
    }

    #[test]
    fn the_log_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("log/m.log");
        open_log(&path).expect("open");
        assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(dir.path().join("log")).expect("stat").permissions().mode() & 0o7777, 0o700);
    }
}
