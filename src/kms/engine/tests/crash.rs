//! The process is killed at each step of each commit, and the home opened again: what was acknowledged is there, and
//! nothing is half done.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::kms::crash;

const DIR: &str = "KMSFS_TEST_CRASH_DIR";
const AT: &str = "KMSFS_TEST_CRASH_AT";
pub const START: i64 = 1_767_225_600;

pub struct Scene {
    pub engine: Engine,
    pub alice: Caller,
    pub clock: Arc<ManualClock>,
}

impl Scene {
    fn open(home: &Path, at: i64) -> Self {
        Self::try_open(home, at).expect("opened")
    }

    pub fn try_open(home: &Path, at: i64) -> Result<Self, OpenError> {
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(at)));
        let engine = Engine::open(home, &Unlock::KeyFile, clock.clone(), Arc::new(SystemEntropy))?;
        let alice = engine.local_caller("alice");
        Ok(Self { engine, alice, clock })
    }

    fn create(&self, alias: &str) {
        let made = self.engine.create_key(&self.alice, CreateKeyRequest::default()).expect("created");
        let request =
            CreateAliasRequest { alias_name: format!("alias/{alias}"), target_key_id: made.key_metadata.key_id };
        self.engine.create_alias(&self.alice, request).expect("named");
    }

    pub fn key(&self, alias: &str) -> String {
        let request = DescribeKeyRequest { key_id: format!("alias/{alias}"), ..Default::default() };
        self.engine.describe_key(&self.alice, request).expect("described").key_metadata.key_id
    }

    /// Everything that the steps change, without what is random.
    pub fn summary(&self) -> String {
        let snapshot = self.engine.shared.store.current().expect("current");
        let mut keys: Vec<String> = snapshot
            .all_keys()
            .map(|key| {
                let key = key.expect("readable");
                let (state, gone, materials) = (key.record.state, key.is_tombstone(), key.materials.len());
                format!("{state} {gone} {materials} {} {}", key.current().is_some(), key.record.tags.len())
            })
            .collect();
        keys.sort();
        let aliases: Vec<&str> = snapshot.aliases.values().map(|alias| alias.name.as_str()).collect();
        format!("{keys:?} {aliases:?}")
    }
}

pub type Step = fn(&Scene);

/// What is done; each is acknowledged before the next. Only the last but one changes more than one row set at a time.
pub const STEPS: [Step; 9] = [
    |scene| {
        scene.engine.create_key(&scene.alice, CreateKeyRequest::default()).expect("created");
    },
    |scene| {
        let request = UpdateKeyDescriptionRequest { key_id: scene.key("kept"), description: "described".into() };
        scene.engine.update_key_description(&scene.alice, request).expect("described");
    },
    |scene| drop(scene.engine.rotate_key_on_demand(&scene.alice, scene.key("kept").as_str().into()).expect("rotated")),
    |scene| scene.engine.disable_key(&scene.alice, scene.key("kept").as_str().into()).expect("disabled"),
    |scene| scene.engine.enable_key(&scene.alice, scene.key("kept").as_str().into()).expect("enabled"),
    |scene| {
        let tags = vec![Tag { tag_key: "name".into(), tag_value: "value".into() }];
        scene
            .engine
            .tag_resource(&scene.alice, TagResourceRequest { key_id: scene.key("kept"), tags })
            .expect("tagged");
    },
    |scene| {
        let request = DeleteAliasRequest { alias_name: "alias/spare".into() };
        scene.engine.delete_alias(&scene.alice, request).expect("deleted");
    },
    |scene| {
        // The end of a waiting period: material and alias go, and the domain key with them.
        scene.clock.set(Timestamp::from_secs(START).plus_days(8));
        scene.engine.maintain().expect("observed");
        scene.clock.advance(std::time::Duration::from_secs(2 * 3600));
        scene.engine.maintain().expect("deleted");
    },
    |scene| scene.engine.disable_key(&scene.alice, scene.key("kept").as_str().into()).expect("disabled"),
];

/// Runs in a process of its own, which is killed at the point that the environment names.
#[test]
fn the_process_that_dies() {
    let Some(dir) = own_copy() else { return };
    let scene = Scene::open(&dir.join("kms"), START);
    let mut acknowledged = OpenOptions::new().create(true).append(true).open(dir.join("acknowledged")).expect("opened");
    let mut acknowledge = || writeln!(acknowledged, "{}", scene.summary()).expect("written");
    acknowledge();
    arm();
    for step in STEPS {
        step(&scene);
        acknowledge();
    }
    crash::arm(0);
}

