//! Mounting and serving.

use std::io;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::connection::PageCache;
use super::device::Server;
use super::dispatch::Dispatcher;
use super::rings::Offer;
use super::spec::{MountSpec, Transport};
use super::statistics::Statistics;
use super::tune::tune;
use super::{mount, reference, rings};
use crate::store::Backing;
use crate::sync::Arc;
use crate::sys::threads;
use crate::vfs::Vfs;

/// How long a new mount may take for its first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// Mounts and serves until somebody unmounts. `ready` is called when the mount is usable, with what
/// drops the kernel's cache; if it fails, the mount is taken away again. What is served is counted in
/// `statistics`, except by the reference transport.
///
/// # Errors
/// What keeps the mount from being made, or the end of the connection other than by an unmount.
pub fn serve<B: Backing>(
    vfs: Arc<Vfs<B>>,
    spec: &MountSpec,
    statistics: Arc<Statistics>,
    ready: impl FnOnce(PageCache) -> io::Result<()>,
) -> io::Result<()> {
    if spec.transport == Transport::Fuser {
        return reference::serve(vfs, spec, || ready(PageCache::new(None)));
    }
    // Before the mount: the kernel offers what is enabled then.
    let offer = offer(spec.transport);
    let connection = mount::mount(spec)?;
    let dispatcher = Dispatcher::new(vfs, spec.read_only).counting(statistics).write_through(spec.write_through);
    let mut unserved = Unserved(Some(spec));
    let (server, rings) = Server::start(dispatcher, connection, offer.is_some())?;
    let mountpoint = spec.mountpoint.clone();
    let ended = server.run(rings, spec.serving_threads(), |pages| {
        if let Some(offer) = offer {
            // Answered through a ring: from then on the kernel does not ask again whether it may.
            wait_for_answer(&mountpoint);
            drop(offer);
        }
        tune(mountpoint, spec.write_through);
        ready(pages)
    });
    if ended.unmounted {
        unserved.0 = None;
    }
    ended.outcome
}

/// A mount that is taken away when this is dropped, since nobody serves it: else whoever looks at it would get "Transport
/// endpoint is not connected".
struct Unserved<'a>(Option<&'a MountSpec>);

impl Drop for Unserved<'_> {
    fn drop(&mut self) {
        if let Some(spec) = self.0 {
            mount::abandon(spec);
        }
    }
}

/// Waits until a new mount has answered a request; in a thread, since what it waits for is this process itself.
fn wait_for_answer(mountpoint: &Path) {
    let mountpoint = mountpoint.to_owned();
    let (answered, answer) = channel();
    let asked = threads::spawn("kmsfs-first", move || {
        let _ = answered.send(rustix::fs::statfs(&mountpoint).map_err(io::Error::from));
    });
    let answer = asked.and_then(|_| answer.recv_timeout(FIRST_ANSWER).unwrap_or_else(|e| Err(io::Error::other(e))));
    if let Err(error) = answer {
        tracing::warn!("the new mount does not answer: {error}");
    }
}

/// Makes the kernel offer rings to the mount, where they are wanted and to be had.
fn offer(transport: Transport) -> Option<Offer> {
    match transport {
        Transport::Auto if !rings::are_expected() => None,
        Transport::Auto => Offer::make().inspect_err(|e| tracing::debug!("no requests through io_uring: {e}")).ok(),
        Transport::Uring => Offer::make().inspect_err(|e| tracing::warn!("no requests through io_uring: {e}")).ok(),
        Transport::Dev | Transport::Fuser => None,
    }
}
