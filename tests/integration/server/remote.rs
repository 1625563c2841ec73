//! The key manager behind the wire protocol as the filesystem's key service.

use std::path::PathBuf;

use kmsfs::env::SystemClock;
use kmsfs::keys::remote::{RemoteKms, Source};
use kmsfs::keys::{KeyError, KeyService};
use kmsfs::kms::model::{CreateKeyRequest, ScheduleKeyDeletionRequest};
use kmsfs::server::Limits;
use kmsfs::types::{EncryptionContext, KeyArn};

use super::{Keys, Running};

/// A file with the credentials of the administrator.
pub fn credentials(keys: &Keys) -> PathBuf {
    let file = keys.dir.path().join("credentials");
    let text = format!(
        "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        keys.access_key.access_key_id,
        keys.access_key.secret_access_key.as_str()
    );
    std::fs::write(&file, text).expect("written");
    file
}

/// A remote key manager with the credentials of the administrator.
pub fn remote(keys: &Keys, server: &Running) -> RemoteKms {
    let region = "us-east-1".parse().expect("a Region");
    let url = format!("http://{}", server.address);
    RemoteKms::new(&url, region, Source::File(credentials(keys)), None, keys.clock.clone()).expect("made")
}

fn context() -> EncryptionContext {
    EncryptionContext::new().with("kmsfs:volume", "v").with("kmsfs:file", "f\u{e4}\"")
}

#[test]
fn data_keys_come_back_and_refusals_keep_their_meaning() {
    let keys = Keys::new();
    let server = keys.serve(Limits::default());
    let kms = remote(&keys, &server);
    let new = |engine: &kmsfs::kms::Engine| {
        engine.create_key(&keys.admin, CreateKeyRequest::default()).expect("made").key_metadata.arn
    };
    let (one, two) = (new(&keys.engine), new(&keys.engine));
    assert_eq!(kms.resolve(one.key_id()), Ok(one.clone()));
    assert!(matches!(kms.resolve("alias/none"), Err(KeyError::NotFound(_))));
    let made = kms.generate_data_key(&one, &context()).expect("generated");
    assert!(kms.decrypt(&one, &made.blob, &context()).expect("decrypts").ct_eq(&made.key));
    assert_eq!(kms.material_id(&made.blob), kms.current_material_id(&one).expect("known"));
    let wrong = kms.decrypt(&one, &made.blob, &EncryptionContext::new()).expect_err("wrong context");
    assert_eq!(wrong, KeyError::InvalidCiphertext(one.clone()));
    let moved = kms.re_encrypt(&one, &made.blob, &two, &context()).expect("re-encrypted");
    assert!(kms.decrypt(&two, &moved, &context()).expect("decrypts").ct_eq(&made.key));
    assert_eq!(
        kms.decrypt(&one, &moved, &context()).expect_err("of the other"),
        KeyError::InvalidCiphertext(one.clone())
    );

    keys.engine.disable_key(&keys.admin, two.as_str().into()).expect("disabled");
    assert_eq!(kms.decrypt(&two, &moved, &context()).expect_err("disabled"), KeyError::Disabled(two.clone()));
    let refused = kms.re_encrypt(&one, &made.blob, &two, &context()).expect_err("disabled");
    assert_eq!(refused, KeyError::Disabled(two.clone()));
    let request = ScheduleKeyDeletionRequest { key_id: two.to_string(), pending_window_in_days: Some(7) };
    keys.engine.schedule_key_deletion(&keys.admin, request).expect("scheduled");
    assert_eq!(kms.decrypt(&two, &moved, &context()).expect_err("pending"), KeyError::PendingDeletion(two));
    let foreign: KeyArn =
        "arn:aws:kms:us-east-1:999999999999:key/00000000-0000-4000-8000-000000000000".parse().expect("an ARN");
    assert!(matches!(kms.generate_data_key(&foreign, &context()), Err(KeyError::Denied { .. })));
    keys.engine.delete_access_key(&keys.admin, &keys.access_key.access_key_id).expect("deleted");
    assert!(matches!(kms.decrypt(&one, &made.blob, &context()), Err(KeyError::Denied { .. })));
}

#[test]
fn a_key_manager_that_is_gone_is_silent_and_comes_back() {
    let keys = Keys::new();
    let mut server = keys.serve(Limits::default());
    let kms = remote(&keys, &server);
    let key = keys.engine.create_key(&keys.admin, CreateKeyRequest::default()).expect("made").key_metadata.arn;
    let made = kms.generate_data_key(&key, &context()).expect("generated");
    server.stop();
    let started = std::time::Instant::now();
    assert!(matches!(kms.decrypt(&key, &made.blob, &context()), Err(KeyError::Unreachable(_))));
    assert!(started.elapsed() < std::time::Duration::from_secs(11), "{:?}", started.elapsed());
    let _server = keys.serve_at(server.address, Limits::default());
    assert!(kms.decrypt(&key, &made.blob, &context()).expect("decrypts").ct_eq(&made.key));
}

#[test]
fn endpoints_that_are_refused() {
    let region = || "us-east-1".parse().expect("a Region");
    let clock = std::sync::Arc::new(SystemClock);
    for url in [
        "",
        "kms.example.com",
        "ftp://127.0.0.1/",
        "http://kms.example.com/",
        "http://127.0.0.1/path",
        "http://u@127.0.0.1/",
    ] {
        assert!(RemoteKms::new(url, region(), Source::Environment, None, clock.clone()).is_err(), "{url}");
    }
}
