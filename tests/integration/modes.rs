//! A daemon without privilege, and objects whose mode denies their owner what the daemon needs (FORMAT 8.6).

use std::sync::Arc;

use kmsfs::content::Volume;
use kmsfs::env::{ManualClock, SystemClock};
use kmsfs::keys::RewrapJob;
use kmsfs::ops::impact::impact;
use kmsfs::ops::repair::{PlanOptions, plan};
use kmsfs::ops::rewrap::{RewrapOptions, rewrap_files, rewrap_files_by};
use kmsfs::ops::salvage::salvage;
use kmsfs::ops::verify::{VerifyOptions, verify, verify_by};
use kmsfs::ops::{Reason, Silent, Visit};
use kmsfs::store::{
    Backing, Fault, FaultPlan, Faulty, FileTime, LocalDir, Memory, MemoryOptions, Modes, OpClass, RenameMode, SetTime,
    Target, XattrMode,
};
use kmsfs::types::{KeyArn, Timestamp};
use kmsfs::vfs::{Caller, Options, ROOT, SetAttr, Vfs};
use rustix::io::Errno;

use crate::fixture::{Fixture, ROOT_USER};

const USER: Caller = Caller { uid: 1000, gid: 1000, umask: 0o022 };

type Disk = Faulty<Memory>;

fn fixture() -> (Fixture<Disk>, FaultPlan) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
    let plan = FaultPlan::new();
    let options = MemoryOptions { owner: (USER.uid, USER.gid), ..MemoryOptions::default() };
    (Fixture::new(Faulty::new(Memory::with_options(clock.clone(), options), plan.clone()), clock), plan)
}

const FILE_MODES: [u32; 5] = [0o644, 0o444, 0o400, 0o200, 0];
const DIR_MODES: [u32; 5] = [0o755, 0o500, 0o300, 0o100, 0];
const VERIFY: VerifyOptions<'_> = VerifyOptions { threads: 2, in_use: false, resume: None };

/// A volume with each of these files in each of these directories, and the names of the latter.
fn shut_volume() -> (Fixture<Disk>, FaultPlan) {
    let (fixture, plan) = fixture();
    let vfs = mount(&fixture);
    for dir_mode in DIR_MODES {
        let dir = vfs.mkdir(ROOT, format!("d{dir_mode:o}").as_bytes(), 0o755, &USER).expect("made").ino;
        for mode in FILE_MODES {
            let (file, opened) = vfs.create(dir, format!("f{mode:o}").as_bytes(), 0o644, &USER).expect("created");
            vfs.write(opened.handle, 0, b"content").expect("written");
            vfs.fsync(opened.handle, false).expect("synced");
            vfs.release(opened.handle);
            for name in [&[b"user.", &b"x"[..]].concat(), &[b"user.", &[b'z'; 200][..]].concat()] {
                vfs.set_xattr(file.ino, name, b"value", XattrMode::Set).expect("an attribute");
            }
            chmod(&vfs, file.ino, mode);
        }
        chmod(&vfs, dir, dir_mode);
    }
    (fixture, plan)
}

const FILES: u64 = (FILE_MODES.len() * DIR_MODES.len()) as u64;

/// All modes are what they are for users, and nothing is left to give back.
fn check_shut(fixture: &Fixture<Disk>) {
    assert_eq!(on_disk(fixture).1, 0, "intents");
    let vfs = mount(fixture);
    for dir_mode in DIR_MODES {
        let dir = vfs.lookup(ROOT, format!("d{dir_mode:o}").as_bytes()).expect("found");
        assert_eq!(dir.mode, dir_mode);
        for mode in FILE_MODES {
            let file = vfs.lookup(dir.ino, format!("f{mode:o}").as_bytes()).expect("found");
            assert_eq!(file.mode, mode, "in {dir_mode:o}");
        }
    }
}

fn mount(fixture: &Fixture<Disk>) -> Vfs<Disk> {
    fixture.mount_with(Options::default())
}

fn chmod(vfs: &Vfs<Disk>, ino: u64, mode: u32) {
    vfs.setattr(ino, None, &SetAttr { mode: Some(mode), ..SetAttr::default() }).expect("chmod");
}

