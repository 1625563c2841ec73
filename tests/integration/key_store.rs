//! Custom key stores on a real PKCS#11 module: SoftHSM2. Skipped, with a word about it, where it is not installed.
//!
//! SoftHSM2 finds its tokens by an environment variable that it reads once per process: each test runs itself again in a
//! process of its own, with tokens of its own.

mod model;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cryptoki::context::Pkcs11;
use cryptoki::types::AuthPin;
use kmsfs::env::{Clock, ManualClock, SystemEntropy};
use kmsfs::kms::audit::AuditFilter;
use kmsfs::kms::custody::{Home, NewHome, NewSlot, Unlock};
use kmsfs::kms::model::*;
use kmsfs::kms::{Engine, KmsError};
use kmsfs::types::{EncryptionContext, Timestamp};
use tempfile::TempDir;

const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
];
const PIN: &str = "7654321";
/// Set in the process that runs a test's body: the directory with its tokens.
const INSIDE: &str = "KMSFS_TEST_TOKENS";

fn module() -> Option<PathBuf> {
    MODULES.iter().map(PathBuf::from).find(|path| path.exists())
}

fn run(program: &str, args: &[&str], conf: &Path) {
    let output = Command::new(program).args(args).env("SOFTHSM2_CONF", conf).output().expect(program);
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `body` in a process whose tokens are its own; `name` is that of the calling test.
fn with_tokens(name: &str, body: impl FnOnce(&Bench)) {
    let Some(module) = module() else {
        std::io::Write::write_all(&mut std::io::stderr(), b"skipped: SoftHSM2 is not installed (package softhsm2)\n")
            .expect("standard error");
        return;
    };
    if let Some(tokens) = std::env::var_os(INSIDE) {
        body(&Bench::new(tokens.into(), &module));
        return;
    }
    let dir = TempDir::new().expect("temporary directory");
    let (tokens, conf) = (dir.path().join("tokens"), dir.path().join("softhsm2.conf"));
    std::fs::create_dir(&tokens).expect("created");
    let text = format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display());
    std::fs::write(&conf, text).expect("written");
    for label in ["first", "second"] {
        let init = ["--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", PIN];
        run("softhsm2-util", &init, &conf);
    }
    let this = std::env::current_exe().expect("the test's program");
    let output = Command::new(this)
        .args([&format!("key_store::{name}"), "--exact", "--nocapture"])
        .env("SOFTHSM2_CONF", &conf)
        .env(INSIDE, &tokens)
        .output()
        .expect("run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

struct Bench {
    engine: Engine,
    clock: Arc<ManualClock>,
    alice: Caller,
    tokens: PathBuf,
    module: PathBuf,
    dir: TempDir,
}

fn context() -> EncryptionContext {
    EncryptionContext::new().with("a", "b")
}

impl Bench {
    fn new(tokens: PathBuf, module: &Path) -> Self {
        let dir = TempDir::new().expect("temporary directory");
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_767_225_600)));
        let new = NewHome::with_slots(vec![NewSlot::KeyFile]);
        let (home, _) = Home::create(&dir.path().join("kms"), new, &*clock, &SystemEntropy).expect("created");
        let engine = Engine::start(home, clock.clone(), Arc::new(SystemEntropy)).expect("started");
        let alice = engine.local_caller("alice");
        Self { engine, clock, alice, tokens, module: module.to_owned(), dir }
    }

    /// Another engine on the same home, as another process would have it.
    fn another(&self) -> Engine {
        let home = self.dir.path().join("kms");
        Engine::open(&home, &Unlock::KeyFile, self.clock.clone(), Arc::new(SystemEntropy)).expect("opened")
    }

    fn cluster(&self, label: &str) -> String {
        self.engine.add_cluster(&self.alice, &self.module, label).expect("added").cloud_hsm_cluster_id
    }

    fn create(&self, name: &str, cluster: &str, pin: &str) -> Result<String, KmsError> {
        let request = CreateCustomKeyStoreRequest {
            custom_key_store_name: name.to_owned(),
            custom_key_store_type: None,
            cloud_hsm_cluster_id: Some(cluster.to_owned()),
            trust_anchor_certificate: Some("certificate".to_owned()),
            key_store_password: Some(pin.into()),
        };
        self.engine.create_custom_key_store(&self.alice, request).map(|answer| answer.custom_key_store_id)
    }

    fn connect(&self, store: &str) -> Result<(), KmsError> {
        self.engine.connect_custom_key_store(&self.alice, store.into())
    }

    fn disconnect(&self, store: &str) -> Result<(), KmsError> {
        self.engine.disconnect_custom_key_store(&self.alice, store.into())
    }

    fn stores(&self) -> Vec<CustomKeyStoresListEntry> {
        let all = DescribeCustomKeyStoresRequest::default();
        self.engine.describe_custom_key_stores(&self.alice, all).expect("described").custom_key_stores
    }

    /// A connected store on the first token.
    fn connected(&self) -> String {
        let store = self.create("store", &self.cluster("first"), PIN).expect("created");
        self.connect(&store).expect("connected");
        assert_eq!(self.stores()[0].connection_state, ConnectionState::Connected);
        store
    }

    fn key(&self, store: &str) -> Result<String, KmsError> {
        let request = CreateKeyRequest {
            origin: Some(Origin::AwsCloudHsm),
            custom_key_store_id: Some(store.to_owned()),
            ..Default::default()
        };
        self.engine.create_key(&self.alice, request).map(|answer| answer.key_metadata.key_id)
    }

    fn describe(&self, key: &str) -> KeyMetadata {
        let request = DescribeKeyRequest { key_id: key.to_owned(), ..Default::default() };
        self.engine.describe_key(&self.alice, request).expect("described").key_metadata
    }

    fn encrypt(&self, key: &str) -> Result<Vec<u8>, KmsError> {
        let request = EncryptRequest {
            key_id: key.to_owned(),
            plaintext: b"plain"[..].into(),
            encryption_context: context(),
            encryption_algorithm: None,
            grant_tokens: vec![],
            dry_run: false,
        };
        self.engine.encrypt(&self.alice, request).map(|answer| answer.ciphertext_blob)
    }

    fn decrypt(&self, blob: &[u8]) -> Result<Vec<u8>, KmsError> {
        decrypt(&self.engine, &self.alice, blob)
    }

    fn event(&self, name: &str) -> serde_json::Value {
        let filter = AuditFilter { event: Some(name.to_owned()), ..Default::default() };
        self.engine.audit().read(&filter).expect("read").pop().expect("recorded")
    }

    /// Gives a token another PIN and logs everybody in this process out.
    fn change_pin(&self, label: &str, to: &str) {
        let module = Pkcs11::new(&self.module).expect("loaded");
        let slots = module.get_slots_with_token().expect("slots").into_iter();
        let mut slots = slots.filter(|slot| module.get_token_info(*slot).is_ok_and(|token| token.label() == label));
        let session = module.open_rw_session(slots.next().expect("the token")).expect("opened");
        session.set_pin(&AuthPin::new(PIN.into()), &AuthPin::new(to.into())).expect("changed");
        session.logout().expect("logged out");
    }

    /// Where the token of this label keeps its objects.
    fn directory_of(&self, label: &str) -> PathBuf {
        let tokens = std::fs::read_dir(&self.tokens).expect("tokens").map(|token| token.expect("token").path());
        let named = |token: &PathBuf| {
            let object = std::fs::read(token.join("token.object")).expect("a token");
            object.windows(label.len()).any(|window| window == label.as_bytes())
        };
        tokens.into_iter().find(named).expect("the token")
    }

    /// Objects of all tokens.
    fn objects(&self) -> usize {
        let tokens = std::fs::read_dir(&self.tokens).expect("tokens");
        let objects = tokens.flat_map(|token| std::fs::read_dir(token.expect("token").path()).expect("objects"));
        let names = objects.map(|object| object.expect("object").file_name().into_string().expect("a name"));
        names.filter(|name| name.ends_with(".object") && !name.starts_with("token")).count()
    }
}

