//! The kernel's mount table, and who holds a mount.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// The type that kmsfs mounts show in the mount table.
pub const FS_TYPE: &str = "fuse.kmsfs";
/// How long a mount may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The file system type.
    pub fs_type: String,
    /// The source; for kmsfs the ciphertext directory.
    pub source: PathBuf,
    /// The options of this mount.
    pub options: String,
    /// `major:minor` of the file system.
    pub device: String,
}

impl Mount {
    /// Whether kmsfs serves it.
    pub fn is_kmsfs(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    /// Whether it is mounted read-only.
    pub fn is_read_only(&self) -> bool {
        self.options.split(',').any(|o| o == "ro")
    }

    /// The device number as `stat(2)` shows it.
    fn device_number(&self) -> Option<u64> {
        let (major, minor) = self.device.split_once(':')?;
        Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
    }
}

/// What the lock of a mounted volume says it is held for.
pub fn lock_purpose(mountpoint: &Path) -> String {
    format!("mount {}", mountpoint.display())
}

/// Every mount that this process sees.
pub fn all() -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// The mount whose mountpoint is `path`, the topmost one if several are stacked.
pub fn at(path: &Path) -> io::Result<Option<Mount>> {
    Ok(all()?.into_iter().rev().find(|m| m.mountpoint == path))
}

/// The kmsfs mount that `path` lies in, by its longest mountpoint.
pub fn containing(path: &Path) -> io::Result<Option<Mount>> {
    let best =
        all()?.into_iter().filter(|m| path.starts_with(&m.mountpoint)).max_by_key(|m| m.mountpoint.as_os_str().len());
    Ok(best.filter(Mount::is_kmsfs))
}

fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|&b| b == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue` (proc_pid_mountinfo(5)).
fn parse_line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    let dash = fields.iter().position(|f| *f == b"-")?;
    let text = |i: usize| fields.get(i).map(|f| String::from_utf8_lossy(f).into_owned());
    Some(Mount {
        mountpoint: unescape(fields.get(4)?),
        fs_type: text(dash + 1)?,
        source: unescape(fields.get(dash + 2)?),
        options: text(5)?,
        device: text(2)?,
    })
}

/// Undoes the kernel's octal escapes (`\040` for a blank).
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = |b: &u8| (b'0'..=b'7').contains(b);
        match tail.first_chunk::<3>() {
            Some(digits) if first == b'\\' && digits.iter().all(octal) => {
                out.push(digits.iter().fold(0u8, |n, d| n.wrapping_mul(8).wrapping_add(d - b'0')));
                rest = &tail[3..];
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// A process that keeps a mount busy.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name.
    pub command: String,
    /// How it holds the mount: working directory, root, program, open file, mapped file.
    pub how: &'static str,
}

/// The processes that hold `mount`, as far as this user may look: others' processes need root.
pub fn holders(mount: &Mount) -> Vec<Holder> {
    let Some(device) = mount.device_number() else { return Vec::new() };
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let mut holders: Vec<Holder> = pids
        .filter_map(|pid| {
            let how = how_held(&PathBuf::from(format!("/proc/{pid}")), mount, device)?;
            let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
            Some(Holder { pid, command, how })
        })
        .collect();
    holders.sort_by_key(|h| h.pid);
    holders
}

fn how_held(process: &Path, mount: &Mount, device: u64) -> Option<&'static str> {
    // The links are read, not followed: following one into a hanging mount would hang this process too.
    let inside = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(&mount.mountpoint));
    for (name, how) in [("cwd", "working directory"), ("root", "root directory"), ("exe", "program")] {
        if inside(process.join(name)) {
            return Some(how);
        }
    }
    if fs::read_dir(process.join("fd")).ok()?.flatten().any(|fd| inside(fd.path())) {
        return Some("open file");
    }
    let maps = fs::read(process.join("maps")).ok()?;
    let number = format!("{:02x}:{:02x}", rustix::fs::major(device), rustix::fs::minor(device));
    let on_device = |line: &[u8]| line.split(|&b| b == b' ').nth(3) == Some(number.as_bytes());
    let mapped = maps.split(|&b| b == b'\n').any(on_device);
    mapped.then_some("mapped file")
}

/// What becomes of requests to a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// They are served.
    Serving,
    /// Nobody has answered within [`PATIENCE`]: the daemon is stopped, or waits for its backing.
    Silent,
    /// Its daemon has ended.
    Dead,
}

/// What becomes of requests to the mount at `path`.
pub fn life(path: &Path) -> Life {
    let (done, answer) = channel();
    let asked = path.to_owned();
    // Without an answer the thread stays until the process ends, which ends its request too.
    let asking = thread::Builder::new().spawn(move || done.send(is_dead(&asked)));
    match asking.map(|_| answer.recv_timeout(PATIENCE)) {
        Ok(Ok(true)) => Life::Dead,
        Ok(Err(RecvTimeoutError::Timeout)) => Life::Silent,
        _ => Life::Serving,
    }
}

/// Whether a mount answers nothing but ENOTCONN. The attributes of its root may still be in the kernel's cache, so `statfs`,
/// which is never cached, is asked as well.
fn is_dead(path: &Path) -> bool {
    let attributes = fs::symlink_metadata(path).err().and_then(|e| e.raw_os_error());
    attributes == Some(libc::ENOTCONN) || rustix::fs::statfs(path).err() == Some(rustix::io::Errno::NOTCONN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines() {
        let table = b"22 1 0:21 / /proc rw shared:5 - proc proc rw\n\
            90 1 0:77 / /mnt/a\\040b ro,nosuid - fuse.kmsfs /data/c\\134d rw,user_id=0\n\nnonsense\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 2);
        let m = &mounts[1];
        assert_eq!(m.mountpoint, Path::new("/mnt/a b"));
        assert_eq!(m.source, Path::new("/data/c\\d"));
        assert!(m.is_kmsfs() && m.is_read_only());
        assert_eq!(m.device_number(), Some(rustix::fs::makedev(0, 77)));
        assert!(!mounts[0].is_kmsfs());
    }

    #[test]
    fn this_process_holds_the_root_mount() {
        let root = at(Path::new("/")).expect("mount table").expect("something is mounted at /");
        let me = std::process::id();
        assert!(holders(&root).iter().any(|h| h.pid == me));
    }
}
