//! What a mount counts of its requests: how many, how long they took in the daemon, how many bytes they moved.

use std::time::Duration;

use super::abi::opcode;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Operations that are told apart, by their numbers of the protocol.
const NAMES: [(u32, &str); 36] = [
    (opcode::LOOKUP, "lookup"),
    (opcode::FORGET, "forget"),
    (opcode::GETATTR, "getattr"),
    (opcode::SETATTR, "setattr"),
    (opcode::READLINK, "readlink"),
    (opcode::SYMLINK, "symlink"),
    (opcode::MKNOD, "mknod"),
    (opcode::MKDIR, "mkdir"),
    (opcode::UNLINK, "unlink"),
    (opcode::RMDIR, "rmdir"),
    (opcode::RENAME, "rename"),
    (opcode::LINK, "link"),
    (opcode::OPEN, "open"),
    (opcode::READ, "read"),
    (opcode::WRITE, "write"),
    (opcode::STATFS, "statfs"),
    (opcode::RELEASE, "release"),
    (opcode::FSYNC, "fsync"),
    (opcode::SETXATTR, "setxattr"),
    (opcode::GETXATTR, "getxattr"),
    (opcode::LISTXATTR, "listxattr"),
    (opcode::REMOVEXATTR, "removexattr"),
    (opcode::OPENDIR, "opendir"),
    (opcode::READDIR, "readdir"),
    (opcode::RELEASEDIR, "releasedir"),
    (opcode::FSYNCDIR, "fsyncdir"),
    (opcode::CREATE, "create"),
    (opcode::IOCTL, "ioctl"),
    (opcode::BATCH_FORGET, "batch_forget"),
    (opcode::FALLOCATE, "fallocate"),
    (opcode::READDIRPLUS, "readdirplus"),
    (opcode::RENAME2, "rename2"),
    (opcode::LSEEK, "lseek"),
    (opcode::COPY_FILE_RANGE, "copy_file_range"),
    (opcode::TMPFILE, "tmpfile"),
    (opcode::STATX, "statx"),
];
/// One more than the largest number that is counted; others are "other", number 0.
const NUMBERS: usize = 64;
/// The histogram's shortest time, a power of two in nanoseconds: what is shorter counts as that.
const SHORTEST: u32 = 9;
/// Classes for each power of two, so that a class is at most 25 percent wide.
const PER_POWER: usize = 4;
/// From half a microsecond to 17 seconds; what is longer is in the last class.
const CLASSES: usize = 25 * PER_POWER;

/// Counts since the mount was made.
pub struct Statistics {
    operations: [Counters; NUMBERS],
}

struct Counters {
    errors: AtomicU64,
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
    longest: AtomicU64,
    classes: [AtomicU64; CLASSES],
}

impl Default for Counters {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        let classes = std::array::from_fn(|_| zero());
        Self { errors: zero(), bytes: zero(), nanoseconds: zero(), longest: zero(), classes }
    }
}

impl Default for Statistics {
    fn default() -> Self {
        Self { operations: std::array::from_fn(|_| Counters::default()) }
    }
}

/// What was counted of one operation. Times are those between request and answer in the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationCount {
    /// The operation as the protocol calls it, in small letters; `other` for what is not served.
    pub name: &'static str,
    /// Requests.
    pub count: u64,
    /// Those that were answered with an error, "no such entry" of a lookup excepted.
    pub errors: u64,
    /// Bytes of file content, read or written.
    pub bytes: u64,
    /// All times together.
    pub total: Duration,
    /// The time that half of the requests did not exceed, to 25 percent.
    pub median: Duration,
    /// That 90 percent did not exceed.
    pub p90: Duration,
    /// That 99 percent did not exceed.
    pub p99: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Statistics {
    /// Counts a request. `bytes`: of file content.
    pub(super) fn count(&self, number: u32, took: Duration, failed: bool, bytes: u64) {
        let counters = self.operations.get(number as usize).unwrap_or(&self.operations[0]);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let add = |counter: &AtomicU64, value: u64| {
            if value > 0 {
                counter.fetch_add(value, Ordering::Relaxed);
            }
        };
        add(&counters.classes[class_of(nanoseconds)], 1);
        add(&counters.nanoseconds, nanoseconds);
        add(&counters.errors, u64::from(failed));
        add(&counters.bytes, bytes);
        if nanoseconds > counters.longest.load(Ordering::Relaxed) {
            counters.longest.fetch_max(nanoseconds, Ordering::Relaxed);
        }
    }

    /// What was counted, of each operation that was asked for at all.
    pub fn operations(&self) -> Vec<OperationCount> {
        let counted = self.operations.iter().enumerate().map(|(number, counters)| counters.read(name_of(number)));
        counted.filter(|operation| operation.count > 0).collect()
    }
}