/// The directory of a process that [`die`] runs; `None` in any other.
pub fn own_copy() -> Option<PathBuf> {
    std::env::var_os(DIR).map(PathBuf::from)
}

/// From now on such a process is killed at its point.
pub fn arm() {
    crash::arm(std::env::var(AT).expect("set").parse().expect("a number"));
}

/// Runs `test` of this module's neighbours in a process of its own, in a new directory with a copy of the home `template`,
/// to be killed at point `at`. The directory, and whether it came to that.
pub fn die(test: &str, template: &Path, at: u64) -> (TempDir, bool) {
    let dir = directory();
    let copied = Command::new("cp").arg("-a").arg(template).arg(dir.path().join("kms")).status().expect("cp");
    assert!(copied.success());
    let child = Command::new(std::env::current_exe().expect("known"))
        .args(["--exact", &format!("kms::engine::tests::{test}"), "--test-threads=1"])
        .env(DIR, dir.path())
        .env(AT, at.to_string())
        .output()
        .expect("run");
    let killed = std::os::unix::process::ExitStatusExt::signal(&child.status) == Some(9);
    assert!(killed || child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    (dir, killed)
}

fn run(template: &Path, at: u64) -> (TempDir, bool, Vec<String>) {
    let (dir, killed) = die("crash::the_process_that_dies", template, at);
    let acknowledged = fs::read_to_string(dir.path().join("acknowledged")).expect("read");
    (dir, killed, acknowledged.lines().map(str::to_owned).collect())
}

#[test]
fn what_was_acknowledged_survives_a_kill_at_every_step() {
    let bench = Bench::new();
    let scene = Scene { engine: bench.engine.clone(), alice: bench.alice.clone(), clock: bench.clock.clone() };
    for alias in ["kept", "doomed", "spare"] {
        scene.create(alias);
    }
    let blob = bench.encrypt("alias/kept", b"kept").expect("encrypted");
    let lost = bench.encrypt("alias/doomed", b"lost").expect("encrypted");
    bench.schedule(&scene.key("doomed"), 7).expect("scheduled");
    let home = bench.home();
    let Bench { engine, dir, .. } = bench;
    drop((scene, engine));

    let (_, killed, reference) = run(&home, 0);
    assert!(!killed && reference.len() == STEPS.len() + 1, "{reference:?}");
    let mut points = 0;
    for at in 1.. {
        let (dir, killed, acknowledged) = run(&home, at);
        if !killed {
            break;
        }
        points = at;
        assert_eq!(acknowledged[..], reference[..acknowledged.len()], "point {at}");
        let done = acknowledged.len() - 1;
        // The step in flight has happened or not; opening may also bring what is due.
        let late = Timestamp::from_secs(START).plus_days(8).as_secs() + 2 * 3600;
        let now = if done >= 7 { late } else { START };
        let scene = Scene::open(&dir.path().join("kms"), now);
        let found = scene.summary();
        let allowed = &reference[done..reference.len().min(done + 2)];
        assert!(allowed.contains(&found), "point {at}: {found} is none of {allowed:?}");
        let report = scene.engine.audit().verify().expect("verified");
        assert_eq!(report.first_break, None, "point {at}");
        let root: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.path().join("kms/root.json")).expect("read")).expect("JSON");
        let list = |name: &str| root["body"][name].as_array().map(Vec::len);
        assert_eq!((list("states"), list("domains")), (Some(1), Some(1)), "point {at}");
        // The record of a change is there exactly if the change is, and once.
        let filter = crate::kms::audit::AuditFilter { event: Some("RotateKeyOnDemand".into()), ..Default::default() };
        let rotated = found.contains(" 2 true ") as usize;
        assert_eq!(scene.engine.audit().read(&filter).expect("read").len(), rotated, "point {at}: {found}");
        if !found.contains("Disabled") {
            assert_eq!(decrypt(&scene.engine, &scene.alice, &blob), Ok(b"kept".to_vec()), "point {at}");
        }
        // It goes on.
        let made = scene.engine.create_key(&scene.alice, CreateKeyRequest::default()).expect("created");
        encrypt(&scene.engine, &scene.alice, &made.key_metadata.key_id, b"x").expect("encrypted");
        let gone = decrypt(&scene.engine, &scene.alice, &lost).map_err(|error| error.code());
        assert!(matches!(gone, Err("NotFoundException" | "KMSInvalidStateException")), "point {at}: {gone:?}");
    }
    assert!(points > 80, "{points} points");
    drop(dir);
}
