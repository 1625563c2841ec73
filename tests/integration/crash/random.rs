//! Volumes whose every operation is recorded, steps at random, and cuts of the power.

use std::io::Write as _;
use std::sync::{Arc, OnceLock};

use kmsfs::env::{ManualClock, SeededEntropy, SystemEntropy, random};
use kmsfs::format::name::NameForm;
use kmsfs::store::{FaultPlan, Faulty, Memory, MemoryOptions};
use kmsfs::types::Timestamp;
use proptest::prelude::*;
use proptest::sample::select;

use super::check::{is_sound, survivors};
use super::disk::{Cut, Disk, Pages, draw};
use super::repaired::is_repaired_without_loss;
use super::run::{Run, Step, Tree};
use crate::fixture::Fixture;
use crate::model::ops::{LONGEST, UNIT};

use Step::{
    CloseAll, Create, CreateUnnamed, Exchange, Fdatasync, Fsync, FsyncDir, Link, LinkUnnamed, Mkdir, Punch, Remount,
    Rename, Reserve, RewrapMounted, Rmdir, SetLen, SetXattr, Unlink, Write, Zero,
};

const U: usize = UNIT as usize;
/// One in so many states is verified and repaired.
const VERIFIED: usize = 3;
/// A name that is escaped in a volume with plain names, since a directory under construction is called so (FORMAT 8.7).
pub const ESCAPED: &str = "~Twig";

pub fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)))
}

/// An empty volume with a freshness record: the record must take what a crash leaves for what it is.
pub fn new_recorded_volume(ordered_metadata: bool) -> Run {
    let options = MemoryOptions { ordered_metadata, ..MemoryOptions::default() };
    let backing = Faulty::new(Memory::with_options(clock(), options), FaultPlan::new());
    backing.start_recording();
    let fixture = Fixture::new(backing, clock()).with_record();
    let home = fixture.record.clone().expect("it was just made");
    let run = Run::begin(fixture, Tree::new(), Vec::new());
    (0..run.base()).for_each(|_| home.keep());
    run.volume.fixture.backing.watch(move || home.keep());
    run
}

/// An empty volume with plain names; those of 255 bytes take the long form.
pub fn new_plain_volume(ordered_metadata: bool) -> Run {
    let options = MemoryOptions { ordered_metadata, ..MemoryOptions::default() };
    let backing = Faulty::new(Memory::with_options(clock(), options), FaultPlan::new());
    backing.start_recording();
    let fixture = Fixture::with_names(backing, clock(), NameForm::Plain).with_short_names(143);
    Run::begin(fixture, Tree::new(), Vec::new())
}

pub fn new_volume(ordered_metadata: bool) -> Run {
    let options = MemoryOptions { ordered_metadata, ..MemoryOptions::default() };
    let backing = Faulty::new(Memory::with_options(clock(), options), FaultPlan::new());
    backing.start_recording();
    Run::begin(Fixture::new(backing, clock()), Tree::new(), Vec::new())
}

/// An empty volume whose headers have four pages each, which reach the disk independently of each other.
pub fn new_volume_with_long_headers() -> Run {
    let backing = Faulty::new(Memory::with_options(clock(), MemoryOptions::default()), FaultPlan::new());
    backing.start_recording();
    Run::begin(Fixture::new(backing, clock()).with_long_headers(), Tree::new(), Vec::new())
}

/// The record of a run, taken apart.
pub fn disk_of(run: &Run) -> Disk {
    Disk::new(run.records.clone(), run.base()).with_headers_of(run.volume.fixture.geometry.header_len())
}

/// Cuts the power once and checks everything.
pub fn cut_and_check(run: &Run, disk: &Disk, cut: Cut, pages: &Pages, ordered_metadata: bool) {
    if let Some(home) = &run.volume.fixture.record {
        // The record was written before the next change of the backing, or it was not.
        home.choose(cut.done + draw(&SeededEntropy::new(cut.journal as u64), 2));
    }
    // The same disk each time.
    let image = || disk.image(cut, &pages.again(), clock(), ordered_metadata);
    let first = image();
    let found = survivors(run, disk, cut, first.clone());
    // It takes as long as all the rest.
    let is_verified = (cut.done + cut.journal).is_multiple_of(VERIFIED);
    if is_verified {
        is_repaired_without_loss(run, cut, run.volume.fixture.on(image()), &found);
    }
    is_sound(run.volume.fixture.on(first), &found, is_verified);
}

