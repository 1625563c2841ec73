//! How many threads wait for requests of `/dev/fuse` at once: all of them, or one.
//!
//! The kernel gives a request to the thread that has waited longest, wherever that last ran. Where requests come one by one and are short,
//! each then wakes another CPU, which takes longer than the request, most of all on a virtual machine. So one thread reads and serves them
//! all by itself, on its caller's CPU ([`super::follow`]); the others wait here. It lets another one read first when a request is
//! not short, and all of them when several requests are under way.
//!
//! A flush waits for the disk, and is no reason for any of that by itself: who asks for it asks for nothing else meanwhile, so it is
//! served like a short one as long as nobody else turns up.
//!
//! What is short is a guess, and a thread that defers to everybody can be kept from its CPU: so one of those that wait here, the watch, looks
//! every [`TICK`] whether requests lie there that nobody takes, and lets all threads read. It sleeps when there are no requests, and
//! the only reader is an ordinary thread then.

use std::cell::Cell;
use std::time::Duration;

use rustix::process::Pid;

use super::habits::{Expected, Kind};
use crate::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, lock};
use crate::sys::process::run_like_the_first_thread;

/// So many short requests, each alone: then one thread is enough.
const ALONE: i32 = 32;
/// So many of those does a request count for that was not alone, and one that takes long: the kernel stores several pieces of a file
/// side by side, for who flushes it alone.
const OVERLAP: i32 = 4;
const WAIT: i32 = 8;
/// What it costs that one thread was not enough and somebody had to wait for it: so many more.
const DISTRUST: i32 = -10_000;
/// Requests from one look for further ones to the next.
const LOOK: u32 = 4;
/// Of so many short requests one is looked at: whether it still is one.
const SAMPLE: u32 = 8;
/// Of the last four looks so many found further requests, or one that takes long: one thread is not enough.
const CROWD: u32 = 3;
/// From one look of the watch to the next. A request that nobody takes waits for three of them at most: the second look that sees it
/// and no progress does something; behind a flush the first one.
const TICK: Duration = Duration::from_millis(4);
/// Looks without a request after which the watch ends.
const IDLE: u32 = 5;

/// The threads of a connection, which come here before they read.
pub(super) struct Readers {
    threads: usize,
    /// One thread may be enough: it can follow its callers.
    adapts: bool,
    /// Threads that may read at once.
    allowed: AtomicUsize,
    state: Mutex<State>,
    /// There is something new for those that wait.
    changed: Condvar,
    /// Requests that were read and are not served yet.
    under_way: AtomicUsize,
    /// Those of them that somebody waits for and nobody has begun to answer.
    unanswered: AtomicUsize,
    /// Short requests that were alone, less what others count against them; below 0 after something that one thread was not enough for.
    alone: AtomicI32,
    /// Requests that the only reader has read.
    turns: AtomicU32,
    /// What the only reader saw when it looked: the last look is the lowest bit, set if one thread was not enough.
    crowds: AtomicU32,
    /// Somebody watches the only reader.
    watched: AtomicBool,
    /// Threads that wait, of which one can watch.
    waiting: AtomicUsize,
    /// The only reader was made an ordinary thread.
    relieved: AtomicBool,
    /// The only reader serves a flush itself.
    flushing: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Threads that read, or serve what they have read and read on.
    reading: usize,
    /// The only one of them.
    only: Option<Pid>,
    ended: bool,
    /// One of those that wait looks after the only reader.
    watches: bool,
    /// Its turns at the last look.
    turns: u32,
    /// Looks in a row that saw no request at all.
    idle: u32,
    /// Those that saw no progress: with requests that lie there, and with one that is being served.
    stuck: u32,
    slow: u32,
}

/// What a reader knows of its place.
#[derive(Default)]
pub(super) struct Place {
    /// It counts among those that read.
    reading: bool,
    /// It is the only one.
    only: bool,
    /// Short requests that it has served.
    served: u32,
}

impl Place {
    /// Whether this thread is the only one that reads.
    pub(super) fn is_only(&self) -> bool {
        self.only
    }

    /// Counts a short request; whether it is the turn of this one to be looked at.
    pub(super) fn is_time_to_ask(&mut self) -> bool {
        self.served = self.served.wrapping_add(1);
        self.served.is_multiple_of(SAMPLE)
    }
}

