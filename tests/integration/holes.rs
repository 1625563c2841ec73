//! SEEK_DATA and SEEK_HOLE against what a filesystem with blocks of 4096 bytes answers (`docs/SEMANTICS.md`, Files).

use std::collections::BTreeSet;
use std::sync::Arc;

use kmsfs::env::SystemClock;
use kmsfs::store::Memory;
use kmsfs::vfs::{FallocateMode, ROOT, SetAttr, Vfs};
use proptest::prelude::*;
use rustix::io::Errno;

use crate::fixture::{Fixture, ROOT_USER};

const PAGE: u64 = 4096;
/// Beyond 127 pages the places of pages in units repeat.
const PAGES: u64 = 300;

/// What a page cache sends: whole pages. Only the end of the file lies anywhere.
#[derive(Clone, Debug)]
enum Op {
    Write(u64, u64),
    Punch(u64, u64),
    SetLen(u64),
}

fn op() -> impl Strategy<Value = Op> {
    // Also where pages and units begin together.
    let page = || prop_oneof![0..PAGES, 120..130_u64, 250..258_u64];
    prop_oneof![
        4 => (page(), 1..6_u64).prop_map(|(page, count)| Op::Write(page, count)),
        2 => (page(), 1..8_u64).prop_map(|(page, count)| Op::Punch(page, count)),
        1 => (page(), 0..PAGE).prop_map(|(page, byte)| Op::SetLen(page * PAGE + byte)),
    ]
}

/// `None` where there is none.
fn sought(answer: kmsfs::vfs::Result<u64>) -> Option<u64> {
    match answer {
        Ok(at) => Some(at),
        Err(error) => {
            assert_eq!(error.errno(), Errno::NXIO);
            None
        }
    }
}

struct File {
    vfs: Vfs<Memory>,
    ino: u64,
    handle: u64,
    size: u64,
    /// The blocks that ext4 would have.
    blocks: BTreeSet<u64>,
}

impl File {
    fn new() -> Self {
        let clock = Arc::new(SystemClock);
        let vfs = Fixture::new(Memory::new(clock.clone()), clock).mount();
        let (attr, opened) = vfs.create(ROOT, b"f", 0o644, &ROOT_USER).expect("created");
        Self { vfs, ino: attr.ino, handle: opened.handle, size: 0, blocks: BTreeSet::new() }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Write(page, count) => {
                let data = vec![1; (count * PAGE) as usize];
                self.vfs.write(self.handle, page * PAGE, &data).expect("written");
                self.size = self.size.max((page + count) * PAGE);
                self.blocks.extend(page..page + count);
            }
            Op::Punch(page, count) => {
                let mode = FallocateMode::PunchHole;
                self.vfs.fallocate(self.handle, mode, page * PAGE, count * PAGE).expect("punched");
                self.blocks.retain(|block| !(page..page + count).contains(block));
            }
            Op::SetLen(len) => {
                let change = SetAttr { size: Some(len), ..Default::default() };
                self.vfs.setattr(self.ino, Some(self.handle), &change).expect("cut");
                self.size = len;
                self.blocks.retain(|block| *block < len.div_ceil(PAGE));
            }
        }
    }

    /// The extents of data that a program like cp finds.
    fn extents(&self) -> Vec<(u64, u64)> {
        let mut extents = Vec::new();
        let mut at = 0;
        while let Some(data) = sought(self.vfs.seek_data(self.handle, at)) {
            assert!(data >= at);
            at = sought(self.vfs.seek_hole(self.handle, data)).expect("data lies within the file");
            assert!(at > data, "an empty extent at {data}");
            extents.push((data, at));
        }
        extents
    }

    /// Every page as the file system of 4096-byte blocks has it, except that a hole of one page may pass for data.
    fn check(&self) -> Result<(), TestCaseError> {
        let mut found = BTreeSet::new();
        for (data, hole) in self.extents() {
            prop_assert!(data % PAGE == 0 && (hole % PAGE == 0 || hole == self.size), "{}..{}", data, hole);
            found.extend(data / PAGE..hole.div_ceil(PAGE));
        }
        let missed: Vec<_> = self.blocks.difference(&found).collect();
        prop_assert!(missed.is_empty(), "data passes for holes: {:?}", missed);
        let alone =
            |page: &&u64| **page > 0 && self.blocks.contains(&(**page - 1)) && self.blocks.contains(&(**page + 1));
        let invented: Vec<_> = found.difference(&self.blocks).filter(|page| !alone(page)).collect();
        prop_assert!(invented.is_empty(), "holes pass for data: {:?}", invented);
        for at in [0, self.size / 2, self.size.saturating_sub(1)] {
            self.check_at(at)?;
        }
        Ok(())
    }

    /// Both questions agree about one place.
    fn check_at(&self, at: u64) -> Result<(), TestCaseError> {
        let data = sought(self.vfs.seek_data(self.handle, at));
        let hole = sought(self.vfs.seek_hole(self.handle, at));
        if at >= self.size {
            prop_assert_eq!((data, hole), (None, None));
        } else {
            prop_assert!((data == Some(at)) != (hole == Some(at)), "{} is {:?} and {:?}", at, data, hole);
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn holes_are_those_of_a_filesystem_with_blocks_of_a_page(ops in prop::collection::vec(op(), 1..40)) {
        let mut file = File::new();
        for op in &ops {
            file.apply(op);
            file.check()?;
        }
    }
}

/// The last page that was written lies in two units; the second of them holds nothing but zeros of it.
#[test]
fn a_small_write_after_a_cut_is_one_page_of_data() {
    let mut file = File::new();
    file.apply(&Op::Write(0, 40));
    file.apply(&Op::SetLen(50_000));
    file.apply(&Op::SetLen(1_000_000));
    let mut page = vec![0; PAGE as usize];
    page[0] = 1;
    file.vfs.write(file.handle, 24 * PAGE, &page).expect("written");
    assert_eq!(file.extents(), [(0, 13 * PAGE), (24 * PAGE, 25 * PAGE)]);
    // Zeros that an application wrote are data, too.
    file.vfs.write(file.handle, 60 * PAGE, &[0; PAGE as usize]).expect("written");
    assert_eq!(file.extents()[2..], [(60 * PAGE, 61 * PAGE)]);
}
