//! Mounting and serving.

use std::io;

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
use crate::vfs::Vfs;

/// Mounts and serves until somebody unmounts. `ready` is called when the mount is usable, with what
/// drops the kernel's cache. What is served is counted in
/// `statistics`, except by the reference transport.
///
/// # Errors
/// What keeps the mount from being made, or the end of the connection other than by an unmount.
pub fn serve<B: Backing>(
    vfs: Arc<Vfs<B>>,
    spec: &MountSpec,
    statistics: Arc<Statistics>,
    ready: impl FnOnce(PageCache),
) -> io::Result<()> {
    if spec.transport == Transport::Fuser {
        return reference::serve(vfs, spec, || ready(PageCache::new(None)));
    }
    // Before the mount: the kernel offers what is enabled then.
    let offer = offer(spec.transport);
    let connection = mount::mount(spec)?;
    let dispatcher = Dispatcher::new(vfs, spec.read_only).counting(statistics).write_through(spec.write_through);
    let dispatcher = if offer.is_some() { dispatcher.with_rings() } else { dispatcher };
    let server = Server::start(dispatcher, connection);
    let server = server.inspect_err(|_| mount::abandon(spec))?;
    let mountpoint = spec.mountpoint.clone();
    server.run(spec.threads.max(2), |pages| {
        if let Some(offer) = offer {
            // Answered through a ring: from then on the kernel does not ask again whether it may.
            if let Err(error) = rustix::fs::statfs(&mountpoint) {
                tracing::debug!("the new mount does not answer: {error}");
            }
            drop(offer);
        }
        tune(mountpoint);
        ready(pages);
    })
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
