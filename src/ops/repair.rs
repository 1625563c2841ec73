//! Putting right what can be put right from what is still there, and putting aside what cannot.
//!
//! A plan is made first, without a change; applying it changes nothing that the plan does not name. No file content is ever
//! removed: what cannot be read at all, and what has no name, moves to `lost+found` in the volume, and where it was is noted in
//! `.kmsfs/repairs`. Interrupted at any point, a further run goes on.

mod apply;
mod aside;
mod config_copy;
mod plan;

pub use apply::{Applied, apply};
pub use config_copy::{ConfigCopy, ConfigSummary, REPLACED, compare_config, put_config, restore_config};
pub use plan::{PlanOptions, plan};

use super::finding::{Finding, Paths};
use crate::format::Outcome;
use crate::format::name::EntryKind;
use crate::types::DirId;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The second copy of the configuration is written anew from the first.
    CopyConfig,
    /// The directory's id, taken from its entries, is written.
    WriteDirId {
        /// The id.
        id: DirId,
        /// How many names verify under it; 0 for a new one, where nothing is encrypted under the old.
        votes: usize,
        /// What was wrong.
        was: Outcome,
        /// Something else is in its place, and gets a name that hides it until the next run.
        uncovers: bool,
    },
    /// A rewrap is finished: the newer wrapped key opens the file, and the older one goes.
    FinishRewrap,
    /// A wrapped key that does not open goes, and the one before it counts again.
    OlderSlot,
    /// The second record of the header is written anew from the first.
    MirrorRecord,
    /// A file of which nothing is left but its size gets a header, under which it reads as zeros, as it does without.
    WriteHeader {
        /// Bytes that it reads as.
        size: u64,
    },
    /// The stored size becomes one that a file can have, with everything that its units hold.
    SetSize {
        /// Bytes of the ciphertext file.
        from: u64,
        /// Bytes of the ciphertext file.
        to: u64,
    },
    /// The entry, moved here below kmsfs, is encrypted under the id of its directory.
    Rename {
        /// Its plaintext name.
        name: Vec<u8>,
        /// The id of its directory.
        under: DirId,
    },
    /// An interrupted operation's leftover, with nothing of a user in it, goes.
    RemoveLeftover,
    /// An attribute that cannot be read goes; its stored name and value are kept in the log.
    RemoveAttribute {
        /// Its name on the backing.
        stored: String,
    },
    /// It moves to `lost+found`, or where that is something else, to a directory beside it.
    PutAside {
        /// This one.
        into: String,
        /// Under this name.
        name: Vec<u8>,
        /// Why.
        why: Outcome,
        /// Its name verifies, but is that of another entry in its directory.
        displaced: bool,
    },
}

impl Action {
    /// A stable word.
    pub fn code(&self) -> &'static str {
        match self {
            Self::CopyConfig => "CopyConfig",
            Self::WriteDirId { .. } => "WriteDirId",
            Self::FinishRewrap => "FinishRewrap",
            Self::OlderSlot => "OlderSlot",
            Self::MirrorRecord => "MirrorRecord",
            Self::WriteHeader { .. } => "WriteHeader",
            Self::SetSize { .. } => "SetSize",
            Self::Rename { .. } => "Rename",
            Self::RemoveLeftover => "RemoveLeftover",
            Self::RemoveAttribute { .. } => "RemoveAttribute",
            Self::PutAside { .. } => "PutAside",
        }
    }

    /// What moves things comes last, since paths lead through them.
    fn moves(&self) -> bool {
        matches!(self, Self::Rename { .. } | Self::PutAside { .. })
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CopyConfig => f.write_str("write the copy of the configuration anew"),
            Self::WriteDirId { votes: 0, was, .. } => {
                write!(f, "give the directory a new id, as nothing in it is encrypted under the old one ({was})")
            }
            Self::WriteDirId { votes, was, .. } => {
                write!(f, "write the directory's id, under which {votes} of its names verify ({was})")
            }
            Self::FinishRewrap => f.write_str("finish an interrupted rewrap"),
            Self::OlderSlot => f.write_str("go back to the wrapped key before the last, as that does not open"),
            Self::MirrorRecord => f.write_str("write the header's second record anew from the first"),
            Self::WriteHeader { size } => {
                write!(
                    f,
                    "write a header: nothing of the file is left but its size (a crash, or somebody punched it), and it stays {size} zero bytes"
                )
            }
            Self::SetSize { from, to } => {
                write!(f, "set the stored size from {from} to {to} bytes, which a file can have")
            }
            Self::Rename { .. } => f.write_str("encrypt the name for this directory, as it was moved here below kmsfs"),
            Self::RemoveLeftover => f.write_str("remove what an interrupted operation left"),
            Self::RemoveAttribute { stored } => {
                write!(
                    f,
                    "remove the attribute that is stored as {}, as nobody can read it, and keep its bytes in .kmsfs/repairs",
                    stored.escape_debug()
                )
            }
            Self::PutAside { into, name, why, displaced } => {
                let name = String::from_utf8_lossy(name).escape_debug().to_string();
                match displaced {
                    true => write!(
                        f,
                        "move to {into}/{name}, as it was moved here below kmsfs, where another entry has its name"
                    ),
                    false => write!(f, "move to {into}/{name} ({why})"),
                }
            }
        }
    }
}

/// Something to do at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// Where.
    pub paths: Paths,
    /// What.
    pub action: Action,
}

/// What a repair would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In the order in which it is done.
    pub repairs: Vec<Repair>,
    /// What stays as it is.
    pub remaining: Vec<Finding>,
    /// Directories whose id only one name vouches for: taken only with consent, since a single name always fits the id that
    /// is taken from it. The name is beside it.
    pub single: Vec<(Paths, Vec<u8>)>,
    /// It is not complete: the walk was stopped.
    pub interrupted: bool,
}

impl Repair {
    /// Whether it moves what its name hid. The walk passed that by: a further run looks at it.
    pub fn uncovers(&self) -> bool {
        if let Action::WriteDirId { uncovers, .. } = self.action {
            return uncovers;
        }
        let entry = self.paths.ciphertext.rsplit(|b| *b == b'/').next().unwrap_or_default();
        self.action.moves() && matches!(EntryKind::of(entry, false), EntryKind::Temporary | EntryKind::Side)
    }

    /// Whether it moves what nobody can read, and not what has no name alone.
    pub fn puts_damage_aside(&self) -> bool {
        matches!(&self.action, Action::PutAside { why, .. } if *why != Outcome::BadName)
    }

    /// Whether content may be lost: what is left does not tell a crash before the first flush from a hole in place of what was there.
    pub fn writes_header(&self) -> bool {
        matches!(self.action, Action::WriteHeader { .. })
    }
}

impl Plan {
    /// Whether nothing is damaged, lost or left to look at once it is applied.
    pub fn ends_well(&self) -> bool {
        let tells = |repair: &Repair| repair.uncovers() || repair.puts_damage_aside() || repair.writes_header();
        self.remaining.is_empty() && !self.repairs.iter().any(tells)
    }
}