fn names(vfs: &Vfs<Disk>, ino: u64) -> Result<Vec<String>, kmsfs::vfs::Error> {
    let handle = vfs.open_dir(ino)?;
    let mut names = Vec::new();
    vfs.read_dir(handle, 0, true, |entry| {
        names.push(String::from_utf8(entry.name.clone()).expect("a test's name"));
        true
    })?;
    vfs.release_dir(handle);
    names.retain(|name| name != "." && name != "..");
    names.sort();
    Ok(names)
}

/// The mode of the only user's entry of the root, and how many intents there are.
fn on_disk(fixture: &Fixture<Disk>) -> (u32, usize) {
    let backing = fixture.backing.inner();
    let root = backing.root().expect("a root");
    let entries = |dir: &<Memory as Backing>::Dir| {
        let mut entries = Vec::new();
        backing.read_list(&mut backing.list(dir).expect("a list"), 0, &mut entries).expect("read");
        entries.into_iter().map(|entry| String::from_utf8(entry.name).expect("text")).collect::<Vec<_>>()
    };
    let only = entries(&root).into_iter().find(|name| !name.starts_with('.')).expect("an entry");
    let mode = backing.stat(Target::Named(&root, &only)).expect("there").mode;
    let control = backing.open_dir(&root, ".kmsfs").expect("there");
    let intents = backing.open_dir(&control, "intent").map_or(0, |dir| entries(&dir).len() - 2);
    (mode, intents)
}

#[test]
fn a_directory_without_rights_is_as_useful_as_its_users_may_find_it() {
    for mode in [0, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600] {
        let (fixture, _) = fixture();
        let vfs = mount(&fixture);
        let dir = vfs.mkdir(ROOT, b"d", 0o755, &USER).expect("made").ino;
        let long = [b'x'; 200];
        let (file, opened) = vfs.create(dir, &long, 0o644, &USER).expect("created");
        vfs.write(opened.handle, 0, b"content").expect("written");
        chmod(&vfs, dir, mode);
        // Without what this mount remembers.
        drop(vfs);
        let vfs = mount(&fixture);
        assert_eq!(vfs.lookup(ROOT, b"d").expect("found").ino, dir);
        // What of this a user may do is for the kernel to say; the daemon can do all of it.
        assert_eq!(names(&vfs, dir).expect("listed"), [String::from_utf8_lossy(&long)], "{mode:o}");
        assert_eq!(vfs.lookup(dir, &long).expect("found").ino, file.ino);
        let opened = vfs.open(file.ino, true).expect("opened");
        assert_eq!(vfs.read(opened.handle, 0, 99, <[u8]>::to_vec).expect("read"), b"content");
        assert_eq!(
            vfs.getattr(file.ino).expect("attributes").size,
            7,
            "of an open file, whatever became of its directory"
        );
        let time = SetTime::At(FileTime { secs: 5, nanos: 0 });
        vfs.setattr(file.ino, None, &SetAttr { mtime: Some(time), ..SetAttr::default() }).expect("its times");
        vfs.set_xattr(file.ino, b"user.a", b"b", XattrMode::Set).expect("its attributes");
        vfs.rename(dir, &long, dir, b"short", RenameMode::Replace).expect("renamed");
        vfs.symlink(dir, b"link", b"target", &USER).expect("a symlink");
        let link = vfs.lookup(dir, b"link").expect("found").ino;
        assert_eq!(vfs.read_link(link).expect("read"), b"target");
        let inner = vfs.mkdir(dir, b"inner", 0o755, &USER).expect("a directory").ino;
        let (deep, _) = vfs.create(inner, b"deep", 0o644, &USER).expect("created");
        let handle = vfs.open_dir(dir).expect("opened");
        vfs.fsync_dir(handle).expect("synced");
        assert_eq!(vfs.getattr(dir).expect("attributes").mode, mode, "users see their mode");
        assert_eq!(on_disk(&fixture), (mode, 0), "and it is there");
        chmod(&vfs, inner, 0);
        drop(vfs);
        let vfs = mount(&fixture);
        let dir = vfs.lookup(ROOT, b"d").expect("found").ino;
        let inner = vfs.lookup(dir, b"inner").expect("found").ino;
        assert_eq!(vfs.lookup(inner, b"deep").expect("through two of them").ino, deep.ino);
        vfs.unlink(inner, b"deep").expect("removed");
        vfs.rmdir(dir, b"inner").expect("removed, although it cannot be listed");
        assert_eq!(names(&vfs, dir).expect("listed"), ["link", "short"]);
        assert_eq!(on_disk(&fixture), (mode, 0));
    }
}

