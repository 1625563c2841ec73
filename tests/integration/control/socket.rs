//! The control socket: what it answers, whom, and that nothing sent to it does harm.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kmsfs::cli::control::client::{Connection, mounts};
use kmsfs::cli::control::server::ControlSocket;
use kmsfs::cli::control::wire::{MAX_REQUEST, RewrapRequest};
use kmsfs::cli::exit::Exit;
use kmsfs::ops::impact::Impact;
use kmsfs::ops::lock::{LockOwner, host_name};
use kmsfs::ops::{Progress, Silent};
use kmsfs::types::VolumeId;
use kmsfs::vfs::ROOT;
use serde_json::Value;
use tempfile::TempDir;

use super::{Mount, serve};
use crate::ops::host::ciphertext;

const MOUNTPOINT: &str = "/mnt/plain";

fn start(mount: &Mount, home: &Path) -> ControlSocket {
    ControlSocket::start(home, serve(&mount.host, mount.dir.path()), Path::new(MOUNTPOINT)).expect("start")
}

fn volume_id(mount: &Mount) -> VolumeId {
    mount.served.volume.keys.volume().config.volume_id
}

fn path(mount: &Mount, home: &Path) -> PathBuf {
    home.join("run").join(format!("{}.{}.sock", volume_id(mount), std::process::id()))
}

fn connect(mount: &Mount, home: &Path) -> Connection {
    let owner = LockOwner { host: host_name(), pid: std::process::id(), purpose: "mount".to_owned() };
    Connection::to_owner(home, &volume_id(mount), &owner).expect("the socket is there")
}

fn request(to: Option<&str>) -> RewrapRequest {
    RewrapRequest { from: None, to: to.map(str::to_owned), threads: 1 }
}

/// What comes back for these bytes, if the client then keeps its side open.
fn answer(path: &Path, bytes: &[u8]) -> Value {
    let mut stream = UnixStream::connect(path).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    stream.write_all(bytes).expect("send");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer");
    serde_json::from_str(&line).expect("JSON")
}

#[test]
fn a_mount_tells_its_status_and_leaves_nothing_behind() {
    let (mount, home) = (Mount::new(), TempDir::new().expect("temporary directory"));
    let run = home.path().join("run");
    fs::create_dir(&run).expect("mkdir");
    let dead = run.join("00000000000000000000000000000000.1.sock");
    drop(UnixListener::bind(&dead).expect("bind"));
    let socket = start(&mount, home.path());
    assert!(!dead.exists(), "the socket of a dead mount is removed");
    let mode = |path: &Path| fs::metadata(path).expect("stat").permissions().mode() & 0o7777;
    assert_eq!((mode(&run), mode(&path(&mount, home.path()))), (0o700, 0o600));
    let all = mounts(home.path());
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].pid, all[0].mountpoint.as_str()), (std::process::id(), MOUNTPOINT));
    assert_eq!(
        (all[0].volume_id.clone(), all[0].open_files, all[0].rewrapping),
        (volume_id(&mount).to_string(), 0, false)
    );
    drop(socket);
    assert_eq!(fs::read_dir(&run).expect("read").count(), 0);
    assert_eq!(mounts(home.path()), []);
}

#[test]
fn a_home_with_a_long_path_has_a_socket_too() {
    let (mount, base) = (Mount::new(), TempDir::new().expect("temporary directory"));
    let home = base.path().join("x".repeat(200));
    fs::create_dir(&home).expect("mkdir");
    let _socket = start(&mount, &home);
    assert_eq!(mounts(&home).len(), 1);
}

#[test]
fn a_rewrap_is_done_by_the_mount_and_errors_keep_their_exit_code() {
    let (mount, home) = (Mount::new(), TempDir::new().expect("temporary directory"));
    let ino = mount.file(ROOT, "file", b"content");
    let _socket = start(&mount, home.path());
    let error = connect(&mount, home.path()).rewrap(request(Some("alias/none")), &Silent).expect_err("no such key");
    assert_eq!((error.exit, error.code.as_str()), (Exit::Failure, "NotFoundException"));
    let summary = connect(&mount, home.path()).rewrap(request(Some("alias/new")), &Silent).expect("rewrap");
    assert_eq!((summary.rewrapped, summary.root_key, summary.interrupted), (1, true, false));
    assert_eq!((summary.to.as_deref(), summary.findings.len()), (Some(mount.new.as_str()), 0));
    assert_eq!(mount.key_of(ino), mount.new.as_str());
}

#[test]
fn a_mount_verifies_what_it_serves() {
    let (mount, home) = (Mount::new(), TempDir::new().expect("temporary directory"));
    let socket = start(&mount, home.path());
    let served = &mount.served.vfs;
    let dir = mount.mkdir("dir");
    let ino = mount.file(dir, "file", &[7; 20_000]);
    mount.file(ROOT, "other", b"content");
    let open = served.open(ino, true).expect("open");
    let found = connect(&mount, home.path()).verify(2, &Silent).expect("verify");
    assert_eq!((found.files, found.directories, found.findings.len(), found.interrupted), (2, 2, 0, false));
    let stored = ciphertext(mount.dir.path(), ino);
    let mut bytes = fs::read(&stored).expect("read");
    bytes[4096 + 2 * 4096 + 100] ^= 1;
    fs::write(&stored, bytes).expect("write");
    let found = connect(&mount, home.path()).verify(1, &Silent).expect("verify");
    let [finding] = &found.findings[..] else { panic!("{found:?}") };
    assert_eq!((finding.json["path"].as_str(), finding.json["unit"].as_u64()), (Some("dir/file"), Some(2)));
    assert_eq!(finding.json["outcome"], "UnitAuth");
    served.release(open.handle);
    drop(socket);
}

