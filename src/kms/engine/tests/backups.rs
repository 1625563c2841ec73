//! Backup and restoration, and what is said of a database that is damaged or gone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;
use crate::kms::backup::{BackupError, Restored, check, restore};
use crate::kms::store::StoreError;

/// A home with a key, a backup of it, and the key disabled since.
struct Kept {
    bench: Bench,
    key: String,
    file: PathBuf,
}

impl Kept {
    fn new() -> Self {
        let bench = Bench::new();
        let key = bench.key();
        let file = bench.dir.path().join("backup.db");
        let made = bench.engine.backup(&bench.alice, &file).expect("made");
        assert_eq!((made.epoch, made.keys, made.current), (1, 1, true));
        bench.engine.disable_key(&bench.alice, key.as_str().into()).expect("disabled");
        Self { bench, key, file }
    }

    fn home(&self) -> Home {
        Home::unlock_without_database(&self.bench.home(), &passphrase("secret")).expect("unlocked")
    }

    fn restore(&self, replace: bool) -> Result<Restored, BackupError> {
        restore(self.home(), &self.file, replace, self.bench.clock.clone(), Arc::new(SystemEntropy))
    }

    /// Closes the engine, as the end of its process does.
    fn close(&mut self) -> Engine {
        let spare = Bench::new();
        std::mem::replace(&mut self.bench.engine, spare.engine.clone())
    }
}

#[test]
fn a_backup_is_made_while_the_database_is_in_use() {
    let kept = Kept::new();
    let mode = fs::metadata(&kept.file).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for journal in ["-wal", "-shm", "-journal"] {
        assert!(!kept.bench.dir.path().join(format!("backup.db{journal}")).exists(), "one file is enough");
    }
    let again = kept.bench.engine.backup(&kept.bench.alice, &kept.file).expect_err("never overwritten");
    assert!(matches!(again, BackupError::Exists(_)), "{again}");
    let older = check(&kept.home(), &kept.file).expect("sound");
    assert!(!older.current);
    let newer = kept.bench.engine.inspect().expect("sound");
    assert!(newer.current && newer.revision > older.revision);
}

#[test]
fn a_database_that_is_there_is_replaced_only_on_demand_and_kept() {
    let mut kept = Kept::new();
    let present = kept.restore(false).expect_err("there is one");
    assert!(matches!(present, BackupError::Present(_)), "{present}");
    let in_use = kept.restore(true).expect_err("an engine has it open");
    assert!(matches!(in_use, BackupError::InUse(_)), "{in_use}");
    assert_eq!(kept.bench.encrypt(&kept.key, b"x").expect_err("as it was").code(), "DisabledException");

    drop(kept.close());
    let restored = kept.restore(true).expect("restored");
    assert!(!restored.inspection.current);
    let aside = restored.kept.expect("kept");
    assert!(aside.exists() && aside.starts_with(kept.bench.home()));
    kept.bench.engine = kept.bench.another().expect("opens without more");
    kept.bench.encrypt(&kept.key, b"x").expect("enabled, as it was then");
    let report = kept.bench.engine.audit().verify().expect("verified");
    assert_eq!(report.first_break, None, "the log goes on behind what the old database knew");

    // And back: what was set aside is a database like any other.
    drop(kept.close());
    kept.file = aside;
    kept.restore(true).expect("restored");
    kept.bench.engine = kept.bench.another().expect("opened");
    assert_eq!(kept.bench.encrypt(&kept.key, b"x").expect_err("disabled").code(), "DisabledException");
}

