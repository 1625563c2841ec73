//! What operations of the filesystem layer cost once they are warm, counted and not timed: calls of the backing, each of
//! which is a system call or two, pieces of memory, and bytes copied from memory to memory. Whoever makes an operation
//! costlier has to raise a number here.

use std::sync::Arc;

use kmsfs::crypto::aead::Backend;
use kmsfs::env::SystemClock;
use kmsfs::format::size::DATA;
use kmsfs::store::{FaultPlan, Faulty, LocalDir, OpClass};
use kmsfs::vfs::{ROOT, SetAttr, Vfs};

use crate::copies::copied;
use crate::fixture::{Fixture, ROOT_USER};
use crate::warm::allocations;

const MIB: usize = 1 << 20;
/// Each cost is an average over this many.
const TIMES: u64 = 20;

struct Costs {
    plan: FaultPlan,
    found: Vec<String>,
}

impl Costs {
    /// Does `work` [`TIMES`] times, of which each may cost `calls` calls of the backing, `pieces` of memory and copies of
    /// `bytes`.
    fn at_most(&mut self, what: &str, (calls, pieces, bytes): (u64, u64, u64), mut work: impl FnMut(u64)) {
        // The first ones fill what is kept.
        (0..TIMES).for_each(&mut work);
        let now = || [self.plan.count(OpClass::ALL), allocations() as u64, copied() as u64];
        let before = now();
        (TIMES..2 * TIMES).for_each(&mut work);
        let after = now();
        let cost: [u64; 3] = std::array::from_fn(|i| (after[i] - before[i]).div_ceil(TIMES));
        // Without optimisation every structure that is passed on is copied.
        let allowed = [calls, pieces, if cfg!(debug_assertions) { u64::MAX } else { bytes }];
        if cost.iter().zip(allowed).any(|(cost, allowed)| *cost > allowed) {
            self.found.push(format!("{what}: {cost:?} where {allowed:?} is allowed"));
        }
    }
}

/// Bytes copied by opening so many units: AWS-LC opens one where it stands and then moves its text, ring opens it into its
/// place.
fn by_opening(units: u64) -> u64 {
    if Backend::default() == Backend::AwsLc { units * DATA as u64 } else { 0 }
}

#[test]
fn warm_operations_call_the_backing_and_allocate_little() {
    let dir = tempfile::tempdir().expect("directory");
    let plan = FaultPlan::new();
    let backing = Faulty::new(LocalDir::open(dir.path()).expect("opened"), plan.clone());
    let vfs: Vfs<_> = Fixture::new(backing, Arc::new(SystemClock)).mount();
    let mut costs = Costs { plan, found: Vec::new() };
    let (attr, opened) = vfs.create(ROOT, b"large", 0o644, &ROOT_USER).expect("created");
    let (ino, large) = (attr.ino, opened.handle);
    let data = vec![7; MIB];
    for at in 0..4 {
        vfs.write(large, at * MIB as u64, &data).expect("written");
    }
    vfs.fsync(large, false).expect("synced");
    let page = vec![8; 4096];
    let name = |kind: &str, n: u64| format!("{kind}{n}").into_bytes();

    costs.at_most("read 4 KiB", (1, 0, by_opening(2) + 300), |n| {
        vfs.read(large, n * 4096, 4096, |read| assert_eq!(read.len(), 4096)).expect("read");
    });
    costs.at_most("read 1 MiB", (1, 0, by_opening(259) + 300), |n| {
        vfs.read(large, n % 3 * MIB as u64, MIB, |read| assert_eq!(read.len(), MIB)).expect("read");
    });
    costs.at_most("overwrite 4 KiB", (4, 0, by_opening(2) + 12_600), |n| {
        vfs.write(large, n * 4096, &page).expect("written")
    });
    costs.at_most("overwrite 1 MiB", (5, 0, by_opening(2) + 1_054_300), |n| {
        vfs.write(large, n % 3 * MIB as u64, &data).expect("written")
    });
    costs.at_most("append 4 KiB", (4, 0, by_opening(1) + 5_400), |n| {
        vfs.write(large, 4 * MIB as u64 + n * 4096, &page).expect("written");
    });
    costs.at_most("overwrite 4 KiB and fsync", (5, 0, by_opening(2) + 12_600), |n| {
        vfs.write(large, n * 4096, &page).expect("written");
        vfs.fsync(large, true).expect("synced");
    });
    costs.at_most("getattr", (1, 0, 200), |_| assert_eq!(vfs.getattr(ino).expect("there").ino, ino));
    costs.at_most("lookup", (1, 2, 2_450), |_| {
        vfs.lookup(ROOT, b"large").expect("there");
        vfs.forget(ino, 1);
    });
    costs.at_most("lookup of nothing", (1, 2, 2_300), |n| {
        vfs.lookup(ROOT, &name("none", n)).expect_err("not there");
    });
    costs.at_most("open and release", (0, 1, 0), |_| {
        vfs.release(vfs.open(ino, false).expect("opened").handle);
    });
    costs.at_most("create an empty file", (2, 11, 4_000), |n| {
        let (made, opened) = vfs.create(ROOT, &name("empty", n), 0o644, &ROOT_USER).expect("created");
        vfs.release(opened.handle);
        vfs.forget(made.ino, 1);
    });
    costs.at_most("create and write 2 KiB", (5, 42, 16_100), |n| {
        let (made, opened) = vfs.create(ROOT, &name("small", n), 0o644, &ROOT_USER).expect("created");
        vfs.write(opened.handle, 0, &page[..2048]).expect("written");
        vfs.release(opened.handle);
        vfs.forget(made.ino, 1);
    });
    costs.at_most("look up, open, read and release a small file", (6, 20, by_opening(1) + 10_500), |n| {
        let found = vfs.lookup(ROOT, &name("small", n)).expect("there");
        let opened = vfs.open(found.ino, false).expect("opened");
        vfs.read(opened.handle, 0, 4096, |read| assert_eq!(read.len(), 2048)).expect("read");
        vfs.release(opened.handle);
        vfs.forget(found.ino, 1);
    });
    costs.at_most("chmod", (2, 2, 260), |n| {
        let change = SetAttr { mode: Some(0o600 + n as u32 % 2), ..SetAttr::default() };
        vfs.setattr(ino, None, &change).expect("changed");
    });
    costs.at_most("unlink", (2, 2, 2_500), |n| vfs.unlink(ROOT, &name("small", n)).expect("removed"));
    assert!(costs.found.is_empty(), "{}", costs.found.join("\n"));
}
