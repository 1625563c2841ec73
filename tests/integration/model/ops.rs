//! Random operations.

use kmsfs::store::{Allocate, FileKind, FileTime, RenameMode, XattrMode};
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// A name in one of the directories that are there.
#[derive(Clone, Debug)]
pub struct Place(pub Index, pub &'static str);

/// What an operation is about: mostly something that is there. Indices select among what is there at that moment, so
/// that a sequence stays meaningful when it is shrunk.
#[derive(Clone, Debug)]
pub enum Object {
    Existing(Index),
    At(Place),
}

#[derive(Clone, Debug)]
pub enum Op {
    Create(Place, u32),
    Open(Object, bool),
    Close(Index),
    Read(Index, u64, usize),
    Write(Index, u64, usize, u8),
    SetLen(Index, u64),
    Allocate(Index, Allocate, u64, u64),
    Seek(Index, u64),
    Fsync(Index, bool),
    Mkdir(Place, u32),
    Mknod(Place, FileKind, u32),
    Symlink(Place, Vec<u8>),
    ReadLink(Object),
    Link(Object, Place),
    Unlink(Object),
    Rmdir(Object),
    Rename(Object, Object, RenameMode),
    List(Index),
    FsyncDir(Index),
    Stat(Object),
    SetMode(Object, u32),
    SetMtime(Object, FileTime),
    GetXattr(Object, &'static str),
    SetXattr(Object, &'static str, Vec<u8>, XattrMode),
    ListXattrs(Object),
    RemoveXattr(Object, &'static str),
    Remount,
}

/// Plaintext bytes of a unit, whose borders are where mistakes are made.
pub const UNIT: u64 = 4064;

/// A name of an attribute that does not fit into its name on disk.
const LONG_ATTRIBUTE: &str = concat!(
    "user.",
    "xyz0123456789xyz0123456789xyz0123456789xyz0123456789xyz0123456789xyz0123456789",
    "xyz0123456789xyz0123456789xyz0123456789xyz0123456789xyz0123456789xyz0123456789",
    "xyz0123456789xyz0123456789xyz0123456789xyz0123456789xyz0123456789xyz0123456789",
);

/// Longest name that there is: stored with a side entry.
pub const LONGEST: &str = concat!(
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "0123456789012345678901234567890123456789012345678901234"
);
const TOO_LONG: &str = concat!(
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "01234567890123456789012345678901234567890123456789012345"
);
/// Shortest name with a side entry.
const LONG: &str = concat!(
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "0123456789012345678901234567890123456789012345678901234567890123456789012345"
);

/// As text it could be an encrypted name.
const LIKE_ENCRYPTED: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn names() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        30 => select(vec!["a", "b", "c", "d"]),
        2 => select(vec![LONG, LONGEST, "\u{e4}\u{1f600}", " ", ".kmsfs", ".kmsfs.dir", "~Tx", "~L", LIKE_ENCRYPTED]),
        1 => Just(TOO_LONG),
    ]
}

fn place() -> impl Strategy<Value = Place> {
    (any::<Index>(), names()).prop_map(|(dir, name)| Place(dir, name))
}

fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        4 => any::<Index>().prop_map(Object::Existing),
        1 => place().prop_map(Object::At),
    ]
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => 0..40_000_u64,
        2 => (0..9_u64, -2..=2_i64).prop_map(|(unit, by)| (unit * UNIT).saturating_add_signed(by)),
        1 => (0..9_u64, -2..=2_i64).prop_map(|(page, by)| (page * 4096).saturating_add_signed(by)),
    ]
}

fn mode() -> impl Strategy<Value = u32> {
    // None that a usual file mode creation mask would change.
    select(vec![0o600, 0o644, 0o700, 0o755])
}

pub fn op() -> impl Strategy<Value = Op> {
    let file = any::<Index>;
    let renames = select(vec![RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange]);
    let hows = select(vec![Allocate::PunchHole, Allocate::PunchHole, Allocate::ZeroRange, Allocate::KeepSize]);
    let sets = select(vec![XattrMode::Set, XattrMode::Set, XattrMode::Create, XattrMode::Replace]);
    let xattr = || select(vec!["user.a", "user.kmsfs.b", "user.long attribute name", LONG_ATTRIBUTE]);
    let times = (0..2_000_000_000_i64, 0..1_000_000_000_u32).prop_map(|(secs, nanos)| FileTime { secs, nanos });
    let len = || prop_oneof![3 => 1..12_000_usize, 1 => Just(UNIT as usize), 1 => 1..40_000_usize];
    let content = prop_oneof![
        6 => (file(), offset(), len(), 1..=255_u8).prop_map(|(f, o, n, b)| Op::Write(f, o, n, b)),
        2 => (file(), offset(), len()).prop_map(|(f, o, n)| Op::Read(f, o, n)),
        3 => (file(), offset()).prop_map(|(f, n)| Op::SetLen(f, n)),
        3 => (file(), hows, offset(), len()).prop_map(|(f, h, o, n)| Op::Allocate(f, h, o, n as u64)),
        2 => (file(), offset()).prop_map(|(f, o)| Op::Seek(f, o)),
        2 => (file(), any::<bool>()).prop_map(|(f, d)| Op::Fsync(f, d)),
    ];
    let entries = prop_oneof![
        6 => (place(), mode()).prop_map(|(p, m)| Op::Create(p, m)),
        4 => (object(), any::<bool>()).prop_map(|(o, w)| Op::Open(o, w)),
        2 => file().prop_map(Op::Close),
        4 => (place(), mode()).prop_map(|(p, m)| Op::Mkdir(p, m)),
        1 => (place(), select(vec![FileKind::Fifo, FileKind::Socket, FileKind::Regular]), mode())
            .prop_map(|(p, k, m)| Op::Mknod(p, k, m)),
        1 => (place(), prop::collection::vec(1..=255_u8, 1..200)).prop_map(|(p, t)| Op::Symlink(p, t)),
        1 => object().prop_map(Op::ReadLink),
        2 => (object(), place()).prop_map(|(o, p)| Op::Link(o, p)),
        3 => object().prop_map(Op::Unlink),
        2 => object().prop_map(Op::Rmdir),
        6 => (object(), object(), renames).prop_map(|(o, p, m)| Op::Rename(o, p, m)),
        1 => file().prop_map(Op::List),
        1 => file().prop_map(Op::FsyncDir),
    ];
    let attributes = prop_oneof![
        2 => object().prop_map(Op::Stat),
        1 => (object(), mode()).prop_map(|(o, m)| Op::SetMode(o, m)),
        1 => (object(), times).prop_map(|(o, t)| Op::SetMtime(o, t)),
        1 => (object(), xattr()).prop_map(|(o, n)| Op::GetXattr(o, n)),
        3 => (object(), xattr(), prop::collection::vec(any::<u8>(), 0..300), sets)
            .prop_map(|(o, n, v, m)| Op::SetXattr(o, n, v, m)),
        1 => object().prop_map(Op::ListXattrs),
        1 => (object(), xattr()).prop_map(|(o, n)| Op::RemoveXattr(o, n)),
    ];
    prop_oneof![30 => entries, 30 => content, 10 => attributes, 1 => Just(Op::Remount)]
}
