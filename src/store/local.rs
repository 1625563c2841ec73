//! A directory of a Linux filesystem as backing.
//!
//! Whoever writes the storage can plant anything under any name, so every open is `openat2` below one directory
//! handle without symlinks, magic links or mount points on the way, and what was opened is checked (FORMAT S2).

use std::fs::File;
use std::mem::MaybeUninit;
use std::num::NonZero;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Advice, AtFlags, FallocateFlags, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, SeekFrom};
use rustix::io::Errno;

use super::{
    Access, Allocate, Backing, BackingFile, FileKind, FileTime, FsStat, RawEntry, RenameMode, Result, SetTime, Stat,
    Target, XattrMode, local_attr, local_order,
};
use crate::sys::process::file_size_limit;

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_XDEV)
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

const SAFE: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// An `O_PATH` descriptor does nothing to what it names; openat2 refuses further flags beside it.
const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory tree of the host.
#[derive(Debug)]
pub struct LocalDir {
    root: OwnedFd,
    /// The root for syncfs(2): a descriptor learns of the errors since it was opened, so it is as old as the tree is in
    /// use. None if the root cannot be read.
    flushed: Option<OwnedFd>,
    ordered_metadata: bool,
}

/// Handle to a directory: an `O_PATH` descriptor.
#[derive(Debug)]
pub struct LocalHandle(pub(super) OwnedFd);

/// Open regular file.
#[derive(Debug)]
pub struct LocalFile(pub(super) OwnedFd);

impl From<LocalFile> for File {
    fn from(file: LocalFile) -> Self {
        file.0.into()
    }
}

/// A listing of one directory: a descriptor of its own and a buffer for getdents64(2).
pub struct LocalList {
    fd: OwnedFd,
    at: u64,
    buffer: Vec<MaybeUninit<u8>>,
}

impl LocalList {
    fn of(fd: OwnedFd) -> Self {
        Self { fd, at: 0, buffer: vec![MaybeUninit::uninit(); 32 * 1024] }
    }
}

impl LocalDir {
    /// Opens the directory at `path`. Errors: those of open(2).
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        let ordered_metadata = local_order::keeps_order(&root);
        let flushed = Self::readable(&root).ok();
        Ok(Self { root, flushed, ordered_metadata })
    }

    fn open_at(dir: &OwnedFd, name: &str, flags: OFlags, mode: u32) -> Result<OwnedFd> {
        let flags = if flags.contains(OFlags::PATH) { flags } else { flags | SAFE };
        rustix::fs::openat2(dir, name, flags, Mode::from_raw_mode(mode), RESOLVE)
    }

    /// A readable descriptor of the directory itself.
    fn readable(dir: &OwnedFd) -> Result<OwnedFd> {
        Self::open_at(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY, 0)
    }

    /// A rename to a name that must be free, in two steps: nobody else changes the entries of a volume, whose lock its mount
    /// holds, and the caller holds those of both directories.
    fn rename_to_free(dir: &LocalHandle, name: &str, to_dir: &LocalHandle, to_name: &str) -> Result<()> {
        match rustix::fs::statat(&to_dir.0, to_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => rustix::fs::renameat(&dir.0, name, &to_dir.0, to_name),
            Err(error) => Err(error),
        }
    }
}

impl Backing for LocalDir {
    type Dir = LocalHandle;
    type File = LocalFile;
    type Node = LocalHandle;
    type List = LocalList;

    fn root(&self) -> Result<LocalHandle> {
        Ok(LocalHandle(rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?))
    }

    fn stat_fs(&self) -> Result<FsStat> {
        let s = rustix::fs::fstatvfs(&self.root)?;
        Ok(FsStat {
            frsize: s.f_frsize,
            bsize: s.f_bsize,
            blocks: s.f_blocks,
            bfree: s.f_bfree,
            bavail: s.f_bavail,
            files: s.f_files,
            ffree: s.f_ffree,
            name_max: s.f_namemax,
        })
    }

