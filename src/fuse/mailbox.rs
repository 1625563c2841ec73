//! What other threads send to one that waits for the kernel.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, eventfd};

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, lock};

/// Letters for one thread, which empties it before it waits, and waits for [`Self::alarm`] among other things.
pub(super) struct Mailbox<T> {
    letters: Mutex<Vec<T>>,
    /// Its owner waits, or is about to: who posts a letter wakes it.
    owner_waits: AtomicBool,
    alarm: Arc<OwnedFd>,
}

impl<T> Mailbox<T> {
    /// An empty one.
    ///
    /// # Errors
    /// The system's: too many descriptors.
    pub(super) fn new() -> io::Result<Self> {
        let alarm = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok(Self { letters: Mutex::default(), owner_waits: AtomicBool::new(false), alarm })
    }

    /// Readable when there are letters for an owner that waits.
    pub(super) fn alarm(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.alarm)
    }

    /// Posts a letter, and wakes the owner if it waits.
    pub(super) fn post(&self, letter: T) {
        let mut letters = lock(&self.letters);
        letters.push(letter);
        if self.owner_waits.swap(false, Ordering::AcqRel)
            && let Err(error) = rustix::io::write(&*self.alarm, &1_u64.to_ne_bytes())
        {
            tracing::error!("a thread that serves requests could not be woken: {error}");
        }
    }

    /// Moves all letters to `into`. If there are none, the owner is about to wait.
    pub(super) fn collect(&self, into: &mut Vec<T>) {
        let mut letters = lock(&self.letters);
        into.append(&mut letters);
        self.owner_waits.store(into.is_empty(), Ordering::Release);
    }

    /// The owner has waited.
    pub(super) fn woken(&self) {
        // Whoever took the flag away has set the alarm, or is about to, under the lock.
        if !self.owner_waits.swap(false, Ordering::AcqRel) {
            let _letters = lock(&self.letters);
            let _ = rustix::io::read(&*self.alarm, &mut [0; 8]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;
    use crate::sync::thread;

    fn rings(mailbox: &Mailbox<u32>, wait: Duration) -> bool {
        let wait = rustix::time::Timespec::try_from(wait).expect("a time");
        poll(&mut [PollFd::new(&*mailbox.alarm, PollFlags::IN)], Some(&wait)).expect("a poll") == 1
    }

    #[test]
    fn the_alarm_rings_for_an_owner_that_waits_alone() {
        let mailbox = Mailbox::new().expect("a descriptor");
        let mut letters = Vec::new();
        mailbox.post(1);
        assert!(!rings(&mailbox, Duration::ZERO));
        mailbox.collect(&mut letters);
        mailbox.post(2);
        assert!(!rings(&mailbox, Duration::ZERO), "there were letters: it does not wait");
        mailbox.collect(&mut letters);
        letters.clear();
        mailbox.collect(&mut letters);
        mailbox.post(3);
        mailbox.post(4);
        assert!(rings(&mailbox, Duration::ZERO));
        mailbox.woken();
        assert!(!rings(&mailbox, Duration::ZERO), "it was heard");
        mailbox.collect(&mut letters);
        assert_eq!(letters, [3, 4]);
    }

    #[test]
    fn no_letter_is_left_behind() {
        const LETTERS: u32 = 20_000;
        let mailbox = Arc::new(Mailbox::new().expect("a descriptor"));
        let posting = Arc::clone(&mailbox);
        let sender = thread::spawn(move || (0..LETTERS).for_each(|letter| posting.post(letter)));
        let (mut all, mut some) = (Vec::new(), Vec::new());
        while all.len() < LETTERS as usize {
            mailbox.collect(&mut some);
            if some.is_empty() {
                assert!(rings(&mailbox, Duration::from_secs(20)), "nobody wakes the owner");
                mailbox.woken();
            }
            all.append(&mut some);
        }
        sender.join().expect("it ends");
        assert!(all.into_iter().eq(0..LETTERS));
    }
}
