//! A filesystem in memory, with the rules and error numbers of ext4, for tests that need no disk.

mod acl;
mod file;
mod inode;
mod pages;
mod tree;

pub use file::MemoryFile;

use rustix::io::Errno;

use self::acl::Acl;
use self::inode::{Inode, LINK_MAX, Meta, check_xattr_sizes};
use self::pages::{PAGE, Pages, Space};
use self::tree::{NAME_MAX, Tree};
use super::{
    Access, Backing, FileKind, FileTime, FsStat, RawEntry, RenameMode, Result, SetTime, Stat, Target, XattrMode,
};
use crate::env::Clock;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, RwLock, read, write};

/// Longest symlink target: a path with its terminating NUL has 4096 bytes.
const SYMLINK_MAX: usize = 4095;

/// Ways to use an object, as the lowest three bits of a mode name them.
const READ: u32 = 4;
const WRITE: u32 = 2;
const SEARCH: u32 = 1;

/// What a [`Memory`] is like.
#[derive(Clone, Debug)]
pub struct MemoryOptions {
    /// What [`Backing::ordered_metadata`] answers.
    pub ordered_metadata: bool,
    /// Space for file content in pages of 4096 bytes; `ENOSPC` beyond it.
    pub capacity_pages: u64,
    /// User and group that everything is made by. User 0 has all privileges; any other loses the setuid and setgid
    /// bits on a write, has no `trusted` attributes, and may do what the owner's bits of a mode say.
    pub owner: (u32, u32),
}

impl Default for MemoryOptions {
    /// Ordered metadata, 4 TiB, root.
    fn default() -> Self {
        Self { ordered_metadata: true, capacity_pages: 1 << 30, owner: (0, 0) }
    }
}

/// A filesystem in memory. Clones are the same filesystem, so that a test can close what works on it and open it again.
#[derive(Clone)]
pub struct Memory(Arc<Shared>);

/// Handle to a directory of a [`Memory`].
pub struct MemoryDir(Arc<Inode>);

/// Handle to any object of a [`Memory`].
pub struct MemoryNode(Arc<Inode>);

/// A listing of a directory of a [`Memory`].
pub struct MemoryList(Arc<Inode>);

pub(super) struct Shared {
    options: MemoryOptions,
    clock: Arc<dyn Clock>,
    space: Arc<Space>,
    next_ino: AtomicU64,
    root: Arc<Inode>,
    /// Held for writing by whatever changes a name or a link count. Before the locks of an inode.
    tree: RwLock<Tree>,
}

impl Shared {
    fn now(&self) -> FileTime {
        file_time(&*self.clock)
    }

    fn privileged(&self) -> bool {
        self.options.owner.0 == 0
    }
}

