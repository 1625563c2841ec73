use std::collections::BTreeMap;

use serde_json::Value;

use super::*;

/// A request as text, taken apart as an HTTP server does it.
struct Parsed {
    method: String,
    path: String,
    query: String,
    headers: BTreeMap<String, Vec<String>>,
    body: String,
}

fn parse(text: &str) -> Parsed {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let first = lines.next().expect("a request line");
    let (method, rest) = first.split_once(' ').expect("a method");
    let target = rest.strip_suffix(" HTTP/1.1").expect("a version");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut last = String::new();
    for line in lines.filter(|line| !line.is_empty()) {
        if line.starts_with([' ', '\t']) {
            // A folded value goes on (RFC 9112 section 5.2).
            let value = headers.get_mut(&last).and_then(|values| values.last_mut()).expect("a value to go on with");
            value.push_str(line);
            continue;
        }
        let (name, value) = line.split_once(':').expect("a header");
        last = name.to_lowercase();
        headers.entry(last.clone()).or_default().push(value.to_owned());
    }
    let (method, path, query, body) = (method.to_owned(), path.to_owned(), query.to_owned(), body.to_owned());
    Parsed { method, path, query, headers, body }
}

/// AWS's published test suite; the file says where it comes from.
#[test]
fn awss_test_suite() {
    let suite: Value = serde_json::from_str(include_str!("../../../tests/vectors/sigv4.json")).expect("JSON");
    let cases = suite["cases"].as_array().expect("cases");
    assert!(cases.len() >= 30);
    for case in cases {
        let text = |name: &str| case[name].as_str().expect("a text");
        let name = text("name");
        let parsed = parse(text("signed_request"));
        let authorization = parsed.headers["authorization"][0].clone();
        let (_, rest) = authorization.split_once("SignedHeaders=").expect("signed headers");
        let (signed, signature) = rest.split_once(", Signature=").expect("a signature");
        let headers: Vec<(&str, Vec<&[u8]>)> =
            signed.split(';').map(|name| (name, parsed.headers[name].iter().map(String::as_bytes).collect())).collect();
        let request = Request {
            method: &parsed.method,
            path: &parsed.path,
            query: &parsed.query,
            headers: &headers,
            payload: Sha256::digest(&parsed.body).into(),
        };
        assert_eq!(String::from_utf8_lossy(&request.canonical()), text("canonical_request"), "{name}");
        let time = &parsed.headers["x-amz-date"][0];
        let scope = Scope { date: &time[..8], region: text("region"), service: text("service") };
        let string_to_sign = request.string_to_sign(time, &scope);
        assert_eq!(string_to_sign, text("string_to_sign"), "{name}");
        let key = SigningKey::derive(text("secret_access_key"), &scope);
        assert_eq!(key.sign(&string_to_sign), signature, "{name}");
        assert_eq!(signature, text("signature"), "{name}");
        assert!(key.verify(&string_to_sign, signature));
        assert!(!key.verify(&string_to_sign, &signature[1..]) && !key.verify("", signature));
    }
}

#[test]
fn escapes_that_are_none_stand_for_themselves() {
    assert_eq!(percent_decode("a%41%zz%4"), b"aA%zz%4");
    assert_eq!(percent_decode("%C3%a4+"), "\u{e4}+".as_bytes());
}
