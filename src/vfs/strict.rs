//! Letting go of what is under a KMS key that may not be used any more (`key-state=strict`, ADR 13).

use std::io;

use super::fs::Vfs;
use crate::store::Backing;

impl<B: Backing> Vfs<B> {
    /// Asks whether the KMS keys in use may still be used, and lets go of everything under those that may not: requests of
    /// programs are refused, what the kernel has dirty is written and made durable, then data keys and page cache go. What
    /// comes back is opened again at the next request. `drop_pages` makes the kernel write back and drop what it has
    /// cached of an inode. To be called every second or so; it returns when all of that is done.
    pub fn enforce_keys(&self, drop_pages: &dyn Fn(u64) -> io::Result<()>) {
        let verdicts = self.volume.keys.look();
        for key in &verdicts.allowed {
            tracing::warn!(target: "kmsfs::keys", %key, "the KMS key {key} may be used again");
        }
        for (key, why) in &verdicts.refused {
            tracing::warn!(target: "kmsfs::keys", %key, "the files under the KMS key {key} are closed: {why}");
        }
        if !self.volume.keys.refuses(None) {
            return;
        }
        for inode in self.table.regular() {
            match inode.open_content() {
                Some(content) if content.drain_if_refused() => {
                    self.drop_pages(inode.number, drop_pages);
                    if let Err(error) = content.suspend() {
                        tracing::error!(ino = inode.number, "the flush before a key was let go of failed: {error}");
                    }
                }
                Some(_) => {}
                // Under which key a file is that nobody has open is not remembered.
                None if !verdicts.refused.is_empty() => self.drop_pages(inode.number, drop_pages),
                None => {}
            }
        }
    }

    fn drop_pages(&self, ino: u64, drop_pages: &dyn Fn(u64) -> io::Result<()>) {
        match drop_pages(ino) {
            Ok(()) => {}
            // The kernel knows of no such inode any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(ino, "the kernel keeps pages of a file whose key may not be used: {error}"),
        }
    }
}
