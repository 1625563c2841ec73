#!/usr/bin/env python3
"""How long one small request takes, by where the caller and the daemon run (docs/PERFORMANCE.md, "Now").

latency.py KMSFS DIR [ROUNDS]: works in DIR (best a tmpfs) and prints a table: microseconds of a getxattr(2) that the kernel asks the daemon for each
time (GETXATTR, which takes the daemon 5 to 10), one after the other, medians of ROUNDS (5) rounds of 5,000. For each transport: where the scheduler puts both; the caller bound to one CPU;
the caller bound to one CPU and the daemon to another; both bound to one.
"""
import os, pathlib, shutil, statistics, subprocess, sys, tempfile, time

if len(sys.argv) < 3:
    sys.exit(__doc__)
KMSFS, ROUNDS = os.path.abspath(sys.argv[1]), int(sys.argv[3]) if len(sys.argv) > 3 else 5
WORK = pathlib.Path(tempfile.mkdtemp(prefix="kmsfs-latency.", dir=sys.argv[2]))
ENV = dict(os.environ, KMSFS_HOME=str(WORK / "kms"))
CPUS = sorted(os.sched_getaffinity(0))
REQUESTS = 5000


def kmsfs(*args):
    subprocess.run([KMSFS, *map(str, args)], env=ENV, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def once(path):
    began = time.perf_counter()
    for _ in range(REQUESTS):
        try:
            os.getxattr(path, "user.none")
        except OSError:
            pass
    return (time.perf_counter() - began) / REQUESTS * 1e6


def measured(path, caller, daemon, pid):
    os.sched_setaffinity(0, caller)
    if daemon:
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), daemon)
    return f"{statistics.median(once(path) for _ in range(ROUNDS)):.1f}"


cipher, mnt = WORK / "cipher", WORK / "mnt"
cipher.mkdir(), mnt.mkdir()
try:
    kmsfs("init", "--keyfile", cipher)
    print("| transport | free | caller bound | on two CPUs | on one CPU |\n| --- | ---: | ---: | ---: | ---: |")
    for transport in "dev", "uring":
        daemon = subprocess.Popen([KMSFS, "mount", f"--transport={transport}", str(cipher), str(mnt)], env=ENV, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not os.path.ismount(mnt):
            if daemon.poll() is not None:
                sys.exit("the mount ended")
            time.sleep(0.02)
        path = mnt / "file"
        path.write_bytes(b"x")
        first, last = {CPUS[0]}, {CPUS[-1]}
        places = [(set(CPUS), None), (first, None), (first, last), (first, first)]
        print(f"| {transport} | " + " | ".join(measured(path, *place, daemon.pid) for place in places) + " |", flush=True)
        kmsfs("umount", mnt)
        daemon.wait()
finally:
    if os.path.ismount(mnt):
        subprocess.run(["umount", "-l", str(mnt)], check=False)
    shutil.rmtree(WORK, ignore_errors=True)
