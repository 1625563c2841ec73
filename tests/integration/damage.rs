//! What the filesystem does with things in the ciphertext directory that it did not make, or not completely.

use std::sync::Arc;

use kmsfs::env::SystemClock;
use kmsfs::format::Outcome;
use kmsfs::format::name::NameForm;
use kmsfs::store::{
    Access, Backing, BackingFile, Fault, FaultPlan, Faulty, FileKind, Memory, OpClass, RawEntry, RenameMode, Target,
};
use kmsfs::vfs::{ROOT, Vfs};
use rustix::io::Errno;

use crate::fixture::{Fixture, ROOT_USER};

fn volume() -> Fixture<Memory> {
    let clock = Arc::new(SystemClock);
    Fixture::new(Memory::new(clock.clone()), clock)
}

fn write_file(vfs: &Vfs<Memory>, name: &[u8], data: &[u8]) {
    let (_, opened) = vfs.create(ROOT, name, 0o644, &ROOT_USER).expect("created");
    vfs.write(opened.handle, 0, data).expect("written");
    vfs.fsync(opened.handle, false).expect("synced");
    vfs.release(opened.handle);
}

fn read_file(vfs: &Vfs<Memory>, name: &[u8]) -> kmsfs::vfs::Result<Vec<u8>> {
    let ino = vfs.lookup(ROOT, name)?.ino;
    let opened = vfs.open(ino, false)?;
    let data = vfs.read(opened.handle, 0, 1 << 20, <[u8]>::to_vec);
    vfs.release(opened.handle);
    data
}

fn names(vfs: &Vfs<Memory>, dir: u64) -> Vec<Vec<u8>> {
    let handle = vfs.open_dir(dir).expect("opened");
    let mut names = Vec::new();
    vfs.read_dir(handle, 0, false, |entry| {
        names.push(entry.name.clone());
        true
    })
    .expect("listed");
    vfs.release_dir(handle);
    names.retain(|name| name != b"." && name != b"..");
    names
}

/// Entries of the ciphertext root that hold user files.
fn entries(backing: &Memory) -> Vec<RawEntry> {
    let root = backing.root().expect("root");
    let mut list = backing.list(&root).expect("list");
    let mut all = Vec::new();
    backing.read_list(&mut list, 0, &mut all).expect("read");
    all.retain(|entry| !entry.name.starts_with(b"."));
    all
}

fn only_entry(backing: &Memory) -> String {
    let found = entries(backing);
    assert_eq!(found.len(), 1, "{found:?}");
    String::from_utf8(found[0].name.clone()).expect("ASCII")
}

/// FORMAT 8.2: which names stand as they are with plain names, and what is done about the others.
#[test]
fn plain_names_stand_in_the_ciphertext_directory() {
    let clock = Arc::new(SystemClock);
    let fixture = Fixture::with_names(Memory::new(clock.clone()), clock, NameForm::Plain);
    let vfs = fixture.mount();
    let longest = [b'n'; 255];
    let (as_they_are, escaped) = ([&b"README.md"[..], b"~draft", &longest], [&b".kmsfs"[..], b"~Tree", b"~L", b"\xe4"]);
    for name in as_they_are.iter().chain(&escaped) {
        write_file(&vfs, name, name);
    }
    vfs.symlink(ROOT, b"link", b"secret target", &ROOT_USER).expect("made");
    let mut seen = names(&vfs, ROOT);
    seen.sort();
    let mut all: Vec<&[u8]> = as_they_are.iter().chain(&escaped).copied().chain([&b"link"[..]]).collect();
    all.sort();
    assert_eq!(seen, all);
    drop(vfs);

    let mut stored: Vec<_> = entries(&fixture.backing).into_iter().map(|entry| entry.name).collect();
    stored.sort();
    let (mut long, short): (Vec<_>, Vec<_>) = stored.into_iter().partition(|name| name.starts_with(b"~L"));
    assert_eq!(short, [&b"README.md"[..], b"link", &longest, b"~draft"]);
    long.retain(|name| !name.ends_with(b".n"));
    assert_eq!(long.len(), escaped.len());
    let root = fixture.backing.root().expect("root");
    let target = fixture.backing.read_link(Target::Named(&root, "link")).expect("a symlink");
    assert!(!target.windows(6).any(|part| part == b"secret"), "targets are encrypted");

    // An entry beside the escaped one of the same name is nobody's.
    fixture.backing.create(&root, ".kmsfsx", 0o600).expect("created");
    let vfs = fixture.mount();
    assert_eq!(vfs.lookup(ROOT, b".kmsfsx").expect_err("not an entry of that name").errno(), Errno::NOENT);
    assert!(!names(&vfs, ROOT).contains(&b".kmsfsx".to_vec()));
    // What the name says is not authenticated: another file can be put at it. Its contents are, as always.
    fixture.backing.rename(&root, "README.md", &root, "~draft", RenameMode::Exchange).expect("exchanged");
    assert_eq!(read_file(&vfs, b"README.md").expect("a file of this volume"), b"~draft");
}

