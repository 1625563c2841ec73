#!/usr/bin/env python3
"""held.py KMSFS HOME: has kmsfs make keys, and stops one process while it holds the lock of HOME's audit log, which it leaves so. Says its pid,
and how many keys are made, that one's included."""
import os
import random
import signal
import subprocess
import sys
import time

kmsfs, home = sys.argv[1:3]
number = os.stat(f"{home}/audit/lock").st_ino


def holds(pid):
    with open("/proc/locks") as locks:
        fields = [line.split() for line in locks]
    # `1: FLOCK  ADVISORY  WRITE 123 fe:00:456 0 EOF`; who waits for it has an arrow in front.
    own = [f for f in fields if f[1] in ("FLOCK", "POSIX") and f[3] == "WRITE" and int(f[4]) == pid]
    with open(f"{home}/audit/lock") as lock:
        named = lock.read().strip() == f"pid={pid}"
    # Not in the middle of a commit of the database, for which SQLite has a patience of its own.
    return named and any(f[5].endswith(f":{number}") for f in own) and all(f[1] == "FLOCK" for f in own)


random.seed(1)
for made in range(1, 500):
    began = time.monotonic()
    process = subprocess.Popen([kmsfs, "key", "create"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        time.sleep(random.uniform(0, 0.003))
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.001)
        if holds(process.pid):
            print(process.pid, made)
            sys.exit()
        process.send_signal(signal.SIGCONT)
    assert process.returncode == 0, process.returncode
sys.exit("no process was stopped at the right moment")
