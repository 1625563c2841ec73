//! A short run of every target on random changes of its corpus: what libFuzzer does, without its knowledge of the code.

use std::io::Write;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kmsfs::env::{Entropy, SeededEntropy, SystemEntropy, random};

use super::bodies::TARGETS;
use super::inputs;

/// Inputs of one target at most, unless a time is asked for.
const MOST: u64 = 20_000;
/// Bytes of an input at most.
const LONGEST: usize = 8192;
/// Bytes at which parsers turn: ends of ranges, and what texts are made of.
const TURNS: &[u8] = b"\0\x01\x7f\x80\xff\n\r \"':,.-/=%\\{}[]09azAZ";

/// A short run: how long a target may take, and what is drawn.
struct Run {
    time: Duration,
    most: u64,
    seed: u64,
}

impl Run {
    /// As `KMSFS_TEST_FUZZ` says: seconds for each target, and a seed, as `20` or `20:77`. Without a seed each run has another one,
    /// which it tells. Without the variable it is a second and always the same.
    fn asked() -> Self {
        let Ok(asked) = std::env::var("KMSFS_TEST_FUZZ") else {
            return Self { time: Duration::from_secs(1), most: MOST, seed: 0 };
        };
        let number =
            |text: &str| text.parse::<u64>().expect("KMSFS_TEST_FUZZ is a number, or two with a colon between them");
        let (secs, seed) = match asked.split_once(':') {
            Some((secs, seed)) => (number(secs), number(seed)),
            None => (number(&asked), u64::from_le_bytes(random(&SystemEntropy)) >> 16),
        };
        let told = format!("the mutations of this run are those of KMSFS_TEST_FUZZ={secs}:{seed}\n");
        std::io::stderr().write_all(told.as_bytes()).expect("standard error");
        Self { time: Duration::from_secs(secs), most: u64::MAX, seed }
    }

    /// Gives a target its inputs, of which each is known by its number and the seed alone.
    ///
    /// # Errors
    /// What made it panic: the text of the failure, and the input.
    fn of(&self, target: &str, body: fn(&[u8]) -> bool, corpus: &[Vec<u8>]) -> Result<(), (String, Vec<u8>)> {
        let began = Instant::now();
        for number in 0..self.most {
            let input = mutation(corpus, self.seed, number);
            if catch_unwind(|| body(&input)).is_err() {
                let length = input.len();
                let failure = format!("{target}: panicked at mutation {number} of seed {}: {length} bytes", self.seed);
                return Err((failure, input));
            }
            if began.elapsed() >= self.time {
                break;
            }
        }
        Ok(())
    }
}

/// One of a corpus, changed at one to four places.
fn mutation(corpus: &[Vec<u8>], seed: u64, number: u64) -> Vec<u8> {
    // Multiplied, since the generator of the next seed gives the same numbers one later.
    let draws = Draws(SeededEntropy::new(seed.wrapping_add(number.wrapping_mul(0xd134_2543_de82_ef95))));
    let mut input = corpus[draws.below(corpus.len())].clone();
    for _ in 0..=draws.below(4) {
        draws.change(&mut input, &corpus[draws.below(corpus.len())]);
    }
    input.truncate(LONGEST);
    input
}

struct Draws(SeededEntropy);

impl Draws {
    /// A number below `end`, or 0.
    fn below(&self, end: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % end.max(1) as u64) as usize
    }

    /// A range of at most `most` bytes of so many.
    fn range(&self, len: usize, most: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        start..start + self.below((len - start).min(most) + 1)
    }

    fn change(&self, input: &mut Vec<u8>, other: &[u8]) {
        let len = input.len();
        let at = self.below(len);
        match self.below(9) {
            0 if len > 0 => input[at] ^= 1 << self.below(8),
            1 if len > 0 => input[at] = TURNS[self.below(TURNS.len())],
            2 if len > 0 => input[at] = self.below(256) as u8,
            // A number, of either byte order, a little larger or smaller.
            3 if len > 0 => input[at] = input[at].wrapping_add([1, 255, 16, 240][self.below(4)]),
            4 => drop(input.drain(self.range(len, 64))),
            5 => input.truncate(at),
            6 => {
                let copied = input[self.range(len, 256)].to_vec();
                input.splice(at..at, copied);
            }
            7 => {
                let copied = &other[self.range(other.len(), 256)];
                input.splice(self.range(len, 256), copied.iter().copied());
            }
            _ => {
                let byte = [TURNS[self.below(TURNS.len())], self.below(256) as u8][self.below(2)];
                input.splice(at..at, std::iter::repeat_n(byte, 1 + self.below(40)));
            }
        }
    }
}

#[test]
fn every_target_survives_random_changes_of_its_corpus() {
    let run = Run::asked();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(|| {
                while let Some((target, body)) = TARGETS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let corpus: Vec<Vec<u8>> = inputs(target).into_values().collect();
                    if let Err(found) = run.of(target, *body, &corpus) {
                        failures.lock().unwrap().push((target, found));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    let told: Vec<String> = failures
        .into_iter()
        .map(|(target, (failure, input))| {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}"));
            std::fs::write(&kept, input).expect("the input is kept");
            format!("{failure}, kept in {}", kept.display())
        })
        .collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
}

#[test]
fn a_change_that_makes_a_target_panic_is_found_and_told_with_its_seed() {
    fn body(data: &[u8]) -> bool {
        // A length that goes past the end.
        data.first().is_none_or(|len| data[1..][..usize::from(*len)].len() < 200)
    }
    let corpus = vec![vec![2, 7, 7], vec![0]];
    let run = |seed| Run { time: Duration::MAX, most: MOST, seed }.of("example", body, &corpus);
    let (failure, input) = run(3).expect_err("it panics");
    assert!(failure.starts_with("example: panicked at mutation ") && failure.contains(" of seed 3: "), "{failure}");
    assert!(catch_unwind(|| body(&input)).is_err());
    assert_eq!(run(3).expect_err("again"), (failure, input.clone()), "a seed is enough to have it again");
    let other: Vec<_> = (0..100).filter(|n| mutation(&corpus, 3, *n) != mutation(&corpus, 4, *n)).collect();
    assert!(other.len() > 50, "another seed draws others");
}
