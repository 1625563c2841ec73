//! Mounting and serving.

use std::io;

use super::device::Server;
use super::dispatch::Dispatcher;
use super::spec::{MountSpec, Transport};
use super::tune::tune;
use super::{mount, reference};
use crate::store::Backing;
use crate::sync::Arc;
use crate::vfs::Vfs;

/// Mounts and serves until somebody unmounts. `ready` is called when the mount is usable.
///
/// # Errors
/// What keeps the mount from being made, or the end of the connection other than by an unmount.
pub fn serve<B: Backing>(vfs: Arc<Vfs<B>>, spec: &MountSpec, ready: impl FnOnce()) -> io::Result<()> {
    if spec.transport == Transport::Fuser {
        return reference::serve(vfs, spec, ready);
    }
    let connection = mount::mount(spec)?;
    let server = Server::start(Dispatcher::new(vfs, spec.read_only), connection);
    let server = server.inspect_err(|_| mount::abandon(spec))?;
    let tuned = spec.mountpoint.clone();
    server.run(spec.threads.max(2), || {
        tune(tuned);
        ready();
    })
}
