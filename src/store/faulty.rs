//! Errors on demand, and a record of what was changed.

use std::collections::HashSet;

use rustix::io::Errno;

use super::record::{Made, Record};
use super::{
    Access, Allocate, Backing, BackingFile, FileKind, FileTime, FsStat, RawEntry, RenameMode, Result, SetTime, Stat,
    Target, XattrMode,
};
use crate::sync::{Arc, Mutex, OnceLock, lock};

/// The kinds of operations that a [`Fault`] can be confined to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum OpClass {
    /// `open`, `open_node`, `open_dir`, `pin`, `root`.
    Open,
    /// `list` and `read_list`.
    List,
    /// `read_at`, `read_link`.
    Read,
    /// `stat`, `stat_fs`, `get_xattr`, `list_xattrs`, `seek_data`, `seek_hole`.
    Stat,
    /// `create`, `mkdir`, `mknod`, `symlink`.
    Make,
    /// `link`.
    Link,
    /// `unlink`, `rmdir`.
    Remove,
    /// `rename`, but for the next.
    Rename,
    /// `rename` that lets two entries change places, which not every filesystem can.
    Exchange,
    /// `write_at`.
    Write,
    /// `set_len`.
    SetLen,
    /// `allocate`.
    Allocate,
    /// `set_mode`, `set_owner`, `set_times`.
    SetAttr,
    /// `set_xattr`, `remove_xattr`.
    SetXattr,
    /// `sync`, `sync_dir`, `sync_all`, `wait_for_writeback`.
    Sync,
}

impl OpClass {
    /// All.
    pub const ALL: &'static [Self] = &[
        Self::Open,
        Self::List,
        Self::Read,
        Self::Stat,
        Self::Make,
        Self::Link,
        Self::Remove,
        Self::Rename,
        Self::Exchange,
        Self::Write,
        Self::SetLen,
        Self::Allocate,
        Self::SetAttr,
        Self::SetXattr,
        Self::Sync,
    ];

    /// Those that change something.
    pub const CHANGES: &'static [Self] = &[
        Self::Make,
        Self::Link,
        Self::Remove,
        Self::Rename,
        Self::Exchange,
        Self::Write,
        Self::SetLen,
        Self::Allocate,
        Self::SetAttr,
        Self::SetXattr,
    ];

    /// Those that take a descriptor, if only for the time of the call.
    pub const NEED_DESCRIPTORS: &'static [Self] = &[Self::Open, Self::List, Self::Make, Self::SetAttr];

    /// Those that a full filesystem or an exhausted quota refuses.
    pub const NEED_SPACE: &'static [Self] =
        &[Self::Make, Self::Link, Self::Rename, Self::Exchange, Self::Write, Self::Allocate, Self::SetXattr];
}

/// An error to inject.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The operations that it can hit; others are neither counted nor failed.
    pub on: &'static [OpClass],
    /// How many of them succeed first.
    pub after: u64,
    /// Whether all further ones fail, or just one.
    pub lasting: bool,
    /// The error.
    pub errno: Errno,
    /// Bytes that a failing `write_at` writes before it fails, as far as it has that many.
    pub partial: usize,
    /// It does not fail, it panics.
    pub panics: bool,
}

impl Fault {
    /// One operation of these classes fails, after so many that don't.
    pub fn once(on: &'static [OpClass], after: u64, errno: Errno) -> Self {
        Self { on, after, lasting: false, errno, partial: 0, panics: false }
    }

    /// All operations of these classes fail, after so many that don't.
    pub fn from(on: &'static [OpClass], after: u64, errno: Errno) -> Self {
        Self { on, after, lasting: true, errno, partial: 0, panics: false }
    }

    /// One operation of these classes panics, after so many that don't: a bug that is met.
    pub fn panic(on: &'static [OpClass], after: u64) -> Self {
        Self { panics: true, ..Self::once(on, after, Errno::IO) }
    }

    /// A failing write leaves this many bytes behind.
    pub fn with_partial_write(self, partial: usize) -> Self {
        Self { partial, ..self }
    }
}

/// Which operations fail. Clones are the same plan; it can be changed at any time.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    counts: [u64; OpClass::ALL.len()],
    /// Each with the number of operations that it has counted.
    faults: Vec<(Fault, u64)>,
    injected: u64,
    beside: Beside,
}

