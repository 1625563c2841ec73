//! The filesystem in memory against the host's: the same operations must have the same results.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::env::{ManualClock, SystemClock};
use crate::store::{Allocate, BackingFile, LocalDir};
use crate::types::Timestamp;

/// One operation. An [`Index`] selects among what is open at that moment, so that every subsequence is valid.
#[derive(Clone, Debug)]
enum Op {
    OpenDir(Index, Name),
    Open(Index, Name, bool),
    OpenNode(Index, bool),
    Create(Index, Name),
    Pin(Index, Name),
    Mkdir(Index, Name),
    Mknod(Index, Name, FileKind, u32),
    Symlink(Vec<u8>, Index, Name),
    ReadLink(On),
    Link(Index, Name, Index, Name),
    Unlink(Index, Name),
    Rmdir(Index, Name),
    Rename(Index, Name, Index, Name, RenameMode),
    List(Index),
    Stat(On),
    SetMode(On, u32),
    SetOwner(On, Option<u32>, Option<u32>),
    SetTimes(On, SetTime, SetTime),
    GetXattr(On, &'static str),
    SetXattr(On, &'static str, Vec<u8>, XattrMode),
    ListXattrs(On),
    RemoveXattr(On, &'static str),
    Read(Index, u64, usize),
    Write(Index, u64, usize, u8),
    SetLen(Index, u64),
    Sync(Index),
    Allocate(Index, Allocate, u64, u64),
    Seek(Index, u64),
    CloseFile(Index),
}

type Name = &'static str;

#[derive(Clone, Debug)]
enum On {
    Named(Index, Name),
    Dir(Index),
    Node(Index),
    File(Index),
}

/// What an operation answered, without what two filesystems may differ in: inode numbers, present times, blocks.
#[derive(PartialEq, Debug)]
enum Out {
    Nothing,
    Skipped,
    Bytes(Vec<u8>),
    Stat(Box<Plain>),
    Names(Vec<String>),
    Positions(Option<u64>, Option<u64>),
}

#[derive(PartialEq, Debug)]
struct Plain {
    kind: FileKind,
    mode: u32,
    nlink: u64,
    owner: (u32, u32),
    rdev: u64,
    size: u64,
    times: Option<(FileTime, FileTime)>,
}

/// What the host's filesystem can do; the test leaves out the rest.
#[derive(Clone, Copy)]
struct Host {
    privileged: bool,
    /// Counts subdirectories as links, keeps times and limits as ext4 does.
    ext4: bool,
    zero_range: bool,
    user_xattrs: bool,
    acls: bool,
}

struct Side<B: Backing> {
    backing: B,
    host: Host,
    dirs: Vec<B::Dir>,
    files: Vec<B::File>,
    nodes: Vec<B::Node>,
    /// Files with reserved pages: the kernel counts those that it has in its cache as data.
    reserved: HashSet<u64>,
}

const LONG: &str = concat!(
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "0123456789012345678901234567890123456789012345678901234"
);
const TOO_LONG: &str = concat!(
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "01234567890123456789012345678901234567890123456789012345"
);

impl<B: Backing> Side<B> {
    fn new(backing: B, host: Host) -> Self {
        let root = backing.root().unwrap();
        Self { backing, host, dirs: vec![root], files: vec![], nodes: vec![], reserved: HashSet::new() }
    }

    fn apply(&mut self, op: &Op) -> Result<Out> {
        let b = &self.backing;
        let dir = |index: &Index| &self.dirs[index.index(self.dirs.len())];
        let file = |index: &Index| (!self.files.is_empty()).then(|| &self.files[index.index(self.files.len())]);
        let nothing = |()| Out::Nothing;
        let target = |on: &On| -> Option<Target<'_, B>> {
            Some(match on {
                On::Named(d, name) => Target::Named(dir(d), name),
                On::Dir(d) => Target::Dir(dir(d)),
                On::Node(n) if !self.nodes.is_empty() => Target::Node(&self.nodes[n.index(self.nodes.len())]),
                On::File(f) => Target::File(file(f)?),
                On::Node(_) => return None,
            })
        };
        macro_rules! some {
            ($x:expr) => {
                match $x {
                    Some(x) => x,
                    None => return Ok(Out::Skipped),
                }
            };
        }
        match op {
            Op::OpenDir(d, name) => {
                let opened = b.open_dir(dir(d), name)?;
                self.dirs.push(opened);
                Ok(Out::Nothing)
            }
            Op::Open(d, name, write) => {
                let opened = b.open(dir(d), name, if *write { Access::ReadWrite } else { Access::Read })?;
                self.files.push(opened);
                Ok(Out::Nothing)
            }
            Op::OpenNode(n, write) => {
                if self.nodes.is_empty() {
                    return Ok(Out::Skipped);
                }
                let node = &self.nodes[n.index(self.nodes.len())];
                let opened = b.open_node(node, if *write { Access::ReadWrite } else { Access::Read })?;
                self.files.push(opened);
                Ok(Out::Nothing)
            }
            Op::Create(d, name) => {
                let created = b.create(dir(d), name, 0o600)?;
                // The host may use the number of a removed file again.
                self.reserved.remove(&created.stat()?.ino);
                self.files.push(created);
                Ok(Out::Nothing)
            }
            Op::Pin(d, name) => {
                let pinned = b.pin(dir(d), name)?;
                self.nodes.push(pinned);
                Ok(Out::Nothing)
            }
            Op::Mkdir(d, name) => b.mkdir(dir(d), name, 0o700).map(nothing),
            Op::Mknod(d, name, kind, rdev) => {
                if !self.host.privileged && matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) {
                    return Ok(Out::Skipped);
                }
                b.mknod(dir(d), name, *kind, 0o600, u64::from(*rdev))?;
                self.reserved.remove(&b.stat(Target::Named(dir(d), name))?.ino);
                Ok(Out::Nothing)
            }
            Op::Symlink(link, d, name) => b.symlink(link, dir(d), name).map(nothing),
            Op::ReadLink(on) => b.read_link(some!(target(on))).map(Out::Bytes),
            Op::Link(d, name, to, to_name) => b.link(dir(d), name, dir(to), to_name).map(nothing),
            Op::Unlink(d, name) => b.unlink(dir(d), name).map(nothing),
            Op::Rmdir(d, name) => b.rmdir(dir(d), name).map(nothing),
            Op::Rename(d, name, to, to_name, mode) => b.rename(dir(d), name, dir(to), to_name, *mode).map(nothing),
            Op::List(d) => Ok(Out::Names(list(b, dir(d))?.into_keys().collect())),
            Op::Stat(on) => b.stat(some!(target(on))).map(|stat| self.plain(stat, None)),
            Op::SetMode(on, mode) => {
                // Whoever is not root needs his own access.
                let own = if self.host.privileged { 0 } else { 0o700 };
                b.set_mode(some!(target(on)), mode | own).map(nothing)
            }
            Op::SetOwner(on, uid, gid) => {
                let privileged = |id: Option<u32>| id.filter(|_| self.host.privileged);
                b.set_owner(some!(target(on)), privileged(*uid), privileged(*gid)).map(nothing)
            }
            Op::SetTimes(on, atime, mtime) => {
                b.set_times(some!(target(on)), *atime, *mtime)?;
                let stat = b.stat(some!(target(on)))?;
                Ok(self.plain(stat, Some((*atime, *mtime))))
            }
            Op::GetXattr(on, name) if self.may(name) => b.get_xattr(some!(target(on)), name).map(Out::Bytes),
            Op::SetXattr(on, name, value, mode) if self.may(name) => {
                b.set_xattr(some!(target(on)), name, value, *mode).map(nothing)
            }
            Op::RemoveXattr(on, name) if self.may(name) => b.remove_xattr(some!(target(on)), name).map(nothing),
            Op::GetXattr(..) | Op::SetXattr(..) | Op::RemoveXattr(..) => Ok(Out::Skipped),
            Op::ListXattrs(on) => {
                let mut names = b.list_xattrs(some!(target(on)))?;
                // The host's security module may have attributes of its own.
                names.retain(|name| XATTRS.contains(&&**name));
                names.sort();
                Ok(Out::Names(names))
            }
            Op::Read(f, offset, len) => {
                let mut buf = vec![0xff; *len];
                let n = some!(file(f)).read_at(&mut buf, *offset)?;
                buf.truncate(n);
                Ok(Out::Bytes(buf))
            }
            Op::Write(f, offset, len, byte) => some!(file(f)).write_at(&vec![*byte; *len], *offset).map(nothing),
            Op::SetLen(f, len) => some!(file(f)).set_len(*len).map(nothing),
            Op::Sync(f) => some!(file(f)).sync(true).map(nothing),
            Op::Allocate(f, how, offset, len) => {
                if *how == Allocate::ZeroRange && !self.host.zero_range {
                    return Ok(Out::Skipped);
                }
                let file = some!(file(f));
                let done = file.allocate(*how, *offset, *len);
                if *how != Allocate::PunchHole {
                    self.reserved.insert(file.stat()?.ino);
                }
                done.map(nothing)
            }
            Op::Seek(f, offset) => {
                let file = some!(file(f));
                if self.reserved.contains(&file.stat()?.ino) {
                    return Ok(Out::Skipped);
                }
                Ok(Out::Positions(file.seek_data(*offset)?, file.seek_hole(*offset)?))
            }
            Op::CloseFile(f) => {
                if !self.files.is_empty() {
                    self.files.swap_remove(f.index(self.files.len()));
                }
                Ok(Out::Nothing)
            }
        }
    }

    fn may(&self, xattr: &str) -> bool {
        match xattr.split_once('.') {
            Some(("user", _)) => self.host.user_xattrs,
            Some(("trusted" | "security", _)) => self.host.privileged,
            Some(("system", name)) => self.host.acls || !name.starts_with("posix_acl"),
            _ => true,
        }
    }

    /// `set` is what the times were set to just before.
    fn plain(&self, stat: Stat, set: Option<(SetTime, SetTime)>) -> Out {
        let is_dir = stat.kind == FileKind::Directory;
        let known = |set: SetTime, time| if matches!(set, SetTime::At(_)) { time } else { FileTime::default() };
        Out::Stat(Box::new(Plain {
            kind: stat.kind,
            mode: stat.mode,
            nlink: if is_dir && !self.host.ext4 { 0 } else { stat.nlink },
            owner: (stat.uid, stat.gid),
            rdev: stat.rdev,
            size: if is_dir { 0 } else { stat.size },
            times: set.filter(|_| self.host.ext4).map(|(a, m)| (known(a, stat.atime), known(m, stat.mtime))),
        }))
    }

    /// The whole tree: path, attributes, content.
    fn tree(&self) -> BTreeMap<String, (Out, Vec<u8>)> {
        let mut out = BTreeMap::new();
        let root = self.backing.root().unwrap();
        self.collect("", &root, &mut out);
        out
    }

    fn collect(&self, path: &str, dir: &B::Dir, out: &mut BTreeMap<String, (Out, Vec<u8>)>) {
        let b = &self.backing;
        for (name, entry) in list(b, dir).unwrap() {
            if name == "." || name == ".." {
                continue;
            }
            let stat = b.stat(Target::Named(dir, &name)).unwrap();
            assert_eq!((entry.ino, entry.kind), (stat.ino, Some(stat.kind)), "the listing and stat agree on {name}");
            let path = format!("{path}/{name}");
            let mut content = Vec::new();
            match stat.kind {
                FileKind::Regular => {
                    let file = b.open(dir, &name, Access::Read).unwrap();
                    content = vec![0xff; stat.size.min(1 << 20) as usize];
                    assert_eq!(file.read_at(&mut content, 0).unwrap(), content.len());
                }
                FileKind::Symlink => content = b.read_link(Target::Named(dir, &name)).unwrap(),
                FileKind::Directory => self.collect(&path, &b.open_dir(dir, &name).unwrap(), out),
                _ => {}
            }
            out.insert(path, (self.plain(stat, None), content));
        }
    }
}

fn list<B: Backing>(backing: &B, dir: &B::Dir) -> Result<BTreeMap<String, RawEntry>> {
    let mut list = backing.list(dir)?;
    let (mut entries, mut from) = (Vec::new(), 0);
    loop {
        let before = entries.len();
        backing.read_list(&mut list, from, &mut entries)?;
        if entries.len() == before {
            break;
        }
        from = entries.last().unwrap().next;
    }
    let count = entries.len();
    let named: BTreeMap<_, _> = entries.into_iter().map(|e| (String::from_utf8(e.name.clone()).unwrap(), e)).collect();
    assert_eq!(named.len(), count, "no entry is listed twice");
    Ok(named)
}

fn probe(path: &Path) -> Host {
    const EXT4_SUPER_MAGIC: i64 = 0xef53;
    let local = LocalDir::open(path).unwrap();
    let root = local.root().unwrap();
    let file = local.create(&root, "probe", 0o600).unwrap();
    let xattr = |name, value: &[u8]| local.set_xattr(Target::File(&file), name, value, XattrMode::Set).is_ok();
    let statfs = rustix::fs::statfs(path).unwrap();
    let host = Host {
        privileged: rustix::process::geteuid().is_root(),
        ext4: statfs.f_type == EXT4_SUPER_MAGIC && statfs.f_bsize == PAGE as i64,
        zero_range: file.allocate(Allocate::ZeroRange, 0, 1).is_ok(),
        user_xattrs: xattr("user.probe", b""),
        acls: xattr(acl::ACCESS, &acl_value(&[(1, 6), (4, 4), (0x20, 0)])),
    };
    local.unlink(&root, "probe").unwrap();
    host
}

fn acl_value(entries: &[(u16, u16)]) -> Vec<u8> {
    let mut out = 2_u32.to_le_bytes().to_vec();
    for (tag, perm) in entries {
        out.extend(tag.to_le_bytes());
        out.extend(perm.to_le_bytes());
        out.extend(if matches!(tag, 2 | 8) { 1234_u32 } else { u32::MAX }.to_le_bytes());
    }
    out
}

const XATTRS: [&str; 13] = [
    "user.a",
    "user.b",
    "user.",
    "trusted.t",
    "security.kmsfs",
    "security.capability",
    acl::ACCESS,
    acl::DEFAULT,
    "system.other",
    "nonsense",
    "other.name",
    "",
    LONG,
];

fn names() -> impl Strategy<Value = Name> {
    prop_oneof![
        20 => prop::sample::select(&["a", "b", "c", "d"][..]),
        1 => Just(LONG),
        1 => Just(TOO_LONG),
    ]
}

fn on() -> impl Strategy<Value = On> {
    prop_oneof![
        3 => (any::<Index>(), names()).prop_map(|(d, n)| On::Named(d, n)),
        1 => any::<Index>().prop_map(On::Dir),
        1 => any::<Index>().prop_map(On::Node),
        1 => any::<Index>().prop_map(On::File),
    ]
}

fn offsets() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..40_000_u64,
        4 => (0..10_u64, -1..=1_i64).prop_map(|(page, by)| (page * PAGE).saturating_add_signed(by)),
        1 => prop::sample::select(vec![
            pages::MAX_SIZE,
            pages::MAX_SIZE + 1,
            1 << 62,
            i64::MAX as u64 - 1,
            i64::MAX as u64,
            1 << 63,
            u64::MAX,
        ]),
    ]
}

