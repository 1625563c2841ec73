//! The filesystem against a plain tree: the same operations, the same results, the same tree at the end.
//!
//! The plain tree is the backing in memory, used for plaintext; its own tests compare it with the host's filesystem.

pub mod ops;
pub mod run;
pub mod subject;

use std::sync::Arc;

use kmsfs::env::ManualClock;
use kmsfs::format::name::NameForm;
use kmsfs::store::{Allocate, LocalDir, Memory};
use kmsfs::types::Timestamp;
use proptest::prelude::*;

use crate::fixture::Fixture;
use run::{Comparison, compare_with_model, tree};
use subject::{Mounted, PlainTree, Subject};

proptest! {
    #[test]
    fn behaves_as_a_plain_tree(ops in prop::collection::vec(ops::op(), 1..100)) {
        compare_with_model(&ops, true, NameForm::Encrypted)?;
    }

    #[test]
    fn behaves_as_a_plain_tree_where_metadata_is_not_ordered(ops in prop::collection::vec(ops::op(), 1..60)) {
        compare_with_model(&ops, false, NameForm::Encrypted)?;
    }

    #[test]
    fn behaves_as_a_plain_tree_with_plain_names(
        ops in prop::collection::vec(ops::op(), 1..100),
        ordered_metadata: bool,
    ) {
        compare_with_model(&ops, ordered_metadata, NameForm::Plain)?;
    }
}

#[test]
fn sizes_and_holes_beyond_four_gibibytes() {
    const FAR: u64 = 5 << 30;
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_000_000)));
    let mut mounted = Mounted::new(Fixture::new(Memory::new(clock.clone()), clock));
    mounted.create(&["big"], 0o600).unwrap();
    mounted.write(0, FAR, b"far").unwrap();
    mounted.write(0, 0, b"near").unwrap();
    assert_eq!(mounted.stat_file(0).unwrap().size, FAR + 3);
    assert_eq!(mounted.seek(0, 0).unwrap(), (Some(0), Some(4096)));
    assert_eq!(mounted.seek(0, 4096).unwrap(), (Some(FAR), Some(4096)));
    mounted.fsync(0, false).unwrap();
    mounted.remount();
    mounted.open(&["big"], true).unwrap();
    assert_eq!(mounted.read(0, FAR - 1, 10).unwrap(), b"\0far");
    assert_eq!(mounted.read(0, 0, 6).unwrap(), b"near\0\0");
    mounted.allocate(0, Allocate::PunchHole, 0, FAR).unwrap();
    mounted.set_len(0, FAR + 1).unwrap();
    assert_eq!(mounted.read(0, FAR, 10).unwrap(), b"f");
    assert_eq!(mounted.seek(0, 0).unwrap(), (Some(FAR), Some(0)));
}

/// The same operations on a real mount and on a directory of the host. `KMSFS_TEST_MOUNT` names a mounted volume; it
/// gets a directory of its own there, which goes again. `KMSFS_TEST_PLAIN` names the directory to compare with, on ext4,
/// if the default for temporary files is none.
#[test]
fn a_mount_behaves_as_the_host() {
    let Some(mount) = std::env::var_os("KMSFS_TEST_MOUNT") else {
        // Only this test has a reason to print: without it, nobody would know that it did nothing.
        std::io::Write::write_all(
            &mut std::io::stderr(),
            b"left to tests/suites/model.sh: KMSFS_TEST_MOUNT is not set\n",
        )
        .unwrap();
        return;
    };
    let plain = std::env::var_os("KMSFS_TEST_PLAIN").unwrap_or_else(|| std::env::temp_dir().into());
    proptest!(ProptestConfig::with_source_file(file!()), |(ops in prop::collection::vec(ops::op(), 1..60))| {
        let directory = |parent| tempfile::tempdir_in(parent).unwrap();
        let (volume, host) = (directory(&mount), directory(&plain));
        let open = |directory: &tempfile::TempDir| PlainTree::new(LocalDir::open(directory.path()).unwrap());
        let (mut mounted, mut model) = (open(&volume), open(&host));
        let mut comparison = Comparison::of_hosts();
        for (number, op) in ops.iter().enumerate() {
            comparison.step(number, op, &mut model, &mut mounted)?;
        }
        let forget_times = |subject: &mut dyn Subject| {
            let mut tree = tree(subject);
            tree.values_mut().for_each(|object| object.plain.mtime = Default::default());
            tree
        };
        prop_assert_eq!(forget_times(&mut mounted), forget_times(&mut model));
    });
}
