//! Names of a volume with a freshness record (ADR 12). Without one, nothing here does anything.
//!
//! A name that is not as it is recorded can be listed, stat'ed, renamed and removed; what stands under it cannot be read.

use std::collections::{HashMap, HashSet};

use rustix::io::Errno;

use super::Result;
use super::events::Event;
use super::fs::{Located, Vfs};
use super::inode::Inode;
use super::table::ROOT;
use crate::content::Content;
use crate::format::Outcome;
use crate::format::header::{STATIC_LEN, StaticHeader};
use crate::format::name::EntryKind;
use crate::freshness::{Changing, FoundEntry, Freshness, InUse, Target, TrackedDir, TrackedFile, inode_mark};
use crate::store::{self, Access, Backing, BackingFile, FileKind, LIST, RenameMode, SEARCH, Stat};
use crate::sync::{Arc, read};
use crate::types::{DirId, FileId};

impl<B: Backing> Vfs<B> {
    fn freshness(&self) -> Option<&Arc<Freshness>> {
        self.volume.freshness()
    }

    /// Settles the freshness record, if there is one: what has changed so far is made durable, and recorded.
    ///
    /// # Errors
    /// The backing's error or the record's; then nothing is settled.
    pub fn settle(&self) -> Result<()> {
        match self.freshness() {
            Some(fresh) if !self.options.read_only => Ok(fresh.settle(|| self.backing.sync_all())?),
            _ => Ok(()),
        }
    }

    /// Checks that the root directory is the recorded one.
    pub(super) fn check_root(&self, id: DirId) -> Result<()> {
        match self.freshness() {
            Some(fresh) if fresh.root() != id => self.report(self.table.root(), Err(Outcome::Misplaced.into())),
            _ => Ok(()),
        }
    }

    /// The record of a directory.
    fn tracked_dir(&self, inode: &Arc<Inode<B>>) -> Result<Option<TrackedDir>> {
        let Some(fresh) = self.freshness() else { return Ok(None) };
        if let Some(known) = inode.dir.record.get() {
            return Ok(Some(known.clone()));
        }
        let tracked = fresh.directory(self.dir_id(inode)?).map_err(crate::content::Error::from)?;
        if tracked.is_lenient() {
            self.reconcile(inode, &tracked)?;
        }
        Ok(Some(inode.dir.record.get_or_init(|| tracked).clone()))
    }