#[test]
fn a_directory_that_is_made_without_rights_is_whole() {
    let (fixture, _) = fixture();
    let vfs = mount(&fixture);
    let dir = vfs.mkdir(ROOT, b"d", 0, &USER).expect("made").ino;
    assert_eq!(on_disk(&fixture), (0, 0));
    assert_eq!(names(&vfs, dir).expect("listed"), [""; 0]);
}

#[test]
fn a_mode_set_while_it_is_another_for_the_moment_stays() {
    let (fixture, _) = fixture();
    let vfs = mount(&fixture);
    let dir = vfs.mkdir(ROOT, b"d", 0o755, &USER).expect("made").ino;
    vfs.create(dir, b"f", 0o644, &USER).expect("created");
    chmod(&vfs, dir, 0);
    let handle = vfs.open_dir(dir).expect("opened");
    let mut seen = Vec::new();
    vfs.read_dir(handle, 0, false, |entry| {
        if entry.name == b"f" {
            seen.push(vfs.getattr(dir).expect("attributes").mode);
            chmod(&vfs, dir, 0o500);
            seen.push(vfs.getattr(dir).expect("attributes").mode);
            let same = SetAttr { uid: Some(USER.uid), ..SetAttr::default() };
            seen.push(vfs.setattr(dir, None, &same).expect("chown").mode);
        }
        true
    })
    .expect("listed");
    assert_eq!(seen, [0, 0o500, 0o500]);
    assert_eq!(on_disk(&fixture), (0o500, 0));
}

#[test]
fn a_killed_daemon_leaves_a_directory_to_the_next_mount() {
    let (fixture, plan) = fixture();
    let vfs = mount(&fixture);
    let dir = vfs.mkdir(ROOT, b"d", 0o755, &USER).expect("made").ino;
    let inner = vfs.mkdir(dir, b"inner", 0o755, &USER).expect("made").ino;
    vfs.create(inner, b"f", 0o400, &USER).expect("created");
    chmod(&vfs, inner, 0);
    chmod(&vfs, dir, 0o100);
    // Nothing is given back any more, as if the process were gone.
    plan.inject(Fault::from(&[OpClass::SetAttr], 1, Errno::IO));
    assert_eq!(names(&vfs, inner).expect("listed"), ["f"]);
    assert_eq!(vfs.getattr(inner).expect("attributes").mode, 0, "users see their mode");
    drop(vfs);
    plan.heal();
    assert_eq!(on_disk(&fixture), (0o100, 1));
    let vfs = mount(&fixture);
    vfs.recover_intents().expect("recovered");
    assert_eq!(on_disk(&fixture), (0o100, 0));
    let dir = vfs.lookup(ROOT, b"d").expect("found").ino;
    assert_eq!(vfs.lookup(dir, b"inner").expect("found").mode, 0);
}

#[test]
fn a_directory_that_cannot_be_changed_is_used_as_it_is() {
    let (fixture, plan) = fixture();
    let vfs = mount(&fixture);
    let dir = vfs.mkdir(ROOT, b"d", 0o755, &USER).expect("made").ino;
    let (file, _) = vfs.create(dir, b"f", 0o644, &USER).expect("created");
    chmod(&vfs, dir, 0o555);
    drop(vfs);
    let changes = plan.count(OpClass::CHANGES);
    let vfs = mount(&fixture);
    let dir = vfs.lookup(ROOT, b"d").expect("found").ino;
    assert_eq!(names(&vfs, dir).expect("listed"), ["f"]);
    vfs.open(vfs.lookup(dir, b"f").expect("found").ino, true).expect("opened");
    vfs.getattr(file.ino).expect("attributes");
    assert_eq!(plan.count(OpClass::CHANGES), changes, "nothing was in the way");
}

#[test]
fn two_readers_of_a_file_without_rights_leave_its_mode() {
    let (fixture, _) = fixture();
    let vfs = mount(&fixture);
    let (file, opened) = vfs.create(ROOT, b"f", 0o200, &USER).expect("created");
    vfs.write(opened.handle, 0, b"content").expect("written");
    vfs.release(opened.handle);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let opened = vfs.open(file.ino, false).expect("opened");
                    assert_eq!(vfs.getattr(file.ino).expect("attributes").mode, 0o200);
                    vfs.release(opened.handle);
                }
            });
        }
    });
    assert_eq!(on_disk(&fixture), (0o200, 0));
}

