//! A record of which a part is damaged.

use std::collections::HashSet;

use super::*;

/// Runs SQL on the record behind its back; every row that it changes has a MAC of what it was.
fn harm(path: &Path, sql: &str) {
    let db = rusqlite::Connection::open(path).expect("it opens");
    db.execute_batch(sql).expect("changed");
}

fn damage(path: &Path) -> u64 {
    open(path).damage().expect("read")
}

/// Two files of three units each in the root.
fn two_files(fresh: &Arc<Freshness>) -> [(u64, Vec<u8>); 2] {
    let root = fresh.directory(ROOT).expect("its record");
    root.before_change().expect("marked");
    let files = ["one", "two"].map(|name| {
        let file = fresh.new_file();
        file.before_change().expect("marked");
        let life = name.as_bytes()[0];
        file.began(FileId::from_bytes([life; 16]));
        let units = sealed(&file, 3);
        file.wrote(0, &units).expect("noted");
        file.closed(&found_as(life, 9000));
        root.set(name, Some(Target::File(file.object())));
        (file.object(), units)
    });
    fresh.settle(|| Ok(())).expect("settled");
    files
}

#[test]
fn a_damaged_row_of_a_name_costs_the_name() {
    for change in ["target = x'0000000000000009'", "kind = 77", "mac = zeroblob(16)", "mac = x''"] {
        let (_dir, path) = begin();
        let [one, two] = two_files(&open(&path));
        harm(&path, &format!("UPDATE entries SET {change} WHERE name = 'two'"));
        assert_eq!(damage(&path), 1, "{change}");
        let fresh = open(&path);
        let root = fresh.directory(ROOT).expect("the rest is known");
        assert_eq!((root.expected("one"), root.expected("two")), (Some(Target::File(one.0)), Some(Target::Lost)));
        assert_eq!((root.misfit("one"), root.misfit("two")), (Outcome::Misplaced, Outcome::Unvouched));
        assert_eq!(root.misfit("nobody"), Outcome::Unvouched, "its row may be the damaged one");
        let one_found = HashSet::from(["one".to_owned()]);
        assert_eq!(root.missing(&one_found), [("two".to_owned(), Outcome::Unvouched)]);
        assert_eq!(root.missing(&HashSet::new()).len(), 2);
        // It has another name by now, which is as doubtful.
        root.before_change().expect("marked");
        root.set("two", None);
        root.set("moved", Some(Target::Lost));
        fresh.settle(|| Ok(())).expect("settled");
        drop((fresh, root));
        let fresh = open(&path);
        let root = fresh.directory(ROOT).expect("its record");
        assert_eq!((root.expected("two"), root.expected("moved")), (None, Some(Target::Lost)));
        assert_eq!((root.misfit("moved"), root.misfit("two")), (Outcome::Unvouched, Outcome::Misplaced));
        root.accept("moved", Some(Target::File(two.0))).expect("accepted");
        fresh.settle(|| Ok(())).expect("settled");
        drop((fresh, root));
        assert_eq!(damage(&path), 0);
        assert_eq!(open(&path).directory(ROOT).expect("its record").expected("moved"), Some(Target::File(two.0)));
    }
}

#[test]
fn a_damaged_row_of_units_costs_these_units() {
    let (_dir, path) = begin();
    let [one, two] = two_files(&open(&path));
    harm(&path, &format!("UPDATE units SET versions = zeroblob(24) WHERE object = {}", one.0));
    assert_eq!(damage(&path), 1);
    let fresh = open(&path);
    let [first, second] = [one.0, two.0].map(|object| fresh.file(object).expect("read").expect("there"));
    assert_eq!(first.check(&found_as(b'o', 9000)), Ok(()));
    let heads =
        |units: &[u8], from: usize| -> Vec<Vec<u8>> { units[from..].chunks_exact(UNIT).map(<[u8]>::to_vec).collect() };
    let ask = |file: &TrackedFile, units: &[u8], from: u64| {
        let heads = heads(units, from as usize * UNIT);
        file.stale_unit(from, heads.iter().map(|head| &head[..])).expect("the record can be read")
    };
    assert_eq!(ask(&first, &one.1, 0), Some((0, Outcome::Unvouched)));
    assert_eq!(ask(&first, &one.1, 2), Some((2, Outcome::Unvouched)));
    assert_eq!(ask(&first, &[0; UNIT], 0), Some((0, Outcome::Unvouched)), "nobody knows of a hole either");
    assert_eq!(ask(&second, &two.1, 0), None);
    // What is written is known, and remembered.
    first.before_change().expect("marked");
    let newer = sealed(&first, 1);
    first.wrote(1, &newer).expect("noted");
    first.closed(&found_as(b'o', 9000));
    fresh.settle(|| Ok(())).expect("settled");
    drop((fresh, first, second));
    assert_eq!(damage(&path), 0);
    let fresh = open(&path);
    let first = fresh.file(one.0).expect("read").expect("there");
    let now = [&one.1[..UNIT], &newer, &one.1[2 * UNIT..]].concat();
    assert_eq!(ask(&first, &now[UNIT..2 * UNIT], 0), Some((0, Outcome::Unvouched)));
    assert_eq!(first.stale_unit(1, std::iter::once(&now[UNIT..UNIT + 16])).expect("read"), None);
    assert_eq!(ask(&first, &now, 2), Some((2, Outcome::Unvouched)));
}

fn found_as(life: u8, size: u64) -> Found<'static> {
    Found { file_id: Some(FileId::from_bytes([life; 16])), size, header: b"header", seq: 1 }
}

