//! The files under `.kmsfs/`: opened relative to a directory descriptor, without following symbolic links, read with
//! a bound and replaced atomically (FORMAT 2 and 4.1).

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use crate::store::tree::{remove_own, replace};
use crate::store::{Access, Backing, BackingFile, LocalDir, Target};

/// The directory at the root of a volume that holds everything that is not an encrypted entry.
pub const META_DIR: &str = ".kmsfs";

/// The `.kmsfs` directory of a volume.
pub struct MetaDir<B: Backing = LocalDir> {
    backing: B,
    dir: B::Dir,
}

impl<B: Backing> fmt::Debug for MetaDir<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetaDir")
    }
}

impl MetaDir {
    /// Opens `.kmsfs` under `root`. `NotFound` if `root` holds no volume.
    pub fn open(root: &Path) -> io::Result<Self> {
        Self::of(LocalDir::open(root)?)
    }

    /// Makes `.kmsfs` under `root`, readable for its owner only, and its directory entry durable.
    pub fn create(root: &Path) -> io::Result<Self> {
        let backing = LocalDir::open(root)?;
        let root = backing.root()?;
        backing.mkdir(&root, META_DIR, 0o700)?;
        backing.sync_dir(&root)?;
        Self::of(backing)
    }

    /// Opens regular file `name` for reading and writing and creates it if it is missing.
    pub fn open_or_create(&self, name: &str) -> io::Result<File> {
        loop {
            match self.backing.open(&self.dir, name, Access::ReadWrite) {
                Ok(file) => return Ok(file.into()),
                Err(Errno::NOENT) => {}
                Err(other) => return Err(not_regular(name, other)),
            }
            match self.backing.create(&self.dir, name, 0o600) {
                Ok(file) => return Ok(file.into()),
                // Somebody else made it since.
                Err(Errno::EXIST) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// Opens regular file `name` for reading.
    pub fn open_read(&self, name: &str) -> io::Result<File> {
        let file = self.backing.open(&self.dir, name, Access::Read).map_err(|e| not_regular(name, e))?;
        Ok(file.into())
    }
}

impl<B: Backing> MetaDir<B> {
    /// That of the tree `backing`.
    pub fn of(backing: B) -> io::Result<Self> {
        let dir = backing.open_dir(&backing.root()?, META_DIR)?;
        Ok(Self { backing, dir })
    }

    /// The content of regular file `name`, or `InvalidData` if it is longer than `limit` bytes or another type.
    pub fn read(&self, name: &str, limit: usize) -> io::Result<Vec<u8>> {
        let file = self.backing.open(&self.dir, name, Access::Read).map_err(|e| not_regular(name, e))?;
        let mut bytes = vec![0; limit + 1];
        let len = file.read_at(&mut bytes, 0)?;
        if len > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is longer than {limit} bytes")));
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Replaces `name` by `content`, as [`replace`] does it.
    pub fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        Ok(replace(&self.backing, &self.dir, name, content)?)
    }

    /// Removes `name`; whether it was there.
    pub fn remove(&self, name: &str) -> io::Result<bool> {
        Ok(remove_own(&self.backing, &self.dir, name)?)
    }

    /// Whether `name` exists, of whatever type.
    pub fn exists(&self, name: &str) -> io::Result<bool> {
        match self.backing.stat(Target::Named(&self.dir, name)) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

/// What is said of a name that could not be opened.
fn not_regular(name: &str, error: Errno) -> io::Error {
    match error {
        Errno::NXIO => io::Error::new(io::ErrorKind::InvalidData, format!("{name} is not a regular file")),
        other => other.into(),
    }
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
