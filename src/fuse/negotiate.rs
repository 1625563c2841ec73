//! `INIT`: which version and capabilities of the protocol a mount uses.

use rustix::io::Errno;

use super::abi::{InitIn, InitOut, MAJOR, NEWEST_MINOR, OLDEST_MINOR, init};
use super::operations::{CONGESTION_THRESHOLD, MAX_BACKGROUND, MAX_WRITE};

/// What is asked for wherever the kernel has it.
const WANTED: u64 = init::ASYNC_READ
    | init::ATOMIC_O_TRUNC
    | init::BIG_WRITES
    | init::DONT_MASK
    | init::DO_READDIRPLUS
    | init::READDIRPLUS_AUTO
    | init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::POSIX_ACL
    | init::MAX_PAGES
    | init::CACHE_SYMLINKS
    | init::NO_OPENDIR_SUPPORT
    | init::EXPLICIT_INVAL_DATA
    | init::HANDLE_KILLPRIV_V2
    | init::SETXATTR_EXT
    | init::INIT_EXT
    | init::DIRECT_IO_ALLOW_MMAP;

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Minor version, of both sides the smaller.
    pub(super) minor: u32,
    /// Capabilities.
    pub(super) flags: u64,
}

impl Agreed {
    /// Whether the kernel goes on when directories are not opened.
    pub(super) fn needs_no_opendir(&self) -> bool {
        self.flags & init::NO_OPENDIR_SUPPORT != 0
    }

    /// Whether requests come through rings.
    pub(super) fn has_rings(&self) -> bool {
        self.flags & init::OVER_IO_URING != 0
    }
}

/// Agrees with a kernel on what both can; `write_back`: it may keep what is written for a while, and put writes together;
/// `rings`: requests may come through rings. Errors: `EPROTO` for a kernel that is
/// too old.
pub(super) fn agree(kernel: &InitIn, write_back: bool, rings: bool) -> Result<(Agreed, InitOut), Errno> {
    if kernel.major != MAJOR || kernel.minor < OLDEST_MINOR {
        return Err(Errno::PROTO);
    }
    let second = if u64::from(kernel.flags) & init::INIT_EXT == 0 { 0 } else { u64::from(kernel.flags2) << 32 };
    let mut wanted = WANTED;
    if write_back {
        wanted |= init::WRITEBACK_CACHE;
    }
    if rings {
        wanted |= init::OVER_IO_URING;
    }
    let agreed = Agreed { minor: kernel.minor.min(NEWEST_MINOR), flags: (u64::from(kernel.flags) | second) & wanted };
    let answer = InitOut {
        major: MAJOR,
        minor: agreed.minor,
        max_readahead: kernel.max_readahead,
        flags: agreed.flags as u32,
        flags2: (agreed.flags >> 32) as u32,
        max_background: MAX_BACKGROUND,
        congestion_threshold: CONGESTION_THRESHOLD,
        max_write: MAX_WRITE,
        // Times have nanoseconds.
        time_gran: 1,
        max_pages: (MAX_WRITE / 4096) as u16,
        ..InitOut::default()
    };
    Ok((agreed, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(minor: u32, flags: u64) -> InitIn {
        let (flags, flags2) = (flags as u32, (flags >> 32) as u32);
        InitIn { major: 7, minor, max_readahead: 131_072, flags, flags2, ..InitIn::default() }
    }

    #[test]
    fn both_sides_have_what_was_agreed_on() {
        let (agreed, answer) = agree(&kernel(45, u64::MAX), true, false).expect("new");
        assert_eq!(agreed, Agreed { minor: 45, flags: WANTED | init::WRITEBACK_CACHE });
        assert_eq!((answer.minor, answer.flags2), (45, 1 << 4));
        assert_eq!((answer.max_write, answer.max_pages, answer.max_readahead), (1 << 20, 256, 131_072));
        let newer = agree(&kernel(99, u64::MAX), false, false).expect("newer").0;
        assert_eq!(newer, Agreed { minor: 45, flags: WANTED });
        assert!(!newer.has_rings());
    }

    #[test]
    fn rings_are_agreed_on_if_both_have_them() {
        let (agreed, answer) = agree(&kernel(45, u64::MAX), true, true).expect("new");
        assert_eq!((agreed.has_rings(), answer.flags2), (true, 1 << 4 | 1 << 9));
        assert!(!agree(&kernel(45, u64::MAX ^ init::OVER_IO_URING), true, true).expect("off").0.has_rings());
    }

    #[test]
    fn nothing_is_claimed_that_an_old_kernel_lacks() {
        let old = init::ASYNC_READ | init::BIG_WRITES | init::MAX_PAGES | init::WRITEBACK_CACHE;
        let (agreed, answer) = agree(&kernel(31, old | init::DIRECT_IO_ALLOW_MMAP), true, true).expect("old");
        assert_eq!(agreed, Agreed { minor: 31, flags: old });
        assert_eq!((answer.minor, answer.flags2), (31, 0));
    }

    #[test]
    fn what_is_too_old_is_refused() {
        assert_eq!(agree(&kernel(30, u64::MAX), true, false), Err(Errno::PROTO));
        assert_eq!(agree(&InitIn { major: 6, ..kernel(45, 0) }, true, false), Err(Errno::PROTO));
    }
}