    fn ordered_metadata(&self) -> bool {
        self.ordered_metadata
    }

    fn user(&self) -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn sync_all(&self) -> Result<()> {
        match &self.flushed {
            Some(root) => rustix::fs::syncfs(root),
            None => rustix::fs::syncfs(Self::readable(&self.root)?),
        }
    }

    fn open_dir(&self, dir: &LocalHandle, name: &str) -> Result<LocalHandle> {
        Self::open_at(&dir.0, name, HANDLE | OFlags::DIRECTORY, 0).map(LocalHandle)
    }

    fn open(&self, dir: &LocalHandle, name: &str, access: Access) -> Result<LocalFile> {
        let flags = flags_of(access);
        regular(Self::open_at(&dir.0, name, flags, 0)?)
    }

    fn create(&self, dir: &LocalHandle, name: &str, mode: u32) -> Result<LocalFile> {
        Self::open_at(&dir.0, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode).map(LocalFile)
    }

    fn create_unnamed(&self, dir: &LocalHandle, mode: u32) -> Result<(LocalFile, LocalHandle)> {
        // O_TMPFILE wants the directory itself, and no O_EXCL: that would forbid a name for ever.
        let file = Self::open_at(&dir.0, ".", OFlags::RDWR | OFlags::TMPFILE, mode)?;
        let node = rustix::io::fcntl_dupfd_cloexec(&file, 0)?;
        Ok((LocalFile(file), LocalHandle(node)))
    }