/// Where no bound name is made, an id that is another directory's is harmless; a bound one must never meet it.
#[test]
fn escaped_names_are_bound_to_the_directory() {
    let clock = Arc::new(SystemClock);
    let fixture = Fixture::with_names(Memory::new(clock.clone()), clock, NameForm::Plain);
    let vfs = fixture.mount();
    let dirs = [b"one", b"two"].map(|name| vfs.mkdir(ROOT, name, 0o755, &ROOT_USER).expect("made").ino);
    for dir in dirs {
        for name in [&b"plain"[..], b"~Tidal"] {
            let (_, opened) = vfs.create(dir, name, 0o644, &ROOT_USER).expect("created");
            vfs.release(opened.handle);
        }
    }
    drop(vfs);
    let root = fixture.backing.root().expect("root");
    let [one, two] = ["one", "two"].map(|name| fixture.backing.open_dir(&root, name).expect("opened"));
    fixture.backing.rename(&one, ".kmsfs.dir", &two, ".kmsfs.dir", RenameMode::Exchange).expect("exchanged");

    let vfs = fixture.mount();
    let dir = vfs.lookup(ROOT, b"one").expect("there").ino;
    assert_eq!(names(&vfs, dir), [b"plain".to_vec()]);
    vfs.lookup(dir, b"plain").expect("bound to nothing");
    let (_, opened) = vfs.create(dir, b"also plain", 0o644, &ROOT_USER).expect("created");
    vfs.release(opened.handle);
    let error = vfs.create(dir, b"~Tone", 0o644, &ROOT_USER).expect_err("another directory's id");
    assert_eq!(error.outcome(), Some(Outcome::WrongDirId));
}

#[test]
fn leftovers_of_interrupted_operations_are_hidden_and_removed() {
    let fixture = volume();
    let vfs = fixture.mount();
    vfs.mkdir(ROOT, b"d", 0o755, &ROOT_USER).expect("made");
    let entry = only_entry(&fixture.backing);
    let root = fixture.backing.root().expect("root");
    drop(vfs);
    // A power cut between the two renames of a removal, and one before the rename of a mkdir.
    fixture.backing.rename(&root, &entry, &root, "~Tremoved", RenameMode::NoReplace).expect("renamed");
    fixture.backing.mkdir(&root, "~Tnew", 0o700).expect("made");
    // Somebody gave a user's directory a hidden name: nothing of it may go, least of all what makes it readable.
    fixture.backing.mkdir(&root, "~Tkept", 0o700).expect("made");
    let kept = fixture.backing.open_dir(&root, "~Tkept").expect("opened");
    fixture.backing.symlink(b"kfs1:", &kept, ".kmsfs.dir").expect("made");
    fixture.backing.create(&kept, "~Llong", 0o600).expect("created");
    fixture.backing.symlink(b"its name", &kept, "~Llong.n").expect("made");

    let vfs = fixture.mount();
    assert_eq!(names(&vfs, ROOT), Vec::<Vec<u8>>::new());
    assert_eq!(only_entry(&fixture.backing), "~Tkept");
    for entry in [".kmsfs.dir", "~Llong", "~Llong.n"] {
        fixture.backing.pin(&kept, entry).expect(entry);
    }
    assert_eq!(vfs.lookup(ROOT, b"~Tkept").expect_err("hidden").errno(), Errno::NOENT);
}