/// A request that a reader has read.
pub(super) struct Taken<'a> {
    /// It serves what it has read before it comes back here.
    pub(super) left: bool,
    /// It counts among those that are unanswered.
    counts: Cell<bool>,
    /// The only reader serves a flush itself.
    flushes: bool,
    readers: &'a Readers,
}

impl Taken<'_> {
    /// Its answer is about to be sent. Not behind that: who waited for it then may take the CPU, and ask again, first. `has_more` as
    /// of [`Readers::enter`].
    pub(super) fn answered(&self, has_more: impl Fn() -> bool) {
        if !self.counts.replace(false) {
            return;
        }
        self.readers.unanswered.fetch_sub(1, Ordering::Relaxed);
        if self.flushes && has_more() {
            // Somebody else waited for as long as the disk took. Twice in a short time is enough.
            let crowds = self.readers.crowds.load(Ordering::Relaxed) << 2 | 0b11;
            self.readers.crowds.store(crowds, Ordering::Relaxed);
            if is_crowd(crowds) {
                self.readers.end_alone();
            }
        }
    }
}

impl Drop for Taken<'_> {
    /// Not every request is answered, or by who took it.
    fn drop(&mut self) {
        self.answered(|| false);
        if self.flushes {
            self.readers.flushing.store(false, Ordering::Relaxed);
        }
        self.readers.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Readers {
    /// For so many threads; of which one is let read alone where that does and it `adapts`.
    pub(super) fn new(threads: usize, adapts: bool) -> Self {
        Self {
            threads,
            adapts: adapts && threads > 1,
            allowed: AtomicUsize::new(threads),
            state: Mutex::default(),
            changed: Condvar::new(),
            under_way: AtomicUsize::new(0),
            unanswered: AtomicUsize::new(0),
            alone: AtomicI32::new(0),
            turns: AtomicU32::new(0),
            crowds: AtomicU32::new(0),
            watched: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            relieved: AtomicBool::new(false),
            flushing: AtomicBool::new(false),
        }
    }

    /// Whether it is of use to know which requests are short.
    pub(super) fn adapt(&self) -> bool {
        self.adapts
    }

    /// Waits until this thread may read; false at the end of the connection. `has_more` says whether there are requests that nobody has read.
    pub(super) fn enter(&self, place: &mut Place, has_more: impl Fn() -> bool) -> bool {
        let mut state = lock(&self.state);
        let mut waits = false;
        let may = loop {
            if state.ended {
                break false;
            }
            if state.reading < self.allowed.load(Ordering::Relaxed) {
                state.reading += 1;
                self.settle(&mut state, place);
                break true;
            }
            if !waits {
                self.waiting.fetch_add(1, Ordering::Relaxed);
                waits = true;
            }
            state = self.wait(state, &has_more);
        };
        if waits {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        may
    }

    /// Whether this thread may read on, having served what it read. If not, it has to [`Self::enter`] again.
    pub(super) fn stay(&self, place: &mut Place) -> bool {
        let alone = self.allowed.load(Ordering::Relaxed) == 1;
        if alone == place.only {
            return true;
        }
        let mut state = lock(&self.state);
        if state.reading > self.allowed.load(Ordering::Relaxed) {
            state.reading -= 1;
            *place = Place::default();
            return false;
        }
        self.settle(&mut state, place);
        true
    }

    /// Takes note of a request that this thread has read, and of what is `expected` of it. `has_more` as of [`Self::enter`].
    pub(super) fn take(
        &self,
        place: &mut Place,
        kind: &Kind,
        expected: Expected,
        has_more: impl Fn() -> bool,
    ) -> Taken<'_> {
        let awaited = kind.is_awaited();
        let lone = awaited && self.unanswered.fetch_add(1, Ordering::Relaxed) == 0;
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let mut taken = Taken { left: false, counts: Cell::new(awaited), flushes: false, readers: self };
        if !self.adapts {
            return taken;
        }
        if self.allowed.load(Ordering::Relaxed) > 1 {
            place.only = false;
            if !awaited {
                return taken;
            }
            self.count(match expected {
                _ if kind.is_much() => -ALONE,
                _ if !lone => -OVERLAP,
                Expected::Long if !kind.is_flush() => -WAIT,
                Expected::Long | Expected::Unknown => 0,
                Expected::Short => 1,
            });
            return taken;
        }
        let short = expected == Expected::Short;
        // The only one, or one of those that will leave as soon as they have served what they waited for.
        let turns = self.turns.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        if !self.watched.load(Ordering::SeqCst) {
            self.watch();
        }
        let mut more = false;
        let mut crowds = self.crowds.load(Ordering::Relaxed);
        // Behind what nobody waits for there is often the next request of the same caller.
        if awaited && (!short || kind.is_much() || turns.is_multiple_of(LOOK)) {
            more = has_more();
            // To let another thread read again and again costs more than to have all of them read.
            crowds = crowds << 1 | u32::from(more || expected == Expected::Long && !kind.is_flush());
            self.crowds.store(crowds, Ordering::Relaxed);
        }
        if is_crowd(crowds) || kind.is_much() && more {
            *place = Place { reading: true, ..Place::default() };
            self.end_alone();
        } else if !short && kind.is_flush() && !more {
            taken.flushes = true;
            self.flushing.store(true, Ordering::Relaxed);
        } else if !short {
            self.leave(place);
            taken.left = true;
        }
        taken
    }

    /// Whether this thread may defer to others: it is the only one that reads, and somebody is there to watch it.
    pub(super) fn may_defer(&self, place: &Place) -> bool {
        place.only && self.waiting.load(Ordering::Relaxed) > 0 && !self.was_relieved()
    }

    /// Whether the only reader was made an ordinary thread since it asked last.
    fn was_relieved(&self) -> bool {
        self.relieved.load(Ordering::Relaxed) && self.relieved.swap(false, Ordering::Relaxed)
    }

    /// Lets somebody else read in the place of this thread, if it has one.
    pub(super) fn leave(&self, place: &mut Place) {
        if !place.reading {
            return;
        }
        let mut state = lock(&self.state);
        state.reading -= 1;
        if place.only {
            state.only = None;
        }
        *place = Place::default();
        drop(state);
        self.changed.notify_one();
    }

    /// Ends the waiting of all threads.
    pub(super) fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }

    fn settle(&self, state: &mut State, place: &mut Place) {
        let only = state.reading == 1 && self.allowed.load(Ordering::Relaxed) == 1;
        *place = Place { reading: true, only, ..Place::default() };
        state.only = only.then(rustix::thread::gettid);
    }

    /// Counts a request while all threads read, for or against one of them alone.
    fn count(&self, what: i32) {
        if what < 0 {
            // Not written to where it says so already: all threads look at it.
            if self.alone.load(Ordering::Relaxed) > 0 {
                let _ = self.alone.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |alone| {
                    (alone > 0).then_some((alone + what).max(0))
                });
            }
        } else if what > 0 && self.alone.fetch_add(what, Ordering::Relaxed) + what >= ALONE {
            self.crowds.store(0, Ordering::Relaxed);
            self.allowed.store(1, Ordering::Relaxed);
            self.watch();
        }
    }

    /// One thread is not enough.
    fn end_alone(&self) {
        self.alone.fetch_min(0, Ordering::Relaxed);
        self.let_all_read(&mut lock(&self.state));
    }

    fn let_all_read(&self, state: &mut State) {
        self.allowed.store(self.threads, Ordering::Relaxed);
        state.only = None;
        self.changed.notify_all();
    }

    /// Has somebody watch the only reader, where anybody is there to do it.
    fn watch(&self) {
        let mut state = lock(&self.state);
        (state.idle, state.stuck, state.slow) = (0, 0, 0);
        self.watched.store(true, Ordering::Relaxed);
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for something new, as the watch if there is none.
    fn wait<'a>(&self, mut state: MutexGuard<'a, State>, has_more: impl Fn() -> bool) -> MutexGuard<'a, State> {
        if state.watches || !self.watched.load(Ordering::Relaxed) {
            return self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        state.watches = true;
        let (mut state, waited) =
            self.changed.wait_timeout(state, TICK).unwrap_or_else(|poisoned| poisoned.into_inner());
        state.watches = false;
        if waited.timed_out() {
            self.look(&mut state, has_more());
        } else if state.reading < self.allowed.load(Ordering::Relaxed) {
            // It goes and reads: the next request finds another one, if there is any.
            self.watched.store(false, Ordering::SeqCst);
        }
        state
    }

    /// A look of the watch at the only reader; `more`: there are requests that nobody has read.
    fn look(&self, state: &mut State, more: bool) {
        let turns = self.turns.load(Ordering::SeqCst);
        let serves = self.under_way.load(Ordering::Relaxed) > 0;
        let progress = turns != std::mem::replace(&mut state.turns, turns);
        state.stuck = if more && !progress { state.stuck + 1 } else { 0 };
        state.slow = if serves && !progress { state.slow.saturating_add(1) } else { 0 };
        state.idle = if more || progress || serves { 0 } else { state.idle + 1 };
        if state.slow % 4 == 2 && state.stuck < 2 {
            // Who waits for it alone is not to wait for everybody else. Again and again: it may just have begun to defer.
            self.relieve(state);
        }
        // That a flush takes long says nothing against the only reader.
        let flushing = self.flushing.load(Ordering::Relaxed);
        let stuck = state.stuck >= 2 || flushing && state.stuck == 1;
        if !stuck && state.idle < IDLE {
            return;
        }
        self.watched.store(false, Ordering::SeqCst);
        if self.turns.load(Ordering::SeqCst) != turns {
            // It read one just now, and may not have seen that nobody watches.
            return self.watched.store(true, Ordering::SeqCst);
        }
        self.relieve(state);
        if stuck {
            self.alone.store(if flushing { 0 } else { DISTRUST }, Ordering::Relaxed);
            self.let_all_read(state);
        }
    }

    fn relieve(&self, state: &State) {
        if let Some(only) = state.only {
            self.relieved.store(true, Ordering::Relaxed);
            run_like_the_first_thread(Some(only));
        }
    }
}

