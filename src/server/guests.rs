//! Connections on which nobody has signed a request yet. They are those of strangers as well as of callers who have just
//! connected, and must not take the places of those who have signed: when places run out, the oldest of them go first.

use std::collections::BTreeMap;

use tokio::sync::Notify;

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, lock};

/// The connections in question, the oldest first.
#[derive(Clone, Default)]
pub struct Guests(Arc<Mutex<List>>);

#[derive(Default)]
struct List {
    next: u64,
    waiting: BTreeMap<u64, Arc<Notify>>,
}

/// One of them, until it is known or ends.
pub struct Guest {
    number: u64,
    dismissed: Arc<Notify>,
    is_known: AtomicBool,
    list: Guests,
}

impl Guests {
    /// A connection that begins.
    pub fn enter(&self) -> Guest {
        let mut list = lock(&self.0);
        let (number, dismissed) = (list.next, Arc::new(Notify::new()));
        list.next += 1;
        list.waiting.insert(number, Arc::clone(&dismissed));
        Guest { number, dismissed, is_known: AtomicBool::new(false), list: self.clone() }
    }

    /// Ends the oldest, if there is one.
    pub fn dismiss_oldest(&self) {
        if let Some((_, dismissed)) = lock(&self.0).waiting.pop_first() {
            dismissed.notify_one();
        }
    }
}

impl Guest {
    /// The owner of an access key has signed a request: it stays.
    pub fn stay(&self) {
        // Each request says so; only the first takes the lock.
        if !self.is_known.swap(true, Ordering::Relaxed) {
            lock(&self.list.0).waiting.remove(&self.number);
        }
    }

    /// Waits until it has to go.
    pub async fn dismissed(&self) {
        self.dismissed.notified().await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stay();
    }
}
