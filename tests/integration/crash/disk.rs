//! What a disk can hold after a power cut, made from a record of what was done (FORMAT 14).
//!
//! Of names, sizes, holes and attributes there are two models. A journaling filesystem (ext4 with a journal, xfs; FORMAT
//! 8.1, first row): they survive up to some operation and none behind it. One with a log beside its commits (btrfs),
//! see [`log`]. In both each page of a file holds any version that it had since the last
//! flush of that file, whatever its neighbours hold. So a size and the data behind it survive independently of each
//! other, in both directions. A page that was freed does not get the data of its successor before the journal has the
//! freeing. What a failed flush was to write may be lost whatever is flushed later. Only the two sectors of the records can
//! be torn.

// Also where the fuzz targets take this file in.
#[path = "disk/log.rs"]
mod log;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kmsfs::env::{Clock, Entropy, SeededEntropy, random};
use kmsfs::store::{Allocate, FaultPlan, Faulty, Made, Memory, MemoryOptions, Record, RenameMode, Replay};

const PAGE: u64 = 4096;
const SECTOR: usize = 512;
/// Number of the root of a [`Memory`].
const ROOT: u64 = 2;

type Bytes = Arc<[u8; PAGE as usize]>;
type Image = Faulty<Memory>;

/// What can happen to a page.
#[derive(Clone)]
enum Event {
    Written(Bytes),
    Freed,
}

#[derive(Default)]
struct File {
    /// Number of the record that made it.
    made: usize,
    /// By page, what happened to it, with the number of the record.
    pages: BTreeMap<u64, Vec<(usize, Event)>>,
    /// Each size, with the number of the record that set it.
    sizes: Vec<(usize, u64)>,
    /// How many records were done at each flush of the file.
    flushed: Vec<usize>,
    /// The same of flushes that failed: what they were to write counts as written, and no later flush writes it.
    lost: Vec<usize>,
}

/// The record of a run, taken apart.
#[derive(Default)]
pub struct Disk {
    records: Vec<Record>,
    files: BTreeMap<u64, File>,
    /// By number of records done, how many metadata operations are durable at least.
    durable: Vec<usize>,
    /// The same, if a flush of one object makes nothing durable of others.
    committed: Vec<usize>,
    /// By number of records done, all names.
    names: Vec<log::Names>,
    /// The page of a file whose last two sectors are the records of its header.
    records_page: u64,
}

/// A moment at which the power is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Operations that were done.
    pub done: usize,
    /// Of those, how many the journal has, or the last commit.
    pub journal: usize,
    /// Of a filesystem that logs what is flushed, not all there was before it: what decides where it has a choice.
    pub log: Option<u64>,
}

/// Which of the versions of each page the disk holds.
pub enum Pages {
    /// The last: everything was written back.
    Newest,
    /// The one of the last flush: nothing was.
    Oldest,
    /// Any of them, torn between two at times; what is drawn from, and the seed of it.
    Any(SeededEntropy, u64),
}

impl Pages {
    pub fn any(seed: u64) -> Self {
        Self::Any(SeededEntropy::new(seed), seed)
    }

    /// The same, from the beginning.
    pub fn again(&self) -> Self {
        match self {
            Self::Newest => Self::Newest,
            Self::Oldest => Self::Oldest,
            Self::Any(_, seed) => Self::any(*seed),
        }
    }

    fn pick(&self, count: usize) -> usize {
        match self {
            Self::Newest => count - 1,
            Self::Oldest => 0,
            Self::Any(entropy, _) => draw(entropy, count),
        }
    }
}

/// A number below `count`.
pub fn draw(entropy: &dyn Entropy, count: usize) -> usize {
    (u64::from_le_bytes(random(entropy)) % count as u64) as usize
}

