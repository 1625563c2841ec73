#!/usr/bin/env python3
"""hammer.py FILE SECONDS [SEED]: many processes work on one file at once, each on bytes of its own.

The file's region is cut into ranges of RANGE bytes, which fit neither pages nor units; range number i belongs to process i mod OWNERS. A
process writes its ranges in groups, whole or in parts, with pwrite, by a mapping, or through O_DSYNC, flushes, drops the page cache, and
reads: its own bytes must be what it wrote last, every other byte its owner's. One more process appends behind the region and cuts the file
back to it. In the end the whole region must be what the processes say. It is printed as a digest, so that a later mount can be
compared: `digest HEX`.
"""
import hashlib
import mmap
import multiprocessing
import os
import random
import sys
import time

OWNERS = 6
RANGE = 1237
RANGES = 60 * OWNERS
REGION = RANGE * RANGES


def value(owner, count):
    """The bytes of an owner are its own: three bits say whose, five which."""
    return owner << 5 | count % 31 + 1


def owner_of(byte):
    return byte >> 5


class Owner:
    def __init__(self, path, number, seed, until):
        self.number, self.random, self.until = number, random.Random(seed * 10 + number), until
        flags = os.O_RDWR | (os.O_DSYNC if number == 0 else 0)
        self.fd = os.open(path, flags)
        self.map = mmap.mmap(self.fd, REGION) if number == 1 else None
        self.mine = {i: bytes([value(number, 0)]) * RANGE for i in range(number, RANGES, OWNERS)}
        self.count = self.reads = 0

    def run(self):
        while time.monotonic() < self.until:
            pick = self.random.random()
            if pick < 0.6:
                self.write()
            elif pick < 0.9:
                self.read()
            elif pick < 0.95:
                os.fsync(self.fd)
            else:
                # What is dirty stays; the rest has to come from the daemon again.
                os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return self.mine, self.count, self.reads

    def write(self):
        i = self.random.choice(list(self.mine))
        start = self.random.randrange(RANGE)
        end = self.random.randrange(start, RANGE) + 1
        self.count += 1
        data = bytes([value(self.number, self.count)]) * (end - start)
        if self.map:
            self.map[i * RANGE + start:i * RANGE + end] = data
        else:
            assert os.pwrite(self.fd, data, i * RANGE + start) == len(data)
        old = self.mine[i]
        self.mine[i] = old[:start] + data + old[end:]

    def read(self):
        first = self.random.randrange(RANGES)
        last = min(RANGES, first + self.random.randrange(1, 20))
        found = os.pread(self.fd, (last - first) * RANGE, first * RANGE)
        assert len(found) == (last - first) * RANGE, f"{len(found)} bytes of {(last - first) * RANGE}"
        self.reads += 1
        for i in range(first, last):
            part = found[(i - first) * RANGE:(i - first + 1) * RANGE]
            owner = i % OWNERS
            if owner == self.number:
                assert part == self.mine[i], f"owner {owner}: range {i} is not what was written last"
            else:
                assert all(owner_of(byte) == owner for byte in part), f"range {i} of owner {owner} holds {set(part)}"


def append(path, seed, until):
    """Appends and cuts behind the region. Answers what is there in the end."""
    rnd = random.Random(seed)
    fd = os.open(path, os.O_RDWR)
    tail, count, reads = b"", 0, 0
    while time.monotonic() < until:
        count += 1
        if rnd.random() < 0.6 and len(tail) < 200_000:
            data = bytes([value(7, count)]) * rnd.randrange(1, 20_000)
            assert os.pwrite(fd, data, REGION + len(tail)) == len(data)
            tail += data
        elif rnd.random() < 0.7:
            keep = rnd.randrange(len(tail) + 1) if rnd.random() < 0.7 else 0
            os.ftruncate(fd, REGION + keep)
            tail = tail[:keep]
        else:
            reads += 1
            found = os.pread(fd, len(tail) + 100, REGION)
            assert found == tail, f"the tail is not what it was: {len(found)} bytes, not {len(tail)}"
    return tail, count, reads


def child(work, pipe):
    try:
        pipe.send((None, work()))
    except (OSError, AssertionError) as problem:
        pipe.send((str(problem), None))


def main():
    path, seconds = sys.argv[1], float(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1 << 30)
    print(f"seed {seed}", flush=True)
    with open(path, "wb") as file:
        file.write(b"".join(bytes([value(i % OWNERS, 0)]) * RANGE for i in range(RANGES)))
    until = time.monotonic() + seconds
    works = [lambda number=number: Owner(path, number, seed, until).run() for number in range(OWNERS)]
    works.append(lambda: append(path, seed, until))
    children = []
    for work in works:
        receive, send = multiprocessing.Pipe(False)
        process = multiprocessing.Process(target=child, args=(work, send))
        process.start()
        children.append((process, receive))
    answers = [receive.recv() for _, receive in children]
    for process, _ in children:
        process.join()
    problems = [problem for problem, _ in answers if problem]
    if problems:
        sys.exit("\n".join(problems))
    ranges = {}
    for _, (mine, _, _) in answers[:-1]:
        ranges.update(mine)
    expected = b"".join(ranges[i] for i in range(RANGES)) + answers[-1][1][0]
    with open(path, "rb") as file:
        found = file.read()
    if found != expected:
        at = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
        sys.exit(f"in the end byte {at} (range {at // RANGE}) is wrong; {len(found)} bytes, not {len(expected)}")
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    print(f"{sum(count for _, (_, count, _) in answers)} changes, {sum(reads for _, (_, _, reads) in answers)} reads")
    print(f"digest {hashlib.sha256(expected).hexdigest()}")


if __name__ == "__main__":
    main()