impl Memory {
    /// An empty filesystem with the default options, whose times come from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_options(clock, MemoryOptions::default())
    }

    /// The next object gets the inode number `ino`, which a removed one had, as filesystems do it.
    pub fn give_again(&self, ino: u64) {
        self.0.next_ino.store(ino, Ordering::SeqCst);
    }

    /// An empty filesystem.
    pub fn with_options(clock: Arc<dyn Clock>, options: MemoryOptions) -> Self {
        let space = Arc::new(Space::new(options.capacity_pages));
        let meta = new_meta(&options, 0o755, 2, file_time(&*clock));
        // ext4's root has inode number 2.
        let root = Arc::new(Inode::new(2, FileKind::Directory, 0, &[], Pages::new(space.clone()), meta));
        let mut tree = Tree::default();
        tree.add_directory(root.ino, root.ino);
        let next_ino = AtomicU64::new(root.ino + 1);
        Self(Arc::new(Shared { options, clock, space, next_ino, root, tree: RwLock::new(tree) }))
    }

    /// Whether the owner may use an object in these ways, as the lowest three bits of a mode name them.
    fn permit(&self, inode: &Inode, ways: u32) -> Result<()> {
        let may = self.0.privileged() || inode.meta().mode >> 6 & ways == ways;
        if may { Ok(()) } else { Err(Errno::ACCESS) }
    }

    /// Attributes of users are read and written as the content is (xattr(7)).
    fn permit_xattr(&self, inode: &Inode, name: &str, way: u32) -> Result<()> {
        if name.starts_with("user.") { self.permit(inode, way) } else { Ok(()) }
    }

    fn find(&self, dir: &MemoryDir, name: &str) -> Result<Arc<Inode>> {
        self.permit(&dir.0, SEARCH)?;
        read(&self.0.tree).find(dir.0.ino, name)
    }

    fn object(&self, target: Target<'_, Self>) -> Result<Arc<Inode>> {
        match target {
            Target::Named(dir, name) => self.find(dir, name),
            Target::Dir(dir) => Ok(dir.0.clone()),
            Target::Node(node) => Ok(node.0.clone()),
            Target::File(file) => Ok(file.inode.clone()),
        }
    }

    fn open_file(&self, inode: Arc<Inode>, access: Access) -> Result<MemoryFile> {
        match inode.kind {
            FileKind::Regular => {
                self.permit(&inode, if access == Access::Read { READ } else { READ | WRITE })?;
                Ok(MemoryFile { shared: self.0.clone(), inode, writable: access == Access::ReadWrite })
            }
            FileKind::Directory => Err(Errno::ISDIR),
            _ => Err(Errno::NXIO),
        }
    }

    /// Makes an object under a free name.
    fn make(
        &self,
        dir: &MemoryDir,
        name: &str,
        kind: FileKind,
        mode: u32,
        rdev: u64,
        link: &[u8],
    ) -> Result<Arc<Inode>> {
        self.permit(&dir.0, WRITE | SEARCH)?;
        let mut tree = write(&self.0.tree);
        tree.require_free(dir.0.ino, name)?;
        let now = self.0.now();
        let links = if kind == FileKind::Directory { 2 } else { 1 };
        let mut meta = new_meta(&self.0.options, mode & 0o7777, links, now);
        inherit(&dir.0.meta(), kind, &mut meta);
        let ino = self.0.next_ino.fetch_add(1, Ordering::SeqCst);
        let inode = Arc::new(Inode::new(ino, kind, rdev, link, Pages::new(self.0.space.clone()), meta));
        if inode.is_dir() {
            tree.add_directory(ino, dir.0.ino);
            dir.0.add_links(1, now);
        }
        tree.insert(dir.0.ino, name, inode.clone());
        dir.0.entries_changed(now);
        Ok(inode)
    }

    /// What an object loses with a name that was removed or taken over by another object.
    fn drop_link(tree: &mut Tree, dir: &MemoryDir, inode: &Inode, now: FileTime) {
        if inode.is_dir() {
            tree.remove_directory(inode.ino);
            inode.clear_links(now);
            dir.0.add_links(-1, now);
        } else {
            inode.add_links(-1, now);
        }
    }
}

impl Backing for Memory {
    type Dir = MemoryDir;
    type File = MemoryFile;
    type Node = MemoryNode;
    type List = MemoryList;

    fn root(&self) -> Result<MemoryDir> {
        Ok(MemoryDir(self.0.root.clone()))
    }

    fn stat_fs(&self) -> Result<FsStat> {
        let (blocks, free) = (self.0.space.limit(), self.0.space.free());
        Ok(FsStat {
            frsize: PAGE,
            bsize: PAGE,
            blocks,
            bfree: free,
            bavail: free,
            files: u64::from(u32::MAX),
            ffree: u64::from(u32::MAX).saturating_sub(self.0.next_ino.load(Ordering::SeqCst)),
            name_max: NAME_MAX as u64,
        })
    }

    fn ordered_metadata(&self) -> bool {
        self.0.options.ordered_metadata
    }

    fn user(&self) -> u32 {
        self.0.options.owner.0
    }

    fn sync_all(&self) -> Result<()> {
        Ok(())
    }

    fn open_dir(&self, dir: &MemoryDir, name: &str) -> Result<MemoryDir> {
        let inode = self.find(dir, name)?;
        if inode.is_dir() { Ok(MemoryDir(inode)) } else { Err(Errno::NOTDIR) }
    }

