#!/usr/bin/env python3
"""What `kmsfs init --freshness` costs (docs/PERFORMANCE.md, "Freshness"): processor time of the daemon in user mode for each operation, with a
record and without one in turns.

freshness.py KMSFS DIR [ROUNDS] [FILES]: works in DIR (a disk), where the volumes and the key manager's home lie; prints a table with the medians
of ROUNDS (5) rounds. An operation is done FILES (5000) times, streams are of 512 MiB (of 32 for fewer FILES). The time is that of a whole mount, its unmount and the
settling at its end included, divided by the number of operations. The last line of numbers is elapsed time.
"""
import os, pathlib, shutil, statistics, subprocess, sys, tempfile, time

if len(sys.argv) < 3:
    sys.exit(__doc__)
KMSFS, WHERE = os.path.abspath(sys.argv[1]), sys.argv[2]
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 5
FILES = int(sys.argv[4]) if len(sys.argv) > 4 else 5000
STREAM = 512 if FILES >= 5000 else 32
WORK = pathlib.Path(tempfile.mkdtemp(prefix="kmsfs-freshness.", dir=WHERE))
ENV = dict(os.environ, KMSFS_HOME=str(WORK / "kms"))
PAGE, MIB = os.urandom(4096), os.urandom(1 << 20)


def kmsfs(*args):
    subprocess.run([KMSFS, *map(str, args)], env=ENV, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def mounted(cipher, mnt, work):
    """Seconds of the daemon in user mode, and of `work`, for a whole mount."""
    daemon = subprocess.Popen([KMSFS, "mount", str(cipher), str(mnt)], env=ENV, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(500):
            if os.path.ismount(mnt):
                break
            if daemon.poll() is not None:
                sys.exit("the mount ended")
            time.sleep(0.02)
        began = time.perf_counter()
        work(mnt)
        elapsed = time.perf_counter() - began
        kmsfs("umount", mnt)
    except BaseException:
        subprocess.run(["umount", "-l", str(mnt)], check=False)
        daemon.kill()
        raise
    _, status, usage = os.wait4(daemon.pid, 0)
    daemon.returncode = os.waitstatus_to_exitcode(status)
    if daemon.returncode:
        sys.exit(f"the mount ended with {daemon.returncode}")
    return usage.ru_utime, elapsed


def files(mnt):
    return (mnt / "files" / f"{number:06}" for number in range(FILES))


def make(content):
    def work(mnt):
        (mnt / "files").mkdir(exist_ok=True)
        for path in files(mnt):
            with open(path, "wb", buffering=0) as file:
                if content:
                    file.write(content)
    return work


def rename(mnt):
    for path in files(mnt):
        os.rename(path, f"{path}.renamed")


def link(mnt):
    for path in files(mnt):
        os.link(path, f"{path}.linked")


def unlink(mnt):
    for path in files(mnt):
        os.remove(path)


def read(mnt):
    for path in files(mnt):
        path.read_bytes()


def write_stream(mnt):
    with open(mnt / "stream", "wb", buffering=0) as file:
        for _ in range(STREAM):
            file.write(MIB)


def read_stream(mnt):
    with open(mnt / "stream", "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def sync(mnt):
    fd = os.open(mnt / "stream", os.O_RDWR)
    for number in range(FILES // 5):
        os.pwrite(fd, PAGE, number * 8192 % (STREAM << 20))
        os.fsync(fd)
    os.close(fd)


def nothing(_mnt):
    pass


# What is measured, what has to be there before, how often it is done.
OPERATIONS = [
    ("create an empty file", nothing, make(b""), FILES),
    ("rename", make(b""), rename, FILES),
    ("link", make(b""), link, FILES),
    ("unlink", make(b""), unlink, FILES),
    ("create and write 4 KiB", nothing, make(PAGE), FILES),
    ("open and read 4 KiB", make(PAGE), read, FILES),
    ("write 1 MiB of a stream", nothing, write_stream, STREAM),
    ("read 1 MiB of a stream", write_stream, read_stream, STREAM),
    ("overwrite 4 KiB and fsync", write_stream, sync, FILES // 5),
]


def main():
    mnt = WORK / "mnt"
    mnt.mkdir()
    kmsfs("init", "--keyfile")
    user, elapsed = {}, {}
    for _ in range(ROUNDS):
        for name, before, work, count in OPERATIONS:
            for options in ((), ("--freshness",)):
                cipher = WORK / "cipher"
                cipher.mkdir()
                kmsfs("init", *options, cipher)
                if before is not nothing:
                    mounted(cipher, mnt, before)
                used, took = mounted(cipher, mnt, work)
                user.setdefault((name, options), []).append(used / count * 1e6)
                elapsed.setdefault((name, options), []).append(took / count * 1e6)
                shutil.rmtree(cipher)
    print("| operation | without | with |\n| --- | ---: | ---: |")
    for name, *_ in OPERATIONS:
        print(f"| {name} | " + " | ".join(f"{statistics.median(user[name, options]):,.0f} us" for options in ((), ("--freshness",))) + " |")
    name = OPERATIONS[-1][0]
    print(f"| {name}, elapsed | " + " | ".join(f"{statistics.median(elapsed[name, options]):,.0f} us" for options in ((), ("--freshness",))) + " |")


try:
    main()
finally:
    subprocess.run(["rm", "-rf", "--one-file-system", str(WORK)], check=True)
