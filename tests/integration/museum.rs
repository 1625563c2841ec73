//! Volumes that released versions wrote (`tests/museum`): each must stay readable and writable, for good.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use kmsfs::content::Volume;
use kmsfs::env::ManualClock;
use kmsfs::keys::RewrapJob;
use kmsfs::kms::bundle::Bundle;
use kmsfs::kms::custody::{Home, Passphrase, RecoveryKey, Unlock};
use kmsfs::kms::model::KeyIdRequest;
use kmsfs::ops::freshness::open_record;
use kmsfs::ops::info::file_info;
use kmsfs::ops::open::{FoundVolume, OpenOptions};
use kmsfs::ops::rewrap::{RewrapOptions, rewrap_files, rewrap_files_by};
use kmsfs::ops::{Silent, Visit};
use kmsfs::store::{FileKind, LocalDir, Modes, XattrMode};
use kmsfs::types::Timestamp;
use kmsfs::vfs::{Attr, ROOT};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::ops::host::{Host, Mounted, ciphertext, codes};

/// When exhibits are visited: long after the yearly rotation of their AWS managed keys was due.
const LATER: i64 = 400 * 24 * 3600;
const PAGE: u64 = 4096;

/// A copy of an exhibit.
struct Exhibit {
    manifest: Value,
    dir: TempDir,
}

fn museum() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/museum")
}

/// Copies of all exhibits.
fn exhibits() -> Vec<Exhibit> {
    let entries = fs::read_dir(museum()).expect("the museum").map(|entry| entry.expect("an entry").path());
    let exhibits: Vec<_> =
        entries.filter(|path| path.join("manifest.json").exists()).map(|path| unpack(&path)).collect();
    assert!(!exhibits.is_empty(), "the museum is empty");
    exhibits
}

fn unpack(exhibit: &Path) -> Exhibit {
    let manifest = fs::read_to_string(exhibit.join("manifest.json")).expect("a manifest");
    let dir = TempDir::new().expect("temporary directory");
    for entry in fs::read_dir(exhibit).expect("an exhibit") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "gz") {
            let mut tar = Command::new("tar");
            tar.args(["--xattrs", "--xattrs-include=user.*", "--acls", "-S", "-xzpf"]);
            let status = tar.arg(&path).arg("-C").arg(dir.path()).status().expect("tar is installed");
            assert!(status.success(), "{}: {status}", path.display());
        }
    }
    Exhibit { manifest: serde_json::from_str(&manifest).expect("JSON"), dir }
}

impl Exhibit {
    fn version(&self) -> &str {
        self.manifest["version"].as_str().expect("a version")
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn clock(&self) -> Arc<ManualClock> {
        let made = self.manifest["made"].as_i64().expect("a time");
        Arc::new(ManualClock::new(Timestamp::from_secs(made + LATER)))
    }

    /// Its key manager, opened by the key file, and its volumes with what must be in them.
    fn open(self) -> (Opened, Vec<(PathBuf, Value)>) {
        let home = Home::unlock(&self.home(), &Unlock::KeyFile).expect("the key file opens the home");
        let (clock, records) = (self.clock(), self.home());
        let volumes = self.manifest["volumes"].as_object().expect("volumes");
        let volumes = volumes.iter().map(|(name, v)| (self.dir.path().join(name), v["tree"].clone())).collect();
        (Opened { host: Host::start(home, clock, self.dir), home: records }, volumes)
    }
}

/// The key manager of an exhibit.
struct Opened {
    host: Host,
    home: PathBuf,
}

impl Opened {
    /// What files of a volume are opened with, its freshness record among it.
    fn files(&self, root: &Path) -> Arc<Volume> {
        let opened = self.host.open(root, OpenOptions::default()).expect("open");
        let record = open_record(&self.home, &opened).expect("its record");
        assert_eq!(record.is_some(), opened.config.freshness());
        self.host.files_recorded(opened, record)
    }

    fn mount(&self, root: &Path, read_only: bool) -> Mounted {
        self.host.mount_files(root, self.files(root), read_only)
    }

    fn findings(&self, root: &Path) -> Vec<String> {
        codes(&self.host.verify_files(root, &self.files(root)).findings)
    }
}

/// Bytes as the manifest writes them: one character each.
fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| char::from(b)).collect()
}

fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(c).expect("a byte")).collect()
}

