//! Making entries.

use rustix::io::Errno;

use super::Result;
use super::attr::{Attr, SET_GID, SET_ID};
use super::fs::{Caller, Located, Vfs};
use super::inode::Inode;
use super::io::Opened;
use super::table::ROOT;
use crate::content::Content;
use crate::env::{random, random_nonzero};
use crate::format::{dirid, symlink};
use crate::store::{Backing, CHANGE, FileKind, Held, RenameMode, SEARCH, Target};
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, lock, write};
use crate::types::DirId;

const DEFAULT_ACL: &str = "system.posix_acl_default";
const OWNER_ALL: u32 = 0o700;

impl<B: Backing> Vfs<B> {
    /// Creates a regular file and opens it for reading and writing.
    ///
    /// # Errors
    /// `EEXIST`, errors of names, `WrongDirId`, or the backing's error.
    pub fn create(&self, parent: u64, name: &[u8], mode: u32, caller: &Caller) -> Result<(Attr, Opened)> {
        let parent = self.changeable(parent)?;
        let _change = self.begin_change(&[&parent])?;
        let _held = parent.dir.change();
        let located = self.locate_new(&parent, name)?;
        self.check_caller(caller)?;
        let mode = self.effective_mode(&parent, mode, caller)?;
        self.volume.keys.check_default()?;
        self.make_side(&located)?;
        let file = self.backing.create(&located.dir, located.entry(), mode);
        let file = self.undo_side(&located, file)?;
        let given = self.give_to_caller(&parent, Target::File(&file), caller, mode);
        self.undo_entry(&located, given)?;
        let stat = self.backing.stat(Target::File(&file))?;
        let inode = self.refer(&located, &stat);
        inode.set_id.store(stat.mode & SET_ID, Ordering::Release);
        let content = Content::created(Arc::clone(&self.backing), Arc::clone(&self.volume), file);
        let content = self.note_file(&inode, Some(&located), content)?;
        let opened = self.install(&inode, Arc::new(content), true);
        Ok((self.attr_of(&inode, &stat), opened))
    }

    /// Creates a regular file without a name (`O_TMPFILE`) and opens it for reading and writing. Unless it is given a name
    /// by [`Self::link`], it goes with its last handle, or in a crash: the backing file has no name either.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the backing cannot; the outcome for a key that cannot be used; the backing's error.
    pub fn tmpfile(&self, parent: u64, mode: u32, caller: &Caller) -> Result<(Attr, Opened)> {
        let parent = self.changeable(parent)?;
        self.check_caller(caller)?;
        let mode = self.effective_mode(&parent, mode, caller)?;
        self.volume.keys.check_default()?;
        let (file, node) = self.backing.create_unnamed(&*self.dir(&parent)?, mode)?;
        self.give_to_caller(&parent, Target::File(&file), caller, mode)?;
        let stat = self.backing.stat(Target::File(&file))?;
        let inode = self.table.refer(self.table.number_of(stat.ino), stat.kind, 1);
        write(&inode.place).orphan = Some(node);
        inode.set_id.store(stat.mode & SET_ID, Ordering::Release);
        let content = Content::created(Arc::clone(&self.backing), Arc::clone(&self.volume), file);
        let content = self.note_file(&inode, None, content)?;
        let opened = self.install(&inode, Arc::new(content), true);
        Ok((self.attr_of(&inode, &stat), opened))
    }

    /// Makes a fifo, socket, device node or regular file.
    ///
    /// # Errors
    /// As [`Self::create`]; `EPERM` for devices without privilege.
    pub fn mknod(
        &self,
        parent: u64,
        name: &[u8],
        kind: FileKind,
        mode: u32,
        rdev: u64,
        caller: &Caller,
    ) -> Result<Attr> {
        self.make(parent, name, mode, caller, None, |located, mode| {
            self.backing.mknod(&located.dir, located.entry(), kind, mode, rdev)
        })
    }

    /// Makes a symlink.
    ///
    /// # Errors
    /// As [`Self::create`]; `ENAMETOOLONG` for a target of more than 3031 bytes.
    pub fn symlink(&self, parent: u64, name: &[u8], target: &[u8], caller: &Caller) -> Result<Attr> {
        let text = symlink::encode(&self.keys, target, &random(&*self.volume.entropy))?;
        self.make(parent, name, 0o777, caller, Some(text.as_bytes()), |located, _| {
            self.backing.symlink(text.as_bytes(), &located.dir, located.entry())
        })
    }

