//! A state machine of custom key stores and the keys in them: the engine, on a real token, and a plain model must agree
//! after every step.

use proptest::prelude::*;

use super::*;

const LABELS: [&str; 2] = ["first", "second"];
const WRONG_PIN: &str = "wrong pin";

#[derive(Debug, Clone)]
enum Step {
    CreateStore { token: usize, right_pin: bool },
    Connect(usize),
    Disconnect(usize),
    Password { token: usize, right: bool },
    Rename(usize),
    DeleteStore(usize),
    CreateKey(usize),
    Enable(usize, bool),
    Schedule(usize),
    Cancel(usize),
    Encrypt(usize),
    Decrypt { blob: usize, elsewhere: bool },
    Random(usize),
    Advance(u32),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let token = || 0..LABELS.len();
    let key = || 0..4_usize;
    prop_oneof![
        3 => (token(), prop::bool::weighted(0.8)).prop_map(|(token, right_pin)| Step::CreateStore { token, right_pin }),
        6 => token().prop_map(Step::Connect),
        3 => token().prop_map(Step::Disconnect),
        2 => (token(), prop::bool::weighted(0.7)).prop_map(|(token, right)| Step::Password { token, right }),
        1 => token().prop_map(Step::Rename),
        2 => token().prop_map(Step::DeleteStore),
        5 => token().prop_map(Step::CreateKey),
        3 => (key(), any::<bool>()).prop_map(|(key, enabled)| Step::Enable(key, enabled)),
        2 => key().prop_map(Step::Schedule),
        1 => key().prop_map(Step::Cancel),
        6 => key().prop_map(Step::Encrypt),
        6 => (0..8_usize, any::<bool>()).prop_map(|(blob, elsewhere)| Step::Decrypt { blob, elsewhere }),
        1 => token().prop_map(Step::Random),
        2 => (1..=9_u32).prop_map(Step::Advance),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Debug, Clone)]
struct Store {
    id: String,
    state: ConnectionState,
    right_pin: bool,
}

/// What the user made of a key; whether it can be used depends on its store too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    Enabled,
    Disabled,
    Pending(Timestamp),
    Gone,
}

struct Key {
    id: String,
    token: usize,
    set: Set,
}

#[derive(Default)]
struct Model {
    stores: [Option<Store>; LABELS.len()],
    keys: Vec<Key>,
    blobs: Vec<(usize, Vec<u8>)>,
    /// Objects in the tokens.
    objects: usize,
    names: usize,
}

impl Model {
    fn is_connected(&self, token: usize) -> bool {
        self.stores[token].as_ref().is_some_and(|store| store.state == ConnectionState::Connected)
    }

    /// The error code of an operation that needs the store to be connected.
    fn store_refusal(&self, token: usize) -> Option<&'static str> {
        match &self.stores[token] {
            None => Some("CustomKeyStoreNotFoundException"),
            Some(_) if self.is_connected(token) => None,
            Some(_) => Some("CustomKeyStoreInvalidStateException"),
        }
    }

    /// The error code of a use of the key.
    fn refusal(&self, key: &Key) -> Option<&'static str> {
        match key.set {
            Set::Gone => Some("NotFoundException"),
            Set::Pending(_) => Some("KMSInvalidStateException"),
            _ if !self.is_connected(key.token) => Some("KMSInvalidStateException"),
            Set::Disabled => Some("DisabledException"),
            Set::Enabled => None,
        }
    }

    fn state(&self, key: &Key) -> KeyState {
        match key.set {
            Set::Pending(_) | Set::Gone => KeyState::PendingDeletion,
            _ if !self.is_connected(key.token) => KeyState::Unavailable,
            Set::Enabled => KeyState::Enabled,
            Set::Disabled => KeyState::Disabled,
        }
    }

    /// What time does, confirmed. The material goes with the key if its token can be reached.
    fn pass(&mut self, now: Timestamp) {
        for at in 0..self.keys.len() {
            if matches!(self.keys[at].set, Set::Pending(end) if now >= end) {
                self.keys[at].set = Set::Gone;
                self.objects -= usize::from(self.is_connected(self.keys[at].token));
            }
        }
    }
}

fn agree<T: std::fmt::Debug>(outcome: Result<T, KmsError>, expected: Option<&str>) -> Result<Option<T>, TestCaseError> {
    match (outcome, expected) {
        (Ok(answer), None) => Ok(Some(answer)),
        (Err(error), Some(code)) if error.code() == code => Ok(None),
        (outcome, expected) => Err(TestCaseError::fail(format!("{outcome:?} where the model has {expected:?}"))),
    }
}

