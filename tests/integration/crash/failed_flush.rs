//! Each flush of each scenario fails once, and what it was to write is lost: Linux counts pages whose write-back failed as
//! clean, so the next flush succeeds without them. What a flush that succeeds vouches for afterwards is there, and everything
//! can be read.

use kmsfs::env::SeededEntropy;
use kmsfs::store::{Fault, OpClass, Record};
use rustix::io::Errno;

use super::disk::{Cut, Pages, draw};
use super::random::{cut_and_check, disk_of, new_recorded_volume, new_volume};
use super::run::{Run, Step};
use super::{LOG_SCENARIOS, SCENARIOS, rewrap};

/// What an application does that was told of the failure, before it goes on.
const REACTIONS: &[&[Step]] = &[
    // It only flushes again, or not even that.
    &[],
    &[Step::FsyncAll, Step::WriteAgain, Step::FsyncAll],
    &[Step::CloseAll],
    &[Step::CloseAll, Step::WriteAgain],
];

/// A run in which flush number `failing` fails; `None` if there are not so many.
fn run(mut run: Run, steps: &[Step], failing: u64, reaction: &[Step]) -> Option<Run> {
    let plan = run.volume.fixture.backing.plan().clone();
    let flushes = || plan.count(&[OpClass::Sync]);
    let before = flushes();
    plan.inject(Fault::once(&[OpClass::Sync], failing, Errno::IO));
    let mut has_failed = false;
    for step in steps {
        // A mount that begins later knows nothing of the failure.
        if has_failed && matches!(step, Step::Remount | Step::Rewrap(_)) {
            continue;
        }
        let done = run.step(*step);
        if !has_failed && flushes() > before + failing {
            has_failed = true;
            run = run.steps(reaction);
            if done.is_err() {
                run = run.steps(&[*step]);
            }
        }
    }
    has_failed.then(|| run.steps(&[Step::FsyncAll, Step::FsyncAll]))
}

/// Cuts the power at the end, and at some step behind the failure. Returns how many states that were.
fn cut_behind_the_failure(run: &Run, ordered_metadata: bool) -> usize {
    let disk = disk_of(run);
    let is_failure = |record: &Record| matches!(record, Record::FailedSync { .. } | Record::FailedSyncAll);
    let failed = run.records.iter().position(is_failure).unwrap_or(run.base());
    let entropy = SeededEntropy::new(failed as u64);
    let ends: Vec<usize> = run.ends.iter().copied().filter(|end| *end > failed).collect();
    let done = run.records.len();
    let some = ends[draw(&entropy, ends.len())];
    let log = (!ordered_metadata).then_some(failed as u64);
    let committed = |done| if ordered_metadata { disk.durable(done) } else { disk.committed(done) };
    let ways = [
        (Cut { done, journal: done, log: None }, Pages::Oldest),
        (Cut { done, journal: committed(done), log }, Pages::Oldest),
        (Cut { done: some, journal: committed(some), log }, Pages::any(failed as u64)),
    ];
    for (cut, pages) in &ways {
        cut_and_check(run, &disk, *cut, pages, ordered_metadata);
    }
    ways.len()
}

fn fails_by_itself(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step, Step::FailNextSync | Step::FailNextResize))
}

#[test]
fn what_a_failed_flush_lost_is_not_vouched_for() {
    let (mut states, mut failures) = (0, Vec::new());
    for (name, steps) in SCENARIOS.iter().chain(LOG_SCENARIOS).chain(rewrap::SCENARIOS) {
        if fails_by_itself(steps) {
            continue;
        }
        for (number, reaction) in REACTIONS.iter().enumerate() {
            // Where metadata has no order more is flushed, of names.
            for ordered_metadata in [true, false].into_iter().take(if number < 2 { 2 } else { 1 }) {
                for failing in 0.. {
                    let checked = std::panic::catch_unwind(|| {
                        let run = run(new_volume(ordered_metadata), steps, failing, reaction)?;
                        Some(cut_behind_the_failure(&run, ordered_metadata))
                    });
                    match checked {
                        Ok(Some(count)) => states += count,
                        Ok(None) => break,
                        Err(_) => failures.push((name, ordered_metadata, number, failing)),
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}: {failures:#?}", failures.len());
    assert!(states > 1000, "only {states} states were checked");
}

/// The same with a freshness record, which is settled after each step: it takes nothing for rolled back that was lost, whichever
/// flush failed, that of everything before a settling among them.
#[test]
fn what_a_failed_flush_lost_is_no_attack() {
    let (mut states, mut failures) = (0, Vec::new());
    for (name, steps) in SCENARIOS.iter().chain(rewrap::SCENARIOS) {
        // A re-wrap below the mount is an attack.
        if fails_by_itself(steps) || steps.iter().any(|step| matches!(step, Step::Rewrap(_))) {
            continue;
        }
        let steps: Vec<_> = steps.iter().flat_map(|step| [*step, Step::Settle]).collect();
        for ordered_metadata in [true, false] {
            for failing in 0.. {
                let reaction = REACTIONS[failing as usize % REACTIONS.len()];
                let reaction: Vec<_> = reaction.iter().copied().chain([Step::Settle]).collect();
                let checked = std::panic::catch_unwind(|| {
                    let run = run(new_recorded_volume(ordered_metadata), &steps, failing, &reaction)?;
                    let run = run.steps(&[Step::Settle, Step::Settle]);
                    Some(cut_behind_the_failure(&run, ordered_metadata))
                });
                match checked {
                    Ok(Some(count)) => states += count,
                    Ok(None) => break,
                    Err(_) => failures.push((name, ordered_metadata, failing)),
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}: {failures:#?}", failures.len());
    assert!(states > 500, "only {states} states were checked");
}
