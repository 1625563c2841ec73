//! Time: automatic rotation and deletion, also when nothing ran at the due time.

use super::*;

fn rotate_every(bench: &Bench, key_id: &str, days: u32) {
    let request = EnableKeyRotationRequest { key_id: key_id.to_owned(), rotation_period_in_days: Some(days) };
    bench.engine.enable_key_rotation(&bench.alice, request).expect("enabled");
}

#[test]
fn rotation_happens_at_its_time_and_once_however_often_missed() {
    let bench = Bench::new();
    let key = bench.key();
    let start = bench.clock.now();
    rotate_every(&bench, &key, 90);
    let blob = bench.encrypt(&key, b"x").expect("encrypted");
    bench.days(89);
    assert!(bench.encrypt(&key, b"x").is_ok() && bench.rotations(&key).is_empty());
    bench.days(1);
    let new = bench.encrypt(&key, b"x").expect("encrypted");
    let rotations = bench.rotations(&key);
    assert_eq!(rotations.len(), 1);
    assert_eq!(rotations[0].rotation_type, Some(RotationType::Automatic));
    assert_eq!(crate::kms::blob::material_id(&new).as_ref(), Some(&rotations[0].key_material_id));
    assert_ne!(crate::kms::blob::material_id(&new), crate::kms::blob::material_id(&blob));

    bench.days(90 * 10 + 5);
    assert_eq!(bench.decrypt(&blob), Ok(b"x".to_vec()));
    assert_eq!(bench.rotations(&key).len(), 2);
    let status = bench.engine.get_key_rotation_status(&bench.alice, key.as_str().into()).expect("status");
    assert_eq!(status.next_rotation_date, Some(start.plus_days(90 * 12)));
    assert_eq!(status.rotation_period_in_days, Some(90));
}

#[test]
fn nothing_ran_for_a_year() {
    let Bench { dir, clock, engine, alice, .. } = Bench::new();
    let bench = Bench { dir, clock, engine: engine.clone(), alice, recovery: Bench::new().recovery };
    let key = bench.key();
    rotate_every(&bench, &key, 100);
    drop(engine);
    let Bench { dir, clock, engine, alice, recovery } = bench;
    drop(engine);
    clock.set(clock.now().plus_days(365));
    let engine = Engine::open(&dir.path().join("kms"), &passphrase("secret"), clock.clone(), Arc::new(SystemEntropy))
        .expect("opened");
    let bench = Bench { dir, clock, engine, alice, recovery };
    assert_eq!(bench.rotations(&key).len(), 1);
}

#[test]
fn a_disabled_key_rotates_when_it_is_enabled() {
    let bench = Bench::new();
    let key = bench.key();
    rotate_every(&bench, &key, 90);
    bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("disabled");
    bench.days(200);
    bench.engine.maintain().expect("maintained");
    assert_eq!(bench.rotations(&key).len(), 0);
    bench.engine.enable_key(&bench.alice, key.as_str().into()).expect("enabled");
    assert_eq!(bench.rotations(&key).len(), 1);
}

#[test]
fn pending_deletion_hides_the_rotation_and_cancelling_restores_it() {
    let bench = Bench::new();
    let key = bench.key();
    rotate_every(&bench, &key, 90);
    let status = || bench.engine.get_key_rotation_status(&bench.alice, key.as_str().into()).expect("status");
    let before = status();
    bench.schedule(&key, 7).expect("scheduled");
    assert!(!status().key_rotation_enabled);
    bench.engine.cancel_key_deletion(&bench.alice, key.as_str().into()).expect("cancelled");
    assert_eq!(status(), before);
    bench.engine.enable_key(&bench.alice, key.as_str().into()).expect("enabled");
    bench.engine.disable_key_rotation(&bench.alice, key.as_str().into()).expect("disabled");
    assert!(!status().key_rotation_enabled);
}

#[test]
fn on_demand_is_refused_right_before_an_automatic_rotation() {
    let bench = Bench::new();
    let key = bench.key();
    rotate_every(&bench, &key, 90);
    bench.days(90);
    bench.clock.set(Timestamp::from_secs(bench.clock.now().as_secs() - 10 * 60));
    let refused = bench.engine.rotate_key_on_demand(&bench.alice, key.as_str().into()).expect_err("too close");
    assert_eq!(refused.code(), "ConflictException");
}

#[test]
fn deletion_waits_for_its_window_and_for_a_believable_clock() {
    let bench = Bench::new();
    let key = bench.key();
    bench.schedule(&key, 7).expect("scheduled");
    // The computer was off: the clock has jumped. The key stays unusable and can still be rescued.
    bench.days(30);
    assert_eq!(bench.describe(&key).expect("held").key_state, KeyState::PendingDeletion);
    assert!(bench.encrypt(&key, b"x").is_err());
    bench.clock.advance(std::time::Duration::from_secs(1800));
    assert_eq!(bench.describe(&key).expect("held").key_state, KeyState::PendingDeletion);
    bench.hours(1);
    assert_eq!(bench.describe(&key).expect_err("deleted").code(), "NotFoundException");
}

#[test]
fn a_clock_that_was_wrong_for_a_moment_deletes_nothing() {
    let bench = Bench::new();
    let key = bench.key();
    bench.schedule(&key, 7).expect("scheduled");
    let right = bench.clock.now();
    bench.days(3650);
    bench.engine.maintain().expect("maintained");
    bench.clock.set(right.plus(std::time::Duration::from_secs(60)));
    bench.engine.maintain().expect("maintained");
    bench.hours(2);
    bench.engine.maintain().expect("maintained");
    bench.engine.cancel_key_deletion(&bench.alice, key.as_str().into()).expect("still there");
}

#[test]
fn a_key_deletes_on_time_while_something_runs() {
    let bench = Bench::new();
    let key = bench.key();
    bench.schedule(&key, 7).expect("scheduled");
    for _ in 0..14 {
        assert_eq!(bench.describe(&key).expect("waiting").key_state, KeyState::PendingDeletion);
        bench.hours(12);
        bench.engine.maintain().expect("maintained");
    }
    assert_eq!(bench.describe(&key).expect_err("deleted").code(), "NotFoundException");
}
