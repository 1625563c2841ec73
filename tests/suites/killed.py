#!/usr/bin/env python3
"""killed.py BINARY CIPHER MOUNTPOINT ROUNDS [SEED]: the daemon is killed at random moments under load, and the volume mounted again.

Each round mounts the volume, lets WORKERS threads work on files of their own, sends the daemon SIGKILL, mounts again and compares
everything with what each thread wrote down before and after each system call:

- what fsync, fdatasync, an O_DSYNC write or the fsync of a file behind linkat acknowledged is there;
- every other byte is one that the file held since then, or zero where the file was shorter; sizes lie between those that it had;
- names are those of the calls that returned; of the one call under way, either all or nothing;
- everything that is listed can be read; the mount needs no repair, and takes at most MOUNT_SECONDS.

`verify` must find nothing but first writes that were cut off, after each VERIFY_EVERY-th kill, before anything is mounted again,
and the audit log must be whole at the end. With KMSFS_TRANSPORT every mount has to be served by that transport. A round takes some
0.3 s. The last line is `cases: N passed, N failed`.
"""
import contextlib
import ctypes
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

WORKERS = 3
FILES = 6
LARGEST = 60_000
VERIFY_EVERY = 10
MOUNT_SECONDS = 5
# What the kill of a first write leaves (FORMAT.md section 9, point 15): the file has its size, and reads as zeros.
UNFINISHED = ("NeverSynced",)
# What a thread gets when the daemon is gone.
GONE = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENODEV, errno.EINTR, errno.ECANCELED}
TRANSPORT = os.environ.get("KMSFS_TRANSPORT", "auto")
KEEP_SIZE, PUNCH_HOLE = 1, 2
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

LIBC.linkat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400


def fallocate(fd, mode, offset, length):
    if LIBC.fallocate(fd, mode, offset, length):
        raise OSError(ctypes.get_errno(), "fallocate")


def link_open(fd, path):
    """Gives an open file without a name its first one; os.link does not follow /proc."""
    if LIBC.linkat(AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, path.encode(), AT_SYMLINK_FOLLOW):
        raise OSError(ctypes.get_errno(), "linkat")


class Content:
    """What a file may hold: the version that was made durable, and those since."""

    def __init__(self, data=b""):
        self.versions = [data]
        # What was done, for whoever looks for the cause of a failure.
        self.history = []

    @property
    def now(self):
        return self.versions[-1]

    def durable(self, version):
        """Everything up to `version`, a position in the list, is durable."""
        del self.versions[:version]

    def note(self, what):
        self.history = self.history[-29:] + [what]

    def told(self):
        return "; ".join(self.history)

    def refusal(self, found):
        """Why the file may not hold `found`; None if it may."""
        if found in self.versions:
            return None
        sizes = [len(v) for v in self.versions]
        if not min(sizes) <= len(found) <= max(sizes):
            return f"size {len(found)} of {sorted(set(sizes))}"
        for at in range(0, len(found), 64):
            part = found[at:at + 64]
            parts = [v[at:at + len(part)].ljust(len(part), b"\0") for v in self.versions]
            if part not in parts:
                for i, byte in enumerate(part):
                    if all(p[i] != byte for p in parts):
                        return f"byte {at + i} is {byte}, not one of {sorted({p[i] for p in parts})}"
        return None