/// Whether most of the last looks saw that one thread was not enough.
fn is_crowd(crowds: u32) -> bool {
    (crowds & 0xf).count_ones() >= CROWD
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::super::abi::opcode;
    use super::*;
    use crate::sync::{Arc, thread};

    const SOON: Duration = Duration::from_secs(20);
    const LOOKUP: Kind = Kind { opcode: opcode::LOOKUP, caller: 0, bytes: 0 };
    const FSYNC: Kind = Kind { opcode: opcode::FSYNC, caller: 0, bytes: 0 };
    const STREAM: Kind = Kind { opcode: opcode::READ, caller: 0, bytes: 1 << 18 };

    fn nothing() -> bool {
        false
    }

    /// Two threads, both of which read.
    fn two() -> (Readers, [Place; 2]) {
        let readers = Readers::new(2, true);
        let mut places = [Place::default(), Place::default()];
        assert!(places.iter_mut().all(|place| readers.enter(place, nothing)));
        (readers, places)
    }

    /// Threads that read; they go on one after the other until one of them is the only one, as requests come one by one.
    fn readers(threads: usize) -> (Arc<Readers>, Place) {
        let readers = Readers::new(threads, true);
        let mut places: Vec<Place> = (0..threads).map(|_| Place::default()).collect();
        assert!(places.iter_mut().all(|place| readers.enter(place, nothing)), "all may read");
        for turn in 0..ALONE as usize {
            assert!(places.iter_mut().all(|place| readers.stay(place)), "one after the other so far");
            let taken = readers.take(&mut places[turn % threads], &LOOKUP, Expected::Short, nothing);
            assert!(!taken.left);
        }
        let mut only: Vec<Place> = places.into_iter().filter_map(|mut p| readers.stay(&mut p).then_some(p)).collect();
        assert_eq!(only.iter().map(Place::is_only).collect::<Vec<_>>(), [true]);
        (Arc::new(readers), only.remove(0))
    }

    /// A thread that comes to read: what [`Readers::enter`] says, and whether it is the only one then.
    fn comes(readers: &Arc<Readers>, has_more: fn() -> bool) -> Receiver<(bool, bool)> {
        let (sender, said) = channel();
        let readers = Arc::clone(readers);
        thread::spawn(move || {
            let mut place = Place::default();
            let may = readers.enter(&mut place, has_more);
            let _ = sender.send((may, place.is_only()));
        });
        said
    }

    fn until(holds: impl Fn() -> bool) {
        let began = std::time::Instant::now();
        while !holds() {
            assert!(began.elapsed() < SOON, "nobody watches");
            thread::sleep(TICK);
        }
    }

    fn take_one(readers: &Readers, place: &mut Place, kind: &Kind, more: bool) -> bool {
        readers.take(place, kind, Expected::Short, || more).left
    }

    #[test]
    fn one_thread_reads_where_requests_come_one_by_one_and_others_when_several_wait() {
        let (readers, mut only) = readers(3);
        let others = [comes(&readers, nothing), comes(&readers, nothing)];
        for _ in 0..10 * LOOK {
            assert!(!take_one(&readers, &mut only, &LOOKUP, false));
            assert!(readers.stay(&mut only) && only.is_only());
        }
        // A further request now and then is no crowd.
        for turn in 0..8 * LOOK {
            take_one(&readers, &mut only, &LOOKUP, turn % (2 * LOOK) < LOOK);
            assert!(only.is_only());
        }
        assert!(others.iter().all(|other| other.try_recv().is_err()), "they wait");
        for _ in 0..4 * LOOK {
            take_one(&readers, &mut only, &LOOKUP, true);
        }
        assert!(!only.is_only() && readers.stay(&mut only));
        assert_eq!(others.map(|other| other.recv_timeout(SOON)), [Ok((true, false)); 2]);
    }

    #[test]
    fn requests_that_overlap_keep_all_threads_reading() {
        let (readers, mut places) = two();
        let [first, second] = &mut places;
        for _ in 0..10 * ALONE {
            let one = readers.take(first, &LOOKUP, Expected::Short, nothing);
            drop(readers.take(second, &LOOKUP, Expected::Short, nothing));
            drop(one);
            // Neither do those that are not short, nor streams.
            drop(readers.take(first, &LOOKUP, Expected::Long, nothing));
            drop(readers.take(first, &STREAM, Expected::Short, nothing));
        }
        assert!(places.iter_mut().all(|place| readers.stay(place) && !place.is_only()));
    }

    #[test]
    fn one_that_overlaps_now_and_then_does_not_keep_all_threads_reading() {
        for (lone, allowed) in [(2 * OVERLAP, 1), (OVERLAP - 1, 2)] {
            let (readers, mut places) = two();
            let [first, second] = &mut places;
            for _ in 0..2 * ALONE {
                (0..lone).for_each(|_| drop(readers.take(first, &LOOKUP, Expected::Short, nothing)));
                let one = readers.take(first, &LOOKUP, Expected::Unknown, nothing);
                drop(readers.take(second, &LOOKUP, Expected::Short, nothing));
                drop(one);
                if readers.allowed.load(Ordering::Relaxed) == 1 {
                    break;
                }
            }
            assert_eq!(readers.allowed.load(Ordering::Relaxed), allowed, "{lone} of {}", lone + 1);
        }
    }

    #[test]
    fn what_a_caller_asks_next_is_alone_though_who_answered_it_does_not_run_yet() {
        let (readers, mut places) = two();
        let [first, second] = &mut places;
        let mut before = readers.take(first, &LOOKUP, Expected::Short, nothing);
        for _ in 0..ALONE / 2 {
            before.answered(nothing);
            let taken = readers.take(second, &LOOKUP, Expected::Short, nothing);
            drop(before);
            taken.answered(nothing);
            before = readers.take(first, &LOOKUP, Expected::Short, nothing);
        }
        drop(before);
        assert_eq!(readers.allowed.load(Ordering::Relaxed), 1);
        assert_eq!([&readers.unanswered, &readers.under_way].map(|count| count.load(Ordering::Relaxed)), [0, 0]);
    }

    #[test]
    fn what_is_not_known_yet_neither_counts_nor_ends_the_count() {
        let readers = Readers::new(2, true);
        let mut place = Place::default();
        assert!(readers.enter(&mut place, nothing));
        for expected in [Expected::Short, Expected::Unknown, Expected::Long, Expected::Short] {
            drop(readers.take(&mut place, &LOOKUP, expected, nothing));
        }
        assert_eq!(readers.alone.load(Ordering::Relaxed), 1);
        drop(readers.take(&mut place, &LOOKUP, Expected::Unknown, nothing));
        assert_eq!(readers.alone.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn another_one_reads_while_something_is_served_that_is_not_short() {
        let (readers, mut only) = readers(2);
        let other = comes(&readers, nothing);
        let taken = readers.take(&mut only, &LOOKUP, Expected::Long, nothing);
        assert!(taken.left && !only.is_only());
        assert_eq!(other.recv_timeout(SOON), Ok((true, true)));
    }

    #[test]
    fn a_flush_of_a_lone_caller_changes_nothing() {
        let (readers, mut places) = two();
        let [first, second] = &mut places;
        for turn in 0..2 * ALONE {
            let kind = if turn % 2 == 0 { (&LOOKUP, Expected::Short) } else { (&FSYNC, Expected::Long) };
            drop(readers.take(if turn % 3 == 0 { &mut *first } else { &mut *second }, kind.0, kind.1, nothing));
        }
        assert_eq!(readers.allowed.load(Ordering::Relaxed), 1);
        let mut only = places.into_iter().find_map(|mut place| readers.stay(&mut place).then_some(place)).expect("one");
        for _ in 0..10 {
            let taken = readers.take(&mut only, &FSYNC, Expected::Long, nothing);
            taken.answered(nothing);
            assert!(!taken.left);
            drop(taken);
            assert!(readers.stay(&mut only) && only.is_only());
        }
        // Somebody else is there.
        assert!(readers.take(&mut only, &FSYNC, Expected::Long, || true).left);
    }

    #[test]
    fn all_read_where_others_wait_for_a_flush() {
        let (readers, mut only) = readers(2);
        for waits in [false, true, true] {
            assert!(readers.allowed.load(Ordering::Relaxed) == 1);
            let taken = readers.take(&mut only, &FSYNC, Expected::Long, nothing);
            taken.answered(|| waits);
            drop(taken);
            assert!(readers.stay(&mut only));
        }
        assert!(!only.is_only());
        assert_eq!(readers.allowed.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn all_read_where_most_requests_are_not_short() {
        let (readers, mut only) = readers(2);
        for _ in 0..CROWD - 1 {
            let taken = readers.take(&mut only, &LOOKUP, Expected::Long, nothing);
            assert!(taken.left && readers.allowed.load(Ordering::Relaxed) == 1);
            drop(taken);
            assert!(readers.enter(&mut only, nothing) && only.is_only());
        }
        let taken = readers.take(&mut only, &LOOKUP, Expected::Long, nothing);
        assert!(!taken.left && readers.allowed.load(Ordering::Relaxed) == 2);
        drop(taken);
        assert!(readers.stay(&mut only) && !only.is_only());
    }

    #[test]
    fn others_read_when_the_last_one_before_the_change_serves_something_that_is_not_short() {
        let readers = Arc::new(Readers::new(2, true));
        let (mut first, mut last) = (Place::default(), Place::default());
        assert!(readers.enter(&mut first, nothing) && readers.enter(&mut last, nothing));
        for _ in 0..ALONE {
            take_one(&readers, &mut first, &LOOKUP, false);
        }
        // It waited for a request all the time, and has not learned that it is the only one now.
        assert!(!readers.stay(&mut first));
        let other = comes(&readers, nothing);
        let taken = readers.take(&mut last, &LOOKUP, Expected::Long, nothing);
        assert_eq!(other.recv_timeout(SOON), Ok((true, true)));
        assert!(taken.left);
    }

    #[test]
    fn others_read_when_the_last_one_before_the_change_is_stuck() {
        let readers = Arc::new(Readers::new(2, true));
        let (mut first, mut last) = (Place::default(), Place::default());
        assert!(readers.enter(&mut first, nothing) && readers.enter(&mut last, nothing));
        for _ in 0..ALONE - 1 {
            take_one(&readers, &mut first, &LOOKUP, false);
        }
        // It begins while all may read, and another thread finds that one is enough.
        let change = readers.take(&mut first, &LOOKUP, Expected::Short, nothing);
        drop(change);
        let _serving = readers.take(&mut last, &LOOKUP, Expected::Short, nothing);
        assert!(!readers.stay(&mut first));
        assert_eq!(comes(&readers, || true).recv_timeout(SOON), Ok((true, false)));
    }

    #[test]
    fn who_is_slow_is_made_an_ordinary_thread_and_stays_the_only_one() {
        let (readers, mut only) = readers(2);
        let other = comes(&readers, nothing);
        let taken = readers.take(&mut only, &LOOKUP, Expected::Short, nothing);
        until(|| readers.was_relieved());
        assert!(other.try_recv().is_err() && readers.watched.load(Ordering::SeqCst));
        drop(taken);
        assert!(readers.stay(&mut only) && only.is_only());
    }

    #[test]
    fn nobody_defers_whom_nobody_watches() {
        let (readers, mut only) = readers(2);
        assert!(!readers.may_defer(&only));
        let other = comes(&readers, nothing);
        until(|| readers.may_defer(&only));
        readers.leave(&mut only);
        assert_eq!(other.recv_timeout(SOON), Ok((true, true)));
        assert!(!readers.may_defer(&only));
        // Once only.
        readers.leave(&mut only);
        assert_eq!(lock(&readers.state).reading, 1);
    }

    #[test]
    fn turns_are_counted_without_end() {
        let (readers, mut only) = readers(2);
        readers.turns.store(u32::MAX, Ordering::SeqCst);
        take_one(&readers, &mut only, &LOOKUP, false);
        assert!(readers.stay(&mut only) && only.is_only());
    }

    #[test]
    fn all_read_a_stream_of_which_more_is_there() {
        let (readers, mut only) = readers(2);
        let other = comes(&readers, nothing);
        assert!(!take_one(&readers, &mut only, &STREAM, false) && only.is_only());
        assert!(!take_one(&readers, &mut only, &STREAM, true) && !only.is_only());
        assert_eq!(other.recv_timeout(SOON), Ok((true, false)));
    }

    #[test]
    fn what_nobody_waits_for_is_no_crowd_and_keeps_nobody_from_being_alone() {
        for opcode in [opcode::FORGET, opcode::RELEASE] {
            let unawaited = Kind { opcode, ..LOOKUP };
            let (readers, mut places) = two();
            let [first, second] = &mut places;
            for _ in 0..ALONE {
                let closed = readers.take(first, &unawaited, Expected::Short, nothing);
                // Who closed something asks for something else at once.
                drop(readers.take(second, &LOOKUP, Expected::Short, nothing));
                drop(closed);
            }
            assert_eq!(readers.allowed.load(Ordering::Relaxed), 1);
            let mut places = places.into_iter();
            let mut only = places.find_map(|mut place| readers.stay(&mut place).then_some(place)).expect("one");
            for _ in 0..10 * LOOK {
                take_one(&readers, &mut only, &unawaited, true);
            }
            assert!(only.is_only());
        }
    }

    #[test]
    fn the_watch_lets_all_read_when_the_only_reader_is_stuck() {
        let (readers, mut only) = readers(2);
        let other = comes(&readers, || true);
        // It serves this one for ever.
        let taken = readers.take(&mut only, &LOOKUP, Expected::Short, nothing);
        assert_eq!(other.recv_timeout(SOON), Ok((true, false)));
        assert!(readers.was_relieved() && !readers.was_relieved());
        drop(taken);
        assert!(readers.stay(&mut only) && !only.is_only());
        // Which is not tried again soon.
        for _ in 0..10 * ALONE {
            take_one(&readers, &mut only, &LOOKUP, false);
        }
        assert!(readers.stay(&mut only) && !only.is_only());
    }

    #[test]
    fn the_watch_lets_all_read_behind_a_flush_that_takes_long_and_one_is_tried_again_soon() {
        let (readers, mut only) = readers(2);
        let other = comes(&readers, || true);
        let taken = readers.take(&mut only, &FSYNC, Expected::Long, nothing);
        assert_eq!(other.recv_timeout(SOON), Ok((true, false)));
        drop(taken);
        assert!(readers.stay(&mut only) && !only.is_only());
        for _ in 0..ALONE {
            take_one(&readers, &mut only, &LOOKUP, false);
        }
        assert_eq!(readers.allowed.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_watch_ends_when_there_are_no_requests_and_begins_again_with_them() {
        let (readers, mut only) = readers(2);
        let other = comes(&readers, nothing);
        for _ in 0..2 {
            take_one(&readers, &mut only, &LOOKUP, false);
            until(|| readers.was_relieved());
            assert!(!readers.watched.load(Ordering::SeqCst));
            assert!(readers.stay(&mut only) && only.is_only(), "it goes on reading");
        }
        assert!(other.try_recv().is_err());
        readers.end();
        assert_eq!(other.recv_timeout(SOON), Ok((false, false)));
    }

    #[test]
    fn all_read_where_no_thread_can_follow_its_callers() {
        let readers = Readers::new(2, false);
        let mut place = Place::default();
        assert!(!readers.adapt() && readers.enter(&mut place, nothing));
        for _ in 0..10 * ALONE {
            take_one(&readers, &mut place, &LOOKUP, false);
        }
        assert!(readers.stay(&mut place) && !place.is_only());
    }
}