    fn open(&self, dir: &MemoryDir, name: &str, access: Access) -> Result<MemoryFile> {
        let inode = self.find(dir, name)?;
        if inode.kind == FileKind::Symlink { Err(Errno::LOOP) } else { self.open_file(inode, access) }
    }

    fn create(&self, dir: &MemoryDir, name: &str, mode: u32) -> Result<MemoryFile> {
        // As open(2) does it, whatever the new file's mode.
        let inode = self.make(dir, name, FileKind::Regular, mode, 0, &[])?;
        Ok(MemoryFile { shared: self.0.clone(), inode, writable: true })
    }

    fn create_unnamed(&self, dir: &MemoryDir, mode: u32) -> Result<(MemoryFile, MemoryNode)> {
        let mut meta = new_meta(&self.0.options, mode & 0o7777, 0, self.0.now());
        inherit(&dir.0.meta(), FileKind::Regular, &mut meta);
        let ino = self.0.next_ino.fetch_add(1, Ordering::SeqCst);
        let inode = Arc::new(Inode::new(ino, FileKind::Regular, 0, &[], Pages::new(self.0.space.clone()), meta));
        inode.allow_first_link();
        Ok((self.open_file(inode.clone(), Access::ReadWrite)?, MemoryNode(inode)))
    }

    fn pin(&self, dir: &MemoryDir, name: &str) -> Result<MemoryNode> {
        self.find(dir, name).map(MemoryNode)
    }

    fn open_node(&self, node: &MemoryNode, access: Access) -> Result<MemoryFile> {
        self.open_file(node.0.clone(), access)
    }

    fn list(&self, dir: &MemoryDir) -> Result<MemoryList> {
        self.permit(&dir.0, READ | SEARCH)?;
        Ok(MemoryList(dir.0.clone()))
    }

    fn read_list(&self, list: &mut MemoryList, from: u64, out: &mut Vec<RawEntry>) -> Result<()> {
        read(&self.0.tree).list(list.0.ino, from, out)?;
        list.0.accessed(self.0.now());
        Ok(())
    }

    fn mkdir(&self, dir: &MemoryDir, name: &str, mode: u32) -> Result<()> {
        // mkdir(2) takes no setuid and setgid bits.
        self.make(dir, name, FileKind::Directory, mode & 0o1777, 0, &[]).map(drop)
    }

    fn mknod(&self, dir: &MemoryDir, name: &str, kind: FileKind, mode: u32, rdev: u64) -> Result<()> {
        match kind {
            FileKind::Directory => Err(Errno::PERM),
            FileKind::Symlink => Err(Errno::INVAL),
            _ => self.make(dir, name, kind, mode, rdev, &[]).map(drop),
        }
    }

    fn symlink(&self, target: &[u8], dir: &MemoryDir, name: &str) -> Result<()> {
        match target {
            [] => Err(Errno::NOENT),
            _ if target.contains(&0) => Err(Errno::INVAL),
            _ if target.len() > SYMLINK_MAX => Err(Errno::NAMETOOLONG),
            _ => self.make(dir, name, FileKind::Symlink, 0o777, 0, target).map(drop),
        }
    }

    fn read_link(&self, target: Target<'_, Self>) -> Result<Vec<u8>> {
        let inode = self.object(target)?;
        if inode.kind != FileKind::Symlink {
            return Err(Errno::INVAL);
        }
        inode.accessed(self.0.now());
        Ok(inode.link.clone())
    }

    fn link(&self, dir: &MemoryDir, name: &str, to_dir: &MemoryDir, to_name: &str) -> Result<()> {
        self.permit(&dir.0, SEARCH)?;
        self.permit(&to_dir.0, WRITE | SEARCH)?;
        let mut tree = write(&self.0.tree);
        let inode = tree.find(dir.0.ino, name)?;
        tree.require_free(to_dir.0.ino, to_name)?;
        if inode.is_dir() {
            return Err(Errno::PERM);
        }
        if inode.nlink() >= LINK_MAX {
            return Err(Errno::MLINK);
        }
        let now = self.0.now();
        inode.add_links(1, now);
        tree.insert(to_dir.0.ino, to_name, inode);
        to_dir.0.entries_changed(now);
        Ok(())
    }

