//! Named outcomes of FORMAT 12.

use rustix::io::Errno;

/// Why a structure of the format was not accepted. `{:?}` gives the name that the specification uses.
///
/// An outcome changes nothing on disk by itself. Those that speak of damage go with an integrity event.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Wrong magic.
    #[error("this is no kmsfs file: its first bytes are not KFS1's")]
    NotKfs,
    /// Version, algorithm, flag or TLV not known.
    #[error("it uses a version or feature of the format that this kmsfs does not know; use a newer kmsfs")]
    UnknownFeature,
    /// Another volume's id.
    #[error("the file belongs to another volume; put it back into the directory tree it came from")]
    ForeignVolume,
    /// Volume MAC, wrapped key or key commitment wrong.
    #[error(
        "the file's header is damaged or forged; restore the file from a backup, and list what else is damaged with: kmsfs verify DIR"
    )]
    HeaderAuth,
    /// The header is all zero, the file has data.
    #[error(
        "the file's header is lost (all zero); restore the file from a backup, and list what else is damaged with: kmsfs verify DIR"
    )]
    HeaderLost,
    /// The header is all zero and the whole file is a hole.
    #[error("the file was never synced before a crash: only its size survived, it reads as zeros")]
    NeverSynced,
    /// No valid slot, or no usable recipient type.
    #[error("the file's header holds no usable wrapped key; restore the file from a backup")]
    NoRecipient,
    /// The key is not in the allow-list, or not pinned on this host.
    #[error("the KMS key it is wrapped with is not allowed for this volume on this host; see: kmsfs info")]
    KeyForbidden,
    /// Denied, disabled, pending deletion, deleted, or the branch key version is missing.
    #[error(
        "the KMS key it is wrapped with cannot be used now (disabled, pending deletion or denied); see: kmsfs key describe"
    )]
    KeyUnavailable,
    /// The KMS gave no answer, or the budget of failed calls is spent.
    #[error("the key manager did not answer in time; try again, or see: kmsfs doctor")]
    KeyServiceTimeout,
    /// Recipients do not fit, or a counter is at its end. Nothing was changed.
    #[error("the wrapped keys do not fit into the space the format has for them; nothing was changed")]
    SlotOverflow,
    /// No valid record.
    #[error(
        "both size records of the file are damaged or removed; restore the file from a backup, and list what else is damaged with: kmsfs verify DIR"
    )]
    RecordAuth,
    /// The file is shorter than what is known to have been durable.
    #[error("the file was cut: it is shorter than what was once safely on disk; compare it with a backup")]
    Truncated,
    /// The backing file's size is not one that the format makes.
    #[error("the backing file's size is not one that kmsfs makes: it was cut or extended; compare it with a backup")]
    BadSize,
    /// A unit fails its tag.
    #[error(
        "a part of the file is damaged or forged, the rest stays readable; compare it with a backup, and list the damaged parts with: kmsfs verify DIR"
    )]
    UnitAuth,
    /// A zero unit where no hole may be.
    #[error(
        "a part of the file was zeroed, the rest stays readable; compare it with a backup, and list the damaged parts with: kmsfs verify DIR"
    )]
    UnitZero,
    /// Beyond the largest size.
    #[error("the size is beyond what the format can hold")]
    TooBig,
    /// A directory's id is missing.
    #[error("the directory's id (.kmsfs.dir) is missing; restore that file from a backup of the volume's directory")]
    NoDirId,
    /// A directory's id is malformed or forged.
    #[error(
        "the directory's id (.kmsfs.dir) is damaged or forged; restore that file from a backup of the volume's directory"
    )]
    BadDirId,
    /// A directory carries another one's id.
    #[error(
        "the directory carries the id of another directory; restore its own .kmsfs.dir from a backup of the volume's directory"
    )]
    WrongDirId,
    /// A directory entry cannot be decoded.
    #[error("the directory entry is no name that this volume made")]
    BadName,
    /// A name that no file can have.
    #[error("the name is not valid")]
    NameInvalid,
    /// A name or symlink target that is too long.
    #[error("the name is too long")]
    NameTooLong,
    /// A symlink's target is damaged or forged.
    #[error("the symlink's target is damaged or forged; restore the symlink from a backup")]
    SymlinkAuth,
    /// An extended attribute's name cannot be stored.
    #[error(
        "the extended attribute's name is not one that can be stored (at most 255 bytes, and something behind `user.`)"
    )]
    XattrNameRange,
    /// An extended attribute's value is damaged or forged.
    #[error("the extended attribute's value is damaged or forged; restore it from a backup")]
    XattrAuth,
    /// Two live inodes with one id.
    #[error(
        "two files or directories have the same id: one is a copy made below kmsfs; remove that copy and make it again inside the mount"
    )]
    DuplicateId,
    /// Older than this host's freshness record says, or not the version that it has.
    #[error(
        "it is not the version that this host recorded: an older one was put back; if you did that yourself: kmsfs accept DIR PATH"
    )]
    Stale,
    /// Another object than this host's freshness record has under the name.
    #[error(
        "it is not what this host recorded under this name: it was put there, exchanged or copied below kmsfs; if you did that yourself: kmsfs accept DIR PATH"
    )]
    Misplaced,
    /// Recorded under a name, and not there.
    #[error(
        "this host recorded something under this name, and nothing is there: it was removed below kmsfs; if you did that yourself: kmsfs accept DIR PATH"
    )]
    Vanished,
    /// What this host's freshness record has of it is damaged.
    #[error(
        "this host's freshness record of it is damaged, so nobody can tell whether it is what was written last; put back a good record, or, if what is there is right: kmsfs accept DIR PATH"
    )]
    Unvouched,
    /// The volume is not in this host's registry.
    #[error("this volume is not known on this host; check its id and keys, then mount with --trust-new-volume")]
    VolumeUnknown,
    /// The volume file is forged or damaged, or has another root key than the pinned one.
    #[error(
        "the volume file (.kmsfs/volume) is damaged or forged; compare it with .kmsfs/volume.bak and restore the good one"
    )]
    VolumeAuth,
    /// The volume file is older than one this host has seen.
    #[error(
        "the volume file (.kmsfs/volume) is older than the one this host has seen; accept it only if you restored it yourself"
    )]
    VolumeRollback,
    /// Another mount or tool holds the volume.
    #[error("the volume is in use by another mount or tool")]
    VolumeBusy,
}