impl Counters {
    fn read(&self, name: &'static str) -> OperationCount {
        let classes = self.classes.each_ref().map(|class| class.load(Ordering::Relaxed));
        let count: u64 = classes.iter().sum();
        let longest = self.longest.load(Ordering::Relaxed);
        let quantile = |percent: u64| {
            let rank = (count * percent).div_ceil(100).max(1);
            let mut seen = 0;
            let class = classes.iter().position(|of| {
                seen += of;
                seen >= rank
            });
            Duration::from_nanos(class.map_or(0, end_of).min(longest))
        };
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        OperationCount {
            name,
            count,
            errors: load(&self.errors),
            bytes: load(&self.bytes),
            total: Duration::from_nanos(load(&self.nanoseconds)),
            median: quantile(50),
            p90: quantile(90),
            p99: quantile(99),
            longest: Duration::from_nanos(longest),
        }
    }
}

fn name_of(number: usize) -> &'static str {
    NAMES.iter().find(|(known, _)| *known as usize == number).map_or("other", |(_, name)| name)
}

/// The class of a time: its power of two, and which quarter of that.
fn class_of(nanoseconds: u64) -> usize {
    let power = nanoseconds.max(1).ilog2();
    if power < SHORTEST {
        return 0;
    }
    let quarter = (nanoseconds >> (power - 2)) as usize % PER_POWER;
    (((power - SHORTEST) as usize) * PER_POWER + quarter).min(CLASSES - 1)
}

/// The first time in nanoseconds that a class does not hold.
fn end_of(class: usize) -> u64 {
    let (power, quarter) = (class / PER_POWER, class % PER_POWER);
    ((PER_POWER + quarter + 1) as u64) << (power as u32 + SHORTEST - 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_ends_where_the_next_begins() {
        for class in 0..CLASSES - 1 {
            let end = end_of(class);
            assert_eq!((class_of(end - 1), class_of(end)), (class, class + 1), "{class}");
        }
        assert_eq!((class_of(0), class_of(u64::MAX)), (0, CLASSES - 1));
    }

    #[test]
    fn what_was_counted_comes_back() {
        let statistics = Statistics::default();
        for microseconds in 1..=100 {
            statistics.count(opcode::READ, Duration::from_micros(microseconds), microseconds == 7, 10);
        }
        statistics.count(4095, Duration::from_secs(100), true, 0);
        let [other, read] = &statistics.operations()[..] else { panic!("two operations") };
        assert_eq!((other.name, other.count, other.errors, other.p99), ("other", 1, 1, end(CLASSES - 1)));
        assert_eq!((read.name, read.count, read.errors, read.bytes), ("read", 100, 1, 1000));
        assert_eq!((read.total, read.longest), (Duration::from_micros(5050), Duration::from_micros(100)));
        for (found, exact) in [(read.median, 50), (read.p90, 90), (read.p99, 99)] {
            let exact = Duration::from_micros(exact);
            assert!(found >= exact && found <= exact.mul_f64(1.25).min(read.longest), "{found:?} for {exact:?}");
        }
    }

    fn end(class: usize) -> Duration {
        Duration::from_nanos(end_of(class))
    }

    #[test]
    fn every_counted_operation_has_a_name() {
        assert!(NAMES.iter().all(|(number, _)| (*number as usize) < NUMBERS));
        assert_eq!(name_of(opcode::STATX as usize), "statx");
    }
}