/// Where the filesystem below leaves it to its own caller to check for immutable files, as tmpfs, xfs and btrfs do for what is open.
#[test]
fn an_immutable_file_that_is_open_is_not_emptied() {
    const IMMUTABLE: u32 = 0x10;
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
    let backing = Faulty::new(LocalDir::open(dir.path()).expect("opened"), FaultPlan::new());
    let vfs = Fixture::new(backing, Arc::new(SystemClock)).mount();
    let (attr, opened) = vfs.create(ROOT, b"f", 0o600, &ROOT_USER).expect("created");
    vfs.write(opened.handle, 0, b"precious").expect("written");
    match vfs.set_inode_flags(attr.ino, IMMUTABLE).map_err(|e| e.errno()) {
        // No root, or a tmpfs without flags.
        Err(Errno::PERM | Errno::NOTTY | Errno::OPNOTSUPP) => return,
        set => set.expect("set"),
    }
    let emptied = vfs.open_emptied(attr.ino, true).map(drop).map_err(|e| e.errno());
    let cut = vfs.setattr(attr.ino, None, &SetAttr { size: Some(0), ..SetAttr::default() });
    let content = vfs.read(opened.handle, 0, 99, <[u8]>::to_vec).expect("read");
    vfs.set_inode_flags(attr.ino, 0).expect("cleared, so that it can be removed");
    assert_eq!((emptied, cut.map(drop).map_err(|e| e.errno())), (Err(Errno::PERM), Err(Errno::PERM)));
    assert_eq!(content, b"precious");
}

#[test]
fn jobs_without_a_mount_reach_what_modes_deny_their_owner() {
    let (fixture, _) = shut_volume();
    let modes = Modes::new(Arc::new(fixture.backing.clone()), true);
    let volume = volume_of_two_keys(&fixture);
    let verified = verify(&modes, &volume, VERIFY, &Silent, &|_| ()).expect("verified");
    assert_eq!((verified.files, verified.findings.len()), (FILES, 0), "{:?}", verified.findings);
    let options = PlanOptions { threads: 2, accept_single: false };
    let planned = plan(&modes, &volume, options, &Silent).expect("planned");
    assert_eq!((planned.repairs.len(), planned.remaining.len()), (0, 0), "{:?}", planned.remaining);
    let key = volume.keys.volume().allowed.keys()[0].clone();
    let found = impact(&modes, &key, &Silent).expect("scanned");
    assert_eq!((found.only, found.unreadable), (FILES, 0));
    let out = tempfile::tempdir().expect("a directory");
    let salvaged = salvage(&modes, &volume, out.path(), 2, &Silent).expect("salvaged");
    assert_eq!((salvaged.files, salvaged.lost, salvaged.findings.len()), (FILES, 0, 0), "{:?}", salvaged.findings);
    let mode_of = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(out.path().join(name)).expect("there").permissions().mode() & 0o7777
    };
    assert_eq!(DIR_MODES.map(|mode| mode_of(&format!("d{mode:o}"))), DIR_MODES, "not those for the moment");
    assert_eq!(mode_of("d755/f200"), 0o200);
    let to = RewrapOptions { from: None, to: Some(other_key()), threads: 2 };
    let rewrapped = rewrap_files(&modes, &volume, &to, &Silent).expect("rewrapped");
    assert_eq!((rewrapped.rewrapped, rewrapped.findings.len()), (FILES, 0), "{:?}", rewrapped.findings);
    assert_eq!(impact(&modes, &key, &Silent).expect("scanned").only, 0);
    check_shut(&fixture);
    for mode in DIR_MODES {
        // Whatever may remove the directory has to be able to look into it.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(out.path().join(format!("d{mode:o}")), PermissionsExt::from_mode(0o700)).expect("set");
    }
}

fn other_key() -> KeyArn {
    "arn:aws:kms:eu-central-1:111122223333:key/00000000-12ab-34cd-56ef-1234567890ab".parse().expect("an ARN")
}