fn decrypt(engine: &Engine, caller: &Caller, blob: &[u8]) -> Result<Vec<u8>, KmsError> {
    let request =
        DecryptRequest { ciphertext_blob: Some(blob.to_vec()), encryption_context: context(), ..Default::default() };
    let answer = engine.decrypt(caller, request)?;
    Ok(answer.plaintext.expose().to_vec())
}

fn code<T: std::fmt::Debug>(outcome: Result<T, KmsError>) -> &'static str {
    outcome.expect_err("refused").code()
}

#[test]
fn keys_are_made_and_used_inside_the_token() {
    with_tokens("keys_are_made_and_used_inside_the_token", |bench| {
        let store = bench.connected();
        let key = bench.key(&store).expect("created");
        assert_eq!(bench.objects(), 1);
        let metadata = bench.describe(&key);
        assert_eq!((metadata.origin, metadata.key_state), (Origin::AwsCloudHsm, KeyState::Enabled));
        assert_eq!(metadata.custom_key_store_id.as_deref(), Some(&*store));
        assert_eq!(metadata.cloud_hsm_cluster_id.as_deref(), Some(&*bench.stores()[0].cloud_hsm_cluster_id));
        assert_eq!(metadata.current_key_material_id, None);

        let pair = GenerateDataKeyPairRequest {
            key_id: key.clone(),
            encryption_context: context(),
            key_pair_spec: DataKeyPairSpec::EccNistP256,
            grant_tokens: Vec::new(),
            dry_run: false,
        };
        assert_eq!(code(bench.engine.generate_data_key_pair(&bench.alice, pair)), "UnsupportedOperationException");
        let blob = bench.encrypt(&key).expect("encrypted");
        assert_eq!((blob.len(), &blob[..3]), (5 + 95, &[1, 2, 0][..]));
        assert_eq!(blob[51..67], [0; 16], "no message nonce");
        assert_ne!(bench.encrypt(&key).expect("encrypted"), blob);
        assert_eq!(bench.decrypt(&blob), Ok(b"plain".to_vec()));
        // Bytes 2 to 18 name the key.
        for at in (0..blob.len()).filter(|at| !(2..19).contains(at)) {
            let mut bad = blob.clone();
            bad[at] ^= 1;
            assert_eq!(code(bench.decrypt(&bad)), "InvalidCiphertextException", "byte {at}");
        }
        let other = DecryptRequest { ciphertext_blob: Some(blob.clone()), ..Default::default() };
        assert_eq!(code(bench.engine.decrypt(&bench.alice, other)), "InvalidCiphertextException");
        assert_eq!(bench.decrypt(&blob), Ok(b"plain".to_vec()), "the session is none the worse");

        // Data keys, re-encryption to a key of the key manager, random bytes.
        let request = GenerateDataKeyRequest {
            key_id: key.clone(),
            key_spec: Some(DataKeySpec::Aes256),
            encryption_context: context(),
            ..Default::default()
        };
        let data_key = bench.engine.generate_data_key(&bench.alice, request).expect("generated");
        assert_eq!(bench.decrypt(&data_key.ciphertext_blob), Ok(data_key.plaintext.expose().to_vec()));
        let own = bench.engine.create_key(&bench.alice, CreateKeyRequest::default()).expect("created").key_metadata;
        let request = ReEncryptRequest {
            ciphertext_blob: Some(blob),
            source_encryption_context: context(),
            destination_key_id: own.key_id,
            destination_encryption_context: context(),
            ..Default::default()
        };
        let moved = bench.engine.re_encrypt(&bench.alice, request).expect("moved");
        assert_eq!(bench.decrypt(&moved.ciphertext_blob), Ok(b"plain".to_vec()));
        let random = GenerateRandomRequest { number_of_bytes: Some(32), custom_key_store_id: Some(store) };
        let random = bench.engine.generate_random(&bench.alice, random).expect("random");
        assert_ne!(random.plaintext.expose(), [0; 32]);

        // Several threads at once, each in a session of its own.
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let blob = bench.encrypt(&key).expect("encrypted");
                        assert_eq!(bench.decrypt(&blob), Ok(b"plain".to_vec()));
                    }
                });
            }
        });
        for refused in [
            bench.engine.rotate_key_on_demand(&bench.alice, key.as_str().into()).map(drop),
            bench.engine.disable_key_rotation(&bench.alice, key.as_str().into()),
            bench.engine.get_key_rotation_status(&bench.alice, key.as_str().into()).map(drop),
        ] {
            assert_eq!(code(refused), "UnsupportedOperationException");
        }
    });
}

