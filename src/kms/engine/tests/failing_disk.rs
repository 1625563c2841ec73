//! The disk under the database fails for a while, and then the power is cut: what was acknowledged is there.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::*;
use crate::sys::failing_disk::FailingDisk;

struct Scene {
    /// As several processes have it.
    engines: Vec<Engine>,
    alice: Caller,
    clock: Arc<ManualClock>,
    disk: FailingDisk,
    acknowledged: Vec<String>,
    dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = directory();
        let disk = FailingDisk::below(dir.path());
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_767_225_600)));
        let new = NewHome::with_slots(vec![NewSlot::KeyFile]);
        let (home, _) = Home::create(&dir.path().join("kms"), new, &*clock, &SystemEntropy).expect("created");
        let engine = Engine::start(home, clock.clone(), Arc::new(SystemEntropy)).expect("started");
        let alice = engine.local_caller("alice");
        Self { engines: vec![engine], alice, clock, disk, acknowledged: Vec::new(), dir }
    }

    fn open(&self, home: &Path) -> Result<Engine, OpenError> {
        Engine::open(home, &Unlock::KeyFile, self.clock.clone(), Arc::new(SystemEntropy))
    }

    /// Another process opens the home, or ends.
    fn come_or_go(&mut self) {
        if self.engines.len() > 2 {
            self.engines.remove(0);
        } else if let Ok(engine) = self.open(&self.dir.path().join("kms")) {
            self.engines.push(engine);
        }
    }

    /// The process that acts next.
    fn engine(&mut self) -> &Engine {
        self.engines.rotate_left(1);
        &self.engines[0]
    }

    /// Whether it was acknowledged.
    fn create(&mut self) -> bool {
        let alice = self.alice.clone();
        let made = self.engine().create_key(&alice, CreateKeyRequest::default());
        let made = made.map(|made| self.acknowledged.push(made.key_metadata.key_id));
        made.is_ok()
    }

    /// Records that are no changes go into the log, and last uses into the database.
    fn use_last_key(&mut self) {
        self.clock.advance(Duration::from_secs(60));
        let engine = self.engine().clone();
        if let Some(key) = self.acknowledged.last() {
            encrypt(&engine, &self.alice, key, b"x").expect("it needs no disk");
        }
        // It may fail.
        let _ = engine.audit().flush();
    }

    /// What is there after a power cut now is what was acknowledged.
    fn check(&self, what: &str) {
        let copy = directory();
        let home = copy.path().join("kms");
        fs::create_dir(&home).expect("made");
        // First the database: the log of the audit may be ahead of it.
        self.disk.cut_power(copy.path());
        for part in ["root.json", "domain.key", "audit"] {
            let copied = Command::new("cp").arg("-a").arg(self.dir.path().join("kms").join(part)).arg(&home).status();
            assert!(copied.expect("cp").success());
        }
        let engine = self.open(&home).unwrap_or_else(|error| panic!("{what}: {error}"));
        for key in &self.acknowledged {
            encrypt(&engine, &self.alice, key, b"x").unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        assert_eq!(engine.audit().verify().expect("verified").first_break, None, "{what}");
    }
}

#[test]
fn a_change_does_not_stand_behind_what_a_failed_flush_lost() {
    let mut scene = Scene::new();
    assert!(scene.create());
    scene.use_last_key();
    scene.disk.set_failing(true);
    assert!(!scene.create(), "its flush failed, with what was written before");
    scene.disk.set_failing(false);
    assert!(scene.create());
    scene.check("after a flush that failed");
}

#[test]
fn nothing_acknowledged_is_lost_on_a_disk_that_fails_now_and_then() {
    let mut refused = 0;
    for seed in 0..6 {
        let mut scene = Scene::new();
        let mut state: u64 = seed * 2 + 1;
        for step in 0..250 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match state >> 59 {
                0..=1 => scene.disk.set_failing(true),
                2..=9 => scene.disk.set_failing(false),
                10..=13 => scene.use_last_key(),
                14 => scene.come_or_go(),
                15 if step > 0 => scene.check(&format!("seed {seed}, step {step}")),
                _ => refused += usize::from(!scene.create()),
            }
        }
        scene.check(&format!("seed {seed}"));
    }
    assert!(refused > 50, "{refused} changes were refused");
}
