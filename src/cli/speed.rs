//! `kmsfs speed`: how fast this computer's ciphers are, and which of them kmsfs uses.

use std::hint::black_box;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::exit::{CliResult, Exit};
use super::output::table;
use super::settings::Settings;
use crate::crypto::aead::{Aes256Gcm, Backend};
use crate::format::size::{DATA, UNIT};
use crate::format::unit::{self, Epoch};

/// Time of one measurement.
const BATCH: Duration = Duration::from_millis(40);
/// Each figure is the best of so many: whatever else the computer does only makes it slower.
const BATCHES: usize = 5;

/// Measure the ciphers on this computer, one thread, units of 4096 bytes
#[derive(Debug, Args)]
pub struct SpeedArgs {}

#[derive(Debug, Serialize)]
struct Line {
    library: &'static str,
    /// Mounts on this computer use it.
    used: bool,
    /// Plaintext bytes a second.
    seal: u64,
    open: u64,
}

/// Runs the command.
pub fn run(settings: &Settings) -> CliResult {
    let lines: Vec<Line> = Backend::ALL.into_iter().map(line).collect();
    settings.out.result(&lines, || {
        let rate = |bytes: u64| format!("{} MB/s", bytes / 1_000_000);
        let row = |line: &Line| {
            let used = if line.used { "*" } else { "" };
            vec![line.library.to_owned(), rate(line.seal), rate(line.open), used.to_owned()]
        };
        let table = table(&["AES-256-GCM BY", "SEAL", "OPEN", "USED"], lines.iter().map(row));
        format!("{table}\n\nOne thread, units of {UNIT} bytes. All write the same bytes.")
    });
    Ok(Exit::Ok)
}

fn line(backend: Backend) -> Line {
    const EPOCH: Epoch = [7; 12];
    let cipher = Aes256Gcm::new(backend, &[1; 32]);
    let mut plain = [0x55; UNIT];
    let mut counter = 0;
    let seal = rate(|| {
        counter += 1;
        unit::seal(&cipher, &EPOCH, counter, 3, black_box(&mut plain));
    });
    let mut sealed = [0x55; UNIT];
    unit::seal(&cipher, &EPOCH, 1, 3, &mut sealed);
    let mut buffer = sealed;
    let open = rate(|| {
        buffer = sealed;
        unit::open_within(&cipher, 3, black_box(&mut buffer), 0).expect("what was sealed opens");
    });
    Line { library: backend.name(), used: backend == Backend::default(), seal, open }
}

/// Plaintext bytes a second of `work`, which is done with one unit a call.
fn rate(mut work: impl FnMut()) -> u64 {
    let mut best = 0;
    for _ in 0..BATCHES {
        let (start, mut units) = (Instant::now(), 0);
        while start.elapsed() < BATCH {
            (0..64).for_each(|_| work());
            units += 64;
        }
        best = best.max((f64::from(units) * DATA as f64 / start.elapsed().as_secs_f64()) as u64);
    }
    best
}
