//! What a job found to be wrong.

use rustix::io::Errno;

use crate::content;
use crate::format::Outcome;

/// Why something is a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// An outcome of FORMAT 12.
    Format(Outcome),
    /// The backing filesystem refused.
    Os(Errno),
}

impl Reason {
    /// A stable word: the outcome's name, or `Io`.
    pub fn code(&self) -> String {
        match self {
            Self::Format(outcome) => format!("{outcome:?}"),
            Self::Os(_) => "Io".to_owned(),
        }
    }

    /// Whether it speaks of keys, not of the stored bytes.
    pub fn is_key_state(&self) -> bool {
        use Outcome::{KeyForbidden, KeyServiceTimeout, KeyUnavailable};
        matches!(self, Self::Format(KeyForbidden | KeyServiceTimeout | KeyUnavailable))
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Format(outcome) => outcome.fmt(f),
            Self::Os(Errno::ACCESS) => f.write_str(
                "this user may not open it: run the command as the owner of the files while nothing else uses the volume, or as root",
            ),
            Self::Os(errno) => write!(f, "the backing filesystem answered: {errno}"),
        }
    }
}

impl From<Outcome> for Reason {
    fn from(outcome: Outcome) -> Self {
        Self::Format(outcome)
    }
}

impl From<content::Error> for Reason {
    fn from(error: content::Error) -> Self {
        match error {
            content::Error::Os(errno) => Self::Os(errno),
            content::Error::Format(outcome) | content::Error::Unit { outcome, .. } => Self::Format(outcome),
        }
    }
}

/// Where something lies: its names in the ciphertext directory and, where each name on the way decodes, its names in
/// the mount. Both are relative to the root and begin without a slash; the root's are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// In the ciphertext directory.
    pub ciphertext: Vec<u8>,
    /// In the mount, if it can be known.
    pub plaintext: Option<Vec<u8>>,
}

impl Paths {
    pub(super) fn root() -> Self {
        Self { ciphertext: Vec::new(), plaintext: Some(Vec::new()) }
    }

    pub(super) fn child(&self, entry: &[u8], name: Option<&[u8]>) -> Self {
        let join = |base: &[u8], last: &[u8]| match base.is_empty() {
            true => last.to_vec(),
            false => [base, b"/", last].concat(),
        };
        let plaintext = self.plaintext.as_deref().zip(name).map(|(base, name)| join(base, name));
        Self { ciphertext: join(&self.ciphertext, entry), plaintext }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub paths: Paths,
    /// Which unit of the file, from 0; `None` if it is not about one.
    pub unit: Option<u64>,
    /// How many units from that one on; 0 if it is not about any.
    pub units: u64,
    /// What.
    pub reason: Reason,
}

impl Finding {
    /// A finding about a whole object.
    pub fn new(paths: &Paths, reason: Reason) -> Self {
        Self { paths: paths.clone(), unit: None, units: 0, reason }
    }

    /// A finding about one unit.
    pub fn at_unit(paths: &Paths, unit: u64, reason: Reason) -> Self {
        Self { paths: paths.clone(), unit: Some(unit), units: 1, reason }
    }

    /// Takes one more unit of the same file in, if it follows the present ones and the same is wrong with it. A lost disk
    /// would make more findings than memory holds otherwise.
    pub fn extend(&mut self, unit: u64, reason: Reason) -> bool {
        let fits = self.reason == reason && self.unit.is_some_and(|first| first + self.units == unit);
        self.units += u64::from(fits);
        fits
    }
}
