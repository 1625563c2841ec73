//! Integrity events in the log: what they say, and how many there are (FORMAT S12).

use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex};

use kmsfs::env::ManualClock;
use kmsfs::format::{Outcome, Severity, dirid};
use kmsfs::store::{Access, Backing, BackingFile, Memory, RenameMode, Target};
use kmsfs::types::Timestamp;
use kmsfs::vfs::{Options, ROOT, Vfs};
use rustix::io::Errno;
use tracing::Dispatch;
use tracing::subscriber::NoSubscriber;
use tracing_subscriber::fmt::MakeWriter;

use crate::fixture::{Fixture, ROOT_USER};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A subscriber that lives as long as the tests. While there is just one, `tracing` asks the thread that reaches an event
/// first whether anybody wants it, which may be a test without a log: the event would then be off in all threads.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));

/// The integrity events that `work` leaves in the log, a line each.
fn events(work: impl FnOnce()) -> Vec<String> {
    LazyLock::force(&SECOND);
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).without_time().with_writer(log.clone()).finish();
    tracing::subscriber::with_default(subscriber, work);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    text.lines().filter(|line| line.contains("kmsfs::integrity")).map(str::to_owned).collect()
}

fn fixture() -> (Fixture<Memory>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
    (Fixture::new(Memory::new(clock.clone()), clock.clone()), clock)
}

/// Entries of a directory of the backing that are a user's.
fn entries(backing: &Memory, dir: &<Memory as Backing>::Dir) -> Vec<String> {
    let mut entries = Vec::new();
    backing.read_list(&mut backing.list(dir).unwrap(), 0, &mut entries).unwrap();
    entries
        .into_iter()
        .map(|e| String::from_utf8(e.name).unwrap())
        .filter(|name| !name.starts_with(['.', '~']))
        .collect()
}

fn list(vfs: &Vfs<Memory>, ino: u64) {
    let handle = vfs.open_dir(ino).expect("opened");
    vfs.read_dir(handle, 0, false, |_| true).expect("listed");
    vfs.release_dir(handle);
}

/// A file of some units in a directory; the number of both, and the path of the file in the backing.
fn file_in_directory(fixture: &Fixture<Memory>) -> (u64, u64, String) {
    let vfs = fixture.mount();
    let dir = vfs.mkdir(ROOT, b"d", 0o755, &ROOT_USER).expect("made").ino;
    let (file, opened) = vfs.create(dir, b"f", 0o644, &ROOT_USER).expect("created");
    vfs.write(opened.handle, 0, &[7; 100 * 4064]).expect("written");
    vfs.release(opened.handle);
    let root = fixture.backing.root().unwrap();
    let outer = entries(&fixture.backing, &root).remove(0);
    let inner = entries(&fixture.backing, &fixture.backing.open_dir(&root, &outer).unwrap()).remove(0);
    (dir, file.ino, format!("{outer}/{inner}"))
}

fn open(backing: &Memory, path: &str) -> <Memory as Backing>::File {
    let (dir, name) = path.split_once('/').unwrap();
    backing.open(&backing.open_dir(&backing.root().unwrap(), dir).unwrap(), name, Access::ReadWrite).unwrap()
}

/// Finds the file by its names and opens it.
fn reopen(vfs: &Vfs<Memory>) -> Result<u64, kmsfs::vfs::Error> {
    let dir = vfs.lookup(ROOT, b"d")?.ino;
    let ino = vfs.lookup(dir, b"f")?.ino;
    Ok(vfs.open(ino, true)?.handle)
}

