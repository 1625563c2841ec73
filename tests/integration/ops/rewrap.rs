//! Moving wrapped keys: to new material, to another key, again after a stop.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kmsfs::kms::audit::AuditFilter;
use kmsfs::kms::model::KeyIdRequest;
use kmsfs::ops::info::{HeaderFacts, file_info};
use kmsfs::ops::open::{FoundVolume, OpenOptions};
use kmsfs::ops::rewrap::{RewrapOptions, RewrapReport, rewrap_config, rewrap_files, rewrap_files_by};
use kmsfs::ops::{Progress, Silent, Visit, config};
use kmsfs::store::{LocalDir, Modes};
use kmsfs::types::KeyArn;
use kmsfs::vfs::{ROOT, Rewrapped};
use tempfile::TempDir;

use super::host::{Host, ciphertext};

pub fn rewrap(
    host: &Host,
    root: &Path,
    from: Option<&KeyArn>,
    to: Option<&KeyArn>,
    progress: &dyn Progress,
) -> RewrapReport {
    let found = FoundVolume::find(root).expect("found");
    let _lock = found.lock("rewrap").expect("free");
    let service = host.service(&found.volume_id());
    let registry = host.engine.registry();
    let opened = found.open(&*service, &registry, OpenOptions::default()).expect("open");
    let options = RewrapOptions { from: from.cloned(), to: to.cloned(), threads: 2 };
    let meta = config::open_meta(root).expect("meta");
    let (opened, root_key) =
        rewrap_config(root, &meta, opened, &*service, &registry, &options, &*host.clock).expect("configuration");
    let backing = Arc::new(LocalDir::open(root).expect("open"));
    let report = rewrap_files(&Modes::new(backing, false), &host.files_of(opened), &options, progress).expect("files");
    RewrapReport { root_key, ..report }
}

pub fn header(root: &Path, ino: u64) -> HeaderFacts {
    let material = |blob: &[u8]| kmsfs::kms::blob::material_id(blob);
    file_info(&ciphertext(root, ino), &material).expect("info").header.expect("a header")
}

#[test]
fn rotation_changes_nothing_and_rewrap_moves_to_the_new_material() {
    let host = Host::new();
    let key = host.key("mine");
    let dir = TempDir::new().expect("temporary directory");
    host.init(dir.path(), "alias/mine").expect("init");
    let mounted = host.mount(dir.path());
    let ino = mounted.write(ROOT, "file", b"content");
    mounted.write(ROOT, "empty", b"");
    drop(mounted);
    let path = ciphertext(dir.path(), ino);
    let (before, stored) = (header(dir.path(), ino), fs::read(&path).expect("read"));
    let modified = fs::metadata(&path).expect("stat").modified().expect("mtime");

    host.engine.rotate_key_on_demand(&host.caller, KeyIdRequest::from(key.as_str())).expect("RotateKeyOnDemand");
    assert_eq!(fs::read(&path).expect("read"), stored, "rotation changes no file");
    assert_eq!(host.mount(dir.path()).read("file").expect("old material decrypts"), b"content");

    let report = rewrap(&host, dir.path(), None, None, &Silent);
    assert_eq!((report.rewrapped, report.unchanged, report.root_key), (1, 1, true));
    assert_eq!(report.findings, []);
    let after = header(dir.path(), ino);
    assert_eq!((after.slots.len(), after.file_id), (1, before.file_id));
    assert_eq!(after.slots[0].generation, before.slots[0].generation + 1);
    assert_ne!(after.slots[0].recipients[0].material_id, before.slots[0].recipients[0].material_id);
    assert_eq!(fs::metadata(&path).expect("stat").modified().expect("mtime"), modified, "no user write");
    assert_eq!(host.mount(dir.path()).read("file").expect("new material decrypts"), b"content");

    let again = rewrap(&host, dir.path(), None, None, &Silent);
    assert_eq!((again.rewrapped, again.unchanged, again.root_key), (0, 2, false));
}

#[test]
fn a_job_asks_for_the_current_material_once() {
    let host = Host::new();
    host.key("mine");
    let dir = TempDir::new().expect("temporary directory");
    host.init(dir.path(), "alias/mine").expect("init");
    let mounted = host.mount(dir.path());
    for i in 0..20 {
        mounted.write(ROOT, &format!("file {i}"), b"content");
    }
    drop(mounted);
    let asked = || {
        let filter = AuditFilter { event: Some("DescribeKey".to_owned()), ..AuditFilter::default() };
        host.engine.audit().read(&filter).expect("audit log").len()
    };
    let before = asked();
    let report = rewrap(&host, dir.path(), None, None, &Silent);
    assert_eq!((report.rewrapped, report.unchanged), (0, 20));
    // Once for the root key, once for the files.
    assert_eq!(asked() - before, 2);
}

