//! What the parts cost, without a mount: `cargo bench`, or `cargo bench -- unit` for the lines whose name holds `unit`.
//!
//! Each line is the median and the fastest of several batches, in nanoseconds a call, and the throughput where a call
//! moves bytes. One thread. `docs/PERFORMANCE.md` has the numbers of whole mounts.

use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kmsfs::crypto::aead::Backend;
use kmsfs::crypto::secret::SecretKey;
use kmsfs::env::{Entropy, ManualClock, SystemEntropy, random};
use kmsfs::format::header::{HeaderInfo, StaticHeader, build_header};
use kmsfs::format::keys::{FileKeys, VolumeKeys};
use kmsfs::format::name::{DEFAULT_SHORT_MAX, NameCodec, NameForm};
use kmsfs::format::recipient::Recipient;
use kmsfs::format::size::{DATA, Geometry, UNIT};
use kmsfs::format::unit;
use kmsfs::kms::Engine;
use kmsfs::kms::custody::{Home, NewHome, NewSlot};
use kmsfs::kms::model::{CreateKeyRequest, DataKeySpec, GenerateDataKeyRequest};
use kmsfs::store::Memory;
use kmsfs::types::{DirId, FileId, KeyArn, Timestamp, VolumeId};
use kmsfs::vfs::ROOT;

#[path = "../tests/integration/fixture.rs"]
#[allow(dead_code, reason = "it serves the integration tests too")]
mod fixture;

use fixture::{Fixture, ROOT_USER};

/// Time of one batch; its number of calls follows from it.
const BATCH: Duration = Duration::from_millis(50);
const BATCHES: usize = 15;
const VOLUME: VolumeId = VolumeId::from_bytes([5; 16]);
const DIR: DirId = DirId::from_bytes([9; 16]);
const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

struct Bench {
    filter: Vec<String>,
}

impl Bench {
    /// Measures `call`, which moves `bytes`, 0 if it moves none.
    fn run(&self, name: &str, bytes: usize, mut call: impl FnMut()) {
        if !self.filter.is_empty() && !self.filter.iter().any(|word| name.contains(word.as_str())) {
            return;
        }
        let mut batch = |calls: u32| {
            let start = Instant::now();
            (0..calls).for_each(|_| call());
            start.elapsed()
        };
        // Caches and branch predictors warm up while the number of calls is found.
        let mut calls = 1;
        while batch(calls) < BATCH / 4 {
            calls *= 2;
        }
        let mut times: Vec<f64> =
            (0..BATCHES).map(|_| batch(calls * 4).as_nanos() as f64 / f64::from(calls * 4)).collect();
        times.sort_by(f64::total_cmp);
        let (median, fastest) = (times[BATCHES / 2], times[0]);
        let rate = if bytes == 0 { String::new() } else { format!("{:>9.0} MB/s", bytes as f64 / median * 1000.0) };
        writeln!(std::io::stdout(), "{name:<36} {median:>12.0} ns {fastest:>12.0} ns {rate}").expect("stdout");
    }
}

fn root_key() -> SecretKey<32> {
    SecretKey::from_slice(&[8; 32]).expect("32 bytes")
}

fn units(bench: &Bench) {
    let header = StaticHeader::new(VOLUME, FileId::from_bytes([4; 16]), Geometry::P1);
    for backend in Backend::ALL {
        let keys = FileKeys::derive(backend, &root_key(), &header);
        let cipher = keys.unit_cipher(&[7; 12]);
        for count in [1, 16] {
            let name = |what: &str| format!("unit {what} {} KiB {}", count * UNIT / 1024, backend.name());
            let mut buf = vec![[0x5a; UNIT]; count];
            let mut ctr = 0;
            bench.run(&name("seal"), count * DATA, || {
                for (number, buf) in buf.iter_mut().enumerate() {
                    ctr += 1;
                    unit::seal(&cipher, &[7; 12], ctr, number as u64, buf);
                }
            });
            for (number, buf) in buf.iter_mut().enumerate() {
                unit::seal(&cipher, &[7; 12], 1, number as u64, buf);
            }
            let sealed = buf.concat();
            let mut work = sealed.clone();
            // With the copy that opening in place makes necessary.
            bench.run(&name("open"), count * DATA, || {
                work.copy_from_slice(&sealed);
                for number in 0..count {
                    let unit = &mut work[DATA * number..UNIT * (number + 1)];
                    unit::open_within(&cipher, number as u64, unit, (UNIT - DATA) * number).expect("authentic");
                }
            });
        }
    }
}