/// Everything in a volume, in the form of the manifest; paths as [`text`].
fn tree(mounted: &Mounted, root: &Path) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![(ROOT, String::new())];
    while let Some((dir, above)) = dirs.pop() {
        let handle = mounted.0.open_dir(dir).expect("opendir");
        let mut entries = Vec::new();
        let emit = |entry: &kmsfs::vfs::DirEntry| {
            entries.push(entry.name.clone());
            true
        };
        mounted.0.read_dir(handle, 0, false, emit).expect("readdir");
        mounted.0.release_dir(handle);
        for name in entries.into_iter().filter(|name| name != b"." && name != b"..") {
            let attr = mounted.0.lookup(dir, &name).expect("lookup");
            let path = format!("{above}{}", text(&name));
            if attr.kind == FileKind::Directory {
                dirs.push((attr.ino, format!("{path}/")));
            }
            found.insert(path, describe(mounted, &attr, root));
        }
    }
    found
}

fn describe(mounted: &Mounted, attr: &Attr, root: &Path) -> Value {
    let mtime = attr.mtime.secs * 1_000_000_000 + i64::from(attr.mtime.nanos);
    let mut it = json!({"mode": attr.mode, "mtime": mtime});
    match attr.kind {
        FileKind::Symlink => {
            it["kind"] = json!("symlink");
            it["target"] = json!(text(&mounted.0.read_link(attr.ino).expect("readlink")));
        }
        FileKind::Fifo => it["kind"] = json!("fifo"),
        FileKind::Directory => {
            it["kind"] = json!("directory");
            it["xattrs"] = xattrs(mounted, attr.ino);
        }
        FileKind::Regular => {
            it["kind"] = json!("file");
            it["xattrs"] = xattrs(mounted, attr.ino);
            it["size"] = json!(attr.size);
            it["nlink"] = json!(attr.nlink);
            it["sha256"] = json!(digest(mounted, attr));
            if attr.size > 0 {
                let material = |blob: &[u8]| kmsfs::kms::blob::material_id(blob);
                let info = file_info(&ciphertext(root, attr.ino), &material).expect("info");
                let slot = |slot: &kmsfs::ops::info::SlotFacts| {
                    let materials = slot.recipients.iter().map(|r| json!(r.material_id));
                    std::iter::once(json!(slot.generation)).chain(materials).collect::<Value>()
                };
                it["slots"] = info.header.expect("a header").slots.iter().map(slot).collect();
            }
        }
        other => panic!("{other:?} is not in the museum"),
    }
    it
}

fn xattrs(mounted: &Mounted, ino: u64) -> Value {
    let names = mounted.0.list_xattrs(ino, true).expect("listxattr").into_iter();
    let names = names.filter(|name| !name.starts_with(b"security."));
    let value = |name: &[u8]| HEXLOWER.encode(&mounted.0.get_xattr(ino, name).expect("getxattr"));
    names.map(|name| (text(&name), json!(value(&name)))).collect()
}

/// Over the pages that hold more than zeros, with their places.
fn digest(mounted: &Mounted, attr: &Attr) -> String {
    let handle = mounted.0.open(attr.ino, false).expect("open").handle;
    let mut digest = Sha256::new();
    let mut at = 0;
    while let Ok(data) = mounted.0.seek_data(handle, at) {
        at = data / PAGE * PAGE;
        let page = mounted.0.read(handle, at, PAGE as usize, <[u8]>::to_vec).expect("read");
        if page.iter().any(|&b| b != 0) {
            digest.update(at.to_le_bytes());
            digest.update(&page);
        }
        at += PAGE;
    }
    mounted.0.release(handle);
    HEXLOWER.encode(&digest.finalize())
}

fn compare(version: &str, found: &BTreeMap<String, Value>, expected: &Value) {
    let expected = expected.as_object().expect("a tree");
    for (path, object) in expected {
        assert_eq!(found.get(path), Some(object), "{version}: {path:?}");
    }
    assert_eq!(found.len(), expected.len(), "{version}: entries that nobody made");
}

/// Names, sizes, times and contents of all files below a directory of the host.
fn stored(dir: &Path) -> BTreeMap<PathBuf, (i64, i64, u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("read").map(|entry| entry.expect("an entry")) {
            let meta = entry.metadata().expect("stat");
            let content = match meta.size() {
                _ if meta.is_dir() => {
                    dirs.push(entry.path());
                    Vec::new()
                }
                // Only its holes make a file of the museum that large.
                0..1_000_000 if meta.is_file() => fs::read(entry.path()).expect("read"),
                _ => Vec::new(),
            };
            found.insert(entry.path(), (meta.mtime(), meta.mtime_nsec(), meta.blocks(), content));
        }
    }
    found
}