/// How grave an integrity event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Stored bytes are damaged, forged or copied: logged as an error.
    Damage,
    /// There can be a harmless cause, a crash or a newer version: logged as a warning.
    Suspicion,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 35] = [
        Self::NotKfs,
        Self::UnknownFeature,
        Self::ForeignVolume,
        Self::HeaderAuth,
        Self::HeaderLost,
        Self::NeverSynced,
        Self::NoRecipient,
        Self::KeyForbidden,
        Self::KeyUnavailable,
        Self::KeyServiceTimeout,
        Self::SlotOverflow,
        Self::RecordAuth,
        Self::Truncated,
        Self::BadSize,
        Self::UnitAuth,
        Self::UnitZero,
        Self::TooBig,
        Self::NoDirId,
        Self::BadDirId,
        Self::WrongDirId,
        Self::BadName,
        Self::NameInvalid,
        Self::NameTooLong,
        Self::SymlinkAuth,
        Self::XattrNameRange,
        Self::XattrAuth,
        Self::DuplicateId,
        Self::Stale,
        Self::Misplaced,
        Self::Vanished,
        Self::Unvouched,
        Self::VolumeUnknown,
        Self::VolumeAuth,
        Self::VolumeRollback,
        Self::VolumeBusy,
    ];

    /// What a system call on the mount returns; `None` where there is no call (a refused mount) or no error (an
    /// event only). The format's table of 12.
    pub const fn errno(self) -> Option<Errno> {
        Some(match self {
            Self::NotKfs
            | Self::ForeignVolume
            | Self::HeaderAuth
            | Self::HeaderLost
            | Self::NoRecipient
            | Self::RecordAuth
            | Self::Truncated
            | Self::BadSize
            | Self::UnitAuth
            | Self::UnitZero
            | Self::NoDirId
            | Self::BadDirId
            | Self::WrongDirId
            | Self::SymlinkAuth
            | Self::XattrAuth
            | Self::Stale
            | Self::Misplaced
            | Self::Vanished
            | Self::Unvouched => Errno::IO,
            Self::UnknownFeature => Errno::OPNOTSUPP,
            Self::KeyForbidden | Self::KeyUnavailable => Errno::ACCESS,
            Self::KeyServiceTimeout => Errno::TIMEDOUT,
            Self::SlotOverflow => Errno::TOOBIG,
            Self::TooBig => Errno::FBIG,
            Self::BadName => Errno::NOENT,
            Self::NameInvalid => Errno::INVAL,
            Self::NameTooLong => Errno::NAMETOOLONG,
            Self::XattrNameRange => Errno::RANGE,
            Self::NeverSynced
            | Self::DuplicateId
            | Self::VolumeUnknown
            | Self::VolumeAuth
            | Self::VolumeRollback
            | Self::VolumeBusy => return None,
        })
    }

    /// How grave the integrity event is that goes with it; `None` for those that say nothing of the stored bytes: limits,
    /// names that a user chose, keys that may not be used now, volumes that are refused before anything is mounted.
    pub const fn severity(self) -> Option<Severity> {
        match self {
            Self::DuplicateId => Some(Severity::Damage),
            Self::UnknownFeature | Self::NeverSynced | Self::KeyForbidden | Self::BadName => Some(Severity::Suspicion),
            // Whatever a system call on the mount answers with EIO is damage.
            _ if matches!(self.errno(), Some(Errno::IO)) => Some(Severity::Damage),
            _ => None,
        }
    }

    /// The worse of two outcomes of recipients (FORMAT 5.1): what says more about the file wins over what says
    /// more about this host.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }

    fn rank(self) -> u8 {
        match self {
            Self::NoRecipient => 0,
            Self::KeyForbidden => 1,
            Self::KeyUnavailable => 2,
            Self::KeyServiceTimeout => 3,
            _ => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_outcome_of_two_recipients() {
        let order = [
            Outcome::NoRecipient,
            Outcome::KeyForbidden,
            Outcome::KeyUnavailable,
            Outcome::KeyServiceTimeout,
            Outcome::HeaderAuth,
        ];
        for (i, a) in order.into_iter().enumerate() {
            for (j, b) in order.into_iter().enumerate() {
                assert_eq!(a.worse(b), order[i.max(j)]);
            }
        }
    }

    #[test]
    fn every_outcome_is_listed_once() {
        let names: std::collections::HashSet<_> = Outcome::ALL.into_iter().collect();
        assert_eq!(names.len(), Outcome::ALL.len());
        // The last variant's index: a new one must be added to the list.
        assert_eq!(Outcome::VolumeBusy as usize + 1, Outcome::ALL.len());
    }
}
