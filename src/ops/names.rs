//! What the entries of a directory say of its id and of their names, when one or the other is damaged (FORMAT 8.5).

use std::collections::{HashMap, HashSet};

use rustix::io::Errno;

use crate::format::Outcome;
use crate::format::dirid;
use crate::format::name::{EntryKind, MAX_SIDE, NameCodec, side_entry};
use crate::store::tree::{each_entry, read_meta};
use crate::store::{Backing, FileKind, LIST, Modes, OpenDir};
use crate::sync::Arc;
use crate::types::DirId;

/// Ids that are looked at more closely, of those that the entries of one directory lead to.
const CANDIDATES: usize = 8;

/// The id of no directory: theirs are never zero.
const NO_DIRECTORY: DirId = DirId::from_bytes([0; 16]);

/// One entry of a directory.
pub struct Entry {
    /// As it stands on disk.
    pub raw: String,
    /// What it is, by its name.
    pub kind: EntryKind,
    /// The text of its side entry.
    pub side: Option<Vec<u8>>,
    /// Its plaintext name, and the id that it verifies under, zero for a plain name without any.
    pub name: Option<(Vec<u8>, DirId)>,
    /// The plaintext name that verifies and is another entry's here, so that it cannot be this one's.
    pub displaced: Option<Vec<u8>>,
}

/// The id of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// As it is stored, if it is valid and the directory's own.
    pub stored: Result<DirId, Outcome>,
    /// By which names are read; from the entries themselves if the stored one is lost.
    pub id: Option<DirId>,
    /// How many names verify under an id that comes from the entries.
    pub votes: usize,
    /// Whether any entry is encrypted under an id at all. Without one there is nothing that a new id could cut off.
    pub any_blob: bool,
}

/// The entries of a directory, the texts of side entries read. Names without meaning in text go to `stray`.
pub fn entries<B: Backing>(
    backing: &B,
    dir: &B::Dir,
    in_root: bool,
    mut stray: impl FnMut(&[u8]),
) -> Result<Vec<Entry>, Errno> {
    let mut entries = Vec::new();
    each_entry(backing, dir, |found| {
        let kind = EntryKind::of(&found.name, in_root);
        let Ok(raw) = std::str::from_utf8(&found.name) else {
            // No name of the format has such bytes.
            stray(&found.name);
            return Ok(true);
        };
        let side = match kind {
            EntryKind::Long => read_meta(backing, dir, &side_entry(raw), MAX_SIDE)?.into_text(),
            _ => None,
        };
        entries.push(Entry { raw: raw.to_owned(), kind, side, name: None, displaced: None });
        Ok::<_, Errno>(true)
    })?;
    Ok(entries)
}

/// The id that a directory stores, if it is valid and its own.
pub fn stored_id<B: Backing>(
    backing: &B,
    dir: &B::Dir,
    names: &NameCodec,
    entries: &[Entry],
) -> Result<Result<DirId, Outcome>, Errno> {
    let found = read_meta(backing, dir, dirid::ENTRY, dirid::TEXT_LEN)?;
    Ok(dirid::decode(names.keys(), found.as_found()).and_then(|id| {
        let encrypted = entries.iter().filter(|e| !e.kind.is_hidden());
        dirid::check(names, id, encrypted.map(|e| (e.raw.as_bytes(), e.side.as_deref())))?;
        Ok(id)
    }))
}

/// The ids of all directories that have one of their own: what else verifies under one of them was moved below kmsfs.
#[derive(Debug, Default)]
pub struct LiveDirs(HashSet<DirId>);

impl LiveDirs {
    /// Reads the ids of the whole tree. Directories that cannot be read are left out.
    ///
    /// # Errors
    /// The backing's error for the root.
    pub fn of<B: Backing>(modes: &Arc<Modes<B>>, names: &NameCodec) -> Result<Self, Errno> {
        let backing = &**modes.backing();
        let mut ids = HashSet::new();
        let mut next = Some((Arc::new(modes.root(LIST)?), true));
        let mut waiting: Vec<(Arc<OpenDir<B>>, String)> = Vec::new();
        while let Some((dir, in_root)) = next {
            let mut children = Vec::new();
            let listed = each_entry(backing, &dir, |raw| {
                let may_be_dir = raw.kind.is_none_or(|kind| kind == FileKind::Directory);
                if may_be_dir
                    && !EntryKind::of(&raw.name, in_root).is_hidden()
                    && let Ok(name) = String::from_utf8(raw.name.clone())
                {
                    children.push(name);
                }
                Ok::<_, Errno>(true)
            });
            let own = listed
                .and_then(|()| entries(backing, &dir, in_root, |_| ()))
                .and_then(|entries| stored_id(backing, &dir, names, &entries));
            ids.extend(own.ok().and_then(Result::ok));
            waiting.extend(children.into_iter().map(|name| (Arc::clone(&dir), name)));
            next = None;
            while next.is_none() {
                let Some((parent, name)) = waiting.pop() else { break };
                next = modes.open_dir(&parent, &name, LIST).ok().map(|dir| (Arc::new(dir), false));
            }
        }
        Ok(Self(ids))
    }
}

