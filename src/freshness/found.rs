//! What stands under a name on the backing.

use super::state::Freshness;
use super::table::Target;
use crate::format::keys::VolumeKeys;
use crate::format::{Outcome, dirid};
use crate::store::tree::read_meta;
use crate::store::{Backing, FileKind, Modes, Result, SEARCH, Target as Object};
use crate::sync::Arc;

impl Freshness {
    /// What the record would have of an object that is no regular file; `None` for one, and for a directory without a
    /// valid id.
    ///
    /// # Errors
    /// The backing's.
    pub fn target_of<B: Backing>(
        &self,
        modes: &Arc<Modes<B>>,
        keys: &VolumeKeys,
        dir: &B::Dir,
        entry: &str,
        kind: FileKind,
    ) -> Result<Option<Target>> {
        Ok(match kind {
            FileKind::Regular => None,
            FileKind::Directory => {
                let inner = modes.open_dir(dir, entry, SEARCH)?;
                let text = read_meta(&**modes.backing(), &inner, dirid::ENTRY, dirid::TEXT_LEN)?;
                dirid::decode(keys, text.as_found()).ok().map(Target::Dir)
            }
            FileKind::Symlink => Some(self.symlink_target(&modes.backing().read_link(Object::Named(dir, entry))?)),
            other => Some(Target::Other(other as u8)),
        })
    }
}

/// The number by which the record knows the inode at `target`: of its `number` in the backing and, where the backing has one, its birth
/// time. A restored copy has numbers that were other files', and without the time an empty file of it would be taken for one of those.
///
/// # Errors
/// The backing's.
pub fn inode_mark<B: Backing>(backing: &B, target: Object<'_, B>, number: u64) -> Result<u64> {
    let since = backing
        .birth_time(target)?
        .map_or(0, |time| (time.secs as u64).wrapping_mul(1_000_000_000).wrapping_add(u64::from(time.nanos)));
    // 2^64 / golden ratio: spreads the time over all bits. 0 is no inode.
    Ok((number ^ since.wrapping_mul(0x9e37_79b9_7f4a_7c15)).max(1))
}

impl Target {
    /// Whether it is of this type.
    pub fn is_of(self, kind: FileKind) -> bool {
        match self {
            Self::File(_) => kind == FileKind::Regular,
            Self::Dir(_) => kind == FileKind::Directory,
            Self::Symlink(_) => kind == FileKind::Symlink,
            Self::Other(other) => kind as u8 == other,
            Self::Lost => false,
        }
    }

    /// What it is if nothing stands where it is recorded.
    pub fn absent(self) -> Outcome {
        if self == Self::Lost { Outcome::Unvouched } else { Outcome::Vanished }
    }
}
