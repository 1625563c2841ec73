//! Speed of the key manager in process, audit included, by number of keys. For figures that count on one core:
//!
//! ```sh
//! taskset -c 0 cargo bench --bench kms            # 1, 10,000 and 100,000 keys; the last takes some minutes
//! taskset -c 0 cargo bench --bench kms -- 1 10000
//! taskset -c 0 cargo bench --bench kms -- 1 Decrypt      # only what has this in its name
//! ```
//!
//! Keys are used in no order: all of them, and of many also the same thousand and the same one all the time, which shows what
//! their number costs by itself, apart from memory that no cache holds. Requests are made before, some at a time, and their making is not counted: the caller has them
//! in his cache when he calls, wherever he had them from. Opening is measured with as many keys as the line says; CreateKey,
//! which adds some, comes at the very end.
//!
//! The home is made in memory (`/dev/shm`) if there is one, so that the figures are those of the program and not of a
//! disk; `KMSFS_BENCH_DIR` names another place.

#![expect(clippy::disallowed_macros, reason = "a benchmark prints its figures")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use kmsfs::env::{SystemClock, SystemEntropy};
use kmsfs::kms::Engine;
use kmsfs::kms::custody::{Home, NewHome, NewSlot, Unlock};
use kmsfs::kms::model::*;
use kmsfs::types::EncryptionContext;
use rustix::time::ClockId;

/// Each figure is the median of this many rounds.
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(700);

/// With as many keys in the home, but few of them in use.
const A_THOUSAND: &str = "GenerateDataKey, 1,000 of them";
const ONE: &str = "GenerateDataKey, one of them";

fn main() {
    let arguments = || std::env::args().skip(1).filter(|argument| argument != "--bench");
    let counts: Vec<usize> = arguments().filter_map(|argument| argument.parse().ok()).collect();
    let names: Vec<String> = arguments().filter(|argument| argument.parse::<usize>().is_err()).collect();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|part| name.contains(part.as_str()));
    let counts = if counts.is_empty() { vec![1, 10_000, 100_000] } else { counts };
    let place = std::env::var("KMSFS_BENCH_DIR").unwrap_or_else(|_| "/dev/shm".to_owned());
    let place = if std::path::Path::new(&place).is_dir() { place.into() } else { std::env::temp_dir() };
    let dir = tempfile::TempDir::new_in(place).expect("a directory");
    let path = dir.path().join("kms");
    let (home, _) =
        Home::create(&path, NewHome::with_slots(vec![NewSlot::KeyFile]), &SystemClock, &SystemEntropy).expect("a home");
    let mut engine = Engine::start(home, Arc::new(SystemClock), Arc::new(SystemEntropy)).expect("an engine");
    let mut keys: Vec<String> = Vec::new();
    println!("{:<34} {:>10} {:>14} {:>12} {:>12}", "operation", "keys", "per second", "each", "CPU each");
    let open =
        || Engine::open(&path, &Unlock::KeyFile, Arc::new(SystemClock), Arc::new(SystemEntropy)).expect("opened");
    for count in counts {
        let caller = engine.local_caller("bench");
        let (made, start) = (count.saturating_sub(keys.len()), Instant::now());
        while keys.len() < count {
            let answer = engine.create_key(&caller, CreateKeyRequest::default()).expect("created");
            keys.push(answer.key_metadata.arn.to_string());
        }
        if made > 0 {
            line("CreateKey, mean up to here", count, start.elapsed() / made as u32, None);
            drop(engine);
            engine = open();
        }
        // In the order of their use: a list with each anywhere in memory would cost more than what is measured.
        let order: String = (0..count).map(|n| keys[n.wrapping_mul(7919) % count].as_str()).collect();
        let key = |n: usize| order[n % count * keys[0].len()..][..keys[0].len()].to_owned();
        let context =
            || EncryptionContext::new().with("kmsfs:volume", "0f1e2d3c4b5a69788796a5b4c3d2e1f0").with("kmsfs:fmt", "1");
        let data_key = |n: usize| GenerateDataKeyRequest {
            key_id: key(n),
            encryption_context: context(),
            number_of_bytes: Some(32),
            ..Default::default()
        };
        for (what, used) in [("GenerateDataKey", count), (A_THOUSAND, 1000), (ONE, 1)] {
            if wanted(what) && (used < count || what == "GenerateDataKey") {
                measure(
                    what,
                    count,
                    |n| data_key(n % used),
                    |request| {
                        engine.generate_data_key(&caller, request).expect("generated");
                    },
                );
            }
        }
        let blobs: Vec<Vec<u8>> = (0..1000)
            .map(|n| engine.generate_data_key(&caller, data_key(n)).expect("generated").ciphertext_blob)
            .collect();
        let decrypt = |n: usize| DecryptRequest {
            ciphertext_blob: Some(blobs[n % blobs.len()].clone()),
            encryption_context: context(),
            ..Default::default()
        };
        if wanted("Decrypt") {
            measure("Decrypt", count, decrypt, |request| {
                engine.decrypt(&caller, request).expect("decrypted");
            });
        }
        let describe = |n: usize| DescribeKeyRequest { key_id: key(n), ..Default::default() };
        if wanted("DescribeKey") {
            measure("DescribeKey", count, describe, |request| {
                engine.describe_key(&caller, request).expect("described");
            });
        }
        // Another process.
        let other = open();
        if wanted("DisableKey there, refused here") {
            measure("DisableKey there, refused here", count, data_key, |request| {
                let key = request.key_id.as_str();
                other.disable_key(&caller, key.into()).expect("disabled");
                engine.generate_data_key(&caller, request.clone()).expect_err("disabled");
                other.enable_key(&caller, key.into()).expect("enabled");
            });
        }
        drop(other);
        drop(engine);
        let (mut opened, mut closed) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let start = Instant::now();
            let engine = open();
            opened.push(start.elapsed());
            let start = Instant::now();
            drop(engine);
            closed.push(start.elapsed());
        }
        for (what, mut times) in [("open", opened), ("close", closed)] {
            times.sort();
            line(what, count, times[times.len() / 2], None);
        }
        engine = open();
    }
    let (caller, before) = (engine.local_caller("bench"), keys.len());
    // An account has 100,000 keys at most.
    if wanted("CreateKey") && before < 50_000 {
        measure(
            "CreateKey",
            before,
            |_| CreateKeyRequest::default(),
            |request| {
                engine.create_key(&caller, request).expect("created");
            },
        );
    }
}

