//! The operations of a filesystem by path and open file, as both sides of a comparison offer them.

use std::collections::BTreeMap;

use kmsfs::store::{
    Access, Allocate, Backing, BackingFile, FileKind, FileTime, RawEntry, RenameMode, SetTime, Stat, Target, XattrMode,
};
use kmsfs::vfs::{FallocateMode, ROOT, SetAttr, Vfs};
use rustix::io::Errno;

use crate::fixture::{Fixture, ROOT_USER};

pub type Result<T> = std::result::Result<T, Errno>;
pub type Path<'a> = &'a [&'a str];

/// Attributes that every filesystem must agree on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plain {
    pub kind: FileKind,
    pub mode: u32,
    /// 0 of a directory, which not every filesystem counts.
    pub nlink: u64,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    /// 0 of a directory.
    pub size: u64,
    pub mtime: FileTime,
}

/// A filesystem under test. Open files are numbered by the order of the list that they are kept in.
pub trait Subject {
    fn create(&mut self, path: Path<'_>, mode: u32) -> Result<()>;
    fn open(&mut self, path: Path<'_>, write: bool) -> Result<()>;
    fn close(&mut self, file: usize);
    fn open_files(&self) -> usize;
    fn read(&self, file: usize, offset: u64, len: usize) -> Result<Vec<u8>>;
    fn write(&self, file: usize, offset: u64, data: &[u8]) -> Result<()>;
    fn set_len(&self, file: usize, len: u64) -> Result<()>;
    fn allocate(&self, file: usize, how: Allocate, offset: u64, len: u64) -> Result<()>;
    fn seek(&self, file: usize, offset: u64) -> Result<(Option<u64>, Option<u64>)>;
    fn fsync(&self, file: usize, data_only: bool) -> Result<()>;
    fn stat_file(&self, file: usize) -> Result<Plain>;
    /// Number of the inode.
    fn file_id(&self, file: usize) -> u64;

    fn mkdir(&self, path: Path<'_>, mode: u32) -> Result<()>;
    fn mknod(&self, path: Path<'_>, kind: FileKind, mode: u32) -> Result<()>;
    fn symlink(&self, path: Path<'_>, target: &[u8]) -> Result<()>;
    fn read_link(&self, path: Path<'_>) -> Result<Vec<u8>>;
    fn link(&self, path: Path<'_>, to: Path<'_>) -> Result<()>;
    fn unlink(&self, path: Path<'_>) -> Result<()>;
    fn rmdir(&self, path: Path<'_>) -> Result<()>;
    fn rename(&self, path: Path<'_>, to: Path<'_>, mode: RenameMode) -> Result<()>;
    /// Names and types; `.` and `..` are left out.
    fn list(&self, path: Path<'_>) -> Result<BTreeMap<String, FileKind>>;
    fn fsync_dir(&self, path: Path<'_>) -> Result<()>;

    fn stat(&self, path: Path<'_>) -> Result<Plain>;
    fn set_mode(&self, path: Path<'_>, mode: u32) -> Result<()>;
    fn set_mtime(&self, path: Path<'_>, mtime: FileTime) -> Result<()>;
    fn get_xattr(&self, path: Path<'_>, name: &str) -> Result<Vec<u8>>;
    fn set_xattr(&self, path: Path<'_>, name: &str, value: &[u8], mode: XattrMode) -> Result<()>;
    fn list_xattrs(&self, path: Path<'_>) -> Result<Vec<String>>;
    fn remove_xattr(&self, path: Path<'_>, name: &str) -> Result<()>;

    /// Closes everything, and mounts again where there is a mount.
    fn remount(&mut self);
}

fn plain(mut stat: Stat) -> Plain {
    if stat.kind == FileKind::Directory {
        (stat.nlink, stat.size) = (0, 0);
    }
    let Stat { kind, mode, nlink, uid, gid, rdev, size, mtime, .. } = stat;
    Plain { kind, mode, nlink, uid, gid, rdev, size, mtime }
}

/// A tree of plaintext: the model, and a directory of the host.
pub struct PlainTree<B: Backing> {
    backing: B,
    files: Vec<B::File>,
}

impl<B: Backing> PlainTree<B> {
    pub fn new(backing: B) -> Self {
        Self { backing, files: Vec::new() }
    }

    fn dir(&self, path: Path<'_>) -> Result<B::Dir> {
        path.iter().try_fold(self.backing.root()?, |dir, name| self.backing.open_dir(&dir, name))
    }

    /// The directory that a path ends in, and the last name.
    fn at<'a>(&self, path: Path<'a>) -> Result<(B::Dir, &'a str)> {
        let (name, dirs) = path.split_last().expect("the root is never the object of an operation by name");
        Ok((self.dir(dirs)?, name))
    }

    fn on<T>(&self, path: Path<'_>, work: impl FnOnce(Target<'_, B>) -> Result<T>) -> Result<T> {
        if path.is_empty() {
            return work(Target::Dir(&self.backing.root()?));
        }
        let (dir, name) = self.at(path)?;
        work(Target::Named(&dir, name))
    }
}

impl<B: Backing> Subject for PlainTree<B> {
    fn create(&mut self, path: Path<'_>, mode: u32) -> Result<()> {
        let (dir, name) = self.at(path)?;
        self.files.push(self.backing.create(&dir, name, mode)?);
        Ok(())
    }

    fn open(&mut self, path: Path<'_>, write: bool) -> Result<()> {
        let (dir, name) = self.at(path)?;
        let access = if write { Access::ReadWrite } else { Access::Read };
        self.files.push(self.backing.open(&dir, name, access)?);
        Ok(())
    }

    fn close(&mut self, file: usize) {
        self.files.swap_remove(file);
    }

    fn open_files(&self) -> usize {
        self.files.len()
    }

    fn read(&self, file: usize, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut out = vec![0xff; len];
        let done = self.files[file].read_at(&mut out, offset)?;
        out.truncate(done);
        Ok(out)
    }

    fn write(&self, file: usize, offset: u64, data: &[u8]) -> Result<()> {
        self.files[file].write_at(data, offset)
    }

    fn set_len(&self, file: usize, len: u64) -> Result<()> {
        self.files[file].set_len(len)
    }

    fn allocate(&self, file: usize, how: Allocate, offset: u64, len: u64) -> Result<()> {
        self.files[file].allocate(how, offset, len)
    }

    fn seek(&self, file: usize, offset: u64) -> Result<(Option<u64>, Option<u64>)> {
        Ok((self.files[file].seek_data(offset)?, self.files[file].seek_hole(offset)?))
    }

    fn fsync(&self, file: usize, data_only: bool) -> Result<()> {
        self.files[file].sync(data_only)
    }

    fn stat_file(&self, file: usize) -> Result<Plain> {
        self.files[file].stat().map(plain)
    }

    fn file_id(&self, file: usize) -> u64 {
        self.files[file].stat().expect("an open file has attributes").ino
    }

    fn mkdir(&self, path: Path<'_>, mode: u32) -> Result<()> {
        let (dir, name) = self.at(path)?;
        self.backing.mkdir(&dir, name, mode)
    }

    fn mknod(&self, path: Path<'_>, kind: FileKind, mode: u32) -> Result<()> {
        let (dir, name) = self.at(path)?;
        self.backing.mknod(&dir, name, kind, mode, 0)
    }

    fn symlink(&self, path: Path<'_>, target: &[u8]) -> Result<()> {
        let (dir, name) = self.at(path)?;
        self.backing.symlink(target, &dir, name)
    }

    fn read_link(&self, path: Path<'_>) -> Result<Vec<u8>> {
        let (dir, name) = self.at(path)?;
        self.backing.read_link(Target::Named(&dir, name))
    }

    fn link(&self, path: Path<'_>, to: Path<'_>) -> Result<()> {
        let ((dir, name), (to_dir, to_name)) = (self.at(path)?, self.at(to)?);
        self.backing.link(&dir, name, &to_dir, to_name)
    }

    fn unlink(&self, path: Path<'_>) -> Result<()> {
        let (dir, name) = self.at(path)?;
        self.backing.unlink(&dir, name)
    }

    fn rmdir(&self, path: Path<'_>) -> Result<()> {
        let (dir, name) = self.at(path)?;
        self.backing.rmdir(&dir, name)
    }

    fn rename(&self, path: Path<'_>, to: Path<'_>, mode: RenameMode) -> Result<()> {
        let ((dir, name), (to_dir, to_name)) = (self.at(path)?, self.at(to)?);
        self.backing.rename(&dir, name, &to_dir, to_name, mode)
    }

    fn list(&self, path: Path<'_>) -> Result<BTreeMap<String, FileKind>> {
        let dir = self.dir(path)?;
        let mut list = self.backing.list(&dir)?;
        let mut found = BTreeMap::new();
        let mut batch: Vec<RawEntry> = Vec::new();
        let mut from = 0;
        loop {
            self.backing.read_list(&mut list, from, &mut batch)?;
            let Some(last) = batch.last() else { return Ok(found) };
            from = last.next;
            for entry in batch.drain(..) {
                let name = String::from_utf8(entry.name).unwrap();
                if name != "." && name != ".." {
                    let kind = entry.kind.expect("the host's filesystem tells types");
                    assert_eq!(found.insert(name, kind), None, "no entry is listed twice");
                }
            }
        }
    }

    fn fsync_dir(&self, path: Path<'_>) -> Result<()> {
        self.backing.sync_dir(&self.dir(path)?)
    }

    fn stat(&self, path: Path<'_>) -> Result<Plain> {
        self.on(path, |target| self.backing.stat(target)).map(plain)
    }

    fn set_mode(&self, path: Path<'_>, mode: u32) -> Result<()> {
        self.on(path, |target| self.backing.set_mode(target, mode))
    }

    fn set_mtime(&self, path: Path<'_>, mtime: FileTime) -> Result<()> {
        self.on(path, |target| self.backing.set_times(target, SetTime::Omit, SetTime::At(mtime)))
    }

    fn get_xattr(&self, path: Path<'_>, name: &str) -> Result<Vec<u8>> {
        self.on(path, |target| self.backing.get_xattr(target, name))
    }

    fn set_xattr(&self, path: Path<'_>, name: &str, value: &[u8], mode: XattrMode) -> Result<()> {
        self.on(path, |target| self.backing.set_xattr(target, name, value, mode))
    }

    fn list_xattrs(&self, path: Path<'_>) -> Result<Vec<String>> {
        let mut names = self.on(path, |target| self.backing.list_xattrs(target))?;
        names.retain(|name| name.starts_with("user."));
        names.sort();
        Ok(names)
    }

    fn remove_xattr(&self, path: Path<'_>, name: &str) -> Result<()> {
        self.on(path, |target| self.backing.remove_xattr(target, name))
    }

    fn remount(&mut self) {
        self.files.clear();
    }
}

/// A mounted volume. Inodes are looked up and forgotten as the kernel does.
pub struct Mounted<B: Backing + Clone> {
    pub fixture: Fixture<B>,
    pub vfs: Vfs<B>,
    files: Vec<OpenFile>,
}

struct OpenFile {
    ino: u64,
    handle: u64,
}

/// What a path was resolved to, with the references that this took.
struct Resolved<'a, B: Backing> {
    vfs: &'a Vfs<B>,
    inodes: Vec<u64>,
}

impl<B: Backing> Resolved<'_, B> {
    fn ino(&self) -> u64 {
        self.inodes.last().copied().unwrap_or(ROOT)
    }
}

impl<B: Backing> Drop for Resolved<'_, B> {
    fn drop(&mut self) {
        for ino in self.inodes.drain(..).rev() {
            self.vfs.forget(ino, 1);
        }
    }
}

fn errno<T>(result: kmsfs::vfs::Result<T>) -> Result<T> {
    result.map_err(|error| error.errno())
}

impl<B: Backing + Clone> Mounted<B> {
    pub fn new(fixture: Fixture<B>) -> Self {
        let vfs = fixture.mount_raising_later();
        Self { fixture, vfs, files: Vec::new() }
    }

    /// Inodes known with nothing open: none, the root excepted, unless references were lost count of.
    pub fn known_when_closed(&mut self) -> usize {
        while !self.files.is_empty() {
            self.close(0);
        }
        self.vfs.known_inodes()
    }

    fn resolve(&self, path: Path<'_>) -> Result<Resolved<'_, B>> {
        let mut resolved = Resolved { vfs: &self.vfs, inodes: Vec::new() };
        for name in path {
            let attr = errno(self.vfs.lookup(resolved.ino(), name.as_bytes()))?;
            resolved.inodes.push(attr.ino);
        }
        Ok(resolved)
    }

    fn at<'a>(&self, path: Path<'a>) -> Result<(Resolved<'_, B>, &'a [u8])> {
        let (name, dirs) = path.split_last().expect("the root is never the object of an operation by name");
        Ok((self.resolve(dirs)?, name.as_bytes()))
    }

    /// The place of a new entry. The kernel looks a name up before it asks for an entry to be made there.
    fn at_new<'a>(&self, path: Path<'a>) -> Result<(Resolved<'_, B>, &'a [u8])> {
        match self.resolve(path) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => self.at(path),
            Err(other) => Err(other),
        }
    }

    /// A file without a name in the root, open for reading and writing (`O_TMPFILE`).
    pub fn create_unnamed(&mut self, mode: u32) -> Result<()> {
        let (attr, opened) = errno(self.vfs.tmpfile(ROOT, mode, &ROOT_USER))?;
        self.files.push(OpenFile { ino: attr.ino, handle: opened.handle });
        Ok(())
    }

    /// Gives an open file a name.
    pub fn link_open(&self, file: usize, to: Path<'_>) -> Result<()> {
        let (dir, name) = self.at_new(to)?;
        self.made(self.vfs.link(self.files[file].ino, dir.ino(), name))
    }

    /// Takes back the reference that making an entry counts.
    fn made(&self, made: kmsfs::vfs::Result<kmsfs::vfs::Attr>) -> Result<()> {
        let attr = errno(made)?;
        self.vfs.forget(attr.ino, 1);
        Ok(())
    }
}

fn plain_attr(attr: kmsfs::vfs::Attr) -> Plain {
    let kmsfs::vfs::Attr { kind, mode, uid, gid, rdev, mtime, .. } = attr;
    let (nlink, size) = if kind == FileKind::Directory { (0, 0) } else { (attr.nlink, attr.size) };
    Plain { kind, mode, nlink, uid, gid, rdev, size, mtime }
}

impl<B: Backing + Clone> Subject for Mounted<B> {
    fn create(&mut self, path: Path<'_>, mode: u32) -> Result<()> {
        let (dir, name) = self.at_new(path)?;
        let (attr, opened) = errno(self.vfs.create(dir.ino(), name, mode, &ROOT_USER))?;
        drop(dir);
        self.files.push(OpenFile { ino: attr.ino, handle: opened.handle });
        Ok(())
    }

    fn open(&mut self, path: Path<'_>, write: bool) -> Result<()> {
        let mut resolved = self.resolve(path)?;
        let opened = errno(self.vfs.open(resolved.ino(), write))?;
        // The open file goes on referring to its inode.
        let ino = resolved.inodes.pop().expect("a path to a file is not empty");
        drop(resolved);
        self.files.push(OpenFile { ino, handle: opened.handle });
        Ok(())
    }

    fn close(&mut self, file: usize) {
        let file = self.files.swap_remove(file);
        self.vfs.release(file.handle);
        self.vfs.forget(file.ino, 1);
    }

    fn open_files(&self) -> usize {
        self.files.len()
    }

    fn read(&self, file: usize, offset: u64, len: usize) -> Result<Vec<u8>> {
        errno(self.vfs.read(self.files[file].handle, offset, len, |data| data.to_vec()))
    }

    fn write(&self, file: usize, offset: u64, data: &[u8]) -> Result<()> {
        errno(self.vfs.write(self.files[file].handle, offset, data))
    }

    fn set_len(&self, file: usize, len: u64) -> Result<()> {
        let OpenFile { ino, handle } = self.files[file];
        // The kernel keeps the time, and sends it with the size.
        let change = SetAttr { size: Some(len), mtime: Some(SetTime::Now), ..SetAttr::default() };
        errno(self.vfs.setattr(ino, Some(handle), &change)).map(drop)
    }

    fn allocate(&self, file: usize, how: Allocate, offset: u64, len: u64) -> Result<()> {
        let mode = match how {
            Allocate::KeepSize => FallocateMode::KeepSize,
            Allocate::PunchHole => FallocateMode::PunchHole,
            Allocate::ZeroRange => FallocateMode::ZeroRange { keep_size: true },
        };
        let OpenFile { ino, handle } = self.files[file];
        errno(self.vfs.fallocate(handle, mode, offset, len))?;
        // As with the size.
        let change = SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() };
        errno(self.vfs.setattr(ino, Some(handle), &change)).map(drop)
    }

    fn seek(&self, file: usize, offset: u64) -> Result<(Option<u64>, Option<u64>)> {
        let none = |found: kmsfs::vfs::Result<u64>| match errno(found) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            Err(other) => Err(other),
        };
        let handle = self.files[file].handle;
        Ok((none(self.vfs.seek_data(handle, offset))?, none(self.vfs.seek_hole(handle, offset))?))
    }

    fn fsync(&self, file: usize, data_only: bool) -> Result<()> {
        errno(self.vfs.fsync(self.files[file].handle, data_only))
    }

    fn stat_file(&self, file: usize) -> Result<Plain> {
        errno(self.vfs.getattr(self.files[file].ino)).map(plain_attr)
    }

    fn file_id(&self, file: usize) -> u64 {
        self.files[file].ino
    }

    fn mkdir(&self, path: Path<'_>, mode: u32) -> Result<()> {
        let (dir, name) = self.at_new(path)?;
        self.made(self.vfs.mkdir(dir.ino(), name, mode, &ROOT_USER))
    }

    fn mknod(&self, path: Path<'_>, kind: FileKind, mode: u32) -> Result<()> {
        let (dir, name) = self.at_new(path)?;
        self.made(self.vfs.mknod(dir.ino(), name, kind, mode, 0, &ROOT_USER))
    }

    fn symlink(&self, path: Path<'_>, target: &[u8]) -> Result<()> {
        let (dir, name) = self.at_new(path)?;
        self.made(self.vfs.symlink(dir.ino(), name, target, &ROOT_USER))
    }

    fn read_link(&self, path: Path<'_>) -> Result<Vec<u8>> {
        errno(self.vfs.read_link(self.resolve(path)?.ino()))
    }

    fn link(&self, path: Path<'_>, to: Path<'_>) -> Result<()> {
        let from = self.resolve(path)?;
        let (dir, name) = self.at_new(to)?;
        self.made(self.vfs.link(from.ino(), dir.ino(), name))
    }

    fn unlink(&self, path: Path<'_>) -> Result<()> {
        let (dir, name) = self.at(path)?;
        // The kernel knows the inode before it asks for its removal.
        let _known = self.resolve(path)?;
        errno(self.vfs.unlink(dir.ino(), name))
    }

    fn rmdir(&self, path: Path<'_>) -> Result<()> {
        let (dir, name) = self.at(path)?;
        let _known = self.resolve(path)?;
        errno(self.vfs.rmdir(dir.ino(), name))
    }

    fn rename(&self, path: Path<'_>, to: Path<'_>, mode: RenameMode) -> Result<()> {
        let ((dir, name), (to_dir, to_name)) = (self.at(path)?, self.at(to)?);
        // What the kernel checks before it asks.
        let source = self.resolve(path)?;
        let target = match self.resolve(to) {
            Err(Errno::NOENT) => None,
            other => Some(other?),
        };
        let exchange = mode == RenameMode::Exchange;
        match (mode, &target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EXIST),
            (RenameMode::Exchange, None) => return Err(Errno::NOENT),
            _ if to.len() > path.len() && to.starts_with(path) => return Err(Errno::INVAL),
            _ if path.len() > to.len() && path.starts_with(to) => {
                return Err(if exchange { Errno::INVAL } else { Errno::NOTEMPTY });
            }
            _ => {}
        }
        let done = errno(self.vfs.rename(dir.ino(), name, to_dir.ino(), to_name, mode));
        drop((source, target));
        done
    }

    fn list(&self, path: Path<'_>) -> Result<BTreeMap<String, FileKind>> {
        let dir = self.resolve(path)?;
        let handle = errno(self.vfs.open_dir(dir.ino()))?;
        let mut found = BTreeMap::new();
        let mut from = 0;
        loop {
            // A reply has room for few entries, and with attributes each counts as a lookup.
            let mut room = 3;
            let mut batch = Vec::new();
            let emit = |entry: &kmsfs::vfs::DirEntry| {
                room -= 1;
                if room >= 0 {
                    batch.push(entry.clone());
                }
                room >= 0
            };
            let done = errno(self.vfs.read_dir(handle, from, true, emit));
            let Some(last) = batch.last() else {
                self.vfs.release_dir(handle);
                return done.map(|()| found);
            };
            from = last.next;
            for entry in batch {
                if let Some(attr) = entry.attr {
                    assert_eq!((attr.ino, attr.kind), (entry.ino, entry.kind));
                    self.vfs.forget(attr.ino, 1);
                }
                let name = String::from_utf8(entry.name).unwrap();
                if name != "." && name != ".." {
                    assert_eq!(found.insert(name, entry.kind), None, "no entry is listed twice");
                }
            }
        }
    }

    fn fsync_dir(&self, path: Path<'_>) -> Result<()> {
        let dir = self.resolve(path)?;
        let handle = errno(self.vfs.open_dir(dir.ino()))?;
        let done = errno(self.vfs.fsync_dir(handle));
        self.vfs.release_dir(handle);
        done
    }

    fn stat(&self, path: Path<'_>) -> Result<Plain> {
        errno(self.vfs.getattr(self.resolve(path)?.ino())).map(plain_attr)
    }

    fn set_mode(&self, path: Path<'_>, mode: u32) -> Result<()> {
        let change = SetAttr { mode: Some(mode), ..SetAttr::default() };
        errno(self.vfs.setattr(self.resolve(path)?.ino(), None, &change)).map(drop)
    }

    fn set_mtime(&self, path: Path<'_>, mtime: FileTime) -> Result<()> {
        let change = SetAttr { mtime: Some(SetTime::At(mtime)), ..SetAttr::default() };
        errno(self.vfs.setattr(self.resolve(path)?.ino(), None, &change)).map(drop)
    }

    fn get_xattr(&self, path: Path<'_>, name: &str) -> Result<Vec<u8>> {
        errno(self.vfs.get_xattr(self.resolve(path)?.ino(), name.as_bytes()))
    }

    fn set_xattr(&self, path: Path<'_>, name: &str, value: &[u8], mode: XattrMode) -> Result<()> {
        errno(self.vfs.set_xattr(self.resolve(path)?.ino(), name.as_bytes(), value, mode))
    }

    fn list_xattrs(&self, path: Path<'_>) -> Result<Vec<String>> {
        let names = errno(self.vfs.list_xattrs(self.resolve(path)?.ino(), true))?;
        let mut names: Vec<String> = names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect();
        names.retain(|name| name.starts_with("user."));
        names.sort();
        Ok(names)
    }

    fn remove_xattr(&self, path: Path<'_>, name: &str) -> Result<()> {
        errno(self.vfs.remove_xattr(self.resolve(path)?.ino(), name.as_bytes()))
    }

    fn remount(&mut self) {
        self.files.clear();
        self.vfs = self.fixture.mount_raising_later();
    }
}