/// What is done when the next flush of a file is, before its caller knows.
#[derive(Default)]
struct Beside(Option<Box<dyn FnOnce() + Send>>);

impl std::fmt::Debug for Beside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Beside(..)" } else { "Beside" })
    }
}

impl FaultPlan {
    /// A plan in which nothing fails.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a fault, which counts from now on.
    pub fn inject(&self, fault: Fault) {
        lock(&self.0).faults.push((fault, 0));
    }

    /// Has `action` done when the next flush of a file is, before its caller knows: what others do meanwhile.
    pub fn beside_next_flush(&self, action: impl FnOnce() + Send + 'static) {
        lock(&self.0).beside = Beside(Some(Box::new(action)));
    }

    /// From now on nothing fails.
    pub fn heal(&self) {
        lock(&self.0).faults.clear();
    }

    /// Errors that were injected so far.
    pub fn injected(&self) -> u64 {
        lock(&self.0).injected
    }

    /// Operations of these classes so far, failed ones included.
    pub fn count(&self, of: &[OpClass]) -> u64 {
        let plan = lock(&self.0);
        of.iter().map(|&class| plan.counts[class as usize]).sum()
    }

    /// Counts an operation; the fault that hits it.
    fn meet(&self, class: OpClass) -> Option<Fault> {
        let mut plan = lock(&self.0);
        plan.counts[class as usize] += 1;
        let mut hit = None;
        for (fault, seen) in plan.faults.iter_mut().filter(|(fault, _)| fault.on.contains(&class)) {
            if *seen == fault.after || fault.lasting && *seen > fault.after {
                hit = hit.or(Some(*fault));
            }
            *seen += 1;
        }
        plan.injected += u64::from(hit.is_some());
        drop(plan);
        assert!(!hit.is_some_and(|fault| fault.panics), "a fault that panics");
        hit
    }
}

/// What was changed, in order, while recording is on.
#[derive(Default)]
struct Log {
    records: Mutex<Option<Vec<Record>>>,
    lost: Mutex<Lost>,
    /// Called after each record.
    watcher: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// What a failed flush of everything loses, while recording is on. Linux tells of it twice: the flush of the filesystem fails, and
/// later that of each file that lost something (errseq_t).
#[derive(Default)]
struct Lost {
    /// Files that were written since they were flushed.
    dirty: HashSet<u64>,
    /// Files that have lost something and whose next flush fails.
    untold: HashSet<u64>,
}

/// A backing that fails on demand and can record its changes. Clones are the same backing.
///
/// While it records, changes take place one after the other, so that the record has an order.
pub struct Faulty<B: Backing> {
    inner: Arc<B>,
    plan: FaultPlan,
    log: Arc<Log>,
}

impl<B: Backing> Clone for Faulty<B> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), plan: self.plan.clone(), log: Arc::clone(&self.log) }
    }
}

/// An open file of a [`Faulty`] backing.
pub struct FaultyFile<F: BackingFile> {
    inner: F,
    plan: FaultPlan,
    log: Arc<Log>,
}

impl<B: Backing> Faulty<B> {
    /// Puts the plan in front of a backing.
    pub fn new(inner: B, plan: FaultPlan) -> Self {
        Self { inner: Arc::new(inner), plan, log: Arc::default() }
    }

    /// The plan.
    pub fn plan(&self) -> &FaultPlan {
        &self.plan
    }

    /// The backing behind, where nothing fails and nothing is recorded.
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// Begins a new record.
    pub fn start_recording(&self) {
        *lock(&self.log.records) = Some(Vec::new());
    }

    /// Ends the record and returns it; empty if none was begun.
    pub fn stop_recording(&self) -> Vec<Record> {
        lock(&self.log.records).take().unwrap_or_default()
    }

    /// Has `watcher` called after each change that is recorded, before the next one can take place. The first call counts.
    pub fn watch(&self, watcher: impl Fn() + Send + Sync + 'static) {
        let _ = self.log.watcher.set(Box::new(watcher));
    }

    fn may(&self, class: OpClass) -> Result<()> {
        self.plan.meet(class).map_or(Ok(()), |fault| Err(fault.errno))
    }

