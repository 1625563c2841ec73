//! What the key manager speaks: AWS KMS's objects, requests and responses, with AWS's member names.

mod asymmetric_ops;
mod caller;
mod crypto_ops;
mod explain;
mod grant_ops;
mod identity;
mod import_ops;
mod key;
mod key_ops;
mod multi_region_ops;
mod plaintext;
mod serial;
mod spec;
mod usage;
mod words;

pub use asymmetric_ops::*;
pub use caller::{Caller, Principal, PrincipalKind};
pub use crypto_ops::*;
pub use explain::*;
pub use grant_ops::*;
pub use identity::*;
pub use import_ops::*;
pub use key::*;
pub use key_ops::*;
pub use multi_region_ops::*;
pub use plaintext::Plaintext;
pub(in crate::kms) use serial::{nanos, opt_nanos};
pub use spec::*;
pub use usage::*;
pub use words::{UnknownWord, Word};