impl Disk {
    /// `base` records at the start are durable at every cut.
    pub fn new(records: Vec<Record>, base: usize) -> Self {
        let mut disk = Self::default();
        let mut touched = Touched::default();
        let (mut durable, mut committed) = (0, 0);
        disk.durable.push(durable);
        disk.committed.push(committed);
        disk.names.push(log::Names::new());
        for (number, record) in records.iter().enumerate() {
            disk.follow(number, record);
            touched.follow(number, record);
            let at_least = match record {
                Record::Sync { ino, data_only: true } => touched.for_data.get(ino).copied(),
                Record::Sync { ino, data_only: false } | Record::SyncDir { dir: ino } => touched.any.get(ino).copied(),
                Record::SyncAll => Some(number),
                _ => None,
            };
            durable = durable.max(at_least.unwrap_or(0));
            if *record == Record::SyncAll {
                committed = number + 1;
            }
            if number < base {
                (durable, committed) = (number + 1, number + 1);
            }
            disk.durable.push(durable);
            disk.committed.push(committed);
            disk.names.push(touched.names.clone());
        }
        for file in disk.files.values_mut() {
            file.flushed.insert(0, base);
        }
        disk.records = records;
        disk
    }

    /// The same, for headers of so many bytes.
    pub fn with_headers_of(self, len: usize) -> Self {
        Self { records_page: len as u64 / PAGE - 1, ..self }
    }

    /// How many metadata operations are durable at least when `done` operations are done.
    pub fn durable(&self, done: usize) -> usize {
        self.durable[done]
    }

    /// The same, if a flush of one object makes nothing durable of others.
    pub fn committed(&self, done: usize) -> usize {
        self.committed[done]
    }

    fn follow(&mut self, number: usize, record: &Record) {
        match record {
            Record::Make { ino, what: Made::Node { .. }, .. } | Record::MakeUnnamed { ino, .. } => {
                self.files.insert(*ino, File { made: number, ..File::default() });
            }
            Record::Write { ino, offset, data } => self.file(*ino).write(number, *offset, data),
            Record::SetLen { ino, len } => self.file(*ino).set_len(number, *len),
            Record::Allocate { ino, how: Allocate::PunchHole | Allocate::ZeroRange, offset, len } => {
                self.file(*ino).clear(number, *offset, offset + len);
            }
            Record::Sync { ino, .. } => self.file(*ino).flushed.push(number + 1),
            Record::FailedSync { ino } => {
                // Of a directory id or side entry that is a file too.
                self.file(*ino).lost.push(number + 1);
            }
            Record::SyncAll => self.files.values_mut().for_each(|file| file.flushed.push(number + 1)),
            Record::FailedSyncAll => self.files.values_mut().for_each(|file| file.lost.push(number + 1)),
            _ => {}
        }
    }

    fn file(&mut self, ino: u64) -> &mut File {
        self.files.get_mut(&ino).expect("only files that were made are changed")
    }

    /// The disk after the cut, itself recorded from its first operation on.
    pub fn image(&self, cut: Cut, pages: &Pages, clock: Arc<dyn Clock>, ordered_metadata: bool) -> Image {
        let options = MemoryOptions { ordered_metadata, ..MemoryOptions::default() };
        let image = Faulty::new(Memory::with_options(clock, options), FaultPlan::new());
        image.start_recording();
        let mut replay = Replay::new(image.clone(), ROOT).unwrap();
        let replayed = cut.log.map(|seed| self.replayed(cut, seed));
        let made = match &replayed {
            Some(replayed) => self.replay_log(cut, replayed, &mut replay),
            None => self.replay_journal(cut, &mut replay),
        };
        for ino in made {
            let file = &self.files[&ino];
            let journal = replayed.as_ref().map_or(cut.journal, |log| log.size_of(ino, file.made));
            for (page, data) in file.on_disk(Cut { journal, ..cut }, pages, self.records_page) {
                replay.apply(&Record::Write { ino, offset: page * PAGE, data: data.to_vec() }).unwrap();
            }
            replay.apply(&Record::SetLen { ino, len: file.size(journal) }).unwrap();
        }
        image
    }

    /// Makes everything but contents as the journal has it. Returns the files that were made.
    fn replay_journal(&self, cut: Cut, replay: &mut Replay<Image>) -> Vec<u64> {
        let mut made = Vec::new();
        for record in &self.records[..cut.journal] {
            match record {
                Record::Write { .. } | Record::SetLen { .. } | Record::Allocate { .. } => continue,
                Record::Sync { .. } | Record::SyncDir { .. } | Record::SyncAll => continue,
                Record::FailedSync { .. } | Record::FailedSyncAll | Record::StartWriteback { .. } => continue,
                Record::Make { ino, what: Made::Node { .. }, .. } | Record::MakeUnnamed { ino, .. } => made.push(*ino),
                _ => {}
            }
            replay.apply(record).unwrap();
        }
        made
    }
}