/// Reads the names of a directory as they are meant to be: all under the stored id.
pub fn read_strictly(names: &NameCodec, stored: Result<DirId, Outcome>, entries: &mut [Entry]) -> Identity {
    let id = stored.ok();
    for entry in entries.iter_mut().filter(|entry| !entry.kind.is_hidden()) {
        entry.name = name_under_any(names, id.into_iter(), entry);
    }
    Identity { stored, id, votes: 0, any_blob: true }
}

/// Reads the names of a directory as far as anything vouches for them: the stored id, the id under which most of them
/// verify and which is no other directory's, an id that at least two of them share, or the id of a directory that lives.
pub fn read_leniently(
    names: &NameCodec,
    stored: Result<DirId, Outcome>,
    entries: &mut [Entry],
    live: &LiveDirs,
) -> Identity {
    let visible = || entries.iter().filter(|entry| !entry.kind.is_hidden());
    let mut led_to: HashMap<DirId, usize> = HashMap::new();
    let mut any_blob = false;
    for entry in visible() {
        if let Ok((id, _)) = dirid::recover(names, entry.raw.as_bytes(), entry.side.as_deref()) {
            *led_to.entry(id).or_default() += 1;
        }
        any_blob |= dirid::verifies(names, NO_DIRECTORY, entry.raw.as_bytes(), entry.side.as_deref()).is_some();
    }
    let mut candidates: Vec<(DirId, usize)> = led_to.into_iter().collect();
    candidates.sort_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
    candidates.retain(|(id, count)| *count > 1 || live.0.contains(id) || stored.is_err());
    candidates.truncate(CANDIDATES.max(candidates.iter().filter(|(id, _)| live.0.contains(id)).count()));
    let bound = || visible().filter(|entry| names.is_bound(entry.raw.as_bytes()));
    let votes = |id| bound().filter(|entry| name_under(names, id, entry).is_some()).count();
    let own = match stored {
        Ok(id) => Some((id, 0)),
        Err(_) => candidates
            .iter()
            .filter(|(id, _)| !live.0.contains(id))
            .map(|(id, _)| (*id, votes(*id)))
            .filter(|(_, votes)| *votes > 0)
            .max_by_key(|(_, votes)| *votes),
    };
    let (id, votes) = own.map_or((None, 0), |(id, votes)| (Some(id), votes));
    let vouched =
        candidates.iter().filter(|(other, count)| *count > 1 || live.0.contains(other)).map(|(other, _)| *other);
    let ids: Vec<DirId> = id.into_iter().chain(vouched).collect();
    for entry in entries.iter_mut().filter(|entry| !entry.kind.is_hidden()) {
        entry.name = name_under_any(names, ids.iter().copied(), entry);
    }
    // A name under the directory's own id is the directory's; one that was moved in gives way.
    let mut taken = HashSet::new();
    for own in [true, false] {
        for entry in entries.iter_mut() {
            let displaced =
                entry.name.take_if(|(name, under)| (id == Some(*under)) == own && !taken.insert(name.clone()));
            entry.displaced = entry.displaced.take().or(displaced.map(|(name, _)| name));
        }
    }
    Identity { stored, id, votes, any_blob }
}

/// The name under the first of the ids that it verifies under. A plain name is bound to none and needs none.
fn name_under_any(names: &NameCodec, ids: impl Iterator<Item = DirId>, entry: &Entry) -> Option<(Vec<u8>, DirId)> {
    let unbound = (!names.is_bound(entry.raw.as_bytes())).then_some(NO_DIRECTORY);
    ids.chain(unbound).find_map(|id| name_under(names, id, entry))
}

fn name_under(names: &NameCodec, id: DirId, entry: &Entry) -> Option<(Vec<u8>, DirId)> {
    names.decode(id, entry.raw.as_bytes(), entry.side.as_deref()).ok().map(|name| (name, id))
}
