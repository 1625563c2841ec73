//! What comes over sockets, and the files that say where they are.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kmsfs::cli::control::wire;
use kmsfs::cli::settings::{GlobalFlags, Settings};
use kmsfs::env::SystemClock;
use kmsfs::keys::KeyService;
use kmsfs::keys::remote::{RemoteKms, Source};
use kmsfs::server::{Limits, Server, Stop};
use kmsfs::types::{EncryptionContext, KeyArn};

use super::{KEY, MANAGER};

/// How long an answer may take, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(20);

thread_local! {
    static SERVER: (SocketAddr, PathBuf) = MANAGER.with(|manager| {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = tcp.local_addr().expect("an address");
        let path = manager.home.path().join("http.sock");
        let unix = UnixListener::bind(&path).expect("a socket");
        let (engine, clock) = (manager.engine.clone(), Arc::new(SystemClock));
        let server = Server { engine, clock, tcp: Some(tcp), tls: None, unix: Some(unix), limits: Limits::default() };
        std::thread::spawn(move || server.run(&Stop::new(), || {}).expect("it runs"));
        (address, path)
    });
}

/// The bytes of a connection to the endpoint: from a local user, or, if the first of them is odd, over the network.
/// Whatever comes, each answer is one of HTTP.
pub fn http(data: &[u8]) -> bool {
    let Some((first, request)) = data.split_first() else { return false };
    let (address, path) = SERVER.with(Clone::clone);
    let answer = if first % 2 == 0 {
        let stream = UnixStream::connect(path).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        talk(&stream, &stream, request, || stream.shutdown(Shutdown::Write))
    } else {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        // Closed with a reset, or the ports would run out.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("SO_LINGER");
        talk(&stream, &stream, request, || stream.shutdown(Shutdown::Write))
    };
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
    answer.starts_with(b"HTTP/1.1 200 ")
}

/// The answer. A server that has heard enough closes before all is written.
fn talk(mut to: impl Write, mut from: impl Read, request: &[u8], end: impl FnOnce() -> std::io::Result<()>) -> Vec<u8> {
    let sent = to.write_all(request).and_then(|()| end());
    let mut answer = Vec::new();
    let received = from.read_to_end(&mut answer);
    let timed_out = |e: &std::io::Error| e.kind() == std::io::ErrorKind::WouldBlock;
    assert!(!sent.as_ref().is_err_and(timed_out) && !received.as_ref().is_err_and(timed_out), "no answer");
    answer
}

/// A key manager elsewhere, which answers what it is told.
struct Remote {
    kms: RemoteKms,
    answer: Arc<Mutex<Vec<u8>>>,
    _credentials: tempfile::TempDir,
}

thread_local! {
    static REMOTE: Remote = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let answer = Arc::new(Mutex::new(Vec::new()));
        let told = answer.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer_requests(&stream, &told);
            }
        });
        let dir = super::temporary();
        let credentials = dir.path().join("credentials");
        std::fs::write(&credentials, "[default]\naws_access_key_id=A\naws_secret_access_key=b\n").expect("written");
        let region = "eu-central-1".parse().expect("a Region");
        let kms = RemoteKms::new(&url, region, Source::File(credentials), None, Arc::new(SystemClock)).expect("made");
        Remote { kms, answer, _credentials: dir }
    };
}

/// Answers the requests of a connection until it ends.
fn answer_requests(mut stream: &TcpStream, answer: &Mutex<Vec<u8>>) {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        request.extend_from_slice(&chunk[..count]);
        let Some(head) = request.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
        let len = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        if request.len() < head + 4 + len.unwrap_or(0) {
            continue;
        }
        request.clear();
        let body = answer.lock().expect("nobody panicked").clone();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.write_all(&[head.as_bytes(), &body].concat()).is_err() {
            return;
        }
    }
}

/// The body of a remote key manager's answer. The first byte says what was asked.
pub fn remote(data: &[u8]) -> bool {
    let Some((asked, body)) = data.split_first() else { return false };
    REMOTE.with(|remote| {
        *remote.answer.lock().expect("nobody panicked") = body.to_vec();
        let key: KeyArn = KEY.parse().expect("an ARN");
        let context = EncryptionContext::new().with("kmsfs:volume", "v");
        let kms = &remote.kms;
        match asked % 5 {
            0 => kms.resolve("alias/a").is_ok(),
            1 => kms.generate_data_key(&key, &context).is_ok_and(|made| !made.blob.is_empty()),
            2 => kms.decrypt(&key, &[1; 96], &context).is_ok(),
            3 => kms.re_encrypt(&key, &[1; 96], &key, &context).is_ok_and(|blob| !blob.is_empty()),
            _ => kms.current_material_id(&key).is_ok(),
        }
    })
}

/// A line that a client sends to a mount, or gets from it.
pub fn control(data: &[u8]) -> bool {
    let request = serde_json::from_slice::<wire::Request>(data);
    if let Ok(request) = &request {
        let text = serde_json::to_vec(request).expect("requests have string keys");
        assert_eq!(serde_json::from_slice::<wire::Request>(&text).expect("what was written can be read"), *request);
    }
    let answer = serde_json::from_slice::<wire::Answer>(data);
    if let Ok(answer) = &answer {
        let text = serde_json::to_vec(answer).expect("answers have string keys");
        assert!(!text.contains(&b'\n'));
    }
    request.is_ok() || answer.is_ok()
}

thread_local! {
    static FILE: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
}

/// A file of this content.
fn file(data: &[u8]) -> PathBuf {
    FILE.with_borrow_mut(|dir| {
        let path = dir.get_or_insert_with(super::temporary).path().join("file");
        std::fs::write(&path, data).expect("written");
        path
    })
}

/// A configuration file.
pub fn config(data: &[u8]) -> bool {
    let flags = GlobalFlags { config: Some(file(data)), ..GlobalFlags::default() };
    match Settings::resolve(flags) {
        Ok(settings) => {
            assert!(settings.home.is_absolute());
            true
        }
        Err(error) => {
            assert!(!error.message.is_empty());
            false
        }
    }
}

/// A shared credentials file.
pub fn credentials(data: &[u8]) -> bool {
    let region = "eu-central-1".parse().expect("a Region");
    let source = Source::File(file(data));
    RemoteKms::new("http://127.0.0.1:1", region, source, None, Arc::new(SystemClock)).is_ok()
}