#[test]
fn keys_of_a_disconnected_store_are_unavailable() {
    with_tokens("keys_of_a_disconnected_store_are_unavailable", |bench| {
        let store = bench.connected();
        let (key, disabled) = (bench.key(&store).expect("created"), bench.key(&store).expect("created"));
        let blob = bench.encrypt(&key).expect("encrypted");
        let another = bench.another();
        assert_eq!(decrypt(&another, &bench.alice, &blob), Ok(b"plain".to_vec()), "its own login");

        bench.disconnect(&store).expect("disconnected");
        assert_eq!(code(bench.disconnect(&store)), "CustomKeyStoreInvalidStateException");
        assert_eq!(bench.describe(&key).key_state, KeyState::Unavailable);
        assert!(!bench.describe(&key).enabled);
        for refused in [bench.encrypt(&key), bench.decrypt(&blob), decrypt(&another, &bench.alice, &blob)] {
            let refused = refused.expect_err("unavailable");
            assert_eq!(refused.code(), "KMSInvalidStateException");
            assert!(refused.to_string().ends_with(" is unavailable."), "{refused}");
        }
        assert_eq!(code(bench.key(&store)), "CustomKeyStoreInvalidStateException");
        let grant = CreateGrantRequest {
            key_id: key.clone(),
            grantee_principal: Some("arn:aws:iam::000000000000:user/bob".into()),
            operations: vec![GrantOperation::Decrypt],
            ..Default::default()
        };
        bench.engine.create_grant(&bench.alice, grant).expect("granted meanwhile");
        // Disabling takes effect when the key is available again; deletion can be scheduled and cancelled meanwhile.
        bench.engine.disable_key(&bench.alice, disabled.as_str().into()).expect("disabled");
        assert_eq!(bench.describe(&disabled).key_state, KeyState::Unavailable);
        let schedule = ScheduleKeyDeletionRequest { key_id: key.clone(), pending_window_in_days: Some(7) };
        bench.engine.schedule_key_deletion(&bench.alice, schedule).expect("scheduled");
        assert_eq!(bench.describe(&key).key_state, KeyState::PendingDeletion);
        bench.engine.cancel_key_deletion(&bench.alice, key.as_str().into()).expect("cancelled");
        bench.engine.enable_key(&bench.alice, key.as_str().into()).expect("enabled");
        assert_eq!(bench.describe(&key).key_state, KeyState::Unavailable);

        bench.connect(&store).expect("connected");
        bench.connect(&store).expect("no change");
        assert_eq!(bench.describe(&key).key_state, KeyState::Enabled);
        assert_eq!(bench.describe(&disabled).key_state, KeyState::Disabled);
        assert_eq!(bench.decrypt(&blob), Ok(b"plain".to_vec()));
        assert_eq!(decrypt(&another, &bench.alice, &blob), Ok(b"plain".to_vec()));
    });
}

