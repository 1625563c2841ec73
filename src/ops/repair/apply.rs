//! Doing what a plan says.

use rustix::io::Errno;
use serde_json::json;

use super::aside::aside;
use super::{Action, Plan, Repair};
use crate::content::{self, Content, Volume};
use crate::env::{Clock, random, random_nonzero};
use crate::format::dirid;
use crate::format::name::{CONTROL_ENTRY, EncodedName, EntryKind, MAX_SIDE, NameCodec, TEMPORARY_PREFIX, side_entry};
use crate::format::volume::{MAX_LEN, OpenedVolume};
use crate::ops::config::{BACKUP, VOLUME};
use crate::ops::finding::{Finding, Reason};
use crate::store::tree::{each_entry, make_meta, read_meta, replace};
use crate::store::{
    Access, Backing, BackingFile, CHANGE, FileKind, LIST, Modes, OpenDir, READ_WRITE, RenameMode, SEARCH, Target,
};
use crate::sync::Arc;
use crate::types::DirId;

/// What was moved, replaced or cut off, and from where: a line of JSON each.
pub const LOG: &str = "repairs";

/// Leftovers within leftovers, as a mount takes them.
const LEFTOVER_DEPTH: u32 = 8;
/// Things of one name in `lost+found`.
const NAMESAKES: u32 = 10_000;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// How many repairs.
    pub done: usize,
    /// Those that failed, with why.
    pub failed: Vec<Finding>,
    /// Whether what was done is durable: the backing's error if not. A later run cannot tell, as it sees what memory holds.
    pub flushed: Result<(), Errno>,
}

/// Does what `plan` says, of a volume whose lock the caller holds, and flushes it. One that fails does not keep the others
/// from being done.
///
/// # Errors
/// Only what keeps all of them from being done: the log cannot be written.
pub fn apply<B: Backing>(
    modes: &Arc<Modes<B>>,
    volume: &Arc<Volume>,
    plan: &Plan,
    clock: &dyn Clock,
) -> Result<Applied, Errno> {
    let opened = volume.keys.volume();
    let backing = modes.backing();
    let hand = Hand {
        modes,
        backing,
        volume,
        names: opened.names(),
        meta_file: opened.config.dir_meta_file() || !backing.ordered_metadata(),
        opened: &opened,
    };
    let mut applied = Applied { done: 0, failed: Vec::new(), flushed: Ok(()) };
    if plan.repairs.is_empty() {
        return Ok(applied);
    }
    let mut log = hand.open_log()?;
    for repair in &plan.repairs {
        let note = |name: &str, what: serde_json::Value| {
            log.write(json!({
                "time": clock.now().as_unix_time(),
                "action": repair.action.code(),
                "ciphertext_path": String::from_utf8_lossy(&repair.paths.ciphertext),
                name: what,
            }))
        };
        match hand.repair(repair, note) {
            Ok(()) => applied.done += 1,
            Err(error) => applied.failed.push(Finding::new(&repair.paths, Reason::from(error))),
        }
    }
    applied.flushed = backing.sync_all();
    Ok(applied)
}

struct Hand<'a, B: Backing> {
    modes: &'a Arc<Modes<B>>,
    backing: &'a Arc<B>,
    volume: &'a Arc<Volume>,
    opened: &'a OpenedVolume,
    names: NameCodec,
    /// Directory ids and side entries are regular files here.
    meta_file: bool,
}

/// The log, written before anything is done.
struct Log<F: BackingFile> {
    file: F,
    end: u64,
}

impl<F: BackingFile> Log<F> {
    fn write(&mut self, line: serde_json::Value) -> content::Result<()> {
        let text = line.to_string() + "\n";
        self.file.write_at(text.as_bytes(), self.end)?;
        self.file.sync(false)?;
        self.end += text.len() as u64;
        Ok(())
    }
}

