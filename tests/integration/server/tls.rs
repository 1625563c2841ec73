//! The endpoint over HTTPS: who believes its certificate, and what is said to who cannot.

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kmsfs::keys::KeyService;
use kmsfs::keys::remote::{EndpointError, RemoteKms, Source};
use kmsfs::kms::model::{CreateKeyRequest, DescribeKeyRequest};
use kmsfs::server::{Certificate, Limits, TlsError};
use kmsfs::types::EncryptionContext;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use serde_json::json;

use super::client::{Answer, Signed, answer, send};
use super::{Keys, Running};

/// A certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority"))
    }

    fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// Writes a server's certificate for 127.0.0.1, and its key, under `dir`.
    pub fn issue(&self, dir: &Path) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.0).expect("signed");
        let (chain, secret) = (dir.join("chain.pem"), dir.join("key.pem"));
        fs::write(&chain, certificate.pem() + &self.0.pem()).expect("written");
        fs::write(&secret, key.serialize_pem()).expect("written");
        (chain, secret)
    }

    /// Its own certificate in a file.
    fn bundle(&self, dir: &Path) -> PathBuf {
        let path = dir.join("authorities.pem");
        fs::write(&path, self.0.pem()).expect("written");
        path
    }
}

fn serve(keys: &Keys, authority: &Authority) -> Running {
    let (chain, key) = authority.issue(keys.dir.path());
    let certificate = Certificate::read(&chain, &key).expect("a certificate");
    keys.serve_with("127.0.0.1:0".parse().expect("an address"), Limits::default(), Some(certificate))
}

/// Sends a request over TLS, believing `authority`.
pub fn ask(
    server: SocketAddr,
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    request: &str,
) -> io::Result<Answer> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("known versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let tls = ClientConnection::new(Arc::new(config), name).expect("a client");
    let stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut stream = StreamOwned::new(tls, stream);
    stream.write_all(request.as_bytes())?;
    Ok(answer(&mut stream))
}

#[test]
fn clients_that_believe_the_authority_are_served() {
    let (keys, authority) = (Keys::new(), Authority::new());
    let server = serve(&keys, &authority);
    let request = Signed::new(&keys, "ListKeys", &json!({})).bytes(&server.address.to_string());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let answered = ask(server.address, &authority, &[version], &request).expect("answered");
        assert_eq!(answered.status, 200, "{}", answered.text());
        assert_eq!(answered.json()["Keys"], json!([]));
    }
    // Encryption is no signature.
    let unsigned = request.replace("authorization: ", "x-other: ");
    let refused = ask(server.address, &authority, rustls::ALL_VERSIONS, &unsigned).expect("answered");
    assert_eq!(refused.code(), "MissingAuthenticationTokenException");
}

#[test]
fn policies_can_demand_encryption() {
    let (keys, authority) = (Keys::new(), Authority::new());
    let (plain, encrypted) = (keys.serve(Limits::default()), serve(&keys, &authority));
    let root = format!("arn:aws:iam::{}:root", keys.engine.account());
    let policy = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Principal": { "AWS": root }, "Action": "kms:*", "Resource": "*" },
        { "Effect": "Deny", "Principal": "*", "Action": "kms:DescribeKey", "Resource": "*",
          "Condition": { "Bool": { "aws:SecureTransport": "false" } } },
    ]});
    let request = CreateKeyRequest { policy: Some(policy.to_string()), ..Default::default() };
    let key = keys.engine.create_key(&keys.admin, request).expect("made").key_metadata.arn;
    let describe = Signed::new(&keys, "DescribeKey", &json!({ "KeyId": key.as_str() }));
    let refused = describe.send(&plain);
    assert_eq!((refused.status, refused.code()), (400, "AccessDeniedException".into()));
    let request = describe.bytes(&encrypted.address.to_string());
    assert_eq!(ask(encrypted.address, &authority, rustls::ALL_VERSIONS, &request).expect("answered").status, 200);
    // What comes over no network is neither the one nor the other.
    let request = DescribeKeyRequest { key_id: key.as_str().into(), ..Default::default() };
    keys.engine.describe_key(&keys.admin, request).expect("described");
}