    /// Gives an inode one more name, or a file that was made without one its first.
    ///
    /// # Errors
    /// As [`Self::create`]; `EPERM` for a directory, `EMLINK`; `ENOENT` for a file whose last name was removed.
    pub fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Attr> {
        let moving = self.moves.enter();
        let inode = self.inode(ino)?;
        if inode.kind == FileKind::Directory {
            return Err(Errno::PERM.into());
        }
        let parent = self.changeable(parent)?;
        let _change = self.begin_change(&[&parent])?;
        let _held = parent.dir.change();
        let located = self.locate_new(&parent, name)?;
        self.before_link(&inode)?;
        self.make_side(&located)?;
        let linked = {
            let place = crate::sync::read(&inode.place);
            moving.note(&self.table, inode.number, inode.kind);
            match (place.names.first(), &place.orphan) {
                (Some((dir, entry)), _) => {
                    let (dir, _wide) = self.enter(dir, SEARCH)?;
                    self.backing.link(&dir, entry, &located.dir, located.entry())
                }
                (None, Some(node)) => self.backing.link_node(node, &located.dir, located.entry()),
                (None, None) => Err(Errno::NOENT),
            }
        };
        self.undo_side(&located, linked)?;
        let stat = self.modes.stat(located.target())?;
        let inode = self.refer(&located, &stat);
        write(&inode.place).orphan = None;
        self.note_link(&inode, &located)?;
        Ok(self.attr_of(&inode, &stat))
    }

    /// Makes a directory. It gets its id under a name that nobody sees and appears with it (FORMAT 8.1).
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn mkdir(&self, parent: u64, name: &[u8], mode: u32, caller: &Caller) -> Result<Attr> {
        let parent = self.changeable(parent)?;
        let _change = self.begin_change(&[&parent])?;
        let _held = parent.dir.change();
        let located = self.locate_new(&parent, name)?;
        self.check_caller(caller)?;
        let mode = self.effective_mode(&parent, mode, caller)?;
        let temporary = self.temporary_name();
        self.backing.mkdir(&located.dir, &temporary, mode | OWNER_ALL)?;
        let made = self.finish_mkdir(&parent, &located, &temporary, mode, caller);
        if made.is_err() {
            self.discard_directory(&located.dir, &temporary);
        }
        let id = made?;
        let stat = self.backing.stat(located.target())?;
        let inode = self.refer(&located, &stat);
        // A directory that this mount made needs no reading of its id and no proof of it.
        inode.dir.id.get_or_init(|| self.live_dirs.enter(id, inode.number));
        inode.dir.id_proven.store(true, Ordering::Relaxed);
        self.note_dir(&located, id)?;
        Ok(self.attr_of(&inode, &stat))
    }

    fn finish_mkdir(
        &self,
        parent: &Arc<Inode<B>>,
        located: &Located<B>,
        temporary: &str,
        mode: u32,
        caller: &Caller,
    ) -> Result<DirId> {
        let id = DirId::from_bytes(random_nonzero(&*self.volume.entropy));
        let made = Arc::new(self.backing.open_dir(&located.dir, temporary)?);
        // A default ACL can take rights from the owner too.
        let _wide = self.modes.widen(Held::Dir(Arc::clone(&made)), CHANGE, None)?;
        self.make_meta(&made, dirid::ENTRY, &dirid::encode(&self.keys, id))?;
        if self.dir_meta_file {
            self.backing.sync_dir(&made)?;
        }
        self.give_to_caller(parent, Target::Dir(&*made), caller, mode | OWNER_ALL)?;
        self.make_side(located)?;
        let dir = &located.dir;
        let renamed = self.backing.rename(dir, temporary, dir, located.entry(), RenameMode::NoReplace);
        self.undo_side(located, renamed)?;
        // A mkdir that fails from here on is undone, so that it can be tried again.
        let published = self.narrow_new(&made, mode).and_then(|()| self.keep_published(dir));
        if published.is_err() {
            if let Err(error) = self.backing.rename(dir, located.entry(), dir, temporary, RenameMode::NoReplace) {
                tracing::warn!("a mkdir that failed has made its directory: {error}");
            } else {
                self.remove_side(located);
            }
        }
        published?;
        Ok(id)
    }

    /// Takes from a new directory what its mode denies its owner.
    fn narrow_new(&self, made: &B::Dir, mode: u32) -> Result<()> {
        if mode & OWNER_ALL == OWNER_ALL {
            return Ok(());
        }
        // Only these bits: the others are what a default ACL left of the mode.
        let target = Target::Dir(made);
        let made_with = self.modes.stat(target)?.mode;
        let mode = made_with & !(OWNER_ALL & !mode);
        Ok(self.modes.change(target, None, || self.backing.set_mode(target, mode))?)
    }

    /// Makes the names in a directory durable after one of its directories got its own in place of a hidden one. Where a
    /// flush of a file carries nothing but that file, it would be hidden again after a power cut, and the file with it
    /// (FORMAT 8.1).
    pub(super) fn keep_published(&self, dir: &B::Dir) -> Result<()> {
        if self.dir_meta_file { Ok(self.backing.sync_dir(dir)?) } else { Ok(()) }
    }