#[test]
fn a_mount_counts_what_depends_on_a_key() {
    let (mount, home) = (Mount::new(), TempDir::new().expect("temporary directory"));
    let _socket = start(&mount, home.path());
    mount.file(mount.mkdir("dir"), "file", &[7; 20_000]);
    mount.file(ROOT, "empty", b"");
    let found = |key| connect(&mount, home.path()).impact(key, &Silent).expect("impact");
    let expected = Impact { only: 1, only_bytes: 20_000, others: 1, ..Impact::default() };
    assert_eq!(found(&mount.old), expected);
    assert_eq!(found(&mount.new), Impact { others: 2, ..Impact::default() });
}

#[test]
fn bad_requests_get_an_error_and_hurt_nothing() {
    let (mount, home) = (Mount::new(), TempDir::new().expect("temporary directory"));
    let _socket = start(&mount, home.path());
    let path = path(&mount, home.path());
    for bytes in [
        &b"\n"[..],
        b"{}\n",
        b"\xff\xfe\n",
        b"{\"op\":\"stop\"}\n",
        b"{\"op\":\"rewrap\",\"threads\":0}\n",
        b"{\"op\":\"rewrap\",\"threads\":257}\n",
        b"{\"op\":\"verify\",\"threads\":0}\n",
        b"{\"op\":\"impact\",\"key\":\"alias/old\"}\n",
        b"{\"op\":\"status\",\"verbose\":true}\n",
        &vec![b'x'; MAX_REQUEST],
    ] {
        let error = answer(&path, bytes);
        assert_eq!((error["message_type"].as_str(), error["exit_code"].as_u64()), (Some("error"), Some(2)), "{error}");
    }
    // Clients that hang up in the middle, or say nothing for a while.
    let silent = UnixStream::connect(&path).expect("connect");
    UnixStream::connect(&path).expect("connect").write_all(b"{\"op\":").expect("send");
    assert_eq!(answer(&path, b"{\"op\":\"status\"}\n")["message_type"], "status");
    drop(silent);
}

#[test]
fn more_clients_than_the_mount_serves_at_once_are_refused() {
    let (mount, home) = (Mount::new(), TempDir::new().expect("temporary directory"));
    let _socket = start(&mount, home.path());
    let path = path(&mount, home.path());
    let mut waiting: Vec<_> = (0..17).map(|_| UnixStream::connect(&path).expect("connect")).collect();
    let mut text = String::new();
    waiting[16].read_to_string(&mut text).expect("an answer");
    assert!(text.contains("TooManyRequests"), "{text}");
}

/// Wants to stop once the mount has told of its first file.
struct StopSoon(AtomicU64);

impl Progress for StopSoon {
    fn found(&self, _files: u64, _bytes: u64) {}

    fn done(&self, files: u64, _bytes: u64) {
        self.0.fetch_add(files, Ordering::SeqCst);
    }

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

const MANY: u64 = 1500;

#[test]
fn a_client_that_stops_gets_what_was_done_and_can_go_on() {
    let (mount, home) = (Mount::new(), TempDir::new().expect("temporary directory"));
    for i in 0..MANY {
        mount.file(ROOT, &format!("file {i}"), b"content");
    }
    let _socket = start(&mount, home.path());
    let first = connect(&mount, home.path())
        .rewrap(request(Some("alias/new")), &StopSoon(AtomicU64::new(0)))
        .expect("a summary");
    assert!(first.interrupted && first.rewrapped > 0 && first.rewrapped < MANY, "{first:?}");
    let second = connect(&mount, home.path()).rewrap(request(Some("alias/new")), &Silent).expect("rewrap");
    assert_eq!((first.rewrapped + second.rewrapped, second.interrupted), (MANY, false));
}

#[test]
fn a_job_ends_with_its_client_and_with_the_mount() {
    let (mount, home) = (Mount::new(), TempDir::new().expect("temporary directory"));
    for i in 0..MANY {
        mount.file(ROOT, &format!("file {i}"), b"content");
    }
    let socket = start(&mount, home.path());
    let line = |to: &str| format!("{{\"op\":\"rewrap\",\"from\":null,\"to\":\"{to}\",\"threads\":1}}\n");
    let mut gone = UnixStream::connect(path(&mount, home.path())).expect("connect");
    gone.write_all(line("alias/new").as_bytes()).expect("send");
    while !mounts(home.path())[0].rewrapping {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(gone);
    while mounts(home.path())[0].rewrapping {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut left = UnixStream::connect(path(&mount, home.path())).expect("connect");
    left.write_all(line("alias/old").as_bytes()).expect("send");
    while !mounts(home.path())[0].rewrapping {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(socket);
    let mut answers = String::new();
    left.read_to_string(&mut answers).expect("answers");
    let last: Value = serde_json::from_str(answers.lines().last().expect("an answer")).expect("JSON");
    assert_eq!((last["message_type"].as_str(), last["interrupted"].as_bool()), (Some("rewrapped"), Some(true)));
}
