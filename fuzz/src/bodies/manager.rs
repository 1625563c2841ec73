//! The key manager's files: its database and root file, its audit log.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kmsfs::env::{ManualClock, SystemEntropy};
use kmsfs::kms::audit::{AuditFilter, AuditPosition};
use kmsfs::kms::custody::{Home, NewHome, NewSlot, Unlock};
use kmsfs::kms::model::CreateKeyRequest;
use kmsfs::kms::{Engine, KmsError};
use kmsfs::types::Timestamp;

use super::edits::edit;

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_secs(1_700_000_000)))
}

/// A key manager with a key, an alias and a few records.
fn engine(dir: &Path) -> Engine {
    let clock = clock();
    let new = NewHome::with_slots(vec![NewSlot::KeyFile]);
    let (home, _) = Home::create(dir, new, &*clock, &SystemEntropy).expect("a home");
    let engine = Engine::start(home, clock, Arc::new(SystemEntropy)).expect("an engine");
    let caller = engine.local_caller("fuzz");
    let request = CreateKeyRequest { description: "a key".into(), ..CreateKeyRequest::default() };
    engine.create_key(&caller, request).expect("CreateKey");
    for name in ["alias/a", "alias/aws/kmsfs"] {
        let body = format!(r#"{{"KeyId":"{name}"}}"#);
        // The one is not there: a refusal is recorded too.
        drop(engine.execute(&caller, "DescribeKey", body.as_bytes()));
    }
    engine.audit().flush().expect("written");
    engine
}

/// The regular files of a directory and of those below it.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).expect("a file"));
        }
    }
    found
}

thread_local! {
    /// The files of a home that nobody has open, relative to it, and the answer about its keys.
    static HOME: (BTreeMap<PathBuf, Vec<u8>>, Vec<u8>) = {
        let dir = super::temporary();
        let engine = engine(dir.path());
        let keys = keys(&engine).expect("ListKeys");
        drop(engine);
        let within = |(path, bytes): (PathBuf, Vec<u8>)| {
            (path.strip_prefix(dir.path()).expect("within it").to_owned(), bytes)
        };
        (files(dir.path()).into_iter().map(within).collect(), keys)
    };
}

fn keys(engine: &Engine) -> Result<Vec<u8>, KmsError> {
    let caller = engine.local_caller("fuzz");
    Ok(engine.execute(&caller, "ListKeys", b"{}")?.as_bytes().to_vec())
}

/// A home whose files were changed: it is refused, or has the keys that it had, or serves nothing and its audit says why. Its database as a backup likewise,
/// and where it is to be accepted as it stands: of its state there is no other digest than that which the root file has, so that what passes is current.
/// Answers whether the root file was believed, so that the database was looked at.
pub fn home(data: &[u8]) -> bool {
    HOME.with(|(sound, known)| {
        let dir = super::temporary();
        let mut contents: Vec<Vec<u8>> = sound.values().cloned().collect();
        data.as_chunks().0.iter().take(8).for_each(|choice| edit(choice, &mut contents));
        let changed = sound.values().ne(&contents);
        for (path, bytes) in sound.keys().zip(&contents) {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("within the home")).expect("a directory");
            std::fs::write(&path, bytes).expect("written");
            // A key file that others can read is refused.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its owner's");
        }
        let unlock = || Home::unlock(dir.path(), &Unlock::KeyFile);
        let Ok(home) = unlock() else {
            assert!(changed, "the sound home is refused");
            return false;
        };
        let backup = kmsfs::kms::backup::check(&home, &dir.path().join("kms.db"));
        assert!(backup.is_err() || backup.is_ok_and(|found| found.current));
        let Ok(engine) = Engine::start(home, clock(), Arc::new(SystemEntropy)) else {
            assert!(changed, "the sound home is refused");
            let accepting = unlock().map(|home| Engine::start_accepting(home, clock(), Arc::new(SystemEntropy)));
            assert!(!matches!(accepting, Ok(Ok(_))), "accepted, though no change led to these rows");
            return true;
        };
        match keys(&engine) {
            Ok(keys) => assert_eq!(keys, *known),
            // Nothing is served without an audit log that goes on from its head.
            Err(error) => {
                assert!(changed && matches!(error, KmsError::Internal(_)), "{error}");
                assert!(engine.audit().verify().is_ok_and(|report| report.first_break.is_some()), "{error}");
            }
        }
        true
    })
}

/// A key manager whose audit log is at hand.
struct Audited {
    engine: Engine,
    path: PathBuf,
    log: Vec<u8>,
    records: u64,
    /// Last, so that the engine has closed before its home goes.
    _home: tempfile::TempDir,
}

thread_local! {
    static AUDITED: Audited = {
        let home = super::temporary();
        let engine = engine(home.path());
        let report = engine.audit().verify().expect("verified");
        assert_eq!(report.first_break, None);
        let is_log = |path: &PathBuf| path.parent().is_some_and(|parent| parent.ends_with("audit"));
        let (path, log) = files(home.path()).into_iter().find(|(path, _)| is_log(path)).expect("a log");
        Audited { engine, path, log, records: report.records, _home: home }
    };
}

/// An audit log that was changed, or anything in its place: the change is found, and reading goes on.
pub fn audit(data: &[u8]) -> bool {
    let Some((first, rest)) = data.split_first() else { return false };
    AUDITED.with(|audited| {
        let mut contents = [audited.log.clone()];
        match first % 2 {
            0 => rest.as_chunks().0.iter().take(8).for_each(|choice| edit(choice, &mut contents)),
            _ => contents[0] = rest.to_vec(),
        }
        std::fs::write(&audited.path, &contents[0]).expect("written");
        let report = audited.engine.audit().verify().expect("the log can be read");
        // The last line is whole without its end.
        let same = [contents[0].strip_suffix(b"\n"), Some(&contents[0])].contains(&audited.log.strip_suffix(b"\n"));
        assert_eq!(report.first_break.is_none(), same, "a change, and nothing else, is a break");
        assert!(report.records <= audited.records);
        let filter = AuditFilter {
            key: Some("alias".into()),
            event: Some("DescribeKey".into()),
            since: Some(Timestamp::from_secs(1)),
            ..AuditFilter::default()
        };
        let mut found = 0;
        for filter in [filter, AuditFilter::default()] {
            let visit = |_| {
                found += 1;
                ControlFlow::Continue(())
            };
            audited.engine.audit().visit(&filter, &mut AuditPosition::default(), visit).expect("read");
        }
        found > 0
    })
}