#[test]
fn a_lost_header_keeps_the_file_listable_and_truncatable() {
    let fixture = volume();
    let vfs = fixture.mount();
    write_file(&vfs, b"f", &[7; 10_000]);
    drop(vfs);
    let root = fixture.backing.root().expect("root");
    let file = fixture.backing.open(&root, &only_entry(&fixture.backing), Access::ReadWrite).expect("opened");
    file.write_at(&[0; 4096], 0).expect("zeroed");

    let vfs = fixture.mount();
    let attr = vfs.lookup(ROOT, b"f").expect("listed");
    assert_eq!((attr.kind, attr.size), (FileKind::Regular, 10_000));
    let error = read_file(&vfs, b"f").expect_err("lost");
    assert_eq!((error.outcome(), error.errno()), (Some(Outcome::HeaderLost), Errno::IO));
    let change = kmsfs::vfs::SetAttr { size: Some(0), ..Default::default() };
    assert_eq!(vfs.setattr(attr.ino, None, &change).expect("truncated").size, 0);
    assert_eq!(read_file(&vfs, b"f").expect("empty"), b"");
    vfs.unlink(ROOT, b"f").expect("removed");
}

#[test]
fn a_size_without_any_byte_reads_as_zeros_and_can_be_written() {
    let fixture = volume();
    let vfs = fixture.mount();
    write_file(&vfs, b"f", b"x");
    drop(vfs);
    let root = fixture.backing.root().expect("root");
    let file = fixture.backing.open(&root, &only_entry(&fixture.backing), Access::ReadWrite).expect("opened");
    file.set_len(0).expect("cut");
    file.set_len(4096 + 4096 * 2 + 100).expect("grown");

    let vfs = fixture.mount();
    assert_eq!(read_file(&vfs, b"f").expect("zeros"), vec![0; 4064 + 100]);
    let opened = vfs.open(vfs.lookup(ROOT, b"f").expect("there").ino, true).expect("opened");
    vfs.write(opened.handle, 4060, b"12345678").expect("written");
    vfs.fsync(opened.handle, false).expect("synced");
    vfs.release(opened.handle);
    drop(vfs);
    let mut expected = vec![0; 4064 + 100];
    expected[4060..4068].copy_from_slice(b"12345678");
    assert_eq!(read_file(&fixture.mount(), b"f").expect("kept"), expected);
}

#[test]
fn what_fsync_reported_cannot_be_cut_off_or_zeroed() {
    let fixture = volume();
    let vfs = fixture.mount();
    write_file(&vfs, b"f", &[7; 3 * 4064]);
    drop(vfs);
    let root = fixture.backing.root().expect("root");
    let file = fixture.backing.open(&root, &only_entry(&fixture.backing), Access::ReadWrite).expect("opened");
    let mut unit = vec![0; 4096];
    file.read_at(&mut unit, 2 * 4096).expect("read");
    file.write_at(&[0; 4096], 2 * 4096).expect("zeroed");
    let error = read_file(&fixture.mount(), b"f").expect_err("zeroed");
    assert_eq!(error.outcome(), Some(Outcome::UnitZero));
    file.write_at(&unit, 2 * 4096).expect("restored");
    assert_eq!(read_file(&fixture.mount(), b"f").expect("right").len(), 3 * 4064);
    file.set_len(4096 + 2 * 4096 + 4064).expect("cut");
    let error = read_file(&fixture.mount(), b"f").expect_err("cut");
    assert_eq!(error.outcome(), Some(Outcome::Truncated));
}

