//! Where what has no place any more moves to.

use rustix::io::Errno;

use crate::content;
use crate::format::name::{EncodedName, NameCodec};
use crate::ops::walk::LOST_AND_FOUND;
use crate::store::{Backing, FileKind, Modes, Target};
use crate::types::DirId;

/// Directories of that name that are looked for.
const NAMESAKES: u32 = 1000;

/// The name, as users see it and encrypted, of the directory in the volume's root (of which `id` is the id) where things are put aside:
/// `lost+found`, or `lost+found.2` and so on where a user has something else under that name, or had when it was made. It may not be
/// there yet.
///
/// # Errors
/// The backing's; `EEXIST` if a thousand such names are taken.
pub(super) fn aside<B: Backing>(
    modes: &Modes<B>,
    root: &B::Dir,
    names: &NameCodec,
    id: DirId,
) -> content::Result<(String, EncodedName)> {
    let mut free = None;
    for number in 1..NAMESAKES {
        let name = if number == 1 { LOST_AND_FOUND.to_owned() } else { format!("{LOST_AND_FOUND}.{number}") };
        let encoded = names.encode(id, name.as_bytes())?;
        match modes.stat(Target::Named(root, encoded.entry())) {
            Ok(stat) if stat.kind == FileKind::Directory => return Ok((name, encoded)),
            Ok(_) => {}
            Err(Errno::NOENT) => {
                free.get_or_insert((name, encoded));
                if number > 1 {
                    break;
                }
            }
            Err(other) => return Err(other.into()),
        }
    }
    free.ok_or(Errno::EXIST.into())
}