fn times() -> impl Strategy<Value = SetTime> {
    let secs =
        prop::sample::select(vec![0, -1, 1 << 31, -(1 << 31), -(1_i64 << 31) - 1, (1 << 34) - 1, 1 << 34, 1 << 40]);
    let nanos = prop::sample::select(vec![0_u32, 1, 999_999_999, 1_000_000_000]);
    prop_oneof![
        2 => Just(SetTime::Omit),
        1 => Just(SetTime::Now),
        4 => (secs, nanos).prop_map(|(secs, nanos)| SetTime::At(FileTime { secs, nanos })),
    ]
}

fn xattr_values() -> impl Strategy<Value = Vec<u8>> {
    let capability = |revision: u32, len: usize| [&revision.to_le_bytes()[..], &vec![1; len - 4]].concat();
    prop_oneof![
        2 => prop::collection::vec(any::<u8>(), 0..20),
        1 => Just(vec![1; 65537]),
        1 => prop::sample::select(vec![capability(0x0200_0000, 20), capability(0x0200_0000, 24)]),
        3 => prop::sample::select(vec![
            acl_value(&[]),
            acl_value(&[(1, 7), (4, 5), (0x20, 0)]),
            acl_value(&[(1, 6), (2, 7), (4, 7), (0x10, 5), (0x20, 1)]),
            acl_value(&[(1, 7), (2, 7), (4, 7), (0x20, 1)]),
            acl_value(&[(1, 7), (4, 8), (0x20, 1)]),
            acl_value(&[(4, 7), (1, 7), (0x20, 1)]),
        ]),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let d = any::<Index>;
    let kinds = vec![
        FileKind::Regular,
        FileKind::Fifo,
        FileKind::Socket,
        FileKind::CharDevice,
        FileKind::BlockDevice,
        FileKind::Directory,
        FileKind::Symlink,
    ];
    let renames = prop::sample::select(vec![
        RenameMode::Replace,
        RenameMode::Replace,
        RenameMode::NoReplace,
        RenameMode::Exchange,
    ]);
    let hows = prop::sample::select(vec![
        Allocate::PunchHole,
        Allocate::PunchHole,
        Allocate::PunchHole,
        Allocate::KeepSize,
        Allocate::ZeroRange,
    ]);
    let sets = prop::sample::select(vec![XattrMode::Set, XattrMode::Set, XattrMode::Create, XattrMode::Replace]);
    let xattr = || prop::sample::select(&XATTRS[..]);
    let owner = || prop::option::of(0..3_u32);
    // Device nodes have major number 0, which no driver has, so that opening one does nothing.
    let links = prop_oneof![
        4 => prop::collection::vec(1..=255_u8, 0..70),
        1 => Just(vec![b'x'; 4095]),
        1 => Just(vec![b'x'; 4096]),
    ];
    let names_ops = prop_oneof![
        4 => (d(), names()).prop_map(|(d, n)| Op::OpenDir(d, n)),
        3 => (d(), names(), any::<bool>()).prop_map(|(d, n, w)| Op::Open(d, n, w)),
        2 => (d(), any::<bool>()).prop_map(|(n, w)| Op::OpenNode(n, w)),
        4 => (d(), names()).prop_map(|(d, n)| Op::Create(d, n)),
        2 => (d(), names()).prop_map(|(d, n)| Op::Pin(d, n)),
        6 => (d(), names()).prop_map(|(d, n)| Op::Mkdir(d, n)),
        2 => (d(), names(), prop::sample::select(kinds), 0..3_u32).prop_map(|(d, n, k, r)| Op::Mknod(d, n, k, r)),
        2 => (links, d(), names()).prop_map(|(l, d, n)| Op::Symlink(l, d, n)),
        2 => on().prop_map(Op::ReadLink),
        3 => (d(), names(), d(), names()).prop_map(|(d, n, e, m)| Op::Link(d, n, e, m)),
        3 => (d(), names()).prop_map(|(d, n)| Op::Unlink(d, n)),
        3 => (d(), names()).prop_map(|(d, n)| Op::Rmdir(d, n)),
        10 => (d(), names(), d(), names(), renames).prop_map(|(d, n, e, m, r)| Op::Rename(d, n, e, m, r)),
        2 => d().prop_map(Op::List),
    ];
    let attribute_ops = prop_oneof![
        3 => on().prop_map(Op::Stat),
        2 => (on(), 0..=0o7777_u32).prop_map(|(on, mode)| Op::SetMode(on, mode)),
        1 => (on(), owner(), owner()).prop_map(|(on, u, g)| Op::SetOwner(on, u, g)),
        2 => (on(), times(), times()).prop_map(|(on, a, m)| Op::SetTimes(on, a, m)),
        2 => (on(), xattr()).prop_map(|(on, n)| Op::GetXattr(on, n)),
        4 => (on(), xattr(), xattr_values(), sets).prop_map(|(on, n, v, m)| Op::SetXattr(on, n, v, m)),
        2 => on().prop_map(Op::ListXattrs),
        1 => (on(), xattr()).prop_map(|(on, n)| Op::RemoveXattr(on, n)),
    ];
    let content_ops = prop_oneof![
        2 => (d(), offsets(), 0..20_000_usize).prop_map(|(f, o, n)| Op::Read(f, o, n)),
        4 => (d(), offsets(), 0..20_000_usize, 1..=255_u8).prop_map(|(f, o, n, b)| Op::Write(f, o, n, b)),
        2 => (d(), offsets()).prop_map(|(f, n)| Op::SetLen(f, n)),
        1 => d().prop_map(Op::Sync),
        3 => (d(), hows, offsets(), 0..20_000_u64).prop_map(|(f, h, o, n)| Op::Allocate(f, h, o, n)),
        2 => (d(), offsets()).prop_map(|(f, o)| Op::Seek(f, o)),
        1 => d().prop_map(Op::CloseFile),
    ];
    prop_oneof![6 => names_ops, 2 => attribute_ops, 2 => content_ops]
}

proptest! {
    #[test]
    fn behaves_as_the_host(ops in prop::collection::vec(ops(), 1..120)) {
        let base = tempfile::tempdir().unwrap();
        let host = probe(base.path());
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let options = MemoryOptions { owner, ..MemoryOptions::default() };
        let mut local = Side::new(LocalDir::open(base.path()).unwrap(), host);
        let mut memory = Side::new(Memory::with_options(Arc::new(SystemClock), options), host);
        for (number, op) in ops.iter().enumerate() {
            let expected = local.apply(op);
            prop_assert_eq!(memory.apply(op), expected, "operation {}: {:?}", number, op);
        }
        prop_assert_eq!(memory.tree(), local.tree());
    }
}

fn memory() -> (Memory, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1000)));
    (Memory::new(clock.clone()), clock)
}