    fn pin(&self, dir: &LocalHandle, name: &str) -> Result<LocalHandle> {
        // A symlink must be pinned itself, which RESOLVE_NO_SYMLINKS refuses even with O_PATH; a single component
        // opened with O_NOFOLLOW cannot leave the directory.
        rustix::fs::openat(&dir.0, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map(LocalHandle)
    }

    fn open_node(&self, node: &LocalHandle, access: Access) -> Result<LocalFile> {
        // Checked first: opening a fifo or device could block or have effects.
        match local_attr::stat_fd(&node.0)?.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::NXIO),
        }
        let link = format!("/proc/self/fd/{}", node.0.as_raw_fd());
        rustix::fs::open(link, flags_of(access) | OFlags::CLOEXEC, Mode::empty()).map(LocalFile)
    }

    fn list(&self, dir: &LocalHandle) -> Result<LocalList> {
        Ok(LocalList::of(Self::readable(&dir.0)?))
    }

    fn list_unnoticed(&self, dir: &LocalHandle) -> Result<LocalList> {
        Self::open_at(&dir.0, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME, 0).map(LocalList::of)
    }

    fn open_unnoticed(&self, dir: &LocalHandle, name: &str) -> Result<LocalFile> {
        regular(Self::open_at(&dir.0, name, OFlags::RDONLY | OFlags::NOATIME, 0)?)
    }

    fn read_list(&self, list: &mut LocalList, from: u64, out: &mut Vec<RawEntry>) -> Result<()> {
        if list.at != from {
            rustix::fs::seek(&list.fd, SeekFrom::Start(from))?;
            list.at = from;
        }
        let mut raw = RawDir::new(&list.fd, &mut list.buffer);
        // One call of getdents64 fills the buffer; reading on until it is used up needs no second one.
        while let Some(entry) = raw.next() {
            let entry = entry?;
            list.at = entry.next_entry_cookie();
            out.push(RawEntry {
                name: entry.file_name().to_bytes().to_vec(),
                ino: entry.ino(),
                kind: local_attr::kind_of(entry.file_type()),
                next: list.at,
            });
            if raw.is_buffer_empty() {
                break;
            }
        }
        Ok(())
    }

    fn mkdir(&self, dir: &LocalHandle, name: &str, mode: u32) -> Result<()> {
        rustix::fs::mkdirat(&dir.0, name, Mode::from_raw_mode(mode))
    }

    fn mknod(&self, dir: &LocalHandle, name: &str, kind: FileKind, mode: u32, rdev: u64) -> Result<()> {
        rustix::fs::mknodat(&dir.0, name, local_attr::file_type(kind), Mode::from_raw_mode(mode), rdev)
    }

    fn symlink(&self, target: &[u8], dir: &LocalHandle, name: &str) -> Result<()> {
        rustix::fs::symlinkat(target, &dir.0, name)
    }

    fn read_link(&self, target: Target<'_, Self>) -> Result<Vec<u8>> {
        local_attr::read_link(target)
    }

    fn link(&self, dir: &LocalHandle, name: &str, to_dir: &LocalHandle, to_name: &str) -> Result<()> {
        rustix::fs::linkat(&dir.0, name, &to_dir.0, to_name, AtFlags::empty())
    }

    fn link_node(&self, node: &LocalHandle, to_dir: &LocalHandle, to_name: &str) -> Result<()> {
        // AT_EMPTY_PATH would need CAP_DAC_READ_SEARCH.
        let link = format!("/proc/self/fd/{}", node.0.as_raw_fd());
        rustix::fs::linkat(rustix::fs::CWD, link, &to_dir.0, to_name, AtFlags::SYMLINK_FOLLOW)
    }

    fn unlink(&self, dir: &LocalHandle, name: &str) -> Result<()> {
        rustix::fs::unlinkat(&dir.0, name, AtFlags::empty())
    }

    fn rmdir(&self, dir: &LocalHandle, name: &str) -> Result<()> {
        rustix::fs::unlinkat(&dir.0, name, AtFlags::REMOVEDIR)
    }

    fn rename(
        &self,
        dir: &LocalHandle,
        name: &str,
        to_dir: &LocalHandle,
        to_name: &str,
        mode: RenameMode,
    ) -> Result<()> {
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
            RenameMode::Whiteout => RenameFlags::WHITEOUT,
            RenameMode::WhiteoutNoReplace => RenameFlags::WHITEOUT | RenameFlags::NOREPLACE,
        };
        match rustix::fs::renameat_with(&dir.0, name, &to_dir.0, to_name, flags) {
            // NFS, and many filesystems in user space, know no flags of rename.
            Err(Errno::INVAL) if mode == RenameMode::NoReplace => Self::rename_to_free(dir, name, to_dir, to_name),
            done => done,
        }
    }

    fn sync_dir(&self, dir: &LocalHandle) -> Result<()> {
        rustix::fs::fsync(Self::readable(&dir.0)?)
    }

    fn stat(&self, target: Target<'_, Self>) -> Result<Stat> {
        match target {
            Target::Named(dir, name) => local_attr::stat_at(&dir.0, name),
            Target::Dir(handle) | Target::Node(handle) => local_attr::stat_fd(&handle.0),
            Target::File(file) => local_attr::stat_fd(&file.0),
        }
    }

    fn birth_time(&self, target: Target<'_, Self>) -> Result<Option<FileTime>> {
        local_attr::birth_time(target)
    }

    fn set_mode(&self, target: Target<'_, Self>, mode: u32) -> Result<()> {
        local_attr::set_mode(target, mode)
    }

    fn set_owner(&self, target: Target<'_, Self>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        local_attr::set_owner(target, uid, gid)
    }

    fn set_times(&self, target: Target<'_, Self>, atime: SetTime, mtime: SetTime) -> Result<()> {
        local_attr::set_times(target, atime, mtime)
    }

    fn get_xattr(&self, target: Target<'_, Self>, name: &str) -> Result<Vec<u8>> {
        local_attr::get_xattr(target, name)
    }

    fn set_xattr(&self, target: Target<'_, Self>, name: &str, value: &[u8], mode: XattrMode) -> Result<()> {
        local_attr::set_xattr(target, name, value, mode)
    }

    fn inode_flags(&self, target: Target<'_, Self>) -> Result<u32> {
        local_attr::inode_flags(target)
    }

    fn set_inode_flags(&self, target: Target<'_, Self>, flags: u32) -> Result<()> {
        local_attr::set_inode_flags(target, flags)
    }

    fn list_xattrs(&self, target: Target<'_, Self>) -> Result<Vec<String>> {
        local_attr::list_xattrs(target)
    }

    fn remove_xattr(&self, target: Target<'_, Self>, name: &str) -> Result<()> {
        local_attr::remove_xattr(target, name)
    }
}

