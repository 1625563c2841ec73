//! What `verify` says of a volume after a power cut, and what `repair` makes of it: nothing is wrong but with files of which
//! nothing was flushed, and no repair takes anything away.

use std::collections::BTreeSet;
use std::sync::Arc;

use kmsfs::env::SystemClock;
use kmsfs::format::Outcome;
use kmsfs::ops::freshness::accept;
use kmsfs::ops::repair::{Action, Plan, PlanOptions, apply, plan};
use kmsfs::ops::verify::{VerifyOptions, verify};
use kmsfs::ops::{Finding, Paths, Reason, Silent};
use kmsfs::store::{Faulty, Memory, Modes};

use super::check::{Survivors, may_be_lost};
use super::disk::Cut;
use super::run::{Node, Run, parts, visible};
use crate::fixture::Fixture;
use crate::model::run::read_all;
use crate::model::subject::{Mounted, Subject};

type Volume = Fixture<Faulty<Memory>>;

const VERIFY: VerifyOptions<'_> = VerifyOptions { threads: 1, in_use: false, resume: None };
const PLAN: PlanOptions = PlanOptions { threads: 1, accept_single: false };

/// What `verify` finds.
pub fn findings(volume: &Volume) -> Vec<Finding> {
    let (modes, files) = (Modes::new(Arc::new(volume.backing.clone()), false), Arc::new(volume.volume()));
    verify(&modes, &files, VERIFY, &Silent, &|_: &Finding| ()).expect("verified").findings
}

/// `volume` is on the disk that a cut left, and nobody has mounted it since; `found` is what another mount of that disk found.
pub fn is_repaired_without_loss(run: &Run, cut: Cut, volume: Volume, found: &Survivors) {
    let lost = lost_paths(run, cut, found);
    let is_lost = |finding: &Finding| {
        let path = finding.paths.plaintext.as_deref().and_then(|path| std::str::from_utf8(path).ok());
        path.is_some_and(|path| lost.contains(path)) && is_of_lost_file(finding)
    };
    let before = findings(&volume);
    assert!(before.iter().all(is_lost), "{cut:?}: {before:?}; nothing was flushed of {lost:?}");
    // A record knows nothing of repairs.
    let unrecorded = volume.without_record();
    let (modes, files) = (Modes::new(Arc::new(volume.backing.clone()), false), Arc::new(unrecorded.volume()));
    let planned = plan(&modes, &files, PLAN, &Silent).expect("planned");
    for repair in &planned.repairs {
        let path = repair.paths.plaintext.as_deref().map(String::from_utf8_lossy);
        let takes_nothing = match repair.action {
            Action::RemoveLeftover | Action::FinishRewrap | Action::MirrorRecord => true,
            Action::WriteHeader { .. } | Action::PutAside { .. } => path.is_some_and(|path| lost.contains(&*path)),
            _ => false,
        };
        assert!(takes_nothing, "{cut:?}: {repair:?}; nothing was flushed of {lost:?}");
    }
    assert_eq!(planned.remaining, [], "{cut:?}: nothing is beyond repair");
    let applied = apply(&modes, &files, &planned, &SystemClock).expect("repaired");
    assert_eq!((applied.done, &applied.failed[..], applied.flushed), (planned.repairs.len(), &[][..], Ok(())));
    let again = plan(&modes, &files, PLAN, &Silent).expect("planned");
    assert_eq!(again.repairs, [], "{cut:?}: a repair is finished when it says so");
    if volume.record.is_some() {
        is_accepted(cut, &volume, &modes, found, &planned);
    }
    let mut after = findings(&volume);
    // No record takes in what cannot be read: so it is found once more.
    let unreadable: Vec<_> = after.iter().filter(|f| is_put_aside(f)).map(|f| f.paths.ciphertext.clone()).collect();
    after.retain(|f| f.reason != Reason::Format(Outcome::Misplaced) || !unreadable.contains(&f.paths.ciphertext));
    assert!(
        after.len() <= before.len() && after.iter().all(is_put_aside),
        "{cut:?}: {before:?}, then {after:?}, all of it in lost+found"
    );

    let mut volume = Mounted::new(volume);
    let aside = visible(&volume).into_keys().filter(|path| path.starts_with("lost+found"));
    let aside: BTreeSet<String> = aside.collect();
    for (path, node) in &found.tree {
        let Node::File(file) = node else {
            assert!(volume.stat(&parts(path)).is_ok(), "{cut:?}: {path} is there");
            continue;
        };
        match &found.contents[file] {
            Some(content) => {
                let read = read_all(&mut volume, &parts(path), content.len() as u64);
                assert!(read.as_ref() == Ok(content), "{cut:?}: {path} is as it was");
            }
            None => {
                let name = path.rsplit('/').next().expect("a name");
                let is_there = volume.stat(&parts(path)).is_ok() || aside.iter().any(|aside| aside.ends_with(name));
                assert!(is_there || aside.len() > 1, "{cut:?}: {path} is there, or in {aside:?}");
            }
        }
    }
}

/// Behind a repair the record tells of nothing but what was repaired, and of nothing at all once that is accepted.
fn is_accepted(cut: Cut, volume: &Volume, modes: &Arc<Modes<Faulty<Memory>>>, found: &Survivors, planned: &Plan) {
    let at = |paths: &Paths| {
        let path = String::from_utf8(paths.plaintext.clone().unwrap_or_default()).expect("a name of a step");
        found.tree.get(&path).cloned().ok_or(path)
    };
    // Under any of its names.
    let touched: Vec<_> = planned.repairs.iter().map(|repair| at(&repair.paths)).collect();
    for finding in findings(volume) {
        let place = at(&finding.paths);
        let is_aside = matches!(&place, Err(path) if path.starts_with("lost+found"));
        assert!(is_aside || touched.contains(&place), "{cut:?}: {finding:?} behind {:?}", planned.repairs);
    }
    let files = Arc::new(volume.volume());
    let record = files.freshness().expect("it has one");
    let report = accept(modes, &files, record, &[]).expect("accepted");
    assert!(report.findings.iter().all(is_put_aside), "{cut:?}: {report:?}");
}

/// The files of which nothing was flushed since they were empty.
fn lost_paths<'a>(run: &Run, cut: Cut, found: &'a Survivors) -> BTreeSet<&'a str> {
    let is_lost = |node: &Node| matches!(node, Node::File(file) if may_be_lost(run, cut, *file));
    found.tree.iter().filter(|(_, node)| is_lost(node)).map(|(path, _)| path.as_str()).collect()
}

/// What nobody can read is found until somebody removes it.
fn is_put_aside(finding: &Finding) -> bool {
    let is_there = finding.paths.plaintext.as_deref().is_some_and(|path| path.starts_with(b"lost+found/"));
    is_there && is_of_lost_file(finding) && finding.reason != Reason::Format(Outcome::NeverSynced)
}

/// What FORMAT 9.15 says of a file that was never flushed.
fn is_of_lost_file(finding: &Finding) -> bool {
    use Outcome::{HeaderLost, NeverSynced, NoRecipient, NotKfs, RecordAuth};
    matches!(finding.reason, Reason::Format(NeverSynced | HeaderLost | NotKfs | NoRecipient | RecordAuth))
}