    fn change<T>(
        &self,
        class: OpClass,
        change: impl FnOnce(&B) -> Result<T>,
        record: impl FnOnce(&B) -> Result<Record>,
    ) -> Result<T> {
        self.may(class)?;
        self.log.change(|| change(&self.inner), || record(&self.inner))
    }

    /// A change of the attributes of an object, whose number is looked up before.
    fn change_target(
        &self,
        class: OpClass,
        target: Target<'_, Self>,
        change: impl FnOnce(&B, Target<'_, B>) -> Result<()>,
        record: impl FnOnce(u64) -> Record,
    ) -> Result<()> {
        self.may(class)?;
        let target = inner_target(target);
        self.log.change(|| change(&self.inner, target), || Ok(record(self.inner.stat(target)?.ino)))
    }

    fn made(b: &B, dir: &B::Dir, name: &str, what: Made, mode: u32) -> Result<Record> {
        let ino = b.stat(Target::Named(dir, name))?.ino;
        Ok(Record::Make { dir: ino_of(b, dir)?, name: name.into(), what, mode, ino })
    }

    fn wrap(&self, inner: B::File) -> FaultyFile<B::File> {
        FaultyFile { inner, plan: self.plan.clone(), log: self.log.clone() }
    }
}

impl Log {
    /// Makes a change and, if recording is on, records it. Other changes wait meanwhile.
    fn change<T>(&self, change: impl FnOnce() -> Result<T>, record: impl FnOnce() -> Result<Record>) -> Result<T> {
        self.change_with(change, |_| record())
    }

