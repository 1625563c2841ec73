//! The same of a volume with plain names (FORMAT 8.7): most entries are the names themselves, the others take the long form.

use super::random::{ESCAPED, new_plain_volume};
use super::run::Step;
use super::{LOG_SCENARIOS, Looked, SCENARIOS, Scenario, U, UNIT, all_pass, cut_everywhere, cut_everywhere_with_a_log};
use crate::model::ops::LONGEST;

use Step::{
    Create, CreateUnnamed, Exchange, Fsync, FsyncDir, Link, LinkUnnamed, Mkdir, Rename, Rmdir, Symlink, Unlink, Write,
};

/// Names that stand as they are and such that do not, one in the place of the other.
const ESCAPES: &[Scenario] = &[
    (
        "a name that becomes an escaped one, and back",
        &[
            Create("a"),
            Write("a", 0, U),
            Fsync("a"),
            Rename("a", ESCAPED),
            Write(ESCAPED, UNIT, 9),
            Fsync(ESCAPED),
            Create("a"),
            Write("a", 0, 9),
            Fsync("a"),
            Rename(ESCAPED, "a"),
            FsyncDir(""),
        ],
    ),
    (
        "a plain, an escaped and a long name of one file",
        &[
            Create(ESCAPED),
            Write(ESCAPED, 0, 9),
            Fsync(ESCAPED),
            Link(ESCAPED, "a"),
            Link(ESCAPED, LONGEST),
            Unlink(ESCAPED),
            FsyncDir(""),
            Unlink("a"),
            Symlink(ESCAPED),
            FsyncDir(""),
        ],
    ),
    (
        "directories under escaped names",
        &[
            Mkdir(ESCAPED),
            Mkdir("d"),
            Create("d/f"),
            Write("d/f", 0, 9),
            Fsync("d/f"),
            Exchange("d", ESCAPED),
            FsyncDir(""),
            Rmdir("d"),
            Rename(ESCAPED, "d"),
            FsyncDir(""),
        ],
    ),
    (
        "an escaped name for a file that is whole",
        &[CreateUnnamed(ESCAPED), Write(ESCAPED, 0, U + 9), Fsync(ESCAPED), LinkUnnamed(ESCAPED), FsyncDir("")],
    ),
];

/// Those that the form of names can make a difference to.
fn scenarios() -> impl Iterator<Item = &'static Scenario> {
    let names = |step: &Step| {
        matches!(step, Rename(..) | Exchange(..) | Link(..) | LinkUnnamed(_) | Mkdir(_) | Symlink(_) | Step::Rewrap(_))
    };
    SCENARIOS.iter().filter(move |(_, steps)| steps.iter().any(names)).chain(ESCAPES)
}

#[test]
fn nothing_that_was_flushed_is_lost_under_plain_names() {
    let looked = all_pass(scenarios().flat_map(|scenario| [(scenario, true), (scenario, false)]), |steps, ordered| {
        Looked::states(cut_everywhere(&new_plain_volume(ordered).steps(steps), 1, ordered))
    });
    assert!(looked.states > 500, "{looked:?}");
}

#[test]
fn nothing_that_was_flushed_is_lost_under_plain_names_where_only_that_is_logged() {
    let looked = all_pass(scenarios().chain(LOG_SCENARIOS).map(|scenario| (scenario, false)), |steps, ordered| {
        cut_everywhere_with_a_log(&new_plain_volume(ordered).steps(steps), 8)
    });
    assert!(looked.states > 500 && looked.out_of_order > 20, "{looked:?}");
}
