//! Whether a filesystem of the host keeps changes of its metadata in one order over a crash (FORMAT 8.1).

use std::fs;
use std::os::fd::AsFd;

/// Magic numbers of statfs(2). ext2, ext3 and ext4 share one, with and without a journal.
const EXT_SUPER_MAGIC: u64 = 0xef53;
const XFS_SUPER_MAGIC: u64 = 0x5846_5342;
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// Journals in use, each with a directory named after its device: `sda1-8`.
const JOURNALS: &str = "/proc/fs/jbd2";

/// Whether the filesystem of a directory does.
pub(super) fn keeps_order(dir: impl AsFd) -> bool {
    let Ok(magic) = rustix::fs::fstatfs(&dir).map(|fs| fs.f_type as u64) else { return false };
    let Ok(device) = rustix::fs::fstat(&dir).map(|stat| stat.st_dev) else { return false };
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let name = fs::read_link(format!("/sys/dev/block/{device}")).ok();
    let name = name.as_deref().and_then(|path| path.file_name()?.to_str()).unwrap_or_default();
    let entries = fs::read_dir(JOURNALS).into_iter().flatten().flatten();
    let journals: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    decide(magic, fs_type(&table, &device), name, &journals)
}

/// The decision: `name` is that of the device. What is not known for certain keeps no order.
fn decide(magic: u64, fs_type: Option<&str>, name: &str, journals: &[String]) -> bool {
    // Of a journal on another device than its filesystem's the name is different.
    let is_own = |journal: &String| journal.rsplit_once('-').is_some_and(|(device, _inode)| device == name);
    match (magic, fs_type) {
        (XFS_SUPER_MAGIC | TMPFS_MAGIC, _) => true,
        (EXT_SUPER_MAGIC, Some("ext3" | "ext4")) => !name.is_empty() && journals.iter().any(is_own),
        _ => false,
    }
}

/// The type of the filesystem on `device`, of a table like `/proc/self/mountinfo` (proc_pid_mountinfo(5)):
/// `36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue`.
fn fs_type<'a>(table: &'a [u8], device: &str) -> Option<&'a str> {
    table.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        (fields.nth(2)? == device.as_bytes()).then_some(())?;
        fields.find(|field| *field == b"-")?;
        std::str::from_utf8(fields.next()?).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_journal_keeps_ext4_in_order() {
        let journals = ["sda1-8", "dm-1-8", "loop0-8"].map(str::to_owned);
        let ext = |fs_type, name| decide(EXT_SUPER_MAGIC, fs_type, name, &journals);
        assert!(ext(Some("ext4"), "sda1") && ext(Some("ext3"), "loop0") && ext(Some("ext4"), "dm-1"));
        for (fs_type, name, why) in [
            (Some("ext4"), "sda2", "no journal"),
            (Some("ext4"), "sda", "another device's journal"),
            (Some("ext4"), "dm", "another device's journal"),
            (Some("ext4"), "", "an unknown device"),
            (Some("ext2"), "sda1", "a filesystem without journals"),
            (None, "sda1", "an unknown filesystem"),
        ] {
            assert!(!ext(fs_type, name), "{why}");
        }
        assert!(decide(XFS_SUPER_MAGIC, None, "", &[]) && decide(TMPFS_MAGIC, None, "", &[]));
        assert!(!decide(0x9123_683e, Some("btrfs"), "sda1", &journals));
    }

    #[test]
    fn the_type_of_a_device() {
        let table = b"22 1 0:21 / /proc rw shared:5 - proc proc rw\n\
            90 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw\nnonsense\n91 1 7:0 / /a\\040b rw - ext2 /dev/loop0 rw";
        let types = ["0:21", "254:0", "7:0", "7:1"].map(|device| fs_type(table, device));
        assert_eq!(types, [Some("proc"), Some("ext4"), Some("ext2"), None]);
    }
}
