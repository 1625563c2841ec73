//! FUSE: requests of the kernel, each one call of [`crate::vfs`] and one answer.
//!
//! The own transport is made of layers: `abi` (structures), `request` and `reply` (bytes in and out), `dispatch` (one
//! request), `connection` (`/dev/fuse`), `device` (threads on it; `readers` says how many read), `rings` (threads on io_uring). `operations` says what numbers and flags of the protocol mean; the
//! reference transport, `reference`, shares it.

mod abi;
mod admission;
mod connection;
mod deference;
mod device;
mod dispatch;
mod follow;
mod habits;
mod listings;
mod mailbox;
mod mount;
mod negotiate;
mod notices;
mod operations;
mod pool;
mod readers;
mod reference;
mod reply;
mod request;
mod rings;
mod session;
mod spec;
mod statistics;
mod tune;
mod writeback;

pub use connection::PageCache;
pub use dispatch::Dispatcher;
pub use reference::serve_connection as serve_reference;
pub use reply::Sink;
pub use rings::available as rings_available;
pub use session::serve;
pub use spec::{MountSpec, Transport};
pub use statistics::{OperationCount, Statistics};
pub use writeback::Pending;