#[test]
fn positions_stay_right_while_entries_come_and_go() {
    let (memory, _) = memory();
    let root = memory.root().unwrap();
    for n in 0..200 {
        memory.create(&root, &format!("f{n:03}"), 0o600).unwrap();
    }
    let mut listing = memory.list(&root).unwrap();
    let mut first = Vec::new();
    memory.read_list(&mut listing, 0, &mut first).unwrap();
    assert!(first.len() < 202, "one call does not give everything");
    let seen = first.len() - 2;
    // Entries before and behind the position go, others come.
    for n in [0, 1, 150, 151] {
        memory.unlink(&root, &format!("f{n:03}")).unwrap();
    }
    memory.create(&root, "new", 0o600).unwrap();
    memory.rename(&root, "f002", &root, "f160", RenameMode::Replace).unwrap();
    let mut rest = Vec::new();
    let mut from = first.last().unwrap().next;
    loop {
        let before = rest.len();
        memory.read_list(&mut listing, from, &mut rest).unwrap();
        if rest.len() == before {
            break;
        }
        from = rest.last().unwrap().next;
    }
    let rest: Vec<String> = rest.into_iter().map(|e| String::from_utf8(e.name).unwrap()).collect();
    let mut expected: Vec<String> =
        (seen..200).filter(|n| ![150, 151].contains(n)).map(|n| format!("f{n:03}")).collect();
    expected.push("new".into());
    assert_eq!(rest, expected);
}