/// A released version without an exhibit would be forgotten by this test.
#[test]
fn every_released_version_has_its_exhibit() {
    let log = fs::read_to_string(museum().join("../../CHANGELOG.md")).expect("a changelog");
    let versions = log.lines().filter_map(|line| line.strip_prefix("## [")?.split_once("] - "));
    let versions: Vec<_> = versions.collect();
    assert!(!versions.is_empty(), "no version was found");
    for (version, date) in versions {
        let made = museum().join(version).join("manifest.json").exists();
        assert!(made || date == "unreleased", "{version}: tests/museum/make.py makes its exhibit");
    }
}

#[test]
fn every_exhibit_is_read_and_left_as_it_is() {
    for exhibit in exhibits() {
        let version = exhibit.version().to_owned();
        let (opened, volumes) = exhibit.open();
        let audit = opened.host.engine.audit().verify().expect("read");
        assert!(audit.first_break.is_none() && audit.records > 0, "{version}: the audit log");
        for (root, expected) in volumes {
            let before = stored(&root);
            let mounted = opened.mount(&root, true);
            compare(&version, &tree(&mounted, &root), &expected);
            drop(mounted);
            assert_eq!(opened.findings(&root), Vec::<String>::new(), "{version}: {}", root.display());
            assert!(stored(&root) == before, "{version}: a read-only mount changed {}", root.display());
        }
    }
}

#[test]
fn every_exhibit_can_be_worked_in() {
    for exhibit in exhibits() {
        let version = exhibit.version().to_owned();
        let (opened, volumes) = exhibit.open();
        for (root, expected) in volumes {
            let mut expected = expected.as_object().expect("a tree").clone();
            let mounted = opened.mount(&root, false);
            // One byte behind the end of every file, each inode once; a new file and a new attribute in every directory.
            let mut seen = Vec::new();
            for (path, object) in &expected {
                let ino = walk(&mounted, path);
                match object["kind"].as_str() {
                    Some("file") if !seen.contains(&ino) => {
                        seen.push(ino);
                        let handle = mounted.0.open(ino, true).expect("open").handle;
                        mounted.0.write(handle, object["size"].as_u64().expect("a size"), b"+").expect("append");
                        mounted.0.fsync(handle, false).expect("fsync");
                        mounted.0.release(handle);
                    }
                    Some("directory") => {
                        mounted.write(ino, "new in the museum", b"new");
                        mounted.0.set_xattr(ino, b"user.new", b"new", XattrMode::Create).expect("setxattr");
                    }
                    _ => {}
                }
            }
            mounted.0.settle().expect("settled");
            drop(mounted);

            // Another process finds all of it, and so does one after a rewrap of every header.
            rewrap(&opened, &root);
            let mounted = opened.mount(&root, false);
            let found = tree(&mounted, &root);
            expected.retain(|_, object| object["kind"] == "file");
            for (path, object) in &expected {
                let size = object["size"].as_u64().expect("a size");
                assert_eq!(found[path]["size"], json!(size + 1), "{version}: {path:?}");
                let handle = mounted.0.open(walk(&mounted, path), true).expect("open").handle;
                assert_eq!(mounted.0.read(handle, size, 2, <[u8]>::to_vec).expect("read"), b"+", "{version}: {path:?}");
                mounted.0.release(handle);
            }
            // Without what was added, everything is as it was.
            for path in expected.keys() {
                let handle = mounted.0.open(walk(&mounted, path), true).expect("open").handle;
                let ino = walk(&mounted, path);
                let size = expected[path]["size"].as_u64();
                let cut = kmsfs::vfs::SetAttr { size, ..Default::default() };
                mounted.0.setattr(ino, Some(handle), &cut).expect("truncate");
                mounted.0.release(handle);
            }
            let found = tree(&mounted, &root);
            for (path, object) in &expected {
                assert_eq!(found[path]["sha256"], object["sha256"], "{version}: {path:?}");
            }
            mounted.0.settle().expect("settled");
            drop(mounted);
            assert_eq!(opened.findings(&root), Vec::<String>::new(), "{version}: {}", root.display());
        }
    }
}

fn walk(mounted: &Mounted, path: &str) -> u64 {
    path.split('/').fold(ROOT, |dir, name| mounted.0.lookup(dir, &bytes(name)).expect("lookup").ino)
}

