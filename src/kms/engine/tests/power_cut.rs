//! The power is cut between any two writes and flushes of the key manager, and the home opened again on what the disk may hold then:
//! what was acknowledged is there, what was in flight has happened or not, and nothing is made anew in the place of what is there.

use std::path::Path;

use super::crash::{START, STEPS, Scene, Step};
use super::*;
use crate::kms::audit::AuditFilter;
use crate::kms::custody::SlotKind;
use crate::sys::failing_disk::{FailingDisk, History, Left};

/// Where the home is made, with the directory above it.
const HOME: &str = "share/kms";

/// What was done when a step was acknowledged.
struct Acknowledged {
    /// So many moments had passed.
    moments: usize,
    summary: String,
    /// Uses that were flushed into the log.
    uses: usize,
    /// Seconds; what is opened later has what is due by then.
    time: i64,
}

/// What the steps of the tests of killed processes need.
const BEFORE: [Step; 10] = [
    |scene| drop(scene.engine.create_key(&scene.alice, CreateKeyRequest::default()).expect("created")),
    |scene| name(scene, "alias/kept"),
    |scene| drop(scene.engine.create_key(&scene.alice, CreateKeyRequest::default()).expect("created")),
    |scene| name(scene, "alias/doomed"),
    |scene| drop(scene.engine.create_key(&scene.alice, CreateKeyRequest::default()).expect("created")),
    |scene| name(scene, "alias/spare"),
    |scene| {
        for _ in 0..20 {
            encrypt(&scene.engine, &scene.alice, "alias/kept", b"x").expect("encrypted");
        }
        scene.engine.audit().flush().expect("flushed");
    },
    |scene| {
        let key_id = scene.key("doomed");
        let request = ScheduleKeyDeletionRequest { key_id, pending_window_in_days: Some(7) };
        scene.engine.schedule_key_deletion(&scene.alice, request).expect("scheduled");
    },
    |scene| {
        encrypt(&scene.engine, &scene.alice, "alias/kept", b"x").expect("encrypted");
        scene.engine.audit().flush().expect("flushed");
    },
    |scene| drop(scene.engine.add_slot(&scene.alice, NewSlot::Passphrase("another".into(), CHEAP)).expect("added")),
];

/// Gives the key that has no name yet one.
fn name(scene: &Scene, alias: &str) {
    let snapshot = scene.engine.shared.store.current().expect("current");
    let named: Vec<&str> = snapshot.aliases.values().map(|alias| &*alias.key_id).collect();
    let mut keys = snapshot.all_keys().map(|key| key.expect("readable"));
    let key = keys.find(|key| !named.contains(&&*key.record.key_id)).expect("one without a name");
    let request = CreateAliasRequest { alias_name: alias.into(), target_key_id: key.record.key_id.to_string() };
    scene.engine.create_alias(&scene.alice, request).expect("named");
}

/// Behind them: the root file changes alone, and the secret of a slot that is removed does not come back.
const BEHIND: [Step; 3] = [
    |scene| {
        let slots = scene.engine.slots().expect("slots");
        let added = slots.iter().rfind(|slot| slot.kind == SlotKind::Passphrase).expect("added");
        scene.engine.remove_slot(&scene.alice, added.id).expect("removed");
    },
    |scene| drop(scene.engine.add_slot(&scene.alice, NewSlot::Recovery).expect("added")),
    |scene| drop(scene.engine.create_key(&scene.alice, CreateKeyRequest::default()).expect("created")),
];

fn uses(engine: &Engine) -> usize {
    let filter = AuditFilter { event: Some("Encrypt".into()), ..Default::default() };
    engine.audit().read(&filter).expect("read").len()
}

/// What the steps change, with the slots.
fn summary(scene: &Scene) -> String {
    format!("{} {}", scene.summary(), scene.engine.slots().expect("slots").len())
}

