//! A rewrap of a volume that is mounted, and the power fails: each file opens by the old wrapped key or by the new one.

use super::random::{new_plain_volume, new_recorded_volume, new_volume, new_volume_with_long_headers};
use super::run::{Run, Step};
use super::{Looked, Scenario, U, UNIT, all_pass, cut_everywhere, cut_everywhere_with_a_log, cut_somehow};
use crate::model::ops::LONGEST;

use Step::{
    Create, CreateUnnamed, FailNextSync, Fsync, FsyncDir, Link, LinkUnnamed, Mkdir, Punch, Remount, Rename,
    RewrapMounted, SetLen, Unlink, Write,
};

pub const SCENARIOS: &[Scenario] = &[
    (
        "files that are open, closed, empty and linked",
        &[
            Create("a"),
            Write("a", 0, 2 * U),
            Fsync("a"),
            Create("b"),
            Mkdir("d"),
            Create("d/f"),
            Write("d/f", 0, 9),
            Fsync("d/f"),
            Link("d/f", LONGEST),
            FsyncDir(""),
            RewrapMounted,
            Write("a", 9, U),
            RewrapMounted,
            Fsync("a"),
        ],
    ),
    (
        "between writes that nobody flushes",
        &[
            Create("a"),
            Write("a", 0, 3 * U),
            Fsync("a"),
            Write("a", UNIT - 9, U),
            RewrapMounted,
            SetLen("a", UNIT + 5),
            RewrapMounted,
            Punch("a", 0, UNIT),
            Write("a", 2 * UNIT, U),
            Remount,
            RewrapMounted,
        ],
    ),
    (
        "a second life, and names that change",
        &[
            Create("a"),
            Write("a", 0, U),
            Fsync("a"),
            RewrapMounted,
            SetLen("a", 0),
            Write("a", 0, 50),
            RewrapMounted,
            Rename("a", "b"),
            RewrapMounted,
            Fsync("b"),
            FsyncDir(""),
            Unlink("b"),
            RewrapMounted,
        ],
    ),
    (
        "a file without a name",
        &[
            CreateUnnamed("a"),
            Write("a", 0, U + 9),
            Fsync("a"),
            RewrapMounted,
            LinkUnnamed("a"),
            FsyncDir(""),
            RewrapMounted,
        ],
    ),
    (
        "when the first flush fails",
        &[
            Create("a"),
            Write("a", 0, 2 * U),
            Fsync("a"),
            FailNextSync,
            RewrapMounted,
            RewrapMounted,
            Write("a", 0, 9),
            Fsync("a"),
        ],
    ),
    (
        "when its flush fails and takes what an application wrote",
        &[
            Create("a"),
            Write("a", 0, 2 * U),
            Fsync("a"),
            Write("a", 9, U),
            FailNextSync,
            RewrapMounted,
            Fsync("a"),
            Fsync("a"),
            RewrapMounted,
        ],
    ),
    (
        "before the file was ever flushed",
        &[Create("a"), Write("a", 0, U), RewrapMounted, Write("a", UNIT, U), Fsync("a"), RewrapMounted],
    ),
];

/// How a volume is made, and whether its metadata is in order.
type Kind = (fn(bool) -> Run, bool);

#[test]
fn a_rewrap_of_a_mounted_volume_loses_nothing() {
    let kinds: &[Kind] = &[
        (new_volume, true),
        (new_volume, false),
        (new_plain_volume, true),
        (|_| new_volume_with_long_headers(), true),
        (new_recorded_volume, true),
    ];
    let of_all_kinds = SCENARIOS.iter().flat_map(|scenario| kinds.iter().map(move |kind| (scenario, *kind)));
    let looked = all_pass(of_all_kinds, |steps, (new, ordered)| {
        let run = new(ordered).steps(steps);
        if run.volume.fixture.record.is_some() {
            return cut_somehow(&run, 2, ordered);
        }
        let journaled = Looked::states(cut_everywhere(&run, 2, ordered));
        if ordered { journaled } else { journaled + cut_everywhere_with_a_log(&run, 4) }
    });
    assert!(looked.states > 1000, "{looked:?}");
}
