//! Which requests are short, by what those before them did.

use std::time::{Duration, Instant};

use zerocopy::FromBytes;

use super::abi::{InHeader, ReadIn, opcode};
use crate::sync::atomic::{AtomicI32, Ordering};
use crate::sys::process::waits_of_this_thread;

/// So many requests of a kind in a row that waited for nothing make it short.
const TRUSTED: i32 = 4;
/// What one that waited for a disk, a lock or a key manager costs: so many more.
const DISTRUST: i32 = -60;
/// To wake somebody for it takes as long, so one that waits less, as for a lock that was in use, is short all the same.
const BRIEF: Duration = Duration::from_micros(50);
/// What one costs that waited as long as this, such as for a key manager that does not answer: others stood behind it.
const LONG: Duration = Duration::from_millis(20);
const DISTRUST_FOR_LONG: i32 = -20_000;
/// Reading or writing more than this is a kind of its own.
const SHORT_DATA: u32 = 32 << 10;
/// More than any operation of the protocol has as its number; those behind share one place.
const KINDS: usize = 64;
/// The places of reading and writing much.
const MUCH: usize = KINDS - 3;

/// What of a request says how long it may take.
pub(super) struct Kind {
    pub(super) opcode: u32,
    /// The thread that asks; 0 if it is none, or cannot be seen from here.
    pub(super) caller: u32,
    /// Bytes to be read or written.
    pub(super) bytes: u32,
}

impl Kind {
    /// Of a request with this header and this first argument.
    pub(super) fn of(header: &[u8], structure: &[u8]) -> Self {
        let (opcode, caller) =
            InHeader::read_from_prefix(header).map_or((0, 0), |(header, _)| (header.opcode, header.pid));
        // A WRITE's size stands where a READ's does.
        let bytes = match opcode {
            opcode::READ | opcode::WRITE => ReadIn::read_from_prefix(structure).map_or(0, |(read, _)| read.size),
            _ => 0,
        };
        Self { opcode, caller, bytes }
    }

    /// Of a request that comes in one piece.
    pub(super) fn of_bytes(request: &[u8]) -> Self {
        let (header, structure) = request.split_at(size_of::<InHeader>().min(request.len()));
        Self::of(header, structure)
    }

    /// Whether somebody waits for its end. Who forgets or closes something goes on at once.
    pub(super) fn is_awaited(&self) -> bool {
        !matches!(self.opcode, opcode::FORGET | opcode::BATCH_FORGET | opcode::RELEASE | opcode::RELEASEDIR)
    }

    /// Whether it makes something durable: it waits for the disk, and its caller does nothing else meanwhile.
    pub(super) fn is_flush(&self) -> bool {
        matches!(self.opcode, opcode::FSYNC | opcode::FSYNCDIR)
    }

    /// Whether data is read or written.
    pub(super) fn is_data(&self) -> bool {
        matches!(self.opcode, opcode::READ | opcode::WRITE)
    }

    /// Whether much data is.
    pub(super) fn is_much(&self) -> bool {
        self.bytes > SHORT_DATA
    }
}

/// How long a request will probably take, by what those of its kind took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Less than it takes to wake somebody for it; or, of much data, it waits for nothing.
    Short,
    /// Too few were seen.
    Unknown,
    /// It waits for something.
    Long,
}

/// What is known of each kind of request. Nothing is at first.
pub(super) struct Habits([AtomicI32; KINDS]);

impl Default for Habits {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicI32::new(0)))
    }
}

impl Habits {
    /// How long a request will probably take.
    pub(super) fn expect(&self, kind: &Kind) -> Expected {
        match self.place(kind).load(Ordering::Relaxed) {
            ..0 => Expected::Long,
            0..TRUSTED => Expected::Unknown,
            TRUSTED.. => Expected::Short,
        }
    }

    /// Serves a request, and takes note of whether it waited for something.
    pub(super) fn observe<T>(&self, kind: &Kind, serve: impl FnOnce() -> T) -> T {
        let (began, before) = (Instant::now(), waits_of_this_thread());
        let served = serve();
        self.learn(kind, waits_of_this_thread() != before, began.elapsed());
        served
    }

    /// Takes note of a request that was served in `took`, and whether it waited for something.
    fn learn(&self, kind: &Kind, waited: bool, took: Duration) {
        let place = self.place(kind);
        if waited && took < BRIEF {
            return;
        }
        if waited {
            let cost = if took < LONG { DISTRUST } else { DISTRUST_FOR_LONG };
            place.fetch_min(cost, Ordering::Relaxed);
        } else if place.load(Ordering::Relaxed) < TRUSTED {
            place.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn place(&self, kind: &Kind) -> &AtomicI32 {
        let number = if kind.is_much() { MUCH + (kind.opcode == opcode::WRITE) as usize } else { kind.opcode as usize };
        &self.0[number.min(KINDS - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_micros(10);
    const DISK: Duration = Duration::from_micros(100);

    fn kind(opcode: u32, bytes: u32) -> Kind {
        Kind { opcode, caller: 0, bytes }
    }

    #[test]
    fn short_is_what_has_not_waited_for_a_while() {
        let habits = Habits::default();
        let (lookup, read) = (kind(opcode::LOOKUP, 0), kind(opcode::READ, 4096));
        assert_eq!(habits.expect(&lookup), Expected::Unknown, "nothing is known of it");
        (0..TRUSTED).for_each(|_| habits.learn(&lookup, false, QUICK));
        assert_eq!(habits.expect(&lookup), Expected::Short);
        assert_eq!(habits.expect(&read), Expected::Unknown, "each kind for itself");
        habits.learn(&lookup, true, QUICK);
        assert_eq!(habits.expect(&lookup), Expected::Short, "not worth waking somebody");
        habits.learn(&lookup, true, DISK);
        (0..-DISTRUST - 1).for_each(|_| habits.learn(&lookup, false, QUICK));
        assert_eq!(habits.expect(&lookup), Expected::Long);
        (0..TRUSTED).for_each(|_| habits.learn(&lookup, false, QUICK));
        assert_eq!(habits.expect(&lookup), Expected::Unknown);
        habits.learn(&lookup, false, QUICK);
        assert_eq!(habits.expect(&lookup), Expected::Short);
        habits.learn(&lookup, true, LONG);
        habits.learn(&lookup, true, DISK);
        (0..1000).for_each(|_| habits.learn(&lookup, false, QUICK));
        assert_eq!(habits.expect(&lookup), Expected::Long, "what has waited for long is not tried again soon");
    }

    #[test]
    fn little_and_much_data_are_different_kinds() {
        let habits = Habits::default();
        let kinds = [opcode::READ, opcode::WRITE].map(|code| [SHORT_DATA, SHORT_DATA + 1].map(|len| kind(code, len)));
        assert_eq!(kinds.each_ref().map(|sizes| sizes.each_ref().map(Kind::is_much)), [[false, true]; 2]);
        for (number, learned) in kinds.iter().flatten().enumerate() {
            (0..TRUSTED).for_each(|_| habits.learn(learned, false, QUICK));
            let short = kinds.iter().flatten().filter(|kind| habits.expect(kind) == Expected::Short).count();
            assert_eq!(short, number + 1);
        }
        assert_eq!(habits.expect(&kind(4096, 0)), Expected::Unknown, "a number that no operation has");
    }
}