#[test]
fn a_damaged_row_of_a_file_costs_the_file() {
    let (_dir, path) = begin();
    let [one, two] = two_files(&open(&path));
    harm(&path, &format!("UPDATE files SET row = zeroblob(3) WHERE object = {}", one.0));
    assert_eq!(damage(&path), 1);
    let fresh = open(&path);
    assert!(fresh.file(one.0).is_err_and(|error| error.is_damage()));
    let second = fresh.file(two.0).expect("read").expect("there");
    assert_eq!(stale(&second, &two.1), None);
    assert!(fresh.file_to_replace(one.0).expect("read").is_none(), "it is accepted as a new one");
    // Other files come and go as before.
    let root = fresh.directory(ROOT).expect("its record");
    root.before_change().expect("marked");
    root.set("two", None);
    fresh.settle(|| Ok(())).expect("settled");
}

#[test]
fn a_damaged_row_of_an_epoch_costs_what_was_sealed_under_it_and_no_number_is_given_twice() {
    let (_dir, path) = begin();
    let fresh = open(&path);
    let (object, units) = file_of_three(&fresh);
    fresh.settle(|| Ok(())).expect("settled");
    drop(fresh);
    for change in ["epoch = zeroblob(12)", "number = 1000000000000", "number = 4294967295"] {
        harm(&path, &format!("UPDATE epochs SET {change}"));
        assert_eq!(damage(&path), 1, "{change}");
        let fresh = open(&path);
        let file = fresh.file(object).expect("read").expect("there");
        assert_eq!(file.check(&found(9000, b"header")), Ok(()));
        let told = file.stale_unit(0, units.chunks_exact(UNIT)).expect("the record can be read");
        assert_eq!(told, Some((0, Outcome::Unvouched)), "{change}");
        // A later version is later, though the number of the one before is lost.
        file.before_change().expect("marked");
        let newer = sealed(&file, 3);
        file.wrote(0, &newer).expect("noted");
        assert_eq!(stale(&file, &newer), None);
        drop((fresh, file));
        let numbers = open(&path);
        let epochs = crate::sync::lock(&numbers.table).epochs().expect("read");
        assert!(epochs.0.values().all(|number| (2..1000).contains(number)), "{change}: {epochs:?}");
        drop(numbers);
        harm(&path, "DELETE FROM epochs WHERE number BETWEEN 2 AND 1000");
    }
}

#[test]
fn a_damaged_mark_costs_its_directory() {
    let (_dir, path) = begin();
    let fresh = open(&path);
    two_files(&fresh);
    let below = fresh.directory(DirId::from_bytes([3; 16])).expect("its record");
    below.before_change().expect("marked");
    below.set("sub", Some(Target::Other(1)));
    fresh.settle(|| Ok(())).expect("settled");
    // Killed while the root was being changed.
    fresh.directory(ROOT).expect("its record").before_change().expect("marked");
    drop((fresh, below));
    harm(&path, "UPDATE marks SET clock = clock + 1");
    assert_eq!(damage(&path), 1);
    let fresh = open(&path);
    let root = fresh.directory(ROOT).expect("its record");
    assert!(!root.is_lenient(), "nobody believes that it may have changed");
    assert_eq!((root.misfit("one"), root.misfit("new")), (Outcome::Unvouched, Outcome::Unvouched));
    let below = fresh.directory(DirId::from_bytes([3; 16])).expect("its record");
    assert_eq!(below.expected("sub"), Some(Target::Other(1)));
}

#[test]
fn what_was_sealed_before_a_damaged_settling_is_not_new() {
    let (_dir, path) = begin();
    let fresh = open(&path);
    let (_, units) = file_of_three(&fresh);
    fresh.settle(|| Ok(())).expect("settled");
    drop(fresh);
    harm(&path, "UPDATE settled SET clock = 0");
    assert_eq!(damage(&path), 1);
    let fresh = open(&path);
    let root = fresh.directory(ROOT).expect("its record");
    root.before_change().expect("marked");
    root.set("entry", None);
    drop((fresh, root));
    let fresh = open(&path);
    let root = fresh.directory(ROOT).expect("its record");
    let as_new = FoundEntry::File { id: Some(FileId::from_bytes([7; 16])), ino: 3, shared: false };
    root.reconcile(&[("planted".to_owned(), as_new)].into_iter().collect()).expect("reconciled");
    let Some(Target::File(object)) = root.expected("planted") else { panic!("{:?}", root.expected("planted")) };
    let file = fresh.file(object).expect("read").expect("there");
    assert_eq!(stale(&file, &units), Some(0));
}

#[test]
fn a_damaged_record_is_moved_aside_with_its_journal_and_never_over_another() {
    let (_dir, path) = begin();
    let in_use = open(&path);
    two_files(&in_use);
    assert!(matches!(set_aside(&path), Err(Error::Aside { .. })), "somebody uses it");
    drop(in_use);
    let kept = |name: &str| path.with_file_name(format!("record.db{name}"));
    std::fs::write(kept("-wal"), b"a journal").expect("written");
    let before = std::fs::read(&path).expect("read");
    assert_eq!(set_aside(&path).expect("moved"), kept(".damaged"));
    assert!(!path.exists() && !kept("-wal").exists(), "a new one is begun without it");
    assert_eq!(std::fs::read(kept(".damaged")).expect("read"), before);
    assert_eq!(std::fs::read(kept(".damaged-wal")).expect("read"), b"a journal");
    std::fs::write(&path, b"the next").expect("written");
    assert_eq!(set_aside(&path).expect("moved"), kept(".damaged.2"));
    assert_eq!(std::fs::read(kept(".damaged")).expect("read"), before);
    assert_eq!(std::fs::read(kept(".damaged.2")).expect("read"), b"the next");
}
