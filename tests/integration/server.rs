//! The endpoint from outside: raw HTTP, signatures, limits, and the remote key manager as the filesystem uses it.

mod client;
mod program;
mod quota;
mod remote;
mod tls;
mod wire;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use kmsfs::env::{ManualClock, SystemEntropy};
use kmsfs::kms::Engine;
use kmsfs::kms::custody::{Home, NewHome, NewSlot};
use kmsfs::kms::model::{Caller, NewAccessKey};
use kmsfs::server::{Certificate, Limits, Server, Stop};
use kmsfs::types::Timestamp;
use tempfile::TempDir;

/// 2026-05-01T09:30:00Z.
const NOW: Timestamp = Timestamp::from_secs(1_777_627_800);

/// A key manager with an administrator.
struct Keys {
    engine: Engine,
    admin: Caller,
    access_key: NewAccessKey,
    clock: Arc<ManualClock>,
    /// Last, so that the engine has closed before its home goes.
    dir: TempDir,
}

impl Keys {
    fn new() -> Self {
        let dir = TempDir::new().expect("temporary directory");
        let clock = Arc::new(ManualClock::new(NOW));
        let new = NewHome::with_slots(vec![NewSlot::KeyFile]);
        let (home, _) = Home::create(&dir.path().join("kms"), new, &*clock, &SystemEntropy).expect("created");
        let engine = Engine::start(home, clock.clone(), Arc::new(SystemEntropy)).expect("started");
        let admin = engine.local_caller("alice");
        let principal = engine.administrator(&admin, engine.account()).expect("made");
        let access_key = engine.create_access_key(&admin, &principal).expect("made");
        Self { engine, admin, access_key, clock, dir }
    }

    fn serve(&self, limits: Limits) -> Running {
        self.serve_at("127.0.0.1:0".parse().expect("an address"), limits)
    }

    fn serve_at(&self, address: SocketAddr, limits: Limits) -> Running {
        self.serve_with(address, limits, None)
    }

    fn serve_with(&self, address: SocketAddr, limits: Limits, tls: Option<Certificate>) -> Running {
        let tcp = TcpListener::bind(address).expect("an address");
        let address = tcp.local_addr().expect("an address");
        let socket = self.dir.path().join("socket");
        let _ = std::fs::remove_file(&socket);
        let unix = UnixListener::bind(&socket).expect("a socket");
        let stop = Stop::new();
        let server = Server {
            engine: self.engine.clone(),
            clock: self.clock.clone(),
            tcp: Some(tcp),
            tls,
            unix: Some(unix),
            limits,
        };
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || server.run(&stopping, || {}).expect("served"));
        Running { address, socket, stop, thread: Some(thread) }
    }
}

/// A server; it stops when this is dropped.
struct Running {
    address: SocketAddr,
    socket: PathBuf,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Stops the server and waits for its end.
    fn stop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server ended by itself");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}