fn run(bench: &mut Bench, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut model = Model { objects: bench.objects(), ..Model::default() };
    for step in steps {
        take(bench, &mut model, step)?;
        check(bench, &model)?;
    }
    prop_assert_eq!(bench.engine.audit().verify().expect("verified").first_break, None);
    // The next case has tokens that nobody is logged in to.
    for store in model.stores.iter().flatten().filter(|store| store.state != ConnectionState::Disconnected) {
        bench.disconnect(&store.id).expect("disconnected");
    }
    Ok(())
}

fn take(bench: &mut Bench, model: &mut Model, step: Step) -> Result<(), TestCaseError> {
    let now = bench.clock.now();
    // Of a store that was deleted, or never was.
    let id = |model: &Model, token: usize| model.stores[token].as_ref().map_or("cks-0".to_owned(), |s| s.id.clone());
    let request = |model: &Model, key: usize| KeyIdRequest::from(model.keys[key].id.as_str());
    let state = |model: &Model, token: usize| model.stores[token].as_ref().map(|store| store.state);
    let count = model.keys.len();
    match step {
        Step::CreateStore { token, right_pin } => {
            model.names += 1;
            let pin = if right_pin { PIN } else { WRONG_PIN };
            let made = bench.create(&format!("store {}", model.names), &bench.cluster(LABELS[token]), pin);
            let expected = model.stores[token].is_some().then_some("CloudHsmClusterInUseException");
            if let Some(id) = agree(made, expected)? {
                model.stores[token] = Some(Store { id, state: ConnectionState::Disconnected, right_pin });
            }
        }
        Step::Connect(token) => {
            let expected = match state(model, token) {
                None => Some("CustomKeyStoreNotFoundException"),
                Some(ConnectionState::Failed) => Some("CustomKeyStoreInvalidStateException"),
                Some(_) => None,
            };
            agree(bench.connect(&id(model, token)), expected)?;
            if let Some(store) = &mut model.stores[token]
                && store.state == ConnectionState::Disconnected
            {
                store.state = if store.right_pin { ConnectionState::Connected } else { ConnectionState::Failed };
            }
        }
        Step::Disconnect(token) => {
            let expected = match state(model, token) {
                None => Some("CustomKeyStoreNotFoundException"),
                Some(ConnectionState::Disconnected) => Some("CustomKeyStoreInvalidStateException"),
                Some(_) => None,
            };
            agree(bench.disconnect(&id(model, token)), expected)?;
            model.stores[token].iter_mut().for_each(|store| store.state = ConnectionState::Disconnected);
        }
        Step::Password { token, right } => {
            let expected = match state(model, token) {
                None => Some("CustomKeyStoreNotFoundException"),
                Some(ConnectionState::Disconnected) => None,
                Some(_) => Some("CustomKeyStoreInvalidStateException"),
            };
            let request = UpdateCustomKeyStoreRequest {
                custom_key_store_id: id(model, token),
                key_store_password: Some(if right { PIN } else { WRONG_PIN }.into()),
                ..Default::default()
            };
            if agree(bench.engine.update_custom_key_store(&bench.alice, request), expected)?.is_some() {
                model.stores[token].iter_mut().for_each(|store| store.right_pin = right);
            }
        }
        Step::Rename(token) => {
            let expected = match state(model, token) {
                None => Some("CustomKeyStoreNotFoundException"),
                Some(ConnectionState::Failed) => Some("CustomKeyStoreInvalidStateException"),
                Some(_) => None,
            };
            model.names += 1;
            let request = UpdateCustomKeyStoreRequest {
                custom_key_store_id: id(model, token),
                new_custom_key_store_name: Some(format!("store {}", model.names)),
                ..Default::default()
            };
            agree(bench.engine.update_custom_key_store(&bench.alice, request), expected)?;
        }
        Step::DeleteStore(token) => {
            let of_store = |key: &Key| key.token == token && key.set != Set::Gone;
            let expected = match state(model, token) {
                None => Some("CustomKeyStoreNotFoundException"),
                Some(_) if model.keys.iter().any(of_store) => Some("CustomKeyStoreHasCMKsException"),
                Some(ConnectionState::Disconnected) => None,
                Some(_) => Some("CustomKeyStoreInvalidStateException"),
            };
            let deleted = bench.engine.delete_custom_key_store(&bench.alice, id(model, token).as_str().into());
            if agree(deleted, expected)?.is_some() {
                model.stores[token] = None;
            }
        }
        Step::CreateKey(token) if count < 4 => {
            if let Some(id) = agree(bench.key(&id(model, token)), model.store_refusal(token))? {
                model.keys.push(Key { id, token, set: Set::Enabled });
                model.objects += 1;
            }
        }
        Step::Enable(key, enabled) if key < count => {
            let expected = match model.keys[key].set {
                Set::Gone => Some("NotFoundException"),
                Set::Pending(_) => Some("KMSInvalidStateException"),
                Set::Enabled | Set::Disabled => None,
            };
            let outcome = match enabled {
                true => bench.engine.enable_key(&bench.alice, request(model, key)),
                false => bench.engine.disable_key(&bench.alice, request(model, key)),
            };
            if agree(outcome, expected)?.is_some() {
                model.keys[key].set = if enabled { Set::Enabled } else { Set::Disabled };
            }
        }
        Step::Schedule(key) if key < count => {
            let expected = match model.keys[key].set {
                Set::Gone => Some("NotFoundException"),
                Set::Pending(_) => Some("KMSInvalidStateException"),
                Set::Enabled | Set::Disabled => None,
            };
            let key_id = model.keys[key].id.clone();
            let request = ScheduleKeyDeletionRequest { key_id, pending_window_in_days: Some(7) };
            if agree(bench.engine.schedule_key_deletion(&bench.alice, request), expected)?.is_some() {
                model.keys[key].set = Set::Pending(now.plus_days(7));
            }
        }
        Step::Cancel(key) if key < count => {
            let expected = match model.keys[key].set {
                Set::Gone => Some("NotFoundException"),
                Set::Pending(_) => None,
                Set::Enabled | Set::Disabled => Some("KMSInvalidStateException"),
            };
            if agree(bench.engine.cancel_key_deletion(&bench.alice, request(model, key)), expected)?.is_some() {
                model.keys[key].set = Set::Disabled;
            }
        }
        Step::Encrypt(key) if key < count => {
            let expected = model.refusal(&model.keys[key]);
            model.blobs.extend(agree(bench.encrypt(&model.keys[key].id), expected)?.map(|blob| (key, blob)));
        }
        Step::Decrypt { blob, elsewhere } if blob < model.blobs.len() => {
            let (key, blob) = &model.blobs[blob];
            let opened = match elsewhere {
                true => decrypt(&bench.another(), &bench.alice, blob),
                false => bench.decrypt(blob),
            };
            if let Some(plain) = agree(opened, model.refusal(&model.keys[*key]))? {
                prop_assert_eq!(plain, b"plain");
            }
        }
        Step::Random(token) => {
            let request =
                GenerateRandomRequest { number_of_bytes: Some(16), custom_key_store_id: Some(id(model, token)) };
            agree(bench.engine.generate_random(&bench.alice, request), model.store_refusal(token))?;
        }
        Step::Advance(days) => {
            bench.clock.set(now.plus_days(days));
            bench.engine.maintain().expect("observed");
            // A jump counts when the clock has agreed with it for an hour.
            bench.clock.advance(std::time::Duration::from_secs(2 * 3600));
            bench.engine.maintain().expect("confirmed");
            model.pass(bench.clock.now());
        }
        Step::Reopen => bench.engine = bench.another(),
        _ => {}
    }
    Ok(())
}

