//! Random bytes drawn ahead: a system call for each nonce and each data key costs more than what is done with them.

use zeroize::{Zeroize, Zeroizing};

use crate::env::Entropy;
use crate::sync::{Arc, Mutex, lock};
use crate::sys::arena::{SLOT_LEN, Slot};

/// Slots that are filled at once.
const SLOTS: usize = 32;
/// Bytes of a slot that are given out. Behind them stands a mark: in a process that forked off, a slot is gone or zero.
const USABLE: usize = SLOT_LEN - 1;
const MARK: u8 = 0xa5;

/// A source of random bytes with some of them in stock, in locked, undumpable memory. Nothing is given out twice: what
/// is given out is wiped from the stock.
pub struct EntropyPool {
    source: Arc<dyn Entropy>,
    stock: Mutex<Stock>,
}

#[derive(Default)]
struct Stock {
    /// The last is the one in use.
    slots: Vec<Slot>,
    /// Bytes of it that are given out.
    used: usize,
}

impl EntropyPool {
    /// A pool that is filled from `source`.
    pub fn new(source: Arc<dyn Entropy>) -> Self {
        Self { source, stock: Mutex::default() }
    }
}

impl Entropy for EntropyPool {
    fn fill(&self, out: &mut [u8]) {
        if out.len() > USABLE {
            return self.source.fill(out);
        }
        let mut stock = lock(&self.stock);
        if stock.used + out.len() > USABLE {
            stock.slots.pop();
            stock.used = 0;
        }
        if stock.slots.last().is_none_or(|slot| slot.bytes()[USABLE] != MARK) {
            stock.fill(&*self.source);
        }
        let from = stock.used;
        stock.used += out.len();
        let slot = stock.slots.last_mut().expect("filled a line above");
        let bytes = &mut slot.bytes_mut()[from..from + out.len()];
        out.copy_from_slice(bytes);
        bytes.zeroize();
    }
}

impl Stock {
    fn fill(&mut self, source: &dyn Entropy) {
        let mut fresh = Zeroizing::new([0; SLOTS * USABLE]);
        source.fill(&mut *fresh);
        self.used = 0;
        self.slots.clear();
        self.slots.extend(fresh.chunks_exact(USABLE).map(|bytes| {
            let mut slot = Slot::new();
            slot.bytes_mut()[..USABLE].copy_from_slice(bytes);
            slot.bytes_mut()[USABLE] = MARK;
            slot
        }));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::env::{SystemEntropy, random};

    #[test]
    fn nothing_is_given_out_twice_and_what_is_given_out_is_gone() {
        let pool = EntropyPool::new(Arc::new(SystemEntropy));
        let mut seen = HashSet::new();
        for n in 0..2000 {
            let len = [16, 12, 28, 32, 63, 64, 200][n % 7];
            let mut out = vec![0; len];
            pool.fill(&mut out);
            assert!(seen.insert(out[..12].to_vec()) && seen.insert(out[len - 12..].to_vec()) || len == 12, "draw {n}");
        }
        random::<16>(&pool);
        let stock = lock(&pool.stock);
        let slot = stock.slots.last().expect("in use");
        assert!(slot.bytes()[..stock.used].iter().all(|byte| *byte == 0), "wiped");
        assert!(slot.bytes()[stock.used..USABLE].iter().any(|byte| *byte != 0), "in stock");
    }

    #[test]
    fn a_stock_that_a_fork_has_wiped_is_not_used() {
        let pool = EntropyPool::new(Arc::new(SystemEntropy));
        random::<16>(&pool);
        lock(&pool.stock).slots.iter_mut().for_each(|slot| slot.bytes_mut().fill(0));
        assert_ne!(random::<32>(&pool), [0; 32]);
    }
}
