//! Whether a directory can be mounted on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::exit::{CliError, CliResult, Exit};
use super::mounts::{self, Life};
use crate::ops::VolumeError;

const ANOTHER: &str = "name an empty directory that you may read; mkdir makes one";

fn unusable(message: impl std::fmt::Display) -> CliError {
    CliError::new(Exit::Mountpoint, "MountpointUnusable", message)
}

/// Checks that `mountpoint` is an empty directory apart from `ciphertext`, and returns both without symbolic links.
pub fn check(ciphertext: &Path, mountpoint: &Path) -> CliResult<(PathBuf, PathBuf)> {
    let mnt = resolve(mountpoint)?;
    let dir = fs::canonicalize(ciphertext).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            VolumeError::NoDirectory { root: ciphertext.to_owned(), source: e }.into()
        }
        _ => CliError::io(ciphertext, "open the ciphertext directory", &e),
    })?;
    if mnt == dir {
        return Err(unusable(format_args!("{} is the ciphertext directory itself", mnt.display()))
            .hint("mount on another, empty directory"));
    }
    if mnt.starts_with(&dir) {
        return Err(unusable(format_args!(
            "the mountpoint {} is inside the ciphertext directory {}",
            mnt.display(),
            dir.display()
        ))
        .hint("mount on an empty directory outside of it"));
    }
    if dir.starts_with(&mnt) {
        return Err(unusable(format_args!(
            "the ciphertext directory {} is inside the mountpoint {} and would be hidden by the mount",
            dir.display(),
            mnt.display()
        ))
        .hint("mount on an empty directory outside of it"));
    }
    let mut entries = fs::read_dir(&mnt).map_err(|e| match e.raw_os_error() {
        // It has died since it was looked at, or statfs(2) was answered for another user's mount.
        Some(libc::ENOTCONN) => dead(&mnt),
        _ => unusable(format_args!("cannot read {}: {e}", mnt.display())).hint(ANOTHER),
    })?;
    if entries.next().is_some() {
        return Err(unusable(format_args!("the mountpoint {} is not empty", mnt.display()))
            .hint("mount on an empty directory; what is below a mountpoint cannot be seen while it is mounted"));
    }
    Ok((dir, mnt))
}

fn dead(mountpoint: &Path) -> CliError {
    unusable(format_args!("{} is a mount whose daemon has ended", mountpoint.display()))
        .hint(format_args!("remove it with: kmsfs umount {}", mountpoint.display()))
}

fn resolve(mountpoint: &Path) -> CliResult<PathBuf> {
    if mounts::life(mountpoint) == Life::Dead {
        return Err(dead(mountpoint));
    }
    let found = fs::canonicalize(mountpoint).and_then(|path| Ok((fs::metadata(&path)?, path)));
    match found {
        Ok((meta, path)) if meta.is_dir() => Ok(path),
        Ok((_, path)) => {
            Err(unusable(format_args!("the mountpoint {} is not a directory", path.display())).hint(ANOTHER))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(unusable(format_args!("the mountpoint {} does not exist", mountpoint.display()))
                .hint(format_args!("create it with: mkdir -p {}", mountpoint.display())))
        }
        Err(e) => Err(unusable(format_args!("cannot use the mountpoint {}: {e}", mountpoint.display())).hint(ANOTHER)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unusable_mountpoint_has_exit_20() {
        let root = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| root.path().join(name);
        for dir in ["cipher/sub", "full/x", "empty", "outer/cipher"] {
            fs::create_dir_all(at(dir)).expect("mkdir");
        }
        fs::write(at("file"), b"").expect("write");
        std::os::unix::fs::symlink(at("cipher/sub"), at("link")).expect("symlink");
        for (cipher, mnt, word) in [
            ("cipher", "missing", "does not exist"),
            ("cipher", "file", "not a directory"),
            ("cipher", "full", "not empty"),
            ("cipher", "cipher", "itself"),
            ("cipher", "cipher/sub", "inside the ciphertext"),
            ("cipher", "link", "inside the ciphertext"),
            ("outer/cipher", "outer", "hidden"),
        ] {
            let e = check(&at(cipher), &at(mnt)).expect_err(mnt);
            assert_eq!(e.exit, Exit::Mountpoint, "{mnt}");
            assert!(e.message.contains(word), "{mnt}: {}", e.message);
            assert!(e.hint.is_some(), "{mnt}");
        }
        let e = check(&at("none"), &at("empty")).expect_err("no ciphertext directory");
        assert_eq!(e.exit, Exit::NotInitialised);
        assert!(e.hint.expect("hint").contains("kmsfs init"));
        let (dir, mnt) = check(&at("cipher"), &at("empty/../empty")).expect("usable");
        assert!(dir.ends_with("cipher") && mnt.ends_with("empty"));
    }
}
