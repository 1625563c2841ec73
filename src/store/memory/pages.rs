//! The content of a regular file: pages of 4096 bytes, absent where there is a hole.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::super::Result;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Bytes in a page, the grain of allocation: ext4's usual block size.
pub(super) const PAGE: u64 = 4096;

/// Largest file: that of ext4 with 4096-byte blocks, 2^32 - 1 of them.
pub(super) const MAX_SIZE: u64 = 0xffff_ffff * PAGE;

/// The pages that all files of one filesystem share.
#[derive(Debug)]
pub(super) struct Space {
    limit: u64,
    used: AtomicU64,
}

impl Space {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn free(&self) -> u64 {
        self.limit - self.used.load(Ordering::SeqCst)
    }

    fn take(&self) -> Result<()> {
        let more = |used| (used < self.limit).then_some(used + 1);
        self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).map(drop).map_err(|_| Errno::NOSPC)
    }

    fn give_back(&self, pages: usize) {
        self.used.fetch_sub(pages as u64, Ordering::SeqCst);
    }
}

/// A page that takes up space: its bytes, or `None` while it is reserved but was never written, which reads as zeros
/// and counts as a hole.
type Page = Option<Box<[u8; PAGE as usize]>>;

/// Content of one file. Bytes of a page behind the size are zero.
#[derive(Debug)]
pub(super) struct Pages {
    size: u64,
    pages: BTreeMap<u64, Page>,
    space: Arc<Space>,
}

impl Pages {
    pub(super) fn new(space: Arc<Space>) -> Self {
        Self { size: 0, pages: BTreeMap::new(), space }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// 512-byte blocks in use.
    pub(super) fn blocks(&self) -> u64 {
        self.pages.len() as u64 * (PAGE / 512)
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let len = self.size.saturating_sub(offset).min(buf.len() as u64) as usize;
        for (index, within, part) in parts(offset, len) {
            let out = &mut buf[part];
            match self.pages.get(&index) {
                Some(Some(page)) => out.copy_from_slice(&page[within..within + out.len()]),
                _ => out.fill(0),
            }
        }
        len
    }

    /// Writes until the space or the largest size is reached; what was written before stays, as after a short
    /// pwrite(2).
    pub(super) fn write(&mut self, buf: &[u8], offset: u64) -> Result<()> {
        let len = MAX_SIZE.saturating_sub(offset).min(buf.len() as u64) as usize;
        for (index, within, part) in parts(offset, len) {
            let data = &buf[part];
            self.page_for_writing(index)?[within..within + data.len()].copy_from_slice(data);
            self.size = self.size.max(index * PAGE + (within + data.len()) as u64);
        }
        if len < buf.len() { Err(Errno::FBIG) } else { Ok(()) }
    }

    pub(super) fn set_size(&mut self, size: u64) -> Result<()> {
        if size > MAX_SIZE {
            return Err(Errno::FBIG);
        }
        if size <= self.size {
            self.drop_pages(size.div_ceil(PAGE), u64::MAX);
            self.clear(size, size.next_multiple_of(PAGE));
        }
        self.size = size;
        Ok(())
    }

    /// Reserves the pages of a range that has none.
    pub(super) fn reserve(&mut self, offset: u64, end: u64) -> Result<()> {
        for index in offset / PAGE..end.div_ceil(PAGE) {
            if !self.pages.contains_key(&index) {
                self.space.take()?;
                self.pages.insert(index, None);
            }
        }
        Ok(())
    }

    /// Gives whole pages of the range back and clears the rest. A hole over the end of the file takes the last page,
    /// as on ext4, though nothing behind it.
    pub(super) fn punch(&mut self, offset: u64, end: u64) {
        let end = if end > self.size { self.size.next_multiple_of(PAGE) } else { end };
        if offset < end {
            self.drop_pages(offset.div_ceil(PAGE), end / PAGE);
            self.clear_edges(offset, end);
        }
    }

    /// Makes whole pages of the range reserved ones and clears the rest.
    pub(super) fn zero(&mut self, offset: u64, end: u64) -> Result<()> {
        self.clear_edges(offset, end);
        for index in offset.div_ceil(PAGE)..end / PAGE {
            if let Some(page) = self.pages.get_mut(&index) {
                *page = None;
            }
        }
        self.reserve(offset, end)
    }

    pub(super) fn seek_data(&self, offset: u64) -> Option<u64> {
        let written = self.pages.range(offset / PAGE..).find(|(_, page)| page.is_some());
        written.map(|(index, _)| offset.max(index * PAGE)).filter(|&at| at < self.size)
    }

    pub(super) fn seek_hole(&self, offset: u64) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        let mut index = offset / PAGE;
        while matches!(self.pages.get(&index), Some(Some(_))) {
            index += 1;
        }
        Some((index * PAGE).max(offset).min(self.size))
    }