#[test]
fn a_wrong_pin_fails_the_store() {
    with_tokens("a_wrong_pin_fails_the_store", |bench| {
        let store = bench.create("store", &bench.cluster("first"), "wrong pin").expect("created");
        bench.connect(&store).expect("told by DescribeCustomKeyStores");
        let failed = &bench.stores()[0];
        assert_eq!(failed.connection_state, ConnectionState::Failed);
        assert_eq!(failed.connection_error_code, Some(ConnectionErrorCode::InvalidCredentials));
        assert_eq!(bench.event("ConnectCustomKeyStore")["additionalEventData"]["connectionState"], "FAILED");
        assert_eq!(code(bench.connect(&store)), "CustomKeyStoreInvalidStateException");
        let password = || UpdateCustomKeyStoreRequest {
            custom_key_store_id: store.clone(),
            key_store_password: Some(PIN.into()),
            ..Default::default()
        };
        let update = |request| bench.engine.update_custom_key_store(&bench.alice, request);
        assert_eq!(code(update(password())), "CustomKeyStoreInvalidStateException");
        bench.disconnect(&store).expect("disconnected");
        update(password()).expect("updated");
        bench.connect(&store).expect("connected");
        assert_eq!(bench.stores()[0].connection_state, ConnectionState::Connected);
        let key = bench.key(&store).expect("created");
        let blob = bench.encrypt(&key).expect("encrypted");

        // Somebody changes the PIN in the token and ends its sessions: the next login is refused, and no more are tried.
        bench.change_pin("first", "1111111");
        assert_eq!(code(bench.decrypt(&blob)), "KeyUnavailableException");
        let failed = &bench.stores()[0];
        assert_eq!(failed.connection_state, ConnectionState::Failed);
        assert_eq!(failed.connection_error_code, Some(ConnectionErrorCode::InvalidCredentials));
        assert_eq!(bench.describe(&key).key_state, KeyState::Unavailable);
        assert_eq!(code(bench.decrypt(&blob)), "KMSInvalidStateException");
        bench.disconnect(&store).expect("disconnected");
        update(UpdateCustomKeyStoreRequest { key_store_password: Some("1111111".into()), ..password() }).expect("told");
        bench.connect(&store).expect("connected");
        assert_eq!(bench.decrypt(&blob), Ok(b"plain".to_vec()));
        let all = bench.engine.audit().read(&AuditFilter::default()).expect("read");
        let text = format!("{all:?}");
        assert!(!text.contains(PIN) && !text.contains("wrong pin"));
    });
}

