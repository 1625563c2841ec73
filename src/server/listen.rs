//! Connections: accepted up to a number, served until they end, and let go when the server stops.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_io_timeout::TimeoutWriter;

use super::exchange::{Network, Peer, Shared};
use super::guests::Guests;
use super::http::{answer, local_caller};
use super::metrics::Metrics;
use super::sigv4::Verifier;
use super::{Server, ServerError};
use crate::sync::{Arc, Mutex, lock};
use crate::sys::threads;

/// Threads for requests that wait for the disk or compute for long; more of those wait for one of them.
const WAITING: usize = 32;
/// How long accepting waits after it failed, as it does without free descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// Header fields that are read of a request, and bytes of its head: beyond them the HTTP library refuses it without a
/// body. What is allowed is less, and refused as AWS refuses.
const READ_HEADERS: usize = 256;
const READ_HEAD: usize = 64 * 1024;
/// First byte of every TLS connection: a record with a handshake message (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// For who speaks HTTP where HTTPS is served.
const NOT_ENCRYPTED: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 44\r\n\r\nthis port serves HTTPS; the URL is https://\n";

/// Stops a server from another thread.
#[derive(Clone, Debug)]
pub struct Stop(watch::Sender<bool>);

impl Stop {
    /// For a server that is about to run.
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// No new connections and requests; those under way end.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

/// What every connection needs.
#[derive(Clone)]
struct Context {
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    free: Arc<Semaphore>,
    /// Those who make room when nothing is free.
    guests: Guests,
}

impl Server {
    /// Serves until `stop` says so and the requests under way have ended. `ready` is called when every thread is there: none is
    /// started later, when the system may give none.
    ///
    /// # Errors
    /// Threads or listeners that the system does not give.
    pub fn run(self, stop: &Stop, ready: impl FnOnce()) -> Result<(), ServerError> {
        let failed = |what| move |source| ServerError::Io { what, source };
        let workers = std::thread::available_parallelism().map_or(1, Into::into);
        // The runtime panics where it gets none.
        threads::check(workers + WAITING).map_err(failed("start its threads"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("http")
            .worker_threads(workers)
            .max_blocking_threads(WAITING)
            .thread_keep_alive(Duration::MAX)
            .build()
            .map_err(failed("start its threads"))?;
        runtime.block_on(start_waiting());
        ready();
        let done = runtime.block_on(self.serve(stop));
        runtime.shutdown_timeout(Duration::from_secs(1));
        done
    }

    async fn serve(self, stop: &Stop) -> Result<(), ServerError> {
        let failed = |what| move |source| ServerError::Io { what, source };
        let Self { engine, clock, tcp, tls, unix, limits } = self;
        let places = |most: usize| u32::try_from(most).unwrap_or(u32::MAX).min(Semaphore::MAX_PERMITS as u32);
        let (remote, local) = (places(limits.connections), places(limits.local_connections));
        let stop_time = limits.stop_time;
        let shared = Shared { engine, clock, verifier: Verifier::new(), metrics: Metrics::new(), limits };
        let context = Context {
            shared: Arc::new(shared),
            stop: stop.0.subscribe(),
            free: Arc::new(Semaphore::new(remote as usize)),
            guests: Guests::default(),
        };
        let free = Arc::new(Semaphore::new(local as usize));
        let at_socket = Context { free, guests: Guests::default(), ..context.clone() };
        let tcp = tcp.map(|listener| {
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener)
        });
        let tcp = tcp.transpose().map_err(failed("listen"))?;
        let unix = unix.map(|listener| {
            listener.set_nonblocking(true)?;
            tokio::net::UnixListener::from_std(listener)
        });
        let unix = unix.transpose().map_err(failed("listen"))?;
        if let Some(listener) = tcp {
            tokio::spawn(accept_tcp(context.clone(), listener, tls.map(|tls| tls.acceptor())));
        }
        if let Some(listener) = unix {
            tokio::spawn(accept_unix(at_socket.clone(), listener));
        }
        stopped(&mut context.stop.clone()).await;
        let all = async { (context.free.acquire_many(remote).await, at_socket.free.acquire_many(local).await) };
        let ended = tokio::time::timeout(stop_time, all).await;
        if ended.is_err() {
            tracing::warn!("connections were cut: their requests did not end within {} s", stop_time.as_secs());
        }
        Ok(())
    }
}

/// Starts the threads for requests that wait: each of these holds one until all are begun.
async fn start_waiting() {
    let gate = Arc::new(Mutex::new(()));
    let begun: Vec<_> = {
        let _closed = lock(&gate);
        let wait = || Arc::clone(&gate);
        (0..WAITING).map(|_| wait()).map(|gate| tokio::task::spawn_blocking(move || drop(lock(&gate)))).collect()
    };
    for one in begun {
        let _ = one.await;
    }
}

/// Waits until the server stops.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Without a sender nobody could stop it any more: that is an end too.
    let _ = stop.wait_for(|stopped| *stopped).await;
}

async fn accept_tcp(context: Context, listener: tokio::net::TcpListener, tls: Option<tokio_rustls::TlsAcceptor>) {
    while let Some((permit, accepted)) = context.next(|| listener.accept()).await {
        let Ok((stream, address)) = accepted else { continue };
        // Answers are single writes; waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        let guest = context.guests.enter();
        let network = Arc::new(Network { address: address.ip(), encrypted: tls.is_some(), guest });
        let (context, tls) = (context.clone(), tls.clone());
        tokio::spawn(async move {
            let peer = Peer::Tcp(Arc::clone(&network));
            let served = async {
                match tls {
                    None => context.connection(stream, peer, permit).await,
                    Some(tls) => {
                        let within = tokio::time::timeout(context.shared.limits.head_time, encrypt(&tls, stream)).await;
                        match within {
                            Ok(Ok(stream)) => context.connection(stream, peer, permit).await,
                            Ok(Err(error)) => tracing::debug!(%error, %address, "a TLS handshake failed"),
                            Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
                        }
                    }
                }
            };
            tokio::select! {
                () = served => {}
                () = network.guest.dismissed() => {
                    tracing::debug!(%address, "a connection without a signed request made room for another");
                }
            }
        });
    }
}

/// Does the handshake. A client that does not begin one is told what it should have done.
async fn encrypt(
    tls: &tokio_rustls::TlsAcceptor,
    mut stream: TcpStream,
) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 || first == [TLS_HANDSHAKE] {
        return tls.accept(stream).await;
    }
    stream.write_all(NOT_ENCRYPTED).await?;
    stream.shutdown().await?;
    // Closing with unread input would reset the connection, and the answer might be lost.
    tokio::io::copy(&mut stream.take(READ_HEAD as u64), &mut tokio::io::sink()).await?;
    Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak TLS"))
}

