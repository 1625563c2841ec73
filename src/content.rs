//! One encrypted file as an array of plaintext bytes: read, write, truncate, punch, sync (FORMAT S5 to S7).
//!
//! All handles of an inode share one [`Content`]. Locks, in this order: the bound that is due, the state lock (FORMAT's size lock; held for
//! writing by whatever changes size, header or holes, for reading by everything else), then unit stripes.

mod allocate;
mod buffer;
mod error;
mod file;
mod floor;
mod gate;
mod header_io;
mod life;
mod live;
mod locks;
mod raiser;
mod read;
mod resize;
mod scan;
mod sealer;
mod seek;
#[cfg(all(test, feature = "shuttle"))]
pub(crate) mod shuttle_tests;
mod state;
mod tracked;
mod write;

pub use allocate::FallocateMode;
pub use error::Error;
pub use file::{Content, HeaderHeld, Volume};
pub use gate::Unflushed;
pub use header_io::{HeaderState, Rewrapped};
pub use live::{LiveId, LiveIds};
pub use raiser::Raiser;
pub use read::room_for;
pub use scan::Piece;

/// What content operations answer.
pub type Result<T> = std::result::Result<T, Error>;