#[test]
fn a_token_that_vanishes_makes_its_keys_unavailable_and_nothing_worse() {
    with_tokens("a_token_that_vanishes_makes_its_keys_unavailable_and_nothing_worse", |bench| {
        let store = bench.connected();
        let key = bench.key(&store).expect("created");
        let blob = bench.encrypt(&key).expect("encrypted");
        let own = bench.engine.create_key(&bench.alice, CreateKeyRequest::default()).expect("created").key_metadata;

        let away = bench.tokens.with_file_name("away");
        std::fs::rename(&bench.tokens, &away).expect("moved");
        for _ in 0..2 {
            for refused in [bench.encrypt(&key), bench.decrypt(&blob)] {
                let refused = refused.expect_err("no token");
                assert_eq!(refused.code(), "KeyUnavailableException", "{refused}");
            }
        }
        assert_eq!(code(bench.key(&store)), "CloudHsmClusterNotActiveException");
        assert!(bench.encrypt(&own.key_id).is_ok(), "other keys go on");
        assert_eq!(bench.event("Decrypt")["errorCode"], "KeyUnavailableException");
        // A further process cannot even log in.
        assert_eq!(code(decrypt(&bench.another(), &bench.alice, &blob)), "KeyUnavailableException");
    });
}

#[test]
fn a_token_that_comes_back_is_found() {
    with_tokens("a_token_that_comes_back_is_found", |bench| {
        let store = bench.connected();
        let key = bench.key(&store).expect("created");
        let blob = bench.encrypt(&key).expect("encrypted");
        let another = bench.another();
        assert_eq!(decrypt(&another, &bench.alice, &blob), Ok(b"plain".to_vec()));
        let away = bench.tokens.with_file_name("away");
        let go = |token: &Path| std::fs::rename(token, &away).expect("moved away");
        let come = |token: &Path| std::fs::rename(&away, token).expect("moved back");

        // By disconnecting and connecting, at once.
        go(&bench.tokens);
        assert_eq!(code(bench.decrypt(&blob)), "KeyUnavailableException");
        assert_eq!(code(decrypt(&another, &bench.alice, &blob)), "KeyUnavailableException");
        bench.disconnect(&store).expect("disconnected");
        bench.connect(&store).expect("told by DescribeCustomKeyStores");
        assert_eq!(bench.stores()[0].connection_state, ConnectionState::Failed);
        bench.disconnect(&store).expect("disconnected");
        come(&bench.tokens);
        bench.connect(&store).expect("connected");
        assert_eq!(bench.stores()[0].connection_state, ConnectionState::Connected);
        assert_eq!(bench.decrypt(&blob), Ok(b"plain".to_vec()));
        // Whoever else shares the process finds it with the module.
        assert_eq!(decrypt(&another, &bench.alice, &blob), Ok(b"plain".to_vec()));

        // By itself, when keys are used: the module looks for it every ten seconds at most.
        drop(another);
        let token = bench.directory_of("first");
        go(&token);
        assert_eq!(code(bench.decrypt(&blob)), "KeyUnavailableException");
        come(&token);
        assert_eq!(code(bench.decrypt(&blob)), "KeyUnavailableException", "not so soon");
        bench.clock.advance(std::time::Duration::from_secs(10));
        assert_eq!(bench.decrypt(&blob), Ok(b"plain".to_vec()));
        let more = bench.key(&store).expect("created");
        bench.encrypt(&more).expect("encrypted");
    });
}

