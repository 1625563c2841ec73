//! What stands where the record has a name.

use std::collections::HashMap;

use rustix::io::Errno;

use super::dir_id;
use crate::content;
use crate::format::volume::OpenedVolume;
use crate::freshness::{Freshness, Place, inode_mark};
use crate::store::{Backing, Modes, OpenDir, SEARCH, Target};
use crate::sync::Arc;
use crate::types::DirId;

/// What stands under a name that the record has of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stands {
    /// The inode in question.
    This,
    /// Something else, or nobody can tell.
    Other,
    /// Nothing.
    Nothing,
}

/// The directories of a volume, by the places that the record has of them.
pub(super) struct Places<'a, B: Backing> {
    modes: &'a Arc<Modes<B>>,
    fresh: &'a Freshness,
    opened: OpenedVolume,
    /// Read when it is first needed, which is when a file has several names.
    places: Option<HashMap<DirId, Place>>,
    /// The last that was asked for.
    last: Option<(DirId, Option<Arc<OpenDir<B>>>)>,
}

impl<'a, B: Backing> Places<'a, B> {
    pub(super) fn new(modes: &'a Arc<Modes<B>>, fresh: &'a Freshness, opened: OpenedVolume) -> Self {
        Self { modes, fresh, opened, places: None, last: None }
    }

    /// What stands under `name` in a directory; `mark` is that of the inode in question.
    pub(super) fn stands(&mut self, dir: DirId, name: &str, mark: u64) -> content::Result<Stands> {
        match self.at(dir, name) {
            Ok(found) if found == mark => Ok(Stands::This),
            Err(content::Error::Os(Errno::NOENT | Errno::NOTDIR)) => Ok(Stands::Nothing),
            Ok(_) | Err(content::Error::Os(_) | content::Error::Format(_)) => Ok(Stands::Other),
            Err(other) => Err(other),
        }
    }

    fn at(&mut self, dir: DirId, name: &str) -> content::Result<u64> {
        let dir = self.open(dir)?;
        let target = Target::Named(&**dir, name);
        let stat = self.modes.stat(target)?;
        Ok(inode_mark(&**self.modes.backing(), target, stat.ino)?)
    }

    fn open(&mut self, dir: DirId) -> content::Result<Arc<OpenDir<B>>> {
        match &self.last {
            Some((last, opened)) if *last == dir => return opened.clone().ok_or(Errno::NOENT.into()),
            _ => {}
        }
        let opened = match self.open_anew(dir) {
            Err(content::Error::Os(Errno::NOENT | Errno::NOTDIR)) => None,
            other => Some(Arc::new(other?)),
        };
        self.last = Some((dir, opened.clone()));
        opened.ok_or(Errno::NOENT.into())
    }

    fn open_anew(&mut self, dir: DirId) -> content::Result<OpenDir<B>> {
        if self.places.is_none() {
            self.places = Some(self.fresh.places()?);
        }
        let places = self.places.as_ref().expect("just read");
        let mut way = Vec::new();
        let mut at = dir;
        while at != self.fresh.root() {
            // A directory that is nowhere, or in itself, cannot be reached.
            let (above, name) = places.get(&at).filter(|_| way.len() < places.len()).ok_or(Errno::NOENT)?;
            way.push(name);
            at = *above;
        }
        let mut opened = self.modes.root(SEARCH)?;
        for name in way.into_iter().rev() {
            opened = self.modes.open_dir(&opened, name, SEARCH)?;
        }
        let found = dir_id(&**self.modes.backing(), &self.opened, &opened)??;
        // Another directory is in its place: of what this one has nobody can tell.
        if found == dir { Ok(opened) } else { Err(crate::format::Outcome::Misplaced.into()) }
    }
}