fn check(bench: &Bench, model: &Model) -> Result<(), TestCaseError> {
    for key in model.keys.iter().filter(|key| key.set != Set::Gone) {
        let metadata = bench.describe(&key.id);
        prop_assert_eq!(metadata.key_state, model.state(key));
        prop_assert_eq!(metadata.enabled, metadata.key_state == KeyState::Enabled);
        prop_assert_eq!(&metadata.custom_key_store_id, &model.stores[key.token].as_ref().map(|store| store.id.clone()));
    }
    let mut listed: Vec<_> =
        bench.stores().into_iter().map(|store| (store.custom_key_store_id, store.connection_state)).collect();
    let mut expected: Vec<_> = model.stores.iter().flatten().map(|store| (store.id.clone(), store.state)).collect();
    listed.sort_by(|a, b| a.0.cmp(&b.0));
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    prop_assert_eq!(listed, expected);
    prop_assert_eq!(bench.objects(), model.objects);
    Ok(())
}

#[test]
fn the_engine_agrees_with_the_model_of_key_stores() {
    with_tokens("model::the_engine_agrees_with_the_model_of_key_stores", |bench| {
        let config =
            ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..Default::default() };
        proptest!(config, |(steps in proptest::collection::vec(step(), 1..50))| {
            run(&mut Bench::new(bench.tokens.clone(), &bench.module), steps)?;
        });
    });
}