class Worker(threading.Thread):
    """A thread with a directory of its own. `names` is what it knows to be there; `other` is that or what it will be when the
    call under way has been done."""

    def __init__(self, top, names, seed, killed):
        super().__init__(daemon=True)
        self.top, self.names, self.other, self.killed = top, names, names, killed
        self.random = random.Random(seed)
        self.handles = {}
        self.done = self.acknowledged = 0
        self.wrong = None
        # The marks tell every write from every other.
        self.mark = seed % 251

    def run(self):
        try:
            while True:
                self.step()
                self.done += 1
        except OSError as e:
            if e.errno not in GONE or not self.killed.is_set():
                self.wrong = f"{e} ({errno.errorcode.get(e.errno)})"
        except AssertionError as e:
            self.wrong = str(e)
        for fd in self.handles.values():
            try:
                os.close(fd)
            except OSError:
                pass

    def path(self, name):
        return f"{self.top}/{name}"

    def bytes(self, length):
        self.mark = self.mark % 255 + 1
        return bytes([self.mark]) * length

    def handle(self, name):
        content = self.names[name]
        if content not in self.handles:
            self.handles[content] = os.open(self.path(name), os.O_RDWR)
        return content, self.handles[content]

    def change(self, content, data, call):
        """Bytes that may be there from now on, and must be what is read when the call has returned."""
        content.versions.append(data)
        call()

    def rename_names(self, after, call):
        self.other = after
        call()
        self.names = after

    def write(self, content, fd, offset, length):
        data, old = self.bytes(length), content.now
        content.note(f"write {offset}+{length} of {len(old)}")
        new = old[:offset].ljust(offset, b"\0") + data + old[offset + length:]
        self.change(content, new, lambda: self.write_all(fd, data, offset))

    @staticmethod
    def write_all(fd, data, offset):
        while data:
            count = os.pwrite(fd, data, offset)
            data, offset = data[count:], offset + count

    def sync(self, content, fd, how):
        version = len(content.versions) - 1
        content.note(how.__name__)
        how(fd)
        content.durable(version)
        self.acknowledged += 1

    def create(self, name):
        content = Content()

        def call():
            self.handles[content] = os.open(self.path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)

        self.rename_names({**self.names, name: content}, call)

    def step(self):
        r = self.random
        name = f"f{r.randrange(FILES)}" + ("-" + "n" * 200 if r.random() < 0.2 else "")
        if name not in self.names:
            # The crate fuser has no O_TMPFILE.
            if r.random() < 0.5 or TRANSPORT == "fuser":
                return self.create(name)
            return self.unnamed(name)
        content, fd = self.handle(name)
        size = len(content.now)
        if len(content.versions) > 40:
            return self.sync(content, fd, os.fsync)
        at = r.randrange(LARGEST)
        length = r.choice([r.randrange(1, 300), r.randrange(1, 20_000), 4064, 4096])
        pick = r.random()
        if pick < 0.30:
            self.write(content, fd, min(at, size), length)
        elif pick < 0.45:
            if size < LARGEST:
                self.write(content, fd, size, length)
        elif pick < 0.48:
            self.write(content, fd, at, length)
        elif pick < 0.56:
            new = content.now[:at].ljust(at, b"\0")
            content.note(f"truncate {size} to {at}")
            self.change(content, new, lambda: os.ftruncate(fd, at))
        elif pick < 0.62:
            if at < size:
                end = min(size, at + length)
                new = content.now[:at] + bytes(end - at) + content.now[end:]
                content.note(f"punch {at}+{length} of {size}")
                self.change(content, new, lambda: fallocate(fd, PUNCH_HOLE | KEEP_SIZE, at, length))
        elif pick < 0.74:
            self.sync(content, fd, os.fsync)
        elif pick < 0.80:
            self.sync(content, fd, os.fdatasync)
        elif pick < 0.84:
            self.write_durably(name)
        elif pick < 0.90:
            to = f"f{r.randrange(FILES)}"
            if self.names.get(to) is not content and to != name:
                after = {n: c for n, c in self.names.items() if n != name}
                after[to] = content
                self.rename_names(after, lambda: os.rename(self.path(name), self.path(to)))
        elif pick < 0.93:
            after = {n: c for n, c in self.names.items() if n != name}
            self.rename_names(after, lambda: os.unlink(self.path(name)))
        elif pick < 0.95:
            to = f"l{r.randrange(3)}"
            if to not in self.names:
                self.rename_names({**self.names, to: content}, lambda: os.link(self.path(name), self.path(to)))
        else:
            found, now = os.pread(fd, LARGEST * 2, 0), content.now
            # A read that the kill cuts short gives what the page cache has.
            if self.killed.is_set() and now.startswith(found):
                return
            at = next((i for i, (a, b) in enumerate(zip(found, now)) if a != b), "none")
            assert found == now, f"{name}: {len(found)} bytes were read, not {len(now)}; the first wrong one is {at}"

    def write_durably(self, name):
        content = self.names[name]
        fd = os.open(self.path(name), os.O_WRONLY | os.O_DSYNC)
        try:
            # What it writes is durable; what others left in the cache is not.
            data, at = self.bytes(5000), self.random.randrange(len(content.now) + 1)
            old = content.now
            content.note(f"O_DSYNC {at}+5000 of {len(old)}")
            self.change(content, old[:at] + data + old[at + 5000:], lambda: self.write_all(fd, data, at))
            patched = [v[:at].ljust(at, b"\0") + data + v[at + 5000:] for v in content.versions]
            content.versions[:] = patched
            self.acknowledged += 1
        finally:
            os.close(fd)

    def unnamed(self, name):
        """A file that gets its name when it is whole, by O_TMPFILE and linkat."""
        content = Content()
        fd = os.open(self.top, os.O_RDWR | os.O_TMPFILE, 0o644)
        self.handles[content] = fd
        self.write(content, fd, 0, self.random.randrange(1, 20_000))
        self.sync(content, fd, os.fsync)
        self.rename_names({**self.names, name: content}, lambda: link_open(fd, self.path(name)))


