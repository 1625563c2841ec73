//! The power is cut between any two writes of the record: what was settled is there, exactly, and what was marked is marked.

use std::collections::HashSet;
use std::time::Duration;

use super::{Found, Freshness, Target};
use crate::crypto::aead::Backend;
use crate::crypto::secret::SecretKey;
use crate::env::SystemEntropy;
use crate::format::keys::VolumeKeys;
use crate::format::size::UNIT;
use crate::sync::Arc;
use crate::sys::failing_disk::{FailingDisk, Left};
use crate::types::{DirId, FileId, VolumeId};

const VOLUME: VolumeId = VolumeId::from_bytes([5; 16]);
const ROOT: DirId = DirId::from_bytes([9; 16]);

/// A file of two units under a name of its own.
struct Made {
    name: String,
    id: FileId,
    object: u64,
    units: Vec<u8>,
}

fn keys() -> VolumeKeys {
    VolumeKeys::derive(Backend::default(), &SecretKey::from_slice(&[8; 32]).expect("32 bytes"), VOLUME)
}

fn found(id: FileId) -> Found<'static> {
    Found { file_id: Some(id), size: 5000, header: b"header", seq: 1 }
}

fn make(fresh: &Arc<Freshness>, number: u8) -> Made {
    let root = fresh.directory(ROOT).expect("its record");
    root.before_change().expect("marked");
    let (file, id, name) = (fresh.new_file(), FileId::from_bytes([number + 1; 16]), format!("entry {number}"));
    file.before_change().expect("marked");
    file.began(id);
    let run = file.reserve(2, &SystemEntropy, Duration::ZERO).expect("reserved");
    let unit = |ctr: u32| [&run.epoch[..], &ctr.to_le_bytes(), &[7; UNIT - 16]].concat();
    let units: Vec<u8> = (run.first..run.first + 2).flat_map(unit).collect();
    file.wrote(0, &units).expect("noted");
    file.closed(&found(id));
    root.set(&name, Some(Target::File(file.object())));
    Made { name, id, object: file.object(), units }
}

#[test]
fn what_was_settled_survives_a_power_cut_at_every_write() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let disk = FailingDisk::below(dir.path());
    disk.record();
    let path = |dir: &std::path::Path| dir.join("freshness").join("record.db");
    Freshness::create(&path(dir.path()), &keys(), VOLUME, ROOT).expect("created");
    let open = |dir: &std::path::Path| Freshness::open(&path(dir), &keys(), VOLUME).map(Arc::new);
    let mut fresh = open(dir.path()).expect("opened");
    // How much had happened when each file was marked, and when it was settled.
    let (mut made, mut marked, mut settled) = (Vec::new(), Vec::new(), vec![disk.moments()]);
    for number in 0..12 {
        if number % 5 == 4 {
            drop(fresh);
            fresh = open(dir.path()).expect("opened");
        }
        made.push(make(&fresh, number));
        marked.push(disk.moments());
        fresh.settle(|| Ok(())).expect("settled");
        settled.push(disk.moments());
    }
    drop(fresh);
    let history = disk.history();
    for moment in settled[0]..=history.moments() {
        let left = match moment % 4 {
            0 => Left::Oldest,
            1 => Left::Newest,
            _ => Left::Any(moment as u64),
        };
        let copy = tempfile::tempdir().expect("temporary directory");
        history.cut(moment, &left, copy.path());
        let fresh = open(copy.path()).unwrap_or_else(|error| panic!("moment {moment}: {error}"));
        let count = settled.iter().rposition(|end| *end <= moment).expect("the start");
        let root = fresh.directory(ROOT).expect("its record");
        let names: HashSet<String> = made[..count].iter().map(|made| made.name.clone()).collect();
        assert!(root.missing(&names).len() <= 1, "moment {moment}: what is in flight, and no more");
        // From the mark to the settling whatever is found counts.
        let is_changing = marked.get(count).is_some_and(|end| *end <= moment);
        assert!(!is_changing || root.is_lenient() || root.expected(&made[count].name).is_some(), "moment {moment}");
        for made in &made[..count] {
            assert_eq!(root.expected(&made.name), Some(Target::File(made.object)), "moment {moment}: {}", made.name);
            let file =
                fresh.file(made.object).expect("read").unwrap_or_else(|| panic!("moment {moment}: {}", made.name));
            assert_eq!(file.check(&found(made.id)), Ok(()), "moment {moment}: {}", made.name);
            let stale = file.stale_unit(0, made.units.chunks_exact(UNIT)).expect("read");
            assert_eq!(stale, None, "moment {moment}: {}", made.name);
        }
    }
    assert!(history.moments() > 150, "{} moments", history.moments());
}