    fn make(
        &self,
        parent: u64,
        name: &[u8],
        mode: u32,
        caller: &Caller,
        text: Option<&[u8]>,
        make: impl FnOnce(&Located<B>, u32) -> crate::store::Result<()>,
    ) -> Result<Attr> {
        let parent = self.changeable(parent)?;
        let _change = self.begin_change(&[&parent])?;
        let _held = parent.dir.change();
        let located = self.locate_new(&parent, name)?;
        self.check_caller(caller)?;
        let mode = self.effective_mode(&parent, mode, caller)?;
        self.make_side(&located)?;
        let made = make(&located, mode);
        self.undo_side(&located, made)?;
        let given = self.give_to_caller(&parent, located.target(), caller, mode);
        self.undo_entry(&located, given)?;
        let stat = self.backing.stat(located.target())?;
        self.note_made(&located, stat.kind, text)?;
        let inode = self.refer(&located, &stat);
        Ok(self.attr_of(&inode, &stat))
    }

    /// Where a new name will stand; if it is bound to the directory's id, that is known to be its own.
    pub(super) fn locate_new(&self, parent: &Arc<Inode<B>>, name: &[u8]) -> Result<Located<B>> {
        let located = self.locate(parent, name, CHANGE)?;
        if self.names.is_bound(located.entry().as_bytes()) {
            self.prove_id(parent)?;
        }
        Ok(located)
    }

    /// Takes the side entry back when the entry it was made for did not come to be. If the name was taken, the side
    /// entry is that name's.
    pub(super) fn undo_side<T>(&self, located: &Located<B>, made: crate::store::Result<T>) -> Result<T> {
        if let Err(error) = &made
            && *error != Errno::EXIST
        {
            self.remove_side(located);
        }
        Ok(made?)
    }

    /// Takes a new entry back when it could not be completed.
    fn undo_entry(&self, located: &Located<B>, completed: Result<()>) -> Result<()> {
        if completed.is_err() && self.backing.unlink(&located.dir, located.entry()).is_ok() {
            self.remove_side(located);
        }
        completed
    }

    /// Refuses what would belong to somebody else than its maker: without privilege everything that the daemon makes is its
    /// user's, and with `allow_other` others may ask. What root makes is root's to use, whomever it belongs to.
    fn check_caller(&self, caller: &Caller) -> Result<()> {
        let user = self.backing.user();
        if self.options.privileged || caller.uid == 0 || caller.uid == user {
            return Ok(());
        }
        if self.events.admits(ROOT, self.volume.keys.clock().now()) {
            tracing::warn!(
                uid = caller.uid,
                "user {} may not create anything in this mount: it would belong to user {user}, as only a mount by root can give files away",
                caller.uid
            );
        }
        Err(Errno::PERM.into())
    }

    /// The mode to create with: a default ACL takes the place of the file mode creation mask (acl(5)).
    fn effective_mode(&self, parent: &Arc<Inode<B>>, mode: u32, caller: &Caller) -> Result<u32> {
        let mut known = lock(&parent.dir.default_acl);
        let has_default_acl = match *known {
            Some(answer) => answer,
            None => {
                let answer = match self.backing.get_xattr(Target::Dir(&*self.dir(parent)?), DEFAULT_ACL) {
                    Ok(_) => true,
                    Err(Errno::NODATA | Errno::OPNOTSUPP) => false,
                    Err(other) => return Err(other.into()),
                };
                *known = Some(answer);
                answer
            }
        };
        Ok(if has_default_acl { mode } else { mode & !caller.umask })
    }

    /// A new object belongs to whoever asked for it, its group to the directory if that is setgid. Without privilege
    /// the backing did it already, see [`Self::check_caller`].
    fn give_to_caller(&self, parent: &Arc<Inode<B>>, target: Target<'_, B>, caller: &Caller, mode: u32) -> Result<()> {
        if !self.options.privileged || (caller.uid == 0 && caller.gid == 0) {
            return Ok(());
        }
        let dir = self.dir(parent)?;
        let inherits = self.backing.stat(Target::Dir(&*dir))?.mode & SET_GID != 0;
        let gid = if inherits { None } else { Some(caller.gid) };
        self.backing.set_owner(target, Some(caller.uid), gid)?;
        // Giving a file away clears these bits.
        if !matches!(target, Target::Dir(_)) && mode & SET_ID != 0 {
            let given = self.backing.stat(target)?.mode;
            self.backing.set_mode(target, given | (mode & SET_ID))?;
        }
        Ok(())
    }
}
