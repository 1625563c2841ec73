//! Extended attributes: names and values of `user.*` are encrypted, the kernel's own namespaces are passed through
//! (FORMAT 8.4).

use rustix::io::Errno;

use super::Result;
use super::fs::Vfs;
use super::inode::Inode;
use crate::env::random;
use crate::format::{Outcome, xattr};
use crate::store::{Backing, FileKind, Target, XattrMode};
use crate::sync::lock;

const USER: &str = "user.";
const ACL_DEFAULT: &str = "system.posix_acl_default";
const ACL_ACCESS: &str = "system.posix_acl_access";
const TRUSTED: &str = "trusted.";
const SECURITY: &str = "security.";

/// The name of an attribute in the backing.
enum DiskName {
    Encrypted(String),
    Plain(String),
}

impl DiskName {
    fn as_str(&self) -> &str {
        match self {
            Self::Encrypted(name) | Self::Plain(name) => name,
        }
    }
}

impl<B: Backing> Vfs<B> {
    fn disk_name(&self, inode: &Inode<B>, name: &[u8]) -> Result<DiskName> {
        if name.starts_with(USER.as_bytes()) {
            // A namespace is no name, Linux says.
            if name.len() == USER.len() {
                return Err(Errno::INVAL.into());
            }
            if !matches!(inode.kind, FileKind::Regular | FileKind::Directory) {
                return Err(Errno::PERM.into());
            }
            return Ok(DiskName::Encrypted(xattr::encode_name(&self.keys, name)?));
        }
        let name = std::str::from_utf8(name).map_err(|_| Errno::OPNOTSUPP)?;
        if is_plain(name) { Ok(DiskName::Plain(name.to_owned())) } else { Err(Errno::OPNOTSUPP.into()) }
    }

    /// The value of an attribute.
    ///
    /// # Errors
    /// `ENODATA`, `ERANGE` for a name that cannot be stored, `XattrAuth` for a forged value, `EOPNOTSUPP` for a
    /// namespace that Linux does not have.
    pub fn get_xattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        let disk = match self.disk_name(&inode, name) {
            // There is none, where none can be.
            Err(error) if error.errno() == Errno::PERM => return Err(Errno::NODATA.into()),
            other => other?,
        };
        let value = self.with_target(&inode, |target| self.backing.get_xattr(target, disk.as_str()))?;
        match disk {
            DiskName::Plain(_) => Ok(value),
            DiskName::Encrypted(_) => {
                let value = xattr::decode_value(&self.keys, name, &value).map_err(Into::into);
                Ok(self.report(&inode, value)?.to_vec())
            }
        }
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA` by `mode`, `ERANGE`, `E2BIG`, `EPERM` for `user.*` on other objects than files and
    /// directories, or the backing's error.
    pub fn set_xattr(&self, ino: u64, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.check_writable()?;
        let inode = self.inode(ino)?;
        let disk = self.disk_name(&inode, name)?;
        let sealed;
        let stored = match &disk {
            DiskName::Plain(_) => value,
            DiskName::Encrypted(_) => {
                if value.len() > xattr::max_value(name) {
                    return Err(Errno::TOOBIG.into());
                }
                sealed = xattr::encode_value(&self.keys, name, value, &random(&*self.volume.entropy));
                &sealed
            }
        };
        let set = |target: Target<'_, B>| self.backing.set_xattr(target, disk.as_str(), stored, mode);
        if disk.as_str() == ACL_ACCESS { self.change_mode(&inode, set) } else { self.change_target(&inode, set) }?;
        self.note_acl(&inode, disk.as_str());
        Ok(())
    }

    /// Names of the attributes. `trusted.*` is shown to root only, as Linux does.
    ///
    /// # Errors
    /// The backing's error.
    pub fn list_xattrs(&self, ino: u64, show_trusted: bool) -> Result<Vec<Vec<u8>>> {
        let inode = self.inode(ino)?;
        let names = self.with_target(&inode, |target| self.backing.list_xattrs(target))?;
        let plain = |disk: String| {
            if xattr::is_long(&disk) {
                return self.long_name(&inode, &disk);
            }
            if disk.starts_with(USER) {
                return xattr::decode_name(&self.keys, disk.as_bytes())
                    .inspect_err(|_: &Outcome| {
                        tracing::debug!(ino = inode.number, "an attribute whose name does not decrypt is not shown");
                    })
                    .ok();
            }
            (is_plain(&disk) && (show_trusted || !disk.starts_with(TRUSTED))).then(|| disk.into_bytes())
        };
        Ok(names.into_iter().filter_map(plain).collect())
    }

    /// The full name of an attribute that holds it beside its value.
    fn long_name(&self, inode: &Inode<B>, disk: &str) -> Option<Vec<u8>> {
        // What cannot be read now, or was removed, is not there; what is forged is an event.
        let data = self.with_target(inode, |target| self.modes.get_xattr(target, disk)).ok()?;
        let decoded = xattr::decode_long(&self.keys, disk, &data).map_err(Into::into);
        self.report(inode, decoded).ok().map(|(name, _)| name)
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// `ENODATA` or the backing's error.
    pub fn remove_xattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        let inode = self.inode(ino)?;
        let disk = self.disk_name(&inode, name)?;
        self.change_target(&inode, |target| self.backing.remove_xattr(target, disk.as_str()))?;
        self.note_acl(&inode, disk.as_str());
        Ok(())
    }

    /// A directory's default ACL changed: what is known of it is not true any more.
    fn note_acl(&self, inode: &Inode<B>, name: &str) {
        if name == ACL_DEFAULT {
            *lock(&inode.dir.default_acl) = None;
        }
    }
}

fn is_plain(name: &str) -> bool {
    name == ACL_ACCESS || name == ACL_DEFAULT || name.starts_with(TRUSTED) || name.starts_with(SECURITY)
}
