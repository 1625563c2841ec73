//! Interleavings of requests for one file.

use super::{Content, Volume};
use crate::crypto::aead::Backend;
use crate::crypto::secret::SecretKey;
use crate::env::{ManualClock, SeededEntropy};
use crate::format::keys::VolumeKeys;
use crate::format::recipient::Recipient;
use crate::format::size::{DATA, Geometry};
use crate::format::volume::{OpenedVolume, VolumeConfig};
use crate::keys::{DataKeys, GeneratedKey, KeyError, KeyService};
use crate::store::{Access, Backing, FaultPlan, Faulty, FileTime, Memory, Record, SetTime, Target};
use crate::sync::{Arc, explore, thread};
use crate::types::{AccountId, EncryptionContext, KeyArn, Region, Timestamp, VolumeId};

const UNIT: u64 = DATA as u64;

/// Gives every file the same data key, which is all that these tests need.
struct SameKey(KeyArn);

impl KeyService for SameKey {
    fn resolve(&self, _key: &str) -> Result<KeyArn, KeyError> {
        Ok(self.0.clone())
    }

    fn check(&self, _key: &KeyArn) -> Result<(), KeyError> {
        Ok(())
    }

    fn generate_data_key(&self, _key: &KeyArn, _context: &EncryptionContext) -> Result<GeneratedKey, KeyError> {
        Ok(GeneratedKey { key: dek(), blob: vec![1; 96] })
    }

    fn decrypt(&self, _key: &KeyArn, _blob: &[u8], _context: &EncryptionContext) -> Result<SecretKey<32>, KeyError> {
        Ok(dek())
    }

    fn re_encrypt(
        &self,
        _from: &KeyArn,
        blob: &[u8],
        _to: &KeyArn,
        _context: &EncryptionContext,
    ) -> Result<Vec<u8>, KeyError> {
        Ok(blob.to_vec())
    }

    fn material_id(&self, _blob: &[u8]) -> Option<String> {
        None
    }

    fn current_material_id(&self, _key: &KeyArn) -> Result<Option<String>, KeyError> {
        Ok(None)
    }
}

fn dek() -> SecretKey<32> {
    SecretKey::from_slice(&[6; 32]).expect("32 bytes")
}

/// What files are opened with.
pub(crate) fn volume() -> Arc<Volume> {
    let (region, account): (Region, AccountId) =
        ("eu-central-1".parse().expect("a Region"), "111122223333".parse().expect("an account"));
    let key = KeyArn::new(&region, &account, "1234abcd-12ab-34cd-56ef-1234567890ab");
    let id = VolumeId::from_bytes([5; 16]);
    let config = VolumeConfig::new(id, Geometry::P1, key.clone(), Recipient::kms(&key, vec![1; 96], 0));
    let root_key = SecretKey::from_slice(&[8; 32]).expect("32 bytes");
    let keys = Arc::new(VolumeKeys::derive(Backend::default(), &root_key, id));
    let opened = OpenedVolume { config, keys, allowed: [key.clone()].into_iter().collect() };
    let entropy = Arc::new(SeededEntropy::new(1));
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1)));
    let keys = DataKeys::new(Arc::new(SameKey(key)), opened, entropy.clone(), clock);
    Arc::new(Volume::new(entropy, keys, 1))
}

/// A new file, and how to open it again.
struct File {
    content: Arc<Content<Memory>>,
    backing: Arc<Memory>,
    volume: Arc<Volume>,
}

impl File {
    fn new() -> Self {
        let backing = Arc::new(Memory::new(Arc::new(ManualClock::new(Timestamp::from_secs(1)))));
        let volume = volume();
        let file = backing.create(&backing.root().expect("a root"), "file", 0o600).expect("a new file");
        let content = Arc::new(Content::created(Arc::clone(&backing), Arc::clone(&volume), file));
        Self { content, backing, volume }
    }

    /// What is stored is what the open file shows: header, record and units fit one another.
    fn check_stored(&self) {
        let file = self.backing.open(&self.backing.root().expect("a root"), "file", Access::ReadWrite).expect("a file");
        let (backing, volume) = (Arc::clone(&self.backing), Arc::clone(&self.volume));
        let stored = Content::open(backing, volume, file, Access::ReadWrite).expect("what is stored can be opened");
        assert_eq!(stored.size(), self.content.size());
        assert_eq!(all(&stored), all(&self.content));
    }
}

fn all(content: &Content<Memory>) -> Vec<u8> {
    content.read(0, 1 << 20, <[u8]>::to_vec).expect("every byte can be read")
}

fn uniform(bytes: &[u8]) -> Option<u8> {
    let first = *bytes.first()?;
    bytes.iter().all(|&b| b == first).then_some(first)
}

#[test]
fn a_reader_sees_a_write_whole_or_not_at_all() {
    explore(2000, || {
        let file = File::new();
        file.content.write(0, &[1; 2 * DATA]).expect("write");
        let writers = [2, 3].map(|byte| {
            let content = Arc::clone(&file.content);
            thread::spawn(move || content.write(100, &[byte; DATA]).expect("write"))
        });
        for _ in 0..2 {
            let seen = all(&file.content);
            assert!(uniform(&seen[100..100 + DATA]).is_some(), "a half-written range was seen");
            assert_eq!((uniform(&seen[..100]), uniform(&seen[100 + DATA..])), (Some(1), Some(1)));
        }
        for writer in writers {
            writer.join().expect("no panic");
        }
        file.check_stored();
    });
}

