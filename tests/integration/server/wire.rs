use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use kmsfs::kms::model::{CreateKeyRequest, DecryptRequest};
use kmsfs::server::Limits;
use serde_json::json;

use super::Keys;
use super::client::{Signed, answer, send, send_local};

#[test]
fn a_signed_request_is_executed_and_recorded_under_its_id() {
    let keys = Keys::new();
    let server = keys.serve(Limits::default());
    let created = Signed::new(&keys, "CreateKey", &json!({})).send(&server);
    assert_eq!(created.status, 200, "{}", created.text());
    assert!(created.head.to_lowercase().contains("content-type: application/x-amz-json-1.1"));
    let arn = created.json()["KeyMetadata"]["Arn"].as_str().expect("an ARN").to_owned();
    let made =
        Signed::new(&keys, "GenerateDataKey", &json!({ "KeyId": arn, "NumberOfBytes": 16 })).send(&server).json();
    let blob =
        data_encoding::BASE64.decode(made["CiphertextBlob"].as_str().expect("a blob").as_bytes()).expect("base64");
    let request = DecryptRequest { ciphertext_blob: Some(blob), ..Default::default() };
    let plaintext = keys.engine.decrypt(&keys.admin, request).expect("decrypts").plaintext;
    assert_eq!(made["Plaintext"], data_encoding::BASE64.encode(plaintext.expose()));
    // Operations without output answer an empty body.
    let disabled = Signed::new(&keys, "DisableKey", &json!({ "KeyId": arn })).send(&server);
    assert_eq!((disabled.status, disabled.body.len()), (200, 0));
    let refused = Signed::new(&keys, "Encrypt", &json!({ "KeyId": arn, "Plaintext": "AA==" })).send(&server);
    assert_eq!((refused.status, refused.code()), (400, "DisabledException".to_owned()));
    assert_eq!(refused.message(), format!("{arn} is disabled."));

    keys.engine.audit().flush().expect("written");
    let log = std::fs::read_to_string(keys.dir.path().join("kms/audit/000001.jsonl")).expect("the log");
    let id = refused.head.lines().find_map(|line| line.strip_prefix("x-amzn-requestid: ")).expect("an id");
    let record = log.lines().find(|line| line.contains(id)).expect("a record with the answer's id");
    assert!(
        record.contains("DisabledException") && record.contains(":user/administrator") && record.contains("127.0.0.1")
    );
    // And the access key that signed, whose secret is nowhere.
    let record: serde_json::Value = serde_json::from_str(record).expect("JSON");
    assert_eq!(record["userIdentity"]["accessKeyId"], keys.access_key.access_key_id.as_str());
    assert!(!log.contains(&*keys.access_key.secret_access_key));
}

#[test]
fn requests_that_nobody_signed_are_refused() {
    let keys = Keys::new();
    let server = keys.serve(Limits::default());
    let request = || Signed::new(&keys, "ListKeys", &json!({}));
    let refused = |signed: Signed| {
        let answer = signed.send(&server);
        assert_eq!(answer.status, 400, "{}", answer.text());
        answer.code()
    };
    assert_eq!(request().send(&server).status, 200);
    let without = |text: String| text.split_inclusive("\r\n").filter(|l| !l.starts_with("authorization")).collect();
    assert_eq!(refused(Signed { forge: without, ..request() }), "MissingAuthenticationTokenException");
    let basic = |text: String| text.replace("AWS4-HMAC-SHA256 ", "Basic ");
    assert_eq!(refused(Signed { forge: basic, ..request() }), "MissingAuthenticationTokenException");
    let cut = |text: String| text.replace(", Signature=", ", Sig=");
    assert_eq!(refused(Signed { forge: cut, ..request() }), "IncompleteSignatureException");
    let dateless = |text: String| text.replace("x-amz-date: ", "x-other: ");
    assert_eq!(refused(Signed { forge: dateless, ..request() }), "IncompleteSignatureException");
    let nobody = Signed { access_key_id: "AKIANOBODY".into(), ..request() };
    assert_eq!(refused(nobody), "UnrecognizedClientException");
    let session = Signed { extra: vec![("x-amz-security-token", "t".into())], ..request() };
    assert_eq!(refused(session), "UnrecognizedClientException");
    for forged in [
        Signed { secret: "wrong".into(), ..request() },
        // Another body, operation or Region than was signed.
        Signed { forge: |text| text.replace("\r\n\r\n{}", "\r\n\r\n[]"), ..request() },
        Signed { forge: |text| text.replace("TrentService.ListKeys", "TrentService.ListAlia"), ..request() },
        Signed { forge: |text| text.replace("/us-east-1/", "/eu-west-1/"), ..request() },
        // The operation is not signed at all.
        Signed { signs: vec!["host", "x-amz-date"], ..request() },
        Signed { signs: vec!["x-amz-date", "x-amz-target"], ..request() },
        // Signed for another service or day.
        Signed { service: "s3".into(), ..request() },
        Signed { forge: |text| text.replace("/20260501/", "/20260502/"), ..request() },
        Signed { forge: |text| text.replace("aws4_request", "aws5_request"), ..request() },
    ] {
        assert_eq!(refused(forged), "InvalidSignatureException");
    }
}

