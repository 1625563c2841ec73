//! Signals and descriptors of this process.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Resource, Rlimit, getpid, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// What [`raise_file_size_limit`] left.
static FILE_SIZE_LIMIT: AtomicU64 = AtomicU64::new(u64::MAX);

/// Raises the size of files that this process may write to what the system allows, and makes a write beyond it an error
/// (`EFBIG`), by which the process would be killed otherwise (SIGXFSZ, setrlimit(2)).
///
/// # Errors
/// Why the limit stays.
pub fn raise_file_size_limit() -> io::Result<()> {
    // SAFETY: to ignore a signal runs no code of this process.
    if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    let raised = raise(Resource::Fsize);
    FILE_SIZE_LIMIT.store(getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX), Ordering::Relaxed);
    raised
}

/// How often the calling thread had to wait for something, such as the disk (getrusage(2), voluntary context switches).
pub fn waits_of_this_thread() -> i64 {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the structure is written whole when the call succeeds, which it always does for this thread.
    match unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) } {
        // SAFETY: as above.
        0 => unsafe { usage.assume_init() }.ru_nvcsw,
        _ => 0,
    }
}

/// Puts a thread of this process, or the calling one, into the scheduling class of what runs when nothing else wants to
/// (`SCHED_IDLE`, sched(7)), or back into the ordinary one. Threads that it starts begin as it is at that moment.
///
/// # Errors
/// `EPERM`: it may not come back.
pub fn run_in_idle_class(thread: Option<Pid>, idle: bool) -> io::Result<()> {
    let policy = if idle { libc::SCHED_IDLE } else { libc::SCHED_OTHER };
    // SAFETY: a structure of plain numbers, of which all may be 0.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is the calling thread, and the structure lives as long as the call.
    if unsafe { libc::sched_setscheduler(Pid::as_raw(thread), policy, &raw const parameters) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets a thread of this process, or the calling one, run where the first thread may, and not in the idle class: a thread begins as the
/// one that started it is. Where that is not allowed it stays as it is.
pub fn run_like_the_first_thread(thread: Option<Pid>) {
    if is_in_idle_class(thread)
        && let Err(error) = run_in_idle_class(thread, false)
    {
        tracing::debug!("the scheduling class of a thread stays: {error}");
    }
    if let Err(error) = sched_getaffinity(Some(getpid())).and_then(|cpus| sched_setaffinity(thread, &cpus)) {
        tracing::debug!("the CPUs of a thread stay: {error}");
    }
}

/// Lets the calling thread run on one CPU only.
///
/// # Errors
/// `EINVAL`: it is not there, or not for this process.
pub fn run_on(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    Ok(sched_setaffinity(None, &cpus)?)
}

thread_local! {
    static MADE_ORDINARY: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`, which may take long, and during which the calling thread, and every thread that it starts, runs like the first one. It
/// is not in the idle class afterwards, which [`was_made_ordinary`] says; where it runs is as before.
pub fn ordinarily<T>(work: impl FnOnce() -> T) -> T {
    let _back = Bound(sched_getaffinity(None));
    MADE_ORDINARY.set(MADE_ORDINARY.get() || is_in_idle_class(None));
    run_like_the_first_thread(None);
    work()
}

/// Whether [`ordinarily`] has taken the calling thread out of the idle class since it asked last.
pub fn was_made_ordinary() -> bool {
    MADE_ORDINARY.replace(false)
}

/// Where the calling thread runs, and runs again when this is dropped.
struct Bound(rustix::io::Result<CpuSet>);

impl Drop for Bound {
    fn drop(&mut self) {
        if let Err(error) = self.0.and_then(|cpus| sched_setaffinity(None, &cpus)) {
            tracing::debug!("a thread runs elsewhere than before: {error}");
        }
    }
}

/// Whether the calling thread is in the class that threads are in if nobody has put them into another.
pub fn is_in_ordinary_class() -> bool {
    // SAFETY: a number in, a number out.
    unsafe { libc::sched_getscheduler(0) == libc::SCHED_OTHER }
}

/// Whether a thread of this process, or the calling one, is in the class of [`run_in_idle_class`].
pub fn is_in_idle_class(thread: Option<Pid>) -> bool {
    // SAFETY: a number in, a number out.
    unsafe { libc::sched_getscheduler(Pid::as_raw(thread)) == libc::SCHED_IDLE }
}

/// Bytes beyond which this process may write to no file.
pub fn file_size_limit() -> u64 {
    FILE_SIZE_LIMIT.load(Ordering::Relaxed)
}

/// Raises a limit to what the system allows.
///
/// # Errors
/// Why it stays.
pub fn raise(resource: Resource) -> io::Result<()> {
    let limit = getrlimit(resource);
    Ok(setrlimit(resource, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}

/// Makes the table of descriptors large enough for `descriptors` of them, or as many as this process may have; until then the
/// kernel doubles it whenever it is full. Call it before other threads exist: with them each doubling waits for a grace period of
/// RCU (`expand_fdtable` in the kernel's fs/file.c), which takes 5 to 20 ms, and who needs the descriptor waits as long.
///
/// # Errors
/// No memory, or no descriptor left.
pub fn make_room_for_descriptors(descriptors: RawFd) -> io::Result<()> {
    let most = getrlimit(Resource::Nofile).current.and_then(|most| RawFd::try_from(most).ok()).unwrap_or(RawFd::MAX);
    // Its number makes the table grow; nothing else is wanted of it.
    drop(rustix::io::fcntl_dupfd_cloexec(io::stdin(), descriptors.min(most) - 1)?);
    Ok(())
}

/// A set of signals that a thread of its own waits for.
#[derive(Clone, Copy)]
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// Blocks `signals` in this thread and in every thread it starts afterwards, so that only [`Self::wait`] gets
    /// them. Call it before other threads exist.
    pub fn block(signals: &[i32]) -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set; the other calls read and change an initialised one.
        let (set, error) = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for &signal in signals {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            let set = set.assume_init();
            (set, libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))
        };
        if error == 0 { Ok(Self(set)) } else { Err(io::Error::from_raw_os_error(error)) }
    }

    /// As [`Self::wait`], for `timeout` at most.
    pub fn wait_for(&self, timeout: Duration) -> Option<i32> {
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: the set and the time are initialised; no siginfo is asked for.
        let signal = unsafe { libc::sigtimedwait(&raw const self.0, std::ptr::null_mut(), &raw const timeout) };
        (signal > 0).then_some(signal)
    }

    /// Waits for one of the signals and returns its number.
    pub fn wait(&self) -> i32 {
        let mut signal = 0;
        loop {
            // SAFETY: the set is initialised, `signal` is written by the call.
            if unsafe { libc::sigwait(&raw const self.0, &raw mut signal) } == 0 {
                return signal;
            }
        }
    }
}

/// The signals that this thread blocks, which are so again when this is dropped.
pub struct SignalMask(libc::sigset_t);

impl SignalMask {
    /// As it is now.
    pub fn of_this_thread() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: without a set to be added the mask is only written to where it is asked for.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), set.as_mut_ptr()) };
        // SAFETY: the call filled it, or failed.
        if error == 0 { Ok(Self(unsafe { set.assume_init() })) } else { Err(io::Error::from_raw_os_error(error)) }
    }
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        // SAFETY: the set is initialised.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

/// Ends the process as `signal` does where nobody waits for it.
pub fn end_by(signal: i32) -> ! {
    // SAFETY: plain calls; the set is initialised by the first that gets it.
    unsafe {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        libc::signal(signal, libc::SIG_DFL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut());
        libc::raise(signal);
    }
    std::process::exit(128 + signal)
}

/// Takes over a descriptor that the parent process left open for this one, and marks it close-on-exec.
/// An error if it is not open.
pub fn inherited_fd(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only queries.
    if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the descriptor is open; by the contract of the option that named it nothing else in this process owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_descriptors_grows_at_once() {
        let slots = || {
            let status = std::fs::read_to_string("/proc/self/status").expect("a status");
            let slots = status.lines().find_map(|line| line.strip_prefix("FDSize:")).expect("a size");
            slots.trim().parse::<RawFd>().expect("a number")
        };
        let wanted = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).min(700) as RawFd;
        make_room_for_descriptors(wanted).expect("room");
        assert!(slots() >= wanted);
    }

    #[test]
    fn a_closed_descriptor_is_refused() {
        assert_eq!(inherited_fd(-1).expect_err("not open").raw_os_error(), Some(libc::EBADF));
        assert_eq!(inherited_fd(1_000_000).expect_err("not open").raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn what_is_done_ordinarily_is_done_like_the_first_thread_does_it() {
        let everywhere = sched_getaffinity(Some(getpid())).expect("a set");
        let mut one = CpuSet::new();
        one.set((0..CpuSet::MAX_CPU).find(|&cpu| everywhere.is_set(cpu)).expect("a CPU"));
        let scheduled = || (sched_getaffinity(None).expect("a set"), is_in_idle_class(None));
        std::thread::spawn(move || {
            sched_setaffinity(None, &one).expect("bound");
            run_in_idle_class(None, true).expect("allowed to everybody");
            let (here, started) = ordinarily(|| (scheduled(), std::thread::spawn(scheduled).join().expect("ends")));
            // Who may not leave the class stays in it.
            let stays = here.1;
            assert_eq!((here, started), ((everywhere, stays), (everywhere, stays)));
            assert_eq!(scheduled(), (one, stays));
            assert!(was_made_ordinary() && !was_made_ordinary());
        })
        .join()
        .expect("it ends");
    }

    #[test]
    fn a_blocked_signal_is_waited_for() {
        let set = SignalSet::block(&[libc::SIGUSR2]).expect("block");
        let pid = rustix::process::getpid();
        let tid = rustix::thread::gettid();
        // SAFETY: a signal to this very thread, which blocks it.
        unsafe {
            libc::syscall(libc::SYS_tgkill, pid.as_raw_nonzero().get(), tid.as_raw_nonzero().get(), libc::SIGUSR2)
        };
        assert_eq!(set.wait(), libc::SIGUSR2);
        assert_eq!(set.wait_for(Duration::from_millis(1)), None);
    }
}