impl<B: Backing> Hand<'_, B> {
    fn open_log(&self) -> Result<Log<B::File>, Errno> {
        let control = self.control()?;
        let file = match self.backing.create(&control, LOG, 0o600) {
            Err(Errno::EXIST) => self.backing.open(&control, LOG, Access::ReadWrite)?,
            made => made?,
        };
        self.backing.sync_dir(&control)?;
        let end = file.stat()?.size;
        Ok(Log { file, end })
    }

    fn control(&self) -> Result<B::Dir, Errno> {
        self.backing.open_dir(&self.backing.root()?, CONTROL_ENTRY)
    }

    /// The directory that an object lies in, and its entry there.
    fn find<'p>(&self, path: &'p [u8]) -> Result<(OpenDir<B>, &'p str), Errno> {
        let path = std::str::from_utf8(path).map_err(|_| Errno::ILSEQ)?;
        let (above, entry) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.dir(above)?, entry))
    }

    fn dir(&self, path: &str) -> Result<OpenDir<B>, Errno> {
        let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
        let need = |is_last| if is_last { CHANGE } else { SEARCH };
        let mut dir = self.modes.root(need(parts.peek().is_none()))?;
        while let Some(part) = parts.next() {
            dir = self.modes.open_dir(&dir, part, need(parts.peek().is_none()))?;
        }
        Ok(dir)
    }

    fn repair(
        &self,
        repair: &Repair,
        mut note: impl FnMut(&str, serde_json::Value) -> content::Result<()>,
    ) -> content::Result<()> {
        let path = &repair.paths.ciphertext;
        match &repair.action {
            Action::CopyConfig => Ok(self.copy_config()?),
            Action::WriteDirId { id, .. } => {
                let dir = self.dir(std::str::from_utf8(path).map_err(|_| Errno::ILSEQ)?)?;
                // More than an id has may be there.
                let old = read_meta(&**self.backing, &dir, dirid::ENTRY, MAX_SIDE)?.into_text();
                note("was", old.map_or(serde_json::Value::Null, as_text))?;
                if is_no_text(self.modes, &dir, dirid::ENTRY)? {
                    // It may be somebody's only copy. The next run takes it from there.
                    let hidden = self.temporary();
                    note("to", json!(format!("{}/{hidden}", String::from_utf8_lossy(path))))?;
                    self.backing.rename(&dir, dirid::ENTRY, &dir, &hidden, RenameMode::NoReplace)?;
                }
                let text = dirid::encode(&self.opened.keys, *id);
                self.put_meta(&dir, dirid::ENTRY, &text, RenameMode::Replace)?;
                Ok(self.backing.sync_dir(&dir)?)
            }
            Action::FinishRewrap
            | Action::MirrorRecord
            | Action::OlderSlot
            | Action::WriteHeader { .. }
            | Action::SetSize { .. } => {
                let (dir, entry) = self.find(path)?;
                let file = self.modes.open(&dir, entry, Access::ReadWrite)?;
                match repair.action {
                    Action::SetSize { from, to } => {
                        note("was", json!(from))?;
                        file.set_len(to)?;
                        Ok(file.sync(false)?)
                    }
                    Action::OlderSlot => {
                        let (content, _) =
                            Content::open_damaged(Arc::clone(self.backing), Arc::clone(self.volume), file)?;
                        content.drop_newest_slot(|slot| note("was", json!(data_encoding::HEXLOWER.encode(slot))))
                    }
                    Action::WriteHeader { size } => {
                        note("size", json!(size))?;
                        self.open(file)?.give_header()
                    }
                    _ => self.open(file)?.mend_header(),
                }
            }
            Action::RemoveAttribute { stored } => {
                let (dir, entry) = self.find(path)?;
                let target = Target::Named(&*dir, entry);
                let value = self.modes.get_xattr(target, stored)?;
                note("was", json!({ "name": stored, "value": data_encoding::HEXLOWER.encode(&value) }))?;
                let remove = || self.backing.remove_xattr(target, stored);
                Ok(self.modes.despite_mode(target, READ_WRITE, remove)?)
            }
            Action::Rename { name, under } => {
                let (dir, entry) = self.find(path)?;
                let new = self.names.encode(*under, name).map_err(content::Error::from)?;
                note("to", json!(new.entry()))?;
                self.make_side(&dir, &new)?;
                self.backing.rename(&dir, entry, &dir, new.entry(), RenameMode::NoReplace)?;
                // It says the name that the entry has now.
                self.remove_side(&dir, entry, |_| Ok(()));
                Ok(self.backing.sync_dir(&dir)?)
            }
            Action::RemoveLeftover => {
                let (dir, entry) = self.find(path)?;
                self.remove_leftover(&dir, entry, LEFTOVER_DEPTH, &mut |text| note("was", text))
            }
            Action::PutAside { name, .. } => {
                let (dir, entry) = self.find(path)?;
                let (aside, id, above) = self.lost_and_found()?;
                for number in 1..NAMESAKES {
                    let suffix = if number == 1 { String::new() } else { format!(".{number}") };
                    let name = [&name[..name.len().min(255 - suffix.len())], suffix.as_bytes()].concat();
                    let new = self.names.encode(id, &name).map_err(content::Error::from)?;
                    match self.backing.stat(Target::Named(&*aside, new.entry())) {
                        Ok(_) => continue,
                        Err(Errno::NOENT) => {}
                        Err(other) => return Err(other.into()),
                    }
                    note("to", json!(format!("{above}/{}", new.entry())))?;
                    self.make_side(&aside, &new)?;
                    let renamed = || self.backing.rename(&dir, entry, &aside, new.entry(), RenameMode::NoReplace);
                    // A directory has to be changed itself for that: its `..` is another one then.
                    self.modes.despite_mode(Target::Named(&*dir, entry), CHANGE, renamed)?;
                    // It is durable there before anything of it goes here.
                    self.backing.sync_dir(&aside)?;
                    // The text by which it has no name may be the only copy of that, or of a symlink's target.
                    let nameless = repair.paths.plaintext.is_none();
                    self.remove_side(&dir, entry, |text| if nameless { note("side", text) } else { Ok(()) });
                    return Ok(self.backing.sync_dir(&dir)?);
                }
                Err(Errno::EXIST.into())
            }
        }
    }

    fn open(&self, file: B::File) -> content::Result<Content<B>> {
        Content::open(Arc::clone(self.backing), Arc::clone(self.volume), file, Access::ReadWrite)
    }

    /// `lost+found` with its id and ciphertext path; made if it is missing.
    fn lost_and_found(&self) -> content::Result<(OpenDir<B>, DirId, String)> {
        let root = self.modes.root(CHANGE)?;
        let id_of = |dir: &B::Dir| {
            let found = read_meta(&**self.backing, dir, dirid::ENTRY, dirid::TEXT_LEN)?;
            dirid::decode(&self.opened.keys, found.as_found()).map_err(content::Error::from)
        };
        let (_, name) = aside(self.modes, &root, &self.names, id_of(&root)?)?;
        let entry = name.entry();
        match self.modes.open_dir(&root, entry, CHANGE) {
            Ok(dir) => {
                let id = id_of(&dir)?;
                return Ok((dir, id, entry.to_owned()));
            }
            Err(Errno::NOENT) => {}
            Err(other) => return Err(other.into()),
        }
        let temporary = self.temporary();
        let id = DirId::from_bytes(random_nonzero(&*self.volume.entropy));
        self.backing.mkdir(&root, &temporary, 0o700)?;
        let dir = self.modes.open_dir(&root, &temporary, CHANGE)?;
        make_meta(&**self.backing, &dir, dirid::ENTRY, &dirid::encode(&self.opened.keys, id), self.meta_file)?;
        self.backing.sync_dir(&dir)?;
        self.make_side(&root, &name)?;
        self.backing.rename(&root, &temporary, &root, entry, RenameMode::NoReplace)?;
        self.backing.sync_dir(&root)?;
        Ok((dir, id, entry.to_owned()))
    }

    fn temporary(&self) -> String {
        let random: [u8; 16] = random(&*self.volume.entropy);
        format!("{TEMPORARY_PREFIX}{}", data_encoding::HEXLOWER.encode(&random))
    }

    fn put_meta(&self, dir: &B::Dir, entry: &str, text: &str, mode: RenameMode) -> Result<(), Errno> {
        let temporary = self.temporary();
        make_meta(&**self.backing, dir, &temporary, text, self.meta_file)?;
        let renamed = self.backing.rename(dir, &temporary, dir, entry, mode);
        if renamed.is_err() {
            // The error of the rename is the one to report.
            let _ = self.backing.unlink(dir, &temporary);
        }
        renamed
    }

    /// Nothing that lies there is overwritten: what the plan takes away from there is gone before.
    fn make_side(&self, dir: &B::Dir, name: &EncodedName) -> Result<(), Errno> {
        match name.side() {
            Some(text) => self.put_meta(dir, &side_entry(name.entry()), text, RenameMode::NoReplace),
            None => Ok(()),
        }
    }

    /// An orphan harms nobody, and the next run removes it. What is something of a user's stays: the plan has it put aside. What has a
    /// text is given to `note` before.
    ///
    /// Where metadata has no order, that the entry is gone has to be durable first, or it could be there without a name after a power
    /// cut.
    fn remove_side(&self, dir: &B::Dir, entry: &str, mut note: impl FnMut(serde_json::Value) -> content::Result<()>) {
        if EntryKind::of(entry.as_bytes(), false) != EntryKind::Long {
            return;
        }
        let kept = if self.meta_file { self.backing.sync_dir(dir) } else { Ok(()) };
        let mut removed = || self.remove_leftover(dir, &side_entry(entry), LEFTOVER_DEPTH, &mut note);
        if let Err(error) = kept.map_err(content::Error::from).and_then(|()| removed()) {
            tracing::debug!("a side entry stays behind: {error}");
        }
    }

    /// Removes what nobody misses. Any text of it is given to `note` before: it may be a user's symlink, or something that somebody put
    /// there.
    fn remove_leftover(
        &self,
        dir: &B::Dir,
        entry: &str,
        depth: u32,
        note: &mut dyn FnMut(serde_json::Value) -> content::Result<()>,
    ) -> content::Result<()> {
        if !is_leftover(self.modes, dir, entry)? {
            return Err(Errno::NOTEMPTY.into());
        }
        if let Some(text) =
            read_meta(&**self.backing, dir, entry, MAX_SIDE)?.into_text().filter(|text| !text.is_empty())
        {
            note(as_text(text))?;
        }
        match self.backing.unlink(dir, entry) {
            Err(Errno::ISDIR) if depth > 0 => {}
            other => return Ok(other?),
        }
        let inner = self.modes.open_dir(dir, entry, CHANGE)?;
        for name in leftovers_in(&**self.backing, &inner)?.ok_or(Errno::NOTEMPTY)? {
            self.remove_leftover(&inner, &name, depth - 1, note)?;
        }
        Ok(self.backing.rmdir(dir, entry)?)
    }

    fn copy_config(&self) -> Result<(), Errno> {
        let control = self.control()?;
        let mut bytes = vec![0; MAX_LEN];
        let len = self.backing.open(&control, VOLUME, Access::Read)?.read_at(&mut bytes, 0)?;
        replace(&**self.backing, &control, BACKUP, &bytes[..len])
    }
}