fn names(bench: &Bench) {
    let keys = Arc::new(VolumeKeys::derive(Backend::default(), &root_key(), VOLUME));
    let codec = NameCodec::new(keys, NameForm::Encrypted, DEFAULT_SHORT_MAX);
    for len in [12, 100, 255] {
        let plain = vec![b'n'; len];
        let encoded = codec.encode(DIR, &plain).expect("a name");
        bench.run(&format!("name encode {len} bytes"), 0, || {
            black_box(codec.encode(DIR, black_box(&plain)).expect("a name"));
        });
        let side = encoded.side().map(str::as_bytes);
        bench.run(&format!("name decode {len} bytes"), 0, || {
            black_box(codec.decode(DIR, encoded.entry().as_bytes(), side).expect("authentic"));
        });
    }
}

fn headers(bench: &Bench) {
    let volume = VolumeKeys::derive(Backend::default(), &root_key(), VOLUME);
    let fixed = StaticHeader::new(VOLUME, FileId::from_bytes([4; 16]), Geometry::P1);
    let keys = FileKeys::derive(Backend::default(), &root_key(), &fixed);
    let key: KeyArn = KEY.parse().expect("an ARN");
    let recipient = [Recipient::kms(&key, vec![7; 184], 1_700_000_000)];
    let header = build_header(&fixed, &keys, &volume, &recipient, false).expect("a header");
    bench.run("header parse, no key", 0, || {
        black_box(HeaderInfo::parse(black_box(&header[..])).expect("a header"));
    });
    bench.run("header build", 0, || {
        black_box(build_header(&fixed, &keys, &volume, &recipient, false).expect("a header"));
    });
    bench.run("file keys derive", 0, || {
        black_box(FileKeys::derive(Backend::default(), &root_key(), &fixed));
    });
}

fn filesystem(bench: &Bench) {
    const FILE: u64 = 4 << 20;
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_700_000_000)));
    let fixture = Fixture::new(Memory::new(clock.clone()), clock);
    let vfs = fixture.mount();
    let (attr, opened) = vfs.create(ROOT, b"file", 0o600, &ROOT_USER).expect("create");
    for len in [4096, 65_536, 1 << 20] {
        let data = vec![0x5a; len];
        let mut at = 0;
        bench.run(&format!("vfs write {} KiB", len / 1024), len, || {
            vfs.write(opened.handle, at, &data).expect("write");
            at = (at + len as u64) % FILE;
        });
        vfs.write(opened.handle, FILE - len as u64, &data).expect("write");
        let mut at = 0;
        bench.run(&format!("vfs read {} KiB", len / 1024), len, || {
            let read = vfs.read(opened.handle, at, len, |text| black_box(text).len()).expect("read");
            assert_eq!(read, len);
            at = (at + len as u64) % (FILE - len as u64 + 1);
        });
    }
    bench.run("vfs getattr", 0, || {
        black_box(vfs.getattr(attr.ino).expect("getattr"));
    });
    bench.run("vfs lookup and forget", 0, || {
        let found = vfs.lookup(ROOT, b"file").expect("lookup");
        vfs.forget(found.ino, 1);
    });
    let mut number = 0_u64;
    bench.run("vfs create and unlink, empty", 0, || {
        number += 1;
        let name = number.to_string();
        let (attr, opened) = vfs.create(ROOT, name.as_bytes(), 0o600, &ROOT_USER).expect("create");
        vfs.release(opened.handle);
        vfs.unlink(ROOT, name.as_bytes()).expect("unlink");
        vfs.forget(attr.ino, 1);
    });
}

/// The key manager in this process, its database on the disk of the temporary directory.
fn key_manager(bench: &Bench) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_700_000_000)));
    let new = NewHome::with_slots(vec![NewSlot::KeyFile]);
    let (home, _) = Home::create(dir.path(), new, &*clock, &SystemEntropy).expect("a home");
    let engine = Engine::start(home, clock, Arc::new(SystemEntropy)).expect("start");
    let caller = engine.local_caller("bench");
    let key = engine.create_key(&caller, CreateKeyRequest::default()).expect("CreateKey").key_metadata.key_id;
    bench.run("GenerateDataKey, audited", 0, || {
        let request = GenerateDataKeyRequest {
            key_id: key.to_string(),
            key_spec: Some(DataKeySpec::Aes256),
            ..GenerateDataKeyRequest::default()
        };
        black_box(engine.generate_data_key(&caller, request).expect("GenerateDataKey"));
    });
    let entropy: &dyn Entropy = &SystemEntropy;
    bench.run("32 random bytes", 0, || {
        black_box(random::<32>(entropy));
    });
}

fn main() {
    // Cargo adds --bench.
    let filter = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let bench = Bench { filter };
    units(&bench);
    names(&bench);
    headers(&bench);
    filesystem(&bench);
    key_manager(&bench);
}