    /// To be called before names in these directories change; what it returns is held until the changes are noted.
    pub(super) fn begin_change(&self, dirs: &[&Arc<Inode<B>>]) -> Result<Option<Changing<'_>>> {
        let Some(fresh) = self.freshness() else { return Ok(None) };
        let changing = fresh.begin_change();
        for dir in dirs {
            if let Some(tracked) = self.tracked_dir(dir)? {
                tracked.before_change()?;
            }
        }
        Ok(Some(changing))
    }

    fn expected(&self, dir: &Arc<Inode<B>>, entry: &str) -> Result<Option<Target>> {
        Ok(self.tracked_dir(dir)?.and_then(|tracked| tracked.expected(entry)))
    }

    /// What is to be said of something that is not what is expected.
    fn misfit(&self, dir: &Arc<Inode<B>>, entry: &str) -> Result<Outcome> {
        Ok(self.tracked_dir(dir)?.map_or(Outcome::Misplaced, |tracked| tracked.misfit(entry)))
    }

    fn note(&self, dir: &Arc<Inode<B>>, entry: &str, target: Option<Target>) -> Result<()> {
        if let Some(tracked) = self.tracked_dir(dir)? {
            tracked.set(entry, target);
        }
        Ok(())
    }

    /// Notes a new file, and gives its content its record.
    pub(super) fn note_file(
        &self,
        inode: &Inode<B>,
        named: Option<&Located<B>>,
        content: Content<B>,
    ) -> Result<Content<B>> {
        let Some(fresh) = self.freshness() else { return Ok(content) };
        let file = fresh.new_file();
        file.seen_at(self.mark_of(inode));
        if let Some(located) = named {
            self.note(&located.parent, located.entry(), Some(Target::File(file.object())))?;
        }
        let record = file.in_use();
        // A number that was another file's: its inode is gone, as nobody refers to it any more.
        let _ = inode.record.set(file);
        Ok(content.tracked(Some(record)))
    }

    /// Notes a new object that is no directory; `text` is what was stored for a symlink.
    pub(super) fn note_made(&self, located: &Located<B>, kind: FileKind, text: Option<&[u8]>) -> Result<()> {
        let Some(fresh) = self.freshness() else { return Ok(()) };
        let target = match (kind, text) {
            (FileKind::Regular, _) => Target::File(fresh.new_file().object()),
            (FileKind::Symlink, Some(text)) => fresh.symlink_target(text),
            (kind, _) => Target::Other(kind as u8),
        };
        self.note(&located.parent, located.entry(), Some(target))
    }

    /// Notes a new directory.
    pub(super) fn note_dir(&self, located: &Located<B>, id: DirId) -> Result<()> {
        self.note(&located.parent, located.entry(), Some(Target::Dir(id)))
    }

    /// To be called before a file gets one more name: an empty file has no id by which two names that a crash leaves of it
    /// are known to be one file's. Its inode number has to tell, and so to be recorded.
    pub(super) fn before_link(&self, inode: &Arc<Inode<B>>) -> Result<()> {
        let Some(fresh) = self.freshness() else { return Ok(()) };
        let first = read(&inode.place).names.first().cloned();
        let file = match (inode.record.get(), first) {
            (Some(file), _) => Some(file.clone()),
            (None, Some((dir, entry))) => match self.expected(&dir, &entry)? {
                Some(Target::File(object)) => fresh.file(object).map_err(crate::content::Error::from)?,
                _ => None,
            },
            (None, None) => None,
        };
        let Some(file) = file else { return Ok(()) };
        Ok(file.before_link(self.mark_of(inode))?)
    }

    /// How the record knows the inode; 0, as if nobody had seen it, if the backing does not tell: that costs less than a failure
    /// after a file was made.
    fn mark_of(&self, inode: &Inode<B>) -> u64 {
        // Of a number that was exchanged the exchange is the backing's.
        let number = self.table.number_of(inode.number);
        self.with_target(inode, |target| inode_mark(&*self.backing, target, number)).unwrap_or(0)
    }

    /// Notes one more name of an object.
    pub(super) fn note_link(&self, inode: &Inode<B>, located: &Located<B>) -> Result<()> {
        if self.freshness().is_none() {
            return Ok(());
        }
        let other =
            |(dir, entry): &&(Arc<Inode<B>>, String)| dir.number != located.parent.number || entry != located.entry();
        let first = read(&inode.place).names.iter().find(other).cloned();
        let target = match (first, inode.record.get()) {
            (Some((dir, entry)), _) => self.expected(&dir, &entry)?,
            (None, record) => record.map(|file| Target::File(file.object())),
        };
        self.note(&located.parent, located.entry(), target)
    }

    /// Notes that a name was removed, and with it the directory behind it, if it was one's.
    pub(super) fn note_removed(&self, located: &Located<B>) -> Result<()> {
        if let Some(Target::Dir(id)) = self.expected(&located.parent, located.entry())? {
            self.note_gone(id)?;
        }
        self.note(&located.parent, located.entry(), None)
    }

    fn note_gone(&self, id: DirId) -> Result<()> {
        if let Some(fresh) = self.freshness() {
            fresh.directory(id)?.removed();
        }
        Ok(())
    }

    /// Notes a rename that took place.
    pub(super) fn note_renamed(&self, from: &Located<B>, to: &Located<B>, mode: RenameMode) -> Result<()> {
        if self.freshness().is_none() {
            return Ok(());
        }
        let moved = self.expected(&from.parent, from.entry())?;
        let replaced = self.expected(&to.parent, to.entry())?;
        let left = match mode {
            RenameMode::Exchange => replaced,
            _ if mode.leaves_whiteout() => Some(Target::Other(FileKind::CharDevice as u8)),
            _ => None,
        };
        if let (Some(Target::Dir(id)), true) = (replaced, mode != RenameMode::Exchange) {
            self.note_gone(id)?;
        }
        self.note(&from.parent, from.entry(), left)?;
        self.note(&to.parent, to.entry(), moved)
    }

    /// Compares what a lookup found with the record.
    pub(super) fn check_found(&self, located: &Located<B>, stat: store::Result<Stat>) -> Result<Stat> {
        let Some(tracked) = self.tracked_dir(&located.parent)? else { return Ok(stat?) };
        let expected = tracked.expected(located.entry());
        let event = |outcome| self.event(&located.parent, None, Event::of_entry(outcome, located.entry().as_bytes()));
        match (stat, expected) {
            (Err(Errno::NOENT), Some(target)) => {
                event(target.absent());
                Err(target.absent().into())
            }
            (Ok(stat), expected) if !expected.is_some_and(|target| target.is_of(stat.kind)) => {
                event(tracked.misfit(located.entry()));
                Ok(stat)
            }
            (stat, _) => Ok(stat?),
        }
    }

    /// Tells, once per directory, of recorded names that are not there.
    pub(super) fn check_listing(&self, inode: &Arc<Inode<B>>) -> Result<()> {
        let Some(tracked) = self.tracked_dir(inode)? else { return Ok(()) };
        let _held = read(&inode.dir.entries);
        if !tracked.take_listing() {
            return Ok(());
        }
        let mut found = HashSet::new();
        let (dir, _wide) = self.enter(inode, LIST)?;
        self.each_entry(&dir, |raw| {
            found.extend(String::from_utf8(raw.name.clone()).ok());
            Ok(true)
        })?;
        for (entry, outcome) in tracked.missing(&found) {
            self.event(inode, None, Event::of_entry(outcome, entry.as_bytes()));
        }
        Ok(())
    }

    /// Checks that a directory is the recorded one.
    pub(super) fn check_dir(&self, inode: &Arc<Inode<B>>, id: DirId) -> Result<()> {
        self.check_places(inode, |target| target == Target::Dir(id))
    }

    /// Checks that a symlink is the recorded one.
    pub(super) fn check_symlink(&self, inode: &Arc<Inode<B>>, text: &[u8]) -> Result<()> {
        let Some(fresh) = self.freshness() else { return Ok(()) };
        let found = fresh.symlink_target(text);
        self.check_places(inode, |target| target == found)
    }

    fn check_places(&self, inode: &Arc<Inode<B>>, fits: impl Fn(Target) -> bool) -> Result<()> {
        if self.freshness().is_none() || inode.number == ROOT {
            return Ok(());
        }
        let names = read(&inode.place).names.clone();
        for (dir, entry) in names {
            if !self.expected(&dir, &entry)?.is_some_and(&fits) {
                return self.report(inode, Err(self.misfit(&dir, &entry)?.into()));
            }
        }
        Ok(())
    }

    /// The record of a regular file, by all the names under which it is known, or by its `id` where it has none.
    pub(super) fn record_of(&self, inode: &Arc<Inode<B>>, id: Option<FileId>) -> Result<Option<InUse>> {
        let Some(fresh) = self.freshness() else { return Ok(None) };
        let names = read(&inode.place).names.clone();
        let known = inode.record.get();
        let mut object = known.map(TrackedFile::object);
        for (dir, entry) in &names {
            match self.expected(dir, entry)? {
                Some(Target::File(found)) if object.is_none_or(|object| object == found) => object = Some(found),
                _ => return self.report(inode, Err(self.misfit(dir, entry)?.into())),
            }
        }
        let file = match (known, object, id) {
            (Some(known), ..) => Some(known.clone()),
            (None, Some(object), _) => match fresh.file(object).map_err(crate::content::Error::from)? {
                // Whatever has a name in the record is in it.
                None => return self.report(inode, Err(Outcome::Unvouched.into())),
                found => found,
            },
            (None, None, Some(id)) => fresh.file_with(id).map_err(crate::content::Error::from)?,
            (None, None, None) => None,
        };
        let Some(file) = file else { return self.report(inode, Err(Outcome::Misplaced.into())) };
        if known.is_none() {
            file.seen_at(self.mark_of(inode));
        }
        let record = file.in_use();
        let _ = inode.record.set(file);
        Ok(Some(record))
    }

    /// Gives a file that was opened its record, if it is what is recorded.
    pub(super) fn track(&self, inode: &Arc<Inode<B>>, content: Content<B>) -> Result<Content<B>> {
        let record = self.record_of(inode, content.file_id())?;
        self.report(inode, content.checked(record))
    }

    /// Takes what a crash left in a directory for true.
    fn reconcile(&self, inode: &Arc<Inode<B>>, tracked: &TrackedDir) -> Result<()> {
        let (dir, _wide) = self.enter(inode, LIST)?;
        let mut names = Vec::new();
        self.each_entry(&dir, |raw| {
            let kind = EntryKind::of(&raw.name, inode.number == ROOT);
            if matches!(kind, EntryKind::Long | EntryKind::Short)
                && let Ok(name) = std::str::from_utf8(&raw.name)
            {
                names.push(name.to_owned());
            }
            Ok(true)
        })?;
        let (dir, _wide) = self.enter(inode, SEARCH)?;
        let mut found = HashMap::new();
        for entry in names {
            let was = tracked.expected(&entry);
            if let Some(is) = self.found_entry(&dir, &entry, was)? {
                found.insert(entry, is);
            }
        }
        for change in tracked.reconcile(&found).map_err(crate::content::Error::from)? {
            let what = match (change.was, change.is) {
                (true, true) => "stands for something else",
                (true, false) => "is gone",
                (false, _) => "is new",
            };
            tracing::warn!(target: "kmsfs::integrity", ino = inode.number, entry = change.entry,
                "a name {what} since the directory was recorded: it was in use when the last mount ended without an unmount");
        }
        Ok(())
    }

    /// What stands under a name that a crash left; what cannot be told is what was recorded.
    fn found_entry(&self, dir: &B::Dir, entry: &str, was: Option<Target>) -> Result<Option<FoundEntry>> {
        let stat = match self.backing.stat(store::Target::Named(dir, entry)) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(other) => return Err(other.into()),
        };
        Ok(Some(match stat.kind {
            FileKind::Regular => match self.modes.open(dir, entry, Access::Read).and_then(|file| file_id(&file)) {
                Ok(id) => {
                    let ino = inode_mark(&*self.backing, store::Target::Named(dir, entry), stat.ino)?;
                    FoundEntry::File { id, ino, shared: stat.nlink > 1 }
                }
                Err(_) => FoundEntry::Other(was.unwrap_or(Target::Other(stat.kind as u8))),
            },
            kind => {
                let fresh = self.freshness().expect("only a volume with a record has something to compare");
                let found = fresh.target_of(&self.modes, &self.keys, dir, entry, kind)?;
                FoundEntry::Other(found.or(was).unwrap_or(Target::Other(kind as u8)))
            }
        }))
    }
}

/// The id in a file's header; `None` without one.
fn file_id<F: BackingFile>(file: &F) -> store::Result<Option<FileId>> {
    let mut head = [0; STATIC_LEN];
    file.read_at(&mut head, 0)?;
    Ok(StaticHeader::parse(&head).ok().map(|header| header.file_id()))
}