#[test]
fn who_believes_another_authority_sends_nothing() {
    let (keys, authority) = (Keys::new(), Authority::new());
    let server = serve(&keys, &authority);
    let request = Signed::new(&keys, "CreateKey", &json!({})).bytes(&server.address.to_string());
    let refused = ask(server.address, &Authority::new(), rustls::ALL_VERSIONS, &request).err().expect("refused");
    assert!(refused.to_string().contains("invalid peer certificate"), "{refused}");
    // Others are served as before.
    let request = Signed::new(&keys, "ListKeys", &json!({})).bytes(&server.address.to_string());
    let listed = ask(server.address, &authority, rustls::ALL_VERSIONS, &request).expect("answered").json();
    assert_eq!(listed["Keys"], json!([]), "the refused request was executed");
}

#[test]
fn the_filesystem_believes_the_authorities_that_it_is_given() {
    let (keys, authority) = (Keys::new(), Authority::new());
    let server = serve(&keys, &authority);
    let key = keys.engine.create_key(&keys.admin, CreateKeyRequest::default()).expect("made").key_metadata.arn;
    let remote = |bundle: Option<&Path>| {
        let url = format!("https://{}", server.address);
        let region = "us-east-1".parse().expect("a Region");
        RemoteKms::new(&url, region, Source::File(super::remote::credentials(&keys)), bundle, keys.clock.clone())
    };
    let context = EncryptionContext::new().with("a", "b");
    let believing = remote(Some(&authority.bundle(keys.dir.path()))).expect("made");
    let made = believing.generate_data_key(&key, &context).expect("generated");
    assert!(believing.decrypt(&key, &made.blob, &context).expect("decrypts").ct_eq(&made.key));

    let dir = tempfile::TempDir::new().expect("temporary directory");
    let other = Authority::new().bundle(dir.path());
    for bundle in [None, Some(other.as_path())] {
        let refused = remote(bundle).expect("made").execute("ListKeys", "{}").expect_err("not believed");
        assert!(refused.message.contains("certificate"), "{}", refused.message);
    }
    fs::write(&other, "nonsense").expect("written");
    for path in [other.as_path(), Path::new("/nonexistent/authorities.pem")] {
        let refused = remote(Some(path)).err().expect("no authorities");
        assert!(matches!(refused, EndpointError::Authorities { .. }), "{refused}");
        assert!(refused.to_string().contains(&path.display().to_string()), "{refused}");
    }
}

#[test]
fn plain_http_is_told_to_use_https() {
    let (keys, authority) = (Keys::new(), Authority::new());
    let server = serve(&keys, &authority);
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(20_000));
    for body in ["{}".to_owned(), long] {
        let request = Signed { body, ..Signed::new(&keys, "ListKeys", &json!({})) };
        let told = send(&server, request.bytes(&server.address.to_string()).as_bytes());
        assert_eq!((told.status, told.text().as_str()), (400, "this port serves HTTPS; the URL is https://\n"));
    }
    assert_eq!(send(&server, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").status, 400);
}

#[test]
fn certificates_that_cannot_be_used_say_which_file_and_why() {
    let dir = tempfile::TempDir::new().expect("temporary directory");
    let (chain, key) = Authority::new().issue(dir.path());
    Certificate::read(&chain, &key).expect("good");
    let other = dir.path().join("other");
    fs::create_dir(&other).expect("created");
    let (_, other_key) = Authority::new().issue(&other);
    let nonsense = dir.path().join("nonsense.pem");
    fs::write(&nonsense, "nonsense").expect("written");
    let cut = dir.path().join("cut.pem");
    let text = fs::read_to_string(&chain).expect("read");
    fs::write(&cut, &text[..text.len() / 3]).expect("written");
    let missing = dir.path().join("missing.pem");
    for (chain, key, file) in [
        (&missing, &key, &missing),
        (&nonsense, &key, &nonsense),
        (&cut, &key, &cut),
        // Swapped.
        (&key, &chain, &key),
        (&chain, &missing, &missing),
        (&chain, &nonsense, &nonsense),
    ] {
        let error = Certificate::read(chain, key).expect_err("unusable");
        assert!(matches!(&error, TlsError::File { path, .. } if path == file), "{error}");
        assert!(error.to_string().contains(&file.display().to_string()), "{error}");
    }
    let error = Certificate::read(&chain, &other_key).expect_err("keys of others");
    assert!(matches!(error, TlsError::Unusable { .. }), "{error}");
}