#[test]
fn after_a_move_the_old_key_is_not_needed() {
    let host = Host::new();
    let (old, new) = (host.key("old"), host.key("new"));
    let dir = TempDir::new().expect("temporary directory");
    host.init(dir.path(), "alias/old").expect("init");
    let mounted = host.mount(dir.path());
    let sub = mounted.mkdir(ROOT, "sub");
    mounted.write(ROOT, "file", b"content");
    let inner = mounted.write(sub, "inner", b"inner content");
    drop(mounted);
    let report = rewrap(&host, dir.path(), Some(&old), Some(&new), &Silent);
    assert_eq!((report.rewrapped, report.findings.len(), report.root_key), (2, 0, true));
    host.engine.disable_key(&host.caller, KeyIdRequest::from(old.as_str())).expect("DisableKey");
    assert_eq!(header(dir.path(), inner).slots[0].recipients[0].key, new.as_str());
    let mounted = host.mount(dir.path());
    assert_eq!(mounted.read("file").expect("read"), b"content");
    let fresh = mounted.write(ROOT, "fresh", b"x");
    assert_eq!(header(dir.path(), fresh).slots[0].recipients[0].key, new.as_str());
    drop(mounted);
    assert_eq!(host.findings(dir.path()), [""; 0]);
    // Only what is under the source key moves.
    let nothing = rewrap(&host, dir.path(), Some(&old), Some(&new), &Silent);
    assert_eq!((nothing.rewrapped, nothing.unchanged), (0, 3));
}

#[test]
fn files_with_names_elsewhere_are_counted() {
    let host = Host::new();
    let (old, new) = (host.key("old"), host.key("new"));
    let (dir, generation) = (TempDir::new().expect("temporary directory"), TempDir::new().expect("another"));
    host.init(dir.path(), "alias/old").expect("init");
    let mounted = host.mount(dir.path());
    let sub = mounted.mkdir(ROOT, "sub");
    mounted.write(ROOT, "alone", b"content");
    let within = mounted.write(ROOT, "within", b"content");
    let elsewhere = mounted.write(sub, "elsewhere", b"content");
    mounted.0.link(within, sub, b"other").expect("link");
    drop(mounted);
    let shared = generation.path().join("shared");
    fs::hard_link(ciphertext(dir.path(), elsewhere), &shared).expect("link");
    let report = rewrap(&host, dir.path(), Some(&old), Some(&new), &Silent);
    assert_eq!((report.rewrapped, report.findings.len(), report.linked_elsewhere.len()), (3, 0, 1));
    // What is not rewrapped changes nothing elsewhere.
    let nothing = rewrap(&host, dir.path(), Some(&old), Some(&new), &Silent);
    assert_eq!((nothing.rewrapped, nothing.linked_elsewhere.len()), (0, 0));
}

#[test]
fn a_file_with_two_names_is_rewrapped_once() {
    let host = Host::new();
    host.key("old");
    let dir = TempDir::new().expect("temporary directory");
    host.init(dir.path(), "alias/old").expect("init");
    let mounted = host.mount(dir.path());
    let (first, second) = (mounted.mkdir(ROOT, "first"), mounted.mkdir(ROOT, "second"));
    for number in 0..8 {
        let name = format!("file{number}");
        let ino = mounted.write(first, &name, b"content");
        mounted.0.link(ino, second, name.as_bytes()).expect("link");
    }
    let modes = Arc::clone(mounted.0.modes());
    drop(mounted);
    let found = FoundVolume::find(dir.path()).expect("found");
    let service = host.service(&found.volume_id());
    let opened = found.open(&*service, &host.engine.registry(), OpenOptions::default()).expect("open");
    let handled = AtomicU64::new(0);
    let one = |_: &Visit<'_, LocalDir>| {
        handled.fetch_add(1, Ordering::SeqCst);
        // Threads that list both directories come to the other name meanwhile.
        std::thread::sleep(Duration::from_millis(5));
        Ok(Rewrapped::Yes)
    };
    let report = rewrap_files_by(&modes, &opened, 2, &Silent, &one).expect("files");
    assert_eq!((report.rewrapped, handled.into_inner()), (8, 8));
}

#[test]
fn a_damaged_file_is_a_finding_and_the_others_move() {
    let host = Host::new();
    let new = host.key("new");
    let dir = host.volume();
    let mounted = host.mount(dir.path());
    mounted.write(ROOT, "good", b"content");
    let bad = ciphertext(dir.path(), mounted.write(ROOT, "bad", b"content"));
    drop(mounted);
    super::host::edit(&bad, |bytes| bytes[60] ^= 1);
    let report = rewrap(&host, dir.path(), None, Some(&new), &Silent);
    assert_eq!(report.rewrapped, 1);
    let names: Vec<_> = report.findings.iter().map(|f| (f.reason.code(), f.paths.plaintext.clone())).collect();
    assert_eq!(names, [("HeaderAuth".to_owned(), Some(b"bad".to_vec()))]);
}

/// Stops after some files.
struct StopAfter(u64, AtomicU64);

impl Progress for StopAfter {
    fn found(&self, _files: u64, _bytes: u64) {}

    fn done(&self, files: u64, _bytes: u64) {
        self.1.fetch_add(files, Ordering::SeqCst);
    }

    fn is_cancelled(&self) -> bool {
        self.1.load(Ordering::SeqCst) >= self.0
    }
}

#[test]
fn a_stopped_job_is_resumed_by_the_same_command() {
    let host = Host::new();
    let new = host.key("new");
    let dir = host.volume();
    let mounted = host.mount(dir.path());
    for i in 0..40 {
        mounted.write(ROOT, &format!("file {i}"), b"content");
    }
    drop(mounted);
    let first = rewrap(&host, dir.path(), None, Some(&new), &StopAfter(10, AtomicU64::new(0)));
    assert!(first.interrupted && first.rewrapped >= 10 && first.rewrapped < 40, "{first:?}");
    let second = rewrap(&host, dir.path(), None, Some(&new), &Silent);
    assert_eq!(first.rewrapped + second.rewrapped, 40);
    assert_eq!(second.unchanged, first.rewrapped);
    assert_eq!(host.findings(dir.path()), [""; 0]);
}