/// How many random cases a test has: more where `PROPTEST_CASES` says so, as `scripts/test-long.sh` does. Each run draws others; the
/// seeds of those that failed are tried first, from `tests/proptest-regressions`.
pub fn cases() -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { 40 };
    ProptestConfig { cases, max_shrink_iters: 2000, ..default }
}

/// What is drawn at random in the tests of all cuts.
pub struct Draws {
    /// How many times as much.
    pub times: u64,
    /// The first seed.
    pub seed: u64,
}

/// As `KMSFS_TEST_CUTS` says: how many times as much, and with which seed, as `20` or `20:77`. Without a seed each run has another
/// one, which it tells. Without the variable it is always the same.
pub fn draws() -> &'static Draws {
    static DRAWS: OnceLock<Draws> = OnceLock::new();
    DRAWS.get_or_init(|| {
        let Ok(asked) = std::env::var("KMSFS_TEST_CUTS") else { return Draws { times: 1, seed: 0 } };
        let number = |text: &str| text.parse().expect("KMSFS_TEST_CUTS is a number, or two with a colon between them");
        let (times, seed) = match asked.split_once(':') {
            Some((times, seed)) => (number(times), number(seed)),
            None => (number(&asked), u64::from_le_bytes(random(&SystemEntropy)) >> 16),
        };
        let told = format!("the cuts of this run are those of KMSFS_TEST_CUTS={times}:{seed}\n");
        std::io::stderr().write_all(told.as_bytes()).expect("standard error");
        Draws { times, seed }
    })
}

fn path() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "a", "b", "d/a", "d/b", "e/a", LONGEST, ESCAPED])
}

fn directory() -> impl Strategy<Value = &'static str> {
    select(vec!["d", "e", "d/f"])
}

fn offset() -> impl Strategy<Value = u64> {
    let at_unit = (0..5_u64, -2..=2_i64).prop_map(|(unit, by)| (unit * UNIT).saturating_add_signed(by));
    prop_oneof![1 => 0..20_000_u64, 1 => at_unit]
}

/// Any step.
pub fn step() -> impl Strategy<Value = Step> {
    let len = || prop_oneof![1 => 1..10_000_usize, 1 => Just(U)];
    prop_oneof![
        4 => path().prop_map(Create),
        1 => path().prop_map(CreateUnnamed),
        2 => path().prop_map(LinkUnnamed),
        12 => (path(), offset(), len()).prop_map(|(p, o, n)| Write(p, o, n)),
        6 => (path(), offset()).prop_map(|(p, n)| SetLen(p, n)),
        4 => (path(), offset(), len()).prop_map(|(p, o, n)| Punch(p, o, n as u64)),
        1 => (path(), offset(), len()).prop_map(|(p, o, n)| Zero(p, o, n as u64)),
        1 => (path(), offset(), len()).prop_map(|(p, o, n)| Reserve(p, o, n as u64)),
        6 => path().prop_map(Fsync),
        3 => path().prop_map(Fdatasync),
        2 => prop_oneof![Just(""), directory()].prop_map(FsyncDir),
        3 => directory().prop_map(Mkdir),
        1 => directory().prop_map(Rmdir),
        2 => (path(), path()).prop_map(|(p, q)| Rename(p, q)),
        1 => (directory(), directory()).prop_map(|(p, q)| Rename(p, q)),
        1 => (path(), path()).prop_map(|(p, q)| Exchange(p, q)),
        1 => (path(), path()).prop_map(|(p, q)| Link(p, q)),
        2 => path().prop_map(Unlink),
        1 => path().prop_map(SetXattr),
        1 => Just(CloseAll),
        1 => Just(RewrapMounted),
        1 => Just(Remount),
    ]
}