#[test]
fn looking_for_a_token_disturbs_no_other() {
    with_tokens("looking_for_a_token_disturbs_no_other", |bench| {
        let first = bench.connected();
        let second = bench.create("second", &bench.cluster("second"), PIN).expect("created");
        bench.connect(&second).expect("connected");
        let (lost, kept) = (bench.key(&first).expect("created"), bench.key(&second).expect("created"));
        let (lost_blob, kept_blob) =
            (bench.encrypt(&lost).expect("encrypted"), bench.encrypt(&kept).expect("encrypted"));

        let token = bench.directory_of("first");
        let away = bench.tokens.with_file_name("away");
        std::fs::rename(&token, &away).expect("moved away");
        assert_eq!(code(bench.decrypt(&lost_blob)), "KeyUnavailableException");
        std::fs::rename(&away, &token).expect("moved back");
        // While the second token is in use the module cannot be initialised anew.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..50 {
                    assert_eq!(bench.decrypt(&kept_blob), Ok(b"plain".to_vec()));
                }
            });
            for _ in 0..5 {
                bench.clock.advance(std::time::Duration::from_secs(10));
                assert_eq!(code(bench.decrypt(&lost_blob)), "KeyUnavailableException");
            }
        });
        bench.disconnect(&second).expect("disconnected");
        bench.clock.advance(std::time::Duration::from_secs(10));
        assert_eq!(bench.decrypt(&lost_blob), Ok(b"plain".to_vec()));
        bench.connect(&second).expect("connected");
        assert_eq!(bench.decrypt(&kept_blob), Ok(b"plain".to_vec()));
        assert_eq!(bench.decrypt(&lost_blob), Ok(b"plain".to_vec()));
    });
}

