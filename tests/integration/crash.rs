//! The power is cut at every operation on the backing, and the disk holds what a disk may hold then: nothing that was
//! flushed is lost, everything else is old or new, and the volume goes on working (FORMAT S1, S7, S14).

mod check;
pub mod disk;
mod failed_flush;
pub mod random;
pub mod run;

use kmsfs::env::SeededEntropy;
use kmsfs::store::{Faulty, Memory, Record};
use proptest::prelude::*;

use crate::model::ops::{LONGEST, UNIT};
use check::{Survivors, survivors};
use disk::{Cut, Pages, draw};
use random::{clock, cut_and_check, disk_of, new_recorded_volume, new_volume, new_volume_with_long_headers, step};
use run::{Node, Run, Step, Tree};

use Step::{
    Create, CreateUnnamed, Exchange, FailNextResize, FailNextSync, Fdatasync, Fsync, FsyncBeside, FsyncDir,
    LackExchange, Link, LinkUnnamed, Mkdir, Punch, Remount, Rename, Reserve, Rewrap, Rmdir, SetLen, SetXattr, Settle,
    Symlink, Unlink, Write, Zero,
};

const U: usize = UNIT as usize;

/// Step sequences, each made to put one rule of the format at risk.
const SCENARIOS: &[(&str, &[Step])] = &[
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
const LOG_SCENARIOS: &[(&str, &[Step])] = &[
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
        for number in 0..others {
            let seed = done as u64 * 1000 + number;
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
/// Returns how many states that were, and how many of them no journal leaves.
fn cut_everywhere_with_a_log(run: &Run, ways: u64) -> (usize, usize) {
    let disk = disk_of(run);
    let (mut states, mut out_of_order) = (0, 0);
    for done in run.base()..=run.records.len() {
        let least = disk.committed(done);
        for number in 0..ways {
            let seed = done as u64 * 1000 + number;
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
            states += 1;
            out_of_order += usize::from(disk.is_out_of_order(cut));
        }
    }
    (states, out_of_order)
}

#[test]
fn nothing_that_was_flushed_is_lost_where_only_that_is_logged() {
    let (mut states, mut out_of_order) = (0, 0);
    let mut failed: Vec<&str> = Vec::new();
    let scenarios = SCENARIOS.iter().map(|scenario| (scenario, 2));
    for ((name, steps), ways) in scenarios.chain(LOG_SCENARIOS.iter().map(|scenario| (scenario, 40))) {
        let run = new_volume(false).steps(steps);
        let cut = || cut_everywhere_with_a_log(&run, ways);
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(cut)) {
            Ok(found) => (states, out_of_order) = (states + found.0, out_of_order + found.1),
            Err(_) => failed.push(name),
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
    assert!(states > 1000 && out_of_order > 100, "{states} states, of which {out_of_order} no journal leaves");
}

#[test]
fn nothing_that_was_flushed_is_lost() {
    let mut states = 0;
    let mut failed = Vec::new();
    for (name, steps) in SCENARIOS {
        for ordered_metadata in [true, false] {
            let run = new_volume(ordered_metadata).steps(steps);
            let checked =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cut_everywhere(&run, 3, ordered_metadata)));
            match checked {
                Ok(count) => states += count,
                Err(_) => failed.push((name, ordered_metadata)),
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
    assert!(states > 1000, "only {states} states were checked");
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
    let mut failed: Vec<&str> = Vec::new();
    for (name, steps) in SCENARIOS {
        let run = new_volume_with_long_headers().steps(steps);
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cut_everywhere(&run, 3, true)));
        failed.extend(checked.is_err().then_some(*name));
    }
    assert!(failed.is_empty(), "{failed:?}");
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

/// Cuts the power after every operation of a run, each time in one way. Returns how many states that were.
fn cut_somehow(run: &Run) -> usize {
    let disk = disk_of(run);
    for done in run.base()..=run.records.len() {
        let (least, seed) = (disk.durable(done), done as u64);
        let journal = least + draw(&SeededEntropy::new(seed), done - least + 1);
        let pages = match done % 3 {
            0 => Pages::Newest,
            1 => Pages::Oldest,
            _ => Pages::any(seed),
        };
        cut_and_check(run, &disk, Cut { done, journal, log: None }, &pages, true);
    }
    run.records.len() - run.base() + 1
}

#[test]
fn a_crash_is_no_attack() {
    let mut failed = Vec::new();
    let mut states = 0;
    for (name, steps) in SCENARIOS {
        // A re-wrap below the mount is one.
        if steps.iter().any(|step| matches!(step, Rewrap(_))) {
            continue;
        }
        // As new files, and as files that were settled before.
        for settled in [false, true] {
            let steps: Vec<_> =
                steps.iter().flat_map(|step| [Some(*step), settled.then_some(Settle)]).flatten().collect();
            let run = new_recorded_volume(true).steps(&steps);
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cut_somehow(&run))) {
                Ok(count) => states += count,
                Err(_) => failed.push((name, settled)),
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
    assert!(states > 400, "only {states} states were checked");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 2000, ..ProptestConfig::default() })]
    #[test]
    fn no_crash_at_random_steps_is_an_attack(
        steps in prop::collection::vec(prop_oneof![12 => step(), 1 => Just(Settle)], 1..25),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u64>()), 8),
    ) {
        let begin = [Create("a"), Write("a", 0, U + 100), Fsync("a"), Mkdir("d"), Settle];
        let run = new_recorded_volume(true).steps(&begin).steps(&steps);
        let disk = disk_of(&run);
        for (done, journal, seed) in cuts {
            let done = run.base() + done.index(run.records.len() - run.base() + 1);
            let least = disk.durable(done);
            let cut = Cut { done, journal: least + journal.index(done - least + 1), log: None };
            cut_and_check(&run, &disk, cut, &Pages::any(seed), true);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 2000, ..ProptestConfig::default() })]
    #[test]
    fn random_steps_survive_power_cuts(
        steps in prop::collection::vec(step(), 1..25),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u64>()), 16),
        ordered_metadata in any::<bool>(),
    ) {
        let begin = [Create("a"), Write("a", 0, U + 100), Fsync("a"), Mkdir("d")];
        let run = new_volume(ordered_metadata).steps(&begin).steps(&steps);
        let disk = disk_of(&run);
        for (number, (done, journal, seed)) in cuts.into_iter().enumerate() {
            let done = run.base() + done.index(run.records.len() - run.base() + 1);
            let log = (!ordered_metadata && number % 2 == 0).then_some(seed);
            let least = if log.is_some() { disk.committed(done) } else { disk.durable(done) };
            let cut = Cut { done, journal: least + journal.index(done - least + 1), log };
            cut_and_check(&run, &disk, cut, &Pages::any(seed), ordered_metadata);
        }
    }
}