#[test]
fn a_database_that_is_gone_or_damaged_is_restored_and_never_made_anew() {
    for damage in [None, Some(&b"no database"[..]), Some(b"")] {
        let mut kept = Kept::new();
        drop(kept.close());
        let database = kept.bench.home().join("kms.db");
        for journal in ["-wal", "-shm"] {
            let _ = fs::remove_file(kept.bench.home().join(format!("kms.db{journal}")));
        }
        match damage {
            None => fs::remove_file(&database).expect("removed"),
            Some(bytes) => fs::write(&database, bytes).expect("damaged"),
        }
        let refused = kept.bench.another().map(drop).expect_err("refused");
        assert!(!refused.to_string().is_empty());
        match damage {
            None => assert!(!database.exists(), "nothing is made in its place"),
            Some(bytes) => assert!(fs::read(&database).expect("there") == bytes, "it is left as it is"),
        }
        let restored = kept.restore(damage.is_some()).expect("restored");
        assert_eq!(restored.kept.is_some(), damage.is_some());
        kept.bench.engine = kept.bench.another().expect("opened");
        kept.bench.encrypt(&kept.key, b"x").expect("encrypted");
    }
}

#[test]
fn journals_of_a_database_that_is_gone_are_not_taken_for_those_of_the_restored_one() {
    let mut kept = Kept::new();
    let journal = kept.bench.home().join("kms.db-wal");
    let left = fs::read(&journal).expect("there while the database is open");
    assert!(!left.is_empty());
    drop(kept.close());
    fs::remove_file(kept.bench.home().join("kms.db")).expect("lost");
    fs::write(&journal, &left).expect("left behind");
    kept.restore(false).expect("restored");
    kept.bench.engine = kept.bench.another().expect("opened");
    kept.bench.encrypt(&kept.key, b"x").expect("enabled, as it was then");
}

#[test]
fn a_backup_that_was_changed_is_refused_and_nothing_is_touched() {
    let mut kept = Kept::new();
    drop(kept.close());
    let sound = fs::read(&kept.file).expect("read");
    let forge = rusqlite::Connection::open(&kept.file).expect("opened");
    forge.execute("UPDATE keys SET record = replace(record, 'Enabled', 'Disabled')", []).expect("forged");
    drop(forge);
    let before = fs::read(kept.bench.home().join("kms.db")).expect("read");
    let refused = kept.restore(true).expect_err("forged");
    assert!(matches!(refused, BackupError::Store(StoreError::Damaged { .. })), "{refused}");
    assert!(refused.to_string().contains("backup.db"), "{refused}");
    fs::write(&kept.file, &sound[..sound.len() / 2]).expect("cut");
    kept.restore(true).expect_err("cut off");
    fs::write(&kept.file, b"something else").expect("written");
    kept.restore(true).expect_err("no database");
    assert_eq!(fs::read(kept.bench.home().join("kms.db")).expect("read"), before);
    let other = Kept::new();
    let stranger = restore(kept.home(), &other.file, true, kept.bench.clock.clone(), Arc::new(SystemEntropy));
    assert!(matches!(stranger, Err(BackupError::Store(_))), "the backup of another home");
}

