//! The directory that a salvage writes to: plaintext names, and nothing followed on the way, as a damaged or hostile volume may
//! lead to two things under one name.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat, fchmod,
    fchown, fsetxattr, futimens, linkat, makedev, mkdirat, mknodat, openat2, setxattr, symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::store::{FileKind, FileTime, Stat};

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);
const PIN: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Bytes of a path that one call takes; longer ones are walked in parts.
const PATH_PART: usize = 3000;

/// The directory.
pub struct Out {
    root: OwnedFd,
}

/// Where an object was written.
pub struct Place {
    parent: OwnedFd,
    /// Its name there, with a number behind it where the name was taken.
    name: Vec<u8>,
    /// Its path below the directory.
    pub path: Vec<u8>,
}

impl Out {
    /// The empty directory at `path`, which is made if it is missing.
    ///
    /// # Errors
    /// `NOTEMPTY`, or the system's.
    pub fn new(path: &Path) -> Result<Self, Errno> {
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(other) => return Err(other),
        }
        let root = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        let mut entries = rustix::fs::Dir::read_from(&root)?;
        if entries.any(|entry| entry.is_ok_and(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))) {
            return Err(Errno::NOTEMPTY);
        }
        Ok(Self { root })
    }

    /// Makes the directory `path`; one that is there is used.
    pub fn mkdir(&self, path: &[u8]) -> Result<(), Errno> {
        if path.is_empty() {
            return Ok(());
        }
        let (parent, name) = self.parent(path)?;
        match mkdirat(&parent, name, Mode::RWXU) {
            Err(Errno::EXIST) => self.dir(path).map(drop),
            other => other,
        }
    }

    /// Creates the file `path`, open for writing.
    pub fn create(&self, path: &[u8]) -> Result<(File, Place), Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.make(path, |parent, name| openat2(parent, name, flags, Mode::RUSR | Mode::WUSR, RESOLVE))
            .map(|(fd, place)| (File::from(fd), place))
    }

    /// Makes a symlink.
    pub fn symlink(&self, path: &[u8], target: &[u8]) -> Result<Place, Errno> {
        Ok(self.make(path, |parent, name| symlinkat(target, parent, name))?.1)
    }

    /// Makes a fifo, socket or device node.
    pub fn mknod(&self, path: &[u8], stat: &Stat) -> Result<Place, Errno> {
        let kind = match stat.kind {
            FileKind::Fifo => rustix::fs::FileType::Fifo,
            FileKind::Socket => rustix::fs::FileType::Socket,
            FileKind::CharDevice => rustix::fs::FileType::CharacterDevice,
            FileKind::BlockDevice => rustix::fs::FileType::BlockDevice,
            FileKind::Regular | FileKind::Directory | FileKind::Symlink => return Err(Errno::INVAL),
        };
        let (mode, device) =
            (Mode::from_raw_mode(stat.mode), makedev(rustix::fs::major(stat.rdev), rustix::fs::minor(stat.rdev)));
        Ok(self.make(path, |parent, name| mknodat(parent, name, kind, mode, device))?.1)
    }

    /// Gives what was written at `path` the name `name` too.
    pub fn link(&self, path: &[u8], name: &[u8]) -> Result<(), Errno> {
        let (from, old) = self.parent(path)?;
        self.make(name, |parent, new| linkat(&from, old, parent, new, AtFlags::empty())).map(drop)
    }

    /// Sets a directory's attributes, once nothing is made in it any more.
    pub fn finish_dir(&self, path: &[u8], attributes: &Attributes) -> Result<(), Errno> {
        attributes.set_on(&self.dir(path)?)
    }

    fn make<T>(
        &self,
        path: &[u8],
        mut make: impl FnMut(&OwnedFd, &[u8]) -> Result<T, Errno>,
    ) -> Result<(T, Place), Errno> {
        const ATTEMPTS: u32 = 1000;
        let (parent, name) = self.parent(path)?;
        for attempt in 1..ATTEMPTS {
            let suffix = if attempt == 1 { Vec::new() } else { format!(".{attempt}").into_bytes() };
            let name = [name, &suffix].concat();
            match make(&parent, &name) {
                Err(Errno::EXIST) => {}
                made => {
                    let path = [path, &suffix].concat();
                    return made.map(|made| (made, Place { parent, name, path }));
                }
            }
        }
        Err(Errno::EXIST)
    }

    fn parent<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p [u8]), Errno> {
        let cut = path.iter().rposition(|b| *b == b'/');
        let (above, name) = cut.map_or((&[][..], path), |at| (&path[..at], &path[at + 1..]));
        Ok((self.dir(above)?, name))
    }

    fn dir(&self, mut path: &[u8]) -> Result<OwnedFd, Errno> {
        let mut dir = openat2(&self.root, ".", DIRECTORY, Mode::empty(), RESOLVE)?;
        while !path.is_empty() {
            // Names have 255 bytes at most, so a part has a slash.
            let cut = if path.len() <= PATH_PART { None } else { path[..PATH_PART].iter().rposition(|b| *b == b'/') };
            let (part, rest) = cut.map_or((path, &[][..]), |at| (&path[..at], &path[at + 1..]));
            dir = openat2(&dir, part, DIRECTORY, Mode::empty(), RESOLVE)?;
            path = rest;
        }
        Ok(dir)
    }
}

/// What is put on an object beside its content.
pub struct Attributes {
    /// As the backing has them.
    pub stat: Stat,
    /// Extended attributes in plaintext.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    /// Sets them on an open file or directory. Owner, ACLs and whatever else this process or that filesystem may not set stay
    /// as they are.
    ///
    /// # Errors
    /// The mode's and the times': every filesystem has these.
    pub fn set_on(&self, fd: impl std::os::fd::AsFd) -> Result<(), Errno> {
        let (uid, gid) = owner(&self.stat);
        let _ = fchown(&fd, Some(uid), Some(gid));
        for (name, value) in &self.xattrs {
            let _ = fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty());
        }
        fchmod(&fd, Mode::from_raw_mode(self.stat.mode))?;
        futimens(&fd, &times(&self.stat))
    }

    /// As [`Self::set_on`], on what cannot be opened.
    pub fn set_at(&self, place: &Place) -> Result<(), Errno> {
        let pinned = openat2(&place.parent, place.name.as_slice(), PIN, Mode::empty(), RESOLVE)?;
        // What is pinned takes none of the calls by descriptor.
        let object = format!("/proc/self/fd/{}", pinned.as_raw_fd());
        let (uid, gid) = owner(&self.stat);
        let _ = chownat(&pinned, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH);
        for (name, value) in &self.xattrs {
            let _ = setxattr(&object, name.as_slice(), value, XattrFlags::empty());
        }
        if self.stat.kind != FileKind::Symlink {
            chmod(&object, Mode::from_raw_mode(self.stat.mode))?;
        }
        utimensat(CWD, &object, &times(&self.stat), AtFlags::empty())
    }
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.uid), Gid::from_raw(stat.gid))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |time: FileTime| Timespec::from(time);
    Timestamps { last_access: time(stat.atime), last_modification: time(stat.mtime) }
}