#[test]
fn signatures_count_for_five_minutes() {
    let keys = Keys::new();
    let server = keys.serve(Limits::default());
    let at = |seconds: i64| {
        let at = kmsfs::types::Timestamp::from_secs(super::NOW.as_secs() + seconds);
        Signed { at, ..Signed::new(&keys, "ListKeys", &json!({})) }.send(&server)
    };
    assert_eq!(at(-300).status, 200);
    assert_eq!(at(300).status, 200);
    let expired = at(-301);
    assert_eq!(expired.code(), "InvalidSignatureException");
    assert_eq!(
        expired.message(),
        "Signature expired: 20260501T092459Z is now earlier than 20260501T092500Z (20260501T093000Z - 5 min.)"
    );
    let early = at(301);
    assert_eq!(
        early.message(),
        "Signature not yet current: 20260501T093501Z is still later than 20260501T093500Z (20260501T093000Z + 5 min.)"
    );
}

#[test]
fn the_region_comes_from_the_signature() {
    let keys = Keys::new();
    let server = keys.serve(Limits::default());
    let create = Signed { region: "eu-west-1".into(), ..Signed::new(&keys, "CreateKey", &json!({})) };
    let arn = create.send(&server).json()["KeyMetadata"]["Arn"].as_str().expect("an ARN").to_owned();
    assert!(arn.contains(":eu-west-1:"), "{arn}");
    let here = Signed::new(&keys, "DescribeKey", &json!({ "KeyId": arn })).send(&server);
    assert_eq!((here.code(), here.message()), ("NotFoundException".into(), "Invalid arn eu-west-1".into()));
}

#[test]
fn a_deleted_access_key_is_nobodys_at_once() {
    let keys = Keys::new();
    let server = keys.serve(Limits::default());
    assert_eq!(Signed::new(&keys, "ListKeys", &json!({})).send(&server).status, 200);
    keys.engine.delete_access_key(&keys.admin, &keys.access_key.access_key_id).expect("deleted");
    assert_eq!(Signed::new(&keys, "ListKeys", &json!({})).send(&server).code(), "UnrecognizedClientException");
}

#[test]
fn local_users_need_no_signature() {
    let keys = Keys::new();
    let server = keys.serve(Limits::default());
    let request = |region: &str| {
        format!(
            "POST / HTTP/1.1\r\nhost: x\r\nx-amz-target: TrentService.CreateKey\r\n{region}content-length: 2\r\n\r\n{{}}"
        )
    };
    let created = send_local(&server, request("").as_bytes());
    assert_eq!(created.status, 200, "{}", created.text());
    // A signature names the Region; whether it is right does not matter here.
    let signature = "0".repeat(64);
    let scope = format!(
        "authorization: AWS4-HMAC-SHA256 Credential=x/20260501/eu-west-1/kms/aws4_request, SignedHeaders=host, \
         Signature={signature}\r\n"
    );
    let created = send_local(&server, request(&scope).as_bytes());
    assert!(created.text().contains("arn:aws:kms:eu-west-1:"), "{}", created.text());
    keys.engine.audit().flush().expect("written");
    let log = std::fs::read_to_string(keys.dir.path().join("kms/audit/000001.jsonl")).expect("the log");
    let user = kmsfs::sys::user::own_name();
    let last: serde_json::Value = serde_json::from_str(log.lines().last().expect("a record")).expect("JSON");
    assert!(last["userIdentity"]["arn"].as_str().expect("an ARN").ends_with(&format!(":user/{user}")));
    assert_eq!(last["userIdentity"]["accessKeyId"], serde_json::Value::Null, "what nobody checked is not recorded");
}