#[test]
fn a_module_that_cannot_be_loaded_is_reported() {
    with_tokens("a_module_that_cannot_be_loaded_is_reported", |bench| {
        let (dir, none) = (bench.dir.path(), PathBuf::from("/nonexistent/module.so"));
        let text = dir.join("text.so");
        std::fs::write(&text, "no library").expect("written");
        for module in [none, text, PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6")] {
            let refused = bench.engine.add_cluster(&bench.alice, &module, "first");
            assert_eq!(code(refused), "CloudHsmClusterNotActiveException");
        }
        let refused = bench.engine.add_cluster(&bench.alice, &bench.module, "third");
        assert_eq!(code(refused), "CloudHsmClusterNotActiveException");
        assert_eq!(code(bench.engine.add_cluster(&bench.alice, Path::new("module.so"), "x")), "ValidationException");

        // Gone between two uses of it: what is loaded stays.
        let copy = dir.join("copy.so");
        std::fs::copy(&bench.module, &copy).expect("copied");
        let cluster = bench.engine.add_cluster(&bench.alice, &copy, "first").expect("added").cloud_hsm_cluster_id;
        let store = bench.create("store", &cluster, PIN).expect("created");
        bench.connect(&store).expect("connected");
        let key = bench.key(&store).expect("created");
        let blob = bench.encrypt(&key).expect("encrypted");
        std::fs::remove_file(&copy).expect("removed");
        assert_eq!(bench.decrypt(&blob), Ok(b"plain".to_vec()));
    });
}

