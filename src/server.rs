//! The endpoint: the key manager behind AWS's wire protocol (KMS.md section 4), for the aws CLI and the AWS SDKs.
//!
//! A connection ([`listen`]) carries HTTP/1.1 requests ([`http`]). On TCP the caller is whoever signed ([`sigv4`]), on the
//! Unix socket the user at its other end. `POST /` with `X-Amz-Target: TrentService.<Operation>` goes to
//! [`kms::api`](crate::kms::api) ([`protocol`]), `sts:GetCallerIdentity` is answered here ([`sts`]), `GET /healthz` and
//! `GET /metrics` need no signature.

mod exchange;
mod guests;
mod http;
mod listen;
mod metrics;
mod protocol;
mod sigv4;
mod sts;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use crate::env::Clock;
use crate::kms::Engine;
use crate::sync::Arc;

pub use listen::Stop;
pub use sigv4::parse_authorization;
pub use tls::{Certificate, TlsError};

/// What bounds the use of the server's resources.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request's body; the largest that AWS KMS has any use for is a key policy of 128 KiB.
    pub body: usize,
    /// Connections at once over the network. When there are as many, those on which nobody has signed a request yet make
    /// room, the oldest first.
    pub connections: usize,
    /// Connections at once at the Unix socket: strangers take none of these places.
    pub local_connections: usize,
    /// From the first byte of a connection's or request's head to its last.
    pub head_time: Duration,
    /// From a request's head until its answer is made; and how long a client may take nothing of its answers.
    pub request_time: Duration,
    /// How long requests that are under way may take to end when the server stops.
    pub stop_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 256 * 1024,
            connections: 1024,
            local_connections: 256,
            head_time: Duration::from_secs(30),
            request_time: Duration::from_secs(60),
            stop_time: Duration::from_secs(10),
        }
    }
}

/// A server that is about to run.
pub struct Server {
    /// The key manager.
    pub engine: Engine,
    /// The clock that signatures are judged by.
    pub clock: Arc<dyn Clock>,
    /// Listens for signed requests.
    pub tcp: Option<std::net::TcpListener>,
    /// Encrypts the connections of `tcp`.
    pub tls: Option<Certificate>,
    /// Listens for requests of local users, without signature.
    pub unix: Option<UnixListener>,
    /// The bounds.
    pub limits: Limits,
}

/// Why the server could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The system.
    #[error("the server cannot {what}: {source}")]
    Io {
        /// What it was about to do.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// Where a server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Signed requests.
    Tcp(SocketAddr),
    /// Local users.
    Unix(PathBuf),
}
