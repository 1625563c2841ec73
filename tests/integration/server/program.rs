//! `kmsfs serve` itself, as a process: a certificate, AWS's quotas, and its end.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kmsfs::env::{Clock, SystemClock};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::client::{Signed, answer};
use super::tls::{Authority, ask};

fn kmsfs(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kmsfs"));
    command.arg("--kms-home").arg(home).env("KMSFS_CONFIG", "/dev/null");
    command
}

fn said(command: &mut Command) -> String {
    let output = command.output().expect("started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// A process that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn serves_https_within_awss_quotas_and_ends_in_order() {
    let dir = tempfile::TempDir::new().expect("temporary directory");
    let (home, authority) = (dir.path().join("kms"), Authority::new());
    let (chain, key) = authority.issue(dir.path());
    said(kmsfs(&home).args(["init", "--keyfile"]));
    let exports = said(kmsfs(&home).args(["iam", "create-access-key", "--shell"]));
    let variable = |name: &str| {
        let line = exports.lines().find_map(|line| line.strip_prefix(&format!("export {name}=")));
        line.expect("exported").trim_matches(['\'', '"']).to_owned()
    };
    let mut serve = kmsfs(&home);
    serve.args(["--json", "serve", "--listen", "127.0.0.1:0", "--quota", "aws", "--tls-cert"]).arg(chain);
    let child = serve.arg("--tls-key").arg(key).stdout(Stdio::piped()).spawn().expect("started");
    let mut server = Process(child);
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let announced: Value = serde_json::from_str(&line).expect("JSON");
    let endpoint = announced["endpoint"].as_str().expect("an endpoint");
    let address: SocketAddr = endpoint.strip_prefix("https://").expect("HTTPS").parse().expect("an address");
    let call = |operation: &str, body: &Value| {
        let (id, secret) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"));
        let signed = Signed::by(id, secret, SystemClock.now(), operation, body);
        let request = signed.bytes(&address.to_string());
        ask(address, &authority, rustls::ALL_VERSIONS, &request).expect("answered")
    };
    let created = call("CreateKey", &json!({ "Origin": "EXTERNAL" }));
    assert_eq!(created.status, 200, "{}", created.text());
    let key_id = created.json()["KeyMetadata"]["KeyId"].clone();
    // One in four seconds.
    let wanted = json!({
        "KeyId": key_id, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048",
    });
    assert_eq!(call("GetParametersForImport", &wanted).status, 200);
    let throttled = (0..20).map(|_| call("GetParametersForImport", &wanted)).find(|answer| answer.status != 200);
    let throttled = throttled.expect("a refusal");
    assert_eq!((throttled.status, throttled.code()), (400, "ThrottlingException".to_owned()));
    assert_eq!(call("ListKeys", &json!({})).json()["Keys"][0]["KeyId"], key_id, "others have their own");

    kill_process(Pid::from_child(&server.0), Signal::TERM).expect("told to end");
    assert!(server.0.wait().expect("ended").success());
    // What it did is in the log, and the log is whole.
    let log = said(kmsfs(&home).args(["audit", "show", "--event", "GetParametersForImport"]));
    assert!(log.contains("administrator"), "{log}");
    said(kmsfs(&home).args(["audit", "verify"]));
}

/// More connections than files that the process can open: without a bound of its own nothing would be accepted any more, and the
/// audit log not opened.
#[test]
fn serves_however_few_files_it_can_open() {
    let dir = tempfile::TempDir::new().expect("temporary directory");
    let home = dir.path().join("kms");
    said(kmsfs(&home).args(["init", "--keyfile"]));
    let exports = said(kmsfs(&home).args(["iam", "create-access-key", "--shell"]));
    let variable = |name: &str| {
        let line = exports.lines().find_map(|line| line.strip_prefix(&format!("export {name}=")));
        line.expect("exported").trim_matches(['\'', '"']).to_owned()
    };
    let mut serve = Command::new("sh");
    serve.args(["-c", "ulimit -n 100 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_kmsfs"), "--json", "--kms-home"]);
    serve.arg(&home).args(["serve", "--listen", "127.0.0.1:0", "--max-connections", "1000"]);
    let child = serve.env("KMSFS_CONFIG", "/dev/null").stdout(Stdio::piped()).spawn().expect("started");
    let mut server = Process(child);
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let announced: Value = serde_json::from_str(&line).expect("JSON");
    let endpoint = announced["endpoint"].as_str().and_then(|url| url.strip_prefix("http://")).expect("an endpoint");
    let address: SocketAddr = endpoint.parse().expect("an address");
    let strangers: Vec<TcpStream> = (0..150).map(|_| TcpStream::connect(address).expect("connected")).collect();
    let request = Signed::by(
        variable("AWS_ACCESS_KEY_ID"),
        variable("AWS_SECRET_ACCESS_KEY"),
        SystemClock.now(),
        "CreateKey",
        &json!({}),
    );
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    stream.write_all(request.bytes(&address.to_string()).as_bytes()).expect("sent");
    let created = answer(&mut stream);
    assert_eq!(created.status, 200, "{}", created.text());
    drop(strangers);
}