class Suite:
    def __init__(self, binary, cipher, mountpoint):
        self.binary, self.cipher, self.mountpoint = binary, cipher, mountpoint
        self.passed = self.failed = self.operations = self.acknowledged = self.files = self.unfinished = 0
        self.slowest = 0.0

    def fail(self, what):
        self.failed += 1
        print(f"FAILED  {what}", flush=True)

    def mount(self):
        start = time.monotonic()
        done = subprocess.run([self.binary, "mount", "--daemon", self.cipher, self.mountpoint], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"FAILED  mount: {done.stderr}")
        taken = time.monotonic() - start
        self.slowest = max(self.slowest, taken)
        if TRANSPORT != "auto" and self.served_by() != TRANSPORT:
            raise SystemExit(f"FAILED  the mount is served by {self.served_by()}, not {TRANSPORT}")
        return taken

    def served_by(self):
        """The transport, by the names of the daemon's threads."""
        tasks = f"/proc/{self.pid()}/task"
        threads = ""
        for task in os.listdir(tasks):
            # One may have ended meanwhile.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"{tasks}/{task}/comm", encoding="ascii") as comm:
                threads += comm.read()
        return "uring" if "kmsfs-ring" in threads else "dev" if "kmsfs-fuse" in threads else "fuser"

    def pid(self):
        with open(f"{self.cipher}/.kmsfs/lock", encoding="ascii") as lock:
            return next(int(line[4:]) for line in lock if line.startswith("pid="))

    def detach(self):
        subprocess.run(["fusermount3", "-uz", self.mountpoint], check=True)

    def unmount(self):
        subprocess.run([self.binary, "umount", self.mountpoint], check=True, stdout=subprocess.DEVNULL)

    def verify(self, when):
        done = subprocess.run([self.binary, "--json", "verify", self.cipher], capture_output=True, text=True)
        try:
            findings = json.loads(done.stdout)["findings"]
        except (ValueError, KeyError):
            return self.fail(f"{when}: verify: {done.stderr}")
        wrong = [finding for finding in findings if finding["outcome"] not in UNFINISHED]
        self.unfinished += len(findings) - len(wrong)
        if wrong:
            self.fail(f"{when}: verify: {wrong}")

    def repair(self):
        """Brings what was found to an end, unfinished first writes that is: nothing is put aside, and nothing found any more."""
        done = subprocess.run([self.binary, "repair", self.cipher, "--apply"], capture_output=True, text=True)
        # 3: it gave headers to files of which nothing is left but their size.
        if done.returncode not in (0, 3):
            return self.fail(f"repair: exit status {done.returncode}: {done.stdout}{done.stderr}")
        if "PutAside" in done.stdout:
            self.fail(f"repair puts aside what can be read: {done.stdout}")
        if "--freshness" in os.environ.get("KMSFS_INIT_FLAGS", ""):
            # The record does not know of repairs.
            subprocess.run([self.binary, "accept", self.cipher], check=True, stdout=subprocess.DEVNULL)
        done = subprocess.run([self.binary, "verify", self.cipher], capture_output=True, text=True)
        if done.returncode:
            self.fail(f"verify after a repair: exit status {done.returncode}: {done.stdout}{done.stderr}")

    def check(self, worker, seed):
        """Compares a worker's directory with what it knows; answers what is there now, all of which the backing has."""
        try:
            there = set(os.listdir(worker.top))
        except FileNotFoundError:
            there = set()
        known = next((names for names in (worker.names, worker.other) if set(names) == there), None)
        if known is None:
            ways = " nor ".join(f"+{sorted(there - set(n))} -{sorted(set(n) - there)}" for n in (worker.names, worker.other))
            self.fail(f"seed {seed}: {worker.top} differs from what it should be by {ways}")
        found = {}
        for name in sorted(there):
            try:
                with open(worker.path(name), "rb") as file:
                    data = file.read()
            except OSError as e:
                content = {**worker.other, **worker.names}.get(name, Content())
                self.fail(f"seed {seed}: {worker.path(name)} cannot be read: {e.strerror}\n    {content.told()}")
                continue
            self.files += 1
            content = (known or {}).get(name)
            refusal = content and content.refusal(data)
            if refusal:
                self.fail(f"seed {seed}: {worker.path(name)}: {refusal}\n    {content.told()}")
            # Names of one file stay names of one file.
            found[name] = content if content and content in found.values() else Content(data)
            if content:
                content.versions = [data]
                content.note("KILL")
                found[name] = content
        return found

    def round(self, number, seed, states):
        rnd = random.Random(seed)
        # Its volume is as the round before left it, mounted.
        daemon, killed = self.pid(), threading.Event()
        workers = [Worker(f"{self.mountpoint}/w{i}", names, seed * WORKERS + i, killed) for i, names in enumerate(states)]
        for worker in workers:
            os.makedirs(worker.top, exist_ok=True)
            worker.start()
        time.sleep(rnd.choice([rnd.uniform(0, 0.02), rnd.uniform(0, 0.3)]))
        killed.set()
        os.kill(daemon, signal.SIGKILL)
        for worker in workers:
            worker.join(30)
            if worker.is_alive():
                self.fail(f"seed {seed}: a call hangs though the daemon is gone")
            if worker.wrong:
                self.fail(f"seed {seed}: {worker.top}: {worker.wrong}")
        self.detach()
        failed = self.failed
        if number % VERIFY_EVERY == 0:
            self.verify(f"seed {seed}, after the kill")
        taken = self.mount()
        if taken > MOUNT_SECONDS:
            self.fail(f"seed {seed}: the mount took {taken:.1f} s")
        found = [self.check(worker, seed) for worker in workers]
        self.operations += sum(worker.done for worker in workers)
        self.acknowledged += sum(worker.acknowledged for worker in workers)
        self.passed += self.failed == failed
        return found


def main():
    binary, cipher, mountpoint, rounds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    seed = int(sys.argv[5]) if len(sys.argv) > 5 else random.randrange(1 << 30)
    print(f"{rounds} rounds from seed {seed}", flush=True)
    suite = Suite(binary, cipher, mountpoint)
    start = time.monotonic()
    suite.mount()
    states = [{} for _ in range(WORKERS)]
    for number in range(rounds):
        states = suite.round(number, seed + number, states)
        if suite.failed > 20:
            print("that is enough", flush=True)
            break
    suite.unmount()
    suite.verify("at the end")
    suite.repair()
    audit = subprocess.run([binary, "audit", "verify"], capture_output=True, text=True)
    if audit.returncode:
        suite.fail(f"audit verify: {audit.stdout}{audit.stderr}")
    suite.passed += 1
    print(f"{suite.operations} operations, {suite.acknowledged} of them acknowledged as durable, {suite.files} files compared, "
          f"{suite.unfinished} unfinished first writes, {time.monotonic() - start:.0f} s, slowest mount {suite.slowest:.2f} s")
    print(f"cases: {suite.passed} passed, {suite.failed} failed")
    return 1 if suite.failed else 0


if __name__ == "__main__":
    sys.exit(main())