impl BackingFile for LocalFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(&self.0, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        // The system would write what is below the limit: part of a unit, which then is damaged.
        if offset.saturating_add(buf.len() as u64) > file_size_limit() {
            return Err(Errno::FBIG);
        }
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pwrite(&self.0, &buf[done..], offset + done as u64) {
                Ok(0) => return Err(Errno::IO),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        rustix::fs::ftruncate(&self.0, len)
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        if data_only { rustix::fs::fdatasync(&self.0) } else { rustix::fs::fsync(&self.0) }
    }

    fn wait_for_writeback(&self, offset: u64, len: u64) -> Result<()> {
        crate::sys::file::wait_for_writeback(self.0.as_fd(), offset, len)
    }

    fn start_writeback(&self, offset: u64, len: u64) {
        if let Err(error) = crate::sys::file::start_writeback(self.0.as_fd(), offset, len) {
            tracing::debug!("writeback was not started: {error}");
        }
    }

    fn allocate(&self, how: Allocate, offset: u64, len: u64) -> Result<()> {
        let flags = match how {
            Allocate::KeepSize => FallocateFlags::KEEP_SIZE,
            Allocate::PunchHole => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            Allocate::ZeroRange => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        };
        rustix::fs::fallocate(&self.0, flags, offset, len)
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        found(rustix::fs::seek(&self.0, SeekFrom::Data(offset)))
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        found(rustix::fs::seek(&self.0, SeekFrom::Hole(offset)))
    }

    fn stat(&self) -> Result<Stat> {
        local_attr::stat_fd(self.0.as_fd())
    }

    fn fetch(&self, len: u64) {
        let _ = rustix::fs::fadvise(&self.0, 0, NonZero::new(len), Advice::WillNeed);
    }

    fn read_ahead(&self) {
        // A hint: a filesystem that knows nothing of it reads all the same.
        let _ = rustix::fs::fadvise(&self.0, 0, None, Advice::Sequential);
    }

    fn forget(&self, offset: u64, len: u64) {
        let _ = rustix::fs::fadvise(&self.0, offset, NonZero::new(len), Advice::DontNeed);
    }
}

fn flags_of(access: Access) -> OFlags {
    match access {
        Access::Read => OFlags::RDONLY,
        Access::ReadWrite => OFlags::RDWR,
    }
}

/// The file just opened, if it is one: a name may lead to anything.
fn regular(fd: OwnedFd) -> Result<LocalFile> {
    match local_attr::stat_fd(&fd)?.kind {
        FileKind::Regular => Ok(LocalFile(fd)),
        FileKind::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::NXIO),
    }
}

fn found(position: Result<u64>) -> Result<Option<u64>> {
    match position {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(e) => Err(e),
    }
}

impl From<FileTime> for rustix::fs::Timespec {
    fn from(time: FileTime) -> Self {
        Self { tv_sec: time.secs, tv_nsec: time.nanos.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_rename_knows_no_flags_a_name_that_is_taken_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["a", "b"] {
            std::fs::write(dir.path().join(name), name).expect("written");
        }
        let root = LocalDir::open(dir.path()).expect("opened").root().expect("its root");
        assert_eq!(LocalDir::rename_to_free(&root, "a", &root, "b"), Err(Errno::EXIST));
        assert_eq!(LocalDir::rename_to_free(&root, "c", &root, "d"), Err(Errno::NOENT));
        LocalDir::rename_to_free(&root, "a", &root, "c").expect("free");
        for (name, text) in [("b", Some("b")), ("c", Some("a")), ("a", None)] {
            assert_eq!(std::fs::read_to_string(dir.path().join(name)).ok().as_deref(), text);
        }
    }
}