/// A home that is made, used, closed and used again, and what was acknowledged when; the first is its creation.
fn record() -> (History, Vec<Acknowledged>) {
    let dir = directory();
    let disk = FailingDisk::below(dir.path());
    disk.record();
    let home = dir.path().join(HOME);
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(START)));
    let new = NewHome::with_slots(vec![NewSlot::KeyFile]);
    let (made, _) = Home::create(&home, new, &*clock, &SystemEntropy).expect("created");
    let created = disk.moments();
    let engine = Engine::start(made, clock.clone(), Arc::new(SystemEntropy)).expect("started");
    let alice = engine.local_caller("alice");
    let mut scene = Scene { engine, alice, clock };
    let note = |scene: &Scene, moments| Acknowledged {
        moments,
        summary: summary(scene),
        uses: uses(&scene.engine),
        time: scene.clock.now().as_secs(),
    };
    let mut done = vec![note(&scene, created)];
    for (number, step) in BEFORE.iter().chain(&STEPS).chain(&BEHIND).enumerate() {
        // Whoever closes it last puts the log of the database into the database.
        if number % 4 == 3 {
            let now = scene.clock.now().as_secs();
            drop(scene);
            scene = Scene::try_open(&home, now).expect("opened");
        }
        step(&scene);
        done.push(note(&scene, disk.moments()));
    }
    drop(scene);
    (disk.history(), done)
}

/// Opens the home that a cut left and checks it.
fn check(home: &Path, done: &[Acknowledged], moment: usize, what: &str) {
    let acknowledged = done.iter().rposition(|step| step.moments <= moment);
    let Some(last) = acknowledged else {
        // Nothing was ever kept in it.
        if !Home::exists(home).expect("looked") {
            let clock = ManualClock::new(Timestamp::from_secs(START));
            let new = NewHome::with_slots(vec![NewSlot::KeyFile]);
            Home::create(home, new, &clock, &SystemEntropy).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        let scene = Scene::try_open(home, START).unwrap_or_else(|error| panic!("{what}: {error}"));
        return assert_eq!(summary(&scene), done[0].summary, "{what}");
    };
    assert!(Home::exists(home).expect("looked"), "{what}: the key manager is there");
    let allowed = &done[last..done.len().min(last + 2)];
    let time = allowed.last().expect("one at least").time;
    let scene = Scene::try_open(home, time).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = summary(&scene);
    assert!(allowed.iter().any(|step| step.summary == found), "{what}: {found}\n{:?}", allowed[0].summary);
    let report = scene.engine.audit().verify().expect("verified");
    assert_eq!(report.first_break, None, "{what}");
    assert!(uses(&scene.engine) >= allowed[0].uses, "{what}: uses that were flushed into the log");
    // It goes on, with what was in flight in the log.
    let made = scene.engine.create_key(&scene.alice, CreateKeyRequest::default()).expect("created");
    encrypt(&scene.engine, &scene.alice, &made.key_metadata.key_id, b"x").expect("encrypted");
    scene.engine.audit().flush().expect("flushed");
    let report = scene.engine.audit().verify().expect("verified");
    assert_eq!(report.first_break, None, "{what}, gone on");
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_at_every_write() {
    let (history, done) = record();
    let asked = std::env::var("KMSFS_TEST_CUTS").unwrap_or_else(|_| "1:0".into());
    let (times, seed) = asked.split_once(':').unwrap_or((&asked, "1"));
    let number =
        |text: &str| text.parse::<u64>().expect("KMSFS_TEST_CUTS is a number, or two with a colon between them");
    let mut states = 0;
    for moment in 0..=history.moments() {
        for again in 0..number(times) {
            let left = match (moment as u64 + again) % 4 {
                0 => Left::Oldest,
                1 => Left::Newest,
                _ => Left::Any(number(seed) + 1000 * moment as u64 + again),
            };
            let copy = directory();
            history.cut(moment, &left, copy.path());
            check(&copy.path().join(HOME), &done, moment, &format!("moment {moment}, {left:?}"));
            states += 1;
        }
    }
    assert!(states > 500, "{states} states of {} moments", history.moments());
}
