//! The power is cut at every operation on the backing, and the disk holds what a disk may hold then: nothing that was
//! flushed is lost, everything else is old or new, and the volume goes on working (FORMAT S1, S7, S14).

mod check;
mod config;
pub mod disk;
mod failed_flush;
mod plain_names;
pub mod random;
mod repaired;
mod rewrap;
pub mod run;

use std::ops::Add;

use kmsfs::env::SeededEntropy;
use kmsfs::store::{Faulty, Memory, Record};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::model::ops::{LONGEST, UNIT};
use check::{Survivors, survivors};
use disk::{Cut, Pages, draw};
use random::{
    cases, clock, cut_and_check, disk_of, draws, new_plain_volume, new_recorded_volume, new_volume,
    new_volume_with_long_headers, step,
};
use run::{Node, Run, Step, Tree};

use Step::{
    Create, CreateUnnamed, Exchange, FailNextResize, FailNextSync, Fdatasync, Fsync, FsyncBeside, FsyncDir,
    LackExchange, Link, LinkUnnamed, Mkdir, Punch, Remount, Rename, Reserve, Rewrap, Rmdir, SetLen, SetXattr, Settle,
    Symlink, Unlink, Write, Zero,
};

const U: usize = UNIT as usize;

/// Step sequences, each made to put one rule of the format at risk.
const SCENARIOS: &[Scenario] = &[
    ("a new file", &[Create("a"), Write("a", 0, 100), Fsync("a"), FsyncDir("")]),
    ("a new file of several units", &[Create("a"), Write("a", 0, 3 * U + 7), Fdatasync("a"), Write("a", 0, 50)]),
    ("a new file that begins far from its start", &[Create("a"), Write("a", UNIT * 2 + 9, 100), Fsync("a")]),
    ("an overwrite within a unit", &[Create("a"), Write("a", 0, 2 * U), Fsync("a"), Write("a", 10, 20)]),
    ("an overwrite across units", &[Create("a"), Write("a", 0, 4 * U), Fsync("a"), Write("a", UNIT - 9, 2 * U)]),
    (
        "appends to a partial and to a full tail unit",
        &[Create("a"), Write("a", 0, 100), Fsync("a"), Write("a", 100, U - 100), Write("a", UNIT, 50), Fsync("a")],
    ),
    (
        "appends in a row, flushed now and then",
        &[Create("a"), Write("a", 0, U), Fsync("a"), Write("a", UNIT, U), Write("a", 2 * UNIT, 9), Fdatasync("a")],
    ),
    ("a shrink within the tail unit", &[Create("a"), Write("a", 0, 2 * U), Fsync("a"), SetLen("a", UNIT + 5)]),
    (
        "a shrink over units, then growth",
        &[Create("a"), Write("a", 0, 4 * U), Fsync("a"), SetLen("a", UNIT + 5), SetLen("a", 3 * UNIT), Fsync("a")],
    ),
    (
        "a shrink to a full unit, then an append",
        &[Create("a"), Write("a", 0, 3 * U), Fsync("a"), SetLen("a", UNIT), Write("a", UNIT, 100), Fsync("a")],
    ),
    (
        "a shrink of what was not flushed",
        &[Create("a"), Write("a", 0, 100), Fsync("a"), Write("a", 100, 3 * U), SetLen("a", UNIT), SetLen("a", 50)],
    ),
    (
        "a shrink into zeros of a unit that was written",
        &[
            Create("a"),
            Write("a", 0, U),
            Write("a", UNIT + 2000, 100),
            Fsync("a"),
            SetLen("a", UNIT + 1000),
            Fsync("a"),
        ],
    ),
    ("a second life", &[Create("a"), Write("a", 0, 2 * U), Fsync("a"), SetLen("a", 0), Write("a", 0, 50), Fsync("a")]),
    (
        "a second life that is never flushed",
        &[Create("a"), Write("a", 0, 2 * U), Fsync("a"), SetLen("a", 0), Write("a", 0, 3 * U)],
    ),
    ("a hole in flushed units", &[Create("a"), Write("a", 0, 4 * U), Fsync("a"), Punch("a", 9, 3 * UNIT)]),
    ("zeros in flushed units", &[Create("a"), Write("a", 0, 4 * U), Fsync("a"), Zero("a", UNIT, UNIT), Fsync("a")]),
    (
        "a second hole, when the first was flushed with the size",
        &[
            Create("a"),
            Write("a", 0, 3 * U),
            Fsync("a"),
            Fsync("a"),
            Write("a", 9 * UNIT, 10),
            Fsync("a"),
            Punch("a", 0, UNIT),
        ],
    ),
    (
        "a hole that was filled, and another one",
        &[Create("a"), Write("a", 0, 3 * U), Fsync("a"), Punch("a", 0, UNIT), Write("a", 0, U), Punch("a", UNIT, UNIT)],
    ),
    (
        "a hole that is filled beside a flush",
        &[Create("a"), Write("a", 0, U), Fsync("a"), SetLen("a", 3 * UNIT), FsyncBeside("a", UNIT, 2 * U), Fsync("a")],
    ),
    (
        "an append beside a flush",
        &[Create("a"), Write("a", 0, U), FsyncBeside("a", UNIT, 3 * U), Write("a", 9, 9), Fsync("a")],
    ),
    ("a sparse file", &[Create("a"), SetLen("a", 5 * UNIT), Write("a", 3 * UNIT, 10), Fsync("a"), SetLen("a", UNIT)]),
    (
        "reserved space",
        &[Create("a"), Write("a", 0, 50), Reserve("a", 0, 4 * UNIT), Fsync("a"), Write("a", 50, 2 * U), Fsync("a")],
    ),
    (
        "a shrink whose first flush fails",
        &[Create("a"), Write("a", 0, 3 * U), Fsync("a"), Fsync("a"), FailNextSync, SetLen("a", 99), SetLen("a", 99)],
    ),
    (
        "a process killed while it shrinks a file, which is then shrunk less",
        &[
            Create("a"),
            Write("a", 0, 3 * U),
            Fsync("a"),
            Fsync("a"),
            FailNextSync,
            SetLen("a", 99),
            Remount,
            SetLen("a", UNIT + 7),
        ],
    ),
    (
        "a hole whose first flush fails",
        &[
            Create("a"),
            Write("a", 0, 3 * U),
            Fsync("a"),
            Fsync("a"),
            FailNextSync,
            Punch("a", 0, UNIT),
            Punch("a", 0, UNIT),
        ],
    ),
    (
        "a process killed while it makes a hole",
        &[
            Create("a"),
            Write("a", 0, 3 * U),
            Fsync("a"),
            Fsync("a"),
            FailNextSync,
            Punch("a", 0, UNIT),
            Remount,
            Punch("a", UNIT, UNIT),
        ],
    ),
    (
        "zeros in a unit, made again after a flush that lost them",
        &[
            Create("a"),
            Write("a", 0, 3 * U),
            Fsync("a"),
            Zero("a", 10, 100),
            FailNextSync,
            Fsync("a"),
            Zero("a", 10, 100),
            Fsync("a"),
        ],
    ),
    (
        "a hole over the border of two units, made again after a flush that lost it",
        &[
            Create("a"),
            Write("a", 0, 3 * U),
            Fsync("a"),
            Punch("a", UNIT - 50, 100),
            FailNextSync,
            Fsync("a"),
            Punch("a", UNIT - 50, 100),
            Fsync("a"),
        ],
    ),
    (
        "a shrink that fails half way, and is done again after a flush that lost what it did",
        &[
            Create("a"),
            Write("a", 0, 3 * U),
            Fsync("a"),
            FailNextResize,
            SetLen("a", UNIT + 5),
            FailNextSync,
            Fsync("a"),
            SetLen("a", UNIT + 5),
            SetLen("a", 3 * UNIT),
            Fsync("a"),
        ],
    ),
    (
        "a volume mounted again without a flush",
        &[Create("a"), Write("a", 0, U + 9), Remount, Write("a", UNIT + 9, 3 * U), Fsync("a"), Remount, SetLen("a", 5)],
    ),
    (
        "a file replaced as editors do it",
        &[
            Create("a"),
            Write("a", 0, U),
            Fsync("a"),
            FsyncDir(""),
            Create("b"),
            Write("b", 0, 2 * U),
            Fsync("b"),
            Rename("b", "a"),
            FsyncDir(""),
        ],
    ),
    (
        "directories",
        &[
            Mkdir("d"),
            Mkdir("d/e"),
            Create("d/e/f"),
            Write("d/e/f", 0, 9),
            Fsync("d/e/f"),
            FsyncDir("d/e"),
            SetXattr("d"),
        ],
    ),
    (
        "a directory removed",
        &[Mkdir("d"), Create("d/f"), FsyncDir("d"), Unlink("d/f"), Rmdir("d"), Mkdir("d"), FsyncDir("")],
    ),
    (
        "a directory over a directory",
        &[Mkdir("d"), Create("d/f"), Write("d/f", 0, 9), Fsync("d/f"), Mkdir("e"), Rename("d", "e"), FsyncDir("")],
    ),
    (
        "a directory over a directory, without an exchange",
        &[
            LackExchange,
            Mkdir("d"),
            Create("d/f"),
            Write("d/f", 0, 9),
            Fsync("d/f"),
            Mkdir("e"),
            Rename("d", "e"),
            FsyncDir(""),
            Mkdir(LONGEST),
            Rename("e", LONGEST),
            Mkdir("e"),
            Rename(LONGEST, "e"),
            FsyncDir(""),
        ],
    ),
    (
        "long names",
        &[
            Create(LONGEST),
            Write(LONGEST, 0, 9),
            Fsync(LONGEST),
            Create("b"),
            Rename("b", LONGEST),
            Rename(LONGEST, "c"),
        ],
    ),
    (
        "long names made and removed",
        &[
            Mkdir("d"),
            Create("b"),
            Link("b", LONGEST),
            Unlink("b"),
            Symlink("s"),
            FsyncDir(""),
            Unlink(LONGEST),
            Unlink("s"),
        ],
    ),
    (
        "a file that gets its name when it is whole",
        &[CreateUnnamed("a"), Write("a", 0, 2 * U + 9), Fsync("a"), LinkUnnamed("a"), FsyncDir(""), Write("a", 9, U)],
    ),
    (
        "a file that gets a long name before it is flushed",
        &[
            CreateUnnamed(LONGEST),
            Write(LONGEST, UNIT, 50),
            LinkUnnamed(LONGEST),
            Write(LONGEST, 0, 9),
            Fsync(LONGEST),
            SetLen(LONGEST, 7),
        ],
    ),
    (
        "a file that never gets a name, and one that gets the name of a removed one",
        &[
            CreateUnnamed("b"),
            Write("b", 0, U),
            Fsync("b"),
            Create("a"),
            Write("a", 0, 100),
            Fsync("a"),
            FsyncDir(""),
            Unlink("a"),
            CreateUnnamed("a"),
            Write("a", 0, 3 * U),
            Fdatasync("a"),
            LinkUnnamed("a"),
            FsyncDir(""),
        ],
    ),
    ("an exchange", &[Create("a"), Write("a", 0, 9), Fsync("a"), Mkdir("d"), Exchange("a", "d"), FsyncDir("")]),
    ("a re-wrap", &[Create("a"), Write("a", 0, 2 * U), Fsync("a"), Rewrap("a"), Write("a", 5, 9), Fsync("a")]),
    (
        "a re-wrap between a flush and a cut",
        &[Create("a"), Write("a", 0, 3 * U), Fsync("a"), Write("a", 0, 9), Rewrap("a"), SetLen("a", 50), Rewrap("a")],
    ),
    (
        "a re-wrap whose first flush fails",
        &[
            Create("a"),
            Write("a", 0, 3 * U),
            Fsync("a"),
            Rewrap("a"),
            FailNextSync,
            Rewrap("a"),
            Write("a", 0, 9),
            Fsync("a"),
        ],
    ),
];

