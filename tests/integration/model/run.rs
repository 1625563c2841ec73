//! One operation on two filesystems, and what must be equal then.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kmsfs::env::ManualClock;
use kmsfs::format::name::NameForm;
use kmsfs::store::{Allocate, FileKind, Memory, MemoryOptions};
use kmsfs::types::Timestamp;
use proptest::prelude::*;
use proptest::sample::Index;
use rustix::io::Errno;

use super::ops::{Object, Op, Place};
use super::subject::{Mounted, Plain, PlainTree, Result, Subject};
use crate::fixture::Fixture;

/// Bytes of a page, the grain of holes as applications know them.
const PAGE: u64 = 4096;
const START: Timestamp = Timestamp::from_secs(1_000_000);

/// What an operation answered.
#[derive(PartialEq, Debug)]
enum Out {
    Nothing,
    Skipped,
    Bytes(Vec<u8>),
    Plain(Plain),
    Entries(BTreeMap<String, FileKind>),
    Names(Vec<String>),
    Positions(Option<u64>, Option<u64>),
}

/// An object of a tree.
#[derive(Clone, PartialEq, Debug)]
pub struct Found {
    pub plain: Plain,
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// The state of a comparison: what is open on both sides.
pub struct Comparison {
    /// Of each open file, whether it may be written.
    open: Vec<bool>,
    /// Whether both sides have the same clock.
    same_clock: bool,
    /// Of the second side, by file, the pages that were written since they were made or last became a hole.
    pages: Option<HashMap<u64, BTreeSet<u64>>>,
}

/// What is there before an operation.
struct There {
    dirs: Vec<Vec<String>>,
    objects: Vec<Vec<String>>,
}

impl There {
    fn look(subject: &dyn Subject) -> Self {
        let mut there = Self { dirs: vec![Vec::new()], objects: Vec::new() };
        let mut next = 0;
        while let Some(dir) = there.dirs.get(next).cloned() {
            next += 1;
            for (name, kind) in subject.list(&parts(&dir)).expect("a directory can be listed") {
                let path = [&dir[..], &[name]].concat();
                if kind == FileKind::Directory {
                    there.dirs.push(path.clone());
                }
                there.objects.push(path);
            }
        }
        there
    }

    fn place(&self, Place(dir, name): &Place) -> Vec<String> {
        [&self.dirs[dir.index(self.dirs.len())][..], &[(*name).to_owned()]].concat()
    }

