//! AWS's requests per second, as a client meets them.

use std::time::Duration;

use kmsfs::server::Limits;
use serde_json::json;

use super::client::{Answer, Signed, send_local};
use super::{Keys, Running};

/// Creates keys until one is refused; how many were made, and the refusal.
fn until_throttled(keys: &Keys, server: &Running) -> (usize, Answer) {
    for made in 0..100 {
        let answer = Signed::new(keys, "CreateKey", &json!({})).send(server);
        if answer.status != 200 {
            return (made, answer);
        }
    }
    panic!("nothing is limited");
}

#[test]
fn a_second_is_worth_five_keys_and_the_next_one_too() {
    let keys = Keys::new();
    let server = keys.serve(Limits::default());
    // No quota unless a server switches it on.
    for _ in 0..10 {
        assert_eq!(Signed::new(&keys, "CreateKey", &json!({})).send(&server).status, 200);
    }
    keys.engine.limit_requests();
    let (made, refused) = until_throttled(&keys, &server);
    assert_eq!((made, refused.status, refused.code()), (5, 400, "ThrottlingException".to_owned()));
    let text = "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.";
    assert_eq!(refused.message(), text);
    assert!(refused.head.to_lowercase().contains("x-amzn-requestid: "), "{}", refused.head);
    // Other operations, Regions and local callers have what they had.
    assert_eq!(Signed::new(&keys, "ListKeys", &json!({})).send(&server).status, 200);
    let elsewhere = Signed { region: "eu-west-1".into(), ..Signed::new(&keys, "CreateKey", &json!({})) };
    assert_eq!(elsewhere.send(&server).status, 200);
    let local = "POST / HTTP/1.1\r\nhost: x\r\nx-amz-target: TrentService.CreateKey\r\ncontent-length: 2\r\n\r\n{}";
    assert_eq!(send_local(&server, local.as_bytes()).status, 200);

    keys.clock.advance(Duration::from_millis(400));
    let (made, _) = until_throttled(&keys, &server);
    assert_eq!(made, 2);
    keys.clock.advance(Duration::from_secs(3));
    let (made, _) = until_throttled(&keys, &server);
    assert_eq!(made, 5);

    // What was refused is counted, and in no audit log.
    keys.engine.audit().flush().expect("written");
    let log = std::fs::read_to_string(keys.dir.path().join("kms/audit/000001.jsonl")).expect("the log");
    assert!(log.contains("CreateKey") && !log.contains("ThrottlingException"));
    let metrics = super::client::send(&server, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").text();
    let line = "kmsfs_requests_total{operation=\"CreateKey\",code=\"ThrottlingException\"} 3\n";
    assert!(metrics.contains(line), "{metrics}");
}

#[test]
fn a_client_that_keeps_asking_is_served_again() {
    let keys = Keys::new();
    keys.engine.limit_requests();
    let server = keys.serve(Limits::default());
    let (_, refused) = until_throttled(&keys, &server);
    assert_eq!(refused.code(), "ThrottlingException");
    let remote = super::remote::remote(&keys, &server);
    let clock = keys.clock.clone();
    // The client waits 50 ms before its second attempt, 100 ms before its third.
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        clock.advance(Duration::from_secs(1));
    });
    remote.execute("CreateKey", "{}").expect("after another attempt");
    later.join().expect("advanced");
}