#[test]
fn stores_follow_the_rules_of_aws() {
    with_tokens("stores_follow_the_rules_of_aws", |bench| {
        assert!(bench.stores().is_empty());
        let (first, second) = (bench.cluster("first"), bench.cluster("second"));
        assert_eq!(bench.cluster("first"), first, "one id per token");
        assert!(first.starts_with("cluster-") && first.len() == 19, "{first}");
        assert_eq!(code(bench.create("a", "cluster-22222222222", PIN)), "CloudHsmClusterNotFoundException");
        assert_eq!(code(bench.create("a", &first, "short")), "ValidationException");
        assert_eq!(code(bench.create("", &first, PIN)), "ValidationException");
        let a = bench.create("a", &first, PIN).expect("created");
        assert!(a.starts_with("cks-") && a.len() == 21, "{a}");
        assert_eq!(code(bench.create("a", &second, PIN)), "CustomKeyStoreNameInUseException");
        assert_eq!(code(bench.create("b", &first, PIN)), "CloudHsmClusterInUseException");
        let b = bench.create("b", &second, PIN).expect("created");
        let listed: Vec<String> = bench.stores().into_iter().map(|store| store.custom_key_store_name).collect();
        assert!(listed.len() == 2 && listed.contains(&"a".to_owned()));
        let by_name = |name: &str| {
            let request =
                DescribeCustomKeyStoresRequest { custom_key_store_name: Some(name.to_owned()), ..Default::default() };
            bench.engine.describe_custom_key_stores(&bench.alice, request)
        };
        assert_eq!(by_name("b").expect("found").custom_key_stores[0].custom_key_store_id, b);
        assert_eq!(code(by_name("c")), "CustomKeyStoreNotFoundException");
        assert_eq!(code(bench.connect("cks-0")), "CustomKeyStoreNotFoundException");
        let xks = CreateCustomKeyStoreRequest {
            custom_key_store_name: "x".to_owned(),
            custom_key_store_type: Some(CustomKeyStoreType::ExternalKeyStore),
            cloud_hsm_cluster_id: None,
            trust_anchor_certificate: None,
            key_store_password: None,
        };
        assert_eq!(code(bench.engine.create_custom_key_store(&bench.alice, xks)), "UnsupportedOperationException");

        // Names change while connected, the rest does not.
        bench.connect(&a).expect("connected");
        let update = |edit: fn(&mut UpdateCustomKeyStoreRequest)| {
            let mut request = UpdateCustomKeyStoreRequest { custom_key_store_id: a.clone(), ..Default::default() };
            edit(&mut request);
            bench.engine.update_custom_key_store(&bench.alice, request)
        };
        update(|request| request.new_custom_key_store_name = Some("renamed".into())).expect("renamed");
        assert_eq!(
            code(update(|request| request.new_custom_key_store_name = Some("b".into()))),
            "CustomKeyStoreNameInUseException"
        );
        let password = |request: &mut UpdateCustomKeyStoreRequest| request.key_store_password = Some(PIN.into());
        assert_eq!(code(update(password)), "CustomKeyStoreInvalidStateException");

        // Only an empty, disconnected store goes; a key pending deletion counts.
        let delete = |store: &str| bench.engine.delete_custom_key_store(&bench.alice, store.into());
        let key = bench.key(&a).expect("created");
        assert_eq!(code(delete(&a)), "CustomKeyStoreHasCMKsException");
        let schedule = ScheduleKeyDeletionRequest { key_id: key.clone(), pending_window_in_days: Some(7) };
        bench.engine.schedule_key_deletion(&bench.alice, schedule).expect("scheduled");
        assert_eq!(code(delete(&a)), "CustomKeyStoreHasCMKsException");
        assert_eq!(bench.objects(), 1);
        for _ in 0..15 {
            bench.clock.set(bench.clock.now().plus(std::time::Duration::from_secs(12 * 3600)));
            bench.engine.maintain().expect("maintained");
        }
        assert_eq!(bench.objects(), 0, "the key ended in the token too");
        assert_eq!(bench.event("DeleteKey")["serviceEventDetails"]["keyInToken"], "destroyed");
        assert_eq!(code(delete(&a)), "CustomKeyStoreInvalidStateException");
        bench.disconnect(&a).expect("disconnected");
        delete(&a).expect("deleted");
        assert_eq!(bench.stores().len(), 1);

        // The certificate that a cluster came with is remembered.
        let other = CreateCustomKeyStoreRequest {
            custom_key_store_name: "a".to_owned(),
            custom_key_store_type: None,
            cloud_hsm_cluster_id: Some(first),
            trust_anchor_certificate: Some("another".to_owned()),
            key_store_password: Some(PIN.into()),
        };
        assert_eq!(code(bench.engine.create_custom_key_store(&bench.alice, other)), "IncorrectTrustAnchorException");

        // Origins and stores belong together.
        let create = |origin, custom_key_store_id: Option<&str>, key_spec: Option<KeySpec>, multi_region| {
            let custom_key_store_id = custom_key_store_id.map(str::to_owned);
            let key_usage = key_spec.map(|_| KeyUsage::SignVerify);
            let request = CreateKeyRequest {
                origin: Some(origin),
                custom_key_store_id,
                key_spec,
                key_usage,
                multi_region,
                ..Default::default()
            };
            code(bench.engine.create_key(&bench.alice, request))
        };
        assert_eq!(create(Origin::AwsCloudHsm, None, None, false), "ValidationException");
        assert_eq!(create(Origin::AwsKms, Some(&b), None, false), "ValidationException");
        assert_eq!(
            create(Origin::AwsCloudHsm, Some(&b), Some(KeySpec::Rsa2048), false),
            "UnsupportedOperationException"
        );
        assert_eq!(create(Origin::AwsCloudHsm, Some(&b), None, true), "UnsupportedOperationException");
        assert_eq!(create(Origin::AwsCloudHsm, Some("cks-0"), None, false), "CustomKeyStoreNotFoundException");
        assert_eq!(create(Origin::AwsCloudHsm, Some(&b), None, false), "CustomKeyStoreInvalidStateException");
        assert_eq!(create(Origin::ExternalKeyStore, None, None, false), "UnsupportedOperationException");
    });
}