/// A text as the log has it: bytes that are none as hexadecimal digits.
fn as_text(bytes: Vec<u8>) -> serde_json::Value {
    match String::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(other) => json!({ "hex": data_encoding::HEXLOWER.encode(other.as_bytes()) }),
    }
}

/// Whether there is something under a name of kmsfs' own that can be no text of it: a directory, or more than a text has.
pub(super) fn is_no_text<B: Backing>(modes: &Arc<Modes<B>>, dir: &B::Dir, entry: &str) -> Result<bool, Errno> {
    match modes.stat(Target::Named(dir, entry)) {
        Ok(stat) => {
            Ok(stat.kind != FileKind::Symlink && (stat.kind != FileKind::Regular || stat.size > MAX_SIDE as u64))
        }
        Err(Errno::NOENT) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Whether something under a name that no user sees holds nothing that one could miss: an id, a side entry, more of its kind.
pub(super) fn is_leftover<B: Backing>(modes: &Arc<Modes<B>>, dir: &B::Dir, entry: &str) -> Result<bool, Errno> {
    is_leftover_within(modes, dir, entry, LEFTOVER_DEPTH)
}

fn is_leftover_within<B: Backing>(modes: &Arc<Modes<B>>, dir: &B::Dir, entry: &str, depth: u32) -> Result<bool, Errno> {
    let stat = modes.stat(Target::Named(dir, entry))?;
    match stat.kind {
        FileKind::Symlink => Ok(true),
        FileKind::Regular => Ok(stat.size <= MAX_SIDE as u64),
        FileKind::Directory if depth > 0 => {
            let inner = modes.open_dir(dir, entry, LIST)?;
            let Some(names) = leftovers_in(&**modes.backing(), &inner)? else { return Ok(false) };
            for name in &names {
                if !is_leftover_within(modes, &inner, name, depth - 1)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// The entries of a directory, its id the last, if they are all kmsfs' own; else none.
fn leftovers_in<B: Backing>(backing: &B, dir: &B::Dir) -> Result<Option<Vec<String>>, Errno> {
    let (mut names, mut foreign) = (Vec::new(), false);
    each_entry(backing, dir, |raw| {
        let own = matches!(EntryKind::of(&raw.name, false), EntryKind::DirId | EntryKind::Side | EntryKind::Temporary);
        match String::from_utf8(raw.name.clone()) {
            Ok(name) if own => names.push(name),
            _ => foreign = true,
        }
        Ok::<_, Errno>(!foreign)
    })?;
    names.sort_by_key(|name| name == dirid::ENTRY);
    Ok((!foreign).then_some(names))
}
