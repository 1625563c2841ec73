//! Threads for work that others are not to wait for.

use std::collections::VecDeque;
use std::io;

use crate::sync::{Arc, Condvar, Mutex, lock, thread};
use crate::sys::process::run_like_the_first_thread;
use crate::sys::threads;

/// Threads that work through a queue of tasks. They are started as they are needed, and stay.
pub(super) struct Pool<T> {
    shared: Arc<Shared<T>>,
    most: usize,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    more: Condvar,
    work: Box<Work<T>>,
}

type Work<T> = dyn Fn(T, &mut Scratch) + Send + Sync;

struct State<T> {
    tasks: VecDeque<T>,
    /// Threads that wait for a task.
    idle: usize,
    threads: Vec<thread::JoinHandle<()>>,
    ended: bool,
}

/// Memory that a thread uses again for each task.
#[derive(Default)]
pub(super) struct Scratch {
    /// For listings.
    pub(super) names: Vec<u8>,
    /// For what a request brought, or an answer that must wait.
    pub(super) copied: Vec<u8>,
}

impl<T: Send + 'static> Pool<T> {
    /// A pool of at most so many threads, which does `work` with each task.
    pub(super) fn new(most: usize, work: impl Fn(T, &mut Scratch) + Send + Sync + 'static) -> Self {
        let state = State { tasks: VecDeque::new(), idle: 0, threads: Vec::new(), ended: false };
        let shared = Shared { state: Mutex::new(state), more: Condvar::new(), work: Box::new(work) };
        Self { shared: Arc::new(shared), most }
    }

    /// Gives a task to the pool.
    ///
    /// # Errors
    /// The task, when there is no thread and none can be started.
    pub(super) fn give(&self, task: T) -> Result<(), T> {
        let mut state = lock(&self.shared.state);
        state.tasks.push_back(task);
        if state.idle >= state.tasks.len() {
            drop(state);
            self.shared.more.notify_one();
            return Ok(());
        }
        if state.threads.len() < self.most {
            match self.start(state.threads.len()) {
                Ok(thread) => state.threads.push(thread),
                Err(error) if state.threads.is_empty() => {
                    tracing::error!("no thread for requests: {error}");
                    return state.tasks.pop_back().map_or(Ok(()), Err);
                }
                Err(error) => tracing::debug!("no further thread for requests: {error}"),
            }
        }
        Ok(())
    }

    fn start(&self, number: usize) -> io::Result<thread::JoinHandle<()>> {
        let shared = Arc::clone(&self.shared);
        threads::spawn(&format!("kmsfs-work-{number}"), move || {
            run_like_the_first_thread(None);
            shared.run();
        })
    }

    /// Ends the threads when they have done what there is.
    pub(super) fn join(self) {
        let threads = {
            let mut state = lock(&self.shared.state);
            state.ended = true;
            std::mem::take(&mut state.threads)
        };
        self.shared.more.notify_all();
        for thread in threads {
            // A panic there was reported by its own thread.
            let _ = thread.join();
        }
    }
}

impl<T> Shared<T> {
    fn run(&self) {
        let mut scratch = Scratch::default();
        let mut state = lock(&self.state);
        loop {
            if let Some(task) = state.tasks.pop_front() {
                drop(state);
                (self.work)(task, &mut scratch);
                state = lock(&self.state);
            } else if state.ended {
                return;
            } else {
                state.idle += 1;
                state = self.more.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
                state.idle -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use super::*;
    use crate::sys::process::{is_in_idle_class, run_in_idle_class};

    #[test]
    fn threads_do_not_run_like_the_one_that_gave_the_first_task() {
        let everywhere = sched_getaffinity(None).expect("a set");
        let (sender, done) = channel();
        let pool = Pool::new(1, move |(), _: &mut Scratch| {
            sender.send((sched_getaffinity(None).expect("a set"), is_in_idle_class(None))).expect("awaited");
        });
        thread::spawn(move || {
            let mut one = CpuSet::new();
            one.set((0..CpuSet::MAX_CPU).find(|&cpu| everywhere.is_set(cpu)).expect("a CPU"));
            sched_setaffinity(None, &one).expect("bound");
            run_in_idle_class(None, true).expect("allowed to everybody");
            pool.give(()).expect("a thread");
            pool.join();
        })
        .join()
        .expect("it ends");
        // Who may not leave the class stays in it.
        let may_leave = super::super::deference::is_possible();
        assert_eq!(done.recv().expect("a set"), (everywhere, !may_leave));
    }

    #[test]
    fn tasks_are_done_side_by_side_and_all_of_them_before_the_end() {
        const MOST: usize = 3;
        let (sender, done) = channel();
        let (word, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let pool = Pool::new(MOST, move |task: usize, _: &mut Scratch| {
            if task < MOST - 1 {
                let _ = lock(&wait).recv();
            }
            sender.send(task).expect("awaited");
        });
        for task in 0..20 {
            pool.give(task).expect("a thread");
        }
        // Two wait; the third thread does the others.
        let others: Vec<_> = (0..20 - (MOST - 1)).map(|_| done.recv_timeout(Duration::from_secs(20))).collect();
        assert_eq!(others, (MOST - 1..20).map(Ok).collect::<Vec<_>>());
        drop(word);
        pool.join();
        let mut rest: Vec<_> = done.iter().collect();
        rest.sort_unstable();
        assert_eq!(rest, [0, 1]);
    }
}
