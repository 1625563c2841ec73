//! Letting go of what is under a KMS key that may not be used any more (`key-state=strict`, ADR 13).

use std::io;

use super::fs::Vfs;
use super::inode::Inode;
use crate::content::{self, Content};
use crate::store::Backing;
use crate::sync::{Arc, lock};

/// Files whose keys were let go of, and whose flush is still to come ([`Vfs::flush`]): it takes as long as the disk does. They
/// count as open until then, so that nobody opens one a second time beside the flush.
#[must_use = "what was written is to be flushed"]
pub struct Unflushed<B: Backing>(Vec<(OpenFile<B>, content::Unflushed)>);

impl<B: Backing> Unflushed<B> {
    /// Whether there is nothing to flush.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An inode and what is open of it.
type OpenFile<B> = (Arc<Inode<B>>, Arc<Content<B>>);

impl<B: Backing> Vfs<B> {
    /// Asks whether the KMS keys in use may still be used, and lets go of everything under those that may not: requests of
    /// programs are refused, of all files before anything else; what the kernel has dirty is written, then page cache and data keys
    /// go. What comes back is opened again at the next request. `drop_pages` makes the kernel write back and drop what it has
    /// cached of an inode. To be called every second or so; it returns when all of that is done. What was written is still to be
    /// flushed, which needs no key.
    pub fn enforce_keys(&self, drop_pages: &dyn Fn(u64) -> io::Result<()>) -> Unflushed<B> {
        let verdicts = self.volume.keys.look();
        for key in &verdicts.allowed {
            tracing::warn!(target: "kmsfs::keys", %key, "the KMS key {key} may be used again");
        }
        for (key, why) in &verdicts.refused {
            tracing::warn!(target: "kmsfs::keys", %key, "the files under the KMS key {key} are closed: {why}");
        }
        let mut unflushed = Unflushed(Vec::new());
        if !self.volume.keys.refuses(None) {
            return unflushed;
        }
        let (mut draining, mut busy, mut unopened) = (Vec::new(), Vec::new(), Vec::new());
        for inode in self.table.regular() {
            let Some(content) = inode.open_content() else {
                unopened.push(inode.number);
                continue;
            };
            match content.try_drain_if_refused() {
                Some(true) => draining.push((inode, content)),
                Some(false) => {}
                None => busy.push((inode, content)),
            }
        }
        self.close(draining, drop_pages, &mut unflushed);
        busy.retain(|(_, content)| content.drain_if_refused());
        self.close(busy, drop_pages, &mut unflushed);
        // Under which key a file is that nobody has open is not remembered.
        if !verdicts.refused.is_empty() {
            unopened.into_iter().for_each(|ino| self.drop_pages(ino, drop_pages));
        }
        if !unflushed.is_empty() {
            let files = unflushed.0.len();
            tracing::info!(target: "kmsfs::keys", files, "their pages and data keys are gone");
        }
        unflushed
    }

    /// Makes durable what was written to files before their keys were let go of. Where that fails, the next fsync through each
    /// handle tells.
    pub fn flush(&self, closed: Unflushed<B>) {
        if closed.is_empty() {
            return;
        }
        let files = closed.0.len();
        for ((inode, content), unflushed) in closed.0 {
            if let Err(error) = content.flush_suspended(unflushed) {
                tracing::error!(ino = inode.number, "the flush of a file whose key was let go of failed: {error}");
            }
            drop(content);
            self.relinquish(&inode);
        }
        tracing::info!(target: "kmsfs::keys", files, "what was written to the files that were closed is flushed");
    }

    /// Drops the pages of files whose requests are refused already, then their keys: all pages before the first key, since to wait
    /// for the last request of a file can take as long as that does.
    fn close(&self, files: Vec<OpenFile<B>>, drop_pages: &dyn Fn(u64) -> io::Result<()>, unflushed: &mut Unflushed<B>) {
        files.iter().for_each(|(inode, _)| self.drop_pages(inode.number, drop_pages));
        for (inode, content) in files {
            let held = {
                let mut slot = lock(&inode.content);
                // Else its last user has closed it meanwhile, and another may have opened it anew.
                let is_open = slot.content.as_ref().is_some_and(|open| Arc::ptr_eq(open, &content));
                is_open.then(|| slot.hold(Arc::clone(&content)))
            };
            match (content.suspend(), held) {
                (Some(left), Some(_)) => unflushed.0.push(((inode, content), left)),
                (None, Some(_)) => {
                    self.relinquish(&inode);
                }
                (_, None) => {}
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
