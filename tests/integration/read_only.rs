//! A read-only mount beside the one that writes.

use std::sync::Arc;

use kmsfs::env::ManualClock;
use kmsfs::store::Memory;
use kmsfs::types::Timestamp;
use kmsfs::vfs::{Options, ROOT, Vfs};

use crate::fixture::{Fixture, ROOT_USER};

struct Both {
    writer: Vfs<Memory>,
    reader: Vfs<Memory>,
    /// A handle of the reader, open all the time.
    held: u64,
    ino: u64,
    clock: Arc<ManualClock>,
    backing: Memory,
}

impl Both {
    /// A file with `content`, open beside the writer.
    fn with(content: &[u8]) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
        let fixture = Fixture::new(Memory::new(clock.clone()), clock.clone());
        let writer = fixture.mount();
        let (attr, opened) = writer.create(ROOT, b"f", 0o644, &ROOT_USER).expect("created");
        writer.write(opened.handle, 0, content).expect("written");
        writer.release(opened.handle);
        let mut volume = fixture.volume();
        volume.read_attempts = 3;
        let options = Options { read_only: true, privileged: true, ..Options::default() };
        let reader = Vfs::new(Arc::new(fixture.backing.clone()), Arc::new(volume), options).expect("mounted");
        assert_eq!(reader.lookup(ROOT, b"f").expect("found").ino, attr.ino);
        let held = reader.open(attr.ino, false).expect("opened").handle;
        let both = Self { writer, reader, held, ino: attr.ino, clock, backing: fixture.backing.clone() };
        both.expect(content);
        both
    }

    fn write(&self, emptied: bool, offset: u64, data: &[u8]) {
        let opened = if emptied { self.writer.open_emptied(self.ino, true) } else { self.writer.open(self.ino, true) };
        let handle = opened.expect("opened").handle;
        self.writer.write(handle, offset, data).expect("written");
        self.writer.fsync(handle, false).expect("flushed");
        self.writer.release(handle);
    }

    /// What everybody at the reader sees: by what was open, by what is opened now, and by the attributes.
    fn expect(&self, content: &[u8]) {
        let read = |handle| self.reader.read(handle, 0, 1 << 20, <[u8]>::to_vec).expect("read");
        assert!(read(self.held) == content, "by the handle that was open");
        assert_eq!(self.reader.getattr(self.ino).expect("attributes").size, content.len() as u64);
        let handle = self.reader.open(self.ino, false).expect("opened").handle;
        assert!(read(handle) == content, "by a new handle");
        self.reader.release(handle);
    }
}

#[test]
fn what_is_appended_is_seen_by_who_has_the_file_open() {
    let both = Both::with(&b"first".repeat(100));
    both.write(false, 500, &[7; 10_000]);
    both.expect(&[b"first".repeat(100), vec![7; 10_000]].concat());
}

#[test]
fn a_file_that_is_written_anew_is_read_anew() {
    for size in [100, 500, 6000, 100_000] {
        let both = Both::with(&b"first".repeat(100));
        both.write(true, 0, &vec![9; size]);
        both.expect(&vec![9; size]);
    }
}

#[test]
fn a_file_that_is_cut_ends_where_it_was_cut() {
    let both = Both::with(&[5; 50_000]);
    let handle = both.writer.open(both.ino, true).expect("opened").handle;
    let cut = kmsfs::vfs::SetAttr { size: Some(4100), ..Default::default() };
    both.writer.setattr(both.ino, Some(handle), &cut).expect("cut");
    both.writer.release(handle);
    both.expect(&[5; 4100]);
}

#[test]
fn a_number_that_was_given_to_another_file_is_another_inode() {
    let both = Both::with(b"first");
    let old = both.reader.lookup(ROOT, b"f").expect("found");
    both.writer.unlink(ROOT, b"f").expect("removed");
    both.clock.advance(std::time::Duration::from_secs(1));
    both.backing.give_again(both.ino);
    let (_, opened) = both.writer.create(ROOT, b"other", 0o644, &ROOT_USER).expect("created");
    both.writer.write(opened.handle, 0, b"of another").expect("written");
    both.writer.release(opened.handle);
    let new = both.reader.lookup(ROOT, b"other").expect("found");
    assert_eq!(new.ino, old.ino, "or this tests nothing");
    assert_ne!(new.generation, old.generation, "what the kernel drops the old one by");
    let held = both.reader.read(both.held, 0, 100, <[u8]>::to_vec).expect("read");
    assert!(held == b"first", "who has the old one open reads it");
    let handle = both.reader.open(new.ino, false).expect("opened").handle;
    assert!(both.reader.read(handle, 0, 100, <[u8]>::to_vec).expect("read") == b"of another");
    both.reader.release(handle);
}

#[test]
fn a_name_that_was_given_to_another_file_of_the_same_number_is_looked_up_anew() {
    let both = Both::with(b"first");
    both.reader.release(both.held);
    both.writer.unlink(ROOT, b"f").expect("removed");
    both.clock.advance(std::time::Duration::from_secs(1));
    both.backing.give_again(both.ino);
    let (_, opened) = both.writer.create(ROOT, b"f", 0o644, &ROOT_USER).expect("created");
    both.writer.release(opened.handle);
    let error = both.reader.open(both.ino, false).expect_err("it is another");
    assert_eq!(error.errno(), rustix::io::Errno::STALE);
}

#[test]
fn who_has_a_file_open_keeps_it_when_its_name_goes() {
    let both = Both::with(b"first");
    both.writer.unlink(ROOT, b"f").expect("removed");
    assert_eq!(both.reader.getattr(both.ino).expect("attributes").size, 5);
    assert!(both.reader.read(both.held, 0, 100, <[u8]>::to_vec).expect("read") == b"first");
}