#[test]
fn an_event_names_place_file_and_unit_and_a_flood_is_counted() {
    let (fixture, clock) = fixture();
    let (_, ino, path) = file_in_directory(&fixture);
    let stored = open(&fixture.backing, &path);
    for unit in 0..100 {
        stored.write_at(&[1], 4096 + unit * 4096 + 50).unwrap();
    }
    let found = events(|| {
        let vfs = fixture.mount();
        let handle = reopen(&vfs).expect("it opens");
        let read = |unit: u64| vfs.read(handle, unit * 4064, 10, |_| ()).expect_err("damaged").errno();
        for unit in 0..100 {
            assert_eq!(read(unit), Errno::IO);
        }
        clock.advance(std::time::Duration::from_secs(61));
        assert_eq!(read(3), Errno::IO);
    });
    assert_eq!(found.len(), 12, "{found:#?}");
    for (unit, line) in found[..10].iter().enumerate() {
        let unit = format!("unit={unit} ");
        for part in ["ERROR", &path, &format!("ino={ino} "), "file=", &unit, "outcome=UnitAuth"] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
    assert!(found[10].contains("90 further events of this inode suppressed"), "{}", found[10]);
    assert!(found[11].contains("unit=3 "), "{}", found[11]);
}

#[test]
fn what_was_suppressed_is_told_at_the_end() {
    let (fixture, _) = fixture();
    let (_, _, path) = file_in_directory(&fixture);
    open(&fixture.backing, &path).write_at(&[1], 4096 + 50).unwrap();
    let found = events(|| {
        let vfs = fixture.mount();
        let handle = reopen(&vfs).expect("it opens");
        for _ in 0..25 {
            vfs.read(handle, 0, 10, |_| ()).expect_err("damaged");
        }
    });
    assert!(found.len() == 11 && found[10].contains("suppressed=15"), "{found:#?}");
}

#[test]
fn every_outcome_with_a_severity_is_no_mere_answer_to_a_user() {
    use Outcome::{BadName, DuplicateId, KeyForbidden, NeverSynced, UnknownFeature};
    for outcome in Outcome::ALL {
        let expected = match outcome {
            DuplicateId => Some(Severity::Damage),
            KeyForbidden | NeverSynced | UnknownFeature | BadName => Some(Severity::Suspicion),
            _ if outcome.errno() == Some(Errno::IO) => Some(Severity::Damage),
            _ => None,
        };
        assert_eq!(outcome.severity(), expected, "{outcome:?}");
    }
}

#[test]
fn damage_of_each_kind_is_an_event_with_its_path() {
    type Damage = fn(&Memory, &str);
    let stored: [(&str, Damage); 6] = [
        ("WARN UnknownFeature", |backing, path| open(backing, path).write_at(&[9], 8).unwrap()),
        ("ERROR NotKfs", |backing, path| open(backing, path).write_at(&[0], 0).unwrap()),
        ("ERROR HeaderLost", |backing, path| open(backing, path).write_at(&[0; 4096], 0).unwrap()),
        ("ERROR BadSize", |backing, path| open(backing, path).set_len(3 * 4096).unwrap()),
        ("WARN NeverSynced", |backing, path| {
            let file = open(backing, path);
            file.set_len(0).and_then(|()| file.set_len(4096 + 4096 + 9)).unwrap();
        }),
        ("ERROR NoRecipient", |backing, path| open(backing, path).write_at(&[0; 2976], 96).unwrap()),
    ];
    for (expected, damage) in stored {
        let (fixture, _) = fixture();
        let (_, _, path) = file_in_directory(&fixture);
        damage(&fixture.backing, &path);
        let found = events(|| {
            let _ = reopen(&fixture.mount());
        });
        let (level, outcome) = expected.split_once(' ').unwrap();
        let fits = |line: &String| line.contains(level) && line.contains(&path) && line.contains(outcome);
        assert!(found.len() == 1 && fits(&found[0]), "{expected}: {found:#?}");
    }
}

#[test]
fn names_ids_and_symlinks_have_events_too() {
    let (fixture, _) = fixture();
    let vfs = fixture.mount();
    let link = vfs.symlink(ROOT, b"l", b"target", &ROOT_USER).expect("made").ino;
    let backing = &fixture.backing;
    let root = backing.root().unwrap();
    let entry = entries(backing, &root).remove(0);
    backing.unlink(&root, &entry).unwrap();
    backing.symlink(b"forged", &root, &entry).unwrap();
    backing.mknod(&root, "nonsense", kmsfs::store::FileKind::Fifo, 0o600, 0).unwrap();
    drop(vfs);
    let found = events(|| {
        let vfs = fixture.mount();
        list(&vfs, ROOT);
        let again = vfs.lookup(ROOT, b"l").expect("found").ino;
        assert_ne!(again, link);
        assert_eq!(vfs.read_link(again).expect_err("forged").errno(), Errno::IO);
        let dir = vfs.mkdir(ROOT, b"d", 0o755, &ROOT_USER).expect("made").ino;
        vfs.forget(dir, 1);
        let disk = entries(backing, &root).into_iter().find(|name| *name != entry && name != "nonsense").unwrap();
        backing.unlink(&backing.open_dir(&root, &disk).unwrap(), dirid::ENTRY).unwrap();
        let dir = vfs.lookup(ROOT, b"d").expect("found").ino;
        assert_eq!(vfs.lookup(dir, b"x").expect_err("no id").errno(), Errno::IO);
    });
    let outcomes = ["BadName", "SymlinkAuth", "NoDirId"];
    assert_eq!(found.len(), outcomes.len(), "{found:#?}");
    for (line, outcome) in found.iter().zip(outcomes) {
        assert!(line.contains(&format!("outcome={outcome}")), "{outcome}: {line}");
    }
    assert!(found[0].contains("path=\"nonsense\"") && found[1].contains(&entry), "{found:#?}");
}

/// Copies a file of the backing to a new entry of the same directory, which gets the name of `taken`.
fn copy_over(backing: &Memory, from: &str, to: &str) {
    let (source, target) = (open(backing, from), open(backing, to));
    let mut bytes = vec![0; usize::try_from(source.stat().unwrap().size).unwrap()];
    source.read_at(&mut bytes, 0).unwrap();
    target.set_len(bytes.len() as u64).unwrap();
    target.write_at(&bytes, 0).unwrap();
}

/// A volume with two files `f` and `g` in a directory; the second is a copy of the first, which was made in this mount
/// and is open.
fn copied(options: Options) -> (Fixture<Memory>, Vfs<Memory>, u64, u64) {
    let (fixture, _) = fixture();
    let vfs = fixture.mount_with(options);
    let dir = vfs.mkdir(ROOT, b"d", 0o755, &ROOT_USER).expect("made").ino;
    let (second, opened) = vfs.create(dir, b"g", 0o644, &ROOT_USER).expect("created");
    vfs.release(opened.handle);
    let backing = &fixture.backing;
    let root = backing.root().unwrap();
    let outer = entries(backing, &root).remove(0);
    let inner = || entries(backing, &backing.open_dir(&root, &outer).unwrap());
    let copy = inner().remove(0);
    let (_, first) = vfs.create(dir, b"f", 0o644, &ROOT_USER).expect("created");
    vfs.write(first.handle, 0, b"content").expect("written");
    let original = inner().into_iter().find(|name| *name != copy).unwrap();
    copy_over(backing, &format!("{outer}/{original}"), &format!("{outer}/{copy}"));
    (fixture, vfs, first.handle, second.ino)
}

#[test]
fn a_copy_of_a_file_that_this_mount_made_is_noticed() {
    let found = events(|| {
        let (_fixture, vfs, first, copy) = copied(Options { privileged: true, ..Options::default() });
        let second = vfs.open(copy, true).expect("it opens").handle;
        vfs.write(first, 0, b"more").expect("reads and writes go on");
        vfs.write(second, 0, b"more").expect("reads and writes go on");
    });
    assert_eq!(found.len(), 1, "{found:#?}");
    for part in ["ERROR", "outcome=DuplicateId", "other=", "file=", "path="] {
        assert!(found[0].contains(part), "{part} in {}", found[0]);
    }
}

#[test]
fn strict_ids_refuse_to_write_to_either_of_two_copies() {
    let (_fixture, vfs, first, copy) = copied(Options { privileged: true, strict_ids: true, ..Options::default() });
    vfs.write(first, 0, b"more").expect("alone it is no copy");
    let second = vfs.open(copy, true).expect("it opens").handle;
    for handle in [first, second] {
        assert_eq!(vfs.write(handle, 0, b"more").expect_err("refused").errno(), Errno::IO);
        vfs.read(handle, 0, 4, |_| ()).expect("reads go on");
    }
}

#[test]
fn a_directory_with_the_id_of_another_is_noticed() {
    for strict_ids in [false, true] {
        let found = events(|| {
            let (fixture, _) = fixture();
            let vfs = fixture.mount_with(Options { privileged: true, strict_ids, ..Options::default() });
            let first = vfs.mkdir(ROOT, b"first", 0o755, &ROOT_USER).expect("made").ino;
            let backing = &fixture.backing;
            let root = backing.root().unwrap();
            let first_entry = entries(backing, &root).remove(0);
            let original = backing.open_dir(&root, &first_entry).unwrap();
            let id = backing.read_link(Target::Named(&original, dirid::ENTRY)).unwrap();
            let second = vfs.mkdir(ROOT, b"second", 0o755, &ROOT_USER).expect("made").ino;
            vfs.forget(second, 1);
            let copy = entries(backing, &root).into_iter().find(|name| *name != first_entry).unwrap();
            let dir = backing.open_dir(&root, &copy).unwrap();
            backing.unlink(&dir, dirid::ENTRY).unwrap();
            backing.symlink(&id, &dir, dirid::ENTRY).unwrap();
            let second = vfs.lookup(ROOT, b"second").expect("found").ino;
            list(&vfs, second);
            for dir in [first, second] {
                let made = vfs.mkdir(dir, b"x", 0o755, &ROOT_USER).map_err(|e| e.errno());
                assert_eq!(made.err(), strict_ids.then_some(Errno::IO));
                let moved = vfs.rename(dir, b"x", dir, b"y", RenameMode::Replace).map_err(|e| e.errno());
                assert_eq!(moved.err(), strict_ids.then_some(Errno::IO));
            }
        });
        assert!(found.len() == 1 && found[0].contains("outcome=DuplicateId"), "{found:#?}");
    }
}