    fn page_for_writing(&mut self, index: u64) -> Result<&mut [u8; PAGE as usize]> {
        let page = match self.pages.entry(index) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                self.space.take()?;
                entry.insert(None)
            }
        };
        Ok(page.get_or_insert_with(|| Box::new([0; PAGE as usize])))
    }

    fn drop_pages(&mut self, from: u64, to: u64) {
        let gone: Vec<u64> = if from < to { self.pages.range(from..to).map(|(&i, _)| i).collect() } else { Vec::new() };
        for index in &gone {
            self.pages.remove(index);
        }
        self.space.give_back(gone.len());
    }

    /// Clears the parts of a range that do not fill a page.
    fn clear_edges(&mut self, offset: u64, end: u64) {
        let (first, last) = (offset.next_multiple_of(PAGE), end / PAGE * PAGE);
        self.clear(offset, first.min(end));
        if last >= first {
            self.clear(last, end);
        }
    }

    /// Clears bytes within one page.
    fn clear(&mut self, from: u64, to: u64) {
        if from < to
            && let Some(Some(page)) = self.pages.get_mut(&(from / PAGE))
        {
            page[(from % PAGE) as usize..][..(to - from) as usize].fill(0);
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.space.give_back(self.pages.len());
    }
}

/// Cuts `len` bytes at `offset` at page bounds: page index, offset within the page, range within the buffer.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % PAGE) as usize;
        let start = done;
        done = len.min(done + PAGE as usize - within);
        Some((at / PAGE, within, start..done))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(limit: u64) -> Pages {
        Pages::new(Arc::new(Space::new(limit)))
    }

    fn content(pages: &Pages) -> Vec<u8> {
        let mut out = vec![0xff; pages.size() as usize];
        assert_eq!(pages.read(&mut out, 0), out.len());
        out
    }

    #[test]
    fn holes_are_found_exactly_and_read_as_zeros() {
        let mut p = pages(100);
        p.write(&[1; 10], 3 * PAGE + 5).unwrap();
        p.set_size(10 * PAGE + 1).unwrap();
        assert_eq!(p.blocks(), 8);
        assert_eq!((p.seek_data(0), p.seek_hole(0)), (Some(3 * PAGE), Some(0)));
        assert_eq!((p.seek_data(3 * PAGE + 7), p.seek_hole(3 * PAGE + 7)), (Some(3 * PAGE + 7), Some(4 * PAGE)));
        assert_eq!((p.seek_data(4 * PAGE), p.seek_hole(4 * PAGE)), (None, Some(4 * PAGE)));
        assert_eq!((p.seek_data(10 * PAGE + 1), p.seek_hole(10 * PAGE + 1)), (None, None));
        assert_eq!(content(&p).iter().filter(|&&b| b != 0).count(), 10);
    }

    #[test]
    fn a_cut_tail_does_not_come_back() {
        let mut p = pages(100);
        p.write(&[7; 5000], 0).unwrap();
        p.set_size(100).unwrap();
        p.set_size(5000).unwrap();
        assert_eq!(content(&p), [vec![7; 100], vec![0; 4900]].concat());
        assert_eq!(p.seek_hole(0), Some(PAGE));
    }

    #[test]
    fn punch_and_zero_differ_in_space_only() {
        let mut p = pages(100);
        p.write(&[9; 4 * PAGE as usize], 0).unwrap();
        p.punch(100, 2 * PAGE + 100);
        assert_eq!((p.seek_hole(0), p.seek_data(PAGE), p.blocks()), (Some(PAGE), Some(2 * PAGE), 24));
        p.zero(2 * PAGE, 4 * PAGE).unwrap();
        assert_eq!((p.seek_data(PAGE), p.blocks()), (None, 24));
        let mut expected = vec![0; 4 * PAGE as usize];
        expected[..100].fill(9);
        assert_eq!(content(&p), expected);
    }

    #[test]
    fn a_full_space_writes_what_fits_and_gives_it_back() {
        let space = Arc::new(Space::new(2));
        let mut p = Pages::new(space.clone());
        assert_eq!(p.write(&[1; 3 * PAGE as usize], 0), Err(Errno::NOSPC));
        assert_eq!((p.size(), space.free()), (2 * PAGE, 0));
        assert_eq!(p.reserve(5 * PAGE, 6 * PAGE), Err(Errno::NOSPC));
        p.set_size(1).unwrap();
        assert_eq!(space.free(), 1);
        drop(p);
        assert_eq!(space.free(), 2);
    }

    #[test]
    fn the_largest_size_is_that_of_ext4() {
        let mut p = pages(10);
        p.write(&[1; 2], MAX_SIZE - 2).unwrap();
        assert_eq!(p.write(&[1; 2], MAX_SIZE - 1), Err(Errno::FBIG));
        assert_eq!(p.size(), MAX_SIZE);
        assert_eq!(p.set_size(MAX_SIZE + 1), Err(Errno::FBIG));
    }
}
