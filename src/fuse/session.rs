//! Mounting and serving.

use std::io;

use super::connection::PageCache;
use super::device::Server;
use super::dispatch::Dispatcher;
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
    let rings = has_rings(spec.transport);
    let connection = mount::mount(spec)?;
    let dispatcher = Dispatcher::new(vfs, spec.read_only).counting(statistics).write_through(spec.write_through);
    let dispatcher = if rings { dispatcher.with_rings() } else { dispatcher };
    let server = Server::start(dispatcher, connection);
    let server = server.inspect_err(|_| mount::abandon(spec))?;
    let tuned = spec.mountpoint.clone();
    server.run(spec.threads.max(2), |pages| {
        tune(tuned);
        ready(pages);
    })
}

/// Whether the mount is to use rings: where they are wanted and there.
fn has_rings(transport: Transport) -> bool {
    match transport {
        Transport::Auto => rings::available().is_ok(),
        Transport::Uring => {
            let enabled = rings::available().or_else(|_| rings::enable().and_then(|()| rings::available()));
            enabled.inspect_err(|e| tracing::warn!("no requests through io_uring: {e}")).is_ok()
        }
        Transport::Dev | Transport::Fuser => false,
    }
}
