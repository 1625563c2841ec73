#!/usr/bin/env python3
"""The cases of alone.sh. What is asked is statvfs(3): each is one request, which the kernel answers from nothing it has cached."""
import multiprocessing
import os
import sys
import time

CPUS = sorted(os.sched_getaffinity(0))
# Nobody waits for an answer longer than this, whoever else wants the CPUs.
PATIENCE = 0.4


def threads(pid):
    """What the threads that serve /dev/fuse have run, in nanoseconds."""
    ran = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/comm") as comm, open(f"/proc/{pid}/task/{tid}/schedstat") as stat:
            if comm.read().startswith("kmsfs-fuse"):
                ran[int(tid)] = int(stat.read().split()[0])
    return ran


def ask(mnt, count):
    """Asks so often; how long the longest answer took, in seconds."""
    longest = 0
    for _ in range(count):
        began = time.monotonic()
        os.statvfs(mnt)
        longest = max(longest, time.monotonic() - began)
    return longest


def shares(mnt, pid, count):
    """Asks so often; the parts that threads had in serving it, the largest first."""
    before = threads(pid)
    ask(mnt, count)
    ran = sorted((now - before[tid] for tid, now in threads(pid).items()), reverse=True)
    return [each / max(1, sum(ran)) for each in ran]


def eventually(what, holds, seconds=20):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what()
        time.sleep(0.01)


def is_spare():
    """Whether the machine has time for two that take turns: most of the looks found nobody else running."""
    quiet = 0
    for _ in range(40):
        with open("/proc/loadavg") as load:
            quiet += int(load.read().split()[3].split("/")[0]) <= 1
        time.sleep(0.05)
    return len(CPUS) > 1 and quiet > 30


def may_come_back():
    """Whether a thread here may leave the idle class again, without which none follows its callers."""
    def attempt():
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        except PermissionError:
            sys.exit(1)
    child = multiprocessing.Process(target=attempt)
    child.start()
    child.join()
    return child.exitcode == 0


def one(mnt, pid):
    """one caller is served by one thread"""
    seen = []
    eventually(lambda: f"no thread had most of it: {seen[-1]}", lambda: seen.append(shares(mnt, pid, 5000)) or seen[-1][0] > 0.9)


def serving_cpu(mnt, pid):
    """The CPUs where the thread may run that serves most, and whether it lets others first."""
    before = threads(pid)
    ask(mnt, 1000)
    tid = max((now - before[tid], tid) for tid, now in threads(pid).items())[1]
    with open(f"/proc/{pid}/task/{tid}/status") as status:
        allowed = next(line.split()[1] for line in status if line.startswith("Cpus_allowed_list:"))
    return allowed, os.sched_getscheduler(tid) == os.SCHED_IDLE


def follows(mnt, pid):
    """it serves where its caller is, and lets it go first"""
    for cpu in (CPUS[0], CPUS[-1], CPUS[0]):
        os.sched_setaffinity(0, [cpu])
        eventually(lambda: f"the thread did not come to CPU {cpu}", lambda: serving_cpu(mnt, pid) == (str(cpu), True))
    os.sched_setaffinity(0, CPUS)


def idle(mnt, pid):
    """without requests it is a thread like any other"""
    ask(mnt, 2000)
    ordinary = lambda: all(os.sched_getscheduler(tid) == os.SCHED_OTHER for tid in threads(pid))
    eventually(lambda: "a thread stays in the idle class", ordinary, 5)


def spin(end):
    while time.monotonic() < end.value:
        pass


def busy(mnt, pid):
    """nobody waits for long when others take the CPUs"""
    longest = 0
    for _ in range(5):
        ask(mnt, 5000)
        end = multiprocessing.Value("d", time.monotonic() + 1.5, lock=False)
        hogs = [multiprocessing.Process(target=spin, args=(end,)) for _ in range(2 * len(CPUS))]
        for hog in hogs:
            hog.start()
        while any(hog.is_alive() for hog in hogs):
            longest = max(longest, ask(mnt, 100))
        for hog in hogs:
            hog.join()
    print(f"the longest answer took {longest * 1000:.0f} ms")
    assert longest < PATIENCE, f"an answer took {longest:.3f} s"


def many(mnt, pid):
    """several callers are served by several threads"""
    def files(number):
        for i in range(3000):
            fd = os.open(f"{mnt}/f{number}.{i % 50}", os.O_RDWR | os.O_CREAT)
            os.write(fd, b"x" * 5000)
            os.fsync(fd)
            os.close(fd)
    def served():
        before = threads(pid)
        callers = [multiprocessing.Process(target=files, args=(number,)) for number in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        ran = sorted((now - before[tid] for tid, now in threads(pid).items()), reverse=True)
        return ran[1] > sum(ran) / 10
    eventually(lambda: "one thread served them all", served, 60)


CASES = {case.__name__: case for case in (one, follows, idle, busy, many)}
if __name__ == "__main__":
    if sys.argv[1] == "name":
        print(CASES[sys.argv[2]].__doc__)
    elif sys.argv[1] in ("spare", "possible"):
        sys.exit(0 if (is_spare() if sys.argv[1] == "spare" else may_come_back()) else 1)
    else:
        CASES[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
