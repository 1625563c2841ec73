//! A state machine: random operations on the engine and on a plain model must agree.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Create,
    Enable(usize),
    Disable(usize),
    Schedule(usize, u32),
    Cancel(usize),
    Rotate(usize),
    Automatic(usize, u32),
    NotAutomatic(usize),
    Advance(u32),
    Encrypt(usize),
    Decrypt(usize),
    ReEncrypt(usize, usize),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..4_usize;
    prop_oneof![
        2 => Just(Step::Create),
        2 => at.clone().prop_map(Step::Enable),
        2 => at.clone().prop_map(Step::Disable),
        1 => (at.clone(), 7..=30_u32).prop_map(|(key, days)| Step::Schedule(key, days)),
        1 => at.clone().prop_map(Step::Cancel),
        2 => at.clone().prop_map(Step::Rotate),
        1 => (at.clone(), 90..=120_u32).prop_map(|(key, days)| Step::Automatic(key, days)),
        1 => at.clone().prop_map(Step::NotAutomatic),
        3 => (1..=40_u32).prop_map(Step::Advance),
        5 => at.clone().prop_map(Step::Encrypt),
        5 => (0..8_usize).prop_map(Step::Decrypt),
        2 => (0..8_usize, at).prop_map(|(blob, key)| Step::ReEncrypt(blob, key)),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Enabled,
    Disabled,
    Pending(Timestamp),
    Gone,
}

struct Key {
    id: String,
    state: State,
    rotations: usize,
    schedule: Option<(Timestamp, u32)>,
}

impl Key {
    /// The error code of a use of the key.
    fn refusal(&self) -> Option<&'static str> {
        match self.state {
            State::Enabled => None,
            State::Disabled => Some("DisabledException"),
            State::Pending(_) => Some("KMSInvalidStateException"),
            State::Gone => Some("NotFoundException"),
        }
    }

    /// What time does; `now` has been confirmed.
    fn pass(&mut self, now: Timestamp) {
        match (self.state, &mut self.schedule) {
            (State::Enabled, Some((next, days))) if now >= *next => {
                while *next <= now {
                    *next = next.plus_days(*days);
                }
                self.rotations += 1;
            }
            (State::Pending(end), _) if now >= end => self.state = State::Gone,
            _ => {}
        }
    }
}

/// Whether an outcome is the one expected: success, or an error of that code.
fn agree<T: std::fmt::Debug>(outcome: Result<T, KmsError>, expected: Option<&str>) -> Result<Option<T>, TestCaseError> {
    match (outcome, expected) {
        (Ok(answer), None) => Ok(Some(answer)),
        (Err(error), Some(code)) if error.code() == code => Ok(None),
        (outcome, expected) => Err(TestCaseError::fail(format!("{outcome:?} where the model has {expected:?}"))),
    }
}

fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut bench = Bench::new();
    let mut keys: Vec<Key> = Vec::new();
    let mut blobs: Vec<(usize, Vec<u8>, Vec<u8>)> = Vec::new();
    for (number, step) in steps.into_iter().enumerate() {
        let (engine, alice, now) = (bench.engine.clone(), bench.alice.clone(), bench.clock.now());
        let id = |keys: &[Key], at: usize| KeyIdRequest::from(keys[at].id.as_str());
        let count = keys.len();
        let live = |at: usize| at < count;
        match step {
            Step::Create if count < 4 => {
                keys.push(Key { id: bench.key(), state: State::Enabled, rotations: 0, schedule: None });
            }
            Step::Enable(at) | Step::Disable(at) if live(at) => {
                let enable = matches!(step, Step::Enable(_));
                let outcome = if enable {
                    engine.enable_key(&alice, id(&keys, at))
                } else {
                    engine.disable_key(&alice, id(&keys, at))
                };
                let refusal = keys[at].refusal().filter(|_| keys[at].state != State::Disabled);
                if agree(outcome, refusal)?.is_some() {
                    keys[at].state = if enable { State::Enabled } else { State::Disabled };
                    keys[at].pass(now);
                }
            }
            Step::Schedule(at, days) if live(at) => {
                let refusal = keys[at].refusal().filter(|_| keys[at].state != State::Disabled);
                if agree(bench.schedule(&keys[at].id, days), refusal)?.is_some() {
                    keys[at].state = State::Pending(now.plus_days(days));
                }
            }
            Step::Cancel(at) if live(at) => {
                let expected = match keys[at].state {
                    State::Pending(_) => None,
                    State::Gone => Some("NotFoundException"),
                    State::Enabled | State::Disabled => Some("KMSInvalidStateException"),
                };
                if agree(engine.cancel_key_deletion(&alice, id(&keys, at)), expected)?.is_some() {
                    keys[at].state = State::Disabled;
                }
            }
            Step::Rotate(at) if live(at) => {
                // Steps are whole days and hours, so an automatic rotation is never less than 20 minutes away.
                let done = agree(engine.rotate_key_on_demand(&alice, id(&keys, at)), keys[at].refusal())?;
                keys[at].rotations += usize::from(done.is_some());
            }
            Step::Automatic(at, days) if live(at) => {
                let request =
                    EnableKeyRotationRequest { key_id: keys[at].id.clone(), rotation_period_in_days: Some(days) };
                if agree(engine.enable_key_rotation(&alice, request), keys[at].refusal())?.is_some() {
                    let unchanged = keys[at].schedule.filter(|(_, old)| *old == days);
                    keys[at].schedule = unchanged.or(Some((now.plus_days(days), days)));
                }
            }
            Step::NotAutomatic(at) if live(at) => {
                let done = agree(engine.disable_key_rotation(&alice, id(&keys, at)), keys[at].refusal())?;
                keys[at].schedule = keys[at].schedule.filter(|_| done.is_none());
            }
            Step::Advance(days) => {
                bench.days(days);
                keys.iter_mut().filter(|key| key.state == State::Enabled).for_each(|key| key.pass(bench.clock.now()));
                engine.maintain().expect("observed");
                bench.hours(2);
                keys.iter_mut().for_each(|key| key.pass(bench.clock.now()));
                engine.maintain().expect("confirmed");
            }
            Step::Encrypt(at) if live(at) => {
                let text = format!("text {number}").into_bytes();
                if let Some(blob) = agree(bench.encrypt(&keys[at].id, &text), keys[at].refusal())? {
                    blobs.push((at, blob, text));
                }
            }
            Step::Decrypt(at) if at < blobs.len() => {
                let (key, blob, text) = &blobs[at];
                if let Some(plain) = agree(bench.decrypt(blob), keys[*key].refusal())? {
                    prop_assert_eq!(&plain, text);
                }
            }
            Step::ReEncrypt(from, to) if from < blobs.len() && live(to) => {
                let (key, blob, text) = blobs[from].clone();
                let request = ReEncryptRequest {
                    ciphertext_blob: Some(blob),
                    source_encryption_context: context(),
                    destination_key_id: keys[to].id.clone(),
                    destination_encryption_context: context(),
                    ..Default::default()
                };
                let expected = keys[key].refusal().or(keys[to].refusal());
                if let Some(answer) = agree(engine.re_encrypt(&alice, request), expected)? {
                    blobs.push((to, answer.ciphertext_blob, text));
                }
            }
            Step::Reopen => {
                drop(engine);
                bench.engine = bench.another().expect("reopened");
            }
            _ => {}
        }
        for key in keys.iter().filter(|key| key.state != State::Gone) {
            prop_assert_eq!(bench.rotations(&key.id).len(), key.rotations);
            let expected = match key.state {
                State::Enabled => KeyState::Enabled,
                State::Disabled => KeyState::Disabled,
                State::Pending(_) | State::Gone => KeyState::PendingDeletion,
            };
            prop_assert_eq!(bench.describe(&key.id).expect("there").key_state, expected);
        }
    }
    prop_assert_eq!(bench.engine.audit().verify().expect("verified").first_break, None);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn the_engine_agrees_with_the_model(steps in proptest::collection::vec(step(), 1..40)) {
        run(steps)?;
    }
}