    /// `None` if nothing is there.
    fn object(&self, object: &Object) -> Option<Vec<String>> {
        match object {
            Object::At(place) => Some(self.place(place)),
            Object::Existing(index) => self.objects.get(index.index(self.objects.len().max(1))).cloned(),
        }
    }
}

fn parts(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

impl Comparison {
    /// Both sides have one clock; the second finds holes to the page, as `docs/SEMANTICS.md` promises.
    pub fn exact() -> Self {
        Self { open: Vec::new(), same_clock: true, pages: Some(HashMap::new()) }
    }

    /// Real filesystems: each has its own clock and its own idea of holes.
    pub fn of_hosts() -> Self {
        Self { open: Vec::new(), same_clock: false, pages: None }
    }

    /// Does one operation on both sides.
    pub fn step(
        &mut self,
        number: usize,
        op: &Op,
        model: &mut dyn Subject,
        tested: &mut dyn Subject,
    ) -> std::result::Result<(), TestCaseError> {
        let there = There::look(model);
        let expected = self.apply(op, &there, model);
        let found = self.apply(op, &there, tested);
        match (op, self.file_of(op), &expected, &found) {
            (Op::Seek(_, offset), Some(file), Ok(_), Ok(Out::Positions(data, hole))) => {
                self.check_positions(tested, file, *offset, *data, *hole)?;
            }
            _ => prop_assert_eq!(&found, &expected, "operation {}: {:?}", number, op),
        }
        if let Some(file) = self.file_of(op)
            && found.as_ref().is_ok_and(|out| *out != Out::Skipped)
        {
            self.note(op, tested.file_id(file), tested.stat_file(file).map_or(0, |plain| plain.size));
            let (mut expected, mut found) = (model.stat_file(file), tested.stat_file(file));
            self.forget_times(&mut expected);
            self.forget_times(&mut found);
            prop_assert_eq!(found, expected, "attributes after operation {}: {:?}", number, op);
        }
        match (op, &found) {
            (Op::Create(..), Ok(_)) => {
                if let Some(pages) = &mut self.pages {
                    pages.remove(&tested.file_id(self.open.len()));
                }
                self.open.push(true);
            }
            (Op::Open(_, write), Ok(Out::Nothing)) => self.open.push(*write),
            (Op::Close(file), Ok(Out::Nothing)) => drop(self.open.swap_remove(file.index(self.open.len()))),
            (Op::Remount, _) => self.open.clear(),
            _ => {}
        }
        Ok(())
    }

    fn file(&self, index: &Index) -> Option<usize> {
        (!self.open.is_empty()).then(|| index.index(self.open.len()))
    }

    /// The open file that an operation is about, if it leaves it open.
    fn file_of(&self, op: &Op) -> Option<usize> {
        match op {
            Op::Read(file, ..)
            | Op::Write(file, ..)
            | Op::SetLen(file, ..)
            | Op::Allocate(file, ..)
            | Op::Seek(file, ..)
            | Op::Fsync(file, ..) => self.file(file),
            _ => None,
        }
    }

    fn apply(&self, op: &Op, there: &There, on: &mut dyn Subject) -> Result<Out> {
        macro_rules! some {
            ($x:expr) => {
                match $x {
                    Some(x) => x,
                    None => return Ok(Out::Skipped),
                }
            };
        }
        let object = |object: &Object| there.object(object);
        let nothing = |()| Out::Nothing;
        match op {
            Op::Create(place, mode) => on.create(&parts(&there.place(place)), *mode).map(nothing),
            Op::Open(what, write) => {
                let path = some!(object(what));
                // Of other types the kernel opens no file, whatever the filesystem thinks of it.
                match on.stat(&parts(&path)) {
                    Ok(Plain { kind: FileKind::Regular | FileKind::Directory, .. }) | Err(_) => {
                        // A directory opens as a file for reading only, which is not what is tested here.
                        on.open(&parts(&path), *write).map(nothing)
                    }
                    Ok(_) => Ok(Out::Skipped),
                }
            }
            Op::Close(file) => {
                on.close(some!(self.file(file)));
                Ok(Out::Nothing)
            }
            Op::Read(file, offset, len) => on.read(some!(self.file(file)), *offset, *len).map(Out::Bytes),
            Op::Write(file, offset, len, byte) => {
                let data: Vec<u8> = (0..*len).map(|at| byte.wrapping_add((at / 997) as u8).max(1)).collect();
                on.write(some!(self.file(file)), *offset, &data).map(nothing)
            }
            Op::SetLen(file, len) => {
                let file = some!(self.file(file));
                if self.open[file] { on.set_len(file, *len).map(nothing) } else { Ok(Out::Skipped) }
            }
            Op::Allocate(file, how, offset, len) => {
                on.allocate(some!(self.file(file)), *how, *offset, *len).map(nothing)
            }
            Op::Seek(file, offset) => {
                on.seek(some!(self.file(file)), *offset).map(|(data, hole)| Out::Positions(data, hole))
            }
            Op::Fsync(file, data_only) => on.fsync(some!(self.file(file)), *data_only).map(nothing),
            Op::Mkdir(place, mode) => on.mkdir(&parts(&there.place(place)), *mode).map(nothing),
            Op::Mknod(place, kind, mode) => on.mknod(&parts(&there.place(place)), *kind, *mode).map(nothing),
            Op::Symlink(place, target) => on.symlink(&parts(&there.place(place)), target).map(nothing),
            Op::ReadLink(what) => on.read_link(&parts(&some!(object(what)))).map(Out::Bytes),
            Op::Link(what, place) => on.link(&parts(&some!(object(what))), &parts(&there.place(place))).map(nothing),
            Op::Unlink(what) => on.unlink(&parts(&some!(object(what)))).map(nothing),
            Op::Rmdir(what) => on.rmdir(&parts(&some!(object(what)))).map(nothing),
            Op::Rename(what, to, mode) => {
                on.rename(&parts(&some!(object(what))), &parts(&some!(object(to))), *mode).map(nothing)
            }
            Op::List(dir) => on.list(&parts(&there.dirs[dir.index(there.dirs.len())])).map(Out::Entries),
            Op::FsyncDir(dir) => on.fsync_dir(&parts(&there.dirs[dir.index(there.dirs.len())])).map(nothing),
            Op::Stat(what) => {
                let mut stat = on.stat(&parts(&some!(object(what))));
                self.forget_times(&mut stat);
                stat.map(Out::Plain)
            }
            Op::SetMode(what, mode) => on.set_mode(&parts(&some!(object(what))), *mode).map(nothing),
            Op::SetMtime(what, mtime) => {
                let path = some!(object(what));
                on.set_mtime(&parts(&path), *mtime)?;
                on.stat(&parts(&path)).map(Out::Plain)
            }
            Op::GetXattr(what, name) => on.get_xattr(&parts(&some!(object(what))), name).map(Out::Bytes),
            Op::SetXattr(what, name, value, mode) => {
                on.set_xattr(&parts(&some!(object(what))), name, value, *mode).map(nothing)
            }
            Op::ListXattrs(what) => on.list_xattrs(&parts(&some!(object(what)))).map(Out::Names),
            Op::RemoveXattr(what, name) => on.remove_xattr(&parts(&some!(object(what))), name).map(nothing),
            Op::Remount => {
                on.remount();
                Ok(Out::Nothing)
            }
        }
    }

    fn forget_times(&self, plain: &mut Result<Plain>) {
        if let (Ok(plain), false) = (plain, self.same_clock) {
            plain.mtime = Default::default();
        }
    }

    /// Keeps account of the pages that may be data.
    fn note(&mut self, op: &Op, file: u64, size: u64) {
        let Some(pages) = &mut self.pages else { return };
        let pages = pages.entry(file).or_default();
        match *op {
            Op::Write(_, offset, len, _) => pages.extend(offset / PAGE..(offset + len as u64).div_ceil(PAGE)),
            Op::SetLen(_, len) => pages.retain(|page| *page < len.div_ceil(PAGE)),
            Op::Allocate(_, Allocate::PunchHole | Allocate::ZeroRange, offset, len) => {
                let end = (offset + len).min(size);
                pages.retain(|page| *page < offset.div_ceil(PAGE) || *page >= end / PAGE);
            }
            _ => {}
        }
    }

    fn check_positions(
        &self,
        tested: &dyn Subject,
        file: usize,
        offset: u64,
        data: Option<u64>,
        hole: Option<u64>,
    ) -> std::result::Result<(), TestCaseError> {
        let size = tested.stat_file(file).map_err(|e| TestCaseError::fail(e.to_string()))?.size;
        let content = tested.read(file, 0, size as usize).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let zeros = |from: u64, to: u64| content[from.min(size) as usize..to as usize].iter().all(|&b| b == 0);
        prop_assert!(data.is_none_or(|at| (offset..size).contains(&at)), "data at {:?}, size {}", data, size);
        prop_assert!(
            zeros(offset, data.unwrap_or(size.max(offset)).min(size).max(offset.min(size))),
            "data is skipped"
        );
        prop_assert_eq!(hole.is_none(), offset >= size);
        prop_assert!(hole.is_none_or(|at| (offset..=size).contains(&at)), "hole at {:?}, size {}", hole, size);
        prop_assert!(hole.is_none_or(|at| at == size || content[at as usize] == 0), "the hole is data");
        if let Some(pages) = &self.pages {
            let none = BTreeSet::new();
            let written = pages.get(&tested.file_id(file)).unwrap_or(&none);
            // A hole of one page between two written ones may pass for data.
            let may_be_data = |page: u64| {
                written.contains(&page) || (page > 0 && written.contains(&(page - 1)) && written.contains(&(page + 1)))
            };
            prop_assert!(data.is_none_or(|at| may_be_data(at / PAGE)), "data at {:?} was never written", data);
            if let Some(hole) = hole.filter(|hole| *hole > offset) {
                let passed = offset / PAGE..hole.div_ceil(PAGE);
                prop_assert!(passed.clone().all(may_be_data), "a hole in {:?} is missed", passed);
            }
        }
        Ok(())
    }
}

/// Does the same operations on a volume and on a plain tree, both in memory.
pub fn compare_with_model(
    ops: &[Op],
    ordered_metadata: bool,
    names: NameForm,
) -> std::result::Result<(), TestCaseError> {
    let clock = Arc::new(ManualClock::new(START));
    let options = MemoryOptions { ordered_metadata, ..MemoryOptions::default() };
    let mut model = PlainTree::new(Memory::new(clock.clone()));
    let backing = Memory::with_options(clock.clone(), options);
    let mut mounted = Mounted::new(Fixture::with_names(backing, clock.clone(), names));
    let mut comparison = Comparison::exact();
    for (number, op) in ops.iter().enumerate() {
        clock.advance(Duration::from_secs(1));
        comparison.step(number, op, &mut model, &mut mounted)?;
    }
    prop_assert_eq!(tree(&mut mounted), tree(&mut model));
    prop_assert_eq!(mounted.known_when_closed(), 0, "every reference was given back");
    mounted.remount();
    model.remount();
    prop_assert_eq!(tree(&mut mounted), tree(&mut model), "after the volume was mounted again");
    Ok(())
}

/// The whole tree of a filesystem.
pub fn tree(subject: &mut dyn Subject) -> BTreeMap<String, Found> {
    let mut tree = BTreeMap::new();
    for path in There::look(subject).objects {
        let names = parts(&path);
        let plain = subject.stat(&names).expect("what is listed has attributes");
        let content = match plain.kind {
            FileKind::Regular => read_all(subject, &names, plain.size).expect("a file can be read"),
            FileKind::Symlink => subject.read_link(&names).expect("a symlink can be read"),
            _ => Vec::new(),
        };
        let xattrs = subject.list_xattrs(&names).expect("attributes can be listed");
        let value = |name: String| {
            let value = subject.get_xattr(&names, &name).expect("a listed attribute has a value");
            (name, value)
        };
        let xattrs = xattrs.into_iter().map(value).collect();
        tree.insert(path.join("/"), Found { plain, content, xattrs });
    }
    tree
}

/// Reads a file through an opening of its own, which comes last in the list.
pub fn read_all(subject: &mut dyn Subject, path: &[&str], size: u64) -> std::result::Result<Vec<u8>, Errno> {
    subject.open(path, false)?;
    let file = subject.open_files() - 1;
    let content = subject.read(file, 0, size as usize);
    subject.close(file);
    content
}
