//! The files under `.kmsfs/`: opened relative to a directory descriptor, without following symbolic links, read with
//! a bound and replaced atomically (FORMAT 2 and 4.1).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, fsync, mkdirat, openat, renameat, unlinkat};

/// The directory at the root of a volume that holds everything that is not an encrypted entry.
pub const META_DIR: &str = ".kmsfs";

const READ_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// The `.kmsfs` directory of a volume.
#[derive(Debug)]
pub struct MetaDir(OwnedFd);

impl MetaDir {
    /// Opens `.kmsfs` under `root`. `NotFound` if `root` holds no volume.
    pub fn open(root: &Path) -> io::Result<Self> {
        let root = open_dir(root)?;
        Self::open_at(&root)
    }

    fn open_at(root: impl AsFd) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(openat(root, META_DIR, flags, Mode::empty())?))
    }

    /// Makes `.kmsfs` under `root`, readable for its owner only, and its directory entry durable.
    pub fn create(root: &Path) -> io::Result<Self> {
        let root = open_dir(root)?;
        mkdirat(&root, META_DIR, Mode::RWXU)?;
        fsync(&root)?;
        Self::open_at(&root)
    }

    /// The content of regular file `name`, or `InvalidData` if it is longer than `limit` bytes or another type.
    pub fn read(&self, name: &str, limit: usize) -> io::Result<Vec<u8>> {
        let file = self.open_file(name, READ_FLAGS)?;
        let mut bytes = Vec::new();
        file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is longer than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// Replaces `name` by `content`: a temporary file, fsync, rename, fsync of the directory. After an error the old
    /// file is as it was.
    pub fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}.tmp");
        self.remove(&temporary)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.0, &temporary, flags, Mode::RUSR | Mode::WUSR)?);
        let written = file.write_all(content).and_then(|()| file.sync_all());
        let renamed = written.and_then(|()| renameat(&self.0, &temporary, &self.0, name).map_err(io::Error::from));
        if let Err(e) = renamed {
            // The first error is the one to report.
            let _ = unlinkat(&self.0, &temporary, AtFlags::empty());
            return Err(e);
        }
        Ok(fsync(&self.0)?)
    }

    /// Removes `name`; whether it was there.
    pub fn remove(&self, name: &str) -> io::Result<bool> {
        match unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether `name` exists, of whatever type.
    pub fn exists(&self, name: &str) -> io::Result<bool> {
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens regular file `name` for reading and writing and creates it if it is missing.
    pub fn open_or_create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        regular(name, File::from(openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// Opens regular file `name` for reading.
    pub fn open_read(&self, name: &str) -> io::Result<File> {
        self.open_file(name, READ_FLAGS)
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        regular(name, File::from(openat(&self.0, name, flags, Mode::empty())?))
    }
}

fn regular(name: &str, file: File) -> io::Result<File> {
    if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is not a regular file")))
    }
}

/// Opens a directory that the user named; symbolic links on the way are the user's own.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_leaves_no_temporary_file_and_survives_an_old_one() {
        let root = tempfile::tempdir().expect("temporary directory");
        let meta = MetaDir::create(root.path()).expect("create");
        std::fs::write(root.path().join(".kmsfs/volume.tmp"), b"left over by a crash").expect("write");
        meta.replace("volume", b"one").expect("replace");
        meta.replace("volume", b"two").expect("replace");
        assert_eq!(meta.read("volume", 3).expect("read"), b"two");
        assert!(!meta.exists("volume.tmp").expect("stat"));
        assert_eq!(meta.read("volume", 2).expect_err("too long").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn links_and_other_types_are_refused() {
        let root = tempfile::tempdir().expect("temporary directory");
        assert_eq!(MetaDir::open(root.path()).expect_err("no volume").kind(), io::ErrorKind::NotFound);
        let meta = MetaDir::create(root.path()).expect("create");
        std::os::unix::fs::symlink("/etc/passwd", root.path().join(".kmsfs/volume")).expect("symlink");
        assert!(meta.read("volume", 1 << 20).is_err());
        assert!(meta.open_or_create("volume").is_err());
        std::fs::create_dir(root.path().join(".kmsfs/volume.bak")).expect("mkdir");
        assert!(meta.read("volume.bak", 1 << 20).is_err());
    }
}
