//! What `verify` says about every kind of damage, and that what is not damaged stays readable.

use std::fs;

use kmsfs::vfs::ROOT;

use super::host::{Host, ciphertext, edit, plant_id};

const UNIT: usize = 4096;
const DATA: usize = 4064;
const HEADER: usize = 4096;

#[test]
fn a_whole_volume_is_clean() {
    let host = Host::new();
    let dir = host.volume();
    let mounted = host.mount(dir.path());
    let sub = mounted.mkdir(ROOT, "sub");
    let long = "n".repeat(255);
    mounted.write(sub, &long, b"in a long name");
    mounted.mkdir(sub, &"d".repeat(200));
    mounted.write(ROOT, "big", &vec![7; 3 * DATA + 5]);
    mounted.write(ROOT, "empty", b"");
    mounted.symlink(sub, "link", "../big");
    let ino = mounted.0.lookup(ROOT, b"big").expect("lookup").ino;
    mounted.0.link(ino, sub, b"second name").expect("link");
    mounted.0.set_xattr(ino, b"user.comment", b"value", kmsfs::store::XattrMode::Set).expect("setxattr");
    let report = host.verify(dir.path());
    assert_eq!(report.findings, []);
    assert_eq!((report.directories, report.files), (3, 3), "one inode with two names counts once");
}

#[test]
fn units_that_are_flipped_swapped_or_zeroed_are_named() {
    let host = Host::new();
    let dir = host.volume();
    let mounted = host.mount(dir.path());
    let content: Vec<u8> = (0..4 * DATA).map(|i| (i / DATA) as u8 + 1).collect();
    let file = |name: &str| ciphertext(dir.path(), mounted.write(ROOT, name, &content));
    let (flipped, swapped, zeroed) = (file("flipped"), file("swapped"), file("zeroed"));
    edit(&flipped, |b| b[HEADER + 2 * UNIT + 100] ^= 1);
    edit(&swapped, |b| {
        let (first, second) = b[HEADER..].split_at_mut(UNIT);
        first.swap_with_slice(&mut second[..UNIT]);
    });
    edit(&zeroed, |b| b[HEADER + 3 * UNIT..HEADER + 4 * UNIT].fill(0));
    let expected = ["UnitAuth flipped#2", "UnitAuth swapped#0+2", "UnitZero zeroed#3"];
    assert_eq!(host.findings(dir.path()), expected);
    // The units beside the damage are still readable, through a fresh mount.
    let mounted = host.mount(dir.path());
    let ino = mounted.0.lookup(ROOT, b"flipped").expect("lookup").ino;
    let handle = mounted.0.open(ino, false).expect("open").handle;
    assert_eq!(mounted.0.read(handle, 0, 2 * DATA, <[u8]>::to_vec).expect("before"), content[..2 * DATA]);
    assert!(mounted.0.read(handle, 2 * DATA as u64, 1, <[u8]>::to_vec).is_err());
    assert_eq!(mounted.0.read(handle, 3 * DATA as u64, DATA, <[u8]>::to_vec).expect("behind"), content[3 * DATA..]);
}