#[test]
fn what_is_open_outlives_its_names() {
    let (memory, _) = memory();
    let root = memory.root().unwrap();
    let file = memory.create(&root, "f", 0o600).unwrap();
    let node = memory.pin(&root, "f").unwrap();
    memory.unlink(&root, "f").unwrap();
    file.write_at(b"alive", 0).unwrap();
    let stat = memory.stat(Target::Node(&node)).unwrap();
    assert_eq!((stat.nlink, stat.size), (0, 5));
    memory.mkdir(&root, "d", 0o700).unwrap();
    let dir = memory.open_dir(&root, "d").unwrap();
    memory.rmdir(&root, "d").unwrap();
    assert_eq!(memory.mkdir(&dir, "x", 0o700), Err(Errno::NOENT));
    assert_eq!(memory.stat(Target::Dir(&dir)).unwrap().nlink, 0);
    assert_eq!(memory.0.space.free(), memory.0.space.limit() - 1);
    drop((file, node));
    assert_eq!(memory.0.space.free(), memory.0.space.limit());
}

#[test]
fn times_move_as_posix_says() {
    let (memory, clock) = memory();
    let root = memory.root().unwrap();
    let file = memory.create(&root, "f", 0o600).unwrap();
    let at = |secs| FileTime { secs, nanos: 0 };
    let times = || {
        let stat = file.stat().unwrap();
        (stat.atime, stat.mtime, stat.ctime)
    };
    let tick = || clock.advance(Duration::from_secs(10));
    tick();
    file.write_at(b"x", 0).unwrap();
    assert_eq!(times(), (at(1000), at(1010), at(1010)));
    tick();
    file.read_at(&mut [0], 0).unwrap();
    tick();
    file.read_at(&mut [0], 0).unwrap();
    assert_eq!(times(), (at(1020), at(1010), at(1010)), "read once after a change, as with relatime");
    memory.set_mode(Target::File(&file), 0o644).unwrap();
    assert_eq!(times(), (at(1020), at(1010), at(1030)));
    tick();
    memory.rename(&root, "f", &root, "g", RenameMode::Replace).unwrap();
    assert_eq!(times(), (at(1020), at(1010), at(1040)));
    let stat = memory.stat(Target::Dir(&root)).unwrap();
    assert_eq!((stat.mtime, stat.ctime), (at(1040), at(1040)));
}

#[test]
fn a_full_filesystem_and_one_without_privilege() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(0)));
    let options = MemoryOptions { capacity_pages: 1, owner: (1000, 1000), ordered_metadata: false };
    let memory = Memory::with_options(clock, options);
    let root = memory.root().unwrap();
    let file = memory.create(&root, "f", 0o4755).unwrap();
    assert!(!memory.ordered_metadata());
    assert_eq!(file.write_at(&[1; 5000], 0), Err(Errno::NOSPC));
    let stat = file.stat().unwrap();
    assert_eq!((stat.size, stat.mode, stat.uid), (4096, 0o755, 1000));
    assert_eq!(memory.set_xattr(Target::File(&file), "trusted.a", b"", XattrMode::Set), Err(Errno::PERM));
    assert_eq!(memory.stat_fs().unwrap().bfree, 0);
}