impl File {
    /// The size after so many records.
    fn size(&self, records: usize) -> u64 {
        self.sizes.iter().rev().find(|(number, _)| *number < records).map_or(0, |(_, size)| *size)
    }

    /// The bytes of a page as the page cache has them.
    fn cached(&self, page: u64) -> Option<Bytes> {
        match self.pages.get(&page)?.last()? {
            (_, Event::Written(bytes)) => Some(bytes.clone()),
            (_, Event::Freed) => None,
        }
    }

    fn change(&mut self, number: usize, page: u64, change: impl FnOnce(&mut [u8; PAGE as usize])) {
        let mut bytes = self.cached(page).map_or([0; PAGE as usize], |bytes| *bytes);
        change(&mut bytes);
        self.pages.entry(page).or_default().push((number, Event::Written(Arc::new(bytes))));
    }

    fn write(&mut self, number: usize, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        for page in offset / PAGE..end.div_ceil(PAGE) {
            let (from, to) = (offset.max(page * PAGE), end.min((page + 1) * PAGE));
            let part = &data[(from - offset) as usize..(to - offset) as usize];
            self.change(number, page, |bytes| {
                bytes[(from - page * PAGE) as usize..][..part.len()].copy_from_slice(part)
            });
        }
        if end > self.size(usize::MAX) {
            self.sizes.push((number, end));
        }
    }

    fn set_len(&mut self, number: usize, len: u64) {
        self.clear(number, len, u64::MAX);
        self.sizes.push((number, len));
    }

    /// Frees whole pages and zeroes parts of others, which is a write like any other.
    fn clear(&mut self, number: usize, from: u64, to: u64) {
        // A hole over the end takes the last page.
        let to = if to > self.size(usize::MAX) { u64::MAX } else { to };
        let stored: Vec<u64> = self.pages.keys().copied().filter(|page| self.cached(*page).is_some()).collect();
        for page in stored {
            let (start, end) = (page * PAGE, (page + 1) * PAGE);
            if from <= start && end <= to {
                self.pages.entry(page).or_default().push((number, Event::Freed));
            } else if from < end && start < to {
                let (first, last) = (from.max(start) - start, to.min(end) - start);
                self.change(number, page, |bytes| bytes[first as usize..last as usize].fill(0));
            }
        }
    }

    /// The pages that a cut leaves.
    fn on_disk(&self, cut: Cut, pick: &Pages, records_page: u64) -> Vec<(u64, Bytes)> {
        // What was written is on the disk if the first flush after it did not fail.
        let first = |counts: &[usize], number| counts.iter().copied().filter(|&count| count > number).min();
        let flushed = |number: usize| {
            let lost = first(&self.lost, number).unwrap_or(usize::MAX);
            first(&self.flushed, number).is_some_and(|count| count <= cut.done && count < lost)
        };
        let page = |(page, events): (&u64, &Vec<(usize, Event)>)| {
            let versions = versions(events, cut, &flushed);
            let first = pick.pick(versions.len());
            let mut bytes = versions[first].clone()?;
            if let Pages::Any(entropy, _) = pick
                && *page == records_page
            {
                tear(&mut bytes, &versions[first..], entropy);
            }
            Some((*page, bytes))
        };
        self.pages.iter().filter_map(page).collect()
    }
}

/// The versions of a page that a cut can leave, oldest first; `None` is a hole. `flushed` tells of an operation whether what
/// it wrote was flushed.
fn versions(events: &[(usize, Event)], cut: Cut, flushed: &dyn Fn(usize) -> bool) -> Vec<Option<Bytes>> {
    let mut versions = vec![None];
    for (number, event) in events.iter().filter(|(number, _)| *number < cut.done) {
        match event {
            Event::Freed if *number < cut.journal => versions = vec![None],
            // The journal does not know that the page is free, so what was written later went elsewhere.
            Event::Freed => break,
            Event::Written(bytes) if flushed(*number) => versions = vec![Some(bytes.clone())],
            Event::Written(bytes) => versions.push(Some(bytes.clone())),
        }
    }
    versions
}