    fn link_node(&self, node: &MemoryNode, to_dir: &MemoryDir, to_name: &str) -> Result<()> {
        let mut tree = write(&self.0.tree);
        tree.require_free(to_dir.0.ino, to_name)?;
        if !node.0.take_first_link() {
            return Err(Errno::NOENT);
        }
        let now = self.0.now();
        node.0.add_links(1, now);
        tree.insert(to_dir.0.ino, to_name, node.0.clone());
        to_dir.0.entries_changed(now);
        Ok(())
    }

    fn unlink(&self, dir: &MemoryDir, name: &str) -> Result<()> {
        self.permit(&dir.0, WRITE | SEARCH)?;
        let mut tree = write(&self.0.tree);
        let inode = tree.find(dir.0.ino, name)?;
        if inode.is_dir() {
            return Err(Errno::ISDIR);
        }
        let now = self.0.now();
        tree.remove(dir.0.ino, name);
        Self::drop_link(&mut tree, dir, &inode, now);
        dir.0.entries_changed(now);
        Ok(())
    }

    fn rmdir(&self, dir: &MemoryDir, name: &str) -> Result<()> {
        self.permit(&dir.0, WRITE | SEARCH)?;
        let mut tree = write(&self.0.tree);
        let inode = tree.find(dir.0.ino, name)?;
        if !inode.is_dir() {
            return Err(Errno::NOTDIR);
        }
        if !tree.is_empty(inode.ino) {
            return Err(Errno::NOTEMPTY);
        }
        let now = self.0.now();
        tree.remove(dir.0.ino, name);
        Self::drop_link(&mut tree, dir, &inode, now);
        dir.0.entries_changed(now);
        Ok(())
    }

