#!/usr/bin/env python3
"""Whether the cost of an operation grows with what there is: with the size of a file, the entries of a directory, the files
that are open, and with time; memory of the daemon, processor time of a GiB, the time that a mount takes.

costs.py KMSFS DIR [FILES]: works in DIR (tmpfs, or the disk of interest) and prints a table. FILES: 100,000. Needs root, to drop the
page cache. Times are medians in microseconds of many single operations that the kernel passes to kmsfs; what grows shows in a row.
"""
import mmap, os, pathlib, random, resource, statistics, subprocess, sys, tempfile, time

KMSFS, WHERE = os.path.abspath(sys.argv[1]), sys.argv[2]
FILES = int(sys.argv[3]) if len(sys.argv) > 3 else 100_000
WORK = pathlib.Path(tempfile.mkdtemp(prefix="kmsfs-costs.", dir=WHERE))
CIPHER, MNT = WORK / "cipher", WORK / "mnt"
ENV = dict(os.environ, KMSFS_HOME=str(WORK / "kms"))


def kmsfs(*args):
    subprocess.run([KMSFS, *map(str, args)], env=ENV, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def drop_caches():
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def daemon():
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            argv = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if argv[0] == KMSFS.encode() and str(CIPHER).encode() in argv and b"mount" in argv:
            return process
    raise SystemExit("the mount has no daemon")


def mount():
    before = time.perf_counter()
    kmsfs("mount", "--daemon", CIPHER, MNT)
    return time.perf_counter() - before


def remount():
    kmsfs("umount", MNT)
    drop_caches()
    return mount()


def cpu():
    fields = (daemon() / "stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory():
    """Resident MiB."""
    text = (daemon() / "status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def each(work, items):
    """Median microseconds of `work(item)`."""
    times = []
    for item in items:
        before = time.perf_counter()
        work(item)
        times.append(time.perf_counter() - before)
    return statistics.median(times) * 1e6


def table(title, head, rows):
    print(f"\n{title}\n\n| {' | '.join(head)} |\n| --- |{' ---: |' * (len(head) - 1)}")
    for row in rows:
        print(f"| {' | '.join(f'{value:,.1f}' if isinstance(value, float) else str(value) for value in row)} |")


def by_file_size():
    rows = []
    for name, size in (("1 KiB", 1 << 10), ("1 MiB", 1 << 20), ("1 GiB", 1 << 30), ("64 GiB", 64 << 30)):
        path = MNT / "sized"
        with open(path, "wb") as file:
            file.truncate(size)
            # Something is there at both ends and between; the rest are holes.
            for at in range(0, size, max(size // 64, 4096)):
                file.seek(at)
                file.write(os.urandom(min(1024, size - at)))
            file.flush()
            os.fsync(file.fileno())
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        page = mmap.mmap(-1, 4096)
        places = [random.randrange(max(size // 4096, 1)) * 4096 for _ in range(2000)]
        read = each(lambda at: os.preadv(fd, [page], at), places)
        # Not behind the end of the smallest, which would grow.
        write = each(lambda at: os.pwrite(fd, page, at), places) if size >= 4096 else "-"
        sync = each(lambda at: (os.pwrite(fd, page, at), os.fsync(fd)), places[:50]) if size >= 4096 else "-"
        opened = each(lambda _: os.close(os.open(path, os.O_RDONLY)), range(500))
        os.close(fd)
        rows.append((name, opened, read, write, sync))
        os.remove(path)
    table("Size of a file", ("size (sparse)", "open and close", "read 4 KiB", "write 4 KiB", "write and fsync"), rows)


def by_directory_size():
    rows, made = [], 0
    directory = MNT / "many"
    directory.mkdir()
    count = 10
    while count <= FILES:
        while made < count:
            (directory / f"file-{made:07}").touch()
            made += 1
        def create(n):
            (directory / f"new-{n}").touch()
        rows.append((f"{count:,}", each(lambda n: os.path.exists(directory / f"no-{n}"), range(1000)), each(create, range(300)),
                     each(lambda n: os.remove(directory / f"new-{n}"), range(300))))
        count *= 100
    table("Entries of a directory", ("entries", "look up", "create", "remove"), rows)
    times = [remount() for _ in range(5)]
    print(f"\nMount of a volume with {made:,} files, caches empty: {statistics.median(times) * 1000:.0f} ms.")


def by_open_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    (MNT / "open").mkdir()
    rows, handles, base = [], [], memory()
    for count in (10, 1000, 10_000):
        while len(handles) < count:
            fd = os.open(MNT / "open" / str(len(handles)), os.O_RDWR | os.O_CREAT)
            os.write(fd, b"x" * 100)
            handles.append(fd)
        os.sync()
        path = MNT / "open" / "0"
        opened = each(lambda _: os.close(os.open(path, os.O_RDONLY)), range(500))
        read = each(lambda _: (os.posix_fadvise(handles[1], 0, 0, os.POSIX_FADV_DONTNEED), os.pread(handles[1], 100, 0)), range(500))
        rows.append((f"{count:,}", opened, read, memory()))
    table("Open files", ("open", "open and close one more", "read 100 bytes", "memory of the daemon, MiB"), rows)
    print(f"\n{base:.0f} MiB before; {(rows[-1][-1] - rows[0][-1]) * 1024 / (10_000 - 10):.1f} KiB for each open file.")
    for fd in handles:
        os.close(fd)


def by_time():
    path, rows = MNT / "long", []
    for part in range(5):
        def cycle(n):
            with open(path, "wb") as file:
                file.write(b"y" * 5000)
            with open(path, "rb") as file:
                file.read()
            os.rename(path, MNT / "long2")
            os.remove(MNT / "long2")
        rows.append((f"{part * 4000:,} to {(part + 1) * 4000:,}", each(cycle, range(4000)), memory()))
    table("A long run", ("files made, read, renamed and removed", "each", "memory, MiB"), rows)


def per_gib():
    rows, block = [], os.urandom(1 << 20)
    path = MNT / "gib"
    for what in ("write", "read"):
        if what == "read":
            remount()
        before, began = cpu(), time.perf_counter()
        if what == "write":
            with open(path, "wb", buffering=0) as file:
                for _ in range(1024):
                    file.write(block)
                os.fsync(file.fileno())
        else:
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass
        rows.append((what, cpu() - before, f"{time.perf_counter() - began:.2f}"))
    table("1 GiB as a stream", ("", "processor seconds of the daemon", "seconds"), [(a, f"{b:.2f}", c) for a, b, c in rows])


def main():
    CIPHER.mkdir()
    MNT.mkdir()
    kmsfs("init", "--keyfile", CIPHER)
    mount()
    try:
        for part in (by_file_size, by_directory_size, by_open_files, by_time, per_gib):
            part()
    finally:
        kmsfs("umount", MNT)
        subprocess.run(["rm", "-rf", "--one-file-system", str(WORK)], check=True)


main()