#[test]
fn one_damaged_unit_leaves_the_others_readable() {
    let fixture = volume();
    let vfs = fixture.mount();
    write_file(&vfs, b"f", &[7; 10 * 4064]);
    drop(vfs);
    let root = fixture.backing.root().expect("root");
    let file = fixture.backing.open(&root, &only_entry(&fixture.backing), Access::ReadWrite).expect("opened");
    file.write_at(b"!", 4096 + 5 * 4096 + 1000).expect("damaged");
    let vfs = fixture.mount();
    let opened = vfs.open(vfs.lookup(ROOT, b"f").expect("there").ino, true).expect("opened");
    for unit in 0..10_u64 {
        let got = vfs.read(opened.handle, unit * 4064, 4064, <[u8]>::to_vec);
        match got {
            Ok(data) => assert!(unit != 5 && data == [7; 4064], "unit {unit}"),
            Err(error) => assert_eq!((unit, error.errno()), (5, Errno::IO)),
        }
    }
    // A write that covers the whole unit heals it.
    vfs.write(opened.handle, 5 * 4064, &[8; 4064]).expect("written");
    assert_eq!(vfs.read(opened.handle, 5 * 4064, 4064, <[u8]>::to_vec).expect("healed"), [8; 4064]);
    vfs.release(opened.handle);
}

#[test]
fn an_entry_that_does_not_decode_is_hidden_but_keeps_its_directory() {
    let fixture = volume();
    let vfs = fixture.mount();
    let dir = vfs.mkdir(ROOT, b"d", 0o755, &ROOT_USER).expect("made").ino;
    let root = fixture.backing.root().expect("root");
    let inner = fixture.backing.open_dir(&root, &only_entry(&fixture.backing)).expect("opened");
    fixture.backing.create(&inner, "stray", 0o600).expect("created");
    assert_eq!(names(&vfs, dir), Vec::<Vec<u8>>::new());
    assert_eq!(vfs.lookup(dir, b"stray").expect_err("hidden").errno(), Errno::NOENT);
    assert_eq!(vfs.rmdir(ROOT, b"d").expect_err("not empty").errno(), Errno::NOTEMPTY);
    fixture.backing.unlink(&inner, "stray").expect("removed from the backing");
    vfs.rmdir(ROOT, b"d").expect("removed");
}

#[test]
fn names_of_two_ids_are_never_mixed() {
    let fixture = volume();
    let vfs = fixture.mount();
    let one = vfs.mkdir(ROOT, b"one", 0o755, &ROOT_USER).expect("made").ino;
    vfs.create(one, b"f", 0o644, &ROOT_USER).expect("created");
    vfs.mkdir(ROOT, b"two", 0o755, &ROOT_USER).expect("made");
    drop(vfs);
    // The id of `two` is put into `one`.
    let root = fixture.backing.root().expect("root");
    let dirs: Vec<_> = entries(&fixture.backing)
        .iter()
        .map(|entry| fixture.backing.open_dir(&root, std::str::from_utf8(&entry.name).expect("ASCII")).expect("dir"))
        .collect();
    let has_file = |dir| {
        let mut list = fixture.backing.list(dir).expect("list");
        let mut all = Vec::new();
        fixture.backing.read_list(&mut list, 0, &mut all).expect("read");
        all.len() > 3
    };
    let (victim, donor) = if has_file(&dirs[0]) { (&dirs[0], &dirs[1]) } else { (&dirs[1], &dirs[0]) };
    let foreign = fixture.backing.read_link(Target::Named(donor, ".kmsfs.dir")).expect("id");
    fixture.backing.unlink(victim, ".kmsfs.dir").expect("removed");
    fixture.backing.symlink(&foreign, victim, ".kmsfs.dir").expect("planted");

    let vfs = fixture.mount();
    let one = vfs.lookup(ROOT, b"one").expect("there").ino;
    let error = vfs.create(one, b"g", 0o644, &ROOT_USER).map(drop).expect_err("refused");
    assert_eq!((error.outcome(), error.errno()), (Some(Outcome::WrongDirId), Errno::IO));
    let two = vfs.lookup(ROOT, b"two").expect("there").ino;
    vfs.create(two, b"g", 0o644, &ROOT_USER).expect("its own id");
}

