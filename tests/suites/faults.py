#!/usr/bin/env python3
"""faults.py CASE MOUNTPOINT [...]: what applications do and see while something fails; see faults.sh. Exit status 1 says what was wrong."""
import array
import collections
import concurrent.futures
import errno
import fcntl
import hashlib
import mmap
import os
import resource
import shutil
import socket
import sys
import threading
import time

MIB = 1 << 20


def pattern(name, size):
    seed = hashlib.sha256(name.encode()).digest()
    return (seed * (size // len(seed) + 1))[:size]


def fails(errors, call, what):
    try:
        call()
    except OSError as e:
        assert e.errno in errors, f"{what}: {e}, which is none of {[errno.errorcode[n] for n in errors]}"
        return
    raise AssertionError(f"{what}: it worked")


def write_durably(path, data):
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read(path):
    with open(path, "rb") as file:
        return file.read()


OLD = {f"old{i}": 100_000 + i * 5000 for i in range(20)}


def full(mnt):
    for name, size in OLD.items():
        write_durably(f"{mnt}/{name}", pattern(name, size))
    # More than there is room for, into the page cache; it can be told no earlier than at the flush.
    fd = os.open(f"{mnt}/filler", os.O_RDWR | os.O_CREAT)
    full_errors = {errno.ENOSPC}
    told = 0
    try:
        for _ in range(40):
            data = pattern("filler", MIB)
            while data:
                data = data[os.write(fd, data):]
    except OSError as e:
        assert e.errno in full_errors, f"write: {e}"
        told += 1
    try:
        os.fsync(fd)
    except OSError as e:
        assert e.errno in full_errors, f"fsync: {e}"
        told += 1
    assert told, "nobody was told that the disk is full"
    # What exists stays as it is, whatever fails.
    for what, call in {
        "a new file": lambda: write_durably(f"{mnt}/new", pattern("new", 4 * MIB)),
        "an append": lambda: append(f"{mnt}/old3"),
    }.items():
        fails(full_errors, call, what)
    # tmpfs overwrites in place: what has its space can be written.
    with open(f"{mnt}/old0", "r+b") as file:
        file.write(pattern("other", 50_000))
        file.flush()
        os.fsync(file.fileno())
    other = pattern("other", 50_000) + pattern("old0", OLD["old0"])[50_000:]
    for name, size in OLD.items():
        found = read(f"{mnt}/{name}")
        expected = other if name == "old0" else pattern(name, size)
        assert found[:size] == expected, f"{name} is not what it was"
        assert name == "old3" or len(found) == size, f"{name} has {len(found)} bytes, not {size}"
    os.close(fd)
    os.unlink(f"{mnt}/filler")
    for name in ("new", "old3"):
        os.unlink(f"{mnt}/{name}")
    write_durably(f"{mnt}/old3", pattern("old3", OLD["old3"]))
    write_durably(f"{mnt}/again", pattern("again", 4 * MIB))
    assert read(f"{mnt}/again") == pattern("again", 4 * MIB)


def append(path):
    with open(path, "ab") as file:
        file.write(pattern("append", 4 * MIB))
        file.flush()
        os.fsync(file.fileno())


def lost_pages(mnt):
    """What could not be stored is seen by nobody who opens the file later, and nothing is written behind it."""
    name = f"{mnt}/lost"
    write_durably(name, b"old")
    # To the last page: what did not fit in a large piece may leave room.
    steps = (MIB, 64 << 10, 4096)
    for step in steps:
        def fill():
            with open(f"{mnt}/filler{step}", "wb", 0) as filler:
                for _ in range(300):
                    filler.write(bytes(step))
                    os.fsync(filler.fileno())
        fails({errno.ENOSPC}, fill, "a full disk")
    fd = os.open(name, os.O_RDWR)
    os.pwrite(fd, b"q" * 20_000, 3)
    fails({errno.ENOSPC}, lambda: os.fsync(fd), "an fsync of what cannot be stored")
    os.close(fd)
    for step in steps:
        os.unlink(f"{mnt}/filler{step}")
    fd = os.open(name, os.O_RDWR | os.O_APPEND)
    size = os.fstat(fd).st_size
    assert size < 20_003, f"{size} bytes, which are not there"
    os.write(fd, b"second")
    os.fsync(fd)
    os.close(fd)
    data = read(name)
    assert len(data) == size + 6 and data.startswith(b"old") and data.endswith(b"second"), f"{len(data)} bytes"
    write_durably(f"{name}.expected", data)


def lost_pages_after(mnt):
    assert read(f"{mnt}/lost") == read(f"{mnt}/lost.expected"), "it is not what it was"


def truth(mnt):
    """Who was told that something is not stored reads what is stored, through what is open and anew."""
    name = f"{mnt}/truth"
    old = pattern("truth", MIB)
    write_durably(name, old)
    fd = os.open(name, os.O_RDWR)
    memory = mmap.mmap(fd, MIB)
    told = set()
    for i in range(48):
        try:
            os.pwrite(fd, b"n" * MIB, i * MIB)
        except OSError as e:
            told.add(e.errno)
    # The kernel asks for no flush where it could not even write back: so once more, until what is left is flushed.
    for _ in range(10):
        try:
            os.fsync(fd)
            break
        except OSError as e:
            told.add(e.errno)
    assert told and told <= {errno.EIO, errno.ENOSPC}, f"told: {told}"
    # What the kernel wrote back in vain it drops a moment later.
    time.sleep(1)
    size = os.fstat(fd).st_size
    seen, mapped = os.pread(fd, size, 0), memory[:]
    with open("/proc/sys/vm/drop_caches", "w") as drop:
        drop.write("3")
    stored = os.pread(fd, size, 0)
    assert seen == stored, f"{sum(a != b for a, b in zip(seen, stored))} of {size} bytes were shown, and are not stored"
    assert mapped == stored[:MIB], "what a mapping shows is not stored"
    lost = sum(byte != ord("n") for byte in stored)
    assert lost, "everything was stored"
    assert all(byte in (before, ord("n")) for before, byte in zip(old, stored)), "neither the old bytes nor the new ones"
    assert set(stored[MIB:]) <= {0, ord("n")}, "bytes that nobody wrote"
    print(f"{lost} of {size} bytes are not stored")
    memory.close()
    # The size is the kernel's as long as the file is open.
    os.close(fd)
    within(5, lambda: os.stat(name).st_size == len(read(name)), "the size is not that of what can be read")


def truth_after(mnt):
    """There is room again."""
    name = f"{mnt}/truth"
    data = pattern("again", 3 * MIB)
    write_durably(name, data)
    assert read(name) == data
    os.unlink(name)


def within(seconds, test, what):
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def quota(mnt):
    """A quota is used up under dirty pages."""
    for name, size in OLD.items():
        write_durably(f"{mnt}/{name}", pattern(name, size))
    fd = os.open(f"{mnt}/filler", os.O_RDWR | os.O_CREAT)
    told = set()
    for i in range(64):
        try:
            os.pwrite(fd, pattern("filler", MIB), i * MIB)
            if i % 8 == 7:
                os.fsync(fd)
        except OSError as e:
            told.add(e.errno)
    assert told == {errno.EDQUOT}, f"told: {told}"
    fails({errno.EDQUOT}, lambda: write_durably(f"{mnt}/new", pattern("new", 4 * MIB)), "a new file")
    old_data(mnt)
    os.close(fd)
    os.unlink(f"{mnt}/filler")
    if os.path.exists(f"{mnt}/new"):
        os.unlink(f"{mnt}/new")


def quota_after(mnt):
    """There is room again."""
    old_data(mnt)
    write_durably(f"{mnt}/again", pattern("again", 4 * MIB))
    assert read(f"{mnt}/again") == pattern("again", 4 * MIB)


def old_data(mnt):
    for name, size in OLD.items():
        assert read(f"{mnt}/{name}") == pattern(name, size), f"{name} is not what it was"


def home_full(mnt, home):
    """The disk of the key manager's home is full: the record of what changes cannot be kept."""
    for name, size in OLD.items():
        write_durably(f"{mnt}/{name}", pattern(name, size))
    with open(f"{home}/filler", "wb", 0) as filler:
        for step in (MIB, 4096):
            try:
                while True:
                    filler.write(bytes(step))
            except OSError as e:
                assert e.errno == errno.ENOSPC
    refused = 0
    for i in range(300):
        try:
            write_durably(f"{mnt}/new{i}", pattern(f"new{i}", 40_000))
        except OSError as e:
            assert e.errno == errno.ENOSPC, f"told: {e}"
            refused += 1
            if refused > 5:
                break
    assert refused, "everything was recorded"
    with open("/proc/sys/vm/drop_caches", "w") as drop:
        drop.write("3")
    old_data(mnt)
    print(f"refused after {i - refused + 1} files")


def home_full_after(mnt):
    old_data(mnt)
    for i in range(20):
        write_durably(f"{mnt}/again{i}", pattern(f"again{i}", 40_000))
        assert read(f"{mnt}/again{i}") == pattern(f"again{i}", 40_000)


def unstored(mnt):
    """More is written, over what was flushed and behind it, than the disk stores; nobody asks whether it did."""
    write_durably(f"{mnt}/kept", pattern("kept", 50_000))
    write_durably(f"{mnt}/unstored", pattern("unstored", MIB))
    os.sync()
    try:
        with open(f"{mnt}/unstored", "r+b", 0) as file:
            for _ in range(40):
                file.write(b"n" * MIB)
    except OSError as e:
        # The kernel may have seen by now that it is not stored.
        assert e.errno in (errno.EIO, errno.ENOSPC), e


def unstored_after(mnt):
    assert read(f"{mnt}/kept") == pattern("kept", 50_000)
    old, now = pattern("unstored", MIB), read(f"{mnt}/unstored")
    # How much was taken until the kernel saw the error differs.
    assert len(now) > MIB, f"{len(now)} bytes"
    assert all(byte in b"n\0" for byte in set(now[MIB:])), "bytes that nobody wrote"
    assert all(new in (before, ord("n")) for before, new in zip(old, now)), "neither the old bytes nor the new ones"


def full_after(mnt):
    for name, size in OLD.items():
        expected = pattern(name, size)
        if name == "old0":
            expected = pattern("other", 50_000) + expected[50_000:]
        assert read(f"{mnt}/{name}") == expected, f"{name} is not what it was"
    assert read(f"{mnt}/again") == pattern("again", 4 * MIB)


def descriptors(mnt):
    names = [f"{mnt}/f{i}" for i in range(200)]
    for i, name in enumerate(names):
        with open(name, "wb") as file:
            file.write(pattern(name, 5000 + i))
    os.sync()
    held, refused = {}, 0
    for name in names:
        try:
            held[name] = os.open(name, os.O_RDWR)
        except OSError as e:
            assert e.errno in (errno.EMFILE, errno.ENFILE), f"open: {e}"
            refused += 1
    assert refused and len(held) >= 20, f"{len(held)} were opened, {refused} refused"
    # With no descriptor left, what is open goes on.
    for name, fd in held.items():
        size = 5000 + names.index(name)
        assert os.pread(fd, 2 * size, 0) == pattern(name, size), f"{name}: wrong bytes"
        os.pwrite(fd, b"x", 0)
        os.fsync(fd)
    for fd in held.values():
        os.close(fd)
    for i, name in enumerate(names):
        expected = (b"x" if name in held else pattern(name, 1)) + pattern(name, 5000 + i)[1:]
        assert read(name) == expected, f"{name}: wrong bytes after the descriptors came back"
    write_durably(f"{mnt}/new", b"new")
    shutil.rmtree(f"{mnt}/d", ignore_errors=True)
    os.makedirs(f"{mnt}/d/e/f")
    assert sorted(os.listdir(mnt))


def many_directories(mnt):
    """More directories than there are descriptors, by each operation that needs one."""
    top = f"{mnt}/many"
    for i in range(300):
        os.makedirs(f"{top}/{i}/a")
        write_durably(f"{top}/{i}/a/f", b"%d" % i)
        os.rename(f"{top}/{i}/a/f", f"{top}/{i}/g")
        os.rename(f"{top}/{i}/a", f"{top}/{i}/{'long' * 60}")
    found = sum(len(files) for _, _, files in os.walk(top))
    assert found == 300, f"{found} files are listed"
    for i in range(300):
        assert read(f"{top}/{i}/g") == b"%d" % i
        # A listing that nobody reads to its end.
        with os.scandir(f"{top}/{i}") as entries:
            next(entries)
    shutil.rmtree(top)
    # For those who walk the whole tree afterwards.
    for i in range(300):
        os.makedirs(f"{mnt}/walked/{i}")
        write_durably(f"{mnt}/walked/{i}/f", b"%d" % i)


FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IMMUTABLE_FL = 0x80086601, 0x40086602, 0x10


def set_immutable(fd, on):
    flags = array.array("l", [0])
    fcntl.ioctl(fd, FS_IOC_GETFLAGS, flags)
    flags[0] = flags[0] | FS_IMMUTABLE_FL if on else flags[0] & ~FS_IMMUTABLE_FL
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, flags)


def immutable(mnt):
    for name in ("written", "mapped", "closed"):
        path, data = f"{mnt}/{name}", pattern(name, 300_000)
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        mapping = None
        if name == "mapped":
            os.ftruncate(fd, len(data))
            mapping = mmap.mmap(fd, len(data))
            mapping[:] = data
        else:
            os.write(fd, data)
        # By the same descriptor: what is dirty was not written back by the close of another one.
        set_immutable(fd, True)
        try:
            if mapping:
                mapping.close()
            if name == "closed":
                os.close(fd)
                fd = os.open(path, os.O_RDONLY)
            else:
                os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(fd, 2 * len(data), 0) == data, f"{name}: what was written before the file became immutable is lost"
            if name == "written":
                # It is told at the flush at the latest that this is not stored.
                fails({errno.EPERM}, lambda: (os.pwrite(fd, b"x", 0), os.fsync(fd)), "a write to an immutable file")
            fails({errno.EPERM}, lambda: os.close(os.open(path, os.O_RDWR)), "opening an immutable file for writing")
            fails({errno.EPERM}, lambda: os.truncate(path, 10), "cutting an immutable file")
            os.close(fd)
        finally:
            fd = os.open(path, os.O_RDONLY)
            set_immutable(fd, False)
            os.close(fd)
    write_durably(f"{mnt}/again", b"again")
    with open(f"{mnt}/mapped", "r+b") as file:
        file.write(b"changed")


def immutable_after(mnt):
    for name in ("written", "mapped", "closed"):
        expected = pattern(name, 300_000)
        found = read(f"{mnt}/{name}")
        assert found == (b"changed" + expected[7:] if name == "mapped" else expected), f"{name} is not what was stored"


def load(mnt):
    os.mkdir(f"{mnt}/many")
    held = []
    for i in range(3000):
        fd = os.open(f"{mnt}/many/{i}", os.O_RDWR | os.O_CREAT)
        os.write(fd, pattern(str(i), 3000))
        held.append(fd)
    wrong = []

    def stream(number):
        path = f"{mnt}/stream{number}"
        data = pattern(path, MIB)
        try:
            for _ in range(3):
                with open(path, "wb") as file:
                    for _ in range(48):
                        file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                with open(path, "rb") as file:
                    while part := file.read(MIB):
                        assert part == data, f"{path}: wrong bytes"
            os.unlink(path)
        except (OSError, AssertionError) as e:
            wrong.append(str(e))

    threads = [threading.Thread(target=stream, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong
    for i, fd in enumerate(held):
        assert os.pread(fd, 4000, 0) == pattern(str(i), 3000), f"many/{i}: wrong bytes"
        os.close(fd)


def memory(mnt, pid):
    """The daemon gets no more memory: requests may fail, and nothing else happens."""
    pid = int(pid)
    kept = {f"{mnt}/kept{i}": pattern(f"kept{i}", 300_000 + i) for i in range(8)}
    for path, data in kept.items():
        write_durably(path, data)
    refused, stored = [], {}
    # What the arenas of the allocator reserve counts in VmSize long before it is used, and in VmData only then: RLIMIT_DATA is what refuses.
    with open(f"/proc/{pid}/status") as status:
        sizes = dict(line.split(":", 1) for line in status)
    limits = {resource.RLIMIT_DATA: "VmData", resource.RLIMIT_AS: "VmSize"}
    before = {limit: resource.prlimit(pid, limit, (int(sizes[name].split()[0]) << 10, resource.RLIM_INFINITY)) for limit, name in limits.items()}
    held = []

    def busy(number):
        for i in range(600):
            path = f"{mnt}/m{number}.{i}"
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT)
                held.append(fd)
                data = pattern(path, 100_000 if i % 8 else 2 * MIB)
                os.write(fd, data)
                if i % 4 == 0:
                    os.fsync(fd)
                    stored[path] = data
                if i % 16 == 0:
                    list(os.scandir(mnt))
            except OSError as e:
                refused.append(e.errno)

    try:
        threads = [threading.Thread(target=busy, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for limit, was in before.items():
            resource.prlimit(pid, limit, was)
    assert refused and set(refused) <= {errno.ENOMEM, errno.EIO, errno.EAGAIN}, f"refused: {collections.Counter(refused)}"
    for fd in held:
        try:
            os.close(fd)
        except OSError as e:
            assert e.errno in (errno.ENOMEM, errno.EIO), f"close: {e}"
    with open("/proc/sys/vm/drop_caches", "w") as drop:
        drop.write("1")
    for path, data in [*kept.items(), *stored.items()]:
        assert read(path) == data, f"{path}: wrong bytes"
    write_durably(f"{mnt}/afterwards", b"there is memory again")
    print(f"refused {len(refused)} times, stored {len(stored)} files")


def keys(path):
    """Requests to the endpoint that wait for the disk, more at once than it has threads for them, and some that do not."""
    def ask(operation):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(path)
            head = f"POST / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-amz-target: TrentService.{operation}\r\n"
            connection.sendall(f"{head}content-type: application/x-amz-json-1.1\r\ncontent-length: 2\r\n\r\n{{}}".encode())
            return connection.makefile("rb").read().split(b"\r\n")[0]

    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        answers = collections.Counter(pool.map(ask, ["CreateKey"] * 200 + ["ListKeys"] * 50))
    assert answers == {b"HTTP/1.1 200 OK": 250}, answers


def vanish(mnt, cipher):
    data = pattern("kept", 50_000)
    write_durably(f"{mnt}/kept", data)
    fd = os.open(f"{mnt}/kept", os.O_RDWR)
    gone = {errno.ENOENT, errno.ESTALE, errno.EIO}
    shutil.rmtree(cipher)
    # What is open can be read, as after an unlink; what is written to it is lost, and fsync may say so.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(fd, len(data), 0) == data
    os.pwrite(fd, b"y", 0)
    try:
        os.fsync(fd)
    except OSError as e:
        assert e.errno in gone, f"fsync: {e}"
    fails(gone, lambda: write_durably(f"{mnt}/new", b"n"), "a new file")
    fails(gone, lambda: os.mkdir(f"{mnt}/dir"), "a new directory")
    fails(gone, lambda: read(f"{mnt}/many/7"), "a file that is gone")
    os.close(fd)
    os.statvfs(mnt)


CASES = {"keys": keys, "full": full, "full-after": full_after, "descriptors": descriptors, "many-directories": many_directories, "immutable": immutable,
         "unstored": unstored, "unstored-after": unstored_after,
         "truth": truth, "truth-after": truth_after, "quota": quota, "quota-after": quota_after,
         "home-full": home_full, "home-full-after": home_full_after,
         "lost-pages": lost_pages, "lost-pages-after": lost_pages_after,
         "immutable-after": immutable_after, "load": load, "memory": memory, "vanish": vanish}
try:
    CASES[sys.argv[1]](*sys.argv[2:])
except (AssertionError, OSError) as problem:
    sys.exit(f"{sys.argv[1]}: {problem}")