    fn rename(&self, dir: &MemoryDir, name: &str, to_dir: &MemoryDir, to_name: &str, mode: RenameMode) -> Result<()> {
        self.permit(&dir.0, WRITE | SEARCH)?;
        self.permit(&to_dir.0, WRITE | SEARCH)?;
        let mut guard = write(&self.0.tree);
        let tree = &mut *guard;
        let moved = tree.find(dir.0.ino, name)?;
        let target = tree.lookup(to_dir.0.ino, to_name)?.cloned();
        match &target {
            Some(_) if mode.keeps_target() => return Err(Errno::EXIST),
            None if mode == RenameMode::Exchange => return Err(Errno::NOENT),
            _ => {}
        }
        if moved.is_dir() && tree.is_within(to_dir.0.ino, moved.ino) {
            return Err(Errno::INVAL);
        }
        if let Some(target) = target.as_ref().filter(|target| target.is_dir())
            && tree.is_within(dir.0.ino, target.ino)
        {
            return Err(if mode == RenameMode::Exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        if target.as_ref().is_some_and(|target| target.ino == moved.ino) {
            return Ok(());
        }
        let now = self.0.now();
        match target {
            Some(target) if mode == RenameMode::Exchange => {
                tree.insert(dir.0.ino, name, target.clone());
                place(tree, &target, to_dir, dir, now);
            }
            Some(target) => {
                match (moved.is_dir(), target.is_dir()) {
                    (true, false) => return Err(Errno::NOTDIR),
                    (false, true) => return Err(Errno::ISDIR),
                    (true, true) if !tree.is_empty(target.ino) => return Err(Errno::NOTEMPTY),
                    _ => {}
                }
                Self::drop_link(tree, to_dir, &target, now);
                tree.remove(dir.0.ino, name);
            }
            None => tree.remove(dir.0.ino, name),
        }
        tree.insert(to_dir.0.ino, to_name, moved.clone());
        place(tree, &moved, dir, to_dir, now);
        dir.0.entries_changed(now);
        to_dir.0.entries_changed(now);
        if mode.leaves_whiteout() {
            drop(guard);
            self.make(dir, name, FileKind::CharDevice, 0, 0, &[])?;
        }
        Ok(())
    }

    fn sync_dir(&self, _dir: &MemoryDir) -> Result<()> {
        Ok(())
    }

    fn stat(&self, target: Target<'_, Self>) -> Result<Stat> {
        Ok(self.object(target)?.stat())
    }

    fn birth_time(&self, target: Target<'_, Self>) -> Result<Option<FileTime>> {
        Ok(Some(self.object(target)?.meta().btime))
    }

    fn set_mode(&self, target: Target<'_, Self>, mode: u32) -> Result<()> {
        self.object(target)?.set_mode(mode, self.0.now())
    }

    fn set_owner(&self, target: Target<'_, Self>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.object(target)?.set_owner(uid, gid, self.0.now());
        Ok(())
    }

    fn set_times(&self, target: Target<'_, Self>, atime: SetTime, mtime: SetTime) -> Result<()> {
        if (atime, mtime) == (SetTime::Omit, SetTime::Omit) {
            // utimensat(2) then does not even look whether the object is there.
            return Ok(());
        }
        self.object(target)?.set_times(atime, mtime, self.0.now())
    }

    fn get_xattr(&self, target: Target<'_, Self>, name: &str) -> Result<Vec<u8>> {
        check_xattr_sizes(name, &[])?;
        let object = self.object(target)?;
        self.permit_xattr(&object, name, READ)?;
        object.get_xattr(name, self.0.privileged())
    }

    fn set_xattr(&self, target: Target<'_, Self>, name: &str, value: &[u8], mode: XattrMode) -> Result<()> {
        check_xattr_sizes(name, value)?;
        let object = self.object(target)?;
        self.permit_xattr(&object, name, WRITE)?;
        object.set_xattr(name, value, mode, self.0.privileged(), self.0.now())
    }

    fn inode_flags(&self, _target: Target<'_, Self>) -> Result<u32> {
        Err(Errno::NOTTY)
    }

    fn set_inode_flags(&self, _target: Target<'_, Self>, _flags: u32) -> Result<()> {
        Err(Errno::NOTTY)
    }

    fn list_xattrs(&self, target: Target<'_, Self>) -> Result<Vec<String>> {
        Ok(self.object(target)?.list_xattrs(self.0.privileged()))
    }

    fn remove_xattr(&self, target: Target<'_, Self>, name: &str) -> Result<()> {
        check_xattr_sizes(name, &[])?;
        let object = self.object(target)?;
        self.permit_xattr(&object, name, WRITE)?;
        object.remove_xattr(name, self.0.privileged(), self.0.now())
    }
}

/// What moving an object from one directory to another changes besides the entries.
fn place(tree: &mut Tree, inode: &Inode, from: &MemoryDir, to: &MemoryDir, now: FileTime) {
    if inode.is_dir() && from.0.ino != to.0.ino {
        tree.set_parent(inode.ino, to.0.ino);
        from.0.add_links(-1, now);
        to.0.add_links(1, now);
    }
    inode.changed(now);
}

/// What a new object takes over from its directory: the group of a setgid directory, and the default ACL.
fn inherit(parent: &Meta, kind: FileKind, child: &mut Meta) {
    if parent.mode & 0o2000 != 0 {
        child.gid = parent.gid;
        if kind == FileKind::Directory {
            child.mode |= 0o2000;
        }
    }
    let default = parent.xattrs.get(acl::DEFAULT).filter(|_| kind != FileKind::Symlink);
    if let Some((value, Ok(Some(default)))) = default.map(|value| (value, Acl::parse(value))) {
        let access = default.inherit(child.mode);
        child.mode = child.mode & 0o7000 | access.mode();
        if !access.is_minimal() {
            child.xattrs.insert(acl::ACCESS.into(), access.encode());
        }
        if kind == FileKind::Directory {
            child.xattrs.insert(acl::DEFAULT.into(), value.clone());
        }
    }
}

fn new_meta(options: &MemoryOptions, mode: u32, nlink: u64, now: FileTime) -> Meta {
    let (uid, gid) = options.owner;
    Meta {
        mode,
        nlink,
        uid,
        gid,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        linkable: false,
        xattrs: Default::default(),
    }
}

fn file_time(clock: &dyn Clock) -> FileTime {
    let nanos = clock.now().as_nanos();
    FileTime { secs: nanos.div_euclid(1_000_000_000), nanos: nanos.rem_euclid(1_000_000_000) as u32 }
}

#[cfg(test)]
mod tests;