#[test]
fn what_is_no_operation_of_kms() {
    let keys = Keys::new();
    let server = keys.serve(Limits::default());
    let unknown = Signed::new(&keys, "NoSuchThing", &json!({})).send(&server);
    assert_eq!((unknown.status, unknown.code()), (400, "UnknownOperationException".into()));
    let other = Signed { target: Some("DynamoDB_20120810.ListTables".into()), ..Signed::new(&keys, "", &json!({})) };
    assert_eq!(other.send(&server).code(), "UnknownOperationException");
    let bad = Signed { body: "{nope".into(), ..Signed::new(&keys, "ListKeys", &json!({})) };
    assert_eq!(bad.send(&server).code(), "SerializationException");
    assert_eq!(send(&server, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").text(), "ok\n");
    for nothing in [&b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"DELETE / HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let answer = send(&server, nothing);
        assert_eq!((answer.status, answer.code()), (404, "UnknownOperationException".into()));
    }
    assert_eq!(send(&server, b"nonsense\r\n\r\n").status, 400);
    let metrics = send(&server, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").text();
    for line in [
        "kmsfs_requests_total{operation=\"ListKeys\",code=\"SerializationException\"} 1\n",
        "kmsfs_requests_total{operation=\"unknown\",code=\"UnknownOperationException\"} 2\n",
        "kmsfs_connections ",
        "kmsfs_request_duration_seconds_count 3\n",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn sts_tells_whose_credentials_these_are() {
    let keys = Keys::new();
    let server = keys.serve(Limits::default());
    let request = || Signed {
        service: "sts".into(),
        target: None,
        signs: vec!["content-type", "host", "x-amz-date"],
        content_type: "application/x-www-form-urlencoded; charset=utf-8".into(),
        body: "Action=GetCallerIdentity&Version=2011-06-15".into(),
        ..Signed::new(&keys, "", &json!({}))
    };
    let told = request().send(&server);
    assert_eq!(told.status, 200, "{}", told.text());
    assert!(told.text().contains("<Arn>arn:aws:iam::000000000000:user/administrator</Arn>"), "{}", told.text());
    assert!(told.text().contains("<Account>000000000000</Account>"));
    let forged = Signed { secret: "wrong".into(), ..request() }.send(&server);
    assert_eq!(forged.status, 403);
    assert!(forged.text().contains("<Code>SignatureDoesNotMatch</Code>"), "{}", forged.text());
    let other = Signed { body: "Action=AssumeRole".into(), ..request() }.send(&server);
    assert!(other.text().contains("<Code>InvalidAction</Code>"), "{}", other.text());
    // A signature for KMS is none for STS.
    let kms = Signed { service: "kms".into(), ..request() }.send(&server);
    assert!(kms.text().contains("<Code>SignatureDoesNotMatch</Code>"), "{}", kms.text());
}

#[test]
fn large_and_slow_requests_end() {
    let keys = Keys::new();
    let limits = Limits {
        body: 1000,
        head_time: Duration::from_millis(300),
        request_time: Duration::from_millis(600),
        ..Limits::default()
    };
    let server = keys.serve(limits);
    let long =
        Signed { body: format!("{{\"a\":\"{}\"}}", "x".repeat(1000)), ..Signed::new(&keys, "ListKeys", &json!({})) };
    let refused = long.send(&server);
    assert_eq!((refused.status, refused.code()), (413, "RequestEntityTooLargeException".into()));
    assert_eq!(refused.message(), "The body of a request can have at most 1000 bytes.");
    let chunked = format!(
        "POST / HTTP/1.1\r\nhost: x\r\nx-amz-target: TrentService.ListKeys\r\ntransfer-encoding: chunked\r\n\r\n\
         7d0\r\n{}\r\n0\r\n\r\n",
        "x".repeat(2000)
    );
    assert_eq!(send(&server, chunked.as_bytes()).status, 413);
    let heads = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(200));
    let refused = send(&server, heads.as_bytes());
    assert_eq!((refused.status, refused.code()), (431, "RequestHeaderFieldsTooLargeException".into()));
    for (len, status) in [(32_000, 404), (33_000, 431), (60_000, 431)] {
        let head = format!("GET /none HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n", "b".repeat(len));
        let answered = send(&server, head.as_bytes());
        assert_eq!(answered.status, status, "{len}");
        assert!(!answered.code().is_empty() && !answered.message().is_empty(), "{len}");
    }
    // What the HTTP library does not take for a request never comes here: its answer says nothing but the status.
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(300));
    for (head, status) in [(many.as_str(), 431), ("nonsense\r\n\r\n", 400)] {
        let answered = send(&server, head.as_bytes());
        assert_eq!((answered.status, answered.text()), (status, String::new()));
    }
    // A body that never comes.
    let stalled = send(&server, b"POST / HTTP/1.1\r\nhost: x\r\nx-amz-target: T\r\ncontent-length: 5\r\n\r\n");
    assert_eq!((stalled.status, stalled.code()), (408, "RequestTimeoutException".into()));
    // A head that never ends: the connection is closed.
    let mut stream = TcpStream::connect(server.address).expect("connected");
    stream.write_all(b"POST / HTTP/1.1\r\nhost:").expect("sent");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut rest).expect("closed, not silent");
}

#[test]
fn who_does_not_read_answers_is_cut_off() {
    let keys = Keys::new();
    let limits = Limits { connections: 1, request_time: Duration::from_millis(600), ..Limits::default() };
    let server = keys.serve(limits);
    let health = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    // Asks, and reads nothing, until the server cuts the connection.
    fn ask(mut stream: impl Write) -> ErrorKind {
        let metrics = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
        loop {
            if let Err(error) = stream.write_all(&metrics) {
                return error.kind();
            }
        }
    }
    let cut = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    let network = TcpStream::connect(server.address).expect("connected");
    rustix::net::sockopt::set_socket_recv_buffer_size(&network, 2048).expect("set");
    network.set_write_timeout(Some(Duration::from_secs(20))).expect("set");
    let ended = ask(network);
    assert!(cut.contains(&ended), "{ended}");
    assert_eq!(send(&server, health).text(), "ok\n");
    let local = UnixStream::connect(&server.socket).expect("connected");
    local.set_write_timeout(Some(Duration::from_secs(20))).expect("set");
    let ended = ask(local);
    assert!(cut.contains(&ended), "{ended}");
    assert_eq!(send(&server, health).text(), "ok\n");
}

#[test]
fn connections_over_the_limit_wait_for_their_turn() {
    let keys = Keys::new();
    let limits = Limits { connections: 1, ..Limits::default() };
    let server = keys.serve(limits);
    let request = Signed::new(&keys, "ListKeys", &json!({})).bytes(&server.address.to_string());
    let mut first = TcpStream::connect(server.address).expect("connected");
    first.write_all(request.as_bytes()).expect("sent");
    assert_eq!(answer(&mut first).status, 200);
    let mut second = TcpStream::connect(server.address).expect("connected");
    second.write_all(request.as_bytes()).expect("sent");
    second.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
    let waiting = std::io::Read::read(&mut second, &mut [0; 1]);
    assert!(waiting.is_err(), "answered although the connection before is open");
    drop(first);
    second.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    assert_eq!(answer(&mut second).status, 200);
}

#[test]
fn stopping_lets_requests_end_and_takes_no_new_ones() {
    let keys = Keys::new();
    let mut server = keys.serve(Limits::default());
    let key = keys.engine.create_key(&keys.admin, CreateKeyRequest::default()).expect("made").key_metadata.key_id;
    let mut idle = TcpStream::connect(server.address).expect("connected");
    let request = Signed::new(&keys, "DescribeKey", &json!({ "KeyId": key }));
    idle.write_all(request.bytes(&server.address.to_string()).as_bytes()).expect("sent");
    assert_eq!(answer(&mut idle).status, 200);
    // The idle connection does not hold the server up.
    let started = std::time::Instant::now();
    server.stop();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(TcpStream::connect(server.address).is_err());
}

#[test]
fn strangers_make_room_the_oldest_first() {
    let keys = Keys::new();
    let server = keys.serve(Limits { connections: 4, ..Limits::default() });
    let request = Signed::new(&keys, "ListKeys", &json!({})).bytes(&server.address.to_string());
    let mut known = TcpStream::connect(server.address).expect("connected");
    let ask = |stream: &mut TcpStream| {
        stream.write_all(request.as_bytes()).expect("sent");
        answer(stream).status
    };
    assert_eq!(ask(&mut known), 200);
    let began = std::time::Instant::now();
    let mut idle: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(server.address).expect("connected")).collect();
    let mut late = TcpStream::connect(server.address).expect("connected");
    late.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    assert_eq!(ask(&mut late), 200);
    assert!(began.elapsed() < Limits::default().head_time / 2, "it waited for their time to end");
    idle[0].set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let ended = std::io::Read::read(&mut idle[0], &mut [0; 1]);
    assert!(matches!(ended, Ok(0)) || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    // Who has signed a request stays.
    assert_eq!(ask(&mut known), 200);
    assert_eq!(ask(&mut late), 200);
    let gauge = send_local(&server, b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").text();
    let open = gauge.lines().find_map(|line| line.strip_prefix("kmsfs_connections ")).expect("a gauge");
    assert!(open.parse::<u32>().expect("a number") <= 5, "{open}");
}

#[test]
fn the_socket_has_places_of_its_own() {
    let keys = Keys::new();
    let server = keys.serve(Limits { connections: 1, ..Limits::default() });
    let request = Signed::new(&keys, "ListKeys", &json!({})).bytes(&server.address.to_string());
    let mut stream = TcpStream::connect(server.address).expect("connected");
    stream.write_all(request.as_bytes()).expect("sent");
    assert_eq!(answer(&mut stream).status, 200);
    let _waiting = TcpStream::connect(server.address).expect("connected");
    let health = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(send_local(&server, health).text(), "ok\n");
}