    /// As [`Self::change`], for a record that tells what the change made.
    fn change_with<T>(
        &self,
        change: impl FnOnce() -> Result<T>,
        record: impl FnOnce(&T) -> Result<Record>,
    ) -> Result<T> {
        let mut log = lock(&self.records);
        let Some(records) = &mut *log else {
            drop(log);
            return change();
        };
        let done = change()?;
        let record = record(&done)?;
        lock(&self.lost).follow(&record);
        records.push(record);
        if let Some(watcher) = self.watcher.get() {
            watcher();
        }
        Ok(done)
    }
}

impl Lost {
    fn follow(&mut self, record: &Record) {
        match record {
            Record::Write { ino, .. } => drop(self.dirty.insert(*ino)),
            Record::Sync { ino, .. } | Record::FailedSync { ino } => drop(self.dirty.remove(ino)),
            Record::SyncAll => self.dirty.clear(),
            Record::FailedSyncAll => self.untold.extend(self.dirty.drain()),
            _ => {}
        }
    }
}

fn ino_of<B: Backing>(backing: &B, dir: &B::Dir) -> Result<u64> {
    Ok(backing.stat(Target::Dir(dir))?.ino)
}

fn inner_target<B: Backing>(target: Target<'_, Faulty<B>>) -> Target<'_, B> {
    match target {
        Target::Named(dir, name) => Target::Named(dir, name),
        Target::Dir(dir) => Target::Dir(dir),
        Target::Node(node) => Target::Node(node),
        Target::File(file) => Target::File(&file.inner),
    }
}

impl<B: Backing> Backing for Faulty<B> {
    type Dir = B::Dir;
    type File = FaultyFile<B::File>;
    type Node = B::Node;
    type List = B::List;

    fn root(&self) -> Result<B::Dir> {
        self.may(OpClass::Open)?;
        self.inner.root()
    }

    fn stat_fs(&self) -> Result<FsStat> {
        self.may(OpClass::Stat)?;
        self.inner.stat_fs()
    }

    fn ordered_metadata(&self) -> bool {
        self.inner.ordered_metadata()
    }

    fn user(&self) -> u32 {
        self.inner.user()
    }

    fn sync_all(&self) -> Result<()> {
        self.change(OpClass::Sync, |b| b.sync_all(), |_| Ok(Record::SyncAll)).or_else(|error| {
            self.log.change(|| Ok(()), || Ok(Record::FailedSyncAll))?;
            Err(error)
        })
    }

    fn open_dir(&self, dir: &B::Dir, name: &str) -> Result<B::Dir> {
        self.may(OpClass::Open)?;
        self.inner.open_dir(dir, name)
    }

    fn open(&self, dir: &B::Dir, name: &str, access: Access) -> Result<Self::File> {
        self.may(OpClass::Open)?;
        self.inner.open(dir, name, access).map(|file| self.wrap(file))
    }

    fn create(&self, dir: &B::Dir, name: &str, mode: u32) -> Result<Self::File> {
        let what = Made::Node { kind: FileKind::Regular, rdev: 0 };
        let record = |b: &B| Self::made(b, dir, name, what, mode);
        self.change(OpClass::Make, |b| b.create(dir, name, mode), record).map(|file| self.wrap(file))
    }

    fn create_unnamed(&self, dir: &B::Dir, mode: u32) -> Result<(Self::File, B::Node)> {
        self.may(OpClass::Make)?;
        let made = self.log.change_with(
            || self.inner.create_unnamed(dir, mode),
            |(file, _)| Ok(Record::MakeUnnamed { dir: ino_of(&*self.inner, dir)?, mode, ino: file.stat()?.ino }),
        );
        made.map(|(file, node)| (self.wrap(file), node))
    }

    fn pin(&self, dir: &B::Dir, name: &str) -> Result<B::Node> {
        self.may(OpClass::Open)?;
        self.inner.pin(dir, name)
    }

    fn open_node(&self, node: &B::Node, access: Access) -> Result<Self::File> {
        self.may(OpClass::Open)?;
        self.inner.open_node(node, access).map(|file| self.wrap(file))
    }

    fn list(&self, dir: &B::Dir) -> Result<B::List> {
        self.may(OpClass::List)?;
        self.inner.list(dir)
    }

    fn read_list(&self, list: &mut B::List, from: u64, out: &mut Vec<RawEntry>) -> Result<()> {
        self.may(OpClass::List)?;
        self.inner.read_list(list, from, out)
    }

    fn mkdir(&self, dir: &B::Dir, name: &str, mode: u32) -> Result<()> {
        let record = |b: &B| Self::made(b, dir, name, Made::Directory, mode);
        self.change(OpClass::Make, |b| b.mkdir(dir, name, mode), record)
    }

    fn mknod(&self, dir: &B::Dir, name: &str, kind: FileKind, mode: u32, rdev: u64) -> Result<()> {
        let record = |b: &B| Self::made(b, dir, name, Made::Node { kind, rdev }, mode);
        self.change(OpClass::Make, |b| b.mknod(dir, name, kind, mode, rdev), record)
    }

    fn symlink(&self, target: &[u8], dir: &B::Dir, name: &str) -> Result<()> {
        let record = |b: &B| Self::made(b, dir, name, Made::Symlink(target.into()), 0o777);
        self.change(OpClass::Make, |b| b.symlink(target, dir, name), record)
    }

    fn read_link(&self, target: Target<'_, Self>) -> Result<Vec<u8>> {
        self.may(OpClass::Read)?;
        self.inner.read_link(inner_target(target))
    }

    fn link(&self, dir: &B::Dir, name: &str, to_dir: &B::Dir, to_name: &str) -> Result<()> {
        let record = |b: &B| {
            let (dir, to_dir) = (ino_of(b, dir)?, ino_of(b, to_dir)?);
            Ok(Record::Link { dir, name: name.into(), to_dir, to_name: to_name.into() })
        };
        self.change(OpClass::Link, |b| b.link(dir, name, to_dir, to_name), record)
    }

    fn link_node(&self, node: &B::Node, to_dir: &B::Dir, to_name: &str) -> Result<()> {
        let record = |b: &B| {
            let ino = b.stat(Target::Node(node))?.ino;
            Ok(Record::LinkNode { ino, to_dir: ino_of(b, to_dir)?, to_name: to_name.into() })
        };
        self.change(OpClass::Link, |b| b.link_node(node, to_dir, to_name), record)
    }

    fn unlink(&self, dir: &B::Dir, name: &str) -> Result<()> {
        let record = |b: &B| Ok(Record::Unlink { dir: ino_of(b, dir)?, name: name.into() });
        self.change(OpClass::Remove, |b| b.unlink(dir, name), record)
    }

    fn rmdir(&self, dir: &B::Dir, name: &str) -> Result<()> {
        let record = |b: &B| Ok(Record::Rmdir { dir: ino_of(b, dir)?, name: name.into() });
        self.change(OpClass::Remove, |b| b.rmdir(dir, name), record)
    }

    fn rename(&self, dir: &B::Dir, name: &str, to_dir: &B::Dir, to_name: &str, mode: RenameMode) -> Result<()> {
        let record = |b: &B| {
            let (dir, to_dir) = (ino_of(b, dir)?, ino_of(b, to_dir)?);
            Ok(Record::Rename { dir, name: name.into(), to_dir, to_name: to_name.into(), mode })
        };
        let class = if mode == RenameMode::Exchange { OpClass::Exchange } else { OpClass::Rename };
        self.change(class, |b| b.rename(dir, name, to_dir, to_name, mode), record)
    }

    fn sync_dir(&self, dir: &B::Dir) -> Result<()> {
        self.change(OpClass::Sync, |b| b.sync_dir(dir), |b| Ok(Record::SyncDir { dir: ino_of(b, dir)? }))
    }

    fn stat(&self, target: Target<'_, Self>) -> Result<Stat> {
        self.may(OpClass::Stat)?;
        self.inner.stat(inner_target(target))
    }

    fn birth_time(&self, target: Target<'_, Self>) -> Result<Option<FileTime>> {
        self.may(OpClass::Stat)?;
        self.inner.birth_time(inner_target(target))
    }

    fn set_mode(&self, target: Target<'_, Self>, mode: u32) -> Result<()> {
        let record = |ino| Record::SetMode { ino, mode };
        self.change_target(OpClass::SetAttr, target, |b, target| b.set_mode(target, mode), record)
    }

    fn set_owner(&self, target: Target<'_, Self>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let record = |ino| Record::SetOwner { ino, uid, gid };
        self.change_target(OpClass::SetAttr, target, |b, target| b.set_owner(target, uid, gid), record)
    }

    fn set_times(&self, target: Target<'_, Self>, atime: SetTime, mtime: SetTime) -> Result<()> {
        let record = |ino| Record::SetTimes { ino, atime, mtime };
        self.change_target(OpClass::SetAttr, target, |b, target| b.set_times(target, atime, mtime), record)
    }

    fn get_xattr(&self, target: Target<'_, Self>, name: &str) -> Result<Vec<u8>> {
        self.may(OpClass::Stat)?;
        self.inner.get_xattr(inner_target(target), name)
    }

    fn set_xattr(&self, target: Target<'_, Self>, name: &str, value: &[u8], mode: XattrMode) -> Result<()> {
        let record = |ino| Record::SetXattr { ino, name: name.into(), value: value.into() };
        self.change_target(OpClass::SetXattr, target, |b, target| b.set_xattr(target, name, value, mode), record)
    }

    fn inode_flags(&self, target: Target<'_, Self>) -> Result<u32> {
        self.may(OpClass::Stat)?;
        self.inner.inode_flags(inner_target(target))
    }

    fn set_inode_flags(&self, target: Target<'_, Self>, flags: u32) -> Result<()> {
        let record = |ino| Record::SetInodeFlags { ino, flags };
        self.change_target(OpClass::SetAttr, target, |b, target| b.set_inode_flags(target, flags), record)
    }

    fn list_xattrs(&self, target: Target<'_, Self>) -> Result<Vec<String>> {
        self.may(OpClass::Stat)?;
        self.inner.list_xattrs(inner_target(target))
    }

    fn remove_xattr(&self, target: Target<'_, Self>, name: &str) -> Result<()> {
        let record = |ino| Record::RemoveXattr { ino, name: name.into() };
        self.change_target(OpClass::SetXattr, target, |b, target| b.remove_xattr(target, name), record)
    }
}

impl<F: BackingFile> FaultyFile<F> {
    fn may(&self, class: OpClass) -> Result<()> {
        self.plan.meet(class).map_or(Ok(()), |fault| Err(fault.errno))
    }

    fn change(
        &self,
        class: OpClass,
        change: impl FnOnce() -> Result<()>,
        record: impl FnOnce(u64) -> Record,
    ) -> Result<()> {
        self.may(class)?;
        self.log.change(change, || Ok(record(self.inner.stat()?.ino)))
    }

    /// A flush, which is recorded also if it fails: it may have lost what it was to write.
    fn flush(&self, flush: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        flush(self).or_else(|error| {
            self.log.change(|| Ok(()), || Ok(Record::FailedSync { ino: self.inner.stat()?.ino }))?;
            Err(error)
        })
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<()> {
        let record = || Ok(Record::Write { ino: self.inner.stat()?.ino, offset, data: data.into() });
        self.log.change(|| self.inner.write_at(data, offset), record)
    }
}

impl<F: BackingFile> BackingFile for FaultyFile<F> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.may(OpClass::Read)?;
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        match self.plan.meet(OpClass::Write) {
            None => self.write(buf, offset),
            Some(fault) => {
                self.write(&buf[..fault.partial.min(buf.len())], offset)?;
                Err(fault.errno)
            }
        }
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.change(OpClass::SetLen, || self.inner.set_len(len), |ino| Record::SetLen { ino, len })
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        let sync = || {
            let ino = self.inner.stat()?.ino;
            let has_lost = lock(&self.log.lost).untold.remove(&ino);
            if has_lost { Err(Errno::IO) } else { self.inner.sync(data_only) }
        };
        let synced = self.flush(|file| file.change(OpClass::Sync, sync, |ino| Record::Sync { ino, data_only }));
        let beside = lock(&self.plan.0).beside.0.take();
        if let Some(action) = beside {
            action();
        }
        synced
    }

    fn wait_for_writeback(&self, offset: u64, len: u64) -> Result<()> {
        self.flush(|file| {
            file.may(OpClass::Sync)?;
            file.inner.wait_for_writeback(offset, len)
        })
    }

    fn start_writeback(&self, offset: u64, len: u64) {
        let record = || Ok(Record::StartWriteback { ino: self.inner.stat()?.ino, offset, len });
        // It cannot fail, nor can what the record needs on a backing that is recorded.
        let start = || {
            self.inner.start_writeback(offset, len);
            Ok(())
        };
        let _ = self.log.change(start, record);
    }

    fn allocate(&self, how: Allocate, offset: u64, len: u64) -> Result<()> {
        let record = |ino| Record::Allocate { ino, how, offset, len };
        self.change(OpClass::Allocate, || self.inner.allocate(how, offset, len), record)
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        self.may(OpClass::Stat)?;
        self.inner.seek_data(offset)
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.may(OpClass::Stat)?;
        self.inner.seek_hole(offset)
    }

    fn stat(&self) -> Result<Stat> {
        self.may(OpClass::Stat)?;
        self.inner.stat()
    }

    fn fetch(&self, len: u64) {
        self.inner.fetch(len);
    }

    fn read_ahead(&self) {
        self.inner.read_ahead();
    }

    fn forget(&self, offset: u64, len: u64) {
        self.inner.forget(offset, len);
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Replay;
    use super::super::{Memory, MemoryFile};
    use super::*;
    use crate::env::{ManualClock, SystemClock};
    use crate::types::Timestamp;

    fn faulty() -> Faulty<Memory> {
        Faulty::new(Memory::new(Arc::new(SystemClock)), FaultPlan::new())
    }

    #[test]
    fn faults_hit_the_operation_they_were_made_for() {
        let backing = faulty();
        let root = backing.root().unwrap();
        let file = backing.create(&root, "f", 0o600).unwrap();
        backing.plan().inject(Fault::once(&[OpClass::Write], 1, Errno::NOSPC).with_partial_write(2));
        assert_eq!(file.write_at(b"1111", 0), Ok(()));
        assert_eq!(file.set_len(4), Ok(()));
        assert_eq!(file.write_at(b"2222", 0), Err(Errno::NOSPC));
        let mut content = [0; 4];
        file.read_at(&mut content, 0).unwrap();
        assert_eq!(&content, b"2211");
        assert_eq!(file.write_at(b"3333", 0), Ok(()));
        assert_eq!((backing.plan().injected(), backing.plan().count(&[OpClass::Write])), (1, 3));
    }

    #[test]
    fn a_lasting_fault_lasts_until_it_is_healed() {
        let backing = faulty();
        let root = backing.root().unwrap();
        backing.plan().inject(Fault::from(OpClass::CHANGES, 1, Errno::IO));
        assert_eq!(backing.mkdir(&root, "a", 0o700), Ok(()));
        assert_eq!(backing.mkdir(&root, "b", 0o700), Err(Errno::IO));
        assert_eq!(backing.unlink(&root, "c"), Err(Errno::IO));
        assert_eq!(backing.stat(Target::Named(&root, "b")).map(drop), Err(Errno::NOENT));
        backing.plan().heal();
        assert_eq!(backing.mkdir(&root, "b", 0o700), Ok(()));
    }

    #[test]
    fn a_record_replays_to_the_same_tree() {
        let clock = || Arc::new(ManualClock::new(Timestamp::from_secs(5)));
        let backing = Faulty::new(Memory::new(clock()), FaultPlan::new());
        let root = backing.root().unwrap();
        backing.start_recording();
        let file = backing.create(&root, "f", 0o600).unwrap();
        file.write_at(&[1; 9000], 0).unwrap();
        backing.mkdir(&root, "d", 0o755).unwrap();
        let dir = backing.open_dir(&root, "d").unwrap();
        backing.rename(&root, "f", &dir, "g", RenameMode::NoReplace).unwrap();
        backing.link(&dir, "g", &root, "h").unwrap();
        file.allocate(Allocate::PunchHole, 0, 4096).unwrap();
        backing.plan().inject(Fault::once(&[OpClass::Write], 0, Errno::IO).with_partial_write(1));
        assert_eq!(file.write_at(b"xyz", 5000), Err(Errno::IO));
        file.set_len(8000).unwrap();
        file.sync(true).unwrap();
        backing.symlink(b"target", &dir, "s").unwrap();
        backing.mknod(&dir, "p", FileKind::Fifo, 0o640, 0).unwrap();
        backing.set_xattr(Target::File(&file), "user.a", b"1", XattrMode::Create).unwrap();
        backing.set_xattr(Target::Dir(&dir), "user.b", b"2", XattrMode::Set).unwrap();
        backing.remove_xattr(Target::Dir(&dir), "user.b").unwrap();
        backing.set_mode(Target::Named(&dir, "p"), 0o600).unwrap();
        backing.set_owner(Target::Named(&root, "h"), Some(7), None).unwrap();
        backing.set_times(Target::Named(&dir, "s"), SetTime::Omit, SetTime::At(Default::default())).unwrap();
        backing.unlink(&dir, "g").unwrap();
        assert_eq!(backing.unlink(&dir, "g"), Err(Errno::NOENT));
        backing.mkdir(&dir, "e", 0o700).unwrap();
        backing.rmdir(&dir, "e").unwrap();
        backing.sync_dir(&root).unwrap();
        backing.sync_all().unwrap();
        let records = backing.stop_recording();
        backing.mkdir(&root, "unrecorded", 0o700).unwrap();
        backing.rmdir(&root, "unrecorded").unwrap();
        assert_eq!(records.len(), 22, "every change that took place, and no other");

        let copy = Memory::new(clock());
        let mut replay = Replay::new(copy.clone(), ino_of(backing.inner(), &root).unwrap()).unwrap();
        for record in &records {
            replay.apply(record).unwrap();
        }
        let open = |memory: &Memory, name| memory.open(&memory.root().unwrap(), name, Access::Read).unwrap();
        let (original, replayed) = (open(backing.inner(), "h"), open(&copy, "h"));
        assert_eq!(content(&original), content(&replayed));
        assert_eq!(content(&original)[4998..5002], [1, 1, b'x', 1]);
        assert_eq!(original.stat(), replayed.stat());
        let xattr = |memory: &Memory, file| memory.get_xattr(Target::File(file), "user.a");
        assert_eq!(xattr(backing.inner(), &original), xattr(&copy, &replayed));
        for name in ["s", "p", "g", "e"] {
            let stat = |memory: &Memory| {
                let dir = memory.open_dir(&memory.root().unwrap(), "d").unwrap();
                memory.stat(Target::Named(&dir, name))
            };
            assert_eq!(stat(backing.inner()), stat(&copy), "{name}");
        }
    }

    fn content(file: &MemoryFile) -> Vec<u8> {
        let mut content = vec![0; file.stat().unwrap().size as usize];
        file.read_at(&mut content, 0).unwrap();
        content
    }
}
