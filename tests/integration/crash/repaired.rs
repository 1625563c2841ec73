//! What `verify` says of a volume after a power cut, and what `repair` makes of it: nothing is wrong but with files of which
//! nothing was flushed, and no repair takes anything away.

use std::collections::BTreeSet;
use std::sync::Arc;

use kmsfs::env::SystemClock;
use kmsfs::format::Outcome;
use kmsfs::ops::repair::{Action, PlanOptions, apply, plan};
use kmsfs::ops::verify::{VerifyOptions, verify};
use kmsfs::ops::{Finding, Reason, Silent};
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
    // A record knows nothing of repairs: that is for `kmsfs accept`.
    if run.volume.fixture.record.is_some() {
        return;
    }
    let (modes, files) = (Modes::new(Arc::new(volume.backing.clone()), false), Arc::new(volume.volume()));
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
    let after = findings(&volume);
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
