//! Interruption and resumption of `verify`, and a disk that fails under it.

use std::sync::Arc;

use kmsfs::ops::resume::Resume;
use kmsfs::ops::verify::{VerifyOptions, VerifyReport, verify};
use kmsfs::ops::{Progress, Silent};
use kmsfs::store::{Fault, FaultPlan, Faulty, LocalDir, Modes, OpClass, RenameMode};
use kmsfs::vfs::ROOT;
use rustix::io::Errno;

use super::host::{Host, ciphertext, codes, edit};

const DATA: usize = 4064;

/// Stops the job once the backing was read so often.
struct StopAfter(FaultPlan, u64);

impl Progress for StopAfter {
    fn found(&self, _files: u64, _bytes: u64) {}

    fn done(&self, _files: u64, _bytes: u64) {}

    fn is_cancelled(&self) -> bool {
        self.0.count(&[OpClass::Read]) >= self.1
    }
}

/// Renames the file that was verified last over one that was not yet.
struct RenameMeanwhile<'a>(&'a super::host::Mounted, std::sync::Mutex<Vec<String>>);

impl Progress for RenameMeanwhile<'_> {
    fn found(&self, _files: u64, _bytes: u64) {}

    fn done(&self, files: u64, _bytes: u64) {
        let mut names = self.1.lock().expect("one thread");
        if files == 0 || names.len() < 2 {
            return;
        }
        // Whichever was verified: each is renamed over another, so that every name leads to a file that was seen elsewhere.
        let first = names.remove(0);
        self.0.0.rename(ROOT, first.as_bytes(), ROOT, names[0].as_bytes(), RenameMode::Replace).expect("renamed");
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

#[test]
fn a_file_that_is_renamed_meanwhile_is_no_copy_of_itself() {
    let host = Host::new();
    let dir = host.volume();
    let mounted = host.mount(dir.path());
    let names: Vec<String> = (0..40).map(|i| format!("log.{i}")).collect();
    for name in &names {
        mounted.write(ROOT, name, &vec![7; 2 * DATA]);
    }
    let backing = Arc::new(LocalDir::open(dir.path()).expect("open the directory"));
    let options = VerifyOptions { threads: 1, in_use: true, resume: None };
    let renaming = RenameMeanwhile(&mounted, std::sync::Mutex::new(names));
    let report =
        verify(&Modes::new(backing, false), &host.files(dir.path()), options, &renaming, &|_| ()).expect("verify");
    assert_eq!(codes(&report.findings), Vec::<String>::new());
    assert!(report.files > 10, "{} were looked at", report.files);
    // A copy is found as ever.
    drop(renaming);
    let ino = mounted.write(ROOT, "original", &[1; 100]);
    let original = ciphertext(dir.path(), ino);
    drop(mounted);
    std::fs::create_dir(dir.path().join("elsewhere")).expect("made");
    std::fs::copy(&original, dir.path().join("elsewhere").join(original.file_name().expect("a name"))).expect("copied");
    let found = host.findings(dir.path());
    assert!(found.iter().any(|code| code.starts_with("DuplicateId")), "{found:?}");
}

/// Verifies with one thread on a backing that can fail and that counts.
fn run(
    host: &Host,
    root: &std::path::Path,
    plan: &FaultPlan,
    resume: Option<&Resume>,
    on: &dyn Progress,
) -> VerifyReport {
    let backing = Arc::new(Faulty::new(LocalDir::open(root).expect("open the directory"), plan.clone()));
    let options = VerifyOptions { threads: 1, in_use: false, resume };
    verify(&Modes::new(backing, false), &host.files(root), options, on, &|_| ()).expect("verify")
}

#[test]
fn an_interrupted_run_goes_on_where_it_stopped() {
    let host = Host::new();
    let dir = host.volume();
    let mounted = host.mount(dir.path());
    for name in ["a", "b", "c", "d"] {
        mounted.write(ROOT, name, &vec![7; 50 * DATA]);
    }
    mounted.write(ROOT, "large", &vec![9; 6000 * DATA]);
    let damaged = ciphertext(dir.path(), mounted.write(ROOT, "damaged", &vec![8; 3 * DATA]));
    drop(mounted);
    edit(&damaged, |bytes| bytes[5000] ^= 1);
    let plan = FaultPlan::new();
    let reads = |plan: &FaultPlan| plan.count(&[OpClass::Read]);
    let whole = run(&host, dir.path(), &plan, None, &Silent);
    assert_eq!((whole.files, whole.findings.len()), (6, 1));
    let all_reads = reads(&plan);

    let notes = tempfile::tempdir().expect("temporary directory");
    let path = notes.path().join("notes");
    let id = host.files(dir.path()).keys.volume().config.volume_id;
    let (mut runs, mut worked) = (0, 0);
    loop {
        // Each run is stopped after a part of the large file or a few small ones.
        let plan = FaultPlan::new();
        let resume = Resume::open(&path, id).expect("notes");
        let report = run(&host, dir.path(), &plan, Some(&resume), &StopAfter(plan.clone(), 12));
        worked += reads(&plan);
        resume.end(!report.interrupted).expect("noted");
        runs += 1;
        if !report.interrupted || runs > 50 {
            assert_eq!((codes(&report.findings), report.files), (codes(&whole.findings), 6), "as in one run");
            break;
        }
    }
    // How many there are depends on the order of the random names.
    assert!((2..50).contains(&runs), "{runs} runs");
    // What a run did is not done again, but for the damaged file and the names.
    assert!(worked < 3 * all_reads, "{worked} reads, {all_reads} without interruption");
    assert!(!path.exists(), "a complete run leaves no notes");
}

#[test]
fn a_disk_that_fails_is_read_around() {
    let host = Host::new();
    let dir = host.volume();
    let mounted = host.mount(dir.path());
    mounted.write(ROOT, "file", &vec![7; 700 * DATA]);
    drop(mounted);
    let plan = FaultPlan::new();
    run(&host, dir.path(), &plan, None, &Silent);
    // Behind the three of the content come those of both configurations.
    let first = plan.count(&[OpClass::Read]) - 2 - 3;
    let plan = FaultPlan::new();
    plan.inject(Fault::once(&[OpClass::Read], first + 1, Errno::IO));
    assert_eq!(run(&host, dir.path(), &plan, None, &Silent).findings, [], "read again unit by unit");
    let plan = FaultPlan::new();
    plan.inject(Fault::from(&[OpClass::Read], first + 1, Errno::IO));
    let report = run(&host, dir.path(), &plan, None, &Silent);
    assert_eq!(codes(&report.findings), ["Io file#256+444"], "one finding for all that is lost");
}

#[test]
fn a_copy_of_the_configuration_that_differs_is_found() {
    let host = Host::new();
    let dir = host.volume();
    edit(&dir.path().join(".kmsfs/volume.bak"), |bytes| bytes[100] ^= 1);
    let report = host.verify(dir.path());
    assert_eq!(codes(&report.findings), ["VolumeAuth ?"]);
    assert_eq!(report.findings[0].paths.ciphertext, b".kmsfs/volume.bak");
}