/// Every key gets new material, and every header moves to it.
fn rewrap(opened: &Opened, root: &Path) {
    let (host, files) = (&opened.host, opened.files(root));
    let service = host.service(&FoundVolume::find(root).expect("a volume").volume_id());
    for alias in ["alias/first", "alias/second"] {
        let request = KeyIdRequest::from(service.resolve(alias).expect("the alias").as_str());
        host.engine.rotate_key_on_demand(&host.caller, request).expect("RotateKeyOnDemand");
    }
    let options = RewrapOptions { from: None, to: None, threads: 2 };
    let report = if files.freshness().is_some() {
        // Only a mount keeps the record in step.
        let mounted = host.mount_files(root, files, false);
        let job = RewrapJob::new(None, None);
        let one = |file: &Visit<'_, LocalDir>| mounted.0.rewrap(file.dir, file.entry, &job);
        let opened = host.open(root, OpenOptions::default()).expect("open");
        let report = rewrap_files_by(mounted.0.modes(), &opened, 2, &Silent, &one).expect("rewrap");
        mounted.0.settle().expect("settled");
        report
    } else {
        let backing = Arc::new(LocalDir::open(root).expect("open"));
        rewrap_files(&Modes::new(backing, false), &files, &options, &Silent).expect("rewrap")
    };
    assert_eq!(report.findings, []);
    assert!(report.rewrapped > 0);
}

/// What others put back or change behind an old record is noticed as behind a new one.
#[test]
fn the_records_of_every_exhibit_still_watch() {
    let mut watched = 0;
    for exhibit in exhibits() {
        let version = exhibit.version().to_owned();
        let (opened, volumes) = exhibit.open();
        for (root, _) in volumes.iter().filter(|(root, _)| opened.files(root).freshness().is_some()) {
            watched += 1;
            let mounted = opened.mount(root, true);
            let [one, two] = ["one byte", "renamed"].map(|name| ciphertext(root, walk(&mounted, name)));
            let empty = ciphertext(root, walk(&mounted, "empty"));
            drop(mounted);
            let aside = root.join("~Taside");
            for (from, to) in [(&one, &aside), (&two, &one), (&aside, &two)] {
                fs::rename(from, to).expect("renamed");
            }
            fs::remove_file(&empty).expect("removed");
            // `dir/linked` has the first byte's file, and is as it was.
            assert_eq!(
                opened.findings(root),
                ["Misplaced one byte", "Misplaced renamed", "Vanished empty"],
                "{version}"
            );
        }
    }
    assert!(watched > 0, "no exhibit has a record");
}

#[test]
fn every_bundle_recovers_its_volume_without_the_home() {
    let mut recovered = 0;
    for exhibit in exhibits() {
        let bundles = exhibit.manifest["bundles"].as_array().cloned().unwrap_or_default();
        for bundle in bundles {
            recovered += 1;
            let version = exhibit.version().to_owned();
            let text = |name: &str| bundle[name].as_str().expect("text").to_owned();
            let key = RecoveryKey::parse(&text("recovery_key")).expect("as it was printed");
            let file = exhibit.dir.path().join(text("file"));
            let dir = TempDir::new().expect("temporary directory");
            let (home, inspection) = Bundle::read(&file).expect("read").install(dir.path(), key).expect("installed");
            assert!(inspection.keys > 0, "{version}");
            let (host, root) = (Host::start(home, exhibit.clock(), dir), exhibit.dir.path().join(text("volume")));
            let mounted = host.mount(&root);
            compare(&version, &tree(&mounted, &root), &exhibit.manifest["volumes"][text("volume")]["tree"]);
            mounted.write(ROOT, "written by who recovered it", b"new");
            drop(mounted);
            assert_eq!(host.findings(&root), Vec::<String>::new(), "{version}");
        }
    }
    assert!(recovered > 0, "no exhibit has a bundle");
}

#[test]
fn the_passphrase_of_every_exhibit_opens_it() {
    for exhibit in exhibits() {
        let passphrase = exhibit.manifest["passphrase"].as_str().expect("a passphrase").to_owned();
        let passphrase = Unlock::Passphrase(Passphrase::new(passphrase.into_bytes()));
        Home::unlock(&exhibit.home(), &passphrase).unwrap_or_else(|e| panic!("{}: {e}", exhibit.version()));
    }
}