/// The volume, which allows another key too.
fn volume_of_two_keys(fixture: &Fixture<Disk>) -> Arc<Volume> {
    let volume = Arc::new(fixture.volume());
    let mut opened = (*volume.keys.volume()).clone();
    opened.allowed = opened.allowed.keys().iter().cloned().chain([other_key()]).collect();
    volume.keys.replace_volume(opened);
    volume
}

#[test]
fn jobs_within_a_mount_reach_what_modes_deny_their_owner() {
    let (fixture, _) = shut_volume();
    let volume = volume_of_two_keys(&fixture);
    let vfs = Vfs::new(Arc::new(fixture.backing.clone()), Arc::clone(&volume), Options::default()).expect("mounted");
    let open = |file: &Visit<'_, Disk>, read: &mut kmsfs::ops::verify::ReadFile<'_, Disk>| {
        vfs.inspect(file.dir, file.entry, |content| read(content))
    };
    let verified = verify_by(vfs.modes(), &volume, VERIFY, &Silent, &|_| (), &open).expect("verified");
    assert_eq!((verified.files, verified.findings.len()), (FILES, 0), "{:?}", verified.findings);
    let job = RewrapJob::new(None, Some(other_key()));
    let rewrap = |file: &Visit<'_, Disk>| vfs.rewrap(file.dir, file.entry, &job);
    let opened = volume.keys.volume();
    let rewrapped = rewrap_files_by(vfs.modes(), &opened, 2, &Silent, &rewrap).expect("rewrapped");
    assert_eq!((rewrapped.rewrapped, rewrapped.findings.len()), (FILES, 0), "{:?}", rewrapped.findings);
    drop(vfs);
    check_shut(&fixture);
}

#[test]
fn a_job_that_may_not_change_modes_says_so_of_what_it_cannot_read() {
    let (fixture, plan) = shut_volume();
    let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let refuse = move || {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        false
    };
    let before = plan.count(OpClass::CHANGES);
    let modes = Modes::asking(Arc::new(fixture.backing.clone()), refuse);
    let volume = Arc::new(fixture.volume());
    let verified = verify(&modes, &volume, VERIFY, &Silent, &|_| ()).expect("verified");
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(plan.count(OpClass::CHANGES), before, "nothing was changed");
    // Of 0755 and 0500 all but what is 0200 and 0.
    assert_eq!(
        verified.findings.iter().filter(|finding| finding.reason == Reason::Os(Errno::ACCESS)).count(),
        verified.findings.len()
    );
    let reason = verified.findings[0].reason.to_string();
    assert!(reason.contains("as root"), "{reason}");
}

#[test]
fn a_job_is_killed_and_another_one_gives_back_what_it_left() {
    let (fixture, plan) = shut_volume();
    // Nothing is given back any more, as if the process were gone.
    plan.inject(Fault::from(&[OpClass::SetAttr], 3, Errno::IO));
    let volume = Arc::new(fixture.volume());
    let modes = Modes::new(Arc::new(fixture.backing.clone()), true);
    verify(&modes, &volume, VERIFY, &Silent, &|_| ()).expect("verified");
    drop(modes);
    plan.heal();
    assert_ne!(on_disk(&fixture).1, 0);
    let modes = Modes::new(Arc::new(fixture.backing.clone()), true);
    assert_eq!(modes.has_intents(), Ok(true));
    modes.recover().expect("recovered");
    check_shut(&fixture);
}

/// Killed after the intent was noted and before the mode was changed.
#[test]
fn an_intent_of_a_directory_that_was_not_changed_yet_is_no_obstacle() {
    let (fixture, plan) = fixture();
    let vfs = mount(&fixture);
    let dir = vfs.mkdir(ROOT, b"d", 0o755, &USER).expect("made").ino;
    chmod(&vfs, dir, 0);
    plan.inject(Fault::from(&[OpClass::SetAttr, OpClass::Remove], 0, Errno::IO));
    assert!(names(&vfs, dir).is_err());
    drop(vfs);
    plan.heal();
    assert_eq!(on_disk(&fixture), (0, 1));
    mount(&fixture).recover_intents().expect("recovered");
    assert_eq!(on_disk(&fixture), (0, 0));
}

