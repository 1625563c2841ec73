#!/usr/bin/env python3
"""Programs that use files of a mount with key-state=strict while strict.sh takes their key away.

strict.py write FILE NOTES   writes and fsyncs block after block; notes what is durable, and every error
strict.py map FILE NOTES     writes through a shared mapping, without msync; notes what was written
strict.py check FILE NOTES   compares FILE with what `write` or `map` noted

As fast as they can, each page or block with the number of the write that filled it:
strict.py stream FILE NOTES MIB      write(2) over MIB again and again, without fsync
strict.py flood FILE NOTES MIB       the same through a shared mapping
strict.py hold DIR NOTES COUNT       makes COUNT files, keeps them open, and reads and writes one after the other
strict.py check-load FILE NOTES MIB  compares FILE with what `stream` or `flood` noted, or `hold`'s COUNT files
"""
import errno
import mmap
import os
import sys
import time

BLOCK = 4096


def note(notes, text):
    os.write(notes, (text + "\n").encode())


def block(number):
    return number.to_bytes(8, "little") * (BLOCK // 8)


def write(path, notes):
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    number = 0
    while True:
        try:
            os.pwrite(file, block(number + 1), number * BLOCK)
            os.fsync(file)
            assert os.pread(file, 8, number * BLOCK) == block(number + 1)[:8]
            number += 1
            note(notes, f"durable {number} {time.time()}")
        except OSError as error:
            note(notes, f"error {errno.errorcode[error.errno]} {time.time()}")
            time.sleep(0.05)


def map_(path, notes):
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(file, BLOCK)
    memory = mmap.mmap(file, BLOCK)
    number = 0
    while True:  # until the mapping fails with SIGBUS
        number += 1
        memory[:8] = number.to_bytes(8, "little")
        note(notes, f"mapped {number} {time.time()}")
        time.sleep(0.001)


MIB = 1 << 20


def stream(path, notes, mib):
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    number = 0
    while True:
        number += 1
        try:
            os.pwrite(file, number.to_bytes(8, "little") * (MIB // 8), number % mib * MIB)
        except OSError as error:
            return note(notes, f"through {number - 1}\nerror {errno.errorcode[error.errno]} {time.time()}")
        if number % mib == 0:
            note(notes, f"through {number}")


def flood(path, notes, mib):
    pages = mib * MIB // BLOCK
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(file, pages * BLOCK)
    memory = mmap.mmap(file, pages * BLOCK)
    number = 0
    while True:  # until the mapping fails with SIGBUS
        number += 1
        at = number % pages * BLOCK
        memory[at:at + 8] = number.to_bytes(8, "little")
        if number % 4096 == 0:
            note(notes, f"through {number}")


def hold(path, notes, count):
    os.makedirs(path, exist_ok=True)
    files = [os.open(f"{path}/{i}", os.O_RDWR | os.O_CREAT, 0o600) for i in range(count)]
    number = 0
    while True:
        number += 1
        try:
            os.pwrite(files[number % count], block(number) * 16, 0)
            if number > count:
                before = (number + 1) % count
                assert int.from_bytes(os.pread(files[before], 8, 0), "little") % count == before
        except OSError as error:
            return note(notes, f"through {number - 1}\nerror {errno.errorcode[error.errno]} {time.time()}")
        if number % count == 0:
            note(notes, f"through {number}")


def check_load(path, notes, size):
    lines = [line.split() for line in open(notes)]
    through = max(int(number) for what, number, *_ in lines if what == "through")
    errors = {name for what, name, *_ in lines if what == "error"}
    assert errors <= {"EACCES"}, errors

    def first(place, count):
        """The number of the last write to a place that is known of."""
        return through - (through - place) % count

    if os.path.isdir(path):
        for i in range(size):
            with open(f"{path}/{i}", "rb") as file:
                found = int.from_bytes(file.read(8), "little")
            assert found >= first(i, size) and found % size == i, (i, found, through)
        return
    with open(path, "rb") as file:
        file.seek(BLOCK)
        # A stream fills its blocks, a mapping only the front of a page.
        step = MIB if file.read(16)[8:] != bytes(8) else BLOCK
        places = size * MIB // step
        for place in range(places):
            file.seek(place * step)
            found = int.from_bytes(file.read(8), "little")
            wanted = first(place, places)
            assert found >= wanted and (wanted <= 0 or found % places == place), (place, found, through)


def check(path, notes):
    lines = [line.split() for line in open(notes)]
    durable = [int(number) for what, number, *_ in lines if what == "durable"]
    mapped = [int(number) for what, number, *_ in lines if what == "mapped"]
    errors = {name for what, name, *_ in lines if what == "error"}
    assert errors <= {"EACCES"}, errors
    assert durable or mapped
    data = open(path, "rb").read()
    for number in range(1, max(durable, default=0) + 1):
        assert data[(number - 1) * BLOCK:number * BLOCK] == block(number), number
    if mapped:
        found = int.from_bytes(data[:8], "little")
        # The last note may be missing: the signal can come between the two.
        assert found >= mapped[-1], (found, mapped[-1])
    print(f"{len(durable)} durable blocks, {len(mapped)} mapped writes, {sum(what == 'error' for what, *_ in lines)} refusals")


path, notes, *size = sys.argv[2:]
size = [int(number) for number in size]
if sys.argv[1] in ("check", "check-load"):
    {"check": check, "check-load": check_load}[sys.argv[1]](path, notes, *size)
else:
    notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    {"write": write, "map": map_, "stream": stream, "flood": flood, "hold": hold}[sys.argv[1]](path, notes, *size)