/// More of them, where the flush of one object makes nothing durable of the others.
const LOG_SCENARIOS: &[Scenario] = &[
    (
        "a file flushed in a directory that was renamed",
        &[
            Mkdir("d"),
            FsyncDir(""),
            Create("d/f"),
            Rename("d", "e"),
            Write("e/f", 0, U),
            Fsync("e/f"),
            Mkdir("d"),
            Create("d/f"),
            Write("d/f", 0, 9),
            Fsync("d/f"),
        ],
    ),
    (
        "a name that was another file's, which has a new one",
        &[
            Create("a"),
            Write("a", 0, U),
            Fsync("a"),
            Rename("a", LONGEST),
            Create("a"),
            Write("a", 0, 9),
            Fsync("a"),
            Rename(LONGEST, "b"),
            Fsync("a"),
        ],
    ),
    (
        "names that change places below what is flushed",
        &[
            Mkdir("d"),
            Mkdir("e"),
            Create("d/a"),
            Write("d/a", 0, 50),
            Fsync("d/a"),
            Exchange("d", "e"),
            Rename("e/a", "a"),
            Link("a", "d/a"),
            Write("a", 9, 9),
            Fsync("a"),
            Unlink("d/a"),
            Rmdir("d"),
            FsyncDir("e"),
            Rename("e", "d"),
            Create("b"),
            Fsync("b"),
        ],
    ),
    (
        "a long name that another file takes and leaves again",
        &[
            Create(LONGEST),
            Write(LONGEST, 0, U),
            Fsync(LONGEST),
            Create("b"),
            Rename("b", LONGEST),
            Rename(LONGEST, "b"),
            Fsync("b"),
        ],
    ),
    (
        "a long name that another file takes, which is removed",
        &[
            Create(LONGEST),
            Write(LONGEST, 0, U),
            Fsync(LONGEST),
            Create("b"),
            Rename("b", LONGEST),
            Unlink(LONGEST),
            Create("a"),
            Fsync("a"),
        ],
    ),
    (
        "a side entry whose first flush fails",
        &[FailNextSync, Create(LONGEST), Create(LONGEST), Write(LONGEST, 0, 9), Fsync(LONGEST)],
    ),
    (
        "new directories within each other",
        &[
            Mkdir("d"),
            Mkdir("d/e"),
            Create("d/e/f"),
            Write("d/e/f", 0, 9),
            Fdatasync("d/e/f"),
            Mkdir(LONGEST),
            Rename("d/e", "e"),
            Create("e/g"),
            Write("e/g", 0, U),
            Fsync("e/g"),
        ],
    ),
    (
        "long names that come and go beside a flush",
        &[
            Mkdir("d"),
            Create("a"),
            Write("a", 0, 9),
            Fsync("a"),
            Link("a", LONGEST),
            Create("b"),
            Write("b", 0, 9),
            Fsync("b"),
            Unlink(LONGEST),
            Fsync("b"),
            Rename("b", LONGEST),
            Fdatasync("a"),
            Rename("a", LONGEST),
            FsyncDir(""),
        ],
    ),
];

