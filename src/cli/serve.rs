//! `kmsfs serve`: the key manager behind AWS's wire protocol.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use rustix::process::{Resource, getrlimit};
use serde_json::json;

use super::daemon::{self, notify_systemd};
use super::exit::{CliError, CliResult, Exit, thread_remedy};
use super::session::Session;
use super::settings::Settings;
use crate::env::system_clock;
use crate::server::{Certificate, Limits, Server, ServerError, Stop, TlsError};
use crate::sys::process::SignalSet;
use crate::sys::threads;

/// Files that a server has open besides its connections, and some more.
const OWN_FILES: usize = 64;
const DEFAULT_ADDRESS: &str = "127.0.0.1:8480";

/// Serve the key manager to the aws CLI and the AWS SDKs
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address for signed requests; port 0 takes a free one [default: 127.0.0.1:8480, unless --unix is given]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Unix socket for requests of local users, who need no signature
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// Permissions of the Unix socket, in octal
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = parse_mode, requires = "unix")]
    unix_mode: u32,
    /// Certificate chain in PEM: serve HTTPS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Listen on an address that other computers reach although there is no certificate: what is encrypted and decrypted
    /// then crosses the network in the clear
    #[arg(long)]
    allow_plaintext: bool,
    /// Requests per second: off, or aws for those of AWS (callers at the Unix socket are not limited)
    #[arg(long, value_enum, value_name = "QUOTA", default_value = "off")]
    quota: Quota,
    /// Connections at once over the network. More wait for a place; those on which nobody has signed a request yet make room
    /// for them, the oldest first. The Unix socket has 256 places of its own.
    /// There are fewer where the process can open fewer files (ulimit -n)
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections, value_parser = parse_connections)]
    max_connections: usize,
}

/// Whose requests per second are limited, and to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Quota {
    /// None
    Off,
    /// Signed ones, to AWS's request quotas per account and Region
    Aws,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("not permissions in octal, such as 660".into()),
    }
}

fn parse_connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=100_000).contains(&n) => Ok(n),
        _ => Err("not a number from 1 to 100000".into()),
    }
}

/// Runs the command; returns when a signal ends the server.
pub fn run(settings: &Settings, args: &ServeArgs) -> CliResult {
    let address = match (args.listen, &args.unix) {
        (None, Some(_)) => None,
        (None, None) => Some(DEFAULT_ADDRESS.parse().expect("an address")),
        (given, _) => given,
    };
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(chain), Some(key)) => Some(Certificate::read(chain, key)?),
        _ => None,
    };
    if let Some(address) = address.filter(|a| !a.ip().is_loopback() && tls.is_none() && !args.allow_plaintext) {
        return Err(CliError::usage(format_args!("{address} is reached from other computers, and there is no certificate"))
            .hint("give --tls-cert FILE and --tls-key FILE, or listen on 127.0.0.1; if something else encrypts: --allow-plaintext"));
    }
    daemon::prepare_descriptors();
    // Before the first thread: only the thread that waits for them gets these signals.
    let signals = SignalSet::block(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP])
        .map_err(|e| CliError::failure(format_args!("cannot handle signals: {e}")))?;
    let tcp = address.map(|address| {
        TcpListener::bind(address).map_err(|e| CliError::failure(format_args!("cannot listen on {address}: {e}")))
    });
    let tcp = tcp.transpose()?;
    let session = Session::open(settings)?;
    let unix = args.unix.as_deref().map(|path| listen_unix(path, args.unix_mode)).transpose()?;
    if args.quota == Quota::Aws {
        session.engine.limit_requests();
    }
    let endpoint = endpoint(tcp.as_ref(), tls.is_some());
    let stop = Stop::new();
    let stopping = stop.clone();
    let end = move || {
        signals.wait();
        tracing::info!("stopping on a signal");
        notify_systemd("STOPPING=1");
        stopping.stop();
        signals.wait();
        tracing::error!("ended by a second signal");
        std::process::exit(i32::from(Exit::Failure.code()));
    };
    threads::spawn("kmsfs-signals", end).map_err(|e| CliError::no_thread(&e))?;
    let limits = limits(args.max_connections);
    let server = Server { engine: session.engine.clone(), clock: system_clock(), tcp, tls, unix, limits };
    let ready = || {
        announce(settings, endpoint.as_deref(), args.unix.as_deref());
        notify_systemd("READY=1");
    };
    let served = server.run(&stop, ready);
    if let Some(path) = &args.unix {
        let _ = fs::remove_file(path);
    }
    session.engine.audit().flush()?;
    served?;
    tracing::info!("stopped");
    Ok(Exit::Ok)
}

/// Limits under which as many connections as `wanted` can be open over the network, if the system lets the process open so many
/// files. Without free descriptors nobody could be accepted, and the audit log not be written.
fn limits(wanted: usize) -> Limits {
    let files = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let free = files.saturating_sub(OWN_FILES).max(2);
    let local_connections = Limits::default().local_connections.min(free / 2);
    let connections = wanted.min(free - local_connections);
    if connections < wanted {
        tracing::warn!("at most {connections} connections at once: the process can open {files} files (ulimit -n)");
    }
    Limits { connections, local_connections, ..Limits::default() }
}

fn endpoint(tcp: Option<&TcpListener>, tls: bool) -> Option<String> {
    let address = tcp.and_then(|listener| listener.local_addr().ok());
    address.map(|address| format!("{}://{address}", if tls { "https" } else { "http" }))
}

fn announce(settings: &Settings, endpoint: Option<&str>, unix: Option<&Path>) {
    let out = settings.out;
    if out.is_json() {
        out.line(&json!({ "message_type": "serving", "endpoint": endpoint, "unix": unix }), String::new);
        return;
    }
    if let Some(endpoint) = endpoint {
        out.note(format_args!(
            "Serving at {endpoint}; for the aws CLI and SDKs: export AWS_ENDPOINT_URL_KMS={endpoint}"
        ));
    }
    if let Some(path) = unix {
        out.note(format_args!("Serving at the socket {}.", path.display()));
    }
}

/// Listens at `path`. A socket at which nobody listens any more is replaced; anything else that is there is left alone.
fn listen_unix(path: &Path, mode: u32) -> CliResult<UnixListener> {
    let failed = |e: std::io::Error| CliError::failure(format_args!("cannot listen at {}: {e}", path.display()));
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket {
        if UnixStream::connect(path).is_ok() {
            let text = format_args!("another server listens at {}", path.display());
            return Err(CliError::new(Exit::Busy, "Busy", text));
        }
        fs::remove_file(path).map_err(failed)?;
    }
    // Closed for everybody else until its permissions are set.
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(mask);
    let listener = listener.map_err(failed)?;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}

impl From<TlsError> for CliError {
    fn from(error: TlsError) -> Self {
        Self::failure(error).hint(
            "--tls-cert takes a chain of CERTIFICATE blocks, the server's first; --tls-key its key without passphrase",
        )
    }
}

impl From<ServerError> for CliError {
    fn from(error: ServerError) -> Self {
        let ServerError::Io { source, .. } = &error;
        let hint = thread_remedy(source).map(str::to_owned);
        Self { hint, ..Self::failure(error) }
    }
}