/// Requests that are made at a time.
const AT_ONCE: usize = 32;

fn measure<R>(what: &str, keys: usize, request: impl Fn(usize) -> R, mut call: impl FnMut(R)) {
    let (mut each, mut cpu) = (Vec::new(), Vec::new());
    let (mut n, mut requests) = (0, Vec::new());
    for _ in 0..ROUNDS {
        let (start, used, first) = (Instant::now(), cpu_time(ClockId::ProcessCPUTime), n);
        let mut making = Duration::ZERO;
        while start.elapsed() < ROUND {
            let begun = cpu_time(ClockId::ThreadCPUTime);
            requests.extend((n..n + AT_ONCE).map(&request));
            making += cpu_time(ClockId::ThreadCPUTime) - begun;
            n += AT_ONCE;
            requests.drain(..).for_each(&mut call);
        }
        let calls = (n - first) as u32;
        each.push((start.elapsed() - making) / calls);
        cpu.push((cpu_time(ClockId::ProcessCPUTime) - used - making) / calls);
    }
    each.sort();
    cpu.sort();
    line(what, keys, each[ROUNDS / 2], Some(cpu[ROUNDS / 2]));
}

/// What this thread, or the whole process with the audit log's thread, has used so far: other programs do not disturb it
/// much.
fn cpu_time(of: ClockId) -> Duration {
    let time = rustix::time::clock_gettime(of);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn line(what: &str, keys: usize, each: Duration, cpu: Option<Duration>) {
    let cpu = cpu.map_or(String::new(), |cpu| format!("{cpu:.1?}"));
    println!("{what:<34} {keys:>10} {:>14.0} {each:>12.1?} {cpu:>12}", 1.0 / each.as_secs_f64());
}