async fn accept_unix(context: Context, listener: tokio::net::UnixListener) {
    while let Some((permit, accepted)) = context.next(|| listener.accept()).await {
        let Ok((stream, _)) = accepted else { continue };
        let uid = match stream.peer_cred() {
            Ok(credentials) => credentials.uid(),
            Err(error) => {
                tracing::warn!(%error, "a local caller could not be identified");
                continue;
            }
        };
        let peer = Peer::Unix(local_caller(&context.shared.engine, uid));
        let context = context.clone();
        tokio::spawn(async move { context.connection(stream, peer, permit).await });
    }
}

/// A connection in the metrics, however it ends.
struct Counted(Gauge);

impl Counted {
    fn new(shared: &Shared) -> Self {
        shared.metrics.connections.inc();
        Self(shared.metrics.connections.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Context {
    /// The next connection with its permit; `None` when the server stops.
    async fn next<T, F: Future<Output = io::Result<T>>>(
        &self,
        accept: impl Fn() -> F,
    ) -> Option<(OwnedSemaphorePermit, io::Result<T>)> {
        let mut stop = self.stop.clone();
        let next = async {
            // The permit comes second: a listener that nobody uses must not hold one.
            let accepted = accept().await;
            let permit = match Arc::clone(&self.free).try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) => {
                    self.guests.dismiss_oldest();
                    Arc::clone(&self.free).acquire_owned().await.ok()?
                }
            };
            if let Err(error) = &accepted {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
            Some((permit, accepted))
        };
        tokio::select! {
            biased;
            () = stopped(&mut stop) => None,
            next = next => next,
        }
    }

    /// Serves a connection until it ends.
    async fn connection(self, stream: impl AsyncRead + AsyncWrite, peer: Peer, permit: OwnedSemaphorePermit) {
        let Self { shared, mut stop, .. } = self;
        // A client that reads nothing of its answers would hold the connection for ever.
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(shared.limits.request_time));
        let _counted = Counted::new(&shared);
        let service = service_fn(|request| answer(Arc::clone(&shared), peer.clone(), request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // Who has sent all of its requests, and says so, still gets the answers.
            .half_close(true)
            .header_read_timeout(shared.limits.head_time)
            .max_headers(READ_HEADERS)
            .max_buf_size(READ_HEAD)
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopped(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended");
        }
        drop(permit);
    }
}