/// Every row has a MAC of its own. A thief of backups who can also change one has rows of several times, all genuine.
#[test]
fn a_backup_whose_rows_do_not_belong_together_is_refused() {
    let mut kept = Kept::new();
    let alias = CreateAliasRequest { alias_name: "alias/a".into(), target_key_id: kept.key.clone() };
    kept.bench.engine.create_alias(&kept.bench.alice, alias).expect("created");
    let older = std::mem::replace(&mut kept.file, kept.bench.dir.path().join("newer.db"));
    kept.bench.engine.backup(&kept.bench.alice, &kept.file).expect("made");
    // So that the root file vouches for neither.
    let alias = DeleteAliasRequest { alias_name: "alias/a".into() };
    kept.bench.engine.delete_alias(&kept.bench.alice, alias).expect("deleted");
    drop(kept.close());
    let (sound, database) = (fs::read(&kept.file).expect("read"), kept.bench.home().join("kms.db"));
    let live = fs::read(&database).expect("read");
    let enabled = format!(
        "ATTACH '{}' AS older;
         UPDATE main.keys SET (revision, record, mac) = (SELECT revision, record, mac FROM older.keys WHERE id = main.keys.id)",
        older.display()
    );
    for change in [
        "UPDATE meta SET value = value + 1 WHERE name = 'revision'",
        "UPDATE meta SET value = value - 1 WHERE name = 'revision'",
        "UPDATE meta SET value = value - 1 WHERE name = 'records'",
        "UPDATE meta SET name = 'recorTs' WHERE name = 'records'",
        "DELETE FROM aliases",
        enabled.as_str(),
        "UPDATE whole SET digest = zeroblob(32)",
        "UPDATE whole SET digest = x''",
        "DELETE FROM whole",
        "DROP TABLE whole",
        "DROP TABLE whole; PRAGMA user_version = 7",
    ] {
        fs::write(&kept.file, &sound).expect("written");
        let forge = rusqlite::Connection::open(&kept.file).expect("opened");
        forge.execute_batch(change).expect(change);
        drop(forge);
        let damaged = |error: &StoreError| matches!(error, StoreError::Damaged { .. });
        let found = check(&kept.home(), &kept.file).expect_err(change);
        assert!(matches!(&found, BackupError::Store(error) if damaged(error)), "{change}: {found}");
        let refused = kept.restore(true).expect_err(change);
        assert!(matches!(&refused, BackupError::Store(error) if damaged(error)), "{change}: {refused}");
        assert!(fs::read(&database).expect("read") == live, "{change}: nothing is touched");
        // Nor when somebody put it there, and it is to be accepted as it stands.
        fs::copy(&kept.file, &database).expect("copied");
        let accepted = Engine::start_accepting(kept.home(), kept.bench.clock.clone(), Arc::new(SystemEntropy));
        let refused = accepted.map(drop).expect_err(change);
        assert!(matches!(&refused, OpenError::Store(error) if damaged(error)), "{change}: {refused}");
        fs::write(&database, &live).expect("written");
    }
    fs::write(&kept.file, &sound).expect("written");
    assert!(!kept.restore(true).expect("as it was made").inspection.current);
    kept.file = older;
    let restored = kept.restore(true).expect("the older one, as it was made");
    assert!(!restored.inspection.current);
}

#[test]
fn a_row_that_a_restoration_undid_does_not_pass_for_a_later_one() {
    let mut kept = Kept::new();
    drop(kept.close());
    let undone = kept.restore(true).expect("restored").kept.expect("the database with the disabled key");
    kept.bench.engine = kept.bench.another().expect("opened");
    let request = UpdateKeyDescriptionRequest { key_id: kept.key.clone(), description: "another change".into() };
    kept.bench.engine.update_key_description(&kept.bench.alice, request).expect("changed");
    let database = rusqlite::Connection::open(kept.bench.home().join("kms.db")).expect("opened");
    let put_back = format!(
        "ATTACH '{}' AS undone;
         UPDATE main.keys SET (revision, record, mac) = (SELECT revision, record, mac FROM undone.keys WHERE id = main.keys.id)",
        undone.display()
    );
    database.execute_batch(&put_back).expect("put back");
    let error =
        kept.bench.another().map(drop).expect_err("its MAC is right, and it was the next change to its key too");
    assert!(matches!(error, OpenError::Store(StoreError::NotCurrent { .. })), "{error}");
}

#[test]
fn a_backup_ends_with_the_deletion_of_a_key() {
    let mut kept = Kept::new();
    kept.bench.schedule(&kept.key, 7).expect("scheduled");
    kept.bench.days(8);
    kept.bench.engine.maintain().expect("observed");
    kept.bench.hours(2);
    kept.bench.engine.maintain().expect("deleted");
    drop(kept.close());
    let refused = kept.restore(true).expect_err("its domain key is gone");
    assert!(matches!(refused, BackupError::Store(StoreError::EpochGone { epoch: 1, .. })), "{refused}");
    assert!(refused.to_string().contains("destroyed when a key was deleted"), "{refused}");
    kept.bench.engine = kept.bench.another().expect("the present one is untouched");
}