#[test]
fn every_handle_learns_once_of_a_flush_that_failed() {
    let clock = Arc::new(SystemClock);
    let plan = FaultPlan::new();
    let fixture = Fixture::new(Faulty::new(Memory::new(clock.clone()), plan.clone()), clock);
    let vfs = fixture.mount();
    let (attr, one) = vfs.create(ROOT, b"f", 0o644, &ROOT_USER).expect("created");
    let two = vfs.open(attr.ino, true).expect("opened");
    vfs.write(one.handle, 0, &[7; 10_000]).expect("written");
    plan.inject(Fault::once(&[OpClass::Sync], 0, Errno::IO));
    assert_eq!(vfs.fsync(one.handle, false).expect_err("lost").errno(), Errno::IO);
    assert_eq!(vfs.fsync(two.handle, false).expect_err("lost for this one too").errno(), Errno::IO);
    vfs.fsync(one.handle, false).expect("told once");
    vfs.fsync(two.handle, false).expect("told once");
    let three = vfs.open(attr.ino, true).expect("opened");
    vfs.fsync(three.handle, false).expect("happened before it was opened");
}

#[test]
fn a_file_that_is_open_opens_again_without_its_header() {
    let clock = Arc::new(SystemClock);
    let plan = FaultPlan::new();
    let fixture = Fixture::new(Faulty::new(Memory::new(clock.clone()), plan.clone()), clock);
    let vfs = fixture.mount();
    let (attr, one) = vfs.create(ROOT, b"f", 0o644, &ROOT_USER).expect("created");
    vfs.write(one.handle, 0, &[7; 10_000]).expect("written");
    let before = plan.count(&[OpClass::Read]);
    vfs.open(attr.ino, true).expect("opened");
    assert_eq!(plan.count(&[OpClass::Read]), before, "what its key's state is asked with is in memory");
}

#[test]
fn a_mode_that_a_killed_mount_had_changed_is_given_back() {
    let fixture = volume();
    let vfs = fixture.mount();
    let dir = vfs.mkdir(ROOT, b"d", 0o755, &ROOT_USER).expect("made").ino;
    // What an owner's daemon makes of 0444.
    let (attr, opened) = vfs.create(dir, b"f", 0o644, &ROOT_USER).expect("created");
    vfs.release(opened.handle);
    drop(vfs);
    let control = fixture.backing.open_dir(&fixture.backing.root().expect("root"), ".kmsfs").expect("opened");
    fixture.backing.mkdir(&control, "intent", 0o700).expect("made");
    let intents = fixture.backing.open_dir(&control, "intent").expect("opened");
    fixture.backing.create(&intents, &format!("{}.444", attr.ino), 0o600).expect("created");

    let vfs = fixture.mount();
    vfs.recover_intents().expect("recovered");
    let dir = vfs.lookup(ROOT, b"d").expect("there").ino;
    assert_eq!(vfs.lookup(dir, b"f").expect("there").mode, 0o444);
    assert!(fixture.backing.pin(&intents, &format!("{}.444", attr.ino)).is_err(), "the intent is done");
}

#[test]
fn a_flush_does_not_vouch_for_what_was_cut_meanwhile() {
    // The size at the flush is not durable any more once the file was cut and grew back, even to more than before.
    let fixture = volume();
    let vfs = fixture.mount();
    let (_, opened) = vfs.create(ROOT, b"f", 0o644, &ROOT_USER).expect("created");
    vfs.write(opened.handle, 0, &[7; 9000]).expect("written");
    vfs.fsync(opened.handle, false).expect("synced");
    let change = |size| kmsfs::vfs::SetAttr { size: Some(size), ..Default::default() };
    let ino = vfs.lookup(ROOT, b"f").expect("there").ino;
    vfs.setattr(ino, Some(opened.handle), &change(100)).expect("cut");
    vfs.setattr(ino, Some(opened.handle), &change(20_000)).expect("grown");
    drop(vfs);
    // The growth is lost in a crash: the file is as long as the record says, and opens.
    let root = fixture.backing.root().expect("root");
    let file = fixture.backing.open(&root, &only_entry(&fixture.backing), Access::ReadWrite).expect("opened");
    file.set_len(4096 + 4096 + 100).expect("as after a crash");
    assert_eq!(read_file(&fixture.mount(), b"f").expect("opens"), [7; 100]);
}