/// Takes the sectors of the records from a later version of the header, if it differs in nothing else.
fn tear(bytes: &mut Bytes, later: &[Option<Bytes>], entropy: &SeededEntropy) {
    let records = PAGE as usize - 2 * SECTOR;
    let same = |other: &&Bytes| other[..records] == bytes[..records];
    let others: Vec<Bytes> = later.iter().flatten().filter(same).cloned().collect();
    if others.is_empty() {
        return;
    }
    let other = &others[draw(entropy, others.len())];
    let mut torn = **bytes;
    let sectors = draw(entropy, 4);
    for sector in 0..2 {
        let at = records + sector * SECTOR;
        if sectors & (1 << sector) != 0 {
            torn[at..at + SECTOR].copy_from_slice(&other[at..at + SECTOR]);
        }
    }
    *bytes = Arc::new(torn);
}

/// By object, how many operations a flush of it makes durable: those up to the last that concerned it.
#[derive(Default)]
struct Touched {
    any: HashMap<u64, usize>,
    /// What fdatasync needs: not the times.
    for_data: HashMap<u64, usize>,
    names: log::Names,
    sizes: HashMap<u64, u64>,
}

impl Touched {
    fn follow(&mut self, number: usize, record: &Record) {
        match record {
            Record::Make { dir, name, ino, .. } => {
                self.names.insert((*dir, name.clone()), *ino);
                self.touch(number, &[*dir, *ino]);
            }
            Record::MakeUnnamed { dir, ino, .. } => self.touch(number, &[*dir, *ino]),
            Record::LinkNode { ino, to_dir, to_name } => {
                self.names.insert((*to_dir, to_name.clone()), *ino);
                self.touch(number, &[*to_dir, *ino]);
            }
            Record::Link { dir, name, to_dir, to_name } => {
                let ino = self.names[&(*dir, name.clone())];
                self.names.insert((*to_dir, to_name.clone()), ino);
                self.touch(number, &[*to_dir, ino]);
            }
            Record::Unlink { dir, name } | Record::Rmdir { dir, name } => {
                let ino = self.names.remove(&(*dir, name.clone())).expect("what is removed was made");
                self.touch(number, &[*dir, ino]);
            }
            Record::Rename { dir, name, to_dir, to_name, mode } => {
                let from = (*dir, name.clone());
                let to = (*to_dir, to_name.clone());
                let moved = self.names.remove(&from).expect("what is renamed was made");
                let replaced = self.names.insert(to, moved);
                match replaced {
                    Some(other) if *mode == RenameMode::Exchange => drop(self.names.insert(from, other)),
                    // Two names of one file stay both (rename(2)).
                    Some(other) if other == moved => drop(self.names.insert(from, moved)),
                    _ => {}
                }
                self.touch(number, &[*dir, *to_dir, moved]);
                self.touch(number, replaced.as_slice());
            }
            Record::SetLen { ino, len } => {
                self.sizes.insert(*ino, *len);
                self.touch(number, &[*ino]);
            }
            Record::Allocate { ino, .. } => self.touch(number, &[*ino]),
            Record::Write { ino, offset, data } => {
                let (size, end) = (self.sizes.entry(*ino).or_default(), offset + data.len() as u64);
                if end > *size {
                    *size = end;
                    self.touch(number, &[*ino]);
                }
                self.any.insert(*ino, number + 1);
            }
            Record::SetMode { ino, .. }
            | Record::SetOwner { ino, .. }
            | Record::SetTimes { ino, .. }
            | Record::SetXattr { ino, .. }
            | Record::RemoveXattr { ino, .. }
            | Record::SetInodeFlags { ino, .. } => {
                self.any.insert(*ino, number + 1);
            }
            Record::Sync { .. } | Record::SyncDir { .. } | Record::SyncAll => {}
            Record::FailedSync { .. } | Record::FailedSyncAll | Record::StartWriteback { .. } => {}
        }
    }

    fn touch(&mut self, number: usize, objects: &[u64]) {
        for ino in objects {
            self.any.insert(*ino, number + 1);
            self.for_data.insert(*ino, number + 1);
        }
    }
}