/// How many states were checked.
#[derive(Clone, Copy, Default, Debug)]
struct Looked {
    states: usize,
    /// Those of them that no journal leaves.
    out_of_order: usize,
}

impl Looked {
    fn states(states: usize) -> Self {
        Self { states, out_of_order: 0 }
    }
}

impl Add for Looked {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { states: self.states + other.states, out_of_order: self.out_of_order + other.out_of_order }
    }
}

type Scenario = (&'static str, &'static [Step]);

/// Runs `check` on the steps of all scenarios, and tells which of them failed at the end. `K` is what else a check depends on.
fn all_pass<K: Copy>(
    scenarios: impl IntoIterator<Item = (&'static Scenario, K)>,
    check: impl Fn(&'static [Step], K) -> Looked,
) -> Looked {
    let (mut looked, mut failed) = (Looked::default(), Vec::new());
    for (number, ((name, steps), kind)) in scenarios.into_iter().enumerate() {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(steps, kind))) {
            Ok(more) => looked = looked + more,
            Err(_) => failed.push((number, *name)),
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
    looked
}

/// Seeds for what is drawn at a cut behind so many operations.
fn seeds(done: usize, count: u64) -> impl Iterator<Item = u64> {
    let draws = draws();
    (0..count * draws.times).map(move |number| draws.seed.wrapping_add(done as u64 * 1000 + number))
}

/// Cuts the power after every operation of a run, each time in the four extreme ways and in `others` further ones.
/// Returns how many states that were.
fn cut_everywhere(run: &Run, others: u64, ordered_metadata: bool) -> usize {
    let disk = disk_of(run);
    let mut states = 0;
    for done in run.base()..=run.records.len() {
        let least = disk.durable(done);
        let mut ways = Vec::new();
        for journal in [least, done] {
            ways.push((journal, Pages::Oldest));
            ways.push((journal, Pages::Newest));
        }
        for seed in seeds(done, others) {
            ways.push((least + draw(&SeededEntropy::new(seed), done - least + 1), Pages::any(seed)));
        }
        for (journal, pages) in ways {
            cut_and_check(run, &disk, Cut { done, journal, log: None }, &pages, ordered_metadata);
            states += 1;
        }
    }
    states
}

/// Cuts the power after every operation of a run on a filesystem with a log beside its commits, each time in `ways`.
fn cut_everywhere_with_a_log(run: &Run, ways: u64) -> Looked {
    let disk = disk_of(run);
    let mut looked = Looked::default();
    for done in run.base()..=run.records.len() {
        let least = disk.committed(done);
        for (number, seed) in seeds(done, ways).enumerate() {
            let journal = match number {
                0 => least,
                _ => least + draw(&SeededEntropy::new(seed), done - least + 1),
            };
            let pages = match number % 3 {
                0 => Pages::Oldest,
                1 => Pages::Newest,
                _ => Pages::any(seed),
            };
            let cut = Cut { done, journal, log: Some(seed) };
            cut_and_check(run, &disk, cut, &pages, false);
            looked = looked + Looked { states: 1, out_of_order: usize::from(disk.is_out_of_order(cut)) };
        }
    }
    looked
}

#[test]
fn nothing_that_was_flushed_is_lost_where_only_that_is_logged() {
    let scenarios = SCENARIOS.iter().map(|scenario| (scenario, 2));
    let all = scenarios.chain(LOG_SCENARIOS.iter().map(|scenario| (scenario, 60)));
    let looked = all_pass(all, |steps, ways| cut_everywhere_with_a_log(&new_volume(false).steps(steps), ways));
    assert!(looked.states > 1000 && looked.out_of_order > 100, "{looked:?}");
}

#[test]
fn nothing_that_was_flushed_is_lost() {
    let ways = |scenario| [(true, 1), (false, 1), (true, 2), (true, 3)].map(|way| (scenario, way));
    let looked = all_pass(SCENARIOS.iter().flat_map(ways), |steps, (ordered, raise_every)| {
        let run = new_volume(ordered).raising_every(raise_every).steps(steps);
        Looked::states(cut_everywhere(&run, 3, ordered))
    });
    assert!(looked.states > 1000, "{looked:?}");
}

#[test]
fn the_header_of_a_stream_is_with_the_device_before_its_units() {
    const MIB: usize = 1 << 20;
    let run =
        new_volume(true).steps(&[Create("a"), Write("a", 0, MIB), Write("a", MIB as u64, MIB), Write("a", 0, MIB)]);
    let given = run.records.iter().filter_map(|record| match record {
        Record::StartWriteback { offset, len, .. } => Some((*offset, *len)),
        _ => None,
    });
    let given: Vec<_> = given.collect();
    assert_eq!(given[0], (0, 4096));
    assert!(
        given.len() == 3 && given[1..].iter().all(|(offset, len)| *offset >= 4096 && *len > MIB as u64 / 2),
        "{given:?}"
    );
}

#[test]
fn nothing_that_was_flushed_is_lost_under_long_headers() {
    let looked = all_pass(SCENARIOS.iter().map(|scenario| (scenario, ())), |steps, ()| {
        Looked::states(cut_everywhere(&new_volume_with_long_headers().steps(steps), 3, true))
    });
    assert!(looked.states > 500, "{looked:?}");
}

#[test]
fn a_second_power_cut_harms_no_more_than_the_first() {
    const BEFORE: &[Step] = &[
        Create("a"),
        Write("a", 0, 2 * U + 9),
        Fsync("a"),
        FsyncDir(""),
        Write("a", 2 * UNIT + 9, 2 * U),
        SetLen("a", UNIT + 1),
        Write("a", UNIT + 1, 30),
        Create("b"),
        Write("b", 2 * UNIT, 50),
    ];
    const BEHIND: &[Step] =
        &[Write("b", UNIT, 9), Write("a", UNIT, 2 * U), Fsync("a"), SetLen("a", UNIT - 3), Fsync("b"), SetLen("b", 9)];
    let run = new_volume(true).steps(BEFORE);
    let disk = disk_of(&run);
    let mut states = 0;
    for done in run.base()..=run.records.len() {
        let least = disk.durable(done);
        let seed = done as u64;
        let journal = least + draw(&SeededEntropy::new(seed), done - least + 1);
        let cut = Cut { done, journal, log: None };
        let image = disk.image(cut, &Pages::any(seed), clock(), true);
        let found = survivors(&run, &disk, cut, image.clone());
        let second = resume(&run, &found, image).steps(BEHIND);
        states += cut_everywhere(&second, 2, true);
    }
    assert!(states > 500, "only {states} states were checked");
}

/// Goes on with what a cut left. A file without a header stands at the start of a new run as what it is: unreadable.
fn resume(run: &Run, found: &Survivors, image: Faulty<Memory>) -> Run {
    let mut contents = Vec::new();
    let mut tree = Tree::new();
    for (path, node) in &found.tree {
        match node {
            Node::File(file) => match &found.contents[file] {
                Some(content) => {
                    tree.insert(path.clone(), Node::File(contents.len()));
                    contents.push(content.clone());
                }
                None => {
                    let root = kmsfs::vfs::ROOT;
                    run.volume
                        .fixture
                        .on(image.clone())
                        .mount()
                        .unlink(root, path.as_bytes())
                        .expect("it can be removed");
                }
            },
            other => {
                tree.insert(path.clone(), other.clone());
            }
        }
    }
    Run::begin(run.volume.fixture.on(image), tree, contents)
}

/// Cuts the power after every operation of a run, each time in `ways`; where metadata has no order, in every second one with a log.
fn cut_somehow(run: &Run, ways: u64, ordered_metadata: bool) -> Looked {
    let disk = disk_of(run);
    let mut looked = Looked::default();
    for done in run.base()..=run.records.len() {
        for (number, seed) in seeds(done, ways).enumerate() {
            let log = (!ordered_metadata && (done + number).is_multiple_of(2)).then_some(seed);
            let least = if log.is_some() { disk.committed(done) } else { disk.durable(done) };
            let journal = least + draw(&SeededEntropy::new(seed), done - least + 1);
            let pages = match (done / 2 + number) % 3 {
                0 => Pages::Newest,
                1 => Pages::Oldest,
                _ => Pages::any(seed),
            };
            let cut = Cut { done, journal, log };
            cut_and_check(run, &disk, cut, &pages, ordered_metadata);
            looked = looked + Looked { states: 1, out_of_order: usize::from(disk.is_out_of_order(cut)) };
        }
    }
    looked
}

#[test]
fn a_crash_is_no_attack() {
    // A re-wrap below the mount is one.
    let is_attack = |step: &Step| matches!(step, Rewrap(_));
    let scenarios = SCENARIOS.iter().filter(|(_, steps)| !steps.iter().any(is_attack));
    // As new files, and as files that were settled before.
    let kinds = [(false, true), (true, true), (false, false), (true, false)];
    let mut all: Vec<_> = scenarios.flat_map(|scenario| kinds.map(|kind| (scenario, (kind, 1)))).collect();
    let kinds = [((false, false), 12), ((true, false), 6)];
    all.extend(LOG_SCENARIOS.iter().flat_map(|scenario| kinds.map(|kind| (scenario, kind))));
    let looked = all_pass(all, |steps, ((settled, ordered), ways)| {
        let steps: Vec<_> = steps.iter().flat_map(|step| [Some(*step), settled.then_some(Settle)]).flatten().collect();
        cut_somehow(&new_recorded_volume(ordered).steps(&steps), ways, ordered)
    });
    assert!(looked.states > 1000 && looked.out_of_order > 10, "{looked:?}");
}

/// A moment, how much of the journal the disk has then, and a seed for all else.
type AnyCut = (Index, Index, u64);

fn any_cuts(count: usize) -> impl Strategy<Value = Vec<AnyCut>> {
    prop::collection::vec((any::<Index>(), any::<Index>(), any::<u64>()), count)
}

fn cut_at_random(run: &Run, cuts: Vec<AnyCut>, ordered_metadata: bool) {
    let disk = disk_of(run);
    for (number, (done, journal, seed)) in cuts.into_iter().enumerate() {
        let done = run.base() + done.index(run.records.len() - run.base() + 1);
        let log = (!ordered_metadata && number % 2 == 0).then_some(seed);
        let least = if log.is_some() { disk.committed(done) } else { disk.durable(done) };
        let cut = Cut { done, journal: least + journal.index(done - least + 1), log };
        cut_and_check(run, &disk, cut, &Pages::any(seed), ordered_metadata);
    }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn no_crash_at_random_steps_is_an_attack(
        steps in prop::collection::vec(prop_oneof![12 => step(), 1 => Just(Settle)], 1..25),
        cuts in any_cuts(8),
        ordered_metadata in any::<bool>(),
        raise_every in 1_usize..5,
    ) {
        let begin = [Create("a"), Write("a", 0, U + 100), Fsync("a"), Mkdir("d"), Settle];
        let run = new_recorded_volume(ordered_metadata).raising_every(raise_every).steps(&begin).steps(&steps);
        cut_at_random(&run, cuts, ordered_metadata);
    }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn random_steps_survive_power_cuts(
        steps in prop::collection::vec(step(), 1..25),
        cuts in any_cuts(16),
        ordered_metadata in any::<bool>(),
        plain_names in any::<bool>(),
        raise_every in 1_usize..5,
    ) {
        let begin = [Create("a"), Write("a", 0, U + 100), Fsync("a"), Mkdir("d")];
        let new = if plain_names { new_plain_volume } else { new_volume };
        let run = new(ordered_metadata).raising_every(raise_every).steps(&begin).steps(&steps);
        cut_at_random(&run, cuts, ordered_metadata);
    }
}
