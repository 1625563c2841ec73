//! Updates of the configuration: the power fails at each operation, and the volume opens by the old one or by the new one, whatever
//! the registry has of it by then.

use std::fs;
use std::sync::{Arc, Mutex};

use kmsfs::format::volume::OpenedVolume;
use kmsfs::kms::Engine;
use kmsfs::kms::model::KeyIdRequest;
use kmsfs::kms::registry::VolumeRecord;
use kmsfs::ops::config::{self, BACKUP, VOLUME};
use kmsfs::ops::files::{META_DIR, MetaDir};
use kmsfs::ops::open::OpenOptions;
use kmsfs::ops::rewrap::{RewrapOptions, rewrap_config};
use kmsfs::store::{Access, Backing, BackingFile, FaultPlan, Faulty, Memory, MemoryOptions};
use kmsfs::types::VolumeId;
use tempfile::TempDir;

use super::disk::{Cut, Disk, Pages};
use super::random::clock;
use super::seeds;
use crate::ops::host::Host;

type Meta = MetaDir<Faulty<Memory>>;

/// A volume whose configuration is on a recorded disk, and the registry of its host.
struct Scene {
    host: Host,
    /// Its ciphertext directory, to which a disk is put for a mount.
    dir: TempDir,
    backing: Faulty<Memory>,
    meta: Meta,
    /// The configuration after each update, the first one at the start, and how many operations were done then.
    states: Vec<(OpenedVolume, usize)>,
    /// What the registry had after each operation.
    rows: Arc<Mutex<Vec<VolumeRecord>>>,
    records: Vec<kmsfs::store::Record>,
}

fn row(engine: &Engine, volume: &VolumeId) -> VolumeRecord {
    engine.registry().get(volume).expect("a registry").expect("a row")
}

impl Scene {
    fn new(ordered_metadata: bool) -> Self {
        let host = Host::new();
        host.key("first");
        let dir = TempDir::new().expect("temporary directory");
        host.init(dir.path(), "alias/first").expect("init");
        let opened = host.open(dir.path(), OpenOptions::default()).expect("open");
        let options = MemoryOptions { ordered_metadata, ..MemoryOptions::default() };
        let backing = Faulty::new(Memory::with_options(clock(), options), FaultPlan::new());
        backing.start_recording();
        let (rows, volume, engine) = (Arc::default(), opened.config.volume_id, host.engine.clone());
        let seen: Arc<Mutex<Vec<_>>> = Arc::clone(&rows);
        backing.watch(move || seen.lock().expect("no panic").push(row(&engine, &volume)));
        backing.mkdir(&backing.root().expect("root"), META_DIR, 0o700).expect("made");
        let meta = MetaDir::of(backing.clone()).expect("opened");
        config::write(dir.path(), &meta, &opened.config, &opened.keys).expect("written");
        backing.sync_all().expect("flushed");
        let mut scene = Self { host, dir, backing, meta, states: Vec::new(), rows, records: Vec::new() };
        scene.done(opened);
        scene
    }

    fn done(&mut self, opened: OpenedVolume) {
        self.records.extend(self.backing.stop_recording());
        self.backing.start_recording();
        self.states.push((opened, self.records.len()));
    }

    fn now(&self) -> &OpenedVolume {
        &self.states.last().expect("there is one at the start").0
    }

    fn rewrap(&mut self, options: &RewrapOptions) {
        let opened = self.now().clone();
        let (service, registry) = (self.host.service(&opened.config.volume_id), self.host.engine.registry());
        let clock = &*self.host.clock;
        let (opened, changed) =
            rewrap_config(self.dir.path(), &self.meta, opened, &*service, &registry, options, clock)
                .expect("rewrapped");
        assert!(changed);
        self.done(opened);
    }

    /// Puts a disk and a row of the registry in the place of those that are there.
    fn put(&self, disk: &Faulty<Memory>, row: &VolumeRecord) {
        let root = disk.root().expect("root");
        let control = disk.open_dir(&root, META_DIR).expect("it was flushed");
        for name in [VOLUME, BACKUP].into_iter().flat_map(|name| [name.to_owned(), format!("{name}.tmp")]) {
            let path = self.dir.path().join(META_DIR).join(&name);
            match disk.open(&control, &name, Access::Read) {
                Ok(file) => {
                    let mut bytes = vec![0; file.stat().expect("stat").size as usize];
                    file.read_at(&mut bytes, 0).expect("read");
                    fs::write(path, bytes).expect("written");
                }
                Err(_) => drop(fs::remove_file(path)),
            }
        }
        let registry = self.host.engine.registry();
        registry.put(row).expect("put");
        registry.lower_config_seq(&row.volume, row.config_seq).expect("lowered");
    }