#[test]
fn cuts_growth_and_flushes_leave_a_file_that_opens() {
    explore(2000, || {
        let file = File::new();
        file.content.write(0, &[1; DATA + 50]).expect("write");
        let cutter = {
            let content = Arc::clone(&file.content);
            thread::spawn(move || {
                content.truncate(10).expect("cut");
                content.truncate(2 * UNIT).expect("grow");
            })
        };
        let syncer = {
            let content = Arc::clone(&file.content);
            thread::spawn(move || {
                content.flush(true).expect("flush");
                content.sync(false).expect("sync");
                content.flush(false).expect("flush");
            })
        };
        let raiser = {
            let content = Arc::clone(&file.content);
            thread::spawn(move || content.raise_due())
        };
        let writer = {
            let content = Arc::clone(&file.content);
            thread::spawn(move || content.write(UNIT - 5, &[2; 100]).expect("write"))
        };
        let seen = all(&file.content);
        assert!([10, UNIT + 50, UNIT + 95, 2 * UNIT].contains(&(seen.len() as u64)), "size {}", seen.len());
        assert!(seen.iter().all(|b| *b <= 2) && seen[..10] == [1; 10]);
        for thread in [cutter, syncer, raiser, writer] {
            thread.join().expect("no panic");
        }
        assert_eq!(file.content.size(), 2 * UNIT);
        file.content.sync(false).expect("sync");
        file.check_stored();
    });
}

#[test]
fn a_header_write_puts_back_no_attribute_that_a_user_changes() {
    explore(1000, || {
        let file = File::new();
        file.content.write(0, &[1; DATA + 50]).expect("write");
        let syncer = {
            let content = Arc::clone(&file.content);
            // Raises the floor, which writes the header and sets the modification time back.
            thread::spawn(move || content.sync(false).expect("sync"))
        };
        let root = file.backing.root().expect("a root");
        let target = || Target::Named(&root, "file");
        let set = SetTime::At(FileTime { secs: 77, nanos: 0 });
        {
            let _held = file.content.hold_header();
            file.backing.set_times(target(), SetTime::Omit, set).expect("set");
        }
        syncer.join().expect("no panic");
        assert_eq!(file.backing.stat(target()).expect("there").mtime.secs, 77);
    });
}

#[test]
fn a_life_that_ends_takes_no_other_with_it() {
    explore(2000, || {
        let file = File::new();
        file.content.write(0, &[1; DATA + 50]).expect("write");
        let others = [
            (|content: &Content<Memory>| content.truncate(0)) as fn(&Content<Memory>) -> _,
            |content| content.write(UNIT, &[2; 30]),
            |content| content.sync(false),
        ]
        .map(|work| {
            let content = Arc::clone(&file.content);
            thread::spawn(move || work(&content).expect("nothing fails"))
        });
        assert!(all(&file.content).iter().all(|b| *b <= 2));
        for thread in others {
            thread.join().expect("no panic");
        }
        let left = all(&file.content);
        assert!(left.is_empty() || left[UNIT as usize..][..30] == [2; 30], "the write came after the cut, or not");
        file.check_stored();
    });
}

#[test]
fn what_is_written_beside_a_suspension_is_durable() {
    /// Whether nothing was written to units behind the last flush.
    fn is_durable(records: &[Record]) -> bool {
        let is_unit = |record: &Record| matches!(record, Record::Write { offset, .. } if *offset >= 4096);
        let is_flush = |record: &Record| matches!(record, Record::Sync { .. });
        records.iter().rposition(is_unit) < records.iter().rposition(is_flush)
    }
    let run = |ends_with_the_suspension: bool| {
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1)));
        let backing = Arc::new(Faulty::new(Memory::new(clock), FaultPlan::new()));
        let file = backing.create(&backing.root().expect("a root"), "file", 0o600).expect("a new file");
        let content = Arc::new(Content::created(Arc::clone(&backing), volume(), file));
        content.write(0, &[1; 2 * DATA]).expect("write");
        backing.start_recording();
        let suspender = {
            let (content, backing) = (Arc::clone(&content), Arc::clone(&backing));
            thread::spawn(move || {
                let unflushed = content.suspend().expect("it has content");
                content.flush_suspended(unflushed).expect("nothing fails");
                ends_with_the_suspension.then(|| backing.stop_recording())
            })
        };
        let writer = {
            let (content, backing) = (Arc::clone(&content), Arc::clone(&backing));
            thread::spawn(move || {
                // The keys may be gone already.
                let _ = content.write(100, &[2; DATA]);
                content.sync(true).expect("nothing fails");
                (!ends_with_the_suspension).then(|| backing.stop_recording())
            })
        };
        let ended = [suspender, writer].map(|thread| thread.join().expect("no panic"));
        for records in ended.into_iter().flatten() {
            assert!(is_durable(&records), "{records:?}");
        }
    };
    explore(1000, move || run(true));
    explore(1000, move || run(false));
}