#[test]
fn headers_that_are_cut_forged_foreign_or_lost_are_told_apart() {
    let host = Host::new();
    let (dir, other) = (host.volume(), host.volume());
    let mounted = host.mount(dir.path());
    let file = |name: &str| ciphertext(dir.path(), mounted.write(ROOT, name, &[9; 5000]));
    let [cut, size, forged, lost, magic, feature, records, slots] =
        ["cut", "size", "forged", "lost", "magic", "feature", "records", "slots"].map(file);
    let (a, b) = (file("given"), file("taken"));
    let foreign = ciphertext(other.path(), host.mount(other.path()).write(ROOT, "f", &[8; 5000]));
    let place = file("foreign");
    edit(&cut, |b| b.truncate(HEADER + UNIT + 40));
    edit(&size, |b| b.truncate(HEADER + UNIT));
    edit(&forged, |b| b[50] ^= 1);
    edit(&lost, |b| b[..HEADER].fill(0));
    edit(&magic, |b| b[0] = 0);
    edit(&feature, |b| b[13] = 1);
    edit(&records, |b| b[HEADER - 1024..HEADER].fill(0));
    edit(&slots, |b| b[96..HEADER - 1024].fill(0));
    let header = fs::read(&a).expect("read")[..HEADER].to_vec();
    edit(&b, |b| b[..HEADER].copy_from_slice(&header));
    fs::write(&place, fs::read(foreign).expect("read")).expect("write");
    let expected = [
        "BadSize size",
        "DuplicateId taken",
        "ForeignVolume foreign",
        "HeaderAuth forged",
        "HeaderLost lost",
        "NoRecipient slots",
        "NotKfs magic",
        "RecordAuth records",
        "Truncated cut",
        "UnitAuth taken#0+2",
        "UnknownFeature feature",
    ];
    // Which of the two files with one id is met first is a matter of threads.
    let mut found = host.findings(dir.path());
    found.iter_mut().filter(|f| *f == "DuplicateId given").for_each(|f| *f = "DuplicateId taken".to_owned());
    assert_eq!(found, expected);
}

#[test]
fn names_directories_symlinks_and_attributes_are_checked() {
    let host = Host::new();
    let dir = host.volume();
    let root = dir.path();
    let mounted = host.mount(root);
    let named = ciphertext(root, mounted.write(ROOT, "named", b"x"));
    let attributed = mounted.write(ROOT, "attributed", b"x");
    mounted.0.set_xattr(attributed, b"user.a", b"one", kmsfs::store::XattrMode::Set).expect("setxattr");
    mounted.0.set_xattr(attributed, b"user.b", b"two", kmsfs::store::XattrMode::Set).expect("setxattr");
    mounted.symlink(ROOT, "link", "target");
    let link = ciphertext(root, mounted.0.lookup(ROOT, b"link").expect("lookup").ino);
    let [without, swapped, with] = ["without", "swapped", "with"].map(|name| {
        let ino = mounted.mkdir(ROOT, name);
        mounted.write(ino, "inside", b"content");
        mounted.write(ino, "also inside", b"content");
        ciphertext(root, ino)
    });
    drop(mounted);

    fs::rename(&named, root.join("no-name-of-this-volume")).expect("rename");
    fs::remove_file(&link).expect("remove");
    std::os::unix::fs::symlink("plaintext", &link).expect("symlink");
    let path = ciphertext(root, attributed);
    let names = rustix_xattrs(&path);
    let value = get_xattr(&path, &names[0]);
    rustix::fs::setxattr(&path, names[1].as_str(), &value, rustix::fs::XattrFlags::empty()).expect("setxattr");
    fs::remove_file(without.join(".kmsfs.dir")).expect("remove");
    plant_id(&with, &swapped);

    let found = host.findings(root);
    let expected = ["BadName ?", "NoDirId without", "SymlinkAuth link", "WrongDirId swapped", "XattrAuth attributed"];
    assert_eq!(found, expected);
    // The contents below were verified all the same.
    assert_eq!(host.verify(root).files, 8);
}

fn rustix_xattrs(path: &std::path::Path) -> Vec<String> {
    let mut buffer = vec![0; 4096];
    let len = rustix::fs::listxattr(path, &mut buffer[..]).expect("listxattr");
    let names = buffer[..len].split(|b| *b == 0).filter(|n| n.starts_with(b"user."));
    names.map(|n| String::from_utf8(n.to_vec()).expect("ASCII")).collect()
}

fn get_xattr(path: &std::path::Path, name: &str) -> Vec<u8> {
    let mut buffer = vec![0; 4096];
    let len = rustix::fs::getxattr(path, name, &mut buffer[..]).expect("getxattr");
    buffer.truncate(len);
    buffer
}