/// Of a restored tree, whose inode numbers were other files'.
#[test]
fn an_intent_that_was_of_another_tree_gives_nobody_anything() {
    let (fixture, _) = fixture();
    let vfs = mount(&fixture);
    vfs.create(ROOT, b"private", 0o600, &USER).expect("created");
    drop(vfs);
    let backing = fixture.backing.inner();
    let root = backing.root().expect("a root");
    let control = backing.open_dir(&root, ".kmsfs").expect("there");
    backing.mkdir(&control, "intent", 0o700).expect("made");
    let intents = backing.open_dir(&control, "intent").expect("there");
    let mut entries = Vec::new();
    backing.read_list(&mut backing.list(&root).expect("a list"), 0, &mut entries).expect("read");
    let ino = entries.iter().find(|entry| !entry.name.starts_with(b".")).expect("an entry").ino;
    backing.create(&intents, &format!("{ino}.444"), 0o600).expect("noted");
    mount(&fixture).recover_intents().expect("recovered");
    assert_eq!(on_disk(&fixture), (0o600, 0));
}

#[test]
fn long_names_of_attributes_are_listed_whatever_the_mode() {
    let (fixture, _) = shut_volume();
    let vfs = mount(&fixture);
    let dir = vfs.lookup(ROOT, b"d755").expect("found").ino;
    for mode in FILE_MODES {
        let file = vfs.lookup(dir, format!("f{mode:o}").as_bytes()).expect("found").ino;
        let mut lengths: Vec<_> = vfs.list_xattrs(file, false).expect("listed").iter().map(Vec::len).collect();
        lengths.sort_unstable();
        assert_eq!(lengths, [6, 205], "{mode:o}");
    }
    assert_eq!(on_disk(&fixture).1, 0);
}

/// The backing takes both away when somebody without privilege writes, as Linux does.
#[test]
fn setuid_and_setgid_outlive_pages_that_were_dirty_when_they_were_set() {
    let (fixture, _) = fixture();
    let vfs = mount(&fixture);
    let (file, opened) = vfs.create(ROOT, b"f", 0o755, &USER).expect("created");
    vfs.write(opened.handle, 0, b"content").expect("written");
    chmod(&vfs, file.ino, 0o6755);
    vfs.write_back(opened.handle, 0, b"dirty").expect("stored");
    assert_eq!(on_disk(&fixture).0, 0o6755);
    chmod(&vfs, file.ino, 0o2755);
    vfs.write_back(opened.handle, 0, b"dirty").expect("stored");
    assert_eq!(on_disk(&fixture).0, 0o2755, "what was taken away stays so");
    chmod(&vfs, file.ino, 0o4711);
    drop(vfs);
    let vfs = mount(&fixture);
    let file = vfs.lookup(ROOT, b"f").expect("found");
    let opened = vfs.open(file.ino, true).expect("opened");
    vfs.write_back(opened.handle, 0, b"mapped").expect("stored");
    assert_eq!(on_disk(&fixture).0, 0o4711, "also of a file that had it before");
    assert!(vfs.kill_set_id(file.ino).expect("taken"));
    vfs.write_back(opened.handle, 0, b"mapped").expect("stored");
    assert_eq!(on_disk(&fixture).0, 0o711, "the kernel took it away for who wrote");
}

/// With allow_other. What they make could not belong to them.
#[test]
fn without_privilege_other_users_make_nothing() {
    let (fixture, _) = fixture();
    let vfs = mount(&fixture);
    let dir = vfs.mkdir(ROOT, b"d", 0o777, &USER).expect("made").ino;
    let other = Caller { uid: 1001, gid: 1001, umask: 0 };
    let refused = [
        vfs.create(dir, b"f", 0o600, &other).map(drop),
        vfs.tmpfile(dir, 0o600, &other).map(drop),
        vfs.mkdir(dir, b"f", 0o700, &other).map(drop),
        vfs.symlink(dir, b"f", b"target", &other).map(drop),
        vfs.mknod(dir, b"f", kmsfs::store::FileKind::Fifo, 0o600, 0, &other).map(drop),
    ];
    for refused in refused {
        assert_eq!(refused.map_err(|e| e.errno()), Err(Errno::PERM));
    }
    assert_eq!(names(&vfs, dir).expect("listed"), [""; 0]);
    vfs.create(dir, b"f", 0o600, &ROOT_USER).expect("root may use it, whomever it belongs to");
}
