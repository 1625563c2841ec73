//! POSIX semantics over encrypted entries: inodes, names, handles, directories, attributes. Knows nothing of FUSE, so
//! that everything about semantics is tested without a kernel.
//!
//! Lock order: the watch of moves, the tree (renames, removal of directories), the entries of a directory (two
//! directories: ascending numbers), an inode's content slot, an inode's place, the content's own locks, a table shard.

mod attr;
mod create;
mod ending;
mod events;
mod fs;
mod handle;
mod inode;
mod io;
mod lookup;
mod meta;
mod moves;
mod rate_limit;
mod readdir;
mod remove;
mod rename;
mod rewrap;
mod setattr;
#[cfg(all(test, feature = "shuttle"))]
mod shuttle_tests;
mod strict;
mod table;
mod tracked;
mod xattr;

pub use attr::{Attr, SetAttr};
pub use fs::{Caller, Options, Vfs};
pub use io::Opened;
pub use readdir::DirEntry;
pub use rewrap::{MoveWatch, MovedFile, MovedFiles};
pub use strict::Unflushed;
pub use table::ROOT;

pub use crate::content::{Error, FallocateMode, Rewrapped};

/// What operations of the filesystem answer.
pub type Result<T> = std::result::Result<T, Error>;