    /// The volume opens by the configuration of one of the states, and its copy becomes the same.
    fn check(&self, done: usize, what: &str) {
        let opened = self.host.open(self.dir.path(), OpenOptions::default()).unwrap_or_else(|e| panic!("{what}: {e}"));
        let before = self.states.iter().rposition(|(_, end)| *end <= done).expect("the start");
        let allowed = &self.states[before..self.states.len().min(before + 2)];
        let is_one = allowed.iter().any(|(state, _)| state.config == opened.config);
        assert!(is_one, "{what}: configuration {} after update {before}", opened.config.config_seq);
        let meta = config::open_meta(self.dir.path()).expect("opened");
        config::refresh_copy(self.dir.path(), &meta).unwrap_or_else(|e| panic!("{what}: {e}"));
        let read = |name| meta.read(name, 1 << 16).expect("read");
        assert!(read(VOLUME) == read(BACKUP), "{what}");
    }

    /// The next update goes on from there.
    fn go_on(&self, what: &str) {
        let opened = self.host.open(self.dir.path(), OpenOptions::default()).expect("open");
        let (seq, volume) = (opened.config.config_seq, opened.config.volume_id);
        let meta = config::open_meta(self.dir.path()).expect("opened");
        let (service, registry) = (self.host.service(&volume), self.host.engine.registry());
        let to = self.host.engine.registry().get(&volume).expect("a registry").expect("a row").keys[0].clone();
        let options = RewrapOptions { to: Some(to), ..RewrapOptions::default() };
        rewrap_config(self.dir.path(), &meta, opened, &*service, &registry, &options, &*self.host.clock)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        let opened = self.host.open(self.dir.path(), OpenOptions::default()).expect("open");
        assert!(opened.config.config_seq >= seq && row(&self.host.engine, &volume).config_seq >= seq, "{what}");
    }
}

#[test]
fn a_power_cut_within_an_update_of_the_configuration_harms_nothing() {
    let mut states = 0;
    for ordered_metadata in [true, false] {
        let mut scene = Scene::new(ordered_metadata);
        let first = scene.now().config.allowed_keys[0].clone();
        let second = scene.host.key("second");
        scene
            .host
            .engine
            .rotate_key_on_demand(&scene.host.caller, KeyIdRequest::from(first.as_str()))
            .expect("rotated");
        // The root key under new material of its key, then under another key, which new files get too.
        scene.rewrap(&RewrapOptions::default());
        scene.rewrap(&RewrapOptions { to: Some(second), ..RewrapOptions::default() });
        assert_eq!(scene.now().config.config_seq, 3);
        let volume = scene.now().config.volume_id;
        let mut rows = std::mem::take(&mut *scene.rows.lock().expect("no panic"));
        rows.push(row(&scene.host.engine, &volume));
        let base = scene.states[0].1;
        assert!(rows[base - 1].config_seq == 1 && rows.iter().any(|row| row.config_seq == 2 && row.keys.len() == 2));

        let disk = Disk::new(scene.records.clone(), base);
        for done in base..=scene.records.len() {
            let mut cuts = Vec::new();
            for journal in [disk.durable(done), done] {
                cuts.extend([Pages::Oldest, Pages::Newest].map(|pages| (Cut { done, journal, log: None }, pages)));
            }
            for seed in seeds(done, 4) {
                let log = (!ordered_metadata).then_some(seed);
                let journal = if ordered_metadata { disk.durable(done) } else { disk.committed(done) };
                cuts.push((Cut { done, journal, log }, Pages::any(seed)));
            }
            for (cut, pages) in cuts {
                let image = disk.image(cut, &pages, clock(), ordered_metadata);
                // Of the registry, which is in the home of the key manager, what was durable at the last operation or since.
                for row in &rows[done - 1..=done] {
                    let what = format!("{cut:?}, registry at {}", row.config_seq);
                    scene.put(&image, row);
                    scene.check(done, &what);
                    if (done + cut.journal).is_multiple_of(5) {
                        scene.go_on(&what);
                    }
                    states += 1;
                }
            }
        }
    }
    assert!(states > 300, "{states} states");
}
